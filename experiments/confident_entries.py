"""Why consistency helps or does not: what a network trusts on the rows without labels, and what the strong view changes.

    python experiments/confident_entries.py fraction --folds 0 1 2                                  on the phantom, 10 % of the patients labelled
    python experiments/confident_entries.py fraction --data images.npz --table table.csv --jobs 2   on real images, five patient folds
    python experiments/confident_entries.py single-positive --variants AN MPC 'MPC, tau_neg .2'

Each variant of few_labels.py is trained as there; then its probabilities on the training entries whose labels were taken away are
held against those labels. `over` is the share of the truly present entries above the upper threshold and `right` how many of all
entries above it are present; `under` is the share of all entries below the lower threshold, `missed` how many of those are present,
beside the prevalence, which is what calling everything absent would miss. `information` is the share of the uncertainty about the
hidden labels (their entropy at the prevalence of each label) that the trusted entries take away. `moved` is the mean change of a
trusted probability under the view that the method trains against, in evaluation mode, `turned` the share of trusted entries whose
probability crosses the middle between the thresholds. One row per run in `--out`, the table beside it.
"""
import time
import numpy as np
import pandas as pd
from common import annotated, arguments, conclude, epochs_of, interval, made, markdown, of_jobs, parts, test_to_train
from few_labels import fraction, single_positive

MEASURES = ('over', 'right', 'under', 'missed', 'prevalence', 'information', 'moved', 'turned')


def thresholds(method):
    "The thresholds of a method that has them, those of MPC or ACAA otherwise."
    if hasattr(method, 'taus'): return method.taus
    return getattr(method, 'tau_pos', .8), getattr(method, 'tau_neg', .1)


def entropy(p):
    "Of a yes or no, in bits."
    p = np.clip(p, 1e-9, 1-1e-9)
    return -(p*np.log2(p) + (1-p)*np.log2(1-p))


def of_entries(p, y, hidden, high, low):
    "The measures of probabilities, labels and which entries are hidden, (N, C) each."
    over, under, present = (p >= high) & hidden, (p <= low) & hidden, (y > 0) & hidden
    share = lambda part, whole: float(part.sum()/whole.sum()) if whole.sum() else np.nan
    before, after = [], []
    for c in range(p.shape[1]):
        n, prior = hidden[:, c].sum(), share(present[:, c], hidden[:, c])
        if not n: continue
        before.append(n*entropy(prior))
        groups = [over[:, c], under[:, c], hidden[:, c] & ~over[:, c] & ~under[:, c]]
        after.append(sum(g.sum()*entropy(share(present[:, c] & g, g)) for g in groups if g.sum()))
    return dict(over=share(over & present, present), right=share(over & present, over), under=share(under, hidden), missed=share(under & present, under),
                prevalence=share(present, hidden), information=1 - sum(after)/sum(before))


def of_views(method, x, high, low):
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
    return dict(moved=float((p - q).abs()[trusted].mean()), turned=float(((p > middle) != (q > middle))[trusted].float().mean()))


def train_one(o, job):
    "One run; gives the row."
    import torch
    from cxr_workbench.core import seed_all
    from cxr_workbench.learner import fit, predict
    if o.jobs > 1: torch.set_num_threads(1)
    key = job['key']
    whole = parts(o, key['fold'])[0]
    train, seed = annotated(whole, key['regime'], key['fraction'], key['draw']), 1000*key['fold'] + key['draw']
    seed_all(seed)
    method = made(o, job['method'], train, **job['arguments'])
    epochs, batch = epochs_of(method.recipe()[0], train, o, key['steps'])
    start = time.time()
    history = fit(method, train, batch_size=batch, seed=seed, labelled=o.batch_size, device=o.device, progress=False, epochs=epochs)
    p = predict(method, whole, batch_size=256)[list(whole.label_names)].to_numpy()
    hidden, (high, low) = (whole.known & ~train.known).numpy(), thresholds(method)
    rows = np.flatnonzero(hidden.any(1))[:256]
    return dict(key, **of_entries(p, whole.y.numpy(), hidden, high, low), **of_views(method.cpu(), whole.batch(rows).x, high, low),
                auroc=np.nan, ap=np.nan, steps_done=int(history['step'].iloc[-1]), seconds=round(time.time()-start, 1))


def jobs_of(o):
    "Every run, with its key."
    table = (single_positive if o.regime == 'single-positive' else fraction)(None)
    names = o.variants or (['AN', 'MPC', 'MPC, tau_neg .2'] if o.regime == 'single-positive' else ['baseline', 'FixMatch-style', 'ACAA', 'ACAA, prior thresholds'])
    if strange := [v for v in names if v not in table]: raise SystemExit(f'no variant {strange}: there are {list(table)}')
    share = o.fraction if o.regime == 'fraction' else 1.
    key = lambda fold, v: dict(data=o.data, fold=fold, draw=0, regime=o.regime, fraction=share, variant=v, steps=o.steps)
    return [dict(key=key(fold, v), method=table[v][0], arguments=table[v][1]) for fold in o.folds for v in names]


def tables(o, frame, jobs):
    "Means over folds, with an interval for the information."
    frame, lines = of_jobs(frame, jobs), []
    for variant in dict.fromkeys(job['key']['variant'] for job in jobs):
        mine = frame[frame['variant'] == variant]
        if not len(mine): continue
        mean, low, high = interval(mine['information'], test_to_train(o))
        lines.append(dict(variant=variant, runs=len(mine), **{k: '' if mine[k].isna().all() else f'{mine[k].mean():.3f}' for k in MEASURES}) | dict(information=f'{mean:.3f} [{low:.3f}, {high:.3f}]'))
    what = 'one positive label per image' if o.regime == 'single-positive' else f'{o.fraction:.0%} of the patients labelled'
    return f"### {'phantom' if o.data == 'phantom' else 'real images'}, {what}, folds {o.folds}, {o.steps} steps, {o.size} px, {o.backbone}\n\n" + markdown(pd.DataFrame(lines))


def main(command=None):
    p = arguments(__doc__, 'confident_entries')
    p.add_argument('regime', choices=['single-positive', 'fraction'])
    p.add_argument('--fraction', type=float, default=.1, help='share of the patients that keep their labels')
    o = p.parse_args(command)
    conclude(o, jobs_of, tables, train_one, o.regime)


if __name__ == '__main__': main()
