"""Runs that train in a thread, and what is seen of them."""
import time
import numpy as np, pytest
from cxr_workbench import core, live
from cxr_workbench.classifier import Classifier
from cxr_workbench.core import Step, create_method, register_method
from cxr_workbench.data import from_phantom, patient_split
from cxr_workbench.phantom import SyntheticCXR


@pytest.fixture(scope='module')
def parts():
    data = from_phantom(SyntheticCXR(160, size=32, seed=6))
    return [data.subset(rows) for rows in patient_split(data.patient_id, data.y, fraction=.4, seed=0)]


def test_a_running_mean_is_the_mean_of_the_last_values():
    values = np.random.default_rng(0).random(30)
    wanted = [values[max(0, i - 6):i + 1].mean() for i in range(30)]
    assert np.allclose(live.smooth_steps(values, 7), wanted)


def test_a_stopped_run_goes_on_as_if_it_had_not_been_stopped(parts, tmp_path):
    halted = live.LiveRun('lcc', *parts, out=tmp_path/'a', epochs=3, preset='tiny')
    original = halted.watch.on_train_batch_end
    def stop_at_once(*rest):
        original(*rest)
        if len(halted.watch.steps) == 1: halted.stop()
    halted.watch.on_train_batch_end = stop_at_once
    halted.start()
    halted.wait()
    assert len(halted.watch.epochs) == 1 and not halted.is_over and not halted.is_running
    halted.start()
    halted.wait()
    whole = live.LiveRun('lcc', *parts, out=tmp_path/'b', epochs=3, preset='tiny')
    whole.start()
    whole.wait()
    assert halted.is_over and [row['step'] for row in halted.watch.steps] == [row['step'] for row in whole.watch.steps]
    assert np.allclose([row['loss'] for row in halted.watch.steps], [row['loss'] for row in whole.watch.steps])
    assert [row['valid/auroc'] for row in halted.watch.epochs] == [row['valid/auroc'] for row in whole.watch.epochs]


def test_what_goes_wrong_in_the_thread_is_kept(parts):
    run = live.LiveRun('supervised', *parts, preset='nonsense')
    run.start()
    with pytest.raises(KeyError, match='no preset'): run.wait()


def test_a_run_is_not_started_twice(parts):
    run = live.LiveRun('supervised', *parts, epochs=50, preset='tiny')
    run.start()
    try:
        with pytest.raises(RuntimeError, match='stop it first'): run.start()
    finally:
        run.stop()
        run.wait()


@pytest.mark.parametrize('name', ['supervised', 'lcc', 'trcgl', 'mpc', 'can', 'acaa'])
def test_rates_are_scaled_whatever_their_form(name):
    method = create_method(name, labels=3, size=32, preset='tiny')
    def read(): return [group[1] for stage in method.recipe() for group in stage.groups]
    once = read()
    live.scale_rates(method, 3.)
    assert once and np.allclose(read(), np.multiply(once, 3))


@pytest.fixture
def made():
    "A method without presets, of a user; it is forgotten after the test."
    class Two(Classifier):
        def default_weights(self): return {'supervised': 1., 'small': .1}
        def step(self, batch, progress=1., stage=0):
            logits, probes = self.look(batch.x)
            terms = self.terms(supervised=lambda: self.supervise(logits, *self.targets(batch)),
                               small=lambda: logits.square().mean())
            return Step(logits, terms, self.weights, probes)
    def two_terms(labels, size=64, backbone='resnet50', pretrained=False):
        return Two(labels, size=size, backbone=backbone, pretrained=pretrained)
    register_method(two_terms)
    yield 'two_terms'
    core._factories.pop('two_terms')


def wait_for(shown):
    "Until a run has ended, and its buttons say so."
    shown.run.wait()
    for _ in range(200):
        if not shown.buttons['start'].disabled: return
        time.sleep(.05)


def test_a_method_without_a_preset_is_offered_trains_stops_and_goes_on(parts, made):
    shown = live.LiveWidget(*parts)
    shown.controls['method'].value = made
    assert set(shown.weights) == {'supervised', 'small'} and not shown.note.value.startswith('<b')
    shown.controls['epochs'].value, shown.controls['rate'].value = 2, .1
    shown.weights['small'].value = 0.   # its factory takes no weights
    shown.press_start()
    shown.press_stop()                  # after the first epoch
    wait_for(shown)
    assert len(shown.run.watch.epochs) == 1 and not shown.buttons['more'].disabled
    assert 'term/small' not in shown.run.watch.steps[-1] and shown.map.spec
    assert sum(p.numel() for p in shown.run.method.parameters()) < 1e6   # not the network of its defaults
    shown.weights['small'].value = .1
    shown.press_more()
    wait_for(shown)
    assert shown.run.is_over and shown.run.error is None


def test_a_method_that_comes_later_is_offered_and_one_that_cannot_be_built_says_why(parts, made):
    shown = live.LiveWidget(*parts)
    def broken(labels, size=64, pretrained=False): raise RuntimeError('no such layer')
    register_method(broken)
    try:
        shown.offer_methods()
        assert shown.controls['method'].value == 'supervised' and 'broken' in shown.controls['method'].options
        shown.controls['method'].value = 'broken'
        assert not shown.weights and 'no such layer' in shown.note.value
        shown.press_start()
        with pytest.raises(RuntimeError, match='no such layer'): shown.run.wait()
    finally: core._factories.pop('broken')


def test_the_widget_trains_with_the_weights_it_shows_and_keeps_the_run_before(parts):
    shown = live.LiveWidget(*parts)
    shown.controls['method'].value = 'lcc'
    assert set(shown.weights) == {'supervised', 'consistency', 'contrast'}
    shown.controls['epochs'].value = 1
    shown.weights['contrast'].value = 0.
    shown.press_start()
    shown.run.wait()
    assert shown.run.method.weights['contrast'] == 0 and shown.map.spec
    first = shown.run
    shown.press_start()
    shown.run.wait()
    assert shown.before is first.watch and ' before' in shown.curves.spec
    for _ in range(100):
        if not shown.buttons['start'].disabled: break
        time.sleep(.05)
    assert shown.buttons['more'].disabled and not shown.buttons['start'].disabled   # it is over


def test_a_run_without_a_step_has_a_picture(parts):
    figure = live.show_progress(live.make_watch())
    assert figure.layout.xaxis.range == figure.layout.yaxis2.range == (0, 1)   # not -1 to 6
    assert len(figure.data) and not any(len(trace.x or ()) for trace in figure.data)


def test_a_weight_counts_from_the_next_step_on_and_a_part_that_was_not_built_cannot_be_had(parts):
    run = live.LiveRun('lcc', *parts, epochs=2, preset='tiny', weights=dict(contrast=0.))
    run.weigh(consistency=.3)   # before it begins
    original = run.watch.on_train_epoch_end
    def change_at_once(*rest):
        original(*rest)
        if len(run.watch.epochs) == 1: run.weigh(consistency=0.)
    run.watch.on_train_epoch_end = change_at_once
    run.start()
    run.wait()
    by_epoch = {row['epoch']: 'term/consistency' in row for row in run.watch.steps}
    assert by_epoch == {1: True, 2: False}
    first = len([row for row in run.watch.steps if row['epoch'] == 1])
    assert run.watch.changes == [(0, 'consistency 0.3'), (first, 'consistency 0')]
    with pytest.raises(ValueError, match='start a new run'): run.weigh(contrast=.5)


def test_a_stopped_run_goes_on_with_another_weight(parts):
    run = live.LiveRun('lcc', *parts, epochs=2, preset='tiny', on_epoch=lambda watch, method: watch.stop())
    run.start()
    run.wait()
    run.weigh(contrast=0.)
    run.start()
    run.wait()
    by_epoch = {row['epoch']: 'term/contrast' in row for row in run.watch.steps}
    assert by_epoch == {1: True, 2: False} and run.is_over
    assert run.watch.changes == [(len(run.watch.steps)//2, 'contrast 0')]


def test_a_changed_weight_stands_in_the_loss(parts):
    run = live.LiveRun('lcc', *parts, epochs=1, preset='tiny')
    run.weigh(contrast=.25, consistency=0.)
    run.start()
    run.wait()
    for row in run.watch.steps:
        assert np.isclose(row['loss'], row['term/supervised'] + .25*row['term/contrast'], rtol=1e-4)


def test_the_widget_shows_the_run_before_beside_the_new_one(parts):
    drawn = []
    shown = live.LiveWidget(*parts, draw=lambda methods: drawn.append(list(methods)) or [])
    assert 'label' not in shown.controls and shown.controls['compare'].disabled
    shown.controls['epochs'].value = 1
    for _ in range(2):
        shown.press_start()
        shown.run.wait()
        while shown.buttons['stop'].disabled is False: time.sleep(.02)
    assert not shown.controls['compare'].disabled and drawn[-1] == ['epoch 1']
    shown.controls['compare'].value = True
    assert drawn[-1] == ['epoch 1', 'the run before']


def test_a_picture_that_fails_does_not_end_the_run(parts):
    def fail(methods): raise RuntimeError('no picture')
    shown = live.LiveWidget(*parts, draw=fail)
    shown.controls['epochs'].value = 2
    shown.press_start()
    shown.run.wait()
    assert shown.run.is_over and 'no picture' in shown.message.value


def test_one_list_names_all_lines_and_the_run_before_once(parts):
    run = live.LiveRun('lcc', *parts, epochs=1, preset='tiny')
    run.start()
    run.wait()
    figure = live.show_progress(run.watch, run.watch)
    named = [trace.name for trace in figure.data if trace.showlegend is not False]
    assert sorted(named) == sorted(['loss', 'supervised', 'consistency', 'contrast', 'AUROC', 'AP', 'the run before'])
    assert not any(trace.legend == 'legend2' for trace in figure.data)


def test_a_term_that_was_switched_off_stays_in_the_picture():
    watch, before = live.make_watch(), live.make_watch()
    watch.steps = [{'step': 1, 'epoch': 1, 'loss': 2., 'term/a': 1., 'term/b': 1.},
                   {'step': 2, 'epoch': 2, 'loss': 1., 'term/a': 1.}]
    before.steps = [{'step': 1, 'epoch': 1, 'loss': 3., 'term/a': 1., 'term/c': 2.}]
    drawn = [trace for trace in live.show_progress(watch, before).data if trace.name and trace.y is not None]
    lines = {trace.name: list(trace.y) for trace in drawn}
    assert lines['b'] == [1.] and lines['c before'] == [2.] and lines['loss'] == [2., 1.5] and lines['c'] == []


@pytest.fixture(scope='module')
def earlier(parts, tmp_path_factory):
    "A folder of fit, with three epochs of 14 labels."
    from cxr_workbench.learner import fit
    folder = tmp_path_factory.mktemp('earlier')/'run'
    method = live.create_method('lcc', labels=parts[0].label_names, size=parts[0].size, preset='tiny')
    fit(method, *parts, out=folder, epochs=3, batch_size=16, progress=False)
    return folder


def test_a_run_goes_on_with_weights_settings_and_history_and_the_folder_stays(parts, earlier):
    import pandas as pd
    import torch
    files = {file: file.read_bytes() for file in earlier.rglob('*') if file.is_file()}
    runs, how = {'mine': earlier, 'a method': None}, dict(source='a phantom', draw=lambda methods: [])
    shown = live.LiveWidget(*parts, runs=runs, **how)
    menu = shown.controls['start']
    assert menu.options == (('nothing (new network)', ''), ('mine', 'mine')) and shown.about.value == live.KEPT
    menu.value = 'mine'
    assert shown.controls['method'].value == 'lcc' and shown.controls['method'].disabled
    assert 'after 3 epochs' in shown.about.value and 'may be too high' in shown.about.value
    assert 'choose the data' not in shown.about.value   # it has no record, so nothing can be held out of it
    assert {name: slider.value for name, slider in shown.weights.items()} == shown.start.method.weights
    at_first = []
    class Look:
        def __call__(self, watch):
            if len(watch.steps) == 1: at_first.append(watch.steps[0]['loss'])
    shown.show_steps = Look()
    shown.controls['epochs'].value = 2
    shown.press_start()
    wait_for(shown)
    history = pd.read_csv(earlier/'history.csv')
    run, before = shown.run, shown.before
    assert run.fit['batch_size'] == 16 and run.watch.done == (history['step'].iloc[-1], 3)
    assert [row['loss'] for row in before.steps] == pytest.approx(list(history['loss']), rel=1e-6)
    assert at_first[0] < history['loss'].iloc[0]   # not a new network
    told = {trace.name: trace for trace in live.show_progress(run.watch, before).data if trace.name}
    assert list(told['AUROC'].x) == [4, 5] and list(told['AUROC before'].x) == [1, 2, 3] and 'mine' in told
    assert min(told['contrast'].x) == history['step'].iloc[-1] + 1
    assert list(shown.seen) == ['epoch 5'] and list(shown.seen_before) == ['mine']
    again = run.make()
    saved = shown.start.method.state_dict()
    assert all(torch.equal(value, saved[name]) for name, value in again.state_dict().items()) and again.training
    assert files == {file: file.read_bytes() for file in earlier.rglob('*') if file.is_file()}


def test_a_run_that_goes_on_stops_takes_another_weight_and_the_new_network_comes_back(parts, earlier):
    shown = live.LiveWidget(*parts, runs={'mine': earlier}, source='held out of mine', draw=lambda methods: [])
    shown.controls['start'].value = 'mine'
    assert 'has not been trained on these images' in shown.about.value
    shown.controls['epochs'].value = 3
    shown.press_start()
    shown.press_stop()
    wait_for(shown)
    assert len(shown.run.watch.epochs) == 1 and not shown.buttons['more'].disabled
    shown.weights['contrast'].value = .25
    assert shown.run.weights['contrast'] == .25 and shown.run.watch.changes[-1][1] == 'contrast 0.25'
    shown.press_more()
    wait_for(shown)
    assert len(shown.run.watch.epochs) == 3
    shown.controls['start'].value = ''
    assert shown.start is None and not shown.controls['method'].disabled
    assert shown.weights['contrast'].value == live.create_method(
        'lcc', labels=parts[0].label_names, size=parts[0].size, preset='tiny').weights['contrast']


def test_data_unlike_those_of_a_run_are_refused_in_one_line_or_brought_into_its_order(parts, earlier):
    start, data = live.EarlierRun('mine', earlier), parts[0]
    names = list(data.label_names)
    flipped = dict(y=data.y.flip(1), known=data.known.flip(1), states=None)
    turned = data.copy_with(label_names=names[::-1], **flipped)
    matched = live.match_data(start, turned)
    assert list(matched.label_names) == names and (matched.y == data.y).all()
    other = data.copy_with(label_names=['Wheeze', *names[1:]], states=data.states)
    with pytest.raises(ValueError, match=f'no label {names[0]}, which mine was trained on: choose the data'):
        live.match_data(start, other)
    shown = live.LiveWidget(other, other, runs={'mine': earlier}, draw=lambda methods: [])
    shown.controls['start'].value = 'mine'
    assert 'no label' in shown.about.value and shown.start is None
    shown.press_start()
    assert shown.run is None and 'nothing is trained' in shown.note.value
    start.method.config['size'] = 2*data.size
    with pytest.raises(ValueError, match=f'{2*data.size} px, these have {data.size} px: choose'):
        live.match_data(start, data)


def test_a_run_is_kept_once_it_stands_and_again_when_it_has_gone_on(parts, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = live.LiveRun('supervised', *parts, epochs=2, preset='tiny')
    with pytest.raises(ValueError, match='no epoch'): live.keep_run(run, 'runs')
    assert not (tmp_path/'runs').exists()
    run.start()
    with pytest.raises(RuntimeError, match='stop it first'): live.keep_run(run, 'runs')
    run.stop()
    run.wait()
    shown = live.LiveWidget(*parts, draw=lambda methods: [])
    shown.run = run
    shown.press_keep()
    first = next((tmp_path/'runs').iterdir())
    assert shown.note.value == f'kept in runs/{first.name}' and run.is_kept
    run.start()
    run.wait()
    assert not run.is_kept   # one epoch more than the copy
    time.sleep(1.1)          # folders are named by the second
    shown.press_keep()
    second = max((tmp_path/'runs').iterdir())
    counts = [len(live.EarlierRun('kept', folder).epochs) for folder in (first, second)]
    assert counts == [1, 2] and run.is_kept


def test_a_copy_that_fails_leaves_nothing_half(parts, tmp_path, monkeypatch):
    run = live.LiveRun('supervised', *parts, epochs=1, preset='tiny')
    run.start()
    run.wait()
    def fail(*where): raise OSError(28, 'No space left on device')
    monkeypatch.setattr(live, 'write_atomic', fail)
    with pytest.raises(OSError, match='No space'): live.keep_run(run, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_steps_of_a_run_of_two_stages_are_counted_on(parts, tmp_path, monkeypatch):
    rows = [dict(epoch=1, stage=0, step=5, loss=2.),
            dict(epoch=2, stage=1, step=4, loss=1.),
            dict(epoch=3, stage=1, step=8, loss=.5, **{'valid/auroc': float('nan')})]
    monkeypatch.setattr(live, 'load', lambda folder: None)
    monkeypatch.setattr(live, 'open_checkpoint', lambda file: dict(history=rows, record=dict(labelled=None)))
    start = live.EarlierRun('mine', tmp_path)
    assert [row['step'] for row in start.steps] == [5, 9, 13] and start.settings == {}
    assert 'valid/auroc' not in start.epochs[-1]
    rows.clear()
    with pytest.raises(ValueError, match='no whole epoch'): live.EarlierRun('mine', tmp_path)
