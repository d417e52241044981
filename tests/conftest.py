"Fixtures and settings that every test shares."
import os, subprocess, sys
from pathlib import Path
import pytest

ROOT = Path(__file__).resolve().parent.parent
cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
threads = max(1, cores//int(os.environ.get('PYTEST_XDIST_WORKER_COUNT', 1)))
os.environ['OMP_NUM_THREADS'] = str(threads)  # before torch is imported; kernels and subprocesses inherit it
os.environ.setdefault('TQDM_DISABLE', '1')


def pytest_configure(config):
    "Deprecated calls and NaN arithmetic in our own modules are errors; other packages' notices are not ours to fix."
    ignored = ['::DeprecationWarning', '::PendingDeprecationWarning', ':.*does not have many workers.*']
    errors = [f'error::{kind}:cxr_workbench' for kind in ('DeprecationWarning', 'FutureWarning', 'RuntimeWarning')]
    for line in [f'ignore{what}' for what in ignored] + errors:
        config.addinivalue_line('filterwarnings', line)
    config.addinivalue_line('markers', 'gpu: needs a GPU that torch sees; skipped with a reason where there is none')
    load_hypothesis_profile()


def pytest_runtest_setup(item):
    if item.get_closest_marker('gpu') is None: return
    import torch
    if not torch.cuda.is_available(): pytest.skip('torch sees no GPU here')


def load_hypothesis_profile():
    "No deadlines, because machines are shared; in CI the same examples every time."
    try: from hypothesis import HealthCheck, settings
    except ImportError: return
    settings.register_profile('here', deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.register_profile('ci', settings.get_profile('here'), derandomize=True)
    settings.load_profile('ci' if os.environ.get('CI') else 'here')


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """A page, and otherwise a file of tests, stays on one worker: one kernel a page, one build of the wheel.

    The largest come first. Pages in a browser are dealt one by one."""
    from xdist.scheduler import LoadScopeScheduling
    class ByPage(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            if 'test_page[' in nodeid: return nodeid
            return nodeid.split(':', 3)[2] if 'test_section[' in nodeid else nodeid.split('::')[0]
    config.option.loadscopereorder = True
    return ByPage(config, log)


@pytest.fixture(scope='session')
def cxr_data():
    "Folder of real chest X-rays: $CXR_DATA, or shared/data beside the repository."
    folder = Path(os.environ.get('CXR_DATA') or ROOT.parent/'shared'/'data')
    if not folder.is_dir():
        pytest.skip(f'no real chest X-rays at {folder}: set CXR_DATA to the folder that holds nih14/ and odd_files/')
    return folder


@pytest.fixture(scope='session')
def label_tables():
    "Folder of whole label tables of public collections: $CXR_TABLES, or tables/; continuous integration fetches them."
    sys.path.insert(0, str(ROOT/'scripts'))
    try: import label_tables as script
    finally: sys.path.remove(str(ROOT/'scripts'))
    folder = script.find_folder()
    if os.environ.get('CI') and not script.are_complete(folder):
        try: script.fetch_tables(folder)
        except subprocess.CalledProcessError as error: pytest.skip(f'no label tables: {error}')
    if not script.are_complete(folder):
        pytest.skip(f'no label tables at {folder}: python scripts/label_tables.py fetches them, 29 MB')
    return folder


@pytest.fixture(scope='session')
def same_ranking():
    """(method, images) -> the lowest of Spearman's correlations of scores in full and in half precision.

    The correlations are label by label."""
    import torch
    from scipy.stats import spearmanr
    @torch.no_grad()
    def compare(method, x, dtype=torch.bfloat16):
        exact = method(x)
        with torch.autocast('cpu', dtype): rough = method(x).float()
        return min(spearmanr(a, b).statistic for a, b in zip(exact.T, rough.T))
    return compare
