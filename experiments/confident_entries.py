"""Why consistency helps or does not: what a network trusts without labels, and what the strong view changes.

    python experiments/confident_entries.py fraction --folds 0 1 2
    python experiments/confident_entries.py fraction --data images.npz --table table.csv --jobs 2
    python experiments/confident_entries.py single-positive --variants AN MPC 'MPC, tau_neg .2'

The first runs on the phantom with labels of 10 % of the patients, the second on real images in five patient folds.

Each variant of few_labels.py is trained as there; then its probabilities on the training entries whose labels
were taken away are held against those labels. `over` is the share of the truly present entries above the
upper threshold and `right` how many of all entries above it are present; `under` is the share of all entries
below the lower threshold, `missed` how many of those are present, beside the prevalence, which is what
calling everything absent would miss. `information` is the share of the uncertainty about the hidden labels
(their entropy at the prevalence of each label) that the trusted entries take away. `moved` is the mean change
of a trusted probability under the view that the method trains against, in evaluation mode, `turned` the share
of trusted entries whose probability crosses the middle between the thresholds. One row per run in `--out`,
the table beside it.
"""
import time
import numpy as np
import pandas as pd
from common import build_method, build_parser, count_epochs, fold_interval, format_markdown, reduce_labels
from common import run_experiment, select_runs, split_parts, test_to_train
from few_labels import list_fraction_variants, list_single_positive_variants

MEASURES = ('over', 'right', 'under', 'missed', 'prevalence', 'information', 'moved', 'turned')
SHOWN = {
    'single-positive': ['AN', 'MPC', 'MPC, tau_neg .2'],
    'fraction': ['baseline', 'FixMatch-style', 'ACAA', 'ACAA, prior thresholds']}


def find_thresholds(method):
    "The thresholds of a method that has them, those of ACAA otherwise."
    if hasattr(method, 'taus'): return method.taus
    return getattr(method, 'tau_pos', .8), getattr(method, 'tau_neg', .1)


def entropy(p):
    "The entropy of a label that is present with probability p, in bits."
    p = np.clip(p, 1e-9, 1-1e-9)
    return -(p*np.log2(p) + (1-p)*np.log2(1-p))


def share(part, whole):
    "The share of the whole that the part is; NaN where the whole is empty."
    return float(part.sum()/whole.sum()) if whole.sum() else np.nan


def measure_information(over, under, hidden, present):
    "The share of the entropy of the hidden labels that the trusted entries take away; all (N, C) bool."
    before, after = [], []
    for c in range(hidden.shape[1]):
        n = hidden[:, c].sum()
        if not n: continue
        before.append(n*entropy(share(present[:, c], hidden[:, c])))
        high, low = over[:, c], under[:, c]
        groups = high, low, hidden[:, c] & ~high & ~low
        left = [g.sum()*entropy(share(present[:, c] & g, g)) for g in groups if g.sum()]
        after.append(sum(left))
    return 1 - sum(after)/sum(before)


def measure_entries(p, y, hidden, high, low):
    "The measures of probabilities, labels and which entries are hidden, (N, C) each."
    over, under, present = (p >= high) & hidden, (p <= low) & hidden, (y > 0) & hidden
    return dict(
        over=share(over & present, present), right=share(over & present, over),
        under=share(under, hidden), missed=share(under & present, under),
        prevalence=share(present, hidden), information=measure_information(over, under, hidden, present))


def measure_views(method, x, high, low):
    "What the view that the method trains against does to the trusted entries of images (B, 1, H, W)."
    import torch
    method.eval()
    with torch.no_grad(): p = torch.sigmoid(method(x))
    trusted = (p >= high) | (p <= low)
    if hasattr(method, 'attack'):
        other = method.attack_view(x, (p >= high).float(), trusted)
    elif hasattr(method, 'tau_pos'): other = method.strong(x)
    else: return dict(moved=np.nan, turned=np.nan)
    with torch.no_grad(): q = torch.sigmoid(method(other.clamp(0, 1)))
    middle = (high + low)/2
    crossed = ((p > middle) != (q > middle))[trusted]
    moved = (p - q).abs()[trusted]
    return dict(moved=float(moved.mean()), turned=float(crossed.float().mean()))


def train_and_measure(o, job):
    "One run; gives the row."
    from cxr_workbench.core import seed_all
    from cxr_workbench.learner import fit, predict
    key = job['key']
    whole = split_parts(o, key['fold'])[0]
    train, seed = reduce_labels(whole, key['regime'], key['fraction'], key['draw']), 1000*key['fold'] + key['draw']
    seed_all(seed)
    method = build_method(o, job['method'], train, **job['arguments'])
    epochs, batch = count_epochs(method.recipe()[0], train, o, key['steps'])
    start = time.time()
    options = dict(labelled=o.batch_size, device=o.device, progress=False, epochs=epochs)
    history = fit(method, train, batch_size=batch, seed=seed, **options)
    p = predict(method, whole, batch_size=256)[list(whole.label_names)].to_numpy()
    hidden, (high, low) = (whole.known & ~train.known).numpy(), find_thresholds(method)
    rows = np.flatnonzero(hidden.any(1))[:256]
    entries = measure_entries(p, whole.y.numpy(), hidden, high, low)
    views = measure_views(method.cpu(), whole.batch(rows).x, high, low)
    cost = dict(steps_done=int(history['step'].iloc[-1]), seconds=round(time.time()-start, 1))
    return dict(key, **entries, **views, auroc=np.nan, ap=np.nan, **cost)


def list_jobs(o):
    "Every run, with its key."
    table = (list_single_positive_variants if o.regime == 'single-positive' else list_fraction_variants)(None)
    names = o.variants or SHOWN[o.regime]
    if strange := [v for v in names if v not in table]:
        raise SystemExit(f'no variant {strange}: there are {list(table)}')
    share, jobs = o.fraction if o.regime == 'fraction' else 1., []
    for fold in o.folds:
        for variant in names:
            key = dict(data=o.data, fold=fold, draw=0, regime=o.regime, fraction=share, variant=variant, steps=o.steps)
            jobs.append(dict(key=key, method=table[variant][0], arguments=table[variant][1]))
    return jobs


def summarise_variant(variant, runs, ratio):
    "Means of the runs of a variant over folds, with an interval for the information."
    mean, low, high = fold_interval(runs['information'], ratio)
    texts = {k: '' if runs[k].isna().all() else f'{runs[k].mean():.3f}' for k in MEASURES}
    texts['information'] = f'{mean:.3f} [{low:.3f}, {high:.3f}]'
    return dict(variant=variant, runs=len(runs), **texts)


def format_tables(o, frame, jobs):
    "The Markdown of all that is there."
    frame, lines = select_runs(frame, jobs), []
    for variant in dict.fromkeys(job['key']['variant'] for job in jobs):
        mine = frame[frame['variant'] == variant]
        if len(mine): lines.append(summarise_variant(variant, mine, test_to_train(o)))
    data = 'phantom' if o.data == 'phantom' else 'real images'
    what = 'one positive label per image'
    if o.regime == 'fraction': what = f'{o.fraction:.0%} of the patients labelled'
    title = f'### {data}, {what}, folds {o.folds}, {o.steps} steps, {o.size} px, {o.backbone}'
    return f'{title}\n\n{format_markdown(pd.DataFrame(lines))}'


def main(command=None):
    p = build_parser(__doc__, 'confident_entries')
    p.add_argument('regime', choices=['single-positive', 'fraction'])
    p.add_argument('--fraction', type=float, default=.1, help='share of the patients that keep their labels')
    o = p.parse_args(command)
    run_experiment(o, list_jobs, format_tables, train_and_measure, o.regime)


if __name__ == '__main__': main()
