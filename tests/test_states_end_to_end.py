"Present, absent, uncertain and blank of a made table, from the file to the numbers of a report."
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from cxr_workbench.data import from_csv
from cxr_workbench.labels import LabelPolicy, annotate, soften_uncertain
from cxr_workbench.losses import masked_bce
from cxr_workbench.metrics import report
from cxr_workbench.states import count_states

LABELS = ['Atelectasis', 'Edema', 'Fracture']
CYCLE = [1, 0, -1, np.nan]


@pytest.fixture(scope='module')
def table(tmp_path_factory):
    "64 images; each label goes through the four states at its own pace, so that all combinations occur."
    folder = tmp_path_factory.mktemp('states')
    rows = np.arange(64)
    states = np.array([[CYCLE[row % 4], CYCLE[row//4 % 4], CYCLE[row//16 % 4]] for row in rows])
    frame = pd.DataFrame(states, columns=LABELS)
    frame.insert(0, 'path', [f'{row:02d}.png' for row in rows])
    frame.insert(1, 'patient_id', rows//2)
    for name in frame.path: Image.fromarray(np.full((16, 16), 99, np.uint8)).save(folder/name)
    frame.to_csv(folder/'table.csv', index=False)
    return folder/'table.csv'


POLICIES = {
    'all zeros': LabelPolicy(), 'all ones': LabelPolicy('ones'), 'apart': LabelPolicy('ignore', 'unknown'),
    'ignore': LabelPolicy('ignore'),
    'by label': LabelPolicy('Atelectasis=ones,Edema=ignore', 'Fracture=unknown')}
ABSENT, PRESENT, UNKNOWN = (0, 1), (1, 1), (0, 0)   # label and mask
MEANING = {   # policy -> label -> what uncertain and blank are
    'all zeros': dict.fromkeys(LABELS, [ABSENT, ABSENT]),
    'all ones': dict.fromkeys(LABELS, [PRESENT, ABSENT]),
    'apart': dict.fromkeys(LABELS, [UNKNOWN, UNKNOWN]),
    'ignore': dict.fromkeys(LABELS, [UNKNOWN, ABSENT]),
    'by label': {'Atelectasis': [PRESENT, ABSENT], 'Edema': [UNKNOWN, ABSENT], 'Fracture': [ABSENT, UNKNOWN]}}


@pytest.mark.parametrize('name', POLICIES)
def test_each_state_keeps_its_meaning_to_the_end(table, name):
    frame, policy = pd.read_csv(table), POLICIES[name]
    data = from_csv(table, labels=LABELS, policy=policy, size=8)
    batch = data.batch(range(64))
    logits = torch.zeros(64, 3, requires_grad=True)
    masked_bce(logits, batch.y, batch.known).backward()
    scored = report(np.full((64, 3), .4), data, n_boot=0)
    for c, label in enumerate(LABELS):
        state = frame[label].to_numpy()
        uncertain, blank = MEANING[name][label]
        expected = {1: PRESENT, 0: ABSENT, -1: uncertain, None: blank}
        for value, (y, known) in expected.items():
            rows = np.isnan(state) if value is None else state == value
            assert (data.y[rows, c] == y).all() and (data.known[rows, c] == bool(known)).all()       # data set
            sign = 0 if not known else -1 if y else 1
            assert (torch.sign(logits.grad[rows, c]) == sign).all()                                  # loss
        present = (data.y[:, c] == 1) & data.known[:, c]
        assert scored.loc[label, 'n_pos'] == present.sum()   # metrics
        assert scored.loc[label, 'n'] == data.known[:, c].sum()
    counted = data.count_states()   # report on the data
    assert counted.equals(count_states(frame[LABELS])) and (counted.sum(1) == 64).all()
    assert (counted.uncertain > 0).all() and (counted.blank > 0).all()


def test_states_stay_with_their_rows_and_not_with_other_labels(table):
    data = from_csv(table, labels=LABELS, policy=POLICIES['apart'], size=8)
    part = data.subset([0, 1, 2, 3])
    assert part.count_states().loc['Atelectasis'].tolist() == [1, 1, 1, 1]
    fewer = data.with_labels(*annotate(data.y, data.known, data.patient_id, 'fraction', .2, seed=0))
    assert fewer.known.sum() < data.known.sum() and fewer.count_states().equals(data.count_states())  # the table's
    other = data.copy_with(y=data.y[:, :2], known=data.known[:, :2], label_names=LABELS[:2])
    assert other.states is None and [*other.count_states()] == ['present', 'absent', 'unknown']
    assert other.count_states().unknown.tolist() == (~data.known[:, :2]).sum(0).tolist()


def test_soft_targets_reach_the_loss(table):
    frame = pd.read_csv(table)[LABELS]
    y, known = LabelPolicy('ones')(frame)
    targets = soften_uncertain(y, known, frame, seed=1)
    uncertain = (frame == -1).to_numpy()
    assert ((targets[uncertain] > .55) & (targets[uncertain] < .85)).all()
    assert np.array_equal(targets[~uncertain], y[~uncertain])
    zeros = soften_uncertain(*LabelPolicy('zeros')(frame), frame)
    assert ((zeros[uncertain] >= 0) & (zeros[uncertain] < .3)).all()
    logits = torch.randn(64, 3, generator=torch.Generator().manual_seed(0))
    many = [masked_bce(logits, torch.from_numpy(soften_uncertain(y, known, frame, seed=s))) for s in range(200)]
    mean = torch.from_numpy(np.where(uncertain, .7, y).astype(np.float32))
    assert torch.isclose(torch.stack(many).mean(), masked_bce(logits, mean), atol=3e-3)    # linear in the target
    with pytest.raises(ValueError, match='no range'): soften_uncertain(y, known, frame, present=(.8, .2))


# ---- policies by label ----

def test_a_policy_by_label_is_a_text_and_can_be_compared():
    made = LabelPolicy({'b': 'ones', 'hernia, hiatal': 'ignore'})
    assert made.uncertain == 'b=ones,hernia, hiatal=ignore,*=zeros'
    assert LabelPolicy(made.uncertain) == made and len({made, LabelPolicy(made.uncertain)}) == 1
    assert LabelPolicy({'*': 'ones'}) == LabelPolicy('ones')
    table = pd.DataFrame({'b': [-1.], 'hernia, hiatal': [-1.], 'c': [-1.]})
    y, known = made(table)
    assert y.tolist() == [[1, 0, 0]] and known.tolist() == [[True, False, True]]
    y, known = LabelPolicy({'b': 'zeros', '*': 'ones'})(table)
    assert y.tolist() == [[0, 1, 1]]


@pytest.mark.parametrize('wrong', [{'a': 'one'}, 'a=one', 'a=ones;b=zeros', '=ones', {}, 'ones=', None, {'a': None}])
def test_a_rule_that_there_is_not(wrong):
    with pytest.raises(ValueError, match='give one of'): LabelPolicy(wrong)


def test_a_label_that_the_table_has_not_is_refused():
    policy = LabelPolicy({'Oedema': 'ones'})
    with pytest.raises(ValueError, match="Oedema.*'Edema'"): policy(pd.DataFrame({'Edema': [1.]}))
    with pytest.raises(ValueError, match='give names='): policy([[1, 0]])
    assert policy([[-1, -1]], ['Oedema', 'x'])[0].tolist() == [[1, 0]]
