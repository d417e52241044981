"Reading and finding image files: every odd format, the real odd files, refusals, squares, and a reading as a value."
import io, json, os, pickle, struct, subprocess, sys, zlib
from pathlib import Path
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from PIL import Image, ImageFile
from cxr_workbench import files, packing, reading, writing
from cxr_workbench.dicom import apply_lut, apply_window
from cxr_workbench.pictures import to_unit
from cxr_workbench.reading import FileImages, Reading, UnreadableImage
from cxr_workbench.reading import find_images, fit_image, is_image_file, read_image


def picture(height=60, width=48, seed=0):
    "Smooth structure with some noise, (height, width) uint8, from 0 to 255."
    y, x = np.mgrid[:height, :width]
    noise = np.random.default_rng(seed).normal(0, 3, (height, width))
    values = 120 + 70*np.sin(x/9) + 50*np.cos(y/7) + noise
    values = values.clip(0, 255).astype(np.uint8)
    values[0, 0], values[0, 1] = 0, 255
    return values


def sixteen(values): return values.astype(np.uint16)*257


def write_dicom(path, values, photometric='MONOCHROME2', stored=None, frames=None, **tags):
    "A DICOM file of (H, W), (H, W, 3) or, where frames says how many there are, (frames, H, W)."
    pydicom = pytest.importorskip('pydicom')
    ds = pydicom.Dataset()
    ds.file_meta = pydicom.dataset.FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    ds.SOPClassUID, ds.SOPInstanceUID = '1.2.840.10008.5.1.4.1.1.1.1', '1.2.3'
    shape = values.shape[1:] if frames else values.shape
    ds.Rows, ds.Columns = shape[:2]
    ds.SamplesPerPixel = shape[2] if len(shape) == 3 else 1
    if frames: ds.NumberOfFrames = frames
    if ds.SamplesPerPixel == 3: ds.PlanarConfiguration = 0
    ds.PixelRepresentation = int(values.dtype.kind == 'i')
    ds.PhotometricInterpretation, ds.BitsAllocated = photometric, 8*values.dtype.itemsize
    ds.BitsStored = stored or ds.BitsAllocated
    ds.HighBit = ds.BitsStored - 1
    for key, value in tags.items(): setattr(ds, key, value)
    ds.PixelData = values.tobytes()
    ds.save_as(path, enforce_file_format=True)
    return path


def table_item(entries, first=0, depth=8):
    "A lookup table of DICOM: its entries, the first input that it maps, and the bits of an entry."
    from pydicom import Dataset
    item = Dataset()
    item.add_new('LUTDescriptor', 'US', [len(entries)%65536, first, depth])
    item.add_new('LUTData', 'US', [int(v) for v in entries])
    return item


def refusal(path, **kw):
    "The reason why a file is refused."
    with pytest.raises(UnreadableImage) as caught: read_image(path, **kw)
    assert str(path) in str(caught.value) and caught.value.path == str(path)
    return caught.value.reason


# ---- the page `files` gives the names of the pages below ----

@pytest.mark.parametrize('module, names', [
    (writing, 'atomic_path write_atomic'), (packing, 'PackedImages pack'),
    (reading, 'FileImages Reading UnreadableImage find_images fit_image is_image_file read_image')])
def test_public_names_are_the_same_objects(module, names):
    for name in names.split():
        assert getattr(files, name) is getattr(module, name) and name in files.__all__


def test_reading_and_packing_need_no_torch():
    code = 'import sys, cxr_workbench.files; print("torch" in sys.modules)'
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == 'False'


# ---- depth ----

SEEDS = st.integers(0, 99)


@given(bits=st.integers(1, 16), seed=st.integers(0, 2**16))
@settings(max_examples=40)
def test_bits_round_trip(bits, seed):
    top = 2**bits - 1
    values = np.random.default_rng(seed).integers(0, top + 1, (16, 16)).astype(np.uint16)
    x = to_unit(values, 0, top)
    assert x.dtype == np.float32 and x.min() >= 0 and x.max() <= 1
    assert np.array_equal(np.rint(x*np.float32(top)).astype(np.uint16), values)


@given(bits=st.integers(9, 16), kind=st.sampled_from(['PNG', 'TIFF', 'JPEG2000']), seed=SEEDS)
@settings(max_examples=30)
def test_bits_round_trip_through_files(tmp_path_factory, bits, kind, seed):
    values = np.random.default_rng(seed).integers(0, 2**bits, (20, 17)).astype(np.uint16)
    path = tmp_path_factory.mktemp('bits')/'image'
    Image.fromarray(values).save(path, kind)
    assert np.array_equal(np.rint(read_image(path, bits=bits)*(2**bits - 1)).astype(np.uint16), values)
    assert np.allclose(read_image(path), values/65535, atol=1e-7)


@given(bits=st.integers(2, 16), signed=st.booleans(), seed=SEEDS,
       slope=st.sampled_from([1., 2., .5, -1.]), intercept=st.sampled_from([0., -1024., 7.5]))
@settings(max_examples=40)
def test_dicom_declared_range(tmp_path_factory, bits, signed, seed, slope, intercept):
    low = -2**(bits - 1) if signed else 0
    values = np.random.default_rng(seed).integers(low, low + 2**bits, (16, 18))
    values[0, :2] = low, low + 2**bits - 1
    path = tmp_path_factory.mktemp('dicom')/'x'
    values_as_stored = values.astype('<i2' if signed else '<u2')
    write_dicom(path, values_as_stored, stored=bits, RescaleSlope=slope, RescaleIntercept=intercept)
    expected = (values - low)/(2**bits - 1)
    assert np.allclose(read_image(path), expected if slope > 0 else 1 - expected, atol=2e-5)


def test_twelve_bit_jpeg2000_uses_its_own_depth(tmp_path):
    openjpeg = pytest.importorskip('openjpeg')
    values = np.random.default_rng(0).integers(0, 4096, (80, 96)).astype(np.uint16)
    (tmp_path/'x.j2k').write_bytes(openjpeg.encode(values, bits_stored=12, photometric_interpretation=2))
    assert np.allclose(read_image(tmp_path/'x.j2k'), values/4095, atol=1e-6)
    assert np.allclose(read_image(tmp_path/'x.j2k', bits=13), values/8191, atol=1e-6)


def test_stretch_and_invert(tmp_path):
    path, values = tmp_path/'x.png', (picture().astype(np.uint16) + 100)*4
    Image.fromarray(values).save(path)
    x, stretched, inverted = read_image(path), read_image(path, stretch=True), read_image(path, invert=True)
    assert x.max() < .03 and stretched.min() == 0 and stretched.max() == 1
    assert np.allclose(stretched, (values - 400)/1020, atol=1e-6) and np.allclose(x + inverted, 1)


def test_values_beyond_the_declared_bits_are_refused(tmp_path):
    Image.fromarray(np.full((20, 20), 5000, np.uint16)).save(tmp_path/'x.png')
    assert 'bits=13' in refusal(tmp_path/'x.png', bits=12)
    assert np.allclose(read_image(tmp_path/'x.png', bits=13), 5000/8191)
    assert 'nothing to stretch' in refusal(tmp_path/'x.png', stretch=True)


@pytest.mark.parametrize('bits', [0, 33, 12., '12', -1])
def test_bits_must_be_a_number_of_bits(tmp_path, bits):
    Image.fromarray(picture()).save(tmp_path/'x.png')
    with pytest.raises(ValueError, match='how many bits'): read_image(tmp_path/'x.png', bits=bits)


# ---- forms of a picture ----

def rotate(image): return image.transpose(Image.Transpose.ROTATE_270)


def with_alpha(image, mode, channels):
    opaque = Image.new('L', image.size, 255)
    return Image.merge(mode, (*[image]*channels, opaque))


ROTATED = Image.Exif()
ROTATED[274] = 8
FORMS = {  # name -> (format, image of (H, W) uint8, options of Pillow)
    'L': ('PNG', Image.fromarray, {}),
    'LA': ('PNG', lambda a: with_alpha(Image.fromarray(a), 'LA', 1), {}),
    'RGB': ('PNG', lambda a: Image.fromarray(a).convert('RGB'), {}),
    'RGBA': ('PNG', lambda a: with_alpha(Image.fromarray(a), 'RGBA', 3), {}),
    'palette': ('PNG', lambda a: Image.fromarray(a).convert('P'), {}),
    '16': ('PNG', lambda a: Image.fromarray(sixteen(a)), {}),
    'tif16': ('TIFF', lambda a: Image.fromarray(sixteen(a)), {}),
    'tif': ('TIFF', Image.fromarray, dict(compression='tiff_lzw')),
    'float': ('TIFF', lambda a: Image.fromarray((a/255).astype(np.float32)), {}),
    'pgm16': ('PPM', lambda a: Image.fromarray(sixteen(a)), {}),
    'gif': ('GIF', Image.fromarray, {}),
    'bmp': ('BMP', Image.fromarray, {}),
    'webp': ('WEBP', Image.fromarray, dict(lossless=True)),
    'jp2': ('JPEG2000', Image.fromarray, {}),
    'exif': ('PNG', lambda a: rotate(Image.fromarray(a)), dict(exif=ROTATED)),
    'exif16': ('PNG', lambda a: rotate(Image.fromarray(sixteen(a))), dict(exif=ROTATED)),
    'exif_tif': ('TIFF', lambda a: rotate(Image.fromarray(a)), dict(exif=ROTATED)),
    'exif_lzw': ('TIFF', lambda a: rotate(Image.fromarray(a)), dict(exif=ROTATED, compression='tiff_lzw')),
}


@pytest.mark.parametrize('form', FORMS)
def test_lossless_forms_agree(tmp_path, form):
    kind, make_image, options = FORMS[form]
    values, path = picture(), tmp_path/'wrong_suffix.dcm'     # the content decides
    make_image(values).save(path, kind, **options)
    x = read_image(path)
    assert x.dtype == np.float32 and x.shape == values.shape
    assert np.allclose(x, values/255, atol=1e-6)


def test_one_bit_and_few_bit_pictures(tmp_path):
    Image.fromarray(picture() > 120).save(tmp_path/'one.png')
    assert set(np.unique(read_image(tmp_path/'one.png'))) == {0., 1.}
    Image.fromarray(picture() > 120).save(tmp_path/'one.tif')
    assert np.array_equal(read_image(tmp_path/'one.tif'), read_image(tmp_path/'one.png'))


@pytest.mark.parametrize('colour, value', [
    ((255, 0, 0), .299), ((0, 255, 0), .587), ((0, 0, 255), .114),
    ((255, 255, 255), 1), ((255, 254, 255), 1 - .587/255)])
def test_colour_is_rec_601(tmp_path, colour, value):
    Image.new('RGB', (20, 20), colour).save(tmp_path/'x.png')
    assert np.allclose(read_image(tmp_path/'x.png'), value, atol=1e-6)


def test_cmyk_is_not_a_negative(tmp_path):
    Image.new('CMYK', (20, 20), (0, 0, 0, 55)).save(tmp_path/'x.tif')
    Image.new('CMYK', (32, 32), (0, 0, 0, 55)).save(tmp_path/'x.jpg', quality=95)
    assert np.allclose(read_image(tmp_path/'x.tif'), 200/255, atol=.005)
    assert np.allclose(read_image(tmp_path/'x.jpg'), 200/255, atol=.02)


def test_alpha_lies_on_black(tmp_path):
    values = picture()
    alpha = np.full_like(values, 255)
    alpha[:20], alpha[20:30] = 0, 51
    Image.merge('LA', (Image.fromarray(values), Image.fromarray(alpha))).save(tmp_path/'x.png')
    x = read_image(tmp_path/'x.png')
    assert not x[:20].any() and np.allclose(x[20:30], values[20:30]/255*.2, atol=1e-6)
    assert np.allclose(x[30:], values[30:]/255)
    Image.new('LA', (20, 20), (200, 0)).save(tmp_path/'nothing.png')
    assert 'transparent everywhere' in refusal(tmp_path/'nothing.png')


def test_one_grey_level_is_transparent(tmp_path):
    values = picture()
    Image.fromarray(values).save(tmp_path/'key.png', transparency=255)
    x = read_image(tmp_path/'key.png')
    assert x[0, 1] == 0 and np.isclose(x[5, 5], values[5, 5]/255)


def test_sixteen_bit_tiff_where_white_is_zero(tmp_path):
    values = sixteen(picture())
    Image.fromarray(values).save(tmp_path/'x.tif', tiffinfo={262: 0})
    assert np.allclose(read_image(tmp_path/'x.tif'), 1 - values/65535, atol=1e-6)


def chunk(kind, data):
    "A chunk of a PNG."
    length, check = struct.pack('>I', len(data)), struct.pack('>I', zlib.crc32(kind + data))
    return length + kind + data + check


def test_sixteen_bit_colour_keeps_all_of_its_bits(tmp_path):
    values = np.repeat((picture().astype(int)*16)[..., None], 3, 2).astype('>u2')
    rows = zlib.compress(b''.join(b'\0' + row.tobytes() for row in values))
    header = struct.pack('>IIBBBBB', 48, 60, 16, 2, 0, 0, 0)
    parts = chunk(b'IHDR', header), chunk(b'IDAT', rows), chunk(b'IEND', b'')
    (tmp_path/'x.png').write_bytes(b'\x89PNG\r\n\x1a\n' + b''.join(parts))
    assert np.allclose(read_image(tmp_path/'x.png'), values[..., 0]/65535, atol=1e-6)
    assert np.allclose(read_image(tmp_path/'x.png', bits=12), values[..., 0]/4095, atol=1e-6)


def test_frames_must_be_chosen(tmp_path):
    a, b = picture(seed=0), picture(seed=1)
    Image.fromarray(a).save(tmp_path/'x.tif', save_all=True, append_images=[Image.fromarray(b)])
    assert '2 frames' in refusal(tmp_path/'x.tif')
    assert np.allclose(read_image(tmp_path/'x.tif', frame=0), a/255)
    assert np.allclose(read_image(tmp_path/'x.tif', frame=1), b/255)
    assert 'no frame=2' in refusal(tmp_path/'x.tif', frame=2)
    write_dicom(tmp_path/'x.dcm', np.stack([a, b]), frames=2)
    assert '2 frames' in refusal(tmp_path/'x.dcm')
    assert np.allclose(read_image(tmp_path/'x.dcm', frame=1), b/255)


# ---- what is refused ----

@pytest.mark.parametrize('kind, options', [
    ('JPEG', {}), ('JPEG', dict(progressive=True)), ('PNG', {}), ('WEBP', {}), ('TIFF', {}),
    ('TIFF', dict(compression='tiff_lzw')), ('JPEG2000', {}),
    ('BMP', {}), ('GIF', {}), ('PPM', {})])
@pytest.mark.parametrize('share', [.05, .3, .6, .9])
@pytest.mark.filterwarnings('ignore::UserWarning')
def test_truncated_files_are_refused(tmp_path, kind, options, share):
    out = io.BytesIO()
    Image.fromarray(picture(200, 180)).save(out, kind, **options)
    whole = out.getvalue()
    (tmp_path/'x').write_bytes(whole[:int(share*len(whole))])
    assert 'damaged' in refusal(tmp_path/'x')


def test_lenient_pillow_is_not_trusted(tmp_path, monkeypatch):
    Image.fromarray(picture()).save(tmp_path/'x.jpg')
    monkeypatch.setattr(ImageFile, 'LOAD_TRUNCATED_IMAGES', True)
    with pytest.raises(RuntimeError, match='LOAD_TRUNCATED_IMAGES'): read_image(tmp_path/'x.jpg')


def test_other_refusals(tmp_path):
    (tmp_path/'empty.png').write_bytes(b'')
    (tmp_path/'text.jpg').write_text('not an image at all, but longer than a few bytes')
    Image.fromarray(picture(15, 200)).save(tmp_path/'thin.png')
    assert 'zero bytes' in refusal(tmp_path/'empty.png') and 'not an image' in refusal(tmp_path/'text.jpg')
    assert '15 x 200' in refusal(tmp_path/'thin.png')
    assert 'no such file' in refusal(tmp_path/'absent.png') and 'folder' in refusal(tmp_path)
    if os.geteuid():
        (tmp_path/'thin.png').chmod(0)
        assert 'not permitted' in refusal(tmp_path/'thin.png')


def test_floats_that_are_no_pixels(tmp_path):
    values = (picture()/255).astype(np.float32)
    values[3, 3], values[4, 4] = np.nan, np.inf
    Image.fromarray(values).save(tmp_path/'nan.tif')
    assert '2 of its pixels' in refusal(tmp_path/'nan.tif')
    Image.fromarray(picture().astype(np.float32)).save(tmp_path/'float.tif')
    assert 'bits=8' in refusal(tmp_path/'float.tif')
    assert np.allclose(read_image(tmp_path/'float.tif', bits=8), picture()/255)


def test_programs_are_not_run_for_a_picture(tmp_path):
    lines = [b'%!PS-Adobe-3.0 EPSF-3.0', b'%%BoundingBox: 0 0 100 100', b'%%EndComments', b'showpage', b'']
    (tmp_path/'x.eps').write_bytes(b'\n'.join(lines))
    assert 'not an image' in refusal(tmp_path/'x.eps')


def test_the_error_travels_between_processes():
    error = pickle.loads(pickle.dumps(UnreadableImage(Path('a.png'), 'why')))
    assert (error.path, error.reason, str(error)) == ('a.png', 'why', 'a.png: why') and isinstance(error, ValueError)


# ---- DICOM ----

FUNCTIONS = st.sampled_from(['LINEAR', 'LINEAR_EXACT', 'SIGMOID'])


@given(center=st.floats(-500, 5000), width=st.floats(1, 6000), form=FUNCTIONS)
@settings(max_examples=60)
def test_window_agrees_with_pydicom(center, width, form):
    pydicom = pytest.importorskip('pydicom')
    ds = pydicom.Dataset()
    ds.WindowCenter, ds.WindowWidth, ds.VOILUTFunction = round(center, 3), round(width, 3), form
    ds.PhotometricInterpretation, ds.BitsStored, ds.PixelRepresentation = 'MONOCHROME2', 12, 0
    values = np.arange(4096).reshape(64, 64)
    with np.errstate(over='ignore'): expected = pydicom.pixels.apply_windowing(values, ds)/4095
    assert np.allclose(apply_window(values, round(center, 3), round(width, 3), form), expected, atol=1e-9)


@pytest.mark.parametrize('photometric', ['MONOCHROME1', 'MONOCHROME2'])
def test_window_then_polarity(tmp_path, photometric):
    values = (picture().astype('<u2')*16)
    windows = dict(WindowCenter=[1000, 3000], WindowWidth=[500, 100])
    path = write_dicom(tmp_path/'x.dcm', values, photometric, stored=12, **windows)
    shown, declared = np.clip((values - 999.5)/499 + .5, 0, 1), values/4095
    if photometric == 'MONOCHROME1': shown, declared = 1 - shown, 1 - declared
    assert np.allclose(read_image(path), shown, atol=1e-6)
    assert np.allclose(read_image(path, window=False), declared, atol=1e-6)


@pytest.mark.parametrize('width, form', [(0, 'LINEAR'), (.5, 'LINEAR'), (0, 'SIGMOID'), (-3, 'LINEAR_EXACT')])
def test_impossible_windows_are_refused(tmp_path, width, form):
    path = write_dicom(tmp_path/'x.dcm', picture(), WindowCenter=100, WindowWidth=width, VOILUTFunction=form)
    assert 'window=False' in refusal(path)
    assert np.allclose(read_image(path, window=False), picture()/255)


def test_a_table_goes_before_the_window(tmp_path):
    values = picture().astype('<u2')*16
    curve = np.rint(255*np.sqrt(np.arange(4096)/4095)).astype(int)
    window = dict(WindowCenter=1, WindowWidth=1)
    path = write_dicom(tmp_path/'x.dcm', values, stored=12, VOILUTSequence=[table_item(curve)], **window)
    assert np.allclose(read_image(path), curve[values]/255, atol=1e-6)     # 8 bits of output do not fold 12 of input


def test_a_table_of_three_entries(tmp_path):
    values = picture().astype('<u2')*16
    item = table_item([10, 20, 30], first=100, depth=12)
    path = write_dicom(tmp_path/'x.dcm', values, stored=12, ModalityLUTSequence=[item])
    expected = np.array([10, 20, 30])[np.clip(values.astype(int) - 100, 0, 2)]/4095
    assert np.allclose(read_image(path), expected, atol=1e-6)


def test_tables_held_as_bytes():
    item = table_item([0, 1, 2, 3])
    item['LUTData'].VR, item['LUTData']._value = 'OW', np.array([0, 7, 300, 9], '<u2').tobytes()
    shown, *_ = apply_lut(np.array([[0, 1, 2, 3, 9]]), item)
    assert shown.tolist() == [[0, 7, 300, 9, 9]]
    item['LUTData']._value = bytes([5, 6, 7, 8])
    assert apply_lut(np.array([[0, 3]]), item)[0].tolist() == [[5, 8]]


def test_colour_dicom(tmp_path):
    values = picture()
    path = write_dicom(tmp_path/'rgb.dcm', np.repeat(values[..., None], 3, 2), 'RGB')
    assert np.allclose(read_image(path), values/255)
    white = np.full((20, 20, 3), 255, np.uint8)
    white[..., 1] = 254
    path = write_dicom(tmp_path/'white.dcm', white, 'RGB')
    assert np.allclose(read_image(path), 1 - .587/255, atol=1e-6)


def test_old_dicom_without_a_preamble(tmp_path):
    pydicom = pytest.importorskip('pydicom')
    ds = pydicom.dcmread(write_dicom(tmp_path/'x.dcm', picture()))
    del ds.file_meta, ds.preamble
    pydicom.dcmwrite(tmp_path/'bare', ds, implicit_vr=True, little_endian=True, enforce_file_format=False)
    assert (tmp_path/'bare').read_bytes()[:2] == b'\x08\0' and is_image_file(tmp_path/'bare')
    assert np.allclose(read_image(tmp_path/'bare'), picture()/255)


def test_dicom_without_pixels_or_cut_off(tmp_path):
    pydicom = pytest.importorskip('pydicom')
    ds = pydicom.dcmread(write_dicom(tmp_path/'x.dcm', picture()))
    del ds.PixelData
    ds.save_as(tmp_path/'report.dcm')
    whole = (tmp_path/'x.dcm').read_bytes()
    (tmp_path/'cut.dcm').write_bytes(whole[:1500])
    assert 'without an image' in refusal(tmp_path/'report.dcm') and 'damaged' in refusal(tmp_path/'cut.dcm')
    for end in (133, 200, 300):
        (tmp_path/'head.dcm').write_bytes(whole[:end])
        refusal(tmp_path/'head.dcm')


def test_missing_packages_are_named(tmp_path, monkeypatch):
    pydicom = pytest.importorskip('pydicom')
    path = write_dicom(tmp_path/'x.dcm', picture())
    with monkeypatch.context() as m:
        m.setitem(sys.modules, 'pydicom', None)
        assert 'pip install "cxr-workbench[dicom]"' in refusal(path)
    ds = pydicom.dcmread(path)
    ds.file_meta.TransferSyntaxUID = pydicom.uid.JPEG2000
    ds.PixelData = pydicom.encaps.encapsulate([b'\xff\x4f\xff\x51' + bytes(60)])
    ds.save_as(tmp_path/'j2k.dcm')
    decoder = type(pydicom.pixels.get_decoder(pydicom.uid.JPEG2000))
    monkeypatch.setattr(decoder, 'is_available', property(lambda self: False))
    reason = refusal(tmp_path/'j2k.dcm')
    assert 'JPEG 2000' in reason and 'cxr-workbench[dicom]' in reason


# ---- the real odd files ----

@pytest.fixture(scope='module')
def odd(cxr_data): return cxr_data/'odd_files'


EXPECTED = {  # file -> the largest error against its lossless grey form
    '00000003_003.jp2': 1e-6, '00000003_003.webp': 1e-6,
    '00000003_003_LA.png': 1e-6, '00000003_003_RGBA.png': 1e-6, '00000003_003_png_named_as.jpg': 1e-6,
    '00000003_003_CMYK.jpg': .07, '00000003_003_exif_orientation6.jpg': .07}
REFUSED = {'00000003_003_1x1.png': '1 x 1', '00000003_003_truncated.jpg': 'truncated'}
POLARITIES = {'rg1_16bit_monochrome1.png', 'rg1_16bit_monochrome2.png'}


def test_derived_formats_are_all_expected(odd):
    there = {path.name for path in find_images(odd/'derived_formats')}
    assert there == {*EXPECTED, *REFUSED, *POLARITIES, '00000003_003_L.png'}


@pytest.mark.parametrize('name', EXPECTED)
def test_forms_of_one_radiograph(odd, name):
    reference, x = (read_image(odd/'derived_formats'/each) for each in ('00000003_003_L.png', name))
    # the pixels of that file stand upright and its tag turns them clockwise: the tag is obeyed
    if 'orientation6' in name: x = np.rot90(x)
    assert x.shape == reference.shape == (512, 512)
    error = np.abs(x - reference)
    assert error.max() <= EXPECTED[name] and error.mean() <= EXPECTED[name]/10


@pytest.mark.parametrize('name', REFUSED)
def test_bad_radiographs(odd, name): assert REFUSED[name] in refusal(odd/'derived_formats'/name)


def halve(x):
    height, width = x.shape
    return np.asarray(Image.fromarray(x).resize((width//2, height//2), Image.Resampling.BOX))


@pytest.fixture(scope='module')
def fifteen_bits(odd):
    "A DICOM file of 15 bits and the two PNG files that were made of it."
    pytest.importorskip('openjpeg')
    folder = odd/'derived_formats'
    return odd/'dicom'/'RG1_J2KI.dcm', folder/'rg1_16bit_monochrome1.png', folder/'rg1_16bit_monochrome2.png'


def test_a_png_holds_the_stored_numbers_of_a_dicom(fifteen_bits):
    dicom, first, _ = fifteen_bits
    declared = read_image(dicom, window=False)
    assert declared.shape == (1955, 1841) and declared.min() >= 0 and declared.max() <= 1
    # averaged over about 2 x 2 and rounded to whole numbers: 15 bits, smallest is white
    assert np.abs(halve(declared) - read_image(first, bits=15, invert=True)).max() < 1.01/32767


def test_a_png_inverted_about_its_own_extremes(fifteen_bits):
    "It is the same picture only up to a shift."
    _, first, second = fifteen_bits
    stretched = read_image(first, stretch=True, invert=True) - read_image(second, stretch=True)
    assert np.abs(stretched).max() < 1e-6
    shift = read_image(first, bits=15, invert=True) - read_image(second, bits=15)
    assert np.ptp(shift) < 1e-6 and abs(shift.mean() - (32767 - 901 - 26453)/32767) < 1e-6


def test_the_window_of_a_dicom(fifteen_bits):
    "Centre 15000 and width 30000, over the stored numbers."
    dicom, _, _ = fifteen_bits
    declared, shown = read_image(dicom, window=False), read_image(dicom)
    stored = np.rint((1 - declared)*32767)
    assert np.abs(shown - (1 - np.clip((stored - 14999.5)/29999 + .5, 0, 1))).max() < 1e-4
    spine, air = shown[900:1100, 880:960], shown[:100, :60]
    assert spine.mean() > air.mean() + .1


@pytest.mark.parametrize('name, top', [('nih_test1.dcm', 252), ('nih_test2.dcm', 255), ('nih_test5.dcm', 252)])
def test_dicom_frames_of_nih(odd, name, top):      # the third calls itself CT
    x = read_image(odd/'dicom'/name)
    assert x.shape == (1024, 1024) and x.min() == 0 and np.isclose(x.max(), top/255)


def test_whole_folders_read(odd, cxr_data):
    for folder in (odd/'covid_cc', odd/'rotated90_512', cxr_data/'nih14'/'originals_1024'):
        for path in find_images(folder):
            x, plain = read_image(path), np.asarray(Image.open(path).convert('L'))
            assert x.dtype == np.float32 and min(x.shape) >= 500 and np.abs(x*255 - plain).max() <= 1, path
    assert len(find_images(odd/'covid_cc')) == 24 and len(find_images(odd/'rotated90_512')) == 8
    names = [path.name for path in find_images(odd/'dicom')]                          # not the licence
    assert names == ['RG1_J2KI.dcm', 'nih_test1.dcm', 'nih_test2.dcm', 'nih_test5.dcm']


def test_originals_are_grey_in_four_channels(cxr_data):
    for path in find_images(cxr_data/'nih14'/'originals_1024'):
        assert np.array_equal(np.rint(read_image(path)*255), np.asarray(Image.open(path))[..., 0])


# ---- finding ----

def test_find_images(tmp_path):
    images = ['b/x.PNG', 'a.jpeg', 'c/broken.png']
    others = ['.hidden.png', '.cache/x.png', '__MACOSX/x.jpg', 'table.csv', 'notes', 'DICOMDIR']
    for name in images + others:
        (tmp_path/name).parent.mkdir(exist_ok=True)
        (tmp_path/name).write_bytes(b'')
    Image.fromarray(picture()).save(tmp_path/'c'/'no_suffix', 'PNG')
    (tmp_path/'c'/'back').symlink_to(tmp_path, target_is_directory=True)       # a circle
    found = [path.relative_to(tmp_path).as_posix() for path in find_images(tmp_path)]
    assert found == ['a.jpeg', 'b/x.PNG', 'c/broken.png', 'c/no_suffix']


def test_folders_without_images(tmp_path):
    with pytest.raises(FileNotFoundError, match='no image file'): find_images(tmp_path)
    with pytest.raises(NotADirectoryError, match='no folder'): find_images(tmp_path/'absent')


# ---- one size ----

SIDES = st.integers(16, 90)


@given(height=SIDES, width=SIDES, size=st.integers(1, 96), fit=st.sampled_from(['pad', 'stretch', 'crop']))
@settings(max_examples=60)
def test_fit_stays_in_range(height, width, size, fit):
    x = picture(height, width)/np.float32(255)
    out, white = fit_image(x, size, fit), fit_image(np.ones_like(x), size, fit)
    assert out.shape == (size, size) and out.dtype == np.float32 and out.max() <= x.max() and out.min() >= 0
    assert np.allclose(white.max(), 1)
    if fit != 'pad':
        assert white.min() > .999
        return
    inside, longer = white > 0, max(height, width)
    h, w = (max(1, round(size*side/longer)) for side in (height, width))
    assert inside.sum() == h*w and not out[~inside].any()


def test_stretch_is_torchs_antialiased_bilinear():
    torch = pytest.importorskip('torch')
    x = picture(97, 61)/np.float32(255)
    batch = torch.from_numpy(x)[None, None]
    right = torch.nn.functional.interpolate(batch, (24, 24), mode='bilinear', antialias=True)[0, 0].numpy()
    assert np.abs(fit_image(x, 24, 'stretch') - right).max() < 1e-5


@given(height=SIDES, width=SIDES, size=st.integers(1, 96), fit=st.sampled_from(['pad', 'stretch', 'crop']))
@settings(max_examples=60)
def test_fit_is_pillows_resize(height, width, size, fit):
    x = picture(height, width)/np.float32(255)
    whole, side = Image.fromarray(x), min(height, width)
    top, left = ((height - side)/2, (width - side)/2) if fit == 'crop' else (0, 0)
    box = left, top, width - left, height - top
    shape = [max(1, round(size*each/max(height, width))) if fit == 'pad' else size for each in (height, width)]
    right = np.asarray(whole.resize(shape[::-1], Image.Resampling.BILINEAR, box=box))
    assert np.abs(reading.resize_to_fit(x, size, fit) - right).max() < 1e-6


NUMBERS = [
    ('u1', 0, 255), ('u2', 0, 4095), ('i2', -1024, 3071),
    ('f8', 0, 1), ('u2', 60000, 60255), ('i8', 2**33, 2**33 + 9999)]


@pytest.mark.parametrize('kind, low, high', NUMBERS)
@pytest.mark.parametrize('fit', ['pad', 'stretch', 'crop'])
@pytest.mark.parametrize('invert', [False, True])
def test_scaling_after_the_resize_changes_nothing(kind, low, high, fit, invert):
    shares = picture(70, 46)/255
    values = (low + np.rint(shares*(high - low)) if kind != 'f8' else shares).astype(kind)
    x = to_unit(values, low, high)
    right = fit_image(1 - x if invert else x, 32, fit)
    assert np.abs(reading.fit_stored(values, low, high, 32, fit, invert) - right).max() < 2e-6


def test_a_colour_file_without_colour_is_read_as_grey(tmp_path):
    grey, opaque = Image.fromarray(picture(40, 48)), Image.new('L', (48, 40), 255)
    for name, channels in dict(RGB=[grey]*3, RGBA=[grey]*3 + [opaque]).items():
        Image.merge(name, channels).save(tmp_path/f'{name}.png')
        assert np.array_equal(read_image(tmp_path/f'{name}.png'), picture(40, 48)/np.float32(255))
    faint = Image.fromarray(np.full((40, 48), 254, np.uint8))
    Image.merge('RGBA', [grey]*3 + [faint]).save(tmp_path/'faint.png')
    assert np.abs(read_image(tmp_path/'faint.png') - picture(40, 48)*(254/255/255)).max() < 1e-6


def test_unknown_fit():
    with pytest.raises(ValueError, match="'pad', 'stretch' or 'crop'"): fit_image(np.zeros((20, 20)), 8, 'squeeze')


# ---- a reading ----

def test_a_reading_is_a_value():
    reading = Reading(np.int64(32), 'crop', bits=np.int32(12), window=np.bool_(False))
    same = Reading(32, 'crop', 12, window=False)
    assert Reading.from_dict(json.loads(json.dumps(reading.to_dict()))) == reading == same
    assert reading.differences(reading) == '' and hash(reading) == hash(same)
    with pytest.raises(Exception, match='assign'): reading.size = 64
    with pytest.raises(ValueError, match='newer version'): Reading.from_dict({'size': 32, 'gamma': 2})


@pytest.mark.parametrize('words', [
    "fit 'crop' against 'pad'", 'bits 12 against None', 'window False against True', 'frame None against 1'])
def test_differences_of_two_readings(words):
    assert words in Reading(32, 'crop', bits=12, window=False).differences(Reading(32, frame=1))


@pytest.mark.parametrize('wrong', [
    dict(size=0), dict(size=32.), dict(fit='squeeze'), dict(bits=0), dict(bits=True),
    dict(frame=-1), dict(stretch='no'), dict(invert=1), dict(window=None)], ids=str)
def test_settings_that_cannot_be(wrong):
    with pytest.raises(ValueError): Reading(**wrong)


@pytest.fixture
def three(tmp_path):
    "Three image files as a source."
    for i in range(3): Image.fromarray(picture(seed=i)).save(tmp_path/f'{i}.png')
    return FileImages([tmp_path/f'{i}.png' for i in range(3)], Reading(16, invert=True))


def test_files_as_a_source_of_images(three):
    assert len(three) == 3 and three.size == 16 and three.reading == Reading(16, invert=True)
    assert three[np.array([2, 0])].shape == (2, 16, 16) and three[1].shape == (16, 16)
    assert three[np.array([], int)].shape == (0, 16, 16)
    alone = fit_image(read_image(three.paths[2], invert=True), 16)
    assert np.abs(three[[2]][0] - alone).max() < 1e-6
    assert np.array_equal(pickle.loads(pickle.dumps(three))[1], three[1])


def test_a_source_without_a_file(three):
    with pytest.raises(IndexError): three[3]
    Path(three.paths[1]).unlink()
    with pytest.raises(UnreadableImage, match='1.png'): three[:]
