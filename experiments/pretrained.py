"""What the methods bring to a network that was trained on photographs: real images, patient folds, few labels.

    python scripts/imagenet_weights.py
    cxr-workbench pack table.csv pack96 --size 96 --path file
    python experiments/pretrained.py preflight --data table.csv --path file --packed pack96 --size 96
    python experiments/pretrained.py ends --data table.csv --path file --packed pack96 --size 96
    python experiments/pretrained.py fraction --data table.csv --path file --packed pack96 --size 96
    python experiments/pretrained.py single-positive --data table.csv --path file --packed pack96 --size 96

`preflight` asks whether training works at all: 32 images are learned by heart, labels stand in the columns of their
names, and a linear probe of the features as they come ranks held-out images better than one of shuffled labels.
`ends` trains the baseline with few labels and with all, so that the room between them is known before anything is
claimed. Every variant gets the same number of optimiser steps, the same start and the same frozen stages; the training
labels are reduced, validation and test labels are whole. `--lr` is chosen on the validation part of `ends`.
"""
from pathlib import Path
import numpy as np
import pandas as pd
from common import build_method, build_parser, format_markdown, run_experiment, select_runs, split_parts
from common import summarise_variants, test_to_train

NONE = dict(image=0., feature=0., batch=0.)     # no consistency term
ONLY_IMAGE = dict(feature=0., batch=0.)


def list_recipe(o):
    "The recipe of every variant."
    return dict(lr=o.lr, backbone_lr=None, weight_decay=.05, optimizer='AdamW', schedule='one_cycle', ema=None,
                frozen_stages=o.frozen, pretrained=o.weights or False)


def list_fraction_variants(o):
    "Variants of the labelled fraction: method and its arguments."
    recipe = list_recipe(o)
    def acaa(**kw): return 'acaa', dict(recipe, mixer=dict(inner=64), **kw)
    return {
        'baseline': ('supervised', recipe),
        'ACAA': acaa(),
        'ACAA, eps 1/255': acaa(attack=dict(eps=1/255)),
        'ACAA, eps 0': acaa(attack=dict(eps=0.)),
        'ACAA, eps by the loss it adds': acaa(attack=dict(eps='auto')),
        'ACAA, no image attack': acaa(weights=dict(image=0.)),
        'ACAA, image only': acaa(weights=ONLY_IMAGE),
        'ACAA, image only, eps 1/255': acaa(weights=ONLY_IMAGE, attack=dict(eps=1/255)),
        'ACAA, strong view, no attack, image only': acaa(weights=ONLY_IMAGE, adv_on='strong', attack=None),
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
    }


TABLES = {'ends': list_fraction_variants, 'fraction': list_fraction_variants,
          'single-positive': list_single_positive_variants}
CHOSEN = {'ends': ['baseline'], 'fraction': ['baseline', 'ACAA', 'ACAA, eps 1/255', 'ACAA, no image attack'],
          'single-positive': ['AN', 'LL-R', 'MPC', 'MPC, tau_neg .2']}


def list_jobs(o):
    "Every run of the experiment, with its key."
    if not o.report_only and o.weights and not Path(o.weights).exists():
        raise SystemExit(f'{o.weights} is missing: python scripts/imagenet_weights.py writes it')
    o.preset = f'{Path(o.weights).stem if o.weights else "nothing"}, {o.frozen} frozen, lr {o.lr:g}'
    table, jobs = TABLES[o.regime](o), []
    regime = 'fraction' if o.regime == 'ends' else o.regime

    def add(fold, draw, share, variant, part, method, kw):
        key = dict(data=o.data, fold=fold, draw=draw, regime=part, fraction=share, variant=variant, steps=o.steps)
        jobs.append(dict(key=key, method=method, arguments=kw))

    for fold in o.folds:
        for draw in range(o.draws):
            share = o.fraction if regime == 'fraction' else 1.
            for variant in o.variants or CHOSEN[o.regime]: add(fold, draw, share, variant, regime, *table[variant])
        add(fold, 0, 1., 'fully labelled', 'full', 'supervised', list_recipe(o))
    return jobs


def format_tables(o, frame, jobs):
    "The Markdown of the runs that exist: against the first variant, in shares of the gap to all labels."
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
    p.add_argument('--frozen', type=int, default=3, help='early stages that do not train')
    p.add_argument('--lr', type=float, default=1e-3, help='highest learning rate')
    p.add_argument('--fraction', type=float, default=.1, help='share of the patients that keep their labels')
    p.set_defaults(backbone='tf_efficientnet_lite0', size=96, batch_size=32, unlabelled=32, steps=200, draws=1)
    o = p.parse_args(command)
    if o.regime == 'preflight': return check_preflight(o)
    run_experiment(o, list_jobs, format_tables, name=o.regime)


if __name__ == '__main__': main()
