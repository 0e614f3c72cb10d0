"""Removes what a group owns at the source, or lists it.

Upstream: `pgflo drop` and `--restart`. Downstream: slot and publication.
Invariant: only objects that carry the group's name are touched.
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

from pgflo.broker.names import Names
from pgflo.source import publication, shared_snapshot, slot
from pgflo.source.connection import application_name, connect

if TYPE_CHECKING:
    import psycopg

SNAPSHOT = "the snapshot of an unfinished copy"

_ANY_INCARNATION = uuid.UUID(int=0)
"""Names at the source do not depend on the incarnation."""


async def drop_group(conninfo: str, group: str) -> list[str]:
    """Remove slot and publications of a group; tell what was removed (`slot NAME` …).

    Nothing there is no mistake. Raises `PgfloError` when the slot is read by a foreign session.
    """
    async with await connect(conninfo, purpose=application_name(group, "drop")) as conn:
        return await drop_objects(conn, Names(group, _ANY_INCARNATION))


async def list_group(conninfo: str, group: str) -> list[str]:
    """Tell what `drop_group` would remove."""
    names = Names(group, _ANY_INCARNATION)
    async with await connect(conninfo, purpose=application_name(group, "drop")) as conn:
        found = [f"slot {names.slot}"] if await slot.state(conn, names.slot) else []
        if await shared_snapshot.holders(conn, group):
            found.append(SNAPSHOT)
        return found + [
            f"publication {name}" for name in await publication.existing(conn, _publications(names))
        ]


async def drop_objects(conn: psycopg.AsyncConnection[Any], names: Names) -> list[str]:
    """Remove snapshot and slot, then publications: without those a slot cannot be read."""
    dropped = [SNAPSHOT] if await shared_snapshot.end_holders(conn, names.group) else []
    if await slot.drop(conn, names.slot):
        dropped.append(f"slot {names.slot}")
    return dropped + [
        f"publication {name}" for name in await publication.drop(conn, _publications(names))
    ]


def _publications(names: Names) -> list[str]:
    return [names.publication, names.insert_publication]
