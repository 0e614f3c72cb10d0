"""`pgflo rules test` and `pgflo rules lint`.

Upstream: `app`. Downstream: `pgflo.rules`; a source and a destination where they are named.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from pgflo.cli import parse
from pgflo.config import options as o
from pgflo.errors import CONFIG_RULES, USAGE, PgfloError

if TYPE_CHECKING:
    from pgflo.broker.records import TableRecord
    from pgflo.rules.bind import Bound
    from pgflo.rules.read import Written
    from pgflo.rules.trial import Outcome

RULES = "rules_file"
ROUTING = "routing_file"


@parse.command(
    "test",
    {
        "Row": (o.TABLE, o.ROW, o.OP, o.OLD),
        "Output": (o.JSON,),
        "Source": (*o.SOURCE_SERVER, o.SCHEMA),
    },
    arguments=(
        click.Argument([RULES], metavar="RULES"),
        click.Argument([ROUTING], metavar="[ROUTING]", required=False),
    ),
    required=(o.TABLE, o.ROW),
    reads_config=False,
)
def try_row(values: parse.Values) -> None:
    """Show what rules make of a row, before and after, and which rule did what; `-`: no rules.

    Without a source the types of columns are guessed from the JSON, and `id` is the key.
    """
    import dataclasses

    import orjson

    from pgflo import _core
    from pgflo.rules.bind import bind
    from pgflo.rules.trial import outcomes, read_row

    written = _written(values)
    row, types = read_row(values.get(o.ROW), "--row")
    old, old_types = read_row(values.get(o.OLD), "--old") if values.is_set(o.OLD) else (None, {})
    table = _table(values, {**old_types, **types})
    bound = bind(_concerning(written, table), [table])
    try:
        found = outcomes(bound, table, values.get(o.OP), row, old)
    except _core.RulesError as error:
        raise PgfloError(CONFIG_RULES, "; ".join(text for _, text in error.mistakes)) from None
    if values.get(o.JSON):
        click.echo(orjson.dumps([dataclasses.asdict(each) for each in found]))
        return
    for each in found:
        _show(each, row, values.get(o.OP), bound)


@parse.command(
    "lint",
    {
        "Source": (*o.SOURCE_SERVER, *o.TABLE_CHOICE),
        "Destination": o.TARGET_SERVER,
    },
    arguments=(
        click.Argument([RULES], metavar="RULES"),
        click.Argument([ROUTING], metavar="[ROUTING]", required=False),
    ),
    reads_config=False,
)
def lint(values: parse.Values) -> None:
    """Find every mistake in a rules file and a routing file; `-` stands for no rules.

    Without a source only what files alone can tell; with one also columns and types, and with a
    destination what goes there.
    """
    from pgflo.rules.bind import bind
    from pgflo.rules.trial import imagined_tables, perhaps_unsure_deletes, unsure_deletes

    written = _written(values)
    is_source_named = any(values.is_set(option) for option in (o.SOURCE, o.HOST, o.DBNAME))
    tables = _tables(values) if is_source_named else imagined_tables(written)
    bound = bind(written, tables)
    if is_source_named and any(values.is_set(option) for option in o.TARGET_SERVER):
        _check_destination(values, bound, tables)
    notes = unsure_deletes(written, tables) if is_source_named else perhaps_unsure_deletes(written)
    for note in notes:
        click.echo(note)
    told = "against source and files" if is_source_named else "by itself: no source was named"
    click.echo(f"{len(written.rules)} rules, {len(written.routes)} routes: no mistake, {told}")


def _written(values: parse.Values) -> Written:
    from pgflo.rules.read import read

    rules = values.argument(RULES)
    return read(None if rules == "-" else rules, values.argument(ROUTING))


def _tables(values: parse.Values) -> list[TableRecord]:
    import asyncio

    from pgflo.cli import values as read
    from pgflo.config.settings import SourceSettings
    from pgflo.replicator.snapshots import uncopied
    from pgflo.source.catalog import resolve
    from pgflo.source.connection import connect

    settings = SourceSettings(
        conninfo=read.source_conninfo(values),
        schema_name=values.get(o.SCHEMA),
        tables=values.get(o.TABLES) or (),
        exclude_tables=values.get(o.EXCLUDE_TABLES) or (),
    )

    async def look() -> list[TableRecord]:
        conn = await connect(settings.conninfo.get_secret_value(), purpose="rules")
        async with conn:
            found = await resolve(conn, settings)
        return [uncopied(table) for table in found.tables]

    return asyncio.run(look())


def _table(values: parse.Values, types: dict[str, int]) -> TableRecord:
    from pgflo.rules.read import table_name
    from pgflo.rules.trial import guessed_table, is_named

    name = table_name(values.get(o.TABLE))
    if name is None:
        raise PgfloError(USAGE, f"--table {values.get(o.TABLE)!r} is not the name of one table")
    if not any(values.is_set(option) for option in (o.SOURCE, o.HOST, o.DBNAME)):
        return guessed_table(name, types)
    found = [table for table in _tables(values) if is_named(table, name)]
    if not found:
        raise PgfloError(USAGE, f"the source has no table {values.get(o.TABLE)}")
    return found[0]


def _concerning(written: Written, table: TableRecord) -> Written:
    """Leave out what concerns other tables, which nobody knows here."""
    from pgflo.rules.read import Written
    from pgflo.rules.trial import is_named

    columns = {column.name for column in table.columns}
    names = [table.root] if table.root is not None else []

    def concerns(name: tuple[str, str] | None, column: str) -> bool:
        if name is None:
            return column in columns
        return is_named(table, name) or name in names

    return Written(
        tuple(each for each in written.rules if concerns(each.table, each.rule.column)),
        tuple(each for each in written.routes if concerns(each.source, "")),
    )


def _check_destination(values: parse.Values, bound: Bound, tables: list[TableRecord]) -> None:
    import uuid

    from pgflo.cli import values as read
    from pgflo.rules.check import check
    from pgflo.sinks.postgres.connection import Destination
    from pgflo.sinks.postgres.tables import sink_tables

    target = read.target_conninfo(values).get_secret_value()
    with Destination(target, "rules", "lint", uuid.uuid4()).connect("lint") as conn:
        check(conn, bound, tables, sink_tables(tables, bound, copied=False))


PRESENCES = {
    "maybe": "its row may be there or not, and is or is not there afterwards",
    "stays": "only if its row is there: the filter's column was not sent",
    "undecided": "its row must be there: the filter's column was not sent",
}


def _show(outcome: Outcome, row: dict[str, str | None], operation: str, bound: Bound) -> None:
    if not outcome.operation:
        click.echo(f"{outcome.table}: nothing, dropped by {outcome.dropped_by or 'its operations'}")
        return
    known = PRESENCES.get(outcome.presence)
    click.echo(f"{outcome.table}: {outcome.operation}{f' ({known})' if known else ''}")
    if outcome.operation == "DELETE" or operation == "delete":
        return
    before = {here: source for source, here in _names(outcome, bound)}
    for column, after in outcome.values.items():
        source = before.get(column, column)
        was = row.get(source)
        renamed = "" if source == column else f" (from {source})"
        changed = f"{_shown(was)} → {_shown(after)}" if was != after else _shown(after)
        rules = ", ".join(outcome.changed_by.get(column, ()))
        click.echo(f"  {column}{renamed}: {changed}{f'  [{rules}]' if rules else ''}")
    gone = [source for source in row if source not in {*before.values(), *outcome.values}]
    for source in gone:
        click.echo(f"  {source}: left out{_left_out_by(source, bound)}")


def _names(outcome: Outcome, bound: Bound) -> list[tuple[str, str]]:
    pairs = []
    for route in bound.spec.routes:
        to = route.destination or route.source
        if f"{to[0]}.{to[1]}" == outcome.table:
            pairs += list(route.columns)
    return pairs


def _shown(value: str | None) -> str:
    return "NULL" if value is None else value


def _left_out_by(column: str, bound: Bound) -> str:
    labels = [
        f"{rule.kind} {rule.label}"
        for rule in bound.spec.rules
        if rule.column == column and rule.kind == "exclude_column"
    ]
    return f"  [{', '.join(labels)}]" if labels else ""


group = parse.Group(
    name="rules",
    help="Try rules on a row; find every mistake in a rules or routing file.",
    context_settings=parse.CONTEXT,
    commands={"test": try_row, "lint": lint},
)
