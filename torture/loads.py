"""The server holds its load: H1, H2, H5 and H6, in addition to the targets of `make bench`."""

import asyncio
import random
import statistics
import time
from collections import Counter
from contextlib import suppress
from typing import NamedTuple

from cityweb.postgres import database
from tests.proxy import Proxy
from torture.ground import Running, descriptors, ground, memory
from torture.live import SEEN
from torture.report import Report
from torture.visitor import Visitor, address


async def add_for(port: int, seconds: float, prefix: str, writers: int = 24) -> tuple[list[float], Counter[int], float]:
    """The seconds that each add took, the statuses, and the adds per second."""
    times: list[float] = []
    statuses = Counter[int]()
    begun = time.monotonic()

    async def write(number: int) -> None:
        async with Visitor(port) as visitor:
            count = 0
            while time.monotonic() - begun < seconds:
                count += 1
                asked = time.monotonic()
                statuses[(await visitor.add(f"{prefix} {number} {count}", count)).status] += 1
                times.append(time.monotonic() - asked)

    await asyncio.gather(*(write(number) for number in range(writers)))
    return times, statuses, len(times) / (time.monotonic() - begun)


def percentile_99(times: list[float]) -> float:
    return statistics.quantiles(times, n=100)[98]


async def add_durably(report: Report, seed: int) -> None:
    """H1: 24 clients add cities for 30 s, with the rate limiter on."""
    async with ground() as here:
        server = await here.start()
        times, statuses, rate = await add_for(server.port, 30, f"Load {seed}")
    report.at_least("24 clients add durably for 30 s", rate, 500, "adds/s")
    report.at_most("… 99th percentile", 1000 * percentile_99(times), 150, "ms")
    report.exactly("… answers other than 201", sum(statuses.values()) - statuses[201], 0)


async def read_at_once(report: Report, seed: int) -> None:  # noqa: ARG001 (a row)
    """H2: 1,000 simultaneous requests for the page, while the database never responds, and after it is back."""
    async with ground() as here, Proxy(here.url("cityweb_app")) as proxy:
        server = await here.start(DATABASE_URL=proxy.url.render_as_string())
        visitors = [Visitor(server.port) for _ in range(1000)]
        await asyncio.gather(*(visitor.get("/") for visitor in visitors))
        measured = []
        for away in (True, False):
            if away:
                proxy.swallow()
                await asyncio.sleep(2)
            else:
                proxy.up()
                await server.wait_for("/readyz", 200, 10)
            begun = time.monotonic()
            responses = await asyncio.gather(*(visitor.get("/") for visitor in visitors))
            seconds = time.monotonic() - begun
            measured.append((Counter((r.status, b"Showing the board as of" in r.body) for r in responses), seconds))
        for visitor in visitors:
            visitor.close()
    for (counted, seconds), away in zip(measured, (True, False), strict=True):
        report.exactly(f"1,000 pages at once, database {'away' if away else 'back'}: status, 'as of'",
                       dict(counted), {(200, away): 1000})  # fmt: skip
        report.at_most("… the last", seconds, 1, "s")


class Moment(NamedTuple):
    """The resources of both processes at a moment of H5."""

    minute: float
    sizes: list[int]
    descriptors: int
    tasks: int
    connections: int


async def mix(report: Report, seed: int, minutes: float) -> None:
    """H5: mixed requests for a long time, under which nothing grows."""
    chance = random.Random(seed)
    async with ground() as here:
        server = await here.start("--workers", "2")
        await asyncio.sleep(3)
        over, codes = asyncio.Event(), Counter[int]()
        tasks = [asyncio.create_task(_visit(server, chance, f"Mixed {seed} {n}", over, codes)) for n in range(12)]
        tasks += [asyncio.create_task(_come_and_go(server, chance, over)) for _ in range(12)]
        workers = server.workers()
        await asyncio.sleep(min(60, 15 * minutes))  # until caches and pools are full
        begun = time.monotonic()
        seen: list[Moment] = []
        while (now := time.monotonic() - begun) < 60 * minutes:
            (row,) = await here.sql("SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'cityweb%'")
            counted = sum([await server.tasks(p) for p in workers])
            sizes = [memory(p) for p in workers]
            seen.append(Moment(now / 60, sizes, sum(descriptors(p) for p in workers), counted, row["count"]))
            await asyncio.sleep(min(5, 2 * minutes))
        same = workers == server.workers()
        over.set()
        await asyncio.gather(*tasks)
    minute = [moment.minute for moment in seen]
    slopes = [statistics.linear_regression(minute, [m.sizes[w] / 2**20 for m in seen]).slope for w in (0, 1)]
    report.at_most(
        f"everything mixed, {minutes:g} min, {sum(codes.values()):,} answers: memory of a process",
        max(slopes),
        1,
        "MB/min",
    )
    third = len(seen) // 3
    for what, counts in (("descriptors", [m.descriptors for m in seen]), ("tasks", [m.tasks for m in seen])):
        first, last = statistics.mean(counts[:third]), statistics.mean(counts[-third:])
        report.row(
            f"… {what} of both, first and last third", "+ 3 at most", f"{first:.1f}, {last:.1f}", last <= first + 3
        )
    # Both pools and the board's connection of each process, and our connection that counts them.
    most = 2 * (database.READ_CONNECTIONS + database.ADD_CONNECTIONS + 1) + 1
    report.at_most("… connections to the database", max(m.connections for m in seen), most, "connections")
    report.row(
        "… answers", "200, 201, 303, 404, 422", dict(sorted(codes.items())), set(codes) <= {200, 201, 303, 404, 422}
    )
    report.exactly("… the same processes as at the start", same, True)


async def _visit(server: Running, chance: random.Random, prefix: str, over: asyncio.Event, codes: Counter[int]) -> None:
    visitor, count = Visitor(server.port), 0
    while not over.is_set():
        count += 1
        match chance.randrange(8):
            case 0 | 1:
                asking = visitor.add(f"{prefix} {count}", chance.randrange(100_000_000))
            case 2:
                asking = visitor.add(f"{prefix} {chance.randrange(count)}", 5)
            case 3:
                asking = visitor.add("", -1)
            case 4:
                asking = visitor.get(f"/?added={chance.randrange(1, 1000)}")
            case 5:
                asking = visitor.get(chance.choice(["/cities/biggest", "/nowhere", "/livez", "/readyz"]))
            case _:
                asking = visitor.get("/")
        try:
            codes[(await asking).status] += 1
        except (OSError, EOFError, TimeoutError):
            codes[0] += 1
        if chance.randrange(20) == 0:
            visitor.close()
        await asyncio.sleep(chance.uniform(0, 0.05))
    visitor.close()


async def _come_and_go(server: Running, chance: random.Random, over: asyncio.Event) -> None:
    """Opens one page after another, each of which polls for a while."""
    while not over.is_set():
        async with Visitor(server.port) as visitor:
            end, seen = time.monotonic() + chance.uniform(0.5, 8), ""
            while time.monotonic() < end and not over.is_set():
                with suppress(OSError, EOFError, TimeoutError):
                    response = await visitor.get(f"/board?seen={seen}")
                    if shown := SEEN.search(response.body):
                        seen = shown[1].decode()
                await asyncio.sleep(0.5)


async def flood(report: Report, seed: int) -> None:
    """H6: 8,000 adds from one client IP over 4 workers with the default rate limits, while other visitors add."""
    async with ground() as here:
        server = await here.start("--workers", "4", CITYWEB_RATE_LIMIT="")
        await asyncio.sleep(4)
        numbers = iter(range(1, 100_000))
        wrong = Counter[int]()
        chance = random.Random(seed)

        async def add_by_four(seconds: float) -> list[float]:
            return [
                time_ for times in await asyncio.gather(*(add_others(seconds) for _ in range(4))) for time_ in times
            ]

        async def add_others(seconds: float) -> list[float]:
            times, end = [], time.monotonic() + seconds
            while time.monotonic() < end:
                number = next(numbers)
                async with Visitor(server.port, address(number)) as visitor:
                    for count in range(5):
                        asked = time.monotonic()
                        response = await visitor.add(f"Other {seed} {number} {count}", count)
                        times.append(time.monotonic() - asked)
                        wrong[response.status] += response.status != 201
                        await asyncio.sleep(0.02)
            return times

        accepted: list[float] = []
        first = last = 0.0

        async def flooding(which: int) -> None:
            nonlocal first, last
            visitor = Visitor(server.port, "127.200.0.1")
            for count in range(500):
                asked = time.monotonic()
                first = first or asked
                response = await visitor.add(f"Flood {seed} {which} {count}", 5)
                last = max(last, asked)
                if response.status == 201:
                    accepted.append(time.monotonic())
                # A random pause: sixteen adds in step would delay each other, and the other visitors, in this process.
                await asyncio.sleep(chance.uniform(0, 0.1))
            visitor.close()

        # Measured without the flood before and after it, because a disk may be slower for some seconds.
        alone = await add_by_four(15)
        beside = asyncio.create_task(add_by_four(25))
        await asyncio.gather(*(flooding(which) for which in range(16)))
        lasted = last - first
        others = await beside
        alone += await add_by_four(15)
        (row,) = await here.sql(f"SELECT count(*) FROM cities WHERE name LIKE 'Flood {seed} %'")
    # A worker rejects a client IP for up to a second longer than it must, so the last add may be rejected.
    least, most, stored = 10 + int((lasted - 1.5) / 6), 10 + int((lasted + 0.1) / 6), row["count"]
    report.row(
        f"8,000 adds from one address in {lasted:.1f} s over 4 workers: stored",
        f"{most}, the burst and one for each 6 s" + (f", or {least}" if least < most else ""),
        stored,
        least <= stored <= most and stored == len(accepted),
    )
    report.exactly("… others rejected", +wrong, Counter())
    calm, busy = 1000 * percentile_99(alone), 1000 * percentile_99(others)
    report.row(
        "… 99th percentile of the others", "+ 20 % at most", f"{calm:.1f} ms, then {busy:.1f} ms", busy <= 1.2 * calm
    )
