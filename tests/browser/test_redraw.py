"""A picture that was redrawn in its place is drawn like a fresh one: nothing of its past stays in the browser."""
import hashlib, re
from collections import defaultdict
import numpy as np, pytest
from lab import open_notebook, run_all, settled
from test_pages import write

SOURCE = '''import numpy as np, plotly.graph_objects as go
from ipywidgets import VBox
from cxr_workbench.views import explore, show_images, show_matrix, show_overlay
image, names = np.arange(64, dtype=np.uint8).reshape(8, 8)*4, ['a', 'b', 'c']
def draw(n, titled, kind, outline):
    if kind == 'matrix': return show_matrix(np.eye(3)*n, names, title=f'a title {n}' if titled else None)
    titles, title = ([f'one of {n}']*(n//2), 'a title') if titled else (None, None)
    if kind == 'images': return show_images(np.stack([image//n]*(n//2)), titles=titles)
    mask = image > 99 if outline else None
    return show_overlay(image, np.eye(2)*n, mask, boxes=[[n, n, 2, 2]], title=title, limit=5)
overlay, matrix = ('kind', 'overlay'), ('kind', 'matrix')
paths = [
    [('n', 2)], [('n', 5)], [('titled', True), ('titled', False)], [('titled', True), ('n', 5)],
    [matrix, ('titled', True), ('n', 3)], [overlay, ('outline', True), ('outline', False)],
    [overlay, ('n', 2), ('n', 5)], [matrix, ('kind', 'images')],
    [('titled', True), overlay, ('titled', False), ('n', 3)], [matrix, ('n', 2)]]
controls = dict(n=(2, 6, 1, 4), titled=False, kind=['images', 'matrix', 'overlay'], outline=False)
boxes = [explore(draw, **controls) for _ in paths]
def move(k):
    for box, path in zip(boxes, paths):
        for name, value in path[k:k + 1]: box.controls[name].value = value
fresh = VBox()
def redraw(box):
    values = {name: control.value for name, control in box.controls.items()}
    return explore(lambda _: draw(**values), _=[0])
def compare(): fresh.children = [redraw(box) for box in boxes]
VBox([*boxes, fresh])'''


NUMBER = re.compile(r'(?<![\w#])-?\d+(?:\.\d+)?(?:e-?\d+)?')


def marks(drawn):
    "What can be seen of a plot: shapes, images, texts by their form, with their numbers; no clip paths, empty groups."
    seen = defaultdict(list)
    unclipped = re.sub(r'<clipPath.*?</clipPath>', '', drawn)
    for mark in re.findall(r'<(?:path|rect|image|text|use)\b[^>]*>[^<]*', unclipped):
        tag, text = mark.rsplit('>', 1)
        form = NUMBER.sub('#', re.sub(r'base64,[^"]*', '', tag))
        pictures = [hashlib.sha1(data.encode()).hexdigest() for data in re.findall(r'base64,[^"]*', tag)]
        seen[form, text, *pictures].append([float(n) for n in NUMBER.findall(re.sub(r'base64,[^"]*', '', tag))])
    return {form: sorted(numbers) for form, numbers in seen.items()}


def difference(stood, fresh, pixels=1.5):
    "Marks that are in one plot only, or lie apart; plotly settles its margins to the pixel."
    def is_equal(a, b): return np.shape(a) == np.shape(b) and np.allclose(a, b, atol=pixels)
    apart = [form for form in stood.keys() & fresh.keys() if not is_equal(stood[form], fresh[form])]
    return [*(stood.keys() ^ fresh.keys()), *apart]


def execute(page, code):
    "Run code in the kernel, as a moved control would."
    page.evaluate('''async code => {
        const session = jupyterapp.shell.currentWidget.context.sessionContext.session;
        await session.kernel.requestExecute({code}).done;
    }''', code)


@pytest.mark.parametrize('pause', [0, 700], ids=['in a burst', 'one by one'])
def test_a_redrawn_picture_equals_a_fresh_one(lab, browser, pause):
    page = browser.new_page()
    try:
        open_notebook(page, lab.url(write(lab, 'redraw', SOURCE)))
        run_all(page, 120)
        plots = page.locator('.js-plotly-plot')
        drawn = "document.querySelectorAll('.js-plotly-plot:has(.main-svg)').length === %d"
        page.wait_for_function(drawn % 10)
        for k in range(4):
            execute(page, f'move({k})')
            page.wait_for_timeout(pause)
        execute(page, 'compare()')
        page.wait_for_function(drawn % 20)
        page.wait_for_timeout(700)
        pictures = [marks(settled(plots.nth(i))) for i in range(20)]
    finally:
        page.close()
        lab.stop_kernels()
    stood, fresh = pictures[:10], pictures[10:]
    assert len(set(map(str, fresh))) >= 7
    stale = {i: d for i, (a, b) in enumerate(zip(stood, fresh)) if (d := difference(a, b))}
    assert not stale, stale
