"""The oracle's messages in the form in which the Rust core shows its own.

Neighbours: `messages` upstream, `pgflo._core.decode_messages` for comparison. Invariant: nothing is
lost on the way; the core shows as booleans what `pgoutput` has checked to be known bits.
"""

from __future__ import annotations

from tests.oracle.messages import (
    Begin,
    Commit,
    Delete,
    Insert,
    LogicalMessage,
    Message,
    Origin,
    Relation,
    Row,
    Truncate,
    Type,
    Update,
)


def core_row(row: Row) -> list[tuple[str, bytes | None]]:
    """Show a row's cells; kinds without content have None."""
    return [(kind, content if kind in "tb" else None) for kind, content in row]


def core_form(message: Message) -> tuple[object, ...]:
    """Show a message as `decode_messages` does."""
    match message:
        case Begin():
            return ("B", message.final_lsn, message.commit_time_us, message.xid)
        case Commit():
            return ("C", message.commit_lsn, message.end_lsn, message.commit_time_us)
        case Origin():
            return ("O", message.origin_lsn, message.name.decode())
        case Relation():
            columns = [
                (column.flags == 1, column.name.decode(), column.type_oid, column.typmod)
                for column in message.columns
            ]
            names = message.schema.decode(), message.name.decode()
            return ("R", message.oid, *names, message.replica_identity.decode(), columns)
        case Type():
            return ("Y", message.oid, message.schema.decode(), message.name.decode())
        case Insert():
            return ("I", message.relation_oid, core_row(message.new))
        case Update():
            old = None if message.old is None else core_row(message.old)
            return ("U", message.relation_oid, message.old_kind, old, core_row(message.new))
        case Delete():
            return ("D", message.relation_oid, message.old_kind, core_row(message.old))
        case Truncate():
            bits = message.options & 1 != 0, message.options & 2 != 0
            return ("T", *bits, list(message.relation_oids))
        case LogicalMessage():
            prefix = message.prefix.decode()
            return ("M", message.transactional, message.lsn, prefix, message.content)
