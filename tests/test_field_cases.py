"Files that were once read wrongly, with the value that is right."
from functools import partial
import numpy as np
import pytest
from PIL import Image
from cxr_workbench.files import UnreadableImage, pack, read_image


@pytest.fixture(scope='module')
def cases(cxr_data):
    folder = cxr_data/'field_cases'
    if not folder.is_dir(): pytest.skip(f'no field cases at {folder}')
    return folder


def stored(path):
    "The 16-bit cells at the end of a DICOM file that is not compressed, 64 x 64."
    return np.frombuffer(path.read_bytes()[-2*64*64:], '<u2').reshape(64, 64).astype(np.int64)


close = partial(np.testing.assert_allclose, atol=1e-6)


def test_a_table_of_twelve_bits_that_declares_sixteen(cases):
    pydicom = pytest.importorskip('pydicom')
    path = cases/'05_voi_lut_narrower_than_declared'/'agfa.dcm'
    entries = np.frombuffer(pydicom.dcmread(path).VOILUTSequence[0].LUTData, '<u2')
    assert entries.max() == 4095
    x = read_image(path)
    close(x, 1 - entries[stored(path)]/4095)                                  # MONOCHROME1
    assert x.min() == 0 and x.max() == 1


@pytest.mark.parametrize('workers', [0, 2])
def test_a_decoder_that_breaks_down_is_one_unreadable_file(cases, tmp_path, workers):
    path = cases/'06_damaged_rle_aborts_run'/'damaged_rle.dcm'
    with pytest.raises(UnreadableImage, match='damaged'): read_image(path)
    Image.fromarray(np.tile(np.arange(64, dtype=np.uint8), (64, 1))).save(tmp_path/'good.png')
    packed = pack([path, tmp_path/'good.png'], tmp_path/f'packed{workers}', 32, workers=workers)
    assert len(packed) == 1 and packed.failed['path'].tolist() == [str(path)] and 'damaged' in packed.failed.reason[0]


def test_bits_at_the_upper_end(cases):
    path = cases/'07_high_bit_15'/'highbit15_stored12.dcm'
    close(read_image(path), (stored(path) >> 4)/4095)


@pytest.mark.parametrize('name, bits', [('j2k14_tag16.dcm', 14), ('j2k_12_16.dcm', 12)])
def test_precision_of_the_code_stream(cases, name, bits):
    pydicom = pytest.importorskip('pydicom')
    path = cases/'10_j2k_precision_vs_bits_stored'/name
    values = pydicom.dcmread(path).pixel_array
    assert values.max() == 2**bits - 1
    close(read_image(path), values/(2**bits - 1))


def test_the_first_entry_of_a_table_after_a_rescale(cases):
    path = cases/'11_voi_lut_first_value_sign'/'voilut_rescaled_impl.dcm'
    np.testing.assert_allclose(read_image(path), (stored(path)/4095)**2, atol=.51/4095)    # whole numbers in the table


def test_signed_bytes_and_a_float_negative(cases):
    folder = cases/'13_tiff_signed8_and_float_minwhite'
    data = np.frombuffer((folder/'s8.tif').read_bytes()[134:], np.int8)[:48*64].reshape(48, 64)
    close(read_image(folder/'s8.tif'), (data.astype(float) + 128)/255)
    v = np.frombuffer((folder/'f32_white.tif').read_bytes()[134:], '<f4')[:48*64].reshape(48, 64)
    close(read_image(folder/'f32_white.tif'), 1 - v)


def test_a_window_in_functional_groups(cases):
    path = cases/'15_window_in_functional_groups'/'enh.dcm'
    values = stored(path)
    close(read_image(path), np.clip((values - 999.5)/799 + .5, 0, 1))
    close(read_image(path, window=False), values/4095)


def test_good_files_that_were_called_damaged(cases):
    folder = cases/'16_wrong_advice'
    def body(name, kind):
        data = (folder/name).read_bytes()[-48*64*np.dtype(kind).itemsize:]
        return np.frombuffer(data, kind).reshape(48, 64)
    close(read_image(folder/'f64.tif'), body('f64.tif', '<f8'))
    close(read_image(folder/'f16.tif'), body('f16.tif', '<f2').astype(float))
    close(read_image(folder/'u16_whitebe.tif'), 1 - body('u16_whitebe.tif', '>u2')/65535)
    close(read_image(folder/'pi_lower.dcm'), 1 - stored(folder/'pi_lower.dcm')/4095)
    close(read_image(folder/'win_comma.dcm'), np.clip((stored(folder/'win_comma.dcm') - 10)/79.5 + .5, 0, 1))


def test_check_sums_of_a_png(cases, cxr_data):
    folder = cases/'18_png_crc_ignored'
    with pytest.raises(UnreadableImage, match='check sum'): read_image(folder/'zeroed_block.png')
    close(read_image(folder/'whole.png'), np.asarray(Image.open(folder/'whole.png').convert('L'))/255, atol=1/255)
