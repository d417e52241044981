"From `git clone` and `make lab` to the first moved slider: what a newcomer has to click, and nothing else."
import shutil, sys
from pathlib import Path
import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT/'scripts'))
import first_slider


@pytest.mark.skipif(not (ROOT/'.git').exists(), reason='only a checkout can be cloned')
@pytest.mark.skipif(not (shutil.which('make') and shutil.which('git')), reason='make and git are needed')
def test_a_newcomer_moves_a_slider_after_three_clicks(tmp_path):
    "JupyterLab asks nothing, and the welcome page says which two clicks bring the sliders."
    walk = first_slider.measure(tmp_path, venv=sys.prefix)
    print(walk.tell())
    assert walk.clicks == ['the first grey box', '▶', 'the slider, dragged']
    assert list(walk.phases)[-1] == 'the picture has changed'
