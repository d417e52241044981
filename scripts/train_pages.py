"""Train the small models that the pages open on; they go into cxr_workbench/trained, in half precision.

    python scripts/train_pages.py                # all of them
    python scripts/train_pages.py supervised     # one
    python scripts/train_pages.py supervised --epochs 1 --rows 200 --out /tmp/try   # does it still run?
    python scripts/train_pages.py diffusion --steps 20 --rows 200 --out /tmp/try    # and this one?

`diffusion` has three trainings, one after the other; what is finished lies in OUT/diffusion/unfinished until all is, and the same command goes on there.
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
from cxr_workbench.phantom import PREVALENCE, SyntheticCXR

home = Path(__file__).resolve().parent.parent/'cxr_workbench'/'trained'

# name -> method, its arguments, phantom images, epochs; the phantom's seed is 0, so a page tests on another
MODELS = {
    'supervised': dict(method='supervised', arguments=dict(preset='maps'), rows=3000, epochs=12),
    'can': dict(method='can', arguments=dict(preset='maps'), rows=3000, epochs=12),
    'lcc': dict(method='lcc', arguments=dict(preset='maps'), rows=3000, epochs=12),
    'referee': dict(method='supervised', arguments=dict(preset='maps'), rows=6000, epochs=8, phantom=dict(seed=7, prevalence=np.maximum(PREVALENCE, .15))),
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

STEPS = dict(autoencoder=3000, base=6000, prompt=300)
STEPS_OF_A_SAMPLE = 20


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
    "Autoencoder, denoiser with its text encoder, prompt; then how often a referee sees what was asked for."
    import pandas as pd
    from cxr_workbench.methods import trcgl_diffusion as td
    work, steps = Path(out)/'diffusion'/'unfinished', {k: steps or n for k, n in STEPS.items()}
    work.mkdir(parents=True, exist_ok=True)
    data = from_phantom(SyntheticCXR(rows or 8000, size=64, seed=61, prevalence=np.maximum(PREVALENCE, .12)))
    table, tail = tail_table()
    model = td.PromptLatentDiffusion(**td.small_parts(data.label_names))
    for net in (model.vae, model.unet): net.to(memory_format=torch.channels_last)
    shown = table.subset((table.y[:, [table.label_names.index(n) for n in tail]] > 0).any(1).numpy())
    latents = lambda d: torch.cat([model.to_latents(d.__getitems__(range(i, min(i + 200, len(d)))).x) for i in range(0, len(d), 200)])
    def part(name, net, training):
        "One training, from where it stood; its log is returned."
        file = work/f'{name}.pt'
        held = torch.load(file, weights_only=False) if file.exists() else dict(step=0, log=[], state=net.state_dict(), config={})
        net.load_state_dict(held['state'])
        if name == 'autoencoder': net.register_to_config(**held['config'])
        def keep(step, state=None, log=(), config=None):
            if step % 250 and not log: return
            torch.save(dict(step=step, log=held['log'] + list(log), state=(state or net).state_dict(), config=config or {}), work/'part')
            (work/'part').replace(file)
            print(f'{name}: {step} of {steps[name]} steps', flush=True)
        if held['step'] < steps[name]:
            log = training(steps[name], held['step'], keep).assign(part=name).to_dict('records')
            keep(steps[name], log=log, config=dict(scaling_factor=net.config.scaling_factor) if name == 'autoencoder' else {})
            held['log'] = held['log'] + log
        return held['log']
    log = part('autoencoder', model.vae, lambda n, start, keep: td.train_autoencoder(model.vae, torch.from_numpy(data.images)[:, None], n, start=start, tell=keep))
    both, z = torch.nn.ModuleList([model.unet, model.text_encoder]), latents(data)
    log += part('base', both, lambda n, start, keep: td.train_base(model, z, sentences(data), n, start=start, tell=keep))
    log += part('prompt', torch.nn.ParameterDict({'prompt': model.prompt}), lambda n, start, keep: td.train_prompt(model, latents(shown), sentences(shown), steps=n, start=start, tell=keep))
    home = work.parent
    model.save(home, torch.float16)
    pd.DataFrame(log)[['part', 'step', 'loss']].round(5).to_csv(home/'history.csv', index=False)
    recognised(td.PromptLatentDiffusion.from_pretrained(home), tail, n=100 if steps == STEPS else 4).to_csv(home/'recognised.csv', index=False)
    (home/'command.json').write_text('{"command": "python scripts/train_pages.py diffusion"}\n')
    shutil.rmtree(work)


def recognised(model, tail, n=100):
    "What the referee says of real, rebuilt and generated images: with the label, and with the same sentence without it."
    import pandas as pd
    from cxr_workbench.methods.trcgl_diffusion import even_odds
    say = even_odds(load(home/'referee'))
    data, found = from_phantom(SyntheticCXR(3000, size=64, seed=99, prevalence=np.maximum(PREVALENCE, .06))), []
    for name in tail:
        c = data.label_names.index(name)
        there, absent = (data.subset(np.flatnonzero(data.y[:, c].numpy() == k)[:n]) for k in (1, 0))
        x = [d.__getitems__(range(len(d))).x for d in (there, absent)]
        made = lambda texts, prompt: torch.cat([model.sample(texts[i:i + 25], steps=STEPS_OF_A_SAMPLE, seeds=range(i, i + len(texts[i:i + 25])), prompt=prompt) for i in range(0, len(texts), 25)])
        texts = sentences(there), sentences(there, without=name)
        kinds = {'real': x, 'rebuilt': [model.to_images(model.to_latents(a)) for a in x], 'generated': [made(t, True) for t in texts], 'generated, no prompt': [made(t, False) for t in texts]}
        for kind, (a, b) in kinds.items():
            s, t = say(a)[:, c].numpy(), say(b)[:, c].numpy()
            score = auroc(np.r_[s, t][:, None], np.r_[np.ones(len(s)), np.zeros(len(t))][:, None])[0]
            found.append(dict(label=name, images=kind, n=len(s), auroc=round(float(score), 3), seen_with=round(float((s >= .5).mean()), 3), seen_without=round(float((t >= .5).mean()), 3)))
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
