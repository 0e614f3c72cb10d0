"""The broker that a group gets when nobody names one: an embedded NATS server on this machine.

Upstream: `pgflo replicate` and `pgflo run` without --nats-url. Downstream: `pgflo.embedded.nats`.

    <state-dir>/<group>/broker.json   {"url", "pid"} for the group's other commands, private
    <state-dir>/<group>/nats/         the server's own directory

Invariant: a group has one broker at a time, on the port it got first and with the password it got
first, so that workers find it again; whoever notices that it is gone starts it.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import socket
from typing import TYPE_CHECKING, NoReturn
from urllib.parse import unquote, urlsplit

import structlog

from pgflo.embedded.nats import EmbeddedNats, find_running
from pgflo.errors import BROKER_UNREACHABLE, GROUP_UNKNOWN, PgfloError
from pgflo.logs import redact

if TYPE_CHECKING:
    from pathlib import Path

log = structlog.get_logger("pgflo.supervisor")

WATCH_S = 0.5
"""How often a look is taken whether the broker still serves: one system call when it is ours."""
RESTART_WAIT_S = 5.0
ANSWER_TIMEOUT_S = 2.0
PASSWORD_BYTES = 24


class LocalBroker:
    """The broker of one group, started here or found running."""

    def __init__(self, state_dir: Path, group: str) -> None:
        self.group = group
        self.directory = state_dir / group
        self.url = ""
        self._server: EmbeddedNats | None = None

    async def start(self) -> None:
        """Return when a broker of the group serves. Raises what the embedded server raises."""
        await asyncio.to_thread(self._start)

    async def watch(self) -> NoReturn:
        """Start the broker again whenever it is gone; ends by cancellation only."""
        wait_s = WATCH_S
        while True:
            await asyncio.sleep(wait_s)
            wait_s = WATCH_S
            if await asyncio.to_thread(self._serves):
                continue
            log.warning("the embedded broker is gone, starting it again", group=self.group)
            try:
                await asyncio.to_thread(self._start)
            except PgfloError as error:
                wait_s = RESTART_WAIT_S
                log.warning(error.detail, kind=error.kind.code, again_in_s=wait_s, hint=error.hint)

    async def stop(self) -> None:
        """Stop the broker if this process started it; its store stays."""
        if self._server is not None:
            await asyncio.to_thread(self._server.close)
            self._server = None

    def _start(self) -> None:
        nats_dir = self.directory / "nats"
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        running = find_running(nats_dir) if self._server is None else None
        if running is not None and answers(running):
            self.url = running
            log.info("using the group's embedded broker", group=self.group, url=redact(running))
            return
        if self._server is None:
            self._server = EmbeddedNats(nats_dir, password=self._password())
        self._server.start()
        self.url = self._server.url
        _write_private(
            self.directory / "broker.json",
            json.dumps({"url": self.url, "pid": self._server.pid}),
        )
        log.info(
            "started an embedded broker for the group",
            group=self.group,
            url=redact(self.url),
            store=str(nats_dir),
        )

    def _serves(self) -> bool:
        if self._server is not None:
            return self._server.running
        return answers(self.url)

    def _password(self) -> str:
        """Keep the password of the last time: workers that wait for the broker know that one."""
        told = _read(self.directory / "broker.json")
        kept = urlsplit(told).password if told else None
        return unquote(kept) if kept else secrets.token_urlsafe(PASSWORD_BYTES)


def known(state_dir: Path, group: str) -> bool:
    """Whether the group has, or had, a broker on this machine."""
    return (state_dir / group / "broker.json").exists()


def find(state_dir: Path, group: str) -> str:
    """Give the URL of the group's broker on this machine.

    Raises `PgfloError`: GROUP_UNKNOWN when it never had one, BROKER_UNREACHABLE when it is down.
    """
    if not known(state_dir, group):
        raise PgfloError(
            GROUP_UNKNOWN,
            f"no --nats-url is given, and group {group} has no broker in {state_dir}",
            hint=f"Give --nats-url, or start `pgflo replicate --group {group}` on this machine.",
            group=group,
        )
    url = find_running(state_dir / group / "nats")
    if url is None or not answers(url):
        raise PgfloError(
            BROKER_UNREACHABLE,
            f"the embedded broker of group {group} does not run",
            hint=f"Start `pgflo replicate --group {group}` or `pgflo run` again; it serves there.",
            group=group,
        )
    return url


def answers(url: str) -> bool:
    """Whether a NATS server says hello at this address, within two seconds."""
    place = urlsplit(url)
    try:
        with socket.create_connection(
            (place.hostname, place.port or 4222), ANSWER_TIMEOUT_S
        ) as wire:
            return wire.recv(5) == b"INFO "
    except OSError:
        return False


def _read(path: Path) -> str | None:
    try:
        told = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    url = told.get("url") if isinstance(told, dict) else None
    return url if isinstance(url, str) else None


def _write_private(path: Path, text: str) -> None:
    """Write a file for its owner's eyes, in one step."""
    building = path.with_name(f".{path.name}.{os.getpid()}")
    building.unlink(missing_ok=True)
    descriptor = os.open(building, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    building.replace(path)
