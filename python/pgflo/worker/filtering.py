"""Bodies through the sink's rules, before a writer applies them.

Upstream: `writer` has the bodies of a step. Downstream: the native `Rewriter`; transactions, which
see destination tables only.
Invariant: what rules did is told once, with the transaction that commits it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

from pgflo import _core
from pgflo.errors import CONFIG_RULES, PgfloError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pgflo.rules.spec import Spec
    from pgflo.sinks.contract import Body, Ruled


class Tally:
    """What rules did, added up until it is taken."""

    def __init__(self) -> None:
        self._dropped = Counter[int]()
        self._changed = Counter[int]()

    def add(self, counts: Iterable[Ruled]) -> None:
        """Count more."""
        for rule, dropped, changed in counts:
            self._dropped[rule] += dropped
            self._changed[rule] += changed

    def take(self) -> list[Ruled]:
        """Give what was counted, and begin anew."""
        numbers = sorted(self._dropped.keys() | self._changed.keys())
        counts = [(number, self._dropped[number], self._changed[number]) for number in numbers]
        self._dropped.clear()
        self._changed.clear()
        return counts


class Rules:
    """The rules of one writer."""

    def __init__(self, spec: Spec) -> None:
        self._rewriter = _core.Rewriter(spec.compiled()) if spec else None
        self._tally = Tally()

    def apply(self, bodies: Sequence[Body], after: tuple[int, int]) -> list[Body]:
        """Give what becomes of bodies behind `after`; one of which nothing is left is left out.

        Raises `_core.RulesError` where rules do not fit a table any more.
        """
        if self._rewriter is None:
            return list(bodies)
        made = []
        for body in bodies:
            data, changes, counts = self._rewriter.rewrite(body.data, body.prev, after)
            after = max(after, body.end)
            self._tally.add(counts)
            if changes:
                made.append(
                    replace(body, data=body.data if data is None else data, changes=changes)
                )
        return made

    def take_counts(self) -> list[Ruled]:
        """Give what rules did since it was taken last."""
        return self._tally.take()


def rules_error(error: _core.RulesError) -> PgfloError:
    """Tell rules that do not fit, with table and position."""
    where = ""
    context = {"table": error.table}
    if error.position is not None:
        context["position"] = f"{_core.lsn_format(error.position[0])}:{error.position[1]}"
        where = f", whose change at {context['position']} comes next"
    mistakes = "".join(f"\n{label}: {text}" for label, text in error.mistakes)
    detail = f"rules do not fit {error.table}{where}; nothing of it was passed on{mistakes}"
    return PgfloError(CONFIG_RULES, detail, **context)
