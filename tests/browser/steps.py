"""What a visitor does and sees, as the tests say it."""

import re
from collections.abc import Awaitable, Callable

import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Locator, Page, expect

from tests.conftest import Server

Fill = Callable[..., Awaitable[None]]
StartServer = Callable[..., Server]

TWENTY = [(f"City {n}", 20_000_000 - n * 500_000) for n in range(1, 21)]
UNREACHED = (
    "Could not reach the server. We could not confirm that the city was saved. Check your connection and try again."
)
NO_TIMERS = "window.setInterval = () => 0"
"""Polls then happen only where something else asks for one."""
AT_REST = """
Promise.all(document.getAnimations().filter(motion => !(motion instanceof CSSAnimation)).map(motion => motion.finished))
"""
"""Waits until all rows have moved. The mark of a changed row, an animation of the stylesheet, stays for 8 seconds."""
CLICK_TWICE = "button => { button.click(); button.click() }"
"""A double click that no response is fast enough to come between."""
NOT_LIVE = re.compile(r"^Not live since \d\d:\d\d UTC\. Trying again\.$")
PAUSED = re.compile(r"^Paused at \d\d:\d\d UTC\.$")
STALE = re.compile(r"^Showing the board as of \d\d:\d\d UTC\.\s+Cities can't be added right now\.\s*$")

only_with_scripts = pytest.mark.parametrize("scripts", [True], indirect=True, ids=["script"])
in_each_browser = pytest.mark.in_each_browser
"""For a test of focus, keys, history, timers or motion, where browsers differ: `make test` runs it in Firefox too."""
only_in_chromium = pytest.mark.parametrize("browser", ["chromium"], indirect=True)
"""For a test about the server, or of what only the driver of Chromium can do."""
only_plain = pytest.mark.parametrize("scripts", [False], indirect=True, ids=["plain"])


def name(page: Page) -> Locator:
    return page.get_by_role("textbox", name="City name")


def population(page: Page) -> Locator:
    return page.get_by_role("textbox", name="Population")


def country(page: Page) -> Locator:
    return page.get_by_role("combobox", name="Country")


def button(page: Page) -> Locator:
    return page.get_by_role("button", name="Add city")


TITLE = "The world's biggest cities"


def landed(city: str, number: int, people: str) -> str:
    """The message about an added city."""
    return f"{city} is number {number}, with {people} people. See it"


def live(page: Page) -> Locator:
    return page.get_by_text("Live.", exact=True)


async def submit(page: Page, city: str, people: str) -> None:
    await name(page).fill(city)
    await population(page).fill(people)
    await button(page).click()


async def expect_cities(page: Page, *names: str) -> None:
    await expect(page.locator("#board tr[id] bdi")).to_have_text(names)


async def expect_values(page: Page, city: str, people: str) -> None:
    await expect(name(page)).to_have_value(city)
    await expect(population(page)).to_have_value(people)


OUTLINES = "link => [getComputedStyle(link), getComputedStyle(link, '::after')].map(style => style.outlineStyle)"
"""The outline of a row is that of what covers it."""


async def tab_to(target: Locator, key: str = "Tab") -> None:
    """Presses Tab until the target has the focus, which must be seen."""
    element = await target.element_handle()  # Finding it again after each press would take ten times as long.
    for _ in range(80):
        if await element.evaluate("element => element === document.activeElement"):
            break
        await target.page.keyboard.press(key)
    await expect(target).to_be_focused()
    await expect(target).to_be_in_viewport()
    assert await target.evaluate(OUTLINES) != ["none", "none"]


# --- accessibility ---

RULES = {
    "runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"],
    "resultTypes": ["violations"],  # of the other results, one element each
}
OF_COLOURS = {**RULES, "runOnly": {"type": "rule", "values": ["color-contrast", "link-in-text-block"]}}
BUT_COLOURS = {**RULES, "rules": {"color-contrast": {"enabled": False}, "link-in-text-block": {"enabled": False}}}
"""Most of the time goes to the rules of colours; a narrow page has the same colours, and they change nothing else."""


async def light(page: Page) -> None:
    await page.emulate_media(color_scheme="light", reduced_motion="reduce")


async def dark(page: Page) -> None:
    await page.emulate_media(color_scheme="dark", reduced_motion="reduce")


async def forced_colours(page: Page) -> None:
    await page.emulate_media(forced_colors="active", reduced_motion="reduce")


async def narrow(page: Page) -> None:
    await page.emulate_media(color_scheme="light", reduced_motion="reduce")
    await page.set_viewport_size({"width": 320, "height": 700})


async def expect_room(page: Page) -> None:
    """Nothing is wider than the page."""
    room = await page.locator("html").evaluate("element => [element.scrollWidth, element.clientWidth]")
    assert room[0] <= room[1]


async def paper(page: Page) -> None:
    await page.emulate_media(media="print", reduced_motion="reduce")


async def expect_accessible(page: Page) -> None:
    """No violation in any mode; the page is left narrow and on paper."""
    await page.evaluate(AT_REST)
    axe = Axe()
    modes = (
        (light, RULES),
        (dark, OF_COLOURS),
        (forced_colours, OF_COLOURS),
        (narrow, BUT_COLOURS),
        (paper, OF_COLOURS),
    )
    for mode, rules in modes:
        await mode(page)
        results = await axe.run(page, options=rules)
        axe = Axe(axe_script="null")  # the page has the program now
        assert results.violations_count == 0, f"{mode.__name__}: {results.generate_report()}"
