"""All benchmarks, a table each. Ratios are taken within one run; seconds belong to the machine that is named.

    python benchmarks/run.py                  # all of them, into benchmarks/results.md
    python benchmarks/run.py importing scan
"""
import importlib, os, platform, sys
from pathlib import Path

HERE = Path(__file__).parent
NAMES = ['importing', 'waiting', 'threads', 'bootstrap', 'phantom', 'decoding', 'reading', 'packing', 'memory',
         'training', 'frozen', 'methods', 'attack', 'elastic', 'scan', 'diffusion', 'redraws', 'pages']


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
    "The rows as Markdown; the machine stands above all tables."
    columns = [key for key in dict.fromkeys(key for row in rows for key in row) if key != 'machine']
    cells = [[format_value(row.get(column, '')) for column in columns] for row in rows]
    lines = [columns, ['---']*len(columns), *cells]
    return '\n'.join('| ' + ' | '.join(line) + ' |' for line in lines)


def main(names):
    parts = [describe_machine()]
    for name in names:
        print(f'{name} ...', file=sys.stderr, flush=True)
        module = importlib.import_module(name)
        part = [f'## {name}', module.__doc__.strip().splitlines()[0], format_table(list(module.measure_rows()))]
        print('\n\n'.join(part), flush=True)
        parts += part
    head = '# Benchmarks\n\nWritten by `make benchmarks`. Ratios are taken within one run.\n\n'
    (HERE/'results.md').write_text(head + '\n\n'.join(parts) + '\n')


if __name__ == '__main__':
    sys.path.insert(0, str(HERE))
    main(sys.argv[1:] or NAMES)
