"""The server survives faults: F1 to F6 and F9 (`make test` checks F10 and F11 exactly)."""

import asyncio
import time
from collections import Counter

from sqlalchemy import make_url

from cityweb.postgres import database
from tests.proxy import Proxy
from torture.ground import Ground, Running, ground
from torture.ledger import Ledger, write
from torture.nemesis import TERMINATE
from torture.report import Report
from torture.visitor import Response, Visitor

AWAY_SECONDS = 30
ADD = (
    "INSERT INTO cities (name, name_key, name_bare, population)"
    " SELECT name, lower(name), lower(name), 7 FROM (VALUES ('{}')) AS given (name)"
)


async def timed(server: Running, path: str) -> tuple[Response, float]:
    async with Visitor(server.port) as visitor:
        begun = time.monotonic()
        return await visitor.get(path), time.monotonic() - begun


async def timed_add(server: Running, name: str) -> tuple[Response, float]:
    async with Visitor(server.port) as visitor:
        begun = time.monotonic()
        return await visitor.add(name, 5), time.monotonic() - begun


async def be_down(report: Report, seed: int) -> None:
    """F1: the database is down for `AWAY_SECONDS`, once while the server runs and once from its start."""
    for at_start in (False, True):
        async with ground() as here, Proxy(here.url("cityweb_app")) as proxy:
            if at_start:
                proxy.down()
            server = await here.start(DATABASE_URL=proxy.url.render_as_string(), ready=not at_start)
            if not at_start:
                await timed_add(server, "Tokyo")
                await timed(server, "/")
                proxy.down()
            pid, pages, adds, probes, slowest = server.process.pid, Counter[int](), Counter[int](), Counter[str](), 0.0
            notices, end = 0, time.monotonic() + AWAY_SECONDS
            await asyncio.sleep(1.5)
            while time.monotonic() < end:
                page, _ = await timed(server, "/")
                pages[page.status] += 1
                notices += b"Showing the board as of" in page.body and b"Tokyo" in page.body
                added, seconds = await timed_add(server, f"Down {seed}")
                adds[added.status] += "retry-after" in added.headers
                slowest = max(slowest, seconds)
                for path in ("/livez", "/readyz"):
                    probes[f"{path} {(await timed(server, path))[0].status}"] += 1
                await asyncio.sleep(0.3)
            proxy.up()
            back = await server.wait_for("/readyz", 200, 15)
            whole = (await timed_add(server, f"Back {seed}"))[0].status
            alive = server.process.poll() is None and server.process.pid == pid
        when = "from the start" if at_start else f"for {AWAY_SECONDS} s"
        report.exactly(f"database down {when}: the page", set(pages), {503} if at_start else {200})
        if not at_start:
            report.exactly("… pages with the last board and the notice", notices, sum(pages.values()))
        report.exactly("… adds are rejected, with Retry-After", (set(adds), all(adds.values())), ({503}, True))
        report.at_most("… the slowest rejection", slowest, 3, "s")
        report.exactly("… probes", sorted(probes), ["/livez 200", "/readyz 503"])
        report.at_most("… whole again after its return", back, 3, "s")
        report.exactly("… adds again, without a restart", (whole, alive), (201, True))


async def be_swallowed(report: Report, seed: int) -> None:
    """F2: the database accepts everything and never responds."""
    async with ground() as here, Proxy(here.url("cityweb_app")) as proxy:
        server = await here.start(DATABASE_URL=proxy.url.render_as_string())
        await timed_add(server, "Tokyo")
        await timed(server, "/")
        proxy.swallow()
        await asyncio.sleep(5)
        responses = await asyncio.gather(
            *(timed_add(server, f"Swallowed {seed} {number}") for number in range(12)),
            *(timed(server, path) for path in ("/?added=1", "/cities/biggest", "/", "/livez", "/readyz")),
        )
        pages = [await timed(server, "/") for _ in range(40)]
        proxy.up()
        proxy.reset()
        back = await server.wait_for("/readyz", 200, 15)
    statuses = Counter(response.status for response, _ in responses)
    report.at_most("black hole: the slowest answer", max(seconds for _, seconds in responses), 5, "s")
    report.row("… answers", "200 or 503", dict(statuses), set(statuses) <= {200, 503})
    report.at_most("… page from memory, the median of 40", 1000 * sorted(seconds for _, seconds in pages)[20], 50, "ms")
    report.at_most("… whole again after its return", back, 5, "s")


async def be_terminated(report: Report, seed: int) -> None:
    """F3: all backends are terminated repeatedly, under load."""
    async with ground() as here:
        server = await here.start()
        ledger, over = Ledger(), asyncio.Event()
        writing = [asyncio.create_task(write(ledger, server.port, f"T {seed} {n}", over)) for n in range(8)]
        times = 0
        for _ in range(11):
            await asyncio.sleep(1)
            await here.sql(TERMINATE, role="postgres")
            times += 1
        await asyncio.sleep(1)
        over.set()
        await asyncio.gather(*writing)
        compared = ledger.compare(await here.pairs())
    others = {status: count for status, count in ledger.statuses.items() if status != 201}
    report.row(
        f"all backends terminated {times} times, {ledger.statuses[201]:,} adds: errors", "0", others or 0, not others
    )
    report.row("… lost, duplicate, phantom", "0, 0, 0", compared, not any(compared))


async def be_reset(report: Report, seed: int) -> None:
    """F4: all connections, also that of the board, are reset and terminated; a change in SQL still appears."""
    slowest = 0.0
    async with ground() as here, Proxy(here.url("cityweb_app")) as proxy:
        server = await here.start(DATABASE_URL=proxy.url.render_as_string())
        async with Visitor(server.port) as visitor:
            for number in range(6):
                if number % 2:
                    await here.sql(TERMINATE, role="postgres")
                else:
                    proxy.reset()
                name = f"Reset {seed} {number}"
                await here.sql(ADD.format(name))
                begun = time.monotonic()
                while name.encode() not in (await visitor.get("/cities/biggest")).body:
                    await asyncio.sleep(0.005)
                slowest = max(slowest, time.monotonic() - begun)
    report.at_most("connections reset and terminated, 6 times: a change in SQL shows", slowest, 1, "s")


async def be_left(report: Report, seed: int) -> None:
    """F5: 500 visitors disconnect during a query, under load."""
    async with ground() as here:
        server = await here.start()
        ledger, over = Ledger(), asyncio.Event()
        # Twice as many writers as connections, so that the whole pool is open before the visitors arrive.
        writers = range(2 * database.ADD_CONNECTIONS)
        writing = [asyncio.create_task(write(ledger, server.port, f"Stay {seed} {n}", over)) for n in writers]
        await asyncio.sleep(1)
        before = await _backends(here)
        for burst in range(50):
            leaving = [Visitor(server.port) for _ in range(10)]
            adding = [
                asyncio.create_task(visitor.add(f"Left {seed} {burst} {n}", n)) for n, visitor in enumerate(leaving)
            ]
            await asyncio.sleep(0.01)
            for task, visitor in zip(adding, leaving, strict=True):
                task.cancel()
                visitor.close()
            await asyncio.gather(*adding, return_exceptions=True)
            await asyncio.sleep(0.05)
        over.set()
        await asyncio.gather(*writing)
        await asyncio.sleep(1)
        after = await _backends(here)
        (busy,) = await here.sql(
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE application_name = 'cityweb' AND state <> 'idle' AND pid <> pg_backend_pid()"
        )
        next_one = (await timed_add(server, f"Next {seed}"))[0].status
        logged = server.log.read_text()
    others = {status for status in ledger.statuses if status != 201}
    report.exactly("500 left in mid-query: connections of the pool still in use", busy["count"], 0)
    report.exactly("… backends that are not the same as before", len(after - before), 0)
    report.exactly("… 'never retrieved' in the log", logged.count("never retrieved"), 0)
    report.row(
        "… others' adds rejected, and the next",
        "none, 201",
        (others or "none", next_one),
        not others and next_one == 201,
    )


async def _backends(here: Ground) -> set[int]:
    ours = "SELECT pid FROM pg_stat_activity WHERE application_name = 'cityweb' AND pid <> pg_backend_pid()"
    rows = await here.sql(ours, role="postgres")
    return {row["pid"] for row in rows}


async def be_exhausted(report: Report, seed: int) -> None:
    """F6: ten times as many adds as the pool has connections, while none is released."""
    async with ground() as here:
        server = await here.start()
        await timed_add(server, "Tokyo")
        await timed(server, "/")
        locked = asyncio.create_task(
            here.sql("BEGIN", "LOCK TABLE cities IN SHARE MODE", "SELECT pg_sleep(6)", "COMMIT")
        )
        await asyncio.sleep(0.5)
        responses = await asyncio.gather(*(timed_add(server, f"Pool {seed} {number}") for number in range(50)))
        page, seconds = await timed(server, "/")
        await locked
        next_one = (await timed_add(server, f"Next {seed}"))[0].status
    report.exactly("pool exhausted tenfold: answers", {response.status for response, _ in responses}, {503})
    report.exactly("… all with Retry-After", all("retry-after" in response.headers for response, _ in responses), True)
    report.at_most("… the slowest", max(seconds for _, seconds in responses), 2.5, "s")
    report.row(
        "… the page meanwhile, and the next add",
        "200, 201",
        (page.status, next_one),
        (page.status, next_one) == (200, 201),
    )
    report.at_most("… the page", 1000 * seconds, 100, "ms")


async def start_together(report: Report, seed: int) -> None:  # noqa: ARG001 (a row)
    """F9: four processes start at once on an empty database, 20 times."""
    ready = made = 0
    async with ground() as here:
        for number in range(20):
            await here.sql(f"CREATE DATABASE round_{number} OWNER cityweb_owner", role="postgres")
            url = here.url(name=f"round_{number}")
            given = url.render_as_string()
            servers = await asyncio.gather(*(here.start(DATABASE_URL=given, ready=False) for _ in range(4)))
            for server in servers:
                await server.wait_for("/readyz", 200, 40)
                ready += 1
            await asyncio.gather(*(server.stop() for server in servers))
            connection = await database.connect(make_url(given))
            made += await connection.fetchval("SELECT count(*) FROM alembic_version") == 1
            await connection.close()
    report.exactly("4 processes on an empty database, 20 rounds: ready", ready, 80)
    report.exactly("… schemas made once", made, 20)
