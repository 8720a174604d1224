"""Another Paris: a name that is taken, and the place that tells the new city apart, in three formats."""

import asyncio

import pytest

from cityweb.city import BOARD_SIZE
from tests.conftest import Addresses, Site, insert, open_site, run_sql
from tests.pages import HTMX, WAYS, Outcome, add, one, parse, text

ways = pytest.mark.parametrize("way", WAYS)
forms = pytest.mark.parametrize("headers", [{}, HTMX], ids=["plain", "htmx"])
IN_FRANCE = "Paris is already on the list, with 2,138,551 people, in France."


@pytest.fixture
async def paris(site: Site) -> Site:
    """A site with the Paris of France."""
    assert (await add(site.client, "json", "Paris", 2_138_551, country="FR")).status == 201
    return site


async def names_of(site: Site) -> list[str]:
    return [row["name"] for row in (await site.client.get("/cities.json")).json()]


@ways
async def test_another_paris_is_asked_where_it_is_and_then_added(paris: Site, way: str) -> None:
    taken = await add(paris.client, way, "paris", "24,171", country="US")
    assert (taken.status, taken.errors) == (422, {"name": IN_FRANCE})
    assert way == "json" or taken.kept == {"name": "paris", "population": "24,171", "country": "US", "place": ""}
    assert (await add(paris.client, way, "Paris", "24,171", country="US", place=" Texas ")).status == 201
    assert await names_of(paris) == ["Paris", "Paris, Texas"]


@forms
async def test_the_form_shows_the_stored_city_first_and_asks_for_the_place_of_the_other(
    paris: Site, headers: dict[str, str]
) -> None:
    page = parse((await paris.client.post("/cities/", data={"name": "Paris", "population": "5"}, headers=headers)).text)
    labels = [text(label) for label in page.css("#city-form label")]
    assert labels[:3] == ["City name", "Another Paris? Say where it is:", "Population"]
    assert text(one(page, "#place-hint")) == "A region, a state or a country, like Texas"
    assert one(page, "#place").attrs["value"] == ""
    assert text(one(page, "#name-error + p")) == "See Paris or correct it"


async def test_a_new_form_asks_for_no_place(paris: Site) -> None:
    assert not parse((await paris.client.get("/")).text).css("#place")
    rejected = await paris.client.post("/cities/", data={"name": "", "population": "5"})
    assert not parse(rejected.text).css("#place")


@ways
async def test_a_taken_place_is_told_at_the_place(paris: Site, way: str) -> None:
    await add(paris.client, "json", "Paris, Texas", 24_171)
    taken = await add(paris.client, way, "Paris", "5", place="texas")
    assert taken.status == 422
    assert taken.errors == {"place": "Paris, Texas is already on the list, with 24,171 people."}
    assert way == "json" or taken.kept == {"name": "Paris", "population": "5", "country": "", "place": "texas"}


@ways
@pytest.mark.parametrize(
    ("place", "sentence"), [("75", "Enter a region, a state or a country, like Texas."), ("=", None)]
)
async def test_a_rejected_place_keeps_what_was_entered(paris: Site, way: str, place: str, sentence: str | None) -> None:
    rejected = await add(paris.client, way, "Paris", "5", place=place)
    assert rejected.status == 422
    assert sentence is None or rejected.errors == {"place": sentence}
    assert way == "json" or rejected.kept == {"name": "Paris", "population": "5", "country": "", "place": place}


@forms
async def test_the_stored_namesakes_stand_below_the_place_three_at_most(paris: Site, headers: dict[str, str]) -> None:
    for number, place in enumerate(("Texas", "Ontario", "Idaho", "Maine")):
        await add(paris.client, "json", "Paris", 20_000 - number, place=place)
    for other in ("Parisville", "Le Paris, Texas", "Paris Texas", "Paris-Texas"):
        await add(paris.client, "json", other, 10_000_000)
    page = parse((await paris.client.post("/cities/", data={"name": "PARIS", "population": "5"}, headers=headers)).text)
    # The stored city is one of the three; it stands above.
    assert [text(link) for link in page.css("#place ~ small a")] == ["Paris, Texas", "Paris, Ontario"]


async def test_a_namesake_is_told_apart_five_times(site: Site) -> None:
    for number, place in enumerate(("", "Illinois", "Missouri", "Massachusetts", "Oregon")):
        assert (await add(site.client, "plain", "Springfield", 150_000 - number, place=place)).status == 201
    page = parse((await site.client.get("/")).text)
    assert [text(name) for name in page.css("#board tr[id] bdi")][1] == "Springfield, Illinois"
    assert [text(place) for place in page.css("#board bdi .quiet")] == [
        "Illinois",
        "Missouri",
        "Massachusetts",
        "Oregon",
    ]


async def test_ten_adds_at_once_store_one_bare_name_and_each_place_once(site: Site) -> None:
    places = ("", "", "Texas", "Ontario", "Texas", "Idaho", "Maine", "Maine", "Ohio", "Kentucky")
    outcomes = await asyncio.gather(*(add(site.client, "json", "Paris", 5, place=place) for place in places))
    assert sorted(outcome.status for outcome in outcomes) == [201] * 7 + [422] * 3
    assert sorted(await names_of(site)) == sorted({f"Paris, {place}" if place else "Paris" for place in places})


async def test_what_follows_the_last_comma_is_quieter_everywhere(paris: Site, empty: Addresses) -> None:
    await add(paris.client, "json", "Washington, D.C.", 689_545)
    rows = ",".join(f"('C{n}', 'c{n}', 'c{n}', {BOARD_SIZE})" for n in range(BOARD_SIZE))
    await run_sql(empty.owner, f"INSERT INTO cities (name, name_key, name_bare, population) VALUES {rows}")
    for path in ("/", "/cities", "/cities/1"):
        page = parse((await paris.client.get(path)).text)
        assert [text(place) for place in page.css(".rows bdi .quiet")] == ["D.C."], path


async def test_a_rejected_add_and_a_link_keep_place_and_country(empty: Addresses) -> None:
    values = {"name": "Paris", "population": "5", "place": "Texas", "country": "US"}
    async with open_site(empty.app, CITYWEB_RATE_LIMIT="1,1,60") as site:
        await add(site.client, "json", "Paris", 5)
        answer = await site.client.post("/cities/", data=values)
        assert answer.status_code == 429
        page = parse(answer.text)
        assert {name: one(page, f"#{name}").attrs["value"] for name in values} == values
        page = parse((await site.client.get("/", params=values)).text)
        assert {name: one(page, f"#{name}").attrs["value"] for name in values} == values


async def test_namesakes_are_left_out_where_the_database_is_away(paris: Site, empty: Addresses) -> None:
    await run_sql(empty.owner, insert("Paris, Texas", 5))
    outcome: Outcome = await add(paris.client, "plain", "Paris", "5")
    assert outcome.errors == {"name": IN_FRANCE}
