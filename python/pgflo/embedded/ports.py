"""A free port on loopback. Neighbours: `postgres.py` and `nats.py`.

Invariant: a port given out lies below the range from which the kernel takes ports for outgoing
connections. Within that range a client that dials a stopped server again and again can be given the
server's own port, connect to itself and keep the server from coming back.
"""

from __future__ import annotations

import secrets
import socket
from contextlib import closing
from pathlib import Path

LOOPBACK = "127.0.0.1"
LOWEST_PORT = 10_240
EPHEMERAL_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
USUAL_EPHEMERAL_LOW = 32_768
TRIES = 50


def free_port() -> int:
    """Return a port nobody listens on now. It can be gone a moment later: then ask again."""
    low = USUAL_EPHEMERAL_LOW
    if EPHEMERAL_RANGE.exists():
        low = int(EPHEMERAL_RANGE.read_text().split()[0])
    if low > LOWEST_PORT + TRIES:
        for _ in range(TRIES):
            port = LOWEST_PORT + secrets.randbelow(low - LOWEST_PORT)
            if is_free(port):
                return port
    with closing(socket.socket()) as probe:
        probe.bind((LOOPBACK, 0))
        port = probe.getsockname()[1]
        assert isinstance(port, int)  # noqa: S101 - AF_INET
        return port


def is_free(port: int) -> bool:
    """Whether a server could listen on the port now; ends of old connections do not count."""
    with closing(socket.socket()) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True
