"""The broker: everything pgflo says to NATS JetStream.

In the order in which they build on each other:
`address`, `attempts`, `connection`: one checked connection;
`names` of streams, subjects, slots; `stored`, `topology`, `steady`, `room`: streams and content;
`acknowledgement`, `window`, `publisher`, `lane_publisher`: envelopes in;
`delivery`, `pull`, `consumer`: envelopes out; `records`, `record`, `lease`: the group's record.
"""

from __future__ import annotations

from pgflo.lean import without

with without("aiohttp"):  # for WebSockets; `address` lets it in when one is asked for
    import nats  # noqa: F401
