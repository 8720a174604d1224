"""The static files: kept for ever at an address of their own, never at another."""

import pytest

from cityweb.assets import Assets
from tests.conftest import Site
from tests.pages import parse

IMMUTABLE = "public, max-age=31536000, immutable"


async def test_every_file_that_the_page_names_is_there_and_kept_for_ever(site: Site) -> None:
    page = parse((await site.client.get("/")).text)
    addresses = [str(tag.get("href") or tag.get("src")) for tag in page.select("link, script")]
    assert len(addresses) == 4
    answers = [await site.client.get(address) for address in addresses]
    assert [(answer.status_code, answer.headers["cache-control"]) for answer in answers] == [(200, IMMUTABLE)] * 4


@pytest.mark.parametrize("address", ["/static/site.css", "/static/site.css?v=0123456789ab"])
async def test_without_the_right_fingerprint_a_file_is_asked_for_each_time(site: Site, address: str) -> None:
    assert (await site.client.get(address)).headers["cache-control"] == "no-cache"


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("site.css", "text/css; charset=utf-8"),
        ("app.js", "text/javascript; charset=utf-8"),
        ("favicon.svg", "image/svg+xml"),
        ("htmx-4.0.1-sse.LICENSE.txt", "text/plain; charset=utf-8"),
    ],
)
async def test_a_file_has_its_type(site: Site, name: str, kind: str) -> None:
    assert (await site.client.get(f"/static/{name}")).headers["content-type"] == kind


async def test_a_first_visit_weighs_at_most_30_kb_and_its_page_4(site: Site) -> None:
    page = await site.client.get("/")
    addresses = [str(tag.get("href") or tag.get("src")) for tag in parse(page.text).select("link, script")]
    weights = [int((await site.client.get(address)).headers["content-length"]) for address in ["/", *addresses]]
    assert weights[0] <= 4_000
    assert sum(weights) <= 30_000


def test_an_unknown_file_is_none() -> None:
    assert Assets().find("nowhere.css", "") is None
