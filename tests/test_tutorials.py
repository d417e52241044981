"Pages that teach end with exercises whose answers are folded, and their links lead somewhere."
import re
from pathlib import Path
import nbformat
import pytest

HOME = Path(__file__).resolve().parent.parent/'nbs'
TEACHING = [HOME/'90_compare.ipynb', HOME/'95_claims.ipynb', *sorted((HOME/'tutorials').glob('*.ipynb'))]
page = pytest.mark.parametrize('path', TEACHING, ids=lambda path: path.stem)


def read_prose(path):
    "All markdown of a page."
    cells = nbformat.read(path, as_version=4).cells
    return '\n\n'.join(cell.source for cell in cells if cell.cell_type == 'markdown')


@page
def test_three_to_five_exercises_each_with_a_folded_answer(path):
    exercises = read_prose(path).split('## Exercises', 1)[1]
    numbers = [int(number) for number in re.findall(r'^(\d)\. ', exercises, flags=re.M)]
    answers = re.findall(r'<details><summary>Answer</summary>(.+?)</details>', exercises)
    assert 3 <= len(numbers) <= 5 and numbers == [*range(1, len(numbers) + 1)]
    assert len(answers) == len(numbers) == exercises.count('<details>') == exercises.count('</details>')
    assert all(len(answer.split()) >= 8 for answer in answers), 'an answer says why'


@page
def test_links_lead_to_pages(path):
    links = re.findall(r'\]\(([^)#]+\.ipynb)\)|href="([^"#]+\.ipynb)"', read_prose(path))
    missing = {link for pair in links for link in pair if link and not (path.parent/link).exists()}
    assert links and not missing


@page
def test_it_says_that_painted_images_say_nothing_about_patients(path):
    prose = read_prose(path)
    assert 'say nothing about patients' in prose or path.stem == 'many_gpus'   # which measures no model
