"Labels in words: a whole column says what its entries mean, and what does not fit is left for the error."
import numpy as np, pandas as pd, pytest
from PIL import Image
from cxr_workbench import answers, data, roles, tables
from cxr_workbench.labels import LabelPolicy, label_states

NAN = float('nan')


@pytest.mark.parametrize('entries, states', [
    (['yes', 'no', None, 'NO '], [1, 0, NAN, 0]),
    (['Positive', 'negative', ''], [1, 0, NAN]),
    (['Y', 'n', '?'], [1, 0, -1]),
    (['x', None, 'X'], [1, NAN, 1]),
    (['x', '-', '?'], [1, 0, -1]),
    (['+', '-', '+/-', '++'], [1, 0, -1, 1]),
    (['✓', '', '✓'], [1, NAN, 1]),
    (['ja', 'nein'], [1, 0]),
    (['yes', '0', 1, 'TRUE', 'n/a', 'unknown'], [1, 0, 1, 1, NAN, NAN]),
    (['present', 'absent', 'possible'], [1, 0, -1]),
    (['+', '–', None], [1, 0, NAN])])
def test_columns_of_words(entries, states):
    read, words = answers.read_answers(pd.Series(entries, dtype=object))
    assert np.array_equal(read, states, equal_nan=True)
    assert {*words} <= {str(entry).strip().lower() for entry in entries}


@pytest.mark.parametrize('entries', [
    ['0', '1'], [1, 0], ['yes', 'perhaps'], ['x', 'yes', 'no'],
    ['x', '0', '1'], ['x', 'x'], ['-', None], ['M', 'F'],
    ['yes', 2], ['a.png', 'b.png'], [None, None], ['yes', .5], [pd.Timestamp('2024-01-01'), 'yes']])
def test_columns_that_are_none(entries):
    column = pd.Series(entries, dtype=object)
    assert answers.read_answers(column) is None


@pytest.mark.parametrize('entries, words', [
    (['yes', None, 'perhaps'], r"row 3 \(counted from 1\).*'perhaps' is not known .1 such"),
    (['x', 'yes', 'no'], r"row 1 \(.*'x' means nothing"),
    (['yes', 2], r"row 2 \(.*words such as 'yes', and 2 is not known"), (['no', .5, .5], '.2 such entries')])
def test_a_label_column_of_words_names_what_is_none(entries, words):
    table = pd.DataFrame({'Edema': pd.Series(entries, dtype=object)})
    with pytest.raises(ValueError, match=words): answers.translate_answers(table, ['Edema'])
    assert np.isinf(roles.parse_states(roles.read_texts(table), ['Edema'])).sum() == (2 if '2 such' in words else 1)


@pytest.mark.parametrize('entries', [
    ['0', 'perhaps'], ['x', 'x'], ['-', None], ['-', 'a'], ['a.png', 'b.png']])
def test_a_column_without_words_is_left_to_its_own_error(entries):
    table = pd.DataFrame({'Edema': entries})
    assert answers.translate_answers(table, ['Edema']) is table


@pytest.mark.parametrize('dtype', ['object', 'str', 'category'])
def test_the_type_of_the_texts_does_not_matter(dtype):
    read, _ = answers.read_answers(pd.Series(['yes', None, 'no', 'yes'], dtype=dtype))
    assert np.array_equal(read, [1, NAN, 0, 1], equal_nan=True)


def test_translation_is_what_the_words_say_in_numbers():
    rng = np.random.default_rng(0)
    states = rng.choice([1, 0, -1, np.nan], (200, 3), p=[.3, .4, .2, .1])
    spelled = {
        1: ['yes', 'Y', 'pos', '+', 1], 0: ['no', 'N', 'neg', 'absent', 0],
        -1: ['?', 'possible', -1]}
    def spell(state): return None if np.isnan(state) else rng.choice(np.array(spelled[state], dtype=object))
    names = list('abc')
    table = pd.DataFrame([[spell(state) for state in row] for row in states], columns=names, dtype=object)
    with pytest.warns(UserWarning, match='labels are written in words'): read = answers.translate_answers(table, names)
    assert np.array_equal(label_states(read[names]), states, equal_nan=True)
    assert np.array_equal(roles.parse_states(roles.read_texts(table), names), states, equal_nan=True)


def test_numbers_alone_are_not_touched(recwarn):
    table = pd.DataFrame({'Edema': [1, 0, None]})
    assert answers.translate_answers(table, ['Edema']) is table and not recwarn


def test_what_looks_like_a_label_is_read_as_one():
    for column in (['yes', 'no'], ['x', None, 'x'], ['+', '-'], ['0', '1']):
        assert tables.holds_states(pd.Series(column))
    for column in (['?', None], ['M', 'F'], ['x', 'yes', 'no'], ['-', None, '-']):
        assert not tables.holds_states(pd.Series(column))


@pytest.mark.parametrize('entries, states', [
    (['T', 'F', None], [1, 0, NAN]), (['t', 'f', 'U'], [1, 0, -1]),
    (['pos.', 'Neg.', '?'], [1, 0, -1]), (['y', 'N', ''], [1, 0, NAN]),
    (['+', '-', '0'], [1, 0, 0]), (['Pos.', 'neg', 'Unclear.'], [1, 0, -1])])
def test_letters_and_abbreviations(entries, states):
    read, _ = answers.read_answers(pd.Series(entries, dtype=object))
    assert np.array_equal(read, states, equal_nan=True)


@pytest.mark.parametrize('entries', [
    ['F', None], ['T', None], ['T', '1', '0'], ['T', 'F', 'yes'],
    ['T', 'F', 'x'], ['M', 'F'], ['pos..', 'neg'], ['.', '1']])
def test_letters_that_may_mean_something_else(entries):
    column = pd.Series(entries, dtype=object)
    assert answers.read_answers(column) is None
    with pytest.raises(ValueError, match='T and F, . and -, . and U'):
        label_states(answers.translate_answers(pd.DataFrame(dict(Edema=column)), ['Edema']))


def test_a_data_set_of_words_is_that_of_numbers(tmp_path):
    for k in range(4): Image.fromarray(np.full((16, 16), 9*k, np.uint8)).save(tmp_path/f'{k}.png')
    frame = pd.DataFrame({'path': [f'{k}.png' for k in range(4)], 'patient_id': [1, 2, 3, 4]})
    words = frame.assign(Edema=['yes', 'no', '?', None], Mass=['x', None, None, 'x'])
    numbers = frame.assign(Edema=[1, 0, -1, None], Mass=[1, None, None, 1])
    for policy in (LabelPolicy(), LabelPolicy('ones', 'unknown'), LabelPolicy('ignore')):
        both = [data.from_dataframe(table, tmp_path, policy=policy) for table in (words, numbers)]
        assert np.array_equal(both[0].y, both[1].y) and np.array_equal(both[0].known, both[1].known)
    with pytest.raises(ValueError, match="row 3 .counted from 1., column 'Edema'.*and 'perhaps' is not known"):
        data.from_dataframe(words.assign(Edema=['yes', 'no', 'perhaps', None]), tmp_path)
