"The doctor: columns, places of files, copies, overlaps, the command that it ends with, on made and on real data."
import json, os, shlex, subprocess, sys
from pathlib import Path
import numpy as np, pandas as pd, pytest
from PIL import Image
from typer.testing import CliRunner
from cxr_workbench import copies, doctor, opening, overlaps, places, roles
from cxr_workbench.cli import app
from cxr_workbench.phantom import SyntheticCXR


def shell(*arguments, status=0):
    "What a command prints, both streams."
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exit_code == status, f'{result.output}\n{result.exception!r}'
    return result.output


@pytest.fixture(scope='module')
def phantom(): return SyntheticCXR(60, size=64, seed=1)


def write_images(phantom, folder, names):
    folder.mkdir(parents=True, exist_ok=True)
    pixels = np.asarray(phantom.images).reshape(-1, 64, 64)
    for name, image in zip(names, pixels):
        (folder/name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder/name)


def make_table(phantom, names, labels=4):
    states = np.asarray(phantom.labels)[:len(names), :labels].astype(int)
    table = pd.DataFrame(states, columns=phantom.label_names[:labels])
    return table.assign(path=names, patient_id=[f'p{who}' for who in phantom.patient_id[:len(names)]])


NAMES = [f'{k:03d}.png' for k in range(60)]


def test_the_states_of_every_label_are_printed(phantom, tmp_path):
    write_images(phantom, tmp_path, NAMES[:4])
    states = dict(Edema=[1, 1, -1, None], Mass=[*'001x'])
    table = pd.DataFrame(dict(path=NAMES[:4], patient_id=[*'abcc'], **states))
    table.to_csv(tmp_path/'t.csv', index=False)
    lines = [line.split() for line in shell('doctor', tmp_path/'t.csv', status=1).splitlines()]
    assert ['present', 'absent', 'uncertain', 'blank', 'other', 'patients'] in lines
    assert ['Edema', '2', '0', '1', '1', '0', '2'] in lines and ['Mass', '1', '2', '0', '0', '1', '1'] in lines


# ---- columns ----

def test_entries_keep_their_spelling(tmp_path):
    (tmp_path/'t.csv').write_text('image;PatientID;StudyID;Edema\na.png;007;1.92E+38;1\nb.png;7;12;\n')
    table = roles.read_texts(tmp_path/'t.csv')
    assert table.StudyID.tolist() == ['1.92E+38', '12'] and table.Edema.tolist() == ['1', None]
    assert table.PatientID.tolist() == ['007', '7']


@pytest.mark.parametrize('package, write, name', [
    ('openpyxl', 'to_excel', 't.xlsx'), ('pyarrow', 'to_parquet', 't.parquet')])
def test_other_tables_need_their_package(tmp_path, package, write, name):
    frame = pd.DataFrame(dict(image=['a.png', 'b.png'], patient=['007', '7'], Edema=[1, 0]))
    try: __import__(package)
    except ImportError:
        (tmp_path/name).write_bytes(b'PK\3\4 or PAR1')
        with pytest.raises(ValueError, match=package): roles.read_texts(tmp_path/name)
        return
    getattr(frame, write)(tmp_path/name, index=False)
    table = roles.read_texts(tmp_path/name)
    assert table.patient.tolist() == ['007', '7'] and table.Edema.tolist() == ['1', '0']


HEADERS = {   # the columns of public tables -> what is found
    'Path,Sex,Age,Frontal/Lateral,AP/PA,Edema': ('Path', None, 'Frontal/Lateral'),
    'dicom_id,subject_id,study_id,ViewPosition,Edema': ('dicom_id', 'subject_id', 'ViewPosition'),
    'ImageID,ImageDir,StudyDate_DICOM,StudyID,PatientID,PatientSex_DICOM,ViewPosition_DICOM,Projection,Labels':
        ('ImageID', 'PatientID', 'Projection'),
    'Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position':
        ('Image Index', 'Patient ID', 'View Position'),
    'PngPath,PatientID,PatientSex,PatientAge,ViewPosition,Edema': ('PngPath', 'PatientID', 'ViewPosition'),
    'image_id,rad_id,class_name': ('image_id', None, None),
}


@pytest.mark.parametrize('header, found', HEADERS.items())
def test_columns_of_public_tables(header, found):
    table = pd.DataFrame([['x']*len(header.split(','))]*3, columns=header.split(','), dtype=object)
    guessed = roles.guess_roles(table)
    columns = [guessed[what].column if what in guessed else None for what in ('image files', 'patients', 'views')]
    assert tuple(columns) == found


def test_a_column_is_known_by_what_it_holds():
    columns = dict(a=['x/1.JPG', 'x/2.dcm'], b=['PA', 'LL'], c=['training', 'test'], d=['M', 'F'])
    table = pd.DataFrame(columns, dtype=object)
    guessed = roles.guess_roles(table)
    found = [guessed[what].column for what in ('image files', 'views', 'parts', 'sex')]
    assert found == list('abcd') and all('holds' in guessed[what].why for what in guessed)


def test_a_label_of_that_name_is_no_text_of_findings():
    table = pd.DataFrame(dict(path=['a.png', 'b.png'], label=['1', '0']), dtype=object)
    assert 'findings' not in roles.guess_roles(table)
    assert [role.column for role in roles.guess_labels(table, ['path'])] == ['label']


@pytest.mark.parametrize('text, rounded', [
    ('1.92E+38', True), ('1,92E+38', True), ('1e+20', True), ('123456789012345000000', True), ('12345', False),
    ('123456789012345678901', False), ('patient1', False), ('1e5', False), ('100000', False), (None, False)])
def test_rounded_identifiers(text, rounded): assert roles.is_rounded([text])[0] == rounded


def test_states_add_to_the_rows():
    table = pd.DataFrame(dict(Edema=['1', '1.0', '-1', None, '0', 'x', 'TRUE'], Mass=['0']*7), dtype=object)
    counts = roles.tabulate_states(roles.parse_states(table, ['Edema', 'Mass']), ['Edema', 'Mass'], list('aabbccc'))
    assert counts.loc['Edema'].tolist() == [3, 1, 1, 1, 1, 2]
    assert counts.loc['Mass'].tolist() == [0, 7, 0, 0, 0, 0]
    assert (counts.iloc[:, :5].sum(axis=1) == 7).all()


def test_no_finding_beside_a_finding_but_not_beside_devices():
    table = pd.DataFrame({'No Finding': ['1', '1', '0'], 'Edema': ['0', '1', '1'], 'Support Devices': ['1', '0', '1']})
    wrong = [check for check in roles.check_labels(table, list(table)) if check.stops]
    assert [check.count for check in wrong] == [1] and 'row 2 (counted from 1) (Edema)' in wrong[0].examples


def test_whole_names_are_counted():
    from cxr_workbench.finding_texts import findings_table
    found = findings_table(pd.Series(["['nodule', ' pseudonodule ']", 'Mass|pseudonodule', "['nodule", None]))
    assert found['nodule'].tolist() == ['1', '0', '1', None] and found['pseudonodule'].tolist() == ['1', '1', '0', None]


def test_a_column_has_one_role(phantom, tmp_path):
    numbers = [f'A{k:04d}' for k in range(20)]
    write_images(phantom, tmp_path, [f'{number}.png' for number in numbers])
    table = pd.DataFrame({'Accession': numbers, 'PatID': [f'p{k//2}' for k in range(20)], 'Edema': [0, 1]*10})
    table.to_csv(tmp_path/'t.csv', index=False)
    found = doctor.examine(tmp_path/'t.csv')
    columns = {what: role.column for what, role in found.roles.items()}
    assert columns == {'image files': 'Accession', 'patients': 'PatID'}
    assert found.roles['image files'].why.endswith('; by its name it would be the studies')
    other = table.assign(StudyInstanceUID=[f'1.2.{k//2}' for k in range(20)])
    other.to_csv(tmp_path/'t.csv', index=False)
    assert doctor.examine(tmp_path/'t.csv').roles['studies'].column == 'StudyInstanceUID'
    by_patient = table.rename(columns={'Accession': 'PatientID', 'PatID': 'ward'})
    by_patient.to_csv(tmp_path/'t.csv', index=False)
    found = doctor.examine(tmp_path/'t.csv')
    assert [found.roles[what].column for what in ('image files', 'patients')] == ['PatientID', 'PatientID']
    assert found.roles['patients'].why == 'by its name; each has one image, of that name'


# ---- places ----

def touch(folder, *names):
    for name in names:
        (folder/name).parent.mkdir(parents=True, exist_ok=True)
        (folder/name).touch()


MOVES = {   # what the table says, where the file lies -> base, prefix, suffix
    'below': ('a.png', 'images_256/a.png', ('images_256', '', '')),
    'prefix': ('CheXpert-v1.0/train/p1/a.png', 'train/p1/a.png', ('.', 'CheXpert-v1.0', '')),
    'suffix': ('x/a.png', 'x/a.jpg', ('.', '', '.jpg for .png')),
    'no suffix': ('1.2.840.113', 'dicom/1.2.840.113.dcm', ('dicom', '', '.dcm for no suffix')),
    'another folder': ('images/a.png', 'images_001/a.png', ('images_001', 'images', '')),
}


@pytest.mark.parametrize('said, lies, move', MOVES.values(), ids=MOVES)
def test_where_a_file_lies(tmp_path, said, lies, move):
    touch(tmp_path, lies)
    found = places.locate_files([said], tmp_path)
    assert found.paths == [str(tmp_path/lies)]
    (got,) = found.moves
    base, prefix, suffix = move
    if said == '1.2.840.113': suffix = got.suffix   # a name with dots has something like a suffix
    assert os.path.normpath(got.base) == str((tmp_path/base).resolve())
    assert (got.prefix, got.suffix) == (prefix, suffix)


def test_a_root_is_named_only_where_all_files_lie_under_it(tmp_path):
    touch(tmp_path, 'one/a/1.png', 'one/b/1.png', 'two/c/1.png')
    both = ['a/1.png', 'b/1.png']
    assert places.find_root(both, places.locate_files(both, tmp_path)) == str(tmp_path/'one')
    three = [*both, 'c/1.png']
    assert places.find_root(three, places.locate_files(three, tmp_path)) is None


def test_a_folder_for_each_patient_is_one_line(tmp_path):
    names = [f'{row:03d}.png' for row in range(30)]
    touch(tmp_path, *(f'dicom/p{row//2}/{name}' for row, name in enumerate(names)))
    check, = places.check_files(names, places.locate_files(names, tmp_path), tmp_path)
    assert check.count == 30 and 'they lie in 15 folders below dicom' in check.detail and '--write' in check.advice


def test_a_file_of_another_patient_is_no_substitute(tmp_path):
    touch(tmp_path, 'old/patient1/study1/view1_frontal.jpg')
    names = [f'patient{k}/study1/view1_frontal.jpg' for k in (1, 2)]
    found = places.locate_files(names, tmp_path)
    assert found.absent == [1] and found.paths == [str(tmp_path/'old'/names[0]), None]


def test_files_beside_the_folder_of_the_table(tmp_path):
    touch(tmp_path, 'images/a.png')
    (tmp_path/'labels').mkdir()
    found = places.locate_files(['a.png'], tmp_path/'labels')
    assert found.paths == [str(tmp_path/'images'/'a.png')]


def test_a_few_names_in_a_neighbouring_folder_are_a_coincidence(tmp_path):
    touch(tmp_path, 'of_somebody_else/0.png', 'of_somebody_else/00007.png')
    (tmp_path/'labels').mkdir()
    names = [f'{k}.png' for k in range(60)]
    assert places.locate_files(names, tmp_path/'labels').absent == list(range(60))
    assert places.locate_files(names, tmp_path/'labels', least=.03).paths[0].endswith('0.png')
    assert places.locate_files(names, tmp_path).absent == [k for k in range(60) if k not in (0, 7)]   # as it was given


@pytest.mark.parametrize('which', ['temporary', 'homes', 'disk'])
def test_a_folder_that_belongs_to_everybody_is_not_searched(which, tmp_path, monkeypatch):
    touch(tmp_path, 'other/a.png')
    mine = tmp_path/'mine'
    mine.mkdir()
    assert places.locate_files(['a.png'], mine).paths == [str(tmp_path/'other'/'a.png')]
    if which == 'temporary': monkeypatch.setattr(places.tempfile, 'gettempdir', lambda: str(tmp_path))
    if which == 'homes': monkeypatch.setenv('HOME', str(mine))
    if which == 'disk': assert places.get_above('/data') is None
    else: assert places.locate_files(['a.png'], mine) == places.Places([None], {}, [], [0], [str(mine)])


# ---- copies ----

def test_every_copy_is_found_and_nothing_else(phantom):
    images = np.asarray(phantom.images).reshape(-1, 64, 64)/np.float32(255)
    def enlarge(image): return np.asarray(Image.fromarray(image).resize((200, 200)).resize((64, 64)))
    again = np.stack([enlarge(image) for image in images[:20]])
    pairs = copies.find_near(np.concatenate([images, again]))
    assert {pair[:2] for pair in pairs} == {(k, 60 + k) for k in range(20)}


def test_a_negative_has_the_opposite_polarity(phantom):
    images = np.asarray(phantom.images).reshape(-1, 64, 64)/np.float32(255)
    polarity = copies.measure_polarity(images)
    assert (polarity > .5).all() and np.allclose(copies.measure_polarity(1 - images), -polarity, atol=1e-4)


def test_copies_with_other_labels_train_wrongly():
    same, names = [[0, 1]], ['a', 'b']
    def status(**keys): return copies.check_copies(same, [], names, keys)[0].status
    assert status(labels=[1, 1], patients=['p', 'p']) == 'note'
    assert status(labels=[1, 0], patients=['p', 'p']) == 'wrong'
    assert status(labels=[1, 1], patients=['p', 'q']) == 'wrong'


# ---- the command that it ends with ----

def make_plain(phantom, folder):
    write_images(phantom, folder/'images', NAMES)
    make_table(phantom, [f'images/{name}' for name in NAMES]).to_csv(folder/'t.csv', index=False)
    return [folder]


def make_moved(phantom, folder):
    write_images(phantom, folder/'images_256', NAMES)
    make_table(phantom, NAMES).to_csv(folder/'t.csv', index=False)
    return [folder/'t.csv']


def make_other_names(phantom, folder):
    write_images(phantom, folder/'png', NAMES)
    table = make_table(phantom, [f'D:\\study\\{name}'.replace('.png', '.jpg') for name in NAMES])
    table.rename(columns={'path': 'scan', 'patient_id': 'person'}).to_csv(folder/'t.tsv', sep='\t', index=False)
    return [folder/'t.tsv', '--write', folder/'repaired.csv']


def make_texts(phantom, folder):
    write_images(phantom, folder/'images', NAMES)
    texts = ['Edema|Mass' if row%3 == 0 else 'Mass' if row%3 == 1 else 'No Finding' for row in range(60)]
    table = pd.DataFrame({'Image Index': NAMES, 'Finding Labels': texts, 'Patient ID': phantom.patient_id})
    table.to_csv(folder/'list.csv', index=False)
    return [folder/'list.csv', '--root', folder/'images', '--write', folder/'repaired.csv']


def make_classes(phantom, folder):
    write_images(phantom, folder, [f'{"sick" if k%3 else "healthy"}/{name}' for k, name in enumerate(NAMES)])
    return [folder, '--each-image-a-patient', '--write', folder/'repaired.csv']


def make_npz(phantom, folder):
    labels = np.asarray(phantom.labels)[:, :4]
    np.savez(folder/'x.npz', images=np.asarray(phantom.images).reshape(-1, 64, 64), labels=labels,
             label_names=np.array(phantom.label_names[:4]), patient_id=phantom.patient_id)
    return [folder/'x.npz']


def make_own_columns(phantom, folder):
    write_images(phantom, folder, NAMES)
    table = make_table(phantom, NAMES).rename(columns={'Cardiomegaly': 'wide heart', 'patient_id': 'person number'})
    names = list(dict.fromkeys(table['person number']))
    table['quality'] = 'good'
    table['my part'] = ['test' if names.index(who)%4 == 0 else 'train' for who in table['person number']]
    table.to_csv(folder/'t.csv', index=False)
    return [folder/'t.csv']


def make_some_missing(phantom, folder):
    write_images(phantom, folder, NAMES[:50])
    make_table(phantom, NAMES).to_csv(folder/'t.csv', index=False)
    return [folder/'t.csv']


TREES = {   # what is made -> whether something stops, and what the command says
    make_plain: (False, '--data'), make_moved: (True, '--root'), make_other_names: (True, 'repaired.csv'),
    make_texts: (False, 'repaired.csv'), make_classes: (False, '--each-image-a-patient'), make_npz: (False, 'x.npz'),
    make_own_columns: (False, "--fold-column 'my part'"), make_some_missing: (True, '--missing skip'),
}
TINY = ['--preset', 'tiny', '--epochs', '1', '--no-progress', '--device', 'cpu', '--batch-size', '32']


def open_only(method, record, settings, out, **how):
    "What training does before its first step."
    train, held = opening.open_parts(record)
    for part in (train, held): assert part.batch(range(2)).x.shape[0] == 2
    print('opened', len(train), len(held))


def find_commands(text):
    lines = [line.strip() for line in text.splitlines()]
    return [line for line in lines if line.startswith('cxr-workbench ')]


@pytest.fixture(scope='module')
def trained(): return {make_moved, make_other_names, make_classes}   # the others are opened and split, as training does


@pytest.mark.parametrize('make', TREES, ids=lambda make: make.__name__)
def test_the_command_to_type_trains(make, phantom, tmp_path, trained, monkeypatch):
    stops, words = TREES[make]
    home = tmp_path/'mine'
    home.mkdir()
    arguments = make(phantom, home)
    commands = find_commands(shell('doctor', *arguments, status=int(stops and '--write' not in arguments)))
    assert len(commands) == 1 and words in commands[0]
    size = [] if '.npz' in commands[0] else ['--size', '32']
    if make not in trained: monkeypatch.setattr('cxr_workbench.cli.train_run', open_only)
    printed = shell(*shlex.split(commands[0])[1:], *TINY, *size, '--out', tmp_path/'run')
    assert ('held-out AUROC' if make in trained else 'opened') in printed


def test_without_write_the_table_is_written_first(phantom, tmp_path, monkeypatch):
    make_other_names(phantom, tmp_path)
    first, second = find_commands(shell('doctor', tmp_path/'t.tsv', status=1))
    monkeypatch.chdir(tmp_path)
    shell(*shlex.split(first)[1:])   # nothing is wrong with the table that is written
    assert Path('repaired.csv').exists()
    assert find_commands(shell('doctor', 'repaired.csv'))[0] == second
    again = shell('doctor', 't.tsv', '--write', 'repaired.csv', status=1)
    assert 'is there already' in again


def test_exit_codes_say_whether_what_is_read_would_train_wrongly(phantom, tmp_path):
    write_images(phantom, tmp_path, NAMES[:20])
    table = make_table(phantom, NAMES[:20])
    table.to_csv(tmp_path/'right.csv', index=False)
    lost = [*NAMES[:17], 'gone/lost_1.png', 'gone/lost_2.png', None]
    table.assign(path=lost).to_csv(tmp_path/'lost.csv', index=False)
    table.assign(patient_id=['1.92E+38']*3 + [*table.patient_id[3:]]).to_csv(tmp_path/'rounded.csv', index=False)
    assert 'wrong' not in shell('doctor', tmp_path/'right.csv')
    shell('doctor', tmp_path/'lost.csv', status=1)
    printed = shell('doctor', tmp_path/'lost.csv', '--write', tmp_path/'new.csv')   # nothing is wrong with new.csv
    left_out = '1 row without the name of a file, 2 rows whose file was not found, or is one of several'
    assert f'17 of 20 rows written to {tmp_path/"new.csv"}; left out: {left_out}' in printed
    assert 'nothing in it would train wrongly' in printed and len(pd.read_csv(tmp_path/'new.csv')) == 17
    printed = shell('doctor', tmp_path/'rounded.csv', '--write', tmp_path/'still.csv', status=1)
    assert (tmp_path/'still.csv').exists() and 'wrong or missing in it:\nwrong     patients: rounded' in printed
    assert shell('doctor', tmp_path/'right.csv', '--write', tmp_path/'new.csv', status=1).startswith('error: ')
    shell('doctor', tmp_path/'right.csv', '--no-such-option', status=2)


def test_json_stays_json_when_a_table_is_written(phantom, tmp_path):
    write_images(phantom, tmp_path, NAMES[:20])
    make_table(phantom, [*NAMES[:18], 'x.png', 'y.png']).to_csv(tmp_path/'t.csv', index=False)
    printed = shell('doctor', tmp_path/'t.csv', '--write', tmp_path/'new.csv', '--card', tmp_path/'c.html', '--json')
    record = json.loads(printed)
    assert record['stops'] and not record['written']['stops'] and record['card'] == str(tmp_path/'c.html')
    assert record['written']['rows'] == 18 and [*record['written']['left_out'].values()] == [2]
    assert record['written']['labels']['Cardiomegaly']['present'] == int(phantom.labels[:18, 2].sum())


def test_a_public_layout_has_a_command_too(phantom, tmp_path):
    write_images(phantom, tmp_path/'images', [f'{k:08d}_{k:03d}.png' for k in range(60)])
    names = sorted(path.name for path in (tmp_path/'images').iterdir())
    texts = np.where(np.arange(60)%3 == 0, 'Edema|Mass', np.where(np.arange(60)%3 == 1, 'Hernia', 'No Finding'))
    table = pd.DataFrame({'Image Index': names, 'Finding Labels': texts, 'Patient ID': range(60)})
    table.to_csv(tmp_path/'Data_Entry_2017.csv', index=False)
    for target in ([tmp_path], ['nih14', tmp_path]):
        command = find_commands(shell('doctor', *target))[0]
        assert command == f'cxr-workbench fit supervised --data nih14 --root {tmp_path}'


def test_rows_that_are_left_out(phantom, tmp_path):
    write_images(phantom, tmp_path, NAMES)
    table = make_table(phantom, NAMES).assign(split=['test' if k < 20 else 'train' for k in range(60)])
    table.to_csv(tmp_path/'t.csv', index=False)
    shell('doctor', tmp_path/'t.csv', '--leave-out', 'split=test', '--write', tmp_path/'train.csv')
    assert set(pd.read_csv(tmp_path/'train.csv').split) == {'train'} and len(pd.read_csv(tmp_path/'train.csv')) == 40
    assert 'no row has it; split holds' in shell('doctor', tmp_path/'t.csv', '--leave-out', 'split=dev', status=1)


# ---- what it says ----

def test_a_shared_patient_stops_and_another_fold_does_not(phantom, tmp_path):
    write_images(phantom, tmp_path, NAMES)
    table = make_table(phantom, NAMES)
    for parts, status in ((np.arange(60)%2, 1), (table.patient_id == table.patient_id[0], 0)):
        table.assign(split=np.where(parts, 'train', 'test')).to_csv(tmp_path/'t.csv', index=False)
        printed = shell('doctor', tmp_path/'t.csv', status=status)
        assert ('in more than one part' in printed) == bool(status)
        assert ('--fold-column' in printed.splitlines()[-1]) == (not status)


def test_json_says_the_same(phantom, tmp_path):
    record = json.loads(shell('doctor', *make_moved(phantom, tmp_path), '--json', status=1))
    assert record['stops'] and record['rows'] == 60 and record['roles']['patients']['column'] == 'patient_id'
    (check,) = [check for check in record['checks'] if check['status'] == 'missing']
    assert check['count'] == 60 and check['advice'] == f'--root {tmp_path/"images_256"}'
    assert all(sum(states[name] for name in ('present', 'absent', 'uncertain', 'blank', 'other')) == 60
               for states in record['labels'].values())


def test_a_card_names_nobody(phantom, tmp_path):
    home = tmp_path/'secret place'
    home.mkdir()
    make_moved(phantom, home)
    for more, figures in (((), 0), (('--show-images',), 24)):
        shell('doctor', home/'t.csv', '--card', tmp_path/'card.html', *more, status=1)
        text = (tmp_path/'card.html').read_text()
        assert text.count('<img') == figures or figures and text.count('<img') > figures
        assert "default-src 'none'" in text and text.count('<script type="application/json">') == 1   # of all pages
        assert 'something would train wrongly' in text and 'not a medical device' in text
        assert not [word for word in ('secret place', '003.png', 'p3<', 'images_256') if word in text]
    assert '--card FILE' in shell('doctor', home/'t.csv', '--show-images', status=1)


def test_a_card_says_that_blanks_train_as_absent(tmp_path):
    from cxr_workbench.cards import write_card
    from cxr_workbench.doctor import examine
    table = pd.DataFrame(dict(path=[f'{k}.png' for k in range(8)], patient_id=range(8)))
    table['Edema'] = [1, 0, None, None, 1, 0, 1, 0]
    table['Mass'] = [1, 0, -1, 0, 1, 0, None, 0]
    images = np.random.default_rng(0).integers(0, 256, (8, 32, 32), np.uint8)
    for row, image in enumerate(images): Image.fromarray(image).save(tmp_path/f'{row}.png')
    table.to_csv(tmp_path/'t.csv', index=False)
    write_card(examine(tmp_path/'t.csv'), tmp_path/'card.html')
    text = (tmp_path/'card.html').read_text()
    assert '3 of 16 entries are blank and train as absent, unless fit has --blank unknown' in text
    assert '1 of 16 entries are uncertain and train as absent, unless fit has --uncertain ignore' in text
    table.fillna(0).replace(-1, 0).to_csv(tmp_path/'t.csv', index=False)
    write_card(examine(tmp_path/'t.csv'), tmp_path/'card.html')
    assert 'nothing was found that would train wrongly' in (tmp_path/'card.html').read_text()


@pytest.mark.parametrize('arguments, words', [
    (('nowhere',), 'no such file or folder'), (('a', 'b', 'c'), 'overlap A B'),
    (('overlap', 'nowhere', 'x'), 'nowhere'), (('cifar', '.'), "no collection 'cifar'"),
    (('overlap', 'a', 'b', '--look', '9'), 'does not use --look'), (('overlap', 'a', 'b', '--force'), 'give --write'),
    (('overlap', 'a', 'b', '--complete'), 'give --write'), (('overlap', 'a', 'b', '--show-images'), 'give --card'),
    (('a', '--force'), 'give --write')])
def test_wrong_arguments_are_one_line(arguments, words): assert words in shell('doctor', *arguments, status=1)


def test_a_table_is_looked_at_without_torch(phantom, tmp_path):
    make_plain(phantom, tmp_path)
    code = ('import sys; from cxr_workbench.cli import app\n'
            f'try: app(["doctor", {str(tmp_path/"t.csv")!r}, "--look", "0"])\n'
            'except SystemExit as end: code = end.code\n'
            'print(code, sorted({"torch", "timm", "plotly", "sklearn"} & set(sys.modules)))')
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, timeout=120)
    assert done.stdout.splitlines()[-1] == '0 []', done.stderr


# ---- overlaps ----

def write_parts(tmp_path, shared, spell=str):
    "Two tables with `shared` patients in both, and the original identifiers."
    ids = [f'1234567{k:02d}' + '31415926535897932384626433832' for k in range(40)]   # of 38 digits
    one = pd.DataFrame(dict(ImageID=[f'{k}.png' for k in range(60)], Mass=1))
    one['PatientID'] = [ids[k%20] for k in range(60)]
    other = pd.DataFrame(dict(ImageID=[f'{k}.png' for k in range(60, 80)], Mass=0))
    other['PatientID'] = [ids[20 - shared + k] for k in range(20)]
    pd.concat([one, other]).to_csv(tmp_path/'original.csv', index=False)
    for table, name in ((one, 'a.csv'), (other, 'b.csv')):
        table.assign(PatientID=[spell(text) for text in table.PatientID]).to_csv(tmp_path/name, index=False)
    return tmp_path/'a.csv', tmp_path/'b.csv'


@pytest.mark.parametrize('shared', [0, 3])
def test_overlap_counts_patients(tmp_path, shared):
    pair = write_parts(tmp_path, shared)
    printed = shell('doctor', 'overlap', *pair, status=int(shared > 0))
    first = overlaps.overlap(*pair)[0]
    assert first.count == shared and ('patients' in printed)
    if shared: assert f'{3*shared} of 60 rows of the first' in printed and f'{shared} of 20 rows' in printed


def test_rounded_identifiers_prove_nothing_until_they_are_restored(tmp_path):
    pair = write_parts(tmp_path, 3, spell=lambda text: f'{float(text):.2E}')
    rounded = overlaps.overlap(*pair)[0]
    assert rounded.status == 'wrong' and 'says nothing' in rounded.detail
    restored = overlaps.overlap(*pair, ids=tmp_path/'original.csv')[0]
    assert restored.count == 3


def test_overlap_by_content(phantom, tmp_path):
    for name, rows in (('a', range(0, 10)), ('b', range(9, 20))):
        write_images(phantom, tmp_path/name, [])
        pixels = np.asarray(phantom.images).reshape(-1, 64, 64)
        for row in rows: Image.fromarray(pixels[row]).save(tmp_path/name/f'{name}{row}.png')
    found = [check for check in overlaps.overlap(tmp_path/'a', tmp_path/'b') if 'byte by byte' in check.detail]
    assert [check.count for check in found] == [1] and found[0].examples == ['a9.png = b9.png']


# ---- real files ----

def test_the_nih_subset(cxr_data):
    found = doctor.examine(cxr_data/'nih14'/'subset.csv', look=60)
    assert {role.column for role in found.labels} >= {'Hernia', 'Pleural_Thickening'} and len(found.labels) == 14
    assert found.roles['image files'].column == 'file_256' and len(set(found.patients)) == 1730
    counts = {check.detail.split(' of ')[0]: check.count for check in found.checks if check.what == 'image files'}
    assert counts == {'666': 666}
    (copy,) = [check for check in found.checks if check.what == 'copies']
    assert '00002658_001.jpg = images_256/00002658_002.jpg' in copy.examples[0]


def test_two_films_of_the_nih_subset_are_negatives(cxr_data):
    with np.load(cxr_data/'nih14'/'images_64.npz') as file: films = file['images']/np.float32(255)
    polarity = copies.measure_polarity(films)
    assert (polarity < 0).sum() == 2 and (polarity < copies.NEGATIVE).sum() == 1


def test_odd_files(cxr_data):
    folder = cxr_data/'odd_files'/'derived_formats'
    sample = copies.read_sample([str(path) for path in sorted(folder.iterdir())])
    names = [path.name for path in sorted(folder.iterdir())]
    assert {names[row] for row, _ in sample.unread} == {'00000003_003_1x1.png', '00000003_003_truncated.jpg'}
    negative = np.flatnonzero(copies.measure_polarity(sample.images) < copies.NEGATIVE)
    assert [names[sample.rows[k]] for k in negative] == ['rg1_16bit_monochrome1.png']
    called = [names[row] for row in sample.rows]
    pairs = {frozenset((called[a], called[b])) for a, b, _ in copies.find_near(sample.images)}
    assert frozenset(('00000003_003.jp2', '00000003_003.webp')) in pairs


CASES = {   # case -> file, what stops, and how often
    '04_patient_id_overflow': ('table.csv', 'patients', 8), '12_duplicate_label_column': ('t.csv', 'labels', 1)}


@pytest.mark.parametrize('case', CASES)
def test_field_cases(cxr_data, case):
    name, what, count = CASES[case]
    file = cxr_data/'field_cases'/case/name
    if not file.exists(): pytest.skip(f'no {file}')
    found = doctor.examine(file)
    assert [check.count for check in found.checks if check.stops and check.what == what] == [count]


@pytest.fixture
def real_tables():
    for folder in (os.environ.get('CXR_TABLES'), Path(__file__).resolve().parent.parent/'tables'):
        if folder and any(Path(folder).rglob('chexpert_train.csv.gz')): return Path(folder)
    pytest.skip('no label tables: set CXR_TABLES to the folder that holds those of torchxrayvision')


def test_the_table_of_chexpert(real_tables):
    found = doctor.examine(next(real_tables.rglob('chexpert_train.csv.gz')), look=0)
    assert len(found.table) == 223414 and len(found.labels) == 14 and len(set(found.patients)) == 64540
    lateral = next(check for check in found.checks if check.what == 'views')
    assert lateral.count == 32387
    blank = next(check for check in found.checks if 'no label at all' in check.detail)
    assert blank.count == 12 and not any('beside a finding' in check.detail for check in found.checks)


def test_files_that_are_all_called_alike_are_not_compared_with_each_other(tmp_path, monkeypatch):
    from cxr_workbench import places
    names = [f'CheXpert-v1.0/train/patient{k:05d}/study1/view1_frontal.jpg' for k in range(300)]
    for name in names[:290]:
        file = tmp_path/'images'/name.removeprefix('CheXpert-v1.0/')
        file.parent.mkdir(parents=True)
        file.touch()
    compared, original = [], places.count_shared
    monkeypatch.setattr(places, 'count_shared', lambda *pair: compared.append(pair) or original(*pair))
    found = places.locate_files(names, tmp_path)
    assert found.paths[:290] == [str(tmp_path/'images'/name.removeprefix('CheXpert-v1.0/')) for name in names[:290]]
    assert found.absent == list(range(290, 300)) and not found.unclear
    assert len(compared) <= 3*len(names)   # and not their square


def test_blank_entries_beside_others_are_said_to_train_as_absent(tmp_path):
    states = dict(Edema=[1, 0, None, None], Mass=[1, 1, 0, None])
    table = pd.DataFrame(dict(path=[f'{k}.png' for k in range(4)], **states))
    table.to_csv(tmp_path/'table.csv', index=False)
    found = doctor.examine(tmp_path/'table.csv')
    said = [check for check in found.checks if 'blank entry beside others' in check.detail]
    assert [check.count for check in said] == [1]   # the empty row has its own line
    assert '--blank unknown' in said[0].advice
