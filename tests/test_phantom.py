"""The phantom: declared statistics, honest masks, rows that depend on nothing but themselves."""
import pickle
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from cxr_workbench.phantom import LATENT_CORR, PREVALENCE, SyntheticCXR, binary_correlation, probability_of_none
from cxr_workbench.thorax import ANATOMY, FINDINGS, LABELS, PAINTERS, changed_pixels, noise, resample_matrix


@pytest.fixture(scope='module')
def cxr(): return SyntheticCXR(300, size=64, seed=11)


@pytest.fixture(scope='module')
def healthy(cxr): return np.flatnonzero(~cxr.labels[:, 1:].any(1))[:6]


def test_tables(cxr):
    assert cxr.label_names == LABELS and len(LABELS) == 14 and set(PAINTERS) == set(FINDINGS)
    assert cxr.labels.shape == cxr.severity.shape == (300, 14) and set(np.unique(cxr.labels)) == {0, 1}
    assert cxr.images.shape == (300, 64, 64) and cxr.images.dtype == np.uint8 and cxr.images is cxr.images
    assert cxr.latent_corr.shape == (13, 13) and cxr.true_corr.shape == (14, 14) and cxr.prevalence.shape == (14,)
    assert np.isnan(cxr.true_corr[0]).all() and np.isnan(cxr.true_corr[:, 0]).all()
    assert np.allclose(np.diag(cxr.true_corr)[1:], 1)
    assert np.array_equal(cxr.severity[:, 1:] > 0, cxr.labels[:, 1:] == 1)
    assert cxr.severity.max() <= 1 and not cxr.severity[:, 0].any()


def test_patients_have_one_to_five_images_each_in_a_row(cxr):
    counts = np.bincount(cxr.patient_id)
    assert counts[:-1].min() >= 1 and counts.max() <= 5
    assert (np.diff(cxr.patient_id) >= 0).all() and len(counts) < 300


def test_no_finding_ignores_devices(cxr):
    assert np.array_equal(cxr.labels[:, 0] == 0, cxr.labels[:, 1:13].any(1))
    assert (cxr.labels[:, 0]*cxr.labels[:, 13]).any()
    i = int(np.flatnonzero(cxr.labels[:, 0])[0])
    assert not cxr.mask(i)[0].any()


def test_bivariate_integral_against_scipy():
    from scipy.stats import multivariate_normal, norm
    cases = [
        (.4, .02, .5), (.1, .3, -.4),
        (.05, .05, .8), (.5, .5, 0)]
    for p, q, rho in cases:
        R = [[1, rho], [rho, 1]]
        joint = multivariate_normal([0, 0], R).cdf([norm.ppf(p), norm.ppf(q)])
        phi = (joint - p*q)/np.sqrt(p*(1 - p)*q*(1 - q))
        assert np.isclose(binary_correlation([p, q], R)[0, 1], phi, atol=1e-5)


def test_orthant_probability():
    for rho in (.2, .5, .8):  # equicorrelated medians: the arc-sine law in two and three dimensions
        R = np.full((3, 3), rho) + (1 - rho)*np.eye(3)
        angle = np.arcsin(rho)/np.pi
        assert np.isclose(probability_of_none([.5]*2, R[:2, :2]), .25 + angle/2, atol=5e-4)
        assert np.isclose(probability_of_none([.5]*3, R), .125 + 3*angle/4, atol=5e-4)


@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 10**6), strength=st.floats(0, .9))
def test_declared_statistics_hold(seed, strength):
    rng = np.random.default_rng(seed)
    R, prevalence = (1 - strength)*np.eye(13) + strength*LATENT_CORR, rng.uniform(.05, .6, 13)
    cxr = SyntheticCXR(20_000, seed=seed, prevalence=prevalence, latent_corr=R, images_per_patient=(1, 1))
    z = (cxr.labels.mean(0) - cxr.prevalence)/np.sqrt(cxr.prevalence*(1 - cxr.prevalence)/cxr.n)
    counted, pair = np.corrcoef(cxr.labels[:, 1:].T), np.triu_indices(13, 1)
    error = (counted - cxr.true_corr[1:, 1:])[pair]*np.sqrt(cxr.n)
    assert np.abs(z).max() < 5
    assert np.abs(error).max() < 6.5 and np.sqrt((error**2).mean()) < 1.6


def correlate_pairs(cxr, label):
    "Correlation of one label between the two images of each patient."
    return np.corrcoef(cxr.labels[::2, label], cxr.labels[1::2, label])[0, 1]


def test_persistence():
    none, some, all_of_it = (
        SyntheticCXR(8000, seed=5, images_per_patient=(2, 2), persistence=s) for s in (0, .6, 1))
    assert .2 < correlate_pairs(some, 4) < .8 and np.isclose(correlate_pairs(all_of_it, 4), 1)
    assert abs(correlate_pairs(none, LABELS.index('Edema'))) < .06


def test_rows_depend_on_nothing_else(cxr):
    fewer, other = SyntheticCXR(70, size=64, seed=11, chunk=5), SyntheticCXR(70, size=64, seed=12)
    for name in ('images', 'labels', 'severity', 'patient_id'):
        assert np.array_equal(getattr(fewer, name), getattr(cxr, name)[:70]), name
    assert not np.array_equal(fewer.images, other.images)
    assert np.array_equal(cxr.draw_images([42, 7])[1], cxr.image(7))
    assert np.array_equal(cxr.render(7)[0], cxr.image(7))
    assert np.array_equal(np.rint(cxr.image(7)*255).astype(np.uint8), cxr.images[7])
    assert np.array_equal(cxr.draw_images(cxr.patient_id == 3), cxr.draw_images(np.flatnonzero(cxr.patient_id == 3)))
    again = pickle.loads(pickle.dumps(fewer))
    assert np.array_equal(again.image(3), fewer.image(3))


@pytest.mark.parametrize('name', FINDINGS)
@pytest.mark.parametrize('size', [64, 160])
def test_mask_is_where_the_picture_changed(cxr, healthy, name, size):
    k, grain = LABELS.index(name), list(ANATOMY).index('grain')
    for i in healthy:
        plain = cxr.render(i, size=size)[0]
        for severity in (.3, 1.):
            image, masks = cxr.render(i, {name: severity}, size)
            change, mask = np.abs(image - plain), masks[k]
            assert mask.any() and masks.sum() == mask.sum()
            assert change[mask].sum() >= .95*change.sum()
            noise_of_the_mean = cxr._anatomy[i, grain]/np.sqrt(mask.sum())
            assert change[mask].mean() > (2 if severity < 1 else 4)*noise_of_the_mean


@pytest.mark.parametrize('name', FINDINGS)
def test_severity_grows_and_zero_is_without(cxr, healthy, name):
    for i in healthy[:3]:
        plain = cxr.render(i)[0]
        assert np.array_equal(cxr.render(i, {name: 0})[0], plain)
        drawn = [cxr.render(i, {name: severity})[0] for severity in (.1, .4, .7, 1)]
        change = [np.abs(image - plain).sum() for image in drawn]
        assert change[0] > 0 and change[-1] > change[0] and sorted(change) == change


def test_other_findings_stay(cxr):
    i = int(np.argmax(cxr.labels.sum(1)))
    present = [name for name in FINDINGS if cxr.labels[i, LABELS.index(name)]]
    same, _ = cxr.render(i, {name: float(cxr.severity[i, LABELS.index(name)]) for name in present})
    assert np.array_equal(same, cxr.image(i)) and cxr.mask(i).any((1, 2)).sum() <= len(present)


@pytest.mark.parametrize('size', [48, 64, 224])
def test_sizes_share_the_scene(cxr, size):
    i = int(np.argmax(cxr.labels.sum(1)))
    W = resample_matrix(size, 32)
    a, b = W@cxr.image(i, size)@W.T, cxr.image(i, 32)
    assert np.abs(a - b).mean() < .015 and np.corrcoef(a.ravel(), b.ravel())[0, 1] > .985


def test_anatomy_is_radiological(cxr, healthy):
    x = cxr.draw_images(healthy, 64)
    right, left = x[:, 26:46, 38:50].mean(), x[:, 26:46, 14:26].mean()
    assert right > left + .03   # heart to the viewer's right
    air, lung = x[:, :6, :6].mean(), x[:, 20:30, 14:22].mean()
    assert air < .15 < lung < x[:, 58:, 24:40].mean()   # the abdomen is brighter


@settings(max_examples=20, deadline=None)
@given(nodes=st.integers(4, 70), size=st.integers(4, 90))
def test_resampling_keeps_the_mean_of_a_constant(nodes, size):
    W = resample_matrix(nodes, size)
    assert W.shape == (size, nodes) and np.allclose(W.sum(1), 1, atol=1e-5) and W.min() >= 0


def test_noise_differs_between_images_and_lattices():
    field = noise(np.arange(64, dtype=np.uint32), 64, 64)
    between = np.corrcoef(field.reshape(64, -1)) - np.eye(64)
    assert abs(field.mean()) < .01 and abs(field.var() - 1) < .02 and abs(between).max() < .1


def test_changed_is_relative():
    delta = np.zeros((2, 8, 8), np.float32)
    delta[0, 2:4, 2:4] = -.5
    assert changed_pixels(delta)[0].sum() == 4 and not changed_pixels(delta)[1].any()


@pytest.mark.parametrize('arguments, message', [
    (dict(prevalence=np.full(14, .1)), 'shape'),
    (dict(prevalence=np.r_[1., PREVALENCE[1:]]), 'outside'),
    (dict(prevalence=np.r_[np.nan, PREVALENCE[1:]]), 'outside'),
    (dict(latent_corr=np.eye(14)), 'shape'),
    (dict(latent_corr=np.ones((13, 13))), 'positive definite'),
    (dict(latent_corr=2*np.eye(13)), 'diagonal'),
    (dict(latent_corr=np.eye(13) + np.triu(np.full((13, 13), .1), 1)), 'symmetric'),
    (dict(persistence=1.2), 'persistence'),
    (dict(images_per_patient=(0, 2)), 'images_per_patient'),
    (dict(images_per_patient=(3, 2)), 'images_per_patient'),
    (dict(mildest=0), 'mildest'),
    (dict(size=4), 'size'), (dict(n=0), 'n=0')])
def test_refusals(arguments, message):
    with pytest.raises(ValueError, match=message): SyntheticCXR(**{'n': 5, **arguments})


def test_render_refuses(cxr):
    with pytest.raises(KeyError, match='No Finding'): cxr.render(0, {'No Finding': 1})
    with pytest.raises(KeyError, match='Hernia'): cxr.render(0, {'Hernia': 1})
    with pytest.raises(ValueError, match='Edema'): cxr.render(0, {'Edema': -.1})
    with pytest.raises(ValueError, match='Edema'): cxr.render(0, {'Edema': float('nan')})
    with pytest.raises(IndexError): cxr.image(300)
