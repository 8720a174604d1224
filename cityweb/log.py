"""The log: one line of JSON for each thing that happened; what a visitor sent is only ever a value in it."""

import asyncio
import itertools
import json
import logging
import os
import queue
import re
import secrets
import sys
import threading
import time
from datetime import UTC, datetime
from functools import cache, lru_cache
from logging.handlers import QueueHandler, QueueListener
from typing import Any

FLUSH_SECONDS = 0.1
"""How long the lines of requests may wait to be written together."""
PATH_MAX = 200
"""Characters of a path that a line shows."""
QUEUE_MAX = 2_000_000
"""Characters that wait for standard error: more than a second of requests at full load."""
LAST_SECONDS = 1.0
"""How long a process that ends waits until its last lines are written."""

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


class Output(QueueListener):
    """A file that a thread writes to, so that no request waits for the reader of the log.

    If the reader is too slow, lines are dropped and counted.
    """

    def __init__(self, descriptor: int) -> None:
        self.lines: queue.Queue[str] = queue.Queue()
        super().__init__(self.lines)
        self._descriptor = descriptor
        self._waiting = self._dropped = 0
        """Characters that wait, and lines that were dropped."""
        self._counting = threading.Lock()

    def put(self, lines: str) -> None:
        """Queues whole lines, or drops them where there is no room."""
        with self._counting:
            if self._waiting >= QUEUE_MAX:
                self._dropped += lines.count("\n")
                return
            self._waiting += len(lines)
        self.lines.put_nowait(lines)

    def handle(self, record: Any) -> None:
        """Writes a block, and how many lines were dropped since the last one.

        Not through `sys.stderr`: Python aborts at its end where a thread still waits in that buffer.
        """
        with self._counting:
            dropped, self._dropped = self._dropped, 0
        waiting = f"{record}{_dropped(dropped) if dropped else ''}".encode()
        lost = 0
        try:
            while waiting:
                waiting = waiting[os.write(self._descriptor, waiting) :]
        except OSError:
            lost = record.count("\n") + dropped
        with self._counting:
            self._waiting -= len(record)
            self._dropped += lost

    def flush(self) -> None:
        """Waits until everything is written, for at most LAST_SECONDS: perhaps nobody reads."""
        with self.lines.all_tasks_done:
            self.lines.all_tasks_done.wait_for(lambda: not self.lines.unfinished_tasks, LAST_SECONDS)


def _dropped(count: int) -> str:
    said = {"name": "cityweb", "levelname": "WARNING", "msg": "lines were dropped: the log is read too slowly"}
    return JSONLines().format(logging.makeLogRecord({**said, "lines": count})) + "\n"


@cache
def output() -> Output:
    """Standard error. Where it is closed, its number may be that of another file, and nothing is written."""
    written = Output(2 if sys.__stderr__ else os.open(os.devnull, os.O_WRONLY))
    written.start()
    return written


class OutputHandler(QueueHandler):
    """Queues each record as a formatted line; `logging` flushes it when the process ends."""

    def __init__(self) -> None:
        super().__init__(output().lines)

    def prepare(self, record: logging.LogRecord) -> str:
        """The line."""
        return self.format(record) + "\n"

    def enqueue(self, record: Any) -> None:
        """Queues a line."""
        output().put(record)

    def flush(self) -> None:
        """Waits a moment until everything is written."""
        output().flush()


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
        """Queues the lines that wait, as one block."""
        lines, self._lines = self._lines, []
        output().put("".join(lines))

    def close(self) -> None:
        """Waits a moment until all lines are written: uvicorn ends a worker by a signal, without Python's exit."""
        self.flush()
        output().flush()


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
        "handlers": {"stderr": {"()": OutputHandler, "formatter": "json"}},
        "root": {"handlers": ["stderr"], "level": "WARNING"},
        "loggers": {
            "cityweb": {"level": "INFO"},
            "sqlalchemy.engine": {"level": "INFO" if echo else "WARNING"},
        },
    }
