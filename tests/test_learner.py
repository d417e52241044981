"""Training, resuming, saving and predicting: what must hold when things go wrong."""
import contextlib, importlib.util, json, os, pickle, re, signal, subprocess, sys, textwrap, threading, time, warnings
from pathlib import Path
import numpy as np, pytest, torch
from torch import nn
from hypothesis import given, strategies as st
from cxr_workbench import checkpoints, learner, prediction, saving, stages
from cxr_workbench.backbone import Backbone
from cxr_workbench.core import Method, Stage, Step, create_method, list_methods, register_method
from cxr_workbench.data import batch_sampler, from_arrays
from cxr_workbench.files import FileImages, Reading, UnreadableImage, pack
from cxr_workbench.losses import masked_bce

NAMES = ['Edema', 'Fracture', 'Hernia']
QUIET = dict(batch_size=8, progress=False, device='cpu')


def small_net():
    def block(channels): return [nn.Conv2d(channels, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU()]
    return nn.Sequential(*block(1), *block(8))


class TwoStages(Method):
    "A frozen backbone first, then everything, averaged."
    def __init__(self, labels, size=32, unknown='ignore', weights=None, explode=False):
        super().__init__(labels, unknown=unknown, weights=weights)
        self.backbone, self.head, self.explode = Backbone(small_net(), size), nn.Linear(8, self.labels), explode
    def look(self, x): return self.head(self.backbone.features(x)), {}
    def step(self, batch, progress=1., stage=0):
        logits = self(batch.x + .05*torch.randn_like(batch.x))   # randomness that a resume must reproduce
        if self.explode and progress > .5: logits = logits*float('nan')
        return Step(logits, {'supervised': masked_bce(logits, *self.targets(batch))}, self.weights)
    def recipe(self):
        return [Stage(2, train=r'(?!backbone\.)', groups=(('', 1e-2, 0.),), schedule='constant'),
                Stage(3, groups=((r'backbone\.', 1e-3, 0.), ('', 1e-2, 0.)),
                      schedule='cosine', warmup=.2, ema=.9, clip=1.)]


@register_method
def two_stages(labels, size=32, pretrained=False, **kw): return TwoStages(labels, size, **kw)


@pytest.fixture
def data():
    g = np.random.default_rng(0)
    y = (g.random((40, 3)) < .5).astype(np.float32)
    noise = g.random((40, 32, 32))*.5
    images = np.clip(noise + y[:, :1, None]*.3, 0, 1).astype(np.float32)
    return from_arrays(images, y, patient_id=np.arange(40), label_names=NAMES)


def make(name='two_stages', **kw):
    torch.manual_seed(0)
    return create_method(name, labels=NAMES, size=32, **kw)


def train(data, out=None, method=None, **kw):
    method = method or make()
    held = data.subset(range(28, 40))
    return method, learner.fit(method, data.subset(range(28)), held, out=out, **QUIET, **kw)


@pytest.mark.parametrize('kept', [True, False])
def test_a_rate_too_small_for_the_steps_is_said_where_a_run_is_kept(data, tmp_path, kept):
    method = make()
    slow = Stage(1, groups=((r'backbone\.', 1e-6, 0.), ('', 1e-5, 0.)), schedule='cosine')
    method.recipe = lambda: [slow]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        learner.fit(method, data.subset(range(28)), None, out=tmp_path/'run' if kept else None, **QUIET)
    said = [str(w.message) for w in caught if 'hardly leaves its start' in str(w.message)]
    assert len(said) == kept and all('3 steps at learning rates of at most 1e-05' in text for text in said)


@pytest.mark.parametrize('schedule, mean', [('constant', 1.), ('cosine', .5), ('one_cycle', .5)])
def test_no_weight_moves_further_than_the_reach_of_its_stage(schedule, mean):
    torch.manual_seed(0)
    weight, steps = nn.Parameter(torch.full((4, 4), .1)), 40
    groups = [dict(params=[weight], lr=1e-2, weight_decay=0.)]
    reach = stages.measure_reach(groups, schedule, steps)
    assert np.isclose(reach, mean*steps*1e-2/.1)
    optimizer = torch.optim.Adam(groups)
    plan = stages.make_schedule(optimizer, Stage(1, schedule=schedule), steps)
    for _ in range(steps):
        optimizer.zero_grad()
        weight.sum().backward()   # one direction, at every step
        optimizer.step()
        plan.step()
    share = float((weight.detach() - .1).abs().max())/.1/reach
    assert (.85 if schedule == 'one_cycle' else .97) < share < 1.03   # one cycle turns the momentum too


@pytest.mark.parametrize('step, drawn', [(1., 6), (.01, 2)])   # all, or the first of each stage
def test_the_bar_draws_every_slow_step_and_does_not_hold_up_fast_ones(data, monkeypatch, step, drawn):
    now, seen = [0.], []
    monkeypatch.setattr(learner.time, 'monotonic', lambda: now[0])
    class Watched(learner.Bar):
        def on_train_batch_end(self, *args):
            now[0] += step
            super().on_train_batch_end(*args)
        def get_metrics(self, *args):
            seen.append(now[0])
            return super().get_metrics(*args)
    monkeypatch.setattr(learner, 'Bar', Watched)
    monkeypatch.setattr(learner, 'can_draw', lambda stream: True)
    settings = dict(QUIET, batch_size=7, progress=True)   # 28 rows, 4 steps an epoch, the last is always drawn
    learner.fit(make(), data.subset(range(28)), None, epochs=2, **settings)
    inside = [k for k in range(1, 9) if k % 4 and k*step in np.round(seen, 6)]
    assert len(inside) == drawn


@pytest.mark.parametrize('step, lines', [(1., 0), (16., 4)])
def test_a_log_gets_a_line_now_and_then_and_no_bar(data, monkeypatch, capsys, step, lines):
    "Two stages of an epoch of four steps, of 4 or 64 seconds each: a line after 30 seconds, then one at the end."
    now = [0.]
    monkeypatch.delenv('TQDM_DISABLE', raising=False)
    monkeypatch.setattr(learner.time, 'monotonic', lambda: now[0])
    def take_time(self, outputs, batch, batch_idx): now[0] += step
    monkeypatch.setattr(learner.Training, 'on_train_batch_end', take_time)
    learner.fit(make(), data.subset(range(28)), None, epochs=2, **dict(QUIET, batch_size=7, progress=True))
    printed = capsys.readouterr().out
    said = [re.sub(r'0\.\d+', 'X', line) for line in printed.splitlines()]
    assert '\r' not in printed and len(said) == lines, printed
    if not lines: return
    assert said[0] == 'epoch 1 of 2, step 3 of 4: loss X, about 53 s left'
    assert said[1].startswith('epoch 1 of 2: loss X')
    assert said[2:] == ['epoch 2 of 2, step 3 of 4: loss X, about 11 s left', 'epoch 2 of 2: loss X']


def same_state(a, b):
    pairs = zip(a.state_dict().values(), b.state_dict().values())
    return all(torch.equal(x, y) for x, y in pairs)


def test_history_has_a_row_per_epoch_and_a_column_per_term(data):
    _, history = train(data)
    assert history['epoch'].tolist() == [1, 2, 3, 4, 5]
    assert history['stage'].tolist() == [0, 0, 1, 1, 1]
    assert np.allclose(history['loss'], history['term/supervised'])
    assert history['step'].is_monotonic_increasing is not None
    assert history['valid/auroc'].between(0, 1).all()


def test_the_first_stage_leaves_the_backbone_bit_identical(data):
    method = make()
    before = {k: v.clone() for k, v in method.backbone.state_dict().items()}
    method.recipe = lambda: TwoStages.recipe(method)[:1]
    train(data, method=method)
    same = all(torch.equal(v, before[k]) for k, v in method.backbone.state_dict().items())
    assert same, 'running statistics of a frozen batch norm moved'
    assert not torch.equal(method.head.weight, make().head.weight)


def test_two_runs_are_the_same_and_another_seed_is_not(data):
    (a, _), (b, _), (c, _) = train(data), train(data), train(data, seed=1)
    assert same_state(a, b) and not same_state(a, c)


@contextlib.contextmanager
def kill_after(monkeypatch, epochs):
    "What trains within is killed once so many epochs are written."
    write, written = checkpoints.write_history, []
    def write_then_die(history, folder):
        write(history, folder)
        written.append(1)
        if len(written) == epochs: raise MemoryError('killed')
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, 'write_history', write_then_die)
        with pytest.raises(MemoryError): yield


@pytest.mark.parametrize('stop_after', [1, 2, 3, 4])
def test_resume_is_bit_exact_at_every_epochs_end(data, tmp_path, monkeypatch, stop_after):
    "Also between the stages, with the averaged weights."
    whole, whole_history = train(data, out=tmp_path/'whole')
    with kill_after(monkeypatch, stop_after): train(data, out=tmp_path/'cut')
    resumed, history = train(data, out=tmp_path/'cut')
    assert len(history) == 5 and same_state(whole, resumed)
    assert history.drop(columns='seconds').equals(whole_history.drop(columns='seconds'))


# ---- more epochs, the best one, and an early end ----

def constant(schedule='constant', epochs=2):
    "The method of two stages with one stage only, whose length is given."
    method = make()
    method.recipe = lambda: [Stage(epochs, groups=(('', 1e-2, 0.),), schedule=schedule)]
    return method


def test_more_epochs_at_a_constant_rate_are_the_long_run(data, tmp_path):
    "The steps that follow are those of a run that was long from the beginning, bit by bit."
    train(data, out=tmp_path, method=constant())
    with pytest.warns(UserWarning, match='had 2 epochs and goes on to 5.*its learning rate is constant'):
        longer, history = train(data, out=tmp_path, method=constant(), epochs=5)
    whole, whole_history = train(data, method=constant(), epochs=5)
    assert same_state(longer, whole) and same_state(learner.load(tmp_path), whole)
    assert history.drop(columns='seconds').equals(whole_history.drop(columns='seconds'))


@pytest.mark.parametrize('schedule', ['one_cycle', 'cosine'])
def test_more_epochs_take_the_rates_of_the_longer_schedule(data, tmp_path, schedule):
    train(data, out=tmp_path, method=constant(schedule))
    with pytest.warns(UserWarning, match=f'{schedule} schedule is now that of 4 epochs, at 50% and not at 100%'):
        _, history = train(data, out=tmp_path, method=constant(schedule), epochs=4)
    whole = train(data, method=constant(schedule), epochs=4)[1]
    later, rates = history['lr'], whole['lr']
    assert later[2:].tolist() == rates[2:].tolist() and later[1] != rates[1]


def test_more_epochs_leave_the_earlier_stage_as_it_was(data, tmp_path, monkeypatch):
    "Of ten epochs instead of five all new ones are the last stage's; a kill in between changes nothing."
    train(data, out=tmp_path)
    with kill_after(monkeypatch, 2), pytest.warns(UserWarning, match='stage 1 has 8 instead of 3'):
        train(data, out=tmp_path, epochs=10)
    _, history = train(data, out=tmp_path, epochs=10)
    assert history['stage'].tolist() == [0]*2 + [1]*8
    with pytest.raises(ValueError, match='another run: epochs=10, now epochs=7. Choose'):
        train(data, out=tmp_path, epochs=7)


def test_the_best_epoch_is_saved(data, tmp_path):
    "It scores as the history says of it, also where the run ended in between."
    held = data.subset(range(28, 40))
    method, history = train(data, out=tmp_path, best='valid/auroc', epochs=8)
    place = history['valid/auroc'].argmax()
    assert learner.load(tmp_path).training is False and same_state(learner.load(tmp_path), method)
    assert saved_facts(tmp_path)['best'] == dict(
        score='valid/auroc', value=history['valid/auroc'][place], epoch=place + 1)
    from cxr_workbench.metrics import auroc, macro
    scores = learner.predict(method, held)[NAMES].to_numpy()
    assert macro(auroc(scores, held.y, held.known)) == pytest.approx(history['valid/auroc'][place], abs=1e-6)
    again, _ = train(data, out=tmp_path, best='valid/auroc', epochs=8)
    memory, _ = train(data, best='valid/auroc', epochs=8)
    assert same_state(again, method) and same_state(memory, method)
    with pytest.raises(ValueError, match="another run: best='valid/auroc', now best='loss'. C"):
        train(data, out=tmp_path, best='loss', epochs=8)


def saved_facts(folder): return json.loads((folder/'model.json').read_text())


def test_training_stops_where_nothing_better_comes(data, tmp_path):
    "At a rate of zero nothing changes; the first stage runs to its end, and the same call adds no epoch."
    still = lambda: frozen_rates(make())
    _, history = train(data, out=tmp_path, method=still(), patience=2, epochs=12)
    assert history['stage'].tolist().count(0) == 5 and len(history) == 5 + 2
    again, same = train(data, out=tmp_path, method=still(), patience=2, epochs=12)
    assert same.equals(history) and same_state(again, learner.load(tmp_path))
    assert len(train(data, out=tmp_path, method=still(), patience=4, epochs=12)[1]) == 5 + 4


def frozen_rates(method):
    "The same stages at a rate of zero, without an average and without the noise of batch statistics."
    stages = [Stage(stage.epochs, groups=(('', 0., 0.),), schedule='constant', train=r'head\.')
              for stage in TwoStages.recipe(method)]
    method.recipe = lambda: stages
    return method


def test_callbacks_of_lightning_watch_the_history(data):
    from lightning.pytorch.callbacks import Callback, EarlyStopping
    class Count(Callback):
        "Notes the score that callbacks see after each epoch."
        def __init__(self): self.seen = []
        def on_train_epoch_start(self, trainer, module): self.seen.append(len(module.history))
    count = Count()
    stop = EarlyStopping('valid/auroc', mode='max', patience=1)
    _, history = train(data, method=frozen_rates(make()), callbacks=[count, stop])
    assert count.seen == [*range(len(history))] and len(history) == 3, 'each of two stages ends when nothing changes'
    assert float(stop.best_score) == pytest.approx(history['valid/auroc'].max())


@pytest.mark.parametrize('bad, match', [
    (dict(best='auroc'), "best='auroc': give 'valid/auroc'"),
    (dict(callbacks=['stop']), 'the callback str is no light'),
    (dict(patience=0), 'patience'), (dict(best='term/other'), "no column 'term/other'")])
def test_a_score_that_is_none_is_refused(data, tmp_path, bad, match):
    with pytest.raises(ValueError, match=match): train(data, out=tmp_path, **bad)
    with pytest.raises(ValueError, match='held-out part'):
        learner.fit(make(), data, best='valid/ap', **QUIET)


def test_a_callback_of_ones_own_sees_the_epoch_that_ends(data):
    "Lightning calls a plain callback before the module, so the numbers were those of the epoch before, or none."
    import lightning.pytorch as pl
    class Notes(pl.Callback):
        def __init__(self): self.seen, self.lengths = [], []
        def on_train_epoch_end(self, trainer, training):
            self.seen.append({name: float(value) for name, value in trainer.callback_metrics.items()})
            self.lengths.append(len(training.history))
    notes = Notes()
    _, history = train(data, callbacks=notes)
    assert notes.lengths == [1, 2, 3, 4, 5]
    for name in ('loss', 'lr', 'valid/auroc', 'valid/ap', 'term/supervised'):
        np.testing.assert_allclose([row[name] for row in notes.seen], history[name], rtol=1e-6, err_msg=name)


def test_a_callback_that_is_none_is_told_why(data):
    import lightning.pytorch as pl
    class Other:
        "As a class of the package pytorch_lightning looks."
    Other.__module__ = 'pytorch_lightning.callbacks.callback'
    class Mine(Other): pass
    class Plain(pl.Callback): pass
    for bad, match in ((Mine(), "Mine .* one of pytorch_lightning, another package: write 'import lightning.pytorch"),
                       (Plain, r'Plain .* but a class: give an object, Plain\(\)'),
                       (print, 'derive its class from lightning.pytorch.Callback')):
        with pytest.raises(ValueError, match=match): train(data, callbacks=[bad])


def test_what_is_no_data_set_is_told_how_it_becomes_one(data):
    class Own(torch.utils.data.Dataset):
        def __len__(self): return 4
        def __getitem__(self, i): return torch.zeros(1, 32, 32), torch.zeros(3)
    for bad in (Own(), torch.utils.data.DataLoader(Own()), 'table.csv', None):
        with pytest.raises(ValueError, match=rf'the training part is a {type(bad).__name__}, .* from_arrays\(images'):
            learner.fit(make(), bad, None, **QUIET)
    with pytest.raises(ValueError, match='the held-out part is a Own'): learner.fit(make(), data, Own(), **QUIET)


@register_method
def supervised_on_a_net(labels, size=32, pretrained=False, **kw):
    return create_method('supervised', labels=labels, size=size, backbone=small_net(), **kw)


def test_what_cannot_be_saved_is_refused_before_it_trains(data, tmp_path):
    method, before = make('supervised', backbone=small_net()), None
    before = [p.clone() for p in method.parameters()]
    match = 'supervised cannot be saved: its argument backbone is a Sequential.*register_method'
    with pytest.raises(ValueError, match=match): train(data, out=tmp_path/'run', method=method, epochs=1)
    with pytest.raises(ValueError, match=match): saving.save(method, tmp_path/'run')
    assert not (tmp_path/'run').exists() and all(torch.equal(p, q) for p, q in zip(before, method.parameters()))
    loose = TwoStages(NAMES)
    with pytest.raises(ValueError, match='only a method made by create_method'):
        saving.save(loose, tmp_path/'loose')
    assert len(train(data, method=method, epochs=1)[1]) == 1, 'without a folder it trains'
    mine = make('supervised_on_a_net')
    train(data, out=tmp_path/'mine', method=mine, epochs=1)
    assert same_state(learner.load(tmp_path/'mine'), mine)


def one_positive(data):
    "The same images with one observed positive each."
    from cxr_workbench.labels import single_positive
    return data.with_labels(*single_positive(data.y.numpy(), seed=0))


@pytest.mark.parametrize('stop_after', [1, 3])
def test_a_table_of_training_rows_resumes_bit_exactly(data, tmp_path, monkeypatch, stop_after):
    "ROLE's learned labels are in the checkpoint and in no model."
    few = one_positive(data)
    def run(out): return train(few, out=out, method=make('mpc', preset='tiny', loss='role', epochs=4))
    whole, _ = run(tmp_path/'whole')
    with kill_after(monkeypatch, stop_after): run(tmp_path/'cut')
    stored = torch.load(tmp_path/'cut'/'last.ckpt', weights_only=True)
    assert list(stored['cxr_rows']) == ['table'] and not [name for name in stored['state_dict'] if 'table' in name]
    resumed, _ = run(tmp_path/'cut')
    assert torch.equal(whole.table.rows, resumed.table.rows)
    assert not torch.equal(stored['cxr_rows']['table'], resumed.table.rows)
    assert same_state(whole, resumed)


CHILD = """
import sys; sys.path.insert(0, {tests!r})
import test_learner as t, numpy as np
from cxr_workbench import checkpoints, learner, prediction, stages
data = t.data.__wrapped__() if hasattr(t.data, '__wrapped__') else t.data.__pytest_wrapped__.obj()
{before}
t.train(data, out={out!r}, **{kw!r})
"""


def child(out, before='', **kw):
    code = CHILD.format(tests=str(Path(__file__).parent), out=str(out), before=textwrap.dedent(before), kw=kw)
    return subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_a_killed_process_loses_no_whole_epoch(data, tmp_path):
    slow = """
    import time
    step = t.TwoStages.step
    t.TwoStages.step = lambda *a, **k: (time.sleep(.1), step(*a, **k))[1]
    """
    process = child(tmp_path/'run', slow)
    for _ in range(1200):
        if (tmp_path/'run'/'history.csv').exists() or process.poll() is not None: break
        time.sleep(.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert process.returncode == -signal.SIGKILL, process.stdout.read()
    done = len(torch.load(tmp_path/'run'/'last.ckpt', weights_only=True)['cxr']['history'])
    assert 1 <= done < 5
    resumed, history = train(data, out=tmp_path/'run')
    assert len(history) == 5 and same_state(resumed, train(data)[0])


def test_a_full_disk_keeps_the_last_checkpoint(data, tmp_path):
    limit = """
    import resource
    write, calls = checkpoints.write_history, []
    def fill(history, folder):
        write(history, folder)
        calls.append(1)
        if len(calls) == 2: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
    checkpoints.write_history = fill
    """
    process = child(tmp_path/'run', limit)
    said = process.communicate(timeout=120)[0]
    assert process.returncode != 0 and 'could not be written' in said and 'resumes' in said, said
    resumed, history = train(data, out=tmp_path/'run')
    assert len(history) == 5 and same_state(resumed, train(data)[0]) and not list((tmp_path/'run').glob('*.part'))


@pytest.mark.parametrize('what, change', [
    ('labels', dict(labels=['a', 'b', 'c'])), ('without explode=..., now explode=False. C', dict(explode=False)),
    ('seed=0, now seed=1. C', {})])
def test_a_folder_with_another_run_is_refused(data, tmp_path, what, change):
    train(data, out=tmp_path)
    before = (tmp_path/'last.ckpt').read_bytes()
    other = create_method('two_stages', **{**dict(labels=NAMES, size=32), **change})
    rows = data
    if what == 'labels':
        rows = from_arrays(data.images, data.y, patient_id=data.patient_id, label_names=change['labels'])
    with pytest.raises(ValueError, match=f'another run.*{what}'):
        train(rows, out=tmp_path, method=other, seed=int(what.startswith('seed')))
    assert (tmp_path/'last.ckpt').read_bytes() == before
    with pytest.raises(FileExistsError): train(data, out=tmp_path, resume=False)


def test_a_checkpoint_that_is_none_is_refused(data, tmp_path):
    (tmp_path/'last.ckpt').write_bytes(b'not a checkpoint')
    with pytest.raises(ValueError, match='last.ckpt is not a checkpoint'): train(data, out=tmp_path)
    assert (tmp_path/'last.ckpt').read_bytes() == b'not a checkpoint'


def test_a_loss_that_is_not_finite_stops_before_the_weights(data):
    method = make(explode=True)
    with pytest.raises(FloatingPointError, match='not finite.*supervised'): train(data, method=method)
    assert all(torch.isfinite(p).all() for p in method.parameters())


def test_other_labels_are_refused(data):
    with pytest.raises(ValueError, match='4 labels'): train(data, method=create_method('two_stages', labels=4, size=32))
    other = from_arrays(data.images, data.y, label_names=['a', 'b', 'c'])
    with pytest.raises(ValueError, match='held-out part has labels'): learner.fit(make(), data, other, progress=False)


def test_a_patient_on_both_sides_is_refused(data):
    with pytest.raises(ValueError, match='both'):
        learner.fit(make(), data.subset(range(28)), data.subset(range(27, 40)), progress=False)


def test_patterns_that_take_nothing_are_refused(data):
    with pytest.raises(ValueError, match='no parameter matches'): stages.set_trainable(make(), 'nothing')
    with pytest.raises(ValueError, match='no group'): stages.group_parameters(make(), ((r'head\.', 1e-3, 0.),))


@given(st.lists(st.integers(1, 50), min_size=1, max_size=4), st.integers(1, 200))
def test_scaled_epochs_add_up_and_keep_every_stage(epochs, wanted):
    recipe = [Stage(n) for n in epochs]
    if wanted < len(recipe):
        with pytest.raises(ValueError): stages.scale_epochs(recipe, wanted)
    else:
        out = [s.epochs for s in stages.scale_epochs(recipe, wanted)]
        assert sum(out) == wanted and min(out) >= 1


def test_an_epoch_may_have_a_number_of_steps(data):
    from dataclasses import replace
    method = make()
    first, second = method.recipe()
    method.recipe = lambda: [replace(first, epochs=1, steps=7), replace(second, epochs=2, steps=2)]
    assert train(data, method=method)[1]['step'].tolist() == [7, 2, 4]


def test_generated_images_are_no_held_out_part(data):
    made = from_arrays(data.images, data.y, patient_id=data.patient_id, label_names=NAMES, synthetic=np.arange(40) > 30)
    with pytest.raises(ValueError, match='9 of the 12 held-out images are generated'): train(made)


def test_average_follows_its_formula(data):
    method = make(); average = stages.make_average(method, .9)
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


@pytest.fixture
def watched(tmp_path, monkeypatch):
    "A list of what was tried: connections, and the import of a module that stands ready to be named."
    import socket
    tried = []
    def refuse(*args, **kw):
        tried.append(args[-1] if args else kw)
        raise OSError('no network in this test')
    for name in ('connect', 'connect_ex', 'sendto'): monkeypatch.setattr(socket.socket, name, refuse)
    for name in ('getaddrinfo', 'gethostbyname', 'create_connection'): monkeypatch.setattr(socket, name, refuse)
    code = f"open({str(tmp_path/'ran')!r}, 'w').close()\ndef run(*args, **kw): pass\n"
    (tmp_path/'strange_module.py').write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    yield tried
    assert not (tmp_path/'ran').exists() and 'strange_module' not in sys.modules and not tried


STRANGE = [   # path in the config -> what a stranger wrote there; whether the model still opens
    (('arguments', 'backbone'), 'hf-hub:timm/test_resnet.r160_in1k', True),
    (('arguments', 'backbone'), 'hf-hub:someone/secret', False),
    (('arguments', 'backbone'), 'HF_HUB: someone/secret', False),
    (('arguments', 'backbone'), 'someone/secret', False),
    (('arguments', 'backbone'), 'local-dir:.', False),
    (('arguments', 'backbone'), 'https://example.org/net', False),
    (('arguments', 'backbone'), 'strange_module', False),
    (('arguments', 'pretrained'), True, True),
    (('arguments', 'pretrained'), 'https://example.org/weights.pth', True),
    (('arguments', 'pretrained_cfg'), {'url': 'https://example.org/weights.pth'}, False),
    (('arguments', 'weights'), 'strange_module:run', False),
    (('arguments', 'weak'), {'kind': 'strange_module.run'}, False),
    (('arguments', 'loss'), 'strange_module.run', False),
    (('arguments', 'head'), {'kind': 'strange_module:run'}, False),
    (('arguments', 'optimizer'), 'strange_module.run', True),   # a recipe is read where training begins
    (('pretrained',), True, True),
    (('method',), 'strange_module', False),
    (('method',), 'strange_module:run', False)]


@pytest.mark.parametrize('place, value, opens', STRANGE)
def test_opening_a_model_reaches_no_server_and_runs_nothing(tmp_path, watched, place, value, opens):
    made = create_method('supervised', labels=NAMES, size=32, preset='tiny')
    folder = learner.save(made, tmp_path/'model')
    saved = json.loads((folder/'model.json').read_text())
    inner = saved['config']
    for name in place[:-1]: inner = inner[name]
    inner[place[-1]] = value
    (folder/'model.json').write_text(json.dumps(saved))
    if opens: assert same_state(learner.load(folder), made)
    else:
        with pytest.raises(ValueError, match='model.json'): learner.load(folder)
    own = create_method('supervised', labels=['A', 'B'], size=32, preset='tiny')
    with contextlib.suppress(ValueError): learner.start_from(own, folder)


def test_another_network_under_an_address_is_refused(tmp_path, watched):
    "Its last part is the name of a network, but not of the one whose weights lie there."
    folder = learner.save(create_method('supervised', labels=NAMES, size=32, preset='tiny'), tmp_path/'model')
    text = (folder/'model.json').read_text()
    (folder/'model.json').write_text(text.replace('"test_resnet"', '"hf-hub:someone/resnet18"'))
    with pytest.raises(ValueError, match='does not belong to its model.json'): learner.load(folder)


def test_predict_keeps_the_rows_of_unreadable_files(tmp_path):
    from PIL import Image
    method = make()
    for i in range(12): Image.fromarray(np.full((40, 40), 10*i, np.uint8)).save(tmp_path/f'{i:02d}.png')
    (tmp_path/'03.png').write_bytes(b'no image'); (tmp_path/'07.png').write_bytes(b'')
    table = learner.predict(method, sorted(tmp_path.glob('*.png')), batch_size=5)
    bad = table['error'] != ''
    assert table['row'].tolist() == list(range(12)) and np.flatnonzero(bad).tolist() == [3, 7]
    assert table.loc[bad, NAMES].isna().all(axis=None)
    assert table.loc[~bad, NAMES].notna().all(axis=None)


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
            train, held, out = data.subset(range(28)), data.subset(range(28, 39)), {str(tmp_path/'run')!r}
            h = learner.fit(method, train, held, out=out, devices=2, **t.QUIET)
            file = {str(tmp_path)!r} + f"/rank{{os.environ.get('LOCAL_RANK', 0)}}.pt"
            torch.save((method.state_dict(), len(h), h['valid/auroc'].tolist()), file)
    """))
    env = {**os.environ, 'OMP_NUM_THREADS': '1'}
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=300, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    (a, n, auroc), (b, m, other) = (torch.load(tmp_path/f'rank{r}.pt', weights_only=True) for r in (0, 1))
    assert n == m == 5 and auroc == other
    names = dict(make().named_parameters())
    assert all(torch.equal(a[k], b[k]) for k in names)
    assert not all(torch.equal(a[k], v) for k, v in names.items())


# ---- averaged weights ----

class Counting(Method):
    "Has one of each kind of buffer."
    def __init__(self, labels):
        super().__init__(labels)
        self.head, self.norm = nn.Linear(4, self.labels), nn.BatchNorm1d(4)
        self.register_buffer('seen', torch.zeros((), dtype=torch.long))
        self.register_buffer('queue', torch.zeros(3))


def test_a_warmed_average_follows_its_formula():
    "min(d, (1+n)/(10+n)) with n updates so far; the first update copies."
    method = Counting(2)
    average, expected = stages.make_average(method, .5, warmup=True), None
    for n in range(30):
        with torch.no_grad(): method.head.weight.fill_(float(n*n))
        average.update_parameters(method)
        decay = min(.5, (1 + n)/(10 + n))
        expected = float(n*n) if n == 0 else decay*expected + (1 - decay)*n*n
        assert torch.allclose(average.module.head.weight, torch.tensor(expected)), n
    assert int(average.n_averaged) == 30


def test_an_average_copies_counters_and_memories():
    method = Counting(2)
    average = stages.make_average(method, .999, warmup=True)
    for n in range(7):
        method.seen.fill_(10*n + 3)
        method.norm.num_batches_tracked.fill_(n)
        method.queue.fill_(float(n))
        method.norm.running_mean.fill_(float(n))
        average.update_parameters(method)
    copied, moved = average.module, average.module.norm.running_mean[0]
    assert int(copied.seen) == 63 and int(copied.norm.num_batches_tracked) == 6 and copied.queue.tolist() == [6.]*3
    assert 4 < float(moved) < 6, 'running statistics move with the weights'


def averaged(ema, epochs=12):
    "A method of one stage whose average has this decay."
    method = make()
    method.recipe = lambda: [Stage(epochs, groups=(('', 1e-2, 0.),), schedule='constant', ema=ema)]
    return method


@pytest.mark.parametrize('ema', [.999, .9999])
def test_a_short_run_keeps_what_it_learned(data, ema):
    with pytest.warns(UserWarning, match=f'its average reaches the decay {ema} after') as said:
        method, history = train(data, method=averaged(ema))
    last = history.iloc[-1]
    assert abs(last['valid/auroc'] - last['valid/auroc_raw']) < .1 and last['valid/auroc'] > .6
    text = str([w for w in said if 'decay' in str(w.message)][0].message)
    assert ('8,990' if ema == .999 else '89,990') in text and '36 steps' in text
    held = data.subset(range(28, 40))
    from cxr_workbench.metrics import auroc
    scores = learner.predict(method, held)[NAMES].to_numpy()
    area = np.nanmean(auroc(scores, held.y.numpy(), held.known.numpy()))
    assert area == pytest.approx(last['valid/auroc'], abs=1e-6)


def test_both_scores_are_logged_only_beside_an_average(data):
    history = train(data)[1]
    first, second = history[history.stage == 0], history[history.stage == 1]
    for name in ('valid/auroc_raw', 'valid/ap_raw'):
        assert first[name].isna().all() and second[name].between(0, 1).all()
    assert not [name for name in train(data, method=averaged(None, 1))[1] if name.endswith('_raw')]


def test_a_long_run_is_not_warned_of():
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        stages.warn_of_short_average(Stage(1, ema=.9), 0, 80)
        stages.warn_of_short_average(Stage(1, ema=.999), 0, 8990)
        stages.warn_of_short_average(Stage(1), 0, 1)
    for ema, steps in ((.9, 79), (.999, 8989)):
        with pytest.warns(UserWarning, match=f'{steps:,} steps'):
            stages.warn_of_short_average(Stage(1, ema=ema), 0, steps)


def cut(data, tmp_path, monkeypatch, epochs=1):
    "A run that ended after some epochs; its last.ckpt as torch reads it."
    with kill_after(monkeypatch, epochs): train(data, out=tmp_path)
    return torch.load(tmp_path/'last.ckpt', weights_only=True)


def test_a_checkpoint_of_before_goes_on(data, tmp_path, monkeypatch):
    "Without the new keys: no reading, no held-out part, no number of processes, an average without a warm-up."
    stored = cut(data, tmp_path, monkeypatch, epochs=3)
    assert int(stored['state_dict']['average.n_averaged']) == 3
    for key in ('warmed', 'world'): del stored['cxr'][key]
    for key in ('reading', 'valid'): del stored['cxr']['record'][key]
    torch.save(stored, tmp_path/'last.ckpt')
    with pytest.warns(UserWarning, match='began without a warm-up'): method, history = train(data, out=tmp_path)
    assert len(history) == 5 and learner.load(tmp_path).reading is None
    assert same_state(method, train(data)[0]), 'nothing but the words were missing'


def test_another_number_of_processes_is_refused(data, tmp_path, monkeypatch):
    stored = cut(data, tmp_path, monkeypatch)
    stored['cxr']['world'] = 4
    torch.save(stored, tmp_path/'last.ckpt')
    with pytest.raises(ValueError, match='began with 4 processes.*devices=4'): train(data, out=tmp_path)


def test_another_held_out_part_is_another_run(data, tmp_path):
    learner.fit(make(), data.subset(range(28)), data.subset(range(28, 40)), out=tmp_path, **QUIET)
    with pytest.raises(ValueError, match='another run: its held-out part is another one. C'):
        learner.fit(make(), data.subset(range(28)), data.subset(range(30, 40)), out=tmp_path, **QUIET)


def test_weights_of_zero_learn_nothing(data):
    with pytest.raises(ValueError, match='every loss term has the weight 0'):
        train(data, method=make(weights={'supervised': 0.}))


# ---- one reading ----

@pytest.fixture(scope='module')
def scans(tmp_path_factory):
    "40 oblong files of 16 bits of which 12 are in use, as paths."
    from PIL import Image
    folder, g = tmp_path_factory.mktemp('scans'), np.random.default_rng(1)
    for i in range(40):
        pixels = g.integers(0, 4096, (40, 56)).astype(np.uint16)
        Image.fromarray(pixels).save(folder/f'{i:02d}.png')
    return sorted(folder.glob('*.png'))


def packed(scans, folder, rows=slice(None), **how):
    "A data set over a pack of the files."
    g, files = np.random.default_rng(2), scans[rows]
    y = (g.random((len(scans), 3)) < .5).astype(np.float32)[rows]
    images = pack(files, folder, 32, **how)
    return from_arrays(images, y, patient_id=np.arange(len(scans))[rows], label_names=NAMES)


HOW = [
    dict(bits=12), dict(fit='crop', bits=12),
    dict(fit='stretch', bits=12, stretch=True), dict(bits=12, invert=True)]


@pytest.mark.parametrize('how', HOW)
def test_what_is_read_is_what_was_trained_on(scans, tmp_path, how):
    data = packed(scans, tmp_path/'pack', **how)
    train(data, out=tmp_path/'run')
    saved = json.loads((tmp_path/'run'/'model.json').read_text())
    assert saved['reading'] == Reading(32, **how).to_dict()
    model = learner.load(tmp_path/'run')
    assert model.reading == Reading(32, **how)
    from_files = learner.predict(model, scans)[NAMES].to_numpy()
    from_pack = learner.predict(model, data)[NAMES].to_numpy()
    assert np.abs(from_files - from_pack).max() < 2e-3, 'a pack rounds to bytes'
    again = learner.load(learner.save(model, tmp_path/'copy'))
    assert again.reading == model.reading
    other = packed(scans, tmp_path/'other', fit='pad' if how.get('fit') else 'crop', bits=13)
    differ = r"training images of the model were read as.*are read as.*fit '.*' against '.*', bits 12 against 13"
    with pytest.raises(ValueError, match=differ): learner.predict(model, other)
    with pytest.raises(ValueError, match='against'):
        learner.predict(model, scans[:2], reading=Reading(32, 'crop', bits=14))


def test_a_held_out_part_of_another_reading_is_refused(scans, tmp_path):
    mine = packed(scans, tmp_path/'a', slice(0, 28), bits=12)
    other = packed(scans, tmp_path/'b', slice(28, 40), fit='crop', bits=12)
    differ = "training images were read.*held-out images are read.*fit 'pad' against 'crop'"
    with pytest.raises(ValueError, match=differ):
        learner.fit(make(), mine, other, progress=False, device='cpu')


def test_a_run_goes_on_only_with_its_reading(scans, tmp_path, monkeypatch):
    cut(packed(scans, tmp_path/'a', bits=12), tmp_path/'run', monkeypatch)
    other = packed(scans, tmp_path/'b', bits=12, fit='crop')
    with pytest.raises(ValueError, match="another run: fit='pad', now fit='crop'. C"):
        train(other, out=tmp_path/'run')


def test_a_model_of_before_keeps_the_reading_of_before(scans, tmp_path):
    train(packed(scans, tmp_path/'pack', bits=12), out=tmp_path/'run')
    file = tmp_path/'run'/'model.json'
    saved = json.loads(file.read_text())
    del saved['reading']
    file.write_text(json.dumps(saved))
    model = learner.load(tmp_path/'run')
    assert model.reading == Reading(32)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        learner.predict(model, scans[:3])
    with pytest.raises(ValueError, match='assumed.*write "reading" into it'):
        learner.predict(model, packed(scans, tmp_path/'crop', fit='crop', bits=12))
    corrected = learner.predict(model, scans[:2], reading=Reading(32, 'crop', bits=12))
    assert corrected['error'].eq('').all(), 'what is assumed may be corrected'
    assert 'reading' not in json.loads((learner.save(model, tmp_path/'copy')/'model.json').read_text())


def test_arrays_do_not_say_how_they_were_read(data, scans, tmp_path):
    method, _ = train(data, out=tmp_path)
    assert method.reading is None and json.loads((tmp_path/'model.json').read_text())['reading'] is None
    with pytest.warns(UserWarning, match='do not say how they were read.*Reading'):
        guessed = learner.predict(learner.load(tmp_path), scans[:3])
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        said = learner.predict(method, scans[:3], reading=Reading(32))
        method.reading = Reading(32)
        kept = learner.predict(method, scans[:3])
    assert guessed.equals(said) and said.equals(kept)
    with pytest.raises(ValueError, match='size 32 against 64'): learner.predict(method, scans, reading=Reading(64))
    with pytest.raises(ValueError, match='reading= is for files'): learner.predict(method, data, reading=Reading(32))


def test_another_size_is_refused_with_both_numbers(data, scans, tmp_path):
    large = create_method('two_stages', labels=NAMES, size=64)
    for attempt in (lambda: train(data, method=large), lambda: learner.predict(large, data)):
        with pytest.raises(ValueError, match='64 px.*32 px'): attempt()
    wide = from_arrays(np.zeros((4, 48, 48), np.uint8), np.eye(4, 3), label_names=NAMES)
    with pytest.raises(ValueError, match='held-out part have 48 px'): learner.fit(make(), data, wide, progress=False)


@pytest.mark.parametrize('change, match', [
    (lambda d: d.update(reading=dict(size=32, fit='fill')), "model.json holds a reading that cannot be used .*'fill'"),
    (lambda d: d.update(reading=dict(size=32, zoom=2)), 'model.json holds a reading.*zoom'),
    (lambda d: d.update(reading='pad'), 'model.json holds a reading'),
    (lambda d: d.update(reading=dict(size=64)), 'contradicts itself.*32 px.*64 px'),
    (lambda d: d.pop('config'), 'model.json describes no saved model, it has no "config"'),
    (lambda d: d.update(config=[1]), 'model.json describes no saved model'),
    (lambda d: d['config'].pop('labels'), 'model.json is incomplete.*labels'),
    (lambda d: d['config'].update(size='32', arguments=None), 'model.json is incomplete.*size, arguments'),
    (lambda d: d['config'].update(method='nowhere'),
     'model.json describes a method that cannot be made.*nowhere.*import the module'),
    (lambda d: d['config'].update(arguments=dict(depth=3)), 'model.json describes a method that cannot be made.*depth'),
    (lambda d: d['config'].update(labels=['a', 'a', 'b']), 'model.json describes a method that cannot be made.*twice')])
def test_a_wrong_record_is_named(tmp_path, change, match):
    file = learner.save(make(), tmp_path)/'model.json'
    saved = json.loads(file.read_text())
    change(saved)
    file.write_text(json.dumps(saved))
    with pytest.raises(ValueError, match=match): learner.load(tmp_path)


@pytest.mark.parametrize('name', ['model.json', 'model.safetensors'])
@pytest.mark.parametrize('share', [0, .01, .5, .99])
def test_a_cut_model_is_named(tmp_path, name, share):
    file = learner.save(make(), tmp_path)/name
    whole = file.read_bytes()
    file.write_bytes(whole[:int(share*len(whole))])
    with pytest.raises(ValueError, match=f'{name} is cut off or damaged.*copy the folder again'): learner.load(tmp_path)


def test_a_model_that_is_no_text_is_named(tmp_path):
    (learner.save(make(), tmp_path)/'model.json').write_bytes(b'\xff\xfe\x00{}')
    with pytest.raises(ValueError, match='model.json is cut off or damaged'): learner.load(tmp_path)
    method = make()
    with torch.no_grad(): method.head.weight[0, 0] = float('nan')
    with pytest.raises(ValueError, match=r'holds NaN.*head\.weight'): learner.load(learner.save(method, tmp_path))
    with pytest.raises(ValueError, match=r'gives NaN for 1 of 1.*head\.weight'):
        prediction.score_batch(method, torch.rand(1, 1, 32, 32))


def test_a_damaged_checkpoint_is_named(data, tmp_path):
    train(data, out=tmp_path)
    file = tmp_path/'last.ckpt'
    whole = file.read_bytes()
    for share in (.1, .6, .999):
        file.write_bytes(whole[:int(share*len(whole))])
        with pytest.raises(ValueError, match='last.ckpt is not a checkpoint.*cut off or damaged.*move it away'):
            train(data, out=tmp_path)
    stored = torch.load(io_of(whole), weights_only=True)['state_dict']['method.head.weight'].numpy().tobytes()
    at = whole.index(stored) + 40
    file.write_bytes(whole[:at] + bytes([whole[at] ^ 64]) + whole[at+1:])   # one bit of one weight
    with pytest.raises(ValueError, match='check sum'): train(data, out=tmp_path)
    for strange in ({'cxr': 3}, {'cxr': dict(record=1, history=[], stage=0)}, {'state_dict': {}}):
        torch.save(strange, file)
        with pytest.raises(ValueError, match='last.ckpt is not a checkpoint'): train(data, out=tmp_path)


def io_of(block):
    import io
    return io.BytesIO(block)


def test_a_folder_with_a_model_is_not_written_over(data, tmp_path):
    learner.save(make(), tmp_path)
    before = (tmp_path/'model.safetensors').read_bytes()
    with pytest.raises(FileExistsError, match='saved model and no last.ckpt'): train(data, out=tmp_path)
    with pytest.raises(FileExistsError, match='holds a run .model.json'): train(data, out=tmp_path, resume=False)
    assert (tmp_path/'model.safetensors').read_bytes() == before
    with pytest.raises(NotADirectoryError, match='is a file'): train(data, out=tmp_path/'model.json')


# ---- numbers that cannot be ----

class NormedHead(TwoStages):
    "Its head has a batch norm over single numbers."
    def __init__(self, labels, size=32):
        super().__init__(labels, size)
        self.head = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Linear(8, self.labels))


def test_a_batch_of_one_row_names_the_module(data, tmp_path):
    with pytest.raises(ValueError, match=r'head\.1 \(BatchNorm1d\) needs two or more.*batch_size=2'):
        learner.fit(NormedHead(NAMES), data, out=tmp_path/'run', batch_size=1, progress=False, device='cpu')
    assert not (tmp_path/'run').exists()
    one = data.subset([0]).with_labels(np.zeros((1, 3)))
    with pytest.raises(ValueError, match='two rows to each'):
        learner.fit(NormedHead(NAMES), one, progress=False, device='cpu')


def test_what_is_left_over_waits_for_the_next_epoch(data):
    "28 rows in batches of 9 or 27: three batches and one, none of them with a single row."
    for batch_size, steps in ((9, 3), (27, 1), (64, 1)):
        method = averaged(None, 2)
        history = learner.fit(method, data.subset(range(28)), batch_size=batch_size, progress=False, device='cpu')
        assert history['step'].tolist() == [steps, 2*steps]


def test_a_method_that_can_trains_on_single_rows(data):
    method = averaged(None, 1)
    history = learner.fit(method, data.subset(range(6)), batch_size=1, progress=False, device='cpu')
    assert history['step'].tolist() == [6] and np.isfinite(history['loss']).all()


METHODS = list_methods('cxr_workbench')


@pytest.mark.parametrize('name', METHODS)
def test_every_method_trains_on_one_row_or_says_why_not(data, name):
    method = create_method(name, labels=NAMES, size=32, preset='tiny')
    method.prepare(data.y, data.known)
    before = {k: v.clone() for k, v in method.state_dict().items()}
    for number, stage in enumerate(method.recipe()):
        try: stages.check_batches(method, stage, number, data, 1, None)
        except ValueError as error: assert 'batch_size=2' in str(error) or 'mixed' in str(error)
        stages.check_batches(method, stage, number, data, 4, None)
    assert all(torch.equal(v, before[k]) for k, v in method.state_dict().items()), 'the trial is made on a copy'


@pytest.mark.parametrize('bad', [
    dict(batch_size=0), dict(batch_size=-4), dict(batch_size=2.5), dict(batch_size=True), dict(batch_size='8'),
    dict(epochs=0), dict(epochs=-1), dict(epochs=2.5), dict(epochs=1),
    dict(workers=-1), dict(workers=.5), dict(seed=-1), dict(seed='a'),
    dict(labelled=0), dict(labelled=1.5), dict(devices=0), dict(devices=-2)])
def test_numbers_that_cannot_be_are_refused_before_anything(data, tmp_path, bad):
    name, = bad
    with pytest.raises(ValueError, match=name):
        learner.fit(make(), data, out=tmp_path/'run', **{**dict(batch_size=8, progress=False, device='cpu'), **bad})
    assert not (tmp_path/'run').exists()


@pytest.mark.parametrize('bad', [
    dict(batch_size=0), dict(batch_size=-1), dict(batch_size=1.5), dict(workers=-1), dict(workers=None)])
def test_predict_refuses_such_numbers_too(data, scans, bad):
    name, = bad
    for what in (data, scans[:2]):
        with pytest.raises(ValueError, match=name): learner.predict(make(), what, **bad)


@pytest.mark.parametrize('device', ['gpuu', 'cuda', 'mps', 'cuda:1'])
def test_a_device_that_is_not_there_is_named(data, tmp_path, device):
    here = dict(cuda=torch.cuda.is_available(), mps=torch.backends.mps.is_available())
    if here.get(device.partition(':')[0]): pytest.skip('this machine has it')
    for attempt in (lambda: learner.predict(make(), data, device=device),
                    lambda: learner.fit(make(), data, device=device),
                    lambda: learner.load(learner.save(make(), tmp_path), device=device)):
        with pytest.raises(ValueError, match=f"device='{device}'"): attempt()


def test_more_devices_than_there_are_are_refused(data, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 2)
    assert learner.count_processes(2, 'cuda') == 2 and learner.count_processes(4, 'cpu') == 4
    with pytest.raises(ValueError, match='devices=3: torch sees 2 here; give devices=2'):
        learner.count_processes(3, 'cuda')


# ---- a temperature and thresholds ----

def test_what_was_tuned_is_saved_with_the_model(data, tmp_path):
    "The order of the scores stays; decisions are what the thresholds say; a label that is always present has none."
    y = data.y.clone()
    y[:, 2] = 1
    held = data.subset(range(28, 40)).with_labels(y[28:].numpy(), data.known[28:].numpy())
    method, _ = train(data, out=tmp_path/'run', tune=True)
    model = learner.load(tmp_path/'run')
    assert model.calibration == method.calibration and set(model.calibration['thresholds']) == set(NAMES)
    found = learner.calibrate(model, held)
    assert found['thresholds']['Hernia'] is None and found['thresholds']['Edema'] is not None
    again = learner.load(learner.save(model, tmp_path/'again'))
    plain, tuned = learner.predict(again, held), learner.predict(again, held, calibrated=True)
    logit = lambda table: torch.logit(torch.tensor(table[NAMES].to_numpy(), dtype=torch.float64))
    assert torch.allclose(logit(plain)/found['temperature'], logit(tuned), atol=1e-4)
    with pytest.warns(UserWarning, match='tuned on little: 12 images are few for a temperature.*Edema'):
        present = learner.decide(tuned, again)
    assert present['Hernia'].isna().all()
    assert present['Edema'].tolist() == (tuned['Edema'] >= found['thresholds']['Edema']).tolist()


def test_what_was_tuned_says_on_how_little_it_rests(data, tmp_path):
    "The numbers are saved; one warning names the labels; probabilities of both kinds come from one pass."
    method, held = make(), data.subset(range(28, 40))
    with pytest.warns(UserWarning, match='12 images are few for a temperature.*10 positives.*Edema') as caught:
        found = learner.calibrate(method, held)
    assert len(caught) == 1 and found['images'] == 12 and found['tuned_on'] == held.fingerprint()
    y, known = held.y.numpy(), held.known.numpy()
    assert list(found['positives'].values()) == (y*known).sum(0).tolist()
    assert list(found['negatives'].values()) == ((1 - y)*known).sum(0).tolist()
    enough = dict.fromkeys(NAMES, 10)
    assert prediction.describe_basis(dict(images=100, positives=enough, negatives=enough)) == ''
    few = prediction.describe_basis(dict(images=100, positives={**enough, 'Hernia': 9}, negatives=enough))
    assert few.endswith('there are fewer of Hernia (9 and 10)') and 'temperature' not in few
    assert prediction.describe_basis(dict(temperature=1., thresholds={})) == ''   # of a version that saved no numbers
    plain, calibrated = prediction.predict_both(method, held, batch_size=5)
    assert np.array_equal(plain, learner.predict(method, held, batch_size=5)[NAMES])
    assert np.array_equal(calibrated, learner.predict(method, held, batch_size=5, calibrated=True)[NAMES])
    for name, limit in found['thresholds'].items():                  # a threshold is the score of an image
        assert limit is None or limit in calibrated[:, NAMES.index(name)].astype(float)


def test_no_temperature_is_better_on_the_part_it_was_tuned_on():
    g = torch.Generator().manual_seed(0)
    logits = 4*torch.randn(300, 3, generator=g)
    y = (torch.rand(300, 3, generator=g) < torch.sigmoid(logits/2.5)).float()
    known = torch.rand(300, 3, generator=g) < .7
    def cross_entropy(t): return nn.functional.binary_cross_entropy_with_logits(logits[known]/t, y[known]).item()
    best = prediction.find_temperature(logits.numpy(), y.numpy(), known.numpy())
    assert 2 < best < 3.2
    assert cross_entropy(best) < min(cross_entropy(t) for t in (best*.98, best*1.02, 1., 5.))


@pytest.mark.parametrize('bad', [
    3, {'temperature': 0, 'thresholds': {}}, {'temperature': 1., 'thresholds': {'Edema': .5}},
    {'temperature': 1., 'thresholds': dict.fromkeys(NAMES, 2.)},
    {'temperature': '1', 'thresholds': dict.fromkeys(NAMES)},
    {'temperature': 1., 'thresholds': dict.fromkeys(NAMES), 'images': 5, 'positives': dict.fromkeys(NAMES, 1)},
    {'temperature': 1., 'thresholds': dict.fromkeys(NAMES), 'images': -5}])
def test_a_calibration_that_is_none_is_refused(tmp_path, bad):
    folder = learner.save(create_method('two_stages', labels=NAMES, size=32), tmp_path)
    saved = json.loads((folder/'model.json').read_text())
    assert learner.load(folder).calibration is None
    (folder/'model.json').write_text(json.dumps({**saved, 'calibration': bad}))
    with pytest.raises(ValueError, match='calibration that cannot be used'): learner.load(folder)


def test_predict_puts_the_method_back(data, monkeypatch):
    method, asked = make(), []
    move = method.to
    monkeypatch.setattr(method, 'to', lambda device: asked.append(torch.device(device)) or move('cpu'))
    monkeypatch.setattr(saving, 'default_device', lambda: torch.device('cuda', 1))
    learner.predict(method, data, device='auto')
    assert asked == [torch.device('cuda', 1), torch.device('cpu')]
    asked.clear()
    learner.predict(method, data)
    assert asked == [torch.device('cpu')]*2
    asked.clear()
    with torch.no_grad(): next(method.parameters()).fill_(torch.nan)
    with pytest.raises(ValueError, match='NaN'): learner.predict(method, data, device='auto')
    assert asked == [torch.device('cuda', 1), torch.device('cpu')], 'after an error too'


@pytest.mark.parametrize('device', ['auto', None, 'cpu', torch.device('cpu')])
def test_names_of_devices(data, tmp_path, device, monkeypatch):
    monkeypatch.setattr(saving, 'default_device', lambda: torch.device('cpu'))
    method = learner.load(learner.save(make(), tmp_path), device=device)
    assert {p.device.type for p in method.parameters()} == {'cpu'}
    assert learner.predict(method, data, device=device).equals(learner.predict(method, data))
    assert saving.as_device('gpu') == torch.device('cuda')


def test_parts_that_share_images_are_refused(data):
    nobody = from_arrays(data.images, data.y, label_names=NAMES)
    with pytest.raises(ValueError, match='2 images are in both parts'):
        learner.fit(make(), nobody.subset(range(30)), nobody.subset(range(28, 40)), progress=False)
    with pytest.raises(ValueError, match='training part has patient ids and the held-out part has none'):
        learner.fit(make(), data.subset(range(28)), nobody.subset(range(28, 40)), progress=False)


def test_labels_in_another_order_are_refused(data):
    other = from_arrays(data.images, data.y, label_names=NAMES[::-1])
    with pytest.raises(ValueError, match='another order'): learner.predict(make(), other)


def test_what_is_no_data_set_is_refused(data):
    for what in (torch.rand(2, 1, 32, 32), np.zeros((2, 32, 32)), [1, 2], 5):
        with pytest.raises(ValueError, match='from_arrays'): learner.predict(make(), what)
    method = create_method('two_stages', labels=['path', 'a'], size=32)
    with pytest.raises(ValueError, match=r"\['path'\]"): learner.predict(method, data)


# ---- batches that are read ahead ----

@pytest.fixture
def in_files(scans):
    "A data set over 20 files; it is left with as many threads as there were."
    before, y = threading.active_count(), np.zeros((20, len(NAMES)))
    yield from_arrays(FileImages(scans[:20], Reading(32)), y, label_names=NAMES)
    assert threading.active_count() == before


def count_reads(monkeypatch, before=lambda path: None):
    "Paths that were read, in their order; `before` gets each path first."
    read, seen = Reading.__call__, []
    def call(self, path):
        before(path)
        seen.append(Path(path).stem)
        return read(self, path)
    monkeypatch.setattr(Reading, '__call__', call)
    return seen


@pytest.mark.parametrize('workers', [0, 1, 3])
def test_batches_read_ahead_keep_the_order_of_the_rows(in_files, monkeypatch, workers):
    wanted = in_files.batch(range(20))
    seen = count_reads(monkeypatch, before=lambda path: time.sleep(.02*(Path(path).stem < '06')))   # slow ones first
    batches = list(prediction.read_ahead(in_files, 3, workers))
    assert [len(batch.x) for batch in batches] == [3]*6 + [2]
    assert torch.equal(torch.cat([batch.idx for batch in batches]), torch.arange(20))
    assert torch.equal(torch.cat([batch.x for batch in batches]), wanted.x)
    assert sorted(seen) == [f'{row:02d}' for row in range(20)]


def test_batches_before_an_unreadable_file_come_first(in_files, monkeypatch):
    error, found = UnreadableImage('10.png', 'cut off'), []
    failing(monkeypatch, {'10.png': error})
    with pytest.raises(UnreadableImage) as raised:
        for batch in prediction.read_ahead(in_files, 4, workers=3): found += batch.idx.tolist()
    assert raised.value is error and found == list(range(8))


@pytest.mark.parametrize('use', [learner.predict, learner.calibrate])
def test_no_thread_outlives_a_method_that_fails(in_files, use):
    class Odd(Exception): pass
    method, before = make(), threading.active_count()
    method.reading = Reading(32)
    def fail(x): raise Odd
    method.forward = fail
    with pytest.raises(Odd) as raised: use(method, in_files, batch_size=3)
    assert raised.tb and threading.active_count() == before, 'while somebody looks at the error'


@pytest.mark.parametrize('workers', [1, 3])
def test_a_reader_that_is_closed_early_reads_no_further(in_files, monkeypatch, workers):
    before, seen = threading.active_count(), count_reads(monkeypatch)
    batches = prediction.read_ahead(in_files, 2, workers)
    assert not seen, 'nothing is read before the first batch is asked for'
    assert next(batches).idx.tolist() == [0, 1] and threading.active_count() > before
    batches.close()
    ended = len(seen)
    assert ended <= 2*(workers + 1) < 20 and threading.active_count() == before
    time.sleep(.05)
    assert len(seen) == ended and not list(batches)


# ---- predict outlives its files ----

class Panic(BaseException):
    "What a decoder in another language may raise."


def failing(monkeypatch, at):
    "The reading of some files raises; name -> what."
    read = Reading.__call__
    def call(self, path):
        error = at.get(Path(path).name)
        if error is not None: raise error
        return read(self, path)
    monkeypatch.setattr(Reading, '__call__', call)


def test_no_file_ends_predict(scans, monkeypatch):
    failing(monkeypatch, {'01.png': Panic('overflow'), '04.png': MemoryError(),
                          '06.png': RuntimeError('odd'), '07.png': ZeroDivisionError()})
    method = make()
    method.reading = Reading(32)
    table = learner.predict(method, scans[:12], batch_size=5)
    bad = table['error'] != ''
    assert np.flatnonzero(bad).tolist() == [1, 4, 6, 7]
    assert table.loc[~bad, NAMES].notna().all(axis=None)
    for row, words in ((1, 'decoder broke off .Panic'), (4, 'more memory'), (6, 'odd')):
        assert re.search(words, table['error'][row])
    assert table['error'].str.len()[bad].gt(0).all()


def test_a_stop_by_the_user_hands_over_the_rows(scans, monkeypatch):
    failing(monkeypatch, {'09.png': KeyboardInterrupt()})
    method = make()
    method.reading = Reading(32)
    with pytest.raises(KeyboardInterrupt, match='after 8 of 12 files') as stop:
        learner.predict(method, scans[:12], batch_size=4, workers=0)
    scores = stop.value.scores
    assert scores['row'].tolist() == list(range(8)) and scores[NAMES].notna().all(axis=None)


def test_every_module_gets_its_mode_back(data):
    method = make().train()
    method.backbone.eval()
    modes = [m.training for m in method.modules()]
    learner.predict(method, data)
    assert [m.training for m in method.modules()] == modes


# ---- export ----

NEEDED = ('onnx', 'onnxscript', 'onnxruntime')
can_run_onnx = all(importlib.util.find_spec(name) for name in NEEDED)
onnx_there = pytest.mark.skipif(not can_run_onnx, reason=f'needs {", ".join(NEEDED)}')


def trained_a_little(name):
    "Label statistics filled, running statistics moved, a reading."
    torch.manual_seed(0)
    method = create_method(name, labels=NAMES, size=64, preset='tiny')
    g = torch.Generator().manual_seed(0)
    y = (torch.rand(12, 3, generator=g) < .5).float()
    method.prepare(y, torch.ones(12, 3, dtype=torch.bool))
    for module in method.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm): module.running_mean.uniform_(-.2, .2)
    method.reading = Reading(64, 'crop', bits=12)
    return method.train()


@pytest.mark.parametrize('name', METHODS)
def test_every_method_becomes_a_program(name, tmp_path):
    method, file = trained_a_little(name), tmp_path/'model.pt2'
    assert learner.export(method, file) <= 1e-6 and method.training
    texts = dict.fromkeys(('label_names', 'size', 'reading', 'method'), '')
    program = torch.export.load(file, extra_files=texts).module()
    texts = {k: v if isinstance(v, str) else v.decode() for k, v in texts.items()}
    assert json.loads(texts['label_names']) == NAMES and texts['size'] == '64' and texts['method'] == name
    assert Reading.from_dict(json.loads(texts['reading'])) == method.reading
    for rows in (1, 3, 8):
        x = torch.rand(rows, 1, 64, 64, generator=torch.Generator().manual_seed(rows))
        with torch.no_grad(): assert torch.allclose(program(x), method.eval()(x), atol=1e-5)


@onnx_there
@pytest.mark.parametrize('name', METHODS)
def test_every_method_becomes_onnx(name, tmp_path):
    import onnx, onnxruntime
    method, file = trained_a_little(name), tmp_path/'model.onnx'
    assert learner.export(method, file) <= 1e-5
    texts = {p.key: p.value for p in onnx.load(file).metadata_props}
    assert json.loads(texts['label_names']) == NAMES and texts['size'] == '64'
    assert Reading.from_dict(json.loads(texts['reading'])) == method.reading
    session = onnxruntime.InferenceSession(str(file), providers=['CPUExecutionProvider'])
    for rows in (1, 3, 8):
        x = torch.rand(rows, 1, 64, 64, generator=torch.Generator().manual_seed(rows))
        with torch.no_grad(): wanted = method.eval()(x).numpy()
        assert np.allclose(session.run(None, {'image': x.numpy()})[0], wanted, atol=1e-4)


def test_a_folder_is_exported_without_its_rows(data, tmp_path):
    "ROLE's table of training rows stays at home, and the formats come from the names."
    few = one_positive(data)
    method, _ = train(few, out=tmp_path/'run', method=make('mpc', preset='tiny', loss='role', epochs=1))
    assert learner.export(tmp_path/'run', tmp_path/'model.bin', format='pt2') <= 1e-6
    assert learner.export(method, tmp_path/'again.pt2') <= 1e-6
    program = torch.export.load(tmp_path/'again.pt2')
    by_row = [name for name, value in program.state_dict.items() if len(value.shape) and value.shape[0] == 28]
    assert len(method.table.rows) == 28 and not by_row


def test_exports_that_cannot_be_say_so(data, tmp_path, monkeypatch):
    method = make()
    wrong = [('m.bin', {}, 'ends in .onnx or .pt2'), ('m.pt2', dict(format='onnx'), 'ends in .pt2, but'),
             ('m.onnx', dict(format='tflite'), "'onnx' or 'pt2'")]
    for path, kw, match in wrong:
        with pytest.raises(ValueError, match=match): learner.export(method, tmp_path/path, **kw)
    with pytest.raises(FileNotFoundError, match='no folder'): learner.export(method, tmp_path/'no'/'m.pt2')
    with pytest.raises(ValueError, match='create_method'): learner.export(TwoStages(NAMES), tmp_path/'m.pt2')
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name, *a: None if name == 'onnxscript' else find(name, *a))
    with pytest.raises(ModuleNotFoundError, match=r'onnxscript: pip install "cxr-workbench\[export\]"'):
        learner.export(method, tmp_path/'m.onnx')
    class Twisted(TwoStages):
        def look(self, x):
            other = self.training or torch.compiler.is_exporting()
            return super().look(x)[0] + (x.mean() if other else 0), {}
    twisted = Twisted(NAMES)
    twisted.config = method.config
    with pytest.raises(ValueError, match='is not written: its probabilities differ'):
        learner.export(twisted, tmp_path/'m.pt2')
    assert not list(tmp_path.iterdir())


@onnx_there
@pytest.mark.parametrize('suffix', ['pt2', 'onnx'])
def test_an_exported_file_names_no_patient_and_no_place(scans, tmp_path, suffix):
    "Trained on files of named patients; neither they, nor the folders of this machine, nor of torch stand in the file."
    import zipfile
    if suffix == 'onnx': pytest.importorskip('onnx'), pytest.importorskip('onnxscript')
    rows = packed(scans, tmp_path/'pack')
    named = from_arrays(rows.batch(range(len(scans))).x[:, 0].numpy(), rows.y, label_names=NAMES,
                        patient_id=[f'patient-{i:04d}' for i in range(len(scans))])
    method = create_method('supervised', labels=NAMES, size=named.size, preset='tiny')
    train, valid = named.subset(range(30)), named.subset(range(30, 40))
    learner.fit(method, train, valid, out=tmp_path/'run', epochs=1, **QUIET)
    file = tmp_path/f'model.{suffix}'
    learner.export(tmp_path/'run', file)
    content = file.read_bytes()
    if suffix == 'pt2':
        with zipfile.ZipFile(file) as archive: content = b''.join(map(archive.read, archive.namelist()))
    hidden = ['patient-', str(tmp_path), str(scans[0].parent), 'site-packages', str(Path(saving.__file__).parent)]
    assert not [text for text in hidden if text.encode() in content]
    assert b'Fracture' in content


def test_onnx_without_its_runtime_is_written_unseen(tmp_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name, *a: None if name == 'onnxruntime' else find(name, *a))
    assert learner.export(make(), tmp_path/'m.onnx') is None and (tmp_path/'m.onnx').stat().st_size > 1000


# ---- predict and report ----

def test_report_takes_what_predict_gives(data):
    from cxr_workbench.metrics import report
    method = make()
    few = data.with_labels(data.y.numpy(), torch.arange(120).view(40, 3) % 7 != 0)
    scores = learner.predict(method, few)
    assert scores.attrs['label_names'] == NAMES and list(scores) == ['row', 'path', *NAMES]
    by_hand = report(scores[NAMES].to_numpy(), few.y, few.known, few.patient_id, NAMES, n_boot=50)
    assert report(scores, few, n_boot=50).equals(by_hand)
    assert report(scores[NAMES].to_numpy(), few, n_boot=50).equals(by_hand)
    assert report(scores.sample(frac=1, random_state=0).sort_values('row'), few, n_boot=50).equals(by_hand)
    every = report(scores, few, known=np.ones((40, 3), bool), n_boot=0)
    assert every.loc[NAMES, 'n'].tolist() == [40]*3, 'a mask that is given comes first'


def test_report_refuses_scores_of_other_rows_or_labels(data):
    from cxr_workbench.metrics import report
    scores = learner.predict(make(), data)
    with pytest.raises(ValueError, match='scores of 40 rows, and the data set has 28'):
        report(scores, data.subset(range(28)), n_boot=0)
    with pytest.raises(ValueError, match='row 39 of the data set is in place 0 of the scores'):
        report(scores[::-1], data, n_boot=0)
    with pytest.raises(ValueError, match='row 12 of the data set is in place 0'):
        report(scores[12:], data.subset(range(28)), n_boot=0)
    other = from_arrays(data.images, data.y, patient_id=data.patient_id, label_names=NAMES[::-1])
    with pytest.raises(ValueError, match='the scores are of the labels .*Edema.*and the data set has .*Hernia'):
        report(scores, other, n_boot=0)
    with pytest.raises(ValueError, match='the scores are of the labels'):
        report(scores.drop(columns='Hernia'), data, n_boot=0)


def test_report_refuses_scores_of_another_data_set(data):
    from cxr_workbench.metrics import report
    scores = learner.predict(make(), data)
    assert scores.attrs['data'] == scores.copy().attrs['data'] == data.fingerprint()
    assert scores.sort_values('row').attrs['data'] == data.fingerprint()
    g = np.random.default_rng(3)
    images = g.integers(0, 256, (40, 32, 32)).astype(np.uint8)
    another = from_arrays(images, g.random((40, 3)) < .5, patient_id=data.patient_id, label_names=NAMES)
    people = from_arrays(data.images, data.y, patient_id=np.arange(40) + 1000, label_names=NAMES)
    corrected = data.with_labels(1 - data.y)
    for other in (another, people, corrected):
        for table in (scores, scores.copy(), scores[NAMES]):
            with pytest.raises(ValueError, match='of another data set, or of this one with other labels'):
                report(table, other, n_boot=0)
    flipped = report(scores[NAMES].to_numpy(), corrected, n_boot=0)
    assert np.allclose(flipped['auroc'], 1 - report(scores, data, n_boot=0)['auroc']), 'numbers alone are taken'


def test_a_table_without_its_data_set_is_taken(data, tmp_path):
    import pandas as pd
    from cxr_workbench.metrics import report
    scores = learner.predict(make(), data)
    scores.to_csv(tmp_path/'scores.csv', index=False)
    read = pd.read_csv(tmp_path/'scores.csv', keep_default_na=False)
    assert np.allclose(report(read, data, n_boot=0)['ap'], report(scores, data, n_boot=0)['ap'])


def test_report_of_files_names_the_file_and_the_row(scans):
    from cxr_workbench.metrics import report
    y = np.arange(120).reshape(40, 3) % 2
    data = from_arrays(scans, y, patient_id=np.arange(40), label_names=NAMES, size=32)
    scores = learner.predict(make(), scans, reading=Reading(32))
    assert report(scores, data, n_boot=0).equals(report(learner.predict(make(), data), data, n_boot=0))
    swapped = scores.assign(path=scores['path'][::-1].to_list())
    with pytest.raises(ValueError, match='row 0 was scored from .*39.png, and the data set has .*00.png there'):
        report(swapped, data, n_boot=0)
    scores.loc[3, NAMES] = np.nan
    with pytest.raises(ValueError, match=r'NaN or infinite in 1 of 40 rows: \[3\]'): report(scores, data, n_boot=0)


# ---- loaders, and names of before ----

def test_fit_takes_its_loaders_from_dataloaders(data, monkeypatch):
    make_loaders, asked = learner.dataloaders, []
    def watch(train, valid, *how, **kw):
        asked.append((len(train), len(valid)))
        return make_loaders(train, valid, *how, **kw)
    monkeypatch.setattr(learner, 'dataloaders', watch)
    train(data)
    assert len(asked) >= 5 and set(asked) == {(28, 12)}, 'both loaders of each of five epochs'


def test_every_epoch_has_an_order_of_its_own(data, tmp_path, monkeypatch):
    "Also in the second stage, and after a resume."
    def record_rows(method):
        step, seen = method.step, []
        def watch(batch, progress=1., stage=0):
            if stage == 1 and len(batch.idx) == 8: seen.append(batch.idx.tolist())
            return step(batch, progress=progress, stage=stage)
        method.step = watch
        return seen
    method = make()
    seen = record_rows(method)
    train(data, method=method)
    epochs = [seen[i:i+3] for i in range(0, 9, 3)]
    assert len(seen) == 9 and len(set(map(str, epochs))) == 3
    for number, epoch in enumerate(epochs, 2):
        sampler = batch_sampler(data.known[:28], 'known', 8)
        sampler.set_epoch(number)
        assert epoch == list(sampler)
    cut(data, tmp_path, monkeypatch, epochs=3)
    method = make()
    again = record_rows(method)
    train(data, out=tmp_path, method=method)
    assert again == seen[3:]


def test_a_checkpoint_under_older_names_goes_on(data, tmp_path, monkeypatch):
    "Tensors in last.ckpt and in a saved model, the average among them."
    from cxr_workbench import renamed
    stored = cut(data, tmp_path, monkeypatch, epochs=3)
    state = stored['state_dict']
    stored['state_dict'] = {name.replace('.head.', '.classifier.'): value for name, value in state.items()}
    assert any('average.module.classifier.' in name for name in stored['state_dict'])
    torch.save(stored, tmp_path/'last.ckpt')
    monkeypatch.setitem(renamed.MODULES, 'two_stages', {'classifier.': 'head.'})
    method, _ = train(data, out=tmp_path)
    assert same_state(method, train(data)[0])


def test_a_model_under_older_names_loads(tmp_path, monkeypatch):
    from safetensors.torch import load_file, save_file
    from cxr_workbench import renamed
    method = make(weights={'supervised': 2.})
    file = learner.save(method, tmp_path)/'model.safetensors'
    save_file({name.replace('head.', 'classifier.'): value for name, value in load_file(file).items()}, file)
    saved = json.loads((tmp_path/'model.json').read_text())
    del saved['config']['vocabulary']
    saved['config']['arguments'] = {'loss_weights': {'bce': 2.}}
    (tmp_path/'model.json').write_text(json.dumps(saved))
    monkeypatch.setitem(renamed.MODULES, 'two_stages', {'classifier.': 'head.'})
    monkeypatch.setitem(renamed.ARGUMENTS, 'two_stages', {'loss_weights': 'weights'})
    monkeypatch.setitem(renamed.TERMS, 'two_stages', {'bce': 'supervised'})
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        again = learner.load(tmp_path)
    assert same_state(again, method.eval()) and again.weights == {'supervised': 2.}
    assert again.config == method.config, 'saved again, it has today\'s names'
