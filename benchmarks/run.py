"""All benchmarks, a table each: python benchmarks/run.py [names]. Ratios are taken within one run; seconds belong to the machine that is named."""
import importlib, os, platform, sys
from pathlib import Path

NAMES = ['importing', 'phantom', 'reading', 'training', 'methods', 'attack', 'elastic', 'scan', 'diffusion']


def machine():
    "The processor, its cores and the versions, in one line."
    import torch
    text = Path('/proc/cpuinfo').read_text() if Path('/proc/cpuinfo').exists() else ''
    model = next((line.split(':', 1)[1].strip() for line in text.splitlines() if line.startswith('model name')), platform.processor() or platform.machine())
    return f'{model}, {os.cpu_count()} cores, Python {platform.python_version()}, torch {torch.__version__}'


def table(rows):
    "The rows as Markdown."
    columns = list(dict.fromkeys(key for row in rows for key in row))
    shown = [[f'{row.get(c, "")}' if not isinstance(row.get(c), float) else f'{row[c]:.2f}' for c in columns] for row in rows]
    return '\n'.join('| ' + ' | '.join(cells) + ' |' for cells in [columns, ['---']*len(columns), *shown])


if __name__ == '__main__':
    sys.path.insert(0, str(Path(__file__).parent))
    parts = [machine()]
    for name in sys.argv[1:] or NAMES:
        print(f'{name} ...', file=sys.stderr, flush=True)
        module = importlib.import_module(name)
        parts += [f'## {name}', module.__doc__.strip().splitlines()[0], table([{k: v for k, v in row.items() if k != 'machine'} for row in module.rows()])]
    text = '\n\n'.join(parts) + '\n'
    print(text)
    (Path(__file__).parent/'results.md').write_text('# Benchmarks\n\nWritten by `make benchmarks`. Ratios are taken within one run.\n\n' + text)
