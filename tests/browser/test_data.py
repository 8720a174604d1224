"""The Data page: what "Try it" shows, and what is there without a script."""

import re
from collections.abc import AsyncIterator

import pytest
from playwright.async_api import Browser, Locator, Page, expect

from tests.browser.conftest import Visitor, visiting
from tests.browser.steps import (
    CLICK_TWICE,
    UNREACHED,
    Fill,
    expect_accessible,
    in_each_browser,
    only_in_chromium,
    only_plain,
    only_with_scripts,
    tab_to,
)
from tests.conftest import FILL, Addresses, Server, run_sql, stored


def section(page: Page, title: str) -> Locator:
    return page.locator("section").filter(has=page.get_by_role("heading", name=title, exact=True))


def button(page: Page, title: str) -> Locator:
    return section(page, title).get_by_role("button", name=f"Try it: {title}")


async def expect_response(page: Page, title: str, status: str, beginning: str) -> None:
    await expect(section(page, title).get_by_role("status")).to_have_text(status)
    await expect(section(page, title).locator("pre")).to_have_text(re.compile("^" + re.escape(beginning)))


@only_with_scripts
async def test_a_get_shows_its_status_and_its_response_in_place(visitor: Visitor, fill: Fill) -> None:
    await fill(("São Paulo", 12_400_232))
    await visitor.open("/api")
    await button(visitor.page, "The 20 biggest").click()
    await expect_response(
        visitor.page, "The 20 biggest", "200 OK · application/json", '[{"name": "São Paulo", "population": 12400232}]'
    )
    await expect(visitor.page).to_have_url(re.compile("/api$"))
    await button(visitor.page, "One city").click()
    await expect_response(visitor.page, "One city", "200 OK · application/json", '{"id": 1, "name": "São Paulo"')


@only_with_scripts
async def test_a_city_is_added_as_json_and_added_again_it_is_refused(visitor: Visitor, empty: Addresses) -> None:
    await visitor.open("/api")
    page = visitor.page
    body = page.get_by_role("textbox", name="Body")
    await expect(body).to_have_value('{"name": "Greenhorn", "population": 3}')
    await button(page, "Add a city").click()
    added = '{"id":1,"name":"Greenhorn","population":3}'
    await expect_response(page, "Add a city", "201 Created · application/json", added)
    assert await stored(empty) == [("Greenhorn", 3)]
    await button(page, "Add a city").click()
    refused = re.compile("^422 .* · application/problem\\+json$")
    await expect(section(page, "Add a city").get_by_role("status")).to_have_text(refused)
    await expect(section(page, "Add a city").locator("pre")).to_contain_text("The city is already stored")
    await body.fill('{"name": ')
    await button(page, "Add a city").click()
    await expect(section(page, "Add a city").get_by_role("status")).to_have_text(
        "400 Bad Request · application/problem+json"
    )


@only_with_scripts
async def test_a_response_is_shown_as_text(visitor: Visitor) -> None:
    await visitor.open("/api")
    # As HTML, this name would be "Delhi<".
    await visitor.page.get_by_role("textbox", name="Body").fill('{"name": "Delhi&lt", "population": 1}')
    await button(visitor.page, "Add a city").click()
    added = '{"id":1,"name":"Delhi&lt","population":1}'
    await expect_response(visitor.page, "Add a city", "201 Created · application/json", added)


@only_with_scripts
async def test_of_a_long_response_only_the_beginning_is_read(visitor: Visitor, empty: Addresses) -> None:
    await run_sql(empty.owner, FILL.format(population="n", first=1, last=50_000))
    await visitor.open("/api")
    # Each download of this client network begins only after the one before it has ended.
    for title, status, beginning in [
        (
            "All cities as CSV",
            "200 OK · text/csv · only the beginning",
            'rank,id,name,population,created_at,country1,50000,"C50000"',
        ),
        ("CSV for Excel", "200 OK · text/csv · only the beginning", "rank,"),
        ("All cities as JSON", "200 OK · application/json · only the beginning", '[{"rank": 1,'),
        ("All cities as pages", "200 OK · text/html · only the beginning", "<!doctype html>"),
    ]:
        await expect_retried(visitor.page, title)
        await expect(section(visitor.page, title).get_by_role("status")).to_have_text(status)
        shown = (await section(visitor.page, title).locator("pre").text_content()) or ""
        assert re.sub(r"\s*\n", "", shown).startswith(beginning)
        assert shown.count("\n") < 20
        assert len(shown) <= 2_000


async def expect_retried(page: Page, title: str) -> None:
    """Tries an operation until it is no 503: a slot for downloads is released a moment after a client has left."""
    status = section(page, title).get_by_role("status")
    for _ in range(20):
        await button(page, title).click()
        await expect(status).to_have_text(re.compile("^[0-9]"))
        if not ((await status.text_content()) or "").startswith("503"):
            return
        await page.wait_for_timeout(100)


@only_with_scripts
async def test_who_is_offline_is_told_so(visitor: Visitor, empty: Addresses) -> None:
    await visitor.open("/api")
    page = visitor.page
    await visitor.page.context.set_offline(True)
    await button(page, "Add a city").click()
    await expect(section(page, "Add a city").get_by_role("status")).to_have_text(UNREACHED)
    await button(page, "One city").click()
    await expect(section(page, "One city").get_by_role("status")).to_have_text(
        "Could not reach the server. Check your connection and try again."
    )
    await visitor.page.context.set_offline(False)
    await button(page, "Add a city").click()
    await expect(section(page, "Add a city").get_by_role("status")).to_have_text("201 Created · application/json")
    assert await stored(empty) == [("Greenhorn", 3)]


@in_each_browser
@only_with_scripts
async def test_a_double_click_sends_one_request(visitor: Visitor, empty: Addresses) -> None:
    await visitor.open("/api")
    await button(visitor.page, "Add a city").evaluate(CLICK_TWICE)
    await expect_response(visitor.page, "Add a city", "201 Created · application/json", '{"id":1,')
    assert await stored(empty) == [("Greenhorn", 3)]


@in_each_browser
@only_with_scripts
async def test_the_keyboard_is_enough(visitor: Visitor) -> None:
    await visitor.open("/api")
    target = button(visitor.page, "Add a city")
    await tab_to(target)
    await visitor.page.keyboard.press("Enter")
    await expect_response(visitor.page, "Add a city", "201 Created · application/json", '{"id":1,')
    await expect(target).to_be_focused()


@only_plain
async def test_without_a_script_the_page_has_links_and_lines_and_a_button_opens_the_response(
    visitor: Visitor, fill: Fill
) -> None:
    await fill(("Tokyo", 37_400_068))
    await visitor.open("/api")
    page = visitor.page
    await expect(page.get_by_role("button", name="Try it: Add a city")).to_have_count(0)
    await expect(page.get_by_role("textbox")).to_have_count(0)
    await expect(section(page, "Add a city").locator(".line code")).to_contain_text('"Greenhorn"')
    await button(page, "The 20 biggest").click()
    await expect(page).to_have_url(re.compile(r"/cities/biggest\??$"))
    await expect(page.locator("body")).to_contain_text("Tokyo")


@pytest.fixture
async def reader(browser: Browser, server: Server) -> AsyncIterator[Visitor]:
    async with visiting(browser, server.url) as visitor:
        yield visitor


@only_in_chromium
async def test_the_page_with_responses_is_accessible(reader: Visitor, fill: Fill) -> None:
    await fill(("Tokyo", 37_400_068))
    await reader.open("/api")
    for title in ("The 20 biggest", "All cities as pages", "Add a city", "One city"):
        await button(reader.page, title).click()
        await expect(section(reader.page, title).locator("pre")).to_be_visible()
    await expect_accessible(reader.page)
    room = await reader.page.locator("html").evaluate("element => [element.scrollWidth, element.clientWidth]")
    assert room[0] <= room[1]
