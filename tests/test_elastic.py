"""The elastic deformation: its spread, what it moves, what it leaves alone, and what it refuses."""
import pytest, torch
from hypothesis import given, settings, strategies as st
from cxr_workbench import elastic as E
from cxr_workbench.consistency import StrongView
from cxr_workbench.core import seed_all


def seeded(seed): return torch.Generator().manual_seed(seed)


@settings(max_examples=20, deadline=None)
@given(st.floats(3, 12), st.floats(1, 200), st.integers(0, 99))
def test_displacement_has_the_stated_spread(sigma, alpha, seed):
    d = E.elastic_displacement(12, 192, sigma, alpha, generator=seeded(seed))
    assert d.shape == (12, 2, 192, 192)
    assert abs(float(d.std())/(.1629*alpha/sigma) - 1) < .1
    assert abs(float(d.diff(dim=-2).std())/(.1152*alpha/sigma**2) - 1) < .1


def test_every_pixel_has_the_same_spread():
    "Against the definition: a full field of noise, blurred."
    side, sigma, alpha = 48, 4., 30.
    at = torch.arange(side + 64.)
    distance = (at[:, None] - at)/sigma
    blur = torch.exp(-.5*distance**2)/(sigma*(2*torch.pi)**.5)
    noise = 2*torch.rand(600, side + 64, side + 64, generator=seeded(0)) - 1
    slow = alpha*(blur @ noise @ blur)[:, 32:-32, 32:-32]
    fast = E.elastic_displacement(300, side, sigma, alpha, generator=seeded(1)).flatten(0, 1)
    assert abs(float(fast.std()/slow.std()) - 1) < .05
    spread = fast.std(0)/fast.std()
    assert spread.min() > .85 and spread.max() < 1.15                      # 600 draws: 3 % is one standard error
    def smoothness(field, lag):
        products = field[..., lag:]*field[..., :-lag]
        return float(products.mean()/field.square().mean())

    for lag in (2, 4, 8): assert abs(smoothness(fast, lag) - smoothness(slow, lag)) < .05, lag


def test_each_image_has_its_own_sigma_and_alpha():
    sigma, alpha = torch.tensor([6., 6., 6., 12.]), torch.tensor([0., 20., 80., 80.])
    d = E.elastic_displacement(4, 160, sigma, alpha, generator=seeded(0))
    spread = d.flatten(1).std(1)
    assert not d[0].any() and torch.allclose(spread[1:], (.1629*alpha/sigma)[1:], rtol=.3)
    with pytest.raises(ValueError, match='for 4 images'): E.elastic_displacement(4, 32, torch.tensor([6., 6.]), 1.)
    with pytest.raises(ValueError, match='positive'): E.elastic_displacement(4, 32, 0., 1.)


def test_fields_are_reproducible_rectangular_and_of_the_asked_type():
    def draw(seed, **kw): return E.elastic_displacement(2, (40, 56), 5., 9., generator=seeded(seed), **kw)
    assert torch.equal(draw(1), draw(1)) and not torch.equal(draw(1), draw(2))
    assert draw(1).shape == (2, 2, 40, 56) and draw(1, dtype=torch.float64).dtype == torch.float64


def test_the_default_range_does_not_fold():
    view, folded, n = E.RandomElasticDeformation(), 0, 0
    for seed in range(5):
        g = seeded(seed)
        sigma = 6 + 4*torch.rand(40, generator=g)
        d = E.elastic_displacement(40, 224, sigma, view.limit*sigma**2, generator=g)
        smallest = E.jacobian_determinant(d).flatten(1).amin(1)
        folded, n = folded + int((smallest <= 0).sum()), n + 40
    assert folded <= n/100
    torn = E.jacobian_determinant(E.elastic_displacement(8, 224, 6., 4*36., generator=seeded(0)))
    assert torn.min() < 0                                                  # and the test can see folding


def test_a_known_displacement_moves_the_pixels_by_it():
    x = torch.rand(2, 1, 20, 20)
    d = torch.zeros(2, 2, 20, 20)
    d[:, 0] += 3                                                           # read three columns to the right
    out = E.warp(x, d)
    assert torch.allclose(out[..., :-3], x[..., 3:], atol=1e-4)
    assert torch.allclose(out[..., -3:], x[..., -4:-1].flip(-1), atol=1e-4)      # reflected
    assert torch.allclose(E.warp(x, d*0), x, atol=1e-4)


@pytest.mark.parametrize('view', [StrongView(3), E.RandomElasticDeformation(p=1.)])
def test_autocast_does_not_move_the_pixels(view):
    x, seen = torch.rand(6, 1, 160, 160), []
    for enabled in (False, True):
        seed_all(3)
        with torch.autocast('cpu', torch.bfloat16, enabled=enabled): seen.append(view(x))
    assert seen[1].dtype == torch.float32 and torch.equal(*seen)
    still = torch.zeros(6, 2, 160, 160, dtype=torch.bfloat16)
    with torch.autocast('cpu', torch.bfloat16): assert (E.warp(x, still) - x).abs().max() < 1e-4


SIZES = st.sampled_from([24, 64])


@given(st.integers(1, 5), SIZES, st.floats(0, 1), st.integers(0, 9))
@settings(max_examples=20, deadline=None)
def test_bending_keeps_shape_range_and_flat_images(n, size, p, seed):
    seed_all(seed)
    view, x = E.RandomElasticDeformation(p=p), torch.rand(n, 1, size, size)
    out = view(x)
    assert out.shape == x.shape and out.dtype == x.dtype
    assert out.min() >= x.min() - 1e-6 and out.max() <= x.max() + 1e-6
    flat = torch.full_like(x, .25)
    assert torch.allclose(view(flat), flat, atol=1e-6)
    assert torch.equal(E.RandomElasticDeformation(strength=0., p=1)(x), x)
    assert torch.equal(E.RandomElasticDeformation(p=0)(x), x)


def test_ranges_that_cross_are_refused():
    for wrong in (dict(sigma=(9., 6.)), dict(strength=(1., .3)), dict(strength=-1.)):
        with pytest.raises(ValueError, match='low, high'): E.RandomElasticDeformation(**wrong)


def test_images_are_bent_one_by_one():
    seed_all(0)
    x = torch.rand(1, 1, 64, 64).expand(40, 1, 64, 64)
    out = E.RandomElasticDeformation(p=.5)(x)
    same = torch.tensor([torch.equal(a, b) for a, b in zip(out, x)])
    bent = out[~same]
    assert 8 < same.sum() < 32 and len({float(image.sum()) for image in bent}) == len(bent)
    for bad in (dict(sigma=0.), dict(sigma=(9., 6.)), dict(p=1.5)):
        with pytest.raises(ValueError): E.RandomElasticDeformation(**bad)


# ---- how far the view moves ----

@pytest.mark.parametrize('shape', [(32, 32), (64, 64), (224, 224), (48, 96)])
def test_the_default_deformation_moves_the_same_share_at_every_size(shape):
    seed_all(0)
    view, side = E.RandomElasticDeformation(p=1), min(shape)
    d = view.displacement(60, torch.zeros(1, 1, *shape))
    moved = float(d.norm(dim=1).mean())
    assert d.shape == (60, 2, *shape) and .015*side < moved < .035*side and moved > .5
    assert (E.jacobian_determinant(d).flatten(1).amin(1) > 0).float().mean() > .95
    seed_all(1)
    x = torch.rand(60, 1, *shape)
    assert (view(x) - x).abs().mean() > .05


def test_a_smoothness_in_pixels_is_read_as_before():
    def view(*sigma): return E.RandomElasticDeformation(sigma, strength=(.3, 1.), p=1)
    old, new = view(6., 10.), view(6/224, 10/224)
    assert old.sigma == pytest.approx(new.sigma)
    x = torch.rand(3, 1, 64, 64)
    seed_all(2); a = old(x)
    seed_all(2); b = new(x)
    assert torch.equal(a, b)
    assert E.RandomElasticDeformation(sigma=8, size=64).sigma == (.125, .125)
    seed_all(2)
    d = old.displacement(200, torch.zeros(1, 1, 224, 224))
    assert float(d.std()) == pytest.approx(.163*1.3*.65*8, rel=.15)      # pixels, by the formula


def test_the_page_of_mpc_has_the_names_too():
    from cxr_workbench.methods import mpc
    for name in ('elastic_displacement', 'RandomElasticDeformation', 'warp', 'jacobian_determinant'):
        assert getattr(mpc, name) is getattr(E, name)


@pytest.mark.parametrize('sigma', [.5, 2., 6., 32.])
def test_no_weight_of_a_node_is_subnormal(sigma):
    "Such numbers make a product many times slower on some processors; left out, they change nothing."
    weights = E.smoothing_matrix(224, torch.tensor([sigma]))
    present = weights[weights > 0]
    assert present.min() > torch.finfo(torch.float32).tiny
    assert torch.allclose(weights.norm(dim=-1), torch.ones(1, 224))
