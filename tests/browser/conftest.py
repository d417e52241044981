"""Fixtures of the browser tests; they run only where tests/browser is named."""
import os, sys
from pathlib import Path
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import lab as harness


def pytest_ignore_collect(collection_path, config):
    "Not a part of a plain `pytest`: a browser and a server are asked for by name."
    if not any('browser' in str(argument) for argument in config.invocation_params.args): return True


def pytest_sessionstart(session):
    if not any('browser' in str(argument) for argument in session.config.invocation_params.args): return
    path = harness.chromium()
    if not path or not os.access(path, os.X_OK):
        pytest.exit('The browser tests need Chromium. Install Debian\'s package "chromium" '
                    '(apt-get install chromium) or set BROWSER_PATH.', returncode=3)


@pytest.fixture(scope='session')
def lab(tmp_path_factory):
    server = harness.Lab(tmp_path_factory.mktemp('lab'))
    yield server
    server.close()


@pytest.fixture(scope='session')
def browser():
    from playwright.sync_api import sync_playwright
    with sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=harness.chromium(), args=harness.FLAGS)
        yield chromium.new_context(viewport={'width': 1200, 'height': 1600})   # one cache for all pages
        chromium.close()


@pytest.fixture
def visit(lab, browser, request):
    "Visit a notebook; what was seen is listed at the end of the run."
    def go(notebook, **kw):
        seen = harness.visit(lab, browser, notebook, **kw)
        request.node.user_properties.append(('visit', str(seen)))   # goes with the report, also from another process
        print(seen)
        return seen
    return go


def pytest_terminal_summary(terminalreporter):
    reports = [r for group in terminalreporter.stats.values() for r in group if getattr(r, 'when', '') == 'call']
    lines = sorted({value for r in reports for name, value in r.user_properties if name == 'visit'})
    if lines: terminalreporter.section('notebooks visited')
    for line in lines: terminalreporter.write_line(line)
