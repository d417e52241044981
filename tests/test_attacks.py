"Attacks against attacks written out beside them, the closed forms, what an attack leaves alone, and bad input."
import copy, functools, threading
import numpy as np, pytest, torch
from torch import nn
from torch.nn import functional as F
from hypothesis import given, settings, strategies as st
from cxr_workbench import attacks as A
from cxr_workbench.attacks import FAMILY, attack_objective, switch_called_modules, feature_attack, gni_fgsm, make_attack
from cxr_workbench.attacks import map_radius


def small_net(seed=0, dtype=torch.float64):
    "A convolution, a BatchNorm with statistics that say something, a dropout, a linear head."
    torch.manual_seed(seed)
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Tanh(), nn.Dropout(.5),
        nn.Conv2d(4, 6, 3, stride=2), nn.Tanh(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3)).to(dtype)
    with torch.no_grad():
        net[1].running_mean.normal_(0, .1)
        net[1].running_var.uniform_(.5, 2)
        net[-1].weight.mul_(5)
    return net


def draw_problem(seed=0, n=4, dtype=torch.float64, net=None):
    "Images, an objective with hard labels and a mask, and the network behind it."
    net, g = net or small_net(seed, dtype), torch.Generator().manual_seed(seed)
    x = torch.rand(n, 1, 9, 9, generator=g, dtype=dtype)
    y = (torch.rand(n, 3, generator=g) < .5).to(dtype)
    mask = torch.rand(n, 3, generator=g) < .8
    mask[:, 0] = True
    return x, attack_objective(net, y, mask), net


# ---- the family, written out on its own ----

def gradient(J, x):
    x = x.clone().requires_grad_()
    J(x).backward(inputs=[x])
    return x.grad


def project(x_k, x, eps): return torch.max(torch.min(x_k, x + eps), x - eps).clamp(0, 1)


def fgsm(x, J, eps): return (x + eps*gradient(J, x).sign()).clamp(0, 1)


def ifgsm(x, J, eps, steps, alpha):
    x_k = x.clone()
    for _ in range(steps): x_k = project(x_k + alpha*gradient(J, x_k).sign(), x, eps)
    return x_k


def mifgsm(x, J, eps, steps, alpha, mu, nesterov=False):
    x_k, g = x.clone(), torch.zeros_like(x)
    for _ in range(steps):
        d = gradient(J, x_k + alpha*mu*g if nesterov else x_k)
        g = mu*g + d/d.abs().mean((1, 2, 3), keepdim=True)
        x_k = project(x_k + alpha*g.sign(), x, eps)
    return x_k


@given(
    seed=st.integers(0, 20), steps=st.integers(1, 6),
    eps=st.sampled_from([1/255, 4/255, .1, .4]),
    mu=st.sampled_from([.5, .9, 1.]), stride=st.sampled_from([1., 2.5]))
@settings(max_examples=25)
def test_the_family_is_one_function_bit_for_bit(seed, eps, steps, mu, stride):
    x, J, net = draw_problem(seed)
    net.eval()
    alpha = stride*eps/steps
    ours = functools.partial(gni_fgsm, x, J, eps, steps, alpha)
    none = dict(ahead_momentum=0., ahead_gradient=0.)
    nesterov = dict(ahead_momentum=mu, ahead_gradient=0.)
    ahead = dict(ahead_momentum=2., ahead_gradient=3.)
    assert torch.equal(ours(decay=0., **none), ifgsm(x, J, eps, steps, alpha))
    assert torch.equal(ours(decay=mu, **none), mifgsm(x, J, eps, steps, alpha, mu))
    assert torch.equal(ours(decay=mu, **nesterov), mifgsm(x, J, eps, steps, alpha, mu, nesterov=True))
    assert torch.equal(gni_fgsm(x, J, eps, steps=1, decay=mu, **ahead), fgsm(x, J, eps))
    assert torch.equal(gni_fgsm(x, J, eps, **FAMILY['FGSM']), fgsm(x, J, eps))


def test_looking_ahead_along_the_last_gradient_is_a_method_of_its_own():
    x, J, net = draw_problem(3)
    kinds = [gni_fgsm(x, J, .4, 6, **FAMILY[name]) for name in ('MI-FGSM', 'NI-FGSM', 'PI-FGSM', 'GNI-FGSM')]
    assert all(not torch.equal(a, b) for i, a in enumerate(kinds) for b in kinds[:i])


any_attack = dict(
    eps=st.floats(0, .5), steps=st.integers(0, 4), stride=st.floats(.1, 5),
    decay=st.floats(0, 2), ahead_momentum=st.floats(0, 3),
    ahead_gradient=st.floats(0, 3), random_start=st.floats(0, 1))


@given(norm=st.sampled_from(['linf', 'l2']), per_image=st.booleans(), **any_attack)
@settings(max_examples=40)
def test_nothing_leaves_the_ball_or_the_range(norm, per_image, eps, steps, stride, **given):
    x, J, _ = draw_problem(1, dtype=torch.float32)
    budget = torch.linspace(0, eps, len(x)).view(-1, 1, 1, 1) if per_image else eps
    x_k = gni_fgsm(x, J, budget, steps, step_size=stride*eps/max(1, steps), norm=norm, **given)
    change, limit = (x_k - x).flatten(1), torch.as_tensor(budget).expand(len(x), 1, 1, 1).flatten()
    length = change.abs().amax(1) if norm == 'linf' else change.norm(dim=1)
    assert (length <= limit + 1e-6).all()
    assert x_k.min() >= 0 and x_k.max() <= 1 and not x_k.requires_grad


@given(factor=st.sampled_from([2.**-8, 2., 2.**10]), norm=st.sampled_from(['linf', 'l2']))
@settings(max_examples=6)
def test_the_scale_of_the_loss_does_not_matter(factor, norm):
    x, J, _ = draw_problem(2)
    assert torch.equal(gni_fgsm(x, J, norm=norm), gni_fgsm(x, lambda x: factor*J(x), norm=norm))


@pytest.mark.parametrize('name', FAMILY)
def test_the_loss_rises(name):
    x, J, net = draw_problem(4)
    net.eval()
    x_k = gni_fgsm(x, J, 1/255, generator=torch.Generator().manual_seed(0), **FAMILY[name])
    assert J(x_k) > J(x)


def test_a_small_step_gains_what_first_order_says():
    x, J, net = draw_problem(5)
    net.eval()
    gain = float((J(gni_fgsm(x, J, 1e-5, steps=1, valid=None)) - J(x)).detach())
    assert gain == pytest.approx(1e-5*float(gradient(J, x).abs().sum()), rel=1e-3)


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_its_own_soft_prediction_is_no_target(dtype):
    x, _, net = draw_problem(0, dtype=dtype)
    soft = net.eval()(x).sigmoid().detach()
    J = attack_objective(net, soft)
    assert A.input_gradient(J, x).abs().max() == 0 and torch.equal(gni_fgsm(x, J), x)
    assert not torch.equal(gni_fgsm(x, J, random_start=1.), x)


def test_images_are_attacked_one_by_one():
    x, _, net = draw_problem(6)
    y, mask = torch.ones(4, 3, dtype=x.dtype), torch.ones(4, 3, dtype=torch.bool)
    mask[2] = False
    together = gni_fgsm(x, attack_objective(net, y, mask))
    assert torch.equal(together[2], x[2])
    for i in (0, 1, 3):
        single = gni_fgsm(x[i:i+1], attack_objective(net, y[:1]))
        assert torch.equal(together[i:i+1], single)


def test_an_entry_outside_of_the_mask_is_not_read():
    x, _, net = draw_problem(6)
    y, mask = torch.ones(4, 3, dtype=x.dtype), torch.tensor([True, False, True]).expand(4, 3)
    targets = [torch.where(mask, y, other) for other in (0., 1.)]
    assert torch.equal(*(gni_fgsm(x, attack_objective(net, target, mask)) for target in targets))


# ---- what the attack leaves alone ----

def objectives(net, J):
    "Ways to hide a network from whoever looks for it."
    return {
        'plain': J, 'lambda': lambda x: J(x), 'partial': functools.partial(lambda f, x: f(x), J),
        'list': lambda x, parts=[net]: parts[0](x).square().sum(),
        'pieces': lambda x: functools.reduce(lambda h, m: m(h), net, x).square().sum()}


def modes_of(net): return [m.training for m in net.modules()]


@pytest.mark.parametrize('kind', ['plain', 'lambda', 'partial', 'list', 'pieces'])
def test_modes_statistics_and_gradients_come_back(kind):
    x, J, net = draw_problem(0)
    net.train()
    net[1].eval()                                                 # a frozen BatchNorm in a training network
    for p in net.parameters(): p.grad = torch.full_like(p, 7.)
    state, modes, stream = copy.deepcopy(net.state_dict()), modes_of(net), torch.get_rng_state()
    J = objectives(net, J)[kind]
    attacked = gni_fgsm(x, J)
    assert modes_of(net) == modes and True in modes and False in modes
    assert all(torch.equal(a, b) for a, b in zip(state.values(), net.state_dict().values()))
    assert all((p.grad == 7).all() for p in net.parameters())
    assert torch.equal(stream, torch.get_rng_state())             # no dropout drew
    net.eval()
    assert torch.equal(attacked, gni_fgsm(x, J))                  # and it was evaluation mode inside


def test_a_batchnorm_in_training_mode_is_not_moved():
    x, J, net = draw_problem(0)
    before = net.train()[1].running_mean.clone()
    gni_fgsm(x, J)
    assert torch.equal(net[1].running_mean, before)
    assert net[1].num_batches_tracked == 0 and net[1].training


def test_a_module_in_training_below_a_frozen_one_comes_back_too():
    x, J, net = draw_problem(0)
    net.train()
    net.training = False
    modes = modes_of(net)
    attacked = gni_fgsm(x, J)
    assert modes_of(net) == modes and not net.training and net[3].training
    net.eval()
    assert torch.equal(attacked, gni_fgsm(x, J))


def test_modes_come_back_after_an_error():
    x, J, net = draw_problem(0)
    def broken(x):
        net(x)
        raise RuntimeError('on purpose')

    with pytest.raises(RuntimeError, match='on purpose'): gni_fgsm(x, broken, steps=1)
    assert all(modes_of(net)) and not nn.modules.module._global_forward_pre_hooks


def test_other_threads_keep_their_mode():
    net, other, seen = nn.Dropout(.5), nn.Dropout(.5), []
    def work():
        other(torch.ones(4))
        seen.append(other.training)

    with switch_called_modules():
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        net(torch.ones(4))
        assert not net.training
    assert seen == [True] and net.training


def test_gradients_off_outside_and_autocast_change_nothing():
    x, J, _ = draw_problem(0, dtype=torch.float32)
    plain = gni_fgsm(x, J)
    with torch.no_grad(): assert torch.equal(gni_fgsm(x, J), plain)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        inside = gni_fgsm(x, J)
        assert gni_fgsm(x.bfloat16().float(), J).dtype == gni_fgsm(x.bfloat16(), J).dtype == torch.float32
    assert inside.dtype == torch.float32 and torch.equal(inside, plain)


def test_the_random_start_has_its_own_generator():
    x, J, _ = draw_problem(0)
    def draw(seed): return gni_fgsm(x, J, random_start=1., generator=torch.Generator().manual_seed(seed))

    stream = torch.get_rng_state()
    assert torch.equal(draw(1), draw(1)) and not torch.equal(draw(1), draw(2))
    assert torch.equal(stream, torch.get_rng_state())


def test_the_callback_sees_every_point():
    x, J, _ = draw_problem(0)
    seen = []
    x_k = gni_fgsm(x, J, steps=3, callback=lambda t, x_t: seen.append((t, x_t.clone())))
    assert [t for t, _ in seen] == [0, 1, 2, 3]
    assert torch.equal(seen[0][1], x) and torch.equal(seen[-1][1], x_k)


def test_nothing_is_attacked_with_no_budget_and_no_steps():
    x, J, _ = draw_problem(0)
    for kw in (dict(eps=0), dict(steps=0), dict(eps=0, norm='l2', random_start=1.)):
        x_k = gni_fgsm(x, J, **kw)
        assert torch.equal(x_k, x) and x_k.data_ptr() != x.data_ptr()
    assert gni_fgsm(x[:1], lambda x: x.sum()).shape == (1, 1, 9, 9)


def test_a_budget_from_numpy_stays_in_single_precision():
    x = torch.rand(2, 1, 4, 4)
    assert gni_fgsm(x, lambda x: x.square().sum(), eps=np.float64(.1), steps=2).dtype == torch.float32


# ---- bad input ----

@pytest.mark.parametrize('change, message', [
    (dict(eps=-.1), 'must not be negative'),
    (dict(eps=float('nan')), 'must not be negative'),
    (dict(steps=-1), 'must not be negative'),
    (dict(norm='l7'), "norm='l7'"),
    (dict(eps=torch.ones(4)), 'give .B, 1'),
    (dict(valid=(.4, .6)), 'outside of valid'),
    (dict(objective=lambda x: x.flatten(1).sum(1)), 'one number'),
    (dict(objective=lambda x: torch.tensor(1.)), 'depends on x'),
    (dict(x=torch.full((2, 1, 4, 4), float('nan'))), r'not finite in samples \[0, 1\]'),
    (dict(x=torch.zeros(2, 1, 4, 4, dtype=torch.uint8)), 'must be floats')])
def test_what_cannot_be_attacked_is_refused(change, message):
    x, J, _ = draw_problem(0)
    with pytest.raises(ValueError, match=message): gni_fgsm(**{'x': x, 'objective': J, **change})


def test_labels_of_another_width_are_refused():
    x, _, net = draw_problem(0)
    J = attack_objective(net, torch.ones(4, 5, dtype=x.dtype))
    with pytest.raises(ValueError, match=r'shapes do not fit: logits \(4, 3\), target \(4, 5\)'): gni_fgsm(x, J)


def test_normalised_and_three_channel_images():
    "Trap 3: the same attack in units of the standard deviation, and a result that stays grey."
    x, J, net = draw_problem(0)
    mean, std = torch.tensor(.3, dtype=x.dtype), torch.tensor(.25, dtype=x.dtype)
    valid = (0 - mean)/std, (1 - mean)/std
    normalised = gni_fgsm((x - mean)/std, lambda u: J(u*std + mean), eps=4/255/float(std), valid=valid)
    assert torch.allclose(normalised*std + mean, gni_fgsm(x, J), atol=1e-12)


# ---- an attack from its setting ----

def test_a_setting_names_an_attack():
    assert make_attack(None) is None and make_attack(False) is None
    assert make_attack(True) == make_attack({}) == make_attack('GNI-FGSM')
    assert make_attack() == {'eps': 4/255, 'steps': 3, **FAMILY['GNI-FGSM']}
    assert make_attack('FGSM') == {'eps': 4/255, **FAMILY['FGSM']}
    given = dict(name='PGD', steps=5, eps=.1)
    assert make_attack(given) == {**FAMILY['PGD'], 'steps': 5, 'eps': .1}
    assert given == dict(name='PGD', steps=5, eps=.1)   # left as it was given


def test_settings_of_no_name_are_those_of_gni_fgsm():
    x, J, _ = draw_problem(0)
    assert torch.equal(gni_fgsm(x, J, **make_attack()), gni_fgsm(x, J))
    assert torch.equal(gni_fgsm(x, J, **make_attack(dict(decay=.5))), gni_fgsm(x, J, decay=.5))


@pytest.mark.parametrize('setting, message', [
    ('FFGSM', "attack 'FFGSM': there are"), (dict(name='FFGSM'), 'FFGSM'),
    (dict(stride=2), r"no argument \['stride'\]"),
    (dict(objective=None), 'no argument'), (dict(steps=-1), 'at least 0'), (dict(steps=2.5), 'whole number')])
def test_settings_of_no_attack_are_refused(setting, message):
    with pytest.raises(ValueError, match=message): make_attack(setting)


# ---- features ----

def draw_features(seed=0, n=6, d=8, c=3, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    z, W = torch.randn(n, d, generator=g, dtype=dtype), torch.randn(c, d, generator=g, dtype=dtype)
    b = torch.randn(c, generator=g, dtype=dtype)
    target = (torch.rand(n, c, generator=g) < .5).to(dtype)
    return z, W, b, target, torch.rand(n, c, generator=g) < .7


def masked_loss(z, W, b, target, mask):
    entries = F.binary_cross_entropy_with_logits(F.linear(z, W, b), target, reduction='none')
    return (entries*mask).sum(1)


@given(seed=st.integers(0, 200), radius=st.floats(1e-3, 3))
def test_the_closed_form_is_the_gradient_and_never_helps(seed, radius):
    z, *rest = draw_features(seed)
    r = feature_attack(z, *rest, radius)
    d = gradient(lambda z: masked_loss(z, *rest).sum(), z)
    some = rest[-1].any(1)
    assert (r[~some] == 0).all()
    assert torch.allclose(r[some].norm(dim=1), radius*z[some].norm(dim=1), rtol=1e-9)
    assert torch.allclose(F.normalize(r[some], dim=1), F.normalize(d[some], dim=1), atol=1e-6)
    assert (masked_loss(z + r, *rest) >= masked_loss(z, *rest)).all()


@given(seed=st.integers(0, 50))
@settings(max_examples=15)
def test_one_step_in_the_ball_is_the_closed_form(seed):
    z, W, b, target, mask = draw_features(seed)
    J = attack_objective(lambda z: F.linear(z, W, b), target, mask)
    length, ball = z.norm(dim=1, keepdim=True), dict(valid=None, norm='l2')
    one = gni_fgsm(z, J, .1*length, steps=1, **ball) - z
    assert torch.allclose(one, feature_attack(z, W, b, target, mask), atol=1e-9)
    many = gni_fgsm(z, J, length, steps=8, **ball)
    assert (J(many) >= J(z + feature_attack(z, W, b, target, mask, 1.)) - 1e-2).all()


def test_the_worst_change_of_a_map_moves_its_mean():
    _, W, b, target, mask = draw_features(1)
    maps = torch.randn(6, 8, 3, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    z = maps.mean((2, 3))
    J = attack_objective(lambda m: F.linear(m.mean((2, 3)), W, b), target, mask)
    eps = .1*maps.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    change = gni_fgsm(maps, J, eps, steps=1, valid=None, norm='l2').mean((2, 3)) - z
    assert torch.allclose(change, feature_attack(z, W, b, target, mask, map_radius(maps, z)), atol=1e-6)
    assert (map_radius(maps, z) >= .1).all() and map_radius(maps[:0], z[:0]).shape == (0, 1)


def test_feature_attack_in_half_precision_without_bias_and_for_one_row():
    z, W, b, target, mask = draw_features(2, dtype=torch.float32)
    r = feature_attack(z, W, b, target, mask)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        assert feature_attack(z.bfloat16(), W, b, target, mask).dtype == torch.float32
        assert torch.equal(feature_attack(z, W, b, target, mask), r)
    without, zero = (feature_attack(z, W, bias, target, mask) for bias in (None, torch.zeros(3)))
    assert torch.allclose(without, zero)
    first = feature_attack(z[:1], W, b, target[:1], mask[:1])
    assert torch.allclose(first, r[:1], atol=1e-6)
    with pytest.raises(ValueError, match=r'target \(6, 2\).*target \(B, C\)'):
        feature_attack(z, W, b, target[:, :2], mask)


# ---- a budget that follows what the attack adds ----

def linear_problem(scale=1., n=32):
    "Images of 16 pixels in the middle of the range, a linear model, and hard labels of its own."
    g = torch.Generator().manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    x = .4 + .2*torch.rand(n, 1, 4, 4, generator=g)
    with torch.no_grad():
        net[1].weight.copy_(scale*torch.randn(3, 16, generator=g))
        y = (net(x) > 0).float()
    mask = torch.rand(n, 3, generator=g) < .7
    return x, attack_objective(net, y, mask), mask.sum()


@pytest.mark.parametrize('scale', [.3, 1., 5.])
@pytest.mark.parametrize('start', [.25/255, 16/255])
def test_the_budget_reaches_the_added_loss_on_a_linear_model(scale, start):
    (x, J, entries), budget = linear_problem(scale), A.AttackBudget(.05, start, lowest=1e-5, highest=.5)
    for _ in range(15): budget.follow(A.added_loss(J, x, gni_fgsm(x, J, budget.eps)), entries)
    reached = float(A.added_loss(J, x, gni_fgsm(x, J, budget.eps))/entries)
    assert reached == pytest.approx(.05, rel=.02)


def test_a_sensitive_network_gets_a_smaller_budget():
    rest = []
    for scale in (1., 4.):
        (x, J, entries), budget = linear_problem(scale), A.AttackBudget(.02, lowest=1e-5)
        for _ in range(15): budget.follow(A.added_loss(J, x, gni_fgsm(x, J, budget.eps)), entries)
        rest.append(float(budget.eps))
    assert rest[1] < rest[0]


def test_what_an_attack_adds_is_the_rise_of_its_objective_in_evaluation_mode():
    x, J, net = draw_problem(dtype=torch.float32)
    x_adv = gni_fgsm(x, J)
    before = copy.deepcopy(net.train().state_dict())
    added = A.added_loss(J, x, x_adv)
    assert net.training and all(torch.equal(a, b) for a, b in zip(before.values(), net.state_dict().values()))
    net.eval()
    with torch.no_grad(): assert torch.allclose(added, J(x_adv) - J(x)) and added > 0
    assert A.added_loss(J, x, x) == 0


def test_one_step_of_the_budget_is_bounded_and_nothing_trusted_leaves_it():
    def follow(added, entries, **kw):
        budget = A.AttackBudget(.1, start=.01, **{'lowest': 1e-4, 'highest': .05, **kw})
        budget.follow(torch.tensor(added), torch.tensor(entries))
        return float(budget.eps)

    assert follow(1e9, 10) == pytest.approx(.005) and follow(0., 10) == pytest.approx(.02)     # halved, doubled
    assert follow(-1., 10) == pytest.approx(.02)                                               # an attack that failed
    assert follow(4., 10, rate=.25) == pytest.approx(.01*.25**.25) and follow(1., 10) == pytest.approx(.01)
    assert follow(0., 0) == pytest.approx(.01)
    assert follow(0., 10, highest=.015) == pytest.approx(.015) and follow(1e9, 10, lowest=.008) == pytest.approx(.008)
    assert list(A.AttackBudget().state_dict()) == ['eps']


@pytest.mark.parametrize('kw', [
    dict(added_loss=0.), dict(start=0.), dict(start=.5),
    dict(lowest=.1), dict(rate=0.), dict(rate=1.5)])
def test_budgets_that_make_no_sense_are_refused(kw):
    with pytest.raises(ValueError): A.AttackBudget(**kw)


def test_an_attack_of_no_budget_asks_for_no_gradient():
    def refuse(x): raise AssertionError('the objective was computed')
    x = torch.rand(2, 1, 4, 4)
    for kw in (dict(eps=0), dict(eps=0.), dict(eps=0., random_start=1.)):
        assert torch.equal(gni_fgsm(x, refuse, **kw), x)


def test_a_budget_from_settings():
    attack = make_attack(dict(eps='auto', added_loss=.3, name='PGD'))
    assert attack['eps'].added_loss == .3 and attack['random_start'] == 1.
    with pytest.raises(ValueError, match="eps='auto' only"): make_attack(dict(added_loss=.3))
    with pytest.raises(ValueError, match="'auto'"): make_attack(dict(eps='large'))


# ---- statistics of their own ----

def run_twice(own):
    "A network after a pass of images and one of others, in training mode, and what the second gave."
    net, g = small_net(), torch.Generator().manual_seed(1)
    x, other = torch.rand(2, 4, 1, 9, 9, generator=g, dtype=torch.float64)
    torch.manual_seed(0)
    net(x)
    clean = copy.deepcopy(net.state_dict())
    with A.keep_statistics(net, own): out = net(other)
    return net, clean, out


def test_running_statistics_stay_only_with_their_own_and_outputs_are_alike():
    kept, clean, out = run_twice(True)
    assert all(torch.equal(t, clean[name]) for name, t in kept.state_dict().items())
    shared, clean, same = run_twice(False)
    moved = {name for name, t in shared.state_dict().items() if not torch.equal(t, clean[name])}
    assert moved == {'1.running_mean', '1.running_var', '1.num_batches_tracked'}
    assert torch.equal(out, same)                                  # both normalise by the batch
    assert kept[1].track_running_stats and list(kept.state_dict()) == list(shared.state_dict())


def test_scale_and_shift_are_shared():
    net = small_net()
    with A.keep_statistics(net): net(torch.rand(4, 1, 9, 9, dtype=torch.float64)).sum().backward()
    assert net[1].weight.grad.abs().sum() > 0 and net[1].bias.grad.abs().sum() > 0


def test_a_frozen_batchnorm_keeps_reading_its_running_statistics():
    net = small_net().train()
    net[1].eval()
    x = torch.rand(4, 1, 9, 9, dtype=torch.float64)
    expected = net[1](net[0](x))
    with A.keep_statistics(net): assert torch.equal(net[1](net[0](x)), expected)
    net.train()
    with pytest.raises(RuntimeError, match='no'), A.keep_statistics(net): raise RuntimeError('no')
    assert net[1].track_running_stats                              # also after an error


def test_a_batchnorm_without_running_statistics_stays_without():
    norm = nn.BatchNorm2d(1, track_running_stats=False)
    with A.keep_statistics(norm): norm(torch.rand(2, 1, 3, 3))
    assert not norm.track_running_stats


def test_statistics_are_read_beside_the_attack():
    assert A.take_statistics(None) == (None, False) and A.take_statistics(True) == (True, False)
    given = dict(name='PGD', statistics='own')
    assert A.take_statistics(given) == (dict(name='PGD'), True) and given['statistics'] == 'own'
    assert A.take_statistics(dict(statistics='shared')) == ({}, False)
    with pytest.raises(ValueError, match="'shared' or 'own'"): A.take_statistics(dict(statistics='none'))
