"""Opens a pump on a psycopg connection: native over the loaded libpq, or the same loop in Python.

Upstream: a connection whose COPY (a replication stream or COPY OUT) psycopg has started.
Downstream: the envelope assembler and the copy packer. Invariant: both pumps deliver the same bytes
and the same states; the native one is only used when it provably talks to the libpq that made the
connection.
"""

from __future__ import annotations

import os
import re
import select
import time
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import psycopg
import structlog
from psycopg import pq

from pgflo import _core
from pgflo._core import PUMP_END, PUMP_FAILED, PUMP_IDLE, PUMP_MORE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, TypeAlias

    from psycopg.pq.abc import PGconn

    Connected: TypeAlias = psycopg.Connection[Any] | psycopg.AsyncConnection[Any] | PGconn

log = structlog.get_logger("pgflo.source")

_LIBPQ_FILE = re.compile(r"/libpq[-.][^/]*so[^/]*$")
MAPS = Path("/proc/self/maps")
_FRAME_LENGTH_BYTES = 4
_BINARY_TRAILER = b"\xff\xff"
_EMPTY_BINARY_COPY = b"PGCOPY\n\xff\r\n\0" + bytes(8) + _BINARY_TRAILER
_NO_ROWS = frozenset({_BINARY_TRAILER, _EMPTY_BINARY_COPY})
_LONGEST_PARTIAL_S = 0.05
_BLIND_WAIT_S = 0.005


class CopyPump(Protocol):
    """What both pumps do; `_core.Pump` is the reference.

    One thread owns the connection while a call runs. What came before an end or a failure is in the
    returned block.
    """

    def drain(self, max_bytes: int, timeout_ms: int) -> tuple[bytes, int]:
        """Take frames, each behind its length, until full, idle or over; give the state too."""
        ...

    def drain_rows(self, max_bytes: int, timeout_ms: int) -> tuple[bytes, int, int]:
        """Take rows until full, out of time or over; give bytes, number of rows, state."""
        ...


def open_pump(conn: Connected) -> CopyPump:
    """Give the fastest pump that works on `conn`.

    The native pump needs the path of the libpq that psycopg loaded (Linux), its version, and the
    same socket number on both sides; else, or with PG_FLO_PUMP=python, the Python loop is used.
    """
    pgconn = conn.pgconn if isinstance(conn, psycopg.Connection | psycopg.AsyncConnection) else conn
    if os.environ.get("PG_FLO_PUMP") == "python":
        return FallbackPump(pgconn)
    return native_pump(pgconn) or FallbackPump(pgconn)


def native_pump(pgconn: PGconn) -> _core.Pump | None:
    """Open the native pump; None, with a warning, when no loaded libpq passes the self-check."""
    # psycopg's implementations have it, its protocol class does not tell.
    address: int | None = getattr(pgconn, "pgconn_ptr", None)
    reasons = []
    for path in loaded_libpqs():
        try:
            return _core.Pump(address or 0, pgconn.socket, path, pq.version(), owner=pgconn)
        except _core.CoreError as error:
            reasons.append(f"{path}: {error}")
    log.warning(
        "reading through Python: the native pump does not fit this libpq",
        libpq_version=pq.version(),
        tried=reasons or ["no libpq in the process map"],
    )
    return None


def loaded_libpqs() -> Iterator[str]:
    """Give the libpq files mapped into this process, each once; nothing where there is no map."""
    if not MAPS.exists():
        return
    seen = set()
    for line in MAPS.read_text(errors="surrogateescape").splitlines():
        path = line.split(maxsplit=5)[5:]
        if path and path[0] not in seen and _LIBPQ_FILE.search(path[0]):
            seen.add(path[0])
            yield path[0]


class FallbackPump:
    """The same loop through psycopg, where the native pump does not fit; the oracle of its tests.

    Cost: about 0.5 s of CPU per million rows, five times that of the native one.
    """

    def __init__(self, pgconn: PGconn) -> None:
        self._pgconn = pgconn
        # TLS may hold bytes that poll() does not see, and Python cannot ask. It holds one record of
        # at most 16 KiB, each look takes half of that or all there is: look often, wait shortly.
        self._encrypted = pgconn.ssl_in_use
        self._looks_until_idle = 3 if self._encrypted else 1

    def drain(self, max_bytes: int, timeout_ms: int) -> tuple[bytes, int]:
        """Take frames; see `CopyPump.drain`."""
        pieces: list[bytes] = []
        state = self._take(pieces, max_bytes, timeout_ms, frames=True)
        return b"".join(pieces), state

    def drain_rows(self, max_bytes: int, timeout_ms: int) -> tuple[bytes, int, int]:
        """Take rows; see `CopyPump.drain_rows`. The trailer of a binary COPY is not a row."""
        pieces: list[bytes] = []
        state = self._take(pieces, max_bytes, timeout_ms, frames=False)
        return b"".join(pieces), sum(piece not in _NO_ROWS for piece in pieces), state

    def _take(self, pieces: list[bytes], max_bytes: int, timeout_ms: int, *, frames: bool) -> int:
        started = time.monotonic()
        deadline = started + timeout_ms / 1000
        limit = max(deadline, started + _LONGEST_PARTIAL_S)
        taken_bytes = 0
        looks = 0
        try:
            while True:
                size, data = self._pgconn.get_copy_data(1)
                if size > 0:
                    if frames:
                        pieces.append(size.to_bytes(_FRAME_LENGTH_BYTES, "big"))
                        taken_bytes += _FRAME_LENGTH_BYTES
                    pieces.append(bytes(data))
                    taken_bytes += size
                    looks = 0
                    if taken_bytes >= max_bytes:
                        return PUMP_MORE
                elif size == 0:
                    if looks >= self._looks_until_idle:
                        until = started if frames and pieces else deadline
                        if not self._wait(until):
                            return PUMP_IDLE
                        if time.monotonic() >= limit:
                            return PUMP_MORE
                    self._pgconn.consume_input()
                    looks += 1
                else:
                    return PUMP_END
        except psycopg.OperationalError:
            return PUMP_FAILED

    def _wait(self, until: float) -> bool:
        """Wait for input until that monotonic time; True when reading may bring something."""
        left_s = max(0.0, until - time.monotonic())
        wait_s = min(left_s, _BLIND_WAIT_S) if self._encrypted else left_s
        poll = select.poll()
        poll.register(self._pgconn.socket, select.POLLIN)
        return bool(poll.poll(wait_s * 1000)) or wait_s < left_s
