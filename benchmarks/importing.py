"""`import cxr_workbench` and its ground floors against `import torch`, each in a fresh process."""
import subprocess, sys, time

MODULES = [
    'cxr_workbench', 'cxr_workbench.core', 'cxr_workbench.data',
    'cxr_workbench.methods.supervised', 'cxr_workbench.views', 'cxr_workbench.metrics']


def time_import(statement, repeats=5):
    "Seconds of the fastest of a few fresh processes."
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        subprocess.run([sys.executable, '-c', statement], check=True)
        times.append(time.perf_counter() - start)
    return min(times)


def measure_rows():
    base, table = time_import('import torch'), []
    for module in MODULES:
        seconds = time_import(f'import {module}')
        table.append(dict(what=f'import {module}', reference=f'import torch {base:.2f} s', ours=f'{seconds:.2f} s',
                          ratio=seconds/base, wanted='<= 1.3'))
    return table


if __name__ == '__main__':
    for row in measure_rows(): print(row)
