"""What the site does, three ways: a plain form, htmx, JSON."""

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest
from sqlalchemy import event

from cityweb.postgres import transfers
from cityweb.submissions import FIELDS
from cityweb.web import errors
from tests.conftest import FILL, Addresses, Site, lines, open_site, run_sql
from tests.pages import HTMX, WAYS, Outcome, add, one, parse, table, text

ways = pytest.mark.parametrize("way", WAYS)

CITIES = {
    "Tokyo": 37_400_068, "Delhi": 28_514_000, "Shanghai": 25_582_000, "São Paulo": 21_650_000,
    "Mexico City": 21_581_000, "Cairo": 20_076_000, "Mumbai": 19_980_000, "Beijing": 19_618_000,
    "Dhaka": 19_578_000, "Ōsaka-shi": 19_281_000, "New York City": 18_819_000, "Karachi": 15_400_000,
    "Buenos Aires": 14_967_000, "Chongqing": 14_838_000, "İstanbul": 14_751_000, "Kolkata": 14_681_000,
    "Manila": 13_482_000, "Lagos": 13_463_000, "Rio de Janeiro": 13_293_000, "Tianjin": 13_215_000,
    "Kinshasa": 13_171_000, "Guangzhou": 12_638_000, "Los Angeles": 12_448_000, "Москва": 12_410_000,
    "深圳市": 11_908_000,
}  # fmt: skip
"""The 25 biggest agglomerations of 2018 (United Nations, The World's Cities in 2018), under names people use."""


async def biggest(client: httpx.AsyncClient) -> list[dict[str, object]]:
    answer = await client.get("/cities/biggest")
    assert answer.status_code == 200
    cities: list[dict[str, object]] = answer.json()
    return cities


# --- adding ---


@ways
async def test_a_city_is_added(site: Site, way: str) -> None:
    outcome = await add(site.client, way, "Tokyo", "37,400,068")
    assert outcome == Outcome(201, 1)
    assert await biggest(site.client) == [{"name": "Tokyo", "population": 37_400_068}]
    assert table(parse((await site.client.get("/")).text)) == [("1", "Tokyo", "37,400,068")]


async def test_the_plain_form_leads_to_a_page_that_says_where_the_city_landed(site: Site) -> None:
    await add(site.client, "json", "Tokyo", 37_400_068)
    answer = await site.client.post("/cities/", data={"name": ESCAPED, "population": "28514000"})
    assert (answer.status_code, answer.headers["location"]) == (303, "/?added=2")
    page = parse((await site.client.get("/?added=2")).text)
    assert text(one(page, "#status")) == f"{ESCAPED} is number 2, with 28,514,000 people. See it Undo"
    assert text(one(page, "title")) == f"{ESCAPED} is number 2, with 28,514,000 people - The world's biggest cities"


ESCAPED = "Delhi&lt"
"""A browser reads `Delhi<` where this is not escaped."""


async def test_htmx_gets_a_fresh_form_the_table_and_the_status(site: Site) -> None:
    answer = await site.client.post("/cities/", data={"name": ESCAPED, "population": "37400068"}, headers=HTMX)
    assert answer.status_code == 200
    page = parse(answer.text)
    assert text(one(page, "title")) == "The world's biggest cities"
    assert one(page, "#city-form #name").attrs["value"] == ""
    one(page, "hx-partial[hx-target='#board'][hx-swap=outerMorph] > #board")
    assert table(page) == [("1", ESCAPED, "37,400,068")]
    status = one(page, "hx-partial[hx-target='#status'][hx-swap=innerHTML]")
    assert text(one(status, "p[tabindex='-1'][autofocus]")) == (
        f"{ESCAPED} is number 1, with 37,400,068 people. See it"
    )
    one(status, "a[href='#city-1']")
    assert not page.css("header")


async def test_a_program_gets_the_city_and_its_address(site: Site) -> None:
    answer = await site.client.post("/cities/", json={"name": " Tokyo ", "population": "37 400 068"})
    assert answer.status_code == 201
    assert answer.json() == {"id": 1, "name": "Tokyo", "population": 37_400_068}
    assert (await site.client.get(answer.headers["location"])).status_code == 200


@pytest.mark.parametrize(
    "headers", [{"hx-request": "true", "hx-request-type": "full"}, {"hx-history-restore-request": "true"}]
)
async def test_who_asks_htmx_for_the_whole_page_gets_it(site: Site, headers: dict[str, str]) -> None:
    answer = await site.client.post("/cities/", data={"name": "", "population": ""}, headers=headers)
    assert parse(answer.text).css("header")


async def test_a_multipart_form_is_a_form(site: Site) -> None:
    answer = await site.client.post("/cities/", files={"name": (None, "Zürich"), "population": (None, "402762")})
    assert answer.status_code == 303
    assert await biggest(site.client) == [{"name": "Zürich", "population": 402_762}]


async def test_both_spellings_of_the_address_are_one(site: Site) -> None:
    answer = await site.client.post("/cities", data={"name": "Tokyo", "population": "37400068"})
    assert answer.status_code == 303


async def test_25_cities_entered_all_ways_stand_in_the_right_order_and_stay(site: Site) -> None:
    for number, (name, population) in enumerate(reversed(CITIES.items())):
        assert (await add(site.client, WAYS[number % 3], name, population)).status == 201
    expected = [{"name": name, "population": population} for name, population in list(CITIES.items())[:20]]
    assert await biggest(site.client) == expected
    rows = table(parse((await site.client.get("/")).text))
    assert rows == [(str(rank), city["name"], f"{city['population']:,}") for rank, city in enumerate(expected, 1)]


# --- rejecting ---

REJECTED = [
    ("", "1", {"name": "Enter a city name."}),
    ("   ", "1", {"name": "Enter a city name."}),
    ("Paris", "", {"population": "Enter the population."}),
    ("", "", {"name": "Enter a city name.", "population": "Enter the population."}),
    ("Paris", "-7", {"population": "Enter a population of 0 or more."}),
    ("Paris", "2147483648", {"population": "Enter a population of 100,000,000 or less."}),
    ("Paris", "1" + 400 * "0", {"population": "Enter a population of 100,000,000 or less."}),
    ("Paris", "1.5", {"population": "Write the number in full, like 13,960,000, or as 13.96 million."}),
    ("Paris", "many", {"population": "Write the number in full, like 13,960,000, or as 13.96 million."}),
    ("x" * 201, "1", {"name": "City names can't be longer than 200 characters."}),
    ("Paris" + 996 * "\u00ad", "1", {"name": "City names can't be longer than 200 characters."}),
    ("Par<b>is", "1", {"name": "The characters ; = | @ < > { } \\ can't be part of a city name."}),
    ("---", "1", {"name": "City names must start with a letter, a number or an apostrophe."}),
    (
        "Pa\0ris",
        "1",
        {"name": "City names can't include hidden or unreadable characters. Type the name instead of pasting it."},
    ),
]


@ways
@pytest.mark.parametrize(("name", "population", "errors"), REJECTED)
async def test_what_is_wrong_is_named(site: Site, way: str, name: str, population: str, errors: dict[str, str]) -> None:
    outcome = await add(site.client, way, name, population)
    assert (outcome.status, outcome.errors) == (422, errors)
    assert await biggest(site.client) == []


@pytest.mark.parametrize("way", ["plain", "htmx"])
async def test_what_was_entered_is_kept_as_it_was_entered(site: Site, way: str) -> None:
    outcome = await add(site.client, way, ' "x"><Paris> ', "1,5")
    assert outcome.kept == dict.fromkeys(FIELDS, "") | {"name": ' "x"><Paris> ', "population": "1,5"}


@pytest.mark.parametrize("way", ["plain", "htmx"])
async def test_a_rejected_page_says_so_in_its_title(site: Site, way: str) -> None:
    headers = HTMX if way == "htmx" else {}
    answer = await site.client.post("/cities/", data={"name": "", "population": "1"}, headers=headers)
    page = parse(answer.text)
    assert text(one(page, "title")) == "Error: The world's biggest cities"
    assert bool(page.css("#board")) is (way == "plain")


@ways
async def test_a_name_of_20_000_characters_is_too_much(site: Site, way: str) -> None:
    headers = HTMX if way == "htmx" else {}
    city = {"name": "x" * 20_000, "population": "1"}
    sent = {"json": city} if way == "json" else {"data": city}
    answer = await site.client.post("/cities/", headers=headers, **sent)  # type: ignore[arg-type]
    assert answer.status_code == 413
    assert await biggest(site.client) == []


@ways
@pytest.mark.parametrize("again", ["Paris", "paris", " Paris ", "PARIS"])
async def test_a_taken_name_is_rejected_with_what_is_stored(site: Site, way: str, again: str) -> None:
    await add(site.client, "json", "Paris", 2_148_000)
    outcome = await add(site.client, way, again, "5")
    assert outcome.status == 422
    assert outcome.errors == {"name": "Paris is already on the list, with 2,148,000 people."}
    assert await biggest(site.client) == [{"name": "Paris", "population": 2_148_000}]


async def test_a_program_is_told_of_a_duplicate_in_the_old_words(site: Site) -> None:
    await add(site.client, "json", "Paris", 2_148_000)
    answer = await site.client.post("/cities/", json={"name": "Paris", "population": 5})
    assert answer.json()["detail"] == "The city is already stored"
    assert answer.json()["stored"] == {"id": 1, "name": "Paris", "population": 2_148_000}


@pytest.mark.parametrize("headers", [{}, HTMX], ids=["plain", "htmx"])
async def test_a_form_that_is_sent_again_says_where_the_city_is(
    site: Site, empty: Addresses, headers: dict[str, str]
) -> None:
    await add(site.client, "json", "Tokyo", 37_400_068)
    await add(site.client, "json", "Paris", 2_148_000)
    await run_sql(empty.owner, "UPDATE cities SET created_at = now() - interval '1 day'")
    answer = await site.client.post("/cities/", data={"name": "PARIS", "population": "2.148 million"}, headers=headers)
    assert (answer.status_code, answer.headers["cache-control"]) == (200, "no-store")
    page = parse(answer.text)
    status = one(page, "hx-partial[hx-target='#status']" if headers else "#status")
    assert text(status) == "Paris is number 2, with 2,148,000 people. See it"
    assert not page.css("#error-summary, .error")
    assert one(page, "#name").attrs["value"] == ""
    assert table(page) == [("1", "Tokyo", "37,400,068"), ("2", "Paris", "2,148,000")]


async def test_a_program_that_sends_a_city_again_gets_a_422(site: Site) -> None:
    assert (await add(site.client, "json", "Paris", 2_148_000)).status == 201
    assert (await add(site.client, "json", "Paris", 2_148_000)).status == 422


@pytest.mark.parametrize("way", ["plain", "htmx"])
async def test_a_duplicate_on_the_board_is_linked(site: Site, way: str) -> None:
    await add(site.client, "json", "Paris", 2_148_000)
    headers = HTMX if way == "htmx" else {}
    answer = await site.client.post("/cities/", data={"name": "paris", "population": "5"}, headers=headers)
    page = parse(answer.text)
    for place in (".error-summary", "#name-error + p >"):
        assert text(one(page, f"{place} a[href='#city-1']")) == "See Paris"


@ways
async def test_composed_and_decomposed_are_one_name(site: Site, way: str) -> None:
    assert (await add(site.client, way, "Z\u00fcrich", "402762")).status == 201
    assert (await add(site.client, way, "Zu\u0308rich", "402763")).status == 422
    assert (await add(site.client, way, "Zurich", "402762")).status == 201


@ways
async def test_a_grouped_number_is_read(site: Site, way: str) -> None:
    await add(site.client, way, "New York City", "8,336,817")
    assert await biggest(site.client) == [{"name": "New York City", "population": 8_336_817}]


async def test_32_identical_adds_at_once_store_one(site: Site) -> None:
    outcomes = await asyncio.gather(*(add(site.client, "json", "Paris", 2_148_000) for _ in range(32)))
    statuses = sorted(outcome.status for outcome in outcomes)
    assert statuses == [201] + 31 * [422]
    assert await biggest(site.client) == [{"name": "Paris", "population": 2_148_000}]


# --- the board ---


async def test_an_empty_board_says_so(site: Site) -> None:
    page = parse((await site.client.get("/")).text)
    assert text(one(page, "#board .threshold")) == "No cities yet. Yours will be number 1."
    assert not page.css("table")
    assert await biggest(site.client) == []


async def test_equal_populations_share_a_rank_and_the_earliest_stands_first(site: Site) -> None:
    for name, population in [("D", 1), ("C", 5), ("B", 5), ("A", 9)]:
        await add(site.client, "json", name, population)
    rows = table(parse((await site.client.get("/")).text))
    assert rows == [("1", "A", "9"), ("2", "C", "5"), ("2", "B", "5"), ("4", "D", "1")]


async def test_names_that_are_stored_from_before_are_escaped(site: Site, empty: Addresses) -> None:
    await transfers.load(empty.owner, lines(("a<script>alert(1)</script>", 5)))
    await site.board.refresh()
    page = parse((await site.client.get("/")).text)
    assert table(page) == [("1", "a<script>alert(1)</script>", "5")]


async def fill(site: Site, count: int) -> None:
    """Cities of 1,000, 2,000 … people, by psql."""
    await run_sql(site.read_pool.engine.url, FILL.format(population="1000 * n", first=1, last=count))


LANDINGS = [
    (25, 1_500, "Small is number 25, with 1,500 people. Number 20 has 6,000 people. See it"),
    (9_999, 0, "Small is number 10,000, with 0 people. Number 20 has 9,980,000 people. See it"),
    (10_001, 0, "Small is number 10,002, with 0 people. Number 20 has 9,982,000 people. See it"),
]


@pytest.mark.parametrize(("others", "population", "status"), LANDINGS)
async def test_a_city_below_the_board_is_shown_with_its_neighbours_and_what_the_last_place_takes(
    site: Site, others: int, population: int, status: str
) -> None:
    await fill(site, others)
    outcome = await add(site.client, "plain", "Small", population)
    page = parse((await site.client.get(f"/?added={outcome.city_id}")).text)
    assert text(one(page, "#status > p")) == status
    one(page, f"#status > p a[href='/cities/{outcome.city_id}']")
    nearby = [name for _, name, _ in table(one(page, "#status"))]
    assert nearby[-1 if population == 0 else 3] == "Small"
    assert 4 <= len(nearby) <= 7


@pytest.mark.parametrize("way", ["plain", "htmx"])
async def test_a_name_that_differs_in_accents_only_is_hinted_at(site: Site, way: str) -> None:
    await add(site.client, "json", "Zürich", 402_762)
    expected = (
        "Zurich is number 2, with 5 people. See it Undo A similar name is on the list: Zürich, with 402,762 people."
    )
    headers = HTMX if way == "htmx" else {}
    answer = await site.client.post(
        "/cities/", data={"name": "Zurich", "population": "5"}, headers=headers, follow_redirects=True
    )
    assert expected in text(parse(answer.text))


@pytest.mark.parametrize(
    ("seconds", "landed"), [(110, "Tokyo is number 1, with 37,400,068 people. See it Undo"), (130, "")]
)
async def test_a_city_is_announced_for_two_minutes_and_later_causes_no_refresh(
    site: Site, empty: Addresses, seconds: int, landed: str
) -> None:
    await add(site.client, "json", "Tokyo", 37_400_068)
    await run_sql(empty.owner, f"UPDATE cities SET created_at = now() - interval '{seconds} seconds'")
    await site.board.refresh()
    asked = site.board._next_read_ended
    answer = await site.client.get("/?added=1")
    assert text(one(parse(answer.text), "#status")) == landed
    assert (site.board._next_read_ended is not asked) is bool(landed)
    if not landed:
        assert answer.text == (await site.client.get("/")).text


@pytest.mark.parametrize("added", ["7", "x", "", "-1", "9" * 30, str(2**31), str(2**63), "²"])
async def test_an_unknown_number_shows_the_plain_page(site: Site, added: str) -> None:
    page = parse((await site.client.get("/", params={"added": added})).text)
    assert text(one(page, "#status")) == ""


async def test_a_live_page_polls_and_is_paused_and_resumed_without_a_script(site: Site) -> None:
    live = parse((await site.client.get("/")).text)
    poll = one(live, "#live .poll")
    assert (poll.attrs["hx-get"], poll.attrs["hx-target"], poll.attrs["hx-swap"]) == ("/board", "#board", "outerMorph")
    assert str(poll.attrs["hx-trigger"]).startswith("load, every 3s, ")
    assert not live.css("#board .poll")
    assert one(live, "#board [name=seen]").attrs["value"] == site.board.snapshot.id
    paused = parse((await site.client.get("/?live=off")).text)
    assert not paused.css(".poll")
    assert text(one(paused, "#not-live")) == "Paused. Resume live updates"
    assert one(paused, "#not-live a").attrs["href"] == "/"


# --- HTTP ---

ADDRESSES = ["/", "/?live=off", "/cities/biggest", "/livez", "/readyz", "/static/site.css"]


@pytest.mark.parametrize("address", ADDRESSES)
async def test_head_works_wherever_get_does(site: Site, address: str) -> None:
    got, head = await site.client.get(address), await site.client.head(address)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers == got.headers


@pytest.mark.parametrize("address", ["/", "/?live=off", "/cities/biggest", "/static/site.css"])
async def test_who_has_the_bytes_gets_304(site: Site, address: str) -> None:
    etag = (await site.client.get(address)).headers["etag"]
    answer = await site.client.get(address, headers={"if-none-match": f'"other", {etag}'})
    assert (answer.status_code, answer.content) == (304, b"")
    await add(site.client, "json", "Tokyo", 37_400_068)
    assert (await site.client.get(address, headers={"if-none-match": '"other"'})).status_code == 200


ERRORS = [
    ("GET", "/nowhere", 404),
    ("GET", "/static/nowhere.css", 404),
    ("GET", "/static/..%2fmanage.py", 404),
    ("GET", "/%00", 404),
    ("DELETE", "/", 405),
    ("PUT", "/cities/", 405),
    ("POST", "/cities/biggest", 405),
]


@pytest.mark.parametrize(("method", "address", "status"), ERRORS)
async def test_an_error_is_a_page(site: Site, method: str, address: str, status: int) -> None:
    answer = await site.client.request(method, address, headers={"accept": "text/html"})
    page = parse(answer.text)
    assert answer.status_code == status
    one(page, "h1")
    assert text(one(page, "#problem-text")) == errors.SENTENCES[status]
    assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(("method", "address", "status"), ERRORS)
async def test_an_error_is_a_problem_document_for_programs(site: Site, method: str, address: str, status: int) -> None:
    answer = await site.client.request(method, address, headers={"accept": "application/json"})
    assert answer.headers["content-type"] == "application/problem+json"
    assert (answer.status_code, answer.json()["status"]) == (status, status)


UNREADABLE = [
    (b"name=%ff%fe&population=1", "application/x-www-form-urlencoded", 400),
    (b"name=\xff&population=1", "application/x-www-form-urlencoded", 400),
    (b"name=a&name=b&population=1", "application/x-www-form-urlencoded", 400),
    (b"a=1&b=1&c=1&d=1&e=1&f=1&g=1&h=1&i=1", "application/x-www-form-urlencoded", 400),
    (b"{", "application/json", 400),
    (b'\xef\xbb\xbf{"name": "Paris", "population": 1}', "application/json", 400),
    (b'{"name": "a", "name": "b", "population": 1}', "application/json", 400),
    (b"[" * 8000, "application/json", 400),
    (b"name=Paris", "multipart/form-data", 400),
    (
        b'--x\r\ncontent-disposition: form-data; name="name"\r\n\r\n\xff\r\n--x--',
        "multipart/form-data; boundary=x",
        400,
    ),
    (
        b'--x\r\ncontent-disposition: form-data; name="name"; filename="f"\r\n\r\na\r\n--x--',
        "multipart/form-data; boundary=x",
        400,
    ),
    (b"name=Paris&population=1", "text/plain", 415),
    (b"name=Paris&population=1", "", 415),
    (b"name=Paris&population=1", "application/x-www-form-urlencoded; charset=utf-16", 415),
    (b"x" * 8193, "application/x-www-form-urlencoded", 413),
    (b"", "application/x-www-form-urlencoded", 422),
    (b"%", "application/x-www-form-urlencoded", 422),
    (b"name[$gt]=1", "application/x-www-form-urlencoded", 422),
    (b"name=Paris&population=1&topic=x", "application/x-www-form-urlencoded", 422),
    (b"null", "application/json", 422),
    (b"[]", "application/json", 422),
    (b'{"name": 7, "population": true}', "application/json", 422),
    (b'{"name": "\\ud800", "population": 1}', "application/json", 422),
    (b'{"name": "Paris", "population": 1e400}', "application/json", 422),
    (b'{"name": "Paris", "population": ' + b"9" * 5000 + b"}", "application/json", 422),
    (b'{"name": "Paris", "population": NaN}', "application/json", 400),
]


@pytest.mark.parametrize(("body", "kind", "status"), UNREADABLE)
async def test_input_never_stores_nonsense_nor_breaks_the_server(
    site: Site, body: bytes, kind: str, status: int
) -> None:
    answer = await site.client.post("/cities/", content=body, headers={"content-type": kind} if kind else {})
    assert answer.status_code == status
    assert await biggest(site.client) == []


@pytest.mark.parametrize(
    ("codings", "status"), [(["gzip"], 415), (["identity", "br"], 415), (["identity, gzip"], 415), (["Identity"], 201)]
)
async def test_a_compressed_body_is_rejected(site: Site, codings: list[str], status: int) -> None:
    headers = [("content-type", "application/json"), *(("content-encoding", coding) for coding in codings)]
    answer = await site.client.post("/cities/", content=b'{"name": "Paris", "population": 1}', headers=headers)
    assert answer.status_code == status
    assert answer.headers.get("accept-encoding") == (None if status == 201 else "identity")
    assert len(await biggest(site.client)) == (1 if status == 201 else 0)


async def test_an_address_fills_in_the_form(site: Site) -> None:
    page = parse((await site.client.get("/?name=S%C3%A3o&population=12%2C300")).text)
    assert [one(page, selector).attrs["value"] for selector in ("#name", "#population")] == ["São", "12,300"]


async def test_a_body_without_an_announced_length_is_counted(site: Site) -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield b"x" * 1000

    answer = await site.client.post(
        "/cities/",
        content=endless(),
        headers={"content-type": "application/json"},
    )
    assert answer.status_code == 413
    assert answer.headers["connection"] == "close"


async def test_a_page_costs_no_query_and_a_landing_one(site: Site) -> None:
    outcome = await add(site.client, "json", "Tokyo", 37_400_068)
    await site.client.get("/")
    statements: list[str] = []
    engine = site.read_pool.engine.sync_engine

    @event.listens_for(engine, "before_cursor_execute")
    def count(*arguments: object) -> None:
        statements.append(str(arguments[2]))

    await site.client.get("/")
    await site.client.get("/cities/biggest")
    assert statements == []
    await site.client.get(f"/?added={outcome.city_id}")
    assert len(statements) == 1


async def test_a_restart_loses_nothing(site: Site) -> None:
    await add(site.client, "json", "Tokyo", 37_400_068)
    async with open_site(site.read_pool.engine.url) as second:
        assert await biggest(second.client) == [{"name": "Tokyo", "population": 37_400_068}]
