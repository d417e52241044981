"""Models: other inputs of the kinds of faults that were met, each with its right value."""
import json, shutil
import pytest, torch
from cxr_workbench import learner
from cxr_workbench.backbone import Backbone
from cxr_workbench.consistency import StrongView, WeakView, move_images, pseudo_label
from cxr_workbench.core import create_method
from cxr_workbench.losses import asymmetric_loss, masked_bce

NAMES = ['Edema', 'Fracture', 'Hernia']


@pytest.fixture
def saved(tmp_path):
    torch.manual_seed(0)
    return learner.save(create_method('supervised', labels=NAMES, size=32, backbone='test_resnet'), tmp_path/'model')


def rewrite(folder, name, tensor):
    "The file of weights with one tensor replaced."
    from safetensors.torch import load_file, save_file
    state = load_file(folder/'model.safetensors')
    state[name] = tensor(state[name])
    save_file(state, folder/'model.safetensors')
    return folder


VARIANCE = 'backbone.net.layer4.0.downsample.2.running_var'
MEAN = 'backbone.net.layer4.0.downsample.2.running_mean'


@pytest.mark.parametrize('name, value', [(VARIANCE, float('nan')), (VARIANCE, -1.), (MEAN, float('inf')),
                                         ('backbone.std', float('nan')), ('prevalence', float('nan'))])
def test_statistics_count_as_weights(saved, name, value):
    with pytest.raises(ValueError, match=f'holds NaN or infinite weights in .*{name}'):
        learner.load(rewrite(saved, name, lambda t: torch.full_like(t, value)))


@pytest.mark.parametrize('dtype', [torch.int8, torch.int64, torch.bool, torch.complex64])
def test_weights_of_another_kind_of_number_are_refused(saved, dtype):
    with pytest.raises(ValueError, match=r'holds head\.weight as torch\.\w+, and the method has it as torch\.float32'):
        learner.load(rewrite(saved, 'head.weight', lambda t: t.to(dtype)))


@pytest.mark.parametrize('dtype', [torch.float64, torch.bfloat16])
def test_weights_of_another_precision_are_read(saved, dtype):
    before = learner.load(saved).head.weight
    after = learner.load(rewrite(saved, 'head.weight', lambda t: t.to(dtype))).head.weight
    assert after.dtype == torch.float32 and torch.allclose(before, after, rtol=1e-2)


@pytest.mark.parametrize('change', [
    dict(labels=NAMES[::-1]), dict(labels=['a', 'b', 'c']), dict(size=64)])
def test_weights_beside_another_record_are_refused(saved, change):
    file = saved/'model.json'
    record = json.loads(file.read_text())
    record['config'].update(change)
    file.write_text(json.dumps(record))
    name, = change
    with pytest.raises(ValueError, match=f'does not belong to its model.json: {name} .* against'): learner.load(saved)


def test_weights_that_do_not_say_whose_they_are_load(saved):
    assert learner.load(rewrite(saved, 'head.bias', lambda t: t)).label_names == NAMES


@pytest.mark.parametrize('arguments', [dict(backbone='no_net'), dict(backbone=3)])
def test_a_backbone_that_cannot_be_made_is_named(saved, arguments):
    file = saved/'model.json'
    record = json.loads(file.read_text())
    record['config']['arguments'] = arguments
    file.write_text(json.dumps(record))
    with pytest.raises(ValueError, match='model.json describes a method that cannot be made here'): learner.load(saved)


def test_a_record_that_is_no_record_is_named(saved):
    file = saved/'model.json'
    text = file.read_text()
    file.write_text('['*100_000)
    with pytest.raises(ValueError, match='model.json is cut off or damaged'): learner.load(saved)
    file.write_text(text, encoding='utf-8-sig')   # as some editors save it
    assert learner.load(saved).label_names == NAMES
    file.unlink()
    file.mkdir()
    with pytest.raises(ValueError, match='model.json is cut off or damaged'): learner.load(saved)


# ---- losses ----

@pytest.mark.parametrize('loss', [masked_bce, asymmetric_loss])
def test_what_stands_for_an_unknown_label_does_not_count(loss):
    logits = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    known = torch.tensor([
        [1, 1, 0], [0, 0, 0],
        [1, 0, 1], [1, 1, 1]]).bool()
    y = (torch.arange(12).view(4, 3) % 2).float()
    value = loss(logits, y.masked_fill(~known, float('nan')), known)
    assert torch.equal(value, loss(logits, y*known, known))
    gradient, = torch.autograd.grad(value, logits)
    assert torch.isfinite(gradient).all() and not gradient[~known].any()


@pytest.mark.parametrize('bad', [dict(margin=1.), dict(margin=-.1), dict(margin=float('nan')),
                                 dict(gamma_neg=-1.), dict(gamma_pos=-1.)])
def test_asymmetries_without_a_meaning_are_refused(bad):
    with pytest.raises(ValueError, match='margin must lie in'):
        asymmetric_loss(torch.zeros(2, 2), torch.zeros(2, 2), **bad)


# ---- views ----

@pytest.mark.parametrize('dtype, tolerance', [(torch.bfloat16, 5e-3), (torch.float16, 1e-3)])
@pytest.mark.parametrize('h, w', [(32, 32), (64, 48), (224, 160), (1, 40)])
@pytest.mark.parametrize('how', ['rotate', 'shear', 'translate'])
def test_half_precision_moves_to_the_same_place(dtype, tolerance, h, w, how):
    g = torch.Generator().manual_seed(0)
    x = torch.rand(3, 1, h, w, generator=g).to(dtype)
    amount = (torch.rand(3, 2, generator=g)*.1).to(dtype)
    out = move_images(x, **{how: amount})
    assert out.dtype == dtype
    assert (out.double() - move_images(x.double(), **{how: amount.double()})).abs().max() < tolerance


@pytest.mark.parametrize('bad', [dict(posterise=(0, 4)), dict(gamma=(-1, 1)),
                                 dict(cutout=(0, 1.5)),
                                 dict(blur=(-.01, .02)), dict(contrast=(-2, 0))])
def test_ranges_without_a_meaning_are_refused(bad):
    with pytest.raises(ValueError, match='lies outside'): StrongView(**bad)
    with pytest.raises(ValueError, match='low, high'): StrongView(rotate=(float('nan'), 1))
    for kw in (dict(flip=2), dict(shift=-1), dict(shift=3)):
        with pytest.raises(ValueError, match='a probability in'): WeakView(**kw)


def test_a_threshold_that_is_no_number_is_refused():
    with pytest.raises(ValueError, match='thresholds cross'): pseudo_label(torch.rand(2, 2), float('nan'), .1)


# ---- backbones ----

@pytest.mark.parametrize('name', [
    'pit_ti_224', 'pit_ti_distilled_224', 'deit_tiny_distilled_patch16_224', 'efficientvim_m1'])
def test_a_head_that_reads_more_than_the_map_is_refused_by_name(name):
    with pytest.raises(ValueError, match=f"the features of {name} are not made from its feature map.*pool='mean'"):
        Backbone(name, size=64)


@pytest.mark.parametrize('net, size', [('no_net', 64), ('twins_svt_small', 33), ('mvitv2_tiny', 33), (None, 32),
                                       (torch.nn.Conv2d(1, 8, 40), 32), (torch.nn.Conv2d(1, 4, 3).half(), 32)])
def test_a_network_that_cannot_be_built_or_run_is_named(net, size):
    says = 'no such network|cannot build|cannot read images|neither the name'
    with pytest.raises(ValueError, match=says): Backbone(net, size=size, min_cells=4)


@pytest.mark.parametrize('part', ['vae', 'unet', 'text_encoder'])
def test_a_part_of_a_diffusion_model_without_numbers_is_named(part, tmp_path):
    pytest.importorskip('diffusers')
    from safetensors.torch import load_file, save_file
    from cxr_workbench.methods import trcgl_diffusion as td
    folder = shutil.copytree(td.find_packaged(), tmp_path/'pipeline')
    file, = (folder/part).glob('*.safetensors')
    state = load_file(file)
    state[sorted(state)[0]].fill_(float('nan'))
    save_file(state, file, metadata={'format': 'pt'})
    with pytest.raises(ValueError, match=f'{part} holds NaN or infinity in .*1 in all'): td.read_parts(folder)
