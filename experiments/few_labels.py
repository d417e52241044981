"""Learning from few labels: MPC with one positive label per image, ACAA with labels of a fraction of the patients.

    python experiments/few_labels.py single-positive --folds 0 1 2                      on the phantom, three seeds
    python experiments/few_labels.py fraction --fractions .05 .1 .2 .5 --folds 0 1 2
    python experiments/few_labels.py fraction --data images.npz --table table.csv --folds 0 1 2 3 4 --jobs 2

The reduced table of two cores has `--size 32 --steps 200 --batch-size 32 --unlabelled 32 --jobs 2`. Every variant gets
the same number of optimiser steps; `--tune 60 180 360` trains the baseline at others as well, and the one with the
best validation score per fold and draw is reported as `baseline, steps tuned`. The training labels are reduced;
validation and test labels are whole. Results: one row per run in `--out`, tables with paired differences and their
intervals beside it as Markdown, a file per number of steps.
"""
import pandas as pd
from common import build_parser, compare_paired, format_difference, format_markdown, run_experiment, select_runs
from common import summarise_variants, test_to_train

NONE = dict(image=0., feature=0., batch=0.)     # no consistency term
ONLY_IMAGE = dict(feature=0., batch=0.)
ONLY_FEATURE = dict(image=0., batch=0.)
ONLY_BATCH = dict(image=0., feature=0.)


def list_single_positive_variants(ema):
    "Variants of the single-positive regime: method and its arguments."
    def mpc(**kw): return 'mpc', dict(preset='tiny', ema=ema, **kw)
    return {
        'AN': mpc(loss='an', weights=NONE),
        'AN-LS': mpc(loss='an_ls', weights=NONE),
        'WAN': mpc(loss='wan', weights=NONE),
        'EPR': mpc(loss='epr', weights=NONE),
        'ROLE': mpc(loss='role', weights=NONE),
        'EM': mpc(loss='em', weights=NONE),
        'MPC': mpc(),
        'MPC, tau_neg .2': mpc(tau_neg=.2),
        'MPC, tau .5 .2': mpc(tau_pos=.5, tau_neg=.2),
        'MPC, tau_neg .2, IPC only': mpc(tau_neg=.2, weights=ONLY_IMAGE),
        'MPC, tau_neg .2, FPC only': mpc(tau_neg=.2, weights=ONLY_FEATURE),
        'MPC, tau_neg .2, BTC only': mpc(tau_neg=.2, weights=ONLY_BATCH),
        'MPC, observed left out': mpc(count_known=False),
        'MPC, IPC only': mpc(weights=ONLY_IMAGE),
        'MPC without RED': mpc(elastic=dict(p=0.)),
        'MPC without FPC': mpc(weights=dict(feature=0.)),
        'MPC without BTC': mpc(weights=dict(batch=0.)),
        'MPC without rejection': mpc(reject=False),
    }


def list_fraction_variants(ema):
    "Variants of the labelled fraction: method and its arguments."
    tiny = dict(preset='tiny', ema=ema)
    def acaa(trust='fixed', **kw): return 'acaa', dict(tiny, trust=trust, **kw)
    strong, strict = dict(adv_on='strong'), dict(tau_pos=.7, tau_neg=.05)
    fixmatch = dict(loss='bce', unknown='ignore', weights=ONLY_IMAGE, elastic=dict(p=0.), sampler='mixed')
    return {
        'baseline': ('supervised', tiny),
        'FixMatch-style': ('mpc', dict(tiny, **fixmatch)),
        'ACAA': acaa(),
        'ACAA, prior thresholds': acaa(trust='prior'),
        'ACAA, strict thresholds': acaa(trust=dict(thresholds=dict(name='prior', strict=True))),
        'ACAA, eps 1/255': acaa(attack=dict(eps=1/255)),
        'ACAA, strong view attacked': acaa(**strong),
        'ACAA, strong view, no attack': acaa(**strong, attack=None),
        'ACAA, strong view, no attack, image only': acaa(**strong, attack=None, weights=ONLY_IMAGE),
        'ACAA, strong view, no attack, image only, tau .7 .05':
            acaa(**strong, **strict, attack=None, weights=ONLY_IMAGE),
        'ACAA, strong view attacked, image only, tau .7 .05': acaa(**strong, **strict, weights=ONLY_IMAGE),
        'ACAA, image only': acaa(weights=ONLY_IMAGE),
        'ACAA, feature only': acaa(weights=ONLY_FEATURE),
        'ACAA, Batch-Mamba only': acaa(weights=ONLY_BATCH),
        'ACAA, terms off': acaa(weights=NONE),
    }


CHOSEN = {'single-positive': ['AN', 'WAN', 'EM', 'ROLE', 'MPC'], 'fraction': ['baseline', 'FixMatch-style', 'ACAA']}


def list_jobs(o):
    "Every run of the experiment, with its key."
    jobs = []
    table = (list_single_positive_variants if o.regime == 'single-positive' else list_fraction_variants)(o.ema)
    chosen = o.variants or CHOSEN[o.regime]
    first = chosen[0]

    def add(fold, draw, share, variant, method, kw, steps, regime=o.regime):
        key = dict(data=o.data, fold=fold, draw=draw, regime=regime, fraction=share, variant=variant, steps=steps)
        jobs.append(dict(key=key, method=method, arguments=kw))

    full = ('fully labelled', 'supervised', dict(preset='tiny', ema=o.ema))
    for fold in o.folds:
        for share in o.fractions if o.regime == 'fraction' else [1.]:
            for draw in range(o.draws):
                for variant in chosen: add(fold, draw, share, variant, *table[variant], o.steps)
                for steps in o.tune: add(fold, draw, share, f'{first} at {steps}', *table[first], steps)
        for draw in range(o.draws): add(fold, draw, 1., *full, o.steps, regime='full')
    return jobs


def select_tuned(frame, first):
    "The baseline whose steps were chosen on validation, one row per fold and draw that was tried at other numbers."
    mine = frame[frame['variant'].isin([first]) | frame['variant'].str.startswith(f'{first} at ')]
    mine = mine[mine.groupby(['fold', 'draw'])['variant'].transform('nunique') > 1]
    value = 'valid_ap' if first == 'AN' else 'valid_auroc'
    best = mine.loc[mine.groupby(['fold', 'draw'])[value].idxmax()]
    return best.assign(variant=f'{first}, steps tuned')


def select_variants(jobs, regime):
    "The variants of a regime in the order of the command, without the baseline at other steps."
    keys = [job['key'] for job in jobs if job['key']['regime'] == regime]
    return list(dict.fromkeys(key['variant'] for key in keys if ' at ' not in key['variant']))


def format_fraction(o, part, upper, share, jobs):
    "The Markdown of one fraction."
    ratio, variants = test_to_train(o), select_variants(jobs, o.regime)
    first, last = jobs[0]['key']['variant'], variants[-1]
    best = f'{first}, steps tuned'
    part = pd.concat([part, select_tuned(part, first), upper])
    rows = summarise_variants(part, first, 'fully labelled', [*variants, best, 'fully labelled'], ratio)
    data = 'phantom' if o.data == 'phantom' else 'real images'
    labels = f'{share:.0%} of the patients labelled'
    if o.regime == 'single-positive': labels = 'one positive label per image'
    title = f'### {data}, {labels}, folds {o.folds}, {o.draws} draws, {o.size} px, {o.backbone}'
    text = [f'{title}\n\n{format_markdown(rows)}']
    against = {name: compare_paired(part, last, best, name.lower(), ratio) for name in ('AUROC', 'AP')}
    if against['AP']:
        differences = ', '.join(f'{name} {format_difference(d)}' for name, d in against.items())
        text.append(f'{last} against {first} with tuned steps: {differences}')
    return text


def format_tables(o, frame, jobs):
    "The Markdown of all that is there: one table per fraction."
    frame = select_runs(frame, jobs)
    upper, mine = frame[frame['regime'] == 'full'], frame[frame['regime'] == o.regime]
    text = [line for share, part in mine.groupby('fraction') for line in format_fraction(o, part, upper, share, jobs)]
    return '\n\n'.join(text)


def main(command=None):
    p = build_parser(__doc__, 'few_labels')
    p.add_argument('regime', choices=['single-positive', 'fraction'])
    p.add_argument('--fractions', type=float, nargs='+', default=[.1], help='shares of patients with labels')
    p.add_argument('--tune', type=int, nargs='*', default=[], help='other numbers of steps for the baseline')
    p.add_argument('--ema', type=float, default=None, help='decay of averaged weights, for every variant')
    o = p.parse_args(command)
    run_experiment(o, list_jobs, format_tables, name=f'{o.regime}-{o.steps}')


if __name__ == '__main__': main()
