"""What the browser tests stand on: a server that is a process of its own, and the browsers that Debian ships."""

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from playwright.async_api import Browser, ConsoleMessage, Page, Playwright, Request, async_playwright, expect

from tests.conftest import NO_TLS, PROGRAMS, Addresses, Server, find_browser, insert, run_sql, serving

FEATURES = (
    "AvoidCorsURLLoaderRestartOnRedirect,AvoidUnnecessaryBeforeUnloadCheckSync,BlockOriginHeaderModificationOnRedirect,"
    "DestroyProfileOnBrowserClose,HttpsUpgrades,MediaRouter,NetworkTimeServiceQuerying,OptimizationHints,PaintHolding,"
    "ThirdPartyStoragePartitioning,Translate,WebUIOmniboxAimPopup,WebUIOmniboxPopup"
)
"""What Chromium does without: Playwright's list, which this replaces, and a popup that doubles the work of a page."""
QUIET = (
    "--no-sandbox",  # root needs this
    "--disable-background-networking",  # this and the next two keep Chromium from calling home
    "--disable-component-update",
    "--disable-sync",
    f"--disable-features={FEATURES}",
)

WATCH = """
addEventListener('securitypolicyviolation', e => console.error(e.violatedDirective + ' forbids ' + e.blockedURI));
"""
MARK = secrets.token_hex(4)
FAILED = ("Failed to load resource", "htmx: htmx:error")
"""How browsers and htmx report a request that failed, which is no fault of the page."""

POLL = """
() => new Promise(done => {
  document.addEventListener('htmx:finally:request', () => done(), {once: true});
  document.dispatchEvent(new Event('visibilitychange'));
})
"""

expect.set_options(timeout=10_000)


@pytest.fixture(scope="package")
async def playwright() -> AsyncIterator[Playwright]:
    async with async_playwright() as playwright:
        yield playwright


@pytest.fixture(scope="package", params=list(PROGRAMS))
async def browser(playwright: Playwright, request: pytest.FixtureRequest) -> AsyncIterator[Browser]:
    """Each of the browsers; skipped where it is not installed, but never in CI."""
    async with running(playwright, request.param) as browser:
        yield browser


@asynccontextmanager
async def running(playwright: Playwright, name: str) -> AsyncIterator[Browser]:
    """One of the browsers, as Debian ships it, in processes of its own, which have `MARK` in their environment."""
    program = find_browser(name)
    env: dict[str, str | float | bool] = {**os.environ, "MARK": MARK}
    if name == "chromium":
        browser = await playwright.chromium.launch(executable_path=program, args=QUIET, env=env)
    else:
        prefs: dict[str, str | float | bool] = {
            # Debian's Firefox speaks WebDriver BiDi, not the protocol of Playwright's own build. With BiDi, Playwright
            # gets no event for a page that comes back from the back-forward cache.
            "browser.sessionhistory.max_total_viewers": 0,
            # These make it faster: no process for each site, none in advance, and fewer frames.
            "fission.autostart": False,
            "dom.ipc.processPrelaunch.enabled": False,
            "layout.frame_rate": 20,
        }
        browser = await playwright.firefox.launch(
            executable_path=program, channel="moz-firefox", firefox_user_prefs=prefs, env=env
        )
    yield browser
    await browser.close()


@pytest.fixture(scope="package")
def one_server(postgres: Addresses, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(postgres.app, tmp_path_factory.mktemp("server") / "log") as start:
        yield start()


@pytest.fixture
async def server(one_server: Server, empty: Addresses) -> Server:  # noqa: ARG001 (it empties)
    """The server that all tests share, without a city."""
    await shows(one_server, [])
    return one_server


async def shows(server: Server, names: Sequence[str]) -> None:
    """Waits until the server's board has these names, biggest first."""
    async with httpx.AsyncClient(base_url=server.url, verify=NO_TLS) as client, asyncio.timeout(10):
        while [city["name"] for city in (await client.get("/cities/biggest")).json()] != list(names):
            await asyncio.sleep(0.05)


async def poll(page: Page) -> None:
    """Lets the page poll at once, as when it becomes visible, and waits until the poll and its swap have ended."""
    await page.evaluate(POLL)


@dataclass
class Visitor:
    """A person with a browser: `complaints` is what a page must never cause."""

    page: Page
    url: str
    complaints: list[str] = field(default_factory=list)

    async def open(self, path: str = "/") -> None:
        await self.page.goto(self.url + path)

    def heard(self, message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"} and not message.text.startswith(FAILED):
            self.complaints.append(f"{message.type}: {message.text}")

    def asked(self, request: Request) -> None:
        if not request.url.startswith((self.url, "data:")):
            self.complaints.append(f"asked {request.url}")


@asynccontextmanager
async def visiting(browser: Browser, url: str, *, scripts: bool = True, **options: Any) -> AsyncIterator[Visitor]:
    """A visitor with a fresh profile, with no complaint at the end."""
    context = await browser.new_context(java_script_enabled=scripts, **options)
    visitor = Visitor(await context.new_page(), url)
    context.on("request", visitor.asked)
    await context.add_init_script(WATCH)
    context.on("console", visitor.heard)
    context.on("weberror", lambda error: visitor.complaints.append(str(error.error)))
    yield visitor
    await context.close()
    assert visitor.complaints == []


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leaves out Firefox where a test does not depend on the browser, unless BROWSERS=all asks for it.

    It is always left out without JavaScript, which Playwright cannot turn off in Debian's Firefox.
    """
    for item in [item for item in items if "[firefox" in item.name]:
        is_wanted = os.environ.get("BROWSERS") == "all" or item.get_closest_marker("in_each_browser")
        if "plain" in item.name or not is_wanted:
            items.remove(item)


@pytest.fixture(params=[True, False], ids=["script", "plain"])
def scripts(request: pytest.FixtureRequest) -> bool:
    """With JavaScript and, in Chromium, without; a test of what only JavaScript does asks for one of them."""
    return bool(request.param)


@pytest.fixture
async def visitor(browser: Browser, server: Server, scripts: bool) -> AsyncIterator[Visitor]:
    """A visitor of the shared server."""
    async with visiting(browser, server.url, scripts=scripts) as visitor:
        yield visitor


@pytest.fixture
def fill(server: Server, empty: Addresses) -> Callable[..., Awaitable[None]]:
    """Stores cities as another program would, and waits until the server's board has them."""

    async def fill(*cities: tuple[str, int]) -> None:
        top = "SELECT name FROM cities ORDER BY population DESC, id LIMIT 20"
        rows = await run_sql(empty.app, *(insert(name, population) for name, population in cities), top)
        await shows(server, [row["name"] for row in rows])

    return fill
