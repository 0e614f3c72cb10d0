"""Types that only the source has, made of one another, and values of them as the server reads them.

Downstream: `test_json_agrees`, the conformance suite of the sinks.
"""

from __future__ import annotations

CREATE_OWN_TYPES = """
CREATE TYPE feeling AS ENUM ('so so', 'fine', '"');
CREATE DOMAIN whole AS int;
CREATE DOMAIN positive AS whole CHECK (VALUE > 0);
CREATE DOMAIN price AS numeric(12, 2);
CREATE DOMAIN moment AS timestamptz;
CREATE DOMAIN document AS jsonb;
CREATE DOMAIN mood AS feeling;
CREATE DOMAIN twin AS int[];
CREATE DOMAIN corners AS box[];
CREATE DOMAIN moods AS feeling[];
CREATE DOMAIN positives AS positive[];
CREATE TYPE price_range AS RANGE (subtype = price);
CREATE DOMAIN span AS int4range;
CREATE TYPE pair AS (a int, b text);
CREATE TYPE nothing AS ();
CREATE TYPE nest AS (
    "the ""pair"" of it" pair, pairs pair[], n price,
    at timestamp, ok bool, f feeling, doc document, v int2vector);
ALTER TYPE nest ADD ATTRIBUTE gone int;
ALTER TYPE nest DROP ATTRIBUTE gone;
ALTER TYPE nest ADD ATTRIBUTE late twin;
CREATE DOMAIN sure_pair AS pair CHECK ((VALUE).a > 0);
CREATE TABLE place (x int, y point);
"""

_OWN: dict[str, tuple[str, tuple[str, ...]]] = {
    "enum": ("feeling", ("so so", '"')),
    "enums": ("feeling[]", ('{"so so",fine,NULL}', '{"\\""}', "{{fine},{fine}}")),
    "domain": ("positive", ("7",)),
    "domains": ("positive[]", ("{1,NULL,3}", "[0:1]={1,2}")),
    "numbers": ("price[]", ("{1.50,2}",)),
    "number": ("price", ("-1.5", "NaN")),
    "moment": ("moment", ("2024-02-29 23:59:59+05:30", "infinity")),
    "moments": ("moment[]", ("{2024-02-29 23:59:59+05:30,NULL}",)),
    "document": ("document", ('{"a": [1.10, null]}', "null")),
    "documents": ("document[]", ('{"{\\"a\\": 1}",NULL}',)),
    "mood": ("mood", ("so so",)),
    "twin": ("twin", ("{1,2}", "{}")),
    "twins": ("twin[]", ('{"{1,2}",NULL,"{}"}',)),
    "corners": ("corners", ("{(1,1),(0,0);(2,2),(1,1)}",)),
    "moods": ("moods", ('{"so so",NULL}',)),
    "positives": ("positives", ("{1,2}",)),
    "range": ("price_range", ("[1.5,2)", "empty")),
    "ranges": ("price_range[]", ('{"[1.5,2)",empty,NULL}',)),
    "multirange": ("price_multirange", ("{[1.5,2),[3,4)}",)),
    "span": ("span", ("[1,5)",)),
    "spans": ("span[]", ('{"[1,5)"}',)),
    "pair": ("pair", ('(1,"x,""(y)")', "(,)", '(-7,"")', '(1,"\\\\ ")')),
    "pairs": ("pair[]", ('{"(1,\\"a b\\")",NULL,"(,)"}', "{}")),
    "nothing": ("nothing", ("()",)),
    "nest": (
        "nest",
        (
            '("(1,""x """"y"""""")","{""(1,a)"",NULL}",1.5,2024-02-29,t,"so so","[1.1]","1 2",{1})',
            "(,,,,,,,,)",
        ),
    ),
    "nests": ("nest[]", ('{"(\\"(2,)\\",,,,f,,,,{})",NULL}',)),
    "sure_pair": ("sure_pair", ("(1,b)",)),
    "sure_pairs": ("sure_pair[]", ('{"(1,b)"}',)),
    "whole_row": ("place", ('(1,"(2,3.5)")',)),
    "catalog_row": ("pg_catalog.pg_am", ("(1,btree,now,i)",)),
    "information": ("information_schema.cardinal_number", ("3",)),
}

OWN_TYPES = {name: made for name, (made, _) in _OWN.items()}
"""Columns and their types."""

OWN_VALUES = {name: values for name, (_, values) in _OWN.items()}
"""Texts that the server reads, by column."""
