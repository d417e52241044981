"Probes: any tensor of the glossary's shapes is drawn, under its meaning."
import base64, io
from collections import Counter
import numpy as np, pytest, torch
from PIL import Image
from cxr_workbench import core
from cxr_workbench.core import Batch, PROBES, create_method, list_methods, seed_all
from cxr_workbench.views import show_probes

SIZES = dict(zip('BCDHWhwLT12', (4, 3, 9, 12, 10, 3, 2, 5, 2, 1, 2)))
names = ['Edema', 'Fracture', 'Hernia']


def draw(shape, seed=0):
    "Random numbers of a shape in letters, in [0, 1]."
    sizes = [SIZES[letter] for letter in shape.split()]
    return torch.rand(sizes, generator=torch.Generator().manual_seed(seed))


x = draw('B 1 H W')


@pytest.fixture
def declare(monkeypatch):
    "Declare a probe for one test."
    monkeypatch.setattr(core, 'PROBES', dict(PROBES))
    return core.register_probe


def captions(fig): return [note.text for note in fig.layout.annotations]
def of_type(fig, kind): return [trace for trace in fig.data if trace.type == kind]


def pixels(trace):
    "The image that a trace holds."
    png = base64.b64decode(trace.source.split(',')[1])
    return np.asarray(Image.open(io.BytesIO(png)))


def to_grey(image): return np.round(image.numpy()*255).astype(np.uint8)


def panels(fig):
    "Left, right, lower and upper end of every panel, in parts of the figure."
    layout = fig.layout.to_plotly_json()
    numbers = [key.removeprefix('xaxis') for key in layout if key.startswith('xaxis')]
    return np.array([[*layout[f'xaxis{n}']['domain'], *layout[f'yaxis{n}']['domain']] for n in numbers])


# ---- every shape ----

SHAPES = {  # shape -> number of images and of heatmaps; where a probe has pixels, the four images come first
    'B C h w': (3, 3), 'B D h w': (6, 6), 'B 2 h w': (2, 2), 'B T C h w': (6, 6),
    'B h w': (4, 4), 'B 1 h w': (4, 4),
    'B 1 H W': (8, 0), 'B H W': (8, 0), 'B C H W': (7, 3),
    'B T C D': (0, 2), 'C h w': (0, 3)}
SHAPES |= dict.fromkeys(['B C', 'C C', 'B D', 'L L', 'B C D', 'B C C', 'C', 'D', 'B', ''], (0, 1))  # one matrix


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.bool, torch.int64])
@pytest.mark.parametrize('shape', SHAPES)
def test_every_shape_is_drawn_under_its_meaning(shape, dtype, declare):
    declare('made_up', shape, "what a label's <arrow> means")
    fig = show_probes(x, {'made_up': draw(shape).to(dtype)}, names)
    kinds = Counter(trace.type for trace in fig.data)
    assert (kinds['image'], kinds['heatmap']) == SHAPES[shape]
    assert any('made_up' in text and "a label's &lt;arrow&gt; means" in text for text in captions(fig))


@pytest.mark.parametrize('shape', SHAPES)
def test_panels_lie_in_the_figure_and_over_no_other(shape, declare):
    declare('made_up', shape, 'a sentence')
    fig = show_probes(x, {'made_up': draw(shape), 'pseudo': draw('B C')}, names)
    ends = panels(fig)
    assert ends.min() >= 0 and ends.max() <= 1
    for i, (left, right, low, high) in enumerate(ends):
        for other in ends[:i]:
            assert left >= other[1] or right <= other[0] or low >= other[3] or high <= other[2]


def test_an_array_is_as_good_as_a_tensor():
    attention = draw('B C h w')
    of_tensors = show_probes(x, {'attention': attention}, names)
    assert of_tensors == show_probes(x.numpy(), {'attention': attention.numpy()}, names)


# ---- maps and images ----

def test_maps_of_labels_lie_over_the_chosen_image_on_one_scale():
    attention = draw('B C h w')
    fig = show_probes(x, {'attention': attention}, names, image=2)
    maps = of_type(fig, 'heatmap')
    for trace, m in zip(maps, attention[2], strict=True): assert np.allclose(trace.z, m)
    for trace in of_type(fig, 'image'): assert np.array_equal(pixels(trace), to_grey(x[2, 0]))
    assert {trace.zmax for trace in maps} == {float(attention[2].max())}
    assert captions(fig)[1:] == names and 'image 2' in captions(fig)[0]
    assert [trace.showscale for trace in maps] == [True, False, False]


@pytest.mark.parametrize('dtype', [torch.float32, torch.uint8, torch.int8])
def test_the_strongest_channels_are_drawn_in_their_order_and_the_caption_says_so(dtype):
    feature_map = torch.zeros(1, 9, 3, 2, dtype=dtype)
    feature_map[0, [1, 3, 8], 0, 0] = torch.tensor([5, 9, 7], dtype=dtype)
    fig = show_probes(x[:1], {'feature_map': feature_map}, names, most=2)
    assert captions(fig)[1:] == ['3', '8'] and 'the 2 strongest of 9' in captions(fig)[0]
    assert [trace.z[0][0] for trace in of_type(fig, 'heatmap')] == [9, 7]


@pytest.mark.parametrize('image, first', [(0, 0), (1, 1), (3, 2)])
def test_the_chosen_image_is_among_those_of_a_long_batch(image, first, declare):
    declare('energy', 'B h w', 'a sentence')
    energy = draw('B h w')
    fig = show_probes(x, {'energy': energy}, names, image=image, most=2)
    rows = first, first + 1
    for trace, row in zip(of_type(fig, 'heatmap'), rows, strict=True): assert np.allclose(trace.z, energy[row])
    assert f'images {first} to {first + 1} of 4' in captions(fig)[0]


def test_images_are_compared_with_the_given_ones():
    other = draw('B 1 H W', seed=1)
    fig = show_probes(x, {'x_strong': other}, names)
    for trace, image in zip(fig.data, [*x[:, 0], *other[:, 0]], strict=True):
        assert np.array_equal(pixels(trace), to_grey(image))
    assert captions(fig)[0].startswith('<b>x</b>')


def test_bytes_and_a_rounding_beyond_one_are_images_too():
    for probe in (torch.as_tensor(to_grey(x)), x*1.00001):
        assert not of_type(show_probes(x, {'x_weak': probe}, names), 'heatmap')


def test_a_perturbation_is_a_map_in_colours_around_zero(declare):
    declare('push', 'B 1 H W', 'what the attack adds')
    push = .1*(draw('B 1 H W') - .3)
    maps = of_type(show_probes(x, {'push': push}, names), 'heatmap')
    assert len(maps) == 4
    for trace in maps: assert trace.zmax == -trace.zmin == pytest.approx(float(push.abs().max()))


# ---- matrices ----

def test_labels_have_names_and_other_axes_numbers():
    fig = show_probes(x, {'correlation': draw('C C'), 'pseudo': draw('B C'), 'features': draw('B D')}, names)
    square, pseudo, features = of_type(fig, 'heatmap')
    assert list(square.x) == list(square.y) == list(pseudo.x) == names
    assert list(pseudo.y) == list(features.y) == [0, 1, 2, 3]
    assert list(features.x) == list(range(9))
    titles = [fig.layout[axis].title.text for axis in ('yaxis2', 'xaxis3', 'yaxis3')]
    assert titles == ['image', 'channel', 'image']


def test_a_matrix_per_image_is_that_of_the_chosen_one():
    label_features = draw('B C D')
    fig = show_probes(x, {'label_features': label_features}, names, image=3)
    assert np.allclose(fig.data[0].z, label_features[3]) and 'image 3' in captions(fig)[0]


def test_undefined_entries_are_crossed_and_signs_have_colours():
    correlation = torch.tensor([[1., -.2, .1], [float('nan'), 1., .4], [.1, .4, 1.]])
    cells, crosses = show_probes(x, {'correlation': correlation}, names).data
    assert (cells.zmin, cells.zmax) == (pytest.approx(-.4), pytest.approx(.4))     # read off the diagonal
    assert (list(crosses.x), list(crosses.y)) == (['Edema'], ['Fracture'])


# ---- what is refused ----

@pytest.mark.parametrize('probes, kw, error, message', [
    ({'glance': draw('B C')}, {}, KeyError, "unknown probe 'glance'"),
    ({'attention': draw('B C')}, {}, ValueError, r'attention \(4, 3\); wanted are attention \(B, C, h, w\)'),
    ({'pseudo': torch.rand(4, 2)}, {}, ValueError, 'pseudo has C=2 .* C=3'),
    ({'features': torch.rand(3, 9)}, {}, ValueError, 'features has B=3 .* B=4'),
    ({'x_adv': torch.rand(4, 1, 12, 12)}, {}, ValueError, 'x_adv has W=12 .* W=10'),
    ({'correlation': torch.rand(3, 2)}, {}, ValueError, r'correlation \(3, 2\); wanted are correlation \(C, C\)'),
    ({'attention': torch.full((4, 3, 2, 2), float('nan'))}, {}, ValueError, '48 values that are not finite'),
    ({'attention': torch.full((4, 3, 2, 2), float('inf'))}, {}, ValueError, '48 values that are not finite'),
    ({'features': torch.rand(4, 0)}, {}, ValueError, 'features has no value to show'),
    ({}, {}, ValueError, 'no probe'),
    ({'pseudo': draw('B C')}, {'image': 4}, ValueError, 'image=4: there are 4 images'),
    ({'pseudo': draw('B C')}, {'image': -1}, ValueError, 'image=-1'),
])
def test_what_does_not_fit_is_named(probes, kw, error, message):
    with pytest.raises(error, match=message): show_probes(x, probes, names, **kw)


def test_images_after_a_normalisation_are_refused():
    with pytest.raises(ValueError, match='undo a mean/std'): show_probes(4*x - 2, {'pseudo': draw('B C')}, names)
    with pytest.raises(ValueError, match='B, 1, H, W'): show_probes(x[0], {'pseudo': draw('B C')}, names)


# ---- what methods show ----

METHODS = list_methods(origin='cxr_workbench')


@pytest.mark.parametrize('name', METHODS)
def test_all_that_a_method_shows_of_itself_has_a_picture(name):
    labels = ['Edema', 'Fracture', 'Hernia', 'Mass', 'Nodule']
    seed_all(0)
    y = (torch.rand(6, 5) < .4).float()
    y[0], y[1] = 1, 0
    known = torch.rand(6, 5) < .7
    known[:2] = True
    batch = Batch(torch.rand(6, 1, 64, 64), y*known, known, torch.arange(6))
    method = create_method(name, labels=labels, preset='tiny')
    method.prepare(batch.y, batch.known)
    for probes in (method.eval().look(batch.x)[1], method.train().step(batch, progress=.5).probes):
        fig = show_probes(batch.x, probes, labels, image=1)
        text = '\n'.join(captions(fig))
        for probe in probes: assert f'<b>{probe}</b>' in text
