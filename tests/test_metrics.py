"Scores, intervals and reports against scikit-learn, brute force and theory; real predictions on the NIH test images."
import time, warnings
import numpy as np, pandas as pd, pytest, torch
from hypothesis import given, settings, strategies as st
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score
from cxr_workbench import labels as L, metrics as M
from cxr_workbench.intervals import draw_weights, rank_patients, shrink_weights, sum_before, weigh_ranks, weighted_areas

NAMES = ['a', 'b', 'c', 'd']


def random_scores(n=300, C=4, seed=0, digits=2, known=1.):
    "Scores with ties, labels, mask and patients of one to many images."
    rng = np.random.default_rng(seed)
    y = (rng.random((n, C)) < np.linspace(.5, .08, C)).astype(float)
    scores = 1/(1 + np.exp(-(y + rng.normal(size=(n, C)))))
    return scores.round(digits), y, rng.random((n, C)) < known, rng.integers(0, n//3, n)


@pytest.fixture(scope='module')
def chexnet(cxr_data):
    "Real DenseNet-121 probabilities, the official labels and the patients of 22,433 NIH images."
    folder = cxr_data/'nih14/labels'
    table = pd.read_csv(folder/'Data_Entry_2017_v2020.csv.gz').set_index('Image Index')
    scores = pd.read_csv(folder/'reproduce_chexnet_preds.csv.gz').set_index('Image Index')
    scores = scores.rename(columns=lambda name: name.removeprefix('prob_'))[L.NIH14]
    table = table.loc[scores.index]
    return scores, table['Finding Labels'].str.get_dummies('|')[L.NIH14], table['Patient ID']


# input

def report_values(scores, y): return M.report(scores, y, n_boot=0)


PROBABILITY_CALLS = [M.f1, M.calibration_error, M.tune_thresholds, report_values]


def test_bad_scores_are_named():
    scores, y, known, patient = random_scores()
    for value in (np.nan, np.inf, -np.inf):
        bad = scores.copy()
        bad[[7, 40], 2] = value
        for call in [M.auroc, M.average_precision, *PROBABILITY_CALLS]:
            with pytest.raises(ValueError, match=r'2 of 300 rows: \[7, 40\]'): call(bad, y)
    with pytest.raises(ValueError, match=r'scores have shape \(299, 4\)'): M.auroc(scores[1:], y)
    with pytest.raises(ValueError, match='LabelPolicy'): M.auroc(scores, np.where(y == 1, -1, 0))
    with pytest.raises(ValueError, match='299'): M.report(scores, y, patient_id=patient[1:])


def test_logits_are_refused_where_probabilities_are_needed():
    scores, y, _, _ = random_scores()
    logits = 10*scores - 5
    assert np.array_equal(M.auroc(logits, y), M.auroc(scores, y))
    for call in PROBABILITY_CALLS:
        with pytest.raises(ValueError, match='apply a sigmoid'): call(logits, y)


def test_torch_frames_and_float32():
    scores, y, known, _ = random_scores(known=.8)
    single = scores.astype(np.float32)
    expected = M.auroc(single, y, known)
    tensors = torch.tensor(single, requires_grad=True), torch.tensor(y), torch.tensor(known)
    frames = [pd.DataFrame(table) for table in (single, y, known)]
    lists = [table.tolist() for table in (single, y, known)]
    for tables in (tensors, frames, lists): assert np.array_equal(M.auroc(*tables), expected)


# per label

@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([1, 2, 8]), st.sampled_from([1., .7]))
def test_areas_equal_sklearn_on_known_entries(seed, digits, share):
    scores, y, known, _ = random_scores(60, 3, seed, digits, share)
    y[:, 0] = 0
    auc, ap = M.auroc(scores, y, known), M.average_precision(scores, y, known)
    assert np.isnan(auc[0]) and np.isnan(ap[0])
    for c in (1, 2):
        t, s = y[known[:, c], c], scores[known[:, c], c]
        if 0 < t.sum() < len(t):
            assert auc[c] == roc_auc_score(t, s)
            assert ap[c] == average_precision_score(t, s)
        else: assert np.isnan(auc[c]) and np.isnan(ap[c])


def test_absent_and_always_present_labels_are_nan():
    scores, y, known, _ = random_scores()
    y[:, 0], y[:, 1], known[:, 2] = 0, 1, False
    assert M.find_unmeasurable(y, known).tolist() == [True, True, True, False]
    for metric in (M.auroc, M.average_precision, M.f1):
        assert np.isnan(metric(scores, y, known=known)).tolist() == [True, True, True, False]
    assert np.isnan(M.calibration_error(scores, y, known)).tolist() == [False, False, True, False]


def test_f1_threshold_is_inclusive_and_per_label():
    scores, y, known, _ = random_scores(known=.9)
    threshold = np.array([.5, .4, .3, .9])
    called = scores >= threshold
    expected = [f1_score(y[rows, c], called[rows, c]) for c, rows in enumerate(known.T)]
    assert np.allclose(M.f1(scores, y, threshold, known), expected)
    assert M.f1([[.5], [.4]], [[1], [0]], .5)[0] == 1
    for wrong in ([.5, .5], np.nan, 1.5, [.5, .5, .5, np.nan]):
        with pytest.raises(ValueError, match='threshold'): M.f1(scores, y, wrong)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([1, 2, 8]))
def test_tuned_threshold_is_the_best_of_all(seed, digits):
    scores, y, known, _ = random_scores(40, 3, seed, digits, .8)
    chosen, absent = M.tune_thresholds(scores, y, known), M.find_unmeasurable(y, known)
    for c in range(3):
        s, t = scores[known[:, c], c], y[known[:, c], c]
        if absent[c]:
            assert chosen[c] == .5
            continue
        candidates = np.unique(s)
        called = s >= candidates[:, None]
        values = 2*(called & (t == 1)).sum(1)/(called.sum(1) + t.sum())
        assert chosen[c] == candidates[np.isclose(values, values.max())].max()       # the highest of equally good ones
    assert (M.tune_thresholds(scores, 0*y, default=.2) == .2).all()


@pytest.mark.parametrize('seed', range(3))
def test_decisions_are_counted_as_by_hand(seed):
    "A label without a threshold, and one that is never present, have no rates, and say why."
    scores, y, known, patient = random_scores(seed=seed, known=.8)
    y[:, 2], limit = 0, np.array([.5, .35, .6, np.nan])
    table = M.report_decisions(scores, y, known, patient, NAMES, limit, n_boot=40, seed=seed)
    codes = L.patient_codes(patient, len(patient))
    weights = draw_weights(np.random.default_rng(seed), codes.max() + 1, 40)[codes].astype(int)
    for c in range(2):
        kept = known[:, c]
        s, t, w = scores[kept, c], y[kept, c] == 1, weights[kept]
        row = table.loc[NAMES[c]]
        assert row.found == sum(p >= limit[c] for p in s[t])
        assert row.missed == sum(p < limit[c] for p in s[t])
        assert row.false_alarms == sum(p >= limit[c] for p in s[~t])
        assert row.left_alone + row.false_alarms == sum(~t)
        assert row.sensitivity == row.found/sum(t) and row.specificity == row.left_alone/sum(~t) and row.note == ''
        assert np.isclose(row.f1, f1_score(t, s >= limit[c]))
        drawn = [np.repeat(s[t], one[t]) for one in w.T]
        low, high = np.percentile([(each >= limit[c]).mean() for each in drawn], [2.5, 97.5])
        assert np.allclose((row.sensitivity_low, row.sensitivity_high), (low, high))
    absent, without = table.loc['c'], table.loc['d']
    assert absent.note == 'too few (0 positives)' and np.isnan(absent.sensitivity) and absent.specificity > 0
    assert without.note == 'no threshold' and without.drop('note').isna().all()
    plain = M.report_decisions(scores, y, known, patient, NAMES, limit, n_boot=0)
    assert plain.sensitivity.equals(table.sensitivity) and plain.sensitivity_low.isna().all()
    with pytest.raises(ValueError, match='threshold'): M.report_decisions(scores, y, threshold=1.5)


def test_calibration_error_by_hand_and_at_the_edges():
    scores = np.array([.05, .15, .15, .95, 1., .1])[:, None]
    y = np.array([0, 1, 0, 1, 0, 0])[:, None]
    by_hand = (.05 + abs(.15 + .15 + .1 - 1) + abs(1.95 - 1))/6                    # bins [0, .1), [.1, .2), [.9, 1]
    assert np.isclose(M.calibration_error(scores, y, bins=10)[0], by_hand)
    known = np.array([1, 1, 0, 1, 0, 0])[:, None]
    assert np.isclose(M.calibration_error(scores, y, known, bins=10)[0], (.05 + .85 + .05)/3)


def test_macro():
    assert M.macro([.2, np.nan, .4]) == pytest.approx(.3)
    assert np.isnan(M.macro([np.nan, np.nan])) and np.isnan(M.macro([]))
    assert np.allclose(M.macro([[.2, .4], [np.nan, .6]]), [.3, .6])


# bootstrap

@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([1, 2, 8]))
def test_weighted_areas_equal_sklearn_with_sample_weight(seed, digits):
    scores, y, _, patient = random_scores(80, 1, seed, digits)
    rng = np.random.default_rng(seed)
    P = patient.max() + 1
    weights = rng.integers(0, 4, (P, 7)).astype(float)
    ranked = rank_patients(scores[:, 0], y[:, 0], patient, P)
    auc, ap = weighted_areas(*weigh_ranks(ranked, weights))
    for r in range(7):
        w = weights[patient, r]
        used = w > 0
        t, s, w = y[used, 0], scores[used, 0], w[used]
        if 0 < t.sum() < len(t):
            assert np.isclose(auc[r], roc_auc_score(t, s, sample_weight=w))
            assert np.isclose(ap[r], average_precision_score(t, s, sample_weight=w))
        else: assert np.isnan(auc[r]) and np.isnan(ap[r])                          # one rule for both areas


def sum_over_ranks(scores, y, weights):
    "Both areas of one label by the formula with one rank for each score, a weight for each row, (n, R)."
    ranks = np.unique(-scores, return_inverse=True)[1]
    a, b = np.zeros((2, ranks.max() + 1, weights.shape[1]))
    np.add.at(a, ranks, weights*y[:, None])
    np.add.at(b, ranks, weights*(1 - y[:, None]))
    A, B = a.cumsum(0), b.cumsum(0)
    with np.errstate(invalid='ignore', divide='ignore'):
        auc = (b*(A - a/2)).sum(0)/(A[-1]*B[-1])
        ap = np.where(a > 0, a*A/(A + B), 0).sum(0)/A[-1]
    absent = A[-1]*B[-1] == 0
    auc[absent] = ap[absent] = np.nan
    return auc, ap


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), digits=st.integers(1, 8), n_boot=st.integers(1, 40))
def test_bootstrap_equals_the_sum_over_all_ranks(seed, digits, n_boot):
    "Ties, entries that nobody knows, labels of one class, resamples that lack a class."
    scores, y, known, patient = random_scores(60, 5, seed, digits, known=.6 + .4*(n_boot > 7))
    y[:, 0], y[:, 1], known[:, 2] = 0, 1, False
    y[:, 3] = np.arange(60) == seed % 60                     # a positive in one patient: many resamples lack it
    found = M.bootstrap(scores, y, known, patient, n_boot=n_boot, seed=seed)
    codes = L.patient_codes(patient, len(y))
    weights = draw_weights(np.random.default_rng(seed), codes.max() + 1, n_boot)[codes]
    for name in ('auroc', 'ap'): assert np.isnan(found[name][:, :3]).all()
    for c in (3, 4):
        rows = known[:, c]
        wanted = sum_over_ranks(scores[rows, c], y[rows, c], weights[rows])
        for name, area in zip(('auroc', 'ap'), wanted):
            assert np.allclose(found[name][:, c], area, rtol=0, atol=1e-12, equal_nan=True)


def test_running_sums_over_a_square_of_ranks():
    ranks = np.random.default_rng(0).integers(0, 9, (25, 3)).astype(float)
    square = ranks.reshape(5, 5, 3).swapaxes(0, 1).copy()
    before, whole = sum_before(square)
    running = before + square.cumsum(0)
    assert np.array_equal(running.swapaxes(0, 1).reshape(25, 3), ranks.cumsum(0))
    assert np.array_equal(whole, ranks.sum(0))


def test_weights_beyond_single_precision_stay_exact():
    scores, y = np.array([.9, .8, .8, .1]), np.array([1., 1., 0., 0.])
    weights = np.array([[2**24 + 1], [2**24 + 3], [2**24 + 5], [1]], float)
    ranked = rank_patients(scores, y, np.arange(4), 4)
    found = np.ravel(weighted_areas(*weigh_ranks(ranked, weights)))
    assert np.array_equal(found, np.ravel(sum_over_ranks(scores, y, weights)))


def test_weights_are_single_where_their_sums_are_exact():
    weights = np.array([[3., 0], [2, 5]])
    assert shrink_weights(weights, rows=2**24//5).dtype == np.float32 and shrink_weights(weights, 2**22).dtype == float
    assert np.array_equal(shrink_weights(weights, 10), weights) and shrink_weights(weights[:0], 10).shape == (0, 2)


def test_bootstrap_draws_are_those_of_copied_rows():
    scores, y, known, patient = random_scores(120, 3, known=.8)
    draws = M.bootstrap(scores, y, known, patient, n_boot=20, seed=4)
    P = len(np.unique(patient))
    drawn = np.random.default_rng(4).integers(P, size=(20, P))
    codes = L.patient_codes(patient, 120)
    for r in range(20):
        rows = np.concatenate([np.flatnonzero(codes == p) for p in drawn[r]])
        np.testing.assert_allclose(draws['auroc'][r], M.auroc(scores[rows], y[rows], known[rows]))
        np.testing.assert_allclose(draws['ap'][r], M.average_precision(scores[rows], y[rows], known[rows]))


def test_bootstrap_is_seeded_paired_and_chunked_alike():
    scores, y, known, patient = random_scores()
    named = [f'p{p}' for p in patient]
    one = M.bootstrap(scores, y, known, patient, n_boot=100, seed=1)
    chunked = M.bootstrap(scores, y, known, patient, n_boot=100, seed=1, chunk=17)
    increasing = M.bootstrap(scores**2, y, known, named, n_boot=100, seed=1)      # of the scores: changes no draw
    for again in (chunked, increasing):
        assert all(np.allclose(one[k], again[k], equal_nan=True) for k in one)
    other = M.bootstrap(scores, y, known, patient, n_boot=100, seed=2)
    assert not np.allclose(one['auroc'], other['auroc'])
    with pytest.raises(ValueError, match='at least two patients'): M.bootstrap(scores, y, known, np.zeros(300))


@pytest.mark.parametrize('convention', ['skip', 'trcgl'])
def test_resamples_shared_among_processes_are_the_same(convention):
    import joblib
    scores, y, known, patient = random_scores(known=.9)
    known[:, 2] = False                                                            # nothing to share of this label
    how = dict(n_boot=40, seed=3, convention=convention)
    alone = M.bootstrap(scores, y, known, patient, **how)
    with joblib.parallel_config('loky', n_jobs=2): shared = M.bootstrap(scores, y, known, patient, **how)
    with joblib.parallel_config('threading', n_jobs=9): threads = M.bootstrap(scores, y, known, patient, **how)
    for other in (shared, threads): assert all(np.array_equal(alone[k], other[k], equal_nan=True) for k in alone)
    with joblib.parallel_config('loky', n_jobs=2): table = M.report(scores, y, known, patient, n_boot=20)
    pd.testing.assert_frame_equal(table, M.report(scores, y, known, patient, n_boot=20))


def test_label_that_is_missing_from_some_resamples():
    scores, y, _, patient = random_scores()
    y[:, 3] = 0
    y[:2, 3] = 1
    draws = M.bootstrap(scores, y, patient_id=patient, n_boot=200)['auroc'][:, 3]
    assert 0 < np.isnan(draws).sum() < 200
    low, high = M.percentile_interval(draws)
    assert low <= high and np.isnan(M.percentile_interval(np.full((5, 2), np.nan))[0]).all()


def clustered(rng, patients=80, images=6, share=.8):
    "One label; labels belong to patients, and a patient's images share most of their noise. The true AUROC is known."
    sick = np.repeat(rng.random(patients) < .4, images)
    common = np.repeat(rng.normal(size=patients), images)
    own = rng.normal(size=patients*images)
    noise = np.sqrt(share)*common + np.sqrt(1 - share)*own
    return (1.*sick + noise)[:, None], sick[:, None].astype(float), np.repeat(np.arange(patients), images)


def test_coverage_of_the_patient_bootstrap():
    from scipy.stats import norm
    truth, rng = norm.cdf(1/np.sqrt(2)), np.random.default_rng(0)
    inside = {'patients': 0, 'rows': 0}
    for _ in range(200):
        scores, y, patient = clustered(rng)
        for name, ids in (('patients', patient), ('rows', None)):
            seed = int(rng.integers(2**31))
            draws = M.bootstrap(scores, y, patient_id=ids, n_boot=200, seed=seed)
            low, high = M.percentile_interval(draws['auroc'])
            inside[name] += bool(low[0] <= truth <= high[0])
    assert 180 <= inside['patients'] <= 199, inside                               # 95 % of 200 is 190
    assert inside['rows'] < 150, inside                                           # images taken for independent


# report

COLUMNS = [
    'auroc', 'auroc_low', 'auroc_high', 'ap', 'ap_low', 'ap_high', 'f1', 'threshold',
    'prevalence', 'n', 'n_pos', 'ece', 'skipped']


def test_report_rows_and_columns():
    scores, y, known, patient = random_scores(known=.9)
    groups, threshold = {'a': 'head', 1: 'head', 'c': 'tail', 'd': 'tail'}, [.5, .4, .3, .2]
    table = M.report(scores, y, known, patient, NAMES, groups, threshold, n_boot=50)
    assert list(table.index) == NAMES + ['macro', 'head', 'tail']
    assert table.index.name == 'label' and list(table) == COLUMNS
    assert np.array_equal(table.auroc[NAMES], M.auroc(scores, y, known))
    assert np.array_equal(table.ap[NAMES], M.average_precision(scores, y, known))
    assert np.array_equal(table.f1[NAMES], M.f1(scores, y, threshold, known))
    assert np.array_equal(table.ece[NAMES], M.calibration_error(scores, y, known))
    assert table.threshold[NAMES].tolist() == threshold and table.threshold[4:].isna().all()
    assert np.array_equal(table.n[NAMES], known.sum(0)) and table.n.loc['macro'] == known.sum()
    assert np.array_equal(table.n_pos[NAMES], (y*known).sum(0))
    means = ['auroc', 'ap', 'f1', 'ece', 'prevalence']
    assert np.allclose(table.loc['tail', means].astype(float), table.loc[['c', 'd'], means].mean())
    draws = M.bootstrap(scores, y, known, patient, n_boot=50)
    low, high = M.percentile_interval(draws['ap'].mean(1))
    assert np.isclose(table.ap_low['macro'], low) and np.isclose(table.ap_high['macro'], high)
    assert (table.auroc_low < table.auroc).all() and (table.auroc < table.auroc_high).all()
    assert table.attrs['resampled'] == 'patients'


def test_report_skips_and_counts_or_follows_trcgl():
    scores, y, _, patient = random_scores()
    y[:, 0], y[:, 1] = 0, 1
    arguments = dict(patient_id=patient, label_names=NAMES, n_boot=30)
    skip = M.report(scores, y, convention='skip', **arguments)
    trcgl = M.report(scores, y, convention='trcgl', **arguments)
    measured = skip.auroc[['c', 'd']]
    assert skip.loc[['a', 'b'], ['auroc', 'auroc_low', 'ap', 'ap_high', 'f1', 'ece']].isna().all().all()
    assert skip.skipped.tolist() == [1, 1, 0, 0, 2]
    assert np.isclose(skip.auroc['macro'], measured.mean())
    assert skip.prevalence['b'] == 1 and skip.n_pos['a'] == 0
    assert trcgl.loc['a', ['auroc', 'ap', 'f1']].tolist() == [.5, 0, 0]
    assert trcgl.auroc['b'] == .5 and trcgl.skipped.sum() == 0
    assert np.isclose(trcgl.auroc['macro'], (1 + measured.sum())/4)
    assert trcgl.auroc_low['macro'] < trcgl.auroc['macro'] < trcgl.auroc_high['macro']
    filled, left_out = (table.auroc_high['macro'] - table.auroc_low['macro'] for table in (trcgl, skip))
    assert filled == pytest.approx(left_out/2)
    with pytest.raises(ValueError, match="'skip' or 'trcgl'"): M.report(scores, y, convention='zero')


def test_trcgl_always_present_label_has_its_own_ap():
    scores, y, _, _ = random_scores()
    y[:, 1] = 1
    table = M.report(scores, y, n_boot=0, convention='trcgl', label_names=NAMES)
    assert table.ap['b'] == 1
    assert table.f1['b'] == pytest.approx(f1_score(y[:, 1], scores[:, 1] >= .5))


def test_report_when_nothing_can_be_measured():
    scores, y = np.full((6, 2), .5), np.zeros((6, 2))
    table = M.report(scores, y, patient_id=range(6), n_boot=5)
    assert table[['auroc', 'auroc_low', 'ap', 'f1', 'ece']].isna().all().all() and table.skipped['macro'] == 2
    known = np.zeros((6, 2), bool)
    table = M.report(scores, y, known, range(6), n_boot=5)
    assert table.n.sum() == 0 and table.prevalence.isna().all()


def test_report_warns_without_patients_and_not_without_intervals():
    scores, y, _, patient = random_scores()
    with pytest.warns(UserWarning, match='no patient_id'): table = M.report(scores, y, n_boot=10)
    assert table.attrs['resampled'] == 'rows'
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert M.report(scores, y, patient_id=patient, n_boot=10).attrs['seed'] == 0
        plain = M.report(scores, y, n_boot=0)
    assert plain.attrs['groups'] is None
    assert M.report(scores, y, groups='auto', n_boot=0).attrs['groups'] == 'auto'
    assert plain.attrs['resampled'] is None and plain.auroc.notna().all()
    assert plain[['auroc_low', 'ap_high']].isna().all().all()


def test_report_names():
    scores, y, _, _ = random_scores()
    frame, backwards = pd.DataFrame(scores, columns=NAMES), pd.DataFrame(y, columns=NAMES[::-1])
    assert list(M.report(frame, y, n_boot=0).index) == NAMES + ['macro']
    assert list(M.report(scores, y, n_boot=0).index)[:2] == ['label 0', 'label 1']
    with pytest.raises(ValueError, match='scores have columns'): M.report(frame, backwards, n_boot=0)
    for names, words in ((['a'], '4 names'), (list('aabc'), 'twice'), (['a', 'b', 'c', 'macro'], 'rename')):
        with pytest.raises(ValueError, match=words): M.report(scores, y, label_names=names, n_boot=0)
    heads = dict.fromkeys(NAMES, 'head')
    for groups, words in (({'a': 'head'}, 'no group for'), (heads | {'z': 'tail'}, 'no label is called')):
        with pytest.raises(ValueError, match=words): M.report(frame, y, groups=groups, n_boot=0)
    auto = M.report(frame, y, groups='auto', n_boot=0)
    found = [g for g in ('head', 'medium', 'tail') if g in L.frequency_groups(y).values()]
    assert list(auto.index)[4:] == ['macro'] + found


# one set of labels for a row

ENDS = ['auroc', 'auroc_low', 'auroc_high', 'ap', 'ap_low', 'ap_high']


def with_unmeasurable(kind, n=300, seed=1):
    "One label that can be measured and one that cannot, as in a CheXpert table with blanks left unknown."
    rng = np.random.default_rng(seed)
    y = np.c_[rng.random(n) < .3, np.ones(n)].astype(int)
    measured = np.clip(rng.normal(.3 + .2*y[:, 0], .2), 0, 1)
    scores = np.c_[measured, rng.random(n)]
    known = np.ones((n, 2), bool)
    if kind == 'known where present': y[:, 1] = known[:, 1] = rng.random(n) < .2
    if kind == 'absent': y[:, 1] = 0
    if kind == 'unknown': known[:, 1] = False
    return scores, y, known


@pytest.mark.parametrize('kind', ['present', 'known where present', 'absent', 'unknown'])
def test_a_label_that_cannot_be_measured_moves_no_mean(kind):
    scores, y, known = with_unmeasurable(kind)
    table = M.report(scores, y, known, np.arange(300), ['a', 'b'], {'a': 'head', 'b': 'tail'}, n_boot=500)
    assert np.allclose(table.loc['macro', ENDS].astype(float), table.loc['a', ENDS].astype(float))
    assert np.allclose(table.loc['head', ENDS].astype(float), table.loc['a', ENDS].astype(float))
    assert table.loc[['b', 'tail'], ENDS].isna().all().all()
    assert table.skipped.tolist() == [0, 1, 1, 0, 1]
    assert table.prevalence['macro'] == table.prevalence['a'] and table.n['macro'] == known.sum()
    if kind == 'present': assert table.loc['macro', ['ap', 'ap_low', 'ap_high']].round(3).tolist() == [.612, .515, .709]


def test_the_field_case_of_the_macro_interval(cxr_data):
    script = cxr_data/'field_cases/02_macro_ap_interval/repro.py'
    if not script.exists(): pytest.skip(f'no {script}')
    found = {}
    exec(script.read_text(), found)
    assert found['r'].loc['macro', ['ap', 'ap_low', 'ap_high']].round(3).tolist() == [.612, .515, .709]


def messy(seed, n=150, C=5):
    "Labels of all kinds: absent, always present, known where present, nearly absent, ordinary."
    rng = np.random.default_rng(seed)
    scores, y, known, patient = random_scores(n, C, seed, 2, rng.choice([1., .7]))
    for c in range(C):
        kind = rng.integers(6)
        if kind == 0: y[:, c] = 0
        if kind == 1: y[:, c] = 1
        if kind == 2: known[:, c] &= y[:, c] == 1
        if kind == 3: y[:, c] = np.isin(patient, rng.choice(patient, 2))
    return scores, y, known, patient


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6))
@pytest.mark.filterwarnings('ignore:.*resamples hold')
def test_every_mean_is_over_the_labels_that_can_be_measured(seed):
    scores, y, known, patient = messy(seed)
    names, there = list('abcde'), ~M.find_unmeasurable(y, known)
    groups = dict(zip(names, np.random.default_rng(seed).choice(['head', 'medium', 'tail'], 5).tolist()))
    table = M.report(scores, y, known, patient, names, groups, n_boot=60)
    for row in table.index[5:]:
        mine = np.array([there[c] and row in ('macro', groups[name]) for c, name in enumerate(names)])
        if not mine.any():
            assert table.loc[row, [*ENDS, 'f1', 'ece']].isna().all()
            continue
        alone = M.report(scores[:, mine], y[:, mine], known[:, mine], patient, n_boot=60)
        columns = [*ENDS, 'f1', 'prevalence', 'ece']
        np.testing.assert_allclose(table.loc[row, columns].astype(float), alone.loc['macro', columns].astype(float))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6))
@pytest.mark.filterwarnings('ignore:.*(resamples hold|too few)')
def test_every_interval_holds_its_value(seed):
    "At a level of .999: whatever is missing, the value is one that its own resamples give."
    scores, y, known, patient = messy(seed)
    table = M.report(scores, y, known, patient, groups=dict(enumerate('aabbc')), n_boot=300, level=.999)
    for name in ('auroc', 'ap'):
        some = table[f'{name}_low'].notna()
        assert (table[f'{name}_low'] <= table[name] + 1e-12)[some].all(), table
        assert (table[name] <= table[f'{name}_high'] + 1e-12)[some].all(), table


def test_resamples_without_a_label_are_dropped_for_its_means_only():
    scores, y, _, patient = random_scores()
    y[:, 3] = np.isin(patient, np.unique(patient)[:5])
    groups = dict(zip(NAMES, ['head']*3 + ['tail']))
    table = M.report(scores, y, patient_id=patient, label_names=NAMES, groups=groups, n_boot=1000)
    draws = M.bootstrap(scores, y, patient_id=patient, n_boot=1000)
    there = ~np.isnan(draws['auroc'][:, 3])
    assert 980 < there.sum() < 1000 and np.array_equal(np.isnan(draws['ap']), np.isnan(draws['auroc']))
    assert all(table.attrs['draws'][row] == 1000 for row in ('a', 'b', 'c', 'head'))
    assert all(table.attrs['draws'][row] == there.sum() for row in ('d', 'macro', 'tail'))
    for name, low in (('auroc', table.auroc_low), ('ap', table.ap_low)):
        assert np.isclose(low['macro'], np.percentile(draws[name][there].mean(1), 2.5))
        assert np.isclose(low['head'], np.percentile(draws[name][:, :3].mean(1), 2.5))


def test_a_mean_that_few_resamples_hold_is_named():
    rng = np.random.default_rng(0)
    y = np.repeat(np.eye(150), 5, axis=0)      # other five patients each: one label is in 199 of 200 resamples
    with pytest.warns(UserWarning, match=r"macro: \d+ of 200 resamples hold .* fewest of 'label"):
        M.report(rng.random(y.shape), y, patient_id=np.arange(750), n_boot=200)


@pytest.mark.parametrize('present', [True, False], ids=['positives', 'negatives'])
def test_no_interval_from_few_patients(present):
    "Five patients with a label and five without it make an interval, four make none, nor one of a mean over the label."
    scores, y, _, patient = random_scores()
    few, enough = (np.isin(patient, np.unique(patient)[:k]) for k in (4, 5))
    y[:, 2], y[:, 3] = few == present, enough == present
    groups = dict(zip(NAMES, ['head', 'head', 'tail', 'tail']))
    with pytest.warns(UserWarning, match='no interval of macro, tail, too few .c.'):
        table = M.report(scores, y, patient_id=patient, label_names=NAMES, groups=groups, n_boot=100)
    ends = table[[name for name in ENDS if name.endswith(('low', 'high'))]]
    assert ends.loc[['a', 'b', 'd', 'head']].notna().all(None)
    assert ends.loc[['c', 'macro', 'tail']].isna().all(None) and table.auroc.notna().all()
    kind = 'positives' if present else 'negatives'
    assert table.attrs['few']['c'] == f'too few ({few.sum()} {kind} of 4 patients)'
    assert table.attrs['few'] == dict.fromkeys(['macro', 'tail'], 'too few (c)') | {'c': table.attrs['few']['c']}
    who = dict(patient_id=patient, label_names=NAMES)
    tested = M.delong_test(scores, scores**3 + y/9, y, **who, means=dict(macro=range(4)))
    assert tested.p.isna().to_dict() == dict(a=False, b=False, c=True, d=False, macro=True)
    with pytest.warns(UserWarning, match='too few .c.'):
        paired = M.paired_bootstrap(scores, y, y, **who, n_boot=50)
    assert np.isnan(paired.auroc_low[['c', 'macro']]).all() and not np.isnan(paired.auroc_low['d'])


def test_the_other_convention_holds_in_every_resample():
    scores, y, known, patient = random_scores()
    y[:, 0], y[:, 1], known[:, 1] = 0, 1, True
    y[:, 2] = np.isin(patient, np.unique(patient)[:5])
    draws = M.bootstrap(scores, y, patient_id=patient, n_boot=1000, convention='trcgl')
    plain = M.bootstrap(scores, y, patient_id=patient, n_boot=1000)
    assert (draws['auroc'][:, :2] == .5).all()
    assert (draws['ap'][:, :2] == [0, 1]).all()
    gone = np.isnan(plain['ap'][:, 2])
    assert gone.any() and (draws['ap'][gone, 2] == 0).all()
    assert (draws['auroc'][gone, 2] == .5).all()
    assert all(np.array_equal(draws[k][~gone, 2], plain[k][~gone, 2]) for k in draws)
    table = M.report(scores, y, patient_id=patient, label_names=NAMES, n_boot=1000, convention='trcgl')
    assert table.loc['b', ['auroc', 'ap']].tolist() == [.5, 1] and table.attrs['draws']['macro'] == 1000
    assert set(table.attrs['few']) == {'a', 'b'}                                     # they never vary
    assert table.ap_low['macro'] < table.ap['macro'] < table.ap_high['macro']


def test_macro_over_given_labels():
    draws = np.array([[.2, .4, np.nan], [.6, np.nan, np.nan]])
    assert np.allclose(M.macro(draws, [True, True, False]), [.3, np.nan], equal_nan=True)
    assert np.allclose(M.macro(draws, [0]), [.2, .6])
    assert np.isnan(M.macro(draws, [])).all()
    assert np.allclose(M.macro(draws), [.3, .6])


# tables that say what they are

def test_rows_and_columns_in_another_order_are_refused():
    scores, y, known, patient = random_scores(40)
    names = [f'{i}.png' for i in range(40)]
    s, t = pd.DataFrame(scores, names, NAMES), pd.DataFrame(y, names, NAMES)
    assert np.array_equal(M.auroc(s, t), M.auroc(scores, y))
    mixed = t.iloc[np.r_[1, 0, 2:40]]
    said = r"row 0 is '0.png' in the scores and '1.png' in the labels.*\.loc"
    for call in [M.auroc, M.average_precision, M.bootstrap, *PROBABILITY_CALLS]:
        with pytest.raises(ValueError, match=said): call(s, mixed)
        with pytest.raises(ValueError, match='scores have columns'): call(s, t[NAMES[::-1]])
    with pytest.raises(ValueError, match='in the mask'): M.auroc(s, t, pd.DataFrame(known, names[::-1], NAMES))
    people = pd.Series(patient, names[::-1])
    with pytest.raises(ValueError, match='in the patients'): M.report(s, t, patient_id=people, n_boot=10)
    with pytest.raises(ValueError, match='label_names are'): M.report(s, t, label_names=NAMES[::-1], n_boot=0)
    renamed = M.report(s, t, label_names=list('wxyz'), n_boot=0)                    # other names are new names
    assert list(renamed.index) == [*'wxyz', 'macro']


def test_rows_that_say_nothing_are_taken_as_they_are():
    scores, y, _, _ = random_scores(40)
    t = pd.DataFrame(y, columns=NAMES).sample(frac=1, random_state=0)              # shuffled, its numbers with it
    named = pd.DataFrame(scores, [f'{i}.png' for i in range(40)], NAMES)
    for s in (pd.DataFrame(scores), scores, torch.tensor(scores), named):
        assert np.array_equal(M.auroc(s, t), M.auroc(scores, t.to_numpy()))


# two models on the same images

def two_models(seed=0, n=240, C=3, effect=.3):
    "Scores of two models whose errors are related, labels and patients."
    rng = np.random.default_rng(seed)
    patient = np.repeat(np.arange(n//4), 4)
    y = (rng.random((n//4, C)) < .35)[patient].astype(float)
    def noise(person, image):
        own = rng.normal(size=(n, C))
        return image*own + person*rng.normal(size=(n//4, C))[patient]
    shared = noise(.7, .7)
    logits = [k*y + shared + noise(.6, .4) for k in (1 + effect, 1)]
    return [1/(1 + np.exp(-z)) for z in logits], y, patient


def test_paired_bootstrap_is_that_of_copied_rows():
    (a, b), y, patient = two_models()
    known = np.random.default_rng(1).random(y.shape) < .8
    groups = dict(x='head', y='head', z='tail')
    table = M.paired_bootstrap(a, b, y, known, patient, list('xyz'), groups, n_boot=50, seed=3)
    drawn = np.random.default_rng(3).integers(60, size=(50, 60))
    codes = L.patient_codes(patient, 240)
    rows = [np.concatenate([np.flatnonzero(codes == p) for p in people]) for people in drawn]
    members = [[0], [1], [2], [0, 1, 2], [0, 1], [2]]                              # of the rows of the table
    for name, metric in (('auroc', M.auroc), ('ap', M.average_precision)):
        ahead = lambda r: np.subtract(*(metric(s[r], y[r], known[r]) for s in (a, b)))
        draws, point = np.array([ahead(r) for r in rows]), ahead(slice(None))
        for row, of in zip(table.index, members):
            want = [point[of].mean(), *np.percentile(draws[:, of].mean(1), [2.5, 97.5])]
            np.testing.assert_allclose(table.loc[row, [name, f'{name}_low', f'{name}_high']].astype(float), want)
    assert table.attrs['resampled'] == 'patients' and list(table.index) == ['x', 'y', 'z', 'macro', 'head', 'tail']


def test_paired_bootstrap_takes_what_predict_gives_and_a_data_set():
    "As `report` does: the label columns, and known entries, patients and names of the data set."
    from cxr_workbench.data import from_arrays
    (a, b), y, patient = two_models()
    known = np.random.default_rng(1).random(y.shape) < .8
    data = from_arrays(np.zeros((len(y), 8, 8), np.uint8), y, known, patient_id=patient, label_names=list('xyz'))
    def as_predicted(scores):
        return pd.DataFrame({'row': range(len(y)), 'path': '', **dict(zip('xyz', scores.T))})
    found = M.paired_bootstrap(as_predicted(a), as_predicted(b), data, n_boot=20)
    wanted = M.paired_bootstrap(a, b, y, known, patient, list('xyz'), n_boot=20)
    pd.testing.assert_frame_equal(found, wanted)
    assert found.attrs['resampled'] == 'patients'
    with pytest.raises(ValueError, match='place 0 of the scores'):
        M.paired_bootstrap(as_predicted(a), as_predicted(b)[::-1], data, n_boot=20)


def test_paired_bootstrap_leaves_out_what_cannot_be_measured():
    (a, b), y, patient = two_models()
    full = M.paired_bootstrap(a[:, :2], b[:, :2], y[:, :2], patient_id=patient, n_boot=50)
    y[:, 2] = 1
    table = M.paired_bootstrap(a, b, y, patient_id=patient, n_boot=50)
    assert table.loc['label 2', ENDS].isna().all() and table.skipped['macro'] == 1
    assert np.allclose(table.loc['macro', ENDS].astype(float), full.loc['macro', ENDS].astype(float))


def test_paired_bootstrap_refuses_and_warns():
    (a, b), y, patient = two_models()
    names = [f'{i}.png' for i in range(len(y))]
    with pytest.raises(ValueError, match='scores of a.*scores of b'):
        M.paired_bootstrap(pd.DataFrame(a, names), pd.DataFrame(b, names[::-1]), y, patient_id=patient)
    with pytest.raises(ValueError, match='scores have shape'): M.paired_bootstrap(a, b[1:], y, patient_id=patient)
    nothing = np.full_like(b, np.nan)
    with pytest.raises(ValueError, match='in 240 of 240 rows'): M.paired_bootstrap(a, nothing, y, patient_id=patient)
    with pytest.raises(ValueError, match='n_boot=0'): M.paired_bootstrap(a, b, y, patient_id=patient, n_boot=0)
    with pytest.warns(UserWarning, match='no patient_id'): M.paired_bootstrap(a, b, y, n_boot=5)
    with pytest.warns(UserWarning, match='no patient_id'): M.delong_test(a, b, y)


def brute_force_placements(scores, positive):
    "Over all pairs."
    psi = (scores[:, None] > scores).astype(float) + (scores[:, None] == scores)/2
    return np.where(positive, psi[:, ~positive].mean(1), psi[positive].mean(0))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([1, 8]))
def test_delong_equals_its_formula(seed, digits):
    "Ties, unknown entries; every row its own patient: DeLong, DeLong and Clarke-Pearson (1988), from all pairs."
    from scipy.stats import norm
    rng = np.random.default_rng(seed)
    a, y, known, _ = random_scores(50, 2, seed, digits, .9)
    b = (a + rng.normal(size=a.shape).round(digits))
    table = M.delong_test(a, b, y, known, np.arange(50))
    for c in range(2):
        k = known[:, c]
        positive = y[k, c] == 1
        if min(positive.sum(), (~positive).sum()) < 5: continue
        va, vb = (brute_force_placements(s[k, c], positive) for s in (a, b))
        S10, S01 = np.cov(va[positive], vb[positive]), np.cov(va[~positive], vb[~positive])
        S = S10/positive.sum() + S01/(~positive).sum()
        variance = S[0, 0] + S[1, 1] - 2*S[0, 1]
        d = roc_auc_score(y[k, c], a[k, c]) - roc_auc_score(y[k, c], b[k, c])
        if variance < 1e-12: continue
        row = table.iloc[c]
        assert np.isclose(row.difference, d) and np.isclose(row.z, d/np.sqrt(variance))
        assert np.isclose(row.p, 2*norm.sf(abs(row.z)))
        assert np.isclose(row.high - row.low, 2*norm.ppf(.975)*np.sqrt(variance))
        assert np.isclose(row.auroc_a - row.auroc_b, row.difference)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6))
def test_clustered_variance_equals_obuchowskis_sums(seed):
    "S10, S01 and S11 of the paper, patient by patient."
    scores, y, _, patient = random_scores(60, 1, seed, 1)
    positive, v = y[:, 0] == 1, brute_force_placements(scores[:, 0], y[:, 0] == 1)
    people, theta = np.unique(patient), roc_auc_score(positive, scores[:, 0])
    M_, N_ = positive.sum(), (~positive).sum()
    sums = [[((v - theta)*which)[patient == p].sum() for p in people] for which in (positive, ~positive)]
    counts = [len(set(patient[which])) for which in (positive, ~positive)]
    if min(counts) < 2: return
    S10 = counts[0]/(counts[0] - 1)*np.square(sums[0]).sum()/M_
    S01 = counts[1]/(counts[1] - 1)*np.square(sums[1]).sum()/N_
    S11 = len(people)/(len(people) - 1)*np.dot(*sums)
    want = max(0, S10/M_ + S01/N_ + 2*S11/(M_*N_))
    assert np.isclose(M.clustered_variance(M.placements(scores[:, 0], positive), positive, patient), want)


def test_copies_of_an_image_bring_nothing():
    (a, b), y, patient = two_models()
    once = M.delong_test(a, b, y, patient_id=patient)
    copies = [np.tile(part, (5, 1)) for part in (a, b, y)]
    many = M.delong_test(*copies, patient_id=np.tile(patient, 5))
    pd.testing.assert_frame_equal(once, many)
    alone = M.delong_test(*copies, patient_id=np.arange(5*len(y)))
    assert (alone.p < once.p).all()


def test_delong_at_its_edges():
    (a, b), y, patient = two_models()
    same = M.delong_test(a, a**3, y, patient_id=patient)
    assert (same[['difference', 'low', 'high', 'z']] == 0).all().all() and (same.p == 1).all()
    y[:, 0], y[:, 1], y[:, 2] = 0, 1, patient == 0                          # absent, always present, one patient
    table = M.delong_test(a, b, y, patient_id=patient, label_names=list('xyz'))
    assert table.loc[['x', 'y']].isna().all().all()
    assert table.loc['z', ['low', 'high', 'z', 'p']].isna().all()
    assert np.isclose(table.difference['z'], table.auroc_a['z'] - table.auroc_b['z'])
    right = np.array([[.9], [.8], [.2], [.1]])
    table = M.delong_test(right, 1 - right, [[1], [1], [0], [0]], patient_id=range(4))    # no spread to judge by
    assert table.difference.item() == 1 and np.isnan(table.p.item())


def test_coverage_of_the_comparisons():
    "300 test sets of 60 patients with four images: the true difference is that of a large sample."
    (a, b), y, _ = two_models(seed=10**6, n=400_000, C=1)
    truth = float((M.auroc(a, y) - M.auroc(b, y))[0])
    inside = dict.fromkeys(['bootstrap', 'clustered', 'images'], 0)
    for seed in range(300):
        (a, b), y, patient = two_models(seed, C=1)
        boot = M.paired_bootstrap(a, b, y, patient_id=patient, n_boot=200, seed=seed).loc['macro']
        formula = M.delong_test(a, b, y, patient_id=patient).iloc[0]
        images = M.delong_test(a, b, y, patient_id=np.arange(len(y))).iloc[0]
        inside['bootstrap'] += boot.auroc_low <= truth <= boot.auroc_high
        inside['clustered'] += formula.low <= truth <= formula.high
        inside['images'] += images.low <= truth <= images.high
    assert 273 <= inside['bootstrap'] <= 297 and 273 <= inside['clustered'] <= 297, inside     # 95 % of 300 is 285
    assert inside['images'] < 265, inside                                          # images taken for independent


def test_delong_under_no_difference():
    "Two equally good models with a patient's images alike: one test in twenty says otherwise."
    found = 0
    for seed in range(1000, 1400):
        (a, b), y, patient = two_models(seed, C=1, effect=0)
        found += M.delong_test(a, b, y, patient_id=patient).p.iloc[0] < .05
    assert 8 <= found <= 36, found                                                  # of 400


# pointing game

def draw_boxes(rng, n=5, labels=3, size=32):
    "A box of 4 to 11 pixels a side in each mask, (n, labels, size, size)."
    masks = np.zeros((n, labels, size, size), bool)
    for mask in masks.reshape(-1, size, size):
        top, left = rng.integers(0, 20, 2)
        height, width = rng.integers(4, 12, 2)
        mask[top:top + height, left:left + width] = True
    return masks


def test_pointing_game_reductions():
    rng = np.random.default_rng(0)
    masks = draw_boxes(rng)
    assert (M.pointing_game(masks, masks) == 1).all()
    assert (M.pointing_game(~masks, masks) == 0).all()
    assert np.allclose(M.pointing_game(np.zeros(masks.shape), masks), masks.mean((2, 3)))           # blind pointing
    assert (M.pointing_game(rng.random(masks.shape), masks, tolerance=50) == 1).all()
    tensors = torch.tensor(masks).float(), torch.tensor(masks)
    assert np.array_equal(M.pointing_game(*tensors), np.ones((5, 3)))
    masks[2, 1] = False
    assert np.isnan(M.pointing_game(np.zeros((5, 3, 8, 8)), masks)).sum() == 1


CELLS, PIXELS = st.integers(1, 9), st.integers(10, 40)


@settings(max_examples=50, deadline=None)
@given(CELLS, CELLS, PIXELS, PIXELS, st.integers(0, 10**6))
def test_pointing_game_on_other_resolutions(h, w, H, W, seed):
    rng = np.random.default_rng(seed)
    m, i, j = rng.random((h, w)), rng.integers(h), rng.integers(w)
    m[i, j] = 2
    lesion = np.zeros((H, W), bool)
    lesion[int((i + .5)*H/h), int((j + .5)*W/w)] = True
    assert M.pointing_game(m[None], lesion[None])[0] == 1
    assert M.pointing_game(m[None], ~lesion[None])[0] == 0


def test_pointing_game_ties_tolerance_and_errors():
    lesion, two, near = np.zeros((3, 1, 16, 16))
    lesion[0, 4:8, 4:8] = 1
    two[0, 5, 5] = two[0, 12, 12] = 1
    near[0, 10, 11] = 1                                        # 3 down and 4 right of pixel (7, 7): distance 5
    assert M.pointing_game(two, lesion)[0] == .5
    assert M.pointing_game(near, lesion, 4.9)[0] == 0 and M.pointing_game(near, lesion, 5)[0] == 1
    more = np.zeros((2, 16, 16))
    for maps, masks in ((two, lesion[0]), (two, more), (two[0], lesion[0])):
        with pytest.raises(ValueError, match='maps \\(n'): M.pointing_game(maps, masks)
    with pytest.raises(ValueError, match='NaN'): M.pointing_game(np.full_like(two, np.nan), lesion)
    with pytest.raises(ValueError, match='tolerance'): M.pointing_game(two, lesion, -1)


def test_overlap_checks_its_maps_and_threshold():
    lesion = np.zeros((1, 16, 16))
    lesion[0, 4:8, 4:8] = 1
    with pytest.raises(ValueError, match='maps \\(n'): M.map_iou(lesion, lesion[0])
    with pytest.raises(ValueError, match='NaN'): M.map_iou(np.full_like(lesion, np.nan), lesion)
    for wrong in (0, 1.1):
        with pytest.raises(ValueError, match='threshold'): M.map_iou(lesion, lesion, wrong)


def test_box_masks(cxr_data):
    mask = M.box_masks([[2, 1, 3, 2]], 6, 8)[0]
    assert mask.sum() == 6 and mask[1:3, 2:5].all()
    for box in ([9, 0, 2, 2], [0, 0, 0, 4], [0, 0, np.nan, 4]):
        with pytest.raises(ValueError, match='covers no pixel'): M.box_masks([box], 6, 8)
    boxes = pd.read_csv(cxr_data/'nih14/bbox_subset_1024px.csv')
    columns = [c for c in boxes if c.lower() in ('x', 'y', 'w', 'h', 'width', 'height')]
    areas = M.box_masks(boxes[columns], 1024, 1024).sum((1, 2))
    assert len(areas) == 158 and np.allclose(areas, boxes[columns[2]]*boxes[columns[3]], rtol=.03)


# folds

def test_paired_interval_against_scipy():
    from scipy.stats import ttest_rel
    rng = np.random.default_rng(0)
    a, b = rng.random(6), rng.random(6)
    ours, theirs = M.paired_interval(a, b, test_to_train=0), ttest_rel(a, b).confidence_interval(.95)
    assert np.allclose([ours.low, ours.high], [theirs.low, theirs.high])
    assert np.isclose(ours.mean, (a - b).mean())
    wide = M.paired_interval(a, b, test_to_train=1/5)
    assert np.isclose((wide.high - wide.mean)/(ours.high - ours.mean), np.sqrt(1 + 6/5))
    with pytest.raises(ValueError, match='two folds'): M.paired_interval([1], [1], test_to_train=0)
    with pytest.raises(ValueError, match='one score per fold'): M.paired_interval([1, 2], [1, 2, 3], test_to_train=0)
    with pytest.raises(ValueError, match='fold 1'): M.paired_interval([1, np.nan], [1, 2], test_to_train=0)


def test_folds_in_another_order_are_refused():
    a, b = pd.Series([.5, .6, .7], list('abc')), pd.Series([.4, .3, .2], list('cba'))
    with pytest.raises(ValueError, match="row 0 is 'a' in the scores of a and 'c' in the scores of b"):
        M.paired_interval(a, b, test_to_train=0)
    assert M.paired_interval(a, b[::-1], test_to_train=0).mean == pytest.approx(.3)


def test_nobody_forgets_what_the_folds_share():
    for call in (lambda: M.paired_interval([1, 2], [2, 4]), lambda: M.corrected_interval([1, 2])):
        with pytest.raises(TypeError, match='test_to_train'): call()
    for wrong in (-.1, np.nan, np.inf, None, [.25]):
        with pytest.raises(ValueError, match='ratio of test to training rows'): M.corrected_interval([1, 2], wrong)
    with pytest.raises(ValueError, match='level'): M.corrected_interval([1, 2], 0, level=95)


def test_corrected_interval_by_hand():
    from scipy.stats import t
    d = np.array([.012, .004, -.003, .021, .009])
    half = t.ppf(.975, 4)*d.std(ddof=1)*np.sqrt(1/5 + 1/4)
    assert np.allclose(M.corrected_interval(d, 1/4), d.mean() + half*np.array([0, -1, 1]))
    narrow = M.corrected_interval(torch.tensor(d), 1/4, .9)
    assert np.isclose((narrow.high - narrow.mean)/half, t.ppf(.95, 4)/t.ppf(.975, 4))


def test_draws_are_averaged_inside_a_fold():
    rng = np.random.default_rng(1)
    runs, fold = rng.normal(size=15), np.tile(['a', 'b', 'c', 'd', 'e'], 3)
    means = [runs[fold == f].mean() for f in 'abcde']
    assert np.allclose(M.corrected_interval(runs, 1/4, fold=fold), M.corrected_interval(means, 1/4))
    zero = np.zeros(15)
    assert np.allclose(M.paired_interval(runs, zero, test_to_train=1/4, fold=fold), M.corrected_interval(means, 1/4))
    with pytest.raises(ValueError, match='two folds'): M.corrected_interval(runs, 1/4, fold=np.zeros(15))
    with pytest.raises(ValueError, match='15 rows need 15'): M.corrected_interval(runs, 1/4, fold=[1, 2])


def test_coverage_of_the_corrected_interval():
    "Differences with a correlation of .2 = rho/(1 + rho), as rho = 1/4 supposes: the plain interval is too narrow."
    rng, inside = np.random.default_rng(0), {0: 0, 1/4: 0}
    for _ in range(1000):
        d = np.sqrt(.2)*rng.normal() + np.sqrt(.8)*rng.normal(size=5)
        for ratio in inside:
            found = M.corrected_interval(d, ratio)
            inside[ratio] += found.low <= 0 <= found.high
    assert 930 <= inside[1/4] <= 970 and inside[0] < 880, inside


# real predictions

def test_report_on_real_predictions(chexnet):
    scores, y, patient = chexnet
    start = time.perf_counter()
    table = M.report(scores, y, patient_id=patient, groups='auto')
    took = time.perf_counter() - start
    assert len(y) == 22433 and took < 30, f'{took:.1f} s'
    assert [round(table.auroc[name], 3) for name in ('Atelectasis', 'Cardiomegaly', 'Hernia')] == [.818, .909, .918]
    assert table.f1['Hernia'] == 0 and table.skipped['macro'] == 0 and table.n_pos['Hernia'] == 42
    assert list(table.index) == L.NIH14 + ['macro', 'head', 'medium', 'tail']
    assert ((table.auroc_low < table.auroc) & (table.auroc < table.auroc_high)).all()
    rows = M.percentile_interval(M.bootstrap(scores, y, n_boot=200)['auroc'])
    ratio = (table.auroc_high - table.auroc_low)[L.NIH14].to_numpy()/(rows[1] - rows[0])
    assert np.median(ratio) > 1.1 and ratio[1] > 1.2                              # Cardiomegaly belongs to patients
