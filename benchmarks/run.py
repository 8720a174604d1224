"""`make bench`: measures cityweb against its targets and its peers, on this machine, and prints one table."""

import argparse
import asyncio
import os
import platform
import re
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from functools import partial
from itertools import count
from pathlib import Path

import asyncpg
import httpx
from sqlalchemy import make_url

from benchmarks import cities, pages, polling, rows, transfers, wrk
from benchmarks.cities import dsn
from cityweb.postgres import embedded, schema

HERE = Path(__file__).parent
TOP = HERE.parent
GZIP = ("-H", "Accept-Encoding: gzip")
numbers = count(1)


def main() -> None:
    """Runs the selected measurements."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="short runs, and few cities in L, P9 and P11")
    parser.add_argument("--only", default=",".join(DEFAULT), help="some of %(default)s, and L: 10,000,000 cities")
    parser.add_argument("--rows", default="geonames", help=f"of P9 and P11: some of {','.join(rows.POPULATIONS)}")
    parser.add_argument(
        "--before", type=Path, help="a checkout of the build of before, measured beside P1, P4, P9, P11"
    )
    parser.add_argument("--folder", type=Path, help="where the database is, and stays; it may have 10,000,000 cities")
    options = parser.parse_args()
    if not shutil.which("wrk"):
        sys.exit("wrk is not installed: apt-get install wrk")
    _, open_files = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (open_files, open_files))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    print(machine())
    print("\n| # | work | cityweb | beside it | ratio | target | |\n| --- | --- | --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder, embedded.serving(options.folder or Path(folder)) as served:
        asyncio.run(schema.migrate(make_url(served.owner_url)))
        quick = options.quick
        bench = Bench(
            served,
            rounds=3 if quick else 5,
            seconds=1 if quick else 3,
            most=200_000 if quick else 10_000_000,
            many=50_000 if quick else 1_000_000,
            rows=options.rows.split(","),
            before=options.before and options.before.resolve(),
        )
        for name in options.only.split(","):
            if name not in {"P9", "P11", "L"}:
                bench.fill(20)
            MEASUREMENTS[name](bench)


def machine() -> str:
    """The date, the machine and the method."""
    cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    name = cpu[1] if cpu else platform.machine()
    return (
        f"{datetime.now(UTC):%Y-%m-%d}, {name}, {os.cpu_count()} cores, Python {platform.python_version()}, embedded"
        " PostgreSQL 18; one worker on one core, wrk -t1 -c32 on another; medians of runs in turn (least-most)"
    )


class Bench:
    """The measurements, on one embedded server."""

    def __init__(
        self,
        served: embedded.Server,
        *,
        rounds: int,
        seconds: int,
        most: int,
        many: int,
        rows: list[str],
        before: Path | None,
    ) -> None:
        self.served, self.rounds, self.seconds, self.most, self.many = served, rounds, seconds, most, many
        self.rows = rows
        self.builds = {"cityweb": TOP, "before": before} if before else {"cityweb": TOP}

    # --- reading ---

    def measure_page(self) -> None:
        """P1: the page against a constant response of the same size, plain and compressed, and the earlier build's."""
        with self.cityweb() as (ours, _):
            for label, headers in (("", ()), (", gzip", GZIP)):
                size = len(curl(ours, *headers))
                with self.peer("constant", BENCH_BYTES=str(size)) as constant:
                    pairs = self.pairs(
                        partial(requests_per_second, ours, self.seconds, *headers),
                        partial(requests_per_second, constant, self.seconds, *headers),
                    )
                row("P1", f"`GET /`{label}, {size:,} bytes; a constant of Starlette", pairs, 0.95)
        if "before" in self.builds:
            with self.both_builds(20) as (ours, theirs):
                pairs = self.pairs(
                    partial(requests_per_second, ours, self.seconds),
                    partial(requests_per_second, theirs, self.seconds),
                )
            row("P1", "`GET /`; the build of before", pairs, 0.98)

    def measure_peers(self) -> None:
        """P2: the page against designs that query the database for each request."""
        peers = (
            ("FastAPI", partial(self.peer, "fastapi_cities"), "/cities/biggest", 20.0),
            ("Django", self.django, "/", None),
        )
        with self.cityweb() as (ours, _):
            for name, serving, path, target in peers:
                with serving() as peer:
                    pairs = self.pairs(
                        partial(requests_per_second, ours, self.seconds, *GZIP),
                        partial(requests_per_second, peer + path, self.seconds, *GZIP),
                    )
                row("P2", f"`GET /` as browsers ask for it; {name}, `{path}`", pairs, target)

    def measure_size(self) -> None:
        """P3: the page with many cities, between two measurements with 20 cities, on one database."""
        before = self.rates()
        self.fill(32_000)
        many = self.rates()
        self.fill(20)
        few = [statistics.mean(pair) for pair in zip(before, self.rates(), strict=True)]
        row("P3", "`GET /`, 32,000 cities; 20 cities", [many, few], 0.95)

    def measure_list(self) -> None:
        """L0 to L2 and P3 with the most cities, created unless the folder has them: list, download and page."""
        cities.measure(self.served, self.cityweb, line, self.most, self.seconds)
        many = self.rates()
        self.fill(20)
        row("P3", f"`GET /`, {self.most:,} cities; 20 cities", [many, self.rates()], 0.95)

    def rates(self) -> list[float]:
        """Pages per second with the stored cities, for each round."""
        with self.cityweb() as (ours, _):
            requests_per_second(ours, 1)
            return [requests_per_second(ours, self.seconds) for _ in range(self.rounds)]

    # --- every page ---

    def measure_pages(self) -> None:
        """P9: the pages with very many cities and changes, for each set of rows and state of the statistics."""
        for name in self.rows:
            with ExitStack() as stack:
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
                written = transfers.write(name, self.many, folder / "cities.csv")
                pages.write_sqlite(written, folder / "cities.db")
                databases = {
                    build: stack.enter_context(self.loaded(top, folder / build, written))
                    for build, top in self.builds.items()
                }
                for of in databases.values():
                    asyncio.run(pages.fill_changes(dsn(of.owner_url), self.many))
                for known, statements in pages.STATISTICS.items():
                    for of in databases.values():
                        asyncio.run(as_superuser(of.owner_url, *statements, "CHECKPOINT"))
                    # Datasette is measured once: the statistics of PostgreSQL do not affect it.
                    self.measure_works(f"{name}, {known}", databases, None if statements else folder / "cities.db")

    def measure_works(self, state: str, databases: Mapping[str, embedded.Server], sqlite: Path | None) -> None:
        """Measures each kind of page beside the ceiling, the earlier build, and Datasette if it has a file."""
        works = {build: asyncio.run(pages.works(dsn(of.owner_url))) for build, of in databases.items()}
        ours = works["cityweb"]
        with ExitStack() as stack:
            asked = {
                build: (
                    stack.enter_context(self.cityweb(top=self.builds[build], DATABASE_URL=of.url))[0],
                    [work.ours for work in works[build]],
                )
                for build, of in databases.items()
            }
            ceiling = stack.enter_context(self.peer("ceiling", DATABASE_URL=databases["cityweb"].url))
            asked["ceiling"] = ceiling, [[work.ceiling] for work in ours]
            if sqlite:
                peer = self.peer("datasette_cities", BENCH_SQLITE=str(sqlite))
                asked["Datasette"] = stack.enter_context(peer), [work.datasette for work in ours]
            for number, work in enumerate(ours):
                if not work.ours:  # too few cities for hundreds of matches, or too few changes
                    continue
                speeds: dict[str, list[pages.Speed]] = {server: [] for server in asked}
                for _ in range(1 + pages.ROUNDS):
                    for server, (url, paths) in asked.items():
                        if paths[number]:
                            speeds[server].append(pages.ask(url, paths[number], pages.SECONDS))
                results = {server: measured[1:] for server, measured in speeds.items() if measured}
                self.print_work(f"{state}: {work.name}", results)

    @staticmethod
    def print_work(work: str, speeds: Mapping[str, list[pages.Speed]]) -> None:
        """Prints one kind of page: requests per second, the 99th percentile, and the ratio to the ceiling."""
        results = {
            server: f"{spread([speed.rate for speed in measured])}, p99 {pages.p99(measured):.0f} ms"
            for server, measured in speeds.items()
        }
        pairs = zip(speeds["cityweb"], speeds["ceiling"], strict=True)
        ratio = statistics.median(ours.rate / most.rate for ours, most in pairs)
        slowest = pages.p99(speeds["cityweb"])
        line(
            "P9",
            work,
            results.pop("cityweb"),
            f"at least {pages.RATIO_MIN}, p99 at most {pages.MILLISECONDS_MAX} ms",
            ratio >= pages.RATIO_MIN and slowest <= pages.MILLISECONDS_MAX,
            beside="; ".join(f"{server} {figures}" for server, figures in results.items()),
            ratio=f"{ratio:.2f}",
        )

    def measure_loads(self) -> None:
        """P11: a load beside the earlier build; T: a dump, and a load of that dump."""
        for figures in transfers.measure(self.many, self.rows, self.builds):
            line(*figures)

    @contextmanager
    def loaded(self, top: Path, folder: Path, written: Path) -> Iterator[embedded.Server]:
        """A database that a build created, with the cities of a file that this build loaded.

        Autovacuum is off, so that the database stays as the load left it.
        """
        with held(top, folder) as server:
            asyncio.run(as_superuser(server.owner_url, "ALTER SYSTEM SET autovacuum = off", "SELECT pg_reload_conf()"))
            transfers.load(written, folder, top)
            yield server

    # --- adding ---

    def measure_adds(self) -> None:
        """P4: accepted adds as JSON, against the same INSERT and nothing else, and against the earlier build."""
        script = ("-s", str(HERE / "add.lua"))
        # With 20 cities too: plans made for so few stay until the next ANALYZE, a minute and 100,000 cities later.
        for stored in (20, 32_000):
            self.fill(stored)
            # Two databases: otherwise cityweb would refresh for the adds of the peer while the peer is measured.
            with (
                self.another_database() as url,
                self.cityweb() as (ours, _),
                self.peer("asyncpg_add", DATABASE_URL=url) as peer,
            ):
                pairs = self.pairs(
                    partial(requests_per_second, ours, self.seconds, *script),
                    partial(requests_per_second, peer, self.seconds, *script),
                )
            row("P4", f"adds as JSON to {stored:,} cities; the INSERT through plain asyncpg", pairs, 0.5)
            if "before" in self.builds:
                with self.both_builds(stored) as (ours, theirs):
                    pairs = self.pairs(
                        partial(requests_per_second, ours, self.seconds, *script),
                        partial(requests_per_second, theirs, self.seconds, *script),
                    )
                row("P4", f"adds as JSON to {stored:,} cities; the build of before", pairs, 0.85)

    # --- live ---

    def measure_polls(self) -> None:
        """P5: the cost of 2,000 open pages, and the time until the last of them shows a change."""
        with self.cityweb() as (ours, process):
            quiet, busy, seconds, memory = asyncio.run(polling.measure(ours, process.pid, 5 * self.seconds))
        work = f"{polling.PAGES:,} open pages: CPU of the process, of one core"
        line("P5", f"{work}, quiet", f"{quiet:.1%}", "at most 10 %", quiet <= 0.1)
        line("P5", f"{work}, one add a second", f"{busy:.1%}", "", True)
        line("P5", "a change is on the last of them", f"{seconds:.2f} s", "at most 4 s", seconds <= 4)
        line("P5", "memory of an open page", f"{memory / 1000:.0f} kB", "", True)

    # --- the first visit ---

    def measure_weight(self) -> None:
        """P7: the bytes that a first visit transfers, with the heads."""
        with self.cityweb() as (ours, _):
            page = curl(ours, "--compressed").decode()
            paths = re.findall(r'(?:href|src)="(/static/[^"]+)"', page)
            weights = [len(curl(ours + path, "-i", *GZIP)) for path in ("/", *paths)]
        line("P7", "the page, compressed, with its head", f"{weights[0]:,} bytes", "at most 4 kB", weights[0] <= 4_000)
        whole = sum(weights)
        line("P7", "a first visit, everything", f"{whole:,} bytes", "at most 30 kB", whole <= 30_000)

    def measure_start(self) -> None:
        """P8: `runserver` on a ready embedded database until the first 200."""
        seconds = []
        with tempfile.TemporaryDirectory() as folder:
            for _ in range(self.rounds + 1):
                begun = time.perf_counter()
                with self.cityweb(pinned="", DATABASE_URL="", CITYWEB_DATA=folder) as (ours, _):
                    while httpx.get(ours).status_code != 200:
                        time.sleep(0.01)
                    seconds.append(time.perf_counter() - begun)
        median = statistics.median(seconds[1:])
        line("P8", "`runserver` until the first 200", f"{median:.2f} s", "at most 2 s", median <= 2)

    # --- servers and databases ---

    @contextmanager
    def both_builds(self, cities: int) -> Iterator[tuple[str, str]]:
        """Our server and that of the earlier build, each on a database of its own with this number of cities."""
        top = self.builds["before"]
        self.fill(cities)
        with tempfile.TemporaryDirectory() as name, held(top, Path(name)) as before:
            transfers.run(["manage.py", "initdb"], Path(name), top)
            self.fill(cities, before)
            with self.cityweb() as (ours, _), self.cityweb(top=top, DATABASE_URL=before.url) as (theirs, _):
                yield ours, theirs

    def fill(self, cities: int, server: embedded.Server | None = None) -> None:
        """Fills the table by SQL with this number of cities, all of them an hour old and without a history."""

        async def insert() -> None:
            connection = await asyncpg.connect(dsn((server or self.served).owner_url))
            has_log = await connection.fetchval("SELECT to_regclass('changes') IS NOT NULL")
            await connection.execute(f"TRUNCATE cities{', changes' * has_log} RESTART IDENTITY")
            await connection.execute(
                "INSERT INTO cities (name, name_key, name_bare, population, created_at)"
                " SELECT 'City ' || n, 'city ' || n, 'city ' || n, 30000000 - 1000000 * least(n, 20) - n,"
                " now() - interval '1 h' FROM generate_series(1, $1::int) n",
                cities,
            )
            await connection.execute("VACUUM ANALYZE cities")
            await connection.close()

        asyncio.run(insert())

    @contextmanager
    def cityweb(
        self, *arguments: str, pinned: str = "0", top: Path = TOP, **environment: str
    ) -> Iterator[tuple[str, "subprocess.Popen[str]"]]:
        """Our server, as `runserver` starts it, without the rate limits, which one client IP would soon reach."""
        given = {
            "DATABASE_URL": self.served.url,
            "CITYWEB_RATE_LIMIT": "off",
            **environment,
        }
        command = [sys.executable, "manage.py", "runserver", "--port", "0", *arguments]
        with started(command, pinned, given, top) as process:
            assert process.stdout  # noqa: S101 (it is a pipe)
            printed = re.search(r"http://[^/]+", process.stdout.readline())
            if not printed:
                sys.exit("cityweb did not start")
            yield ready(printed[0] + "/readyz").removesuffix("/readyz"), process

    @contextmanager
    def another_database(self) -> Iterator[str]:
        """A second database with the same cities, dropped at the end of the block."""
        asyncio.run(as_superuser(self.served.owner_url, "CREATE DATABASE another TEMPLATE cityweb OWNER cityweb_owner"))
        try:
            yield make_url(self.served.url).set(database="another").render_as_string()
        finally:
            asyncio.run(as_superuser(self.served.owner_url, "DROP DATABASE another WITH (FORCE)"))

    @contextmanager
    def peer(self, module: str, **environment: str) -> Iterator[str]:
        """A peer on uvicorn, on the same core."""
        port = 8_500 + next(numbers)
        command = [sys.executable, "-m", "uvicorn", f"{module}:app", "--app-dir", str(HERE), "--port", str(port)]
        command += ["--loop", "uvloop", "--http", "httptools", "--no-server-header", "--no-proxy-headers"]
        command += ["--no-access-log", "--log-level", "warning"]
        with started(command, "0", {"DATABASE_URL": self.served.url, **environment}):
            yield ready(f"http://127.0.0.1:{port}")

    @contextmanager
    def django(self) -> Iterator[str]:
        """Django on gunicorn with threads, its fast setup, on the same core."""
        port = 8_500 + next(numbers)
        command = [sys.executable, "-m", "gunicorn", "django_page:app", "--chdir", str(HERE), "-b", f"127.0.0.1:{port}"]
        command += ["--worker-class", "gthread", "--threads", "5", "--log-level", "warning"]
        with started(command, "0", {"DATABASE_URL": self.served.url}):
            yield ready(f"http://127.0.0.1:{port}")

    def pairs(self, ours: Callable[[], float], theirs: Callable[[], float]) -> Sequence[list[float]]:
        """Runs both in turn, A B A B, after one run of each to warm up. Returns the rates of each."""
        ours(), theirs()
        runs = [(ours(), theirs()) for _ in range(self.rounds)]
        return [list(rates) for rates in zip(*runs, strict=True)]


MEASUREMENTS: dict[str, Callable[[Bench], None]] = {
    "P1": Bench.measure_page,
    "P2": Bench.measure_peers,
    "P3": Bench.measure_size,
    "P4": Bench.measure_adds,
    "P5": Bench.measure_polls,
    "P7": Bench.measure_weight,
    "P8": Bench.measure_start,
    "P9": Bench.measure_pages,
    "P11": Bench.measure_loads,
    "L": Bench.measure_list,
}
DEFAULT = [name for name in MEASUREMENTS if name != "L"]
"""P6, one query and at most one rendering per refresh, is counted exactly in tests/web/test_board.py."""


HOLD = """
import signal, sys
from pathlib import Path
try:
    from cityweb.postgres import embedded
except ImportError:  # a build of before
    from cityweb import embedded
signal.signal(signal.SIGTERM, lambda *_: sys.exit())
with embedded.serving(Path(sys.argv[1])) as server:
    print(server.owner_url, server.url, flush=True)
    signal.pause()
"""
"""Runs the embedded server of a build, on any core, until SIGTERM."""


@contextmanager
def held(top: Path, folder: Path) -> Iterator[embedded.Server]:
    """The embedded server of a build in this folder, without tables if it is new, until the block ends."""
    with started([sys.executable, "-c", HOLD, str(folder)], "", {}, top) as process:
        assert process.stdout  # noqa: S101 (it is a pipe)
        yield embedded.Server(*process.stdout.readline().split())


async def as_superuser(owner_url: str, *statements: str) -> None:
    """Runs statements on an embedded server as its superuser."""
    connection = await asyncpg.connect(dsn(make_url(owner_url).set(username="postgres").render_as_string()))
    for statement in statements:
        await connection.execute(statement)
    await connection.close()


@contextmanager
def started(
    command: list[str], core: str, environment: dict[str, str], top: Path = TOP
) -> Iterator["subprocess.Popen[str]"]:
    """A process on one core, if there are more and one is named, until the block ends."""
    pin = ["taskset", "-c", core] if core and (os.cpu_count() or 1) > 1 else []
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [*pin, *command], cwd=top, env={**os.environ, **environment}, stdout=subprocess.PIPE, stderr=log, text=True
        )
        try:
            yield process
        finally:
            process.terminate()
            process.wait()


def ready(url: str) -> str:
    """Waits until this URL responds, but not with 503. Returns the URL. Raises SystemExit after 200 attempts."""
    for _ in range(200):
        try:
            if httpx.get(url).status_code != 503:
                return url
        except httpx.TransportError:
            pass
        time.sleep(0.05)
    sys.exit(f"nothing answers at {url}")


def requests_per_second(url: str, seconds: int, *arguments: str) -> float:
    """Requests per second. Raises SystemExit if a response is an error."""
    printed = wrk.run(32, seconds, *arguments, url, START=str(next(numbers)))
    rate = re.search(r"Requests/sec:\s+([\d.]+)", printed)
    if not rate or "Non-2xx" in printed or "Socket errors" in printed:
        sys.exit(f"{url}: {printed}")
    return float(rate[1])


def curl(url: str, *arguments: str) -> bytes:
    """The output of curl for this URL. Raises CalledProcessError if curl fails."""
    return subprocess.run(["curl", "-s", *arguments, url], capture_output=True, check=True).stdout


def row(name: str, work: str, pairs: Sequence[list[float]], target: float | None) -> None:
    """Prints medians, their spread, the ratio, and whether it meets the target."""
    ours, theirs = pairs
    ratio = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
    verdict = "" if target is None else "ok" if ratio >= target else "**miss**"
    cells = (name, work, spread(ours), spread(theirs), f"{ratio:.2f}", str(target or ""), verdict)
    print(f"| {' | '.join(cells)} |", flush=True)


def spread(rates: list[float]) -> str:
    """The median, the minimum and the maximum."""
    return f"{statistics.median(rates):,.0f}/s ({min(rates):,.0f}-{max(rates):,.0f})"


def line(name: str, work: str, measured: str, target: str, holds: bool, beside: str = "", ratio: str = "") -> None:
    """Prints one line of the table."""
    verdict = "ok" if holds else "**miss**"
    print(f"| {name} | {work} | {measured} | {beside} | {ratio} | {target} | {verdict} |", flush=True)


if __name__ == "__main__":
    main()
