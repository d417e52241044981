"Pictures that contradict what their file declares, or that a decoder reads in part: the right value, or a refusal."
import io, struct, zlib
import numpy as np
import pytest
from cxr_workbench.files import UnreadableImage, read_image

H, W = 48, 64
SHADE = np.arange(H*W).reshape(H, W)/(H*W - 1)
FULL = np.rint(SHADE*65535).astype(np.uint16)
TWELVE = np.rint(SHADE*4095).astype(np.uint16)
EIGHT = np.rint(SHADE*255).astype(np.uint8)


def chunk(kind, body):
    "A chunk of a PNG."
    length, check = struct.pack('>I', len(body)), struct.pack('>I', zlib.crc32(kind + body))
    return length + kind + body + check


def png(rows, depth, colour, *more):
    "A PNG of rows of bytes, with chunks (kind, body) before the pixels."
    header = struct.pack('>IIBBBBB', W, H, depth, colour, 0, 0, 0)
    pixels = zlib.compress(b''.join(b'\0' + row for row in rows))
    parts = [(b'IHDR', header), *more, (b'IDAT', pixels), (b'IEND', b'')]
    return b'\x89PNG\r\n\x1a\n' + b''.join(chunk(*part) for part in parts)


def wide(values, channels, alpha=None):
    "Rows of 16-bit pixels: the same numbers in each colour, and alpha behind them."
    planes = [values]*channels + ([] if alpha is None else [np.broadcast_to(np.uint16(alpha), values.shape)])
    return [row.astype('>u2').tobytes() for row in np.stack(planes, -1)]


def tiff(strips, order, bits, photometric=1, channels=1, more=None):
    "A TIFF with one directory behind its strips."
    tags = {256: [W], 257: [H], 258: [bits]*channels, 259: [1]}
    tags |= {262: [photometric], 277: [channels], 278: [H], **(more or {})}
    starts = [8 + sum(map(len, strips[:k])) for k in range(len(strips))]
    places = (324, 325) if 322 in tags else (273, 279)
    tags = {**tags, places[0]: starts, places[1]: [*map(len, strips)]}
    tags = {tag: numbers for tag, numbers in tags.items() if numbers is not None}
    at = 8 + sum(map(len, strips))
    lists, lists_at, entries = b'', at + 2 + 12*len(tags) + 4, b''
    for tag, numbers in sorted(tags.items()):
        held = struct.pack(f'{order}{len(numbers)}I', *numbers)
        if len(held) > 4: lists, held = lists + held, struct.pack(order + 'I', lists_at + len(lists))
        entries += struct.pack(order + 'HHI', tag, 4, len(numbers)) + held
    head = (b'II' if order == '<' else b'MM') + struct.pack(order + 'HI', 42, at)
    return head + b''.join(strips) + struct.pack(order + 'H', len(tags)) + entries + bytes(4) + lists


@pytest.fixture
def read(tmp_path):
    def read(data, **how):
        (tmp_path/'x').write_bytes(data)
        return read_image(tmp_path/'x', **how)
    return read


def near(image, right): assert image.shape == right.shape and np.abs(image - right).max() < 1e-4


@pytest.mark.parametrize('colour,channels,alpha', [(2, 3, None), (4, 1, 65535), (6, 3, 65535)])
def test_every_bit_of_a_16_bit_png_counts(read, colour, channels, alpha):
    near(read(png(wide(FULL, channels, alpha), 16, colour)), FULL/65535)
    near(read(png(wide(TWELVE, channels, alpha), 16, colour), bits=12), TWELVE/4095)
    said = (b'sBIT', bytes([12]*channels + ([] if alpha is None else [16])))
    near(read(png(wide(TWELVE, channels, alpha), 16, colour, said)), TWELVE/4095)
    dark = png(wide(FULL >> 8, channels, alpha), 16, colour)
    with pytest.raises(UnreadableImage, match='one of 255 steps'): read(dark)      # was black
    near(read(dark, bits=8), (FULL >> 8)/255)
    near(read(dark, stretch=True), (FULL >> 8)/255)


def test_alpha_of_16_bits_is_laid_on_black(read):
    near(read(png(wide(FULL, 1, 32768), 16, 4)), FULL/65535*(32768/65535))
    with pytest.raises(UnreadableImage, match='transparent everywhere'): read(png(wide(FULL, 3, 0), 16, 6))


def test_a_16_bit_png_with_colour_is_turned(read):
    turned = (b'eXIf', b'MM\0*' + struct.pack('>IHHHIHHI', 8, 1, 274, 3, 1, 6, 0, 0))
    near(read(png(wide(FULL, 3), 16, 2, turned)), FULL.T[:, ::-1]/65535)


@pytest.mark.parametrize('depth', [2, 4, 8, 16])
def test_the_transparent_grey_is_the_one_that_is_stored(read, depth):
    top = 2**depth - 1
    values = np.rint(SHADE*top).astype(np.uint16)
    pairs = values.astype('>u2').view(np.uint8).reshape(H, W, 2)
    bits = np.unpackbits(pairs, axis=2)[..., 16 - depth:].reshape(H, -1)
    rows = [np.packbits(row).tobytes() for row in bits]
    for key in (0, 1, 2, top):
        right = np.where(values == key, 0, values)/top
        near(read(png(rows, depth, 0, (b'tRNS', struct.pack('>H', key)))), right)


def test_the_transparent_colour_of_16_bits(read):
    rows = png(wide(FULL, 3), 16, 2, (b'tRNS', struct.pack('>3H', *[FULL[20, 30]]*3)))
    near(read(rows), np.where(FULL == FULL[20, 30], 0, FULL)/65535)


def test_a_palette_that_is_too_short(read):
    rows, colours = [row.tobytes() for row in EIGHT], bytes(range(256))[::-1]
    palette = np.repeat(np.frombuffer(colours, np.uint8), 3).tobytes()
    near(read(png(rows, 8, 3, (b'PLTE', palette))), (255. - EIGHT)/255)
    with pytest.raises(UnreadableImage, match='10 colours, and its pixels ask for number 255'):
        read(png(rows, 8, 3, (b'PLTE', palette[:30])))


def pgm(values, top, kind=b'P5'):
    numbers = values.astype('>u2' if top > 255 else 'u1').tobytes()
    return kind + b' # a remark\n%d %d\n%d\n' % (W, H, top) + numbers


def test_white_of_a_pgm(read):
    near(read(pgm(TWELVE, 4095)), TWELVE/4095)
    near(read(pgm(TWELVE, 4095), bits=12), TWELVE/4095)
    near(read(pgm(TWELVE, 65535), bits=12), TWELVE/4095)
    near(read(pgm(EIGHT//3, 85)), EIGHT//3/85)
    near(read(pgm(np.stack([FULL]*3, -1), 65535, b'P6')), FULL/65535)
    for values, top in ((EIGHT, 100), (FULL, 4095)):
        with pytest.raises(UnreadableImage, match=f'{top} as white, and its pixels reach {values.max()}'):
            read(pgm(values, top))
    with pytest.raises(UnreadableImage, match='cut off'): read(pgm(FULL, 65535)[:-1])
    with pytest.raises(UnreadableImage, match='one of 255 steps'):
        read(pgm(np.stack([FULL >> 8]*3, -1), 65535, b'P6'))


@pytest.mark.parametrize('order', '<>')
def test_channels_of_16_bits_in_a_tiff(read, order):
    plane, three = FULL.astype(order + 'u2'), np.stack([FULL]*3, -1).astype(order + 'u2')
    near(read(tiff([three.tobytes()], order, 16, 2, 3)), FULL/65535)
    near(read(tiff([plane.tobytes()]*3, order, 16, 2, 3, {284: [2]})), FULL/65535)
    halves = [plane[:24].tobytes(), plane[24:].tobytes()]*3
    near(read(tiff(halves, order, 16, 2, 3, {284: [2], 278: [24]})), FULL/65535)
    steps = np.diff(three.astype(np.uint16), axis=1, prepend=np.uint16(0)).astype(order + 'u2')
    packed = zlib.compress(steps.tobytes())
    near(read(tiff([packed], order, 16, 2, 3, {259: [8], 317: [2]})), FULL/65535)
    rotated = tiff([three.tobytes()], order, 16, 2, 3, {274: [8]})
    near(read(rotated), FULL.T[::-1]/65535)
    dark = (three >> 8).astype(order + 'u2')
    with pytest.raises(UnreadableImage, match='one of 255 steps'): read(tiff([dark.tobytes()], order, 16, 2, 3))
    near(read(tiff([dark.tobytes()], order, 16, 2, 3), bits=8), (FULL >> 8)/255)


@pytest.mark.parametrize('order', '<>')
def test_grey_with_alpha_in_a_tiff(read, order):
    for values, kind in ((EIGHT, 'u1'), (FULL, order + 'u2')):
        top, depth = np.iinfo(kind).max, 8*np.dtype(kind).itemsize
        shade, half = values/top, top//2
        pair = lambda alpha: np.stack([values, np.full_like(values, alpha)], -1).astype(kind).tobytes()
        for photometric, right in ((0, 1 - shade), (1, shade)):
            near(read(tiff([pair(top)], order, depth, photometric, 2, {338: [2]})), right)
            near(read(tiff([pair(half)], order, depth, photometric, 2, {338: [2]})), right*(half/top))
            near(read(tiff([pair(half)], order, depth, photometric, 2, {338: [1]})), right)   # multiplied already
            near(read(tiff([pair(0)], order, depth, photometric, 2, {338: [0]})), right)      # not alpha


def test_a_tile_without_bytes_and_a_tiff_without_polarity(read):
    corners = [(y, x) for y in range(0, H, 16) for x in range(0, W, 16)]
    tiles = [EIGHT[y:y + 16, x:x + 16].tobytes() for y, x in corners]
    sides = {322: [16], 323: [16]}
    near(read(tiff(tiles, '<', 8, more=sides)), EIGHT/255)
    with pytest.raises(UnreadableImage, match='zero bytes'): read(tiff([*tiles[:-1], b''], '<', 8, more=sides))
    for depth, values in ((8, EIGHT), (16, FULL)):
        with pytest.raises(UnreadableImage, match='PhotometricInterpretation'):
            read(tiff([values.astype(f'<u{depth//8}').tobytes()], '<', depth, more={262: None}))


@pytest.mark.parametrize('bits', [1, 4, 7, 10, 12, 16])
def test_jpeg_2000_of_any_depth(read, bits):
    encode = pytest.importorskip('openjpeg.utils').encode_array
    values = np.rint(SHADE*(2**bits - 1)).astype(np.uint8 if bits <= 8 else np.uint16)
    near(read(encode(values, bits_stored=bits)), values/(2**bits - 1))
    for boxed in (0, 1):
        colour = encode(np.stack([values]*3, -1), bits_stored=bits, photometric_interpretation=1, codec_format=boxed)
        near(read(colour), values/(2**bits - 1))       # white was black where 8 bits were made of more


def dicom(values, **tags):
    "A DICOM file as bytes."
    pydicom = pytest.importorskip('pydicom')
    ds = pydicom.Dataset()
    ds.file_meta = pydicom.dataset.FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    ds.SOPClassUID, ds.SOPInstanceUID = '1.2.840.10008.5.1.4.1.1.1', '1.2.3'
    ds.Rows, ds.Columns = H, W
    for key, value in tags.items(): setattr(ds, key, value)
    if values.dtype.kind == 'f': ds.FloatPixelData, ds.BitsAllocated = values.tobytes(), 32
    else:
        ds.PixelData, ds.BitsAllocated = values.tobytes(), 8*values.itemsize
        ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 8*values.itemsize, 8*values.itemsize - 1, 0
        ds['PixelData'].VR = 'OW'
    file = io.BytesIO()
    ds.save_as(file, enforce_file_format=True)
    return file.getvalue()


def test_floats_of_a_dicom_file_are_rescaled_before_the_window(read):
    grey = dict(SamplesPerPixel=1, PhotometricInterpretation='MONOCHROME2', RescaleIntercept=-100)
    values = SHADE.astype(np.float32)
    near(read(dicom(values, **grey, RescaleSlope=2)), SHADE)
    near(read(dicom(values, **grey, RescaleSlope=-2)), 1 - SHADE)
    shown = read(dicom(values, **grey, RescaleSlope=2, WindowCenter=-99, WindowWidth=1, VOILUTFunction='LINEAR_EXACT'))
    near(shown, np.clip(2*SHADE - .5, 0, 1))


def test_colour_without_a_planar_configuration(read):
    values, colour = np.stack([EIGHT]*3, -1), dict(SamplesPerPixel=3, PhotometricInterpretation='RGB')
    near(read(dicom(values, **colour, PlanarConfiguration=0)), EIGHT/255)
    with pytest.raises(UnreadableImage, match='declares no PlanarConfiguration'): read(dicom(values, **colour))


def test_frames_of_16_bit_colour(read):
    whole = png(wide(FULL, 3), 16, 2, (b'acTL', struct.pack('>II', 2, 0)),
                (b'fcTL', struct.pack('>IIIIIHHBB', 0, W, H, 0, 0, 1, 1, 0, 0)))
    control = chunk(b'fcTL', struct.pack('>IIIIIHHBB', 1, W, H, 0, 0, 1, 1, 0, 0))
    packed = zlib.compress(b''.join(b'\0' + row for row in wide(FULL[::-1], 3)))
    whole = whole[:-12] + control + chunk(b'fdAT', struct.pack('>I', 2) + packed) + whole[-12:]
    with pytest.raises(UnreadableImage, match='2 frames'): read(whole)
    near(read(whole, frame=0), FULL/65535)
    with pytest.raises(UnreadableImage, match='frames after the first'): read(whole, frame=1)


def test_cmyk_of_16_bits_of_which_the_upper_8_are_empty(read):
    ink = np.stack([FULL*0]*3 + [65535 - FULL], -1)
    image = read(tiff([ink.astype('<u2').tobytes()], '<', 16, 5, 4))
    assert np.abs(image - SHADE).max() < .01
    with pytest.raises(UnreadableImage, match='the upper 8 are read'):
        read(tiff([(ink >> 8).astype('<u2').tobytes()], '<', 16, 5, 4))
