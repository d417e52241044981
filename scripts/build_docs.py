"""The site: static HTML from the executed notebooks, the source and the results; nothing is run and nothing is fetched.

    python scripts/build_docs.py                               # everything, into _docs/
    python scripts/build_docs.py --pages 05d_attacks --out a   # some pages, to look at
    python scripts/build_docs.py --mathjax                     # beforehand, once: MathJax by npm, into docs/mathjax/

Every internal link is followed; links to other hosts are listed in outside_links.txt beside index.html, not fetched.
Without MathJax the site is built all the same, and equations are shown as their source.
"""
import argparse, hashlib, json, os, re, shutil, subprocess, sys, tarfile, tempfile, time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DOCS, MATHJAX = ROOT/'docs', ROOT/'docs'/'mathjax'
sys.path[:0] = [str(DOCS), str(ROOT)]
from builder import links, navigation, pages, reference, results  # noqa: E402

PACKAGE = 'mathjax@3.2.2'
SHA512 = ('06df9249553c7811b6ef30a155ec0e89c62ced7b1db78d2a9b8f94a47c97ee4d'
          '3f3bd36588f73ec7bee4d7f144b0fb2328f64626fb5164cd6f3be81e5b43a11b')
SCRIPT = 'tex-svg-full.js'   # one file, without fonts of its own: browsers refuse those from file://


# ---- MathJax, beforehand ----

def fetch_mathjax(folder=MATHJAX):
    "Put MathJax's one script and its licence into a folder; refuses an archive with another checksum."
    if shutil.which('npm') is None: sys.exit('MathJax comes by npm, which is not here: install nodejs and npm.')
    with tempfile.TemporaryDirectory() as place:
        done = subprocess.run(['npm', 'pack', '--silent', PACKAGE], cwd=place, capture_output=True, text=True)
        found = list(Path(place).glob('*.tgz'))
        if done.returncode or not found: sys.exit(f'npm could not get {PACKAGE}:\n{done.stderr.strip()}')
        if hashlib.sha512(found[0].read_bytes()).hexdigest() != SHA512:
            sys.exit(f'{found[0].name} is not the archive that is meant: its SHA-512 differs. Nothing was kept.')
        folder.mkdir(parents=True, exist_ok=True)
        with tarfile.open(found[0]) as archive:
            for name, member in ((SCRIPT, f'package/es5/{SCRIPT}'), ('LICENSE', 'package/LICENSE')):
                (folder/name).write_bytes(archive.extractfile(member).read())
    print(f'{PACKAGE} is in {folder}')


# ---- what Sphinx reads ----

def read_notebooks(names=None):
    "Name -> notebook, of all pages or of those named and the index."
    paths = {p.relative_to(ROOT/'nbs').with_suffix('').as_posix(): p for p in sorted((ROOT/'nbs').rglob('*.ipynb'))}
    paths = {name: p for name, p in paths.items() if not any(part[0] in '._' for part in name.split('/'))}
    unknown = sorted(set(names or ()) - set(paths))
    if unknown: sys.exit(f'no page {", ".join(unknown)} in nbs/')
    chosen = paths if names is None else {name: paths[name] for name in ['index', *names]}
    return {name: json.loads(path.read_text(encoding='utf-8')) for name, path in chosen.items()}


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text if isinstance(text, str) else json.dumps(text, ensure_ascii=False), encoding='utf-8')


DOCUMENTS = {   # file of the project -> its page and the title there
    'README.md': ('readme', 'Install and use'),
    'CONTRIBUTING.md': ('contributing', 'Contributing'),
    'CHANGELOG.md': ('changes', 'Changes'),
}
ADDRESSES = {name: f'{page}.md' for name, (page, _) in DOCUMENTS.items()}
ADDRESSES |= {'nbs/tutorials': 'groups/tutorials.md', 'experiments/README.md': 'results/index.md'}
ADDRESSES |= {'experiments': 'results/index.md'}


def read_document(name, title, built):
    "A Markdown file of the project as a page: its own title, its links led to the pages of the site."
    text = (ROOT/name).read_text(encoding='utf-8')
    text = re.sub(r'\A# .*', f'# {title}', text)

    def lead(match):
        words, address = match[1], match[2]
        if re.match(r'https?:|#|mailto:', address): return match[0]
        address = ADDRESSES.get(address.rstrip('/'), address.removeprefix('nbs/'))
        return f'[{words}]({address})' if address.rpartition('.')[0] in built else words
    return re.sub(r'\[([^\]\n]*)\]\(([^)\s]+)\)', lead, text)


def stage(work, out, names=None):
    "Write all that Sphinx reads into a folder; returns the modules of the reference and module -> page."
    notebooks = read_notebooks(names)
    modules = reference.find_modules(ROOT/'cxr_workbench')
    by_module = {pages.find_module(nb['cells']): name for name, nb in notebooks.items()}
    by_module.pop('', None)
    if names is not None: modules = [module for module in modules if module in by_module]
    public = {module: reference.list_public(f'cxr_workbench.{module}') for module in modules}
    explained = reference.find_explained(modules, by_module)
    entries = [entry for entry in navigation.list_entries(notebooks) if entry.name != 'glossary']
    grouped = navigation.group_entries(entries)
    listed = [pair for groups in grouped.values() for pair in groups]
    first = [('Install and use', 'readme')] + [('Glossary', 'glossary')]*('glossary' in notebooks)
    last = [(title, page) for page, title in DOCUMENTS.values() if page != 'readme']
    last = [('Reference', 'reference'), ('Results', 'results/index'), *last]
    built = {*notebooks, 'results/index', *(page for page, _ in DOCUMENTS.values())}
    built |= {f'groups/{group.name}' for group, _ in listed}
    for name, notebook in notebooks.items():
        place = pages.Place(name, out/'_figures', built, public, explained)
        more = navigation.write_root(grouped, first, last) if name == 'index' else ''
        write(work/f'{name}.ipynb', pages.read_page(notebook, place, more))
    for group, mine in listed: write(work/'groups'/f'{group.name}.md', navigation.write_group(group, mine))
    for name, (page, title) in DOCUMENTS.items(): write(work/f'{page}.md', read_document(name, title, built))
    write(work/'reference.md', reference.write_overview(grouped, modules, by_module))
    stage_results(work, names)
    return modules, by_module


def stage_results(work, names):
    "The pages of results and the rows that they offer; a part of the site has the first page alone."
    written, rows = results.write_results(ROOT/'experiments', drawn=names is None)
    for name, text in written.items(): write(work/'results'/f'{name}.md', text)
    (work/'results'/'rows').mkdir(parents=True, exist_ok=True)
    for path in rows: shutil.copy(path, work/'results'/'rows')


def summarise(work, modules):
    "Page -> its subtitle, for the results of a search."
    found = {}
    for path in [*work.rglob('*.ipynb'), *work.rglob('*.md')]:
        text = path.read_text(encoding='utf-8')
        if path.suffix == '.ipynb': text = json.loads(text)['cells'][0]['source']
        subtitle = re.search(r'^# [^\n]*\n+> ([^\n]*)', text)
        if subtitle: found[path.relative_to(work).with_suffix('').as_posix()] = subtitle[1].replace('`', '')
    for module in modules:
        found[pages.address_reference(module).removesuffix('.html')] = reference.find_purpose(module)
    return found


def stage_static(folder, mathjax, summaries):
    "Scripts that come from packages: plotly's, MathJax; and what the site's own script reads."
    import plotly
    from cxr_workbench.style import INKS
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(Path(plotly.__file__).parent/'package_data'/'plotly.min.js', folder)
    write(folder/'inks.js', f'window.siteInks = {json.dumps(INKS)};\n')
    write(folder/'summaries.js', f'window.siteSummaries = {json.dumps(summaries, ensure_ascii=False)};\n')
    if mathjax:
        (folder/'mathjax').mkdir(exist_ok=True)
        for path in sorted(mathjax.iterdir()): shutil.copy(path, folder/'mathjax')


# ---- the build ----

def find_mathjax(folder=MATHJAX):
    "The folder with MathJax's script; None, and what to type, where it is not there."
    if (folder/SCRIPT).is_file(): return folder
    print('--- MathJax is not here: equations are shown as their source. `make mathjax` fetches it by npm, once.')
    return None


def run_sphinx(work, out, modules, by_module, mathjax, jobs):
    "Build the staged pages; returns the number of warnings, which are printed."
    from sphinx.application import Sphinx
    ignored = [str(ROOT/'cxr_workbench'/'_*.py')]
    settings = dict(cxr_modules=modules, cxr_notebooks=by_module, autoapi_ignore=ignored,
                    html_static_path=[str(DOCS/'static'), str(work/'_scripts')],
                    html_math_renderer='mathjax' if mathjax else 'source', mathjax_path=f'mathjax/{SCRIPT}')
    wanted = {ROOT/'cxr_workbench'/f'{module.replace(".", "/")}.py' for module in modules}
    ignored += [str(p) for p in (ROOT/'cxr_workbench').rglob('*.py') if p not in wanted and p.name != '__init__.py']
    app = Sphinx(work, DOCS, out, work.parent/f'{work.name}-trees', 'html', confoverrides=settings,
                 status=None, freshenv=True, parallel=jobs)
    app.build(force_all=True)
    return app._warncount


def clean_output(out):
    "Take out what only Sphinx itself reads."
    for name in ('.buildinfo', '.doctrees', 'objects.inv'):
        path = out/name
        if path.is_dir(): shutil.rmtree(path)
        elif path.exists(): path.unlink()


def measure(folder):   # MB
    return sum(path.stat().st_size for path in Path(folder).rglob('*') if path.is_file())/1e6


def build(out, work, names=None, jobs=1, mathjax=MATHJAX):
    "Build the site in a folder `work` and move it to `out`; returns faults of links, outside links and warnings."
    work, made = Path(work)/'source', Path(work)/'site'
    modules, by_module = stage(work, made, names)
    mathjax = find_mathjax(mathjax)
    stage_static(work/'_scripts', mathjax, summarise(work, modules))
    warnings = run_sphinx(work, made, modules, by_module, mathjax, jobs)
    clean_output(made)
    faults, outside = links.check_site(made)
    write(made/'outside_links.txt', ''.join(f'{address}\n' for address in sorted(outside)))
    shutil.rmtree(out, ignore_errors=True)
    shutil.move(made, out)
    return faults, outside, warnings


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('--out', type=Path, default=ROOT/'_docs', help='folder of the site, made anew')
    p.add_argument('--pages', nargs='+', help='pages of nbs/ without their ending; all where none is named')
    p.add_argument('--jobs', type=int, default=min(2, os.cpu_count() or 1), help='processes')
    p.add_argument('--mathjax', action='store_true', help='fetch MathJax by npm, and build nothing')
    o = p.parse_args()
    if o.mathjax: return fetch_mathjax()
    start = time.time()
    with tempfile.TemporaryDirectory(prefix='docs-') as place:
        faults, outside, warnings = build(o.out.resolve(), place, o.pages, o.jobs)
    pages_built = sum(1 for _ in o.out.rglob('*.html'))
    print(f'{o.out}: {pages_built} pages, {measure(o.out):.0f} MB, {time.time() - start:.0f} s; '
          f'{len(outside)} links to other hosts are listed in outside_links.txt')
    for page, address, wrong in faults: print(f'{page}: {address} {wrong}', file=sys.stderr)
    if faults or warnings: sys.exit(f'{len(faults)} links are wrong, {warnings} warnings')


if __name__ == '__main__': main()
