"Who may import whom, the modules equal the notebooks, and what a line, a page and the table of contents look like."
import ast, importlib, io, json, os, re, shutil, subprocess, sys, tokenize
from collections import Counter
from pathlib import Path
import nbformat
import pytest

ROOT = Path(__file__).resolve().parent.parent
def is_hidden(path): return any(part.startswith(('.', '_')) for part in path.relative_to(ROOT).parts)


PAGES = sorted(p for p in (ROOT/'nbs').rglob('*.ipynb') if not is_hidden(p))
MODULES = sorted(p for p in (ROOT/'cxr_workbench').rglob('*.py') if p.name not in ('__init__.py', '_modidx.py'))
page = pytest.mark.parametrize('path', PAGES, ids=lambda p: p.relative_to(ROOT/'nbs').with_suffix('').as_posix())


def module_name(path): return '.'.join(path.relative_to(ROOT/'cxr_workbench').with_suffix('').parts)


module = pytest.mark.parametrize('path', MODULES, ids=module_name)

# ---- floors ----

# every module, from the ground up, and the modules of the workbench that it may import
GROUND = {
    'renamed': set(),
    'networks': set(),
    'signatures': {'renamed', 'networks'},
    'core': {'renamed'},
    'lines': set(),
    'states': {'lines'},
    'hierarchy': {'states'},
    'label_statistics': {'states'},
    'labels': {'states'},
    'chest': set(),
    'findings': {'states', 'chest'},
    'thorax': {'chest', 'findings'},
    'phantom': {'core', 'labels', 'label_statistics', 'thorax'},
    'formats': set(),
    'tiffs': {'formats'},
    'pictures': {'formats', 'tiffs'},
    'dicom_tags': {'formats'},
    'dicom_frames': {'formats', 'dicom_tags'},
    'dicom_bits': {'formats', 'dicom_tags'},
    'dicom': {'formats', 'pictures', 'dicom_tags', 'dicom_frames', 'dicom_bits'},
    'writing': set(),
    'progress': set(),
    'text_rows': set(),
    'reading': {'core', 'pictures', 'dicom', 'text_rows'},
    'shards': {'writing'},
    'packing': {'lines', 'reading', 'writing', 'shards', 'text_rows', 'progress', 'csv_tables', 'tables'},
    'files': {'writing', 'reading', 'packing'},
    'sheets': set(),
    'csv_tables': {'lines', 'states', 'sheets'},
    'answers': {'lines', 'states'},
    'tables': {'lines', 'states', 'csv_tables', 'answers'},
    'layouts': {'states', 'tables'},
    'filters': {'lines', 'states', 'tables', 'layouts'},
    'nih_sets': {'lines', 'states', 'tables', 'layouts', 'filters'},
    'chexpert_sets': {'states', 'tables', 'layouts', 'filters'},
    'mimic_sets': {'states', 'tables', 'layouts', 'filters'},
    'padchest_sets': {'states', 'tables', 'layouts', 'filters'},
    'vindr_sets': {'lines', 'tables', 'layouts', 'filters'},
    'vocabulary': {'states', 'csv_tables', 'layouts'},
    'catalogue': {'networks', 'layouts', 'filters', 'nih_sets', 'chexpert_sets', 'mimic_sets', 'padchest_sets',
                  'vindr_sets'},
    'splits': {'lines', 'core', 'labels', 'tables'},
    'columns': {'csv_tables', 'tables', 'splits', 'reading'},
    'sources': {'core', 'labels', 'text_rows', 'pictures', 'dicom', 'reading', 'packing', 'files', 'tables'},
    'finding_texts': set(),
    'roles': {'lines', 'states', 'dicom_tags', 'csv_tables', 'answers', 'tables', 'splits', 'columns', 'reading',
              'finding_texts'},
    'places': {'lines', 'csv_tables', 'reading', 'roles'},
    'copies': {'reading', 'roles', 'phantom'},
    'long_tables': {'lines', 'csv_tables', 'tables', 'roles', 'finding_texts'},
    'implied': {'states', 'hierarchy', 'csv_tables', 'roles'},
    'pack_checks': {'lines', 'packing', 'roles'},
    'films': {'csv_tables', 'dicom_tags', 'columns', 'reading', 'roles', 'splits'},
    'study_files': {'dicom_tags', 'reading', 'roles', 'places'},
}
DATA = {
    'dataset': {*GROUND},
    'holdout': {*GROUND, 'dataset'},
    'samplers': {*GROUND, 'dataset', 'holdout'},
    'table_images': {*GROUND, 'dataset'},
    'adapters': {*GROUND, 'dataset', 'table_images'},
    'annotation_sets': {*GROUND, 'dataset', 'table_images', 'adapters'},
    'data': {*GROUND, 'dataset', 'holdout', 'samplers', 'table_images', 'adapters', 'annotation_sets'},
    'packs': {*GROUND, 'dataset', 'data', 'pack_checks'},
    'streams': {*GROUND, 'dataset', 'data'},
}
BETWEEN = {
    'weights': set(),
    'backbone': {*GROUND, 'weights'},
    'losses': {*GROUND, 'data', 'backbone'},
    'heads': {*GROUND},
    'rivals': {*GROUND, 'heads', 'losses'},
    'consistency': {*GROUND, 'data', 'backbone'},
    'attention': {*GROUND, 'data', 'backbone'},
    'classifier': {*GROUND, 'backbone', 'losses', 'consistency'},
    'trust': {*GROUND, 'consistency', 'classifier'},
    'elastic': {'core'},
    'attacks': {'core'},
    'scan': {'core'},
}
PARTS = {   # of views
    'style': set(),
    'arrays': {'states'},
    'widget': {'style', 'signatures'},
    'overlays': {'style', 'arrays'},
    'charts': {'style', 'arrays'},
    'curves': {'style', 'arrays'},
    'probes': {'core', 'style', 'arrays', 'overlays', 'charts'},
    'relations': {'style', 'arrays', 'charts'},
}
SHARED = {*GROUND, *DATA, *BETWEEN}
BELOW = {*GROUND, *DATA}
BESIDE = {
    'views': {*GROUND, *PARTS},
    'pointing': {*GROUND},
    'programs': {*GROUND},
    'scores': {*GROUND},
    'intervals': {*GROUND, 'scores'},
    'metrics': {*GROUND, 'views', 'pointing', 'scores', 'intervals'},
    'evidence': {'views', 'intervals'},
    'stages': {*BELOW, 'backbone'},
    'checkpoints': {*BELOW},
    'saving': {*BELOW, 'programs'},
    'prediction': {*BELOW, 'metrics', 'programs', 'saving'},
    'learner': {*BELOW, 'views', 'metrics', 'stages', 'checkpoints', 'saving', 'prediction'},
    'explain': {*BELOW, 'views', 'metrics'},
    'homes': {*BELOW},
    'doctor': {*BELOW, 'homes'},
    'overlaps': {*BELOW, 'homes', 'doctor'},
    'opening': {*BELOW},
    'grouping': {*BELOW},
    'reports': {*BELOW, 'views', 'metrics', 'intervals', 'prediction', 'learner', 'exporting'},
    'evaluating': {*BELOW, 'views', 'metrics', 'learner', 'saving', 'prediction', 'checkpoints', 'opening', 'reports',
                   'grouping'},
    'comparing': {*BELOW, 'views', 'metrics', 'scores', 'intervals', 'opening', 'reports', 'evaluating'},
    'launcher': set(),
    'cards': {*BELOW, 'views', 'doctor', 'overlaps', 'reports', 'exporting'},
    'settings': {*GROUND},
    'commands': {'signatures', 'settings', 'catalogue', 'csv_tables', 'reading', 'opening'},
    'trees': {*GROUND},
    'protocols': {*GROUND},
    'obtained': {*GROUND, 'views', 'intervals', 'metrics', 'protocols'},
    'reproduce': {*BELOW, 'views', 'learner', 'opening', 'reports', 'trees', 'protocols', 'obtained'},
    'sweeps': {'networks', 'writing', 'settings'},
    'cases': {*SHARED, 'style', 'views', 'metrics', 'prediction', 'explain', 'opening'},
    'outcomes': {*SHARED, 'views', 'cases'},
    'choosing': {*BELOW, 'opening'},
    'arrivals': {*BELOW, 'saving', 'prediction', 'opening', 'choosing'},
    'exporting': {*BELOW, 'style', 'views', 'opening'},
    'workbench': {*SHARED, 'views', 'widget', 'saving', 'prediction', 'explain', 'cases', 'outcomes', 'choosing',
                  'arrivals', 'exporting', 'live'},
    'live': {*SHARED, 'style', 'views', 'widget', 'learner', 'cases', 'checkpoints', 'opening', 'saving'},
    'remembering': set(),
    'app': {'writing', 'workbench', 'remembering'},
    'cli': {*BELOW, 'views', 'metrics', 'learner', 'explain', 'doctor', 'overlaps', 'opening', 'reports',
            'evaluating', 'comparing', 'launcher', 'cards', 'settings', 'commands', 'reproduce', 'sweeps', 'app'},
}
FLOORS = GROUND | DATA | BETWEEN | PARTS | BESIDE   # module -> the modules of the workbench that it may import
LATER = {   # pages of one paper
    'methods.can': {'methods.can_agreement'},
    'methods.trcgl': {'methods.trcgl_losses'},
    'methods.trcgl_requests': {'methods.trcgl_diffusion'},
}
HEAVY = {
    'lightning', 'timm', 'sklearn', 'plotly', 'kornia', 'captum', 'pydicom', 'diffusers', 'transformers',
    'openpyxl', 'IPython', 'nbdev', 'fastcore'}
MAY_LOAD = {   # at import; lightning's metrics load transformers where it is installed
    **dict.fromkeys([*PARTS, 'views', 'exporting', 'workbench'], {'plotly'}),
    **dict.fromkeys(['checkpoints', 'learner'], {'lightning', 'transformers'}),
    'live': {'plotly', 'lightning', 'transformers'},
}


def floor(name):
    "What a module may import: a method what is shared and no other method, a later page of a paper an earlier one."
    if name.startswith('methods.'): return SHARED | LATER.get(name, set())
    if name in FLOORS: return FLOORS[name]
    pytest.fail(f'cxr_workbench.{name} has no floor: enter it in FLOORS of tests/test_house.py', pytrace=False)


def absolute(node, package):
    "Full dotted names of an import statement; `from a import b` gives both a and a.b, because b may be a module."
    if isinstance(node, ast.Import): return [alias.name for alias in node.names]
    base = package[:len(package) - node.level + 1] if node.level else []
    base = '.'.join([*base, *(node.module or '').split('.')]).strip('.')
    return [base, *(f'{base}.{alias.name}' for alias in node.names)]


IMPORTERS = ('importlib.import_module', 'import_module', 'import_late', '__import__')


def imports(source, package):
    "Every dotted name that a module imports anywhere in it, inside functions too."
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Import, ast.ImportFrom)): yield from absolute(node, package)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in IMPORTERS:
            if node.args and isinstance(node.args[0], ast.Constant): yield node.args[0].value


def inner(names, known):
    "The modules of the workbench among dotted names; `cxr_workbench` itself and names inside a module are none."
    tails = {n.removeprefix('cxr_workbench.') for n in names if n.startswith('cxr_workbench.')} - {'__version__'}
    tops = {k.split('.')[0] for k in known}
    return {t for t in tails if t in known or t.split('.')[0] not in tops}


@module
def test_imports_stay_on_floors_below(path):
    name, known = module_name(path), set(map(module_name, MODULES)) | set(FLOORS)
    used = inner(imports(path.read_text(encoding='utf-8'), path.relative_to(ROOT).parent.parts), known) - {name}
    strange = used - floor(name)
    assert not strange, f'{name} imports {sorted(strange)}: it may import {sorted(floor(name))}'


@module
def test_no_module_needs_the_tools_of_its_making(path):
    tops = {n.split('.')[0] for n in imports(path.read_text(encoding='utf-8'), path.relative_to(ROOT).parent.parts)}
    assert not tops & {'nbdev', 'fastcore', 'IPython', 'execnb', 'jupytext'}


@pytest.mark.parametrize('source, found', [
    ('from cxr_workbench.views import explore', {'views'}),
    ('from ..views import explore', {'views'}),
    ('from .. import views', {'views'}),
    ('import cxr_workbench.methods.can as c', {'methods.can'}),
    ('from . import can', {'methods.can'}),
    ('from .can import CAN', {'methods.can'}),
    ('def f():\n  from cxr_workbench import views', {'views'}),
    ('import importlib\nimportlib.import_module("cxr_workbench.cli")', {'cli'}),
    ('from cxr_workbench import __version__', set()),
    ('from cxr_workbench.attic import x', {'attic', 'attic.x'}),
    ('import torch', set())])
def test_the_reader_of_imports_sees(source, found):
    known = {'views', 'cli', 'methods.can', 'methods.mpc'}
    assert inner(imports(source, ('cxr_workbench', 'methods')), known) == found


IMPORT_ALL = """
import importlib, json, sys
heavy, names = json.loads(sys.argv[1])
found = {}
for name in names:
    before = set(sys.modules)
    importlib.import_module(f'cxr_workbench.{name}')
    found[name] = sorted(set(heavy) & (set(sys.modules) - before))
print(json.dumps(found))
"""


def import_in_order(heavy, names):
    "Import these modules in one process, one after the other: module -> packages of `heavy` that it was first to load."
    command = [sys.executable, '-c', IMPORT_ALL, json.dumps([sorted(heavy), names])]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope='module')
def loaded_early():
    "Module -> heavy packages that importing it loads; one process for the modules that may load the same."
    groups, found = {}, {}
    for name in map(module_name, MODULES): groups.setdefault(frozenset(MAY_LOAD.get(name, ())), []).append(name)
    for names in groups.values(): found |= import_in_order(HEAVY, names)
    return found


@module
def test_import_is_light(path, loaded_early):
    "Importing a module loads no heavy package that only one of its functions uses."
    name = module_name(path)
    early = set(loaded_early[name]) - MAY_LOAD.get(name, set())
    assert not early, f'import cxr_workbench.{name} loads {sorted(early)}: import it in the function that uses it'


WITHOUT_TORCH = ['renamed', 'networks', 'signatures', 'states', 'labels', 'tables', 'scores', 'pointing', 'intervals',
                 'metrics', 'views', 'files', 'phantom', 'evidence', 'roles', 'places', 'copies', 'catalogue',
                 'trees', 'protocols', 'obtained', 'reproduce']


def test_tables_measures_and_pictures_start_without_torch():
    found = import_in_order({'torch'}, WITHOUT_TORCH)
    assert not [name for name, loaded in found.items() if loaded]


# ---- notebooks to library ----

def directives(source):
    "The `#| name arguments` lines at the head of a cell, as lists of words."
    head = re.match(r'(\s*#\|.*\n?)*', source).group()
    return [line.strip()[2:].split() for line in head.splitlines() if line.strip()[2:].split()]


def cells(path): return nbformat.read(path, as_version=4).cells
def code_cells(path): return [c for c in cells(path) if c.cell_type == 'code']
def words(cell): return [d for d in directives(cell.source) if cell.cell_type == 'code']
def is_exported(cell): return any(w[0] in ('export', 'exporti', 'exports') for w in words(cell))


def body(cell):
    "The statements of a code cell, magics and shell lines left out."
    return ast.parse(re.sub(r'^\s*[%!].*$', '', cell.source, flags=re.M)).body


@pytest.fixture(scope='module')
def exported(tmp_path_factory):
    "A tree with the notebooks and no module, exported."
    tree, env = tmp_path_factory.mktemp('tree'), {k: v for k, v in os.environ.items() if k != 'IN_TEST'}
    shutil.copy(ROOT/'settings.ini', tree)
    for path in PAGES:
        copy = tree/path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)
    command = [sys.executable, '-c', 'from nbdev.doclinks import nbdev_export; nbdev_export()']
    env['XDG_CONFIG_HOME'] = str(tree/'config')
    done = subprocess.run(command, cwd=tree, timeout=300, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return tree/'cxr_workbench'


def test_every_module_comes_from_a_notebook(exported):
    have, want = ({p.relative_to(d).as_posix() for p in d.rglob('*.py')} for d in (ROOT/'cxr_workbench', exported))
    strange, missing = sorted(have - want), sorted(want - have)
    assert have == want, f'no notebook exports {strange}; not committed: {missing}. Run make export'


EXPORTED = sorted((ROOT/'cxr_workbench').rglob('*.py'))


@pytest.mark.parametrize('path', EXPORTED, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_module_equals_its_notebook(path, exported):
    fresh = exported/path.relative_to(ROOT/'cxr_workbench')
    assert fresh.exists(), 'no notebook exports it'
    same = path.read_bytes() == fresh.read_bytes()
    assert same, f'{path.name} is not what its notebook exports: edit the notebook, then make export'


def test_no_module_has_two_notebooks():
    names = [w[1] for p in PAGES for c in code_cells(p) for w in words(c) if w[0] == 'default_exp']
    assert len(names) == len(set(names)), f'exported twice: {sorted({n for n in names if names.count(n) > 1})}'


@page
def test_page_exports_into_one_module(path):
    found = [w for c in code_cells(path) for w in words(c)]
    names = [w[1:] for w in found if w[0] == 'default_exp']
    exports = [w for w in found if w[0] in ('export', 'exporti', 'exports')]
    assert all(len(w) == 1 for w in exports), 'an export names a second module, which aborts nbdev halfway'
    assert [len(w) for w in names] == ([1] if exports else []), f'{len(exports)} exported cells, default_exp {names}'


# ---- a committed page ----

WIDGET = 'application/vnd.jupyter.widget-view+json'
PLOTLY = 'application/vnd.plotly.v1+json'
MACHINE = re.compile(r'/work/|/tmp/|/home/|/root/|/Users/|(?<![\w-])shared/')


@page
def test_page_keeps_its_size(path):
    code, source = len(code_cells(path)), sum(len(c.source.encode()) for c in cells(path))
    assert path.stat().st_size <= 1_500_000, f'{path.stat().st_size/1e6:.2f} MB with its pictures, at most 1.5'
    assert code <= 45, f'{code} code cells, at most 45: cut the page by what changes together'
    assert source <= 60_000, f'{source/1000:.1f} KB of source, at most 60'


# ---- lines and reading order ----

FOLDERS = ('cxr_workbench', 'tests', 'experiments', 'benchmarks', 'scripts', 'docs')
SOURCES = [path for folder in FOLDERS for path in sorted((ROOT/folder).rglob('*.py')) if path.name != '_modidx.py']
LAYOUT = {tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.COMMENT, tokenize.ENDMARKER}


def count_tokens(source):
    "Line number -> tokens that begin there; comments and layout are none."
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return Counter(token.start[0] for token in tokens if token.type not in LAYOUT)


def check_lines(source, name):
    written = source.splitlines()
    long = [n for n, line in enumerate(written, 1) if len(line) > 120 and not line.startswith('__all__ = [')]
    crowded = [n for n, count in count_tokens(source).items() if count >= 40]
    assert not long and not crowded, f'{name}: lines over 120 characters {long}, lines of 40 tokens {crowded}'


@pytest.mark.parametrize('path', SOURCES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_a_line_holds_one_thought(path):
    "At most 120 characters and fewer than 40 tokens; nbdev wraps its list of names ten characters later."
    check_lines(path.read_text(encoding='utf-8'), path.name)


@page
def test_a_line_of_a_page_holds_one_thought(path):
    for i, cell in enumerate(code_cells(path)):
        source = re.sub(r'^\s*[%!].*$', '', cell.source, flags=re.M)
        check_lines(source, f'code cell {i}')


def bound_names(tree):
    "Names that a cell binds anywhere: variables, arguments, functions, imports."
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store): yield node.id
        elif isinstance(node, ast.arg): yield node.arg
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)): yield node.name
        elif isinstance(node, ast.alias): yield (node.asname or node.name).split('.')[0]
        elif isinstance(node, ast.ExceptHandler) and node.name: yield node.name


def used_names(tree):
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}


@page
def test_page_reads_downwards(path):
    "Nothing is used before the cell that defines it, in the body of a function neither."
    trees = [ast.Module(body(cell), []) for cell in code_cells(path)]
    bound = [set(bound_names(tree)) for tree in trees]
    early = {}
    for i, tree in enumerate(trees):
        here = set().union(*bound[:i + 1])
        below = set().union(*bound[i + 1:])
        early |= dict.fromkeys((used_names(tree) - here) & below, i)
    assert not early, f'used before their definition (name: code cell): {early}'


@page
def test_page_opens_with_name_and_purpose(path):
    first = cells(path)[0]
    says = first.cell_type == 'markdown' and re.match(r'# (.+)\n+> .+', first.source)
    assert says, 'the first cell is "# title" and "> what it is for"'
    assert ': ' in says[1] or path.stem == 'index', f'the title {says[1]!r} says what the page is: "# name: what it is"'


def find_data(path):
    "Cell number and data, by kind, of every output of a page that has some."
    for i, cell in enumerate(cells(path)):
        for output in cell.get('outputs', []):
            if output.get('data'): yield i, output.data


@page
def test_page_carries_no_widget(path):
    nb = nbformat.read(path, as_version=4)
    assert 'widgets' not in nb.metadata, 'widget state: run make execute'
    assert not [i for i, data in find_data(path) if WIDGET in data], 'a widget view: run make execute'


@page
def test_page_was_executed_without_error(path):
    bad = [i for i, c in enumerate(cells(path)) for o in c.get('outputs', []) if o.output_type == 'error']
    assert not bad, f'cells {bad} ended in an error'
    source = '\n'.join(c.source for c in code_cells(path))
    boxes = set(re.findall(r'^(\w+) *=.*(?:explore\(|Widget)', source, flags=re.M))   # a control is not kept
    code = [(i, c) for i, c in enumerate(cells(path)) if c.cell_type == 'code']
    empty = [i for i, c in code if shows_a_value(c, boxes) and not c.outputs]
    assert not empty, f'cells {empty} show a value that is not there: run make execute'


def shows_a_value(cell, boxes):
    "Whether the last line is an expression with a value: a name, a tuple, a comparison. A call may return nothing."
    statements = body(cell)
    if is_exported(cell) or not statements or cell.source.rstrip().endswith(';'): return False
    last = statements[-1]
    if not isinstance(last, ast.Expr) or isinstance(last.value, (ast.Call, ast.Constant)): return False
    return not {n.id for n in ast.walk(last) if isinstance(n, ast.Name)} & boxes


@page
def test_every_figure_has_a_picture(path):
    bare = [i for i, data in find_data(path) if PLOTLY in data and 'image/png' not in data]
    assert not bare, f'the figures of cells {bare} have no PNG beside them: run make execute'


@page
def test_every_figure_goes_without_the_button_that_uploads_it(path):
    layouts = [(i, data[PLOTLY].get('layout', {})) for i, data in find_data(path) if PLOTLY in data]
    public = [i for i, layout in layouts if 'sendChartToCloud' not in layout.get('modebar', {}).get('remove', [])]
    assert not public, (f'the figures of cells {public} offer to upload themselves: '
                        'end them with views.apply_style or views.keep_private')


TOOLS = {'nbdev', 'fastcore', 'execnb', 'jupytext', 'pytest', 'hypothesis', 'playwright', 'kaleido'}


@page
def test_page_runs_for_who_installed_the_wheel(path):
    statements = [ast.unparse(s) for c in code_cells(path) for s in body(c)]
    tops = {n.split('.')[0] for source in statements for n in imports(source, ())}
    assert not tops & TOOLS, 'a page needs a development tool'


@page
def test_page_names_no_machine(path):
    texts = [text for c in cells(path) for text in [c.source, *map(readable, c.get('outputs', []))]]
    found = {match.group() for text in texts for match in MACHINE.finditer(text)}
    assert not found, f'paths of the machine it was written on: {sorted(found)}'


def readable(output):
    "The text of an output: streams, errors, plain text and HTML, no pictures."
    data = [value for kind, value in output.get('data', {}).items() if kind.startswith('text/')]
    texts = [output.get('text', ''), *output.get('traceback', []), *data]
    return re.sub(r'data:[\w/+-]+;base64,[\w+/=]+', '', '\n'.join(map(str, texts)))


@page
def test_exported_cells_hold_one_thing(path):
    "One function or class, or constants, or imports: 45 lines, where parameters are not counted, and 110 for a class."
    for i, cell in enumerate(cells(path)):
        if not is_exported(cell): continue
        statements, lines = body(cell), len(cell.source.rstrip().splitlines()) - len(directives(cell.source))
        defined = [s.name for s in statements if isinstance(s, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))]
        imported = [s for s in statements if isinstance(s, (ast.Import, ast.ImportFrom))]
        assert len(defined) <= 1, f'cell {i} defines {defined}: one function or class a cell'
        alone = not imported or len(imported) == len(statements)
        assert alone, f'cell {i} mixes imports with code: imports have a cell of their own'
        if len(statements) == 1 and isinstance(statements[0], ast.FunctionDef):
            lines -= statements[0].body[0].lineno - statements[0].lineno
        most = 110 if any(isinstance(s, ast.ClassDef) for s in statements) else 45
        assert lines <= most, f'cell {i} ({", ".join(defined)}) has {lines} lines, at most {most}'


@page
def test_exported_cells_have_prose(path):
    "A sentence stands before or after every exported definition; a demonstration of it may stand between."
    lonely = [name for name, before, after in neighbours(cells(path)) if not before and not after]
    assert not lonely, f'no sentence before or after {lonely}'


def neighbours(found):
    "For every exported definition: its name, and whether prose stands before and behind it, no other export between."
    for i, cell in enumerate(found):
        names = [s.name for s in body(cell) if hasattr(s, 'name')] if is_exported(cell) else []
        if names: yield names[0], reaches_prose(reversed(found[:i])), reaches_prose(found[i+1:])


def reaches_prose(walk):
    for cell in walk:
        if cell.cell_type == 'markdown': return bool(re.search(r'^\s*[^#\s]', cell.source, flags=re.M))
        if is_exported(cell): return False
    return False


# ---- the table of contents says what is there ----

def exported_module(path):
    "The module that a page exports into; None where it exports nothing."
    names = [w[1] for c in code_cells(path) for w in words(c) if w[0] == 'default_exp']
    return names[0] if names else None


def read_table(text, heading):
    "The cells of the first table behind a heading, row by row, without its head."
    lines = iter(text.split(heading, 1)[1].splitlines())
    rows = []
    for line in lines:
        if line.startswith('|'): rows.append([cell.strip() for cell in line.strip().strip('|').split('|')])
        elif rows: break
    return rows[2:]


def read_tables(text, heading):
    "The rows of all tables of the section under a heading, without their heads."
    section = re.split(r'^## ', text.split(heading, 1)[1], maxsplit=1, flags=re.M)[0]
    tables = re.findall(r'(?:^\|.*\n)+', section, flags=re.M)
    return [row for table in tables for row in read_table(f'{heading}\n{table}', heading)]


def find_code(text): return re.findall(r'`([^`]+)`', text)


def is_method(module): return module is not None and module.startswith('methods.')


def test_readme_lists_every_page_beside_its_module():
    "Row by row: a page and the module that it exports. The page of a new method may be missing."
    listed = {}
    for row in read_tables((ROOT/'README.md').read_text(), '## What is here'):
        pages, modules = find_code(row[0]), find_code(row[1])
        assert len(pages) == len(modules) == 1 and row[2], f'a row with {pages} and {modules}'
        listed |= dict(zip(pages, modules))
    there = {path.stem: exported_module(path) for path in PAGES if exported_module(path)}
    assert listed.items() <= there.items(), f'README lists {sorted(set(listed.items()) - set(there.items()))}'
    missing = [page for page, module in there.items() if page not in listed and not is_method(module)]
    assert not missing, f'README lacks {missing}'


def test_the_index_links_to_every_page_once():
    "The page of a new method may be missing."
    source = '\n'.join(c.source for c in cells(ROOT/'nbs'/'index.ipynb') if c.cell_type == 'markdown')
    tables = [line for line in source.splitlines() if line.startswith('|')]
    linked = re.findall(r'\(([\w/]+\.ipynb)\)', '\n'.join(tables))
    home = ROOT/'nbs'
    there = {path.relative_to(home).as_posix(): exported_module(path) for path in PAGES if path.stem != 'index'}
    assert len(linked) == len(set(linked)) and set(linked) <= set(there)
    missing = [page for page, module in there.items() if page not in linked and not is_method(module)]
    assert not missing, f'the index lacks {missing}'


def test_contributing_has_the_floors_of_this_file():
    rows = read_table((ROOT/'CONTRIBUTING.md').read_text(), '## Floors')
    ground, data, between, methods, beside = [find_code(row[1]) for row in rows]
    assert (ground, data, between, beside) == ([*GROUND], [*DATA], [*BETWEEN], [*PARTS, *BESIDE])
    assert methods == ['methods.*']


@pytest.mark.parametrize('heading', ['## The way of a pixel', '## The way of a label'])
def test_a_way_takes_no_step_back(heading):
    "Ten lines; every name exists; no module of a line imports one of a later line."
    text = (ROOT/'CONTRIBUTING.md').read_text().split(heading, 1)[1].split('\n## ', 1)[0]
    lines = re.findall(r'^\d+\. .*$', text, flags=re.M)
    named = [re.findall(r'`((?:\w+\.)+\w+)[`(]', line) for line in lines]
    assert len(lines) == 10 and all(named)
    found = [name.rsplit('.', 1) for names in named for name in names]
    for module, name in found: assert hasattr(importlib.import_module(f'cxr_workbench.{module}'), name), (module, name)
    modules = list(dict.fromkeys(module for module, _ in found))
    back = [(early, later) for i, early in enumerate(modules) for later in modules[i+1:] if later in floor(early)]
    written = {module: (ROOT/'cxr_workbench'/f'{module}.py').read_text() for module in modules}
    steps = [(early, later) for early, later in back if f'from .{later} import' in written[early]]
    assert not steps, f'a step back: {steps}'


def test_ruff_finds_nothing():
    "Notebooks, tests, experiments, benchmarks and scripts, by ruff.toml."
    command = [sys.executable, '-m', 'ruff', 'check', '--quiet', '--no-cache', str(ROOT)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
