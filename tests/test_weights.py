"Weights from files: names of timm, torchvision and torchxrayvision, runs of this package, and what does not fit."
import time
import pytest, timm, torch, torchvision
from torch import nn
from cxr_workbench import weights as W
from cxr_workbench.backbone import Backbone, fold_channels, list_early
from cxr_workbench.core import create_method, list_methods, seed_all
from cxr_workbench.learner import save, start_from

NAMES = ['Edema', 'Fracture', 'Mass']
TORCHVISION = ['resnet18', 'densenet121', 'efficientnet_b0', 'convnext_tiny', 'mobilenet_v3_small', 'vit_b_16']
TIMM = dict(mobilenet_v3_small='mobilenetv3_small_100', vit_b_16='vit_base_patch16_224')


def randomise(net, seed=0):
    "Weights and statistics that are all different, so that a tensor in the wrong place shows."
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for t in net.state_dict().values():
            if not t.is_floating_point(): continue
            size = .1*t.abs().mean().clamp(min=.1)
            t += size*torch.rand(t.shape, generator=g)
    return net.eval()


def read_features(net, x):
    "What the last linear layer of a torchvision network reads, (B, E)."
    last, kept = [m for m in net.modules() if isinstance(m, nn.Linear)][-1], {}
    hook = last.register_forward_hook(lambda module, args, out: kept.update(z=args[0]))
    with torch.no_grad(): net(x)
    hook.remove()
    return kept['z']


@pytest.mark.parametrize('name', ['resnet18', 'densenet121', 'efficientnet_b0', 'convnext_tiny', 'vit_b_16'])
def test_torchvisions_files_give_torchvisions_features(name, tmp_path):
    seed_all(0)
    theirs = randomise(getattr(torchvision.models, name)())
    torch.save(theirs.state_dict(), tmp_path/'theirs.pth')
    kw = dict(global_pool='token') if name == 'vit_b_16' else {}
    ours = timm.create_model(TIMM.get(name, name), num_classes=0, **kw).eval()
    found = W.fill_network(ours, tmp_path/'theirs.pth')
    assert found.share == 1 and not found.missing and len(found.left) <= 2
    x = torch.rand(2, 3, 224, 224)
    with torch.no_grad(): features = ours(x)
    truth = read_features(theirs, x)
    assert torch.allclose(features, truth, atol=2e-3*truth.abs().max())


def wrap_plain(state): return state
def wrap_training(state): return dict(epoch=3, state_dict={f'module.{key}': t for key, t in state.items()})
def wrap_average(state):
    return dict(state_dict={key: t*0 for key, t in state.items()}, state_dict_ema=state)
def wrap_encoder(state): return dict(model={f'image_encoder.net.{key}': t for key, t in state.items()})


@pytest.mark.parametrize('wrap', [wrap_plain, wrap_training, wrap_average, wrap_encoder])
@pytest.mark.parametrize('suffix', ['.pth', '.pt'])
def test_what_training_programs_wrap_is_unwrapped(wrap, suffix, tmp_path):
    theirs = randomise(timm.create_model('test_resnet', num_classes=7))
    torch.save(wrap(theirs.state_dict()), tmp_path/f'theirs{suffix}')
    ours = timm.create_model('test_resnet', num_classes=0)
    found = W.fill_network(ours, tmp_path/f'theirs{suffix}')
    assert found.share == 1 and all('fc' in name for name in found.left)
    for name, t in ours.state_dict().items(): assert torch.equal(t, theirs.state_dict()[name])


def test_safetensors_are_read(tmp_path):
    from safetensors.torch import save_file
    theirs = randomise(timm.create_model('test_vit', num_classes=0))
    save_file(theirs.state_dict(), tmp_path/'theirs.safetensors')
    ours = timm.create_model('test_vit', num_classes=0)
    assert W.fill_network(ours, tmp_path/'theirs.safetensors').how == 'by name'
    assert torch.equal(ours.patch_embed.proj.weight, theirs.patch_embed.proj.weight)


def test_a_transformer_of_another_image_size_keeps_its_position_embedding_by_timms_rules(tmp_path):
    theirs = randomise(timm.create_model('vit_tiny_patch16_224', num_classes=0))
    torch.save(theirs.state_dict(), tmp_path/'theirs.pth')
    backbone = Backbone('vit_tiny_patch16_224', size=96, weights=tmp_path/'theirs.pth')
    assert backbone.match.share == 1 and backbone.match.how == 'by the rules of timm'
    assert backbone.net.pos_embed.shape[1] == 37


def xray_densenet():
    "A network of torchxrayvision by its names: one channel, pixels from -1024 to 1024."
    net = torchvision.models.densenet121(num_classes=18)
    net.features.conv0 = nn.Conv2d(1, 64, 7, 2, 3, bias=False)
    return randomise(net)


def test_torchxrayvisions_names_channel_and_range_give_equal_features(tmp_path):
    theirs = xray_densenet()
    torch.save(theirs.state_dict(), tmp_path/'xrv.pth')
    with pytest.warns(UserWarning, match='-1024 to 1024'):
        backbone = Backbone('densenet121', size=64, weights=tmp_path/'xrv.pth').eval()
    x = torch.rand(3, 1, 64, 64)
    with torch.no_grad():
        truth = theirs.features(2048*x - 1024).relu().mean((2, 3))
        ours = backbone.features(x)
        folded = fold_channels(backbone).features(x)
    scale = truth.abs().max()
    assert torch.allclose(ours, truth, atol=1e-4*scale) and torch.allclose(folded, truth, atol=1e-4*scale)
    assert backbone.mean.numel() == 1 and backbone.net.features.conv0.in_channels == 1


def test_a_pickled_module_is_refused_with_the_two_lines_that_make_tensors_of_it(tmp_path):
    torch.save(xray_densenet(), tmp_path/'xrv.pt')
    with pytest.raises(ValueError) as error: W.read_weights(tmp_path/'xrv.pt')
    first, second = [line.strip() for line in str(error.value).splitlines()[1:]]
    assert 'weights_only=False' in first and 'state_dict()' in second
    scope = {'torch': torch}
    exec(first, scope)
    exec(second.replace('weights.pth', str(tmp_path/'weights.pth')), scope)
    assert len(W.read_weights(tmp_path/'weights.pth')) > 700


@pytest.mark.parametrize('content, words', [
    (dict(epoch=3, lr=.1), 'no weights by name'), ([1, 2], 'holds a list'), (torch.zeros(3), 'holds a Tensor')])
def test_a_file_without_weights_is_refused(content, words, tmp_path):
    torch.save(content, tmp_path/'a.pth')
    with pytest.raises(ValueError, match=words): W.read_weights(tmp_path/'a.pth')


@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
def test_a_damaged_file_is_refused_by_name(suffix, tmp_path):
    (tmp_path/f'a{suffix}').write_bytes(b'PK\x03\x04 not weights')
    with pytest.raises(ValueError, match=f'a{suffix}.* (damaged|more than tensors)'):
        W.read_weights(tmp_path/f'a{suffix}')


def test_a_file_that_is_absent_is_an_error_of_its_own(tmp_path):
    with pytest.raises(FileNotFoundError, match='no weights at'): W.read_weights(tmp_path/'nowhere.pth')
    with pytest.raises(FileNotFoundError, match='no weights at'): Backbone('test_resnet', weights=tmp_path)


def test_what_is_missing_is_listed_and_less_than_nine_tenths_is_an_error(tmp_path):
    few = timm.create_model('test_resnet', num_classes=0).state_dict()
    dropped = [name for name in few if not name.endswith('num_batches_tracked')][-1]
    del few[dropped]
    torch.save(few, tmp_path/'few.pth')
    with pytest.warns(UserWarning, match=f'lacks {dropped}'):
        found = W.fill_network(timm.create_model('test_resnet', num_classes=0), tmp_path/'few.pth')
    assert found.missing == [dropped]
    torch.save(timm.create_model('test_vit', num_classes=0).state_dict(), tmp_path/'vit.pth')
    with pytest.raises(ValueError, match='90% are needed. Missing in the file: conv1.0.weight'):
        W.fill_network(timm.create_model('test_resnet', num_classes=0), tmp_path/'vit.pth')


def test_order_is_used_only_where_every_shape_follows(tmp_path):
    state = timm.create_model('test_resnet', num_classes=0).state_dict()
    named = {f't{i}': t for i, t in enumerate(state.values())}
    own = W.list_weights(state)
    assert not W.match_order(dict(reversed(named.items())), own)
    names = [f'{i}.{name.split(".")[-1]}' for i, name in enumerate(own)]
    in_order = dict(zip(names, own.values()))
    assert [*W.match_order(in_order, own).values()] == [*in_order]


def test_a_run_gives_its_backbone_and_its_normalisation(tmp_path):
    seed_all(0)
    run = create_method('lcc', labels=NAMES, size=64, preset='tiny')
    with torch.no_grad(): run.backbone.mean += .2
    randomise(run)
    save(run, tmp_path/'run')
    fresh = create_method('supervised', labels=5, size=64, preset='tiny', pretrained=tmp_path/'run').eval()
    x = torch.rand(2, 1, 64, 64)
    with torch.no_grad(): assert torch.equal(fresh.backbone(x), run.eval().backbone(x))
    assert fresh.config['pretrained'] == str(tmp_path/'run')
    saved = save(fresh, tmp_path/'fresh')
    from cxr_workbench.learner import load
    with torch.no_grad(): assert torch.equal(load(saved)(x), fresh(x))      # without the run


def test_start_from_takes_all_but_what_belongs_to_labels(tmp_path):
    seed_all(0)
    run = randomise(create_method('lcc', labels=NAMES, size=64, preset='tiny'))
    save(run, tmp_path/'run')
    same = create_method('lcc', labels=NAMES, size=64, preset='tiny').eval()
    taken, fresh = start_from(same, tmp_path/'run')
    assert not fresh
    x = torch.rand(2, 1, 64, 64)
    with torch.no_grad(): assert torch.equal(same(x), run(x))
    other = create_method('lcc', labels=['A', 'B', 'C'], size=64, preset='tiny')    # as many, but others
    before = {name: t.clone() for name, t in other.state_dict().items()}
    taken, fresh = start_from(other, tmp_path/'run')
    assert {'reader.head.weight', 'reader.relate.embedding'} <= set(fresh) and 'backbone.net.conv1.0.weight' in taken
    assert torch.equal(other.state_dict()['reader.head.weight'], before['reader.head.weight'])
    with pytest.raises(ValueError, match='holds a lcc, not a supervised'):
        start_from(create_method('supervised', labels=NAMES, size=64, preset='tiny'), tmp_path/'run')
    with pytest.raises(ValueError, match='of the backbone, 90% are needed'):
        start_from(create_method('lcc', labels=NAMES, size=64, preset='tiny', backbone='test_vit'), tmp_path/'run')


@pytest.mark.parametrize('name', ['resnet18', 'tf_efficientnet_lite0', 'densenet121'])
def test_pretrained_without_a_network_fails_soon_and_says_what_to_do(name, monkeypatch, tmp_path):
    import huggingface_hub
    monkeypatch.setattr(huggingface_hub.constants, 'ENDPOINT', 'http://127.0.0.1:9')      # nobody answers there
    monkeypatch.setattr(W, 'is_cached', lambda cfg: False)
    monkeypatch.delenv('HF_HUB_OFFLINE', raising=False)
    start = time.perf_counter()
    with pytest.raises(ConnectionError) as error:
        create_method('supervised', labels=NAMES, backbone=name, pretrained=True)
    assert time.perf_counter() - start < 10
    text = str(error.value)
    assert name in text and huggingface_hub.constants.HF_HUB_CACHE in text and 'pretrained="FILE"' in text


def test_a_network_without_weights_says_so():
    with pytest.raises(ValueError, match='resnet18d_x: timm has no such network; did you mean resnet18d'):
        Backbone('resnet18d_x', pretrained=True)
    with pytest.raises(ValueError, match='no pretrained weights for vit_giant_patch14_224'):
        W.check_pretrained('vit_giant_patch14_224')


@pytest.mark.parametrize('name, stages', [('test_resnet', 2), ('tf_efficientnet_lite0', 3), ('test_vit', 1)])
def test_frozen_stages_do_not_move_and_the_others_do(name, stages):
    from cxr_workbench.stages import set_modes, set_trainable
    seed_all(0)
    method = create_method('supervised', labels=NAMES, size=64, preset='tiny', backbone=name, frozen_stages=stages)
    stage, = method.recipe()
    frozen = {f'backbone.{own}' for own in list_early(method.backbone, stages)}
    trains = set(set_trainable(method, stage.train, stage.frozen_stages))
    assert frozen and not frozen & trains and trains | frozen == {n for n, _ in method.named_parameters()}
    set_modes(method)
    before = {key: t.clone() for key, t in method.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], .1)
    method(torch.rand(4, 1, 64, 64)).square().sum().backward()
    optimizer.step()
    moved = {key for key, t in method.state_dict().items() if not torch.equal(t, before[key])}
    assert not moved & frozen and 'head.weight' in moved
    owners = {name.rpartition('.')[0] for name in frozen}
    assert not any(key.rpartition('.')[0] in owners for key in moved)     # statistics stand still, too


@pytest.mark.parametrize('name', list_methods(origin='cxr_workbench'))
def test_every_recipe_can_leave_early_stages_as_they_are(name):
    from cxr_workbench.stages import set_trainable
    method = create_method(name, labels=NAMES, size=64, preset='tiny', frozen_stages=1)
    first = {f'backbone.{own}' for own in list_early(method.backbone, 1)}
    for stage in method.recipe():
        assert stage.frozen_stages == 1 and not first & set(set_trainable(method, stage.train, stage.frozen_stages))


def test_more_stages_than_a_network_has_are_refused():
    backbone = Backbone('test_resnet')
    assert list_early(backbone, 0) == [] and list_early(backbone, 1)[0] == 'net.conv1.0.weight'
    with pytest.raises(ValueError, match='6 stages cannot be frozen: this network has 5'): list_early(backbone, 6)
    with pytest.raises(ValueError, match='frozen_stages=-1'):
        create_method('supervised', labels=2, preset='tiny', frozen_stages=-1).recipe()


ALIKE, IMAGENET = ([.5]*3, [.5]*3), ([.485, .456, .406], [.229, .224, .225])


@pytest.mark.parametrize('mean, std', [ALIKE, IMAGENET])
def test_folded_channels_give_what_three_gave(mean, std):
    seed_all(0)
    backbone = Backbone('resnet18', size=64, mean=mean, std=std).eval()
    x = torch.rand(2, 1, 64, 64)
    with torch.no_grad():
        three = backbone.net.conv1(backbone.coloured(x))
        fold_channels(backbone)
        one = backbone.net.conv1(backbone.coloured(x))
    inner = slice(2, -2)
    assert torch.allclose(one[..., inner, inner], three[..., inner, inner], atol=1e-5)
    if len(set(mean)) == 1: assert torch.allclose(one, three, atol=1e-5)


def test_the_optimiser_takes_its_options():
    method = create_method('supervised', labels=2, preset='tiny', optimizer='SGD', options=dict(momentum=.9))
    from cxr_workbench.stages import group_parameters
    stage, = method.recipe()
    optimizer = torch.optim.SGD(group_parameters(method, stage.groups), **stage.options)
    assert optimizer.param_groups[0]['momentum'] == .9


def test_two_branches_take_two_files(tmp_path):
    nets = [timm.create_model(name, num_classes=0) for name in ('test_resnet', 'test_vit')]
    for net, name in zip(nets, 'ab'): torch.save(randomise(net).state_dict(), tmp_path/f'{name}.pth')
    files = [tmp_path/'a.pth', tmp_path/'b.pth']
    method = create_method('can', labels=NAMES, preset='tiny', branch_b='test_vit', pretrained=files)
    assert method.config['pretrained'] == [str(file) for file in files]
    for branch, net in zip((method.backbone, method.backbone_b), nets):
        own = branch.net.state_dict()
        fit = {key: t for key, t in net.state_dict().items() if key in own and t.shape == own[key].shape}
        assert len(fit) > 60 and all(torch.equal(t, own[key]) for key, t in fit.items())
    with pytest.raises(ValueError, match='one network twice'):
        create_method('can', labels=NAMES, preset='tiny', pretrained=files[0])


def test_fit_starts_from_files_and_from_runs(tmp_path):
    from typer.testing import CliRunner
    from cxr_workbench.cli import app
    torch.save(randomise(timm.create_model('test_resnet')).state_dict(), tmp_path/'a.pth')
    tiny = ['--preset', 'tiny', '--rows', '60', '--epochs', '1', '--no-progress', '--device', 'cpu', '--size', '32']
    def shell(*arguments): return CliRunner().invoke(app, ['fit', 'supervised', *map(str, arguments)])
    first = shell(*tiny, '--weights', tmp_path/'a.pth', '--out', tmp_path/'first')
    assert first.exit_code == 0, first.output
    again = ['--rows', '60', '--epochs', '1', '--no-progress', '--device', 'cpu', '--size', '32']
    second = shell(*again, '--from', tmp_path/'first', '--out', tmp_path/'second')
    assert second.exit_code == 0, second.output
    assert f'tensors are those of {tmp_path}' in second.output.replace('\n', '')
    both = shell(*tiny, '--weights', tmp_path/'a.pth', '--pretrained')
    assert both.exit_code == 1 and 'two starts' in both.output
    wrong = CliRunner().invoke(app, ['fit', 'mpc', *again, '--from', str(tmp_path/'first')])
    assert wrong.exit_code == 1 and 'holds a supervised, not a mpc' in wrong.output.replace('\n', ' ')
    absent = shell(*tiny, '--weights', tmp_path/'nowhere.pth')
    assert absent.exit_code == 1 and 'no weights at' in absent.output
