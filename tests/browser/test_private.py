"No figure offers to send itself away, and nothing that is used here asks another host."
import os, re, subprocess, sys, time, urllib.error, urllib.request
from pathlib import Path
import pytest
from lab import free_port, listen, open_notebook, run_all, uploads
from test_pages import write

ROOT = Path(__file__).resolve().parents[2]

FIGURES = """import numpy as np, pandas as pd, plotly.graph_objects as go
from ipywidgets import VBox
from cxr_workbench import views
image, names, rng = np.arange(256, dtype=np.uint8).reshape(16, 16), ['a', 'b', 'c'], np.random.default_rng(0)
scores, y = rng.random((60, 3)), rng.integers(0, 2, (60, 3))
history = pd.DataFrame({'epoch': [1, 2], 'loss': [2., 1.], 'valid/auroc': [.5, .6]})
report = pd.DataFrame({'auroc': [.6, .7, .8]}, index=names)
probes = {'attention': rng.random((1, 3, 4, 4)), 'correlation': np.eye(3)}
figures = [
    views.show_images(image), views.show_overlay(image, np.eye(4)), views.show_matrix(np.eye(3), names),
    views.label_table(y[:4], None, names), views.training_curves(history), views.score_bars(scores[0], names),
    views.roc_curve(scores, y, names), views.pr_curve(scores, y, names), views.reliability(scores, y),
    views.report_bars(report), views.histogram(scores), views.show_probes(image[None, None], probes, names)]"""
DARK = "figures = [figure.update_layout(template='plotly_dark') for figure in figures]"
STATIC = "for figure in figures: figure.show(renderer='plotly_mimetype')"
WIDGETS = """widgets = [go.FigureWidget(figure) for figure in figures]
for widget in widgets: widget.update(dict(data=figures[2].data, layout=figures[2].layout), overwrite=True)
own = views.explore(lambda n: go.Figure(go.Bar(y=[n, 2])), n=(1, 9, 1))
own.controls['n'].value = 7
VBox([*widgets, own])"""
CASES = {'light': [FIGURES, STATIC, WIDGETS], 'dark': [FIGURES, DARK, STATIC, WIDGETS]}   # of the figures' template


def use_every_button(page, findings):
    "Click all buttons of all toolbars, those that save a file left out."
    plots = page.locator('.js-plotly-plot')
    for plot in range(plots.count()):
        plots.nth(plot).scroll_into_view_if_needed()
        buttons = plots.nth(plot).locator('.modebar-btn')
        if not buttons.count(): findings.append(f'plot {plot} has no toolbar: nothing was looked at')
        for k in range(buttons.count()):
            title = buttons.nth(k).get_attribute('data-title') or ''
            if 'ownload' not in title: buttons.nth(k).evaluate('e => e.click()')


@pytest.mark.parametrize('case', CASES)
def test_no_figure_offers_to_send_itself_away(lab, browser, case):
    page, findings = browser.new_page(), []
    listen(page, lab, findings)
    try:
        open_notebook(page, lab.url(write(lab, f'private_{case}', *CASES[case])))
        run_all(page, 120)
        page.wait_for_function("document.querySelectorAll('.js-plotly-plot:has(.modebar-btn)').length === 25")
        for theme in ('JupyterLab Dark', 'JupyterLab Light'):
            page.evaluate("theme => jupyterapp.commands.execute('apputils:change-theme', {theme})", theme)
            use_every_button(page, findings)
            findings += uploads(page)
    finally:
        page.close()
        lab.stop_kernels()
    assert not findings, findings


def test_the_button_would_be_found(lab, browser):
    "plotly's own figure has it: the search by name is not blind."
    page = browser.new_page()
    try:
        source = 'import plotly.graph_objects as go\ngo.FigureWidget(go.Bar(y=[1, 2]))'
        open_notebook(page, lab.url(write(lab, 'public', source)))
        run_all(page, 120)
        page.wait_for_selector('.js-plotly-plot .modebar-btn', state='attached')
        found = uploads(page)
    finally:
        page.close()
        lab.stop_kernels()
    assert len(found) == 1 and 'Share' in found[0]


def test_a_report_sends_nothing(browser, tmp_path):
    import plotly.graph_objects as go
    from cxr_workbench.reports import write_html
    for theme in ('plotly_white', 'plotly_dark'):
        figures = [go.Figure(go.Bar(y=[n, 2]), dict(template=theme)) for n in (1, 3)]
        write_html(tmp_path/'report.html', *(('heading', 'sentence', figure) for figure in figures))
        page, asked, findings = browser.new_page(), [], []
        page.on('request', lambda request: asked.append(request.url))
        page.goto((tmp_path/'report.html').as_uri())
        page.wait_for_function("document.querySelectorAll('.js-plotly-plot .modebar-btn').length >= 8")
        use_every_button(page, findings)
        findings += uploads(page) + [url for url in asked if not url.startswith(('file:', 'data:', 'blob:'))]
        links = page.eval_on_selector_all('a[href^="http"]', 'links => links.map(link => link.href)')
        page.close()
        assert not findings and not links
        report = (tmp_path/'report.html').read_text(encoding='utf-8')
        without_library = re.sub(r'<script[^>]*>/\*\*.*?</script>', '', report, flags=re.S)
        assert 'cloud.plotly.com' not in without_library


WATCH = """import os, socket
plain = socket.getaddrinfo
def watched(host, *rest, **kw):
    name = host.decode() if isinstance(host, bytes) else str(host)
    if name not in ('127.0.0.1', 'localhost', '::1', '', 'None', socket.gethostname()):
        with open(os.environ['ASKED'], 'a') as file: file.write(name + chr(10))
        raise socket.gaierror(-2, 'refused by the test')
    return plain(host, *rest, **kw)
socket.getaddrinfo = watched"""


def serve(command, folder, token, asked):
    "The process of a JupyterLab whose server writes down every host that it looks up."
    (folder/'watch').mkdir()
    (folder/'watch'/'sitecustomize.py').write_text(WATCH)
    own = {f'JUPYTER_{name}_DIR': str(folder/name.lower()) for name in ('CONFIG', 'RUNTIME', 'DATA')}
    path = os.pathsep.join(filter(None, [str(folder/'watch'), str(ROOT), os.environ.get('PYTHONPATH')]))
    own |= {'JUPYTERLAB_SETTINGS_DIR': str(folder/'settings'), 'JUPYTER_TOKEN': token}
    env = {**os.environ, **own, 'PYTHONPATH': path, 'ASKED': str(asked)}
    return subprocess.Popen(command, cwd=folder, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def ask(port, token, path):
    "The status of an answer of the server, or None where nobody listens yet."
    call = urllib.request.Request(f'http://127.0.0.1:{port}/{path}', headers={'Authorization': f'token {token}'})
    try: return urllib.request.urlopen(call, timeout=30).status
    except urllib.error.HTTPError as error: return error.code
    except OSError: return None


def use_lab(browser, port, token, seconds=60):
    "Open JupyterLab as a user does, and ask its server for what its page asks: an update and news."
    end = time.time() + seconds
    while ask(port, token, 'api/status') != 200 and time.time() < end: time.sleep(.25)
    page = browser.new_page()
    page.goto(f'http://127.0.0.1:{port}/lab?token={token}')
    page.wait_for_selector('#jp-main-dock-panel', timeout=60_000)
    ask(port, token, 'lab/api/update')
    ask(port, token, 'lab/api/news')
    page.close()


def make_lab_flags():
    "The options that `make lab` gives to JupyterLab."
    return re.findall(r'--LabApp\.(?!default_url)\S+', (ROOT/'Makefile').read_text())


PLAIN = [sys.executable, '-m', 'jupyterlab', '--ip=127.0.0.1', '--no-browser', '--allow-root']
COMMAND = [sys.executable, '-c', 'from cxr_workbench.cli import main; main()', 'lab', 'pages', '--no-browser']
STARTS = {
    'cxr-workbench lab': lambda port: [*COMMAND, '--port', str(port)],
    'make lab': lambda port: [*PLAIN, f'--port={port}', *make_lab_flags()]}


@pytest.mark.parametrize('start', STARTS)
def test_the_server_asks_nobody(browser, tmp_path, start):
    port, asked = free_port(), tmp_path/'asked'
    server = serve(STARTS[start](port), tmp_path, 'a-token', asked)
    try: use_lab(browser, port, 'a-token')
    finally:
        server.terminate()
        server.wait(20)
    assert not asked.exists(), asked.read_text()


def test_a_plain_server_would_ask(browser, tmp_path):
    "Without the two options JupyterLab looks for a newer version and for news: the watch is not blind."
    port, asked = free_port(), tmp_path/'asked'
    server = serve([*PLAIN, f'--port={port}'], tmp_path, 'a-token', asked)
    try: use_lab(browser, port, 'a-token')
    finally:
        server.terminate()
        server.wait(20)
    assert {'pypi.org', 'jupyterlab.github.io'} <= set(asked.read_text().split())
