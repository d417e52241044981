"""What the benchmarks share: seconds of calls that take turns, and the memory of a call at its worst moment."""
import os, time
from itertools import accumulate
os.environ.setdefault('KINETO_LOG_LEVEL', '99')    # keeps the profiler silent; read when torch is imported
import torch


def is_gpu(device): return str(device).startswith('cuda')


def time_call(call, device='cpu'):
    "Seconds of one call, on a GPU until its work is done."
    wait = torch.cuda.synchronize if is_gpu(device) else lambda: None
    wait()
    start = time.perf_counter()
    call()
    wait()
    return time.perf_counter() - start


def time_in_turns(calls, rounds, device='cpu'):
    "Name -> seconds of each round; the calls take turns, so that a busy machine slows all of them."
    taken = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items(): taken[name].append(time_call(call, device))
    return taken


def time_fastest(calls, rounds, device='cpu'):
    "Name -> seconds of the fastest round."
    return {name: min(seconds) for name, seconds in time_in_turns(calls, rounds, device).items()}


def list_memory_events(profiled):
    "(time, bytes gained or lost) of every allocation that the profiler saw."
    events = profiled.profiler.kineto_results.events()
    return [(event.start_ns(), event.nbytes()) for event in events if event.name() == '[memory]']


def peak_bytes(call, device='cpu'):
    "Bytes allocated at the worst moment of a call, beside what was there before."
    if is_gpu(device):
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        return torch.cuda.max_memory_allocated() - before
    from torch.profiler import ProfilerActivity, profile
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen: call()
    return max(accumulate((gained for _, gained in sorted(list_memory_events(seen))), initial=0))
