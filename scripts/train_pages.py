"""Train the small models that the pages open on; they go into cxr_workbench/trained, in half precision.

    python scripts/train_pages.py                # all of them
    python scripts/train_pages.py supervised     # one
    python scripts/train_pages.py supervised --epochs 1 --rows 200 --out /tmp/try   # does it still run?
    python scripts/train_pages.py diffusion --steps 20 --rows 200 --out /tmp/try    # and this one?

`diffusion` has five trainings, one after the other; what is finished lies in OUT/diffusion/unfinished until all is, and the same command goes on there.
"""
import argparse, shutil, tempfile
from pathlib import Path
import numpy as np
import torch
from cxr_workbench.core import create_method, seed_all
from cxr_workbench.data import from_phantom, patient_split
from cxr_workbench.labels import frequency_groups, long_tail
from cxr_workbench.learner import fit, load, save
from cxr_workbench.metrics import auroc
from cxr_workbench.phantom import FINDINGS, PREVALENCE, SyntheticCXR

home = Path(__file__).resolve().parent.parent/'cxr_workbench'/'trained'

# name -> method, its arguments, phantom images, epochs; the phantom's seed is 0, so a page tests on another
MODELS = {
    'supervised': dict(method='supervised', arguments=dict(preset='maps'), rows=3000, epochs=12),
    'can': dict(method='can', arguments=dict(preset='maps'), rows=3000, epochs=12),
    'lcc': dict(method='lcc', arguments=dict(preset='maps'), rows=3000, epochs=12),
    # a judge of single findings: none is rare and none tells of another
    'referee': dict(method='supervised', arguments=dict(preset='maps', shift=.03, lr=4e-3), rows=12000, epochs=24, phantom=dict(seed=7, prevalence=np.full(13, .25), latent_corr=np.eye(13))),
}


def train(name, out, rows=None, epochs=None, size=64):
    "Train one model on the phantom, a tenth of the patients held out, and keep what a page needs."
    wish = MODELS[name]
    data = from_phantom(SyntheticCXR(rows or wish['rows'], size=size, **wish.get('phantom', dict(seed=0))))
    train_rows, valid_rows = patient_split(data.patient_id, data.y, fraction=.1, seed=0)
    seed_all(0)
    method = create_method(wish['method'], labels=data.label_names, size=size, **wish['arguments'])
    with tempfile.TemporaryDirectory() as folder:
        history = fit(method, data.subset(train_rows), data.subset(valid_rows), out=folder, epochs=epochs or wish['epochs'], seed=0)
        save(method, Path(out)/name, dtype=torch.float16, command=f'python scripts/train_pages.py {name}')
        shutil.copyfile(Path(folder)/'history.csv', Path(out)/name/'history.csv')
    print(f"{name}: {len(history)} epochs, held-out phantom AUROC {history['valid/auroc'].iloc[-1]:.3f}")


# ---- the generator of 61_trcgl_diffusion ----

STEPS = dict(autoencoder=3000, base=6000, fine=6000, decoder=3000, prompt=300)
STEPS_OF_A_SAMPLE = 20
OFTEN = dict(zip(FINDINGS, np.maximum(PREVALENCE, .12)))    # what the generator has seen: nothing is rare


def sentences(data, without=None):
    "One sentence for every row, a label left out where it is named."
    from cxr_workbench.methods.trcgl_diffusion import sentence
    return [sentence([name for name, y in zip(data.label_names, row) if y and name != without]) for row in data.y.tolist()]


def tail_table():
    "The long-tailed table of the page, and its tail."
    whole = from_phantom(SyntheticCXR(2000, size=64, seed=0))
    table = whole.with_labels(*long_tail(whole.y, ratio=50, seed=0))
    table = table.subset(table.known.any(1))
    groups = frequency_groups(table.y, table.known, tail=.03, names=table.label_names)
    return table, [name for name, group in groups.items() if group == 'tail']


def train_diffusion(out, rows=None, steps=None):
    "Autoencoder; denoiser with its text encoder, at all noise levels and then at the finer ones; decoder; prompt; then how often a referee sees what was asked for."
    import pandas as pd
    from cxr_workbench.methods import trcgl_diffusion as td
    work, wanted = Path(out)/'diffusion'/'unfinished', {k: steps or n for k, n in STEPS.items()}
    work.mkdir(parents=True, exist_ok=True)
    phantoms = lambda n, seed, **more: from_phantom(SyntheticCXR(rows or n, size=64, seed=seed, prevalence=np.array([*{**OFTEN, **more}.values()])))
    table, tail = tail_table()
    data, mostly_tail = phantoms(8000, 61), phantoms(10000, 62, **dict.fromkeys(tail, .4))
    model = td.PromptLatentDiffusion(**td.small_parts(data.label_names))
    for net in (model.vae, model.unet): net.to(memory_format=torch.channels_last)
    shown = table.subset((table.y[:, [table.label_names.index(n) for n in tail]] > 0).any(1).numpy())
    pixels = lambda d: torch.from_numpy(d.images[d.rows])[:, None]
    latents = lambda d: torch.cat([model.to_latents(x.float()/255) for x in pixels(d).split(200)])
    def part(name, net, training):
        "One training, from where it stood; its log is returned."
        file, settings = work/f'{name}.pt', dict(rows=rows, steps=wanted[name])
        held = torch.load(file, weights_only=False) if file.exists() else dict(step=0, log=[], state=net.state_dict(), config={}, settings=settings)
        if held['settings'] != settings: raise SystemExit(f"{file} is of another training, {held['settings']}: delete it, or ask for the same")
        net.load_state_dict(held['state'])
        if held['config']: net.register_to_config(**held['config'])
        def keep(step, log, state=None, whole=False):
            if step % 250 and not whole: return
            config = dict(scaling_factor=net.config.scaling_factor) if name == 'autoencoder' and whole else {}
            torch.save(dict(step=step, log=held['log'] + [dict(row, part=name) for row in log], state=(state or net).state_dict(), config=config, settings=settings), work/'part')
            (work/'part').replace(file)
            print(f'{name}: {step} of {wanted[name]} steps', flush=True)
        if held['step'] < wanted[name]: keep(wanted[name], training(wanted[name], held['step'], keep).to_dict('records'), whole=True)
        return torch.load(file, weights_only=False)['log']
    both = torch.nn.ModuleList([model.unet, model.text_encoder])
    log = part('autoencoder', model.vae, lambda n, start, keep: td.train_autoencoder(model.vae, pixels(data), n, start=start, tell=keep))
    log += part('base', both, lambda n, start, keep: td.train_base(model, latents(data), sentences(data), n, start=start, tell=keep))
    log += part('fine', both, lambda n, start, keep: td.train_base(model, latents(mostly_tail), sentences(mostly_tail), n, lr=1e-3, last=500, start=start, tell=keep))
    back = torch.nn.ModuleList([model.vae.post_quant_conv, model.vae.decoder])
    log += part('decoder', back, lambda n, start, keep: td.train_autoencoder(model.vae, pixels(data), n, batch=16, lr=2e-3, encoder=False, start=start, tell=keep))
    log += part('prompt', torch.nn.ParameterDict({'prompt': model.prompt}), lambda n, start, keep: td.train_prompt(model, latents(shown), sentences(shown), steps=n, start=start, tell=keep))
    home = work.parent
    model.save(home, torch.float16)
    pd.DataFrame(log)[['part', 'step', 'loss']].round(5).to_csv(home/'history.csv', index=False)
    recognised(td.PromptLatentDiffusion.from_pretrained(home), tail, n=100 if wanted == STEPS else 4).to_csv(home/'recognised.csv', index=False)
    (home/'command.json').write_text('{"command": "python scripts/train_pages.py diffusion"}\n')
    shutil.rmtree(work)


def recognised(model, tail, n=100):
    "What the referee says of real, rebuilt and generated images in pairs: with the label, and the same image or sentence and noise without it."
    import pandas as pd
    from cxr_workbench.methods.trcgl_requests import even_odds
    say, phantom, found = even_odds(load(home/'referee')), SyntheticCXR(3000, size=64, seed=99, prevalence=np.maximum(PREVALENCE, .06)), []
    data = from_phantom(phantom)
    for name in tail:
        c = data.label_names.index(name)
        rows = np.flatnonzero(data.y[:, c].numpy() == 1)[:n]
        there = data.subset(rows)
        x = [torch.from_numpy(np.stack([phantom.render(i, change)[0] for i in rows]))[:, None] for change in ({}, {name: 0})]
        made = lambda texts, prompt: torch.cat([model.sample(texts[i:i + 25], steps=STEPS_OF_A_SAMPLE, seeds=range(i, i + len(texts[i:i + 25])), prompt=prompt) for i in range(0, len(texts), 25)])
        texts = sentences(there), sentences(there, without=name)
        kinds = {'real': x, 'rebuilt': [model.to_images(model.to_latents(a)) for a in x], 'generated': [made(t, True) for t in texts], 'generated, no prompt': [made(t, False) for t in texts]}
        for kind, (a, b) in kinds.items():
            s, t = say(a)[:, c].numpy(), say(b)[:, c].numpy()
            score = auroc(np.r_[s, t][:, None], np.r_[np.ones(len(s)), np.zeros(len(t))][:, None])[0]
            found.append(dict(label=name, images=kind, n=len(s), auroc=round(float(score), 3), pairs=round(float((s > t).mean() + (s == t).mean()/2), 3),
                              seen_with=round(float((s >= .5).mean()), 3), seen_without=round(float((t >= .5).mean()), 3)))
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
        else: train(name, given.out, given.rows, given.epochs)
