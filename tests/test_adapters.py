"Public collections in small trees of their true layout and format: which image, which labels, which rows went."
import json
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from cxr_workbench.chexpert_sets import decode_mask, parse_runs, read_masks
from cxr_workbench.data import brax, chexpert, chexpert_test, cxr_lt, mimic_cxr, nih14, nih14_google, openi, padchest
from cxr_workbench.data import rsna, vindr
from cxr_workbench.files import pack
from cxr_workbench.filters import choose_rows, count_mixed, keep_one, keep_views
from cxr_workbench.labels import CHEXPERT, CXR_LT_2026, NIH14, LabelPolicy
from cxr_workbench.layouts import LAYOUTS, compare_counts, name_columns, parse_ages, parse_views, place_files
from cxr_workbench.padchest_sets import parse_findings, spread_findings
from cxr_workbench.tables import Checks
from cxr_workbench.vindr_sets import agree, count_readers
from cxr_workbench.vocabulary import CONCEPTS, NAMES, find_counterparts, find_synonyms, list_unmatched, match_labels
from cxr_workbench.vocabulary import relabel, unite_states


def grey(path, level, bits=8):
    "A grey square: JPEG or PNG, of 8 or 16 bits."
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((16, 16), level, np.uint8 if bits == 8 else np.uint16)).save(path)


def dicom(path, level):
    "A grey square of 12 bits as DICOM."
    pydicom = pytest.importorskip('pydicom')
    path.parent.mkdir(parents=True, exist_ok=True)
    ds = pydicom.Dataset()
    ds.file_meta = pydicom.dataset.FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    ds.SOPClassUID, ds.SOPInstanceUID = '1.2.840.10008.5.1.4.1.1.1.1', '1.2.3'
    ds.Rows = ds.Columns = 16
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PixelRepresentation = 1, 'MONOCHROME2', 0
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, 12, 11
    pixels = np.full((16, 16), 0, np.uint16)
    pixels[:, 8:] = level
    ds.PixelData = pixels.tobytes()
    ds.save_as(path, enforce_file_format=True)


def levels(data):
    "The mean grey level of each image, in 0..255."
    x = data.batch(range(len(data))).x
    return (x.mean(dim=(1, 2, 3))*255).round().int().tolist()


# ---- ChestX-ray14 and RSNA ----

@pytest.fixture
def nih(tmp_path):
    "Six images in two shards: patients 1, 1, 1, 2, 2, 3."
    patients, numbers = [1, 1, 1, 2, 2, 3], [0, 1, 2, 0, 1, 0]
    names = [f'{patient:08d}_{number:03d}.png' for patient, number in zip(patients, numbers)]
    table = pd.DataFrame({
        'Image Index': names,
        'Finding Labels': ['No Finding', 'Effusion', 'Mass', 'Hernia', 'Edema', 'Edema'],
        'Patient ID': patients,
        'Patient Age': ['017Y', 18, 19, 60, 61, 412],
        'Patient Sex': list('FFFMMM'),
        'View Position': ['AP', 'PA', 'PA', 'PA', 'AP', 'PA'],
    })
    table.to_csv(tmp_path/'Data_Entry_2017_v2020.csv', index=False)
    for i, name in enumerate(names): grey(tmp_path/f'images_00{i%2 + 1}'/'images'/name, 20*i)
    (tmp_path/'train_val_list.txt').write_text('\n'.join(names[:5]))
    (tmp_path/'test_list.txt').write_text(names[5])
    return tmp_path


def test_each_row_keeps_its_image_and_its_labels(nih):
    data = nih14(nih, 'train_val', size=8, views='PA', one_per='patient')
    assert levels(data) == [20, 60] and data.patient_id.tolist() == [1, 2]
    assert [NIH14[c] for _, c in data.y.nonzero().tolist()] == ['Effusion', 'Hernia']
    filters = [['split train_val', 6, 5], ['PA views', 5, 3], ['one image per patient', 3, 2]]
    assert data.filters.values[:, :3].tolist() == filters
    assert data.counts.official.tolist() == [112_120, 30_805] and data.counts.found.tolist() == [6, 3]
    assert nih14(nih, size=8, ages=(18, 100)).meta.age.tolist() == [18, 19, 60, 61]
    everything = nih14(nih, size=8)
    assert not len(everything.filters) and everything.subset([0, 1]).counts.found[0] == 6
    with pytest.raises(ValueError, match="'frontal'"): nih14(nih, views='sagittal')
    with pytest.raises(ValueError, match='study_id'): nih14(nih, one_per='study')


def test_a_lost_file_is_counted(nih):
    (nih/'images_001'/'images'/'00000001_000.png').unlink()
    with pytest.raises(FileNotFoundError, match='1 of 6'): nih14(nih, size=8)
    with pytest.warns(UserWarning, match='1 of 6'): data = nih14(nih, size=8, missing='skip')
    assert data.filters.values.tolist() == [['image files', 6, 5, 'have no file']]


def test_second_reading(nih):
    table, file = pd.read_csv(nih/'Data_Entry_2017_v2020.csv'), nih/'google2019_nih-chest-xray-labels.csv'
    answers = {name: ['NO', 'YES', 'no', 'Yes', 'NO', 'NO'] for name in LAYOUTS['nih14_google'].labels}
    table.assign(**answers, **{'Set Id': ['val', 'test']*3}).to_csv(file, index=False)
    data = nih14_google(nih, 'test', size=8)
    assert levels(data) == [20, 60, 100] and data.y[:, 0].tolist() == [1, 1, 0]
    answers['Fracture'] = 'maybe'
    table.assign(**answers, **{'Set Id': 'val'}).to_csv(file, index=False)
    with pytest.raises(ValueError, match='maybe'): nih14_google(nih)


def test_boxes_of_an_image_are_one_row(tmp_path):
    rows = [('a', None, 0), ('b', 1., 1), ('b', 2., 1)]
    table = pd.DataFrame([(name, x, x, x, x, target) for name, x, target in rows],
                         columns=['patientId', 'x', 'y', 'width', 'height', 'Target'])
    table.to_csv(tmp_path/'stage_2_train_labels.csv', index=False)
    for i, name in enumerate('ab'): dicom(tmp_path/'stage_2_train_images'/f'{name}.dcm', 2000 + 2000*i)
    data = rsna(tmp_path, size=8)
    assert data.y.tolist() == [[0], [1]] and data.meta.boxes.tolist() == [0, 2]
    assert data.label_names == ['Pneumonia'] and data.patient_id.tolist() == ['a', 'b'] and data[1].x.max() > .9
    table.assign(Target=[0, 1, 0]).to_csv(tmp_path/'stage_2_train_labels.csv', index=False)
    with pytest.raises(ValueError, match='both targets: b'): rsna(tmp_path)


# ---- CheXpert ----

def make_chexpert(root, part='train'):
    "Patient 1 has two studies, the first with a lateral view; patient 2 one image that contradicts itself."
    where = ['1/study1/view1_frontal', '1/study1/view2_lateral', '1/study2/view1_frontal', '2/study1/view1_frontal']
    files = [f'CheXpert-v1.0-small/{part}/patient0000{name}.jpg' for name in where]
    states = {'Edema': [1, 1, None, 0], 'Fracture': [None, None, 1, -1]}
    table = pd.DataFrame({
        'Path': files,
        'Sex': ['Female']*3 + ['Unknown'],
        'Age': [90, 90, 90, 0],
        'Frontal/Lateral': ['Frontal', 'Lateral', 'Frontal', 'Frontal'],
        'AP/PA': ['AP', None, 'PA', 'LL'],
        **dict.fromkeys(CHEXPERT, np.nan),
    }).assign(**states)
    table.loc[3, 'No Finding'] = 1
    for i, file in enumerate(files): grey(root/file, 40*i)
    table.to_csv(root/'CheXpert-v1.0-small'/f'{part}.csv.gz', index=False)
    return table


def test_chexpert_keeps_four_states_and_its_own_rows(tmp_path):
    table = make_chexpert(tmp_path)
    data = chexpert(tmp_path, size=8, policy=LabelPolicy('ignore', 'unknown'))
    assert data.meta.view.tolist() == ['AP', 'lateral', 'PA', 'other']
    assert data.meta.sex.tolist() == ['F']*3 + ['']
    assert int(data.known.sum()) == 3 + 1 + 1 and data.meta.study_id.nunique() == 3
    one = chexpert(tmp_path, size=8, views=('PA', 'AP'), one_per='patient')
    assert one.y[0, CHEXPERT.index('Edema')] == 1 and one.y[0, CHEXPERT.index('Fracture')] == 0
    frontal = table.assign(patient_id=['1', '1', '1', '2'])[table['AP/PA'].isin(['AP', 'PA'])]
    assert count_mixed(frontal, CHEXPERT) == dict(rows=1, mixed=1, added=1, lost=0)
    assert len(chexpert(tmp_path, size=8, one_per='study')) == 3
    assert len(chexpert(tmp_path, size=8, one_per='view')) == 4
    packed = pack(data.paths, tmp_path/'pack', size=8)
    assert torch.equal(chexpert(tmp_path, packed=packed).batch([1, 3]).x, packed_pixels(packed, [1, 3]))


def packed_pixels(packed, rows): return torch.from_numpy(packed[np.array(rows)]).float()[:, None]/255


def test_the_test_set_says_valid_and_lies_in_val(tmp_path):
    names = ['patient64622/study1/view1_frontal.jpg', 'patient64622/study1/view2_lateral.jpg']
    table = pd.DataFrame({'Path': [f'CheXpert-v1.0/valid/{name}' for name in names], **dict.fromkeys(CHEXPERT, 0)})
    table.assign(Edema=[1, 1]).to_csv(tmp_path/'test_labels.csv', index=False)
    for i, name in enumerate(names): grey(tmp_path/'val'/name, 50*i)
    data = chexpert_test(tmp_path, size=8)
    assert levels(data) == [0, 50] and data.known.all() and data.patient_id.tolist() == ['patient64622']*2
    assert chexpert_test(tmp_path, size=8, views='frontal').meta.view.tolist() == ['frontal']
    masks = {'patient64622_study1_view1_frontal': {'Airspace Opacity': dict(size=[3, 2], counts='123')}}
    (tmp_path/'gt.json').write_text(json.dumps(masks))
    found = read_masks(tmp_path/'gt.json', data.paths[0])
    assert found['Lung Opacity'].tolist() == [[False, False], [True, False], [True, False]]
    with pytest.raises(KeyError, match='view2'): read_masks(tmp_path/'gt.json', data.paths[1])


def write_runs(runs):
    "Run lengths as COCO writes them, by its definition."
    text = ''
    for k, run in enumerate(runs):
        number, more = run - (runs[k - 2] if k > 2 else 0), True
        while more:
            digit, number = number & 31, number >> 5
            more = number != (-1 if digit & 16 else 0)
            text += chr(48 + (digit | 32 if more else digit))
    return text


@pytest.mark.parametrize('seed', range(5))
def test_masks_come_back(seed):
    mask = np.random.default_rng(seed).random((37, 29)) < (.02, .1, .5, .9, .995)[seed]
    flat = mask.T.ravel()
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flat, [not flat[-1]]])))
    runs = np.diff(edges, prepend=0).tolist()
    assert parse_runs(write_runs(runs)) == runs
    assert np.array_equal(decode_mask(dict(size=[37, 29], counts=write_runs(runs))), mask)


@pytest.mark.parametrize('counts', ['1', 'P', [5], [-1, 5]], ids=['short', 'cut off', 'too many', 'negative'])
def test_masks_that_are_none(counts):
    with pytest.raises(ValueError): decode_mask(dict(size=[2, 2], counts=counts))


def test_brax(tmp_path):
    files = [f'images/id_{i}/Study_{i}/Series_1/image-{i}.png' for i in range(3)]
    table = pd.DataFrame({'PngPath': files, 'PatientID': [5, 5, 6], 'AccessionNumber': [1, 2, 3],
                          'ViewPosition': ['PA', 'L', None], 'PatientSex': list('FFM'), 'Rows': [100, 100, 10],
                          'PatientAge': ['45', '45', '85 or more'], 'Columns': [100, 90, 190],
                          **dict.fromkeys(CHEXPERT, np.nan)})
    table.to_csv(tmp_path/'master_spreadsheet_update.csv', index=False)
    for i, file in enumerate(files): grey(tmp_path/file, 60*i)
    data = brax(tmp_path, size=8)
    assert levels(data) == [0, 60] and data.filters.values[0, :3].tolist() == ['whole images', 3, 2]
    assert data.meta.view.tolist() == ['PA', 'lateral'] and data.meta.age.tolist() == [45, 45]


# ---- MIMIC-CXR and CXR-LT 2024 ----

@pytest.fixture
def mimic(tmp_path):
    "Four images: two of study 50, one of study 51 without labels, one of the test part."
    table = pd.DataFrame({
        'dicom_id': ['aa-1', 'bb-2', 'cc-3', 'dd-4'],
        'subject_id': [10000032, 10000032, 10000032, 18000001],
        'study_id': [50, 50, 51, 52],
        'ViewPosition': ['PA', 'LATERAL', 'AP', 'AP'],
    })
    table.to_csv(tmp_path/'mimic-cxr-2.0.0-metadata.csv.gz', index=False)
    split = table[['dicom_id', 'study_id', 'subject_id']].assign(split=['train']*3 + ['test'])
    split[::-1].to_csv(tmp_path/'mimic-cxr-2.0.0-split.csv.gz', index=False)
    blank = dict.fromkeys(sorted(CHEXPERT), np.nan)
    observed = pd.DataFrame({'subject_id': [10000032, 18000001], 'study_id': [50, 52], **blank})
    observed.assign(Edema=[1, -1]).to_csv(tmp_path/'mimic-cxr-2.0.0-chexpert.csv.gz', index=False)
    read = pd.DataFrame({'study_id': [52], **dict.fromkeys(CHEXPERT, 0)})
    read = read.rename(columns={'Lung Opacity': 'Airspace Opacity'})
    read.assign(**{'Airspace Opacity': 1}).to_csv(tmp_path/'mimic-cxr-2.1.0-test-set-labeled.csv', index=False)
    for i, row in enumerate(table.itertuples()):
        patient, study = f'p{row.subject_id}', f's{row.study_id}'
        grey(tmp_path/'files'/patient[:3]/patient/study/f'{row.dicom_id}.jpg', 30*i)
    return tmp_path


def test_mimic_joins_three_tables(mimic):
    data = mimic_cxr(mimic, policy=LabelPolicy('ignore', 'unknown'), size=8)
    assert levels(data) == [0, 30, 90] and data.label_names == CHEXPERT
    assert data.known.sum(1).tolist() == [1, 1, 0] and data.meta.split.tolist() == ['train', 'train', 'test']
    assert data.filters.values[0, :3].tolist() == ['labelled studies', 4, 3]
    train = mimic_cxr(mimic, 'train', size=8, views='frontal')
    assert levels(train) == [0] and train.counts['count'].tolist()[-1] == 'images of train'
    with pytest.raises(FileNotFoundError, match="'valid'"): mimic_cxr(mimic, 'valid')


def test_a_radiologist_read_the_test_part(mimic):
    data = mimic_cxr(mimic, 'test', 'radiologist', size=8)
    assert [CHEXPERT[c] for _, c in data.y.nonzero().tolist()] == ['Lung Opacity'] and data.known.all()
    assert data.counts.values[0].tolist() == ['studies of radiologist', 1, 687]
    (mimic/'mimic-cxr-2.0.0-split.csv.gz').unlink()
    with pytest.raises(FileNotFoundError, match='split'): mimic_cxr(mimic, 'test')
    assert len(mimic_cxr(mimic, size=8)) == 3


def test_cxr_lt_2024_lies_over_mimic(mimic, tmp_path_factory):
    root = tmp_path_factory.mktemp('lt')
    table = pd.DataFrame({
        'dicom_id': ['bb-2'], 'subject_id': [10000032], 'study_id': ['s50'], 'ViewPosition': ['LATERAL'],
        'fpath': ['files/p10/p10000032/s50/bb-2.jpg'], 'Round(ed) Atelectasis': [1], 'Edema': [0]})
    table.to_csv(root/'train_labeled.csv', index=False)
    data = cxr_lt(root, 2024, images=mimic, size=8)
    labels = dict(zip(data.label_names, data.y[0].tolist()))
    assert levels(data) == [30] and labels == {'Edema': 0, 'Round(ed) Atelectasis': 1}
    for year, split in ((2025, 'train'), (2024, 'val')):
        with pytest.raises(ValueError): cxr_lt(root, year, split)
    with pytest.raises(FileNotFoundError, match='test_labeled_task1.csv'): cxr_lt(root, 2024, 'test')


# ---- PadChest and CXR-LT 2026 ----

@pytest.fixture
def pad(tmp_path):
    "Five images of three patients, in shards, 16 bits."
    names = [f'1353{i}_fzis7b.png' for i in range(5)]
    table = pd.DataFrame({
        'ImageID': names, 'ImageDir': [0, 0, 1, 1, 54], 'StudyDate_DICOM': 20100101,
        'StudyID': ['13580341550492351507682195967807443508'[:-1] + str(i) for i in range(5)],
        'PatientID': [f'31357275043099734750293265431938996596{i//2}' for i in range(5)],
        'PatientBirth': [1950.0]*4 + [None], 'PatientSex_DICOM': 'F', 'Projection': ['PA', 'L', 'PA', 'AP', 'PA'],
        'MethodLabel': ['Physician']*3 + ['RNN_model']*2,
        'Labels': ["['pseudonodule']", "['nodule ', '']", "['Normal']", "['exclude']", 'nan']})
    table.to_csv(tmp_path/'PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv.gz', index=False)
    for i, name in enumerate(names): grey(tmp_path/str(table.ImageDir[i])/name, 1000*i, bits=16)
    return tmp_path


def test_padchest_findings_are_whole_words(pad):
    data = padchest(pad, ['nodule', 'normal'], size=8)
    assert data.y.tolist() == [[0, 0], [1, 0], [0, 1]] and data.known.all()
    assert data.patient_id.tolist()[0] == data.patient_id.tolist()[1] != data.patient_id.tolist()[2]
    assert data.meta.age.tolist() == [60]*3 and data.filters['filter'].tolist()[:2] == ['labels', 'not exclude']
    assert padchest(pad, at_least=1, size=8).label_names == ['pseudonodule', 'nodule', 'normal']
    with pytest.raises(ValueError, match='pseudonodule'): padchest(pad, ['Nodule'])


@pytest.mark.parametrize('text, right', [
    ("['a', ' B  c ', '']", {'a', 'b c'}), ('[]', set()), ('nan', None), ('', None), ('["it\'s"]', {"it's"})])
def test_findings_are_parsed(text, right): assert parse_findings(text) == right


@pytest.mark.parametrize('text', ['nodule', "['a'", "{'a': 1}", '[1]', '__import__("os")'])
def test_what_is_no_list_of_findings(text):
    with pytest.raises(ValueError, match='no list'): parse_findings(text)


def test_findings_that_nobody_knows_are_blank():
    states = spread_findings([{'a'}, None, frozenset()], ['a', 'b'])
    assert np.array_equal(states, [[1, 0], [np.nan, np.nan], [0, 0]], equal_nan=True)


def test_cxr_lt_2026_gets_its_patients_back(pad):
    names = [f'1353{i}_fzis7b.png' for i in range(5)]
    labels = dict.fromkeys(CXR_LT_2026, 0)
    challenge = pd.DataFrame({'ImageID': names, 'StudyDate_DICOM': 20100101, 'PatientID': '3.14E+38', **labels})
    challenge.assign(Nodule=1)[[True, False, True, True, False]].to_csv(pad/'train.csv', index=False)
    challenge[1:2].to_csv(pad/'test.csv', index=False)
    data, apart = cxr_lt(pad, size=8), cxr_lt(pad, size=8, disjoint=True)
    test = cxr_lt(pad, split='test', size=8)
    assert len(set(data.patient_id.tolist())) == 2 and test.patient_id[0] in data.patient_id
    assert test.patient_id[0] not in apart.patient_id and len(apart) == 2
    assert apart.filters.values[0, :3].tolist() == ['no patient of the test', 3, 2]
    challenge.assign(ImageID='unknown.png')[:1].to_csv(pad/'train.csv', index=False)
    with pytest.raises(ValueError, match='not in PadChest'): cxr_lt(pad)


# ---- VinDr-CXR and OpenI ----

def test_readers_count_and_not_their_boxes():
    said = [('R1', 'ILD'), ('R1', 'ILD'), ('R2', 'No finding'), ('R3', 'No finding')]
    marks = pd.DataFrame(said, columns=['rad_id', 'class_name']).assign(image_id='i')
    counts, read = count_readers(marks, ['ILD', 'No finding'])
    assert counts.values.tolist() == [[1, 2]] and read.tolist() == [3]
    by = {rule: agree(counts, read, rule).values.tolist()[0] for rule in ('any', 'majority', 'all', 'share')}
    assert by == {'any': [1, 1], 'majority': [0, 1], 'all': [0, 0], 'share': [-1, -1]}
    with pytest.raises(ValueError, match='Effusion'): count_readers(marks.assign(class_name='Effusion'), ['ILD'])
    with pytest.raises(ValueError, match="readers='most'"): agree(counts, read, 'most')


@pytest.mark.filterwarnings('ignore:this collection names no patients')
def test_vindr_in_both_releases(tmp_path):
    names = ['Consolidation', 'Consolidation', 'No finding', 'No finding', 'No finding', 'No finding']
    marks = pd.DataFrame(dict(image_id=[1]*3 + [2]*3, rad_id=['R1', 'R2', 'R3']*2, class_name=names))
    marks.to_csv(tmp_path/'train.csv', index=False)
    for part in ('train', 'test'):
        for name, level in (('1', 4000), ('2', 2000)): dicom(tmp_path/part/f'{name}.dicom', level)
    data = vindr(tmp_path, size=8)
    assert data.y[:, data.label_names.index('Consolidation')].tolist() == [1, 0] and data.patient_id is None
    assert vindr(tmp_path, readers='all', size=8).y[0].sum() == 0
    wide = pd.DataFrame({'image_id': [1, 2], 'Consolidation': [0, 1], 'Other disease': [1, 0], 'No finding': 0})
    wide.to_csv(tmp_path/'image_labels_test.csv', index=False)
    test = vindr(tmp_path, 'test', size=8)
    assert test.y.tolist() == [[0, 1, 0], [1, 0, 0]]
    assert test.counts.values.tolist() == [['images of test', 2, 3_000]]
    (tmp_path/'annotations').mkdir()
    three = pd.concat([wide.assign(rad_id=f'R{r}') for r in range(3)])
    three = three.rename(columns={'Other disease': 'Other diseases'})
    three.to_csv(tmp_path/'annotations'/'image_labels_train.csv', index=False)
    research = vindr(tmp_path, size=8)
    assert research.label_names == test.label_names and research.y.tolist() == test.y.tolist()


def test_openi(tmp_path):
    def report(number, *codes):
        body = ''.join(f'<major>{code}</major>' for code in codes)
        images = ''.join(f'<parentImage id="CXR{number}_IM-{i}"/>' for i in (1, 2))
        return f'<eCitation><uId id="CXR{number}"/><MeSH>{body}</MeSH>{images}</eCitation>'
    (tmp_path/'ecgen-radiology').mkdir()
    for number, codes in enumerate([('Opacity/lung/base', 'Cardiomegaly/mild'), ('normal',), ('No Indexing',)]):
        (tmp_path/'ecgen-radiology'/f'{number}.xml').write_text(report(number, *codes))
        for i in (1, 2): grey(tmp_path/'NLMCXR_png'/f'CXR{number}_IM-{i}.png', 50*number + i)
    data = openi(tmp_path, ['cardiomegaly', 'opacity'], size=8, one_per='patient')
    assert levels(data) == [1, 51] and data.y.tolist() == [[1, 1], [0, 0]]
    assert data.filters.values[:, 1:3].tolist() == [[6, 4], [4, 2]]
    assert openi(tmp_path, at_least=1, size=8).patient_id.tolist() == ['CXR0']*2 + ['CXR1']*2


# ---- columns, filters, names ----

def test_views_and_ages():
    assert parse_views(['Postero-Anterior', 'ap', 'RL', 'LLD', np.nan]).tolist() == ['PA', 'AP', 'lateral', 'other', '']
    checks = Checks()
    ages = parse_ages(['060Y', '018M', 3, 'x', ''], checks)
    assert np.allclose(ages, [60, 1.5, 3, np.nan, np.nan], equal_nan=True) and '1 ages' in checks[0][2]


def test_what_is_asked_for_must_be_there():
    table = pd.DataFrame({'Image Index': ['a.png'], 'Patient ID': [1]})
    named = name_columns(table, LAYOUTS['nih14'], Checks())
    assert 'view' not in named and named['name'].tolist() == ['a.png']
    with pytest.raises(ValueError, match='which view'): keep_views(named, 'PA', Checks())
    with pytest.raises(ValueError, match='no ages'): choose_rows(named, Checks(), ages=(1, 2))
    with pytest.raises(ValueError, match='no patient_id'): keep_one(named.assign(patient_id=None), 'patient', Checks())
    nobody = table[['Image Index']]
    with pytest.raises(ValueError, match="'Patient ID'"): name_columns(nobody, LAYOUTS['nih14'], Checks())
    checks = Checks()
    compare_counts(named, LAYOUTS['nih14'], checks)
    assert checks.count_frame().found.tolist() == [1, 1]


def test_the_first_place_counts(tmp_path):
    grey(tmp_path/'b'/'x.png', 1)
    assert place_files(tmp_path, [['a/x.png'], ['b/x.png']]) == [str(tmp_path/'b'/'x.png')]
    assert place_files(tmp_path, [['a/y.png'], ['b/y.png']]) == [str(tmp_path/'a'/'y.png')]


def test_names_of_one_finding():
    assert set(LAYOUTS) == set(NAMES)
    assert {concept for names in NAMES.values() for concept in names} == set(CONCEPTS)
    for key, layout in LAYOUTS.items():
        assert not layout.labels or set(NAMES[key].values()) <= set(layout.labels), key
    assert match_labels('chexpert', 'nih14')['Mass'] == []
    assert match_labels('padchest', 'vindr')['Nodule/Mass'] == ['pulmonary mass', 'nodule']
    missing, unused = list_unmatched('vindr', 'chexpert', [*LAYOUTS['vindr'].labels])
    assert 'Support Devices' in missing and {'ILD', 'Other lesion'} <= set(unused)
    with pytest.raises(ValueError, match="'mnist'"): match_labels('mnist', 'nih14')


def test_states_travel_under_other_names():
    states = {'Pleural Effusion': [1, 0, -1, None], 'No Finding': 1}
    table = pd.DataFrame(np.nan, range(4), CHEXPERT).assign(**states)
    found = relabel(table, 'chexpert', 'nih14')
    assert np.array_equal(found.Effusion, [1, 0, -1, np.nan], equal_nan=True) and 'Mass' not in found
    assert 'No finding' not in relabel(table, 'chexpert', 'vindr')
    united = unite_states([[0, -1], [1, -1], [0, None]])
    assert np.array_equal(united, [-1, 1, np.nan], equal_nan=True)


@pytest.mark.parametrize('name, columns, found', [
    ('Effusion', ['Pleural Effusion', 'Edema'], 'Pleural Effusion'),
    ('Pleural Effusion', ['effusion'], 'effusion'),
    ('Pleural_Thickening', ['pleural thickening'], 'pleural thickening'),
    ('Lung Lesion', ['Nodule/Mass'], 'Nodule/Mass'),
    ('Fracture', ['fractures, bone'], 'fractures, bone'),
    ('Effusion', ['Pleural Effusion', 'pleural effusion'], None),   # two of them
    ('No Finding', ['Normal'], None),                               # another thing in every collection
    ('Infiltration', ['Lung Opacity'], None), ('Mass', ['Lung Lesion'], None), ('odd', ['edema'], None)])
def test_a_label_is_found_under_a_name_that_means_the_same(name, columns, found):
    assert find_synonyms([name], columns)[0] == ({} if found is None else {name: found})


def test_a_name_with_two_meanings_is_not_guessed():
    with pytest.warns(UserWarning, match='Pleural Effusion may be effusion or Effusion'):
        assert find_counterparts(['Edema', 'Pleural Effusion'], ['Edema', 'effusion', 'Effusion']) == {'Edema': 'Edema'}
    assert find_synonyms(['Effusion', 'Pleural Effusion'], ['pleural effusion'])[0] == {}   # one column for two labels


def test_a_table_of_ones_own_is_matched_and_it_is_said():
    with pytest.warns(UserWarning, match='of other names: Effusion is Pleural Effusion'):
        found = find_counterparts(['Effusion', 'Edema'], ['Edema', 'Pleural Effusion', 'age'])
    assert found == {'Effusion': 'Pleural Effusion', 'Edema': 'Edema'}
