"""Training steps on a machine with other work: OpenMP threads that spin while they wait, that sleep, and one thread.

    python benchmarks/threads.py --steps 6 --busy 2

Every way runs in a process of its own, beside processes that do nothing but keep their cores busy. The command sets
OMP_WAIT_POLICY=PASSIVE (threads sleep) where the user has not set it.
"""
import argparse, contextlib, json, os, subprocess, sys, time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WAYS = {'2 threads, as torch has it': (2, None), '2 threads that sleep': (2, 'PASSIVE'), '1 thread': (1, None)}
BUSY = '''import os
parent = os.getppid()
while os.getppid() == parent: pass'''     # it ends with the process that started it


def train(threads, steps):
    "Print the seconds of the clock and of the processor that so many steps take."
    import torch
    from cxr_workbench.core import create_method
    torch.set_num_threads(threads)
    method, x = create_method('supervised', labels=14, size=64, preset='tiny'), torch.rand(32, 1, 64, 64)
    method(x).sum().backward()                                  # what is built once is there by now
    start = time.perf_counter(), time.process_time()
    for _ in range(steps): method(x).sum().backward()
    print(json.dumps([time.perf_counter() - start[0], time.process_time() - start[1]]))


@contextlib.contextmanager
def busy_processes(count):
    "Processes that keep cores busy until the block ends."
    busy = [subprocess.Popen([sys.executable, '-c', BUSY]) for _ in range(count)]
    try: yield
    finally:
        for process in busy: process.kill()


def time_way(threads, policy, steps):
    "Seconds of the clock and of the processor, in a process of its own."
    environment = {name: value for name, value in os.environ.items() if not name.startswith(('OMP_', 'GOMP_', 'KMP_'))}
    environment |= dict(PYTHONPATH=os.pathsep.join([str(ROOT), *sys.path]))
    if policy: environment['OMP_WAIT_POLICY'] = policy
    command = [sys.executable, __file__, '--threads', str(threads), '--steps', str(steps)]
    return json.loads(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)


def measure_rows(steps=6, busy=2):
    "A row for each way; the ratio is to the one thread."
    with busy_processes(busy): found = {name: time_way(*way, steps) for name, way in WAYS.items()}
    least = found['1 thread'][1]
    return [dict(what=f'{steps} steps beside {busy} busy processes, {name}', clock_s=clock, cpu_s=cpu, ratio=cpu/least)
            for name, (clock, cpu) in found.items()]


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in dict(steps=6, busy=2).items(): parser.add_argument(f'--{name}', type=int, default=default)
    parser.add_argument('--threads', type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.threads: train(given.threads, given.steps)
    else:
        for row in measure_rows(given.steps, given.busy): print(row)
