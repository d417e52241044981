"What a folder holds: collections by their tables and columns, tables of images, annotated folders, images."
import shutil
import numpy as np, pandas as pd, pytest
from PIL import Image
from test_layouts_trees import TREES, build, make_google, make_nih, shell
from cxr_workbench import annotation_sets, doctor, opening
from cxr_workbench.catalogue import CATALOGUE
from cxr_workbench.homes import SIGNS, detect_kind, find_homes, read_header

TWO = ('nih14_google', 'cxr_lt_2026')   # with the table of another collection beside it


@pytest.mark.parametrize('case', [case for case in TREES if case not in TWO])
@pytest.mark.parametrize('deep', ['', 'physionet.org/files/set/1.0'])
def test_every_layout_is_told_by_its_folder(case, deep, tmp_path):
    root = tmp_path/'a'/deep/'root'
    root.parent.mkdir(parents=True)
    name, options, _ = build(case, root)
    assert detect_kind(root) == (name, root) and detect_kind(root.parents[2 if deep else 0]) == (name, root)
    home, = find_homes(root)
    assert home.options == ({'year': int(case[-4:])} if name == 'cxr_lt' else {}) and home.table.exists()


@pytest.mark.parametrize('case', ['chexpert', 'cxr_lt_2024', 'vindr', *TWO])
def test_what_the_doctor_finds_is_what_it_finds_by_name(case, tmp_path):
    name, options, _ = build(case, tmp_path/'root')
    arguments = ['--look', 0, '--each-image-a-patient', *options]
    named = shell('doctor', name, tmp_path/'root', *arguments)
    if case in TWO:
        refused = shell('doctor', tmp_path/'root', *arguments, status=1)
        assert 'holds 2 collections' in refused and f'doctor {name} {tmp_path/"root"}' in refused
        return
    found = shell('doctor', tmp_path/'root', *arguments)
    extra = ('is read as', 'to read a table by itself')
    told = [line for line in found.splitlines() if not any(words in line for words in extra)]
    assert f'is read as {name}, by' in found
    def sort_words(lines): return [sorted(line.split()) for line in lines[1:]]
    assert sort_words(told) == sort_words(named.splitlines())


def test_the_columns_tell_tables_of_one_name_apart(tmp_path):
    own = dict(chexpert='chexpert', vindr='vindr', cxr_lt_2023='cxr_lt')
    for case, name in own.items():
        pd.DataFrame(columns=sorted(SIGNS[case][0])).to_csv(tmp_path/'train.csv', index=False)
        assert [home.name for home in find_homes(tmp_path)] == [name]
    pd.DataFrame(columns=['path', 'Edema']).to_csv(tmp_path/'train.csv', index=False)
    assert not find_homes(tmp_path)


@pytest.mark.parametrize('separator', [',', ';', '\t'])
@pytest.mark.parametrize('name', ['t.csv', 't.csv.gz', 't.csv.zip'])
def test_a_header_is_read_as_it_was_saved(name, separator, tmp_path):
    frame = pd.DataFrame({'Image Index': [1], 'OriginalImage[Width': [2]})
    frame.to_csv(tmp_path/name, index=False, sep=separator, encoding='utf-8-sig')
    assert read_header(tmp_path/name) == [*frame]


@pytest.mark.parametrize('name', ['t.csv', 't.csv.gz', 't.csv.zip'])
@pytest.mark.parametrize('held', [b'', b'\x1f\x8b damaged', b'PK\3\4 damaged', bytes(range(256))])
def test_a_damaged_table_tells_nothing(name, held, tmp_path):
    (tmp_path/name).write_bytes(held)
    assert 'Image Index' not in read_header(tmp_path/name)


def test_a_table_of_ones_own_is_taken_before_a_collection_below_it(tmp_path):
    make_nih(tmp_path)
    (tmp_path/'labels').mkdir()
    for file in [*tmp_path.glob('*.csv'), *tmp_path.glob('*.txt')]: shutil.move(file, tmp_path/'labels')
    assert detect_kind(tmp_path) == ('nih14', tmp_path/'labels')
    names = [path.relative_to(tmp_path).as_posix() for path in sorted(tmp_path.rglob('*.png'))]
    pd.DataFrame(dict(path=names, Edema=0)).to_csv(tmp_path/'mine.csv', index=False)
    assert detect_kind(tmp_path) == ('table', tmp_path/'mine.csv')


def test_a_hidden_folder_is_not_searched(tmp_path):
    (tmp_path/'.trash').mkdir()
    make_google(tmp_path/'.trash')
    assert not find_homes(tmp_path) and detect_kind(tmp_path)[0] == 'images'


def test_every_collection_has_a_sign():
    assert set(SIGNS) == {key for entry in CATALOGUE.values() for key in entry.layouts}


# ---- what is given has to be used ----

@pytest.mark.parametrize('words, named', [
    (('--path', 'Image Index'), '--path'), (('--patient', 'Patient ID'), '--patient'),
    (('--labels', 'Mass'), '--labels'), (('--leave-out', 'a=b'), '--leave-out'), (('--sheet', 'One'), '--sheet')])
def test_options_of_tables_are_not_swallowed_by_a_collection(words, named, tmp_path):
    make_nih(tmp_path)
    assert f'is read as nih14, which does not use {named}' in shell('doctor', tmp_path, *words, status=1)


def test_options_of_a_collection_need_one(tmp_path):
    pd.DataFrame(dict(path=['a.png'], Edema=[1])).to_csv(tmp_path/'t.csv', index=False)
    said = shell('doctor', tmp_path/'t.csv', '--option', 'split=train', status=1)
    assert 'is read as a table, which does not use --option' in said


def test_an_npz_and_an_annotated_folder_refuse_columns(tmp_path):
    np.savez(tmp_path/'x.npz', images=np.zeros((2, 8, 8), np.uint8))
    said = shell('doctor', tmp_path/'x.npz', '--patient', 'ID', '--labels', 'A', status=1)
    assert 'is read as an .npz, which does not use --patient, --labels' in said
    for k in range(8):
        (tmp_path/'f'/'ab'[k%2]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8), 20*k, np.uint8)).save(tmp_path/'f'/'ab'[k%2]/f'{k}.png')
    said = shell('doctor', tmp_path/'f', '--labels', 'a', '--patient', r'(\d)', status=1)
    assert 'is read as image_folder, which does not use --labels' in said


@pytest.mark.filterwarnings('ignore')
def test_a_folder_of_the_files_is_not_swallowed_where_the_images_lie_inside(tmp_path):
    for k in range(8):
        (tmp_path/'f'/'ab'[k%2]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((16, 16), 20*k, np.uint8)).save(tmp_path/'f'/'ab'[k%2]/f'{k}.png')
    np.savez(tmp_path/'x.npz', images=np.zeros((2, 8, 8), np.uint8))
    shell('pack', tmp_path/'f', tmp_path/'pack', '--size', 16)
    (tmp_path/'nih').mkdir()
    make_nih(tmp_path/'nih')
    for name, kind in (('pack', 'a pack'), ('x.npz', 'an .npz'), ('f', 'image_folder'), ('nih', 'nih14')):
        said = shell('doctor', tmp_path/name, '--root', tmp_path, status=1)
        assert f'is read as {kind}, which does not use --root, for its images lie in it: leave it out' in said
    said = shell('doctor', 'overlap', tmp_path/'f', tmp_path/'f', '--root', tmp_path, status=1)
    assert 'does not use --root: leave it out' in said


def test_annotated_layouts_are_listed_once():
    assert opening.ANNOTATED is doctor.ANNOTATED is annotation_sets.ANNOTATED
