"""pgflo: copy and stream PostgreSQL tables to PostgreSQL through NATS JetStream, exactly once.

The folders are named in the order in which the data moves: `source`, `replicator`, `broker`,
`worker`, `sinks`. `docs/ARCHITECTURE.md` tells the whole way.
"""

from __future__ import annotations

from pgflo.lean import without

with without("rich"):  # for tracebacks in colour, which `logs` has no use for
    import structlog  # noqa: F401

__version__ = "0.1.0"
