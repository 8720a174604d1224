"""What a visitor is told while something breaks; `make torture` has the same for minutes, as it is shipped."""

import asyncio
import gc
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import asyncpg
import httpx
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from cityweb.postgres import cities, database, schema
from cityweb.postgres.database import DatabaseUnavailable, Pool
from cityweb.submissions import CitySubmission
from tests.conftest import Addresses, Site, locking, open_site, ready, run_sql, serving, unmeasured, until
from tests.pages import add
from tests.proxy import Proxy
from torture.ground import ground
from torture.ledger import Ledger, write
from torture.nemesis import Nemesis

FAULTS = ["kill_worker", "kill_postgres", "kill_backend", "terminate_backends", "freeze"]
CUT_ALL = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
    " WHERE application_name = 'cityweb' AND pid <> pg_backend_pid()"
)


@pytest.fixture(scope="module")
async def nemesis() -> AsyncIterator[Nemesis]:
    """What causes faults in two workers and in the database that they keep."""
    async with ground(kept_by_us=False) as here:
        running = await here.start("--workers", "2", DATABASE_URL="", CITYWEB_DATA=str(here.folder))
        yield Nemesis(here, running, seed=1)


@pytest.fixture(scope="module")
def ledger() -> Ledger:
    """What was added there, before every fault."""
    return Ledger()


@unmeasured
@pytest.mark.parametrize("fault", FAULTS)
async def test_what_was_acknowledged_outlives_a_fault(nemesis: Nemesis, ledger: Ledger, fault: str) -> None:
    before, over = len(ledger.acknowledged), asyncio.Event()
    port = nemesis.server.port
    writing = [asyncio.create_task(write(ledger, port, f"City {n} of {fault}", over)) for n in range(6)]
    await until(lambda: len(ledger.acknowledged) >= before + 20, 30)
    await getattr(nemesis, fault)()
    before = len(ledger.acknowledged)
    await until(lambda: len(ledger.acknowledged) > before + 20, 30)
    over.set()
    await asyncio.gather(*writing)
    assert ledger.compare(await nemesis.here.pairs()) == (0, 0, 0)


@pytest.mark.parametrize(
    ("acknowledged", "stored", "found"),
    [
        ({("A", 1)}, [("A", 1)], (0, 0, 0)),
        ({("A", 1)}, [], (1, 0, 0)),
        ({("A", 1)}, [("A", 2)], (1, 0, 1)),
        ({("A", 1)}, [("A", 1), ("A", 1)], (0, 1, 0)),
        (set(), [("A", 1)], (0, 0, 0)),
        (set(), [("B", 1)], (0, 0, 1)),
    ],
)
def test_the_ledger_sees_what_was_lost(
    acknowledged: set[tuple[str, int]], stored: list[tuple[str, int]], found: tuple[int, int, int]
) -> None:
    ledger = Ledger(attempted={("A", 1)}, acknowledged=dict.fromkeys(acknowledged, 0.0))
    assert ledger.compare(stored) == found


async def test_50_adds_while_every_backend_is_terminated_meet_no_error(site: Site, empty: Addresses) -> None:
    for number in range(50):
        await run_sql(empty.server, CUT_ALL)
        assert (await add(site.client, "json", f"City {number}", number)).status == 201
    assert len(await run_sql(empty.app, "SELECT FROM cities")) == 50


async def test_without_the_second_try_they_would(empty: Addresses, monkeypatch: pytest.MonkeyPatch) -> None:
    # The pool alone: on a whole site the board may meet the broken connection first.
    pool = Pool(empty.app, 1)
    async with pool.open() as session:
        await cities.add(session, CitySubmission("First", 1))
        monkeypatch.setattr(database, "is_disconnected", lambda _: False)
        await run_sql(empty.server, CUT_ALL)
        with pytest.raises((DBAPIError, DatabaseUnavailable)):
            await cities.add(session, CitySubmission("Second", 2))
    await pool.engine.dispose()


@pytest.mark.parametrize(
    ("code", "broke"), [("08006", True), ("57P01", True), ("57014", False), ("25006", False), ("23505", False)]
)
async def test_some_errors_say_that_the_connection_broke(empty: Addresses, code: str, broke: bool) -> None:
    # Raised in a function, they leave the connection whole: only the code says it.
    engine = Pool(empty.app, 1).engine
    async with engine.connect() as connection:
        with pytest.raises(DBAPIError) as raised:
            await connection.execute(text(f"DO $$ BEGIN RAISE EXCEPTION 'x' USING ERRCODE = '{code}'; END $$"))
    assert database.is_disconnected(raised.value) is broke
    await engine.dispose()


async def test_a_connection_that_is_busy_with_what_was_cancelled_is_no_bug(empty: Addresses) -> None:
    engine = Pool(empty.app, 1).engine
    async with engine.connect() as connection:
        driver = (await connection.get_raw_connection()).driver_connection
        assert isinstance(driver, asyncpg.Connection)
        busy = asyncio.create_task(driver.execute("SELECT pg_sleep(0.2)"))
        await asyncio.sleep(0)
        with pytest.raises(DBAPIError, match="another operation is in progress") as raised:
            await connection.execute(text("SELECT 1"))
        await busy
    assert database.is_unavailable(raised.value)
    await engine.dispose()


async def test_a_connection_that_broke_before_sqlalchemy_had_it_is_no_bug(empty: Addresses) -> None:
    connection = await database.connect(empty.app)
    connection.terminate()
    with pytest.raises(asyncpg.InterfaceError) as raised:
        await connection.execute("SELECT 1")
    assert database.is_disconnected(raised.value)
    assert database.is_unavailable(raised.value)


async def test_500_cancelled_adds_leave_the_pool_whole(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    for burst in range(50):
        requests = [asyncio.create_task(add(site.client, "json", f"Left {burst} {n}", n)) for n in range(10)]
        await asyncio.sleep(0.002)
        for request in requests:
            request.cancel()
        await asyncio.gather(*requests, return_exceptions=True)
    pool = site.add_pool.engine.pool
    await until(lambda: pool.checkedout() == 0, 10)  # type: ignore[attr-defined]
    assert (await add(site.client, "json", "Next", 1)).status == 201
    assert "never retrieved" not in caplog.text


async def test_a_pool_exhausted_tenfold_is_a_503(site: Site, empty: Addresses) -> None:
    await site.client.get("/")
    async with locking(empty.owner, "SHARE", 6):
        adds = (site.client.post("/cities/", json={"name": f"City {n}", "population": n}) for n in range(50))
        answers = await asyncio.gather(*adds)
        assert {answer.status_code for answer in answers} == {503}
        assert all(int(answer.headers["retry-after"]) for answer in answers)
        assert (await site.client.get("/")).status_code == 200
    assert (await add(site.client, "json", "Next", 1)).status == 201


async def test_a_wait_for_a_lock_ends_before_everything_else_does(site: Site, empty: Addresses) -> None:
    async with locking(empty.owner, "SHARE", 3), site.add_pool.open() as session:
        with pytest.raises(DatabaseUnavailable) as waited:
            await cities.add(session, CitySubmission("Tokyo", 1))
    assert isinstance(waited.value.__cause__, DBAPIError)
    assert database.sqlstate(waited.value.__cause__) == "55P03"


async def test_a_query_ends_though_its_process_was_killed(site: Site, empty: Addresses) -> None:
    async with site.read_pool.engine.connect() as connection:
        driver = (await connection.get_raw_connection()).driver_connection
        assert isinstance(driver, asyncpg.Connection)
        asking = asyncio.create_task(driver.execute(SLEEP))
        async with asyncio.timeout(5):
            while not await run_sql(empty.server, SLEEPING):
                await asyncio.sleep(0.01)
        driver.terminate()
        await asyncio.wait([asking])
        assert asking.exception()
        await connection.invalidate()
    async with asyncio.timeout(2.5):
        while await run_sql(empty.server, SLEEPING):
            await asyncio.sleep(0.01)


SLEEP = "SELECT pg_sleep(20)"
SLEEPING = f"SELECT FROM pg_stat_activity WHERE query = '{SLEEP}' AND state = 'active'"


async def test_a_page_waits_two_seconds_at_most_for_a_connection(site: Site) -> None:
    async with AsyncExitStack() as stack:
        for _ in range(database.READ_CONNECTIONS):
            await stack.enter_async_context(site.read_pool.engine.connect())
        async with asyncio.timeout(10):
            assert (await site.client.get("/cities")).status_code == 503


@pytest.mark.parametrize("connected", [True, False])
async def test_a_page_in_a_black_hole_is_answered(empty: Addresses, connected: bool) -> None:
    async with Proxy(empty.app) as proxy, open_site(proxy.url) as site:
        await site.client.get("/cities")
        if not connected:
            await site.read_pool.engine.dispose()
        proxy.swallow()
        async with asyncio.timeout(4):  # 2.3 s, or 4.3 s if a close waits for the silent server
            assert (await site.client.get("/cities")).status_code == 503


async def test_an_add_in_a_black_hole_is_answered(empty: Addresses, log: Path) -> None:
    async with Proxy(empty.app) as proxy:
        with serving(proxy.url, log) as start_server:
            server = await asyncio.to_thread(start_server, CITYWEB_RATE_LIMIT="9,9,9")
            async with httpx.AsyncClient(base_url=server.url) as client:
                assert (await add(client, "json", "Tokyo", 1)).status == 201
                proxy.swallow()
                async with asyncio.timeout(3):
                    answer = await client.post("/cities/", json={"name": "Delhi", "population": 2})
                assert (answer.status_code, "was not saved" in answer.text) == (503, True)
            proxy.up()


async def test_a_start_in_a_black_hole_ends(empty: Addresses) -> None:
    async with Proxy(empty.app) as proxy:
        owner = await database.connect(empty.owner)
        await owner.execute("BEGIN; LOCK TABLE alembic_version")
        starting = asyncio.create_task(schema.prepare(proxy.url, seconds=0.5))
        while not await run_sql(empty.server, "SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock'"):
            await asyncio.sleep(0.01)
        proxy.swallow()
        async with asyncio.timeout(4):
            with pytest.raises(TimeoutError):
                await starting
        await owner.close()


async def test_two_processes_that_start_on_an_empty_database_make_one_schema(postgres: Addresses, log: Path) -> None:
    await run_sql(postgres.server, f"CREATE DATABASE shared OWNER {postgres.owner.username}")
    url = postgres.owner.set(database="shared")
    try:
        with serving(url, log) as start_server:
            for server in await asyncio.gather(*(asyncio.to_thread(start_server) for _ in range(2))):
                await ready(server)
            assert len(await run_sql(url, "SELECT FROM alembic_version")) == 1
    finally:
        await run_sql(postgres.server, "DROP DATABASE shared WITH (FORCE)")


@pytest.mark.parametrize("turns", range(8))
async def test_the_proxy_leaks_no_connection_that_it_is_accepting(turns: int, empty: Addresses) -> None:
    async with Proxy(empty.app) as proxy:
        assert proxy.url.port
        with socket.create_connection(("127.0.0.1", proxy.url.port)):
            for _ in range(turns):
                await asyncio.sleep(0)
    gc.collect()  # a leaked connection warns, which is an error
