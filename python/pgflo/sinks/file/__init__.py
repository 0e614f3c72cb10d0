"""The file sink: JSON lines in a directory, each change once.

`outlet` the sink · `manifest` what is committed · `part` the file that is being written.

    DIR/shop-5f0c9a12-0000000001.jsonl        complete; never touched again
    DIR/shop-5f0c9a12-0000000002.jsonl.part   being written
    DIR/shop-5f0c9a12.manifest.jsonl          which files there are, and how much of them counts
    DIR/shop.lock                             held by the process that writes

The 8 digits are the group's incarnation. A sink that is not named `file` has its name behind the
group's. Names sort in the order of the stream.

A commit is: the lines are in the part and synced; then a line in the manifest, synced. What the
manifest does not tell is cut off when the sink is opened again.
"""

from pgflo.sinks.file.outlet import FileOutlet

__all__ = ["FileOutlet"]
