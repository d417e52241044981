"""What a tab of the browser keeps of a bench, and what a new kernel makes of it."""
import json, shutil
import pytest
from cxr_workbench.phantom import SyntheticCXR
from cxr_workbench.remembering import Remembering, describe_choices
from cxr_workbench.saving import find_model
from cxr_workbench.workbench import Bench, Workbench


@pytest.fixture
def root(tmp_path):
    shutil.copytree(find_model('lcc'), tmp_path/'deep'/'down'/'here'/'mine')
    shutil.copytree(find_model('mpc'), tmp_path/'runs'/'other')
    return tmp_path


def open_bench(root=None):
    return Workbench(Bench(None if root else SyntheticCXR(40, size=64, seed=3), most=12, n_boot=0, root=root))


def hand_over(text, shown):
    "What a page that is loaded again does."
    page = Remembering(shown)
    page.hear(page.widget, dict(remembered=text), [])
    return page


def test_everything_that_is_chosen_is_set_again_in_the_page_that_follows(root):
    before = open_bench(root)
    page = hand_over(None, before)
    before.change_place(dict(new='deep/down/here/mine'))   # opened by its name
    before.menus['second'].value, before.menus['row'].value, before.menus['label'].value = 'runs/other', 31, 'Edema'
    before.panels['relations'].offer_labels(before.choose())
    before.panels['relations'].controls['one'].value = 'Edema'
    before.panels['attack'].controls['family'].value = before.panels['attack'].controls['family'].options[-1]
    before.tabs.selected_index = list(before.panels).index('thresholds')
    before.panels['thresholds'].controls['tau_pos'].value = .6
    after = open_bench(root)
    hand_over(page.widget.choices, after)
    assert describe_choices(after) == describe_choices(before) == json.loads(page.widget.choices)
    assert after.chosen == ('deep/down/here/mine', 'runs/other') and 'there any more' not in after.note.value
    assert after.panels['thresholds'].fresh and not after.panels['scores'].fresh   # what is in sight is drawn


def test_what_has_gone_is_named_and_the_rest_is_set(root):
    before = open_bench(root)
    page = hand_over(None, before)
    before.menus['first'].value, before.menus['row'].value = 'runs/other', 31
    before.file = 'mine.png', b'...'
    page.write()
    shutil.rmtree(root/'runs'/'other')
    after = open_bench(root)
    hand_over(page.widget.choices, after)
    assert 'model runs/other' in after.note.value and 'file mine.png' in after.note.value
    assert after.menus['row'].value == 31 and not after.menus['first'].value.startswith('runs/')


@pytest.mark.parametrize('text', ['', 'null', '{', '[]', '3', '"x"', '{"first": 3}', '{"data": {}}'])
def test_a_text_that_is_no_record_of_a_bench_changes_nothing(text):
    shown = open_bench()
    before = describe_choices(shown)
    page = hand_over(text, shown)
    assert describe_choices(shown) == before == json.loads(page.widget.choices)


@pytest.mark.parametrize('change', [
    dict(tab=99), dict(tab=-1), dict(tab='x'), dict(row='x'), dict(row=None),
    dict(columns=[]), dict(label=7), dict(first='../secret'), dict(panels=3),
    dict(panels={'attack': {'eps': 'x', 'nothing': 1}, 'gone': {}})])
def test_values_of_another_kind_are_passed_over(change):
    shown = open_bench()
    before = describe_choices(shown)
    hand_over(json.dumps({**before, **change}), shown)
    now = describe_choices(shown)
    assert {key: now[key] for key in ('data', 'first', 'second', 'label', 'panels')} == {
        key: before[key] for key in ('data', 'first', 'second', 'label', 'panels')}
    assert shown.panels['scores'].fresh   # an error on the way leaves no old picture
    shown.menus['row'].value = 3
    assert shown.tabs.selected_index == 0 and shown.panels['scores'].fresh   # it draws as before


def test_the_tab_is_asked_once_and_told_of_every_change():
    shown = open_bench()
    page = hand_over(None, shown)
    page.hear(page.widget, dict(remembered=json.dumps(dict(describe_choices(shown), row=9))), [])
    assert shown.menus['row'].value != 9
    seen = []
    page.widget.observe(lambda change: seen.append(json.loads(change['new'])), 'choices')
    shown.menus['row'].value = 12
    shown.tabs.selected_index = 1
    assert [each['row'] for each in seen] == [12, 12] and [each['tab'] for each in seen] == [0, 1]


def test_a_run_that_would_be_lost_is_told_until_it_is_kept(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shown = Workbench(Bench(SyntheticCXR(60, size=64, seed=3), most=12, n_boot=0))
    page = hand_over(None, shown)
    shown.tabs.selected_index = len(shown.panels)
    live = shown.training.live
    live.controls['epochs'].value = 1
    live.press_start()
    assert page.widget.unsaved
    live.run.wait()
    live.set_buttons(running=False)
    assert page.widget.unsaved
    live.press_keep()
    assert not page.widget.unsaved and list((tmp_path/'runs').iterdir())
    live.press_start()   # another run, which goes with its data
    live.run.wait()
    live.set_buttons(running=False)
    assert page.widget.unsaved
    shown.training.live, shown.training.box.children = None, [shown.training.note]
    assert not page.widget.unsaved
