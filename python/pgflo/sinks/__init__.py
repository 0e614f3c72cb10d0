"""Sinks: where changes go. One package per kind.

Upstream: `pgflo.worker` drives a sink. Downstream: the destination.
Invariant: what a sink calls written is durable there together with the position it reached.
"""
