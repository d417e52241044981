"Metrics against scikit-learn and brute force, the bootstrap against theory, and real predictions on the NIH test images."
import time, warnings
import numpy as np, pandas as pd, pytest, torch
from hypothesis import given, settings, strategies as st
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score
from cxr_workbench import labels as L, metrics as M

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

def test_bad_scores_are_named():
    scores, y, known, patient = random_scores()
    for value in (np.nan, np.inf, -np.inf):
        bad = scores.copy(); bad[[7, 40], 2] = value
        for call in (M.auroc, M.average_precision, M.f1, M.calibration_error, M.tune_thresholds, lambda s, t: M.report(s, t, n_boot=0)):
            with pytest.raises(ValueError, match=r'2 of 300 rows: \[7, 40\]'): call(bad, y)
    with pytest.raises(ValueError, match=r'scores have shape \(299, 4\)'): M.auroc(scores[1:], y)
    with pytest.raises(ValueError, match='LabelPolicy'): M.auroc(scores, np.where(y == 1, -1, 0))
    with pytest.raises(ValueError, match='299'): M.report(scores, y, patient_id=patient[1:])


def test_logits_are_refused_where_probabilities_are_needed():
    scores, y, _, _ = random_scores()
    logits = 10*scores - 5
    assert np.array_equal(M.auroc(logits, y), M.auroc(scores, y))
    for call in (M.f1, M.calibration_error, M.tune_thresholds, lambda s, t: M.report(s, t, n_boot=0)):
        with pytest.raises(ValueError, match='apply a sigmoid'): call(logits, y)


def test_torch_frames_and_float32():
    scores, y, known, _ = random_scores(known=.8)
    single = scores.astype(np.float32)
    expected = M.auroc(single, y, known)
    for s, t, k in ((torch.tensor(single, requires_grad=True), torch.tensor(y), torch.tensor(known)), (pd.DataFrame(single), pd.DataFrame(y), pd.DataFrame(known)), (single.tolist(), y.tolist(), known.tolist())):
        assert np.array_equal(M.auroc(s, t, k), expected)


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
        if 0 < t.sum() < len(t): assert auc[c] == roc_auc_score(t, s) and ap[c] == average_precision_score(t, s)
        else: assert np.isnan(auc[c]) and np.isnan(ap[c])


def test_absent_and_always_present_labels_are_nan():
    scores, y, known, _ = random_scores()
    y[:, 0], y[:, 1], known[:, 2] = 0, 1, False
    assert M.absent_labels(y, known).tolist() == [True, True, True, False]
    for values in (M.auroc(scores, y, known), M.average_precision(scores, y, known), M.f1(scores, y, known=known)):
        assert np.isnan(values).tolist() == [True, True, True, False]
    assert np.isnan(M.calibration_error(scores, y, known)).tolist() == [False, False, True, False]


def test_f1_threshold_is_inclusive_and_per_label():
    scores, y, known, _ = random_scores(known=.9)
    threshold = np.array([.5, .4, .3, .9])
    expected = [f1_score(y[known[:, c], c], scores[known[:, c], c] >= threshold[c]) for c in range(4)]
    assert np.allclose(M.f1(scores, y, threshold, known), expected)
    assert M.f1([[.5], [.4]], [[1], [0]], .5)[0] == 1
    for wrong in ([.5, .5], np.nan, 1.5, [.5, .5, .5, np.nan]):
        with pytest.raises(ValueError, match='threshold'): M.f1(scores, y, wrong)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([1, 2, 8]))
def test_tuned_threshold_is_the_best_of_all(seed, digits):
    scores, y, known, _ = random_scores(40, 3, seed, digits, .8)
    chosen, absent = M.tune_thresholds(scores, y, known), M.absent_labels(y, known)
    for c in range(3):
        s, t = scores[known[:, c], c], y[known[:, c], c]
        if absent[c]: assert chosen[c] == .5; continue
        candidates = np.unique(s)
        called = s >= candidates[:, None]
        values = 2*(called & (t == 1)).sum(1)/(called.sum(1) + t.sum())
        assert chosen[c] == candidates[np.isclose(values, values.max())].max()       # the highest of equally good ones
    assert (M.tune_thresholds(scores, 0*y, default=.2) == .2).all()


def test_calibration_error_by_hand_and_at_the_edges():
    scores, y = np.array([[.05], [.15], [.15], [.95], [1.], [.1]]), np.array([[0], [1], [0], [1], [0], [0]])
    by_hand = (.05 + abs(.15 + .15 + .1 - 1) + abs(1.95 - 1))/6                    # bins [0, .1), [.1, .2), [.9, 1]
    assert np.isclose(M.calibration_error(scores, y, bins=10)[0], by_hand)
    known = np.array([[1], [1], [0], [1], [0], [0]])
    assert np.isclose(M.calibration_error(scores, y, known, bins=10)[0], (.05 + .85 + .05)/3)


def test_macro():
    assert M.macro([.2, np.nan, .4]) == pytest.approx(.3) and np.isnan(M.macro([np.nan, np.nan])) and np.isnan(M.macro([]))
    assert np.allclose(M.macro([[.2, .4], [np.nan, .6]]), [.3, .6])


# bootstrap

@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([1, 2, 8]))
def test_weighted_areas_equal_sklearn_with_sample_weight(seed, digits):
    scores, y, _, patient = random_scores(80, 1, seed, digits)
    rng = np.random.default_rng(seed)
    P = patient.max() + 1
    weights = rng.integers(0, 4, (P, 7)).astype(float)
    a, b = M.rank_patients(scores[:, 0], y[:, 0], patient, P)
    auc, ap = M.weighted_areas(a @ weights, b @ weights)
    for r in range(7):
        w = weights[patient, r]; used = w > 0
        t, s, w = y[used, 0], scores[used, 0], w[used]
        if 0 < t.sum() < len(t): assert np.isclose(auc[r], roc_auc_score(t, s, sample_weight=w)) and np.isclose(ap[r], average_precision_score(t, s, sample_weight=w))
        elif not t.sum(): assert np.isnan(auc[r]) and np.isnan(ap[r])


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
    one = M.bootstrap(scores, y, known, patient, n_boot=100, seed=1)
    for again in (M.bootstrap(scores, y, known, patient, n_boot=100, seed=1, chunk=17), M.bootstrap(scores**2, y, known, [f'p{p}' for p in patient], n_boot=100, seed=1)):
        assert all(np.allclose(one[k], again[k], equal_nan=True) for k in one)    # an increasing function of the scores changes no draw
    assert not np.allclose(one['auroc'], M.bootstrap(scores, y, known, patient, n_boot=100, seed=2)['auroc'])
    with pytest.raises(ValueError, match='at least two patients'): M.bootstrap(scores, y, known, np.zeros(300))


def test_label_that_is_missing_from_some_resamples():
    scores, y, _, patient = random_scores()
    y[:, 3] = 0; y[:2, 3] = 1
    draws = M.bootstrap(scores, y, patient_id=patient, n_boot=200)['auroc'][:, 3]
    assert 0 < np.isnan(draws).sum() < 200
    low, high = M.percentile_interval(draws)
    assert low <= high and np.isnan(M.percentile_interval(np.full((5, 2), np.nan))[0]).all()


def clustered(rng, patients=80, images=6, share=.8):
    "One label; labels belong to patients, and a patient's images share most of their noise. The true AUROC is known."
    sick = np.repeat(rng.random(patients) < .4, images)
    noise = np.sqrt(share)*np.repeat(rng.normal(size=patients), images) + np.sqrt(1 - share)*rng.normal(size=patients*images)
    return (1.*sick + noise)[:, None], sick[:, None].astype(float), np.repeat(np.arange(patients), images)


def test_coverage_of_the_patient_bootstrap():
    from scipy.stats import norm
    truth, rng, inside = norm.cdf(1/np.sqrt(2)), np.random.default_rng(0), {'patients': 0, 'rows': 0}
    for _ in range(200):
        scores, y, patient = clustered(rng)
        for name, ids in (('patients', patient), ('rows', None)):
            low, high = M.percentile_interval(M.bootstrap(scores, y, patient_id=ids, n_boot=200, seed=int(rng.integers(2**31)))['auroc'])
            inside[name] += bool(low[0] <= truth <= high[0])
    assert 180 <= inside['patients'] <= 199, inside                               # 95 % of 200 is 190
    assert inside['rows'] < 150, inside                                           # images taken for independent


# report

COLUMNS = ['auroc', 'auroc_low', 'auroc_high', 'ap', 'ap_low', 'ap_high', 'f1', 'threshold', 'prevalence', 'n', 'n_pos', 'ece', 'skipped']


def test_report_rows_and_columns():
    scores, y, known, patient = random_scores(known=.9)
    table = M.report(scores, y, known, patient, NAMES, {'a': 'head', 1: 'head', 'c': 'tail', 'd': 'tail'}, threshold=[.5, .4, .3, .2], n_boot=50)
    assert list(table.index) == NAMES + ['macro', 'head', 'tail'] and table.index.name == 'label' and list(table) == COLUMNS
    assert np.array_equal(table.auroc[NAMES], M.auroc(scores, y, known)) and np.array_equal(table.ap[NAMES], M.average_precision(scores, y, known))
    assert np.array_equal(table.f1[NAMES], M.f1(scores, y, [.5, .4, .3, .2], known)) and np.array_equal(table.ece[NAMES], M.calibration_error(scores, y, known))
    assert table.threshold[NAMES].tolist() == [.5, .4, .3, .2] and table.threshold[4:].isna().all()
    assert np.array_equal(table.n[NAMES], known.sum(0)) and np.array_equal(table.n_pos[NAMES], (y*known).sum(0)) and table.n.loc['macro'] == known.sum()
    assert np.allclose(table.loc['tail', ['auroc', 'ap', 'f1', 'ece', 'prevalence']].astype(float), table.loc[['c', 'd'], ['auroc', 'ap', 'f1', 'ece', 'prevalence']].mean())
    draws = M.bootstrap(scores, y, known, patient, n_boot=50)
    low, high = M.percentile_interval(draws['ap'].mean(1))
    assert np.isclose(table.ap_low['macro'], low) and np.isclose(table.ap_high['macro'], high)
    assert (table.auroc_low < table.auroc).all() and (table.auroc < table.auroc_high).all() and table.attrs['resampled'] == 'patients'


def test_report_skips_and_counts_or_follows_trcgl():
    scores, y, _, patient = random_scores()
    y[:, 0], y[:, 1] = 0, 1
    skip, trcgl = (M.report(scores, y, patient_id=patient, label_names=NAMES, n_boot=30, convention=c) for c in ('skip', 'trcgl'))
    assert skip.loc[['a', 'b'], ['auroc', 'auroc_low', 'ap', 'ap_high', 'f1', 'ece']].isna().all().all() and skip.skipped.tolist() == [1, 1, 0, 0, 2]
    assert np.isclose(skip.auroc['macro'], skip.auroc[['c', 'd']].mean()) and skip.prevalence['b'] == 1 and skip.n_pos['a'] == 0
    assert trcgl.loc['a', ['auroc', 'ap', 'f1']].tolist() == [.5, 0, 0] and trcgl.auroc['b'] == .5 and trcgl.skipped.sum() == 0
    assert np.isclose(trcgl.auroc['macro'], (1 + skip.auroc[['c', 'd']].sum())/4) and trcgl.auroc_low['macro'] < trcgl.auroc['macro'] < trcgl.auroc_high['macro']
    assert (trcgl.auroc_high['macro'] - trcgl.auroc_low['macro']) == pytest.approx((skip.auroc_high['macro'] - skip.auroc_low['macro'])/2)
    with pytest.raises(ValueError, match="'skip' or 'trcgl'"): M.report(scores, y, convention='zero')


def test_trcgl_always_present_label_has_its_own_ap():
    scores, y, _, _ = random_scores()
    y[:, 1] = 1
    table = M.report(scores, y, n_boot=0, convention='trcgl', label_names=NAMES)
    assert table.ap['b'] == 1 and table.f1['b'] == pytest.approx(f1_score(y[:, 1], scores[:, 1] >= .5))


def test_report_when_nothing_can_be_measured():
    table = M.report(np.full((6, 2), .5), np.zeros((6, 2)), patient_id=range(6), n_boot=5)
    assert table[['auroc', 'auroc_low', 'ap', 'f1', 'ece']].isna().all().all() and table.skipped['macro'] == 2
    known = np.zeros((6, 2), bool)
    table = M.report(np.full((6, 2), .5), np.zeros((6, 2)), known, range(6), n_boot=5)
    assert table.n.sum() == 0 and table.prevalence.isna().all()


def test_report_warns_without_patients_and_not_without_intervals():
    scores, y, _, patient = random_scores()
    with pytest.warns(UserWarning, match='no patient_id'): table = M.report(scores, y, n_boot=10)
    assert table.attrs['resampled'] == 'rows'
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert M.report(scores, y, patient_id=patient, n_boot=10).attrs['seed'] == 0
        plain = M.report(scores, y, n_boot=0)
    assert plain.attrs['resampled'] is None and plain[['auroc_low', 'ap_high']].isna().all().all() and plain.auroc.notna().all()


def test_report_names():
    scores, y, _, _ = random_scores()
    frame = pd.DataFrame(scores, columns=NAMES)
    assert list(M.report(frame, y, n_boot=0).index) == NAMES + ['macro'] and list(M.report(scores, y, n_boot=0).index)[:2] == ['label 0', 'label 1']
    with pytest.raises(ValueError, match='scores have columns'): M.report(frame, pd.DataFrame(y, columns=NAMES[::-1]), n_boot=0)
    for names, words in ((['a'], '4 names'), (list('aabc'), 'twice'), (['a', 'b', 'c', 'macro'], 'rename')):
        with pytest.raises(ValueError, match=words): M.report(scores, y, label_names=names, n_boot=0)
    for groups, words in (({'a': 'head'}, 'no group for'), ({**dict.fromkeys(NAMES, 'head'), 'z': 'tail'}, 'no label is called')):
        with pytest.raises(ValueError, match=words): M.report(frame, y, groups=groups, n_boot=0)
    auto = M.report(frame, y, groups='auto', n_boot=0)
    assert list(auto.index)[4:] == ['macro'] + [g for g in ('head', 'medium', 'tail') if g in L.frequency_groups(y).values()]


# pointing game

def test_pointing_game_reductions():
    rng = np.random.default_rng(0)
    masks = np.zeros((5, 3, 32, 32), bool)
    for b in range(5):
        for c in range(3): masks[b, c, (t := rng.integers(0, 20)):t + rng.integers(4, 12), (l := rng.integers(0, 20)):l + rng.integers(4, 12)] = True
    assert (M.pointing_game(masks, masks) == 1).all() and (M.pointing_game(~masks, masks) == 0).all()
    assert np.allclose(M.pointing_game(np.zeros(masks.shape), masks), masks.mean((2, 3)))           # blind pointing
    assert (M.pointing_game(rng.random(masks.shape), masks, tolerance=50) == 1).all()
    assert np.array_equal(M.pointing_game(torch.tensor(masks).float(), torch.tensor(masks)), np.ones((5, 3)))
    masks[2, 1] = False
    assert np.isnan(M.pointing_game(np.zeros((5, 3, 8, 8)), masks)).sum() == 1


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(10, 40), st.integers(10, 40), st.integers(0, 10**6))
def test_pointing_game_on_other_resolutions(h, w, H, W, seed):
    rng = np.random.default_rng(seed)
    m, i, j = rng.random((h, w)), rng.integers(h), rng.integers(w)
    m[i, j] = 2
    lesion = np.zeros((H, W), bool); lesion[int((i + .5)*H/h), int((j + .5)*W/w)] = True
    assert M.pointing_game(m[None], lesion[None])[0] == 1 and M.pointing_game(m[None], ~lesion[None])[0] == 0


def test_pointing_game_ties_tolerance_and_errors():
    lesion = np.zeros((1, 16, 16)); lesion[0, 4:8, 4:8] = 1
    two = np.zeros((1, 16, 16)); two[0, 5, 5] = two[0, 12, 12] = 1
    near = np.zeros((1, 16, 16)); near[0, 10, 11] = 1                                               # 3 down and 4 right of pixel (7, 7): distance 5
    assert M.pointing_game(two, lesion)[0] == .5
    assert M.pointing_game(near, lesion, 4.9)[0] == 0 and M.pointing_game(near, lesion, 5)[0] == 1
    for maps, masks, words in ((two, lesion[0], 'maps \\(n'), (two, np.zeros((2, 16, 16)), 'maps \\(n'), (two[0], lesion[0], 'maps \\(n'), (np.full_like(two, np.nan), lesion, 'NaN')):
        with pytest.raises(ValueError, match=words): M.pointing_game(maps, masks)
    with pytest.raises(ValueError, match='tolerance'): M.pointing_game(two, lesion, -1)


def test_box_masks(cxr_data):
    mask = M.box_masks([[2, 1, 3, 2]], 6, 8)[0]
    assert mask.sum() == 6 and mask[1:3, 2:5].all()
    for box in ([[9, 0, 2, 2]], [[0, 0, 0, 4]], [[0, 0, np.nan, 4]]):
        with pytest.raises(ValueError, match='covers no pixel'): M.box_masks(box, 6, 8)
    boxes = pd.read_csv(cxr_data/'nih14/bbox_subset_1024px.csv')
    columns = [c for c in boxes if c.lower() in ('x', 'y', 'w', 'h', 'width', 'height')]
    areas = M.box_masks(boxes[columns], 1024, 1024).sum((1, 2))
    assert len(areas) == 158 and np.allclose(areas, boxes[columns[2]]*boxes[columns[3]], rtol=.03)


# folds

def test_paired_interval_against_scipy():
    from scipy.stats import ttest_rel
    rng = np.random.default_rng(0)
    a, b = rng.random(6), rng.random(6)
    ours, theirs = M.paired_interval(a, b), ttest_rel(a, b).confidence_interval(.95)
    assert np.allclose([ours.low, ours.high], [theirs.low, theirs.high]) and np.isclose(ours.mean, (a - b).mean())
    wide = M.paired_interval(a, b, test_to_train=1/5)
    assert np.isclose((wide.high - wide.mean)/(ours.high - ours.mean), np.sqrt(1 + 6/5))
    for x, z, words in (([1], [1], 'two folds'), ([1, 2], [1, 2, 3], 'one score per fold'), ([1, np.nan], [1, 2], 'fold 1')):
        with pytest.raises(ValueError, match=words): M.paired_interval(x, z)


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
