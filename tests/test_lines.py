"The line of a file that a message names is the one that an editor or a spreadsheet shows."
import re, warnings
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from cxr_workbench import data, doctor, lines
from cxr_workbench.csv_tables import read_table
from cxr_workbench.packing import pack
from cxr_workbench.splits import is_date
from cxr_workbench.states import check_patients

NAMES = [f'{name}.png' for name in 'abcdef']
ROWS = [(name, f'p{k}', k % 2) for k, name in enumerate(NAMES)]


@pytest.fixture
def home(tmp_path):
    for k, name in enumerate(NAMES):
        Image.fromarray(np.full((16, 16), 9*k, np.uint8)).save(tmp_path/name)
    return tmp_path


def make_text(rows, separator=','):
    "A table with a remark and a blank line above it, a report over three lines, and a blank line between."
    def quote(value): return f'"{value}"' if '\n' in str(value) else str(value)
    reports = ['clear', 'wet\nlungs\nboth', 'dry', '', 'old', 'new']
    written = [separator.join(map(quote, ('' if v is None else v for v in (*row, report))))
               for row, report in zip(rows, reports)]
    head = separator.join(['path', 'patient_id', 'Edema', 'report'])
    return '\n'.join(['# exported by hand', '', head, *written[:3], '', *written[3:]]) + '\n'


def write_table(rows, file):
    "The same rows as a text, a workbook with its names in row 3, or Parquet."
    if file.suffix in ('.csv', '.tsv'):
        file.write_bytes(make_text(rows, '\t' if file.suffix == '.tsv' else ',').encode())
        return file
    frame = pd.DataFrame(rows, columns=['path', 'patient_id', 'Edema'])
    if file.suffix == '.parquet': frame.astype({'Edema': str}).to_parquet(file)
    else:
        import openpyxl
        book = openpyxl.Workbook()
        book.active.title = 'Findings'
        book.active.append(['Our study'])
        book.active.append([])
        for row in [frame.columns, *frame.itertuples(index=False)]: book.active.append(list(row))
        book.save(file)
    return file


PLACES = {   # file -> what the row of d.png is called
    't.csv': 'line 10', 't.tsv': 'line 10', 't.xlsx': "sheet 'Findings', row 7", 't.parquet': 'row 4 (counted from 1)'}
each_file = pytest.mark.parametrize('name', PLACES)


def change(column, value):
    "The rows, with another entry in that of d.png."
    k = ('path', 'patient_id', 'Edema').index(column)
    return [(*row[:k], value, *row[k + 1:]) if row[0] == 'd.png' else row for row in ROWS]


def test_an_editor_shows_the_line(home):
    text = make_text(ROWS)
    table = read_table(write_table(ROWS, home/'t.csv'), lines=True)
    assert [*table.index] == [4, 5, 8, 10, 11, 12] and table.index.name == 'line'
    for row, name in enumerate(NAMES):
        line = int(re.fullmatch('line ([0-9]+)', lines.name_row(table, row))[1])
        assert text.splitlines()[line - 1].startswith(f'{name},')


@each_file
@pytest.mark.filterwarnings('ignore')
def test_an_entry_that_is_no_label(home, name):
    file = write_table(change('Edema', 7), home/name)
    said = re.escape(PLACES[name])
    with pytest.raises(ValueError, match=f"^{said}, column 'Edema': '?7"): data.from_csv(file, size=16)
    found = doctor.examine(file, look=0)
    assert any(PLACES[name] in example for check in found.checks for example in check.examples), name


@each_file
@pytest.mark.filterwarnings('ignore')
def test_a_row_without_a_patient(home, name):
    file = write_table(change('patient_id', None), home/name)
    with pytest.raises(ValueError, match=re.escape(f'no patient id: {PLACES[name]};')): data.from_csv(file, size=16)
    part = read_table(file, lines=True)[1:]   # after a filter, the same line
    with pytest.raises(ValueError, match=re.escape(PLACES[name])): check_patients(part.patient_id)
    found = doctor.examine(file, look=0)
    assert any(PLACES[name] in check.examples for check in found.checks if check.what == 'patients')


@each_file
@pytest.mark.filterwarnings('ignore')
def test_a_row_without_a_file(home, name):
    file = write_table(change('path', None), home/name)
    with pytest.raises(FileNotFoundError, match=re.escape(f"no image file in 'path': {PLACES[name]}.")):
        data.from_csv(file, size=16)
    found = doctor.examine(file, look=0)
    assert any(PLACES[name] in check.examples for check in found.checks if check.what == 'image files')


@each_file
@pytest.mark.filterwarnings('ignore')
def test_a_file_that_two_rows_name(home, name):
    file = write_table(change('path', 'a.png'), home/name)
    first = {'t.csv': 'lines 4, 10', 't.tsv': 'lines 4, 10', 't.xlsx': "sheet 'Findings', rows 4, 7",
             't.parquet': 'rows 1, 4 (counted from 1)'}[name]
    for ask in (lambda: data.from_csv(file, size=16), lambda: pack(file, home/'out', 16)):
        with pytest.raises(ValueError, match=re.escape(first)): ask()
    found = doctor.examine(file, look=0)
    assert any(first in example for check in found.checks for example in check.examples)


@pytest.mark.filterwarnings('ignore')
def test_rows_that_are_left_out_move_no_line(home):
    (home/'b.png').unlink()
    (home/'c.png').unlink()
    table = read_table(write_table(ROWS, home/'t.csv'), lines=True).assign(fold=[0, 1, 0, None, 0, 1])
    opened = data.from_csv(table, home, size=16, missing='skip')
    assert len(opened) == 4 and [*opened.lines] == [4, 10, 11, 12]
    assert [*opened.subset([2, 0]).lines] == [11, 4]
    with pytest.raises(ValueError, match='1 rows are in no fold: line 10'): data.hold_out(opened, 0, 'fold')
    found = doctor.examine(write_table(change('Edema', 7), home/'t.csv'), look=0, leave_out=['path=e.png'])
    assert any('line 10' in example for check in found.checks for example in check.examples)


def test_labels_of_a_table_in_memory_are_used(home):
    frame = pd.DataFrame(change('Edema', 7), columns=['path', 'patient_id', 'Edema'])
    for table, said in ((frame, 'row 4 (counted from 1)'), (frame.set_axis([*'uvwxyz']), "index label 'x'"),
                        (frame.set_axis([0]*6), 'row 4 (counted from 1)'), (frame[2:], 'index label 3')):
        with pytest.raises(ValueError, match=re.escape(said)): data.from_dataframe(table, home, size=16)


def test_without_lines_the_rows_count_from_0(home):
    table = read_table(write_table(ROWS, home/'t.csv'))
    assert [*table.index] == [*range(6)] and table.index.name is None
    opened = data.from_csv(home/'t.csv', size=16)
    assert [*opened.meta.index] == [*range(6)] and lines.name_row(np.zeros(3), 2) == 'row 2'


# ---- tables as they are sent ----

def make_rows(separator=',', **change):
    "Six rows below the usual names, with some columns changed."
    columns = dict(File=NAMES, PatientID=[f'P{k//2}' for k in range(6)])
    columns |= dict(Edema=[0, 1]*3, Mass=[1, 0, 0]*2) | change
    return '\n'.join(separator.join(map(str, row)) for row in [columns, *zip(*columns.values())]) + '\n'


@pytest.mark.parametrize('text, line', [
    ('Image,,Findings,\n' + make_rows(), 2), ('Image,Patient,Findings,Findings\n' + make_rows(), 2),
    ('Studie Thorax 2021;;;\n;;;\n' + make_rows(';'), 3)])
def test_names_below_a_title_or_groups_are_told(home, text, line):
    (home/'t.csv').write_text(text)
    said = f'names of the columns seem to stand in line {line} .File, PatientID, Edema and 1 more.: delete what'
    for read in (read_table, doctor.examine, data.from_csv):
        with pytest.raises(ValueError, match=said): read(home/'t.csv')


@pytest.mark.parametrize('text', [
    make_rows(), make_rows(Mass=['Edema']*6), 'Edema,Edema\n1,0\n0,1\n', 'a.png,,\nb.png,,\n',
    'path,note,\na.png,x,\nb,y,\n', 'image,finding,finding\na.png,Edema,Mass\nb.png,Mass,Edema\n'])
def test_names_that_are_names_stay(home, text):
    (home/'t.csv').write_text(text)
    assert len(read_table(home/'t.csv')) == text.count('\n') - 1


def test_a_row_of_totals_is_left_out_with_its_line(home):
    (home/'t.csv').write_text(make_rows() + 'Total,,3,2\n')
    with pytest.warns(UserWarning, match=r"line 8 holds totals \('Total'\) and is left out"):
        assert len(read_table(home/'t.csv')) == 6
    assert not [check for check in doctor.examine(home/'t.csv', look=0).checks if check.status == 'missing']


@pytest.mark.parametrize('end', ['n = 6,,,\n', '* only moderate or severe,,,\n'])
@pytest.mark.filterwarnings('ignore')
def test_a_remark_below_is_told_with_its_line(home, end):
    (home/'t.csv').write_text(make_rows() + end)
    lost, = [check for check in doctor.examine(home/'t.csv', look=0).checks if check.status == 'missing']
    assert lost.examples[0].endswith(' (line 8)') and 'totals or remarks' in lost.advice
    with pytest.raises((ValueError, FileNotFoundError), match=r'line 8'): data.from_csv(home/'t.csv', size=16)


@pytest.mark.parametrize('entry, is_one', [
    ('2021-03-12', True), ('2021-03-12 00:00:00', True), ('12.03.2021', True), ('3/12/21', True), ('12-Mar', True),
    ('12. Mrz', True), ('Dez-21', True), ('3-12', False), ('1.2', False), ('12.3.210', False), ('P01', False),
    ('20210312', False), ('12.03/2021', False), ('Mar01', False), ('1.2.3', False)])
def test_dates_among_the_patients(home, entry, is_one):
    assert is_date(entry) == is_one
    (home/'t.csv').write_text(make_rows(PatientID=[entry, *'bcdef']))
    wrong = [check for check in doctor.examine(home/'t.csv', look=0).checks if check.detail.startswith('dates in 1 of')]
    assert bool(wrong) == is_one
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        data.from_csv(home/'t.csv', size=16)
    assert any(f'1 patients are dates, such as {entry}' in str(each.message) for each in caught) == is_one


# ---- public collections ----

def write_chexpert(folder, wrong):
    "Six images of CheXpert, the third without its file; after it Edema holds `wrong`. Names of the images."
    from cxr_workbench.labels import CHEXPERT
    names = [f'CheXpert-v1.0-small/train/patient{k:05d}/study1/view1_frontal.jpg' for k in range(6)]
    table = pd.DataFrame(0., range(6), CHEXPERT)
    table.loc[3, 'Edema'] = wrong
    people = dict(Path=names, Sex='Male', Age=50, **{'Frontal/Lateral': 'Frontal', 'AP/PA': 'AP'})
    for k in (0, 1, 3, 4, 5):
        file = folder/names[k].partition('/')[2]
        file.parent.mkdir(parents=True)
        Image.fromarray(np.random.default_rng(k).integers(0, 256, (32, 32)).astype('u1')).save(file)
    pd.concat([pd.DataFrame(people), table], axis=1).to_csv(folder/'train.csv', index=False)
    return names


def test_rows_of_a_collection_are_called_by_their_images(tmp_path):
    "A row that was left out before does not move the name; the doctor and the reader say the same."
    names = write_chexpert(tmp_path, 7)
    found = doctor.examine_collection('chexpert', tmp_path)
    wrong = [check for check in found.checks if check.status == 'wrong']
    assert wrong[0].examples == [f"Edema '7' in image {names[3]!r}"]
    missing, = [check for check in found.checks if check.status == 'missing']
    assert names[2] in missing.examples[0] and missing.advice.endswith('fit has --missing skip')
    with pytest.warns(UserWarning, match='view1_frontal.jpg; the 5 other rows are used'):
        with pytest.raises(ValueError, match=f"^image {names[3]!r}, column 'Edema': 7.0 is none"):
            data.chexpert(tmp_path, missing='skip')


def test_names_of_a_collection_are_kept_once(tmp_path):
    "They are in `paths`, as one block; rows are counted in the data set itself."
    write_chexpert(tmp_path, 1)
    with pytest.warns(UserWarning, match='5 other rows'): opened = data.chexpert(tmp_path, missing='skip')
    assert opened.lines is None and [*opened.meta.index] == [0, 1, 2, 3, 4]
    assert opened.y[:, opened.label_names.index('Edema')].tolist() == [0, 0, 1, 0, 0]
