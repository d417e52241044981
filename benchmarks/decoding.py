"""One image file to 224 px, with check sums and every check, against the bare decoder and a resize, in one run.

    python benchmarks/decoding.py --size 224 --rounds 15

Seconds are those of the processor, so that a busy machine spoils them less. `ratio` is our rate over the bare one's.
The PNG with three equal colours and an alpha channel is what many converters write of a grey film.
"""
import argparse, io, tempfile, time
from pathlib import Path
import numpy as np
from PIL import Image
from cxr_workbench.files import fit_image, read_image


def draw_film(side, seed=0):
    "A phantom with the grain of a film, (side, side) uint8: noise is what a decoder has to work at."
    from cxr_workbench.phantom import SyntheticCXR
    small = Image.fromarray(SyntheticCXR(1, 256, seed=seed).images[0])
    film = np.asarray(small.resize((side, side), Image.Resampling.BILINEAR), float)
    return (film + np.random.default_rng(seed).normal(0, 3, film.shape)).clip(0, 255).astype(np.uint8)


def write_files(folder):
    "Name -> path."
    from pydicom.data import get_testdata_file
    film = draw_film(1024)
    grey, alpha = Image.fromarray(film), Image.fromarray(np.full_like(film, 255))
    pictures = {'PNG, 1024 px, grey': grey, 'PNG, 1024 px, RGBA': Image.merge('RGBA', [grey]*3 + [alpha])}
    paths = {name: folder/f'{place}.png' for place, name in enumerate(pictures)}
    for name, path in paths.items(): pictures[name].save(path)
    paths['JPEG, 1024 px'] = folder/'film.jpg'
    grey.save(paths['JPEG, 1024 px'], quality=90)
    paths['DICOM, not compressed'] = Path(get_testdata_file('CT_small.dcm'))
    return paths


def read_bare(path, size):
    "What there is to do at least: decode and resize."
    data = path.read_bytes()
    if path.suffix == '.dcm':
        import pydicom
        pixels = pydicom.dcmread(io.BytesIO(data)).pixel_array.astype(np.float32)
        grey = Image.fromarray(pixels)
    else:
        with Image.open(io.BytesIO(data)) as image: grey = image.convert('L')
    return np.asarray(grey.resize((size, size), Image.Resampling.BILINEAR))


def time_processor(calls, rounds):
    "Name -> seconds of the processor in the fastest round; the calls take turns."
    best = dict.fromkeys(calls, float('inf'))
    for _ in range(rounds):
        for name, call in calls.items():
            start = time.process_time()
            call()
            best[name] = min(best[name], time.process_time() - start)
    return best


def measure_rows(size=224, rounds=15):
    table = []
    with tempfile.TemporaryDirectory() as folder:
        for name, path in write_files(Path(folder)).items():
            calls = dict(bare=lambda: read_bare(path, size), ours=lambda: fit_image(read_image(path), size))
            best = time_processor(calls, rounds)
            seconds = dict(reference=f'bare {best["bare"]*1e3:.2f} ms', ours=f'{best["ours"]*1e3:.2f} ms')
            table.append(dict(what=f'{name} to {size}', **seconds, ratio=best['bare']/best['ours'], wanted='>= 1.0'))
    return table


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in dict(size=224, rounds=15).items(): parser.add_argument(f'--{name}', type=int, default=default)
    for row in measure_rows(**vars(parser.parse_args())): print(row)
