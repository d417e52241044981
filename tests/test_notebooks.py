"""Every section of every notebook is a test.

A section is an H2 with the cells under it; what stands before the first H2 is the section `top`.
The sections of a notebook share one kernel and run in order, each when its own test asks for it:
`pytest -k "01_phantom and severity"` runs that section and what it builds on, and nothing after it.
A section that stands on a failed one is reported as blocked by it.
Sections without code are not listed: there is nothing in them that could fail.
CXR_PAGES_IN_BROWSER=1 leaves out the pages that `make browser` runs, for who runs both.
Kernels are forked from a process that has heavy packages imported (`warm_kernels`); CXR_COLD_KERNELS=1 does without.
"""
import os, re, sys, time
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty
import nbformat
import pytest
from warm_kernels import CAN_FORK, ColdKernel, Server, WarmKernel

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT/'tests'/'browser'))
from lab import is_visited   # noqa: E402
ELSEWHERE = bool(os.environ.get('CXR_PAGES_IN_BROWSER'))
CELL_SECONDS = 180  # a page runs in 12 to 30 s; a cell that takes this long hangs


def is_page(path):
    "Whether no folder on the way to it, nor the file, is hidden."
    return not any(part.startswith(('.', '_')) for part in path.relative_to(ROOT).parts)


PAGES = sorted(filter(is_page, (ROOT/'nbs').rglob('*.ipynb')))


@dataclass
class Section:
    title: str
    cells: list[tuple[int, str]] = field(default_factory=list)  # place in the notebook and source, code cells only


def headings(source):
    "H2 titles of a markdown cell, fenced blocks left out."
    return re.findall(r'^## +(.+?)\s*#*$', re.sub(r'^(```|~~~).*?^\1', '', source, flags=re.M | re.S), flags=re.M)


def sections(path):
    "The sections of a notebook that hold code."
    found = [Section('top')]
    for i, cell in enumerate(nbformat.read(path, as_version=4).cells):
        if cell.cell_type == 'markdown': found += map(Section, headings(cell.source))
        elif cell.cell_type == 'code' and cell.source.strip(): found[-1].cells.append((i, cell.source))
    return [s for s in found if s.cells]


class Page:
    "A notebook with its kernel, which starts at the first cell."
    def __init__(self, path, server=None):
        self.path, self.sections, self.server = path, sections(path), server
        self.done, self.broken, self.kernel = 0, None, None

    def run_to(self, n):
        "Run the sections up to and including the n-th; fail where it fails, or where an earlier one did."
        while self.done <= n:
            if self.broken:
                pytest.fail(f'blocked: the section "{self.broken}" of {self.path.name} failed before', pytrace=False)
            section = self.sections[self.done]
            for i, source in section.cells:
                error = self.run_cell(source)
                if error is None: continue
                self.broken = section.title
                where = 'this section' if self.done == n else f'the section "{section.title}" before it'
                pytest.fail(f'cell {i} of {self.path.name}, in {where}:\n\n{source}\n\n{error}', pytrace=False)
            self.done += 1

    def run_cell(self, source):
        "None, or the traceback."
        if self.kernel is None: self.start()
        client = self.kernel.client
        request = client.execute(source, allow_stdin=False, store_history=False)
        error, end = None, time.monotonic() + CELL_SECONDS
        while time.monotonic() < end:
            try: message = client.get_iopub_msg(timeout=1)
            except Empty:
                if not self.kernel.is_alive(): return 'the kernel died: out of memory, or a crash in compiled code'
                continue
            if message['parent_header'].get('msg_id') != request: continue
            kind, content = message['msg_type'], message['content']
            if kind == 'error': error = re.sub(r'\x1b\[[\d;]*m', '', '\n'.join(content['traceback']))
            if kind == 'status' and content['execution_state'] == 'idle': return error
        return f'still running after {CELL_SECONDS} s'

    def start(self):
        "A kernel in the notebook's folder; figures stay JSON, so no browser is needed."
        env = {**os.environ, 'PLOTLY_RENDERER': 'plotly_mimetype', 'NO_COLOR': '1'}
        folder = self.path.parent
        self.kernel = WarmKernel(self.server, folder, env) if self.server else ColdKernel(folder, env)

    def close(self):
        if self.kernel: self.kernel.close()
        self.kernel = None


@pytest.fixture(scope='session')
def server():
    "The process that kernels are forked from, one per worker; None where kernels are started cold."
    if not CAN_FORK:
        yield None
        return
    server = Server(dict(os.environ))
    yield server
    server.close()


@pytest.fixture(scope='module')
def open_page(server):
    "path -> its Page; one at a time, so that one kernel is alive per worker."
    held = {}
    def get(path):
        if path not in held:
            for page in held.values(): page.close()
            held.clear()
            held[path] = Page(path, server)
        return held[path]
    yield get
    for page in held.values(): page.close()


def cases():
    for path in PAGES:
        name, seen = path.relative_to(ROOT/'nbs').with_suffix('').as_posix(), set()
        marks = [pytest.mark.skip('the browser runs this page')] if ELSEWHERE and is_visited(f'{name}.ipynb') else []
        for n, section in enumerate(sections(path)):
            title = section.title if section.title not in seen else f'{section.title} ({n})'
            seen.add(section.title)
            slug = re.sub(r'[^\w()]+', '-', title).strip('-')
            yield pytest.param(path, n, id=f'{name}:{slug}', marks=marks)


@pytest.mark.parametrize('path, n', cases())
def test_section(path, n, open_page): open_page(path).run_to(n)
