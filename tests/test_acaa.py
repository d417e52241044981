"ACAA: thresholds from class priors, what a step leaves alone, its terms, its names of before, and bad input."
import copy, os, subprocess, sys, warnings
from pathlib import Path
import pytest, torch
from torch import nn
from torch.nn import functional as F
from hypothesis import given, strategies as st
from cxr_workbench.consistency import pseudo_label
from cxr_workbench.core import Batch, create_method, seed_all
from cxr_workbench.methods import acaa as A
from cxr_workbench.methods.acaa import ABLATIONS, FeatureAttack, PriorThresholds, feature_attack

NAMES = ['Edema', 'Fracture', 'Hernia', 'Mass', 'Nodule']
SIZE = 64
TERMS = {'supervised', 'image', 'feature', 'batch'}


def test_names_that_moved_are_still_here():
    from cxr_workbench import attacks, scan
    for name in ('gni_fgsm', 'feature_attack', 'attack_objective', 'map_radius', 'FAMILY'):
        assert getattr(A, name) is getattr(attacks, name)
    assert A.selective_scan is scan.selective_scan and A.MambaBlock is scan.MambaBlock
    assert {'gni_fgsm', 'feature_attack', 'selective_scan', 'BatchMamba', 'ACAA', 'acaa'} <= set(A.__all__)


# ---- thresholds from class priors ----

def half(): return torch.full((2,), .5)


def as_rows(t): return {tuple(row) for row in t.tolist()}


def test_the_memory_keeps_the_last_predictions():
    priors, q = PriorThresholds(2, memory=5, ready=3), torch.arange(16.).view(8, 2)/16
    assert priors(half(), .8, .1) == (.8, .1)
    for part in q.split(3): priors.remember(part)
    assert as_rows(priors.queue) == as_rows(q[-5:]) and priors.seen == 8
    priors.remember(torch.rand(12, 2))                            # more than fit
    again = PriorThresholds(2, memory=5, ready=3)
    again.load_state_dict(priors.state_dict())
    assert torch.equal(*(torch.stack(p(half(), .8, .1)) for p in (priors, again)))


def test_strict_thresholds_trust_what_both_rules_trust():
    q = torch.rand(400, 3, generator=torch.Generator().manual_seed(0))*torch.tensor([1., .5, .05])
    prevalence, plain, strict = torch.tensor([.3, .1, .1]), PriorThresholds(3), PriorThresholds(3, strict=True)
    for thresholds in (plain, strict): thresholds.remember(q)
    fixed, prior, both = (pseudo_label(q, *taus) for taus in (
        (.8, .1), plain(prevalence, .8, .1), strict(prevalence, .8, .1)))
    agreed = fixed[1] & prior[1] & (fixed[0] == prior[0])
    assert torch.equal(both[1], agreed) and agreed.any(0).all() and not torch.equal(agreed, prior[1])
    assert torch.equal(strict(prevalence, torch.full((3,), .8), .1)[0], strict(prevalence, .8, .1)[0])


@given(kappa=st.floats(.05, .95), prevalence=st.floats(.01, .99), seed=st.integers(0, 9))
def test_as_many_are_trusted_as_the_prior_allows(kappa, prevalence, seed):
    priors = PriorThresholds(1, kappa, memory=500)
    q = torch.rand(500, 1, generator=torch.Generator().manual_seed(seed))
    priors.remember(q)
    high, low = priors(torch.tensor([prevalence]), .8, .1)
    assert high > low
    assert abs(int((q >= high).sum()) - 500*kappa*prevalence) <= 2
    assert abs(int((q <= low).sum()) - 500*kappa*(1 - prevalence)) <= 2


def test_a_label_on_which_all_predictions_agree_trusts_nothing():
    priors = PriorThresholds(2, memory=400)
    priors.remember(torch.stack([torch.full((400,), .2), torch.linspace(0, 1, 400)], 1))
    high, low = priors(torch.tensor([.3, .3]), .8, .1)
    assert high[0] > 1 and low[0] < 0 and 0 < low[1] < high[1] < 1
    with pytest.raises(ValueError, match='kappa'): PriorThresholds(2, kappa=1.)


def test_a_label_that_was_never_annotated_as_present_gets_no_positives():
    priors = PriorThresholds(2, memory=400)
    priors.remember(torch.linspace(0, 1, 400)[:, None].expand(-1, 2))
    high, low = priors(torch.tensor([0., .3]), .8, .1)
    assert high[0] > 1 and low[0] > 0 and high[1] < 1


# ---- the method ----

def table(n=8, known=.5, seed=0):
    g = torch.Generator().manual_seed(seed)
    y = (torch.rand(n, len(NAMES), generator=g) < .4).float()
    known = torch.rand(n, generator=g) < known
    known = known[:, None].expand(-1, len(NAMES)).clone()
    return Batch(torch.rand(n, 1, SIZE, SIZE, generator=g), y*known, known, torch.arange(n))


def make(prepare=True, **kw):
    seed_all(0)
    method = create_method('acaa', labels=NAMES, size=SIZE, preset='tiny', **{'tau_pos': .52, 'tau_neg': .48, **kw})
    if prepare: method.prepare(*table(64, 1.)[1:3])
    return method.train()


def gradients(method): return [p.grad for p in method.parameters() if p.grad is not None]


def finite(method, batch, **kw):
    step = method.step(batch, **{'progress': .5, **kw})
    step.loss.backward()
    assert torch.isfinite(step.loss) and all(torch.isfinite(g).all() for g in gradients(method))
    assert all(torch.isfinite(b).all() for b in method.buffers() if b.is_floating_point())
    return step


def masked_loss(z, head, target, mask):
    entries = F.binary_cross_entropy_with_logits(head(z), target, reduction='none')
    return (entries*mask).sum()


@pytest.mark.parametrize('supervision', ['ssl', 'spml'])
def test_a_step_attacks_what_is_unknown_and_leaves_no_trace(supervision):
    method, batch = make(supervision=supervision), table()
    modes = [m.training for m in method.modules()]
    step = method.step(batch, progress=.5)
    assert not gradients(method) and [m.training for m in method.modules()] == modes
    assert set(step.terms) == TERMS and (step.probes['mask'] & batch.known).sum() == 0
    change = (step.probes['x_adv'] - step.probes['x_weak']).abs().flatten(1).amax(1)
    assert (change[batch.known.all(1)] == 0).all()
    assert (change[~batch.known.any(1)] > 0).any()
    assert change.max() <= 4/255 + 1e-6
    early = method.step(batch, progress=0.)
    assert step.weights['image'] == 1 and early.weights['image'] == pytest.approx(.00674, abs=1e-4)
    assert step.weights['supervised'] == early.weights['supervised'] == 1


def test_an_image_without_trusted_entries_is_not_moved_by_a_random_start():
    method, x = make(attack='PGD'), torch.rand(3, 1, SIZE, SIZE)
    mask = torch.zeros(3, len(NAMES), dtype=torch.bool)
    mask[1] = True
    x_adv = method.attack_view(x, torch.ones(3, len(NAMES)), mask)
    assert torch.equal(x_adv[[0, 2]], x[[0, 2]]) and not torch.equal(x_adv[1], x[1])


def test_terms_are_what_they_say():
    method, batch = make(), table()
    seed_all(3)
    step = method.step(batch, progress=.5)
    rows, head = ~batch.known.all(1), method.head
    pseudo, mask, z = (step.probes[name][rows] for name in ('pseudo', 'mask', 'features'))
    plain = masked_loss(z, head, pseudo, mask)/pseudo.numel()
    r = feature_attack(z, head.weight, head.bias, pseudo, mask)
    attacked = masked_loss(z + r, head, pseudo, mask)/pseudo.numel()
    assert step.terms['feature'] >= plain
    assert float(step.terms['feature'].detach()) == pytest.approx(float(attacked.detach()), rel=1e-5)


def test_features_as_they_are():
    method, batch = make(feature_attack=False), table()
    seed_all(3)
    step = method.step(batch, progress=.5)
    rows = ~batch.known.all(1)
    pseudo, mask, z = (step.probes[name][rows] for name in ('pseudo', 'mask', 'features'))
    plain = masked_loss(z, method.head, pseudo, mask)/pseudo.numel()
    assert float(step.terms['feature'].detach()) == pytest.approx(float(plain.detach()), rel=1e-5)


def test_a_feature_attack_of_ones_own():
    class Zero(nn.Module):
        def forward(self, z, maps, head, target, mask): return 0*z

    same, none = (make(feature_attack=setting) for setting in (Zero(), False))
    losses = []
    for method in (same, none):
        seed_all(3)
        losses.append(method.step(table(), progress=.5).terms['feature'])
    assert torch.equal(*losses)


def test_without_a_budget_the_weak_view_goes_through_the_network_again():
    method, batch = make(attack=dict(eps=0.), weights=dict(feature=0., batch=0.)), table()
    seed_all(3)
    step = method.step(batch, progress=.5)
    assert torch.equal(step.probes['x_adv'], step.probes['x_weak'])
    rows = ~batch.known.all(1)
    z = method.train().backbone.features(step.probes['x_weak'][rows])
    pseudo, mask = step.probes['pseudo'][rows], step.probes['mask'][rows]
    wanted = masked_loss(z, method.head, pseudo, mask)/pseudo.numel()
    assert torch.allclose(step.terms['image'], wanted, rtol=1e-5)


def test_the_budget_follows_in_training_and_is_saved():
    method, batch = make(attack=dict(eps='auto', added_loss=10.)), table()
    assert 'budget.eps' in method.state_dict() and 'budget.eps' not in make().state_dict()
    seed_all(3)
    step = method.step(batch, progress=.5)
    change = (step.probes['x_adv'] - step.probes['x_weak']).abs().max()
    assert 0 < change <= 1/255 + 1e-6
    assert float(method.budget.eps) == pytest.approx(2/255)      # far from the wanted loss: doubled
    method.eval().step(batch, progress=.5)
    assert float(method.budget.eps) == pytest.approx(2/255)
    again = make(attack=dict(eps='auto', added_loss=10.))
    again.load_state_dict(method.state_dict())
    everything = torch.ones_like(batch.y)
    x_adv = again.attack_view(batch.x, everything, everything.bool())
    assert (x_adv - batch.x).abs().max() > 1.5/255


def test_rejection_does_not_wait_for_a_long_ramp():
    method, batch = make(supervision='spml', ramp=1.), table()
    mask = ~batch.known
    y, known = method.select_supervised(batch, torch.ones_like(batch.y), mask, .1)
    assert (known == ~mask).all()


def test_trusting_nothing_leaves_no_consistency():
    method, batch = make(tau_pos=1.1, tau_neg=-.1), table()
    step, parameters = method.step(batch, progress=.5), list(method.parameters())
    assert step.terms['image'] == step.terms['feature'] == 0
    for name in ('image', 'feature'):
        found = torch.autograd.grad(step.terms[name], parameters, allow_unused=True, retain_graph=True)
        assert all(g is None or g.abs().max() == 0 for g in found)
    assert torch.equal(step.probes['x_adv'], step.probes['x_weak'])


def test_looks_present_is_not_counted_as_absent():
    method, batch = make(supervision='spml'), table()
    pseudo, mask = torch.ones_like(batch.y), torch.zeros_like(batch.known)
    mask[0] = ~batch.known[0]
    for progress, left in ((0., 0), (.5, int(mask.sum()))):
        y, known = method.select_supervised(batch, pseudo, mask, progress)
        assert (~known).sum() == left and torch.equal(y, batch.y)
    assert make(supervision='ssl').unknown == 'ignore' and method.unknown == 'negative'
    assert [make(supervision=s).recipe()[0].sampler for s in ('ssl', 'spml')] == ['mixed', 'known']
    assert isinstance(make(supervision='ssl').trust.thresholds, PriorThresholds) and method.trust.thresholds is None
    assert make(supervision='ssl', trust='fixed').trust.thresholds is None
    assert create_method('acaa', labels=2, backbone='test_resnet').recipe()[0].ema == .999


FEW = dict(thresholds=dict(name='prior', memory=16, ready=4))   # a memory that a small batch fills
OPTIONS = [
    dict(trust=FEW), dict(trust='adaptive'),
    dict(feature_attack=dict(level='map')), dict(feature_attack=dict(steps=3)),
    dict(feature_attack=dict(direction='random')), dict(feature_attack=False), dict(relation=1.),
    dict(attack=dict(eps=0.)), dict(attack=dict(steps=0)), dict(attack=None, adv_on='strong'),
    dict(attack=dict(decay=.5, ahead_gradient=0.)), dict(attack='PGD'), dict(attack=dict(name='PGD', steps=2)),
    dict(attack=dict(statistics='own')), dict(attack=dict(eps='auto', statistics='own')),
    dict(weak=False), dict(strong=dict(ops=1), adv_on='strong'), dict(backbone_lr=1e-4, warmup=1, epochs=3)]


@pytest.mark.parametrize('kw', OPTIONS, ids=str)
def test_every_option_takes_a_step(kw):
    assert set(finite(make(**kw), table()).terms) == TERMS


@pytest.mark.parametrize('name', ABLATIONS)
def test_every_ablation_takes_a_step(name):
    method = make(**make(prepare=False).ablations()[name])
    step = finite(method, table())
    assert set(step.terms) == {term for term, weight in method.weights.items() if weight}


def test_the_memory_fills_in_training_only():
    method = make(trust=FEW)
    unknown = int((~table().known.any(1)).sum())
    method.step(table(), progress=.5)
    assert method.trust.thresholds.seen == unknown
    method.eval().look(table().x)
    assert method.trust.thresholds.seen == unknown


thin = {
    'no positive': table(8)._replace(y=torch.zeros(8, 5)), 'nothing known': table(8, 0.),
    'everything known': table(8, 1.), 'one image': table(1, 0.), 'one annotated image': table(1, 1.)}


@pytest.mark.parametrize('batch', thin.values(), ids=thin)
@pytest.mark.parametrize('supervision', ['ssl', 'spml'])
def test_thin_batches_are_harmless(batch, supervision):
    finite(make(supervision=supervision, trust=FEW), batch)


def test_bad_batches_are_refused():
    method, batch = make(), table()
    x = batch.x.clone()
    x[3, 0, 5, 5] = float('nan')
    before = copy.deepcopy(method.state_dict())
    with pytest.raises(ValueError, match='3'): method.step(batch._replace(x=x), progress=.5)
    assert all(torch.equal(a, b) for a, b in zip(before.values(), method.state_dict().values()))
    narrow = batch._replace(y=batch.y[:, :3], known=batch.known[:, :3])
    with pytest.raises(ValueError, match='must be|do not fit'): method.step(narrow, progress=.5)


@pytest.mark.parametrize('kw, message', [
    (dict(tau_pos=.2, tau_neg=.4), 'thresholds cross'),
    (dict(attack='FFGSM'), 'FFGSM'),
    (dict(attack=dict(steps=-1)), 'at least 0'),
    (dict(adv_on='medium'), 'medium'),
    (dict(feature_attack=dict(level='pixel')), 'pixel'),
    (dict(feature_attack=dict(direction='up')), 'up'),
    (dict(feature_attack=dict(steps=0)), 'at least'),
    (dict(feature_attack=dict(length=1.)), r"no argument \['length'\]"),
    (dict(attack=None), "adv_on='strong'"),
    (dict(supervision='few'), 'supervision'),
    (dict(weights={'picture': 1.}), 'no loss term'),
    (dict(epoch=3), r"no argument \['epoch'\]")])
def test_bad_arguments_are_refused(kw, message):
    with pytest.raises(ValueError, match=message): make(prepare=False, **kw)


def test_mixed_precision_gives_finite_losses_and_the_same_ranking(same_ranking):
    "Of a network that has learned something: the scores of random weights lie within rounding of each other."
    from cxr_workbench.learner import load, find_model
    from cxr_workbench.phantom import SyntheticCXR
    cxr, learned = SyntheticCXR(80, size=64, seed=2026), load(find_model('supervised'))
    method = create_method('acaa', labels=cxr.label_names, preset='tiny')
    method.load_state_dict(learned.state_dict(), strict=False)
    x, y = torch.as_tensor(cxr.images).float().div(255)[:, None], torch.as_tensor(cxr.labels).float()
    method.prepare(y, torch.ones_like(y, dtype=torch.bool))
    assert same_ranking(method.eval(), x) > .98
    known = (torch.arange(12) < 4)[:, None].expand(12, 14)
    batch, method = Batch(x[:12], y[:12]*known, known, torch.arange(12)), method.train()
    seed_all(1)
    exact = method.step(batch, progress=.5)
    seed_all(1)
    with torch.autocast('cpu', dtype=torch.bfloat16): rough = method.step(batch, progress=.5)
    rough.loss.backward()
    for name, term in exact.terms.items():   # an entry at a threshold may change sides
        assert float(rough.terms[name].detach()) == pytest.approx(float(term.detach()), rel=.3, abs=.01), name
    assert all(torch.isfinite(g).all() for g in gradients(method))
    optimizer = torch.optim.AdamW(method.parameters(), 5e-4)
    with torch.autocast('cpu', dtype=torch.bfloat16):   # and trained on in half precision
        loss = method.step(batch, progress=.5).loss
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    assert torch.isfinite(loss) and same_ranking(method.eval(), x) > .98


def test_inference_is_backbone_and_head():
    method, x = make().eval(), table().x
    for parameter in method.mixer.parameters(): nn.init.normal_(parameter)
    scores = method(x)
    del method.mixer
    assert torch.equal(method(x), scores)
    assert torch.equal(method.head(method.backbone.features(x)), scores)


def list_statistics(method):
    return {name: b.clone() for name, b in method.named_buffers() if 'running_' in name}


def test_with_their_own_statistics_attacked_images_leave_those_of_inference():
    own, shared, clean = (make(weak=False, attack=dict(statistics=s)) for s in ('own', 'shared', 'own'))
    batch, losses = table(), []
    for method in (own, shared):
        seed_all(3)
        losses.append(method.step(batch, progress=.5).loss)
    clean.look(batch.x)                                          # the clean pass and nothing else
    assert torch.equal(*losses)                                  # a step is the same: both normalise by the batch
    kept, moved, expected = map(list_statistics, (own, shared, clean))
    assert expected and all(torch.equal(kept[name], expected[name]) for name in expected)
    assert any(not torch.equal(moved[name], expected[name]) for name in expected)
    losses[0].backward()                                         # scale and shift are shared, and both passes train


def test_own_statistics_add_nothing_to_a_saved_model(tmp_path):
    from cxr_workbench.learner import load, save
    method, plain = make(attack=dict(eps=1/255, statistics='own')), make()
    def list_shapes(method): return {name: t.shape for name, t in method.state_dict().items()}
    assert list_shapes(method) == list_shapes(plain)
    method.step(table(), progress=.5)
    save(method.eval(), tmp_path)
    again = load(tmp_path)
    assert again.own_statistics and again.attack['eps'] == 1/255 and 'statistics' not in again.attack
    assert torch.equal(again(table().x), method(table().x))
    assert not plain.own_statistics


# ---- two processes ----

def local_gradients(rank, world=2):
    "The method and the rows of one process: its own rows, its own permutation."
    method, batch = make(mixer=dict(inner=16, dropout=0.)), table(16)
    nn.init.normal_(method.mixer.leave.weight, std=.1)      # a mixer that does something
    mine = Batch(*(t[rank::world] if t is not None else None for t in batch))
    return method, mine


SCRIPT = """
import sys; sys.path.insert(0, {tests!r})
import torch, torch.distributed as dist, test_acaa as t
dist.init_process_group('gloo')
rank = dist.get_rank()
method, mine = t.local_gradients(rank)

class Loss(torch.nn.Module):
    def __init__(self): super().__init__(); self.method = method
    def forward(self, batch): return self.method.step(batch, progress=.5).loss

model = torch.nn.parallel.DistributedDataParallel(Loss(), find_unused_parameters=True)
t.seed_all(9, rank=rank)
model(mine).backward()
torch.save({{name: p.grad for name, p in method.named_parameters()}}, {out!r} + f'/rank{{rank}}.pt')
dist.destroy_process_group()
"""


def test_batch_mamba_stays_within_its_process(tmp_path):
    "Under DDP the gradient is the mean of what each process computes from its own rows: nothing is gathered."
    script = tmp_path/'two.py'
    script.write_text(SCRIPT.format(tests=str(Path(__file__).parent), out=str(tmp_path)))
    command = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', '2', str(script)]
    environment = {**os.environ, 'OMP_NUM_THREADS': '1'}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    first, second = (torch.load(tmp_path/f'rank{r}.pt', weights_only=True) for r in (0, 1))
    single = []
    for rank in (0, 1):
        method, mine = local_gradients(rank)
        seed_all(9, rank=rank)
        method.step(mine, progress=.5).loss.backward()
        single.append({name: p.grad for name, p in method.named_parameters()})
    assert not torch.allclose(single[0]['head.weight'], single[1]['head.weight'])
    for name, g in first.items():
        mean = (single[0][name] + single[1][name])/2
        assert torch.equal(g, second[name]) and torch.allclose(g, mean, rtol=1e-3, atol=1e-5), name


# ---- relations, pools and numbers of other kinds ----

def test_the_relation_term_counts_and_can_be_taken_away():
    method = make().eval()
    assert method.relation > 0 and method.ablations()['no relation term'] == dict(relation=0.)
    g = torch.Generator().manual_seed(0)
    z, target = torch.randn(6, method.head.in_features, generator=g), torch.zeros(6, method.labels)
    mask = torch.ones_like(target)
    nn.init.normal_(method.mixer.leave.weight, std=30.)
    def loss(relation): return A.batch_loss(z, method.mixer, method.head, target, mask, relation=relation)

    mixed, plain = F.normalize(method.mixer(z), dim=1), F.normalize(z, dim=1)
    gap = (mixed @ mixed.T - plain @ plain.T).square().mean()
    assert torch.allclose(loss(2.) - loss(0.), 2*gap, rtol=1e-3) and gap > 1e-3


def test_the_step_uses_the_weights_of_the_batch_term():
    terms = []
    for weight in (1., 0.):
        method = make(agreement=weight, relation=weight)
        torch.manual_seed(7)
        nn.init.normal_(method.mixer.leave.weight, std=1.)
        seed_all(3)
        terms.append(method.step(table(), progress=.5).terms['batch'])
    assert terms[0] > terms[1]


def test_the_map_level_needs_a_mean():
    level = dict(feature_attack=dict(level='map'))
    with pytest.raises(ValueError, match="mean of the map"): make(backbone='test_convnext', **level)
    assert make(**level).feature_attack.level == 'map'
    maps = torch.randn(4, 8, 3, 3, generator=torch.Generator().manual_seed(0))
    z, head, target = maps.mean((2, 3)), nn.Linear(8, 3), torch.ones(4, 3)
    pooled, whole = (FeatureAttack(level=level)(z, maps, head, target, target) for level in ('pooled', 'map'))
    assert (whole.norm(dim=1) >= pooled.norm(dim=1)).all()


# ---- names of before ----

TINY = dict(backbone='test_resnet', tau_pos=.52, tau_neg=.48)
BEFORE = [   # as it was written before, as it is written today
    (dict(cap=True), dict(trust='prior')),
    (dict(priors=True), dict(trust='prior')),
    (dict(cap=dict(memory=16)), dict(trust=dict(thresholds=dict(name='prior', memory=16)))),
    (dict(priors=dict(memory=16), trust=dict(soft=1.)),
     dict(trust=dict(soft=1., thresholds=dict(name='prior', memory=16)))),
    (dict(priors=False), dict(trust='fixed')),
    (dict(agree=.25), dict(agreement=.25)),
    (dict(eps=.1, steps=2), dict(attack=dict(eps=.1, steps=2))),
    (dict(attack='PGD', eps=.1), dict(attack=dict(name='PGD', eps=.1))),
    (dict(attack='FGSM', steps=5), dict(attack='FGSM')),
    (dict(attack=dict(decay=.5, steps=1), steps=5), dict(attack=dict(decay=.5, steps=1))),
    (dict(attack=None, adv_on='strong', eps=.1), dict(attack=None, adv_on='strong')),
    (dict(feature='random', radius=.3), dict(feature_attack=dict(direction='random', radius=.3))),
    (dict(feature_steps=3, level='map'), dict(feature_attack=dict(steps=3, level='map'))),
    (dict(flip=0., shift=.02), dict(weak=dict(flip=0., shift=.02))),
    (dict(weights=dict(sup=2., img=0., feat=.1, bmc=.2)),
     dict(weights=dict(supervised=2., image=0., feature=.1, batch=.2))),
]


def state_of(method):
    "All that makes a method what it is, beside its tensors."
    attack = method.feature_attack
    features = attack.direction, attack.radius, attack.steps, attack.level
    weak = method.weak.flip, method.weak.shift
    thresholds = method.trust.thresholds
    priors = (thresholds.kappa, len(thresholds.queue)) if hasattr(thresholds, 'queue') else None
    terms = method.weights, method.agreement, method.relation, method.ramp, method.reject
    return terms, method.attack, method.adv_on, features, weak, priors, method.taus, method.unknown, method.recipe()


def build(**kw):
    seed_all(0)
    return create_method('acaa', labels=NAMES, size=SIZE, **TINY, **kw)


def assert_same(one, other):
    assert state_of(one) == state_of(other)
    mine, theirs = one.state_dict(), other.state_dict()
    assert list(mine) == list(theirs) and all(torch.equal(mine[name], theirs[name]) for name in mine)


@pytest.mark.parametrize('old, new', BEFORE, ids=lambda kw: ' '.join(kw))
def test_old_names_build_the_same_method_and_say_so(old, new):
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        today = build(**new)
    with pytest.warns(UserWarning, match='acaa: .* of before; write'): before = build(**old)
    assert_same(before, today)


EVERY = dict(   # every argument of before, none at its default
    backbone='test_resnet', min_cells=4, supervision='spml', unknown=None, flip=.25, shift=.02, strong=None,
    epochs=7, lr=1e-3, weight_decay=.1, optimizer='SGD', schedule='constant', ema=.9, sampler='random',
    weights=dict(sup=1., img=.5, feat=.25, bmc=.75),
    tau_pos=.7, tau_neg=.2, cap=dict(kappa=.25, memory=32),
    attack='MI-FGSM', eps=.02, steps=4, adv_on='weak', feature='random', radius=.2, feature_steps=2, level='map',
    agree=.5, relation=.25, mixer=dict(inner=16), ramp=.2, reject=False)


def test_a_configuration_of_before_is_read_without_a_word():
    from cxr_workbench.renamed import update_config
    old = dict(method='acaa', labels=NAMES, size=SIZE, pretrained=False, arguments=dict(EVERY))
    config = update_config(old)
    assert old['arguments'] == EVERY and update_config(config) == config
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        method = create_method('acaa', labels=NAMES, size=SIZE, **config['arguments'])
    stage = method.recipe()[0]
    assert (stage.epochs, stage.optimizer, stage.schedule) == (7, 'SGD', 'constant')
    assert (stage.ema, stage.sampler) == (.9, 'random')
    assert stage.groups == (('', 1e-3, .1),) and method.unknown == 'negative'
    assert method.weights == dict(supervised=1., image=.5, feature=.25, batch=.75)
    assert method.attack == {**A.FAMILY['MI-FGSM'], 'eps': .02, 'steps': 4}
    assert state_of(method)[3:6] == (('random', .2, 2, 'map'), (.25, .02), (.25, 32))
    assert (method.taus, method.agreement, method.relation) == ((.7, .2), .5, .25)
    assert (method.ramp, method.reject, method.mixer.enter.out_features) == (.2, False, 16)


def test_a_model_of_before_gives_the_same_scores():
    "Its tensors of the mixer were called batch_mamba, its terms and arguments otherwise too."
    from cxr_workbench.renamed import update_config, update_state
    method, x = make(trust='fixed').eval(), table().x
    nn.init.normal_(method.mixer.leave.weight)
    arguments = {**method.config['arguments'], 'agree': .5, 'weights': dict(img=.5)}
    assert arguments.pop('trust') == 'fixed'   # what it meant when there was no such argument
    before = dict(method='acaa', labels=NAMES, size=SIZE, pretrained=False, arguments=arguments)
    tensors = {name.replace('mixer.', 'batch_mamba.', 1): t for name, t in method.state_dict().items()}
    assert any(name.startswith('batch_mamba.') for name in tensors)
    again = create_method('acaa', labels=NAMES, size=SIZE, **update_config(before)['arguments'])
    again.load_state_dict(update_state('acaa', tensors))
    assert torch.equal(again.eval()(x), method(x))
    assert again.agreement == .5 and again.weights['image'] == .5
    assert torch.equal(again.mixer.leave.weight, method.mixer.leave.weight)


def test_settings_of_the_recipe_are_common_arguments():
    stage = build(epochs=3, lr=1e-3, backbone_lr=1e-4, warmup=1, clip=1.).recipe()[0]
    assert stage.groups == (('backbone', 1e-4, 1e-5), ('', 1e-3, 1e-5)) and stage.epochs == 3
    assert (stage.warmup, stage.clip, stage.optimizer, stage.schedule) == (1, 1., 'Adam', 'cosine')
