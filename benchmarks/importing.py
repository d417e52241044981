"""`import cxr_workbench` and its ground floors against `import torch`, each in a fresh process."""
import subprocess, sys, time


def seconds(statement, repeats=5):
    "The fastest of a few fresh processes."
    times = []
    for _ in range(repeats):
        start = time.perf_counter(); subprocess.run([sys.executable, '-c', statement], check=True); times.append(time.perf_counter() - start)
    return min(times)


def rows():
    base, out = seconds('import torch'), []
    for module in ('cxr_workbench', 'cxr_workbench.core', 'cxr_workbench.data', 'cxr_workbench.methods.supervised', 'cxr_workbench.views', 'cxr_workbench.metrics'):
        t = seconds(f'import {module}')
        out.append(dict(what=f'import {module}', reference=f'import torch {base:.2f} s', ours=f'{t:.2f} s', ratio=t/base, wanted='<= 1.3'))
    return out


if __name__ == '__main__':
    for row in rows(): print(row)
