"A hospital's table, with the names of its own language, goes through every command without a column that is named."
import numpy as np, pandas as pd, pytest
from PIL import Image
from test_doctor import find_commands, shell
from cxr_workbench import opening
from cxr_workbench.columns import read_image_table, recognise_files, recognise_patients
from cxr_workbench.data import from_csv, from_dataframe, from_npz, hold_out
from cxr_workbench.doctor import examine, list_written
from cxr_workbench.evaluating import Scored, find_groups, find_values
from cxr_workbench.films import check_headers, say_few
from cxr_workbench.grouping import add_from_headers
from cxr_workbench.tables import find_labels, is_patient_name

N = 24
LABELS = ['Erguss', 'Kardiomegalie']
SMALL = ['--size', '16', '--epochs', '1', '--backbone', 'test_resnet', '--no-progress', '--labels', ','.join(LABELS)]


def make_table(**columns):
    "Two images a patient, whose numbers begin with zeros."
    who = np.arange(N)//2
    return pd.DataFrame({
        'Bild': [f'{k:04d}' for k in range(N)], 'Patientennr.': [f'{k:03d}' for k in who],
        'Geschlecht': np.array(['m', 'w'])[who % 2], 'Alter': 40 + who,
        'Erguss': [('ja', 'nein', '?', None)[k % 4] for k in range(N)],
        'Kardiomegalie': [('ja', 'nein')[k // 2 % 2] for k in range(N)], **columns})


@pytest.fixture
def hospital(tmp_path):
    "Images in two folders, and a workbook that names them without folder and suffix."
    rng = np.random.default_rng(0)
    for k in range(N):
        folder = tmp_path/'bilder'/('2023' if k < N//2 else '2024')
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (16, 16), dtype=np.uint8)).save(folder/f'{k:04d}.png')
    make_table().to_excel(tmp_path/'befunde.xlsx', index=False)
    return tmp_path


def test_what_the_doctor_writes_is_read_by_every_command(hospital, monkeypatch):
    monkeypatch.chdir(hospital)
    printed = shell('doctor', 'befunde.xlsx', '--look', '0', '--write', 'repaired.csv')
    command, = find_commands(printed)
    assert command == f'cxr-workbench fit supervised --data repaired.csv --labels {",".join(LABELS)}'
    said = "'Bild' is taken for the image files"
    assert said in shell('pack', 'repaired.csv', 'packed', '--size', '16')
    fitted = shell('fit', 'supervised', '--data', 'repaired.csv', *SMALL, '--out', 'run')
    assert f"{said} and 'Patientennr.' is taken for the patients: --path, --patient to name another" in fitted
    assert said in shell('predict', 'run', 'repaired.csv') and len(pd.read_csv('scores.csv')) == N
    scored = shell('evaluate', 'run', '--data', 'repaired.csv', '--by', 'sex,age', '--n-boot', '5')
    assert 'sex: female' in scored and 'sex: male' in scored and 'age: 40 to 59' in scored
    assert "'Geschlecht' is taken for the sex: --by sex=COLUMN to name another" in scored
    from cxr_workbench.packs import from_pack
    packed, whole = from_pack('packed', LABELS), from_csv('repaired.csv', labels=LABELS, size=16)
    assert list(packed.patient_id) == list(whole.patient_id) and list(whole.patient_id)[:3] == [0, 0, 1]


def test_names_without_a_suffix_keep_their_zeros(hospital):
    table = make_table(Bild=[f'{k:04d}' for k in range(N)])
    table.to_csv(hospital/'befunde.csv', index=False)
    with pytest.warns(UserWarning, match="'Bild' is taken .* and 'Patientennr.' is taken"):
        frame, column, who = read_image_table(hospital/'befunde.csv')
    assert frame[column].tolist() == table.Bild.tolist() and frame[who].tolist() == [k//2 for k in range(N)]
    table['Patientennr.'] = table['Patientennr.'].replace('001', '1').replace('002', '01')   # three are no two
    table.to_csv(hospital/'befunde.csv', index=False)
    with pytest.warns(UserWarning, match='is taken'): frame = read_image_table(hospital/'befunde.csv')[0]
    assert frame['Patientennr.'].nunique() == N//2


def test_two_columns_that_could_be_the_files_are_listed():
    table = make_table(Datei=[f'{k}' for k in range(N)])
    with pytest.raises(ValueError, match=r"\['Datei', 'Bild'\] could all be the image files: name one, path=..."):
        recognise_files(table)
    assert recognise_files(table.assign(Datei=[f'{k}.dcm' for k in range(N)])) == 'Datei'
    masks = table.drop(columns=['Datei', 'Bild']).assign(x='a.png', mask='b.png')
    with pytest.raises(ValueError, match=r"\['x', 'mask'\]"): recognise_files(masks)
    assert recognise_files(table[['Alter', 'Erguss']]) is None


@pytest.mark.parametrize('change, found', [
    (dict(), 'Patientennr.'), (dict(MRN=range(N)), None), (dict(inpatient=[0, 1]*12), 'Patientennr.'),
    ({'Patientennr.': [None, *['1']*(N - 1)]}, None)])
def test_patients_are_recognised_where_one_column_is_left(change, found):
    assert recognise_patients(make_table(**change)) == found


def test_names_of_files_that_tell_the_patients_come_first(tmp_path):
    names = [f'patient{k//2:05d}/study1/view{k % 2}.png' for k in range(4)]
    for name in names:
        (tmp_path/name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path/name)
    table = pd.DataFrame({'path': names, 'Edema': [0, 1, 0, 1], 'Patientennr.': ['a', 'b', 'a', 'b']})
    with pytest.warns(UserWarning, match='names no patients'): data = from_dataframe(table, tmp_path, size=8)
    assert data.patient_id is None


def test_a_run_that_takes_each_image_for_a_patient_is_split_as_before(hospital):
    table = make_table(path=[f'bilder/{2023 + (k >= N//2)}/{k:04d}.png' for k in range(N)])
    table.to_csv(hospital/'befunde.csv', index=False)
    about = dict(source=str(hospital/'befunde.csv'), labels=LABELS, size=16)
    record = dict(data=about, fold=None, fold_column=None, each_image=True)
    train, held = opening.open_parts(record)
    data = from_csv(hospital/'befunde.csv', labels=LABELS, size=16)
    rows = hold_out(data.copy_with(patient_id=None), each_image=True)
    assert [list(train.rows), list(held.rows)] == [list(part) for part in rows]
    with pytest.warns(UserWarning, match='of a version that split tables without patients'):
        opening.open_parts({name: value for name, value in record.items() if name != 'each_image'})
    assert opening.open_parts({**record, 'each_image': False})[0].patient_id is not None


def test_a_run_names_its_column_to_predict(tmp_path):
    table = pd.DataFrame({'Seite A': ['a.png', 'b.png'], 'Seite B': ['c.png', 'd.png']})
    table.to_csv(tmp_path/'t.csv', index=False)
    with pytest.raises(ValueError, match='could all be'): opening.list_scored([tmp_path/'t.csv'])
    opening.write_run_record(tmp_path, dict(data=dict(path='Seite A'), fold=None, fold_column=None))
    assert opening.list_scored([tmp_path/'t.csv'], run=tmp_path)[1] == ['a.png', 'b.png']
    table.assign(path='e.png').to_csv(tmp_path/'t.csv', index=False)
    assert opening.list_scored([tmp_path/'t.csv'], run=tmp_path)[1] == ['e.png', 'e.png']


def test_sexes_in_several_spellings_are_one_group():
    def group(texts):
        rows = Scored([''], None, None, None, None, [], pd.DataFrame({'Geschlecht': texts}))
        return find_groups(rows, 'sex')[1].tolist()
    assert group(['m', 'W', 'weiblich', 'männlich', None]) == ['male', 'female', 'female', 'male', 'not given']
    with pytest.warns(UserWarning, match=r"\['1', '2'\] are no spelling of a sex"):
        assert group(['1', '2']) == ['1', '2']


def test_two_columns_of_one_property_are_listed():
    rows = Scored([''], None, None, None, None, [], pd.DataFrame({'Geschlecht': ['m'], 'sexo': ['f']}))
    with pytest.raises(ValueError, match=r"\['Geschlecht', 'sexo'\] could all be it; name one, by='sex=COLUMN'"):
        find_values(rows, 'sex')
    assert find_values(rows, 'sex=sexo')[1].tolist() == ['f']
    usual = rows._replace(meta=rows.meta.assign(sex='o'))
    assert find_values(usual, 'sex')[1].tolist() == ['o']


def test_a_pack_is_examined_by_its_shards_and_its_table(hospital, monkeypatch):
    monkeypatch.chdir(hospital)
    shell('doctor', 'befunde.xlsx', '--look', '0', '--write', 'repaired.csv')
    table = pd.read_csv('repaired.csv', dtype=str)
    (hospital/table.Bild[3]).write_text('no image')
    shell('pack', 'repaired.csv', 'packed', '--size', '16')
    printed = shell('doctor', 'packed')
    assert 'packed: pack, 23 rows' in printed and 'every checksum is right' in printed
    assert 'pack: 1 row of 24 without an image' in printed and 'image files:' not in printed.split('pack: 1 row')[1]
    command, = find_commands(printed)
    assert command == f'cxr-workbench fit supervised --data packed --labels {",".join(LABELS)}'
    shard = hospital/'packed'/'shard_00000.npy'
    *raw, last = shard.read_bytes()
    shard.write_bytes(bytes([*raw, last ^ 1]))
    assert 'wrong     pack: ' in shell('doctor', 'packed', status=1)
    assert 'leave --write out' in shell('doctor', 'packed', '--look', '0', '--write', 'x.csv', status=1)
    (hospital/'packed'/'table.csv').unlink()
    assert 'missing   table: the pack keeps no table' in shell('doctor', 'packed', '--look', '0', status=1)


def test_pack_says_who_finds_the_files_and_leaves_rows_out(hospital, monkeypatch):
    monkeypatch.chdir(hospital)
    said = shell('pack', 'befunde.xlsx', 'packed', status=1)
    assert '--root; `cxr-workbench doctor befunde.xlsx` finds where they lie' in said
    assert not (hospital/'packed').exists()
    make_table(path=[f'bilder/2023/{k:04d}.png' for k in range(N)]).to_csv('table.csv', index=False)
    refused = shell('pack', 'table.csv', 'packed', '--missing', 'error', status=1)
    assert '12 of 24 rows have no file' in refused and '--missing skip leaves them out' in refused
    assert '12 images in packed, 0 files could not be read' in shell('pack', 'table.csv', 'packed', '--missing', 'skip')
    assert '12 images in whole, 12 files could not be read' in shell('pack', 'table.csv', 'whole')


def find_checks(found, what): return [check for check in found.checks if check.what == what]


def test_a_patient_of_two_sexes_and_two_births_is_named(hospital):
    table = make_table(Geburtsdatum=[f'19{50 + k//2}-01-01' for k in range(N)])
    table.loc[1, 'Geschlecht'], table.loc[3, 'Geburtsdatum'], table.loc[5, 'Alter'] = 'W', '1999-01-01', 99
    table.loc[[6, 7], 'Geschlecht'] = '1'
    table.to_csv(hospital/'befunde.csv', index=False)
    found = examine(hospital/'befunde.csv', look=0)
    sexes, (births,), (ages,) = (find_checks(found, what) for what in ('sex', 'births', 'age'))
    assert sexes[0].examples == ['000 (female, male)'] and sexes[1].examples == ["'1' in 2 rows"]
    assert births.examples == ['001 (1951-01-01, 1999-01-01)'] and ages.examples == ['002 (42, 99)']
    assert not any(check.stops for check in [*sexes, births, ages])
    clean = make_table()
    clean.to_csv(hospital/'clean.csv', index=False)
    assert not any(find_checks(examine(hospital/'clean.csv', look=0), what) for what in ('sex', 'births', 'age'))


def write_dicom(path, patient, photometric='MONOCHROME2', view='PA', side=16):
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, generate_uid
    ds, meta = Dataset(), FileMetaDataset()
    meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = ExplicitVRLittleEndian, '1.2.840.10008.5.1.4.1.1.1'
    meta.MediaStorageSOPInstanceUID = generate_uid()
    ds.file_meta, ds.PatientID, ds.PhotometricInterpretation, ds.ViewPosition = meta, patient, photometric, view
    ds.Rows = ds.Columns = side
    ds.SamplesPerPixel, ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 1, 16, 12, 11, 0
    ds.PixelData = (np.arange(side*side) % 4096).astype(np.uint16).tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    ds.save_as(path, enforce_file_format=True)


def test_headers_tell_how_films_are_made_and_whose_they_are(tmp_path):
    for k in range(8):
        who = 'x' if k == 1 else f'h{k//2}' if k < 6 else 'h0'
        write_dicom(tmp_path/'bilder'/f'{k}.dcm', who, f'MONOCHROME{1 + k % 2}', side=16 + k)
    (tmp_path/'bilder'/'kopie.dcm').write_bytes((tmp_path/'bilder'/'0.dcm').read_bytes())
    pd.DataFrame({'Bild': [f'bilder/{k}.dcm' for k in range(8)], 'Patientennr.': [f'p{k//2}' for k in range(8)],
                  'Erguss': ['ja', 'nein']*4}).to_csv(tmp_path/'t.csv', index=False)
    found = examine(tmp_path/'t.csv')
    dicom, = find_checks(found, 'dicom')
    assert dicom.detail == ('8 of 8 files are DICOM: MONOCHROME1 4, MONOCHROME2 4; bits: 12 8; views: PA 8; '
                            'sides of 16 to 23 pixels; 0 compressed')
    told = [check for check in find_checks(found, 'patients') if 'header' in check.detail]
    assert [check.examples for check in told] == [['p0 (h0, x)'], ['h0 (p0, p3)']]
    further, = find_checks(found, 'further files')
    assert (further.count, further.examples) == (1, ['bilder/kopie.dcm'])
    assert not find_checks(examine(tmp_path/'t.csv', look=0), 'dicom')


def test_one_name_for_all_headers_is_no_contradiction(tmp_path):
    for k in range(4): write_dicom(tmp_path/f'{k}.dcm', 'ANONYMOUS')
    checks = check_headers([str(tmp_path/f'{k}.dcm') for k in range(4)], ['a', 'a', 'b', 'b'])
    assert [check.what for check in checks] == ['dicom']


def test_too_few_positives_are_said_before_training(hospital, monkeypatch):
    monkeypatch.chdir(hospital)
    shell('doctor', 'befunde.xlsx', '--look', '0', '--write', 'repaired.csv')
    found = examine('repaired.csv', look=0)
    few = find_checks(found, 'few positives')
    assert [check.detail.partition(':')[0] for check in few] == ['held out']
    fitted = shell('fit', 'supervised', '--data', 'repaired.csv', *SMALL, '--out', 'run')
    assert few[0].detail in fitted   # the parts of the doctor are those of training


@pytest.mark.parametrize('positives, said', [
    (4, 'held out: 40 images, labels with fewer than 5 positives: A 4'), (5, '')])
def test_few_is_fewer_than_five(positives, said):
    y = np.zeros((40, 1))
    y[:positives] = 1
    assert say_few(y, np.ones_like(y), ['A'], 'held out').startswith(said)
    assert bool(say_few(y, np.ones_like(y), ['A'], 'held out')) == bool(said)
    assert say_few(y, np.zeros_like(y), ['A'], 'held out')   # what is not known is no positive


def test_a_run_is_repeated_from_another_folder(hospital, monkeypatch):
    monkeypatch.chdir(hospital)
    shell('doctor', 'befunde.xlsx', '--look', '0', '--write', 'repaired.csv')
    shell('pack', 'repaired.csv', 'packed', '--size', '16')
    shell('fit', 'supervised', '--data', 'repaired.csv', '--packed', 'packed', *SMALL, '--out', 'runs/base')
    written = (hospital/'runs'/'base'/'fit.toml').read_text()
    assert f'packed = "{hospital/"packed"}"' in written and f'data = "{hospital/"repaired.csv"}"' in written
    other = hospital/'other'
    other.mkdir()
    monkeypatch.chdir(other)
    shell('fit', '--config', '../runs/base/fit.toml', '--out', 'again', '--no-progress')
    (hospital/'runs'/'base'/'fit.toml').write_text(written.replace(f'{hospital}/', ''))   # as it was written before
    shell('fit', '--config', '../runs/base/fit.toml', '--out', 'old', '--no-progress')
    one, two = ((other/name/'model.safetensors').read_bytes() for name in ('again', 'old'))
    assert one == two == (hospital/'runs'/'base'/'model.safetensors').read_bytes()
    (hospital/'packed').rename(hospital/'gone')
    refused = shell('fit', '--config', '../runs/base/fit.toml', '--out', 'x', status=1)
    assert 'names packed, which starts from the folder that the file was made in' in refused
    trained = shell('predict', 'old', hospital/'repaired.csv')
    assert 'note: ' in trained


def test_predict_says_what_it_was_trained_on(hospital, monkeypatch):
    monkeypatch.chdir(hospital)
    shell('doctor', 'befunde.xlsx', '--look', '0', '--write', 'repaired.csv')
    shell('fit', 'supervised', '--data', 'repaired.csv', *SMALL, '--out', 'run')
    train, held = opening.open_parts(opening.read_run_record('run'))
    said = f'{len(train)} of 24 files were trained on: such scores tell how well the run remembers'
    assert said in shell('predict', 'run', 'repaired.csv')
    assert '1 of 1 files were trained on' in shell('predict', 'run', train.paths[0])
    assert 'were trained on' not in shell('predict', 'run', held.paths[0])


def test_a_table_that_was_written_before_is_kept(hospital, monkeypatch):
    monkeypatch.chdir(hospital)
    write = ['doctor', 'befunde.xlsx', '--look', '0', '--write', 'repaired.csv']
    shell(*write)
    (hospital/'repaired.csv').write_text('mine')
    assert 'repaired.csv is there already: name another file, or with --force it becomes repaired.old1.csv' in shell(
        *write, status=1)
    shell(*write, '--force')
    assert (hospital/'repaired.old1.csv').read_text() == 'mine' and len(pd.read_csv('repaired.csv')) == N
    shell(*write, '--force')
    assert (hospital/'repaired.old2.csv').read_bytes() == (hospital/'repaired.csv').read_bytes()
    again = shell('doctor', 'repaired.csv', '--look', '0', '--write', 'repaired.csv', '--force', status=1)
    assert 'is the table that is examined' in again


def test_a_patient_in_two_groups_is_counted_openly(hospital, monkeypatch):
    monkeypatch.chdir(hospital)
    make = make_table(path=[f'bilder/{2023 + (k >= N//2)}/{k:04d}.png' for k in range(N)])
    make.to_csv('train.csv', index=False)
    shell('fit', 'supervised', '--data', 'train.csv', *SMALL, '--out', 'run')
    make.loc[1, 'Geschlecht'] = 'w'
    make.to_csv('train.csv', index=False)
    scored = shell('evaluate', 'run', '--data', 'train.csv', '--by', 'sex', '--n-boot', '5')
    assert 'groups by sex: 1 of 12 patients are in more than one group and count in each, and one of their' in scored


def write_export(folder):
    "A folder for each study, and a workbook with titles, a row of totals and a legend; one file is cut off."
    from openpyxl import Workbook
    book = Workbook()
    sheet = book.active
    sheet.append(['Befunde der Thoraxbilder'])
    sheet.append([])
    sheet.append(['Pat.-Nr.', 'Acc.-Nr.', 'Bild', 'Erguss', 'Stauung', 'Bemerkung'])
    for k in range(12):
        who, view = f'{k//2:05d}', 'LL' if k == 3 else 'PA'
        write_dicom(folder/'export'/who/f'RX{k}'/f'RX{k}_1.dcm', who, view=view, side=64)
        sheet.append([who, f'RX{k}', f'RX{k}_1', 'x' if k % 3 else None, ('ja', 'nein', 'unklar')[k % 3]])
    cut = folder/'export'/'00002'/'RX5'/'RX5_1.dcm'
    cut.write_bytes(cut.read_bytes()[:300])
    sheet.append(['Summe', None, None, 8])
    book.create_sheet('Legende').append(['x', 'Befund vorhanden'])
    book.save(folder/'befunde.xlsx')


def test_a_workbook_and_an_export_of_studies_become_a_table_that_trains(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_export(tmp_path)
    said = shell('doctor', 'befunde.xlsx', '--write', 'repaired.csv')
    assert "the sheet 'Sheet' is read, and not 'Legende'" in said
    assert "row 16 holds totals ('Summe') and is left out" in said and '6 patients with up to 2 images' in said
    assert '12 of 12 files not where the table says; they lie in 12 folders below export, with .dcm' in said
    assert "2 labels in words: 'x' is present, 'ja' is present, 'nein' is absent, 'unklar' is uncertain" in said
    assert "studies: 'Acc.-Nr.', by its name" in said and '1 of 12 images lateral, as their headers say: LL' in said
    assert '11 of 12 rows written to repaired.csv; left out: 1 row whose file cannot be read' in said
    table = pd.read_csv('repaired.csv', dtype=str)
    assert table['Pat.-Nr.'][0] == '00000' and (table.ViewPosition == 'LL').sum() == 1
    out = next(line for line in said.splitlines() if 'FRONTAL.csv' in line).split('views: ', 1)[1]
    _, *words = out.replace('REPAIRED', 'repaired').replace('FRONTAL', 'frontal').split()
    shell('doctor', *words)
    assert len(pd.read_csv('frontal.csv')) == 10


def test_a_table_of_examinations_gets_a_row_for_each_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_export(tmp_path)
    write_dicom(tmp_path/'export'/'00000'/'RX0'/'RX0_2.dcm', '00000', view='LL', side=64)
    pd.read_excel('befunde.xlsx', header=2, dtype=str).iloc[:12].drop(columns='Bild').to_csv('exams.csv', index=False)
    said = shell('doctor', 'exams.csv', '--write', 'repaired.csv')
    assert "'Acc.-Nr.' is told by the names of folders: 13 files of 12 rows, 1 of them with more than one" in said
    table = pd.read_csv('repaired.csv', dtype=str)
    assert len(table) == 12 and table.path[:2].tolist() == ['export/00000/RX0/RX0_1.dcm', 'export/00000/RX0/RX0_2.dcm']
    assert table.Stauung[:2].tolist() == ['ja', 'ja'] and table.ViewPosition[:2].tolist() == ['PA', 'LL']


def test_a_folder_without_a_table_says_what_names_its_findings(tmp_path):
    write_export(tmp_path)
    labels, = find_checks(examine(tmp_path/'export'), 'labels')
    assert labels.advice.endswith(f'names these files and their findings: doctor TABLE --root {tmp_path}/export')
    np.savez(tmp_path/'a.npz', images=np.zeros((4, 32, 32), np.uint8), labels=np.eye(4))
    who, = find_checks(examine(tmp_path/'a.npz', look=0), 'patients')
    assert who.advice.startswith('save them as the array patient_id; or')


def test_a_file_whose_decoder_is_missing_keeps_its_row(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_export(tmp_path)
    found = examine('befunde.xlsx')
    assert found.sample.lost == [5] and len(list_written(found)) == 11
    found.sample.unread[0] = 5, 'reading it needs another package (openjpeg): pip install "cxr-workbench[dicom]"'
    assert found.sample.lost == [] and len(list_written(found)) == 12


def test_labels_that_are_not_named_are_named_as_they_are_typed(hospital, monkeypatch):
    monkeypatch.chdir(hospital)
    make_table(path=[f'bilder/{2023 + (k >= N//2)}/{k:04d}.png' for k in range(N)]).to_csv('t.csv', index=False)
    said = shell('fit', 'supervised', '--data', 't.csv', '--size', '16', '--out', 'run', status=1)
    assert said.endswith('These look like labels: Erguss,Kardiomegalie\n')
    assert find_labels(make_table(), 'Erguss,Kardiomegalie') == LABELS


def test_groups_from_the_headers_where_the_table_is_silent(tmp_path):
    for k in range(8): write_dicom(tmp_path/f'{k}.dcm', f'h{k//2}', view=('PA', 'AP', '')[k % 3])
    table = pd.DataFrame({'path': [f'{k}.dcm' for k in range(8)], 'patient_id': [k//2 for k in range(8)],
                          'Edema': [0, 1]*4})
    data = from_dataframe(table, tmp_path, size=16)
    with pytest.warns(UserWarning, match='headers of the files tell ViewPosition$'):
        told = add_from_headers(data, ['view', 'sex', 'study'])
    assert told.meta['ViewPosition'].fillna('').tolist() == ['PA', 'AP', '']*2 + ['PA', 'AP']
    rows = Scored([], None, None, None, told.patient_id, told.label_names, told.meta)
    assert find_groups(rows, 'view')[1].tolist() == ['PA', 'AP', 'not given']*2 + ['PA', 'AP']
    for other in (from_dataframe(table.assign(Projektion='PA'), tmp_path, size=16), data.subset([2, 5])):
        assert add_from_headers(other, ['view']) is other and add_from_headers(other, ['view=path']) is other


def test_images_without_headers_tell_no_groups(tmp_path):
    Image.fromarray(np.zeros((16, 16), np.uint8)).save(tmp_path/'a.png')
    data = from_dataframe(pd.DataFrame(dict(path=['a.png'], patient_id=[1], Edema=[1])), tmp_path, size=16)
    assert add_from_headers(data, ['view']) is data


def test_the_patients_beside_an_npz_and_a_stream_are_recognised(tmp_path):
    from cxr_workbench.columns import read_people_table
    table = pd.DataFrame({'Patientennr.': ['007', '7', '8'], 'Edema': ['0', '1', '0']})
    table.to_csv(tmp_path/'t.csv', index=False)
    with pytest.warns(UserWarning, match="'Patientennr.' is taken for the patients"):
        frame, who = read_people_table(tmp_path/'t.csv')
    assert who == 'Patientennr.' and frame[who].tolist() == ['007', '7', '8']
    np.savez(tmp_path/'x.npz', images=np.zeros((3, 8, 8), np.uint8))
    with pytest.warns(UserWarning, match='is taken for the patients'):
        data = from_npz(tmp_path/'x.npz', tmp_path/'t.csv')
    assert data.patient_id.tolist() == ['007', '7', '8'] and [*data.lines] == [2, 3, 4]
    table.rename(columns={'Patientennr.': 'Patient comment'}).to_csv(tmp_path/'t.csv', index=False)
    with pytest.warns(UserWarning, match="'Patient comment'. may be them"):
        assert from_npz(tmp_path/'x.npz', tmp_path/'t.csv').patient_id is None


@pytest.mark.parametrize('name, degrees', [
    ('Patientennr.', (1, 1)), ('person id', (1, 1)), ('MRN', (1, 1)),
    ('Subject', (1, 1)), ('deid_patient_id', (1, 1)), ('Historia clínica', (1, 1)), ('pat-nr', (1, 1)),
    ('inpatient', (1, 0)), ('case', (1, 0)), ('Patient Age', (0, 0)),
    ('patient position', (0, 0)), ('image_id', (0, 0)), ('Edema', (0, 0))])
def test_a_name_of_patients_has_two_degrees(name, degrees):
    assert (is_patient_name(name), is_patient_name(name, sure=True)) == degrees
