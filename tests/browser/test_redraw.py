"""A picture that was redrawn in place is drawn like a fresh one: nothing of its past stays in the browser."""
from lab import run_all, settled
from test_pages import write

SOURCE = '''import numpy as np, plotly.graph_objects as go
from ipywidgets import VBox
from cxr_workbench.views import explore, show_images, show_matrix, show_overlay
image, names = np.arange(64, dtype=np.uint8).reshape(8, 8)*4, ['a', 'b', 'c']
def draw(n, titled, kind, outline):
    if kind == 'matrix': return show_matrix(np.eye(3)*n, names, title='a title' if titled else None)
    if kind == 'images': return show_images(np.stack([image]*n), titles=['one']*n if titled else None)
    return show_overlay(image, np.eye(2)*n, image > 99 if outline else None, title='a title' if titled else None, limit=4)
paths = [[('n', 2)], [('titled', True), ('titled', False)], [('kind', 'matrix'), ('titled', True)], [('kind', 'overlay'), ('outline', True), ('outline', False)],
         [('kind', 'matrix'), ('kind', 'images')], [('titled', True), ('kind', 'overlay'), ('titled', False), ('n', 3)],
         [('kind', 'matrix'), ('n', 2)], [('titled', True), ('kind', 'matrix'), ('n', 3), ('kind', 'images'), ('n', 1), ('kind', 'matrix')]]
boxes = [explore(draw, n=(1, 4, 1, 4), titled=False, kind=['images', 'matrix', 'overlay'], outline=False) for _ in paths]
VBox(boxes)'''
MOVES = '''for box, path in zip(boxes, paths):
    for name, value in path: box.controls[name].value = value
VBox([go.FigureWidget(draw(**{k: c.value for k, c in box.controls.items()})) for box in boxes])'''


def test_a_redrawn_picture_equals_a_fresh_one(lab, browser):
    page = browser.new_page()
    try:
        page.goto(lab.url(write(lab, 'redraw', SOURCE, 'import time; time.sleep(2)', MOVES)))
        run_all(page, 120)
        plots = page.locator('.js-plotly-plot')
        page.wait_for_function("document.querySelectorAll('.js-plotly-plot:has(.main-svg)').length === 16")
        page.wait_for_timeout(1000)
        drawn = [settled(plots.nth(i)) for i in range(plots.count())]
    finally:
        page.close()
        lab.stop_kernels()
    half = len(drawn)//2
    assert half == 8 and len(set(drawn[half:])) >= 6
    assert [i for i, (old, fresh) in enumerate(zip(drawn, drawn[half:])) if old != fresh] == []
