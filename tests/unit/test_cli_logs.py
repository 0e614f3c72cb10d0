"""Logging: stderr only, one JSON object a line where asked, no passwords, no chatter."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg.conninfo import make_conninfo

from pgflo.logs import redact

CANARY = "canary4711"
PROGRAM = """
import logging, structlog, warnings
from pgflo import logs
logs.configure({settings})
{child}
log = structlog.get_logger("pgflo.test").bind(group="shop")
log.debug("fine")
log.info("told", lsn="0/1", table="public.a", count=3, error=ValueError("password=canary4711"))
logging.getLogger("nats.aio.client").debug("PUB canary4711")
logging.getLogger("other").warning("from %s", "postgres://u:canary4711@h/d")
try:
    raise ValueError("nats://u:canary4711@h")
except ValueError:
    log.exception("failed")
warnings.warn("careful", stacklevel=1)
"""


def logged(settings: str, child: str = "") -> list[str]:
    """Run the program and give the lines of its stderr; its stdout is empty."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(PROGRAM).format(settings=settings, child=child)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == ""
    return done.stderr.splitlines()


@pytest.mark.parametrize(
    "child", ["", "logs.configure_child(logs.child_payload())"], ids=["parent", "child"]
)
def test_json_lines_hold_event_level_logger_and_context(child: str) -> None:
    lines = [json.loads(line) for line in logged("'json', 'debug'", child)]
    told = lines[1]
    assert told["event"] == "told"
    assert (told["level"], told["logger"], told["group"]) == ("info", "pgflo.test", "shop")
    assert (told["lsn"], told["count"]) == ("0/1", 3)
    assert lines[0]["level"] == "debug"
    assert any("careful" in line["event"] for line in lines)
    assert "Traceback" in next(line for line in lines if line["event"] == "failed")["exception"]


@pytest.mark.parametrize("settings", ["'json', 'debug'", "'console', 'debug'", "'auto', 'debug'"])
def test_no_password_and_no_protocol_of_libraries_is_logged(settings: str) -> None:
    text = "\n".join(logged(settings))
    assert "told" in text
    assert CANARY not in text
    assert "PUB" not in text


def test_levels_hide_what_is_below() -> None:
    text = "\n".join(logged("'console', 'warning'"))
    assert "told" not in text
    assert "failed" in text


SECRETS = st.text(
    st.characters(blacklist_categories=["Cs"], blacklist_characters="\x00"), max_size=12
)


@given(SECRETS, SECRETS)
def test_no_well_formed_connection_string_keeps_its_password(before: str, after: str) -> None:
    secret = before + CANARY + after
    for text in (
        make_conninfo("host=h dbname=d", password=secret),
        f"postgresql://user:{quote(secret, safe='')}@h:5432/d?sslmode=require",
        f"postgresql://h/d?user=u&password={quote(secret, safe='')}",
        f"nats://{quote(secret, safe='')}@h:4222",
        f"nats://a:{quote(secret, safe='')}@h:4222,nats://a:{quote(secret, safe='')}@i:4222",
    ):
        assert CANARY not in redact(f"cannot use {text}, sorry")


@given(st.text(max_size=200))
def test_redacting_takes_any_text(text: str) -> None:
    redact(text)


def test_what_is_no_secret_stays() -> None:
    text = "group=shop table=public.a lsn=0/16B3748 at nats://127.0.0.1:4222 and user@host"
    assert redact(text) == text
