"""The board of one process: a timer reads it, and every response that shows it is rendered once per change.

A view calls `refresh` after its commit, so the next response shows the visitor's own change. Any other change is in the
snapshot after at most a read, a pause and another read, about 0.3 s; an open page polls every 3 s.
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

from cityweb.postgres import cities, database
from cityweb.postgres.cities import Leaders
from cityweb.postgres.database import DriverConnection
from cityweb.submissions import ENTERED
from cityweb.web.prepared import PreparedResponse
from cityweb.web.templates import VARY, Templates

PAUSE_SECONDS = 0.25
"""The pause between two reads, unless `refresh` is called."""
SPACING_SECONDS = 0.01
"""The shortest pause between two reads: a flood of adds causes at most a hundred reads a second."""
DEADLINE_SECONDS = 0.5
"""The time limit of a read, including a new connection. A read usually takes a millisecond or two."""
STALE_SECONDS = 1.0
"""A snapshot is stale when its last good read began longer ago than this: one read that times out is enough."""
REFRESH_SECONDS = 1.0
"""The time limit of `refresh`: the current read and the next one, each up to its deadline."""

# A shared cache may keep a response for a second; a browser always revalidates its copy.
CACHE_CONTROL = "public, max-age=0, s-maxage=1, must-revalidate"
PAGE_HEADERS = {"cache-control": CACHE_CONTROL, "vary": VARY}

log = logging.getLogger("cityweb")


class NoBoard(Exception):
    """The board was never read: the database has been unavailable since startup. The response is a 503."""


@dataclass(frozen=True)
class Form:
    """A form on a page: the entered values, an error for each invalid field, the stored city if the name is taken.

    A form of corrections also has the values that were `shown`. `confirm` is an unlikely population, if that is why the
    form is shown again.
    """

    values: Mapping[str, str] = field(default_factory=lambda: dict.fromkeys(ENTERED, ""))
    errors: Mapping[str, str] = field(default_factory=dict)
    stored: object = None
    namesakes: Sequence[object] = ()
    shown: Mapping[str, object] = field(default_factory=dict)
    confirm: object = None


NEW_FORM = Form()


@dataclass(frozen=True)
class Snapshot:
    """The board at one moment, with every response that shows it; each is rendered on first use.

    `as_of` is None in a current snapshot. In a stale one, it is when the last good read began; the responses show it.
    """

    leaders: Leaders
    templates: Templates
    as_of: datetime | None = None

    @cached_property
    def id(self) -> str:
        """A hash of the content; all processes have the same one while their snapshots are current."""
        return hashlib.sha256(repr((self.leaders, self.as_of)).encode()).hexdigest()[:16]

    @cached_property
    def page(self) -> PreparedResponse:
        """The page with an empty form."""
        return prepare_page(self.render())

    @cached_property
    def paused_page(self) -> PreparedResponse:
        """The page with an empty form and live updates paused."""
        return prepare_page(self.render(live=False))

    @cached_property
    def fragment(self) -> PreparedResponse:
        """The part of the page that a poll replaces."""
        return prepare_page(self.templates.render("_board.html", board=self))

    @cached_property
    def biggest(self) -> PreparedResponse:
        """The board as JSON. A stale one has a Last-Modified header, since an array has no room for a notice."""
        rows = [{"name": row.name, "population": row.population} for row in self.leaders.rows]
        last_modified = {"last-modified": format_datetime(self.as_of, usegmt=True)} if self.as_of else {}
        return prepare_json(rows, last_modified)

    def render(self, *, form: Form = NEW_FORM, landed: object = None, problem: str = "", live: bool = True) -> str:
        """The HTML of the page with a form, and a message about an added city (`landed`) or an error (`problem`)."""
        return self.templates.render("page.html", board=self, form=form, landed=landed, problem=problem, live=live)


def prepare_page(document: str) -> PreparedResponse:
    return PreparedResponse(document.encode(), "text/html; charset=utf-8", PAGE_HEADERS)


def prepare_feed(document: str) -> PreparedResponse:
    """An Atom feed (RFC 4287)."""
    headers = {"cache-control": CACHE_CONTROL}
    return PreparedResponse(document.encode(), "application/atom+xml; charset=utf-8", headers)


def prepare_json(document: object, headers: Mapping[str, str] | None = None) -> PreparedResponse:
    body = json.dumps(document, ensure_ascii=False)
    return PreparedResponse(body.encode(), "application/json", {"cache-control": CACHE_CONTROL, **(headers or {})})


class Board:
    """The board of one process.

    Requests are served from its snapshot and do not wait for the database; only `refresh` does. `keep` reads on its own
    connection, so adds never delay it.
    """

    def __init__(self, connect: Callable[[], Awaitable[DriverConnection]], templates: Templates) -> None:
        self._connect, self._templates = connect, templates
        self.deadline_seconds = DEADLINE_SECONDS
        self._connection: DriverConnection | None = None
        self._failing = False
        self._current: Snapshot | None = None
        self._stale: Snapshot | None = None
        # When the last good read began: on the monotonic clock for its age, and in UTC for `as_of`.
        self._good_read_began = -math.inf
        self._as_of = datetime.now(UTC)
        # When the last failed `refresh` was called: the snapshot may lack the commit before it.
        self._missed_at = -math.inf
        # `refresh` sets the first event and waits for the second.
        self._is_asked = asyncio.Event()
        self._next_read_ended = asyncio.Event()

    @property
    def snapshot(self) -> Snapshot:
        """The current snapshot, or the last one with `as_of` set if it is stale. Raises NoBoard."""
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

        It follows from the time alone, so a hanging timer makes the board stale too.
        """
        return time.monotonic() - self._good_read_began > STALE_SECONDS or self._good_read_began < self._missed_at

    async def keep(self) -> None:
        """Reads the board until it is cancelled, even after failed reads; one task per process runs it."""
        try:
            while True:
                # Both come before the read: a `refresh` that is called from here on waits for the read after this one.
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
                    # `refresh` must not shorten this pause: failing connection attempts would become a busy loop.
                    await asyncio.sleep(PAUSE_SECONDS)
        finally:
            self._disconnect()

    async def refresh(self) -> None:
        """Waits until a read that begins after this call has ended, for at most REFRESH_SECONDS.

        A view calls it after its commit. All waiting callers share one read. If that fails, the board is stale until a
        read succeeds, since it may lack the caller's commit.
        """
        ended, called_at = self._next_read_ended, time.monotonic()
        self._is_asked.set()
        with suppress(TimeoutError):
            async with asyncio.timeout(REFRESH_SECONDS):
                await ended.wait()
        if self._good_read_began < called_at:
            self._missed_at = called_at

    async def _read(self) -> bool:
        """Reads the board once and returns whether that succeeded. Logs only the first of several failures in a row."""
        began, as_of = time.monotonic(), datetime.now(UTC)
        try:
            async with asyncio.timeout(self.deadline_seconds):
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
        # If nothing has changed, the snapshot stays, with the responses that are already rendered.
        if self._current is None or leaders != self._current.leaders:
            self._current = Snapshot(leaders, self._templates)
        self._good_read_began, self._as_of, self._stale = began, as_of, None
        return True

    def _disconnect(self) -> None:
        if self._connection:
            self._connection.terminate()
        self._connection = None
