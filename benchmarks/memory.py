"""What processes that read ahead hold after an epoch over many paths: a list of texts against one block of bytes.

    python benchmarks/memory.py                            # 377,110 rows, 4 workers
    python benchmarks/memory.py --rows 50000 --workers 2

Each worker process of a DataLoader asks for the path of every row that it is given, and no image is read. The memory
of a process is its proportional set size (PSS), which shares a page among the processes that use it: the sum over all
processes is the memory that the machine needs. Linux only (/proc/PID/smaps_rollup). A run of its own is started for
each kind, so that one does not warm the other.
"""
import argparse, gc, json, os, subprocess, sys
from pathlib import Path
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from cxr_workbench.text_rows import TextRows


def make_paths(rows):
    "Paths as those of a large collection."
    for n in range(rows):
        patient, study = 10_000_000 + n//6, 50_000_000 + n//2
        yield f'files/p{patient//10**6}/p{patient}/s{study}/{n*2654435761 % 2**32:08x}-{n*40503 % 2**32:08x}.jpg'


class Paths(Dataset):
    "The length of each row's path, in place of its pixels."
    def __init__(self, paths): self.paths = paths
    def __len__(self): return len(self.paths)
    def __getitems__(self, rows): return [len(self.paths[row]) for row in rows]


def read_pss(pid):
    "Proportional set size and private pages that were written of a process, MB."
    lines = Path(f'/proc/{pid}/smaps_rollup').read_text().splitlines()
    sizes = {line.split(':')[0]: int(line.split()[1])/1024 for line in lines if line.endswith('kB')}
    return np.array([sizes['Pss'], sizes['Private_Dirty']])


def read_memory(pids):
    "What a process and its workers hold."
    workers = np.array([read_pss(pid) for pid in pids])
    whole = workers[:, 0].sum() + read_pss(os.getpid())[0]
    values = dict(all_pss_MB=whole, worker_pss_MB=workers[:, 0].mean(), worker_written_MB=workers[:, 1].mean())
    return {name: round(float(value), 1) for name, value in values.items()}


def measure_kind(kind, rows, workers, epochs):
    "Rows of the table of one kind: memory at the start of the first epoch and at the end of each."
    paths = list(make_paths(rows)) if kind == 'list' else TextRows(make_paths(rows))
    gc.collect()
    loader = DataLoader(Paths(paths), batch_size=64, shuffle=True, num_workers=workers, persistent_workers=True,
                        collate_fn=torch.tensor, generator=torch.Generator().manual_seed(0))
    found = []
    for epoch in range(epochs):
        batches = iter(loader)
        next(batches)
        pids = [worker.pid for worker in batches._workers]
        if not epoch: found.append(dict(paths=kind, rows=rows, workers=workers, when='begin', **read_memory(pids)))
        for _ in batches: pass
        found.append(dict(paths=kind, rows=rows, workers=workers, when=f'epoch {epoch + 1}', **read_memory(pids)))
    return found


def measure_rows(rows=377_110, workers=4, epochs=2)->list[dict]:
    "One dictionary per kind and moment."
    found = []
    for kind in ('list', 'block'):
        command = [sys.executable, '-W', 'ignore', __file__, '--kind', kind]
        sizes = ['--rows', str(rows), '--workers', str(workers), '--epochs', str(epochs)]
        found += json.loads(subprocess.run([*command, *sizes], check=True, capture_output=True, text=True).stdout)
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in dict(rows=377_110, workers=4, epochs=2).items():
        parser.add_argument(f'--{name}', type=int, default=default)
    parser.add_argument('--kind', choices=('list', 'block'), help=argparse.SUPPRESS)
    args = vars(parser.parse_args())
    kind = args.pop('kind')
    if kind: return print(json.dumps(measure_kind(kind, **args)))
    table = measure_rows(**args)
    for row in table: print('  '.join(f'{name} {value}' for name, value in row.items()))


if __name__ == '__main__': main()
