"""Rows travel in binary where they can, and mean the same at the destination."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.fix_pipeline import Pipeline

SOURCE = """
CREATE TABLE numbers (
    id bigint PRIMARY KEY, small int2, n int4, f float4, d float8, x numeric(20, 4));
INSERT INTO numbers
    SELECT i, i % 1000, i * 7, i / 3.0, i / 7.0, i * 1.5 FROM generate_series(1, 5000) i;
INSERT INTO numbers VALUES (0, NULL, NULL, 'NaN', '-Infinity', 'NaN');
CREATE TABLE others (
    id uuid PRIMARY KEY, v varchar(40), j jsonb, b bytea, at timestamp, z timestamptz,
    day date, span interval, yes boolean);
INSERT INTO others
    SELECT gen_random_uuid(), E'tab\\t ' || i, jsonb_build_object('i', i), int8send(i),
        '2026-01-01'::timestamp + i * interval '1.5 s',
        '2026-01-01'::timestamptz - i * interval '1 day',
        '2026-01-01'::date + i, i * interval '1 hour', i % 2 = 0 FROM generate_series(1, 3000) i;
CREATE TABLE lists (id int PRIMARY KEY, n int[], t text[]);
INSERT INTO lists
    SELECT i, ARRAY[i, NULL, 3], ARRAY['a,b', 'c"'] FROM generate_series(1, 500) i;
CREATE TABLE nothing (id int PRIMARY KEY);
"""

WIDER = """
ALTER TABLE numbers
    ALTER small TYPE int8, ALTER n TYPE float4, ALTER f TYPE float8, ALTER x TYPE numeric;
ALTER TABLE others
    ALTER v TYPE text, ALTER j TYPE json, ALTER at TYPE timestamptz, ALTER day TYPE timestamp;
"""
"""Types of the same length in binary and another meaning among them."""

SUMS = """
SELECT sum(small)::int8, sum(n::int8), sum(x) FILTER (WHERE id > 0), count(*) FROM numbers
UNION ALL SELECT count(j -> 'i'), count(DISTINCT v), sum(extract(epoch FROM at::timestamp)),
    sum(extract(epoch FROM day))::int8 FROM others
"""


@pytest.mark.parametrize("form", ["auto", "text"])
def test_copied_rows_are_the_same_in_either_format(pipeline: Pipeline, form: str) -> None:
    pipeline.run_script(SOURCE)
    pipeline.copy_schema()
    pipeline.replicate("--copy-format", form, "--range-size", "64kB")
    pipeline.worker()
    pipeline.wait_caught_up()
    pipeline.assert_identical()


def test_values_are_kept_where_the_destination_has_other_types(pipeline: Pipeline) -> None:
    pipeline.run_script(SOURCE)
    pipeline.copy_schema()
    pipeline.target.execute("SET timezone = 'UTC'", WIDER)
    pipeline.replicate("--range-size", "64kB")
    pipeline.worker()
    pipeline.wait_caught_up()
    with pipeline.source.connect() as source, pipeline.target.connect() as target:
        source.execute("SET timezone = 'UTC'")
        target.execute("SET timezone = 'UTC'")
        assert target.execute(SUMS).fetchall() == source.execute(SUMS).fetchall()


def test_a_table_that_cannot_travel_in_binary_is_refused_if_it_must(pipeline: Pipeline) -> None:
    pipeline.run_script(SOURCE)
    replicate = pipeline.replicate("--copy-format", "binary")
    assert replicate.wait() == 3
    assert (
        "lists cannot be copied in binary because of n (integer[]), t (text[])" in replicate.tail()
    )
    assert "--copy-format" in replicate.tail()
