"""Source → broker: everything between PostgreSQL's walsender and JetStream.

The protocol, told once. `run` takes the group's lease, connects, and runs the preflight. A group
that is new, or asked to begin again, is made by `creation`: the record says CREATING first, then
come streams, publications and the slot, whose creation exports a snapshot; a copy's holder process
imports it, locks every table and exports it again. From then on the record says COPYING or
STREAMING.

Two things run side by side. `copy` hands ranges of tables to copy processes, which read them in the
shared snapshot and publish them through lanes of their own. `stream` reads the walsender from the
slot's consistent point on, so that a commit is either seen by the snapshot or sent by the stream,
never both; the assembler makes a chain of envelopes of it, each naming where the one before ended,
and the publisher stores them in that order or not at all.

Backwards goes one number. The `ledger` decides what the source may forget: nothing that is not in
the change stream, and of that only what every registered sink has committed or the broker has held
past its horizon. `sinks` reads what they committed, `retention` purges what they need no more.

Where a start goes on is told by the change stream itself: its last envelope has the position, and
the slot is asked from there (`start`). If the slot has confirmed more than the stream holds,
something was lost and the replicator stops. A killed replicator leaves nothing that the next one
must repair, except an unfinished creation, which is removed. A copy goes on with the ranges that
the record does not have as published, under the snapshot that its holder kept meanwhile. If that is
lost, `renewal` has the tables that are not finished copied anew, each from a consistent point of
its own, while the others stay. `growth` does the same for tables that join. `opening` decides which
of all that a start has to do.

Importing this package costs nothing: each copy process imports it, and needs only its own part.
"""
