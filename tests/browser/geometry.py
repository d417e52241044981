"""Is every word of a figure there to be read? Measured by the boxes of its texts in a browser, without Jupyter.

    python tests/browser/geometry.py             # every figure that the executed pages hold
    python tests/browser/geometry.py 60_trcgl    # those of one page
"""
import contextlib, json, sys
from pathlib import Path
from typing import NamedTuple

import lab as harness

MIME = 'application/vnd.plotly.v1+json'
ROOM = {1200: 768, 1440: 955}    # width of a window -> width of an output in JupyterLab, its list of files open, pixels
SLACK = 1.5                      # pixels by which boxes may reach over an edge: rounding, not reading
SHORE = 3                        # pixels by which boxes of two texts may overlap: the room above and below letters


class Stored(NamedTuple):
    page: str      # name of the notebook
    cell: str      # id of the cell
    figure: dict   # data and layout


def list_figures(folder=harness.repo/'nbs', words=()):
    "The figures in the outputs of the notebooks of a folder, of those whose names hold one of the words."
    for path in sorted(Path(folder).rglob('*.ipynb')):
        if words and not any(word in path.stem for word in words): continue
        for cell in json.loads(path.read_text())['cells']:
            for output in cell.get('outputs', []):
                figure = output.get('data', {}).get(MIME)
                if figure: yield Stored(path.stem, cell['id'], figure)


# Texts as oriented boxes: a slanted tick label covers a strip and not the rectangle around it. A text that is clipped
# by its plot is compared with that, every other one with the whole figure. The toolbar is shown while a pointer is over
# a figure; it must not lie on the title.
MEASURE = '''async ([figure, room, slack, shore]) => {
    const board = document.getElementById('board');
    board.replaceChildren();
    board.style.width = room + 'px';
    const plot = board.appendChild(document.createElement('div'));
    const config = {displaylogo: false, displayModeBar: true};
    await Plotly.newPlot(plot, figure.data, figure.layout, config);
    const whole = plot.querySelector('.svg-container').getBoundingClientRect();
    const corners = text => {
        const box = text.getBBox(), matrix = text.getScreenCTM();
        const at = (x, y) => [matrix.a*x + matrix.c*y + matrix.e, matrix.b*x + matrix.d*y + matrix.f];
        const right = box.x + box.width, bottom = box.y + box.height;
        return [at(box.x, box.y), at(right, box.y), at(right, bottom), at(box.x, bottom)];
    };
    const span = (points, [dx, dy]) => {
        const along = points.map(([x, y]) => x*dx + y*dy);
        return [Math.min(...along), Math.max(...along)];
    };
    const sides = points => [0, 1].map(i => {
        const [a, b] = [points[i], points[i + 1]], length = Math.hypot(b[0] - a[0], b[1] - a[1]) || 1;
        return [(b[0] - a[0])/length, (b[1] - a[1])/length];
    });
    const shared = (a, b) => Math.min(...[...sides(a), ...sides(b)].map(side => {
        const [p, q] = [span(a, side), span(b, side)];
        return Math.min(p[1], q[1]) - Math.max(p[0], q[0]);
    }));
    const outside = (points, box) => {
        const [left, right] = span(points, [1, 0]), [top, bottom] = span(points, [0, 1]);
        return Math.max(box.left - left, right - box.right, box.top - top, bottom - box.bottom);
    };
    const visible = text => {
        for (let node = text; node && node !== plot; node = node.parentNode) {
            const style = getComputedStyle(node);
            if (style.display === 'none' || style.visibility === 'hidden' || style.opacity === '0') return false;
        }
        return text.textContent.trim() && text.getBBox().width > 0;
    };
    const clip = text => {   // the rectangle that a text is cut by, on the screen
        for (let node = text; node && node !== plot; node = node.parentNode) {
            const path = node.getAttribute && node.getAttribute('clip-path');
            if (!path) continue;
            const shape = document.getElementById(path.split('#')[1].split(/['")]/)[0]).querySelector('rect, path');
            const box = shape.getBBox(), matrix = node.getScreenCTM();
            const left = matrix.a*box.x + matrix.e, top = matrix.d*box.y + matrix.f;
            return {left, top, right: left + matrix.a*box.width, bottom: top + matrix.d*box.height};
        }
        return null;
    };
    const texts = [...plot.querySelectorAll('svg.main-svg text')].filter(visible);
    const said = text => text.textContent.trim().slice(0, 60);
    const boxes = texts.map(corners), findings = [];
    texts.forEach((text, i) => {
        const far = outside(boxes[i], whole);
        if (far > slack) findings.push(`cut by ${far.toFixed(0)} px: ${said(text)}`);
        const edge = clip(text);
        const over = edge ? outside(boxes[i], edge) : 0;
        if (over > slack) findings.push(`cut by ${over.toFixed(0)} px by its plot: ${said(text)}`);
    });
    for (let i = 0; i < texts.length; i++) for (let j = i + 1; j < texts.length; j++) {
        const deep = shared(boxes[i], boxes[j]);
        if (deep > shore) findings.push(`${deep.toFixed(0)} px on one another: ${said(texts[i])} | ${said(texts[j])}`);
    }
    const bar = plot.querySelector('.modebar')?.getBoundingClientRect();
    if (bar) {
        const rectangle = [[bar.left, bar.top], [bar.right, bar.top], [bar.right, bar.bottom], [bar.left, bar.bottom]];
        texts.forEach((text, i) => {
            if (text.matches('.gtitle, .gtitle *') && shared(rectangle, boxes[i]) > 0)
                findings.push(`under the toolbar: ${said(text)}`);
        });
    }
    if (whole.width > room + slack) findings.push(`${whole.width.toFixed(0)} px wide where there are ${room}`);
    Plotly.purge(plot);
    return findings;
}'''


@contextlib.contextmanager
def open_board(browser):
    "A page of its own with plotly.js, as the installed package has it, and a place to draw on."
    from plotly.offline import get_plotlyjs
    page = browser.new_page()
    page.set_content('<body style="margin:0"><div id="board"></div></body>')
    page.add_script_tag(content=get_plotlyjs())
    try: yield page
    finally: page.close()


def find_faults(page, figure, window=1200):
    "What of a figure cannot be read in a window of this width; a figure of plotly or its JSON as a dict."
    if hasattr(figure, 'to_json'): figure = json.loads(figure.to_json())
    drawn = {'data': figure['data'], 'layout': figure['layout']}
    return page.evaluate(MEASURE, [drawn, ROOM[window], SLACK, SHORE])


def find_all_faults(page, figures):
    "Faults of many figures by name and window; one that has a width of its own is drawn once."
    found = {}
    for page_name, cell, figure in figures:
        windows = list(ROOM)[:1] if figure['layout'].get('width') else list(ROOM)
        for window in windows:
            faults = find_faults(page, figure, window)
            if faults: found[page_name, cell, window] = faults
    return found


def main(words):
    "Print what cannot be read, page by page; the number of figures with a fault is the exit status."
    from playwright.sync_api import sync_playwright
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=harness.chromium(), args=harness.FLAGS)
        with open_board(browser) as page: found = find_all_faults(page, list_figures(words=words))
    for (name, cell, window), faults in found.items():
        print(f'{name}, cell {cell}, {window} px:', *faults, sep='\n    ')
    return len(found)


if __name__ == '__main__': sys.exit(main(sys.argv[1:]))
