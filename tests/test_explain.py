"Attributions: promises kept on every method, grids the right way up, scores with known answers, and bad input."
import sys, warnings
from pathlib import Path
import numpy as np
import pytest, torch
from torch import nn
from cxr_workbench import explain as E
from cxr_workbench.backbone import Backbone
from cxr_workbench.core import Method, create_method, list_methods, seed_all
from cxr_workbench.metrics import map_iou, pointing_game

pytest.importorskip('captum')
NAMES, SIZE, ROOT = ['Edema', 'Hernia', 'Mass'], 64, Path(__file__).resolve().parent.parent
METHODS = list_methods('cxr_workbench')  # not those of other tests
FAST = dict(integrated_gradients=dict(steps=2), occlusion=dict(window=32, stride=32))


def make(name, **kw):
    seed_all(0)
    return create_method(name, labels=NAMES, size=SIZE, preset='tiny', **kw).eval()


def images(n=3): return torch.rand(n, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
def fast(how): return FAST.get(how, {})


class Brightness(Method):
    "Each label adds up one quarter of the image: nothing to learn, and the truth is known."
    def __init__(self, where=((0, 0), (0, 1), (1, 0))):
        super().__init__(NAMES)
        self.where, self.tap, self.gain = where, nn.Identity(), nn.Parameter(torch.ones(1))

    def look(self, x):
        maps = self.tap(nn.functional.avg_pool2d(x, 8)*self.gain)   # (B, 1, 8, 8)
        quarter = maps[:, 0].unflatten(1, (2, 4)).unflatten(3, (2, 4)).sum((2, 4))   # (B, 2, 2)
        logits = torch.stack([quarter[:, i, j] for i, j in self.where], 1)
        return logits, dict(feature_map=maps)


# ---- every method, every way ----

@pytest.mark.parametrize('name', METHODS)
def test_every_way_on_every_method(name):
    method, x = make(name), images()
    method.train()
    modes = [m.training for m in method.modules()]
    state = {k: v.clone() for k, v in method.state_dict().items()}
    for how in E.list_ways(method, x):
        maps = E.attribute(method, x, 'Hernia', how, **fast(how))
        assert maps.shape == (3, SIZE, SIZE) and torch.isfinite(maps).all() and not maps.requires_grad, how
        single = E.attribute(method, x[1:2], 1, how, **fast(how))
        assert torch.allclose(single[0], maps[1], atol=1e-4*max(1, float(maps.abs().max()))), how
    assert [m.training for m in method.modules()] == modes
    assert all(p.grad is None for p in method.parameters())
    assert all(torch.equal(v, state[k]) for k, v in method.state_dict().items())


def test_modes_come_back_after_an_error():
    method = make('supervised').train()
    with pytest.raises(ValueError): E.attribute(method, images(), 0, 'attention')
    assert method.training and method.backbone.training


def test_a_label_per_image_and_batches():
    method, x = make('supervised'), images()
    each = E.attribute(method, x, ['Mass', 0, 'Hernia'], batch_size=2)
    one_by_one = [E.attribute(method, x, c)[i] for i, c in enumerate((2, 0, 1))]
    assert torch.allclose(each, torch.stack(one_by_one), atol=1e-6)
    assert E.attribute(method, x[:0], 'Mass').shape == (0, SIZE, SIZE)
    assert torch.allclose(each, E.attribute(method, x, np.array([2, 0, 1])), atol=1e-6)


def test_own_attention_is_that_of_the_label():
    method, x = make('lcc', min_cells=8), images()
    own = method.look(x)[1]['attention'][:, 2:3].detach()
    own = nn.functional.interpolate(own, SIZE, mode='bilinear')[:, 0]
    assert torch.allclose(E.attribute(method, x, 'Mass', 'attention'), own, atol=1e-6)


# ---- promises ----

@pytest.mark.parametrize('backbone', ['test_resnet', 'test_vit', 'test_convnext'])
def test_grad_cam_of_a_linear_head_is_its_cam(backbone):
    method, x = make('supervised', backbone=backbone, min_cells=8), images()
    maps = method.look(x)[1]['feature_map'].detach().requires_grad_()
    score = method.head(method.backbone.pool(maps))[:, 1].sum()
    pull = torch.autograd.grad(score, maps)[0]   # the same in every cell
    cam = (pull*maps.detach()).sum(1)
    found = E.grad_cam(method, x, torch.full((3,), 1))
    close = 1e-5*float(cam.abs().max())
    assert torch.allclose(found, cam, atol=close)
    if backbone != 'test_resnet': return
    linear = torch.einsum('d,bdhw->bhw', method.head.weight[1].detach(), maps.detach())/cam[0].numel()
    assert torch.allclose(cam, linear, atol=close)


def test_integrated_gradients_are_complete():
    method, x = make('supervised'), images(2)
    for baseline in (0., torch.ones(1, 1, SIZE, SIZE)):
        start = torch.as_tensor(baseline).expand_as(x)
        gained = (method(x) - method(start))[:, 2].detach()
        maps = E.attribute(method, x, 'Mass', 'integrated_gradients', steps=100, baseline=baseline)
        found = maps.sum((1, 2))
        assert (found - gained).abs().max() <= .05*gained.abs().max() + 1e-3


@pytest.mark.parametrize('how', ['grad_cam', 'integrated_gradients', 'occlusion'])
def test_the_peak_is_where_the_label_looks(how):
    method, x = Brightness(), images()*.2 + .4
    method.cam_targets = lambda: dict(feature_map=method.tap)
    if how == 'grad_cam':   # a CAM has one weight per channel: brightness decides
        x = x.clone()
        x[..., 32:] *= .1
    settings = dict(baseline=0.) if how == 'occlusion' else {}
    maps = E.attribute(method, x, 'Edema', how, **settings)
    inside = maps[:, :32, :32].mean((1, 2))
    outside = maps[:, :32, 40:].mean((1, 2))
    assert (inside > 2*outside.abs()).all()


def test_occlusion_of_the_top_left_patch():
    method, x = Brightness(), torch.full((1, 1, SIZE, SIZE), .1)
    x[..., :8, :8] = 1
    patches = dict(window=8, stride=8, baseline=0.)
    maps = E.attribute(method, x, 'Edema', 'occlusion', **patches)
    assert divmod(int(maps[0].argmax()), SIZE) < (8, 8)
    assert maps[0, :8, :8].min() > 5*maps[0, 8:, 8:].max()
    other = E.attribute(method, x, 'Mass', 'occlusion', **patches)
    assert other[0, :32].abs().max() < 1e-6


def test_a_blind_head_has_empty_maps():
    method = make('supervised')
    nn.init.zeros_(method.head.weight)
    for how in E.list_ways(method, images()):
        assert E.attribute(method, images(), 0, how, **fast(how)).abs().max() < 1e-5


# ---- grids ----

def use_swin(method):
    "Give a baseline a small Swin transformer of 8 x 8 cells."
    shape = dict(embed_dim=16, depths=(1, 1, 1, 1), num_heads=(1, 2, 2, 2), window_size=2)
    method.backbone = Backbone('swin_tiny_patch4_window7_224', size=SIZE, min_cells=8, **shape)
    method.head = nn.Linear(method.backbone.dim, 3)
    return method.eval()


def test_vit_and_swin_answer_in_their_own_cell():
    vit, swin = make('supervised', backbone='test_vit', min_cells=8), use_swin(make('supervised'))
    for method in (vit, swin):
        for cell in [(0, 0), (1, 6), (7, 3), (4, 5)]:
            response = E.cell_response(method, images(), *cell).mean(0)
            assert divmod(int(response.argmax()), 8) == cell
        assert max(map(abs, E.displacement(method, images(1)))) < .3


def test_grad_cam_on_swin_is_its_cam():
    method, x = use_swin(make('supervised')), images()
    feature_map = method.look(x)[1]['feature_map'].detach()
    cam = torch.einsum('d,bdhw->bhw', method.head.weight[0].detach(), feature_map)
    found = E.grad_cam(method, x, torch.zeros(3, dtype=torch.long))
    assert torch.allclose(found, cam/64, atol=1e-5*float(cam.abs().max()))


def test_displacement_is_found_and_undone():
    method = Brightness()
    method.cam_targets = lambda: dict(feature_map=method.tap)
    assert max(map(abs, E.displacement(method, images(1)))) < 1e-6
    class OneDownOneLeft(nn.Module):
        def forward(self, m): return nn.functional.pad(m, (0, 1, 1, 0), 'reflect')[..., :8, 1:]
    method.tap = OneDownOneLeft()
    down, right = E.displacement(method, images(1))
    assert down == pytest.approx(1, abs=.2) and right == pytest.approx(-1, abs=.2)
    m = torch.zeros(2, 16, 16)
    m[:, 6, 5] = 1
    assert (E.shift_maps(m, -2, 3).flatten(1).argmax(1) == 4*16 + 8).all()


# ---- one scale ----

def test_normalise_map():
    m = torch.randn(2, 3, 16, 16)
    n = E.normalise_map(m)
    assert n.shape == m.shape and n.min() == 0
    assert torch.allclose(n.amax((2, 3)), torch.ones(2, 3))
    assert torch.allclose(E.normalise_map(5*m), n, atol=1e-6)
    assert not E.normalise_map(-m.abs()).any()            # nothing positive: nothing, and no NaN
    assert not E.normalise_map(torch.zeros(4, 4)).any()
    with pytest.raises(ValueError, match='NaN'): E.normalise_map(m*float('nan'))


def test_normalise_map_on_a_coarser_grid():
    m = torch.randn(2, 3, 16, 16)
    coarse = E.normalise_map(m, 4)
    assert coarse.shape == (2, 3, 4, 4) and E.normalise_map(m[0, 0], 4).shape == (4, 4)
    assert torch.allclose(coarse[1, 2], E.normalise_map(m[1, 2], 4))


def test_normalise_map_from_its_least_value():
    m = torch.randn(2, 3, 16, 16)
    relative = E.normalise_map(m, relative=True)
    assert torch.allclose(E.normalise_map(m - 50, relative=True), relative, atol=1e-4)
    assert not E.normalise_map(torch.ones(4, 4), relative=True).any()


# ---- scores ----

def test_boxes_to_mask():
    m = E.boxes_to_mask([[0, 0, 512, 256], [512, 512, 512, 512]], 1024, 64)
    assert m.shape == (64, 64) and m.sum() == 16*32 + 32*32
    assert m[:16, :32].all() and m[32:, 32:].all()
    assert E.boxes_to_mask([[0, 0, 100, 50]], (100, 200), 10).sum() == 5*5
    outside = [[900, 0, 200, 50], [-40, 0, 100, 50], [2000, 2000, 5, 5]]
    for bad in (*outside, [10, 10, 0, 5], [0, 0, float('nan'), 5]):
        with pytest.raises(ValueError, match='does not lie in an image'): E.boxes_to_mask([bad], 1024, 64)
    with pytest.raises(ValueError, match='covers no pixel'): E.boxes_to_mask([[1, 1, 2, 2]], 1024, 64)


@pytest.fixture(scope='module')
def known_scores():
    "Scores of maps whose answer is known: 12 squares of 4 x 4 in 16 x 16, of two labels and six patients."
    g = np.random.default_rng(0)
    masks = np.zeros((12, 16, 16), bool)
    for mask, (row, column) in zip(masks, g.integers(0, 12, (12, 2))):
        mask[row:row + 4, column:column + 4] = True
    labels, patient = np.array(['a', 'b']*6), np.repeat(np.arange(6), 2)
    flat = np.ones((12, 4, 4))
    maps = dict(truth=masks.astype(float), flat=flat, empty=0*flat)
    return E.score_maps(maps, masks, labels, patient, n_boot=50).set_index(['way', 'label'])


def test_scores_with_known_answers(known_scores):
    t = known_scores
    assert len(t) == 9 and np.allclose(t['chance'], 1/16)
    assert (t.loc['truth', ['pointing', 'iou', 'pointing_low', 'iou_high']] == 1).all(None)
    assert np.allclose(t.loc['flat', 'iou'], t.loc['flat', 'chance']) and not t.loc['flat', 'empty'].any()
    assert (t.loc['empty', 'iou'] == 0).all() and (t.loc['empty', 'empty'] == 1).all()


def test_scores_count_findings_and_patients(known_scores):
    t = known_scores
    assert t.loc[('truth', 'all'), 'swapped'] < 1
    assert t.loc[('truth', 'a'), 'n'] == 6 and t.loc[('truth', 'all'), 'patients'] == 6
    assert (t['pointing_low'] <= t['pointing']).all() and (t['pointing'] <= t['pointing_high']).all()


def test_swapped_maps_are_of_others():
    labels, patient = np.array(list('aaabbc')), np.array([0, 0, 1, 2, 2, 3])
    assert E.find_other_patient(labels, patient).tolist() == [2, 2, 0, -1, -1, -1]


def test_findings_without_a_mask_are_left_out():
    masks = np.zeros((3, 8, 8))
    masks[0, :4] = 1
    maps = dict(flat=np.ones((3, 8, 8)))
    t = E.score_maps(maps, masks, list('abb'), [1, 2, 3], n_boot=20).set_index('label')
    assert t.loc['all', 'iou'] == .5 and np.isnan(t.loc['a', 'pointing_low'])
    assert np.isnan(t.loc['b', ['pointing', 'iou', 'chance', 'swapped']].astype(float)).all()


def test_map_iou_and_the_grid():
    mask, m = np.zeros((1, 8, 8)), np.zeros((1, 2, 2))
    mask[0, :4, :4] = 1
    m[0, 0, 0] = 3
    assert map_iou(m, mask)[0] == 1 and pointing_game(m, mask)[0] == 1
    m[0, 0, 1] = 1.4
    assert map_iou(m, mask)[0] == 1 and map_iou(m, mask, .4)[0] == .5
    assert map_iou(m[None], mask[None]).shape == (1, 1)
    for bad in (0, 1.5):
        with pytest.raises(ValueError, match='threshold'): map_iou(m, mask, bad)
    with pytest.raises(ValueError, match='NaN'): map_iou(m*np.nan, mask)
    with pytest.raises(ValueError, match='masks'): map_iou(m, mask[0])


def test_intervals_hold_patients_together():
    v = np.repeat([0., 1.], 50)
    wide = E.patient_interval(v, np.repeat(np.arange(10), 10), 400)
    narrow = E.patient_interval(v, np.arange(100), 400)
    assert wide[0] == narrow[0] == .5 and wide[2] - wide[1] > 2*(narrow[2] - narrow[1])


# ---- sanity ----

@pytest.mark.parametrize('how', ['grad_cam', 'integrated_gradients', 'occlusion'])
def test_maps_change_with_the_weights(how):
    from cxr_workbench.learner import load, find_model
    method, x = load(find_model('supervised')), images(4)
    before = E.attribute(method, x, 2, how, **fast(how))
    after = E.attribute(E.shuffle_weights(method), x, 2, how, **fast(how))
    again = E.attribute(method, x, 2, how, **fast(how))
    assert torch.equal(before, again)                                # the model itself is unchanged
    assert np.allclose(E.rank_correlation(before, again), 1)
    assert abs(E.rank_correlation(before, after).mean()) < .8


def test_shuffle_keeps_values():
    method = make('supervised')
    other = E.shuffle_weights(method, 'head')
    before, after = method.head.weight, other.head.weight
    assert torch.equal(after.flatten().sort()[0], before.flatten().sort()[0])
    assert not torch.equal(after, before)
    pairs = zip(method.backbone.parameters(), other.backbone.parameters())
    assert all(torch.equal(p, q) for p, q in pairs)
    with pytest.raises(ValueError, match='no parameter starts with'): E.shuffle_weights(method, 'nothing')


def test_rank_correlation():
    a = torch.rand(3, 8, 8)
    assert np.allclose(E.rank_correlation(a, a**3), 1) and np.allclose(E.rank_correlation(a, -a), -1)
    assert not E.rank_correlation(a, torch.ones(3, 8, 8)).any()
    with pytest.raises(ValueError, match='shapes'): E.rank_correlation(a, a[:2])


# ---- bad input ----

@pytest.mark.parametrize('label', ['Oedema', 3, -1, True])
def test_a_label_that_does_not_exist_is_named(label):
    with pytest.raises(ValueError, match='no label'): E.attribute(make('supervised'), images(), label)


def test_bad_input_is_named():
    method, x = make('supervised'), images()
    with pytest.raises(ValueError, match='2 labels for 3 images'): E.attribute(method, x, [0, 1])
    with pytest.raises(ValueError, match='Supervised has .*grad_cam'): E.attribute(method, x, 0, 'grad-cam')
    with pytest.raises(ValueError, match='no cam target'): E.attribute(method, x, 0, 'grad_cam:branch_a')
    with pytest.raises(ValueError, match='grey'): E.attribute(method, x.repeat(1, 3, 1, 1), 0)
    with pytest.raises(ValueError, match='cell'): E.cell_response(method, x, 9, 0)
    maps, masks = dict(a=np.ones((2, 4, 4))), np.ones((3, 4, 4))
    with pytest.raises(ValueError, match='one map, one mask and one label'): E.score_maps(maps, masks, list('abc'))


@pytest.mark.parametrize('window, stride', [(0, 1), (8, 16), (65, 8)])
def test_windows_that_leave_pixels_out_are_refused(window, stride):
    with pytest.raises(ValueError, match='window='):
        E.attribute(make('supervised'), images(), 0, 'occlusion', window=window, stride=stride)


def test_method_without_cam_target():
    with pytest.raises(ValueError, match='names no place'): E.attribute(Brightness(), images(), 0)
    assert E.list_ways(Brightness(), images()) == ['integrated_gradients', 'occlusion']


def test_tokens_are_no_map():
    method = make('supervised', backbone='test_vit', min_cells=8)
    method.cam_targets = lambda: dict(block=method.backbone.net.blocks[-1])
    with pytest.raises(ValueError, match='emits no map'): E.attribute(method, images(), 0)


# ---- the command ----

def test_patients_of_the_boxes_are_left_out():
    import pandas as pd
    sys.path.insert(0, str(ROOT/'experiments'))
    try: import where_it_looks
    finally: sys.path.pop(0)
    names = ['00000001_000', '00000001_001', '00000002_000', '00000030_004']
    table = pd.DataFrame(dict(patient_id=[1, 1, 2, 30], image_id=names))
    rest = where_it_looks.leave_out_patients(table, ['00000001_009', '00000030_004'])
    assert rest['patient_id'].tolist() == [2]


def test_boxes_of_the_real_images_fit(cxr_data):
    import pandas as pd
    boxes = pd.read_csv(cxr_data/'nih14'/'bbox_subset_1024px.csv')
    corners = boxes[['x', 'y', 'w', 'h']].to_numpy()
    shares = [E.boxes_to_mask(box[None], 1024, 256).mean() for box in corners]
    assert len(shares) == 158 and np.allclose(shares, boxes.w*boxes.h/1024**2, atol=.004)


# ---- sources ----

@pytest.fixture
def scans(tmp_path):
    "Four oblong files, as paths."
    from PIL import Image
    g = np.random.default_rng(1)
    pixels = g.integers(0, 256, (4, 70, 90)).astype(np.uint8)
    for i, image in enumerate(pixels): Image.fromarray(image).save(tmp_path/f'{i}.png')
    return sorted(tmp_path.glob('*.png'))


@pytest.fixture
def cropping():
    "A method that was trained on cropped files."
    from cxr_workbench.files import Reading
    method = make('supervised')
    method.reading = Reading(SIZE, 'crop')
    return method


def read(method, scans): return torch.from_numpy(np.stack([method.reading(path) for path in scans]))[:, None]


def test_files_are_read_as_in_training(cropping, scans, tmp_path):
    x = read(cropping, scans)
    wanted = E.attribute(cropping, x, 'Mass')
    assert torch.equal(E.attribute(cropping, scans, 'Mass'), wanted)
    one = E.attribute(cropping, x[2:3], 'Mass')
    assert torch.equal(E.attribute(cropping, scans[2], 'Mass')[0], one[0])
    with pytest.raises(ValueError, match='no such file'): E.attribute(cropping, [tmp_path/'none.png'], 'Mass')


def test_files_need_a_reading(scans):
    with pytest.raises(ValueError, match='does not say how its training images were read'):
        E.attribute(make('supervised'), scans, 0)


def test_packs_and_data_sets_are_read_as_in_training(cropping, scans, tmp_path):
    from cxr_workbench.data import from_arrays
    from cxr_workbench.files import pack
    x = read(cropping, scans)
    wanted = E.attribute(cropping, x, 'Mass')
    packed = pack(scans, tmp_path/'crop', SIZE, 'crop')
    for source in (packed, from_arrays(packed, np.eye(4, 3), label_names=NAMES)):
        assert (E.prepare_images(cropping, source) - x).abs().max() < .003
        found = E.attribute(cropping, source, 'Mass')
        assert torch.allclose(found, wanted, atol=.05*float(wanted.abs().max()))


def test_packs_and_data_sets_read_otherwise_are_refused(cropping, scans, tmp_path):
    from cxr_workbench.data import from_arrays
    from cxr_workbench.files import pack
    padded, stretched = (pack(scans, tmp_path/fit, SIZE, fit) for fit in ('pad', 'stretch'))
    for other in (padded, from_arrays(stretched, np.eye(4, 3), label_names=NAMES)):
        with pytest.raises(ValueError, match="training images of the model were read as.*fit 'crop' against"):
            E.attribute(cropping, other, 'Mass')
    small = pack(scans, tmp_path/'small', 32, 'crop')
    with pytest.raises(ValueError, match='64 px.*32 px'): E.attribute(cropping, small, 'Mass')


def test_what_is_no_grey_image_is_refused():
    method, x = make('supervised'), images()
    for bad in ((x*255).byte(), x.long()):
        with pytest.raises(ValueError, match='floats in'): E.attribute(method, bad, 0)
    holed = x.masked_fill(x > .99, float('nan'))
    for bad, match in (((x - .45)/.22, 'must lie in'), (x*255, 'run from'), (holed, 'must lie in')):
        with pytest.raises(ValueError, match=match): E.attribute(method, bad, 0)
    assert torch.allclose(E.attribute(method, x.double(), 0), E.attribute(method, x, 0))


# ---- devices and cells ----

class NoDoubles(torch.utils._python_dispatch.TorchDispatchMode):
    "An accelerator without float64: what is made on it from a tensor there may not be one."
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        device = str((kwargs or {}).get('device', ''))
        tensors = [t for t in (out if isinstance(out, (tuple, list)) else [out]) if isinstance(t, torch.Tensor)]
        if device != 'cpu' and any(t.dtype == torch.float64 for t in tensors):
            raise TypeError(f'{function} makes float64')
        return out


@pytest.mark.parametrize('name', ['supervised', 'can'])
def test_nothing_is_float64_where_the_method_is(name):
    method, x = make(name), images(2)
    with NoDoubles():
        for how in E.list_ways(method, x):
            assert E.attribute(method, x, 'Mass', how, **fast(how)).dtype == torch.float32
        for how in ('integrated_gradients', 'occlusion'): E.attribute(method, x, 'Mass', how, baseline=.5, **fast(how))
        E.shift_maps(E.normalise_map(E.attribute(method, x, 0), cells=8), .5, -1)
        E.cell_response(method, x, 0, 0)
        E.shuffle_weights(method)
    with NoDoubles(), pytest.raises(TypeError, match='float64'): x.double()   # it does look


@pytest.mark.parametrize('name, how', [('lcc', 'attention'), ('can', 'attention_a'), ('supervised', 'grad_cam')])
def test_a_map_of_one_cell_comes_with_a_warning(name, how):
    method = create_method(name, labels=NAMES, size=32, preset='tiny').eval()
    x = images()[..., :32, :32]
    with pytest.warns(UserWarning, match=f"how='{how}'.*a single cell at 32 px.*min_cells"):
        maps = E.attribute(method, x, 0, how)
    assert torch.allclose(maps.amin((1, 2)), maps.amax((1, 2)))
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        E.attribute(method, x, 0, 'occlusion', window=16, stride=16)
        E.attribute(make(name), images(), 0, how)
    with pytest.raises(ValueError, match='one cell'): E.displacement(method, x)


def test_a_label_called_all_is_refused():
    maps, masks = dict(a=np.ones((2, 4, 4))), np.ones((2, 4, 4))
    with pytest.raises(ValueError, match="called 'all'"): E.score_maps(maps, masks, ['all', 'b'])
