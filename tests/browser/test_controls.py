"""Controls wait for the kernel, say that a picture is being made, and follow the theme of JupyterLab."""
import pytest
from lab import open_notebook, run_all
from test_pages import write

SLOW = '''import time, plotly.graph_objects as go
from cxr_workbench.style import apply_style
from cxr_workbench.views import explore
def draw(
    n=2,   # in bars: how tall the first is
):
    time.sleep(.6)
    return apply_style(go.Figure(go.Bar(y=[n, 3, 7], name='bars')), 'a title')
explore(draw, n=(1, 5, 1))'''
BUSY = 'import time; time.sleep(4)'     # the kernel has no time for a key
SLIDER = '.cxr-explorer .widget-hslider'
GROUND = "document.querySelector('.cxr-explorer .main-svg').style.background"


@pytest.fixture(scope='module')
def page(lab, browser):
    page = browser.new_page()
    open_notebook(page, lab.url(write(lab, 'controls', SLOW, BUSY)))
    run_all(page, 120)
    page.wait_for_function("document.querySelectorAll('.cxr-explorer .main-svg').length > 0")
    yield page
    page.close()
    lab.stop_kernels()


def test_controls_are_enabled_once_the_kernel_hears_that_the_picture_stands(page):
    page.wait_for_function("document.querySelector('.cxr-explorer .noUi-target:not([disabled])') !== null")
    said = page.locator(SLIDER).inner_text()
    assert 'n, in bars' in said
    label = page.locator('.cxr-explorer [role=figure]').get_attribute('aria-label')
    assert label == 'a title. 1 set of bars: bars'


def test_a_slow_picture_says_that_it_is_being_made(page):
    sign = page.locator('.cxr-working')
    assert sign.inner_text() == ''
    page.locator(f'{SLIDER} .noUi-handle').press('ArrowRight')
    page.wait_for_function("document.querySelector('.cxr-working').textContent !== ''", timeout=5000)
    page.wait_for_function("document.querySelector('.cxr-working').textContent === ''", timeout=20_000)


def test_inks_follow_the_theme(page):
    for theme, ground in (('JupyterLab Dark', 'rgb(17, 17, 17)'), ('JupyterLab Light', 'rgb(255, 255, 255)')):
        page.evaluate("theme => jupyterapp.commands.execute('apputils:change-theme', {theme})", theme)
        page.wait_for_function(f"{GROUND} === '{ground}'", timeout=20_000)
