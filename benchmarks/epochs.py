"""An epoch from JPEG files, from a pack and from memory, with one loader: images a second, and what a process holds.

    python benchmarks/epochs.py               # $CXR_DATA/nih14/images_256 where it is, otherwise drawn files
    python benchmarks/epochs.py --files 500 --rounds 1

The ways take turns in one run, in the same random batches, with the files in the page cache; the fastest epoch counts,
and `ratio` is the rate over that from memory. First the loader goes alone, then each batch makes a training step of a
small network at 64 px. Memory is that of a process of its own for each way, after its imports: `own_MB` what it holds
alone at the worst moment, `mapped_MB` pages of files, which the system takes back when it needs them. Linux only.
"""
import argparse, json, subprocess, sys, tempfile
from pathlib import Path
import numpy as np
from cxr_workbench.data import from_arrays
from cxr_workbench.files import FileImages, PackedImages, Reading, pack
from cxr_workbench.samplers import batch_sampler, make_loader
from measure import time_fastest
from reading import find_jpegs

WAYS = ('JPEG files', 'pack', 'memory')
SIZE, SMALL = 224, 64        # sides of the images: the loader alone, and with a training step


def open_images(way, folder, size):
    "Images of one way, as a data set takes them; the pack is there already."
    packed = PackedImages(folder/f'pack_{size}')
    if way == 'JPEG files': return FileImages(list(packed.paths), Reading(size))
    return packed if way == 'pack' else packed[:]


def open_loader(way, folder, size, batch):
    "The same random batches of every way."
    images = open_images(way, folder, size)
    data = from_arrays(images, np.zeros((len(images), 14)), patient_id=np.arange(len(images)))
    return make_loader(data, batch_sampler(data.known, 'all', batch, seed=0))


def run_epoch(loader, use=lambda batch: None):
    "Every batch once; how many images there were."
    count = 0
    for batch in loader:
        use(batch)
        count += len(batch.x)
    return count


def make_step(size, network):
    "A training step of a network on one batch."
    import torch
    from cxr_workbench.core import create_method
    method = create_method('supervised', labels=14, size=size, backbone=network, pretrained=False).train()
    optimizer = torch.optim.SGD(method.parameters(), lr=1e-3)
    def step(batch):
        optimizer.zero_grad()
        method.step(batch).loss.backward()
        optimizer.step()
    return step


def read_memory():
    "Kilobytes of this process alone, and of pages of files."
    lines = Path('/proc/self/status').read_text().splitlines()
    held = dict(line.split(':', 1) for line in lines if ':' in line)
    return [int(held[name].split()[0]) for name in ('RssAnon', 'RssFile')]


def watch_epoch(way, folder, size, batch):
    "What an epoch adds to the memory of this process at its worst moments, MB: its own, and mapped."
    before, seen = np.array(read_memory()), []
    loader = open_loader(way, folder, size, batch)
    run_epoch(loader, lambda batch: seen.append(read_memory()))
    return [round(value) for value in ((np.max(seen, axis=0) - before).clip(0)/1024).tolist()]


def measure_memory(way, folder, size, batch):
    "`watch_epoch` in a process of its own."
    sizes = ['--size', str(size), '--batch', str(batch)]
    command = [sys.executable, '-W', 'ignore', __file__, '--way', way, '--folder', str(folder), *sizes]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def compare_ways(what, folder, size, batch, rounds, use=lambda batch: None):
    "A row for each way; `use` gets every batch."
    loaders = {way: open_loader(way, folder, size, batch) for way in WAYS}
    count = run_epoch(loaders['JPEG files'])      # the files are in the page cache by now
    use(next(iter(loaders['memory'])))            # what is built or imported once is there
    best = time_fastest({way: lambda loader=loader: run_epoch(loader, use) for way, loader in loaders.items()}, rounds)
    for way in WAYS:
        own, mapped = measure_memory(way, folder, size, batch)
        yield dict(what=f'{way}, {what}', images_per_s=round(count/best[way], 1), ratio=best['memory']/best[way],
                   own_MB=own, mapped_MB=mapped)


def measure_rows(files=1854, batch=64, rounds=3, size=SIZE, network='test_resnet'):
    "The loader alone on all files, then with a training step on a part of them."
    table = []
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        (folder/'files').mkdir()
        paths, kind = find_jpegs(files, folder/'files')
        pack(paths, folder/f'pack_{size}', size)
        what = f'{len(paths)} of {kind}, {size} px'
        table += compare_ways(f'{what}, loader alone', folder, size, batch, rounds)
        (folder/'small').mkdir()
        pack(paths[:10*batch], folder/'small'/f'pack_{SMALL}', SMALL)
        what = f'{min(len(paths), 10*batch)} of {kind}, {SMALL} px, with a step of {network}'
        table += compare_ways(what, folder/'small', SMALL, batch, rounds, make_step(SMALL, network))
    return table


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in dict(files=1854, batch=64, rounds=3, size=SIZE).items():
        parser.add_argument(f'--{name}', type=int, default=default)
    for name in ('way', 'folder'): parser.add_argument(f'--{name}', help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.way: print(json.dumps(watch_epoch(given.way, Path(given.folder), given.size, given.batch)))
    else:
        for row in measure_rows(given.files, given.batch, given.rounds, given.size): print(row)
