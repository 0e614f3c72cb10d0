"""Where a group is: its record, stream, sinks and slot, read at one moment.

`record` opens a group's record · `gather` reads everything into one `Snapshot` · `show` draws it
· `metrics` writes it for Prometheus · `ending` waits until the sinks have everything.
Nothing here writes.
"""
