"The reference: public names with their parameters, as the comments beside them in the source say."
import ast, re
from functools import cache
from pathlib import Path
from typing import NamedTuple
from cxr_workbench.signatures import read_source

PACKAGE = 'cxr_workbench'


class Parameter(NamedTuple):
    "Parameters that share a comment."
    names: str            # 'x' or 'low, high'
    default: str | None   # as the source spells it; of several `a, b`
    meaning: str


class Description(NamedTuple):
    "A function or class as its source describes it."
    parameters: list
    returns: str    # the comment beside the return annotation
    raises: list    # (exception, message)


# ---- reading ----

@cache
def list_public(module):
    "Public names of a module (dotted name), in their order."
    source = read_source(module)
    for node in source.tree.body if source else ():
        if not isinstance(node, ast.Assign) or ast.unparse(node.targets[0]) != '__all__': continue
        return [ast.literal_eval(each) for each in getattr(node.value, 'elts', ())]
    return []


def find_modules(folder):
    "Short names of the modules below the package's folder that export something."
    paths = sorted(p for p in Path(folder).rglob('*.py') if not p.name.startswith('_'))
    names = ['.'.join(p.relative_to(folder).with_suffix('').parts) for p in paths]
    return [name for name in names if list_public(f'{PACKAGE}.{name}')]


@cache
def find_origin(module, name):
    "Module and name where a public name is defined; None where it comes from another package."
    source = read_source(module)
    if source is None: return None
    if source.find(name) is not None: return module, name
    found = source.find_origin(name)
    if found is None: return module, name    # a value
    return find_origin(*found) if found[0].startswith(PACKAGE) else None


@cache
def map_public(modules):
    "Name -> full dotted name, of the public names that have one origin; modules is a tuple of short names."
    found = {}
    for module in modules:
        for name in list_public(f'{PACKAGE}.{module}'):
            origin = find_origin(f'{PACKAGE}.{module}', name)
            if origin is not None: found.setdefault(name, set()).add('.'.join(origin))
    return {name: origins.pop() for name, origins in found.items() if len(origins) == 1}


def list_arguments(node):   # pairs (argument, default) of a function, without self
    spec = node.args
    plain = [*spec.posonlyargs, *spec.args]
    defaults = [None]*(len(plain) - len(spec.defaults)) + list(spec.defaults)
    pairs = [*zip(plain, defaults), *zip(spec.kwonlyargs, spec.kw_defaults)]
    pairs += [(each, None) for each in (spec.vararg, spec.kwarg) if each is not None]
    pairs.sort(key=lambda pair: (pair[0].lineno, pair[0].col_offset))
    return [(argument, default) for argument, default in pairs if argument.arg not in ('self', 'cls')]


def spell_argument(node, argument):   # with its stars
    stars = '*' if argument is node.args.vararg else '**' if argument is node.args.kwarg else ''
    return stars + argument.arg


def group_lines(items):
    "Parameters that stand on one line share its comment; items are (line, name, default, comment)."
    found = []
    for line, name, default, comment in items:
        if found and found[-1][0] == line:
            found[-1] = (line, [*found[-1][1], name], [*found[-1][2], default], comment)
        else: found.append((line, [name], [default], comment))
    return [Parameter(', '.join(names), spell_defaults(defaults), comment) for _, names, defaults, comment in found]


def spell_defaults(defaults):
    given = [default or 'none' for default in defaults]
    return None if not any(defaults) else given[0] if len(given) == 1 else ', '.join(given)


def read_arguments(node, comments):
    "Parameters of a function, and the comment beside what it returns."
    pairs = list_arguments(node)
    written = [node, *(part for pair in pairs for part in pair if part is not None)]
    last = max(part.lineno if part is node else part.end_lineno for part in written)
    single = last == node.lineno    # all on the line of `def`: the comment is about what is returned
    below = [comments[n] for n in range(node.lineno if single else last + 1, node.body[0].lineno) if n in comments]
    if single and not below: below = [comments.get(node.lineno, '')]
    spell = lambda default: None if default is None else ast.unparse(default)
    items = [(a.end_lineno, spell_argument(node, a), spell(d), '' if single else comments.get(a.end_lineno, ''))
             for a, d in pairs]
    if single: items = [(i, *rest[1:]) for i, rest in enumerate(items)]
    return group_lines(items), (below[0] if below else '')


def read_fields(node, comments):
    "Fields of a named tuple or dataclass."
    fields = [n for n in node.body if isinstance(n, ast.AnnAssign)]
    spell = lambda value: None if value is None else ast.unparse(value)
    return group_lines([
        (n.end_lineno, ast.unparse(n.target), spell(n.value), comments.get(n.end_lineno, '')) for n in fields])


def spell_message(node):   # of an exception, what is filled in stands in braces
    if isinstance(node, ast.Constant): return str(node.value)
    if isinstance(node, ast.JoinedStr): return ''.join(map(spell_message, node.values))
    if isinstance(node, ast.FormattedValue): return '{' + ast.unparse(node.value) + '}'
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return spell_message(node.left) + spell_message(node.right)
    if isinstance(node, ast.IfExp): return spell_message(node.body)
    return '{' + ast.unparse(node) + '}'


def read_raises(node):
    "Exceptions that a function raises itself, with their messages."
    found = [n.exc for n in ast.walk(node) if isinstance(n, ast.Raise) and isinstance(n.exc, ast.Call)]
    found = sorted(found, key=lambda call: call.lineno)
    errors = [call for call in found if re.fullmatch(r'[\w.]*(Error|Exit|Exception)', ast.unparse(call.func))]
    return [(ast.unparse(call.func), spell_message(call.args[0]) if call.args else '') for call in errors]


def find_node(full):   # 'cxr_workbench.core.Step' or 'cxr_workbench.core.Step.loss' -> (node, its comments)
    parts = full.split('.')
    for cut in (len(parts) - 1, len(parts) - 2):
        source = read_source('.'.join(parts[:cut]))
        if source is None: continue
        node = source.find(parts[cut])
        for inner in parts[cut+1:]:
            kinds = (ast.FunctionDef, ast.ClassDef)
            node = next((n for n in getattr(node, 'body', ()) if isinstance(n, kinds) and n.name == inner), None)
        if node is not None: return node, source.comments
    return None, {}


def describe(full):
    "Parameters, returned value and errors of a public name; None for a value."
    node, comments = find_node(full)
    if node is None: return None
    if isinstance(node, ast.FunctionDef): return Description(*read_arguments(node, comments), read_raises(node))
    start = next((n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == '__init__'), None)
    if start is None: return Description(read_fields(node, comments), '', [])
    return Description(read_arguments(start, comments)[0], '', read_raises(start))


# ---- writing ----

def to_rst(text, known=()):
    "Words of the source as reStructuredText: backticks are code, public names are links, nothing else is markup."
    if not text: return ''
    parts = text.split('`')
    if len(parts) % 2 == 0: parts = [text.replace('`', "'")]
    out = [write_code(part, known) if i % 2 else re.sub(r'([\\*_|])', r'\\\1', part) for i, part in enumerate(parts)]
    joined = ''
    for i, part in enumerate(out):
        if i and joined[-1:].isalnum() and part[:1] in '`:': joined += '\\ '
        elif i and i % 2 == 0 and part[:1].isalnum(): joined += '\\ '
        joined += part
    return joined


def write_code(part, known):   # what stood between backticks
    name = part.removesuffix('()')
    if name in known: return f':py:obj:`{part} <{known[name]}>`'
    return f'``{part}``' if part.strip() and part == part.strip() else part


def split_docstring(text):   # reStructuredText of a docstring's paragraphs
    paragraphs = re.split(r'\n\s*\n', (text or '').strip())
    return [' '.join(part.split()) for part in paragraphs if part.strip()]


def write_table(rows, name):
    "A list-table of parameters."
    lines = ['.. list-table::', f'   :class: {name}', '   :widths: auto', '']
    for row in rows:
        for i, cell in enumerate(row): lines.append(f'   {"* -" if i == 0 else "  -"} {cell}')
    return '\n'.join(lines)


def write_details(full, known):
    "reStructuredText of what the source says of a name, below its signature."
    found = describe(full)
    if found is None: return ''
    parts = []
    if any(each.meaning for each in found.parameters):
        rows = [(', '.join(f'``{name}``' for name in each.names.split(', ')),
                 to_rst(each.meaning, known) + (f' (default ``{each.default}``)' if each.default else ''))
                for each in found.parameters]
        parts.append(write_table(rows, 'parameters'))
    if found.returns: parts.append(f'**Returns** {to_rst(found.returns, known)}')
    if found.raises:
        lines = [write_error(*each) for each in found.raises]
        parts.append('**Raises**\n\n' + '\n'.join(dict.fromkeys(lines)))
    return '\n\n'.join(parts)


def write_error(kind, message):
    said = to_rst(shorten(message))
    return f'- ``{kind}``: {said}' if said else f'- ``{kind}``'


def shorten(text, most=200):
    text = ' '.join(text.split())
    return text if len(text) <= most else text[:most].rsplit(' ', 1)[0] + ' ...'


def write_more(module, known):
    "Names that a module hands on, as links to where they are defined."
    full = f'{PACKAGE}.{module}'
    handed = [(name, find_origin(full, name)) for name in list_public(full)]
    handed = [(name, origin) for name, origin in handed if origin and origin[0] != full]
    if not handed: return ''
    links = [f':py:obj:`{name} <{".".join(origin)}>`' for name, origin in handed]
    return 'Names of other modules that are used from here: ' + ', '.join(links) + '.'


# ---- names in the text of pages ----

def list_argument_names(modules):
    "Names of arguments and fields anywhere in the package."
    found = set()
    for module in modules:
        for node in ast.walk(read_source(f'{PACKAGE}.{module}').tree):
            if isinstance(node, ast.arg): found.add(node.arg)
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name): found.add(node.target.id)
    return found


def find_explained(modules, notebooks):
    """Public name -> address of its code on a page, from the root of the site.

    Only names that cannot be taken for another word: with an underscore or a capital, and no argument's name."""
    taken, found = list_argument_names(modules), {}
    for name, full in map_public(tuple(modules)).items():
        module = full.rpartition('.')[0].removeprefix(f'{PACKAGE}.')
        telling = '_' in name.strip('_') or name != name.lower()
        if telling and name not in taken and module in notebooks: found[name] = f'{notebooks[module]}.html#{name}'
    return found


# ---- what sphinx-autoapi calls ----

def connect(app, modules, notebooks):
    "Show only public names; `modules` are short names, `notebooks` maps a module to its page."
    known = map_public(tuple(modules))

    def skip(app, what, name, obj, skipped, options):
        module = name.removeprefix(f'{PACKAGE}.')
        if what in ('module', 'package'): return what == 'module' and module not in modules
        if what in ('function', 'class', 'data', 'exception'):
            place, _, short = name.rpartition('.')
            return short not in list_public(place) or find_origin(place, short) != (place, short)
        if what == 'attribute' or obj.inherited: return True
        return name.rpartition('.')[2].startswith('_')

    def prepare(environment):
        environment.globals.update(
            details=lambda obj: write_details(obj.id, known),
            summary=lambda obj: '\n\n'.join(to_rst(part, known) for part in split_docstring(obj.docstring)),
            more=lambda obj: write_more(obj.id.removeprefix(f'{PACKAGE}.'), known),
            page=lambda obj: find_page(obj.id, notebooks))

    app.connect('autoapi-skip-member', skip)
    app.config.autoapi_prepare_jinja_env = prepare


def find_page(full, notebooks):
    "Address of the page that explains a name, from the page of its module; '' where it has none."
    parts = full.removeprefix(f'{PACKAGE}.').split('.')
    for cut in range(len(parts), 0, -1):
        module = '.'.join(parts[:cut])
        if module not in notebooks: continue
        up = '../'*(2 + cut)
        return f'{up}{notebooks[module]}.html' + (f'#{parts[cut]}' if cut < len(parts) else '')
    return ''


def write_overview(grouped, modules, notebooks):
    "The front page of the reference: every module, with what it is about, by groups of pages."
    by_page = {page: module for module, page in notebooks.items()}
    parts = ['# Reference\n\n> Every public name with its parameters, shapes, units, defaults and errors, '
             'as the source says them, and a link to the page that explains it.\n']
    for groups in grouped.values():
        for group, entries in groups:
            rows = [(by_page[e.name], e.name) for e in entries if by_page.get(e.name) in modules]
            if not rows: continue
            lines = [f'| [{module}](/api/cxr_workbench/{module.replace(".", "/")}/index) | {find_purpose(module)} |'
                     for module, _ in rows]
            parts.append('\n'.join([f'## {group.title}', '', '| module | what |', '|---|---|', *lines, '']))
    tree = [(module, f'/api/cxr_workbench/{module.replace(".", "/")}/index') for module in modules]
    lines = '\n'.join(f'{title} <{name}>' for title, name in tree)
    return '\n'.join(parts) + '\n```{toctree}\n:hidden:\n\n' + lines + '\n```\n'


def find_purpose(module):   # the first line of a module's docstring
    source = read_source(f'{PACKAGE}.{module}')
    return (ast.get_docstring(source.tree) or '').partition('\n')[0].replace('|', r'\|')
