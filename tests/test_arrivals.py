"""What meets on the bench: where models and images come from, what is said of it, and which columns are which."""
import shutil
import numpy as np, pandas as pd, pytest
from PIL import Image
from cxr_workbench import arrivals, choosing, workbench
from cxr_workbench.arrivals import PHANTOM, RADIOGRAPHS
from cxr_workbench.core import create_method, seed_all
from cxr_workbench.opening import write_run_record
from cxr_workbench.saving import find_model, save
from cxr_workbench.widget import NothingToShow, format_error, shorten_lists, tell_error

LABELS = ['Erguss', 'Stauung']


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    "Twelve images of which one is cut off, a table that no list of names knows, and a run on it beside a broken one."
    root, rng = tmp_path_factory.mktemp('arrivals'), np.random.default_rng(0)
    (root/'scans').mkdir()
    for k in range(12):
        image = Image.fromarray(rng.integers(0, 256, (40, 40)).astype('u1'))
        image.save(root/'scans'/f'{k:02d}.png')
    (root/'scans'/'03.png').write_bytes((root/'scans'/'03.png').read_bytes()[:200])
    rows = [(f'scans/{k:02d}.png', k//2, k % 2, k//3 % 2) for k in range(12)]
    pd.DataFrame(rows, columns=['Aufnahme 1', 'wer', *LABELS]).to_csv(root/'tabelle.csv', index=False)
    seed_all(0)
    save(create_method('supervised', labels=LABELS, size=32, preset='tiny'), root/'runs'/'mine')
    data = dict(source=str(root/'tabelle.csv'), path='Aufnahme 1', patient='wer', labels=LABELS, size=32)
    record = dict(data=data, fold=0, fold_column=None, regime='full', fraction=.1, seed=0)
    write_run_record(root/'runs'/'mine', record)
    (root/'runs'/'broken').mkdir()
    (root/'runs'/'broken'/'model.json').write_text('{')   # the newest
    return root


def test_a_model_comes_from_what_its_record_says(root, tmp_path):
    assert arrivals.find_origin(root/'runs'/'mine') == RADIOGRAPHS
    shutil.copytree(find_model('lcc'), tmp_path/'copy')
    assert arrivals.find_origin(tmp_path/'copy') == arrivals.find_origin(find_model('can')) == PHANTOM
    write_run_record(tmp_path/'copy', dict(data=dict(source='phantom'), fold=0, fold_column=None))
    assert arrivals.find_origin(tmp_path/'copy') == PHANTOM
    assert arrivals.find_origin(root/'runs'/'broken') is None and arrivals.find_origin(object()) is None


@pytest.mark.parametrize('models, image, reference, wanted', [
    (dict(lcc=PHANTOM), RADIOGRAPHS, None, ['lcc has seen only paintings of the phantom: its scores mean nothing for']),
    (dict(a=PHANTOM, b=PHANTOM), RADIOGRAPHS, None, ['a and b have seen only paintings of the phantom: their scores']),
    (dict(mine=RADIOGRAPHS, lcc=PHANTOM), PHANTOM, PHANTOM, ['mine has seen only radiographs: its scores mean']),
    (dict(mine=RADIOGRAPHS), RADIOGRAPHS, PHANTOM, ['The image is compared with paintings of the phantom: its ranks']),
    (dict(mine=RADIOGRAPHS), RADIOGRAPHS, RADIOGRAPHS, []),
    (dict(own=None), RADIOGRAPHS, None, [])])
def test_what_does_not_go_together_is_said(models, image, reference, wanted):
    said = arrivals.tell_mismatch(models, image, reference)
    assert len(said) == len(wanted) and all(text.startswith(start) for text, start in zip(said, wanted))


def test_unreadable_files_are_counted_with_their_reasons(root):
    data, bad, looked = choosing.leave_unreadable(choosing.open_below(root, 'scans', 32, LABELS))
    assert len(data) == 11 and looked == 12 and bad[0][0] == '03.png'
    assert np.isfinite(data.read_pixels(range(11))).all()
    said = arrivals.tell_unread(bad, looked)
    assert said.startswith('1 of 12 files cannot be read and are left out: 03.png: ') and 'damaged' in said
    assert arrivals.tell_unread([], 12) == ''


def test_the_search_for_unreadable_files_ends(root):
    ticks = iter(range(100))
    folder = choosing.open_below(root, 'scans', 32, LABELS)
    data, bad, looked = choosing.leave_unreadable(folder, seconds=2, clock=lambda: next(ticks))
    assert len(data) == 12 and bad == [] and looked == 3


def test_a_folder_of_damage_is_an_error(tmp_path):
    (tmp_path/'bad').mkdir()
    for k in range(2): (tmp_path/'bad'/f'{k}.png').write_bytes(b'no image')
    with pytest.raises(ValueError, match='none of 2 images can be read; 0.png: '):
        choosing.leave_unreadable(choosing.open_below(tmp_path, 'bad', 32, LABELS))


def test_columns_are_proposed_and_a_model_finds_its_labels(root):
    names, proposed = choosing.propose_columns(root, 'tabelle.csv')
    assert names == ['Aufnahme 1', 'wer', *LABELS]
    assert proposed['path'] == 'Aufnahme 1' and set(LABELS) <= set(proposed['labels'])
    named = dict(path='Aufnahme 1', patient='wer', labels=[])
    data = choosing.open_below(root, 'tabelle.csv', 32, LABELS, named)   # the labels are those of the model
    assert data.label_names == LABELS and data.y[:, 0].tolist() == [0, 1]*6


def test_the_columns_of_a_table_are_asked_for_once(root):
    opened = []
    choice = arrivals.ColumnChoice(opened.append)
    assert choice.widget.layout.display == 'none' and not choice.ask(root, 'scans/00.png')
    assert choice.ask(root, 'tabelle.csv') and choice.widget.layout.display == '' and choice.path.value == 'Aufnahme 1'
    choice.patient.value, choice.labels.value = 'wer', ('Stauung',)
    choice.press()
    assert opened == ['tabelle.csv']
    assert choice.chosen == {'tabelle.csv': dict(path='Aufnahme 1', patient='wer', labels=['Stauung'])}


def test_errors_are_sentences():
    assert shorten_lists("there are ['a', 'b', 'c', 'd', 'e'] here") == 'there are a, b, c and 2 more here'
    assert shorten_lists("give one of ['a', 'b']") == 'give one of a, b'
    assert shorten_lists('lies in [0, 1]') == 'lies in [0, 1]'
    assert tell_error(ValueError('no run')) == 'no run' and tell_error(TypeError('x')) == 'TypeError: x'
    assert tell_error(FileNotFoundError(2, 'No such file', 'a.png')) == 'a.png: No such file'
    assert '#B00020' in format_error(ValueError('x')) and '#B00020' not in format_error(NothingToShow('x'))


@pytest.fixture
def board(root): return workbench.Workbench(workbench.Bench(root=root, most=12, n_boot=0))


def test_the_bench_opens_on_the_newest_own_run_and_what_was_held_out(board):
    assert board.menus['first'].value == 'runs/mine'
    offered = board.menus['first'].options
    assert offered[:2] == (('runs/mine', 'runs/mine'), ('runs/broken', 'runs/broken'))
    assert offered[2:] == tuple((f'{name} (packaged)', name) for name in arrivals.PACKAGED)
    assert board.menus['second'].options == (('none', ''), *offered)
    assert board.menus['data'].value == 'held out of runs/mine' and board.menus['second'].label == 'none'
    assert board.note.value.startswith('image ') and ', held out of runs/mine' in board.note.value
    assert 'mean nothing' not in board.warning.value


def test_a_radiograph_under_a_phantom_model_is_warned_of(board, root):
    board.menus['second'].value = ''
    board.take('own.png', (root/'scans'/'00.png').read_bytes())
    assert 'mean nothing' not in board.warning.value
    board.menus['first'].value = 'lcc'
    assert board.menus['first'].value == 'lcc' and board.bench.data.size == 64
    assert 'lcc has seen only paintings of the phantom' in board.warning.value and 'cxr-warning' in board.warning.value
    board.menus['data'].value = 'a phantom'   # a row of it takes the place of the file
    assert 'mean nothing' not in board.warning.value


def test_a_damaged_file_is_left_out_and_a_table_gets_its_columns(board, root):
    board.menus['data'].value = 'scans'
    assert board.menus['row'].max == 10 and '1 of 12 files cannot be read' in board.warning.value
    assert board.panels['scores'].fresh and 'image 0' in board.panels['scores'].pictures.children[0].words
    board.menus['data'].value = 'tabelle.csv'   # its columns are recognised by what they hold
    assert board.menus['data'].value == 'tabelle.csv' and board.bench.data.label_names == LABELS
    board.menus['data'].value = 'scans'
    pd.read_csv(root/'tabelle.csv').assign(Kopie=lambda t: t['Aufnahme 1']).to_csv(root/'zwei.csv', index=False)
    board.menus['place'].value = 'zwei.csv'     # two columns could be the files
    assert board.menus['data'].value == 'zwei.csv' and board.bench.source == 'scans'   # the menu waits for the answer
    assert 'columns of zwei.csv are not recognised' in board.note.value
    assert 'the pictures show scans so far' in board.note.value
    assert board.columns.widget.layout.display == ''
    board.columns.path.value, board.columns.patient.value = 'Aufnahme 1', 'wer'
    board.columns.labels.value = tuple(LABELS)
    board.columns.press()
    assert board.menus['data'].value == 'zwei.csv' and board.columns.widget.layout.display == 'none'
    assert board.bench.data.label_names == LABELS and board.bench.data.patient_id is not None


def test_a_panel_that_has_nothing_to_show_says_so_in_grey(board):
    board.menus['data'].value = 'scans'
    for name, word in dict(thresholds='no known labels', severity='choose a phantom').items():
        board.tabs.selected_index = list(board.panels).index(name)
        message = board.panels[name].message.value
        assert word in message and '#777' in message and '#B00020' not in message


def test_a_pack_without_a_table_is_shown_and_one_with_a_table_has_its_labels(root, tmp_path):
    from cxr_workbench.files import pack
    table = pd.read_csv(root/'tabelle.csv').drop(index=3).assign(path=lambda t: str(root) + '/' + t['Aufnahme 1'])
    pack(table.drop(columns='Aufnahme 1'), tmp_path/'packed', 32)
    data = choosing.open_below(tmp_path, 'packed', 32, LABELS)
    assert data.label_names == LABELS and len(data) == 11 and bool(data.known.all())
    pack(list(table.path), tmp_path/'plain', 32)
    data = choosing.open_below(tmp_path, 'plain', 32, LABELS)
    assert len(data) == 11 and not data.known.any() and data.label_names == LABELS


def test_a_pack_opens_without_questions(root, tmp_path):
    from cxr_workbench.files import pack
    table = pd.read_csv(root/'tabelle.csv').drop(index=3)
    table['Aufnahme 1'] = [str(root/name) for name in table['Aufnahme 1']]
    pack(table.assign(Kopie=table['Aufnahme 1']), tmp_path/'packed', 64, path_column='Aufnahme 1')   # two could be it
    assert choosing.find_pack_labels(tmp_path/'packed') == LABELS
    board = workbench.Workbench(workbench.Bench(root=tmp_path, most=12, n_boot=0))
    board.menus['data'].value = 'packed'   # of other labels than the model
    assert board.menus['data'].value == board.bench.source == 'packed' and board.bench.data.label_names == LABELS
    assert board.columns.widget.layout.display == 'none' and 'columns' not in board.note.value


def test_a_run_with_the_name_of_a_packaged_model(tmp_path):
    "The user's has the name, and the packaged one is there under another."
    seed_all(0)
    save(create_method('supervised', labels=LABELS, size=32, preset='tiny'), tmp_path/'lcc')
    bench = workbench.Bench(root=tmp_path, most=12, n_boot=0)
    assert bench.read('lcc').config['method'] == 'supervised' and bench.own == 'lcc'
    assert bench.read('cxr_workbench/lcc').config['method'] == 'lcc'
    board = workbench.Workbench(bench)
    offered = dict(board.menus['first'].options)
    assert offered['lcc'] == 'lcc' and offered['cxr_workbench/lcc (packaged)'] == 'cxr_workbench/lcc'
