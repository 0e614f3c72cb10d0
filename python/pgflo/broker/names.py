"""The names of everything a group owns, at the source and in the broker.

Upstream: the group's name and incarnation. Downstream: every module that touches a slot,
publication, stream, subject or bucket.
Invariant: names of two groups never meet, and no name is built anywhere else.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pgflo.errors import CONFIG, PgfloError

if TYPE_CHECKING:
    import uuid

GROUP_NAME = re.compile(r"[a-z0-9_]{1,40}")

SHORT_INCARNATION = 8
"""Leading hex digits of the incarnation in stream names: enough to tell a group's incarnations
apart."""


class Names:
    """All names of one incarnation of a group. Cheap; make one wherever needed."""

    def __init__(self, group: str, incarnation: uuid.UUID) -> None:
        check_group(group)
        self.group = group
        self.incarnation = incarnation
        short = incarnation.hex[:SHORT_INCARNATION]
        self.changes_stream = f"pgflo_{group}_{short}_changes"
        self.copy_stream = f"pgflo_{group}_{short}_copy"
        self.changes_subject = f"pgflo.{group}.{short}.changes"
        self._copy_prefix = f"pgflo.{group}.{short}.copy."
        self.copy_subjects = f"{self._copy_prefix}*"
        self.slot = f"pgflo_{group}"
        self.publication = f"pgflo_{group}"
        self.insert_publication = f"pgfloinsert_{group}"
        """Not `pgflo_<group>_insert`: that is the publication of the group `<group>_insert`."""

    def momentary_slot(self, tag: str) -> str:
        """Slot that lives while it exports a snapshot; as with `insert_publication`, no other's."""
        return f"pgflosnap_{self.group}_{tag}"

    def copy_subject(self, lane: int) -> str:
        """Subject of one copy lane."""
        return f"{self._copy_prefix}{lane}"

    @staticmethod
    def bucket_of(group: str) -> str:
        """Key-value bucket of the group's record; the same for all incarnations."""
        check_group(group)
        return f"pgflo_{group}"


def check_group(group: str) -> None:
    """Raise `PgfloError` (CONFIG) unless `group` may stand in names."""
    if not GROUP_NAME.fullmatch(group):
        raise PgfloError(
            CONFIG, f"{group!r} is not a group name: 1 to 40 of a-z, 0-9 and _", setting="group"
        )


def stream_pattern(group: str) -> re.Pattern[str]:
    """Match the streams of every incarnation of `group`, and no other group's."""
    check_group(group)
    return re.compile(rf"pgflo_{group}_[0-9a-f]{{{SHORT_INCARNATION}}}_(changes|copy)")
