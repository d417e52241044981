"""The bounds of the app, without a browser."""
import json, os, socket, subprocess, sys
from importlib.util import find_spec
from pathlib import Path
import pytest
from cxr_workbench import app


def test_a_token_is_made_anew_and_a_short_one_is_refused(tmp_path):
    first, second = (app.check_settings(app.Settings(str(tmp_path), port=0)) for _ in range(2))
    assert len(first.token) >= 32 and first.token != second.token and first.ip == '127.0.0.1'
    with pytest.raises(ValueError, match='16 characters'):
        app.check_settings(app.Settings(str(tmp_path), port=0, token='guess'))


@pytest.mark.parametrize('asked, error, word', [
    (dict(root='nowhere'), NotADirectoryError, '--root'), (dict(kernels=0), ValueError, '--kernels'),
    (dict(idle=0), ValueError, '--idle'), (dict(upload=0), ValueError, '--upload'),
    (dict(memory=.1), ValueError, '--memory'), (dict(theme='pink'), ValueError, '--theme')])
def test_what_cannot_be_served_is_named(tmp_path, asked, error, word):
    with pytest.raises(error, match=word): app.check_settings(app.Settings(**dict(root=str(tmp_path), port=0) | asked))


def test_a_port_in_use_is_named(tmp_path):
    with socket.socket() as other:
        other.bind(('127.0.0.1', 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(OSError, match='name another with --port'):
            app.check_settings(app.Settings(str(tmp_path), port=port))


@pytest.mark.parametrize('ip, alone', [
    ('127.0.0.1', True), ('127.8.9.1', True), ('::1', True), ('localhost', True),
    ('0.0.0.0', False), ('192.168.1.7', False), ('::', False), ('example.org', False)])
def test_loopback_is_told_from_the_world(ip, alone): assert app.is_loopback(ip) == alone


def test_what_is_served_names_no_other_host(tmp_path):
    notebook = app.write_pages(tmp_path)
    for file in tmp_path.rglob('*.*'):
        if file.is_file(): assert '://' not in file.read_text() and 'cdn' not in file.read_text(), file
    code = [cell for cell in json.loads(notebook.read_text())['cells'] if cell['cell_type'] == 'code']
    assert len(code) == 1


def test_the_bounds_reach_the_server(tmp_path):
    pytest.importorskip('voila', reason="the app needs Voila: pip install 'cxr-workbench[app]'")
    settings = app.check_settings(app.Settings(str(tmp_path), port=0, idle=7, upload=20))
    config = app.configure(settings)
    served = config.Voila.tornado_settings
    assert 20_000_000 < served['websocket_max_message_size'] < 30_000_000 and not served['allow_remote_access']
    assert "default-src 'self' data: blob:;" in served['headers']['Content-Security-Policy']
    assert config.MappingKernelManager.cull_idle_timeout == 420 and config.MappingKernelManager.cull_connected
    assert config.VoilaConfiguration.file_allowlist == [] and config.Voila.config_file_paths == []
    assert config.Voila.ip == '127.0.0.1' and config.Voila.token == settings.token
    assert 'allow_remote_access' not in app.configure(settings._replace(ip='0.0.0.0')).Voila.tornado_settings


def test_without_voila_the_command_says_what_to_install(tmp_path):
    code = ('import importlib.util as u; real = u.find_spec\n'
            'u.find_spec = lambda name, *rest: None if name == "voila" else real(name, *rest)\n'
            'from cxr_workbench.cli import main; main()')
    command = [sys.executable, '-c', code, 'app', '--root', str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and "pip install 'cxr-workbench[app]'" in done.stderr


@pytest.mark.skipif(not sys.platform.startswith('linux'), reason='memory is bounded on Linux')
def test_memory_beyond_the_bound_is_an_error_and_not_the_end():
    code = ('from cxr_workbench.app import limit_memory; limit_memory(1.)\n'
            'try: block = bytearray(2_000_000_000)\n'
            'except MemoryError: print("refused")')
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == 'refused', done.stderr


def test_a_kernel_opens_the_bench_with_its_bounds(tmp_path):
    settings = app.Settings(str(tmp_path), upload=5, memory=8., reference=12)
    code = ('from cxr_workbench.app import open_bench; import os; shown = open_bench()\n'
            'print(os.getcwd(), "cxr-workbench" in shown.children[1]._dom_classes)')
    env = {**os.environ, app.SETTINGS: json.dumps(settings._asdict())}
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, timeout=300, env=env)
    assert done.stdout.split() == [str(Path(tmp_path).resolve()), 'True'], done.stderr[-800:]


@pytest.mark.skipif(not find_spec('voila'), reason='needs Voila')
def test_a_page_that_has_gone_makes_room_and_one_that_is_there_does_not():
    import asyncio
    from tornado.web import HTTPError
    async def open_pages():
        pages = app.make_kernel_manager(1)()
        try:
            first = await pages.start_kernel(kernel_name='python3')
            with pytest.raises(HTTPError, match='1 pages are open'): await pages.start_kernel(kernel_name='python3')
            pages.notify_connect(first)
            pages.notify_connect(first)      # a second socket of the same page
            pages.notify_disconnect(first)
            with pytest.raises(HTTPError, match='1 pages are open'): await pages.start_kernel(kernel_name='python3')
            pages.notify_disconnect(first)
            assert pages.list_kernel_ids() == [first]   # nobody needs its place
            second = await pages.start_kernel(kernel_name='python3')
            assert pages.list_kernel_ids() == [second]
        finally: await pages.shutdown_all(now=True)
    asyncio.run(open_pages())
