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


def measure_prediction(files=96, side=1024, rounds=3):
    "Seconds of predict on files and on a data set of them, of decoding alone and of the network alone, in turns."
    from PIL import Image
    from cxr_workbench.core import create_method
    from cxr_workbench.data import from_arrays
    from cxr_workbench.files import FileImages, Reading
    from cxr_workbench.learner import predict
    method, reading = create_method('supervised', labels=14, size=64, preset='tiny').eval(), Reading(64)
    rng, best, labels = np.random.default_rng(0), {}, np.zeros((files, 14))
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder)/f'{place}.jpg' for place in range(files)]
        for path in paths: Image.fromarray(rng.integers(0, 255, (side, side), np.uint8)).save(path)
        memory = from_arrays(np.stack([reading(path) for path in paths]), labels, label_names=method.label_names)
        data = from_arrays(FileImages(paths, reading), labels, label_names=method.label_names)
        calls = {'predict, files': lambda: predict(method, paths, batch_size=16, reading=reading),
                 'predict, data set': lambda: predict(method, data, batch_size=16),
                 'decoding': lambda: [reading(path) for path in paths],
                 'network': lambda: predict(method, memory, batch_size=16)}
        for round in range(rounds + 1):
            for name, call in calls.items():
                start = time.perf_counter()
                call()
                if round: best[name] = min(best.get(name, float('inf')), time.perf_counter() - start)
    alone = {name: f'{name} {files/best[name]:.0f}' for name in ('decoding', 'network')}
    most = max(best['decoding'], best['network'])
    for name in ('predict, files', 'predict, data set'):
        yield dict(what=f'{name}, JPEG of {side} px, images/s', reference=', '.join(alone.values()),
                   ours=f'{files/best[name]:.0f}', ratio=most/best[name], wanted='>= 0.9')


def measure_rows(rounds=3): return [*measure_commands(rounds), *measure_prediction()]


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--rounds', type=int, default=3)
    for row in measure_rows(**vars(parser.parse_args())): print(row)
