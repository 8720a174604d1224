"""The codes of client networks, and the keys that they are made with."""

import asyncio
import hashlib
import hmac
from collections.abc import AsyncIterator

import pytest

from cityweb.postgres import cities, networks
from cityweb.postgres.database import Pool
from cityweb.postgres.networks import Author
from cityweb.submissions import CitySubmission
from tests.conftest import Addresses, run_sql

NETWORK = b"192.0.2.7/32"
DAYS = f"SELECT {networks.TODAY} - day AS age, key FROM network_keys ORDER BY day DESC"
LATER = "UPDATE network_keys SET day = day - {}"


@pytest.fixture
async def pool(empty: Addresses) -> AsyncIterator[Pool]:
    """Twenty connections of the role that serves, and no keys."""
    await run_sql(empty.owner, "TRUNCATE network_keys")
    pool = Pool(empty.app, 20, 20)
    yield pool
    await pool.engine.dispose()
    await run_sql(empty.owner, "TRUNCATE network_keys")


async def keys(pool: Pool) -> tuple[bytes, ...]:
    async with pool.open() as session:
        return await networks.keys(session)


async def ages(empty: Addresses) -> list[int]:
    return [row["age"] for row in await run_sql(empty.owner, DAYS)]


async def test_the_key_of_a_day_is_made_once(pool: Pool, empty: Addresses) -> None:
    for days in (1, 2, 3):
        found = set(await asyncio.gather(*(keys(pool) for _ in range(20))))
        ((first, *others),) = found
        rows = await run_sql(empty.owner, DAYS)
        assert [tuple(row) for row in rows] == [*enumerate([first, *others])]
        assert len({*rows, first}) == days + 1
        assert {len(key) for key in (first, *others)} == {32}
        assert await keys(pool) == (first, *others)
        await run_sql(empty.owner, LATER.format(1))


async def test_a_request_has_the_codes_of_three_days_todays_first(pool: Pool, empty: Addresses) -> None:
    before: list[bytes] = []
    for _ in range(5):
        found = await keys(pool)
        codes = networks.codes(found, NETWORK)
        assert [len(code) for code in codes] == [16] * len(found)
        assert codes == tuple(hmac.digest(key, NETWORK, hashlib.sha256)[:16] for key in found)
        assert list(codes[1:]) == before[:2]
        assert len({*codes, *before}) == len(before) + 1
        before.insert(0, codes[0])
        await run_sql(empty.owner, LATER.format(1))
    assert len(before) == 5


async def test_after_30_days_no_key_is_left_that_makes_the_stored_code(pool: Pool, empty: Addresses) -> None:
    author = Author(networks.codes(await keys(pool), NETWORK))
    async with pool.open() as session:
        await cities.add(session, CitySubmission("Berlin", 5), author)

    async def leads_to_the_network() -> bool:
        ((code,),) = await run_sql(empty.owner, "SELECT network FROM changes")
        found = tuple(row["key"] for row in await run_sql(empty.owner, DAYS))
        return code in networks.codes(found, NETWORK)

    for days, expected in ((1, [0, 1]), (28, [0, 28, 29])):
        await run_sql(empty.owner, LATER.format(days))
        await keys(pool)
        assert await ages(empty) == expected
        assert await leads_to_the_network()
    await run_sql(empty.owner, LATER.format(1))
    assert await ages(empty) == [1, 29, 30]
    await keys(pool)
    assert await ages(empty) == [0, 1, 29]
    assert not await leads_to_the_network()


async def test_an_unknown_network_has_no_code_and_is_stored_as_none(pool: Pool, empty: Addresses) -> None:
    assert networks.codes(await keys(pool), b"") == ()
    async with pool.open() as session:
        await cities.add(session, CitySubmission("Berlin", 5), Author(()))
    assert [tuple(row) for row in await run_sql(empty.owner, "SELECT network FROM changes")] == [(None,)]


async def test_the_day_is_that_of_utc_whatever_the_time_zone_of_the_role(pool: Pool, empty: Addresses) -> None:
    first = await keys(pool)
    zones = ("Pacific/Kiritimati", "Etc/GMT+12")  # On one of the two, it is another day.
    for zone in zones:
        await run_sql(empty.server, f"ALTER ROLE {empty.app.username} SET TimeZone = '{zone}'")
        await pool.engine.dispose()
        assert await keys(pool) == first
    await run_sql(empty.server, f"ALTER ROLE {empty.app.username} RESET TimeZone")


def test_a_contributor_is_five_characters() -> None:
    shown = {networks.contributor(networks.codes((b"key",), bytes([n]))[0]) for n in range(200)}
    assert len(shown) == 200
    assert {len(contributor) for contributor in shown} == {5}
    assert set().union(*shown) <= set("abcdefghijklmnopqrstuvwxyz234567")
