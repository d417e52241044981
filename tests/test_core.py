"The contract's own promises: counts, names, sizes and readings that are compared, modes that come back."
from types import SimpleNamespace
import numpy as np, pytest, torch
from torch import nn
from hypothesis import given, strategies as st
from cxr_workbench import core
from cxr_workbench.core import Method, Stage, create_method
from cxr_workbench.files import Reading


@pytest.mark.parametrize('bad, match', [
    ('Edema', "one text.*\\['Edema'\\]"), ('', 'one text'),
    (True, 'give a list of names'), (None, 'give a list of names'),
    (0, 'at least one'), (-2, 'at least one'), ([], 'at least one'),
    (['a', 'b', 'a'], "occur twice: \\['a'\\]"), ([1, '1'], 'twice')])
def test_labels_that_cannot_be(bad, match):
    with pytest.raises(ValueError, match=match): create_method('supervised', labels=bad, size=32, preset='tiny')


def test_labels_are_named():
    assert core.parse_labels(np.int64(2)) == ['label 0', 'label 1'] == Method(2).label_names
    for names in (np.array(['Edema', 'Mass']), ('Edema', 'Mass'), {'Edema': 1, 'Mass': 2}):
        assert core.parse_labels(names) == ['Edema', 'Mass']
    assert all(type(name) is str for name in core.parse_labels(np.array(['Edema'])))


@pytest.mark.parametrize('bad', [0, -64, 64.5, '64', None, True])
def test_sizes_that_cannot_be(bad):
    with pytest.raises(ValueError, match='size='): create_method('supervised', labels=2, size=bad, preset='tiny')


@pytest.mark.parametrize('bad', [
    *(dict(epochs=n) for n in (0, -1, 1.5, True, None, '3')),
    *(dict(epochs=1, steps=n) for n in (0, 2.)),
    *(dict(epochs=1, ema=decay) for decay in (1, -.1, 1.001, float('nan')))])
def test_stages_that_cannot_be(bad):
    with pytest.raises(ValueError, match=list(bad)[-1]): Stage(**bad)


DECAYS = st.one_of(st.none(), st.floats(0, 1, exclude_max=True))
STEPS = st.one_of(st.none(), st.integers(1, 100))


@given(st.integers(1, 10**6), DECAYS, STEPS)
def test_stages_that_can(epochs, ema, steps):
    stage = Stage(epochs, ema=ema, steps=steps)
    assert (stage.epochs, stage.ema, stage.steps) == (epochs, ema, steps)


def test_numbers_of_numpy_count():
    assert core.is_count(np.int32(3)) and core.is_count(0)
    assert not any(map(core.is_count, (3., True, np.bool_(True))))
    assert Stage(np.int64(3)).epochs == 3


def make_method(size=64, reading=None):
    method = create_method('supervised', labels=2, size=size, preset='tiny')
    method.reading = reading
    return method


def test_sizes_are_compared():
    method = make_method()
    core.check_source(method, SimpleNamespace(size=64))
    said = 'made for images of 64 px, and the pack have 128 px.*size=64.*size=128'
    with pytest.raises(ValueError, match=said): core.check_source(method, SimpleNamespace(size=128), 'the pack')
    free = Method(2)
    core.check_source(free, SimpleNamespace(size=128))   # of no declared size


READINGS = [
    Reading(64), Reading(64, 'crop'), Reading(64, bits=12), Reading(64, stretch=True), Reading(64, invert=True),
    Reading(64, window=False), Reading(64, frame=0)]


@pytest.mark.parametrize('mine', READINGS)
@pytest.mark.parametrize('theirs', [None, *READINGS])
def test_readings_are_compared(mine, theirs):
    own = SimpleNamespace(size=64, reading=theirs)
    inner = SimpleNamespace(size=64, images=SimpleNamespace(reading=theirs))
    for source in (own, inner):
        assert core.get_reading(source) == theirs
        core.check_source(make_method(), source)                       # the method does not say
        if theirs in (None, mine):
            core.check_source(make_method(reading=mine), source)
            continue
        with pytest.raises(ValueError) as error: core.check_source(make_method(reading=mine), source)
        said = str(error.value)
        assert str(mine) in said and str(theirs) in said and mine.differences(theirs) in said


def test_modes_come_back_one_by_one():
    net = nn.Sequential(nn.BatchNorm2d(1), nn.Sequential(nn.Dropout(), nn.ReLU()))
    net[1][0].eval()
    modes = [m.training for m in net.modules()]
    with pytest.raises(RuntimeError), core.evaluation_mode(net) as inside:
        assert inside is net and not any(m.training for m in net.modules())
        raise RuntimeError
    assert [m.training for m in net.modules()] == modes


@pytest.mark.parametrize('letters, tensors, sizes, fits', [
    ('B C', dict(a=(2, 3), b=(2, 3)), None, True),
    ('B C', dict(a=(2, 3), b=(2, 4)), None, False),
    ('B C', dict(a=(2, 3, 1)), None, False),
    ('B C', dict(a=(2, 3)), {'C': 4}, False),
    ('B 1 H W', dict(a=(2, 1, 5, 6)), None, True),
    ('B 1 H W', dict(a=(2, 3, 5, 6)), None, False),
    ({'a': 'B C', 'b': 'C'}, dict(a=(2, 3), b=(3,)), None, True),
    ({'a': 'B C', 'b': 'C'}, dict(a=(2, 3), b=(2,)), None, False)])
def test_shapes_fit_their_letters(letters, tensors, sizes, fits):
    from cxr_workbench.core import check_shapes
    tensors = {name: torch.zeros(shape) for name, shape in tensors.items()}
    if fits:
        assert not isinstance(letters, str) or check_shapes(letters, sizes, **tensors, absent=None)
        return
    with pytest.raises(ValueError, match=r'shapes do not fit: a \(2, 3?.*wanted are a \('):
        check_shapes(letters, sizes, **tensors)


def test_methods_are_listed_by_their_package():
    from cxr_workbench.core import get_factory, list_methods
    ours = list_methods(origin='cxr_workbench')
    assert {'supervised', 'mpc', 'can', 'lcc', 'acaa', 'trcgl'} <= set(ours) and list_methods(origin='nobody') == []
    assert 'tiny' in get_factory('mpc').presets
    with pytest.raises(KeyError, match="no method 'mcp': there are"): get_factory('mcp')


def test_a_setting_of_a_part_leaves_the_others_of_the_preset():
    from cxr_workbench.core import merge_arguments
    first = dict(mixer=dict(heads=4, dropout=.1), weights=dict(image=0.), weak=True, lr=1.)
    given = dict(mixer=dict(heads=2), weights=dict(batch=0.), weak=dict(flip=0.))
    merged = merge_arguments(first, given)
    assert merged['mixer'] == dict(heads=2, dropout=.1)
    assert merged == dict(given, mixer=merged['mixer'], lr=1.)
    assert merge_arguments(first, dict(mixer=False))['mixer'] is False and first['mixer']['heads'] == 4
