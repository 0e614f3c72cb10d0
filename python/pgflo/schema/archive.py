"""What pg_dump found, object by object: the entries of an archive with text and dependencies.

Upstream: `dump` runs the programs. Downstream: `choice` (which entries), `plan` (compare, order).
Invariant: the texts of the entries are pg_restore's, cut at the headers that it writes in front of
each. A header counts when the archive's list has its numbers; should one stand there twice (only a
text that imitates pg_dump brings that about), the archive is refused rather than cut in two ways.

Example, as `pg_restore --verbose` writes it:
    --
    -- TOC entry 223 (class 1259 OID 17173)
    -- Dependencies: 8 1118
    -- Name: orders; Type: TABLE; Schema: public; Owner: -
    --
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pgflo import errors
from pgflo.errors import PgfloError

if TYPE_CHECKING:
    from collections.abc import Iterator

LISTED = re.compile(r"^(\d+); (\d+) (\d+) ", re.MULTILINE)

HEADER = re.compile(
    r"^--\n-- TOC entry (?P<id>\d+) \(class (?P<class>\d+) OID (?P<oid>\d+)\)\n"
    r"(?:-- Dependencies: (?P<after>[\d ]*)\n)?"
    r"-- Name: (?P<name>.*); Type: (?P<kind>[A-Z ]+); Schema: (?P<schema>.*); Owner: .*\n"
    r"(?:-- Data Pos: \d+\n)?--\n",
    re.MULTILINE,
)

LAST = re.compile(
    r"\n(?:-- Completed on [^\n]*\n\n)?--\n-- PostgreSQL database dump complete\n--\n"
)

SETTINGS = re.compile(r"(?:^SET default_\w+ = [^;\n]*;\s*)+\Z", re.MULTILINE)
"""Written for the entry that follows."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One object, or one property of an object, and the SQL that makes it."""

    id: int
    class_oid: int
    oid: int
    """Where the catalog has it; both 0 for properties without a row of their own."""
    kind: str
    """As pg_dump calls it: TABLE, FK CONSTRAINT, TABLE ATTACH, COMMENT …"""
    schema: str
    name: str
    """Unquoted; of a constraint or default after the name of its table."""
    after: tuple[int, ...]
    """Entries it needs; some may not be in the archive."""
    text: str

    @property
    def label(self) -> str:
        """Name it for people, and tell it from every other entry of a database."""
        within = "" if self.schema == "-" else f" {self.schema}"
        return f"{self.kind}{within} {self.name}"


def entries(listing: str, script: str) -> dict[int, Entry]:
    """Read the list and the verbose script of one archive; by number, in the order to restore.

    Raises `PgfloError` SCHEMA_UNREADABLE.
    """
    listed = {match.groups() for match in LISTED.finditer(listing)}
    headers = [match for match in HEADER.finditer(script) if _numbers(match) in listed]
    found: dict[int, Entry] = {}
    for match, text in zip(headers, _texts(headers, script), strict=True):
        number = int(match["id"])
        if number in found:
            raise PgfloError(
                errors.SCHEMA_UNREADABLE,
                f"the text of some object looks like pg_dump's header of {found[number].label}",
            )
        found[number] = Entry(
            id=number,
            class_oid=int(match["class"]),
            oid=int(match["oid"]),
            kind=match["kind"],
            schema=match["schema"],
            name=match["name"],
            after=tuple(dict.fromkeys(map(int, (match["after"] or "").split()))),
            text=text,
        )
    return found


def _numbers(match: re.Match[str]) -> tuple[str, str, str]:
    return match["id"], match["class"], match["oid"]


def _texts(headers: list[re.Match[str]], script: str) -> Iterator[str]:
    ends = list(LAST.finditer(script))
    end = ends[-1].start() if ends else len(script)
    starts = [match.start() for match in headers[1:]]
    for match, until in zip(headers, [*starts, end], strict=False):
        yield SETTINGS.sub("", script[match.end() : until].strip() + "\n").strip()
