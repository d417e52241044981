"Which page stands where: floors, groups of pages, and their order, which is that of nbs/index.ipynb."
import re
from typing import NamedTuple
from .pages import join


class Group(NamedTuple):
    "Pages that are listed together in the sidebar."
    name: str      # of its page, 'groups/NAME'
    title: str
    pages: str     # expression that the names of its pages match
    lead: str      # what the group is about, one sentence


FLOORS = {   # caption of the sidebar -> its groups; a page belongs to the first group that its name matches
    'Begin': [
        Group('tutorials', 'Tutorials', r'tutorials/', 'From a question to an answer, one page each.')],
    'Foundations': [
        Group('words', 'Words and names', r'glossary$|00[be]_|00d_', 'What is meant, everywhere.'),
        Group('phantom', 'The contract and the phantom', r'00|01_|01a_|01j_',
              'What a method is, and the painted thorax whose truth is known.')],
    'Data': [
        Group('pixels', 'Files and pixels', r'01a|01b_', 'From a file of any kind to numbers in [0, 1].'),
        Group('tables', 'Tables', r'01b|01c_|01c[ab]_', 'From a file of rows to labels and patients.'),
        Group('collections', 'Public collections', r'01c[c-hj]_', 'What each public collection calls its columns.'),
        Group('checks', 'Splits and checks', r'01[de]_|01i[1-3]_|01i_|01i[ab]_',
              'Who is on which image, what is held out, and what would train wrongly.'),
        Group('datasets', 'Data sets and batches', r'01|02_|02[bc]_',
              'Images beside labels, and which rows share a batch.')],
    'Methods': [
        Group('parts', 'Shared parts', r'02a_|0[345]|06_', 'What several methods share.'),
        Group('methods', 'Methods', r'[1-6]\d', 'One paper a page; the baseline first.'),
        Group('comparisons', 'Comparisons', r'9', 'The methods side by side, and what holds of their claims.')],
    'Bench': [
        Group('bench', 'The bench', r'8[1-9]', 'Your images and runs in the pictures of the pages.')],
    'Tools': [
        Group('pictures', 'Pictures', r'06|07_', 'Every picture is a function.'),
        Group('measures', 'Measures', r'07|08_|08f_|70_', 'How good a score or a map is, and how sure that is.'),
        Group('training', 'Training', r'08|09', 'How a recipe is trained, saved, killed and resumed.'),
        Group('shell', 'From a shell', r'79|80', 'The same without Python.'),
        Group('papers', "The papers' experiments", r'7', 'From the data to the published number.')],
}


class Entry(NamedTuple):
    "A page as the index lists it."
    name: str     # without its ending
    title: str    # short
    says: str     # which question it answers


def read_index(notebook):
    "Entries of the tables of the index, in their order."
    text = '\n'.join(join(cell['source']) for cell in notebook['cells'] if cell['cell_type'] == 'markdown')
    rows = re.findall(r'^\| \[([^\]]+)\]\(([\w/]+)\.ipynb\) \| (.*) \|$', text, re.M)
    return [Entry(name, title, says) for title, name, says in rows]


def read_title(notebook):
    "Short title and subtitle of a notebook that the index does not list."
    head = join(notebook['cells'][0]['source'])
    title = re.match(r'# ([^:\n]+)', head)
    subtitle = re.search(r'^> (.*)$', head, re.M)
    return (title[1] if title else ''), (subtitle[1] if subtitle else '')


def list_entries(notebooks):
    "Every page but the index, as entries: in the order of the index, then by name."
    listed = [entry for entry in read_index(notebooks['index']) if entry.name in notebooks]
    known = {entry.name for entry in listed} | {'index'}
    rest = [Entry(name, *read_title(notebooks[name])) for name in sorted(notebooks) if name not in known]
    return listed + rest


def group_entries(entries):
    "Caption -> list of (group, its entries); ValueError for a page that no group takes."
    groups = [group for floor in FLOORS.values() for group in floor]
    taken = {group.name: [] for group in groups}
    for entry in entries:
        mine = next((group for group in groups if re.match(group.pages, entry.name)), None)
        if mine is None:
            raise ValueError(f'{entry.name}.ipynb is in no group: enter it in FLOORS of docs/builder/navigation.py')
        taken[mine.name].append(entry)
    found = {caption: [(g, taken[g.name]) for g in floor if taken[g.name]] for caption, floor in FLOORS.items()}
    return {caption: groups for caption, groups in found.items() if groups}


def write_toctree(entries, caption=None, hidden=True):
    "A MyST toctree of (title or None, document) pairs."
    options = (':hidden:\n' if hidden else '') + (f':caption: {caption}\n' if caption else '')
    lines = [f'{title} <{name}>' if title else name for title, name in entries]
    return '```{toctree}\n' + options + '\n' + '\n'.join(lines) + '\n```\n'


def write_group(group, entries):
    "The page of a group: what it is about, and which question each of its pages answers."
    rows = [f'| [{entry.title}](/{entry.name}.ipynb) | {entry.says} |' for entry in entries]
    table = '\n'.join(['| page | what it answers |', '|---|---|', *rows])
    tree = write_toctree([(entry.title, f'/{entry.name}') for entry in entries])
    return f'# {group.title}\n\n> {group.lead}\n\n{table}\n\n{tree}'


def write_root(grouped, first, last):
    "The toctrees of the front page; `first` and `last` are (title, document) pairs around the groups."
    trees = [write_toctree(first + [(g.title, f'groups/{g.name}') for g, _ in grouped.get('Begin', ())], 'Begin')]
    trees += [write_toctree([(g.title, f'groups/{g.name}') for g, _ in groups], caption)
              for caption, groups in grouped.items() if caption != 'Begin']
    return '\n'.join([*trees, write_toctree(last, 'Reference')])
