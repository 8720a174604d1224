"""What an operator does about vandals."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy.exc import DBAPIError

from cityweb.postgres import changes, cities, corrections, database, history, moderation
from cityweb.postgres.changes import Conflict, NotRevertible
from cityweb.postgres.cities import Stored
from cityweb.postgres.database import Pool, Session
from cityweb.postgres.networks import Author, Blocked
from cityweb.settings import OperatorError
from cityweb.submissions import CitySubmission
from tests.conftest import FILL, Addresses, Site, run_sql, stored, until

VANDAL = Author(codes=(b"v" * 16,))
PATROLLER = Author(codes=(b"p" * 16,))
NOBODY = Author()
IN_ITS_WAY = "it is reverted already, a later change is in its way, or its name is redacted"
LATER = "the city was changed or removed later"


@pytest.fixture
async def visitor(empty: Addresses) -> AsyncIterator[Session]:
    """A session of a visitor; the cities C1 to C60 are stored, with the populations 1 to 60."""
    await run_sql(empty.owner, FILL.format(population="n", first=1, last=60))
    pool = Pool(empty.app, 1)
    session = pool.open()
    yield session
    await session.close()
    await pool.engine.dispose()


async def correct(visitor: Session, city_id: int, old: int, new: int, author: Author = VANDAL) -> None:
    await changes.correct(visitor, city_id, {"population": old}, {"population": new}, author)


async def add(visitor: Session, name: str, population: int, author: Author = VANDAL) -> Stored:
    city, _ = await cities.add(visitor, CitySubmission(name=name, population=population, country=""), author)
    return city


async def city_of(empty: Addresses, city_id: int) -> Stored:
    return await corrections.find(empty.owner, city_id)


async def newest(empty: Addresses) -> int:
    """The number of the newest change."""
    return int((await run_sql(empty.owner, "SELECT max(id) FROM changes"))[0][0])


async def revert_like(empty: Addresses, number: int, **parameters: str) -> list[tuple[int, str]]:
    url = empty.owner.update_query_dict(parameters)
    found = await moderation.find_like(url, number)
    return [(change.id, why) for change, why in await moderation.revert(url, found, "vandalism")]


async def assert_history_is_whole(empty: Addresses) -> None:
    async with database.outside_the_pool(empty.owner).connect() as connection:
        assert await history.broken(connection) == []


@asynccontextmanager
async def holding(empty: Addresses, *statements: str) -> AsyncIterator[Callable[[str], Awaitable[object]]]:
    """A transaction that has run these statements. Yields a function that runs another one in it; then it commits."""
    # The role is a superuser, because others may not set how long a transaction waits until it looks for a deadlock.
    connection = await database.connect(empty.server.set(database=empty.owner.database))
    try:
        await connection.execute("BEGIN; SET LOCAL deadlock_timeout = '20s'; SET LOCAL lock_timeout = 0")
        for statement in statements:
            await connection.execute(statement)
        yield connection.execute
        await connection.execute("COMMIT")
    finally:
        await connection.close()


async def waiting(empty: Addresses, count: int, event: str) -> None:
    """Waits until this many statements wait for locks of this type."""
    question = f"SELECT FROM pg_stat_activity WHERE wait_event = '{event}' AND datname = '{empty.owner.database}'"
    async with asyncio.timeout(10):
        while len(await run_sql(empty.server, question)) < count:
            await asyncio.sleep(0.01)


# --- revert ---


async def test_sixty_changes_are_undone_in_one_transaction_and_the_board_follows_once(
    visitor: Session, site: Site, empty: Addresses
) -> None:
    before = await stored(empty)
    names = [f"C{n}" for n in range(60, 40, -1)]
    await until(lambda: [row.name for row in site.board.snapshot.leaders.rows] == names)
    for n in range(1, 61):
        await correct(visitor, n, n, 90_000_000 + n)
    await correct(visitor, 7, 90_000_007, 0, PATROLLER)
    await until(lambda: site.board.snapshot.leaders.rows[0].population == 90_000_060)
    await until(lambda: all(row.population > 90_000_000 for row in site.board.snapshot.leaders.rows))
    seen = [site.board.snapshot.id]

    async def watch() -> None:
        while True:
            if site.board.snapshot.id != seen[-1]:
                seen.append(site.board.snapshot.id)
            await asyncio.sleep(0.005)

    watching = asyncio.create_task(watch())
    bad_cities = await stored(empty)
    async with holding(empty, "SELECT FROM cities WHERE id = 1 FOR UPDATE"):
        reverting = asyncio.create_task(revert_like(empty, 1))
        await waiting(empty, 1, "transactionid")
        assert await stored(empty) == bad_cities
    assert await reverting == [(7, LATER)]
    await until(lambda: [row.name for row in site.board.snapshot.leaders.rows] == names)
    await asyncio.sleep(0.6)
    watching.cancel()
    assert len(seen) == 2
    assert await stored(empty) == [*before[:-7], *before[-6:], ("C7", 0)]
    rows = await run_sql(
        empty.owner,
        "SELECT count(*), bool_and(operator), min(reason), max(reason) FROM changes WHERE id > 61",
    )
    assert [tuple(row) for row in rows] == [(59, True, "vandalism", "vandalism")]
    await assert_history_is_whole(empty)


async def test_a_chain_of_changes_of_one_city_is_undone_newest_first(visitor: Session, empty: Addresses) -> None:
    for old, new in ((5, 500), (500, 9), (9, 2)):
        await correct(visitor, 5, old, new)
    await changes.correct(visitor, 5, {"name": "C5", "country": ""}, {"name": "Mine", "country": "FR"}, VANDAL)
    await changes.remove(visitor, Stored(5, "Mine", 2, "FR"), VANDAL)
    found = await moderation.find_like(empty.owner, 1)
    assert [change.id for change in found] == [5, 4, 3, 2, 1]
    assert await moderation.revert(empty.owner, found) == []
    assert await city_of(empty, 5) == Stored(5, "C5", 5, "")
    await assert_history_is_whole(empty)


async def test_what_later_changes_prevent_is_listed_and_the_rest_is_undone(visitor: Session, empty: Addresses) -> None:
    await correct(visitor, 1, 1, 100)  # 1: corrected by somebody else
    await correct(visitor, 1, 100, 10, PATROLLER)
    await correct(visitor, 2, 2, 200)  # 3: removed by an operator
    await corrections.remove(empty.owner, await city_of(empty, 2))
    await changes.correct(visitor, 3, {"name": "C3"}, {"name": "X"}, VANDAL)  # 5: its old name is taken
    await add(visitor, "C3", 1, PATROLLER)
    added = await add(visitor, "Y", 1)  # 7: corrected by somebody else
    await correct(visitor, added.id, 1, 2, PATROLLER)
    await changes.remove(visitor, Stored(4, "C4", 4, ""), VANDAL)  # 9: its name is taken
    await add(visitor, "C4", 1, PATROLLER)
    await correct(visitor, 6, 6, 600)  # 11: undone
    assert await revert_like(empty, 1) == [
        (9, "another city has the name now"),
        (7, LATER),
        (5, "another city has the name now"),
        (3, LATER),
        (1, LATER),
    ]
    assert (await city_of(empty, 6)).population == 6
    assert (await city_of(empty, 1)).population == 10
    await assert_history_is_whole(empty)


async def test_a_removed_city_comes_back(visitor: Session, empty: Addresses) -> None:
    await changes.remove(visitor, Stored(3, "C3", 3, ""), VANDAL)
    assert await revert_like(empty, 1) == []
    assert await city_of(empty, 3) == Stored(3, "C3", 3, "")


async def test_an_added_city_goes_and_its_name_is_blocked_until_an_operator_restores_it(
    visitor: Session, empty: Addresses
) -> None:
    added = await add(visitor, "Mine", 99_999_999)
    assert await revert_like(empty, 1) == []
    removal = await newest(empty)
    with pytest.raises(OperatorError, match="No city is called Mine"):
        await corrections.find(empty.owner, "Mine")
    assert [name for _, name, _ in await moderation.blocks(empty.owner)] == ["mine"]
    with pytest.raises(Blocked):
        await add(visitor, "MINE", 1, PATROLLER)
    with pytest.raises(NotRevertible):
        await changes.revert(visitor, removal, PATROLLER)
    assert await moderation.revert(empty.owner, await moderation.find_revertible(empty.owner, removal)) == []
    assert (await city_of(empty, added.id)).name == "Mine"
    assert await moderation.blocks(empty.owner) == []
    # A restored city is removed in the same way.
    assert await moderation.revert(empty.owner, await moderation.find_revertible(empty.owner, removal + 1)) == []
    assert [name for _, name, _ in await moderation.blocks(empty.owner)] == ["mine"]
    await assert_history_is_whole(empty)


async def test_changes_that_a_vandal_reverted_are_left_alone(visitor: Session, empty: Addresses) -> None:
    await correct(visitor, 1, 1, 100)
    await changes.revert(visitor, 1, VANDAL)
    await changes.remove(visitor, Stored(2, "C2", 2, ""), VANDAL)
    await changes.revert(visitor, 3, VANDAL)
    for number in (5, 6, 7):  # a change, its revert, and the revert of that
        if number == 5:
            await correct(visitor, 3, 3, 300)
        else:
            await changes.revert(visitor, number - 1, VANDAL)
    assert (await city_of(empty, 3)).population == 300
    assert await revert_like(empty, 1) == []
    assert [(await city_of(empty, n)).population for n in (1, 2, 3)] == [1, 2, 3]
    assert await newest(empty) == 8
    assert await moderation.blocks(empty.owner) == []
    await assert_history_is_whole(empty)


async def test_what_is_undone_already_stays_so(visitor: Session, empty: Addresses) -> None:
    await correct(visitor, 1, 1, 100)
    await changes.revert(visitor, 1, PATROLLER)
    await add(visitor, "Mine", 1)
    await changes.remove(visitor, Stored(3, "C3", 3, ""), VANDAL)
    assert await revert_like(empty, 1) == [(1, IN_ITS_WAY)]
    assert await newest(empty) == 6
    assert await revert_like(empty, 1) == [(4, IN_ITS_WAY), (1, IN_ITS_WAY)]
    assert await newest(empty) == 6
    assert await stored(empty) == [(f"C{n}", n) for n in range(60, 0, -1)]


async def test_a_name_that_was_redacted_is_not_restored(visitor: Session, empty: Addresses) -> None:
    await changes.correct(visitor, 1, {"name": "C1"}, {"name": "Insult"}, VANDAL)
    await changes.remove(visitor, Stored(1, "Insult", 1, ""), VANDAL)
    await redact(empty, 1)
    assert await revert_like(empty, 1) == [(2, IN_ITS_WAY), (1, IN_ITS_WAY)]


async def test_two_reverts_at_once_wait_for_each_other(visitor: Session, empty: Addresses) -> None:
    await correct(visitor, 1, 1, 100)
    await add(visitor, "Mine", 1)
    async with holding(empty, "SELECT FROM cities WHERE id = 1 FOR UPDATE"):
        limits = "-c statement_timeout=500 -c lock_timeout=500"  # as of a role that owns the tables and serves
        both = [asyncio.create_task(revert_like(empty, 1, options=limits)) for _ in range(2)]
        await waiting(empty, 1, "transactionid")
        await waiting(empty, 1, "advisory")
        await asyncio.sleep(0.8)
        assert not any(task.done() for task in both)
    assert sorted(await asyncio.gather(*both)) == [[], [(1, IN_ITS_WAY)]]
    assert await newest(empty) == 4
    assert (await city_of(empty, 1)).population == 1


async def test_a_deadlock_is_a_sentence_and_nothing_is_reverted(visitor: Session, empty: Addresses) -> None:
    await correct(visitor, 1, 1, 100)
    await correct(visitor, 2, 2, 200)
    async with holding(empty, "UPDATE cities SET population = population WHERE id = 1") as run:
        reverting = asyncio.create_task(revert_like(empty, 1))
        await waiting(empty, 1, "transactionid")
        await run("UPDATE cities SET population = population WHERE id = 2")
        with pytest.raises(OperatorError, match="nothing was reverted: run the command again"):
            await reverting
    assert [(await city_of(empty, n)).population for n in (1, 2)] == [100, 200]
    assert await newest(empty) == 2


async def test_a_revert_by_somebody_else_at_the_same_moment_is_listed(visitor: Session, empty: Addresses) -> None:
    await correct(visitor, 1, 1, 100)
    await correct(visitor, 2, 2, 200)
    log = "INSERT INTO changes (kind, city_id, old_population, new_population, reverts) VALUES ('correct', 2, {})"
    async with holding(
        empty,
        "UPDATE cities SET population = population WHERE id = 2",
        log.format("200, 2, 2"),
        log.format("2, 200, NULL"),
    ):
        reverting = asyncio.create_task(revert_like(empty, 1))
        await waiting(empty, 1, "transactionid")
    assert await reverting == [(2, IN_ITS_WAY)]
    assert [(await city_of(empty, n)).population for n in (1, 2)] == [1, 200]


async def test_another_error_of_the_database_is_not_hidden(visitor: Session, empty: Addresses) -> None:
    await correct(visitor, 1, 1, 100)
    found = await moderation.find_like(empty.owner, 1)
    await run_sql(empty.owner, "ALTER TABLE changes RENAME TO gone")
    try:
        with pytest.raises(DBAPIError, match='relation "changes" does not exist'):
            await moderation.revert(empty.owner, found)
    finally:
        await run_sql(empty.owner, "ALTER TABLE gone RENAME TO changes")


# --- which changes ---


async def test_the_changes_of_a_network_are_those_of_its_day_and_of_nobody_else(
    visitor: Session, empty: Addresses
) -> None:
    await correct(visitor, 1, 1, 10)
    await correct(visitor, 2, 2, 20, PATROLLER)
    await correct(visitor, 3, 3, 30, Author(codes=(b"w" * 16, *VANDAL.codes)))  # the same network, on the next day
    await correct(visitor, 4, 4, 40)
    assert [change.id for change in await moderation.find_like(empty.owner, 4)] == [4, 1]


async def test_the_changes_of_a_time_are_those_of_visitors(visitor: Session, empty: Addresses) -> None:
    for n in range(1, 5):
        await correct(visitor, n, n, 10 * n, NOBODY)
    await corrections.remove(empty.owner, await city_of(empty, 9))
    await run_sql(empty.owner, "UPDATE changes SET at = now() - make_interval(hours => 5 - id::int)")
    now = datetime.now(UTC)

    async def numbers(since: float, before: float | None = None) -> list[int]:
        end = None if before is None else now - timedelta(hours=before)
        found = await moderation.find_since(empty.owner, now - timedelta(hours=since), end)
        return [change.id for change in found]

    assert await numbers(3.5) == [4, 3, 2]
    assert await numbers(3.5, 1.5) == [3, 2]
    assert await numbers(0.5) == []
    found = await moderation.find_since(empty.owner, now - timedelta(hours=9), None)
    assert await moderation.revert(empty.owner, found) == []
    assert [population for _, population in await stored(empty)] == [n for n in range(60, 0, -1) if n != 9]


async def test_a_change_that_cannot_be_meant_is_a_sentence(visitor: Session, empty: Addresses) -> None:
    await correct(visitor, 1, 1, 10, NOBODY)
    await run_sql(empty.owner, "INSERT INTO changes (kind, cities, operator) VALUES ('load', 60, true)")
    for mistake, words in (
        (moderation.find_change(empty.owner, 3), "There is no change 3: the log shows"),
        (moderation.find_revertible(empty.owner, 3), "There is no change 3"),
        (moderation.find_revertible(empty.owner, 2), "Change 2 is a load, which cannot be reverted: remove its cities"),
        (moderation.find_like(empty.owner, 3), "There is no change 3"),
        (moderation.find_like(empty.owner, 2), "Change 2 is a load"),
        (moderation.find_like(empty.owner, 1), "The network of change 1 is unknown: revert the change alone"),
        (moderation.block(empty.owner, 3, 1), "There is no change 3"),
        (moderation.unblock(empty.owner, 3), "There is no block 3: python manage.py block lists them"),
    ):
        with pytest.raises(OperatorError, match=words):
            await mistake


@pytest.mark.parametrize(
    ("text", "hour"), [("2026-12-03T14:00", 14), ("2026-12-03 14:00+02:00", 12), ("2026-12-03", 0)]
)
def test_a_time_is_in_utc_unless_it_says_otherwise(text: str, hour: int) -> None:
    moment = moderation.parse_time(text)
    assert (moment, moment.utcoffset()) == (datetime(2026, 12, 3, hour, tzinfo=UTC), timedelta())


@pytest.mark.parametrize("text", ["", "yesterday", "14:00", "0001-01-01T00:00+14:00"])
def test_what_is_no_time_is_a_sentence(text: str) -> None:
    with pytest.raises(OperatorError, match="is not a time: write one like 2026-12-03T14:00, in UTC"):
        moderation.parse_time(text)


# --- blocks ---


async def test_a_network_of_today_or_yesterday_is_blocked_for_some_hours(visitor: Session, empty: Addresses) -> None:
    for n in range(1, 5):
        await correct(visitor, n, n, 10 * n, NOBODY if n == 4 else Author(codes=(bytes([n]) * 16,)))
    # The days are those of UTC, so the change of yesterday may be 47 hours old.
    day = "(date_trunc('day', now() AT TIME ZONE 'UTC') - interval '1 day') AT TIME ZONE 'UTC'"
    await run_sql(empty.owner, f"UPDATE changes SET at = {day} WHERE id = 2")
    await run_sql(empty.owner, f"UPDATE changes SET at = {day} - interval '1 second' WHERE id = 3")
    for number in (1, 2):
        left = await moderation.block(empty.owner, number, 24) - datetime.now(UTC)
        assert timedelta(hours=23, minutes=59) < left <= timedelta(hours=24, seconds=1)
    for number in (3, 4):
        with pytest.raises(OperatorError, match=f"The network of change {number} is unknown, or the change is older"):
            await moderation.block(empty.owner, number, 1)
    with pytest.raises(Blocked):
        await correct(visitor, 9, 9, 90, Author(codes=(b"new" * 5, bytes([2]) * 16)))
    await correct(visitor, 9, 9, 90, Author(codes=(bytes([3]) * 16,)))


async def test_a_block_ends_with_its_time_or_by_an_operator(visitor: Session, empty: Addresses) -> None:
    await correct(visitor, 1, 1, 10)
    await moderation.block(empty.owner, 1, 1)
    await moderation.block(empty.owner, 1, 2)
    await run_sql(empty.owner, "UPDATE blocks SET until = now() WHERE id = 1")
    ((number, name, ends),) = await moderation.blocks(empty.owner)
    assert (number, name, ends is not None) == (2, "", True)
    with pytest.raises(Blocked):
        await correct(visitor, 1, 10, 1)
    await moderation.unblock(empty.owner, 2)
    assert await moderation.blocks(empty.owner) == []
    await correct(visitor, 1, 10, 1)


@pytest.mark.parametrize(("text", "hours"), [("1h", 1), ("24h", 24), ("8", 8)])
def test_a_block_lasts_for_hours(text: str, hours: int) -> None:
    assert moderation.parse_hours(text) == hours


@pytest.mark.parametrize("text", ["0h", "25h", "1d", "", "h", "-1h", "²h"])
def test_a_block_lasts_for_a_day_at_most(text: str) -> None:
    with pytest.raises(OperatorError, match="is not a time that a block can last: write one from 1h to 24h"):
        moderation.parse_hours(text)


# --- redact ---


async def redact(empty: Addresses, number: int) -> int:
    return await moderation.redact(empty.owner, *await moderation.find_redactable(empty.owner, number))


async def test_a_name_is_emptied_wherever_the_history_of_its_city_has_it(visitor: Session, empty: Addresses) -> None:
    await changes.correct(visitor, 1, {"name": "C1"}, {"name": "Insult"}, VANDAL)
    await correct(visitor, 1, 1, 100)
    with pytest.raises(OperatorError, match="The city with the id 1 is still called Insult: rename or remove it first"):
        await redact(empty, 1)
    with pytest.raises(OperatorError, match="Change 2 has no name, or it is redacted already: take another change"):
        await redact(empty, 2)
    await changes.revert(visitor, 1, PATROLLER)
    with pytest.raises(OperatorError, match="is still called C1"):
        await redact(empty, 3)
    found = await moderation.find_change(empty.owner, 3)
    assert await moderation.redact(empty.owner, found, "C1") == 0  # A city has got the name since it was shown.
    await changes.correct(visitor, 2, {"name": "C2"}, {"name": "Insult"}, VANDAL)
    await changes.correct(visitor, 2, {"name": "Insult"}, {"name": "C2"}, PATROLLER)
    assert await redact(empty, 1) == 2
    rows = await run_sql(empty.owner, "SELECT old_name, new_name FROM changes ORDER BY id")
    assert [tuple(row) for row in rows] == [
        ("C1", ""), (None, None), ("", "C1"), ("C2", "Insult"), ("Insult", "C2"),
    ]  # fmt: skip
    with pytest.raises(OperatorError, match="it is redacted already"):
        await redact(empty, 1)
    with pytest.raises(Conflict):
        await changes.correct(visitor, 1, {"name": "Insult"}, {"name": "C"}, VANDAL)
    await assert_history_is_whole(empty)


async def test_the_name_of_a_removed_city_is_emptied(visitor: Session, empty: Addresses) -> None:
    await add(visitor, "Insult", 1)
    await corrections.remove(empty.owner, await corrections.find(empty.owner, "Insult"))
    assert await redact(empty, 2) == 2
    rows = await run_sql(empty.owner, "SELECT old_name, new_name FROM changes ORDER BY id")
    assert [tuple(row) for row in rows] == [(None, ""), ("", None)]
    with pytest.raises(NotRevertible):
        await changes.revert(visitor, 2, Author(is_operator=True))
    await assert_history_is_whole(empty)


async def test_an_operator_who_removes_what_a_visitor_removed_blocks_the_name(empty: Addresses) -> None:
    await run_sql(
        empty.owner,
        "INSERT INTO changes (kind, city_id, new_name, new_population, new_country)"
        " VALUES ('add', 1, 'Atlantis', 5, '')",
        "INSERT INTO changes (kind, city_id, old_name, old_population, old_country)"
        " VALUES ('remove', 1, 'Atlantis', 5, '')",
    )
    added = await moderation.find_change(empty.owner, 1)
    assert await moderation.revert(empty.owner, [added]) == []
    assert await moderation.blocks(empty.owner) == [(1, "atlantis", None)]


async def test_a_network_that_was_blocked_twice_is_free_after_one_unblock(empty: Addresses) -> None:
    await run_sql(empty.owner, "INSERT INTO changes (kind, city_id, network) VALUES ('add', 1, '\\x01')")
    for hours in (1, 2):
        await moderation.block(empty.owner, 1, hours)
    await moderation.unblock(empty.owner, 1)
    assert await moderation.blocks(empty.owner) == []


async def test_the_name_of_a_stored_city_is_never_blocked(visitor: Session, empty: Addresses) -> None:
    await changes.correct(visitor, 1, {"name": "C1"}, {"name": "Bad"}, VANDAL)
    await changes.remove(visitor, Stored(2, "C2", 2, ""), VANDAL)
    for name in ("C1", "C2"):
        await add(visitor, name, 1)
    for _ in range(2):
        await revert_like(empty, 1)
        assert await moderation.blocks(empty.owner) == []
    assert (await city_of(empty, 1)).name == "C1"
    assert (await city_of(empty, 2)).name == "C2"


async def test_a_change_that_was_reverted_and_stands_again_is_told_of(visitor: Session, empty: Addresses) -> None:
    await correct(visitor, 1, 1, 100)
    for number in (1, 2):
        await changes.revert(visitor, number, PATROLLER)
    change = await moderation.find_change(empty.owner, 1)
    assert await moderation.revert(empty.owner, [change]) == [(change, IN_ITS_WAY)]
