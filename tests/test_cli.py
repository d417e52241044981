"""The commands as a user gives them, on small data."""
import json, subprocess, sys
from pathlib import Path
import numpy as np, pandas as pd, pytest
from PIL import Image
from typer.testing import CliRunner
from cxr_workbench.cli import app


def shell(*arguments, status=0):
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exit_code == status, f'{result.output}\n{result.exception!r}'
    return result.output


FIT = ('fit', 'supervised', '--rows', 200, '--size', 32, '--preset', 'tiny', '--batch-size', 32, '--no-progress', '--device', 'cpu')


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp('run')/'first'
    said = shell(*FIT, '--epochs', 2, '--out', out, '--seed', 3)
    assert '2 epochs' in said and 'held-out AUROC' in said
    return out


def test_a_run_leaves_what_it_needs(run):
    assert {'last.ckpt', 'history.csv', 'model.safetensors', 'model.json', 'run.json'} <= {p.name for p in run.iterdir()}
    assert len(pd.read_csv(run/'history.csv')) == 2


def test_the_same_command_goes_on_and_does_not_repeat(run):
    before = (run/'model.safetensors').read_bytes()
    shell(*FIT, '--epochs', 2, '--out', run, '--seed', 3)
    assert (run/'model.safetensors').read_bytes() == before
    assert 'seed was 3, now 4' in shell(*FIT, '--epochs', 2, '--out', run, '--seed', 4, status=1)


def test_evaluate_scores_the_held_out_part(run):
    said = shell('evaluate', run, '--n-boot', 20)
    table = pd.read_csv(run/'report.csv', index_col=0)
    assert 'Cardiomegaly' in said and 'macro' in table.index and table['n'].iloc[0] < 80
    assert table.loc['macro', 'auroc'] == pytest.approx(pd.read_csv(run/'history.csv')['valid/auroc'].iloc[-1], abs=1e-4)


def test_predict_lists_what_it_could_not_read(run, tmp_path):
    for i in range(9): Image.fromarray(np.full((40, 50), 25*i, np.uint8)).save(tmp_path/f'{i}.png')
    (tmp_path/'4.png').write_bytes(b'nothing'); (tmp_path/'notes.txt').write_text('no image')
    said = shell('predict', run, tmp_path, '--out', tmp_path/'scores.csv')
    table = pd.read_csv(tmp_path/'scores.csv')
    assert '8 of 9 files scored, 1 not read' in said and '4.png' in said
    assert table['error'].notna().sum() == 1 and table.loc[table['error'].notna(), 'Edema'].isna().all() and table['Edema'].notna().sum() == 8
    assert 'no such file' in shell('predict', run, tmp_path/'nowhere', status=1)
    (tmp_path/'empty').mkdir()
    assert 'empty' in shell('predict', run, tmp_path/'empty', status=1)
    (tmp_path/'bad').mkdir(); (tmp_path/'bad'/'a.png').write_bytes(b'x')
    shell('predict', run, tmp_path/'bad', '--out', tmp_path/'bad.csv', status=1)
    assert pd.read_csv(tmp_path/'bad.csv')['error'].notna().all()


@pytest.mark.parametrize('regime', ['fraction', 'single-positive'])
def test_regimes(tmp_path, regime):
    said = shell(*FIT, '--epochs', 1, '--regime', regime, '--fraction', .3, '--out', tmp_path)
    assert ('count as absent' in said) == (regime == 'single-positive')
    assert 'images to train on' in said and '1 epochs' in said


def test_a_table_of_files_is_packed_and_trained_on(tmp_path):
    from cxr_workbench.phantom import SyntheticCXR
    phantom = SyntheticCXR(60, size=40, seed=0)
    for i, image in enumerate(phantom.images): Image.fromarray(image).save(tmp_path/f'{i:03d}.png')
    table = pd.DataFrame(phantom.labels, columns=phantom.label_names).astype(int).assign(path=[f'{i:03d}.png' for i in range(60)], patient_id=phantom.patient_id)
    table.to_csv(tmp_path/'table.csv', index=False)
    assert '60 images' in shell('pack', tmp_path/'table.csv', tmp_path/'pack', '--size', 32)
    arguments = ('fit', 'supervised', '--data', tmp_path/'table.csv', '--preset', 'tiny', '--batch-size', 16, '--epochs', 1, '--no-progress', '--device', 'cpu')
    shell(*arguments, '--packed', tmp_path/'pack', '--out', tmp_path/'a')
    shell(*arguments, '--size', 32, '--out', tmp_path/'b', '--fold', 1)
    assert json.loads((tmp_path/'a'/'model.json').read_text())['config']['size'] == 32
    assert 'no column' in shell(*arguments, '--path', 'file', '--out', tmp_path/'c', status=1)
    assert 'fold 7 does not exist' in shell(*arguments, '--fold', 7, '--out', tmp_path/'d', status=1)


@pytest.mark.parametrize('arguments, says', [
    (('fit', 'nothing'), 'no method'), ((*FIT, '--preset', 'nothing'), 'no preset'), ((*FIT, '--set', 'lr'), 'name=value'),
    (('fit', 'supervised', '--data', 'table.xlsx'), '--data'), (('fit', 'supervised', '--data', 'nowhere.csv'), 'nowhere.csv'),
    (('fit', 'supervised', '--data', 'nih14'), '--root'), (('doctor', 'nih14', 'nowhere'), 'nowhere'), (('evaluate', 'nowhere'), 'model.json'),
])
def test_bad_input_is_one_line(tmp_path, monkeypatch, arguments, says):
    monkeypatch.chdir(tmp_path)
    said = shell(*arguments, status=1)
    assert says in said and 'Traceback' not in said and said.strip().splitlines()[-1].startswith('error: ')


def test_lab_copies_pages_and_never_over_a_file(tmp_path):
    (tmp_path/'index.ipynb').write_text('mine')
    assert 'left as they are' in shell('lab', tmp_path, '--no-start')
    assert (tmp_path/'index.ipynb').read_text() == 'mine' and (tmp_path/'00_core.ipynb').exists()


def test_doctor_names_what_is_missing(tmp_path):
    assert 'Data_Entry_2017' in shell('doctor', 'nih14', tmp_path, status=1)


def test_demo_writes_one_self_contained_file(tmp_path):
    shell('demo', '--out', tmp_path, '--epochs', 1, '--rows', 200)
    text = (tmp_path/'report.html').read_text()
    assert text.count('plotly-graph-div') >= 6 and 'say nothing about patients' in text and 'Cardiomegaly' in text
    assert '<script src=' not in text and 'cdn.plot.ly' not in text.split('</script>')[-1]


def test_the_installed_command_answers():
    done = subprocess.run([str(Path(sys.executable).parent/'cxr-workbench'), 'version'], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith('cxr-workbench 0.')


@pytest.mark.parametrize('fold', [None, 0, 3])
def test_generated_rows_go_with_their_patients_and_are_not_held_out(fold):
    from cxr_workbench.cli import hold_out
    from cxr_workbench.data import from_arrays
    g = np.random.default_rng(0)
    who, made = np.arange(60)//2, np.arange(60)%4 == 1
    data = from_arrays(np.zeros((60, 8, 8), np.uint8), (g.random((60, 3)) < .3).astype(float), patient_id=who, synthetic=made)
    train, held = hold_out(data, fold)
    assert len(held) and not made[held].any() and made[train].any() and not set(who[train]) & set(who[held])
    assert set(np.flatnonzero(made)) - set(train) == set(np.flatnonzero(made & np.isin(who, who[held])))


def test_the_real_subset_opens_by_its_fold_column(cxr_data, tmp_path):
    from cxr_workbench.cli import hold_out, open_data
    data = open_data(str(cxr_data/'nih14'/'images_64.npz'), table=str(cxr_data/'nih14'/'subset.csv'))
    train, held = hold_out(data, 2, 'cv_fold')
    assert len(data) == 2520 and len(held) == (data.meta['cv_fold'] == 2).sum() and not set(data.patient_id[train]) & set(data.patient_id[held])


def test_a_report_offers_no_upload(tmp_path):
    import plotly.graph_objects as go
    from cxr_workbench.cli import write_html
    write_html(tmp_path/'report.html', ('heading', 'sentence', go.Figure(go.Bar(y=[1, 2]))))
    text = (tmp_path/'report.html').read_text(encoding='utf-8')
    assert '"remove":["sendChartToCloud"]' in text and '"showSendToCloud": false' in text


def test_both_ways_to_jupyterlab_ask_for_no_news():
    from cxr_workbench.cli import QUIET
    makefile = (Path(__file__).resolve().parent.parent/'Makefile').read_text()
    assert len(QUIET) == 2 and all(option in makefile for option in QUIET)
