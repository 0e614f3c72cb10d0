"""Sinks of installed packages: entry points of the group `pgflo.sinks`.

Upstream: `kinds`, and the command line, which must not import more than this to print its help.
Downstream: the metadata of what is installed. Invariant: names of ours cannot be taken.
"""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

ENTRY_POINTS = "pgflo.sinks"
OURS = ("postgres", "stdout", "file", "webhook")


def installed() -> dict[str, EntryPoint]:
    """Give them by name; nothing of theirs is imported."""
    points = {point.name: point for point in entry_points(group=ENTRY_POINTS)}
    return {name: point for name, point in points.items() if name not in OURS}
