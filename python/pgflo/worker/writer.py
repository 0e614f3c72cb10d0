"""The writer process of one shard: one `Writer` of the sink, one step after the other.

Upstream: `dispatcher`, through a pipe (`pgflo.worker` tells the protocol). Downstream: the sink.
Invariant: after any failure it says what happened and exits. What is not committed goes with it: it
never tries to mend what it does not know the end of.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog
from setproctitle import setproctitle

from pgflo import _core, errors, logs
from pgflo.errors import PgfloError
from pgflo.sinks.contract import Body, Progress
from pgflo.supervisor.lifeline import die_with_parent
from pgflo.worker.filtering import Rules, rules_error
from pgflo.worker.messages import Done, Failed, Moved, Ready, Slice, Step, decode, encode
from pgflo.worker.sifting import sifted

if TYPE_CHECKING:
    from collections.abc import Mapping
    from multiprocessing.connection import Connection

    from pgflo.sinks.contract import Sink, Writer
    from pgflo.worker.messages import Row

log = structlog.get_logger("pgflo.worker")

CHANGE_BYTES = 64
"""A small change. A slice does not tell how many it holds; a guess is enough to choose a way."""


def main(
    pipe: Connection,
    log_settings: Mapping[str, str | bool],
    to: Sink,
    shard: int,
) -> None:
    """Run until the pipe ends or something fails."""
    die_with_parent()
    setproctitle(f"pgflo {to.group} writer {shard}")
    logs.configure_child(log_settings)
    structlog.contextvars.bind_contextvars(group=to.group, sink=to.sink)
    try:
        _serve(pipe, to, shard)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # the worker wants us to end; what is not committed is rolled back
    except PgfloError as error:
        pipe.send_bytes(encode(Failed.of(error)))
    except _core.RulesError as error:
        pipe.send_bytes(encode(Failed.of(rules_error(error))))
    except _core.CoreError as error:
        detail = f"the native core refused: {error}"
        pipe.send_bytes(encode(Failed.of(PgfloError(errors.SINK_INTERRUPTED, detail))))


def _serve(pipe: Connection, to: Sink, shard: int) -> None:
    with contextlib.closing(to.open_writer(shard)) as writer:
        held = writer.held
        rules = Rules(to.spec)
        pipe.send_bytes(
            encode(
                Ready(
                    str(held.incarnation), held.commit_lsn, held.ordinal, held.end_lsn, held.fence
                )
            )
        )
        while True:
            try:
                message = decode(_next(pipe, writer))
            except EOFError:
                writer.finish()
                return
            match message:
                case Step() as step:
                    envelopes = [pipe.recv_bytes() for _ in range(step.envelopes)]
                    work = _opened(envelopes, step, to.snapshots)
                case Slice() as part:
                    bodies = [pipe.recv_bytes()] if part.has_body else []
                    work = _sliced(bodies, part)
                case Moved() as moved:
                    writer.moved((moved.commit_lsn, moved.ordinal), moved.end_lsn)
                    continue
                case other:
                    unexpected = f"unexpected message {type(other).__name__}"
                    raise TypeError(unexpected)
            changed = rules.apply(work.bodies, writer.position)
            if changed:
                # What moves the rows of others is committed whole, or they would apply it too.
                writer.write(changed, is_divisible=not work.rows)
            if not work.commits:
                pipe.send_bytes(encode(Done(committed=False)))
                continue
            others = [
                Progress(number, held.incarnation, lsn, ordinal, 0, fence)
                for number, fence, lsn, ordinal in work.rows
            ]
            applied = writer.commit(
                work.end, work.end_lsn, others=others, assignment=work.assignment
            )
            done = Done(True, applied.changes, dict(applied.conflicts), rules.take_counts())
            pipe.send_bytes(encode(done))


def _next(pipe: Connection, writer: Writer) -> bytes:
    """Wait for a message; now and then the writer may do something meanwhile."""
    if writer.idle_s is not None:
        while not pipe.poll(writer.idle_s):
            writer.idle()
    return pipe.recv_bytes()


@dataclass(frozen=True, slots=True)
class _Work:
    """A step or a slice, as it is applied."""

    bodies: list[Body]
    end: tuple[int, int]
    end_lsn: int
    commits: bool
    rows: list[Row]
    assignment: str = ""


def _opened(envelopes: list[bytes], step: Step, snapshots: Mapping[int, int]) -> _Work:
    """Take the bodies out of envelopes, join their parts, leave out what copies hold."""
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
            data = sifted(data, prev, snapshots)
            bodies.append(Body(data, prev, end, end_lsn, header.changes, is_closed))
        parts = []
    return _Work(bodies, end, end_lsn, step.commits, step.rows, step.assignment)


def _sliced(bodies: list[bytes], part: Slice) -> _Work:
    end = (part.end[0], part.end[1])
    prev = (part.prev[0], part.prev[1])
    whole = [
        Body(body, prev, end, part.end_lsn, len(body) // CHANGE_BYTES, part.commits)
        for body in bodies
    ]
    return _Work(whole, end, part.end_lsn, part.commits, part.rows)
