"""No acknowledged add is lost: L1 to L3 and L5 to L9 (`make test` checks L4 exactly)."""

import asyncio
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

from cityweb.postgres import embedded
from tests.proxy import Proxy
from torture.ground import Ground, Running, ground, inside, kill, lives
from torture.ledger import Ledger, write
from torture.nemesis import Nemesis
from torture.report import Report
from torture.visitor import Visitor, address

WRITERS = 24
CONNECTIONS = 200
CUTTING = """
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from cityweb.server.protocol import GuardedProtocol
GuardedProtocol.shutdown = HttpToolsProtocol.shutdown
"""
"""Ends connections as uvicorn does: at once, even if the next request is in transit."""


UNLOOKING = """
from sqlalchemy import text
from cityweb.postgres import cities
look = "NOT EXISTS (SELECT FROM cities WHERE name_key = :new_name_key) AND"
assert look in cities.INSERT.text
cities.INSERT = text(cities.INSERT.text.replace(look, ""))
"""
"""Leaves only the unique key to detect that a city is already stored."""


async def kill_and_freeze(report: Report, seed: int) -> None:
    """L1: writers add cities while a seeded nemesis kills and freezes processes."""
    async with ground(kept_by_us=False) as here:
        server = await here.start("--workers", "2", DATABASE_URL="", CITYWEB_DATA=str(here.folder))
        ledger, nemesis = Ledger(), Nemesis(here, server, seed)
        over = asyncio.Event()
        raging = asyncio.create_task(nemesis.rage(60, pause=2.2))
        raging.add_done_callback(lambda _: over.set())
        writing = [write(ledger, server.port, f"City {seed} {n}", over) for n in range(WRITERS)]
        await asyncio.gather(raging, *writing)
        await server.wait_for("/readyz", 200, 30)
        stored = await here.pairs()
    report.row(
        "acknowledged adds lost, duplicate, phantom", "0, 0, 0", ledger.compare(stored), not any(ledger.compare(stored))
    )
    report.at_least("faults: " + ", ".join(sorted(set(nemesis.done))), len(nemesis.done), 20, "faults")
    report.at_least("adds acknowledged", len(ledger.acknowledged), 20_000, "adds")
    report.at_most("longest gap between two", ledger.longest_gap(), 5, "s")


async def lose_on_purpose(report: Report, seed: int) -> None:
    """L2: the control of L1, on a database that acknowledges commits before they are durable."""
    lost = acknowledged = 0
    async with ground(kept_by_us=False) as here:
        server = await here.start(DATABASE_URL="", CITYWEB_DATA=str(here.folder))
        await here.sql(
            *(f"ALTER SYSTEM SET {setting}" for setting in (
                "synchronous_commit = off", "wal_writer_delay = '10s'", "wal_writer_flush_after = '1GB'"
            )),
            "SELECT pg_reload_conf()",
            role="postgres",
        )  # fmt: skip
        await asyncio.sleep(1)
        ledger = Ledger()
        for round_ in range(3):
            over = asyncio.Event()
            asyncio.get_running_loop().call_later(1, over.set)
            await asyncio.gather(*(write(ledger, server.port, f"Lost {seed} {round_} {n}", over) for n in range(8)))
            await Nemesis(here, server, seed).kill_postgres()
            await asyncio.sleep(1.5)
            await server.wait_for("/readyz", 200, 30)
            lost = ledger.compare(await here.pairs())[0]
        acknowledged = len(ledger.acknowledged)
    report.row(
        f"control of L1: synchronous_commit off, {acknowledged:,} acknowledged", "lost > 0", f"{lost:,} lost", lost > 0
    )


async def lose_answers(report: Report, seed: int) -> None:
    """L3: the response of the database to an add is dropped."""
    async with ground() as here, Proxy(here.url("cityweb_app")) as proxy:
        for unique in (True, False):
            server = await here.start(DATABASE_URL=proxy.url.render_as_string(), before="" if unique else UNLOOKING)
            if not unique:
                await here.sql("TRUNCATE cities, changes", "ALTER TABLE cities DROP CONSTRAINT cities_name_key_key")
            ledger, before, drops = Ledger(), proxy.lost, 100 if unique else 20
            async with Visitor(server.port) as visitor:
                for number in range(drops):
                    pair = (f"Dropped {seed} {number}", number)
                    ledger.attempted.add(pair)
                    proxy.answers_to_lose = 1
                    ledger.note(pair, await visitor.add(*pair))
            dropped = proxy.lost - before
            lost, duplicate, phantom = ledger.compare(await here.pairs())
            if unique:
                report.row("answers dropped", "≥ 100", dropped, dropped >= 100)
                report.row(
                    "adds lost, duplicate, phantom",
                    "0, 0, 0",
                    (lost, duplicate, phantom),
                    not (lost or duplicate or phantom),
                )
                report.exactly("our own row is 201", dict(ledger.statuses), {201: drops})
            else:
                report.row("control without the unique key", "duplicates", f"{duplicate} duplicates", duplicate > 0)


CONTROL_STOPS = 10
"""uvicorn's own shutdown loses a request only if one is in transit at that moment: not at each stop."""


async def stop_under_load(report: Report, seed: int) -> None:
    """L5: SIGTERM while adds are in progress and open connections request the page repeatedly."""
    for workers in (1, 4):
        async with ground() as here:
            server = await here.start("--workers", str(workers))
            await asyncio.sleep(2 * (workers > 1))
            added, ledger, seconds, lost_requests, asked = await _stop(here, server, seed)
            lost, duplicate, _ = ledger.compare(await here.pairs())
        label = f"{workers} worker{'s' * (workers > 1)}"
        report.exactly(f"SIGTERM, {label}: 50 adds under way are stored and say so", added, 50)
        report.row(f"… lost, duplicate, {label}", "0, 0", (lost, duplicate), not lost and not duplicate)
        report.exactly(f"… of {asked:,} requests on {CONNECTIONS} open connections lost, {label}", lost_requests, 0)
        report.at_most(f"… until it has ended, {label}", seconds, 2, "s")
    lost_requests = asked = stops = 0
    while not lost_requests and stops < CONTROL_STOPS:
        async with ground() as here:
            *_, lost_requests, more = await _stop(here, await here.start(before=CUTTING), seed)
        asked, stops = asked + more, stops + 1
    control = f"control: uvicorn's own end, {stops} of {CONTROL_STOPS} stops, {asked:,} requests"
    report.row(control, "lost > 0", lost_requests, lost_requests > 0)


async def _stop(here: Ground, server: Running, seed: int) -> tuple[int, Ledger, float, int, int]:
    ledger, visitors = Ledger(), [Visitor(server.port) for _ in range(50)]
    for visitor in visitors:
        await visitor.get("/livez")

    async def add(number: int) -> bool:
        pair = (f"Stopped {seed} {number}", number)
        ledger.attempted.add(pair)
        return ledger.note(pair, await visitors[number].add(*pair))

    reading = [asyncio.create_task(read_to_the_end(server.port)) for _ in range(CONNECTIONS)]
    await asyncio.sleep(0.5)
    locked = asyncio.create_task(here.sql("BEGIN", "LOCK TABLE cities IN SHARE MODE", "SELECT pg_sleep(0.7)", "COMMIT"))
    await asyncio.sleep(0.2)
    adding = [asyncio.create_task(add(number)) for number in range(50)]
    await asyncio.sleep(0.3)
    begun = time.monotonic()
    stopping = asyncio.create_task(server.stop(40))
    outcomes = await asyncio.gather(*adding, return_exceptions=True)
    await stopping
    seconds = time.monotonic() - begun
    ends = await asyncio.gather(*reading)
    await locked
    for visitor in visitors:
        visitor.close()
    added = sum(outcome is True for outcome in outcomes)
    return added, ledger, seconds, sum(lost for lost, _ in ends), sum(asked for _, asked in ends)


async def read_to_the_end(port: int) -> tuple[bool, int]:
    """Requests the page on one connection until it ends. Returns whether a request was lost, and the number sent."""
    asked = 0
    async with Visitor(port) as visitor:
        reader, _ = await visitor.connect()
        while not reader.at_eof():
            asked += 1
            try:
                await visitor.get("/")
            except (OSError, EOFError):
                return True, asked
            if not visitor.answered:
                break
            await asyncio.sleep(0.05)
    return False, asked


async def restart_rolling(report: Report, seed: int) -> None:
    """L6: SIGHUP three times, under load."""
    failed, asked, restarts = [], 0, 0
    async with ground() as here:
        server = await here.start("--workers", "2")
        await asyncio.sleep(2)
        over = asyncio.Event()

        async def ask(number: int) -> None:
            nonlocal asked
            visitor = Visitor(server.port, address(number))
            count = 0
            while not over.is_set():
                count += 1
                request = visitor.add(f"Rolled {seed} {number} {count}", count) if count % 4 == 0 else visitor.get("/")
                asked += 1
                try:
                    response = await request
                except (OSError, EOFError, TimeoutError) as error:
                    failed.append(repr(error))
                    continue
                if response.status not in {200, 201, 422}:
                    failed.append(str(response.status))
                await asyncio.sleep(0.02)
            visitor.close()

        asking = [asyncio.create_task(ask(number)) for number in range(16)]
        for _ in range(3):
            before = set(server.workers())
            server.process.send_signal(signal.SIGHUP)
            with suppress(TimeoutError):
                async with asyncio.timeout(40):
                    while len(now := set(server.workers())) != 2 or now & before:
                        await asyncio.sleep(0.1)
                    restarts += 1
        over.set()
        await asyncio.gather(*asking)
    report.exactly("SIGHUP: workers all replaced, times", restarts, 3)
    report.row(f"requests failed meanwhile, of {asked:,}", "0", f"{len(failed)} {failed[:2] or ''}", not failed)


async def kill_supervisor(report: Report, seed: int) -> None:  # noqa: ARG001 (a row)
    """L7: the supervisor is killed with open connections; PostgreSQL stays, and the next start adopts it."""
    async with ground(kept_by_us=False) as here:
        server = await here.start("--workers", "2", DATABASE_URL="", CITYWEB_DATA=str(here.folder))
        await asyncio.sleep(2)
        visitors = [Visitor(server.port) for _ in range(10)]
        for visitor in visitors:
            await visitor.get("/")
        workers, postmaster = server.workers(), here.postmaster()
        begun = time.monotonic()
        server.process.kill()
        server.process.wait()
        with suppress(TimeoutError):
            async with asyncio.timeout(10):
                while not _is_free(server.port):
                    await asyncio.sleep(0.02)
        seconds = time.monotonic() - begun
        await asyncio.sleep(1)
        left = [pid for pid in workers if lives(pid)]
        for visitor in visitors:
            visitor.close()
        again = await here.start(DATABASE_URL="", CITYWEB_DATA=str(here.folder))
        adopted = here.postmaster() == postmaster
        await again.stop()
    report.at_most("supervisor killed: until its port is free", seconds, 3, "s")
    report.exactly("… workers left", len(left), 0)
    report.exactly("… PostgreSQL is adopted by the next start", adopted, True)


def _is_free(port: int) -> bool:
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True


async def kill_database(report: Report, seed: int) -> None:
    """L8: the embedded PostgreSQL is killed; then its pid file names an unrelated process."""
    chance, slowest, kept = random.Random(seed), 0.0, 0
    async with ground(kept_by_us=False) as here:
        cluster = here.folder / "postgres"
        with embedded.serving(here.folder):
            account = cluster.stat().st_uid
        for round_ in range(20):
            with subprocess.Popen(["sleep", "60"], user=account) as sleeper:
                try:
                    with embedded.serving(here.folder):
                        await asyncio.sleep(chance.uniform(0, 0.2))
                        kill(here.postmaster())
                        begun = time.monotonic()
                        done = await asyncio.to_thread(_serve_once, here.folder)
                        slowest = max(slowest, time.monotonic() - begun) if done == "1" else 99
                    if round_ % 5 == 0:  # each takes the full timeout of a start
                        lines = f"{sleeper.pid}\n{cluster}\n1700000000\n5432\n.\n\n  1234567  1\nready   \n"
                        (cluster / "postmaster.pid").write_text(lines)
                        os.chown(cluster / "postmaster.pid", account, -1)
                        output = await asyncio.to_thread(_serve_once, here.folder)
                        untouched = (cluster / "postmaster.pid").read_text() == lines
                        kept += untouched and f"process {sleeper.pid} (sleep)" in output and output.count("\n") <= 1
                        (cluster / "postmaster.pid").unlink()
                finally:
                    sleeper.kill()
        left = inside(here.folder)
    report.at_most("PostgreSQL killed and started at once, 20 times: the slowest", slowest, 15, "s")
    report.exactly("a stranger in its file is named, the file kept, of 4", kept, 4)
    report.exactly("processes left", len(left), 0)


SERVE_ONCE = """
import asyncio, sys
from pathlib import Path
from sqlalchemy import make_url
from cityweb.postgres import database, embedded
from cityweb.settings import OperatorError

async def ask(url):
    connection = await database.connect(make_url(url))
    print(await connection.fetchval("SELECT 1"))
    await connection.close()

try:
    with embedded.serving(Path(sys.argv[1])) as served:
        asyncio.run(ask(served.url))
except OperatorError as error:
    print(error)
"""


def _serve_once(folder: Path) -> str:
    """The output of another process that uses the embedded server: 1, or the error."""
    done = subprocess.run(
        [sys.executable, "-c", SERVE_ONCE, folder], capture_output=True, text=True, check=False, timeout=60
    )
    return (done.stdout + done.stderr).strip()


async def add_namesakes(report: Report, seed: int) -> None:
    """L9: ten visitors add one name at once, two as it is and two with each of four places; 100 rounds, 4 workers."""
    rounds, places = 100, ("Texas", "Ohio", "Idaho", "Maine")
    statuses = Counter[int]()
    async with ground() as here:
        server = await here.start("--workers", "4")
        visitors = [Visitor(server.port) for _ in range(10)]
        for number in range(rounds):
            asked = zip(visitors, 2 * ("", *places), strict=True)
            adds = (visitor.add(f"Paris {seed} {number}", 5, place) for visitor, place in asked)
            statuses += Counter(response.status for response in await asyncio.gather(*adds))
        for visitor in visitors:
            visitor.close()
        stored = [name for name, _ in await here.pairs()]
    wanted = {
        f"Paris {seed} {number}" + (place and f", {place}") for number in range(rounds) for place in ("", *places)
    }
    report.exactly(f"{rounds} times ten adds of one name, eight with a place: cities", len(stored), 5 * rounds)
    report.exactly("… names that are missing or unasked for", len({*stored} ^ wanted), 0)
    report.exactly("… statuses", dict(statuses), {201: 5 * rounds, 422: 5 * rounds})
