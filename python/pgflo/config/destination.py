"""Where a sink's lines or rows go, written as one text: a URL, or the name of a kind.

Upstream: `--to` of `pgflo replicate`, `to:` of a file's sinks. Downstream: the option that a worker
of that kind takes its destination from. Invariant: no message shows the text; it may hold a secret.

    postgres://… postgresql://…   file:///directory   http://… https://…   stdout   stdout:   NAME:
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from urllib.parse import unquote

from pgflo.config.options import FILE_OUTPUT_DIR, TARGET, WEBHOOK_URL, Option

FILE_URL = "file:///"
NAMED = re.compile(r"(?:(?P<name>[a-z0-9_-]{1,40})=)?(?P<text>.*)", re.DOTALL)
"""`NAME=URL`; no URL has an = before its colon."""
KIND = re.compile(r"stdout|[a-z][a-z0-9_-]*:")
"""A sink that needs no more than its kind."""
DATABASE = ("postgres://", "postgresql://")
RECEIVER = ("http://", "https://")
FORMS = "postgres://…, file:///DIRECTORY, https://… or stdout:"


@dataclass(frozen=True, slots=True)
class Destination:
    """One sink's destination. `name` is what was written before it, if anything was."""

    kind: str
    option: Option | None
    """What a worker of the kind takes `value` by; None: the kind says it all."""
    value: str = field(repr=False)
    name: str | None = None


def read(text: str) -> Destination | None:
    """Read a destination; None if it has no form that is known."""
    if text.startswith(FILE_URL):
        return Destination("file", FILE_OUTPUT_DIR, path_of(text))
    if text.startswith(RECEIVER):
        return Destination("webhook", WEBHOOK_URL, text)
    if text.startswith(DATABASE):
        return Destination("postgres", TARGET, text)
    if KIND.fullmatch(text):
        return Destination(text.removesuffix(":"), None, "")
    return None


def read_named(text: str) -> Destination | None:
    """Read `URL` or `NAME=URL`; None if it is neither."""
    match = NAMED.fullmatch(text)
    found = read(match["text"]) if match else None
    if match is None or found is None:
        return None
    return Destination(found.kind, found.option, found.value, match["name"])


def path_of(url: str) -> str:
    """Give the path of a `file:///` URL."""
    return unquote(url.removeprefix("file://"))
