"ImageFolder, COCO and YOLO: labels, boxes, patients and every filter, on sets that are made here."
import json
from pathlib import Path
import numpy as np, pandas as pd, pytest
from PIL import Image
from typer.testing import CliRunner
from cxr_workbench import annotation_sets as sets, data, doctor, opening
from cxr_workbench.cli import app


def save(path, grey=0, size=(40, 20)):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full(size[::-1], 40, np.uint8)
    pixels[:, :grey%size[0] + 1] = 200
    pixels[0, 0] = grey
    Image.fromarray(pixels).save(path)


def filters(collected): return {row[0]: row[1:3] for row in collected.checks.filters}
def notes(collected): return [detail for _, status, detail, _ in collected.checks if status == 'note']


# ---- patients

def test_patients_by_pattern_by_function_and_by_public_names():
    names = ['a/p7_1.png', 'b/p12_1.png']
    assert sets.name_patients(names, r'p(\d+)').tolist() == ['7', '12']
    assert sets.name_patients(names, r'p\d+').tolist() == ['p7', 'p12']
    assert sets.name_patients(names, lambda name: name[0]).tolist() == ['a', 'b']
    assert sets.name_patients(names) is None
    assert sets.name_patients(['x/00000013_005.png'])[0].lstrip('0') == '13'
    with pytest.raises(ValueError, match='finds none in 1 of 2 names: b/p12'): sets.name_patients(names, r'a/p(\d)')


# ---- ImageFolder

def test_folders_are_labels(tmp_path):
    for k, folder in enumerate(['sick', 'sick', 'well', 'well/deeper']): save(tmp_path/folder/f'{k}.png', k)
    found = sets.collect_image_folder(tmp_path)
    assert found.labels == ['sick', 'well'] and 'split' not in found.table and not filters(found)
    states = [[1, 0], [1, 0], [0, 1], [0, 1]]
    assert found.table[['sick', 'well']].to_numpy().tolist() == states


def test_an_image_in_two_folders_has_two_labels(tmp_path):
    for folder in ('Edema', 'Mass'): save(tmp_path/folder/'a.png', 1)
    save(tmp_path/'Edema'/'b.png', 2)
    save(tmp_path/'Mass'/'b.png', 3)   # one name, another image
    found = sets.collect_image_folder(tmp_path)
    rows = dict(zip(found.table['name'], found.table[['Edema', 'Mass']].to_numpy().tolist()))
    assert rows == {'Edema/a.png': [1, 1], 'Edema/b.png': [1, 0], 'Mass/b.png': [0, 1]}
    assert filters(found) == {'one row an image': (4, 3)}
    assert any('1 images lie in several folders' in note for note in notes(found))
    assert any('1 names stand in several folders for different images' in note for note in notes(found))


def test_parts_stand_above_labels(tmp_path):
    for k, folder in enumerate(['Train/sick', 'Train/well', 'val/sick', 'test/well']): save(tmp_path/folder/'a.png', k)
    found = sets.collect_image_folder(tmp_path)
    wanted = [('test', 0), ('train', 0), ('train', 1), ('valid', 1)]
    assert sorted(zip(found.table.split, found.table.sick)) == wanted


def test_images_in_no_folder_are_counted_and_one_folder_is_none(tmp_path):
    save(tmp_path/'sick'/'a.png')
    with pytest.raises(ValueError, match='a folder for each label is wanted'): sets.collect_image_folder(tmp_path)
    save(tmp_path/'well'/'b.png')
    save(tmp_path/'c.png')
    found = sets.collect_image_folder(tmp_path)
    assert filters(found) == {'folders of labels': (3, 2)} and len(found.table) == 2
    save(tmp_path/'path'/'d.png')
    with pytest.raises(ValueError, match=r"labels are called \['path'\]"): sets.collect_image_folder(tmp_path)


# ---- COCO

def make_coco(root, change=None, file='annotations.json'):
    held = {
        'images': [dict(id=10*k, file_name=f'{k}.png', width=40, height=20) for k in range(4)],
        'categories': [dict(id=3, name='Edema'), dict(id=90, name='Mass')],
        'annotations': [
            dict(id=1, image_id=0, category_id=3, bbox=[1, 2, 3, 4]),
            dict(id=2, image_id=0, category_id=90, segmentation=[[5, 1, 9, 1, 9, 6]]),
            dict(id=3, image_id=10, category_id=3, bbox=[0, 0, 5, 5], iscrowd=1),
            dict(id=4, image_id=20, category_id=90, bbox=[2, 2, 2, 2]),
            dict(id=5, image_id=20, category_id=90, bbox=[2, 2, 2, 2]),
            dict(id=6, image_id=20, category_id=3, bbox=[4, 4, 0, 3]),
            dict(id=7, image_id=999, category_id=3, bbox=[1, 1, 1, 1])]}
    if change is not None: change(held)
    for k in range(4): save(root/'images'/f'{k}.png', k)
    (root/file).parent.mkdir(parents=True, exist_ok=True)
    (root/file).write_text(json.dumps(held))
    return root


def test_coco_is_a_table_with_boxes(tmp_path):
    found = sets.collect_coco(make_coco(tmp_path))
    assert found.labels == ['Edema', 'Mass']
    states = [[1, 1], [1, 0], [1, 1], [0, 0]]
    assert found.table[found.labels].to_numpy().tolist() == states
    assert found.table.boxes.tolist() == [2, 1, 3, 0] and found.table.image_width.tolist() == [40]*4
    assert filters(found) == {'annotations': (7, 6)}
    for text in ('1 marks are of crowds', '1 marks repeat', '1 of 4 images have none'):
        assert any(text in note for note in notes(found)), text
    assert sets.coco_boxes(tmp_path).to_numpy().tolist() == [
        ['0.png', 'Edema', 1, 2, 3, 4], ['0.png', 'Mass', 5, 1, 4, 5],
        ['2.png', 'Mass', 2, 2, 2, 2]]


@pytest.mark.parametrize('place', [
    'annotations.json', 'annotations/instances_train2017.json', 'x/_annotations.coco.json'])
def test_where_the_file_of_coco_may_lie(tmp_path, place):
    found = sets.collect_coco(make_coco(tmp_path, file=place))
    assert len(found.table) == 4 and all(Path(path).is_file() for path in found.table.path)
    assert ('split' in found.table) == ('train' in place)
    assert len(sets.collect_coco(tmp_path/place, images=tmp_path/'images').table) == 4


def test_parts_of_coco_and_categories_in_another_order(tmp_path):
    make_coco(tmp_path, file='annotations/instances_train.json')
    names = {90: 'Edema', 3: 'Mass', 5: 'Nodule'}
    def swap(held): held['categories'] = [dict(id=number, name=name) for number, name in names.items()]
    make_coco(tmp_path, swap, 'annotations/instances_val.json')
    (tmp_path/'annotations'/'captions_val.json').write_text('{"images": [], "annotations": []}')
    found = sets.collect_coco(tmp_path)
    assert found.labels == ['Edema', 'Mass', 'Nodule'] and found.table.split.tolist() == ['train']*4 + ['valid']*4
    valid = found.table[found.table.split == 'valid']
    states = [[1, 1, 0], [0, 1, 0], [1, 1, 0], [0, 0, 0]]
    assert valid[found.labels].to_numpy().tolist() == states


@pytest.mark.parametrize('change, words', [
    (lambda held: held['categories'].append(dict(id=3, name='Nodule')), "the category 3 is 'Edema' and 'Nodule'"),
    (lambda held: held['annotations'].append(dict(id=8, image_id=0, category_id=4)), 'categories 4, which have no'),
    (lambda held: held['images'].append(dict(id=0, file_name='9.png')), 'images with one number: 0'),
    (lambda held: held['categories'].append(dict(id=4, name='split')), r"labels are called \['split'\]")])
def test_mistakes_of_a_coco_file_are_named(tmp_path, change, words):
    with pytest.raises(ValueError, match=words): sets.collect_coco(make_coco(tmp_path, change))


def test_a_file_under_two_numbers_is_one_row(tmp_path):
    found = sets.collect_coco(make_coco(tmp_path, lambda held: held['images'].append(dict(id=7, file_name='0.png'))))
    assert len(found.table) == 4 and filters(found)['one row an image'] == (5, 4)


def test_names_with_folders_and_files_that_lie_elsewhere(tmp_path):
    def rename(held):
        for image in held['images']: image['file_name'] = 'old\\place\\' + image['file_name']
    found = sets.collect_coco(make_coco(tmp_path, rename))
    assert found.table['name'][0] == 'old/place/0.png' and all(Path(path).is_file() for path in found.table.path)
    (tmp_path/'images'/'3.png').unlink()
    found = sets.collect_coco(tmp_path)
    assert len(found.table) == 3 and any(status == 'missing' for _, status, *_ in found.checks)


def test_what_is_no_coco(tmp_path):
    with pytest.raises(FileNotFoundError, match='in the form of COCO'): sets.collect_coco(tmp_path)
    (tmp_path/'a.json').write_text('{"images": [')
    with pytest.raises(ValueError, match='no JSON'): sets.collect_coco(tmp_path)
    (tmp_path/'a.json').write_text('[1, 2]')
    with pytest.raises(FileNotFoundError): sets.collect_coco(tmp_path)


# ---- YOLO

LINES = {0: '0 .5 .5 .2 .4\n1 .25 .5 .1 .2 .93\n', 1: '', 2: '\n1 .1 .2 .3 .2 .3 .6 .1 .6\n'}   # image 3 has no file


def make_yolo(root, names='[Edema, Mass]', lines=LINES, more=''):
    for k in range(4): save(root/'images'/f'{k}.png', k)
    (root/'labels').mkdir()
    for k, text in lines.items(): (root/'labels'/f'{k}.txt').write_text(text)
    (root/'data.yaml').write_text(f'names: {names}\n{more}')
    return root


@pytest.mark.parametrize('names', ['[Edema, Mass]', '{0: Edema, 1: Mass}', '{1: Mass, 0: Edema}'])
@pytest.mark.parametrize('more', ['', 'train: ../images\nnc: 2\n', 'path: /elsewhere\ntrain: images\n'])
def test_yolo_is_a_table_with_boxes(tmp_path, names, more):
    found = sets.collect_yolo(make_yolo(tmp_path, names, more=more))
    labels = found.table[['Edema', 'Mass']].to_numpy()
    assert labels[:3].tolist() == [[1, 1], [0, 0], [0, 1]]
    assert np.isnan(labels[3]).all()
    boxes = sets.yolo_boxes(tmp_path)
    assert boxes['name'].tolist() == ['images/0.png']*2 + ['images/2.png']
    assert boxes.label.tolist() == ['Edema', 'Mass', 'Mass']
    places = [[16, 6, 8, 8], [8, 8, 4, 4], [4, 4, 8, 8]]
    assert np.allclose(boxes[['x', 'y', 'width', 'height']], places)
    assert any('1 of 4 images have none: their labels are blank' in note for note in notes(found))


def test_an_image_without_a_file_is_what_is_said(tmp_path):
    make_yolo(tmp_path)
    absent, out = (sets.collect_yolo(tmp_path, word) for word in ('absent', 'leave out'))
    assert absent.table[['Edema', 'Mass']].to_numpy()[3].tolist() == [0, 0]
    assert len(out.table) == 3 and filters(out) == {'text files': (4, 3)}
    with pytest.raises(ValueError, match="without_file='none'"): sets.collect_yolo(tmp_path, 'none')
    opened = data.open_yolo(tmp_path, patient=r'(\d)\.png', policy=data.LabelPolicy(blank='unknown'))
    assert opened.known.tolist() == [[True]*2]*3 + [[False]*2]


@pytest.mark.parametrize('line, words', [
    ('2 .5 .5 .2 .4', r'0.txt, line 2: the class 2, but there are 2: 0 to 1'), ('-1 .5 .5 .2 .4', 'the class -1'),
    ('.5 .5 .5 .2 .4', 'the class .5'), ('0 100 50 20 40', '100 is no fraction'), ('0 .5 .5', 'has 3 numbers'),
    ('0 nan .5 .2 .4', 'no fraction'), ('0 .5 .5 .2 .4 .1 .2 .3', 'has 8 numbers'), ('Edema .5 .5 .2 .4', 'no number')])
def test_a_wrong_line_is_named(tmp_path, line, words):
    make_yolo(tmp_path, lines={0: f'0 .5 .5 .2 .4\n{line}\n'})
    with pytest.raises(ValueError, match=words): sets.collect_yolo(tmp_path)


@pytest.mark.parametrize('names, more, words', [
    ('[Edema, Mass]', 'nc: 3', 'nc: 3, and gives 2 names'), ('{1: Edema, 2: Mass}', '', r'\[1, 2\], not 0, 1, 2'),
    ('[Edema, Mass', '', 'cannot be read')])
def test_a_wrong_list_of_classes_is_named(tmp_path, names, more, words):
    with pytest.raises(ValueError, match=words): sets.collect_yolo(make_yolo(tmp_path, names, more=more))


def test_classes_in_a_text_and_none_at_all(tmp_path):
    make_yolo(tmp_path)
    (tmp_path/'data.yaml').unlink()
    with pytest.raises(FileNotFoundError, match='nothing names the classes'): sets.collect_yolo(tmp_path)
    (tmp_path/'labels'/'classes.txt').write_text('Edema\nMass\n\n')
    assert sets.collect_yolo(tmp_path).labels == ['Edema', 'Mass']


def test_parts_of_yolo(tmp_path):
    for part in ('train', 'val'):
        save(tmp_path/part/'images'/'a.png', 1)
        (tmp_path/part/'labels').mkdir()
        (tmp_path/part/'labels'/'a.txt').write_text('0 .5 .5 .1 .1')
    (tmp_path/'data.yaml').write_text('train: ../train/images\nval: ../val/images\nnames: [Edema, Mass]')
    found = sets.collect_yolo(tmp_path)
    assert found.table.split.tolist() == ['train', 'valid'] and found.table.Edema.tolist() == [1, 1]
    (tmp_path/'list.txt').write_text('train/images/a.png\n')
    (tmp_path/'data.yaml').write_text('train: list.txt\nnames: [Edema, Mass]')
    assert sets.collect_yolo(tmp_path).table['name'].tolist() == ['train/images/a.png']


# ---- by name, and by the doctor

@pytest.fixture
def three(tmp_path):
    make_coco(tmp_path/'c')
    make_yolo(tmp_path/'y')
    for k in range(24): save(tmp_path/'f'/('sick' if k%3 else 'well')/f'p{k//2}_{k}.png', k)
    return tmp_path


def test_a_folder_says_what_it_is(three):
    assert [sets.detect_annotations(three/name) for name in 'cyf'] == ['coco', 'yolo', 'image_folder']
    for k in range(12): save(three/'p'/f'patient{k}'/'a.png', k)      # a folder for each patient
    for k in range(12): save(three/'b'/f'images_{k%2:03d}'/f'{k}.png', k)
    for name in ('p', 'b', 'c/images'): assert sets.detect_annotations(three/name) is None
    assert [doctor.detect_kind(three/name)[0] for name in 'cyfb'] == ['coco', 'yolo', 'image_folder', 'images']


def test_a_table_wins_over_folders(three):
    frame = pd.DataFrame({'path': ['sick/p0_1.png'], 'patient_id': [1], 'Edema': [1]})
    frame.to_csv(three/'f'/'table.csv', index=False)
    assert doctor.detect_kind(three/'f') == ('table', three/'f'/'table.csv')


def test_sets_are_opened_by_name_and_by_function(three):
    for kind, folder, function in (('coco', 'c', data.open_coco), ('yolo', 'y', data.open_yolo)):
        one = opening.open_data(kind, root=str(three/folder), patient=r'(\d)\.png', size=16)
        other = function(three/folder, patient=r'(\d)\.png', size=16)
        assert np.array_equal(one.y, other.y)
        assert np.array_equal(one.batch([0]).x, other.batch([0]).x)
        assert one.label_names == ['Edema', 'Mass'] and list(one.patient_id) == list('0123')
    some = opening.open_data('coco', root=str(three/'c'), labels=['Mass'], patient=r'(\d)\.png')
    assert some.label_names == ['Mass'] and some.y[:, 0].tolist() == [1, 0, 1, 0]
    with pytest.raises(ValueError, match=r"no labels \['Nodule'\]"): data.open_coco(three/'c', labels='Nodule')
    with pytest.raises(ValueError, match='yolo needs root='): opening.open_data('yolo')
    with pytest.raises(ValueError, match='path=... is for csv'): opening.check_used('coco', {'path': 'x'})


def test_the_doctor_ends_with_a_command_that_trains(three, monkeypatch):
    monkeypatch.chdir(three)
    def shell(*words, status=0):
        result = CliRunner().invoke(app, [str(word) for word in words])
        assert result.exit_code == status, result.output
        return result.output
    assert 'nothing tells who is on the images' in shell('doctor', 'f', '--look', 0, status=1)
    printed = shell('doctor', 'f', '--look', 0, '--patient', r'p(\d+)_')
    assert 'f: image_folder, 24 rows' in printed and '2 folders of labels: sick, well' in printed
    assert printed.strip().endswith(r"fit supervised --data image_folder --root f --patient 'p(\d+)_'")
    fit = ('fit', 'supervised', '--data', 'image_folder', '--root', 'f', '--patient', r'p(\d+)_')
    shell(*fit, '--preset', 'tiny', '--epochs', 1, '--size', 32, '--out', 'run', '--no-progress')
    assert 'macro' in shell('evaluate', 'run', '--n-boot', 5)
    assert shell('doctor', 'y', '--look', 0, '--each-image-a-patient').strip().endswith(
        'fit supervised --data yolo --root y --each-image-a-patient')
    shell('doctor', 'c', '--look', 0, '--each-image-a-patient', '--write', 'c.csv')
    states = [[1, 1], [1, 0], [1, 1], [0, 0]]
    assert pd.read_csv('c.csv')[['Edema', 'Mass']].to_numpy().tolist() == states
