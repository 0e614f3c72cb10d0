"""Where the fixtures come from: one plugin per resource, every `fix_<resource>.py` beside this.

The repository's root goes on the path, so that tests import fixture types as `tests.fix_postgres`.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

pytest_plugins = sorted(f"tests.{plugin.stem}" for plugin in HERE.glob("fix_*.py"))
# All at once, before any is imported: they import each other.
pytest.register_assert_rewrite(*pytest_plugins)

# Tests press Ctrl-C at what they start. A shell that runs the tests in the background has them
# ignore SIGINT, which every child would inherit.
signal.signal(signal.SIGINT, signal.default_int_handler)
