"Whole label tables of public collections: what the readers count is what their makers count."
import ast, shutil
import numpy as np
import pandas as pd
import pytest
from cxr_workbench.catalogue import get_official
from cxr_workbench.chexpert_sets import collect_chexpert
from cxr_workbench.filters import count_mixed, keep_views
from cxr_workbench.nih_sets import collect_nih14, collect_nih14_google, collect_rsna, nih14_boxes
from cxr_workbench.padchest_sets import collect_padchest, count_findings, parse_column
from cxr_workbench.states import CHEXPERT
from cxr_workbench.tables import Checks
from cxr_workbench.vindr_sets import AGREEMENT, collect_openi, collect_vindr
from cxr_workbench.vocabulary import NAMES


def numbers(collected):
    "What was counted: what -> (found, official)."
    return {what: (found, official) for what, found, official in collected.checks.counts}


def are_official(collected):
    "Whether every number is the official one, and there is one."
    pairs = numbers(collected).values()
    return len(pairs) > 0 and all(found == official for found, official in pairs)


# ---- ChestX-ray14 ----

def test_nih14(label_tables):
    rows = collect_nih14(label_tables, files=False)
    assert are_official(rows) and numbers(rows)['images'][0] == 112_120
    assert rows.table.view.value_counts().to_dict() == {'PA': 67_310, 'AP': 44_810}
    assert rows.table.age.max() == 95 and rows.table.sex.value_counts().to_dict() == {'M': 63_340, 'F': 48_780}
    assert rows.table.Infiltration.sum() == 19_894 and rows.table.Hernia.sum() == 227
    one = collect_nih14(label_tables, files=False, one_per='patient')
    assert len(one.table) == 30_805 and one.checks.filters[-1][1:3] == (112_120, 30_805)


def test_nih14_boxes(label_tables):
    boxes = nih14_boxes(label_tables)
    assert len(boxes) == 984 and boxes['name'].nunique() == 880
    right = dict(Atelectasis=180, Effusion=153, Cardiomegaly=146, Infiltration=123, Pneumonia=120, Pneumothorax=98,
                 Mass=85, Nodule=79)
    assert boxes.label.value_counts().to_dict() == right and (boxes.x + boxes.width <= 1025).all()


def test_second_reading(label_tables):
    rows = collect_nih14_google(label_tables, files=False)
    assert are_official(rows) and set(numbers(rows)) == {'images', 'patients'}
    positives = rows.table[rows.labels].sum().tolist()
    assert rows.labels == ['Fracture', 'Pneumothorax', 'Airspace opacity', 'Nodule or mass']
    assert positives == [186, 238, 2_166, 605] and not rows.table[rows.labels].isna().any(axis=None)
    for part in ('val', 'test'): assert are_official(collect_nih14_google(label_tables, part, files=False))


def test_rsna(label_tables):
    rows = collect_rsna(label_tables, files=False)
    assert are_official(rows) and set(numbers(rows)) == {'boxes and rows without one', 'images', 'Pneumonia'}
    assert rows.table.boxes.sum() == 30_227 - (26_684 - 6_012)
    assert ((rows.table.boxes > 0) == (rows.table.Pneumonia == 1)).all()


# ---- CheXpert ----

@pytest.fixture(scope='module')
def chexpert(label_tables, tmp_path_factory):
    "CheXpert's table of training, in the folder that it belongs to."
    root = tmp_path_factory.mktemp('chexpert')
    (root/'CheXpert-v1.0-small').mkdir()
    shutil.copy(label_tables/'chexpert_train.csv.gz', root/'CheXpert-v1.0-small'/'train.csv.gz')
    return root


def as_a_loader_does(table):
    "The labels of `groupby().first()`, and of the first image of each patient, after the same further rules."
    groups = table.groupby('patient_id', sort=False)
    for states in (groups[CHEXPERT].first(), table.drop_duplicates('patient_id')[CHEXPERT]):
        states = states.reset_index(drop=True).replace(-1, np.nan)
        others = [label for label in CHEXPERT if label not in ('No Finding', 'Support Devices')]
        states.loc[states['No Finding'] == 1, others] = 0
        yield states


def count_changes(mixed, own):
    "Rows whose labels differ; positives added and lost, *No Finding* not counted."
    same = (mixed == own) | (mixed.isna() & own.isna())
    present, right = ((states == 1).drop(columns='No Finding') for states in (mixed, own))
    added, lost = (present & ~right).sum(axis=None), (right & ~present).sum(axis=None)
    return (~same).any(axis=1).sum(), added, lost


def test_chexpert(chexpert):
    rows = collect_chexpert(chexpert, files=False)
    assert are_official(rows) and set(numbers(rows)) == {'images of train', 'patients of train', 'studies of train'}
    views = rows.table.view.value_counts().to_dict()
    assert views == {'AP': 161_590, 'lateral': 32_387, 'PA': 29_420, 'other': 17}
    states = rows.table[CHEXPERT]
    assert states.isna().all(axis=1).sum() == 12 and not (states['No Finding'] == 0).any()
    assert (states == 1).sum()[['Edema', 'Pleural Effusion']].tolist() == [52_246, 86_187]
    assert (states == -1).sum()[['Consolidation', 'Atelectasis']].tolist() == [27_742, 33_739]
    assert (rows.table.age == 0).sum() == 3 and (rows.table.sex == '').sum() == 1

    # one image a patient: each row keeps the labels of its own image, and a common line of code does not
    frontal = keep_views(rows.table, ('PA', 'AP'), Checks())
    assert count_mixed(frontal, CHEXPERT) == dict(rows=64_534, mixed=28_091, added=51_108, lost=0)
    assert count_changes(*as_a_loader_does(frontal)) == (24_844, 39_015, 6_066)
    one = collect_chexpert(chexpert, files=False, views=('PA', 'AP'), one_per='patient')
    own = rows.table.set_index('name').loc[one.table['name'], CHEXPERT]
    assert len(one.table) == 64_534 and np.array_equal(one.table[CHEXPERT], own, equal_nan=True)
    assert [line[1:3] for line in one.checks.filters] == [(223_414, 191_010), (191_010, 64_534)]


# ---- PadChest ----

@pytest.fixture(scope='module')
def padchest(label_tables):
    return collect_padchest(label_tables, at_least=1, files=False)


def test_padchest(padchest):
    assert are_official(padchest) and set(numbers(padchest)) == {'images', 'patients', 'studies'}
    filters = {line[0]: line[1] - line[2] for line in padchest.checks.filters}
    assert filters == {'labels': 103, 'not exclude': 1_312, 'not suboptimal study': 1_839}
    assert len(padchest.labels) == 193 - 3 and padchest.labels[0] == 'normal'
    assert padchest.table.patient_id.str.len().min() > 30 and not padchest.table[padchest.labels].isna().any(axis=None)


def test_the_columns_of_padchest(label_tables):
    file = label_tables/'PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv.gz'
    names = ['Projection', 'BitsStored_DICOM', 'MethodLabel', 'Labels', 'PatientBirth', 'PatientSex_DICOM']
    table = pd.read_csv(file, usecols=names, keep_default_na=False, dtype=str)
    counts = {name: table[name].value_counts().to_dict() for name in names}
    views = dict(PA=91_728, L=49_579, AP_horizontal=14_346, AP=4_559, COSTAL=630, EXCLUDE=11, UNK=8)
    assert counts['Projection'] == views
    assert counts['BitsStored_DICOM'] == {'12': 144_051, '10': 16_810}
    assert counts['MethodLabel'] == dict(Physician=39_053, RNN_model=121_808)
    assert (table.PatientBirth == '').sum() == 6 and counts['PatientSex_DICOM']['O'] == 18
    spelled = {}
    for text, rows in counts['Labels'].items():
        for name in ast.literal_eval(text) if text != 'nan' else (): spelled[name] = spelled.get(name, 0) + rows
    assert counts['Labels']['nan'] == 103 and len(spelled) == 350
    assert len({name.strip().lower() for name in spelled} - {''}) == 193
    assert sum(rows for name, rows in spelled.items() if name != name.strip()) == 41_824
    assert sum(rows for name, rows in spelled.items() if not name.strip()) == 3_041


def test_headers_beside_rsna_and_readers_of_vindr(label_tables):
    headers = pd.read_csv(label_tables/'kaggle_stage_2_train_images_dicom_headers.csv.gz')
    assert len(headers) == headers.PatientID.nunique() == 26_684
    assert headers.ViewPosition.value_counts().to_dict() == dict(PA=14_511, AP=12_173)
    boxes = pd.read_csv(label_tables/'vinbigdata-train.csv.gz')
    assert len(boxes) == 67_914 and set(boxes.groupby('image_id').rad_id.nunique()) == {3}


def test_official_parts_of_the_second_reading_share_no_patient(label_tables):
    parts = {part: collect_nih14_google(label_tables, part, files=False).table for part in get_official('nih14_google')}
    assert {part: len(table) for part, table in parts.items()} == dict(val=2_414, test=1_962)
    patients = [set(table.patient_id) for table in parts.values()]
    assert [*map(len, patients)] == [835, 860] and not patients[0] & patients[1]


def test_a_finding_is_no_word_in_a_text(label_tables):
    "Images that a search for a word takes in, and that do not have the finding."
    file = label_tables/'PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv.gz'
    column = pd.read_csv(file, usecols=['Labels'], keep_default_na=False).Labels
    findings, text = parse_column(column), column.str.lower()
    counts = count_findings(findings)
    assert len(counts) == 190 and counts['nodule'] == 3_748 and counts['pseudonodule'] == 2_241
    right = {('nodule', 'pseudonodule'): 2_163, ('tuberculosis', 'tuberculosis sequelae'): 1_005,
             ('emphysema', 'subcutaneous emphysema'): 206, ('fracture', 'callus rib fracture'): 2_966}
    for (word, other), count in right.items():
        searched = text.str.contains(word)
        wrong = [some is not None and word not in some and other in some for some in findings]
        assert (searched & np.array(wrong)).sum() == count


# ---- VinDr-CXR and OpenI ----

def test_vindr(label_tables):
    by = {rule: collect_vindr(label_tables, readers=rule, files=False) for rule in AGREEMENT}
    assert all(map(are_official, by.values()))
    assert numbers(by['any']) == {'readers of train': (17, 17), 'images of train': (15_000, 15_000)}
    right = {'Consolidation': (353, 121, 31), 'Atelectasis': (186, 62, 18), 'Nodule/Mass': (826, 405, 181),
             'Cardiomegaly': (2_300, 1_817, 1_297), 'No finding': (10_606, 10_606, 10_606)}
    for label, counts in right.items():
        assert tuple((by[rule].table[label] == 1).sum() for rule in ('any', 'majority', 'all')) == counts
    share = by['share'].table
    assert (by['share'].table.readers == 3).all()
    assert ((share.Consolidation == 1).sum(), (share.Consolidation == -1).sum()) == (31, 353 - 31)
    assert np.isclose(share['share of Consolidation'].sum()*3, 353 + 121 + 31)


def test_openi(label_tables):
    rows = collect_openi(label_tables, files=False)
    assert are_official(rows) and set(numbers(rows)) == {'reports', 'images', 'patients'}
    per_report = rows.table.drop_duplicates('study_id')
    assert rows.labels[:3] == ['normal', 'lung', 'opacity'] and per_report.opacity.sum() <= 455
    headers = pd.read_csv(label_tables/'nlmcxr_dicom_metadata.csv.gz', usecols=['imageid', 'Patient ID'])
    patients = headers.groupby('Patient ID').imageid.agg(lambda names: names.str.split('_').str[0].nunique())
    assert len(patients) == 3_851 and (patients == 1).all()


# ---- names ----

def test_every_name_of_the_vocabulary_is_in_its_table(padchest, label_tables):
    assert set(NAMES['padchest'].values()) <= set(padchest.labels)
    coded = collect_openi(label_tables, at_least=1, files=False)
    assert set(NAMES['openi'].values()) <= set(coded.labels)
    vindr = collect_vindr(label_tables, files=False)
    assert set(NAMES['vindr'].values()) <= set(vindr.labels)
