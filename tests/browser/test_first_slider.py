"From `git clone` and `make lab` to the first moved slider: what a newcomer has to click, and nothing else."
import shutil, subprocess, sys
from pathlib import Path
import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT/'scripts'/'first_slider.py'


@pytest.mark.skipif(not (ROOT/'.git').exists(), reason='only a checkout can be cloned')
@pytest.mark.skipif(not (shutil.which('make') and shutil.which('git')), reason='make and git are needed')
def test_a_newcomer_moves_a_slider_after_three_clicks():
    "JupyterLab asks nothing, and the welcome page says which two clicks bring the sliders."
    walk = subprocess.run([sys.executable, SCRIPT, '--venv', sys.prefix], capture_output=True, text=True, timeout=600)
    print(walk.stdout, walk.stderr)
    assert walk.returncode == 0
    *phases, clicks = walk.stdout.splitlines()
    assert clicks == '3 clicks: the first grey box; ▶; the slider, dragged'
    assert phases[-2].startswith('the picture has changed')
