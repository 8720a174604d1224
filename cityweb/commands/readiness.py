"""The prepared database for a command, and the end of a command that is interrupted."""

import asyncio
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from sqlalchemy import URL

from cityweb import settings
from cityweb.postgres import schema
from cityweb.server import launch
from cityweb.settings import OperatorError

INTERRUPTED = "Interrupted. A command does all of its work or none: running it again is safe."
UNWINDING_SECONDS = 8


@contextmanager
def ready() -> Iterator[URL]:
    """The URL of the prepared database for its owner. Raises OperatorError after a signal has unwound the stack."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    try:
        with launch.database_urls(settings.read(os.environ)) as (url, _), launch.translate_errors(url):
            asyncio.run(schema.prepare(url))
            yield url
    except KeyboardInterrupt as error:  # pragma: no cover (`_give_up` may end its process)
        raise OperatorError(INTERRUPTED) from error


def _interrupt(*_: object) -> NoReturn:  # pragma: no cover (`_give_up` may end its process)
    # asyncio leaves a custom handler in place. Its own waits for the next await, which a read of standard input delays.
    give_up = threading.Timer(UNWINDING_SECONDS, _give_up)
    give_up.daemon = True
    give_up.start()
    raise KeyboardInterrupt


def _give_up() -> None:  # pragma: no cover (os._exit writes no coverage)
    # An exception can be lost in a callback. PostgreSQL rolls back an interrupted transaction.
    os.write(2, f"{INTERRUPTED}\n".encode())
    os._exit(1)
