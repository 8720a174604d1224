"""The board of one process: a timer reads it, and every response that shows it is rendered once per change.

One's own change is on one's next response, since a view calls `refresh` after its commit. A change by anybody else is
in the snapshot after at most a read, a pause and another read, some 0.3 s; an open page polls every 3 s.
"""

import asyncio
import hashlib
import json
import logging
import math
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from email.utils import format_datetime
from functools import cached_property

import asyncpg

from cityweb.postgres import cities, database
from cityweb.postgres.cities import Leaders
from cityweb.web import templates
from cityweb.web.prepared import PreparedResponse

PAUSE_SECONDS = 0.25
"""Between two reads, where nobody asks for one."""
SPACING_SECONDS = 0.01
"""Between two reads, however many ask: a flood of adds costs at most a hundred reads a second."""
DEADLINE_SECONDS = 0.5
"""How long a read may take, a new connection included. It takes a millisecond or two."""
STALE_SECONDS = 1.0
"""A snapshot is stale when its last good read began longer ago: one read that runs into its deadline is enough."""
REFRESH_SECONDS = 1.0
"""How long `refresh` waits at most: for the read under way and the next one, each to its deadline."""

# A shared cache may keep a response for a second; a browser always asks whether its copy is still the board.
CACHE_CONTROL = "public, max-age=0, s-maxage=1, must-revalidate"
PAGE_HEADERS = {"cache-control": CACHE_CONTROL, "vary": templates.VARY}

log = logging.getLogger("cityweb")


class NoBoard(Exception):
    """The board was never read: the database has been away since the start. Its response is 503."""


@dataclass(frozen=True)
class Snapshot:
    """The board at one moment, with every response that shows it; each is rendered when it is first asked for.

    `as_of` is None while the snapshot is current. A stale one has the time when its last good read began, and says so.
    """

    leaders: Leaders
    as_of: datetime | None = None

    @cached_property
    def id(self) -> str:
        """A hash of what is shown: while the snapshot is current, equal in all processes."""
        return hashlib.sha256(repr((self.leaders, self.as_of)).encode()).hexdigest()[:16]

    @cached_property
    def page(self) -> PreparedResponse:
        """The page with an empty form."""
        return prepare_page(render_page(self))

    @cached_property
    def paused_page(self) -> PreparedResponse:
        """The same for a visitor who paused live updates."""
        return prepare_page(render_page(self, live=False))

    @cached_property
    def fragment(self) -> PreparedResponse:
        """The part of the page that a poll replaces."""
        return prepare_page(templates.render("_board.html", board=self, live=True))

    @cached_property
    def biggest(self) -> PreparedResponse:
        """The board as JSON. A stale one says so in a header: an array has no room for a notice."""
        rows = [{"name": row.name, "population": row.population} for row in self.leaders.rows]
        last_modified = {"last-modified": format_datetime(self.as_of, usegmt=True)} if self.as_of else {}
        headers = {"cache-control": CACHE_CONTROL, **last_modified}
        return PreparedResponse(json.dumps(rows, ensure_ascii=False).encode(), "application/json", headers)


@dataclass(frozen=True)
class Form:
    """The form as it is shown: what was typed, one sentence for each field that is wrong, the city that has the name.

    `focus` puts the cursor into the name field.
    """

    values: Mapping[str, str] = field(default_factory=lambda: {"name": "", "population": ""})
    errors: Mapping[str, str] = field(default_factory=dict)
    stored: object = None
    on_board: bool = False
    focus: bool = False


NEW_FORM = Form()


def prepare_page(document: str) -> PreparedResponse:
    """A page as a response that may be sent many times."""
    return PreparedResponse(document.encode(), "text/html; charset=utf-8", PAGE_HEADERS)


def prepare_json(document: object) -> PreparedResponse:
    """A JSON document as a response that may be sent many times."""
    body = json.dumps(document, ensure_ascii=False)
    return PreparedResponse(body.encode(), "application/json", {"cache-control": CACHE_CONTROL})


def render_page(
    board: Snapshot,
    *,
    form: Form = NEW_FORM,
    landed: object = None,
    problem: Sequence[str] = (),
    live: bool = True,
) -> str:
    """The page with this board, this form and what there is to say."""
    return templates.render("page.html", board=board, form=form, landed=landed, problem=problem, live=live)


class Board:
    """The board of one process.

    Requests are served from its snapshot, so none waits for the database; only `refresh` does. `keep` reads on a
    connection of its own, so that adds never delay it.
    """

    def __init__(self, connect: Callable[[], Awaitable[asyncpg.Connection]]) -> None:
        self._connect = connect
        self._connection: asyncpg.Connection | None = None
        self._failing = False
        self._current: Snapshot | None = None
        self._stale: Snapshot | None = None
        # When the last good read began: by a clock for its age, and as a time of day.
        self._good_read_began = -math.inf
        self._as_of = datetime.now(UTC)
        # When the last commit was that a failed refresh may have missed.
        self._missed_at = -math.inf
        # A caller of `refresh` sets the one, and waits for the other.
        self._is_asked = asyncio.Event()
        self._next_read_ended = asyncio.Event()

    @property
    def snapshot(self) -> Snapshot:
        """The board as it is, or the last one known, which says so. Raises NoBoard."""
        if self._current is None:
            raise NoBoard
        if not self.is_stale:
            return self._current
        if self._stale is None:
            self._stale = replace(self._current, as_of=self._as_of)
        return self._stale

    @property
    def is_stale(self) -> bool:
        """Whether the last good read began more than a second ago, or before a commit whose refresh failed.

        Age decides, so a timer that hangs counts too.
        """
        return time.monotonic() - self._good_read_began > STALE_SECONDS or self._good_read_began < self._missed_at

    async def keep(self) -> None:
        """Reads the board again and again, for good, whatever fails; one task per process runs it."""
        try:
            while True:
                # Both before the read: a caller of `refresh` from here on is for the read after this one.
                ended, self._next_read_ended = self._next_read_ended, asyncio.Event()
                self._is_asked.clear()
                has_read = await self._read()
                ended.set()
                if has_read:
                    await asyncio.sleep(SPACING_SECONDS)
                    with suppress(TimeoutError):
                        async with asyncio.timeout(PAUSE_SECONDS):
                            await self._is_asked.wait()
                else:
                    # No caller shortens this: a database that refuses connections would be asked without a pause.
                    await asyncio.sleep(PAUSE_SECONDS)
        finally:
            self._disconnect()

    async def refresh(self) -> None:
        """Waits until a read that begins after this call has ended, but at most a second.

        A view calls it after its commit. All callers that wait share one read. If it fails, the board is stale until a
        read succeeds: it may lack what the caller committed.
        """
        ended, asked_at = self._next_read_ended, time.monotonic()
        self._is_asked.set()
        with suppress(TimeoutError):
            async with asyncio.timeout(REFRESH_SECONDS):
                await ended.wait()
        if self._good_read_began < asked_at:
            self._missed_at = asked_at

    async def _read(self) -> bool:
        """Reads the board once; whether it could. Of failures in a row, the first is logged."""
        began, as_of = time.monotonic(), datetime.now(UTC)
        try:
            async with asyncio.timeout(DEADLINE_SECONDS):
                self._connection = self._connection or await self._connect()
                leaders = await cities.leaders(self._connection)
        except Exception as error:
            if not self._failing:
                is_outage = isinstance(error, database.DRIVER_ERRORS)
                traceback = None if is_outage else error
                log.warning("the board cannot be read", exc_info=traceback, extra={"error": repr(error)})
            self._failing = True
            self._disconnect()
            return False
        if self._failing:
            log.warning("the board is read again")
        self._failing = False
        # The same leaders keep the snapshot, and with it what is rendered already.
        if self._current is None or leaders != self._current.leaders:
            self._current = Snapshot(leaders)
        self._good_read_began, self._as_of, self._stale = began, as_of, None
        return True

    def _disconnect(self) -> None:
        if self._connection:
            self._connection.terminate()
        self._connection = None
