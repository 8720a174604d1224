"""Whose word counts for where a visitor comes from: real servers, with and without a trusted proxy before them."""

import asyncio
import itertools
import json
import os
import re
import shutil
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from tests.conftest import NO_TLS, TOP, Addresses, Server, run_sql, serving
from tests.pages import HSTS

TRUSTING = {"CITYWEB_TRUSTED_PROXIES": "127.0.0.1,10.0.0.0/8"}
numbers = itertools.count()


@pytest.fixture(scope="module")
def alone(postgres: Addresses, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that trusts nobody, with room for one city a minute from each address."""
    with serving(postgres.app, tmp_path_factory.mktemp("alone") / "log") as start:
        yield start(CITYWEB_RATE_LIMIT="1,1,60")


@pytest.fixture(scope="module")
def behind(postgres: Addresses, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The same behind a proxy on this machine: whoever asks it is that proxy."""
    with serving(postgres.app, tmp_path_factory.mktemp("behind") / "log") as start:
        yield start(CITYWEB_RATE_LIMIT="1,1,60", **TRUSTING)


def add(running: Server, **headers: str) -> int:
    """Adds another city, with these headers; gives the status."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    city = {"name": f"Another city {next(numbers)}", "population": 5}
    return httpx.post(f"{running.url}/cities/", json=city, headers=named, verify=NO_TLS).status_code


HEADERS = ["x_forwarded_for", "forwarded", "x_real_ip", "true_client_ip", "cf_connecting_ip"]


@pytest.mark.parametrize("header", HEADERS)
async def test_a_stranger_cannot_claim_another_address(alone: Server, header: str) -> None:
    add(alone)
    assert add(alone, **{header: "192.0.2.7"}) == 429


async def test_a_stranger_who_claims_an_address_is_logged_once(start_server: Callable[..., Server], log: Path) -> None:
    running = start_server(CITYWEB_RATE_LIMIT="9,9,60")
    for _ in range(3):
        assert add(running, x_forwarded_for="192.0.2.7") == 201
    running.stop()
    (line,) = [line for line in log.read_text().splitlines() if "CITYWEB_TRUSTED_PROXIES" in line]
    assert json.loads(line)["level"] == "warning"
    assert "192.0.2.7" not in line


async def test_a_trusted_proxy_is_not_logged(start_server: Callable[..., Server], log: Path) -> None:
    running = start_server(CITYWEB_RATE_LIMIT="9,9,60", **TRUSTING)
    for address in ("192.0.2.7", "2001:db8::7", "[2001:db8::7]:4711", "192.0.2.7:4711"):
        assert add(running, x_forwarded_for=address) == 201
    running.stop()
    assert "CITYWEB_TRUSTED_PROXIES" not in log.read_text()


async def test_each_visitor_of_a_trusted_proxy_counts_alone(behind: Server) -> None:
    assert add(behind, x_forwarded_for="198.51.100.1") == 201
    assert add(behind, x_forwarded_for="198.51.100.1") == 429
    assert add(behind, x_forwarded_for="198.51.100.2") == 201


FORGED = ["192.0.2.9, 203.0.113.1", "junk, 203.0.113.1", ", 203.0.113.1", "192.0.2.9, 203.0.113.1, 10.1.2.3"]


@pytest.mark.parametrize("forged", FORGED)
async def test_what_stands_left_of_the_proxys_word_is_the_visitors_own(behind: Server, forged: str) -> None:
    add(behind, x_forwarded_for="203.0.113.1")
    assert add(behind, x_forwarded_for=forged) == 429


NO_IPS = ["unknown", "_hidden", "junk", "192.0.2.300", "192.0.2.7/24", "for=192.0.2.7", "[2001:db8::7", ""]


@pytest.mark.parametrize("forwarded", [*NO_IPS, "192.0.2.8, junk", "192.0.2.8, junk, 10.1.2.3"], ids=ascii)
async def test_a_forwarded_value_that_is_no_ip_counts_as_the_proxy(behind: Server, forwarded: str) -> None:
    add(behind)
    assert add(behind, x_forwarded_for=forwarded) == 429


async def test_a_customer_with_a_48_of_ipv6_is_one_client_network(behind: Server) -> None:
    statuses = [add(behind, x_forwarded_for=f"2001:db8:7:{subnet:x}::1") for subnet in (0, 1, 0xFFFF)]
    assert statuses == [201, 429, 429]
    assert add(behind, x_forwarded_for="2001:db8:8::1") == 201


@pytest.mark.parametrize("scheme", ["https", "http", "ftp"])
async def test_only_a_trusted_proxy_says_that_the_way_is_encrypted(alone: Server, behind: Server, scheme: str) -> None:
    told = [
        HSTS.items() <= httpx.get(f"{running.url}/livez", headers={"x-forwarded-proto": scheme}).headers.items()
        for running in (alone, behind)
    ]
    assert told == [False, scheme == "https"]


@pytest.mark.parametrize("header", ["x-forwarded-host", "x-host", "forwarded"])
async def test_not_even_a_trusted_proxy_names_the_host_in_another_header(behind: Server, header: str) -> None:
    headers = {"host": "evil.example", header: "testserver"}
    assert httpx.get(f"{behind.url}/livez", headers=headers).status_code == 400


CONFIGURATIONS = {
    "haproxy": """
defaults
  mode http
  timeout connect 5s
  timeout client 5s
  timeout server 5s
frontend visitors
  bind 127.0.0.1:{port}
  default_backend cityweb
backend cityweb
{lines}
  server cityweb {server}
""",
    "nginx": """
daemon off; pid nginx.pid; events {{}}
http {{
  access_log off; client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi;
  scgi_temp_path scgi;
  server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://{server}; {lines} }} }}
}}
""",
}
ARGUMENTS = {"haproxy": ("-q", "-f", "configuration"), "nginx": ("-p", ".", "-c", "configuration", "-e", "stderr")}


@asynccontextmanager
async def proxying(name: str, server: Server, folder: Path) -> AsyncIterator[int]:
    """The port of a real proxy before a server, set up as docs/settings.md says."""
    program = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin")
    if not program:
        pytest.skip(f"{name} is not installed")
    lines = re.search(rf"```{name}\n(.*?)```", (TOP / "docs" / "settings.md").read_text(), re.DOTALL)
    assert lines
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    configuration = CONFIGURATIONS[name].format(port=port, server=server.url.removeprefix("http://"), lines=lines[1])
    (folder / "configuration").write_text(configuration)
    process = await asyncio.create_subprocess_exec(program, *ARGUMENTS[name], cwd=folder)
    try:
        await until_answered(f"http://127.0.0.1:{port}/livez")
        yield port
    finally:
        process.terminate()
        await process.wait()


@pytest.mark.parametrize("name", CONFIGURATIONS)
async def test_behind_a_proxy_that_is_set_up_as_documented_nobody_chooses_a_client_ip(
    start_server: Callable[..., Server], tmp_path: Path, name: str
) -> None:
    server = start_server(CITYWEB_RATE_LIMIT="1,1,1", CITYWEB_TRUSTED_PROXIES="127.0.0.1")
    async with proxying(name, server, tmp_path) as port:
        visited = replace(server, url=f"http://127.0.0.1:{port}")
        statuses = [add(visited, x_forwarded_for=forged) for forged in ("192.0.2.7", "192.0.2.8", "junk", "127.0.0.1")]
        answer = httpx.get(f"{visited.url}/livez", headers={"x-forwarded-proto": "https"})
    assert statuses == [201, 429, 429, 429]
    assert not HSTS.items() & answer.headers.items()


@pytest.fixture
async def haproxy(start_server: Callable[..., Server], tmp_path: Path) -> AsyncIterator[int]:
    """The port of a real HAProxy that sets X-Forwarded-For, before a server with room for one city."""
    async with proxying("haproxy", start_server(CITYWEB_RATE_LIMIT="1,1,1", **TRUSTING), tmp_path) as port:
        yield port


async def until_answered(url: str) -> None:
    answered = 0
    async with httpx.AsyncClient(headers={"host": "localhost"}) as client, asyncio.timeout(5):
        while not answered:
            with suppress(httpx.TransportError):
                answered = (await client.get(url)).status_code
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("trailer", ["x-forwarded-for: 198.18.9.{}", "host: localhost{}.example"])
async def test_a_trailer_is_no_header_behind_a_proxy_either(haproxy: int, trailer: str) -> None:
    statuses = []
    for number in (1, 2):
        body = json.dumps({"name": f"City {number}", "population": 1})
        reader, writer = await asyncio.open_connection("127.0.0.1", haproxy)
        writer.write(
            b"POST /cities/ HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ntransfer-encoding: chunked\r\n"
            + f"content-type: application/json\r\n\r\n{len(body):x}\r\n{body}\r\n".encode()
            + f"0\r\n{trailer.format(number)}\r\n\r\n".encode()
        )
        statuses.append((await reader.read())[9:12])
        writer.close()
    assert statuses == [b"201", b"429"]


# --- several processes ---


async def test_two_processes_share_one_limit_exactly(start_server: Callable[..., Server], empty: Addresses) -> None:
    servers = [start_server(CITYWEB_RATE_LIMIT="10,1,100", **TRUSTING) for _ in range(2)]
    async with httpx.AsyncClient(timeout=20) as client:

        async def add(number: int, address: str) -> int:
            answer = await client.post(
                f"{servers[number % 2].url}/cities/",
                json={"name": f"City {number} of {address}", "population": number},
                headers={"x-forwarded-for": address},
            )
            assert answer.status_code == 201 or 1 <= int(answer.headers["retry-after"]) <= 60
            return answer.status_code

        flood = [add(number, "192.0.2.1") for number in range(60)]
        others = [add(number, f"192.0.2.{number}") for number in range(2, 22)]
        statuses = await asyncio.gather(*flood, *others)
    assert (statuses[:60].count(201), statuses[:60].count(429)) == (10, 50)
    assert statuses[60:] == [201] * 20
    assert len(await run_sql(empty.app, "SELECT FROM cities")) == 30


async def test_32_identical_adds_at_once_over_two_processes_store_one(
    start_server: Callable[..., Server], empty: Addresses
) -> None:
    servers = [start_server() for _ in range(2)]
    city = {"name": "Paris", "population": 2_148_000}
    async with httpx.AsyncClient(timeout=20) as client:
        adds = [client.post(f"{servers[number % 2].url}/cities/", json=city) for number in range(32)]
        answers = await asyncio.gather(*adds)
    assert sorted(answer.status_code for answer in answers) == [201] + 31 * [422]
    rejected = [answer.json()["detail"] for answer in answers if answer.status_code == 422]
    assert rejected == 31 * ["The city is already stored"]
    assert len(await run_sql(empty.app, "SELECT FROM cities")) == 1
