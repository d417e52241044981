"Children without parents and blank parents: counted by rule, filled in on request, on made and on real tables."
import gzip
import numpy as np, pandas as pd, pytest
from PIL import Image
from test_doctor import shell
from cxr_workbench import roles
from cxr_workbench.implied import check_implied, complete_states, fill_table, name_in_tree
from cxr_workbench.states import CHEXPERT

LABELS = ['No Finding', 'Lung Opacity', 'Edema', 'Pneumonia', 'Consolidation', 'Support Devices']
ROWS = [   # as a table spells them, and as they are when what follows is filled in
    ((None, None, '1', '0', None, None), (0, 1, 1, 0, None, None)),           # an edema is a lung opacity
    ((None, None, None, '1', None, '1'), (0, 1, None, 1, 1, 1)),              # of a child, both that are above it
    ((None, '0', '1', None, None, None), (0, 0, 1, None, None, None)),        # a contradiction: nothing about the rest
    (('1', None, None, None, None, '1'), (1, 0, 0, 0, 0, 1)),                 # no finding: none but devices
    ((None, '-1', '1', None, None, None), (0, -1, 1, None, None, None)),      # what is uncertain was said so
    ((None, None, None, None, None, '1'), (None, None, None, None, None, 1)),
]


@pytest.fixture
def table(): return pd.DataFrame([row for row, _ in ROWS], columns=LABELS, dtype=object)


def test_what_follows_is_filled_in_and_nothing_else(table):
    full, filled = fill_table(table, LABELS)
    states = roles.parse_states(full, LABELS)
    right = np.array([[np.nan if state is None else state for state in row] for _, row in ROWS], np.float32)
    right[2, 3:5] = 0   # an opacity that is absent has no children, whatever contradicts it
    assert np.array_equal(states, right, equal_nan=True)
    assert filled == (np.isnan(roles.parse_states(table, LABELS)) & ~np.isnan(right)).sum()
    assert fill_table(full, LABELS)[1] == 0 and full['Support Devices'].tolist() == table['Support Devices'].tolist()


def test_counts_are_by_rule(table):
    contradiction, blank = check_implied(table, LABELS)
    assert contradiction.count == 1 and contradiction.examples == ['Edema without Lung Opacity 1 of 1']
    assert blank.count == 3 and blank.examples == ['Lung Opacity in 2 rows', 'Consolidation in 1 row']
    assert '--complete' in blank.advice and not contradiction.stops and not blank.stops


@pytest.mark.parametrize('labels, applies', [
    (['Pneumonia', 'Consolidation'], False), (['Lung Opacity', 'Edema'], True), (['lung-opacity', 'EDEMA'], True),
    (['Enlarged Cardiomediastinum', 'Cardiomegaly'], True), (['Edema', 'Lung Opacity', 'Lung_Opacity'], False)])
def test_where_the_tree_applies(labels, applies):
    assert bool(name_in_tree(labels)) == applies
    rows = [list('100')[:len(labels)], list('011')[:len(labels)]]
    table = pd.DataFrame(rows, columns=labels, dtype=object)
    assert len(check_implied(table, labels)) <= applies


def test_words_and_strange_entries_stay_what_they_are():
    table = pd.DataFrame({'Lung Opacity': ['?', None], 'Edema': ['1', '1']}, dtype=object)
    assert fill_table(table, [*table])[1] == 1 or fill_table(table, [*table])[0].equals(table)
    words = pd.DataFrame({'Lung Opacity': ['yes', None, 'no'], 'Edema': ['no', 'yes', 'no']}, dtype=object)
    full, filled = fill_table(words, [*words])
    assert filled == 1 and full['Lung Opacity'].tolist() == ['1', '1', '0'] and full.Edema.equals(words.Edema)


def test_the_written_table_is_complete(table, tmp_path):
    names = [f'{k}.png' for k in range(len(table))]
    for name in names: Image.fromarray(np.full((16, 16), 40, np.uint8)).save(tmp_path/name)
    table.assign(path=names, patient=[*'abcdef']).to_csv(tmp_path/'t.csv', index=False)
    printed = shell('doctor', tmp_path/'t.csv', '--look', 0)
    assert '3 blank entries present by the tree of CheXpert' in printed
    shell('doctor', tmp_path/'t.csv', '--look', 0, '--write', tmp_path/'plain.csv')
    shell('doctor', tmp_path/'t.csv', '--look', 0, '--write', tmp_path/'full.csv', '--complete')
    plain, full = (pd.read_csv(tmp_path/name) for name in ('plain.csv', 'full.csv'))
    assert plain['Lung Opacity'].isna().sum() == 4
    assert full['Lung Opacity'].tolist()[:5] == [1, 1, 0, 0, -1]
    assert 'by the tree of CheXpert: Lung' not in shell('doctor', tmp_path/'full.csv', '--look', 0)
    refused = shell('doctor', tmp_path/'t.csv', '--complete', status=1)
    assert '--complete and --force are for the table that --write names: give --write' in refused


def test_chexpert(label_tables):
    with gzip.open(label_tables/'chexpert_train.csv.gz') as file: states = pd.read_csv(file)[CHEXPERT].to_numpy(float)
    def column(name): return states[:, CHEXPERT.index(name)]
    below = {'Lung Opacity': ['Lung Lesion', 'Edema', 'Consolidation', 'Pneumonia', 'Atelectasis'],
             'Enlarged Cardiomediastinum': ['Cardiomegaly'], 'Consolidation': ['Pneumonia']}
    def count(name, children):   # without rows in which what is above is absent: they contradict themselves
        open_rows = np.isnan(column(name)) & ((column('Lung Opacity') != 0) | (name != 'Consolidation'))
        return int((open_rows & np.any([column(child) == 1 for child in children], 0)).sum())
    right = {name: count(name, children) for name, children in below.items()}
    assert right == {'Lung Opacity': 45_501, 'Enlarged Cardiomediastinum': 24_616, 'Consolidation': 3_829}
    whole = complete_states(CHEXPERT, states)
    filled = np.isnan(states) & (whole == 1)
    assert {name: filled[:, CHEXPERT.index(name)].sum() for name in right} == right and filled.sum() == 73_946
    assert np.array_equal(whole[~np.isnan(states)], states[~np.isnan(states)])
