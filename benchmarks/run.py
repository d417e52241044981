"""All benchmarks, a table each. Ratios are taken within one run; seconds belong to the machine that is named.

Each has a process of its own, so that none measures the memory or the threads that another one left.

    python benchmarks/run.py                  # all of them, into benchmarks/results.md
    python benchmarks/run.py importing scan   # these anew; the others stay as they are
"""
import importlib, json, os, platform, subprocess, sys
from pathlib import Path

HERE = Path(__file__).parent
NAMES = ['importing', 'waiting', 'threads', 'bootstrap', 'phantom', 'decoding', 'reading', 'epochs', 'packing',
         'memory', 'training', 'frozen', 'methods', 'attack', 'elastic', 'scan', 'diffusion', 'redraws', 'pages']
HEAD = '''# Benchmarks

Written by `make benchmarks`. Ratios are taken within one run. `python benchmarks/against.py COMMIT` compares with an
earlier commit.

**No figure is of a GPU.** `sh scripts/on_gpu.sh` measures one. A reduced form of it is a test on the processor. It
has not been run on a GPU yet.'''


def describe_machine():
    "The processor, its cores and the versions, in one line."
    import torch
    cpuinfo = Path('/proc/cpuinfo')
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.split(':', 1)[1].strip() for line in lines if line.startswith('model name')]
    model = models[0] if models else platform.processor() or platform.machine()
    return f'{model}, {os.cpu_count()} cores, Python {platform.python_version()}, torch {torch.__version__}'


def format_value(value): return f'{value:.2f}' if isinstance(value, float) else f'{value}'


def format_table(rows):
    "The rows as Markdown; the machine stands above the table."
    columns = [key for key in dict.fromkeys(key for row in rows for key in row) if key != 'machine']
    cells = [[format_value(row.get(column, '')) for column in columns] for row in rows]
    lines = [columns, ['---']*len(columns), *cells]
    return '\n'.join('| ' + ' | '.join(line) + ' |' for line in lines)


def read_others(names):
    "The tables that stand in results.md already, without those that are measured now: name -> its part."
    if not (HERE/'results.md').exists(): return {}
    parts = (HERE/'results.md').read_text().split('\n## ')[1:]
    found = {part.split('\n', 1)[0]: f'## {part.strip()}' for part in parts}
    return {name: part for name, part in found.items() if name not in names}


def measure_alone(name):
    "The rows of a benchmark, from a process of its own; CalledProcessError where it fails."
    command = [sys.executable, __file__, '--rows', name]
    said = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    return json.loads(said.splitlines()[-1])


def main(names):
    machine, parts = f'On {describe_machine()}.', read_others(names)
    for name in names:
        print(f'{name} ...', file=sys.stderr, flush=True)
        title = importlib.import_module(name).__doc__.strip().splitlines()[0]
        parts[name] = '\n\n'.join([f'## {name}', title, machine, format_table(measure_alone(name))])
        print(parts[name], flush=True)
        lines = [HEAD, *(parts[name] for name in NAMES if name in parts)]
        (HERE/'results.md').write_text('\n\n'.join(lines) + '\n')


if __name__ == '__main__':
    sys.path.insert(0, str(HERE))
    is_asked = sys.argv[1:2] == ['--rows']   # by measure_alone
    if is_asked: print(json.dumps(list(importlib.import_module(sys.argv[2]).measure_rows())))
    else: main(sys.argv[1:] or NAMES)
