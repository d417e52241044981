"""How fast images reach memory: from a pack, from files, and by a bare copy of the same bytes.

    python benchmarks/reading.py               # $CXR_DATA/nih14/images_256 where it is, otherwise drawn files
    python benchmarks/reading.py --files 1000 --size 64 --batch 64

Everything is measured in one run on one process, in random batches of rows, with the files in the page cache. The best
of five rounds counts, and the rounds of the five ways take turns, so that a busy machine slows all of them. `times` is
how many times faster the pack is.
"""
import argparse, os, platform, tempfile, time
from pathlib import Path
import numpy as np
from PIL import Image
from cxr_workbench.files import fit_image, pack, read_image

ROOT = Path(__file__).resolve().parent.parent


def find_jpegs(count, folder):
    "Paths of 256 px JPEG files and what they are: real ones where they are at hand, drawn ones otherwise."
    data = Path(os.environ.get('CXR_DATA') or ROOT.parent/'shared'/'data')
    real = data/'nih14'/'images_256'
    if real.is_dir(): return sorted(real.glob('*.jpg'))[:count], 'NIH ChestX-ray14'
    from cxr_workbench.phantom import SyntheticCXR
    images = SyntheticCXR(min(count, 200), 256, seed=0).images
    for i in range(count): Image.fromarray(images[i%len(images)]).save(folder/f'{i:05d}.jpg', quality=90)
    return sorted(folder.glob('*.jpg')), 'phantom'


def build_readers(paths, packed, batch):
    "Name -> (function that reads one batch of rows, batches per round)."
    size = packed.size
    memory = packed[:]                      # the same bytes, in memory
    source = memory[np.arange(batch)%len(memory)]
    target = np.empty_like(source)
    def read_bare(path):
        with Image.open(path) as image: grey = image.convert('L')
        return np.asarray(grey.resize((size, size), Image.Resampling.BILINEAR))
    def read_whole(path): return np.rint(fit_image(read_image(path), size)*255).astype(np.uint8)
    return {
        'packed, random rows': (lambda rows: packed[rows], 200),
        'files, read_image': (lambda rows: np.stack([read_whole(paths[row]) for row in rows]), 2),
        'files, bare Pillow': (lambda rows: np.stack([read_bare(paths[row]) for row in rows]), 2),
        'memory, random rows': (lambda rows: memory[rows], 200),
        'memory, bare copy': (lambda rows: np.copyto(target, source), 2000)}


def measure_readers(readers, images, batch, rounds):
    "Name -> images per second in the best round; random rows of so many images."
    rng, best = np.random.default_rng(0), {}
    for _ in range(rounds):
        for name, (read, repeats) in readers.items():
            order = [rng.integers(0, images, batch) for _ in range(repeats)]
            start = time.perf_counter()
            for rows in order: read(rows)
            rate = repeats*batch/(time.perf_counter() - start)
            best[name] = max(best.get(name, 0), rate)
    return best


def measure_rows(files=600, size=64, batch=64, rounds=5)->list[dict]:
    "One dictionary per way: images_per_s, MB_per_s, and how many times faster the pack is."
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        (folder/'files').mkdir()
        paths, kind = find_jpegs(files, folder/'files')
        start = time.perf_counter()
        packed = pack(paths, folder/'pack', size)
        packing = len(paths)/(time.perf_counter() - start)
        assert not len(packed.failed), packed.failed
        best = measure_readers(build_readers(paths, packed, batch), len(packed), batch, rounds)
    best[f'packing itself ({os.cpu_count()} cores)'] = packing
    fast = best['packed, random rows']
    return [dict(way=name, files=kind, size=size, images_per_s=round(rate),
                 MB_per_s=round(rate*size**2/1e6, 1), times=round(fast/rate, 2)) for name, rate in best.items()]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in dict(files=600, size=64, batch=64, rounds=5).items():
        parser.add_argument(f'--{name}', type=int, default=default)
    table = measure_rows(**vars(parser.parse_args()))
    machine = f'{platform.processor() or platform.machine()}, {os.cpu_count()} cores'
    kind, size = table[0]['files'], table[0]['size']
    print(f'{machine}; {kind} JPEG of 256 px to {size} px, batches of random rows')
    print(f'{"":30}{"images/s":>12}{"MB/s":>10}{"times":>10}')
    for r in table: print(f'{r["way"]:30}{r["images_per_s"]:>12,}{r["MB_per_s"]:>10,}{r["times"]:>10,}')


if __name__ == '__main__': main()
