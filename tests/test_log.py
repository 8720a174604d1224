"""The log: one line of JSON whatever a visitor entered, and a configuration that the standard library takes."""

import asyncio
import json
import logging
import logging.config
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from cityweb import log
from cityweb.log import JSONLines
from tests.conftest import TOP


def formatted(message: str = "added", *arguments: object, **more: Any) -> str:
    """A record as the log shows it."""
    exc_info = more.pop("exc_info", None)
    logger = logging.getLogger("cityweb")
    return JSONLines().format(
        logger.makeRecord("cityweb", logging.INFO, "x.py", 1, message, arguments, exc_info, extra=more)
    )


def read(line: str) -> dict[str, Any]:
    members: dict[str, Any] = json.loads(line)
    return members


def test_a_line_says_when_how_grave_where_and_what() -> None:
    record = logging.LogRecord("cityweb", logging.WARNING, "x.py", 1, "added", (), None)
    record.created = 1_700_000_000.25
    assert read(JSONLines().format(record)) == {
        "time": "2023-11-14T22:13:20.250+00:00",
        "level": "warning",
        "logger": "cityweb",
        "message": "added",
    }


ENTERED = [
    "Zürich", 'a "quoted" name', "two\nlines", "two\r\nlines", "a\u2028b\u2029c\x85d", "\x00\x1b[31mred\x07",
    "\ud800", "\\n", "100 %s %d %(name)s", "{name}", '", "level": "critical', "",
]  # fmt: skip


@pytest.mark.parametrize("entered", ENTERED, ids=ascii)
def test_what_was_entered_is_the_value_of_its_own_key(entered: str) -> None:
    assert read(formatted(entered=entered))["entered"] == entered


@pytest.mark.parametrize("entered", ENTERED, ids=ascii)
def test_whatever_was_entered_a_record_is_one_line(entered: str) -> None:
    assert formatted("added %s", entered, entered=entered).isprintable()


@pytest.mark.parametrize("entered", ENTERED, ids=ascii)
def test_whatever_was_entered_the_line_can_be_written(entered: str) -> None:
    assert formatted("added %s", entered, entered=entered).isascii()


def test_arguments_are_put_into_the_message() -> None:
    assert read(formatted("added %s of %d", "Tokyo", 7))["message"] == "added Tokyo of 7"


@pytest.mark.parametrize(
    ("value", "shown"),
    [(7, 7), (0.5, 0.5), (None, None), (True, True), (["a", 1], ["a", 1]), ({"a": 1}, {"a": 1}), (Path("/x"), "/x")],
)
def test_what_was_given_has_a_key_of_its_own(value: object, shown: object) -> None:
    assert read(formatted(given=value))["given"] == shown


@pytest.mark.parametrize("key", ["taskName", "color_message", "args", "pathname", "exc_info", "exc_text", "thread"])
def test_what_logging_itself_keeps_is_left_out(key: str) -> None:
    record = logging.makeLogRecord({"msg": "added", key: None})
    assert key not in read(JSONLines().format(record))


def written(capfd: pytest.CaptureFixture[str]) -> list[str]:
    """The lines on standard error, once all are there."""
    log.output().flush()
    return capfd.readouterr().err.splitlines()


def failure() -> Any:
    """What logging keeps of a failure."""
    with pytest.raises(ValueError, match="two") as caught:
        fail()
    return caught.type, caught.value, caught.tb


def fail() -> None:
    raise ValueError("two\nlines")


def test_a_traceback_is_whole() -> None:
    traceback = read(formatted("failed", exc_info=failure()))["traceback"]
    assert traceback.startswith("Traceback (most recent call last):")
    assert traceback.endswith("ValueError: two\nlines")


def test_a_traceback_stays_on_the_line() -> None:
    assert formatted("failed", exc_info=failure()).isprintable()


def test_without_a_failure_there_is_no_traceback() -> None:
    assert "traceback" not in read(formatted())


# --- its configuration ---


@pytest.fixture
def configure(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Lets a test configure logging: the handlers that were there are neither closed nor lost."""
    monkeypatch.setattr(logging, "_handlerList", [])
    monkeypatch.setattr(logging, "_handlers", WeakValueDictionary())
    root = logging.getLogger()
    handlers = root.handlers[:]
    levels = {name: logging.getLogger(name).level for name in ("", "cityweb", "sqlalchemy.engine")}
    yield
    root.handlers[:] = handlers
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


LOGGED = [
    (False, "cityweb", logging.INFO, True),
    (False, "cityweb.requests", logging.INFO, True),
    (False, "cityweb", logging.DEBUG, False),
    (False, "uvicorn.error", logging.INFO, False),
    (False, "uvicorn.error", logging.WARNING, True),
    (False, "asyncio", logging.ERROR, True),
    (False, "sqlalchemy.engine.Engine", logging.INFO, False),
    (True, "sqlalchemy.engine.Engine", logging.INFO, True),
    (True, "sqlalchemy.pool", logging.INFO, False),
]


@pytest.mark.usefixtures("configure")
@pytest.mark.parametrize(("echo", "name", "level", "shown"), LOGGED)
def test_the_log_shows_what_it_should(
    capfd: pytest.CaptureFixture[str], echo: bool, name: str, level: int, shown: bool
) -> None:
    logging.config.dictConfig(log.configuration(echo=echo))
    logging.getLogger(name).log(level, "it happened")
    lines = written(capfd)
    assert [(read(line)["logger"], read(line)["message"]) for line in lines] == shown * [(name, "it happened")]


@pytest.mark.usefixtures("configure")
def test_nothing_is_logged_to_standard_output(capfd: pytest.CaptureFixture[str]) -> None:
    logging.config.dictConfig(log.configuration(echo=True))
    logging.getLogger("cityweb").error("it happened")
    log.output().flush()
    assert capfd.readouterr().out == ""


# --- a log that nobody reads ---


def block(size: int) -> str:
    """Lines of so many characters altogether."""
    return (99 * "x" + "\n") * (size // 100)


def test_a_line_is_written_or_counted() -> None:
    reading, writing = os.pipe()
    output = log.Output(writing)
    output.start()
    # The first block fills the pipe, the second the queue, and for the others there is no room.
    for size in (200_000, log.QUEUE_MAX, 50_000, 30_000):
        output.put(block(size))
    with os.fdopen(reading, "rb") as stream:
        lines = [stream.readline() for _ in range((200_000 + log.QUEUE_MAX) // 100 + 1)]
        (reported,) = [json.loads(line) for line in lines if line.startswith(b"{")]
        assert (reported["level"], reported["lines"]) == ("warning", 800)
        output.flush()
        os.close(writing)
        assert stream.read() == b""


def test_lines_that_cannot_be_written_are_counted_too() -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    output = log.Output(full)
    output.start()
    output.put("lost\nlost\n")
    output.flush()
    reading, writing = os.pipe()
    os.dup2(writing, full)
    output.put("written\n")
    output.flush()
    os.close(writing)
    os.close(full)
    with os.fdopen(reading, encoding="ascii") as stream:
        first, reported = stream
    assert (first, json.loads(reported)["lines"]) == ("written\n", 2)


def test_where_standard_error_is_closed_no_other_file_is_written_to(tmp_path: Path) -> None:
    program = (
        "import sys; opened = open(sys.argv[1], 'w+b'); assert opened.fileno() == 2;"
        "from cityweb import log; log.output().put('logged'); log.output().flush(); assert opened.read() == b''"
    )
    command = ["sh", "-c", 'exec "$0" -c "$1" "$2" 2>&-', sys.executable, program, str(tmp_path / "opened")]
    assert subprocess.run(command, check=False, cwd=TOP).returncode == 0
    assert (tmp_path / "opened").read_bytes() == b""


# --- requests ---


async def note(method: str = "GET", path: str = "/") -> None:
    """Writes the line of one request."""
    requests = log.Requests()
    requests.note(requests.next_id(), method, path, 200, time.perf_counter())
    requests.flush()


async def test_the_line_of_a_request_says_what_was_asked_and_answered(capfd: pytest.CaptureFixture[str]) -> None:
    await note()
    (line,) = written(capfd)
    said = read(line)
    assert datetime.now(UTC) - datetime.fromisoformat(said["time"]) < timedelta(seconds=5)
    assert 0 <= said["milliseconds"] < 5_000
    assert {name: said[name] for name in said.keys() - {"time", "milliseconds", "request_id"}} == {
        "level": "info",
        "logger": "cityweb.requests",
        "message": "answered",
        "method": "GET",
        "path": "/",
        "status": 200,
    }


@given(st.text(), st.text(st.characters(), max_size=8))
@example("0" * 201, "GET")
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_nothing_that_is_asked_for_forges_a_line(capfd: pytest.CaptureFixture[str], path: str, method: str) -> None:
    asyncio.run(note(method, path))
    (line,) = written(capfd)
    assert (read(line)["path"], read(line)["method"]) == (path[: log.PATH_MAX], method)


async def test_a_long_address_is_cut(capfd: pytest.CaptureFixture[str]) -> None:
    await note(path="/" * 60_000)
    (line,) = written(capfd)
    assert len(read(line)["path"]) == log.PATH_MAX


async def test_lines_are_written_together_and_soon(capfd: pytest.CaptureFixture[str]) -> None:
    requests = log.Requests()
    for _ in range(3):
        requests.note(requests.next_id(), "GET", "/", 200, time.perf_counter())
    assert written(capfd) == []
    await asyncio.sleep(2 * log.FLUSH_SECONDS)
    assert len({read(line)["request_id"] for line in written(capfd)}) == 3
