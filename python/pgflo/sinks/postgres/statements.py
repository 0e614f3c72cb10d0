"""The SQL of one shape of change: what runs, with which values, and what runs if no row is hit.

Upstream: the replay meets a shape (operation, old tuple, columns left out) for the first time.
Downstream: the texts are prepared once and run for every change of that shape.
Invariants: every statement of normal mode hits exactly one row or is wrong; names go through
psycopg.sql, values through parameters whose types are the destination columns' own.

Normal mode takes the source's word: an INSERT finds no such key, an UPDATE or DELETE finds its
row. Careful mode runs after that turned out wrong: an INSERT whose key exists updates that row, an
UPDATE without a row inserts it (if no value is missing), a DELETE without a row passes; each is
counted.

Where rules keep rows out a change may not know whether its row is there. Its statement does what is
right in both cases and hits one row anyway: nothing is counted, in either mode.

Three odd columns and tables:
- GENERATED ALWAYS identity: INSERT overrides it; UPDATE cannot set it, so that a change that may
  set it comes in two halves, in one statement: UPDATE of the row if it keeps its identity, else
  DELETE … RETURNING the columns that were not sent, and INSERT.
- A deferrable unique key is not enforced in replica role: INSERT asks for the key itself. Until its
  commit the source may have two rows of one key; the old row's image tells which one is meant.
- No key at all (REPLICA IDENTITY FULL): the first row with the same image (`*=`: bytes, not
  values).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from psycopg import sql

from pgflo.sinks.postgres.row_search import Change, Params, RowSearch, Source, Text, join

if TYPE_CHECKING:
    from pgflo.sinks.postgres.catalog import Table
    from pgflo.sinks.postgres.row_search import Side

__all__ = ["Change", "Plan", "Source", "Text", "plan"]


@dataclass(frozen=True, slots=True)
class Plan:
    """What a shape runs. No primary: the shape changes nothing at the destination."""

    primary: Text | None
    fallback: Text | None = None
    conflict: str = ""


def plan(change: Change, source: Source, table: Table) -> Plan:
    """Choose the statements of a shape.

    Raises `PgfloError` SINK_COLUMN_MISSING (the destination lacks a column) or SINK_REFUSED (an
    UPDATE or DELETE of a table whose rows nothing tells apart).
    """
    return _Builder(change, source, table).plan()


class _Builder(RowSearch):
    """Builds the statements of one change: the numbers below are source column numbers."""

    def plan(self) -> Plan:
        if self.change.presence:
            return self._plan_unsure()
        match self.change.op:
            case "I":
                return self._plan_insert()
            case "U":
                return self._plan_update()
            case "D":
                conflict = "delete_missing" if self.change.careful else ""
                return Plan(self._delete(), conflict=conflict)
            case other:
                message = f"unknown operation {other!r}"
                raise ValueError(message)

    def _plan_unsure(self) -> Plan:
        """Plan for a row that may be there or not."""
        unsent = self.change.unchanged
        settable = [n for n in self._sent() if self.change.old or n not in self.key]
        match self.change.op, self.change.presence:
            case "D", _:
                return Plan(self._if_there(self._delete()))
            case "I", _:
                return Plan(self._upsert("new") if self.key else self._insert("new", guarded=False))
            case "U", "stays":
                plain = [n for n in settable if not self.columns[n].identity_always]
                return Plan(self._if_there(self._set(plain, by_new_key=False)) if plain else None)
            case "U", "maybe" if not unsent or self.change.old == "O":
                side: Side = "new_or_old" if unsent else "new"
                return Plan(self._upsert(side, by_new_key=not self.change.old))
        # Without all values it cannot be made: either it is there, or this is refused.
        return Plan(self._set(settable, by_new_key=False))

    @staticmethod
    def _if_there(text: Text) -> Text:
        """Let a statement count as one row, whether it hit one or none."""
        query = sql.SQL("WITH hit AS ({} RETURNING 1) SELECT").format(text.query)
        return Text(query, text.params, text.types)

    def _plan_insert(self) -> Plan:
        careful = self.change.careful and self.constraint is not None
        primary = self._insert("new", guarded=careful)
        if not careful:
            return Plan(primary)
        return Plan(primary, self._overwrite(), "insert_exists")

    def _plan_update(self) -> Plan:
        unsent = self.change.unchanged
        settable = [
            n for n in self.written if n not in unsent and (self.change.old or n not in self.key)
        ]
        if not settable and not self.change.careful:
            return Plan(None)
        primary = self._set(settable, self.change.old == "")
        if not self.change.careful:
            return Plan(primary)
        return Plan(primary, self._update_anyway(), "update_missing")

    def _update_anyway(self) -> Text | None:
        """Make up for a missing old row; a row that has the new key already takes its place."""
        unsent, has_moved = self.change.unchanged, self.change.old != "" and self.constraint
        if not unsent or self.change.old == "O":
            side: Side = "new_or_old" if unsent else "new"
            return self._upsert(side) if has_moved else self._insert(side, guarded=False)
        # A cascade of the destination's own may have moved it: then only the rest is missing.
        return self._set(self._sent(), by_new_key=True) if has_moved else None

    def _overwrite(self) -> Text:
        """Make the row that has this key equal to the inserted one."""
        return self._set(self._sent(), by_new_key=True)

    def _sent(self) -> list[int]:
        """Columns to write to the row that has the new key, which may look another way there."""
        kept = {n for n in self.key if self.columns[n].identity_always} | self.change.unchanged
        return [n for n in self.written if n not in kept]

    def _set(self, columns: list[int], by_new_key: bool) -> Text:
        """Write `columns` of one row, or replace it where an UPDATE cannot do that."""
        identity = [n for n in columns if self.columns[n].identity_always]
        if identity:
            return self._replace(columns, identity[0], by_new_key=by_new_key)
        params = Params()
        return params.text(self._write(params, columns, "new", by_new_key=by_new_key))

    def _write(
        self, params: Params, columns: list[int], side: Side, *, by_new_key: bool
    ) -> sql.Composable:
        """Update one row; without anything to set, only look whether it is there."""
        by_new_key = by_new_key and bool(self.key)
        assignments = sql.SQL(", ").join(
            sql.SQL("{} = {}").format(
                sql.Identifier(self.source.columns[n]), self.value(params, side, n)
            )
            for n in columns
        )
        where = self.by_key(params, "new") if by_new_key else self.row(params)
        text = "UPDATE {} SET {} WHERE {}" if columns else "SELECT FROM {}{} WHERE {}"
        return sql.SQL(text).format(self.table.only, assignments, where)

    def _upsert(self, side: Side, *, by_new_key: bool = True) -> Text:
        """Overwrite the row that has the new key (else: that the change means), or insert one."""
        params = Params()
        settable = [n for n in self.written if not self.columns[n].identity_always]
        written = self._write(params, settable, side, by_new_key=by_new_key)
        return params.text(
            sql.SQL(
                "WITH there AS ({written}{returning}), added AS (INSERT INTO {target} ({names})"
                " OVERRIDING SYSTEM VALUE SELECT {values} WHERE NOT EXISTS (SELECT FROM there)"
                " RETURNING 1) SELECT FROM there UNION ALL SELECT FROM added"
            ).format(
                written=written,
                returning=sql.SQL(" RETURNING 1" if settable else ""),
                target=self.table.identifier,
                names=self.names(self.written),
                values=sql.SQL(", ").join(self.value(params, side, n) for n in self.written),
            )
        )

    def _replace(self, columns: list[int], identity: int, *, by_new_key: bool) -> Text:
        """Update the row if it keeps its identity, else delete it and insert it anew.

        What was not sent is kept. Deleting it in any case would be seen by what refers to it, where
        foreign keys act.
        """
        params = Params()
        by_new_key = by_new_key and bool(self.key)
        where = self.by_key(params, "new") if by_new_key else self.row(params)
        settable = [n for n in columns if n != identity]
        written = self._write(params, settable, "new", by_new_key=by_new_key)
        kept = [
            name
            for name, column in self.table.columns.items()
            if not column.generated
            and (name not in self.number or self.number[name] in self.change.unchanged)
        ]
        sent = [n for n in self.written if n not in self.change.unchanged]
        values = [self.value(params, "new", n) for n in sent]
        values += [sql.SQL("gone.{}").format(sql.Identifier(name)) for name in kept]
        names = [self.source.columns[n] for n in sent] + kept
        return params.text(
            sql.SQL(
                "WITH there AS ({written} AND {identity} = {number}{returning}),"
                " gone AS (DELETE FROM {table} WHERE {where} AND {identity} <> {number}"
                " RETURNING {returned}), added AS (INSERT INTO {target} ({names})"
                " OVERRIDING SYSTEM VALUE SELECT {values} FROM gone RETURNING 1)"
                " SELECT FROM there UNION ALL SELECT FROM added"
            ).format(
                written=written,
                identity=sql.Identifier(self.source.columns[identity]),
                number=self.value(params, "new", identity),
                returning=sql.SQL(" RETURNING 1" if settable else ""),
                table=self.table.only,
                where=where,
                returned=join(kept) if kept else sql.SQL("1"),
                target=self.table.identifier,
                names=join(names),
                values=sql.SQL(", ").join(values),
            )
        )

    def _insert(self, side: Side, *, guarded: bool) -> Text:
        """Insert a row; `guarded`: do nothing if its key is there."""
        params = Params()
        deferrable = self.is_deferrable()
        values = sql.SQL(", ").join(self.value(params, side, n) for n in self.written)
        if not self.written:
            source: sql.Composable = sql.SQL("DEFAULT VALUES")
        elif deferrable:
            source = sql.SQL("SELECT {} WHERE NOT EXISTS (SELECT FROM {} WHERE {})").format(
                values, self.table.identifier, self.by_key(params, side)
            )
        else:
            source = sql.SQL("VALUES ({})").format(values)
        overriding = any(self.columns[n].identity_always for n in self.written)
        query = sql.SQL("INSERT INTO {}{}{}{}{}").format(
            self.table.identifier,
            sql.SQL(" ({})").format(self.names(self.written)) if self.written else sql.SQL(""),
            sql.SQL(" OVERRIDING SYSTEM VALUE ") if overriding else sql.SQL(" "),
            source,
            sql.SQL(" ON CONFLICT ({}) DO NOTHING").format(self.names(self.key))
            if guarded and not deferrable
            else sql.SQL(""),
        )
        return params.text(query)

    def _delete(self) -> Text:
        params = Params()
        where = self.row(params)
        return params.text(sql.SQL("DELETE FROM {} WHERE {}").format(self.table.only, where))
