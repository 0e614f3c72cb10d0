"""The two sessions of a comparison: the same text for the same value on both sides.

Upstream: connection strings. Downstream: `wait`, `plan`, `digest`.
Invariant: everything that decides how a value is printed is pinned alike in both sessions.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psycopg

from pgflo.errors import SINK_UNREACHABLE, SOURCE_UNREACHABLE, PgfloError, describe
from pgflo.source.connection import connect

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from pgflo.errors import Kind

Session = psycopg.AsyncConnection[Any]

PRINTING = {
    # Names of reg* values are printed with their schema, whatever the role's own path is.
    "search_path": "",
    "client_encoding": "UTF8",
    "xmloption": "content",
    "jit": "off",
}


@dataclass(frozen=True, slots=True)
class Sides:
    """Source and destination."""

    source: Session
    target: Session

    @property
    def same_encoding(self) -> bool:
        """Whether both databases store text in the same bytes."""
        return _encoding(self.source) == _encoding(self.target)


@contextlib.asynccontextmanager
async def opened(source: str, target: str) -> AsyncIterator[Sides]:
    """Open both sides, destination errors told as such."""
    async with contextlib.AsyncExitStack() as stack:
        left = await _open(stack, source, "pgflo compare")
        try:
            right = await _open(stack, target, "pgflo compare")
        except PgfloError as error:
            raise _of_destination(error) from None
        yield Sides(left, right)


async def _open(stack: contextlib.AsyncExitStack, conninfo: str, purpose: str) -> Session:
    session = await stack.enter_async_context(await connect(conninfo, purpose=purpose))
    for name, value in PRINTING.items():
        await session.execute("SELECT pg_catalog.set_config(%s, %s, false)", (name, value))
    return session


def _of_destination(error: PgfloError) -> PgfloError:
    from pgflo import errors

    kinds: dict[str, Kind] = {
        errors.SOURCE_UNREACHABLE.code: SINK_UNREACHABLE,
        errors.SOURCE_AUTH.code: errors.SINK_AUTH,
        errors.SOURCE_DSN.code: errors.CONFIG,
    }
    kind = kinds.get(error.kind.code, SINK_UNREACHABLE)
    return PgfloError(kind, error.detail.replace("the source", "the destination"))


def source_failure(error: psycopg.Error) -> PgfloError:
    """Tell a failure of the source while comparing."""
    from pgflo import errors

    kind = errors.SOURCE_FAILED if error.sqlstate else SOURCE_UNREACHABLE
    return PgfloError(kind, f"comparing, the source failed: {describe(error)}")


def target_failure(error: psycopg.Error) -> PgfloError:
    """Tell a failure of the destination while comparing."""
    from pgflo import errors

    kind = errors.COMPARE_FAILED if error.sqlstate else SINK_UNREACHABLE
    return PgfloError(kind, f"comparing, the destination failed: {describe(error)}")


def _encoding(session: Session) -> str | None:
    return session.info.parameter_status("server_encoding")
