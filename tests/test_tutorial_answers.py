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


@pytest.fixture(scope='module')
def walk(): return run_cells('first_half_hour.ipynb', '4043aabf', 'd2c165dc', '42bd2be6', '06c46a19')


def test_the_budget_matters_more_than_the_steps_and_in_a_large_one_steps_pay(walk):
    from cxr_workbench.cases import film_attack
    c = walk['names'].index('Pneumothorax')
    def end(eps, steps):
        return film_attack(walk['model'], walk['x'], 'Pneumothorax', eps=eps/255, steps=steps).scores[-1][c]

    assert end(1, 1) == pytest.approx(.22, abs=.02) == end(1, 8)
    assert end(8, 1) == pytest.approx(.58, abs=.02) and end(8, 8) == pytest.approx(.9, abs=.02)


def test_the_baseline_looks_elsewhere(walk):
    from cxr_workbench.learner import find_model, load
    baseline, own = load(find_model('supervised')), walk['hits'].set_index('label')['hits']
    edema, solid = (walk['count_hits'](label, baseline, 'grad_cam') for label in ('Edema', 'Consolidation'))
    assert own['Edema'] > .6 and edema['hits'] < edema['chance']
    assert solid['hits'] == pytest.approx(own['Consolidation'], abs=.05)


def test_positives_that_are_named_by_frequency_are_fewer_where_rare():
    from cxr_workbench.labels import single_positive
    names = run_cells('one_positive.ipynb', '2cef2d08', '76ab80f8')
    y, labels = names['train'].y, names['names']
    named = single_positive(y, seed=0, weight=y.mean(0))[0].sum(0)
    def count(label):
        c = labels.index(label)
        one = names['one'].y[:, c].sum()
        return int(y[:, c].sum()), int(one), int(named[c])
    counts = {label: count(label) for label in ('Consolidation', 'Pneumonia')}
    assert counts == {'Consolidation': (30, 7, 1), 'Pneumonia': (24, 10, 5)}


def test_one_label_of_all_images_is_ahead_of_all_labels_of_a_quarter():
    from cxr_workbench.labels import frequency_groups, keep_fraction
    from cxr_workbench.metrics import report
    names = run_cells('one_positive.ipynb', '2cef2d08', '76ab80f8')
    cells = json.loads((TUTORIALS/'one_positive.ipynb').read_text())['cells']
    code = next(''.join(cell['source']) for cell in cells if cell['id'] == 'e4cca059')
    exec(code.split('scores =')[0], names)   # train_one
    train, test, labels = names['train'], names['test'], names['names']
    quarter = train.with_labels(*keep_fraction(train.y, train.patient_id, .25, 0, train.known))
    assert (int(quarter.known.any(1).sum()), len(train)) == (118, 498)
    scores = names['train_one'](names['one'], unknown='negative'), names['train_one'](quarter)
    groups = frequency_groups(train.y, train.known, names=labels)
    one, few = (report(each, test, groups=groups, n_boot=0).loc['head', 'auroc'] for each in scores)
    assert one == pytest.approx(.550, abs=.02) and few == pytest.approx(.509, abs=.02) and one > few
    sums = [each[labels].mean().sum() for each in scores]
    assert sums == pytest.approx([1.5, 5.0], abs=.3)
    assert float(test.y.mean(0).sum()) == pytest.approx(2.36, abs=.01)


def test_the_largest_batch_by_the_formula():
    planned = run_cells('many_gpus.ipynb', '304fee63', 'a61494fd')['plan']('densenet121', 224)
    outputs = 4*planned['outputs']   # at 448 pixels
    def largest(each): return int((24e9 - 16*planned['parameters'])//(each*outputs))
    assert (largest(4), largest(2)) == (38, 77)


def test_a_part_of_a_method_as_the_answers_have_it():
    import torch
    from torch import nn
    from cxr_workbench.core import Batch, Step
    names = run_cells('add_a_method.ipynb', '76ac0bf2', 'cc0987ea')
    SoftPool, size = names['SoftPool'], dict(size=32, backbone='test_resnet', min_cells=4)
    x = torch.rand(4, 1, 32, 32)
    with pytest.raises(KeyError, match='register_probe'): SoftPool(3, **size)(x)

    class Sharper(SoftPool):
        def attach(self, width):
            super().attach(width)
            self.log_tau = nn.Parameter(torch.zeros(self.labels))

        def look(self, x):
            maps = self.backbone.feature_map(x)
            cells = self.head(maps)
            attention = (cells/self.log_tau.exp()[:, None, None]).flatten(2).softmax(2).view_as(cells)
            return (attention*cells).sum((2, 3)), {'feature_map': maps, 'attention': attention}

        def default_weights(self): return {**super().default_weights(), 'entropy': .1}

        def step(self, batch, progress=1., stage=0):
            y, known = self.targets(batch)
            logits, probes = self.look(self.weak(batch.x))
            a = probes['attention']
            terms = self.terms(supervised=lambda: self.supervise(logits, y, known),
                               entropy=lambda: -(a*(a + 1e-8).log()).sum((2, 3)).mean())
            return Step(logits, terms, self.weights, probes)

    method, off = Sharper(3, **size), Sharper(3, weights={'entropy': 0}, **size)
    rows = [1., 0, 1], [0, 1, 0], [0, 0, 1], [1, 1, 0]
    y = torch.tensor(rows)
    known = torch.ones_like(y, dtype=torch.bool)
    method.prepare(y, known)
    terms = method.step(Batch(x, y, known, torch.arange(4))).terms
    sum(terms.values()).backward()
    assert 0 < terms['entropy'] <= torch.tensor(16.).log() + 1e-5 and method.log_tau.grad.abs().sum() > 0
    assert 'log_tau' in method.state_dict() and set(off.terms(supervised=float, entropy=float)) == {'supervised'}


def test_a_map_of_the_baseline_does_not_survive_its_head():
    import torch
    from cxr_workbench.explain import attribute, rank_correlation, shuffle_weights
    names = run_cells('what_attention_is_worth.ipynb', '5af97cf2', '1498d218')
    model, c = names['models']['supervised'], names['names'].index('Lung Opacity')
    x = names['data'].batch(torch.nonzero(names['data'].y[:, c])[:30, 0]).x
    def ask(method): return attribute(method, x, 'Lung Opacity', 'grad_cam')
    def compare(one, other): return float(rank_correlation(ask(one), ask(other)).mean())
    assert compare(model, shuffle_weights(model, 'head')) < .3
    assert compare(shuffle_weights(model, seed=0), shuffle_weights(model, seed=1)) > .7


def test_mpc_keeps_a_label_of_the_images_that_show_a_finding():
    names = run_cells('reproduce_mpc.ipynb', 'a1e10002', 'a1e10003')
    train = names['split_parts'](names['plan'].protocol, names['opened'], names['plan'].runs[0])[0]
    assert (len(train), int(train.known.any(1).sum())) == (189, 128)
