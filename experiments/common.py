"""What all experiments share: parts of a data set, runs of equal length that are never lost, paired differences.

A run is one row of a CSV file, which it writes itself as soon as it has ended (`cxr_workbench.sweeps`); a run whose
row exists is not trained again, so an experiment that was stopped goes on with the same command, and several commands
may share one. A run that fails is a row of NAME-failed.csv with its reason, and the next command tries it again.
Differences are taken between runs on the same images with
the same labels (same fold, same draw, same seed). Draws are averaged inside a fold, folds are averaged, and the
interval over folds is Student's, widened for what the training parts of patient folds share
(`evidence.fold_interval`). Phantoms of different seeds share nothing.
"""
import argparse, time
from functools import partial
from pathlib import Path
import numpy as np
import pandas as pd
from cxr_workbench import evidence
from cxr_workbench.evidence import compare_paired, fold_interval, format_difference  # noqa: F401
from cxr_workbench.evidence import share_of_gap, summarise_variants  # noqa: F401
from cxr_workbench.sweeps import RunTable, run_jobs

# settings of the whole command; the preset is 'tiny' where there is no choice
SETTINGS = ['size', 'backbone', 'batch_size', 'unlabelled', 'preset']
KEY = ['data', 'fold', 'draw', 'regime', 'fraction', 'variant', 'steps', *SETTINGS]   # what makes a run this run


def build_parser(text, name):
    "The options that every experiment has."
    p = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--data', default='phantom', help="'phantom', an .npz of images beside --table, or a CSV of files")
    p.add_argument('--path', help='column of the image files of a CSV')
    p.add_argument('--packed', help='folder of `cxr-workbench pack` to read instead of the files of a CSV')
    p.add_argument('--table', help='the table beside the .npz, with a column of patient folds')
    p.add_argument('--fold-column', default='cv_fold')
    p.add_argument('--fold-count', type=int, default=5, help='patient folds that the table has')
    p.add_argument('--folds', type=int, nargs='+', help='folds that are held out in turn; for the phantom its seeds')
    p.add_argument('--draws', type=int, default=3, help='draws of the labelled subset')
    p.add_argument('--steps', type=int, default=360, help='optimiser steps of every run')
    p.add_argument('--variants', nargs='+', help='only these')
    p.add_argument('--size', type=int, default=64, help='side of the images, pixels; larger ones are averaged')
    p.add_argument('--backbone', default='test_resnet')
    p.add_argument('--batch-size', type=int, default=64, help='rows with labels in a batch, for every variant')
    p.add_argument('--unlabelled', type=int, default=64, help='rows without labels in a batch, where they are used')
    p.add_argument('--device', default='auto')
    p.add_argument('--jobs', type=int, default=1, help='runs at a time, which share the cores')
    p.add_argument('--backend', default='loky', help="of joblib: 'loky', or 'dask' and 'ray' for a cluster")
    p.add_argument('--scheduler', help='address of a Dask cluster')
    p.add_argument('--out', type=Path, default=Path(__file__).parent/'results'/f'{name}.csv')
    p.add_argument('--report-only', action='store_true', help='train nothing, print the tables of the runs that exist')
    return p


def test_to_train(o):
    "Size of a test part over that of the rest, of a command."
    return evidence.test_to_train(o.data, o.fold_count)


def split_parts(o, fold):
    "Training, validation and test part: patients are whole, the phantom's seeds are its folds."
    from cxr_workbench.data import from_phantom, patient_split
    from cxr_workbench.phantom import SyntheticCXR
    if o.data == 'phantom':
        rest = from_phantom(SyntheticCXR(2400, size=o.size, seed=100 + fold))
        test = from_phantom(SyntheticCXR(1500, size=o.size, seed=200 + fold))
    else:
        data = open_images(o)
        column = data.meta[o.fold_column]
        held, there = column.to_numpy() == fold, sorted(set(column))
        if not held.any(): raise ValueError(f'no row has {o.fold_column}={fold}: there are {there}')
        if len(there) != o.fold_count:
            raise ValueError(
                f'{o.fold_column} has {len(there)} folds, {there}, and --fold-count says {o.fold_count}: '
                f'give --fold-count {len(there)}')
        rest, test = data.subset(np.flatnonzero(~held)), data.subset(np.flatnonzero(held))
    train, valid = patient_split(rest.patient_id, rest.y, fraction=.15, seed=fold)
    return rest.subset(train), rest.subset(valid), test


def open_images(o):
    "The real images of a command: files of a CSV, those that are there, or an array."
    from cxr_workbench.data import from_csv, from_npz
    if not o.data.endswith('.csv'): return shrink_images(from_npz(o.data, table=o.table), o.size)
    where = dict(packed=o.packed) if o.packed else dict(size=o.size)
    return from_csv(o.data, path=o.path, missing='skip', **where)


def shrink_images(data, size):
    "The data set with smaller images, each pixel the mean of those that it replaces."
    import torch
    if size == data.size: return data
    images = torch.from_numpy(np.asarray(data.images)[data.rows]).float()[:, None]
    small = torch.nn.functional.interpolate(images, size=(size, size), mode='area')
    small = small[:, 0].round().to(torch.uint8)
    return data.copy_with(images=small.numpy(), rows=np.arange(len(small)), size=size)


def build_method(o, name, data, **kw):
    "A method for these labels and images; channels last in memory halve the time of a small network."
    import torch
    from cxr_workbench.core import create_method
    method = create_method(name, labels=data.label_names, size=o.size, backbone=o.backbone, **kw)
    return method.to(memory_format=torch.channels_last)


def reduce_labels(train, regime, fraction, draw):
    "The training part under a regime of annotation, as `labels.annotate` has it."
    from cxr_workbench.labels import annotate
    if regime == 'full': return train
    y, known = train.y.numpy(), train.known.numpy()
    return train.with_labels(*annotate(y, known, train.patient_id, regime, fraction, draw))


def count_epochs(stage, data, o, steps):
    """Epochs of a stage that come closest to so many steps, and its rows in a batch.

    Where rows are without labels, the steps are first rounded to whole epochs of mixed batches, for every variant.
    """
    from cxr_workbench.data import batch_sampler
    mixed = o.batch_size + o.unlabelled
    def count_batches(kind, rows): return len(batch_sampler(data.known, kind, rows, labelled=o.batch_size))
    if not data.known.any(1).all():
        length = count_batches('mixed', mixed)
        steps = max(1, round(steps/length))*length
    rows = mixed if stage.sampler == 'mixed' else o.batch_size
    return max(1, round(steps/count_batches(stage.sampler, rows))), rows


def measure_scores(method, part):
    "Macro AUROC and mean average precision over the labels that can be scored."
    from cxr_workbench.learner import predict
    from cxr_workbench.metrics import auroc, average_precision
    p = predict(method, part, batch_size=256)[list(part.label_names)].to_numpy()
    y, known = part.y.numpy(), part.known.numpy()
    return float(np.nanmean(auroc(p, y, known))), float(np.nanmean(average_precision(p, y, known)))


def train_and_score(o, job):
    "One run from its key and its method's arguments; gives the row."
    from cxr_workbench.core import seed_all
    from cxr_workbench.learner import fit
    key, name, kw = job['key'], job['method'], job['arguments']
    train, valid, test = split_parts(o, key['fold'])
    train = reduce_labels(train, key['regime'], key['fraction'], key['draw'])
    seed = 1000*key['fold'] + key['draw']
    seed_all(seed)
    method = build_method(o, name, train, **kw)
    epochs, rows = count_epochs(method.recipe()[0], train, o, key['steps'])
    start = time.time()
    history = fit(method, train, epochs=epochs, batch_size=rows, labelled=o.batch_size, seed=seed,
                  device=o.device, progress=False)
    seconds = round(time.time() - start, 1)
    valid_auroc, valid_ap = measure_scores(method, valid)
    auroc, ap = measure_scores(method, test)
    steps_done, labelled = int(history['step'].iloc[-1]), int(train.known.any(1).sum())
    return dict(key, valid_auroc=valid_auroc, valid_ap=valid_ap, auroc=auroc, ap=ap, steps_done=steps_done,
                rows=len(train), rows_labelled=labelled, seconds=seconds)


def read_runs(path):
    "The runs that exist, as a table."
    return pd.read_csv(path) if Path(path).exists() else pd.DataFrame(columns=KEY)


def list_keys(frame, names):
    "What makes each run of a table this run, as text, in the order of its rows."
    return list(zip(*(map(str, frame[name].tolist()) for name in names)))


def run_all(o, jobs, train=train_and_score):
    "Train what is not there yet, one row after the other; a run that fails is named and the others go on."
    o.out.parent.mkdir(parents=True, exist_ok=True)
    settings = {name: getattr(o, name, 'tiny') for name in SETTINGS}
    data = 'phantom' if o.data == 'phantom' else Path(o.data).stem
    for job in jobs: job['key'].update(settings, data=data)
    table = RunTable(o.out, KEY)
    have = table.find_states()
    todo = [job for job in jobs if table.identify(job['key']) not in have]
    print(f'{len(jobs)} runs, {len(jobs)-len(todo)} of them exist in {o.out}', flush=True)
    if o.report_only or not todo: return read_runs(o.out)
    spread = dict(workers=o.jobs, backend=getattr(o, 'backend', 'loky'), scheduler=getattr(o, 'scheduler', None))
    failed = RunTable(o.out.with_name(f'{o.out.stem}-failed.csv'), KEY)
    run_jobs(todo, partial(train, o), table, failed, retry=True, say=print_run, **spread)
    return read_runs(o.out)


def print_run(place, row):
    "A line about a run that has ended."
    run = '{variant} fold {fold} draw {draw} {regime} {fraction}'.format(**row)
    if row['state'] == 'done':
        scores = 'AUROC {auroc:.4f}, AP {ap:.4f}, {steps_done} steps, {seconds:.0f} s'.format(**row)
        print(f'{place} {run}: {scores}', flush=True)
    else: print(f'{place} {run}: {row["state"].upper()} {row.get("reason", "")}', flush=True)


def run_experiment(o, list_jobs, format_tables, train=train_and_score, name=''):
    "An experiment from its options: every run, and its tables, printed and written beside `--out`."
    if o.folds is None: o.folds = list(range(3 if o.data == 'phantom' else o.fold_count))
    jobs = list_jobs(o)
    frame = run_all(o, jobs, train)
    if not len(frame): return
    text = format_tables(o, frame, jobs)
    print('\n' + text)
    parts = [o.out.stem, name, 'phantom' if o.data == 'phantom' else 'real']
    o.out.with_name('-'.join(filter(None, parts)) + '.md').write_text(text + '\n')


def select_runs(frame, jobs):
    "The runs that a command asks for, among all that exist."
    names, wanted = list(jobs[0]['key']), {tuple(str(v) for v in job['key'].values()) for job in jobs}
    return frame[[run in wanted for run in list_keys(frame, names)]]


def summarise_scores(frame, order, scores, ratio):
    "One line per variant: means of the scores, and paired differences to the first variant with intervals."
    lines, first = [], order[0]
    for v in order:
        mine = frame[frame['variant'] == v]
        line = dict(variant=v, runs=len(mine), **{k: round(mine[k].mean(), 4) for k in scores})
        for k in scores:
            found = None if v == first else compare_paired(frame, v, first, k, ratio)
            line[f'{k} - {first}'] = format_difference(found)
        lines.append(line)
    return pd.DataFrame(lines)


def compare_steps(frame, pairs, scores, ratio):
    "One line per pair of variants: the second against the first in every score."
    def compare(a, b): return {k: format_difference(compare_paired(frame, b, a, k, ratio)) for k in scores}
    return pd.DataFrame([dict(step=f'{b} against {a}', **compare(a, b)) for a, b in pairs])


def count_cells(o):
    "Cells along the shorter side of the feature map that the runs of a command see."
    from cxr_workbench.backbone import Backbone
    wanted = 8 if getattr(o, 'preset', 'tiny') == 'maps' else None
    return min(Backbone(o.backbone, size=o.size, min_cells=wanted).cells)


def format_markdown(frame):
    "A table as Markdown."
    head = '| ' + ' | '.join(frame.columns) + ' |\n|' + ' --- |'*len(frame.columns)
    return '\n'.join([head, *('| ' + ' | '.join(map(str, row)) + ' |' for row in frame.itertuples(index=False))])
