"The site: notebooks as pages, the reference from comments, results drawn, links followed, nothing from outside."
import json, re, sys
from pathlib import Path
from types import SimpleNamespace
import pytest

ROOT = Path(__file__).resolve().parent.parent
pytest.importorskip('sphinx')
pytest.importorskip('myst_nb')
sys.path[:0] = [str(ROOT/'docs'), str(ROOT/'scripts')]
import build_docs  # noqa: E402
from builder import links, navigation, pages, reference, results  # noqa: E402

DOT = 'iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=='
FIGURE = {'data': [{'type': 'bar', 'y': [1]}], 'layout': {'title': {'text': 'a </script> title'}, 'height': 210}}


def code(source, outputs=()): return dict(cell_type='code', source=source, outputs=list(outputs), metadata={})


def words(source): return dict(cell_type='markdown', source=source, metadata={})


def figure_output(**metadata):
    data = {pages.FIGURE: FIGURE, pages.PICTURE: DOT}
    return dict(output_type='display_data', data=data, metadata=metadata)


@pytest.fixture
def place(tmp_path):
    return pages.Place('deep/a', tmp_path/'_figures', {'deep/a', 'b'}, {'parts': ['double']})


# ---- a notebook becomes a page ----

def test_a_figure_is_live_and_its_picture_is_for_readers_without_scripts(place):
    shown = pages.read_output(figure_output(), place)['data']['text/html']
    stored = re.search(r'<script type="application/json">(.*?)</script>', shown)[1]
    assert json.loads(stored) == FIGURE
    assert re.search(r'aria-label="a +title. 1 set of bars"', shown)
    picture = re.search(r'<noscript><img src="([^"]+)" alt="([^"]+)"', shown)
    assert (place.pictures.parent/'deep'/picture[1]).resolve().is_file()
    assert 'title' in picture[2] and 'height:210px' in shown


def test_the_words_that_were_stored_beside_a_picture_are_its_words(place):
    shown = pages.read_output(figure_output(**{pages.PICTURE: {'alt': 'said "so"'}}), place)['data']['text/html']
    assert shown.count('"said &quot;so&quot;"') == 2


def test_other_outputs_stay_as_they_are(place):
    text = dict(output_type='stream', name='stdout', text='1\n')
    assert pages.read_output(text, place) is text


def test_exported_code_is_folded_below_its_signature(place):
    source = '#| export\ndef double(\n    x,     # a number\n    y=1,\n)->int:\n    "Twice `x`."\n    return 2*x'
    folded, = pages.read_cell(code(source), 'parts', place)
    text = folded['source']
    assert text.startswith('<details class="exported" id="double">')
    assert '<summary><code>double(x, y=1)</code><span class="says">Twice <code>x</code>.</span>' in text
    assert '#|' not in text and '    x,     # a number' in text
    assert 'href="../api/cxr_workbench/parts/index.html#cxr_workbench.parts.double"' in text


@pytest.mark.parametrize('source, head', [
    ('import os\nfrom a import b', 'imports'), ('A = 1\nB = 2', 'A, B'), ('class C(D):\n    x: int', 'class C(D)'),
    ('a, b = 1, 2', 'a, b'), ('C = 1\ndef f(x): return x', 'f(x)'), ('!ls', 'code'),
    ("_all_ = ['x']", 'names of other modules that are handed on'),
])
def test_a_folded_cell_is_called_by_what_it_defines(source, head): assert pages.title_code(source)[0] == head


def test_cells_without_code_go_and_controls_are_named(place):
    assert pages.read_cell(code('#| default_exp parts'), 'parts', place) == []
    shown, note = pages.read_cell(code('views.explore(f, x=(0, 1))'), 'parts', place)
    assert shown['cell_type'] == 'code' and 'deep/a.ipynb' in note['source']
    assert len(pages.read_cell(code('explore(f)', [figure_output()]), 'parts', place)) == 1


@pytest.mark.parametrize('text, kept', [
    ('[b](../b.ipynb)', '[b](../b.ipynb)'), ('[a](a.ipynb#why)', '[a](a.ipynb#why)'), ('[c](../c.ipynb)', 'c'),
    ('[d](https://e.org/f.ipynb)', '[d](https://e.org/f.ipynb)'),
    ('<a href="../b.ipynb#x">b</a>', '<a href="../b.html#x">b</a>'), ('<a href="../c.ipynb">c</a>', 'c'),
])
def test_links_lead_to_pages_that_are_built(place, text, kept): assert pages.keep_links(text, place) == kept


def test_the_facts_of_a_page_stand_below_its_subtitle(place):
    nb = dict(cells=[words('# parts: two\n\n> A subtitle.\n\nText.'), code('#| default_exp parts')])
    first = pages.read_page(nb, place)['cells'][0]['source']
    order = [first.index(part) for part in ('# parts', '> A subtitle.', 'nbs/deep/a.ipynb', 'all-code', 'Text.')]
    assert order == sorted(order)


def test_every_public_name_has_an_anchor_on_its_page(tmp_path):
    lost = []
    for name, notebook in build_docs.read_notebooks().items():
        module = pages.find_module(notebook['cells'])
        full = f'cxr_workbench.{module}'
        own = [n for n in reference.list_public(full) if reference.find_origin(full, n) == (full, n)] if module else []
        place = pages.Place(name, tmp_path, {name}, {module: own})
        exported = [c for c in notebook['cells'] if pages.join(c['source']).startswith('#|')]
        parts = [part['source'] for c in exported for part in pages.read_cell(c, module, place)]
        anchors = set(re.findall(r' id="(\w+)"', ''.join(parts)))
        lost += [f'{name}.ipynb: {n}' for n in own if n not in anchors]
    assert lost == []


def test_every_page_is_in_one_group():
    notebooks = build_docs.read_notebooks()
    entries = navigation.list_entries(notebooks)
    grouped = navigation.group_entries(entries)
    listed = [entry.name for groups in grouped.values() for _, mine in groups for entry in mine]
    assert sorted([*listed, 'index']) == sorted(notebooks)
    with pytest.raises(ValueError, match='in no group'):
        navigation.group_entries([navigation.Entry('unheard', '', '')])


# ---- the reference ----

def parameters(full): return {each.names: each[1:] for each in reference.describe(full).parameters}


def test_parameters_carry_the_comments_beside_them():
    found = parameters('cxr_workbench.attacks.attack_objective')
    assert found['target'] == (None, 'labels to turn against, (B, C) in {0, 1}')
    assert found['mask'] == ('None', 'which entries are attacked, (B, C); None: all')
    assert reference.describe('cxr_workbench.attacks.attack_objective').returns.startswith('a function of x')


def test_parameters_of_one_line_share_its_comment():
    found = parameters('cxr_workbench.evidence.judge_interval')
    assert found['low, high'] == (None, 'ends of the interval; infinite where there is none')


def test_on_a_line_alone_the_comment_is_about_what_is_returned():
    found = reference.describe('cxr_workbench.signatures.Source.find')
    assert found.parameters[0][:2] == ('name', None) and found.parameters[0].meaning == ''
    assert found.returns.startswith('the node of a function or class')


def test_errors_are_listed_with_their_messages():
    raised = reference.describe('cxr_workbench.evidence.find_results').raises
    assert [kind for kind, _ in raised] == ['FileNotFoundError'] and 'CXR_RESULTS=folder' in raised[0][1]
    raised = reference.describe('cxr_workbench.evidence.choose_runs').raises
    assert raised == [('ValueError', 'runs have no column {name!r}: there are {list(runs.columns)}'.replace('!r', ''))]


def test_fields_of_a_tuple_are_its_parameters():
    assert list(parameters('cxr_workbench.signatures.Setting')) == ['name', 'default', 'meaning', 'part']


@pytest.mark.parametrize('text, written', [
    ('x_t * y | `eps`', r'x\_t \* y \| ``eps``'), ('`fit` trains', ':py:obj:`fit <a.fit>` trains'),
    ("one ` alone_", r"one ' alone\_"), ('`a`s', r'``a``\ s'), ('', ''),
])
def test_words_of_the_source_are_no_markup(text, written):
    assert reference.to_rst(text, {'fit': 'a.fit'}) == written


def test_names_that_are_handed_on_are_described_where_they_are_defined():
    origin = reference.find_origin('cxr_workbench.views', 'show_differences')
    assert origin == ('cxr_workbench.charts', 'show_differences')
    assert '<cxr_workbench.charts.show_differences>' in reference.write_more('views', {})


# ---- results ----

def test_differences_are_read_as_they_stand():
    text = ('### a title\n\n| variant | runs | ap - AN |\n| --- | --- | --- |\n| AN | 3 |  |\n'
            '| MPC | 3 | +0.036 [+0.032, -.041] |\n')
    block, = results.read_blocks(text)
    assert block.title == 'a title' and block.rows[0] == ['AN', '3', '']
    table = results.read_differences(block)
    assert table.to_dict('records') == [dict(block='AP against AN', measure='ap', variant='MPC', mean=.036,
                                             low=.032, high=-.041)]


def test_differences_are_drawn_where_a_table_has_them():
    name = 'pretrained-ends-real.md'
    block, = results.read_blocks((ROOT/'experiments'/'results'/name).read_text(encoding='utf-8'))
    shown = results.draw_differences(block)
    assert '+0.108 [+0.016, +0.200]' in shown and 'AUROC against baseline' in shown
    assert results.draw_differences(block._replace(rows=block.rows[:1])) == ''


def test_every_table_stands_on_one_page_of_results(monkeypatch):
    experiments, drawn = ROOT/'experiments', []
    monkeypatch.setattr(results, 'draw_differences', lambda block: drawn.append(block) or '')
    written, rows = results.write_results(experiments, drawn=True)
    for path in sorted((experiments/'results').glob('*.md')):
        holding = [name for name, text in written.items() if f'## {results.title_table(path.stem)}\n' in text]
        assert len(holding) == 1, (path.name, holding)
    assert {path.name for path in rows} == {path.name for path in (experiments/'results').glob('*.csv')}
    texts = [path.read_text(encoding='utf-8') for path in (experiments/'results').glob('*.md')]
    assert len(drawn) == sum(text.count('\n### ') + text.startswith('### ') for text in texts)
    assert written['correlations'].count('class="live-figure"') == 2     # agreement, and where it looks
    assert 'What these runs cannot show' in written['index'] and '**Intervals.**' in written['index']


# ---- links ----

def test_wrong_links_and_outside_files_are_found(tmp_path):
    (tmp_path/'b').mkdir()
    (tmp_path/'index.html').write_text(
        '<h1 id="top">a</h1><a href="b/c.html#there">b</a><a href="b/c.html#gone">b</a><a href="lost.html">c</a>'
        '<a href="https://a.org/x">d</a><script src="https://a.org/x.js"></script><img src="data:image/png;base64,A">')
    (tmp_path/'b'/'c.html').write_text('<p id="there"></p><a href="../index.html#top">a</a><a href="../../x">up</a>')
    faults, outside = links.check_site(tmp_path)
    assert [(page, address) for page, address, _ in faults] == [
        ('b/c.html', '../../x'), ('index.html', 'https://a.org/x.js'), ('index.html', 'b/c.html#gone'),
        ('index.html', 'lost.html')]
    assert outside == {'https://a.org/x': ['index.html']}


# ---- three pages, built ----

@pytest.fixture(scope='module')
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp('site')
    nothing = folder/'no_mathjax'
    found = build_docs.build(folder/'out', folder/'work', ['05d_attacks', '06c_widget', 'glossary'], mathjax=nothing)
    return SimpleNamespace(out=folder/'out', faults=found[0], outside=found[1], warnings=found[2])


def read(site, name): return (site.out/name).read_text(encoding='utf-8')


def test_a_part_of_the_site_is_built_without_a_fault(site):
    assert site.faults == [] and site.warnings == 0
    assert (site.out/'outside_links.txt').read_text().split() == sorted(site.outside)


def test_figures_are_live_and_code_is_folded(site):
    page = read(site, '05d_attacks.html')
    notebook = json.loads((ROOT/'nbs'/'05d_attacks.ipynb').read_text())
    figures = sum(pages.FIGURE in o.get('data', {}) for c in notebook['cells'] for o in c.get('outputs', ()))
    assert page.count('class="live-figure"') == figures > 3
    assert page.count('<noscript><img src="_figures/') == figures
    assert 'plotly.min.js' in page and (site.out/'_static'/'plotly.min.js').stat().st_size > 1e6
    assert '<details class="exported" id="gni_fgsm">' in page
    assert not re.search(r'>#\| ?export', page)


def test_nothing_is_loaded_from_another_host(site):
    for name, page in links.read_site(site.out).items():
        assert not [a for a in page.loaded if links.is_outside(a) and not a.startswith('data:')], name
        head = read(site, name).partition('</head>')[0]
        assert 'http://' not in head and 'https://' not in head, name
    styles = [path.read_text(encoding='utf-8') for path in (site.out/'_static').rglob('*.css')]
    assert not any(re.search(r'url\(["\']?(https?:)?//|@import', text) for text in styles)


def test_pages_are_linked_both_ways_with_the_reference(site):
    address = 'api/cxr_workbench/attacks/index.html#cxr_workbench.attacks.gni_fgsm'
    assert f'href="{address}"' in read(site, '05d_attacks.html')
    listed = read(site, 'api/cxr_workbench/attacks/index.html')
    assert 'href="../../../05d_attacks.html#gni_fgsm"' in listed
    assert 'budget in the units of x' in listed and 'cxr_workbench.attacks.LInf' not in listed


def test_without_mathjax_equations_read_as_their_source(site):
    assert r'<div class="equation-source"><code>J(x)=\sum_i' in read(site, '05d_attacks.html')
    assert 'tex-svg' not in read(site, '05d_attacks.html')
    assert not (site.out/'_static'/'mathjax').exists()


def test_pages_without_figures_load_no_plotly(site): assert 'plotly.min.js' not in read(site, 'glossary.html')


def test_the_search_has_an_index_and_asks_for_no_page(site):
    index = read(site, 'searchindex.js')
    assert index.startswith('Search.setIndex(') and 'nesterov' in index.lower()
    assert '"05d_attacks"' in read(site, '_static/summaries.js')
    assert 'SHOW_SEARCH_SUMMARY: false' in read(site, '_static/documentation_options.js')
