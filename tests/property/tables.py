"""The tables that generated rows go through, and the values that they may hold.

Downstream: `row_histories` draws changes of them, `fix_agreement` creates them on three databases.
Each table is here for a rule of its own by which changes are applied. Values are texts that the
server reads; those of keys are few, so that changes meet.
"""

from __future__ import annotations

from dataclasses import dataclass, field

Value = str | None

ODD_TEXTS = (
    "",
    "NULL",
    "\\N",
    "\\.",
    "a\tb\nc\rd",
    "q\"q'q",
    "{1,2}",
    "a,b;c",
    "ünï 🐘",
    " lead and trail ",
    "back\\slash\\",
    "\x0b\x0c\x08\x01",
    "(1,2)",
)
NUMBERS = tuple(map(str, range(1, 7)))
TOAST = tuple(letter * 3000 for letter in "xyz")


@dataclass(frozen=True)
class Table:
    """A table: its DDL on each side, its key and what may stand in its columns."""

    name: str
    ddl: str
    key: tuple[str, ...]
    """Columns by which the history finds rows."""
    keys: tuple[tuple[str, ...], ...]
    columns: dict[str, tuple[Value, ...]]
    target_ddl: str = ""
    """Where the destination's table is another one."""
    is_grouped: bool = True
    """Inserts, updates that leave the key alone, and deletes need no replay."""
    only_inserts: bool = False
    uniques: frozenset[str] = field(default_factory=frozenset)
    """Further columns that are unique."""

    @property
    def is_calm(self) -> bool:
        """Whether nothing but a moved key can bring its rows into each other's way."""
        return self.is_grouped and not self.uniques


def _singles(values: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
    return tuple((value,) for value in values)


TYPES = """
CREATE EXTENSION citext;
CREATE TYPE pair AS (a int, b text);
CREATE TYPE mood AS ENUM ('so so', 'fine', 'it''s');
CREATE DOMAIN code AS varchar(8) CHECK (VALUE <> 'bad');
CREATE DOMAIN twin AS pair;
CREATE DOMAIN list AS int[];
"""

KINDS: dict[str, tuple[str, tuple[Value, ...]]] = {
    "c_num": ("numeric", ("0", "-1.50", "NaN", "1e-30", "12345678901234567890.5", None)),
    "c_dec": ("numeric(6,2)", ("1.50", "-0.01", None)),
    "c_ts": (
        "timestamptz",
        ("2024-02-29 23:59:59.999999+05:30", "infinity", "0044-03-15 12:00:00+00 BC", None),
    ),
    "c_raw": ("bytea", ("\\x00ff275c", "\\x", None)),
    "c_doc": ("jsonb", ('{"a": [1.10, null], "b\\"c": "\\\\ }"}', "null", '"x"', None)),
    "c_ints": ("int[]", ("{}", "{1,NULL,3}", "{{1,2},{3,4}}", "[0:1]={7,8}", None)),
    "c_texts": ("text[]", ('{"a,\\"b",NULL,"NULL",""}', "{}", '{{"x\\\\","{}"}}', None)),
    "c_pair": ("pair", ('(1,"x,""(y)")', "(,)", '(2,"")', None)),
    "c_pairs": ("pair[]", ('{"(1,a)","(,\\"b,\\"\\"c\\")"}', "{}", None)),
    "c_twin": ("twin", ("(1,a)", "(,)", None)),
    "c_list": ("list", ("{1,2}", "{}", None)),
    "c_mood": ("mood", ("so so", "fine", "it's", None)),
    "c_code": ("code", ("abc", "", " x ", "NULL", None)),
    "c_bool": ("bool", ("t", "f", None)),
    "c_real": ("float8", ("-0", "5e-324", "NaN", "-Infinity", None)),
    "c_letter": ('"char"', ("c", "\\", '"', "", None)),
    "c_bits": ("bit(5)", ("10101", "00000", None)),
    "c_vbits": ("varbit", ("", "101", None)),
    "c_fixed": ("char(4)", ("ab", "", None)),
    "c_short": ("varchar(5)", ("  x", "", None)),
    "c_box": ("box", ("(1,1),(0,0)", "(2.5,2),(-1,0)", None)),
    "c_boxes": ("box[]", ("{(1,1),(0,0);(2,2),(1,1)}", "{}", None)),
    "c_span": ("int4range", ("[1,5)", "empty", None)),
    "c_text": ("text", (*ODD_TEXTS, None)),
}

TABLES = (
    Table(
        "plain",
        "CREATE TABLE plain (id int PRIMARY KEY, n int, v text)",
        ("id",),
        _singles(NUMBERS),
        {"n": (*NUMBERS, None), "v": (*ODD_TEXTS, None)},
    ),
    Table(
        "only_key",
        "CREATE TABLE only_key (a int, b int, PRIMARY KEY (b, a))",
        ("a", "b"),
        tuple((a, b) for a in "12" for b in "123"),
        {},
    ),
    Table(
        "odd_keys",
        "CREATE TABLE odd_keys (v text, a text, b text, PRIMARY KEY (b, a))",
        ("a", "b"),
        tuple((a, b) for a in ODD_TEXTS for b in ("", "NULL", "\\")),
        {"v": (*ODD_TEXTS, None)},
    ),
    Table(
        "kinds",
        "CREATE TABLE kinds (id bigint PRIMARY KEY, "
        + ", ".join(f"{name} {kind}" for name, (kind, _) in KINDS.items())
        + ")",
        ("id",),
        _singles(NUMBERS),
        {name: values for name, (_, values) in KINDS.items()},
    ),
    Table(
        "key_kinds",
        "CREATE TABLE key_kinds (m mood, c code, l list, t timestamptz, v text,"
        " PRIMARY KEY (m, c, l, t))",
        ("m", "c", "l", "t"),
        tuple(
            (mood, code, "{1,2}", "2024-01-01 00:00:00+00")
            for mood in ("it's", "fine")
            for code in ("", "NULL")
        ),
        {"v": ODD_TEXTS},
    ),
    Table(
        "toast",
        "CREATE TABLE toast (id int PRIMARY KEY, n int, big text, large text);"
        "ALTER TABLE toast ALTER big SET STORAGE EXTERNAL, ALTER large SET STORAGE EXTERNAL",
        ("id",),
        _singles(NUMBERS),
        {"n": NUMBERS, "big": (*TOAST, "small", None), "large": (*TOAST, None)},
    ),
    Table(
        "toast_key",
        "CREATE TABLE toast_key (id int, big text, v text, PRIMARY KEY (id, big));"
        "ALTER TABLE toast_key ALTER big SET STORAGE EXTERNAL",
        ("id", "big"),
        tuple((number, "k" * 2200) for number in "1234"),
        {"v": ODD_TEXTS},
    ),
    Table(
        "loose",
        "CREATE TABLE loose (k citext PRIMARY KEY, v text)",
        ("k",),
        _singles(("a", "A", "b", "B", "c")),
        {"v": ODD_TEXTS},
        is_grouped=False,  # an update that names the key may write it another way
    ),
    Table(
        "exact",
        "CREATE TABLE exact (k numeric PRIMARY KEY, v text)",
        ("k",),
        _singles(("1", "1.0", "1.00", "2", "2.0", "3")),
        {"v": ODD_TEXTS},
        is_grouped=False,  # an update that names the key may write it another way
    ),
    Table(
        "second",
        "CREATE TABLE second (id int PRIMARY KEY, u int UNIQUE, w int, v text);"
        "ALTER TABLE second ADD UNIQUE (w) DEFERRABLE",
        ("id",),
        _singles(NUMBERS),
        {"u": (*NUMBERS, None), "w": (*NUMBERS, None), "v": ODD_TEXTS},
        uniques=frozenset({"u", "w"}),
    ),
    Table(
        "by_index",
        "CREATE TABLE by_index (id int PRIMARY KEY, code text NOT NULL UNIQUE, v text);"
        "ALTER TABLE by_index REPLICA IDENTITY USING INDEX by_index_code_key",
        ("code",),
        _singles(ODD_TEXTS[:6]),
        {"id": NUMBERS, "v": ODD_TEXTS},
        uniques=frozenset({"id"}),
    ),
    Table(
        "whole",
        "CREATE TABLE whole (id int PRIMARY KEY, v text, big text);"
        "ALTER TABLE whole ALTER big SET STORAGE EXTERNAL;"
        "ALTER TABLE whole REPLICA IDENTITY FULL",
        ("id",),
        _singles(NUMBERS),
        {"v": (*ODD_TEXTS, None), "big": (*TOAST, None)},
    ),
    Table(
        "always",
        "CREATE TABLE always (id int PRIMARY KEY, n int GENERATED ALWAYS AS IDENTITY, v text,"
        " long int GENERATED ALWAYS AS (length(v)) STORED)",
        ("id",),
        _singles(NUMBERS),
        {"v": (*ODD_TEXTS, None)},
        is_grouped=False,
    ),
    Table(
        "later",
        "CREATE TABLE later (id int PRIMARY KEY DEFERRABLE, v text);"
        "ALTER TABLE later REPLICA IDENTITY FULL",
        ("id",),
        _singles(NUMBERS),
        {"v": (*ODD_TEXTS, None)},
        is_grouped=False,
    ),
    Table(
        "later_there",
        "CREATE TABLE later_there (id int PRIMARY KEY, v text)",
        ("id",),
        _singles(NUMBERS),
        {"v": (*ODD_TEXTS, None)},
        target_ddl="CREATE TABLE later_there (id int PRIMARY KEY DEFERRABLE, v text)",
        is_grouped=False,
    ),
    Table(
        "bare",
        "CREATE TABLE bare (a int, b text); ALTER TABLE bare REPLICA IDENTITY FULL",
        ("a",),
        _singles(NUMBERS[:3]),
        {"b": ("x", "", None)},
        is_grouped=False,
    ),
    Table(
        "log",
        "CREATE TABLE log (n int, v text)",
        (),
        ((),),
        {"n": (*NUMBERS, None), "v": (*ODD_TEXTS, None)},
        only_inserts=True,
    ),
    Table(
        "parted",
        "CREATE TABLE parted (id int, region text, v text, PRIMARY KEY (id, region))"
        " PARTITION BY LIST (region);"
        "CREATE TABLE parted_eu PARTITION OF parted FOR VALUES IN ('eu');"
        "CREATE TABLE parted_us PARTITION OF parted FOR VALUES IN ('us')",
        ("id", "region"),
        tuple((number, region) for number in "123" for region in ("eu", "us")),
        {"v": ODD_TEXTS},
        target_ddl="CREATE TABLE parted (id int, region text, v text, PRIMARY KEY (region, id))"
        " PARTITION BY HASH (id);"
        "CREATE TABLE other_0 PARTITION OF parted FOR VALUES WITH (MODULUS 2, REMAINDER 0);"
        "CREATE TABLE other_1 PARTITION OF parted FOR VALUES WITH (MODULUS 2, REMAINDER 1)",
    ),
)
BY_NAME = {table.name: table for table in TABLES}
LEAVES = {"parted_eu": "parted", "parted_us": "parted"}
"""Tables of the source that the destinations lack, and the root that takes their rows."""
