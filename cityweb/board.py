"""The rendered board: drawn once for a change, shared by every reader, never silently old."""

import asyncio
import hashlib
import json
import logging
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import asyncpg
from sqlalchemy.ext.asyncio import AsyncEngine

from cityweb import cities, database, html, streams
from cityweb.answers import Answer
from cityweb.cities import Place
from cityweb.forms import NEW_FORM, Form
from cityweb.streams import Streams

NEW = timedelta(seconds=60)
"""How long a row is marked as new."""
SETTLE_SECONDS = 0.01
"""A refresh waits so long for more notes: a writer's own call and the trigger's note become one."""
SPACING_SECONDS = 0.05
"""From the end of one refresh to the next: many changes make few refreshes."""
PATIENCE_SECONDS = 1.0
"""How long a refresh may take, and the pause before a database that has failed is asked again."""
BEAT_SECONDS = 1.0
BEATS_TO_NOTE = 15
"""Every so many quiet beats count as a note, against errors nobody thought of."""
CONNECT_SECONDS = 3
RETRY_SECONDS = (0.1, 2.0)
"""The first and the longest pause before the listener connects again."""

# A shared cache may answer for a second; a browser always asks whether its copy is still the board.
CACHE_CONTROL = "public, max-age=0, s-maxage=1, must-revalidate"
PAGE_HEADERS = {"cache-control": CACHE_CONTROL, "vary": html.VARY}

log = logging.getLogger("cityweb")

Connect = Callable[[], Awaitable[asyncpg.Connection]]


class NoBoard(Exception):
    """The database cannot be asked, and there is no last board to show instead."""


@dataclass(frozen=True)
class Row:
    """A row of the table; `bar` is its length in percent of the longest."""

    id: int
    rank: int
    name: str
    population: int
    new: bool
    bar: float


@dataclass(frozen=True)
class Table:
    """The table at one moment; its id changes with whatever it shows, and is the same in all processes."""

    rows: tuple[Row, ...]
    id: str


@dataclass(frozen=True)
class Drawing:
    """The board at one moment, and every answer that shows it, complete."""

    table: Table
    page: Answer
    paused_page: Answer
    biggest: Answer
    event: bytes

    @property
    def rows(self) -> tuple[Row, ...]:
        """The rows of its table."""
        return self.table.rows


class Board:
    """The board of one process: reads answer from its drawing, notes of a change make it draw again.

    A refresh counts for the notes that came before its query began: `_noted` counts the notes, `_counted` those that
    the drawing has.
    """

    def __init__(self, engine: AsyncEngine, streams: Streams) -> None:
        self.drawing: Drawing | None = None
        self.hearing = False
        self._engine = engine
        self._streams = streams
        self._noted, self._counted = 1, 0
        self._drawn_at = datetime.now(UTC)
        self._down: Drawing | None = None
        self._refreshing: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._failing = False
        self._rested = 0.0

    @property
    def drawn(self) -> Drawing | None:
        """The drawing, where it is known to be the board of now."""
        return self.drawing if self.hearing and self._counted == self._noted else None

    async def current(self) -> Drawing:
        """The board as it is; while the database is down the last one known, which says so. Raises NoBoard."""
        if self.drawn:
            return self.drawn
        try:
            return await (self._reach(self._noted) if self.hearing else self.fresh())
        except Exception as error:
            if not database.unavailable(error):
                raise
            return self._last_known()

    async def fresh(self) -> Drawing:
        """The board as of now or later: waits for a refresh that begins after this call."""
        self._noted += 1
        return await self._reach(self._noted)

    def heard(self) -> None:
        """Something changed: the board is drawn again soon, and nobody is shown the old one as the present."""
        self._noted += 1
        self._refresh()

    async def _reach(self, wanted: int) -> Drawing:
        while not self.drawing or self._counted < wanted:
            if self._failing:
                raise ConnectionError("the database has failed, and is asked again every second")
            await asyncio.shield(self._refresh())
        return self.drawing

    def _refresh(self) -> asyncio.Task[None]:
        """The refresh that is under way, or a new one."""
        if self._refreshing is None or self._refreshing.done():
            self._refreshing = asyncio.create_task(self._read_and_draw())
            self._refreshing.add_done_callback(self._refreshed)
        return self._refreshing

    async def _read_and_draw(self) -> None:
        now = asyncio.get_running_loop().time()
        await asyncio.sleep(max(SETTLE_SECONDS, self._rested - now))
        wanted = self._noted
        rows, next_mark_ends = _rows(await self._read())
        self._drawn_at = datetime.now(UTC)
        if self.drawing is None or rows != self.drawing.rows:
            self.drawing = draw(rows)
            self._streams.publish(self.drawing.event)
        self._counted = wanted
        self._down, self._failing = None, False
        self._rested = asyncio.get_running_loop().time() + SPACING_SECONDS
        if next_mark_ends is not None:
            self._note_in(next_mark_ends)

    async def _read(self) -> tuple[Place, ...]:
        reading = asyncio.create_task(cities.biggest(self._engine))
        reading.add_done_callback(lambda done: done.cancelled() or done.exception())
        try:
            done, _ = await asyncio.wait([reading], timeout=PATIENCE_SECONDS)
            if not done:
                raise TimeoutError
            return await reading
        finally:
            reading.cancel()  # in a black hole that takes seconds, and nobody waits for it

    def _refreshed(self, refreshing: asyncio.Task[None]) -> None:
        if refreshing.cancelled():
            return
        if error := refreshing.exception():
            log.warning("the board could not be read", exc_info=None if database.unavailable(error) else error)
            self._failing = True
            self._note_in(PATIENCE_SECONDS)
        elif self._counted < self._noted:
            self._refresh()

    def _note_in(self, seconds: float) -> None:
        if self._timer:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(seconds, self.heard)

    def _last_known(self) -> Drawing:
        if self.drawing is None:
            raise NoBoard
        if self._down is None:
            self._down = draw(self.drawing.rows, down_since=self._drawn_at)
        return self._down

    async def close(self) -> None:
        """Ends what is under way."""
        if self._timer:
            self._timer.cancel()
        if self._refreshing:
            self._refreshing.cancel()
            await asyncio.wait([self._refreshing])

    async def listen(self, connect: Connect) -> None:
        """Hears every change, for good: a lost connection is made again, and whatever it missed is read then."""
        delay, longest = RETRY_SECONDS
        while True:
            connection = None
            try:
                async with asyncio.timeout(CONNECT_SECONDS):
                    connection, lost = await connect(), asyncio.Event()
                    connection.add_termination_listener(lambda _, lost=lost: lost.set())
                    await connection.add_listener("cities", lambda *_: self.heard())
                self.hearing, self._failing = True, False
                self.heard()  # anything may have happened while nobody listened
                delay = RETRY_SECONDS[0]
                await self._beat(connection, lost)
            except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
                pass
            finally:
                self.hearing = False
                if connection:
                    connection.terminate()
            await asyncio.sleep(delay * random.uniform(0.5, 1))  # noqa: S311 (no secret)
            delay = min(2 * delay, longest)

    async def _beat(self, connection: asyncpg.Connection, lost: asyncio.Event) -> None:
        """Returns when the connection is lost; a black hole shows in a beat that is not answered."""
        quiet = 0
        while not lost.is_set():
            try:
                await asyncio.wait_for(lost.wait(), BEAT_SECONDS)
            except TimeoutError:
                await connection.execute("SELECT 1", timeout=BEAT_SECONDS)
                quiet += 1
                if quiet % BEATS_TO_NOTE == 0:
                    self.heard()


def _rows(places: tuple[Place, ...]) -> tuple[tuple[Row, ...], float | None]:
    """The rows of the table, and in how many seconds the oldest mark of a new one ends."""
    now = datetime.now(UTC)
    longest = max((place.population for place in places), default=0) or 1
    remaining = [(place.created_at + NEW - now).total_seconds() for place in places]
    rows = tuple(
        Row(place.id, place.rank, place.name, place.population, seconds > 0, 100 * place.population / longest)
        for place, seconds in zip(places, remaining, strict=True)
    )
    return rows, min((seconds for seconds in remaining if seconds > 0), default=None)


def draw(rows: tuple[Row, ...], down_since: datetime | None = None) -> Drawing:
    """Renders and compresses every answer once; with `down_since` they say that they are the last ones known."""
    fragment = html.render("_board.html", board={"rows": rows})
    table = Table(rows, hashlib.sha256(fragment.encode()).hexdigest()[:16])
    page, paused_page = (
        Answer(
            page_html(table, live=live, down=down_since is not None).encode(), "text/html; charset=utf-8", PAGE_HEADERS
        )
        for live in (True, False)
    )
    biggest = json.dumps([{"name": row.name, "population": row.population} for row in rows], ensure_ascii=False)
    since = {"last-modified": format_datetime(down_since, usegmt=True)} if down_since else {}
    return Drawing(
        table=table,
        page=page,
        paused_page=paused_page,
        biggest=Answer(biggest.encode(), "application/json", {"cache-control": CACHE_CONTROL, **since}),
        event=streams.event(table.id, fragment),
    )


def page_html(
    table: Table,
    *,
    form: Form = NEW_FORM,
    landed: object = None,
    problem: Sequence[str] = (),
    live: bool = True,
    down: bool = False,
) -> str:
    """The page with this board, this form and what there is to say."""
    return html.render("page.html", board=table, form=form, landed=landed, problem=problem, live=live, down=down)
