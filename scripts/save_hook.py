"""What JupyterLab saves under `make lab`: running a page, or saving it unchanged, is no change of the project.

    PYTHONPATH=scripts jupyter lab --ContentsManager.pre_save_hook=save_hook.keep_committed    # `make lab` does this

An open notebook changes by itself: the name and version of the kernel, execution counts, outputs, widget state.
Autosave would write all that into files that git tracks. Where every cell has the source that git has, the file is
written as git has it; what a run showed stays in the browser. Where a source was edited, the notebook is saved with its
outputs and without those traces. Notebooks that git does not track are saved as they are.
"""
import json, subprocess
from pathlib import Path
from execute import clean_metadata

KERNEL = {'display_name': 'python3', 'language': 'python', 'name': 'python3'}


def read_tracked(path):
    "A notebook as git's index has it, a dictionary; None where git does not track it."
    path = Path(path)
    show = ['git', 'show', f':./{path.name}']
    done = subprocess.run(show, cwd=path.parent, capture_output=True)
    return json.loads(done.stdout) if done.returncode == 0 else None


def join_source(text): return text if isinstance(text, str) else ''.join(text)


def read_sources(nb):
    "What somebody writes in a notebook: kind, identity, tags and text of every cell."
    return [(cell['cell_type'], cell.get('id'), clean_metadata(cell['metadata']), join_source(cell['source']))
            for cell in nb['cells']]


def drop_traces(nb):
    "Take out what an open kernel leaves in a notebook, in place; outputs stay."
    nb['metadata'] = {'kernelspec': KERNEL}
    for cell in nb['cells']:
        cell['metadata'] = clean_metadata(cell['metadata'])
        if cell['cell_type'] != 'code': continue
        cell['execution_count'] = None
        for output in cell['outputs']:
            if 'execution_count' in output: output['execution_count'] = None


def keep_committed(model, path, contents_manager, **kw):
    "Jupyter Server's hook before a file is written: changes the content of `model` in place."
    import nbformat
    if model['type'] != 'notebook': return
    tracked = read_tracked(contents_manager._get_os_path(path))
    if tracked is None: return
    if read_sources(tracked) == read_sources(model['content']):
        model['content'] = nbformat.from_dict(nbformat.reads(json.dumps(tracked), as_version=4))
    else: drop_traces(model['content'])
