"Tables, files and packs as they should not be: each ends in the right value or in one line that says what to do."
import json, os, re, shutil, subprocess, sys
from pathlib import Path
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from test_layouts_trees import build
from typer.testing import CliRunner
from cxr_workbench.catalogue import parse_options
from cxr_workbench.cli import app
from cxr_workbench.data import from_csv, open_named
from cxr_workbench.labels import LabelPolicy
from cxr_workbench.packing import PackedImages, pack
from cxr_workbench.pack_checks import check_pack
from cxr_workbench.packs import from_pack
from cxr_workbench.reading import Reading, read_image
from cxr_workbench.shards import hold_folder

TEXT = 'path,MRN,study,Edema,Mass\na.png,007,0012,1,0\nb.png,7,12,0,1\nc.png,12345678901234567890,NA,,-1\n'
RIGHT = [[1, 0], [0, 1], [0, 0]]   # its labels, uncertain and blank entries as absent


def draw(path, seed=0):
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (24, 24), np.uint8)).save(path)


@pytest.fixture
def home(tmp_path):
    "A folder of three images."
    for seed, name in enumerate('abc'): draw(tmp_path/f'{name}.png', seed)
    return tmp_path


def write(home, text, encoding='utf-8'):
    (home/'t.csv').write_bytes(text.encode(encoding))
    return home/'t.csv'


def shell(*arguments, status=0):
    "What a command prints, both streams, in one line each."
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exit_code == status, result.output
    return result.output


# ---- labels in odd spellings ----

EXACT = LabelPolicy('ignore', 'unknown')


def read_states(home, entries, policy=EXACT):
    "1, 0 or None of each entry of a label column that is written as text."
    rows = [f'{name}.png,{k},"{entry}"' for k, (name, entry) in enumerate(zip('abc', entries))]
    data = from_csv(write(home, '\n'.join(['path,patient_id,Edema', *rows])), policy=policy)
    return [int(y) if known else None for y, known in zip(data.y[:, 0], data.known[:, 0])]


@pytest.mark.parametrize('entries, states', [
    ('1.0|-1.0|0', [1, None, 0]), ('1,0|0,0|', [1, 0, None]), ('TRUE|false|NaN', [1, 0, None]),
    (' yes|NO |U', [1, 0, None]), ('1|0|u', [1, 0, None]), ('+|-|U', [1, 0, None]),
    ('−1|1|0', [None, 1, 0]), ('–1|1|0', [None, 1, 0]), ('01|+1|0e0', [1, 1, 0]),
    ('WAHR|FALSCH|', [1, 0, None]), ('VRAI|FAUX|', [1, 0, None]), ('Falso|Verdadero|1', [0, 1, 1])])
@pytest.mark.filterwarnings('ignore:labels are written in words')
def test_a_spelling_has_its_state(home, entries, states): assert read_states(home, entries.split('|')) == states


@pytest.mark.parametrize('entry', ['50%', '2', '1,000', '[1]', '2020-01-01', 'inf', '.', '1_0', '0.5', 'T', '9'])
def test_an_entry_that_is_no_state_is_named(home, entry):
    with pytest.raises(ValueError, match='line 2, .*Edema.*is none of 1, 0, -1 and blank'):
        read_states(home, [entry, '1', '0'])


def test_uncertain_in_a_letter_is_what_the_policy_says(home):
    with pytest.warns(UserWarning, match="'u' is uncertain"):
        assert read_states(home, ['1', '0', 'U'], LabelPolicy('ones')) == [1, 0, 1]
    with pytest.warns(UserWarning): assert read_states(home, ['1', '0', 'U'], None) == [1, 0, 0]


def test_lists_as_entries_and_texts_as_policies_are_named(home):
    table = pd.DataFrame(dict(path=['a.png', 'b.png'], patient_id=[1, 2], Edema=[[1], [0]]))
    with pytest.raises(ValueError, match=r'row 1 \(counted from 1\).*\[1\] is none'): from_csv(table, home)
    table['Edema'] = [1, 0]
    for policy in ('ones', {'uncertain': 'ones'}):
        with pytest.raises(ValueError, match='give LabelPolicy'): from_csv(table, home, policy=policy)
    with pytest.raises(ValueError, match='size=0: give the side'): from_csv(table, home, size=0)


# ---- tables ----

@pytest.mark.parametrize('change', [
    lambda text: text.replace(',', ';'), lambda text: text.replace(',', '\t'),
    lambda text: 'sep=;\n' + text.replace(',', ';'),
    lambda text: text.replace('\n', '\r\n'), lambda text: '# of our department\n' + text,
    lambda text: text.replace('path,MRN,study,Edema,Mass', ' path ,MRN , study, Edema ,Mass '),
    lambda text: text.replace('a.png', ' a.png').replace('b.png', 'b.png ')])
@pytest.mark.parametrize('encoding', ['utf-8', 'utf-8-sig', 'utf-16'])
def test_a_table_is_packed_and_read_however_it_is_written(home, change, encoding):
    table = write(home, change(TEXT), encoding)
    shell('pack', table, home/'out', '--size', 16)
    for data in (from_csv(table, patient='MRN'), from_pack(home/'out', patient='MRN')):
        assert data.label_names == ['Edema', 'Mass']
        assert data.y.int().tolist() == RIGHT
        assert data.patient_id.tolist() == ['007', '7', '12345678901234567890']
    some = from_csv(table, labels=['Edema'], patient='MRN', packed=home/'out')
    assert some.y[:, 0].tolist() == [1, 0, 0]


def test_what_the_command_packs_is_kept_as_it_is_written(home):
    shell('pack', write(home, TEXT), home/'out', '--size', 16)
    assert (home/'out'/'table.csv').read_text() == TEXT
    assert pack(home/'t.csv', home/'two', 16).table_file.read_text() == TEXT


@pytest.mark.parametrize('save', ['xlsx', 'parquet', 'csv.gz'])
def test_the_function_packs_what_the_command_packs(home, save):
    table = pd.DataFrame(dict(path=['a.png', 'b.png'], patient_id=['01', '1'], Edema=['1', '0']))
    writers = dict(xlsx=table.to_excel, parquet=table.to_parquet)
    writers.get(save, table.to_csv)(home/f't.{save}', index=False)
    data = from_pack(pack(home/f't.{save}', home/'out', 16).folder)
    assert data.patient_id.tolist() == ['01', '1'] and data.y[:, 0].tolist() == [1, 0]


def test_other_ways_to_name_files(home):
    names = [str(home/f'{name}.png') for name in 'abc']
    assert len(pack(home, home/'folder', 16)) == len(pack((name for name in names), home/'lazy', 16)) == 3
    assert len(pack(dict(path=names), home/'dict', 16)) == 3
    shutil.copy(home/'a.png', home/'7')
    assert pack(pd.DataFrame(dict(path=[7])), home/'number', 16, root=home).paths == ['7']


@pytest.mark.parametrize('text, words', [
    ('', 'is empty'), ('path,Edema\n', 'no rows, only the names'), ('path,Edema\na.png\n', 'line 2 has 1 fields'),
    ('path,path,Edema\na.png,b.png,1\n', "'path' more than once"),
    (TEXT + 'a.png,1,1,1,1\n', 'lines 2, 5: .*one row of each'),
    (TEXT + TEXT, 'repeats the names'), ('a.png,1\nb.png,0\n', "first line holds 'a.png', which is a file"),
    ('Our study,,\npath,MRN,Edema\na.png,1,1\n', 'delete what is above'), (TEXT + '"d.png,1', 'no CSV')])
def test_a_table_that_cannot_be_packed_says_why(home, text, words):
    import re
    said = shell('pack', write(home, text), home/'out', '--size', 16, status=1)
    assert re.search(words, said.replace('\n', ' ')) and not (home/'out').exists()


@pytest.mark.parametrize('column', ['labels', 'Finding Labels'])
def test_findings_in_one_column_are_not_guessed(home, column):
    table = write(home, f'path,patient_id,{column}\na.png,1,Edema|Mass\nb.png,2,\n')
    with pytest.raises(ValueError, match='labels=....*doctor TABLE --write NEW.csv'): from_csv(table)


# ---- files ----

def test_what_would_never_end_is_no_image(home):
    os.mkfifo(home/'pipe.png')
    (home/'loop.png').symlink_to('loop.png')
    for name, words in (('pipe.png', 'no regular file'), ('loop.png', 'leads to itself'), ('x'*300, 'name is longer')):
        with pytest.raises(ValueError, match=words): read_image(home/name)
    packed = pack(['a.png', 'pipe.png', 'loop.png'], home/'out', 16, root=home)
    assert packed.paths == ['a.png'] and packed.failed.path.tolist() == ['pipe.png', 'loop.png']


def test_blanks_around_a_name_are_a_part_of_it_where_the_file_is_called_so(home):
    (home/'in').mkdir()
    names = [' a.png', 'b.png ', 'c,"d".png', 'e\n.png']
    for name in names: shutil.copy(home/'a.png', home/'in'/name)
    shell('pack', home/'in', home/'out', '--size', 16)
    assert sorted(Path(path).name for path in PackedImages(home/'out').paths) == names


@pytest.mark.parametrize('options, words', [
    (dict(size=0), 'size=0'), (dict(size=100_000), '1 to 8,192'), (dict(bits=99), 'bits=99'),
    (dict(shard=0), 'shard=0'), (dict(shard=2.5), 'shard=2.5'),
    (dict(workers=-1), 'workers=-1'), (dict(workers=2.5), 'workers=2.5'),
    (dict(keep=['Age']), "not: .'Age'")])
def test_a_setting_that_cannot_be_is_refused_before_the_folder_is_made(home, options, words):
    with pytest.raises(ValueError, match=words): pack(write(home, TEXT), home/'out', **{'size': 16, **options})
    assert not (home/'out').exists()
    with pytest.raises(ValueError, match='1 to 8,192'): Reading(-1)


# ---- the folder of a pack ----

def test_places_that_are_no_folder(home):
    table = write(home, TEXT)
    with pytest.raises(OSError, match='is no folder: give another place'): pack(table, home/'a.png', 16)
    with pytest.raises(OSError, match='cannot be made.*give another place'): pack(table, home/'a.png'/'out', 16)
    (home/'link').symlink_to(home/'nowhere')
    with pytest.raises(OSError, match='is no folder'): pack(table, home/'link', 16)
    (home/'seen').mkdir()
    (home/'seen'/'.DS_Store').write_text('of the system')
    assert len(pack(table, home/'seen', 16)) == 3


def edit(old, new): return lambda file: file.write_text(file.read_text().replace(old, new, 1))
def cut(file): file.write_text(file.read_text()[:file.read_text().index('\n') + 1])


def reverse_rows(text):
    names, *rows = text.splitlines()
    return '\n'.join([names, *rows[::-1], ''])


DAMAGE = [   # file, change, words
    ('index.csv', edit('0,a.png,0,0', '0,a.png,0,1'), 'another place'),
    ('index.csv', edit('0,a.png,0,0', '0,a.png,0,-3'), 'another place'),
    ('index.csv', edit('0,a.png,0,0', '5,a.png,0,0'), 'each once'),
    ('index.csv', edit('a.png', 'z.png'), 'not what was written'),
    ('index.csv', edit('0,a.png,0,0', '0,a.png,0,x'), 'no whole numbers'),
    ('index.csv', edit('offset', 'place'), "no column 'offset'"),
    ('index.csv', lambda file: file.write_text(file.read_text().replace(',', ';')), 'no list of a pack'),
    ('index.csv', cut, 'name 0 rows'), ('index.csv', lambda file: file.write_text(''), 'cut off or damaged'),
    ('index.csv', Path.unlink, 'index.csv is missing'), ('failed.csv', Path.unlink, 'failed.csv is missing'),
    ('pack.json', edit('"rows": 3', '"rows": 30'), 'name 3 rows'),
    ('pack.json', edit('"shard": 2', '"shard": 3'), 'place'),
    ('pack.json', edit('"shard": 2', '"shard": 0'), 'shard=0'),
    ('pack.json', edit('"size": 16', '"size": -3'), 'size=-3'),
    ('pack.json', edit('"complete": true', '"complete": "no"'), "complete='no'"),
    ('pack.json', edit('"path_column": "path"', '"path_column": ["path"]'), 'path_column='),
    ('pack.json', lambda file: file.write_text('[]'), 'no plan'),
    ('pack.json', lambda file: file.write_text(''), 'cut off'),
    ('shard_00001.npy', lambda file: (file.unlink(), file.mkdir()), 'is missing')]


@pytest.mark.parametrize('name, change, words', DAMAGE)
def test_a_pack_that_was_changed_is_refused(home, name, change, words):
    out = pack(write(home, TEXT), home/'out', 16, shard=2).folder
    change(out/name)
    for read in (PackedImages, from_pack):
        with pytest.raises(ValueError, match=words): read(out)
    if name == 'index.csv':
        with pytest.raises(ValueError, match=words): pack(home/'t.csv', out, 16, shard=2)    # nothing is made of it


def test_damaged_checksums_are_named(home):
    out = pack(write(home, TEXT), home/'out', 16).folder
    for content in (b'garbage\n', b'\xff\xfe'):
        (out/'checksums.sha256').write_bytes(content)
        with pytest.raises(ValueError, match='checksums.sha256 is damaged.*delete this file'):
            PackedImages(out).verify()


@pytest.mark.parametrize('change, words', [
    (lambda text: text.replace('b.png,7,12,0,1\n', ''), '2 rows, and 3 were packed'),
    (lambda text: text + 'd.png,1,1,1,1\n', '4 rows, and 3 were packed'),
    (lambda text: reverse_rows(text), 'line 2 .* is c.png')])
def test_a_table_of_a_pack_that_lost_its_order_is_refused(home, change, words):
    out = pack(write(home, TEXT), home/'out', 16).folder
    (out/'table.csv').write_text(change(TEXT))
    with pytest.raises(ValueError, match=f'{words}.*pack the table into it again'): from_pack(out, patient='MRN')
    wrong, = [check for check in check_pack(out).checks if check.status == 'wrong']
    assert re.search(words, wrong.detail)   # the doctor says the same
    with pytest.warns(UserWarning, match='table.csv is replaced'): pack(home/'t.csv', out, 16)
    assert from_pack(out, patient='MRN').y.int().tolist() == RIGHT


def test_labels_that_changed_are_taken_and_said(home):
    out = pack(write(home, TEXT), home/'out', 16).folder
    with pytest.warns(UserWarning, match='the table has changed since it was packed'):
        pack(write(home, TEXT.replace('0012,1,0', '0012,0,1')), out, 16)
    assert from_pack(out, patient='MRN').y[0].tolist() == [0, 1]


@pytest.mark.parametrize('text, words', [
    (TEXT + 'd.png,1,1,1,1\n', 'another table; rows 3 against 4'),
    (TEXT.replace('b.png,7,12,0,1\n', ''), 'rows 3 against 2'),
    (TEXT.replace('a.png', 'x.png').replace('b.png', 'a.png').replace('x.png', 'b.png'), 'another table')])
def test_a_table_of_other_rows_does_not_go_on(home, text, words):
    out = pack(write(home, TEXT), home/'out', 16).folder
    with pytest.raises(ValueError, match=words): pack(write(home, text), out, 16)


def test_other_files_under_the_same_names_are_not_the_pack(home):
    out = pack(write(home, TEXT), home/'out', 16).folder
    (home/'other').mkdir()
    for name in 'abc': Image.fromarray(np.full((24, 24), 9, np.uint8)).save(home/'other'/f'{name}.png')
    with pytest.raises(ValueError, match=r'a pack of other files .*a\.png had [0-9]+ bytes'):
        pack(home/'t.csv', out, 16, root=home/'other')
    for name in 'abc': (home/f'{name}.png').unlink()
    assert len(PackedImages(out)) == 3    # a copy without its files


def test_the_same_files_under_another_column(home):
    out = pack(write(home, TEXT), home/'out', 16).folder
    with pytest.warns(UserWarning, match='table.csv is replaced'):
        pack(write(home, TEXT.replace('path,', 'picture,')), out, 16, path_column='picture')
    assert from_pack(out, patient='MRN').y.int().tolist() == RIGHT


def test_files_that_were_mended_are_packed_without_the_others(home):
    whole = (home/'b.png').read_bytes()
    (home/'b.png').write_bytes(whole[:60])
    before = pack(write(home, TEXT), home/'out', 16, shard=2)
    assert before.paths == ['a.png', 'c.png']
    kept = before[:]
    (home/'b.png').write_bytes(whole)
    for name in 'ac': os.rename(home/f'{name}.png', home/f'{name}.gone')
    with pytest.warns(UserWarning, match='1 of 1 files .* can be read now'):
        after = pack(home/'t.csv', home/'out', 16, shard=2)
    assert after.paths == ['a.png', 'b.png', 'c.png'] and np.array_equal(after[[0, 2]], kept) and after.verify()
    for name in 'ac': os.rename(home/f'{name}.gone', home/f'{name}.png')
    assert np.array_equal(after[:], pack(home/'t.csv', home/'fresh', 16, shard=2)[:])


KILLED = '''
import os, sys
from cxr_workbench import packing
replace, count = os.replace, [0]
def stop(*places):
    replace(*places)
    count[0] += 1
    if count[0] == int(sys.argv[3]): os.kill(os.getpid(), 9)
os.replace = stop
packing.pack(sys.argv[1], sys.argv[2], 16, shard=1, workers=0)
'''


def test_a_kill_after_any_file_loses_nothing(home):
    table = write(home, TEXT)
    whole = pack(table, home/'whole', 16, shard=1).folder
    def contents(folder): return {path.name: path.read_bytes() for path in Path(folder).iterdir()}
    for at in (1, 3, 5, 12, 13, 14):    # pack.json, a shard, its list, index.csv, failed.csv, checksums
        out = home/f'killed{at}'
        assert subprocess.run([sys.executable, '-c', KILLED, table, out, str(at)]).returncode == -9
        with pytest.raises(ValueError, match='incomplete'): PackedImages(out)
        assert contents(pack(table, out, 16, shard=1).folder) == contents(whole)


def test_two_processes_do_not_write_into_one_pack(home):
    pytest.importorskip('fcntl')
    out = pack(write(home, TEXT), home/'out', 16).folder
    with hold_folder(out), pytest.raises(ValueError, match='another process writes into'): pack(home/'t.csv', out, 16)
    assert len(pack(home/'t.csv', out, 16)) == 3


def test_a_pack_of_before_opens(home):
    out = pack(write(home, TEXT), home/'out', 16).folder
    plan = json.loads((out/'pack.json').read_text())
    for name in ('lists', 'sizes', 'path_column'): del plan[name]
    (out/'pack.json').write_text(json.dumps(plan))
    assert len(PackedImages(out)) == 3 and len(from_pack(out, patient='MRN')) == 3
    assert len(pack(home/'t.csv', out, 16)) == 3


# ---- tables of collections ----

LACKING = [   # tree, table, column
    ('nih14_google', 'google2019_nih-chest-xray-labels.csv', 'Fracture'),
    ('nih14_google', 'google2019_nih-chest-xray-labels.csv', 'Set Id'),
    ('rsna', 'stage_2_train_labels.csv', 'patientId'),
    ('rsna', 'stage_2_train_labels.csv', 'Target'), ('rsna', 'stage_2_train_labels.csv', 'x'),
    ('mimic_cxr', 'mimic-cxr-2.0.0-split.csv', 'split'), ('mimic_cxr', 'mimic-cxr-2.0.0-split.csv', 'dicom_id'),
    ('padchest', 'PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv.gz', 'Labels'),
    ('padchest', 'PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv.gz', 'PatientBirth'),
    ('cxr_lt_2026', 'train.csv', 'ImageID'), ('vindr', 'train.csv', 'rad_id'), ('vindr', 'train.csv', 'class_name')]


def open_changed(root, case, table, change):
    "A collection of which one table is another."
    name, options, _ = build(case, root)
    file = next(root.rglob(table))
    change(pd.read_csv(file, dtype=str)).to_csv(file, index=False)
    return open_named(name, root, parse_options(name, options[1::2]), size=16)


def blank_first(frame, column): return frame.assign(**{column: [None, *frame[column][1:]]})


@pytest.mark.parametrize('case, table, column', LACKING)
@pytest.mark.filterwarnings('ignore')
def test_a_collection_without_a_column_names_it(tmp_path, case, table, column):
    with pytest.raises(ValueError, match=f"no column '{column}' in .*: it has "):
        open_changed(tmp_path/'tree', case, table, lambda frame: frame.drop(columns=column))


@pytest.mark.parametrize('case, table', [
    ('nih14', 'Data_Entry_2017_v2020.csv'), ('nih14_google', 'google2019_nih-chest-xray-labels.csv')])
@pytest.mark.filterwarnings('ignore')
def test_an_image_that_stands_twice_does_not_count_twice(tmp_path, case, table):
    with pytest.raises(ValueError, match='in more than one row'):
        open_changed(tmp_path/'twice', case, table, lambda frame: pd.concat([frame, frame[:1]]))
    with pytest.raises(ValueError, match='line 2 names no image file'):
        open_changed(tmp_path/'blank', case, table, lambda frame: blank_first(frame, 'Image Index'))


@pytest.mark.parametrize('case, table, column, words', [
    ('rsna', 'stage_2_train_labels.csv', 'Target', 'line 2: no image is named, or Target'),
    ('vindr', 'train.csv', 'image_id', 'line 2: one of .* is blank'),
    ('cxr_lt_2023', 'train.csv', 'subject_id', "no patient id: image 'files/p10/p10000032")])
@pytest.mark.filterwarnings('ignore')
def test_a_blank_that_would_lose_a_row_is_refused(tmp_path, case, table, column, words):
    with pytest.raises((ValueError, OSError), match=words):
        open_changed(tmp_path/'tree', case, table, lambda frame: blank_first(frame, column))


@pytest.mark.filterwarnings('ignore')
def test_views_that_one_column_tells(tmp_path):
    table = 'df_chexpert_plus_240401.csv'
    data = open_changed(tmp_path/'tree', 'chexpert_plus', table, lambda frame: frame.drop(columns='ap_pa'))
    assert set(data.meta['view']) == {'frontal'}
