"""The rivals: losses, heads and mixtures of others, each put into the baseline, with single positives and with a tail.

    python experiments/rivals.py single-positive                          # on the phantom, one finding per image
    python experiments/rivals.py tail                                     # on the phantom made long-tailed
    python experiments/rivals.py single-positive --data images.npz --table table.csv

Every variant is the supervised baseline with one part exchanged, on the same rows for the same number of steps. With
single positives all of them count unknown entries as absent; `LL-R, 9 %` leaves out at the end as many entries as the
phantom hides findings, of every label in proportion to what is annotated, or nothing that follows from an annotation
(the phantom has a label No Finding), or both; the others have their defaults. In the tail the training labels are
thinned as in `long_tail.py`. Validation and test parts keep all labels. One row per run in `--out`, a table per regime
beside it.
"""
import time
from functools import lru_cache
from common import build_method, build_parser, count_epochs, format_markdown, reduce_labels, run_experiment
from common import select_runs, split_parts, summarise_scores, test_to_train
from long_tail import find_tail, score_part, thin_labels

SCORES = ('auroc', 'ap', 'tail_auroc', 'tail_ap')
HEADS = {
    'BoostLU': dict(head='boost'), 'label decoder': dict(head=dict(kind='decoder', dim=128)),
    'MixUp': dict(mix='mixup'), 'SpliceMix': dict(mix='splice')}


def list_variants(regime, exclusive=None):
    """Variants of a regime: the arguments in which each differs from the baseline, the baseline first.

    `exclusive` is the position of No Finding, where the labels have it.
    """
    def share(kind, r, **kw): return dict(loss=dict(kind=kind, share=r, **kw))
    if regime == 'tail':
        losses = {'asymmetric': 'asymmetric', 'focal': 'focal', 'LDAM': dict(kind='ldam', defer=2.), 'LDAM-DRW': 'ldam'}
        return {'BCE': {}, **{name: dict(loss=loss) for name, loss in losses.items()}, **HEADS}
    follows = {}
    if exclusive is not None: follows = {
        'LL-R, 9 %, No Finding follows': share('ll_r', .09, exclusive=exclusive),
        'LL-R, 9 %, both': share('ll_r', .09, per_label='annotated', exclusive=exclusive)}
    return {
        'AN': {}, 'WAN': dict(loss='wan'), 'LL-R': dict(loss='ll_r'), 'LL-Ct': dict(loss='ll_ct'),
        'LL-Cp': dict(loss='ll_cp'), 'LL-R, 9 %': share('ll_r', .09), 'LL-Ct, 9 %': share('ll_ct', .09),
        'LL-R, 9 %, as annotated': share('ll_r', .09, per_label='annotated'), **follows,
        **HEADS, 'LL-R and BoostLU': dict(loss='ll_r', head='boost')}


@lru_cache(maxsize=1)
def prepare_parts(fold, regime, draw, settings):
    "Training, validation and test part of a run, and which labels are the tail; kept for the next run."
    o = settings.options
    train, valid, test = split_parts(o, fold)
    if regime != 'tail': return reduce_labels(train, regime, 1., draw), valid, test, find_tail(train, o)
    train = thin_labels(train, o, fold)
    return train, valid, test, find_tail(train, o)


class Options:
    "Options of a command that can be a key: alike where their texts are."
    def __init__(self, options): self.options, self.text = options, str(vars(options))
    def __hash__(self): return hash(self.text)
    def __eq__(self, other): return self.text == other.text


def train_rival(o, job):
    "One run from its key and its method's arguments; gives the row."
    from cxr_workbench.core import seed_all
    from cxr_workbench.learner import fit
    key = job['key']
    train, valid, test, tail = prepare_parts(key['fold'], key['regime'], key['draw'], Options(o))
    seed = 1000*key['fold'] + key['draw']
    seed_all(seed)
    unknown = 'ignore' if key['regime'] == 'full' else 'negative'
    method = build_method(o, job['method'], train, preset=o.preset, unknown=unknown, **job['arguments'])
    epochs, rows = count_epochs(method.recipe()[0], train, o, key['steps'])
    start = time.time()
    history = fit(method, train, epochs=epochs, batch_size=rows, seed=seed, device=o.device, progress=False)
    seconds = round(time.time() - start, 1)
    found = {f'valid_{k}': v for k, v in score_part(method, valid, tail).items()} | score_part(method, test, tail)
    steps_done = int(history['step'].iloc[-1])
    return {**key, **found, 'steps_done': steps_done, 'rows': len(train), 'tail': int(tail.sum()), 'seconds': seconds}


def format_tables(o, frame, jobs):
    "Means, and paired differences to the baseline, as Markdown."
    frame, ratio = select_runs(frame, jobs), test_to_train(o)
    order = [v for v in dict.fromkeys(job['key']['variant'] for job in jobs) if v in set(frame['variant'])]
    scores = [k for k in SCORES if o.regime == 'tail' or not k.startswith('tail')]
    lines = summarise_scores(frame, order, scores, ratio)
    where = 'phantom' if o.data == 'phantom' else 'real images'
    what = 'one positive label per image' if o.regime == 'single-positive' else f'ratio {o.ratio:g}'
    title = f'### {where}, {what}, folds {o.folds}, {o.steps} steps, {o.size} px, {o.backbone}, {o.preset}'
    return f'{title}\n\n{format_markdown(lines)}'


def list_jobs(o):
    "Every run of the experiment, with its key; with single positives also the bound with all labels."
    table, jobs = list_variants(o.regime, exclusive=0 if o.data == 'phantom' else None), []
    def add(fold, draw, regime, variant, kw):
        key = dict(data=o.data, fold=fold, draw=draw, regime=regime, fraction=1., variant=variant, steps=o.steps)
        jobs.append(dict(key=key, method='supervised', arguments=kw))

    for fold in o.folds:
        for draw in range(o.draws):
            for variant in o.variants or table: add(fold, draw, o.regime, variant, table[variant])
            if o.regime == 'single-positive': add(fold, draw, 'full', 'fully labelled', {})
    return jobs


def main(command=None):
    p = build_parser(__doc__, 'rivals')
    p.add_argument('regime', choices=['single-positive', 'tail'])
    p.add_argument('--ratio', type=float, default=50., help='of the tail: see long_tail.py')
    p.add_argument('--tail', type=float, default=.03, help='labels on less than this share of the images are the tail')
    p.add_argument('--preset', default='maps', help="the method's setting: heads of maps need cells")
    o = p.parse_args(command)
    run_experiment(o, list_jobs, format_tables, train_rival, o.regime)


if __name__ == '__main__': main()
