"What is built: sdist and wheel hold the modules, the pages and nothing else, and ask for what they need."
import re, shutil, subprocess, sys, tarfile, zipfile
from configparser import ConfigParser
from email.parser import Parser
from pathlib import Path
import pytest

ROOT = Path(__file__).resolve().parent.parent
INI = ConfigParser(delimiters=['='])
INI.read(ROOT/'settings.ini', encoding='utf-8')
FACTS = INI['DEFAULT']
PAGES = {p.relative_to(ROOT/'nbs').as_posix() for p in (ROOT/'nbs').rglob('*.ipynb')
         if not any(part.startswith(('.', '_')) for part in p.relative_to(ROOT).parts)}
MODULES = {p.relative_to(ROOT).as_posix() for p in (ROOT/'cxr_workbench').rglob('*.py')}
TOOLS = {'nbdev', 'fastcore', 'execnb', 'ghapi', 'jupytext', 'pytest', 'pytest-xdist', 'hypothesis', 'playwright', 'kaleido'}


def build(tree, *what):
    "Run the build in a tree, with the packages that are installed."
    done = subprocess.run([sys.executable, '-m', 'build', '--no-isolation', *what, str(tree)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


@pytest.fixture(scope='module')
def tree(tmp_path_factory):
    "A copy of the checkout with what a build leaves behind: an old page and a checkpoint of JupyterLab."
    tree = tmp_path_factory.mktemp('checkout')/'tree'
    tree.mkdir()
    skip = shutil.ignore_patterns('__pycache__', '*.pyc', 'runs', 'shots', '.ipynb_checkpoints', 'kernel-ipc*')
    for name in ('cxr_workbench', 'nbs', 'scripts', 'tests', 'benchmarks'):
        if (ROOT/name).is_dir(): shutil.copytree(ROOT/name, tree/name, ignore=skip)
    for path in ROOT.iterdir():
        if path.is_file(): shutil.copy(path, tree)
    for old in ('build/lib/cxr_workbench/pages/gone.ipynb', 'nbs/.ipynb_checkpoints/00_core-checkpoint.ipynb'):
        (tree/old).parent.mkdir(parents=True)
        (tree/old).write_text('{}')
    return tree


@pytest.fixture(scope='module')
def from_checkout(tree):
    "The wheel that a checkout gives."
    build(tree, '--wheel', '--outdir', str(tree/'direct'))
    return zipfile.ZipFile(next((tree/'direct').glob('*.whl')))


@pytest.fixture(scope='module')
def from_sdist(tree):
    "The sdist, and the wheel that it gives."
    build(tree)
    return tarfile.open(next((tree/'dist').glob('*.tar.gz'))), zipfile.ZipFile(next((tree/'dist').glob('*.whl')))


@pytest.fixture(scope='module')
def metadata(from_checkout):
    return Parser().parsestr(from_checkout.read(next(n for n in from_checkout.namelist() if n.endswith('METADATA'))).decode())


def requirements(metadata):
    "{extra or '': {package names}}."
    found = {}
    for line in metadata.get_all('Requires-Dist'):
        extra = re.search(r'extra == [\'"](\w+)[\'"]', line)
        found.setdefault(extra.group(1) if extra else '', set()).add(re.match(r'[\w.-]+', line).group().lower())
    return found


def test_wheel_holds_modules_and_pages(from_checkout):
    names = {n for n in from_checkout.namelist() if '.dist-info/' not in n}
    assert {n for n in names if n.endswith('.py')} == MODULES
    assert {n.removeprefix('cxr_workbench/pages/') for n in names if n.endswith('.ipynb')} == PAGES
    assert {Path(n).suffix for n in names} <= {'.py', '.ipynb', '.safetensors', '.json', '.csv'}
    assert all(n.startswith('cxr_workbench/') for n in names)
    page = min(PAGES)
    assert from_checkout.read(f'cxr_workbench/pages/{page}') == (ROOT/'nbs'/page).read_bytes()


def test_wheel_carries_every_saved_model(from_checkout):
    models = {p.relative_to(ROOT).as_posix() for kind in ('*.safetensors', '*.json', '*.csv') for p in (ROOT/'cxr_workbench').rglob(kind)}
    assert {n for n in from_checkout.namelist() if n.endswith(('.safetensors', '.json', '.csv')) and '.dist-info/' not in n} == models


def test_sdist_gives_the_same_wheel(from_checkout, from_sdist):
    files = {n.split('/', 1)[-1] for n in from_sdist[0].getnames()}
    assert {f'nbs/{p}' for p in PAGES} | MODULES | {'settings.ini', 'LICENSE', 'README.md', 'tests/test_package.py', 'Makefile'} <= files
    assert not [f for f in files if 'checkpoint' in f or f.endswith('.pyc')]
    assert {n: from_checkout.getinfo(n).CRC for n in from_checkout.namelist() if '.dist-info/' not in n} == \
           {n: from_sdist[1].getinfo(n).CRC for n in from_sdist[1].namelist() if '.dist-info/' not in n}


def test_metadata_says_what_settings_say(metadata):
    assert (metadata['Name'], metadata['Version'], metadata['Requires-Python']) == ('cxr-workbench', FACTS['version'], '>=3.11')
    assert set(metadata.get_all('Provides-Extra')) == {'dicom', 'diffusion', 'dev', 'export', 'all'}
    assert 'Apache-2.0' in (metadata['License-Expression'] or metadata['License'])


def test_requirements_are_where_they_belong(metadata):
    found = requirements(metadata)
    assert {'torch', 'timm', 'lightning', 'jupyterlab', 'ipywidgets', 'anywidget', 'plotly', 'captum', 'pandas', 'typer'} <= found['']
    assert TOOLS <= found['dev'] and not TOOLS & set().union(*(v for k, v in found.items() if k != 'dev'))
    assert found['all'] == found['dicom'] | found['diffusion'] | found['export'] and 'pydicom' in found[''] and 'pylibjpeg' in found['dicom'] and 'diffusers' in found['diffusion']


def test_lightning_leaves_out_its_malicious_releases(metadata):
    from packaging.requirements import Requirement
    lightning, = (Requirement(r) for r in metadata.get_all('Requires-Dist') if r.startswith('lightning'))
    assert not any(lightning.specifier.contains(v) for v in ('2.6.2', '2.6.3')) and lightning.specifier.contains('2.6.4')


def test_command_starts_in_the_cli(from_checkout):
    points = ConfigParser(delimiters=['='])
    points.read_string(from_checkout.read(next(n for n in from_checkout.namelist() if n.endswith('entry_points.txt'))).decode())
    assert points['console_scripts']['cxr-workbench'] == 'cxr_workbench.cli:main'
    assert re.search(r'^def main\b|^main *=', from_checkout.read('cxr_workbench/cli.py').decode(), flags=re.M)


def test_versions_agree():
    import yaml
    citation = yaml.safe_load((ROOT/'CITATION.cff').read_text(encoding='utf-8'))
    assert citation['version'] == FACTS['version'] and f'"{FACTS["version"]}"' in (ROOT/'cxr_workbench'/'__init__.py').read_text()
    assert re.search(rf'^## \[{re.escape(FACTS["version"])}\]', (ROOT/'CHANGELOG.md').read_text(encoding='utf-8'), flags=re.M)
    assert citation['license'] == 'Apache-2.0' and len(citation['references']) == 5


def test_setup_needs_no_pkg_resources():
    "pkg_resources left setuptools; a build must not ask for it."
    assert 'pkg_resources' not in (ROOT/'setup.py').read_text()
