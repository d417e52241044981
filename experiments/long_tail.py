"""The long tail: the parts of TRCGL-Net, added one at a time, and generated images against repeated real ones.

    python experiments/long_tail.py                                       on the phantom made long-tailed, three seeds
    python experiments/long_tail.py --data images.npz --table table.csv   on real images made long-tailed, five patient folds
    python experiments/long_tail.py --variants base '+ loss and sampler' 'tail repeated' '+ generated' --jobs 2

Training labels are thinned until the most frequent label has `--ratio` times the positives of the rarest; validation and test
parts keep theirs. The tail are the labels below `--tail` of the training images. Every variant gets the same number of optimiser
steps, a sixth of them with a frozen backbone. `+ generated` adds images of the package's small diffusion model (phantom only: it
knows no other images, and it has seen phantoms that the training part has not); `tail repeated` draws the real images that these
were made after, as often. One row per run in `--out`, tables beside it.
"""
import time
from dataclasses import replace
import numpy as np
import pandas as pd
from common import arguments, conclude, made, markdown, of_jobs, paired, parts, shown

SCORES = ('auroc', 'ap', 'f1', 'tail_auroc', 'tail_ap', 'tail_f1')


def variants():
    "The ladder of the method's page, then the rivals of its last step."
    from cxr_workbench.methods.trcgl import LADDER
    ladder = {name: LADDER[name] for name in ('base', '+ channel gate', '+ class attention', '+ label graph', '+ loss and sampler')}
    return {**ladder, '+ generated': {}, 'tail repeated': {}, 'base, sampler': {**LADDER['base'], 'resample': True}}


def thinned(train, o, fold):
    "The training part with a long tail; rows that were set aside are left out."
    from cxr_workbench.labels import long_tail
    train = train.with_labels(*long_tail(train.y.numpy(), ratio=o.ratio, seed=fold, known=train.known.numpy()))
    return train.subset(np.flatnonzero(train.known.any(1).numpy()))


def tail_of(train, o):
    "Which labels are rare, (C,) bool."
    from cxr_workbench.labels import frequency_groups
    groups = frequency_groups(train.y.numpy(), train.known.numpy(), head=max(.05, o.tail), tail=o.tail, names=train.label_names)
    return np.array([groups[name] == 'tail' for name in train.label_names])


def requests_of(train, tail, seed):
    "What the generator is asked for: rows of the tail with all their labels, as often as lifts each to three times its count."
    from cxr_workbench.methods.trcgl_requests import tail_requests
    return tail_requests(train, [name for name, rare in zip(train.label_names, tail) if rare], seed=seed)


def with_made(train, tail, o, seed):
    "The training part and images that the package's generator made, judged by a classifier that is independent of it."
    from cxr_workbench.learner import load, trained
    from cxr_workbench.methods.trcgl_diffusion import PromptLatentDiffusion, embedded
    from cxr_workbench.methods.trcgl_requests import even_odds, generate, with_generated
    if o.data != 'phantom' or o.size != 64: raise SystemExit('the generator of the package knows phantoms of 64 pixels only: leave out "+ generated"')
    folder = o.out.parent/'generated'/f'seed-{seed}-ratio-{o.ratio:g}'    # what is there is not drawn again
    model = PromptLatentDiffusion.from_pretrained(embedded(), device='cuda' if o.device == 'cuda' else 'cpu')
    generate(model, requests_of(train, tail, seed), folder, even_odds(load(trained('referee'))), tries=2, batch_size=32, seed=seed, steps=20)
    return with_generated(train, folder)


def with_repeats(train, tail, o, seed):
    "The training part, and the real rows that generated ones would copy, as often."
    return train.subset(np.concatenate([np.arange(len(train)), requests_of(train, tail, seed).source.to_numpy()]))


MORE = {'+ generated': with_made, 'tail repeated': with_repeats}   # what is added to the training part


def planned(method, steps):
    "The recipe with exactly so many steps, a sixth of them in the first stage."
    stages, first = method.recipe(), round(steps/6)
    lengths = [first, steps - first] if len(stages) == 2 else [steps]
    plan = [replace(stage, epochs=1, steps=n) for stage, n in zip(stages, lengths)]
    method.recipe = lambda: plan
    return method


def scores(method, part, tail):
    "Means over all labels and over the tail."
    from cxr_workbench.learner import predict
    from cxr_workbench.metrics import auroc, average_precision, f1
    p, y, known = predict(method, part, batch_size=256)[list(part.label_names)].to_numpy(), part.y.numpy(), part.known.numpy()
    values = dict(auroc=auroc(p, y, known), ap=average_precision(p, y, known), f1=f1(p, y, known=known, threshold=.2))
    return {k: float(np.nanmean(v)) for k, v in values.items()} | {f'tail_{k}': float(np.nanmean(np.asarray(v)[tail])) for k, v in values.items()}


def train_one(o, job):
    "One run from its key and its method's arguments; gives the row."
    import torch
    from cxr_workbench.core import seed_all
    from cxr_workbench.learner import fit
    if o.jobs > 1: torch.set_num_threads(1)
    key = job['key']
    train, valid, test = parts(o, key['fold'])
    train = thinned(train, o, key['fold'])
    tail, seed = tail_of(train, o), 1000*key['fold'] + key['draw']
    if key['variant'] in MORE: train = MORE[key['variant']](train, tail, o, seed)
    seed_all(seed)
    method = planned(made(o, 'trcgl', train, preset=o.preset, rare=o.rare, **job['arguments']), key['steps'])
    start = time.time()
    history = fit(method, train, batch_size=o.batch_size, seed=seed, device=o.device, progress=False)
    seconds = round(time.time()-start, 1)
    return dict(key, **{f'valid_{k}': v for k, v in scores(method, valid, tail).items()}, **scores(method, test, tail), steps_done=int(history.groupby('stage')['step'].max().sum()),
                rows=len(train), made=int(train.synthetic.sum()) if train.synthetic is not None else 0, tail=int(tail.sum()), seconds=seconds)


def tables(o, frame, jobs):
    "Means, paired differences to the base, and one part at a time, as Markdown."
    frame = of_jobs(frame, jobs)
    order = [v for v in dict.fromkeys(job['key']['variant'] for job in jobs) if v in set(frame['variant'])]
    means = pd.DataFrame([dict(variant=v, runs=len(mine := frame[frame['variant'] == v]), **{k: round(mine[k].mean(), 4) for k in SCORES}) for v in order])
    against = lambda pairs: pd.DataFrame([dict(step=f'{b} against {a}', **{k: shown(paired(frame, b, a, k)) for k in SCORES}) for a, b in pairs])
    rivals = [p for p in (('+ loss and sampler', '+ generated'), ('+ loss and sampler', 'tail repeated'), ('tail repeated', '+ generated')) if set(p) <= set(order)]
    ladder = [v for v in order if v in ('base', '+ channel gate', '+ class attention', '+ label graph', '+ loss and sampler')]
    return '\n\n'.join([f"### {o.data if o.data == 'phantom' else 'real images'}, ratio {o.ratio:g}, {int(frame['tail'].median())} tail labels, folds {o.folds}, {o.steps} steps, {o.size} px, {o.backbone}",
                        markdown(means), '**Against the base**', markdown(against([(order[0], v) for v in order[1:]])),
                        '**One part at a time**', markdown(against([*zip(ladder, ladder[1:]), *rivals]))])


def jobs_of(o):
    "Every run of the experiment, with its key."
    table = variants()
    chosen = o.variants or [v for v in table if o.data == 'phantom' or v != '+ generated']
    if strange := [v for v in chosen if v not in table]: raise SystemExit(f'no variant {strange}: there are {list(table)}')
    key = lambda fold, v: dict(data=o.data, fold=fold, draw=0, regime=f'tail, ratio {o.ratio:g}', fraction=1., variant=v, steps=o.steps)
    return [dict(key=key(fold, v), method='trcgl', arguments=table[v]) for fold in o.folds for v in chosen]


def main():
    p = arguments(__doc__, 'long_tail')
    p.add_argument('--ratio', type=float, default=50., help='positives of the most frequent label over those of the rarest, in training')
    p.add_argument('--tail', type=float, default=.03, help='labels on less than this share of the training images are the tail')
    p.add_argument('--rare', type=float, default=.1, help='threshold of the repeats; the 0.01 of the paper repeats nothing in so small a table')
    p.add_argument('--preset', default='tiny', help="the method's setting: 'tiny' or 'maps'")
    conclude(p.parse_args(), jobs_of, tables, train_one)


if __name__ == '__main__': main()
