"""What can be done with cities, where the way to the database is not what it should be."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from sqlalchemy import text
from sqlalchemy.exc import NoResultFound

from cityweb.postgres import cities, database, ranking
from cityweb.postgres.cities import Landing, Stored
from cityweb.postgres.database import DatabaseUnavailable, Pool, Unconfirmed
from cityweb.submissions import CitySubmission
from tests.conftest import Addresses, insert, locking, rejecting, run_sql
from tests.proxy import Proxy

CUT = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
    " WHERE application_name = 'cityweb' AND usename = current_user AND pid <> pg_backend_pid()"
)

BACKENDS = "SELECT pid FROM pg_stat_activity WHERE application_name = 'cityweb' AND pid <> pg_backend_pid()"


@pytest.fixture
async def proxied(empty: Addresses) -> AsyncIterator[tuple[Pool, Proxy]]:
    """The pool of the application behind a proxy."""
    async with Proxy(empty.app) as proxy:
        pool = Pool(proxy.url, 3)
        yield pool, proxy
        await pool.engine.dispose()


@pytest.fixture
async def pool(empty: Addresses) -> AsyncIterator[Pool]:
    pool = Pool(empty.app, 3)
    yield pool
    await pool.engine.dispose()


async def add(pool: Pool, name: str, population: int = 5) -> bool:
    async with pool.open() as session:
        _, is_new = await cities.add(session, CitySubmission(name, population))
        return is_new


async def newest(pool: Pool) -> list[str]:
    async with pool.open() as session:
        return [city.name for city in await ranking.newest(session)]


async def test_20_lost_answers_lose_nothing_and_lie_to_nobody(proxied: tuple[Pool, Proxy]) -> None:
    pool, proxy = proxied
    await add(pool, "First")
    for number in range(20):
        proxy.answers_to_lose = 1
        assert await add(pool, f"City {number}") is True
    assert proxy.lost == 20
    assert len(await run_sql(proxy.database, "SELECT FROM cities")) == 21


async def test_a_taken_name_stays_taken_when_the_answer_is_lost(proxied: tuple[Pool, Proxy]) -> None:
    pool, proxy = proxied
    await add(pool, "Paris")
    proxy.answers_to_lose = 1
    assert await add(pool, "paris") is False


async def test_a_taken_name_uses_up_no_id(pool: Pool, empty: Addresses) -> None:
    for name in ("Paris", "PARIS", "paris", "Lyon"):
        await add(pool, name)
    assert [row["id"] for row in await run_sql(empty.owner, "SELECT id FROM cities ORDER BY id")] == [1, 2]


async def test_of_many_who_add_one_name_at_once_one_stores_it(pool: Pool) -> None:
    assert sorted(await asyncio.gather(*(add(pool, "Paris") for _ in range(30)))) == [False] * 29 + [True]


async def test_a_city_like_ours_that_was_stored_before_is_not_ours(proxied: tuple[Pool, Proxy]) -> None:
    pool, proxy = proxied
    await add(pool, "First")
    await run_sql(
        proxy.database,
        insert("Paris", 5, created_at="now() - interval '1 minute'"),
        CUT,
    )
    assert await add(pool, "Paris") is False


async def test_a_city_that_another_stored_while_we_were_cut_off_is_not_ours(
    proxied: tuple[Pool, Proxy], monkeypatch: pytest.MonkeyPatch
) -> None:
    pool, proxy = proxied
    await add(pool, "First")

    async def add_elsewhere() -> None:
        await run_sql(proxy.database, insert("Paris", 6))

    monkeypatch.setattr(database, "pause_before_retry", add_elsewhere)
    await run_sql(proxy.database, CUT)
    assert await add(pool, "Paris") is False


async def test_a_second_disconnect_is_raised(proxied: tuple[Pool, Proxy], monkeypatch: pytest.MonkeyPatch) -> None:
    pool, proxy = proxied
    await add(pool, "First")
    proxy.answers_to_lose = 1

    async def cut() -> None:
        proxy.down()

    monkeypatch.setattr(database, "pause_before_retry", cut)
    with pytest.raises(Unconfirmed):
        await add(pool, "Second")


async def test_a_broken_connection_costs_a_reader_nothing(proxied: tuple[Pool, Proxy]) -> None:
    pool, proxy = proxied
    assert await newest(pool) == []
    proxy.reset()
    assert await newest(pool) == []


async def test_a_connection_that_breaks_while_it_is_made_costs_a_reader_nothing(
    proxied: tuple[Pool, Proxy],
) -> None:
    pool, proxy = proxied
    proxy.swallow()
    reading = asyncio.create_task(newest(pool))
    await asyncio.sleep(0.1)
    proxy.reset()
    proxy.up()
    assert await reading == []


async def test_a_database_that_stays_away_is_raised(proxied: tuple[Pool, Proxy]) -> None:
    pool, proxy = proxied
    proxy.down()
    with pytest.raises(DatabaseUnavailable):
        await newest(pool)


async def test_a_name_that_is_removed_meanwhile_is_tried_again(
    pool: Pool, empty: Addresses, monkeypatch: pytest.MonkeyPatch
) -> None:
    await run_sql(empty.owner, insert("paris", 5))
    stored, nobody = cities.STORED, text(f"{cities.STORED} AND false")

    async def put_back() -> None:
        monkeypatch.setattr(cities, "STORED", stored)

    monkeypatch.setattr(cities, "STORED", nobody)
    monkeypatch.setattr(database, "pause_before_retry", put_back)
    assert await add(pool, "Paris") is False
    monkeypatch.setattr(cities, "STORED", nobody)
    monkeypatch.setattr(database, "pause_before_retry", lambda: asyncio.sleep(0))
    with pytest.raises(NoResultFound):
        await add(pool, "Paris")


@pytest.mark.parametrize(("code", "expected"), [("53100", DatabaseUnavailable), ("08006", Unconfirmed)])
async def test_an_insert_that_the_server_rejected_is_not_stored_and_a_lost_one_may_be(
    pool: Pool, empty: Addresses, code: str, expected: type[Exception]
) -> None:
    async with rejecting(empty.owner, code):
        with pytest.raises(DatabaseUnavailable) as raised:
            await add(pool, "Paris")
    assert raised.type is expected


@pytest.mark.parametrize("seconds", [0.5, 5])
async def test_a_pause_of_the_database_ends_an_add_and_gives_its_connection_back(
    empty: Addresses, seconds: float
) -> None:
    pool = Pool(empty.app, 1, seconds)
    assert await add(pool, "First")
    async with locking(empty.owner, "SHARE", 0.8):
        if seconds < 0.8:
            with pytest.raises(Unconfirmed):
                await add(pool, "Paris")
        else:
            assert await add(pool, "Paris")
    assert await add(pool, "Last")
    await pool.engine.dispose()


async def test_all_work_of_a_request_shares_one_time_limit(empty: Addresses) -> None:
    pool = Pool(empty.app, 1, 0.5)
    async with pool.open() as session:
        assert await ranking.newest(session) == []
        backends = await run_sql(empty.app, BACKENDS)
        await asyncio.sleep(0.5)
        with pytest.raises(DatabaseUnavailable):
            await ranking.newest(session)
        assert len(backends) == 1
        assert await run_sql(empty.app, BACKENDS) == backends
    await pool.engine.dispose()


async def test_requests_get_their_connections_in_the_order_in_which_they_came(empty: Addresses) -> None:
    pool, served = Pool(empty.app, 1), []

    async def read(number: int) -> None:
        for round_ in range(3):
            await newest(pool)
            served.append((round_, number))

    await asyncio.gather(*map(read, range(5)))
    assert served == sorted(served)
    await pool.engine.dispose()


async def test_a_stored_city_has_its_place_and_its_near_miss(pool: Pool) -> None:
    await add(pool, "Zürich", 9)
    await add(pool, "Zurich", 5)
    async with pool.open() as session:
        landing, nowhere = await cities.landing(session, 2), await cities.landing(session, 3)
    assert landing
    assert timedelta(0) <= landing.age < timedelta(minutes=1)
    assert landing == Landing(Stored(2, "Zurich", 5, ""), landing.age, 2, Stored(1, "Zürich", 9, ""))
    assert nowhere is None
