"Packed pixels: frames under wrong tables of offsets, and alterations that a decoder passes over."
import struct, zlib
import numpy as np
import pytest

pydicom = pytest.importorskip('pydicom')
from pydicom import uid
from test_dicom import assert_reads, encode_jpeg, encode_rle, get_refusal, smooth, write
import test_pictures as pictures

EIGHT = smooth(8)
FRAMES = [EIGHT, 255 - EIGHT, EIGHT[::-1].copy()]
PACKED = {uid.RLELossless: lambda frame: encode_rle(frame, 8), uid.JPEGBaseline8Bit: encode_jpeg}


def write_frames(path, syntax, offsets=None, fragments=None, **tags):
    "Three frames, packed; `offsets` are put over the table of offsets."
    streams = [PACKED[syntax](frame) for frame in FRAMES]
    tags = dict(NumberOfFrames=len(FRAMES)) | tags
    write(path, EIGHT, stored=8, allocated=8, syntax=syntax, pixels=fragments or streams, **tags)
    data = bytearray(path.read_bytes())
    at = data.index(b'\xfe\xff\x00\xe0') + 8
    there = list(struct.unpack('<3L', data[at:at + 12]))
    if offsets is not None: data[at:at + 12] = struct.pack('<3L', *offsets(there))
    path.write_bytes(data)
    return path


# ---- which bytes are which frame

@pytest.mark.parametrize('syntax', PACKED)
@pytest.mark.parametrize('offsets', [
    list, lambda there: [0, 0, 0], lambda there: [at + 8 for at in there],
    lambda there: [0, 10**6, 2*10**6], lambda there: [0, there[1], there[1]],
    lambda there: [at//2 for at in there], lambda there: [0, 2, 4],
    lambda there: [2**32 - 1]*3])
def test_frames_do_not_depend_on_a_wrong_table_of_offsets(tmp_path, syntax, offsets):
    path = write_frames(tmp_path/'x.dcm', syntax, offsets)
    for k, frame in enumerate(FRAMES): assert_reads(path, frame/255, frame=k, atol=.03)


@pytest.mark.parametrize('syntax', PACKED)
@pytest.mark.parametrize('order', [[1, 0, 2], [2, 1, 0], [0, 2, 1]])
def test_a_table_that_gives_another_order_is_refused(tmp_path, syntax, order):
    path = write_frames(tmp_path/'x.dcm', syntax, lambda there: [there[k] for k in order])
    for k in range(3): assert 'another order' in get_refusal(path, frame=k)


def test_a_frame_in_several_fragments(tmp_path):
    streams = [encode_jpeg(frame) for frame in FRAMES]
    half = [len(stream)//4*2 for stream in streams]
    pieces = [piece for stream, at in zip(streams, half) for piece in (stream[:at], stream[at:])]
    how = dict(stored=8, allocated=8, syntax=uid.JPEGBaseline8Bit, NumberOfFrames=3)
    path = write(tmp_path/'x.dcm', EIGHT, pixels=pieces, **how)           # a table of six offsets, for three frames
    for k, frame in enumerate(FRAMES): assert_reads(path, frame/255, frame=k, atol=.03)
    path = write(tmp_path/'one.dcm', EIGHT, pixels=pieces[:2], **how | dict(NumberOfFrames=1))
    assert_reads(path, EIGHT/255, atol=.03)
    path = write(tmp_path/'few.dcm', EIGHT, pixels=pieces[:4], **how)
    assert 'declares 3 frames and holds 4 fragments' in get_refusal(path, frame=0)


def test_an_extended_table_of_offsets(tmp_path):
    streams = [encode_jpeg(frame) for frame in FRAMES]
    starts = np.cumsum([0] + [8 + len(s) + len(s) % 2 for s in streams])[:3]
    lengths = struct.pack('<3Q', *map(len, streams))
    for offsets, words in ((starts, None), (starts*0, None), (starts[::-1], 'another order')):
        tables = dict(ExtendedOffsetTable=struct.pack('<3Q', *offsets.tolist()), ExtendedOffsetTableLengths=lengths)
        path = write_frames(tmp_path/'x.dcm', uid.JPEGBaseline8Bit)
        ds = pydicom.dcmread(path)
        ds.PixelData = pydicom.encaps.encapsulate(streams, has_bot=False)
        for key, value in tables.items(): setattr(ds, key, value)
        ds.save_as(path)
        if words: assert words in get_refusal(path, frame=1)
        else: assert_reads(path, FRAMES[1]/255, frame=1, atol=.03)


def test_fragments_under_the_name_of_plain_pixels(tmp_path):
    values = smooth(12)
    path = write(tmp_path/'x.dcm', values, pixels=[values.astype('<u2').tobytes()])
    assert 'of plain pixels, and its pixels are packed in fragments: correct the tag' in get_refusal(path)


# ---- run-length encoding

def test_runs_that_do_not_make_the_declared_pixels(tmp_path):
    values = smooth(12)
    right = encode_rle(values, 16)
    second = struct.unpack('<L', right[8:12])[0]
    how = dict(values=values, syntax=uid.RLELossless)
    assert_reads(write(tmp_path/'x.dcm', pixels=[right], **how), values/4095)
    altered = (64, 126), (64, 0), (second, 129), (second + 129, 255), (second + 129*3, 1)
    for at, code in altered:
        bad = bytearray(right)
        assert bad[at] == 127                                 # 128 bytes that follow
        bad[at] = code
        assert 'does not unpack to 1920' in get_refusal(write(tmp_path/'x.dcm', pixels=[bytes(bad)], **how)), (at, code)
    for starts in ((second, 64), (64, 10**6), (0, second)):
        head = struct.pack('<3L', 2, *starts)
        path = write(tmp_path/'x.dcm', pixels=[head + right[12:]], **how)
        assert 'its RLE segments do not follow each other' in get_refusal(path)


def test_runs_of_every_length_pass(tmp_path):
    values = np.zeros((48, 40), int)
    values[::7], values[5:9] = 4095, smooth(12)[5:9]
    path = write(tmp_path/'x.dcm', values)
    ds = pydicom.dcmread(path)
    ds.compress(uid.RLELossless)                              # an encoder with repeats as well
    ds.save_as(path)
    assert_reads(path, values/4095)


# ---- TIFF

@pytest.mark.parametrize('kind', ['u1', 'u2', 'f4'])
@pytest.mark.parametrize('how', [{}, dict(rows_per_strip=9), dict(tile=16)])
def test_the_check_sum_of_deflated_strips(tmp_path, kind, how):
    values, x = pictures.make_values(kind)
    data = pictures.make_tiff(values, compression=8, **how)
    pictures.assert_reads(pictures.write(tmp_path/'x.tif', data), x)
    at = data.index(b'\x78\x9c')
    packed = zlib.decompressobj()
    packed.decompress(data[at:])
    length = len(data) - at - len(packed.unused_data)
    for place in (at + length//2, at + length - 1, at + length - 4):
        bad = bytearray(data)
        bad[place] ^= 0x10
        assert 'damaged' in pictures.get_refusal(pictures.write(tmp_path/'x.tif', bytes(bad))), place


@pytest.mark.parametrize('planes', [1, 2])
def test_colour_of_16_bits_in_a_tiff_that_is_colour(tmp_path, planes):
    tifffile = pytest.importorskip('tifffile')
    words = pictures.WORDS
    rgb = np.stack([words, words[::-1], 65535 - words], -1)
    kept = rgb if planes == 1 else rgb.transpose(2, 0, 1)
    layout = 'contig' if planes == 1 else 'separate'
    tifffile.imwrite(tmp_path/'x.tif', kept, photometric='rgb', planarconfig=layout)
    pictures.assert_reads(tmp_path/'x.tif', rgb/65535 @ [.299, .587, .114], atol=1e-5)
