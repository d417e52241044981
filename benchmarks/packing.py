"""A pack of 112,120 files, as many as ChestX-ray14 has: seconds, memory over time, a kill on the way, and its shards.

    python benchmarks/packing.py                              # 112,120 names of 200 small files, 2 processes
    python benchmarks/packing.py --files 5000 --size 32

The rows are hard links to a few small files of random squares, so that decoding costs little beside the packing.
The first run is killed with SIGKILL at the given share of the shards, the second goes on, and then every checksum is
read. Memory is the proportional set size of all processes (Linux only).
"""
import argparse, json, os, signal, subprocess, sys, tempfile, time
from pathlib import Path
import numpy as np
from memory import read_pss

ROOT = Path(__file__).resolve().parent.parent


def write_table(folder, files, distinct=200, side=64):
    "A table of so many names of a few files, and its path."
    from PIL import Image
    rng = np.random.default_rng(0)
    squares = (rng.integers(0, 256, (side//8, side//8), np.uint8) for _ in range(distinct))
    images = [np.kron(each, np.ones((8, 8), np.uint8)) for each in squares]
    (folder/'own').mkdir()
    for k, image in enumerate(images): Image.fromarray(image).save(folder/'own'/f'{k}.jpg', quality=90)
    lines = ['path,No Finding']
    for n in range(files):
        if n % 10_000 == 0: (folder/f'{n//10_000:03d}').mkdir()
        name = f'{n//10_000:03d}/{n:06d}.jpg'
        os.link(folder/'own'/f'{n%distinct}.jpg', folder/name)
        lines.append(f'{name},{n % 2}')
    (folder/'table.csv').write_text('\n'.join(lines) + '\n')
    return folder/'table.csv'


def list_family(pid):
    "A process and all that it started."
    try: children = Path(f'/proc/{pid}/task/{pid}/children').read_text().split()
    except OSError: return []
    return [pid, *(each for child in children for each in list_family(int(child)))]


def watch(process, stop):
    "Megabytes of the whole family by time, until it ends or `stop()` is true; then it is killed."
    seen, start = [], time.perf_counter()
    while process.poll() is None:
        try: seen.append((time.perf_counter() - start, sum(read_pss(pid)[0] for pid in list_family(process.pid))))
        except OSError: pass       # one has just ended
        if stop(): process.send_signal(signal.SIGKILL)
        time.sleep(.5)
    return np.array(seen)


def run_pack(table, out, size, workers, stop=lambda: False):
    "Seconds of the processor and of the clock, and the memory by time."
    command = [sys.executable, __file__, '--pack', json.dumps([str(table), str(out), size, workers])]
    before, start = os.times(), time.perf_counter()
    environment = {**os.environ, 'PYTHONPATH': os.pathsep.join([str(ROOT), *sys.path]), 'TQDM_DISABLE': '1'}
    process = subprocess.Popen(command, env=environment)
    seen = watch(process, stop)
    after = os.times()
    spent = after.children_user + after.children_system - before.children_user - before.children_system
    return spent, time.perf_counter() - start, seen


def measure_rows(files=112_120, size=32, workers=2, kill=.4):
    "One row for each run: images written, seconds, and memory early and late."
    from cxr_workbench.files import PackedImages
    with tempfile.TemporaryDirectory() as folder:
        table, out, table_rows = write_table(Path(folder), files), Path(folder)/'pack', []
        def count(): return len(list(out.glob('shard_*.csv')))
        shards, done = None, 0
        for name, share in (('until it is killed', kill), ('goes on', 2)):
            def stop():
                plan = out/'pack.json'
                return plan.exists() and count() >= share*-(-files//json.loads(plan.read_text())['shard'])
            cpu, clock, seen = run_pack(table, out, size, workers, stop)
            plan = json.loads((out/'pack.json').read_text())
            now = files if plan['complete'] else count()*plan['shard']
            half, memory = len(seen)//2, seen[:, 1]
            spent = float(cpu) if plan['complete'] else ''      # of a run that was killed, its workers' is not known
            early, late = float(memory[half//2:half].max()), float(memory[half:].max())
            table_rows.append(dict(what=f'{files:,} names, {name}', images=now - done, cpu_s=spent, clock_s=clock,
                                   early_MB=early, late_MB=late))
            done = now
        packed = PackedImages(out)
        shards = packed.config['rows']//packed.config['shard'] + 1
        assert packed.verify() and len(packed) == files and not len(packed.failed)
        distinct = packed[:200]
        assert all(np.array_equal(packed[at:at + 200], distinct[:files - at]) for at in range(0, files, 20_000))
        table_rows[-1]['shards_verified'] = shards
    return table_rows


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in dict(files=112_120, size=32, workers=2).items():
        parser.add_argument(f'--{name}', type=int, default=default)
    parser.add_argument('--kill', type=float, default=.4)
    parser.add_argument('--pack', help=argparse.SUPPRESS)
    given = vars(parser.parse_args())
    job = given.pop('pack')
    if job:
        from cxr_workbench.files import pack
        table, out, size, workers = json.loads(job)
        pack(table, out, size, workers=workers)
    else:
        for row in measure_rows(**given): print(row)
