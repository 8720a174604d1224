"""The log: one line of JSON for each thing that happened; what a visitor sent is only ever a value in it."""

import json
import logging
from datetime import UTC, datetime
from typing import Any

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
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


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
