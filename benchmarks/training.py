"""One supervised training step through the learner against the same timm model in a bare loop, in one run."""
import time
import numpy as np
import torch
from torch.nn.functional import binary_cross_entropy_with_logits
from cxr_workbench.consistency import WeakView
from cxr_workbench.core import create_method, seed_all
from cxr_workbench.data import batch_sampler, from_phantom
from cxr_workbench.learner import fit
from cxr_workbench.phantom import SyntheticCXR


def train_bare_epoch(net, data, optimizer, schedule, view, batch_size, epoch):
    "What a careful person writes by hand: the same augmentation, loss, optimiser and schedule."
    net.train()
    sampler = batch_sampler(data.known, 'known', batch_size)
    sampler.set_epoch(epoch)
    images, y = torch.from_numpy(np.asarray(data.images)), data.y
    for rows in sampler:
        x = view(images[rows][:, None].float().div_(255))
        logits = net((x.expand(-1, 3, -1, -1) - .5)/.5)
        loss = binary_cross_entropy_with_logits(logits, y[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return loss.item()


def time_bare(data, name, epochs, batch_size):
    "Seconds of each epoch of the bare loop."
    import timm
    seed_all(0)
    net, view = timm.create_model(name, num_classes=14), WeakView()
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=.05)
    steps = epochs*(len(data)//batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    seconds = []
    for epoch in range(epochs):
        start = time.perf_counter()
        train_bare_epoch(net, data, optimizer, schedule, view, batch_size, epoch)
        seconds.append(time.perf_counter() - start)
    return seconds


def time_learner(data, name, epochs, batch_size):
    "Seconds of each epoch through the learner, nothing written, no bars."
    seed_all(0)
    method = create_method('supervised', labels=data.label_names, backbone=name)
    history = fit(method, data, epochs=epochs, batch_size=batch_size, progress=False, device='cpu')
    return history['seconds'].tolist()


def measure_rows(epochs=2, n=640, batch_size=64, rounds=3):
    "Ratios of the fastest epochs, the two interleaved so that a busy machine slows both."
    data, table = from_phantom(SyntheticCXR(n, size=64, seed=0)), []
    for name in ('test_resnet', 'resnet18'):
        bare, ours = [], []
        for _ in range(rounds if name == 'test_resnet' else 1):
            bare += time_bare(data, name, epochs, batch_size)
            ours += time_learner(data, name, epochs, batch_size)
        a, b, steps = min(bare), min(ours), n//batch_size
        table.append(dict(
            what=f'supervised step, {name}, 64 px, B={batch_size}', reference=f'bare loop {a/steps*1e3:.1f} ms',
            ours=f'{b/steps*1e3:.1f} ms', ratio=b/a, wanted='<= 1.10'))
    return table


if __name__ == '__main__':
    for row in measure_rows(): print(row)
