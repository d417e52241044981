"Two models on the same rows: the statistics against slow and other ways, and what is matched before them."
import warnings
import numpy as np, pandas as pd, pytest
from scipy.stats import norm
from sklearn.metrics import roc_auc_score
from cxr_workbench import comparing, evaluating, opening
from cxr_workbench.intervals import bootstrap, clustered_variance, delong_test, placements
from cxr_workbench.scores import macro


def two_models(seed=0, patients=60, images=3, labels=3, effect=0., share=.5):
    "Scores of two models whose errors are alike, labels and patients; with effect 0 the two can be exchanged."
    rng = np.random.default_rng(seed)
    patient = np.repeat(np.arange(patients), images)
    y = (rng.random((patients, labels)) < .35)[patient].astype(float)
    def noise(): return np.sqrt(share)*rng.normal(size=(patients, labels))[patient] + rng.normal(size=y.shape)
    common = y + noise()
    return common + .7*noise() + effect*y, common + .7*noise(), y, patient


# ---- DeLong ----

def all_pairs(scores, positive):
    "The share of pairs that a row wins, one pair at a time."
    won = np.zeros(len(scores))
    for i, (score, own) in enumerate(zip(scores, positive)):
        others = scores[positive != own]
        wins = np.mean([(score > other) + .5*(score == other) for other in others])
        won[i] = wins if own else 1 - wins
    return won


@pytest.mark.parametrize('digits', [0, 1, 9])
def test_placements_by_ranks_equal_all_pairs(digits):
    "Sun and Xu (2014) against the definition, with many ties and with none."
    rng = np.random.default_rng(digits)
    scores, positive = rng.normal(size=80).round(digits), rng.random(80) < .3
    assert np.allclose(placements(scores, positive), all_pairs(scores, positive))
    assert np.isclose(placements(scores, positive)[positive].mean(), roc_auc_score(positive, scores))


def test_a_mean_of_one_label_is_that_label():
    a, b, y, patient = two_models()
    table = delong_test(a, b, y, patient_id=patient, means={'one': [1]})
    assert np.allclose(table.iloc[1], table.loc['one'])


def test_a_mean_of_copies_is_as_sure_as_one_of_them():
    a, b, y, patient = two_models(labels=1)
    tripled = [np.tile(part, (1, 3)) for part in (a, b, y)]
    table = delong_test(*tripled, patient_id=patient, means={'mean': range(3)})
    one, mean = (table.iloc[i] for i in (0, 3))
    assert np.isclose(mean.difference, one.difference)
    assert np.isclose(mean.high - mean.low, one.high - one.low, rtol=.02)     # not narrower by the root of three


def test_the_mean_of_labels_of_other_people_is_surer():
    "Four labels that are known for other patients each: variances add."
    a, b, y, patient = two_models(patients=200, labels=4)
    known = patient[:, None] % 4 == np.arange(4)
    table = delong_test(a, b, y*known, known, patient_id=patient, means={'mean': range(4)})
    widths = (table.high - table.low).to_numpy()
    assert np.isclose(widths[4], np.sqrt((widths[:4]**2).sum())/4)


def slow_mean_variance(a, b, y, patient):
    "From all pairs: each patient's contribution to every label, covariances of patients label by label."
    P, C = patient.max() + 1, y.shape[1]
    own, total = np.zeros((P, C)), 0.
    for c in range(C):
        positive = y[:, c] == 1
        v = all_pairs(a[:, c], positive) - all_pairs(b[:, c], positive)
        for kind in (positive, ~positive):
            off = (v - v[kind].mean())/kind.sum()
            for row in np.flatnonzero(kind): own[patient[row], c] += off[row]
        total += clustered_variance(v, positive, patient)
    for c in range(C):
        for d in range(C):
            if c != d: total += P/(P - 1)*sum(own[p, c]*own[p, d] for p in range(P))
    return total/C**2


def test_the_mean_against_the_slow_formula_and_the_bootstrap():
    a, b, y, patient = two_models(seed=3, patients=100, effect=.3)
    row = delong_test(a, b, y, patient_id=patient, means={'macro': range(3)}).loc['macro']
    error = (row.high - row.low)/2/norm.ppf(.975)
    assert np.isclose(error, np.sqrt(slow_mean_variance(a, b, y, patient)))
    first, second = (bootstrap(s, y, patient_id=patient, n_boot=1500)['auroc'] for s in (a, b))
    assert np.isclose(error, macro(first - second, range(3)).std(), rtol=.12)
    assert np.isclose(row.z, row.difference/error) and np.isclose(row.p, 2*norm.sf(abs(row.z)))


def permute_patients(a, b, y, patient, times, seed):
    "Share of exchanges of the two models, patient by patient, that give at least the difference of the mean AUROC."
    def difference(a, b): return roc_auc_score(y, a, average='macro') - roc_auc_score(y, b, average='macro')
    rng, found = np.random.default_rng(seed), abs(difference(a, b))
    extreme = 1
    for _ in range(times):
        swap = (rng.random(patient.max() + 1) < .5)[patient][:, None]
        extreme += abs(difference(np.where(swap, b, a), np.where(swap, a, b))) >= found - 1e-12
    return extreme/(times + 1)


@pytest.mark.parametrize('seed, effect', [(0, 0.), (1, 0.), (2, .25)])
def test_the_mean_against_a_permutation(seed, effect):
    "Models that may be exchanged: the share of exchanges is the p of the formula, to what 400 draws can tell."
    a, b, y, patient = two_models(seed, patients=120, images=2, labels=2, effect=effect)
    p = delong_test(a, b, y, patient_id=patient, means={'macro': range(2)}).p['macro']
    assert abs(p - permute_patients(a, b, y, patient, 400, seed)) < .08


def test_the_mean_finds_no_difference_where_there_is_none():
    found = sum(delong_test(*two_models(seed, labels=3)[:3], patient_id=two_models(seed)[3],
                            means={'macro': range(3)}).p['macro'] < .05 for seed in range(300))
    assert 4 <= found <= 29        # 15 expected; 300 tests at .05, four standard errors


def test_a_label_of_one_patient_leaves_the_mean_without_a_test():
    a, b, y, patient = two_models()
    y[:, 0] = patient == 0
    table = delong_test(a, b, y, patient_id=patient, means={'macro': range(3), 'rest': [1, 2]})
    assert np.isnan(table.p['macro']) and not np.isnan(table.difference['macro'])
    assert not np.isnan(table.p['rest'])
    same = delong_test(a, a, y, patient_id=patient, means={'macro': range(3), 'one': [0], 'rest': [1, 2]})
    assert np.isnan(same.p[['macro', 'one']]).all() and np.isnan(same.low['one'])
    assert same.p['rest'] == 1


# ---- compare_scores ----

def test_a_comparison_is_antisymmetric_and_holds_both_scores():
    a, b, y, patient = two_models(effect=.4)
    groups = {'x': 'head', 'y': 'tail', 'z': 'head'}
    how = dict(patient_id=patient, label_names=list('xyz'), groups=groups, n_boot=100)
    one, back = comparing.compare_scores(a, b, y, **how), comparing.compare_scores(b, a, y, **how)
    assert list(one.index) == ['x', 'y', 'z', 'macro', 'head', 'tail']
    assert np.allclose(one.difference, one.auroc_a - one.auroc_b)
    assert np.allclose(one.ap_difference, one.ap_a - one.ap_b)
    assert np.allclose(one.low, -back.high) and np.allclose(one.delong_low, -back.delong_high)
    assert np.allclose(one.p, back.p)
    assert np.isclose(one.auroc_a['head'], one.auroc_a[['x', 'z']].mean())
    assert one.q[['macro', 'head', 'tail']].isna().all()
    assert (one.q >= one.p)[['x', 'y', 'z']].all()
    assert np.isclose(one.q[list('xyz')].max(), one.p[list('xyz')].max())      # the largest stays as it is


def test_an_absent_label_is_left_out_of_both_means():
    a, b, y, patient = two_models(effect=.4)
    y[:, 2] = 0
    table = comparing.compare_scores(a, b, y, patient_id=patient, n_boot=50)
    assert table.loc['label 2', ['auroc_a', 'difference', 'p', 'q', 'ap_a']].isna().all()
    assert np.isclose(table.difference['macro'], table.difference.iloc[:2].mean())
    assert np.isclose(table.ap_a['macro'], table.ap_a.iloc[:2].mean()) and table.skipped['macro'] == 1


def test_known_entries_alone_count():
    a, b, y, patient = two_models(effect=.4)
    known = np.random.default_rng(0).random(y.shape) < .7
    wild = [np.where(known, scores, 100*scores.std()) for scores in (a, b)]
    how = dict(patient_id=patient, n_boot=50)
    plain = comparing.compare_scores(a, b, y*known, known, **how)
    pd.testing.assert_frame_equal(plain, comparing.compare_scores(*wild, y*known, known, **how))


# ---- the rows that both have ----

def scored(names, labels=('Edema', 'Mass'), seed=0, **parts):
    rng, names = np.random.default_rng(seed), list(names)
    shape = len(names), len(labels)
    probs, y = rng.random(shape), (rng.random(shape) < .5).astype(float)
    given = dict(probs=probs, y=y, known=np.ones(shape, bool),
                 patient=np.arange(len(names)), meta=None)
    return evaluating.Scored(names=names, label_names=list(labels), **{**given, **parts})


def test_calibrated_scores_go_with_their_rows_into_studies():
    one = scored(['b/1', 'a/1', 'b/2'])
    one = one._replace(calibrated=one.probs**2)
    assert np.array_equal(one.select([2, 0]).calibrated, one.probs[[2, 0]]**2)
    studies = evaluating.average_studies(one, np.array(['b', 'a', 'b']))
    squares = one.probs**2
    assert np.allclose(studies.calibrated, [squares[1], (squares[0] + squares[2])/2])
    largest = evaluating.average_studies(one, np.array(['b', 'a', 'b']), 'max')
    assert np.array_equal(largest.calibrated, largest.probs**2)
    assert evaluating.average_studies(scored(['a/1']), ['a']).calibrated is None


@pytest.mark.parametrize('first, second, pairs, parts', [
    (['a/1', 'a/2'], ['b/2', 'b/3'], [(1, 0)], 1),
    (['a/1', 'b/1'], ['x/b/1', 'x/a/1'], [(0, 1), (1, 0)], 2),
    (['a/1', 'b/1'], ['1'], [], 2),                       # which of the two it is, nobody can tell
    (['a/1', 'a/1', 'a/2'], ['a/1'], [(0, 0)], 1),        # a row that occurs again counts once
    (['1', '2'], ['3'], [], 1),
    ([], ['3'], [], 1)])
def test_rows_are_matched_by_the_fewest_parts_that_tell_them_apart(first, second, pairs, parts):
    one, two, used = opening.match_rows(first, second)
    assert list(zip(one, two)) == pairs and used == parts


def test_a_pair_has_rows_labels_and_entries_of_both():
    one = scored('abcde', ('Edema', 'Mass', 'Hernia'))
    two = scored('edcxy', ('Mass', 'Edema'), seed=1)
    same = one.y[[4, 3, 2]][:, [1, 0]]
    two.y[:3] = same
    two.y[1, 0] = 1 - same[1, 0]          # d, Mass: the tables disagree
    two.known[0, 1] = False               # e, Edema: the second does not know
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        pair = comparing.align_scored(one, two)
    assert pair.label_names == ['Edema', 'Mass'] and pair.differ == pair.lone == 1
    assert np.array_equal(pair.a, one.probs[[2, 3, 4]][:, [0, 1]])
    assert np.array_equal(pair.b, two.probs[[2, 1, 0]][:, [1, 0]])
    assert pair.known.tolist() == [[True, True], [True, False], [False, True]]
    assert list(pair.patient) == [2, 3, 4]


def test_what_cannot_be_paired_is_an_error_and_what_looks_wrong_a_warning():
    with pytest.raises(ValueError, match='no row is in both.*source=...'):
        comparing.align_scored(scored('abc'), scored('xyz'))
    with pytest.raises(ValueError, match='no label is in both'):
        comparing.align_scored(scored('abc'), scored('abc', ('Hernia',)))
    with pytest.warns(UserWarning, match='are these the same images'):
        comparing.align_scored(scored(map(str, range(50))), scored(map(str, range(50)), seed=1))


def test_two_policies_are_named_with_their_remedy():
    pair = comparing.align_scored(scored('abc'), scored('abc', seed=1))._replace(lone=7, differ=2)
    one, two = dict(name='one', policy='-1 means zeros'), dict(name='two', policy='-1 means ignore')
    said = comparing.describe_policies(one, two, pair)
    assert 'one: -1 means zeros; two: -1 means ignore. 7 entries' in said and ', and 2 whose labels differ' in said
    assert comparing.describe_policies(one, dict(two, policy='-1 means zeros'), pair) == ''


def test_a_comparison_fits_a_terminal():
    a, b, y, patient = two_models(labels=4)
    y[:, 3] = patient == 0
    names = ['Edema', 'Enlarged Cardiomediastinum', 'a'*150, 'Hernia']
    with pytest.warns(UserWarning, match='too few .Hernia.'):
        table = comparing.compare_scores(a, b, y, patient_id=patient, label_names=names, n_boot=50)
    text = comparing.format_pair(table)
    assert max(map(len, text.splitlines())) in (99, 100) and 'too few (3 positives of 1 patient)' in text
    assert 'Enlarged Cardiomediastinum' in text.partition('average precision:')[2]      # the second block is narrower
    assert 'aa..aa' in text and 'nan' not in text.lower()


# ---- studies and groups ----

def test_studies_are_means_and_labels_of_their_views():
    columns = dict(study_id=[1, 1, 2, 2], view=['PA', 'AP', 'PA', 'PA'],
                   sex=['M', 'M', None, None])
    table = pd.DataFrame(columns)
    one = scored('abcd', probs=np.array([[.2, .4], [.6, .8], [.1, .1], [.5, .7]]),
                 y=np.array([[1, 0], [0, 0], [1, 1], [0, 1]], float),
                 patient=np.array([7, 7, 8, 8]),
                 known=np.array([[True, False], [True, False], [True, True], [False, True]]),
                 meta=table)
    studies = evaluating.average_studies(one, evaluating.find_studies(one))
    assert np.allclose(studies.probs, [[.4, .6], [.3, .4]])
    assert studies.y.tolist() == [[1, 0], [1, 1]]
    assert studies.known.tolist() == [[True, False], [True, True]] and list(studies.patient) == [7, 8]
    assert list(studies.meta) == ['study_id', 'sex']                       # the view differs within a study
    largest = evaluating.average_studies(one, evaluating.find_studies(one), 'max')
    assert np.allclose(largest.probs, [[.6, .8], [.5, .7]])
    with pytest.raises(ValueError, match="'mean' or 'max'"): evaluating.average_studies(one, range(4), 'median')


def test_studies_are_found_in_folders_and_under_their_patients():
    folders = ['patient00001/study1', 'patient00001/study1', 'patient00002/study1']
    names = [f'x/{folder}/view{i}_frontal' for i, folder in enumerate(folders)]
    found = evaluating.find_studies(scored(names))
    assert list(found) == folders
    mimic = ['files/p10/p10000032/s50414267/one', 'files/p10/p10000032/s53189527/two']
    assert list(evaluating.find_studies(scored(mimic))) == ['p10000032/s50414267', 'p10000032/s53189527']
    again = pd.DataFrame(dict(study=[1, 2, 1]))
    numbered = scored('abc', patient=np.array([1, 1, 2]), meta=again)
    assert len(set(evaluating.find_studies(numbered))) == 3               # study 1 of two patients
    blank = scored('ab', meta=pd.DataFrame(dict(study=[1, None])))
    with pytest.raises(ValueError, match='1 rows belong to no study'): evaluating.find_studies(blank)


@pytest.mark.parametrize('text, group', [
    ('57', '40 to 59'), ('57.0', '40 to 59'), ('057Y', '40 to 59'), ('011M', '0 to 17'), ('216M', '18 to 39'),
    ('80', '80 and over'), ('120', '80 and over'), ('414', 'not given'), ('', 'not given'), ('-1', 'not given')])
def test_ages(text, group): assert evaluating.group_age(text) == group


def test_columns_of_real_sets_are_found():
    chexpert = pd.DataFrame({'Sex': ['Male', 'Female', 'Unknown'], 'Age': [50, 0, 90],
                             'Frontal/Lateral': ['Frontal', 'Lateral', 'Frontal'], 'AP/PA': ['AP', None, 'PA']})
    one = scored('abc', meta=chexpert)
    assert list(evaluating.find_groups(one, 'view')[1]) == ['AP', 'Lateral', 'PA']     # two columns, one answer
    assert list(evaluating.find_groups(one, 'sex')[1]) == ['male', 'female', 'not given']
    nih = pd.DataFrame({'View Position': ['PA', 'AP', 'PA'], 'Patient Gender': ['M', 'F', 'F']})
    two = scored('abc', meta=nih)
    assert list(evaluating.find_groups(two, 'sex')[1]) == ['male', 'female', 'female']
    assert evaluating.find_groups(two, 'Patient Gender')[0] == 'Patient Gender'
    assert list(evaluating.find_groups(two, 'sex=View Position')[1]) == ['PA', 'AP', 'PA']   # none of them is a sex
    with pytest.raises(ValueError, match="by='site=COLUMN'"): evaluating.find_groups(two, 'site')
    many = scored(map(str, range(40)), meta=pd.DataFrame(dict(site=range(40))))
    with pytest.raises(ValueError, match="by='site': 40 of its 40 values"): evaluating.find_groups(many, 'site')
    twice = scored(map(str, range(80)), meta=pd.DataFrame(dict(site=[k//2 for k in range(80)])))
    with pytest.raises(ValueError, match='40 groups, at most 30'): evaluating.find_groups(twice, 'site')


@pytest.mark.parametrize('values, what', [
    (['2019-03-07', '2019-03-07', '2020-11-30 10:15'], 'dates'), (['20190307', '20190307'], 'dates'),
    (['7/3/2019', '30.11.20', None], 'dates'), (['20190307101500.123'], 'dates'), (['b/p7/1', 'b/p8/1'], 'paths'),
    (['scan7.dcm', 'scan8.PNG'], 'paths')])
def test_no_report_shows_dates_or_paths(values, what):
    one = scored(map(str, range(12*len(values))), meta=pd.DataFrame(dict(Date=values*12)))
    with pytest.raises(ValueError, match=f"by='Date': this column holds {what}, .*few groups") as refused:
        evaluating.find_groups(one, 'Date')
    assert values[0] not in str(refused.value)


FEW = [['AP', 'PA'], ['Canon', 'GE 7/2'], ['1', '2'], ['north ward', None], ['2019', '2020']]


@pytest.mark.parametrize('values', FEW)
def test_columns_of_few_groups_are_taken(values):
    one = scored(map(str, range(24)), meta=pd.DataFrame(dict(ward=values*12)))
    assert set(evaluating.find_groups(one, 'ward')[1]) == {value or 'not given' for value in values}


def test_groups_are_compared_on_the_labels_that_all_can_measure():
    rng = np.random.default_rng(0)
    y = (rng.random((200, 3)) < .4).astype(float)
    group = np.repeat(['a', 'b', 'c'], [90, 100, 10]).astype(object)
    y[group == 'b', 2] = 0                                                  # b has no Hernia
    probs = .5*y + .5*rng.random(y.shape)
    one = scored(map(str, range(200)), ('Edema', 'Mass', 'Hernia'), y=y, probs=probs)
    table = evaluating.measure_groups(one, 'site', group, n_boot=20)
    cells = table.set_index(['group', 'label'])['auroc']
    assert np.isclose(cells['a', 'shared'], cells['a'][['Edema', 'Mass']].mean())
    assert np.isclose(cells['b', 'shared'], cells['b'][['Edema', 'Mass']].mean())
    assert not np.isnan(cells['a', 'Hernia']) and np.isnan(cells['b', 'Hernia'])
    means = evaluating.summarize_groups(table)
    assert list(means['rows']) == [90, 100, 10] and np.isnan(means['auroc']['site: c'])      # counted, not scored
    whole = roc_auc_score(y[group == 'a', 0], one.probs[group == 'a', 0])
    assert np.isclose(cells['a', 'Edema'], whole)


def test_a_comparison_is_written_in_words_and_says_what_was_compared():
    from cxr_workbench.exporting import make_table
    from cxr_workbench.learner import find_model
    from cxr_workbench.reports import spell_table
    a, b, y, patient = two_models(labels=3)
    table = comparing.compare_scores(a, b, y, patient_id=patient, label_names=['x', 'y', 'z'], n_boot=20)
    for shown in comparing.spell_comparison(table, 'old', 'new'):
        assert list(shown)[:3] == ['old', 'new', 'difference'] and len(list(shown)) <= 9
        text = make_table(spell_table(shown))
        assert not [name for name in ('auroc_', 'ap_', 'delong_', 'n_pos') if name in text]
        assert shown.loc['x', 'interval, patients resampled'].count(' to ') == 1
    opened = evaluating.open_rows(find_model('lcc'), 'phantom', rows=40)
    said = comparing.describe_run(opened, range(1800))
    assert said.startswith('lcc, network test_resnet, 64 px, trained on 1,800 images, ') and 'epochs of' in said


def test_a_table_of_a_report_has_words_for_columns():
    from cxr_workbench.reports import spell_table
    ends = dict(auroc_low=[.75, np.nan], auroc_high=[.86, np.nan], interval=['', 'too few'])
    columns = dict(auroc=[.81, .7], **ends, f1=[.5, .2], n_pos=[40, 2])
    table = pd.DataFrame(columns, index=['Edema', 'Hernia'])
    spelled = spell_table(table)
    assert list(spelled) == ['AUROC', 'interval of AUROC', 'F1', 'with it']
    assert spelled['interval of AUROC'].tolist() == ['0.750 to 0.860', 'too few']
