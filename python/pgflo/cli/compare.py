"""`pgflo compare`.

Upstream: `app`. Downstream: `pgflo.compare`; exit 0 when equal, 7 when not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from pgflo.cli import parse
from pgflo.config import options as o
from pgflo.errors import DIFFERS, PgfloError

if TYPE_CHECKING:
    from pgflo.compare.run import Comparison
    from pgflo.config.settings import SourceSettings

NAMED_TABLES = 20
"""So many tables are named in the error; the table on stdout has all."""


@parse.command(
    "compare",
    {
        "What": (o.GROUP, *o.TABLE_CHOICE, o.SINK, o.TIMEOUT),
        "Output": (o.JSON,),
        "Source": o.SOURCE_SERVER,
        "Destination": o.TARGET_SERVER,
    },
)
def command(values: parse.Values) -> None:
    """Compare source and destination: rows and an order-free hash of each table.

    With --group the tables are those of the group, and the comparison begins when the destination
    has everything that the source had when the command was started. Exit 0: equal, 7: not.
    """
    import orjson
    from rich.console import Console

    from pgflo.cli import runtime
    from pgflo.cli import values as read
    from pgflo.config.settings import SourceSettings

    source = SourceSettings(
        conninfo=read.source_conninfo(values),
        schema_name=values.get(o.SCHEMA),
        tables=values.get(o.TABLES) or (),
        exclude_tables=values.get(o.EXCLUDE_TABLES) or (),
    )
    target = read.target_conninfo(values).get_secret_value()
    console = Console(stderr=True, highlight=False, no_color=bool(values.get(o.NO_COLOR)) or None)
    with console.status("connecting") as status:
        compared = runtime.run_to_end(_compare(values, source, target, status.update))
    if values.get(o.JSON):
        import dataclasses

        tables = [
            {**dataclasses.asdict(result), "equal": result.equal} for result in compared.tables
        ]
        told = {
            "equal": compared.equal,
            "lsn": compared.lsn,
            "seconds": compared.seconds,
            "tables": tables,
        }
        click.echo(orjson.dumps(told))
    else:
        _draw(compared, no_color=bool(values.get(o.NO_COLOR)))
    if not compared.equal:
        raise difference(compared)


async def _compare(
    values: parse.Values, source: SourceSettings, target: str, told: object
) -> Comparison:
    from pgflo.compare.run import compare

    def tell(text: str) -> None:
        if callable(told):
            told(text)

    return await compare(
        source,
        target,
        group=values.get(o.GROUP),
        sink=values.get(o.SINK) if values.is_set(o.SINK) else None,
        timeout_s=values.get(o.TIMEOUT),
        told=tell,
    )


def difference(compared: Comparison) -> PgfloError:
    """Tell which tables differ, and how."""
    differing = [result for result in compared.tables if not result.equal]
    lines = [
        f"{result.table}: {result.reason} (source {_rows(result.source_rows)},"
        f" destination {_rows(result.target_rows)})"
        for result in differing[:NAMED_TABLES]
    ]
    if len(differing) > NAMED_TABLES:
        lines.append(f"and {len(differing) - NAMED_TABLES} more")
    head = f"{len(differing)} of {len(compared.tables)} tables differ"
    return PgfloError(DIFFERS, "\n".join((head, *lines)))


def _rows(count: int | None) -> str:
    return "nothing" if count is None else f"{count:,} rows"


def _draw(compared: Comparison, *, no_color: bool) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("table")
    table.add_column("source rows", justify="right")
    table.add_column("destination rows", justify="right")
    table.add_column("")
    for result in compared.tables:
        table.add_row(
            result.table,
            "-" if result.source_rows is None else f"{result.source_rows:,}",
            "-" if result.target_rows is None else f"{result.target_rows:,}",
            "[green]equal[/]" if result.equal else f"[red]{result.reason}[/]",
        )
    console = Console(highlight=False, no_color=no_color or None)
    console.print(table)
    if compared.equal:
        at = f" at {compared.lsn}" if compared.lsn else ""
        console.print(f"source and destination are identical{at} ({compared.seconds:.1f} s)")
