"""An open page polls: it shows every change, says truly whether it is live, and disturbs nobody."""

import asyncio
import os
import re
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from shutil import which

import pytest
from playwright.async_api import Browser, Locator, Page, Route, expect

from tests.browser.conftest import MARK, Visitor, poll, visiting
from tests.browser.steps import (
    AT_REST,
    NO_TIMERS,
    NOT_LIVE,
    PAUSED,
    TITLE,
    TWENTY,
    Fill,
    expect_cities,
    expect_values,
    in_each_browser,
    live,
    name,
    only_in_chromium,
    only_plain,
    population,
    submit,
    tab_to,
)
from tests.conftest import Addresses, run_sql

pytestmark = in_each_browser

TOKYO, DELHI = ("Tokyo", 37_400_068), ("Delhi", 28_514_000)
HIDE = "hidden => Object.defineProperty(document, 'hidden', {configurable: true, get: () => hidden})"
NEXT_END = """
() => {
  window.end = new Promise(done => document.addEventListener('htmx:finally:request', () => done(), {once: true}));
}
"""
ONLINE = "window.dispatchEvent(new Event('online'))"


@pytest.fixture
def scripts(request: pytest.FixtureRequest) -> bool:
    """With JavaScript, unless a test asks for the page without it."""
    return bool(getattr(request, "param", True))


def pause(page: Page) -> Locator:
    return page.get_by_role("button", name="Pause")


def resume(page: Page) -> Locator:
    return page.get_by_role("button", name="Resume")


def polls_of(page: Page) -> list[str]:
    """The URLs of all polls of the board that are sent from now on."""
    sent: list[str] = []
    page.on("request", lambda request: sent.append(request.url) if "/board?" in request.url else None)
    return sent


# --- every page shows every change ---


@only_in_chromium  # in Firefox, tabs take long
async def test_a_change_shows_on_all_of_eight_tabs(visitor: Visitor, fill: Fill) -> None:
    await fill(TOKYO)
    tabs = [visitor.page, *[await visitor.page.context.new_page() for _ in range(7)]]
    for tab in tabs:
        await tab.goto(visitor.url)
    await fill(DELHI)
    for tab in tabs:
        await expect_cities(tab, "Tokyo", "Delhi")
        await expect(live(tab)).to_be_visible()


async def test_a_page_of_the_history_shows_the_present_board(visitor: Visitor, fill: Fill) -> None:
    await visitor.open()
    await fill(TOKYO)
    await poll(visitor.page)
    await expect_cities(visitor.page, "Tokyo")
    await visitor.open("/api")
    await visitor.page.go_back()
    await expect_cities(visitor.page, "Tokyo")


async def test_the_page_of_a_city_is_fetched_again_when_it_is_seen_again(visitor: Visitor, fill: Fill) -> None:
    await fill(DELHI)
    await visitor.open()
    await visitor.page.get_by_role("link", name="Delhi").click()
    await expect(visitor.page.locator("#city .hero")).to_contain_text("Number 1 of 1")
    await expect(visitor.page.locator(".poll")).to_have_attribute("hx-trigger", re.compile("^every 30s,"))
    await visitor.page.evaluate(HIDE, True)
    await fill(TOKYO)
    await poll(visitor.page)
    await expect(visitor.page.locator("#city .hero")).to_contain_text("Number 1 of 1")
    await visitor.page.evaluate(HIDE, False)
    await poll(visitor.page)
    await expect(visitor.page.locator("#city .hero")).to_contain_text("Number 2 of 2")
    await expect(visitor.page).to_have_title("Delhi: 28,514,000 people, number 2 - cityweb")


# --- nobody is disturbed ---


async def test_a_poll_leaves_the_form_its_words_its_caret_and_the_place_on_the_page(
    visitor: Visitor, fill: Fill
) -> None:
    await fill(*TWENTY)
    page = visitor.page
    await page.set_viewport_size({"width": 400, "height": 500})
    await visitor.open()
    await population(page).fill("5")
    await name(page).click()
    await page.keyboard.type("Osxka")
    await page.keyboard.press("ArrowLeft")
    await page.keyboard.press("ArrowLeft")
    await page.evaluate("scrollTo(0, 300)")
    seen = await page.get_by_role("link", name="City 9").bounding_box()
    await fill(TOKYO)
    await poll(page)
    await expect(page.locator("#board tr[id] bdi").first).to_have_text("Tokyo")
    await page.evaluate(AT_REST)
    now = await page.get_by_role("link", name="City 9").bounding_box()
    assert now and seen
    assert abs(now["y"] - seen["y"]) < 1
    await expect(name(page)).to_be_focused()
    await page.keyboard.press("Backspace")
    await page.keyboard.type("a")
    await expect_values(page, "Osaka", "5")
    await expect(page.locator("#status")).to_be_empty()


async def test_no_row_moves_under_a_pressed_pointer(visitor: Visitor, fill: Fill) -> None:
    await fill(DELHI)
    await visitor.open()
    await visitor.page.get_by_role("columnheader", name="City").hover()  # a pressed row would be a click
    await visitor.page.mouse.down()
    await fill(TOKYO)
    await poll(visitor.page)
    await poll(visitor.page)
    await expect_cities(visitor.page, "Delhi")
    await visitor.page.mouse.up()
    await poll(visitor.page)
    await expect_cities(visitor.page, "Tokyo", "Delhi")


async def test_changes_wait_while_text_of_the_board_is_selected_and_the_page_says_so(
    visitor: Visitor, fill: Fill
) -> None:
    await fill(DELHI)
    await visitor.open()
    await visitor.page.locator("#board tr[id] bdi").evaluate("name => getSelection().selectAllChildren(name)")
    await poll(visitor.page)
    await expect(live(visitor.page)).to_be_visible()
    await fill(TOKYO)
    await expect(visitor.page.locator("#not-live")).to_have_text("Changes wait while text is selected.")
    await expect(live(visitor.page)).not_to_be_visible()
    await expect_cities(visitor.page, "Delhi")
    await visitor.page.get_by_role("heading", level=1).click()
    await poll(visitor.page)
    await expect_cities(visitor.page, "Tokyo", "Delhi")
    await expect(live(visitor.page)).to_be_visible()


# --- paused ---


async def test_updates_are_paused_and_resumed_in_place_by_keyboard(visitor: Visitor, fill: Fill) -> None:
    page, keyboard = visitor.page, visitor.page.keyboard
    await page.add_init_script(NO_TIMERS)
    await fill(DELHI)
    await visitor.open()
    await submit(page, "Osaka", "many")
    await expect(page).to_have_title(f"Error: {TITLE}")
    await page.evaluate("document.querySelector('#city-form').mark = true")
    await tab_to(pause(page), "Shift+Tab")
    await keyboard.press("Enter")
    await expect(resume(page)).to_be_focused()
    await expect(page.locator("#not-live")).to_have_text(PAUSED)
    await expect(live(page)).not_to_be_visible()
    await fill(TOKYO)
    polls = polls_of(page)
    await page.evaluate(ONLINE)
    await expect_cities(page, "Delhi")
    assert polls == []
    async with page.expect_request("**/board?*"):
        await keyboard.press("Enter")
    await expect(pause(page)).to_be_focused()
    await expect(live(page)).to_be_visible()
    await expect(page.locator("#not-live")).to_be_empty()
    await expect_cities(page, "Tokyo", "Delhi")
    await expect_values(page, "Osaka", "many")
    await expect(page).to_have_title(f"Error: {TITLE}")
    assert await page.evaluate("document.querySelector('#city-form').mark")


async def test_an_add_on_a_paused_page_leaves_it_paused(visitor: Visitor) -> None:
    await visitor.open("/?live=off")
    await submit(visitor.page, "Delhi", "28514000")
    await expect_cities(visitor.page, "Delhi")
    await expect(visitor.page.locator("#not-live")).to_have_text("Paused. Resume live updates")
    await expect(live(visitor.page)).not_to_be_visible()


async def test_an_add_on_a_page_that_was_paused_in_place_shows_and_leaves_it_paused(visitor: Visitor) -> None:
    await visitor.open()
    await pause(visitor.page).click()
    await submit(visitor.page, "Delhi", "28514000")
    await expect_cities(visitor.page, "Delhi")
    await expect(visitor.page.locator("#not-live")).to_have_text(PAUSED)
    await expect(live(visitor.page)).not_to_be_visible()


# --- a change shows what changed ---

MOVES = """
() => document.getAnimations().filter(({ effect }) => effect.target.matches?.('tr')).map(({ effect }) =>
  [effect.target.querySelector('bdi').textContent, Object.keys(effect.getKeyframes()[0]).includes('translate')])
"""
PAUSE_MOTION = (
    "Element.prototype.animate = new Proxy(Element.prototype.animate, { apply: (animate, row, [frames]) =>"
    " animate.call(row, frames, 100_000) })"
)


async def test_rows_move_to_their_new_places_and_a_new_row_fades_in(visitor: Visitor, fill: Fill) -> None:
    await visitor.page.add_init_script(PAUSE_MOTION)
    await fill(DELHI, ("Osaka", 19_281_000))
    await visitor.open()
    await fill(TOKYO)
    await poll(visitor.page)
    await expect_cities(visitor.page, "Tokyo", "Delhi", "Osaka")
    assert await visitor.page.evaluate(MOVES) == [["Tokyo", False], ["Delhi", True], ["Osaka", True]]


@only_in_chromium  # Firefox's driver cannot ask for reduced motion
async def test_with_reduced_motion_nothing_moves_and_what_changed_has_an_edge(
    visitor: Visitor, fill: Fill, empty: Addresses
) -> None:
    await visitor.page.emulate_media(reduced_motion="reduce")
    await visitor.page.add_init_script(PAUSE_MOTION)
    await fill(DELHI, TOKYO)
    await visitor.open()
    await run_sql(empty.owner, "UPDATE cities SET population = 50000000 WHERE name = 'Delhi'")
    await expect_cities(visitor.page, "Delhi", "Tokyo")
    assert await visitor.page.evaluate(MOVES) == []
    await expect(visitor.page.locator("tr.changed bdi")).to_have_text(["Delhi"])


async def test_a_change_is_announced_once_and_ones_own_is_not_announced_twice(visitor: Visitor, fill: Fill) -> None:
    change = visitor.page.locator("#change")
    await fill(DELHI)
    await visitor.open()
    await fill(TOKYO)
    await poll(visitor.page)
    await expect(change).to_have_text("Tokyo is now number 1.")
    await fill(*TWENTY)
    await poll(visitor.page)
    await expect(change).to_have_text("City 1 is now number 3, and 17 more changed.")
    await submit(visitor.page, "Osaka", "19,281,000")
    await expect(visitor.page.locator("#status")).to_contain_text("Osaka is number 4")
    await expect(change).to_have_text("City 1 is now number 3, and 17 more changed.")


async def test_the_focused_row_keeps_the_focus_and_stays_in_view(visitor: Visitor, fill: Fill) -> None:
    await fill(*TWENTY)
    page = visitor.page
    await page.set_viewport_size({"width": 1000, "height": 400})
    await visitor.open()
    await tab_to(page.get_by_role("link", name="City 3", exact=True))
    await fill(*((f"Bigger {n}", 50_000_000 + n) for n in range(10)))
    await poll(page)
    await expect(page.locator("#board tr[id] bdi").nth(12)).to_have_text("City 3")
    await expect(page.get_by_role("link", name="City 3", exact=True)).to_be_focused()
    await expect(page.get_by_role("link", name="City 3", exact=True)).to_be_in_viewport()


async def test_a_poll_without_a_change_leaves_the_scroll_position_alone(visitor: Visitor, fill: Fill) -> None:
    await fill(*TWENTY)
    page = visitor.page
    await page.set_viewport_size({"width": 1000, "height": 400})
    await visitor.open()
    await poll(page)
    await tab_to(page.get_by_role("link", name="City 3", exact=True))
    # Half of the focused row is above the screen.
    await page.evaluate("scrollBy(0, document.activeElement.closest('tr').getBoundingClientRect().top + 22)")
    at = await page.evaluate("scrollY")
    await poll(page)
    assert await page.evaluate("scrollY") == at


async def test_where_the_focused_row_leaves_the_board_the_one_in_its_place_gets_the_focus(
    visitor: Visitor, fill: Fill
) -> None:
    await fill(*TWENTY)
    await visitor.open()
    await tab_to(visitor.page.get_by_role("link", name="City 20"))
    await fill(TOKYO)
    await poll(visitor.page)
    await expect(visitor.page.get_by_role("link", name="City 19")).to_be_focused()


# --- one's own add ---


async def test_a_poll_that_began_before_an_add_does_not_take_it_away(visitor: Visitor) -> None:
    held, added = asyncio.Event(), asyncio.Event()

    async def hold(route: Route) -> None:
        response = await route.fetch()
        held.set()
        await added.wait()
        await route.fulfill(response=response)

    await visitor.page.add_init_script(NO_TIMERS)
    await visitor.open()
    await poll(visitor.page)
    # With the id of another board the response is the whole fragment.
    await visitor.page.locator("[name=seen]").evaluate("field => { field.value = '0' }")
    await visitor.page.route("**/board?*", hold)
    await visitor.page.evaluate(ONLINE)
    await held.wait()
    await submit(visitor.page, "Delhi", "28514000")
    await expect_cities(visitor.page, "Delhi")
    await visitor.page.evaluate(NEXT_END)
    added.set()
    await visitor.page.evaluate("end")
    await expect_cities(visitor.page, "Delhi")


async def test_a_process_that_is_behind_does_not_take_ones_own_add_away(visitor: Visitor) -> None:
    await visitor.open()
    behind = await visitor.page.request.get(f"{visitor.url}/board")
    board = await behind.text()
    await visitor.page.route("**/board?*", lambda route: route.fulfill(content_type="text/html", body=board))
    await submit(visitor.page, "Delhi", "28514000")
    await expect_cities(visitor.page, "Delhi")
    await poll(visitor.page)
    await expect_cities(visitor.page, "Delhi")


# --- the state is true ---


async def test_a_page_that_is_offline_says_so_and_is_live_again_by_itself(visitor: Visitor, fill: Fill) -> None:
    await visitor.page.add_init_script(NO_TIMERS)
    await visitor.open()
    await poll(visitor.page)
    await visitor.page.context.set_offline(True)
    await poll(visitor.page)
    await expect(live(visitor.page)).to_be_visible()
    await poll(visitor.page)
    await expect(visitor.page.locator("#not-live")).to_have_text(NOT_LIVE)
    await expect(live(visitor.page)).not_to_be_visible()
    await fill(TOKYO)
    await visitor.page.context.set_offline(False)
    await expect_cities(visitor.page, "Tokyo")
    await expect(visitor.page.locator("#not-live")).to_be_empty()
    await expect(live(visitor.page)).to_be_visible()


async def test_a_hidden_page_asks_nothing_and_asks_at_once_when_it_is_seen(visitor: Visitor, fill: Fill) -> None:
    await visitor.page.add_init_script(NO_TIMERS)
    await visitor.open()
    await poll(visitor.page)
    await visitor.page.evaluate(HIDE, True)
    await fill(TOKYO)
    polls = polls_of(visitor.page)
    await poll(visitor.page)
    await expect_cities(visitor.page)
    assert polls == []
    await visitor.page.evaluate(HIDE, False)
    await poll(visitor.page)
    await expect_cities(visitor.page, "Tokyo")
    await expect(live(visitor.page)).to_be_visible()


async def test_a_browser_that_was_stopped_is_live_again_when_it_continues(visitor: Visitor, fill: Fill) -> None:
    await visitor.open()
    groups = groups_marked()
    assert groups and os.getpgrp() not in groups
    for group in groups:
        os.killpg(group, signal.SIGSTOP)
    await fill(TOKYO)
    await asyncio.sleep(3)  # as long as it takes until a poll is missed
    for group in groups:
        os.killpg(group, signal.SIGCONT)
    await expect_cities(visitor.page, "Tokyo")
    await expect(live(visitor.page)).to_be_visible()


def groups_marked() -> set[int]:
    """The process groups of the browser, by the mark in the environment of its processes."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended, or is another user's
            if f"MARK={MARK}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                found.add(os.getpgid(int(folder.name)))
    return found


@only_plain
async def test_where_no_script_runs_the_page_does_not_call_itself_live(visitor: Visitor, fill: Fill) -> None:
    await fill(TOKYO)
    await visitor.open()
    await expect(live(visitor.page)).not_to_be_visible()
    await expect(visitor.page.locator("noscript p")).to_be_visible()
    await expect(visitor.page.locator("noscript p")).to_have_text("Reload the page to see changes.")
    await expect(pause(visitor.page)).not_to_be_visible()


# --- behind a proxy ---

NGINX = """
daemon off; master_process off; pid {folder}/pid; error_log stderr;
events {{}}
http {{
  access_log off; client_body_temp_path {folder}/1; proxy_temp_path {folder}/2;
  fastcgi_temp_path {folder}/3; uwsgi_temp_path {folder}/4; scgi_temp_path {folder}/5;
  server {{
    listen 127.0.0.1:{port}; keepalive_timeout 1s;
    location / {{ proxy_pass {url}; proxy_set_header Host $http_host; }}
  }}
}}
"""


@asynccontextmanager
async def nginx(url: str, folder: Path) -> AsyncIterator[str]:
    """The URL of nginx before a server, with its default buffering; idle connections are cut after a second."""
    program = which("nginx")
    if not program:
        pytest.skip("no nginx is installed")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (folder / "conf").write_text(NGINX.format(folder=folder, port=port, url=url))
    process = await asyncio.create_subprocess_exec(
        program, "-p", str(folder), "-e", "stderr", "-c", str(folder / "conf")
    )
    try:
        async with asyncio.timeout(5):
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port)).close()
                    break
                except ConnectionRefusedError:
                    await asyncio.sleep(0.01)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        await process.wait()


async def test_the_page_is_live_behind_a_proxy_that_buffers_and_cuts_idle_connections(
    browser: Browser, visitor: Visitor, fill: Fill, tmp_path: Path
) -> None:
    async with nginx(visitor.url, tmp_path) as url, visiting(browser, url) as proxied:
        await proxied.open()
        await poll(proxied.page)
        await fill(TOKYO)
        # By the timer: its poll finds that the connection was cut.
        await expect_cities(proxied.page, "Tokyo")
        await submit(proxied.page, "Delhi", "28,514,000")
        await expect_cities(proxied.page, "Tokyo", "Delhi")
        await expect(live(proxied.page)).to_be_visible()
