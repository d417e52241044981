"""One image file to 224 px, with check sums and every check, against the bare decoder and a resize, in one run.

Ours is `Reading(224)(path)`, by which data sets, packs and predictions read; bare is Pillow's decoder and its resize
of bytes, or pydicom's pixels, its window and Pillow's resize.

    python benchmarks/decoding.py --size 224 --rounds 15

Seconds are those of the processor, so that a busy machine spoils them less. `ratio` is our rate over the bare one's.
The PNG with three equal colours and an alpha channel is what many converters write of a grey film.
"""
import argparse, io, tempfile, time
from pathlib import Path
import numpy as np
from PIL import Image
from cxr_workbench.files import Reading


def draw_film(side, seed=0):
    "A phantom with the grain of a film, (side, side) uint8: noise is what a decoder has to work at."
    from cxr_workbench.phantom import SyntheticCXR
    small = Image.fromarray(SyntheticCXR(1, 256, seed=seed).images[0])
    film = np.asarray(small.resize((side, side), Image.Resampling.BILINEAR), float)
    return (film + np.random.default_rng(seed).normal(0, 3, film.shape)).clip(0, 255).astype(np.uint8)


def write_dicom(path, values, **tags):
    "A file of 12 bits in 16, not compressed."
    from pydicom import Dataset, uid
    from pydicom.dataset import FileMetaDataset
    ds, ds.file_meta = Dataset(), FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = uid.DigitalXRayImageStorageForPresentation
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = uid.generate_uid(entropy_srcs=[path.name])
    ds.Rows, ds.Columns, ds.SamplesPerPixel, ds.PhotometricInterpretation = *values.shape, 1, 'MONOCHROME2'
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    for key, value in tags.items(): setattr(ds, key, value)
    ds.PixelData = values.tobytes()
    ds.save_as(path, enforce_file_format=True)


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
    paths['DICOM, 128 px, 224 tags'] = Path(get_testdata_file('CT_small.dcm'))
    window = dict(WindowCenter=2048, WindowWidth=3000)
    for name, tags in {'DICOM, 1024 px': {}, 'DICOM, 1024 px, window': window}.items():
        paths[name] = folder/f'{len(paths)}.dcm'
        write_dicom(paths[name], film.astype(np.uint16)*16, **tags)
    return paths


def read_bare(path, size):
    "What there is to do at least: decode, apply the window of a DICOM file, and resize."
    data = path.read_bytes()
    if path.suffix == '.dcm':
        import pydicom
        ds = pydicom.dcmread(io.BytesIO(data))
        shown = pydicom.pixels.apply_voi_lut(ds.pixel_array, ds)
        grey = Image.fromarray(shown.astype(np.float32))
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
            calls = dict(bare=lambda: read_bare(path, size), ours=lambda: Reading(size)(path))
            best = time_processor(calls, rounds)
            seconds = dict(reference=f'bare {best["bare"]*1e3:.2f} ms', ours=f'{best["ours"]*1e3:.2f} ms')
            table.append(dict(what=f'{name} to {size}', **seconds, ratio=best['bare']/best['ours'], wanted='>= 1.0'))
    return table


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in dict(size=224, rounds=15).items(): parser.add_argument(f'--{name}', type=int, default=default)
    for row in measure_rows(**vars(parser.parse_args())): print(row)
