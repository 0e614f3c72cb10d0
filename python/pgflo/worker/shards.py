"""The writer processes of a worker's life, and what each of them has been told and has committed.

Upstream: `spreading` decides what goes to which shard, `dispatcher` when. Downstream: one `writer`
per shard, through its pipe.
Invariants: a shard is told its steps in order; an epoch is under way until every shard that has
part in it has answered; what is called reached is committed by all shards.

Steps that commit carry the position at which the shard's row will stand. A shard without changes is
told nothing, and falls behind without missing anything: `level` moves its row along. A source
transaction larger than an epoch stays open in each shard that has part in it, unless one of them is
stuck. A barrier is a step of one writer that moves every row; the others are told before their next
step.
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections import deque
from typing import TYPE_CHECKING, NoReturn

from pgflo import errors
from pgflo.errors import PgfloError
from pgflo.supervisor.race import first_of
from pgflo.worker import writer
from pgflo.worker.child import Child
from pgflo.worker.messages import Done, Moved, Ready, Slice, Step, encode
from pgflo.worker.shard import Epoch, Mark, Reached, Sent, Shard, mark_of

if TYPE_CHECKING:
    import uuid
    from collections.abc import Callable, Collection, Sequence

    from pgflo.sinks.contract import Progress, Ruled, Sink
    from pgflo.worker.epochs import Cut
    from pgflo.worker.messages import Row

LEVEL_S = 0.5
"""How long the row of a shard without changes stays behind. A commit each, so not with every epoch:
that would be most of the work when many small epochs touch one shard each."""


STUCK_S = 5.0
"""How long an epoch may be under way before shards that wait for it let their locks go. Somebody's
ALTER TABLE may stand between two of them: behind the locks of one, before those of the other."""


class Shards:
    """All shards of a sink. `start` makes the writers of some; `close` ends them."""

    def __init__(
        self,
        to: Sink,
        incarnation: uuid.UUID,
        rows: Sequence[Progress],
    ) -> None:
        """`rows` are all there are, as they were taken."""
        self.to = to
        self._incarnation = incarnation
        self.all: list[Shard] = []
        for row in rows:
            mark = Mark(row.position, row.end_lsn)
            self.all.append(Shard(row.shard, row.fence, mark, mark, mark))
        self.under_way: deque[Epoch] = deque()
        """The oldest first."""
        self.reached = self._least()
        self.last = self.reached
        """Where what has been sent ends."""
        self.on_answer: Callable[[], None] = lambda: None
        """Called whenever a writer has answered."""
        self.on_reached: Callable[[Reached], None] = lambda _: None
        """Called when all shards have committed more."""
        self.on_rules: Callable[[Sequence[Ruled]], None] = lambda _: None
        """Called with what rules did in a transaction that was committed."""
        self.on_moved: Callable[[], None] = lambda: None
        """Called when rows of some shards have moved."""
        self._closed = self.reached
        """The same, but where no transaction is open."""
        self._trail: deque[tuple[Mark, int, int]] = deque()
        """Where epochs end, not reached yet: with stream sequence and commit time."""
        self._changes = 0
        self._answered = asyncio.Event()
        self._is_closing = False

    async def start(self, numbers: Collection[int]) -> None:
        """Start these writers; they take their rows. Raises `PgfloError` if one cannot."""
        begun: list[asyncio.Future[Ready]] = []
        for shard in (self.all[number] for number in numbers):
            ready: asyncio.Future[Ready] = asyncio.get_running_loop().create_future()
            begun.append(ready)
            shard.busy_since = time.monotonic()
            shard.is_starting = True
            shard.child = await Child.start(
                f"writer {shard.number}",
                writer.main,
                self.to,
                shard.number,
                on_message=functools.partial(self._on_message, shard, ready),
            )
        for number, ready in zip(numbers, begun, strict=True):
            self._take(self.all[number], await first_of(_result(ready), self.failed()))
        self.reached = self.last = self._closed = self._least()

    # --- what the dispatcher asks

    @property
    def has_open(self) -> bool:
        """Whether a transaction is begun whose end was not sent yet."""
        return any(shard.is_open for shard in self.all)

    @property
    def is_idle(self) -> bool:
        """Whether everything sent is answered."""
        return not any(shard.queue for shard in self.all)

    @property
    def is_level(self) -> bool:
        """Whether all rows stand at one position."""
        return len({shard.stored.position for shard in self.all}) == 1

    @property
    def stored(self) -> list[Mark]:
        """Where each shard's row stands."""
        return [shard.stored for shard in self.all]

    async def failed(self) -> NoReturn:
        """Raise what ended a writer, as soon as one has ended."""
        failures = [shard.child.failure for shard in self.all if shard.child is not None]
        done, _ = await asyncio.wait(failures, return_when=asyncio.FIRST_COMPLETED)
        raise done.pop().result()

    async def wait_idle(self) -> None:
        """Wait until everything sent is answered."""
        while not self.is_idle:
            self._answered.clear()
            await self._answered.wait()

    def busy_s(self) -> float:
        """Give how long the slowest writer has left us without an answer; 0 if none owes one."""
        busy = [shard.busy_since for shard in self.all if shard.queue or shard.is_starting]
        return time.monotonic() - min(busy) if busy else 0.0

    async def keep_level(self) -> NoReturn:
        """Move rows along that have fallen behind, again and again."""
        while True:
            await asyncio.sleep(LEVEL_S)
            await self.level()

    async def level(self) -> None:
        """Move rows along whose shards have nothing to do.

        Commits inside a source transaction where another shard cannot go on.
        """
        if self._is_closing:
            return
        waiting = [shard for shard in self.all if not shard.queue]
        behind = [shard for shard in waiting if not shard.is_open and shard.sent < self._closed]
        sends = [self._nothing(shard, self._closed) for shard in behind]
        if self.under_way and self.busy_s() > STUCK_S:
            sends += [self._nothing(shard, self.last) for shard in waiting if shard.is_open]
        await _together(sends)

    async def close(self) -> None:
        """End the writers; what is not committed is rolled back."""
        at_once = not self.is_idle
        await asyncio.sleep(0)  # sends that are booked begin
        children = [shard.child for shard in self.all if shard.child is not None]
        await asyncio.gather(*(child.close(at_once=at_once) for child in children))

    # --- what is sent

    async def whole(self, cut: Cut) -> None:
        """Send an epoch as it came to the only shard."""
        (shard,) = self.all
        envelopes = [envelope for unit in cut.units for envelope in unit.envelopes]
        head = Step(len(envelopes), cut.commits)
        epoch = self._begin(cut, 1)
        await _together([self._post(shard, [encode(head), *envelopes], epoch, commits=cut.commits)])

    async def slices(self, cut: Cut, prev: tuple[int, int], bodies: Sequence[bytes | None]) -> None:
        """Send an epoch in slices that begin at `prev`: one to each shard with changes in it."""
        await self._wait_barriers()
        taking = [
            (shard, body)
            for shard, body in zip(self.all, bodies, strict=True)
            if body is not None or (cut.commits and shard.is_open)
        ]
        epoch = self._begin(cut, len(taking))
        sends = []
        for shard, body in taking:
            frames = [] if body is None else [body]
            head = Slice(prev, self.last.position, self.last.end_lsn, cut.commits, body is not None)
            sends.append(self._post(shard, [encode(head), *frames], epoch, commits=cut.commits))
        await _together(sends)

    async def barrier(self, cut: Cut, assignment: str = "") -> None:
        """Send an epoch as it came to the first shard, which moves all rows with it."""
        first = self.all[0]
        if not any(len(sent.moved) > 1 for sent in first.queue):
            await self._commit_all()
        envelopes = [envelope for unit in cut.units for envelope in unit.envelopes]
        others = self.all[1:]
        head = Step(len(envelopes), True, _rows(others), assignment)
        epoch = self._begin(cut, 1)
        frames = [encode(head), *envelopes]
        await _together([self._post(first, frames, epoch, commits=True, others=others)])

    async def gathered(
        self, cut: Cut, prev: tuple[int, int], body: bytes | None, shard: Shard
    ) -> None:
        """Send to one shard what several lack; it moves the rows of all that are behind."""
        mark = mark_of(cut.last)
        behind = [other for other in self.all if other is not shard and other.sent < mark]
        head = Slice(prev, mark.position, mark.end_lsn, True, body is not None, _rows(behind))
        epoch = self._begin(cut, 1)
        frames = [encode(head)] if body is None else [encode(head), body]
        await _together([self._post(shard, frames, epoch, commits=True, others=behind)])

    async def _commit_all(self) -> None:
        """Have everything committed, also inside a source transaction; the first row is level."""
        self._is_closing = True  # nothing else may begin meanwhile
        try:
            await _together(
                [
                    self._nothing(shard, self.last)
                    for shard in self.all
                    if shard.is_open or (shard.number == 0 and shard.sent != self.last)
                ]
            )
            await self.wait_idle()
        finally:
            self._is_closing = False

    async def _wait_barriers(self) -> None:
        while any(len(sent.moved) > 1 for sent in self.all[0].queue):
            self._answered.clear()
            await self._answered.wait()

    def _nothing(self, shard: Shard, mark: Mark) -> asyncio.Future[None]:
        """End its transaction; move its row to `mark`, up to where it has no further change."""
        head = Slice(shard.sent.position, mark.position, mark.end_lsn, commits=True, has_body=False)
        return self._post(shard, [encode(head)], None, commits=True, mark=mark)

    def _begin(self, cut: Cut, waiting: int) -> Epoch:
        self.last = mark_of(cut.last)
        if not cut.last.transaction_open:
            self._closed = self.last
        self._trail.append((self.last, cut.units[-1].seq, cut.commit_time_us))
        epoch = Epoch(cut.last, waiting)
        if waiting:
            self.under_way.append(epoch)
        return epoch

    def _post(
        self,
        shard: Shard,
        frames: list[bytes],
        epoch: Epoch | None,
        *,
        commits: bool,
        others: Sequence[Shard] = (),
        mark: Mark | None = None,
    ) -> asyncio.Future[None]:
        """Book a step at once, and send it."""
        child = shard.child
        if child is None:
            message = f"shard {shard.number} has no writer"
            raise RuntimeError(message)
        to = self.last if mark is None else mark
        if shard.told != shard.sent:
            moved = Moved(*shard.sent.position, shard.sent.end_lsn)
            frames.insert(0, encode(moved))
        is_waiting = not shard.queue
        if is_waiting:
            shard.busy_since = time.monotonic()
        shard.is_open = not commits
        if commits:
            shard.told = to
            for each in (shard, *others):
                each.sent = to
        else:
            shard.told = shard.sent
        shard.queue.append(Sent(epoch, to, (shard, *others) if commits else ()))
        return asyncio.ensure_future(child.send(frames, is_waiting=is_waiting))

    # --- what is answered

    def _on_message(
        self, shard: Shard, ready: asyncio.Future[Ready], message: Ready | Done
    ) -> None:
        if isinstance(message, Ready):
            if not ready.done():
                ready.set_result(message)
            return
        sent = shard.queue.popleft()
        shard.busy_since = time.monotonic()
        self._changes += message.changes
        self.on_rules(message.rules)
        for each in sent.moved:
            each.stored = sent.mark
        if sent.epoch is not None:
            sent.epoch.waiting -= 1
        while self.under_way and not self.under_way[0].waiting:
            self.under_way.popleft()
        self._answered.set()
        if sent.moved:
            self.on_moved()
            self._tell_reached()
        self.on_answer()

    def _tell_reached(self) -> None:
        self.reached = self._least()
        seq = commit_time_us = 0
        while self._trail:
            mark, last_seq, time_us = self._trail[0]
            if mark.position > self.reached.position or mark.end_lsn > self.reached.end_lsn:
                break
            seq, commit_time_us = last_seq, max(commit_time_us, time_us)
            self._trail.popleft()
        if seq:
            changes, self._changes = self._changes, 0
            self.on_reached(Reached(self.reached, seq, commit_time_us, changes))

    def _least(self) -> Mark:
        return Mark(
            min(shard.stored.position for shard in self.all),
            min(shard.stored.end_lsn for shard in self.all),
        )

    def _take(self, shard: Shard, ready: Ready) -> None:
        if ready.incarnation != str(self._incarnation):
            raise PgfloError(
                errors.GROUP_SUPERSEDED, "another worker has begun another incarnation here"
            )
        shard.is_starting = False
        shard.fence = ready.fence
        shard.stored = shard.sent = shard.told = Mark(
            (ready.commit_lsn, ready.ordinal), ready.end_lsn
        )


def _rows(shards: Sequence[Shard]) -> list[Row]:
    return [(shard.number, shard.fence, *shard.sent.position) for shard in shards]


async def _together(sends: Sequence[asyncio.Future[None]]) -> None:
    # What is booked is sent, also when nobody waits for it any more.
    await asyncio.gather(*map(asyncio.shield, sends))


async def _result(future: asyncio.Future[Ready]) -> Ready:
    return await future
