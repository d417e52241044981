"Scripts and benchmarks: what is kept of an executed page, and what the benchmarks count."
import importlib.util, json, os, shutil, subprocess, sys
from pathlib import Path
from types import SimpleNamespace
import nbformat, numpy as np, pandas as pd, pytest, torch
from cxr_workbench import learner
from cxr_workbench.metrics import auroc

ROOT = Path(__file__).resolve().parent.parent


def open_script(path):
    "A script as a module."
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# ---- pages executed for committing ----

@pytest.fixture(scope='module')
def execute(): return open_script(ROOT/'scripts'/'execute.py')


@pytest.mark.parametrize('before, after', [
    ({}, {}),
    ({'tags': ['parameters'], 'collapsed': True}, {'tags': ['parameters']}),
    ({'tags': []}, {}),
    ({'jupyter': {'source_hidden': True, 'outputs_hidden': True}}, {'jupyter': {'source_hidden': True}}),
    ({'jupyter': {'source_hidden': False}}, {'jupyter': {'source_hidden': False}}),
    ({'execution': {'iopub.status.busy': 'a time'}, 'scrolled': True}, {}),
])
def test_tags_and_folded_sources_stay_and_timings_go(execute, before, after):
    nb = nbformat.v4.new_notebook(metadata={'widgets': {'state': {}}})
    nb.cells = [nbformat.v4.new_code_cell('1', metadata=before), nbformat.v4.new_markdown_cell('a', metadata=before)]
    cleaned = execute.clean(nb)
    assert [cell.metadata for cell in cleaned.cells] == [after]*2
    assert list(cleaned.metadata) == ['kernelspec']
    nbformat.validate(cleaned)


def test_a_picture_has_the_words_of_its_figure_beside_it(execute):
    import base64, io
    import plotly.graph_objects as go
    from PIL import Image
    png, figure = io.BytesIO(), go.Figure(go.Bar(y=[1], name='cases'), dict(title_text='a title'))
    Image.new('RGB', (9, 9)).save(png, 'PNG')
    data = {execute.FIGURE: figure.to_plotly_json(), 'image/png': base64.b64encode(png.getvalue()).decode()}
    kept = execute.clean_output(nbformat.v4.new_output('display_data', data))
    assert kept.metadata == {'image/png': {'alt': 'a title. 1 set of bars: cases'}}
    bare = execute.clean_output(nbformat.v4.new_output('display_data', {'image/png': data['image/png']}))
    assert bare.metadata == {}


def test_widgets_noise_and_counts_go(execute):
    widget = nbformat.v4.new_output('display_data', {execute.WIDGET: {}, 'text/plain': 'VBox()'})
    noise = nbformat.v4.new_output('stream', name='stderr', text='a warning')
    said = nbformat.v4.new_output('stream', name='stdout', text='a result')
    value = nbformat.v4.new_output('execute_result', {'text/plain': '2'}, execution_count=7)
    cell = nbformat.v4.new_code_cell('1 + 1', execution_count=7, outputs=[widget, noise, said, value])
    kept = execute.clean(nbformat.v4.new_notebook(cells=[cell])).cells[0]
    assert [output.output_type for output in kept.outputs] == ['stream', 'execute_result']
    assert kept.execution_count is None and kept.outputs[1].execution_count is None


# ---- benchmarks ----

@pytest.fixture
def benchmark(monkeypatch):
    "A benchmark by its name, as run.py opens it."
    monkeypatch.syspath_prepend(str(ROOT/'benchmarks'))
    return lambda name: open_script(ROOT/'benchmarks'/f'{name}.py')


def test_run_names_every_benchmark(benchmark):
    files = {path.stem for path in (ROOT/'benchmarks').glob('*.py')} - {'run', 'measure', 'against'}
    assert set(benchmark('run').NAMES) == files
    for name in files: assert 'def measure_rows(' in (ROOT/'benchmarks'/f'{name}.py').read_text()


def test_a_table_has_one_line_per_row_and_names_no_machine_twice(benchmark):
    rows = [dict(what='a', ms=1.234, machine='m'), dict(what='b', other=3, machine='m')]
    assert benchmark('run').format_table(rows).splitlines() == [
        '| what | ms | other |', '| --- | --- | --- |', '| a | 1.23 |  |', '| b |  | 3 |']


def test_calls_take_turns(benchmark):
    order = []
    calls = {'a': lambda: order.append('a'), 'b': lambda: order.append('b')}
    taken = benchmark('measure').time_in_turns(calls, rounds=3)
    assert order == ['a', 'b']*3 and {name: len(seconds) for name, seconds in taken.items()} == {'a': 3, 'b': 3}


def test_the_peak_of_a_call_is_what_it_holds_at_once(benchmark):
    import torch
    def hold():
        first = torch.ones(1_000_000)         # 4 MB
        second = first + 1                    # 8 MB are held
        del first, second
        return torch.ones(500_000).sum()
    assert benchmark('measure').peak_bytes(hold) == pytest.approx(8e6, rel=.01)


@pytest.mark.parametrize('name, options', [
    ('scan', {'--tokens', '--channels', '--rounds', '--device'}),
    ('diffusion', {'--batches', '--steps', '--folder', '--device'}),
    ('attack', {'--size', '--batch', '--steps', '--rounds'}), ('elastic', {'--size', '--sigma', '--batch', '--rounds'}),
    ('reading', {'--files', '--size', '--batch', '--rounds'}), ('phantom', {'--learn'}),
    ('epochs', {'--files', '--size', '--batch', '--rounds'}),
    ('frozen', {'--size', '--batch', '--stages', '--backbone', '--rounds'})])
def test_a_benchmark_keeps_its_options(name, options):
    command = [sys.executable, str(ROOT/'benchmarks'/f'{name}.py'), '--help']
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]
    assert all(option in done.stdout for option in options)


def write_jpegs(folder, count):
    "Painted images as files."
    from PIL import Image
    from cxr_workbench.phantom import SyntheticCXR
    for place, image in enumerate(SyntheticCXR(count, 48, seed=0).images):
        Image.fromarray(image).save(folder/f'{place}.jpg')
        yield folder/f'{place}.jpg'


def test_reading_takes_fewer_files_than_a_batch_holds(benchmark, tmp_path, monkeypatch):
    monkeypatch.setenv('CXR_DATA', str(tmp_path))     # no real images: some are drawn
    table = benchmark('reading').measure_rows(files=6, size=32, batch=8, rounds=1)
    assert len(table) == 6 and {row['files'] for row in table} == {'phantom'}
    assert json.dumps(table) and all(row['images_per_s'] > 0 for row in table)


def test_an_epoch_has_the_same_batches_from_files_a_pack_and_memory(benchmark, tmp_path, monkeypatch):
    monkeypatch.setenv('CXR_DATA', str(tmp_path))
    epochs, seen = benchmark('epochs'), []
    monkeypatch.setattr(epochs, 'measure_memory', epochs.watch_epoch)     # in this process
    table = epochs.measure_rows(files=10, batch=4, rounds=1, size=32)
    assert len(table) == 6 and json.dumps(table) and all(row['images_per_s'] > 0 for row in table)
    assert [row['ratio'] for row in table if 'memory' in row['what']] == [1, 1]
    epochs.pack([str(path) for path in write_jpegs(tmp_path, 10)], tmp_path/'pack_32', 32)
    for way in epochs.WAYS:
        seen.append([batch.x for batch in epochs.open_loader(way, tmp_path, 32, 4)])
    assert [len(x) for x in seen[0]] == [4, 4]
    for batches in zip(*seen):
        for other in batches[1:]: torch.testing.assert_close(batches[0], other, atol=.6/255, rtol=0)


@pytest.fixture
def against(benchmark, tmp_path, monkeypatch):
    "The comparison with an earlier commit, of which only cheap code is measured; gives its table."
    if subprocess.run(['git', 'rev-parse', 'HEAD'], cwd=ROOT, capture_output=True).returncode:
        pytest.skip('this is no checkout of git')
    module = benchmark('against')
    def compare(code, commit='HEAD'):
        monkeypatch.setattr(module, 'make_snippets', lambda: dict(report=code))
        module.main([commit, '--only', 'report', '--rounds', '2'], tmp_path/'against.md')
        return (tmp_path/'against.md').read_text()
    return compare


def test_an_earlier_commit_is_compared_by_its_own_package(against):
    code = '''import json, cxr_workbench
from pathlib import Path
home = Path(cxr_workbench.__file__).parent
assert (home.parent/'nbs').exists() or (home/'core.py').exists()
old = not (home.parent/'nbs').exists()
print(json.dumps({'some work, s': 3. if old else 1.5, 'images/s': 100. if old else 50.}))'''
    table = against(code)
    assert '| some work, s | 3 | 1.5 | 2.00 |' in table and '| images/s | 100 | 50 | 0.50 |' in table
    commit = subprocess.run(['git', 'log', '-1', '--format=%h'], cwd=ROOT, capture_output=True, text=True).stdout
    assert table.count(commit.strip()) == 2


def test_what_an_earlier_commit_cannot_do_is_said(against, capsys):
    code = '''import json, cxr_workbench, os
if not os.path.exists(os.path.dirname(cxr_workbench.__file__) + '/../nbs'): raise ImportError('cannot import it')
print(json.dumps({'some work, s': 1.}))'''
    assert '| some work, s | does not run: ImportError: cannot import it | 1 |' in against(code)
    with pytest.raises(SystemExit): against(code, commit='no-such-commit')
    assert 'give a commit that git log lists' in capsys.readouterr().err


def test_the_best_of_several_rounds_is_kept(benchmark):
    best = {}
    for seconds, rate in [(3, 10), (2, 30), (4, 20)]:
        benchmark('against').keep_best(best, {'a, s': seconds, 'b, images/s': rate})
    assert best == {'a, s': 2, 'b, images/s': 30}


# ---- pages that were only opened or run in JupyterLab are unchanged for git ----

@pytest.fixture
def checkout(tmp_path):
    "A repository with one page, and what saves it as `make lab` does."
    manage = pytest.importorskip('jupyter_server.services.contents.filemanager').FileContentsManager
    how = dict(cwd=tmp_path, capture_output=True, check=True)
    def git(*arguments): return subprocess.run(['git', *arguments], **how).stdout
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell('1 + 1\n2'), nbformat.v4.new_markdown_cell('two')])
    data = {'text/plain': '2', 'application/b+json': {'c': [1, 2]}}
    nb.cells[0].outputs = [nbformat.v4.new_output('execute_result', data)]
    nb.metadata = {'kernelspec': {'display_name': 'python3', 'language': 'python', 'name': 'python3'}}
    nbformat.write(nb, tmp_path/'page.ipynb')
    shutil.copy(ROOT/'nbs'/'06d_overlays.ipynb', tmp_path/'pictures.ipynb')
    (tmp_path/'.gitignore').write_text('.ipynb_checkpoints/\n')
    git('init', '-q')
    git('add', '-A')
    git('-c', 'user.name=a', '-c', 'user.email=a@b', 'commit', '-qm', 'page')
    sys.path.insert(0, str(ROOT/'scripts'))
    try: from save_hook import keep_committed
    finally: sys.path.pop(0)
    return manage(root_dir=str(tmp_path), pre_save_hook=keep_committed), git


def run_in_lab(manager, name='page.ipynb', source=None, tags=()):
    "Save a page as JupyterLab does after a run: another display name, the language, counts, another output."
    nb = manager.get(name, content=True)['content']
    nb.metadata = {'kernelspec': {'display_name': 'Python 3 (ipykernel)', 'language': 'python', 'name': 'python3'},
                   'language_info': {'name': 'python', 'version': '3.11.9'}, 'widgets': {'state': {}}}
    nb.cells[0].update(execution_count=7, metadata={'execution': {'iopub.status.busy': 'now'}, 'tags': list(tags)})
    nb.cells[0].outputs = [nbformat.v4.new_output('execute_result', {'text/plain': '2.0'}, execution_count=7)]
    if source is not None: nb.cells[0].source = source
    manager.save({'type': 'notebook', 'format': 'json', 'content': nb}, name)


@pytest.mark.parametrize('name', ['page.ipynb', 'pictures.ipynb'])
def test_a_page_that_was_run_is_unchanged_for_git(checkout, name):
    manager, git = checkout
    run_in_lab(manager, name)
    assert git('status', '--porcelain') == b''


@pytest.mark.parametrize('change', [dict(source='1 + 1.'), dict(tags=['parameters'])])
def test_an_edited_page_is_saved_with_its_outputs_and_without_traces_of_a_kernel(checkout, change):
    manager, git = checkout
    run_in_lab(manager, **change)
    diff = git('diff', '--unified=0').decode()
    assert '2.0' in diff and change.get('source', 'parameters') in diff
    assert not any(word in diff for word in ('ipykernel', 'language_info', 'widgets', 'iopub', '"execution_count": 7'))


def test_a_notebook_of_ones_own_is_saved_as_it_is(checkout):
    manager, git = checkout
    manager.save({'type': 'notebook', 'format': 'json', 'content': manager.get('page.ipynb')['content']}, 'own.ipynb')
    run_in_lab(manager, 'own.ipynb')
    assert 'ipykernel' in (Path(manager.root_dir)/'own.ipynb').read_text()


def test_make_lab_saves_through_the_hook():
    assert '--ContentsManager.pre_save_hook=save_hook.keep_committed' in (ROOT/'Makefile').read_text()


# ---- small models trained with few labels ----

@pytest.fixture(scope='module')
def pages(): return open_script(ROOT/'scripts'/'train_pages.py')


def test_hidden_entries_are_counted_by_what_became_of_them(pages):
    truth = torch.tensor([[1., 0, 1, 0, 1, 0, 1]])
    known = torch.tensor([[1, 0, 0, 0, 0, 0, 0]]).bool()
    pseudo = torch.tensor([[1., 0, 1, 1, 0, 0, 0]])
    mask = torch.tensor([[1., 1, 1, 1, 1, 0, 0]])
    step = SimpleNamespace(probes=dict(pseudo=pseudo, mask=mask))
    found = pages.count_outcomes(step, known, truth)
    assert found == {'right, present': 1, 'right, absent': 1, 'wrong, present': 1, 'wrong, absent': 1,
                     'missed': 1, 'abstained': 1}                     # the annotated entry is in none of them
    soft = SimpleNamespace(probes=dict(pseudo=pseudo, mask=mask*.3))   # a weight above 0 is trust
    assert pages.count_outcomes(soft, known, truth) == found


def test_regimes_hide_labels_of_the_training_part_alone(pages):
    data = pages.paint_data(200, without='No Finding', seed=0)
    assert data.y.shape[1] == 13 and 'No Finding' not in data.label_names
    single = pages.hide_labels(data, pages.MODELS['mpc']['regime'])
    assert set(single.known.sum(1).tolist()) == {0, 1} and (single.y <= data.y).all()
    assert torch.equal(single.known.any(1), data.y.any(1))
    assert torch.equal(single.y.bool(), single.known)
    few = pages.hide_labels(data, pages.MODELS['acaa']['regime'])
    kept = few.known.all(1)
    assert torch.equal(kept, few.known.any(1)) and .1 < kept.float().mean() < .3
    assert torch.equal(pages.hide_labels(data).y, data.y) and pages.hide_labels(data).known.all()


def test_a_long_tail_thins_the_training_part_and_leaves_out_what_is_set_aside(pages):
    data, regime = pages.paint_data(600, seed=0), pages.MODELS['trcgl']['regime']
    tail = pages.hide_labels(data, regime)
    counts, before = tail.y.sum(0), data.y.sum(0)
    assert tail.known.any(1).all() and len(tail) < len(data) and set(tail.patient_id) <= set(data.patient_id)
    assert counts.max()/counts.min() > .8*regime['ratio']
    assert before.max()/before.min() < .5*regime['ratio']


def test_the_command_trains_on_a_long_tail_in_two_stages(pages, tmp_path):
    pages.train_model('trcgl', tmp_path, rows=200, epochs=2)
    model, history = learner.load(tmp_path/'trcgl'), pd.read_csv(tmp_path/'trcgl'/'history.csv')
    assert history.stage.tolist() == [0, 1] and history['valid/auroc'].notna().all()
    assert not torch.equal(model.label_graph.adjacency, torch.eye(14))


@pytest.mark.parametrize('name', ['mpc', 'acaa'])
def test_the_command_trains_a_model_and_its_baseline_on_few_labels(pages, name, tmp_path, monkeypatch):
    monkeypatch.setattr(pages, 'TEST', dict(n=60, seed=3))
    pages.train_model(name, tmp_path, rows=100, epochs=1)
    home = tmp_path/name
    model = learner.load(home)
    scores, trusted = pd.read_csv(home/'scores.csv'), pd.read_csv(home/'trusted.csv')
    assert scores.label.tolist() == model.label_names
    compared = name, 'baseline', 'all labels'
    assert list(scores)[2:] == [f'{who}, {score}' for who in compared for score in ('auroc', 'ap')]
    assert len(trusted) == 1 and trusted.iloc[0, 1:].sum() > 0
    for log in ('history', 'baseline'):
        assert pd.read_csv(home/f'{log}.csv')['valid/auroc'].notna().all()


def test_packaged_models_together_stay_small():
    home = ROOT/'cxr_workbench'/'trained'
    assert sum(file.stat().st_size for file in home.rglob('*') if file.is_file()) < 12e6


@pytest.mark.parametrize('name', ['mpc'])
def test_a_model_packaged_from_few_labels_ranks_new_images_and_trusts_what_is_right(pages, name):
    model, trusted = learner.load(learner.find_model(name)), pd.read_csv(learner.find_model(name)/'trusted.csv')
    new = pages.paint_data(300, without=pages.MODELS[name].get('without'), seed=2028)
    scores = learner.predict(model, new)[new.label_names].to_numpy()
    assert np.nanmean(auroc(scores, new.y.numpy())) > .65   # chance is .5
    assert trusted.epoch.tolist() == list(range(1, pages.MODELS[name]['epochs'] + 1))
    last = trusted.iloc[-1]
    assert last['right, present'] > 3*last['wrong, present'] and last['right, absent'] > 3*last['wrong, absent']
    hidden = trusted.drop(columns='epoch').sum(axis=1)      # every epoch draws nearly every row once
    assert hidden.min() > .95*hidden.max()


def test_a_benchmark_has_a_process_of_its_own(benchmark, tmp_path, monkeypatch, capfd):
    run = benchmark('run')
    shutil.copy(run.__file__, tmp_path/'run.py')
    (tmp_path/'tiny.py').write_text("import os\nprint('on the way')\n"
                                    "def measure_rows(): yield dict(what='process', number=os.getpid())\n")
    monkeypatch.setattr(run, '__file__', str(tmp_path/'run.py'))
    row, = run.measure_alone('tiny')
    assert row['what'] == 'process' and row['number'] != os.getpid()
    (tmp_path/'tiny.py').write_text("def measure_rows(): raise ValueError('no such thing')")
    with pytest.raises(subprocess.CalledProcessError): run.measure_alone('tiny')
    assert 'no such thing' in capfd.readouterr().err


def test_run_keeps_the_tables_that_are_not_measured_anew(benchmark, tmp_path, monkeypatch):
    run = benchmark('run')
    monkeypatch.setattr(run, 'HERE', tmp_path)
    monkeypatch.setattr(run.importlib, 'import_module', lambda name: SimpleNamespace(__doc__='A title.'))
    monkeypatch.setattr(run, 'measure_alone', lambda name: [dict(what='new', ratio=2.)])
    assert run.read_others([]) == {}
    old = '# Benchmarks\n\n## attack\n\nOn another machine.\n\nold\n\n## scan\n\nold\n'
    (tmp_path/'results.md').write_text(old)
    run.main(['scan'])
    written = (tmp_path/'results.md').read_text()
    assert '## attack\n\nOn another machine.\n\nold' in written   # each table says where it was measured
    assert f'## scan\n\nA title.\n\nOn {run.describe_machine()}.' in written and '| new | 2.00 |' in written
