"Rivals: losses for missing and rare labels, heads and mixtures, each at values that can be worked out by hand."
import numpy as np
import pytest, torch
from torch.nn import functional as F
from cxr_workbench import heads as H, rivals as R
from cxr_workbench.core import Batch, create_method, seed_all
from cxr_workbench.losses import asymmetric_loss, masked_bce

NAMES = ['Edema', 'Fracture', 'Hernia', 'Mass', 'Nodule']


def draw(n=40, labels=5, seed=0):
    "Logits, labels and single positives, (n, C) each."
    g = torch.Generator().manual_seed(seed)
    logits = torch.randn(n, labels, generator=g)
    y = (torch.rand(n, labels, generator=g) < .4).float()
    known = F.one_hot(torch.randint(labels, (n,), generator=g), labels) == 1
    return logits, torch.where(known, 1., y), known


def make_batch(n=16, seed=0):
    logits, y, known = draw(n, len(NAMES), seed)
    x = torch.rand(n, 1, 64, 64, generator=torch.Generator().manual_seed(seed))
    return Batch(x, y*known, known, torch.arange(n))


def tiny(**kw):
    seed_all(0)
    return create_method('supervised', labels=NAMES, size=64, preset='tiny', min_cells=4, **kw)


# ---- large losses ----

@pytest.mark.parametrize('kind', [R.LLR, R.LLCt, R.LLCp])
def test_at_the_start_a_large_loss_is_a_loss_that_assumes_negatives(kind):
    logits, y, known = draw()
    loss = kind(5, share=.3)
    loss.prepare(y, known)
    assert torch.allclose(loss(logits, y, known, 0., torch.arange(40)), masked_bce(logits, y*known))


@pytest.mark.parametrize('progress', [.1, .5, 1.])
def test_exactly_the_declared_share_is_rejected_and_it_is_the_largest(progress):
    logits, y, known = draw()
    s = logits.clone().requires_grad_()
    slope, = torch.autograd.grad(R.LLR(5, share=.2)(s, y, known, progress), s)
    gone = slope == 0
    assert gone.sum() == round(.2*progress*200) and not (gone & known).any()
    kept = ~gone & ~known
    assert F.softplus(logits)[gone].min() >= F.softplus(logits)[kept].max()
    by_hand = F.binary_cross_entropy_with_logits(logits, y*known, reduction='none')[~gone].sum()/200
    assert torch.allclose(R.LLR(5, share=.2)(logits, y, known, progress), by_hand)


def test_ties_do_not_change_how_many_are_chosen():
    chosen = R.find_largest(torch.ones(4, 5), torch.ones(4, 5, dtype=torch.bool), 7)
    assert chosen.sum() == 7
    where = torch.zeros(4, 5, dtype=torch.bool)
    where[0, :2] = True
    assert torch.equal(R.find_largest(torch.rand(4, 5), where, 7), where)


def test_known_negatives_are_never_rejected():
    logits = torch.tensor([[9., 1., 0.]])
    y, known = torch.tensor([[0., 0., 1.]]), torch.tensor([[True, False, True]])
    loss = R.LLR(3, share=1.)(logits, y, known, 1.)
    assert torch.allclose(loss, (F.softplus(torch.tensor(9.)) + F.softplus(torch.tensor(0.)))/3)


def test_a_correction_turns_the_label_for_this_step_only():
    logits, y, known = draw()
    loss, chosen = R.LLCt(5, share=.1), R.find_largest(R.rate_assumed(logits, y, known), ~known, 20)
    assert torch.allclose(loss(logits, y, known, 1.), masked_bce(logits, torch.where(chosen, 1., y*known)))
    other, then = -logits, R.find_largest(R.rate_assumed(-logits, y, known), ~known, 20)
    assert torch.allclose(loss(other, y, known, 1.), masked_bce(other, torch.where(then, 1., y*known)))


def test_a_permanent_correction_stays_with_its_row():
    logits, y, known = draw()
    loss, rows = R.LLCp(5, share=.1), torch.arange(40).flip(0)
    loss.prepare(y, known)
    loss(logits, y, known, .5, rows)
    first = loss.corrected.rows > 0
    largest = R.find_largest(R.rate_assumed(logits, y, known), ~known, 10)
    assert first.sum() == 10 and torch.equal(first.flip(0), largest)
    loss(-logits, y, known, .5, rows)
    assert torch.equal(loss.corrected.rows > 0, first)                           # its share is reached
    value = loss(-logits, y, known, 1., rows)
    both = loss.corrected.rows > 0
    assert both.sum() == 20 and (both >= first).all()
    assert torch.allclose(value, masked_bce(-logits, torch.where(both.flip(0), 1., y*known)))


def test_corrections_survive_a_row_that_is_in_the_batch_twice():
    logits, y = torch.tensor([[4., 3.], [-4., -3.]]), torch.zeros(2, 2)
    known = torch.zeros(2, 2, dtype=torch.bool)
    loss = R.LLCp(2, share=.25)
    loss.prepare(torch.zeros(3, 2), torch.zeros(3, 2))
    loss(logits, y, known, 1., torch.tensor([2, 2]))
    assert (loss.corrected.rows > 0).tolist() == [[False]*2, [False]*2, [True, False]]


def test_corrected_rows_are_in_no_file_and_train_with_nothing(tmp_path):
    from cxr_workbench.learner import load, save
    batch, method = make_batch(), tiny(loss=dict(kind='ll_cp', share=.2), unknown='negative')
    method.prepare(batch.y, batch.known)
    optimizer = torch.optim.AdamW(method.parameters(), lr=1e-3, weight_decay=.5)
    step = method.step(batch, progress=1.)
    step.loss.backward()
    before = method.loss.corrected.rows.clone()
    optimizer.step()
    assert before.sum() == round(.2*80) and torch.equal(method.loss.corrected.rows, before)
    assert not [name for name in method.state_dict() if name.startswith('loss')]
    again = load(save(method.eval(), tmp_path))
    assert torch.equal(again(batch.x), method(batch.x)) and isinstance(again.loss, R.LLCp)


def draw_single(n=40, c=5, seed=0):
    "Scores, labels whose first one is present where all others are absent, and one annotated positive per row."
    g = torch.Generator().manual_seed(seed)
    logits, truth = 2*torch.randn(n, c, generator=g), (torch.rand(n, c, generator=g) < .3).float()
    truth[:, 0] = (truth[:, 1:].sum(1) == 0).float()
    known = torch.zeros(n, c, dtype=torch.bool)
    known[torch.arange(n), torch.multinomial(truth, 1, generator=g)[:, 0]] = True
    return logits, truth, known


@pytest.mark.parametrize('number', [0, 1, 4, 17, 50, 133, 10**6])
def test_every_label_gives_as_many_of_its_own_largest(number):
    logits, truth, known = draw_single()
    logits[:, 2] += 6                                                    # one label has all the largest losses
    entries = R.rate_assumed(logits, truth*known, known)
    chosen, counts = R.find_in_each_label(entries, ~known, number), (~known).sum(0)
    assert not (chosen & known).any() and int(chosen.sum()) <= number
    assert (chosen.sum(0) >= counts.clamp(max=number//5)).all()
    assert (chosen.sum(0) <= number//5 + 1).all()
    if number//5 < counts.min(): assert int(chosen.sum()) == number
    for c in range(5):
        kept, left = entries[chosen[:, c], c], entries[~known[:, c] & ~chosen[:, c], c]
        assert not len(kept) or not len(left) or kept.min() >= left.max()
    if number == 17: assert R.find_largest(entries, ~known, number).sum(0)[2] == number


def test_a_label_gives_its_share_of_the_annotated_findings():
    logits, truth, known = draw_single()
    y, counts = truth*known, (truth*known).sum(0)
    loss = R.LLR(5, .2, per_label='annotated')
    loss.prepare(torch.where(known, truth, torch.nan), known)            # NaN may stand for an unknown label
    assert torch.equal(loss.positives, counts) and 'positives' not in loss.state_dict()
    chosen = loss.choose(R.rate_assumed(logits, y, known), y, known, 40)
    assert chosen.sum() == 40
    assert ((chosen.sum(0) - counts).abs() <= 1).all()                   # 40 rows, one annotated in each
    never = R.find_in_each_label(logits, ~known, 40, torch.tensor([0., 1., 1., 1., 1.]))
    assert never.sum(0).tolist() == [0, 10, 10, 10, 10]


def test_the_entry_that_does_not_divide_is_the_largest_left():
    entries = torch.tensor([[3., 1.], [2., 9.], [1., 8.]])
    chosen = R.find_in_each_label(entries, entries > 0, 3)
    assert torch.equal(chosen, torch.tensor([[True, False], [False, True], [False, True]]))


def test_what_follows_from_an_annotation_is_not_assumed():
    logits, truth, known = draw_single()
    assumed, hidden = R.find_assumed(truth*known, known, exclusive=0), (truth == 1) & ~known
    assert torch.equal(R.find_assumed(truth*known, known), ~known)
    assert (hidden <= assumed).all()                                     # nothing that is hidden is spared
    healthy = known[:, 0]
    assert not assumed[:, 0].any() and not assumed[healthy].any()
    assert torch.equal(assumed[~healthy, 1:], ~known[~healthy, 1:])
    nan = torch.where(known, truth, torch.nan)                           # NaN may stand for an unknown label
    assert torch.equal(R.find_assumed(nan, known, 0), assumed)


@pytest.mark.parametrize('kind', [R.LLR, R.LLCt, R.LLCp])
@pytest.mark.parametrize('per_label', [None, 'equal', 'annotated'])
@pytest.mark.parametrize('exclusive', [None, 0])
def test_only_chosen_entries_change(kind, per_label, exclusive):
    logits, truth, known = draw_single()
    logits, rows = logits.requires_grad_(), torch.arange(40)
    loss = kind(5, .2, per_label, exclusive)
    loss.prepare(truth*known, known)
    found, = torch.autograd.grad(loss(logits, truth*known, known, .5, rows), logits)
    plain, = torch.autograd.grad(masked_bce(logits, truth*known), logits)
    changed = (found - plain).abs() > 1e-8
    assert changed.sum() == round(.1*200)
    assert not changed[~R.find_assumed(truth*known, known, exclusive)].any()
    if per_label == 'equal': assert changed.sum(0).max() <= -(-20//(5 if exclusive is None else 4))


def test_the_default_is_the_choice_of_before():
    logits, truth, known = draw_single()
    y = truth*known
    entries = R.rate_assumed(logits, y, known)
    expected = entries.masked_fill(R.find_largest(entries, ~known, 10), 0).sum()/200
    assert torch.equal(R.LLR(5, .1)(logits, y, known, .5), expected)


@pytest.mark.parametrize('kw, says', [
    (dict(exclusive=-1), 'from 0 to 4'), (dict(exclusive=5), 'from 0 to 4'), (dict(per_label=True), "'equal' or")])
def test_what_a_loss_cannot_choose_is_refused(kw, says):
    with pytest.raises(ValueError, match=says): R.LLR(5, **kw)


@pytest.mark.parametrize('weight', [None, .3, 1.])
def test_weak_negatives_are_one_loss_under_two_names_bit_for_bit(weight):
    from cxr_workbench.methods import mpc
    logits, truth, known = draw_single()
    y, w = truth*known, 1/4 if weight is None else weight
    before = masked_bce(logits, y*known, None, torch.where(known, 1., w))           # as both had it
    assert mpc.weak_negative_bce is R.weak_negative_bce
    assert torch.equal(mpc.weak_negative_bce(logits, y, known, weight=weight), before)
    assert torch.equal(R.WeakNegatives(5, weight)(logits, y, known), before)


@pytest.mark.parametrize('beta', [0., .9, .999, .9999])
def test_class_weights_are_one_function_and_what_they_were_bit_for_bit(beta):
    from cxr_workbench.methods import trcgl_losses
    assert trcgl_losses.class_balance is R.class_balance
    for seed in range(20):
        g = torch.Generator().manual_seed(seed)
        counts = (torch.rand(14, generator=g)*8).exp().round()
        n = counts.double().clamp(min=1)
        before = (1 - beta)/(1 - beta**n)
        assert torch.equal(R.effective_weights(counts, beta), (before/before.mean()).float())
        assert torch.equal(R.effective_weights(counts, beta), R.class_balance(counts.long(), beta).float())


@pytest.mark.parametrize('share', [-.1, 1.1])
def test_a_share_outside_its_range_is_refused(share):
    with pytest.raises(ValueError, match='share'): R.LLR(5, share)


# ---- weights, focus, margins ----

def test_weak_negatives_weigh_as_much_as_the_one_positive():
    logits = torch.zeros(6, 5, requires_grad=True)
    known = F.one_hot(torch.arange(6) % 5, 5) == 1
    y = known.float()
    slope, = torch.autograd.grad(R.WeakNegatives(5)(logits, y, known), logits)
    assert torch.allclose(slope.sum(1), torch.zeros(6), atol=1e-7)
    assert torch.allclose(R.WeakNegatives(5, weight=1.)(logits, y, known), masked_bce(logits, y))


def test_focal_is_the_formula_and_has_its_gradient():
    s = torch.linspace(-4, 4, 9, dtype=torch.float64)[:, None].requires_grad_()
    for label in (0., 1.):
        p = torch.sigmoid(s) if label else torch.sigmoid(-s)
        by_hand = (-(1 - p)**2*p.log()).mean()
        found = R.focal_loss(s, torch.full_like(s, label))
        assert torch.allclose(found, by_hand)
        assert torch.allclose(*(torch.autograd.grad(value, s, retain_graph=True)[0] for value in (found, by_hand)))
    logits, y, known = draw()
    assert torch.allclose(R.focal_loss(logits, y, known, gamma=0.), masked_bce(logits, y, known))
    assert torch.allclose(R.focal_loss(logits, y, gamma=3.), asymmetric_loss(logits, y, None, 3., 3., 0.), rtol=1e-4)
    assert R.focal_loss(torch.tensor([[99., -99.]]), torch.tensor([[0., 1.]])).isfinite()


def test_alpha_of_focal_weighs_the_sides():
    s = torch.zeros(1, 2)
    def rate(label): return R.focal_loss(s, torch.full((1, 2), label), gamma=0., alpha=.25)
    present, absent = rate(1.), rate(0.)
    assert torch.allclose(3*present, absent) and torch.allclose(present + absent, torch.tensor(2.).log())


def test_margins_fall_with_the_fourth_root():
    counts = torch.tensor([1., 16., 81., 10000., 0.])
    assert torch.allclose(R.label_margins(counts, .5), .5/torch.tensor([1., 2., 3., 10., 1.]))
    assert torch.allclose(R.label_margins(16*counts[:4], .3), .3/torch.tensor([1., 2., 3., 10.]))


def test_effective_weights_are_inverse_counts_for_a_large_beta_and_one_for_none():
    counts = torch.tensor([10., 20., 40.])
    weights = R.effective_weights(counts, 1 - 1e-9)
    assert torch.allclose(weights*counts, (weights*counts).mean().expand(3), rtol=1e-4)
    assert torch.allclose(weights.mean(), torch.tensor(1.))
    assert torch.equal(R.effective_weights(counts, 0.), torch.ones(3))
    with pytest.raises(ValueError, match='beta'): R.effective_weights(counts, 1.)


def test_ldam_lowers_present_scores_and_weighs_late():
    logits, y, _ = draw()
    whole = torch.ones_like(y, dtype=torch.bool)
    loss = R.LDAM(5, margin=.5, scale=2., defer=.8)
    loss.prepare(y, whole)
    assert torch.equal(loss.counts, y.sum(0))
    lowered = 2*(logits - y*R.label_margins(y.sum(0), .5))
    assert torch.allclose(loss(logits, y, whole, .79), masked_bce(lowered, y))
    weight = R.effective_weights(y.sum(0))
    assert torch.allclose(loss(logits, y, whole, .8), masked_bce(lowered, y, weight=weight))
    assert torch.allclose(R.LDAM(5, margin=0., beta=0.)(logits, y, whole, 1.), masked_bce(logits, y))


@pytest.mark.parametrize('name', R.LOSSES)
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_every_loss_is_finite_has_a_gradient_and_leaves_unknown_values_alone(name, dtype):
    logits, y, known = draw()
    loss, rows = R.make_loss(name, 5), torch.arange(40)
    s = (30*logits).to(dtype).requires_grad_()
    values = []
    for missing in (0., 1.):
        loss.prepare(y*known, known)
        values.append(loss(s, torch.where(known, y, missing), known, .9, rows))
    slope, = torch.autograd.grad(values[0], s)
    assert values[0] == values[1] and values[0].isfinite() and slope.isfinite().all() and slope.any()


# ---- by name ----

def test_a_setting_is_a_name_a_dictionary_a_module_or_a_function():
    logits, y, known = draw()
    assert R.make_loss(dict(kind='ll_r', share=.3), 5).share == .3
    mine = R.LLR(5)
    assert R.make_loss(mine, 5) is mine
    ramped = R.make_loss(lambda logits, y, known, progress: progress*masked_bce(logits, y, known), 5)
    assert torch.allclose(ramped(logits, y, known, .25), masked_bce(logits, y, known)/4)
    plain = R.make_loss(masked_bce, 5)
    assert torch.equal(plain(logits, y, known, .25), masked_bce(logits, y, known))
    strict = R.make_loss(dict(kind='asymmetric', gamma_neg=2.), 5)
    assert torch.equal(strict(logits, y, known), asymmetric_loss(logits, y, known, gamma_neg=2.))


def build_loss(setting): return R.make_loss(setting, 5)
def build_head(setting): return H.make_head(setting, 8, 5)


@pytest.mark.parametrize('make, setting, says', [
    (build_loss, 'll-r', "there are .*'ll_r'"), (build_loss, dict(share=.1), 'kind'),
    (build_loss, dict(kind='ll_r', rate=.1), r"no argument \['rate'\]"),
    (build_head, 'conv', 'head='), (build_head, None, 'head=None'),
    (H.make_mix, True, 'mix=True'), (H.make_mix, dict(kind=['mixup']), 'mix='), (H.make_mix, 'cutmix', "'mixup'")])
def test_what_does_not_exist_is_named(make, setting, says):
    with pytest.raises(ValueError, match=says): make(setting)


@pytest.mark.parametrize('kw, says', [
    (dict(loss='ll_r'), "unknown='negative'"), (dict(loss='ll_cp', mix='splice', unknown='negative'), 'mix=None'),
    (dict(loss='wan', mix='mixup', unknown='negative'), 'lie between')])
def test_parts_that_do_not_go_together_are_refused(kw, says):
    with pytest.raises(ValueError, match=says): tiny(**kw)


# ---- heads ----

def test_boost_is_the_identity_below_zero_and_a_factor_above():
    m = torch.tensor([-3., -.5, 0., .5, 3.])
    assert torch.equal(H.boost_positive(m, 5.), torch.tensor([-3., -.5, 0., 2.5, 15.]))
    assert torch.equal(H.boost_positive(m, 1.), m)


def test_boost_comes_before_the_mean_and_takes_the_weights_of_a_linear_head():
    torch.manual_seed(0)
    linear, maps = torch.nn.Linear(6, 3), torch.randn(4, 6, 2, 5)
    head = H.BoostHead(6, 3, alpha=4.)
    head.load_state_dict(linear.state_dict())
    cells = torch.einsum('bdhw,cd->bchw', maps, linear.weight) + linear.bias[:, None, None]
    by_hand = torch.where(cells > 0, 4*cells, cells).mean((2, 3))
    assert torch.allclose(head(maps)[0], by_hand, atol=1e-6)
    head.alpha = 1.
    assert torch.allclose(head(maps)[0], linear(maps.mean((2, 3))), atol=1e-6)


def test_a_trained_linear_model_takes_boost_without_training():
    batch, plain, boosted = make_batch(), tiny(pool='mean'), tiny(head=dict(kind='boost', alpha=1.))
    boosted.load_state_dict(plain.state_dict())
    assert torch.allclose(boosted.eval()(batch.x), plain.eval()(batch.x), atol=1e-5)
    boosted.head.alpha = 5.
    assert (boosted(batch.x) >= plain(batch.x) - 1e-5).all()


def test_the_decoder_is_timms_layer_and_shows_where_it_looks():
    from timm.layers.ml_decoder import MLDecoder
    torch.manual_seed(0)
    head, maps = H.LabelDecoder(6, 3, dim=16).eval(), torch.randn(4, 6, 2, 5)
    theirs = MLDecoder(3, num_of_groups=3, decoder_embedding=16, initial_num_features=6).eval()
    theirs.embed_standart, theirs.decoder.layers[0] = head.embed, head.layer
    cells = F.relu(theirs.embed_standart(maps.flatten(2).mT)).transpose(0, 1)
    decoded = theirs.decoder.layers[0](head.queries[:, None].expand(-1, 4, -1), cells)
    by_hand = torch.einsum('cbd,cd->bc', decoded, head.weight[:, :, 0]) + head.bias
    logits, probes = head(maps)
    assert logits.shape == (4, 3) and torch.allclose(logits, by_hand, atol=1e-5)
    assert probes['attention'].shape == (4, 3, 2, 5) and (probes['attention'] >= 0).all()
    assert torch.allclose(probes['attention'].sum((2, 3)), torch.ones(4, 3), atol=1e-5)
    order = torch.randperm(10)
    moved = maps.flatten(2)[:, :, order].view_as(maps)
    assert torch.allclose(head(moved)[0], logits, atol=1e-5)      # cells have no place of their own


def test_queries_are_saved_and_no_optimiser_takes_them():
    method = tiny(head=dict(kind='decoder', dim=16))
    assert 'head.queries' in method.state_dict() and 'head.queries' not in dict(method.named_parameters())


@pytest.mark.parametrize('head', ['boost', dict(kind='decoder', dim=16)])
def test_a_head_of_maps_is_saved_scored_and_exported(head, tmp_path):
    from cxr_workbench.learner import load, save
    batch, method = make_batch(), tiny(head=head)
    whole = batch._replace(known=torch.ones_like(batch.known))
    method.prepare(whole.y, whole.known)
    assert torch.isfinite(method.step(whole, .5).loss)
    method.eval()
    again = load(save(method, tmp_path))
    assert torch.equal(again(batch.x), method(batch.x))
    assert torch.allclose(method(batch.x[:1]), method(batch.x)[:1], atol=1e-5)
    dynamic = ({0: torch.export.Dim('batch', min=1)},)
    program = torch.export.export(method, (batch.x[:3],), dynamic_shapes=dynamic).module()
    assert torch.allclose(program(batch.x), method(batch.x), atol=1e-5)


def test_a_head_of_ones_own_reads_what_it_says():
    class Peak(torch.nn.Module):
        reads_map = True
        def forward(self, maps): return maps[:, :5].amax((2, 3)), {}
    method, batch = tiny(head=Peak()).eval(), make_batch()
    logits, probes = method.look(batch.x)
    assert torch.equal(logits, probes['feature_map'][:, :5].amax((2, 3)))


# ---- mixtures ----

def test_mixed_labels_and_pixels_are_the_same_convex_sums():
    torch.manual_seed(0)
    y = torch.eye(8)
    x = torch.arange(8.).view(-1, 1, 1, 1)*torch.ones(1, 1, 4, 4)
    known = torch.ones(8, 8, dtype=torch.bool)
    mixed, labels, left = H.MixUp(alpha=1.)(x, y, known)
    assert torch.allclose(labels.sum(1), torch.ones(8)) and (labels >= 0).all() and left.all()
    assert torch.allclose(mixed[:, 0, 0, 0], labels @ torch.arange(8.), atol=1e-5)
    assert ((labels > 0) & (labels < 1)).any()
    known[3] = False
    _, labels, left = H.MixUp(alpha=1.)(x, y, known)
    assert not labels[~left].any() and 6 <= left.all(1).sum() <= 7
    assert (left.all(1) | ~left.any(1)).all()


def test_a_union_is_present_unknown_or_absent():
    states = torch.tensor([1., 0., -1.])                    # present, absent, unknown
    wanted = {(1, 1): 1, (1, 0): 1, (1, -1): 1}
    wanted |= {(0, 0): 0, (0, -1): -1, (-1, -1): -1}
    for (a, b), union in wanted.items():
        for pair in ((a, b), (b, a)):
            pair = torch.tensor(pair, dtype=states.dtype).view(1, 2, 1)
            y, known = H.join_labels((pair > 0).float(), pair >= 0)
            assert (1 if y.item() else 0 if known.item() else -1) == union and (known.item() or not y.item())


@pytest.mark.parametrize('grid', [(1, 2), (2, 2), (2, 3)])
def test_a_grid_holds_its_images_and_the_union_of_their_labels(grid):
    torch.manual_seed(0)
    y = torch.eye(12)
    x = torch.arange(12.).view(-1, 1, 1, 1)*torch.ones(1, 1, 12, 12)
    known = torch.ones(12, 12, dtype=torch.bool)
    mixed, labels, left = H.SpliceMix(grids=[grid], share=.5)(x, y, known)
    assert mixed.shape == (18, 1, 12, 12) and labels.shape == left.shape == (18, 12) and left.all()
    assert torch.equal(mixed[:12], x) and torch.equal(labels[:12], y)
    for image, label in zip(mixed[12:], labels[12:]):
        assert sorted(image.unique().tolist()) == label.nonzero()[:, 0].tolist()
        assert label.sum() == grid[0]*grid[1]


def test_a_grid_keeps_the_order_of_its_images():
    x = torch.stack([torch.full((1, 4, 6), float(i)) for i in range(6)])[None]
    whole = H.SpliceMix().splice(x, 2, 3)
    cells = F.avg_pool2d(whole, (2, 2))[0, 0]
    assert cells.tolist() == [[0., 1., 2.], [3., 4., 5.]]


def test_a_batch_too_small_for_a_grid_stays_as_it_is():
    x, y = torch.rand(3, 1, 8, 8), torch.zeros(3, 2)
    known = torch.ones(3, 2, dtype=torch.bool)
    mixed = H.SpliceMix(grids=[(2, 2)], share=1.)(x, y, known)
    assert mixed[0] is x and mixed[1] is y


@pytest.mark.parametrize('mix', ['mixup', 'splice'])
def test_a_mixture_is_in_step_only_and_shows_a_row_per_image(mix):
    batch, method = make_batch(), tiny(mix=mix, unknown='negative')
    method.prepare(batch.y, batch.known)
    step = method.step(batch, .5)
    assert step.logits.shape == (16, 5) and all(len(probe) == 16 for probe in step.probes.values())
    method.eval()
    assert torch.equal(method(batch.x), method.look(batch.x)[0])
    plain = tiny(unknown='negative').eval()
    plain.load_state_dict(method.state_dict())
    assert torch.equal(plain(batch.x), method(batch.x))


# ---- the baseline is what it was ----

def test_the_baseline_takes_the_same_step_as_before():
    from cxr_workbench.classifier import Classifier
    batch = make_batch()
    batch = batch._replace(known=torch.rand(batch.y.shape, generator=torch.Generator().manual_seed(1)) < .8)
    seed_all(0)
    before = Classifier(NAMES, size=64, backbone='test_resnet', min_cells=4)
    now = tiny()
    assert list(now.state_dict()) == list(before.state_dict())
    losses = []
    for method in (before, now):
        seed_all(1)
        losses.append(method.step(batch, .5).loss)
    assert torch.equal(*losses)


def test_a_packaged_baseline_still_loads():
    from cxr_workbench.learner import find_model, load
    model = load(find_model('supervised'))
    assert model.mix is None and isinstance(model.head, torch.nn.Linear) and not model.on_map


def test_learning_with_a_rival_falls_below_its_start():
    "A few steps on one batch: every loss can be descended with every head."
    for kw in (dict(loss='ll_ct', head='boost'), dict(loss='wan', head=dict(kind='decoder', dim=16))):
        batch, method = make_batch(), tiny(unknown='negative', weak=False, **kw)
        method.prepare(batch.y, batch.known)
        optimizer = torch.optim.AdamW(method.parameters(), lr=3e-3)
        losses = []
        for _ in range(12):
            loss = method.step(batch, 0.).loss
            optimizer.zero_grad(); loss.backward(); optimizer.step()
            losses.append(float(loss.detach()))
        assert np.mean(losses[-3:]) < .8*losses[0], kw
