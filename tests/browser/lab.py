"""JupyterLab and a Chromium for the browser tests: one server, one browser, one page per notebook."""
import json, os, secrets, shutil, socket, subprocess, sys, time, urllib.error, urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from cxr_workbench.launcher import add_defaults

repo = Path(__file__).resolve().parents[2]
FLAGS = [
    '--no-sandbox', '--disable-gpu', '--disable-background-networking', '--no-first-run', '--disable-dev-shm-usage',
    '--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1',   # no other host has an address
]
SETTINGS = {
    # every cell is in the page, also those out of sight
    '@jupyterlab/notebook-extension/tracker': {'windowingMode': 'none'},
    '@jupyterlab/apputils-extension/notification': {
        'fetchNews': 'false', 'checkForUpdates': False, 'doNotDisturbMode': True},
}
ALLOWED = {  # console errors that say nothing about a page -> why
    'favicon': 'the icon of the tab is not there before the server knows the kernel state',
    'WebGL': 'Chromium runs without a graphics card',
}
SETTLE, CHANGE = .1, 8   # seconds between two looks at a picture; seconds within which it must have changed


def chromium():
    "Path of the browser, or None."
    installed = map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))
    return os.environ.get('BROWSER_PATH') or next(filter(None, installed), None)


def notebooks():
    "Every page of nbs/, relative; names with a leading underscore are not pages."
    found = sorted(p.relative_to(repo/'nbs') for p in (repo/'nbs').rglob('*.ipynb'))
    return [str(p) for p in found if not any(part.startswith(('_', '.')) for part in p.parts)]


def has_controls(notebook):
    "Whether a page makes widgets: sliders, menus, a workbench."
    cells = json.loads((repo/'nbs'/notebook).read_text(encoding='utf-8'))['cells']
    code = ''.join(line for cell in cells if cell['cell_type'] == 'code' for line in cell['source'])
    return any(f'{name}(' in code for name in ('explore', 'open_workbench', 'LiveWidget'))


def is_visited(notebook):
    "Whether the browser runs a page: those with controls, and the welcome page; CXR_EVERY_PAGE=1 is all of them."
    return bool(os.environ.get('CXR_EVERY_PAGE')) or notebook == 'index.ipynb' or has_controls(notebook)


def leave_out(folder, names):
    "What is not copied beside the pages: checkpoints, runs, sockets of kernels."
    def is_socket(path): return not (path.is_file() or path.is_dir())
    return [name for name in names if name in ('.ipynb_checkpoints', 'runs') or is_socket(Path(folder, name))]


def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]


class Lab:
    "A JupyterLab on loopback with a token, on a copy of nbs/, with settings of its own."
    def __init__(self, folder):
        self.folder, self.port, self.token = Path(folder), free_port(), secrets.token_hex(16)
        self.root = self.folder/'nbs'
        shutil.copytree(repo/'nbs', self.root, ignore=leave_out)
        for name, values in SETTINGS.items():
            path = self.folder/'settings'/f'{name}.jupyterlab-settings'
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(values))
        self.log = open(self.folder/'server.log', 'w')
        place = dict(cwd=self.root, env=self.environment(), stdout=self.log, stderr=subprocess.STDOUT)
        self.process = subprocess.Popen(self.command(), **place)
        self.wait()

    def command(self):
        options = {
            'ServerApp.ip': '127.0.0.1', 'ServerApp.port': self.port, 'ServerApp.port_retries': 0,
            'ServerApp.root_dir': self.root, 'ServerApp.allow_root': True, 'ServerApp.open_browser': False,
            'ServerApp.terminals_enabled': False, 'IdentityProvider.token': self.token,
            'LabApp.expose_app_in_browser': True,
            'ServerApp.shutdown_no_activity_timeout': 900}   # nothing stays behind where the tests are killed
        return [sys.executable, '-m', 'jupyterlab', *(f'--{k}={v}' for k, v in options.items())]

    def environment(self):
        folders = {
            'JUPYTERLAB_SETTINGS_DIR': 'settings', 'JUPYTERLAB_WORKSPACES_DIR': 'workspaces',
            'JUPYTER_CONFIG_DIR': 'config', 'JUPYTER_RUNTIME_DIR': 'runtime', 'IPYTHONDIR': 'ipython'}
        own = {name: str(self.folder/folder) for name, folder in folders.items()}
        modules = filter(None, [str(repo), os.environ.get('PYTHONPATH')])
        programs = [str(Path(sys.executable).parent), os.environ['PATH']]
        paths = {'PYTHONPATH': os.pathsep.join(modules), 'PATH': os.pathsep.join(programs)}
        return add_defaults({**os.environ, **own, **paths})

    def request(self, path, method='GET'):
        url, headers = f'http://127.0.0.1:{self.port}/{path}', {'Authorization': f'token {self.token}'}
        call = urllib.request.Request(url, method=method, headers=headers)
        with urllib.request.urlopen(call, timeout=20) as answer: return answer.read()

    def wait(self, seconds=90):
        end = time.time() + seconds
        while time.time() < end:
            if self.process.poll() is not None: break
            try: return self.request('api/status')
            except OSError: time.sleep(.2)
        self.close()
        end = (self.folder/'server.log').read_text()[-2000:]
        raise RuntimeError(f'JupyterLab did not answer within {seconds} s; its log ends with\n{end}')

    def url(self, notebook): return f'http://127.0.0.1:{self.port}/doc/tree/{notebook}?token={self.token}'

    def stop_kernels(self):
        for kernel in json.loads(self.request('api/kernels')): self.request(f"api/kernels/{kernel['id']}", 'DELETE')

    def close(self):
        self.process.terminate()
        try: self.process.wait(20)
        except subprocess.TimeoutExpired: self.process.kill()
        self.log.close()


@dataclass
class Visit:
    "What a look at one notebook found."
    notebook: str
    findings: list = field(default_factory=list)   # what is wrong, one sentence each; empty: the page is well
    explorers: int = 0
    controls: int = 0
    phases: dict = field(default_factory=dict)     # seconds to open, run, move and photograph

    def __str__(self):
        phases = ', '.join(f'{name} {seconds:.0f}' for name, seconds in self.phases.items())
        counts = f'{self.explorers} explorers, {self.controls} controls, {len(self.findings)} findings'
        return f'{self.notebook:24s} {sum(self.phases.values()):4.0f} s ({phases})  {counts}'


def visit(lab, context, notebook, shots=None, timeout=360):
    "Open, run, move every control, look, and shut the kernel down."
    found, page = Visit(notebook), context.new_page()
    listen(page, lab, found.findings)

    def phase(name, act, *arguments):
        start = time.time()
        try: return act(*arguments)
        finally: found.phases[name] = time.time() - start
    try:
        phase('open', open_notebook, page, lab.url(notebook))
        phase('run', run_all, page, timeout)
        found.findings += failed_cells(page)
        phase('move', move_everything, page, found)
        found.findings += uploads(page)
        if shots: phase('shots', photograph, page, Path(shots), notebook)
    except Exception as error:
        found.findings.append(f'the visit ended early: {type(error).__name__}: {str(error)[:600]}')
    finally:
        page.close()
        lab.stop_kernels()
    return found


def listen(page, lab, findings):
    "Errors of the page and of the console, and requests that leave the machine, become findings."
    def console(message):
        is_allowed = any(word in message.text for word in ALLOWED)
        if message.type == 'error' and not is_allowed: findings.append(f'console error: {message.text[:400]}')
    def request(request):
        is_ours = f'//127.0.0.1:{lab.port}/' in request.url
        if request.url.startswith('http') and not is_ours:
            findings.append(f'the page asks the network for {request.url[:200]}')
    page.on('pageerror', lambda error: findings.append(f'page error: {str(error)[:400]}'))
    page.on('console', console)
    page.on('request', request)


UPLOADS = """() => [...document.querySelectorAll('.modebar-btn, .modebar-group a, [class*="plotly-cloud"]')]
    .map(e => [e.dataset.title, e.title, e.ariaLabel, e.dataset.attr, e.className.baseVal ?? e.className])
    .map(names => names.filter(Boolean).join(' '))
    .filter(text => /share|cloud|upload/i.test(text))"""


def uploads(page):
    "Buttons, by what they are called, that offer to send a figure away; one sentence for all of them."
    found = page.evaluate(UPLOADS)
    return [f'{len(found)} buttons offer to send a figure away, the first: {found[0]!r}'] if found else []


def open_notebook(page, url):
    "Returns when the notebook is there; the kernel may still be starting."
    page.goto(url)
    page.wait_for_function('window.jupyterapp?.shell.currentWidget?.context?.isReady', timeout=60_000)


def run_all(page, timeout):
    "Run All Cells; returns when every cell ran and the kernel is idle."
    page.evaluate('''async () => {
        const panel = jupyterapp.shell.currentWidget, session = panel.context.sessionContext;
        const message = 'the kernel was not ready within 90 s: does the notebook name one?';
        const late = new Promise((_, no) => setTimeout(() => no(new Error(message)), 90000));
        await Promise.race([late, Promise.all([panel.revealed, session.ready])]);
        panel.content.activeCellIndex = 0;
        window.cxrRun = {done: false};
        jupyterapp.commands.execute('notebook:run-all-cells').then(
            () => { window.cxrRun.done = true; },
            e => { window.cxrRun = {done: true, error: String(e)}; });
    }''')
    page.wait_for_function('''() => {
        const session = jupyterapp.shell.currentWidget.context.sessionContext.session;
        return window.cxrRun.done && session.kernel.status === 'idle';
    }''', timeout=timeout*1000, polling=200)


def failed_cells(page):
    "Cells that raised and cells that did not run."
    cells = page.evaluate('''() => {
        const errors = c => (c.outputs || [])
            .filter(o => o.output_type === 'error')
            .map(o => o.ename + ': ' + o.evalue);
        return jupyterapp.shell.currentWidget.content.widgets
            .map((w, i) => [i, w.model.toJSON()])
            .filter(([i, c]) => c.cell_type === 'code')
            .map(([i, c]) => [i, String(c.source), c.execution_count, errors(c)]);
    }''')
    raised = [f'cell {i} raised {error[:300]}' for i, source, count, errors in cells for error in errors]
    if raised: return raised
    waiting = [(i, source) for i, source, count, _ in cells if source.strip() and count is None]
    return [f'cell {i} did not run: {source[:60]!r}' for i, source in waiting]


def expected_explorers(page):
    "How many explorers the outputs announce; a widget manager that draws none of them must not pass."
    return page.evaluate('''() => jupyterapp.shell.currentWidget.content.widgets
        .flatMap(w => w.model.toJSON().outputs || [])
        .filter(o => String((o.data || {})['text/plain'] || '').includes('cxr-explorer')).length''')


KINDS = 'slider hslider vslider dropdown checkbox toggle-button radio select text'.split()
CONTROLS = ', '.join(f'.widget-{kind}' for kind in KINDS)
DRAWN = "document.querySelectorAll('.cxr-explorer .js-plotly-plot .main-svg').length >= %d"


def move_everything(page, found):
    "Each control of each explorer is moved once, and its picture must change."
    expected = expected_explorers(page)
    if expected: page.wait_for_function(DRAWN % expected, timeout=30_000)
    boxes = page.locator('.cxr-explorer')
    found.explorers = boxes.count()
    if found.explorers < expected:
        found.findings.append(f'{expected} explorers were made but {found.explorers} are on the page')
    for i in range(found.explorers):
        controls = boxes.nth(i).locator(CONTROLS)
        if not controls.count(): found.findings.append(f'explorer {i} has no control')
        for j in range(controls.count()):
            found.controls += 1
            said = controls.nth(j).inner_text().splitlines() or ['']
            name = f'explorer {i}, control {said[0].strip()!r}'
            found.findings += [f'{name}: {finding}' for finding in move_control(boxes.nth(i), controls.nth(j))]


def move_control(box, control):
    "What is wrong with a control of an explorer, found by moving it until the picture changes."
    plot, findings = box.locator('.js-plotly-plot').first, []
    for move, back in find_moves(control):
        changed = changes(plot, move)
        message = ' '.join(box.locator('.cxr-explorer-error').all_inner_texts()).strip()
        if message: findings.append(message[:300])
        if back: changes(plot, back, CHANGE if changed else 1)   # the next control meets the picture of the page
        if changed: return findings
    return [*findings, 'moving it did not change the picture']


def find_moves(control):
    "Ways to move a control and to take that back, the gentlest first; the next is for a picture that stayed."
    kind = control.get_attribute('class')
    select, tick = control.locator('select'), control.locator('input[type=checkbox]')
    if 'slider' in kind: yield from move_slider(control.locator('.noUi-handle').first)
    elif select.count(): yield from move_menu(select)
    elif tick.count(): yield tick.click, tick.click
    elif 'toggle-button' in kind: yield control.click, control.click
    elif 'radio' in kind: yield control.locator('input:not(:checked)').first.click, None
    elif 'text' in kind:
        field = control.locator('input').first
        yield lambda: (field.fill('1'), field.press('Enter')), None


def move_slider(handle):
    "One step and back, then to either end."
    yield lambda: handle.press('ArrowRight'), lambda: handle.press('ArrowLeft')
    yield lambda: handle.press('End'), None
    yield lambda: handle.press('Home'), None


def move_menu(select):
    "At most four other options, and back to the chosen one."
    chosen, count = select.evaluate('s => [s.selectedIndex, s.options.length]')
    def choose(index): return lambda: select.select_option(index=index)
    others = [index for index in range(count) if index != chosen]
    for index in others[:4]: yield choose(index), choose(chosen)


def digest(plot):
    "What is drawn: the SVG of a plot (images and heat maps are data inside it), without the random names in it."
    return plot.evaluate('''gd => {
        const names = [gd._fullLayout._uid, ...gd._fullData.map(t => t.uid)].filter(Boolean);
        let drawn = [...gd.querySelectorAll('svg.main-svg')].map(s => s.outerHTML).join('');
        for (const name of new Set(names)) drawn = drawn.replaceAll(name, '');
        return drawn.replace(/(id|clip-path|class|mask)="[^"]*"/g, '');
    }''')


def settled(plot, seconds=CHANGE):
    "Digest of a picture that stands still."
    end, before = time.time() + seconds, digest(plot)
    while time.time() < end:
        time.sleep(SETTLE)
        now = digest(plot)
        if now == before: return now
        before = now
    raise RuntimeError('a picture does not come to rest')


def changes(plot, move, seconds=CHANGE):
    "Does the picture differ after the move?"
    before = settled(plot)
    move()
    end = time.time() + seconds
    while time.time() < end:
        if digest(plot) != before: return True
        time.sleep(SETTLE)
    return False


LAST_CELL = '''e => {
    const top = e.getBoundingClientRect().top - e.scrollTop;
    const bottoms = [...e.querySelectorAll('.jp-Cell')].map(cell => cell.getBoundingClientRect().bottom - top);
    return [Math.ceil(Math.max(...bottoms)), e.clientHeight];
}'''


def photograph(page, folder, notebook):
    "The whole notebook, in screens of the height of the window."
    folder.mkdir(parents=True, exist_ok=True)
    stem = notebook.removesuffix('.ipynb').replace('/', '__')
    for old in folder.glob(f'{stem}-[0-9][0-9].png'): old.unlink()
    pane = page.locator('.jp-WindowedPanel-outer').first
    height, view = pane.evaluate(LAST_CELL)   # below it JupyterLab lets a page scroll on, through nothing
    for k in range(-(-height//view)):
        pane.evaluate('(e, y) => { e.scrollTop = y; }', k*view)
        page.wait_for_timeout(150)
        page.screenshot(path=folder/f'{stem}-{k + 1:02d}.png')
