"""`make screens`: every page and state at five widths in three colour modes: screenshots, room, and what axe finds."""

import sys
import tempfile
from collections.abc import Callable
from itertools import product
from pathlib import Path

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, sync_playwright

from demo.site import find_chromium, serving
from tests.browser.steps import RULES

SIZES = ((320, 640), (390, 844), (768, 1024), (1280, 800), (1920, 1080))
MODES = {"light": {"color_scheme": "light"}, "dark": {"color_scheme": "dark"}, "forced": {"forced_colors": "active"}}
LONG = "Taumatawhakatangihangakoauauotamateaturipukakapikimaungahoro"


def submit(name: str, population: str) -> Callable[[Page], None]:
    """Adds a city with the form of the open page, and waits for the response."""

    def act(page: Page) -> None:
        page.locator("#name").fill(name)
        page.locator("#population").fill(population)
        page.locator("#city-form button").click()
        page.wait_for_selector("#status > p, #error-summary, #problem > *")

    return act


def lose_connection(page: Page) -> None:
    page.context.set_offline(True)
    page.locator("#not-live:not(:empty)").wait_for()


def try_it(page: Page) -> None:
    page.get_by_role("button", name="Try it").first.click()
    page.wait_for_selector("pre:not([hidden])")


def pause(page: Page) -> None:
    page.get_by_role("button", name="Pause").click()


def correct(population: str) -> Callable[[Page], None]:
    """Sends the open form of a city's page with this population, and waits for the response."""

    def act(page: Page) -> None:
        page.locator("#correct summary").first.click()
        page.locator("#population").fill(population)
        page.locator("#correct-form button").click()
        page.wait_for_selector("#correct [autofocus], #problem > *")

    return act


def meet_a_conflict(page: Page) -> None:
    """Sends the form of a page with a population that has changed since the page was opened."""
    with page.context.new_page() as other:
        other.goto(page.url)
        now = other.locator("#correct-form [name=old_population]").input_value()
        correct(str(int(now) + 1))(other)
    correct(str(int(now) + 2))(page)


def remove(page: Page) -> None:
    if page.get_by_text("was removed").count():
        return
    page.locator("#correct summary").last.click()
    page.get_by_label("Duplicate").check()
    page.get_by_role("button", name="Remove the city").click()
    page.get_by_text("was removed").wait_for()


STATES: dict[str, tuple[str, Callable[[Page], None]]] = {
    "board": ("", lambda _: None),
    "landed": ("", submit("Shanghai", "24874500")),
    "below": ("", submit("Leeds", "536,280")),
    "long": ("", submit(LONG, "5")),
    "rejected": ("", submit("", "about 24k")),
    "taken": ("", submit("Shanghai", "5")),
    "more": ("?country=Atlantis", lambda page: page.locator("#city-form button").click()),
    "paused": ("", pause),
    "not-live": ("", lose_connection),
    "off": ("?live=off", lambda _: None),
    "list": ("cities", lambda _: None),
    "deep": ("cities?after=2000000-0", lambda _: None),
    "similar": ("cities?q=mumbi", lambda _: None),
    "country": ("cities?country=FR", lambda _: None),
    "countries": ("countries", lambda _: None),
    "city": ("cities/100", lambda _: None),
    "first": ("cities/1", lambda _: None),
    "corrected": ("cities/100", correct("5 million")),
    "unlikely": ("cities/100", correct("5")),
    "conflict": ("cities/101", meet_a_conflict),
    "removed": ("cities/102", remove),
    "changes": ("changes", lambda _: None),
    "privacy": ("privacy", lambda _: None),
    "data": ("api", lambda _: None),
    "tried": ("api", try_it),
    "missing": ("nowhere", lambda _: None),
}


def main() -> None:
    """Writes the screenshots into a folder, and prints what is wrong with each; ends with 1 if anything is."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp())
    folder.mkdir(exist_ok=True)
    wrong = 0
    with serving() as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=["--no-sandbox"])
        for (width, height), (mode, options), (state, (path, act)) in product(SIZES, MODES.items(), STATES.items()):
            with browser.new_context(
                viewport={"width": width, "height": height}, reduced_motion="reduce", **options
            ) as context:
                page = context.new_page()
                page.goto(url + path)
                act(page)
                page.screenshot(path=folder / f"{state}-{width}-{mode}.png", full_page=True)
                found = faults(page)
            wrong += len(found)
            print(*(f"{state} {width} {mode}: {fault}\n" for fault in found), sep="", end="", flush=True)
    print(f"{len(SIZES) * len(MODES) * len(STATES)} screenshots in {folder}, {wrong} faults")
    sys.exit(bool(wrong))


def faults(page: Page) -> list[str]:
    """The rules of axe that the page breaks, and whether it scrolls sideways."""
    found = [violation["id"] for violation in Axe().run(page, options=RULES).response["violations"]]
    room = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    return found + (["it scrolls sideways"] if room else [])


if __name__ == "__main__":
    main()
