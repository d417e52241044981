"Scripts and benchmarks: what is kept of an executed page, and what the benchmarks count."
import importlib.util, json, subprocess, sys
from pathlib import Path
import nbformat, pytest

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
    files = {path.stem for path in (ROOT/'benchmarks').glob('*.py')} - {'run', 'measure'}
    assert set(benchmark('run').NAMES) == files
    for name in files: assert 'def rows(' in (ROOT/'benchmarks'/f'{name}.py').read_text()


def test_a_table_has_one_line_per_row_and_names_no_machine_twice(benchmark):
    rows = [dict(what='a', ms=1.234, machine='m'), dict(what='b', other=3, machine='m')]
    assert benchmark('run').write_table(rows).splitlines() == [
        '| what | ms | other |', '| --- | --- | --- |', '| a | 1.23 |  |', '| b |  | 3 |']


def test_calls_take_turns(benchmark):
    order = []
    taken = benchmark('measure').take_turns({'a': lambda: order.append('a'), 'b': lambda: order.append('b')}, rounds=3)
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
    ('reading', {'--files', '--size', '--batch', '--rounds'}), ('phantom', {'--learn'})])
def test_a_benchmark_keeps_its_options(name, options):
    command = [sys.executable, str(ROOT/'benchmarks'/f'{name}.py'), '--help']
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]
    assert all(option in done.stdout for option in options)


def test_reading_takes_fewer_files_than_a_batch_holds(benchmark, tmp_path, monkeypatch):
    monkeypatch.setenv('CXR_DATA', str(tmp_path))     # no real images: some are drawn
    table = benchmark('reading').rows(files=6, size=32, batch=8, rounds=1)
    assert len(table) == 6 and {row['files'] for row in table} == {'phantom'}
    assert json.dumps(table) and all(row['images_per_s'] > 0 for row in table)
