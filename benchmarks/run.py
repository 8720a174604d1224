"""`make bench`: measures the application against its targets and its peers, and prints a table.

Everything it starts runs on 127.0.0.1 and in a temporary folder, and is gone when it ends, also after Ctrl+C.
"""

import argparse
import asyncio
import importlib.util
import json
import os
import resource
import secrets
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn

import uvloop

from benchmarks import load, machine, servers, stored, visitors
from benchmarks.load import Figures, Target
from benchmarks.servers import CITYWEB, GUNICORN, UVICORN, Server, cityweb, peer, running
from cityweb import embedded
from cityweb.database import POOL_SIZE
from cityweb.models import POPULATION_MAX

FEW, SOME, MANY = 20, 32_000, 10_000_000
"""Cities."""
STREAMS = 2_000
FILES = 2 * STREAMS
GZIP = ("-H", "Accept-Encoding: gzip")
ADDS = ("-s", str(Path(__file__).with_name("add_cities.lua")))
KB = 1000


@dataclass(frozen=True)
class Effort:
    """How long it takes, and how sure it is."""

    rounds: int
    seconds: int
    changes: int
    starts: int
    biggest: int


CAREFUL = Effort(rounds=7, seconds=4, changes=10, starts=5, biggest=MANY)
QUICK = Effort(rounds=2, seconds=1, changes=3, starts=2, biggest=SOME)


@dataclass(frozen=True)
class Line:
    """A line of the table; where there is no target, there is nothing to miss."""

    number: str
    work: str
    target: str
    ours: str
    peer: str
    ratio: str
    ok: bool | None


@dataclass(frozen=True)
class Bench:
    """What every measurement needs."""

    postgres: embedded.Server
    folder: Path
    effort: Effort

    def database(self, name: str, cities: int) -> str:
        """A new database with so many cities; its address."""
        say(f"filling {name} with {cities:,} cities")
        return asyncio.run(stored.make(self.postgres, name, cities)).render_as_string(hide_password=False)

    def in_turns(self, targets: dict[str, Target]) -> dict[str, Figures]:
        """Requests per second of each."""
        say(f"{self.effort.rounds} rounds of {', '.join(targets)}")
        return load.in_turns(targets, self.effort.rounds, self.effort.seconds)


# --- the measurements, in the order of the targets ---


def reads(bench: Bench) -> Iterator[Line]:
    """P1 and P2: the page against constants, and against designs that ask and render for each request."""
    url = bench.database("reads", SOME)
    with ExitStack() as stack:
        ours = stack.enter_context(running(CITYWEB, "/readyz", **cityweb(url)))
        bodies = {}
        for encoding in ("identity", "gzip"):
            bodies[encoding] = bench.folder / f"page.{encoding}"
            body = visitors.exchange(ours.port, "/", encoding).partition(b"\r\n\r\n")[2]
            bodies[encoding].write_bytes(body)

        def constant(app: str, encoding: str) -> Server:
            return stack.enter_context(running(peer(UVICORN, f"constant:{app}"), "/", BODY=str(bodies[encoding])))

        plain, packed, bare = constant("app", "identity"), constant("app", "gzip"), constant("bare", "identity")
        fastapi = stack.enter_context(
            running(peer(UVICORN, "fastapi_cities:app"), "/cities/biggest", DATABASE_URL=url)
        )
        django = stack.enter_context(running(peer(GUNICORN, "django_page:app"), "/", DATABASE_URL=url))
        rates = bench.in_turns({
            "page": Target(ours.url()),
            "constant": Target(plain.url()),
            "bare ASGI": Target(bare.url()),
            "gzip page": Target(ours.url(), GZIP),
            "gzip constant": Target(packed.url(), GZIP),
            "FastAPI": Target(fastapi.url("/cities/biggest")),
            "Django": Target(django.url()),
        })
    sizes = {encoding: f"{path.stat().st_size / KB:.1f} kB" for encoding, path in bodies.items()}
    page, per_second = rates["page"], "req/s"
    yield compare("P1", f"`GET /`, {sizes['identity']}", page, "Starlette, constant", rates["constant"], per_second, 0.95)
    yield compare(
        *("P1", f"`GET /`, gzip, {sizes['gzip']}", rates["gzip page"], "Starlette, constant", rates["gzip constant"]),
        *(per_second, 0.95),
    )
    yield compare("P1", "`GET /`", page, "bare ASGI, constant", rates["bare ASGI"], per_second)
    yield compare("P2", "`GET /`", page, "FastAPI, ORM, JSON for each request", rates["FastAPI"], per_second, 25)
    yield compare("P2", "`GET /`", page, "Django, ORM, template for each request", rates["Django"], per_second)


def sizes(bench: Bench) -> Iterator[Line]:
    """P3: the page, however many cities there are."""
    counts = sorted({FEW, SOME, bench.effort.biggest})
    with ExitStack() as stack:
        targets = {}
        for count in counts:
            url = bench.database(f"cities_{count}", count)
            targets[f"{count:,}"] = Target(stack.enter_context(running(CITYWEB, "/readyz", **cityweb(url))).url())
        rates = bench.in_turns(targets)
    few = rates[f"{FEW:,}"]
    for count in counts[1:]:
        yield compare("P3", f"`GET /`, {count:,} cities", rates[f"{count:,}"], f"{FEW} cities", few, "req/s", 0.95)


def adds(bench: Bench) -> Iterator[Line]:
    """P4: accepted adds, each into a database of its own, so that neither hears the other's changes."""
    urls = [bench.database(name, SOME) for name in ("adds", "adds_of_peer")]
    with (
        running(CITYWEB, "/readyz", **cityweb(urls[0])) as ours,
        # It has no page: 405 would do, and a 404 says as much.
        running(peer(UVICORN, "asyncpg_add:app"), "/livez", DATABASE_URL=urls[1]) as bare,
    ):
        rates = bench.in_turns({
            name: Target(server.url(), ADDS, ("--", secrets.token_hex(4)))
            for name, server in (("adds", ours), ("asyncpg", bare))
        })
    yield compare("P4", "accepted adds, JSON", rates["adds"], "Starlette, asyncpg", rates["asyncpg"], "adds/s", 0.5)


def streams(bench: Bench) -> Iterator[Line]:
    """P5: two thousand readers of one worker, and what they cost."""
    url = bench.database("watched", SOME)
    say(f"{STREAMS:,} streams")
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard != resource.RLIM_INFINITY and hard < FILES:
        raise CannotMeasure(f"{STREAMS:,} streams need {FILES:,} open files, and only {hard:,} are allowed: ulimit -Hn.")
    resource.setrlimit(resource.RLIMIT_NOFILE, (FILES, hard))
    with running(CITYWEB, "/readyz", **cityweb(url, CITYWEB_STREAMS="3000,3000")) as ours:
        watched = uvloop.run(watch(bench, ours))
    yield Line(
        *("P5", f"a change reaches {STREAMS:,} streams", "≤ 1 s", f"{watched.seconds.text(2)} s", "", ""),
        max(watched.seconds.values) <= 1,
    )
    each = watched.memory / STREAMS / KB
    yield Line("P5", "memory a stream", "≤ 40 kB", f"{each:.1f} kB", "", "", each <= 40)  # noqa: PLR2004 (the target)
    yield Line(
        *("P5", f"database connections, {STREAMS:,} streams open", f"≤ {POOL_SIZE + 1} (pool, listener)"),
        *(str(watched.connections), "", "", watched.connections <= POOL_SIZE + 1),
    )


@dataclass(frozen=True)
class Watched:
    """What the streams cost: the seconds of each change, bytes of memory for all, connections to the database."""

    seconds: Figures
    memory: int
    connections: int


async def watch(bench: Bench, server: Server) -> Watched:
    """Opens the streams, changes the board again and again, and leaves."""
    visitors.leave(await visitors.open_streams(server.port, 1))
    before = machine.memory(server.pid)
    room = await visitors.open_streams(server.port, STREAMS)
    seconds = []
    for number in range(bench.effort.changes):
        await asyncio.sleep(0.5)
        # Each on top of the board.
        population = POPULATION_MAX - bench.effort.changes + number
        seconds.append(await visitors.change(room, server.port, f"Change {number}", population))
    memory = machine.memory(server.pid) - before
    connections = await stored.connections(bench.postgres, "watched")
    visitors.leave(room)
    return Watched(Figures(tuple(seconds)), memory, connections)


def first_visit(bench: Bench) -> Iterator[Line]:
    """P7: the bytes of a first visit."""
    url = bench.database("visited", SOME)
    with running(CITYWEB, "/readyz", **cityweb(url)) as ours:
        visit = visitors.first_visit(ours.port)
    for work, size, most in (
        ("first visit: page, assets, first live event; gzip", visit.everything / KB, 30),
        ("of it the page", visit.page / KB, 4),
    ):
        yield Line("P7", work, f"≤ {most} kB", f"{size:.1f} kB", "", "", size <= most)


def start(bench: Bench) -> Iterator[Line]:
    """P8: from `runserver` to the first 200, its own PostgreSQL started on the way."""
    folder = bench.folder / "started"
    say(f"{bench.effort.starts} starts")
    with embedded.serving(folder) as server:
        asyncio.run(stored.database.migrate(stored.make_url(server.owner_url)))
    seconds = []
    for _ in range(bench.effort.starts):
        begun = time.monotonic()
        with running(CITYWEB, "/", cores=machine.CORES, CITYWEB_DATA=str(folder)):
            seconds.append(time.monotonic() - begun)
    figures = Figures(tuple(seconds))
    yield Line("P8", "`runserver` to the first 200", "≤ 2 s", f"{figures.text(2)} s", "", "", figures.median <= 2)  # noqa: PLR2004


MEASUREMENTS: dict[str, Callable[[Bench], Iterator[Line]]] = {
    "P1": reads,
    "P2": reads,
    "P3": sizes,
    "P4": adds,
    "P5": streams,
    "P7": first_visit,
    "P8": start,
}
