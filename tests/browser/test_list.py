"""The whole list in each browser: found, paged, shared, gone back from, with JavaScript and without."""

import re

import pytest
from playwright.async_api import Page, Route, expect

from tests.browser.conftest import Visitor
from tests.browser.steps import (
    Fill,
    expect_accessible,
    in_each_browser,
    name,
    only_in_chromium,
    only_with_scripts,
    tab_to,
)
from tests.pages import BESIDE_THE_BOARD

CITIES = [(f"City {n}", 20_000_000 - n * 500_000) for n in range(1, 20)]
NEW_YORK = ("New York City", 8_000_000)


async def search(page: Page, words: str) -> None:
    """Types, as a visitor does, and sends it where nothing happens by itself."""
    await page.get_by_role("searchbox", name="Find a city").press_sequentially(words)
    await page.keyboard.press("Enter")


async def expect_names(page: Page, *names: str) -> None:
    await expect(page.locator("#cities tbody bdi")).to_have_text(names)


async def test_a_city_is_found_by_the_beginning_of_any_word(visitor: Visitor, fill: Fill) -> None:
    await fill(*CITIES, NEW_YORK)
    await visitor.open("/cities")
    await search(visitor.page, "YOR")
    await expect_names(visitor.page, "New York City")
    await expect(visitor.page).to_have_url(re.compile(r"/cities/?\?q=YOR$"))
    await expect(visitor.page.get_by_role("status")).to_contain_text("1 city")


@in_each_browser
@only_with_scripts
async def test_the_list_follows_what_is_entered_and_the_focus_stays(visitor: Visitor, fill: Fill) -> None:
    await fill(*CITIES, NEW_YORK)
    await visitor.open("/cities")
    field = visitor.page.get_by_role("searchbox", name="Find a city")
    await field.press_sequentially("york")
    await expect_names(visitor.page, "New York City")
    await expect(field).to_be_focused()
    await expect(field).to_have_value("york")


@only_with_scripts
async def test_a_search_that_is_lost_is_told_and_a_later_one_clears_it(visitor: Visitor, fill: Fill) -> None:
    await fill(*CITIES, NEW_YORK)
    await visitor.open("/cities")
    problem = visitor.page.get_by_role("alert")
    await visitor.page.context.set_offline(True)
    await search(visitor.page, "yor")
    await expect(problem).to_have_text("Could not reach the server. Check your connection and try again.")
    await visitor.page.context.set_offline(False)
    await search(visitor.page, "k")
    await expect_names(visitor.page, "New York City")
    await expect(problem).to_be_empty()


@only_with_scripts
async def test_a_search_that_replaces_another_is_no_lost_one(visitor: Visitor, fill: Fill) -> None:
    await fill(*CITIES, NEW_YORK)
    await visitor.open("/cities")
    held: list[Route] = []

    async def hold(route: Route) -> None:
        held.append(route)

    await visitor.page.route("**/cities?q=yor", hold)
    await search(visitor.page, "yor")
    await expect(visitor.page.locator(".find.htmx-request")).to_be_visible()
    await search(visitor.page, "k")
    await expect_names(visitor.page, "New York City")
    assert held
    await expect(visitor.page.get_by_role("alert")).to_be_empty()


@in_each_browser
async def test_back_from_a_city_shows_what_was_searched(visitor: Visitor, fill: Fill) -> None:
    await fill(*CITIES, NEW_YORK)
    await visitor.open("/cities?q=york")
    await visitor.page.get_by_role("link", name="New York City").click()
    await expect(visitor.page.get_by_role("heading", level=1)).to_have_text("New York City")
    await visitor.page.go_back()
    await expect(visitor.page.get_by_role("searchbox", name="Find a city")).to_have_value("york")
    await expect_names(visitor.page, "New York City")


@in_each_browser
async def test_a_city_is_found_by_keyboard_alone(visitor: Visitor, fill: Fill) -> None:
    page, keyboard = visitor.page, visitor.page.keyboard
    await fill(*CITIES, NEW_YORK)
    await visitor.open()
    await tab_to(page.get_by_role("navigation").get_by_role("link", name="All cities"))
    await keyboard.press("Enter")
    await tab_to(page.get_by_role("searchbox", name="Find a city"))
    await keyboard.type("york")
    await keyboard.press("Enter")
    await expect_names(page, "New York City")
    await tab_to(page.get_by_role("link", name="New York City"))
    await keyboard.press("Enter")
    await expect(page.get_by_role("heading", level=1)).to_have_text("New York City")
    await tab_to(page.get_by_role("link", name="The list from here on"))
    await keyboard.press("Enter")
    await expect_names(page, "New York City")


@only_in_chromium
@only_with_scripts
async def test_the_next_page_is_reached_by_keyboard(visitor: Visitor, fill: Fill) -> None:
    await fill(*((f"City {n}", 1_000_000 - n) for n in range(1, 61)))
    await visitor.open("/cities")
    await tab_to(visitor.page.get_by_role("link", name="Smaller"))
    await visitor.page.keyboard.press("Enter")
    await expect_names(visitor.page, *(f"City {n}" for n in range(51, 61)))


async def test_a_name_that_is_missing_can_be_added(visitor: Visitor, fill: Fill) -> None:
    await fill(NEW_YORK)
    await visitor.open("/cities?q=Atlantis")
    await visitor.page.get_by_role("link", name="Add “Atlantis”").click()
    await expect(name(visitor.page)).to_have_value("Atlantis")


async def test_the_board_leads_to_the_list_and_the_list_to_its_next_page(visitor: Visitor, fill: Fill) -> None:
    await fill(*((f"City {n}", 1_000_000 - n) for n in range(1, 61)))
    await visitor.open()
    await visitor.page.get_by_role("navigation").get_by_role("link", name="All cities").click()
    await visitor.page.get_by_role("link", name="Smaller").click()
    await expect_names(visitor.page, *(f"City {n}" for n in range(51, 61)))
    await visitor.page.get_by_role("link", name="Bigger").click()
    await expect_names(visitor.page, *(f"City {n}" for n in range(1, 51)))


@only_in_chromium
@only_with_scripts
@pytest.mark.parametrize("address", [*BESIDE_THE_BOARD, "/cities?q=york", "/cities?q=atlantis", "/cities?after=x"])
async def test_the_pages_beside_the_board_are_accessible(visitor: Visitor, fill: Fill, address: str) -> None:
    await fill(*CITIES, NEW_YORK)
    await visitor.open(address)
    await expect_accessible(visitor.page)
