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


def is_hidden(path): return any(part.startswith(('.', '_')) for part in path.relative_to(ROOT).parts)


PAGES = {p.relative_to(ROOT/'nbs').as_posix() for p in (ROOT/'nbs').rglob('*.ipynb') if not is_hidden(p)}
MODULES = {p.relative_to(ROOT).as_posix() for p in (ROOT/'cxr_workbench').rglob('*.py')}
TOOLS = {
    'nbdev', 'fastcore', 'execnb', 'ghapi', 'jupytext', 'pytest', 'pytest-xdist', 'hypothesis', 'playwright', 'kaleido'}
DATA = ('.safetensors', '.json', '.csv')   # files of a saved model


def build(tree, *what):
    "Run the build in a tree, with the packages that are installed."
    command = [sys.executable, '-m', 'build', '--no-isolation', *what, str(tree)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
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


def read_member(wheel, ending):
    "The text of the one file of a wheel with this ending."
    name, = (n for n in wheel.namelist() if n.endswith(ending))
    return wheel.read(name).decode()


def is_metadata(name): return '.dist-info/' in name


@pytest.fixture(scope='module')
def metadata(from_checkout): return Parser().parsestr(read_member(from_checkout, '/METADATA'))


def requirements(metadata):
    "{extra or '': {package names}}."
    found = {}
    for line in metadata.get_all('Requires-Dist'):
        extra = re.search(r'extra == [\'"](\w+)[\'"]', line)
        found.setdefault(extra.group(1) if extra else '', set()).add(re.match(r'[\w.-]+', line).group().lower())
    return found


def test_wheel_holds_modules_and_pages(from_checkout):
    names = {n for n in from_checkout.namelist() if not is_metadata(n)}
    assert {n for n in names if n.endswith('.py')} == MODULES
    assert {n.removeprefix('cxr_workbench/pages/') for n in names if n.endswith('.ipynb')} == PAGES
    assert {Path(n).suffix for n in names} <= {'.py', '.ipynb', *DATA}
    assert all(n.startswith('cxr_workbench/') for n in names)
    page = min(PAGES)
    assert from_checkout.read(f'cxr_workbench/pages/{page}') == (ROOT/'nbs'/page).read_bytes()


def test_wheel_carries_every_saved_model(from_checkout):
    there = {p.relative_to(ROOT).as_posix() for p in (ROOT/'cxr_workbench').rglob('*') if p.suffix in DATA}
    carried = {n for n in from_checkout.namelist() if n.endswith(DATA) and not is_metadata(n)}
    assert carried == there


def test_sdist_gives_the_same_wheel(from_checkout, from_sdist):
    sdist, wheel = from_sdist
    files = {n.split('/', 1)[-1] for n in sdist.getnames()}
    named = {'settings.ini', 'LICENSE', 'README.md', 'tests/test_package.py', 'Makefile'}
    assert {f'nbs/{p}' for p in PAGES} | MODULES | named <= files
    assert not [f for f in files if f.endswith(('-checkpoint.ipynb', '.pyc'))]
    assert checksums(from_checkout) == checksums(wheel)


def checksums(wheel):
    "File -> checksum, metadata left out."
    return {n: wheel.getinfo(n).CRC for n in wheel.namelist() if not is_metadata(n)}


USED = 'dicom', 'diffusion', 'export', 'tables', 'stream', 'app', 'cluster'   # extras of those who use the package


def test_metadata_says_what_settings_say(metadata):
    assert metadata['Name'] == 'cxr-workbench' and metadata['Version'] == FACTS['version']
    assert metadata['Requires-Python'] == '>=3.11'
    assert set(metadata.get_all('Provides-Extra')) == {*USED, 'docs', 'dev', 'all'}
    assert 'Apache-2.0' in (metadata['License-Expression'] or metadata['License'])


def test_requirements_are_where_they_belong(metadata):
    found = requirements(metadata)
    assert {'torch', 'timm', 'lightning', 'pandas', 'typer', 'captum', 'pydicom'} <= found['']
    assert {'jupyterlab', 'ipywidgets', 'anywidget', 'plotly'} <= found['']
    assert TOOLS <= found['dev'] and not TOOLS & set().union(*(v for k, v in found.items() if k != 'dev'))
    assert found['all'] == set().union(*(found[name] for name in USED))
    assert 'pylibjpeg' in found['dicom'] and 'diffusers' in found['diffusion']
    assert found['tables'] == {'openpyxl', 'pyarrow'} and found['stream'] == {'litdata'}


def test_lightning_leaves_out_its_malicious_releases(metadata):
    from packaging.requirements import Requirement
    lightning, = (Requirement(r) for r in metadata.get_all('Requires-Dist') if r.startswith('lightning'))
    assert not any(lightning.specifier.contains(version) for version in ('2.6.2', '2.6.3'))
    assert lightning.specifier.contains('2.6.4')


def test_command_starts_in_the_cli(from_checkout):
    points = ConfigParser(delimiters=['='])
    points.read_string(read_member(from_checkout, '/entry_points.txt'))
    assert points['console_scripts']['cxr-workbench'] == 'cxr_workbench.cli:main'
    assert re.search(r'^def main\b|^main *=', from_checkout.read('cxr_workbench/cli.py').decode(), flags=re.M)


def test_versions_agree():
    import yaml
    citation = yaml.safe_load((ROOT/'CITATION.cff').read_text(encoding='utf-8'))
    version, changes = FACTS['version'], (ROOT/'CHANGELOG.md').read_text(encoding='utf-8')
    assert citation['version'] == version and f'"{version}"' in (ROOT/'cxr_workbench'/'__init__.py').read_text()
    assert re.search(rf'^## \[{re.escape(version)}\]', changes, flags=re.M)
    assert citation['license'] == 'Apache-2.0' and len(citation['references']) == 5


def test_setup_needs_no_pkg_resources():
    "pkg_resources left setuptools; a build must not ask for it."
    assert 'pkg_resources' not in (ROOT/'setup.py').read_text()
