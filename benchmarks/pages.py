"""Run All of each page: seconds of the processor, of the clock, and the most memory that its kernel held.

    python benchmarks/pages.py                              # every page
    python benchmarks/pages.py 90_compare rare_labels       # some of them

Pages run one after another, each in a kernel of its own with one thread and without PNGs, and no file is written.
"""
import argparse, json, os, resource, subprocess, sys, time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SECONDS, MEGABYTES = 45, 1536     # wanted at most


def find_pages(names=()):
    "Paths of the pages, all or those named; ValueError names what is no page."
    there = {path.stem: path for path in [*ROOT.glob('nbs/[!_.]*.ipynb'), *ROOT.glob('nbs/tutorials/[!_.]*.ipynb')]}
    strange = sorted(set(names) - set(there))
    if strange: raise ValueError(f'no page {strange}: give the name of a notebook without .ipynb')
    return [there[name] for name in names or sorted(there)]


def execute(path, timeout=1800):
    "Run one page in a kernel and print what it took; the memory is that of the largest process."
    import nbformat
    from nbclient import NotebookClient
    notebook, start = nbformat.read(path, as_version=4), time.perf_counter()
    NotebookClient(notebook, timeout=timeout, kernel_name='python3',
                   resources={'metadata': {'path': str(Path(path).parent)}}).execute()
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = dict(cpu_s=used.ru_utime + used.ru_stime, clock_s=time.perf_counter() - start)
    print(json.dumps(dict(seconds, peak_MB=used.ru_maxrss/1024)))


def measure_page(path):
    "One row; a page that does not run to its end says so."
    environment = {**os.environ, 'OMP_NUM_THREADS': '1', 'TQDM_DISABLE': '1', 'PLOTLY_RENDERER': 'plotly_mimetype',
                   'PYTHONWARNINGS': 'ignore'}
    command = [sys.executable, __file__, '--page', str(path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode: return dict(what=path.stem, wanted='runs', ours='failed')
    found = {name: round(value) for name, value in json.loads(done.stdout.splitlines()[-1]).items()}
    within = found['cpu_s'] <= SECONDS and found['peak_MB'] <= MEGABYTES
    return dict(what=path.stem, **found, wanted=f'<= {SECONDS} s, {MEGABYTES} MB', within=within)


def measure_rows(names=()):
    "Yields a row for each page."
    for path in find_pages(names): yield measure_page(path)


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('names', nargs='*')
    parser.add_argument('--page', help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.page: execute(given.page)
    else:
        for row in measure_rows(given.names): print(row, flush=True)
