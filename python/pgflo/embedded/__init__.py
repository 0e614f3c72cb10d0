"""PostgreSQL and NATS started for `pgflo demo`, `pgflo replicate` without --nats-url, and tests.

Upstream: the command line and the fixtures. Downstream: programs that are installed
already. In the order of a start:

    binaries.py   which postgres, which nats-server, and why that one
    account.py    the user it runs under, the directories that this user reaches
    template.py   a fresh data directory in a tenth of a second
    lifeline.py   the wire that ends the server with us; `guardian.py` holds its other end
    server.py     what both servers have in common: one server per directory
    postgres.py, nats.py   the servers

Invariant: a server writes below its own directory only, listens on loopback only, and ends with the
process that started it. `find_running` tells where the NATS server of a directory listens.
"""

from pgflo.embedded.account import throw_away_directory
from pgflo.embedded.nats import EmbeddedNats, find_running
from pgflo.embedded.postgres import EmbeddedPostgres

__all__ = ["EmbeddedNats", "EmbeddedPostgres", "find_running", "throw_away_directory"]
