"""What a visitor does, in each browser, with JavaScript and without, with the mouse and by keyboard alone."""

import asyncio
import re
from pathlib import Path

from playwright.async_api import Browser, Page, Playwright, expect

from tests.browser.conftest import Visitor, running, visiting
from tests.browser.steps import (
    CLICK_TWICE,
    NOT_LIVE,
    STALE,
    TITLE,
    TWENTY,
    UNREACHED,
    Fill,
    StartServer,
    button,
    expect_cities,
    expect_values,
    in_each_browser,
    landed,
    live,
    name,
    only_in_chromium,
    only_plain,
    only_with_scripts,
    population,
    submit,
    tab_to,
)
from tests.conftest import Addresses, insert, ready, run_sql, until
from tests.proxy import Proxy

# --- adding ---


async def test_a_city_is_added_and_the_page_says_where_it_landed(visitor: Visitor, fill: Fill) -> None:
    await fill(("Tokyo", 37_400_068))
    await visitor.open()
    await submit(visitor.page, "Delhi", "28,514,000")
    await expect(visitor.page.locator("#status p")).to_have_text(landed("Delhi", 2, "28,514,000"))
    await expect(visitor.page.locator("#status p")).to_be_focused()
    await expect_cities(visitor.page, "Tokyo", "Delhi")
    await expect_values(visitor.page, "", "")
    await visitor.page.get_by_role("link", name="See it").click()
    await expect(visitor.page.locator("tr:target bdi")).to_have_text("Delhi")
    await expect(visitor.page.locator("tr:target")).to_be_in_viewport()


@only_plain
async def test_without_scripts_the_title_says_first_where_a_city_landed(visitor: Visitor) -> None:
    await visitor.open()
    await submit(visitor.page, "Delhi", "28,514,000")
    await expect(visitor.page).to_have_title(f"Delhi is number 1, with 28,514,000 people - {TITLE}")


async def test_the_address_of_the_page_does_not_say_that_a_city_was_added(visitor: Visitor, scripts: bool) -> None:
    await visitor.open()
    await submit(visitor.page, "Delhi", "28,514,000")
    await expect_cities(visitor.page, "Delhi")
    await visitor.open("/?added=1")
    await expect(visitor.page.locator("#status p")).to_have_text(landed("Delhi", 1, "28,514,000"))
    await expect(visitor.page).to_have_url(visitor.url + ("/" if scripts else "/?added=1"))


async def test_a_city_below_the_board_is_shown_with_its_neighbours_and_what_the_last_place_takes(
    visitor: Visitor, fill: Fill
) -> None:
    await fill(*TWENTY)
    await visitor.open()
    await submit(visitor.page, "Greenhorn", "0")
    await expect(visitor.page.locator("#status > p")).to_have_text(
        "Greenhorn is number 21, with 0 people. Number 20 has 10,000,000 people. See it"
    )
    await expect(visitor.page.locator("#status > p")).to_be_in_viewport()
    await expect(visitor.page.locator("#status bdi")).to_have_text(
        ["Greenhorn", "City 18", "City 19", "City 20", "Greenhorn"]
    )
    await expect_cities(visitor.page, *(city for city, _ in TWENTY))


@only_with_scripts
async def test_a_double_click_posts_once(visitor: Visitor) -> None:
    posts: list[str] = []
    visitor.page.on("request", lambda request: posts.append(request.url) if request.method == "POST" else None)
    await visitor.open()
    await name(visitor.page).fill("Delhi")
    await population(visitor.page).fill("28514000")
    await button(visitor.page).evaluate(CLICK_TWICE)
    await expect(visitor.page.locator("#status > p")).to_have_text(landed("Delhi", 1, "28,514,000"))
    assert len(posts) == 1


@only_plain
async def test_a_double_click_stores_once_without_scripts_too(visitor: Visitor, empty: Addresses) -> None:
    await visitor.open()
    await name(visitor.page).fill("Delhi")
    await population(visitor.page).fill("28514000")
    await button(visitor.page).dblclick()
    await expect_cities(visitor.page, "Delhi")
    assert len(await run_sql(empty.app, "SELECT FROM cities")) == 1


# --- being rejected ---


@in_each_browser
async def test_a_rejection_says_what_is_wrong_where_the_eyes_and_the_focus_are(visitor: Visitor) -> None:
    await visitor.open()
    await submit(visitor.page, "", "12x")
    summary = visitor.page.locator("#error-summary")
    await expect(summary).to_be_focused()
    await expect(summary.get_by_role("link")).to_have_text(
        ["Enter a city name.", "Write the number in full, like 13,960,000, or as 13.96 million."]
    )
    await expect(visitor.page).to_have_title(f"Error: {TITLE}")
    await expect(name(visitor.page)).to_have_accessible_description("Error: Enter a city name.")
    await expect_values(visitor.page, "", "12x")


@in_each_browser
async def test_a_link_of_the_summary_leads_to_its_field_where_it_is_corrected(visitor: Visitor) -> None:
    await visitor.open()
    await submit(visitor.page, "Osaka", "1.5")
    await visitor.page.get_by_role("link", name="Write the number in full").click()
    await expect(population(visitor.page)).to_be_focused()
    await population(visitor.page).fill("19 281 000")
    await button(visitor.page).click()
    await expect(visitor.page.locator("#status > p")).to_have_text(landed("Osaka", 1, "19,281,000"))
    await expect(visitor.page.locator("#error-summary")).to_have_count(0)
    await expect(visitor.page).to_have_title(re.compile("^(?!Error)"))


async def test_a_duplicate_is_shown_what_is_stored_and_the_way_to_it(visitor: Visitor, fill: Fill) -> None:
    await fill(("Tokyo", 37_400_068))
    await visitor.open()
    await submit(visitor.page, "tokyo", "5")
    summary = visitor.page.locator("#error-summary")
    await expect(summary).to_contain_text("Tokyo is already on the list, with 37,400,068 people.")
    await expect_values(visitor.page, "tokyo", "5")
    await summary.get_by_role("link", name="See Tokyo").click()
    assert await visitor.page.evaluate("document.querySelector(':target bdi').textContent") == "Tokyo"


# --- by keyboard alone ---


async def type_city(page: Page, city: str, people: str) -> None:
    for field, text in ((name(page), city), (population(page), people)):
        await tab_to(field)
        await page.keyboard.press("ControlOrMeta+A")
        await page.keyboard.type(text)
    await page.keyboard.press("Enter")


@in_each_browser
async def test_everything_can_be_done_by_keyboard(visitor: Visitor) -> None:
    page, keyboard = visitor.page, visitor.page.keyboard
    await visitor.open()
    await type_city(page, "Osaka", "many")
    await expect(page.locator("#error-summary")).to_be_focused()
    await tab_to(page.get_by_role("link", name="Write the number in full"))
    await keyboard.press("Enter")
    await expect(population(page)).to_be_focused()
    await keyboard.press("ControlOrMeta+A")
    await keyboard.type("19281000")
    await tab_to(button(page))
    await keyboard.press("Space")
    await expect(page.locator("#status > p")).to_have_text(landed("Osaka", 1, "19,281,000"))
    await type_city(page, "OSAKA", "1")
    await expect(page.locator("#error-summary")).to_contain_text("is already on the list")


@in_each_browser
async def test_what_landed_elsewhere_is_followed_by_keyboard_and_gone_back_from(visitor: Visitor, fill: Fill) -> None:
    page, keyboard = visitor.page, visitor.page.keyboard
    await fill(*TWENTY)
    await visitor.open()
    await type_city(page, "Greenhorn", "0")
    await expect(page.locator("#status")).to_contain_text("Greenhorn is number 21, with 0 people.")
    await expect(page.locator("#status > p")).to_be_focused()
    await tab_to(page.get_by_role("link", name="See it"))
    await keyboard.press("Enter")
    await expect(page.get_by_role("heading", level=1)).to_have_text("Greenhorn")
    await page.go_back()
    await expect(button(page)).to_be_visible()
    await expect_cities(page, *(city for city, _ in TWENTY))


@in_each_browser
async def test_the_first_tab_offers_to_skip_to_the_content(visitor: Visitor) -> None:
    await visitor.open()
    await visitor.page.keyboard.press("Tab")
    await expect(visitor.page.get_by_role("link", name="Skip to main content")).to_be_focused()
    await expect(visitor.page.get_by_role("link", name="Skip to main content")).to_be_in_viewport()
    await visitor.page.keyboard.press("Enter")
    await visitor.page.keyboard.press("Tab")
    assert await visitor.page.evaluate("document.querySelector('#main').contains(document.activeElement)")


# --- back, and another tab ---


@in_each_browser
async def test_going_back_after_an_addition_posts_nothing_again(visitor: Visitor, empty: Addresses) -> None:
    await visitor.open("/?live=off")
    await visitor.open()
    await submit(visitor.page, "Delhi", "28514000")
    await expect(visitor.page.locator("#status > p")).to_have_text(landed("Delhi", 1, "28,514,000"))
    await visitor.page.go_back()
    await visitor.page.go_forward()
    await expect(button(visitor.page)).to_be_visible()
    await expect(visitor.page.locator("#error-summary")).to_have_count(0)
    assert len(await run_sql(empty.app, "SELECT FROM cities")) == 1


@in_each_browser
async def test_a_link_opens_in_another_tab(
    playwright: Playwright, browser: Browser, start_server: StartServer, log: Path
) -> None:
    server = start_server()
    await ready(server)
    # In a Firefox where something was ever kept from loading, the driver holds back what it is told nothing of: a page
    # in the background. So the browser is a fresh one, and the server is asked for the page.
    async with running(playwright, browser.browser_type.name) as fresh, visiting(fresh, server.url) as visitor:
        await visitor.open()
        await (
            visitor.page.get_by_role("navigation")
            .get_by_role("link", name="All cities")
            .click(modifiers=["ControlOrMeta"])
        )
        await until(lambda: '"path": "/cities", "status": 200' in log.read_text(), 30)
        await expect(visitor.page.get_by_role("heading", level=1)).to_have_text(TITLE)
        await expect(visitor.page).to_have_url(f"{server.url}/")


@in_each_browser
async def test_what_was_entered_is_there_after_a_look_at_another_page(visitor: Visitor) -> None:
    await visitor.open()
    await name(visitor.page).fill("Delhi")
    await population(visitor.page).fill("28,514,000")
    await visitor.page.get_by_role("navigation").get_by_role("link", name="Data").click()
    await expect(visitor.page.get_by_role("heading", level=1)).to_have_text("Data")
    await visitor.page.go_back()
    await expect_values(visitor.page, "Delhi", "28,514,000")


# --- what goes wrong ---


@only_with_scripts
async def test_an_add_that_takes_long_says_so_and_is_given_up_after_15_seconds(visitor: Visitor) -> None:
    await visitor.page.clock.install()
    await visitor.open()
    await visitor.page.route("**/cities/", lambda _: asyncio.sleep(0))  # no response
    await submit(visitor.page, "Delhi", "28,514,000")
    await visitor.page.clock.run_for(5_000)
    await expect(visitor.page.locator("#sending")).to_have_text("Still sending. Keep this page open.")
    await visitor.page.clock.run_for(10_000)
    await expect(visitor.page.get_by_role("alert")).to_have_text(UNREACHED)
    await expect(visitor.page.locator("#sending")).to_be_empty()
    await expect_values(visitor.page, "Delhi", "28,514,000")


@only_in_chromium
async def test_an_address_that_is_none_leads_to_the_board(visitor: Visitor) -> None:
    await visitor.open("/nowhere")
    await expect(visitor.page.locator("#problem-text")).to_contain_text("There is no page here.")
    await visitor.page.get_by_role("link", name="Go to the leaderboard").click()
    await expect(visitor.page.get_by_role("heading", level=1)).to_have_text(TITLE)


@only_with_scripts
async def test_a_lost_connection_is_told_and_the_form_can_be_sent_again(visitor: Visitor) -> None:
    await visitor.open()
    await visitor.page.context.set_offline(True)
    await submit(visitor.page, "Delhi", "28,514,000")
    await expect(visitor.page.get_by_role("alert")).to_have_text(UNREACHED)
    await expect_values(visitor.page, "Delhi", "28,514,000")
    await visitor.page.context.set_offline(False)
    await button(visitor.page).click()
    await expect(visitor.page.locator("#status > p")).to_have_text(landed("Delhi", 1, "28,514,000"))
    await expect(visitor.page.get_by_role("alert")).to_be_empty()


@only_with_scripts
async def test_the_answer_of_a_proxy_is_told_as_a_lost_connection(visitor: Visitor) -> None:
    await visitor.open()
    await visitor.page.route(
        "**/cities/", lambda route: route.fulfill(status=502, content_type="text/html", body="<h1>Bad Gateway</h1>")
    )
    await submit(visitor.page, "Delhi", "28,514,000")
    await expect(visitor.page.get_by_role("alert")).to_have_text(UNREACHED)
    await expect_values(visitor.page, "Delhi", "28,514,000")
    await visitor.page.unroute("**/cities/")
    await button(visitor.page).click()
    await expect(visitor.page.locator("#status > p")).to_have_text(landed("Delhi", 1, "28,514,000"))


@only_in_chromium
async def test_who_adds_too_much_is_told_how_long_to_wait_and_keeps_what_was_entered(
    browser: Browser, start_server: StartServer, scripts: bool
) -> None:
    server = start_server(CITYWEB_RATE_LIMIT="1,1,1")
    await ready(server)
    async with visiting(browser, server.url, scripts=scripts) as visitor:
        await visitor.open()
        await submit(visitor.page, "Tokyo", "37,400,068")
        await expect(visitor.page.locator("#status > p")).to_have_text(landed("Tokyo", 1, "37,400,068"))
        await submit(visitor.page, "Delhi", "28,514,000")
        await expect(visitor.page.locator("#problem")).to_contain_text("This one was not saved; try again in")
        await expect_values(visitor.page, "Delhi", "28,514,000")
        await expect_cities(visitor.page, "Tokyo")


@only_in_chromium
async def test_a_failure_of_ours_says_so_and_keeps_what_was_entered(
    visitor: Visitor, empty: Addresses, scripts: bool
) -> None:
    await visitor.open()
    await run_sql(empty.owner, "ALTER TABLE cities RENAME COLUMN name_bare TO name_gone")
    try:
        await submit(visitor.page, "Delhi", "28,514,000")
        await expect(visitor.page.locator("#problem-text")).to_contain_text("Something went wrong.")
        if not scripts:
            await visitor.page.get_by_role("link", name="Back to what you entered").click()
        await expect_values(visitor.page, "Delhi", "28,514,000")
    finally:
        await run_sql(empty.owner, "ALTER TABLE cities RENAME COLUMN name_gone TO name_bare")


@only_with_scripts
@only_in_chromium  # only it can be slowed down
async def test_on_a_slow_network_the_form_says_that_it_is_being_sent_and_sends_once(visitor: Visitor) -> None:
    posts: list[str] = []
    visitor.page.on("request", lambda request: posts.append(request.url) if request.method == "POST" else None)
    await visitor.open()
    session = await visitor.page.context.new_cdp_session(visitor.page)
    slow = {"offline": False, "latency": 1_500, "downloadThroughput": 50_000, "uploadThroughput": 50_000}
    await session.send("Network.enable")
    await session.send("Network.emulateNetworkConditions", slow)
    await submit(visitor.page, "Delhi", "28,514,000")
    await expect(visitor.page.locator("#city-form")).to_have_class(re.compile("htmx-request"))
    await expect(button(visitor.page)).to_be_focused()
    await button(visitor.page).click()
    await expect(visitor.page.locator("#status > p")).to_have_text(landed("Delhi", 1, "28,514,000"))
    assert len(posts) == 1


@only_in_chromium
@only_with_scripts
async def test_a_server_that_stops_and_returns_loses_nothing(
    browser: Browser, start_server: StartServer, empty: Addresses, scripts: bool
) -> None:
    await run_sql(empty.app, insert("Tokyo", 37_400_068))
    server = start_server()
    async with visiting(browser, server.url, scripts=scripts) as visitor:
        await visitor.open()
        server.stop()
        await submit(visitor.page, "Delhi", "28,514,000")
        await expect(visitor.page.get_by_role("alert")).to_have_text(UNREACHED)
        await expect_values(visitor.page, "Delhi", "28,514,000")
        await expect_cities(visitor.page, "Tokyo")
        await expect(visitor.page.locator("#not-live")).to_have_text(NOT_LIVE)
        await expect(live(visitor.page)).not_to_be_visible()
        start_server("--port", server.url.rpartition(":")[2])
        await run_sql(empty.app, insert("Osaka", 19_281_000))
        await expect(visitor.page.locator("#board")).to_contain_text("Osaka")
        await expect(visitor.page.locator("#not-live")).to_be_empty()
        await expect(live(visitor.page)).to_be_visible()
        await button(visitor.page).click()
        await expect(visitor.page.locator("#status > p")).to_have_text(landed("Delhi", 2, "28,514,000"))
        await expect_cities(visitor.page, "Tokyo", "Delhi", "Osaka")


@only_in_chromium
async def test_while_the_database_is_away_the_board_stays_and_what_was_entered_too(
    browser: Browser, start_server: StartServer, empty: Addresses, scripts: bool
) -> None:
    await run_sql(empty.app, insert("Tokyo", 37_400_068))
    async with Proxy(empty.app) as proxy:
        server = start_server(DATABASE_URL=proxy.url.render_as_string(hide_password=False))
        async with visiting(browser, server.url, scripts=scripts) as visitor:
            await visitor.open()
            await expect_cities(visitor.page, "Tokyo")
            proxy.down()
            await submit(visitor.page, "Delhi", "28,514,000")
            await expect(visitor.page.locator("#problem")).to_contain_text("This one was not saved")
            await expect_values(visitor.page, "Delhi", "28,514,000")
            await expect_cities(visitor.page, "Tokyo")
            if scripts:
                await expect(visitor.page.locator("#stale")).to_have_text(STALE)
                await expect(live(visitor.page)).not_to_be_visible()
            proxy.up()
            await ready(server)
            if scripts:
                await expect(visitor.page.locator("#stale")).to_be_empty()
                await expect(live(visitor.page)).to_be_visible()
            await button(visitor.page).click()
            await expect(visitor.page.locator("#status > p")).to_have_text(landed("Delhi", 2, "28,514,000"))
