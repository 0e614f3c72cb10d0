"""The writer process: one connection to the destination, one step after the other.

Upstream: `dispatcher`, through a pipe (`pgflo.worker` tells the protocol). Downstream: the
destination's transactions.
Invariant: after any failure it says what happened and exits. Its connection ends with it, and with
that everything not committed: it never tries to mend a transaction whose end it does not know.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import psycopg
import structlog
from setproctitle import setproctitle

from pgflo import _core, errors, logs
from pgflo.errors import PgfloError
from pgflo.sinks.postgres import progress
from pgflo.sinks.postgres.apply import Body
from pgflo.sinks.postgres.connection import failure
from pgflo.sinks.postgres.transaction import Transactions
from pgflo.supervisor.lifeline import die_with_parent
from pgflo.worker.messages import Done, Failed, Ready, Step, decode, encode

if TYPE_CHECKING:
    from collections.abc import Mapping
    from multiprocessing.connection import Connection

    from pgflo.sinks.postgres.connection import Destination

log = structlog.get_logger("pgflo.worker")

ROLE = "shard0"


def main(
    pipe: Connection,
    log_settings: Mapping[str, str | bool],
    to: Destination,
    roots: Mapping[int, tuple[str, str] | None],
) -> None:
    """Run until the pipe ends or something fails."""
    die_with_parent()
    setproctitle(f"pgflo {to.group} writer 0")
    logs.configure_child(log_settings)
    structlog.contextvars.bind_contextvars(group=to.group, sink=to.sink)
    try:
        _serve(pipe, to, roots)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # the worker wants us to end; what is not committed is rolled back
    except PgfloError as error:
        pipe.send_bytes(encode(Failed.of(error)))
    except psycopg.Error as error:
        pipe.send_bytes(encode(Failed.of(failure(error, "applying changes"))))
    except _core.CoreError as error:
        detail = f"the native core refused: {error}"
        pipe.send_bytes(encode(Failed.of(PgfloError(errors.SINK_INTERRUPTED, detail))))


def _serve(pipe: Connection, to: Destination, roots: Mapping[int, tuple[str, str] | None]) -> None:
    with contextlib.closing(to.connect(ROLE)) as conn:
        held = progress.take(conn, to)
        transactions = Transactions(conn, to, held, roots)
        pipe.send_bytes(
            encode(Ready(str(held.incarnation), held.commit_lsn, held.ordinal, held.end_lsn))
        )
        while True:
            step = decode(pipe.recv_bytes())
            if not isinstance(step, Step):
                message = f"unexpected message {type(step).__name__}"
                raise TypeError(message)
            done = _apply(transactions, [pipe.recv_bytes() for _ in range(step.envelopes)], step)
            pipe.send_bytes(encode(done))


def _apply(transactions: Transactions, envelopes: list[bytes], step: Step) -> Done:
    bodies: list[Body] = []
    parts: list[memoryview] = []
    end, end_lsn = (0, 0), 0
    for envelope in envelopes:
        header = _core.read_header(envelope, verify=False)  # the dispatcher has verified it
        end, end_lsn = (header.commit_lsn, header.ordinal), header.end_lsn
        parts.append(memoryview(envelope)[_core.HEADER_BYTES :])
        if header.part + 1 < header.parts:
            continue
        if header.kind == _core.KIND_CHANGES:
            data = parts[0] if len(parts) == 1 else b"".join(parts)
            prev = (header.prev_commit_lsn, header.prev_ordinal)
            is_closed = not header.transaction_open
            bodies.append(Body(data, prev, end, end_lsn, header.changes, is_closed))
        parts = []
    if bodies:
        transactions.step(bodies)
    if not step.commits:
        return Done(committed=False)
    applied = transactions.commit(end, end_lsn)
    return Done(committed=True, changes=applied.changes, conflicts=dict(applied.conflicts))
