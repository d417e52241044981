"""How long a selective scan takes, forward and backward: by hand, by autograd through a loop, and by mambapy's parallel scan.

    python benchmarks/scan.py                                   # 64 and 256 tokens, 512 and 1024 channels
    python benchmarks/scan.py --tokens 64 128 --channels 768 --rounds 100
    python benchmarks/scan.py --device cuda

Everything is measured in one run of one process. The ways take turns, round by round, so that a busy machine slows all of them; `ms` is the
best round and `median` the median. `times` is how many times faster `selective_scan` is, best round against best round, and `times_median`
median against median. `kept_MB` is what a way holds for its backward pass beside its arguments, counted by storage with autograd's own
hooks; `formula_MB` is 8 L d N bytes, the two states of `selective_scan`. `peak_MB` is the most that was allocated at a time, forward and
backward, beside arguments, output and gradients. mambapy is left out where it is not installed (`pip install mambapy`). Tokens are the
images of a batch.
"""
import argparse, os, platform, statistics, time
os.environ.setdefault('KINETO_LOG_LEVEL', '99')    # the profiler that counts memory is silent; read when torch is imported
import torch
from torch.nn import functional as F
from cxr_workbench.methods.acaa import selective_scan

STATES = 16


def loop(u, delta, A, B, C, D):
    "The recurrence step by step, differentiated by autograd."
    decay, write = torch.exp(delta[..., None]*A), (delta*u)[..., None]*B[:, :, None]
    h, y = torch.zeros_like(decay[:, 0]), []
    for t in range(u.shape[1]):
        h = decay[:, t]*h + write[:, t]
        y.append((h @ C[:, t, :, None]).squeeze(-1))
    return torch.stack(y, 1) + D*u


def ways():
    "Name -> scan of the same six arguments."
    found = {'selective_scan': selective_scan, 'loop': loop}
    try: from mambapy.mamba import MambaBlock
    except ImportError: return found
    return {**found, 'mambapy': lambda *given: MambaBlock.selective_scan(None, *given)}


def arguments(tokens, channels, device):
    g = torch.Generator().manual_seed(0)
    normal = lambda *shape: torch.randn(*shape, generator=g)
    drawn = (normal(1, tokens, channels), F.softplus(normal(1, tokens, channels) - 2), -normal(channels, STATES).exp(),
             normal(1, tokens, STATES), normal(1, tokens, STATES), normal(channels))
    return [t.to(device).requires_grad_() for t in drawn], normal(1, tokens, channels).to(device)


def once(scan, given, along):
    y = scan(*given)
    return y, *torch.autograd.grad(y, given, along)


def seconds(scan, given, along):
    wait = torch.cuda.synchronize if along.is_cuda else lambda: None
    wait(); start = time.perf_counter()
    once(scan, given, along)
    wait()
    return time.perf_counter() - start


def kept(scan, given):
    "MB that wait for the backward pass beside the arguments, every storage counted once."
    storages, own = {}, {t.untyped_storage().data_ptr() for t in given}
    def note(t):
        storages[t.untyped_storage().data_ptr()] = t.untyped_storage()    # held, so that no address comes twice
        return t
    with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t): y = scan(*given)
    return sum(s.nbytes() for at, s in storages.items() if at not in own)/1e6


def peak(scan, given, along):
    "MB allocated at the worst moment, beside what comes back."
    back = sum(t.untyped_storage().nbytes() for t in once(scan, given, along))
    if along.is_cuda:
        torch.cuda.synchronize(); torch.cuda.reset_peak_memory_stats(); before = torch.cuda.memory_allocated()
        once(scan, given, along)
        return (torch.cuda.max_memory_allocated() - before - back)/1e6
    from torch.profiler import ProfilerActivity, profile
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen: once(scan, given, along)
    held = most = 0
    for _, gained in sorted(memory_events(seen)): held += gained; most = max(most, held)
    return (most - back)/1e6


def memory_events(profiled):
    "(time, bytes gained or lost) of every allocation that the profiler saw."
    return [(e.start_ns(), e.nbytes()) for e in profiled.profiler.kineto_results.events() if e.name() == '[memory]']


def rows(tokens=(64, 256), channels=(512, 1024), rounds=40, device='cpu')->list[dict]:
    "One dictionary per size and way."
    table = []
    for L in tokens:
        for d in channels:
            (given, along), tried = arguments(L, d, device), ways()
            results = {name: once(scan, given, along) for name, scan in tried.items()}
            apart = {name: max(float((p - q).detach().abs().max()/q.detach().abs().max()) for p, q in zip(results['selective_scan'], r)) for name, r in results.items()}
            assert max(apart.values()) < 1e-5, apart
            taken = {name: [] for name in tried}
            for _ in range(rounds):
                for name, scan in tried.items(): taken[name].append(1000*seconds(scan, given, along))
            best, median = ({name: statistic(t) for name, t in taken.items()} for statistic in (min, statistics.median))
            table += [dict(tokens=L, channels=d, way=name, ms=round(best[name], 2), median=round(median[name], 2),
                           times=round(best[name]/best['selective_scan'], 2), times_median=round(median[name]/median['selective_scan'], 2),
                           kept_MB=round(kept(scan, given), 1), formula_MB=round(8*L*d*STATES/1e6, 1), peak_MB=round(peak(scan, given, along), 1))
                      for name, scan in tried.items()]
    return table


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--tokens', type=int, nargs='+', default=[64, 256])
    parser.add_argument('--channels', type=int, nargs='+', default=[512, 1024])
    parser.add_argument('--rounds', type=int, default=40)
    parser.add_argument('--device', default='cpu')
    asked = parser.parse_args()
    table = rows(**vars(asked))
    where = torch.cuda.get_device_name() if asked.device.startswith('cuda') else f'{platform.processor() or platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads'
    print(f'{where}; torch {torch.__version__}, float32, {STATES} states, forward and backward')
    columns = [c for c in table[0] if c != 'way']
    print(f'{"":16}', *(f'{c:>12}' for c in columns))
    for r in table: print(f'{r["way"]:16}', *(f'{r[c]:>12,}' for c in columns))


if __name__ == '__main__': main()
