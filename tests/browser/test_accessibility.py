"""What axe-core asks of every state of the pages, in every mode, and what a page may take of room, time and wire."""

from collections.abc import AsyncIterator

import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Browser, expect

from tests.browser.conftest import Visitor, poll, visiting
from tests.browser.steps import (
    AT_REST,
    NO_TIMERS,
    NOT_LIVE,
    PAUSED,
    RULES,
    STALE,
    TWENTY,
    UNREACHED,
    Fill,
    StartServer,
    expect_accessible,
    expect_room,
    landed,
    name,
    narrow,
    population,
    submit,
)
from tests.conftest import Addresses, Server, insert, ready, run_sql
from tests.pages import PAGES
from tests.proxy import Proxy

pytestmark = pytest.mark.parametrize("browser", ["chromium"], indirect=True)

LONGEST = "W" * 200

SUM_SHIFTS = """
window.shift = 0;
new PerformanceObserver(list => list.getEntries().forEach(entry => { window.shift += entry.value }))
  .observe({type: 'layout-shift', buffered: true});
"""
TWO_FRAMES_LATER = """
new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(window.shift))))
"""

BOTTOMS = "rows => rows.map(row => row.getBoundingClientRect().bottom)"
HEIGHTS = "rows => rows.map(row => row.getBoundingClientRect().height)"
SENT_WITHOUT_A_SCRIPT = "form => HTMLFormElement.prototype.submit.call(form)"


@pytest.fixture
async def visitor(browser: Browser, server: Server) -> AsyncIterator[Visitor]:
    async with visiting(browser, server.url) as visitor:
        yield visitor


async def test_an_empty_board(visitor: Visitor) -> None:
    await visitor.open()
    await expect(visitor.page.locator("#board")).to_contain_text("No cities yet")
    await expect_accessible(visitor.page)


async def test_a_full_board(visitor: Visitor, fill: Fill) -> None:
    await fill(*TWENTY)
    await visitor.open()
    await expect_accessible(visitor.page)


async def test_a_paused_board(visitor: Visitor, fill: Fill) -> None:
    await fill(*TWENTY)
    await visitor.open()
    await visitor.page.get_by_role("button", name="Pause").click()
    await expect(visitor.page.locator("#not-live")).to_have_text(PAUSED)
    await expect_accessible(visitor.page)


async def test_an_added_city(visitor: Visitor) -> None:
    await visitor.open()
    await submit(visitor.page, "Osaka", "19281000")
    await expect(visitor.page.locator("#status > p")).to_have_text(landed("Osaka", 1, "19,281,000"))
    await expect(visitor.page.get_by_role("button", name="Undo")).to_be_visible()
    await expect_accessible(visitor.page)


async def test_an_added_city_below_the_board(visitor: Visitor, fill: Fill) -> None:
    await fill(*TWENTY)
    await visitor.open()
    await submit(visitor.page, "Greenhorn", "3")
    await expect(visitor.page.locator("#status .rows")).to_be_visible()
    await expect_accessible(visitor.page)


async def test_a_rejected_form(visitor: Visitor) -> None:
    await visitor.open()
    await submit(visitor.page, "", "12x")
    await expect(visitor.page.locator("#error-summary")).to_be_focused()
    await expect_accessible(visitor.page)


async def test_a_duplicate(visitor: Visitor, fill: Fill) -> None:
    await fill(("Tokyo", 37_400_068))
    await visitor.open()
    await submit(visitor.page, "Tokyo", "5")
    await expect(visitor.page.get_by_role("link", name="See Tokyo")).to_have_count(2)
    await expect_accessible(visitor.page)


async def test_an_error_page(visitor: Visitor) -> None:
    await visitor.open("/nowhere")
    await expect(visitor.page.locator("#problem-text")).to_be_visible()
    await expect_accessible(visitor.page)


async def test_a_problem(visitor: Visitor) -> None:
    await visitor.open()
    await visitor.page.context.set_offline(True)
    await submit(visitor.page, "Osaka", "19281000")
    await expect(visitor.page.get_by_role("alert")).to_have_text(UNREACHED)
    await expect_accessible(visitor.page)


async def test_a_database_that_is_away(browser: Browser, start_server: StartServer, empty: Addresses) -> None:
    await run_sql(empty.app, insert("Tokyo", 37_400_068))
    async with Proxy(empty.app) as proxy:
        server = start_server(DATABASE_URL=proxy.url.render_as_string(hide_password=False))
        async with visiting(browser, server.url) as visitor:
            await visitor.open()
            proxy.down()
            await submit(visitor.page, "Delhi", "28514000")
            await expect(visitor.page.locator("#problem")).to_contain_text("This one was not saved")
            await expect(visitor.page.locator("#stale")).to_have_text(STALE)
            await expect_accessible(visitor.page)


async def test_a_page_that_is_not_live(visitor: Visitor, fill: Fill) -> None:
    await fill(*TWENTY)
    await visitor.open()
    await visitor.page.context.set_offline(True)
    await poll(visitor.page)
    await poll(visitor.page)
    await expect(visitor.page.locator("#not-live")).to_have_text(NOT_LIVE)
    await expect_accessible(visitor.page)


async def test_a_visitor_who_adds_too_much(browser: Browser, start_server: StartServer) -> None:
    server = start_server(CITYWEB_RATE_LIMIT="1,1,1")
    await ready(server)
    async with visiting(browser, server.url) as visitor:
        for city in ("Tokyo", "Delhi"):
            await visitor.open()
            await name(visitor.page).fill(city)
            await population(visitor.page).fill("5")
            async with visitor.page.expect_navigation():
                await visitor.page.locator("#city-form").evaluate(SENT_WITHOUT_A_SCRIPT)
        await expect(visitor.page.locator("#problem")).to_contain_text("This one was not saved; try again in")
        await expect_accessible(visitor.page)


async def test_a_failure_of_ours(visitor: Visitor, empty: Addresses) -> None:
    await run_sql(empty.owner, "ALTER TABLE tally RENAME COLUMN cities TO gone")
    try:
        await visitor.open("/cities")
        await expect(visitor.page.locator("#problem-text")).to_contain_text("Something went wrong.")
        await expect_accessible(visitor.page)
    finally:
        await run_sql(empty.owner, "ALTER TABLE tally RENAME COLUMN gone TO cities")


async def test_a_database_that_never_was(browser: Browser, start_server: StartServer, empty: Addresses) -> None:
    async with Proxy(empty.app) as proxy:
        proxy.down()
        server = start_server(DATABASE_URL=proxy.url.render_as_string(hide_password=False))
        async with visiting(browser, server.url) as visitor:
            await visitor.open()
            await expect(visitor.page.locator("#problem-text")).to_be_visible()
            await expect_accessible(visitor.page)


async def test_axe_would_find_a_violation(visitor: Visitor) -> None:
    await visitor.open()
    await visitor.page.locator("label[for=name]").evaluate("label => label.remove()")
    assert (await Axe().run(visitor.page, options=RULES)).violations_count > 0


# --- room and weight ---


async def test_nothing_scrolls_sideways_at_320_pixels_with_the_longest_name(visitor: Visitor) -> None:
    await narrow(visitor.page)
    await visitor.open()
    await submit(visitor.page, LONGEST, "100000000")
    await expect(visitor.page.locator("#status > p")).to_contain_text("is number 1, with 100,000,000 people.")
    await expect_room(visitor.page)
    row = await visitor.page.locator("#board tr[id]").bounding_box()
    assert row
    assert row["height"] == 44


async def test_nothing_scrolls_sideways_with_a_long_word_in_a_rejection(visitor: Visitor, fill: Fill) -> None:
    long = "Taumatawhakatangihangakoauauotamateaturipukakapikimaungahoro"
    await fill((long, 5))
    await narrow(visitor.page)
    await visitor.open()
    await submit(visitor.page, long, "7")
    await expect(visitor.page.locator("#error-summary")).to_be_focused()
    await expect_room(visitor.page)


@pytest.mark.parametrize("address", [*PAGES, "/nowhere"])
async def test_a_page_of_1280_pixels_enlarged_four_times_scrolls_one_way_only(
    visitor: Visitor, fill: Fill, address: str
) -> None:
    await fill(*TWENTY)
    await visitor.page.set_viewport_size({"width": 320, "height": 256})
    await visitor.open(address)
    await expect_room(visitor.page)


async def test_a_first_visit_weighs_at_most_30_kilobytes(visitor: Visitor, fill: Fill) -> None:
    await fill(*TWENTY)
    session = await visitor.page.context.new_cdp_session(visitor.page)
    await session.send("Network.enable")
    sizes: list[float] = []
    session.on("Network.loadingFinished", lambda event: sizes.append(event["encodedDataLength"]))
    await visitor.open("/?live=off")
    await visitor.page.wait_for_function("performance.getEntriesByType('resource').length >= 3")
    assert 10_000 < sum(sizes) <= 30_000


@pytest.mark.parametrize(("width", "height", "rows"), [(390, 844, 8), (320, 640, 4), (1280, 800, 13)])
async def test_the_first_screen_shows_the_board(
    visitor: Visitor, fill: Fill, width: int, height: int, rows: int
) -> None:
    await fill(*TWENTY)
    await visitor.page.set_viewport_size({"width": width, "height": height})
    await visitor.open()
    bottoms = await visitor.page.locator("#board tr[id]").evaluate_all(BOTTOMS)
    assert len([bottom for bottom in bottoms if bottom <= height]) >= rows


async def test_the_board_has_one_height_of_rows(visitor: Visitor, fill: Fill) -> None:
    await fill(*TWENTY, (LONGEST, 50_000_000), ("Ho Chi Minh City (Saigon) and its surroundings", 40_000_000))
    for width in (320, 1280):
        await visitor.page.set_viewport_size({"width": width, "height": 800})
        await visitor.open()
        heights = await visitor.page.locator("#board tr[id]").evaluate_all(HEIGHTS)
        assert heights == 20 * [44]


async def test_the_board_page_and_its_script_are_small(visitor: Visitor, fill: Fill) -> None:
    await fill(*TWENTY)
    request = visitor.page.request
    for address, most in (("/", 4_000), ("/static/app.js", 2_000)):
        response = await request.get(visitor.url + address, headers={"accept-encoding": "gzip"})
        assert int(response.headers["content-length"]) <= most, address


async def test_nothing_moves_while_the_page_loads(visitor: Visitor, fill: Fill) -> None:
    await fill(*TWENTY)
    await visitor.page.add_init_script(SUM_SHIFTS)
    await visitor.open()
    await expect(visitor.page.locator("#board tr[id]")).to_have_count(20)
    assert await visitor.page.evaluate(TWO_FRAMES_LATER) == 0


async def test_twenty_changes_shift_the_layout_by_at_most_a_hundredth(visitor: Visitor, fill: Fill) -> None:
    await fill(*TWENTY)
    await visitor.page.add_init_script(SUM_SHIFTS + NO_TIMERS)
    await visitor.open()
    # A new number 1 changes the scale of all bars: Chromium counts those that move and change at once.
    for number in range(20):
        await fill((f"Changed {number}", 15_250_000 - number * 500_000 if number % 2 else 30_000_000 + number))
        await poll(visitor.page)
        await visitor.page.evaluate(AT_REST)
    await expect(visitor.page.locator("#board")).to_contain_text("Changed 18")
    assert 0 <= await visitor.page.evaluate(TWO_FRAMES_LATER) <= 0.01
