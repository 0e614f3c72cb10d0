"""How the client tries servers, first and again, and what its failures mean.

Upstream: the NATS client reports and asks. Downstream: `connection`.
Invariant: the first attempt ends after one round of all servers; attempts to reconnect never end,
and never come all at once from many processes.
"""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any

import structlog

from pgflo.errors import BROKER_DENIED, BROKER_TLS, BROKER_UNREACHABLE, PgfloError

if TYPE_CHECKING:
    from collections.abc import Callable

    from nats.aio.client import Client, Server

    from pgflo.broker.address import Address

log = structlog.get_logger("pgflo.broker")

FIRST_WAIT_S = 0.05
LONGEST_WAIT_S = 2.0
"""Waits between attempts double from the one to the other, each with jitter."""

REVIVE_S = 1.0
"""How often to see that reconnecting is still being tried."""

MOST_DENIALS = 20
"""Denied rights remembered."""


class Reports:
    """What the client reports through its error callback.

    Raising from it makes the client's endless first connect end after one round of all servers.
    """

    def __init__(self, servers: int) -> None:
        self.is_connected = False
        """Whether the first connect is over."""
        self._left = servers
        self._denied: list[str] = []

    async def take(self, error: Exception) -> None:
        """Take one report."""
        text = plain_text(error)
        if not self.is_connected:
            self._left -= 1
            if self._left <= 0 or "authorization" in text.lower():
                raise error
        elif "permissions violation" in text:
            log.warning("the broker denies a right", text=text)
            self._denied = [*self._denied[1 - MOST_DENIALS :], text]
        else:
            log.debug("broker connection", error=text)

    def denied(self, subject: str) -> str | None:
        """Quote the broker denying us a subject that ends so; None if it did not."""
        ending = f'{subject.lower()}"'
        return next((text for text in self._denied if ending in text), None)


async def revive(nc: Client) -> None:
    """Reconnect where the client gave up without telling; without end.

    Its task expects OSError and errors of its own. A socket that is lost half-way raises others,
    RuntimeError of the event loop first of all, and then nobody would ever try again.
    """
    while True:
        await asyncio.sleep(REVIVE_S)
        task = nc._reconnection_task
        if nc.is_connected or nc.is_closed or task is None or not task.done():
            continue
        error = None if task.cancelled() else task.exception()
        log.warning(
            "reconnecting again after a surprise", error=plain_text(error or TimeoutError())
        )
        nc._status = nc.RECONNECTING
        nc._reconnection_task = asyncio.create_task(nc._attempt_reconnect())


def choose_server(nc: Client) -> Callable[[list[Server], dict[str, Any]], tuple[Server, float]]:
    """Make the client's choice before each attempt to reconnect."""

    def choose(pool: list[Server], _info: dict[str, Any]) -> tuple[Server, float]:
        """Take the server tried least often, after a wait that grows with its failures."""
        if nc._transport is not None:
            # Of an attempt that got stuck half-way: the client would forget it.
            nc._transport.close()  # type: ignore[no-untyped-call]
        server = min(pool, key=lambda candidate: candidate.reconnects)
        longest_s = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2 ** min(server.reconnects, 10))
        return server, random.uniform(longest_s / 2, longest_s)  # noqa: S311 - jitter only

    return choose


def explain(error: Exception, address: Address) -> PgfloError:
    """Say by kind why the first attempt failed."""
    if isinstance(error, ImportError):
        return PgfloError(
            BROKER_DENIED,
            f"--nats-creds needs a package that is not installed: {error.name}",
            hint="Run `pip install nkeys`, or use user and password in --nats-url.",
        )
    text = plain_text(error)
    lowered = text.lower()
    if "authorization" in lowered or "authentication" in lowered:
        return PgfloError(BROKER_DENIED, f"{address.text} does not let us in: {text}")
    if "tls" in lowered or "ssl" in lowered or "certificate" in lowered:
        return PgfloError(BROKER_TLS, f"no secure connection to {address.text}: {text}")
    return PgfloError(BROKER_UNREACHABLE, f"cannot connect to {address.text}: {text}")


def plain_text(error: BaseException) -> str:
    """Print an error in one line, its class if it says nothing."""
    return " ".join(str(error).split()) or type(error).__name__
