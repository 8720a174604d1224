"""What a shared link shows, and under which URL a search engine keeps a page."""

from collections.abc import AsyncIterator

import pytest
from selectolax.lexbor import LexborNode

from tests.conftest import FILL, Addresses, Site, open_site, run_sql
from tests.pages import BESIDE_THE_BOARD, add, one, parse, text

ORIGIN = "https://cities.example.com"
BOARD_TITLE = "The world's biggest cities"


@pytest.fixture
async def public(empty: Addresses) -> AsyncIterator[Site]:
    """A site with a public name and 120 cities, the biggest of which is Paris."""
    async with open_site(empty.app, CITYWEB_HOSTS="testserver,cities.example.com,example.org") as site:
        await add(site.client, "json", "Paris", 2_138_551, country="FR")
        await run_sql(empty.owner, FILL.format(population="n", first=1, last=119))
        yield site


async def head(site: Site, path: str) -> LexborNode:
    return parse((await site.client.get(path)).text)


def meta(document: LexborNode, name: str) -> str:
    return str(one(document, f"meta[property='{name}'], meta[name='{name}']").attrs["content"])


SHARED = {
    "/": (BOARD_TITLE, "The 20 biggest cities by population, live. Anyone can add one that is missing."),
    "/cities": ("All cities by population", "All cities by population, 50 on a page, with a search."),
    "/cities?after=70-51": (
        "All cities by population, from number 51",
        "All cities by population, 50 on a page, with a search.",
    ),
    "/cities?q=par": ("Cities that match “par”", "The cities with words that begin like “par”, the biggest first."),
    "/cities?q=c1&after=12-13": (
        "Cities that match “c1”, from number 110",
        "The cities with words that begin like “c1”, the biggest first.",
    ),
    "/cities?country=FR": (
        "Cities in France by population",
        "The cities of France by population, with their ranks in the world.",
    ),
    "/cities/1": (
        "Paris, France: 2,138,551 people, number 1",
        "Paris has 2,138,551 people and is number 1 of all cities here, number 1 in France.",
    ),
    "/cities/120": ("C119: 119 people, number 2", "C119 has 119 people and is number 2 of all cities here."),
    "/countries": ("Cities by country", "The countries of all cities, with their numbers of cities."),
    "/privacy": ("Privacy", "What this site keeps about a visitor, and for how long."),
    "/api": ("Data", "All cities as CSV, as JSON and as a feed, and the API: each operation can be tried on the page."),
}


@pytest.mark.parametrize("path", SHARED)
async def test_a_page_has_a_title_and_a_description_of_its_own(public: Site, path: str) -> None:
    document = await head(public, path)
    name, description = SHARED[path]
    assert text(one(document, "title")) == (name if path == "/" else f"{name} - cityweb")
    assert (meta(document, "og:title"), meta(document, "og:description")) == (name, description)
    assert meta(document, "description") == description
    assert meta(document, "og:site_name") == "cityweb"
    assert (meta(document, "og:type"), meta(document, "twitter:card")) == ("website", "summary_large_image")


@pytest.mark.parametrize("path", SHARED)
async def test_a_page_has_one_absolute_url(public: Site, path: str) -> None:
    document = await head(public, path)
    canonical = one(document, "link[rel=canonical]").attrs["href"]
    assert canonical == meta(document, "og:url") == one(document, "main").attrs["data-url"] == ORIGIN + path
    assert not document.css("meta[name=robots]")


def test_every_page_is_among_them() -> None:
    assert {*BESIDE_THE_BOARD, "/"} - {"/cities/", "/changes"} <= {*SHARED}


@pytest.mark.parametrize(
    ("path", "canonical"),
    [
        ("/?live=off", "/"),
        ("/?added=1", "/"),
        ("/?name=Paris&population=5", "/"),
        ("/?utm_source=x", "/"),
        ("/cities/", "/cities"),
        ("/cities?q=", "/cities"),
        ("/cities?q=+par+&x=y", "/cities?q=par"),
        ("/cities?q=b%26c", "/cities?q=b%26c"),
        # The page before this city is the first one.
        ("/cities?before=70-51", "/cities"),
        ("/cities/1?x=y", "/cities/1"),
        ("/api?x=y", "/api"),
    ],
)
async def test_a_parameter_that_names_no_content_is_left_out(public: Site, path: str, canonical: str) -> None:
    assert one(await head(public, path), "link[rel=canonical]").attrs["href"] == ORIGIN + canonical


async def test_the_news_of_one_visitor_are_not_shared(public: Site) -> None:
    document = await head(public, "/?added=1")
    assert text(one(document, "title")).startswith("Paris is number 1")
    assert meta(document, "og:title") == BOARD_TITLE


async def test_the_picture_is_there(public: Site) -> None:
    picture = meta(await head(public, "/cities/1"), "og:image")
    assert picture.startswith(f"{ORIGIN}/static/share.png?v=")
    answer = await public.client.get(picture.removeprefix(ORIGIN))
    assert answer.headers["content-type"] == "image/png"
    # The width and the height of a PNG.
    assert answer.content[16:24] == (1200).to_bytes(4) + (630).to_bytes(4)
    assert len(answer.content) < 80_000


async def test_every_host_and_scheme_names_the_same_url(public: Site) -> None:
    for origin in ("http://testserver:1", "http://cities.example.com", "https://example.org"):
        document = parse((await public.client.get(f"{origin}/cities/1")).text)
        assert one(document, "link[rel=canonical]").attrs["href"] == f"{ORIGIN}/cities/1"


@pytest.mark.parametrize("path", ["/nowhere", "/cities/999", "/cities?after=x"])
async def test_an_error_page_is_kept_by_nobody(public: Site, path: str) -> None:
    document = await head(public, path)
    assert meta(document, "robots") == "noindex"
    assert not document.css("link[rel=canonical], [property^='og:']")
    assert meta(document, "description")


async def test_a_name_is_escaped_in_every_place(public: Site, empty: Addresses) -> None:
    name = "\"><script>alert(1)</script> & 's"
    await run_sql(empty.owner, f"UPDATE cities SET name = '{name.replace(chr(39), 2 * chr(39))}' WHERE id = 1")
    document = await head(public, "/cities/1")
    assert meta(document, "og:title") == f"{name}, France: 2,138,551 people, number 1"
    assert meta(document, "og:description").startswith(f"{name} has ")
    assert len(document.css("script")) == 2


async def test_a_city_of_one_is_no_people(site: Site) -> None:
    await add(site.client, "json", "Monowi", 1)
    assert meta(await head(site, "/cities/1"), "og:title") == "Monowi: 1 person, number 1"
