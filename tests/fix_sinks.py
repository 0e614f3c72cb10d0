"""Fixture `any_sink`: each kind of sink, run by the command a user types, and what it brought.

Neighbours: `fix_stream` takes the replicator's place. Downstream: the conformance suite.
Invariant: what a sink brought is read where its users read it: the output, the manifest's files,
the bodies that the receiver answered with 200, the destination's tables.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
from psycopg import sql
from tests.fix_pipeline import eventually

from pgflo.sinks.file import manifest
from pgflo.sinks.file.part import read as read_part

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.fix_postgres import Database
    from tests.fix_stream import Stream

Event = dict[str, Any]
Rows = dict[str, dict[str, Any]]
LIMIT_S = 60.0


def parse(line: bytes | str) -> Event:
    """Read an event with its numbers as they were written."""
    event: Event = json.loads(line, parse_float=Decimal, parse_int=Decimal)
    return event


def parse_all(array: bytes) -> list[Event]:
    """Read an array of events."""
    events: list[Event] = json.loads(array, parse_float=Decimal, parse_int=Decimal)
    return events


def fold(events: list[Event], table: str) -> Rows:
    """Give the rows that a table has after these events, by key."""
    rows: Rows = {}
    for event in events:
        if event["table"] != table:
            continue
        if event["op"] == "truncate":
            rows.clear()
            continue
        key = str(event["key"])
        before: dict[str, Any] = {}
        if event["op"] == "insert":
            assert key not in rows, f"{event['id']} is there already"
        else:
            former: dict[str, Any] = event.get("old") or event["key"]
            before = rows.pop(str({name: former[name] for name in event["key"]}))
        if event["op"] != "delete":
            rows[key] = event["new"] | {name: before[name] for name in event.get("unchanged", [])}
    return rows


def source_rows(database: Database, table: str, key: str = "id") -> Rows:
    """Give the rows of a table as the server prints them, by key."""
    query = sql.SQL("SELECT to_jsonb(t)::text FROM {} t").format(sql.Identifier(table))
    rows = [parse(text) for (text,) in database.rows(query)]
    return {str({key: row[key]}): row for row in rows}


class AnySink:
    """A sink of one kind."""

    kind: ClassVar[str]
    is_exact: ClassVar[bool]
    """Whether a change comes once whatever happens."""

    def __init__(self, stream: Stream, directory: Path) -> None:
        self.stream = stream
        self.directory = directory
        self.log = directory / "worker.log"
        self.flags: list[str] = []
        self.settings: dict[str, str] = {}
        """Further variables of its environment."""
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self, *flags: str) -> subprocess.Popen[bytes]:
        """Start a worker that goes on for ever, or as the flags say."""
        clean = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
        with self.log.open("ab") as log, self.output() as stdout:
            process = subprocess.Popen(
                [sys.executable, "-m", "pgflo", "worker", self.kind, *self.flags, *flags],
                env={
                    **clean,
                    "PG_FLO_GROUP": self.stream.record.group_name,
                    "PG_FLO_NATS_URL": self.stream.broker.settings.url or "",
                    "PG_FLO_STATE_DIR": str(self.directory / "state"),
                    "PG_FLO_RETRY_INITIAL_WAIT": "20ms",
                    "PG_FLO_RETRY_MAX_WAIT": "100ms",
                    "PG_FLO_LOG_FORMAT": "json",
                    **self.settings,
                    **self.environment(),
                },
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=log,
            )
        self.processes.append(process)
        return process

    def run(self, *flags: str) -> int:
        """Run until everything that is in the broker is there; give the exit code."""
        return self.start("--once", *flags).wait(LIMIT_S)

    def output(self) -> Any:  # noqa: ANN401 - a file object
        """Where its standard output goes."""
        return (self.directory / "out.jsonl").open("ab")

    def environment(self) -> dict[str, str]:
        """Further settings."""
        return {}

    def events(self) -> list[Event]:
        """Give what it brought, in the order in which it came."""
        raise NotImplementedError

    def rows(self, table: str, key: str = "id") -> Rows:  # noqa: ARG002 - events tell their key
        """Give the rows that a table has for whoever reads the sink; repeats are dropped by id."""
        first: dict[str, Event] = {}
        for event in self.events():
            known = first.setdefault(event["id"], event)
            assert known == event, "the same id, another event"
        return fold(list(first.values()), table)

    def seen(self) -> bool:
        """Whether anything has come."""
        return bool(self.events())

    def spread(self, number: int) -> dict[str, str]:
        """Give settings by which so many things are done side by side, where the kind can."""
        return {"PG_FLO_SHARDS": str(number), "PG_FLO_WEBHOOK_CONCURRENCY": str(number)}

    def refusing(self) -> contextlib.AbstractContextManager[None]:
        """Have whatever comes of table `t` refused inside."""
        raise NotImplementedError

    def failure(self) -> Event:
        """Give the error that the last run ended with."""
        lines = [line for line in self.log.read_text().splitlines() if '"event": "error"' in line]
        return parse(lines[-1])

    def tail(self) -> str:
        """End of the worker's log."""
        return self.log.read_text(errors="replace")[-3000:]

    def stop(self) -> None:
        """End whatever still runs."""
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.wait()


class ToPostgres(AnySink):
    """Tables."""

    kind = "postgres"
    is_exact = True

    def environment(self) -> dict[str, str]:
        """Name the destination."""
        return {"PG_FLO_TARGET": self.stream.target.dsn}

    def rows(self, table: str, key: str = "id") -> Rows:
        """Read the table."""
        return source_rows(self.stream.target, table, key)

    def seen(self) -> bool:
        """Whether any table has rows."""
        query = "SELECT count(*) FROM pgflo.progress WHERE ordinal > 0"
        target = self.stream.target
        exists = target.value("SELECT to_regclass('pgflo.progress') IS NOT NULL")
        return bool(exists and target.value(query))

    @contextlib.contextmanager
    def refusing(self) -> Iterator[None]:
        """By a constraint."""
        self.stream.target.execute("ALTER TABLE t ADD CONSTRAINT no CHECK (false) NOT VALID")
        yield
        self.stream.target.execute("ALTER TABLE t DROP CONSTRAINT no")


class ToStdout(AnySink):
    """Lines."""

    kind = "stdout"
    is_exact = False

    def events(self) -> list[Event]:
        """Read the output; a crash may cut its last line."""
        lines = (self.directory / "out.jsonl").read_bytes().splitlines(keepends=True)
        return [parse(line) for line in lines if line.endswith(b"}\n")]

    @contextlib.contextmanager
    def refusing(self) -> Iterator[None]:
        """By a device that is always full."""
        out = self.directory / "out.jsonl"
        out.symlink_to("/dev/full")
        yield
        out.unlink()


class ToFile(AnySink):
    """Files."""

    kind = "file"
    is_exact = True

    def __init__(self, stream: Stream, directory: Path) -> None:
        super().__init__(stream, directory)
        self.files = directory / "files"
        self.flags = ["--file-output-dir", str(self.files)]

    def events(self) -> list[Event]:
        """Read what the manifest says."""
        return committed(self.files)

    @contextlib.contextmanager
    def refusing(self) -> Iterator[None]:
        """By a directory where the next file should be: no permission keeps root from writing."""
        incarnation = self.stream.changes.incarnation.hex[:8]
        in_the_way = self.files / f"g-{incarnation}-0000000001.jsonl.part"
        in_the_way.mkdir(parents=True)
        yield
        in_the_way.rmdir()


class ToWebhook(AnySink):
    """Requests."""

    kind = "webhook"
    is_exact = False

    def __init__(self, stream: Stream, directory: Path) -> None:
        super().__init__(stream, directory)
        self.receiver = Receiver()
        self.flags = ["--webhook-url", self.receiver.url]

    def events(self) -> list[Event]:
        """Read what was taken."""
        return self.receiver.events()

    @contextlib.contextmanager
    def refusing(self) -> Iterator[None]:
        """By an answer."""
        self.receiver.answers = [status(400, b"no")]
        yield

    def stop(self) -> None:
        """End the receiver as well."""
        super().stop()
        self.receiver.close()


KINDS: dict[str, type[AnySink]] = {
    kind.kind: kind for kind in (ToPostgres, ToStdout, ToFile, ToWebhook)
}


def committed(directory: Path) -> list[Event]:
    """Give the events of all files of a sink, as far as its manifest says that they count."""
    found: list[Event] = []
    for path in sorted(directory.glob("*.manifest.jsonl")):
        lines = path.read_bytes().splitlines(keepends=True)
        last = {}
        for entry in filter(None, map(manifest.decode, lines)):
            if entry.file is not None:
                last[entry.file] = entry
        for name, entry in sorted(last.items()):
            file = directory / name
            lines = read_part(file if file.exists() else directory / f"{name}.part").splitlines()
            found += map(parse, lines[: entry.rows])
    return found


class Receiver:
    """An HTTP server that does as it is told, and keeps what it took."""

    def __init__(self) -> None:
        self.taken: list[tuple[str, bytes]] = []
        """Id and body of each request that was answered by 200."""
        self.seen: list[tuple[str, bytes, dict[str, str]]] = []
        """Of each that came, with its headers."""
        self.answers: list[Callable[[Handler], None]] = []
        """For the next requests; none left: take it."""
        self.lock = threading.Lock()
        self.released = threading.Event()
        """Lets answers go on that hang."""
        receiver = self

        class Bound(Handler):
            """A handler that knows its receiver."""

        Bound.receiver = receiver
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Bound)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/hook"

    def events(self) -> list[Event]:
        """Give what was taken."""
        with self.lock:
            bodies = [body for _, body in self.taken]
        # One event is an object, several are an array.
        arrays = [body if body.startswith(b"[") else b"[" + body + b"]" for body in bodies]
        return [event for body in arrays for event in parse_all(body)]

    def close(self) -> None:
        """End it."""
        self.released.set()
        self._server.shutdown()
        self._server.server_close()


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    receiver: ClassVar[Receiver]

    def do_POST(self) -> None:
        """Take a request, or do with it what is next."""
        body = self.rfile.read(int(self.headers["content-length"]))
        receiver = self.receiver
        with receiver.lock:
            identity = self.headers["webhook-id"]
            receiver.seen.append((identity, body, dict(self.headers.items())))
            answer = receiver.answers.pop(0) if receiver.answers else take
        self.identity, self.body = identity, body
        answer(self)

    def answer(self, status: int, text: bytes = b"", **headers: str) -> None:
        """Send an answer."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
        """Say nothing."""


def take(handler: Handler) -> None:
    """Take it."""
    with handler.receiver.lock:
        handler.receiver.taken.append((handler.identity, handler.body))
    handler.answer(200)


def status(code: int, text: bytes = b"", **headers: str) -> Callable[[Handler], None]:
    """Answer by a status."""
    return lambda handler: handler.answer(code, text, **headers)


def hang(handler: Handler) -> None:
    """Answer nothing until released."""
    handler.receiver.released.wait(LIMIT_S)
    handler.close_connection = True


def cut(handler: Handler) -> None:
    """Close in the middle of the answer's head."""
    handler.wfile.write(b"HTTP/1.1 20")
    handler.close_connection = True


@pytest.fixture(params=list(KINDS))
def any_sink(stream: Stream, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[AnySink]:
    """Give each kind of sink."""
    yield from _made(KINDS[request.param](stream, tmp_path))


@pytest.fixture
def to_file(stream: Stream, tmp_path: Path) -> Iterator[ToFile]:
    """Give a file sink."""
    for made in _made(ToFile(stream, tmp_path)):
        assert isinstance(made, ToFile)
        yield made


@pytest.fixture
def to_webhook(stream: Stream, tmp_path: Path) -> Iterator[ToWebhook]:
    """Give a webhook sink."""
    for made in _made(ToWebhook(stream, tmp_path)):
        assert isinstance(made, ToWebhook)
        yield made


@pytest.fixture
def to_stdout(stream: Stream, tmp_path: Path) -> Iterator[ToStdout]:
    """Give a stdout sink."""
    for made in _made(ToStdout(stream, tmp_path)):
        assert isinstance(made, ToStdout)
        yield made


def _made(made: AnySink) -> Iterator[AnySink]:
    yield made
    made.stop()
    if made.log.exists():
        print(f"--- {made.kind}\n{made.tail()}")  # noqa: T201


def wait_for(question: Callable[[], bool], what: str) -> None:
    """Wait until the answer is yes."""
    eventually(question, what, limit_s=LIMIT_S)


def wait_end(process: subprocess.Popen[bytes]) -> int:
    """Wait for the end; give the exit code."""
    ends_at = time.monotonic() + LIMIT_S
    return process.wait(ends_at - time.monotonic())
