"A small tree of every public collection in its true format, through doctor, pack, fit, evaluate and predict."
import json
from pathlib import Path
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from typer.testing import CliRunner
from cxr_workbench import catalogue, opening
from cxr_workbench.cli import app
from cxr_workbench.phantom import SyntheticCXR
from cxr_workbench.states import CHEXPERT, CXR_LT_2026, NIH14

N, SIDE = 16, 40   # images, and their side in pixels; two of each patient
PATIENT = np.arange(N)//2
PHANTOM = SyntheticCXR(N, size=SIDE, seed=3)
ONE = (np.arange(N)%3 == 0).astype(int)     # a label that a third of the images has
TWO = (np.arange(N)%4 < 2).astype(int)
VIEW = np.where(np.arange(N)%2 == 0, 'PA', 'AP')
SEX = np.where(PATIENT%2 == 0, 'F', 'M')
AGE = 30 + 5*PATIENT


def save(path, i, top=255):
    "The i-th image: JPEG or PNG of 8 bits, or PNG of 16 whose largest number is `top`."
    path.parent.mkdir(parents=True, exist_ok=True)
    image = PHANTOM.images[i]
    if top > 255: image = np.rint(image/255*top).astype(np.uint16)
    Image.fromarray(image).save(path)


def save_dicom(path, i, stored=12, inverted=False):
    "The i-th image as DICOM, uncompressed."
    pydicom = pytest.importorskip('pydicom')
    path.parent.mkdir(parents=True, exist_ok=True)
    allocated = 8 if stored == 8 else 16
    pixels = np.rint(PHANTOM.images[i]/255*(2**stored - 1)).astype(np.uint8 if stored == 8 else np.uint16)
    ds = pydicom.Dataset()
    ds.file_meta = pydicom.dataset.FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    ds.SOPClassUID, ds.SOPInstanceUID = '1.2.840.10008.5.1.4.1.1.1.1', f'1.2.{i}'
    ds.Rows = ds.Columns = SIDE
    ds.SamplesPerPixel, ds.PixelRepresentation = 1, 0
    ds.PhotometricInterpretation = 'MONOCHROME1' if inverted else 'MONOCHROME2'
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = allocated, stored, stored - 1
    ds.PixelData = (2**stored - 1 - pixels if inverted else pixels).tobytes()
    ds.save_as(path, enforce_file_format=True)


# ---- one tree a collection ----

def make_nih(root):
    names = [f'{patient + 1:08d}_{i%2:03d}.png' for i, patient in enumerate(PATIENT)]
    findings = np.select([ONE == 1, TWO == 1], ['Effusion', 'Mass|Edema'], 'No Finding')
    table = pd.DataFrame({
        'Image Index': names, 'Finding Labels': findings, 'Follow-up #': 0, 'Patient ID': PATIENT + 1,
        'Patient Age': AGE, 'Patient Gender': SEX, 'View Position': VIEW})
    table.to_csv(root/'Data_Entry_2017_v2020.csv', index=False)
    for i, name in enumerate(names): save(root/f'images_00{i%2 + 1}'/'images'/name, i)
    (root/'train_val_list.txt').write_text('\n'.join(names[:12]))
    (root/'test_list.txt').write_text('\n'.join(names[12:]))
    return table


def make_google(root):
    table = make_nih(root)
    answers = {name: np.where(ONE == 1, 'YES', 'NO') for name in ('Fracture', 'Pneumothorax', 'Nodule or mass')}
    table = table.assign(**answers, **{'Airspace opacity': np.where(TWO == 1, 'YES', 'NO')})
    table = table.assign(**{'Set Id': np.where(np.arange(N) < 8, 'val', 'test')})
    table.to_csv(root/'google2019_nih-chest-xray-labels.csv', index=False)


def make_rsna(root):
    rows = [(f'id-{i}', 1., 2., 3., 4., 1) for i in np.flatnonzero(ONE)]
    rows += [(f'id-{i}', None, None, None, None, 0) for i in np.flatnonzero(ONE == 0)]
    table = pd.DataFrame([*rows, rows[0]], columns=['patientId', 'x', 'y', 'width', 'height', 'Target'])
    table.to_csv(root/'stage_2_train_labels.csv', index=False)
    for i in range(N): save_dicom(root/'stage_2_train_images'/f'id-{i}.dcm', i, stored=8)


def states(**columns):
    "The fourteen observations, blank where nothing is said."
    return {**dict.fromkeys(CHEXPERT, np.nan), **columns}


def name_view(i): return f'patient{PATIENT[i] + 1:05d}/study1/view{i%2 + 1}_frontal'


def make_chexpert(root, name='CheXpert-v1.0-small'):
    files = [f'{name}/{"valid" if i >= 12 else "train"}/{name_view(i)}.jpg' for i in range(N)]
    table = pd.DataFrame({
        'Path': files, 'Sex': np.where(SEX == 'F', 'Female', 'Male'), 'Age': AGE, 'Frontal/Lateral': 'Frontal',
        'AP/PA': VIEW, **states(Edema=np.where(TWO == 1, 1., -1.), Cardiomegaly=ONE)})
    for i, file in enumerate(files): save(root/file, i)
    table[:12].to_csv(root/name/'train.csv', index=False)
    table[12:].to_csv(root/name/'valid.csv', index=False)


def make_chexpert_test(root):
    table = pd.DataFrame({'Path': [f'valid/{name_view(i)}.jpg' for i in range(N)], **dict.fromkeys(CHEXPERT, 0)})
    table.assign(Edema=ONE, Fracture=TWO).to_csv(root/'test_labels.csv', index=False)
    for i in range(N): save(root/'val'/f'{name_view(i)}.jpg', i)


def make_chexpert_plus(root, kind='png'):
    paths = [f'{"valid" if i >= 12 else "train"}/{name_view(i)}.jpg' for i in range(N)]
    table = pd.DataFrame({
        'path_to_image': paths, 'path_to_dcm': [path.replace('.jpg', '.dcm') for path in paths],
        'frontal_lateral': 'Frontal', 'ap_pa': VIEW, 'deid_patient_id': [f'patient{who}' for who in PATIENT],
        'patient_report_date_order': 1, 'report': 'no finding,\nin "two" lines', 'age': AGE,
        'sex': np.where(SEX == 'F', 'Female', 'Male'), 'split': [path.split('/')[0] for path in paths]})
    table.to_csv(root/'df_chexpert_plus_240401.csv', index=False)
    (root/'chexbert_labels').mkdir()
    for section, edema in (('impression', TWO), ('report', ONE), ('findings', ONE)):
        read = pd.DataFrame({'path_to_image': paths, **states(Edema=edema, Fracture=ONE)})
        read.to_json(root/'chexbert_labels'/f'{section}_fixed.json', orient='records', lines=True)
    for i, path in enumerate(paths):
        if kind == 'png': save(root/'PNG'/'PNG'/path.replace('.jpg', '.png'), i)
        else: save_dicom(root/'DICOM'/path.replace('.jpg', '.dcm'), i, inverted=i%2 == 1)


def make_brax(root):
    files = [f'images/id_{PATIENT[i]}/Study_{i}/Series_1/image-{i}.png' for i in range(N)]
    table = pd.DataFrame({
        'PngPath': files, 'PatientID': PATIENT, 'AccessionNumber': PATIENT, 'PatientSex': SEX,
        'PatientAge': [*map(str, AGE[:-1]), '85 or more'], 'ViewPosition': VIEW, 'Rows': 100, 'Columns': 90,
        'Manufacturer': np.where(TWO == 1, 'A', 'B'), **states(Edema=ONE, Fracture=np.where(TWO == 1, 1., 0.))})
    table.to_csv(root/'master_spreadsheet_update.csv', index=False)
    for i, file in enumerate(files): save(root/file, i)


SUBJECT, STUDY = 10000032 + PATIENT, 50000000 + PATIENT   # a study a patient, with both views
MIMIC_FILES = [f'files/p10/p{SUBJECT[i]}/s{STUDY[i]}/{i:08d}-aa.jpg' for i in range(N)]


def make_mimic(root):
    table = pd.DataFrame({
        'dicom_id': [f'{i:08d}-aa' for i in range(N)], 'subject_id': SUBJECT, 'study_id': STUDY,
        'PerformedProcedureStepDescription': 'CHEST', 'ViewPosition': VIEW, 'Rows': 10, 'StudyTime': 1234.5})
    table.to_csv(root/'mimic-cxr-2.0.0-metadata.csv.gz', index=False)
    parts = np.select([np.arange(N) < 8, np.arange(N) < 12], ['train', 'validate'], 'test')
    ids = table[['dicom_id', 'study_id', 'subject_id']]
    ids.assign(split=parts).to_csv(root/'mimic-cxr-2.0.0-split.csv', index=False)
    read = table[['subject_id', 'study_id']].assign(**states(Edema=PATIENT%2, Fracture=PATIENT%3 - 1))
    read.drop_duplicates('study_id').to_csv(root/'mimic-cxr-2.0.0-chexpert.csv.gz', index=False)
    for i, file in enumerate(MIMIC_FILES): save(root/file, i)
    return table


def make_cxr_lt_2023(root):
    table = make_mimic(root/'mimic').drop(columns=['Rows', 'StudyTime'])
    table = table.assign(path=MIMIC_FILES, Edema=ONE, Mass=TWO, **{'No Finding': 0})
    for part, rows in (('train', range(10)), ('development', range(10, 14)), ('test', range(14, N))):
        table.iloc[rows].to_csv(root/f'{part}.csv', index=False)


def make_cxr_lt_2024(root):
    table = make_mimic(root/'mimic').drop(columns=['Rows', 'StudyTime'])
    table = table.assign(fpath=MIMIC_FILES, study_id=[f's{study}' for study in STUDY])
    table = table.assign(Edema=ONE, Nodule=TWO, **{'Round(ed) Atelectasis': ONE})
    names = dict(train='train_labeled', development='development_labeled_task1', test='test_labeled_task1')
    for part, rows in (('train', range(10)), ('development', range(10, 14)), ('test', range(14, N))):
        table.iloc[rows].to_csv(root/f'{names[part]}.csv', index=False)


PADCHEST_NAMES = [f'{i}3535_fzis7b.png' for i in range(N)]


def make_padchest(root):
    bits = np.where(np.arange(N)%2 == 0, 12, 10)
    table = pd.DataFrame({
        'ImageID': PADCHEST_NAMES, 'ImageDir': np.arange(N)%3, 'StudyDate_DICOM': 20100101,
        'StudyID': [f'30757{7**40 + i//2}' for i in range(N)], 'PatientID': [f'2968{3**70 + i//2}' for i in range(N)],
        'PatientBirth': 2010. - AGE, 'PatientSex_DICOM': SEX,
        'Projection': np.where(VIEW == 'PA', 'PA', 'AP_horizontal'),
        'Manufacturer_DICOM': np.where(TWO == 1, 'A', 'B'), 'BitsStored_DICOM': bits, 'MethodLabel': 'Physician',
        'Labels': np.select([ONE == 1, TWO == 1], ["['nodule', '']", "[' pseudonodule']"], "['normal']")})
    table.to_csv(root/'PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv.gz', index=False)
    for i, name in enumerate(PADCHEST_NAMES): save(root/str(i%3)/name, i, top=2**int(bits[i]) - 1)


def make_cxr_lt_2026(root):
    make_padchest(root)
    table = pd.DataFrame({'ImageID': PADCHEST_NAMES, 'StudyDate_DICOM': 20100101, 'PatientID': '1.00E+38',
                          **dict.fromkeys(CXR_LT_2026, 0)}).assign(Nodule=ONE, Mass=TWO)
    table[:13].to_csv(root/'train.csv', index=False)   # patient 6 has an image in either part
    table[13:].to_csv(root/'test.csv', index=False)


def make_vindr(root):
    marks = [(f'{i:032x}', f'R{reader}', name_finding(i, reader)) for i in range(N) for reader in (1, 2, 3)]
    table = pd.DataFrame(marks, columns=['image_id', 'rad_id', 'class_name'])
    table.to_csv(root/'train.csv', index=False)
    for i in range(N): save_dicom(root/'train'/f'{i:032x}.dicom', i, stored=14, inverted=i%5 == 0)


def name_finding(image, reader): return 'Consolidation' if ONE[image] and reader < 3 else 'No finding'


def make_openi(root):
    (root/'ecgen-radiology').mkdir()
    for who in range(N//2):
        code = 'Cardiomegaly/mild' if who%2 else 'normal'
        images = ''.join(f'<parentImage id="CXR{who}_IM-{i}"/>' for i in range(2))
        text = f'<eCitation><uId id="CXR{who}"/><MeSH><major>{code}</major></MeSH>{images}</eCitation>'
        (root/'ecgen-radiology'/f'{who}.xml').write_text(text)
        for i in range(2): save(root/'NLMCXR_png'/f'CXR{who}_IM-{i}.png', 2*who + i)


LT_2023, LT_2024 = (f'--option year={year} --option images={{root}}/mimic' for year in (2023, 2024))
TREES = {   # name of the case -> collection, builder, options of every command, what `--by` can tell
    'nih14': ('nih14', make_nih, '', 'view sex age'),
    'nih14_google': ('nih14_google', make_google, '', 'view sex age'),
    'rsna': ('rsna', make_rsna, '', ''),
    'chexpert': ('chexpert', make_chexpert, '--option split=all', 'study view sex age'),
    'chexpert_test': ('chexpert_test', make_chexpert_test, '', 'study view'),
    'chexpert_plus': ('chexpert_plus', make_chexpert_plus, '', 'study view sex age'),
    'brax': ('brax', make_brax, '', 'study view sex age manufacturer'),
    'mimic_cxr': ('mimic_cxr', make_mimic, '', 'study view'),
    'padchest': ('padchest', make_padchest, '--option at_least=1', 'study view sex age manufacturer'),
    'cxr_lt_2023': ('cxr_lt', make_cxr_lt_2023, f'--option split=all {LT_2023}', 'study view'),
    'cxr_lt_2024': ('cxr_lt', make_cxr_lt_2024, f'--option split=all {LT_2024}', 'study view'),
    'cxr_lt_2026': ('cxr_lt', make_cxr_lt_2026, '', 'study view sex'),
    'vindr': ('vindr', make_vindr, '', ''),
    'openi': ('openi', make_openi, '--option at_least=1', 'study'),
}


def shell(*arguments, status=0):
    "What a command prints, both streams."
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exit_code == status, f'{arguments}\n{result.output}\n{result.exception!r}'
    return result.output


def build(case, root):
    "Build the tree of one case; its collection, the options of every command, and what `--by` can tell."
    name, make, options, by = TREES[case]
    root.mkdir()
    if name == 'cxr_lt' and case != 'cxr_lt_2026': (root/'mimic').mkdir()
    make(root)
    return name, options.format(root=root).split(), by.split()


SMALL = ('--preset', 'tiny', '--no-progress', '--device', 'cpu', '--epochs', 1, '--batch-size', 8)
ENDINGS = ('.png', '.jpg', '.dcm', '.dicom')


def list_images(root): return [path for path in sorted(root.rglob('*')) if path.suffix in ENDINGS]


@pytest.mark.parametrize('case', [*TREES])
@pytest.mark.filterwarnings('ignore')
def test_a_collection_goes_through_every_command(case, tmp_path):
    root, pack, run = tmp_path/'root', tmp_path/'pack', tmp_path/'run'
    name, options, by = build(case, root)
    each = ['--each-image-a-patient'] if name == 'vindr' else []
    printed = shell('doctor', name, root, *options, *each, '--look', 4)
    assert f'cxr-workbench fit supervised --data {name} --root {root}' in printed, printed
    count = 13 if case == 'cxr_lt_2026' else N
    packed = shell('pack', name, root, pack, '--size', 32, *options)
    assert f'{count} images in {pack}, 0 files could not be read' in packed, packed
    data = ('--data', name, '--root', root, *options)
    printed = shell('fit', 'supervised', *data, '--packed', pack, *each, *SMALL, '--out', run)
    assert '1 epoch, loss' in printed, printed
    assert ('--fold official trains on' in printed) == bool(catalogue.CATALOGUE[name].official)
    score = ('evaluate', run, *data, '--packed', pack, '--n-boot', 5)
    groups = [text for what in by if what != 'study' for text in ('--by', what)]
    printed = shell(*score, *groups)
    assert f'of {count} images were trained on' in printed
    pages = list(run.glob('report_*.html'))
    assert len(pages) == 1 and pages[0].read_text().count('<figure>') >= 2
    if groups:
        table = pd.read_csv(next(run.glob('*_groups.csv')))
        assert set(table['by']) == set(by) - {'study'}
        assert (table.drop_duplicates(['by', 'group']).groupby('by')['rows'].sum() == count).all()
    if 'study' in by: assert f' studies of {count} images' in shell(*score, '--by', 'study')
    files = list_images(root)[:2]
    assert '2 of 2 files scored' in shell('predict', run, *files, '--out', tmp_path/'scores.csv')


# ---- pixels ----

@pytest.mark.parametrize('case', ['chexpert', 'padchest', 'vindr', 'chexpert_plus'])
@pytest.mark.filterwarnings('ignore')
def test_a_pack_holds_the_pixels_of_the_files_wherever_it_was_made(case, tmp_path):
    name, options, _ = build(case, tmp_path/'root')
    shell('pack', name, tmp_path/'root', tmp_path/'pack', '--size', 32, *options)
    chosen = catalogue.parse_options(name, options[1::2])
    files = opening.open_data(name, root=tmp_path/'root', size=32, options=chosen)
    direct = files.batch(range(N)).x
    (tmp_path/'root').rename(tmp_path/'moved')
    packed = opening.open_data(name, root=tmp_path/'moved', packed=tmp_path/'pack', options=chosen)
    assert (packed.batch(range(N)).x - direct).abs().max() <= .51/255
    assert (packed.y == files.y).all()
    assert packed.reading == files.reading


def test_padchest_is_as_bright_with_10_bits_as_with_12(tmp_path):
    build('padchest', tmp_path/'root')
    x = opening.open_data('padchest', root=tmp_path/'root', size=SIDE, options=dict(at_least=1)).batch(range(N)).x
    truth = PHANTOM.images/255.
    low, high = (getattr(truth, end)(axis=(1, 2), keepdims=True) for end in ('min', 'max'))
    assert np.abs(x[:, 0].numpy() - (truth - low)/(high - low)).max() < 2/1023
    plain = opening.open_data('padchest', root=tmp_path/'root', size=SIDE, how=dict(stretch=False))
    assert plain.batch(range(N)).x.max() < 1/16   # what the largest number of 16 bits makes of it
    printed = shell('doctor', 'padchest', tmp_path/'root', '--look', 0)
    assert 'bits in use: 12 in 8 images, 10 in 8 images' in printed and '--stretch' in printed


@pytest.mark.filterwarnings('ignore')
def test_dicom_of_chexpert_plus_is_the_same_picture(tmp_path):
    for kind in ('png', 'dicom'):
        (tmp_path/kind).mkdir()
        make_chexpert_plus(tmp_path/kind, kind)
    first, second = (opening.open_data('chexpert_plus', root=tmp_path/kind, options=dict(kind=kind), size=32)
                     for kind in ('png', 'dicom'))
    assert (first.batch(range(N)).x - second.batch(range(N)).x).abs().max() < 1/255
    section = opening.open_data('chexpert_plus', root=tmp_path/'png', options=dict(section='report'), size=32)
    edema = CHEXPERT.index('Edema')
    assert first.y[:, edema].tolist() == TWO.tolist() and section.y[:, edema].tolist() == ONE.tolist()


# ---- official parts ----

def open_official(name, root, each_image=False, **options):
    "The parts that `fit --fold official` makes, and what was said."
    record = dict(data=dict(source=name, root=str(root), size=16, options=options), fold='official', fold_column=None)
    with pytest.warns(UserWarning) as said:
        import warnings
        warnings.warn('begin')
        train, held = opening.open_parts({**record, 'each_image': each_image})
    return train, held, ' '.join(str(warning.message) for warning in said)


@pytest.mark.parametrize('case, sizes, left_out', [
    ('nih14', (12, 4), 0), ('chexpert', (12, 4), 0), ('chexpert_plus', (12, 4), 0),
    ('nih14_google', (8, 8), 0), ('mimic_cxr', (8, 4), 4),
    ('cxr_lt_2023', (10, 4), 2), ('cxr_lt_2024', (10, 4), 2)])
def test_official_parts_share_no_patient(case, sizes, left_out, tmp_path):
    name, options, _ = build(case, tmp_path/'root')
    chosen = catalogue.parse_options(name, options[1::2])
    train, held, said = open_official(name, tmp_path/'root', **chosen)
    assert (len(train), len(held)) == sizes and not set(train.patient_id) & set(held.patient_id)
    assert (f'{left_out} of {N} images are not of' in said) == (left_out > 0)


def test_a_patient_in_both_official_parts_is_refused(tmp_path):
    build('cxr_lt_2026', tmp_path/'root')
    with pytest.raises(ValueError, match='1 patients are in more than one fold.*disjoint=true'):
        open_official('cxr_lt', tmp_path/'root')
    train, held, _ = open_official('cxr_lt', tmp_path/'root', disjoint=True)
    assert (len(train), len(held)) == (12, 3) and not set(train.patient_id) & set(held.patient_id)


def test_official_parts_without_patients_need_a_word(tmp_path):
    build('vindr', tmp_path/'root')
    wide = pd.DataFrame({'image_id': [f'{i:032x}' for i in range(4)], 'Consolidation': [0, 1, 0, 1]})
    wide = wide.assign(**dict.fromkeys(catalogue.LAYOUTS['vindr'].labels[5:], 0))
    wide.to_csv(tmp_path/'root'/'image_labels_test.csv', index=False)
    for i in range(4): save_dicom(tmp_path/'root'/'test'/f'{i:032x}.dicom', i)
    with pytest.raises(ValueError, match='with each_image=True'): open_official('vindr', tmp_path/'root')
    train, held, _ = open_official('vindr', tmp_path/'root', each_image=True)
    assert (len(train), len(held)) == (N, 4) and train.label_names == held.label_names
    assert held.y[:, held.label_names.index('Consolidation')].tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize('arguments, named', [
    (('brax',), 'brax has no official part to hold out'),
    (('padchest',), 'padchest has no official part to hold out'),
    (('chexpert', '--option', 'split=valid'), "--fold official holds out 'valid': leave split out of --option")])
def test_no_official_parts(arguments, named, tmp_path):
    build(arguments[0], tmp_path/'root')
    words = ('--root', tmp_path/'root', '--fold', 'official')
    assert named in shell('fit', 'supervised', '--data', *arguments, *words, status=1)


# ---- folders ----

FOLDERS = ['nih14', 'rsna', 'chexpert', 'chexpert_plus', 'brax', 'mimic_cxr', 'padchest', 'openi']


@pytest.mark.parametrize('case', FOLDERS)
@pytest.mark.filterwarnings('ignore')
def test_a_neighbour_of_the_folder_is_as_good_and_said(case, tmp_path):
    name, options, _ = build(case, tmp_path/'data')
    chosen = catalogue.parse_options(name, options[1::2])
    deeper = next(path for path in sorted((tmp_path/'data').iterdir()) if path.is_dir())
    def list_files(table): return [Path(path).resolve() for path in table.path]
    right = list_files(catalogue.collect(name, tmp_path/'data', chosen).table)
    for given in (tmp_path, deeper):
        table, _, checks = catalogue.collect(name, given, chosen)
        assert list_files(table) == right
        if case == 'chexpert' and given == deeper: continue   # either folder is one of CheXpert
        assert any(line[0].endswith('folder') and str(tmp_path/'data') in line[2] for line in checks), [*checks]


@pytest.mark.parametrize('case, folder', [
    ('nih14', 'images_001'), ('chexpert_plus', 'PNG'), ('mimic_cxr', 'files'), ('openi', 'NLMCXR_png'),
    ('rsna', 'stage_2_train_images')])
@pytest.mark.filterwarnings('ignore')
def test_images_in_one_folder_more_are_found_and_said(case, folder, tmp_path):
    name, options, _ = build(case, tmp_path/'data')
    (tmp_path/'data'/folder).rename(tmp_path/'data'/'moved')
    (tmp_path/'data'/folder).mkdir()
    (tmp_path/'data'/'moved').rename(tmp_path/'data'/folder/folder)
    table, _, checks = catalogue.collect(name, tmp_path/'data', catalogue.parse_options(name, options[1::2]))
    assert len(table) == N and table.path.map(lambda path: Path(path).is_file()).all()
    assert any(check == 'places' and 'are read there' in detail for check, _, detail, _ in checks), [*checks]


# ---- the record of a run ----

@pytest.mark.filterwarnings('ignore')
def test_a_run_knows_its_collection(tmp_path):
    name, _, _ = build('mimic_cxr', tmp_path/'root')
    run, options = tmp_path/'run', ('--option', 'split=train', '--option', 'views=frontal')
    shell('fit', 'supervised', '--data', name, '--root', tmp_path/'root', *options, '--size', 32, *SMALL, '--out', run)
    data = json.loads((run/'run.json').read_text())['data']
    assert data['options'] == {'split': 'train', 'views': 'frontal'}
    printed = shell('evaluate', run, '--data', name, '--option', 'split=test', '--n-boot', 5)
    assert 'scored: 4 images of 2 patients' in printed and 'rows of the training part: none' in printed
    assert 'trained on' in shell('evaluate', run, '--data', name, '--n-boot', 5)   # of the part that is recorded
    again = tmp_path/'again'
    shell('fit', '--config', run/'fit.toml', '--out', again, '--no-progress')
    assert (again/'model.safetensors').read_bytes() == (run/'model.safetensors').read_bytes()


def test_a_record_without_options_opens(tmp_path):
    "As versions wrote it that knew two collections by name."
    build('nih14', tmp_path/'root')
    data = dict(source='nih14', table=None, root=str(tmp_path/'root'), labels=None, path=None, patient=None, how={},
                uncertain='zeros', blank='negative', packed=None, size=32, missing='error', rows=2000)
    opening.write_run_record(tmp_path, dict(data=data, fold=0, fold_column=None, each_image=False))
    train, held = opening.open_parts(opening.read_run_record(tmp_path))
    assert len(train) + len(held) == N and train.label_names == NIH14


@pytest.mark.filterwarnings('ignore')
def test_labels_of_another_collection_are_found_by_the_vocabulary(tmp_path):
    build('nih14', tmp_path/'nih')
    build('chexpert', tmp_path/'chexpert')
    run = tmp_path/'run'
    shell('fit', 'supervised', '--data', 'nih14', '--root', tmp_path/'nih', '--size', 32, *SMALL, '--out', run)
    printed = shell('evaluate', run, '--data', 'chexpert', '--root', tmp_path/'chexpert', '--n-boot', 5)
    assert 'note: of other names: Effusion is Pleural Effusion' in printed
    assert 'note: without a counterpart, and not scored: Infiltration, Mass' in printed


# ---- the table of collections ----

@pytest.mark.parametrize('name', [*catalogue.CATALOGUE])
def test_the_catalogue_says_what_the_readers_take(name):
    import inspect
    from cxr_workbench import data
    entry = catalogue.CATALOGUE[name]
    wanted = inspect.signature(entry.collect).parameters
    opens = inspect.signature(getattr(data, name)).parameters
    choice = {'views', 'ages', 'one_per'}
    assert set(entry.options) - choice <= set(wanted) and entry.labels == ('labels' in wanted)
    assert set(entry.options) - choice <= set(opens) and entry.policy == ('policy' in opens)
    for key, option in entry.options.items():
        if key not in wanted: continue
        default = 'all' if key == 'split' and wanted[key].default is None else wanted[key].default
        assert option.default == default, key
        assert default in (*option.words, None) or not option.words, key
    further = {'root', 'labels', 'files', 'choice', 'tables', 'padchest'}
    assert {key for key, each in wanted.items() if key not in entry.options} <= further


def test_a_collection_is_read_as_it_needs_whatever_the_run_was_trained_on(tmp_path):
    "A model of files of 8 bits meets PadChest; what a user gives goes before both."
    from cxr_workbench.learner import find_model, load
    build('padchest', tmp_path/'root')
    model, given = load(find_model('supervised')), dict(root=tmp_path/'root', options=dict(at_least=1))
    def read(**how):
        found, _ = opening.complete_description(model, None, 'padchest', {'Edema': 'nodule'}, how=how or None, **given)
        return found['how']
    assert read()['stretch'] is True and read(bits=12).get('stretch') in (None, False) and read(bits=12)['bits'] == 12
