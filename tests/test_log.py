"""The log: one line for each event, whatever a visitor sent."""

import json
import logging
import logging.config
import sys
from collections.abc import Iterator

import pytest

from cityweb import log


def record(message: str, **more: object) -> logging.LogRecord:
    made = logging.makeLogRecord({"name": "cityweb", "levelname": "INFO", "msg": message})
    made.__dict__.update(more)
    return made


@pytest.mark.parametrize("path", ["/a\nb", '/"}{"level": "forged"}', "/\x1b[2J", "/\ud800", "/\u2028", "/é"])
def test_nothing_that_was_sent_forges_a_line(path: str) -> None:
    line = log.JSONLines().format(record("answered", path=path))
    assert len(line.splitlines()) == 1
    assert line.isascii()
    assert json.loads(line)["path"] == path


def test_a_line_says_when_how_bad_who_and_what() -> None:
    line = json.loads(log.JSONLines().format(record("%s", args=("it works",))))
    assert (line["level"], line["logger"], line["message"]) == ("info", "cityweb", "it works")
    assert line["time"].endswith("+00:00")
    assert set(line) == {"time", "level", "logger", "message"}


def test_a_traceback_is_in_the_line() -> None:
    try:
        int("many")
    except ValueError:
        line = log.JSONLines().format(record("failed", exc_info=sys.exc_info()))
    assert len(line.splitlines()) == 1
    assert "ValueError" in json.loads(line)["traceback"]


@pytest.fixture
def logging_restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    for name in ("cityweb", "sqlalchemy.engine"):
        logging.getLogger(name).setLevel(logging.NOTSET)


@pytest.mark.usefixtures("logging_restored")
@pytest.mark.parametrize(("echo", "level"), [(True, logging.INFO), (False, logging.WARNING)])
def test_sql_is_logged_on_request_only(echo: bool, level: int) -> None:
    logging.config.dictConfig(log.configuration(echo=echo))
    assert logging.getLogger("sqlalchemy.engine").level == level
    assert isinstance(logging.getLogger().handlers[-1].formatter, log.JSONLines)
