"""What design asks of every registered method; a new one is picked up by itself and tested with its preset 'tiny'."""
import pytest, torch
from cxr_workbench import labels as L
from cxr_workbench.core import Batch, PROBES, create_method, get_factory, list_methods, seed_all

NAMES = ['Edema', 'Fracture', 'Hernia', 'Mass', 'Nodule']
SIZE = 64
METHODS = list_methods(origin='cxr_workbench')   # not those of other tests


def tiny(name, **kw):
    seed_all(0)
    return create_method(name, labels=NAMES, size=SIZE, preset='tiny', **kw)


def table(n=24, seed=0):
    g = torch.Generator().manual_seed(seed)
    x = torch.rand(n, 1, SIZE, SIZE, generator=g)
    y = (torch.rand(n, len(NAMES), generator=g) < .4).float()
    return Batch(x, y, torch.ones_like(y, dtype=torch.bool), torch.arange(n))


def regime(batch, kind):
    "The same rows under another annotation regime."
    y = batch.y.numpy()
    if kind == 'full': return batch
    if kind == 'fraction': y, known = L.keep_fraction(y, list(range(len(y))), .5, seed=0)
    if kind == 'single-positive': y, known = L.single_positive(y, seed=0)
    if kind == 'uncertain': known = torch.rand(y.shape, generator=torch.Generator().manual_seed(3)) > .2
    known = torch.as_tensor(known)
    return batch._replace(y=torch.as_tensor(y).float()*known, known=known)


def prepared(name, batch=None, **kw):
    method, batch = tiny(name, **kw), batch or table()
    method.prepare(batch.y, batch.known)
    return method


def has_finite_gradients(method):
    return all(torch.isfinite(p.grad).all() for p in method.parameters() if p.grad is not None)


every_method = pytest.mark.parametrize('name', METHODS)


def test_there_are_methods(): assert 'supervised' in METHODS


@every_method
def test_a_score_does_not_depend_on_who_shares_the_batch(name):
    method, a, b = prepared(name).eval(), table(8, seed=1).x, table(8, seed=2).x
    b[3] = a[3]
    with torch.no_grad():
        mine, other = method(a)[3], method(b)[3]
        single = method(a[3:4])[0]
    assert torch.equal(mine, other)
    assert torch.allclose(mine, single, atol=1e-5)
    assert not torch.equal(method(a)[2], method(b)[2])


@every_method
def test_look_takes_one_image_and_lets_gradients_through(name):
    method, x = prepared(name).eval(), table(1).x.requires_grad_()
    logits, probes = method.look(x)
    assert logits.shape == (1, len(NAMES)) and set(probes) <= set(PROBES)
    assert torch.autograd.grad(logits.sum(), x)[0].abs().sum() > 0
    assert torch.equal(method(x), logits)


@every_method
@pytest.mark.parametrize('unknown', ['ignore', 'negative'])
@pytest.mark.parametrize('kind', ['full', 'fraction', 'single-positive', 'uncertain'])
def test_every_regime_learns_or_says_why_not(name, unknown, kind):
    batch, method = regime(table(), kind), tiny(name, unknown=unknown)
    if kind == 'single-positive' and unknown == 'ignore':
        with pytest.raises(ValueError, match="no known negative.*unknown='negative'"):
            method.prepare(batch.y, batch.known)
        return
    method.prepare(batch.y, batch.known)
    method.train().step(batch, progress=.5).loss.backward()
    size = sum(p.grad.abs().sum() for p in method.parameters() if p.grad is not None)
    assert torch.isfinite(size) and size > 0


@every_method
def test_unknown_labels_are_never_read(name):
    batch = regime(table(), 'uncertain')
    method = prepared(name, batch)
    changed = batch._replace(y=torch.where(batch.known, batch.y, 1-batch.y))
    losses = []
    for b in (batch, changed):
        seed_all(5)
        losses.append(method.train().step(b, progress=.5).loss)
    assert torch.equal(*losses)


@every_method
def test_a_batch_that_knows_nothing_is_harmless(name):
    method, batch = prepared(name), table(8)
    step = method.train().step(batch._replace(y=batch.y*0, known=torch.zeros_like(batch.known)), progress=.5)
    step.loss.backward()
    assert torch.isfinite(step.loss) and has_finite_gradients(method)


@every_method
def test_a_term_without_weight_is_not_computed(name):
    method, batch = prepared(name), table(8)
    full = set(method.train().step(batch, progress=.5).terms)
    assert full == {k for k, w in method.weights.items() if w}
    for term in full:
        assert term not in prepared(name, weights={term: 0.}).train().step(batch, progress=.5).terms


@every_method
def test_augmentations_act_in_step_only(name):
    class Refuse(torch.nn.Module):
        def forward(self, x): raise AssertionError('an augmentation ran')
    method, batch = prepared(name), table(4)
    method.weak = method.strong = Refuse()
    method.look(batch.x); method.train().look(batch.x)
    with pytest.raises(AssertionError, match='augmentation'): method.step(batch, progress=.5)


@every_method
def test_what_is_saved_is_what_runs(name, tmp_path):
    from cxr_workbench.learner import load, save
    method, fresh = prepared(name).eval(), tiny(name)
    trained, untrained = ({k: v.shape for k, v in m.state_dict().items()} for m in (method, fresh))
    assert trained == untrained
    again, x = load(save(method, tmp_path)), table(4).x
    assert torch.equal(again(x), method(x))
    assert all(torch.equal(a, b) for a, b in zip(again.state_dict().values(), method.state_dict().values()))


@every_method
def test_recipe_trains_something_and_takes_every_parameter(name):
    from cxr_workbench.learner import group_parameters, set_trainable
    method = tiny(name)
    for stage in method.recipe():
        assert set_trainable(method, stage.train) and group_parameters(method, stage.groups) and stage.epochs > 0
    frozen = [n for n, p in method.named_parameters() if not p.requires_grad]
    assert not frozen, 'the last stage leaves something frozen'


@every_method
def test_ablations_build_and_step(name):
    method, batch = tiny(name), table(8)
    assert method.ablations(), 'a method says what can be taken away'
    for arguments in method.ablations().values():
        assert torch.isfinite(prepared(name, **arguments).train().step(batch, progress=.5).loss)


@every_method
def test_cam_targets_pass_a_map(name):
    method, shapes = prepared(name).eval(), {}
    for key, module in method.cam_targets().items():
        def note_shape(module, inputs, output, key=key): shapes[key] = output.shape
        module.register_forward_hook(note_shape)
    method(table(2).x)
    assert shapes.keys() == method.cam_targets().keys()
    assert all(len(s) == 4 and s[0] == 2 for s in shapes.values())


@every_method
def test_bfloat16_is_finite(name):
    method, batch = prepared(name), table(8)
    with torch.autocast('cpu', dtype=torch.bfloat16): step = method.train().step(batch, progress=.5)
    step.loss.backward()
    assert torch.isfinite(step.loss)


@every_method
def test_labels_of_another_width_are_refused(name):
    batch = table(8)
    with pytest.raises(ValueError): tiny(name).prepare(batch.y[:, :3], batch.known[:, :3])


# ---- batches of one, single cells, and programs that travel ----

@every_method
@pytest.mark.parametrize('size', [32, SIZE])
def test_a_batch_of_one_trains_or_says_why_not(name, size):
    seed_all(0)
    method = create_method(name, labels=NAMES, size=size, preset='tiny', unknown='negative')
    whole = table(12)
    method.prepare(whole.y, whole.known)
    known = torch.zeros(1, len(NAMES), dtype=torch.bool).index_fill(1, torch.tensor([0, 2]), True)
    x, y = whole.x[:1, :, :size, :size], whole.y[:1]*known
    one = Batch(x, y, known, whole.idx[:1])
    try: step = method.train().step(one, progress=.5)
    except ValueError as error:
        assert min(method.backbone.cells) == 1 and 'batch_size=2' in str(error) and f'{size} x {size}' in str(error)
        return
    step.loss.backward()
    assert torch.isfinite(step.loss)
    assert has_finite_gradients(method)


@pytest.mark.parametrize('name', ['can', 'lcc', 'trcgl'])
def test_who_attends_warns_below_two_by_two_cells(name):
    import warnings
    with pytest.warns(UserWarning, match='1 x 1 cells of 32 pixels.*min_cells'):
        create_method(name, labels=3, size=32, preset='tiny')
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        create_method(name, labels=3, size=64, preset='tiny')
        create_method(name, labels=3, size=32, preset='tiny', min_cells=2)
        create_method('supervised', labels=3, size=32, preset='tiny')


def same_scores(method, program, sizes=(1, 2, 3, 7)):
    for n in sizes:
        x = table(n, seed=n).x
        assert torch.allclose(program(x), method(x), atol=1e-5), n


@every_method
@pytest.mark.parametrize('preset', ['tiny', 'maps'])
@torch.no_grad()
def test_an_exported_program_scores_any_batch_alike(name, preset):
    if preset not in get_factory(name).presets: pytest.skip(f'{name} has no preset {preset}')
    seed_all(0)
    method, batch = create_method(name, labels=NAMES, size=SIZE, preset=preset), table()
    method.prepare(batch.y, batch.known)
    dynamic = ({0: torch.export.Dim('batch', min=1)},)
    program = torch.export.export(method.eval(), (table(3).x,), dynamic_shapes=dynamic)
    same_scores(method, program.module())
    fixed = torch.export.export(method, (table(2).x,))
    same_scores(method, fixed.module(), sizes=[2])


@every_method
@torch.no_grad()
def test_an_onnx_graph_scores_any_batch_alike(name, tmp_path):
    runtime = pytest.importorskip('onnxruntime')
    pytest.importorskip('onnxscript')
    method = prepared(name).eval()
    dynamic = ({0: torch.export.Dim('batch', min=1)},)
    torch.onnx.export(method, (table(3).x,), dynamo=True, dynamic_shapes=dynamic, verbose=False).save(tmp_path/'m.onnx')
    session = runtime.InferenceSession(tmp_path/'m.onnx')
    name, = (i.name for i in session.get_inputs())
    same_scores(method, lambda x: torch.from_numpy(session.run(None, {name: x.numpy()})[0]))


@every_method
def test_a_step_makes_no_float64(name):
    "Accelerators of Apple have none."
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves
    class NoDouble(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            assert not any(torch.is_tensor(t) and t.dtype == torch.float64 for t in tree_leaves(out)), function
            return out
    method = prepared(name).train()
    with NoDouble(): method.step(table(4), progress=.5).loss.backward()
    with NoDouble(): method.eval().look(table(2).x)


@every_method
@pytest.mark.parametrize('backbone', ['test_convnext', 'mobilenetv3_small_050', 'test_vit'])
def test_heads_of_any_width_train_and_load(name, backbone, tmp_path):
    from cxr_workbench.learner import load, save
    method, batch = prepared(name, backbone=backbone).train(), table(4)
    method.step(batch, progress=.5).loss.backward()
    again = load(save(method.eval(), tmp_path))
    assert torch.equal(again(batch.x), method(batch.x))
