"""What lies below a root is listed and opened; nothing else is, however it is named."""
import os
import numpy as np, pandas as pd, pytest
from PIL import Image
from cxr_workbench import choosing
from cxr_workbench.core import create_method, seed_all
from cxr_workbench.opening import write_run_record
from cxr_workbench.saving import save


@pytest.fixture
def root(tmp_path):
    "Four images under a table, a run, and beside them what must not be opened."
    root = tmp_path/'root'
    (root/'images').mkdir(parents=True)
    for k in range(8):
        image = Image.fromarray(np.full((40, 40), 20*k, np.uint8))
        image.save(root/'images'/f'{k}.png')
    table = pd.DataFrame(dict(path=[f'images/{k}.png' for k in range(8)], Edema=[0, 1]*4, patient_id=list('abcdefgh')))
    table.to_csv(root/'table.csv', index=False)
    seed_all(0)
    save(create_method('supervised', labels=['Edema'], size=32, preset='tiny'), root/'runs'/'one')
    (tmp_path/'secret.csv').write_text('path,Edema\n')
    Image.fromarray(np.zeros((40, 40), np.uint8)).save(tmp_path/'theirs.png')
    return root


@pytest.mark.parametrize('name', ['..', '../secret.csv', 'images/../../secret.csv', '/etc/passwd', './../secret.csv'])
def test_a_way_out_is_refused(root, name):
    with pytest.raises(ValueError, match='upwards|below the root'): choosing.resolve_below(root, name)


def test_links_are_refused_at_every_step(root):
    (root/'out').symlink_to(root.parent)
    (root/'file.csv').symlink_to(root.parent/'secret.csv')
    (root/'inside').symlink_to(root/'images')
    for name in ('out', 'out/secret.csv', 'file.csv', 'inside/0.png'):
        with pytest.raises(ValueError, match='link'): choosing.resolve_below(root, name)
    assert not {'out', 'file.csv', 'inside'} & {*choosing.list_below(root).data, *choosing.list_below(root).runs}


def test_a_root_that_is_a_link_is_followed_and_whole_paths_inside_are_taken(root, tmp_path):
    (tmp_path/'alias').symlink_to(root)
    assert choosing.resolve_below(tmp_path/'alias', 'table.csv') == (root/'table.csv').resolve()
    assert choosing.resolve_below(root, str(root.resolve()/'table.csv')).name == 'table.csv'
    assert choosing.resolve_below(root, '.') == root.resolve()


def test_what_is_there_is_listed(root):
    found = choosing.list_below(root)
    assert found == choosing.Found(['runs/one'], ['images', 'table.csv'], True)


def test_a_listing_ends(root):
    for k in range(400): (root/f'many{k:03d}.csv').touch()
    assert len(choosing.list_below(root).data) == 200 and not choosing.list_below(root).whole
    assert len(choosing.list_below(root, looks=50).data) <= 50


def test_a_table_opens_in_the_size_that_is_asked_for(root):
    data = choosing.open_below(root, 'table.csv', 32)
    assert data.size == 32 and data.y.flatten().tolist() == [0, 1]*4
    assert np.allclose(data.batch([3]).x*255, 60, atol=.5)


@pytest.mark.parametrize('path', ['../theirs.png', '{top}/theirs.png', 'link.png', 'images/../../theirs.png'])
def test_a_table_that_names_other_images_is_not_opened(root, path):
    (root/'link.png').symlink_to(root.parent/'theirs.png')
    named = path.format(top=root.parent)
    pd.DataFrame(dict(path=[named], Edema=[1], patient_id=['a'])).to_csv(root/'sly.csv', index=False)
    with pytest.raises(ValueError, match='does not lie below the root'): choosing.open_below(root, 'sly.csv')


def test_a_folder_of_images_has_the_labels_that_are_asked_for_and_knows_none(root):
    data = choosing.open_below(root, 'images', 32, ['Edema', 'Mass'])
    assert len(data) == 8 and data.label_names == ['Edema', 'Mass'] and not data.known.any()
    with pytest.raises(ValueError, match='no data set'): choosing.open_below(root, 'images/0.png')


def test_a_run_gives_the_part_that_was_held_out(root):
    data = dict(source=str(root/'table.csv'), size=32)
    record = dict(data=data, fold=0, fold_column=None, regime='full', fraction=.1, seed=0)
    write_run_record(root/'runs'/'one', record)
    held_out = choosing.open_below(root, 'runs/one')
    assert 0 < len(held_out) < 8 and held_out.size == 32
    write_run_record(root/'runs'/'one', {**record, 'data': dict(source=str(root.parent/'secret.csv'), size=32)})
    with pytest.raises(ValueError, match='below the root'): choosing.open_below(root, 'runs/one')


def test_files_are_checked_by_where_they_lead(root):
    choosing.check_below(root, [root/'images'/'0.png', os.path.join(root, 'images', '..', 'table.csv')])
    (root/'turn').symlink_to(root.parent)
    with pytest.raises(ValueError, match='theirs.png'): choosing.check_below(root, [root/'turn'/'theirs.png'])


def test_environments_and_parts_of_a_package_are_passed_over(tmp_path):
    kept = ['runs/mine', 'trained/own', 'build/own']
    passed = ['env/lib/python3.12/site-packages/cxr_workbench/trained/lcc', 'conda/share/run', '.hidden/run',
              'checkout/cxr_workbench/trained/lcc', 'checkout/build/lib/run', 'page/node_modules/run',
              '__pycache__/run']
    for k, name in enumerate([*kept, *passed]):
        (tmp_path/name).mkdir(parents=True)
        (tmp_path/name/'model.json').write_text('{}')
        os.utime(tmp_path/name/'model.json', (k, k))
    for sign in ('env/pyvenv.cfg', 'checkout/pyproject.toml', 'checkout/cxr_workbench/__init__.py'):
        (tmp_path/sign).touch()
    (tmp_path/'conda'/'conda-meta').mkdir()
    assert choosing.list_below(tmp_path) == choosing.Found(kept[::-1], [], True)   # the newest first


@pytest.mark.parametrize('text', [
    'row,path,Edema,Mass,error\n0,a.png,0.21482577,0.70114523,\n', 'row,path,Edema,error\n0,a.png,,it is damaged\n',
    'row,path,Edema\n0,a.png,1.5328442e-05\n1,b.png,1.0\n',
    'row,path,Edema,error,present: Edema\n0,a.png,0.21482577,,1\n',
    'row,path,Edema,present: Edema\n0,,0.21482577,1\n',
    'label,n,n_pos,auroc,auroc_low,auroc_high\nEdema,9,3,0.7,0.5,0.9\n', 'label,auroc a,auroc b\nEdema,0.7,0.8\n',
    'by,group,rows,patients,label\nsex,F,9,4,shared\n', 'epoch,stage,step,lr,loss\n1,0,1,0.1,0.7\n',
    'run,seed,state,reason\na,0,failed,no memory\n', 'row,name,reason\n3,a.png,image\n',
    'name,patient,Edema,Edema (label)\na.png,7,0.2,1\n'])
def test_what_the_commands_write_is_no_data(tmp_path, text):
    (tmp_path/'result.csv').write_text(text)
    (tmp_path/'data.csv').write_text('path,Edema,patient_id\na.png,1,7\n')
    found = choosing.list_below(tmp_path)
    assert found.data == ['data.csv'] and found.results == 1
    assert found.tell() == '1 table of results is not listed as data'


@pytest.mark.parametrize('text', [
    'row,path,Edema\n0,a.png,1\n', 'row,path,Edema\n0,a.png,0.0\n',
    'row,path,Edema,ratio\n0,a.png,1,0.43\n', 'row,path,ratio,Edema\n0,a.png,0.48731402,1\n1,b.png,0.5,0\n',
    'row,path,Edema,Mass\n1,a.png,0.21482577,0.70114523\n', 'row,path,Edema,error\n0,a.png,1,\n',
    'row,path,patient_id,Edema\n0,a.png,7,0.48731402\n', 'row,path,Edema,present: Mass\n0,a.png,0.21482577,1\n',
    'row,path,Edema\n0,a.png,0.5\n', 'row,path,error,Edema\n0,a.png,,0.21482577\n', 'row,path\n0,a.png\n',
    'path,AP,Edema\na.png,1,0\n',
    'name,Edema\na.png,1\n',
    'path,error,Edema\na.png,none,1\n', ''])
def test_a_table_of_labels_is_listed(tmp_path, text):
    (tmp_path/'data.csv').write_text(text)
    assert choosing.list_below(tmp_path) == choosing.Found([], ['data.csv'], True)


def test_what_predict_writes_is_known_and_labels_beside_a_fraction_are_data(tmp_path):
    from cxr_workbench.prediction import make_table
    from types import SimpleNamespace
    method = SimpleNamespace(labels=2, label_names=['Edema', 'Mass'])
    scores = np.random.default_rng(0).random((8, 2))
    for name, errors in (('rows.csv', None), ('files.csv', ['']*8)):
        table = make_table(method, scores, [f'{k}.png' for k in range(8)], errors)
        table.to_csv(tmp_path/name, index=False)
        assert choosing.is_result_file(tmp_path/name)
    table.assign(Mass=1).to_csv(tmp_path/'labels.csv', index=False)
    assert not choosing.is_result_file(tmp_path/'labels.csv')
