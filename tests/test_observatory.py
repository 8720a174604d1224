"""The rules of MDN's HTTP Observatory on what is served behind TLS; `make observatory` asks the scanner itself.

As in its version 1.4.8, src/analyzer/tests and src/grader/charts.js, for what we serve: 100 points, and more for what
is done better than well. What the scanner would take points for scores less than zero here, however much less.
"""

import re
from collections.abc import Callable, Iterator

import httpx
import pytest

from tests.conftest import Addresses, Server, serving
from tests.pages import HTMX, parse

HTTPS = {"x-forwarded-proto": "https"}
SIX_MONTHS = 15_768_000
BAD = -5


@pytest.fixture(scope="module")
def client(postgres: Addresses, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """Asks a server as the proxy does that ends TLS before it."""
    with serving(postgres.app, tmp_path_factory.mktemp("behind") / "log") as start:
        running: Server = start(CITYWEB_TRUSTED_PROXIES="127.0.0.1")
        with httpx.Client(base_url=running.url, headers=HTTPS) as client:
            yield client


def csp(answer: httpx.Response) -> int:
    """10 for a policy that begins with nothing, allows nothing unsafe and says where forms go."""
    directives = [directive.split() for directive in answer.headers.get("content-security-policy", "").split(";")]
    policy = {name: sources for name, *sources in filter(None, directives)}
    safe = len(policy) == len(directives) and {source for sources in policy.values() for source in sources} <= SAFE
    none = policy.get("default-src") == ["'none'"]
    return 10 if safe and none and {"form-action", "base-uri"} <= policy.keys() else BAD


SAFE = {"'none'", "'self'"}


def cookies(answer: httpx.Response) -> int:
    """Nothing to gain by having none, and nothing to lose."""
    return BAD if "set-cookie" in answer.headers else 0


def cors(answer: httpx.Response) -> int:
    """Nobody else may read what is here."""
    return BAD if any(name.startswith("access-control-") for name in answer.headers) else 0


def redirection(answer: httpx.Response) -> int:
    """We listen to no http of our own: where it is answered, the proxy leads on. And no redirection leaves https."""
    return BAD if answer.headers.get("location", "/").startswith(("//", "http:")) else 0


def referrer_policy(answer: httpx.Response) -> int:
    private = {"no-referrer", "same-origin", "strict-origin", "strict-origin-when-cross-origin"}
    return 5 if answer.headers.get("referrer-policy") in private else BAD


def hsts(answer: httpx.Response) -> int:
    """More only for who is in the browsers' own list, which is the domain's owner to decide: no `preload` here."""
    age = re.fullmatch(r"max-age=([0-9]+); includeSubDomains", answer.headers.get("strict-transport-security", ""))
    return 0 if age and int(age[1]) >= SIX_MONTHS else BAD


def subresource_integrity(answer: httpx.Response) -> int:
    """5 where every script of a page is our own and named with its hash."""
    if not answer.headers["content-type"].startswith("text/html"):
        return 0
    scripts = parse(answer.text).select("script")
    ours = [script for script in scripts if re.match("/[^/]", str(script.get("src", "")))]
    if len(ours) < len(scripts):
        return BAD
    return 5 if any(script.get("integrity") for script in ours) else 0


def x_content_type_options(answer: httpx.Response) -> int:
    return 0 if answer.headers.get("x-content-type-options") == "nosniff" else BAD


def x_frame_options(answer: httpx.Response) -> int:
    """5 where the policy says it too."""
    if "frame-ancestors 'none'" in answer.headers.get("content-security-policy", ""):
        return 5
    return 0 if answer.headers.get("x-frame-options") == "DENY" else BAD


def cross_origin_resource_policy(answer: httpx.Response) -> int:
    return 10 if answer.headers.get("cross-origin-resource-policy") in {"same-site", "same-origin"} else BAD


RULES: list[Callable[[httpx.Response], int]] = [
    csp, cookies, cors, redirection, referrer_policy, hsts, subresource_integrity, x_content_type_options,
    x_frame_options, cross_origin_resource_policy,
]  # fmt: skip


def points(answer: httpx.Response) -> dict[str, int]:
    return {rule.__name__: rule(answer) for rule in RULES}


async def test_the_page_scores_at_least_130_points(client: httpx.Client) -> None:
    given = points(client.get("/"))
    assert 100 + sum(given.values()) >= 130
    assert min(given.values()) >= 0


ASKED = [
    ("GET", "/?live=off", {}), ("GET", "/cities/biggest", {}), ("GET", "/livez", {}), ("GET", "/static/site.css", {}),
    ("GET", "/nowhere", {}), ("GET", "/nowhere", {"accept": "application/json"}), ("GET", "/robots.txt", {}),
    ("DELETE", "/", {}), ("POST", "/cities/", {}), ("POST", "/cities/", HTMX), ("GET", "/", {"host": "evil.example"}),
    ("POST", "/cities/", {"origin": "https://evil.example"}), ("GET", "/", {"x": 16_384 * "x"}),
    ("OPTIONS", "/", {"access-control-request-method": "GET", "origin": "https://http-observatory.security.mozilla.org"}),
]  # fmt: skip


@pytest.mark.parametrize(("method", "address", "headers"), ASKED)
async def test_no_answer_fails_a_rule(client: httpx.Client, method: str, address: str, headers: dict[str, str]) -> None:
    assert min(points(client.request(method, address, headers=headers)).values()) >= 0


SAFE_FORMS = "form-action 'self'; base-uri 'none'"
WORSE = [
    ("csp", {"content-security-policy": f"default-src 'none'; script-src 'self' 'unsafe-inline'; {SAFE_FORMS}"}),
    ("csp", {"content-security-policy": f"default-src 'self'; {SAFE_FORMS}"}),
    ("csp", {"content-security-policy": f"default-src 'none'; img-src https:; {SAFE_FORMS}"}),
    ("csp", {"content-security-policy": "default-src 'none'"}),
    ("csp", {}),
    ("cookies", {"set-cookie": "a=b"}),
    ("cors", {"access-control-allow-origin": "*"}),
    ("redirection", {"location": "http://example.com/"}),
    ("referrer_policy", {"referrer-policy": "unsafe-url"}),
    ("hsts", {"strict-transport-security": "max-age=3600; includeSubDomains"}),
    ("x_content_type_options", {"x-content-type-options": "sniff"}),
    ("x_frame_options", {"x-frame-options": "ALLOW-FROM https://example.com"}),
    ("cross_origin_resource_policy", {"cross-origin-resource-policy": "cross-origin"}),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "headers"), WORSE)
def test_what_is_worse_would_lose_points(rule: str, headers: dict[str, str]) -> None:
    assert points(httpx.Response(200, headers={"content-type": "text/html", **headers}))[rule] < 0


@pytest.mark.parametrize("script", ["<script>x</script>", "<script src='//x.example/x.js'></script>"])
def test_a_script_of_others_would_lose_points(script: str) -> None:
    assert subresource_integrity(httpx.Response(200, html=script)) < 0
