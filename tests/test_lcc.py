"The label-correlation method: what its page does not assert, against loops written here."
import json, math, os, subprocess, sys, textwrap, warnings
from pathlib import Path
import numpy as np, pytest, torch
from cxr_workbench.core import Batch, create_method, seed_all
from cxr_workbench.methods.lcc import GUIDES, LADDER, LCC, LabelAttention, LabelReader
from cxr_workbench.methods.lcc import attention_lift, batch_weighted_bce, correlation_consistency, correlation_guide
from cxr_workbench.methods.lcc import label_cosine, label_supcon, local_correlation, others_softmax
from cxr_workbench.renamed import update_config

NAMES = ['Edema', 'Fracture', 'Hernia', 'Mass', 'Nodule']


def draw(B=6, C=5, d=7, seed=0, share=.5, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    u = torch.randn(B, C, d, generator=g, dtype=dtype)
    y = (torch.rand(B, C, generator=g) < share).to(dtype)
    corr = torch.rand(C, C, generator=g, dtype=dtype)
    return u, y, (corr + corr.T)/2, torch.rand(B, C, generator=g) < .7


def small(**kw):
    seed_all(0)
    return create_method('lcc', labels=kw.pop('labels', NAMES), size=32, preset='tiny', min_cells=8, **kw)


def batch(n=12, C=5, seed=0):
    g = torch.Generator().manual_seed(seed)
    y = (torch.rand(n, C, generator=g) < .4).float()
    x = torch.rand(n, 1, 32, 32, generator=g)
    return Batch(x, y, torch.ones_like(y, dtype=torch.bool), torch.arange(n))


def has_finite_gradients(method):
    grads = [p.grad for p in method.parameters() if p.grad is not None]
    return all(torch.isfinite(grad).all() for grad in grads)


# ---- the contrast ----

def list_units(u, entries):
    where = entries.nonzero().tolist()
    return [(n, i, u[n, i]/u[n, i].norm()) for n, i in where]


def supcon_by_loops(u, y, corr, tau, known, above=None, negatives='absent'):
    "The formula of the page, unit by unit, in Python numbers."
    units, absent = list_units(u, y.bool() & known), list_units(u, ~y.bool() & known)
    losses = []
    for n, i, a in units:
        positives, below = [], 0.
        if negatives == 'absent': below = sum(math.exp(float(a @ b)/tau) for _, j, b in absent if j == i)
        for m, j, b in units:
            if (m, j) == (n, i): continue
            e, related = math.exp(float(a @ b)/tau), float(corr[i, j])
            attracted = above is not None and related > above
            if m != n and (i == j or attracted):
                positives.append((1. if i == j else related, e))
                below += e
            elif i != j: below += (1 - related)*e
        if not positives: continue
        weighted = sum(weight*math.log(e/below) for weight, e in positives)
        losses.append(-weighted/sum(weight for weight, _ in positives))
    return sum(losses)/len(losses) if losses else 0.


@pytest.mark.parametrize('seed', range(4))
@pytest.mark.parametrize('above', [None, .6])
@pytest.mark.parametrize('negatives', ['absent', 'present'])
def test_contrast_equals_the_double_loop(seed, above, negatives):
    u, y, corr, known = draw(seed=seed)
    for tau in (.1, .5):
        expected = supcon_by_loops(u, y, corr, tau, known, above, negatives)
        assert float(label_supcon(u, y, corr, tau, known, above, negatives)) == pytest.approx(expected, rel=1e-9)


def test_without_guidance_it_is_supervised_contrast_with_a_class_per_label():
    "Khosla et al. (2020), equation 2, on the present entries; no label twice in an image, so the image drops out."
    u, y, _, _ = draw(B=9, C=4, share=0)
    y[torch.arange(9), torch.arange(9)%4] = 1
    z = torch.nn.functional.normalize(u[y > 0], dim=-1)
    label = (y > 0).nonzero()[:, 1]
    scores = (z @ z.T/.1).fill_diagonal_(-torch.inf)
    logp = scores.log_softmax(1)
    same = (label[:, None] == label) & ~torch.eye(9, dtype=torch.bool)
    expected = torch.stack([-logp[i][same[i]].mean() for i in range(9)]).mean()
    assert torch.allclose(label_supcon(u, y, torch.zeros(4, 4), negatives='present'), expected)


def make_constant(B=40, C=6, seed=0):
    "Units that depend on the label alone, as far apart as C points can be, and labels of which a third is present."
    corners = torch.eye(C, dtype=torch.float64) - 1/C
    u = torch.nn.functional.pad(torch.nn.functional.normalize(corners, dim=-1), (0, 1))   # one direction is free
    y = (torch.rand(B, C, generator=torch.Generator().manual_seed(seed)) < .3).double()
    return u.expand(B, C, C + 1).clone(), y


def least_possible(y):
    "The mean of log |P| over the anchors: positives are equal and nothing else is near."
    count = y.sum(0)
    return float((count*(count - 1).log()).sum()/count.sum())


def test_a_constant_per_label_solves_the_contrast_among_present_labels_and_not_the_one_with_absent_ones():
    u, y = make_constant()
    free, least = torch.zeros(6, 6), least_possible(y)
    old, new = (float(label_supcon(u, y, free, negatives=how)) for how in ('present', 'absent'))
    assert least < old < least + .01
    count = y.sum(0)                           # all images of a label are alike: log of all of them but the anchor
    expected = float((count*math.log(len(y) - 1)).sum()/count.sum())
    assert expected - .01 < new < expected + .01 and new > least + 1
    exact = torch.where(y[..., None] > 0, u, -u)
    assert float(label_supcon(exact, y, free)) < least + .01    # what the image shows brings it down to the minimum


def slope_of_presence(negatives, by):
    "Derivative of the loss as present units move one way and absent ones the other, away from their label's constant."
    u, y = make_constant()
    by = torch.tensor(by, dtype=torch.float64, requires_grad=True)
    free_direction = torch.nn.functional.one_hot(torch.tensor(6), 7)
    loss = label_supcon(u + by*(2*y - 1)[..., None]*free_direction, y, torch.zeros(6, 6), negatives=negatives)
    return float(torch.autograd.grad(loss, by)[0])


@pytest.mark.parametrize('by', [.05, .3])
def test_telling_present_from_absent_lowers_the_contrast_with_absent_ones_alone(by):
    "A constant is a point without slope for both; beside it only one of them asks for a difference."
    assert abs(slope_of_presence('absent', 0.)) < 1e-9
    assert slope_of_presence('absent', by) < -.5*by
    assert slope_of_presence('present', by) > -1e-9


def test_absent_units_get_a_gradient_where_they_are_known_and_only_then():
    u, y, corr, known = draw(B=8)
    u.requires_grad_()
    absent = (y == 0) & (((y > 0) & known).sum(0) > 1)     # of labels that have an anchor with a positive
    for negatives, reached in (('present', absent & False), ('absent', absent & known)):
        grad, = torch.autograd.grad(label_supcon(u, y, corr, known=known, negatives=negatives), u)
        assert torch.equal((grad.abs().sum(-1) > 0) & (y == 0), reached)


def test_where_no_absence_is_known_both_contrasts_are_one():
    u, y, corr, _ = draw()
    both = [label_supcon(u, y, corr, known=y > 0, negatives=how) for how in ('absent', 'present')]
    assert torch.allclose(*both) and both[0] > 0


def test_contrast_where_there_is_nothing_to_contrast():
    u, y, corr, known = draw()
    u.requires_grad_()
    nothing = [(y*0, known), (y, known & False), (torch.eye(6, 5), None)]
    for labels, mask in [*nothing, (y[:1], known[:1])]:
        loss = label_supcon(u[:len(labels)], labels, corr, known=mask)
        assert loss == 0
        assert not torch.autograd.grad(loss, u, allow_unused=True)[0].any()


def test_contrast_with_full_guidance_and_one_positive_is_finite():
    u, y, _, _ = draw(B=2, C=3, share=0)
    y[:, 0] = y[0, 1:] = 1
    u.requires_grad_()
    loss = label_supcon(u, y, torch.ones(3, 3))
    assert abs(float(loss.detach())) < 1e-12 and torch.isfinite(torch.autograd.grad(loss, u)[0]).all()


@pytest.mark.parametrize('size', [1e-12, 1e6])
def test_contrast_at_extreme_sizes_is_finite(size):
    u, y, corr, known = draw(dtype=torch.float32)
    u = (u*size).requires_grad_()
    loss = label_supcon(u, y, corr, tau=.01)
    assert torch.isfinite(loss) and torch.isfinite(torch.autograd.grad(loss, u)[0]).all()


def test_contrast_counts_known_entries_only():
    u, y, corr, known = draw()
    lied = torch.where(known, y, 1 - y)
    assert torch.equal(label_supcon(u, y, corr, known=known), label_supcon(u, lied, corr, known=known))


def test_contrast_refuses_what_does_not_fit():
    u, y, corr, _ = draw()
    words = r'u \(B, C, d\), y \(B, C\), corr \(C, C\)'
    fewer = [(u, y[:, :3], corr), (u, y, corr[:3])]
    for wrong in [*fewer, (u[:3], y, corr)]:
        with pytest.raises(ValueError, match=words): label_supcon(*wrong)
    with pytest.raises(ValueError, match="negatives='all': give one of"): label_supcon(u, y, corr, negatives='all')


def test_the_guide_gets_no_gradient_and_moves_the_loss():
    u, y, corr, _ = draw()
    corr.requires_grad_()
    u.requires_grad_()
    label_supcon(u, y, corr).backward()
    assert corr.grad is None and u.grad.any()


def test_contrast_has_no_loop_over_pairs():
    "The number of tensor operations does not depend on batch or labels."
    from torch.utils._python_dispatch import TorchDispatchMode
    class Count(TorchDispatchMode):
        n = 0
        def __torch_dispatch__(self, f, types, args=(), kw=None):
            self.n += 1
            return f(*args, **(kw or {}))
    counts = []
    for B, C in ((6, 3), (64, 14)):
        u, y, corr, known = draw(B, C)
        with Count() as count: label_supcon(u, y, corr, known=known)
        counts.append(count.n)
    assert counts[0] == counts[1]


# ---- the guide ----

every_guide = pytest.mark.parametrize('kind', GUIDES)


def make_attention(C=6, strength=3., seed=1, dtype=torch.float64):
    "Attention without diagonal from random scores; `strength` is their spread."
    scores = torch.randn(C, C, generator=torch.Generator().manual_seed(seed), dtype=dtype)
    return others_softmax(strength*scores)


@every_guide
@pytest.mark.parametrize('C', [3, 5, 14, 30, 100])
def test_uniform_attention_guides_nothing_at_any_number_of_labels(C, kind):
    for dtype in (torch.float32, torch.float64):
        assert not correlation_guide(others_softmax(torch.zeros(C, C, dtype=dtype)), kind).any()


@every_guide
@pytest.mark.parametrize('strength', [.1, 1., 3., 30.])
def test_a_guide_is_bounded_and_symmetric_and_follows_the_labels(kind, strength):
    G, order = make_attention(9, strength), torch.randperm(9, generator=torch.Generator().manual_seed(0))
    guide = correlation_guide(G.requires_grad_(), kind)
    assert guide.min() >= 0 and guide.max() <= 1 and guide.any()
    assert torch.equal(guide, guide.T) and not guide.diagonal().any() and not guide.requires_grad
    assert torch.allclose(correlation_guide(G[order][:, order], kind), guide[order][:, order])


def test_linear_guide_is_its_formula():
    G = make_attention()
    guide = correlation_guide(G, 'linear')
    for i in range(6):
        for j in range(6):
            mean = (float(G[i, j]) + float(G[j, i]))/2
            assert float(guide[i, j]) == pytest.approx(min(1, max(0, (5*mean - 1)/4)), abs=1e-6)


def test_lift_and_its_guide_are_their_formulas():
    G = make_attention()
    guide, lift = correlation_guide(G, 'lift'), attention_lift(G)
    def one_way(i, j):
        received = [float(G[k, j]) for k in range(6) if k != j]
        return float(G[i, j])/(sum(received)/5)
    for i in range(6):
        for j in range(6):
            both = (one_way(i, j) + one_way(j, i))/2
            assert float(lift[i, j]) == pytest.approx(both)
            if i != j: assert 1 - float(guide[i, j]) == pytest.approx(min(1, 1/both), abs=1e-6)


def test_a_label_that_all_attend_to_is_hardly_related_to_all_by_that():
    "Two labels get most attention of every label. Against uniform attention they look related."
    popular = torch.zeros(14, dtype=torch.float64)
    popular[:2] = 2
    G = others_softmax(popular.expand(14, 14))
    guide, against_uniform = correlation_guide(G), 1 - 1/(13*(G + G.T)/2).clamp(min=1)
    for pair in ((0, 1), (0, 5)): assert against_uniform[pair] > .5 and guide[pair] < .3*against_uniform[pair]


def test_a_label_that_nobody_attends_to_is_guided_by_what_it_attends_to():
    G = torch.eye(4)[[1, 0, 0, 1]]        # 0 and 1 attend to each other, 2 to 0 and 3 to 1
    guide = correlation_guide(G)
    assert torch.isfinite(guide).all() and guide[0, 1] > 0 and guide[2, 3] == 0


def test_the_guide_of_another_kind_is_refused():
    with pytest.raises(ValueError, match="guide 'rank': give one of"): correlation_guide(torch.rand(3, 3), 'rank')


def change_of_gradient(guide, u, y, negatives):
    "Norm of what the guide changes in the gradient of the contrast, over the norm of the gradient without it."
    def grad(corr):
        leaf = u.clone().requires_grad_()
        return torch.autograd.grad(label_supcon(leaf, y, corr, negatives=negatives), leaf)[0]
    plain = grad(0*guide)
    return float((grad(guide) - plain).norm()/plain.norm())


@pytest.fixture(scope='module')
def trained():
    "The packaged model: the global correlation that it learned, label features of phantoms, and their labels."
    from cxr_workbench.data import from_phantom
    from cxr_workbench.learner import find_model, load
    from cxr_workbench.phantom import SyntheticCXR
    b = from_phantom(SyntheticCXR(64, size=64, seed=2026)).batch(range(64))
    with torch.no_grad(): probes = load(find_model('lcc')).look(b.x)[1]
    return probes['others_correlation'], probes['label_features'], b.y


@pytest.mark.parametrize('negatives, share', [('absent', .03), ('present', .08)])
def test_the_guide_by_lift_changes_the_gradient_by_a_measurable_share(trained, negatives, share):
    "At attention that training has left close to uniform the linear guide is almost nothing."
    G, v, y = trained
    linear, lift = correlation_guide(G, 'linear'), correlation_guide(G, 'lift')
    assert linear.max() < .2 and linear.mean() < .02 < .08 < lift.mean()
    old, new = (change_of_gradient(guide, v, y, negatives) for guide in (linear, lift))
    assert new > share and new > 5*old


@pytest.mark.parametrize('C', [1, 2])
def test_two_labels_or_one_guide_nothing(C):
    for kind in GUIDES: assert not correlation_guide(torch.rand(C, C), kind).any()


@every_guide
def test_at_the_start_the_method_is_contrasted_almost_without_guidance(kind):
    method, b = small(labels=14), batch(C=14)
    with torch.no_grad(): probes = method.look(b.x)[1]
    guide = correlation_guide(probes['others_correlation'], kind)
    assert guide.max() < .5 and guide.mean() < .05
    guided, free = (float(label_supcon(probes['label_features'], b.y, g)) for g in (guide, 0*guide))
    assert guided == pytest.approx(free, rel=.02)


# ---- the two correlations ----

def test_global_rows_add_to_one_head_by_head_and_no_image_enters():
    attention = LabelAttention(7, dim=24, heads=3)
    scores = attention.scores()
    for rows in (scores.softmax(-1), others_softmax(scores)):
        assert torch.allclose(rows.sum(-1), torch.ones(3, 7))
    method = small().eval()
    with torch.no_grad(): a, b = (method.look(batch(seed=s).x)[1] for s in (1, 2))
    for name in ('correlation', 'others_correlation'): assert torch.equal(a[name], b[name])
    local = [local_correlation(probes['label_features']) for probes in (a, b)]
    assert not torch.allclose(*local)


@pytest.mark.parametrize('kind', ['squared', 'kl'])
def test_consistency_is_zero_at_equality_and_only_there(kind):
    local = local_correlation(draw(B=1)[0])
    assert float(correlation_consistency(local[0], local, kind)) == pytest.approx(0, abs=1e-12)
    assert correlation_consistency(others_softmax(torch.zeros(5, 5, dtype=local.dtype)), local, kind) > 1e-5


def test_consistency_kinds_against_loops():
    G, L = others_softmax(draw()[2]), local_correlation(draw()[0])
    B, C = L.shape[:2]
    squared = kl = dice = 0.
    for n in range(B):
        common = float((G*L[n]).sum())
        sums = float(G.sum()) + float(L[n].sum())
        dice += 1/B - 2*common/(sums + 1)/B
        for i in range(C):
            for j in range(C):
                g, local = float(G[i, j]), float(L[n, i, j])
                squared += (g - local)**2/(B*C*C)
                if i != j: kl += g*math.log(g/local)/(B*C)
    for kind, expected in dict(squared=squared, kl=kl, dice=dice).items():
        assert float(correlation_consistency(G, L, kind)) == pytest.approx(expected, rel=1e-9)
    with pytest.raises(ValueError, match="'squared', 'kl' or 'dice'"): correlation_consistency(G, L, 'cosine')
    with pytest.raises(ValueError, match=r'\(B, C, C\)'): correlation_consistency(G, L[0])


def test_kl_is_finite_where_a_row_is_certain():
    G = torch.tensor([[0., 1., 0.], [1., 0., 0.], [0., 1., 0.]], requires_grad=True)
    L = torch.tensor([[[0., 0., 1.], [1., 0., 0.], [.5, .5, 0.]]], requires_grad=True)
    loss = correlation_consistency(G, L, 'kl')
    assert torch.isfinite(loss) and all(torch.isfinite(g).all() for g in torch.autograd.grad(loss, (G, L)))


@pytest.mark.parametrize('kind', ['squared', 'kl'])
def test_consistency_does_not_drive_the_correlation_to_the_identity(kind):
    "Descended alone on fixed label features, the table goes to the mean of the local ones, its diagonal does not grow."
    torch.manual_seed(0)
    noise, shared = torch.randn(32, 6, 16), torch.randn(1, 6, 16)
    shared = shared[:, [0, 0, 1, 1, 2, 3]]
    attention, L = LabelAttention(6, dim=16, heads=2), local_correlation(noise + 2*shared)
    optimizer = torch.optim.Adam(attention.parameters(), 1e-2)
    for _ in range(150):
        optimizer.zero_grad()
        correlation_consistency(attention()[2], L, kind).backward()
        optimizer.step()
    _, G, others = attention()
    best = float(correlation_consistency(L.mean(0), L, kind))
    assert float(correlation_consistency(others, L, kind).detach()) < 1.15*best
    assert others[0].argmax() == 1 and others[3].argmax() == 2
    assert G.diagonal().mean() < .5


def test_local_correlation_of_degenerate_images():
    assert torch.isfinite(local_correlation(torch.zeros(2, 4, 3))).all()
    assert not local_correlation(torch.randn(2, 1, 3)).any()
    swap = torch.eye(2).flip(0)
    assert torch.allclose(local_correlation(torch.randn(2, 2, 3)), swap.expand(2, 2, 2))
    K = label_cosine(torch.randn(3, 4, 5), absolute=True)
    assert K.min() >= 0 and K.max() <= 1


def test_constant_map_gives_every_label_the_same_feature():
    reader = LabelReader(5, 8, dim=16, attention=dict(heads=2, head_dim=8))
    v = reader(torch.randn(2, 8, 1, 1).expand(2, 8, 4, 4))[1]['label_features']
    assert torch.allclose(label_cosine(v), torch.ones(2, 5, 5), atol=1e-5)
    assert torch.allclose(local_correlation(v), others_softmax(torch.zeros(2, 5, 5)), atol=1e-5)


# ---- the whole method ----

PER_LABEL = ('reader.relate.embedding', 'reader.head.weight', 'reader.head.bias', 'prevalence', 'counts')


def permuted(method, order, **kw):
    "The same method with its labels in another order."
    other = small(**kw)
    state = {k: v.clone() for k, v in method.state_dict().items()}
    for k in PER_LABEL: state[k] = state[k][order]
    other.load_state_dict(state)
    return other


@pytest.mark.parametrize('kind', ['squared', 'kl', 'dice'])
def test_permuting_labels_permutes_everything_and_changes_no_loss(kind):
    arguments = dict(consistency=dict(kind=kind), weak=False)
    method, b, order = small(**arguments), batch(), torch.tensor([3, 0, 4, 1, 2])
    method.prepare(b.y, b.known)
    other = permuted(method, order, **arguments)
    mine = method.eval().step(b)
    theirs = other.eval().step(b._replace(y=b.y[:, order], known=b.known[:, order]))
    assert torch.allclose(mine.logits[:, order], theirs.logits, atol=1e-5)
    for name in mine.terms: assert torch.allclose(mine.terms[name], theirs.terms[name], atol=1e-5), name
    table = mine.probes['correlation'][order][:, order]
    assert torch.allclose(table, theirs.probes['correlation'], atol=1e-6)
    assert torch.allclose(mine.probes['attention'][:, order], theirs.probes['attention'], atol=1e-6)


@pytest.mark.parametrize('labels', [1, 2])
@pytest.mark.parametrize('kind', ['squared', 'kl', 'dice'])
def test_few_labels(labels, kind):
    b = batch(C=labels)
    method = small(labels=labels, consistency=dict(kind=kind))
    method.prepare(b.y, b.known)
    step = method.train().step(b)
    step.loss.backward()
    assert torch.isfinite(step.loss) and has_finite_gradients(method)


@pytest.mark.parametrize('variant', LADDER)
def test_hard_batches_leave_every_rung_finite(variant):
    method = small(**LADDER[variant])
    b = batch()
    method.prepare(b.y, b.known)
    one, none = Batch(*(t[:1] for t in b[:4])), b._replace(y=b.y*0)
    for hard in (none, b._replace(known=b.known & False), b._replace(y=b.y*0 + 1), one):
        method.zero_grad()
        step = (method.eval() if len(hard.x) == 1 else method.train()).step(hard)
        step.loss.backward()
        assert torch.isfinite(step.loss) and has_finite_gradients(method)


@pytest.mark.parametrize('loss', ['batch', 'class', 'plain'])
@pytest.mark.parametrize('unguided', [False, True])
def test_a_label_that_never_occurs(loss, unguided):
    "Its prevalence is 0, it has no unit in the contrast, and two steps leave every weight a number."
    method, b = small(loss=loss, guided=not unguided), batch()
    b.y[:, 2] = 0
    method.prepare(b.y, b.known)
    assert method.prevalence[2] == 0
    optimizer = torch.optim.AdamW(method.train().parameters(), 1e-2)
    for _ in range(2):
        step = method.step(b)
        optimizer.zero_grad()
        step.loss.backward()
        optimizer.step()
    assert torch.isfinite(step.loss) and torch.isfinite(method.eval()(b.x)).all()
    assert all(torch.isfinite(p).all() for p in method.parameters())


def count_kept(B, C, share, negatives):
    "MB that the backward pass keeps, MB of one matrix of present units, and MB of the same-label scores."
    u, y, corr, _ = draw(B, C, 32, share=share, dtype=torch.float32)
    held = {}
    def keep(t):
        storage = t.untyped_storage()
        held[storage.data_ptr()] = storage
        return t
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        label_supcon(u.requires_grad_(), y, corr, negatives=negatives)
    present = int(y.sum())
    return sum(s.nbytes() for s in held.values())/1e6, 4*present**2/1e6, 4*present*B/1e6


@pytest.mark.parametrize('negatives', ['absent', 'present'])
def test_memory_of_the_contrast_is_a_few_matrices_of_present_units(negatives):
    "What the backward pass keeps: matrices of present units, and of present units against the images; never of all."
    for B, C, share in ((64, 14, .5), (128, 14, .5), (64, 28, .5)):
        held, matrix, images = count_kept(B, C, share, negatives)
        assert held < 10*(matrix + (negatives == 'absent')*images), (B, C)
    sizes = [(64, .5), (128, .5), (64, .1)]
    one, double, few = (count_kept(n, 14, share, negatives)[0] for n, share in sizes)
    assert 3 < double/one < 5 and few < .2*one


def test_extreme_logits_are_finite():
    s = torch.tensor([[50., -50.], [1e4, -1e4]], requires_grad=True)
    for y in ([0., 1.], [1., 0.]):
        loss = batch_weighted_bce(s, torch.tensor([y, y]))
        assert torch.isfinite(loss) and torch.isfinite(torch.autograd.grad(loss, s)[0]).all()


def test_batch_weights_against_the_loop():
    s, y = torch.randn(6, 4), (torch.rand(6, 4) < .3).float()
    known, losses = torch.rand(6, 4) < .8, []
    n, total = int(known.sum()) + 1, float((y*known).sum())
    for i, c in known.nonzero().tolist():
        weight, sign = (n/(total + 1) + 1, -1) if y[i, c] else (n/(n - total) + 1, 1)
        losses.append(weight*math.log1p(math.exp(sign*float(s[i, c]))))
    assert float(batch_weighted_bce(s, y, known)) == pytest.approx(sum(losses)/len(losses), rel=1e-5)
    assert float(batch_weighted_bce(s, y, known & False)) == 0


def test_parts_that_are_not_there_are_refused():
    pooled = dict(decompose=False, weights=dict(contrast=.1))
    bare = dict(attention=False, weights=dict(consistency=1.))
    for kw in (pooled, bare):
        with pytest.raises(ValueError, match='ask for what these parts lack'): small(**kw)
    with pytest.raises(ValueError, match='give one of'): small(loss='focal')
    with pytest.raises(ValueError, match="'squared', 'kl' or 'dice'"): small(consistency=dict(kind='cosine'))
    for strange in (dict(negatives='all'), dict(guide='rank')):
        with pytest.raises(ValueError, match="'(all|rank)': give one of"): small(contrast=strange)


@pytest.mark.parametrize('part', ['attention', 'consistency', 'contrast'])
def test_a_setting_that_no_part_has_is_named(part):
    with pytest.raises(ValueError, match=f"{part} has no setting.*'depth'.*there are"): small(**{part: dict(depth=2)})


@pytest.mark.parametrize('preset, projection', [(None, (256, 128)), ('tiny', (64, 32))])
def test_settings_that_are_not_given_are_those_of_the_preset_or_the_papers(preset, projection):
    given = dict(contrast=dict(tau=.5), consistency=dict(absolute=True))
    method = create_method('lcc', labels=NAMES, size=32, backbone='test_resnet', preset=preset, **given)
    assert method.contrast == dict(
        tau=.5, negatives='absent', guide='lift', projection=projection, positive_above=None)
    assert method.consistency == dict(kind='squared', tau=.2, absolute=True)


def test_the_readings_of_before_are_rungs_and_change_the_contrast_alone():
    b, arguments = batch(), dict(weak=False)
    steps = {name: small(**arguments, **LADDER[name]).eval().step(b) for name in (
        '+ guide', 'old guide', 'contrast among present labels')}
    new, guide, present = steps.values()
    assert all(torch.equal(new.logits, step.logits) for step in (guide, present))
    for step in (guide, present):
        assert step.terms['contrast'] != new.terms['contrast']
        assert all(torch.equal(step.terms[name], new.terms[name]) for name in ('supervised', 'consistency'))
    assert new.weights == guide.weights == dict(supervised=1., consistency=1., contrast=.05)
    assert present.weights['contrast'] == .1


def test_a_model_of_another_contrast_scores_the_same():
    method, x = small(), batch().x
    for name in ('old guide', 'contrast among present labels'):
        other = small(**LADDER[name])
        other.load_state_dict(method.state_dict())
        assert torch.equal(method.eval()(x), other.eval()(x))


def test_inference_needs_no_projection():
    method, without = small(), small(weights=dict(contrast=0.))
    missing = without.load_state_dict(method.state_dict(), strict=False)
    assert not missing.missing_keys and all(k.startswith('project.') for k in missing.unexpected_keys)
    x = batch().x
    assert torch.equal(method.eval()(x), without.eval()(x))


def test_ladder_names_every_part():
    assert list(LADDER)[0] == 'base' and small().ablations() == LADDER
    assert isinstance(small(), LCC) and small().recipe()[0].groups[0][0] == 'backbone'
    stage, = create_method('lcc', labels=3, size=64, backbone='test_resnet').recipe()
    assert np.isclose(stage.groups[0][1], 1e-5) and stage.groups[1] == ('', 1e-4, 1e-5)


TWO = """
    import sys; sys.path.insert(0, {tests!r})
    import torch, torch.distributed as dist, test_lcc as t
    rank = int(sys.argv[1])
    dist.init_process_group('gloo', init_method='file://{out}/meet', rank=rank, world_size=2)
    method, mine = t.small(weak=False).eval(), t.batch(8, seed=rank)      # other images on the other rank
    alone = method.step(mine).loss
    plain = torch.autograd.grad(alone, list(method.parameters()))
    class Stepper(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.method = method
        def forward(self, b): return self.method.step(b).loss
    both = torch.nn.parallel.DistributedDataParallel(Stepper(), find_unused_parameters=True)
    loss = both(mine)
    loss.backward()
    found = dict(alone=float(alone), loss=float(loss), plain=plain, grads=[p.grad for p in method.parameters()])
    torch.save(found, '{out}/rank%d.pt' % rank)
    dist.destroy_process_group()
"""


def test_two_processes_each_contrast_their_own_units(tmp_path):
    "Nothing is gathered: the loss of a rank is that of its rows alone, and only gradients are averaged."
    script = tmp_path/'two.py'
    script.write_text(textwrap.dedent(TWO).format(tests=str(Path(__file__).parent), out=tmp_path))
    how = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, 'OMP_NUM_THREADS': '1'})
    both = [subprocess.Popen([sys.executable, str(script), str(rank)], **how) for rank in (0, 1)]
    output = [p.communicate(timeout=300)[0] for p in both]
    assert not any(p.returncode for p in both), '\n'.join(output)
    a, b = (torch.load(tmp_path/f'rank{r}.pt', weights_only=True) for r in (0, 1))
    for found in (a, b): assert found['loss'] == pytest.approx(found['alone'], abs=1e-6)
    assert a['loss'] != b['loss']
    for mine, other, mean in zip(a['plain'], b['plain'], a['grads']):
        assert torch.allclose((mine + other)/2, mean, rtol=1e-3, atol=1e-5)
    assert all(torch.equal(x, y) for x, y in zip(a['grads'], b['grads']))


# ---- names of before ----

COMMON = dict(
    min_cells=8, dim=48, decompose=True, propagate=True, guided=True, loss='plain', weak=True,
    epochs=7, lr=3e-4, weight_decay=.02, optimizer='SGD', schedule='constant', ema=.9, unknown='negative')
OLD = COMMON | dict(
    heads=3, head_dim=8, expansion=2, global_attention=True, kind='kl', tau_local=.3, absolute=True,
    tau=.2, projection=(32, 16), positive_above=.01, flip=.3, shift=.02,
    weights=dict(cls=2., con=.3, sc=.2))
NEW = COMMON | dict(
    attention=dict(heads=3, head_dim=8, expansion=2),
    consistency=dict(kind='kl', tau=.3, absolute=True),
    contrast=dict(tau=.2, projection=(32, 16), positive_above=.01),
    weak=dict(flip=.3, shift=.02), weights=dict(supervised=2., consistency=.3, contrast=.2))


def seeded(**arguments):
    "A method from a seed, and its first step."
    seed_all(0)
    method, b = create_method('lcc', labels=NAMES, size=32, backbone='test_resnet', **arguments), batch()
    method.prepare(b.y, b.known)
    seed_all(1)
    return method, method.train().step(b)


def same_method(mine, other):
    (a, step), (b, again) = mine, other
    same_weights = all(torch.equal(v, b.state_dict()[k]) for k, v in a.state_dict().items())
    return same_weights and a.recipe() == b.recipe() and a.weights == b.weights and step.terms == again.terms


def from_file(**arguments):
    "The arguments of a file of before as they are meant today."
    config = dict(method='lcc', labels=NAMES, size=32, pretrained=False, arguments=arguments)
    return update_config(json.loads(json.dumps(config)))['arguments']


def test_old_names_build_the_same_method_and_are_named():
    with pytest.warns(UserWarning, match='heads.*tau_local.*attention'): old = seeded(**OLD)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        new = seeded(**NEW)
    assert same_method(old, new) and old[0].config == new[0].config
    relate = new[0].reader.relate
    assert (relate.heads, relate.head_dim, relate.ffn[0].out_features) == (3, 8, 96)
    assert (new[0].project[0].out_features, new[0].project[2].out_features) == (32, 16)
    assert (new[0].weak.flip, new[0].weak.shift) == (.3, .02)


def test_a_part_that_was_off_stays_off():
    for arguments in (dict(heads=3, global_attention=False), dict(global_attention=False, heads=3)):
        with pytest.warns(UserWarning, match='global_attention'): method, _ = seeded(min_cells=8, **arguments)
        assert method.reader.relate is None and method.weights['consistency'] == 0


@pytest.mark.parametrize('given, rates', [
    (dict(lr=3e-4, backbone_lr=.2), (6e-5, 3e-4)), (dict(lr=1e-3), (1e-4, 1e-3)),
    (dict(backbone_lr=.5), (5e-5, 1e-4)), (dict(), (1e-5, 1e-4))])
def test_a_share_in_a_file_of_before_becomes_a_learning_rate(given, rates):
    stage, = seeded(min_cells=8, **from_file(**given))[0].recipe()
    assert [group[1] for group in stage.groups] == pytest.approx(rates)


def test_a_file_of_before_is_the_same_method():
    arguments = from_file(**OLD, backbone_lr=.2)
    assert same_method(seeded(**arguments), seeded(**NEW, backbone_lr=.2*3e-4))
    no_view = seeded(min_cells=8, **from_file(flip=.3, shift=.1))[0]      # there was none unless it was asked for
    assert isinstance(no_view.weak, torch.nn.Identity)


def test_the_packaged_model_is_the_preset_of_today():
    from cxr_workbench.learner import find_model
    saved = json.loads((find_model('lcc')/'model.json').read_text())['config']
    model = create_method('lcc', labels=saved['labels'], **update_config(saved)['arguments'])
    preset = create_method('lcc', labels=saved['labels'], preset='maps')
    assert model.recipe() == preset.recipe() and model.weights == preset.weights
    sizes = [{k: v.shape for k, v in m.state_dict().items()} for m in (model, preset)]
    assert sizes[0] == sizes[1]


def test_a_share_that_is_typed_as_a_learning_rate_is_noticed():
    with pytest.warns(UserWarning, match='backbone_lr=0.1 is above lr=0.0001'): seeded(min_cells=8, backbone_lr=.1)
