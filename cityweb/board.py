"""The board of one process: a timer reads the top 20, and every response that shows it is rendered once per change."""

import asyncio
import hashlib
import json
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import format_datetime
from functools import cached_property

import asyncpg

from cityweb import cities, database, html
from cityweb.answers import Answer
from cityweb.cities import Leaders
from cityweb.forms import NEW_FORM, Form

READ_SECONDS = 0.25
"""The pause between two reads, where nobody asks for one."""
DEADLINE_SECONDS = 0.5
"""How long a read may take, its connection included."""
STALE_SECONDS = 1.0
"""A snapshot is stale when its last good read began longer ago."""
REFRESH_SECONDS = 1.0
"""How long `refresh` waits at most."""

# A shared cache may keep a response for a second; a browser always asks whether its copy is still the board.
CACHE_CONTROL = "public, max-age=0, s-maxage=1, must-revalidate"
PAGE_HEADERS = {"cache-control": CACHE_CONTROL, "vary": html.VARY}

log = logging.getLogger("cityweb")


class NoBoard(Exception):
    """The board was never read: the database has been away since the start."""


@dataclass(frozen=True)
class Snapshot:
    """The board at one moment, with every response that shows it; each is rendered when it is first asked for.

    `as_of` is None while the snapshot is current. A stale one has the moment of its last good read, and says so.
    """

    leaders: Leaders
    as_of: datetime | None = None

    @cached_property
    def id(self) -> str:
        """A hash of what is shown: equal in all processes, another one once the snapshot is stale."""
        return hashlib.sha256(repr((self.leaders, self.as_of)).encode()).hexdigest()[:16]

    @cached_property
    def page(self) -> Answer:
        """The page with an empty form."""
        return _html(render_page(self))

    @cached_property
    def paused_page(self) -> Answer:
        """The same without live updates."""
        return _html(render_page(self, live=False))

    @cached_property
    def fragment(self) -> Answer:
        """The part of the page that a poll replaces."""
        return _html(html.render("_board.html", board=self, live=True))

    @cached_property
    def biggest(self) -> Answer:
        """The board as JSON."""
        rows = [{"name": row.name, "population": row.population} for row in self.leaders.rows]
        since = {"last-modified": format_datetime(self.as_of, usegmt=True)} if self.as_of else {}
        headers = {"cache-control": CACHE_CONTROL, **since}
        return Answer(json.dumps(rows, ensure_ascii=False).encode(), "application/json", headers)


def _html(document: str) -> Answer:
    return Answer(document.encode(), "text/html; charset=utf-8", PAGE_HEADERS)


def render_page(
    board: Snapshot,
    *,
    form: Form = NEW_FORM,
    landed: object = None,
    problem: Sequence[str] = (),
    live: bool = True,
) -> str:
    """The page with this board, this form and what there is to say."""
    return html.render("page.html", board=board, form=form, landed=landed, problem=problem, live=live)


class Board:
    """The board of one process. Requests are served from its snapshot and never wait for the database."""

    def __init__(self, connect: Callable[[], Awaitable[asyncpg.Connection]]) -> None:
        self._connect = connect
        self._connection: asyncpg.Connection | None = None
        self._failing = False
        self._fresh: Snapshot | None = None
        self._stale: Snapshot | None = None
        self._read_at = 0.0
        self._as_of = datetime.now(UTC)
        self._wanted = asyncio.Event()
        self._turn = asyncio.Event()

    @property
    def snapshot(self) -> Snapshot:
        """The board as it is, or the last one known, which says so. Raises NoBoard."""
        if self._fresh is None:
            raise NoBoard
        if not self.is_stale:
            return self._fresh
        if self._stale is None:
            self._stale = replace(self._fresh, as_of=self._as_of)
        return self._stale

    @property
    def is_stale(self) -> bool:
        """Whether the last good read began more than a second ago. Age decides, so a timer that hangs counts too."""
        return time.monotonic() - self._read_at > STALE_SECONDS

    async def refresh(self) -> None:
        """Waits until a read that begins after this call has ended, but at most a second."""
        turn = self._turn
        self._wanted.set()
        with suppress(TimeoutError):
            async with asyncio.timeout(REFRESH_SECONDS):
                await turn.wait()

    async def keep(self) -> None:
        """Reads the board again and again, for good, whatever fails; one task per process runs it."""
        try:
            while True:
                # Callers of `refresh` wait for the next turn from here on: this read may miss their change.
                turn, self._turn = self._turn, asyncio.Event()
                self._wanted.clear()
                has_read = await self._read()
                turn.set()
                if has_read:
                    with suppress(TimeoutError):
                        async with asyncio.timeout(READ_SECONDS):
                            await self._wanted.wait()
                else:
                    # No caller shortens this: a database that refuses connections would be asked without a pause.
                    await asyncio.sleep(READ_SECONDS)
        finally:
            self._disconnect()

    async def _read(self) -> bool:
        """Reads the board once; whether it could. Of failures in a row, the first is logged."""
        began, as_of = time.monotonic(), datetime.now(UTC)
        try:
            async with asyncio.timeout(DEADLINE_SECONDS):
                self._connection = self._connection or await self._connect()
                leaders = await cities.leaders(self._connection)
        except Exception as error:
            if not self._failing:
                known = isinstance(error, database.DRIVER_ERRORS)
                log.warning("the board cannot be read", exc_info=None if known else error)
            self._failing = True
            self._disconnect()
            return False
        if self._failing:
            log.warning("the board is read again")
        self._failing = False
        if self._fresh is None or leaders != self._fresh.leaders:
            self._fresh = Snapshot(leaders)
        self._read_at, self._as_of, self._stale = began, as_of, None
        return True

    def _disconnect(self) -> None:
        if self._connection:
            self._connection.terminate()
        self._connection = None
