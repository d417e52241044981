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
    said = shell(*FIT, '--epochs', 1, '--out', run, '--seed', 4, '--set', 'lr=.5', status=1)
    said = said.partition('holds another run: ')[2]
    differ = 'without --set lr, now --set lr=0.5; --epochs 2, now --epochs 1; --seed 3, now --seed 4. Choose'
    assert said.startswith(differ)
    assert '{' not in said and '[' not in said


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


def test_predict_takes_a_table_and_shows_nothing_else_of_it(run, tmp_path):
    "A table in one folder, its files in another, a blank name: each keeps its row; --decide says what to train with."
    home = tmp_path/'scans'
    home.mkdir()
    for i in range(4): Image.fromarray(np.full((40, 50), 25*i, np.uint8)).save(home/f'{i}.png')
    names = ['3.png', None, '1.png', 'gone.png', '0.png']
    whole = pd.DataFrame(dict(image=names, patient=[f'secret {k}' for k in range(5)], Date='2020-01-02', Edema=1))
    whole.to_csv(tmp_path/'t.csv', index=False)
    printed = shell('predict', run, tmp_path/'t.csv', '--root', home, '--out', tmp_path/'s.csv')
    table = pd.read_csv(tmp_path/'s.csv', keep_default_na=False)
    assert '3 of 5 files scored, 2 not read' in printed and 'gone.png' in printed
    assert list(table.columns[:2]) == ['row', 'path'] and 'secret' not in (tmp_path/'s.csv').read_text() + printed
    assert list(table['path']) == [name or '' for name in names]
    assert (table['Edema'] != '').tolist() == [True, False, True, False, True]
    shell('predict', run, home, '--out', tmp_path/'folder.csv')
    folder = pd.read_csv(tmp_path/'folder.csv')
    assert float(table['Edema'][0]) == pytest.approx(folder['Edema'][3], abs=1e-6)     # read in the same way
    for arguments, words in (
        ((tmp_path/'t.csv', home), 'is a table: give one table, or files and folders'),
        ((tmp_path/'t.csv', '--path', 'file'), "no column 'file'"), ((home, '--root', home), '--root is for tables'),
        ((home, '--sheet', 'A'), '--path and --sheet are for tables'), ((tmp_path/'no.csv',), 'no such file'),
        ((home, '--decide'), 'train it with fit --tune'), (('nih14',), 'nih14 needs --root')):
        said = shell('predict', run, *arguments, '--out', tmp_path/'x.csv', status=1)
        assert words in said and 'tune=True' not in said, said
    pixels = shell('predict', run, 'phantom', '--out', tmp_path/'phantom.csv')
    assert '2000 of 2000 files scored' in pixels


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
    assert 'images to train on' in printed and '1 epoch, loss' in printed


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


def list_notes(printed):
    "The notes of a command, but for those on a run of five steps and on few images, of which nothing can be learned."
    notes = [line for line in printed.splitlines() if line.startswith('note: ')]
    usual = 'hardly leaves its start', 'will mean nothing'
    return [note for note in notes if not any(words in note for words in usual)]


def test_help_groups_many_options_and_leaves_few_in_one_list():
    headings = 'Data', 'Reading of files', 'Method and first weights', 'Training', 'Machine'
    texts = {name: CliRunner().invoke(app, [name, '--help']).output for name in ('fit', 'export')}
    for heading in headings:
        assert f' {heading} ─' in texts['fit'] and f' {heading} ─' not in texts['export']
    listed = texts['fit'].index(' Machine ─')
    assert texts['fit'].index('--device ') > listed > texts['fit'].index('--epochs ')


def test_a_warning_is_one_line(tmp_path):
    printed = shell(*FIT, '--epochs', 1, '--fraction', .3, '--out', tmp_path)
    notes = list_notes(printed)
    assert len(notes) == 1 and '--fraction 0.3 is not used by --regime full' in notes[0]


def test_an_old_name_of_an_argument_is_one_note(tmp_path):
    old = ('--set', 'weights={"bce": 1}', '--set', 'flip=false')
    printed = shell(*FIT, '--epochs', 1, '--out', tmp_path, *old)
    notes = list_notes(printed)
    assert len(notes) == 1 and 'bce' in notes[0] and "{'supervised': 1}" in notes[0] and 'flip' in notes[0]


# ---- the first hour: what is refused before torch is imported ----

TABLE = ['path', 'patient_id', 'Edema', 'Mass']
FIRST_HOUR = [   # arguments behind `fit`, and the line that they end with
    ('acca', "no method 'acca': did you mean acaa"),
    ('acaa --set tau_post=.9', '--set tau_post=0.9: acaa has no such setting; did you mean tau_pos'),
    ('acaa --set supervision=smpl', '--set supervision=smpl: give ssl or spml; did you mean spml?'),
    ('supervised --set lr=high', '--set lr=high: a number is wanted, such as 0.002'),
    ('supervised --backbone resnt18', '--backbone resnt18: timm has no such network; did you mean resnet18'),
    ('can --set branch_b=densnet121', '--set branch_b=densnet121: timm has no such network; did you mean densenet121'),
    ('supervised --preset tinny', "--preset tinny: supervised has no preset 'tinny': there are ['maps', 'tiny']"),
    ('supervised --regime fractio',
     '--regime fractio: give full, fraction or single-positive; did you mean fraction?'),
    ('supervised --data nowhere.csv', '--data nowhere.csv: there is no such file'),
    ('supervised --data table.csv --labels Oedema',
     f"--labels: no column 'Oedema' in the table; did you mean Edema? it has {TABLE}"),
    ('supervised --data table.csv --patient who', f"no column 'who' for the patients: the table has {TABLE}"),
    ('supervised --data table.csv --path image', f"no column 'image' for the image files: the table has {TABLE}"),
    ('supervised --data table.csv --fold-column fold', f"no column 'fold' for the folds: the table has {TABLE}"),
    ('supervised --data absent.csv', '1 of 2 image files are not there: '),
    ('supervised --data absent.csv', 'leave these rows out with --missing skip'),
    ('supervised --data strange.csv', "'perhaps'"),
    ('supervised --from nowhere', '--from nowhere: there is no such folder'),
    ('supervised --config wrong.toml', "wrong.toml: no option 'epoch'; did you mean epochs?"),
    ('supervised --config cut.yaml', 'cut.yaml cannot be read: '),
    ('supervised --data chexprt', '--data chexprt: there is no such source; did you mean chexpert'),
    ('supervised --data brax', 'brax needs --root, the folder that it was unpacked to: master_spreadsheet'),
    ('supervised --data brax --root empty',
     '--root empty: no table of brax there, in the folders in it or in the two above it; looked for master_spread'),
    ('supervised --data brax --root nowhere', '--root nowhere: there is no such folder'),
    ('supervised --data mimic_cxr --option splt=train',
     "--option splt=train: mimic_cxr has no option 'splt'; did you mean split? it takes split, labeler"),
    ('supervised --data mimic_cxr --option split=trian',
     '--option split=trian: give train, validate, test or all; did you mean train?'),
    ('supervised --data mimic_cxr --option ages=18-', "mimic_cxr has no option 'ages'"),
    ('supervised --data nih14 --option ages=adults', '--option ages=adults: give years as 18-90, 18- or -90'),
    ('supervised --data table.csv --option split=train', '--option is for '),
    ('supervised --data nih14 --root empty --uncertain ones', '--data nih14 does not use what is given, --uncertain '),
    ('supervised --data padchest --root empty --path file', '--path is for csv'),
    ('supervised --fold official', '--fold official is for collections: phantom has folds by number'),
    ('supervised --device cudda', '--device cudda: give auto, cpu, cuda or mps; did you mean cuda?'),
]
ELSEWHERE = [   # other commands
    ('evaluate nowhere', 'nowhere holds no run: there is no such folder'),
    ('evaluate empty', 'empty holds no run: there is no model.json in it'),
    ('evaluate run --rows 5', '--rows: say with --data which data that is about'),
    ('evaluate run --data chexprt', '--data chexprt: there is no such source; did you mean chexpert'),
    ('evaluate run --data brax', 'brax needs --root'),
    ('evaluate run --data brax --root empty', '--root empty: no table of brax there'),
    ('evaluate run --data phantom --uncertain one', '--uncertain one: give zeros, ones or ignore; did you mean ones?'),
    ('evaluate run --device cudda', '--device cudda: give auto, cpu, cuda or mps'),
    ('compare run nowhere', 'nowhere holds no run'),
    ('predict nowhere a.png', 'nowhere holds no run'),
    ('predict run c.png', 'no such file or folder: c.png'),
    ('predict run a.png --fit squeeze', '--fit squeeze: give pad, stretch or crop'),
    ('pack brax out', 'brax needs --root'),
    ('pack brax empty out', '--root empty: no table of brax there'),
    ('pack table.csv a b c', 'give a table or a folder and the folder of the pack'),
    ('pack table.csv out --option split=train', '--option is for collections'),
    ('doctor nih15 empty', "no collection 'nih15': did you mean nih14"),
    ('doctor nih14 nowhere', 'no folder nowhere'),
    ('data padchst', "no collection 'padchst': did you mean padchest?"),
]
QUICK = ('--help', 'methods', 'methods acaa', 'fit --help', 'data', 'data cxr_lt')
ASK = """
import json, sys, time
from typer.testing import CliRunner
from cxr_workbench.cli import app
said, light = [], []
for line in json.load(sys.stdin):
    start = time.process_time()
    result = CliRunner().invoke(app, line.split())
    said.append([result.exit_code, result.output, time.process_time() - start])
    if 'numpy' not in sys.modules: light.append(line)
print(json.dumps([said, 'torch' in sys.modules, light]))
"""


@pytest.fixture(scope='module')
def answers(tmp_path_factory):
    "What a process says to every mistake, whether torch was imported in the end, what came before numpy was."
    folder = tmp_path_factory.mktemp('mistakes')
    for name in 'ab': Image.new('L', (8, 8)).save(folder/f'{name}.png')
    labels = {'Edema': [1, 0], 'Mass': [0, 1]}
    frame = pd.DataFrame({'path': ['a.png', 'b.png'], 'patient_id': [1, 2], **labels})
    frame.to_csv(folder/'table.csv', index=False)
    frame.assign(path=['a.png', 'c.png']).to_csv(folder/'absent.csv', index=False)
    frame.assign(Mass=['0', 'perhaps']).to_csv(folder/'strange.csv', index=False)
    (folder/'wrong.toml').write_text('epoch = 3\n')
    (folder/'cut.yaml').write_text('set: {lr: ')
    for name in ('empty', 'run'): (folder/name).mkdir()
    (folder/'run'/'model.json').write_text('{}')
    lines = [*QUICK, *(f'fit {text}' for text, _ in FIRST_HOUR), *(text for text, _ in ELSEWHERE)]
    command = [sys.executable, '-c', ASK]
    done = subprocess.run(command, input=json.dumps(lines), cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said, torch_came, light = json.loads(done.stdout)
    return dict(zip(lines, said)), torch_came, light


@pytest.mark.parametrize('text, line', FIRST_HOUR)
def test_a_typical_mistake_ends_in_one_line(answers, text, line):
    check_refusal(*answers[0][f'fit {text}'], line)


@pytest.mark.parametrize('text, line', ELSEWHERE)
def test_a_typical_mistake_elsewhere_ends_in_one_line(answers, text, line): check_refusal(*answers[0][text], line)


def check_refusal(status, printed, seconds, line):
    "One line that begins with `error:`, in less than two seconds of processor time."
    last = printed.strip().splitlines()
    assert status == 1 and len(last) == 1 and last[0].startswith('error: ') and line in last[0], printed
    assert seconds < 2 and 'Traceback' not in printed


def test_mistakes_and_help_need_no_torch(answers):
    "Processor time, because the machine may have other work."
    said, torch_came, light = answers
    assert {'--help', 'methods', 'methods acaa', 'fit --help'} <= set(light)
    assert not torch_came and all(said[line][0] == 0 for line in QUICK)
    assert max(said[line][2] for line in QUICK) < 1


def test_an_option_that_there_is_not_is_named():
    assert 'No such option: --accelerator' in shell('fit', 'supervised', '--accelerator', 'gpu', status=2)


def test_data_lists_every_collection_and_all_about_one(answers):
    from cxr_workbench.catalogue import CATALOGUE
    listed, one = (answers[0][line][1] for line in ('data', 'data cxr_lt'))
    assert [line.split()[0] for line in listed.splitlines() if line[:1].strip()] == [*CATALOGUE, 'cxr-workbench']
    for text in ('142,928 images', 'Rib Fracture', '--fold official, 2023: trains on train, holds out development',
                 'disjoint=False', 'Holste et al.', 'cxr-workbench pack cxr_lt ROOT PACK'): assert text in one


def test_methods_lists_what_set_accepts(answers):
    "With default and meaning, from the method itself, from what it stands on, and from the stage of its recipe."
    printed = answers[0]['methods acaa'][1]
    wanted = [('tau_pos', '0.8', 'fixed thresholds'), ('weak', 'True', 'arguments of WeakView'),
              ('ema', '0.999', 'decay of the averaged weights'), ('clip', 'None', 'gradient norm')]
    for name, default, meaning in wanted:
        line = next(line for line in printed.splitlines() if line.startswith(f'{name}='))
        assert line.startswith(f'{name}={default} ') and meaning in line
    assert not [line for line in printed.splitlines() if line.startswith(('labels=', 'size=', 'train='))]


@pytest.mark.parametrize('name', ['supervised', 'can', 'lcc', 'mpc', 'acaa', 'trcgl'])
def test_every_setting_is_taken_by_its_method(name):
    "Given its own default, or the one of the preset; nothing else is taken."
    import ast
    from cxr_workbench.core import create_method, get_factory
    from cxr_workbench.signatures import list_factories
    settings = list_factories()[name].settings
    assert list_factories()[name].whole
    small, skipped = get_factory(name).presets['tiny'], {'backbone', 'branch_b'}
    plain = {key: ast.literal_eval(each.default) for key, each in settings.items() if key not in skipped}
    create_method(name, labels=3, size=32, preset='tiny', **{key: v for key, v in plain.items() if key not in small})
    with pytest.raises((ValueError, TypeError)): create_method(name, labels=3, size=32, preset='tiny', colour=1)


def test_a_run_is_repeated_from_its_file(run, tmp_path):
    "The same weights, bit by bit; what is written on the command line comes before the file."
    shell('fit', '--config', run/'fit.toml', '--out', tmp_path/'again', '--no-progress')
    assert (tmp_path/'again'/'model.safetensors').read_bytes() == (run/'model.safetensors').read_bytes()
    assert (tmp_path/'again'/'fit.toml').read_text() == (run/'fit.toml').read_text()
    (tmp_path/'fit.yaml').write_text((run/'fit.toml').read_text().replace(' = ', ': '))
    assert "no method 'nothing'" in shell('fit', 'nothing', '--config', tmp_path/'fit.yaml', status=1)


def test_a_server_that_does_not_answer_is_one_line(tmp_path, monkeypatch):
    from cxr_workbench import weights
    monkeypatch.setattr(weights, 'is_cached', lambda cfg: False)
    monkeypatch.setattr(weights, 'can_reach', lambda address, seconds=5: False)
    printed = shell(*FIT, '--pretrained', '--out', tmp_path, status=1)
    line, = printed.strip().splitlines()
    assert line.startswith('error: the weights of test_resnet') and '--weights FILE' in line


def test_an_accelerator_that_is_not_there_is_named_as_an_option(tmp_path, monkeypatch):
    import torch
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    printed = shell('fit', 'supervised', '--rows', 60, '--size', 32, '--device', 'cuda', '--out', tmp_path, status=1)
    assert printed.strip().splitlines()[-1].startswith('error: --device cuda: torch ') and "give 'cpu'" in printed


def test_decisions_come_from_the_thresholds_of_the_run(tmp_path):
    "The table names its files and nothing more of them."
    shell(*FIT, '--epochs', 1, '--out', tmp_path/'run', '--tune')
    saved = json.loads((tmp_path/'run'/'model.json').read_text())['calibration']
    for i in range(3): Image.fromarray(np.full((40, 50), 60*i, np.uint8)).save(tmp_path/f'{i}.png')
    files = [tmp_path/f'{i}.png' for i in range(3)]
    shell('predict', tmp_path/'run', *files, '--out', tmp_path/'plain.csv')
    shell('predict', tmp_path/'run', *files, '--out', tmp_path/'scores.csv', '--decide')
    plain, scores = pd.read_csv(tmp_path/'plain.csv'), pd.read_csv(tmp_path/'scores.csv')
    labels = list(saved['thresholds'])
    assert list(plain) == ['row', 'path', *labels, 'error']
    assert list(scores) == [*plain, *(f'present: {name}' for name in labels)]
    logit = lambda table: np.log(table[labels]/(1 - table[labels]))
    assert np.allclose(logit(plain)/saved['temperature'], logit(scores), atol=1e-3)
    for name, limit in saved['thresholds'].items():
        wanted = scores[name] >= limit if limit is not None else scores[f'present: {name}'].isna()
        assert (scores[f'present: {name}'].fillna(1) == wanted).all()


def test_the_report_of_a_tuned_run_judges_its_decisions(run, tmp_path):
    "Its counts are those of predict --decide; another run has none of it."
    from cxr_workbench import learner, opening
    folder = tmp_path/'run'
    said = shell(*FIT, '--epochs', 1, '--out', folder, '--tune')
    assert '40 images are few for a temperature' in said and 'Pleural Other (0 and 40)' in said
    printed = shell('evaluate', folder, '--n-boot', 20)
    assert 'tuned threshold' in printed and 'This F1 is not that at 0.5' in printed
    assert 'tuned on these very images' in printed and '40 images are few' in printed
    table = pd.read_csv(folder/'report.csv', index_col='label')
    model, held = learner.load(folder), opening.open_parts(opening.read_run_record(folder))[1]
    decided = learner.decide(learner.predict(model, held, calibrated=True), model)
    for c, name in enumerate(model.label_names):
        row, present = table.loc[name], held.y[:, c].numpy() == 1
        if model.calibration['thresholds'][name] is None:
            assert np.isnan(row.tuned_f1) and row.tuned_note.startswith('no threshold: no positives')
            continue
        assert row.tuned_found == decided[name][present].sum() and row.tuned_on_positives == present.sum()
        assert row.tuned_sensitivity == row.tuned_found/present.sum()
        assert np.isclose(row.tuned_specificity, 1 - decided[name][~present].mean())
    assert table.tuned_threshold['macro':].isna().all() and (table.threshold[:2] == .5).all()
    saved = json.loads((folder/'report.json').read_text())['decisions']
    assert saved['same'] and saved['labels']['Edema']['tuned_found'] == table.tuned_found['Edema']
    html = (folder/'report.html').read_text()
    assert 'Decisions at the tuned thresholds' in html and '40 images are few' in html
    other = shell('evaluate', folder, '--data', 'phantom', '--rows', 150, '--data-seed', 5, '--n-boot', 0)
    assert 'tuned threshold' in other and 'these very images' not in other
    assert 'tuned threshold' not in shell('evaluate', run, '--n-boot', 0, '--out', tmp_path/'plain.csv')
    assert 'tuned' not in (tmp_path/'plain.csv').read_text() + (tmp_path/'plain.json').read_text()


def test_decisions_need_thresholds(run, tmp_path):
    Image.new('L', (40, 40)).save(tmp_path/'a.png')
    assert 'no temperature and no thresholds' in shell('predict', run, tmp_path/'a.png', '--decide', status=1)


# ---- the record of a run ----

@pytest.mark.parametrize('text, named', [
    ('{"data": {', 'cut off or damaged'), ('[]', 'lacks'), ('{"data": {}, "fold": 0}', "lacks ['fold_column']"),
    ('{"data": 3, "fold": 0, "fold_column": null}', 'its data are 3'),
    ('{"data": {"colour": 1}, "fold": 0, "fold_column": null}', "['colour'], which this version does not know")])
def test_a_record_that_is_not_whole_is_named(tmp_path, text, named):
    with pytest.raises(FileNotFoundError, match='run.json is missing'): opening.read_run_record(tmp_path)
    (tmp_path/'run.json').write_text(text)
    with pytest.raises(ValueError) as error: opening.read_run_record(tmp_path)
    assert named in str(error.value) and 'run.json' in str(error.value) and 'source=...' in str(error.value)


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


# ---- evaluate on any data, compare ----

def write_clinic(folder, rows, seed, prefix, **columns):
    "A table of phantom files whose names and patients can be looked for in a report."
    from cxr_workbench.phantom import SyntheticCXR
    folder.mkdir()
    phantom = SyntheticCXR(rows, size=32, seed=seed)
    names = [f'{prefix}_scan_{i:03d}.png' for i in range(rows)]
    for name, image in zip(names, phantom.images): Image.fromarray(image).save(folder/name)
    labels = pd.DataFrame(phantom.labels, columns=phantom.label_names).astype(int)
    people = [f'{prefix}-person-{p:04d}' for p in phantom.patient_id]
    about = dict(scan=names, person=people, study_id=[f'{who}-{i//2}' for i, who in enumerate(people)],
                 sex=['MF'[int(p) % 2] for p in phantom.patient_id], **columns)
    table = pd.concat([labels, pd.DataFrame(about)], axis=1)
    table.to_csv(folder/'clinic.csv', index=False)
    return table


@pytest.fixture(scope='module')
def clinics(tmp_path_factory):
    "A folder with two tables, and a run that was trained on the first one with columns and policies of its own."
    folder = tmp_path_factory.mktemp('clinics')
    write_clinic(folder/'home', 90, 0, 'home')
    there = write_clinic(folder/'there', 70, 1, 'there')
    there.loc[:9, 'Edema'] = -1
    there.drop(columns=['Fracture', 'Hernia'], errors='ignore').to_csv(folder/'there'/'clinic.csv', index=False)
    columns = ('--path', 'scan', '--patient', 'person', '--uncertain', 'ignore')
    shell('fit', 'supervised', '--data', folder/'home'/'clinic.csv', *columns, '--size', 32,
          '--batch-size', 32, '--epochs', 1, '--out', folder/'run', *SMALL)
    return folder


def test_other_data_are_read_as_the_run_read_its_own(clinics):
    "Columns, the policy and the labels are those of the run; what the data lack is named and not scored."
    printed = shell('evaluate', clinics/'run', '--data', clinics/'there'/'clinic.csv', '--n-boot', 0)
    table = pd.read_csv(clinics/'run'/'report_clinic.csv', index_col='label')
    assert 'labels that these data do not have: Fracture' in printed and 'of the training part: none' in printed
    assert table.loc['Edema', 'n'] == 60 and table.loc['Cardiomegaly', 'n'] == 70        # -1 is unknown, as in the run
    assert table.loc['Fracture', 'n'] == 0 and np.isnan(table.loc['Fracture', 'auroc'])
    people = pd.read_csv(clinics/'there'/'clinic.csv')['person'].nunique()
    assert f'scored: 70 images of {people} patients' in printed
    shell('evaluate', clinics/'run', '--data', clinics/'there'/'clinic.csv', '--n-boot', 0, '--uncertain', 'ones')
    ones = pd.read_csv(clinics/'run'/'report_clinic_2.csv', index_col='label')
    assert ones.loc['Edema', 'n'] == 70 and ones.loc['Edema', 'n_pos'] >= 10


def test_a_label_may_have_another_name_in_the_data(clinics, tmp_path):
    table = pd.read_csv(clinics/'there'/'clinic.csv').rename(columns={'Pleural Effusion': 'Effusion'})
    table.to_csv(clinics/'there'/'renamed.csv', index=False)
    labels = 'Cardiomegaly, Pleural Effusion=Effusion'
    shell('evaluate', clinics/'run', '--data', clinics/'there'/'renamed.csv', '--labels', labels, '--n-boot', 0,
          '--out', tmp_path/'two.csv')
    two = pd.read_csv(tmp_path/'two.csv', index_col='label')
    assert list(two.index[two['n'] == 70]) == ['Cardiomegaly', 'Pleural Effusion']
    wrong = ('evaluate', clinics/'run', '--data', clinics/'there'/'renamed.csv', '--labels')
    assert "no label columns ['Efusion']" in shell(*wrong, 'Pleural Effusion=Efusion', status=1)
    assert "the model has no labels ['Gout']" in shell(*wrong, 'Gout=Effusion', status=1)


def test_rows_that_were_trained_on_are_counted_and_listed(clinics):
    "The whole home table: 4 of 5 rows were trained on; a copy in another folder too, under the names of its files."
    import shutil
    shutil.copytree(clinics/'home', clinics/'moved')
    for folder in ('home', 'moved'):
        printed = shell('evaluate', clinics/'run', '--data', clinics/folder/'clinic.csv', '--n-boot', 0,
                        '--out', clinics/f'{folder}.csv', *(('--name-rows',) if folder == 'moved' else ()))
        seen = pd.read_csv(clinics/f'{folder}_seen.csv')
        assert ('name' in seen) == (folder == 'moved') and set(seen['reason']) == {'image'}
        train, held = opening.open_parts(opening.read_run_record(clinics/'run'))
        assert f'{len(train)} of 90 images were trained on' in printed and len(seen) == len(train)
        stems = {Path(path).stem for path in train.paths}
        assert folder == 'home' or {Path(name).name for name in seen['name']} == stems
        assert 'note: ' in printed and 'remembers' in printed
        assert 'such scores tell how well' in (clinics/f'{folder}.html').read_text()
    assert not (clinics/'run'/'report_seen.csv').exists()


def test_studies_and_groups(clinics):
    shell('evaluate', clinics/'run', '--data', clinics/'there'/'clinic.csv', '--n-boot', 10, '--by', 'study,sex')
    stem = clinics/'run'/'report_clinic_study_by_sex'
    table = pd.read_csv(f'{stem}.csv', index_col='label')
    data = pd.read_csv(clinics/'there'/'clinic.csv')
    assert table.loc['Cardiomegaly', 'n'] == data['study_id'].nunique() < 70
    groups = pd.read_csv(f'{stem}_groups.csv')
    assert set(groups['group']) == {'male', 'female'}
    assert groups.groupby('group')['rows'].first().sum() == table['n'].iloc[0]
    assert '=COLUMN' in shell('evaluate', clinics/'run', '--by', 'site', status=1)


def test_a_report_takes_no_other_place_and_names_no_row(clinics):
    run, there = clinics/'run', clinics/'there'/'clinic.csv'
    once = ('evaluate', run, '--data', there, '--n-boot', 10, '--by', 'sex')
    shell(*once)
    first = (run/'report_clinic_by_sex.csv').read_bytes()
    shell(*once)                                                               # the same again: the same files
    assert not (run/'report_clinic_by_sex_2.csv').exists() and (run/'report_clinic_by_sex.csv').read_bytes() == first
    taken = ('evaluate', run, '--n-boot', 0, '--out', run/'report_clinic_by_sex.csv')
    assert 'is another report' in shell(*taken, status=1)
    (run/'report.csv').write_text('of an older version')
    shell('evaluate', run, '--n-boot', 10)
    assert (run/'report.csv').read_text() == 'of an older version' and (run/'report_2.csv').exists()
    for file in [*run.glob('report*.html'), *run.glob('report*.json'), *run.glob('report*_sex*.csv')]:
        text = file.read_text()
        assert not [word for word in ('person-0', '_scan_0', str(clinics)) if word in text], file
        assert file.suffix != '.html' or '<h2>Images</h2>' not in text
    text = (run/'report_clinic_by_sex.html').read_text()
    for words in ('intervals from 10 resamples of the patients', 'Entries of the labels', 'not a medical device'):
        assert words in text
    for column, what in (('scan', 'paths'), ('person', 'belong to one patient each')):
        said = shell('evaluate', run, '--data', there, '--by', column, status=1)
        assert f'error: --by {column}: ' in said and what in said and 'person-0' not in said
    shell(*once, '--name-rows', '--show-images')
    rows = pd.read_csv(run/'report_clinic_by_sex_rows.csv')
    assert len(rows) == 70 and rows['patient'][0].startswith('there-person') and rows['Fracture (label)'].isna().all()
    assert '<h2>Images</h2>' in (run/'report_clinic_by_sex.html').read_text()


def test_options_about_no_other_data_are_refused(run):
    assert '--uncertain: say with --data' in shell('evaluate', run, '--uncertain', 'ones', status=1)
    assert '--data-seed is for phantom' in shell('evaluate', run, '--data', 'x.npz', '--data-seed', 3, status=1)


def test_an_unfinished_run_is_evaluated_on_request_and_says_so(tmp_path, monkeypatch):
    from cxr_workbench import learner
    saved = learner.close_run
    def stop(*_): raise KeyboardInterrupt
    monkeypatch.setattr(learner, 'close_run', stop)            # after the last epoch, before the model is written
    CliRunner().invoke(app, [str(a) for a in (*FIT, '--epochs', 2, '--out', tmp_path/'run')])
    assert (tmp_path/'run'/'last.ckpt').exists() and not (tmp_path/'run'/'model.json').exists()
    assert '2 of 2 epochs' in shell('evaluate', tmp_path/'run', status=1)
    printed = shell('evaluate', tmp_path/'run', '--unfinished', '--n-boot', 0)
    assert 'training: not finished: 2 of 2 epochs' in printed
    assert 'not finished: 2 of 2 epochs' in (tmp_path/'run'/'report.html').read_text()
    unfinished = pd.read_csv(tmp_path/'run'/'report.csv', index_col='label')
    monkeypatch.setattr(learner, 'close_run', saved)
    shell(*FIT, '--epochs', 2, '--out', tmp_path/'run')                        # the same weights, saved now
    shell('evaluate', tmp_path/'run', '--n-boot', 0)
    finished = pd.read_csv(tmp_path/'run'/'report_2.csv', index_col='label')
    pd.testing.assert_frame_equal(unfinished, finished)


def test_threads_that_wait_sleep_unless_the_user_chose():
    from cxr_workbench.cli import let_threads_sleep
    environment = dict(PATH='/bin')
    let_threads_sleep(environment)
    assert environment == dict(PATH='/bin', OMP_WAIT_POLICY='PASSIVE')
    for name, value in dict(OMP_WAIT_POLICY='ACTIVE', GOMP_SPINCOUNT='9', KMP_BLOCKTIME='1').items():
        environment = {name: value}
        let_threads_sleep(environment)
        assert environment == {name: value}


def test_compare_prints_and_writes_paired_differences(run, clinics, tmp_path):
    shell(*FIT, '--epochs', 1, '--out', tmp_path/'other')
    shell('compare', run, tmp_path/'other', '--n-boot', 20, '--out', tmp_path/'two.csv')
    table = pd.read_csv(tmp_path/'two.csv').set_index('label')
    own = [opening.open_parts(opening.read_run_record(folder))[1] for folder in (run, tmp_path/'other')]
    assert table.loc['Cardiomegaly', 'n'] == len(own[0]) == len(own[1])
    assert np.allclose(table['difference'], table['auroc_a'] - table['auroc_b'], equal_nan=True)
    assert set(table['first']) == {run.name} and set(table['second']) == {'other'}
    text = (tmp_path/'two.html').read_text()
    assert text.count('<figure>') == 2 and 'phantom of seed' not in text and 'say nothing about' in text
    shell('compare', run, tmp_path/'other', '--n-boot', 20, '--jobs', 2, '--out', tmp_path/'shared.csv')
    assert (tmp_path/'shared.csv').read_bytes() == (tmp_path/'two.csv').read_bytes()
    assert '--jobs 0: give 1 or more' in shell('compare', run, tmp_path/'other', '--jobs', 0, status=1)
    assert 'is given twice' in shell('compare', run, run, status=1)
    assert 'two runs or more' in shell('compare', run, status=1)
    assert 'no row is in both' in shell('compare', run, clinics/'run', status=1)
    assert 'is another report' in shell('compare', tmp_path/'other', run, '--out', tmp_path/'two.csv', status=1)
    printed = shell('compare', run, clinics/'run', '--data', clinics/'there'/'clinic.csv', '--path', 'scan',
                    '--patient', 'person', '--n-boot', 20, '--out', tmp_path/'three.csv')
    assert 'rows that both have: 70' in printed and 'entries left out, the labels differ: 0' in printed
    words = ('The two runs read their labels differently', '10 entries that one of them', '20 resamples of the')
    for said in (printed, (tmp_path/'three.html').read_text()): assert not [text for text in words if text not in said]
    assert 'With --data, --uncertain and --blank both are read in one way.' in printed
    assert 'not a medical device' in (tmp_path/'three.html').read_text()
    table = printed[printed.index('AUROC (p: '):printed.index('intervals from')].splitlines()[:-1]
    assert len(table) > 30 and max(map(len, table)) <= 100


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
    assert text.count('<figure>') >= 6
    assert 'say nothing about patients' in text and 'Cardiomegaly' in text
    assert '<script src=' not in text and 'cdn.plot.ly' not in text.split('</script>')[-1]


def test_a_report_offers_no_upload(tmp_path):
    import plotly.graph_objects as go
    from cxr_workbench.reports import write_html
    write_html(tmp_path/'report.html', ('heading', 'sentence', go.Figure(go.Bar(y=[1, 2]))))
    text = (tmp_path/'report.html').read_text(encoding='utf-8')
    assert '"remove":["sendChartToCloud"]' in text and 'showSendToCloud: false' in text


def test_the_installed_command_answers():
    program = str(Path(sys.executable).parent/'cxr-workbench')
    done = subprocess.run([program, 'version'], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith('cxr-workbench 0.')


OPTIONS = {  # command -> its options; a spelling that a script uses stays
    'fit': '''--like --sheet
        --data --table --root --labels --path --patient --uncertain --blank --packed --size --missing --fit --bits
        --stretch --invert --window --frame --rows --fold --fold-column --each-image-a-patient --regime --fraction
        --preset --backbone --pretrained --weights --from
        --option --set --epochs --batch-size --seed --workers --labelled --out --device
        --best --patience --tune --config
        --devices --nodes --strategy --precision --progress --no-progress
        --no-stretch --no-invert --no-window --no-pretrained''',
    'evaluate': '''--data --table --root --labels --path --patient --uncertain --blank --packed --size --missing --fit
        --bits --stretch --invert --window --frame --rows --data-seed --by --n-boot --out --unfinished --name-rows
        --show-images --device --option''',
    'compare': '''--data --table --root --labels --path --patient --uncertain --blank --packed --size --missing --rows
        --data-seed --by --n-boot --out --unfinished --device --option''',
    'predict': '''--root --path --sheet --option --missing
        --out --batch-size --device --fit --bits --stretch --invert --window --frame --no-window
        --calibrated --decide''',
    'export': '--to --out',
    'reproduce': '''--root --setting --dry --plan --variant --runs --epochs --size --backbone --weights --batch-size
        --images --packed --missing --seed --n-boot --out --workers --device --precision --progress --no-progress''',
    'sweep': '--jobs --backend --scheduler --retry --dry',
    'pack': '''--verify
        --size --root --path --fit --bits --stretch --invert --window --frame --workers --no-stretch --no-invert
        --no-window --option --missing''',
    'methods': '', 'data': '', 'version': '',
    'doctor': '''--root --path --patient --labels --each-image-a-patient --leave-out --ids --look --write --card
        --show-images --json --option''',
    'lab': '--start --no-start --browser --no-browser --port',
    'app': '--root --port --ip --token --kernels --idle --memory --upload --theme --reference',
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


@pytest.mark.parametrize('name', ['scores.xlsx', 'scores.parquet'])
def test_scores_are_not_written_as_what_they_are_not(tmp_path, name):
    from cxr_workbench.reports import check_place
    with pytest.raises(ValueError, match='ends in .csv'): check_place(tmp_path/name)
    assert check_place(tmp_path/'scores.csv') == tmp_path/'scores.csv'


def test_settings_of_a_method_of_this_process_are_refused_with_a_reason(monkeypatch):
    from cxr_workbench import core
    def of_one_process(labels, size=64, pretrained=False): "Registered here alone."
    monkeypatch.setitem(core._factories, 'of_one_process', of_one_process)
    answer = CliRunner().invoke(app, ['methods', 'of_one_process'])
    assert answer.exit_code == 1 and "'of_one_process' is registered in this process alone" in answer.output
