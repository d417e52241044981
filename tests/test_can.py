"CAN: what the page does not assert - bad input, limits, old names, and that no loss depends on the rest of the batch."
import copy, json, warnings
import numpy as np
import pytest, torch
from torch.nn import functional as F
from hypothesis import given, settings, strategies as st
from cxr_workbench.core import Batch, create_method, seed_all
from cxr_workbench.methods import can as C
from cxr_workbench.methods import can_agreement as A
from cxr_workbench.renamed import update_config

FUSIONS = ['product', 'gate', 'sum', 'concat']


def rand(*shape, seed=0): return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def tiny(labels=4, prepared=True, **kw):
    seed_all(0)
    method = create_method('can', labels=labels, preset='tiny', **kw)
    if prepared: method.prepare(batch(16, labels).y, batch(16, labels).known)
    return method


def batch(n=6, labels=4, seed=0):
    y = (rand(n, labels, seed=seed+1) < .4).float()
    y[:1], y[1:2] = 1, 0
    known = torch.ones(n, labels, dtype=torch.bool)
    return Batch(rand(n, 1, 64, 64, seed=seed), y, known, torch.arange(n))


# ---- cross attention ----

@pytest.mark.parametrize('fuse', FUSIONS)
def test_fusion_is_finite_non_negative_and_row_by_row(fuse):
    a, b = rand(4, 3, 5, 7), rand(4, 3, 5, 7, seed=1)
    whole = C.cross_attention(a, b, fuse)
    assert whole.shape == (4, 6 if fuse == 'concat' else 3, 5, 7) and whole.min() >= 0
    assert torch.allclose(whole[2:3], C.cross_attention(a[2:3], b[2:3], fuse))
    assert torch.isfinite(C.cross_attention(a*0, b, fuse)).all()


@pytest.mark.parametrize('shapes', [
    ((2, 3, 4, 4), (2, 3, 4, 5)),
    ((2, 3, 4, 4), (2, 2, 4, 4)),
    ((2, 3, 4, 4), (1, 3, 4, 4)),
    ((3, 4, 4), (3, 4, 4))])
def test_maps_of_other_shapes_are_refused(shapes):
    a, b = map(torch.zeros, shapes)
    for function in (C.cross_attention, C.attention_loss):
        with pytest.raises(ValueError, match=r'map_a \(B, K, h, w\), map_b \(B, K, h, w\)'): function(a, b)


def test_an_unknown_fusion_is_refused():
    m, words = rand(1, 1, 2, 2), "'product', 'gate', 'sum' or 'concat'"
    with pytest.raises(ValueError, match=words): C.cross_attention(m, m, 'mean')
    with pytest.raises(ValueError, match=words): tiny(fuse='mean')


def test_a_gate_between_constant_maps_halves_twice():
    a = torch.ones(1, 2, 3, 3)
    assert torch.allclose(C.cross_attention(a, a, 'gate'), a/2)


def test_product_and_sum_pass_gradients_to_both():
    for fuse in FUSIONS:
        a, b = rand(2, 3, 4, 4).requires_grad_(), rand(2, 3, 4, 4, seed=1).requires_grad_()
        total = C.cross_attention(a, b, fuse).square().sum()
        assert all(g.abs().sum() > 0 for g in torch.autograd.grad(total, (a, b)))


def test_grids_are_matched_to_the_finer_one():
    a, b = C.match_grids(rand(2, 3, 4, 4), torch.ones(2, 3, 2, 8))
    assert a.shape == b.shape == (2, 3, 4, 8)
    assert torch.equal(b, torch.ones_like(b)) and a.min() >= 0
    same = rand(2, 3, 4, 4)
    assert C.match_grids(same, same)[0] is same


@pytest.mark.parametrize('pair', [
    ('test_resnet', 'test_vit'), ('test_convnext', 'test_resnet'), ('resnet18', 'test_vit')])
def test_two_different_backbones_are_matched(pair):
    method = create_method('can', labels=3, backbone=pair[0], branch_b=pair[1])
    a, b = method.eval().branch_maps(rand(2, 1, 64, 64))
    assert a.shape == b.shape and a.min() >= 0 and b.min() >= 0
    assert torch.isfinite(method(rand(2, 1, 64, 64))).all()


def test_modules_serve_as_branches():
    def own(dim, stride):
        return torch.nn.Sequential(torch.nn.Conv2d(1, dim, 3, stride=stride, padding=1), torch.nn.ReLU())
    method = C.CAN(2, backbone=own(6, 8), branch_b=own(4, 16))
    assert method.channels == 4 and method(rand(1, 1, 64, 64)).shape == (1, 2)


# ---- identical starts ----

def test_identical_starts_are_refused_with_the_reason():
    net = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3, stride=8), torch.nn.ReLU())
    for same in (net, copy.deepcopy(net)):
        with pytest.raises(ValueError, match='same weights.*branch_b'): C.CAN(2, backbone=net, branch_b=same)
    other = copy.deepcopy(net)
    with torch.no_grad(): other[0].bias[0] += 1e-3
    C.CAN(2, backbone=net, branch_b=other)


def test_partners_are_checkpoints_that_timm_has_and_not_the_default_one():
    import timm
    for name, partner in C.PARTNERS.items():
        assert partner in timm.list_pretrained(f'{name}.*')
        assert timm.get_pretrained_cfg(name).tag != partner.split('.')[1]


def test_one_branch_has_no_second_network():
    method = tiny(fuse='single')
    assert method.backbone_b is None and method.transition_b is None and set(method.weights) == {'supervised'}
    step = method.step(batch())
    assert set(step.terms) == {'supervised'} and 'attention_b' not in step.probes
    assert torch.isfinite(step.loss)


def test_a_partner_of_ones_is_the_single_branch():
    both, one = tiny().eval(), tiny(fuse='single').eval()
    wanted = one.state_dict()
    one.load_state_dict({k: v for k, v in both.state_dict().items() if k in wanted})
    a, _ = both.branch_maps(rand(3, 1, 64, 64))
    logits, _ = both.read_maps(a, torch.ones_like(a))
    assert torch.allclose(logits, one(rand(3, 1, 64, 64)), atol=1e-6)


# ---- the balance loss ----

def sizes(labels): return st.tuples(st.just(labels), st.integers(1, 8), st.integers(0, 10**6))


table = st.integers(1, 6).flatmap(sizes)
prevalences, schemes = st.sampled_from([None, .02, .5, .97]), st.sampled_from(['inverse', 'shares'])


@given(table, st.floats(0, 6), prevalences, schemes, st.floats(0, 1))
@settings(max_examples=60)
def test_balance_loss_is_finite_and_not_negative(size, gamma, prevalence, scheme, between):
    c, n, seed = size
    g = torch.Generator().manual_seed(seed)
    s = (60*torch.randn(n, c, generator=g)).requires_grad_()
    y = (torch.rand(n, c, generator=g) < .5).float()
    known = torch.rand(n, c, generator=g) < .6
    loss = C.balance_loss(s, y, prevalence, gamma, known, scheme=scheme, between=between)
    loss.backward()
    assert torch.isfinite(loss) and loss >= 0
    assert torch.isfinite(s.grad).all() and (s.grad[~known] == 0).all()


@given(table)
@settings(max_examples=30)
def test_gamma_zero_without_weights_is_bce_over_the_known_entries(size):
    c, n, seed = size
    s, y = 4*rand(n, c, seed=seed) - 2, (rand(n, c, seed=seed+1) < .5).float()
    known, expected = rand(n, c, seed=seed+2) < .7, torch.tensor(0.)
    if known.any(): expected = F.binary_cross_entropy_with_logits(s[known], y[known])
    assert torch.allclose(C.balance_loss(s, y, gamma=0, known=known), expected, atol=1e-6)


def test_balance_loss_follows_its_formula():
    "Against the sum written out entry by entry."
    s, y = 4*rand(7, 3).double() - 2, (rand(7, 3, seed=1) < .5).double()
    pi, gamma, total = torch.tensor([.1, .4, .7], dtype=torch.float64), 1.7, 0.
    for i in range(7):
        for c in range(3):
            p, b_pos, b_neg = torch.sigmoid(s[i, c]), .5/pi[c], .5/(1-pi[c])
            total -= b_pos*(1-p)**gamma*y[i, c]*p.log()
            total -= b_neg*p**gamma*(1-y[i, c])*(1-p).log()
    assert torch.allclose(C.balance_loss(s, y, pi, gamma), total/21)
    leaf = s.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda t: C.balance_loss(t, y, pi, gamma), leaf)


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_extreme_logits_are_finite_in_every_precision(dtype):
    most = 6e4 if dtype == torch.float16 else 1e30
    s = torch.tensor([[most, -most, 50., -50.]]*2, dtype=dtype).requires_grad_()
    loss = C.balance_loss(s, torch.tensor([[1., 1, 0, 0], [0, 0, 1, 1]]), .01)
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(s.grad).all()


@pytest.mark.parametrize('prevalence', [0., 1.])
def test_prevalence_at_its_ends_is_finite(prevalence):
    pos, neg = C.balance_weights(torch.full((3,), prevalence))
    assert torch.isfinite(pos).all() and torch.isfinite(neg).all()
    never = torch.full((4, 3), prevalence)  # the labels that such a prevalence describes
    loss = C.balance_loss(torch.zeros(4, 3), never, torch.full((3,), prevalence), gamma=0)
    assert loss == pytest.approx(.5*np.log(2), rel=1e-4)


@pytest.mark.parametrize('scheme', ['inverse', 'shares'])
def test_both_schemes_balance_within_and_differ_between(scheme):
    pi = torch.tensor([.002, .18, .5])
    pos, neg = C.balance_weights(pi, scheme)
    assert torch.allclose(pos*pi, neg*(1-pi))
    wanted = torch.ones(3) if scheme == 'inverse' else 2*pi*(1-pi)
    assert torch.allclose(pos*pi + neg*(1-pi), wanted, atol=1e-6)


def test_between_raises_the_rare_and_keeps_the_mean():
    pi = torch.tensor([.002, .18, .5])
    pos, neg = C.balance_weights(pi, between=.25)
    whole = pos*pi + neg*(1-pi)
    assert whole[0] > whole[1] > whole[2] and whole.mean() == pytest.approx(1, abs=1e-5)


NAN = float('nan')


@pytest.mark.parametrize('bad, words', [
    (dict(gamma=-1.), 'gamma=-1'),
    (dict(gamma=NAN), 'gamma=nan'),
    (dict(prevalence=1.2), r'prevalence must lie in \[0, 1\]'),
    (dict(prevalence=torch.tensor([.1, NAN, .2])), r'prevalence must lie in \[0, 1\]'),
    (dict(prevalence=[.1, .2]), 'prevalence has 2 entries for C=3'),
    (dict(prevalence=.1, scheme='log'), "'inverse' or 'shares'"),
    (dict(known=torch.ones(4, 2, dtype=torch.bool)), r'known.*\(4, 2\)')])
def test_bad_settings_are_named(bad, words):
    with pytest.raises(ValueError, match=words): C.balance_loss(torch.zeros(4, 3), torch.zeros(4, 3), **bad)


def test_every_label_unknown_is_zero_with_a_gradient():
    s = rand(4, 3).requires_grad_()
    loss = C.balance_loss(s, torch.zeros(4, 3), .1, known=torch.zeros(4, 3, dtype=torch.bool))
    loss.backward()
    assert loss == 0 and (s.grad == 0).all()


# ---- the attention loss ----

shapes = st.tuples(*(st.integers(1, most) for most in (4, 5, 6, 6)))


@given(shapes, st.integers(0, 10**6), st.floats(-20, 20))
@settings(max_examples=60)
def test_attention_loss_is_bounded_symmetric_and_free_of_scale(shape, seed, power):
    g = torch.Generator().manual_seed(seed)
    a, b = torch.randn(shape, generator=g), torch.randn(shape, generator=g).clamp(min=0)
    loss = C.attention_loss(a, b)
    assert 0 <= loss <= 2
    assert torch.allclose(loss, C.attention_loss(b, a))
    assert torch.allclose(loss, C.attention_loss(a*10**power, b), atol=1e-5)
    assert C.attention_loss(a, a) == 0
    other = b[:, torch.randperm(shape[1], generator=g)]                  # what a channel means does not enter
    assert torch.allclose(loss, C.attention_loss(a, other), atol=1e-6)


def test_attention_loss_is_two_minus_two_cosines():
    a, b = rand(3, 4, 5, 5).double(), rand(3, 4, 5, 5, seed=1).double()
    cos = F.cosine_similarity(a.square().sum(1).flatten(1), b.square().sum(1).flatten(1))
    assert torch.allclose(C.attention_loss(a, b), (2 - 2*cos).mean())
    a.requires_grad_()
    assert torch.autograd.gradcheck(lambda t: C.attention_loss(t, b), a)


def test_attention_loss_has_finite_gradients_at_empty_maps():
    a, b = torch.zeros(2, 3, 4, 4, requires_grad=True), rand(2, 3, 4, 4).requires_grad_()
    C.attention_loss(a, b).backward()
    assert torch.isfinite(a.grad).all() and torch.isfinite(b.grad).all()


def test_descending_the_attention_loss_brings_maps_together():
    a, b = rand(2, 3, 6, 6).requires_grad_(), rand(2, 3, 6, 6, seed=1)
    before = C.attention_loss(a, b)
    with torch.no_grad(): a -= 5*torch.autograd.grad(before, a)[0]
    assert C.attention_loss(a, b) < before


def test_class_variant_reads_known_positives_only():
    a, b = rand(3, 4, 5, 5), rand(3, 4, 5, 5, seed=1)
    y, known = torch.zeros(3, 4), torch.ones(3, 4, dtype=torch.bool)
    y[1, 2] = y[2, 0] = 1
    known[2, 0] = False
    single = C.attention_loss(a[1:2, 2:3], b[1:2, 2:3])
    assert torch.allclose(C.class_attention_loss(a, b, y, known), single)
    words = r'cams_a \(B, C, h, w\), cams_b \(B, C, h, w\), y \(B, C\)'
    with pytest.raises(ValueError, match=words): C.class_attention_loss(a, b, y[:, :3])
    with pytest.raises(ValueError, match=words): C.class_attention_loss(a, b[:, :, :4], y)


@pytest.mark.parametrize('lead', [None, 'b'])
def test_the_centred_loss_against_the_formula(lead):
    a = rand(4, 3, 5, 5).double().requires_grad_()
    b = rand(4, 3, 5, 5, seed=1).double().requires_grad_()
    def own(m):
        energy = F.normalize(m.square().sum(1).flatten(1), dim=1)
        return energy - energy.mean(0)
    expected = (2 - 2*F.cosine_similarity(own(a), own(b))).mean()
    assert torch.allclose(C.attention_loss(a, b, centred=True, lead=lead), expected)
    C.attention_loss(a, b, centred=True, lead=lead).backward()
    assert a.grad.abs().max() > 0 and (b.grad is None) == (lead == 'b')


def test_stopping_the_gradient_on_both_sides_is_no_reading_of_its_own():
    "Each side's gradient is that of the loss which stops neither."
    a, b = rand(4, 3, 5, 5).requires_grad_(), rand(4, 3, 5, 5, seed=1).requires_grad_()
    for centred in (False, True):
        whole = torch.autograd.grad(C.attention_loss(a, b, centred=centred), (a, b))
        sides = C.attention_loss(a, b.detach(), centred=centred) + C.attention_loss(a.detach(), b, centred=centred)
        for g, h in zip(whole, torch.autograd.grad(sides, (a, b))): assert torch.allclose(g, h, atol=1e-7)


def test_one_map_for_all_images_is_rewarded_as_it_is_and_not_when_centred():
    "Energy that all images share brings the loss on maps to 0; centred it stays where it was."
    a, b = rand(6, 1, 5, 5), rand(6, 1, 5, 5, seed=1)
    more = [(m.square() + 100).sqrt() for m in (a, b)]
    assert C.attention_loss(*more) < .01*C.attention_loss(a, b)
    assert C.attention_loss(*more, centred=True) > .8*C.attention_loss(a, b, centred=True) > .5
    one = rand(1, 1, 5, 5)
    assert C.attention_loss(one, rand(1, 1, 5, 5, seed=1), centred=True) == 0      # a single image has no other


def test_the_centred_class_loss_reads_present_labels_and_takes_off_their_mean():
    a, b = rand(5, 4, 6, 6), rand(5, 4, 6, 6, seed=1)
    y = (rand(5, 4, seed=2) < .5).float()
    def own(cams, c):
        energy = F.normalize(cams[:, c].square().flatten(1), dim=1)
        return energy - energy.mean(0)
    terms = [1 - F.cosine_similarity(own(a, c), own(b, c)) for c in range(4)]
    expected = 2*(torch.stack(terms, 1)*y).sum()/y.sum()
    assert torch.allclose(C.class_attention_loss(a, b, y, centred=True), expected, atol=1e-5)


def lengths(loss, at):
    gradients = torch.autograd.grad(loss, at, retain_graph=True)
    return torch.stack([g.square().sum() for g in gradients])


def test_the_bound_shortens_the_gradient_and_leaves_value_and_direction():
    a, b = rand(4, 3, 5, 5).requires_grad_(), rand(4, 3, 5, 5, seed=1).requires_grad_()
    loss, small = C.attention_loss(a, b), 1e-3*(a*b).mean()
    bounded = A.bound_gradient(loss, small, (a, b))
    assert torch.equal(bounded, loss)
    own, other = (lengths(t, (a, b)).sum().sqrt() for t in (bounded, small))
    assert torch.allclose(own, other, rtol=1e-4) and lengths(loss, (a, b)).sum().sqrt() > 10*other
    g, h = (torch.autograd.grad(t, a, retain_graph=True)[0].flatten() for t in (loss, bounded))
    assert F.cosine_similarity(g, h, dim=0) == pytest.approx(1, abs=1e-5)
    assert torch.equal(torch.autograd.grad(A.bound_gradient(small, loss, (a, b)), a, retain_graph=True)[0],
                       torch.autograd.grad(small, a, retain_graph=True)[0])               # a weaker one stays
    nothing = A.bound_gradient(loss, 0*(a*b).sum(), (a, b))
    assert (torch.autograd.grad(nothing, a)[0] == 0).all()
    with torch.no_grad(): assert A.bound_gradient(loss.detach(), small.detach(), (a, b)) == loss


def test_agreement_tells_one_map_for_all_from_maps_of_their_own():
    place = torch.eye(16).view(16, 4, 4)                     # every image at a cell of its own
    same, moved = A.measure_agreement(place, place), A.measure_agreement(place, place.roll(3, 0))
    assert same['agree'] == pytest.approx(1) and same['own'] == pytest.approx(1, abs=1e-5)
    assert same['differ'] == pytest.approx(1 - 1/16) and same['entropy'] == pytest.approx(0, abs=1e-6)
    assert moved['agree'] == pytest.approx(0) and moved['own'] == pytest.approx(-1/15, abs=1e-5)
    flat = A.measure_agreement(torch.ones(16, 4, 4), torch.ones(16, 4, 4))
    assert flat['agree'] == pytest.approx(1) and flat['differ'] == pytest.approx(0, abs=1e-6)
    assert flat['entropy'] == pytest.approx(1) and abs(flat['own']) < 1e-5


# ---- the method ----

def has_finite_gradients(method):
    grads = [p.grad for p in method.parameters() if p.grad is not None]
    return all(torch.isfinite(grad).all() for grad in grads)


@pytest.mark.parametrize('arguments', [
    {}, dict(fuse='gate'), dict(fuse='sum'), dict(fuse='concat'), dict(fuse='single'),
    dict(compare='class'), dict(compare='aux'), dict(weights={'aux': 1.}),
    dict(compare='maps'), dict(compare='led'), dict(compare='centred class'),
    dict(loss_settings=dict(scheme=None)), dict(loss_settings=dict(scheme='shares', between=.25))])
def test_one_image_is_enough_for_a_step(arguments):
    method = tiny(**arguments)
    step = method.train().step(batch(1))
    step.loss.backward()
    assert torch.isfinite(step.loss) and has_finite_gradients(method)


def test_all_readings_take_one_label_and_none_known():
    for compare in A.READINGS:
        method, b = tiny(1, compare=compare), batch(4, 1)
        step = method.step(b._replace(y=b.y*0, known=~b.known))
        assert torch.isfinite(step.loss) and step.terms['supervised'] == 0


def test_the_attention_loss_learns_from_images_without_labels():
    method, b = tiny(compare='maps'), batch()
    method.step(b._replace(y=b.y*0, known=~b.known)).loss.backward()
    assert method.transition[0].weight.grad.abs().sum() > 0
    assert method.head.weight.grad is None or (method.head.weight.grad == 0).all()


def test_the_bounded_loss_learns_from_images_without_labels_beside_others():
    "The bound is one for the batch: it lets through what the labels of other images pull."
    method, b = tiny(weak=False), batch()
    kept = {}
    for name in ('tap_a', 'tap_b'):
        method.get_submodule(name).register_forward_hook(lambda _, x, maps, name=name: kept.update({name: maps}))
    def pull(step, term):
        gradients = torch.autograd.grad(step.terms[term], tuple(kept.values()), retain_graph=True)
        return torch.stack([g.flatten(1) for g in gradients])
    b.known[1:] = False
    step = method.step(b)
    attention = pull(step, 'attention')
    assert attention[:, 1:].abs().sum() > 0 and attention.norm() <= 1.001*pull(step, 'supervised').norm()
    step = method.step(b._replace(known=torch.zeros_like(b.known)))           # no label at all: nothing to be bound by
    assert (pull(step, 'attention') == 0).all()


def test_prepare_keeps_rates_inside_and_balances_the_table():
    method, b = tiny(prepared=False), batch(20)
    b.y[:, 3] = 0
    method.prepare(b.y, b.known)
    assert method.prevalence[3] == 0 and method.rates[3] == pytest.approx(1/20)
    pos, neg = C.balance_weights(method.rates)
    present, absent = pos*b.y.sum(0), neg*(1-b.y).sum(0)
    assert torch.allclose(present[:3], absent[:3], rtol=1e-4)


def test_rates_follow_what_unknown_means():
    b = batch(20)
    known = b.y == 1                                     # only positives are annotated
    negative = tiny(prepared=False, unknown='negative')
    negative.prepare(b.y, known)
    assert torch.allclose(negative.rates, b.y.mean(0).clamp(.05, .95))
    with pytest.raises(ValueError, match="unknown='negative'"): tiny(prepared=False).prepare(b.y, known)


def test_probes_are_shares_and_a_zero_of_one_branch_is_a_zero_of_the_product():
    method = tiny().eval()
    a, b = method.branch_maps(rand(4, 1, 64, 64))
    b = b.clone()
    b[:, :, 0, 1] = 0
    probes = method.read_maps(a, b)[1]
    for name in ('attention', 'attention_a', 'attention_b'):
        assert torch.allclose(probes[name].sum((2, 3)), torch.ones(4, 4), atol=1e-5)
    supported = probes['attention'].amax((2, 3)) > .2501   # a label that no cell supports is even over the 2 x 2 cells
    assert (probes['attention'][:, :, 0, 1][supported] == 0).all()
    for name in ('energy_a', 'energy_b'):
        assert torch.allclose(probes[name].square().sum((1, 2)), torch.ones(4), atol=1e-5)


def test_the_product_map_is_the_logit_taken_apart():
    method = tiny().eval()
    a, b = method.branch_maps(rand(4, 1, 64, 64))
    logits, _ = method.read_maps(a, b)
    scale = method.norm.weight/(method.norm.running_var + method.norm.eps).sqrt()
    cam = torch.einsum('ck,bkhw->bchw', method.head.weight*scale, a*b)
    constant = logits - cam.mean((2, 3))
    assert torch.allclose(constant, constant[:1].expand_as(constant), atol=1e-5)


@pytest.mark.parametrize('arguments', [dict(compare='maps'), dict(compare='class'), dict(compare='aux', fuse='gate')])
def test_no_loss_depends_on_the_rest_of_the_batch(arguments):
    "Under DDP every rank averages its own share: the loss of a batch is the mean of its halves. Not if centred."
    b = batch(8)
    method = tiny(weak=False, **arguments).eval()    # running statistics: only BatchNorm is local to a rank
    def terms_of(rows): return method.step(Batch(*(t[rows] for t in b[:4]))).terms
    terms, halves = terms_of(slice(None)), (terms_of(slice(0, 4)), terms_of(slice(4, 8)))
    positives = torch.stack([b.y[:4].sum(), b.y[4:].sum()])
    for name, value in terms.items():
        per_positive = arguments.get('compare') == 'class' and name == 'attention'
        share = positives/positives.sum() if per_positive else torch.tensor([.5, .5])
        assert torch.allclose(value, sum(w*h[name] for w, h in zip(share, halves)), atol=1e-5)


def test_swapping_the_branches_leaves_loss_and_logits():
    method = tiny(weak=False).eval()
    other = copy.deepcopy(method)
    other.backbone, other.backbone_b = other.backbone_b, other.backbone
    other.transition, other.transition_b = other.transition_b, other.transition
    assert torch.equal(method(batch().x), other(batch().x))
    assert torch.allclose(method.step(batch()).loss, other.step(batch()).loss, atol=1e-6)


@pytest.mark.parametrize('bad, words', [
    (dict(compare='both'), "compare='both': there are .*'centred'"),
    (dict(loss_settings=dict(gamma=-2.)), 'gamma=-2'),
    (dict(loss_settings=dict(scheme='log')), "'inverse' or 'shares'"),
    (dict(loss_settings=dict(gama=1.)), "no setting.*gama.*there are.*'gamma'")])
def test_a_method_with_bad_settings_is_not_built(bad, words):
    with pytest.raises(ValueError, match=words): tiny(prepared=False, **bad)


def test_auxiliary_heads_exist_where_a_term_uses_them():
    assert tiny().aux is None and tiny(fuse='single').aux is None
    for arguments in (dict(compare='class'), dict(compare='aux'), dict(weights={'aux': .3})):
        assert len(tiny(**arguments).aux) == 2
    method = tiny(compare='class')
    step = method.step(batch())
    assert set(step.terms) == {'supervised', 'attention', 'aux'}
    step.loss.backward()
    assert all(head.weight.grad.abs().sum() > 0 for head in method.aux)
    assert torch.equal(method.eval()(batch().x), method.look(batch().x)[0])


def test_the_packaged_model_opens():
    from cxr_workbench.learner import load, find_model
    method = load(find_model('can'), method='can')
    assert method.backbone.how and method.backbone_b is not None and method(rand(1, 1, 64, 64)).shape == (1, 14)


@pytest.mark.parametrize('arguments', [{}, dict(compare='class'), dict(compare='aux'), dict(fuse='single')])
def test_a_label_that_never_occurs_and_a_batch_without_positives(arguments):
    "Both train on: two steps, and every weight and score is a number."
    b = batch(16)
    b.y[:, 3] = 0
    method = tiny(prepared=False, **arguments)
    method.prepare(b.y, b.known)
    optimizer = torch.optim.AdamW(method.train().parameters(), 1e-2)
    for hard in (b, b._replace(y=b.y*0)):
        step = method.step(hard)
        optimizer.zero_grad()
        step.loss.backward()
        optimizer.step()
        assert torch.isfinite(step.loss)
    if arguments.get('compare') == 'class': assert step.terms['attention'] == 0      # nothing present to compare
    assert all(torch.isfinite(p).all() for p in method.parameters())
    assert torch.isfinite(method.eval()(b.x)).all()


# ---- names of before ----

OLD = dict(
    branch_b='test_convnext', min_cells=8, width=24, fuse='gate', weak=True, flip=.3, shift=.02,
    epochs=7, lr=3e-4, weight_decay=.02, optimizer='SGD', schedule='constant', sampler='all', ema=.9,
    unknown='negative', weights={'balance': 2., 'attention': .3, 'aux': .1},
    scheme='shares', gamma=1.5, between=.25, attention='class')
MOVED = ('flip', 'shift', 'scheme', 'gamma', 'between', 'attention')
NEW = {key: value for key, value in OLD.items() if key not in MOVED} | dict(
    weak=dict(flip=.3, shift=.02), compare='class', loss_settings=dict(scheme='shares', gamma=1.5, between=.25),
    weights={'supervised': 2., 'attention': .3, 'aux': .1})


def seeded(**arguments):
    "A method from a seed, and its first step."
    seed_all(0)
    method = create_method('can', labels=4, backbone='test_resnet', **arguments)
    method.prepare(batch(16).y, batch(16).known)
    seed_all(1)
    return method, method.train().step(batch())


def same_method(mine, other):
    (a, step), (b, again) = mine, other
    same_weights = all(torch.equal(v, b.state_dict()[k]) for k, v in a.state_dict().items())
    return same_weights and a.recipe() == b.recipe() and a.weights == b.weights and step.terms == again.terms


def test_old_names_build_the_same_method_and_are_named():
    with pytest.warns(UserWarning, match='scheme.*loss_settings'): old = seeded(**OLD)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        new = seeded(**NEW)
    assert same_method(old, new) and old[0].config == new[0].config
    stage, = new[0].recipe()
    assert stage.groups == (('', 3e-4, .02),) and (stage.epochs, stage.sampler, stage.ema) == (7, 'all', .9)
    assert new[0].loss_settings == dict(scheme='shares', gamma=1.5, between=.25)
    assert (new[0].weak.flip, new[0].weak.shift) == (.3, .02)


def test_a_file_of_before_is_the_same_method():
    config = dict(method='can', labels=list('abcd'), size=64, pretrained=False, arguments=OLD)
    arguments = update_config(json.loads(json.dumps(config)))['arguments']
    assert arguments == NEW and same_method(seeded(**arguments), seeded(**NEW))


@pytest.mark.parametrize('vocabulary', [None, 2])
def test_a_file_of_before_compares_maps_as_they_are(vocabulary):
    config = dict(method='can', labels=list('abcd'), size=64, pretrained=False, arguments=dict(width=32))
    if vocabulary: config['vocabulary'] = vocabulary
    assert update_config(config)['arguments'] == dict(width=32, compare='maps')


def test_what_was_off_stays_off():
    with pytest.warns(UserWarning, match='flip'): method, _ = seeded(weak=False, flip=.3)
    assert isinstance(method.weak, torch.nn.Identity)


def test_the_defaults_are_those_of_the_paper():
    method, _ = seeded()
    stage, = method.recipe()
    assert stage.groups == (('', 1e-4, 0.),)
    assert (stage.epochs, stage.optimizer, stage.schedule) == (20, 'Adam', 'cosine')
    assert method.weights == {'supervised': 1., 'attention': .3, 'aux': 0.} and method.compare == 'centred'
    assert seeded(compare='maps')[0].weights['attention'] == .5


# ---- the weight of the attention loss ----

def test_trained_branches_are_pulled_less(tmp_path):
    "It stays so in a saved model, a weight that is given counts, and networks from nothing keep theirs."
    from cxr_workbench.saving import load, save
    for seed, name in enumerate('ab'):
        torch.manual_seed(seed)
        save(create_method('supervised', labels=3, size=64, backbone='test_resnet'), tmp_path/name)
    def make(**kw): return create_method('can', labels=3, size=64, preset='tiny', branch_b='test_resnet', **kw)
    files = [str(tmp_path/name) for name in 'ab']
    method = make(pretrained=files)
    assert method.weights['attention'] == .03 and make().weights['attention'] == .3
    assert load(save(method, tmp_path/'can')).weights['attention'] == .03
    assert make(pretrained=files, weights=dict(attention=.1)).weights['attention'] == .1
    assert make(pretrained=files, compare='maps').weights['attention'] == .5
