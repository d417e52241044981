"Old names: what was typed or saved before still means the same."
import pytest
from cxr_workbench import renamed
from cxr_workbench.core import create_method, list_methods
from cxr_workbench.renamed import put_into, update_arguments, update_config, update_record, update_state, update_weights


@pytest.fixture
def table(monkeypatch):
    "A method of before: `base` is `loss` now, `flip` a setting of the view, `rate` means something else."
    monkeypatch.setitem(renamed.ARGUMENTS, 'mine', {'base': 'loss', 'heads': put_into('mixer', 'heads')})
    monkeypatch.setitem(renamed.TERMS, 'mine', {'sup': 'supervised'})
    monkeypatch.setitem(renamed.MODULES, 'mine', {'old.': 'new.'})
    monkeypatch.setitem(renamed.MEANINGS, 'mine', lambda given: {**given, 'rate': given.get('rate', .1)*10})


def test_old_arguments_are_said_and_translated(table):
    with pytest.warns(UserWarning, match="mine: base, heads, sup are names of before; write .*loss='an'"):
        new = update_arguments('mine', dict(base='an', heads=2, weights={'sup': 1., 'other': 2.}))
    assert new == dict(loss='an', mixer={'heads': 2}, weights={'supervised': 1., 'other': 2.})


def test_new_arguments_pass_without_a_word(table, recwarn):
    given = dict(loss='an', mixer={'heads': 2}, weak=False, weights={'supervised': 1.})
    assert update_arguments('mine', given) == given and not recwarn.list


def test_both_names_are_a_contradiction(table):
    with pytest.raises(ValueError, match='base is the old name of loss'): update_arguments('mine', dict(base=1, loss=2))


@pytest.mark.parametrize('weak, expected', [
    (None, {'flip': .3}), (True, {'flip': .3}), (False, False),
    ({'shift': 0}, {'shift': 0, 'flip': .3})])
def test_a_setting_joins_its_part_and_never_switches_it_on(weak, expected):
    given = {'flip': .3} | ({} if weak is None else {'weak': weak})
    assert update_arguments('any', given, warn=False)['weak'] == expected


def test_a_configuration_is_translated_once(table):
    old = dict(method='mine', size=64, arguments=dict(base='an', rate=.2))
    new = update_config(old)
    assert new['arguments'] == dict(loss='an', rate=2.) and new['vocabulary'] == renamed.VOCABULARY
    assert update_config(new) == new and old['arguments'] == dict(base='an', rate=.2)
    assert update_config(None) is None


def test_tensors_and_records_are_translated(table):
    assert update_state('mine', {'old.w': 1, 'older.w': 2}) == {'new.w': 1, 'older.w': 2}
    assert update_state('mine', {'m.old.w': 1, 'old.w': 2}, prefix='m.') == {'m.new.w': 1, 'old.w': 2}
    record = dict(config=dict(method='mine', arguments={}), weights={'sup': 1.}, rows=3)
    new = update_record(record)
    assert new['weights'] == {'supervised': 1.} and new['rows'] == 3 and update_record(new) == new
    assert update_record({'config': None}) == {'config': None}


@pytest.mark.parametrize('method', list_methods(origin='cxr_workbench'))
def test_every_old_term_has_a_present_name(method):
    terms = create_method(method, labels=3, preset='tiny').default_weights()
    old = renamed.TERMS.get(method, {})
    assert set(update_weights(method, dict.fromkeys(old, 1.))) <= set(terms)


@pytest.mark.parametrize('method', list_methods(origin='cxr_workbench'))
def test_views_are_switched_by_their_old_names(method):
    with pytest.warns(UserWarning, match="flip, shift are names of before; write weak={'flip': 0.0, 'shift': 0.1}"):
        built = create_method(method, labels=3, preset='tiny', flip=0., shift=.1)
    assert (built.weak.flip, built.weak.shift) == (0., .1)
