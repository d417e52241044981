"""Readings of CAN's attention loss on phantoms: whether maps agree, whether they differ between images, and scores.

    python experiments/agreement.py                          # all readings, two phantoms
    python experiments/agreement.py --readings maps --phantoms 2 --steps 20

Every 50 steps the maps of 300 new images are measured; a run that has ended is in the table and is not repeated.
"""
import argparse
from pathlib import Path
import numpy as np
import pandas as pd
import torch
from cxr_workbench.core import create_method, seed_all
from cxr_workbench.data import from_phantom
from cxr_workbench.methods.can_agreement import READINGS, measure_agreement
from cxr_workbench.metrics import auroc, pointing_game
from cxr_workbench.phantom import SyntheticCXR

TABLE = Path(__file__).resolve().parent/'results'/'agreement.csv'
CHOSEN = ['none', 'maps', 'bounded', 'centred', 'centred class']
EVERY = 50


def build_method(reading, names):
    "CAN with a residual and a ConvNeXt branch; 'none' is the one without an attention loss."
    how = dict(weights={'attention': 0.}) if reading == 'none' else dict(compare=reading)
    return create_method('can', labels=names, size=64, preset='maps', **how)


@torch.no_grad()
def measure_maps(method, x, y, masks):
    "Agreement of the branches' energies, AUROC, and the share of maxima in the lesion, mean over labels."
    logits, probes = zip(*(method.eval().look(part) for part in x.split(100)))
    seen = {name: torch.cat([p[name] for p in probes]) for name in ('energy_a', 'energy_b', 'attention')}
    inside = np.where(masks.any((2, 3)), pointing_game(seen['attention'], masks), np.nan)
    hits = pd.DataFrame(inside).mean().mean()
    scores = auroc(torch.cat(logits).sigmoid().numpy(), y.numpy())
    method.train()
    return dict(measure_agreement(seen['energy_a'], seen['energy_b']), auroc=np.nanmean(scores), hits=hits)


def train_once(reading, seed, steps, size=24):
    "The measures of one run, a row for every 50 steps."
    data, fresh = (SyntheticCXR(n, size=64, seed=s) for n, s in ((1600, seed), (300, 1000 + seed)))
    data, test = from_phantom(data), from_phantom(fresh)
    test_x = test.batch(range(len(test))).x
    masks = np.stack([fresh.mask(i) for i in range(len(fresh))]) > 0
    seed_all(seed)
    method = build_method(reading, data.label_names)
    method.prepare(data.y, data.known)
    optimizer = torch.optim.AdamW(method.parameters(), 2e-3, weight_decay=.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    draw, rows = torch.Generator().manual_seed(seed), []
    for t in range(steps + 1):
        if t % EVERY == 0: rows.append(dict(step=t, **measure_maps(method, test_x, test.y, masks)))
        if t == steps: return pd.DataFrame(rows).assign(reading=reading, seed=seed, steps=steps)
        chosen = torch.randperm(len(data), generator=draw)[:size]
        optimizer.zero_grad()
        method.step(data.batch(chosen.tolist())).loss.backward()
        optimizer.step()
        schedule.step()


def is_done(reading, seed, steps):
    "Whether the table has this run."
    if not TABLE.exists(): return False
    table = pd.read_csv(TABLE)
    return bool(((table.reading == reading) & (table.seed == seed) & (table.steps == steps)).any())


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--readings', nargs='+', default=CHOSEN, choices=['none', *READINGS])
    parser.add_argument('--phantoms', nargs='+', type=int, default=[0, 1], help='seeds')
    parser.add_argument('--steps', type=int, default=200)
    o = parser.parse_args()
    for seed in o.phantoms:
        for reading in o.readings:
            if is_done(reading, seed, o.steps): continue
            rows = train_once(reading, seed, o.steps).round(4)
            rows.to_csv(TABLE, mode='a', header=not TABLE.exists(), index=False)
            print(rows.iloc[-1].to_dict(), flush=True)
    if TABLE.exists():
        last = pd.read_csv(TABLE).query('step == steps')
        print(last.drop(columns=['step', 'steps']).groupby(['reading', 'seed']).mean().to_string())
