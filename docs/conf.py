"Settings of Sphinx; scripts/build_docs.py makes the pages that it reads, and gives the rest."
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

project, author, language = 'cxr-workbench', 'The cxr-workbench authors', 'en'
project_copyright = '2026, The cxr-workbench authors'
extensions = ['myst_nb', 'autoapi.extension', 'builder.sphinx_site']
source_suffix = {'.ipynb': 'myst-nb', '.md': 'myst-nb', '.rst': 'restructuredtext'}
nitpicky = False
suppress_warnings = ['myst.header', 'config.cache', 'mystnb.unknown_mime_type', 'autoapi.python_import_resolution']

# pages: nothing is run, equations are written with dollars
nb_execution_mode = 'off'
nb_merge_streams = True
myst_enable_extensions = ['dollarmath', 'amsmath', 'html_image']
myst_heading_anchors = 3
myst_dmath_double_inline = True
myst_update_mathjax = True

# the reference
autoapi_dirs = [str(HERE.parent/'cxr_workbench')]
autoapi_root = 'api'
autoapi_template_dir = str(HERE/'api_templates')
autoapi_options = ['members', 'undoc-members', 'special-members']
autoapi_python_class_content = 'class'
autoapi_add_toctree_entry = False
autoapi_keep_files = True
add_module_names = False
toc_object_entries_show_parents = 'hide'

# looks
html_theme = 'furo'
html_title = 'cxr-workbench'
html_static_path = [str(HERE/'static')]
html_css_files = ['site.css']
html_favicon = str(HERE/'static'/'favicon.svg')
html_copy_source = False
html_show_sourcelink = False
html_show_sphinx = False
html_show_search_summary = False    # it would fetch pages, which no browser does from file://
pygments_style, pygments_dark_style = 'friendly', 'github-dark'
html_theme_options = {
    'light_css_variables': {
        'color-brand-primary': '#00609a', 'color-brand-content': '#00609a', 'color-brand-visited': '#6b4a86'},
    'dark_css_variables': {
        'color-brand-primary': '#7cc0ee', 'color-brand-content': '#7cc0ee', 'color-brand-visited': '#c3a6dd'},
}
