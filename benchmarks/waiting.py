"""What people wait for: commands that answer, fit until its first step, predict with decoding overlapped, in one run.

    python benchmarks/waiting.py --rounds 3

A command is measured as a process of its own, against the least that a process like it needs. Seconds are those of the
processor, with the children's, but for `predict`, where the clock counts: reading and scoring overlap.
"""
import argparse, os, resource, subprocess, sys, tempfile, time
from pathlib import Path
import numpy as np

COMMANDS = {   # what -> (command, the least: name and command, wanted)
    '--help': ('from cxr_workbench.cli import main; main()', ['--help'], 'python -c pass', 'pass', '<= 10'),
    'methods': ('from cxr_workbench.cli import main; main()', ['methods'], 'import torch', 'import torch', '<= 0.5'),
    'a refused command': ('from cxr_workbench.cli import main; main()', ['fit', 'cna'], 'import torch', 'import torch',
                          '<= 0.5'),
    'fit until its first step': ('import waiting; waiting.begin_training()', [], 'import lightning and timm',
                                 'import lightning.pytorch, timm', '<= 1.5')}


def begin_training():
    "Train until the first step has ended."
    import lightning.pytorch as pl
    from cxr_workbench.core import create_method
    from cxr_workbench.data import from_phantom
    from cxr_workbench.learner import fit
    from cxr_workbench.phantom import SyntheticCXR
    class Stop(pl.Callback):
        def on_train_batch_end(self, *given): os._exit(0)
    data = from_phantom(SyntheticCXR(64, size=64, seed=0))
    method = create_method('supervised', labels=data.label_names, preset='tiny')
    fit(method, data, epochs=1, device='cpu', progress=False, callbacks=[Stop()])


def time_process(code, arguments=()):
    "Seconds of the processor that a Python process takes."
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    here = str(Path(__file__).parent)
    environment = {**os.environ, 'PYTHONPATH': os.pathsep.join([here, str(Path(here).parent), *sys.path])}
    command = [sys.executable, '-c', code, *arguments]
    subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def measure_commands(rounds):
    "One line for each command; it and its reference take turns."
    for what, (code, arguments, name, least, wanted) in COMMANDS.items():
        taken = [(time_process(code, arguments), time_process(least)) for _ in range(rounds)]
        ours, other = map(min, zip(*taken))
        seconds = dict(reference=f'{name} {other:.2f} s', ours=f'{ours:.2f} s')
        yield dict(what=what, **seconds, ratio=ours/other, wanted=wanted)


def measure_prediction(files=64, side=512, rounds=2):
    "Images a second of predict, against decoding alone and against scoring alone."
    from PIL import Image
    from cxr_workbench.core import create_method
    from cxr_workbench.files import Reading
    from cxr_workbench.learner import predict
    method, reading = create_method('supervised', labels=14, size=64, preset='tiny').eval(), Reading(64)
    rng, best = np.random.default_rng(0), {}
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder)/f'{place}.png' for place in range(files)]
        for path in paths: Image.fromarray(rng.integers(0, 255, (side, side), np.uint8)).save(path)
        predict(method, paths[:2], reading=reading)      # what is imported and built once is there by now
        calls = dict(predict=lambda: predict(method, paths, batch_size=16, reading=reading),
                     decode=lambda: [reading(path) for path in paths])
        for _ in range(rounds):
            for name, call in calls.items():
                start = time.perf_counter()
                call()
                best[name] = min(best.get(name, float('inf')), time.perf_counter() - start)
    seconds = dict(reference=f'decoding alone {files/best["decode"]:.0f} images/s',
                   ours=f'{files/best["predict"]:.0f} images/s')
    return dict(what=f'predict, PNG of {side} px', **seconds, ratio=best['decode']/best['predict'], wanted='>= 0.9')


def measure_rows(rounds=3): return [*measure_commands(rounds), measure_prediction()]


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--rounds', type=int, default=3)
    for row in measure_rows(**vars(parser.parse_args())): print(row)
