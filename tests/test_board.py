"""The board: one refresh for many, never silently old, the last one known while the database is away."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta

import asyncpg
import pytest
from sqlalchemy import URL, event
from sqlalchemy.ext.asyncio import AsyncEngine

from cityweb import board as board_module
from cityweb import cities, database
from cityweb.board import Board, Connect, Drawing
from cityweb.streams import Streams
from tests.conftest import Addresses, Site, drawn, hearing, locking, open_site, run_sql, until
from tests.pages import add, one, parse, table, text
from tests.proxy import Proxy


@contextmanager
def queries(board: Board) -> Iterator[list[str]]:
    """The statements that the application sends meanwhile."""
    statements: list[str] = []

    def count(*arguments: object) -> None:
        statements.append(str(arguments[2]))

    engine = board._engine.sync_engine
    event.listen(engine, "before_cursor_execute", count)
    yield statements
    event.remove(engine, "before_cursor_execute", count)


@pytest.fixture
def drawings(monkeypatch: pytest.MonkeyPatch) -> list[Drawing]:
    """Every drawing that is made."""
    made: list[Drawing] = []
    draw = board_module.draw

    def drawing(*arguments: object, **named: object) -> Drawing:
        made.append(draw(*arguments, **named))  # type: ignore[arg-type]
        return made[-1]

    monkeypatch.setattr(board_module, "draw", drawing)
    return made


def insert(name: str, population: int) -> str:
    """A statement as somebody might type it into psql."""
    return (
        "INSERT INTO cities (name, name_key, name_bare, population)"
        f" VALUES ('{name}', lower('{name}'), lower('{name}'), {population})"
    )


CUT_THE_LISTENER = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE application_name = 'cityweb listener' AND pid <> pg_backend_pid()
"""


async def names(site: Site) -> list[str]:
    return [city["name"] for city in (await site.client.get("/cities/biggest")).json()]


async def shown(site: Site) -> list[str]:
    return [row.name for row in (site.board.drawing.rows if site.board.drawing else ())]


# --- one for many ---


async def test_1000_reads_after_a_change_make_one_query_and_one_drawing(site: Site, drawings: list[Drawing]) -> None:
    await site.client.get("/")
    drawings.clear()
    with queries(site.board) as statements:
        await run_sql(site.board._engine.url, insert("Tokyo", 5))
        site.board.heard()
        answers = await asyncio.gather(*(site.client.get("/cities/biggest") for _ in range(1000)))
    assert {answer.text for answer in answers} == {'[{"name": "Tokyo", "population": 5}]'}
    assert len(statements) == 1
    assert len(drawings) == 1


@pytest.mark.parametrize(
    ("changes", "pause", "spacing"), [(50, 0, board_module.SPACING_SECONDS), (10, 0.02, 1)], ids=["at once", "spread"]
)
async def test_many_changes_make_at_most_three_queries(
    site: Site, monkeypatch: pytest.MonkeyPatch, changes: int, pause: float, spacing: float
) -> None:
    monkeypatch.setattr(board_module, "SPACING_SECONDS", spacing)
    await site.client.get("/")
    with queries(site.board) as statements:
        for _ in range(changes):
            site.board.heard()
            await asyncio.sleep(pause)
        await drawn(site.board)
    assert 1 <= len(statements) <= 3


async def test_two_notes_of_one_change_make_one_query(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(board_module, "SETTLE_SECONDS", 0.5)
    await site.client.get("/")
    with queries(site.board) as statements:
        site.board.heard()
        await asyncio.sleep(0.05)
        site.board.heard()
        await drawn(site.board)
    assert len(statements) == 1


async def test_a_change_that_shows_nothing_is_not_drawn(site: Site, drawings: list[Drawing]) -> None:
    await site.client.get("/")
    drawings.clear()
    with queries(site.board) as statements:
        await site.board.fresh()
    assert len(statements) == 1
    assert drawings == []


async def test_a_refresh_that_began_before_a_change_does_not_count_for_it(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, asked, go_on = cities.biggest, asyncio.Event(), asyncio.Event()

    async def slow(*arguments: AsyncEngine) -> object:
        rows = await read(*arguments)
        asked.set()
        await go_on.wait()
        return rows

    await site.client.get("/")
    monkeypatch.setattr(cities, "biggest", slow)
    early = asyncio.create_task(site.board.fresh())
    await asked.wait()
    await run_sql(site.board._engine.url, insert("Tokyo", 5))
    late = asyncio.create_task(site.board.fresh())
    go_on.set()
    assert (await early).rows == ()
    assert [row.name for row in (await late).rows] == ["Tokyo"]


# --- always true ---

CHANGES = {
    "insert": insert("Delhi", 7),
    "update": "UPDATE cities SET population = 9",
    "delete": "DELETE FROM cities",
    "truncate": "TRUNCATE cities",
    "copy": "",
}


async def change(url: URL, kind: str) -> None:
    """Changes cities outside the application."""
    if CHANGES[kind]:
        await run_sql(url, CHANGES[kind])
        return
    connection = await database.connect_listener(url)
    columns = ("name", "name_key", "name_bare", "population")
    await connection.copy_records_to_table("cities", records=[("Delhi", "delhi", "delhi", 7)], columns=columns)
    await connection.close()


@pytest.mark.parametrize("kind", CHANGES)
async def test_a_change_by_psql_is_noted_once_and_shown(site: Site, empty: Addresses, kind: str) -> None:
    await add(site.client, "json", "Tokyo", 5)
    await site.client.get("/")
    await asyncio.sleep(0.1)
    before = site.board.drawing
    assert before and await shown(site) == ["Tokyo"]
    noted = site.board._noted
    await change(empty.owner, kind)
    await until(lambda: site.board.drawing is not before)
    assert site.board.drawing and site.board.drawing.rows != before.rows
    await asyncio.sleep(0.1)
    assert site.board._noted == noted + 1


async def test_a_refused_duplicate_is_not_noted(site: Site) -> None:
    await add(site.client, "json", "Tokyo", 5)
    await site.client.get("/")
    await asyncio.sleep(0.1)
    noted = site.board._noted
    assert (await add(site.client, "json", "Tokyo", 6)).status == 422
    await asyncio.sleep(0.1)
    assert site.board._noted == noted
    await add(site.client, "json", "Delhi", 6)
    await until(lambda: site.board._noted > noted)


async def test_a_deaf_board_is_read_fresh(site: Site, empty: Addresses) -> None:
    await site.client.get("/")
    site.board.hearing = False
    await run_sql(empty.owner, insert("Tokyo", 5))
    assert await names(site) == ["Tokyo"]


async def test_a_lost_listener_comes_back_and_reads_what_it_missed(site: Site, empty: Addresses) -> None:
    await site.client.get("/")
    await run_sql(site.board._engine.url, CUT_THE_LISTENER)
    await run_sql(empty.owner, insert("Tokyo", 5))
    assert await names(site) == ["Tokyo"]
    await until(lambda: site.board.hearing, 2)
    await run_sql(empty.owner, insert("Delhi", 6))
    await until(lambda: bool(site.board.drawing and len(site.board.drawing.rows) == 2), 2)


async def test_quiet_beats_count_as_a_note(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(board_module, "BEAT_SECONDS", 0.01)
    await run_sql(site.board._engine.url, CUT_THE_LISTENER)
    await until(lambda: not site.board.hearing)
    await hearing(site.board)
    noted = site.board._noted
    await until(lambda: site.board._noted > noted)


async def test_a_new_row_is_marked_for_a_while(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(board_module, "NEW", timedelta(seconds=0.5))
    await add(site.client, "json", "Tokyo", 5)
    assert parse((await site.client.get("/")).text).select(".board__new .tag")
    await until(lambda: bool(site.board.drawing and not site.board.drawing.rows[0].new))
    assert not parse((await site.client.get("/")).text).select(".board__new, .tag")


# --- the database away ---


@pytest.fixture
async def proxied(empty: Addresses) -> AsyncIterator[tuple[Site, Proxy]]:
    """The application behind a proxy that can break the way to the database."""
    async with Proxy(empty.app) as proxy, open_site(proxy.url) as site:
        await hearing(site.board)
        yield site, proxy


async def test_the_last_board_is_served_while_the_database_is_down(proxied: tuple[Site, Proxy]) -> None:
    site, proxy = proxied
    await add(site.client, "json", "Tokyo", 5)
    whole = await site.client.get("/")
    proxy.down()
    await until(lambda: not site.board.hearing)
    answer = await site.client.get("/")
    page = parse(answer.text)
    assert answer.status_code == 200
    assert table(page) == [("1", "Tokyo", "5")]
    assert one(page, ".notice")
    assert answer.headers["etag"] != whole.headers["etag"]
    biggest = await site.client.get("/cities/biggest")
    assert biggest.json() == [{"name": "Tokyo", "population": 5}]
    assert biggest.headers["last-modified"]
    assert (await site.client.get("/livez")).status_code == 200
    assert (await site.client.get("/readyz")).status_code == 503
    proxy.up()
    await until(lambda: site.board.hearing)
    assert not parse((await site.client.get("/")).text).select(".notice")


@pytest.mark.parametrize("way", ["plain", "htmx"])
async def test_an_add_while_the_database_is_down_keeps_what_was_typed(proxied: tuple[Site, Proxy], way: str) -> None:
    site, proxy = proxied
    await site.client.get("/")
    proxy.down()
    headers = {"hx-request": "true"} if way == "htmx" else {}
    answer = await site.client.post("/cities/", data={"name": "Tokyo", "population": "5"}, headers=headers)
    page = parse(answer.text)
    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) > 0
    assert "was not saved" in text(one(page, "#problem #problem-text"))
    assert one(page, "#name")["value"] == "Tokyo"


async def test_a_program_is_told_that_the_database_is_down(proxied: tuple[Site, Proxy]) -> None:
    site, proxy = proxied
    proxy.down()
    answer = await site.client.post("/cities/", json={"name": "Tokyo", "population": 5})
    assert (answer.status_code, answer.json()["status"]) == (503, 503)
    assert answer.headers["retry-after"]


async def test_a_black_hole_costs_one_reader_a_second_and_the_next_nothing(proxied: tuple[Site, Proxy]) -> None:
    site, proxy = proxied
    await site.client.get("/")
    proxy.swallow()
    site.board.heard()
    async with asyncio.timeout(1.5):
        assert (await site.client.get("/")).status_code == 200
    async with asyncio.timeout(0.3):
        assert (await site.client.get("/")).status_code == 200


async def test_without_a_database_from_the_start_there_is_no_board_until_it_comes(empty: Addresses) -> None:
    async with Proxy(empty.app) as proxy:
        proxy.down()
        async with open_site(proxy.url) as site:
            for address in ("/", "/cities/biggest", "/events"):
                answer = await site.client.get(address)
                assert answer.status_code == 503
                assert answer.headers["retry-after"]
            assert (await site.client.post("/cities/", data={"name": "A", "population": "5"})).status_code == 503
            proxy.up()
            await hearing(site.board)
            assert (await site.client.get("/")).status_code == 200


async def test_a_bug_in_drawing_is_a_500_and_is_logged(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    await site.client.get("/")
    monkeypatch.setattr(board_module, "draw", lambda _: 1 / 0)
    await run_sql(site.board._engine.url, insert("Tokyo", 5))
    site.board.heard()
    assert (await site.client.get("/")).status_code == 500
    assert "ZeroDivisionError" in caplog.text


async def test_the_answer_to_an_add_says_stored_even_when_the_board_cannot_be_read(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    await site.client.get("/")

    async def away(*_: object) -> None:
        raise ConnectionError

    monkeypatch.setattr(cities, "biggest", away)
    answer = await site.client.post(
        "/cities/", data={"name": "Tokyo", "population": "5"}, headers={"hx-request": "true"}
    )
    assert answer.status_code == 200
    assert text(one(parse(answer.text), "hx-partial[hx-target='#status']")) == "Tokyo added"
    assert await run_sql(site.board._engine.url, "SELECT FROM cities")


async def test_after_a_failure_the_database_is_asked_again_unasked(
    site: Site, empty: Addresses, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(board_module, "PATIENCE_SECONDS", 0.2)
    await site.client.get("/")
    async with locking(empty.owner, "ACCESS EXCLUSIVE", 1):
        site.board.heard()
        await until(lambda: site.board._failing)
    await drawn(site.board)


@asynccontextmanager
async def listening(board: Board, connect: Connect) -> AsyncIterator[None]:
    """Lets a board listen until the block is left."""
    task = asyncio.create_task(board.listen(connect))
    try:
        yield
    finally:
        while not task.done():  # a cancellation may get lost, as in the lifespan
            task.cancel()
            await asyncio.wait([task], timeout=1)


async def test_a_listener_that_cannot_connect_tries_on_at_a_bounded_pace(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(board_module, "RETRY_SECONDS", (0.001, 0.01))
    tries = 0

    async def be_refused() -> asyncpg.Connection:
        nonlocal tries
        tries += 1
        raise ConnectionRefusedError

    async with listening(site.board, be_refused):
        await until(lambda: tries > 20)  # where each pause is twice the one before, that takes a quarter of an hour


async def test_a_listener_that_is_never_heard_of_again_while_it_begins_tries_again(
    site: Site, empty: Addresses, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(board_module, "CONNECT_SECONDS", 0.5)
    board = Board(site.board._engine, Streams(1, 1))
    async with Proxy(empty.app) as proxy:
        urls = iter([proxy.url, empty.app])

        async def connect() -> asyncpg.Connection:
            connection = await database.connect_listener(next(urls))
            proxy.swallow()
            return connection

        async with listening(board, connect):
            await until(lambda: board.hearing)
        await board.close()


def test_the_listener_has_time_to_connect() -> None:
    assert database.PATIENCE_SECONDS <= board_module.CONNECT_SECONDS
