"""Where labels look and how they relate: the parts of LCC and of CAN, added one at a time.

    python experiments/correlations.py lcc                       on the phantom, three seeds
    python experiments/correlations.py can --folds 0 1 2 --steps 360
    python experiments/correlations.py lcc --data images.npz --table table.csv --jobs 2
                                                                 on real images, five patient folds

Every variant gets the same number of optimiser steps, the same batches and the same augmentation; for CAN one branch
also gets twice the steps, which is the compute of two branches. Beside the scores a run measures where its maps have
their maximum (pointing game on the phantom's lesions: the method's own attention, and Grad-CAM of every variant) and
how its learned correlation ranks the pairs of labels (Spearman, against the training labels and against what the
phantom declares). One row per run in `--out`, tables beside it.
"""
import time
import numpy as np
import pandas as pd
from common import build_method, build_parser, compare_paired, count_epochs, fold_interval, format_difference
from common import format_markdown, measure_scores, run_experiment, select_runs, split_parts, summarise_variants
from common import test_to_train


def list_lcc_variants():
    "The ladder of the method's own page, the contrast as it was before, and two switches."
    from cxr_workbench.methods.lcc import LADDER
    before = dict(weights=dict(contrast=.1))
    return {
        **LADDER,
        '+ contrast, unguided': dict(before, contrast=dict(negatives='present'), guided=False),
        '+ contrast, guided': dict(before, contrast=dict(negatives='present', guide='linear')),
        'consistency with the labels': dict(consistency=dict(kind='dice'), weights=dict(contrast=0.)),
        'base, plain BCE': dict(decompose=False, loss='plain')}


def list_can_variants():
    "One branch, two branches, their product, and the two losses; of the attention loss two readings."
    bce = dict(loss_settings=dict(scheme=None, gamma=0.))
    no_agreement = dict(weights=dict(attention=0.))
    return {
        'one branch, BCE': dict(fuse='single', **bce),
        'one branch, twice the steps': dict(fuse='single', **bce),
        'concatenation': dict(fuse='concat', **bce, **no_agreement),
        'product': dict(**bce, **no_agreement),
        '+ balance': no_agreement,
        '+ attention loss': {},
        '+ attention loss, maps as they are': dict(compare='maps'),
        'one branch, balance': dict(fuse='single')}


VARIANTS = {'lcc': list_lcc_variants, 'can': list_can_variants}
DOUBLE = {'one branch, twice the steps'}   # variants with twice the optimiser steps


def measure_macro_f1(method, part):
    "Macro F1 at a threshold of one half."
    from cxr_workbench.learner import predict
    from cxr_workbench.metrics import f1
    p = predict(method, part, batch_size=256)[list(part.label_names)].to_numpy()
    return float(np.nanmean(f1(p, part.y.numpy(), known=part.known.numpy())))


def compute_label_cams(method, x):
    "Grad-CAM of every label at the method's first target: (B, 1, H, W) -> (B, C, h, w)."
    import torch
    maps, target = [], next(iter(method.cam_targets().values()))
    hook = target.register_forward_hook(lambda module, given, out: maps.append(out))
    logits = method(x)
    hook.remove()
    cams = []
    for c in range(logits.shape[1]):
        grad, = torch.autograd.grad(logits[:, c].sum(), maps[0], retain_graph=True)
        cams.append((grad.mean((2, 3), keepdim=True)*maps[0]).sum(1).clamp(min=0))
    return torch.stack(cams, 1).detach()


def find_device(method): return next(method.parameters()).device


def measure_pointing(method, fold, size, n=300):
    "Shares of lesions that are hit by the method's attention, by Grad-CAM, and by chance, on the phantom's test part."
    import torch
    from cxr_workbench.data import from_phantom
    from cxr_workbench.metrics import pointing_game
    from cxr_workbench.phantom import SyntheticCXR
    phantom = SyntheticCXR(n, size=size, seed=200+fold)
    x = from_phantom(phantom).batch(range(n)).x.to(find_device(method))
    masks = np.stack([phantom.mask(i) for i in range(n)])
    with torch.no_grad(): probes = method.eval().look(x)[1]
    mean = lambda maps: float(np.nanmean(pointing_game(maps.cpu(), masks)))
    hits = mean(probes['attention']) if 'attention' in probes else np.nan
    there = masks.any((2, 3))
    return dict(hits=hits, cam_hits=mean(compute_label_cams(method, x)), chance=float(masks[there].mean()))


def rank_pairs(method, train, declared=None):
    "Spearman correlation over label pairs of the learned correlation with the counted and the declared one."
    import torch
    from scipy.stats import spearmanr
    from cxr_workbench.labels import correlation
    x = train.batch([0]).x.to(find_device(method))
    with torch.no_grad(): probes = method.eval().look(x)[1]
    if 'others_correlation' not in probes: return dict(counted=np.nan, declared=np.nan)
    G = probes['others_correlation'].cpu().numpy()
    pairs, learned = np.triu_indices(len(G), 1), (G + G.T)/2
    def rank(truth):
        if truth is None: return np.nan
        fine = np.isfinite(truth[pairs])
        return float(spearmanr(learned[pairs][fine], truth[pairs][fine]).statistic)
    counted = correlation(train.y.numpy(), train.known.numpy())
    return dict(counted=rank(counted), declared=rank(declared))


def run_on_parts(o, job, split):
    "One run on given parts; gives the row."
    from cxr_workbench.core import seed_all
    from cxr_workbench.learner import fit
    key, (train, valid, test) = job['key'], split
    seed = 1000*key['fold'] + key['draw']
    seed_all(seed)
    method = build_method(o, job['method'], train, preset=o.preset, **job['arguments'])
    start = time.time()
    history = fit(method, train, batch_size=o.batch_size, seed=seed, device=o.device, progress=False,
                  epochs=count_epochs(method.recipe()[0], train, o, key['steps'])[0])
    seconds, (va, vp), (ta, tp) = time.time()-start, measure_scores(method, valid), measure_scores(method, test)
    phantom, places = o.data == 'phantom', dict(hits=np.nan, cam_hits=np.nan, chance=np.nan)
    if phantom: places = measure_pointing(method, key['fold'], o.size)
    related = rank_pairs(method, train, declared_correlation() if phantom else None)
    scores = dict(valid_auroc=va, valid_ap=vp, auroc=ta, ap=tp, f1=measure_macro_f1(method, test))
    done = int(history['step'].iloc[-1])
    return dict(key, **scores, **places, **related, steps_done=done, rows=len(train), seconds=round(seconds, 1))


def declared_correlation():
    "The correlation of the binary labels that the phantom declares, (C, C), NaN where it says nothing."
    from cxr_workbench.phantom import SyntheticCXR
    return SyntheticCXR(1).true_corr


def run_job(o, job): return run_on_parts(o, job, split_parts(o, job['key']['fold']))


def list_jobs(o):
    "Every run of the experiment, with its key; the method's name is the regime."
    table = VARIANTS[o.method]()
    for name in o.variants or table:
        if name not in table: raise SystemExit(f'{o.method} has no variant {name!r}: there are {list(table)}')
    def make_key(fold, variant):
        steps = o.steps*(2 if variant in DOUBLE else 1)
        return dict(data=o.data, fold=fold, draw=0, regime=o.method, fraction=1., variant=variant, steps=steps)
    runs = [(fold, variant) for fold in o.folds for variant in o.variants or table]
    return [dict(key=make_key(fold, v), method=o.method, arguments=table[v]) for fold, v in runs]


def format_interval(values, ratio):
    "Mean over folds and its interval as text; empty where there is nothing."
    values = np.asarray(values, float)[np.isfinite(values)]
    return '' if not len(values) else '{:+.3f} [{:+.3f}, {:+.3f}]'.format(*fold_interval(values, ratio))


def summarise_maps(frame, order, baseline, ratio):
    "One line per variant: hits of its maps against chance and against the baseline's Grad-CAM, and its ranks."
    cam = frame[frame['variant'] == baseline].set_index('fold')['cam_hits']
    lines = []
    for variant in [v for v in order if v in set(frame['variant'])]:
        mine = frame[frame['variant'] == variant].set_index('fold')
        columns = {
            'attention - chance': mine['hits'] - mine['chance'],
            'attention - Grad-CAM of the baseline': mine['hits'] - cam.reindex(mine.index),
            'Grad-CAM - chance': mine['cam_hits'] - mine['chance'],
            'Spearman, counted': mine['counted'], 'Spearman, declared': mine['declared']}
        lines.append({'variant': variant} | {name: format_interval(values, ratio) for name, values in columns.items()})
    return pd.DataFrame(lines)


def format_tables(o, frame, jobs):
    "The Markdown of what is there: scores, steps one at a time, maps and correlations."
    frame = select_runs(frame, jobs)
    chosen, ratio = dict.fromkeys(job['key']['variant'] for job in jobs), test_to_train(o)
    order = [v for v in chosen if v in set(frame['variant'])]
    lines = summarise_variants(frame, order[0], None, order, ratio)
    lines = lines.drop(columns=['gap closed (auroc)', 'gap closed (ap)'])
    whole = [(a, b) for a in DOUBLE for b in ('product', '+ attention loss') if {a, b} <= set(order)]
    readings = ('+ balance', '+ attention loss, maps as they are')
    if set(readings) <= set(order): whole.append(readings)
    def compare(a, b):
        found = {v: compare_paired(frame, b, a, v, ratio) for v in ('auroc', 'ap', 'f1')}
        return {v: format_difference(d) for v, d in found.items()}
    steps = [dict(step=f'{b} against {a}', **compare(a, b)) for a, b in [*zip(order, order[1:]), *whole]]
    where = o.data if o.data == 'phantom' else 'real images'
    title = f'### {o.method}, {where}, folds {o.folds}, {o.steps} steps, {o.size} px, {o.backbone}'
    text = [title, format_markdown(lines)]
    if steps: text += ['**One part at a time**', format_markdown(pd.DataFrame(steps))]
    text += ['**Maps and correlations**', format_markdown(summarise_maps(frame, order, order[0], ratio))]
    return '\n\n'.join(text)


def main(command=None):
    p = build_parser(__doc__, 'correlations')
    p.add_argument('--preset', default='maps', help="the method's setting: 'maps' leaves at least 8 x 8 cells, "
                                                    "'tiny' the native map and a third of the time")
    p.add_argument('method', choices=list(VARIANTS))
    o = p.parse_args(command)
    run_experiment(o, list_jobs, format_tables, run_job, o.method)


if __name__ == '__main__': main()
