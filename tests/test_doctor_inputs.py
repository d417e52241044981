"Tables and folders as users have them: what the doctor takes them for, and what its command then opens."
import json, shlex, shutil, unicodedata
import numpy as np, pandas as pd, pytest
from PIL import Image
from test_doctor import find_commands, shell
from cxr_workbench import copies, opening, roles
from cxr_workbench.finding_texts import choose_marks, findings_table, holds_sentences
from cxr_workbench.long_tables import find_long, widen
from cxr_workbench.phantom import SyntheticCXR
from cxr_workbench.places import check_masks, get_stem
from cxr_workbench.tables import is_patient_name

N = 24
NAMES = [f'{k:03d}.png' for k in range(N)]


@pytest.fixture(scope='module')
def phantom(): return SyntheticCXR(N, size=64, seed=1)


@pytest.fixture
def home(phantom, tmp_path):
    "A folder of images."
    folder = tmp_path/'mine'
    folder.mkdir()
    pixels = np.asarray(phantom.images).reshape(-1, 64, 64)
    for name, image in zip(NAMES, pixels): Image.fromarray(image).save(folder/name)
    return folder


@pytest.fixture
def table(phantom):
    "The table of these images, with two labels and patients."
    states = np.asarray(phantom.labels).astype(int)
    columns = {name: states[:, phantom.label_names.index(name)] for name in ('Cardiomegaly', 'Lung Opacity')}
    return pd.DataFrame(dict(path=NAMES, **columns, patient_id=[f'p{who}' for who in phantom.patient_id]))


@pytest.fixture
def follow(monkeypatch, tmp_path):
    "What the doctor's commands open: labels -> positives, and rows in all."
    def open_only(method, record, settings, out, **how):
        parts = opening.open_parts(record)
        positives = sum(part.y.sum(0) for part in parts).int().tolist()
        follow.positives = dict(zip(parts[0].label_names, positives))
        follow.rows = sum(map(len, parts))
        follow.mean = parts[0].batch(range(4)).x.mean().item()
    monkeypatch.setattr('cxr_workbench.cli.train_run', open_only)
    monkeypatch.chdir(tmp_path)
    def follow(*arguments, status=0):
        printed = shell('doctor', *arguments, '--look', N, status=status)
        for line in find_commands(printed):
            *words, size = shlex.split(line)[1:] + (['--size=32'] if ' fit ' in line else ['--look=24'])
            shell(*words, size)
        return printed
    return follow


def count(table, name): return int((table[name].astype(str) == '1').sum())


# ---- a row for each finding ----

def test_answers_in_rows_become_one_row_an_image(home, table, follow):
    labels = ['Cardiomegaly', 'Lung Opacity']
    long = table.melt(['path', 'patient_id'], labels, 'finding', 'value').sort_values('path')
    long.to_csv(home/'t.csv', index=False)
    printed = follow(home/'t.csv')
    assert f'a row for each finding: {2*N} rows become {N} images; a finding without an answer is blank' in printed
    assert follow.positives == {name: count(table, name) for name in labels} and follow.rows == N


def test_rows_of_positives_leave_no_image_out(home, table, follow):
    long = table.melt(['path', 'patient_id'], ['Cardiomegaly', 'Lung Opacity'], 'class_name', 'value')
    blank = table[['path', 'patient_id']].assign(class_name=None)   # images without findings have a row too
    pd.concat([long[long.value == 1].drop(columns='value'), blank]).to_csv(home/'t.csv', index=False)
    assert 'a finding that is not named is absent' in follow(home/'t.csv')
    assert follow.positives == {name: count(table, name) for name in ('Lung Opacity', 'Cardiomegaly')}
    assert follow.rows == N


def test_answers_that_contradict_are_blank_and_said():
    rows = [('a.png', 'mass', '1'), ('a.png', 'mass', '0'), ('a.png', 'edema', '1'), ('b.png', 'mass', '0')]
    frame = pd.DataFrame(rows, columns=['image', 'finding', 'value'], dtype=object)
    wide, names, checks = widen(frame, find_long(frame, roles.guess_roles(frame)))
    assert wide[names].to_numpy().tolist() == [[None, '1'], ['0', None]] and names == ['mass', 'edema']
    assert [check.count for check in checks if check.stops] == [1]


def test_several_readers_stay_a_decision(home, table):
    rows = pd.concat([table.assign(reader=who) for who in 'ABC'])
    rows.to_csv(home/'t.csv', index=False)
    assert 'decide for any, most or all readers' in shell('doctor', home/'t.csv', '--look', 0, status=1)


# ---- findings in one entry ----

@pytest.mark.parametrize('spell', ['|'.join, ', '.join, '; '.join, lambda names: str(list(names))])
def test_findings_are_taken_apart_however_they_are_separated(spell, home, table, follow):
    names = ['Cardiomegaly', 'Lung Opacity']
    table['findings'] = [spell([name for name in names if row[name]] or ['No Finding']) for _, row in table.iterrows()]
    table.drop(columns=names).to_csv(home/'t.csv', index=False)
    follow(home/'t.csv')
    right = {name: count(table, name) for name in names}
    assert {name: follow.positives[name] for name in names} == right and len(follow.positives) == 3


def test_a_comma_within_a_name_separates_nothing():
    column = pd.Series(['Heart, enlarged', 'Edema', 'Heart, enlarged|Edema', None])
    assert list(findings_table(column)) == ['Heart, enlarged', 'Edema']
    assert choose_marks(['Heart, enlarged', 'normal']) == '|;'


def test_a_report_names_no_findings(home, table):
    assert holds_sentences(pd.Series(['The heart is not enlarged today.', 'Lungs are clear and well expanded.']))
    text = 'The heart is not enlarged. There is no pleural effusion on either side.'
    table[['path', 'patient_id']].assign(findings=text).to_csv(home/'t.csv', index=False)
    assert 'none names findings' in shell('doctor', home/'t.csv', '--look', 0, status=1)


# ---- columns ----

@pytest.mark.parametrize('name, is_one', [
    ('PatNr', True), ('Pat_ID', True), ('Patientennummer', True), ('Id Paciente', True), ('NHC', True),
    ('pattern', False), ('Paciente edad', False), ('Patientenalter', False), ('path', False),
    ('Geburtsdatum Patient', False)])
def test_patients_in_other_languages(name, is_one): assert is_patient_name(name) == is_one


def test_a_german_table(home, table, follow):
    own = pd.DataFrame(dict(Bild=NAMES, PatNr=table.patient_id, Geschlecht=['m', 'w']*12, Alter=50, Projektion='PA'))
    own['Kardiomegalie'] = table.Cardiomegaly.map({1: 'ja', 0: 'nein'})
    own.to_csv(home/'t.csv', index=False, sep=';', encoding='cp1252')
    printed = follow(home/'t.csv')
    for words in ("image files: 'Bild'", "patients: 'PatNr'", "sex: 'Geschlecht'", "age: 'Alter'"):
        assert words in printed
    assert follow.positives == {'Kardiomegalie': count(table, 'Cardiomegaly')}


def test_columns_about_the_row_are_no_labels(home, table, follow):
    turns = [0, 1]*12
    table.assign(is_test=turns, smoker=turns, mine=turns).to_csv(home/'t.csv', index=False)
    printed = follow(home/'t.csv')
    assert [*follow.positives] == ['Cardiomegaly', 'Lung Opacity', 'mine']
    assert '1 column of 0 and 1 beside labels of known names: mine' in printed


def test_a_label_with_a_comma_is_written_without_it(home, table, follow):
    table.rename(columns={'Cardiomegaly': 'Heart, enlarged'}).to_csv(home/'t.csv', index=False)
    follow(home/'t.csv')
    right = [count(table, name) for name in ('Cardiomegaly', 'Lung Opacity')]
    assert follow.positives == dict(zip(('Heart  enlarged', 'Lung Opacity'), right))


def test_identifiers_that_a_spreadsheet_made_dates(home, table):
    table.assign(patient_id=pd.to_datetime(['2020-03-12', '2020-04-01']*12)).to_csv(home/'t.csv', index=False)
    printed = shell('doctor', home/'t.csv', '--look', 0, status=1)
    assert f"wrong     patients: dates in {N} of {N} rows of 'patient_id': 2020-03-12, 2020-04-01" in printed


def test_rows_without_a_patient_are_left_out_by_the_words_given(home, table):
    table.loc[:2, 'patient_id'] = None
    table.to_csv(home/'t.csv', index=False)
    printed = shell('doctor', home/'t.csv', '--look', 0, status=1)
    words = next(line for line in printed.splitlines() if '--leave-out' in line).partition('out: ')[2]
    shell('doctor', home/'t.csv', '--look', 0, *shlex.split(words.replace('KNOWN.csv', str(home/'known.csv'))))
    assert len(pd.read_csv(home/'known.csv')) == N - 3


# ---- files ----

def test_letters_with_marks_apart_are_the_same_file(phantom, table, tmp_path, follow):
    names = [f'Müller_{name}' for name in NAMES]
    for name, image in zip(names, np.asarray(phantom.images).reshape(-1, 64, 64)):
        Image.fromarray(image).save(tmp_path/unicodedata.normalize('NFD', name))
    table.assign(path=names).to_csv(tmp_path/'t.csv', index=False)
    assert get_stem(unicodedata.normalize('NFD', names[0])) == get_stem(names[0])
    assert 'in another spelling' in follow(tmp_path/'t.csv', status=1) and follow.rows == N


def test_masks_are_no_classes_and_no_images(home, table, follow):
    (home/'images').mkdir()
    (home/'masks').mkdir()
    for name in NAMES:
        shutil.copy(home/name, home/'masks'/name)
        (home/name).rename(home/'images'/name)
    printed = shell('doctor', home, '--each-image-a-patient', '--look', 0, status=1)
    assert f'{N} of {2*N} files are called masks' in printed and 'of images without a table' in printed
    table.to_csv(home/'t.csv', index=False)
    printed = shell('doctor', home/'t.csv', '--look', 0, status=1)
    assert f'name the folder that is meant: --root {home/"images"} or --root {home/"masks"}' in printed
    follow(home/'t.csv', '--root', home/'images')
    assert follow.rows == N


@pytest.mark.parametrize('names, found', [
    (['a.png', 'a_mask.png'], 1), (['x/masks/1.png', 'x/images/1.png'], 1), (['masked/1.png', 'b.png'], 0),
    (['masks/1.png', 'masks/2.png'], 0), (['unmasked_1.png', 'seg.png', None], 1)])
def test_what_is_called_a_mask(names, found): assert sum(check.count for check in check_masks(names)) == found


def test_an_archive_is_named(home, table):
    for name in NAMES: (home/name).unlink()
    (home/'images.zip').write_bytes(b'PK')
    table.to_csv(home/'t.csv', index=False)
    assert 'unpack images.zip, which may hold them' in shell('doctor', home/'t.csv', '--look', 0, status=1)


@pytest.mark.parametrize('bits', [10, 12])
def test_few_bits_in_files_of_16(bits, phantom, table, tmp_path, follow):
    for name, image in zip(NAMES, np.asarray(phantom.images).reshape(-1, 64, 64)):
        Image.fromarray((image/255*(2**bits - 1)).astype(np.uint16)).save(tmp_path/name)
    table.to_csv(tmp_path/'t.csv', index=False)
    printed = follow(tmp_path/'t.csv', status=1)
    assert find_commands(printed)[-1].endswith(f'--bits {bits}') and .3 < follow.mean < .8


def test_dark_images_of_8_bits_are_not_few_bits():
    sample = copies.Sample([0, 1], np.full((2, 8, 8), .5, np.float32), [])
    assert not copies.check_range(sample) and not copies.check_range(copies.Sample([], np.zeros((0, 8, 8)), []))


def test_floats_beyond_one_are_said(phantom, tmp_path):
    images = np.asarray(phantom.images).reshape(-1, 64, 64).astype(np.float32)
    np.savez(tmp_path/'x.npz', images=images, labels=np.asarray(phantom.labels)[:, :2],
             patient_id=np.array(phantom.patient_id).astype(str))
    printed = shell('doctor', tmp_path/'x.npz', status=1)
    assert 'values up to 255 in an array of float32' in printed and 'images of one grey' not in printed
    np.savez(tmp_path/'y.npz', images)
    assert 'Save each array under its name: np.savez(' in shell('doctor', tmp_path/'y.npz', status=1)
    record = json.loads(shell('doctor', tmp_path/'x.npz', '--json', status=1))
    assert record['kind'] == 'npz' and record['rows'] == N
