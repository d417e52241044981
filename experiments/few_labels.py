"""Learning from few labels: MPC with one positive label per image, ACAA with labels of a fraction of the patients.

    python experiments/few_labels.py single-positive --folds 0 1 2                         on the phantom, three seeds
    python experiments/few_labels.py fraction --fractions .05 .1 .2 .5 --folds 0 1 2
    python experiments/few_labels.py fraction --data images.npz --table table.csv --folds 0 1 2 3 4 --jobs 2
    python experiments/few_labels.py fraction --size 32 --steps 200 --batch-size 32 --unlabelled 32 --jobs 2   the reduced table of two cores
    python experiments/few_labels.py fraction --data images.npz --table table.csv --tune 60 180 360 720   the baseline at other numbers of steps

Every variant gets the same number of optimiser steps; `--tune` trains the baseline at others as well, and the one with the best
validation score per fold and draw is reported as `baseline, steps tuned`. The training labels are reduced; validation and test
labels are whole. Results: one row per run in `--out`, tables with paired differences and their intervals beside it as
Markdown, a file per number of steps.
"""
import pandas as pd
from common import arguments, conclude, markdown, of_jobs, paired, shown, summary, test_to_train

QUIET = dict(ipc=0., fpc=0., btc=0.)


def single_positive(ema):
    "Variants of the single-positive regime: method and its arguments."
    tiny = dict(preset='tiny', ema=ema)
    base = lambda name: ('mpc', dict(tiny, base=name, weights=QUIET))
    return {
        'AN': base('an'), 'AN-LS': base('an_ls'), 'WAN': base('wan'), 'EPR': base('epr'), 'ROLE': base('role'), 'EM': base('em'),
        'MPC': ('mpc', tiny),
        'MPC, tau_neg .2': ('mpc', dict(tiny, tau_neg=.2)),
        'MPC, tau .5 .2': ('mpc', dict(tiny, tau_pos=.5, tau_neg=.2)),
        'MPC, tau_neg .2, IPC only': ('mpc', dict(tiny, tau_neg=.2, weights=dict(fpc=0., btc=0.))),
        'MPC, tau_neg .2, FPC only': ('mpc', dict(tiny, tau_neg=.2, weights=dict(ipc=0., btc=0.))),
        'MPC, tau_neg .2, BTC only': ('mpc', dict(tiny, tau_neg=.2, weights=dict(ipc=0., fpc=0.))),
        'MPC, observed left out': ('mpc', dict(tiny, observed=False)),
        'MPC, IPC only': ('mpc', dict(tiny, weights=dict(fpc=0., btc=0.))),
        'MPC without RED': ('mpc', dict(tiny, deform=0.)),
        'MPC without FPC': ('mpc', dict(tiny, weights=dict(fpc=0.))),
        'MPC without BTC': ('mpc', dict(tiny, weights=dict(btc=0.))),
        'MPC without rejection': ('mpc', dict(tiny, reject=False)),
    }


def fraction(ema):
    "Variants of the labelled fraction: method and its arguments."
    tiny = dict(preset='tiny', ema=ema)
    image_only, low = dict(feature=0., batch=0.), dict(tau_pos=.7, tau_neg=.05)
    acaa = lambda **kw: ('acaa', {**tiny, **kw})
    return {
        'baseline': ('supervised', tiny),
        'FixMatch-style': ('mpc', dict(tiny, base='bce', unknown='ignore', weights=dict(fpc=0., btc=0.), deform=0., sampler='mixed')),
        'ACAA': acaa(),
        'ACAA, prior thresholds': acaa(priors=True),
        'ACAA, eps 1/255': acaa(attack=dict(eps=1/255)),
        'ACAA, strong view attacked': acaa(adv_on='strong'),
        'ACAA, strong view, no attack': acaa(adv_on='strong', attack=None),
        'ACAA, strong view, no attack, image only': acaa(adv_on='strong', attack=None, weights=image_only),
        'ACAA, strong view, no attack, image only, tau .7 .05':
            acaa(adv_on='strong', attack=None, weights=image_only, **low),
        'ACAA, strong view attacked, image only, tau .7 .05':
            acaa(adv_on='strong', weights=image_only, **low),
        'ACAA, image only': acaa(weights=image_only),
        'ACAA, feature only': acaa(weights=dict(image=0., batch=0.)),
        'ACAA, Batch-Mamba only': acaa(weights=dict(image=0., feature=0.)),
        'ACAA, terms off': acaa(weights=dict(image=0., feature=0., batch=0.)),
    }


def jobs_of(o):
    "Every run of the experiment, with its key."
    jobs = []
    table = (single_positive if o.regime == 'single-positive' else fraction)(o.ema)
    chosen = o.variants or (['AN', 'WAN', 'EM', 'ROLE', 'MPC'] if o.regime == 'single-positive' else ['baseline', 'FixMatch-style', 'ACAA'])
    first = chosen[0]
    def add(fold, draw, share, variant, method, kw, steps, regime=o.regime):
        key = dict(data=o.data, fold=fold, draw=draw, regime=regime, fraction=share, variant=variant, steps=steps)
        jobs.append(dict(key=key, method=method, arguments=kw))
    for fold in o.folds:
        for share in o.fractions if o.regime == 'fraction' else [1.]:
            for draw in range(o.draws):
                for variant in chosen: add(fold, draw, share, variant, *table[variant], o.steps)
                for steps in o.tune: add(fold, draw, share, f'{first} at {steps}', *table[first], steps)
        for draw in range(o.draws): add(fold, draw, 1., 'fully labelled', 'supervised', dict(preset='tiny', ema=o.ema), o.steps, regime='full')
    return jobs


def tuned(frame, first):
    "The baseline whose number of steps was chosen on validation, one row per fold and draw that was tried at other numbers."
    mine = frame[frame['variant'].isin([first]) | frame['variant'].str.startswith(f'{first} at ')]
    mine = mine[mine.groupby(['fold', 'draw'])['variant'].transform('nunique') > 1]
    value = 'valid_ap' if first == 'AN' else 'valid_auroc'
    best = mine.loc[mine.groupby(['fold', 'draw'])[value].idxmax()]
    return best.assign(variant=f'{first}, steps tuned')


def tables(o, frame, jobs):
    "The Markdown of all that is there: one table per fraction."
    frame = of_jobs(frame, jobs)
    upper, text, ratio = frame[frame['regime'] == 'full'], [], test_to_train(o)
    first = jobs[0]['key']['variant']
    for share, part in frame[frame['regime'] == o.regime].groupby('fraction'):
        variants = list(dict.fromkeys(job['key']['variant'] for job in jobs if job['key']['regime'] == o.regime and ' at ' not in job['key']['variant']))
        best = f'{first}, steps tuned'
        part = pd.concat([part, tuned(part, first), upper])
        order = [*variants, best, 'fully labelled']
        title = 'one positive label per image' if o.regime == 'single-positive' else f'{share:.0%} of the patients labelled'
        text.append(f"### {o.data if o.data == 'phantom' else 'real images'}, {title}, folds {o.folds}, {o.draws} draws, {o.size} px, {o.backbone}\n\n"
                    + markdown(summary(part, first, 'fully labelled', order, ratio)))
        against = {name: paired(part, variants[-1], best, name.lower(), ratio) for name in ('AUROC', 'AP')}
        if against['AP']: text.append(f"{variants[-1]} against {first} with tuned steps: " + ', '.join(f'{name} {shown(d)}' for name, d in against.items()))
    return '\n\n'.join(text)


def main(command=None):
    p = arguments(__doc__, 'few_labels')
    p.add_argument('regime', choices=['single-positive', 'fraction'])
    p.add_argument('--fractions', type=float, nargs='+', default=[.1], help='shares of the patients that keep their labels')
    p.add_argument('--tune', type=int, nargs='*', default=[], help='other numbers of steps for the baseline')
    p.add_argument('--ema', type=float, default=None, help='decay of averaged weights, for every variant')
    o = p.parse_args(command)
    conclude(o, jobs_of, tables, name=f'{o.regime}-{o.steps}')


if __name__ == '__main__': main()
