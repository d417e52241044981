"""Write cxr_workbench/ from the notebooks of nbs/: nbdev's export, whose list of names keeps within 120 characters.

    python scripts/export.py    # `make export`

nbdev wraps the list at 120 characters and then writes ten more in front of it.
"""
from textwrap import TextWrapper
import nbdev.maker
from nbdev.doclinks import nbdev_export


class NarrowWrapper(TextWrapper):
    "Ten characters narrower, for what comes before the first line."
    def __init__(self, width, **kw): super().__init__(width=width - 10, **kw)


if __name__ == '__main__':
    nbdev.maker.TextWrapper = NarrowWrapper
    nbdev_export()
