"""The board: one read for many, one rendering for a change, and never more than a second old without saying so."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from sqlalchemy import URL

from cityweb.postgres import cities, database, transfers
from cityweb.postgres.database import DriverConnection
from cityweb.web import board as board_module
from cityweb.web.board import Board, NoBoard
from cityweb.web.templates import Templates
from tests.conftest import Addresses, Site, insert, lines, locking, open_site, run_sql, until
from tests.pages import TEMPLATES, add, one, parse, table, text
from tests.proxy import Proxy


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[cities.Leaders]:
    """Every read of the board."""
    made: list[cities.Leaders] = []
    read = cities.leaders

    async def counted(connection: DriverConnection) -> cities.Leaders:
        made.append(await read(connection))
        return made[-1]

    monkeypatch.setattr(cities, "leaders", counted)
    return made


@pytest.fixture
def rendered(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The name of every template that is rendered."""
    made: list[str] = []
    render = Templates.render

    def counted(templates: Templates, template: str, **context: object) -> str:
        made.append(template)
        return render(templates, template, **context)

    monkeypatch.setattr(Templates, "render", counted)
    return made


@asynccontextmanager
async def keeping(url: URL) -> AsyncIterator[Board]:
    """A board of its own whose timer runs."""
    board = Board(lambda: database.connect(url), TEMPLATES)
    task = asyncio.create_task(board.keep())
    try:
        yield board
    finally:
        task.cancel()
        await asyncio.wait([task])


async def names(site: Site) -> list[str]:
    return [city["name"] for city in (await site.client.get("/cities/biggest")).json()]


# --- one for many ---


async def test_a_quiet_board_costs_a_query_a_tick_and_no_rendering(
    site: Site, reads: list[cities.Leaders], rendered: list[str]
) -> None:
    for path in ("/", "/board", "/cities/biggest"):
        await site.client.get(path)
    rendered.clear()
    reads.clear()
    begun = asyncio.get_running_loop().time()
    while len(reads) < 3:
        for path in ("/", "/board", f"/board?seen={site.board.snapshot.id}", "/cities/biggest"):
            if not site.board.is_stale:  # as it may be on a busy machine; its responses are rendered then
                await site.client.get(path)
            if site.board.is_stale:
                rendered.clear()
        await asyncio.sleep(0)  # a client in this process never waits
    assert asyncio.get_running_loop().time() - begun > board_module.PAUSE_SECONDS
    assert rendered == []


async def test_a_read_is_one_statement(empty: Addresses) -> None:
    statements: list[str] = []

    async def connect() -> DriverConnection:
        connection = await database.connect(empty.app)
        connection.add_query_logger(lambda record: statements.append(record.query))
        return connection

    board = Board(connect, TEMPLATES)
    task = asyncio.create_task(board.keep())
    await board.refresh()
    await board.refresh()
    task.cancel()
    await asyncio.wait([task])
    assert statements == [cities.LEADERS] * 2


async def test_fifty_waiting_callers_cause_at_most_two_reads(site: Site, reads: list[cities.Leaders]) -> None:
    await site.board.refresh()
    reads.clear()
    await asyncio.gather(*(site.board.refresh() for _ in range(50)))
    assert 1 <= len(reads) <= 2


async def test_callers_one_after_another_cause_at_most_a_read_in_ten_milliseconds(
    site: Site, reads: list[cities.Leaders]
) -> None:
    begun = time.monotonic()
    for _ in range(20):
        await site.board.refresh()
    assert len(reads) <= (time.monotonic() - begun) / board_module.SPACING_SECONDS + 1


async def test_fifty_adds_at_once_are_shown_and_rendered_once(site: Site, rendered: list[str]) -> None:
    answers = await asyncio.gather(*(add(site.client, "json", f"City {number}", number) for number in range(50)))
    assert {answer.status for answer in answers} == {201}
    assert await names(site) == [f"City {number}" for number in range(49, 29, -1)]
    await asyncio.gather(*(site.client.get("/") for _ in range(100)))
    assert rendered == ["page.html"]


async def test_a_response_is_rendered_when_it_is_first_asked_for(site: Site, rendered: list[str]) -> None:
    await add(site.client, "json", "Tokyo", 5)
    assert rendered == []
    for path in ("/", "/?live=off", "/board"):
        await site.client.get(path)
        await site.client.get(path)
    assert rendered == ["page.html", "page.html", "_board.html"]


async def test_a_board_that_may_lack_an_acknowledged_city_says_so_at_once(empty: Addresses) -> None:
    async with Proxy(empty.app) as proxy, keeping(proxy.url) as board:
        await board.refresh()
        assert board.snapshot.as_of is None
        proxy.swallow()
        begun = time.monotonic()
        await board.refresh()
        assert time.monotonic() - begun < board_module.STALE_SECONDS
        assert board.snapshot.as_of
        proxy.up()
        await until(lambda: not board.is_stale)


async def test_a_read_that_began_before_a_change_does_not_count_for_it(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, asked, go_on = cities.leaders, asyncio.Event(), asyncio.Event()

    async def slow(connection: DriverConnection) -> cities.Leaders:
        found = await read(connection)
        asked.set()
        await go_on.wait()
        return found

    monkeypatch.setattr(cities, "leaders", slow)
    board = site.board
    early = asyncio.create_task(board.refresh())
    await asked.wait()
    await run_sql(site.read_pool.engine.url, insert("Tokyo", 5))
    late = asyncio.create_task(board.refresh())
    await asyncio.sleep(0)
    go_on.set()
    await early
    assert board.snapshot.leaders.total == 0
    await late
    assert board.snapshot.leaders.newest == "Tokyo"


async def test_a_caller_that_is_cancelled_cancels_nobody(site: Site) -> None:
    first, second = (asyncio.create_task(site.board.refresh()) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    await second
    assert not site.board.is_stale


# --- always true ---

CHANGES = {
    "insert": insert("Delhi", 7),
    "update": "UPDATE cities SET population = 9",
    "delete": "DELETE FROM cities",
    "truncate": "TRUNCATE cities",
    "below the top 20": insert("Greenhorn", 0),
}


@pytest.mark.parametrize("kind", CHANGES)
async def test_a_change_by_psql_is_shown(site: Site, empty: Addresses, kind: str) -> None:
    for number in range(20):
        await add(site.client, "json", f"City {number}", 100 + number)
    before = await site.client.get("/board")
    await run_sql(empty.owner, CHANGES[kind])
    await until(lambda: f'value="{site.board.snapshot.id}"' not in before.text, 1)
    assert (await site.client.get("/board")).text != before.text


async def test_two_processes_agree_on_the_id(site: Site, empty: Addresses) -> None:
    await add(site.client, "json", "Tokyo", 5)
    async with keeping(empty.app) as board:
        await board.refresh()
        assert board.snapshot.id == site.board.snapshot.id


async def test_a_new_row_is_marked_for_a_minute_of_the_database(site: Site, empty: Addresses) -> None:
    await add(site.client, "json", "Tokyo", 5)
    assert parse((await site.client.get("/")).text).css("tr.new small")
    await run_sql(empty.owner, "UPDATE cities SET created_at = now() - interval '59.5 s'")
    await until(lambda: not site.board.snapshot.leaders.rows[0].new)
    assert not parse((await site.client.get("/")).text).css("tr.new, tr small")


async def test_loaded_cities_are_not_marked_as_new(site: Site, empty: Addresses) -> None:
    await transfers.load(empty.owner, lines(("Tokyo", 5)))
    await site.board.refresh()
    assert not parse((await site.client.get("/")).text).css("tr.new")


async def test_a_page_that_shows_the_board_is_told_so_and_no_more(site: Site) -> None:
    seen = site.board.snapshot.id
    answer = await site.client.get(f"/board?seen={seen}")
    assert (answer.status_code, answer.text) == (204, "")
    assert dict(answer.headers) == {"cache-control": board_module.CACHE_CONTROL}
    await add(site.client, "json", "Tokyo", 5)
    answer = await site.client.get(f"/board?seen={seen}")
    page = parse(answer.text)
    assert answer.status_code == 200
    assert one(page, "[name=seen]").attrs["value"] == site.board.snapshot.id != seen
    assert table(page) == [("1", "Tokyo", "5")]
    assert text(one(page, "#state")) == "Live. 1 city. Newest: Tokyo"


@pytest.mark.parametrize("query", ["seen={}&x=1", "x=1&seen={}"])
async def test_the_whole_way_says_the_same(site: Site, query: str) -> None:
    answer = await site.client.get(f"/board?{query.format(site.board.snapshot.id)}")
    assert (answer.status_code, answer.text) == (204, "")
    assert (await site.client.get("/board?seen=%20")).text == (await site.client.get("/board")).text


# --- the database away ---


@pytest.fixture
async def proxied(empty: Addresses) -> AsyncIterator[tuple[Site, Proxy]]:
    """The application behind a proxy that can break the way to the database."""
    async with Proxy(empty.app) as proxy, open_site(proxy.url) as site:
        yield site, proxy


BREAKS = {"down": Proxy.down, "a black hole": Proxy.swallow}


@pytest.mark.parametrize("how", BREAKS)
async def test_the_last_board_is_served_and_says_so(proxied: tuple[Site, Proxy], how: str) -> None:
    site, proxy = proxied
    await add(site.client, "json", "Tokyo", 5)
    whole, seen = await site.client.get("/"), site.board.snapshot.id
    BREAKS[how](proxy)
    await until(lambda: site.board.is_stale)
    answer = await site.client.get("/")
    page = parse(answer.text)
    assert answer.status_code == 200
    assert table(page) == [("1", "Tokyo", "5")]
    assert text(one(page, "#stale")).startswith("Showing the board as of ")
    assert answer.headers["etag"] != whole.headers["etag"]
    assert not page.css(".live-word")
    assert (await site.client.get(f"/board?seen={seen}")).status_code == 200
    assert (await site.client.get(f"/board?seen={site.board.snapshot.id}")).status_code == 204
    biggest = await site.client.get("/cities/biggest")
    assert biggest.json() == [{"name": "Tokyo", "population": 5}]
    assert biggest.headers["last-modified"]
    assert (await site.client.get("/livez")).status_code == 200
    assert (await site.client.get("/readyz")).status_code == 503
    proxy.up()
    proxy.reset()
    await until(lambda: not site.board.is_stale, 2)
    assert site.board.snapshot.id == seen
    assert (await site.client.get("/readyz")).status_code == 200
    assert text(one(parse((await site.client.get("/")).text), "#stale")) == ""


async def test_nobody_waits_to_be_told(proxied: tuple[Site, Proxy]) -> None:
    site, proxy = proxied
    proxy.swallow()
    await until(lambda: site.board.is_stale)
    async with asyncio.timeout(1):
        for path in ["/", "/board", "/cities/biggest", "/readyz"] * 20:
            await site.client.get(path)


async def test_a_timer_that_hangs_makes_the_board_stale(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.board.deadline_seconds = 60
    monkeypatch.setattr(cities, "leaders", lambda _: asyncio.sleep(60))
    await until(lambda: site.board.is_stale)
    assert site.board.snapshot.as_of


@pytest.mark.parametrize("way", ["plain", "htmx"])
async def test_an_add_while_the_database_is_down_keeps_what_was_entered(proxied: tuple[Site, Proxy], way: str) -> None:
    site, proxy = proxied
    await site.client.get("/")
    proxy.down()
    headers = {"hx-request": "true"} if way == "htmx" else {}
    answer = await site.client.post("/cities/", data={"name": "Tokyo", "population": "5"}, headers=headers)
    page = parse(answer.text)
    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) > 0
    assert "was not saved" in text(one(page, "#problem #problem-text"))
    assert one(page, "#name").attrs["value"] == "Tokyo"


async def test_a_program_is_told_that_the_database_is_down(proxied: tuple[Site, Proxy]) -> None:
    site, proxy = proxied
    proxy.down()
    answer = await site.client.post("/cities/", json={"name": "Tokyo", "population": 5})
    assert (answer.status_code, answer.json()["status"]) == (503, 503)
    assert answer.headers["retry-after"]


async def test_without_a_database_from_the_start_there_is_no_board_until_it_comes(empty: Addresses) -> None:
    async with Proxy(empty.app) as proxy:
        proxy.down()
        async with open_site(proxy.url) as site:
            with pytest.raises(NoBoard):
                _ = site.board.snapshot
            for path in ("/", "/cities/biggest", "/board", "/readyz"):
                answer = await site.client.get(path)
                assert answer.status_code == 503
                assert answer.headers["retry-after"]
            assert (await site.client.post("/cities/", data={"name": "A", "population": "5"})).status_code == 503
            proxy.up()
            await until(lambda: not site.board.is_stale)
            assert (await site.client.get("/")).status_code == 200


async def test_a_failure_and_the_recovery_are_a_line_each(
    proxied: tuple[Site, Proxy], caplog: pytest.LogCaptureFixture, reads: list[cities.Leaders]
) -> None:
    site, proxy = proxied
    proxy.down()
    await until(lambda: site.board.is_stale)
    proxy.up()
    reads.clear()
    await until(lambda: len(reads) > 1)
    lines = [record for record in caplog.records if "the board" in record.getMessage()]
    assert [record.getMessage() for record in lines] == ["the board cannot be read", "the board is read again"]
    assert not any(record.exc_info for record in lines)


async def test_a_database_that_refuses_connections_is_asked_at_a_bounded_pace() -> None:
    tries = 0

    async def connect() -> DriverConnection:
        nonlocal tries
        tries += 1
        raise ConnectionRefusedError

    board = Board(connect, TEMPLATES)
    task = asyncio.create_task(board.keep())
    for _ in range(3):
        await board.refresh()
    task.cancel()
    await asyncio.wait([task])
    assert tries <= 4


async def test_a_bug_in_reading_is_logged_and_the_timer_goes_on(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(cities, "leaders", lambda _: 1 / 0)
        await until(lambda: site.board.is_stale)
    assert "ZeroDivisionError" in caplog.text
    await until(lambda: not site.board.is_stale)


@pytest.mark.parametrize("path", ["/", "/board", "/?live=off"])
async def test_a_bug_in_rendering_is_a_500_and_is_logged(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, path: str
) -> None:
    render = Templates.render

    def broken(templates: Templates, template: str, **context: object) -> str:
        return render(templates, template, **context) if template == "error.html" else str(1 / 0)

    monkeypatch.setattr(Templates, "render", broken)
    answer = await site.client.get(path)
    assert answer.status_code == 500
    assert "Something went wrong." in answer.text
    assert "ZeroDivisionError" in caplog.text


async def test_the_response_to_an_add_says_stored_even_when_the_board_cannot_be_read(
    site: Site, empty: Addresses, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(_: DriverConnection) -> cities.Leaders:
        raise ConnectionError

    monkeypatch.setattr(cities, "leaders", away)
    city = {"name": "Tokyo", "population": "5"}
    answer = await site.client.post("/cities/", data=city, headers={"hx-request": "true"})
    assert answer.status_code == 200
    assert "Tokyo is number 1" in text(one(parse(answer.text), "hx-partial[hx-target='#status']"))
    assert await run_sql(empty.app, "SELECT FROM cities")


async def test_a_read_that_is_locked_out_is_given_up_and_asked_again(site: Site, empty: Addresses) -> None:
    async with locking(empty.owner, "ACCESS EXCLUSIVE", 1.5):
        await until(lambda: site.board.is_stale)
    await until(lambda: not site.board.is_stale, 2)
