"""The workbench in JupyterLab: every panel is drawn, every control answers, a file takes the place of the image."""
import io, time
from pathlib import Path
import numpy as np, pytest
from PIL import Image
from lab import CONTROLS, find_moves, listen, open_notebook, run_all
from test_pages import write

SOURCE = 'from cxr_workbench.workbench import open_workbench\nbench = open_workbench()\nbench'
SHOTS = Path(__file__).parent/'shots'
PANELS = 'scores', 'where it looks', 'attack', 'thresholds', 'relations', 'similar images', 'severity', 'probes'


def error_of(panel): return ' '.join(panel.locator('> .widget-html').all_inner_texts()).strip()


DRAWN = """panel => [...panel.querySelectorAll('.js-plotly-plot')].filter(plot => plot._fullLayout).map(plot => {
    const names = [plot._fullLayout._uid, ...plot._fullData.map(trace => trace.uid)].filter(Boolean);
    let drawn = [...plot.querySelectorAll('svg.main-svg')].map(part => part.outerHTML).join('');
    for (const name of new Set(names)) drawn = drawn.replaceAll(name, '');
    return drawn.replace(/(id|clip-path|class|mask)="[^"]*"/g, '');
})"""


def change(panel, move, seconds=20):
    "Seconds from a move to another picture; None where the pictures stay."
    before, start = panel.evaluate(DRAWN), time.time()
    move()
    while time.time() - start < seconds:
        if panel.evaluate(DRAWN) != before: return time.time() - start
        time.sleep(.05)


@pytest.fixture(scope='module')
def bench(lab, browser):
    page = browser.new_page()
    open_notebook(page, lab.url(write(lab, 'bench', SOURCE)))
    run_all(page, 300)
    page.wait_for_selector('.cxr-workbench .js-plotly-plot .main-svg', timeout=60_000)
    yield page
    page.close()
    lab.stop_kernels()


def turn(page, name):
    "Show a panel; returns when a picture of it stands."
    page.locator('.cxr-workbench .lm-TabBar-tab', has_text=name).first.click()
    panel = page.locator('.cxr-panel').nth(PANELS.index(name))
    panel.locator('.js-plotly-plot .main-svg').first.wait_for(timeout=60_000)
    while change(panel, lambda: None, 1): pass   # until it stands
    return panel


@pytest.mark.parametrize('name', PANELS)
def test_every_panel_is_drawn_and_its_controls_answer(bench, name):
    panel, deaf = turn(bench, name), []
    assert not error_of(panel)
    SHOTS.mkdir(exist_ok=True)
    bench.locator('.cxr-workbench').screenshot(path=SHOTS/f'bench_{name.replace(" ", "_")}.png')
    controls = panel.locator(CONTROLS)
    for k in range(controls.count()):
        label, took = controls.nth(k).inner_text(), None
        if label.startswith(('similar', 'difference')):   # of tables; the control before them is of lines
            panel.locator('select').nth(1).select_option('tables')
            bench.wait_for_timeout(800)
        menu = controls.nth(k).locator('select')
        if menu.count() and menu.is_disabled():           # of two labels, which have to be chosen before
            for place in (2, 3): panel.locator('select').nth(place).select_option(index=place)
            bench.wait_for_timeout(2000)
        for move, _ in find_moves(controls.nth(k)):
            took = change(panel, move, 10)
            if took: break
        print(f'{name}, {label.splitlines()[:1]}: {took}')
        if took is None: deaf.append(label)
    assert not deaf and not error_of(panel)


def test_another_image_and_a_file_change_the_pictures(bench):
    panel = turn(bench, 'scores')
    row = bench.locator('.cxr-workbench input[type=number]').first
    assert change(panel, lambda: (row.fill('7'), row.press('Enter')))
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (80, 80))
    Image.fromarray(noise.astype(np.uint8)).save(buffer, 'png')
    files = dict(name='mine.png', mimeType='image/png', buffer=buffer.getvalue())
    with bench.expect_file_chooser() as chooser: bench.get_by_role('button', name='an image file').click()
    assert change(panel, lambda: chooser.value.set_files(files))
    assert 'mine.png is a file' in bench.locator('.cxr-workbench').inner_text()


LIVE = '''from cxr_workbench.data import from_phantom, patient_split
from cxr_workbench.live import LiveWidget
from cxr_workbench.phantom import SyntheticCXR
data = from_phantom(SyntheticCXR(480, size=32, seed=4))
live = LiveWidget(*[data.subset(rows) for rows in patient_split(data.patient_id, data.y, fraction=.3, seed=0)])
live.controls['epochs'].value = 200
live.widget'''


def test_a_run_trains_in_view_stops_and_goes_on(lab, browser):
    page = browser.new_page()
    try:
        open_notebook(page, lab.url(write(lab, 'live', LIVE)))
        run_all(page, 300)
        panel = page.locator('.cxr-live')
        panel.wait_for(timeout=60_000)
        page.wait_for_timeout(1000)
        assert change(panel, lambda: panel.get_by_role('button', name='start').click(), 60)
        scored = "document.querySelector('.cxr-live').innerText.includes('held-out AUROC')"
        page.wait_for_function(scored, timeout=60_000)
        assert change(panel, lambda: None, 30)   # it moves by itself
        panel.get_by_role('button', name='stop').click()
        more = panel.get_by_role('button', name='go on')
        page.wait_for_function("[...document.querySelectorAll('.cxr-live button')].at(-1).disabled === false",
                               timeout=60_000)
        while change(panel, lambda: None, 1): pass
        panel.screenshot(path=SHOTS/'live.png')
        assert change(panel, more.click, 60)     # and goes on
        panel.get_by_role('button', name='stop').click()
    finally:
        page.close()
        lab.stop_kernels()


RESTART = """async () => {
    const session = jupyterapp.shell.currentWidget.context.sessionContext;
    const before = session.session.kernel.id;
    await session.restartKernel();
    await session.session.kernel.info;
    return before;
}"""


def test_a_bench_comes_back_after_its_kernel_was_restarted(lab, browser):
    "The pictures of before stay, what is grey says so, and the same cells give a bench that answers; no page reload."
    page, findings = browser.new_page(), []
    listen(page, lab, findings)
    try:
        open_notebook(page, lab.url(write(lab, 'restart', SOURCE)))
        run_all(page, 300)
        page.wait_for_selector('.cxr-workbench .js-plotly-plot .main-svg', timeout=60_000)
        row = page.locator('.cxr-workbench > .widget-box:first-child input[type=number]')
        row.fill('5')
        row.press('Enter')
        said = "word => document.querySelector('.cxr-workbench > .widget-html').innerText.includes(word)"
        page.wait_for_function(said, arg='image 5 of', timeout=60_000)
        page.evaluate(RESTART)
        start = time.time()
        run_all(page, 300)
        page.wait_for_function(said, arg='image 1 of', timeout=60_000)   # a new bench, not the one of before
        assert page.locator('.cxr-workbench').count() == 1
        panel = page.locator('.cxr-panel').first
        panel.locator('.js-plotly-plot .main-svg').first.wait_for(timeout=60_000)
        row.fill('7')
        row.press('Enter')
        page.wait_for_function(said, arg='image 7 of', timeout=60_000)
        print(f'a restarted bench answers after {time.time() - start:.1f} s')
        assert turn(page, 'attack').locator('.js-plotly-plot .main-svg').count()
        wrong = [finding for finding in findings if 'Canceled future' not in finding]
        assert not wrong, wrong
    finally:
        page.close()
        lab.stop_kernels()
