"""Every figure that the executed pages hold can be read: no label is cut, none lies on another, the title is free."""
import numpy as np, plotly.graph_objects as go, pytest
from geometry import find_all_faults, find_faults, list_figures, open_board
from cxr_workbench import views
from cxr_workbench.style import apply_style, darken


@pytest.fixture(scope='module')
def board(browser):
    with open_board(browser) as page: yield page


def draw(title='a title', **layout):
    layout = dict(width=500, height=300) | layout
    return apply_style(go.Figure(go.Bar(x=['a', 'b'], y=[1, 2])), title, **layout)


def test_a_plain_figure_has_no_fault(board):
    for figure in (draw(), darken(draw()), draw(None), draw(width=None)):
        for window in (1200, 1440): assert find_faults(board, figure, window) == []


LONG = 'a name that is far too long for the room beside a plot'
CASES = {
    'a label that is cut': (go.Figure(go.Bar(x=[1], y=[LONG], orientation='h')), dict(margin_l=40), 'cut by'),
    'a text that its plot cuts': (
        go.Figure(go.Scatter(x=[0, 1], y=[0, 1], mode='text', text=[LONG]*2)),
        {}, 'by its plot'),
    'captions on one another': (
        go.Figure(layout_annotations=[
            dict(x=x, y=.5, text='a caption', xref='paper', yref='paper', showarrow=False) for x in (.5, .52)]),
        {}, 'on one another'),
    'a figure that is too wide': (go.Figure(go.Bar(y=[1])), dict(width=900), 'px wide'),
}


@pytest.mark.parametrize('figure, layout, word', CASES.values(), ids=CASES)
def test_a_fault_is_found(board, figure, layout, word):
    figure = apply_style(figure, **dict(width=500, height=300) | layout)
    faults = find_faults(board, figure)
    assert any(word in fault for fault in faults), faults


def test_a_title_under_the_toolbar_is_found(board):
    figure = draw('a title that reaches to the right edge of its figure').update_layout(title_pad_t=5)
    assert any('under the toolbar' in fault for fault in find_faults(board, figure))
    assert find_faults(board, figure.update_layout(title_pad_t=28)) == []


def test_slanted_labels_beside_each_other_do_not_overlap(board):
    names = [f'a name of some length {i}' for i in range(12)]
    figure = apply_style(go.Figure(go.Bar(x=names, y=list(range(12)))), width=700, height=400)
    assert find_faults(board, figure.update_xaxes(tickangle=-45, automargin=True)) == []


def test_all_stored_figures_can_be_read(board):
    found = find_all_faults(board, list_figures())
    told = [f'{page}, cell {cell}, {window} px: {faults[0]}' for (page, cell, window), faults in found.items()]
    assert not told, '\n'.join(told)


def test_fourteen_labels_can_be_read_in_every_chart(board):
    names = [f'Enlarged Cardiomediastinum {i}' for i in range(14)]
    rng = np.random.default_rng(0)
    m, y = rng.normal(size=(14, 14)), rng.integers(0, 2, (40, 14))
    figures = [
        views.show_matrix(m, names, title='fourteen labels'), views.show_label_graph(m, names, 91),
        views.show_matrices({'first': m, 'second': m.T}, names, difference=True, title='fourteen labels'),
        views.roc_curve(rng.random((40, 14)), y, names, title='fourteen labels, a title that is long enough'),
        views.score_bars(rng.random(14), names, y[0], title='fourteen labels'),
        views.label_table(y[:5], None, names, title='fourteen labels')]
    assert [fault for figure in figures for fault in find_faults(board, figure)] == []
