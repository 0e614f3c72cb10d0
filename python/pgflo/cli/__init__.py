"""What the user types. One file per command; `app` is where they meet.

Upstream: the shell. Downstream: the entry points of replicator, worker, status, compare and demo.
Invariant: importing this package costs nothing, since child processes import it once more when the
program was started by the `pgflo` script.
"""


def main() -> None:
    """Run the command line and exit with its code."""
    import gc
    import sys

    gc.disable()  # what is imported stays: looking through it again and again takes a tenth of it

    from pgflo.cli.app import run

    sys.exit(run(sys.argv[1:]))
