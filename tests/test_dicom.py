"DICOM: an independent pipeline over hundreds of made files and all that come with pydicom; what is said twice."
import itertools, logging, struct, warnings, zlib
from pathlib import Path
import numpy as np
import pytest
from cxr_workbench.files import UnreadableImage, read_image

pydicom = pytest.importorskip('pydicom')
from pydicom import uid
from pydicom.encaps import encapsulate
from pydicom.pixels import apply_modality_lut, apply_voi_lut, pixel_array


def smooth(bits=12, height=48, width=40, signed=False):
    "A smooth picture that uses every bit, (height, width)."
    y, x = np.mgrid[:height, :width]
    wave = .5 + .3*np.sin(x/9) + .2*np.cos(y/7)
    wave = (wave - wave.min())/np.ptp(wave)
    return np.rint(wave*(2**bits - 1)).astype(np.int64) - (2**(bits - 1) if signed else 0)


def write(path, values, stored=12, allocated=16, high=None, signed=False, photometric='MONOCHROME2', syntax=None,
          pixels=None, **tags):
    "A DICOM file of one frame; `pixels` replaces the bytes, a list makes it the frames of a compressed file."
    syntax = syntax or uid.ExplicitVRLittleEndian
    ds = pydicom.Dataset()
    ds.file_meta = pydicom.dataset.FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = uid.UID(syntax)
    ds.SOPClassUID, ds.SOPInstanceUID = '1.2.840.10008.5.1.4.1.1.1.1', '1.2.3'
    ds.Rows, ds.Columns, ds.SamplesPerPixel = *values.shape[:2], 1 if values.ndim == 2 else 3
    ds.PhotometricInterpretation, ds.PixelRepresentation = photometric, int(signed)
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = allocated, stored, stored - 1 if high is None else high
    if values.ndim == 3: ds.PlanarConfiguration = 0
    order = '<' if syntax != uid.ExplicitVRBigEndian else '>'
    data = (values & (2**allocated - 1)).astype(f'{order}u{allocated//8}').tobytes()
    ds.PixelData = encapsulate(pixels) if isinstance(pixels, list) else data if pixels is None else pixels
    ds['PixelData'].VR = 'OB' if allocated == 8 or isinstance(pixels, list) else 'OW'
    if isinstance(pixels, list): ds['PixelData'].is_undefined_length = True
    for key, value in tags.items():
        if value is None: del ds[key]
        elif isinstance(value, bytes): ds[key] = raw_element(key, value)
        else: setattr(ds, key, value)
    how = dict(implicit_vr=syntax == uid.ImplicitVRLittleEndian, little_endian=order == '<', enforce_file_format=False)
    with open(path, 'wb') as file:
        file.write(bytes(128) + b'DICM')
        pydicom.filewriter.write_file_meta_info(file, ds.file_meta, enforce_standard=False)
        body = pydicom.filebase.DicomBytesIO()
        body.is_little_endian, body.is_implicit_VR = how['little_endian'], how['implicit_vr']
        pydicom.filewriter.write_dataset(body, ds)
        file.write(body.getvalue())
    return path


def raw_element(key, value):
    "An element that holds these bytes, whatever they are worth."
    tag = pydicom.datadict.tag_for_keyword(key)
    kind = pydicom.datadict.dictionary_VR(key)
    return pydicom.dataelem.RawDataElement(pydicom.tag.Tag(tag), kind, len(value), value, 0, False, True)


def make_table(entries, first=0, depth=12, count=None, vr='US'):
    item = pydicom.Dataset()
    item.add_new('LUTDescriptor', 'US', [(len(entries) if count is None else count) % 65536, first % 65536, depth])
    data = np.asarray(entries).astype('<u2').tobytes() if vr == 'OW' else [int(v) for v in entries]
    item.add_new('LUTData', vr, data if not isinstance(entries, bytes) else entries)
    return [item]


def make_groups(where='Shared', **items):
    "Functional groups: name of a group -> its tags."
    outer = pydicom.Dataset()
    for name, tags in items.items():
        inner = pydicom.Dataset()
        for key, value in tags.items(): setattr(inner, key, value)
        setattr(outer, name, [inner])
    return {f'{where}FunctionalGroupsSequence': [outer]}


def get_refusal(path, **how):
    with pytest.raises(UnreadableImage) as caught: read_image(path, **how)
    return caught.value.reason


def assert_reads(path, expected, atol=1e-5, **how):
    np.testing.assert_allclose(read_image(path, **how), expected, atol=atol)


# an independent pipeline

def run_pipeline(ds, stored):
    "What pydicom's own functions make of stored numbers, in [0, 1] by the range that the tags declare."
    signed, bits = ds.PixelRepresentation, ds.BitsStored
    low, high = (-2**(bits - 1), 2**(bits - 1) - 1) if signed else (0, 2**bits - 1)
    slope, intercept = float(ds.get('RescaleSlope', 1)), float(ds.get('RescaleIntercept', 0))
    low, high = sorted((low*slope + intercept, high*slope + intercept))
    shown = apply_modality_lut(stored, ds).astype(np.float64)
    if ds.get('WindowWidth'):
        shown = apply_voi_lut(shown, ds)                  # its output runs over the range that it sees
        ends = apply_voi_lut(np.array([-1e9, 1e9]), ds)
        low, high = ends
    x = (shown - low)/(high - low)
    return 1 - x if ds.PhotometricInterpretation == 'MONOCHROME1' else x


DEPTHS = [(8, 8), (8, 16), (10, 16), (12, 16), (16, 16)]                       # bits stored, bits allocated
WINDOWS = [None, ('LINEAR', .4, .5), ('LINEAR_EXACT', .6, .3), ('SIGMOID', .5, .4)]
SYNTAXES = [uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian, uid.RLELossless, uid.ExplicitVRBigEndian]
COMBINATIONS = list(itertools.product(DEPTHS, [False, True], [(1, 0), (2, -1024), (.5, 7.5)], WINDOWS,
                                      ['MONOCHROME1', 'MONOCHROME2'], SYNTAXES))


def test_hundreds_of_files_agree_with_the_functions_of_pydicom(tmp_path):
    worst, random = 0, np.random.default_rng(0)
    for k, ((stored, allocated), signed, (slope, intercept), window, photometric, syntax) in enumerate(COMBINATIONS):
        low = -2**(stored - 1) if signed else 0
        values = smooth(stored, 18, 17, signed) if k % 2 else random.integers(low, low + 2**stored, (18, 17))
        tags = dict(RescaleSlope=slope, RescaleIntercept=intercept)
        if window:
            span = 2**stored*slope
            start = (-span/2 if signed else 0) + intercept
            tags |= dict(VOILUTFunction=window[0], WindowCenter=round(start + window[1]*span, 3),
                         WindowWidth=round(max(window[2]*span, 2), 3))
        pixels = None
        if syntax == uid.RLELossless: pixels = [encode_rle(values, allocated)]
        path = write(tmp_path/'x.dcm', values, stored, allocated, None, signed, photometric, syntax, pixels, **tags)
        ds = pydicom.dcmread(path)
        expected = run_pipeline(ds, pixel_array(ds))
        worst = max(worst, np.abs(read_image(path) - expected).max())
    assert len(COMBINATIONS) == 960 and worst < 2e-6, worst


def encode_rle(values, allocated):
    "One frame, run-length encoded: literal runs only."
    planes = (values & (2**allocated - 1)).astype(f'>u{allocated//8}').view(np.uint8).reshape(*values.shape, -1)
    segments = []
    for plane in np.moveaxis(planes, -1, 0):
        data = plane.tobytes()
        blocks = [data[at:at + 128] for at in range(0, len(data), 128)]
        runs = b''.join(bytes([len(block) - 1]) + block for block in blocks)
        segments.append(runs + bytes(len(runs) % 2))
    starts = np.cumsum([64] + [len(s) for s in segments])[:-1]
    return struct.pack('<16L', len(segments), *starts, *[0]*(15 - len(segments))) + b''.join(segments)


# the files that come with pydicom

ROOT = Path(pydicom.__file__).parent/'data'/'test_files'
BUNDLED = sorted(p for p in ROOT.glob('*') if p.suffix == '.dcm')
REASONS = {  # why a file that comes with pydicom is not read; the others must be
    'without an image', 'pixels, and 16 is the least', 'frames: say which', 'cut off in element', 'is no number',
    'declares no Rows', 'is not an image', 'code stream holds 3722445056'}
LOSSY = {'JPEG-lossy.dcm', 'JPGExtended.dcm'}   # JPEG of 12 bits, which the plug-ins of this machine may not decode


@pytest.mark.parametrize('path', BUNDLED, ids=lambda p: p.name)
def test_bundled_files(path):
    try: x = read_image(path)
    except UnreadableImage as error:
        expected = path.name in LOSSY or any(words in error.reason for words in REASONS)
        assert expected, error.reason
        return
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        ds = pydicom.dcmread(path, force=True)
        if ds.SamplesPerPixel == 1 and 'PALETTE' not in ds.PhotometricInterpretation and 'FloatPixelData' not in ds:
            stored = pixel_array(ds, index=0)
            if 'DoubleFloatPixelData' in ds: return
            expected = run_pipeline(ds, stored)
            if expected.shape == x.shape: assert np.abs(x - expected).max() < 2e-5
            else: assert 'PixelSpacing' in ds or 'PixelAspectRatio' in ds
    assert x.min() < x.max()


# bits

@pytest.mark.parametrize('stored, signed', [(12, False), (10, False), (8, False), (12, True)])
@pytest.mark.parametrize('syntax', [uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian, uid.RLELossless])
def test_numbers_at_the_upper_end_of_their_cells(tmp_path, stored, signed, syntax):
    values = smooth(stored, signed=signed)
    pixels = [encode_rle(values << (16 - stored), 16)] if syntax == uid.RLELossless else None
    cells = values << (16 - stored)
    path = write(tmp_path/'x.dcm', cells, stored, high=15, signed=signed, syntax=syntax, pixels=pixels)
    assert_reads(path, (values - values.min())/(2**stored - 1))


@pytest.mark.parametrize('signed', [False, True])
def test_a_wrong_high_bit_over_numbers_that_lie_low(tmp_path, signed):
    values = smooth(12, signed=signed)
    assert_reads(write(tmp_path/'x.dcm', values, 12, high=15, signed=signed), (values - values.min())/4095)


def test_dark_numbers_at_the_upper_end(tmp_path):
    values = smooth(12)//16                                                   # below 256, so below 4096 in their cells
    assert_reads(write(tmp_path/'x.dcm', values << 4, 12, high=15), values/4095)


@pytest.mark.parametrize('stored, high', [(12, 5), (12, 16), (17, 16), (16, 10)])
def test_bits_that_cannot_be(tmp_path, stored, high):
    reason = get_refusal(write(tmp_path/'x.dcm', smooth(12), stored, high=high))
    assert str(stored) in reason and 'BitsStored' in reason and 'damaged' not in reason


def test_numbers_that_exceed_the_bits_stored_do_not_wrap(tmp_path):
    values = smooth(13)
    path = write(tmp_path/'x.dcm', values, 12)
    reason = get_refusal(path)
    assert '12 bits' in reason and '8191' in reason and 'bits=13' in reason
    assert_reads(path, values/8191, bits=13)
    signed = write(tmp_path/'y.dcm', smooth(13, signed=True), 12, signed=True)
    assert 'bits=13' in get_refusal(signed)
    assert_reads(signed, smooth(13)/8191, bits=13)


def test_signed_numbers_whose_upper_bits_are_empty(tmp_path):
    values = smooth(12, signed=True)
    assert_reads(write(tmp_path/'x.dcm', values & 4095, 12, signed=True), (values + 2048)/4095)
    unsigned = write(tmp_path/'y.dcm', smooth(12), 12, signed=True)           # must not wrap
    assert 'with a sign' in get_refusal(unsigned)


def test_overlays_in_unused_bits_are_no_pixels(tmp_path):
    values, drawing = smooth(12), np.zeros((48, 40), np.int64)
    drawing[10:20] = 1
    path = write(tmp_path/'x.dcm', values | drawing << 14, 12)
    assert 'bits=15' in get_refusal(path)                                         # nothing says what the bit is
    ds = pydicom.dcmread(path)
    for element, value in {0x0010: 48, 0x0011: 40, 0x0100: 16, 0x0102: 14}.items():
        ds.add_new((0x6000, element), 'US', value)
    ds.save_as(path)
    assert_reads(path, values/4095)


@pytest.mark.parametrize('signed, padding', [(False, 0xffff), (False, 0x8000), (True, -2000)])
def test_padding_that_no_pixel_can_be_is_black(tmp_path, signed, padding):
    values = smooth(12 if not signed else 11, signed=signed)
    low = values.min()
    expected = (values - low)/(2**(12 - signed) - 1)
    values[:4], expected[:4] = padding, 0
    for photometric, x in (('MONOCHROME2', expected), ('MONOCHROME1', np.where(values == padding, 0, 1 - expected))):
        path = write(tmp_path/'x.dcm', values, 12 - signed, signed=signed, photometric=photometric)
        ds = pydicom.dcmread(path)
        ds.add_new('PixelPaddingValue', 'SS' if signed else 'US', padding)
        ds.save_as(path)
        assert_reads(path, x)


@pytest.mark.parametrize('bits', [16, 12])
def test_a_wrong_sign_does_not_wrap_around(tmp_path, bits):
    unsigned, signed = smooth(bits, 64, 64), smooth(bits, 64, 64, True)
    if bits == 16:
        assert 'PixelRepresentation is 1' in get_refusal(write(tmp_path/'x.dcm', unsigned, 16, signed=True))
        assert 'PixelRepresentation is 0' in get_refusal(write(tmp_path/'y.dcm', signed, 16, signed=False))
    else:
        assert 'with a sign' in get_refusal(write(tmp_path/'x.dcm', unsigned, 12, signed=True))
        assert '12 bits' in get_refusal(write(tmp_path/'y.dcm', signed, 12, signed=False))
    letters = smooth(bits, 64, 64)//8                                         # white letters on black are no wrong sign
    letters[10:20, 10:30], letters[30:40] = 2**bits - 1, 0
    assert_reads(write(tmp_path/'z.dcm', letters, bits), letters/(2**bits - 1))
    around = smooth(bits, 64, 64, True)//8
    around[:20] = -2**(bits - 1)                                              # nor is the lowest number around it
    assert_reads(write(tmp_path/'v.dcm', around, bits, signed=True), (around + 2**(bits - 1))/(2**bits - 1))


# code streams

def encode_j2k(values, bits, signed=False):
    "A JPEG 2000 stream, lossless."
    openjpeg = pytest.importorskip('openjpeg')
    kind = ('i' if signed else 'u') + ('1' if bits <= 8 else '2')
    return bytes(openjpeg.encode(values.astype(kind), bits_stored=bits, photometric_interpretation=2))


@pytest.mark.parametrize('precision, stored', [(12, 12), (12, 16), (14, 16), (10, 12),
                                               (8, 16), (8, 12), (16, 12), (16, 10)])
@pytest.mark.parametrize('window', [False, True])
def test_precision_of_a_jpeg_2000(tmp_path, precision, stored, window):
    bits = min(precision, stored)
    values = smooth(bits, 64, 64)
    tags = dict(WindowCenter=2**bits/2, WindowWidth=2**bits, VOILUTFunction='LINEAR_EXACT') if window else {}
    pixels = [encode_j2k(values, precision)]
    path = write(tmp_path/'x.dcm', values, stored, syntax=uid.JPEG2000Lossless, pixels=pixels, **tags)
    assert_reads(path, values/2**bits if window else values/(2**bits - 1))


def test_more_precision_than_bits_stored(tmp_path):
    values = smooth(16, 64, 64)
    path = write(tmp_path/'x.dcm', values, 12, syntax=uid.JPEG2000Lossless, pixels=[encode_j2k(values, 16)])
    assert_reads(path, values/65535)


@pytest.mark.parametrize('in_stream, in_tags', itertools.product([False, True], [False, True]))
def test_sign_of_a_jpeg_2000(tmp_path, in_stream, in_tags):
    truth = smooth(12, 64, 64)
    for signed_data in {in_stream, in_tags}:
        values = smooth(12, 64, 64, signed_data)
        coded = values if signed_data == in_stream else \
            values & 4095 if not in_stream else np.where(values > 2047, values - 4096, values)
        path = write(tmp_path/'x.dcm', values, 12, signed=in_tags, syntax=uid.JPEG2000Lossless,
                     pixels=[encode_j2k(coded, 12, in_stream)])
        assert_reads(path, truth/4095)
    noise = np.random.default_rng(0).integers(-2048 if in_stream else 0, 2048 if in_stream else 4096, (64, 64))
    stream = encode_j2k(noise, 12, in_stream)
    path = write(tmp_path/'y.dcm', noise, 12, signed=in_tags, syntax=uid.JPEG2000Lossless, pixels=[stream])
    if in_stream == in_tags: assert_reads(path, (noise + 2048*in_stream)/4095)
    else: assert 'PixelRepresentation' in get_refusal(path) and 'code stream' in get_refusal(path)


def encode_jpeg(values):
    import io
    from PIL import Image
    out = io.BytesIO()
    Image.fromarray(values.astype(np.uint8)).save(out, 'JPEG', quality=98)
    return out.getvalue()


def test_eight_bits_of_a_jpeg_in_cells_of_sixteen(tmp_path):
    values = smooth(8, 64, 64)
    for stored in (8, 12, 16):
        path = write(tmp_path/'x.dcm', values, stored, syntax=uid.JPEGBaseline8Bit, pixels=[encode_jpeg(values)])
        assert_reads(path, values/255, atol=.03)


@pytest.mark.parametrize('tag, value', [('Rows', 32), ('Columns', 32), ('SamplesPerPixel', 3)])
def test_tags_against_the_code_stream(tmp_path, tag, value):
    values, tags = smooth(8, 48, 64), {tag: value}
    if tag == 'SamplesPerPixel': tags |= dict(PhotometricInterpretation='RGB', PlanarConfiguration=0)
    for syntax, stream in ((uid.JPEG2000Lossless, encode_j2k(values, 8)), (uid.JPEGBaseline8Bit, encode_jpeg(values))):
        reason = get_refusal(write(tmp_path/'x.dcm', values, 8, 8, syntax=syntax, pixels=[stream], **tags))
        assert tag in reason and str(value) in reason and 'damaged' not in reason
    size = dict(Rows=64, Columns=48)
    turned = write(tmp_path/'y.dcm', values, 8, 8, syntax=uid.JPEG2000Lossless, pixels=[encode_j2k(values, 8)], **size)
    assert 'Rows is 64' in get_refusal(turned)                                    # as many pixels, but scrambled


def test_transfer_syntax_against_the_code_stream(tmp_path):
    values = smooth(8, 64, 64)
    path = write(tmp_path/'x.dcm', values, 8, 8, syntax=uid.JPEGBaseline8Bit, pixels=[encode_j2k(values, 8)])
    assert 'JPEG 2000' in get_refusal(path) and 'JPEG Baseline' in get_refusal(path)
    native = write(tmp_path/'y.dcm', values, 8, 8, syntax=uid.JPEG2000Lossless)
    assert 'not packed' in get_refusal(native) and 'damaged' not in get_refusal(native)
    unknown = write(tmp_path/'z.dcm', values, 8, 8, syntax='1.2.840.10008.1.2.99')
    assert 'no known transfer syntax' in get_refusal(unknown)


def test_frames_against_code_streams(tmp_path):
    values = smooth(8, 64, 64)
    path = write(tmp_path/'x.dcm', values, 8, 8, syntax=uid.JPEG2000Lossless, pixels=[encode_j2k(values, 8)]*2)
    assert '1 frames and holds 2' in get_refusal(path)
    run = encode_rle(smooth(12), 16)
    path = write(tmp_path/'y.dcm', smooth(12), syntax=uid.RLELossless, pixels=[run, run])
    assert '1 frames and holds 2' in get_refusal(path)
    path = write(tmp_path/'z.dcm', smooth(12), syntax=uid.RLELossless, pixels=[run, run], NumberOfFrames=2)
    assert_reads(path, smooth(12)/4095, frame=1)


@pytest.mark.parametrize('kind', ['jpeg', 'j2k'])
@pytest.mark.parametrize('share', [.3, .9, .995])
def test_cut_code_streams(tmp_path, kind, share):
    values = smooth(8, 64, 64)
    if kind == 'jpeg': stream, syntax = encode_jpeg(values), uid.JPEGBaseline8Bit
    else: stream, syntax = encode_j2k(values, 8), uid.JPEG2000Lossless
    path = write(tmp_path/'x.dcm', values, 8, 8, syntax=syntax, pixels=[stream[:int(share*len(stream))]])
    assert 'damaged' in get_refusal(path)


def test_deflated_frames(tmp_path):
    values = smooth(12)
    packer = zlib.compressobj(wbits=-15)
    packed = packer.compress(values.astype('<u2').tobytes()) + packer.flush()
    path = write(tmp_path/'x.dcm', values, syntax='1.2.840.10008.1.2.8.1', pixels=[packed])
    assert_reads(path, values/4095)
    cut = write(tmp_path/'y.dcm', values, syntax='1.2.840.10008.1.2.8.1', pixels=[packed[:len(packed)//2]])
    assert 'damaged' in get_refusal(cut)


def test_a_deflated_file(tmp_path):
    path = write(tmp_path/'x.dcm', smooth(12))
    ds = pydicom.dcmread(path)
    ds.file_meta.TransferSyntaxUID = uid.DeflatedExplicitVRLittleEndian
    ds.save_as(tmp_path/'y.dcm', enforce_file_format=True)
    assert_reads(tmp_path/'y.dcm', smooth(12)/4095)
    data = (tmp_path/'y.dcm').read_bytes()
    (tmp_path/'z.dcm').write_bytes(data[:len(data)//2])
    assert 'damaged' in get_refusal(tmp_path/'z.dcm')
    packer = zlib.compressobj(wbits=-15)
    head = 144 + int.from_bytes(data[140:144], 'little')
    block = bytes(2**24)
    (tmp_path/'v.dcm').write_bytes(data[:head] + b''.join(packer.compress(block) for _ in range(40)) + packer.flush())
    assert 'unpacks to more than' in get_refusal(tmp_path/'v.dcm')


# length

@pytest.mark.parametrize('change', [-2, -80, -1920, 80*3, 96*3, 3840])
def test_length_of_the_pixels(tmp_path, change):
    data = smooth(12).astype('<u2').tobytes()
    data = data[:change] if change < 0 else data + data[:change]
    reason = get_refusal(write(tmp_path/'x.dcm', smooth(12), pixels=data))
    assert '48 x 40' in reason and '3,840' in reason and f'{len(data):,}' in reason


def test_padding_after_the_pixels(tmp_path):
    data = smooth(12).astype('<u2').tobytes()
    for rest in (bytes(2), b'ab', bytes(512)):
        assert_reads(write(tmp_path/'x.dcm', smooth(12), pixels=data + rest), smooth(12)/4095)


def test_a_file_that_ends_before_its_pixels(tmp_path):
    path = write(tmp_path/'x.dcm', smooth(12))
    data = path.read_bytes()
    for end in range(len(data) - 3000, len(data), 97):
        path.write_bytes(data[:end])
        assert 'damaged' in get_refusal(path)


def test_channels_against_the_photometric_interpretation(tmp_path):
    grey, colour = smooth(8), np.stack([smooth(8)]*3, -1)
    wrong = {'MONOCHROME2': colour, 'RGB': grey, 'PALETTE COLOR': colour, 'YBR_FULL': grey}
    for photometric, values in wrong.items():
        reason = get_refusal(write(tmp_path/'x.dcm', values, 8, 8, photometric=photometric))
        assert photometric in reason and 'SamplesPerPixel' in reason


@pytest.mark.parametrize('syntax', [uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian])
def test_bits_of_colours(tmp_path, syntax):
    grey = lambda bits: np.stack([smooth(bits)]*3, -1)
    how = dict(photometric='RGB', syntax=syntax)
    assert_reads(write(tmp_path/'x.dcm', grey(12), **how), smooth(12)/4095)
    assert_reads(write(tmp_path/'x.dcm', grey(12) << 4, high=15, **how), smooth(12)/4095)
    path = write(tmp_path/'y.dcm', grey(14), **how)
    assert 'bits=14' in get_refusal(path)
    assert_reads(path, smooth(14)/16383, bits=14)


@pytest.mark.parametrize('form', ['jfif', 'bare', 'rgb'])
@pytest.mark.parametrize('photometric', ['RGB', 'YBR_FULL', 'YBR_FULL_422', 'YBR_ICT'])
def test_grey_in_three_channels_whatever_they_are_called(tmp_path, form, photometric):
    import io
    from PIL import Image
    grey, out = smooth(8, 64, 64), io.BytesIO()
    colours = np.stack([grey]*3, -1)
    Image.fromarray(colours.astype(np.uint8)).save(out, 'JPEG', quality=98, keep_rgb=form == 'rgb')
    stream = out.getvalue()
    if form == 'bare': stream = stream[:2] + stream[20:]                      # without the mark of JFIF
    how = dict(photometric=photometric, syntax=uid.JPEGBaseline8Bit, pixels=[stream])
    assert_reads(write(tmp_path/'x.dcm', colours, 8, 8, **how), grey/255, atol=.03)
    openjpeg = pytest.importorskip('openjpeg')
    for mixed in (False, True):
        stream = bytes(openjpeg.encode(colours.astype(np.uint8), photometric_interpretation=1, use_mct=mixed))
        how = dict(photometric=photometric, syntax=uid.JPEG2000Lossless, pixels=[stream])
        assert_reads(write(tmp_path/'y.dcm', colours, 8, 8, **how), grey/255)
    native = np.stack([grey, np.full_like(grey, 128), np.full_like(grey, 128)], -1)
    if photometric == 'YBR_FULL': assert_reads(write(tmp_path/'z.dcm', native, 8, 8, photometric=photometric), grey/255)


def test_a_picture_that_would_be_one_grey(tmp_path):
    path = write(tmp_path/'x.dcm', smooth(20), 32, 32)
    assert 'one grey' in get_refusal(path)
    assert_reads(path, smooth(20)/(2**20 - 1), bits=20)
    for slope, intercept in (('1e-9', 1e6), ('1', 1e9)):
        path = write(tmp_path/'y.dcm', smooth(12), RescaleSlope=slope, RescaleIntercept=intercept)
        assert_reads(path, smooth(12)/4095, atol=1e-4)


# numbers

@pytest.mark.parametrize('text, value', [(b'10,5', 10.5), (b'0,125 ', .125), (b'-1,5E2', -150), (b' 10.5\0', 10.5),
                                         (b'1000,25', 1000.25)])
def test_decimal_comma(tmp_path, text, value):
    tags = dict(RescaleIntercept=text, RescaleSlope=b'1', WindowCenter=b'2000', WindowWidth=b'4000,5')
    path = write(tmp_path/'x.dcm', smooth(12), **tags)
    shown = np.clip((smooth(12) + value - 1999.5)/3999.5 + .5, 0, 1)
    assert_reads(path, shown)


NO_NUMBERS = [('WindowCenter', b'1,024'), ('WindowCenter', b'nan'), ('WindowWidth', b'wide'),
              ('WindowWidth', b'1.000,5'),
              ('RescaleSlope', b'1,2,3'), ('RescaleSlope', b'nan'), ('RescaleSlope', b'0'), ('RescaleSlope', b'1\\2 '),
              ('RescaleIntercept', b'inf')]


@pytest.mark.parametrize('key, text', NO_NUMBERS)
def test_numbers_that_are_none(tmp_path, key, text):
    tags = dict(WindowCenter=b'2000', WindowWidth=b'4000', RescaleSlope=b'1', RescaleIntercept=b'0') | {key: text}
    reason = get_refusal(write(tmp_path/'x.dcm', smooth(12), **tags))
    assert (key in reason or 'window' in reason) and 'damaged' not in reason


# windows

@pytest.mark.parametrize('form', ['linear', ' LINEAR ', 'Linear_Exact', 'LINEAR EXACT', 'sigmoid', 'SIGMOID'])
def test_spelling_of_a_window_function(tmp_path, form):
    values = smooth(12)
    path = write(tmp_path/'x.dcm', values, WindowCenter=2000, WindowWidth=1000, VOILUTFunction=form)
    kind = form.strip().upper().replace(' ', '_')
    expected = {'LINEAR': np.clip((values - 1999.5)/999 + .5, 0, 1),
                'LINEAR_EXACT': np.clip((values - 2000)/1000 + .5, 0, 1),
                'SIGMOID': 1/(1 + np.exp(-4*(values - 2000)/1000))}[kind]
    assert_reads(path, expected)


def test_windows_of_unequal_number(tmp_path):
    values = smooth(12)
    expected = np.clip((values - 1999.5)/999 + .5, 0, 1)
    assert_reads(write(tmp_path/'x.dcm', values, WindowCenter=[2000, 1000], WindowWidth=1000), expected)
    assert_reads(write(tmp_path/'x.dcm', values, WindowCenter=2000, WindowWidth=[1000, 50]), expected)
    for tags in (dict(WindowCenter=2000), dict(WindowWidth=1000)):
        reason = get_refusal(write(tmp_path/'x.dcm', values, **tags))
        assert 'window=False' in reason


@pytest.mark.parametrize('center, width', [(9000, 10), (-5000, 100), (4095, 1)])
def test_a_window_that_shows_nothing(tmp_path, center, width):
    path = write(tmp_path/'x.dcm', smooth(12)//2, WindowCenter=center, WindowWidth=width)
    assert 'every pixel equal' in get_refusal(path) and 'window=False' in get_refusal(path)
    assert_reads(path, smooth(12)//2/4095, window=False)
    flat = write(tmp_path/'y.dcm', np.full((20, 20), 7), WindowCenter=center, WindowWidth=width)
    assert np.ptp(read_image(flat)) == 0                                      # a file that is constant may stay so


@pytest.mark.parametrize('where', ['Shared', 'PerFrame'])
def test_functional_groups(tmp_path, where):
    values = smooth(12)
    window = dict(WindowCenter=1000, WindowWidth=800, VOILUTFunction='LINEAR_EXACT')
    rescale = dict(RescaleSlope=2, RescaleIntercept=-1000, RescaleType='US')
    found = make_groups(where, FrameVOILUTSequence=window, PixelValueTransformationSequence=rescale,
                        PixelMeasuresSequence=dict(PixelSpacing=[.2, .2]))
    assert_reads(write(tmp_path/'x.dcm', values, **found), np.clip((values*2. - 2000)/800 + .5, 0, 1))
    for tags in (dict(WindowCenter=2000, WindowWidth=800), dict(RescaleSlope=1, RescaleIntercept=0)):
        reason = get_refusal(write(tmp_path/'x.dcm', values, **found, **tags))
        assert 'functional group' in reason and 'top' in reason
    assert_reads(write(tmp_path/'x.dcm', values, **found, WindowCenter=1000, WindowWidth=800),
               np.clip((values*2. - 2000)/800 + .5, 0, 1))


def test_a_frame_has_its_own_group(tmp_path):
    values = smooth(12)
    own = []
    for center in (1000, 3000):
        window = dict(WindowCenter=center, WindowWidth=1000, VOILUTFunction='LINEAR_EXACT')
        own += make_groups('PerFrame', FrameVOILUTSequence=window)['PerFrameFunctionalGroupsSequence']
    data = np.stack([values, values]).astype('<u2').tobytes()
    path = write(tmp_path/'x.dcm', values, pixels=data, NumberOfFrames=2, PerFrameFunctionalGroupsSequence=own)
    for frame, center in enumerate((1000, 3000)):
        assert_reads(path, np.clip((values - center)/1000 + .5, 0, 1), frame=frame)


# tables

SQUARE = np.rint(4095*(np.arange(4096)/4095)**2).astype(int)


@pytest.mark.parametrize('vr', ['US', 'OW'])
@pytest.mark.parametrize('declared', [12, 16, 13])
def test_depth_of_a_table(tmp_path, declared, vr):
    path = write(tmp_path/'x.dcm', smooth(12), VOILUTSequence=make_table(SQUARE, depth=declared, vr=vr))
    assert_reads(path, SQUARE[smooth(12)]/4095)


def test_depth_that_nothing_supports(tmp_path):
    low = get_refusal(write(tmp_path/'x.dcm', smooth(12), VOILUTSequence=make_table(SQUARE*3000//4095, depth=16)))
    over = get_refusal(write(tmp_path/'x.dcm', smooth(12), VOILUTSequence=make_table(SQUARE*3000//4095, depth=10)))
    for reason in (low, over): assert '3000' in reason and 'bits' in reason and 'window=False' in reason
    half = np.rint(SQUARE/4095*30000).astype(int)                             # 15 of 16 bits may be meant as 16
    assert_reads(write(tmp_path/'x.dcm', smooth(12), VOILUTSequence=make_table(half, depth=16)), half[smooth(12)]/65535)
    narrow = make_table(SQUARE, depth=10)
    assert_reads(write(tmp_path/'x.dcm', smooth(12), VOILUTSequence=narrow), SQUARE[smooth(12)]/4095)


@pytest.mark.parametrize('syntax', [uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian])
@pytest.mark.parametrize('signed', [False, True])
def test_sign_of_the_first_entry(tmp_path, syntax, signed):
    values = smooth(12, signed=signed)
    intercept = 0 if signed else -2048
    path = write(tmp_path/'x.dcm', values, signed=signed, syntax=syntax, RescaleSlope=1, RescaleIntercept=intercept,
                 VOILUTSequence=make_table(SQUARE, first=-2048))
    assert_reads(path, SQUARE[smooth(12)]/4095)
    ramp = make_table(np.arange(4096), first=61440)                                # unsigned, and meant so
    expected = np.clip(smooth(16) - 61440, 0, 4095)/4095
    assert_reads(write(tmp_path/'y.dcm', smooth(16), 16, VOILUTSequence=ramp), expected)
    square = make_table(SQUARE, first=-2048*signed)
    assert_reads(write(tmp_path/'z.dcm', values, signed=signed, syntax=syntax, ModalityLUTSequence=square),
               SQUARE[smooth(12)]/4095)


def test_length_of_a_table(tmp_path):
    values = smooth(12)
    short = get_refusal(write(tmp_path/'x.dcm', values, VOILUTSequence=make_table(SQUARE, count=256)))
    longer = get_refusal(write(tmp_path/'x.dcm', values, VOILUTSequence=make_table(SQUARE[:300] | 4095, count=4096)))
    assert '256' in short and '4096' in short and '300' in longer and '4096' in longer
    unused = make_table(SQUARE, count=4000)
    assert_reads(write(tmp_path/'x.dcm', values//2, VOILUTSequence=unused), SQUARE[values//2]/4095)
    whole = make_table(np.arange(65536), depth=16, vr='OW')
    assert_reads(write(tmp_path/'x.dcm', smooth(16), 16, VOILUTSequence=whole), smooth(16)/65535)


def test_entries_of_eight_bits(tmp_path):
    values, curve = smooth(8), np.arange(256)[::-1]
    for packed in (curve, curve.astype(np.uint8).view('<u2')):                # a word each, two in a word
        path = write(tmp_path/'x.dcm', values, 8, 8, VOILUTSequence=make_table(packed, depth=8, count=256))
        assert_reads(path, 1 - values/255)
    upper = make_table(curve << 8, depth=8, vr='OW')                               # in the upper half of their words
    assert_reads(write(tmp_path/'x.dcm', values, 8, 8, VOILUTSequence=upper), (curve[values] << 8)/0xff00)


def test_tables_in_the_other_byte_order(tmp_path):
    item = make_table(SQUARE)[0]
    item['LUTData'].VR, item['LUTData']._value = 'OW', SQUARE.astype('>u2').tobytes()
    assert_reads(write(tmp_path/'x.dcm', smooth(12), syntax=uid.ExplicitVRBigEndian, VOILUTSequence=[item]),
               SQUARE[smooth(12)]/4095)


@pytest.mark.parametrize('entries, depth', [(np.zeros(4096, int), 12), (np.full(4096, 4095), 12)])
def test_a_table_that_shows_nothing(tmp_path, entries, depth):
    reason = get_refusal(write(tmp_path/'x.dcm', smooth(12), VOILUTSequence=make_table(entries, depth=depth)))
    assert 'window=False' in reason


def test_palettes(tmp_path):
    values, ramp = smooth(8), np.arange(256)
    forms = [(ramp*257, 16), (ramp, 16), (ramp << 8, 16), (ramp << 8, 8), (ramp, 8)]
    for entries, depth in forms:
        path = write(tmp_path/'x.dcm', values, 8, 8, photometric='PALETTE COLOR')
        ds = pydicom.dcmread(path)
        for c in ('Red', 'Green', 'Blue'):
            ds.add_new(f'{c}PaletteColorLookupTableDescriptor', 'US', [256, 0, depth])
            ds.add_new(f'{c}PaletteColorLookupTableData', 'OW', entries.astype('<u2').tobytes())
        ds.save_as(path)
        assert_reads(path, values/255, atol=.005)


# polarity

@pytest.mark.parametrize('photometric', ['monochrome1', ' MONOCHROME1', 'Monochrome2', 'MONOCHROME2'])
def test_spelling_of_the_photometric_interpretation(tmp_path, photometric):
    x = smooth(12)/4095
    path = write(tmp_path/'x.dcm', smooth(12), PhotometricInterpretation=photometric.encode())
    assert_reads(path, 1 - x if '1' in photometric else x)


@pytest.mark.parametrize('photometric, shape, agree', [
    ('MONOCHROME1', 'INVERSE', True), ('MONOCHROME2', 'IDENTITY', True), ('MONOCHROME1', 'inverse', True),
    ('MONOCHROME1', 'IDENTITY', False), ('MONOCHROME2', 'INVERSE', False)])
def test_presentation_shape(tmp_path, photometric, shape, agree):
    path = write(tmp_path/'x.dcm', smooth(12), photometric=photometric, PresentationLUTShape=shape)
    if agree: assert_reads(path, 1 - smooth(12)/4095 if photometric == 'MONOCHROME1' else smooth(12)/4095)
    else: assert photometric in get_refusal(path) and shape in get_refusal(path)


@pytest.mark.parametrize('key', ['PhotometricInterpretation', 'BitsStored', 'BitsAllocated', 'Rows',
                                 'PixelRepresentation'])
def test_missing_tags_are_named(tmp_path, key):
    path = write(tmp_path/'x.dcm', smooth(12))
    ds = pydicom.dcmread(path)
    del ds[key]
    ds.save_as(path)
    assert key in get_refusal(path) and 'damaged' not in get_refusal(path)


# spacing

@pytest.mark.parametrize('key, value', [('PixelSpacing', [.4, .2]), ('ImagerPixelSpacing', [.4, .2]),
                                        ('NominalScannedPixelSpacing', [.4, .2]), ('PixelAspectRatio', [2, 1])])
def test_pixels_that_are_not_square(tmp_path, key, value):
    values = smooth(12, 96, 64)
    x = read_image(write(tmp_path/'x.dcm', values[::2], **{key: value}))
    assert x.shape == (96, 64) and np.abs(x - values/4095).mean() < .02
    wide = read_image(write(tmp_path/'x.dcm', values[:, ::2], **{key: value[::-1]}))
    assert wide.shape == (96, 64) and np.abs(wide - values/4095).mean() < .02
    assert 'cannot be meant' in get_refusal(write(tmp_path/'x.dcm', values, **{key: [value[0]*10, value[1]]}))


def test_spacings_are_compared(tmp_path):
    reason = get_refusal(write(tmp_path/'x.dcm', smooth(12), PixelSpacing=[.1, .2], ImagerPixelSpacing=[.2, .2]))
    assert 'PixelSpacing' in reason and 'ImagerPixelSpacing' in reason
    tags = dict(PixelSpacing=[.1, .1], ImagerPixelSpacing=[.2, .2], PixelAspectRatio=[1, 1])
    same = write(tmp_path/'x.dcm', smooth(12), **tags)
    assert_reads(same, smooth(12)/4095)
    assert_reads(write(tmp_path/'x.dcm', smooth(12), PixelSpacing=[.143, .1425]), smooth(12)/4095)     # within 1 %


def test_sizes_beyond_reason(tmp_path):
    path = write(tmp_path/'x.dcm', smooth(12), Rows=60000, Columns=60000)
    assert '33,554,432' in get_refusal(path)
