"""How often one address may add, on the real database."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import httpx
import pytest

from cityweb.postgres.database import Pool
from cityweb.postgres.rate_limit import Limiter, RateLimited, network_of
from tests.conftest import Addresses, Site, open_site, run_sql
from tests.pages import HTMX, WAYS, one, parse, text


@pytest.fixture
async def pool(empty: Addresses) -> AsyncIterator[Pool]:
    pool = Pool(empty.app, 3)
    yield pool
    await pool.engine.dispose()


async def wait(pool: Pool, limiter: Limiter, address: str = "192.0.2.1") -> int:
    """How many seconds an address has to wait before it may add; 0 if it may."""
    async with pool.open() as session:
        try:
            await limiter.charge(session, address)
        except RateLimited as limited:
            return limited.seconds
    return 0


async def waits(pool: Pool, limiter: Limiter, count: int, address: str = "192.0.2.1") -> list[int]:
    return [await wait(pool, limiter, address) for _ in range(count)]


async def test_a_burst_passes_and_what_follows_waits(pool: Pool) -> None:
    assert await waits(pool, Limiter(3, 60, 3600), 5) == [0, 0, 0, 1, 1]


async def test_another_address_is_unaffected(pool: Pool) -> None:
    limiter = Limiter(1, 1, 60)
    assert await waits(pool, limiter, 2) == [0, 60]
    assert await waits(pool, limiter, 1, "192.0.2.2") == [0]


async def test_an_hour_has_its_own_limit(pool: Pool) -> None:
    answers = await waits(pool, Limiter(100, 6000, 2), 3)
    assert answers[:2] == [0, 0]
    assert 1790 <= answers[2] <= 1800


async def test_after_the_wait_it_goes_on(pool: Pool) -> None:
    limiter = Limiter(1, 60, 3600)
    assert await waits(pool, limiter, 2) == [0, 1]
    await asyncio.sleep(1.05)
    assert await waits(pool, limiter, 1) == [0]


async def test_the_limit_is_exact_for_many_processes_at_once(pool: Pool) -> None:
    processes = [Limiter(10, 10, 60) for _ in range(4)]
    answers = await asyncio.gather(*(wait(pool, limiter) for limiter in processes * 10))
    assert answers.count(0) == 10


async def test_a_connection_that_broke_meanwhile_is_no_reason_to_reject(pool: Pool, empty: Addresses) -> None:
    limiter = Limiter(3, 3, 60)
    assert await waits(pool, limiter, 1) == [0]
    await run_sql(
        empty.server,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE application_name = 'cityweb' AND pid <> pg_backend_pid()",
    )
    assert await waits(pool, limiter, 3) == [0, 0, 20]


async def test_a_rejected_address_does_not_reach_the_database_again(pool: Pool, empty: Addresses) -> None:
    limiter = Limiter(1, 1, 60)
    await waits(pool, limiter, 2)
    await run_sql(empty.owner, "TRUNCATE adds")
    assert await waits(pool, limiter, 1) == [60]


async def test_a_rejection_is_remembered_for_a_minute_at_most(pool: Pool, empty: Addresses) -> None:
    limiter = Limiter(100, 6000, 1)
    assert limiter.remembered_seconds <= 60
    limiter.remembered_seconds = 0.2
    assert (await waits(pool, limiter, 2))[1] > 3500
    await run_sql(empty.owner, "TRUNCATE adds")
    # What is told is the whole wait, while it is remembered.
    assert await wait(pool, limiter) > 3500
    await asyncio.sleep(0.3)
    assert await waits(pool, limiter, 1) == [0]


A_DAY_AHEAD = "UPDATE adds SET {0} = {0} + interval '1 day'"


@pytest.mark.parametrize(("columns", "wait"), [(["minute"], 7), (["hour"], 60), (["minute", "hour"], 60)])
async def test_a_server_time_that_stepped_back_locks_nobody_out(
    pool: Pool, empty: Addresses, columns: list[str], wait: int
) -> None:
    await waits(pool, Limiter(9, 9, 60), 1)
    await run_sql(empty.owner, *map(A_DAY_AHEAD.format, columns))
    assert await waits(pool, Limiter(9, 9, 60), 2) == [0, wait]
    (row,) = await run_sql(empty.owner, "SELECT minute - now() AS minute, hour - now() AS hour FROM adds")
    assert row["minute"] <= timedelta(minutes=1)
    assert row["hour"] <= timedelta(hours=1)


async def test_after_a_server_time_stepped_back_no_wait_of_a_day_is_told(pool: Pool, empty: Addresses) -> None:
    assert await waits(pool, Limiter(2, 2, 60), 3) == [0, 0, 30]
    await run_sql(empty.owner, A_DAY_AHEAD.format("hour"))
    assert await waits(pool, Limiter(2, 2, 60), 1) == [60]


async def test_only_so_many_rejected_addresses_are_kept(pool: Pool) -> None:
    limiter = Limiter(1, 1, 60)
    limiter.remembered_max = 2
    for last in range(4):
        await waits(pool, limiter, 2, f"192.0.2.{last}")
    assert len(limiter._rejected) <= 2


async def test_addresses_whose_time_has_passed_are_deleted(pool: Pool, empty: Addresses) -> None:
    await waits(pool, Limiter(10, 6000, 360_000), 1)
    await asyncio.sleep(0.1)
    await waits(pool, Limiter(10, 10, 60), 1, "192.0.2.2")
    assert len(await run_sql(empty.owner, "SELECT FROM adds")) == 1


async def test_no_address_is_stored_as_it_is(pool: Pool, empty: Addresses) -> None:
    await waits(pool, Limiter(10, 10, 60), 1)
    (row,) = await run_sql(empty.owner, "SELECT address FROM adds")
    assert len(row["address"]) == 32


@pytest.mark.parametrize(
    ("one_address", "other", "same"),
    [
        ("192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("192.0.2.1", "::ffff:192.0.2.1", True),
        ("2001:db8::1", "2001:db8::ffff:2", True),
        ("2001:db8::1", "2001:db8:0:ffff::1", True),
        ("2001:db8::1", "2001:db8:1::1", False),
        ("2002:c000:201::1", "2002:c000:201:ffff::1", True),
        ("2002:c000:201::1", "2002:c000:202::1", False),
        ("fe80::1%eth0", "fe80::1%eth1", True),
        ("", "testclient", True),
        ("192.0.2.300", "2001:db8:::1", True),
    ],
)
def test_what_counts_as_one_address(one_address: str, other: str, same: bool) -> None:
    assert (network_of(one_address) == network_of(other)) is same


# --- through the site ---


@pytest.fixture
async def limited(empty: Addresses) -> AsyncIterator[Site]:
    """The site with room for one city a minute."""
    async with open_site(empty.app, CITYWEB_RATE_LIMIT="1,1,60") as site:
        yield site


async def submit(site: Site, way: str, name: str, population: str = "5") -> httpx.Response:
    city = {"name": name, "population": population}
    if way == "json":
        return await site.client.post("/cities/", json=city)
    return await site.client.post("/cities/", data=city, headers=HTMX if way == "htmx" else {})


@pytest.mark.parametrize("way", WAYS)
async def test_too_many_adds_are_a_429_that_keeps_what_was_entered(limited: Site, way: str) -> None:
    assert (await submit(limited, way, "Tokyo")).status_code in {200, 201, 303}
    answer = await submit(limited, way, "Delhi")
    assert answer.status_code == 429
    seconds = answer.headers["retry-after"]
    sentence = f"Too many cities were added from your network. This one was not saved; try again in {seconds} seconds."
    if way == "json":
        assert answer.json()["detail"] == sentence
    else:
        page = parse(answer.text)
        assert text(one(page, "#problem-text")) == sentence
        assert one(page, "#name").attrs["value"] == "Delhi"


async def test_a_typing_error_is_free(limited: Site) -> None:
    for _ in range(3):
        assert (await submit(limited, "plain", "Tokyo", "many")).status_code == 422
    assert (await submit(limited, "plain", "Tokyo")).status_code == 303


async def test_where_the_limiter_fails_nothing_is_added(limited: Site, empty: Addresses) -> None:
    await limited.client.get("/")
    await run_sql(empty.owner, "ALTER TABLE adds RENAME TO away")
    try:
        assert (await submit(limited, "plain", "Tokyo")).status_code == 503
    finally:
        await run_sql(empty.owner, "ALTER TABLE away RENAME TO adds")
    assert not await run_sql(empty.owner, "SELECT FROM cities")
