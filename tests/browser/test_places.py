"""Another Paris, and countries: by mouse, by keyboard and without scripts, on a narrow screen, in each browser."""

from playwright.async_api import Locator, Page, expect

from tests.browser.conftest import Visitor
from tests.browser.steps import (
    Fill,
    button,
    country,
    expect_accessible,
    expect_cities,
    expect_values,
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

PARIS = ("Paris", 2_138_551)
TAKEN = "Paris is already on the list, with 2,138,551 people."


def place(page: Page) -> Locator:
    return page.get_by_role("textbox", name="Say where it is")


async def test_paris_in_texas_is_added_beside_paris_which_is_shown_first(visitor: Visitor, fill: Fill) -> None:
    page = visitor.page
    await fill(PARIS)
    await narrow(page)
    await visitor.open()
    await submit(page, "Paris", "24,171")
    await expect(page.locator("#error-summary")).to_contain_text(TAKEN)
    await expect(page.locator("#error-summary")).to_be_in_viewport()
    await expect_values(page, "Paris", "24,171")
    await place(page).fill("Texas")
    await button(page).click()
    await expect(page.locator("#status > p")).to_have_text(landed("Paris, Texas", 2, "24,171"))
    await expect_cities(page, "Paris", "Paris, Texas")
    await expect(place(page)).to_have_count(0)
    await expect_values(page, "", "")


@in_each_browser
async def test_springfield_is_added_three_times_by_keyboard_alone(visitor: Visitor) -> None:
    page, keyboard = visitor.page, visitor.page.keyboard
    await narrow(page)
    await visitor.open()
    places = ("", "Illinois", "Missouri")
    for number, where in enumerate(places, 1):
        people = f"{100_000 - number:,}"
        for field, text in ((name(page), "Springfield"), (population(page), people)):
            await tab_to(field)
            await keyboard.type(text)
        await keyboard.press("Enter")
        if where:
            await expect(page.locator("#error-summary")).to_be_focused()
            await tab_to(place(page))
            await keyboard.type(where)
            await keyboard.press("Enter")
        whole = f"Springfield, {where}" if where else "Springfield"
        await expect(page.locator("#status > p")).to_have_text(landed(whole, number, people))
    await expect_cities(page, "Springfield", *(f"Springfield, {where}" for where in places[1:]))


async def test_a_country_is_given_under_more_and_shown(visitor: Visitor) -> None:
    page = visitor.page
    await visitor.open()
    await name(page).fill("Paris")
    await population(page).fill("5")
    await tab_to(page.locator("summary"))
    await page.keyboard.press("Enter")
    await tab_to(country(page))
    await page.keyboard.type("Atlantis")
    await page.keyboard.press("Enter")
    await expect(page.locator("#error-summary")).to_contain_text("We don't know that country.")
    await page.get_by_role("link", name="We don't know that country.").click()
    await expect(country(page)).to_be_focused()
    await country(page).fill("france")
    await button(page).click()
    await expect(page.locator("#status > p")).to_have_text(landed("Paris", 1, "5"))
    await expect(page.locator("#board tr[id] th")).to_contain_text("France")
    await expect(country(page)).to_be_hidden()
    await visitor.open("/cities?country=FR")
    await expect(page.get_by_role("heading", level=1)).to_have_text("France")
    await expect(page.locator("tbody th")).to_contain_text("1 in the world")


@in_each_browser
@only_with_scripts
async def test_the_names_of_countries_are_suggested_where_they_are_entered(visitor: Visitor) -> None:
    await visitor.open()
    options = visitor.page.locator("#countries option")
    await expect(options).to_have_count(0)
    await visitor.page.locator("summary").click()
    await country(visitor.page).focus()
    await expect(options).to_have_count(250)
    await expect(options.first).to_have_text("Afghanistan")


@only_with_scripts
@only_in_chromium
async def test_each_state_of_a_place_and_a_country_is_accessible(visitor: Visitor, fill: Fill) -> None:
    page = visitor.page
    await fill(PARIS, ("Paris, Texas", 24_171))
    await visitor.open()
    await submit(page, "Paris", "5")
    await expect(page.locator("#city-form").get_by_role("link", name="Paris, Texas")).to_be_visible()
    await page.locator("summary").click()
    await expect_accessible(page)
    await page.emulate_media(media="screen", forced_colors="none")
    await page.set_viewport_size({"width": 1280, "height": 800})
    await place(page).fill("7")
    await country(page).fill("Atlantis")
    await button(page).click()
    await expect(page.locator("#error-summary")).to_contain_text("Enter a region, a state or a country, like Texas.")
    await expect_accessible(page)
    await page.emulate_media(media="screen", forced_colors="none")
    await visitor.open()
    await page.locator("summary").click()
    await country(page).fill("FR")
    await submit(page, "Lyon", "5")
    await expect(page.locator("#status > p")).to_be_focused()
    for path in ("/", "/cities?country=FR", "/countries", "/cities", "/cities/3"):
        await page.emulate_media(media="screen", forced_colors="none")
        await visitor.open(path)
        await expect_accessible(page)
