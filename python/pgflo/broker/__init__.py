"""The broker: everything pgflo says to NATS JetStream.

`connection` one checked connection · `names` of streams, subjects, slots · `records`, `record` and
`lease` the group's record in a key-value bucket · `topology` streams and what is stored in them ·
`publisher`, `lane_publisher` envelopes in · `consumer` envelopes out.
"""
