"""Everything as a file: complete, in bounded memory, from connections that come back."""

import asyncio
import csv
import io
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from cityweb import files
from cityweb.files import Format
from cityweb.postgres import exports, transfers
from cityweb.postgres.rate_limit import network_of
from cityweb.web import downloads
from cityweb.web.downloads import Download, Downloads
from tests.conftest import FILL, Addresses, Server, Site, dumped, lines, locking, open_site, run_sql, stored, until
from tests.pages import add
from tests.proxy import Proxy

HEAD = [*exports.COLUMNS]
EXPORTING = "SELECT FROM pg_stat_activity WHERE query LIKE '%to_char(created_at%' AND pid <> pg_backend_pid()"


def test_a_new_column_is_after_those_that_scripts_know() -> None:
    assert HEAD[:5] == ["rank", "id", "name", "population", "created_at"]


async def test_csv_is_the_whole_ranking(site: Site) -> None:
    for name, population in [("A", 1), ("Washington, D.C.", 5), ('6th "of" October', 5), ("東京", 9)]:
        await add(site.client, "json", name, population)
    answer = await site.client.get("/cities.csv")
    assert answer.headers["content-type"] == "text/csv; charset=utf-8; header=present"
    assert answer.headers["content-disposition"] == 'attachment; filename="cities.csv"'
    assert answer.text.count("\r\n") == answer.text.count("\n") == 5
    head, *rows = csv.reader(io.StringIO(answer.text, newline=""))
    assert head == HEAD
    assert [row[:4] for row in rows] == [
        ["1", "4", "東京", "9"],
        ["2", "2", "Washington, D.C.", "5"],
        ["2", "3", '6th "of" October', "5"],
        ["4", "1", "A", "1"],
    ]


async def test_csv_for_excel_is_the_same_after_a_byte_order_mark_and_loads_again(site: Site, empty: Addresses) -> None:
    for name, population in [("São Paulo", 12_400_232), ('6th "of" October', 5)]:
        await add(site.client, "json", name, population)
    plain, marked = await site.client.get("/cities.csv"), await site.client.get("/cities-excel.csv")
    assert plain.content.startswith(b"rank,")
    assert marked.content == b"\xef\xbb\xbf" + plain.content
    assert marked.headers["content-type"] == plain.headers["content-type"]
    assert marked.headers["content-disposition"] == 'attachment; filename="cities-excel.csv"'
    before = await stored(empty)
    await run_sql(empty.owner, "TRUNCATE cities")
    await transfers.load(empty.owner, files.lines(io.BufferedReader(io.BytesIO(marked.content)), Format.CSV))
    assert await stored(empty) == before


async def test_a_semicolon_in_a_stored_name_stands_between_quotes(site: Site, empty: Addresses) -> None:
    await transfers.load(empty.owner, lines(("Ab;=HYPERLINK(1);x", 5)))
    for text in ((await site.client.get("/cities.csv")).text, (await dumped(empty)).decode()):
        # As a spreadsheet reads it that splits at commas and semicolons.
        (row,) = csv.reader(io.StringIO(text.splitlines()[1].replace(";", ",")))
        assert "Ab,=HYPERLINK(1),x" in row


async def test_json_is_the_whole_ranking(site: Site) -> None:
    for name, population in [("A", 1), ("東京", 9)]:
        await add(site.client, "json", name, population)
    answer = await site.client.get("/cities.json")
    assert answer.headers["content-type"] == "application/json"
    assert [list(city) for city in answer.json()] == [HEAD, HEAD]
    assert [(city["rank"], city["name"], city["population"]) for city in answer.json()] == [(1, "東京", 9), (2, "A", 1)]


@pytest.mark.parametrize(("ending", "content"), [("csv", ",".join(HEAD) + "\r\n"), ("json", "[\n\n]\n")])
async def test_without_a_city_the_file_is_whole_too(site: Site, ending: str, content: str) -> None:
    assert (await site.client.get(f"/cities.{ending}")).text == content


@pytest.mark.parametrize("ending", ["csv", "json"])
async def test_many_cities_come_in_the_order_of_the_ranking(site: Site, empty: Addresses, ending: str) -> None:
    await run_sql(empty.owner, FILL.format(population="n / 3", first=1, last=2 * exports.FETCHED + 7))
    expected = await run_sql(
        empty.app, "SELECT rank() OVER (ORDER BY population DESC), id FROM cities ORDER BY population DESC, id"
    )
    answer = await site.client.get(f"/cities.{ending}")
    found = answer.json() if ending == "json" else csv.DictReader(io.StringIO(answer.text))
    assert [(int(city["rank"]), int(city["id"])) for city in found] == [tuple(row) for row in expected]


@pytest.mark.parametrize("name", ["cities.csv", "cities-excel.csv", "cities.json"])
async def test_head_opens_no_connection(site: Site, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(Downloads, "slot", None)
    head = await site.client.head(f"/{name}")
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-disposition"] == f'attachment; filename="{name}"'


class Reader:
    """Somebody who asks for everything, and reads only when told."""

    def __init__(self, site: Site, seconds: float = 5) -> None:
        self.sent: list[bytes] = []
        self.reading, self.gone = asyncio.Event(), asyncio.Event()
        export = Download(site.exports, downloads.CSV, b"reader", seconds)
        self.task = asyncio.create_task(export({"type": "http", "method": "GET"}, self.receive, self.send))

    async def receive(self) -> dict[str, Any]:
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        self.sent.append(message.get("body", b""))
        if len(self.sent) > 2:
            await self.reading.wait()


async def test_a_reader_who_leaves_frees_the_connection(site: Site, empty: Addresses) -> None:
    await run_sql(empty.owner, FILL.format(population="n", first=1, last=5_000))
    reader = Reader(site)
    await until(lambda: len(reader.sent) > 2)
    assert len(await run_sql(empty.server, EXPORTING)) == 1
    reader.gone.set()
    await reader.task
    assert len(reader.sent) == 3
    await asyncio.sleep(0.2)
    assert await run_sql(empty.server, EXPORTING) == []


async def test_a_reader_who_takes_for_ever_is_cut_off(site: Site, empty: Addresses) -> None:
    await run_sql(empty.owner, FILL.format(population="n", first=1, last=5_000))
    reader = Reader(site, seconds=0.2)
    with pytest.raises(TimeoutError):
        await reader.task


async def test_a_database_that_breaks_in_the_middle_cuts_the_file(site: Site, empty: Addresses) -> None:
    await run_sql(empty.owner, FILL.format(population="n", first=1, last=5_000))
    reader = Reader(site)
    await until(lambda: len(reader.sent) > 2)
    await run_sql(empty.server, EXPORTING.replace("SELECT", "SELECT pg_terminate_backend(pid)"))
    reader.reading.set()
    with pytest.raises(Exception, match=r"terminat|closed"):
        await reader.task


async def test_too_many_at_once_are_told_to_come_back(site: Site) -> None:
    async with site.exports.slot(b"one"), site.exports.slot(b"two"):
        answer = await site.client.get("/cities.csv")
        assert answer.status_code == 503
        assert answer.headers["retry-after"] == "5"
        assert "Too many downloads are running. Try again in 5 seconds." in answer.text
        assert (await site.client.get("/cities")).status_code == 200
    assert (await site.client.get("/cities.csv")).status_code == 200


async def test_who_has_the_whole_file_may_begin_the_next_download(site: Site) -> None:
    sent: list[bool] = []

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(60)
        return {}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.body" and not message.get("more_body"):
            async with site.exports.slot(b"reader"):
                sent.append(True)

    await Download(site.exports, downloads.JSON, b"reader")({"type": "http", "method": "GET"}, receive, send)
    assert sent == [True]


async def test_a_client_network_has_one_download_at_a_time(site: Site) -> None:
    async def download(client: str) -> int:
        transport = httpx.ASGITransport(site.asgi, client=(client, 1))
        async with httpx.AsyncClient(transport=transport, base_url="http://testserver") as visitor:
            return (await visitor.get("/cities.json")).status_code

    async with site.exports.slot(network_of("2001:db8:1:2::3")):
        assert await download("2001:db8:1:2::4") == 503
        assert await download("192.0.2.1") == 200
    assert await download("2001:db8:1:2::4") == 200


async def test_while_the_database_is_away_503_says_when_to_try_again(empty: Addresses) -> None:
    async with Proxy(empty.app) as proxy, open_site(proxy.url) as site:
        proxy.down()
        for _ in range(2 * downloads.DOWNLOADS_MAX):
            answer = await site.client.get("/cities.csv", headers={"accept": "application/json"})
            assert answer.status_code == 503
            assert answer.json()["detail"] == "We can't show this right now. Try again in 5 seconds."


async def test_a_table_that_is_locked_is_a_503_before_a_file_begins(site: Site, empty: Addresses) -> None:
    async with locking(empty.owner, "ACCESS EXCLUSIVE", 1.5):
        answer = await site.client.get("/cities.csv")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    assert "show this right now. Try again in 5 seconds." in answer.text


async def test_a_real_server_sends_a_big_file_and_stops_for_whom_leaves(
    start_server: Callable[..., Server], empty: Addresses
) -> None:
    await run_sql(empty.owner, FILL.format(population="n % 1000", first=1, last=50_000))
    server = start_server()
    async with httpx.AsyncClient(base_url=server.url) as client:
        assert (await client.get("/cities.csv")).text.count("\n") == 50_001
        for _ in range(2 * downloads.DOWNLOADS_MAX):
            async with client.stream("GET", "/cities.json") as answer:
                assert answer.status_code == 200
                await anext(answer.aiter_bytes())
            async with asyncio.timeout(5):
                while await run_sql(empty.server, EXPORTING):
                    await asyncio.sleep(0.02)
