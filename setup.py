"""Builds the package from settings.ini, the one place where its facts are written."""
from configparser import ConfigParser
from pathlib import Path
from setuptools import find_namespace_packages, setup
from setuptools.command.build_py import build_py
import shutil

here = Path(__file__).parent.resolve()
ini = ConfigParser(delimiters=['='])
ini.read(here / 'settings.ini', encoding='utf-8')
facts = ini['DEFAULT']
names = 'dicom', 'diffusion', 'export', 'tables', 'stream', 'app', 'cluster', 'docs', 'dev'
extras = {name: facts[f'{name}_requirements'].split() for name in names}
extras['all'] = [each for name in names[:-2] for each in extras[name]]


class build_with_pages(build_py):
    "Copies the notebooks into the wheel as `cxr_workbench/pages`, so that `cxr-workbench lab` has them."
    def run(self):
        super().run()
        if getattr(self, 'editable_mode', False): return
        shutil.rmtree(Path(self.build_lib)/'cxr_workbench'/'pages', ignore_errors=True)  # what an earlier build left
        for page in sorted((here / 'nbs').rglob('*.ipynb')):
            if any(part.startswith(('.', '_')) for part in page.relative_to(here).parts): continue
            target = Path(self.build_lib) / 'cxr_workbench' / 'pages' / page.relative_to(here / 'nbs')
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(page, target)


setup(
    name=facts['package_name'], version=facts['version'], description=facts['description'],
    long_description=(here / 'README.md').read_text(encoding='utf-8'), long_description_content_type='text/markdown',
    author=facts['author'], author_email=facts['author_email'], url=facts['git_url'],
    keywords=facts['keywords'].split(),
    license='Apache-2.0', license_files=['LICENSE'],
    classifiers=[
        'Development Status :: 3 - Alpha', 'Intended Audience :: Science/Research', 'Intended Audience :: Education',
        'Programming Language :: Python :: 3', 'Topic :: Scientific/Engineering :: Medical Science Apps.'],
    packages=find_namespace_packages(include=['cxr_workbench', 'cxr_workbench.*'], exclude=['*.__pycache__']),
    include_package_data=True, zip_safe=False,
    python_requires=f">={facts['min_python']}", install_requires=facts['requirements'].split(), extras_require=extras,
    entry_points={
        'console_scripts': facts['console_scripts'].split(),
        'nbdev': ['cxr_workbench=cxr_workbench._modidx:d']},
    cmdclass={'build_py': build_with_pages})
