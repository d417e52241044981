"Inputs that contradict themselves or each other, by kind: each is read rightly or refused by its reason."
import io
import numpy as np
import pandas as pd
import pytest
from cxr_workbench import cli, data, labels as L, metrics as M, opening, reports, splits, tables

IMAGES = np.zeros((4, 8, 8), np.uint8)


def npz(folder, name='x.npz', **arrays):
    np.savez(folder/name, **{'images': IMAGES, **arrays})
    return folder/name


def read(folder, text, **kw):
    (folder/'t.csv').write_text(text)
    return data.from_npz(npz(folder), folder/'t.csv', **kw)


# ---- tables that were read elsewhere

def test_a_named_index_is_a_column(tmp_path):
    table = pd.DataFrame(dict(patient_id=[1, 1, 2, 2], Edema=[0, 1, 0, 1])).set_index('patient_id')
    assert data.from_npz(npz(tmp_path), table).patient_id.tolist() == [1, 1, 2, 2]


@pytest.mark.parametrize('last', ['Mass', 'patient_id'])
def test_columns_moved_by_one_are_seen_where_the_first_held_numbers(last):
    table = pd.read_csv(io.StringIO(f'npz_row,Edema,{last}\n3,1,0,\n1,2,1,\n'))
    with pytest.raises(ValueError, match='moves the columns by one'): tables.read_table(table)


def test_filtered_tables_keep_their_empty_columns():
    table = pd.DataFrame(dict(Edema=[0, 1, 1], **{'Unnamed: 11': [np.nan]*3}))[1:]
    assert list(tables.read_table(table).columns) == ['Edema', 'Unnamed: 11']
    table = pd.DataFrame(dict(Edema=[0, 1, 1], comment=[np.nan]*3))[1:]
    with pytest.warns(UserWarning, match='delete the empty column'): assert len(tables.read_table(table)) == 2


@pytest.mark.parametrize('raw, reason', [
    (b'\x28\xb5\x2f\xfd\x04\x00abc', 'Zstandard'), (b'[{"a": 1}]', 'JSON'), (b'SQLite format 3\x00', 'database'),
    (b'7z\xbc\xaf\x27\x1c', '7z archive'), (b'\x80\x04\x95', 'pickle'), (b'<?xml version="1.0"?>', 'XML'),
    (b'\xe9\x00a,b\n1,2\n', 'zero bytes')])
def test_files_that_are_no_table_are_called_what_they_are(tmp_path, raw, reason, recwarn):
    (tmp_path/'t.csv').write_bytes(raw)
    with pytest.raises(ValueError, match=reason): tables.read_table(tmp_path/'t.csv')
    assert not recwarn.list


def test_what_is_no_table_at_all():
    for strange in (None, 3, [1, 2]):
        with pytest.raises(ValueError, match='a file or a DataFrame'): tables.read_table(strange)


# ---- labels

@pytest.mark.parametrize('values', [['yes', 'no', 'no', 'yes'], ['positive', 'negative', '', 'negative'],
                                    ['Y', 'N', 'N', 'Y']])
def test_findings_in_words_are_named_as_left_out(tmp_path, values):
    text = 'patient_id,Edema,Foo\n' + ''.join(f'{i},{i % 2},{v}\n' for i, v in enumerate(values))
    with pytest.warns(UserWarning, match="'Foo'.*look like labels"): read(tmp_path, text)


@pytest.mark.parametrize('column', ['patient_id', 'npz_row'])
def test_a_label_is_no_patient_and_no_row(tmp_path, column):
    text = 'npz_row,patient_id,Edema\n0,1,0\n1,0,1\n'
    with pytest.raises(ValueError, match=column): read(tmp_path, text, labels=[column, 'Edema'])


def test_a_patient_is_no_label(tmp_path):
    with pytest.raises(ValueError, match='Edema'):
        read(tmp_path, 'patient_id,Edema\n1,0\n1,1\n2,0\n2,1\n', patient='Edema')


def test_names_of_labels_follow_the_columns_of_their_table():
    table = pd.DataFrame(dict(a=[0, 1, 0, 1], b=[1, 1, 0, 0]))
    with pytest.raises(ValueError, match='order of its columns'):
        data.from_arrays(IMAGES, table, label_names=['b', 'a'])
    assert data.from_arrays(IMAGES, table, label_names=['a', 'b']).y[:, 1].tolist() == [1, 1, 0, 0]


# ---- patients

@pytest.mark.parametrize('name', ['1.9E38', '1,9e38', '1.9E+38', '2E+05'])
def test_rounded_identifiers_are_refused_with_and_without_a_sign(name):
    with pytest.raises(ValueError, match='rounded number'): L.check_patients([name, name, 'a'])


def test_codes_with_an_e_are_no_rounded_numbers():
    assert L.check_patients(['12E4', '5e3']).tolist() == ['12E4', '5e3']


@pytest.mark.parametrize('one, other', [
    ('P1', 'P1\u200b'), ('M\u00fcller', 'Mu\u0308ller'), ('007', '7'), ('p1', 'P1')])
def test_identifiers_that_look_alike_are_named(one, other):
    with pytest.warns(UserWarning, match='two identifiers'): splits.warn_of_ids(L.check_patients([one, other]))


def test_a_row_of_totals_is_named():
    with pytest.warns(UserWarning, match='Total'): splits.warn_of_ids(L.check_patients(['1', 'Total']))


# ---- folds

def folds(values, **kw):
    table, images = pd.DataFrame(dict(f=values), **kw), np.zeros((6, 8, 8), np.uint8)
    return data.CXRDataset(images, np.eye(6, 2), patient_id=[1, 1, 2, 2, 3, 3], meta=table)


@pytest.mark.parametrize('one, other', [('Test', 'test'), ('te st', 'test')])
def test_folds_in_two_spellings_are_refused(one, other):
    with pytest.raises(ValueError, match='spelling only'):
        data.hold_out(folds([one]*2 + [other]*2 + ['train']*2), 'test', 'f')


def test_only_digits_are_numbers_of_folds():
    assert [splits.parse_fold(fold) for fold in ('1_0', '1e3', '01', '3.0', 3)] == ['1_0', '1e3', '1', '3', '3']
    assert data.hold_out(folds(['1_0', '1_0', '10', '10', 'b', 'b']), '10', 'f')[1].tolist() == [2, 3]


def test_a_column_of_folds_that_stands_twice_is_refused():
    table = folds([0, 0, 1, 1, 2, 2])
    table.meta['f.1'] = [1, 1, 0, 0, 2, 2]
    with pytest.raises(ValueError, match='more than once'): data.hold_out(table, 0, 'f')


@pytest.mark.parametrize('number', [2., 2.5, True, '3'])
def test_the_number_of_folds_is_a_whole_number(number):
    with pytest.raises(ValueError, match='whole number'): splits.patient_folds([1, 2, 3], None, number)


def test_parts_that_share_images_are_refused_without_patients():
    whole = data.CXRDataset(IMAGES, np.eye(4, 2))
    with pytest.raises(ValueError, match='1 images are in both parts, rows 2'):
        data.dataloaders(whole.subset([0, 1, 2]), whole.subset([2, 3]), batch_size=2)


@pytest.mark.parametrize('size', [0, -1, 2., True, '8', float('nan')])
def test_the_size_of_a_batch_is_a_whole_number(size):
    with pytest.raises(ValueError, match='batch_size'): data.batch_sampler(np.ones((4, 2), bool), batch_size=size)


# ---- .npz

@pytest.mark.parametrize('values', [[True, False], pd.to_datetime([0, 1]), [1j, 0]])
def test_rows_of_images_are_numbers(values):
    with pytest.raises(tables.NoSuchRow): tables.table_rows(pd.Series(values, dtype=object), 4, 'npz_row')


def test_an_npz_and_its_table_agree_on_the_order_of_the_images(tmp_path):
    file = npz(tmp_path, image_id=['a.png', 'b.png', 'c.png', 'd.png'])
    table = pd.DataFrame(dict(patient_id=[1, 2, 3, 4], Edema=[0, 1, 0, 1]))
    table['image_id'] = list('dcba')
    with pytest.raises(ValueError, match='row 1 .counted from 1. of the table is the image d.*but a by the .npz'):
        data.from_npz(file, table)
    right = data.from_npz(file, table.assign(npz_row=[3, 2, 1, 0]))
    assert right.rows.tolist() == [3, 2, 1, 0]


def test_labels_that_stand_twice_in_an_npz_are_refused(tmp_path):
    file = npz(tmp_path, labels=np.eye(4, 2), label_names=['a', 'a'], patient_id=[1, 2, 3, 4])
    with pytest.raises(ValueError, match='more than once'): data.from_npz(file, labels=['a'])


def test_one_label_may_have_one_name(tmp_path):
    file = npz(tmp_path, labels=np.eye(4, 1), label_names='Edema', patient_id=[1, 2, 3, 4])
    assert data.from_npz(file).label_names == ['Edema']


def test_arrays_of_objects_are_called_so(tmp_path):
    file = npz(tmp_path, labels=np.eye(4, 1), patient_id=np.array(['a', 'b', 'c', None], dtype=object))
    with pytest.raises(ValueError, match='Python objects.*astype'): data.from_npz(file)


# ---- metrics

G = np.random.default_rng(0)
Y = (G.random((60, 3)) < .4).astype(int)
S = np.clip(.3*Y + .7*G.random((60, 3)), 0, 1)
WHO = np.arange(60)//2


@pytest.mark.parametrize('wrong', [
    dict(n_boot=-5), dict(n_boot=2.5),
    dict(n_boot=0, level=95), dict(n_boot=0, bins=0), dict(n_boot=0, bins=2.5),
    dict(n_boot=0, groups=['g', 'g', 'h']), dict(n_boot=0, groups='Auto'),
    dict(n_boot=0, groups={0: ['g'], 1: 'g', 2: 'g'}),
    dict(n_boot=0, groups={0: 'macro', 1: 'g', 2: 'g'})])
def test_reports_refuse_what_they_cannot_follow(wrong):
    with pytest.raises(ValueError, match=[*wrong][-1]): M.report(S, Y, patient_id=WHO, **wrong)


@pytest.mark.parametrize('kind', [str, complex])
def test_scores_are_numbers(kind):
    with pytest.raises(ValueError, match='scores are numbers'): M.auroc(S.astype(kind), Y)


def test_thresholds_by_name_follow_the_labels():
    scores, y = (pd.DataFrame(table, columns=list('abc')) for table in (S, Y))
    with pytest.raises(ValueError, match='into one order'): M.f1(scores, y, pd.Series([.9, .5, .1], list('cba')))
    named = M.f1(scores, y, pd.Series([.1, .5, .9], list('abc')))
    assert np.array_equal(named, M.f1(S, Y, [.1, .5, .9]))


def test_rows_numbered_in_another_order_are_reported():
    with pytest.warns(UserWarning, match='sort_index'):
        M.auroc(pd.DataFrame(S), pd.DataFrame(Y).sample(frac=1, random_state=0))


@pytest.mark.parametrize('labels', [[-1], [.9], ['a']])
def test_means_are_over_labels_that_exist(labels):
    with pytest.raises(ValueError, match='mask, or indices'): M.macro([.1, .2, .9], labels)


@pytest.mark.parametrize('ratio', [True, '1/4', None, -1, np.nan])
def test_the_ratio_of_folds_is_a_number(ratio):
    with pytest.raises(ValueError, match='test_to_train'): M.corrected_interval([.1, .2, .3], ratio)
    assert M.corrected_interval([.1, .2, .3], np.array(.25)) == M.corrected_interval([.1, .2, .3], .25)


# ---- the shell

@pytest.mark.parametrize('source, given', [
    ('x.npz', dict(how=dict(fit='crop'))), ('x.npz', dict(root='images')), ('x.npz', dict(path='file')),
    ('x.npz', dict(packed='pack')), ('t.csv', dict(table='t.csv')), ('phantom', dict(labels=['Edema'])),
    ('phantom', dict(patient='p')), ('nih14', dict(uncertain=True)), ('t.csv', dict(rows=True))])
def test_options_that_the_data_do_not_use_are_refused(source, given):
    name, = given
    with pytest.raises(ValueError, match=rf'{name}=\.\.\. is for'): opening.check_used(source, given)


def test_options_that_the_data_use_pass():
    opening.check_used('t.csv', dict(root='.', path='file', packed='pack', how=dict(bits=12)))
    opening.check_used('x.npz', dict(table='t.csv', labels=['a'], how={}, rows=False))


def test_nothing_that_is_read_is_written_over(tmp_path):
    image, run = tmp_path/'a.png', tmp_path/'run'
    run.mkdir()
    for file in (image, run/'model.safetensors', run/'model.json'): file.write_bytes(b'kept')
    with pytest.raises(FileExistsError, match='would be lost'): reports.check_place(image, tmp_path/'.'/'a.png')
    for name in ('model.safetensors', 'model.json'):
        with pytest.raises(FileExistsError): reports.check_place(run/name, *opening.list_run_files(run))
    assert reports.check_place(run/'report.csv', *opening.list_run_files(run)) == run/'report.csv'


def test_an_argument_of_a_method_is_given_once():
    with pytest.raises(ValueError, match='backbone'): cli.merge_settings(dict(backbone='a'), backbone='b')
    assert cli.merge_settings(dict(backbone='a', lr=1), backbone=None) == dict(backbone='a', lr=1)


@pytest.mark.parametrize('wrong', ['#REF!', '#VALUE!', '#NAME?', '#DIV/0!', '#NUM!', '#BEZUG!', '#####'])
def test_what_a_spreadsheet_writes_for_no_value_is_no_patient(wrong):
    with pytest.raises(ValueError, match='2 rows have no patient id: rows 0, 2.*Fill them in'):
        L.check_patients([wrong, 'P1', wrong])
    assert L.check_patients(['#12', '#13', 'P#1!']).tolist() == ['#12', '#13', 'P#1!']
