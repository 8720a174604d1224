"""Visitors correct, remove and restore cities, and operators clean up after vandals, in each browser, by keyboard."""

import asyncio
import re

import httpx
from playwright.async_api import Browser, Locator, Page, expect

from tests.browser.conftest import Visitor, poll, shows, visiting
from tests.browser.steps import (
    TWENTY,
    Fill,
    country,
    expect_accessible,
    expect_cities,
    expect_room,
    in_each_browser,
    landed,
    name,
    narrow,
    only_in_chromium,
    only_with_scripts,
    population,
    submit,
    tab_to,
)
from tests.conftest import NO_TLS, Addresses, Server, run, run_sql

TOKYO, BERLIN, PARIS = ("Tokyo", 37_400_068), ("Berlin", 83_360_000), ("Paris", 2_138_551)
SAVED = "Your change was saved. It is the first line of the history."
UNREACHED = (
    "Could not reach the server. We could not confirm that the change was saved. Check your connection and try again."
)
CONFLICT = (
    "Somebody changed Paris in the meantime, to 2,100,000. You entered 2,200,000. Send it again to replace theirs."
)


def summary(page: Page, words: str) -> Locator:
    return page.locator("summary", has_text=words)


def save(page: Page) -> Locator:
    return page.get_by_role("button", name="Save the correction")


def first_line(page: Page) -> Locator:
    """The newest change in the history of a city, or in the log."""
    return page.locator(".log li").first


async def press(target: Locator, key: str = "Enter") -> None:
    """Goes to a button, a link or a summary by keyboard, and presses a key.

    Of the open pages of a browser, only the one in front has the focus.
    """
    await target.page.bring_to_front()
    await tab_to(target)
    await target.page.keyboard.press(key)


async def type_in(target: Locator, text: str) -> None:
    """Goes to a field by keyboard, and replaces what is in it."""
    await press(target, "ControlOrMeta+A")
    await target.page.keyboard.type(text)


async def expect_saved(page: Page, *, scripts: bool) -> None:
    if scripts:
        message = page.get_by_role("status").filter(has_text=SAVED)
        await expect(message).to_be_focused()
        await expect(message).to_be_in_viewport()
    else:
        await expect(page).to_have_url(re.compile(r"/cities/\d+#history$"))
        await expect(first_line(page)).to_be_in_viewport()


async def expect_board(page: Page, server: Server, *names: str, scripts: bool) -> None:
    """An open board shows what the server has at its next poll, or when it is loaded again."""
    await shows(server, names)
    await (poll(page) if scripts else page.reload())
    await expect_cities(page, *names)


async def correct_by_http(server: Server, *populations: tuple[int, str, int, int]) -> None:
    """Corrects populations as a program would: the id and the name of each city, the old value and the new one."""
    async with httpx.AsyncClient(base_url=server.url, verify=NO_TLS) as client:
        for city, name, old, new in populations:
            shown = {"old_name": name, "old_population": old, "old_country": ""}
            response = await client.post(f"/cities/{city}", json={**shown, "population": new})
            assert response.status_code == 200, response.text


@in_each_browser
async def test_a_typo_is_corrected_after_one_question_and_somebody_else_reverts_that(
    browser: Browser, visitor: Visitor, fill: Fill, server: Server, scripts: bool
) -> None:
    page = visitor.page
    await fill(TOKYO, BERLIN)
    board = await page.context.new_page()
    await board.goto(visitor.url)
    await expect_cities(board, "Berlin", "Tokyo")

    await visitor.open("/cities/2")
    await press(summary(page, "Correct it"))
    await type_in(population(page), "3,677,000")
    await page.keyboard.press("Enter")
    errors = page.locator("#error-summary")
    await expect(errors).to_be_focused()
    await expect(errors.get_by_role("link")).to_have_text(["Is 3,677,000 right? If it is, send it again."])
    await expect(population(page)).to_have_value("3,677,000")
    await expect(page.locator("#city .big")).to_have_text("83,360,000 people")
    await press(save(page), "Space")
    await expect_saved(page, scripts=scripts)
    await expect(errors).to_have_count(0)
    await expect(page.locator("#city .big")).to_have_text("3,677,000 people")
    await expect(first_line(page)).to_contain_text(re.compile(r"^\s*population 83,360,000 → 3,677,000\s+.*contributor"))
    await expect(page.locator("#problem")).to_be_empty()
    if not scripts:
        await board.reload()
    await expect(board.locator("#board tr[id] bdi")).to_have_text(["Tokyo", "Berlin"], timeout=4_000)

    async with visiting(browser, visitor.url, scripts=scripts) as other:
        page = other.page
        await other.open("/privacy")
        await press(page.get_by_role("link", name="Recent changes"))
        await expect(first_line(page)).to_contain_text("Berlin: population 83,360,000 → 3,677,000")
        await press(page.get_by_role("button", name="Revert change 1"))
        await expect_saved(page, scripts=False)
        await expect(first_line(page)).to_contain_text("reverted, population 3,677,000 → 83,360,000")
    await expect_board(board, server, "Berlin", "Tokyo", scripts=scripts)


async def test_two_visitors_correct_a_city_at_once_and_neither_overwrites_what_was_not_seen(
    browser: Browser, visitor: Visitor, fill: Fill, empty: Addresses, scripts: bool
) -> None:
    slow = visitor.page
    await fill(PARIS)
    await visitor.open("/cities/1")
    await press(summary(slow, "Correct it"))
    await type_in(population(slow), "22x")
    async with visiting(browser, visitor.url, scripts=scripts) as other:
        quick = other.page
        await other.open("/cities/1")
        await press(summary(quick, "Correct it"))
        await type_in(population(quick), "2.1 million")
        await quick.keyboard.press("Enter")
        await expect_saved(quick, scripts=scripts)
        await expect(quick.locator("#city .big")).to_have_text("2,100,000 people")

        if scripts:
            await slow.bring_to_front()
            await poll(slow)
            await expect(population(slow)).to_be_focused()
            await expect(slow.locator("#city .big")).to_have_text("2,100,000 people")
            await expect(first_line(slow)).to_contain_text("2,138,551 → 2,100,000")
        await expect(population(slow)).to_have_value("22x")
        await press(population(slow))
        await expect(slow.locator("#error-summary")).to_contain_text("Write the number in full")
        await type_in(population(slow), "2200000")
        await slow.keyboard.press("Enter")
        await expect(slow.locator("#error-summary").get_by_role("link")).to_have_text([CONFLICT])
        await expect(slow.locator("#error-summary")).to_be_focused()
        await expect(slow.locator("#problem")).to_be_empty()
        await expect(slow.locator("#city .big")).to_have_text("2,100,000 people")
        await expect(population(slow)).to_have_value("2200000")
        await press(save(slow))
        await expect_saved(slow, scripts=scripts)
        await expect(first_line(slow)).to_contain_text("2,100,000 → 2,200,000")

        await press(summary(quick, "Correct it"))
        await type_in(country(quick), "France")
        await quick.keyboard.press("Enter")
        await expect_saved(quick, scripts=scripts)
        await expect(quick.locator("#city .hero")).to_contain_text("of 1 in France")
        await expect(quick.locator("#city .big")).to_have_text("2,200,000 people")
    (row,) = await run_sql(empty.app, "SELECT name, population, country FROM cities")
    assert tuple(row) == ("Paris", 2_200_000, "FR")


@only_in_chromium  # it is about the server
async def test_an_operator_cleans_up_after_a_network_that_changed_sixty_cities(
    visitor: Visitor, fill: Fill, server: Server, empty: Addresses, scripts: bool
) -> None:
    page = visitor.page
    cities = [(f"City {n}", 1_000_000 - n) for n in range(1, 61)]
    await fill(*cities)
    await visitor.open()
    await correct_by_http(server, *((n, city, people, 2_000_000 + n) for n, (city, people) in enumerate(cities, 1)))
    await expect_board(page, server, *(f"City {n}" for n in range(60, 40, -1)), scripts=scripts)

    log = await page.context.new_page()
    await log.goto(f"{visitor.url}/changes")
    await expect(log.locator(".log li")).to_have_count(50)
    number = (await first_line(log).get_attribute("id") or "").removeprefix("change-")
    owner = empty.owner.render_as_string(hide_password=False)
    done = run("revert", "--like", number, "--reason", "vandalism", "--yes", DATABASE_URL=owner)
    assert done.stdout.splitlines()[-1] == "60 of 60 changes reverted.", done.stderr

    await expect_board(page, server, *(f"City {n}" for n in range(1, 21)), scripts=scripts)
    await log.reload()
    await expect(first_line(log)).to_contain_text(
        re.compile(r"City 1: reverted, population 2,000,001 → 999,999: vandalism\s+.*an operator")
    )
    await log.get_by_role("link", name="Earlier changes").press("Enter")
    vandalism = log.locator(".log li").nth(10)
    await expect(vandalism).to_contain_text("City 60: population 999,940 → 2,000,060")
    await expect(vandalism.get_by_role("button")).to_have_count(0)


async def test_an_added_city_is_undone_restored_and_removed(visitor: Visitor, fill: Fill, scripts: bool) -> None:
    page = visitor.page
    undo, restore = page.get_by_role("button", name="Undo"), page.get_by_role("button", name="Restore")
    await fill(*TWENTY)
    await visitor.open()
    await submit(page, "Delhi", "20,500,000")
    await expect(page.locator("#status > p")).to_have_text(landed("Delhi", 1, "20,500,000"))
    await press(undo)
    await expect(page.get_by_role("heading", level=1)).to_have_text("Delhi was removed")
    await expect(first_line(page)).to_contain_text("removed: added by mistake")

    await visitor.open()
    await expect_cities(page, *(city for city, _ in TWENTY))
    await submit(page, "Greenhorn", "0")
    await expect(page.locator("#status .rows")).to_be_visible()
    city = await page.context.new_page()
    await city.goto(f"{visitor.url}/cities/22")
    await press(undo, "Space")
    for heading, change in (("Greenhorn was removed", "removed: added by mistake"), ("Greenhorn", "restored")):
        await expect(page.get_by_role("heading", level=1)).to_have_text(heading)
        await expect(first_line(page)).to_contain_text(change)
        if scripts:
            await poll(city)
            await expect(city).to_have_title(re.compile(f"^{heading}"))
        else:
            await city.reload()
        await expect(city.get_by_role("heading", level=1)).to_have_text(heading)
        await expect(first_line(city)).to_contain_text(change)
        if change != "restored":
            await press(restore)
            await expect_saved(page, scripts=False)

    await press(summary(page, "Remove it"))
    await press(page.get_by_role("radio", name="Not a city"), "Space")
    await press(page.get_by_role("button", name="Remove the city"))
    await expect(page.get_by_role("heading", level=1)).to_have_text("Greenhorn was removed")
    await expect(first_line(page)).to_contain_text("removed: not a city")


@only_with_scripts
async def test_a_correction_that_gets_no_response_says_so_and_can_be_sent_again(visitor: Visitor, fill: Fill) -> None:
    page = visitor.page
    await fill(PARIS)
    await page.clock.install()
    await visitor.open("/cities/1")
    await press(summary(page, "Correct it"))
    await type_in(population(page), "2200000")
    await page.route("**/cities/1", lambda _: asyncio.sleep(0))  # no response
    await page.keyboard.press("Enter")
    await page.clock.run_for(5_000)
    await expect(page.locator("#sending")).to_have_text("Still sending. Keep this page open.")
    await page.clock.run_for(10_000)
    await expect(page.get_by_role("alert")).to_have_text(UNREACHED)
    await expect(page.get_by_role("alert")).to_be_in_viewport()
    await expect(page.locator("#sending")).to_be_empty()
    await page.unroute("**/cities/1")
    await type_in(country(page), "France")
    await page.context.set_offline(True)
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("alert")).to_have_text(UNREACHED)
    await expect(country(page)).to_have_value("France")
    await expect(population(page)).to_have_value("2200000")
    await page.context.set_offline(False)
    await press(save(page))
    await expect_saved(page, scripts=True)
    await expect(page.get_by_role("alert")).to_be_empty()
    await expect(first_line(page)).to_contain_text("population 2,138,551 → 2,200,000, country no country → France")


async def expect_room_and_access(page: Page) -> None:
    """No violation in any mode, and nothing wider than 320 pixels; afterwards the page is wide and on the screen."""
    await page.emulate_media(media="screen", forced_colors="none")
    await narrow(page)
    await expect_room(page)
    await expect_accessible(page)
    await page.emulate_media(media="screen", forced_colors="none")
    await page.set_viewport_size({"width": 1280, "height": 800})


@only_with_scripts
@only_in_chromium
async def test_each_state_of_a_correction_is_accessible_and_has_room(
    visitor: Visitor, fill: Fill, server: Server
) -> None:
    page = visitor.page
    longest = "W" * 200
    await fill(*TWENTY, (longest, 50))
    await visitor.open("/cities/21")
    await summary(page, "Correct it").click()
    await summary(page, "Remove it").click()
    await population(page).fill("12x")
    await name(page).fill("")
    await save(page).click()
    await expect(page.locator("#error-summary").get_by_role("link")).to_have_count(2)
    await expect_room_and_access(page)

    await correct_by_http(server, (21, longest, 50, 60))
    await name(page).fill(longest)
    await population(page).fill("70")
    await save(page).click()
    await expect(page.locator("#error-summary")).to_contain_text("in the meantime, to 60. You entered 70.")
    await expect_room_and_access(page)

    await save(page).click()
    await expect_saved(page, scripts=True)
    await expect_room_and_access(page)

    await visitor.open("/changes")
    await expect(page.get_by_role("button", name="Revert")).to_have_count(1)
    await expect_room_and_access(page)

    await visitor.open("/cities/21")
    await summary(page, "Remove it").click()
    await page.get_by_role("radio", name="Duplicate").check()
    await page.get_by_role("button", name="Remove the city").click()
    await expect(page.get_by_role("button", name="Restore")).to_be_visible()
    await expect_room_and_access(page)
