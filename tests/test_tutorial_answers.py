"What the folded answers of the tutorials say, by the numbers that the tutorials' own cells give."
import json
from pathlib import Path
import pytest

TUTORIALS = Path(__file__).parent.parent/'nbs'/'tutorials'


def run_cells(tutorial, *ids):
    "The names that some cells of a tutorial define."
    cells = {cell['id']: ''.join(cell['source']) for cell in json.loads((TUTORIALS/tutorial).read_text())['cells']}
    names = {}
    for each in ids: exec(cells[each], names)
    return names


@pytest.fixture(scope='module')
def attack(): return run_cells('attack_and_defend.ipynb', '8ac2af33', '8e194d05', '26457b8d', '02d091a0')


def test_longer_steps_help_pgd_and_more_steps_do_not(attack):
    from cxr_workbench.attacks import FAMILY, attack_objective, gni_fgsm
    model, x, y, score_auroc = (attack[name] for name in ('model', 'x', 'y', 'score_auroc'))

    def measure(family, **settings):
        x_adv = gni_fgsm(x, attack_objective(model, y), eps=2/255, **{**FAMILY[family], **settings})
        return score_auroc(attack['cases'].score_batch(model, x_adv))['macro']

    fgsm, few, many, long = (measure('FGSM'), measure('PGD', steps=4), measure('PGD', steps=8),
                             measure('PGD', steps=4, step_size=1/255))
    assert few > fgsm + .03 and abs(many - few) < .01 and long < few - .03


def test_an_attack_on_what_is_present_loses_more_and_alarms_less(attack):
    model, y = attack['model'], attack['y']
    score, count = attack['cases'].score_batch, attack['count_flips']
    whole = count(score(model, attack['attack_all'](model, 1))).sum()
    present = count(score(model, attack['attack_all'](model, 1, mask=y)))
    assert present['lost'].sum() > whole['lost']
    assert 0 < present['false alarms made'].sum() < .5*whole['false alarms made']
    assert present.loc['No Finding', 'false alarms made'] == present['false alarms made'].max()


def test_a_balanced_test_set_flatters_average_precision():
    names = run_cells('rare_labels.ipynb', '75f63be1', 'b5bfbd95')
    import numpy as np
    from cxr_workbench.metrics import report
    y, c, scores = names['y'], names['c'], names['scores']
    present, absent = np.flatnonzero(y[:, c]), np.flatnonzero(y[:, c] == 0)

    def measure(rows):
        own = scores[rows][:, [c]], y[rows][:, [c]]
        return report(*own, label_names=[names['label']], n_boot=0).iloc[0]

    whole = measure(np.arange(len(y)))
    even = measure(np.r_[present, np.random.default_rng(0).permutation(absent)[:len(present)]])
    assert whole['ap'] < .75 and even['ap'] > .9 and abs(even['auroc'] - whole['auroc']) < .04
