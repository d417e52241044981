"""Statistics of a label table: right numbers, nothing of a row in them, and a phantom painted from them."""
import json
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st
from cxr_workbench.label_statistics import (
    LabelStatistics, joint_excess, match_names, measure_labels, nearest_correlation, round_counts, tetrachoric)
from cxr_workbench.labels import CHEXPERT, LabelPolicy
from cxr_workbench.phantom import LATENT_CORR, PREVALENCE, SyntheticCXR, binary_correlation
from cxr_workbench.thorax import FINDINGS, LABELS


def make_table(n=400, seed=0, L=3):
    rng = np.random.default_rng(seed)
    values = rng.choice([1, 0, -1, np.nan], (n, L), p=[.3, .4, .1, .2])
    return pd.DataFrame(values, columns=[f'label {c}' for c in range(L)])


@pytest.fixture(scope='module')
def drawn(): return SyntheticCXR(30_000, size=8, seed=1)


@pytest.fixture(scope='module')
def table(drawn): return pd.DataFrame(drawn.labels, columns=LABELS)


# ---- numbers ----

@given(st.floats(.01, .9), st.floats(.01, .9), st.floats(-.9, .9))
@settings(max_examples=40)
def test_tetrachoric_undoes_the_cut(p, q, rho):
    phi = binary_correlation([p, q], [[1, rho], [rho, 1]])[0, 1]
    both = p*q + phi*np.sqrt(p*(1 - p)*q*(1 - q))
    narrow = min(both, p - both, q - both, 1 - p - q + both) < 1e-6    # hardly a row tells
    assert narrow or np.isclose(tetrachoric(p, q, both), rho, atol=1e-4)


def test_joint_excess_is_that_of_scipy():
    from scipy.stats import multivariate_normal, norm
    for p, q, rho in ((.4, .02, .5), (.1, .3, -.4), (.05, .05, .8)):
        R = [[1, rho], [rho, 1]]
        both = multivariate_normal([0, 0], R).cdf([norm.ppf(p), norm.ppf(q)])
        assert np.isclose(joint_excess(p, q, rho), both - p*q, atol=1e-6)


@pytest.mark.parametrize('seed', range(4))
def test_no_other_correlation_is_nearer(seed):
    rng = np.random.default_rng(seed)
    wild = np.triu(rng.uniform(-1, 1, (6, 6)), 1)
    wild = wild + wild.T + np.eye(6)
    near = nearest_correlation(wild, smallest=1e-6)
    assert np.allclose(near, near.T) and np.allclose(np.diag(near), 1) and np.linalg.eigvalsh(near)[0] > 0
    distance = np.linalg.norm(near - wild)
    for _ in range(200):
        step = rng.standard_normal((6, 6))*rng.choice([.02, .1, .5])
        other = np.linalg.cholesky(near) + step
        other /= np.linalg.norm(other, axis=1, keepdims=True)
        assert np.linalg.norm(other@other.T - wild) > distance - 1e-3


def test_a_correlation_stays():
    assert np.array_equal(nearest_correlation(LATENT_CORR), LATENT_CORR)


@pytest.mark.parametrize('uncertain', ['zeros', 'ones', 'ignore'])
@pytest.mark.parametrize('blank', ['negative', 'unknown'])
def test_what_is_said_of_the_truth_adds_to_the_table(uncertain, blank):
    policy, table = LabelPolicy(uncertain, blank), make_table()
    found = measure_labels(table, policy=policy)
    y, known = policy(table)
    reports, prevalence = np.array(found.reports), np.array(found.prevalence)
    assert np.allclose(prevalence, y.sum(0)/known.sum(0), atol=.03)
    assert np.allclose(reports.sum(2), 1, atol=.01)
    both = np.stack([1 - prevalence, prevalence], 1)[..., None]
    assert np.allclose((both*reports).sum(1), found.shares, atol=.01)
    assert not reports[:, 1, 1].any() and not reports[:, 0, 0].any()     # absent is not written for present
    if uncertain == 'ones': assert not reports[:, 0, 2].any()
    if blank == 'negative': assert not reports[:, 1, 3].any()


def test_a_label_that_nothing_decides_is_said_to_be_so():
    table = make_table().assign(never=np.nan)
    found = measure_labels(table, policy=LabelPolicy('ignore', 'unknown'))
    column = np.array(found.latent_corr, float)[3]
    assert np.isnan(column).all()
    assert found.prevalence[0] is not None


# ---- nothing of a row ----

def test_counts_under_five_are_one_number():
    assert len(set(round_counts(range(5)))) == 1 and (round_counts(np.arange(5, 500)) % 5 == 0).all()
    assert np.abs(round_counts(np.arange(500)) - np.arange(500)).max() <= 2.5


def test_statistics_do_not_grow_with_the_table_and_name_nobody(tmp_path):
    texts = []
    for n in (1000, 4000):
        table = make_table(n)
        ids = [f'secret{row//2}' for row in range(n)]
        measure_labels(table, ids).save(tmp_path/'statistics.json')
        texts.append((tmp_path/'statistics.json').read_text())
    count = [len(json.dumps(json.loads(text))) for text in texts]
    assert abs(count[0] - count[1]) < 100 and 'secret' not in ''.join(texts)
    held = json.loads(texts[0])
    assert set(held) == {'format', *LabelStatistics.__dataclass_fields__}
    sizes = [np.size(value) for value in held.values()]
    assert max(sizes) <= 3*2*4 and LabelStatistics.load(tmp_path/'statistics.json').rows == 4000


def test_the_order_of_rows_and_the_names_of_patients_are_not_in_them():
    table = make_table(600)
    ids = np.repeat(np.arange(200), 3)
    order = np.random.default_rng(1).permutation(600)
    found = measure_labels(table, ids)
    assert measure_labels(table.iloc[order], [f'x{i}' for i in ids[order]]) == found


@pytest.mark.parametrize('positives', range(5))
def test_who_has_a_rare_finding_cannot_be_told(positives):
    "The same statistics with 0 to 4 rows of a rare label, whichever rows they are."
    table = pd.DataFrame({'common': [1.]*150 + [0.]*150, 'rare': 0.})
    ids = np.arange(300)
    without = measure_labels(table, ids)
    for first in (0, 149, 200):
        table['rare'] = 0.
        table.loc[range(first, first + positives), 'rare'] = 1.
        assert measure_labels(table, ids) == without
    assert without.shares[1][0]*without.rows == pytest.approx(2.5, rel=.01)


def test_a_single_row_hides_in_the_rounding():
    table = pd.DataFrame({'a': [1.]*101 + [0.]*101, 'b': [1., 0.]*101})
    assert measure_labels(table.iloc[1:]) == measure_labels(table)


def test_an_unusual_number_of_images_is_not_given():
    table = make_table(300)
    ids = np.r_[np.arange(200), np.repeat([1000, 1001], 50)]
    shares = measure_labels(table, ids).images_per_patient
    assert [*shares] == [1] and shares[1] == 1


def test_a_handful_of_rows_has_no_statistics():
    with pytest.raises(ValueError, match='fewer than 50'): measure_labels(make_table(49))
    assert (np.array(measure_labels(make_table(50, L=40)).shares) >= 0).all()


def test_another_file_is_refused(tmp_path):
    (tmp_path/'a.json').write_text('{"rows": 3}')
    (tmp_path/'b.json').write_text('not')
    for name, words in (('a', 'no statistics of labels'), ('b', 'no JSON')):
        with pytest.raises(ValueError, match=words): LabelStatistics.load(tmp_path/f'{name}.json')


def test_names_are_compared_without_capitals_and_signs():
    found, left = match_names(['Lung_Opacity', 'edema ', 'Age'], FINDINGS)
    assert found == {'Lung Opacity': 'Lung_Opacity', 'Edema': 'edema '} and left == ['Age']


# ---- a phantom like a table ----

def test_a_phantom_like_its_own_table_is_the_phantom_again(drawn, table):
    like = SyntheticCXR.like(table, n=50, size=8, patient_id=drawn.patient_id)
    sd = np.sqrt(PREVALENCE*(1 - PREVALENCE)/len(table))
    assert (np.abs(like._p - PREVALENCE) < 6*sd + .001).all()      # images of a patient are alike
    pair = np.triu_indices(13, 1)
    error = np.abs(like.latent_corr - LATENT_CORR)[pair]
    often = len(table)*np.outer(PREVALENCE, PREVALENCE)[pair] > 200
    assert error[often].max() < .07 and error[often].mean() < .02 and error.mean() < .03
    assert abs(like.persistence - .6) < .04
    assert np.allclose([*like.statistics.images_per_patient.values()], .2, atol=.01)
    assert [*like.statistics.images_per_patient] == [1, 2, 3, 4, 5]


def test_states_are_the_truth_where_a_table_is_complete(drawn, table):
    assert drawn.states is drawn.labels
    like = SyntheticCXR.like(table, n=3000, size=8)
    assert np.array_equal(like.states[:, 1:], like.labels[:, 1:])


def test_states_come_at_the_rates_of_the_table():
    rng = np.random.default_rng(3)
    edema = rng.choice([1, 0, -1, np.nan], 5000, p=[.2, .1, .3, .4])
    none = rng.choice([1, np.nan], 5000, p=[.05, .95])
    table = pd.DataFrame({'Edema': edema, 'No Finding': none})
    for policy in (LabelPolicy('ignore'), LabelPolicy('zeros'), LabelPolicy('ones', 'unknown')):
        like = SyntheticCXR.like(table, n=6000, size=8, policy=policy)
        for name in table:
            column = like.states[:, LABELS.index(name)]
            for state in (1, 0, -1):
                off = (column == state).mean() - (table[name] == state).mean()
                assert abs(off) < .03
        truth = like.labels[:, LABELS.index('Edema')]
        y, known = policy(like.states[:, [LABELS.index('Edema')]])
        assert np.array_equal(y[known], truth[known[:, 0]])          # read by its own policy, it is the truth


def test_what_the_table_lacks_keeps_its_number():
    table = pd.DataFrame({'edema': [1., 0, 0, 0]*50, 'Aneurysm': 1., 'path': 'a.png'})
    like = SyntheticCXR.like(table, n=20, size=8, persistence=.1)
    assert like.matched == {'Edema': 'edema'} and like.unmatched == ['Aneurysm', 'path']
    own = [k for k, name in enumerate(FINDINGS) if name != 'Edema']
    assert np.array_equal(like._p[own], PREVALENCE[own]) and like._p[FINDINGS.index('Edema')] == pytest.approx(.25)
    assert np.allclose(like.latent_corr, LATENT_CORR) and like.persistence == .1


def test_no_label_of_the_phantom_is_refused_with_the_remedy():
    with pytest.raises(ValueError, match='relabel'): SyntheticCXR.like(make_table())


def test_the_file_paints_the_same_phantom(table, tmp_path):
    like = SyntheticCXR.like(table, n=30, size=16, seed=4)
    like.statistics.save(tmp_path/'statistics.json')
    again = SyntheticCXR.like(tmp_path/'statistics.json', n=30, size=16, seed=4)
    assert np.array_equal(again.images, like.images) and np.array_equal(again.labels, like.labels)


def test_images_of_patients_by_share():
    cxr = SyntheticCXR(9000, size=8, images_per_patient={1: .5, 4: .5})
    counts = np.bincount(cxr.patient_id)[:-1]
    assert set(counts) == {1, 4} and abs((counts == 1).mean() - .5) < .04
    for wrong in ({}, {0: 1.}, {2: -1.}, {2: 0.}):
        with pytest.raises(ValueError, match='images_per_patient'): SyntheticCXR(5, images_per_patient=wrong)


def test_a_real_table(label_tables):
    "CheXpert's own counts are in the statistics, to their rounding; the phantom has them too."
    table = pd.read_csv(label_tables/'chexpert_train.csv.gz')
    patient = table.Path.str.extract(r'(patient\d+)')[0]
    like = SyntheticCXR.like(table, n=8000, size=8, patient_id=patient)
    assert [*like.matched] == [*LABELS] and like.statistics.rows == 223_415
    frame = like.statistics.frame().loc[CHEXPERT]
    for state, value in dict(present=1, absent=0, uncertain=-1).items():
        counted = (table[CHEXPERT] == value).mean()
        used = counted*len(table) >= 5
        assert np.allclose(frame[state][used], counted[used], rtol=.006, atol=2e-5)
    painted = pd.DataFrame(like.states, columns=LABELS)
    assert ((painted == 1).mean() - frame.present).abs().max() < .02
    assert (painted.isna().mean() - frame.blank).abs().max() < .02
    assert .4 < like.persistence < .8
