"""What the methods bring to a network that was trained on photographs: real images, patient folds, few labels.

    python scripts/imagenet_weights.py
    cxr-workbench pack table.csv pack96 --size 96 --path file
    python experiments/pretrained.py preflight --data table.csv --path file --packed pack96 --size 96
    python experiments/pretrained.py ends --data table.csv --path file --packed pack96 --size 96
    python experiments/pretrained.py fraction --data table.csv --path file --packed pack96 --size 96
    python experiments/pretrained.py single-positive --data table.csv --path file --packed pack96 --size 96
    python experiments/pretrained.py full --data table.csv --path file --packed pack96 --size 96

`preflight` asks whether training works at all: 32 images are learned by heart, labels stand in the columns of their
names, and a linear probe of the features as they come ranks held-out images better than one of shuffled labels.
`ends` trains the baseline with few labels and with all, so that the room between them is known before anything is
claimed. Every variant gets the same number of optimiser steps, the same start and the same frozen stages; the training
labels are reduced, validation and test labels are whole. `--lr` is chosen on the validation part of `ends`.

`full` is about the methods that need all labels: LCC against a label decoder, CAN with two pretrained networks against
one that gets the compute of both, TRCGL-Net against its base. Its rows have scores of the tail too: the labels on less
than `--tail` of the training images, six of the 14 in the NIH subset; nothing is thinned (`long_tail.py` does that).
Its runs take `--steps` steps exactly, one branch at equal compute twice as many.
"""
import time
from pathlib import Path
import numpy as np
import pandas as pd
from common import build_method, build_parser, compare_steps, format_markdown, run_experiment, select_runs
from common import split_parts, summarise_scores, summarise_variants, test_to_train, train_and_score
from long_tail import SCORES, find_tail, plan_steps, score_part

NONE = dict(image=0., feature=0., batch=0.)     # no consistency term
ONLY_IMAGE = dict(feature=0., batch=0.)
NO_IMAGE = dict(image=0.)
STRICT = dict(thresholds=dict(name='prior', strict=True))   # what the prevalence allows and fixed thresholds trust too
BCE = dict(loss_settings=dict(scheme=None, gamma=0.))   # of CAN: the loss of the baseline
DOUBLE = {'one branch at equal compute'}                # variants with twice the optimiser steps


def list_recipe(o):
    "The recipe of every variant."
    return dict(lr=o.lr, backbone_lr=None, weight_decay=.05, optimizer='AdamW', schedule='one_cycle', ema=None,
                frozen_stages=o.frozen, pretrained=o.weights or False)


def list_fraction_variants(o):
    "Variants of the labelled fraction: method and its arguments; thresholds of ACAA are fixed where nothing is said."
    recipe = list_recipe(o)
    def acaa(trust='fixed', **kw): return 'acaa', dict(recipe, mixer=dict(inner=64), trust=trust, **kw)
    return {
        'baseline': ('supervised', recipe),
        'ACAA': acaa(),
        'ACAA, eps 1/255': acaa(attack=dict(eps=1/255)),
        'ACAA, eps 0': acaa(attack=dict(eps=0.)),
        'ACAA, eps by the loss it adds': acaa(attack=dict(eps='auto')),
        'ACAA, no image attack': acaa(weights=NO_IMAGE),
        'ACAA, image only': acaa(weights=ONLY_IMAGE),
        'ACAA, image only, eps 1/255': acaa(weights=ONLY_IMAGE, attack=dict(eps=1/255)),
        'ACAA, strong view, no attack, image only': acaa(weights=ONLY_IMAGE, adv_on='strong', attack=None),
        'ACAA, no image attack, aligned': acaa(weights=NO_IMAGE, trust=dict(align=True)),
        'ACAA, no image attack, aligned and soft': acaa(weights=NO_IMAGE, trust=dict(align=True, soft=1.)),
        'ACAA, no image attack, prior thresholds': acaa(weights=NO_IMAGE, trust='prior'),
        'ACAA, no image attack, strict thresholds': acaa(weights=NO_IMAGE, trust=STRICT),
        'ACAA, prior thresholds': acaa(trust='prior'),
        'ACAA, strict thresholds': acaa(trust=STRICT),
        'ACAA, strict thresholds, ramp over all': acaa(trust=STRICT, ramp=1.),
        'ACAA, prior thresholds, eps 1/255': acaa(trust='prior', attack=dict(eps=1/255)),
        'ACAA, prior thresholds, eps 0': acaa(trust='prior', attack=dict(eps=0.)),
        'ACAA, prior thresholds, own statistics': acaa(trust='prior', attack=dict(statistics='own')),
        'ACAA, prior thresholds, strong view': acaa(trust='prior', adv_on='strong', attack=None),
        'ACAA, strong view, aligned': acaa(
            weights=ONLY_IMAGE, adv_on='strong', attack=None, trust=dict(align=True)),
    }


def list_single_positive_variants(o):
    "Variants of one positive label per image: method and its arguments."
    recipe = list_recipe(o)
    def mpc(**kw): return 'mpc', dict(recipe, **kw)
    def rival(loss): return 'supervised', dict(recipe, loss=loss, unknown='negative')
    return {
        'AN': mpc(loss='an', weights=NONE),
        'WAN': mpc(loss='wan', weights=NONE),
        'LL-R': rival('ll_r'),
        'MPC': mpc(),
        'MPC, tau_neg .2': mpc(tau_neg=.2),
        'MPC, aligned': mpc(tau_neg=.2, trust=dict(align=True)),
        'MPC, prior thresholds': mpc(trust='prior'),
    }


def list_lcc_variants(recipe):
    "LCC, one part taken away at a time, with the augmentation of the baseline; and the head that it has to beat."
    def lcc(**kw): return 'lcc', dict(recipe, weak=True, **kw)
    no_contrast = dict(weights=dict(contrast=0.))
    return {
        'label decoder': ('supervised', dict(recipe, head='decoder')),
        'LCC, label features only': lcc(attention=False, **no_contrast),
        'LCC, no contrast': lcc(**no_contrast),
        'LCC': lcc()}


def list_can_variants(recipe, other):
    "CAN with a second pretrained network from the file `other`; one branch has the file of the baseline."
    two = dict(branch_b=other and Path(other).stem, pretrained=[recipe['pretrained'], other] if other else False)
    def can(**kw): return 'can', dict(recipe, **two, **kw)
    def single(**kw): return 'can', dict(recipe, fuse='single', **kw)
    return {
        'one branch at equal compute': single(**BCE),
        'CAN, balance loss only': single(),
        'CAN, no attention loss': can(weights=dict(attention=0.)),
        'CAN, product, cross-entropy': can(weights=dict(attention=0.), **BCE),
        'CAN, gate, cross-entropy': can(fuse='gate', weights=dict(attention=0.), **BCE),
        'CAN, sum, cross-entropy': can(fuse='sum', weights=dict(attention=0.), **BCE),
        'CAN, attention weight .3, cross-entropy': can(weights=dict(attention=.3), **BCE),
        'CAN, cross-entropy': can(**BCE),
        'CAN, attention weight .3': can(weights=dict(attention=.3)),
        'CAN': can()}


def list_trcgl_variants(recipe, rare):
    "TRCGL-Net, its base, and the base with loss and sampler alone; two stages, every rate that of the baseline."
    names = ('ema', 'pretrained', 'frozen_stages')
    pairs = dict(lr=(recipe['lr'],)*2, backbone_lr=recipe['lr'], weight_decay=(recipe['weight_decay'],)*2)
    own = dict({name: recipe[name] for name in names}, **pairs, drop_path=0.)
    def trcgl(repeat=True, **kw): return 'trcgl', dict(own, repeat=repeat and dict(threshold=rare), **kw)
    plain = dict(attention=False, graph=False)
    return {
        'TRCGL base': trcgl(loss='bce', repeat=False, **plain),
        'TRCGL base, loss and sampler': trcgl(**plain),
        'TRCGL-Net': trcgl()}


def list_full_variants(o):
    "Variants of the methods that need all labels: method and its arguments."
    recipe, other = list_recipe(o), o.weights_b if o.weights else None
    return {
        'baseline': ('supervised', recipe), **list_lcc_variants(recipe), **list_can_variants(recipe, other),
        **list_trcgl_variants(recipe, o.rare)}


TABLES = {'ends': list_fraction_variants, 'fraction': list_fraction_variants,
          'single-positive': list_single_positive_variants, 'full': list_full_variants}
CHOSEN = {'ends': ['baseline'], 'fraction': ['baseline', 'ACAA', 'ACAA, eps 1/255', 'ACAA, no image attack'],
          'single-positive': ['AN', 'LL-R', 'MPC', 'MPC, tau_neg .2']}
PAIRS = [   # of `full`: what is compared with what, beside the baseline
    ('label decoder', 'LCC'), ('LCC, label features only', 'LCC, no contrast'), ('LCC, no contrast', 'LCC'),
    ('one branch at equal compute', 'CAN, no attention loss'), ('one branch at equal compute', 'CAN'),
    ('one branch at equal compute', 'CAN, attention weight .3'),
    ('one branch at equal compute', 'CAN, sum, cross-entropy'), ('one branch at equal compute', 'CAN, cross-entropy'),
    ('CAN, sum, cross-entropy', 'CAN, product, cross-entropy'), ('CAN, sum, cross-entropy', 'CAN, gate, cross-entropy'),
    ('CAN, product, cross-entropy', 'CAN, attention weight .3, cross-entropy'),
    ('CAN, product, cross-entropy', 'CAN, cross-entropy'), ('CAN, product, cross-entropy', 'CAN, no attention loss'),
    ('CAN, balance loss only', 'CAN, no attention loss'),
    ('CAN, no attention loss', 'CAN, attention weight .3'), ('CAN, no attention loss', 'CAN'),
    ('TRCGL base', 'TRCGL base, loss and sampler'), ('TRCGL base', 'TRCGL-Net'),
    ('TRCGL base, loss and sampler', 'TRCGL-Net')]


def check_files(o):
    "SystemExit where a file of weights is missing."
    if o.report_only or not o.weights: return
    for file in (o.weights, o.weights_b) if o.regime == 'full' else (o.weights,):
        if file and not Path(file).exists():
            raise SystemExit(f'{file} is missing: python scripts/imagenet_weights.py writes it')


def list_jobs(o):
    "Every run of the experiment, with its key."
    check_files(o)
    o.preset = f'{Path(o.weights).stem if o.weights else "nothing"}, {o.frozen} frozen, lr {o.lr:g}'
    table, jobs = TABLES[o.regime](o), []
    regime = 'fraction' if o.regime == 'ends' else o.regime

    def add(fold, draw, share, variant, part, method, kw):
        steps = o.steps*(2 if variant in DOUBLE else 1)
        key = dict(data=o.data, fold=fold, draw=draw, regime=part, fraction=share, variant=variant, steps=steps)
        jobs.append(dict(key=key, method=method, arguments=kw))

    for fold in o.folds:
        for draw in range(o.draws):
            share = o.fraction if regime == 'fraction' else 1.
            for variant in o.variants or CHOSEN.get(o.regime, table):
                add(fold, draw, share, variant, regime, *table[variant])
        if regime != 'full': add(fold, 0, 1., 'fully labelled', 'full', 'supervised', list_recipe(o))
    return jobs


def train_fully(o, job):
    "One run with all labels, from its key and its method's arguments; gives the row, with scores of the tail."
    from cxr_workbench.core import seed_all
    from cxr_workbench.learner import fit
    key = job['key']
    train, valid, test = split_parts(o, key['fold'])
    tail, seed = find_tail(train, o), 1000*key['fold'] + key['draw']
    seed_all(seed)
    method = plan_steps(build_method(o, job['method'], train, **job['arguments']), key['steps'])
    start = time.time()
    history = fit(method, train, batch_size=o.batch_size, seed=seed, device=o.device, progress=False)
    seconds = round(time.time() - start, 1)
    found = {f'valid_{k}': v for k, v in score_part(method, valid, tail).items()} | score_part(method, test, tail)
    done = int(history.groupby('stage')['step'].max().sum())
    labelled = int(train.known.any(1).sum())
    return {**key, **found, 'steps_done': done, 'rows': len(train), 'rows_labelled': labelled,
            'tail': int(tail.sum()), 'seconds': seconds}


TRAIN = {'full': train_fully}   # regimes with another run than `common.train_and_score`


def format_full_tables(o, frame, jobs):
    "The Markdown of `full`: against the baseline, and part against part."
    frame, ratio = select_runs(frame, jobs), test_to_train(o)
    order = [v for v in dict.fromkeys(job['key']['variant'] for job in jobs) if v in set(frame['variant'])]
    tail = int(frame['tail'].median())
    title = f'### all labels, {tail} of the tail, folds {o.folds}, {o.size} px, {o.backbone}, {o.preset}'
    text = [title, format_markdown(summarise_scores(frame, order, SCORES, ratio))]
    pairs = [pair for pair in PAIRS if set(pair) <= set(order)]
    if pairs: text += ['**Part against part**', format_markdown(compare_steps(frame, pairs, SCORES, ratio))]
    return '\n\n'.join(text)


def format_tables(o, frame, jobs):
    "The Markdown of the runs that exist: against the first variant, in shares of the gap to all labels."
    if o.regime == 'full': return format_full_tables(o, frame, jobs)
    frame = select_runs(frame, jobs)
    variants = list(dict.fromkeys(job['key']['variant'] for job in jobs))
    rows = summarise_variants(frame, variants[0], 'fully labelled', variants, test_to_train(o))
    labels = f'{o.fraction:.0%} of the patients labelled'
    if o.regime == 'single-positive': labels = 'one positive label per image'
    title = f'### {labels}, folds {o.folds}, {o.draws} draws, {o.size} px, {o.backbone}, {o.preset}'
    return f'{title}\n\n{format_markdown(rows)}'


def learn_by_heart(o, data):
    "Macro AUROC of 32 images after 60 steps on them, without augmentation."
    from cxr_workbench.core import seed_all
    from cxr_workbench.learner import fit, predict
    from cxr_workbench.metrics import auroc
    seed_all(0)
    few = data.subset(np.arange(32))
    method = build_method(o, 'supervised', few, **list_recipe(o), weak=False)
    fit(method, few, epochs=60, batch_size=32, seed=0, device=o.device, progress=False)
    scores = predict(method, few)[list(few.label_names)].to_numpy()
    return float(np.nanmean(auroc(scores, few.y.numpy(), few.known.numpy())))


def probe_features(o, train, test, shuffled=False):
    "Macro AUROC of logistic regressions on the pooled features of the network as it comes."
    import torch
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from cxr_workbench.metrics import auroc
    backbone = build_method(o, 'supervised', train, pretrained=o.weights or False).backbone.eval()

    def read_features(data):
        parts = np.array_split(np.arange(len(data)), max(1, len(data)//128))
        with torch.inference_mode(): return torch.cat([backbone.features(data.batch(rows).x) for rows in parts]).numpy()

    z, z_test, y, scores = read_features(train), read_features(test), train.y.numpy(), []
    if shuffled: y = np.random.default_rng(0).permutation(y)
    for labels in y.T:
        probe = make_pipeline(StandardScaler(), LogisticRegression(C=.01, max_iter=500)).fit(z, labels)
        scores.append(probe.predict_proba(z_test)[:, 1])
    return float(np.nanmean(auroc(np.stack(scores, 1), test.y.numpy(), test.known.numpy())))


def check_preflight(o):
    "Print what the preflight measured; SystemExit where a part of it fails."
    train, _, test = split_parts(o, o.folds[0] if o.folds else 0)
    found = {
        '32 images by heart, AUROC': (learn_by_heart(o, train), .99),
        'linear probe, AUROC': (probe_features(o, train, test), .6),
        'linear probe of shuffled labels, 1 - |AUROC - .5|': (
            1 - abs(probe_features(o, train, test, shuffled=True) - .5), .94)}
    if o.data.endswith('.csv') and o.path:
        rows = pd.read_csv(o.data).set_index(o.path).loc[train.meta[o.path], list(train.label_names)]
        found['entries as in the file, share'] = (float((rows.to_numpy() == train.y.numpy()).mean()), 1.)
    for name, (value, least) in found.items(): print(f'{name}: {value:.3f} (at least {least:g})', flush=True)
    failed = [name for name, (value, least) in found.items() if value < least]
    if failed: raise SystemExit(f'the preflight fails: {"; ".join(failed)}')


def main(command=None):
    p = build_parser(__doc__, 'pretrained')
    p.add_argument('regime', choices=['preflight', *TABLES])
    p.add_argument('--weights', default='weights/tf_efficientnet_lite0.safetensors', help='of the backbone')
    p.add_argument('--weights-b', default='weights/tf_efficientnet_lite1.safetensors',
                   help="of CAN's second branch, named after its network")
    p.add_argument('--frozen', type=int, default=3, help='early stages that do not train')
    p.add_argument('--lr', type=float, default=1e-3, help='highest learning rate')
    p.add_argument('--fraction', type=float, default=.1, help='share of the patients that keep their labels')
    p.add_argument('--tail', type=float, default=.09,
                   help='labels on less than this share of the training images are the tail')
    p.add_argument('--rare', type=float, default=.1, help="threshold of TRCGL-Net's repeats, as in long_tail.py")
    p.set_defaults(backbone='tf_efficientnet_lite0', size=96, batch_size=32, unlabelled=32, steps=200, draws=1)
    o = p.parse_args(command)
    if o.regime == 'preflight': return check_preflight(o)
    share = '' if o.regime != 'fraction' or o.fraction == .1 else f'-{100*o.fraction:.0f}'
    steps = '' if o.steps == 200 else f'-{o.steps}'
    run_experiment(o, list_jobs, format_tables, TRAIN.get(o.regime, train_and_score), o.regime + share + steps)


if __name__ == '__main__': main()
