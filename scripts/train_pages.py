"""Train the small models that the pages open on; they go into cxr_workbench/trained, in half precision.

    python scripts/train_pages.py                # all of them
    python scripts/train_pages.py supervised     # one
    python scripts/train_pages.py supervised --epochs 1 --rows 200 --out /tmp/try   # does it still run?
    python scripts/train_pages.py diffusion --steps 20 --rows 200 --out /tmp/try    # and this one?

`diffusion` has five trainings, one after the other; what is finished lies in OUT/diffusion/unfinished until all is, and
the same command goes on there.
"""
import argparse, shutil, tempfile
from pathlib import Path
from typing import NamedTuple
import numpy as np
import pandas as pd
import torch
from cxr_workbench.core import create_method, seed_all
from cxr_workbench.data import from_arrays, from_phantom, patient_split
from cxr_workbench.labels import annotate, frequency_groups, long_tail
from cxr_workbench.learner import find_model, fit, load, predict, save
from cxr_workbench.metrics import auroc, average_precision
from cxr_workbench.phantom import FINDINGS, PREVALENCE, SyntheticCXR

home = Path(__file__).resolve().parent.parent/'cxr_workbench'/'trained'

# name -> method, its arguments, phantom images, epochs; the phantom's seed is 0, so a page tests on another.
# With a `regime` (arguments of labels.annotate) the training labels are reduced, those of the held-out tenth are not;
# `baseline` is trained on the same labels with as many steps, `without` is a label that is left out. A regime with a
# `ratio` (arguments of labels.long_tail) makes the training labels long-tailed
ACAA_SMALL = dict(preset='tiny', min_cells=8, backbone='test_efficientnet')   # a quarter of the others' size
MODELS = {
    'supervised': dict(method='supervised', arguments=dict(preset='maps'), rows=3000, epochs=12),
    'can': dict(method='can', arguments=dict(preset='maps'), rows=3000, epochs=12),
    'lcc': dict(method='lcc', arguments=dict(preset='maps'), rows=3000, epochs=12),
    # a classifier of single findings: none is rare and none is correlated with another
    'referee': dict(
        method='supervised', arguments=dict(preset='maps', shift=.03, lr=4e-3), rows=12000, epochs=24,
        phantom=dict(seed=7, prevalence=np.full(13, .25), latent_corr=np.eye(13))),
    'trcgl': dict(
        method='trcgl', arguments=dict(preset='maps', repeat=dict(threshold=.1)), rows=5000, epochs=12,
        regime=dict(ratio=50, seed=0)),
    'mpc': dict(
        method='mpc', arguments=dict(preset='maps', tau_neg=.2), rows=3000, epochs=16, batch_size=32,
        regime=dict(regime='single-positive', seed=1200), without='No Finding',
        baseline=dict(arguments=dict(preset='maps', reject=False, weights=dict(image=0., feature=0., batch=0.)))),
    'acaa': dict(
        method='acaa', rows=1500, epochs=9, batch_size=32,
        arguments=dict(ACAA_SMALL, trust='fixed', adv_on='strong', attack=dict(eps='auto')),
        regime=dict(regime='fraction', fraction=.2, seed=0),
        baseline=dict(   # 8 labelled images per step, as many as in a mixed batch, and as many steps
            method='supervised', arguments=dict(ACAA_SMALL, sampler='known'), batch_size=8, epochs=12)),
}
TEST = dict(n=2000, seed=2027)   # the phantom of scores.csv


def paint_data(n, size=64, without=None, **phantom):
    "A phantom as a data set, with or without one of its labels."
    cxr = SyntheticCXR(n, size=size, **phantom)
    keep = [c for c, name in enumerate(cxr.label_names) if name != without]
    names = [cxr.label_names[c] for c in keep]
    return from_arrays(cxr.images, cxr.labels[:, keep], patient_id=cxr.patient_id, label_names=names)


def hide_labels(data, regime=None):
    "The labels that a regime leaves; rows that a long tail sets aside are left out."
    if 'ratio' in (regime or {}):
        thinned = data.with_labels(*long_tail(data.y, **regime))
        return thinned.subset(thinned.known.any(1))
    return data.with_labels(*annotate(data.y, data.known, data.patient_id, **(regime or {})))


def count_outcomes(step, known, truth):
    "How many hidden entries are trusted as present or absent, rightly or wrongly, and how many are not."
    hidden, present = ~known, truth == 1
    pseudo, mask = step.probes['pseudo'] == 1, step.probes['mask'].bool() & hidden
    parts = {
        'right, present': mask & pseudo & present, 'right, absent': mask & ~pseudo & ~present,
        'wrong, present': mask & pseudo & ~present, 'wrong, absent': mask & ~pseudo & present,
        'missed': hidden & ~mask & present, 'abstained': hidden & ~mask & ~present}
    return {name: int(part.sum()) for name, part in parts.items()}


def watch_trust(method, truth, epochs):
    "Count in every training step what is trusted; gives the rows, which fill up while the method is trained."
    rows, step = [], method.step
    def counted(batch, progress=1., stage=0):
        done = step(batch, progress, stage)
        outcomes = count_outcomes(done, batch.known, truth[batch.idx])
        rows.append(dict(epoch=int(progress*epochs + 1e-6) + 1, **outcomes))
        return done
    method.step = counted
    return rows


def score_labels(methods, size=64, without=None):
    "AUROC and average precision of each label on a phantom that no model has seen, a column per model."
    whole, test = (paint_data(size=size, without=name, **TEST) for name in (None, without))
    truth, found = test.y.numpy(), dict(label=test.label_names, present=test.y.sum(0).int().tolist())
    for name, method in methods.items():
        data = test if len(method.label_names) == len(test.label_names) else whole
        scores = predict(method, data)[test.label_names].to_numpy()
        found[f'{name}, auroc'] = auroc(scores, truth).round(4)
        found[f'{name}, ap'] = average_precision(scores, truth).round(4)
    return pd.DataFrame(found)


def train_once(wish, train, valid, truth, epochs, size, history):
    "One training; its history, and what it trusted, go into files."
    seed_all(0)
    epochs = epochs or wish['epochs']
    method = create_method(wish['method'], labels=train.label_names, size=size, **wish['arguments'])
    method.to(memory_format=torch.channels_last)   # a fifth to a third faster on a CPU
    trusted = watch_trust(method, truth, epochs) if 'baseline' in wish else []
    with tempfile.TemporaryDirectory() as folder:
        log = fit(method, train, valid, out=folder, epochs=epochs, batch_size=wish.get('batch_size', 64), seed=0)
        shutil.copyfile(Path(folder)/'history.csv', history)
    if trusted: pd.DataFrame(trusted).groupby('epoch').sum().to_csv(history.with_name('trusted.csv'))
    print(f"{history}: {len(log)} epochs, held-out phantom AUROC {log['valid/auroc'].iloc[-1]:.3f}", flush=True)
    return method


def train_model(name, out, rows=None, epochs=None, size=64):
    "Train one model on the phantom, a tenth of the patients held out, and keep what a page needs."
    wish, home = MODELS[name], Path(out)/name
    data = paint_data(rows or wish['rows'], size, wish.get('without'), **wish.get('phantom', dict(seed=0)))
    train_rows, valid_rows = patient_split(data.patient_id, data.y, fraction=.1, seed=0)
    full, valid = data.subset(train_rows), data.subset(valid_rows)
    train = hide_labels(full, wish.get('regime'))
    home.mkdir(parents=True, exist_ok=True)
    run = dict(train=train, valid=valid, truth=full.y, epochs=epochs, size=size)
    method = train_once(wish, **run, history=home/'history.csv')
    save(method, home, dtype=torch.float16, command=f'python scripts/train_pages.py {name}')
    if 'baseline' not in wish: return
    plain = {**wish, **wish['baseline']}
    del plain['baseline']
    baseline = train_once(plain, **run, history=home/'baseline.csv')
    models = {name: method, 'baseline': baseline, 'all labels': load(find_model('supervised'))}
    scores = score_labels({who: model.eval() for who, model in models.items()}, size, wish.get('without'))
    scores.to_csv(home/'scores.csv', index=False)
    print(scores.mean(numeric_only=True).round(3).to_dict(), flush=True)


# ---- the generator of 61_trcgl_diffusion ----

STEPS = dict(autoencoder=3000, base=6000, fine=6000, decoder=3000, prompt=300)
STEPS_OF_A_SAMPLE = 20
OFTEN = dict(zip(FINDINGS, np.maximum(PREVALENCE, .12)))    # what the generator has seen: nothing is rare


def write_sentences(data, without=None):
    "One sentence for every row, a label left out where it is named."
    from cxr_workbench.methods.trcgl_diffusion import write_sentence
    def name_present(row): return [name for name, y in zip(data.label_names, row) if y and name != without]
    return [write_sentence(name_present(row)) for row in data.y.tolist()]


def build_tail():
    "The long-tailed table of the page, and its tail."
    whole = from_phantom(SyntheticCXR(2000, size=64, seed=0))
    table = whole.with_labels(*long_tail(whole.y, ratio=50, seed=0))
    table = table.subset(table.known.any(1))
    groups = frequency_groups(table.y, table.known, tail=.03, names=table.label_names)
    return table, [name for name, group in groups.items() if group == 'tail']


def read_pixels(data): return torch.from_numpy(np.asarray(data.images[data.rows]))[:, None]


def encode(model, data):
    "Latents of all images, 200 at a time."
    return torch.cat([model.to_latents(x.float()/255) for x in read_pixels(data).split(200)])


class TrainingRun(NamedTuple):
    "One training of several: its file and its settings."
    name: str
    folder: Path
    rows: int | None    # of the phantom, where they were given
    steps: int

    @property
    def file(self): return self.folder/f'{self.name}.pt'

    @property
    def settings(self): return dict(rows=self.rows, steps=self.steps)

    def load_state(self, net):
        "The last saved state, loaded into the net; SystemExit where the file is of a training with other settings."
        fresh = dict(step=0, log=[], state=net.state_dict(), config={}, settings=self.settings)
        held = torch.load(self.file, weights_only=False) if self.file.exists() else fresh
        if held['settings'] != self.settings:
            raise SystemExit(f"{self.file} is of another training, {held['settings']}: delete it, or ask for the same")
        net.load_state_dict(held['state'])
        if held['config']: net.register_to_config(**held['config'])
        return held

    def save_state(self, step, log, state, config):
        "Write the state from which the training can go on, whole or not at all."
        part = self.folder/'part'
        torch.save(dict(step=step, log=log, state=state, config=config, settings=self.settings), part)
        part.replace(self.file)
        print(f'{self.name}: {step} of {self.steps} steps', flush=True)


def run_training(training, net, train):
    "One training from its last saved step, and its log; `train` takes the first step and a callback, and gives a log."
    held = training.load_state(net)
    def extend(log): return held['log'] + [dict(row, part=training.name) for row in log]
    def report(step, log, state=None):
        if step % 250 == 0: training.save_state(step, extend(log), (state or net).state_dict(), {})
    if held['step'] < training.steps:
        log = extend(train(held['step'], report).to_dict('records'))
        config = dict(scaling_factor=net.config.scaling_factor) if training.name == 'autoencoder' else {}
        training.save_state(training.steps, log, net.state_dict(), config)
    return torch.load(training.file, weights_only=False)['log']


def train_parts(model, data, mostly_tail, shown, training):
    "The five trainings, one after the other; gives the log of all."
    from cxr_workbench.methods import trcgl_diffusion as td
    both = torch.nn.ModuleList([model.unet, model.text_encoder])
    back = torch.nn.ModuleList([model.vae.post_quant_conv, model.vae.decoder])
    prompt = torch.nn.ParameterDict({'prompt': model.prompt})
    def run(name, net, train):
        wanted = training(name)
        return run_training(wanted, net, lambda start, tell: train(steps=wanted.steps, start=start, tell=tell))
    def run_base(name, data, **kw):
        def train(**at): return td.train_base(model, encode(model, data), write_sentences(data), **kw, **at)
        return run(name, both, train)
    def run_autoencoder(name, net, **kw):
        return run(name, net, lambda **at: td.train_autoencoder(model.vae, read_pixels(data), **kw, **at))
    def train_prompt(**at): return td.train_prompt(model, encode(model, shown), write_sentences(shown), **at)
    log = run_autoencoder('autoencoder', model.vae)
    log += run_base('base', data)
    log += run_base('fine', mostly_tail, lr=1e-3, last=500)
    log += run_autoencoder('decoder', back, batch=16, lr=2e-3, encoder=False)
    return log + run('prompt', prompt, train_prompt)


def train_diffusion(out, rows=None, steps=None):
    "Autoencoder; denoiser with its text encoder, at all noise levels and then at the finer ones; decoder; prompt."
    from cxr_workbench.methods import trcgl_diffusion as td
    home, wanted = Path(out)/'diffusion', {name: steps or n for name, n in STEPS.items()}
    work = home/'unfinished'
    work.mkdir(parents=True, exist_ok=True)
    def paint(n, seed, **more):
        prevalence = np.array([*{**OFTEN, **more}.values()])
        return from_phantom(SyntheticCXR(rows or n, size=64, seed=seed, prevalence=prevalence))
    table, tail = build_tail()
    data, mostly_tail = paint(8000, 61), paint(10000, 62, **dict.fromkeys(tail, .4))
    model = td.PromptLatentDiffusion(**td.build_small_parts(data.label_names))
    for net in (model.vae, model.unet): net.to(memory_format=torch.channels_last)
    columns = [table.label_names.index(name) for name in tail]
    shown = table.subset((table.y[:, columns] > 0).any(1).numpy())
    log = train_parts(model, data, mostly_tail, shown, lambda name: TrainingRun(name, work, rows, wanted[name]))
    model.save(home, torch.float16)
    pd.DataFrame(log)[['part', 'step', 'loss']].round(5).to_csv(home/'history.csv', index=False)
    kept = td.PromptLatentDiffusion.from_pretrained(home)
    score_pairs(kept, tail, n=100 if wanted == STEPS else 4).to_csv(home/'recognised.csv', index=False)
    (home/'command.json').write_text('{"command": "python scripts/train_pages.py diffusion"}\n')
    shutil.rmtree(work)


# ---- how often a referee recognises the finding of the sentence ----

def sample_texts(model, texts, prompt):
    "One image per sentence, 25 at a time; the i-th always from the same noise."
    def sample(start):
        some = texts[start:start + 25]
        seeds = range(start, start + len(some))
        return model.sample(some, steps=STEPS_OF_A_SAMPLE, seeds=seeds, prompt=prompt)
    return torch.cat([sample(start) for start in range(0, len(texts), 25)])


def build_pairs(model, phantom, data, name, rows):
    "Kind of image -> images with a finding, and the same without it."
    def render(change): return torch.from_numpy(np.stack([phantom.render(i, change)[0] for i in rows]))[:, None]
    real, there = [render({}), render({name: 0})], data.subset(rows)
    texts = write_sentences(there), write_sentences(there, without=name)
    return {
        'real': real,
        'rebuilt': [model.to_images(model.to_latents(x)) for x in real],
        'generated': [sample_texts(model, t, True) for t in texts],
        'generated, no prompt': [sample_texts(model, t, False) for t in texts]}


def compare_scores(s, t):
    "How well the referee's scores separate images with a finding (s) from those without (t)."
    truth = np.r_[np.ones(len(s)), np.zeros(len(t))]
    area = auroc(np.r_[s, t][:, None], truth[:, None])[0]
    pairs = (s > t).mean() + (s == t).mean()/2
    found = dict(auroc=area, pairs=pairs, seen_with=(s >= .5).mean(), seen_without=(t >= .5).mean())
    return {key: round(float(value), 3) for key, value in found.items()}


def score_pairs(model, tail, n=100):
    "The referee's scores of real, rebuilt and generated images in pairs: with the label, and the same without it."
    from cxr_workbench.methods.trcgl_requests import remove_prior
    referee, found = remove_prior(load(home/'referee')), []
    phantom = SyntheticCXR(3000, size=64, seed=99, prevalence=np.maximum(PREVALENCE, .06))
    data = from_phantom(phantom)
    for name in tail:
        column = data.label_names.index(name)
        rows = np.flatnonzero(data.y[:, column].numpy() == 1)[:n]
        for kind, images in build_pairs(model, phantom, data, name, rows).items():
            s, t = (referee(x)[:, column].numpy() for x in images)
            found.append(dict(label=name, images=kind, n=len(s), **compare_scores(s, t)))
            print(found[-1], flush=True)
    return pd.DataFrame(found)


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('names', nargs='*', default=[*MODELS, 'diffusion'])
    parser.add_argument('--epochs', type=int)
    parser.add_argument('--rows', type=int)
    parser.add_argument('--steps', type=int, help='of each training of diffusion')
    parser.add_argument('--out', type=Path, default=home)
    given = parser.parse_args()
    for name in given.names:
        if name == 'diffusion': train_diffusion(given.out, given.rows, given.steps)
        else: train_model(name, given.out, given.rows, given.epochs)
