"""The server as a process: several processes, stopping, a database that is away."""

import asyncio
import importlib.util
import json
import resource
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from sqlalchemy import text
from sqlalchemy.exc import ProgrammingError

from cityweb import __version__, settings
from cityweb.log import QUEUE_MAX
from cityweb.postgres import database, embedded
from cityweb.server import launch
from cityweb.settings import OperatorError
from tests.conftest import (
    MANAGE,
    Addresses,
    Server,
    assert_one_sentence,
    configure,
    insert,
    run,
    run_sql,
    serving,
    unmeasured,
)
from tests.pages import add, one, parse, table
from tests.proxy import Proxy

StartServer = Callable[..., Server]


# --- live ---


async def test_two_servers_on_one_database_show_each_others_cities(start_server: StartServer) -> None:
    one_server, other = start_server(), start_server()
    async with (
        httpx.AsyncClient(base_url=one_server.url) as client,
        httpx.AsyncClient(base_url=other.url) as other_client,
    ):
        seen = one(parse((await other_client.get("/")).text), "[name=seen]").attrs["value"]
        await add(client, "json", "Tokyo", 5)
        assert table(parse((await client.get("/")).text)) == [("1", "Tokyo", "5")]
        async with asyncio.timeout(1):  # what the board promises
            while (answer := await other_client.get(f"/board?seen={seen}")).status_code == 204:
                await asyncio.sleep(0.02)
        assert table(parse(answer.text)) == [("1", "Tokyo", "5")]


async def test_two_workers_show_each_others_cities_under_one_url_and_end_together(start_server: StartServer) -> None:
    running = await asyncio.to_thread(start_server, "--workers", "2")
    limits = httpx.Limits(max_keepalive_connections=0)
    async with httpx.AsyncClient(base_url=running.url, limits=limits, timeout=20) as client:
        for number in range(6):
            assert (await add(client, "json", f"City {number}", number)).status == 201
        async with asyncio.timeout(15):
            while True:
                boards = [(await client.get("/cities/biggest")).json() for _ in range(10)]
                if [len(board) for board in boards] == 10 * [6]:
                    break
        await assert_own_url(client)
    assert all(board == boards[0] for board in boards)
    assert running.stop() == 0


# --- stopping ---


async def test_a_stop_ends_the_process_though_pages_are_open(start_server: StartServer) -> None:
    running = start_server()
    async with httpx.AsyncClient(base_url=running.url, timeout=20) as client:
        await client.get("/board")
        assert running.stop() == 0


async def test_a_stop_answers_the_adds_under_way(start_server: StartServer, empty: Addresses) -> None:
    running = start_server()
    async with httpx.AsyncClient(base_url=running.url) as client:
        await run_sql(empty.owner, "SELECT 1")
        adds = [asyncio.create_task(add(client, "json", f"City {number}", number)) for number in range(5)]
        await asyncio.sleep(0.05)
        running.process.send_signal(signal.SIGTERM)
        outcomes = await asyncio.gather(*adds, return_exceptions=True)
    stored = [outcome for outcome in outcomes if not isinstance(outcome, BaseException) and outcome.status == 201]
    assert running.process.wait(30) == 0
    (row,) = await run_sql(empty.app, "SELECT count(*) FROM cities")
    assert row["count"] >= len(stored)


async def test_sql_that_is_shown_is_not_shown_twice(start_server: StartServer) -> None:
    running = start_server(CITYWEB_ECHO="1")
    assert httpx.get(f"{running.url}/cities/biggest").status_code == 200
    running.stop()
    assert running.process.stdout
    # The log is on standard error; what SQLAlchemy's own echo prints would be here.
    assert running.process.stdout.read() == ""


async def test_workers_follow_a_supervisor_that_was_killed(start_server: StartServer) -> None:
    running = start_server("--workers", "2")
    port = int(running.url.rpartition(":")[2])
    httpx.get(f"{running.url}/livez", timeout=20)
    running.process.kill()
    async with asyncio.timeout(20):
        while not is_free(port):
            await asyncio.sleep(0.05)


def is_free(port: int) -> bool:
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True


async def test_ctrl_c_stops_it_without_a_traceback(start_server: StartServer) -> None:
    running = start_server()
    running.process.send_signal(signal.SIGINT)
    assert running.process.wait(30) == 0


# --- the database ---


async def test_a_server_starts_without_its_database_and_finds_it_later(
    empty: Addresses, start_server: StartServer
) -> None:
    async with Proxy(empty.app) as proxy:
        proxy.down()
        running = await asyncio.to_thread(start_server, DATABASE_URL=proxy.url.render_as_string(hide_password=False))
        async with httpx.AsyncClient(base_url=running.url) as client:
            assert (await client.get("/")).status_code == 503
            proxy.up()
            async with asyncio.timeout(5):
                while (await client.get("/readyz")).status_code != 200:
                    await asyncio.sleep(0.05)
            assert (await client.get("/")).status_code == 200


async def test_the_embedded_database_keeps_the_cities_over_a_restart(tmp_path: Path, start_server: StartServer) -> None:
    for expected in ([], ["Tokyo"]):
        running = start_server(DATABASE_URL="", CITYWEB_DATA=str(tmp_path))
        stored = [city["name"] for city in httpx.get(f"{running.url}/cities/biggest").json()]
        assert stored == expected
        httpx.post(f"{running.url}/cities/", json={"name": "Tokyo", "population": 5})
        assert running.stop() == 0
    assert not (tmp_path / "postgres" / "postmaster.pid").exists()


def test_the_wheel_absent_both_ways_out_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    here = settings.read({"CITYWEB_DATA": str(tmp_path)})
    with (
        pytest.raises(OperatorError, match=r"requirements/embedded\.txt.*DATABASE_URL"),
        launch.database_urls(here),
    ):
        pass


# --- a log that nobody reads ---

LONG = "/" + 200 * "🏙"
"""A path that makes a line of some 2,500 characters."""


def ask(server: Server, times: int) -> None:
    """Asks for a page that does not exist, so often."""
    with httpx.Client(base_url=server.url, timeout=20) as client:  # a worker may take seconds to start
        for _ in range(times):
            assert client.get(quote(LONG)).status_code == 404


@unmeasured
@pytest.mark.parametrize("workers", ["1", "2"])
async def test_a_log_that_nobody_reads_stops_neither_the_site_nor_its_end(
    start_server: StartServer, workers: str
) -> None:
    server = start_server("--workers", workers, stderr=subprocess.PIPE)
    ask(server, 60)
    assert server.stop() == 0
    assert server.process.stderr
    assert 0 < server.process.stderr.read().count("\n") < 60  # the pipe was full


@unmeasured
async def test_every_request_is_a_line_of_the_log_or_counted_as_dropped(start_server: StartServer) -> None:
    server = start_server(stderr=subprocess.PIPE)
    asked = QUEUE_MAX // 2_000
    ask(server, asked)
    server.process.send_signal(signal.SIGTERM)
    assert server.process.stderr
    first, *lines = [dict[str, Any](json.loads(line)) for line in server.process.stderr]
    assert server.process.wait(20) == 0
    assert first["version"] == __version__
    assert any("lines" in line for line in lines)
    assert lines[0]["path"] == LONG[:200]
    assert sum(line.get("lines", 1) for line in lines) == asked


# --- what it says ---


def test_the_bare_command_lists_the_commands() -> None:
    done = run()
    assert done.returncode == 0
    assert {"initdb", "runserver"} <= {line.split()[0] for line in done.stdout.splitlines() if line.strip()}
    # What a command does is said whole.
    assert "..." not in done.stdout.partition("Commands:")[2]
    assert "Run runserver first" in done.stdout


def test_an_unknown_command_is_a_usage_error() -> None:
    assert run("nothing").returncode == 2


async def test_initdb_twice_is_once_and_loses_nothing(empty: Addresses) -> None:
    await run_sql(empty.owner, insert("Tokyo", 5))
    url = empty.owner.render_as_string(hide_password=False)
    for _ in range(2):
        done = await asyncio.to_thread(run, "initdb", DATABASE_URL=url)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == "The database is ready. Next: python manage.py runserver\n"
    assert await run_sql(empty.app, "SELECT FROM cities")


async def test_a_reset_asks_first(empty: Addresses) -> None:
    await run_sql(empty.owner, insert("Tokyo", 5))
    url = empty.owner.render_as_string(hide_password=False)
    done = await asyncio.to_thread(run, "initdb", "--reset", DATABASE_URL=url)
    assert done.returncode == 1
    assert await run_sql(empty.app, "SELECT FROM cities")
    done = await asyncio.to_thread(run, "initdb", "--reset", "--yes", DATABASE_URL=url)
    assert done.stdout == "The database is empty and ready. Next: python manage.py runserver\n"
    assert not await run_sql(empty.app, "SELECT FROM cities")


@pytest.mark.parametrize(
    ("host", "hosts", "hinted"),
    [("0.0.0.0", "", True), ("0.0.0.0", "example.com", False), ("127.0.0.1", "", False), ("::1", "", False)],
)
async def test_who_listens_to_everybody_and_knows_only_itself_is_told(
    start_server: StartServer, log: Path, host: str, hosts: str, hinted: bool
) -> None:
    start_server("--host", host, CITYWEB_HOSTS=hosts).stop()
    assert ("set CITYWEB_HOSTS to your names" in log.read_text()) is hinted


async def test_absolute_urls_begin_where_the_server_listens_whatever_host_is_asked_for(
    start_server: StartServer,
) -> None:
    async with httpx.AsyncClient(base_url=start_server().url) as client:
        await assert_own_url(client)


async def assert_own_url(client: httpx.AsyncClient) -> None:
    feed = await client.get("/feed.atom", headers={"host": "localhost:1"})
    own = str(client.base_url).rstrip("/")
    assert f'rel="self" type="application/atom+xml" href="{own}/feed.atom"' in feed.text


@pytest.mark.parametrize("command", ["initdb", "runserver"])
def test_a_wrong_setting_is_one_sentence(command: str) -> None:
    assert_one_sentence(run(command, DATABASE_URL="mysql://x"), "DATABASE_URL", "postgresql://")


def test_an_unreachable_database_is_one_sentence() -> None:
    assert_one_sentence(run("initdb", DATABASE_URL="postgresql://nobody@127.0.0.1:1/x"), "127.0.0.1:1", "start it")


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="only Linux tells the limits of another process")
async def test_it_may_open_as_many_files_as_the_system_lets_it(empty: Addresses, log: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    with serving(empty.app, log, MANAGE) as start_server:
        resource.setrlimit(resource.RLIMIT_NOFILE, (1_000, before[1]))
        try:
            server = start_server()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
        assert resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE) == (before[1], before[1])


async def test_a_bug_of_ours_is_not_blamed_on_the_database(postgres: Addresses) -> None:
    with pytest.raises(ProgrammingError), launch.translate_errors(postgres.app):
        async with database.outside_the_pool(postgres.app).connect() as connection:
            await connection.execute(text("SELECT nothing"))


@pytest.mark.parametrize("command", ["initdb", "runserver"])
async def test_a_database_that_does_not_exist_is_one_sentence(command: str, postgres: Addresses) -> None:
    url = postgres.app.set(database="nowhere").render_as_string(hide_password=False)
    assert_one_sentence(
        run(command, "--port", "0", DATABASE_URL=url) if command == "runserver" else run(command, DATABASE_URL=url),
        "nowhere",
        "Correct DATABASE_URL",
    )


def test_a_busy_port_is_one_sentence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert_one_sentence(run("runserver", "--port", port), port, "--port")


@pytest.fixture(scope="module")
def own_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a PostgreSQL server that tests may configure."""
    with embedded.serving(tmp_path_factory.mktemp("own")) as served:
        yield served.owner_url


@pytest.mark.parametrize("setting", ["fsync", "full_page_writes", "synchronous_commit"])
async def test_a_server_that_may_forget_is_rejected(own_server: str, setting: str) -> None:
    await configure(own_server, setting, "off")
    for command in (("initdb",), ("runserver", "--port", "0")):
        done = await asyncio.to_thread(run, *command, DATABASE_URL=own_server)
        assert_one_sentence(done, f"{setting} = off", f"set {setting} = on")
    await configure(own_server, setting, "on")


def test_the_address_is_one_to_click() -> None:
    with launch.bind("127.0.0.1", 0) as one, launch.bind("0.0.0.0", 0) as all_of_them, launch.bind("::1", 0) as six:
        assert launch.address(one) == f"http://127.0.0.1:{one.getsockname()[1]}/"
        assert launch.address(all_of_them) == f"http://localhost:{all_of_them.getsockname()[1]}/"
        assert launch.address(six) == f"http://[::1]:{six.getsockname()[1]}/"


async def test_a_change_of_the_code_starts_it_again(start_server: StartServer) -> None:
    running = start_server("--reload")
    async with asyncio.timeout(10):
        while True:
            try:
                assert httpx.get(f"{running.url}/livez").status_code == 200
                break
            except httpx.TransportError:
                await asyncio.sleep(0.1)
    assert running.stop() == 0
