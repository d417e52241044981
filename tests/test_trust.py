"What a network trusts of its own: priors, alignment, thresholds, soft labels, the teacher, and where their state is."
import copy
import pytest, torch
from torch import nn
from torch.nn import functional as F
from hypothesis import given, strategies as st
from cxr_workbench.consistency import consistency_loss, consistency_targets
from cxr_workbench.core import Batch, create_method, seed_all
from cxr_workbench.labels import single_positive
from cxr_workbench.trust import AdaptiveThresholds, DistributionAlignment, PriorThresholds, Teacher, Trust
from cxr_workbench.trust import estimate_prior, has_positives_only, make_trust, sharpen, weigh_present

NAMES = ['Edema', 'Fracture', 'Hernia', 'Mass', 'Nodule']


def seeded(seed): return torch.Generator().manual_seed(seed)


def none_of(t): return torch.zeros_like(t).bool()


# ---- the prior ----

def test_the_prior_of_full_labels_is_their_prevalence():
    share = torch.tensor([.5, .3, .1, .05, .02])
    y = (torch.rand(400, 5, generator=seeded(0)) < share).float()
    known = torch.ones_like(y).bool()
    assert torch.allclose(estimate_prior(y, known, smooth=0.), y.mean(0))
    half = known.clone()
    half[200:] = False
    assert torch.allclose(estimate_prior(y*half, half, smooth=0.), y[:200].mean(0))


def test_few_labels_are_drawn_to_the_mean_share_and_never_to_zero():
    y = torch.zeros(20, 2)
    y[:10, 0] = 1
    prior = estimate_prior(y, torch.ones_like(y).bool(), smooth=10.)
    assert torch.allclose(prior, torch.tensor([(10 + 2.5)/30, 2.5/30]))   # the mean share is .25
    many = estimate_prior(y.repeat(1000, 1), torch.ones(20000, 2).bool(), smooth=10.)
    assert torch.allclose(many, torch.tensor([.5, 0.]), atol=1e-3) and (many > 0).all()


def test_with_single_positives_a_finding_is_as_frequent_as_named_times_the_expected_number():
    y = (torch.rand(4000, 6, generator=seeded(1)) < .4).float()
    o, known = map(torch.as_tensor, single_positive(y.numpy(), seed=0))
    assert has_positives_only(o, known) and not has_positives_only(y, torch.ones_like(known))
    findings = float(y.sum()/y.any(1).sum())
    prior = estimate_prior(o, known, smooth=0., expected=findings)
    assert float(prior.sum()) == pytest.approx(findings, rel=1e-4)
    assert torch.allclose(prior, y[y.any(1)].mean(0), atol=.05)           # one label is like another: the truth
    named = o[known.any(1)].float().mean(0)
    assert torch.allclose(prior, findings*named, rtol=1e-4)
    assert torch.allclose(estimate_prior(o, known, 0., 1.), named, rtol=1e-4)


def test_an_empty_table_has_a_prior_that_is_a_number():
    prior = estimate_prior(torch.zeros(4, 3), torch.zeros(4, 3).bool())
    assert torch.isfinite(prior).all() and (prior > 0).all()


# ---- alignment ----

def test_alignment_leaves_alone_what_is_as_it_should_be():
    q = torch.rand(50, 5, generator=seeded(0))
    align = DistributionAlignment(5)
    assert torch.equal(align(q, torch.full((5,), .1)), q)                 # nothing seen yet
    align.remember(q)
    assert torch.allclose(align(q, q.mean(0)), q, atol=1e-6)
    assert torch.allclose(align(q, torch.zeros(5)), q, atol=1e-6)         # no prior is set


@given(st.floats(.05, .95), st.floats(.05, .95))
def test_one_step_moves_equal_predictions_to_the_prior(predicted, prior):
    align = DistributionAlignment(2, clip=1e6)
    q = torch.full((8, 2), predicted)
    align.remember(q)
    assert torch.allclose(align(q, torch.full((2,), prior)), torch.full((8, 2), prior), atol=1e-4)


def test_the_odds_are_multiplied_by_their_ratio_within_the_clip():
    q, prior = torch.tensor([[.1, .6], [.3, .8]]), torch.tensor([.5, .01])
    align = DistributionAlignment(2, clip=3.)
    align.remember(q)                                                     # means .2 and .7
    def odds(p): return p/(1 - p)
    assert torch.allclose(odds(align(q, prior)), odds(q)*torch.tensor([3., 1/3]), rtol=1e-4)
    wide = DistributionAlignment(2, clip=1e6)
    wide.remember(q)
    ratio = odds(prior)/odds(torch.tensor([.2, .7]))
    assert torch.allclose(odds(wide(q, prior)), odds(q)*ratio, rtol=1e-4)
    extreme = torch.tensor([[0., 1.]])
    assert torch.allclose(wide(extreme, prior), extreme)


def test_alignment_keeps_the_order_and_comes_nearer_to_the_prior():
    q = torch.rand(200, 1, generator=seeded(3))**3
    align = DistributionAlignment(1)
    align.remember(q)
    out = align(q, torch.tensor([.5]))
    assert torch.equal(out.argsort(0), q.argsort(0))
    assert q.mean() + .05 < out.mean() <= .5                              # nearer, exact for equal predictions only


@pytest.mark.parametrize('prior', [.02, .3, .9])
def test_matching_the_mean_makes_it_the_prior(prior):
    q = torch.sigmoid(3*torch.randn(300, 2, generator=seeded(0)) - 1)
    align = DistributionAlignment(2, match='mean', clip=1e4, memory=200)
    align.remember(q[:100])
    align.remember(q[100:])                                               # the last 200 count
    out = align(q, torch.tensor([prior, .3]))
    assert torch.allclose(out[100:].mean(0), torch.tensor([prior, .3]), atol=1e-3)
    near = DistributionAlignment(2, match='mean', clip=2., memory=200)
    near.remember(q)
    factor = near.find_factor(torch.tensor([.001, .999]))
    assert torch.allclose(factor, torch.tensor([.5, 2.]), rtol=1e-3)


def test_the_running_mean_is_plain_at_first_and_exponential_later():
    align, q = DistributionAlignment(1, momentum=.75), torch.tensor([.2, .4, .9, .1, .5, .3])
    for value in q[:4]: align.remember(value.view(1, 1))
    assert float(align.mean) == pytest.approx(float(q[:4].mean()))
    for value in q[4:]: align.remember(value.view(1, 1))
    assert float(align.mean) == pytest.approx(.75*(.75*.4 + .25*.5) + .25*.3)
    before = align.mean.clone()
    align.remember(torch.zeros(0, 1))                                     # no such rows in this batch
    assert torch.equal(align.mean, before) and align.seen == 6


# ---- thresholds ----

def test_adaptive_thresholds_are_the_mean_confidence_of_each_side():
    thresholds = AdaptiveThresholds(2, least=.51)
    high, low = thresholds(None, .8, .1)
    assert torch.allclose(high, torch.tensor(.8)) and torch.allclose(low, torch.tensor(.1))   # nothing seen: as given
    thresholds.remember(torch.tensor([[.9, .3], [.7, .1], [.2, .2]]))
    high, low = thresholds(None, .8, .1)
    assert torch.allclose(high, torch.tensor([.8, .8])) and torch.allclose(low, torch.tensor([.2, .2]))
    thresholds.remember(torch.tensor([[.6, .6]]))
    high, low = thresholds(None, .8, .1)
    assert torch.allclose(high, torch.tensor([.7, .6])) and torch.allclose(low, torch.tensor([.2, .2]))


@given(st.floats(.5, 4.), st.floats(1.1, 3.), st.integers(0, 9))
def test_adaptive_thresholds_rise_with_confidence(scale, sharper, seed):
    scores = torch.randn(300, 3, generator=seeded(seed))
    taus = []
    for factor in (scale, scale*sharper):
        thresholds = AdaptiveThresholds(3, least=.5001)
        thresholds.remember((factor*scores).sigmoid())
        taus.append(thresholds(None, .8, .1))
    (high, low), (higher, lower) = taus
    assert (higher > high).all() and (lower < low).all() and (high > low).all()


def test_adaptive_thresholds_never_cross_whatever_is_given():
    thresholds = AdaptiveThresholds(3)
    thresholds.remember(torch.full((4, 3), .5))
    each = torch.full((3,), .9), torch.full((3,), .7)
    for taus in ((.3, .2), (.95, .9), each):
        high, low = thresholds(None, *taus)
        assert (high > low).all()


def test_both_methods_know_every_kind_of_thresholds():
    assert make_trust(None, 3).thresholds is None and make_trust(dict(thresholds='fixed'), 3).thresholds is None
    assert make_trust(dict(thresholds=dict(name='prior', memory=7)), 3).thresholds.queue.shape == (7, 3)
    old = make_trust(dict(thresholds=dict(name='prior', memory=7)), 3).thresholds
    assert isinstance(old, PriorThresholds) and old.queue.shape == (7, 3)
    for name in ('mpc', 'acaa'):
        for kind in ('adaptive', 'prior'):
            method = create_method(name, labels=NAMES, size=32, preset='tiny', trust=dict(thresholds=kind))
            assert method.trust.thresholds is not None


# ---- soft labels and weights ----

@given(st.floats(-4, 4), st.floats(.2, 3))
def test_sharpening_divides_the_score(score, temperature):
    p = torch.tensor(score, dtype=torch.float64).sigmoid()
    assert torch.allclose(sharpen(p, temperature), torch.tensor(score/temperature).double().sigmoid(), atol=1e-6)


def test_a_soft_target_gives_its_own_cross_entropy():
    q, s = torch.rand(6, 5, generator=seeded(0)), torch.randn(6, 5, generator=seeded(1))
    own = Trust(5, soft=.5)(q, torch.zeros(6, 5), none_of(q), .5, .4999)
    assert own.mask.all() and torch.equal(own.pseudo, (q >= .5).float())
    target = q**2/(q**2 + (1 - q)**2)
    wanted = F.binary_cross_entropy_with_logits(s, target)
    assert torch.allclose(consistency_loss(s, own.target, own.weight), wanted, rtol=1e-5)


def test_annotated_entries_keep_their_label_hard():
    q = torch.rand(8, 5, generator=seeded(0))
    known = torch.rand(8, 5, generator=seeded(1)) < .4
    y = (torch.rand(8, 5, generator=seeded(2)) < .5)*known.float()
    own = Trust(5, soft=1.)(q, y, known, count_known=True)
    assert torch.equal(own.target[known], y[known]) and torch.equal(own.target[~known], q[~known])


def test_rare_present_labels_weigh_more_and_all_together_as_much():
    prior = torch.tensor([.4, .2, .1, .01])
    w = weigh_present(prior, .5, most=100.)
    assert torch.allclose((prior*w).sum(), prior.sum()) and (w.diff() > 0).all()
    assert torch.allclose(w[3]/w[0], torch.tensor(40.)**.5, rtol=1e-4)
    whole = weigh_present(prior, 1., most=1e4)*prior
    assert torch.allclose(whole, whole[:1].expand(4))                      # every label weighs the same
    assert weigh_present(prior, 1., most=2.).max() == 2


def test_weights_act_on_trusted_present_entries_only():
    trust, q = Trust(3, rare=.5), torch.tensor([[.9, .05, .9], [.9, .5, .02]])
    y = (torch.rand(200, 3, generator=seeded(0)) < torch.tensor([.5, .2, .02])).float()
    trust.prepare(y, torch.ones_like(y).bool())
    own, w = trust(q, torch.zeros(2, 3), none_of(q)), weigh_present(trust.prior, .5)
    present = torch.tensor([[1., 0., 1.], [1., 0., 0.]])
    absent = torch.tensor([[0., 1., 0.], [0., 0., 1.]])
    assert torch.allclose(own.weight, present*w + absent)


# ---- the teacher ----

def test_the_teacher_is_the_average_of_the_network_in_evaluation_mode():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(.5), nn.Linear(8, 2))
    x = torch.randn(16, 4)
    teacher, average = Teacher(.5), None
    for n in range(5):
        net.train()(x)                                                     # statistics move
        with torch.no_grad():
            for p in net.parameters(): p += torch.randn_like(p)
        teacher.update(net)
        d = min(.5, (1 + n)/(10 + n)) if n else 0.
        now = {name: t.clone() for name, t in net.state_dict().items()}
        average = now if average is None else {k: d*average[k] + (1 - d)*v if v.is_floating_point() else v
                                               for k, v in now.items()}
    twin = copy.deepcopy(net).eval()
    twin.load_state_dict(average)
    before = copy.deepcopy(net.state_dict())
    assert torch.allclose(teacher(net, x), twin(x), atol=1e-5)
    assert net.training and not teacher(net, x).requires_grad
    assert all(torch.equal(a, b) for a, b in zip(before.values(), net.state_dict().values()))


def test_a_teacher_of_nothing_is_refused():
    with pytest.raises(ValueError, match='nothing to average'): Teacher(only='body').fill(nn.Linear(2, 2))
    with pytest.raises(ValueError, match='decay'): Teacher(1.)


# ---- all of it ----

def test_the_defaults_are_fixed_thresholds_and_hard_labels():
    q, known = torch.rand(9, 5, generator=seeded(0)), torch.rand(9, 5, generator=seeded(1)) < .5
    y = (torch.rand(9, 5, generator=seeded(2)) < .5)*known.float()
    for count_known in (False, True):
        own = Trust(5)(q, y, known, .7, .2, count_known=count_known)
        pseudo, mask, rows = consistency_targets(q, y, known, .7, .2, count_known)
        assert torch.equal(own.pseudo, pseudo) and torch.equal(own.mask, mask) and torch.equal(own.rows, rows)
        assert own.target is own.pseudo and own.weight is own.mask
    assert not Trust(5).state_dict()                                       # models of before still fit


def test_statistics_are_of_rows_with_unknown_entries_and_of_training():
    q, known = torch.rand(6, 5, generator=seeded(0)), torch.zeros(6, 5).bool()
    known[:2] = True
    trust = Trust(5, align=True)
    y = torch.cat([torch.ones(1, 5), torch.zeros(9, 5)])
    trust.prepare(y, torch.ones_like(y).bool())
    trust.eval()(q, torch.zeros(6, 5), known)
    assert trust.align.seen == 0
    trust.train()(q, torch.zeros(6, 5), known)
    assert torch.allclose(trust.align.mean, q[2:].mean(0))


def test_with_single_positives_statistics_are_of_annotated_rows_like_the_prior():
    y = F.one_hot(torch.arange(4), 5).float()
    trust = Trust(5, align=True, prior=dict(expected=2., smooth=0.))
    q, table = torch.rand(6, 5, generator=seeded(0)), torch.cat([y, torch.zeros(40, 5)])
    trust.prepare(table, table.bool())
    assert torch.allclose(trust.prior[:4], torch.tensor(.5)) and trust.single       # a quarter each, times two
    batch = torch.cat([y, torch.zeros(2, 5)])
    trust(q, batch, batch.bool())
    assert torch.allclose(trust.align.mean, q[:4].mean(0))


@pytest.mark.parametrize('setting, message', [
    (dict(thresholds='loose'), 'loose'), (dict(thresholds=dict(name='fixed', momentum=.5)), 'no setting'),
    (dict(soft=0.), 'temperature'), (dict(teacher=1.), 'decay'), (dict(align=dict(clip=.5)), 'clip'),
    (dict(aligned=True), 'no argument'), (dict(align=dict(speed=1)), 'no argument'),
    (dict(thresholds=dict(name='adaptive', least=.4)), 'least')])
def test_settings_that_make_no_sense_are_refused(setting, message):
    with pytest.raises(ValueError, match=message): make_trust(setting, 5)


def test_a_part_is_switched_by_its_setting():
    def build(**kw): return make_trust(kw, 5)
    assert build(teacher=.9).teacher.decay == .9 and build(teacher=0).teacher.decay == 0
    assert build(teacher=True).teacher.only == build(teacher=dict(decay=.5)).teacher.only != ''
    for off in (None, False): assert build(teacher=off, align=off).teacher is None is build(align=off).align
    assert build(align=True).align.clip == DistributionAlignment(5).clip and build(align=dict(clip=2.)).align.clip == 2
    own = Trust(5, soft=.5)
    assert make_trust(own, 5) is own


def test_two_kinds_of_thresholds_are_refused():
    with pytest.raises(ValueError, match='one of them'):
        create_method('acaa', labels=NAMES, size=32, preset='tiny', trust=dict(thresholds='adaptive'), priors=True)


def test_a_name_of_thresholds_is_enough():
    assert isinstance(make_trust('prior', 5).thresholds, PriorThresholds)
    assert make_trust('fixed', 5).thresholds is None is make_trust(None, 5).thresholds
    with pytest.raises(ValueError, match='priro'): make_trust('priro', 5)


# ---- in the methods ----

ALL = dict(align=True, teacher=.9, thresholds='adaptive', soft=.5, rare=.5)


def table(n=12, regime='mpc'):
    g = seeded(0)
    x = torch.rand(n, 1, 32, 32, generator=g)
    y = F.one_hot(torch.randint(5, (n,), generator=g), 5).float()
    known = y.bool() if regime == 'mpc' else (torch.arange(n) < n//3)[:, None].expand(n, 5)
    return Batch(x, y*known, known, torch.arange(n))


def make(name, trust=None, **kw):
    seed_all(0)
    method = create_method(name, labels=NAMES, size=32, preset='tiny', trust=trust, **kw)
    batch = table(regime=name)
    method.prepare(batch.y, batch.known)
    return method.train(), batch


@pytest.mark.parametrize('trust', [dict([item]) for item in ALL.items()] + [ALL], ids=str)
@pytest.mark.parametrize('name', ['mpc', 'acaa'])
def test_every_part_takes_steps(name, trust):
    method, batch = make(name, trust)
    optimizer = torch.optim.SGD(method.parameters(), .01)
    for _ in range(2):
        step = method.step(batch, progress=.5)
        optimizer.zero_grad(); step.loss.backward(); optimizer.step()
        assert torch.isfinite(step.loss)
    assert all(torch.isfinite(t).all() for t in method.state_dict().values())
    assert set(step.probes['pseudo'].unique().tolist()) <= {0., 1.}         # the probe stays a hard label


@pytest.mark.parametrize('name', ['mpc', 'acaa'])
def test_soft_labels_reach_the_terms_and_hard_ones_the_attack(name):
    losses = {}
    for soft in (None, 1.):
        method, batch = make(name, dict(soft=soft), tau_pos=.5, tau_neg=.4999, weights=dict(image=0., batch=0.))
        if name == 'mpc': method.feature_dropout = 0.
        else: method.feature_attack = None
        seed_all(3)
        step = method.step(batch, progress=.5)
        own = method.trust(torch.sigmoid(step.logits.detach()), batch.y, batch.known, .5, .4999, None, name == 'mpc')
        wanted = consistency_loss(step.logits[own.rows], own.target[own.rows], own.weight[own.rows])
        losses[soft] = step.terms['feature'].detach()
        assert torch.allclose(losses[soft], wanted.detach(), atol=1e-5)
    assert losses[1.] > losses[None]    # a soft label contains doubt, and its cross-entropy an entropy


@pytest.mark.parametrize('name', ['mpc', 'acaa'])
def test_the_teacher_gives_the_pseudo_labels_and_follows_the_network(name):
    method, batch = make(name, dict(teacher=.9, soft=1.), tau_pos=.5, tau_neg=.4999)
    teacher, states = method.trust.teacher, []
    update = teacher.update
    def note(network):
        states.append(copy.deepcopy(network.state_dict()))
        update(network)

    teacher.update = note
    method.step(batch, progress=.5)
    with torch.no_grad(): method.head.bias += 3.
    x = method.step(batch, progress=.5).probes['x_weak']
    (first, second), d, average = states, 2/11, copy.deepcopy(method).eval()
    assert torch.allclose(second['head.bias'], first['head.bias'] + 3.) and teacher.rows[0] == 2
    mean = {key: d*first[key] + (1 - d)*t if t.is_floating_point() else t for key, t in second.items()}
    average.load_state_dict(mean)
    with torch.no_grad(): assert torch.allclose(teacher(method, x), average(x), atol=1e-5)
    held = sum(p.numel() for name, p in method.named_parameters() if name.startswith(('backbone.', 'head.')))
    assert len(teacher.rows) > held                                        # and the running statistics


@pytest.mark.parametrize('name', ['mpc', 'acaa'])
def test_a_saved_model_has_no_teacher_and_scores_the_same(name, tmp_path):
    from cxr_workbench.learner import load, save
    plain, _ = make(name, 'fixed')
    method, batch = make(name, ALL)
    method.step(batch, progress=.5)
    own = set(method.state_dict()) - set(plain.state_dict())
    assert own == {f'trust.{part}' for part in ('prior', 'single', 'align.mean', 'align.seen',
                                                'thresholds.confidence', 'thresholds.seen')}
    again = load(save(method.eval(), tmp_path))
    assert torch.equal(again(batch.x), method(batch.x)) and not len(again.trust.teacher.rows)
    assert torch.equal(again.trust.align.mean, method.trust.align.mean)


FEW = dict(thresholds=dict(name='prior', memory=16, ready=4))


def test_a_model_of_fixed_thresholds_of_before_has_them_today(tmp_path):
    import json
    from cxr_workbench.learner import load, save
    method, batch = create_method('acaa', labels=NAMES, size=32, preset='tiny', trust='fixed'), make('acaa')[1]
    method.prepare(batch.y, batch.known)
    save(method.eval(), tmp_path)
    about = json.loads((tmp_path/'model.json').read_text())
    assert about['config']['arguments'].pop('trust') == 'fixed'
    about['config']['vocabulary'] = 3
    (tmp_path/'model.json').write_text(json.dumps(about))
    again = load(tmp_path)
    assert again.trust.thresholds is None and torch.equal(again(batch.x), method(batch.x))


def test_a_model_with_prior_thresholds_of_before_still_loads(tmp_path):
    from safetensors.torch import load_file, save_file
    from cxr_workbench.learner import load, save
    method, batch = make('acaa')
    method = create_method('acaa', labels=NAMES, size=32, preset='tiny', trust=FEW).train()
    method.prepare(batch.y, batch.known)
    method.step(batch, progress=.5)
    save(method.eval(), tmp_path)
    file = tmp_path/'model.safetensors'
    from safetensors import safe_open
    with safe_open(file, 'pt') as opened: about = opened.metadata()
    state = {name.replace('trust.thresholds.', 'priors.'): t for name, t in load_file(file).items()}
    assert 'priors.queue' in state
    save_file(state, file, about)
    again = load(tmp_path)
    memories = [each.trust.thresholds.queue for each in (again, method)]
    assert torch.equal(*memories) and torch.equal(again(batch.x), method(batch.x))


@pytest.mark.parametrize('name', ['mpc', 'acaa'])
def test_a_run_that_is_resumed_goes_on_with_mean_thresholds_and_teacher(name, tmp_path):
    from cxr_workbench.data import from_arrays
    from cxr_workbench.learner import fit
    batch = table(n=24, regime=name)
    images = (batch.x[:, 0]*255).byte().numpy()
    data = from_arrays(images, batch.y.numpy(), batch.known.numpy(), patient_id=list(range(24)), label_names=NAMES)
    def train(folder, epochs, **kw):
        method, _ = make(name, ALL, schedule='constant')
        fit(method, data, epochs=epochs, batch_size=8, seed=0, progress=False, out=folder, device='cpu', **kw)
        return method

    class Stop(Exception): pass
    whole = train(tmp_path/'whole', 2)
    method, _ = make(name, ALL, schedule='constant')
    step = method.step
    def break_off(b, progress=1., stage=0):
        if progress >= .5: raise Stop
        return step(b, progress, stage)

    method.step = break_off
    with pytest.raises(Stop):
        fit(method, data, epochs=2, batch_size=8, seed=0, progress=False, out=tmp_path/'halves', device='cpu')
    saved = torch.load(tmp_path/'halves'/'last.ckpt', weights_only=True)
    assert torch.isfinite(saved['state_dict']['method.trust.align.mean']).all() and 'trust.teacher' in saved['cxr_rows']
    halves = train(tmp_path/'halves', 2, resume=True)
    assert torch.equal(whole.trust.align.mean, halves.trust.align.mean) and whole.trust.align.seen >= 4
    assert torch.equal(whole.trust.thresholds.confidence, halves.trust.thresholds.confidence)
    assert torch.equal(whole.trust.teacher.rows, halves.trust.teacher.rows) and whole.trust.teacher.rows[0] >= 4
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), halves.state_dict().values()))


@pytest.mark.parametrize('name', ['mpc', 'acaa'])
def test_the_ablations_of_what_is_trusted_build_and_step(name):
    method, batch = make(name)
    wanted = {'aligned probabilities', 'soft targets', 'EMA teacher', 'adaptive thresholds', 'rare labels weigh more'}
    assert wanted <= set(method.ablations())
    for key in wanted:
        one = create_method(name, labels=NAMES, size=32, preset='tiny', **method.ablations()[key])
        one.prepare(batch.y, batch.known)
        assert torch.isfinite(one.train().step(batch, progress=.5).loss)
