"""The files that browsers and crawlers ask for by name."""

from datetime import UTC, datetime, timedelta
from urllib.robotparser import RobotFileParser
from xml.etree import ElementTree as ET

import pytest

from tests.conftest import FILL, Addresses, Site, open_site, run_sql
from tests.pages import ORIGIN, PAGES, add, one, parse

LOC = "{http://www.sitemaps.org/schemas/sitemap/0.9}loc"
PUBLIC = "testserver,cities.example.com"


async def urls(site: Site) -> list[str | None]:
    answer = await site.client.get("/sitemap.xml")
    assert answer.headers["content-type"] == "application/xml"
    return [url.text for url in ET.fromstring(answer.content).iter(LOC)]


async def test_robots_find_all_pages_and_the_sitemap_but_no_downloads(site: Site) -> None:
    answer = await site.client.get("/robots.txt")
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    robots = RobotFileParser()
    robots.parse(answer.text.splitlines())
    found = [*PAGES, "/cities/1.json", "/feed.atom", "/openapi.json", "/static/site.css", "/static/share.png"]
    assert [path for path in found if not robots.can_fetch("bot", path)] == []
    left_out = ["/board?seen=0", "/cities.csv", "/cities-excel.csv", "/cities.json"]
    assert [path for path in left_out if robots.can_fetch("bot", path)] == []
    assert robots.site_maps() == [f"{ORIGIN}/sitemap.xml"]


async def test_the_sitemap_names_the_board_the_list_and_the_biggest_cities(site: Site, empty: Addresses) -> None:
    await run_sql(empty.owner, FILL.format(population="n", first=1, last=1_100))
    found = await urls(site)
    assert found[:3] == [f"{ORIGIN}/", f"{ORIGIN}/cities", f"{ORIGIN}/cities/1100"]
    assert found[-1] == f"{ORIGIN}/cities/101"
    assert len(found) == 1_002


async def test_an_empty_sitemap_names_the_board_and_the_list(site: Site) -> None:
    assert await urls(site) == [f"{ORIGIN}/", f"{ORIGIN}/cities"]


async def test_the_cities_of_the_sitemap_are_read_at_most_once_a_minute(site: Site) -> None:
    await add(site.client, "json", "Paris", 5)
    assert len(await urls(site)) == 3
    await add(site.client, "json", "Tokyo", 9)
    assert len(await urls(site)) == 3
    site.biggest.read_at -= 60
    assert (await urls(site))[2:] == [f"{ORIGIN}/cities/2", f"{ORIGIN}/cities/1"]


async def test_robots_and_sitemap_have_the_public_name(empty: Addresses) -> None:
    async with open_site(empty.app, CITYWEB_HOSTS=PUBLIC) as site:
        assert "Sitemap: https://cities.example.com/sitemap.xml" in (await site.client.get("/robots.txt")).text
        assert (await urls(site))[0] == "https://cities.example.com/"


@pytest.mark.parametrize(
    ("path", "kind", "beginning"),
    [("/favicon.ico", "image/x-icon", b"\0\0\1\0"), ("/apple-touch-icon.png", "image/png", b"\x89PNG")],
)
async def test_an_icon_is_at_the_root(site: Site, path: str, kind: str, beginning: bytes) -> None:
    answer = await site.client.get(path)
    assert (answer.status_code, answer.headers["content-type"]) == (200, kind)
    assert answer.content.startswith(beginning)
    assert len(answer.content) < 5_000


async def test_the_manifest_leads_to_the_board_and_its_icons_are_there(site: Site) -> None:
    answer = await site.client.get(
        str(one(parse((await site.client.get("/")).text), "link[rel=manifest]").attrs["href"])
    )
    assert answer.headers["content-type"] == "application/manifest+json"
    manifest = answer.json()
    assert (manifest["name"], manifest["start_url"]) == ("cityweb", "/")
    for icon in manifest["icons"]:
        assert (await site.client.get(icon["src"])).headers["content-type"] == icon["type"]


async def test_without_a_contact_there_is_no_security_txt(site: Site) -> None:
    assert (await site.client.get("/.well-known/security.txt")).status_code == 404


@pytest.mark.parametrize(
    ("contact", "url"),
    [
        ("security@example.com", "mailto:security@example.com"),
        ("mailto:a.b+c@sub.example.com", "mailto:a.b+c@sub.example.com"),
        ("https://example.com/contact?about=cities", "https://example.com/contact?about=cities"),
        ("https://example.com/@operator", "https://example.com/@operator"),
    ],
)
async def test_security_txt_says_whom_to_tell(empty: Addresses, contact: str, url: str) -> None:
    async with open_site(empty.app, CITYWEB_CONTACT=contact, CITYWEB_HOSTS=PUBLIC) as site:
        answer = await site.client.get("/.well-known/security.txt")
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    fields = dict(line.split(": ", 1) for line in answer.text.splitlines())
    assert fields["Contact"] == url
    assert fields["Canonical"] == "https://cities.example.com/.well-known/security.txt"
    # RFC 9116, 2.5.5: required, and best less than a year away.
    left = datetime.fromisoformat(fields["Expires"]) - datetime.now(UTC)
    assert timedelta(days=30) < left < timedelta(days=365)
