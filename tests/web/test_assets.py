"""The static files: for how long each address may be kept, and that every asset which a page names is there."""

from pathlib import Path

import pytest
from starlette.types import Message

from cityweb.web.assets import STATIC, Assets
from cityweb.web.prepared import PreparedResponse
from tests.conftest import Site
from tests.pages import parse

IMMUTABLE = "public, max-age=31536000, immutable"
FILES = sorted(path.name for path in STATIC.iterdir())


async def fetch(answer: PreparedResponse | None) -> tuple[dict[str, str], bytes]:
    """The headers and the bytes of an answer."""
    assert answer
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        raise AssertionError("nobody reads the body of this request")

    await answer({"type": "http", "method": "GET", "headers": []}, receive, send)
    start, body = sent
    return {name.decode(): value.decode() for name, value in start["headers"]}, body["body"]


@pytest.fixture(scope="module")
def assets() -> Assets:
    return Assets()


@pytest.mark.parametrize("name", FILES)
async def test_a_file_is_sent_as_it_is(assets: Assets, name: str) -> None:
    assert (await fetch(assets.find(name, "")))[1] == (STATIC / name).read_bytes()


@pytest.mark.parametrize("name", FILES)
async def test_the_address_with_the_fingerprint_is_kept_for_a_year(assets: Assets, name: str) -> None:
    headers, _ = await fetch(assets.find(name, assets.fingerprints[name]))
    assert headers["cache-control"] == IMMUTABLE


@pytest.mark.parametrize("fingerprint", ["", "0123456789ab", "site.css", "\x00", "é"])
async def test_without_the_right_fingerprint_a_copy_is_asked_for_again(assets: Assets, fingerprint: str) -> None:
    headers, body = await fetch(assets.find("site.css", fingerprint))
    assert (headers["cache-control"], body) == ("no-cache", (STATIC / "site.css").read_bytes())


async def test_the_fingerprint_of_another_file_is_not_the_right_one(assets: Assets) -> None:
    headers, _ = await fetch(assets.find("site.css", assets.fingerprints["app.js"]))
    assert headers["cache-control"] == "no-cache"


async def test_a_copy_that_is_asked_for_again_has_an_etag(assets: Assets) -> None:
    assert (await fetch(assets.find("site.css", "")))[0]["etag"]


@pytest.mark.parametrize("name", ["", "nowhere.css", "../manage.py", "..", ".", "\x00", "SITE.CSS"])
@pytest.mark.parametrize("fingerprint", ["", "0123456789ab"])
def test_what_is_not_in_the_folder_is_not_found(assets: Assets, name: str, fingerprint: str) -> None:
    assert assets.find(name, fingerprint) is None


def test_a_fingerprint_changes_with_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "site.css").write_text("a { color: red }")
    before = Assets(tmp_path).fingerprints["site.css"]
    (tmp_path / "site.css").write_text("a { color: blue }")
    assert Assets(tmp_path).fingerprints["site.css"] != before


def test_equal_bytes_have_equal_fingerprints_in_every_process() -> None:
    assert Assets().fingerprints == Assets().fingerprints


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("site.css", "text/css; charset=utf-8"),
        ("app.js", "text/javascript; charset=utf-8"),
        ("htmx-4.0.1.min.js", "text/javascript; charset=utf-8"),
        ("favicon.svg", "image/svg+xml"),
        ("share.png", "image/png"),
        ("htmx-4.0.1.LICENSE.txt", "text/plain; charset=utf-8"),
    ],
)
async def test_a_file_says_what_it_is(assets: Assets, name: str, kind: str) -> None:
    assert (await fetch(assets.find(name, "")))[0]["content-type"] == kind


@pytest.mark.parametrize("name", FILES)
async def test_every_file_is_of_a_known_kind(assets: Assets, name: str) -> None:
    assert (await fetch(assets.find(name, "")))[0]["content-type"] != "application/octet-stream"


async def test_a_file_of_an_unknown_kind_is_only_bytes(tmp_path: Path) -> None:
    (tmp_path / "board.xyz").write_bytes(b"\x00")
    assert (await fetch(Assets(tmp_path).find("board.xyz", "")))[0]["content-type"] == "application/octet-stream"


# --- what the page names ---


NAMED = ["favicon.svg", "site.css", "htmx-4.0.1.min.js", "app.js"]


async def test_every_asset_that_the_page_names_is_there_and_kept_for_a_year(site: Site) -> None:
    page = parse((await site.client.get("/")).text)
    tags = page.css("link[rel=icon], link[rel=stylesheet], [src]")
    named = [str(tag.attrs.get("href") or tag.attrs["src"]) for tag in tags]
    answers = [await site.client.get(address) for address in named]
    assert [address.partition("?")[0].removeprefix("/static/") for address in named] == NAMED
    assert {(answer.status_code, answer.headers["cache-control"]) for answer in answers} == {(200, IMMUTABLE)}


async def test_an_error_page_names_the_same_assets(site: Site) -> None:
    def named(document: str) -> list[str]:
        return [
            str(tag.attrs.get("href") or tag.attrs["src"])
            for tag in parse(document).css("link:not([rel=canonical]), script")
        ]

    page, error = await site.client.get("/"), await site.client.get("/nowhere", headers={"accept": "text/html"})
    assert named(page.text) == named(error.text)


@pytest.mark.parametrize("address", ["/static/site.css", "/static/site.css?v=", "/static/site.css?v=0123456789ab"])
async def test_an_address_without_the_right_fingerprint_is_asked_for_each_time(site: Site, address: str) -> None:
    assert (await site.client.get(address)).headers["cache-control"] == "no-cache"


async def test_a_first_visit_weighs_at_most_30_kb_and_its_page_4(site: Site) -> None:
    page = await site.client.get("/")
    named = [
        str(tag.attrs.get("href") or tag.attrs["src"])
        for tag in parse(page.text).css("link:not([rel=canonical]), script")
    ]
    weights = [int((await site.client.get(address)).headers["content-length"]) for address in ["/", *named]]
    assert weights[0] <= 4_000
    assert sum(weights) <= 30_000
