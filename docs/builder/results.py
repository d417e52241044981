"The pages of results: tables and rows of experiments/results, drawn, under the words of experiments/README.md."
import importlib.util, json, re
from typing import NamedTuple
import pandas as pd
from .pages import write_figure
from .navigation import write_toctree

TOPICS = {   # how the README calls it -> page, files whose names begin so
    'Few labels': ('few_labels', ('few_labels', 'confident_entries', 'rivals-single-positive')),
    'Correlations and places': ('correlations', ('correlations', 'lcc_folds', 'agreement', 'where_it_looks')),
    'The long tail': ('long_tail', ('long_tail', 'label_graph', 'rivals-tail')),
    'Networks that start from photographs': ('pretrained', ('pretrained', 'gradients')),
}
FURTHER = 'further'
NUMBER = r'[+-]?(?:\d+\.?\d*|\.\d+)'
INTERVAL = re.compile(rf'^({NUMBER}) \[({NUMBER}), ({NUMBER})\]$')
MEASURES = dict(auroc='AUROC', ap='AP', f1='macro F1', tail_auroc='tail AUROC', tail_ap='tail AP', tail_f1='tail F1')


class Block(NamedTuple):
    "One table of a file of tables."
    title: str
    columns: list
    rows: list     # of lists of text
    text: str      # as it stands in the file, without its title


# ---- reading ----

def read_blocks(text):
    "The tables of a Markdown file, each under its heading."
    found = []
    for part in re.split(r'^### ', text, flags=re.M)[1:]:
        title, _, body = part.partition('\n')
        lines = [line for line in body.splitlines() if line.startswith('|')]
        cells = [[cell.strip() for cell in line.strip('|').split('|')] for line in lines]
        found.append(Block(title.strip(), cells[0] if cells else [], cells[2:], body.strip()))
    return found


def read_differences(block):
    "Cells such as `+.03 [+.01, +.05]` of columns `x - baseline`, as rows that show_differences takes."
    out = []
    for i, column in enumerate(block.columns):
        measure, _, baseline = column.partition(' - ')
        if not baseline or i == 0: continue
        panel = f'{MEASURES.get(measure, measure)} against {baseline}'
        for row in block.rows:
            found = INTERVAL.match(row[i]) if i < len(row) else None
            if not found: continue
            mean, low, high = map(float, found.groups())
            out.append(dict(block=panel, measure=measure, variant=row[0], mean=mean, low=low, high=high))
    return pd.DataFrame(out)


def split_readme(text):
    "Words before the results, what holds for all of them, and title -> words of each topic."
    method, _, rest = text.partition('## What came out so far')
    parts = re.split(r'^\*\*([^*\n]+)\*\*', rest, flags=re.M)
    topics = {title: words.strip() for title, words in zip(parts[1::2], parts[2::2])}
    method = re.sub(r'^# .*\n', '', method).strip()
    caveats = [title for title in topics if not find_topic(title)]
    general = '\n\n'.join([parts[0].strip(), *(f'**{title}**\n\n{topics.pop(title)}' for title in caveats)])
    return method, general, topics


def find_topic(title):   # name of its page, '' for none
    return next((page for start, (page, _) in TOPICS.items() if title.startswith(start)), '')


def read_commands(experiments):
    "Table -> the command that makes it from its rows."
    path = experiments/'all_tables.py'
    if not path.exists(): return {}
    spec = importlib.util.spec_from_file_location('all_tables', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return {name: ' '.join(command.split()) for name, command in module.COMMANDS.items()}


# ---- drawing ----

def embed(figure):
    "HTML of a figure that was drawn here."
    from cxr_workbench.style import describe_figure, keep_private
    return write_figure(json.loads(keep_private(figure).to_json()), describe_figure(figure))


def draw_differences(block):
    "The differences of a table with their intervals; '' where it has none."
    from cxr_workbench.views import show_differences
    table = read_differences(block)
    if not len(table): return ''
    shown = table[table['measure'].isin(list(dict.fromkeys(table['measure']))[:2])]
    return embed(show_differences(shown, axis='difference, with its 95 % interval'))


def draw_places(folder):
    "Pointing game above chance, for all labels together, of each model and way of looking."
    from cxr_workbench.views import show_differences
    parts = []
    for path in sorted(folder.glob('*-*.csv')):
        rows = pd.read_csv(path)
        rows = rows[rows['label'] == 'all']
        where = 'lesions of the phantom' if path.stem.startswith('phantom') else "experts' boxes"
        table = pd.DataFrame(dict(
            variant=rows['model'] + ', ' + rows['way'], mean=rows['pointing'] - rows['chance'],
            low=rows['pointing_low'] - rows['chance'], high=rows['pointing_high'] - rows['chance']))
        parts.append(table.assign(block=f'Maps on {where}', measure='hits'))
    if not parts: return ''
    return embed(show_differences(
        pd.concat(parts).sort_values('block', kind='stable'), axis='share of maps that hit, above chance'))


def draw_agreement(path):
    "What two branches agree on while they train, by reading of the loss; means over seeds."
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots
    from cxr_workbench.style import apply_style, line_style
    rows = pd.read_csv(path)
    panels = {'agree': 'agreement', 'differ': 'difference between images', 'hits': 'maps on lesions'}
    means = rows.groupby(['reading', 'step'], sort=False)[list(panels)].mean().reset_index()
    fig = make_subplots(1, len(panels), subplot_titles=list(panels.values()), horizontal_spacing=.08)
    for i, (reading, part) in enumerate(means.groupby('reading', sort=False)):
        for column, name in enumerate(panels, 1):
            line = go.Scatter(x=part['step'], y=part[name], name=reading, showlegend=column == 1, line=line_style(i))
            fig.add_trace(line, 1, column)
    fig.update_xaxes(title_text='step')
    legend = dict(orientation='h', y=-.28)
    return embed(apply_style(fig, width=700, height=360, legend=legend, margin_t=60, margin_b=90))


# ---- writing ----

def title_table(name):   # 'few_labels-fraction-200-real' -> 'Few labels, fraction, 200, real images'
    kinds = dict(real='real images', phantom='phantoms')
    words = ', '.join(kinds.get(part, part.replace('_', ' ')) for part in name.split('-'))
    return words[:1].upper() + words[1:]


def write_table(path, commands):
    "A section of the page: each table under its differences, and the command that made it."
    parts = [f'## {title_table(path.stem)}']
    if path.stem in commands:
        experiment, _, options = commands[path.stem].partition(' ')
        parts.append(f'```sh\npython experiments/{experiment}.py {options} --report-only\n```')
    for block in read_blocks(path.read_text(encoding='utf-8')):
        parts += [f'### {block.title}', draw_differences(block), f'<div class="numbers">\n\n{block.text}\n\n</div>']
    return '\n\n'.join(part for part in parts if part)


def write_downloads(paths):
    links = ', '.join(f'{{download}}`{path.name} <rows/{path.name}>`' for path in paths)
    return f'Every run is a row of {links}.' if links else ''


def write_topic(title, words, starts, results, commands):
    "A page of results: what came out, in words, then figures and tables."
    tables = [path for start in starts for path in sorted(results.glob(f'{start}*.md'))]
    files = [path for start in starts for path in sorted(results.glob(f'{start.partition("-")[0]}*.csv'))]
    parts = [f'# {title}', '> Phantom numbers say nothing about patients; numbers of real images compare variants '
             'on the same folds and are no benchmark results. [Method and limits](index.md)', words]
    if 'agreement' in starts and (results/'agreement.csv').exists():
        parts += ['## Agreement of two branches', draw_agreement(results/'agreement.csv')]
    if 'where_it_looks' in starts and (results/'where_it_looks').is_dir():
        parts += ['## Where it looks', draw_places(results/'where_it_looks')]
    parts += [write_table(path, commands) for path in tables]
    return '\n\n'.join([*filter(None, parts), write_downloads(files)]) + '\n', tables, files


def write_results(experiments, drawn=True):
    "Pages below results/ (name -> Markdown), and the files of rows that they offer; undrawn: the first page alone."
    results, commands = experiments/'results', read_commands(experiments)
    method, general, topics = split_readme((experiments/'README.md').read_text(encoding='utf-8'))
    pages, used, rows, tree = {}, set(), [], []
    if not drawn: topics = {}
    for title, words in topics.items():
        page, starts = TOPICS[next(start for start in TOPICS if title.startswith(start))]
        pages[page], tables, files = write_topic(title, words, starts, results, commands)
        used |= {path.name for path in tables}
        rows += files
        tree.append((title, page))
    rest = [path for path in sorted(results.glob('*.md')) if path.name not in used]
    if rest and drawn:
        starts = [path.stem for path in rest]
        pages[FURTHER], _, files = write_topic('Further tables', '', starts, results, commands)
        rows += files
        tree.append(('Further tables', FURTHER))
    links = '\n'.join(f'- [{title}]({page}.md)' for title, page in tree)
    lead = '> What the methods bring over their baselines in the runs that this project could make.'
    general = f'## What holds for all of them\n\n{general}'
    parts = ['# Results', lead, links, '## The experiments', method, general, write_toctree(tree) if tree else '']
    pages['index'] = '\n\n'.join(parts)
    return {name: clean_links(text) for name, text in pages.items()}, sorted(set(rows))


def clean_links(text):   # the README's own links to folders have no page here
    return re.sub(r'\[([^\]\n]+)\]\((?!index\.md|\w+\.md|https?:)[^)\s]*\)', r'\1', text)
