"""Every built-in type that a column may have, and values of it as texts that the server reads.

Downstream: `test_json_agrees` and `test_every_type`, which also see that no type of the server is
missing here.
"""

from __future__ import annotations

from tests.property.tables import ODD_TEXTS

UNKNOWN_TYPES = """
SELECT typname::text FROM pg_type WHERE oid < 10000 AND typtype IN ('b', 'r', 'm')
AND (typelem = 0 OR typname !~ '^_') AND typname <> ALL (%s)
"""
"""Which built-in types of a server are not among these."""

ODD_TYPES = {
    # No input function that takes anything, or only made by the server for itself.
    "gtsvector",
    "pg_node_tree",
    "pg_ndistinct",
    "pg_dependencies",
    "pg_mcv_list",
    "pg_brin_bloom_summary",
    "pg_brin_minmax_multi_summary",
    "pg_ddl_command",
}

MOMENTS = (
    "2024-02-29 23:59:59.999999",
    "1999-01-08 04:05:06",
    "0044-03-15 12:00:00 BC",
    "294276-12-31 23:59:59.5",
    "infinity",
    "-infinity",
)
ZONED = (
    "2024-02-29 23:59:59.999999+05:30",
    "2024-01-01 00:00:00-00:30:15",
    "0044-03-15 12:00:00+00 BC",
    "infinity",
)
JSONS = (
    '{"a": [1.10, null, "x\\ny"], "b\\"c": "\\\\ }"}',
    "null",
    '"x"',
    "[]",
    "{}",
    "1E+3",
    "-0.5",
    "true",
    '["\\u00fc", "🐘"]',
)
TEXTS = (*ODD_TEXTS, "null", "Null", "[1]", "{}", "\u2028\x7f", "x" * 70)
FLOATS = ("0", "-0", "1.5", "1e-30", "3.4e+38", "NaN", "Infinity", "-Infinity", "123456.7")

VALUES: dict[str, tuple[str, ...]] = {
    "bool": ("t", "f"),
    "bytea": ("\\x00ff275c", "\\x"),
    '"char"': ("c", "\\", '"', ""),
    "name": ("pg", 'a"b', "ünï"),
    "int8": ("9223372036854775807", "-9223372036854775808", "0"),
    "int2": ("-32768", "7"),
    "int2vector": ("1 2 3", "", "-7"),
    "int4": ("2147483647", "-1"),
    "regproc": ("now", "pg_catalog.now", "-"),
    "text": TEXTS,
    "oid": ("0", "4294967295"),
    "tid": ("(0,1)", "(4294967295,65535)"),
    "xid": ("42",),
    "cid": ("7",),
    "oidvector": ("1 4294967295", ""),
    "json": (*JSONS, '{"a":\n\t1,\r\n "a": 2}', " [1 , 2]"),
    "xml": ("<a b='c'>x &amp; y</a>", "text"),
    "point": ("(1,2.5)", "(-1e+20,NaN)"),
    "lseg": ("[(0,0),(1,1)]",),
    "path": ("((0,0),(1,1))", "[(0,0),(1,1)]"),
    "box": ("(1,1),(0,0)", "(2.5,2),(-1,0)"),
    "polygon": ("((0,0),(1,1),(2,0))",),
    "line": ("{1,2,3}",),
    "float4": FLOATS,
    "float8": (*FLOATS, "5e-324", "1.7976931348623157e+308", "0.1"),
    "circle": ("<(0,0),5>",),
    "money": ("$1,234.50", "-0.01"),
    "macaddr": ("08:00:2b:01:02:03",),
    "inet": ("192.168.0.1/24", "::1"),
    "cidr": ("10.0.0.0/8",),
    "macaddr8": ("08:00:2b:01:02:03:04:05",),
    "aclitem": ("=r/postgres",),
    "bpchar": ("ab  ", ""),
    "varchar": TEXTS,
    "date": ("2024-02-29", "0044-03-15 BC", "infinity", "5874897-12-31"),
    "time": ("23:59:59.999999", "24:00:00"),
    "timestamp": MOMENTS,
    "timestamptz": ZONED,
    "interval": ("1 year -2 days 03:04:05.5", "-1 mon", "00:00:00"),
    "timetz": ("23:59:59.5+05:30", "00:00:00-15:59"),
    "bit": ("1", "0"),
    "varbit": ("", "10101"),
    "numeric": (
        "0",
        "-1.50",
        "NaN",
        "Infinity",
        "1e-30",
        "12345678901234567890123456789012345678901234567890.5",
    ),
    "refcursor": ("a cursor",),
    "regprocedure": ("now()", "sum(integer)"),
    "regoper": ("pg_catalog.||/",),
    "regoperator": ("+(integer,integer)",),
    "regclass": ("pg_class", "pg_catalog.pg_type"),
    "regtype": ("integer", "timestamp with time zone"),
    "regrole": ("postgres",),
    "regnamespace": ("pg_catalog", "public"),
    "uuid": ("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",),
    "pg_lsn": ("16/B374D848",),
    "tsvector": ("'a':1A 'fat''s':2,4C 'b c'",),
    "tsquery": ("'a' & ( 'b' | !'c d' )",),
    "regconfig": ("english", "simple"),
    "regdictionary": ("simple",),
    "jsonb": (*JSONS, '{"z": {"y": [[]]}}'),
    "jsonpath": ('$."a"[*]?(@ > 1)',),
    "txid_snapshot": ("10:20:10,14,15",),
    "pg_snapshot": ("10:20:10,14,15",),
    "xid8": ("18446744073709551615",),
    "regcollation": ('"C"',),
    "int4range": ("[1,5)", "empty", "(,)"),
    "numrange": ("(1.5,2.50]",),
    "tsrange": ('["2024-01-01 00:00:00",)',),
    "tstzrange": ('["2024-01-01 00:00:00+00","infinity")',),
    "daterange": ("[2024-01-01,2024-02-01)",),
    "int8range": ("[9223372036854775806,9223372036854775807)",),
    "int4multirange": ("{[1,3),[5,9)}", "{}"),
    "nummultirange": ("{[1.5,2.5]}",),
    "tsmultirange": ('{["2024-01-01 00:00:00","2025-01-01 00:00:00")}',),
    "tstzmultirange": ('{["2024-01-01 00:00:00+00",)}',),
    "datemultirange": ("{[2024-01-01,2024-02-01)}",),
    "int8multirange": ("{[1,2)}",),
}

BOUNDED = {
    "int4": ("[0:1]={7,8}", "[-1:0][2:3]={{1,NULL},{3,4}}", "{{{1}},{{2}}}", "{}"),
    "text": ('[5:5]={"a,\\"b"}', '{{"x\\\\","{}"},{NULL,"NULL"}}'),
    "box": ("{(1,1),(0,0);(2,2),(1,1)}", "{(1,1),(0,0);NULL}"),
    "jsonb": ('{{"{\\"a\\": 1}"},{NULL}}',),
}
"""Arrays of more than a plain list."""
