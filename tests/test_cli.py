"""The commands as a user gives them, on small data."""
import json, subprocess, sys
from pathlib import Path
import numpy as np, pandas as pd, pytest
from PIL import Image
from typer.testing import CliRunner
from cxr_workbench import opening
from cxr_workbench.cli import app


def shell(*arguments, status=0):
    "What a command prints, both streams."
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exit_code == status, f'{result.output}\n{result.exception!r}'
    return result.output


SMALL = ('--preset', 'tiny', '--no-progress', '--device', 'cpu')
FIT = ('fit', 'supervised', '--rows', 200, '--size', 32, '--batch-size', 32, *SMALL)


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    "The folder of a run of two epochs."
    out = tmp_path_factory.mktemp('run')/'first'
    printed = shell(*FIT, '--epochs', 2, '--out', out, '--seed', 3)
    assert '2 epochs' in printed and 'held-out AUROC' in printed
    return out


# ---- fit, evaluate, predict ----

def test_a_run_leaves_what_it_needs(run):
    names = {'last.ckpt', 'history.csv', 'model.safetensors', 'model.json', 'run.json'}
    assert names <= {p.name for p in run.iterdir()}
    assert len(pd.read_csv(run/'history.csv')) == 2


def test_the_same_command_goes_on_and_does_not_repeat(run):
    before = (run/'model.safetensors').read_bytes()
    shell(*FIT, '--epochs', 2, '--out', run, '--seed', 3)
    assert (run/'model.safetensors').read_bytes() == before
    assert 'seed was 3, now 4' in shell(*FIT, '--epochs', 2, '--out', run, '--seed', 4, status=1)


def test_evaluate_scores_the_held_out_part(run):
    printed = shell('evaluate', run, '--n-boot', 20)
    table = pd.read_csv(run/'report.csv', index_col=0)
    assert 'Cardiomegaly' in printed and 'macro' in table.index and table['n'].iloc[0] < 80
    last = pd.read_csv(run/'history.csv')['valid/auroc'].iloc[-1]
    assert table.loc['macro', 'auroc'] == pytest.approx(last, abs=1e-4)


def test_predict_lists_what_it_could_not_read(run, tmp_path):
    for i in range(9): Image.fromarray(np.full((40, 50), 25*i, np.uint8)).save(tmp_path/f'{i}.png')
    (tmp_path/'4.png').write_bytes(b'nothing')
    (tmp_path/'notes.txt').write_text('no image')
    printed = shell('predict', run, tmp_path, '--out', tmp_path/'scores.csv')
    table = pd.read_csv(tmp_path/'scores.csv')
    unread = table['error'].notna()
    assert '8 of 9 files scored, 1 not read' in printed and '4.png' in printed
    assert unread.sum() == 1
    assert table.loc[unread, 'Edema'].isna().all() and table['Edema'].notna().sum() == 8


def test_predict_fails_where_nothing_can_be_read(run, tmp_path):
    assert 'no such file' in shell('predict', run, tmp_path/'nowhere', status=1)
    for name in ('empty', 'bad'): (tmp_path/name).mkdir()
    assert 'empty' in shell('predict', run, tmp_path/'empty', status=1)
    (tmp_path/'bad'/'a.png').write_bytes(b'x')
    shell('predict', run, tmp_path/'bad', '--out', tmp_path/'bad.csv', status=1)
    assert pd.read_csv(tmp_path/'bad.csv')['error'].notna().all()


@pytest.mark.parametrize('regime', ['fraction', 'single-positive'])
def test_regimes(tmp_path, regime):
    printed = shell(*FIT, '--epochs', 1, '--regime', regime, '--fraction', .3, '--out', tmp_path)
    assert ('count as absent' in printed) == (regime == 'single-positive')
    assert 'images to train on' in printed and '1 epochs' in printed


# ---- a table of files ----

@pytest.fixture(scope='module')
def table(tmp_path_factory):
    "A table of 60 files of the phantom, beside them."
    from cxr_workbench.phantom import SyntheticCXR
    folder = tmp_path_factory.mktemp('files')
    phantom = SyntheticCXR(60, size=40, seed=0)
    names = [f'{i:03d}.png' for i in range(60)]
    for name, image in zip(names, phantom.images): Image.fromarray(image).save(folder/name)
    frame = pd.DataFrame(phantom.labels, columns=phantom.label_names).astype(int)
    frame.assign(path=names, patient_id=phantom.patient_id).to_csv(folder/'table.csv', index=False)
    return folder/'table.csv'


def test_a_table_of_files_is_packed_and_trained_on(table, tmp_path):
    assert '60 images' in shell('pack', table, tmp_path/'pack', '--size', 32)
    fit = ('fit', 'supervised', '--data', table, '--batch-size', 16, '--epochs', 1, *SMALL)
    shell(*fit, '--packed', tmp_path/'pack', '--out', tmp_path/'a')
    shell(*fit, '--size', 32, '--out', tmp_path/'b', '--fold', 1)
    assert json.loads((tmp_path/'a'/'model.json').read_text())['config']['size'] == 32
    assert 'no column' in shell(*fit, '--path', 'file', '--out', tmp_path/'c', status=1)
    assert 'fold 7 does not exist' in shell(*fit, '--fold', 7, '--out', tmp_path/'d', status=1)


def test_a_pack_that_was_read_otherwise_is_refused(table, tmp_path):
    shell('pack', table, tmp_path/'pack', '--size', 32, '--fit', 'crop')
    fit = ('fit', 'supervised', '--data', table, '--packed', tmp_path/'pack', *SMALL, '--out', tmp_path/'run')
    assert 'was packed otherwise' in shell(*fit, '--fit', 'stretch', status=1)
    assert opening.build_reading(tmp_path/'pack', how=dict(fit='crop')).size == 32


# ---- errors and warnings ----

MISTAKES = [
    (('fit', 'nothing'), 'no method'),
    ((*FIT, '--preset', 'nothing'), 'no preset'),
    ((*FIT, '--set', 'lr'), 'name=value'),
    (('fit', 'supervised', '--data', 'table.xlsx'), '--data'),
    (('fit', 'supervised', '--data', 'nowhere.csv'), 'nowhere.csv'),
    (('fit', 'supervised', '--data', 'nih14'), '--root'),
    (('doctor', 'nih14', 'nowhere'), 'nowhere'),
    (('evaluate', 'nowhere'), 'model.json'),
]


@pytest.mark.parametrize('arguments, named', MISTAKES)
def test_bad_input_is_one_line(tmp_path, monkeypatch, arguments, named):
    monkeypatch.chdir(tmp_path)
    printed = shell(*arguments, status=1)
    assert named in printed and 'Traceback' not in printed
    assert printed.strip().splitlines()[-1].startswith('error: ')


def test_a_warning_is_one_line(tmp_path):
    printed = shell(*FIT, '--epochs', 1, '--fraction', .3, '--out', tmp_path)
    notes = [line for line in printed.splitlines() if line.startswith('note: ')]
    assert len(notes) == 1 and '--fraction 0.3 is not used by --regime full' in notes[0]


def test_an_old_name_of_an_argument_is_one_note(tmp_path):
    old = ('--set', 'weights={"bce": 1}', '--set', 'flip=false')
    printed = shell(*FIT, '--epochs', 1, '--out', tmp_path, *old)
    notes = [line for line in printed.splitlines() if line.startswith('note: ')]
    assert len(notes) == 1 and 'bce' in notes[0] and "{'supervised': 1}" in notes[0] and 'flip' in notes[0]


# ---- the record of a run ----

@pytest.mark.parametrize('text, named', [
    ('{"data": {', 'cut off or damaged'), ('[]', 'lacks'), ('{"data": {}, "fold": 0}', "lacks ['fold_column']"),
    ('{"data": 3, "fold": 0, "fold_column": null}', 'its data are 3'),
    ('{"data": {"colour": 1}, "fold": 0, "fold_column": null}', "['colour'], which this version does not know")])
def test_a_record_that_is_not_whole_is_named(tmp_path, text, named):
    with pytest.raises(FileNotFoundError, match='run.json is missing'): opening.read_run_record(tmp_path)
    (tmp_path/'run.json').write_text(text)
    with pytest.raises(ValueError) as error: opening.read_run_record(tmp_path)
    assert named in str(error.value) and 'run.json' in str(error.value) and '--data' in str(error.value)


def test_the_record_of_a_run_opens_its_parts_again(run):
    record = opening.read_run_record(run)
    assert record['data']['rows'] == 200 and record['seed'] == 3
    train, held_out = opening.open_parts(record)
    assert len(train) + len(held_out) == 200 and not set(train.patient_id) & set(held_out.patient_id)
    old = {name: record[name] for name in ('data', 'fold', 'fold_column')}   # as the first versions kept it
    assert np.array_equal(opening.open_parts(old)[1].rows, held_out.rows)


@pytest.mark.parametrize('fold', [None, 0, 3])
def test_generated_rows_go_with_their_patients_and_are_not_held_out(fold):
    from cxr_workbench.data import from_arrays, hold_out
    g = np.random.default_rng(0)
    patient, generated = np.arange(60)//2, np.arange(60)%4 == 1
    y = (g.random((60, 3)) < .3).astype(float)
    data = from_arrays(np.zeros((60, 8, 8), np.uint8), y, patient_id=patient, synthetic=generated)
    train, held = hold_out(data, fold)
    assert len(held) and not generated[held].any() and generated[train].any()
    assert not set(patient[train]) & set(patient[held])
    of_held = np.flatnonzero(generated & np.isin(patient, patient[held]))
    assert set(np.flatnonzero(generated)) - set(train) == set(of_held)


def test_the_real_subset_opens_by_its_fold_column(cxr_data):
    from cxr_workbench.data import hold_out
    folder = cxr_data/'nih14'
    data = opening.open_data(str(folder/'images_64.npz'), table=str(folder/'subset.csv'))
    train, held = hold_out(data, 2, 'cv_fold')
    assert len(data) == 2520 and len(held) == (data.meta['cv_fold'] == 2).sum()
    assert not set(data.patient_id[train]) & set(data.patient_id[held])


# ---- lab, doctor, demo, version ----

def test_lab_copies_pages_and_never_over_a_file(tmp_path):
    (tmp_path/'index.ipynb').write_text('mine')
    assert 'left as they are' in shell('lab', tmp_path, '--no-start')
    assert (tmp_path/'index.ipynb').read_text() == 'mine' and (tmp_path/'00_core.ipynb').exists()


def test_both_ways_to_jupyterlab_ask_for_no_news():
    from cxr_workbench.launcher import QUIET
    makefile = (Path(__file__).resolve().parent.parent/'Makefile').read_text()
    assert len(QUIET) == 2 and all(option in makefile for option in QUIET)


def test_doctor_names_what_is_missing(tmp_path):
    assert 'Data_Entry_2017' in shell('doctor', 'nih14', tmp_path, status=1)


def test_demo_writes_one_self_contained_file(tmp_path):
    shell('demo', '--out', tmp_path, '--epochs', 1, '--rows', 200)
    text = (tmp_path/'report.html').read_text()
    assert text.count('plotly-graph-div') >= 6
    assert 'say nothing about patients' in text and 'Cardiomegaly' in text
    assert '<script src=' not in text and 'cdn.plot.ly' not in text.split('</script>')[-1]


def test_a_report_offers_no_upload(tmp_path):
    import plotly.graph_objects as go
    from cxr_workbench.reports import write_html
    write_html(tmp_path/'report.html', ('heading', 'sentence', go.Figure(go.Bar(y=[1, 2]))))
    text = (tmp_path/'report.html').read_text(encoding='utf-8')
    assert '"remove":["sendChartToCloud"]' in text and '"showSendToCloud": false' in text


def test_the_installed_command_answers():
    program = str(Path(sys.executable).parent/'cxr-workbench')
    done = subprocess.run([program, 'version'], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith('cxr-workbench 0.')


OPTIONS = {  # command -> its options; a spelling that a script uses stays
    'fit': '''--data --table --root --labels --path --patient --uncertain --blank --packed --size --missing --fit --bits
        --stretch --invert --window --frame --rows --fold --fold-column --each-image-a-patient --regime --fraction
        --preset --backbone --pretrained --weights --from
        --set --epochs --batch-size --seed --workers --labelled --out --device
        --devices --precision --progress --no-progress --no-stretch --no-invert --no-window --no-pretrained''',
    'evaluate': '--data --table --root --path --patient --packed --n-boot --out',
    'predict': '--out --batch-size --device --fit --bits --stretch --invert --window --frame --no-window',
    'export': '--to --out',
    'pack': '''--size --root --path --fit --bits --stretch --invert --window --frame --workers --no-stretch --no-invert
        --no-window''',
    'methods': '', 'version': '',
    'doctor': '''--root --path --patient --labels --each-image-a-patient --leave-out --ids --look --write --card
        --json''',
    'lab': '--start --no-start --browser --no-browser --port',
    'demo': '--out --epochs --rows',
}


def test_every_option_keeps_its_spelling():
    from typer.main import get_command
    commands = get_command(app).commands
    assert set(commands) == set(OPTIONS)
    for name, command in commands.items():
        options = [option for option in command.params if option.param_type_name == 'option']
        spelled = {text for option in options for text in [*option.opts, *option.secondary_opts]}
        assert set(OPTIONS[name].split()) <= spelled, name
