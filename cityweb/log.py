"""The log: one line of JSON per event and per request; data from visitors appears only as JSON values."""

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
"""The time for which the lines of requests are collected, to be written together."""
PATH_MAX = 200
"""In characters; longer paths are logged truncated."""
QUEUE_MAX = 2_000_000
"""In characters: more than a second of requests at full load."""
LAST_SECONDS = 1.0
"""The longest time that an exiting process waits for its last lines to be written."""

DETAIL = re.compile("^DETAIL:.*$", re.MULTILINE)
"""The line in which PostgreSQL quotes a rejected row, and so the entered values."""
PLAIN = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "color_message", "taskName"}


class JSONLines(logging.Formatter):
    """Formats a record as one line of JSON, with the members of `extra` under their own keys and the full traceback."""

    def format(self, record: logging.LogRecord) -> str:
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
    """A file descriptor that a thread writes to, so that requests do not wait for the reader of the log.

    If the reader is too slow, lines are dropped and counted.
    """

    def __init__(self, descriptor: int) -> None:
        self.lines: queue.Queue[str] = queue.Queue()
        super().__init__(self.lines)
        self._descriptor = descriptor
        self._waiting = self._dropped = 0
        """The number of waiting characters and of dropped lines."""
        self._counting = threading.Lock()

    def put(self, lines: str) -> None:
        """Queues complete lines, or drops them if the queue is full."""
        with self._counting:
            if self._waiting >= QUEUE_MAX:
                self._dropped += lines.count("\n")
                return
            self._waiting += len(lines)
        self.lines.put_nowait(lines)

    def handle(self, record: Any) -> None:
        """Writes a block of lines, and the number of lines dropped since the previous block.

        It bypasses `sys.stderr`, because Python aborts at exit if a thread still holds the lock of that buffer.
        """
        with self._counting:
            dropped, self._dropped = self._dropped, 0
        unwritten = f"{record}{_format_dropped(dropped) if dropped else ''}".encode()
        lost = 0
        try:
            while unwritten:
                unwritten = unwritten[os.write(self._descriptor, unwritten) :]
        except OSError:
            lost = record.count("\n") + dropped
        with self._counting:
            self._waiting -= len(record)
            self._dropped += lost

    def flush(self) -> None:
        """Waits until all lines are written, but at most LAST_SECONDS, in case the log is not read."""
        with self.lines.all_tasks_done:
            self.lines.all_tasks_done.wait_for(lambda: not self.lines.unfinished_tasks, LAST_SECONDS)


def _format_dropped(count: int) -> str:
    attributes = {"name": "cityweb", "levelname": "WARNING", "msg": "lines were dropped: the log is read too slowly"}
    return JSONLines().format(logging.makeLogRecord({**attributes, "lines": count})) + "\n"


@cache
def output() -> Output:
    """Standard error, or /dev/null if it is closed, because its descriptor may then be that of another file."""
    written = Output(2 if sys.__stderr__ else os.open(os.devnull, os.O_WRONLY))
    written.start()
    return written


class OutputHandler(QueueHandler):
    """Queues each record as a formatted line; `logging` flushes it at exit."""

    def __init__(self) -> None:
        super().__init__(output().lines)

    def prepare(self, record: logging.LogRecord) -> str:
        return self.format(record) + "\n"

    def enqueue(self, record: Any) -> None:
        output().put(record)

    def flush(self) -> None:
        output().flush()


class Requests:
    """The request log of one process: an id and a line of JSON per request.

    The lines are formatted here and written in blocks, because `logging` would take longer than the response. They
    contain no client IP and no query string, which may contain entered values.
    """

    def __init__(self) -> None:
        self._process = secrets.token_hex(4)
        self._numbers = itertools.count(1)
        self._lines: list[str] = []
        self._now, self._time = 0, ""

    def next_id(self) -> str:
        """An id that is unique across processes."""
        return f"{self._process}-{next(self._numbers):x}"

    def note(self, request_id: str, method: str, path: str, status: int | None, begun: float) -> None:
        """Logs a request that began at `begun` (`time.perf_counter`); `status` is None if no response was sent."""
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
        """Queues the collected lines as one block."""
        lines, self._lines = self._lines, []
        output().put("".join(lines))

    def close(self) -> None:
        """Waits until all lines are written: uvicorn ends a worker with a signal, so that no exit handler runs."""
        self.flush()
        output().flush()


@lru_cache(256)
def answered(method: str, path: str, status: int | None) -> str:
    """The part of a line that is the same for many requests."""
    members = {"level": "info", "logger": "cityweb.requests", "message": "answered"}
    return json.dumps(members | {"method": method, "path": path, "status": status})[1:-1]


def configuration(*, echo: bool) -> dict[str, Any]:
    """The dictionary for `logging.config`: all loggers write to standard error, those of libraries from WARNING on."""
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
