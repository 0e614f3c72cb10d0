"""Processes: how they are started, how they end with their parent, how they are restarted.

Upstream: the commands of `pgflo.cli`. Downstream: replicator and worker, whose own child processes
come from `processes.context()` and call `lifeline.die_with_parent()` first.
"""
