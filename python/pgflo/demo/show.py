"""The demo from beginning to end.

Upstream: `pgflo demo`. Downstream: two embedded PostgreSQL servers, the commands that users type,
and a terminal.
Invariant: what is printed was measured in this run, "identical" is printed only when `pgflo
compare` said so, and servers, processes and files are gone at the end, however it ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import shutil
import signal
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from pgflo.demo import dataset, figures
from pgflo.demo.commands import LOG_LINES, Command, run_once, too_slow, written
from pgflo.demo.writers import Writers
from pgflo.embedded.postgres import EmbeddedPostgres
from pgflo.errors import DIFFERS, PgfloError
from pgflo.status.show import size

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

GROUP = "demo"
DATABASE = "shop"
WRITERS = 2
STREAM_S = 5.0
"""How long writers go on after the copy."""
COPY_LIMIT_S = 300.0
LAG_LIMIT_S = 60.0
LAG_PAUSE_S = 0.25
LOOK_S = 0.25
PASSWORD_BYTES = 12


@dataclass
class Stage:
    """What one run of the demo works with."""

    console: Console
    directory: Path
    source: EmbeddedPostgres
    target: EmbeddedPostgres
    password: str
    steps: int = 0
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def state_dir(self) -> Path:
        """Where the embedded broker lives."""
        return self.directory / "state"

    def log(self, name: str) -> Path:
        """Where a command writes."""
        return self.directory / f"{name}.log"

    def replicate(self) -> list[str]:
        """Give the first command of the main job."""
        return [
            *("replicate", "--copy-and-stream", "--max-copy-workers-per-table", "8"),
            *("--host", "127.0.0.1", "--port", str(self.source.port)),
            *("--dbname", DATABASE, "--user", "postgres"),
            *("--group", GROUP, "--tables", dataset.TABLES),
        ]

    def worker(self) -> list[str]:
        """Give the second command of the main job."""
        return [
            *("worker", "postgres", "--group", GROUP),
            *("--target-host", "127.0.0.1", "--target-port", str(self.target.port)),
            *("--target-dbname", DATABASE, "--target-user", "postgres"),
            *("--target-sync-schema", "--source-host", "127.0.0.1"),
            *("--source-port", str(self.source.port)),
            *("--source-dbname", DATABASE, "--source-user", "postgres"),
        ]

    def compare(self) -> list[str]:
        """Give the check at the end."""
        return [
            *("compare", "--group", GROUP),
            *("--host", "127.0.0.1", "--port", str(self.source.port)),
            *("--dbname", DATABASE, "--user", "postgres"),
            *("--target-host", "127.0.0.1", "--target-port", str(self.target.port)),
            *("--target-dbname", DATABASE, "--target-user", "postgres"),
        ]

    def drop(self) -> list[str]:
        """Give the clean-up."""
        return [
            *("drop", "--group", GROUP, "--yes"),
            *("--host", "127.0.0.1", "--port", str(self.source.port)),
            *("--dbname", DATABASE, "--user", "postgres"),
        ]

    @contextlib.contextmanager
    def step(self, title: str) -> Iterator[None]:
        """Show a step while it is done, then with the time it took."""
        self.steps += 1
        started = time.monotonic()
        with self.console.status(title):
            yield
        took_s = time.monotonic() - started
        self.console.print(f"[bold green]{self.steps}[/] {title} [dim]({took_s:.1f} s)[/]")

    def say(self, text: str) -> None:
        """Print a line below the step."""
        self.console.print(f"  {text}")

    def note(self, text: str) -> None:
        """Print a line that few will read."""
        self.console.print(f"  {text}", style="dim", soft_wrap=True)

    def type(self, arguments: list[str]) -> None:
        """Print a command before it is run."""
        self.console.print(f"  [bold]$ {written(arguments)}[/]", soft_wrap=True)


def run(*, keep: bool, no_color: bool) -> None:
    """Run the demo. Raises the failure of the first step that fails."""
    console = Console(highlight=False, no_color=no_color or None)
    started = time.monotonic()
    # The signal becomes an exception, so that every context below cleans up.
    signal.signal(signal.SIGTERM, _interrupt)
    directory = Path(tempfile.mkdtemp(prefix="pgflo-demo-"))
    try:
        directory.chmod(0o755)  # PostgreSQL may run as another user
        password = secrets.token_hex(PASSWORD_BYTES)
        with contextlib.ExitStack() as stack:
            servers = [
                EmbeddedPostgres(
                    directory / name,
                    password=password,
                    throw_away=True,
                    settings={"max_wal_size": "4GB", "shared_buffers": "128MB"},
                )
                for name in ("source", "destination")
            ]
            stage = Stage(console, directory, servers[0], servers[1], password)
            stage.environment = {
                "PGPASSWORD": password,
                "PG_FLO_STATE_DIR": str(stage.state_dir),
                "PG_FLO_LOG_FORMAT": "console",
                "PG_FLO_CONFIG": "/dev/null",
            }
            try:
                _show(stage, stack, keep=keep)
            except Exception:
                _show_logs(stage)
                raise
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    console.print(f"[dim]nothing is left behind; {time.monotonic() - started:.0f} s in all[/]")


def _show_logs(stage: Stage) -> None:
    """Print the ends of the commands' logs, which are about to be removed."""
    for log in sorted(stage.directory.glob("*.log")):
        stage.console.print(f"the end of {log.name}:", style="bold red")
        for line in log.read_text(errors="replace").splitlines()[-LOG_LINES:]:
            stage.console.print(f"  {line}", markup=False, soft_wrap=True)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _show(stage: Stage, stack: contextlib.ExitStack, *, keep: bool) -> None:
    source, target = _start_servers(stage, stack)
    with stage.step(f"{dataset.ROWS:,} rows in five tables, and Chinook"):
        dataset.fill(source)

    writers = Writers(source, WRITERS)
    stack.callback(writers.stop)
    stage.steps += 1
    stage.console.print(
        f"[bold green]{stage.steps}[/] {WRITERS} writers change the source from now on; then,"
        " in two terminals:"
    )
    writers.start()
    stage.type(stage.replicate())
    stage.type(stage.worker())

    started = time.monotonic()
    replicate = stack.enter_context(
        Command(stage.replicate(), stage.environment, stage.log("replicate"))
    )
    _wait_for_broker(stage, replicate)
    worker = stack.enter_context(Command(stage.worker(), stage.environment, stage.log("worker")))
    meter = figures.Meter(source, target, GROUP)
    stack.callback(meter.close)
    commands = [replicate, worker]
    _copy(stage, commands, meter, started)
    _stream(stage, commands, meter, writers)
    _tell(stage, commands, writers)
    _compare(stage)
    if keep:
        _keep(stage)
    with stage.step("stop both commands (SIGTERM)"):
        worker.stop()
        replicate.stop()
    stage.type(stage.drop())
    with stage.step("remove slot, publications, streams"):
        run_once(stage.drop(), stage.environment, stage.log("drop"))


def _start_servers(stage: Stage, stack: contextlib.ExitStack) -> tuple[str, str]:
    servers = (stage.source, stage.target)
    with stage.step("two PostgreSQL servers"):
        with ThreadPoolExecutor(len(servers)) as pool:
            for server in servers:
                stack.callback(server.close)
            for started in [pool.submit(server.start) for server in servers]:
                started.result()
        dsns = [server.create_database(DATABASE) for server in servers]
    found = stage.source.binaries
    ports = " and ".join(str(server.port) for server in servers)
    stage.note(f"{found.version_text} of {found.path}, ports {ports}")
    return dsns[0], dsns[1]


def _wait_for_broker(stage: Stage, replicate: Command) -> None:
    """Wait until the first command has started the broker that the second one looks for."""
    told = stage.state_dir / GROUP / "broker.json"
    while not told.exists():
        replicate.check()
        time.sleep(LOOK_S / 5)


def _copy(stage: Stage, commands: list[Command], meter: figures.Meter, started: float) -> None:
    title = "tables, copy and indexes, while the writers write"
    stage.steps += 1
    with stage.console.status(title) as status:
        while not _is_streaming(stage):
            for command in commands:
                command.check()
                command.measure()
            if time.monotonic() - started > COPY_LIMIT_S:
                raise too_slow(f"the copy takes longer than {COPY_LIMIT_S:g} s")
            status.update(f"{title}: {meter.copied_rows():,} rows")
            time.sleep(LOOK_S)
        rows = meter.copied_rows()
    took_s = time.monotonic() - started
    stage.console.print(f"[bold green]{stage.steps}[/] {title} [dim]({took_s:.1f} s)[/]")
    stage.say(f"{rows:,} rows, {rows / took_s:,.0f} rows/s from the first command's start on")


def _is_streaming(stage: Stage) -> bool:
    """Ask the group's record whether the sink has everything copied and applies changes."""
    from pgflo.config.settings import NatsSettings
    from pgflo.status.record import opened
    from pgflo.supervisor.local_broker import find

    async def look() -> bool:
        url = find(stage.state_dir, GROUP)
        async with opened(NatsSettings(url=url), GROUP) as (_, record):
            return any(sink.phase == "streaming" for sink in (await record.sinks()).values())

    try:
        return asyncio.run(look())
    except PgfloError as error:
        if error.kind.code in ("group.unknown", "broker.unreachable"):
            return False  # the group is being made
        raise


def _stream(stage: Stage, commands: list[Command], meter: figures.Meter, writers: Writers) -> None:
    lags = figures.Lags()

    def alive() -> None:
        for command in commands:
            command.check()

    with stage.step(f"stream for {STREAM_S:g} s more"):
        meter.lag_s(alive, LAG_LIMIT_S)  # what was written during the copy
        before, started = writers.changes, time.monotonic()
        while (elapsed_s := time.monotonic() - started) < STREAM_S:
            lags.seconds.append(meter.lag_s(alive, LAG_LIMIT_S))
            for command in commands:
                command.measure()
            time.sleep(LAG_PAUSE_S)
        changes = writers.changes - before
        writers.stop()
    stage.say(f"{changes:,} changes, {changes / elapsed_s:,.0f} a second; lag: {lags}")


def _tell(stage: Stage, commands: list[Command], writers: Writers) -> None:
    peaks = ", ".join(f"{command.arguments[0]} {size(command.peak_bytes)}" for command in commands)
    stage.say(f"the writers committed {writers.transactions:,} transactions in all")
    stage.say(f"peak memory of all processes: {peaks}")


def _compare(stage: Stage) -> None:
    arguments = stage.compare()
    stage.type(arguments)
    with stage.step("compare both sides"):
        output = run_once(arguments, stage.environment, stage.log("compare"))
    for line in output.splitlines():
        stage.console.print(f"  {line}", markup=False)
    if "source and destination are identical" not in output:
        raise PgfloError(DIFFERS, "pgflo compare did not say that both sides are identical")


def _keep(stage: Stage) -> None:
    """Say how to look at the servers, and wait for Ctrl-C."""
    environment = f"PGPASSWORD={stage.password}"
    lines = [
        "the servers stay up until Ctrl-C; look at them from another terminal:",
        f"$ {environment} psql -h 127.0.0.1 -p {stage.source.port} -U postgres {DATABASE}",
        f"$ {environment} psql -h 127.0.0.1 -p {stage.target.port} -U postgres {DATABASE}",
        f"$ pgflo status --watch --group {GROUP} --state-dir {stage.state_dir}",
    ]
    for line in lines:
        stage.console.print(line, markup=False, soft_wrap=True)
    with contextlib.suppress(KeyboardInterrupt):
        signal.pause()
