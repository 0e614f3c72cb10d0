"""The PostgreSQL sink: sessions, catalog, statements, progress, preparation of tables.

Upstream: the processes of `pgflo.worker`. Downstream: the destination database, in which the schema
`pgflo` holds what is applied.
Invariant: rows and the position they lead to are committed by one transaction, and a transaction
that does not start where the stored position stands is refused.
"""
