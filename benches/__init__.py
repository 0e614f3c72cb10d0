"""Benchmarks: instruction counts, decoder against oracle, end to end against native replication."""
