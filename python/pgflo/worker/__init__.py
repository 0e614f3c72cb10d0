"""The worker: from the broker into one sink.

`run` the worker's life · `group_view` what the group's record says · `report` what the sink tells
the group · `endings` when `--once` and `--until` are reached · `child` a child process and its pipe
· `copy_lanes`, `copy_writer` the initial copy · `dispatcher`, `epochs`, `writer` the change stream.

Processes. The worker's main process holds the lease and reads the change stream. It cuts epochs out
of whole envelopes and hands them, as they are, through a pipe to the writer process, which owns the
one connection that changes are applied through. During the copy there are copy writers instead,
each with its own connections to broker and destination. A process that fails says why through its
pipe and exits; one that is killed says nothing. Either way nothing is mended in place: the main
process waits, starts the life of the worker again, and everything is read anew from where the
destination says it is. That one way back serves a lost connection, a kill -9 and a fail-over.

The pipe of a writer:
    worker → writer   a step's head {envelopes, commits}, then that many envelopes
    writer → worker   once: ready {incarnation, position, end_lsn}; for each step: done {…};
                      as the last word: failed {kind, detail, hint, context}
At most two steps are under way: one applied, one waiting in the pipe.

The pipe of a copy writer:
    worker → writer   lane {lane, start_seq, patience_s}
    writer → worker   for each range: copied {…}; when it gives the lane back: left {lane};
                      as the last word: failed {…}
"""

from pgflo.worker.run import run

__all__ = ["run"]
