"""Redraws of the workbench at 64 px: the median time of a picture, and how much memory of the kernel 500 of them take.

    python benchmarks/redraws.py
"""
import argparse, gc
from itertools import cycle
from pathlib import Path
from statistics import median
from measure import time_call

SETTINGS = {   # panel -> a control of it and its values; a range: rows of the data, no row twice in a turn
    'scores': range(20, 60), 'where it looks': range(60, 100), 'attack': ('frame', (0, 1, 2, 3, 4)),
    'thresholds': ('tau_pos', (.5, .6, .7)),
    'relations': ('edges', (10, 20, 30)), 'similar images': range(100, 140)}


def read_memory():
    "Bytes that this process holds; from /proc, else the most that it has held."
    status = Path('/proc/self/status')
    if status.exists():
        line, = (line for line in status.read_text().splitlines() if line.startswith('VmRSS'))
        return int(line.split()[1])*1024
    import resource
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss*1024


def make_moves(bench):
    "Name of a panel -> a function that redraws it with other values."
    moves = {}
    for name, control in SETTINGS.items():
        widget, values = bench.menus['row'], control
        if not isinstance(control, range): widget, values = bench.panels[name].controls[control[0]], control[1]
        values, index = cycle(values), list(bench.panels).index(name)
        def move(widget=widget, values=values, index=index):
            bench.tabs.selected_index = index
            widget.value = next(values)
        moves[name] = move
    return moves


def measure_rows(redraws=500, warm=60, runs=('supervised', 'lcc')):
    "One row for each panel, then the memory before and after."
    from cxr_workbench.saving import find_model
    from cxr_workbench.workbench import Bench, Workbench
    bench = Workbench(Bench(runs={name: find_model(name) for name in runs}))
    moves, taken = make_moves(bench), {name: [] for name in SETTINGS}
    for move in moves.values():
        for _ in range(warm//len(moves)): move()
    gc.collect()
    before = read_memory()
    for name in list(moves)*(redraws//len(moves)):
        bench.tabs.selected_index = list(bench.panels).index(name)
        taken[name].append(time_call(moves[name]))
        assert bench.panels[name].fresh, bench.panels[name].message.value
    gc.collect()
    grown = read_memory()/before - 1
    rows = [dict(what=f'{name}, two models', ms=median(seconds)*1e3, n=len(seconds)) for name, seconds in taken.items()]
    said = f'memory after {redraws} redraws: {before/1e6:.0f} MB and {grown:+.1%}'
    return rows + [dict(what=said, wanted='under +10 %')]


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--redraws', type=int, default=500)
    for row in measure_rows(**vars(parser.parse_args())): print(row)
