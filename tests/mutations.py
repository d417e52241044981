"""Read many damaged files, and see that each is a picture or an UnreadableImage.

    python tests/mutations.py --files 10000            # less than a minute on one core
    python tests/mutations.py --files 500 --seed 7     # what the test suite does
    python tests/mutations.py --files 2000 --folder radiographs    # with the image files of a folder as seeds

Seeds of every format that is read are damaged by flipped bits, missing ends, blocks of zeros or noise, blocks that were
swapped, left out or repeated, numbers set to extremes and heads of other files. Each file is read in a process that is
watched. Findings are a crash, a file that takes longer than --seconds, an error other than UnreadableImage, more memory
than --megabytes, and a picture from a PNG or DICOM whose own check sums or lengths say that it is cut off. They are
printed with the number that makes the file again: --only NUMBER.
"""
import argparse, io, json, os, resource, select, struct, subprocess, sys, tempfile, time, warnings, zlib
from pathlib import Path
import numpy as np

HERE = Path(__file__).resolve().parent


def make_seeds():
    "Name -> bytes of small files of every format."
    sys.path.insert(0, str(HERE))
    import test_dicom as d, test_pictures as p
    return make_picture_seeds(p) | make_tiff_seeds(p) | make_dicom_seeds(d)


def make_picture_seeds(p):
    "Name -> bytes of what Pillow writes; an interlaced PNG is made by hand."
    from PIL import Image, features
    found, grey = {}, Image.fromarray(p.BYTES)
    turned = grey.rotate(90).resize(grey.size)
    rgb, alpha = Image.merge('RGB', (grey, turned, grey)), Image.merge('LA', (grey, turned))
    def add(name, im, kind, **options):
        out = io.BytesIO()
        im.save(out, kind, **options)
        found[name] = out.getvalue()
    wide = Image.fromarray(p.WORDS)
    add('grey.png', grey, 'PNG')
    add('colour.png', rgb, 'PNG')
    add('alpha.png', alpha, 'PNG')
    add('16.png', wide, 'PNG')
    add('palette.png', rgb.convert('P'), 'PNG')
    add('stored.png', grey, 'PNG', compress_level=0)
    add('dpi.png', grey, 'PNG', dpi=(100, 150))
    add('frames.png', grey, 'PNG', save_all=True, append_images=[grey.rotate(5)])
    rows = zlib.compress(p.interlace(p.BYTES))
    seven_bits = p.make_chunk(b'sBIT', b'\7')
    found['interlaced.png'] = p.make_png(p.BYTES, packed=lambda _: rows, interlaced=1, extra=seven_bits)
    add('grey.jpg', grey, 'JPEG')
    add('colour.jpg', rgb, 'JPEG')
    add('progressive.jpg', rgb, 'JPEG', progressive=True)
    add('cmyk.jpg', rgb.convert('CMYK'), 'JPEG')
    exif = Image.Exif()
    exif[274] = 6
    add('turned.jpg', grey, 'JPEG', exif=exif)
    add('x.webp', rgb, 'WEBP')
    add('lossless.webp', rgb, 'WEBP', lossless=True)
    plain = [('x.gif', grey, 'GIF'), ('x.bmp', grey, 'BMP'), ('colour.bmp', rgb, 'BMP'), ('x.ppm', rgb, 'PPM'),
             ('x.pgm', wide, 'PPM'), ('x.jp2', grey, 'JPEG2000'), ('16.jp2', wide, 'JPEG2000')]
    for name, im, kind in plain: add(name, im, kind)
    add('x.j2k', rgb, 'JPEG2000', no_jp2=True)
    if features.check('avif'): add('x.avif', rgb, 'AVIF')
    add('lzw.tif', wide, 'TIFF', compression='tiff_lzw')
    add('jpeg.tif', rgb, 'TIFF', compression='jpeg')
    add('raw.tif', rgb, 'TIFF')
    add('one.tif', grey.convert('1'), 'TIFF', compression='group4')
    return found


def make_tiff_seeds(p):
    "Name -> bytes of TIFF with numbers, in strips, in tiles, and as BigTIFF."
    found = {}
    for kind in ('i1', 'u2', 'f4', 'f8'):
        values = p.make_values(kind)[0]
        found[f'{kind}.tif'] = p.make_tiff(values)
        found[f'{kind}-tiles.tif'] = p.make_tiff(values, '>', False, 8, 3 if kind[0] == 'f' else 2, tile=16)
        found[f'{kind}-big.tif'] = p.make_tiff(values, '<', True, 32773, rows_per_strip=9)
    return found


def make_dicom_seeds(d):
    "Name -> bytes of DICOM files, plain and packed, and of some that come with pydicom."
    from pydicom import uid
    found, values, eight = {}, d.smooth(12), d.smooth(8)
    window = dict(WindowCenter=2000, WindowWidth=3000, RescaleSlope=1, RescaleIntercept=-1024)
    packer = zlib.compressobj(wbits=-15)
    deflated = packer.compress(values.astype('<u2').tobytes()) + packer.flush()
    made = {
        'explicit': dict(values=values, **window),
        'implicit': dict(values=values, syntax=uid.ImplicitVRLittleEndian, **window),
        'big': dict(values=values, syntax=uid.ExplicitVRBigEndian), 'eight': dict(values=eight, stored=8, allocated=8),
        'signed': dict(values=d.smooth(12, signed=True), signed=True, photometric='MONOCHROME1'),
        'high': dict(values=values << 4, high=15),
        'rle': dict(values=values, syntax=uid.RLELossless, pixels=[d.encode_rle(values, 16)]),
        'jpeg': dict(values=eight, stored=8, allocated=8, syntax=uid.JPEGBaseline8Bit, pixels=[d.encode_jpeg(eight)]),
        'deflated': dict(values=values, syntax='1.2.840.10008.1.2.8.1', pixels=[deflated]),
        'table': dict(values=values, VOILUTSequence=d.make_table(d.SQUARE, depth=16)),
        'groups': dict(values=values, **d.make_groups(FrameVOILUTSequence=dict(WindowCenter=1000, WindowWidth=800))),
        'spacing': dict(values=values, PixelSpacing=[.2, .3]),
        'colour': dict(values=np.stack([eight, eight[::-1], eight], -1), stored=8, allocated=8,
                       photometric='RGB')}
    try: made['j2k'] = dict(values=values, syntax=uid.JPEG2000Lossless, pixels=[d.encode_j2k(values, 12)])
    except BaseException as error:
        if 'Skipped' not in type(error).__name__: raise
    with tempfile.TemporaryDirectory() as folder:
        for name, how in made.items(): found[f'{name}.dcm'] = d.write(Path(folder)/'x', **how).read_bytes()
    root = Path(d.pydicom.__file__).parent/'data'/'test_files'
    for name in ('MR_small', 'MR_small_RLE', 'CT_small', 'JPEG2000', 'SC_rgb_jpeg_dcmtk'):
        path = root/f'{name}.dcm'
        if path.exists() and path.stat().st_size < 60_000: found[path.name] = path.read_bytes()
    return found


def read_seeds(folder):
    "Name -> bytes of the image files of a folder, of at most 4 MB."
    from cxr_workbench.files import find_images
    small = [path for path in find_images(folder) if 0 < path.stat().st_size < 4e6]
    return {str(path.relative_to(folder)): path.read_bytes() for path in small}


EXTREMES = [b'\0\0', b'\xff\xff', b'\0\0\0\0', b'\xff\xff\xff\xff', b'\x7f\xff\xff\xff', b'\xff\xff\xff\x7f', b'\0\x80',
            b'\x80\0', b'\1\0']


def damage(number:int, seed:int, files:dict):
    "The damaged file of a number, and how it was made."
    rng = np.random.default_rng((seed, number))
    names = list(files)
    name = names[rng.integers(len(names))]
    data, size = bytearray(files[name]), len(files[name])
    how = ['flip', 'cut', 'zeros', 'noise', 'swap', 'drop', 'double', 'extreme', 'head'][rng.integers(9)]
    at, length = int(rng.integers(size)), int(2**rng.uniform(0, np.log2(size)))
    if rng.random() < .5: at = int(rng.integers(min(size, 700)))              # the head of a file holds its statements
    if how == 'flip':
        for _ in range(rng.integers(1, 9)):
            place = at if rng.random() < .3 else int(rng.integers(size))
            data[place] ^= 1 << int(rng.integers(8))
    elif how == 'cut': del data[at:]
    elif how == 'zeros': data[at:at + length] = bytes(len(data[at:at + length]))
    elif how == 'noise':
        block = rng.integers(0, 256, len(data[at:at + length]), np.uint8)
        data[at:at + length] = block.tobytes()
    elif how == 'swap':
        other = int(rng.integers(size))
        block = data[other:other + length]
        data[at:at + len(block)] = block
    elif how == 'drop': del data[at:at + length]
    elif how == 'double': data[at:at] = data[at:at + length]
    elif how == 'extreme':
        word = EXTREMES[rng.integers(len(EXTREMES))]
        data[at:at + len(word)] = word
    else: data[:min(length, 400)] = files[names[rng.integers(len(names))]][:min(length, 400)]
    return name, how, bytes(data)


# ---- what a file says of its own end, read without the package ----

def png_is_cut(data):
    "Whether chunks, check sums or pixels of a PNG end too early or do not fit."
    at, pixels, header, ended = 8, b'', None, False
    while at + 12 <= len(data) and not ended:
        length, kind = struct.unpack('>I4s', data[at:at + 8])
        body = data[at + 8:at + 8 + length]
        if at + 12 + length > len(data): return True
        if zlib.crc32(kind + body) != int.from_bytes(data[at + 8 + length:at + 12 + length], 'big'): return True
        if kind == b'IHDR': header = struct.unpack('>IIBBBBB', body)
        if kind == b'IDAT': pixels += body
        at, ended = at + 12 + length, kind == b'IEND'
    if not ended or header is None: return True
    stream = zlib.decompressobj()
    try: raw = stream.decompress(pixels, 2**26)
    except zlib.error: return True
    width, height, depth, colour, *_, interlaced = header
    bits = depth*{0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    return not stream.eof or (not interlaced and len(raw) < height*(1 + (width*bits + 7)//8))


def dicom_is_cut(data):
    "Whether an element is longer than the file, or its pixels are fewer than the tags say; False where unknown."
    at, tags, syntax, head = 132, {}, b'', 0   # the head of a file is always explicit, and mostly says how long it is
    long = {b'OB', b'OW', b'OF', b'SQ', b'UT', b'UN', b'OD', b'OL', b'UC', b'UR', b'OV', b'SV', b'UV'}
    while at + 8 <= len(data):
        group, element = struct.unpack('<HH', data[at:at + 4])
        explicit = (at < head if head else group == 2) or syntax != b'1.2.840.10008.1.2'
        if syntax == b'1.2.840.10008.1.2.2' and not (at < head if head else group == 2): return False
        if explicit:
            vr = data[at + 4:at + 6]
            if not (vr.isalpha() and vr.isupper()): return False
            if vr in long:
                length, start = int.from_bytes(data[at + 8:at + 12], 'little'), at + 12
            else: length, start = struct.unpack('<H', data[at + 6:at + 8])[0], at + 8
        else: length, start = struct.unpack('<L', data[at + 4:at + 8])[0], at + 8
        if length == 0xffffffff:
            if (group, element) != (0x7fe0, 0x0010): return False
            return b'\xfe\xff\xdd\xe0' not in data[start:]
        if start + length > len(data): return True
        value = data[start:start + length]
        if (group, element) == (2, 0) and length == 4: head = start + 4 + struct.unpack('<L', value)[0]
        if (group, element) == (2, 0x10): syntax = value.rstrip(b'\0 ')
        if group == 0x28 and element in (0x02, 0x10, 0x11, 0x100) and length == 2:
            tags[element] = struct.unpack('<H', value)[0]
        if (group, element) == (0x7fe0, 0x10):
            need = tags.get(0x10, 0)*tags.get(0x11, 0)*tags.get(0x02, 1)*tags.get(0x100, 8)//8
            return syntax in (b'1.2.840.10008.1.2', b'1.2.840.10008.1.2.1') and len(value) < need
        at = start + length
    return False


def is_cut(data):
    "A DICOM file may begin with anything, also with the head of a PNG; its mark at byte 128 decides."
    if data[128:132] == b'DICM': return dicom_is_cut(data)
    return data[:4] == b'\x89PNG' and png_is_cut(data)


# ---- the process that reads, and the one that watches ----

def peak_memory():
    "Megabytes that this process held at most; what getrusage says may be those of the process that started it."
    status = Path('/proc/self/status')
    if not status.exists(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/1024
    return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith('VmHWM'))/1024


def work(first, last, seed, folder=''):
    "Read the files of some numbers and print one line of JSON for each."
    warnings.simplefilter('ignore')
    from cxr_workbench.files import UnreadableImage, read_image
    files, path = read_seeds(folder) if folder else make_seeds(), Path(tempfile.mkdtemp())/'x'
    for number in range(first, last):
        name, how, data = damage(number, seed, files)
        path.write_bytes(data)
        print(json.dumps(dict(number=number, name=name, how=how)), flush=True)
        start, finding = time.perf_counter(), ''
        try:
            x = read_image(path)
            outcome = 'picture' if data != files[name] else 'unaltered'
            if x.ndim != 2 or x.dtype != np.float32 or x.min() < 0 or x.max() > 1:
                finding = f'no picture in [0, 1]: {x.shape} {x.dtype}'
            elif is_cut(data): finding = 'a picture, though its own check sum or length says that it is cut'
        except UnreadableImage as error:
            outcome = 'damaged' if 'damaged' in error.reason else 'refused'
            if not error.reason or error.path != str(path): finding = 'a refusal without a reason'
        except BaseException as error:
            outcome = 'error'
            finding = f'{type(error).__name__}: {error}'[:200]
        memory = peak_memory()
        seconds = round(time.perf_counter() - start, 3)
        record = dict(outcome=outcome, finding=finding, seconds=seconds, megabytes=round(memory))
        print(json.dumps(record), flush=True)


def read_line(process, seconds):
    "The next line of a process; None where it ended, '' where nothing came in time."
    ready, _, _ = select.select([process.stdout], [], [], seconds)
    return (process.stdout.readline() or None) if ready else ''


def watch(files=500, seed=1, seconds=20, megabytes=500, only=None, folder=''):
    "Read damaged files in watched processes -> (counts, findings, figures)."
    counts, findings, at, slowest, most = {}, [], only or 0, 0, 0
    last = files if only is None else only + 1
    while at < last:
        command = [sys.executable, '-u', __file__, '--work', str(at), str(last), str(seed), folder]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        current, patience = None, 60
        while line := read_line(process, patience):
            record, patience = json.loads(line), seconds
            if 'number' in record:
                current = record
                at = record['number'] + 1
            else:
                counts[record['outcome']] = counts.get(record['outcome'], 0) + 1
                grown = record['megabytes'] > megabytes >= most
                slowest = max(slowest, record['seconds'])
                most = max(most, record['megabytes'])
                if grown: record['finding'] = record['finding'] or f'{record["megabytes"]} MB of memory'
                if record['finding']: findings.append({**current, 'finding': record['finding']})
                current = None
        if line == '':
            process.kill()
            findings.append({**(current or {}), 'finding': f'more than {patience} s'})
        code = process.wait()
        if line is None and code:
            findings.append({**(current or {}), 'finding': f'the process ended with {code}'})
        if current is None and (line == '' or code): break
    return counts, findings, dict(slowest_s=slowest, most_MB=most)


def main():
    if sys.argv[1:2] == ['--work']:
        first, last, seed, folder = sys.argv[2:]
        return work(int(first), int(last), int(seed), folder)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in dict(files=500, seed=1, seconds=20, megabytes=500).items():
        parser.add_argument(f'--{name}', type=int, default=default)
    parser.add_argument('--only', type=int)
    parser.add_argument('--folder', default='')
    start = time.time()
    counts, findings, figures = watch(**vars(parser.parse_args()))
    outcomes = ', '.join(f'{n} {name}' for name, n in sorted(counts.items()))
    print(f'{sum(counts.values())} files in {time.time() - start:.0f} s: {outcomes}')
    print(', '.join(f'{key} {value}' for key, value in figures.items()))
    for finding in findings: print(finding)
    sys.exit(bool(findings))


if __name__ == '__main__': main()
