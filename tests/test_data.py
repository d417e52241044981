"Data sets: batches and subsets on random tables, tables of files, packs, public collections, and the real subset."
import copy, pickle
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, strategies as st
from PIL import Image
from cxr_workbench.core import Batch
from cxr_workbench.data import check_dataset, check_split, chexpert, dataloaders, from_arrays, from_csv, from_npz, nih14
from cxr_workbench.labels import CHEXPERT, NIH14, LabelPolicy

rng = np.random.default_rng(0)


def small(n=10, labels=3, size=8, **kw):
    rng = np.random.default_rng(n)
    images = rng.integers(0, 256, (n, size, size), dtype=np.uint8)
    return from_arrays(images, rng.integers(0, 2, (n, labels)), **kw)


# ---- the data set

def test_a_batch_of_rows_equals_its_rows():
    data = small(patient_id=np.arange(10)//2, synthetic=np.arange(10) > 7)
    rows = [7, 0, 9, 0, -1]
    batch = data.batch(rows)
    assert isinstance(batch, Batch) and batch.x.shape == (5, 1, 8, 8)
    assert batch.x.dtype == torch.float32 and batch.known.dtype == torch.bool
    assert batch.idx.tolist() == [7, 0, 9, 0, 9]
    assert batch.synthetic.tolist() == [False, False, True, False, True]
    for part, column in zip(zip(*(data[row] for row in rows)), batch): assert torch.equal(torch.cat(part), column)
    pixels = torch.from_numpy(data.images[[7, 0, 9, 0, 9]])
    assert torch.equal(batch.x[:, 0], pixels.float()/255)


def test_a_data_set_can_be_iterated_and_ends():
    assert [int(batch.idx) for batch in small(4)] == [0, 1, 2, 3]


@given(st.lists(st.integers(0, 9), min_size=1, max_size=6), st.data())
def test_subsets_of_subsets_read_the_rows_of_the_whole(rows, draw):
    patients, paths = [f'p{i}' for i in range(10)], [f'{i}.png' for i in range(10)]
    data = small(patient_id=patients, paths=paths, meta=pd.DataFrame({'age': range(10)}))
    again = draw.draw(st.lists(st.integers(0, len(rows) - 1), min_size=1, max_size=4))
    whole = [rows[i] for i in again]
    part, direct = data.subset(rows).subset(again), data.subset(whole)
    batch, expected = part.batch(range(len(part))), data.batch(whole)
    assert torch.equal(batch.x, expected.x) and torch.equal(batch.y, expected.y)
    assert batch.idx.tolist() == list(range(len(again)))
    assert part.images is data.images and part.fingerprint() == direct.fingerprint()
    assert part.patient_id.tolist() == [f'p{row}' for row in whole]
    assert part.paths == [f'{row}.png' for row in whole] and part.meta.age.tolist() == whole


def test_masks_and_tensors_name_rows():
    data = small()
    mask = data.y[:, 0] == 1
    numbers = mask.nonzero()[:, 0]
    assert data.subset(mask).rows.tolist() == data.subset(numbers).rows.tolist() == numbers.tolist()
    for wrong in ([10], [-11], [0.5], mask[:5], [[1]]):
        with pytest.raises(IndexError): data.subset(wrong)
    with pytest.raises(ValueError, match='without rows'): data.subset([])


def test_other_parts_make_another_data_set():
    data = small(patient_id=np.arange(10))
    other = data.copy_with(patient_id=np.arange(10)//2)
    assert other.images is data.images and other.patient_id.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert data.patient_id.tolist() == list(range(10)) and type(other) is type(data)
    with pytest.raises(ValueError, match='lengths'): data.copy_with(patient_id=np.arange(9))


def test_pixels_are_bytes_until_a_batch_is_made():
    data = small()
    pixels = data.subset([4, 7]).read_pixels([1, 0])
    assert pixels.dtype == np.uint8 and np.array_equal(pixels, data.images.array[[7, 4]])


def test_with_labels_keeps_the_images_and_the_original():
    data = small(patient_id=np.arange(10))
    before, known = data.fingerprint(), torch.zeros(10, 3, dtype=torch.bool)
    known[2] = True
    other = data.with_labels(data.y, known)
    assert other.images is data.images and data.fingerprint() == before and data.known.all()
    assert torch.equal(other.known, known) and torch.equal(other.y, data.y*known)
    with pytest.raises(ValueError, match='lengths'): data.with_labels(data.y[:5])


def test_the_fingerprint_sees_labels_masks_names_and_patients_and_nothing_else():
    data = small(patient_id=np.arange(10), label_names=['a', 'b', 'c'])
    flipped, known = data.y.clone(), data.known.clone()
    flipped[3, 1] = 1 - flipped[3, 1]
    known[int((data.y[:, 0] == 0).nonzero()[0]), 0] = False  # y does not change with it
    others = [
        data.with_labels(flipped), data.with_labels(data.y, known), small(label_names=['a', 'b', 'c']),
        small(patient_id=np.arange(10), label_names=['a', 'b', 'd']),
        small(patient_id=np.arange(10) + 1, label_names=['a', 'b', 'c'])]
    assert len({d.fingerprint() for d in (data, *others)}) == 6
    texts = np.arange(10).astype(str)
    same = from_arrays(255 - data.images.array, data.y, patient_id=texts, label_names=['a', 'b', 'c'])
    assert same.fingerprint() == data.fingerprint()


def stack(*values): return np.stack([np.full((4, 4), value) for value in values])


@pytest.mark.parametrize('images, message', [
    (np.full((3, 4, 4), np.nan), 'NaN or infinity in 3 images, rows 0, 1, 2'),
    (stack(0., np.inf, 0.), 'rows 1'),
    (stack(0., 0., 1.5), r'outside \[0, 1\] in 1 images, rows 2 \(from 1.5 to 1.5\)'),
    (stack(-.5, 0., 0.), r'outside \[0, 1\] in 1 images, rows 0'),
    (np.zeros((3, 1, 4, 4)), r'shape \(3, 1, 4, 4\)'), (np.zeros((3, 4, 5)), r'shape \(3, 4, 5\)'),
    (np.zeros((3, 4, 4), np.int64), 'int64'),
    (['a.png', 'b.png', None], 'rows 2 do not'), (['a.png', 'b.png', 'c.png'], 'size=')])
def test_images_that_no_batch_can_be_made_of(images, message):
    with pytest.raises(ValueError, match=message): from_arrays(images, np.zeros((3, 2)))


@pytest.mark.parametrize('kw, message', [
    (dict(y=np.full((3, 2), 2)), 'row 0, label 0'),
    (dict(y=np.array([[0, 1], [0, -1], [0, 0]])), 'LabelPolicy'),
    (dict(y=np.zeros((4, 2))), 'lengths'),
    (dict(known=np.ones((3, 1))), 'known'),
    (dict(patient_id=[1, None, 2]), 'rows 1'), (dict(patient_id=[1., np.nan, 2]), 'rows 1'),
    (dict(patient_id=['a', '', 'b']), 'rows 1'), (dict(patient_id=[1, 2]), 'lengths'),
    (dict(label_names=['a']), '1 label names for 2'), (dict(label_names=['a', 'a']), "twice: \\['a'\\]"),
    (dict(synthetic=[True]), 'lengths'), (dict(paths=['a', 'b']), 'lengths'),
    (dict(size=5), 'size=5')])
def test_parts_that_do_not_fit(kw, message):
    parts = {'y': np.zeros((3, 2)), **kw}
    with pytest.raises(ValueError, match=message): from_arrays(np.zeros((3, 4, 4)), **parts)


def test_floats_and_half_floats_are_taken_as_they_are():
    images = rng.random((3, 4, 4))
    x = from_arrays(images, np.zeros((3, 1))).batch([2, 0]).x[:, 0]
    assert torch.equal(x, torch.tensor(images[[2, 0]]).float())
    assert from_arrays(images.astype(np.float16), np.zeros((3, 1)))[0].x.dtype == torch.float32


def test_a_policy_reads_four_states():
    states, policy = [[1], [0], [-1], [np.nan]], LabelPolicy('ignore', 'unknown')
    data = from_arrays(np.zeros((4, 4, 4)), states, policy=policy)
    assert data.y[:, 0].tolist() == [1, 0, 0, 0]
    assert data.known[:, 0].tolist() == [True, True, False, False]
    with pytest.raises(ValueError, match='not both'):
        from_arrays(np.zeros((1, 4, 4)), [[1]], known=[[True]], policy=LabelPolicy())


def test_memory_maps_stay_on_disk_and_are_checked_when_read(tmp_path):
    images = rng.random((6, 4, 4)).astype(np.float32)
    images[4, 0, 0] = np.nan
    np.save(tmp_path/'images.npy', images)
    data = from_arrays(tmp_path/'images.npy', np.zeros((6, 1))).subset([1, 4, 5])
    assert isinstance(data.images.array, np.memmap)
    assert torch.equal(data[0].x[0, 0], torch.from_numpy(images[1]))
    with pytest.raises(ValueError, match='rows 1:'): data.batch([0, 1, 2])
    sent = pickle.dumps(data)
    received = pickle.loads(sent)
    assert len(sent) < 5000 and isinstance(received.images.array, np.memmap)
    assert torch.equal(received[2].x, data[2].x)


def test_a_part_of_a_memory_map_is_pickled_with_its_own_pixels(tmp_path):
    np.save(tmp_path/'images.npy', rng.integers(0, 256, (9, 4, 4), dtype=np.uint8))
    data = from_arrays(np.load(tmp_path/'images.npy', mmap_mode='r')[3:], np.zeros((6, 1)))
    assert torch.equal(pickle.loads(pickle.dumps(data))[0].x, data[0].x)
    assert torch.equal(copy.deepcopy(data)[5].x, data[5].x)


# ---- tables of files

@pytest.fixture
def scans(tmp_path):
    "A folder with six images and a table of them."
    for i in range(6): Image.fromarray(np.full((16, 16), 40*i, np.uint8)).save(tmp_path/f'{i}.png')
    table = pd.DataFrame({
        'Path': [f'{i}.png' for i in range(6)], 'Patient ID': [1, 1, 2, 2, 3, 3],
        'Edema': [1, 0, -1, None, 0, 1], 'Mass': [0]*6, 'age': range(6)})
    table.to_csv(tmp_path/'table.csv', index=False)
    return tmp_path, table


def test_a_table_of_files(scans):
    folder, table = scans
    data = from_csv(folder/'table.csv', size=8)
    assert data.label_names == ['Edema', 'Mass'] and data.patient_id.tolist() == [1, 1, 2, 2, 3, 3]
    assert list(data.meta.age) == list(range(6))
    means = data.batch(range(6)).x.mean((1, 2, 3))
    assert torch.allclose(means, torch.arange(6)*40/255, atol=1e-5)
    assert data.batch([0, 1]).x.shape == (2, 1, 8, 8)
    assert data.y[:, 0].tolist() == [1, 0, 0, 0, 0, 1]
    assert from_csv(table, folder, policy=LabelPolicy('ones')).y[2, 0] == 1
    assert data.paths == [str(folder/f'{i}.png') for i in range(6)]
    assert data.subset([4]).paths == [str(folder/'4.png')]
    batches = list(dataloaders(data, batch_size=4, sampler='all', workers=2)['train'])
    assert torch.equal(batches[0].x, data.batch(batches[0].idx).x)


@pytest.mark.parametrize('change, kw, message', [
    (lambda t: t.drop(columns='Path'), {}, r'no column of image files .*Patient ID'),
    (lambda t: t, dict(labels=['Edema', 'Edma']), r"\['Edma'\]"),
    (lambda t: t, dict(patient='who'), "'who' for the patients"),
    (lambda t: t.drop(columns=['Edema', 'Mass']), {}, 'no label column'),
    (lambda t: pd.concat([t, t[2:3]]), {}, r'2\.png \(rows 3, 7 .counted from 1'),
    (lambda t: t.assign(Edema=['x']*6), {}, "'x' is none of 1, 0, -1 and blank"),
    (lambda t: t.assign(synthetic=[0, 1, 2, 0, 0, 0]), {}, 'synthetic'),
    (lambda t: t.assign(**{'Patient ID': [1, None, 2, 2, 3, 3]}), {}, 'row 2 .counted from 1'),
    (lambda t: t[:0], {}, 'no rows')])
def test_what_a_table_must_have(scans, change, kw, message):
    folder, table = scans
    with pytest.raises(ValueError, match=message): from_csv(change(table), folder, **kw)


def test_what_a_table_may_lack(scans):
    folder, table = scans
    assert from_csv(table.drop(columns='Patient ID'), folder).patient_id is None
    marked = from_csv(table.assign(synthetic=[0, 1, 0, 0, 0, 0]), folder)
    assert marked.synthetic.tolist() == [False, True] + [False]*4


def test_missing_files_stop_or_are_left_out_with_a_warning(scans):
    folder, table = scans
    (folder/'4.png').unlink()
    with pytest.raises(FileNotFoundError, match='1 of 6 .*4.png'): from_csv(folder/'table.csv')
    with pytest.warns(UserWarning, match='1 of 6 .*4.png'): data = from_csv(folder/'table.csv', missing='skip')
    assert len(data) == 5 and list(data.meta.age) == [0, 1, 2, 3, 5]
    assert data.y[:, 0].tolist() == [1, 0, 0, 0, 1]
    with pytest.raises(FileNotFoundError): from_csv(folder/'no.csv')


def test_damaged_files_are_named(scans):
    from cxr_workbench.files import UnreadableImage
    folder, _ = scans
    (folder/'3.png').write_bytes(b'not an image')
    data = from_csv(folder/'table.csv').subset([1, 3, 5])
    bad = data.check_files()
    assert list(bad) == ['row', 'path', 'reason'] and bad.row.tolist() == [1]
    assert bad.path.tolist() == [str(folder/'3.png')] and bad.reason[0]
    assert not len(small().check_files())
    with pytest.raises(UnreadableImage, match='3.png'): data.batch([0, 1])


def test_packed_images_equal_the_files(scans):
    from cxr_workbench.files import pack
    folder, table = scans
    pack(folder/'table.csv', folder/'packed', size=8, path_column='Path')
    files = from_csv(folder/'table.csv', size=8)
    packed = from_csv(folder/'table.csv', packed=folder/'packed')
    assert packed.size == 8
    difference = packed.batch([5, 0]).x - files.batch([5, 0]).x
    assert difference.abs().max() <= .51/255
    reverse = from_csv(table[::-1].reset_index(drop=True), folder, packed=folder/'packed')
    assert torch.equal(reverse[0].x, packed[5].x)
    with pytest.raises(ValueError, match='size=64'): from_csv(folder/'table.csv', packed=folder/'packed', size=64)
    for i in range(6): (folder/f'{i}.png').unlink()
    again = from_csv(folder/'table.csv', packed=folder/'packed')
    assert torch.equal(pickle.loads(pickle.dumps(again))[3].x, packed[3].x)


def test_what_could_not_be_packed_is_named_or_left_out_with_a_warning(scans):
    from cxr_workbench.files import pack
    folder, table = scans
    (folder/'3.png').write_bytes(b'not an image')
    pack(folder/'table.csv', folder/'packed', size=8, path_column='Path')
    with pytest.raises(FileNotFoundError, match='1 of 6 .*3.png'): from_csv(folder/'table.csv', packed=folder/'packed')
    with pytest.warns(UserWarning, match='3.png'):
        data = from_csv(folder/'table.csv', packed=folder/'packed', missing='skip')
    assert list(data.meta.age) == [0, 1, 2, 4, 5]
    assert data[3].x.mean() == pytest.approx(160/255)


def test_packed_layouts_need_no_files(tmp_path):
    from cxr_workbench.files import pack
    from cxr_workbench.tables import nih14_table
    folder = make_nih(tmp_path)
    pack(nih14_table(tmp_path)[0], tmp_path/'packed', size=8)
    make_chexpert(tmp_path)
    home = tmp_path/'CheXpert-v1.0-small'
    pack(home/'train.csv', tmp_path/'packed_chexpert', size=8, path_column='Path', root=tmp_path)
    files = nih14(tmp_path, 'test', size=8), chexpert(tmp_path, size=8)
    expected = [data.batch(range(len(data))).x for data in files]
    for file in [*folder.glob('*'), *home.rglob('*.jpg')]: file.unlink()
    packed = nih14(tmp_path, 'test', packed=tmp_path/'packed'), chexpert(tmp_path, packed=tmp_path/'packed_chexpert')
    for data, x in zip(packed, expected):
        assert (data.batch(range(len(data))).x - x).abs().max() <= .51/255


def test_npz_files_that_are_none(tmp_path):
    np.savez(tmp_path/'other.npz', pictures=np.zeros(3))
    images = np.zeros((4, 8, 8), np.uint8)
    np.savez(tmp_path/'good.npz', images=images, labels=np.eye(4), patient_id=[1, 1, 2, 2])
    (tmp_path/'cut.npz').write_bytes((tmp_path/'good.npz').read_bytes()[:300])
    np.save(tmp_path/'array.npy', np.zeros(3))
    for name in ('other.npz', 'cut.npz', 'array.npy'):
        with pytest.raises(ValueError, match=name): from_npz(tmp_path/name)
    with pytest.raises(FileNotFoundError): from_npz(tmp_path/'no.npz')
    data, table = from_npz(tmp_path/'good.npz'), pd.DataFrame({'Edema': [0, 1], 'npz_row': [3, 1]})
    assert data.patient_id.tolist() == [1, 1, 2, 2] and torch.equal(data.y, torch.eye(4))
    assert from_npz(tmp_path/'good.npz', table).rows.tolist() == [3, 1]
    with pytest.raises(ValueError, match='npz_row 1'): from_npz(tmp_path/'good.npz', table.assign(npz_row=1))
    with pytest.raises(ValueError, match='lengths'): from_npz(tmp_path/'good.npz', table.drop(columns='npz_row'))
    with pytest.raises(IndexError, match='4'): from_npz(tmp_path/'good.npz', table.assign(npz_row=[0, 4]))


# ---- layouts

def make_nih(root, nested=True):
    names, findings = [f'{i:08d}_000.png' for i in range(8)], ['No Finding', 'Effusion|Mass', 'Hernia', 'Effusion']*2
    table = pd.DataFrame({'Image Index': names, 'Finding Labels': findings, 'Patient ID': [0, 0, 1, 1, 2, 2, 3, 3]})
    table.to_csv(root/'Data_Entry_2017_v2020.csv.gz', index=False)
    folder = root/'images_002'/'images' if nested else root/'images'
    folder.mkdir(parents=True)
    for i, name in enumerate(names):
        Image.fromarray(np.full((16, 16), 20*i, np.uint8)).save(folder/name)
    (root/'train_val_list.txt').write_text('\n'.join(names[:4]))
    (root/'test_list.txt').write_text('\n'.join(names[4:]) + '\n')
    return folder


@pytest.mark.parametrize('nested', [True, False])
def test_nih_layout(tmp_path, nested):
    make_nih(tmp_path, nested)
    data, test = nih14(tmp_path, size=8), nih14(tmp_path, 'test', size=8)
    assert data.label_names == NIH14 and data.known.all() and len(data) == 8
    assert data.meta.split.tolist() == ['train_val']*4 + ['test']*4
    found = [(row, NIH14[label]) for row, label in data.y[:4].nonzero().tolist()]
    assert found == [(1, 'Effusion'), (1, 'Mass'), (2, 'Hernia'), (3, 'Effusion')]
    assert test.patient_id.tolist() == [2, 2, 3, 3] and torch.equal(test[0].x, data[4].x)
    assert data[4].x.mean() == pytest.approx(80/255)


def test_nih_layout_with_parts_missing(tmp_path):
    record = check_dataset('nih14', tmp_path)
    assert list(record) == ['check', 'status', 'detail', 'rows'] and record.status.tolist() == ['missing']
    folder = make_nih(tmp_path)
    assert not check_dataset('nih14', tmp_path).status.isin(['missing', 'wrong']).any()
    (folder/'00000005_000.png').unlink()
    record = check_dataset('nih14', tmp_path).set_index('check')
    assert record.status['image files'] == 'missing' and '00000005_000.png' in record.detail['image files']
    assert record.rows['image files'] == 7 and record.rows['table'] == 8
    with pytest.raises(FileNotFoundError, match='00000005_000.png'): nih14(tmp_path)
    with pytest.warns(UserWarning): assert len(nih14(tmp_path, missing='skip')) == 7
    assert len(nih14(tmp_path, 'train_val')) == 4
    (tmp_path/'test_list.txt').write_text('00000003_000.png')  # patient 1 is in the other list too
    assert 'wrong' in check_dataset('nih14', tmp_path).status.tolist()
    with pytest.raises(ValueError, match='both official lists: 1'): nih14(tmp_path)
    (tmp_path/'test_list.txt').unlink()
    with pytest.raises(FileNotFoundError, match='test_list'): nih14(tmp_path, 'test')


def make_chexpert(root, name='CheXpert-v1.0-small'):
    rows = []
    for patient, view in [(1, 'frontal'), (1, 'lateral'), (2, 'frontal'), (64540, 'frontal')]:
        part = 'valid' if patient == 64540 else 'train'
        path = f'{name}/{part}/patient{patient:05d}/study1/view1_{view}.jpg'
        (root/path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((16, 20), 100, np.uint8)).save(root/path)
        findings = {**dict.fromkeys(CHEXPERT), 'Edema': -1., 'Cardiomegaly': 1., 'Fracture': 0.}
        rows.append((part, {'Path': path, 'Sex': 'Male', **findings}))
    for part in ('train', 'valid'):
        table = pd.DataFrame([row for p, row in rows if p == part])
        table.to_csv(root/name/f'{part}.csv', index=False)


@pytest.mark.parametrize('version, name', [('small', 'CheXpert-v1.0-small'), ('full', 'CheXpert-v1.0')])
def test_chexpert_layout(tmp_path, version, name):
    make_chexpert(tmp_path, name)
    data = chexpert(tmp_path, version, size=8)
    assert data.label_names == CHEXPERT and data[0].x.shape == (1, 1, 8, 8)
    assert data.patient_id.tolist() == ['patient00001', 'patient00001', 'patient00002']
    assert data.y.sum(0).nonzero()[:, 0].tolist() == [CHEXPERT.index('Cardiomegaly')] and data.known.all()
    ignoring = chexpert(tmp_path/name, version, policy=LabelPolicy('ignore', 'unknown'))
    known = [CHEXPERT[label] for label in ignoring.known.sum(0).nonzero()[:, 0]]
    assert sorted(known) == ['Cardiomegaly', 'Fracture']
    assert len(chexpert(tmp_path, version, frontal_only=True)) == 2
    assert chexpert(tmp_path, version, 'valid').patient_id.tolist() == ['patient64540']
    two = chexpert(tmp_path, version, labels=['Edema', 'Fracture'], policy=LabelPolicy('ones'))
    assert two.y.tolist() == [[1, 0]]*3
    record = check_dataset('chexpert', tmp_path).set_index('check')
    assert record.rows['train: table'] == 3 and record.rows['valid: table'] == 1
    assert record.rows['train, frontal: frontal views'] == 2
    assert not record.status.isin(['missing', 'wrong']).any()


def test_doctor_knows_its_layouts(tmp_path):
    with pytest.raises(ValueError, match='nih14'): check_dataset('mnist', tmp_path)
    with pytest.raises(FileNotFoundError): check_dataset('nih14', tmp_path/'nowhere')
    assert check_dataset('chexpert', tmp_path).status.tolist() == ['missing']*2


# ---- the real subset

def test_real_subset(cxr_data):
    table = pd.read_csv(cxr_data/'nih14'/'subset.csv')
    data = from_npz(cxr_data/'nih14'/'images_64.npz', cxr_data/'nih14'/'subset.csv')
    with np.load(cxr_data/'nih14'/'images_64.npz') as file: images, labels = file['images'], file['labels']
    assert len(data) == 2520 and data.label_names == NIH14
    assert data.size == 64 and data.known.all()
    assert data.y.sum(0).tolist() == labels.sum(0).tolist() == table[NIH14].sum().tolist()
    rows = [0, 1, 1000, 2519]
    pixels = torch.from_numpy(images[table.npz_row[rows]])
    assert torch.equal(data.batch(rows).x[:, 0], pixels.float()/255)
    folds, part = data.meta.cv_fold, data.meta.split
    for fold in range(5): check_split(data.patient_id[folds != fold], data.patient_id[folds == fold])
    check_split(data.patient_id[part == 'train'], data.patient_id[part == 'val'])
    assert from_npz(cxr_data/'nih14'/'images_64.npz').y.sum() == data.y.sum()


def test_real_files_as_a_table(cxr_data):
    table = pd.read_csv(cxr_data/'nih14'/'subset.csv').dropna(subset='file_256').reset_index(drop=True)[:8]
    data = from_csv(table, cxr_data/'nih14', path='file_256', size=64)
    small = from_npz(cxr_data/'nih14'/'images_64.npz', table)
    x, y = data.batch(range(8)).x.flatten(1), small.batch(range(8)).x.flatten(1)
    together = torch.stack([torch.corrcoef(torch.stack(pair))[0, 1] for pair in zip(x, y)])
    assert (together > .98).all() and torch.equal(data.y, small.y) and not len(data.check_files())


def test_real_layout(cxr_data, tmp_path):
    originals = sorted((cxr_data/'nih14'/'originals_1024').glob('*.png'))
    (tmp_path/'images').mkdir()
    for file in originals: (tmp_path/'images'/file.name).symlink_to(file)
    for name in ('Data_Entry_2017_v2020.csv.gz', 'train_val_list.txt.gz', 'test_list.txt.gz'):
        (tmp_path/name).symlink_to(cxr_data/'nih14'/'labels'/name)
    record = check_dataset('nih14', tmp_path).set_index('check')
    assert record.rows['table'] == 112120 and record.rows['image files'] == len(originals)
    assert record.rows['train_val list'] == 86524 and record.rows['test list'] == 25596
    with pytest.raises(FileNotFoundError, match=f'{112120 - len(originals)} of 112120'): nih14(tmp_path)
    with pytest.warns(UserWarning): data = nih14(tmp_path, missing='skip')
    assert len(data) == len(originals)
    assert data.batch(range(len(data))).x.shape == (len(originals), 1, 64, 64)
