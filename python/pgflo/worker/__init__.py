"""The worker: from the broker into one sink.

`run` the worker's life · `group_view` what the group's record says · `report` what the sink tells
the group · `endings` when `--once` and `--until` are reached · `child` a child process and its pipe
· `copy_lanes`, `copy_writer` the initial copy · `streaming` what comes before changes are applied ·
`dispatcher`, `epochs` reading them · `spreading`, `shards`, `shard` handing them to writers ·
`writer`.

Processes. The worker's main process holds the lease and reads the change stream. It cuts epochs out
of whole envelopes and hands them, as they are, through a pipe to the writer process, which owns the
one connection that changes are applied through. With several shards there are several of these, and
each gets its slices. During the copy there are copy writers instead,
each with its own connections to broker and destination. A process that fails says why through its
pipe and exits; one that is killed says nothing. Either way nothing is mended in place: the main
process waits, starts the life of the worker again, and everything is read anew from where the
destination says it is. That one way back serves a lost connection, a kill -9 and a fail-over.

The pipe of a writer:
    worker → writer   step {envelopes, commits, rows, assignment}, then that many envelopes;
                      or slice {prev, end, end_lsn, commits, has_body, rows}, then its body;
                      moved {position, end_lsn}, which is not answered
    writer → worker   once: ready {incarnation, position, end_lsn, fence}; for each step or slice:
                      done {…}; as the last word: failed {kind, detail, hint, context}
At most two epochs are under way: one applied, one waiting in the pipe.

The pipe of a copy writer:
    worker → writer   lane {lane, start_seq, patience_s}
    writer → worker   for each range: copied {…}; when it gives the lane back: left {lane};
                      as the last word: failed {…}

Importing this package costs nothing: each child imports it, and needs only its own part.
"""
