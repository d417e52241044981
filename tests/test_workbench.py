"""The bench as a whole: what its menus say is what its pictures show, whatever is chosen in whatever order."""
import io, time
from functools import partial
import numpy as np, pytest
from PIL import Image
from cxr_workbench import cases, live as running, workbench
from cxr_workbench.core import create_method, seed_all
from cxr_workbench.data import from_phantom
from cxr_workbench.phantom import SyntheticCXR
from cxr_workbench.saving import find_model, load, save


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    "A folder of images, a run of another size with labels of its own, and one that is broken."
    root = tmp_path_factory.mktemp('root')
    (root/'images').mkdir()
    for k in range(6):
        image = Image.fromarray(np.full((70, 70), 30*k, np.uint8))
        image.save(root/'images'/f'{k}.png')
    seed_all(0)
    save(create_method('supervised', labels=['Edema', 'Odd one'], size=32, preset='tiny'), root/'runs'/'small')
    (root/'runs'/'broken').mkdir()
    (root/'runs'/'broken'/'model.json').write_text('{')
    (root/'notes.md').write_text('no data')
    return root


@pytest.fixture(scope='module')
def runs(): return {name: load(find_model(name)) for name in ('supervised', 'lcc')}


@pytest.fixture
def board(root, runs, monkeypatch):
    monkeypatch.setattr(cases, 'score_reference', partial(cases.score_reference, n_boot=0))   # quicker
    return workbench.Workbench(workbench.Bench(runs=runs, most=12, root=root))


def choose(board): return {name: board.menus[name].value for name in ('first', 'second', 'data', 'label', 'row')}


def make_png(value):
    buffer = io.BytesIO()
    Image.fromarray(np.full((64, 64), value, np.uint8)).save(buffer, 'png')
    return buffer.getvalue()


def test_what_lies_below_the_root_is_offered(board):
    assert [value for _, value in board.menus['first'].options] == ['supervised', 'lcc', 'runs/broken', 'runs/small']
    assert board.menus['data'].options == ('a phantom', 'images')


def test_controls_wait_for_a_picture_that_stands(board):
    inputs = [*board.menus.values(), *board.buttons.values()]
    inputs += [each for panel in board.panels.values() for each in panel.controls.values()]
    assert all(each.disabled for each in inputs)
    board.panels['scores'].pictures.children[0]._handle_custom_msg({'stands': True}, [])
    idle = {board.panels['relations'].controls[name] for name in ('edges', 'other', 'behind')}   # in the first view
    assert not any(each.disabled for each in inputs if each not in idle)


def test_a_model_of_another_size_takes_the_data_along_and_a_second_one_that_does_not_fit_is_taken_away(board):
    board.menus['first'].value = 'runs/small'
    assert choose(board)['second'] == '' and board.bench.data.size == 32
    assert 'lcc does not go beside runs/small' in board.note.value and board.menus['label'].value == 'Edema'
    assert board.choose().x.shape[-1] == 32 and board.panels['scores'].fresh
    board.menus['second'].value = 'lcc'
    assert choose(board)['second'] == '' and 'the models are those of before' in board.note.value
    board.menus['first'].value = 'lcc'
    assert board.bench.data.size == 64 and board.choose().x.shape[-1] == 64


@pytest.mark.parametrize('menu, value', [('first', 'runs/broken'), ('place', '../x'), ('place', 'notes.md')])
def test_what_cannot_be_taken_leaves_all_as_it_was(board, root, menu, value):
    before, pictures = choose(board), [picture.spec for picture in board.panels['scores'].pictures.children]
    board.menus[menu].value = value
    assert choose(board) == before and '#B00020' in board.note.value and str(root) not in board.note.value
    assert [picture.spec for picture in board.panels['scores'].pictures.children] == pictures
    board.menus['row'].value = 5
    assert '#B00020' not in board.note.value and board.panels['scores'].fresh


def test_images_without_labels_follow_the_labels_of_the_model(board):
    board.menus['data'].value = 'images'
    assert board.bench.data.label_names == list(board.bench.load('supervised').label_names)
    assert 'no finding is known' in board.note.value and board.panels['scores'].message.value.count('#B00020') == 0
    assert board.menus['row'].max == 5
    board.menus['first'].value = 'runs/small'
    assert board.bench.data.label_names == ['Edema', 'Odd one'] and board.bench.data.size == 32


def test_a_file_goes_and_comes_back(board):
    row = board.menus['row'].value
    for _ in range(2):   # the same file twice
        board.take('grey.png', make_png(90))
        assert board.choose().row is None and 'grey.png is a file' in board.note.value
        board.press_back()
        assert board.choose().row == row and 'is a file' not in board.note.value
    board.take('grey.png', make_png(90))
    board.take('bad.png', b'nothing')
    assert board.choose().row is None and 'bad.png' in board.note.value   # the file of before stays
    board.menus['first'].value = 'runs/small'
    assert board.choose().x.shape[-1] == 32 and np.allclose(board.choose().x, 90/255, atol=.01)


def test_an_image_below_the_root_is_opened_by_its_name(board):
    board.menus['place'].value = 'images/3.png'
    assert board.choose().row is None and np.allclose(board.choose().x, 90/255, atol=.01)
    assert board.menus['place'].value == ''


def test_a_run_that_is_named_joins_the_menus(board, root):
    save(create_method('supervised', labels=['Edema'], size=64, preset='tiny'), root/'later')
    board.menus['place'].value = 'later'
    assert choose(board)['first'] == 'later' and ('later', 'later') in board.menus['second'].options
    assert board.menus['label'].options == ('Edema',)


def test_no_picture_of_an_earlier_choice_stands_under_an_error(board):
    board.tabs.selected_index = list(board.panels).index('severity')
    panel = board.panels['severity']
    before = [picture.words for picture in panel.pictures.children]
    assert panel.message.value == ''
    board.menus['label'].value = 'No Finding'
    assert 'has no severity' in panel.message.value and '#B00020' not in panel.message.value   # grey: nothing is wrong
    assert [picture.words for picture in panel.pictures.children] == ['no picture of this choice']
    board.menus['label'].value = 'Edema'
    assert panel.message.value == '' and len(panel.pictures.children) == len(before)


def test_another_frame_of_an_attack_is_not_attacked_again(board, monkeypatch):
    attacks, plain = [], cases.film_attack
    monkeypatch.setattr(cases, 'film_attack', lambda *args, **kw: attacks.append(1) or plain(*args, **kw))
    board.tabs.selected_index = list(board.panels).index('attack')
    for frame in (0, 1, 2, 3): board.panels['attack'].controls['frame'].value = frame
    assert len(attacks) == 2   # one for each model
    board.menus['label'].value = 'Cardiomegaly'
    assert len(attacks) == 4


def test_the_strongest_edges_are_as_many_as_the_slider_says(board):
    board.tabs.selected_index = list(board.panels).index('relations')
    controls = board.panels['relations'].controls
    controls['shown'].value, controls['edges'].value = 'lines', 10
    bench, choice = board.bench, board.choose()
    for figure in workbench.draw_relations(bench, choice, shown='lines', edges=10):
        assert sum(trace.mode == 'lines' for trace in figure.data) == 10


def test_warnings_are_written_in_the_panel(board):
    board.menus['first'].value = 'runs/small'
    board.tabs.selected_index = list(board.panels).index('where it looks')
    assert 'single cell' in board.panels['where it looks'].message.value
    assert 'Error' not in board.panels['where it looks'].message.value


def test_a_case_is_saved_beside_the_notebook_or_handed_to_the_browser(board, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    board.menus['second'].value = ''
    board.press_save('case')
    assert (tmp_path/'cxr_case_supervised.html').exists() and 'saved' in board.note.value
    given = []
    board.downloads, board.menus['file'].save = True, lambda name, content: given.append((name, len(content)))
    board.press_save('run')
    assert given[0][0] == 'cxr_run_supervised.html' and given[0][1] > 4_000_000


def test_long_names_fit_over_narrow_pictures(board):
    name = 'runs/a_long_name_of_a_run_that_somebody_gave_to_it_in_the_evening_seed_3'
    choice = board.choose()
    method = next(iter(choice.methods.values()))
    figure = cases.show_maps({name: method, 'lcc': method}, choice.x, choice.label, 'integrated_gradients', side=320)
    assert all(len(note.text) < 48 for note in figure.layout.annotations)


def wait(live):
    live.run.wait()
    for _ in range(200):
        if live.buttons['stop'].disabled: return
        time.sleep(.02)


def turn_to_training(board):
    board.tabs.selected_index = len(board.panels)
    return board.training.live


def test_nothing_is_made_for_training_before_its_tab_is_turned_to(board):
    assert board.training.live is None and board.tabs.titles[-1] == 'training'
    live = turn_to_training(board)
    assert live.run is None and not set(live.train.patient_id) & set(live.valid.patient_id)
    assert 'images to train on' in board.training.note.value


def test_the_pictures_follow_a_run_and_are_drawn_of_what_is_chosen(board):
    board.menus['row'].value = 21
    live = turn_to_training(board)
    live.controls['epochs'].value = 1
    live.press_start()
    wait(live)
    assert live.message.value == '' and len(live.pictures.children) == 7
    held = board.bench.data.rows[21] in live.valid.rows
    assert ('held out' if held else 'trained on') in board.training.note.value.split(';')[1]
    before = live.pictures.children[0].spec
    board.menus['row'].value = 22
    assert live.pictures.children[0].spec != before
    board.training.pictures.value = 'relations'
    assert len(live.pictures.children) == 1
    board.panels['relations'].controls['table'].value = 'learned'
    board.training.refresh()
    assert 'keeps a table over labels' in live.message.value   # of a plain classifier


def test_data_without_labels_are_not_trained_on(board):
    live = turn_to_training(board)
    assert live is not None
    board.menus['data'].value = 'images'
    assert board.training.live is None and 'known label' in board.training.note.value
    board.menus['data'].value = 'a phantom'
    assert board.training.live is not None


def test_a_run_keeps_its_data_while_it_trains(board):
    live = turn_to_training(board)
    live.controls['epochs'].value = 200
    live.press_start()
    try:
        board.menus['data'].value = 'images'
        assert board.training.live is live and 'the data of before' in board.training.note.value
    finally:
        live.press_stop()
        wait(live)
    board.training.refresh()
    assert board.training.live is None


def test_a_kept_run_becomes_a_model_and_what_was_held_out_of_it_data(board, tmp_path):
    board.bench.root, live = tmp_path, turn_to_training(board)
    assert live.buttons['keep'].disabled
    live.controls['epochs'].value = 1
    live.press_start()
    assert live.buttons['keep'].disabled   # while it trains
    wait(live)
    live.press_keep()
    assert live.run.is_kept and live.buttons['keep'].disabled and live.note.value.startswith('kept as runs/supervised_')
    name = f'runs/{next((tmp_path/"runs").iterdir()).name}'
    assert name in dict(board.menus['first'].options).values() and board.menus['first'].value == 'supervised'
    board.menus['data'].value = f'held out of {name}'
    board.menus['first'].value = name
    assert board.chosen[0] == name and len(board.bench.data) == len(live.valid)
    assert board.bench.origin == 'phantom' and not board.bench.told and board.note.value.startswith('image')
    board.tabs.selected_index = 0
    assert not board.panels['scores'].message.value


def test_a_run_that_cannot_be_kept_says_why_and_leaves_nothing(board, tmp_path):
    (tmp_path/'runs').write_text('a file, where a folder has to be')
    board.bench.root, live = tmp_path, turn_to_training(board)
    live.controls['epochs'].value = 1
    live.press_start()
    wait(live)
    live.press_keep()
    assert '<b' in live.note.value and 'runs' in live.note.value and not live.buttons['keep'].disabled
    assert [file.name for file in tmp_path.iterdir()] == ['runs'] and not live.run.is_kept


def test_several_menus_are_set_and_one_picture_is_drawn(board, monkeypatch):
    drawn = []
    monkeypatch.setattr(board.panels['scores'], 'draw', lambda bench, choice: drawn.append(choice.row) or [])
    with board.at_once():
        board.menus['row'].value = 5
        board.menus['row'].value = 6
        board.menus['second'].value = 'lcc'
        assert not drawn
    assert drawn == [6]


def test_parts_for_training_are_whole_patients(runs):
    data = from_phantom(SyntheticCXR(300, size=32, seed=1))
    train, valid = running.split_live(data, most=200)
    assert len(train) + len(valid) == 200 and not set(train.patient_id) & set(valid.patient_id)
    assert .2 < len(valid)/200 < .4
    with pytest.raises(ValueError, match='to train takes 20'): running.split_live(data.subset(range(10)))


def turn_to(board, name):
    board.tabs.selected_index = list(board.panels).index(name)
    return board.panels[name]


def test_controls_without_an_effect_are_grey_and_say_why(board):
    panel = turn_to(board, 'relations')
    assert all(control.disabled for control in panel.controls.values())   # no page stands yet
    panel.wake()
    grey = {name for name, control in panel.controls.items() if control.disabled}
    assert grey == {'edges', 'other', 'behind'} and 'lines are shown' in panel.controls['edges'].tooltip
    panel.controls['shown'].value = 'lines'
    grey = {name for name, control in panel.controls.items() if control.disabled}
    assert grey == {'similar', 'difference', 'other', 'behind'}
    assert panel.controls['edges'].tooltip == panel.tips['edges'] != panel.controls['similar'].tooltip
    attack = turn_to(board, 'attack')
    attack.wake()
    attack.controls['family'].value = 'FGSM'
    assert [name for name, control in attack.controls.items() if control.disabled] == ['steps']


def test_a_clicked_cell_shows_the_images_behind_it(board):
    panel = turn_to(board, 'relations')
    count = len(panel.pictures.children)
    panel.pictures.children[0]._handle_custom_msg({'clicked': ['Edema', 'Cardiomegaly']}, [])   # column, row
    assert (panel.controls['one'].value, panel.controls['other'].value) == ('Cardiomegaly', 'Edema')
    assert len(panel.pictures.children) == count + 1
    assert 'Cardiomegaly and Edema' in panel.pictures.children[-1].spec
    panel.pictures.children[-1]._handle_custom_msg({'clicked': [3, 4]}, [])   # a pixel of an image is no cell
    assert panel.controls['one'].value == 'Cardiomegaly'
    before = panel.pictures.children[-1].spec
    panel.controls['behind'].value = 'the first alone'
    assert panel.pictures.children[-1].spec != before
    board.menus['first'].value = 'runs/small'   # has no Cardiomegaly
    assert panel.controls['one'].value == 'none' and panel.controls['other'].value == 'Edema'


def test_labels_of_other_names_are_matched_and_it_is_said(runs):
    data = from_phantom(SyntheticCXR(60, size=64, seed=4))
    names = ['Effusion' if name == 'Pleural Effusion' else name for name in data.label_names]
    other = data.copy_with(label_names=names)
    bench = workbench.Bench(other, runs, most=30, n_boot=0)
    board = workbench.Workbench(bench)
    assert 'Effusion of the data is Pleural Effusion here' in board.note.value
    plain = workbench.Bench(data, runs, most=30, n_boot=0)
    ours, theirs = (each.reference('lcc').data for each in (bench, plain))
    assert bool((ours.y == theirs.y).all())
    assert bool((ours.known == theirs.known).all())
    assert cases.score_reference(runs['lcc'], other, n_boot=0).data.known.all()   # also without the bench


def test_a_damaged_image_that_was_not_looked_at_is_met_with_a_sentence(root, board, monkeypatch):
    "The 500th file of a folder, of which only the first was looked at: in every tab, and where the case is saved."
    import os
    many = root/'many'
    many.mkdir()
    for k in range(499): os.link(root/'images'/'3.png', many/f'{k:03d}.png')
    (many/'499.png').write_bytes((many/'000.png').read_bytes()[:60])
    monkeypatch.setattr(workbench.choosing, 'leave_unreadable', partial(workbench.choosing.leave_unreadable, seconds=0))
    board.bench.add('many')
    board.menus['data'].options = list(board.bench.sources)
    board.menus['data'].value = 'many'
    assert 'last 499 of 500 files were not looked at' in board.warning.value
    board.menus['row'].value = 499
    assert 'image 499 of many' in board.note.value
    for place, (name, part) in enumerate(board.parts.items()):
        board.tabs.selected_index = place
        said = part.note.value if name == 'training' else part.message.value
        is_asked = name not in ('severity', 'thresholds', 'relations', 'training')   # those need labels, or a phantom
        assert said and ('499.png' in said and str(root) not in said or not is_asked), (name, said)
    board.press_save('case')
    assert '499.png' in board.note.value
    board.tabs.selected_index = 0
    board.menus['row'].value = 7
    assert board.panels['scores'].fresh   # the damaged one is among the images that scores are compared with
    assert board.panels['scores'].message.value.startswith('1 of 12 files cannot be read and are left out: 499.png')
