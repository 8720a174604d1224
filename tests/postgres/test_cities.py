"""What can be done with cities, where the way to the database is not what it should be."""

import asyncio
import gc
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, NoResultFound
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from cityweb.postgres import cities, database, ranking
from cityweb.postgres.database import DatabaseTimeout, DatabaseUnavailable, Reader
from tests.conftest import Addresses, insert, run_sql
from tests.proxy import Proxy

CUT = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
    " WHERE application_name = 'cityweb' AND usename = current_user AND pid <> pg_backend_pid()"
)


@pytest.fixture
async def proxied(empty: Addresses) -> AsyncIterator[tuple[AsyncEngine, Proxy]]:
    """The pool of the application behind a proxy."""
    async with Proxy(empty.app) as proxy:
        engine = database.make_engine(proxy.url)
        yield engine, proxy
        await engine.dispose()


async def add(engine: AsyncEngine, name: str, population: int = 5) -> bool:
    async with AsyncSession(engine, expire_on_commit=False) as session:
        _, is_new = await cities.add(session, name, population)
        return is_new


async def test_20_lost_answers_lose_nothing_and_lie_to_nobody(proxied: tuple[AsyncEngine, Proxy]) -> None:
    engine, proxy = proxied
    await add(engine, "First")
    for number in range(20):
        proxy.answers_to_lose = 1
        assert await add(engine, f"City {number}") is True
    assert proxy.lost == 20
    assert len(await run_sql(proxy.database, "SELECT FROM cities")) == 21


async def test_a_taken_name_stays_taken_when_the_answer_is_lost(proxied: tuple[AsyncEngine, Proxy]) -> None:
    engine, proxy = proxied
    await add(engine, "Paris")
    proxy.answers_to_lose = 1
    assert await add(engine, "paris") is False


async def test_a_taken_name_uses_up_no_id(empty: Addresses) -> None:
    engine = database.make_engine(empty.app)
    for name in ("Paris", "PARIS", "paris", "Lyon"):
        await add(engine, name)
    await engine.dispose()
    assert [row["id"] for row in await run_sql(empty.owner, "SELECT id FROM cities ORDER BY id")] == [1, 2]


async def test_of_many_who_add_one_name_at_once_one_stores_it(empty: Addresses) -> None:
    engine = database.make_engine(empty.app)
    assert sorted(await asyncio.gather(*(add(engine, "Paris") for _ in range(30)))) == [False] * 29 + [True]
    await engine.dispose()


async def test_a_city_like_ours_that_was_stored_before_is_not_ours(proxied: tuple[AsyncEngine, Proxy]) -> None:
    engine, proxy = proxied
    await add(engine, "First")
    await run_sql(
        proxy.database,
        "INSERT INTO cities (name, name_key, name_bare, population, created_at)"
        " VALUES ('Paris', 'paris', 'paris', 5, now() - interval '1 minute')",
        CUT,
    )
    assert await add(engine, "Paris") is False


async def test_a_city_that_another_stored_while_we_were_cut_off_is_not_ours(
    proxied: tuple[AsyncEngine, Proxy], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, proxy = proxied
    await add(engine, "First")

    async def add_elsewhere() -> None:
        await run_sql(proxy.database, insert("Paris", 6))

    monkeypatch.setattr(database, "pause_before_retry", add_elsewhere)
    await run_sql(proxy.database, CUT)
    assert await add(engine, "Paris") is False


async def test_a_second_disconnect_is_raised(
    proxied: tuple[AsyncEngine, Proxy], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, proxy = proxied
    await add(engine, "First")
    proxy.answers_to_lose = 1

    async def cut() -> None:
        proxy.down()

    monkeypatch.setattr(database, "pause_before_retry", cut)
    with pytest.raises((DBAPIError, OSError)) as raised:
        await add(engine, "Second")
    assert database.is_unavailable(raised.value)


async def test_a_broken_connection_costs_a_reader_nothing(proxied: tuple[AsyncEngine, Proxy]) -> None:
    engine, proxy = proxied
    assert await Reader(engine).read(ranking.newest) == []
    proxy.reset()
    assert await Reader(engine).read(ranking.newest) == []


async def test_a_connection_that_breaks_while_it_is_made_costs_a_reader_nothing(
    proxied: tuple[AsyncEngine, Proxy],
) -> None:
    engine, proxy = proxied
    proxy.swallow()
    reading = asyncio.create_task(Reader(engine).read(ranking.newest))
    await asyncio.sleep(0.1)
    proxy.reset()
    proxy.up()
    assert await reading == []


async def test_a_database_that_stays_away_is_raised(proxied: tuple[AsyncEngine, Proxy]) -> None:
    engine, proxy = proxied
    proxy.down()
    with pytest.raises(DatabaseUnavailable):
        await Reader(engine).read(ranking.newest)


async def test_a_name_that_is_removed_meanwhile_is_tried_again(
    empty: Addresses, monkeypatch: pytest.MonkeyPatch
) -> None:
    await run_sql(empty.owner, insert("paris", 5))
    stored, nobody = cities.STORED, text(f"{cities.STORED} AND false")

    async def put_back() -> None:
        monkeypatch.setattr(cities, "STORED", stored)

    engine = database.make_engine(empty.app)
    monkeypatch.setattr(cities, "STORED", nobody)
    monkeypatch.setattr(database, "pause_before_retry", put_back)
    assert await add(engine, "Paris") is False
    monkeypatch.setattr(cities, "STORED", nobody)
    monkeypatch.setattr(database, "pause_before_retry", lambda: asyncio.sleep(0))
    with pytest.raises(NoResultFound):
        await add(engine, "Paris")
    await engine.dispose()


async def test_a_stored_city_has_its_place_and_its_near_miss(empty: Addresses) -> None:
    engine = database.make_engine(empty.app)
    await add(engine, "Zürich", 9)
    await add(engine, "Zurich", 5)
    async with engine.connect() as connection:
        landing, nowhere = await cities.landing(connection, 2), await cities.landing(connection, 3)
    assert landing
    assert timedelta(0) <= landing.age < timedelta(minutes=1)
    assert landing == cities.Landing(cities.Stored(2, "Zurich", 5), landing.age, 2, cities.Stored(1, "Zürich", 9))
    assert nowhere is None
    await engine.dispose()


async def test_work_goes_on_when_its_request_is_cancelled(empty: Addresses) -> None:
    engine = database.make_engine(empty.app)
    async with AsyncSession(engine) as session:
        request = asyncio.create_task(database.run_to_end(session, cities.add(session, "Paris", 5)))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request
        await session.info["work"]
    assert len(await run_sql(empty.app, "SELECT FROM cities")) == 1
    await engine.dispose()


async def test_work_that_takes_too_long_is_not_waited_for(empty: Addresses) -> None:
    engine = database.make_engine(empty.app)
    async with AsyncSession(engine) as session:
        with pytest.raises(DatabaseTimeout):
            await database.run_to_end(session, asyncio.sleep(0.2), seconds=0.01)
        await session.info["work"]
    await engine.dispose()


async def test_nobody_is_told_of_an_error_too_late(empty: Addresses) -> None:
    told: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    engine = database.make_engine(empty.app)
    async with AsyncSession(engine) as session:
        with pytest.raises(DatabaseTimeout):
            await database.run_to_end(session, fail_soon(), seconds=0.01)
        await asyncio.wait([session.info.pop("work")])
    gc.collect()
    await engine.dispose()
    assert told == []


async def fail_soon() -> None:
    await asyncio.sleep(0.05)
    raise ValueError
