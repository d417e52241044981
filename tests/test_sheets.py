"Workbooks, Parquet and Feather files: what they hold is what is read, what was lost is said, the rest is refused."
import datetime, gzip, io, json, shlex, warnings, zipfile
from pathlib import Path
import numpy as np, openpyxl, pandas as pd, pytest
from PIL import Image
from typer.testing import CliRunner
from cxr_workbench import data, doctor, opening, roles, sheets
from cxr_workbench.cli import app
from cxr_workbench.csv_tables import is_table_file, read_table
from cxr_workbench.phantom import SyntheticCXR

HEAD = ['path', 'patient_id', 'Edema']


def as_bytes(book):
    buffer = io.BytesIO()
    book.save(buffer)
    return buffer.getvalue()


def make_book(rows, name='Sheet'):
    book = openpyxl.Workbook()
    book.active.title = name
    for row in rows: book.active.append(row)
    return book


@pytest.fixture
def written(tmp_path):
    "A function that writes rows as a workbook and gives its path."
    def write(rows, name='t.xlsx', change=None):
        book = make_book(rows)
        if change is not None: change(book.active)
        (tmp_path/name).write_bytes(as_bytes(book))
        return tmp_path/name
    return write


def rewrite(file, change):
    "Change the text of the first sheet of a workbook."
    again = io.BytesIO()
    with zipfile.ZipFile(file) as old, zipfile.ZipFile(again, 'w') as new:
        for name in old.namelist():
            text = old.read(name)
            new.writestr(name, change(text) if name.endswith('sheet1.xml') else text)
    file.write_bytes(again.getvalue())


def quietly(function, *args, **kw):
    "What a function gives, and what it warns of."
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        return function(*args, **kw), [str(warning.message) for warning in caught]


# ---- the same as a CSV

ROWS = [
    [HEAD, ['a.png', '007', 1], ['b.png', '7', 0]],
    [HEAD, ['a.png', 1, 1], ['b.png', 2, None], ['c.png', None, -1]],
    [HEAD, ['a.png', 'P-1', 'TRUE'], ['b, c.png', 'P "2"', 'FALSE']],
    [['path', 'Edema', 'Edema'], ['a.png', 1, 0], ['b.png', 0, 1]],
    [['path', None, 'Edema'], ['a.png', 'x', 1], ['b.png', 'y', 0]],
    [HEAD, ['a.png', 1, .5], ['b.png', 2, 1e-3], ['c.png', 3, 12345.678]],
    [HEAD, ['Zoë.png', 'ß', 1], ['b\nc.png', 'å', 0]],
]


@pytest.mark.parametrize('rows', ROWS)
def test_a_workbook_is_read_as_the_csv_of_its_cells(written, tmp_path, rows):
    frame = pd.DataFrame(rows[1:], columns=[name or '' for name in rows[0]], dtype=object)
    frame.to_csv(tmp_path/'t.csv', index=False)
    from_sheet, notes = quietly(read_table, written(rows))
    assert not notes
    pd.testing.assert_frame_equal(from_sheet, read_table(tmp_path/'t.csv'))


@pytest.mark.parametrize('name', ['t.csv', 't.txt', 't.xlsx', 't.dat'])
def test_the_bytes_decide_and_not_the_name(written, tmp_path, name):
    assert read_table(written([HEAD, ['a.png', 1, 1]], name)).patient_id.tolist() == [1]
    (tmp_path/name).write_text('path,patient_id,Edema\na.png,1,1\n')
    assert read_table(tmp_path/name).patient_id.tolist() == [1]


def test_a_packed_workbook(written, tmp_path):
    raw = written([HEAD, ['a.png', 1, 1]]).read_bytes()
    (tmp_path/'t.xlsx.gz').write_bytes(gzip.compress(raw))
    with zipfile.ZipFile(tmp_path/'t.zip', 'w') as archive: archive.writestr('t.xlsx', raw)
    for name in ('t.xlsx.gz', 't.zip'): assert read_table(tmp_path/name).Edema.tolist() == [1]
    assert is_table_file('T.XLSX.GZ') and not is_table_file('t.npz')


# ---- identifiers

@pytest.mark.parametrize('value, shown, text', [
    (7, '0000', '0007'), (7, 'General', '7'), (7., '0', '7'),
    (12, '"P"000', 'P012'), (123456, '0000', '123456'),
    (-7, '0000', '-7'), (.1 + .2, 'General', '0.3'), (999999999999999, 'General', '999999999999999'),
    (12345678901234567, 'General', '12345678901234567'), (1234567890123450, 'General', '1.23456789012345E+15'),
    (1.92e38, 'General', '1.92000000000000E+38')])
def test_numbers_are_spelled_as_identifiers_need_them(value, shown, text):
    assert sheets.spell_number(value, shown) == text


def test_zeros_that_the_sheet_shows_are_kept(written):
    def pad(sheet):
        for row in (2, 3): sheet.cell(row, 2).number_format = '0000'
    table = read_table(written([HEAD, ['a.png', 7, 1], ['b.png', 70, 0]], change=pad), ids=['patient_id'])
    assert table.patient_id.tolist() == [7, 70]   # whole, and no two are one number
    texts = roles.read_texts(written([['Film', 'Edema'], [7, 1], [70, 0]], change=lambda s: pad_first(s)))
    assert texts.Film.tolist() == ['0007', '0070']


def pad_first(sheet):
    for row in (2, 3): sheet.cell(row, 1).number_format = '0000'


def test_rounded_identifiers_are_said_and_refused_as_patients(written):
    rows = [HEAD, ['a.png', 1.92e38, 1], ['b.png', 1.92e38, 0]]
    table, notes = quietly(read_table, written(rows))
    assert len(notes) == 1 and "['patient_id'] hold numbers of more than 15 digits" in notes[0]
    with pytest.raises(ValueError, match='rounded'):
        images, y = np.zeros((2, 8, 8), np.uint8), np.zeros((2, 1))
        data.CXRDataset(images, y, None, table.patient_id, ['Edema'])
    found = doctor.examine(written(rows), look=0)
    assert any(check.what == 'patients' and check.status == 'wrong' and 'rounded' in check.detail
               for check in found.checks)


def test_a_long_identifier_that_excel_never_saved_is_whole(written):
    file = written([HEAD, ['a.png', 1234567, 1], ['b.png', 1234568, 0]])
    rewrite(file, lambda text: text.replace(b'<v>123456', b'<v>1234567890123456'))
    table, notes = quietly(read_table, file)
    assert not notes and table.patient_id.tolist() == [12345678901234567, 12345678901234568]


# ---- what stands around the table

@pytest.mark.parametrize('above', [
    [['Title']], [['Title'], []], [[], []],
    [['Study', 'A'], ['Date', datetime.date(2024, 1, 1)]],
    [['x'*300]], [[None, None, None, 'by hand']]])
def test_what_stands_above_the_names_is_left_out_and_said(written, above):
    rows = [['path', 'patient_id', 'Edema', 'Mass', 'Nodule'], ['a.png', 1, 1, 0, None], ['b.png', 2, 0, 1, None]]
    table, notes = quietly(read_table, written([*above, *rows]))
    assert list(table) == rows[0] and len(table) == 2
    assert len(notes) == sum(any(cell is not None for cell in row) for row in above)
    assert all('stands above the names' in note for note in notes)


def test_a_head_over_groups_of_names(written):
    heads = [['path', 'Findings', None, 'Patient'], [None, 'Edema', 'Mass', None]]
    rows = [*heads, ['a.png', 1, 0, 7], ['b.png', 0, 1, 8]]
    def merge(sheet):
        for cells in ('A1:A2', 'B1:C1', 'D1:D2'): sheet.merge_cells(cells)
    table, notes = quietly(read_table, written(rows, change=merge))
    assert list(table) == ['path', 'Edema', 'Mass', 'Patient'] and table.Edema.tolist() == [1, 0]
    assert len(notes) == 1 and 'Findings' in notes[0]


def test_a_merged_cell_has_its_value_in_every_row(written):
    rows = [HEAD, ['a.png', 'P1', 1], ['b.png', None, 0], ['c.png', 'P2', 'not read'], ['d.png', 'P2', None]]
    def merge(sheet):
        sheet.merge_cells('B2:B3')
        sheet.merge_cells('C4:C5')
    table, notes = quietly(read_table, written(rows, change=merge))
    assert table.patient_id.tolist() == ['P1', 'P1', 'P2', 'P2']
    assert table.Edema.tolist() == ['1', '0', 'not read', 'not read'] and 'merged cells: 2' in notes[0]


def test_hidden_rows_and_columns_are_read_and_said(written):
    def hide(sheet):
        sheet.row_dimensions[3].hidden = True
        sheet.column_dimensions['C'].hidden = True
    table, notes = quietly(read_table, written([HEAD, ['a.png', 1, 1], ['b.png', 2, 0]], change=hide))
    assert len(table) == 2 and 'Edema' in table
    assert any('hidden rows' in note and 'row 3' in note for note in notes)
    assert any("the columns ['Edema'] are hidden" in note for note in notes)


def test_percentages_errors_and_mixed_dates_are_said(written):
    rows = [['path', 'share', 'slot', 'Edema', 'note'], ['a.png', .5, '1-3', 1, '#N/A'], ['b.png', .25, None, 0, None]]
    def change(sheet):
        sheet['B2'].number_format = '0%'
        sheet['C3'] = datetime.date(2024, 2, 1)
    table, notes = quietly(read_table, written(rows, change=change))
    assert table.share.tolist() == [.5, .25] and table.note.isna().all()
    for text in ("['share'] are percentages", "['slot'] hold dates among", 'the first is #N/A in E2'):
        assert any(text in note for note in notes), text


def test_an_error_in_a_label_is_no_state(written, tmp_path):
    for name in 'ab': Image.new('L', (16, 16)).save(tmp_path/f'{name}.png')
    file = written([HEAD, ['a.png', 1, 1], ['b.png', 2, '#REF!']])
    with pytest.warns(UserWarning, match='#REF! in C3'), pytest.raises(ValueError, match="'#REF!' is none of 1, 0"):
        data.from_csv(file)


def test_a_formula_without_its_value_is_refused(written):
    file = written([HEAD, ['a.png', 1, '=1+0'], ['b.png', 2, 0]])
    with pytest.raises(ValueError, match='formulas whose values are not in the file.*first in C2'): read_table(file)


def test_a_formula_with_its_value_is_its_value(written):
    file = written([HEAD, ['a.png', 1, '=1+0'], ['b.png', 2, 0]])
    rewrite(file, lambda text: text.replace(b'<v></v>', b'<v>1</v>').replace(b'<v />', b'<v>1</v>'))
    assert read_table(file).Edema.tolist() == [1, 0]


def test_dates_and_truth_values(written):
    table = read_table(written([['path', 'day', 'Edema'], ['a.png', datetime.datetime(2024, 3, 1), True],
                                ['b.png', datetime.datetime(2024, 3, 2), False]]))
    assert table.day.tolist() == ['2024-03-01', '2024-03-02'] and table.Edema.tolist() == [True, False]


# ---- several sheets

def two_sheets(tmp_path, first=(HEAD, ['a.png', 1, 1]), second=(['word', 'meaning'], ['?', 'unsure'])):
    book = make_book(first, 'Films')
    sheet = book.create_sheet('Legend')
    for row in second: sheet.append(row)
    (tmp_path/'t.xlsx').write_bytes(as_bytes(book))
    return tmp_path/'t.xlsx'


def test_the_only_sheet_of_images_is_taken_and_said(tmp_path):
    table, notes = quietly(read_table, two_sheets(tmp_path))
    assert list(table) == HEAD
    assert notes == [f"{tmp_path/'t.xlsx'}: the sheet 'Films' is read, and not 'Legend' (1 row)"]
    other, notes = quietly(read_table, tmp_path/'t.xlsx', sheet='Legend')
    assert list(other) == ['word', 'meaning'] and not notes


@pytest.mark.parametrize('first, second, words', [
    ([HEAD, ['a.png', 1, 1]], [HEAD, ['b.png', 2, 0]], 'several sheets look'),
    ([['a', 'b'], [1, 2]], [['c', 'd'], [3, 4]], 'no sheet looks')])
def test_a_sheet_has_to_be_named_where_none_is_the_only_one(tmp_path, first, second, words):
    file = two_sheets(tmp_path, first, second)
    listed = f"{words}.*sheet=..., of 'Films' .1 row.*'Legend' .1 row"
    with pytest.raises(ValueError, match=listed): read_table(file)
    assert len(read_table(file, sheet='Legend')) == 1
    with pytest.raises(ValueError, match=r"no sheet 'legend': there are \['Films', 'Legend'\]"):
        read_table(file, sheet='legend')


def test_a_sheet_of_a_text_is_refused(tmp_path):
    (tmp_path/'t.csv').write_text('path,Edema\na.png,1\n')
    with pytest.raises(ValueError, match='no sheets'): read_table(tmp_path/'t.csv', sheet='Films')


# ---- what is no table

def old_workbook(stream): return b'\xd0\xcf\x11\xe0' + b'\0'*100 + stream.encode('utf-16-le')


@pytest.mark.parametrize('raw, words', [
    (old_workbook('EncryptedPackage'), 'encrypted Excel workbook: take its password off'),
    (old_workbook('Workbook'), r'old Excel workbook \(.xls\): save the table as .xlsx, or as CSV'),
    (as_bytes(openpyxl.Workbook()), 'Excel workbook without any entry'),
    (as_bytes(make_book([HEAD])), 'no rows, only the names path'),
    (as_bytes(make_book([HEAD, ['a.png', 1, 1]]))[:-200], 'not a table that can be read'),
    (b'PAR1 and more', 'a Parquet file that is cut off or damaged'), (b'PARE', 'encrypted Parquet'),
    (b'ARROW1 and more', 'a Feather file that is cut off or damaged')])
def test_what_cannot_be_read_says_what_to_do(tmp_path, raw, words):
    (tmp_path/'t.xlsx').write_bytes(raw)
    with pytest.raises(ValueError, match=words): read_table(tmp_path/'t.xlsx')


@pytest.mark.parametrize('name, words', [
    ('content.xml', 'OpenDocument'), ('xl/workbook.bin', 'xlsb'), ('word/document.xml', 'Word'),
    ('Index/Document.iwa', 'Numbers'), ('[Content_Types].xml', 'no Excel workbook')])
def test_other_office_files_are_named(tmp_path, name, words):
    with zipfile.ZipFile(tmp_path/'t.xlsx', 'w') as archive: archive.writestr(name, '')
    with pytest.raises(ValueError, match=f'{words}.*save the table as .xlsx'): read_table(tmp_path/'t.xlsx')


def test_a_damaged_part_of_a_workbook(tmp_path):
    (tmp_path/'t.xlsx').write_bytes(as_bytes(make_book([HEAD, ['a.png', 1, 1]])))
    rewrite(tmp_path/'t.xlsx', lambda text: text[:len(text)//2])
    with pytest.raises(ValueError, match='t.xlsx is not a table that can be read'): read_table(tmp_path/'t.xlsx')


@pytest.mark.parametrize('raw, package', [
    (as_bytes(make_book([HEAD, ['a.png', 1, 1]])), 'openpyxl'), (b'PAR1', 'pyarrow')])
def test_a_package_that_is_missing_is_named(tmp_path, monkeypatch, raw, package):
    (tmp_path/'t.xlsx').write_bytes(raw)
    monkeypatch.setattr(sheets, 'find_spec', lambda name: None)
    with pytest.raises(ValueError, match=rf'{package}: pip install "cxr-workbench\[tables\]"'):
        read_table(tmp_path/'t.xlsx')


# ---- typed columns

FRAME = pd.DataFrame({
    'path': ['a.png', 'b.png', 'c.png'],
    'patient_id': pd.array([2**60 + 1, None, 2**60 + 2], dtype='Int64'),
    'view': pd.Categorical(['PA', None, 'AP']),
    'seen': pd.to_datetime(['2024-01-01', None, '2024-01-03']),
    'Edema': pd.array([1, None, -1], dtype='Int8'),
    'Mass': pd.array([True, None, False], dtype='boolean'),
})


@pytest.mark.parametrize('write, name', [
    ('to_parquet', 't.parquet'), ('to_feather', 't.feather'), ('to_parquet', 't.csv')])
def test_typed_columns_come_back(tmp_path, write, name):
    getattr(FRAME, write)(tmp_path/name)
    table = read_table(tmp_path/name)
    assert table.patient_id.tolist() == [2**60 + 1, pd.NA, 2**60 + 2]
    assert table.view.astype(object).where(table.view.notna(), None).tolist() == ['PA', None, 'AP']
    assert table.seen[2] == pd.Timestamp('2024-01-03') and pd.isna(table.seen[1])
    y, known = data.LabelPolicy('ones', 'unknown')(table[['Edema', 'Mass']])
    assert y.tolist() == [[1, 1], [0, 0], [1, 0]]
    assert known.tolist() == [[True, True], [False, False], [True, True]]
    assert roles.read_texts(tmp_path/name).patient_id.tolist() == [str(2**60 + 1), None, str(2**60 + 2)]


@pytest.mark.parametrize('column, words', [
    ([['a'], ['b', 'c']], 'lists or records'), ([{'bytes': b'x'}, {'bytes': b'y'}], 'lists or records'),
    ([b'x', b'y'], 'hold bytes')])
def test_columns_that_are_none_are_named(tmp_path, column, words):
    pd.DataFrame({'path': ['a', 'b'], 'odd': column}).to_parquet(tmp_path/'t.parquet')
    with pytest.raises(ValueError, match=rf"columns \['odd'\] .*{words}"): read_table(tmp_path/'t.parquet')


def test_an_index_with_a_name_is_a_column(tmp_path):
    frame = pd.DataFrame({'Edema': [1, 0]}, index=pd.Index(['a.png', 'b.png'], name='path'))
    frame.to_parquet(tmp_path/'t.parquet')
    for table in (frame, tmp_path/'t.parquet'): assert read_table(table).path.tolist() == ['a.png', 'b.png']


def test_files_that_are_called_by_number_are_texts():
    table = read_table(pd.DataFrame({'path': [1., 2., None], 'film': [7, 8, 9]}), files=['film'])
    assert table.path.tolist() == ['1', '2', None] and table.film.tolist() == ['7', '8', '9']
    with pytest.raises(ValueError, match='2 names each'):
        read_table(pd.DataFrame([[1, 2]], columns=pd.MultiIndex.from_tuples([('a', 'b'), ('a', 'c')])))


# ---- public ways in

@pytest.fixture(scope='module')
def phantom(): return SyntheticCXR(60, size=64, seed=1)


def save_pngs(phantom, folder):
    folder.mkdir(parents=True, exist_ok=True)
    for k, image in enumerate(np.asarray(phantom.images).reshape(-1, 64, 64)):
        Image.fromarray(image).save(folder/f'{k:02d}.png')
    labels = np.asarray(phantom.labels)[:, :3].astype(int)
    frame = pd.DataFrame(labels, columns=phantom.label_names[:3])
    return frame.assign(path=[f'{k:02d}.png' for k in range(60)], patient_id=[f'p{who}' for who in phantom.patient_id])


def test_every_kind_of_table_is_one_data_set(phantom, tmp_path):
    import pyarrow as pa
    frame = save_pngs(phantom, tmp_path)
    frame.to_csv(tmp_path/'t.csv', index=False)
    frame.to_csv(tmp_path/'t.tsv', index=False, sep='\t')
    frame.to_excel(tmp_path/'t.xlsx', index=False)
    frame.to_parquet(tmp_path/'t.parquet')
    frame.to_feather(tmp_path/'t.feather')
    want = data.from_csv(tmp_path/'t.csv', size=32)
    found = [opening.open_data(str(tmp_path/f't.{kind}'), size=32) for kind in ('tsv', 'xlsx', 'parquet', 'feather')]
    found += [data.from_dataframe(table, tmp_path, size=32) for table in (frame, pa.Table.from_pandas(frame))]
    for other in found:
        assert np.array_equal(other.y, want.y) and other.label_names == want.label_names
        assert list(other.patient_id) == list(want.patient_id) and list(other.paths) == list(want.paths)
    with pytest.raises(ValueError, match='a DataFrame is wanted, not str'): data.from_dataframe(str(tmp_path/'t.csv'))


def test_a_workbook_beside_an_npz(phantom, tmp_path):
    frame = save_pngs(phantom, tmp_path/'images').drop(columns='path')
    frame.replace({1: 'yes', 0: 'no'}).to_excel(tmp_path/'t.xlsx', index=False)
    np.savez(tmp_path/'t.npz', images=np.asarray(phantom.images).reshape(-1, 64, 64))
    found, notes = quietly(opening.open_data, str(tmp_path/'t.npz'), table=str(tmp_path/'t.xlsx'))
    assert np.array_equal(found.y, np.asarray(phantom.labels)[:, :3])
    assert any("'yes' is present" in note for note in notes)


# ---- a department's table and a folder of DICOM files, from nothing to scores

def shell(*arguments, status=0):
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exit_code == status, f'{result.output}\n{result.exception!r}'
    return result.output


def write_dicom(path, pixels, patient):
    "A radiograph of 12 bits."
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, generate_uid
    dicom, dicom.file_meta = Dataset(), FileMetaDataset()
    dicom.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dicom.SOPClassUID, dicom.SOPInstanceUID = '1.2.840.10008.5.1.4.1.1.1.1', generate_uid()
    dicom.file_meta.MediaStorageSOPClassUID = dicom.SOPClassUID
    dicom.file_meta.MediaStorageSOPInstanceUID = dicom.SOPInstanceUID
    dicom.PatientID, dicom.Modality, dicom.PhotometricInterpretation = patient, 'DX', 'MONOCHROME2'
    dicom.Rows, dicom.Columns, dicom.SamplesPerPixel = *pixels.shape, 1
    dicom.BitsAllocated, dicom.BitsStored, dicom.HighBit, dicom.PixelRepresentation = 16, 12, 11, 0
    dicom.PixelData = (pixels.astype('<u2')*16).tobytes()
    dicom.save_as(path, enforce_file_format=True)


@pytest.fixture(scope='module')
def department(phantom, tmp_path_factory):
    "A folder with scans/00001.dcm ... and table.xlsx, in which they are called 1, 2 ..."
    home = tmp_path_factory.mktemp('department')
    (home/'scans').mkdir()
    for k, image in enumerate(np.asarray(phantom.images).reshape(-1, 64, 64)):
        write_dicom(home/'scans'/f'{k + 1:05d}.dcm', image, f'P{phantom.patient_id[k]}')
    columns = [phantom.label_names.index(name) for name in ('Cardiomegaly', 'Pleural Effusion', 'Edema')]
    truth = np.asarray(phantom.labels)[:, columns] == 1
    rows = [['Thorax study 2024'], [], ['Film no.', 'Patient', 'Cardiomegaly', 'Effusion', 'Edema', 'Remarks']]
    for k, (heart, fluid, edema) in enumerate(truth):
        edema = '?' if k == 3 else '+' if edema else '-'
        rows.append([k + 1, int(phantom.patient_id[k]), 'Yes' if heart else 'no ', 'x' if fluid else None, edema, None])
    rows[8][5] = 'seen twice'
    book = make_book(rows, 'Reading')
    book.active.merge_cells('A1:F1')
    legend = book.create_sheet('Legend')
    for row in (['sign', 'meaning'], ['x', 'present'], ['?', 'unsure']): legend.append(row)
    book.save(home/'table.xlsx')
    return home, truth


def test_the_doctor_finds_files_by_number(department):
    home, truth = department
    printed = shell('doctor', home/'table.xlsx', '--look', 4, status=1)
    assert "image files: 'Film no.', 100% of its entries are names of files" in printed
    assert 'with .dcm for no suffix' in printed and 'no CSV' not in printed
    for text in ('Thorax study 2024', "'yes' is present", "the sheet 'Reading' is read, and not 'Legend' (2 rows)"):
        assert text in printed
    found = doctor.examine(home/'table.xlsx', look=0)
    without = truth[np.arange(60) != 3, 2].sum()
    assert found.counts().present.tolist() == [*truth.sum(0).tolist()[:2], without]
    assert [Path(path).name for path in found.paths[:2]] == ['00001.dcm', '00002.dcm']
    in_folder = doctor.examine(home, look=0)
    assert (in_folder.kind, in_folder.source) == ('table', str(home/'table.xlsx'))


def test_from_the_workbook_to_scores_as_typed(department, tmp_path, monkeypatch):
    home, truth = department
    monkeypatch.chdir(tmp_path)
    lines = [line.strip() for line in shell('doctor', home/'table.xlsx', '--look', 0, status=1).splitlines()]
    write, fit = [shlex.split(line)[1:] for line in lines if line.startswith('cxr-workbench ')]
    assert 'written to repaired.csv' in shell(*write, '--look', 0)
    shell(*fit, '--preset', 'tiny', '--epochs', 1, '--size', 32, '--out', 'run', '--no-progress')
    assert 'macro' in shell('evaluate', 'run', '--n-boot', 10)
    shell('predict', 'run', home/'scans'/'00001.dcm', home/'scans'/'00002.dcm', '--out', 'scores.csv')
    scores = pd.read_csv('scores.csv')
    assert len(scores) == 2 and scores.error.isna().all()
    assert scores[['Cardiomegaly', 'Effusion', 'Edema']].stack().between(0, 1, inclusive='neither').all()
    record = json.loads(Path('run/run.json').read_text())
    opened, _ = quietly(opening.open_data, **record['data'])
    assert np.array_equal(opened.y[:, :2], truth[:, :2]) and not opened.y[3, 2]
    assert len(set(opened.patient_id)) == len(set(pd.read_csv('repaired.csv').Patient))


def test_a_workbook_that_names_its_files_is_trained_on_itself(phantom, tmp_path, monkeypatch):
    frame = save_pngs(phantom, tmp_path/'images').rename(columns={'path': 'Film'})
    with pd.ExcelWriter(tmp_path/'t.xlsx') as book:
        for name in ('First', 'Second'): frame.to_excel(book, sheet_name=name, index=False)
    monkeypatch.chdir(tmp_path)
    assert 'several sheets look' in shell('fit', 'supervised', '--data', 't.xlsx', status=1)
    assert 'several sheets look' in shell('doctor', 't.xlsx', status=1)
    printed = shell('doctor', 't.xlsx', '--sheet', 'Second', '--root', 'images', '--look', 0)
    fit, = [shlex.split(line)[1:] for line in map(str.strip, printed.splitlines()) if line.startswith('cxr-workbench ')]
    assert fit[-4:] == ['--sheet', 'Second', '--root', 'images']   # Film is recognised by all commands
    small = ('--preset', 'tiny', '--epochs', 1, '--size', 32, '--no-progress')
    shell(*fit, *small, '--out', 'run')
    same = ('--data', 't.xlsx', '--sheet', 'First', '--root', 'images', '--path', 'Film', '--n-boot', 10)
    assert 'macro' in shell('evaluate', 'run', *same)
    assert '60 images' in shell('pack', 't.xlsx', 'packed', '--sheet', 'First', '--root', 'images', '--path', 'Film')
    assert "no sheet 'third'" in shell(*fit[:4], '--sheet', 'third', status=1)
