"""From a fresh clone to the first moved slider: seconds by phase, and clicks, as a newcomer goes.

    python scripts/first_slider.py                               # `make lab` as it is: minutes, for it installs
    python scripts/first_slider.py --venv .venv                  # with an installation that is there
    python scripts/first_slider.py --venv .venv --link 'the first half hour'   # on the page behind a link of the first

It clones the last commit of this folder, runs `make lab`, opens the address that JupyterLab prints in a headless
Chromium, clicks what has to be clicked, drags the first slider, and waits for another picture. Needs Playwright's
Python client and a Chromium (BROWSER_PATH, or installed).
"""
import argparse, os, re, signal, subprocess, sys, tempfile, time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT/'tests'/'browser'))
MINUTES = 3                                 # the most that one phase may take, the installation left out
NEWS = '.Toastify__toast button'            # a question that JupyterLab may ask on its own
PANEL = '.jp-NotebookPanel:not(.lm-mod-hidden)'   # the notebook in view
HEADING = f'{PANEL} .jp-RenderedHTMLCommon h1'
STAR = "prompt => prompt.textContent.includes('*')"   # a cell that runs, or waits for its turn


class Walk:
    "Seconds by phase and clicks, counted in one go."
    def __init__(self): self.phases, self.clicks, self.last = {}, [], time.perf_counter()

    def finish(self, phase):   # what was done since the phase before
        now = time.perf_counter()
        self.phases[phase], self.last = now - self.last, now

    def click(self, place, what):
        place.click()
        self.clicks.append(what)

    def tell(self)->str:
        lines = [f'{phase:42s} {seconds:7.1f} s' for phase, seconds in self.phases.items()]
        total = f'{"together":42s} {sum(self.phases.values()):7.1f} s'
        return '\n'.join([*lines, total, f'{len(self.clicks)} clicks: {"; ".join(self.clicks)}'])


def start_lab(folder, port, venv=None):
    "The process of `make lab` in a clone, and its log; with a folder of an installation nothing is installed."
    command = ['make', 'lab', f'ARGS=--no-browser --ServerApp.port={port} --ServerApp.port_retries=0']
    environment = {**os.environ, 'JUPYTERLAB_SETTINGS_DIR': str(folder.parent/'settings')}
    environment |= {'JUPYTERLAB_WORKSPACES_DIR': str(folder.parent/'workspaces')}   # of a user who was never here
    environment.pop('PYTHONPATH', None)
    if venv is not None:
        command[1:1] = ['-o', 'pages-ready', f'BIN={Path(venv).resolve()/"bin"}']
        environment['PYTHONPATH'] = str(folder)   # the clone, not the package that was installed
    log = folder.parent/'lab.log'
    with open(log, 'w') as file:
        how = dict(cwd=folder, env=environment, stdout=file, stderr=file, start_new_session=True)
        return subprocess.Popen(command, **how), log


def find_address(server, log):
    "The address that JupyterLab prints, with its token; RuntimeError where it prints none."
    end = time.time() + 60*MINUTES
    while time.time() < end and server.poll() is None:
        found = re.search(r'http://127\.0\.0\.1\S+token=\S+', log.read_text())
        if found: return found.group()
        time.sleep(.1)
    raise RuntimeError(f'make lab gave no address: {log.read_text()[-2000:]}')


def scroll_to(page, place):
    "What a locator finds first, by the wheel: cells out of sight are not in the page."
    box, end = page.locator(f'{PANEL} .jp-WindowedPanel-outer').first.bounding_box(), time.time() + 60*MINUTES
    page.mouse.move(box['x'] + box['width']/2, box['y'] + box['height']/2)
    while not place.count():
        if time.time() > end: raise RuntimeError(f'nothing on the page is {place}')
        page.mouse.wheel(0, 500)
        page.wait_for_timeout(300)
    place.first.scroll_into_view_if_needed()
    return place.first


def run_cells(page, walk):
    "Click into the first grey box, then on the triangle until the cell that makes the sliders has run."
    walk.click(page.locator(f'{PANEL} .jp-CodeCell .cm-content').first, 'the first grey box')
    triangle = page.locator(f'{PANEL} [data-command="notebook:run-cell-and-select-next"]').first
    makes_sliders = False
    while not makes_sliders:
        makes_sliders = 'explore(' in page.locator(f'{PANEL} .jp-Notebook-cell.jp-mod-active').inner_text()
        walk.click(triangle, '▶')
        page.wait_for_timeout(100)
        page.wait_for_function(f"![...document.querySelectorAll('{PANEL} .jp-InputPrompt')].some({STAR})")
    walk.finish('the cells have run')


def find_slider(page):
    "The first slider, scrolled to and ready to be used."
    slider = page.locator(f'{PANEL} .cxr-explorer .noUi-target:not([disabled]) .noUi-handle').first
    slider.wait_for(state='attached')
    slider.scroll_into_view_if_needed()
    return slider


def drag(page, walk):
    "The first slider, by the mouse to the left; returns once the picture differs."
    from lab import digest, settled
    handle = find_slider(page)
    plot = page.locator(f'{PANEL} .cxr-explorer').first.locator('.js-plotly-plot').first
    before, place = settled(plot), handle.bounding_box()
    x, y = place['x'] + place['width']/2, place['y'] + place['height']/2
    walk.finish('the slider can be moved')
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x - 60, y, steps=6)
    page.mouse.up()
    walk.clicks.append('the slider, dragged')
    end = time.time() + 60*MINUTES
    while digest(plot) == before:
        if time.time() > end: raise RuntimeError('the slider was moved and the picture stayed')
        time.sleep(.02)
    walk.finish('the picture has changed')


def visit(address, walk, link=None, shots=None):
    "Open the address, follow a link, run the page, move its first slider."
    from lab import FLAGS, chromium
    from playwright.sync_api import sync_playwright
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium(), args=FLAGS)
        page = browser.new_page(viewport=dict(width=1440, height=900))
        page.set_default_timeout(60_000*MINUTES)
        page.goto(address)
        page.locator(HEADING).first.wait_for()
        walk.finish('the first page can be read')
        if page.locator(NEWS).count(): walk.click(page.locator(NEWS).last, 'an unasked question, closed')
        if link is not None:
            first = page.locator(HEADING).first.inner_text()
            walk.click(scroll_to(page, page.locator(f'{PANEL} a', has_text=link)), link)
            page.wait_for_function(f"first => document.querySelector('{HEADING}')?.innerText !== first", arg=first)
            page.locator(HEADING).first.wait_for()
            walk.finish('the page behind the link can be read')
        if shots: page.screenshot(path=Path(shots)/'first_page.png')
        run_cells(page, walk)
        drag(page, walk)
        if shots: page.screenshot(path=Path(shots)/'first_slider.png')
        browser.close()


def measure(folder, venv=None, link=None, shots=None)->Walk:
    "All of it in an empty folder."
    from lab import free_port
    walk, clone = Walk(), Path(folder)/'cxr-workbench'
    subprocess.run(['git', 'clone', '--quiet', str(ROOT), str(clone)], check=True)
    walk.finish('git clone')
    if venv is None:
        subprocess.run(['make', 'pages-ready'], cwd=clone, check=True, stdout=subprocess.DEVNULL)
        walk.finish('installation')
    server, log = start_lab(clone, free_port(), venv)
    try:
        address = find_address(server, log)
        walk.finish('JupyterLab prints its address')
        visit(address, walk, link, shots)
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(60)
    return walk


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--venv', help='folder of an installation that is used as it is')
    parser.add_argument('--link', help='words of a link on the first page; without it, its own slider is moved')
    parser.add_argument('--shots', help='folder for pictures of the page')
    given = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *heard: sys.exit('ended from outside'))
    with tempfile.TemporaryDirectory(prefix='cxr_first_') as folder:
        print(measure(folder, given.venv, given.link, given.shots).tell())


if __name__ == '__main__': main()
