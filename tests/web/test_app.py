"""The application as a whole: what is answered when something fails, and how it gets ready."""

import asyncio
import gc
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import pytest
from sqlalchemy.exc import DBAPIError

from cityweb import log
from cityweb.postgres import cities, schema
from cityweb.postgres.database import DatabaseUnavailable
from cityweb.web import app as application
from cityweb.web.middleware import Prepared
from tests.conftest import Addresses, Server, Site, open_site, rejecting, run_sql, until
from tests.pages import HTMX, WAYS, add, one, parse, table, text
from tests.proxy import Proxy

FORM = {"name": "Boom", "population": "5"}


async def submit(site: Site, way: str, name: str = "Boom") -> httpx.Response:
    if way == "json":
        return await site.client.post("/cities/", json={"name": name, "population": 5})
    return await site.client.post("/cities/", data={**FORM, "name": name}, headers=HTMX if way == "htmx" else {})


def sentence(answer: httpx.Response) -> str:
    if answer.headers["content-type"] == "application/problem+json":
        return str(answer.json()["detail"])
    return text(one(parse(answer.text), "#problem-text"))


@pytest.fixture
async def failing(site: Site, empty: Addresses, request: pytest.FixtureRequest) -> AsyncIterator[Site]:
    """The site on a database whose every insert raises this SQLSTATE."""
    await site.client.get("/")
    async with rejecting(empty.owner, request.param):
        yield site


@pytest.mark.parametrize(
    "failing", ["25006", "28000", "3D000", "42P01", "53100", "55P03", "57014", "58030"], indirect=True
)
@pytest.mark.parametrize("way", WAYS)
async def test_a_database_that_cannot_store_is_a_503_and_recovers(failing: Site, empty: Addresses, way: str) -> None:
    answer = await submit(failing, way)
    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) > 0
    assert "This one was not saved" in sentence(answer)
    assert (await failing.client.get("/")).status_code == 200
    await run_sql(empty.owner, "DROP FUNCTION reject CASCADE")
    assert (await add(failing.client, way, "Boom", 5)).status == 201


SHORT_NAMES = "ALTER TABLE cities ADD CONSTRAINT short CHECK (length(name) < 5)"


@pytest.mark.parametrize("bug", [None, SHORT_NAMES])
async def test_the_log_of_a_bug_has_no_entered_values(
    empty: Addresses, start_server: Callable[..., Server], log: Path, bug: str | None
) -> None:
    running = start_server()
    async with AsyncExitStack() as stack, httpx.AsyncClient(base_url=running.url) as client:
        if bug:
            await run_sql(empty.owner, bug)
            stack.push_async_callback(run_sql, empty.owner, "ALTER TABLE cities DROP CONSTRAINT short")
        else:
            await stack.enter_async_context(rejecting(empty.owner, "22012"))
        assert (await client.post("/cities/", json={"name": "Entered", "population": 5})).status_code == 500
    running.stop()
    assert '"traceback"' in log.read_text()
    assert "entered" not in log.read_text().lower()


@pytest.mark.parametrize("failing", ["22012"], indirect=True)
@pytest.mark.parametrize("way", WAYS)
async def test_a_bug_is_a_500_that_says_what_may_have_been_saved(
    failing: Site, way: str, caplog: pytest.LogCaptureFixture
) -> None:
    answer = await submit(failing, way)
    assert answer.status_code == 500
    assert "If you added a city, we could not confirm that it was saved." in sentence(answer)
    assert "Traceback" not in answer.text
    assert [record.levelname for record in caplog.records if record.name == "cityweb.requests"] == ["ERROR"]


@pytest.mark.parametrize(
    ("connected", "said"),
    [
        (True, "We could not confirm that the city was saved. Adding it again is safe."),
        (False, "We can't save cities right now. This one was not saved; try again in 5 seconds."),
    ],
)
async def test_an_add_that_nobody_confirms_says_so(empty: Addresses, connected: bool, said: str) -> None:
    async with Proxy(empty.app) as proxy, open_site(proxy.url) as site:
        await site.client.get("/")
        if connected:
            await add(site.client, "json", "Tokyo", 5)
        proxy.swallow()
        async with asyncio.timeout(4):  # 2.3 s, or 4.3 s if a close waits for the silent server
            answer = await submit(site, "plain")
    assert answer.status_code == 503
    assert sentence(answer) == said
    assert one(parse(answer.text), "#name").attrs["value"] == "Boom"


async def test_where_a_city_landed_is_left_out_while_the_database_is_down(empty: Addresses) -> None:
    async with Proxy(empty.app) as proxy, open_site(proxy.url) as site:
        await add(site.client, "json", "Tokyo", 5)
        await site.client.get("/")
        proxy.down()
        page = parse((await site.client.get("/?added=1")).text)
    assert text(one(page, "#status")) == ""
    assert table(page) == [("1", "Tokyo", "5")]


async def test_a_bug_in_reading_is_a_500(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    await add(site.client, "json", "Tokyo", 5)

    async def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(cities, "landing", broken)
    assert (await site.client.get("/?added=1")).status_code == 500


async def test_a_bug_after_an_add_is_a_500(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(cities, "landing", broken)
    assert (await submit(site, "htmx")).status_code == 500


async def test_an_add_is_told_of_though_the_database_goes_away_right_after(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: object) -> None:
        raise DatabaseUnavailable

    monkeypatch.setattr(cities, "landing", away)
    answer = await submit(site, "htmx")
    assert text(one(parse(answer.text), "hx-partial[hx-target='#status']")) == "Boom was added, with 5 people. See it"


async def test_an_add_is_told_of_though_there_is_no_board(empty: Addresses, monkeypatch: pytest.MonkeyPatch) -> None:
    async def away(*_: object) -> None:
        raise ConnectionError

    monkeypatch.setattr(cities, "leaders", away)
    async with open_site(empty.app) as site:
        answer = await submit(site, "htmx")
    assert answer.status_code == 503
    assert "The city was saved, but" in parse(answer.text).text()
    assert await run_sql(empty.app, "SELECT FROM cities")


async def test_a_city_that_was_removed_at_once_was_added_all_the_same(
    site: Site, empty: Addresses, monkeypatch: pytest.MonkeyPatch
) -> None:
    landing = cities.landing

    async def removed(*arguments: object) -> object:
        await run_sql(empty.owner, "DELETE FROM cities")
        return await landing(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(cities, "landing", removed)
    answer = await submit(site, "htmx")
    assert text(one(parse(answer.text), "hx-partial[hx-target='#status']")) == "Boom was added, with 5 people. See it"


async def test_a_visitor_who_leaves_while_sending_is_no_bug(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    sent: list[dict[str, object]] = []

    async def receive() -> dict[str, object]:
        return {"type": "http.disconnect"}

    async def send(message: object) -> None:
        assert isinstance(message, dict)
        sent.append(message)

    headers = [(b"host", b"testserver"), (b"content-type", b"application/json"), (b"content-length", b"9")]
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/cities/",
        "query_string": b"",
        "headers": headers,
        "scheme": "http",
    }
    await site.asgi(scope, receive, send)
    assert sent[0]["status"] == 400
    assert caplog.records == []


# --- getting ready ---


def test_the_environment_describes_the_application(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://nobody@127.0.0.1:1/x")
    monkeypatch.setenv("CITYWEB_STREAMS", "20,3000")
    assert isinstance(application.from_environment(), Prepared)
    assert [record.getMessage() for record in caplog.records] == ["CITYWEB_STREAMS has no effect any more: remove it"]


def test_what_a_server_starts_with_is_never_collected_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://nobody@127.0.0.1:1/x")
    gc.unfreeze()
    application.from_environment()
    assert gc.get_freeze_count() > 10_000
    gc.unfreeze()


async def test_the_last_requests_are_in_the_log(
    empty: Addresses, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(log, "FLUSH_SECONDS", 60)
    async with open_site(empty.app) as site:
        await site.client.get("/livez")
    assert '"path": "/livez"' in capfd.readouterr().err


async def test_an_empty_database_is_made_ready_by_who_finds_it(empty: Addresses) -> None:
    name = "cityweb_test_fresh"
    await run_sql(empty.server, f"CREATE DATABASE {name} OWNER {empty.owner.username}")
    url = empty.owner.set(database=name)
    try:
        async with open_site(url) as one_site, open_site(url):
            await until(lambda: not one_site.board.is_stale, 10)
            assert (await add(one_site.client, "json", "Tokyo", 5)).status == 201
    finally:
        await run_sql(empty.server, f"DROP DATABASE {name} WITH (FORCE)")


async def test_a_schema_that_is_not_ours_is_an_error(empty: Addresses) -> None:
    name = "cityweb_test_strange"
    await run_sql(empty.server, f"CREATE DATABASE {name} OWNER {empty.owner.username}")
    url = empty.owner.set(database=name)
    try:
        await run_sql(url, "CREATE TABLE cities ()")
        with pytest.raises(DBAPIError, match="already exists"):
            await schema.prepare(url)
    finally:
        await run_sql(empty.server, f"DROP DATABASE {name} WITH (FORCE)")


async def test_an_old_schema_that_this_role_may_not_change_is_waited_for(
    empty: Addresses, caplog: pytest.LogCaptureFixture
) -> None:
    if empty.app == empty.owner:
        pytest.skip("TEST_DATABASE_URL gives one role, which may change the schema")
    (head,) = await run_sql(empty.owner, "SELECT version_num FROM alembic_version")
    await run_sql(empty.owner, "UPDATE alembic_version SET version_num = '0001'")
    try:
        with pytest.raises(schema.UnfitDatabase, match="initdb"):
            await schema.prepare(empty.app)
        async with open_site(empty.app):
            await until(lambda: "initdb" in caplog.text)
    finally:
        await run_sql(empty.owner, f"UPDATE alembic_version SET version_num = '{head['version_num']}'")


async def test_a_bug_while_getting_ready_is_logged_and_tried_again(
    empty: Addresses, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    prepare = schema.prepare

    async def broken(*_: object) -> None:
        monkeypatch.setattr(schema, "prepare", prepare)
        raise ZeroDivisionError

    monkeypatch.setattr(schema, "prepare", broken)
    async with open_site(empty.app):
        await until(lambda: schema.prepare is prepare)
        await until(lambda: "ZeroDivisionError" in caplog.text)
