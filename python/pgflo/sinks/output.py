"""Whole blocks into a file descriptor, and what the system says about it by kind.

Upstream: `stdout`, `file`. Downstream: the kernel.
Invariant: a block is written to its last byte, or an error says why not; no text names a value.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
from typing import TYPE_CHECKING

from pgflo import errors
from pgflo.errors import PgfloError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pgflo.errors import Kind

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""The disk, the quota, or the limit of this process."""

GONE = (errno.EPIPE, errno.ECONNRESET)


def write_all(descriptor: int, data: bytes) -> None:
    """Write all of `data`, however long that takes. Raises `OSError`."""
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[os.write(descriptor, rest) :]
        except BlockingIOError:
            # Somebody who shares the pipe or terminal has made it non-blocking.
            select.select([], [descriptor], [])


@contextlib.contextmanager
def telling(what: str, full: Kind = errors.SINK_NO_SPACE) -> Iterator[None]:
    """Tell the system's errors by kind; `what` names the file, `full` the kind of a full disk."""
    try:
        yield
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else type(error).__name__
        kind = errors.SINK_OUTPUT
        if error.errno in FULL:
            kind = full
        elif error.errno in GONE:
            kind = errors.SINK_READER_GONE
        raise PgfloError(kind, f"{what}: {reason}", file=what) from None
