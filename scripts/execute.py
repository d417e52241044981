"""Execute notebooks for committing: run every cell, keep static pictures, drop widget state.

    python scripts/execute.py                   # every page under nbs/
    python scripts/execute.py nbs/00_core.ipynb # one page

A plotly figure is kept as its JSON and as a palette PNG (700 px wide), so a reader without a kernel sees it; what it
shows stands in words beside the PNG, where nbconvert takes the alternative text from.
Widget state and widget views are dropped: a saved FigureWidget adds about 5 MB.
"""
import argparse, base64, io, os, shutil, sys, time
from pathlib import Path

WIDGET = 'application/vnd.jupyter.widget-view+json'
FIGURE = 'application/vnd.plotly.v1+json'
PNG_WIDTH = 700
root = Path(__file__).resolve().parent.parent


def prepare_environment():
    "What the kernels see: the PNG renderer beside the plotly JSON where a Chromium is at hand, no progress-bar noise."
    browser = os.environ.get('BROWSER_PATH') or shutil.which('chromium') or shutil.which('google-chrome')
    if not browser:
        sys.exit('execute.py needs Chromium to write the pictures: '
                 'install Debian\'s package "chromium" or set BROWSER_PATH.')
    os.environ.update(BROWSER_PATH=browser, PLOTLY_RENDERER='plotly_mimetype+png',
                      TQDM_DISABLE='1', PYTHONWARNINGS='ignore', CXR_EXECUTING='1')
    os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')   # threads that wait sleep


def shrink_png(data):
    "Base64 PNG -> base64 palette PNG at most PNG_WIDTH wide."
    from PIL import Image
    picture = Image.open(io.BytesIO(base64.b64decode(data))).convert('RGB')
    if picture.width > PNG_WIDTH:
        height = round(picture.height*PNG_WIDTH/picture.width)
        picture = picture.resize((PNG_WIDTH, height), Image.LANCZOS)
    out = io.BytesIO()
    palette = picture.quantize(256, method=Image.Quantize.MAXCOVERAGE, kmeans=2, dither=Image.Dither.NONE)
    palette.save(out, 'PNG', optimize=True)
    return base64.b64encode(out.getvalue()).decode()


def describe_picture(output):
    "What the figure of an output shows, in words."
    import plotly.graph_objects as go
    from cxr_workbench.style import describe_figure
    figure = output['data'][FIGURE]
    return describe_figure(go.Figure(figure['data'], figure['layout']))


def clean_output(output):
    "The output as it is committed, or None where it is a widget or noise of a stream."
    data = output.get('data', {})
    if WIDGET in data: return None
    if output.get('output_type') == 'stream' and output.get('name') == 'stderr': return None
    if 'image/png' in data:
        data['image/png'] = shrink_png(data['image/png'])
        if FIGURE in data: output.setdefault('metadata', {})['image/png'] = {'alt': describe_picture(output)}
    if 'execution_count' in output: output['execution_count'] = None
    return output


def clean_metadata(metadata):
    "What a cell keeps: its tags, and whether its source is folded; timings and the rest go."
    kept = {'tags': list(metadata['tags'])} if metadata.get('tags') else {}
    folded = metadata.get('jupyter', {}).get('source_hidden')
    if folded is not None: kept['jupyter'] = {'source_hidden': folded}
    return kept


def clean(nb):
    "Drop widget state, execution counts and timings; shrink the pictures."
    nb.metadata = {'kernelspec': {'display_name': 'python3', 'language': 'python', 'name': 'python3'}}
    for cell in nb.cells:
        cell.metadata = clean_metadata(cell.metadata)
        if cell.cell_type != 'code': continue
        cell.execution_count = None
        cell.outputs = [o for o in map(clean_output, cell.outputs) if o is not None]
    return nb


def is_page(path): return not any(part.startswith(('.', '_')) for part in path.parts[-3:])


def execute_page(path, timeout=600):
    "Execute one notebook in place and say whether it went well; a failing cell leaves the file as it was."
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
    nb, start = nbformat.read(path, as_version=4), time.time()
    place = {'metadata': {'path': str(path.parent)}}
    try: NotebookClient(nb, timeout=timeout, kernel_name='python3', resources=place).execute()
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
        print(f'{path.name} failed:\n{error}', file=sys.stderr, flush=True)
        return False
    took, part = time.time() - start, path.with_suffix('.part')
    nbformat.write(clean(nb), part)
    os.replace(part, path)
    print(f'{os.path.relpath(path, root)}: {took:.0f} s with pictures, {path.stat().st_size/1e6:.2f} MB', flush=True)
    return True


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('pages', nargs='*', type=Path, help='notebooks; all of nbs/ where none is named')
    pages = parser.parse_args().pages or sorted((root/'nbs').rglob('*.ipynb'))
    prepare_environment()
    failed = [page.name for page in map(Path.resolve, pages) if is_page(page) and not execute_page(page)]
    if failed: sys.exit(f'failed, left as they were: {", ".join(failed)}')
