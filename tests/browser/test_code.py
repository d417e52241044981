"""The code of a page is folded, and shown again, by one click in the toolbar."""
from lab import open_notebook
from test_pages import write

EDITORS = "[...document.querySelectorAll('.jp-CodeCell .jp-InputArea-editor')]"
VISIBLE = f'{EDITORS}.filter(editor => editor.offsetHeight > 0).length'


def test_one_click_hides_all_code_and_one_shows_it(lab, browser):
    page = browser.new_page()   # `write` adds a third cell
    try:
        open_notebook(page, lab.url(write(lab, 'folding', 'first = 1', 'second = 2')))
        page.wait_for_function(f'{VISIBLE} === 3')
        page.locator('[data-command="notebook:hide-all-cell-code"]').click()
        page.wait_for_function(f'{VISIBLE} === 0')
        page.locator('[data-command="notebook:show-all-cell-code"]').click()
        page.wait_for_function(f'{VISIBLE} === 3')
    finally:
        page.close()
        lab.stop_kernels()
