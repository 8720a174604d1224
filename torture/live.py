"""The page says so when its board is stale (B1), and is still served while the database is away (B2)."""

import asyncio
import fcntl
import re
import signal
import statistics
import subprocess
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from email.utils import parsedate_to_datetime
from itertools import count, cycle
from pathlib import Path

import asyncpg

from tests.proxy import Proxy
from torture.ground import Ground, Running, frozen, ground, kill, kill_all
from torture.onlooker import Read, readers
from torture.report import Report
from torture.visitor import Response, Visitor

CHECKS = 10_000
LEAST = 1_000_000
"""The first population; each added city has one more than the one before, so that it is on the board."""
LOOKED_BACK = 60
"""The number of acknowledged adds that a check looks for; the board shows 20."""
POPULATION = re.compile(rb'class="number">([\d,]+)<|"population": (\d+)')
AS_OF = re.compile(rb'Showing the board as of <time datetime="([^"]+)"')
SEEN = re.compile(rb'name="seen" value="([0-9a-f]+)"')

EARLY = """
import asyncio
from cityweb.postgres import cities
from cityweb.web.board import Board

def begin(self, turn):
    self.running, self.turn = getattr(self, "turn", turn), turn

async def refresh(self):
    turn = self._next_read_ended if self.running.is_set() else self.running
    self._is_asked.set()
    await turn.wait()

read = cities.leaders

async def slow(connection):
    found = await read(connection)
    await asyncio.sleep(0.02)
    return found

Board._next_read_ended, Board.refresh, cities.leaders = property(lambda self: self.turn, begin), refresh, slow
"""
"""Makes a refresh count for commits after its query began, because it waits for the read in progress."""


@dataclass
class Acknowledged:
    """The populations that one server acknowledged, in order of time, with the time on both clocks."""

    monotonic: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)
    populations: list[int] = field(default_factory=list)

    def note(self, population: int) -> None:
        self.monotonic.append(time.monotonic())
        self.wall.append(time.time())
        self.populations.append(population)

    def before(self, times: list[float], moment: float) -> list[int]:
        """The last populations that were acknowledged before a moment."""
        end = bisect_left(times, moment)
        return self.populations[max(0, end - LOOKED_BACK) : end]


@dataclass
class Checks:
    """The acknowledged adds of each server, the number of checks, and each missing add or step back in time."""

    acknowledged: tuple[Acknowledged, Acknowledged] = field(default_factory=lambda: (Acknowledged(), Acknowledged()))
    made: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    polls: int = 0

    def check(self, server: int, begun: float, response: Response) -> int:
        """Checks a board that was requested at `begun`. Returns its highest population; 0 if it is stale."""
        shown = {int(page.replace(b",", b"") or rows) for page, rows in POPULATION.findall(response.body)}
        own, other = self.acknowledged[server], self.acknowledged[1 - server]
        moment = as_of(response)
        is_stale = moment is not None
        if moment is not None:
            due = own.before(own.wall, moment) + other.before(other.wall, moment)
        else:
            due = own.before(own.monotonic, begun) + other.before(other.monotonic, begun - 1)
        self.made["as of" if is_stale else "current"] += 1
        missing = {population for population in due if population >= min(shown, default=0)} - shown
        if missing:
            self.wrong.append(f"{len(missing)} missing{', as of' * is_stale}")
        return 0 if is_stale else max(shown, default=0)


def as_of(response: Response) -> float | None:
    """The time of the board in a stale response, HTML or JSON; None if it is current."""
    if shown := AS_OF.search(response.body):
        return datetime.fromisoformat(shown[1].decode()).timestamp()
    since = response.headers.get("last-modified")
    return parsedate_to_datetime(since).timestamp() if since else None


async def read_what_was_added(report: Report, seed: int) -> None:
    """B1: each reader of two servers on one database sees the acknowledged adds, while writers run."""
    checks = await _check(seed, CHECKS, before="")
    report.at_least(f"two servers, writers, readers, pauses of the database: {dict(checks.made)}",
                    checks.made.total(), CHECKS, "checks")  # fmt: skip
    report.row("… pages that say 'as of' among them", "> 0", checks.made["as of"], checks.made["as of"] > 0)
    report.row("… acknowledged and missing, or back in time", "0", checks.wrong[:3] or 0, not checks.wrong)
    control = await _check(seed, CHECKS // 5, before=EARLY)
    report.row(
        "control: a refresh that counts for commits after its query began", "is caught", f"{len(control.wrong)} times",
        len(control.wrong) > 0,
    )  # fmt: skip


async def _check(seed: int, wanted: int, before: str) -> Checks:
    checks, populations, over = Checks(), count(LEAST), asyncio.Event()
    async with ground() as here:
        ports = [(await here.start(before=before)).port for _ in range(2)]

        async def add(server: int) -> None:
            async with Visitor(ports[server]) as visitor:
                while not over.is_set():
                    population = next(populations)
                    if (await visitor.add(f"B {seed} {population}", population)).status == 201:
                        checks.acknowledged[server].note(population)
                        begun = time.monotonic()
                        checks.check(server, begun, await visitor.get("/cities/biggest"))
                    await asyncio.sleep(0.01)

        async def read(server: int, path: str) -> None:
            async with Visitor(ports[server]) as visitor:
                while not over.is_set():
                    begun = time.monotonic()
                    response = await visitor.get(path)
                    checks.check(server, begun, response)
                    await asyncio.sleep(0.005)

        async def poll() -> None:
            """Polls like a page behind a proxy that alternates between the servers."""
            visitors, seen, highest = [Visitor(port) for port in ports], "", 0
            for server in cycle((0, 1)):
                if over.is_set():
                    break
                begun = time.monotonic()
                response = await visitors[server].get(f"/board?seen={seen}")
                if response.status == 200:
                    now = checks.check(server, begun, response)
                    if 0 < now < highest:
                        checks.wrong.append("back in time")
                    seen, highest = SEEN.search(response.body)[1].decode(), max(now, highest)  # type: ignore[index]
                checks.polls += 1
                await asyncio.sleep(1)
            for visitor in visitors:
                visitor.close()

        async def pause() -> None:
            while not over.is_set():
                await asyncio.sleep(4)
                with frozen(here.postmaster()):
                    await asyncio.sleep(2)

        tasks = [asyncio.create_task(add(server)) for server in (0, 1) for _ in range(4)]
        tasks += [
            asyncio.create_task(read(server, path)) for server in (0, 1) for path in ("/", "/board", "/cities/biggest")
        ]
        tasks += [asyncio.create_task(poll()) for _ in range(20)]
        pausing = asyncio.create_task(pause())
        while checks.made.total() < wanted:
            await asyncio.sleep(0.1)
            for task in tasks:
                if task.done():
                    task.result()
        over.set()
        await asyncio.gather(pausing, *tasks)
    return checks


FAULT_SECONDS = 60
"""How long each fault of B2 lasts."""
CALM_SECONDS = 5
"""How long readers are measured before each fault and after it."""


async def be_away(report: Report, seed: int) -> None:
    """B2: the database is stopped, killed, paused and cut off, under 500 reads a second."""
    async with ground() as here, Proxy(here.url("cityweb_app")) as proxy:
        url = here.url("cityweb_app")
        cases = [("stopped", url), ("killed", url), ("paused", url), ("cut off", proxy.url)]
        if pooler := here.start_pooler():
            cases += [("stopped", pooler), ("paused", pooler)]
        for number, (fault, url) in enumerate(cases):
            server = await here.start(DATABASE_URL=url.render_as_string())
            async with readers(server.port) as reads, Visitor(server.port) as visitor:
                await asyncio.sleep(CALM_SECONDS)
                await visitor.add(f"Before {seed} {number}", 5)  # opens a pooled connection for the fault to hit
                begun = time.monotonic()
                async with away(here, proxy, fault):
                    noticing = asyncio.create_task(_until_stale(server))
                    await asyncio.sleep(0.3)
                    adds, slowest = Counter[int](), 0.0
                    while time.monotonic() < begun + FAULT_SECONDS:
                        asked = time.monotonic()
                        adds[(await visitor.add(f"Away {seed} {number}", 5)).status] += 1
                        slowest = max(slowest, time.monotonic() - asked)
                        await asyncio.sleep(0.2)
                    noticed = (await noticing) - begun
                    ended = time.monotonic()
                back = time.monotonic()
                while (await visitor.add(f"Back {seed} {number}", 5)).status not in {201, 422} or as_of(
                    await visitor.get("/")
                ) is not None:
                    await asyncio.sleep(0.02)
                normal = time.monotonic() - back
                await asyncio.sleep(CALM_SECONDS)
            await server.stop()
            behind = ", behind PgBouncer," if url == pooler else ""
            _report_reads(report, fault + behind, reads, (begun, ended, back + normal))
            report.at_most("… the page says 'as of'", noticed, 2, "s")
            report.row("… adds", "{503}", set(adds), set(adds) == {503})
            report.at_most("… the slowest", slowest, 3, "s")
            report.at_most("… everything is normal after its return", normal, 2, "s")


def _report_reads(report: Report, fault: str, reads: list[Read], moments: tuple[float, float, float]) -> None:
    begun, ended, normal = moments
    during = [read.seconds for read in reads if begun <= read.begun < ended]
    calm = [read.seconds for read in reads if read.begun < begun - 1 or read.begun > normal]
    p99, beside = (1000 * statistics.quantiles(times, n=100)[98] for times in (during, calm))
    report.row(
        f"database {fault} for {FAULT_SECONDS} s, {len(during) / (ended - begun):.0f} readers/s: their p99",
        "at most twice that without", f"{p99:.1f} ms, without {beside:.1f} ms", p99 <= 2 * beside,
    )  # fmt: skip
    statuses = Counter(read.status for read in reads)
    report.exactly("… answers of all readers", set(statuses), {200})


@asynccontextmanager
async def away(here: Ground, proxy: Proxy, fault: str) -> AsyncIterator[None]:
    """Makes the database unavailable until the block ends, and waits until it responds again."""
    if fault == "cut off":
        with dropping(proxy.url.port or 0) as is_dropping:
            if not is_dropping:
                proxy.swallow()
            yield
        proxy.up()
    elif fault == "paused":
        with frozen(here.postmaster()):
            yield
    else:
        # This lock keeps the embedded server from being started again.
        with (here.folder / "postgres.start.lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            postmaster = here.postmaster()
            if fault == "stopped":
                kill(postmaster, signal.SIGINT)
            else:
                kill_all(postmaster)
            yield
    while True:
        with suppress(OSError, TimeoutError, asyncpg.PostgresError):
            await here.sql("SELECT 1")
            break
        await asyncio.sleep(0.02)


@contextmanager
def dropping(port: int) -> Iterator[bool]:
    """Makes the firewall drop each packet to this port; False if iptables is missing or not permitted."""

    def iptables(action: str) -> bool:
        rule = ("INPUT", "-p", "tcp", "--dport", str(port), "-j", "DROP")
        return subprocess.run(["/usr/sbin/iptables", action, *rule], check=False, capture_output=True).returncode == 0

    is_dropping = Path("/usr/sbin/iptables").exists() and iptables("-I")
    try:
        yield is_dropping
    finally:
        if is_dropping:
            iptables("-D")


async def _until_stale(server: Running) -> float:
    """Waits until the page says that it is stale. Returns the monotonic time."""
    async with Visitor(server.port) as visitor:
        while as_of(await visitor.get("/")) is None:
            await asyncio.sleep(0.02)
    return time.monotonic()
