"""What rules cost: pgflo empties the same backlog twice, once through rules that look at every row.

Upstream: `loads.py`. Downstream: `backlog.py`, which times a piece. Both groups have their slot
while the source writes and nobody reads. Invariant: while one works, the other has no process; the
rules filter and change every row, and no row is dropped, so that both write as many.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from benches.e2e import backlog
from benches.e2e.contenders import Pgflo
from benches.e2e.loads import SOURCE_DB

if TYPE_CHECKING:
    from benches.e2e.bed import Bed
    from benches.e2e.loads import Load
    from benches.e2e.observe import Piece

PLAIN_DB, RULED_DB = "backlog_plain", "backlog_ruled"
RULES = r"""
tables:
  mixed:
    - {type: filter, column: amount, parameters: {operator: gte, value: -1000000}}
    - {type: transform, column: note, parameters: {type: mask}}
    - {type: transform, column: note, parameters: {type: regex, pattern: '^(.)\*+', replace: '$1-'}}
"""
CHANGED = "SELECT count(*) FILTER (WHERE note ~ '^.-') = count(*) FROM mixed WHERE id >= 1000000"


@dataclass(frozen=True)
class Round:
    """What one backlog cost without rules and with them."""

    changes: int
    plain: Piece
    ruled: Piece


def one_round(bed: Bed, load: Load, number: int) -> Round:
    """Build the backlog once and empty it twice; which goes first alternates by round."""
    load.prepare(bed)
    dump = backlog.dump(bed)
    file = bed.directory / "rules.yaml"
    file.write_text(RULES)
    plain = Pgflo(bed, f"plain_{number}", SOURCE_DB, PLAIN_DB)
    ruled = Pgflo(bed, f"ruled_{number}", SOURCE_DB, RULED_DB, ("--rules-config", str(file)))
    for group in (plain, ruled):
        backlog.fresh_target(bed, group.target_db, dump)
        backlog.register(bed, group, load)
    changes = load.write(bed) + 1
    last_lsn = backlog.close_backlog(bed, load)
    pieces = {}
    for group in (plain, ruled) if number % 2 else (ruled, plain):
        backlog.settle(bed)
        pieces[group] = backlog.empty(bed, group, load, last_lsn)
    with bed.connect(bed.target, RULED_DB) as conn:
        assert conn.execute(CHANGED).fetchone() == (True,)
    for group in (plain, ruled):
        group.forget()
    return Round(changes, pieces[plain], pieces[ruled])
