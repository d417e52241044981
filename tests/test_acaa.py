"ACAA: the attack against attacks written out beside it, the closed forms, what a step leaves alone, and bad input."
import copy, functools, os, subprocess, sys, textwrap
from pathlib import Path
import numpy as np, pytest, torch
from torch import nn
from torch.nn import functional as F
from hypothesis import given, settings, strategies as st
from cxr_workbench.core import Batch, create_method, seed_all
from cxr_workbench.methods import acaa as A
from cxr_workbench.methods.acaa import FAMILY, BatchMamba, PriorThresholds, attack_objective, evaluating, feature_attack, gni_fgsm, map_radius

NAMES = ['Edema', 'Fracture', 'Hernia', 'Mass', 'Nodule']
SIZE = 64


def small_net(seed=0, dtype=torch.float64):
    "A convolution, a BatchNorm with statistics that say something, a dropout, a linear head."
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Tanh(), nn.Dropout(.5), nn.Conv2d(4, 6, 3, stride=2), nn.Tanh(),
                        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3)).to(dtype)
    with torch.no_grad(): net[1].running_mean.normal_(0, .1); net[1].running_var.uniform_(.5, 2); net[-1].weight.mul_(5)
    return net


def problem(seed=0, n=4, dtype=torch.float64, net=None):
    "Images, an objective with hard labels and a mask, and the network behind it."
    net, g = net or small_net(seed, dtype), torch.Generator().manual_seed(seed)
    x = torch.rand(n, 1, 9, 9, generator=g, dtype=dtype)
    y, mask = (torch.rand(n, 3, generator=g) < .5).to(dtype), torch.rand(n, 3, generator=g) < .8
    mask[:, 0] = True
    return x, attack_objective(net, y, mask), net


# ---- the family, written out on its own ----

def gradient(J, x):
    x = x.clone().requires_grad_()
    J(x).backward(inputs=[x])
    return x.grad


def fgsm(x, J, eps): return (x + eps*gradient(J, x).sign()).clamp(0, 1)


def ifgsm(x, J, eps, steps, alpha):
    x_k = x.clone()
    for _ in range(steps): x_k = torch.max(torch.min(x_k + alpha*gradient(J, x_k).sign(), x + eps), x - eps).clamp(0, 1)
    return x_k


def mifgsm(x, J, eps, steps, alpha, mu, nesterov=False):
    x_k, g = x.clone(), torch.zeros_like(x)
    for _ in range(steps):
        d = gradient(J, x_k + alpha*mu*g if nesterov else x_k)
        g = mu*g + d/d.abs().mean((1, 2, 3), keepdim=True)
        x_k = torch.max(torch.min(x_k + alpha*g.sign(), x + eps), x - eps).clamp(0, 1)
    return x_k


@given(seed=st.integers(0, 20), eps=st.sampled_from([1/255, 4/255, .1, .4]), steps=st.integers(1, 6), mu=st.sampled_from([.5, .9, 1.]), stride=st.sampled_from([1., 2.5]))
@settings(max_examples=25)
def test_the_family_is_one_function_bit_for_bit(seed, eps, steps, mu, stride):
    x, J, net = problem(seed)
    net.eval()
    alpha = stride*eps/steps
    ours = functools.partial(gni_fgsm, x, J, eps, steps, alpha)
    none = dict(ahead_momentum=0., ahead_gradient=0.)
    assert torch.equal(ours(decay=0., **none), ifgsm(x, J, eps, steps, alpha))
    assert torch.equal(ours(decay=mu, **none), mifgsm(x, J, eps, steps, alpha, mu))
    assert torch.equal(ours(decay=mu, ahead_momentum=mu, ahead_gradient=0.), mifgsm(x, J, eps, steps, alpha, mu, nesterov=True))
    assert torch.equal(gni_fgsm(x, J, eps, steps=1, decay=mu, ahead_momentum=2., ahead_gradient=3.), fgsm(x, J, eps))
    assert torch.equal(gni_fgsm(x, J, eps, **FAMILY['FGSM']), fgsm(x, J, eps))


def test_looking_ahead_along_the_last_gradient_is_a_method_of_its_own():
    x, J, net = problem(3)
    kinds = [gni_fgsm(x, J, .4, 6, **FAMILY[name]) for name in ('MI-FGSM', 'NI-FGSM', 'PI-FGSM', 'GNI-FGSM')]
    assert all(not torch.equal(a, b) for i, a in enumerate(kinds) for b in kinds[:i])


any_attack = dict(eps=st.floats(0, .5), steps=st.integers(0, 4), stride=st.floats(.1, 5), decay=st.floats(0, 2), ahead_momentum=st.floats(0, 3),
                  ahead_gradient=st.floats(0, 3), random_start=st.floats(0, 1))


@given(norm=st.sampled_from(['linf', 'l2']), per_image=st.booleans(), **any_attack)
@settings(max_examples=40)
def test_nothing_leaves_the_ball_or_the_range(norm, per_image, eps, steps, stride, **given):
    x, J, _ = problem(1, dtype=torch.float32)
    budget = torch.linspace(0, eps, len(x)).view(-1, 1, 1, 1) if per_image else eps
    x_k = gni_fgsm(x, J, budget, steps, step_size=stride*eps/max(1, steps), norm=norm, **given)
    change, limit = (x_k-x).flatten(1), torch.as_tensor(budget).expand(len(x), 1, 1, 1).flatten()
    assert ((change.abs().amax(1) if norm == 'linf' else change.norm(dim=1)) <= limit + 1e-6).all()
    assert x_k.min() >= 0 and x_k.max() <= 1 and not x_k.requires_grad


@given(factor=st.sampled_from([2.**-8, 2., 2.**10]), norm=st.sampled_from(['linf', 'l2']))
@settings(max_examples=6)
def test_the_scale_of_the_loss_does_not_matter(factor, norm):
    x, J, _ = problem(2)
    assert torch.equal(gni_fgsm(x, J, norm=norm), gni_fgsm(x, lambda x: factor*J(x), norm=norm))


@pytest.mark.parametrize('name', FAMILY)
def test_the_loss_rises(name):
    x, J, net = problem(4)
    net.eval()
    assert J(gni_fgsm(x, J, 1/255, generator=torch.Generator().manual_seed(0), **FAMILY[name])) > J(x)


def test_a_small_step_gains_what_first_order_says():
    x, J, net = problem(5)
    net.eval()
    gain = float((J(gni_fgsm(x, J, 1e-5, steps=1, valid=None)) - J(x)).detach())
    assert gain == pytest.approx(1e-5*float(gradient(J, x).abs().sum()), rel=1e-3)


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_its_own_soft_prediction_is_no_target(dtype):
    x, _, net = problem(0, dtype=dtype)
    soft = net.eval()(x).sigmoid().detach()
    J = attack_objective(net, soft)
    assert A.input_gradient(J, x).abs().max() == 0 and torch.equal(gni_fgsm(x, J), x)
    assert not torch.equal(gni_fgsm(x, J, random_start=1.), x)


def test_images_are_attacked_one_by_one():
    x, _, net = problem(6)
    y, mask = torch.ones(4, 3, dtype=x.dtype), torch.ones(4, 3, dtype=torch.bool)
    mask[2] = False
    together = gni_fgsm(x, attack_objective(net, y, mask))
    assert torch.equal(together[2], x[2])
    for i in (0, 1, 3): assert torch.equal(together[i:i+1], gni_fgsm(x[i:i+1], attack_objective(net, y[:1])))


def test_an_entry_outside_of_the_mask_is_not_read():
    x, _, net = problem(6)
    y, mask = torch.ones(4, 3, dtype=x.dtype), torch.tensor([True, False, True]).expand(4, 3)
    assert torch.equal(*(gni_fgsm(x, attack_objective(net, torch.where(mask, y, other), mask)) for other in (0., 1.)))


# ---- what the attack leaves alone ----

def objectives(net, J):
    "Ways to hide a network from whoever looks for it."
    return {'plain': J, 'lambda': lambda x: J(x), 'partial': functools.partial(lambda f, x: f(x), J), 'list': lambda x, parts=[net]: parts[0](x).square().sum(),
            'pieces': lambda x: functools.reduce(lambda h, m: m(h), net, x).square().sum()}


@pytest.mark.parametrize('kind', ['plain', 'lambda', 'partial', 'list', 'pieces'])
def test_modes_statistics_and_gradients_come_back(kind):
    x, J, net = problem(0)
    net.train(); net[1].eval()                                    # a frozen BatchNorm in a training network
    for p in net.parameters(): p.grad = torch.full_like(p, 7.)
    state, modes, stream = copy.deepcopy(net.state_dict()), [m.training for m in net.modules()], torch.get_rng_state()
    J = objectives(net, J)[kind]
    attacked = gni_fgsm(x, J)
    assert [m.training for m in net.modules()] == modes and True in modes and False in modes
    assert all(torch.equal(a, b) for a, b in zip(state.values(), net.state_dict().values())) and all((p.grad == 7).all() for p in net.parameters())
    assert torch.equal(stream, torch.get_rng_state())             # no dropout drew
    net.eval()
    assert torch.equal(attacked, gni_fgsm(x, J))                  # and it was evaluation mode inside


def test_a_batchnorm_in_training_mode_is_not_moved():
    x, J, net = problem(0)
    before = net.train()[1].running_mean.clone()
    gni_fgsm(x, J)
    assert torch.equal(net[1].running_mean, before) and net[1].num_batches_tracked == 0 and net[1].training


def test_modes_come_back_after_an_error():
    x, J, net = problem(0)
    def broken(x): net(x); raise RuntimeError('on purpose')
    with pytest.raises(RuntimeError, match='on purpose'): gni_fgsm(x, broken, steps=1)
    assert all(m.training for m in net.modules()) and not nn.modules.module._global_forward_pre_hooks


def test_other_threads_keep_their_mode():
    import threading
    net, other, seen = nn.Dropout(.5), nn.Dropout(.5), []
    with evaluating():
        thread = threading.Thread(target=lambda: (other(torch.ones(4)), seen.append(other.training)))
        thread.start(); thread.join()
        net(torch.ones(4))
        assert not net.training
    assert seen == [True] and net.training


def test_gradients_off_outside_and_autocast_change_nothing():
    x, J, _ = problem(0, dtype=torch.float32)
    plain = gni_fgsm(x, J)
    with torch.no_grad(): assert torch.equal(gni_fgsm(x, J), plain)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        inside = gni_fgsm(x, J)
        assert gni_fgsm(x.bfloat16().float(), J).dtype == gni_fgsm(x.bfloat16(), J).dtype == torch.float32
    assert inside.dtype == torch.float32 and torch.equal(inside, plain)


def test_the_random_start_has_its_own_generator():
    x, J, _ = problem(0)
    draw = lambda seed: gni_fgsm(x, J, random_start=1., generator=torch.Generator().manual_seed(seed))
    stream = torch.get_rng_state()
    assert torch.equal(draw(1), draw(1)) and not torch.equal(draw(1), draw(2)) and torch.equal(stream, torch.get_rng_state())


def test_the_callback_sees_every_point():
    x, J, _ = problem(0)
    seen = []
    x_k = gni_fgsm(x, J, steps=3, callback=lambda t, x_t: seen.append((t, x_t.clone())))
    assert [t for t, _ in seen] == [0, 1, 2, 3] and torch.equal(seen[0][1], x) and torch.equal(seen[-1][1], x_k)


def test_nothing_is_attacked_with_no_budget_and_no_steps():
    x, J, _ = problem(0)
    for x_k in (gni_fgsm(x, J, eps=0), gni_fgsm(x, J, steps=0), gni_fgsm(x, J, eps=0, norm='l2', random_start=1.)):
        assert torch.equal(x_k, x) and x_k.data_ptr() != x.data_ptr()
    assert gni_fgsm(x[:1], lambda x: x.sum()).shape == (1, 1, 9, 9)


@pytest.mark.parametrize('change, message', [
    (dict(eps=-.1), 'must not be negative'), (dict(eps=float('nan')), 'must not be negative'), (dict(steps=-1), 'must not be negative'),
    (dict(norm='l7'), "norm='l7'"), (dict(eps=torch.ones(4)), 'give .B, 1'), (dict(valid=(.4, .6)), 'outside of valid'),
    (dict(objective=lambda x: x.flatten(1).sum(1)), 'one number'), (dict(objective=lambda x: torch.tensor(1.)), 'depends on x'),
    (dict(x=torch.full((2, 1, 4, 4), float('nan'))), r'not finite in samples \[0, 1\]'), (dict(x=torch.zeros(2, 1, 4, 4, dtype=torch.uint8)), 'must be floats')])
def test_what_cannot_be_attacked_is_refused(change, message):
    x, J, _ = problem(0)
    with pytest.raises(ValueError, match=message): gni_fgsm(**{'x': x, 'objective': J, **change})


def test_labels_of_another_width_are_refused():
    x, _, net = problem(0)
    with pytest.raises(ValueError, match='must all be'): gni_fgsm(x, attack_objective(net, torch.ones(4, 5, dtype=x.dtype)))


def test_normalised_and_three_channel_images():
    "Trap 3: the same attack in units of the standard deviation, and a result that stays grey."
    x, J, net = problem(0)
    mean, std = torch.tensor(.3, dtype=x.dtype), torch.tensor(.25, dtype=x.dtype)
    normalised = gni_fgsm((x-mean)/std, lambda u: J(u*std+mean), eps=4/255/float(std), valid=((0-mean)/std, (1-mean)/std))
    assert torch.allclose(normalised*std+mean, gni_fgsm(x, J), atol=1e-12)


# ---- features ----

def features(seed=0, n=6, d=8, c=3, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    z, W, b = torch.randn(n, d, generator=g, dtype=dtype), torch.randn(c, d, generator=g, dtype=dtype), torch.randn(c, generator=g, dtype=dtype)
    return z, W, b, (torch.rand(n, c, generator=g) < .5).to(dtype), torch.rand(n, c, generator=g) < .7


def masked(z, W, b, target, mask): return (F.binary_cross_entropy_with_logits(F.linear(z, W, b), target, reduction='none')*mask).sum(1)


@given(seed=st.integers(0, 200), radius=st.floats(1e-3, 3))
def test_the_closed_form_is_the_gradient_and_never_helps(seed, radius):
    z, W, b, target, mask = features(seed)
    r = feature_attack(z, W, b, target, mask, radius)
    d = gradient(lambda z: masked(z, W, b, target, mask).sum(), z)
    some = mask.any(1)
    assert (r[~some] == 0).all() and torch.allclose(r[some].norm(dim=1), radius*z[some].norm(dim=1), rtol=1e-9)
    assert torch.allclose(r[some]/r[some].norm(dim=1, keepdim=True), d[some]/d[some].norm(dim=1, keepdim=True), atol=1e-6)
    assert (masked(z+r, W, b, target, mask) >= masked(z, W, b, target, mask)).all()


@given(seed=st.integers(0, 50))
@settings(max_examples=15)
def test_one_step_in_the_ball_is_the_closed_form(seed):
    z, W, b, target, mask = features(seed)
    J = attack_objective(lambda z: F.linear(z, W, b), target, mask)
    one = gni_fgsm(z, J, .1*z.norm(dim=1, keepdim=True), steps=1, valid=None, norm='l2') - z
    assert torch.allclose(one, feature_attack(z, W, b, target, mask), atol=1e-9)
    many = gni_fgsm(z, J, z.norm(dim=1, keepdim=True), steps=8, valid=None, norm='l2')
    assert (J(many) >= J(z + feature_attack(z, W, b, target, mask, 1.)) - 1e-2).all()


def test_the_worst_change_of_a_map_moves_its_mean():
    _, W, b, target, mask = features(1)
    maps = torch.randn(6, 8, 3, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    z, J = maps.mean((2, 3)), attack_objective(lambda m: F.linear(m.mean((2, 3)), W, b), target, mask)
    moved = gni_fgsm(maps, J, .1*maps.flatten(1).norm(dim=1).view(-1, 1, 1, 1), steps=1, valid=None, norm='l2').mean((2, 3)) - z
    assert torch.allclose(moved, feature_attack(z, W, b, target, mask, map_radius(maps, z)), atol=1e-6)
    assert (map_radius(maps, z) >= .1).all() and map_radius(maps[:0], z[:0]).shape == (0, 1)


def test_feature_attack_in_half_precision_without_bias_and_alone():
    z, W, b, target, mask = features(2, dtype=torch.float32)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        assert feature_attack(z.bfloat16(), W, b, target, mask).dtype == torch.float32
        assert torch.equal(feature_attack(z, W, b, target, mask), feature_attack(z, W, b, target, mask))
    assert torch.allclose(feature_attack(z, W, None, target, mask), feature_attack(z, W, torch.zeros(3), target, mask))
    assert torch.allclose(feature_attack(z[:1], W, b, target[:1], mask[:1]), feature_attack(z, W, b, target, mask)[:1], atol=1e-6)
    with pytest.raises(ValueError, match=r'must be \(6, 3\)'): feature_attack(z, W, b, target[:, :2], mask)


# ---- thresholds from class priors ----

def test_the_memory_keeps_the_last_predictions():
    priors, q = PriorThresholds(2, memory=5, ready=3), torch.arange(16.).view(8, 2)/16
    assert priors(torch.full((2,), .5), .8, .1) == (.8, .1)
    for part in q.split(3): priors.remember(part)
    assert {tuple(row) for row in priors.queue.tolist()} == {tuple(row) for row in q[-5:].tolist()} and priors.seen == 8
    priors.remember(torch.rand(12, 2))                            # more than fit
    again = PriorThresholds(2, memory=5, ready=3)
    again.load_state_dict(priors.state_dict())
    assert torch.equal(*(torch.stack(p(torch.full((2,), .5), .8, .1)) for p in (priors, again)))


@given(kappa=st.floats(.05, .95), prevalence=st.floats(.01, .99), seed=st.integers(0, 9))
def test_as_many_are_trusted_as_the_prior_allows(kappa, prevalence, seed):
    priors, q = PriorThresholds(1, kappa, memory=500), torch.rand(500, 1, generator=torch.Generator().manual_seed(seed))
    priors.remember(q)
    high, low = priors(torch.tensor([prevalence]), .8, .1)
    assert high > low
    assert abs(int((q >= high).sum()) - 500*kappa*prevalence) <= 2 and abs(int((q <= low).sum()) - 500*kappa*(1-prevalence)) <= 2


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
    y, known = (torch.rand(n, len(NAMES), generator=g) < .4).float(), torch.rand(n, generator=g) < known
    known = known[:, None].expand(-1, len(NAMES)).clone()
    return Batch(torch.rand(n, 1, SIZE, SIZE, generator=g), y*known, known, torch.arange(n))


def make(prepare=True, **kw):
    seed_all(0)
    method = create_method('acaa', labels=NAMES, size=SIZE, preset='tiny', **{'tau_pos': .52, 'tau_neg': .48, **kw})
    if prepare: method.prepare(*table(64, 1.)[1:3])
    return method.train()


def finite(method, batch, **kw):
    step = method.step(batch, **{'progress': .5, **kw})
    step.loss.backward()
    assert torch.isfinite(step.loss) and all(torch.isfinite(p.grad).all() for p in method.parameters() if p.grad is not None)
    assert all(torch.isfinite(b).all() for b in method.buffers() if b.is_floating_point())
    return step


@pytest.mark.parametrize('supervision', ['ssl', 'spml'])
def test_a_step_attacks_what_is_unknown_and_leaves_no_trace(supervision):
    method, batch = make(supervision=supervision), table()
    modes = [m.training for m in method.modules()]
    step = method.step(batch, progress=.5)
    assert all(p.grad is None for p in method.parameters()) and [m.training for m in method.modules()] == modes
    assert set(step.terms) == {'sup', 'img', 'feat', 'bmc'} and (step.probes['mask'] & batch.known).sum() == 0
    moved = (step.probes['x_adv'] - step.probes['x_weak']).abs().flatten(1).amax(1)
    assert (moved[batch.known.all(1)] == 0).all() and (moved[~batch.known.any(1)] > 0).any() and moved.max() <= 4/255 + 1e-6
    assert step.weights['img'] == 1 and method.step(batch, progress=0.).weights['img'] == pytest.approx(.00674, abs=1e-4)


def test_what_has_nothing_to_defend_is_not_moved_by_a_random_start():
    method, x = make(attack='PGD'), torch.rand(3, 1, SIZE, SIZE)
    mask = torch.zeros(3, len(NAMES), dtype=torch.bool); mask[1] = True
    moved = A.attacked_view(method, x, torch.ones(3, len(NAMES)), mask)
    assert torch.equal(moved[[0, 2]], x[[0, 2]]) and not torch.equal(moved[1], x[1])


def test_terms_are_what_they_say():
    method, batch = make(), table()
    seed_all(3); step = method.step(batch, progress=.5)
    rows, head = ~batch.known.all(1), method.head
    pseudo, mask, z = step.probes['pseudo'][rows], step.probes['mask'][rows], step.probes['features'][rows]
    plain = masked(z, head.weight, head.bias, pseudo, mask).sum()/pseudo.numel()
    r = feature_attack(z, head.weight, head.bias, pseudo, mask)
    assert step.terms['feat'] >= plain
    assert float(step.terms['feat'].detach()) == pytest.approx(float(masked(z+r, head.weight, head.bias, pseudo, mask).sum().detach()/pseudo.numel()), rel=1e-5)


def test_trusting_nothing_leaves_no_consistency():
    method, batch = make(tau_pos=1.1, tau_neg=-.1), table()
    step = method.step(batch, progress=.5)
    assert step.terms['img'] == step.terms['feat'] == 0
    for name in ('img', 'feat'):
        assert all(g is None or g.abs().max() == 0 for g in torch.autograd.grad(step.terms[name], list(method.parameters()), allow_unused=True, retain_graph=True))
    assert torch.equal(step.probes['x_adv'], step.probes['x_weak'])


def test_looks_present_is_not_counted_as_absent():
    method, batch = make(supervision='spml'), table()
    pseudo, mask = torch.ones_like(batch.y), torch.zeros_like(batch.known)
    mask[0] = ~batch.known[0]
    for progress, left in ((0., 0), (.5, int(mask.sum()))):
        y, counted = A.supervised_entries(method, batch, pseudo, mask, progress)
        assert (~counted).sum() == left and torch.equal(y, batch.y)
    assert make(supervision='ssl').unknown == 'ignore' and method.unknown == 'negative'
    assert [make(supervision=s).recipe()[0].sampler for s in ('ssl', 'spml')] == ['mixed', 'known']
    assert create_method('acaa', labels=2, backbone='test_resnet').recipe()[0].ema == .999


@pytest.mark.parametrize('kw', [dict(cap=dict(memory=16, ready=4)), dict(level='map'), dict(feature_steps=3), dict(feature='random'), dict(relation=1.), dict(eps=0.), dict(steps=0),
                                dict(attack=None, adv_on='strong'), dict(attack=dict(decay=.5, ahead_gradient=0.)), dict(attack='PGD')], ids=str)
def test_every_option_takes_a_step(kw): assert set(finite(make(**kw), table()).terms) == {'sup', 'img', 'feat', 'bmc'}


def test_the_memory_fills_in_training_only():
    method = make(cap=dict(memory=16, ready=4))
    method.step(table(), progress=.5)
    assert method.priors.seen == int((~table().known.any(1)).sum())
    method.eval().look(table().x)
    assert method.priors.seen == int((~table().known.any(1)).sum())


nothing = table(8, 0.)
@pytest.mark.parametrize('batch', [table(8)._replace(y=torch.zeros(8, 5)), nothing, table(8, 1.), table(1, 0.), table(1, 1.)],
                         ids=['no positive', 'nothing known', 'everything known', 'one image', 'one annotated image'])
@pytest.mark.parametrize('supervision', ['ssl', 'spml'])
def test_thin_batches_are_harmless(batch, supervision): finite(make(supervision=supervision, cap=dict(memory=16, ready=4)), batch)


def test_bad_batches_are_refused():
    method, batch = make(), table()
    x = batch.x.clone(); x[3, 0, 5, 5] = float('nan')
    before = copy.deepcopy(method.state_dict())
    with pytest.raises(ValueError, match='3'): method.step(batch._replace(x=x), progress=.5)
    assert all(torch.equal(a, b) for a, b in zip(before.values(), method.state_dict().values()))
    with pytest.raises(ValueError, match='must be'): method.step(batch._replace(y=batch.y[:, :3], known=batch.known[:, :3]), progress=.5)


@pytest.mark.parametrize('kw, message', [
    (dict(tau_pos=.2, tau_neg=.4), 'thresholds cross'), (dict(attack='FFGSM'), 'FFGSM'), (dict(adv_on='medium'), 'medium'), (dict(level='pixel'), 'pixel'),
    (dict(attack=None), "adv_on='strong'"), (dict(supervision='few'), 'supervision'), (dict(feature_steps=0), 'at least'), (dict(weights={'image': 1.}), 'no loss term')])
def test_bad_arguments_are_refused(kw, message):
    with pytest.raises(ValueError, match=message): make(prepare=False, **kw)


def test_mixed_precision_gives_finite_losses_and_the_same_ranking(same_ranking):
    "Of a network that has learned something, read on its native grid: the scores of random weights lie within rounding of each other."
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
    seed_all(1); exact = method.step(batch, progress=.5)
    with torch.autocast('cpu', dtype=torch.bfloat16): seed_all(1); rough = method.step(batch, progress=.5)
    rough.loss.backward()
    for name, term in exact.terms.items(): assert float(rough.terms[name].detach()) == pytest.approx(float(term.detach()), rel=.3, abs=.01), name   # an entry at a threshold may change sides
    assert all(torch.isfinite(p.grad).all() for p in method.parameters() if p.grad is not None)
    optimizer = torch.optim.AdamW(method.parameters(), 5e-4)
    with torch.autocast('cpu', dtype=torch.bfloat16): loss = method.step(batch, progress=.5).loss       # and trained on in half precision
    optimizer.zero_grad(); loss.backward(); optimizer.step()
    assert torch.isfinite(loss) and same_ranking(method.eval(), x) > .98


def test_inference_is_backbone_and_head():
    method, x = make().eval(), table().x
    for layer in method.batch_mamba.parameters(): nn.init.normal_(layer)
    scores = method(x)
    del method.batch_mamba
    assert torch.equal(method(x), scores) and torch.equal(method.head(method.backbone.features(x)), scores)


# ---- two processes ----

def local_gradients(rank, world=2):
    "The gradients of one process: its own rows, its own permutation."
    method, batch = make(mixer=dict(inner=16, dropout=0.)), table(16)
    nn.init.normal_(method.batch_mamba.leave.weight, std=.1)      # a mixer that does something
    mine = Batch(*(t[rank::world] if t is not None else None for t in batch))
    return method, mine


def test_batch_mamba_stays_within_its_process(tmp_path):
    "Under DDP the gradient is the mean of what each process computes from its own rows: nothing is gathered."
    script = tmp_path/'two.py'
    script.write_text(textwrap.dedent(f"""
        import os, sys; sys.path.insert(0, {str(Path(__file__).parent)!r})
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
        torch.save({{name: p.grad for name, p in method.named_parameters()}}, {str(tmp_path)!r} + f'/rank{{rank}}.pt')
        dist.destroy_process_group()
    """))
    done = subprocess.run([sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', '2', str(script)], capture_output=True, text=True,
                          timeout=300, env={**os.environ, 'OMP_NUM_THREADS': '1'})
    assert done.returncode == 0, done.stdout + done.stderr
    first, second = (torch.load(tmp_path/f'rank{r}.pt', weights_only=True) for r in (0, 1))
    alone = []
    for rank in (0, 1):
        method, mine = local_gradients(rank)
        seed_all(9, rank=rank)
        method.step(mine, progress=.5).loss.backward()
        alone.append({name: p.grad for name, p in method.named_parameters()})
    assert not torch.allclose(alone[0]['head.weight'], alone[1]['head.weight'])
    for name, g in first.items():
        assert torch.equal(g, second[name]) and torch.allclose(g, (alone[0][name] + alone[1][name])/2, rtol=1e-3, atol=1e-5), name


# ---- relations, pools and numbers of other kinds ----

def test_the_relation_term_counts_and_can_be_taken_away():
    method = make().eval()
    assert method.relation > 0 and method.ablations()['no relation term'] == dict(relation=0.)
    g = torch.Generator().manual_seed(0)
    z, target = torch.randn(6, method.head.in_features, generator=g), torch.zeros(6, method.labels)
    mask = torch.ones_like(target)
    torch.nn.init.normal_(method.batch_mamba.leave.weight, std=30.)
    def loss(relation):
        method.relation = relation
        return A.batch_loss(method, z, target, mask)
    mixed = F.normalize(method.batch_mamba(z), dim=1)
    plain = F.normalize(z, dim=1)
    gap = (mixed @ mixed.T - plain @ plain.T).square().mean()
    assert torch.allclose(loss(2.) - loss(0.), 2*gap, rtol=1e-3) and gap > 1e-3


def test_the_map_level_needs_a_mean():
    with pytest.raises(ValueError, match="mean of the map"): make(backbone='test_convnext', level='map')
    assert make(level='map').level == 'map'


def test_a_budget_from_numpy_stays_in_single_precision():
    x = torch.rand(2, 1, 4, 4)
    assert gni_fgsm(x, lambda x: x.square().sum(), eps=np.float64(.1), steps=2).dtype == torch.float32
