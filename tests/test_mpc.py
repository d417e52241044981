"""MPC: the supervised losses, the three levels, old names, and what happens when a batch is not as hoped."""
import os, subprocess, sys, textwrap, warnings
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
from cxr_workbench.renamed import update_config, update_state

NAMES = ['Edema', 'Fracture', 'Hernia', 'Mass', 'Nodule']
ON_POSITIVES = [name for name in M.LOSSES if name != 'bce']   # losses for tables that hold no negative
QUIET = dict(image=0., feature=0., batch=0.)


def make(size=32, **kw):
    seed_all(0)
    return create_method('mpc', labels=NAMES, size=size, preset='tiny', **kw)


def single(n=12, seed=0, size=32):
    "Images with one annotated positive each; nothing else is known."
    g = torch.Generator().manual_seed(seed)
    y = F.one_hot(torch.randint(len(NAMES), (n,), generator=g), len(NAMES)).float()
    return Batch(torch.rand(n, 1, size, size, generator=g), y, y.bool(), torch.arange(n))


def ready(batch=None, **kw):
    method, batch = make(**kw), batch or single()
    method.prepare(batch.y, batch.known)
    return method.train()


def is_finite(method): return all(torch.isfinite(p).all() for p in method.parameters())


# ---- labels ----

def test_one_positive_per_row_drawn_once():
    y = (np.random.default_rng(0).random((200, 5)) < .3).astype(np.float32)
    o, known = L.single_positive(y, seed=1200)
    assert (o.sum(1) == y.any(1)).all() and (o <= y).all()
    assert (known == (o == 1)).all()
    again, other = L.single_positive(y, seed=1200)[0], L.single_positive(y, seed=7)[0]
    assert (again == o).all() and (other != o).any()


# ---- supervised losses ----

def test_an_on_full_labels_is_plain_bce():
    batch = single()
    full = batch._replace(known=torch.ones_like(batch.known))
    method = ready(full, weights=QUIET, reject=False)
    step = method.step(full)
    assert torch.allclose(step.loss, F.binary_cross_entropy_with_logits(step.logits, full.y))
    assert torch.allclose(step.loss, ready(full, loss='bce', weights=QUIET).step(full).loss)


@pytest.mark.parametrize('loss', ON_POSITIVES)
def test_every_loss_descends_and_never_reads_an_unknown_label(loss):
    batch = single()
    method = ready(batch, loss=loss)
    false = batch._replace(y=torch.where(batch.known, batch.y, 1 - batch.y))
    seed_all(3); a = method.step(batch, progress=.5)
    seed_all(3); b = method.step(false, progress=.5)
    assert torch.equal(a.loss, b.loss) and list(a.terms) == ['supervised', 'image', 'feature', 'batch']
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
    y = torch.zeros(4, 5)
    y[0, 0] = y[0, 1] = y[1, 2] = 1
    method = make(loss='epr')
    method.prepare(y, y.bool())
    assert method.per_image == 1.5 and 'per_image' in method.state_dict()


def test_em_raises_doubt_and_role_follows():
    s = torch.full((4, 5), 2., requires_grad=True)
    nothing, zero = torch.zeros(4, 5, dtype=torch.bool), torch.zeros(4, 5)
    M.entropy_maximising_loss(s, zero, nothing).backward()
    assert (s.grad > 0).all()                                # down, towards not knowing
    table = torch.zeros(4, 5, requires_grad=True)
    logits = torch.full((4, 5), 2., requires_grad=True)
    M.online_estimate_loss(logits, table, zero, nothing, 2.5).backward()   # as many as the table predicts
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
    p = torch.sigmoid(M.init_estimates(batch.y, batch.known))
    assert torch.allclose(p[batch.known], torch.tensor(.995))
    assert ((p[~batch.known] - .5).abs() <= .1).all()
    assert torch.equal(M.init_estimates(batch.y, batch.known), M.init_estimates(batch.y, batch.known))


def test_settings_of_a_loss_reach_it():
    batch = single()
    def supervised(**kw): return ready(batch, weights=QUIET, **kw).step(batch)
    smooth = supervised(loss='an_ls', loss_settings=dict(smoothing=.3), reject=False)
    assert torch.allclose(smooth.loss, M.smoothed_bce(smooth.logits, batch.y, smoothing=.3))
    few = supervised(loss='epr', loss_settings=dict(expected=2.5))
    assert torch.allclose(few.loss, M.expected_positive_loss(few.logits, batch.y, batch.known, 2.5))
    unsure = supervised(loss='em', loss_settings=dict(entropy=.7))
    assert torch.allclose(unsure.loss, M.entropy_maximising_loss(unsure.logits, batch.y, batch.known, .7))


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
    none = dict.fromkeys('contrast gamma blur sharpness posterise rotate translate shear cutout'.split())
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
    full = known.all(1)
    assert rows.tolist() == (~full).nonzero()[:, 0].tolist() and not mask[full].any()
    without = consistency_targets(q, y, known, tau_pos, tau_neg)[1]
    assert torch.equal(without, mask & ~known)
    higher = consistency_targets(q, y, known, tau_pos + .1, tau_neg)[0]
    assert higher.sum() <= pseudo.sum()


def test_ramps_are_bounded_and_named():
    for shape in ('sigmoid', 'linear'): assert all(0 <= ramp_up(t/10, .5, shape) <= 1 for t in range(11))
    with pytest.raises(ValueError, match='shape'): ramp_up(.1, shape='cubic')


# ---- the levels ----

def test_the_feature_level_without_dropout_is_the_clean_stream():
    batch = single()
    method = ready(batch, feature_dropout=0., weights=dict(image=0., batch=0.))
    step = method.step(batch, progress=.5)
    q = torch.sigmoid(step.logits)
    pseudo, mask, rows = consistency_targets(q, batch.y, batch.known, .7, .05, count_known=True)
    assert torch.allclose(step.terms['feature'], consistency_loss(step.logits, pseudo, mask), atol=1e-6)
    with pytest.raises(ValueError, match='share'): M.drop_channels(batch.x, 1.)


def test_channels_are_dropped_from_a_map_as_from_its_mean_and_right_on_average():
    maps = torch.rand(3, 8, 4, 4)
    seed_all(0); dropped = M.drop_channels(maps).mean((2, 3))
    seed_all(0); pooled = M.drop_channels(maps.mean((2, 3)))
    assert torch.allclose(dropped, pooled) and torch.equal(M.drop_channels(maps, 0), maps)
    many = M.drop_channels(torch.ones(4000, 24))
    assert (many.mean(0) - 1).abs().max() < 6/4000**.5


def test_predictions_are_bit_identical_without_what_only_training_uses():
    batch = single()
    method = ready(batch).eval()
    before = method(batch.x)
    del method.mixer, method.strong, method.weak
    assert torch.equal(method(batch.x), before)
    one_by_one = torch.cat([method(x[None]) for x in batch.x])
    assert torch.allclose(one_by_one, before, atol=1e-5)


@given(st.integers(1, 12), st.integers(0, 20))
@settings(max_examples=20, deadline=None)
def test_the_batch_transformer_knows_no_order(n, seed):
    seed_all(seed)
    T = M.BatchTransformer(8, heads=2, dropout=0.).train()
    z, order = torch.randn(n, 8), torch.randperm(n)
    mixed, attention = T.mix(z)
    assert torch.allclose(T(z[order]), mixed[order], atol=1e-5)
    assert torch.allclose(T.mix(z[order])[1], attention[order][:, order], atol=1e-5)
    assert attention.shape == (n, n) and torch.allclose(attention.sum(1), torch.ones(n), atol=1e-5)
    if n == 1: assert attention.item() == 1


def test_heads_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match='heads'): M.BatchTransformer(10, heads=4)
    with pytest.raises(ValueError, match='heads'): make(mixer=dict(heads=7))


def test_agreement_moves_the_mixed_path_only():
    batch = single()
    method = ready(batch, mixer=dict(dropout=0.))
    z = method.backbone.features(batch.x)
    plain, mixed = method.head(z.detach()), method.head(method.mixer.mix(z.detach())[0])
    agreement_loss(mixed, plain).backward()
    assert method.mixer.feed[0].weight.grad.abs().sum() > 0


# ---- the step ----

def test_rejection_waits_for_its_time_and_spares_annotations():
    q = torch.tensor([[.9, .9, .2]])
    known, used = torch.tensor([[True, False, False]]), torch.ones(1, 3, dtype=torch.bool)
    assert M.reject_negatives(q, known, used, .7).tolist() == [[True, False, True]]
    batch = single()
    method = ready(batch, tau_pos=.02, tau_neg=.01, reject_after=.3, weights=QUIET)
    early, late = method.step(batch, progress=.29), method.step(batch, progress=.3)
    positives = F.softplus(-late.logits[batch.known]).mean()
    assert torch.allclose(late.terms['supervised'], positives)   # every other entry is predicted as present
    assert torch.allclose(early.terms['supervised'], masked_bce(early.logits, batch.y))


def test_the_consistency_terms_come_in_over_the_ramp():
    batch, method = single(), ready()
    assert method.step(batch, progress=0.).weights == dict(supervised=1., image=0., feature=0., batch=0.)
    assert method.step(batch, progress=.05).weights == dict(supervised=1., image=.5, feature=.25, batch=.25)
    assert method.step(batch, progress=1.).weights == method.weights


def test_what_weighs_nothing_is_not_computed(monkeypatch):
    batch = single()
    def no(*a, **k): raise AssertionError('computed')
    method = ready(batch, weights=dict(image=0., batch=0.))
    monkeypatch.setattr(method.strong, 'forward', no)
    monkeypatch.setattr(method.mixer, 'mix', no)
    assert set(method.step(batch).terms) == {'supervised', 'feature'}


def test_the_strong_view_is_made_for_rows_with_unknown_entries_only():
    batch = single()
    known = batch.known.clone()
    known[:5] = True
    method, seen = ready(batch), []
    method.strong.register_forward_hook(lambda m, i, o: seen.append(len(o)))
    probes = method.step(batch._replace(known=known)).probes
    assert seen == [7] and probes['x_strong'].shape == batch.x.shape and probes['row_attention'].shape == (14, 14)
    assert torch.equal(probes['x_strong'][:5], probes['x_weak'][:5])
    assert not probes['mask'][:5].any()


def test_empty_rows_say_nothing_to_the_supervised_loss():
    batch = single()
    known = batch.known.clone()
    known[3:] = False
    few = batch._replace(known=known, y=batch.y*known)
    method = ready(batch, weights=QUIET, reject=False)
    step = method.step(few)
    assert torch.allclose(step.terms['supervised'], masked_bce(step.logits[:3], batch.y[:3]))
    assert make(empty='drop').recipe()[0].sampler == 'known' and make(empty='unlabelled').recipe()[0].sampler == 'all'
    assert make(sampler='mixed').recipe()[0].sampler == 'mixed'


def test_mixed_precision_gives_finite_losses_and_the_same_ranking(same_ranking):
    "Of a network that has learned something: the scores of random weights lie within rounding of each other."
    from cxr_workbench.learner import load, find_model
    from cxr_workbench.phantom import SyntheticCXR
    cxr, learned = SyntheticCXR(80, size=64, seed=2026), load(find_model('supervised'))
    method = create_method('mpc', labels=cxr.label_names, preset='tiny')
    method.load_state_dict(learned.state_dict(), strict=False)
    x = torch.as_tensor(cxr.images).float().div(255)[:, None]
    y, known = map(torch.as_tensor, L.single_positive(cxr.labels, seed=0))
    method.prepare(y, known)
    assert same_ranking(method.eval(), x) > .98
    batch = Batch(x[:12], y[:12].float(), known[:12], torch.arange(12))
    method.train()
    seed_all(1); exact = method.step(batch, progress=.5)
    with torch.autocast('cpu', torch.bfloat16): seed_all(1); rough = method.step(batch, progress=.5)
    for name, term in exact.terms.items():   # an entry at a threshold may change sides
        assert float(rough.terms[name].detach()) == pytest.approx(float(term.detach()), rel=.3, abs=.01), name
    optimizer = torch.optim.AdamW(method.parameters(), 5e-4)
    with torch.autocast('cpu', torch.bfloat16): loss = method.step(batch, progress=.5).loss
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()                          # trained on in half precision
    assert torch.isfinite(loss) and is_finite(method) and same_ranking(method.eval(), x) > .98


# ---- bad input ----

@pytest.mark.parametrize('loss', ON_POSITIVES)
@pytest.mark.parametrize('what', ['no positive', 'nothing known', 'one image', 'one image, nothing known'])
def test_batches_that_are_not_as_hoped(loss, what):
    batch = single()
    method = ready(batch, loss=loss)
    if what.startswith('one image'): batch = Batch(*(None if t is None else t[:1] for t in batch))
    if what == 'no positive': batch = batch._replace(y=batch.y*0)
    if 'nothing known' in what: batch = batch._replace(y=batch.y*0, known=torch.zeros_like(batch.known))
    optimizer = torch.optim.AdamW(method.parameters(), lr=1e-2)
    for _ in range(2):
        step = method.step(batch, progress=.5)
        assert torch.isfinite(step.loss)
        optimizer.zero_grad(); step.loss.backward(); optimizer.step()
    assert is_finite(method) and torch.isfinite(method.eval()(batch.x)).all()


def test_pixels_that_are_no_numbers_are_refused_before_any_weight():
    batch, method = single(), ready()
    for bad in (float('nan'), float('inf')):
        x = batch.x.clone()
        x[4, 0, 3, 3] = bad
        before = {k: v.clone() for k, v in method.state_dict().items()}
        with pytest.raises(ValueError, match=r'\[4\]'): method.step(batch._replace(x=x))
        state = method.state_dict()
        assert all(torch.equal(v, before[k]) for k, v in state.items())       # not even the running statistics


def test_labels_of_another_width_are_refused():
    batch, method = single(), ready()
    narrow = batch.y[:, :4], batch.known[:, :4]
    with pytest.raises(ValueError, match='wanted are y'): method.prepare(*narrow)
    with pytest.raises(ValueError, match='B, C'): method.step(batch._replace(y=narrow[0], known=narrow[1]))


WRONG = [
    (dict(tau_pos=.2, tau_neg=.3), 'cross'), (dict(tau_pos=.5, tau_neg=.5), 'cross'),
    (dict(loss='an2'), 'loss'), (dict(weights=dict(imag=1.)), 'imag'), (dict(empty='keep'), 'empty'),
    (dict(strong=dict(ops=20)), 'ops'), (dict(strong=dict(opps=2)), 'opps'),
    (dict(elastic=dict(q=1.)), "argument.*'q'"), (dict(epoch=3), 'epoch'),
    (dict(loss_settings=dict(smooth=.1)), 'smooth')]


@pytest.mark.parametrize('wrong, says', WRONG)
def test_settings_that_make_no_sense_are_refused(wrong, says):
    with pytest.raises(ValueError, match=says): make(**wrong)


def test_thresholds_may_differ_by_label():
    batch = single()
    thresholds = dict(tau_pos=[.7, .1, .1, .7, 1.1], tau_neg=[.05, .05, .05, .05, -.1])
    step = ready(batch, **thresholds).step(batch, progress=.5)
    unknown = ~batch.known
    assert not step.probes['mask'][:, 4][unknown[:, 4]].any() and torch.isfinite(step.loss)


def test_thresholds_from_numpy_stay_in_single_precision():
    probs, known = torch.rand(4, 3), torch.zeros(4, 3, dtype=torch.bool)
    kept = M.reject_negatives(probs, known, ~known, np.array([.2, .5, 1.1]))
    assert torch.equal(kept, probs < torch.tensor([.2, .5, 1.1]))


# ---- ROLE's table, and several processes ----

def test_the_table_is_trained_and_never_exported(tmp_path):
    from cxr_workbench.learner import fit, load
    batch = single(24)
    data = from_arrays(batch.x[:, 0].numpy(), batch.y.numpy(), batch.known.numpy(),
                       patient_id=np.arange(24), label_names=NAMES)
    method = make(loss='role')
    fit(method, data, out=tmp_path, epochs=2, batch_size=8, progress=False, device='cpu')
    assert method.table.rows.shape == (24, 5) and not any('table' in name for name in method.state_dict())
    assert not torch.equal(method.table.rows, M.init_estimates(batch.y, batch.known))
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
    method = t.ready(t.single(16), loss='role', elastic=False, strong=False, weak=False,
                     mixer=dict(dropout=0.), feature_dropout=0.)
    seed_all(0); one = method.step(batch, progress=.5)   # without the other process
    class Stepper(torch.nn.Module):
        def __init__(self): super().__init__(); self.method = method
        def forward(self, b): return self.method.step(b, progress=.5).loss
    plain = torch.autograd.grad(one.loss, list(method.parameters()))
    for m in method.modules():
        if isinstance(m, torch.nn.BatchNorm2d): m.momentum = 0.
    both = torch.nn.parallel.DistributedDataParallel(Stepper(), find_unused_parameters=True)
    loss = both(batch); loss.backward()
    found = dict(one=float(one.loss), loss=float(loss), attention=one.probes['row_attention'], plain=plain,
                 table=len(method.table.rows), grads=[p.grad for p in method.parameters()])
    torch.save(found, '{out}/rank%d.pt' % rank)
    dist.destroy_process_group()
"""


def test_two_processes_each_attend_to_their_own_batch(tmp_path):
    "The batch transformer looks across the rows of its process; gradients, of ROLE's whole table too, are averaged."
    script = tmp_path/'two.py'
    script.write_text(textwrap.dedent(TWO).format(tests=str(Path(__file__).parent), out=tmp_path))
    kw = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, 'OMP_NUM_THREADS': '1'})
    both = [subprocess.Popen([sys.executable, str(script), str(r)], **kw) for r in (0, 1)]
    said = [p.communicate(timeout=300)[0] for p in both]
    assert not any(p.returncode for p in both), '\n'.join(said)
    a, b = (torch.load(tmp_path/f'rank{r}.pt', weights_only=True) for r in (0, 1))
    for found in (a, b):
        assert found['attention'].shape == (16, 16) and found['table'] == 16   # 8 weak and 8 strong, not 32
        assert found['loss'] == pytest.approx(found['one'], abs=1e-6)
    assert a['loss'] != b['loss']
    for mine, other, mean in zip(a['plain'], b['plain'], a['grads']):
        assert torch.allclose((mine + other)/2, mean, atol=1e-6)
    assert all(torch.equal(x, y) for x, y in zip(a['grads'], b['grads']))


def test_a_row_table_is_empty_until_filled_and_refuses_unknown_rows():
    table = RowTable(3)
    with pytest.raises(ValueError, match='prepare'): table(torch.tensor([0]))
    table.fill(torch.ones(4, 3))
    assert table(torch.tensor([3])).tolist() == [[1., 1., 1.]] and list(table.state_dict()) == []
    with pytest.raises(ValueError, match='row 4'): table(torch.tensor([4]))


# ---- arguments ----

def test_the_views_of_the_method_are_arguments():
    method = make(strong=dict(blur=None), elastic=dict(sigma=.1, strength=(.2, .4), p=1.))
    strong, bend = method.strong
    assert 'blur' not in strong.ranges and bend.sigma == (.1, .1) and bend.strength == (.2, .4) and bend.p == 1
    assert make().strong[0].ranges['blur'] == (.01, .025)
    x = torch.rand(3, 1, 32, 32)
    assert torch.equal(make(strong=False, elastic=False).strong(x), x)
    only, = make(strong=False).strong
    assert isinstance(only, M.RandomElasticDeformation) and len(make(elastic=False).strong) == 1


def test_head_and_table_have_their_own_rate_and_the_table_does_not_decay():
    stage, = create_method('mpc', labels=NAMES, backbone='test_resnet', size=32, loss='role').recipe()
    assert stage.groups == ((r'head\.', 1e-3, 1e-5), (r'table\.', 1e-3, 0.), ('', 1e-4, 1e-5))
    assert (stage.optimizer, stage.schedule, stage.epochs, stage.sampler) == ('Adam', 'cosine', 20, 'known')
    stage, = make(lr=5e-3, ema=.9, warmup=.2).recipe()
    assert [group[1] for group in stage.groups] == [5e-3]*3 and stage.ema == .9 and stage.warmup == .2


# ---- what was called otherwise before ----

OLD = dict(
    backbone='test_resnet', min_cells=4, base='an_ls', tau_pos=.52, tau_neg=.45, observed=False,
    reject=True, warmup=.04, ramp=.3, ramp_shape='sigmoid', ops=3, deform=.8,
    flip=.2, shift=.1, blur=(.02, .03), sigma=(1/12, 1/9), strength=.5,
    feature_dropout=.3, heads=2, batch_dropout=.2, agreement=.7, smoothing=.2, expected=1.7, entropy=.3,
    empty='unlabelled', epochs=7, lr=2e-4, head_lr=4., weight_decay=1e-3, optimizer='SGD', schedule='constant',
    ema=.99, sampler=None, unknown=None, weights=dict(an_ls=.9, ipc=.8, btc=.2))
NEW = dict(
    backbone='test_resnet', min_cells=4, loss='an_ls', loss_settings=dict(smoothing=.2, expected=1.7, entropy=.3),
    tau_pos=.52, tau_neg=.45, count_known=False, reject=True, reject_after=.04, ramp=.3, ramp_shape='sigmoid',
    strong=dict(ops=3, blur=(.02, .03)),
    elastic=dict(p=.8, sigma=(1/12, 1/9), strength=.5),
    weak=dict(flip=.2, shift=.1), feature_dropout=.3, mixer=dict(heads=2, dropout=.2), agreement=.7,
    empty='unlabelled', epochs=7, lr=8e-4, backbone_lr=2e-4, weight_decay=1e-3, optimizer='SGD', schedule='constant',
    ema=.99, sampler=None, unknown=None, weights=dict(supervised=.9, image=.8, batch=.2))


def build(arguments):
    seed_all(0)
    return create_method('mpc', labels=NAMES, size=32, **arguments)


def assert_same(mine, other):
    "Same modules and weights, same recipe, same numbers of a step."
    assert mine.weights == other.weights and mine.recipe() == other.recipe()
    assert repr(mine) == repr(other) and vars(mine.strong[1])['sigma'] == vars(other.strong[1])['sigma']
    states = mine.state_dict(), other.state_dict()
    assert list(states[0]) == list(states[1])
    assert all(torch.equal(a, b) for a, b in zip(*(state.values() for state in states)))
    batch, steps = single(), []
    for method in (mine, other):
        method.prepare(batch.y, batch.known)
        seed_all(1)
        steps.append(method.train().step(batch, progress=.1))
    assert steps[0].weights == steps[1].weights and list(steps[0].terms) == list(steps[1].terms)
    assert all(torch.equal(a, b) for a, b in zip(*(step.terms.values() for step in steps)))


def saved(arguments): return update_config(dict(method='mpc', labels=NAMES, size=32, arguments=arguments))['arguments']


def test_a_file_of_before_gives_the_same_method():
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        arguments = saved(OLD)
        assert arguments == NEW
        assert_same(build(arguments), build(NEW))


@pytest.mark.parametrize('old, rates', [
    (dict(), [1e-3, 1e-3, 1e-4]), (dict(lr=3e-4), [3e-3, 3e-3, 3e-4]),
    (dict(head_lr=3.), [3e-4, 3e-4, 1e-4]),
    (dict(lr=2e-3, head_lr=1.), [2e-3]*3)])
def test_rates_of_a_file_of_before(old, rates):
    stage, = build(saved(dict(old, backbone='test_resnet'))).recipe()
    assert [rate for _, rate, _ in stage.groups] == pytest.approx(rates, rel=1e-12)


def test_names_of_before_still_work_and_warn():
    typed = {name: value for name, value in OLD.items() if name != 'warmup'}
    with pytest.warns(UserWarning, match='base.*count_known.*loss'): method = build(typed)
    assert_same(method, build({**NEW, 'reject_after': .1}))
    assert method.config['arguments'] == {name: value for name, value in NEW.items() if name != 'reject_after'}


@pytest.mark.parametrize('old', [dict(head_lr=3.), dict(lr=1e-4, head_lr=3., backbone_lr=1e-4)])
def test_a_multiple_of_a_rate_that_is_not_given_is_refused(old):
    with pytest.raises(ValueError, match='head_lr was a multiple of lr'): make(**old)


def test_tensors_of_before_load():
    method, batch = ready(), single()
    new = method.state_dict()
    old = {name.replace('mixer.attention.', 'mixer.listen.'): tensor for name, tensor in new.items()}
    assert list(old) != list(new) and list(update_state('mpc', old)) == list(new)
    seed_all(5)
    again = create_method('mpc', labels=NAMES, size=32, preset='tiny')
    again.load_state_dict(update_state('mpc', old))
    assert torch.equal(again.eval()(batch.x), method.eval()(batch.x))
    run = {f'method.{name}': tensor for name, tensor in old.items()}
    assert list(update_state('mpc', run, prefix='method.')) == [f'method.{name}' for name in new]


@pytest.mark.parametrize('loss', M.LOSSES)
def test_ablations_take_one_thing_away_and_keep_the_loss(loss):
    method = make(loss=loss)
    names = ['no image consistency', 'no feature consistency', 'no batch transformer', 'no elastic deformation']
    rejects = ['no rejection'] if loss in ('an', 'an_ls', 'wan') else []
    trusted = ['aligned probabilities', 'adaptive thresholds', 'soft targets', 'EMA teacher', 'rare labels weigh more']
    trusted.insert(1, 'aligned by their mean')
    others = [*trusted, 'ramp over the whole training']
    assert list(method.ablations()) == [*names, *rejects, *others, 'base only']
    for name, kw in method.ablations().items():
        other = make(**kw)
        off = [term for term, weight in other.weights.items() if not weight]
        wanted = {'no image consistency': ['image'], 'no feature consistency': ['feature'],
                  'no batch transformer': ['batch'], 'base only': ['image', 'feature', 'batch']}
        assert other.loss == loss and off == wanted.get(name, [])
        assert other.strong[1].p == (0. if name == 'no elastic deformation' else .5)
        assert other.reject == (name not in ('no rejection', 'base only'))
        assert (name in others) == ('trust' in kw or 'ramp' in kw)
