"""Pages run in a browser, and every control of them changes its picture.

Pages with controls are visited, and the welcome page; CXR_EVERY_PAGE=1 visits all of them. A page without controls runs
cell by cell in test_notebooks, and its figures are drawn by test_geometry.
"""
import os
from pathlib import Path
import nbformat, pytest
from lab import is_visited, notebooks

SHOTS = None if os.environ.get('CI') else Path(__file__).parent/'shots'   # kept where somebody can look at them
VISITED = [page for page in notebooks() if is_visited(page)]


@pytest.mark.parametrize('notebook', VISITED)
def test_page(visit, notebook):
    seen = visit(notebook, shots=SHOTS)
    assert not seen.findings, '\n'.join(seen.findings)


EXPLORER = '''import plotly.graph_objects as go
from cxr_workbench.views import explore
def draw(n=2, name='a', tick=False):
    {body}
    return go.Figure(go.Bar(y=[n, 3, 7], name=name, marker_color='red' if tick else 'blue'), dict(title_text=name))
explore(draw, n=(1, 5, 1), name=['a', 'b'], tick=False)'''


NOISY = '''from IPython.display import Javascript, display
display(Javascript("""
    console.error('logged on purpose');
    setTimeout(() => { throw new Error('thrown on purpose') }, 0);
"""))'''


def write(lab, name, *sources):
    "A page for the tests of the harness itself."
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in (*sources, '1 + 1')])
    nb.metadata['kernelspec'] = {'display_name': 'python3', 'language': 'python', 'name': 'python3'}
    nbformat.write(nb, lab.root/f'_{name}.ipynb')
    return f'_{name}.ipynb'


def test_a_healthy_page_has_no_finding(visit, lab):
    seen = visit(write(lab, 'healthy', EXPLORER.format(body='pass')))
    assert (seen.findings, seen.explorers, seen.controls) == ([], 1, 3)


def test_a_control_that_is_ignored_is_found(visit, lab):
    seen = visit(write(lab, 'deaf', EXPLORER.format(body='n = 2')))
    assert len(seen.findings) == 1 and "'n'" in seen.findings[0] and 'did not change' in seen.findings[0]


def test_an_error_under_a_control_is_found(visit, lab):
    seen = visit(write(lab, 'fragile', EXPLORER.format(body='if name == "b": raise ValueError("no b")')))
    assert len(seen.findings) == 2
    assert "'name': no b" in seen.findings[0]
    assert 'did not change' in seen.findings[1]


def test_a_cell_that_raises_is_found(visit, lab):
    seen = visit(write(lab, 'raising', 'raise RuntimeError("on purpose")'))
    assert any('on purpose' in finding for finding in seen.findings)


def test_errors_of_the_page_are_found(visit, lab):
    seen = visit(write(lab, 'script', NOISY))
    assert any('logged on purpose' in f for f in seen.findings) and any('thrown on purpose' in f for f in seen.findings)
