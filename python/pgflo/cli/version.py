"""`pgflo version`.

Upstream: `app`. Downstream: stdout.
"""

from __future__ import annotations

import click

from pgflo.cli import parse
from pgflo.config import options as o


@parse.command("version", {"Output": (o.JSON,)}, reads_config=False)
def command(values: parse.Values) -> None:
    """Print the version of pgflo and of what it runs on."""
    import json
    import platform

    import psycopg

    from pgflo import __version__, _core

    facts = {
        "pgflo": __version__,
        "core": f"{_core.VERSION} ({_core.PROFILE})",
        "python": platform.python_version(),
        "libpq": _libpq(psycopg.pq.version()),
    }
    if values.get(o.JSON):
        click.echo(json.dumps(facts))
    else:
        click.echo(f"pgflo {facts['pgflo']}")
        for name in ("core", "python", "libpq"):
            click.echo(f"  {name} {facts[name]}")


def _libpq(number: int) -> str:
    return f"{number // 10000}.{number % 10000}"
