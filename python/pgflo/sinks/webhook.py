"""The webhook sink: changes posted to an HTTP endpoint, signed, until it takes them.

Upstream: `lines`. Downstream: aiohttp, the receiver.
Invariant: what is committed was answered by a status 2xx. Whatever else happens the same request
comes again, with the same `webhook-id` and body, so that a receiver can drop what it has.

Order. One request at a time, unless --webhook-concurrency says otherwise; then requests are in
order for each key. A change that moves a key, or empties a table, waits for all others.
What heals (408, 429, 5xx, no answer) is tried again; any other answer stops the sink.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import ipaddress
import random
import time
import urllib.request
from collections import defaultdict
from email.utils import parsedate_to_datetime
from itertools import groupby
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import aiohttp
import structlog
import uvloop
from yarl import URL

from pgflo import _core, errors
from pgflo.errors import PgfloError
from pgflo.sinks.contract import Opening, Outlet
from pgflo.sinks.refusal import place

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pgflo._core import Events
    from pgflo.config.settings import WebhookSettings

log = structlog.get_logger("pgflo.sinks.webhook")

KEY_MARK = "whsec_"
"""How a secret begins whose rest is base64."""

LONGEST_ASKED_S = 300.0
"""A receiver that asks for a longer wait is asked again all the same: it may have meant a date."""

ANSWER_BYTES = 500
"""So much of a refusal is shown."""

AGAIN = (408, 429)
TOLD_AFTER = 3
"""Attempts at a request after which its failures are warnings: one or two are everyday life."""


class Request(NamedTuple):
    """What is posted at once."""

    lane: int | None
    """None: when everything before it is done, and before everything after it."""
    id: str
    body: bytes
    changes: int


class Webhook(Outlet):
    """Posts what is written, and returns when it is taken."""

    wants_requests: ClassVar[bool] = True

    def __init__(self, opening: Opening) -> None:
        super().__init__(opening)
        settings = of(opening.settings.webhook)
        self._settings = settings
        self._url = URL(settings.url.get_secret_value())
        self._key = None if settings.secret is None else key_of(settings.secret.get_secret_value())
        self._retry = opening.settings.retry
        self._proxy = proxy_of(self._url)
        self._runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
        self._session: aiohttp.ClientSession | None = None

    def write(self, events: Events) -> None:
        """Post lines."""
        made = events.requests(self._settings.batch, self._settings.concurrency)
        self._runner.run(self._post_all([Request(*request) for request in made]))

    def close(self) -> None:
        """Close connections."""
        if self._session is not None:
            self._runner.run(self._session.close())
        self._runner.close()

    async def _post_all(self, requests: Sequence[Request]) -> None:
        session = self._opened()
        for is_alone, some in groupby(requests, lambda request: request.lane is None):
            if is_alone:
                await self._post_lane(session, some)
                continue
            lanes: dict[int | None, list[Request]] = defaultdict(list)
            for request in some:
                lanes[request.lane].append(request)
            posts = [asyncio.ensure_future(self._post_lane(session, one)) for one in lanes.values()]
            try:
                await asyncio.gather(*posts)
            finally:
                for post in posts:
                    post.cancel()

    async def _post_lane(self, session: aiohttp.ClientSession, lane: Iterable[Request]) -> None:
        for request in lane:
            try:
                await self._deliver(session, request)
            except PgfloError as error:
                place(error, request.body)
                raise

    async def _deliver(self, session: aiohttp.ClientSession, request: Request) -> None:
        """Post until it is taken. Raises `PgfloError` SINK_REJECTED, SINK_RECEIVER."""
        attempts = 0
        while True:
            attempts += 1
            trouble, asked_s = await self._attempt(session, request)
            if trouble is None:
                return
            if 0 < self._retry.max_attempts <= attempts:
                detail = f"{self._where}: {trouble}, after {attempts} attempts"
                raise PgfloError(errors.SINK_RECEIVER, detail, request=request.id)
            wait_s = max(asked_s, self._pause_s(attempts))
            tell = log.warning if attempts >= TOLD_AFTER else log.info
            tell(
                "posting again",
                receiver=self._where,
                cause=trouble,
                attempts=attempts,
                in_s=round(wait_s, 1),
            )
            await asyncio.sleep(wait_s)

    def _pause_s(self, attempts: int) -> float:
        doubled_s = self._retry.initial_wait_s * 2 ** min(attempts - 1, 30)
        longest_s = min(self._retry.max_wait_s, doubled_s)
        return random.uniform(longest_s / 2, longest_s)  # noqa: S311 - jitter, not a secret

    async def _attempt(
        self, session: aiohttp.ClientSession, request: Request
    ) -> tuple[str | None, float]:
        """Post once; give what is in the way, if anything is, and how long we are asked to wait."""
        try:
            async with session.post(
                self._url,
                data=request.body,
                headers=self._headers(request),
                allow_redirects=False,
                proxy=self._proxy,
            ) as response:
                status = response.status
                if 200 <= status < 300:
                    return None, 0.0
                if status in AGAIN or status >= 500:
                    return f"status {status}", wait_asked_s(response.headers.get("Retry-After"))
                answer = await response.content.read(ANSWER_BYTES)
        except (aiohttp.ClientError, OSError) as error:
            # A TimeoutError is an OSError, too.
            return f"no answer ({type(error).__name__})", 0.0
        raise PgfloError(
            errors.SINK_REJECTED,
            f"{self._where} answered {status} to {request.id}: {answer.decode(errors='replace')}",
            request=request.id,
            status=status,
        )

    def _headers(self, request: Request) -> dict[str, str]:
        timestamp = str(int(time.time()))
        headers = {
            "content-type": "application/json",
            "user-agent": f"pgflo/{_core.VERSION}",
            "webhook-id": request.id,
            "webhook-timestamp": timestamp,
        }
        if self._key is not None:
            headers["webhook-signature"] = sign(self._key, request.id, timestamp, request.body)
        return headers

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=self._settings.concurrency),
                timeout=aiohttp.ClientTimeout(total=self._settings.timeout_s),
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._session

    @property
    def _where(self) -> str:
        """The receiver, without path and credentials: either may hold a token."""
        return f"{self._url.host}:{self._url.port}"


def of(settings: WebhookSettings | None) -> WebhookSettings:
    """See that there is an address that can be posted to. Raises `PgfloError` CONFIG."""
    if settings is None:
        raise PgfloError(errors.CONFIG, "a webhook sink needs --webhook-url")
    try:
        url = URL(settings.url.get_secret_value())
    except ValueError:
        url = URL()
    if url.scheme not in ("http", "https") or not url.host:
        raise PgfloError(errors.CONFIG, "--webhook-url is no address of the form https://HOST/PATH")
    if settings.secret is not None:
        key_of(settings.secret.get_secret_value())
    proxy_of(url)
    return settings


def warn(settings: WebhookSettings) -> None:
    """Say that rows travel in the clear, where they do."""
    url = URL(settings.url.get_secret_value())
    if url.scheme == "http" and not _is_loopback(url.host or ""):
        log.warning("rows are posted over http, in the clear", receiver=url.host)


def proxy_of(url: URL) -> str | None:
    """Find the proxy that the environment names for an address; None: there is none.

    Once: aiohttp would look for it with each request, in another thread, for 0.3 ms. Raises
    `PgfloError` CONFIG for one that is not spoken to by HTTP.
    """
    named = urllib.request.getproxies().get(url.scheme)
    if not named or urllib.request.proxy_bypass(f"{url.host}:{url.port}"):
        return None
    proxy = named if "://" in named else f"http://{named}"
    if URL(proxy).scheme not in ("http", "https"):
        raise PgfloError(errors.CONFIG, f"{url.scheme}_proxy names a proxy that is not http://…")
    return proxy


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def key_of(secret: str) -> bytes:
    """Give the key of a secret: the base64 behind `whsec_`, or the text itself."""
    if not secret.startswith(KEY_MARK):
        return secret.encode()
    try:
        return base64.b64decode(secret.removeprefix(KEY_MARK), validate=True)
    except binascii.Error:
        raise PgfloError(
            errors.CONFIG, "--webhook-secret begins with whsec_, but what follows is no base64"
        ) from None


def sign(key: bytes, message_id: str, timestamp: str, body: bytes) -> str:
    """Sign as Standard Webhooks 1.0 says."""
    signed = b".".join((message_id.encode(), timestamp.encode(), body))
    return "v1," + base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()


def wait_asked_s(retry_after: str | None) -> float:
    """Read `Retry-After`: seconds, or a date; 0 for anything else, and never more than is borne."""
    if retry_after is None:
        return 0.0
    if retry_after.strip().isdecimal():
        return min(float(retry_after), LONGEST_ASKED_S)
    try:
        left_s = parsedate_to_datetime(retry_after).timestamp() - time.time()
    except ValueError:
        return 0.0
    return min(max(0.0, left_s), LONGEST_ASKED_S)
