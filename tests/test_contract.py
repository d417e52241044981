"""What design asks of every registered method; a new one is picked up by itself and tested with its preset 'tiny'."""
import pytest, torch
from cxr_workbench import core, labels as L
from cxr_workbench.core import Batch, PROBES, create_method, list_methods, seed_all

NAMES = ['Edema', 'Fracture', 'Hernia', 'Mass', 'Nodule']
SIZE = 64
METHODS = [name for name in list_methods() if core._factories[name].__module__.startswith('cxr_workbench.')]  # not those of other tests


def tiny(name, **kw):
    seed_all(0)
    return create_method(name, labels=NAMES, size=SIZE, preset='tiny', **kw)


def table(n=24, seed=0):
    g = torch.Generator().manual_seed(seed)
    x, y = torch.rand(n, 1, SIZE, SIZE, generator=g), (torch.rand(n, len(NAMES), generator=g) < .4).float()
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


every_method = pytest.mark.parametrize('name', METHODS)


def test_there_are_methods(): assert 'supervised' in METHODS


@every_method
def test_a_score_does_not_depend_on_who_shares_the_batch(name):
    method, a, b = prepared(name).eval(), table(8, seed=1).x, table(8, seed=2).x
    b[3] = a[3]
    with torch.no_grad(): mine, other, alone = method(a)[3], method(b)[3], method(a[3:4])[0]
    assert torch.equal(mine, other)
    assert torch.allclose(mine, alone, atol=1e-5)
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
        with pytest.raises(ValueError, match="no known negative.*unknown='negative'"): method.prepare(batch.y, batch.known)
        return
    method.prepare(batch.y, batch.known)
    method.train().step(batch, progress=.5).loss.backward()
    size = sum(p.grad.abs().sum() for p in method.parameters() if p.grad is not None)
    assert torch.isfinite(size) and size > 0


@every_method
def test_unknown_labels_are_never_read(name):
    batch = regime(table(), 'uncertain')
    method, lied = prepared(name, batch), batch._replace(y=torch.where(batch.known, batch.y, 1-batch.y))
    losses = []
    for b in (batch, lied):
        seed_all(5); losses.append(method.train().step(b, progress=.5).loss)
    assert torch.equal(*losses)


@every_method
def test_a_batch_that_knows_nothing_is_harmless(name):
    method, batch = prepared(name), table(8)
    step = method.train().step(batch._replace(y=batch.y*0, known=torch.zeros_like(batch.known)), progress=.5)
    step.loss.backward()
    assert torch.isfinite(step.loss) and all(torch.isfinite(p.grad).all() for p in method.parameters() if p.grad is not None)


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
    assert {k: v.shape for k, v in method.state_dict().items()} == {k: v.shape for k, v in fresh.state_dict().items()}
    again, x = load(save(method, tmp_path)), table(4).x
    assert torch.equal(again(x), method(x))
    assert all(torch.equal(a, b) for a, b in zip(again.state_dict().values(), method.state_dict().values()))


@every_method
def test_recipe_trains_something_and_takes_every_parameter(name):
    from cxr_workbench.learner import parameter_groups, trainable
    method = tiny(name)
    for stage in method.recipe():
        assert trainable(method, stage.train) and parameter_groups(method, stage.groups) and stage.epochs > 0
    assert {n for n, p in method.named_parameters() if p.requires_grad} == {n for n, _ in method.named_parameters()}, 'the last stage leaves something frozen'


@every_method
def test_ablations_build_and_step(name):
    method, batch = tiny(name), table(8)
    assert method.ablations(), 'a method says what can be taken away'
    for arguments in method.ablations().values():
        assert torch.isfinite(prepared(name, **arguments).train().step(batch, progress=.5).loss)


@every_method
def test_cam_targets_pass_a_map(name):
    method, shapes = prepared(name).eval(), {}
    for key, module in method.cam_targets().items(): module.register_forward_hook(lambda m, i, o, key=key: shapes.update({key: o.shape}))
    method(table(2).x)
    assert shapes.keys() == method.cam_targets().keys() and all(len(s) == 4 and s[0] == 2 for s in shapes.values())


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
