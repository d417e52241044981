"""Runs that train in a thread, and what is seen of them."""
import time
import numpy as np, pytest
from cxr_workbench import live
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


def test_rates_are_scaled_whatever_their_form():
    for name in ('supervised', 'lcc', 'trcgl', 'mpc', 'can', 'acaa'):
        one, three = live.scale_rates(name, 1.), live.scale_rates(name, 3.)
        assert one and one.keys() == three.keys()
        for key in one: assert np.allclose(np.multiply(one[key], 3), three[key])


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
    assert len(figure.data) and not any(len(trace.x or ()) for trace in figure.data)
