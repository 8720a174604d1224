"""Fixtures of the tests: a real PostgreSQL, the application on it, and servers in processes of their own."""

import asyncio
import gc
import io
import os
import re
import secrets
import shutil
import signal
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Generator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import httpx
import pytest
from coverage import Coverage
from hypothesis import HealthCheck, is_hypothesis_test
from hypothesis import settings as hypothesis
from sqlalchemy import URL, make_url
from starlette.applications import Starlette
from starlette.types import ASGIApp, Receive, Scope, Send
from xdist.scheduler import LoadScopeScheduling

from cityweb import settings
from cityweb.files import Format, Line
from cityweb.postgres import database, embedded, schema, transfers
from cityweb.postgres.database import Pool
from cityweb.postgres.ranking import CountryCount
from cityweb.postgres.recent import Recent
from cityweb.postgres.spelling import Biggest
from cityweb.submissions import FIELDS
from cityweb.web import app as application
from cityweb.web.board import Board
from cityweb.web.downloads import Downloads
from tests import forks
from tests.forks import Forked

TOP = Path(__file__).parent.parent

# The examples of a property share its fixtures, and the fixtures here allow that.
SHARED = hypothesis(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
hypothesis.register_profile("test", SHARED, derandomize=True, max_examples=100)
hypothesis.register_profile("torture", SHARED, max_examples=10_000, database=None, print_blob=True)
PROFILE = os.environ.get("HYPOTHESIS_PROFILE", "test")
hypothesis.load_profile(PROFILE)
of_requests = hypothesis(max_examples=25) if PROFILE == "test" else hypothesis()
"""For a property of the whole site, an example of which costs as much as twenty of a function."""
unmeasured = pytest.mark.unmeasured
"""For a test whose lines others measure: in Python 3.11, coverage more than doubles the time of all that runs."""


def pytest_configure(config: pytest.Config) -> None:
    # The session of a process of xdist starts a measurement, and stopping that would resume those that run already:
    # one of every subprocess, and one of pytest-cov, which took this process for the first one (pytest-cov 7.1.0,
    # https://github.com/pytest-dev/pytest-cov/blob/v7.1.0/src/pytest_cov/plugin.py#L245).
    while hasattr(config, "workerinput") and (earlier := Coverage.current()):
        earlier.stop()


@contextmanager
def without_coverage(config: pytest.Config) -> Iterator[None]:
    """Measures neither this process nor those that it starts until the block ends."""
    controller = getattr(config.pluginmanager.getplugin("_cov"), "cov_controller", None)
    measured = os.environ.pop(forks.MEASURED, None)
    if controller:
        controller.pause()
    yield
    if controller:
        controller.resume()
    if measured:
        os.environ[forks.MEASURED] = measured


@pytest.hookimpl(wrapper=True)
def pytest_collection(session: pytest.Session) -> Generator[None, object, object]:
    with without_coverage(session.config):
        result = yield
    gc.freeze()  # Otherwise each full collection would search all modules and tests for garbage.
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    is_property = isinstance(item, pytest.Function) and is_hypothesis_test(item.obj)
    is_unmeasured = is_property or item.get_closest_marker("unmeasured") or item.path.parent.name == "browser"
    with without_coverage(item.config) if is_unmeasured else nullcontext():
        return (yield)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """Gives all tests of Firefox, half of Chromium, or a file, to one process: it starts once what they share."""
    config.option.loadscopereorder = False  # the tests in browsers take longest, and are collected first
    scheduler = LoadScopeScheduling(config, log)
    scheduler._split_scope = browser_or_file
    return scheduler


def browser_or_file(test: str) -> str:
    file, _, name = test.partition("::")
    browser = re.search(r"\[.*(chromium|firefox)", name) if file.startswith("tests/browser/") else None
    # One process with all tests of Chromium would be the last one to end.
    is_second_half = browser is not None and browser[1] == "chromium" and file > "tests/browser/test_l"
    return f"{browser[1]} {is_second_half}" if browser else file


def pytest_sessionfinish() -> None:
    forks.end()


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


PROGRAMS = {
    "chromium": ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome"),
    "firefox": ("firefox-esr", "firefox"),
}
"""The programs to look for. The headless shell is Chromium without windows; its tests take two thirds of the time."""


def find_browser(name: str) -> str:
    """The installed program of a browser. Without it, a test is skipped, but in CI it fails."""
    program = next(filter(None, map(shutil.which, PROGRAMS[name])), None)
    if not program and os.environ.get("CI"):
        pytest.fail(f"no {name} is installed")
    if not program:
        pytest.skip(f"no {name} is installed")
    return program


@dataclass(frozen=True)
class Addresses:
    """The database URLs for the administrator, the owner and the application; on TEST_DATABASE_URL all are one role."""

    server: URL
    owner: URL
    app: URL


@pytest.fixture(scope="session")
async def postgres(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Addresses]:
    """A database created for these tests, on the server of TEST_DATABASE_URL or an embedded one."""
    with ExitStack() as stack:
        if given := os.environ.get("TEST_DATABASE_URL"):
            server = make_url(given).set(drivername="postgresql+asyncpg")
            name = f"cityweb_test_{secrets.token_hex(4)}"
            await run_sql(server, f"CREATE DATABASE {name}")
            for setting in (
                "jit = off",
                "statement_timeout = '2s'",
                "lock_timeout = '1s'",
                "deadlock_timeout = '200ms'",
                "enable_seqscan = off",
            ):
                await run_sql(server, f"ALTER DATABASE {name} SET {setting}")
            urls = Addresses(server, server.set(database=name), server.set(database=name))
        else:
            served = stack.enter_context(embedded.serving(tmp_path_factory.mktemp("var")))
            owner = make_url(served.owner_url)
            server = owner.set(username="postgres", database="postgres")
            urls = Addresses(server, owner, make_url(served.url))
        await schema.migrate(urls.owner)
        yield urls
        if given:
            await run_sql(server, f"DROP DATABASE {name} WITH (FORCE)")


async def run_sql(url: URL, *statements: str) -> list[asyncpg.Record]:
    """Runs statements outside the application, like psql. Returns the rows of the last one."""
    connection = await database.connect(url)
    try:
        rows: list[asyncpg.Record] = []
        for statement in statements:
            rows = await connection.fetch(statement)
        return rows
    finally:
        await connection.close()


def insert(name: str, population: int, **others: object) -> str:
    """An INSERT as an operator might write it in psql; `others` are SQL for further columns."""
    key = f"lower({quoted(name)})"
    columns = {"name": quoted(name), "name_key": key, "name_bare": key, "population": population, **others}
    values = ", ".join(map(str, columns.values()))
    return f"INSERT INTO cities ({', '.join(columns)}) OVERRIDING SYSTEM VALUE VALUES ({values})"


async def configure(owner_url: str, setting: str, value: str) -> None:
    """Changes a setting of an embedded server, and waits until it has it."""
    server = make_url(owner_url).set(username="postgres", database="postgres")
    await run_sql(server, f"ALTER SYSTEM SET {setting} = {value}", "SELECT pg_reload_conf()")
    while [tuple(row) for row in await run_sql(server, f"SHOW {setting}")] != [(value,)]:
        await asyncio.sleep(0.05)


def quoted(text: str) -> str:
    """A text as an SQL literal."""
    return "'" + text.replace("'", "''") + "'"


FILL = (
    "INSERT INTO cities (name, name_key, name_bare, population)"
    " SELECT 'C' || n, 'c' || n, 'c' || n, {population} FROM generate_series({first}, {last}) n"
)
"""A template of statements that insert the cities `C1`, `C2` … with the population `{population}`."""


def lines(*cities: tuple[str, object]) -> list[Line]:
    return [Line(n, "", {"name": name, "population": people}) for n, (name, people) in enumerate(cities, 2)]


async def stored(empty: Addresses) -> list[tuple[str, int]]:
    """All cities in descending order of population."""
    rows = await run_sql(empty.owner, "SELECT name, population FROM cities ORDER BY population DESC, id")
    return [tuple(row) for row in rows]


def csv(*cities: tuple[str, int]) -> str:
    """A dump of cities that have only a name and a population."""
    rest = ',""' * (len(FIELDS) - 2)
    return "".join([",".join(FIELDS), "\n", *(f'"{name}",{population}{rest}\n' for name, population in cities)])


async def dumped(empty: Addresses, format_: Format = Format.CSV) -> bytes:
    written = io.BytesIO()

    def write(some: bytes) -> None:
        written.write(some)

    await transfers.dump(empty.owner, write, format_)
    return written.getvalue()


@pytest.fixture
async def empty(postgres: Addresses) -> Addresses:
    """The database without cities."""
    await run_sql(postgres.owner, "TRUNCATE cities, changes, blocks, adds RESTART IDENTITY")
    return postgres


@asynccontextmanager
async def locking(owner: URL, mode: str, seconds: float) -> AsyncIterator[None]:
    """Locks the table of cities in this mode for this many seconds, and at most until the block ends."""
    connection = await database.connect(owner)
    await connection.execute(f"BEGIN; LOCK TABLE cities IN {mode} MODE")

    async def unlock() -> None:
        await asyncio.sleep(seconds)
        await connection.execute("COMMIT")

    unlocking = asyncio.create_task(unlock())
    try:
        yield
    finally:
        unlocking.cancel()
        await connection.close()


@asynccontextmanager
async def rejecting(owner: URL, code: str) -> AsyncIterator[None]:
    """Every insert of a city raises this SQLSTATE until the block ends or the function `reject` is dropped."""
    await run_sql(
        owner,
        "CREATE FUNCTION reject() RETURNS trigger LANGUAGE plpgsql AS"
        f" $$ BEGIN RAISE SQLSTATE '{code}' USING MESSAGE = 'test'; END $$",
        "CREATE TRIGGER reject BEFORE INSERT ON cities FOR EACH STATEMENT EXECUTE FUNCTION reject()",
    )
    try:
        yield
    finally:
        await run_sql(owner, "DROP FUNCTION IF EXISTS reject CASCADE")


NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""For a client of servers without TLS: it does not load the certificates of all authorities, which takes 20 ms."""
MANAGE = (sys.executable, TOP / "manage.py")
ENVIRONMENT = {"CITYWEB_HOSTS": "testserver,localhost,127.0.0.1", "CITYWEB_RATE_LIMIT": "off"}


@dataclass(frozen=True)
class Site:
    """The application in this process: `client` goes through all middleware; `asgi` is what a server would call."""

    client: httpx.AsyncClient
    board: Board
    read_pool: Pool
    add_pool: Pool
    exports: Downloads
    biggest: Recent[Biggest]
    countries: Recent[list[CountryCount]]
    app: ASGIApp
    asgi: ASGIApp


@asynccontextmanager
async def open_site(url: URL, **environment: str) -> AsyncIterator[Site]:
    """The application on a database until the block ends."""
    given = {**ENVIRONMENT, "DATABASE_URL": url.render_as_string(hide_password=False), **environment}
    app = application.create(settings.read(given))
    assert isinstance(app.app, Starlette)
    async with AsyncExitStack() as stack:
        state = await stack.enter_async_context(app.app.router.lifespan_context(app.app))
        assert state
        asgi = with_state(app, state)
        transport = httpx.ASGITransport(asgi, raise_app_exceptions=False)
        client = await stack.enter_async_context(httpx.AsyncClient(transport=transport, base_url="http://testserver"))
        pools = state["read_pool"], state["add_pool"]
        kept = state["downloads"], state["biggest"], state["countries"]
        yield Site(client, state["board"], *pools, *kept, app, asgi)


def with_state(app: ASGIApp, state: Mapping[str, object]) -> ASGIApp:
    """Adds the state of the lifespan to each request, which a server does and ASGITransport does not."""

    async def stateful(scope: Scope, receive: Receive, send: Send) -> None:
        await app({**scope, "state": dict(state)}, receive, send)

    return stateful


@pytest.fixture
async def site(empty: Addresses) -> AsyncIterator[Site]:
    """The application on an empty database."""
    async with open_site(empty.app) as site:
        yield site


async def until(true: Callable[[], bool], seconds: float = 5) -> None:
    """Waits until a condition is true. Raises TimeoutError after this many seconds."""
    async with asyncio.timeout(seconds):
        while not true():
            await asyncio.sleep(0.01)


@dataclass(frozen=True)
class Server:
    """`python manage.py runserver` as a process."""

    process: subprocess.Popen[str]
    url: str

    def stop(self) -> int:
        """Stops the server as an operator would. Returns its exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(20)


async def ready(server: Server) -> int:
    """Waits until a server can store cities. Returns its port."""
    async with httpx.AsyncClient(base_url=server.url, verify=NO_TLS) as client, asyncio.timeout(20):
        while (await client.get("/readyz")).status_code != 200:
            await asyncio.sleep(0.05)
    return int(server.url.rpartition(":")[2])


@contextmanager
def serving(url: URL | None, log: Path, program: Sequence[str | Path] = ()) -> Iterator[Callable[..., Server]]:
    """A function that starts servers on a database, each on a free port and logging to a file; all are stopped.

    Without a program, they are forked, except those that start processes themselves.
    """
    servers: list[Server] = []

    def start(*arguments: str, stderr: int | None = None, **environment: str) -> Server:
        database_url = url.render_as_string(hide_password=False) if url else ""
        given = {**ENVIRONMENT, "DATABASE_URL": database_url, **environment}
        is_forked = not program and not {"--workers", "--reload"} & {*arguments}
        popen = Forked[str] if is_forked else subprocess.Popen[str]
        with log.open("a") as errors:
            process = popen(
                [*(() if is_forked else program or MANAGE), "runserver", "--port", "0", *arguments],
                cwd=log.parent,
                env={**os.environ, **given},
                stdout=subprocess.PIPE,
                stderr=errors if stderr is None else stderr,
                text=True,
            )
        assert process.stdout
        line = process.stdout.readline()
        printed = re.search(r"http://\S+", line)
        assert printed, line
        servers.append(Server(process, printed[0].rstrip("/")))
        return servers[-1]

    try:
        yield start
    finally:
        for server in servers:
            if server.process.poll() is None:
                server.stop()
            assert server.process.stdout
            server.process.stdout.close()
            if server.process.stderr:
                server.process.stderr.close()
        # pytest shows this for a test that fails.
        sys.stderr.write(log.read_text() if log.exists() else "")


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """The log file of the servers of a test."""
    return tmp_path / "log"


@pytest.fixture
def start_server(empty: Addresses, log: Path) -> Iterator[Callable[..., Server]]:
    """A function that starts servers on the empty database; all are stopped after the test."""
    with serving(empty.app, log) as start:
        yield start


def run(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return finished(arguments, TOP, {**os.environ, **ENVIRONMENT, **environment}, "n\n")


def finished(
    arguments: Sequence[str], folder: Path, environment: Mapping[str, str], entered: str
) -> "subprocess.CompletedProcess[str]":
    """A command that has run in a folder."""
    pipe = subprocess.PIPE
    with Forked(arguments, cwd=folder, env=environment, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            out, err = process.communicate(entered, timeout=60)
        finally:
            process.kill()
    return subprocess.CompletedProcess(arguments, process.returncode, out, err)


def assert_one_sentence(done: "subprocess.CompletedProcess[str]", *words: str) -> None:
    assert done.returncode == 1
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert "Traceback" not in done.stderr
    assert [word for word in words if word not in done.stderr] == []


TWINS = """
INSERT INTO cities (name, name_key, name_bare, population) VALUES
  ('Xi''an', 'xi''an', 'xi''an', 5), ('Xi’an', 'DUPLICATE:2', 'xi''an', 4)
"""


@pytest.fixture
async def twins(empty: Addresses) -> Addresses:
    """Two cities that became one name after both were stored."""
    await run_sql(empty.owner, TWINS)
    return empty
