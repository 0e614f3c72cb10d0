"""Programs that run together: a replicator and its workers are kept alive.

Upstream: `pgflo.cli.supervised`. Downstream: `python -m pgflo …` processes, each in a session of
its own. Invariant: a program that dies by a signal or by a failure that time can heal is started
again, after growing waits; one that needs an operator, or that nobody needs any more, stops all of
them. None outlives this process: each holds one end of a socket whose other end is here
(`lifeline`).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import socket
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import structlog

from pgflo.errors import Exit, PgfloError, Retry
from pgflo.supervisor.lifeline import SUPERVISOR_FD

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from pgflo.config.settings import RetrySettings

log = structlog.get_logger("pgflo.supervisor")

STEADY_S = 60.0
"""A program that lived so long had started well: its next failure is counted as the first."""
DEFECTS_IN_A_ROW = 5
"""So many unexpected errors right after the start will not heal."""
LOOK_AGAIN_S = 1.0
REPLICATOR_AND_SINK = 2
"""Programs of a tree with a single sink."""
KILL_AFTER_S = 27.0
"""The programs themselves give up draining after 25 s."""


@dataclass(frozen=True, slots=True)
class Program:
    """A command of ours. Settings travel in `environment`, so that no secret is an argument."""

    name: str
    arguments: tuple[str, ...]
    environment: Callable[[], Awaitable[Mapping[str, str]]] = field(repr=False)
    """Asked before each start."""
    ends: bool
    """Whether ending with 0 is its aim (--once, --until, --copy)."""


@dataclass(frozen=True, slots=True)
class Ending:
    """How a program ended: its exit code (negative: the signal) and what it told."""

    code: int
    retry: Retry | None
    kind: str


class Tree:
    """Runs programs until all have ended, one has failed for good, or a stop is asked for."""

    def __init__(
        self,
        programs: list[Program],
        retry: RetrySettings,
        finished: Callable[[asyncio.Event], Awaitable[None]],
    ) -> None:
        """Take the programs; when the first of them has ended, `finished` waits for the rest.

        Once it returns the others are asked to stop.
        """
        self.programs = programs
        self.retry = retry
        self._finished = finished
        self._processes: dict[str, asyncio.subprocess.Process] = {}
        self._failed = asyncio.Event()
        self._code = int(Exit.DONE)

    async def run(self, stop: asyncio.Event) -> int:
        """Return the exit code for the whole: 0, or the code of the program that stopped it."""
        keepers = [
            asyncio.create_task(self._keep(program, stop), name=program.name)
            for program in self.programs
        ]
        everything = asyncio.gather(*keepers)
        watches: list[asyncio.Task[object]] = [
            asyncio.create_task(stop.wait()),
            asyncio.create_task(self._failed.wait()),
            asyncio.create_task(self._wait_for_the_rest(keepers[0], stop)),
        ]
        anything: list[asyncio.Future[Any]] = [everything, *watches]
        try:
            await asyncio.wait(anything, return_when=asyncio.FIRST_COMPLETED)
            if not everything.done():
                stop.set()
                self._signal(signal.SIGTERM)
                await asyncio.wait([everything], timeout=KILL_AFTER_S)
                self._signal(signal.SIGKILL)
            await everything
            if watches[-1].done():
                watches[-1].result()
        finally:
            for task in (*watches, *keepers):
                task.cancel()
            self._signal(signal.SIGKILL)
            await asyncio.gather(*watches, *keepers, everything, return_exceptions=True)
        return self._code

    async def _wait_for_the_rest(self, first: asyncio.Task[None], stop: asyncio.Event) -> None:
        await asyncio.wait([first])
        while not self._failed.is_set() and not stop.is_set():
            try:
                await self._finished(stop)
            except PgfloError as error:
                if not error.can_heal:
                    raise
                log.warning(error.detail, kind=error.kind.code, again_in_s=LOOK_AGAIN_S)
                await asyncio.sleep(LOOK_AGAIN_S)
            else:
                return

    def _signal(self, number: signal.Signals) -> None:
        for process in self._processes.values():
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(number)

    async def _keep(self, program: Program, stop: asyncio.Event) -> None:
        failures = 0
        while not stop.is_set():
            started = time.monotonic()
            ending = await self._once(program, stop)
            is_done = ending.code == Exit.DONE and ending.retry is not Retry.OPERATOR
            if stop.is_set() or (is_done and program.ends):
                self._note_late(program, ending, stop)
                return
            if time.monotonic() - started > STEADY_S:
                failures = 0
            failures += 1
            if not self._may_restart(ending, failures):
                self._give_up(program, ending)
                return
            wait_s = min(
                self.retry.initial_wait_s * 2 ** min(failures - 1, 20), self.retry.max_wait_s
            )
            wait_s *= random.uniform(0.5, 1.0)  # noqa: S311 - spreads restarts, guards nothing
            log.warning(
                "ended, starting it again",
                program=program.name,
                how=_how(ending),
                in_s=round(wait_s, 1),
            )
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), wait_s)

    def _give_up(self, program: Program, ending: Ending) -> None:
        """End all of them with this one."""
        self._failed.set()
        if ending.code == Exit.DONE and ending.retry is Retry.OPERATOR:
            # It has no use any more, and nothing failed: nobody reads its output. Where it is not
            # the only sink, others are cut short by that: no success.
            is_alone = len(self.programs) <= REPLICATOR_AND_SINK
            tell = log.info if is_alone else log.error
            tell("stopped for good, so the others stop too", program=program.name)
            self._code = int(Exit.DONE if is_alone else Exit.SINK)
            return
        log.error("stopped for good", program=program.name, exit_code=ending.code)
        self._code = ending.code if ending.code > 0 else int(Exit.INTERNAL)

    def _note_late(self, program: Program, ending: Ending, stop: asyncio.Event) -> None:
        """Keep the code of a program that failed for good while it was being stopped."""
        failed = ending.retry is Retry.OPERATOR and ending.code != Exit.DONE
        if stop.is_set() and failed and self._code == Exit.DONE:
            log.error("failed while stopping", program=program.name, exit_code=ending.code)
            self._code = ending.code if ending.code > 0 else int(Exit.INTERNAL)

    def _may_restart(self, ending: Ending, failures: int) -> bool:
        if ending.retry is Retry.OPERATOR:
            return False
        if self.retry.max_attempts and failures > self.retry.max_attempts:
            return False
        defect = ending.code > 0 and ending.code == Exit.INTERNAL
        return not (defect and failures >= DEFECTS_IN_A_ROW)

    async def _once(self, program: Program, stop: asyncio.Event) -> Ending:
        """Start the program, wait for its end, and hear what it says on the way out."""
        environment = dict(await program.environment())
        ours, theirs = socket.socketpair()
        with ours:
            with theirs:
                environment[SUPERVISOR_FD] = str(theirs.fileno())
                process = await asyncio.create_subprocess_exec(
                    sys.executable,
                    "-m",
                    "pgflo",
                    *program.arguments,
                    env=environment,
                    stdin=asyncio.subprocess.DEVNULL,
                    pass_fds=(theirs.fileno(),),
                    start_new_session=True,
                )
            self._processes[program.name] = process
            log.info("started", program=program.name, pid=process.pid)
            if stop.is_set():
                process.terminate()  # it was not there yet when the others were asked to stop
            try:
                code = await process.wait()
            finally:
                del self._processes[program.name]
            return _ending(code, ours)


def _ending(code: int, ours: socket.socket) -> Ending:
    ours.setblocking(False)
    try:
        told = ours.recv(4096).decode(errors="replace").split()
    except OSError:
        told = []
    if len(told) >= 2 and told[0] in {retry.value for retry in Retry}:
        return Ending(code, Retry(told[0]), told[1])
    # Usage errors of a version that tells nothing, and everything the kernel ends.
    silent = Retry.OPERATOR if code == Exit.USAGE else None
    return Ending(code, silent, "")


def _how(ending: Ending) -> str:
    if ending.code < 0:
        try:
            return signal.Signals(-ending.code).name
        except ValueError:
            return f"signal {-ending.code}"
    return ending.kind or f"exit {ending.code}"


def inherited_environment() -> dict[str, str]:
    """Give our own environment without the settings of options: those are given anew."""
    from pgflo.config.options import ALL

    ours = {option.env for option in ALL}
    return {name: value for name, value in os.environ.items() if name not in ours}
