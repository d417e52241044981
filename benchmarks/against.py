"""The package of an earlier commit and that of this checkout, in turns in one run: what became faster, what slower.

    python benchmarks/against.py                                    # against the commit before speed was worked on
    python benchmarks/against.py v0.1.0 --rounds 5                  # before a release, against the one before
    python benchmarks/against.py HEAD~20 --only report predict      # some of the measurements

The package of the commit is unpacked into a temporary folder; the checkout is left as it is. Every measurement is a
process of its own that imports one of the two packages, and both take turns; the best round counts. Seconds are those
of the processor, of commands with their children's; for `predict` the clock counts, because reading and scoring
overlap. A measurement that the old package cannot make says so. The table is written to benchmarks/against.md. With
--rows 100000 the report takes a minute a round where it was slow.
"""
import argparse, inspect, io, json, os, resource, shutil, subprocess, sys, tarfile, tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
START = 'aee4e1c'   # the last commit before speed and scale were worked on
COMMAND = 'from cxr_workbench.cli import main; main()'
COMMANDS = {   # name -> (code, its arguments), timed from outside
    'import': ('import cxr_workbench.data', []), 'help': (COMMAND, ['--help']), 'methods': (COMMAND, ['methods']),
    'refused': (COMMAND, ['fit', 'cna'])}
TITLES = dict(help='--help', refused='a refused command', fit='fit until its first step')
TITLES['import'] = COMMANDS['import'][0]

READING = '''
import json, sys, time
from pathlib import Path
from cxr_workbench.files import Reading
read, found = Reading(224), {}
def take(path):
    start = time.process_time()
    read(path)
    return time.process_time() - start
for path in sorted(Path(sys.argv[1], 'films').iterdir()):
    found[f'{path.stem} to 224, s'] = min(take(path) for _ in range(15))
print(json.dumps(found))'''

EPOCH = '''
import json, sys, tempfile, time
from pathlib import Path
import numpy as np
from cxr_workbench.data import from_arrays
from cxr_workbench.files import FileImages, Reading, pack
from cxr_workbench.samplers import batch_sampler, make_loader
paths = sorted(Path(sys.argv[1], 'jpegs').iterdir())
def take(call):
    start = time.process_time()
    call()
    return len(paths)/(time.process_time() - start)
with tempfile.TemporaryDirectory() as folder:
    found = {'packing, images/s': take(lambda: pack(paths, folder, 224, workers=0))}
    ways = {'JPEG files': FileImages(paths, Reading(224)), 'a pack': pack(paths, folder, 224)}
    for name, images in ways.items():
        data = from_arrays(images, np.zeros((len(paths), 14)), patient_id=np.arange(len(paths)))
        loader = make_loader(data, batch_sampler(data.known, 'all', 64))
        rounds = 5 if name == 'a pack' else 2
        found[f'epoch from {name}, images/s'] = max(take(lambda: [None for batch in loader]) for _ in range(rounds))
print(json.dumps(found))'''

PREDICT = '''
import json, sys, time
from pathlib import Path
import numpy as np
from cxr_workbench.core import create_method
from cxr_workbench.data import from_arrays
from cxr_workbench.files import FileImages, Reading
from cxr_workbench.learner import predict
paths, reading = sorted(Path(sys.argv[1], 'large').iterdir()), Reading(64)
method = create_method('supervised', labels=14, size=64, preset='tiny').eval()
data = from_arrays(FileImages(paths, reading), np.zeros((len(paths), 14)), label_names=method.label_names)
ways = {'files': lambda: predict(method, paths, batch_size=16, reading=reading),
        'a data set': lambda: predict(method, data, batch_size=16)}
found = {}
for name, call in ways.items():
    for round in range(3):
        start = time.perf_counter()
        call()
        if round: found.setdefault(f'predict {name}, images/s', []).append(len(paths)/(time.perf_counter() - start))
print(json.dumps({name: max(rates) for name, rates in found.items()}))'''

REPORT = '''
import json, sys, time
from cxr_workbench.metrics import report
scores, y, patient = draw_scores(int(sys.argv[2]))
report(scores[:500], y[:500], patient_id=patient[:500], n_boot=2)     # what is imported late is there
start = time.process_time()
report(scores, y, patient_id=patient, n_boot=1000)
print(json.dumps({f'report, 1000 resamples of {len(y)} x 14, s': time.process_time() - start}))'''

FIT = '''
import os
begin_training()'''


def make_snippets():
    "Name -> code that prints seconds, or images per second, by what they are of."
    from bootstrap import draw_scores
    draw = 'import numpy as np\n' + inspect.getsource(draw_scores)
    return dict(reading=READING, epoch=EPOCH, predict=PREDICT, report=draw + REPORT)


def make_commands():
    "Name -> (code, arguments)."
    from waiting import begin_training
    return COMMANDS | dict(fit=(inspect.getsource(begin_training) + FIT, []))


def unpack_commit(commit, folder):
    "The package as a commit has it; ValueError where there is no such commit."
    command = ['git', '-C', str(ROOT), 'archive', commit, 'cxr_workbench']
    done = subprocess.run(command, capture_output=True)
    if done.returncode:
        said = done.stderr.decode(errors='replace').strip().splitlines()[-1:]
        raise ValueError(f'no package of {commit} here ({" ".join(said)}): give a commit that git log lists')
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as packed: packed.extractall(folder, filter='data')
    return folder


def describe_commit(commit):
    "Its short name, day and subject; of the checkout also whether it has changes."
    def ask(*words): return subprocess.run(['git', '-C', str(ROOT), *words], capture_output=True, text=True).stdout
    said = ask('log', '-1', '--date=short', '--format=%h, %ad, %s', commit).strip()
    changed = commit == 'HEAD' and ask('status', '--porcelain', 'cxr_workbench').strip()
    return said + (', with changes that are not committed' if changed else '')


def write_inputs(folder, images=256, large=64):
    "Films to read one by one, JPEG files of 256 px and of 1024 px; the same for both packages."
    import numpy as np
    from PIL import Image
    from decoding import write_files
    from reading import find_jpegs
    for name in ('drawn', 'painted', 'films', 'jpegs', 'large'): (folder/name).mkdir()
    for name, path in write_files(folder/'drawn').items(): shutil.copy(path, folder/'films'/(name + path.suffix))
    for path in find_jpegs(images, folder/'painted')[0]: shutil.copy(path, folder/'jpegs')
    rng = np.random.default_rng(0)
    for place in range(large):
        Image.fromarray(rng.integers(0, 255, (1024, 1024), np.uint8)).save(folder/'large'/f'{place:03d}.jpg')


def run_code(tree, code, arguments, folder):
    "What a process prints that imports the package of one tree, and the seconds of the processor that it takes."
    def used():
        spent = resource.getrusage(resource.RUSAGE_CHILDREN)
        return spent.ru_utime + spent.ru_stime
    before, environment = used(), {**os.environ, 'PYTHONPATH': str(tree), 'PYTHONWARNINGS': 'ignore'}
    command = [sys.executable, '-c', code, *arguments]
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True)
    return done, used() - before


def measure(name, tree, folder, rows):
    "What one process finds: what -> a number; or why it cannot, in words."
    commands = make_commands()
    if name in commands:
        code, arguments = commands[name]
        done, seconds = run_code(tree, code, arguments, folder)
        failed = done.returncode and 'Traceback' in done.stderr     # a refused command ends with a line and status 1
        found = {f'{TITLES.get(name, name)}, s': seconds}
    else:
        done, _ = run_code(tree, make_snippets()[name], [str(folder), str(rows)], folder)
        failed = done.returncode
        found = {} if failed else json.loads(done.stdout.splitlines()[-1])
    return f'does not run: {done.stderr.strip().splitlines()[-1][:80]}' if failed else found


def compare_trees(names, trees, folder, rows, rounds):
    "A row for everything that is measured; `times` is above 1 where the new package is faster."
    for name in names:
        best, failed = {side: {} for side in trees}, {}
        for _ in range(rounds):
            for side, tree in trees.items():
                found = measure(name, tree, folder, rows)
                if isinstance(found, str): failed[side] = found
                else: keep_best(best[side], found)
        for what in best['new'] or best['old'] or [TITLES.get(name, name)]:
            old, new = (best[side].get(what, failed.get(side, '')) for side in ('old', 'new'))
            row = dict(what=what, old=format_number(old), new=format_number(new))
            if what in best['old'] and what in best['new']: row['times'] = new/old if is_rate(what) else old/new
            yield row


def is_rate(what): return what.endswith('/s')


def keep_best(best, found):
    "The smallest number of seconds, the largest rate."
    for what, value in found.items():
        better = max if is_rate(what) else min
        best[what] = better(best[what], value) if what in best else value


def format_number(value): return value if isinstance(value, str) else f'{value:.3g}' if value < 1000 else f'{value:.0f}'


def main(arguments=None, out=HERE/'against.md'):
    "Measure, print and keep the table."
    names = [*COMMANDS, 'fit', 'reading', 'epoch', 'predict', 'report']
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('commit', nargs='?', default=START)
    parser.add_argument('--only', nargs='+', choices=names, default=names, metavar='NAME', help=', '.join(names))
    parser.add_argument('--rounds', type=int, default=3)
    parser.add_argument('--rows', type=int, default=20_000, help='of the report')
    given = parser.parse_args(arguments)
    from run import describe_machine, format_table
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        try: trees = dict(old=unpack_commit(given.commit, folder/'old'), new=ROOT)
        except ValueError as error: parser.error(str(error))
        if {'reading', 'epoch', 'predict'} & set(given.only): write_inputs(folder)
        rows = []
        for row in compare_trees(given.only, trees, folder, given.rows, given.rounds):
            print(row, file=sys.stderr, flush=True)
            rows.append(row)
    commits = f'Old: {describe_commit(given.commit)}. New: {describe_commit("HEAD")}.'
    said = 'Written by `python benchmarks/against.py`. Both packages took turns in one run; `times` is how much faster.'
    head = f'# Against an earlier commit\n\n{said}'
    parts = [head, describe_machine(), commits, format_table(rows)]
    Path(out).write_text('\n\n'.join(parts) + '\n')
    print(parts[-1])


if __name__ == '__main__':
    sys.path.insert(0, str(ROOT))
    main()
