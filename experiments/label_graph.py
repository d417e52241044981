"""The label graph of TRCGL-Net on fixed maps: the counted adjacency against shuffled labels, the identity, no graph.

    python experiments/label_graph.py                                     # four phantoms, 150 steps of 64 rows
    python experiments/label_graph.py --variants identity counted --folds 0 1

The maps are those of the packaged supervised network. They stay fixed; normalisation, attention, classifier and graph
are trained on them, with the method's loss, on tables made long-tailed as in `long_tail.py`. `shuffled` gives every
label the relations of another one, `identity` joins none. `code's reading` has neither the label's own vector beside
the graph's part nor a factor on the cosine. One row per run in `--out`, a table beside it.
"""
import time
from functools import lru_cache
import numpy as np
import pandas as pd
from common import build_method, build_parser, compare_paired, format_difference, format_markdown
from common import run_experiment, select_runs, split_parts, test_to_train
from long_tail import find_tail, thin_labels
from rivals import Options

SCORES = ('auroc', 'ap', 'tail_auroc', 'tail_ap')
LOOKS = ('spread_before', 'spread', 'cosine')   # see `measure_graph`
OURS, CODE = dict(hidden=64), dict(hidden=64, residual=None, scale=None)
VARIANTS = {   # name -> setting of the graph, what becomes of the counted adjacency
    'no graph': (False, 'kept'), 'identity': (OURS, 'identity'), 'shuffled': (OURS, 'shuffled'),
    'counted': (OURS, 'kept'), "code's reading, shuffled": (CODE, 'shuffled'), "code's reading": (CODE, 'kept')}
PAIRS = [('no graph', 'counted'), ('identity', 'counted'), ('shuffled', 'counted'),
         ("code's reading, shuffled", "code's reading"), ("code's reading", 'counted')]


def read_maps(data):
    "Feature maps of the packaged supervised network, (n, D, h, w)."
    import torch
    from cxr_workbench.learner import find_model, load
    model = load(find_model('supervised'))
    with torch.no_grad():
        parts = torch.arange(len(data)).split(200)
        return torch.cat([model.look(data.batch(rows.tolist()).x)[1]['feature_map'] for rows in parts])


@lru_cache(maxsize=1)
def prepare_parts(fold, settings):
    "Maps and data of the training and the test part, and which labels are the tail; kept for the next run."
    o = settings.options
    train, _, test = split_parts(o, fold)
    train = thin_labels(train, o, fold)
    return read_maps(train), train, read_maps(test), test, find_tail(train, o)


def change_adjacency(graph, how, seed):
    "The counted adjacency as it is ('kept'), the identity, or the counted one with its labels in another order."
    import torch
    if how == 'identity': graph.adjacency.copy_(torch.eye(len(graph.adjacency)))
    if how == 'shuffled':
        labels = np.random.default_rng(seed).permutation(len(graph.adjacency))
        order = np.empty_like(labels)
        order[labels] = np.roll(labels, 1)   # no label keeps its place
        graph.adjacency.copy_(graph.adjacency[order][:, order].clone())


def read_head(method, maps):
    "Logits, and the part of them that the label graph gives; (B, C) each, 0 without a graph."
    logits, probes = method.reader(method.norm(maps))
    if method.label_graph is None: return logits, logits*0
    part = method.graph_weight*method.label_graph(probes['features'])
    return logits + part, part


def measure_graph(method, maps):
    "Spread over images of the graph's part over that of the logits; mean cosine of two label vectors; NaN without."
    import torch
    if method.label_graph is None: return np.nan, np.nan
    with torch.no_grad():
        logits, part = read_head(method.eval(), maps)
        vectors = torch.nn.functional.normalize(method.label_graph.classifiers(), dim=1)
    apart = ~torch.eye(len(vectors), dtype=torch.bool)
    spread, cosine = part.std(0)/logits.std(0), (vectors @ vectors.mT)[apart]
    return float(spread.mean()), float(cosine.mean())


def train_head(method, maps, data, steps, batch_size, seed, lr=2e-3):
    "Everything but the backbone, on maps that stay as they are."
    import torch
    parts = torch.nn.ModuleList([p for p in (method.norm, method.reader, method.label_graph) if p is not None])
    optimizer = torch.optim.AdamW(parts.parameters(), lr, weight_decay=.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps)
    draw = torch.Generator().manual_seed(seed)
    method.train()
    for _ in range(steps):
        rows = torch.randint(len(maps), (batch_size,), generator=draw)
        loss = method.compute_loss(read_head(method, maps[rows])[0], data.y[rows], data.known[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return method.eval()


def score_head(method, maps, data, tail):
    "Means over all labels and over the tail."
    import torch
    from cxr_workbench.metrics import auroc, average_precision
    with torch.no_grad(): p = read_head(method, maps)[0].sigmoid().numpy()
    found = {}
    for name, measure in dict(auroc=auroc, ap=average_precision).items():
        values = np.asarray(measure(p, data.y.numpy()))
        found |= {name: float(np.nanmean(values)), f'tail_{name}': float(np.nanmean(values[tail]))}
    return found


def train_on_maps(o, job):
    "One run from its key and the setting of its graph; gives the row."
    from cxr_workbench.core import seed_all
    key, how = job['key'], job['adjacency']
    train_maps, train, test_maps, test, tail = prepare_parts(key['fold'], Options(o))
    seed = 1000*key['fold'] + key['draw']
    seed_all(seed)
    method = build_method(o, 'trcgl', train, preset=o.preset, **job['arguments'])
    method.prepare(train.y, train.known)
    if method.label_graph is not None: change_adjacency(method.label_graph, how, seed)
    before, start = measure_graph(method, test_maps)[0], time.time()
    train_head(method, train_maps, train, key['steps'], o.batch_size, seed)
    seconds = round(time.time() - start, 1)
    looks = dict(zip(LOOKS, (before, *measure_graph(method, test_maps))))
    scores = score_head(method, test_maps, test, tail)
    return {**key, **scores, **looks, 'steps_done': key['steps'], 'rows': len(train), 'tail': int(tail.sum()),
            'seconds': seconds}


def format_tables(o, frame, jobs):
    "Means, and paired differences, as Markdown."
    frame, ratio = select_runs(frame, jobs), test_to_train(o)
    def average(v):
        mine = frame[frame['variant'] == v]
        means = {k: round(mine[k].mean(), 4) for k in (*SCORES, *LOOKS)}
        return dict(variant=v, runs=len(mine), **means)
    def compare(a, b):
        found = {k: format_difference(compare_paired(frame, b, a, k, ratio)) for k in SCORES}
        return dict(step=f'{b} against {a}', **found)
    have = set(frame['variant'])
    pairs = [compare(a, b) for a, b in PAIRS if {a, b} <= have]
    title = f'### phantom, ratio {o.ratio:g}, folds {o.folds}, {o.steps} steps on fixed maps, {o.size} px'
    means = pd.DataFrame([average(v) for v in VARIANTS if v in have]).astype(object)
    text = [title, format_markdown(means.fillna(''))]
    return '\n\n'.join([*text, *([format_markdown(pd.DataFrame(pairs))] if pairs else [])])


def list_jobs(o):
    "Every run of the experiment, with its key."
    if strange := [v for v in o.variants or [] if v not in VARIANTS]:
        raise SystemExit(f'no variant {strange}: there are {list(VARIANTS)}')
    if o.data != 'phantom' or o.size != 64:
        raise SystemExit('the packaged network has seen phantoms of 64 px: leave out --data and --size')
    jobs = []
    for fold in o.folds:
        for v in o.variants or VARIANTS:
            common = dict(data=o.data, fold=fold, draw=0, regime=f'tail, ratio {o.ratio:g}', fraction=1.)
            graph, how = VARIANTS[v]
            key = dict(**common, variant=v, steps=o.steps)
            jobs.append(dict(key=key, method='trcgl', arguments=dict(graph=graph), adjacency=how))
    return jobs


def main(command=None):
    p = build_parser(__doc__, 'label_graph')
    p.add_argument('--ratio', type=float, default=50., help='of the tail: see long_tail.py')
    p.add_argument('--tail', type=float, default=.03, help='labels on less than this share of the images are the tail')
    p.set_defaults(steps=150, folds=[0, 1, 2, 3], preset='maps')
    run_experiment(p.parse_args(command), list_jobs, format_tables, train_on_maps)


if __name__ == '__main__': main()
