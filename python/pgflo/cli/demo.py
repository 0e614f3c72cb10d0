"""`pgflo demo`.

Upstream: `app`. Downstream: `pgflo.demo`, which does the main job for real.
"""

from __future__ import annotations

from pgflo.cli import parse
from pgflo.config import options as o


@parse.command("demo", {"Demo": (o.KEEP,)}, reads_config=False)
def command(values: parse.Values) -> None:
    """Show the whole job in about a minute, with servers of its own.

    Two PostgreSQL servers and a broker are started in a temporary directory, a million rows are
    copied and streamed while writers are at work, and both sides are compared. Nothing is left.
    """
    from pgflo.demo.show import run

    run(keep=bool(values.get(o.KEEP)), no_color=bool(values.get(o.NO_COLOR)))
