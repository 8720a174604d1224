"""A value that is read from the database at most once a minute."""

import math
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from cityweb.postgres.database import Session

SECONDS = 60
T = TypeVar("T")


class Recent(Generic[T]):
    """A value of one process that is at most a minute old when it is used."""

    def __init__(self, read: Callable[[Session], Awaitable[T]]) -> None:
        self._read = read
        self._value: T | None = None
        self.read_at = -math.inf

    async def get(self, session: Session) -> T:
        """The value. Raises DatabaseUnavailable if it has to be read."""
        if self._value is None or time.monotonic() - self.read_at > SECONDS:
            self._value = await self._read(session)
            self.read_at = time.monotonic()
        return self._value
