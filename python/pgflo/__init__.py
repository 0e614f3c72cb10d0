"""pgflo: copy and stream PostgreSQL tables to PostgreSQL through NATS JetStream, exactly once.

The folders are named in the order in which the data moves: `source`, `replicator`, `broker`,
`worker`, `sinks`. `docs/ARCHITECTURE.md` tells the whole way.
"""

__version__ = "0.1.0"
