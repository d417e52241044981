"The site opened from its files, no host to be reached: figures, equations, search, folded code, both themes."
import os, shutil, sys
from pathlib import Path
import pytest
import lab as harness

ROOT = harness.repo
pytest.importorskip('sphinx')
pytest.importorskip('myst_nb')
sys.path[:0] = [str(ROOT/'docs'), str(ROOT/'scripts')]
import build_docs  # noqa: E402

PAGES = ['05d_attacks', '06e_charts', '30_lcc', '01c_tables', 'tutorials/reproduce_can', 'glossary']
LOCAL = ('file:', 'data:', 'blob:')
SHOTS = Path(__file__).parent/'shots'


@pytest.fixture(scope='module')
def mathjax(tmp_path_factory):
    "The folder of MathJax: the one of the checkout, else by npm; None where neither is there."
    if (build_docs.MATHJAX/build_docs.SCRIPT).is_file(): return build_docs.MATHJAX
    folder = tmp_path_factory.mktemp('mathjax')
    if shutil.which('npm') is None: return None
    try: build_docs.fetch_mathjax(folder)
    except SystemExit: return None
    return folder


@pytest.fixture(scope='module')
def site(tmp_path_factory, mathjax):
    "A part of the site, built here; CXR_SITE=folder: a site that is there already, such as _docs."
    if os.environ.get('CXR_SITE'): return Path(os.environ['CXR_SITE']).resolve()
    folder = tmp_path_factory.mktemp('site')
    faults, _, warnings = build_docs.build(folder/'out', folder/'work', PAGES, mathjax=mathjax or folder)
    assert faults == [] and warnings == 0
    return folder/'out'


@pytest.fixture(scope='module')
def chromium():
    from playwright.sync_api import sync_playwright
    with sync_playwright() as play:
        started = play.chromium.launch(executable_path=harness.chromium(), args=harness.FLAGS)
        yield started
        started.close()


@pytest.fixture
def visit(chromium, site):
    "Open a page of the site; what went wrong is in `page.wrong`."
    contexts = []

    def go(name, width=1200, theme='light', script=True):
        contexts.append(chromium.new_context(
            viewport={'width': width, 'height': 1000}, color_scheme=theme, java_script_enabled=script))
        page = contexts[-1].new_page()
        page.wrong = []
        page.set_default_timeout(120_000)   # machines are shared
        page.on('console', lambda said: page.wrong.append(said.text) if said.type == 'error' else None)
        page.on('pageerror', lambda error: page.wrong.append(str(error)))
        page.on('requestfailed', lambda request: page.wrong.append(request.url))
        page.on('request', lambda asked: None if asked.url.startswith(LOCAL) else page.wrong.append(asked.url))
        path, _, rest = name.partition('?')
        page.goto((site/path).as_uri() + (f'?{rest}' if rest else ''))
        return page

    yield go
    for context in contexts: context.close()


def draw_all(page):
    "Scroll down until every figure is drawn; returns how many there are."
    count = page.locator('.live-figure').count()
    for i in range(count):
        box = page.locator('.live-figure').nth(i)
        box.scroll_into_view_if_needed()
        page.wait_for_function('box => box.dataset.drawn', arg=box.element_handle())
    return count


def width_of(page): return page.evaluate('document.documentElement.scrollWidth')


@pytest.mark.parametrize('width', [1200, 390])
@pytest.mark.parametrize('theme', ['light', 'dark'])
def test_figures_are_drawn_in_both_themes_and_nothing_is_wider_than_the_window(visit, width, theme):
    page = visit('05d_attacks.html', width, theme)
    count = draw_all(page)
    assert count > 3 and page.locator('.live-figure .main-svg').count() >= count
    assert set(page.locator('.live-figure').evaluate_all('boxes => boxes.map(b => b.dataset.drawn)')) == {theme}
    ink = page.locator('.live-figure .xtick text').first.evaluate('text => getComputedStyle(text).fill')
    assert (sum(map(int, ink[4:-1].split(','))) > 380) == (theme == 'dark'), ink
    assert width_of(page) <= width
    SHOTS.mkdir(exist_ok=True)
    page.screenshot(path=str(SHOTS/f'docs-{width}-{theme}.png'), full_page=True)
    assert page.wrong == []


def test_a_change_of_theme_redraws_figures(visit):
    page = visit('06e_charts.html')
    draw_all(page)
    page.evaluate("document.body.dataset.theme = 'dark'")
    page.wait_for_function("document.querySelectorAll('.live-figure[data-drawn=light]').length === 0")
    assert page.wrong == []


@pytest.mark.parametrize('name', ['05d_attacks.html', '30_lcc.html'])
@pytest.mark.parametrize('width', [1200, 390])
def test_equations_are_typeset(visit, mathjax, name, width):
    page = visit(name, width)
    if mathjax is None:
        assert page.locator('.equation-source').count() > 0
        pytest.skip('MathJax is not here and npm cannot get it; equations are shown as their source')
    page.wait_for_function("document.body.dataset.equations === 'done'")
    written = page.locator('.math').count()
    assert written > 3 and page.locator('.math mjx-container svg').count() >= written
    assert page.locator('mjx-merror').count() == 0
    assert width_of(page) <= width and page.wrong == []


def test_the_search_finds_a_term_and_a_function(visit):
    page = visit('search.html?q=nesterov')
    page.wait_for_selector('#search-results ul.search li a')
    found = page.locator('#search-results li a').evaluate_all('links => links.map(a => a.getAttribute("href"))')
    assert any(address.startswith('05d_attacks.html') for address in found), found
    assert 'Small changes that raise a loss fastest' in page.locator('#search-results').inner_text()
    page = visit('search.html?q=gni_fgsm')
    page.wait_for_selector('#search-results ul.search li a[href*="api/cxr_workbench/attacks"]')
    page.locator('#search-results a[href*="api/cxr_workbench/attacks"]').first.click()
    page.wait_for_selector('dt#cxr_workbench\\.attacks\\.gni_fgsm')
    assert page.wrong == []


def test_code_is_shown_on_demand_and_all_of_it_by_one_click(visit):
    page = visit('05d_attacks.html')
    folds = page.locator('details.exported')
    assert folds.count() > 5 and page.locator('details.exported[open]').count() == 0
    page.locator('#gni_fgsm summary').focus()
    page.keyboard.press('Enter')
    assert page.locator('#gni_fgsm pre').is_visible()
    page.locator('button.all-code').click()
    assert page.locator('details.exported[open]').count() == folds.count()
    assert page.locator('button.all-code').inner_text() == 'Fold all code'


def test_a_link_to_a_function_opens_its_code(visit):
    page = visit('api/cxr_workbench/attacks/index.html')
    page.locator('a[href$="05d_attacks.html#feature_attack"]').first.click()
    page.wait_for_selector('#feature_attack[open] pre')
    assert page.wrong == []


def test_figures_and_tables_can_be_read_without_scripts(visit):
    page = visit('05d_attacks.html', script=False)
    picture = page.locator('noscript img').first
    assert picture.get_attribute('alt') and picture.evaluate('i => i.complete') in (True, False)
    assert page.locator('.live-figure').first.get_attribute('aria-label') == picture.get_attribute('alt')


@pytest.mark.parametrize('name', [
    'index.html', '01c_tables.html', 'glossary.html', 'reference.html', 'results/index.html',
    'tutorials/reproduce_can.html', 'api/cxr_workbench/charts/index.html', 'groups/methods.html', 'readme.html'])
def test_pages_fit_a_telephone_and_raise_no_error(visit, name):
    page = visit(name, 390)
    draw_all(page)
    assert width_of(page) <= 390 and page.wrong == []
