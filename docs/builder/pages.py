"A committed notebook becomes a page: figures live, exported code folded, controls named. No cell is run."
import ast, base64, hashlib, html, json, re
from dataclasses import dataclass, field
from pathlib import Path

FIGURE, PICTURE = 'application/vnd.plotly.v1+json', 'image/png'
CONTROLS = ('explore(', 'open_workbench(', 'LiveWidget(')
LINK = re.compile(r'\[([^\]\n]*)\]\(([\w./-]+\.ipynb)(#[^)\s]*)?\)')
ANCHOR = re.compile(r'<a href="([\w./-]+)\.ipynb(#[^"]*)?">(.*?)</a>')   # in folded answers, which are HTML


@dataclass
class Place:
    "Where a page lies in the site, and what else is built."
    name: str                # '05d_attacks', 'tutorials/reproduce_can'
    pictures: Path           # folder that PNGs are written into
    built: set = field(default_factory=set)      # names of all pages
    public: dict = field(default_factory=dict)   # module -> its public names
    explained: dict = field(default_factory=dict)   # public name -> 'page.html#name'

    @property
    def up(self): return '../'*self.name.count('/')


# ---- figures ----

def describe_output(output):   # a figure's output -> the figure in words
    said = output.get('metadata', {}).get(PICTURE, {})
    if said.get('alt'): return said['alt']
    import plotly.graph_objects as go
    from cxr_workbench.style import describe_figure
    figure = output['data'][FIGURE]
    return describe_figure(go.Figure(figure['data'], figure['layout']))


def keep_picture(encoded, place):
    "Write a PNG under the hash of its bytes; returns its address as the page sees it."
    content = base64.b64decode(encoded)
    name = f'{hashlib.sha1(content).hexdigest()[:16]}.png'
    place.pictures.mkdir(parents=True, exist_ok=True)
    (place.pictures/name).write_bytes(content)
    return f'{place.up}{place.pictures.name}/{name}'


def write_figure(figure, words, picture=''):
    "HTML of a live figure: its JSON for the script of the site, its picture for readers without scripts."
    layout = figure['layout']
    height, width = layout.get('height') or 450, layout.get('width')
    size = f'height:{height}px' + (f';width:{width}px' if width else '')
    data = json.dumps({name: figure[name] for name in ('data', 'layout')}, separators=(',', ':'))
    data = data.replace('</', '<\\/')
    words = html.escape(words, quote=True)
    plain = f'<noscript><img src="{picture}" alt="{words}" loading="lazy"></noscript>' if picture else ''
    return (f'<div class="live-figure" role="figure" aria-label="{words}">'
            f'<div class="plot" style="{size}"></div>'
            f'<script type="application/json">{data}</script>{plain}</div>')


def read_output(output, place):
    "An output of a notebook as the page shows it."
    data = output.get('data', {})
    if FIGURE not in data: return output
    words = describe_output(output)
    picture = keep_picture(data[PICTURE], place) if PICTURE in data else ''
    return dict(output_type='display_data', metadata={}, data={'text/html': write_figure(data[FIGURE], words, picture)})


# ---- code ----

def join(source): return source if isinstance(source, str) else ''.join(source)


def split_directives(source):
    "Words of the `#|` lines of a cell, and its code without them."
    lines = source.split('\n')
    marks = [line for line in lines if line.startswith('#|')]
    code = '\n'.join(line for line in lines if not line.startswith('#|')).strip('\n')
    return {word for mark in marks for word in mark[2:].split()[:1]}, code


def parse(code):
    try: return ast.parse(code).body
    except SyntaxError: return []


def title_code(code):
    "What an exported cell defines, as it is read when folded, its summary, and the names it binds."
    body = parse(code)
    names = [name for node in body for name in list_bound(node)]
    first = next((node for node in body if isinstance(node, (ast.FunctionDef, ast.ClassDef))), None)
    if names == ['_all_']: return 'names of other modules that are handed on', '', []
    if first is None:
        imports = body and all(isinstance(node, (ast.Import, ast.ImportFrom)) for node in body)
        return 'imports' if imports else ', '.join(names) or 'code', '', names
    if isinstance(first, ast.FunctionDef): head = f'{first.name}({ast.unparse(strip_types(first.args))})'
    else: head = f'class {first.name}' + (f'({", ".join(map(ast.unparse, first.bases))})' if first.bases else '')
    summary = (ast.get_docstring(first) or '').partition('\n')[0]
    return head, summary, sorted(names, key=lambda name: name != first.name)


def list_bound(node):
    "Names that a statement of a module defines."
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)): return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, 'target', None)]
    inner = [part for target in targets if target is not None for part in ast.walk(target)]
    return [part.id for part in inner if isinstance(part, ast.Name)]


def strip_types(arguments):   # ast.arguments without annotations
    for each in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg):
        if each is not None: each.annotation = None
    return arguments


def say(text):
    "A docstring as HTML: what stands in backticks is code."
    parts = html.escape(text).split('`')
    return ''.join(f'<code>{part}</code>' if i % 2 else part for i, part in enumerate(parts))


def fold_code(code, module, place):
    "Markdown of an exported cell: its signature and summary in sight, its code on demand."
    head, summary, names = title_code(code)
    public = [name for name in names if name in place.public.get(module, ())]
    anchor = f' id="{names[0]}"' if names else ''
    more = ''.join(f'<span id="{name}"></span>' for name in names[1:])
    said = f'<span class="says">{say(summary)}</span>' if summary else ''
    link = ''
    if public:
        address = f'{place.up}{address_reference(module)}#cxr_workbench.{module}.{public[0]}'
        link = f'<p class="to-reference"><a href="{address}">Reference: <code>{public[0]}</code></a></p>'
    fence = '````' if '```' in code else '```'
    kind = 'exported' if names else 'exported minor'
    return (f'<details class="{kind}"{anchor}>\n<summary><code>{html.escape(head)}</code>{said}{more}</summary>\n\n'
            f'{fence}python\n{code}\n{fence}\n\n{link}</details>')


def address_reference(module):   # of the page of a module, from the root of the site
    return f'api/cxr_workbench/{module.replace(".", "/")}/index.html'


def note_controls(place):
    "What stands where a page that runs has its controls."
    return ('<p class="controls-note">Controls stand here when the page runs: '
            f'<code>make lab</code>, then <code>{place.name}.ipynb</code>.</p>')


# ---- pages ----

def find_module(cells):   # name of the module that a notebook exports, '' for none
    for cell in cells:
        found = re.search(r'^#\| *default_exp +(\S+)', join(cell['source']), re.M)
        if cell['cell_type'] == 'code' and found: return found[1]
    return ''


def is_built(name, place):
    "Whether the page of this name, relative to another page, is in the site."
    parts = []
    for part in (*Path(place.name).parent.parts, *Path(name).parts):
        if part == '..' and parts: parts.pop()
        elif part != '.': parts.append(part)
    return '/'.join(parts) in place.built


def keep_links(text, place):
    "Links between pages stay where the page is built; elsewhere their words stay."
    def check(match): return match[0] if is_built(match[2].removesuffix('.ipynb'), place) else match[1]
    def rewrite(match):
        return f'<a href="{match[1]}.html{match[2] or ""}">{match[3]}</a>' if is_built(match[1], place) else match[3]
    return ANCHOR.sub(rewrite, LINK.sub(check, text))


CODE = re.compile(r'(?<![\[`\w])`([A-Za-z_][\w.]*)(\(\))?`(?![`\]])')


def link_names(text, place):
    "Public names in backticks lead to where they are explained; not in headings and blocks of code."
    def link(match):
        name = match[1].removeprefix('cxr_workbench.').rpartition('.')[2]
        if name not in place.explained: return match[0]
        words = f'<code class="literal">{match[1]}{match[2] or ""}</code>'
        return f'<a class="doclink" href="{place.up}{place.explained[name]}">{words}</a>'

    lines, fenced = text.split('\n'), False
    for i, line in enumerate(lines):
        if line.lstrip().startswith(('```', '~~~')): fenced = not fenced
        elif not fenced and not line.startswith(('#', '> ', '    ')): lines[i] = CODE.sub(link, line)
    return '\n'.join(lines)


def write_facts(module, place):
    "The line below a page's title: its notebook, its module, and the switch for all code."
    facts = [f'<code>nbs/{place.name}.ipynb</code>']
    if module in place.public:
        facts.append(f'<a href="{place.up}{address_reference(module)}"><code>cxr_workbench.{module}</code></a>')
    return (f'<div class="page-facts"><span>{" · ".join(facts)}</span>'
            '<button type="button" class="all-code" hidden>Show all code</button></div>')


def open_page(text, module, place):
    "The first cell: the facts of a page stand below its title and subtitle."
    facts = write_facts(module, place)
    found = re.match(r'(# [^\n]*\n+(?:>[^\n]*\n?)*)', text + '\n')
    head, rest = (found[1], (text + '\n')[found.end():]) if found else ('', text)
    return f'{head}\n{facts}\n\n{rest}'


def read_cell(cell, module, place):
    "A list of cells of the page for one cell of the notebook."
    if cell['cell_type'] != 'code':
        text = link_names(keep_links(join(cell['source']), place), place)
        return [dict(cell_type='markdown', metadata={}, source=text)]
    words, code = split_directives(join(cell['source']))
    outputs = [read_output(output, place) for output in cell.get('outputs', ())]
    if not code: return []
    if words & {'export', 'exporti', 'exports'} and not outputs:
        return [dict(cell_type='markdown', metadata={}, source=fold_code(code, module, place))]
    shown = [dict(cell_type='code', metadata={}, execution_count=None, source=code, outputs=outputs)]
    if outputs or not any(name in code for name in CONTROLS): return shown
    return [*shown, dict(cell_type='markdown', metadata={}, source=note_controls(place))]


def read_page(notebook, place, more=''):
    "A notebook (a dictionary) as the page that Sphinx reads; `more` is Markdown for its end."
    cells, module = notebook['cells'], find_module(notebook['cells'])
    out = [part for cell in cells for part in read_cell(cell, module, place)]
    if out and out[0]['cell_type'] == 'markdown': out[0]['source'] = open_page(out[0]['source'], module, place)
    if more: out.append(dict(cell_type='markdown', metadata={}, source=more))
    for i, cell in enumerate(out): cell['id'] = f'cell-{i}'
    kernel = dict(display_name='python3', language='python', name='python3')
    return dict(cells=out, metadata=dict(kernelspec=kernel), nbformat=4, nbformat_minor=5)
