"""The streams of a group: made, checked, grown, purged, removed.

Upstream: replicator (makes, grows, purges), `pgflo drop`. Downstream: JetStream's API. What is in
the streams is read by `stored`, whose names are given on from here.
Invariant: a stream never forgets by itself (limits retention, no age, `discard=new`), and every
setting we rely on is read back: older servers ignore what they do not know.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import structlog

from pgflo.broker.names import Names, stream_pattern
from pgflo.broker.stored import (
    StoredEnvelope,
    StreamState,
    envelope_at,
    is_missing,
    last_envelope,
    locate,
    stream_state,
)
from pgflo.errors import BROKER_FULL, BROKER_SETTINGS, PgfloError

if TYPE_CHECKING:
    from pgflo.broker.connection import Broker
    from pgflo.config.settings import NatsSettings

__all__ = [
    "StoredEnvelope",
    "StreamState",
    "create_streams",
    "delete_group",
    "delete_streams",
    "envelope_at",
    "grow",
    "last_envelope",
    "list_streams",
    "locate",
    "purge_through",
    "stream_state",
]

log = structlog.get_logger("pgflo.broker")

FIRST_MAX_BYTES = 1024**3
"""JetStream reserves a stream's max_bytes at once, so it starts here and doubles on demand."""

DUPLICATE_WINDOW_S = 120.0
"""JetStream's default. Within it a repeated Nats-Msg-Id is answered with the first one's sequence.
"""

OUT_OF_STORE = (10023, 10028, 10047)
"""Not enough storage: of the cluster, of the account, of the server."""


async def create_streams(
    broker: Broker,
    names: Names,
    settings: NatsSettings,
    *,
    copy: bool,
    first_max_bytes: int = FIRST_MAX_BYTES,
    duplicate_window_s: float = DUPLICATE_WINDOW_S,
) -> None:
    """Make the change stream, with `copy` the copy stream too; check those that are there.

    Raises `PgfloError`: BROKER_SETTINGS when a stream is not as it must be, BROKER_FULL when the
    server has no room to reserve.
    """
    wanted = [(names.changes_stream, names.changes_subject)]
    if copy:
        wanted.append((names.copy_stream, names.copy_subjects))
    for stream, subject in wanted:
        config = _config(names, stream, subject, settings)
        config["max_bytes"] = min(first_max_bytes, settings.stream_max_bytes)
        config["duplicate_window"] = int(duplicate_window_s * 1e9)
        info = await _info(broker, stream)
        if info is not None:
            del config["max_bytes"]  # it may have grown, under another ceiling
            _compare(stream, config, info["config"])
            continue
        try:
            info = await broker.ask(f"STREAM.CREATE.{stream}", config)
        except PgfloError as error:
            raise await _no_room(broker, error, int(config["max_bytes"]), stream) from None
        log.info("stream created", stream=stream, max_bytes=config["max_bytes"])
        _compare(stream, config, info["config"])


async def delete_streams(broker: Broker, names: Names) -> None:
    """Remove the streams of one incarnation; those that are not there are no error."""
    for stream in (names.changes_stream, names.copy_stream):
        await _delete(broker, stream)


async def delete_group(broker: Broker, group: str) -> None:
    """Remove every stream of every incarnation of `group`, and its record."""
    for stream in await list_streams(broker, group):
        await _delete(broker, stream)
    await _delete(broker, f"KV_{Names.bucket_of(group)}")


async def delete_consumers(broker: Broker, group: str, sink: str) -> None:
    """Remove what a sink reads by, in every incarnation of `group`."""
    for stream in await list_streams(broker, group):
        tail = r"_lane_\d+" if stream.endswith("_copy") else ""
        pattern = re.compile(rf"sink_{re.escape(sink)}{tail}")
        for name in await _consumers(broker, stream):
            if pattern.fullmatch(name):
                await broker.ask(f"CONSUMER.DELETE.{stream}.{name}", {})


async def _consumers(broker: Broker, stream: str) -> list[str]:
    found: list[str] = []
    while True:
        page = await broker.ask(f"CONSUMER.NAMES.{stream}", {"offset": len(found)})
        names = page.get("consumers") or []
        found += names
        if not names or len(found) >= int(page.get("total", 0)):
            return found


async def list_streams(broker: Broker, group: str) -> list[str]:
    """Name the streams of every incarnation of `group`."""
    pattern, found = stream_pattern(group), []
    offset = 0
    while True:
        page = await broker.ask("STREAM.NAMES", {"offset": offset, "subject": f"pgflo.{group}.>"})
        streams = page.get("streams") or []
        found += [name for name in streams if pattern.fullmatch(name)]
        offset += len(streams)
        if not streams or offset >= int(page.get("total", 0)):
            return found


async def grow(broker: Broker, stream: str, settings: NatsSettings) -> bool:
    """Double max_bytes, up to `settings.stream_max_bytes`; False when it is there already.

    Raises `PgfloError` (BROKER_FULL) with what is reserved and available when the server refuses.
    """
    info = await broker.ask(f"STREAM.INFO.{stream}", {})
    config = dict(info["config"])
    now = int(config["max_bytes"])
    if now >= settings.stream_max_bytes:
        return False
    config["max_bytes"] = min(2 * now, settings.stream_max_bytes)
    try:
        told = await broker.ask(f"STREAM.UPDATE.{stream}", config)
    except PgfloError as error:
        raise await _no_room(broker, error, config["max_bytes"], stream) from None
    _compare(stream, {"max_bytes": config["max_bytes"]}, told["config"])
    log.info("stream enlarged", stream=stream, max_bytes=config["max_bytes"])
    return True


async def purge_through(
    broker: Broker, stream: str, seq: int, *, subject: str | None = None
) -> None:
    """Remove what is stored up to and with `seq`, of one `subject` or of all.

    The last envelope of a change stream stays: it tells where the chain stands.
    """
    if subject is None and stream.endswith("_changes"):
        state = await stream_state(broker, stream)
        seq = min(seq, state.last_seq - 1)
        if seq < state.first_seq:
            return
    if seq < 1:
        return
    request: dict[str, Any] = {"seq": seq + 1}  # up to, not with
    if subject is not None:
        request["filter"] = subject
    await broker.ask(f"STREAM.PURGE.{stream}", request)


def _config(names: Names, stream: str, subject: str, settings: NatsSettings) -> dict[str, Any]:
    return {
        "name": stream,
        "subjects": [subject],
        "retention": "limits",
        "discard": "new",
        "storage": "file",
        "max_msgs": -1,
        "max_msgs_per_subject": -1,
        "max_msg_size": -1,
        "max_age": 0,
        "max_consumers": -1,
        "num_replicas": settings.stream_replicas,
        "allow_direct": True,
        "metadata": {"pgflo_group": names.group, "pgflo_incarnation": str(names.incarnation)},
    }


def _compare(stream: str, wanted: dict[str, Any], found: dict[str, Any]) -> None:
    """Raise BROKER_SETTINGS naming what differs."""
    wrong = []
    for key, value in wanted.items():
        is_there = found.get(key)
        if key == "metadata":
            is_there = {name: (is_there or {}).get(name) for name in value}
        # The server leaves out what is at its zero value.
        if is_there != value and not (is_there is None and not value):
            wrong.append(f"{key} is {is_there!r}, not {value!r}")
    if int(found.get("max_bytes", -1)) <= 0:
        wrong.append("max_bytes has no limit")
    if found.get("sealed") or found.get("mirror") or found.get("sources"):
        wrong.append("it is sealed, or fed from another stream")
    if wrong:
        raise PgfloError(BROKER_SETTINGS, f"stream {stream}: {'; '.join(wrong)}", stream=stream)


async def _info(broker: Broker, stream: str) -> dict[str, Any] | None:
    try:
        return await broker.ask(f"STREAM.INFO.{stream}", {})
    except PgfloError as error:
        if is_missing(error):
            return None
        raise


async def _delete(broker: Broker, stream: str) -> None:
    try:
        await broker.ask(f"STREAM.DELETE.{stream}", {})
    except PgfloError as error:
        if not is_missing(error):
            raise


async def _no_room(broker: Broker, error: PgfloError, max_bytes: int, stream: str) -> PgfloError:
    """Tell more about a refusal that is for want of storage."""
    if error.context.get("err_code") not in OUT_OF_STORE:
        return error
    account = await broker.ask("INFO", {})
    reserved = int(account.get("reserved_storage", 0))
    limit = int(account.get("limits", {}).get("max_storage", -1))
    room = f"{limit - reserved} of {limit}" if limit >= 0 else "fewer"
    return PgfloError(
        BROKER_FULL,
        f"the server cannot reserve {max_bytes} bytes for {stream}: the account's streams reserve "
        f"{reserved} bytes, {room} bytes are left",
        stream=stream,
        max_bytes=max_bytes,
        reserved_bytes=reserved,
    )
