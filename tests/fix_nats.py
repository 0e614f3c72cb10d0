"""NATS for tests: one server for the session, emptied after each test.

Neighbours: `pgflo.embedded.nats`. A test that stops, kills, pauses or configures a server takes
one of its own from `nats_factory`. Invariant: a test that uses `nats_url` finds JetStream without
streams.
"""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Protocol

import nats
import pytest

from pgflo.embedded import EmbeddedNats, throw_away_directory

if TYPE_CHECKING:
    from collections.abc import Iterator


class NatsFactory(Protocol):
    """What `nats_factory` is: keyword arguments are those of `EmbeddedNats`."""

    def __call__(self, **options: Any) -> EmbeddedNats:  # noqa: ANN401 - passed on
        """Start a server that is the test's own."""
        ...


@pytest.fixture(scope="session")
def nats_server() -> Iterator[EmbeddedNats]:
    """Serve the whole session (one per xdist worker)."""
    with EmbeddedNats(throw_away_directory("pgflo-test-"), throw_away=True) as server:
        yield server


@pytest.fixture
def nats_url(nats_server: EmbeddedNats) -> Iterator[str]:
    """Give the address of a JetStream without streams, and leave it so."""
    yield nats_server.url
    asyncio.run(delete_all_streams(nats_server.url))


@pytest.fixture
def nats_factory() -> Iterator[NatsFactory]:
    """Start servers for this test alone, to be stopped, killed and configured."""
    with ExitStack() as stack:

        def start(**options: Any) -> EmbeddedNats:  # noqa: ANN401 - passed on
            directory = throw_away_directory("pgflo-test-")
            return stack.enter_context(EmbeddedNats(directory, throw_away=True, **options))

        yield start


async def delete_all_streams(url: str) -> None:
    """Delete every stream, those of buckets included."""
    client = await nats.connect(url)
    try:
        jetstream = client.jetstream()
        # A page has 256 of them; what was deleted is on none.
        while streams := await jetstream.streams_info():
            for stream in streams:
                if stream.config.name is not None:
                    await jetstream.delete_stream(stream.config.name)
    finally:
        await client.close()
