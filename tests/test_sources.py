"Sources of images: three of them answer alike, and none is taken for what it is not."
import pickle
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from cxr_workbench.data import ArrayImages, from_arrays, from_csv, from_npz
from cxr_workbench.packing import PackedImages, pack
from cxr_workbench.reading import FileImages, Reading
from cxr_workbench.sources import as_images, check_images_match, resolve_reading

rng = np.random.default_rng(0)


def random_bytes(*shape): return rng.integers(0, 256, shape, dtype=np.uint8)
def empty_labels(n): return np.zeros((n, 1))


@pytest.fixture
def scans(tmp_path):
    "Six images, wider than high, and a table of them."
    names = [f'{i}.png' for i in range(6)]
    for name in names: Image.fromarray(random_bytes(16, 24)).save(tmp_path/name)
    table = pd.DataFrame(dict(path=names, patient_id=[1, 1, 2, 2, 3, 3]))
    table.assign(Edema=[1, 0, 0, 1, 0, 1]).to_csv(tmp_path/'table.csv', index=False)
    return tmp_path


# ---- three sources ----

@pytest.mark.parametrize('fit', ['pad', 'stretch', 'crop'])
def test_files_a_pack_and_an_array_answer_alike(scans, fit):
    reading = Reading(8, fit)
    files = from_csv(scans/'table.csv', reading=reading)
    packed = from_csv(scans/'table.csv', packed=pack(scans/'table.csv', scans/fit, size=8, fit=fit))
    array = from_arrays(files.images[np.arange(6)], files.y, reading=reading)
    assert [type(d.images) for d in (files, packed, array)] == [FileImages, PackedImages, ArrayImages]
    right = files.batch([4, 1]).x
    for data in (files, packed, array):
        assert (data.size, data.fit, data.reading, len(data.images)) == (8, fit, reading, 6)
        assert data.images[np.array([4, 1])].shape == (2, 8, 8)
        assert data.subset([3]).images is data.images
        assert (data.batch([4, 1]).x - right).abs().max() <= .51/255
        assert torch.equal(pickle.loads(pickle.dumps(data))[2].x, data[2].x)


def test_the_former_arguments_still_say_the_same(scans):
    reading, path = Reading(8, 'crop'), scans/'table.csv'
    by_size, by_reading = from_csv(path, size=8, fit='crop'), from_csv(path, reading=reading)
    by_both = from_csv(path, size=8, fit='crop', reading=reading)
    assert by_size.reading == by_reading.reading == by_both.reading == reading
    assert torch.equal(by_size[1].x, by_reading[1].x)
    assert from_csv(path).reading == Reading(64, 'pad')
    assert from_csv(path, fit='stretch').reading == Reading(64, 'stretch')


def test_a_reading_may_say_what_size_and_fit_cannot(scans):
    plain, inverted = (from_csv(scans/'table.csv', reading=Reading(8, invert=invert)) for invert in (False, True))
    inside = (..., slice(2, 6), slice(None))                # above and below is black, in both
    assert torch.allclose(inverted[0].x[inside], 1 - plain[0].x[inside], atol=1e-6)


# ---- what is said twice ----

@pytest.mark.parametrize('kw, words', [
    (dict(size=9), 'size=9, but the images are 8'),
    (dict(fit='pad'), "fit='pad', but .*fit='crop'"),
    (dict(reading=Reading(9, 'crop')), 'size=9, but the images are 8'),
    (dict(reading=Reading(8, 'crop', bits=12)), 'bits 12 against None'),
    (dict(reading=Reading(8)), "fit 'pad' against 'crop'"),
    (dict(reading=Reading(8, 'crop', window=False)), 'window False against True')])
def test_a_pack_is_not_contradicted(scans, kw, words):
    packed = pack(scans/'table.csv', scans/'pack', size=8, fit='crop')
    with pytest.raises(ValueError, match=words): from_csv(scans/'table.csv', packed=packed, **kw)
    with pytest.raises(ValueError, match=words): from_arrays(packed, empty_labels(6), **kw)
    same = dict(size=8, fit='crop', reading=Reading(8, 'crop'))
    assert from_csv(scans/'table.csv', packed=packed, **same).reading == Reading(8, 'crop')


@pytest.mark.parametrize('kw, words', [
    (dict(size=9, reading=Reading(8)), 'size 9 against 8'),
    (dict(fit='crop', reading=Reading(8)), "fit 'crop' against 'pad'")])
def test_files_are_not_contradicted(scans, kw, words):
    with pytest.raises(ValueError, match=words): from_csv(scans/'table.csv', **kw)
    with pytest.raises(ValueError, match=words): resolve_reading(**kw)


@pytest.mark.parametrize('kw, words', [
    (dict(reading=Reading(9)), 'size=9'), (dict(size=9), 'size=9'), (dict(fit='crop'), 'square already')])
def test_arrays_are_not_contradicted(kw, words):
    array = np.zeros((3, 8, 8), np.uint8)
    with pytest.raises(ValueError, match=words): from_arrays(array, empty_labels(3), **kw)


def test_an_array_says_nothing_of_itself():
    array = np.zeros((3, 8, 8), np.uint8)
    with pytest.raises(ValueError, match='square already'): check_images_match(ArrayImages(array), fit='pad')
    data = from_arrays(array, empty_labels(3))
    assert data.reading is None and data.fit is None
    with pytest.raises(ValueError, match='needs? size='): as_images(['a.png'])


def test_an_npz_may_be_told_its_reading(tmp_path):
    images = np.zeros((2, 8, 8), np.uint8)
    np.savez(tmp_path/'x.npz', images=images, labels=[[1], [0]], patient_id=[1, 2])
    assert from_npz(tmp_path/'x.npz', reading=Reading(8, 'crop', bits=12)).reading.bits == 12
    with pytest.raises(ValueError, match='size=64'): from_npz(tmp_path/'x.npz', reading=Reading(64))


# ---- a source as it is ----

def test_a_source_is_taken_as_it_is():
    source = ArrayImages(random_bytes(4, 8, 8), Reading(8, 'crop'))
    data = from_arrays(source, empty_labels(4))
    assert data.images is source and np.array_equal(np.asarray(source), source.array)
    assert source.shape == (4, 8, 8) and source.dtype == np.uint8
    assert torch.equal(from_arrays(data.images, data.y)[3].x, data[3].x)


def test_a_copy_with_other_images_has_their_size():
    data = from_arrays(ArrayImages(random_bytes(4, 8, 8), Reading(8, 'crop')), empty_labels(4))
    smaller = np.zeros((4, 4, 4), np.uint8)
    other = data.copy_with(images=smaller, size=4)
    assert other.size == 4 and other.reading is None and isinstance(other.images, ArrayImages) and data.size == 8
    with pytest.raises(ValueError, match='size=8'): data.copy_with(images=smaller, size=8)


class Odd:
    "A source of somebody else, which gives what it likes."
    size = 4
    def __init__(self, values): self.values = values
    def __len__(self): return len(self.values)
    def __getitem__(self, rows): return self.values[rows]


def full(value, dtype=None): return np.full((3, 4, 4), value, dtype)


def test_another_source_of_bytes():
    assert from_arrays(Odd(full(255, np.uint8)), empty_labels(3))[1].x.max() == 1


@pytest.mark.parametrize('values, words', [
    (full(7.), r'outside \[0, 1\]'), (full(7), 'int64'), (full(np.nan), 'NaN')],
    ids=['range', 'integers', 'nan'])
def test_what_another_source_gives_is_checked(values, words):
    with pytest.raises(ValueError, match=words): from_arrays(Odd(values), empty_labels(3))[1]


@pytest.mark.parametrize('wrong', [
    None, 5, {'a': 1}, np.zeros((3, 0, 0), np.uint8),
    np.ma.masked_array(full(0, np.uint8))],
    ids=['none', 'number', 'dictionary', 'empty', 'masked'])
def test_what_is_no_source_is_refused(wrong):
    with pytest.raises(ValueError): from_arrays(wrong, empty_labels(3))


# ---- numbers and memory maps ----

@pytest.mark.parametrize('dtype', ['f2', 'f4', 'f8', '>f4', '>f8', 'longdouble', 'u1'])
def test_every_float_reaches_torch(dtype, tmp_path):
    values = rng.integers(0, 2, (3, 4, 4)).astype(dtype)
    np.save(tmp_path/'x.npy', values)
    right = torch.tensor(values[[2, 0]].astype(np.float32))/(255 if dtype == 'u1' else 1)
    for images in (values, np.load(tmp_path/'x.npy', mmap_mode='r')):
        x = from_arrays(images, empty_labels(3)).batch([2, 0]).x[:, 0]
        assert torch.equal(x, right)


def test_a_source_names_its_own_rows_where_a_memory_map_is_broken(tmp_path):
    values = rng.random((6, 4, 4)).astype(np.float32)
    values[4, 0, 0] = 2
    np.save(tmp_path/'x.npy', values)
    source = ArrayImages(np.load(tmp_path/'x.npy', mmap_mode='r'))
    for rows in ([1, 2], 3, slice(0, 2)): assert np.array_equal(source[rows], values[rows])
    for rows in ([1, 4], 4):
        with pytest.raises(ValueError, match='rows 4 '): source[rows]


def test_two_rows_of_a_table_do_not_share_a_packed_image(scans):
    packed = pack([str(scans/f'{i}.png') for i in range(6)], scans/'pack', size=8)
    paths = ['1.png', str(scans/'1.png'), '2.png']
    table = pd.DataFrame(dict(path=paths, patient_id=[1, 2, 3], Edema=[0, 1, 0]))
    with pytest.raises(ValueError, match='more than one row of the table means: .*1.png'):
        from_csv(table, scans/'elsewhere', packed=packed)
    assert len(from_csv(table[1:], scans/'elsewhere', packed=packed)) == 2


@pytest.mark.parametrize('shape, advice', [
    ((5, 8, 8, 3), r'images\.mean\(3\)'), ((5, 3, 8, 8), r'images\.mean\(1\)'),
    ((5, 1, 8, 8), r'images\.squeeze\(1\)'),
    ((5, 8, 8, 4), r'images\[\.\.\., :3\]\.mean\(3\)'), ((5, 4, 8, 8), r'images\[:, :3\]\.mean\(1\)')])
def test_colours_are_told_how_they_become_grey(shape, advice):
    "What the message says makes a data set."
    images = rng.random(shape).astype(np.float32)
    with pytest.raises(ValueError, match=advice) as caught: from_arrays(images, empty_labels(5))
    said = advice.replace('\\', '')
    assert said in str(caught.value)
    grey = eval(said, dict(images=images))
    assert from_arrays(grey, empty_labels(5)).batch([2]).x[0, 0].numpy() == pytest.approx(grey[2])


def test_sixteen_bits_are_told_what_to_divide_by():
    images = np.full((2, 8, 8), 65535, np.uint16)
    with pytest.raises(ValueError, match=r'give \(images/65535\)\.astype\("float32"\)'):
        from_arrays(images, empty_labels(2))
    assert from_arrays((images/65535).astype('float32'), empty_labels(2)).batch([0]).x.max() == 1
    with pytest.raises(ValueError, match='but are int32$'): from_arrays(images.astype(np.int32), empty_labels(2))
