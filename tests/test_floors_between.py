"""backbone, losses and consistency: what the pages state for one case holds for many."""
import pytest, torch
from torch import nn
from hypothesis import given, settings, strategies as st
from hypothesis.extra.numpy import arrays
import numpy as np
from cxr_workbench.backbone import Backbone, find_grid
from cxr_workbench.backbone import MeanPool, TimmPool
from cxr_workbench.consistency import StrongView, WeakView, consistency_loss, has_unknown, pseudo_label
from cxr_workbench.consistency import agreement_loss, blur_images, move_images, draw_square
from cxr_workbench.core import create_method, seed_all
from cxr_workbench.losses import asymmetric_loss, class_weights, masked_bce, weighted_bce

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
    rows = zip(logits.flatten(), y.flatten(), known.flatten())
    one_by_one = [nn.functional.binary_cross_entropy_with_logits(s, t) for s, t, k in rows if k]
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


def test_pseudo_labels_of_a_table_and_of_an_array_are_those_of_a_tensor():
    import pandas as pd
    scores = np.array([[.9, .5, .05], [.2, .85, .1]], np.float32)
    y = np.zeros((2, 3), np.float32)
    known = np.array([[1, 0, 0], [0, 0, 0]], bool)
    for probs in (scores, pd.DataFrame(scores, columns=list('abc')), torch.tensor(scores)):
        pseudo, mask = pseudo_label(probs, .8, .1, y, known)
        assert pseudo.tolist() == [[0, 0, 0], [0, 1, 0]]
        assert mask.tolist() == [[True, False, True], [False, True, True]]
    with pytest.raises(ValueError, match='give probabilities'): pseudo_label(np.ones((2, 3), int))


@given(entries(), st.floats(.5, .99), st.floats(.01, .49))
def test_pseudo_labels_obey_thresholds_and_annotators(case, tau_pos, tau_neg):
    logits, y, known = case
    q = logits.sigmoid()
    pseudo, mask = pseudo_label(q, tau_pos, tau_neg, y, known)
    free = ~known
    assert torch.equal(pseudo[known], y[known]) and mask[known].all()
    assert torch.equal(mask[free], ((q >= tau_pos) | (q <= tau_neg))[free])
    assert torch.equal(pseudo[free & mask], (q >= tau_pos)[free & mask].double())
    assert torch.equal(has_unknown(known), free.any(1))


def test_thresholds_per_label_are_kept_apart():
    q = torch.tensor([[.6, .6], [.2, .2]])
    pseudo, mask = pseudo_label(q, torch.tensor([.5, .9]), torch.tensor([.1, .3]))
    assert pseudo.tolist() == [[1, 0], [0, 0]]
    assert mask.tolist() == [[True, False], [False, True]]
    with pytest.raises(ValueError, match='cross'): pseudo_label(q, torch.tensor([.5, .2]), torch.tensor([.1, .3]))


@given(entries())
def test_consistency_loss_divides_by_all_it_is_given(case):
    logits, pseudo, mask = case
    bce = nn.functional.binary_cross_entropy_with_logits(logits, pseudo, weight=mask.double(), reduction='sum')
    assert torch.allclose(consistency_loss(logits, pseudo, mask), bce/logits.numel())


def test_shapes_that_differ_are_refused():
    table, column, row = torch.zeros(4, 3), torch.zeros(4, 1), torch.zeros(3)
    for loss in (masked_bce, asymmetric_loss):
        with pytest.raises(ValueError, match='wanted are logits'): loss(table, column)
        with pytest.raises(ValueError, match=r'known \(4, 1\)'): loss(table, table, column == 0)
    with pytest.raises(ValueError): consistency_loss(table, table, row == 0)


sides = st.integers(8, 40)
image_shapes = st.tuples(st.integers(1, 5), st.just(1), sides, sides)


@given(image_shapes, st.floats(0, 1), st.floats(0, .5))
@settings(max_examples=25)
def test_a_weak_view_moves_pixels_and_makes_none(shape, flip, shift):
    x = torch.rand(shape)
    out = WeakView(flip, shift)(x)
    assert out.shape == x.shape
    for a, b in zip(out, x): assert torch.isin(a, b).all()


def test_a_weak_view_is_drawn_per_image():
    torch.manual_seed(0)
    x = torch.rand(1, 1, 32, 32).expand(16, 1, 32, 32)
    assert len({tuple(image.flatten().tolist()) for image in WeakView()(x)}) > 8


@pytest.mark.parametrize('name, cells', [
    ('test_resnet', 8), ('test_vit', 8), ('test_convnext', 8), ('test_efficientnet', 4)])
def test_backbones_reach_their_grid_and_use_every_parameter(name, cells):
    backbone, x = Backbone(name, size=64, min_cells=cells), torch.rand(2, 1, 64, 64, requires_grad=True)
    maps = backbone.feature_map(x)
    assert maps.shape == (2, backbone.dim, *backbone.cells) and min(backbone.cells) >= cells
    backbone.features(x).square().mean().backward()
    assert x.grad.abs().sum() > 0
    idle = [n for n, p in backbone.named_parameters() if p.grad is None]
    assert not idle, f'parameters that train for nothing: {idle}'


def test_the_exact_stride_or_an_error_that_lists_the_others():
    assert find_grid('test_resnet', 64, stride=16)[3] == 16
    with pytest.raises(ValueError, match='it can reach stride 32'): find_grid('test_resnet', 64, stride=5)
    with pytest.raises(ValueError, match='64 x 64 cells'): find_grid('test_vit', 64, min_cells=64)


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


# ---- what follows the map ----

FAMILIES = """
test_resnet resnetv2_18 densenet121 test_byobnet regnetx_002 test_efficientnet mobilenetv3_small_050
mobilenetv4_conv_small lcnet_035 ghostnet_050 hgnetv2_b0 fasternet_t0 repghostnet_050 rexnet_100 dla46_c
ese_vovnet19b_slim_dw cs3darknet_focus_s
test_nfnet starnet_s050 test_convnext test_mambaout edgenext_xx_small inception_next_atto poolformer_s12 efficientvit_b0
efficientvit_m0 mobilevit_xxs test_coatnet repvit_m1 fastvit_t8 pvt_v2_b0 visformer_tiny swiftformer_xs tiny_vit_5m_224
levit_128 cait_xxs24_224 convit_tiny xcit_nano_12_p8_224 test_vit test_vit2 deit_tiny_patch16_224 test_vit_relpos
vit_tiny_r_s16_p8_224""".split()


def of_timm(name, size, **kw):
    "The network as timm builds it, without a classifier; one that reads a class token averages its patches instead."
    import timm
    def build(**more):
        torch.manual_seed(0)
        try: return timm.create_model(name, num_classes=0, img_size=size, **kw, **more).eval()
        except TypeError as error:
            if 'img_size' not in str(error): raise
        torch.manual_seed(0)
        return timm.create_model(name, num_classes=0, **kw, **more).eval()
    net = build()
    return build(global_pool='avg') if getattr(net, 'global_pool', None) == 'token' else net


def pre_logits(net, backbone, x): return net.forward_head(net.forward_features(backbone.coloured(x)), pre_logits=True)


@pytest.mark.parametrize('name', FAMILIES)
@torch.no_grad()
def test_features_are_those_of_timm(name):
    x = torch.rand(2, 1, 64, 64, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(0)
    backbone = Backbone(name, size=64).eval()
    truth = pre_logits(of_timm(name, 64), backbone, x)
    assert backbone.features(x).shape == truth.shape == (2, backbone.pool.dim)
    assert torch.allclose(backbone.features(x), truth, rtol=1e-3, atol=1e-4)
    assert torch.equal(backbone.features(x), backbone.pool(backbone.feature_map(x)))


WIDTHS = [('test_resnet', 96, 96), ('test_convnext', 64, 64),
          ('mobilenetv3_small_050', 288, 1024), ('test_mambaout', 64, 256)]


@pytest.mark.parametrize('name, D, E', WIDTHS)
def test_the_pool_has_a_width_of_its_own(name, D, E):
    backbone = Backbone(name, size=64)
    assert (backbone.dim, backbone.pool.dim) == (D, E)
    assert isinstance(backbone.pool, MeanPool) == (name == 'test_resnet')
    assert backbone.features(torch.rand(3, 1, 64, 64)).shape == (3, E)
    only = Backbone(name, size=64, pool='mean')
    assert isinstance(only.pool, MeanPool) and only.pool.dim == D
    assert sum(p.numel() for p in only.parameters()) <= sum(p.numel() for p in backbone.parameters())


@pytest.mark.parametrize('name', ['test_convnext', 'mobilenetv3_small_050'])
def test_an_earlier_stage_is_pooled_by_its_mean(name):
    backbone = Backbone(name, size=64, stride=8).eval()
    assert isinstance(backbone.pool, MeanPool) == (backbone.how == 'earlier stage')
    early = Backbone(nn.Sequential(nn.Conv2d(1, 4, 3)), size=16)
    assert isinstance(early.pool, MeanPool)


@torch.no_grad()
def test_a_dilated_network_and_a_given_one_keep_their_heads():
    import timm
    x = torch.rand(2, 1, 64, 64)
    dilated = Backbone('test_convnext', size=64, min_cells=8).eval()
    assert dilated.how == 'dilated' and isinstance(dilated.pool, TimmPool)
    mean = dilated.feature_map(x).mean((2, 3), keepdim=True)
    assert torch.allclose(dilated.features(x), dilated.net.head.norm(mean).flatten(1), atol=1e-5)
    net = timm.create_model('test_convnext', num_classes=0).eval()
    given = Backbone(net, size=64)
    assert torch.allclose(given.features(x), pre_logits(net, given, x), atol=1e-5)
    bare = timm.create_model('test_convnext', num_classes=0, global_pool='')
    assert isinstance(Backbone(bare, size=64).pool, MeanPool)


@pytest.mark.parametrize('name, says', [
    ('coat_tiny', 'coat_tiny.*feature map.*another network'), ('pit_ti_224', 'pit_ti_224.*feature map'),
    ('volo_d1_224', 'volo_d1_224.*feature map'), ('test_vit3', "test_vit3.*pool='mean'"),
    ('efficientformer_l1', 'efficientformer_l1 cannot read images of 64 x 64')])
def test_a_network_whose_features_are_not_its_map_is_refused_by_name(name, says):
    with pytest.raises(ValueError, match=says): create_method('supervised', labels=3, size=64, backbone=name)


def test_a_network_without_stages_is_refused_by_name(monkeypatch):
    import timm
    bare = nn.Sequential(nn.Conv2d(3, 4, 3))
    monkeypatch.setattr(timm, 'create_model', lambda *args, **kw: bare)
    with pytest.raises(ValueError, match='vgg11 leaves no feature map.*resnet18'): Backbone('vgg11')


def before(method):
    "The state of a method as it was saved when every network was pooled by the mean of its cells."
    method.backbone.pool_by_mean()
    if method.head.in_features != method.backbone.dim: method.attach(method.backbone.dim)
    return method.eval()


@pytest.mark.parametrize('backbone', ['test_convnext', 'mobilenetv3_small_050', 'test_vit'])
@pytest.mark.parametrize('name', ['supervised', 'mpc', 'acaa'])
def test_files_from_before_keep_their_mean_and_their_scores(name, backbone, tmp_path):
    from cxr_workbench.learner import load, save
    x = torch.rand(3, 1, 64, 64)
    def build(): return create_method(name, labels=3, size=64, preset='tiny', backbone=backbone)
    seed_all(0); old = before(build())
    z = old.backbone.feature_map(x).mean((2, 3))
    assert torch.equal(old(x), old.head(z)) and not any('follows_timm' in key for key in old.state_dict())
    again = load(save(old, tmp_path))
    assert torch.equal(again(x), old(x)) and again.state_dict().keys() == old.state_dict().keys()
    seed_all(0); new = build().eval()
    assert torch.equal(load(save(new, tmp_path/'new'))(x), new(x))
    assert not torch.allclose(new(x), old(x))


@torch.no_grad()
def test_packaged_models_score_as_they_did():
    from cxr_workbench.learner import load, find_model
    from cxr_workbench.phantom import SyntheticCXR
    x = torch.as_tensor(SyntheticCXR(4, size=64, seed=7).images).float()[:, None]/255
    scores = dict(supervised=[1.6912, -5.7043, -4.1079], referee=[2.1981, -8.9278, -5.4805],
                  can=[.9879, -1.5091, -.885], lcc=[1.9236, -5.6612, -4.3801],
                  trcgl=[2.4157, -9.2474, -5.1376])
    for name, first in scores.items():
        assert load(find_model(name))(x)[0, :3].tolist() == pytest.approx(first, abs=2e-3), name


def test_a_copy_owns_its_pool():
    import copy, pickle
    backbone = Backbone('test_convnext', size=64).eval()
    for twin in (copy.deepcopy(backbone), pickle.loads(pickle.dumps(backbone))):
        assert twin.pool.net[0] is twin.net and twin.net is not backbone.net
        with torch.no_grad(): twin.net.head.norm.weight.mul_(2)
        x = torch.rand(1, 1, 64, 64)
        assert not torch.allclose(twin.features(x), backbone.features(x))
        twin.load_state_dict(backbone.state_dict())
        assert torch.equal(twin.features(x), backbone.features(x))


# ---- lengths and directions on images of any shape ----

def spread(x):
    "Spread of what is bright along its shortest and its longest direction, standard deviations in pixels."
    at = x[0, 0].nonzero().double()
    weight = x[0, 0][x[0, 0] > 0].double()
    mean = (at*weight[:, None]).sum(0)/weight.sum()
    off = at - mean
    return torch.linalg.eigvalsh((off*weight[:, None]).T @ off/weight.sum()).sqrt()


def drawn(h, w, shape):
    x = torch.zeros(1, 1, h, w)
    i, j = torch.meshgrid(torch.arange(h), torch.arange(w), indexing='ij')
    i, j = i - (h-1)/2, j - (w-1)/2
    inside = (i.abs() < 14) & (j.abs() < 2) if shape == 'bar' else i**2 + j**2 < 100
    x[0, 0] = inside.float()
    return x


@pytest.mark.parametrize('h, w', [(64, 64), (48, 96), (96, 48), (64, 80)])
@pytest.mark.parametrize('angle', [-60., 10., 45., 90.])
@pytest.mark.parametrize('shape', ['bar', 'disc'])
def test_what_is_turned_keeps_its_length(h, w, angle, shape):
    x = drawn(h, w, shape)
    out = move_images(x, rotate=torch.full((1, 2), angle))
    assert torch.allclose(spread(out), spread(x), rtol=.06, atol=.15)
    assert float(out.sum()) == pytest.approx(float(x.sum()), rel=.03)


@pytest.mark.parametrize('h, w', [(64, 64), (48, 96), (96, 48)])
def test_a_shear_has_its_tangent_and_a_shift_its_share(h, w):
    x = torch.zeros(1, 1, h, w)
    x[..., w//2-1:w//2+1] = 1
    out = move_images(x, shear=torch.full((1, 2), .2))
    columns = torch.arange(w).double()
    place = (out[0, 0].double() @ columns)/out[0, 0].double().sum(1)
    slope = place.diff()[2:-2].abs()
    assert torch.allclose(slope, torch.full_like(slope, .2), atol=.03)
    out = move_images(x, translate=torch.tensor([[.1, 0.]]))
    first = out[0, 0, 0].double()
    shift = float(first @ columns/first.sum()) - (w/2 - .5)
    assert abs(abs(shift) - .1*w) < .3


def test_a_square_is_a_square_on_any_image():
    seed_all(0)
    inside = draw_square(torch.zeros(20, 1, 40, 80), torch.full((20,), .25))
    for axis in (2, 3): assert (inside.any(axis).sum(-1) == 10).all()


@pytest.mark.parametrize('side', [32, 64, 224])
def test_a_blur_is_as_strong_at_every_size(side):
    x = torch.zeros(1, 1, side, side)
    x[..., side//2, side//2] = 1
    out = blur_images(x, torch.tensor([.025]))
    at = torch.arange(side) - side//2
    wide = float((out[0, 0].sum(0)*at**2).sum())**.5
    assert out.sum() == pytest.approx(1, abs=1e-4) and wide == pytest.approx(.025*side, rel=.06)
    flat = torch.full((2, 1, 24, 40), .3)
    assert torch.allclose(blur_images(flat, torch.tensor([.02, .1])), flat, atol=1e-6)
    noise = torch.rand(4, 1, side, side)
    others = 'brightness contrast gamma sharpness posterise rotate translate shear cutout'
    none = dict.fromkeys(others.split())
    assert StrongView(1, **none)(noise).std() < .97*noise.std()


def test_a_blur_in_pixels_is_read_as_it_was_meant():
    with pytest.warns(UserWarning, match='share of the side'): view = StrongView(1, blur=(.1, 1.5))
    assert view.ranges['blur'] == pytest.approx((.1/224, 1.5/224), abs=1e-5)


# ---- half precision ----

ENTRYWISE = dict(
    bce=masked_bce, asl=asymmetric_loss, asl_soft=lambda s, y: asymmetric_loss(s, y, None, .5, .5, .2),
    asl_no_margin=lambda s, y: asymmetric_loss(s, y, None, 2., 4., 0.),
    weighted=lambda s, y: weighted_bce(s, y, torch.tensor([.01])),
    consistency=lambda s, y: consistency_loss(s, y, y >= 0), agreement=lambda s, y: agreement_loss(s, s*0))


@pytest.mark.parametrize('dtype, tolerance', [(torch.float32, 1e-3), (torch.bfloat16, .02), (torch.float16, .02)])
@pytest.mark.parametrize('y', [0., 1.])
@pytest.mark.parametrize('loss', ENTRYWISE.values(), ids=ENTRYWISE)
def test_gradients_in_half_precision_are_those_of_double(loss, y, dtype, tolerance):
    s = torch.cat([torch.linspace(-12, 12, 97), torch.tensor([-200., -40., 40., 200.])])
    s = s.bfloat16().double()[:, None]
    def slope(t):
        t = t.requires_grad_()
        value = loss(t, torch.full_like(t, y))
        assert value.dtype == torch.promote_types(t.dtype, torch.float32) and torch.isfinite(value)
        return torch.autograd.grad(value, t)[0].double()
    exact, found = slope(s.clone()), slope(s.to(dtype))
    assert torch.isfinite(found).all() and torch.allclose(found, exact, rtol=tolerance, atol=1e-6)
    assert ((found != 0) | (exact.abs() < 1e-6)).all()


def test_inverse_prevalence_is_one_rule():
    from cxr_workbench.methods.can import balance_weights
    rare = torch.tensor([0., 1e-5, 2e-4, .01, .5, 1.])
    for mine, theirs in zip(class_weights(rare), balance_weights(rare)): assert torch.equal(mine, theirs)
    assert class_weights(rare)[0][2] == pytest.approx(2500) and class_weights(.25)[0] == 2
    for rule in (class_weights, balance_weights):
        with pytest.raises(ValueError, match=r'\[0, 1\]'): rule(torch.tensor([.2, 1.2]))
