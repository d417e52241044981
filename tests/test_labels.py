"Label policies, annotation regimes and label statistics, against brute force and the official NIH table."
import numpy as np, pandas as pd, pytest, torch
from hypothesis import given, settings, strategies as st
from hypothesis.extra.numpy import arrays
from cxr_workbench import labels as L

shapes = st.tuples(st.integers(1, 30), st.integers(1, 6))
tables = arrays(np.float64, shapes, elements=st.sampled_from([0., 1.]))
seeds = st.integers(0, 2**31)


def random_table(n=400, C=6, seed=0, known=1.):
    rng = np.random.default_rng(seed)
    y = (rng.random((n, C)) < np.linspace(.4, .05, C)).astype(np.float32)
    return y, rng.random((n, C)) < known


@pytest.fixture(scope='module')
def official(cxr_data):
    "The official NIH table as (n, 14) zeros and ones, built from its text column, and the patients."
    table = pd.read_csv(cxr_data/'nih14/labels/Data_Entry_2017_v2020.csv.gz')
    return table['Finding Labels'].str.get_dummies('|')[L.NIH14], table['Patient ID']


# policies

STATES = [1, 0, -1, None]
MEANING = {  # (uncertain, blank) -> y and known of the four states
    ('zeros', 'negative'): ([1, 0, 0, 0], [1, 1, 1, 1]),
    ('zeros', 'unknown'): ([1, 0, 0, 0], [1, 1, 1, 0]),
    ('ones', 'negative'): ([1, 0, 1, 0], [1, 1, 1, 1]),
    ('ones', 'unknown'): ([1, 0, 1, 0], [1, 1, 1, 0]),
    ('ignore', 'negative'): ([1, 0, 0, 0], [1, 1, 0, 1]),
    ('ignore', 'unknown'): ([1, 0, 0, 0], [1, 1, 0, 0]),
}


@pytest.mark.parametrize('uncertain,blank', MEANING)
def test_policy_table(uncertain, blank):
    y, known = L.LabelPolicy(uncertain, blank)([STATES])
    assert y.dtype == np.float32 and known.dtype == bool
    assert (y[0].tolist(), known[0].tolist()) == MEANING[uncertain, blank]


@pytest.mark.parametrize('table', [
    [[1, 0, -1, None]], [['1', '0', '-1', '']],
    [['1.0', '0.0', '-1.0', ' ']], [[True, False, np.int8(-1), float('nan')]],
    np.array([[1, 0, -1, np.nan]]),
    torch.tensor([[1, 0, -1, float('nan')]]),
    pd.DataFrame([[1, 0, -1, None]]),
    pd.DataFrame([[1, 0, -1, None]], dtype='Int64'),
    pd.DataFrame([[1, 0, -1, None]], dtype=object),
    pd.DataFrame([['1', '0', '-1', None]], dtype='string'),
    pd.DataFrame([['1', '0', '-1', '']]),
    pd.DataFrame([['1', '0', '-1', None]]).astype('category'),
    pd.DataFrame([[pd.NA, 0, -1, None]]).fillna({0: 1}),
])
def test_every_spelling_of_the_four_states(table):
    np.testing.assert_array_equal(L.label_states(table), np.array([[1, 0, -1, np.nan]], dtype=np.float32))


@pytest.mark.parametrize('value', [2, .5, 'yes', 'nan', 'inf', np.inf, -np.inf, 1j, [1]])
def test_other_values_raise_with_row_column_and_value(value):
    columns = {'Edema': [1, 0, 1], 'Mass': [0, 1, 0]}
    table = pd.DataFrame(columns, index=['a.png', 'b.png', 'c.png']).astype(object)
    table.iat[1, 1] = value
    with pytest.raises(ValueError, match=r"index label 'b.png', column 'Mass'.*1 such entr") as error:
        L.LabelPolicy()(table)
    assert repr(value) in str(error.value)


def test_error_without_names_and_for_shapes():
    with pytest.raises(ValueError, match='row 1, column 0: 3'): L.label_states(np.array([[1, 0], [3, 4]]))
    for table in ([1, 0], [[1, 0], [1]], np.zeros((2, 2, 2))):
        with pytest.raises(ValueError, match='rows of equal length'): L.label_states(table)
    for wrong in (dict(uncertain='one'), dict(blank='zeros'), dict(uncertain=None)):
        with pytest.raises(ValueError, match='give one of'): L.LabelPolicy(**wrong)


def test_policy_is_frozen_and_comparable():
    with pytest.raises(AttributeError): L.LabelPolicy().uncertain = 'ones'
    assert L.LabelPolicy() == L.LabelPolicy('zeros', 'negative') and len({L.LabelPolicy(), L.LabelPolicy()}) == 1


def test_empty_table_and_as_labels_errors():
    y, known = L.LabelPolicy()(pd.DataFrame({'Edema': []}))
    assert y.shape == known.shape == (0, 1)
    with pytest.raises(ValueError, match='row 1, label 0.*LabelPolicy'): L.as_labels([[1, 0], [-1, 0]])
    with pytest.raises(ValueError, match='LabelPolicy'): L.as_labels([[np.nan]])
    with pytest.raises(ValueError, match='shape'): L.as_labels([1, 0])
    with pytest.raises(ValueError, match='known has shape'): L.as_labels([[1, 0]], [[True]])
    with pytest.raises(ValueError, match='mask'): L.as_labels([[1, 0]], [[.5, 1]])


def test_as_labels_copies_and_zeroes_only_unknown():
    y, mask = np.ones((2, 2), np.float32), np.array([[True, False], [True, True]])
    out, known = L.as_labels(y, mask)
    out[:], known[:] = 0, False
    assert y.all() and mask.sum() == 3
    assert L.as_labels(y, mask)[0].tolist() == [[1, 0], [1, 1]]


# regimes

@given(tables, seeds)
def test_single_positive_properties(y, seed):
    kept, known = L.single_positive(y, seed)
    assert (kept <= y).all()
    assert (kept.sum(1) == y.any(1)).all()
    assert np.array_equal(known, kept == 1)
    assert np.array_equal(L.single_positive(torch.tensor(y), seed)[0], kept)


def test_single_positive_is_uniform_and_respects_known():
    y = np.tile([1., 1, 0, 1], (30000, 1))
    share = L.single_positive(y, 0)[0].mean(0)
    standard_error = np.sqrt(2/9/30000)
    assert np.abs(share - [1/3, 1/3, 0, 1/3]).max() < 4*standard_error
    known = np.tile([False, True, True, True], (30000, 1))
    assert L.single_positive(y, 0, known)[0][:, 0].sum() == 0
    assert not L.single_positive(np.zeros((3, 2)), 0)[1].any()


def test_a_weighted_draw_has_its_probabilities_and_equal_weights_are_the_uniform_draw():
    y = np.tile([1., 1, 0, 1], (30000, 1))
    weight = np.array([1., 2, 50, 3])
    share = L.single_positive(y, 0, weight=weight)[0].mean(0)
    wanted = np.array([1/6, 1/3, 0, 1/2])                                          # the absent one has no part in it
    assert np.abs(share - wanted).max() < 4*np.sqrt(.25/30000)
    alike = L.single_positive(y, 3, weight=np.full(4, .1))[0]
    assert np.array_equal(alike, L.single_positive(y, 3)[0])
    first, last = np.eye(4)[[0, 3]]
    by_row = np.where(np.arange(30000)[:, None] % 2, first, last)
    kept = L.single_positive(y, 0, weight=by_row)[0]
    assert kept[1::2, 0].all() and kept[::2, 3].all()


def test_where_nothing_present_weighs_the_draw_is_uniform():
    y, weight = np.tile([1., 1, 0], (30000, 1)), np.array([0., 0, 1])
    share = L.single_positive(y, 0, weight=weight)[0].mean(0)
    assert np.abs(share - [.5, .5, 0]).max() < .02
    known = np.array([[True, False, True]]*30000)
    assert L.single_positive(y, 0, known, weight=np.array([0., 9, 9]))[0][:, 0].all()
    with pytest.raises(ValueError, match='at least 0'): L.single_positive(y, 0, weight=np.array([1., -1, 0]))


def test_a_regime_names_its_weights():
    y = np.tile([1., 1, 1], (20000, 1))
    y[::2, 2] = 0
    seen = L.annotate(y, regime='single-positive', weight='frequency')[0][1::2].mean(0)
    assert np.abs(seen - [.4, .4, .2]).max() < .02
    same = L.annotate(y, regime='single-positive', seed=5, weight=y.sum(0))[0]
    assert np.array_equal(same, L.annotate(y, regime='single-positive', seed=5, weight='frequency')[0])
    with pytest.raises(ValueError, match="'frequency'"): L.annotate(y, regime='single-positive', weight='size')
    with pytest.raises(ValueError, match='single-positive'): L.annotate(y, regime='full', weight='frequency')


@given(tables, seeds, st.floats(.01, 1), st.floats(.01, 1), st.randoms())
def test_keep_fraction_is_nested_whole_patients_and_blind_to_row_order(y, seed, a, b, random):
    patient = np.array([random.choice('pqrstuvw') for _ in y])
    small, large = [L.keep_fraction(y, patient, f, seed)[1] for f in sorted((a, b))]
    assert (small <= large).all() and (small.all(1) == small.any(1)).all()
    assert len(set(patient[small.any(1)])) == max(1, round(min(a, b)*len(set(patient))))
    assert not set(patient[small.any(1)]) & set(patient[~small.any(1)])
    order = np.array(random.sample(range(len(y)), len(y)))
    assert np.array_equal(L.keep_fraction(y[order], patient[order], min(a, b), seed)[1], small[order])


def test_keep_fraction_errors_and_identifiers():
    y, _ = random_table(6, 2)
    for fraction in (0, -.1, 1.5, float('nan')):
        with pytest.raises(ValueError, match='fraction'): L.keep_fraction(y, range(6), fraction, 0)
    with pytest.raises(ValueError, match='6 patient identifiers'): L.keep_fraction(y, range(5), .5, 0)
    for missing in (None, float('nan'), '', pd.NA):
        with pytest.raises(ValueError, match='row 2'): L.keep_fraction(y, [1, 2, missing, 4, 5, 6], .5, 0)
    as_numbers, as_text = [L.keep_fraction(y, ids, .5, 1)[1] for ids in (range(6), list('012345'))]
    # a table read as text keeps the same patients
    assert np.array_equal(as_numbers, as_text)
    assert L.keep_fraction(y, range(6), 1., 0)[1].all()
    other_index = pd.Series(range(6), index=range(10, 16))
    assert L.keep_fraction(y, other_index, .01, 0)[1].any(1).sum() == 1
    before = np.random.default_rng(0).random(y.shape) < .5
    assert np.array_equal(L.keep_fraction(y, range(6), 1., 0, before)[1], before)


@settings(max_examples=50)
@given(seeds, st.sampled_from(['exponential', 'power']), st.floats(1, 20))
def test_long_tail_counts_are_exact(seed, decay, ratio):
    y, known = random_table(seed=seed % 1000, known=.9)
    out, mask = L.long_tail(y, ratio, decay, seed, known)
    counts, before = out.sum(0), (y*known).sum(0)
    order = np.argsort(-before, kind='stable')
    assert np.array_equal(counts[order], np.round(counts[order[0]]*L.decay_profile(6, ratio, decay)))
    assert (mask <= known).all() and (out == y*mask).all() and (counts <= before).all()
    dropped = (known & ~mask)
    assert not dropped[~(y*known).any(1)].any()                                  # rows without a positive stay
    whole = known.any(1) & ~mask.any(1)
    # elsewhere only positives became unknown
    assert not (dropped & (y == 0))[~whole].any()


def test_long_tail_on_the_official_table(official):
    y, _ = official
    out, known = L.long_tail(y, ratio=500, n_max=5000)
    order = np.argsort(-y.to_numpy().sum(0))
    assert np.array_equal(out.sum(0)[order], np.round(5000*L.decay_profile(14, 500)))
    assert out.sum(0)[order[-1]] == 10
    single = (known.any(1) & ~known.all(1)).mean()
    assert single < .05
    assert (~known.any(1)).mean() > .2                          # rows go first; single entries are the rest
    assert set(L.frequency_groups(out, known, names=L.NIH14).values()) == {'head', 'medium', 'tail'}


def test_long_tail_errors():
    y, _ = random_table()
    cases = (
        (dict(ratio=.5), 'ratio'), (dict(ratio=np.inf), 'ratio'), (dict(decay='linear'), 'decay'),
        (dict(n_max=10**6), 'at most'), (dict(ratio=1e6), 'lower the ratio'))
    for wrong, words in cases:
        with pytest.raises(ValueError, match=words): L.long_tail(y, **wrong)
    never = np.pad(y, ((0, 0), (0, 1)))
    # a label without positives changes nothing
    assert np.array_equal(L.long_tail(never, 5)[0][:, :-1], L.long_tail(y, 5)[0])
    assert not L.long_tail(np.zeros((4, 3)))[0].any()


def test_decay_profile_shapes():
    for decay in ('exponential', 'power'):
        p = L.decay_profile(10, 50, decay)
        assert p[0] == 1 and np.isclose(p[-1], 1/50) and (np.diff(p) < 0).all()
    # straight in log y
    assert np.allclose(np.diff(np.log(L.decay_profile(10, 50))), -np.log(50)/9)
                                  # straight in log-log
    x = np.log(np.arange(1, 11))
    power = np.log(L.decay_profile(10, 50, 'power'))
    assert np.allclose(power, -np.log(50)/np.log(10)*x)
    assert L.decay_profile(1, 50).tolist() == [1]


def test_seeds_matter():
    y, _ = random_table()
    regimes = (
        lambda seed: L.single_positive(y, seed),
        lambda seed: L.keep_fraction(y, np.arange(400)//4, .3, seed),
        lambda seed: L.long_tail(y, 20, seed=seed))
    for regime in regimes:
        (a, m), (b, k), (c, _) = regime(0), regime(0), regime(1)
        assert np.array_equal(a, b)
        assert np.array_equal(m, k)
        assert not np.array_equal(a, c)
        assert a.dtype == np.float32
        assert m.dtype == bool


# statistics

def test_frequency_groups_bounds_and_names():
    y = np.zeros((1000, 4))
    for label, positives in enumerate((50, 49, 10, 9)): y[:positives, label] = 1     # 5 %, 4.9 %, 1 %, 0.9 %
    assert L.frequency_groups(y) == {0: 'head', 1: 'medium', 2: 'medium', 3: 'tail'}
    named = L.frequency_groups(pd.DataFrame(y, columns=list('abcd')))
    assert named == {'a': 'head', 'b': 'medium', 'c': 'medium', 'd': 'tail'}
    assert list(L.frequency_groups(y[:, ::-1], names=list('dcba'))) == list('abcd')
    known = np.zeros(y.shape, bool); known[:100] = True                            # 100 rows are annotated at all
    assert L.frequency_groups(y, known) == {0: 'head', 1: 'head', 2: 'head', 3: 'head'}
    # one known entry per image: shares are of images all the same
    split = np.arange(1000)[:, None] % 4 == np.arange(4)
    assert np.isclose((y*split).sum(0)[0], 13)
    assert L.frequency_groups(y, split) == {0: 'medium', 1: 'medium', 2: 'tail', 3: 'tail'}
    with pytest.raises(ValueError, match='names'): L.frequency_groups(y, names=['a'])
    with pytest.raises(ValueError, match='tail <= head'): L.frequency_groups(y, head=.01, tail=.05)


def brute(y, known):
    C = y.shape[1]
    n = np.zeros((C, C), int)
    p = np.full((C, C), np.nan)
    phi = np.full((C, C), np.nan)
    for i in range(C):
        for j in range(C):
            both = known[:, i] & known[:, j]
            a, b = y[both, i], y[both, j]
            n[i, j] = (a*b).sum()
            if a.any(): p[i, j] = b[a == 1].mean()
            if len(a) and a.std() and b.std(): phi[i, j] = np.corrcoef(a, b)[0, 1]
    return n, p, phi


@settings(max_examples=60)
@given(tables, seeds, st.sampled_from([1., .6]))
def test_matrices_against_brute_force(y, seed, share):
    known = np.random.default_rng(seed).random(y.shape) < share
    n, p, phi = brute(y, known)
    assert np.array_equal(L.cooccurrence(y, known), n) and L.cooccurrence(y, known).dtype == np.int64
    np.testing.assert_allclose(L.conditional_probability(y, known), p, atol=1e-12)
    np.testing.assert_allclose(L.correlation(y, known), phi, atol=1e-7)


def test_cooccurrence_of_the_official_table(official, cxr_data):
    y, _ = official
    truth = pd.read_csv(cxr_data/'nih14/labels/cooccurrence_112120.csv', index_col=0)
    counts = L.cooccurrence(y)
    assert len(y) == 112120 and list(truth) == L.NIH14 and np.array_equal(counts, truth.loc[L.NIH14].to_numpy())
    assert counts[0, 0] == 11559 and counts[0, 2] == 3275
    assert np.allclose(L.conditional_probability(y)[0, 2], 3275/11559)


def test_fraction_of_the_official_patients(official):
    y, patient = official
    kept = L.keep_fraction(y, patient, .01, seed=0)[1].any(1)
    assert patient[kept].nunique() == round(.01*30805) and not set(patient[kept]) & set(patient[~kept])
