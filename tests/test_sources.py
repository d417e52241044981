"Sources of images: three of them answer alike, and none is taken for what it is not."
import pickle
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from cxr_workbench.data import ArrayImages, from_arrays, from_csv, from_npz
from cxr_workbench.files import FileImages, PackedImages, Reading, pack
from cxr_workbench.sources import as_images, check_reading, one_reading

rng = np.random.default_rng(0)


@pytest.fixture
def scans(tmp_path):
    "Six images, wider than high, and a table of them."
    for i in range(6): Image.fromarray(rng.integers(0, 256, (16, 24), dtype=np.uint8)).save(tmp_path/f'{i}.png')
    table = pd.DataFrame({'path': [f'{i}.png' for i in range(6)], 'patient_id': [1, 1, 2, 2, 3, 3], 'Edema': [1, 0, 0, 1, 0, 1]})
    table.to_csv(tmp_path/'table.csv', index=False)
    return tmp_path


@pytest.mark.parametrize('fit', ['pad', 'stretch', 'crop'])
def test_files_a_pack_and_an_array_answer_alike(scans, fit):
    reading = Reading(8, fit)
    files = from_csv(scans/'table.csv', reading=reading)
    packed = from_csv(scans/'table.csv', packed=pack(scans/'table.csv', scans/fit, size=8, fit=fit))
    array = from_arrays(files.images[np.arange(6)], files.y, reading=reading)
    assert [type(d.images) for d in (files, packed, array)] == [FileImages, PackedImages, ArrayImages]
    for data in (files, packed, array):
        assert (data.size, data.fit, data.reading, len(data.images)) == (8, fit, reading, 6)
        assert data.images[np.array([4, 1])].shape == (2, 8, 8) and data.subset([3]).images is data.images
        assert (data.batch([4, 1]).x - files.batch([4, 1]).x).abs().max() <= .51/255
        assert torch.equal(pickle.loads(pickle.dumps(data))[2].x, data[2].x)


def test_the_former_arguments_still_say_the_same(scans):
    a, b, c = from_csv(scans/'table.csv', size=8, fit='crop'), from_csv(scans/'table.csv', reading=Reading(8, 'crop')), from_csv(scans/'table.csv', size=8, fit='crop', reading=Reading(8, 'crop'))
    assert a.reading == b.reading == c.reading == Reading(8, 'crop') and torch.equal(a[1].x, b[1].x)
    assert from_csv(scans/'table.csv').reading == Reading(64, 'pad') and from_csv(scans/'table.csv', fit='stretch').reading == Reading(64, 'stretch')
    turned = from_csv(scans/'table.csv', reading=Reading(8, invert=True))
    assert torch.allclose(turned[0].x[..., 2:6, :], 1 - from_csv(scans/'table.csv', size=8)[0].x[..., 2:6, :], atol=1e-6)


@pytest.mark.parametrize('kw, words', [
    (dict(size=9), 'size=9, but the images are 8'), (dict(fit='pad'), "fit='pad', but .*fit='crop'"), (dict(reading=Reading(9, 'crop')), 'size=9, but the images are 8'),
    (dict(reading=Reading(8, 'crop', bits=12)), 'bits 12 against None'), (dict(reading=Reading(8)), "fit 'pad' against 'crop'"), (dict(reading=Reading(8, 'crop', window=False)), 'window False against True')])
def test_a_pack_is_not_contradicted(scans, kw, words):
    packed = pack(scans/'table.csv', scans/'pack', size=8, fit='crop')
    with pytest.raises(ValueError, match=words): from_csv(scans/'table.csv', packed=packed, **kw)
    with pytest.raises(ValueError, match=words): from_arrays(packed, np.zeros((6, 1)), **kw)
    assert from_csv(scans/'table.csv', packed=packed, size=8, fit='crop', reading=Reading(8, 'crop')).reading == Reading(8, 'crop')


def test_files_and_arrays_are_not_contradicted(scans):
    for kw, words in ((dict(size=9, reading=Reading(8)), 'size 9 against 8'), (dict(fit='crop', reading=Reading(8)), "fit 'crop' against 'pad'")):
        with pytest.raises(ValueError, match=words): from_csv(scans/'table.csv', **kw)
        with pytest.raises(ValueError, match=words): one_reading(**kw)
    array = np.zeros((3, 8, 8), np.uint8)
    for kw, words in ((dict(reading=Reading(9)), 'size=9'), (dict(size=9), 'size=9'), (dict(fit='crop'), 'square already')):
        with pytest.raises(ValueError, match=words): from_arrays(array, np.zeros((3, 1)), **kw)
    with pytest.raises(ValueError, match='square already'): check_reading(ArrayImages(array), fit='pad')
    assert from_arrays(array, np.zeros((3, 1))).reading is None and from_arrays(array, np.zeros((3, 1))).fit is None
    with pytest.raises(ValueError, match='needs? size='): as_images(['a.png'])


def test_an_npz_may_be_told_its_reading(tmp_path):
    np.savez(tmp_path/'x.npz', images=np.zeros((2, 8, 8), np.uint8), labels=[[1], [0]], patient_id=[1, 2])
    assert from_npz(tmp_path/'x.npz', reading=Reading(8, 'crop', bits=12)).reading.bits == 12
    with pytest.raises(ValueError, match='size=64'): from_npz(tmp_path/'x.npz', reading=Reading(64))


def test_a_source_is_taken_as_it_is():
    source = ArrayImages(rng.integers(0, 256, (4, 8, 8), dtype=np.uint8), Reading(8, 'crop'))
    data = from_arrays(source, np.zeros((4, 1)))
    assert data.images is source and np.array_equal(np.asarray(source), source.array) and source.shape == (4, 8, 8) and source.dtype == np.uint8
    assert torch.equal(from_arrays(data.images, data.y)[3].x, data[3].x)
    other = data.copy_with(images=np.zeros((4, 4, 4), np.uint8), size=4)
    assert other.size == 4 and other.reading is None and isinstance(other.images, ArrayImages) and data.size == 8
    with pytest.raises(ValueError, match='size=8'): data.copy_with(images=np.zeros((4, 4, 4), np.uint8), size=8)


class Odd:
    "A source of somebody else, which gives what it likes."
    size = 4
    def __init__(self, values): self.values = values
    def __len__(self): return len(self.values)
    def __getitem__(self, rows): return self.values[rows]


def test_what_a_foreign_source_gives_is_looked_at():
    y = np.zeros((3, 1))
    assert from_arrays(Odd(np.full((3, 4, 4), 255, np.uint8)), y)[1].x.max() == 1
    for values, words in ((np.full((3, 4, 4), 7.), r'outside \[0, 1\]'), (np.full((3, 4, 4), 7), 'int64'), (np.full((3, 4, 4), np.nan), 'NaN')):
        with pytest.raises(ValueError, match=words): from_arrays(Odd(values), y)[1]
    for wrong in (None, 5, {'a': 1}, np.zeros((3, 0, 0), np.uint8), np.ma.masked_array(np.zeros((3, 4, 4), np.uint8))):
        with pytest.raises(ValueError): from_arrays(wrong, y)


@pytest.mark.parametrize('dtype', ['f2', 'f4', 'f8', '>f4', '>f8', 'longdouble', 'u1'])
def test_every_float_reaches_torch(dtype, tmp_path):
    values = rng.integers(0, 2, (3, 4, 4)).astype(dtype)
    np.save(tmp_path/'x.npy', values)
    for images in (values, np.load(tmp_path/'x.npy', mmap_mode='r')):
        x = from_arrays(images, np.zeros((3, 1))).batch([2, 0]).x[:, 0]
        assert torch.equal(x, torch.tensor(values[[2, 0]].astype(np.float32))/(255 if dtype == 'u1' else 1))


def test_a_source_names_its_own_rows_where_a_memory_map_is_broken(tmp_path):
    values = rng.random((6, 4, 4)).astype(np.float32)
    values[4, 0, 0] = 2
    np.save(tmp_path/'x.npy', values)
    source = ArrayImages(np.load(tmp_path/'x.npy', mmap_mode='r'))
    assert np.array_equal(source[[1, 2]], values[[1, 2]]) and np.array_equal(source[3], values[3]) and np.array_equal(source[:2], values[:2])
    with pytest.raises(ValueError, match='rows 4 '): source[[1, 4]]
    with pytest.raises(ValueError, match='rows 4 '): source[4]


def test_two_rows_of_a_table_do_not_share_a_packed_image(scans):
    packed = pack([str(scans/f'{i}.png') for i in range(6)], scans/'pack', size=8)
    table = pd.DataFrame({'path': ['1.png', str(scans/'1.png'), '2.png'], 'patient_id': [1, 2, 3], 'Edema': [0, 1, 0]})
    with pytest.raises(ValueError, match='more than one row of the table means: .*1.png'): from_csv(table, scans/'elsewhere', packed=packed)
    assert len(from_csv(table[1:], scans/'elsewhere', packed=packed)) == 2
