"""MPC: the deformation, the base losses, the three levels, and what happens when a batch is not as hoped."""
import os, subprocess, sys, textwrap
from pathlib import Path
import numpy as np, pytest, torch
from hypothesis import given, settings, strategies as st
from torch.nn import functional as F
from cxr_workbench import labels as L
from cxr_workbench.consistency import StrongView, agreement_loss, consistency_loss, consistency_targets, ramp_up
from cxr_workbench.core import Batch, RowTable, create_method, seed_all
from cxr_workbench.data import from_arrays
from cxr_workbench.losses import masked_bce
from cxr_workbench.methods import mpc as M

NAMES = ['Edema', 'Fracture', 'Hernia', 'Mass', 'Nodule']
BASES = [b for b in M.BASES if b != 'bce']


def make(size=32, **kw):
    seed_all(0)
    return create_method('mpc', labels=NAMES, size=size, preset='tiny', **kw)


def single(n=12, seed=0, size=32):
    "Images with one observed positive each; nothing else is known."
    g = torch.Generator().manual_seed(seed)
    y = F.one_hot(torch.randint(len(NAMES), (n,), generator=g), len(NAMES)).float()
    return Batch(torch.rand(n, 1, size, size, generator=g), y, y.bool(), torch.arange(n))


def ready(batch=None, **kw):
    method, batch = make(**kw), batch or single()
    method.prepare(batch.y, batch.known)
    return method.train()


def finite(method): return all(torch.isfinite(p).all() for p in method.parameters())


# ---- labels ----

def test_one_positive_per_row_drawn_once():
    y = (np.random.default_rng(0).random((200, 5)) < .3).astype(np.float32)
    o, known = L.single_positive(y, seed=1200)
    assert (o.sum(1) == y.any(1)).all() and (o <= y).all() and (known == (o == 1)).all()
    assert (L.single_positive(y, seed=1200)[0] == o).all() and (L.single_positive(y, seed=7)[0] != o).any()


# ---- base losses ----

def test_an_on_full_labels_is_plain_bce():
    batch = single()
    full = batch._replace(known=torch.ones_like(batch.known))
    method = ready(full, weights=dict(ipc=0., fpc=0., btc=0.), reject=False)
    step = method.step(full)
    assert torch.allclose(step.loss, F.binary_cross_entropy_with_logits(step.logits, full.y))
    assert torch.allclose(step.loss, ready(full, base='bce', weights=dict(ipc=0., fpc=0., btc=0.)).step(full).loss)


@pytest.mark.parametrize('base', BASES)
def test_every_base_descends_and_is_the_same_on_silence_it_never_reads(base):
    batch = single()
    method = ready(batch, base=base)
    lied = batch._replace(y=torch.where(batch.known, batch.y, 1 - batch.y))
    seed_all(3); a = method.step(batch, progress=.5)
    seed_all(3); b = method.step(lied, progress=.5)
    assert torch.equal(a.loss, b.loss) and base in a.terms
    a.loss.backward()
    assert method.head.weight.grad.abs().sum() > 0


def test_epr_pulls_the_number_of_findings_to_k():
    y, known = torch.zeros(8, 5), torch.zeros(8, 5, dtype=torch.bool)
    s = torch.zeros(8, 5, requires_grad=True)
    for _ in range(300):
        loss = M.expected_positive_loss(s, y, known, 1.5)
        s = (s - 20*torch.autograd.grad(loss, s)[0]).detach().requires_grad_()
    assert abs(float(torch.sigmoid(s.detach()).sum(1).mean()) - 1.5) < .05


def test_k_counts_annotated_images_only():
    y = torch.tensor([[1., 1, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0, 0, 0, 0], [0, 0, 0, 0, 0]])
    method = make(base='epr')
    method.prepare(y, y.bool())
    assert method.per_image == 1.5 and 'per_image' in method.state_dict()


def test_em_raises_doubt_and_role_follows():
    s = torch.full((4, 5), 2., requires_grad=True)
    silent = torch.zeros(4, 5, dtype=torch.bool)
    M.entropy_maximising_loss(s, s.detach()*0, silent).backward()
    assert (s.grad > 0).all()                                # down, towards not knowing
    table = torch.zeros(4, 5, requires_grad=True)
    logits = torch.full((4, 5), 2., requires_grad=True)
    M.online_estimate_loss(logits, table, s.detach()*0, silent, float(torch.sigmoid(table.detach()).sum(1).mean())).backward()
    assert (table.grad < 0).all()                            # up, towards the classifier


@given(st.integers(2, 30), st.floats(-4, 4))
def test_assumed_negatives_of_wan_weigh_like_the_one_positive(labels, score):
    y = F.one_hot(torch.tensor([0]), labels).float()
    s = torch.full((1, labels), score)
    entries = F.binary_cross_entropy_with_logits(s, y, reduction='none')
    expected = (entries[0, 0] + entries[0, 1:].mean())/labels
    assert torch.allclose(M.weak_negative_bce(s, y, y.bool()), expected, atol=1e-6)


def test_the_first_estimate_is_sure_of_what_is_annotated():
    batch = single()
    p = torch.sigmoid(M.first_estimate(batch.y, batch.known))
    assert torch.allclose(p[batch.known], torch.tensor(.995)) and ((p[~batch.known] - .5).abs() <= .1).all()
    assert torch.equal(M.first_estimate(batch.y, batch.known), M.first_estimate(batch.y, batch.known))


# ---- deformation ----

@settings(max_examples=20, deadline=None)
@given(st.floats(3, 12), st.floats(1, 200), st.integers(0, 99))
def test_displacement_has_the_stated_spread(sigma, alpha, seed):
    d = M.elastic_displacement(12, 192, sigma, alpha, generator=torch.Generator().manual_seed(seed))
    assert d.shape == (12, 2, 192, 192)
    assert abs(float(d.std())/(.1629*alpha/sigma) - 1) < .1
    assert abs(float(d.diff(dim=-2).std())/(.1152*alpha/sigma**2) - 1) < .1


def test_every_pixel_has_the_same_spread():
    "Against the definition: a full field of noise, blurred."
    side, sigma, alpha = 48, 4., 30.
    at = torch.arange(side + 64.)
    blur = torch.exp(-.5*((at[:, None] - at)/sigma)**2)/(sigma*(2*torch.pi)**.5)
    noise = 2*torch.rand(600, side + 64, side + 64, generator=torch.Generator().manual_seed(0)) - 1
    slow = alpha*(blur @ noise @ blur)[:, 32:-32, 32:-32]
    fast = M.elastic_displacement(300, side, sigma, alpha, generator=torch.Generator().manual_seed(1)).flatten(0, 1)
    assert abs(float(fast.std()/slow.std()) - 1) < .05
    spread = fast.std(0)/fast.std()
    assert spread.min() > .85 and spread.max() < 1.15                      # 600 draws: 3 % is one standard error
    for lag in (2, 4, 8):                                                  # equally smooth
        a, b = (float((f[..., lag:]*f[..., :-lag]).mean()/f.square().mean()) for f in (fast, slow))
        assert abs(a - b) < .05, lag


def test_each_image_has_its_own_sigma_and_alpha():
    alpha = torch.tensor([0., 20., 80., 80.])
    d = M.elastic_displacement(4, 160, torch.tensor([6., 6., 6., 12.]), alpha, generator=torch.Generator().manual_seed(0))
    spread = d.flatten(1).std(1)
    assert not d[0].any() and torch.allclose(spread[1:], .1629*alpha[1:]/torch.tensor([6., 6., 12.]), rtol=.3)
    with pytest.raises(ValueError, match='for 4 images'): M.elastic_displacement(4, 32, torch.tensor([6., 6.]), 1.)
    with pytest.raises(ValueError, match='positive'): M.elastic_displacement(4, 32, 0., 1.)


def test_fields_are_reproducible_rectangular_and_of_the_asked_type():
    draw = lambda seed, **kw: M.elastic_displacement(2, (40, 56), 5., 9., generator=torch.Generator().manual_seed(seed), **kw)
    assert torch.equal(draw(1), draw(1)) and not torch.equal(draw(1), draw(2))
    assert draw(1).shape == (2, 2, 40, 56) and draw(1, dtype=torch.float64).dtype == torch.float64


def test_the_default_range_does_not_fold():
    view, folded, n = M.RandomElasticDeformation(), 0, 0
    for seed in range(5):
        g = torch.Generator().manual_seed(seed)
        sigma = 6 + 4*torch.rand(40, generator=g)
        alpha = view.limit*sigma**2
        smallest = M.jacobian_determinant(M.elastic_displacement(40, 224, sigma, alpha, generator=g)).flatten(1).amin(1)
        folded, n = folded + int((smallest <= 0).sum()), n + 40
    assert folded <= n/100
    torn = M.jacobian_determinant(M.elastic_displacement(8, 224, 6., 4*36., generator=torch.Generator().manual_seed(0)))
    assert torn.min() < 0                                                  # and the test can see folding


def test_a_known_displacement_moves_the_pixels_by_it():
    x = torch.rand(2, 1, 20, 20)
    d = torch.zeros(2, 2, 20, 20)
    d[:, 0] += 3                                                           # read three columns to the right
    assert torch.allclose(M.warp(x, d)[..., :-3], x[..., 3:], atol=1e-4)
    assert torch.allclose(M.warp(x, d)[..., -3:], x[..., -4:-1].flip(-1), atol=1e-4)      # reflected
    assert torch.allclose(M.warp(x, d*0), x, atol=1e-4)


@pytest.mark.parametrize('view', [StrongView(3), M.RandomElasticDeformation(p=1.)])
def test_autocast_does_not_move_the_pixels(view):
    x, seen = torch.rand(6, 1, 160, 160), []
    for enabled in (False, True):
        seed_all(3)
        with torch.autocast('cpu', torch.bfloat16, enabled=enabled): seen.append(view(x))
    assert seen[1].dtype == torch.float32 and torch.equal(*seen)
    with torch.autocast('cpu', torch.bfloat16): assert (M.warp(x, torch.zeros(6, 2, 160, 160, dtype=torch.bfloat16)) - x).abs().max() < 1e-4


@given(st.integers(1, 5), st.sampled_from([24, 64]), st.floats(0, 1), st.integers(0, 9))
@settings(max_examples=20, deadline=None)
def test_bending_keeps_shape_range_and_flat_images(n, size, p, seed):
    seed_all(seed)
    view, x = M.RandomElasticDeformation(p=p), torch.rand(n, 1, size, size)
    out = view(x)
    assert out.shape == x.shape and out.dtype == x.dtype and out.min() >= x.min() - 1e-6 and out.max() <= x.max() + 1e-6
    assert torch.allclose(view(torch.full_like(x, .25)), torch.full_like(x, .25), atol=1e-6)
    assert torch.equal(M.RandomElasticDeformation(strength=0., p=1)(x), x) and torch.equal(M.RandomElasticDeformation(p=0)(x), x)


def test_ranges_that_cross_are_refused():
    for wrong in (dict(sigma=(9., 6.)), dict(strength=(1., .3)), dict(strength=-1.)):
        with pytest.raises(ValueError, match='low, high'): M.RandomElasticDeformation(**wrong)


def test_images_are_bent_one_by_one():
    seed_all(0)
    x = torch.rand(1, 1, 64, 64).expand(40, 1, 64, 64)
    out = M.RandomElasticDeformation(p=.5)(x)
    same = torch.tensor([torch.equal(a, b) for a, b in zip(out, x)])
    assert 8 < same.sum() < 32 and len({float(o.sum()) for o in out[~same]}) == int((~same).sum())
    for bad in (dict(sigma=0.), dict(sigma=(9., 6.)), dict(p=1.5)):
        with pytest.raises(ValueError): M.RandomElasticDeformation(**bad)


# ---- views and targets of the consistency page ----

@given(st.integers(0, 10), st.integers(1, 6), st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_strong_views_stay_in_range_at_any_number_of_operations(ops, n, seed):
    seed_all(seed)
    x = torch.rand(n, 1, 32, 32)
    kept = x.clone()
    out = StrongView(ops)(x)
    assert out.shape == x.shape and torch.isfinite(out).all() and out.min() >= 0 and out.max() <= 1
    assert torch.equal(x, kept) and (ops > 0 or torch.equal(out, x))


def test_strong_view_leaves_out_what_has_no_range():
    with pytest.raises(ValueError, match='ops=11'): StrongView(11)
    none = dict.fromkeys(['contrast', 'gamma', 'blur', 'sharpness', 'posterise', 'rotate', 'translate', 'shear', 'cutout'])
    x = torch.full((3, 1, 16, 16), .5)
    out = StrongView(1, brightness=(.1, .1), **none)(x)
    assert torch.allclose(out, x + .1)
    with pytest.raises(ValueError, match='ops=2'): StrongView(2, **none)


@given(st.floats(.3, 1.2), st.floats(-.1, .25), st.integers(0, 99))
def test_targets_of_known_entries_never_change(tau_pos, tau_neg, seed):
    g = torch.Generator().manual_seed(seed)
    q, known = torch.rand(9, 4, generator=g), torch.rand(9, 4, generator=g) < .5
    y = (torch.rand(9, 4, generator=g) < .5)*known.float()
    pseudo, mask, rows = consistency_targets(q, y, known, tau_pos, tau_neg, count_known=True)
    assert torch.equal(pseudo[known], y[known]) and mask[known & ~known.all(1)[:, None]].all()
    assert rows.tolist() == (~known.all(1)).nonzero()[:, 0].tolist() and not mask[known.all(1)].any()
    without = consistency_targets(q, y, known, tau_pos, tau_neg)[1]
    assert torch.equal(without, mask & ~known)
    higher = consistency_targets(q, y, known, tau_pos + .1, tau_neg)[0]
    assert higher.sum() <= pseudo.sum()


def test_ramps_are_bounded_and_named():
    assert all(0 <= ramp_up(t/10, .5, shape) <= 1 for t in range(11) for shape in ('sigmoid', 'linear'))
    with pytest.raises(ValueError, match='shape'): ramp_up(.1, shape='cubic')


# ---- the levels ----

def test_the_feature_level_without_dropout_is_the_clean_stream():
    batch = single()
    method = ready(batch, feature_dropout=0., weights=dict(ipc=0., btc=0.))
    step = method.step(batch, progress=.5)
    pseudo, mask, rows = consistency_targets(torch.sigmoid(step.logits), batch.y, batch.known, .7, .05, count_known=True)
    assert torch.allclose(step.terms['fpc'], consistency_loss(step.logits, pseudo, mask), atol=1e-6)
    with pytest.raises(ValueError, match='share'): M.drop_channels(batch.x, 1.)


def test_predictions_are_bit_identical_without_the_batch_transformer():
    batch = single()
    method = ready(batch).eval()
    before = method(batch.x)
    method.mixer = None
    assert torch.equal(method(batch.x), before)
    alone = torch.cat([method(x[None]) for x in batch.x])
    assert torch.allclose(alone, before, atol=1e-5)


@given(st.integers(1, 12), st.integers(0, 20))
@settings(max_examples=20, deadline=None)
def test_the_batch_transformer_knows_no_order(n, seed):
    seed_all(seed)
    T, z, turn = M.BatchTransformer(8, heads=2, dropout=0.).train(), torch.randn(n, 8), torch.randperm(n)
    mixed, weights = T.mix(z)
    assert torch.allclose(T(z[turn]), mixed[turn], atol=1e-5)
    assert torch.allclose(T.mix(z[turn])[1], weights[turn][:, turn], atol=1e-5)
    assert weights.shape == (n, n) and torch.allclose(weights.sum(1), torch.ones(n), atol=1e-5)
    if n == 1: assert weights.item() == 1


def test_heads_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match='heads'): M.BatchTransformer(10, heads=4)


def test_agreement_moves_the_mixed_path_only():
    batch = single()
    method = ready(batch, batch_dropout=0.)
    z = method.backbone.features(batch.x)
    plain, mixed = method.head(z.detach()), method.head(method.mixer.mix(z.detach())[0])
    agreement_loss(mixed, plain).backward()
    assert method.mixer.feed[0].weight.grad.abs().sum() > 0


# ---- the step ----

def test_rejection_waits_for_the_warm_up_and_spares_annotations():
    q = torch.tensor([[.9, .9, .2]])
    known, counts = torch.tensor([[True, False, False]]), torch.ones(1, 3, dtype=torch.bool)
    assert M.trusted_negatives(q, known, counts, .7).tolist() == [[True, False, True]]
    batch = single()
    method = ready(batch, tau_pos=.02, tau_neg=.01, warmup=.3, weights=dict(ipc=0., fpc=0., btc=0.))
    early, late = method.step(batch, progress=.29), method.step(batch, progress=.3)
    assert torch.allclose(late.terms['an'], F.softplus(-late.logits[batch.known]).mean())   # all silence is believed in: the positives remain
    assert torch.allclose(early.terms['an'], masked_bce(early.logits, batch.y))


def test_the_consistency_terms_come_in_over_the_ramp():
    batch, method = single(), ready()
    assert method.step(batch, progress=0.).weights == dict(an=1., ipc=0., fpc=0., btc=0.)
    assert method.step(batch, progress=.05).weights == dict(an=1., ipc=.5, fpc=.25, btc=.25)
    assert method.step(batch, progress=1.).weights == method.weights


def test_what_weighs_nothing_is_not_computed(monkeypatch):
    batch = single()
    def no(*a, **k): raise AssertionError('computed')
    method = ready(batch, weights=dict(ipc=0., btc=0.))
    monkeypatch.setattr(method.strong, 'forward', no); monkeypatch.setattr(method.mixer, 'mix', no)
    assert set(method.step(batch).terms) == {'an', 'fpc'}


def test_the_strong_view_is_made_for_rows_with_silence_only():
    batch = single()
    known = batch.known.clone(); known[:5] = True
    method, seen = ready(batch), []
    method.strong.register_forward_hook(lambda m, i, o: seen.append(len(o)))
    step = method.step(batch._replace(known=known))
    assert seen == [7] and step.probes['x_strong'].shape == batch.x.shape and step.probes['listening'].shape == (14, 14)
    assert torch.equal(step.probes['x_strong'][:5], step.probes['x_weak'][:5])
    assert not step.probes['mask'][:5].any()


def test_empty_rows_say_nothing_to_the_base_loss():
    batch = single()
    known = batch.known.clone(); known[3:] = False
    few = batch._replace(known=known, y=batch.y*known)
    method = ready(batch, weights=dict(ipc=0., fpc=0., btc=0.), reject=False)
    step = method.step(few)
    assert torch.allclose(step.terms['an'], masked_bce(step.logits[:3], batch.y[:3]))
    assert make(empty='drop').recipe()[0].sampler == 'known' and make(empty='unlabelled').recipe()[0].sampler == 'all'


def test_mixed_precision_gives_finite_losses_and_the_same_ranking(same_ranking):
    "Of a network that has learned something, read on its native grid: the scores of random weights lie within rounding of each other."
    from cxr_workbench.learner import load, find_model
    from cxr_workbench.phantom import SyntheticCXR
    cxr, learned = SyntheticCXR(80, size=64, seed=2026), load(find_model('supervised'))
    method = create_method('mpc', labels=cxr.label_names, preset='tiny')
    method.load_state_dict(learned.state_dict(), strict=False)
    x, (y, known) = torch.as_tensor(cxr.images).float().div(255)[:, None], map(torch.as_tensor, L.single_positive(cxr.labels, seed=0))
    method.prepare(y, known)
    assert same_ranking(method.eval(), x) > .98
    batch, method = Batch(x[:12], y[:12].float(), known[:12], torch.arange(12)), method.train()
    seed_all(1); exact = method.step(batch, progress=.5)
    with torch.autocast('cpu', torch.bfloat16): seed_all(1); rough = method.step(batch, progress=.5)
    for name, term in exact.terms.items(): assert float(rough.terms[name].detach()) == pytest.approx(float(term.detach()), rel=.3, abs=.01), name   # an entry at a threshold may change sides
    optimizer = torch.optim.AdamW(method.parameters(), 5e-4)
    with torch.autocast('cpu', torch.bfloat16): loss = method.step(batch, progress=.5).loss       # and trained on in half precision
    optimizer.zero_grad(); loss.backward(); optimizer.step()
    assert torch.isfinite(loss) and finite(method) and same_ranking(method.eval(), x) > .98


# ---- bad input ----

@pytest.mark.parametrize('base', BASES)
@pytest.mark.parametrize('what', ['no positive', 'nothing known', 'one image', 'one image, nothing known'])
def test_batches_that_are_not_as_hoped(base, what):
    batch = single()
    method = ready(batch, base=base)
    if what.startswith('one image'): batch = Batch(*(None if t is None else t[:1] for t in batch))
    if what == 'no positive': batch = batch._replace(y=batch.y*0)
    if 'nothing known' in what: batch = batch._replace(y=batch.y*0, known=torch.zeros_like(batch.known))
    optimizer = torch.optim.AdamW(method.parameters(), lr=1e-2)
    for _ in range(2):
        step = method.step(batch, progress=.5)
        assert torch.isfinite(step.loss)
        optimizer.zero_grad(); step.loss.backward(); optimizer.step()
    assert finite(method) and torch.isfinite(method.eval()(batch.x)).all()


def test_a_picture_that_is_no_number_is_refused_before_any_weight():
    batch, method = single(), ready()
    for bad in (float('nan'), float('inf')):
        x = batch.x.clone(); x[4, 0, 3, 3] = bad
        before = {k: v.clone() for k, v in method.state_dict().items()}
        with pytest.raises(ValueError, match=r'\[4\]'): method.step(batch._replace(x=x))
        assert all(torch.equal(v, before[k]) for k, v in method.state_dict().items())       # not even the running statistics


def test_labels_of_another_width_are_refused():
    batch, method = single(), ready()
    with pytest.raises(ValueError, match='labels'): method.prepare(batch.y[:, :4], batch.known[:, :4])
    with pytest.raises(ValueError, match='B, C'): method.step(batch._replace(y=batch.y[:, :4], known=batch.known[:, :4]))


@pytest.mark.parametrize('wrong, says', [(dict(tau_pos=.2, tau_neg=.3), 'cross'), (dict(tau_pos=.5, tau_neg=.5), 'cross'), (dict(base='an2'), 'base'),
                                         (dict(ops=20), 'ops'), (dict(weights=dict(ipcc=1.)), 'ipcc'), (dict(empty='keep'), 'empty')])
def test_settings_that_make_no_sense_are_refused(wrong, says):
    with pytest.raises(ValueError, match=says): make(**wrong)


def test_thresholds_may_differ_by_label():
    batch = single()
    step = ready(batch, tau_pos=[.7, .1, .1, .7, 1.1], tau_neg=[.05, .05, .05, .05, -.1]).step(batch, progress=.5)
    silent = ~batch.known
    assert not step.probes['mask'][:, 4][silent[:, 4]].any() and torch.isfinite(step.loss)


# ---- ROLE's table, and several processes ----

def test_the_table_is_trained_and_never_exported(tmp_path):
    from cxr_workbench.learner import fit, load
    batch = single(24)
    data = from_arrays(batch.x[:, 0].numpy(), batch.y.numpy(), batch.known.numpy(), patient_id=np.arange(24), label_names=NAMES)
    method = make(base='role')
    fit(method, data, out=tmp_path, epochs=2, batch_size=8, progress=False, device='cpu')
    assert method.table.rows.shape == (24, 5) and not any('table' in name for name in method.state_dict())
    assert not torch.equal(method.table.rows, M.first_estimate(batch.y, batch.known))
    again = load(tmp_path)
    assert len(again.table.rows) == 0 and torch.equal(again(batch.x), method(batch.x))
    with pytest.raises(ValueError, match='prepare'): again.train().step(batch)
    with pytest.raises(ValueError, match='table with 24'): method.train().step(batch._replace(idx=batch.idx + 10))


TWO = """
    import sys; sys.path.insert(0, {tests!r})
    import torch, torch.distributed as dist, test_mpc as t
    from cxr_workbench.core import seed_all
    rank = int(sys.argv[1])
    dist.init_process_group('gloo', init_method='file://{out}/meet', rank=rank, world_size=2)
    batch = t.single(8, seed=rank)                       # other images on the other rank
    method = t.ready(t.single(16), base='role', deform=0., ops=0, flip=0., shift=0., batch_dropout=0., feature_dropout=0.)
    seed_all(0); alone = method.step(batch, progress=.5)
    class Stepper(torch.nn.Module):
        def __init__(self): super().__init__(); self.method = method
        def forward(self, b): return self.method.step(b, progress=.5).loss
    plain = torch.autograd.grad(alone.loss, list(method.parameters()))
    for m in method.modules():
        if isinstance(m, torch.nn.BatchNorm2d): m.momentum = 0.
    both = torch.nn.parallel.DistributedDataParallel(Stepper(), find_unused_parameters=True)
    loss = both(batch); loss.backward()
    torch.save(dict(alone=float(alone.loss), loss=float(loss), listening=alone.probes['listening'], plain=plain, table=len(method.table.rows),
                    grads=[p.grad for p in method.parameters()]), '{out}/rank%d.pt' % rank)
    dist.destroy_process_group()
"""


def test_two_processes_each_listen_to_their_own_batch(tmp_path):
    "The batch transformer looks across the rows of its process; gradients, those of ROLE's whole table too, are averaged."
    script = tmp_path/'two.py'
    script.write_text(textwrap.dedent(TWO).format(tests=str(Path(__file__).parent), out=tmp_path))
    env = {**os.environ, 'OMP_NUM_THREADS': '1'}
    both = [subprocess.Popen([sys.executable, str(script), str(r)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env) for r in (0, 1)]
    said = [p.communicate(timeout=300)[0] for p in both]
    assert not any(p.returncode for p in both), '\n'.join(said)
    a, b = (torch.load(tmp_path/f'rank{r}.pt', weights_only=True) for r in (0, 1))
    assert a['listening'].shape == b['listening'].shape == (16, 16) and a['table'] == b['table'] == 16   # 8 weak and 8 strong, not 32
    assert a['loss'] == pytest.approx(a['alone'], abs=1e-6) and b['loss'] == pytest.approx(b['alone'], abs=1e-6) and a['loss'] != b['loss']
    for mine, other, mean in zip(a['plain'], b['plain'], a['grads']): assert torch.allclose((mine + other)/2, mean, atol=1e-6)
    assert all(torch.equal(x, y) for x, y in zip(a['grads'], b['grads']))


def test_a_row_table_is_empty_until_filled_and_refuses_strangers():
    table = RowTable(3)
    with pytest.raises(ValueError, match='prepare'): table(torch.tensor([0]))
    table.fill(torch.ones(4, 3))
    assert table(torch.tensor([3])).tolist() == [[1., 1., 1.]] and list(table.state_dict()) == []
    with pytest.raises(ValueError, match='row 4'): table(torch.tensor([4]))


# ---- how far the views move ----

@pytest.mark.parametrize('shape', [(32, 32), (64, 64), (224, 224), (48, 96)])
def test_the_default_deformation_moves_the_same_share_at_every_size(shape):
    seed_all(0)
    view, side = M.RandomElasticDeformation(p=1), min(shape)
    d = view.displacement(60, torch.zeros(1, 1, *shape))
    moved = float(d.norm(dim=1).mean())
    assert d.shape == (60, 2, *shape) and .015*side < moved < .035*side and moved > .5
    assert (M.jacobian_determinant(d).flatten(1).amin(1) > 0).float().mean() > .95
    seed_all(1)
    x = torch.rand(60, 1, *shape)
    assert (view(x) - x).abs().mean() > .05


def test_a_smoothness_in_pixels_is_read_as_before():
    def view(*sigma): return M.RandomElasticDeformation(sigma, strength=(.3, 1.), p=1)
    old, new = view(6., 10.), view(6/224, 10/224)
    assert old.sigma == pytest.approx(new.sigma)
    x = torch.rand(3, 1, 64, 64)
    seed_all(2); a = old(x)
    seed_all(2); b = new(x)
    assert torch.equal(a, b)
    assert M.RandomElasticDeformation(sigma=8, size=64).sigma == (.125, .125)
    seed_all(2)
    d = old.displacement(200, torch.zeros(1, 1, 224, 224))
    assert float(d.std()) == pytest.approx(.163*1.3*.65*8, rel=.15)      # pixels, by the formula


def test_the_views_of_the_method_are_arguments():
    method = make(blur=None, sigma=.1, strength=(.2, .4), deform=1.)
    strong, bend = method.strong
    assert 'blur' not in strong.ranges and bend.sigma == (.1, .1) and bend.strength == (.2, .4) and bend.p == 1
    assert make().strong[0].ranges['blur'] == (.01, .025)


def test_thresholds_from_numpy_stay_in_single_precision():
    probs, known = torch.rand(4, 3), torch.zeros(4, 3, dtype=torch.bool)
    kept = M.trusted_negatives(probs, known, ~known, np.array([.2, .5, 1.1]))
    assert torch.equal(kept, probs < torch.tensor([.2, .5, 1.1]))
