"""What is said of lines that could not be made or were not taken: which, and where they stand.

Upstream: `lines`, `line_ranges`, `webhook`. Downstream: whoever reads the error.
Invariant: names and positions only; of a row no value.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from pgflo import errors
from pgflo.errors import PgfloError

if TYPE_CHECKING:
    from pgflo import _core


def unprintable(what: str, error: _core.DecodeError) -> PgfloError:
    """Say that a value cannot be told in JSON."""
    return PgfloError(errors.SINK_REFUSED, f"{what} cannot be printed as JSON: {error}")


def place(error: PgfloError, events: bytes) -> None:
    """Add table and position of the first of these events, unless the error tells them.

    Nothing is added where a value is nested deeper than Python reads: PostgreSQL takes such JSON.
    `events`: lines, or an array as it is posted.
    """
    if "position" in error.context:
        return
    text = events if events.startswith(b"[") else events.partition(b"\n")[0]
    # Numbers stay text: there are some that Python does not read.
    try:
        read = json.loads(text, parse_float=str, parse_int=str)
    except RecursionError:
        return
    first = read[0] if isinstance(read, list) else read
    error.context["table"] = f"{first['schema']}.{first['table']}"
    error.context["position"] = f"{first['commit_lsn']}:{first['ordinal']}"
