"Labels that imply others: contradictions counted, what follows filled in, scores made to agree."
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st
from cxr_workbench.hierarchy import (
    CHEXPERT_TREE, check_coherence, check_hierarchy, complete_hierarchy, condition_known, enforce, link_parents)
from cxr_workbench.labels import CHEXPERT, LabelPolicy

CHEXPERT_C = {name: c for c, name in enumerate(CHEXPERT)}


def draw_obeying(n, seed):
    "Labels that obey CheXpert's tree and its No Finding."
    y = (np.random.default_rng(seed).random((n, 14)) < .15).astype(np.float32)
    for _ in range(2):
        for child, parent in CHEXPERT_TREE.items():
            y[:, CHEXPERT_C[parent]] = np.maximum(y[:, CHEXPERT_C[parent]], y[:, CHEXPERT_C[child]])
    y[:, 0] = ~y[:, 1:13].any(1)
    return y


def one_row(**states):
    "A row of CheXpert's labels, unknown but for the given ones."
    y, known = np.zeros((1, 14), np.float32), np.zeros((1, 14), bool)
    for name, value in states.items():
        c = CHEXPERT_C[name.replace('_', ' ')]
        y[0, c], known[0, c] = value, True
    return y, known


def read(y, known): return {CHEXPERT[c]: int(y[0, c]) for c in np.flatnonzero(known[0])}


@given(st.integers(0, 10**6), st.floats(.05, .95))
@settings(max_examples=60)
def test_what_is_filled_in_is_true(seed, share):
    "Whatever part of a consistent table is known, what follows from it is in the whole table."
    whole = draw_obeying(40, seed)
    known = np.random.default_rng(seed + 1).random(whole.shape) < share
    y, filled = complete_hierarchy(whole*known, known)
    assert (filled >= known).all() and np.array_equal(y[filled], whole[filled]) and not y[~filled].any()
    assert not len(check_hierarchy(y, filled))
    again = complete_hierarchy(y, filled)
    assert np.array_equal(again[0], y) and np.array_equal(again[1], filled)


@given(st.integers(0, 10**6))
@settings(max_examples=40)
def test_what_is_known_never_changes(seed):
    rng = np.random.default_rng(seed)
    y, known = (rng.random((30, 14)) < .4).astype(np.float32), rng.random((30, 14)) < .5     # contradictions galore
    done, filled = complete_hierarchy(y*known, known)
    assert np.array_equal(done[known], (y*known)[known]) and (filled >= known).all()


def test_each_rule_alone():
    assert read(*complete_hierarchy(*one_row(Pneumonia=1))) == {
        'No Finding': 0, 'Lung Opacity': 1, 'Consolidation': 1, 'Pneumonia': 1}
    below = dict.fromkeys(['Lung Lesion', 'Edema', 'Consolidation', 'Pneumonia', 'Atelectasis', 'Lung Opacity'], 0)
    assert read(*complete_hierarchy(*one_row(Lung_Opacity=0))) == below
    assert read(*complete_hierarchy(*one_row(Support_Devices=1))) == {'Support Devices': 1}
    none = read(*complete_hierarchy(*one_row(No_Finding=1)))
    assert none == {name: int(name == 'No Finding') for name in CHEXPERT if name != 'Support Devices'}
    y, known = one_row(**{name.replace(' ', '_'): 0 for name in CHEXPERT[1:13]})
    assert read(*complete_hierarchy(y, known))['No Finding'] == 1
    assert 'No Finding' not in read(*complete_hierarchy(y, known, none=None))
    assert read(*complete_hierarchy(*one_row(No_Finding=0))) == {'No Finding': 0}


def test_two_rules_that_disagree_leave_it_unknown():
    found = read(*complete_hierarchy(*one_row(No_Finding=1, Edema=1)))
    assert 'Lung Opacity' not in found and found['Fracture'] == 0 and found['Edema'] == found['No Finding'] == 1


def test_contradictions_are_counted_where_they_could_occur():
    table = pd.DataFrame(np.nan, range(5), CHEXPERT)
    table.loc[0, ['Pneumonia', 'Lung Opacity']] = 1, 0
    table.loc[1, ['Pneumonia', 'Lung Opacity']] = 1, 1
    table.loc[2, ['Pneumonia', 'Consolidation']] = 1, -1
    table.loc[3, ['No Finding', 'Support Devices', 'Fracture']] = 1, 1, 1
    table.loc[4, ['No Finding', 'Fracture']] = 1, 0
    found = check_hierarchy(*LabelPolicy('ignore', 'unknown')(table))
    assert found.values.tolist() == [
        ['Pneumonia', 'Lung Opacity', 'implies', 1, 2, 0], ['No Finding', 'Fracture', 'excludes', 1, 2, 3]]
    devices = check_hierarchy(*LabelPolicy('ignore', 'unknown')(table), beside=())
    assert 'Support Devices' in devices.other.tolist()


def test_a_tree_of_other_names_and_missing_parents():
    tree = {'leaf': 'twig', 'twig': 'branch', 'branch': 'trunk'}
    assert link_parents(['trunk', 'leaf', 'else'], tree).tolist() == [-1, 0, -1]
    y, known = complete_hierarchy([[0, 1, 0]], [[False, True, False]], ['trunk', 'leaf', 'else'], tree)
    assert y.tolist() == [[1, 1, 0]] and known.tolist() == [[True, True, False]]
    with pytest.raises(ValueError, match='circle'): link_parents(['a'], {'a': 'b', 'b': 'c', 'c': 'b'})


@pytest.mark.parametrize('how', ['max', 'min', 'product'])
def test_scores_agree(how):
    scores = np.random.default_rng(0).random((100, 14))
    agreed = enforce(scores, how=how)
    assert not check_coherence(agreed).largest.any() and check_coherence(scores).largest.all()
    assert 0 <= agreed.min() and agreed.max() <= 1
    with pytest.raises(ValueError, match='how='): enforce(scores, how='mean')


def test_max_is_the_least_that_agrees_and_min_the_most():
    scores = np.random.default_rng(1).random((50, 14))
    low, high = enforce(scores, how='min'), enforce(scores, how='max')
    parents = link_parents(CHEXPERT)
    for c in range(14):
        above, chain = c, [c]
        while parents[above] >= 0:
            above = parents[above]
            chain.append(above)
        assert np.array_equal(low[:, c], scores[:, chain].min(1))
        below = [k for k in range(14) if k == c or any(parents[j] == c for j in ancestors(k, parents))]
        assert np.array_equal(high[:, c], scores[:, below].max(1))


def ancestors(k, parents):
    "A label and all labels above it."
    while k >= 0:
        yield k
        k = parents[k]


def test_conditional_shares_multiply_to_the_whole():
    y = draw_obeying(4000, 5)
    mask = condition_known(y)
    assert np.array_equal(mask[:, 0], np.ones(4000, bool))
    edema, opacity = CHEXPERT_C['Edema'], CHEXPERT_C['Lung Opacity']
    assert np.array_equal(mask[:, edema], y[:, opacity] == 1)
    share = (y*mask).sum(0)/mask.sum(0)
    assert np.allclose(enforce(share[None], how='product')[0], y.mean(0), atol=1e-6)


def test_a_real_table_obeys_no_finding_and_does_not_name_parents(label_tables):
    table = pd.read_csv(label_tables/'chexpert_train.csv.gz')[CHEXPERT]
    said = LabelPolicy('ignore', 'unknown')(table)
    found = check_hierarchy(*said)
    assert not (found.rule == 'excludes').any()                      # 22,381 rows of No Finding, no positive beside
    y, known = complete_hierarchy(*said)
    assert (known.sum(0) >= said[1].sum(0)).all()
    assert known[:, 2].sum() > said[1][:, 2].sum() + 10_000          # absent hearts follow from No Finding
