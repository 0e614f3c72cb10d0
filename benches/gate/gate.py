"""Fails when a hot path of the Rust core executes more instructions than it used to.

Upstream: `make bench-gate`. Downstream: the benches in benches/rust, run once each under callgrind,
which counts the same on a busy machine as on an idle one; and `baseline.json` beside this file.
Counts compare only between equal tools, so they are recorded per key (compiler, target, C library,
valgrind). For a key without counts, and before anything is called a regression, the commit that
last changed the baseline is built and measured here, in the same run, and is what counts.
Invariant: nothing is recorded but by `--accept`; what could not be compared is said.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterator

Counts: TypeAlias = dict[str, int]
"""Instructions by bench."""

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
BASELINE = HERE / "baseline.json"
TOOLS = ROOT / ".tools"
TARGET = ROOT / "target" / "gate"
PACKAGE = "pgflo-core"
AS_JSON = "--output-format=json"
LIMIT = 1.05
"""Five in a hundred: above what a move of unrelated code does (1 in 100)."""
MUST_RUN = bool(os.environ.get("CI"))


class GateError(Exception):
    """The gate cannot do its work; the text says what to do about it."""


def say(text: str) -> None:
    """Tell something at once: builds take a while."""
    print(text, flush=True)


def output_of(*command: str, cwd: Path = ROOT) -> str:
    """Return what a command prints. Raises `GateError` with its complaints."""
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise GateError(f"`{' '.join(command)}` failed:\n{done.stderr[-4000:]}")
    return done.stdout.strip()


def key() -> str:
    """Name everything outside of this repository that moves the counts."""
    rustc = output_of("rustc", "-vV")
    version = rustc.splitlines()[0]
    host = re.search(r"^host: (.*)$", rustc, re.MULTILINE)
    libc = "-".join(platform.libc_ver())
    return f"{version}; {host[1] if host else '?'}; {libc}; {output_of('valgrind', '--version')}"


def runner() -> Path:
    """Return the runner that fits the locked gungraun; install it if it is missing."""
    lock = (ROOT / "Cargo.lock").read_text()
    found = re.search(r'name = "gungraun"\nversion = "([^"]+)"', lock)
    if found is None:
        raise GateError("Cargo.lock does not name gungraun: the benches are not part of the build")
    binary = TOOLS / "bin" / "gungraun-runner"
    wanted = f"gungraun-runner {found[1]}"
    if not binary.exists() or output_of(str(binary), "--version") != wanted:
        say(f"installing {wanted} into .tools")
        output_of(
            *("cargo", "install", "--quiet", "--locked", "--root", str(TOOLS)),
            # Unoptimised, in half the time: it only starts valgrind and reads what that wrote.
            *("--debug", "--config", "profile.dev.debug=false"),
            *("--force", "--version", f"={found[1]}", "gungraun-runner"),
        )
    return binary


def benches(checkout: Path) -> list[str]:
    """List the bench targets of the core in a checkout; empty for a commit that has none."""
    metadata = json.loads(
        output_of("cargo", "metadata", "--no-deps", "--format-version=1", "--locked", cwd=checkout)
    )
    return [
        target["name"]
        for package in metadata["packages"]
        if package["name"] == PACKAGE
        for target in package["targets"]
        if target["kind"] == ["bench"]
    ]


def measure(checkout: Path) -> Counts:
    """Build and run all benches of a checkout. Once built it takes about a second per bench."""
    names = benches(checkout)
    if not names:
        return {}
    chosen = [word for name in names for word in ("--bench", name)]
    with tempfile.TemporaryDirectory(prefix="pgflo-gate-") as fresh:
        environment = {
            **os.environ,
            "CARGO_TARGET_DIR": str(TARGET / ("here" if checkout == ROOT else "reference")),
            "GUNGRAUN_RUNNER": str(runner()),
            # A home of its own: results of former runs would be mixed into the answer.
            "GUNGRAUN_HOME": fresh,
        }
        done = subprocess.run(
            # Everything behind `--` is read by the runner.
            [*["cargo", "bench", "--quiet", "--locked", "-p"], PACKAGE, *chosen, "--", AS_JSON],
            cwd=checkout,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode != 0:
        raise GateError(f"the benches in {checkout} failed:\n{done.stderr[-4000:]}")
    return dict(map(count_of, filter(None, done.stdout.splitlines())))


def count_of(line: str) -> tuple[str, int]:
    """Read one line of the runner's JSON: the bench's name and its instructions."""
    summary = json.loads(line)
    name = f"{summary['function_name']}/{summary['id'] or ''}".rstrip("/")
    instructions = summary["profiles"][0]["data"]["total"]["metrics"]["Ir"]["values"]["new"]
    return name, int(instructions)


def recorded() -> dict[str, Counts]:
    """Read the baseline: counts by key."""
    counts: dict[str, Counts] = json.loads(BASELINE.read_text()) if BASELINE.exists() else {}
    return counts


def record(found: Counts) -> None:
    """Make what was measured the baseline. Counts of other keys end: they counted other code."""
    BASELINE.write_text(json.dumps({key(): found}, indent=2, sort_keys=True) + "\n")
    say(f"{BASELINE.relative_to(ROOT)} has {len(found)} benches; commit it with the change")


def reference_commit() -> str | None:
    """Name the commit whose code the baseline counted, or HEAD~1 if that is HEAD itself.

    None where the history does not reach it: a first commit, a shallow clone, no repository.
    """
    try:
        head = output_of("git", "rev-parse", "HEAD")
        last = output_of("git", "log", "-1", "--format=%H", "--", str(BASELINE))
        if last and last != head:
            return last
        return output_of("git", "rev-parse", "--verify", "HEAD~1")
    except (GateError, FileNotFoundError):
        return None


@contextmanager
def checkout_of(commit: str) -> Iterator[Path]:
    """Give the files of that commit in a directory that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="pgflo-reference-") as directory:
        archive = Path(directory) / "files.tar"
        # Not a work tree: that would leave its name in .git when this process is killed.
        output_of("git", "archive", f"--output={archive}", commit)
        with tarfile.open(archive) as files:
            files.extractall(Path(directory) / "tree", filter="data")
        yield Path(directory) / "tree"


def reference(commit: str) -> Counts | None:
    """Measure that commit with the tools of today; None, and said so, if it cannot be."""
    say(f"building commit {commit[:12]} for comparison in this run")
    try:
        with checkout_of(commit) as tree:
            counts = measure(tree)
    except GateError as error:
        if MUST_RUN:
            raise
        say(f"commit {commit[:12]} cannot be measured: {error}")
        return None
    if not counts:
        say(f"commit {commit[:12]} has no benches: nothing to compare with")
    return counts


def regressions(found: Counts, before: Counts) -> list[str]:
    """Print the comparison; return what went over the limit."""
    over = []
    for name, count in sorted(found.items()):
        was = before.get(name)
        if was is None:
            say(f"  {name:44} {count:>13,}  new")
            continue
        say(f"  {name:44} {count:>13,}  was {was:>13,}  {100 * (count / was - 1):+6.2f} %")
        if count > was * LIMIT:
            over.append(f"{name}: {was:,} instructions became {count:,}")
    over += [
        f"{name}: {was:,} instructions, and now the bench is gone"
        for name, was in sorted(before.items())
        if name not in found
    ]
    return over


def gate() -> int:
    """Compare; return the exit code."""
    found = measure(ROOT)
    before = recorded().get(key())
    over: list[str] = []
    if before is not None:
        over = regressions(found, before)
        if not over:
            return 0
        say("over the recorded counts; measuring their commit on this machine")
    commit = reference_commit()
    if commit is None and before is None:
        say(f"no counts are recorded for {key()!r}, and no former commit is here to compare with:")
        say("\n".join(f"  {name:44} {count:>13,}" for name, count in sorted(found.items())))
        return 0
    if commit is not None:
        measured = reference(commit)
        if measured is not None:
            over = regressions(found, measured)
    for line in over:
        say(f"SLOWER by more than {100 * (LIMIT - 1):.0f} %: {line}")
    if over:
        say("If that is wanted: python benches/gate/gate.py --accept, and say why in the commit.")
    return 1 if over else 0


def main() -> int:
    """Run the gate, or record what it finds; return the exit code."""
    parser = argparse.ArgumentParser(description="compare instruction counts with the baseline")
    parser.add_argument("--accept", action="store_true", help="record the present counts")
    accept = parser.parse_args().accept
    if shutil.which("valgrind") is None:
        say("valgrind is missing: instruction counts were not compared (apt-get install valgrind)")
        return 1 if MUST_RUN or accept else 0
    try:
        if accept:
            record(measure(ROOT))
            return 0
        return gate()
    except GateError as error:
        say(str(error))
        return 1


if __name__ == "__main__":
    sys.exit(main())
