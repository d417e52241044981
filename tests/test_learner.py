"""Training, resuming, saving and predicting: what must hold when things go wrong."""
import json, os, pickle, resource, signal, subprocess, sys, textwrap, time
from pathlib import Path
import numpy as np, pytest, torch
from torch import nn
from hypothesis import given, strategies as st
from cxr_workbench import learner
from cxr_workbench.backbone import Backbone
from cxr_workbench.core import Method, Stage, Step, create_method, register_method
from cxr_workbench.data import from_arrays
from cxr_workbench.losses import masked_bce

NAMES = ['Edema', 'Fracture', 'Hernia']


def small_net():
    return nn.Sequential(nn.Conv2d(1, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU())


class TwoStages(Method):
    "A frozen backbone first, then everything, averaged."
    def __init__(self, labels, size=32, unknown='ignore', weights=None, explode=False):
        super().__init__(labels, unknown=unknown, weights=weights)
        self.backbone, self.head, self.explode = Backbone(small_net(), size), nn.Linear(8, self.labels), explode
    def look(self, x): return self.head(self.backbone.features(x)), {}
    def step(self, batch, progress=1., stage=0):
        logits = self(batch.x + .05*torch.randn_like(batch.x))   # randomness that a resume must reproduce
        if self.explode and progress > .5: logits = logits*float('nan')
        return Step(logits, {'bce': masked_bce(logits, *self.targets(batch))}, self.weights)
    def recipe(self):
        return [Stage(2, train=r'(?!backbone\.)', groups=(('', 1e-2, 0.),), schedule='constant'),
                Stage(3, groups=((r'backbone\.', 1e-3, 0.), ('', 1e-2, 0.)), schedule='cosine', warmup=.2, ema=.9, clip=1.)]


@register_method
def two_stages(labels, size=32, pretrained=False, **kw): return TwoStages(labels, size, **kw)


@pytest.fixture
def data():
    g = np.random.default_rng(0)
    y = (g.random((40, 3)) < .5).astype(np.float32)
    images = np.clip(g.random((40, 32, 32))*.5 + y[:, :1, None]*.3, 0, 1).astype(np.float32)
    return from_arrays(images, y, patient_id=np.arange(40), label_names=NAMES)


def make(name='two_stages', **kw):
    torch.manual_seed(0)
    return create_method(name, labels=NAMES, size=32, **kw)


def train(data, out=None, method=None, **kw):
    method = method or make()
    return method, learner.fit(method, data.subset(range(28)), data.subset(range(28, 40)), out=out, batch_size=8, progress=False, device='cpu', **kw)


def same_state(a, b): return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values()))


def test_history_has_a_row_per_epoch_and_a_column_per_term(data):
    _, history = train(data)
    assert history['epoch'].tolist() == [1, 2, 3, 4, 5] and history['stage'].tolist() == [0, 0, 1, 1, 1]
    assert np.allclose(history['loss'], history['term/bce']) and history['step'].is_monotonic_increasing is not None
    assert history['valid/auroc'].between(0, 1).all()


def test_the_first_stage_leaves_the_backbone_bit_identical(data):
    method = make()
    before = {k: v.clone() for k, v in method.backbone.state_dict().items()}
    method.recipe = lambda: TwoStages.recipe(method)[:1]
    train(data, method=method)
    assert all(torch.equal(v, before[k]) for k, v in method.backbone.state_dict().items()), 'running statistics of a frozen batch norm moved'
    assert not torch.equal(method.head.weight, make().head.weight)


def test_two_runs_are_the_same_and_another_seed_is_not(data):
    (a, _), (b, _), (c, _) = train(data), train(data), train(data, seed=1)
    assert same_state(a, b) and not same_state(a, c)


@pytest.mark.parametrize('stop_after', [1, 2, 3, 4])
def test_resume_is_bit_exact_at_every_epochs_end(data, tmp_path, monkeypatch, stop_after):
    "Also between the stages, with the averaged weights."
    whole, whole_history = train(data, out=tmp_path/'whole')
    write, saved = learner.write_history, []
    def write_then_die(history, folder):
        write(history, folder); saved.append(1)
        if len(saved) == stop_after: raise MemoryError('killed')
    monkeypatch.setattr(learner, 'write_history', write_then_die)
    with pytest.raises(MemoryError): train(data, out=tmp_path/'cut')
    monkeypatch.setattr(learner, 'write_history', write)
    resumed, history = train(data, out=tmp_path/'cut')
    assert len(history) == 5 and same_state(whole, resumed)
    assert history.drop(columns='seconds').equals(whole_history.drop(columns='seconds'))


def one_positive(data):
    "The same images with one observed positive each."
    from cxr_workbench.labels import single_positive
    return data.with_labels(*single_positive(data.y.numpy(), seed=0))


@pytest.mark.parametrize('stop_after', [1, 3])
def test_a_table_of_training_rows_resumes_bit_exactly(data, tmp_path, monkeypatch, stop_after):
    "ROLE's learned labels are in the checkpoint and in no model."
    few = one_positive(data)
    def run(out): return train(few, out=out, method=make('mpc', preset='tiny', base='role', epochs=4))
    whole, _ = run(tmp_path/'whole')
    write, saved = learner.write_history, []
    def write_then_die(history, folder):
        write(history, folder); saved.append(1)
        if len(saved) == stop_after: raise MemoryError('killed')
    monkeypatch.setattr(learner, 'write_history', write_then_die)
    with pytest.raises(MemoryError): run(tmp_path/'cut')
    monkeypatch.setattr(learner, 'write_history', write)
    stored = torch.load(tmp_path/'cut'/'last.ckpt', weights_only=True)
    assert list(stored['cxr_rows']) == ['table'] and not [name for name in stored['state_dict'] if 'table' in name]
    resumed, _ = run(tmp_path/'cut')
    assert torch.equal(whole.table.rows, resumed.table.rows) and not torch.equal(stored['cxr_rows']['table'], resumed.table.rows)
    assert same_state(whole, resumed)


CHILD = """
import sys; sys.path.insert(0, {tests!r})
import test_learner as t, numpy as np
from cxr_workbench import learner
data = t.data.__wrapped__() if hasattr(t.data, '__wrapped__') else t.data.__pytest_wrapped__.obj()
{before}
t.train(data, out={out!r}, **{kw!r})
"""


def child(out, before='', **kw):
    code = CHILD.format(tests=str(Path(__file__).parent), out=str(out), before=textwrap.dedent(before), kw=kw)
    return subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_a_killed_process_loses_no_whole_epoch(data, tmp_path):
    slow = """
    import time; step = t.TwoStages.step
    t.TwoStages.step = lambda *a, **k: (time.sleep(.1), step(*a, **k))[1]
    """
    process = child(tmp_path/'run', slow)
    for _ in range(1200):
        if (tmp_path/'run'/'history.csv').exists() or process.poll() is not None: break
        time.sleep(.05)
    process.send_signal(signal.SIGKILL); process.wait()
    assert process.returncode == -signal.SIGKILL, process.stdout.read()
    done = len(learner.read_checkpoint.__globals__['torch'].load(tmp_path/'run'/'last.ckpt', weights_only=True)['cxr']['history'])
    assert 1 <= done < 5
    resumed, history = train(data, out=tmp_path/'run')
    assert len(history) == 5 and same_state(resumed, train(data)[0])


def test_a_full_disk_keeps_the_last_checkpoint(data, tmp_path):
    limit = """
    import resource
    write, calls = learner.write_history, []
    def fill(history, folder):
        write(history, folder); calls.append(1)
        if len(calls) == 2: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
    learner.write_history = fill
    """
    process = child(tmp_path/'run', limit)
    said = process.communicate(timeout=120)[0]
    assert process.returncode != 0 and 'could not be written' in said and 'resumes' in said, said
    resumed, history = train(data, out=tmp_path/'run')
    assert len(history) == 5 and same_state(resumed, train(data)[0]) and not list((tmp_path/'run').glob('*.part'))


@pytest.mark.parametrize('what, change', [('labels', dict(labels=['a', 'b', 'c'])), ('config', dict(explode=False)), ('seed', {})])
def test_a_folder_with_another_run_is_refused(data, tmp_path, what, change):
    train(data, out=tmp_path)
    before = (tmp_path/'last.ckpt').read_bytes()
    other = create_method('two_stages', **{**dict(labels=NAMES, size=32), **change})
    rows = data if what != 'labels' else from_arrays(data.images, data.y, patient_id=data.patient_id, label_names=change['labels'])
    with pytest.raises(ValueError, match=f'another run.*{what}'): train(rows, out=tmp_path, method=other, seed=int(what == 'seed'))
    assert (tmp_path/'last.ckpt').read_bytes() == before
    with pytest.raises(FileExistsError): train(data, out=tmp_path, resume=False)


def test_a_checkpoint_that_is_none_is_refused(data, tmp_path):
    (tmp_path/'last.ckpt').write_bytes(b'not a checkpoint')
    with pytest.raises(ValueError, match='last.ckpt is not a checkpoint'): train(data, out=tmp_path)
    assert (tmp_path/'last.ckpt').read_bytes() == b'not a checkpoint'


def test_a_loss_that_is_not_finite_stops_before_the_weights(data):
    method = make(explode=True)
    with pytest.raises(FloatingPointError, match='not finite.*bce'): train(data, method=method)
    assert all(torch.isfinite(p).all() for p in method.parameters())


def test_other_labels_are_refused(data):
    with pytest.raises(ValueError, match='4 labels'): train(data, method=create_method('two_stages', labels=4, size=32))
    other = from_arrays(data.images, data.y, label_names=['a', 'b', 'c'])
    with pytest.raises(ValueError, match='held-out part has labels'): learner.fit(make(), data, other, progress=False)


def test_a_patient_on_both_sides_is_refused(data):
    with pytest.raises(ValueError, match='both'): learner.fit(make(), data.subset(range(28)), data.subset(range(27, 40)), progress=False)


def test_patterns_that_take_nothing_are_refused(data):
    with pytest.raises(ValueError, match='no parameter matches'): learner.trainable(make(), 'nothing')
    with pytest.raises(ValueError, match='no group'): learner.parameter_groups(make(), ((r'head\.', 1e-3, 0.),))


@given(st.lists(st.integers(1, 50), min_size=1, max_size=4), st.integers(1, 200))
def test_scaled_epochs_add_up_and_keep_every_stage(epochs, wanted):
    recipe = [Stage(n) for n in epochs]
    if wanted < len(recipe):
        with pytest.raises(ValueError): learner.scaled(recipe, wanted)
    else:
        out = [s.epochs for s in learner.scaled(recipe, wanted)]
        assert sum(out) == wanted and min(out) >= 1


def test_an_epoch_may_have_a_number_of_steps(data):
    from dataclasses import replace
    method = make()
    method.recipe = lambda both=method.recipe(): [replace(both[0], epochs=1, steps=7), replace(both[1], epochs=2, steps=2)]
    assert train(data, method=method)[1]['step'].tolist() == [7, 2, 4]


def test_generated_images_are_no_held_out_part(data):
    made = from_arrays(data.images, data.y, patient_id=data.patient_id, label_names=NAMES, synthetic=np.arange(40) > 30)
    with pytest.raises(ValueError, match='9 of the 12 held-out images are generated'): train(made)


def test_average_follows_its_formula(data):
    method = make(); average = learner.average_of(method, .9)
    with torch.no_grad():
        average.update_parameters(method); first = method.head.weight.clone()
        method.head.weight.add_(1.); average.update_parameters(method)
    assert torch.allclose(average.module.head.weight, .9*first + .1*(first+1))
    assert not any(p.requires_grad for p in average.parameters())


def test_save_and_load_are_strict(data, tmp_path):
    method, _ = train(data, out=tmp_path)
    assert same_state(learner.load(tmp_path), method)
    with pytest.raises(ValueError, match='not a mpc'): learner.load(tmp_path, method='mpc')
    with pytest.raises(ValueError, match='was trained on'): learner.load(tmp_path, labels=['a'])
    with pytest.raises(FileNotFoundError, match='model.json'): learner.load(tmp_path/'nowhere')
    config = json.loads((tmp_path/'model.json').read_text()); config['config']['labels'] = ['a', 'b']
    (tmp_path/'model.json').write_text(json.dumps(config))
    with pytest.raises(ValueError, match='does not belong'): learner.load(tmp_path)


def test_loading_never_executes_code(data, tmp_path):
    train(data, out=tmp_path)
    class Bomb:
        def __reduce__(self): return os.system, (f'touch {tmp_path}/boom',)
    (tmp_path/'model.safetensors').write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(ValueError): learner.load(tmp_path)
    torch.save({'cxr': Bomb()}, tmp_path/'last.ckpt')
    with pytest.raises(ValueError): train(data, out=tmp_path)
    assert not (tmp_path/'boom').exists()


def test_predict_keeps_the_rows_of_unreadable_files(tmp_path):
    from PIL import Image
    method = make()
    for i in range(12): Image.fromarray(np.full((40, 40), 10*i, np.uint8)).save(tmp_path/f'{i:02d}.png')
    (tmp_path/'03.png').write_bytes(b'no image'); (tmp_path/'07.png').write_bytes(b'')
    table = learner.predict(method, sorted(tmp_path.glob('*.png')), batch_size=5)
    bad = table['error'] != ''
    assert table['row'].tolist() == list(range(12)) and np.flatnonzero(bad).tolist() == [3, 7]
    assert table.loc[bad, NAMES].isna().all(axis=None) and table.loc[~bad, NAMES].notna().all(axis=None)


def test_predict_is_in_order_and_leaves_the_mode(data):
    method = make().train()
    table = learner.predict(method, data, batch_size=7)
    assert method.training and table['row'].tolist() == list(range(40))
    with torch.no_grad(): alone = torch.sigmoid(method.eval()(data[11].x))
    assert np.allclose(table.loc[11, NAMES].to_numpy(float), alone.numpy()[0], atol=1e-5)


def test_two_processes_end_with_equal_parameters(tmp_path):
    script = tmp_path/'two.py'
    script.write_text(textwrap.dedent(f"""
        import sys, os; sys.path.insert(0, {str(Path(__file__).parent)!r})
        import torch, test_learner as t
        from cxr_workbench import learner
        data = t.data.__wrapped__() if hasattr(t.data, '__wrapped__') else t.data.__pytest_wrapped__.obj()
        method = t.make()
        if __name__ == '__main__':
            h = learner.fit(method, data.subset(range(28)), data.subset(range(28, 39)), out={str(tmp_path/'run')!r}, batch_size=8, progress=False, device='cpu', devices=2)
            torch.save((method.state_dict(), len(h), h['valid/auroc'].tolist()), {str(tmp_path)!r} + f"/rank{{os.environ.get('LOCAL_RANK', 0)}}.pt")
    """))
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=300, env={**os.environ, 'OMP_NUM_THREADS': '1'})
    assert done.returncode == 0, done.stdout + done.stderr
    (a, n, auroc), (b, m, other) = (torch.load(tmp_path/f'rank{r}.pt', weights_only=True) for r in (0, 1))
    assert n == m == 5 and auroc == other
    names = dict(make().named_parameters())
    assert all(torch.equal(a[k], b[k]) for k in names)
    assert not all(torch.equal(a[k], v) for k, v in names.items())
