"Finding columns, files and findings in tables that other people made."
import gzip
import pandas as pd
import pytest
from cxr_workbench.labels import CHEXPERT, NIH14
from cxr_workbench.tables import Checks, find_column, find_labels, first_few
from cxr_workbench.tables import join_paths, keep_files, read_table, split_findings


@pytest.mark.parametrize('columns, files, patients', [
    (['path', 'patient_id'], 'path', 'patient_id'),
    (['Image Index', 'Patient ID'], 'Image Index', 'Patient ID'),
    (['File_Name', 'subject_id'], 'File_Name', 'subject_id'),
    (['image', 'Path', 'PatientID'], 'Path', 'PatientID'), (['study', 'age'], None, None),
])
def test_usual_columns(columns, files, patients):
    table = pd.DataFrame(columns=columns)
    assert find_column(table, 'image files') == files and find_column(table, 'patients') == patients


def test_two_columns_that_look_alike_are_not_guessed():
    table = pd.DataFrame(columns=['Patient ID', 'patient_id'])
    with pytest.raises(ValueError, match='name one'): find_column(table, 'patients')
    assert find_column(table, 'patients', 'patient_id') == 'patient_id'


def test_labels_in_the_order_of_the_table():
    assert find_labels(pd.DataFrame(columns=['Path', *CHEXPERT])) == CHEXPERT
    assert find_labels(pd.DataFrame(columns=['age', *NIH14[::-1]])) == NIH14[::-1]
    assert find_labels(pd.DataFrame(columns=['pleural_effusion', 'sex'])) == ['pleural_effusion']
    assert find_labels(pd.DataFrame(columns=['mine', 'sex']), ['mine']) == ['mine']


def test_tables_that_are_none(tmp_path):
    (tmp_path/'empty.csv').write_text('')
    (tmp_path/'header.csv').write_text('path,Edema\n')
    (tmp_path/'ragged.csv').write_text('a,b\n1,2\n1,2,3\n')
    (tmp_path/'binary.csv').write_bytes(bytes(range(128, 256))*9)
    (tmp_path/'cut.csv.gz').write_bytes(gzip.compress(b'path,Edema\n' + b'a.png,1\n'*500)[:40])
    for name in ('empty.csv', 'header.csv', 'ragged.csv', 'binary.csv', 'cut.csv.gz'):
        with pytest.raises(ValueError): read_table(tmp_path/name)
    for name in ('no.csv', '.'):
        with pytest.raises(FileNotFoundError): read_table(tmp_path/name)


def test_paths_are_joined_and_distinct(tmp_path):
    assert join_paths(['a/b.png', '/c.png'], '/root') == ['/root/a/b.png', '/c.png']
    with pytest.raises(ValueError, match=r'/root/a.png \(rows 0, 2\)'):
        join_paths(['a.png', 'b.png', 'x/../a.png'], '/root')
    for blank in (None, float('nan'), ' '):
        with pytest.raises(ValueError, match='row 1'): join_paths(['a.png', blank], '/root')


def test_findings():
    table = split_findings(pd.Series(['Hernia|Pleural_Thickening', 'No Finding']))
    assert list(table) == NIH14 and table.sum(1).tolist() == [2, 0] and table.Hernia[0] == 1
    for wrong in (['Effusion|effusion'], ['Effusion', None]):
        with pytest.raises(ValueError): split_findings(pd.Series(wrong))


def test_a_record_stops_at_what_is_missing_or_wrong(tmp_path):
    (tmp_path/'a.png').touch()
    checks = Checks()
    kept = keep_files(pd.DataFrame({'path': [str(tmp_path/'a.png'), str(tmp_path/'b.png')]}), checks)
    assert len(kept) == 1 and checks.frame().rows.tolist() == [1]
    with pytest.raises(FileNotFoundError, match='b.png'): checks.stop()
    with pytest.warns(UserWarning, match='b.png.*the 1 other rows'): checks.stop('skip')
    with pytest.raises(ValueError, match='skip'): checks.stop('ignore')
    checks.add('patients', 'wrong', 'two in one')
    with pytest.raises(ValueError, match='two in one'): Checks(checks[1:]).stop('skip')


def test_long_lists_are_cut():
    assert first_few(range(100), 3) == '0, 1, 2 and 97 more' and first_few([]) == ''
