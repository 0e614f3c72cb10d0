"""Values of types that only the source has are told by what those are made of."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.fix_pipeline import eventually
from tests.fix_sinks import committed

if TYPE_CHECKING:
    from tests.fix_pipeline import Pipeline
    from tests.fix_sinks import Event

TABLE = """
CREATE DOMAIN whole AS int;
CREATE TYPE pair AS (a int, b text);
CREATE TABLE t (id whole PRIMARY KEY, wholes whole[], p pair);
INSERT INTO t VALUES (1, '{1,2}', '(1,x)');
"""


def test_types_are_known_from_the_copy_on_and_again_from_the_next_start_on(
    pipeline: Pipeline,
) -> None:
    files = pipeline.directory / "files"

    def row(number: int) -> Event:
        def found() -> list[Event]:
            pipeline.assert_alive()
            return [event["new"] for event in committed(files) if event["new"]["id"] == number]

        return eventually(found, f"row {number}")[0]

    # GIVEN a table with a domain, an array of it and a composite type, which is copied and followed
    pipeline.run_script(TABLE)
    replicator = pipeline.replicate()
    pipeline.start("worker", "file", "--file-output-dir", str(files))
    assert row(1) == {"id": 1, "wholes": [1, 2], "p": {"a": 1, "b": "x"}}
    # WHEN columns come while changes stream, of a domain of yesterday and of types of today
    pipeline.run_script(
        "CREATE DOMAIN flag AS bool; CREATE DOMAIN flags AS bool[];"
        "ALTER TABLE t ADD w whole, ADD f flag, ADD fs flags, ADD every flag[];"
        "ALTER TYPE pair ADD ATTRIBUTE c int;"
        "INSERT INTO t VALUES (2, '{}', '(1,x,2)', 3, true, '{t,f}', '{t}')"
    )
    # THEN domains are told by what is beneath them; what nobody has told yet is text
    new = {"w": 3, "f": True, "fs": [True, False]}
    assert row(2) == {"id": 2, "wholes": [], "p": "(1,x,2)", **new, "every": "{t}"}
    # WHEN the replicator is started again
    assert replicator.stop() == 0
    pipeline.run_script("INSERT INTO t VALUES (3, NULL, '(1,x,2)', 3, true, '{t,f}', '{t}')")
    pipeline.replicate("--stream")
    # THEN it tells the worker, which did not stop, before the first change
    pair = {"a": 1, "b": "x", "c": 2}
    assert row(3) == {"id": 3, "wholes": None, "p": pair, **new, "every": [True]}
