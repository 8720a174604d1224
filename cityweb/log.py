"""The log: one line of JSON for each thing that happened; what a visitor sent is only ever a value in it."""

import asyncio
import itertools
import json
import logging
import re
import secrets
import sys
import time
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

FLUSH_SECONDS = 0.1
"""How long the lines of requests may wait to be written together."""
PATH_MAX = 2_000
"""Characters of an address that a line shows."""

DETAIL = re.compile("^DETAIL:.*$", re.MULTILINE)
"""The line in which PostgreSQL shows the row that it rejects, and so the entered values."""
PLAIN = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "color_message", "taskName"}


class JSONLines(logging.Formatter):
    """A record as one line of JSON: what was given as `extra` under keys of its own, a traceback whole."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, whatever the record holds."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **{key: value for key, value in record.__dict__.items() if key not in PLAIN},
        }
        if record.exc_info:
            line["traceback"] = DETAIL.sub("", self.formatException(record.exc_info))
        return json.dumps(line, default=str)


class Requests:
    """The requests of one process: an id for each, and a line of JSON.

    A line is made by hand and written with others: through `logging` it would cost more than the answer. It has no
    address of a visitor, and no query, which may hold what was typed.
    """

    def __init__(self) -> None:
        self._process = secrets.token_hex(4)
        self._numbers = itertools.count(1)
        self._lines: list[str] = []
        self._now, self._time = 0, ""

    def next_id(self) -> str:
        """An id that no other request has, in no process."""
        return f"{self._process}-{next(self._numbers):x}"

    def note(self, request_id: str, method: str, path: str, status: int | None, begun: float) -> None:
        """Notes what was answered, None where nothing was, to a request that began then by `time.perf_counter`."""
        if not self._lines:
            asyncio.get_running_loop().call_later(FLUSH_SECONDS, self.flush)
        now = int(time.time() * 1000)
        if now != self._now:
            self._now, self._time = now, datetime.fromtimestamp(now / 1000, UTC).isoformat(timespec="milliseconds")
        milliseconds = (time.perf_counter() - begun) * 1000
        self._lines.append(
            f'{{"time": "{self._time}", "request_id": "{request_id}",'
            f' {answered(method, path[:PATH_MAX], status)}, "milliseconds": {milliseconds:.1f}}}\n'
        )

    def flush(self) -> None:
        """Writes the lines that wait."""
        lines, self._lines = self._lines, []
        sys.stderr.write("".join(lines))
        sys.stderr.flush()


@lru_cache(256)
def answered(method: str, path: str, status: int | None) -> str:
    """The part of a line that many requests share."""
    members = {"level": "info", "logger": "cityweb.requests", "message": "answered"}
    return json.dumps(members | {"method": method, "path": path, "status": status})[1:-1]


def configuration(*, echo: bool) -> dict[str, Any]:
    """What logging.config makes of it: everything to standard error, the server's own chatter from warnings on."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"json": {"()": JSONLines}},
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "json"}},
        "root": {"handlers": ["stderr"], "level": "WARNING"},
        "loggers": {
            "cityweb": {"level": "INFO"},
            "sqlalchemy.engine": {"level": "INFO" if echo else "WARNING"},
        },
    }
