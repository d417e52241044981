"What commands and functions say: in the spelling of the place, about the table at hand, with help for every option."
import inspect, os, re, subprocess, sys
import numpy as np
import pandas as pd
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner
from cxr_workbench import catalogue, doctor, reports
from cxr_workbench.cli import app
from cxr_workbench.commands import spell_message
from cxr_workbench.data import from_csv, get_patients
from cxr_workbench.dicom_tags import patients_from_headers
from cxr_workbench.roles import is_rounded

pydicom = pytest.importorskip('pydicom')


def shell(*arguments, status=0):
    "What a command prints, both streams."
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exit_code == status, result.output
    return result.output


# ---- two spellings ----

ONE = pd.DataFrame({'a': ['1']})
RAISED = [   # what a function says, the command, what a shell says
    (lambda: catalogue.get_official('brax'), 'fit', "leave fold='official' out", 'leave --fold official out'),
    (lambda: catalogue.get_official('chexpert', {'split': 'train'}), 'fit',
     "fold='official' holds out 'valid': leave split out of options=...",
     "--fold official holds out 'valid': leave split out of --option"),
    (lambda: doctor.drop_rows(ONE, ['b=1']), 'doctor', "leave_out='b=1': write", '--leave-out b=1: write'),
    (lambda: doctor.drop_rows(ONE, ['a=1']), 'doctor', 'leave_out=... leaves', '--leave-out leaves'),
    (lambda: from_csv(ONE), 'pack', 'name it, path=...', 'name it, --path')]


@pytest.mark.parametrize('call, name, in_python, in_shell', RAISED)
def test_a_message_is_spelled_as_its_place_spells(call, name, in_python, in_shell):
    from cxr_workbench import cli
    with pytest.raises(ValueError) as caught: call()
    assert in_python in str(caught.value) and ' --' not in str(caught.value)
    assert in_shell in spell_message(str(caught.value), getattr(cli, name), {})


@pytest.mark.parametrize('said, name, in_shell', [
    ('name it: pretrained="FILE";', 'fit', 'name it: --weights FILE;'),
    ('with verify=True:', 'pack', 'with --verify:'),
    ('one of start=... and data=...', 'fit', 'one of --from and --data'),
    ('with patient=..., or each_image=True', 'fit', 'with --patient, or --each-image-a-patient'),
    ('name one with sheet=..., of', 'pack', 'name one with --sheet, of'),
    ("out='x.txt': the", 'doctor', '--write x.txt: the')])
def test_a_shell_has_its_own_words(said, name, in_shell):
    from cxr_workbench import cli
    assert spell_message(said, getattr(cli, name), {}) == in_shell


SOURCES = ['catalogue', 'holdout', 'tables', 'weights', 'csv_tables', 'sheets', 'data', 'packing', 'packs', 'dataset']


@pytest.mark.parametrize('name', SOURCES)
def test_no_function_raises_in_the_spelling_of_a_shell(name):
    import importlib
    source = inspect.getsource(importlib.import_module(f'cxr_workbench.{name}'))
    raised = re.findall(r'(?:raise \w+|warnings\.warn)\((.*?)\)(?: from None)?\n(?! {10})', source, re.S)
    spelled = [text for text in raised if re.search(r"(?<!doctor TABLE) --[a-z]", text) and '--option {' not in text]
    assert raised and not spelled


# ---- help ----

def list_parameters():
    commands = typer.main.get_command(app).commands
    return [(name, parameter.name, parameter) for name, command in commands.items() for parameter in command.params]


def test_every_option_has_a_help_text():
    bare = [(command, name) for command, name, parameter in list_parameters() if not getattr(parameter, 'help', None)]
    assert bare == []


def test_the_module_is_the_command():
    command = [sys.executable, '-m', 'cxr_workbench.cli']
    def run(*words): return subprocess.run([*command, *words], capture_output=True, text=True)
    assert run('methods').stdout == shell('methods')
    wrong = run('data', 'nothing')
    assert wrong.returncode == 1 and wrong.stderr.startswith('error: no collection')


def test_the_load_of_a_machine_is_said():
    assert reports.say_load(.3, 2) == ''
    assert reports.say_load(3.14, 2) == ' while it stays as busy as now (3.1 programs on 2 cores)'
    assert '1 core)' in reports.say_load(1, 1) and isinstance(reports.say_load(), str)


# ---- identifiers ----

@pytest.mark.parametrize('texts, rounded', [
    (['12345678901234500000', '98765432109876500000'], [1, 1]),
    (['12345678901234500000', '98765432109876543210'], [0, 0]),
    (['12345678901234500000', '17'], [1, 0]),
    (['192000000000000000000', '19234'], [1, 0]),
    (['1.92E+38', '12345678901234567890'], [1, 0]),
    (['00012345000000000000', None], [0, 0]), (['1234567890123450000.0', 'x'], [1, 0])])
def test_long_identifiers_are_rounded_where_the_column_lost_digits(texts, rounded):
    assert is_rounded(texts).tolist() == list(map(bool, rounded))


# ---- doctor ----

def write_dicom(path, who, seed):
    ds = pydicom.Dataset()
    ds.file_meta = pydicom.dataset.FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    ds.SOPClassUID, ds.SOPInstanceUID, ds.PatientID = '1.2.840.10008.5.1.4.1.1.1.1', f'1.2.{seed}', who
    ds.Rows = ds.Columns = 32
    ds.SamplesPerPixel, ds.PixelRepresentation, ds.PhotometricInterpretation = 1, 0, 'MONOCHROME2'
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, 12, 11
    ds.PixelData = np.random.default_rng(seed).integers(0, 4096, (32, 32)).astype(np.uint16).tobytes()
    ds.save_as(path, enforce_file_format=True)


@pytest.fixture
def films(tmp_path):
    "Twelve DICOM files of six patients and a table that names none of them."
    for k in range(12): write_dicom(tmp_path/f'{k}.dcm', f'P{k//2}', k)
    rows = [(f'{k}.dcm', k%2, k//6) for k in range(12)]
    pd.DataFrame(rows, columns=['path', 'Edema', 'Mass']).to_csv(tmp_path/'t.csv', index=False)
    return tmp_path


@pytest.mark.filterwarnings('ignore:the table names no patients')
def test_headers_tell_the_patients(films):
    data = from_csv(films/'t.csv', size=16)
    with pytest.warns(UserWarning, match='6 patients of 12 images are taken from the headers'):
        assert get_patients(data).tolist() == [f'P{k//2}' for k in range(12)]
    said = shell('doctor', films/'t.csv', '--look', 0)
    assert 'told by the headers of the DICOM files' in said and '6 patients with up to 2 images' in said
    assert '--write repaired.csv' in said
    shell('doctor', films/'t.csv', '--look', 0, '--write', films/'new.csv')
    assert pd.read_csv(films/'new.csv').patient_id.tolist() == [f'P{k//2}' for k in range(12)]
    assert from_csv(films/'new.csv', size=16).patient_id[-1] == 'P5'


def test_headers_that_tell_nobody_apart(films, tmp_path):
    for k in range(12): write_dicom(films/f'{k}.dcm', 'ANON', k)
    assert patients_from_headers(films.glob('*.dcm')) is None
    assert 'nothing tells who is on the images' in shell('doctor', films/'t.csv', '--look', 0, status=1)
    with pytest.warns(UserWarning, match='Name their column: patient=...'): data = from_csv(films/'t.csv', size=16)
    with pytest.raises(ValueError, match='with patient=..., or say by hand .* with each_image=True'): get_patients(data)
    Image.fromarray(np.zeros((20, 20), np.uint8)).save(films/'a.png')
    assert patients_from_headers([films/'a.png']) is None and patients_from_headers([films/'gone.dcm']) is None


def test_what_a_written_table_mends_is_not_said_to_be_missing(films):
    (films/'3.dcm').unlink()
    before = shell('doctor', films/'t.csv', '--look', 0, status=1)
    assert re.search('^missing +image files: 1 of 12 files', before, re.M)
    after = shell('doctor', films/'t.csv', '--look', 0, '--write', films/'new.csv')
    assert not re.search('^missing', after, re.M)
    assert re.search('^mended +image files: 1 of 12 .*; not so in .*new.csv$', after, re.M)
    assert '11 of 12 rows written' in after and 'nothing in it would train wrongly' in after


def test_pictures_are_shown_by_both_options(films):
    from cxr_workbench.copies import LOOK
    words = LOOK.split()
    options = [name for command, _, parameter in list_parameters() if command == 'doctor' for name in parameter.opts]
    assert words == ['--card', 'FILE.html', '--show-images'] and {words[0], words[2]} <= {*options}
    assert os.path.splitext(words[1])[1] == '.html'
