"What is held out: patients that are known, by one rule."
import warnings
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings, strategies as st
from cxr_workbench import labels as L
from cxr_workbench.data import check_split, check_train_valid, dataloaders, from_arrays, from_csv, from_npz
from cxr_workbench.data import get_patients, hold_out, patient_folds, patient_split, split_by_patient, attach_patients
from cxr_workbench.files import Reading
from cxr_workbench.splits import parse_fold, patients_from_names, read_folds, separate_rows


def black(n, side=8): return np.zeros((n, side, side), np.uint8)


def make_data(n=60, patient='half', **kw):
    "n black images with random labels; two of each patient, unless the patients are given."
    g = np.random.default_rng(n)
    who = np.arange(n)//2 if isinstance(patient, str) else patient
    return from_arrays(black(n), (g.random((n, 3)) < .3).astype(float), patient_id=who, **kw)


# ---- names of files

@pytest.mark.parametrize('names, right', [
    (['00000001_000.png', '00000001_012.png', '00030805_000.png'], ['00000001', '00000001', '00030805']),
    (['images_001/images/00000013_005.png'], ['00000013']),
    (['00000001_000.jpg', r'C:\nih\00000002_001.jpeg'], ['00000001', '00000002']),
    (['00000001_000'], ['00000001']), (['/x/00000001_000.png.npy'], ['00000001']),
    (['CheXpert-v1.0-small/train/patient00001/study1/view1_frontal.jpg',
      'valid/patient64541/study2/view1_lateral.jpg'], ['patient00001', 'patient64541']),
    (['patient00001_study1_view1_frontal.jpg'], ['patient00001']),
    (['files/p10/p10000032/s50414267/02aa804e-bde0afdd-112c0b34-7bc16630-4e384014.jpg'], ['p10000032']),
    (['p10000032/s50414267.dcm'], ['p10000032']),
    (['sub-S03047/ses-E07985/mod-rx/sub-S03047_ses-E07985_run-1_cr.png'], ['sub-S03047']),
    (['00000001_000.png', 'patient00001/study1/a.jpg'], ['00000001', 'patient00001'])])
def test_names_that_contain_a_patient(names, right):
    assert patients_from_names(names).tolist() == right


@pytest.mark.parametrize('names', [
    [], ['a.png'], ['00000001_000.png', 'a.png'], ['0a1f875a7dfe5e5e6e0bd9ac1b2a4e5c.dicom'],
    ['216840111366964012819207061112010307142602253_04-014-084.png'],
    ['1_000.png'], ['000000010_000.png'], ['00000001_00.png'], ['00000001.png'], ['00000001_000_flipped.png'],
    ['CHNCXR_0001_0.png'], ['sub-01/scan.png'], [None], [7],
    ['patients/study1/x.png'], ['p10000032.jpg'], ['patient00001.jpg']])
def test_names_that_contain_no_patient(names):
    assert patients_from_names(names) is None


def test_who_is_on_an_image_is_asked_in_one_place():
    unnamed, ids = make_data(patient=None), [f'{i//3:08d}_{i%3:03d}' for i in range(60)]
    named = make_data(patient=None, paths=[f'{name}.png' for name in ids])
    column = make_data(patient=None, meta=pd.DataFrame({'image_id': ids}))
    for data in (named, column):
        with pytest.warns(UserWarning, match='20 patients of 60 images'): assert len(set(get_patients(data))) == 20
        with pytest.warns(UserWarning): whole = attach_patients(data)
        assert whole.images is data.images and len(set(whole.patient_id)) == 20
        assert data.patient_id is None
    for ask in (get_patients, attach_patients, hold_out, split_by_patient, lambda data: hold_out(data, 1)):
        with pytest.raises(ValueError, match='no patients.*patient=.*each_image=True'): ask(unnamed)
    assert get_patients(unnamed, each_image=True).tolist() == list(range(60))
    assert attach_patients(make_data()).patient_id.tolist() == make_data().patient_id.tolist()
    with pytest.raises(ValueError, match='30 patients for 60 images'): get_patients(make_data(), each_image=True)
    some = make_data(patient=None, paths=['00000001_000.png'] + [f'{i}.png' for i in range(59)])
    with pytest.raises(ValueError, match='names of 1 of 60 files'): hold_out(some)


def test_a_column_of_studies_is_not_taken_for_patients_in_silence():
    names = [f'{i//4:08d}_{i%4:03d}.png' for i in range(60)]
    studies, unnamed = make_data(patient=np.arange(60), paths=names), make_data(patient=None, paths=names)
    with pytest.warns(UserWarning, match='by their file names, .* patients are in both parts'): hold_out(studies)
    with pytest.warns(UserWarning, match='each_image=True wrong'): hold_out(unnamed, each_image=True)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        hold_out(make_data(patient=np.arange(60)//4, paths=names))


# ---- patients stay whole

generators = st.integers(0, 10**6).map(np.random.default_rng)


@given(generators, st.integers(2, 6), st.integers(0, 3))
@settings(max_examples=40)
def test_folds_keep_patients_whole_whatever_the_order(rng, folds, seed):
    n = int(rng.integers(30, 120))
    patient, y = rng.integers(0, n//2, n) + 10, rng.random((n, 4)) < [.5, .3, .1, .02]
    folds = min(folds, len(np.unique(patient)))
    fold = patient_folds(patient, y, folds, seed)
    assert all(len(set(fold[patient == p])) == 1 for p in patient) and set(fold) == set(range(folds))
    shuffle = rng.permutation(n)
    assert np.array_equal(patient_folds(patient[shuffle], y[shuffle], folds, seed), fold[shuffle])
    assert np.array_equal(patient_folds(patient.astype(str), torch.tensor(y), folds, seed), fold)


@given(generators, st.floats(.1, .9))
@settings(max_examples=40)
def test_a_split_has_its_share_of_every_label(rng, fraction):
    patient = np.repeat(np.arange(300), rng.integers(1, 5, 300))
    y = rng.random((len(patient), 5)) < [.5, .4, .2, .1, .03]
    train, valid = patient_split(patient, y, fraction)
    assert sorted([*train, *valid]) == list(range(len(patient)))
    check_split(patient[train], patient[valid])
    assert abs(len(valid)/len(patient) - fraction) < .03
    assert (abs(y[valid].sum(0) - fraction*y.sum(0)) <= 3 + .02*y.sum(0)).all()


def test_greedy_assignment_is_even_on_a_rare_label():
    patient, y = np.arange(400), np.zeros((400, 1))
    y[:10] = 1
    assert np.bincount(patient_folds(patient, y, 5)[:10], minlength=5).tolist() == [2]*5


def test_seeds_differ_and_images_alone_are_even():
    patient = np.repeat(np.arange(100), 3)
    assert not np.array_equal(patient_folds(patient, seed=0), patient_folds(patient, seed=1))
    assert np.bincount(patient_folds(patient)).tolist() == [60]*5


@pytest.mark.parametrize('split', [
    lambda: patient_folds([1, 1, 2], folds=3), lambda: patient_folds([1, 2], folds=1),
    lambda: patient_split([1, 2], fraction=1.), lambda: patient_split([1, 1]),
    lambda: patient_split(None), lambda: patient_split([1, None]),
    lambda: patient_split([1, 2, 3], np.full((3, 1), np.nan)),
    lambda: patient_split([1, 2], np.zeros((3, 1)))])
def test_splits_that_cannot_be_made(split):
    with pytest.raises(ValueError): split()


def test_all_shared_patients_are_named():
    with pytest.raises(ValueError, match="2 patients are in both parts: b, c"):
        check_split(['a', 'b', 'c'], ['c', 'd', 'b'])


def test_real_folds_are_even(cxr_data):
    data = from_npz(cxr_data/'nih14'/'images_64.npz', cxr_data/'nih14'/'subset.csv')
    fold = patient_folds(data.patient_id, data.y)
    counts = np.stack([data.y[fold == f].sum(0) for f in range(5)])
    assert np.ptp(counts, axis=0).max() <= 3 and np.ptp(np.bincount(fold)) <= 3
    for f in range(5): check_split(data.patient_id[fold != f], data.patient_id[fold == f])
    train, valid = patient_split(data.patient_id, data.y, .1)
    assert abs(len(valid) - 252) <= 3
    assert (abs(data.y[valid].sum(0) - .1*data.y.sum(0)) <= 2).all()


# ---- one rule

def former_rule(data, fold=None, fold_column=None):
    "What was held out before there was one rule, for data with patients."
    who = data.patient_id
    real = np.ones(len(data), bool) if data.synthetic is None else ~data.synthetic.numpy()
    if fold is None:
        chosen = patient_split(who[real], data.y[real], fraction=.2, seed=0)[1]
        held = np.isin(who, who[real][chosen])
    elif fold_column is None: held = patient_folds(who, data.y) == fold
    else: held = data.meta[fold_column].to_numpy() == fold
    return np.flatnonzero(~held), np.flatnonzero(held & real)


@given(st.integers(0, 10**6), st.booleans())
@settings(max_examples=25)
def test_runs_of_before_hold_out_the_same_rows(seed, some_made):
    g = np.random.default_rng(seed)
    who = g.integers(0, 25, 90)
    made = g.random(90) < .3 if some_made else None
    y, meta = (g.random((90, 4)) < .3).astype(float), pd.DataFrame({'fold': who % 3})
    data = from_arrays(black(90), y, patient_id=who, synthetic=made, meta=meta)
    for arguments in ((), (0,), (3,), (1, 'fold')):
        train, held = hold_out(data, *arguments)
        train_before, held_before = former_rule(data, *arguments)
        assert np.array_equal(train, train_before) and np.array_equal(held, held_before)
    train, held = split_by_patient(data, fraction=.2, seed=0)
    assert np.array_equal(train, hold_out(data)[0]) and np.array_equal(held, hold_out(data)[1])
    assert not set(who[train]) & set(who[held]) and (made is None or not made[held].any())


def test_the_fingerprint_and_the_parts_of_the_real_subset_stay(cxr_data):
    from hashlib import sha256
    data = from_npz(cxr_data/'nih14'/'images_64.npz', cxr_data/'nih14'/'subset.csv')
    assert data.fingerprint() == 'bf6f7111dc40b162d82521a0dde3ead41b47cd56887cc7248004d75edd0456d3'
    expected = {(): '41be1f592eeafacb', (2,): '9011807656ad238e', (1, 'cv_fold'): '0ca08f7f07c2b6b0'}
    for arguments, right in expected.items():
        with warnings.catch_warnings():
            warnings.simplefilter('error')
            parts = hold_out(data, *arguments)
        numbers = b''.join(rows.astype(np.int64).tobytes() for rows in parts)
        assert sha256(numbers).hexdigest()[:16] == right


def test_the_fingerprint_of_a_table_stays(tmp_path):
    from PIL import Image
    rows = ['path,patient_id,Edema,Mass']
    for i in range(12):
        Image.fromarray(np.full((20, 16), i*10, np.uint8)).save(tmp_path/f'{i}.png')
        rows.append(f'{i}.png,{i//2:03d},{i%2},{"" if i%3 else -1}')
    (tmp_path/'t.csv').write_text('\n'.join(rows))
    right = '20ac4dc8761a91b18ec1da7efe8842c2ef91aba0c932706782f66f63bf782ecf'
    assert from_csv(tmp_path/'t.csv', size=16).fingerprint() == right


# ---- folds

@pytest.mark.parametrize('fold, name', [
    (3, '3'), (3., '3'), ('3', '3'), (' 3.0 ', '3'),
    ('test', 'test'), (np.int8(2), '2'),
    (None, ''), (np.nan, ''), (pd.NA, ''), ('nan', ''), (' ', '')])
def test_how_a_fold_is_called(fold, name): assert parse_fold(fold) == name


@pytest.mark.parametrize('fold', [.5, -1, '-1', '0.5', True, np.inf, '1e400', -.0001])
def test_what_is_no_fold(fold):
    with pytest.raises(ValueError, match='no fold'): parse_fold(fold)


@pytest.mark.parametrize('column, words', [
    ([0, 0, 1, 1, None, 2], 'row 5 .counted from 1'), ([0, 0, 1, 1, '', 2], 'row 5 .counted'),
    ([0, 0, 1, 1, -1, 2], 'no fold'), ([0, 0, 1, 1, .5, 2], 'no fold'),
    ([0, 1, 1, 1, 2, 2], "patient a in .'0', '1'."), ([0, 0, 1, 1, 2, 1], 'more than one fold')])
def test_columns_of_folds_that_are_refused(column, words):
    with pytest.raises(ValueError, match=words): hold_out(with_folds('aabbcc', pd.Series(column)), 0, 'fold')


def with_folds(who, column, **kw):
    "An image for each patient of a text, with a column of folds."
    meta = pd.DataFrame({'fold': column})
    return from_arrays(black(len(who)), np.zeros((len(who), 1)), patient_id=list(who), meta=meta, **kw)


def parts_of(*arguments): return [rows.tolist() for rows in hold_out(*arguments)]


@pytest.mark.parametrize('column', [
    [0, 0, 1, 1, 2, 2],
    [0., 0, 1, 1, 2, 2],
    ['0', '0', '1.0', '1', '2', '2']])
def test_columns_of_folds(column):
    data = with_folds('aabbcc', column)
    for fold in (1, 1., '1'): assert parts_of(data, fold, 'fold') == [[0, 1, 4, 5], [2, 3]]
    wrong = {3: r'fold 3 does not exist: there are \[0, 1, 2\]', 'x': 'fold x does not exist'}
    for fold, words in {**wrong, -1: 'no fold', True: 'no fold'}.items():
        with pytest.raises(ValueError, match=words): hold_out(data, fold, 'fold')


def test_folds_may_have_names():
    assert hold_out(with_folds('aabb', ['train', 'train', 'test', 'test']), 'test', 'fold')[1].tolist() == [2, 3]


@pytest.mark.parametrize('arguments, words', [
    ((None, 'fold'), 'need fold='), ((0, 'folds'), "no column 'folds'"), ((5,), 'fold 5 does not exist'),
    ((0, 'fold'), '60 of 60 images would be held out')])
def test_folds_that_cannot_be_held_out(arguments, words):
    data = make_data(meta=pd.DataFrame({'fold': np.zeros(60)}))
    with pytest.raises(ValueError, match=words): hold_out(data, *arguments)


def test_generated_rows_take_the_fold_of_their_patient():
    who, made = list('aabbcad'), [0, 0, 0, 0, 0, 1, 1]
    folds = [0, 0, 1, 1, 2, None, None]
    assert read_folds(folds, who, made).tolist() == ['0', '0', '1', '1', '2', '0', '']
    assert parts_of(with_folds(who, folds, synthetic=made), 0, 'fold') == [[2, 3, 4, 6], [0, 1]]
    with pytest.raises(ValueError, match='more than one fold'): read_folds([0, 0, 1, 1, 2, 1, None], who, made)
    with pytest.raises(ValueError, match='0 of 7 images'): separate_rows(np.array(who) == 'd', who, made)


# ---- patients in two parts

@pytest.mark.parametrize('train, valid, words', [
    (['a', 'b'], ['b', 'c'], '1 patients are in both parts: b'), ([1, 2], ['2', '3'], 'both parts: 2'),
    ([7], ['007', '8'], r'both parts: 7 \(007\)'), ([' a'], ['a '], 'both parts: a'),
    ([1., 2.], [2], 'both parts: 2'),
    (['00000007'], [7], 'both parts: 00000007'), (['1.0', 'x'], ['1', 'y'], 'both parts: 1.0'),
    (['7.00'], [7], 'both parts: 7.00'), ([1, None], [2, 3], 'rows 1')])
def test_a_patient_in_both_parts(train, valid, words):
    with pytest.raises(ValueError, match=words): check_split(train, valid)


@pytest.mark.parametrize('ids, named', [
    ([-1, 2], '-1'), (['unknown', 'a'], 'unknown'),
    (['?', 'a'], '?'), (['Anonymous', 'a'], 'Anonymous'),
    ([1, 2], None), (['a', 'known'], None)])
def test_identifiers_of_unknown_patients_are_named(ids, named):
    with warnings.catch_warnings(record=True) as messages:
        warnings.simplefilter('always')
        make_data(2, patient=ids)
    assert [repr(named) in str(w.message) for w in messages] == ([] if named is None else [True])


@pytest.mark.parametrize('train, valid', [
    (['007'], ['7']), ([1, 2], [3]), (['a1'], [1]),
    ([], []), (['a'], ['A'])])
def test_patients_in_one_part(train, valid): check_split(train, valid)


def numbered(first, **kw):
    "Six images of six patients, numbered from `first` on."
    return make_data(6, patient=np.arange(first, first + 6), **kw)


def names_from(first): return [f'{i:08d}_000.png' for i in range(first, first + 6)]


def test_parts_that_were_made_elsewhere_and_share_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        check_train_valid(*(make_data(6, patient=None, paths=names_from(first)) for first in (0, 6)))
        check_train_valid(make_data(6), numbered(10))


def test_parts_that_were_made_elsewhere_and_share_a_patient():
    files = make_data(6, patient=None, paths=names_from(0))
    with pytest.raises(ValueError, match='1 patients are in both parts: 00000005'):
        check_train_valid(files, make_data(6, patient=None, paths=names_from(5)))
    with pytest.raises(ValueError, match='00000005'): dataloaders(files, numbered(50, paths=names_from(5)))


def test_parts_that_do_not_say_their_patients():
    unnamed = make_data(6, patient=None)
    with pytest.raises(ValueError, match='training part has none'): check_train_valid(unnamed, make_data(6))
    with pytest.warns(UserWarning, match='not checked'): check_train_valid(unnamed, make_data(6, patient=None))


def test_parts_that_differ_in_pixels_or_are_generated():
    padded, cropped = numbered(0, reading=Reading(8, 'pad')), numbered(9, reading=Reading(8, 'crop'))
    with pytest.raises(ValueError, match="fit 'pad' against 'crop'"): check_train_valid(padded, cropped)
    smaller = from_arrays(np.zeros((2, 4, 4)), np.zeros((2, 3)), patient_id=[90, 91])
    with pytest.raises(ValueError, match='8 and 4 pixels'): check_train_valid(make_data(6), smaller)
    generated = numbered(10, synthetic=np.arange(6) == 2)
    with pytest.raises(ValueError, match='1 of the 6 held-out images are generated'):
        check_train_valid(make_data(6), generated)


# ---- regimes

def test_a_regime_is_one_function():
    y = (np.random.default_rng(0).random((40, 5)) < .3).astype(np.float32)
    who = np.arange(40)//2
    assert L.annotate(y)[1].all()
    known = L.annotate(y, regime='single-positive', seed=3)[1]
    assert np.array_equal(known, L.single_positive(y, 3)[1])
    for kw, patients in ((dict(patient_id=who), who), (dict(each_image=True), np.arange(40))):
        known = L.annotate(y, regime='fraction', fraction=.3, seed=2, **kw)[1]
        assert np.array_equal(known, L.keep_fraction(y, patients, .3, 2)[1])
    known = np.random.default_rng(1).random(y.shape) < .5
    for regime in L.REGIMES: assert (L.annotate(y, known, who, regime, .5)[1] <= known).all()
    with pytest.raises(ValueError, match='each_image=True'): L.annotate(y, regime='fraction')
    with pytest.raises(ValueError, match="'full', 'fraction', 'single-positive'"): L.annotate(y, regime='single')
    with pytest.raises(ValueError, match='np.arange'): L.keep_fraction(y, None, .5, 0)


def test_head_and_tail_by_prevalence_and_by_labels():
    y = np.zeros((1000, 4))
    for label, positives in enumerate((50, 49, 10, 9)): y[:positives, label] = 1
    right = {'a': 'head', 'b': 'medium', 'c': 'medium', 'd': 'tail'}
    assert L.frequency_groups(y, names=list('abcd')) == right
    for dtype in (np.float64, np.float32, np.float16):
        assert L.prevalence_groups(y.mean(0).astype(dtype), list('abcd')) == right
    assert L.prevalence_groups(torch.tensor(y).float().mean(0), list('abcd')) == right
    assert list(L.prevalence_groups([0, 1, .01])) == [1, 2, 0]
    for wrong in ([-.1, .5], [np.nan, .5], [1.5, 0]):
        with pytest.raises(ValueError, match='share from 0 to 1'): L.prevalence_groups(wrong)
    with pytest.raises(ValueError, match='2 names'): L.prevalence_groups([.1, .2], ['a'])


def test_the_phantom_has_the_names_of_chexpert():
    from cxr_workbench.thorax import FINDINGS, LABELS
    assert LABELS is L.CHEXPERT and FINDINGS == L.CHEXPERT[1:]
