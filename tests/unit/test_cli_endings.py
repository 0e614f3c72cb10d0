"""How commands end: exit codes, signals, defects, and processes that go with their parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING

import pytest
from tests.processes import FORK_SERVER, descendants

from pgflo.errors import Exit

if TYPE_CHECKING:
    from pathlib import Path

CANARY = "canary4711"


def script(text: str, *arguments: str) -> subprocess.Popen[str]:
    """Start a Python program."""
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(text), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
    )


COMMAND = """
    import sys
    from pgflo.cli import app, parse, runtime
    from pgflo.config import options as o
    from pgflo.errors import *

    @parse.command("probe", {{}}, reads_config=False)
    def probe(values):
        {body}

    app.app.add_command(probe)
    sys.exit(app.run(["probe", *sys.argv[1:]]))
"""


def probe(body: str, *arguments: str) -> subprocess.Popen[str]:
    """Start a command with this body, through the real entry point."""
    indented = textwrap.indent(textwrap.dedent(body), " " * 8).strip()
    return script(
        textwrap.dedent(COMMAND).format(body=indented.replace("\n" + " " * 8, "\n    ")), *arguments
    )


def test_a_defect_is_told_shortly_and_its_values_only_when_asked() -> None:
    quiet = probe(f"raise ValueError('{CANARY}')")
    _, said = quiet.communicate()
    assert quiet.returncode == Exit.INTERNAL
    assert "unexpected ValueError" in said
    assert "[internal]" in said
    assert CANARY not in said
    assert "Traceback" not in said
    verbose = probe(f"raise ValueError('{CANARY}')", "-v")
    _, said = verbose.communicate()
    assert verbose.returncode == Exit.INTERNAL
    assert "Traceback" in said


def test_a_failure_inside_a_group_of_tasks_ends_with_its_own_code() -> None:
    ended = probe("raise ExceptionGroup('', [ValueError(), PgfloError(SINK_UNREACHABLE, 'gone')])")
    _, said = ended.communicate()
    assert ended.returncode == Exit.SINK
    assert said.startswith("error: gone  [sink.unreachable]")


def test_a_reader_that_went_away_is_no_failure(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "pgflo", "version"],
        stdout=writer,
        stderr=subprocess.PIPE,
        cwd=tmp_path,
        check=False,
    )
    os.close(writer)
    assert done.returncode == Exit.DONE
    assert b"Traceback" not in done.stderr


SERVICE = """
async def service(stop):
    print("up", flush=True)
    await stop.wait()
    {drain}
runtime.DRAIN_LIMIT_S = {limit}
runtime.CANCEL_LIMIT_S = 0.5
import asyncio, time
runtime.run_service(service)
"""


def service(drain: str, limit_s: float = 25.0) -> subprocess.Popen[str]:
    """Start a service and wait until it is up."""
    started = probe(SERVICE.format(drain=drain, limit=limit_s))
    assert started.stdout is not None
    assert started.stdout.readline() == "up\n"
    return started


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_drains_and_ends_with_0(number: signal.Signals) -> None:
    running = service("print('drained', flush=True)")
    running.send_signal(number)
    output, said = running.communicate(timeout=20)
    assert running.returncode == Exit.DONE
    assert output == "drained\n"
    assert f"signal={number.name}" in said


def test_a_drain_that_takes_too_long_is_cut_and_still_ends_with_0() -> None:
    running = service("await asyncio.sleep(60)", limit_s=0.1)
    running.send_signal(signal.SIGTERM)
    _, said = running.communicate(timeout=20)
    assert running.returncode == Exit.DONE
    assert "not drained in time" in said


@pytest.mark.parametrize("drain", ["await asyncio.sleep(60)", "time.sleep(3)"])
def test_the_second_signal_ends_with_130(drain: str) -> None:
    running = service(f"print('draining', flush=True); {drain}")
    assert running.stdout is not None
    running.send_signal(signal.SIGINT)
    assert running.stdout.readline() == "draining\n"
    running.send_signal(signal.SIGINT)
    running.communicate(timeout=20)
    assert running.returncode == Exit.INTERRUPTED


def test_a_service_that_ends_by_itself_ends_with_0_and_its_failure_with_its_code() -> None:
    done = probe("async def s(stop): pass\nruntime.run_service(s)")
    done.communicate(timeout=20)
    assert done.returncode == Exit.DONE
    failed = probe("async def s(stop): raise PgfloError(DIFFERS, 'x')\nruntime.run_service(s)")
    failed.communicate(timeout=20)
    assert failed.returncode == Exit.DIFFERS


PARENT = """
    import os, sys, time
    from pgflo.supervisor import lifeline, processes

    def child(pipe):
        lifeline.die_with_parent()
        os.kill(os.getpid(), 2)  # Ctrl-C is the parent's business
        pipe.send(os.getpid())
        time.sleep(60)

    if __name__ == "__main__":
        context = processes.context()
        for _ in range(2):
            ours, theirs = context.Pipe()
            context.Process(target=child, args=(theirs,)).start()
            print(ours.recv(), flush=True)
        time.sleep(60)
"""


def test_children_go_with_a_parent_that_is_killed_and_leave_no_files(tmp_path: Path) -> None:
    import psutil

    program, temporary = tmp_path / "parent.py", tmp_path / "temporary"
    program.write_text(textwrap.dedent(PARENT))
    temporary.mkdir()
    parent = subprocess.Popen(
        [sys.executable, str(program)],
        env={**os.environ, "TMPDIR": str(temporary)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout is not None
    children = [psutil.Process(int(parent.stdout.readline())) for _ in range(2)]
    assert list(temporary.iterdir())
    fork_servers = descendants(FORK_SERVER, parent.pid)
    assert fork_servers
    parent.kill()
    parent.communicate()
    for child in (*children, *fork_servers):
        try:
            child.wait(10)
        except psutil.TimeoutExpired:
            assert child.status() == psutil.STATUS_ZOMBIE
    assert not list(temporary.iterdir())


def test_die_with_parent_is_refused_where_there_is_no_parent() -> None:
    from pgflo.supervisor import lifeline

    with pytest.raises(RuntimeError, match="multiprocessing"):
        lifeline.die_with_parent()
