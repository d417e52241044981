"""Run the browser tests: all of them, or those whose name contains the words given.

    python tests/browser/run.py
    python tests/browser/run.py 07_views
"""
import sys
from pathlib import Path
import pytest

if __name__ == '__main__':
    words = [w for word in sys.argv[1:] for w in ('-k', word)]
    sys.exit(pytest.main([str(Path(__file__).parent), '-q', *words]))
