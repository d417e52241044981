"""backbone, losses and consistency: what the pages state for one case holds for many."""
import pytest, torch
from torch import nn
from hypothesis import given, settings, strategies as st
from hypothesis.extra.numpy import arrays
import numpy as np
from cxr_workbench.backbone import Backbone, reach
from cxr_workbench.consistency import WeakView, consistency_loss, has_unknown, pseudo_label
from cxr_workbench.losses import asymmetric_loss, masked_bce

shapes = st.tuples(st.integers(1, 6), st.integers(1, 5))


@st.composite
def entries(draw):
    "Logits of any size, labels and a mask of one shape."
    shape = draw(shapes)
    logits = draw(arrays(np.float64, shape, elements=st.floats(-60, 60)))
    y, known = (draw(arrays(bool, shape)) for _ in range(2))
    return torch.from_numpy(logits), torch.from_numpy(y).double(), torch.from_numpy(known)


@given(entries())
def test_masked_bce_is_the_mean_over_what_is_known(case):
    logits, y, known = case
    one_by_one = [nn.functional.binary_cross_entropy_with_logits(s, t) for s, t, k in zip(logits.flatten(), y.flatten(), known.flatten()) if k]
    expected = torch.stack(one_by_one).mean() if one_by_one else torch.zeros((), dtype=torch.float64)
    assert torch.allclose(masked_bce(logits, y, known), expected)


@given(entries(), st.floats(0, 4), st.floats(0, 4), st.floats(0, .3))
def test_asymmetric_loss_is_finite_never_above_bce_and_its_gradient_too(case, gamma_pos, gamma_neg, margin):
    logits, y, known = case
    logits.requires_grad_()
    loss = asymmetric_loss(logits, y, known, gamma_pos, gamma_neg, margin)
    gradient, = torch.autograd.grad(loss, logits)
    assert torch.isfinite(loss) and torch.isfinite(gradient).all() and loss <= masked_bce(logits, y, known) + 1e-9
    assert not gradient[~known].any()


@given(entries(), st.floats(.5, .99), st.floats(.01, .49))
def test_pseudo_labels_obey_thresholds_and_annotators(case, tau_pos, tau_neg):
    logits, y, known = case
    q = logits.sigmoid()
    pseudo, mask = pseudo_label(q, tau_pos, tau_neg, y, known)
    free = ~known
    assert torch.equal(pseudo[known], y[known]) and mask[known].all()
    assert torch.equal(mask[free], ((q >= tau_pos) | (q <= tau_neg))[free]) and torch.equal(pseudo[free & mask], (q >= tau_pos)[free & mask].double())
    assert torch.equal(has_unknown(known), free.any(1))


def test_thresholds_per_label_are_kept_apart():
    q = torch.tensor([[.6, .6], [.2, .2]])
    pseudo, mask = pseudo_label(q, torch.tensor([.5, .9]), torch.tensor([.1, .3]))
    assert pseudo.tolist() == [[1, 0], [0, 0]] and mask.tolist() == [[True, False], [False, True]]
    with pytest.raises(ValueError, match='cross'): pseudo_label(q, torch.tensor([.5, .2]), torch.tensor([.1, .3]))


@given(entries())
def test_consistency_loss_divides_by_all_it_is_given(case):
    logits, pseudo, mask = case
    expected = nn.functional.binary_cross_entropy_with_logits(logits, pseudo, weight=mask.double(), reduction='sum')/logits.numel()
    assert torch.allclose(consistency_loss(logits, pseudo, mask), expected)


def test_shapes_that_differ_are_refused():
    for loss in (masked_bce, asymmetric_loss):
        with pytest.raises(ValueError, match='both must be'): loss(torch.zeros(4, 3), torch.zeros(4, 1))
        with pytest.raises(ValueError, match='known is'): loss(torch.zeros(4, 3), torch.zeros(4, 3), torch.ones(4, 1, dtype=torch.bool))
    with pytest.raises(ValueError): consistency_loss(torch.zeros(4, 3), torch.zeros(4, 3), torch.ones(3, dtype=torch.bool))


@given(st.integers(1, 5), st.integers(8, 40), st.integers(8, 40), st.floats(0, 1), st.floats(0, .5))
@settings(max_examples=25)
def test_a_weak_view_moves_pixels_and_makes_none(batch, height, width, flip, shift):
    x = torch.rand(batch, 1, height, width)
    out = WeakView(flip, shift)(x)
    assert out.shape == x.shape
    for a, b in zip(out, x): assert torch.isin(a, b).all()


def test_a_weak_view_is_drawn_per_image():
    torch.manual_seed(0)
    x = torch.rand(1, 1, 32, 32).expand(16, 1, 32, 32)
    assert len({tuple(image.flatten().tolist()) for image in WeakView()(x)}) > 8


@pytest.mark.parametrize('name, cells', [('test_resnet', 8), ('test_vit', 8), ('test_convnext', 8), ('test_efficientnet', 4)])
def test_backbones_reach_their_grid_and_use_every_parameter(name, cells):
    backbone, x = Backbone(name, size=64, min_cells=cells), torch.rand(2, 1, 64, 64, requires_grad=True)
    maps = backbone.feature_map(x)
    assert maps.shape == (2, backbone.dim, *backbone.cells) and min(backbone.cells) >= cells
    maps.square().mean().backward()
    assert x.grad.abs().sum() > 0
    idle = [n for n, p in backbone.named_parameters() if p.grad is None]
    assert not idle, f'parameters that train for nothing: {idle}'


def test_the_exact_stride_or_an_error_that_lists_the_others():
    assert reach('test_resnet', 64, stride=16)[3] == 16
    with pytest.raises(ValueError, match='it can reach stride 32'): reach('test_resnet', 64, stride=5)
    with pytest.raises(ValueError, match='64 x 64 cells'): reach('test_vit', 64, min_cells=64)


def test_probing_a_module_moves_no_statistic():
    norm = nn.BatchNorm2d(4)
    backbone = Backbone(nn.Sequential(nn.Conv2d(1, 4, 3, 2), norm), size=32)
    assert norm.num_batches_tracked == 0 and norm.training and backbone.dim == 4


def test_grey_is_the_same_in_every_channel_and_normalised_inside():
    seen = []
    net = nn.Conv2d(3, 4, 3)
    net.register_forward_pre_hook(lambda m, args: seen.append(args[0]))
    backbone = Backbone(net, size=16)
    backbone(torch.full((1, 1, 16, 16), .75))
    assert torch.equal(seen[-1], torch.full((1, 3, 16, 16), .5))
