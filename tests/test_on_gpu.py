"The script for a machine with a GPU, in little on the processor, so that no typing error spoils the time there."
import subprocess, sys
import pandas as pd
import pytest
from conftest import ROOT

SCRIPT = ROOT/'scripts'/'on_gpu.py'


def run(out, *arguments):
    command = [sys.executable, str(SCRIPT), '--out', str(out), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=600)


def test_every_part_runs_in_little_and_gives_one_table(tmp_path):
    done = run(tmp_path, '--small', '--device', 'cpu', '--data', 'none')
    assert done.returncode == 0, done.stderr[-2000:]
    found = pd.read_csv(tmp_path/'on_gpu.csv', keep_default_na=False)
    assert not (found['fine'] == 'NO').any(), found[found['fine'] == 'NO'].to_string()
    counted = found[found['what'] != 'seconds'].groupby('part').size()
    assert counted[['contract', 'steps', 'scan', 'loader', 'attack', 'elastic', 'forms', 'generator']].min() >= 1
    assert counted['contract'] >= 4*6 and counted['steps'] == 5
    assert (tmp_path/'on_gpu.md').read_text().strip() in done.stdout


def test_a_part_that_fails_and_one_that_comes_too_late_are_rows(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    import on_gpu
    def fail(o):
        yield on_gpu.row('before', 1)
        raise RuntimeError('out of\nmemory')
    monkeypatch.setitem(on_gpu.PARTS, 'scan', fail)
    options = ['--small', '--device', 'cpu', '--out', str(tmp_path), '--parts', 'scan']
    rows = on_gpu.main(options)
    assert [(row['what'], row['value']) for row in rows[:2]] == [('before', 1), ('scan', 'RuntimeError: out of memory')]
    late = on_gpu.main([*options, '--minutes', '-1'])
    assert late[0]['what'] == 'not begun'


def test_without_a_gpu_it_says_so(tmp_path):
    import torch
    if torch.cuda.is_available(): pytest.skip('there is a GPU here')
    done = run(tmp_path)
    assert done.returncode == 1 and 'torch sees no GPU here' in done.stderr


@pytest.mark.gpu
def test_the_first_parts_on_a_gpu(tmp_path):
    done = run(tmp_path, '--small', '--parts', 'device', 'contract', 'fsdp')
    found = pd.read_csv(tmp_path/'on_gpu.csv', keep_default_na=False)
    assert done.returncode == 0 and not (found['fine'] == 'NO').any(), found.to_string()


def test_the_shell_script_is_one():
    assert subprocess.run(['sh', '-n', str(SCRIPT.with_suffix('.sh'))]).returncode == 0
