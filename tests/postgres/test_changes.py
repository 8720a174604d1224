"""Corrections, removals and reverts by many visitors at once, as the role that serves."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from cityweb.postgres import changes, cities, database, history
from cityweb.postgres.changes import Conflict, NameTaken, NoSuchChange, NoSuchCity, NotRevertible, OnBoard
from cityweb.postgres.cities import Stored
from cityweb.postgres.database import DatabaseUnavailable, Pool, unit_of_work
from cityweb.postgres.networks import ANYBODY, Author, Blocked
from cityweb.submissions import FIELDS, CitySubmission
from tests import replay
from tests.conftest import FILL, Addresses, insert, quoted, run_sql

OUTCOMES = (Blocked, Conflict, NameTaken, NoSuchChange, NoSuchCity, NotRevertible, OnBoard)
ALICE, BOB = Author((b"alice, today", b"alice, yesterday")), Author((b"bob, today", b"bob, yesterday"))
OPERATOR = Author(is_operator=True, reason="not a city")
BERLIN = Stored(21, "Berlin", 100, "DE")

_correct = unit_of_work(changes.correct)
_remove = unit_of_work(changes.remove)
_revert = unit_of_work(changes.revert)


@pytest.fixture
async def pool(empty: Addresses) -> AsyncIterator[Pool]:
    """Twenty connections of the role that serves, and twenty cities of 1,001 to 1,020 people without a history."""
    await run_sql(empty.owner, FILL.format(population="1000 + n", first=1, last=20))
    pool = Pool(empty.app, 20, 20)
    yield pool
    await pool.engine.dispose()


@pytest.fixture
async def berlin(pool: Pool) -> Pool:
    """Twenty cities, and Berlin, which Alice has just added and which is not on the board."""
    assert await add(pool, "Berlin", 100, "DE", author=ALICE) == (BERLIN, True)
    return pool


async def add(
    pool: Pool, name: str, population: int = 100, country: str = "", author: Author = ANYBODY
) -> tuple[Stored, bool]:
    async with pool.open() as session:
        return await cities.add(session, CitySubmission(name, population, country), author)


async def correct(
    pool: Pool, old: dict[str, object], new: dict[str, object], city_id: int = 21, author: Author = ANYBODY
) -> Stored:
    async with pool.open() as session:
        return await _correct(session, city_id, old, new, author)


async def set_population(pool: Pool, old: int, new: int, author: Author = ANYBODY) -> Stored:
    return await correct(pool, {"population": old}, {"population": new}, author=author)


async def rename(pool: Pool, old: str, new: str, city_id: int = 21) -> Stored:
    return await correct(pool, {"name": old}, {"name": new}, city_id)


async def remove(pool: Pool, city: Stored = BERLIN, author: Author = ANYBODY) -> None:
    async with pool.open() as session:
        await _remove(session, city, author)


async def revert(pool: Pool, change: int, author: Author = ANYBODY) -> Stored:
    async with pool.open() as session:
        return await _revert(session, change, author)


async def as_operator(empty: Addresses, work: Callable[..., Awaitable[object]], *arguments: object) -> None:
    """Does work as the commands of an operator do."""
    async with database.outside_the_pool(empty.owner).begin() as connection:
        await work(connection, *arguments, OPERATOR)


async def at_once(*works: Coroutine[Any, Any, object]) -> list[object]:
    """The results of works that begin at once, or what they raise of OUTCOMES."""
    results = await asyncio.gather(*works, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException) and not isinstance(result, OUTCOMES):
            raise result
    return results


def kinds(results: list[object]) -> Counter[str]:
    return Counter("done" if result is None else type(result).__name__ for result in results)


@asynccontextmanager
async def queueing(empty: Addresses, waiting: int, *statements: str, end: str = "COMMIT") -> AsyncIterator[None]:
    """Holds the locks of statements until `waiting` other statements wait for a lock, so that these began before."""
    connection = await database.connect(empty.owner)
    await connection.execute("; ".join(("BEGIN", *statements)))

    async def release() -> None:
        while await connection.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted") < waiting:
            await asyncio.sleep(0.005)
        await connection.execute(end)

    releasing = asyncio.create_task(release())
    try:
        yield
        await releasing
    finally:
        releasing.cancel()
        await connection.close()


HOLD_BERLIN = "SELECT FROM cities WHERE id = 21 FOR UPDATE"


async def log(empty: Addresses) -> list[tuple[Any, ...]]:
    """Of each change: its id, its kind, its city, the old and the new values that are not null, what it reverts."""
    rows = await run_sql(empty.owner, "SELECT * FROM changes ORDER BY id")
    return [
        (
            row["id"],
            row["kind"],
            row["city_id"],
            *(
                tuple(value for name in names if (value := row[name]) is not None)
                for names in (changes.OLD, changes.NEW)
            ),
            row["reverts"],
        )
        for row in rows
    ]


async def table(empty: Addresses, condition: str = "id > 20") -> list[tuple[object, ...]]:
    rows = await run_sql(empty.owner, f"SELECT id, name, population, country FROM cities WHERE {condition} ORDER BY id")
    return [tuple(row) for row in rows]


ADDED = (1, "add", 21, (), ("Berlin", 100, "DE"), None)


# --- corrections ---


async def test_a_correction_changes_a_city_and_writes_who_changed_what(berlin: Pool, empty: Addresses) -> None:
    before = datetime.now(UTC)
    old: dict[str, object] = {"name": "Berlin", "country": "DE"}
    assert await correct(berlin, old, {"name": "Bérlin", "country": ""}, author=BOB) == Stored(21, "Bérlin", 100, "")
    (key,) = await run_sql(empty.owner, "SELECT name_key, name_bare FROM cities WHERE id = 21")
    assert tuple(key) == ("bérlin", "berlin")
    assert await log(empty) == [ADDED, (2, "correct", 21, ("Berlin", "DE"), ("Bérlin", ""), None)]
    (row,) = await run_sql(empty.owner, "SELECT * FROM changes WHERE id = 2")
    assert abs(row["at"] - before) < timedelta(minutes=1)
    assert (row["operator"], row["network"], row["reason"], row["created_at"]) == (False, b"bob, today", None, None)


async def test_of_50_corrections_of_one_value_one_succeeds(berlin: Pool, empty: Addresses) -> None:
    async with queueing(empty, 20, HOLD_BERLIN):
        results = await at_once(*(set_population(berlin, 100, 200 + n) for n in range(50)))
    assert kinds(results) == {"Stored": 1, "Conflict": 49}
    (stored,) = (result for result in results if isinstance(result, Stored))
    assert {result.stored for result in results if isinstance(result, Conflict)} == {stored}
    assert await table(empty) == [(21, "Berlin", stored.population, "DE")]
    assert await log(empty) == [ADDED, (2, "correct", 21, (100,), (stored.population,), None)]


async def test_corrections_of_three_fields_from_three_pages_are_all_stored(berlin: Pool, empty: Addresses) -> None:
    async with queueing(empty, 3, HOLD_BERLIN):
        results = await at_once(
            rename(berlin, "Berlin", "Bern"),
            set_population(berlin, 100, 200),
            correct(berlin, {"country": "DE"}, {"country": "CH"}),
        )
    assert kinds(results) == {"Stored": 3}
    assert await table(empty) == [(21, "Bern", 200, "CH")]
    steps = {(kind, old, new) for _, kind, _, old, new, _ in (await log(empty))[1:]}
    assert steps == {
        ("correct", ("Berlin",), ("Bern",)),
        ("correct", (100,), (200,)),
        ("correct", ("DE",), ("CH",)),
    }


async def test_a_correction_of_two_fields_stores_both_or_none(berlin: Pool, empty: Addresses) -> None:
    await set_population(berlin, 100, 200)
    with pytest.raises(Conflict) as raised:
        await correct(berlin, {"population": 100, "country": "DE"}, {"population": 300, "country": "FR"})
    assert raised.value.stored == Stored(21, "Berlin", 200, "DE")
    assert await table(empty) == [(21, "Berlin", 200, "DE")]
    assert len(await log(empty)) == 2


@pytest.mark.parametrize("first", ["correct", "remove"])
async def test_of_corrections_and_removals_one_succeeds(berlin: Pool, empty: Addresses, first: str) -> None:
    works = [work for n in range(10) for work in (set_population(berlin, 100, 200 + n), remove(berlin))]
    async with queueing(empty, 20, HOLD_BERLIN):
        results = kinds(await at_once(*(works if first == "correct" else reversed(works))))
    _, (_, kind, *_) = await log(empty)
    if kind == "correct":
        assert results == {"Stored": 1, "Conflict": 19}
        assert len(await table(empty)) == 1
    else:  # A removal of a city that has been removed with the same values is a success.
        assert results == {"done": 10, "NoSuchCity": 10}
        assert await table(empty) == []


async def test_a_repeated_correction_is_a_success_and_writes_nothing(berlin: Pool, empty: Addresses) -> None:
    for _ in range(3):
        assert await set_population(berlin, 100, 200) == replace(BERLIN, population=200)
    async with queueing(empty, 20, HOLD_BERLIN):
        assert kinds(await at_once(*(set_population(berlin, 200, 300) for _ in range(20)))) == {"Stored": 20}
    assert await log(empty) == [
        ADDED,
        (2, "correct", 21, (100,), (200,), None),
        (3, "correct", 21, (200,), (300,), None),
    ]


async def test_a_correction_of_a_city_that_is_not_there_is_told(berlin: Pool) -> None:
    with pytest.raises(NoSuchCity):
        await correct(berlin, {"population": 1}, {"population": 2}, 22)


async def test_a_correction_that_waited_while_its_value_changed_and_came_back_is_stored(
    berlin: Pool, empty: Addresses
) -> None:
    there_and_back = [f"UPDATE cities SET population = {n} WHERE id = 21" for n in (7, 100)]
    async with queueing(empty, 1, *there_and_back):
        assert await set_population(berlin, 100, 200) == replace(BERLIN, population=200)
    async with queueing(empty, 1, *there_and_back, end="ROLLBACK"):
        assert await set_population(berlin, 200, 300) == replace(BERLIN, population=300)
    assert await log(empty) == [
        ADDED,
        (2, "correct", 21, (100,), (200,), None),
        (3, "correct", 21, (200,), (300,), None),
    ]


@pytest.mark.parametrize(("returns", "outcome"), [(2, "Stored"), (3, "Conflict")])
async def test_a_value_that_came_back_before_it_was_read_is_corrected(
    berlin: Pool, empty: Addresses, monkeypatch: pytest.MonkeyPatch, returns: int, outcome: str
) -> None:
    find, change = changes.find, "UPDATE cities SET population = {} WHERE id = 21"
    await run_sql(empty.owner, change.format(7))
    reads = 0

    async def find_returned(connection: changes.Connection, city_id: int) -> Stored | None:
        nonlocal reads
        reads += 1
        await run_sql(empty.owner, change.format(100))
        stored = await find(connection, city_id)
        if reads < returns:
            await run_sql(empty.owner, change.format(7))
        elif reads > 2:
            await run_sql(empty.owner, change.format(8))
        return stored

    monkeypatch.setattr(changes, "find", find_returned)
    assert kinds(await at_once(set_population(berlin, 100, 200))) == {outcome: 1}
    assert reads == returns


# --- names ---


async def test_of_renamings_and_adds_to_one_name_one_succeeds(pool: Pool, empty: Addresses) -> None:
    async with queueing(empty, 20, insert("paris", 1), end="ROLLBACK"):
        results = await at_once(
            *(rename(pool, f"C{n}", "Paris", n) for n in range(1, 11)),
            *(add(pool, "PARIS", 5) for _ in range(10)),
        )
    holders = await table(empty, "name_key = 'paris'")
    assert len(holders) == 1
    (change,) = await log(empty)
    if change[1] == "correct":
        assert kinds(results) == {"Stored": 1, "NameTaken": 9, "tuple": 10}
    else:
        assert kinds(results) == {"NameTaken": 10, "tuple": 10}
    assert {city.id for city, _ in (result for result in results if isinstance(result, tuple))} == {holders[0][0]}
    assert sum(is_new for _, is_new in (result for result in results if isinstance(result, tuple))) == (
        change[1] == "add"
    )


@pytest.mark.parametrize("name", ["Bonn", "changes_reverts"])
async def test_a_name_that_is_taken_is_told(berlin: Pool, empty: Addresses, name: str) -> None:
    await add(berlin, name)
    with pytest.raises(NameTaken):
        await rename(berlin, "Berlin", name.upper())
    assert len(await log(empty)) == 2


async def test_names_that_are_swapped_at_once_are_taken(berlin: Pool, empty: Addresses) -> None:
    await add(berlin, "Bonn")
    for _ in range(3):
        async with queueing(empty, 2, "SELECT FROM cities WHERE id > 20 FOR UPDATE"):
            results = await at_once(rename(berlin, "Berlin", "Bonn"), rename(berlin, "Bonn", "Berlin", 22))
        assert kinds(results) == {"NameTaken": 2}
    assert len(await log(empty)) == 2


async def test_a_correction_that_ends_in_a_deadlock_is_tried_again(
    berlin: Pool, empty: Addresses, monkeypatch: pytest.MonkeyPatch
) -> None:
    await add(berlin, "Bonn")
    retries = 0

    async def count() -> None:
        nonlocal retries
        retries += 1
        await operating

    monkeypatch.setattr(database, "pause_before_retry", count)
    operated: object = None
    # PostgreSQL cancels the statement that detects the deadlock. On a slow machine this may be the operator's, and then
    # the test tries again.
    while operated != "COMMIT":
        connection = await database.connect(empty.owner)
        await connection.execute("BEGIN; UPDATE cities SET name_key = 'free' WHERE id = 22")
        renaming = asyncio.create_task(rename(berlin, "Berlin", "Bonn"))
        while not await connection.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):
            await asyncio.sleep(0.005)
        operating = asyncio.create_task(connection.execute("UPDATE cities SET population = 7 WHERE id = 21; COMMIT"))
        renamed, operated = await asyncio.gather(renaming, operating, return_exceptions=True)
        await connection.close()
    assert renamed == Stored(21, "Bonn", 7, "DE")
    assert retries == 1
    assert [change[1:] for change in (await log(empty))[2:]] == [("correct", 21, ("Berlin",), ("Bonn",), None)]


# --- reverts ---


async def test_of_20_reverts_of_one_change_one_is_written(berlin: Pool, empty: Addresses) -> None:
    await set_population(berlin, 100, 200)
    for change, population in ((2, 100), (3, 200)):
        async with queueing(empty, 20, HOLD_BERLIN):
            results = await at_once(*(revert(berlin, change) for _ in range(20)))
        assert results == 20 * [replace(BERLIN, population=population)]
    # It has been reverted, so that nothing is left to do, although what it set stands again.
    assert await revert(berlin, 2) == replace(BERLIN, population=200)
    assert (await log(empty))[1:] == [
        (2, "correct", 21, (100,), (200,), None),
        (3, "correct", 21, (200,), (100,), 2),
        (4, "correct", 21, (100,), (200,), 3),
    ]


async def test_a_revert_of_what_was_reverted_and_restored_meanwhile_is_none(
    berlin: Pool, empty: Addresses, monkeypatch: pytest.MonkeyPatch
) -> None:
    await set_population(berlin, 100, 200)
    late = changes.correct

    async def correct_late(*arguments: Any) -> Stored:
        monkeypatch.setattr(changes, "correct", late)
        await revert(berlin, 2)
        await revert(berlin, 3)
        return await late(*arguments)

    monkeypatch.setattr(changes, "correct", correct_late)
    with pytest.raises(NotRevertible):
        await revert(berlin, 2)
    assert [change[-1] for change in await log(empty)] == [None, None, 2, 3]
    assert await table(empty) == [(21, "Berlin", 200, "DE")]


async def test_a_revert_undoes_all_fields_or_nothing(berlin: Pool, empty: Addresses) -> None:
    await correct(berlin, {"name": "Berlin", "population": 100}, {"name": "Bern", "population": 200})
    await set_population(berlin, 200, 300)
    with pytest.raises(Conflict) as raised:
        await revert(berlin, 2)
    assert raised.value.stored == Stored(21, "Bern", 300, "DE")
    await revert(berlin, 3)
    assert await revert(berlin, 2) == BERLIN
    (key,) = await run_sql(empty.owner, "SELECT name_key, name_bare FROM cities WHERE id = 21")
    assert tuple(key) == ("berlin", "berlin")
    assert (await log(empty))[3:] == [
        (4, "correct", 21, (300,), (200,), 3),
        (5, "correct", 21, ("Bern", 200), ("Berlin", 100), 2),
    ]


async def test_of_reverts_and_corrections_one_succeeds(berlin: Pool, empty: Addresses) -> None:
    await set_population(berlin, 100, 200)
    async with queueing(empty, 20, HOLD_BERLIN):
        results = kinds(
            await at_once(*(work for n in range(10) for work in (revert(berlin, 2), set_population(berlin, 200, n))))
        )
    *_, (_, _, _, old, new, reverts) = changed = await log(empty)
    assert (len(changed), old) == (3, (200,))
    assert results == ({"Stored": 10, "Conflict": 10} if reverts else {"Stored": 1, "Conflict": 19})
    assert await table(empty) == [(21, "Berlin", new[0], "DE")]


async def test_a_revert_that_waited_while_its_value_changed_and_came_back_is_stored(
    berlin: Pool, empty: Addresses
) -> None:
    await set_population(berlin, 100, 200)
    async with queueing(empty, 1, *(f"UPDATE cities SET population = {n} WHERE id = 21" for n in (300, 200))):
        assert await revert(berlin, 2) == BERLIN
    assert (await log(empty))[2:] == [(3, "correct", 21, (200,), (100,), 2)]


async def test_what_is_no_correction_and_no_removal_cannot_be_reverted(berlin: Pool, empty: Addresses) -> None:
    await run_sql(empty.owner, "INSERT INTO changes (kind, cities) VALUES ('load', 20)")
    await remove(berlin)
    await revert(berlin, 3)
    for change in (1, 2, 4):
        with pytest.raises(NotRevertible):
            await revert(berlin, change)
    with pytest.raises(NoSuchChange):
        await revert(berlin, 5)
    assert len(await log(empty)) == 4


async def test_a_revert_to_a_name_that_is_taken_is_told(berlin: Pool) -> None:
    await rename(berlin, "Berlin", "Bern")
    await add(berlin, "berlin")
    with pytest.raises(NameTaken):
        await revert(berlin, 2)


async def test_a_redacted_name_cannot_be_reverted(berlin: Pool, empty: Addresses) -> None:
    await rename(berlin, "Berlin", "Insult")
    await rename(berlin, "Insult", "Bern")
    await remove(berlin, Stored(21, "Bern", 100, "DE"))
    redact = "UPDATE changes SET {0} = '' WHERE {0} = {1}"
    for name in ("Insult", "Bern"):
        for column in ("old_name", "new_name"):
            await run_sql(empty.owner, redact.format(column, quoted(name)))
    for change in (2, 3, 4):
        with pytest.raises(NotRevertible):
            await revert(berlin, change)
    assert len(await log(empty)) == 4


async def test_a_name_that_is_redacted_while_it_is_restored_is_not_stored(
    berlin: Pool, empty: Addresses, monkeypatch: pytest.MonkeyPatch
) -> None:
    await rename(berlin, "Berlin", "Insult")
    await rename(berlin, "Insult", "Bern")
    late, restore = changes.correct, changes._restore

    async def redact_and_correct(*arguments: Any) -> Stored:
        await run_sql(empty.owner, "UPDATE changes SET old_name = '' WHERE id IN (3, 4)")
        return await late(*arguments)

    async def redact_and_restore(*arguments: Any) -> Stored:
        await run_sql(empty.owner, "UPDATE changes SET old_name = '' WHERE id IN (3, 4)")
        return await restore(*arguments)

    monkeypatch.setattr(changes, "correct", redact_and_correct)
    monkeypatch.setattr(changes, "_restore", redact_and_restore)
    with pytest.raises(Conflict):
        await revert(berlin, 3)
    assert await table(empty) == [(21, "Bern", 100, "DE")]
    await remove(berlin, Stored(21, "Bern", 100, "DE"))
    with pytest.raises(NotRevertible):
        await revert(berlin, 4)
    assert await table(empty) == []


# --- restores ---


async def test_of_20_restores_of_one_removal_one_is_written(berlin: Pool, empty: Addresses) -> None:
    ((created_at,),) = await run_sql(empty.owner, "SELECT created_at FROM cities WHERE id = 21")
    await remove(berlin)
    async with queueing(empty, 20, insert("berlin", 1, id=99), end="ROLLBACK"):
        assert await at_once(*(revert(berlin, 2) for _ in range(20))) == 20 * [BERLIN]
    assert await log(empty) == [
        ADDED,
        (2, "remove", 21, ("Berlin", 100, "DE"), (), None),
        (3, "restore", 21, (), ("Berlin", 100, "DE"), 2),
    ]
    (row,) = await run_sql(empty.owner, "SELECT name_key, name_bare, created_at FROM cities WHERE id = 21")
    assert tuple(row) == ("berlin", "berlin", created_at)
    assert [row["created_at"] for row in await run_sql(empty.owner, "SELECT * FROM changes")] == 3 * [created_at]
    assert await add(berlin, "Next") == (Stored(22, "Next", 100, ""), True)


async def test_of_restores_and_adds_of_a_name_one_succeeds(berlin: Pool, empty: Addresses) -> None:
    await remove(berlin)
    async with queueing(empty, 10, insert("berlin", 1, id=99), end="ROLLBACK"):
        results = await at_once(
            *(work for n in range(5) for work in (revert(berlin, 2), add(berlin, ("berlin", "BERLIN")[n % 2])))
        )
    *_, (_, kind, city_id, *_) = changed = await log(empty)
    assert len(changed) == 3
    assert [row[0] for row in await table(empty)] == [city_id]
    assert kinds(results) == ({"Stored": 5, "tuple": 5} if kind == "restore" else {"NameTaken": 5, "tuple": 5})


async def test_a_restore_of_what_was_restored_and_removed_by_an_operator_meanwhile_is_none(
    berlin: Pool, empty: Addresses
) -> None:
    await remove(berlin)
    async with database.outside_the_pool(empty.owner).connect() as connection:
        transaction = await connection.begin()
        await changes.revert(connection, 2, OPERATOR)
        restoring = asyncio.gather(at_once(*(revert(berlin, 2) for _ in range(10))))
        waiting = 0
        while waiting < 10:
            waiting = (await run_sql(empty.owner, "SELECT count(*) FROM pg_locks WHERE NOT granted"))[0][0]
        await changes.remove(connection, BERLIN, OPERATOR)
        await transaction.commit()
        (results,) = await restoring
        assert kinds(results) == {"NotRevertible": 10}
    assert await table(empty) == []
    assert [change[1] for change in await log(empty)] == ["add", "remove", "restore", "remove"]


async def test_a_removal_before_the_last_one_is_not_restored(berlin: Pool, empty: Addresses) -> None:
    await remove(berlin)
    await revert(berlin, 2)
    assert await revert(berlin, 2) == BERLIN
    await remove(berlin)
    with pytest.raises(NotRevertible):
        await revert(berlin, 2)
    assert await revert(berlin, 4) == BERLIN
    assert [change[1] for change in await log(empty)] == ["add", "remove", "restore", "remove", "restore"]


# --- removals ---


async def test_a_repeated_removal_is_a_success_and_writes_nothing(berlin: Pool, empty: Addresses) -> None:
    reason = Author(reason="duplicate")
    async with queueing(empty, 20, HOLD_BERLIN):
        assert kinds(await at_once(*(remove(berlin, author=reason) for _ in range(20)))) == {"done": 20}
    assert await log(empty) == [ADDED, (2, "remove", 21, ("Berlin", 100, "DE"), (), None)]
    (row,) = await run_sql(empty.owner, "SELECT reason, operator FROM changes WHERE id = 2")
    assert tuple(row) == ("duplicate", False)
    for other in (replace(BERLIN, population=7), replace(BERLIN, id=22)):
        with pytest.raises(NoSuchCity):
            await remove(berlin, other)


async def test_a_removal_of_a_city_with_other_values_is_a_conflict(berlin: Pool) -> None:
    with pytest.raises(Conflict) as raised:
        await remove(berlin, replace(BERLIN, country=""))
    assert raised.value.stored == BERLIN


async def test_a_city_on_the_board_is_not_removed_even_if_it_came_there_meanwhile(
    berlin: Pool, empty: Addresses
) -> None:
    with pytest.raises(OnBoard):
        await remove(berlin, Stored(1, "C1", 1001, ""))
    async with queueing(empty, 1, "UPDATE cities SET population = 1001 WHERE id = 21"):
        with pytest.raises(Conflict):
            await remove(berlin)
    # Of two cities with 1,001 people, the earlier one is number 20.
    await remove(berlin, replace(BERLIN, population=1001))
    assert len(await log(empty)) == 2


OF_BEFORE = "UPDATE cities SET created_at = now() - interval '25 hours' WHERE id = 21"


@pytest.mark.parametrize(("days", "is_removed"), [("6.9", False), ("7.1", True)])
async def test_a_city_that_was_on_the_board_within_seven_days_is_not_removed(
    berlin: Pool, empty: Addresses, days: str, is_removed: bool
) -> None:
    await run_sql(empty.owner, OF_BEFORE)
    await set_population(berlin, 100, 5_000)
    await set_population(berlin, 5_000, 0)
    await run_sql(empty.owner, f"UPDATE changes SET at = now() - interval '{days} days'")
    outcome = kinds(await at_once(remove(berlin, replace(BERLIN, population=0))))
    assert outcome == {"done" if is_removed else "OnBoard": 1}
    assert len(await table(empty)) == 1 - is_removed


async def test_a_city_that_was_below_the_board_for_seven_days_is_removed(berlin: Pool, empty: Addresses) -> None:
    await run_sql(empty.owner, OF_BEFORE)
    await set_population(berlin, 100, 1_000)
    await set_population(berlin, 1_000, 0)
    await remove(berlin, replace(BERLIN, population=0))
    assert await table(empty) == []


async def test_an_invented_city_younger_than_a_day_is_corrected_and_removed(berlin: Pool, empty: Addresses) -> None:
    await run_sql(empty.owner, OF_BEFORE.replace("25", "23"))
    await set_population(berlin, 100, 99_999_999)
    with pytest.raises(OnBoard):
        await remove(berlin, replace(BERLIN, population=99_999_999))
    await set_population(berlin, 99_999_999, 0)
    await remove(berlin, replace(BERLIN, population=0))
    assert await table(empty) == []


async def test_of_fewer_than_20_cities_nobody_removes_one_but_who_added_it(berlin: Pool, empty: Addresses) -> None:
    await run_sql(empty.owner, "DELETE FROM cities WHERE id < 3")
    with pytest.raises(OnBoard):
        await remove(berlin, author=BOB)
    await remove(berlin, author=ALICE)
    assert await table(empty) == []


UNDOING = [
    (ALICE, "14 minutes", "done"),
    (ALICE, "16 minutes", "OnBoard"),
    (BOB, "0 minutes", "OnBoard"),
    (ANYBODY, "0 minutes", "OnBoard"),
    # Since midnight, or since the one before.
    (Author((b"new", *ALICE.codes)), "14 minutes", "done"),
    (Author((b"new", b"newer", *ALICE.codes)), "14 minutes", "OnBoard"),
]


@pytest.mark.parametrize(("author", "age", "outcome"), UNDOING)
async def test_the_network_that_added_a_city_removes_it_from_the_board_for_15_minutes(
    pool: Pool, empty: Addresses, author: Author, age: str, outcome: str
) -> None:
    city, _ = await add(pool, "Berlin", 5_000, author=ALICE)
    await run_sql(empty.owner, f"UPDATE changes SET at = at - interval '{age}'")
    assert kinds(await at_once(remove(pool, city, author))) == {outcome: 1}
    assert len(await table(empty)) == (outcome == "OnBoard")


async def test_an_undo_after_a_change_is_none(pool: Pool, empty: Addresses) -> None:
    city, _ = await add(pool, "Berlin", 5_000, author=ALICE)
    changed = await set_population(pool, 5_000, 6_000)
    with pytest.raises(OnBoard):
        await remove(pool, changed, ALICE)
    await revert(pool, 2)
    await remove(pool, city, ALICE)
    assert await table(empty) == []


async def test_of_undos_and_corrections_one_succeeds(pool: Pool, empty: Addresses) -> None:
    city, _ = await add(pool, "Berlin", 5_000, author=ALICE)
    async with queueing(empty, 20, HOLD_BERLIN):
        results = kinds(
            await at_once(
                *(work for n in range(10) for work in (remove(pool, city, ALICE), set_population(pool, 5_000, n)))
            )
        )
    _, (_, kind, *_) = await log(empty)
    assert results == ({"Stored": 1, "Conflict": 19} if kind == "correct" else {"done": 10, "NoSuchCity": 10})


# --- operators and blocks ---


async def test_a_name_that_an_operator_removed_returns_only_by_an_operator(berlin: Pool, empty: Addresses) -> None:
    await add(berlin, "Bonn")
    await as_operator(empty, changes.remove, BERLIN)
    (row,) = await run_sql(empty.owner, "SELECT reason, operator, network FROM changes WHERE id = 3")
    assert tuple(row) == ("not a city", True, None)
    for work in (add(berlin, "BERLIN", 7, author=ALICE), rename(berlin, "Bonn", "berlin", 22)):
        with pytest.raises(Blocked) as raised:
            await work
        assert raised.value.until is None
    with pytest.raises(NotRevertible):
        await revert(berlin, 3)
    assert len(await log(empty)) == 3
    await as_operator(empty, changes.revert, 3)
    assert await run_sql(empty.owner, "SELECT FROM blocks") == []
    assert await add(berlin, "BERLIN", 7) == (BERLIN, False)
    assert await table(empty) == [(21, "Berlin", 100, "DE"), (22, "Bonn", 100, "")]


async def test_an_operators_removal_is_restored_by_no_visitor_even_if_the_name_is_not_blocked(
    berlin: Pool, empty: Addresses
) -> None:
    await as_operator(empty, changes.remove, BERLIN)
    await run_sql(empty.owner, "TRUNCATE blocks")
    with pytest.raises(NotRevertible):
        await revert(berlin, 2)
    assert await table(empty) == []


async def test_a_blocked_name_returns_by_no_restore_and_no_revert(berlin: Pool, empty: Addresses) -> None:
    await rename(berlin, "Berlin", "Bern")
    await add(berlin, "berlin")
    await remove(berlin, Stored(22, "berlin", 100, ""))
    await add(berlin, "BERLIN")
    await as_operator(empty, changes.remove, Stored(23, "BERLIN", 100, ""))
    for change in (2, 4):
        with pytest.raises(Blocked):
            await revert(berlin, change)
    assert len(await log(empty)) == 6
    # What stores no name is not blocked.
    await set_population(berlin, 100, 200)


@pytest.mark.parametrize("position", [0, 1, 2])
@pytest.mark.parametrize("is_ended", [False, True])
async def test_a_blocked_network_changes_nothing_until_its_block_ends(
    berlin: Pool, empty: Addresses, position: int, is_ended: bool
) -> None:
    await add(berlin, "Bonn")
    await set_population(berlin, 100, 200)
    codes = [b"today", b"yesterday", b"the day before"]
    ((until,),) = await run_sql(
        empty.owner,
        f"INSERT INTO blocks (network, until) VALUES ({quoted(codes[position].decode())}, now()"
        f" {'-' if is_ended else '+'} interval '1 hour') RETURNING until",
    )
    author = Author(tuple(codes))
    results = await at_once(
        add(berlin, "Rome", author=author),
        revert(berlin, 3, author),
        remove(berlin, Stored(22, "Bonn", 100, ""), author),
        correct(berlin, {"country": "DE"}, {"country": "FR"}, author=author),
    )
    await as_operator(empty, changes.correct, 21, {"name": "Berlin"}, {"name": "Bern"})
    if is_ended:
        assert kinds(results) == {"tuple": 1, "Stored": 2, "done": 1}
    else:
        assert [result.until for result in results if isinstance(result, Blocked)] == 4 * [until]
        assert len(await log(empty)) == 4


# --- all ---


async def test_random_changes_by_eight_writers_are_all_in_the_log(pool: Pool, empty: Addresses) -> None:
    before = await run_sql(empty.owner, replay.CITIES)
    seed = random.randrange(1_000_000)
    await asyncio.gather(*(write(pool, empty, random.Random(f"{seed} {n}")) for n in range(8)), cut(empty))
    connection = await database.connect(empty.owner)
    assert await replay.differences(connection, before) == [], seed
    await connection.close()
    async with database.outside_the_pool(empty.owner).connect() as read:
        assert await history.broken(read) == [], seed
    assert len(await log(empty)) > 80, seed


@pytest.mark.parametrize(
    ("statement", "difference"),
    [
        ("UPDATE cities SET population = 7 WHERE id = 21", "city 21: by the log "),
        ("UPDATE cities SET name_bare = 'x' WHERE id = 21", "city 21: by the log "),
        ("DELETE FROM cities WHERE id = 21", "city 21: by the log "),
        (insert("Bonn", 1), "city 22: by the log not there, stored "),
        ("DELETE FROM changes WHERE id = 2", "change 3, correct {'population': 200} to {'population': 300}, cannot be"),
        (
            "INSERT INTO changes (kind, cities) VALUES ('load', 1)",
            "change 4, load {} to {}, cannot be replayed on None",
        ),
    ],
)
async def test_a_replay_tells_what_the_log_does_not_lead_to(
    berlin: Pool, empty: Addresses, statement: str, difference: str
) -> None:
    connection = await database.connect(empty.owner)
    before = await connection.fetch(f"SELECT * FROM ({replay.CITIES}) AS city WHERE id <= 20")
    await set_population(berlin, 100, 200)
    await set_population(berlin, 200, 300)
    assert await replay.differences(connection, before) == []
    await connection.execute(statement)
    (found,) = await replay.differences(connection, before)
    assert found.startswith(difference)
    await connection.close()


async def write(pool: Pool, empty: Addresses, chance: random.Random) -> None:
    """Changes of visitors one by one, and of an operator in transactions, of which some are rolled back."""
    for _ in range(60):
        try:
            if chance.random() < 0.9:
                async with pool.open() as session:
                    await unit_of_work(change_at_random)(session, chance, ANYBODY)
                continue
            async with database.outside_the_pool(empty.owner).begin() as connection:
                for _ in range(3):
                    try:
                        async with connection.begin_nested():
                            await change_at_random(connection, chance, OPERATOR)
                    except OUTCOMES:
                        pass
                if chance.random() < 0.3:
                    await connection.rollback()
        # A connection that is cut while SQLAlchemy 2.1 prepares it raises asyncpg's own error.
        except (*OUTCOMES, DatabaseUnavailable, asyncpg.InterfaceError):
            pass
        except DBAPIError as error:
            if not (database.is_unavailable(error) or database.is_deadlock(error)):
                raise


async def change_at_random(connection: Any, chance: random.Random, author: Author) -> None:
    values: dict[str, Any] = {
        "name": f"City {chance.randrange(30)}",
        "population": chance.choice((0, 5, 1_010, 5_000)),
        "country": chance.choice(("", "FR", "DE")),
    }
    city = await changes.find(connection, chance.randint(15, 40))
    latest = await connection.scalar(text("SELECT coalesce(max(id), 1) FROM changes"))
    await asyncio.sleep(chance.uniform(0, 0.01))  # until others have changed it
    # An operator's removal blocks a name.
    weights = (20, 50, 3, 27) if author.is_operator else (20, 30, 20, 30)
    match chance.choices(("add", "correct", "remove", "revert"), weights)[0]:
        case "correct" if city:
            fields = chance.sample(FIELDS, chance.randint(1, 3))
            old, new = ({field: values_[field] for field in fields} for values_ in (vars(city), values))
            await changes.correct(connection, city.id, old, new, author)
        case "remove" if city:
            await changes.remove(connection, city, author)
        case "revert":
            await changes.revert(connection, max(1, latest - chance.randrange(20)), author)
        case _:
            columns = {f"new_{column}": value for column, value in cities.columns(**values).items()}
            await connection.execute(cities.INSERT, {**columns, **author.parameters})


async def cut(empty: Addresses) -> None:
    """Ends a random connection of the role that serves, again and again."""
    for _ in range(20):
        await asyncio.sleep(0.05)
        await run_sql(
            empty.app,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'cityweb'"
            " AND usename = current_user AND pid <> pg_backend_pid() ORDER BY random() LIMIT 1",
        )


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE changes SET reason = ''",
        "UPDATE changes SET network = NULL",
        "DELETE FROM changes",
        "TRUNCATE changes",
        "SELECT FROM changes FOR UPDATE",
        "SELECT FROM changes FOR KEY SHARE",
        "INSERT INTO changes (id, kind) OVERRIDING SYSTEM VALUE VALUES (9, 'load')",
        "INSERT INTO changes (at, kind) VALUES (now(), 'load')",
        "INSERT INTO blocks (name_key) VALUES ('x')",
        "DELETE FROM blocks",
        "UPDATE cities SET id = DEFAULT",
        "UPDATE cities SET created_at = now()",
    ],
)
@pytest.mark.usefixtures("berlin")
async def test_the_role_that_serves_cannot_change_the_log(empty: Addresses, statement: str) -> None:
    if empty.app == empty.owner:
        pytest.skip("this server has one role for both")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await run_sql(empty.app, statement)
    assert await log(empty) == [ADDED]
