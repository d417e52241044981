"""A report with 1,000 resamples of 100,000 x 14 scores: ours against running sums over every rank, in one run.

    python benchmarks/bootstrap.py [rows] [resamples]
"""
import sys, time
import numpy as np
from cxr_workbench.intervals import bootstrap, draw_weights
from cxr_workbench.labels import patient_codes
from cxr_workbench.metrics import report


def draw_scores(rows, labels=14, images=3):
    "Scores, labels and patients with three images on average."
    rng = np.random.default_rng(0)
    y = (rng.random((rows, labels)) < np.linspace(.02, .3, labels)).astype(float)
    scores = 1/(1 + np.exp(2 - y - rng.normal(size=(rows, labels))))
    return scores, y, rng.integers(0, rows//images, rows)


def count_ranks(scores, y, patient, patients):
    "Positives and negatives of one label by rank and patient; neighbouring ranks without a positive are one."
    from scipy.sparse import csr_array
    order = np.argsort(-scores, kind='stable')
    s, positive, patient = scores[order], y[order] == 1, patient[order]
    tie = np.cumsum(np.r_[True, s[1:] != s[:-1]]) - 1
    some = np.bincount(tie, weights=positive) > 0
    rank = (np.cumsum(np.r_[True, some[1:] | some[:-1]]) - 1)[tie]
    def count(which):
        places = rank[which], patient[which]
        return csr_array((np.ones(which.sum()), places), shape=(rank[-1] + 1, patients))
    return count(positive), count(~positive)


def sum_all_ranks(scores, y, patient_id, n_boot, chunk=250):
    "AUROC and AP of resampled patients, with running sums over every rank of every resample."
    patient = patient_codes(patient_id, len(y))
    patients, rng, parts = patient.max() + 1, np.random.default_rng(0), []
    ranked = [count_ranks(scores[:, c], y[:, c], patient, patients) for c in range(y.shape[1])]
    for start in range(0, n_boot, chunk):
        weights = draw_weights(rng, patients, min(chunk, n_boot - start))
        areas = []
        for positive, negative in ranked:
            a, b = positive @ weights, negative @ weights
            A, B = np.cumsum(a, 0), np.cumsum(b, 0)
            precision = np.divide(A, A + B, out=np.zeros_like(A), where=A > 0)
            auc = (b*(A - a/2)).sum(0)/(A[-1]*B[-1])
            areas.append([auc, (a*precision).sum(0)/A[-1]])
        parts.append(np.array(areas))
    return np.concatenate(parts, axis=2)


def measure(function):
    "Seconds on the processor and by the clock, and what the function gives."
    busy, start = time.process_time(), time.perf_counter()
    found = function()
    return time.process_time() - busy, time.perf_counter() - start, found


def measure_rows(rows=100_000, resamples=1000):
    scores, y, patient = draw_scores(rows)
    ours = measure(lambda: bootstrap(scores, y, patient_id=patient, n_boot=resamples))
    plain = measure(lambda: sum_all_ranks(scores, y, patient, resamples))
    for name, wanted in zip(('auroc', 'ap'), plain[2].swapaxes(0, 1)):
        assert abs(ours[2][name].T - wanted).max() < 1e-12
    whole = measure(lambda: report(scores, y, patient_id=patient, n_boot=resamples))
    points = measure(lambda: report(scores, y, patient_id=patient, n_boot=0))
    what = f'{resamples} resamples of {rows} x 14'
    def row(what, name, other, own, wanted):
        seconds = dict(reference=f'{name} {other[0]:.1f} s', ours=f'{own[0]:.1f} s')
        return dict(what=what, **seconds, ratio=other[0]/own[0], wanted=wanted)
    return [row(what, 'sums over every rank', plain, ours, '>= 5'),
            row(f'report, {what}', 'report without intervals', points, whole, '')]


if __name__ == '__main__':
    for row in measure_rows(*map(int, sys.argv[1:])): print(row)
