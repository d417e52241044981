"Tables drawn from rows: pairs, intervals, verdicts; what the pages draw; the claims and the rows that they point to."
import importlib, re, sys
import nbformat
import numpy as np
import pandas as pd
import pytest
from scipy import stats
from conftest import ROOT
from cxr_workbench import evidence, views

RESULTS = ROOT/'experiments'/'results'
sys.path.insert(0, str(ROOT/'experiments'))
import common, pretrained
sys.path.pop(0)


def make_runs(values, **more):
    "A table of runs from (fold, draw, variant, auroc)."
    names = ['fold', 'draw', 'variant', 'auroc']
    return pd.DataFrame(values, columns=names).assign(**dict(data='images_64', steps=10, size=32) | more)


GAINS = dict(a=0, b=.03, c=-.02)
FIVE = make_runs([
    (fold, 0, name, .6 + .02*fold + gain*(1 + .1*fold))
    for fold in range(5) for name, gain in GAINS.items()])


# ---- rows ----

def test_rows_are_found_by_argument_then_by_variable_then_in_the_checkout(tmp_path, monkeypatch):
    FIVE.to_csv(tmp_path/'made.csv', index=False)
    monkeypatch.delenv('CXR_RESULTS', raising=False)
    assert evidence.find_results() == RESULTS and evidence.find_results(tmp_path) == tmp_path
    monkeypatch.setenv('CXR_RESULTS', str(tmp_path))
    assert evidence.find_results() == tmp_path and len(evidence.read_runs('made')) == 15
    says = r"no runs of 'other': there are \['made'\]"
    with pytest.raises(FileNotFoundError, match=says): evidence.read_runs('other')


@pytest.mark.parametrize('way', ['argument', 'variable'])
def test_a_folder_without_rows_says_how_to_get_them(tmp_path, monkeypatch, way):
    if way == 'variable': monkeypatch.setenv('CXR_RESULTS', str(tmp_path))
    with pytest.raises(FileNotFoundError, match='come with the source of this project.*CXR_RESULTS'):
        evidence.find_results(tmp_path if way == 'argument' else None)


def test_readings_and_seeds_are_variants_and_folds():
    runs = evidence.read_runs('agreement')
    assert {'variant', 'fold', 'draw', 'data'} <= set(runs) and set(runs['data']) == {'phantom'}


def test_runs_are_chosen_by_value_and_by_list():
    assert set(evidence.choose_runs(FIVE, fold=[1, 3])['fold']) == {1, 3}
    assert len(evidence.choose_runs(FIVE, variant='a', fold=2)) == 1 and not len(evidence.choose_runs(FIVE, size=64))
    with pytest.raises(ValueError, match="no column 'siez'"): evidence.choose_runs(FIVE, siez=32)


def test_the_widest_setting_is_the_one_with_the_most_variants():
    tuned = pd.concat([FIVE[FIVE['variant'] == 'a']]*4).assign(size=64)
    assert evidence.choose_widest(pd.concat([tuned, FIVE])).equals(FIVE)
    assert evidence.choose_widest(FIVE).equals(FIVE)


# ---- pairs and intervals ----

def test_a_pair_is_the_same_fold_and_draw_and_draws_are_averaged_first():
    runs = make_runs([
        (0, 0, 'a', .5), (0, 0, 'b', .6),
        (0, 1, 'a', .5), (0, 1, 'b', .8),
        (1, 0, 'a', .4), (1, 0, 'b', .5), (1, 1, 'b', .9)])             # the last has no partner
    found = evidence.compare_paired(runs, 'b', 'a', 'auroc', 1/4)
    assert found['folds'] == 2 and found['mean'] == pytest.approx(.15)
    assert (found['low'], found['high']) == pytest.approx(evidence.fold_interval([.2, .1], 1/4)[1:])
    assert evidence.compare_paired(runs, 'c', 'a', 'auroc', 0) is None


def test_draws_with_folds_of_their_own_are_not_averaged():
    rng = np.random.default_rng(0)
    runs = make_runs([(f, d, v, rng.random()) for f in range(5) for d in range(3) for v in 'ab'])
    found = evidence.compare_paired(runs, 'b', 'a', 'auroc', 1/4, own_folds=True)
    wide = runs.pivot(index=['fold', 'draw'], columns='variant', values='auroc')
    assert found['folds'] == 15
    assert found['low'] == pytest.approx(evidence.fold_interval(wide['b'] - wide['a'], 1/4).low)


def test_the_interval_is_students_times_the_root_of_the_correction():
    x = np.array([.1, .3, .2, .25, .15])
    expected = stats.t.interval(.95, 4, loc=x.mean(), scale=stats.sem(x))
    assert evidence.fold_interval(x, 0)[1:] == pytest.approx(expected)
    plain, wide = (evidence.fold_interval(x, ratio) for ratio in (0, 1/4))
    ratio = (wide.high - wide.mean)/(plain.high - plain.mean)
    assert ratio == pytest.approx(np.sqrt((1/5 + 1/4)*5))
    assert evidence.fold_interval([.5], 1/4) == (.5, -np.inf, np.inf)


def test_phantoms_share_no_image_and_five_folds_do():
    assert evidence.test_to_train('phantom') == 0 and evidence.test_to_train('images_64') == 1/4
    widths = [evidence.compare_runs(FIVE.assign(data=data), 'a', ['b']).eval('high - low').item()
              for data in ('phantom', 'images_64')]
    assert widths[1]/widths[0] == pytest.approx(1.5)


@pytest.mark.parametrize('change, says', [
    (dict(size=64), r"several settings.*'size': \['32', '64'\]"),
    (dict(data='phantom'), 'several settings.*data'),
    (dict(steps=20), r"is there 2 times: choose among \['steps'\]")])
def test_runs_of_several_settings_are_no_pairs(change, says):
    with pytest.raises(ValueError, match=says): evidence.pair_runs(pd.concat([FIVE, FIVE.assign(**change)]), 'auroc')


def test_a_column_may_differ_where_it_is_named():
    runs = pd.concat([FIVE[FIVE['variant'] == 'a'], FIVE[FIVE['variant'] == 'b'].assign(size=64)])
    with pytest.raises(ValueError, match='several settings'): evidence.compare_runs(runs, 'a')
    assert evidence.compare_runs(runs, 'a', mixed=('size',))['folds'].item() == 5


def test_the_difference_of_two_columns_is_a_value():
    runs = FIVE.assign(hits=FIVE['auroc'], chance=.5)
    wide = evidence.pair_runs(runs, 'hits - chance')
    assert np.allclose(wide, evidence.pair_runs(runs, 'auroc') - .5)
    level = evidence.compare_paired(runs, 'b', None, 'hits - chance', 0)
    assert level['mean'] == pytest.approx(wide['b'].mean())


# ---- verdicts and tables ----

@pytest.mark.parametrize('low, high, margin, word', [
    (.01, .2, 0, 'ahead'), (-.2, -.01, 0, 'behind'),
    (-.01, .01, 0, 'not told'), (0., .1, 0, 'not told'),
    (-.004, .004, .005, 'no difference'), (-.004, .006, .005, 'not told'), (.001, .004, .005, 'ahead'),
    (-.004, -.001, .005, 'behind'), (-np.inf, np.inf, 1., 'not told'), (0., 0., 0, 'not told')])
def test_the_verdict_is_the_place_of_the_interval(low, high, margin, word):
    assert evidence.judge_interval(low, high, margin) == word


def test_a_table_compares_with_one_baseline_or_with_a_step():
    table = evidence.compare_runs(FIVE, 'a', ['b', ('c', 'b'), 'not there'])
    assert table['variant'].tolist() == ['b', 'c'] and table['baseline'].tolist() == ['a', 'b']
    assert table['verdict'].tolist() == ['ahead', 'behind']
    assert table['mean'].sum() == pytest.approx(evidence.compare_runs(FIVE, 'a', ['c'])['mean'].item())
    swapped = evidence.compare_runs(FIVE, 'b', ['a'])
    assert swapped['low'].item() == pytest.approx(-table['high'][0])
    assert swapped['high'].item() == pytest.approx(-table['low'][0])
    assert not len(evidence.compare_runs(FIVE[:0], 'a'))


def test_the_bound_with_all_labels_joins_whatever_its_regime(tmp_path):
    few = FIVE.assign(regime='fraction', fraction=.1)
    bound = FIVE[FIVE['variant'] == 'a'].assign(variant='full', regime='full', fraction=1., auroc=.9)
    other = FIVE.assign(regime='full', fraction=1.)                      # the same names with all labels
    pd.concat([few, bound, other]).to_csv(tmp_path/'made.csv', index=False)
    where = dict(file='made', baseline='a', results=tmp_path, regime='fraction')
    table = evidence.compare_file(**where, bound='full')
    assert set(table['variant']) == {'b', 'c', 'full'} and (table['folds'] == 5).all()
    assert set(evidence.compare_file(**where)['variant']) == {'b', 'c'}
    assert table['setting'].eq('real images, 32 px, 10% labelled, 10 steps').all()


def test_experiments_and_pages_compute_with_the_same_functions():
    names = ('fold_interval', 'compare_paired', 'share_of_gap', 'format_difference', 'summarise_variants')
    assert all(getattr(common, name) is getattr(evidence, name) for name in names)


# ---- the figure ----

def test_every_line_has_its_numbers_and_its_side():
    table = evidence.compare_runs(FIVE, 'a').assign(block='x')
    fig = views.show_differences(table)
    assert list(fig.data[0].x) == table['mean'].tolist()
    assert list(fig.data[0].marker.symbol) == ['triangle-right', 'triangle-left']
    assert np.allclose(fig.data[0].error_x.array, table['high'] - table['mean'])
    texts = [note.text for note in fig.layout.annotations]
    row = table.iloc[0]
    assert f'{row["mean"]:+.3f} [{row["low"]:+.3f}, {row["high"]:+.3f}]  ahead' in texts and 'x' in texts


def test_panels_of_one_measure_share_their_axis_and_others_do_not():
    table = pd.concat([evidence.compare_runs(FIVE, 'a').assign(block=block, measure=measure)
                       for block, measure in (('1', 'AUROC'), ('2', 'AP'), ('3', 'AUROC'))])
    layout = views.show_differences(table).layout
    assert layout.xaxis3.matches == 'x' and layout.xaxis2.matches is None and layout.xaxis.matches is None


def test_one_fold_has_a_hollow_point_and_no_interval():
    fig = views.show_differences(evidence.compare_runs(FIVE[FIVE['fold'] == 0], 'a'))
    assert all(symbol == 'circle-open' for symbol in fig.data[0].marker.symbol)
    assert np.isnan(np.array(fig.data[0].error_x.array, float)).all()
    assert not any('[' in note.text for note in fig.layout.annotations)


@pytest.mark.parametrize('table, says', [
    (FIVE[:0].assign(mean=0, low=0, high=0), 'no difference'), (FIVE, r"no column \['mean', 'low', 'high'\]")])
def test_what_is_no_table_of_differences_is_refused(table, says):
    with pytest.raises(ValueError, match=says): views.show_differences(table)


def test_a_page_without_rows_says_so_in_one_line_and_a_block_without_runs_too(tmp_path, capsys):
    assert evidence.show_evidence(dict(file='made', baseline='a'), results=tmp_path/'nowhere') is None
    assert capsys.readouterr().out.count('\n') == 1
    FIVE.to_csv(tmp_path/'made.csv', index=False)
    blocks = dict(file='made', baseline='a'), dict(file='made', baseline='a', size=64)
    fig = evidence.show_evidence(*blocks, results=tmp_path)
    assert len(fig.data) == 1 and capsys.readouterr().out.startswith('no runs yet: file made, baseline a, size 64')


# ---- claims ----

def judge(tmp_path, **claim):
    "The row of one claim on the made runs."
    FIVE.to_csv(tmp_path/'made.csv', index=False)
    what = dict(paper='p', page='q', claim='c', file='made', baseline='a', data='images_64')
    return evidence.evaluate_claims([what | claim], results=tmp_path).iloc[0]


@pytest.mark.parametrize('claim, verdict', [
    (dict(variant='b'), 'holds here'), (dict(variant='c'), 'does not hold here'),
    (dict(variant='c', lower=True), 'holds here'), (dict(variant='b', lower=True), 'does not hold here'),
    (dict(variant='d'), 'no runs yet'), (dict(variant='b', size=64), 'no runs yet'),
    (dict(variant='b', fold=0), 'not told'), (dict(why='no data'), 'cannot be tested here'),
    (dict(test='tests/test_evidence.py::test_x'), 'built so')])
def test_the_verdict_of_a_claim(tmp_path, claim, verdict):
    assert judge(tmp_path, **claim)['verdict'] == verdict


def test_a_claim_of_less_turns_the_interval_around(tmp_path):
    up, down = judge(tmp_path, variant='c'), judge(tmp_path, variant='c', lower=True)
    turned = -up['mean'], -up['high'], -up['low']
    assert tuple(down[['mean', 'low', 'high']]) == pytest.approx(turned)
    assert up['setting'] == 'real images, 32 px, 10 steps, 5 folds' and up['compared'] == 'c against a'


def test_an_interval_within_the_margin_is_against_the_claim():
    small = {'a': 0, 'b': .001}
    runs = make_runs([
        (f, 0, v, .6 + gain*(-1)**f) for f in range(6) for v, gain in small.items()])
    found = evidence.compare_runs(runs, 'a', margin=.005)
    assert found['verdict'].item() == 'no difference' and evidence.VERDICTS['no difference'] == 'does not hold here'
    assert evidence.compare_runs(runs, 'a')['verdict'].item() == 'not told'


@pytest.fixture(scope='module')
def claims():
    "The claims of the page, with its own functions, before anything is drawn."
    space = {}
    for cell in nbformat.read(ROOT/'nbs'/'95_claims.ipynb', as_version=4).cells:
        if cell.cell_type != 'code': continue
        lines = [line for line in cell.source.splitlines() if not re.match(r'found|show_claims|list_claims', line)]
        exec('\n'.join(lines), space)
        if 'TRCGL' in space: break
    return {name: space[name] for name in ('MPC', 'ACAA', 'LCC', 'CAN', 'TRCGL')}


def test_every_claim_points_to_runs_that_exist_or_are_planned(claims):
    table = evidence.evaluate_claims([claim for some in claims.values() for claim in some], results=RESULTS)
    everything = [claim for some in claims.values() for claim in some]
    planned = {regime: set(table(OPTIONS)) for regime, table in pretrained.TABLES.items()}
    for claim, (_, row) in zip(everything, table.iterrows()):
        if row['verdict'] == 'no runs yet':
            names = {claim['variant'], claim['baseline']}
            assert claim['file'] == 'pretrained' and names <= planned.get(claim['regime'], names), claim
        elif row['verdict'] not in ('built so', 'cannot be tested here'):
            assert np.isfinite(row['mean']) and row['setting'] and row['measure'] and row['compared'], claim
    assert all(len(set(table.loc[table['paper'] == paper, 'verdict'])) > 1 for paper in set(table['paper']))


class OPTIONS: lr, frozen, weights, weights_b, rare = 1e-3, 3, None, None, .1


def test_claims_are_sentences_of_a_page_and_a_test_that_exist(claims):
    for claim in (claim for some in claims.values() for claim in some):
        assert (ROOT/'nbs'/f'{claim["page"]}.ipynb').exists() and claim['claim'].endswith('.')
        kinds = [kind for kind in ('why', 'test', 'file') if kind in claim]
        assert len(kinds) == 1, claim
        if 'test' not in claim: continue
        path, name = claim['test'].split('::')
        assert f'def {name}(' in (ROOT/path).read_text(), claim['test']


def test_the_same_test_is_not_counted_twice(claims):
    everything = [claim for some in claims.values() for claim in some]
    seen = [repr(sorted((k, repr(v)) for k, v in claim.items())) for claim in everything]
    assert len(seen) == len(set(seen))


METHODS = ('20_can', '30_lcc', '40_mpc', '50_acaa', '60_trcgl')


@pytest.mark.parametrize('name', METHODS)
def test_a_methods_page_draws_its_last_table_from_the_rows(name):
    "The section before `Where we had to choose`; every block of it but that of pretrained networks has runs."
    cells = nbformat.read(ROOT/'nbs'/f'{name}.ipynb', as_version=4).cells
    drawn = [cell.source for cell in cells if cell.cell_type == 'code' and 'show_evidence(' in cell.source]
    assert len(drawn) == 1 + (name == '50_acaa')   # whose other figure is about what is trusted
    called = []
    space = dict(LADDER=importlib.import_module('cxr_workbench.methods.lcc').LADDER)
    source = drawn[-1].replace('from cxr_workbench.evidence import show_evidence', '')
    exec(source, space | dict(show_evidence=lambda *blocks: called.extend(blocks)))
    assert len(called) > 1
    for block in called:
        table = evidence.compare_file(**block, results=RESULTS)
        assert len(table) or block['file'] == 'pretrained', block


def test_pages_have_no_typed_table_of_differences():
    for name in METHODS:
        for cell in nbformat.read(ROOT/'nbs'/f'{name}.ipynb', as_version=4).cells:
            typed = re.findall(r'^\|.*\[[+-]\.\d+, [+-]\.\d+\].*\|', cell.source, flags=re.M)
            assert cell.cell_type == 'code' or not typed, (name, typed)


def test_a_variant_without_a_name_has_no_difference():
    assert evidence.compare_paired(FIVE, None, 'a', 'auroc', 0) is None
