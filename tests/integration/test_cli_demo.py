"""`pgflo demo`: the main job for real, and nothing left behind."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest
from tests.fix_pipeline import eventually
from tests.processes import descendants, is_gone

from pgflo.errors import Exit

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def base() -> Iterator[Path]:
    """Give a temporary directory that PostgreSQL's account reaches, too."""
    made = Path(tempfile.mkdtemp(prefix="pgflo-test-"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


def demo(base: Path, *flags: str) -> subprocess.Popen[str]:
    """Start the demo with a temporary directory of its own."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    return subprocess.Popen(
        [sys.executable, "-m", "pgflo", "demo", *flags],
        env={**clean, "TMPDIR": str(base), "PYTHONUNBUFFERED": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def everything(running: subprocess.Popen[str]) -> list[psutil.Process]:
    """Wait until both commands are at work and list all processes of the demo."""
    eventually(lambda: len(descendants(of=running.pid)) > 8, "both commands")
    return descendants(of=running.pid)


def left(base: Path, family: list[psutil.Process]) -> list[object]:
    """List what is left of a demo: directories of its own, processes."""
    alive = [one for one in family if not is_gone(one)]
    return [*alive, *base.glob("pgflo-demo-*")]


@pytest.mark.timeout(400)
def test_the_demo_ends_with_identical_sides_and_leaves_nothing(base: Path) -> None:
    running = demo(base)
    family = descendants(of=running.pid)
    output, said = running.communicate(timeout=380)
    assert running.returncode == Exit.DONE, output + said
    assert "1,000,000 rows" in output
    assert "$ pgflo replicate --copy-and-stream --max-copy-workers-per-table 8" in output
    assert "$ pgflo worker postgres" in output
    assert output.index("$ pgflo compare") < output.index("source and destination are identical")
    assert "rows/s" in output
    assert "lag: median" in output
    assert "peak memory" in output
    for table in ('public."Order Items"', "public.events", "public.documents", "chinook.track"):
        assert table in output
    assert left(base, family) == []


@pytest.mark.timeout(200)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_cleans_up(number: signal.Signals, base: Path) -> None:
    running = demo(base)
    assert running.stdout is not None
    while "worker postgres" not in running.stdout.readline():
        assert running.poll() is None
    family = everything(running)
    running.send_signal(number)
    _, said = running.communicate(timeout=100)
    assert running.returncode == Exit.INTERRUPTED, said
    assert "Traceback" not in said
    eventually(lambda: not left(base, family), "nothing to be left")


@pytest.mark.timeout(200)
def test_a_killed_demo_takes_its_servers_and_commands_along(base: Path) -> None:
    running = demo(base)
    assert running.stdout is not None
    while "worker postgres" not in running.stdout.readline():
        assert running.poll() is None
    family = everything(running)
    running.kill()
    running.communicate()
    eventually(
        lambda: (
            not [one for one in family if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]
        ),
        "the end of every process",
    )
