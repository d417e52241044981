"What is read is what was trained on: one reading from the options of `pack` to the scores of `predict`."
import json
import numpy as np, pandas as pd, pytest, torch
from PIL import Image
from test_cli import shell
from cxr_workbench import learner, prediction
from cxr_workbench.data import from_csv
from cxr_workbench.files import Reading, pack
from cxr_workbench.phantom import SyntheticCXR

TRAIN = ('--preset', 'tiny', '--batch-size', 16, '--epochs', 1, '--no-progress', '--device', 'cpu')


@pytest.fixture(scope='module')
def table(tmp_path_factory):
    "Sixty narrow images of 12 bits in 16-bit files, beside a table with patients."
    folder = tmp_path_factory.mktemp('files')
    phantom = SyntheticCXR(60, size=48, seed=0)
    (folder/'images').mkdir()
    for i, image in enumerate(phantom.images):
        Image.fromarray(image[:, 6:42].astype(np.uint16)*16).save(folder/'images'/f'{i:03d}.png')
    labels = pd.DataFrame(phantom.labels, columns=phantom.label_names).astype(int)
    labels.insert(0, 'path', [f'images/{i:03d}.png' for i in range(60)])
    labels.insert(1, 'patient_id', phantom.patient_id)
    labels.to_csv(folder/'table.csv', index=False)
    return folder/'table.csv'


@pytest.fixture(scope='module')
def packed(table):
    shell('pack', table, table.parent/'pack', '--size', 32, '--fit', 'crop', '--bits', 12)
    return table.parent/'pack'


@pytest.fixture(scope='module')
def run(table, packed):
    shell('fit', 'supervised', '--data', table, '--packed', packed, *TRAIN, '--out', table.parent/'run')
    return table.parent/'run'


def test_a_model_keeps_how_its_images_were_read(run):
    kept = json.loads((run/'model.json').read_text())['reading']
    assert Reading.from_dict(kept) == Reading(32, 'crop', bits=12) == learner.load(run).reading


def test_files_are_scored_as_they_were_packed(run, table, packed):
    shell('predict', run, table.parent/'images', '--out', table.parent/'scores.csv')
    names = learner.load(run).label_names
    of_files = pd.read_csv(table.parent/'scores.csv')[names].to_numpy()
    of_pack = learner.predict(learner.load(run), from_csv(table, packed=packed))[names].to_numpy()
    otherwise = learner.load(run)
    otherwise.reading = Reading(32)
    paths = [str(table.parent/'images'/f'{i:03d}.png') for i in range(60)]
    as_before = learner.predict(otherwise, paths)[names].to_numpy()
    assert np.abs(of_files - of_pack).max() < 2e-3                  # a pack rounds to 8 bits
    assert np.abs(as_before - of_pack).max() > 10*np.abs(of_files - of_pack).max()


def test_evaluate_reads_other_files_as_the_training_did(run, table):
    shell('evaluate', run, '--n-boot', 5, '--out', table.parent/'held_out.csv')
    shell('evaluate', run, '--data', table, '--n-boot', 5, '--out', table.parent/'files.csv')
    pack_folder = ('--packed', table.parent/'pack')
    shell('evaluate', run, '--data', table, *pack_folder, '--n-boot', 5, '--out', table.parent/'packed.csv')
    of_files, of_pack = (pd.read_csv(table.parent/name, index_col=0) for name in ('files.csv', 'packed.csv'))
    assert np.nanmax(np.abs(of_files['auroc'] - of_pack['auroc'])) < .02


@pytest.mark.parametrize('options, words', [
    (('--size', 32), ["'crop' against 'pad'", '12 against None']),
    (('--size', 32, '--fit', 'crop', '--bits', 12, '--invert'), ['invert False against True'])])
def test_a_pack_of_another_reading_is_refused_by_both_names(run, table, tmp_path, options, words):
    shell('pack', table, tmp_path/'other', *options)
    said = shell('evaluate', run, '--data', table, '--packed', tmp_path/'other', '--n-boot', 5, status=1)
    assert all(word in said for word in words), said


def test_a_pack_of_another_size_is_refused(run, table, tmp_path):
    shell('pack', table, tmp_path/'other', '--size', 40, '--fit', 'crop', '--bits', 12)
    said = shell('evaluate', run, '--data', table, '--packed', tmp_path/'other', '--n-boot', 5, status=1)
    assert '32' in said and '40' in said


def test_options_that_contradict_a_pack_are_refused(table, packed, tmp_path):
    fit = ('fit', 'supervised', '--data', table, '--packed', packed, *TRAIN, '--out', tmp_path)
    assert 'bits 12 against 10' in shell(*fit, '--bits', 10, status=1)
    assert 'size 32 against 64' in shell(*fit, '--size', 64, status=1)


def test_options_of_fit_reach_the_files_and_the_model(table, tmp_path):
    reading = ('--size', 32, '--fit', 'stretch', '--bits', 12, '--invert')
    shell('fit', 'supervised', '--data', table, *reading, *TRAIN, '--out', tmp_path/'run')
    assert learner.load(tmp_path/'run').reading == Reading(32, 'stretch', bits=12, invert=True)
    shell('evaluate', tmp_path/'run', '--n-boot', 5)


def test_a_training_and_a_held_out_part_of_two_readings_are_refused(table, packed):
    from cxr_workbench.core import create_method
    train = from_csv(table, packed=packed)
    valid = from_csv(table, reading=Reading(32, 'pad', bits=12))
    halves = train.subset(train.patient_id < 10), valid.subset(valid.patient_id >= 10)
    method = create_method('supervised', labels=train.label_names, size=32, preset='tiny')
    with pytest.raises(ValueError, match="'crop' against 'pad'"):
        learner.fit(method, *halves, epochs=1, progress=False, device='cpu')


def test_a_model_saved_before_reads_as_it_always_did(run, table, tmp_path):
    for name in ('model.json', 'model.safetensors'): (tmp_path/name).write_bytes((run/name).read_bytes())
    record = json.loads((tmp_path/'model.json').read_text())
    del record['reading']
    (tmp_path/'model.json').write_text(json.dumps(record))
    assert learner.load(tmp_path).reading == Reading(32)


def test_the_same_run_goes_on_only_with_the_same_reading(run, table, packed, tmp_path):
    pack(table, tmp_path/'other', 32, bits=12)
    said = shell('fit', 'supervised', '--data', table, '--packed', tmp_path/'other', *TRAIN, '--out', run, status=1)
    assert 'holds another run: --fit crop, now --fit pad. Choose another folder' in ' '.join(said.split())


# ---- what is refused before anything is scored ----

@pytest.mark.parametrize('place', ['no/such/s.csv', '.'])
def test_a_place_that_cannot_be_written_is_refused_before_scoring(run, table, tmp_path, monkeypatch, place):
    monkeypatch.setattr(learner, 'predict', lambda *a, **kw: pytest.fail('scored'))
    monkeypatch.setattr(learner, 'load', lambda *a, **kw: pytest.fail('loaded'))
    for command in (('predict', run, table.parent/'images'), ('evaluate', run)):
        said = shell(*command, '--out', tmp_path/place, status=1)
        assert 'folder' in said and 'training' not in said


@pytest.mark.parametrize('content, says', [
    ('{"data": {"sou', 'cut off'), ('[]', 'no record'), ('{"data": {}}', "'fold'")])
def test_a_damaged_record_is_named(run, tmp_path, content, says):
    for name in ('model.json', 'model.safetensors'): (tmp_path/name).write_bytes((run/name).read_bytes())
    (tmp_path/'run.json').write_text(content)
    said = shell('evaluate', tmp_path, status=1)
    assert 'run.json' in said and says in said and '--data' in said


# ---- who is on the images ----

def without_patients(table, folder, name):
    "The table without its patients, the files under other names."
    frame = pd.read_csv(table).drop(columns='patient_id')
    for i, path in enumerate(frame['path']):
        target = folder/name.format(patient=i//3, image=i%3, row=i)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((table.parent/path).read_bytes())
        frame.loc[i, 'path'] = str(target.relative_to(folder))
    frame.to_csv(folder/'table.csv', index=False)
    return folder/'table.csv'


def test_a_table_without_patients_is_refused(table, tmp_path):
    path = without_patients(table, tmp_path, 'image{row}.png')
    fit = ('fit', 'supervised', '--data', path, '--size', 32, '--bits', 12, *TRAIN, '--out', tmp_path/'run')
    said = shell(*fit, status=1)
    assert '--each-image-a-patient' in said and '--patient' in said and not (tmp_path/'run'/'last.ckpt').exists()
    shell(*fit, '--each-image-a-patient')
    shell('evaluate', tmp_path/'run', '--n-boot', 5)


def test_file_names_that_tell_the_patients_split_by_them(table, tmp_path):
    from cxr_workbench.data import hold_out
    path = without_patients(table, tmp_path, '{patient:08d}_{image:03d}.png')
    with pytest.warns(UserWarning, match='names'): train, held = hold_out(from_csv(path, size=32))
    who = np.arange(60)//3
    assert len(held) and not set(who[train]) & set(who[held])
    said = shell('fit', 'supervised', '--data', path, '--size', 32, '--bits', 12, *TRAIN, '--out', tmp_path/'run')
    assert 'note: ' in said and 'names' in said


def test_a_model_of_an_array_is_told_how_files_are_read(table, tmp_path):
    frame = pd.read_csv(table)
    reading = Reading(32, 'crop', bits=12)
    floats = np.stack([reading(table.parent/path) for path in frame['path']])
    pixels = np.round(floats*255).astype(np.uint8)
    np.savez(tmp_path/'images.npz', images=pixels)
    frame.assign(npz_row=range(60)).to_csv(tmp_path/'table.csv', index=False)
    data = ('--data', tmp_path/'images.npz', '--table', tmp_path/'table.csv')
    shell('fit', 'supervised', *data, *TRAIN, '--out', tmp_path/'run')
    predict = ('predict', tmp_path/'run', table.parent/'images')
    assert 'do not say how they were read' in shell(*predict, '--out', tmp_path/'plain.csv')
    assert 'do not say' not in shell(*predict, '--out', tmp_path/'told.csv', '--fit', 'crop', '--bits', 12)
    model = learner.load(tmp_path/'run')
    told, plain = (pd.read_csv(tmp_path/name)[model.label_names].to_numpy() for name in ('told.csv', 'plain.csv'))
    right = prediction.score_batch(model, torch.from_numpy(pixels).float()[:, None]/255)
    assert np.abs(told - right).max() < 2e-3 < np.abs(plain - right).max()


def test_options_that_contradict_the_model_are_refused(run, table, tmp_path):
    said = shell('predict', run, table.parent/'images', '--out', tmp_path/'s.csv', '--bits', 10, status=1)
    assert '12 against 10' in said and not (tmp_path/'s.csv').exists()


def test_a_process_that_reads_reports_the_file_and_a_command_the_way_on():
    from torch._utils import ExceptionWrapper
    from cxr_workbench import commands
    from cxr_workbench.files import UnreadableImage
    try: raise UnreadableImage('scans/a.png', 'it is damaged (cut off): copy it again')
    except UnreadableImage: reported = ExceptionWrapper(where='in DataLoader worker process 0')
    with pytest.raises(UnreadableImage) as caught: reported.reraise()
    error = caught.value
    assert (error.path, error.reason) == ('scans/a.png', 'it is damaged (cut off): copy it again')
    said = commands.tell_how_to_leave_out(error, dict(data='t.csv'))
    assert 'doctor t.csv --look 1000000 --write readable.csv' in said
    assert commands.tell_how_to_leave_out(error, dict(data='nih14')) == ''
    assert commands.tell_how_to_leave_out(ValueError('no'), dict(data='t.csv')) == ''
