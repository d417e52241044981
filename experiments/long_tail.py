"""The long tail: the parts of TRCGL-Net, added one at a time, and generated images against repeated real ones.

    python experiments/long_tail.py                                       # on the phantom made long-tailed
    python experiments/long_tail.py --data images.npz --table table.csv   # on real images, five patient folds
    python experiments/long_tail.py --variants base '+ loss and sampler' 'tail repeated' '+ generated' --jobs 2

Training labels are thinned until the most frequent label has `--ratio` times the positives of the rarest; validation
and test parts keep theirs. The tail are the labels below `--tail` of the training images. Every variant gets the same
number of optimiser steps, a sixth of them with a frozen backbone. `+ generated` adds images of the package's small
diffusion model, which has seen phantoms that the training part has not; for real images it is first taught those of
the training part, `--teach` steps (64 px). `tail repeated` draws the real images that these were made after, as often.
One row per run in `--out`, a table per size beside it.
"""
import time
from dataclasses import replace
from pathlib import Path
import numpy as np
import pandas as pd
from common import build_method, build_parser, compare_paired, count_cells, format_difference, format_markdown
from common import run_experiment, select_runs, split_parts, test_to_train

SCORES = ('auroc', 'ap', 'f1', 'tail_auroc', 'tail_ap', 'tail_f1')
RIVALS = [
    ('+ loss and sampler', '+ generated'), ('+ loss and sampler', 'tail repeated'), ('tail repeated', '+ generated')]
LADDER = ('base', '+ channel gate', '+ class attention', '+ label graph', '+ loss and sampler')
ONE_CELL = ('† The feature map of these runs is one cell, on which attention is all ones: this row says nothing about '
            'attention, and the variants after it add a second score of the same features in its place.')


def list_variants():
    "The ladder of the method's page, then the rivals of its last step."
    from cxr_workbench.methods import trcgl
    ladder = {name: trcgl.LADDER[name] for name in LADDER}
    return {**ladder, '+ generated': {}, 'tail repeated': {}, 'base, sampler': {**ladder['base'], 'repeat': True}}


def thin_labels(train, o, fold):
    "The training part with a long tail; rows that were set aside are left out."
    from cxr_workbench.labels import long_tail
    thinned = long_tail(train.y.numpy(), ratio=o.ratio, seed=fold, known=train.known.numpy())
    train = train.with_labels(*thinned)
    return train.subset(np.flatnonzero(train.known.any(1).numpy()))


def find_tail(train, o):
    "Which labels are rare, (C,) bool."
    from cxr_workbench.labels import frequency_groups
    bounds = dict(head=max(.05, o.tail), tail=o.tail)
    groups = frequency_groups(train.y.numpy(), train.known.numpy(), names=train.label_names, **bounds)
    return np.array([groups[name] == 'tail' for name in train.label_names])


def make_requests(train, tail, seed):
    "Rows of the tail with all their labels, as often as brings each tail label to three times its count."
    from cxr_workbench.methods.trcgl_requests import tail_requests
    return tail_requests(train, [name for name, rare in zip(train.label_names, tail) if rare], seed=seed)


def add_generated(train, tail, o, seed):
    "The training part and images made after its rows of the tail, judged by a classifier that is no part of the run."
    from cxr_workbench.methods.trcgl_requests import append_generated, generate
    folder = o.out.parent/'generated'/f'{Path(o.data).stem}-{seed}-ratio-{o.ratio:g}'   # kept: not drawn again
    prepare = open_packaged if o.data == 'phantom' else teach_generator
    model, judge = prepare(train, tail, o, seed, folder/'model')
    requests = make_requests(train, tail, seed)
    generate(model, requests, folder, judge, tries=2, batch_size=32, seed=seed, steps=20)
    return append_generated(train, folder), compare_pairs(model, judge, train, tail)


def open_generator(folder, o):
    from cxr_workbench.methods.trcgl_diffusion import PromptLatentDiffusion
    return PromptLatentDiffusion.from_pretrained(folder, device=o.device if o.device != 'auto' else None)


def open_packaged(train, tail, o, seed, folder):
    "The package's generator, which has seen other phantoms, and its referee."
    from cxr_workbench.learner import find_model, load
    from cxr_workbench.methods.trcgl_diffusion import find_packaged
    from cxr_workbench.methods.trcgl_requests import remove_prior
    return open_generator(find_packaged(), o), remove_prior(load(find_model('referee')))


def teach_generator(train, tail, o, seed, folder):
    "The package's generator, taught the images and labels of this part, and a supervised classifier of the same rows."
    from cxr_workbench.learner import fit
    from cxr_workbench.methods.trcgl_requests import remove_prior
    if not (folder/'prompt.safetensors').exists(): train_generator(train, tail, o, seed).save(folder)
    judge = build_method(o, 'supervised', train, preset=o.preset)
    fit(judge, train, epochs=12, batch_size=o.batch_size, seed=seed + 1, device=o.device, progress=False)
    return open_generator(folder, o), remove_prior(judge)


def train_generator(train, tail, o, seed):
    "The package's autoencoder and denoiser with a new text encoder, trained on this part."
    import torch
    from cxr_workbench.methods import trcgl_diffusion as td
    packaged = td.PromptLatentDiffusion.from_pretrained(td.find_packaged(), device='cpu')
    fresh = td.build_small_parts(train.label_names, seed=seed)
    known = dict(vae=packaged.vae, unet=packaged.unet, scheduler=packaged.scheduler)
    model = td.PromptLatentDiffusion(**{**fresh, **known}, seed=seed)
    for net in (model.vae, model.unet): net.to(memory_format=torch.channels_last)
    pixels, texts = train.batch(range(len(train))).x, write_sentences(train)
    td.train_autoencoder(model.vae, pixels, steps=o.teach//2, lr=1e-3, seed=seed)
    z = torch.cat([model.to_latents(x) for x in pixels.split(200)])
    td.train_base(model, z, texts, steps=o.teach, lr=1e-3, seed=seed)
    rare = np.flatnonzero((train.y[:, tail] > 0).any(1))
    td.train_prompt(model, z[rare], [texts[i] for i in rare], steps=o.teach//10, seed=seed)
    return model


def write_sentences(data, without=None):
    "One sentence for every row, a label left out where it is named."
    from cxr_workbench.methods.trcgl_diffusion import write_sentence
    def name_present(row): return [name for name, y in zip(data.label_names, row) if y and name != without]
    return [write_sentence(name_present(row)) for row in data.y.tolist()]


def compare_pairs(model, judge, train, tail, n=20):
    """Share of pairs in which the judge gives the image with a tail label in its sentence more than the one without,
    from the same noise; mean over the tail."""
    found = []
    for c in np.flatnonzero(tail):
        rows = train.subset(np.flatnonzero(train.y[:, c].numpy() == 1)[:n])
        def score(without): return judge(model.sample(write_sentences(rows, without), steps=20, seeds=range(len(rows))))
        p, q = (score(without)[:, c] for without in (None, train.label_names[c]))
        found.append(float((p > q).float().mean()))
    return float(np.mean(found))


def add_repeats(train, tail, o, seed):
    "The training part, and the real rows that generated ones would copy, as often."
    again = make_requests(train, tail, seed).source.to_numpy()
    return train.subset(np.concatenate([np.arange(len(train)), again])), None


MORE = {'+ generated': add_generated, 'tail repeated': add_repeats}   # what is added to the training part


def plan_steps(method, steps):
    "The recipe with exactly so many steps, a sixth of them in the first stage."
    stages, first = method.recipe(), round(steps/6)
    lengths = [first, steps - first] if len(stages) == 2 else [steps]
    plan = [replace(stage, epochs=1, steps=n) for stage, n in zip(stages, lengths)]
    method.recipe = lambda: plan
    return method


def score_part(method, part, tail):
    "Means over all labels and over the tail."
    from cxr_workbench.learner import predict
    from cxr_workbench.metrics import auroc, average_precision, f1
    table = predict(method, part, batch_size=256)
    p, y, known = table[list(part.label_names)].to_numpy(), part.y.numpy(), part.known.numpy()
    values = dict(
        auroc=auroc(p, y, known), ap=average_precision(p, y, known), f1=f1(p, y, known=known, threshold=.2))
    whole = {k: float(np.nanmean(v)) for k, v in values.items()}
    return whole | {f'tail_{k}': float(np.nanmean(np.asarray(v)[tail])) for k, v in values.items()}


def train_on_tail(o, job):
    "One run from its key and its method's arguments; gives the row."
    from cxr_workbench.core import seed_all
    from cxr_workbench.learner import fit
    key = job['key']
    train, valid, test = split_parts(o, key['fold'])
    train = thin_labels(train, o, key['fold'])
    tail, seed = find_tail(train, o), 1000*key['fold'] + key['draw']
    pairs = None
    if key['variant'] in MORE: train, pairs = MORE[key['variant']](train, tail, o, seed)
    seed_all(seed)
    arguments = dict(repeat=dict(threshold=o.rare)) | job['arguments']
    if arguments['repeat'] is True: arguments['repeat'] = dict(threshold=o.rare)
    method = plan_steps(build_method(o, 'trcgl', train, preset=o.preset, **arguments), key['steps'])
    start = time.time()
    history = fit(method, train, batch_size=o.batch_size, seed=seed, device=o.device, progress=False)
    seconds = round(time.time() - start, 1)
    found = {f'valid_{k}': v for k, v in score_part(method, valid, tail).items()} | score_part(method, test, tail)
    generated = 0 if train.synthetic is None else int(train.synthetic.sum())
    steps_done = int(history.groupby('stage')['step'].max().sum())
    return {**key, **found, 'steps_done': steps_done, 'rows': len(train), 'made': generated,
            'tail': int(tail.sum()), 'pairs': pairs, 'seconds': seconds}


def format_tables(o, frame, jobs):
    "Means, paired differences to the base, and one part at a time, as Markdown."
    frame, ratio = select_runs(frame, jobs), test_to_train(o)
    order = [v for v in dict.fromkeys(job['key']['variant'] for job in jobs) if v in set(frame['variant'])]
    blind = '+ class attention' in order and count_cells(o) < 2
    mark = lambda v: ' †' if blind and v == '+ class attention' else ''
    def average(v):
        mine = frame[frame['variant'] == v]
        scores = {k: round(mine[k].mean(), 4) for k in SCORES}
        return dict(variant=v + mark(v), runs=len(mine), **scores)
    def compare(pairs):
        difference = lambda a, b: {k: format_difference(compare_paired(frame, b, a, k, ratio)) for k in SCORES}
        lines = [dict(step=f'{b} against {a}{mark(b)}', **difference(a, b)) for a, b in pairs]
        return format_markdown(pd.DataFrame(lines))
    ladder = [v for v in order if v in LADDER]
    one_by_one = [*zip(ladder, ladder[1:]), *(pair for pair in RIVALS if set(pair) <= set(order))]
    where, tail = o.data if o.data == 'phantom' else 'real images', int(frame['tail'].median())
    data = f'### {where}, ratio {o.ratio:g}, {tail} tail labels, folds {o.folds}'
    text = [f'{data}, {o.steps} steps, {o.size} px, {o.backbone}', format_markdown(pd.DataFrame(map(average, order)))]
    text += ['**Against the base**', compare([(order[0], v) for v in order[1:]])]
    if one_by_one: text += ['**One part at a time**', compare(one_by_one)]
    return '\n\n'.join([*text, *describe_generated(o, frame), *([ONE_CELL] if blind else [])])


def describe_generated(o, frame):
    "A sentence on the generated images of the runs, where there are any."
    drawn = frame[frame['made'] > 0]
    if 'pairs' not in drawn or not drawn['pairs'].notna().any(): return []
    taught = '' if o.data == 'phantom' else f'; the generator was taught for {o.teach} steps'
    return [
        f"{drawn['made'].mean():.0f} generated images a run; with the tail label in the sentence "
        f"the judge gives more than without it in {drawn['pairs'].mean():.0%} of the pairs{taught}"]


def list_jobs(o):
    "Every run of the experiment, with its key."
    table = list_variants()
    chosen = o.variants or [v for v in table if o.size == 64 or v != '+ generated']
    if '+ generated' in chosen and o.size != 64:
        raise SystemExit('the generator draws 64 pixels: --size 64, or leave out "+ generated"')
    if strange := [v for v in chosen if v not in table]:
        raise SystemExit(f'no variant {strange}: there are {list(table)}')
    common = dict(draw=0, regime=f'tail, ratio {o.ratio:g}', fraction=1.)
    def make_key(fold, v): return dict(data=o.data, fold=fold, **common, variant=v, steps=o.steps)
    return [dict(key=make_key(fold, v), method='trcgl', arguments=table[v]) for fold in o.folds for v in chosen]


def main(command=None):
    p = build_parser(__doc__, 'long_tail')
    p.add_argument('--ratio', type=float, default=50.,
                   help='positives of the most frequent label over those of the rarest, in training')
    p.add_argument('--tail', type=float, default=.03,
                   help='labels on less than this share of the training images are the tail')
    p.add_argument('--rare', type=float, default=.1,
                   help='threshold of the repeats; the 0.01 of the paper repeats nothing in so small a table')
    p.add_argument('--preset', default='tiny', help="the method's setting: 'tiny' or 'maps'")
    p.add_argument('--teach', type=int, default=3000, help='steps in which the generator is taught real images')
    o = p.parse_args(command)
    run_experiment(o, list_jobs, format_tables, train_on_tail, str(o.size))


if __name__ == '__main__': main()
