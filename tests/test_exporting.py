"""One HTML file of a case or of a run: whole, private, and in words."""
import json, re
import plotly.graph_objects as go, pytest
from cxr_workbench import exporting, workbench
from cxr_workbench.core import create_method, seed_all
from cxr_workbench.opening import write_run_record
from cxr_workbench.phantom import SyntheticCXR
from cxr_workbench.saving import find_model


@pytest.fixture(scope='module')
def bench(): return workbench.Bench(SyntheticCXR(40, size=64, seed=3), {'lcc': find_model('lcc')})


def read_figures(text): return [json.loads(each) for each in re.findall(
    r'</figcaption><script type="application/json">(.*?)</script>', text, flags=re.S)]


def test_a_case_holds_its_pictures_words_and_facts(bench, tmp_path):
    choice = bench.choose('lcc', row=3, label='Edema')
    file = workbench.write_case(tmp_path/'case.html', bench, choice, {'attack': dict(eps=7, steps=2, frame=2)})
    text = file.read_text(encoding='utf-8')
    for panel in workbench.CASE: assert f'<h2>{panel}</h2>' in text
    figures = read_figures(text)
    assert len(figures) == text.count('<figcaption>') == text.count('role="figure"') >= 8
    assert any('7/255' in note.get('text', '') for each in figures for note in each['layout'].get('annotations', []))
    for fact in ('image 3 of the data', 'eps 7', 'lcc: lcc', 'label policy', exporting.NOTE): assert fact in text
    assert text.count('/**\n* plotly.js') == 1


def test_a_run_holds_its_curves_and_scores(bench, tmp_path):
    text = workbench.write_run(tmp_path/'run.html', bench, 'lcc').read_text(encoding='utf-8')
    for heading in ('training', 'scores', 'thresholds', 'relations'): assert f'<h2>{heading}</h2>' in text
    assert str(find_model('lcc').parent) not in text


def test_the_policy_of_a_run_is_told_without_its_paths(tmp_path):
    seed_all(0)
    method = create_method('supervised', labels=['Edema'], size=32, preset='tiny', unknown='negative')
    data = dict(source='/secret/place/table.csv', uncertain='ones', blank='unknown')
    write_run_record(tmp_path, dict(data=data, fold=0, fold_column=None, regime='single-positive'))
    told = exporting.describe_labelling(method, tmp_path)
    assert told == 'a table; -1 means ones, a blank unknown; regime: single-positive; unknown entries: negative'
    assert '/secret/place/table.csv' in exporting.describe_labelling(method, tmp_path, paths=True)
    assert exporting.describe_labelling(method).startswith('not recorded')
    write_run_record(tmp_path, dict(data=dict(source='phantom'), fold=0, fold_column=None))
    assert exporting.describe_labelling(method, tmp_path).startswith('phantom; all known; regime: full')


def test_what_a_figure_holds_cannot_close_its_script():
    sly = go.Figure(go.Bar(x=['</script><script>alert(1)</script>'], y=[1]), dict(title_text='<b>"one" & two</b>'))
    page = exporting.make_page('<i>title</i>', {'<u>': '</table>'}, [('<h>', '<p>', [sly])])
    assert 'alert(1)</script>' not in page and '<i>title' not in page and '<u>' not in page and '<h>' not in page
    assert read_figures(page)[0]['data'][0]['x'] == ['</script><script>alert(1)</script>']


def test_a_name_that_is_no_page_is_refused(tmp_path):
    with pytest.raises(ValueError, match='ends in .html'): exporting.write_page(tmp_path/'case.csv', 'a', {}, [])
    with pytest.raises(OSError): exporting.write_page(tmp_path/'nowhere'/'case.html', 'a', {}, [])


def test_reports_cases_cards_and_the_app_say_the_same_of_themselves(bench, tmp_path):
    from cxr_workbench import app, reports
    from cxr_workbench.writing import RESEARCH
    reports.write_html(tmp_path/'report.html', ('heading', 'sentence', None), note='Of a clinic.')
    text = (tmp_path/'report.html').read_text(encoding='utf-8')
    assert f'Of a clinic. {RESEARCH}' in text and text.count('medical device') == 1
    assert exporting.NOTE == RESEARCH and RESEARCH in app.TOP   # cards are of the same writer
    page = exporting.make_page(*workbench.make_run(bench, 'lcc'))
    assert page.count('medical device') == 1 and RESEARCH in page


def test_a_page_takes_figures_and_tables_in_any_order():
    import pandas as pd
    table = pd.DataFrame({'auroc': [.5, None]}, index=['<i>', 'b'])
    facts = pd.DataFrame({'value': ['70 images']}, index=['clinic'])
    figure = go.Figure(go.Bar(y=[1]))
    shown = {'one': figure, 'two': [table, figure], 'three': facts}
    page = exporting.make_page('a', {}, [(heading, 'sentence', each) for heading, each in shown.items()])
    assert page.count('<figure>') == 2 and page.count('/**\n* plotly.js') == 1
    assert '&lt;i&gt;' in page and '<td></td>' in page and 'class="dataframe facts"' in page
    assert "default-src 'none'" in page and '<script src' not in page
