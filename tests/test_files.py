"Reading, finding and packing image files: every odd format, the real odd files, kills and full disks."
import io, os, pickle, signal, subprocess, sys, time
from pathlib import Path
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st
from PIL import Image, ImageFile
from cxr_workbench import files
from cxr_workbench.dicom import apply_table, apply_window
from cxr_workbench.files import (PackedImages, Reading, UnreadableImage, find_images, fit_image, is_image_file, pack,
                                 read_image)
from cxr_workbench.pictures import Refusal, to_unit


def picture(height=60, width=48, seed=0):
    "Smooth structure with some noise, (height, width) uint8, from 0 to 255."
    y, x = np.mgrid[:height, :width]
    smooth = 120 + 70*np.sin(x/9) + 50*np.cos(y/7) + np.random.default_rng(seed).normal(0, 3, (height, width))
    a = smooth.clip(0, 255).astype(np.uint8)
    a[0, 0], a[0, 1] = 0, 255
    return a


def write_dicom(path, values, photometric='MONOCHROME2', stored=None, syntax=None, **tags):
    pydicom = pytest.importorskip('pydicom')
    ds = pydicom.Dataset()
    ds.file_meta = pydicom.dataset.FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = syntax or pydicom.uid.ExplicitVRLittleEndian
    ds.SOPClassUID, ds.SOPInstanceUID = '1.2.840.10008.5.1.4.1.1.1.1', '1.2.3'
    frames = tags.pop('frames', None)
    shape = values.shape[1:] if frames else values.shape
    ds.Rows, ds.Columns, ds.SamplesPerPixel = shape[0], shape[1], shape[2] if len(shape) == 3 else 1
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
    from pydicom import Dataset
    item = Dataset()
    item.add_new('LUTDescriptor', 'US', [len(entries)%65536, first, depth])
    item.add_new('LUTData', 'US', [int(v) for v in entries])
    return item


def refusal(path, **kw):
    with pytest.raises(UnreadableImage) as caught: read_image(path, **kw)
    assert str(path) in str(caught.value) and caught.value.path == str(path)
    return caught.value.reason


# depth

@given(bits=st.integers(1, 16), seed=st.integers(0, 2**16))
@settings(max_examples=40)
def test_bits_round_trip(bits, seed):
    top = 2**bits - 1
    values = np.random.default_rng(seed).integers(0, top + 1, (16, 16)).astype(np.uint16)
    x = to_unit(values, 0, top)
    assert x.dtype == np.float32 and x.min() >= 0 and x.max() <= 1
    assert np.array_equal(np.rint(x*np.float32(top)).astype(np.uint16), values)


@given(bits=st.integers(9, 16), kind=st.sampled_from(['PNG', 'TIFF', 'JPEG2000']), seed=st.integers(0, 99))
@settings(max_examples=30)
def test_bits_round_trip_through_files(tmp_path_factory, bits, kind, seed):
    values = np.random.default_rng(seed).integers(0, 2**bits, (20, 17)).astype(np.uint16)
    path = tmp_path_factory.mktemp('bits')/'image'
    Image.fromarray(values).save(path, kind)
    assert np.array_equal(np.rint(read_image(path, bits=bits)*(2**bits - 1)).astype(np.uint16), values)
    assert np.allclose(read_image(path), values/65535, atol=1e-7)


@given(bits=st.integers(2, 16), signed=st.booleans(), slope=st.sampled_from([1., 2., .5, -1.]), intercept=st.sampled_from([0., -1024., 7.5]), seed=st.integers(0, 99))
@settings(max_examples=40)
def test_dicom_declared_range(tmp_path_factory, bits, signed, slope, intercept, seed):
    low = -2**(bits - 1) if signed else 0
    values = np.random.default_rng(seed).integers(low, low + 2**bits, (16, 18))
    values[0, :2] = low, low + 2**bits - 1
    path = write_dicom(tmp_path_factory.mktemp('dicom')/'x', values.astype('<i2' if signed else '<u2'), stored=bits, RescaleSlope=slope, RescaleIntercept=intercept)
    expected = (values - low)/(2**bits - 1)
    assert np.allclose(read_image(path), expected if slope > 0 else 1 - expected, atol=2e-5)


def test_twelve_bit_jpeg2000_uses_its_own_depth(tmp_path):
    openjpeg = pytest.importorskip('openjpeg')
    values = np.random.default_rng(0).integers(0, 4096, (80, 96)).astype(np.uint16)
    (tmp_path/'x.j2k').write_bytes(openjpeg.encode(values, bits_stored=12, photometric_interpretation=2))
    assert np.allclose(read_image(tmp_path/'x.j2k'), values/4095, atol=1e-6)
    assert np.allclose(read_image(tmp_path/'x.j2k', bits=13), values/8191, atol=1e-6)


def test_stretch_and_invert(tmp_path):
    values = (picture().astype(np.uint16) + 100)*4
    Image.fromarray(values).save(tmp_path/'x.png')
    x, stretched, turned = read_image(tmp_path/'x.png'), read_image(tmp_path/'x.png', stretch=True), read_image(tmp_path/'x.png', invert=True)
    assert x.max() < .03 and stretched.min() == 0 and stretched.max() == 1
    assert np.allclose(stretched, (values - 400)/1020, atol=1e-6) and np.allclose(x + turned, 1)


def test_values_beyond_the_declared_bits_are_refused(tmp_path):
    Image.fromarray(np.full((20, 20), 5000, np.uint16)).save(tmp_path/'x.png')
    assert 'bits=13' in refusal(tmp_path/'x.png', bits=12)
    assert np.allclose(read_image(tmp_path/'x.png', bits=13), 5000/8191)
    assert 'nothing to stretch' in refusal(tmp_path/'x.png', stretch=True)


@pytest.mark.parametrize('bits', [0, 33, 12., '12', -1])
def test_bits_must_be_a_number_of_bits(tmp_path, bits):
    Image.fromarray(picture()).save(tmp_path/'x.png')
    with pytest.raises(ValueError, match='how many bits'): read_image(tmp_path/'x.png', bits=bits)


# forms of a picture

def save_as(form, a, path):
    im, full = Image.fromarray(a), Image.new('L', a.shape[::-1], 255)
    exif = Image.Exif(); exif[274] = 8
    {'L': lambda: im.save(path, 'PNG'), 'LA': lambda: Image.merge('LA', (im, full)).save(path, 'PNG'),
     'RGB': lambda: im.convert('RGB').save(path, 'PNG'), 'RGBA': lambda: Image.merge('RGBA', (im, im, im, full)).save(path, 'PNG'),
     'palette': lambda: im.convert('P').save(path, 'PNG'),
     '16': lambda: Image.fromarray(a.astype(np.uint16)*257).save(path, 'PNG'), 'tif16': lambda: Image.fromarray(a.astype(np.uint16)*257).save(path, 'TIFF'),
     'tif': lambda: im.save(path, 'TIFF', compression='tiff_lzw'), 'float': lambda: Image.fromarray((a/255).astype(np.float32)).save(path, 'TIFF'),
     'pgm16': lambda: Image.fromarray(a.astype(np.uint16)*257).save(path, 'PPM'), 'gif': lambda: im.save(path, 'GIF'), 'bmp': lambda: im.save(path, 'BMP'),
     'webp': lambda: im.save(path, 'WEBP', lossless=True), 'jp2': lambda: im.save(path, 'JPEG2000'), 'exif': lambda: im.transpose(Image.Transpose.ROTATE_270).save(path, 'PNG', exif=exif),
     'exif16': lambda: Image.fromarray(a.astype(np.uint16)*257).transpose(Image.Transpose.ROTATE_270).save(path, 'PNG', exif=exif),
     'exif_tif': lambda: im.transpose(Image.Transpose.ROTATE_270).save(path, 'TIFF', exif=exif),
     'exif_lzw': lambda: im.transpose(Image.Transpose.ROTATE_270).save(path, 'TIFF', exif=exif, compression='tiff_lzw')}[form]()


@pytest.mark.parametrize('form', ['L', 'LA', 'RGB', 'RGBA', 'palette', '16', 'tif16', 'tif', 'float', 'pgm16', 'gif', 'bmp', 'webp', 'jp2', 'exif', 'exif16', 'exif_tif', 'exif_lzw'])
def test_lossless_forms_agree(tmp_path, form):
    a = picture()
    save_as(form, a, tmp_path/'wrong_suffix.dcm')     # the content decides
    x = read_image(tmp_path/'wrong_suffix.dcm')
    assert x.dtype == np.float32 and x.shape == a.shape
    assert np.allclose(x, a/255, atol=1e-6)


def test_one_bit_and_few_bit_pictures(tmp_path):
    Image.fromarray(picture() > 120).save(tmp_path/'one.png')
    assert set(np.unique(read_image(tmp_path/'one.png'))) == {0., 1.}
    Image.fromarray(picture() > 120).save(tmp_path/'one.tif')
    assert np.array_equal(read_image(tmp_path/'one.tif'), read_image(tmp_path/'one.png'))


def test_colour_is_rec_601_and_cmyk_is_not_a_negative(tmp_path):
    for i, (colour, value) in enumerate({(255, 0, 0): .299, (0, 255, 0): .587, (0, 0, 255): .114, (255, 255, 255): 1, (255, 254, 255): 1 - .587/255}.items()):
        Image.new('RGB', (20, 20), colour).save(tmp_path/f'{i}.png')
        assert np.allclose(read_image(tmp_path/f'{i}.png'), value, atol=1e-6)
    Image.new('CMYK', (20, 20), (0, 0, 0, 55)).save(tmp_path/'x.tif')
    Image.new('CMYK', (32, 32), (0, 0, 0, 55)).save(tmp_path/'x.jpg', quality=95)
    assert np.allclose(read_image(tmp_path/'x.tif'), 200/255, atol=.005) and np.allclose(read_image(tmp_path/'x.jpg'), 200/255, atol=.02)


def test_alpha_lies_on_black(tmp_path):
    a = picture()
    alpha = np.full_like(a, 255); alpha[:20] = 0; alpha[20:30] = 51
    Image.merge('LA', (Image.fromarray(a), Image.fromarray(alpha))).save(tmp_path/'x.png')
    x = read_image(tmp_path/'x.png')
    assert not x[:20].any() and np.allclose(x[20:30], a[20:30]/255*.2, atol=1e-6) and np.allclose(x[30:], a[30:]/255)
    Image.fromarray(a).save(tmp_path/'key.png', transparency=255)       # one grey level is transparent
    assert read_image(tmp_path/'key.png')[0, 1] == 0 and np.isclose(read_image(tmp_path/'key.png')[5, 5], a[5, 5]/255)
    Image.new('LA', (20, 20), (200, 0)).save(tmp_path/'nothing.png')
    assert 'transparent everywhere' in refusal(tmp_path/'nothing.png')


def test_sixteen_bit_tiff_where_white_is_zero(tmp_path):
    values = picture().astype(np.uint16)*257
    Image.fromarray(values).save(tmp_path/'x.tif', tiffinfo={262: 0})
    assert np.allclose(read_image(tmp_path/'x.tif'), 1 - values/65535, atol=1e-6)


def test_sixteen_bit_colour_keeps_all_of_its_bits(tmp_path):
    import struct, zlib
    def chunk(kind, data): return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))
    values = np.repeat((picture().astype(int)*16)[..., None], 3, 2).astype('>u2')
    raw = b''.join(b'\0' + row.tobytes() for row in values)
    (tmp_path/'x.png').write_bytes(b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', struct.pack('>IIBBBBB', 48, 60, 16, 2, 0, 0, 0)) + chunk(b'IDAT', zlib.compress(raw)) + chunk(b'IEND', b''))
    assert np.allclose(read_image(tmp_path/'x.png'), values[..., 0]/65535, atol=1e-6)
    assert np.allclose(read_image(tmp_path/'x.png', bits=12), values[..., 0]/4095, atol=1e-6)


def test_frames_must_be_chosen(tmp_path):
    a, b = picture(seed=0), picture(seed=1)
    Image.fromarray(a).save(tmp_path/'x.tif', save_all=True, append_images=[Image.fromarray(b)])
    assert '2 frames' in refusal(tmp_path/'x.tif')
    assert np.allclose(read_image(tmp_path/'x.tif', frame=1), b/255) and np.allclose(read_image(tmp_path/'x.tif', frame=0), a/255)
    assert 'no frame=2' in refusal(tmp_path/'x.tif', frame=2)
    write_dicom(tmp_path/'x.dcm', np.stack([a, b]), frames=2)
    assert '2 frames' in refusal(tmp_path/'x.dcm')
    assert np.allclose(read_image(tmp_path/'x.dcm', frame=1), b/255)


# what is refused

@pytest.mark.parametrize('kind, options', [('JPEG', {}), ('JPEG', dict(progressive=True)), ('PNG', {}), ('WEBP', {}), ('TIFF', {}), ('TIFF', dict(compression='tiff_lzw')),
                                           ('JPEG2000', {}), ('BMP', {}), ('GIF', {}), ('PPM', {})])
@pytest.mark.parametrize('share', [.05, .3, .6, .9])
@pytest.mark.filterwarnings('ignore::UserWarning')
def test_truncated_files_are_refused(tmp_path, kind, options, share):
    out = io.BytesIO()
    Image.fromarray(picture(200, 180)).save(out, kind, **options)
    (tmp_path/'x').write_bytes(out.getvalue()[:int(share*len(out.getvalue()))])
    assert 'damaged' in refusal(tmp_path/'x')


def test_lenient_pillow_is_not_trusted(tmp_path, monkeypatch):
    Image.fromarray(picture()).save(tmp_path/'x.jpg')
    monkeypatch.setattr(ImageFile, 'LOAD_TRUNCATED_IMAGES', True)
    with pytest.raises(RuntimeError, match='LOAD_TRUNCATED_IMAGES'): read_image(tmp_path/'x.jpg')


def test_other_refusals(tmp_path):
    (tmp_path/'empty.png').write_bytes(b'')
    (tmp_path/'text.jpg').write_text('not an image at all, but longer than a few bytes')
    Image.fromarray(picture(15, 200)).save(tmp_path/'thin.png')
    nan = (picture()/255).astype(np.float32); nan[3, 3], nan[4, 4] = np.nan, np.inf
    Image.fromarray(nan).save(tmp_path/'nan.tif')
    Image.fromarray(picture().astype(np.float32)).save(tmp_path/'float.tif')
    assert 'zero bytes' in refusal(tmp_path/'empty.png') and 'not an image' in refusal(tmp_path/'text.jpg')
    assert '15 x 200' in refusal(tmp_path/'thin.png') and '2 of its pixels' in refusal(tmp_path/'nan.tif')
    assert 'no such file' in refusal(tmp_path/'absent.png') and 'folder' in refusal(tmp_path)
    assert 'bits=8' in refusal(tmp_path/'float.tif')
    assert np.allclose(read_image(tmp_path/'float.tif', bits=8), picture()/255)
    if os.geteuid():
        (tmp_path/'thin.png').chmod(0)
        assert 'not permitted' in refusal(tmp_path/'thin.png')


def test_programs_are_not_run_for_a_picture(tmp_path):
    (tmp_path/'x.eps').write_bytes(b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\n%%EndComments\nshowpage\n')
    assert 'not an image' in refusal(tmp_path/'x.eps')


def test_the_error_travels_between_processes():
    error = pickle.loads(pickle.dumps(UnreadableImage(Path('a.png'), 'why')))
    assert (error.path, error.reason, str(error)) == ('a.png', 'why', 'a.png: why') and isinstance(error, ValueError)


# DICOM

@given(center=st.floats(-500, 5000), width=st.floats(1, 6000), form=st.sampled_from(['LINEAR', 'LINEAR_EXACT', 'SIGMOID']))
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
    path = write_dicom(tmp_path/'x.dcm', values, photometric, stored=12, WindowCenter=[1000, 3000], WindowWidth=[500, 100])
    shown = np.clip((values - 999.5)/499 + .5, 0, 1)
    expected, declared = (1 - shown, 1 - values/4095) if photometric == 'MONOCHROME1' else (shown, values/4095)
    assert np.allclose(read_image(path), expected, atol=1e-6)
    assert np.allclose(read_image(path, window=False), declared, atol=1e-6)


@pytest.mark.parametrize('width, form', [(0, 'LINEAR'), (.5, 'LINEAR'), (0, 'SIGMOID'), (-3, 'LINEAR_EXACT')])
def test_impossible_windows_are_refused(tmp_path, width, form):
    path = write_dicom(tmp_path/'x.dcm', picture(), WindowCenter=100, WindowWidth=width, VOILUTFunction=form)
    assert 'window=False' in refusal(path)
    assert np.allclose(read_image(path, window=False), picture()/255)


def test_tables(tmp_path):
    values = picture().astype('<u2')*16
    curve = np.rint(255*np.sqrt(np.arange(4096)/4095)).astype(int)
    path = write_dicom(tmp_path/'voi.dcm', values, stored=12, VOILUTSequence=[table_item(curve)], WindowCenter=1, WindowWidth=1)
    assert np.allclose(read_image(path), curve[values]/255, atol=1e-6)                # the table goes before the window, and 8 bits of output do not fold 12 of input
    short = table_item([10, 20, 30], first=100, depth=12)
    expected = np.array([10, 20, 30])[np.clip(values.astype(int) - 100, 0, 2)]/4095
    assert np.allclose(read_image(write_dicom(tmp_path/'mod.dcm', values, stored=12, ModalityLUTSequence=[short])), expected, atol=1e-6)


def test_tables_held_as_bytes():
    item = table_item([0, 1, 2, 3])
    item['LUTData'].VR, item['LUTData']._value = 'OW', np.array([0, 7, 300, 9], '<u2').tobytes()
    assert apply_table(np.array([[0, 1, 2, 3, 9]]), item)[0].tolist() == [[0, 7, 300, 9, 9]]
    item['LUTData']._value = bytes([5, 6, 7, 8])
    assert apply_table(np.array([[0, 3]]), item)[0].tolist() == [[5, 8]]


def test_colour_and_old_dicom(tmp_path):
    pydicom = pytest.importorskip('pydicom')
    a = picture()
    assert np.allclose(read_image(write_dicom(tmp_path/'rgb.dcm', np.repeat(a[..., None], 3, 2), 'RGB')), a/255)
    white = np.full((20, 20, 3), 255, np.uint8); white[..., 1] = 254
    assert np.allclose(read_image(write_dicom(tmp_path/'white.dcm', white, 'RGB')), 1 - .587/255, atol=1e-6)
    ds = pydicom.dcmread(write_dicom(tmp_path/'x.dcm', a))
    del ds.file_meta, ds.preamble
    pydicom.dcmwrite(tmp_path/'bare', ds, implicit_vr=True, little_endian=True, enforce_file_format=False)
    assert (tmp_path/'bare').read_bytes()[:2] == b'\x08\0' and is_image_file(tmp_path/'bare')
    assert np.allclose(read_image(tmp_path/'bare'), a/255)


def test_dicom_without_pixels_or_cut_off(tmp_path):
    pydicom = pytest.importorskip('pydicom')
    ds = pydicom.dcmread(write_dicom(tmp_path/'x.dcm', picture()))
    del ds.PixelData
    ds.save_as(tmp_path/'report.dcm')
    (tmp_path/'cut.dcm').write_bytes((tmp_path/'x.dcm').read_bytes()[:1500])
    assert 'without an image' in refusal(tmp_path/'report.dcm') and 'damaged' in refusal(tmp_path/'cut.dcm')
    for end in (133, 200, 300):
        (tmp_path/'head.dcm').write_bytes((tmp_path/'x.dcm').read_bytes()[:end])
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
    monkeypatch.setattr(type(pydicom.pixels.get_decoder(pydicom.uid.JPEG2000)), 'is_available', property(lambda self: False))
    assert 'JPEG 2000' in refusal(tmp_path/'j2k.dcm') and 'cxr-workbench[dicom]' in refusal(tmp_path/'j2k.dcm')


# the real odd files

@pytest.fixture(scope='module')
def odd(cxr_data): return cxr_data/'odd_files'


EXPECTED = {'00000003_003.jp2': 1e-6, '00000003_003.webp': 1e-6, '00000003_003_LA.png': 1e-6, '00000003_003_RGBA.png': 1e-6, '00000003_003_png_named_as.jpg': 1e-6,
            '00000003_003_CMYK.jpg': .07, '00000003_003_exif_orientation6.jpg': .07}
REFUSED = {'00000003_003_1x1.png': '1 x 1', '00000003_003_truncated.jpg': 'truncated'}
POLARITIES = {'rg1_16bit_monochrome1.png', 'rg1_16bit_monochrome2.png'}


def test_derived_formats_are_all_expected(odd):
    assert {p.name for p in find_images(odd/'derived_formats')} == {*EXPECTED, *REFUSED, *POLARITIES, '00000003_003_L.png'}


@pytest.mark.parametrize('name', EXPECTED)
def test_forms_of_one_radiograph(odd, name):
    reference, x = read_image(odd/'derived_formats'/'00000003_003_L.png'), read_image(odd/'derived_formats'/name)
    if 'orientation6' in name: x = np.rot90(x)     # the pixels of that file stand upright and its tag turns them clockwise: the tag is obeyed
    assert x.shape == reference.shape == (512, 512)
    assert np.abs(x - reference).max() <= EXPECTED[name] and np.abs(x - reference).mean() <= EXPECTED[name]/10


@pytest.mark.parametrize('name', REFUSED)
def test_bad_radiographs(odd, name): assert REFUSED[name] in refusal(odd/'derived_formats'/name)


def halve(x): return np.asarray(Image.fromarray(x).resize((x.shape[1]//2, x.shape[0]//2), Image.Resampling.BOX))


def test_the_15_bit_dicom_and_its_png_files(odd):
    pytest.importorskip('openjpeg')
    dicom, first, second = odd/'dicom'/'RG1_J2KI.dcm', odd/'derived_formats'/'rg1_16bit_monochrome1.png', odd/'derived_formats'/'rg1_16bit_monochrome2.png'
    declared, shown = read_image(dicom, window=False), read_image(dicom)
    assert declared.shape == (1955, 1841) and declared.min() >= 0 and declared.max() <= 1
    # the first PNG holds the stored numbers as they are, averaged over about 2 x 2 and rounded to whole ones: 15 bits, smallest is white
    assert np.abs(halve(declared) - read_image(first, bits=15, invert=True)).max() < 1.01/32767
    # the second is that file turned about its own extremes, so it is the same picture only up to a shift
    assert np.abs(read_image(first, stretch=True, invert=True) - read_image(second, stretch=True)).max() < 1e-6
    shift = read_image(first, bits=15, invert=True) - read_image(second, bits=15)
    assert np.ptp(shift) < 1e-6 and abs(shift.mean() - (32767 - 901 - 26453)/32767) < 1e-6
    # the window of the file, centre 15000 and width 30000, over the stored numbers
    stored = np.rint((1 - declared)*32767)
    assert np.abs(shown - (1 - np.clip((stored - 14999.5)/29999 + .5, 0, 1))).max() < 1e-4
    # air is dark: the corner outside the body is darker than the spine
    assert shown[900:1100, 880:960].mean() > shown[:100, :60].mean() + .1


def test_dicom_frames_of_nih(odd):
    for name, top in [('nih_test1.dcm', 252), ('nih_test2.dcm', 255), ('nih_test5.dcm', 252)]:       # the third calls itself CT
        x = read_image(odd/'dicom'/name)
        assert x.shape == (1024, 1024) and x.min() == 0 and np.isclose(x.max(), top/255)


def test_whole_folders_read(odd, cxr_data):
    for folder in (odd/'covid_cc', odd/'rotated90_512', cxr_data/'nih14'/'originals_1024'):
        for path in find_images(folder):
            x = read_image(path)
            assert x.dtype == np.float32 and min(x.shape) >= 500 and np.abs(x*255 - np.asarray(Image.open(path).convert('L'))).max() <= 1, path
    assert len(find_images(odd/'covid_cc')) == 24 and len(find_images(odd/'rotated90_512')) == 8
    assert [p.name for p in find_images(odd/'dicom')] == ['RG1_J2KI.dcm', 'nih_test1.dcm', 'nih_test2.dcm', 'nih_test5.dcm']       # not the licence


def test_originals_are_grey_in_four_channels(cxr_data):
    for path in find_images(cxr_data/'nih14'/'originals_1024'):
        assert np.array_equal(np.rint(read_image(path)*255), np.asarray(Image.open(path))[..., 0])


# finding

def test_find_images(tmp_path):
    for name in ('b/x.PNG', 'a.jpeg', '.hidden.png', '.cache/x.png', '__MACOSX/x.jpg', 'table.csv', 'notes', 'c/broken.png', 'DICOMDIR'):
        (tmp_path/name).parent.mkdir(exist_ok=True)
        (tmp_path/name).write_bytes(b'')
    Image.fromarray(picture()).save(tmp_path/'c'/'no_suffix', 'PNG')
    (tmp_path/'c'/'back').symlink_to(tmp_path, target_is_directory=True)       # a circle
    assert [p.relative_to(tmp_path).as_posix() for p in find_images(tmp_path)] == ['a.jpeg', 'b/x.PNG', 'c/broken.png', 'c/no_suffix']
    (tmp_path/'empty').mkdir()
    with pytest.raises(FileNotFoundError, match='no image file'): find_images(tmp_path/'empty')
    with pytest.raises(NotADirectoryError, match='no folder'): find_images(tmp_path/'absent')


# one size

@given(height=st.integers(16, 90), width=st.integers(16, 90), size=st.integers(1, 96), fit=st.sampled_from(['pad', 'stretch', 'crop']))
@settings(max_examples=60)
def test_fit_stays_in_range(height, width, size, fit):
    x = picture(height, width)/np.float32(255)
    out = fit_image(x, size, fit)
    assert out.shape == (size, size) and out.dtype == np.float32 and out.max() <= x.max() and out.min() >= 0
    assert np.allclose(fit_image(np.ones_like(x), size, fit).max(), 1)
    if fit == 'pad':
        inside = fit_image(np.ones_like(x), size, fit) > 0
        h, w = max(1, round(size*height/max(height, width))), max(1, round(size*width/max(height, width)))
        assert inside.sum() == h*w and not out[~inside].any()
    else: assert fit_image(np.ones_like(x), size, fit).min() > .999


def test_stretch_is_torchs_antialiased_bilinear():
    torch = pytest.importorskip('torch')
    x = picture(97, 61)/np.float32(255)
    there = torch.nn.functional.interpolate(torch.from_numpy(x)[None, None], (24, 24), mode='bilinear', antialias=True)[0, 0].numpy()
    assert np.abs(fit_image(x, 24, 'stretch') - there).max() < 1e-5


def test_unknown_fit():
    with pytest.raises(ValueError, match="'pad', 'stretch' or 'crop'"): fit_image(np.zeros((20, 20)), 8, 'squeeze')


# packing

@pytest.fixture(scope='module')
def table(tmp_path_factory):
    "A CSV file of 330 small images, some of them tall, with ten that cannot be read and one blank; the folder is beside it."
    folder = tmp_path_factory.mktemp('images')
    names = [f'{i:03d}.png' for i in range(319)]
    for i, name in enumerate(names): Image.fromarray(picture(40 + i%3*8, 40, seed=i)).save(folder/name, compress_level=1)
    for i in range(10): (folder/f'bad{i}.png').write_bytes(b'\x89PNG' + bytes(i*10)); names.insert(31*i + 5, f'bad{i}.png')
    names.insert(200, None)
    pd.DataFrame({'path': names, 'Edema': range(330)}).to_csv(folder/'table.csv', index=False)
    return folder/'table.csv'


def contents(folder): return {p.name: p.read_bytes() for p in sorted(Path(folder).iterdir())}


def test_ten_bad_files_among_hundreds(table, tmp_path):
    packed = pack(table, tmp_path/'p', 16, shard=100, workers=0)
    frame = pd.read_csv(table)
    assert len(packed) == 319 and len(packed.failed) == 11 and packed.size == 16
    assert set(packed.failed.path) == {f'bad{i}.png' for i in range(10)} | {''} and packed.failed.reason.str.len().min() > 10
    assert sorted([*packed.rows, *packed.failed.row]) == list(range(330))
    assert frame.path[packed.rows].tolist() == packed.paths
    assert set(contents(tmp_path/'p')) == {'pack.json', 'index.csv', 'failed.csv', *(f'shard_{k:05d}.npy' for k in range(4))}
    for i in (0, 150, 318):
        image = np.asarray(Image.open(table.parent/packed.paths[i]))
        assert np.array_equal(packed[i], np.rint(fit_image(image/np.float32(255), 16)*255).astype(np.uint8))
        assert tuple(packed.index.loc[i, ['height', 'width']]) == image.shape


def test_every_way_in_gives_the_same_bytes(table, tmp_path):
    frame = pd.read_csv(table).set_index('Edema')                             # row numbers are positions, not labels of the index
    frame.index = frame.index + 1000
    ways = [pack(table, tmp_path/'csv', 16, workers=0), pack(frame, tmp_path/'frame', 16, root=table.parent, workers=2)]
    assert contents(ways[0].folder) == contents(ways[1].folder)
    paths = [str(table.parent/p) for p in frame.path if isinstance(p, str)]
    listed = pack(paths, tmp_path/'list', 16, workers=0)
    assert np.array_equal(listed[:], ways[0][:]) and listed.fingerprint != ways[0].fingerprint


def test_indexing(table, tmp_path):
    torch = pytest.importorskip('torch')
    packed = pack(table, tmp_path/'p', 16, shard=50, workers=0)
    whole = packed[:]
    assert whole.shape == (319, 16, 16) and whole.dtype == np.uint8
    rows = np.random.default_rng(0).permutation(319)
    assert np.array_equal(packed[rows], whole[rows]) and np.array_equal(packed[rows[:4].tolist()], whole[rows[:4]])
    assert np.array_equal(packed[torch.from_numpy(rows)], whole[rows]) and np.array_equal(packed[-1], whole[-1])
    assert np.array_equal(packed[rows > 300], whole[rows > 300]) and packed[[]].shape == (0, 16, 16) and packed[5].shape == (16, 16)
    again = pickle.loads(pickle.dumps(packed))
    assert len(pickle.dumps(packed)) < whole.nbytes and np.array_equal(again[rows], whole[rows])
    for wrong in (319, [0, 319], -320):
        with pytest.raises(IndexError): packed[wrong]
    batch = packed[0:3]; batch[:] = 0
    one = packed[0]; one[:] = 0
    assert np.array_equal(packed[0:3], whole[0:3])                            # what is given out is a copy


class Rows:
    "A data set whose items are single images of a pack."
    def __init__(self, packed): self.packed = packed
    def __len__(self): return len(self.packed)
    def __getitem__(self, i): return self.packed[i]


def test_workers_of_a_loader(table, tmp_path):
    data = pytest.importorskip('torch.utils.data')
    packed = pack(table, tmp_path/'p', 16, shard=50, workers=0)
    got = np.concatenate([b.numpy() for b in data.DataLoader(Rows(packed), batch_size=64, num_workers=2)])
    assert np.array_equal(got, packed[:])


@pytest.fixture
def script(table):
    "Code that packs the table into its first argument, as a user's script does."
    return f'''
import functools, sys, time
import cxr_workbench.files as files
from cxr_workbench.files import pack
pack_one = files.pack_one
@functools.wraps(pack_one)
def slow(*a, **k): time.sleep({{sleep}}); return pack_one(*a, **k)
files.pack_one = slow
if __name__ == '__main__':
    {{before}}
    pack({str(table)!r}, sys.argv[1], 16, shard=20, workers={{workers}})
'''


@pytest.mark.parametrize('workers', [0, 2])
def test_killed_and_resumed(table, script, tmp_path, workers):
    (tmp_path/'run.py').write_text(script.format(before='pass', sleep=.02, workers=workers))
    out, env = tmp_path/'killed', {**os.environ, 'TQDM_DISABLE': '1'}
    process = subprocess.Popen([sys.executable, tmp_path/'run.py', out], env=env, start_new_session=True)
    deadline = time.time() + 90
    while len(list(out.glob('shard_*.csv'))) < 3 and process.poll() is None and time.time() < deadline: time.sleep(.002)
    children = Path(f'/proc/{process.pid}/task/{process.pid}/children')
    children = children.read_text().split() if children.exists() else []
    process.kill()
    assert process.wait() == -signal.SIGKILL and len(children) >= workers
    with pytest.raises(ValueError, match='is incomplete'): PackedImages(out)
    done = {p.name: p.stat().st_mtime_ns for p in out.glob('shard_*.npy')}
    for _ in range(100):                                                       # no orphans
        if not any(Path(f'/proc/{pid}').exists() and 'Z' not in Path(f'/proc/{pid}/stat').read_text().split(')')[1][:3] for pid in children): break
        time.sleep(.1)
    else: pytest.fail('workers outlived the process that started them')
    resumed = pack(table, out, 16, shard=20, workers=0)
    assert contents(out) == contents(pack(table, tmp_path/'whole', 16, shard=20, workers=0).folder)
    kept = [name for name, at in done.items() if (out/name).stat().st_mtime_ns == at]
    assert 3 <= len(kept) < 17 and len(resumed) == 319                          # whole shards were not made again


def test_full_disk(table, script, tmp_path):
    pytest.importorskip('resource')
    (tmp_path/'run.py').write_text(script.format(before='import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))', sleep=0, workers=0))
    result = subprocess.run([sys.executable, tmp_path/'run.py', tmp_path/'p'], env={**os.environ, 'TQDM_DISABLE': '1', 'PYTHONDONTWRITEBYTECODE': '1'}, capture_output=True, text=True)
    assert result.returncode == 1 and 'shard_00000.npy could not be written' in result.stderr and 'make room' in result.stderr
    assert set(contents(tmp_path/'p')) == {'pack.json'}                        # no half file
    pack(table, tmp_path/'p', 16, shard=20, workers=0)
    assert contents(tmp_path/'p') == contents(pack(table, tmp_path/'whole', 16, shard=20, workers=0).folder)


def test_too_little_room_is_seen_before_the_first_file(table, tmp_path, monkeypatch):
    import collections
    monkeypatch.setattr(files.shutil, 'disk_usage', lambda path: collections.namedtuple('usage', 'total used free')(10**6, 10**6, 1000))
    monkeypatch.setattr(files, 'pack_one', lambda *a, **k: pytest.fail('a file was read'))
    with pytest.raises(OSError, match='make room'): pack(table, tmp_path/'p', 16, workers=0)


def test_a_folder_belongs_to_one_table(table, tmp_path):
    out = pack(table, tmp_path/'p', 16, workers=0).folder
    before = contents(out)
    for other, options, message in [(table, dict(size=24), 'size 16 against 24'), (table, dict(size=16, fit='crop'), "fit 'pad' against 'crop'"),
                                    (table, dict(size=16, bits=12), 'bits None against 12'), (pd.read_csv(table)[:300], dict(size=16, root=table.parent), 'another table')]:
        with pytest.raises(ValueError, match=message): pack(other, out, workers=0, **options)
    (tmp_path/'mine').mkdir(); (tmp_path/'mine'/'thesis.txt').write_text('years of work')
    with pytest.raises(ValueError, match='thesis.txt'): pack(table, tmp_path/'mine', 16)
    assert contents(out) == before and (tmp_path/'mine'/'thesis.txt').read_text() == 'years of work'


def test_bad_tables(table, tmp_path):
    frame = pd.read_csv(table)
    with pytest.raises(ValueError, match='no column .path.*Edema'): pack(frame.rename(columns={'path': 'file'}), tmp_path/'p', 16)
    with pytest.raises(ValueError, match='appear twice.*rows 0 and 330'): pack(pd.concat([frame, frame[:1]]), tmp_path/'p', 16, root=table.parent)
    with pytest.raises(ValueError, match='appear twice'): pack(['000.png', './000.png'], tmp_path/'p', 16, root=table.parent)
    with pytest.raises(ValueError, match='check root='): pack(frame, tmp_path/'p', 16, root=tmp_path)
    with pytest.raises(ValueError, match='names no file'): pack([], tmp_path/'p', 16)
    with pytest.raises(ValueError, match='row 1 holds 3'): pack(['000.png', 3], tmp_path/'p', 16)
    with pytest.raises(TypeError, match='depth'): pack(frame, tmp_path/'p', 16, depth=12)
    with pytest.raises(ValueError, match='none of 10 files could be read'): pack([table.parent/f'bad{i}.png' for i in range(10)], tmp_path/'p', 16)
    assert not (tmp_path/'p').exists() or not list((tmp_path/'p').iterdir())


def test_reading_arguments_reach_the_files(tmp_path):
    Image.fromarray(picture().astype(np.uint16)*16).save(tmp_path/'x.png')
    packed = pack([tmp_path/'x.png'], tmp_path/'p', 32, bits=12, invert=True)
    assert packed.reading == Reading(32, bits=12, invert=True)
    assert np.abs(packed[0]/255. - fit_image(read_image(tmp_path/'x.png', bits=12, invert=True), 32)).max() < .5/255 + 1e-6


def test_a_reading_is_a_value():
    import json
    reading = Reading(np.int64(32), 'crop', bits=np.int32(12), window=np.bool_(False))
    assert Reading.from_dict(json.loads(json.dumps(reading.to_dict()))) == reading == Reading(32, 'crop', 12, window=False)
    assert reading.differences(reading) == '' and hash(reading) == hash(Reading(32, 'crop', 12, window=False))
    words = reading.differences(Reading(32, frame=1))
    for part in ("fit 'crop' against 'pad'", 'bits 12 against None', 'window False against True', 'frame None against 1'):
        assert part in words
    with pytest.raises(ValueError, match='newer version'): Reading.from_dict({'size': 32, 'gamma': 2})
    for wrong in (dict(size=0), dict(size=32.), dict(fit='squeeze'), dict(bits=0), dict(bits=True), dict(frame=-1),
                  dict(stretch='no'), dict(invert=1), dict(window=None)):
        with pytest.raises(ValueError): Reading(**wrong)
    with pytest.raises(Exception, match='assign'): reading.size = 64


def test_files_as_a_source_of_images(tmp_path):
    from cxr_workbench.files import FileImages
    paths = []
    for i in range(3):
        paths.append(tmp_path/f'{i}.png')
        Image.fromarray(picture(seed=i)).save(paths[-1])
    source = FileImages(paths, Reading(16, invert=True))
    assert len(source) == 3 and source.size == 16 and source.reading == Reading(16, invert=True)
    assert source[np.array([2, 0])].shape == (2, 16, 16) and source[1].shape == (16, 16)
    assert np.array_equal(source[[2]][0], fit_image(read_image(paths[2], invert=True), 16))
    assert source[np.array([], int)].shape == (0, 16, 16) and np.array_equal(pickle.loads(pickle.dumps(source))[1], source[1])
    with pytest.raises(IndexError): source[3]
    paths[1].unlink()
    with pytest.raises(UnreadableImage, match='1.png'): source[:]


def test_packs_of_an_earlier_and_of_a_later_version(tmp_path):
    import json
    Image.fromarray(picture().astype(np.uint16)*16).save(tmp_path/'x.png')
    out = pack([tmp_path/'x.png'], tmp_path/'p', 32, bits=12).folder
    plan = json.loads((out/'pack.json').read_text())
    (out/'pack.json').write_text(json.dumps({**plan, 'reading': {'bits': 12}}))       # only what was given
    assert PackedImages(out).reading == Reading(32, bits=12)
    assert np.array_equal(pack([tmp_path/'x.png'], out, 32, bits=12)[:], PackedImages(out)[:])
    with pytest.raises(ValueError, match='bits 12 against None'): pack([tmp_path/'x.png'], out, 32)
    for change in ({'format': 2}, {'reading': {'gamma': 2}}):
        (out/'pack.json').write_text(json.dumps({**plan, **change}))
        with pytest.raises(ValueError, match='newer version'): PackedImages(out)


@pytest.mark.parametrize('text, words', [('path,Edema\na.png,1,5\nb.png,0,6\n', 'more entries'), ('path,path\na.png,b.png\n', 'more than once')])
def test_tables_that_pandas_would_shift(tmp_path, text, words):
    (tmp_path/'t.csv').write_text(text)
    with pytest.raises(ValueError, match=words): pack(tmp_path/'t.csv', tmp_path/'p', 16)


def test_a_comma_at_the_end_of_each_row(tmp_path):
    Image.fromarray(picture()).save(tmp_path/'a.png')
    (tmp_path/'t.csv').write_text('path,Edema\na.png,1,\n')
    try: assert pack(tmp_path/'t.csv', tmp_path/'p', 16).paths == ['a.png']
    except ValueError as error: assert 'more entries' in str(error)
    (tmp_path/'u.csv').write_text('path,Edema,\na.png,1,\n')
    assert pack(tmp_path/'u.csv', tmp_path/'q', 16).paths == ['a.png']


@pytest.mark.parametrize('name', ['NA', 'Röntgen, "1".png', os.fsdecode(b'caf\xe9.png')])
def test_names_survive(tmp_path, name):
    try: Image.fromarray(picture()).save(tmp_path/name, 'PNG')
    except (OSError, UnicodeError): pytest.skip('this file system does not take the name')
    assert pack([name, 'absent.png'], tmp_path/'p', 16, root=tmp_path).paths == [name]


def test_damaged_packs_are_refused(table, tmp_path):
    out = pack(table, tmp_path/'p', 16, workers=0).folder
    with pytest.raises(FileNotFoundError, match='no pack'): PackedImages(tmp_path)
    with open(out/'shard_00000.npy', 'r+b') as file: file.truncate(5000)
    with pytest.raises(ValueError, match='cut off'): PackedImages(out)


def test_a_dying_worker_is_explained(tmp_path):
    with pytest.raises(RuntimeError, match='fewer workers'):
        with files.in_order(os._exit, [1]*4, 1) as results: list(results)


def test_real_radiographs_pack(cxr_data, tmp_path):
    frame = pd.read_csv(cxr_data/'nih14'/'subset.csv')[:60]
    packed = pack(frame, tmp_path/'p', 64, path_column='file_256', root=cxr_data/'nih14', workers=0)
    there = frame.file_256.notna().to_numpy()
    assert np.array_equal(packed.rows, np.flatnonzero(there)) and len(packed.failed) == (~there).sum()
    reference = np.load(cxr_data/'nih14'/'images_64.npz')['images'][frame.npz_row[there]]
    assert np.abs(packed[:].astype(int) - reference).mean() < 4               # the same radiographs, made small by another filter and from JPEG
