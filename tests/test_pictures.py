"Pictures: check sums, lengths, numbers of every kind in TIFF, pixels that are not square, names of what is none."
import gzip, io, itertools, struct, zipfile, zlib
import numpy as np
import pytest
from PIL import Image, features
from cxr_workbench import reading
from cxr_workbench.reading import UnreadableImage, detect_kind, detect_unsupported, explain_error
from cxr_workbench.reading import find_images, read_image
from cxr_workbench.formats import read_stream_header
from cxr_workbench.pictures import apply_orientation


def smooth(height=48, width=40):
    "A smooth picture from 0 to 1, (height, width) float64."
    y, x = np.mgrid[:height, :width]
    wave = .5 + .3*np.sin(x/9) + .2*np.cos(y/7)
    return (wave - wave.min())/np.ptp(wave)


def write(path, data):
    path.write_bytes(data)
    return path


def encode(values, kind='PNG', **options):
    out = io.BytesIO()
    Image.fromarray(values).save(out, kind, **options)
    return out.getvalue()


def get_refusal(path, **how):
    with pytest.raises(UnreadableImage) as caught: read_image(path, **how)
    return caught.value.reason


def assert_reads(path, expected, atol=1e-6, **how):
    np.testing.assert_allclose(read_image(path, **how), expected, atol=atol)


# PNG

MARK = b'\x89PNG\r\n\x1a\n'


def make_chunk(kind, body):
    return struct.pack('>I', len(body)) + kind + body + struct.pack('>I', zlib.crc32(kind + body))


def make_png(rows, depth=8, colour=0, packed=None, declared=None, extra=b'', interlaced=0, split=None):
    "A PNG of unfiltered rows; `packed` replaces the packed pixels, `declared` the height."
    height, width = rows.shape[:2]
    data = b''.join(b'\0' + row.tobytes() for row in rows.astype('>u2' if depth == 16 else 'u1'))
    packed = zlib.compress(data) if packed is None else packed(data)
    parts = [packed] if not split else [packed[at:at + split] for at in range(0, len(packed), split)]
    header = struct.pack('>IIBBBBB', width, declared or height, depth, colour, 0, 0, interlaced)
    pixels = b''.join(make_chunk(b'IDAT', part) for part in parts)
    return MARK + make_chunk(b'IHDR', header) + extra + pixels + make_chunk(b'IEND', b'')


BYTES = np.rint(smooth()*255).astype(np.uint8)
WORDS = np.rint(smooth()*65535).astype(np.uint16)


@pytest.mark.parametrize('split', [None, 100, 7])
@pytest.mark.parametrize('black', [0, 1, 20])
def test_whole_png_files_are_read(tmp_path, split, black):
    values = BYTES.copy()
    values[len(values) - black:] = 0                                          # the last rows may be black
    assert_reads(write(tmp_path/'x.png', make_png(values, split=split)), values/255)
    assert_reads(write(tmp_path/'x.png', make_png(WORDS, 16, split=split)), WORDS/65535)


def test_every_form_of_png_passes_the_checks(tmp_path):
    for mode in ('1', 'L', 'LA', 'P', 'RGB', 'RGBA', 'I;16'):
        source = Image.fromarray(WORDS) if mode == 'I;16' else Image.fromarray(BYTES).convert(mode.replace('I;16', 'L'))
        for options in (dict(), dict(compress_level=0), dict(optimize=True)):
            source.save(tmp_path/'x.png', **options)
            expected = np.asarray(source.convert('L'))/255 if mode != 'I;16' else WORDS/65535
            assert_reads(tmp_path/'x.png', expected, atol=.003 if mode == 'P' else 1e-6)


@pytest.mark.parametrize('where', ['IHDR', 'IDAT', 'IEND', 'tEXt'])
def test_crc_of_every_chunk(tmp_path, where):
    data = bytearray(make_png(BYTES, extra=make_chunk(b'tEXt', b'Comment\0a thorax')))
    at = data.index(where.encode())
    length = int.from_bytes(data[at - 4:at], 'big')
    data[at + 4 + length] ^= 1
    assert 'check sum' in get_refusal(write(tmp_path/'x.png', bytes(data)))


@pytest.mark.parametrize('name, packed, words', [
    ('adler', lambda d: zlib.compress(d)[:-4] + b'abcd', 'damaged'),
    ('no end', lambda d: zlib.compress(d)[:-4], 'damaged'),
    ('short', lambda d: zlib.compress(d[:-41*12]), 'fewer'),
    ('long', lambda d: zlib.compress(d + d[-41*12:]), 'more'),
    ('zeroed', lambda d: zlib.compress(d)[:300] + bytes(40) + zlib.compress(d)[340:], 'damaged'),
    ('empty', lambda d: b'', 'damaged'),
])
@pytest.mark.parametrize('split, black', [(None, 0), (100, 0), (None, 20)])
def test_pixels_of_a_png_under_correct_crcs(tmp_path, name, packed, words, split, black):
    values = BYTES.copy()
    values[len(values) - black:] = 0
    assert words in get_refusal(write(tmp_path/'x.png', make_png(values, packed=packed, split=split)))


def interlace(values):
    "The rows of the seven pictures of an interlaced PNG, unfiltered."
    passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8),
              (2, 0, 4, 4), (0, 2, 2, 4),
              (1, 0, 2, 2), (0, 1, 1, 2)]
    rows = [row for x, y, dx, dy in passes for row in values[y::dy, x::dx]]
    return b''.join(b'\0' + row.tobytes() for row in rows)


def test_interlaced_png(tmp_path):
    data = interlace(BYTES)
    whole = make_png(BYTES, packed=lambda _: zlib.compress(data), interlaced=1)
    assert_reads(write(tmp_path/'x.png', whole), BYTES/255)
    short = make_png(BYTES, packed=lambda _: zlib.compress(data[:-500]), interlaced=1)
    assert 'fewer' in get_refusal(write(tmp_path/'y.png', short))


@pytest.mark.parametrize('bits', [8, 10, 12, 15])
def test_significant_bits(tmp_path, bits):
    declared = make_chunk(b'sBIT', bytes([bits]))
    small = np.rint(smooth()*(2**bits - 1)).astype(np.uint16)                 # left as they were
    assert_reads(write(tmp_path/'x.png', make_png(small, 16, extra=declared)), small/(2**bits - 1))
    scaled = (small << (16 - bits) | small >> (2*bits - 16)).astype(np.uint16)     # as the standard says
    assert_reads(write(tmp_path/'y.png', make_png(scaled, 16, extra=declared)), scaled/65535)
    dark = ((small >> 6) << (16 - bits)).astype(np.uint16)
    assert_reads(write(tmp_path/'z.png', make_png(dark, 16, extra=declared)), dark/65535)
    if bits > 8: assert_reads(tmp_path/'x.png', small/65535, bits=16)


def test_transparent_grey_of_sixteen_bits(tmp_path):
    values = WORDS.copy()
    values[:5] = 777
    path = write(tmp_path/'x.png', make_png(values, 16, extra=make_chunk(b'tRNS', struct.pack('>H', 777))))
    assert_reads(path, np.where(values == 777, 0, values/65535))


def test_a_picture_in_the_alpha_channel_is_not_lost(tmp_path):
    black = np.zeros_like(BYTES)
    Image.merge('LA', (Image.fromarray(black), Image.fromarray(BYTES))).save(tmp_path/'x.png')
    assert 'every pixel equal' in get_refusal(tmp_path/'x.png')
    im = Image.fromarray(BYTES).convert('P')
    im.putpalette([9]*768)
    im.save(tmp_path/'y.png')
    assert 'every pixel equal' in get_refusal(tmp_path/'y.png')


# TIFF

def cut_parts(values, rows_per_strip=None, tile=None):
    "The strips or tiles of a picture; tiles at its edges are filled up with zeros."
    height, width = values.shape
    if not tile:
        step = rows_per_strip or height
        return [values[top:top + step] for top in range(0, height, step)]
    padded = np.pad(values, ((0, -height % tile), (0, -width % tile)))
    corners = itertools.product(range(0, height, tile), range(0, width, tile))
    return [padded[top:top + tile, left:left + tile] for top, left in corners]


def make_tiff(
    values, order='<', big=False, compression=1, predictor=1, white=1, rows_per_strip=None, tile=None, **tags):
    "A TIFF of one channel in any type and byte order, in strips or tiles, packed or not."
    values = values.astype(values.dtype.newbyteorder(order))
    height, width = values.shape
    pack = {1: bytes, 8: zlib.compress, 32773: encode_packbits}[compression]
    parts = cut_parts(values, rows_per_strip, tile)
    parts = [pack(apply_predictor(part, predictor).tobytes()) for part in parts]
    kind = {'u': 1, 'i': 2, 'f': 3}[values.dtype.kind]
    found = {256: width, 257: height, 258: 8*values.dtype.itemsize, 259: compression, 262: white, 277: 1}
    found |= {317: predictor, 339: kind, **{int(tag[1:]): value for tag, value in tags.items()}}
    if compression == 1: del found[317]
    if tile: found |= {322: tile, 323: tile, 324: [], 325: []}
    else: found |= {278: rows_per_strip or height, 273: [], 279: []}
    starts, lengths = (324, 325) if tile else (273, 279)
    entry, count, room, first = (20, 'Q', 8, 16) if big else (12, 'H', 4, 8)
    size = first + struct.calcsize(count) + entry*len(found) + room
    lists = 2*room*len(parts) if len(parts) > 1 else 0
    at = list(np.cumsum([size + lists] + [len(p) for p in parts])[:-1])
    found[starts], found[lengths] = at, [len(p) for p in parts]
    body, tail, word = b'', b'', 'Q' if big else 'L'
    for tag, value in sorted(found.items()):
        many = value if isinstance(value, list) else [value]
        packed = struct.pack(f'{order}{len(many)}{word}', *many)
        if len(packed) > room:
            tail, packed = tail + packed, struct.pack(order + word, size + len(tail))
        body += struct.pack(f'{order}HH{word}', tag, 16 if big else 4, len(many)) + packed
    head = b'II' if order == '<' else b'MM'
    head += struct.pack(order + 'HHHQ', 43, 8, 0, 16) if big else struct.pack(order + 'HL', 42, 8)
    return head + struct.pack(order + count, len(found)) + body + bytes(room) + tail + b''.join(parts)


def encode_packbits(data):
    "Literal runs only."
    blocks = [data[at:at + 128] for at in range(0, len(data), 128)]
    return b''.join(bytes([len(block) - 1]) + block for block in blocks)


def apply_predictor(part, predictor):
    "A strip or tile with differences in its rows, as predictors of TIFF have them."
    if predictor == 1: return part
    size, order = part.dtype.itemsize, part.dtype.byteorder.replace('|', '=')
    if predictor == 2:
        whole = part.view(f'{order}u{size}').astype(f'u{size}')
        out = np.concatenate([whole[:, :1], whole[:, 1:] - whole[:, :-1]], 1)
        return out.astype(out.dtype.newbyteorder(order))
    raw = np.frombuffer(part.astype(part.dtype.newbyteorder('>')).tobytes(), np.uint8)
    planes = raw.reshape(*part.shape, size).transpose(0, 2, 1).reshape(len(part), -1)
    return np.concatenate([planes[:, :1], planes[:, 1:] - planes[:, :-1]], 1)


KINDS = {'u1': 255, 'i1': 255, 'u2': 65535, 'i2': 65535, 'f2': 1, 'f4': 1, 'f8': 1}


def make_values(kind):
    "Numbers of a kind that use its declared range, and what they mean."
    low = -(KINDS[kind] + 1)/2 if kind[0] == 'i' else 0
    v = smooth()*KINDS[kind] + low
    v = (v if kind[0] == 'f' else np.rint(v)).astype(kind)
    return v, (v.astype(np.float64) - low)/KINDS[kind]


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('order, big', itertools.product('<>', [False, True]))
@pytest.mark.parametrize('white', [0, 1])
def test_numbers_of_a_tiff(tmp_path, kind, order, big, white):
    values, x = make_values(kind)
    assert_reads(write(tmp_path/'x.tif', make_tiff(values, order, big, white=white)), x if white else 1 - x)


STRIPS, TILES = dict(rows_per_strip=10), dict(tile=16)
PACKINGS = [  # compression, predictor, strips or tiles
    (8, 1, STRIPS), (8, 2, {}), (8, 3, STRIPS),
    (32773, 1, {}), (1, 1, STRIPS),
    (8, 1, TILES), (8, 2, TILES), (8, 3, TILES),
    (1, 1, TILES)]


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('order', '<>')
@pytest.mark.parametrize('compression, predictor, layout', PACKINGS)
def test_packing_of_a_tiff(tmp_path, kind, order, compression, predictor, layout):
    if predictor == 3 and kind[0] != 'f' or predictor == 2 and kind[0] == 'f': pytest.skip('not in the standard')
    values, x = make_values(kind)
    assert_reads(write(tmp_path/'x.tif', make_tiff(values, order, False, compression, predictor, **layout)), x)


@pytest.mark.parametrize('compression', ['tiff_lzw', 'tiff_adobe_deflate', 'packbits', 'raw'])
@pytest.mark.parametrize('kind', ['u2', 'f4'])
def test_tiff_that_pillow_wrote(tmp_path, compression, kind):
    values, x = make_values(kind)
    Image.fromarray(values).save(tmp_path/'x.tif', compression=compression)
    assert_reads(tmp_path/'x.tif', x)


@pytest.mark.parametrize('orientation', range(1, 9))
@pytest.mark.parametrize('kind', ['u1', 'u2', 'i1', 'f8'])
def test_tiff_that_lies_on_its_side(tmp_path, orientation, kind):
    values, x = make_values(kind)
    path = write(tmp_path/'x.tif', make_tiff(values, t274=orientation))
    method = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}.get(orientation)
    im = Image.fromarray(x.astype(np.float32))
    assert_reads(path, np.asarray(im if method is None else im.transpose(method)))


def test_whole_numbers_of_32_bits_declare_no_range(tmp_path):
    values = np.rint(smooth()*(2**32 - 1)).astype('u4')
    path = write(tmp_path/'x.tif', make_tiff(values))
    assert 'bits=' in get_refusal(path)
    assert_reads(path, values/(2**32 - 1), bits=32)
    for kind in ('i4', 'u8', 'i8'):
        small = np.rint(smooth()*4095).astype(kind)
        for white in (0, 1):
            path = write(tmp_path/'y.tif', make_tiff(small, white=white))
            assert_reads(path, small/4095 if white else 1 - small/4095, bits=12)
            assert_reads(path, small/4095 if white else 1 - small/4095, stretch=True)


def test_signed_numbers_with_bits_in_use(tmp_path):
    values = np.rint(smooth()*4095).astype('i2')
    assert_reads(write(tmp_path/'x.tif', make_tiff(values)), (values + 32768.)/65535)
    assert_reads(tmp_path/'x.tif', values/4095, bits=12)
    assert 'stretch' in get_refusal(write(tmp_path/'y.tif', make_tiff(values - np.int16(2000))), bits=12)


def test_tiff_of_kinds_that_nobody_reads_is_named(tmp_path):
    data = bytearray(make_tiff(make_values('f4')[0]))
    for tag, value, words in ((339, 6, 'complex'), (258, 24, '24-bit float'), (277, 3, '3 channels of 32-bit float')):
        altered = bytearray(data)
        at = next(at for at in range(10, 200, 12) if int.from_bytes(altered[at:at + 2], 'little') == tag)
        altered[at + 8:at + 12] = value.to_bytes(4, 'little')
        reason = get_refusal(write(tmp_path/'x.tif', bytes(altered)))
        assert words in reason and 'damaged' not in reason


def test_strips_outside_the_file_and_too_short(tmp_path):
    data = make_tiff(make_values('u2')[0], rows_per_strip=10)
    for end in range(len(data) - 2000, len(data), 91):
        assert 'damaged' in get_refusal(write(tmp_path/'x.tif', data[:end]))
    whole = bytearray(make_tiff(make_values('u2')[0]))
    at = next(at for at in range(10, 200, 12) if int.from_bytes(whole[at:at + 2], 'little') == 257)
    whole[at + 8:at + 12] = (60).to_bytes(4, 'little')
    reason = get_refusal(write(tmp_path/'y.tif', bytes(whole)))
    assert '60 x 40' in reason and '3840' in reason


@pytest.mark.parametrize('bits', [9, 10, 12, 14])
@pytest.mark.parametrize('white', [0, 1])
def test_tiff_whose_numbers_are_packed_across_bytes(tmp_path, bits, white):
    values = np.rint(smooth()*(2**bits - 1)).astype(np.uint16)
    places = np.arange(bits - 1, -1, -1)
    rows = [np.packbits((row[:, None] >> places & 1).astype(np.uint8)) for row in values]
    data = bytearray(make_tiff(np.stack(rows), white=white))
    for tag, value in ((256, values.shape[1]), (258, bits)):
        at = next(at for at in range(10, 200, 12) if int.from_bytes(data[at:at + 2], 'little') == tag)
        data[at + 8:at + 12] = value.to_bytes(4, 'little')
    x = values/(2**bits - 1)
    assert_reads(write(tmp_path/'x.tif', bytes(data)), x if white else 1 - x)


def test_frames_of_odd_numbers(tmp_path):
    one, two = make_values('f4')[0], make_values('f4')[0][::-1]
    second = Image.fromarray(np.ascontiguousarray(two))
    Image.fromarray(one).save(tmp_path/'x.tif', save_all=True, append_images=[second])
    assert '2 frames' in get_refusal(tmp_path/'x.tif')
    for frame, values in enumerate((one, two)): assert_reads(tmp_path/'x.tif', values, frame=frame)


# orientation

def test_orientations_agree_with_pillow():
    a = np.arange(12).reshape(3, 4).astype(np.uint8)
    methods = [None, 0, 3, 1, 5, 4, 6, 2]
    for orientation, method in enumerate(methods, 1):
        im = Image.fromarray(a)
        expected = np.asarray(im if method is None else im.transpose(method))
        assert np.array_equal(apply_orientation(a, orientation), expected)


def test_a_picture_that_was_rotated_already(tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    exif.get_ifd(0x8769).update({40962: 40, 40963: 48})                       # the camera's size, and the file's
    Image.fromarray(BYTES).save(tmp_path/'x.jpg', exif=exif, quality=95)
    assert read_image(tmp_path/'x.jpg').shape == (40, 48)
    exif.get_ifd(0x8769).update({40962: 48, 40963: 40})                       # the file has the turned size
    Image.fromarray(BYTES).save(tmp_path/'y.jpg', exif=exif, quality=95)
    assert 'turned already' in get_refusal(tmp_path/'y.jpg')


# pixels that are not square

@pytest.mark.parametrize('kind', ['PNG', 'TIFF', 'BMP', 'JPEG', 'f8'])
def test_pixels_that_are_not_square(tmp_path, kind):
    whole = smooth(96, 64)
    half, wide = whole[::2], whole[:, ::2]
    for values, dpi in ((half, (200, 100)), (wide, (100, 200))):
        if kind == 'f8': write(tmp_path/'x', make_tiff(values.copy(), t282=dpi[0], t283=dpi[1]))
        else: Image.fromarray(np.rint(values*255).astype(np.uint8)).save(tmp_path/'x', kind, dpi=dpi)
        x = read_image(tmp_path/'x')
        assert x.shape == (96, 64) and np.abs(x - whole).mean() < .03, kind


def test_ratio_without_a_unit_and_rotated(tmp_path):
    half = np.rint(smooth(96, 64)[::2]*255).astype(np.uint8)
    write(tmp_path/'x.png', make_png(half, extra=make_chunk(b'pHYs', struct.pack('>IIB', 2, 1, 0))))
    assert read_image(tmp_path/'x.png').shape == (96, 64)
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(half).save(tmp_path/'y.png', dpi=(200, 100), exif=exif)
    assert read_image(tmp_path/'y.png').shape == (64, 96)
    write(tmp_path/'z.tif', make_tiff(half, t282=200, t283=100, t274=6))
    assert read_image(tmp_path/'z.tif').shape == (64, 96)
    write(tmp_path/'z.tif', make_tiff(half, t282=200, t283=100, t296=1))            # without a unit
    assert read_image(tmp_path/'z.tif').shape == (96, 64)
    write(tmp_path/'v.png', make_png(half, extra=make_chunk(b'pHYs', struct.pack('>IIB', 9, 1, 0))))
    assert 'cannot be meant' in get_refusal(tmp_path/'v.png')
    for odd in ((0, 1, 0), (1, 0, 0), (0, 0, 1)):
        write(tmp_path/'w.png', make_png(half, extra=make_chunk(b'pHYs', struct.pack('>IIB', *odd))))
        assert read_image(tmp_path/'w.png').shape == half.shape


# other formats

def test_avif(tmp_path):
    if not features.check('avif'): pytest.skip('this Pillow reads no AVIF')
    write(tmp_path/'x.dat', encode(BYTES, 'AVIF', quality=100))
    assert detect_kind((tmp_path/'x.dat').read_bytes()) == 'picture'
    assert np.abs(read_image(tmp_path/'x.dat') - BYTES/255).max() < .03


@pytest.mark.parametrize('bits', [8, 12, 16])
@pytest.mark.parametrize('signed', [False, True])
def test_jpeg_2000_with_and_without_a_sign(tmp_path, bits, signed):
    openjpeg = pytest.importorskip('openjpeg')
    unsigned = np.rint(smooth(64, 64)*(2**bits - 1)).astype(np.int64)
    values = (unsigned - 2**(bits - 1)*signed).astype(('i' if signed else 'u') + ('1' if bits == 8 else '2'))
    stream = bytes(openjpeg.encode(values, bits_stored=bits, photometric_interpretation=2))
    size = dict(rows=64, columns=64, channels=1)
    assert read_stream_header(stream) == dict(kind='JPEG 2000', **size, precision=bits, signed=signed)
    assert_reads(write(tmp_path/'x.j2k', stream), unsigned/(2**bits - 1))


@pytest.mark.parametrize('share', [.5, .9, .99, .999])
def test_jpeg_2000_that_was_cut_off(tmp_path, share):
    for data in (encode(BYTES, 'JPEG2000'), encode(BYTES, 'JPEG2000', no_jp2=True)):
        assert 'damaged' in get_refusal(write(tmp_path/'x.jp2', data[:int(share*len(data))]))


def test_jpeg_of_other_kinds_is_named(tmp_path):
    data = bytearray(encode(np.rint(smooth(64, 64)*255).astype(np.uint8), 'JPEG'))
    at = data.index(b'\xff\xc0')
    kinds = [(0xc1, 12, 'JPEG of 12 bits'), (0xc3, 16, 'lossless JPEG of 16 bits'), (0xf7, 8, 'JPEG-LS of 8 bits')]
    for marker, precision, words in kinds:
        altered = data.copy()
        altered[at + 1], altered[at + 4] = marker, precision
        reason = get_refusal(write(tmp_path/'x.jpg', bytes(altered)))
        assert words in reason and 'PNG' in reason and 'damaged' not in reason


def make_header_only(kind, rows, columns):
    "A small file that declares a huge picture."
    if kind == 'png':
        header = make_chunk(b'IHDR', struct.pack('>IIBBBBB', columns, rows, 8, 0, 0, 0, 0))
        return MARK + header + make_chunk(b'IDAT', zlib.compress(bytes(99))) + make_chunk(b'IEND', b'')
    if kind == 'jpg':
        data = bytearray(encode(BYTES, 'JPEG'))
        at = data.index(b'\xff\xc0')
        data[at + 5:at + 9] = struct.pack('>HH', rows, columns)
        return bytes(data)
    if kind == 'tif': return make_tiff(BYTES, t256=columns, t257=rows)
    if kind == 'bmp':
        data = bytearray(encode(BYTES, 'BMP'))
        data[18:26] = struct.pack('<ii', columns, rows)
        return bytes(data)
    if kind == 'gif':
        data = bytearray(encode(BYTES, 'GIF'))
        data[6:10] = struct.pack('<HH', columns, rows)
        return bytes(data)
    data = bytearray(encode(BYTES, 'JPEG2000', no_jp2=True))
    data[8:16] = struct.pack('>II', columns, rows)
    return bytes(data)


@pytest.mark.parametrize('kind', ['png', 'jpg', 'tif', 'bmp', 'gif', 'j2k'])
def test_a_size_that_the_file_cannot_hold(tmp_path, kind):
    path = write(tmp_path/f'x.{kind}', make_header_only(kind, 4000, 5000))
    assert 'damaged' in get_refusal(path) or 'declares 4000 x 5000' in get_refusal(path)


@pytest.mark.parametrize('kind', ['png', 'jpg', 'tif', 'bmp', 'gif', 'j2k'])
def test_a_huge_size_takes_no_memory(tmp_path, kind):
    import tracemalloc
    path = write(tmp_path/f'x.{kind}', make_header_only(kind, 60000, 60000))
    tracemalloc.start()
    reason = get_refusal(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert '33,554,432' in reason and peak < 20e6


FOREIGN = [('x.png', b'%PDF-1.7\n', 'a PDF'), ('x.jpg', b'\0\0\0\x18ftypheic', 'HEIC'),
           ('x.jpg', b'\xff\x0a\x12', 'JPEG XL'),
           ('x', b'\0\0\0\x0cJXL \r\n', 'JPEG XL'), ('x.dcm', gzip.compress(b'a file', mtime=0), 'gzip'),
           ('x.png', b'\x93NUMPY\1\0', 'NumPy'), ('x.png', b'<!DOCTYPE html><html>', 'a web page'),
           ('x.png', b'version https://git-lfs.github.com/spec/v1\n', 'git lfs pull'),
           ('x.nii', bytes(344) + b'n+1\0', 'NIfTI'), ('x.jpg', b'8BPS\0\1', 'Photoshop'), ('x.dcm', b'PK\3\4', 'ZIP'),
           ('x.tif', b'\x89HDF\r\n', 'HDF5'), ('x.mp4', b'\0\0\0\x20ftypisom', 'a film')]


@pytest.mark.parametrize('name, data, words', FOREIGN)
def test_what_is_no_picture_is_named(tmp_path, name, data, words):
    reason = get_refusal(write(tmp_path/name, data + bytes(200)))
    assert words in reason and 'damaged' not in reason and 'copy it again' not in reason


def test_a_decoder_that_refuses_without_damage_is_not_called_damaged():
    assert 'damaged or of a kind' in explain_error(NotImplementedError('this many bits'))
    assert explain_error(OSError('image file is truncated')).startswith('it is damaged')


# errors of decoders

class PanicException(BaseException): "As decoders in Rust raise it."


PASSES = [KeyboardInterrupt(), SystemExit(1), MemoryError(), GeneratorExit()]
STAYS = [PanicException('index out of bounds'), ValueError('odd'), RecursionError('deep')]


@pytest.mark.parametrize('error, passes', [(e, True) for e in PASSES] + [(e, False) for e in STAYS])
def test_what_ends_a_run_and_what_does_not(tmp_path, monkeypatch, error, passes):
    def broken(*args): raise error
    monkeypatch.setattr(reading, 'read_picture', broken)
    path = write(tmp_path/'x.png', encode(BYTES))
    with pytest.raises(type(error) if passes else UnreadableImage): read_image(path)


# finding

def test_what_is_left_out_is_reported(tmp_path):
    names = ['good.png', '.hidden.jpg', '.cache/x.png', '__MACOSX/y.png', '.git/config', 'DICOMDIR', 'notes.txt',
             'table.csv']
    for name in names:
        (tmp_path/name).parent.mkdir(exist_ok=True)
        write(tmp_path/name, encode(BYTES) if name == 'good.png' else b'text')
    write(tmp_path/'phone.heic', b'\0\0\0\x18ftypheic' + bytes(20))
    write(tmp_path/'volume.nii', bytes(344) + b'n+1\0')
    with zipfile.ZipFile(tmp_path/'more.zip', 'w') as archive: archive.writestr('x', 'y')
    (tmp_path/'gone.png').symlink_to(tmp_path/'nowhere.png')
    (tmp_path/'again').symlink_to(tmp_path, target_is_directory=True)
    left_out = []
    assert [p.name for p in find_images(tmp_path, left_out)] == ['good.png'] == [p.name for p in find_images(tmp_path)]
    reasons = {path.name: reason for path, reason in left_out}
    assert set(reasons) == {'.hidden.jpg', '.cache', '__MACOSX', 'DICOMDIR', 'phone.heic', 'volume.nii', 'more.zip',
                         'gone.png', 'again'}
    words = {'phone.heic': 'HEIC', 'gone.png': 'nowhere', '.cache': 'hidden', 'more.zip': 'unpack'}
    for name, word in words.items(): assert word in reasons[name]
    (tmp_path/'good.png').unlink()
    with pytest.raises(FileNotFoundError, match='left out: 9'): find_images(tmp_path)


def test_pictures_are_not_called_unsupported():
    for kind in ('PNG', 'JPEG', 'TIFF', 'BMP', 'GIF', 'WEBP', 'JPEG2000'):
        assert detect_unsupported(encode(BYTES, kind)) is None
