"""Where the broker is and how to prove who we are: `--nats-url` and its companions, taken apart.

Upstream: `NatsSettings`. Downstream: `connection`.
Invariant: server addresses leave here without credentials, so no log, error or process list can
show them; a secret is handed out only to a connection that is encrypted if the user asked for that.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, unquote, urlsplit

import nats.errors

from pgflo.errors import BROKER_DENIED, BROKER_TLS, BROKER_URL, PgfloError

if TYPE_CHECKING:
    from collections.abc import Callable

    from nats.aio.client import Client

    from pgflo.config.settings import NatsSettings

DEFAULT_PORT = 4222
WEBSOCKETS = ("ws", "wss")
SCHEMES = ("nats", "tls", *WEBSOCKETS)


class PlainTextError(nats.errors.Error):
    """The server offers no TLS, and the user asked for it."""

    def __str__(self) -> str:
        return "the server offers no TLS although --nats-url or --nats-tls-ca asks for it"


@dataclass(frozen=True)
class Address:
    """Servers of one cluster and the credentials that all of them share."""

    servers: tuple[str, ...]
    """URLs without credentials."""
    text: str
    """Hosts and ports, for people."""
    encrypted: bool
    """Whether TLS was asked for."""
    user: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)

    def guard_user(self, nc: Client) -> Callable[[], str] | None:
        """Tell the user name at each connect."""
        return self._guard(nc, self.user)

    def guard_password(self, nc: Client) -> Callable[[], str] | None:
        """Tell the password at each connect."""
        return self._guard(nc, self.password)

    def guard_token(self, nc: Client) -> Callable[[], str] | None:
        """Tell the token at each connect."""
        return self._guard(nc, self.token)

    def _guard(self, nc: Client, secret: str | None) -> Callable[[], str] | None:
        if secret is None:
            return None
        kept = secret

        def tell() -> str:
            # The client takes what the server offers: without this it would tell in the clear.
            if self.encrypted and not nc._server_info.get("tls_required"):
                raise PlainTextError
            return kept

        return tell


def read_address(settings: NatsSettings) -> Address:
    """Take `settings.url` apart. `PgfloError` (BROKER_URL) never quotes credentials."""
    if settings.creds is not None and not settings.creds.is_file():
        raise PgfloError(BROKER_DENIED, f"--nats-creds: there is no file {settings.creds}")
    if not settings.url:
        raise PgfloError(BROKER_URL, "no broker is named")
    parts = [_split(one.strip()) for one in settings.url.split(",") if one.strip()]
    if not parts:
        raise PgfloError(BROKER_URL, "no broker is named")
    logins = {(part.username, part.password) for part in parts}
    user, password = max(logins, key=lambda login: login[0] is not None)
    if len(logins - {(None, None)}) > 1:
        raise PgfloError(BROKER_URL, "the servers of --nats-url have different users")
    if any(part.scheme in WEBSOCKETS for part in parts):
        _let_websockets_in()
    places = [_place(part) for part in parts]
    return Address(
        servers=tuple(
            f"{part.scheme}://{place}" for part, place in zip(parts, places, strict=True)
        ),
        text=", ".join(places),
        encrypted=settings.tls_ca is not None
        or settings.tls_cert is not None
        or any(part.scheme in ("tls", "wss") for part in parts),
        user=unquote(user) if user is not None and password is not None else None,
        password=unquote(password) if password is not None else None,
        token=unquote(user) if user is not None and password is None else None,
    )


def tls_context(settings: NatsSettings, address: Address) -> ssl.SSLContext | None:
    """Read the TLS files, None to take the defaults. Raises `PgfloError` (BROKER_TLS)."""
    if not address.encrypted:
        return None
    try:
        context = ssl.create_default_context(cafile=settings.tls_ca)
        if settings.tls_cert is not None:
            context.load_cert_chain(settings.tls_cert, settings.tls_key)
    except (OSError, ssl.SSLError) as error:
        files = ", ".join(
            str(file) for file in (settings.tls_ca, settings.tls_cert, settings.tls_key) if file
        )
        raise PgfloError(BROKER_TLS, f"cannot use {files}: {error}") from None
    return context


def _let_websockets_in() -> None:
    """Give the client the library that it was imported without."""
    import aiohttp
    from nats.aio import transport

    vars(transport)["aiohttp"] = aiohttp


def _split(url: str) -> SplitResult:
    try:
        part = urlsplit(url if "://" in url else f"nats://{url}")
        # Both raise when they do not like what they see, and quote it.
        part.port, part.hostname  # noqa: B018
    except ValueError:
        raise PgfloError(BROKER_URL, "--nats-url cannot be read") from None
    if part.scheme not in SCHEMES or not part.hostname:
        raise PgfloError(BROKER_URL, "--nats-url does not name a host, or has an unknown scheme")
    return part


def _place(part: SplitResult) -> str:
    host = part.hostname or ""
    host = f"[{host}]" if ":" in host else host
    if part.scheme in WEBSOCKETS:
        port = part.port
        return f"{host}{f':{port}' if port else ''}{part.path}"
    return f"{host}:{part.port or DEFAULT_PORT}"
