"""A training step with early stages of the network frozen, over the step that trains all of it, in one run.

    python benchmarks/frozen.py --size 96 --batch 32 --stages 1 2 3
"""
import argparse
import torch
from measure import time_in_turns
from cxr_workbench.core import Batch, create_method, seed_all
from cxr_workbench.stages import group_parameters, set_modes, set_trainable


def make_step(stages, size, batch, backbone):
    "One optimiser step of the supervised baseline with so many frozen stages, as a function."
    seed_all(0)
    method = create_method('supervised', labels=14, size=size, backbone=backbone, frozen_stages=stages)
    method = method.to(memory_format=torch.channels_last)
    stage, = method.recipe()
    trains = set_trainable(method, stage.train, stage.frozen_stages)
    set_modes(method)
    optimizer = torch.optim.AdamW(group_parameters(method, stage.groups))
    y = (torch.rand(batch, 14) < .1).float()
    rows = Batch(torch.rand(batch, 1, size, size), y, torch.ones_like(y, dtype=torch.bool), torch.arange(batch))
    def step():
        optimizer.zero_grad()
        method.step(rows).loss.backward()
        optimizer.step()
    return step, len(trains)/len(list(method.parameters()))


def measure_rows(size=96, batch=32, stages=(1, 2, 3), backbone='tf_efficientnet_lite0', rounds=5):
    "Ratios of the fastest steps, taken in turns."
    steps, shares = zip(*(make_step(n, size, batch, backbone) for n in (0, *stages)))
    seconds = time_in_turns(dict(zip((0, *stages), steps)), rounds=rounds)
    whole = min(seconds[0])
    return [dict(what=f'{backbone}, {size} px, B={batch}, {n} stages frozen', reference=f'all train {whole*1e3:.0f} ms',
                 ours=f'{min(seconds[n])*1e3:.0f} ms', ratio=min(seconds[n])/whole,
                 tensors_that_train=f'{share:.0%}') for n, share in zip(stages, shares[1:])]


if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--size', type=int, default=96)
    p.add_argument('--batch', type=int, default=32)
    p.add_argument('--stages', type=int, nargs='+', default=[1, 2, 3])
    p.add_argument('--backbone', default='tf_efficientnet_lite0')
    p.add_argument('--rounds', type=int, default=5)
    for row in measure_rows(**vars(p.parse_args())): print(row)
