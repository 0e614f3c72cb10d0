"""The sink of docs/sinks.md works as it stands there, found by its entry point."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

from tests.fix_sinks import ToStdout

if TYPE_CHECKING:
    from tests.fix_stream import Stream

DOCS = Path(__file__).parents[2] / "docs" / "sinks.md"


class ToPackage(ToStdout):
    """The sink of the documentation, installed as a package is."""

    kind = "count"

    def environment(self) -> dict[str, str]:
        """Put the package on the path, with its setting."""
        return {
            "PYTHONPATH": str(self.directory / "site"),
            "COUNTS_FILE": str(self.directory / "counts.json"),
        }

    def install(self) -> None:
        """Write what an installer would."""
        text = DOCS.read_text()
        (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
        (entry,) = re.findall(r"^count = \"(.*)\"$", text, re.MULTILINE)
        site = self.directory / "site"
        metadata = site / "counting-1.dist-info"
        metadata.mkdir(parents=True)
        (site / "counting.py").write_text(code)
        (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: counting\nVersion: 1\n")
        (metadata / "entry_points.txt").write_text(f"[pgflo.sinks]\ncount = {entry}\n")

    def counts(self) -> dict[str, int]:
        """Give what it has counted."""
        kept: dict[str, dict[str, int]] = json.loads((self.directory / "counts.json").read_text())
        return kept["counts"]


async def test_the_sink_of_the_documentation_counts_every_change_once(
    stream: Stream, tmp_path: Path
) -> None:
    sink = ToPackage(stream, tmp_path)
    sink.install()
    source = stream.changes.source
    source.execute("CREATE TABLE a (n int); CREATE TABLE b (n int)")
    for times in range(3):
        source.execute("INSERT INTO a VALUES (1), (2); INSERT INTO b VALUES (1)")
        await stream.publish(stream.changes.envelopes())
        assert await asyncio.to_thread(sink.run) == 0, sink.tail()
        assert sink.counts() == {"a": 2 * (times + 1), "b": times + 1}
