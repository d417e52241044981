"The extension of Sphinx that puts the parts together: the reference, equations without MathJax, scripts on demand."
import sys
from docutils.nodes import SkipNode
from . import reference


def write_plain(self, node):
    "An equation as its source, where MathJax is not here."
    text = self.encode(node.astext()).strip()
    kind = 'div' if node.tagname == 'math_block' else 'span'
    self.body.append(f'<{kind} class="equation-source"><code>{text}</code></{kind}>')
    raise SkipNode


def add_scripts(app, page, template, context, doctree):
    "Plotly only where a figure is."
    body = context.get('body') or ''
    if 'class="live-figure"' in body:
        app.add_js_file('inks.js', loading_method='defer', priority=590)
        app.add_js_file('plotly.min.js', loading_method='defer', priority=600)
    if page == 'search': app.add_js_file('summaries.js', loading_method='defer', priority=600)
    app.add_js_file('site.js', loading_method='defer', priority=700)


def read_own_sources_only():
    "Names of other packages stay names: astroid would read all of torch to describe a base class."
    from astroid import AstroidImportError
    from astroid.manager import AstroidManager
    read = AstroidManager.ast_from_module_name

    def read_own(self, name, *rest, **more):
        if name is not None and name.partition('.')[0] in {'cxr_workbench', '', *sys.stdlib_module_names}:
            return read(self, name, *rest, **more)
        raise AstroidImportError('not read: {modname}', modname=name)

    AstroidManager.ast_from_module_name = read_own


def setup(app):
    read_own_sources_only()
    app.add_config_value('cxr_modules', [], 'env')
    app.add_config_value('cxr_notebooks', {}, 'env')
    app.add_html_math_renderer('source', (write_plain, None), (write_plain, None))
    app.connect('config-inited', lambda app, config: reference.connect(app, config.cxr_modules, config.cxr_notebooks))
    app.connect('html-page-context', add_scripts)
    return dict(parallel_read_safe=True, parallel_write_safe=True)
