"Tables that were once read wrongly, and similar ones: each with the right value, or the words of its refusal."
import bz2, csv, gzip, io, lzma, warnings, zipfile
import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from PIL import Image
from cxr_workbench.data import from_arrays, from_csv, from_npz, hold_out, nih14
from cxr_workbench.labels import LabelPolicy, check_patients
from cxr_workbench.tables import check_dataset, find_column, find_labels, find_patients
from cxr_workbench.tables import read_table, split_findings, table_rows


@pytest.fixture(scope='module')
def cases(cxr_data):
    "The folder of the cases from the field."
    if not (cxr_data/'field_cases').is_dir(): pytest.skip('no field_cases beside the real chest X-rays')
    return cxr_data/'field_cases'


@pytest.fixture
def written(tmp_path):
    "Write a table, text or bytes, and give its path."
    def write(text, name='table.csv', encoding='utf-8'):
        (tmp_path/name).write_bytes(text if isinstance(text, bytes) else text.encode(encoding))
        return tmp_path/name
    return write


def grey(folder, names):
    "Small grey images."
    for name in names:
        (folder/name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((16, 16), 90, np.uint8)).save(folder/name)


# ---- the cases themselves

def test_01_a_table_without_patients_is_split_by_its_file_names(cases, tmp_path):
    file = cases/'01_split_without_patients'/'table.csv'
    names = pd.read_csv(file)['Image Index']
    grey(tmp_path, names)
    who = names.str[:8].to_numpy()
    with pytest.warns(UserWarning, match='names no patients'): data = from_csv(file, root=tmp_path, size=16)
    assert data.patient_id is None
    with pytest.warns(UserWarning, match='60 patients of 300 images are taken from the file names .ChestX-ray14'):
        train, held = hold_out(data)
    assert not set(who[train]) & set(who[held])
    assert len(held) == 60
    assert sorted([*train, *held]) == list(range(300))
    bare = from_arrays(np.zeros((300, 16, 16), np.uint8), np.zeros((300, 2)))
    with pytest.raises(ValueError, match='no patients.*each_image=True'): hold_out(bare)
    assert len(hold_out(bare, each_image=True)[1]) == 60


def test_03_a_comma_at_the_end_of_each_line(cases):
    folder = cases/'03_trailing_comma'
    data = from_npz(folder/'x.npz', folder/'trail.csv')
    assert data.y.tolist() == [[1, 0], [0, 1], [1, 1]]
    assert data.patient_id.tolist() == [1, 2, 3]
    assert data.label_names == ['Edema', 'Pneumonia'] and list(data.meta) == ['path', 'patient_id']
    moved = pd.read_csv(folder/'trail.csv')
    with pytest.raises(ValueError, match='index_col=False'): from_npz(folder/'x.npz', moved)


def test_04_identifiers_that_a_spreadsheet_rounded(cases):
    file = cases/'04_patient_id_overflow'/'table.csv'
    for ids in (pd.read_csv(file).PatientID, read_table(file).PatientID):
        with pytest.raises(ValueError, match='digits.*as text'): check_patients(ids)


def test_08_minus_one_is_no_row(cases):
    folder = cases/'08_npz_row_minus_one'
    with pytest.raises(ValueError, match='npz_row is -1 in line 2'): from_npz(folder/'x.npz', folder/'t.csv')
    with pytest.raises(IndexError, match='npz_row is -1'): from_npz(folder/'x.npz', folder/'t.csv')


def test_09_labels_that_are_not_taken_are_named(cases):
    table = read_table(cases/'09_labels_silently_left_out'/'official_test_head.csv')
    with pytest.warns(UserWarning) as told: found = find_labels(table)
    assert len(found) == 11 and len(told) == 1
    for name in ('lung mass', 'lung nodule', 'pleural thicken'): assert repr(name) in str(told[0].message)
    assert 'img_path' not in str(told[0].message) and 'Finding Label' not in str(told[0].message).split('columns')[1]


def test_12_a_label_twice(cases):
    file = cases/'12_duplicate_label_column'/'t.csv'
    with pytest.raises(ValueError, match="'Edema' more than once.*columns 3, 4"): from_csv(file)
    with pytest.raises(ValueError, match="'Edema' more than once"): find_labels(pd.read_csv(file))
    with pytest.raises(ValueError, match="'Edema' more than once"): find_labels(read_table(file), ['Edema'])


# ---- the text of a table

HEAD = 'path,patient_id,Edema,Mass\n'
PLAIN = HEAD + 'a.png,1,1,0\nb.png,2,0,-1\n'


@pytest.mark.parametrize('text, encoding', [
    (PLAIN, 'utf-8'), (PLAIN, 'utf-8-sig'), (PLAIN, 'utf-16'), (PLAIN, 'utf-16-le'), (PLAIN, 'utf-16-be'),
    (PLAIN, 'utf-32'), (PLAIN.replace(',', ';'), 'utf-8'), (PLAIN.replace(',', '\t'), 'utf-8'),
    (PLAIN.replace(',', '|'), 'utf-8'), (PLAIN.replace('\n', '\r\n'), 'utf-8'),
    (PLAIN.replace('\n', '\r'), 'utf-8'), (PLAIN.rstrip('\n'), 'utf-8'),
    (PLAIN.replace('\n', ',\n'), 'utf-8'), (PLAIN.replace(',0\n', ',0,,\n'), 'utf-8'),
    (PLAIN.replace('Mass\n', 'Mass,\n'), 'utf-8'), (PLAIN.replace('\n', ';\n').replace(',', ';'), 'utf-8'),
    ('sep=;\n' + PLAIN.replace(',', ';'), 'utf-8'), ('# made by hand\n\n' + PLAIN, 'utf-8'),
    (PLAIN + ',,,\n\n', 'utf-8'), (PLAIN.replace('a.png', '"a.png"'), 'utf-8'),
])
def test_one_table_in_many_hands(written, text, encoding):
    table = read_table(written(text, encoding=encoding))
    assert list(table) == ['path', 'patient_id', 'Edema', 'Mass']
    assert table.to_numpy().tolist() == [['a.png', 1, 1, 0], ['b.png', 2, 0, -1]]
    assert LabelPolicy('ones')(table[['Edema', 'Mass']])[0].tolist() == [[1, 0], [0, 1]]


def test_compressed_tables(written, tmp_path):
    packers = (
        ('t.csv.gz', gzip.compress), ('t.csv.bz2', bz2.compress),
        ('t.csv.xz', lzma.compress), ('t.csv', gzip.compress))
    for name, pack in packers:
        assert read_table(written(pack(PLAIN.encode()), name)).patient_id.tolist() == [1, 2]
    with zipfile.ZipFile(tmp_path/'t.zip', 'w') as archive: archive.writestr('t.csv', PLAIN)
    assert read_table(tmp_path/'t.zip').patient_id.tolist() == [1, 2]
    with zipfile.ZipFile(tmp_path/'t.zip', 'a') as archive: archive.writestr('u.csv', PLAIN)
    with pytest.raises(ValueError, match='2 files'): read_table(tmp_path/'t.zip')


@pytest.mark.parametrize('text, words', [
    (HEAD + 'a.png,1,1,0\nb.png,2,0\n', 'line 3 has 3 fields and line 1 names 4'),
    (HEAD + 'a.png,1,1,0,seen\n', "line 2 has 5 fields.*'seen' has no name"),
    ('path,Edema\n1,a.png,1\n2,b.png,0\n', 'row numbers too'),
    ('# note\n\n' + HEAD + 'a.png,1\n', 'line 4 has 2 fields and line 3 names 4'),
    (HEAD + 'a.png,1,1,0\n' + HEAD + 'b.png,2,0,1\n', 'line 3 repeats the names of line 1'),
    (HEAD + '"a.png,1,1,0\nb.png,2,0,1\n', 'line 2 is no CSV'),
    (HEAD + 'a.png,1,1,0\n# the end\n', 'line 3 has 1 fields'), (HEAD + 'a.png,1,0,5,0\n', 'line 2'),
    ('', 'empty'), (HEAD, 'no rows'), ('<!DOCTYPE html><html>', 'a web page'),
    (b'\xd0\xcf\x11\xe0 and more', 'Excel'), (b'PAR1 and more', 'Parquet'),
    (HEAD.encode() + b'a.png,1,1,0\0\n', 'zero bytes'),
    (gzip.compress(PLAIN.encode(), mtime=0)[:-9], 'not a table'),
])
def test_what_cannot_be_a_table_says_so_by_line(written, text, words):
    with pytest.raises(ValueError, match=words): read_table(written(text))


def test_a_workbook_under_another_name(tmp_path):
    with zipfile.ZipFile(tmp_path/'t.csv', 'w') as archive: archive.writestr('[Content_Types].xml', '')
    with pytest.raises(ValueError, match='Excel workbook.*CSV'): read_table(tmp_path/'t.csv')


def test_latin_letters_are_read_and_said(written):
    file = written('path,patient,Edema\nété.png,ö1,1\n', encoding='latin-1')
    with pytest.warns(UserWarning, match='Windows-1252'): table = read_table(file)
    assert table.path.tolist() == ['été.png'] and table.patient.tolist() == ['ö1']
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert read_table(file, encoding='latin-1').path[0] == 'été.png'
        assert read_table(written('path,Edema\nété.png,1\n')).path[0] == 'été.png'


def test_a_field_may_hold_separators_quotes_and_lines(written):
    table = read_table(written('path,report,Edema\na.png,"heart; ""big"",\nlungs clear",1\nb.png,,0\n'))
    assert table.report[0] == 'heart; "big",\nlungs clear' and table.Edema.tolist() == [1, 0]


cells = st.text(st.sampled_from('ab1,;\t|"\n\r #é'), max_size=4)


def bodies_of(width):
    "One to six rows of some texts each."
    row = st.lists(cells, min_size=width, max_size=width)
    return st.lists(row, min_size=1, max_size=6)


bodies = st.integers(1, 4).flatmap(bodies_of)
quotings = st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL])
encodings = st.sampled_from(['utf-8', 'utf-8-sig', 'utf-16'])


@given(bodies, st.sampled_from(',;\t|'), quotings, encodings)
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_is_written_as_csv_is_read_back(written, rows, separator, quoting, encoding):
    text, names = io.StringIO(newline=''), [f'column {k}' for k in range(len(rows[0]))]
    csv.writer(text, delimiter=separator, quoting=quoting).writerows([names, *rows])
    file, kept = written(text.getvalue(), encoding=encoding), [row for row in rows if ''.join(row).strip()]
    if not kept:
        with pytest.raises(ValueError, match='no rows'): read_table(file)
        return
    table = read_table(file, sep=separator, dtype=str, keep_default_na=False)
    assert list(table) == names and table.to_numpy().tolist() == kept


def test_a_table_reads_as_pandas_reads_it_where_nothing_is_wrong(cxr_data):
    for file in ('nih14/subset.csv', 'nih14/label_counts.csv', 'nih14/bbox_subset_1024px.csv'):
        if (cxr_data/file).is_file():
            pd.testing.assert_frame_equal(read_table(cxr_data/file), pd.read_csv(cxr_data/file))


# ---- identifiers

LONG_IDS = ['839860488694292331637988235681460987', '839860488694292331637988235681460988']


@pytest.mark.parametrize('ids, right', [
    (['007', '7', '8'], ['007', '7', '8']),
    (['7', '8', '10'], [7, 8, 10]),
    (['007', '008', '010'], [7, 8, 10]),
    (['7.0', '8.0', '7.0'], [7, 8, 7]),
    (['9007199254740993', '9007199254740992', '1'], [9007199254740993, 9007199254740992, 1]),
    ([*LONG_IDS, '1'], [*LONG_IDS, '1']),
    (['12.1', '12.10', '12.2'], ['12.1', '12.10', '12.2']),
    (['1e5', '100000', 'ab1'], ['1e5', '100000', 'ab1']),
    ([' p1', 'p1 ', 'p2'], ['p1', 'p1', 'p2']),
    (['1_0', '10', '2'], ['1_0', '10', '2']),
    (['2020-01', '2020-1', 'x'], ['2020-01', '2020-1', 'x']),
    (['True', 'False', 'true'], ['True', 'False', 'true']),
])
def test_identifiers_keep_what_the_table_says(written, tmp_path, ids, right):
    grey(tmp_path, ['a.png', 'b.png', 'c.png'])
    rows = ''.join(f'{name}.png,{i},1\n' for name, i in zip('abc', ids))
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        data = from_csv(written('path,patient_id,Edema\n' + rows), size=8)
        other = from_csv(written('path,who,Edema\n' + rows), size=8, patient='who')
    assert data.patient_id.tolist() == right == other.patient_id.tolist()
    assert data.patient_id.dtype.kind == ('i' if isinstance(right[0], int) else 'U')


@pytest.mark.parametrize('ids, words', [
    (['NA', '1'], 'line 2.*NA'), (['nan', 'a'], 'line 2'), (['None', 'a'], 'line 2'),
    (['', 'a'], 'line 2'), ([' ', 'a'], 'line 2'), (['a', '#N/A'], 'line 3'),
    (['1.90E+38', '3.09E+38'], 'digits'), (['abc', '1.90E+38'], 'line 3: .* digits'), (['7', '7.0'], 'two spellings'),
])
def test_missing_and_rounded_identifiers_are_refused(written, tmp_path, ids, words):
    grey(tmp_path, ['a.png', 'b.png'])
    with pytest.raises(ValueError, match=words):
        from_csv(written('path,patient_id,Edema\n' + ''.join(f'{n}.png,{i},1\n' for n, i in zip('ab', ids))), size=8)


@pytest.mark.parametrize('ids, words', [
    ([2.**53, 1.], 'lost digits'), (np.float32([2**24, 1]), 'lost digits'),
    ([np.inf, 1.], 'lost digits'), ([2**63, -1], 'lost digits'), ([1.5, 2.5], '12.1 and 12.10'),
    ([True, False], 'bool'), (np.array(['2020-01-01', '2020-01-02'], 'M8[D]'), 'datetime64'),
    ([1j, 2], 'complex'), ([[1], [2]], 'shape'),
    (pd.Series(['a', 1.25], dtype=object), r'row 2 \(counted from 1\): .* 12.1 and 12.10'),
    (np.array(['a', 1.25], dtype=object), 'row 1: .* 12.1 and 12.10'),
    (pd.Series([True, 'a'], dtype=object), 'truth'),
    (pd.Series(['a', pd.NA]), 'row 2 .counted from 1'),
    (pd.Series(['a', pd.NaT], ['x', 'y']), "index label 'y'"),
])
def test_arrays_of_identifiers_that_numpy_would_take(ids, words):
    with pytest.raises(ValueError, match=words): check_patients(ids)


def test_arrays_of_identifiers_that_are_well():
    assert check_patients([1., 2., 2.**53 - 1]).tolist() == [1, 2, 2**53 - 1]
    assert check_patients(np.uint64([2**63 + 1])).tolist() == [2**63 + 1]
    assert check_patients(pd.Series([1, 2.0, 'a', b'b'], dtype=object)).tolist() == ['1', '2', 'a', 'b']
    assert check_patients(pd.Series([1, 2], dtype='Int64')).tolist() == [1, 2]
    assert check_patients(pd.Categorical(['b', 'a'])).tolist() == ['b', 'a']
    large = [2**60 + 1, 2**60]
    assert check_patients(pd.Series(large, dtype='Int64')).tolist() == large


@pytest.mark.parametrize('ids', [['P1', 'p1'], ["'007", '007'], ['="7"', '7'], ['a b', 'ab']])
def test_similar_identifiers_are_named(ids):
    with pytest.warns(UserWarning, match='two identifiers'):
        data = from_arrays(np.zeros((2, 8, 8)), np.zeros((2, 1)), patient_id=ids)
    assert len(set(data.patient_id)) == 2


# ---- columns

@pytest.mark.parametrize('head, words', [
    ('path,patient_id,Edema,edema', 'spelling'), ('path,patient_id,Edema,Edema.1', 'more than once'),
    ('path,patient_id,Edema,EDEMA ', 'spelling'),
    ('path,patient_id,Pleural Effusion,Pleural_Effusion', 'spelling'),
    ('path,path,patient_id,Edema', "'path' more than once"),
    ('path,patient_id,patient_id,Edema', "'patient_id' more than once"),
    ('path,patient_id,Patient ID,Edema', 'could all be the patients'),
    ('path,patient_id,subject_id,Edema', 'group the rows differently'),
    ('path,Path,patient_id,Edema', 'could all be the image files'),
])
def test_columns_that_stand_twice(written, tmp_path, head, words):
    grey(tmp_path, ['a.png', 'b.png'])
    cells = {'path': 'a.png', 'Path': 'a.png'}
    row = ','.join(cells.get(name, '1') for name in head.split(','))
    others = {'path': 'b.png', 'Path': 'b.png', 'subject_id': '2', 'Patient ID': '2'}
    other = ','.join(others.get(name, '1') for name in head.split(','))
    with pytest.raises(ValueError, match=words): from_csv(written(f'{head}\n{row}\n{other}\n'), size=8)


def test_two_columns_of_patients_that_agree_are_one():
    table = pd.DataFrame({'patient_id': [1, 1, 2], 'subject_id': ['a', 'a', 'b']})
    assert find_patients(table) == 'patient_id'
    assert find_patients(table.assign(subject_id=['a', 'b', 'c']), 'subject_id') == 'subject_id'
    with pytest.raises(ValueError, match='group the rows differently'):
        find_patients(table.assign(subject_id=['a', 'b', 'c']))


def test_columns_twice_that_nobody_asks_for_do_no_harm(written):
    table = read_table(written('path,note,note,Edema,\na.png,x,y,1,\n'))
    assert list(table) == ['path', 'note', 'note.1', 'Edema']
    assert table['note.1'][0] == 'y'
    assert find_labels(table) == ['Edema']
    assert list(read_table(written(',Edema,a,a.1,a\n0,1,2,3,4\n'))) == ['Unnamed: 0', 'Edema', 'a', 'a.1', 'a.2']
    with pytest.raises(ValueError, match='more than once'):
        find_column(pd.DataFrame([[1, 2]], columns=['path', 'path']), 'image files')


@pytest.mark.parametrize('name, looks', [
    ('person id', True), ('PatientNumber', True), ('mrn', True), ('Subject', True), ('Patient Age', False),
    ('patient_sex', False), ('study', False),
])
def test_what_looks_like_patients_is_named(name, looks):
    table = pd.DataFrame({'path': ['a.png'], name: [5]})
    if name == 'Subject': assert find_patients(table) == name; return
    with pytest.warns(UserWarning, match='names no patients') as told: assert find_patients(table) is None
    assert (repr(name) in str(told[0].message)) == looks


def test_what_looks_like_a_label_and_what_does_not():
    table = pd.DataFrame({
        'Edema': [1, 0], 'wet lung': [1, None], 'old clip': ['0', ''], 'odd': [True, False],
        'age': [1, 2], 'p': [.5, 1], 'no': [None, None], 'sex': ['M', 'F'],
    })
    with pytest.warns(UserWarning, match=r"\['wet lung', 'old clip', 'odd'\] look like labels"):
        assert find_labels(table) == ['Edema']
    with pytest.raises(ValueError, match="These look like labels: wet lung"):
        find_labels(table[['wet lung', 'age']])
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert find_labels(table, ['Edema']) == ['Edema']
        assert find_labels(table, others=['wet lung', 'old clip', 'odd']) == ['Edema']
    late = pd.DataFrame({'Edema': [0]*500, 'rare': [None]*300 + [1]*200})
    with pytest.warns(UserWarning, match='rare'): find_labels(late)


# ---- entries of label columns

@pytest.mark.parametrize('entry, y', [
    ('1', 1), ('1.0', 1), ('"1,0"', 1), ('TRUE', 1), ('True', 1),
    ('false', 0), ('-1', 1), ('"-1,0"', 1), ('', 0), ('NA', 0),
    (' 1 ', 1), ('1e0', 1),
])
def test_entries_that_are_states(written, entry, y):
    table = read_table(written(f'path,Edema\na.png,{entry}\nb.png,0\n'))
    assert LabelPolicy('ones')(table[['Edema']])[0].tolist() == [[y], [0]]


@pytest.mark.parametrize('entry', [
    '2', '0.5', 'x', 'yes', '50%', '"1,000"', '"0,5"', '1_0', 'inf', '0.999999999', '2020-01-01', '1;0', '-2',
    '1e5', '10',
])
def test_entries_that_are_none(written, entry):
    table = read_table(written(f'path,Edema\na.png,1\nb.png,{entry}\n'), sep=',', lines=True)
    with pytest.raises(ValueError, match="line 3, column 'Edema'"): LabelPolicy()(table[['Edema']])


# ---- row numbers

@pytest.mark.parametrize('rows, words', [
    ([-1, 2], '-1 in rows 0'), ([0, 3], '3 in rows 1'), ([1, 1], 'more than one row.*npz_row 1'),
    ([0, .5], 'no row number'), ([0, None], 'no row number'), ([0, 'x'], 'no row number'),
    ([True, False], 'truth'), ([2, -1, 0], '-1'), ([np.inf, 0], 'images 0 to 2'),
    (['0', '-1'], '-1'),
])
def test_rows_of_a_table_that_are_none(rows, words):
    with pytest.raises(ValueError, match=words): table_rows(rows, 3, 'npz_row')


def test_rows_of_a_table(tmp_path):
    for numbers in ([2, 0], [2., 0.]):
        assert table_rows(numbers, 3, 'npz_row').tolist() == [2, 0]
    assert table_rows(['2', '0'], 3, 'r').dtype == np.int64
    numbered = np.arange(3, dtype=np.uint8)[:, None, None]*np.ones((1, 8, 8), np.uint8)
    np.savez(tmp_path/'x.npz', images=numbered)
    table = pd.DataFrame({'patient_id': [1, 2], 'Edema': [1, 0], 'place': [2, 0]})
    assert from_npz(tmp_path/'x.npz', table, row='place')[0].x.max()*255 == 2
    assert from_npz(tmp_path/'x.npz', table.rename(columns={'place': 'NPZ_Row'})).rows.tolist() == [2, 0]
    with pytest.raises(ValueError, match="no column 'npz_rows'"): from_npz(tmp_path/'x.npz', table, row='npz_rows')
    with pytest.raises(ValueError, match='lengths'): from_npz(tmp_path/'x.npz', table)
    with pytest.raises(IndexError):
        from_arrays(np.zeros((3, 8, 8)), np.zeros((2, 1)), rows=[-1, 0])


# ---- what is said twice, beside and inside an .npz

def test_an_npz_and_its_table_must_mean_the_same(tmp_path):
    images = np.zeros((3, 8, 8), np.uint8)
    np.savez(tmp_path/'x.npz', images=images, patient_id=[5, 5, 6], synthetic=[0, 0, 1])
    table = pd.DataFrame({'patient_id': ['a', 'a', 'b'], 'Edema': [1, 0, 1]})
    data = from_npz(tmp_path/'x.npz', table)
    assert data.patient_id.tolist() == ['a', 'a', 'b'] and data.synthetic.tolist() == [False, False, True]
    assert from_npz(tmp_path/'x.npz', table.drop(columns='patient_id')).patient_id.tolist() == [5, 5, 6]
    permuted = table.assign(npz_row=[2, 0, 1], patient_id=['b', 'a', 'a'])
    assert from_npz(tmp_path/'x.npz', permuted).synthetic.tolist() == [True, False, False]
    changes = (
        (dict(patient_id=['a', 'b', 'b']), 'different patient_id'),
        (dict(npz_row=[2, 0, 1]), 'different patient_id'),
        (dict(synthetic=[1, 0, 0]), 'different synthetic'))
    for change, words in changes:
        with pytest.raises(ValueError, match=words): from_npz(tmp_path/'x.npz', table.assign(**change))


def test_labels_of_an_npz_are_chosen_by_name(tmp_path):
    images = np.zeros((2, 8, 8), np.uint8)
    np.savez(
        tmp_path/'x.npz', images=images, patient_id=[1, 2], label_names=['a', 'b', 'c'],
        labels=[[1, 0, 0], [0, 1, 0]],
        known=[[1, 1, 0], [1, 1, 1]])
    data = from_npz(tmp_path/'x.npz', labels=['b', 'a'])
    assert data.label_names == ['b', 'a']
    assert data.y.tolist() == [[0, 1], [1, 0]]
    assert data.known.all()
    with pytest.raises(ValueError, match=r"no labels \['d'\]"): from_npz(tmp_path/'x.npz', labels=['a', 'd'])
    with pytest.raises(ValueError, match='column of a table'): from_npz(tmp_path/'x.npz', patient='who')
    np.savez(tmp_path/'y.npz', images=images, labels=[[1, 0], [0, 1]])
    with pytest.warns(UserWarning, match='no patient_id'):
        assert from_npz(tmp_path/'y.npz', labels=['p', 'q']).label_names == ['p', 'q']


# ---- masks that NumPy would cast

@pytest.mark.parametrize('values, right', [
    (['False', 'True'], [False, True]), ([0, 1], [False, True]),
    (['0', '1'], [False, True]), ([0., 1.], [False, True]),
    (['FALSE', 'true'], [False, True]),
])
def test_text_that_means_false_is_false(values, right, written, tmp_path):
    assert from_arrays(np.zeros((2, 8, 8)), np.zeros((2, 1)), synthetic=values).synthetic.tolist() == right
    known = np.array(values)[:, None]
    data = from_arrays(np.zeros((2, 8, 8)), np.zeros((2, 1)), known)
    assert data.known[:, 0].tolist() == right
    grey(tmp_path, ['a.png', 'b.png'])
    file = written('path,patient_id,Edema,Synthetic\n' + ''.join(f'{n}.png,{n},1,{v}\n' for n, v in zip('ab', values)))
    assert from_csv(file, size=8).synthetic.tolist() == right


@pytest.mark.parametrize('values', [
    ['yes', 'no'], [.5, 1], [2, 0], [None, 1], [np.nan, 1],
    ['', '1'],
])
def test_masks_that_are_none(values):
    for kw in (dict(synthetic=values), dict(known=np.array(values, dtype=object)[:, None])):
        with pytest.raises(ValueError, match='mask of true and false'):
            from_arrays(np.zeros((2, 8, 8)), np.zeros((2, 1)), **kw)


@pytest.mark.parametrize('y', [
    [[.7], [0]], [[2], [0]], [['1'], ['0']],
    [[1j], [0]], [[-1], [0]], [[np.nan], [0]],
    [[256], [0]],
])
def test_labels_that_numpy_would_cast(y):
    with pytest.raises(ValueError, match='row 0, label 0'): from_arrays(np.zeros((2, 8, 8)), np.array(y))


# ---- layouts

@pytest.mark.parametrize('findings, words', [
    (['No Finding|Mass'], 'No Finding stands beside'), ([''], 'row 1 .counted'), ([' | '], 'row 1 .counted'),
    (['Mass', None], 'row 2 .counted from 1'), (['Mass|Tumour'], 'Tumour'),
])
def test_findings_that_contradict(findings, words):
    with pytest.raises(ValueError, match=words): split_findings(pd.Series(findings, dtype=object))


def test_findings_with_blanks():
    assert split_findings(pd.Series(['Effusion | Mass', 'No Finding '])).sum(1).tolist() == [2, 0]


def test_the_record_of_a_folder_says_what_the_reader_says(tmp_path):
    (tmp_path/'images').mkdir()
    grey(tmp_path/'images', ['00000001_000.png', '00000002_000.png'])
    text = 'Image Index,Finding Labels,Patient ID,\n00000001_000.png,Mass,1,\n00000002_000.png,No Finding,2,\n'
    (tmp_path/'Data_Entry_2017.csv').write_text(text)
    (tmp_path/'train_val_list.txt').write_text('00000001_000.png\n00000009_000.png\n')
    (tmp_path/'test_list.txt').write_text('00000001_000.png\n')
    record = check_dataset('nih14', tmp_path)
    said = ' '.join(record.detail)
    assert '1 of 2 images of the list are not in the table' in said
    assert 'both official lists: 00000001_000.png' in said
    assert 'in neither official list' in said
    (tmp_path/'test_list.txt').write_text('00000002_000.png\n')
    assert nih14(tmp_path, size=8).y.sum() == 1 and nih14(tmp_path, size=8).patient_id.tolist() == [1, 2]
    (tmp_path/'Data_Entry_2017_v2020.csv').write_text(text.replace('Mass', 'Nodule'))
    assert 'wrong' in check_dataset('nih14', tmp_path).status.tolist()
    with pytest.raises(ValueError, match='tables that differ'): nih14(tmp_path)
    (tmp_path/'Data_Entry_2017_v2020.csv').write_text(text)
    assert len(nih14(tmp_path, size=8)) == 2
    (tmp_path/'Data_Entry_2017.csv').write_text(text.replace(',2,', ''))
    (tmp_path/'Data_Entry_2017_v2020.csv').unlink()
    assert 'line 3 has 2 fields' in ' '.join(check_dataset('nih14', tmp_path).detail)


def test_a_view_is_frontal_by_its_own_name(tmp_path):
    from cxr_workbench.data import chexpert
    from cxr_workbench.labels import CHEXPERT
    home = tmp_path/'frontal'/'CheXpert-v1.0-small'
    views = ('view1_frontal', 'view2_lateral')
    names = [f'train/patient{p:05d}/study1/{view}.jpg' for p in (1, 2) for view in views]
    grey(home, names)
    table = pd.DataFrame({
        'Path': [f'{home.name}/{name}' for name in names],
        'Frontal/Lateral': ['Frontal', 'Lateral']*2,
        **dict.fromkeys(CHEXPERT, 0),
    })
    table.to_csv(home/'train.csv', index=False)
    data = chexpert(tmp_path/'frontal', frontal_only=True, size=8)
    assert data.patient_id.tolist() == ['patient00001', 'patient00002']
    assert all(path.endswith('frontal.jpg') for path in data.paths)
    table.assign(**{'Frontal/Lateral': 'Lateral'}).to_csv(home/'train.csv', index=False)
    with pytest.raises(ValueError, match='Frontal/Lateral disagree'): chexpert(tmp_path/'frontal', frontal_only=True)
    assert len(chexpert(tmp_path/'frontal', size=8)) == 4
