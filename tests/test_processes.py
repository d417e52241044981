"Several processes train as one: the same loss, every row once, one that is killed, one that writes; who is refused."
import os, subprocess, sys, textwrap
from pathlib import Path
import numpy as np, pandas as pd, pytest, torch
from torch import nn
import lightning.pytorch as pl
from cxr_workbench import learner
from cxr_workbench.core import Method, Stage, Step
from cxr_workbench.data import from_arrays
from cxr_workbench.learner import Processes, find_processes
from cxr_workbench.losses import masked_bce

TORCHRUN = dict(TORCHELASTIC_RUN_ID='1', LOCAL_WORLD_SIZE='2', WORLD_SIZE='4')


class Linear(Method):
    "A network that sees one row at a time: its loss is a mean over rows, whoever holds them."
    def __init__(self):
        super().__init__(['a', 'b'])
        layers = nn.LayerNorm(64), nn.Linear(64, 8), nn.GELU(), nn.Linear(8, 2)
        self.head = nn.Sequential(nn.Flatten(), *layers)
    def look(self, x): return self.head(x), {}
    def step(self, batch, progress=1., stage=0):
        logits = self(batch.x)
        return Step(logits, dict(bce=masked_bce(logits, batch.y, batch.known)), dict(bce=1.), {})
    def recipe(self): return [Stage(epochs=3, groups=[('', 1e-2, 0.)], ema=.9)]


def make_parts():
    "64 rows to train on and 11, which do not divide, held out."
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (75, 8, 8), np.uint8)
    y = (rng.random((75, 2)) < .5).astype(float)
    y[:, 0] = images.mean((1, 2)) > 127
    data = from_arrays(images, y, patient_id=np.arange(75), label_names=['a', 'b'])
    return data.subset(range(64)), data.subset(range(64, 75))


class Watch(pl.Callback):
    "Notes the rows of each batch; kills its own process where it is told to."
    def __init__(self, folder, rank, kill=False): self.folder, self.rank, self.kill, self.rows = folder, rank, kill, []
    def on_train_batch_end(self, trainer, training, outputs, batch, batch_idx):
        self.rows.append([training.run_epoch, batch_idx, *batch.idx.tolist()])
        if self.kill and training.run_epoch == 1 and batch_idx == 1: os.kill(os.getpid(), 9)


def train(out, batch_size, kill=False, **how):
    "One process's part: its history, its rows and its weights go into files of their own."
    rank = int(os.environ.get('RANK', 0))
    torch.manual_seed(rank)                       # another start in each process: the first one's counts
    method, watch = Linear(), Watch(out, rank, kill and rank == 1)
    history = learner.fit(method, *make_parts(), out=out, batch_size=batch_size, device='cpu', progress=False,
                          callbacks=[watch], **how)
    torch.save((watch.rows, method.state_dict()), Path(out)/f'rank{rank}.pt')
    return history


SCRIPT = """
    import sys; sys.path.insert(0, {tests!r})
    import test_processes as t
    t.train({out!r}, {batch}, kill={kill})
"""


def launch(folder, processes, batch, kill=False):
    "torchrun with so many processes."
    script = folder/f'train{kill}.py'
    out = folder/f'run{processes}'
    values = dict(tests=str(Path(__file__).parent), out=str(out), batch=batch, kill=kill)
    script.write_text(textwrap.dedent(SCRIPT).format(**values))
    command = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', str(processes)]
    environment = {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': os.pathsep.join(sys.path)}
    done = subprocess.run([*command, str(script)], capture_output=True, text=True, timeout=900, env=environment)
    return done, out


def read_ranks(out, processes): return [torch.load(out/f'rank{r}.pt', weights_only=True) for r in range(processes)]


@pytest.fixture(scope='module')
def alone(tmp_path_factory):
    "One process with batches of 16: its history, its rows by epoch and step, its weights."
    out = tmp_path_factory.mktemp('alone')
    history = train(out, 16)
    (rows, state), = read_ranks(out, 1)
    return history, {(epoch, step): set(of) for epoch, step, *of in rows}, state


def check_against(alone, out, processes):
    "The same losses, scores, weights and rows as one process."
    history, rows, state = alone
    mine, parts = pd.read_csv(out/'history.csv'), read_ranks(out, processes)
    assert mine['epoch'].tolist() == [1, 2, 3] and mine['step'].tolist() == history['step'].tolist()
    for name in ('loss', 'term/bce', 'valid/auroc', 'valid/ap', 'lr'):
        assert np.allclose(mine[name], history[name], atol=1e-5), name
    for _, other in parts: assert all(torch.allclose(other[name], state[name], atol=1e-5) for name in state)
    seen = {}
    for noted, _ in parts:
        for epoch, step, *of in noted: seen.setdefault((epoch, step), []).extend(of)
    for place, of in seen.items():
        assert len(of) == len(set(of)) == 16 and set(of) == rows[place], place
    return seen


def test_four_processes_are_one_with_the_same_total_batch(tmp_path, alone):
    done, out = launch(tmp_path, 4, 4)
    assert done.returncode == 0, done.stderr[-2000:]
    seen = check_against(alone, out, 4)
    assert len(seen) == 12                                    # three epochs of four steps, each row once an epoch
    assert sorted(path.name for path in out.glob('*.csv')) == ['history.csv']


def test_two_processes_of_which_one_is_killed_end_as_if_it_had_not_been(tmp_path, alone):
    done, out = launch(tmp_path, 2, 8, kill=True)
    assert done.returncode != 0 and pd.read_csv(out/'history.csv')['epoch'].tolist() == [1]
    assert not list(out.glob('rank*.pt'))
    done, out = launch(tmp_path, 2, 8)
    assert done.returncode == 0, done.stderr[-2000:]
    assert {place[0] for place in check_against(alone, out, 2)} == {1, 2}


def test_torchrun_decides_how_many_there_are():
    assert find_processes(1, 1, 'auto', TORCHRUN) == Processes(2, 2, 'auto', True)
    assert find_processes('auto', 2, 'ddp', TORCHRUN) == Processes(2, 2, 'ddp', True)
    assert not find_processes(1, 1, 'auto', {}).several and find_processes(1, 2, 'auto', {}).several
    for given, words in (((4, 1), 'devices=4'), ((1, 3), 'nodes=3')):
        with pytest.raises(ValueError, match=f'{words}, and torchrun has started 2'):
            find_processes(*given, 'auto', TORCHRUN)
    with pytest.raises(ValueError, match="give 'auto', 'ddp' or 'fsdp'"): find_processes(1, 1, 'dpp', {})


def test_fsdp_without_a_gpu_is_refused_in_words(tmp_path):
    with pytest.raises(ValueError, match="needs a GPU, and torch sees none here: give strategy='ddp'"):
        learner.fit(Linear(), *make_parts(), out=tmp_path/'run', strategy='fsdp', device='cpu', progress=False)
    assert not (tmp_path/'run').exists()


@pytest.mark.parametrize('kept, words', [
    (dict(ema=.9), 'averages no weights'), (dict(ema=None, out=None), 'give out='), (dict(two=True), 'has 2')])
def test_what_fsdp_cannot_do_is_refused(kept, words, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    stage = Stage(epochs=1, groups=[('', 1e-2, 0.)], ema=kept.get('ema'))
    recipe = [stage, stage] if kept.get('two') else [stage]
    with pytest.raises(ValueError, match=words):
        learner.check_sharding(Processes(2, 1, 'fsdp', True), recipe, kept.get('out', 'run'), 'cuda')


def test_one_process_of_several_machines_writes(monkeypatch):
    from cxr_workbench.reports import is_first_process
    for name in ('RANK', 'LOCAL_RANK', 'NODE_RANK'): monkeypatch.delenv(name, raising=False)
    assert is_first_process()
    monkeypatch.setenv('LOCAL_RANK', '0')
    monkeypatch.setenv('RANK', '2')                # torchrun, the first process of the second machine
    assert not is_first_process()
    monkeypatch.delenv('RANK')
    monkeypatch.setenv('NODE_RANK', '1')           # Lightning on the second machine
    assert not is_first_process()
