"""The whole list: browsed page by page, searched, one city at a time, three ways where it applies."""

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from urllib.parse import parse_qs, urlsplit
from xml.etree import ElementTree as ET

import httpx
import pytest
from selectolax.lexbor import LexborNode

from cityweb import names
from cityweb.city import ID_MAX, POPULATION_MAX
from cityweb.postgres import ranking
from cityweb.postgres.ranking import Source
from tests.conftest import FILL, Addresses, Site, insert, open_site, quoted, run_sql, unmeasured
from tests.pages import BESIDE_THE_BOARD, HTMX, ORIGIN, add, one, parse, table, text
from tests.proxy import Proxy


async def show(client: httpx.AsyncClient, address: str, way: str = "plain") -> LexborNode:
    answer = await client.get(address, headers=HTMX if way == "htmx" else {})
    assert answer.status_code == 200, answer.text
    return parse(answer.text)


def address_of(document: LexborNode, rel: str) -> str | None:
    links = document.css(f"a[rel={rel}]")
    return str(links[0].attrs["href"]) if links else None


async def walk(client: httpx.AsyncClient, address: str | None, rel: str) -> list[list[tuple[str, str, str]]]:
    """The rows of all pages from an address on."""
    pages = []
    while address:
        document = await show(client, address)
        pages.append(table(document))
        address = address_of(document, rel)
    return pages


async def expected(database: Addresses, condition: str = "true") -> list[tuple[str, str, str]]:
    """What the list must say, by one plain statement."""
    found = await run_sql(
        database.app,
        "SELECT * FROM (SELECT rank() OVER (ORDER BY population DESC) AS rank, name, population, id FROM cities) AS c"
        f" WHERE {condition} ORDER BY population DESC, id",
    )
    return [(f"{row['rank']:,}", row["name"], f"{row['population']:,}") for row in found]


# --- browsing ---


@pytest.mark.parametrize("population", ["n", "n / 7", "n / 60", "0", "(n % 3) * 1000000"])
async def test_every_city_stands_on_one_page_at_its_rank(site: Site, empty: Addresses, population: str) -> None:
    await run_sql(empty.owner, FILL.format(population=population, first=1, last=203))
    pages = await walk(site.client, "/cities", "next")
    assert [len(page) for page in pages] == [50, 50, 50, 50, 3]
    assert [row for page in pages for row in page] == await expected(empty)


@pytest.mark.parametrize("population", ["n", "n / 60", "0"])
async def test_the_way_back_shows_the_same_pages(site: Site, empty: Addresses, population: str) -> None:
    await run_sql(empty.owner, FILL.format(population=population, first=1, last=203))
    forth = await walk(site.client, "/cities", "next")
    back = await walk(site.client, "/cities?after=0-203", "prev")
    # The last page is full on the way back, because it begins at the end.
    assert back[0] == []
    assert back[-1] == forth[0]
    everything = [row for page in forth for row in page]
    assert [row for page in reversed(back[1:-1]) for row in page] == everything[-200:]


async def test_both_spellings_of_the_address_are_one(site: Site) -> None:
    assert (await site.client.get("/cities")).text == (await site.client.get("/cities/")).text


async def test_rows_that_come_and_go_do_not_move_the_page_that_is_read(site: Site, empty: Addresses) -> None:
    await run_sql(empty.owner, FILL.format(population="n * 10", first=1, last=150))
    second = str(address_of(await show(site.client, "/cities"), "next"))
    before = table(await show(site.client, second))
    await run_sql(empty.owner, insert("Biggest", 5_000), "DELETE FROM cities WHERE population IN (1490, 1480)")
    after = table(await show(site.client, second))
    assert [row[1:] for row in after] == [row[1:] for row in before]
    assert [int(row[0]) for row in after] == [int(row[0]) - 1 for row in before]


LIMITS = [f"{population}-{id_}" for population in (0, 1, POPULATION_MAX) for id_ in (0, 1, ID_MAX - 1, ID_MAX)]


@unmeasured
@pytest.mark.parametrize("ids", [[], [1, ID_MAX], range(ID_MAX - 59, ID_MAX + 1)], ids=["none", "two", "sixty"])
@pytest.mark.parametrize("population", [0, POPULATION_MAX])
async def test_every_link_of_every_page_leads_to_a_page(
    site: Site, empty: Addresses, ids: Sequence[int], population: int
) -> None:
    for id_ in ids:
        await run_sql(empty.owner, insert(f"C{id_}", population, id=id_))
    ahead = {f"/cities?{q}{side}={limit}" for q in ("", "q=c&") for side in ("after", "before") for limit in LIMITS}
    seen: set[str] = set()
    while ahead:
        address = ahead.pop()
        seen.add(address)
        document = await show(site.client, address)
        ahead |= {link for rel in ("prev", "next") if (link := address_of(document, rel))} - seen


async def test_an_empty_list_says_so(site: Site) -> None:
    document = await show(site.client, "/cities")
    assert text(one(document, "#found")) == "0 cities"
    assert text(one(document, "#cities")) == "No cities here. Add one"


BAD = [
    "after=",
    "after=1",
    "after=1-",
    "after=-1-5",
    "after=100000001-1",
    f"after=1-{2**31}",
    "after=1-2-3",
    "after=%D9%A3-1",
    "before=x",
    "after=1-1&before=1-1",
    "after=1-1&after=1-1",
    f"q={'x' * 201}",
]


@pytest.mark.parametrize("query", BAD)
async def test_a_bad_cursor_or_too_long_a_search_is_a_page_of_400(site: Site, query: str) -> None:
    answer = await site.client.get(f"/cities?{query}", headers={"accept": "text/html"})
    assert answer.status_code == 400
    assert text(one(parse(answer.text), "#problem-text")) == (
        "No city name is that long. Search for the beginning of the name."
        if query.startswith("q=")
        else "The list has no such page. Start at its first page."
    )


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE"])
async def test_what_else_is_asked_of_the_list_is_told_what_can_be(site: Site, method: str) -> None:
    answer = await site.client.request(method, "/cities")
    assert answer.status_code == 405
    assert set(answer.headers["allow"].split(", ")) == {"GET", "HEAD", "POST"}


# --- searching ---

NAMES = {
    "New York City": 80,
    "York": 2,
    "Yorkton": 2,
    "São Paulo": 120,
    "Santo André": 7,
    "Xi'an": 90,
    "New Newark": 3,
    "Saint-Denis": 60,
    "St. Louis": 50,
    "Stuttgart": 40,
    "東京": 140,
}


async def store_names(site: Site) -> None:
    inserts = [
        insert(name, population, name_key=quoted(names.key(name)), name_bare=quoted(names.bare(name)))
        for name, population in NAMES.items()
    ]
    await run_sql(site.read_pool.engine.url, *inserts)


SEARCHES = {
    "york": ["New York City", "York", "Yorkton"],
    "YORK": ["New York City", "York", "Yorkton"],
    "york c": ["New York City"],
    "city york new": ["New York City"],
    "new n": ["New York City", "New Newark"],
    "york paulo": [],
    "York  City": ["New York City"],
    "new": ["New York City", "New Newark"],
    "sao": ["São Paulo"],
    "SÃO P": ["São Paulo"],
    "andre": ["Santo André"],
    "s": ["São Paulo", "Saint-Denis", "St. Louis", "Stuttgart", "Santo André"],
    "xian": ["Xi'an"],
    "xi’an": ["Xi'an"],
    "xi an": ["Xi'an"],
    "st": ["Saint-Denis", "St. Louis", "Stuttgart"],
    "saint": ["Saint-Denis", "St. Louis"],
    "sai": ["Saint-Denis", "St. Louis"],
    "st denis": ["Saint-Denis"],
    "saint louis": ["St. Louis"],
    "東": ["東京"],
    "京": [],
    " ".join("abcdefgh"): [],
    "an": ["Xi'an", "Santo André"],
    "ork": [],
    "-": [],
    "%": [],
    "\0": [],
    "x\0": ["Xi'an"],
    "\\": [],
    "y'": ["New York City", "York", "Yorkton"],
}


# On a small board all matches are sorted. The others are walks to its end, and walks that are given up.
WALKS = {
    "none": ranking.SEARCH,
    "one": ranking.matches(near=1_000, far=1_000, least=0, counted=0),
    "two": ranking.matches(near=2, far=1_000, least=0, counted=0),
    "given up": ranking.matches(near=2, far=3, least=0, counted=0),
}
each_walk = pytest.mark.parametrize("source", WALKS.values(), ids=WALKS)


@unmeasured
@pytest.mark.parametrize("way", ["plain", "htmx"])
@each_walk
async def test_a_search_finds_the_beginnings_of_words_in_any_order(
    site: Site, monkeypatch: pytest.MonkeyPatch, way: str, source: Source
) -> None:
    monkeypatch.setattr(ranking, "SEARCH", source)
    await store_names(site)
    for q, found in SEARCHES.items():
        document = await show(site.client, f"/cities?{httpx.QueryParams(q=q)}", way)
        assert [row[1] for row in table(document)] == sorted(found, key=lambda name: -NAMES[name]), q


@each_walk
async def test_what_is_found_is_browsed_in_pages_at_its_rank(
    site: Site, empty: Addresses, monkeypatch: pytest.MonkeyPatch, source: Source
) -> None:
    monkeypatch.setattr(ranking, "SEARCH", source)
    for beginning in ("upper c", "d"):
        await run_sql(
            empty.owner,
            "INSERT INTO cities (name, name_key, name_bare, population) SELECT"
            f" '{beginning}' || n, '{beginning}' || n, '{beginning}' || n, n / 9 FROM generate_series(1, 120) n",
        )
    found = await expected(empty, "name LIKE 'upper%'")
    pages = await walk(site.client, "/cities?q=C", "next")
    assert [row for page in pages for row in page] == found
    last = str(
        address_of(await show(site.client, str(address_of(await show(site.client, "/cities?q=C"), "next"))), "next")
    )
    assert parse_qs(urlsplit(last).query)["q"] == ["C"]
    back = await walk(site.client, last, "prev")
    assert [row for page in reversed(back[:2]) for row in page] == found[50:]
    assert back[-1] == found[:50]


async def test_what_is_found_far_apart_has_its_rank(site: Site, empty: Addresses) -> None:
    # From 100,000,000 down to 6, so many that they are in the tally: in buckets of every size.
    await run_sql(empty.owner, FILL.format(population="100000000 / power(1.15, n % 120)", first=1, last=130))
    assert await run_sql(empty.app, "SELECT FROM tally_changes") == []
    assert [row for page in await walk(site.client, "/cities?q=c", "next") for row in page] == await expected(empty)


FOUND = {
    "york": "3 cities match “york”.",
    "york c": "1 city matches “york c”.",
    "<q>": "No city matches “<q>”.",
    "": "11 cities",
}


@pytest.mark.parametrize("way", ["plain", "htmx"])
@pytest.mark.parametrize(("q", "found"), FOUND.items())
async def test_how_many_were_found_is_said(site: Site, way: str, q: str, found: str) -> None:
    await store_names(site)
    document = await show(site.client, f"/cities?{httpx.QueryParams(q=q)}", way)
    region = "#found" if way == "plain" else "hx-partial[hx-target='#found']"
    assert text(one(document, region)) == found


KNOWN = {"Mumbai": 90, "Hamburg": 50, "Beijing": 80, "São Paulo": 70, "Limbe": 1, "Lisboa": 2, "Lisbon": 3}
MISSPELLED = {
    "mumbi": ["Mumbai"],
    "Hamburk": ["Hamburg"],
    "bejing": ["Beijing"],
    "sao paolo": ["São Paulo"],
    "lisbe": ["Limbe"],
    "lisbom": ["Lisbon", "Lisboa"],
    "atlantis": [],
}


@pytest.mark.parametrize("way", ["plain", "htmx"])
@pytest.mark.parametrize(("q", "similar"), MISSPELLED.items())
async def test_what_is_misspelled_leads_to_the_nearest_names(site: Site, way: str, q: str, similar: list[str]) -> None:
    for name, population in KNOWN.items():
        await add(site.client, "json", name, population)
    document = await show(site.client, f"/cities?{httpx.QueryParams(q=q)}", way)
    found = one(document, "#found" if way == "plain" else "hx-partial[hx-target='#found']")
    assert [text(link) for link in found.css("a")] == similar
    question = f" Did you mean {' or '.join(similar)}?" if similar else ""
    assert text(found) == f"No city matches “{q}”.{question}"
    for link in found.css("a"):
        assert text(one(await show(site.client, str(link.attrs["href"])), "h1")) == text(link)


async def test_the_names_are_read_once_a_minute_and_only_where_one_is_misspelled(site: Site) -> None:
    await add(site.client, "json", "Mumbai", 5)
    await show(site.client, "/cities?q=mumbai")
    assert site.biggest.read_at == -math.inf
    await show(site.client, "/cities?q=mumbi")
    await add(site.client, "json", "Hamburg", 5)
    assert not (await show(site.client, "/cities?q=hamburk")).css("#found a")
    site.biggest.read_at -= 60
    assert (await show(site.client, "/cities?q=hamburk")).css("#found a")


async def test_more_than_can_be_counted_are_many(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranking, "SEARCH", WALKS["one"])
    await store_names(site)
    assert text(one(await show(site.client, "/cities?q=york"), "#found")) == "Many cities match “york”."


async def test_a_search_walks_among_very_many_equals_that_one_load_added(site: Site, empty: Addresses) -> None:
    # The tally has two changes to fold, and 6,001 cities in them.
    await run_sql(empty.owner, FILL.format(population="500", first=1, last=6_000), insert("c less", 499))
    assert text(one(await show(site.client, "/cities?q=c"), "#found")) == "Many cities match “c”."
    document = await show(site.client, "/cities?q=less")
    assert table(document) == [("6,001", "c less", "499")]
    assert table(await show(site.client, "/cities?after=500-5970"))[-1] == ("6,001", "c less", "499")
    nothing = await show(site.client, "/cities?q=nothing&after=499-6001")
    assert text(one(nothing, "#found")) == "No city matches “nothing”."
    assert table(await show(site.client, "/cities/6001"))[-1] == ("6,001", "c less", "499")


async def test_htmx_gets_the_list_alone_and_a_title(site: Site) -> None:
    document = await show(site.client, "/cities?q=a", "htmx")
    assert text(one(document, "title")) == "Cities that match “a” - cityweb"
    assert not document.css("header, form")
    answer = await site.client.get("/cities?q=a", headers={"hx-history-restore-request": "true"})
    assert parse(answer.text).css("header")
    assert "HX-Request" in answer.headers["vary"]


async def test_who_found_nothing_can_add_that_name(site: Site) -> None:
    document = await show(site.client, f"/cities?{httpx.QueryParams(q='<Új> & Co')}")
    link = one(document, "#cities a")
    assert text(link) == text(one(document, "#cities")) == "Add “<Új> & Co”"
    page = await site.client.get(str(link.attrs["href"]))
    assert one(parse(page.text), "#name").attrs["value"] == "<Új> & Co"
    assert page.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("name", ["\0", '"><script>', "x" * 5_000])
async def test_whatever_name_is_asked_for_is_only_shown(site: Site, name: str) -> None:
    page = parse((await site.client.get("/", params={"name": name})).text)
    assert len(str(one(page, "#name").attrs["value"])) == len(name)


# --- one city ---


@pytest.mark.parametrize("way", ["plain", "json"])
async def test_a_city_is_shown_with_its_rank(site: Site, way: str) -> None:
    for name, population in [("A", 9), ("B", 5), ("C", 5), ("D", 1)]:
        await add(site.client, "json", name, population)
    if way == "json":
        city = (await site.client.get("/cities/3.json")).json()
        assert city.pop("created_at").endswith("+00:00")
        assert city == {"id": 3, "name": "C", "population": 5, "rank": 2, "country": "", "rank_in_country": None}
    else:
        document = await show(site.client, "/cities/3")
        assert text(one(document, "h1")) == "C"
        assert text(one(document, ".big")) == "5 people"
        assert text(one(document, ".hero p:last-child")) == "Number 2 of 4 cities"
        figures = {text(one(pair, "dt")): text(one(pair, "dd")) for pair in document.css("dl > div")}
        assert figures.pop("Added").endswith(f" {datetime.now(UTC).year}")
        assert figures == {
            "Bigger cities": "1",
            "Smaller cities": "1",
            "Next above": "B, with as many",
            "Next below": "D, with 4 fewer",
        }
        assert table(document) == [("1", "A", "9"), ("2", "B", "5"), ("2", "C", "5"), ("4", "D", "1")]


async def test_a_city_stands_between_its_three_neighbours_of_either_side(site: Site, empty: Addresses) -> None:
    await run_sql(empty.owner, FILL.format(population="n / 2", first=1, last=40))
    everything = await expected(empty)
    for city_id in (1, 2, 20, 38, 39, 40):
        document = await show(site.client, f"/cities/{city_id}")
        position = [row[1] for row in everything].index(f"C{city_id}")
        assert table(document) == everything[max(0, position - 3) : position + 4]
        assert table(await show(site.client, str(document.css(".links a")[0].attrs["href"])))[0] == everything[position]


@pytest.mark.parametrize(
    "address", ["/cities/1", f"/cities/{2**31}", "/cities/99999999999999999999", f"/cities/{5_000 * '9'}", "/cities/x"]
)
@pytest.mark.parametrize("ending", ["", ".json"])
async def test_no_city_is_a_404(site: Site, address: str, ending: str) -> None:
    answer = await site.client.get(address + ending)
    assert answer.status_code == 404
    if ending and "x" not in address:
        assert answer.headers["content-type"] == "application/problem+json"
    else:
        assert text(one(parse(answer.text), "h1")) == "Page not found"


# --- the feed ---

ATOM = {"atom": "http://www.w3.org/2005/Atom"}


async def test_the_feed_has_the_newest_cities_first(site: Site) -> None:
    for name, population in [("A", 9), ("B & Co", 5)]:
        await add(site.client, "json", name, population)
    answer = await site.client.get("/feed.atom")
    assert answer.headers["content-type"] == "application/atom+xml; charset=utf-8"
    feed = ET.fromstring(answer.content)
    titles = [title.text for title in feed.findall("atom:entry/atom:title", ATOM)]
    assert titles == ["B & Co, population 5", "A, population 9"]
    # RFC 4287, 4.1.1 and 4.1.2: what a feed and its entries must have, once.
    for element in [feed, *feed.findall("atom:entry", ATOM)]:
        assert [len(element.findall(f"atom:{name}", ATOM)) for name in ("id", "title", "updated")] == [1, 1, 1]
        moment = datetime.fromisoformat(str(element.findtext("atom:updated", namespaces=ATOM)))
        assert moment.tzinfo
    assert feed.findall("atom:author/atom:name", ATOM)
    ids = [element.text for element in feed.iter("{http://www.w3.org/2005/Atom}id")]
    assert ids == ["tag:localhost,2026:newest", "tag:localhost,2026:city-2", "tag:localhost,2026:city-1"]
    links = [link.get("href") for link in feed.iter("{http://www.w3.org/2005/Atom}link")]
    assert links == [f"{ORIGIN}{path}" for path in ("/feed.atom", "/", "/cities/2", "/cities/1")]


async def test_the_feed_is_the_same_under_every_name_and_scheme(empty: Addresses) -> None:
    names = "testserver,localhost,cities.example.com,example.org"
    async with open_site(empty.app, CITYWEB_HOSTS=names) as site:
        await add(site.client, "json", "Paris", 5)
        answers = [
            await site.client.get(f"{origin}/feed.atom")
            for origin in ("http://localhost:1", "http://cities.example.com", "https://example.org")
        ]
    assert len({answer.content for answer in answers}) == 1
    assert "<id>tag:cities.example.com,2026:city-1</id>" in answers[0].text
    assert 'href="https://cities.example.com/cities/1"' in answers[0].text


async def test_an_empty_feed_and_one_of_odd_names_are_xml(site: Site, empty: Addresses) -> None:
    feed = ET.fromstring((await site.client.get("/feed.atom")).content)
    assert feed.findtext("atom:updated", namespaces=ATOM) == "1970-01-01T00:00:00Z"
    await run_sql(empty.owner, insert("a\x01b\x0b\ufffe", 5))
    feed = ET.fromstring((await site.client.get("/feed.atom")).content)
    assert feed.findtext("atom:entry/atom:title", namespaces=ATOM) == "a\ufffdb\ufffd\ufffd, population 5"


async def test_every_page_names_the_feed(site: Site) -> None:
    for address in ("/", "/cities", "/nowhere"):
        link = one(parse((await site.client.get(address)).text), "link[type='application/atom+xml']")
        assert (link.attrs["rel"], link.attrs["href"]) == ("alternate", "/feed.atom")


# --- links ---


async def test_a_program_is_told_where_its_city_is(site: Site) -> None:
    answer = await site.client.post("/cities/", json={"name": "Paris", "population": 5})
    assert (await site.client.get(answer.headers["location"])).json()["name"] == "Paris"


@pytest.mark.parametrize("way", ["plain", "htmx"])
async def test_the_answers_link_to_the_city(site: Site, way: str) -> None:
    headers = HTMX if way == "htmx" else {}
    city = {"name": "Paris", "population": "5"}
    added = await site.client.post("/cities/", data=city, headers=headers, follow_redirects=True)
    again = await site.client.post("/cities/", data={**city, "population": "6"}, headers=headers)
    status = "#status" if way == "plain" else "hx-partial[hx-target='#status']"
    assert text(one(parse(added.text), f"{status} a[href='#city-1']")) == "See it"
    assert text(one(parse(added.text), status)) == "Paris is number 1, with 5 people. See it Undo"
    assert text(one(parse(added.text), "#board a[href='/cities/1']")) == "Paris"
    assert text(one(parse(again.text), "#city-form .field a[href='#city-1']")) == "See Paris"


async def test_a_duplicate_that_is_not_on_the_board_is_linked_in_the_summary(site: Site, empty: Addresses) -> None:
    await add(site.client, "json", "Small", 0)
    await run_sql(empty.owner, FILL.format(population="n", first=1, last=20))
    await site.board.refresh()
    again = await site.client.post("/cities/", data={"name": "Small", "population": "5"})
    one(parse(again.text), "#error-summary a[href='/cities/1']")


# --- HTTP ---

ADDRESSES = [
    *BESIDE_THE_BOARD, "/cities?q=a", "/cities/1.json", "/feed.atom", "/openapi.json", "/robots.txt", "/sitemap.xml",
    "/manifest.webmanifest", "/favicon.ico", "/apple-touch-icon.png",
]  # fmt: skip


@pytest.mark.parametrize("address", ADDRESSES)
async def test_reading_is_conditional_and_head_works(site: Site, address: str) -> None:
    await add(site.client, "json", "Ab", 5)
    got, head = await site.client.get(address), await site.client.head(address)
    assert (head.status_code, head.content, head.headers) == (200, b"", got.headers)
    same = await site.client.get(address, headers={"if-none-match": got.headers["etag"]})
    assert same.status_code == 304


@pytest.mark.parametrize(
    "address", ["/cities", "/cities?q=a", "/cities/1", "/cities/1.json", "/feed.atom", "/sitemap.xml"]
)
async def test_while_the_database_is_away_503_says_when_to_try_again(empty: Addresses, address: str) -> None:
    async with Proxy(empty.app) as proxy, open_site(proxy.url) as site:
        proxy.down()
        answer = await site.client.get(address)
        assert answer.status_code == 503
        assert answer.headers["retry-after"] == "5"
        assert "show this right now. Try again in 5 seconds." in answer.text
        # The URL of a document in JSON always gets one.
        assert (answer.headers["content-type"] == "application/problem+json") is address.endswith(".json")


async def test_a_broken_connection_costs_a_reader_nothing(empty: Addresses) -> None:
    async with Proxy(empty.app) as proxy, open_site(proxy.url) as site:
        await site.client.get("/cities")
        proxy.reset()
        assert (await site.client.get("/cities")).status_code == 200


async def test_a_bug_of_ours_is_no_503(site: Site, empty: Addresses) -> None:
    await run_sql(empty.owner, "ALTER FUNCTION cities_above RENAME TO lost")
    try:
        assert (await site.client.get("/cities")).status_code == 500
    finally:
        await run_sql(empty.owner, "ALTER FUNCTION lost RENAME TO cities_above")


# --- sizes ---


async def test_the_list_leads_to_each_size_that_cities_have(site: Site, empty: Addresses) -> None:
    made = [("A", 12_000_000), ("B", 10_000_000), ("C", 9_999_999), ("D", 600_000), ("E", 7), ("F", 0)]
    await run_sql(empty.owner, *(insert(name, population) for name, population in made))
    document = await show(site.client, "/cities")
    sizes = {text(one(item, "a")): item for item in document.css(".sizes li")}
    assert {words: text(one(item, "span")) for words, item in sizes.items()} == {
        "10 million and more": "2",
        "5 to 10 million": "1",
        "500,000 to 1 million": "1",
        "Fewer than 10,000": "2",
    }
    pages = [await show(site.client, str(one(item, "a").attrs["href"])) for item in sizes.values()]
    assert [table(page)[0][1] for page in pages] == ["A", "C", "D", "E"]


async def test_an_empty_list_has_no_sizes(site: Site) -> None:
    assert not (await show(site.client, "/cities")).css(".sizes")


async def test_a_city_stands_in_its_column_of_the_distribution(site: Site, empty: Addresses) -> None:
    await run_sql(empty.owner, FILL.format(population="n * 1000", first=1, last=100))
    strip = one(await show(site.client, "/cities/100"), ".strip svg[role=img]")
    assert strip.attrs["aria-label"] == "0 cities are bigger than C100, 99 are smaller"
    assert str(one(strip, ".own").attrs["d"]).startswith("M23 100v-")
    ticks = [text(tick) for tick in (await show(site.client, "/cities/1")).css(".axis text")]
    assert ticks == ["1k", "10k", "100k"]


async def test_cities_of_one_population_have_no_distribution(site: Site) -> None:
    await add(site.client, "json", "A", 5)
    assert not (await show(site.client, "/cities/1")).css(".strip")
