"Views: figures are checked by their traces, controls without a browser."
import base64, io, json, subprocess, sys
from collections import Counter, defaultdict
from pathlib import Path
import numpy as np, pandas as pd, pytest, torch
import plotly.graph_objects as go
from hypothesis import example, given, settings, strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from cxr_workbench import views

names = ['Edema', 'Fracture', 'Hernia']
rng = np.random.default_rng(0)
few = settings(max_examples=20)   # a figure costs milliseconds


def pixels(trace):
    "The image that a trace holds."
    png = base64.b64decode(trace.source.split(',')[1])
    return np.asarray(Image.open(io.BytesIO(png)))


def test_import_is_light():
    heavy = {'torch', 'lightning', 'timm', 'sklearn', 'pandas', 'ipywidgets'}
    code = f'import sys, cxr_workbench.views; print(sorted({heavy} & set(sys.modules)))'
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == '[]'


PUBLIC = """
UPLOAD COLOURS DASHES STATES DIVERGING SEQUENTIAL HEAT HEAT_SIGNED STYLE keep_private apply_style as_array
as_control describe_frame make_picture_widget explore as_uint8 make_image_trace make_image_grid show_images
make_map_trace make_outline_trace make_box_trace as_layers show_overlay format_matrix_axes show_matrix
entry_states label_table epoch_means training_curves line_style format_label_axis score_bars
list_label_columns thin_curve make_curve_figure roc_curve pr_curve calibration_bins wilson_interval
reliability report_bars histogram show_differences show_probes SYMBOLS INKS curve_style darken describe_figure
write_figure order_by_similarity show_label_graph show_matrices
""".split()


def test_views_gives_every_picture():
    assert sorted(views.__all__) == sorted(PUBLIC)
    assert all(hasattr(views, name) for name in PUBLIC)


# ---- what comes in ----

@pytest.mark.parametrize('x, shapes, letters', [
    (np.zeros((2, 3)), ['B 1 H W', 'H W C'], ['(B, 1, H, W)', '(H, W, C)', '(2, 3)']),
    (np.zeros((2, 3, 8, 8)), ['B 1 H W'], ['(B, 1, H, W)', '(2, 3, 8, 8)']),
])
def test_shape_errors_name_the_letters(x, shapes, letters):
    with pytest.raises(ValueError) as error: views.as_array('x', x, *shapes)
    message = str(error.value)
    assert all(word in message for word in letters)


def test_letters_agree_over_arguments():
    sizes = {}
    views.as_array('y', np.zeros((4, 3)), 'B C', sizes=sizes)
    with pytest.raises(ValueError, match='C=2.*C=3'):
        views.as_array('known', np.zeros((4, 2)), 'B C', sizes=sizes)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float64, torch.bool, torch.uint8])
def test_tensors_of_every_type_come_in(dtype):
    x = torch.ones(2, 3, dtype=dtype)
    if dtype.is_floating_point: x.requires_grad_()
    assert np.array_equal(views.as_array('x', x, 'B C').astype(float), np.ones((2, 3)))


def test_nan_is_refused_and_counted():
    with pytest.raises(ValueError, match='1 NaN'): views.score_bars([.1, np.nan, .2], names)


# ---- images ----

@few
@given(arrays(np.uint8, st.tuples(*(st.integers(1, most) for most in (9, 12, 12)))))
def test_images_survive_the_journey(x):
    fig = views.show_images(x)
    assert len(fig.data) == len(x)
    for trace, image in zip(fig.data, x): assert np.array_equal(pixels(trace), image)


@pytest.mark.parametrize('shape', [(3, 1, 5, 4), (3, 5, 4), (5, 4)])
def test_images_of_three_shapes_float_or_uint8(shape):
    x = rng.integers(0, 256, shape, dtype=np.uint8)
    floats = torch.as_tensor(x).float()/255
    for a, b in zip(views.show_images(x).data, views.show_images(floats).data, strict=True):
        assert a.source == b.source


def test_images_out_of_range_or_nan_are_refused():
    for bad in (1.5, -.2, 200.):
        with pytest.raises(ValueError, match=r'\[0, 1\]'): views.show_images(np.full((4, 4), bad))
    with pytest.raises(ValueError, match='NaN'): views.show_images(np.full((4, 4), np.nan))
    with pytest.raises(ValueError, match='B=0'): views.show_images(np.zeros((0, 4, 4), np.uint8))
    three = np.zeros((3, 4, 4), np.uint8)
    with pytest.raises(ValueError, match='2 titles'): views.show_images(three, titles=['a', 'b'])


def test_every_image_keeps_square_pixels():
    fig = views.show_images(np.zeros((7, 8, 4), np.uint8), columns=3)
    axes = [fig.layout[k] for k in fig.layout if k.startswith('yaxis')]
    assert len([a for a in axes if a.scaleanchor]) == 7
    assert all(a.scaleanchor == a.anchor for a in axes if a.scaleanchor)


def test_overlay_lays_cells_where_they_belong():
    fig = views.show_overlay(np.zeros((60, 40), np.uint8), map=np.ones((6, 8)))
    m = fig.data[1]
    assert (m.y0 - m.dy/2, m.x0 - m.dx/2) == (-.5, -.5)
    assert (m.dy*6, m.dx*8) == (60, 40)


@pytest.mark.parametrize('images, maps, pictures', [(1, 4, 4), (4, 1, 4), (3, 3, 3)])
def test_overlay_repeats_what_is_given_once(images, maps, pictures):
    x, m = np.zeros((images, 1, 8, 8), np.uint8), rng.random((maps, 2, 2))
    fig = views.show_overlay(x, m, mask=np.eye(8, dtype=bool))
    kinds = Counter(trace.type for trace in fig.data)
    assert kinds == {'image': pictures, 'heatmap': pictures, 'contour': pictures}
    assert len({trace.zmax for trace in fig.data if trace.type == 'heatmap'}) == 1


def test_overlay_refuses_what_does_not_fit():
    image, two = np.zeros((8, 8), np.uint8), np.zeros((2, 1, 8, 8), np.uint8)
    with pytest.raises(ValueError, match='signed'): views.show_overlay(image, map=-np.ones((2, 2)))
    with pytest.raises(ValueError, match='2 of image for 3'): views.show_overlay(two, map=np.ones((3, 2, 2)))
    with pytest.raises(ValueError, match='H=4'): views.show_overlay(image, mask=np.zeros((4, 4)))
    with pytest.raises(ValueError, match='K, 4'): views.show_overlay(image, boxes=[[1, 2, 3]])


def test_boxes_are_pixels():
    boxes = [[2, 1, 3, 4], [0, 0, 8, 8]]
    box = views.show_overlay(np.zeros((8, 8), np.uint8), boxes=boxes).data[-1]
    x, y = box.x[:5], box.y[:5]
    assert (min(x), max(x)) == (1.5, 4.5)
    assert (min(y), max(y)) == (.5, 4.5)
    assert set(box.x[6:11]) == set(box.y[6:11]) == {-.5, 7.5}       # the whole image


@pytest.mark.parametrize('dtype', [bool, np.uint8, np.int64, np.float32])
def test_a_mask_is_true_wherever_it_is_not_zero(dtype):
    inside = np.eye(2, dtype=bool)
    mask = inside*np.array(.7 if dtype is np.float32 else 3)
    fig = views.show_overlay(np.zeros((2, 2), np.uint8), mask=mask.astype(dtype))
    assert np.array_equal(fig.data[-1].z, inside)


# ---- tables and matrices ----

def test_label_table_counts_states():
    y = np.array([[1, 0, 0], [0, 1, 0]])
    known = np.array([[True, True, False], [False, True, True]])
    z = views.label_table(y, known, names).data[0].z
    assert np.array_equal(z, [[1, 0, -1], [-1, 1, 0]])


def test_label_table_forgives_nan_only_where_unknown():
    y = np.array([[1, np.nan, 0]])
    views.label_table(y, ~np.isnan(y), names)
    with pytest.raises(ValueError, match='0 or 1'): views.label_table(y, np.ones((1, 3), bool), names)
    with pytest.raises(ValueError, match='0 or 1'): views.label_table(np.array([[1, -1, 0]]), None, names)
    with pytest.raises(ValueError, match='2 label_names'): views.label_table(y, ~np.isnan(y), names[:2])


@few
@given(arrays(float, (3, 3), elements=st.floats(-1, 1)))
def test_matrix_colours_are_symmetric_around_zero(m):
    cells = views.show_matrix(m, names, of='correlation').data[0]
    off = np.abs(m[~np.eye(3, dtype=bool)]).max()
    assert cells.zmin == -cells.zmax
    assert cells.zmax == (off or 1)


def test_matrix_crosses_undefined_cells_and_reads_row_then_column():
    m = np.array([[0, 5, np.nan], [1, 0, 2]])
    fig = views.show_matrix(m, ['a', 'b'], columns=names, of='count')
    cells, crosses = fig.data
    assert (cells.zmin, cells.zmax) == (0, 5)
    assert (list(cells.y), list(cells.x)) == (['a', 'b'], names)
    assert (list(crosses.x), list(crosses.y)) == (['Hernia'], ['a'])
    assert len(views.show_matrix(np.full((3, 3), np.nan), names).data) == 2
    with pytest.raises(ValueError, match='names for'): views.show_matrix(m, names)


# ---- curves ----

def test_training_curves_average_epochs_and_mark_stages():
    history = pd.DataFrame({'epoch': [0, 0, 1, 0, 1], 'stage': [0, 0, 0, 1, 1]})
    history['loss'] = [4., 2, 1, 5, 6]
    history['term/bce'] = 1.
    history['valid/mAUC'] = [np.nan, .5, .6, .7, np.nan]
    fig = views.training_curves(history)
    lines = {t.name: t for t in fig.data}
    assert list(lines['loss'].y) == [3, 1, 5, 6]
    assert list(lines['loss'].x) == [0, 1, 2, 3]
    assert list(lines['mAUC'].x) == [0, 1, 2]
    assert {shape.x0 for shape in fig.layout.shapes} == {1.5}
    with pytest.raises(ValueError, match='epoch'): views.training_curves(history.drop(columns='epoch'))
    with pytest.raises(ValueError, match='term/'): views.training_curves(history[['epoch', 'stage']])


def test_a_term_that_stands_alone_has_the_colour_of_a_first_line():
    history = pd.DataFrame({'epoch': [0, 1], 'term/bce': [2., 1.], 'term/other': [1., 2.]})
    colours = [trace.line.color for trace in views.training_curves(history).data]
    assert colours == views.COLOURS[:2]


def test_score_bars_mark_truth_and_keep_order():
    truth = dict(y=[0, 1, 0], known=[True, True, False])
    fig = views.score_bars([.2, .9, .4], names, **truth, sort=True)
    bars = {trace.name: list(trace.y) for trace in fig.data}
    assert bars == {'absent': ['Edema'], 'present': ['Fracture'], 'unknown': ['Hernia']}
    assert list(fig.layout.yaxis.categoryarray) == ['Fracture', 'Hernia', 'Edema']
    with pytest.raises(ValueError, match='sigmoid'): views.score_bars([3., .1, .2], names)


@few
@given(st.integers(0, 10_000))
def test_curves_agree_with_scikit_learn(seed):
    from sklearn.metrics import average_precision_score, roc_auc_score
    rng = np.random.default_rng(seed)
    s, t, known = rng.random((3, 60, 2))
    s, t, known = s.round(1), t < .4, known < .8
    columns = [(t[known[:, c], c], s[known[:, c], c]) for c in range(2)]
    for view, metric in [(views.roc_curve, roc_auc_score), (views.pr_curve, average_precision_score)]:
        traces = view(s, t, known=known).data
        shown = [float(trace.name.split()[-1]) for trace in traces if trace.name]
        assert np.allclose(shown, [metric(*column) for column in columns], atol=6e-4)


@pytest.mark.parametrize('y, known, reason', [
    ([1, 1], None, 'no negatives'), ([0, 0], None, 'no positives'),
    ([0, 1], [False, False], 'nothing known'), ([0, 1], [True, False], 'no positives'),
])
def test_a_label_without_a_curve_stays_in_the_legend(y, known, reason):
    for view in (views.roc_curve, views.pr_curve):
        line = view([.1, .2], y, 'Hernia', known=known).data[-1]
        assert line.name == f'Hernia: {reason}'


@few
@given(st.integers(2, 3000), st.integers(0, 99))
def test_thinning_keeps_ends_order_and_area(n, seed):
    steps = np.random.default_rng(seed).random((2, n))
    x, y = np.cumsum(steps, 1)/steps.sum(1, keepdims=True)
    a, b = views.thin_curve(x, y)
    assert len(a) <= 200 and np.all(np.diff(a) >= 0)
    ends = [0, -1]
    assert np.array_equal(a[ends], x[ends]) and np.array_equal(b[ends], y[ends])
    assert abs(np.trapezoid(y, x) - np.trapezoid(b, a)) < .01


@few
@given(arrays(float, 50, elements=st.floats(0, 1)), st.integers(1, 30))
def test_bins_hold_every_entry(scores, bins):
    truth = (np.arange(50) % 3 == 0).astype(float)
    p, f, n = views.calibration_bins(scores, truth, bins=bins)
    assert n.sum() == 50
    assert np.nansum(n*f) == pytest.approx(truth.sum())
    assert np.nansum(n*p) == pytest.approx(scores.sum())


@few
@given(st.integers(1, 200).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n))))
def test_wilson_lies_around_the_share_and_in_the_unit_interval(case):
    n, k = case
    low, high = views.wilson_interval(k/n, n)
    assert -1e-12 <= low <= k/n + 1e-12
    assert k/n - 1e-12 <= high <= 1 + 1e-12
    assert high - low < 1


def test_reliability_counts_only_what_is_known():
    known = np.array([True, True, False, True])
    fig = views.reliability([.1, .9, .5, .9], [0, 1, 1, 1], known=known)
    assert sum(fig.data[-1].y) == 3
    with pytest.raises(ValueError, match='sigmoid'): views.reliability([2., .1], [1, 0])
    with pytest.raises(ValueError, match='known'): views.reliability([.2, .1], [1, 0], known=[False, False])


def test_report_bars_draw_intervals_and_say_undefined():
    values = {'auroc': .8, 'auroc_low': .7, 'auroc_high': .85}
    report = pd.DataFrame([values, dict.fromkeys(values, np.nan)], index=['Edema', 'Hernia'])
    fig = views.report_bars(report)
    bars = fig.data[0].error_x
    assert bars.array[0] == pytest.approx(.05)
    assert bars.arrayminus[0] == pytest.approx(.1)
    assert list(fig.data[1].y) == ['Hernia']
    assert len(views.report_bars(report[['auroc']].dropna()).data) == 1
    with pytest.raises(ValueError, match="'ap'"): views.report_bars(report, 'ap')


@few
@given(arrays(float, st.integers(1, 80), elements=st.floats(-5, 5)))
@example(np.array([np.nextafter(2., 3.)]))
def test_histogram_loses_nothing(values):
    fig = views.histogram({'a': values, 'b': torch.as_tensor(values[:3])})
    assert [sum(trace.y) for trace in fig.data] == [len(values), len(values[:3])]
    with pytest.raises(ValueError, match='no value'): views.histogram([])


# ---- controls ----

def draw_bars(n=2, height=.5, kind='bar', tick=False):
    if n == 4: raise ValueError('four <is> wrong')
    trace = go.Bar if kind == 'bar' else go.Scatter
    layout = dict(title_text='ticked', shapes=[dict(type='line')]) if tick else {}
    return go.Figure([trace(y=[height, i], name=str(i)) for i in range(n)], layout)


def plain(fig):
    "A figure as it would be drawn, without ids and templates."
    drawn = go.Figure(fig).to_plotly_json()
    for trace in drawn['data']: trace.pop('uid', None)
    return drawn['data'], {k: v for k, v in drawn['layout'].items() if k != 'template' and v}


VALUES = {'n': [1, 2, 3, 5], 'height': [0., .25, 1.]}
VALUES |= {'kind': ['bar', 'line'], 'tick': [False, True]}
moves = [st.tuples(st.just(name), st.sampled_from(values)) for name, values in VALUES.items()]


@few
@given(st.lists(st.one_of(moves), min_size=1, max_size=6))
def test_a_standing_figure_equals_a_fresh_one_after_any_moves(steps):
    controls = dict(n=(1, 5, 1), height=(0., 1., .25), kind=['bar', 'line'], tick=False)
    box = views.explore(draw_bars, **controls)
    figure = box.figure
    for name, value in steps: box.controls[name].value = value
    values = {name: control.value for name, control in box.controls.items()}
    fresh = views.keep_private(draw_bars(**values))
    assert plain(figure) == plain(fresh) and box.figure is figure
    sent, wanted = json.loads(box.children[-1].spec), json.loads(fresh.to_json())
    assert sent['data'] == wanted['data']
    assert sent['layout'].get('shapes') == wanted['layout'].get('shapes')


def test_a_zoom_is_kept_while_the_traces_stay_and_plotly_is_sent_once():
    box = views.explore(draw_bars, n=(1, 5, 1), height=(0., 1., .25))
    other = views.explore(draw_bars, n=(1, 5, 1))
    def revision(): return json.loads(box.children[-1].spec)['layout']['uirevision']
    first = revision()
    box.controls['height'].value = .25
    assert revision() == first
    box.controls['n'].value = 3
    assert revision() != first
    assert box.children[-1].library is other.children[-1].library
    assert len(box.children[-1].spec) < 20_000


def test_an_error_is_shown_and_the_next_move_has_another_chance():
    box = views.explore(draw_bars, n=(1, 5, 1))
    message = next(child for child in box.children if 'cxr-explorer-error' in child._dom_classes)
    box.controls['n'].value = 3
    box.controls['n'].value = 4
    assert 'four &lt;is&gt; wrong' in message.value and len(box.figure.data) == 3
    box.controls['n'].value = 5
    assert message.value == '' and len(box.figure.data) == 5


def test_the_first_picture_fails_where_it_is_made():
    with pytest.raises(ValueError, match='four'): views.explore(draw_bars, n=(1, 5, 1, 4))
    with pytest.raises(TypeError, match='colour'): views.explore(draw_bars, colour=['red'])


def test_controls_by_their_specification():
    import ipywidgets as w
    own = w.IntText(3)
    cases = {  # argument -> specification, widget, starting value
        'a_b': ((0, 4, 2), w.IntSlider, 2),
        'b': ((0, 1, .25), w.FloatSlider, .5),
        'c': ((0, 10, 1, 7), w.IntSlider, 7),
        'd': (['x', 'y'], w.Dropdown, 'y'),
        'e': ([('one', 1), ('two', 2)], w.Dropdown, 2),
        'f': (True, w.Checkbox, True),
        'g': (own, w.IntText, 3)}
    def draw(a_b, b, c, d='y', e=2, f=False, g=0): return go.Figure()
    box = views.explore(draw, **{name: spec for name, (spec, _, _) in cases.items()})
    for name, (_, kind, value) in cases.items():
        assert type(box.controls[name]) is kind and box.controls[name].value == value
    assert box.controls['g'] is own and box.controls['a_b'].description == 'a b'
    assert 'cxr-explorer' in box._dom_classes
    assert all(box.controls[name].tooltip for name in 'bcdef')


@pytest.mark.parametrize('spec, error', [
    ('fast', TypeError), ((0, 1), TypeError), ([], TypeError),
    ((1, 0, .1), ValueError), ((0, 1, 0), ValueError)])
def test_a_bad_specification_is_named(spec, error):
    with pytest.raises(error, match="'n'"): views.explore(draw_bars, n=spec)


def told_bars(
    n=2,         # in bars: how many there are
    height=.5,   # of the first
    kind='bar',
):
    return draw_bars(n, height, kind)


def test_comments_become_hints_and_units():
    box = views.explore(told_bars, n=(1, 5, 1), height=(0., 1., .25), kind=['bar', 'line'])
    said = {name: (control.description, control.tooltip) for name, control in box.controls.items()}
    assert said['n'] == ('n, in bars', 'in bars: how many there are')
    assert said['height'] == ('height', 'of the first') and said['kind'] == ('kind', 'one of 2')
    bare = views.explore(lambda n: go.Figure(), n=(1, 5, 1)).controls['n']
    assert (bare.description, bare.tooltip) == ('n', 'from 1 to 5, in steps of 1')


def test_a_slider_follows_the_hand_only_while_pictures_are_quick(monkeypatch):
    from cxr_workbench import widget
    now, cost = [0.], [.01]
    def draw(n=2):
        now[0] += cost[0]
        return draw_bars(n)
    monkeypatch.setattr(widget.Pace.__init__, '__defaults__', (lambda: now[0],))
    slider = views.explore(draw, n=(1, 5, 1)).controls['n']
    answers = [slider.continuous_update]
    for n, seconds in ((3, .2), (5, .2), (1, .2), (2, .2), (3, .01)):
        cost[0], slider.value = seconds, n
        answers.append(slider.continuous_update)
    assert answers == [True, True, True, False, False, True]     # the quickest of the last three decides


def test_controls_wait_until_the_picture_stands():
    import ipywidgets as w
    own = w.IntText(2)
    box = views.explore(told_bars, n=own, height=(0., 1., .25))
    height, sent = box.controls['height'], []
    height.send_state = lambda *_, **__: sent.append(height.value)
    assert height.disabled and not own.disabled
    box.controls['height'].value = .25
    box.picture._handle_custom_msg({'stands': True}, [])
    assert not height.disabled and sent[-1] == .25


def test_a_sign_of_work_goes_on_and_off_also_where_the_picture_fails():
    box, signs = views.explore(draw_bars, n=(1, 5, 1)), []
    box.picture.observe(lambda change: signs.append((change.new, len(box.figure.data))), 'working')
    box.controls['n'].value = 5
    box.controls['n'].value = 4      # fails
    assert signs == [(True, 2), (False, 5), (True, 5), (False, 5)]


def test_the_words_of_a_picture_move_with_it():
    box = views.explore(draw_bars, n=(1, 5, 1))
    before = box.picture.words
    box.controls['n'].value = 5
    assert before == '2 sets of bars: 0, 1' and box.picture.words == '5 sets of bars: 0, 1, 2, 3, 4'


# ---- looks ----

def test_styles_of_lines_differ_without_colours():
    for n in (7, 14, 42):
        styles = [views.curve_style(i, n) for i in range(n)]
        assert len({(style['line']['dash'], style['marker']['symbol']) for style in styles}) == n
    for n in range(1, 7):
        styles = [views.curve_style(i, n) for i in range(n)]
        assert len({style['line']['dash'] for style in styles}) == n and not any('marker' in s for s in styles)


def list_stored_curves():
    "Lines with a legend of every plot of every stored figure: (page, cell, axes) -> looks without colours."
    plots = defaultdict(list)
    for path in sorted((Path(__file__).parent.parent/'nbs').glob('*.ipynb')):
        for cell in json.loads(path.read_text())['cells']:
            for output in cell.get('outputs', []):
                stored = output.get('data', {}).get('application/vnd.plotly.v1+json', {})
                for t in stored.get('data', []):
                    is_line = t['type'] == 'scatter' and 'lines' in t.get('mode', 'lines') and 'stackgroup' not in t
                    if not is_line or t.get('showlegend', stored['layout'].get('showlegend', True)) is False: continue
                    look = t.get('line', {}).get('dash', 'solid'), t.get('marker', {}).get('symbol')
                    plots[path.stem, cell['id'], t.get('xaxis', 'x')].append(look)
    return plots


def test_stored_figures_tell_more_than_six_curves_apart_without_colours():
    many = {where: looks for where, looks in list_stored_curves().items() if len(looks) > 6}
    assert many                                                # there are such figures
    assert not [where for where, looks in many.items() if len(set(looks)) < len(looks)]


def test_a_dark_figure_has_other_inks_and_the_same_data():
    light = views.show_matrix(np.eye(3) - .2, names, title='a title')
    dark = views.darken(light)
    (one,), (other,) = light.data, dark.data
    assert np.array_equal(one.z, other.z) and one.colorscale == other.colorscale
    text = dark.to_json()
    assert not any(f'"{ink}"' in text for ink in views.INKS)
    assert '"#FFF"' in light.to_json()                        # the figure itself stays what it was
    assert not set(views.INKS.values()) & set(views.INKS)     # so darkening twice is darkening once


def test_no_meaning_is_an_ink():
    meanings = {*views.COLOURS[:6], *views.STATES.values()}
    scales = {colour for scale in (views.DIVERGING, views.SEQUENTIAL) for _, colour in scale}
    assert not set(views.INKS) & (meanings | scales)


def test_an_authors_words_come_first_and_html_is_plain():
    figure = views.apply_style(go.Figure(go.Bar(y=[1], name='<b>a</b> &lt; b')), 'one<br>two')
    assert views.describe_figure(figure) == 'one two. 1 set of bars: a  &lt; b'.replace('&lt;', '<')
    own = views.apply_style(go.Figure(), alt='what "I" see')
    assert views.describe_figure(own) == 'what "I" see'
    assert 'aria-label="what &quot;I&quot; see"' in views.write_figure(own)


def measure_title(figure):
    "Pixels from the top: the lower edge of the title, and the upper one of the plots."
    return 28 + 18*(figure.layout.title.text.count('<br>') + 1), figure.layout.margin.t


@pytest.mark.parametrize('layout', [{}, dict(margin_t=10), dict(margin=dict(t=45, b=9))])
def test_a_title_has_its_room_below_the_toolbar(layout):
    for title in ('one line', 'two<br>lines'):
        lower, plots = measure_title(views.apply_style(go.Figure(), title, **layout))
        assert plots >= lower
    assert views.apply_style(go.Figure(), 'a title', margin_t=90).layout.margin.t == 90
    assert views.apply_style(go.Figure(), margin_t=10).layout.margin.t == 10


# ---- relations ----

@few
@given(st.permutations(range(6)), st.integers(0, 99))
def test_an_order_by_similarity_does_not_depend_on_the_order_before(shuffle, seed):
    m = np.random.default_rng(seed).normal(size=(6, 6))
    m, shuffle = m + m.T, np.array(shuffle)
    before, after = views.order_by_similarity(m), shuffle[views.order_by_similarity(m[np.ix_(shuffle, shuffle)])]
    assert list(after) in (list(before), list(before[::-1]))


def test_a_matrix_in_another_order_keeps_its_entries():
    m = np.arange(9.).reshape(3, 3)
    shown = views.show_matrix(m, names, similar=True).data[0]
    where = [names.index(name) for name in shown.y]
    assert list(shown.x) == list(shown.y) and np.array_equal(shown.z, m[np.ix_(where, where)])


def test_tables_side_by_side_share_scale_and_order():
    a, b = np.diag([9., 9, 9]) + .1, np.full((3, 3), -.4)
    figure = views.show_matrices({'a': a, 'b': b}, names, difference=True)
    first, second, third = figure.data
    assert {(t.zmin, t.zmax) for t in figure.data} == {(-.5, .5)}          # off the diagonals, over all tables
    assert np.allclose(third.z, a - b) and [t.showscale for t in figure.data] == [False, False, True]
    similar = views.show_matrices({'a': a, 'b': b}, names, similar=True).data
    assert list(similar[0].x) == list(similar[1].x)


def test_a_graph_draws_the_strongest_pairs():
    weights = np.array([[1, .5, -.9], [.2, 1, np.nan], [-.3, .4, 1]])
    strongest = [.4, .5, -.9]    # the last one is on top
    for edges, drawn in ((1, strongest[2:]), (2, strongest[1:]), (9, strongest)):
        lines = [t for t in views.show_label_graph(weights, names, edges).data if t.mode == 'lines']
        assert [float(t.hovertemplate.split()[-1].split('<')[0]) for t in lines] == drawn
        assert [t.line.dash for t in lines] == ['dash' if w < 0 else None for w in drawn]
    assert len(views.show_label_graph(np.eye(3), names).data) == 1         # no pair, no line


# ---- nothing is sent away ----

HISTORY = pd.DataFrame({'epoch': [1, 2], 'loss': [2., 1.], 'valid/auroc': [.5, .6]})
VIEWS = {
    'show_images': lambda: views.show_images(rng.random((2, 4, 4))),
    'show_overlay': lambda: views.show_overlay(np.zeros((4, 4)), np.eye(2)),
    'show_matrix': lambda: views.show_matrix(np.eye(3), names),
    'show_probes': lambda: views.show_probes(np.zeros((1, 1, 4, 4)), {'correlation': np.eye(3)}, names),
    'label_table': lambda: views.label_table(np.eye(3), None, names),
    'training_curves': lambda: views.training_curves(HISTORY),
    'score_bars': lambda: views.score_bars([.1, .5, .9], names),
    'roc_curve': lambda: views.roc_curve([.1, .9], [0, 1]),
    'pr_curve': lambda: views.pr_curve([.1, .9], [0, 1]),
    'reliability': lambda: views.reliability([.1, .9], [0, 1]),
    'report_bars': lambda: views.report_bars(pd.DataFrame({'auroc': [.6, .7, .8]}, index=names)),
    'histogram': lambda: views.histogram([1., 2.]),
    'show_matrices': lambda: views.show_matrices({'a': np.eye(3)}, names),
    'show_label_graph': lambda: views.show_label_graph(np.ones((3, 3)), names)}
view = pytest.mark.parametrize('make', VIEWS.values(), ids=VIEWS)


def is_private(figure): return views.UPLOAD in (figure.layout.modebar.remove or ())


@view
def test_no_view_has_the_button_that_uploads(make):
    figure = make()
    assert is_private(figure) and is_private(go.FigureWidget(figure))
    for theme in ('plotly', 'plotly_dark', 'none'):
        assert is_private(make().update_layout(template=theme))


@view
def test_every_view_has_words(make):
    figure = make()
    words = views.describe_figure(figure)
    titles = [axis.title.text for axis in figure.select_xaxes() if axis.title.text]
    assert words[:1].strip() and '<' not in words and all(title in words for title in titles)


@view
def test_a_redrawn_widget_stays_private(make):
    figure, widget = make(), go.FigureWidget()
    for _ in range(2):
        widget.update(dict(data=figure.data, layout=figure.layout), overwrite=True)
        assert is_private(widget)


@view
def test_html_of_a_view_names_no_upload(make, tmp_path):
    figure = make()
    figure.write_html(tmp_path/'figure.html', include_plotlyjs=False)
    written = (tmp_path/'figure.html').read_text()
    for text in (figure.to_html(include_plotlyjs=False), written):
        assert '"remove":["sendChartToCloud"]' in text


def test_keep_private_keeps_what_was_removed():
    for removed in ('zoom', ['zoom'], ('zoom', views.UPLOAD)):
        figure = views.keep_private(views.keep_private(go.Figure(layout_modebar_remove=removed)))
        assert sorted(figure.layout.modebar.remove) == [views.UPLOAD, 'zoom']


def test_explore_keeps_foreign_figures_private():
    box = views.explore(lambda n: go.Figure(go.Bar(y=[n])), n=(1, 5, 1))
    box.controls['n'].value = 2
    shown = json.loads(box.children[-1].spec)
    assert is_private(box.figure)
    assert shown['layout']['modebar']['remove'] == [views.UPLOAD]
    assert list(box.figure.data[0].y) == [2]
