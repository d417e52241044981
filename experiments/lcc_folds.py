"""The protocol of the label-correlation paper: three times 5-fold cross-validation, patients whole, mean over 15 runs.

    python experiments/lcc_folds.py                                              on the phantom
    python experiments/lcc_folds.py --data images.npz --table table.csv --jobs 2 on real images
    python experiments/lcc_folds.py --variants base whole --repeats 1 --folds 0 1

Every repeat assigns the patients to folds anew; macro AUROC and macro F1 at one half, as the paper reports them. The
differences to the base have an interval that is corrected for the overlap of the training parts (Nadeau and Bengio,
2003). Phantom numbers are phantom numbers.
"""
import numpy as np
import pandas as pd
from common import build_parser, fold_interval, format_difference, format_markdown, run_experiment, select_runs
from common import shrink_images
from correlations import run_on_parts

BEFORE = dict(contrast=dict(negatives='present', guide='linear'), weights=dict(contrast=.1))
# 'whole' is the method with the contrast of before, as its rows in results/ have it; 'mended' is that of today
VARIANTS = {'base': dict(decompose=False), 'whole': BEFORE, 'mended': dict()}
FOLDS = 5


def fold_parts(o, repeat, fold):
    "Training, validation and test part of one fold of one repeat."
    from cxr_workbench.data import from_npz, from_phantom, patient_folds, patient_split
    from cxr_workbench.phantom import SyntheticCXR
    if o.data == 'phantom': data = from_phantom(SyntheticCXR(3000, size=o.size, seed=100))
    else: data = shrink_images(from_npz(o.data, table=o.table), o.size)
    held = patient_folds(data.patient_id, data.y, folds=FOLDS, seed=repeat) == fold
    rest, test = data.subset(np.flatnonzero(~held)), data.subset(np.flatnonzero(held))
    train, valid = patient_split(rest.patient_id, rest.y, fraction=.15, seed=repeat)
    return rest.subset(train), rest.subset(valid), test


def train_fold(o, job): return run_on_parts(o, job, fold_parts(o, job['key']['draw'], job['key']['fold']))


def list_jobs(o):
    "Every run of the protocol; the repeat is the draw."
    def make_key(repeat, fold, variant):
        where = dict(data=o.data, fold=fold, draw=repeat, regime='3 x 5 folds', fraction=1.)
        return dict(where, variant=variant, steps=o.steps)
    runs = [(repeat, fold, v) for repeat in range(o.repeats) for fold in o.folds for v in o.variants]
    return [dict(key=make_key(*run), method='lcc', arguments=VARIANTS[run[-1]]) for run in runs]


def format_tables(o, frame, jobs=None):
    "Mean and spread over the runs, and the paired differences to the base; every run holds out patients of its own."
    if jobs is not None: frame = select_runs(frame, jobs)
    base, lines = o.variants[0], []
    for variant in [v for v in o.variants if v in set(frame['variant'])]:
        mine = frame[frame['variant'] == variant].set_index(['draw', 'fold']).sort_index()
        other = frame[frame['variant'] == base].set_index(['draw', 'fold']).reindex(mine.index)
        line = dict(variant=variant, runs=len(mine))
        for v in ('auroc', 'f1', 'ap'): line[v] = f'{mine[v].mean():.4f} ± {mine[v].std():.4f}'
        for v in ('auroc', 'f1'):
            found = None
            if variant != base and len(mine) > 1:
                found = fold_interval(mine[v] - other[v], 1/(FOLDS - 1))._asdict()
            line[f'{v} - {base}'] = format_difference(found)
        lines.append(line)
    where = 'phantom' if o.data == 'phantom' else 'real images'
    title = f'### {o.repeats} x {FOLDS} folds, {where}, {o.steps} steps, {o.size} px, {o.backbone}'
    return title + '\n\n' + format_markdown(pd.DataFrame(lines))


def main(command=None):
    p = build_parser(__doc__, 'lcc_folds')
    p.add_argument('--preset', default='maps', help="the method's setting: 'maps' or 'tiny'")
    p.add_argument('--repeats', type=int, default=3, help='times the patients are dealt to folds')
    o = p.parse_args(command)
    if o.folds is None: o.folds = list(range(FOLDS))
    o.variants = o.variants or list(VARIANTS)
    run_experiment(o, list_jobs, format_tables, train_fold)


if __name__ == '__main__': main()
