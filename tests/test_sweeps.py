"Many runs, one row each: tables that many processes write, workers that die, plans in files, runs of `fit`."
import os, signal, subprocess, sys, textwrap, time
from pathlib import Path
import pandas as pd
import pytest
from typer.testing import CliRunner
from cxr_workbench import sweeps
from cxr_workbench.cli import app
from cxr_workbench.sweeps import RunTable, read_plan, run_jobs

KEY = ['method', 'seed']


def make_jobs(n=6, **kw):
    return [dict(key=dict(method='can', seed=seed), **kw) for seed in range(n)]


def note(folder, job):
    "Leave a file that says that this run was begun once more."
    (Path(folder)/f'{job["key"]["seed"]}-{time.time_ns()}').touch()


def score(job):
    "A run; what happens in it is in the job."
    note(job['folder'], job)
    if job['key']['seed'] == job.get('fails'): raise ValueError('no column\n Edema')
    marker = Path(job['folder'])/'killed'
    if job['key']['seed'] == job.get('kills') and not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(job.get('seconds', 0))
    return dict(job['key'], auroc=.7, pid=os.getpid())


def count_begun(folder): return len([path for path in Path(folder).iterdir() if '-' in path.name])


# the table

def test_rows_that_are_there_keep_their_text(tmp_path):
    path = tmp_path/'runs.csv'
    path.write_text('method,seed,auroc,name\ncan,0,.70,"a, b"\ncan,1,1e-3,\n')
    RunTable(path, KEY).put(dict(method='can', seed=2, auroc=.1 + .2, name=None))
    assert path.read_text().splitlines() == [
        'method,seed,auroc,name', 'can,0,.70,"a, b"', 'can,1,1e-3,', 'can,2,0.30000000000000004,']


def test_a_row_is_replaced_and_dropped_and_columns_are_those_of_both(tmp_path):
    table = RunTable(tmp_path/'runs.csv', KEY)
    table.drop(dict(method='can', seed=0))
    assert not len(table.read()) and not table.path.exists()
    table.put(dict(method='can', seed=0, auroc=.5))
    table.put(dict(method='can', seed=1, ap=.2))
    table.put(dict(method='can', seed=0, auroc=.6))
    rows = sorted(table.read_text().itertuples(index=False, name=None))
    assert rows == [('can', '0', '0.6', ''), ('can', '1', '', '0.2')]
    table.drop(dict(method='can', seed=1))
    assert table.find_states() == {('can', '0'): 'done'}


WRITER = """
    import sys
    from cxr_workbench.sweeps import RunTable
    table = RunTable(sys.argv[1], ['method', 'seed'])
    for seed in range(20): table.put(dict(method=sys.argv[2], seed=seed, auroc=seed/20))
"""


def test_no_row_is_lost_where_three_processes_write(tmp_path):
    path = tmp_path/'runs.csv'
    command = [sys.executable, '-c', textwrap.dedent(WRITER), str(path)]
    writers = [subprocess.Popen([*command, name]) for name in 'abc']
    while any(writer.poll() is None for writer in writers):
        if path.exists(): pd.read_csv(path)                    # a reader sees a whole table at any moment
    assert all(writer.returncode == 0 for writer in writers)
    found = pd.read_csv(path)
    assert len(found) == 60 and found.groupby('method')['seed'].nunique().tolist() == [20, 20, 20]


# runs

def test_a_run_is_never_trained_twice(tmp_path):
    table, jobs = RunTable(tmp_path/'runs.csv', KEY), make_jobs(folder=tmp_path)
    run_jobs(jobs[:3], score, table)
    run_jobs(jobs, score, table)
    run_jobs(jobs, score, table)
    assert count_begun(tmp_path) == len(table.read()) == 6
    with table.lock_run(jobs[0]['key']):                       # as another process that trains it
        table.drop(jobs[0]['key'])
        said = []
        run_jobs(jobs, score, table, say=lambda place, row: said.append(row['state']))
    assert said == ['taken'] and count_begun(tmp_path) == 6


def test_a_run_that_fails_is_a_row_with_its_reason(tmp_path):
    table, jobs = RunTable(tmp_path/'runs.csv', KEY), make_jobs(folder=tmp_path, fails=2)
    found = run_jobs(jobs, score, table).set_index('seed')
    assert found['state'].tolist() == ['done', 'done', 'failed', 'done', 'done', 'done']
    assert found.loc[2, 'reason'] == 'ValueError: no column Edema'
    run_jobs(jobs, score, table)
    assert count_begun(tmp_path) == 6
    mended = make_jobs(folder=tmp_path)
    found = run_jobs(mended, score, table, retry=True).set_index('seed')
    assert count_begun(tmp_path) == 7 and (found['state'] == 'done').all() and found.loc[2, 'auroc'] == .7


def test_failures_beside_the_table_leave_its_columns_alone(tmp_path):
    table, failed = (RunTable(tmp_path/name, KEY) for name in ('runs.csv', 'runs-failed.csv'))
    jobs = make_jobs(3, folder=tmp_path, fails=1)
    assert list(run_jobs(jobs, score, table, failed)) == [*KEY, 'auroc', 'pid']
    assert failed.read()['seed'].tolist() == [1]
    run_jobs(make_jobs(3, folder=tmp_path), score, table, failed, retry=True)
    assert not len(failed.read()) and len(table.read()) == 3


def test_processes_of_this_machine_and_one_that_is_killed(tmp_path):
    table, jobs = RunTable(tmp_path/'runs.csv', KEY), make_jobs(folder=tmp_path, kills=1, seconds=.1)
    found = run_jobs(jobs, score, table, workers=2)
    assert sorted(found['seed']) == list(range(6)) and os.getpid() not in found['pid'].tolist()


def test_a_worker_that_dies_before_any_run_has_its_row_ends_nothing(tmp_path):
    table, jobs = RunTable(tmp_path/'runs.csv', KEY), make_jobs(2, folder=tmp_path, kills=0, seconds=.5)
    assert sorted(run_jobs(jobs, score, table, workers=2)['seed']) == [0, 1]


def kill(job): os.kill(os.getpid(), signal.SIGKILL)


def test_workers_that_always_die_are_named(tmp_path):
    with pytest.raises(RuntimeError, match='2 runs have no row: memory may be short'):
        run_jobs(make_jobs(2), kill, RunTable(tmp_path/'runs.csv', KEY), workers=2)


def say_threads(job):
    import multiprocessing, torch
    facts = dict(threads=torch.get_num_threads(), daemon=multiprocessing.current_process().daemon)
    return dict(job['key'], **facts)


THREADS = """
    from cxr_workbench.sweeps import RunTable, run_jobs
    def say_threads(job):
        import torch
        return dict(job['key'], threads=torch.get_num_threads())
    jobs = [dict(key=dict(seed=seed)) for seed in range(2)]
    if __name__ == '__main__': run_jobs(jobs, say_threads, RunTable('runs.csv', ['seed']), workers=2)
"""


@pytest.mark.parametrize('given', [None, '2'])
def test_workers_share_the_cores_unless_the_user_has_said_otherwise(tmp_path, given):
    environment = {name: value for name, value in os.environ.items() if not name.endswith('_NUM_THREADS')}
    environment['PYTHONPATH'] = os.pathsep.join(sys.path)
    if given: environment['OMP_NUM_THREADS'] = given
    (tmp_path/'two.py').write_text(textwrap.dedent(THREADS))
    how = dict(env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=200)
    done = subprocess.run([sys.executable, 'two.py'], **how)
    assert done.returncode == 0, done.stderr
    found, cores = pd.read_csv(tmp_path/'runs.csv'), len(os.sched_getaffinity(0))
    assert (found['threads'] == (int(given) if given else max(1, cores//2))).all()


def test_a_dask_cluster_of_two_workers_of_which_one_is_killed(tmp_path):
    pytest.importorskip('distributed', reason='the extra cluster is not installed')
    table, jobs = RunTable(tmp_path/'runs.csv', KEY), make_jobs(8, folder=tmp_path, kills=2, seconds=.2)
    found = run_jobs(jobs, score, table, workers=2, backend='dask')
    assert sorted(found['seed']) == list(range(8)) and (found['state'] == 'done').all()
    assert (tmp_path/'killed').exists() and os.getpid() not in found['pid'].tolist()
    assert 9 <= count_begun(tmp_path) <= 10                    # the killed run twice, and perhaps one beside it


def test_workers_of_dask_may_start_processes(tmp_path):
    pytest.importorskip('distributed', reason='the extra cluster is not installed')
    table = RunTable(tmp_path/'runs.csv', KEY)
    found = run_jobs(make_jobs(2), say_threads, table, workers=2, backend='dask')
    assert not found['daemon'].any() and (found['threads'] == 1).all()


@pytest.mark.parametrize('how, words', [
    (dict(backend='threads'), 'give loky, dask or ray'), (dict(scheduler='tcp://a:1'), "backend='dask' alone")])
def test_a_backend_that_is_none(tmp_path, how, words):
    with pytest.raises(ValueError, match=words): run_jobs(make_jobs(1), score, RunTable(tmp_path/'a.csv', KEY), **how)


# plans

PLAN = """
out: {out}
common: {{data: phantom, rows: 60, size: 32, epochs: 1, preset: tiny}}
grid: {{method: [supervised], seed: [0, 1]}}
runs:
  - {{method: supervised, seed: 0, epochs: 1}}
  - {{method: supervised, seed: 0, set.lr: .5, labels: nothing}}
"""


def write_plan(folder, text=PLAN):
    path = folder/'plan.yaml'
    path.write_text(text.format(out=folder/'sweep'))
    return path


def test_a_plan_is_its_combinations_each_once(tmp_path):
    out, jobs = read_plan(write_plan(tmp_path))
    assert out == tmp_path/'sweep' and len(jobs) == 3          # the first single run is one of the grid
    common = dict(data='phantom', rows=60, size=32, epochs=1, preset='tiny')
    assert jobs[0]['options'] == dict(common, method='supervised', seed=0)
    other = write_plan(tmp_path, PLAN.replace('epochs: 1, preset', 'epochs: 2, preset'))
    assert {job['key']['run'] for job in jobs}.isdisjoint(job['key']['run'] for job in read_plan(other)[1][:2])


@pytest.mark.parametrize('text, words', [
    ('common: {seed: 1}', 'asks for no run'), ('grid: {seed: [1]}', 'a run has no method'),
    ('grid: {method: can}', "method = 'can' in a grid: give a list"), ('rune: []', 'a plan has out, common, grid'),
    ('grid: {method: [can], epoch: [1]}', "no option 'epoch' of fit; did you mean epochs"),
    ('grid: {method: [can], devices: [2]}', "'devices' is not for one run of a sweep")])
def test_a_plan_that_cannot_be_is_refused_before_anything_trains(tmp_path, text, words):
    (tmp_path/'plan.yaml').write_text(text)
    done = CliRunner().invoke(app, ['sweep', str(tmp_path/'plan.yaml')])
    assert done.exit_code == 1 and words in done.output


def test_a_sweep_of_fit_from_the_command_line(tmp_path):
    "Two runs that train, one that is refused by fit; the same command again trains nothing."
    plan = write_plan(tmp_path)
    dry = CliRunner().invoke(app, ['sweep', str(plan), '--dry'])
    assert dry.exit_code == 0 and dry.output.count('to train') == 3 and not (tmp_path/'sweep'/'runs.csv').exists()
    done = CliRunner().invoke(app, ['sweep', str(plan), '--jobs', '2'])
    assert done.exit_code == 1 and '1 of 3 runs failed' in done.output
    found = pd.read_csv(tmp_path/'sweep'/'runs.csv')
    good = found[found['state'] == 'done'].sort_values('seed')
    assert good['seed'].tolist() == [0, 1] and good['epochs_done'].tolist() == [1, 1]
    assert good['valid_auroc'].notna().all()
    bad = found[found['state'] == 'failed']
    assert 'labels' in bad['reason'].item()
    options = {job['key']['run']: job['options'] for job in sweeps.read_plan(plan)[1]}
    assert bad[[*options[bad['run'].item()]]].iloc[0].to_dict() == options[bad['run'].item()]   # enough to repeat it
    for run in good['run']: assert (tmp_path/'sweep'/run/'model.json').exists()
    again = CliRunner().invoke(app, ['sweep', str(plan)])
    assert '2 have their row and 1 failed' in again.output and len(again.output.splitlines()) == 2


def test_a_failed_row_holds_its_options(tmp_path):
    table = RunTable(tmp_path/'runs.csv', ['run'])
    options = dict(method='can', seed=3, lr=.1, groups=['a', 'b'])
    run_jobs([dict(key=dict(run='x'), options=options)], refuse, table)
    row = table.read().iloc[0]
    assert list(row.index) == ['run', 'method', 'seed', 'lr', 'groups', 'state', 'reason']
    assert (row['method'], row['seed'], row['lr'], row['groups']) == ('can', 3, .1, '["a", "b"]')
    assert row['state'] == 'failed' and row['reason'] == 'ValueError: no such label'


def refuse(job): raise ValueError('no such label')


def test_the_row_is_of_the_epoch_that_was_kept(tmp_path):
    columns = {'epoch': [1, 2, 3], 'loss': [3., 2., 1.], 'valid/auroc': [.6, .8, .7]}
    history = pd.DataFrame({**columns, 'seconds': [1.]*3})
    history.to_csv(tmp_path/'history.csv', index=False)
    for text, auroc in (('{}', .7), ('{"best": {"epoch": 2}}', .8)):
        (tmp_path/'model.json').write_text(text)
        row = sweeps.read_result(tmp_path)
        assert row['valid_auroc'] == auroc and row['seconds_done'] == 3 and row['epochs_done'] == 3
