"""Reads responses: their security headers, and the content of the parsed document."""

from dataclasses import dataclass, field

import httpx
from selectolax.lexbor import LexborHTMLParser, LexborNode

from cityweb.submissions import ENTERED
from cityweb.web.app import ROUTES, url_for
from cityweb.web.templates import Templates

WAYS = ("plain", "htmx", "json")
NO_PAGES = {
    "add_city", "check_health", "check_readiness", "describe_api", "export_csv", "export_excel", "export_json",
    "list_biggest", "list_country_names", "show_asset", "show_city_json", "show_feed", "show_fragment", "show_icon",
    "show_manifest", "show_robots", "show_security", "show_sitemap", "show_changes_feed", "remove_city",
    "revert_change",
}  # fmt: skip
"""The routes whose response to GET is no page for people, or the page of another route."""
PAGES = [route.path_format.format(id=1) for route in ROUTES if route.name not in NO_PAGES]
BESIDE_THE_BOARD = sorted({*PAGES} - {"/"})


ORIGIN = "http://localhost:8000"
"""The beginning of absolute URLs where no public name is set, and nobody said where the server listens."""


def asset(name: str) -> str:
    return f"/static/{name}?v=1"


TEMPLATES = Templates(url_for, asset)
HTMX = {"hx-request": "true", "hx-request-type": "partial"}

SECURITY = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self';"
        " manifest-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
HSTS = {"strict-transport-security": "max-age=63072000; includeSubDomains"}
OTHERS = {
    "accept-encoding", "allow", "cache-control", "connection", "content-encoding", "content-length", "content-type",
    "etag", "last-modified", "location", "retry-after", "vary",
}  # fmt: skip
"""The headers that describe a single response: every other header must be a security header."""


def parse(html: str) -> LexborNode:
    """The element `html` of a document, as a browser parses it."""
    root = LexborHTMLParser(html).root
    assert root
    return root


def one(document: LexborNode, selector: str) -> LexborNode:
    """The only element that a selector matches."""
    (element,) = document.css(selector)
    return element


def text(element: LexborNode) -> str:
    return " ".join(element.text().split())


def table(document: LexborNode) -> list[tuple[str, str, str]]:
    """The rank, the city and the population of each ranked city in a document."""
    rows = document.css("tbody tr")
    return [(text(one(row, ".rank")), text(one(row, "bdi")), text(one(row, ".number")).split()[-1]) for row in rows]


@dataclass(frozen=True)
class Outcome:
    """The outcome of a submission in one of `WAYS`: `errors` by field, and the entered values that are `kept`."""

    status: int
    city_id: int | None = None
    errors: dict[str, str] = field(default_factory=dict)
    kept: dict[str, str] = field(default_factory=dict)


async def add(client: httpx.AsyncClient, way: str, name: object, population: object, **others: object) -> Outcome:
    """Submits a city in one of `WAYS`."""
    fields = {"name": name, "population": population, **others}
    if way == "json":
        return _from_json(await client.post("/cities/", json=fields))
    headers = HTMX if way == "htmx" else {}
    response = await client.post("/cities/", data=fields, headers=headers)
    if response.status_code == 303:
        return Outcome(201, int(response.headers["location"].removeprefix("/?added=")))
    document = parse(response.text)
    if response.status_code == 200:
        whole = ", ".join(filter(None, (str(name), str(others.get("place", "")))))
        (row_id,) = [row.attrs["id"] for row in document.css("#board tr[id]") if text(one(row, "bdi")) == whole] or [""]
        return Outcome(201 if way == "htmx" else 200, int(str(row_id).removeprefix("city-") or 0))
    return _from_form(response.status_code, document)


def _from_json(response: httpx.Response) -> Outcome:
    document = response.json()
    if response.status_code == 201:
        return Outcome(201, document["id"])
    assert response.headers["content-type"] == "application/problem+json"
    return Outcome(response.status_code, errors=document.get("errors", {}))


def _from_form(status: int, document: LexborNode) -> Outcome:
    summary = {
        str(link.attrs["href"])[1:]: text(link)
        for link in document.css("#error-summary a[href^='#']:not([href^='#city-'])")
    }
    beside = {str(words.attrs["id"]).removesuffix("-error"): text(words) for words in document.css("#city-form .error")}
    # The summary and the field show the same message, which the field references for screen readers.
    assert {name: f"Error: {sentence}" for name, sentence in summary.items()} == beside
    assert {str(field.attrs["id"]) for field in document.css("[aria-invalid=true]")} == beside.keys()
    for name in beside:
        hint = [f"{name}-hint"] if document.css(f"#{name}-hint") else []
        assert str(one(document, f"#{name}").attrs["aria-describedby"]).split() == [*hint, f"{name}-error"]
    kept = {name: str(one(document, f"#{name}").attrs["value"]) for name in ENTERED if name != "place"}
    kept |= {str(field.attrs["id"]): str(field.attrs["value"]) for field in document.css("#place")}
    return Outcome(status, errors=summary, kept=kept)
