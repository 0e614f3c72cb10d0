"""Draws single pgoutput messages of every kind, as values of `tests.oracle.messages`.

Downstream: `histories` (messages in an order that makes sense) and the decoder's property tests,
for which any order will do. Invariant: what is drawn is something protocol 1 can express.
"""

from __future__ import annotations

from hypothesis import strategies as st
from tests.oracle.messages import (
    NULL,
    UNCHANGED,
    Begin,
    Cell,
    Commit,
    Delete,
    Insert,
    LogicalMessage,
    Message,
    Origin,
    Relation,
    RelationColumn,
    Row,
    Truncate,
    Type,
    Update,
)

U8, U32, U64 = 2**8 - 1, 2**32 - 1, 2**64 - 1
OIDS = st.integers(0, U32)
LSNS = st.integers(0, U64)
TIMES_US = st.integers(-(2**63), 2**63 - 1)
NAMES = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12).map(
    str.encode
)
CELLS: st.SearchStrategy[Cell] = st.one_of(
    st.just(NULL),
    st.just(UNCHANGED),
    st.tuples(st.just("t"), st.binary(max_size=40)),
    st.tuples(st.just("b"), st.binary(max_size=40)),
)
ROWS: st.SearchStrategy[Row] = st.lists(CELLS, max_size=6).map(lambda cells: tuple(cells))  # noqa: PLW0108 - typed

BEGINS = st.builds(Begin, LSNS, TIMES_US, OIDS)
COMMITS = st.builds(Commit, st.just(0), LSNS, LSNS, TIMES_US)
ORIGINS = st.builds(Origin, LSNS, NAMES)
COLUMNS = st.builds(
    RelationColumn, st.integers(0, 1), NAMES, OIDS, st.integers(-(2**31), 2**31 - 1)
)
IDENTITIES = st.sampled_from([b"d", b"n", b"f", b"i"])
RELATIONS = st.builds(
    Relation, OIDS, NAMES, NAMES, IDENTITIES, st.lists(COLUMNS, max_size=5).map(tuple)
)
TYPES = st.builds(Type, OIDS, NAMES, NAMES)
INSERTS = st.builds(Insert, OIDS, ROWS)
UPDATES = st.one_of(
    st.builds(Update, OIDS, st.just(""), st.none(), ROWS),
    st.builds(Update, OIDS, st.sampled_from(["K", "O"]), ROWS, ROWS),
)
DELETES = st.builds(Delete, OIDS, st.sampled_from(["K", "O"]), ROWS)
TRUNCATES = st.builds(Truncate, st.integers(0, 3), st.lists(OIDS, max_size=5).map(tuple))
LOGICAL_MESSAGES = st.builds(LogicalMessage, st.integers(0, 1), LSNS, NAMES, st.binary(max_size=60))
MESSAGES: st.SearchStrategy[Message] = st.one_of(
    BEGINS,
    COMMITS,
    ORIGINS,
    RELATIONS,
    TYPES,
    INSERTS,
    UPDATES,
    DELETES,
    TRUNCATES,
    LOGICAL_MESSAGES,
)
