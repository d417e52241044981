"""How long a selective scan takes, forward and backward: by hand, by autograd through a loop, by mambapy.

    python benchmarks/scan.py                                   # 64 and 256 tokens, 512 and 1024 channels
    python benchmarks/scan.py --tokens 64 128 --channels 768 --rounds 100
    python benchmarks/scan.py --device cuda

Everything is measured in one run of one process. The ways take turns, round by round, so that a busy machine slows all
of them; `ms` is the best round and `median` the median. `times` is how many times faster `selective_scan` is, best
round against best round, and `times_median` median against median. `kept_MB` is what a way holds for its backward pass
beside its arguments, counted by storage with autograd's own hooks; `formula_MB` is 8 L d N bytes, the two states of
`selective_scan`. `peak_MB` is the most that was allocated at a time, forward and backward, beside arguments, output and
gradients. mambapy (its scan is a parallel one) is left out where it is not installed: `pip install mambapy`. Tokens are
the images of a batch.
"""
import argparse, os, platform, statistics
from measure import peak_bytes, time_in_turns
import torch
from torch.nn import functional as F
from cxr_workbench.scan import selective_scan

STATES = 16


def scan_by_loop(u, delta, A, B, C, D):
    "The recurrence step by step, differentiated by autograd."
    decay, write = torch.exp(delta[..., None]*A), (delta*u)[..., None]*B[:, :, None]
    h, y = torch.zeros_like(decay[:, 0]), []
    for t in range(u.shape[1]):
        h = decay[:, t]*h + write[:, t]
        y.append((h @ C[:, t, :, None]).squeeze(-1))
    return torch.stack(y, 1) + D*u


def find_scans():
    "Name -> scan of the same six arguments."
    found = {'selective_scan': selective_scan, 'loop': scan_by_loop}
    try: from mambapy.mamba import MambaBlock
    except ImportError: pass
    else: found['mambapy'] = lambda *given: MambaBlock.selective_scan(None, *given)
    try: from mamba_ssm.ops.selective_scan_interface import selective_scan_fn
    except ImportError: return found
    return {**found, 'mamba_ssm': lambda *given: call_kernel(selective_scan_fn, *given)}


def call_kernel(kernel, u, delta, A, B, C, D):
    "The kernel of mamba_ssm, which wants channels before tokens."
    u, delta, B, C = (t.transpose(1, 2).contiguous() for t in (u, delta, B, C))
    return kernel(u, delta, A, B, C, D).transpose(1, 2)


def draw_arguments(tokens, channels, device):
    "The six arguments of a scan, and a tensor along which its output is differentiated."
    g = torch.Generator().manual_seed(0)
    normal = lambda *shape: torch.randn(*shape, generator=g)
    u, delta = normal(1, tokens, channels), F.softplus(normal(1, tokens, channels) - 2)
    A, B = -normal(channels, STATES).exp(), normal(1, tokens, STATES)
    C, D = normal(1, tokens, STATES), normal(channels)
    given = [t.to(device).requires_grad_() for t in (u, delta, A, B, C, D)]
    return given, normal(1, tokens, channels).to(device)


def run_once(scan, given, along):
    "Output and gradients."
    y = scan(*given)
    return y, *torch.autograd.grad(y, given, along)


def measure_kept(scan, given):
    "MB that wait for the backward pass beside the arguments, every storage counted once."
    storages, own = {}, {t.untyped_storage().data_ptr() for t in given}
    def note(t):
        storages[t.untyped_storage().data_ptr()] = t.untyped_storage()    # held, so that no address comes twice
        return t
    with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t): scan(*given)
    return sum(s.nbytes() for at, s in storages.items() if at not in own)/1e6


def measure_peak(scan, given, along):
    "MB allocated at the worst moment, beside what comes back."
    back = sum(t.untyped_storage().nbytes() for t in run_once(scan, given, along))
    return (peak_bytes(lambda: run_once(scan, given, along), along.device) - back)/1e6


def check_equal(scans, given, along):
    "All scans give the same output and gradients, to 1e-5 of the largest entry."
    results = {name: run_once(scan, given, along) for name, scan in scans.items()}
    @torch.no_grad()
    def difference(p, q): return float((p - q).abs().max()/q.abs().max())
    worst = {name: max(map(difference, results['selective_scan'], result)) for name, result in results.items()}
    assert max(worst.values()) < 1e-5, worst


def measure_size(L, d, rounds, device):
    "One row per scan, at so many tokens and channels."
    (given, along), scans = draw_arguments(L, d, device), find_scans()
    check_equal(scans, given, along)
    calls = {name: lambda scan=scan: run_once(scan, given, along) for name, scan in scans.items()}
    ms = {name: [1000*s for s in seconds] for name, seconds in time_in_turns(calls, rounds, device).items()}
    best = {name: min(taken) for name, taken in ms.items()}
    median = {name: statistics.median(taken) for name, taken in ms.items()}
    for name, scan in scans.items():
        yield dict(
            tokens=L, channels=d, way=name, ms=round(best[name], 2), median=round(median[name], 2),
            times=round(best[name]/best['selective_scan'], 2),
            times_median=round(median[name]/median['selective_scan'], 2),
            kept_MB=round(measure_kept(scan, given), 1), formula_MB=round(8*L*d*STATES/1e6, 1),
            peak_MB=round(measure_peak(scan, given, along), 1))


def measure_rows(tokens=(64, 256), channels=(512, 1024), rounds=40, device='cpu')->list[dict]:
    "One dictionary per size and way."
    return [row for L in tokens for d in channels for row in measure_size(L, d, rounds, device)]


def describe_machine(device):
    if device.startswith('cuda'): return torch.cuda.get_device_name()
    name = platform.processor() or platform.machine()
    return f'{name}, {os.cpu_count()} cores, {torch.get_num_threads()} threads'


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--tokens', type=int, nargs='+', default=[64, 256])
    parser.add_argument('--channels', type=int, nargs='+', default=[512, 1024])
    parser.add_argument('--rounds', type=int, default=40)
    parser.add_argument('--device', default='cpu')
    asked = parser.parse_args()
    table = measure_rows(**vars(asked))
    where = describe_machine(asked.device)
    print(f'{where}; torch {torch.__version__}, float32, {STATES} states, forward and backward')
    columns = [column for column in table[0] if column != 'way']
    print(f'{"":16}', *(f'{column:>12}' for column in columns))
    for row in table: print(f'{row["way"]:16}', *(f'{row[column]:>12,}' for column in columns))


if __name__ == '__main__': main()
