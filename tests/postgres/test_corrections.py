"""What an operator corrects."""

from dataclasses import replace

import pytest

from cityweb import names
from cityweb.postgres import corrections, transfers
from cityweb.postgres.cities import Stored
from cityweb.settings import OperatorError
from tests.conftest import Addresses, Site, lines, run_sql, stored, until


@pytest.fixture
async def cities(empty: Addresses) -> Addresses:
    await transfers.load(empty.owner, lines(("São Paulo", 5), ("Zürich", 4)))
    return empty


async def test_a_city_is_found_as_the_site_finds_it(cities: Addresses) -> None:
    assert (await corrections.find(cities.owner, " SÃO  paulo ")).name == "São Paulo"


@pytest.mark.parametrize(
    ("name", "words"), [("Sao Paulo", "write São Paulo"), ("Atlantis", "python manage.py dump prints all names")]
)
async def test_a_city_that_is_not_there_is_a_sentence(cities: Addresses, name: str, words: str) -> None:
    with pytest.raises(OperatorError, match=f"No city is called {name}: {words}"):
        await corrections.find(cities.owner, name)


async def test_a_city_is_found_by_its_id(cities: Addresses) -> None:
    assert await corrections.find(cities.owner, 2) == Stored(2, "Zürich", 4, "")
    with pytest.raises(OperatorError, match="No city has the id 3: the URL"):
        await corrections.find(cities.owner, 3)


async def test_a_name_of_more_than_1000_characters_is_not_even_looked_for(cities: Addresses) -> None:
    assert (await corrections.find(cities.owner, 994 * " " + "Zürich")).name == "Zürich"
    with pytest.raises(OperatorError, match="No city name is that long"):
        await corrections.find(cities.owner, 995 * " " + "Zürich")


async def test_a_population_is_corrected(cities: Addresses) -> None:
    before = await corrections.find(cities.owner, "Zürich")
    await corrections.store(cities.owner, before, corrections.corrected(before, "1,000"))
    assert await stored(cities) == [("Zürich", 1000), ("São Paulo", 5)]


async def test_of_a_stored_name_from_before_a_rule_only_what_changes_is_checked(empty: Addresses) -> None:
    await transfers.load(empty.owner, lines(("A;b", 5)))
    before = await corrections.find(empty.owner, "a;B")
    await corrections.store(empty.owner, before, corrections.corrected(before, "6"))
    assert await stored(empty) == [("A;b", 6)]
    after = await corrections.find(empty.owner, "a;B")
    with pytest.raises(OperatorError, match="The characters ; = "):
        corrections.renamed(after, "A;c")
    await corrections.store(empty.owner, after, corrections.renamed(after, "A;b"))
    await corrections.store(empty.owner, after, corrections.renamed(after, "A-b"))
    assert await stored(empty) == [("A-b", 6)]


@pytest.mark.parametrize("new", ["Genève", "ZÜRICH"])
async def test_a_city_is_renamed_with_its_keys(cities: Addresses, new: str) -> None:
    before = await corrections.find(cities.owner, "Zürich")
    await corrections.store(cities.owner, before, corrections.renamed(before, f" {new} "))
    row = (await run_sql(cities.owner, f"SELECT name, name_key, name_bare FROM cities WHERE id = {before.id}"))[0]
    assert tuple(row) == (new, names.key(new), names.bare(new))


async def test_a_name_that_is_taken_is_rejected(cities: Addresses) -> None:
    before = await corrections.find(cities.owner, "Zürich")
    with pytest.raises(OperatorError, match="already stored"):
        await corrections.store(cities.owner, before, corrections.renamed(before, "SÃO PAULO"))


async def test_what_the_form_rejects_is_rejected() -> None:
    city = Stored(1, "Zürich", 4, "")
    with pytest.raises(OperatorError, match="Write the number in full"):
        corrections.corrected(city, "1.5")
    with pytest.raises(OperatorError, match="City names must start with"):
        corrections.renamed(city, "=A")
    with pytest.raises(OperatorError, match="longer than 200 characters"):
        corrections.renamed(city, "A" + 1_000 * "\u00ad")


async def test_a_city_is_removed(cities: Addresses) -> None:
    await corrections.remove(cities.owner, await corrections.find(cities.owner, "zürich"))
    assert await stored(cities) == [("São Paulo", 5)]


async def test_a_city_that_has_changed_meanwhile_is_left_alone(cities: Addresses) -> None:
    before = await corrections.find(cities.owner, "Zürich")
    await run_sql(cities.owner, "UPDATE cities SET population = 9")
    for change in (
        corrections.remove(cities.owner, before),
        corrections.store(cities.owner, before, replace(before, population=7)),
    ):
        with pytest.raises(OperatorError, match="somebody else"):
            await change
    assert len(await stored(cities)) == 2


async def keys(addresses: Addresses) -> list[str]:
    return [row["name_key"] for row in await run_sql(addresses.owner, "SELECT name_key FROM cities ORDER BY id")]


async def test_the_population_that_a_city_has_is_no_correction(twins: Addresses) -> None:
    for city_id in (1, 2):
        city = await corrections.find(twins.owner, city_id)
        with pytest.raises(OperatorError, match="has this population already"):
            corrections.corrected(city, f" {city.population} ")


async def test_a_duplicate_is_corrected(twins: Addresses) -> None:
    before = await corrections.find(twins.owner, 2)
    await corrections.store(twins.owner, before, corrections.corrected(before, "6"))
    assert await stored(twins) == [("Xi’an", 6), ("Xi'an", 5)]
    assert await keys(twins) == ["xi'an", "DUPLICATE:2"]


async def test_a_duplicate_gets_a_name_of_its_own(twins: Addresses) -> None:
    before = await corrections.find(twins.owner, 2)
    with pytest.raises(OperatorError, match="already stored"):
        await corrections.store(twins.owner, before, corrections.renamed(before, "XI'AN"))
    await corrections.store(twins.owner, before, corrections.renamed(before, "Xi’an, Anhui"))
    assert await keys(twins) == ["xi'an", "xi'an, anhui"]


async def test_a_duplicate_gets_its_name_once_that_is_free(twins: Addresses) -> None:
    before = await corrections.find(twins.owner, 2)
    await corrections.remove(twins.owner, await corrections.find(twins.owner, 1))
    await corrections.store(twins.owner, before, corrections.renamed(before, "Xi’an"))
    assert await keys(twins) == ["xi'an"]


async def logged(addresses: Addresses) -> list[tuple[object, ...]]:
    rows = await run_sql(
        addresses.owner,
        "SELECT kind, city_id, old_name, old_population, old_country, new_name, new_population, new_country, reason,"
        " operator, network FROM changes WHERE kind <> 'load' ORDER BY id",
    )
    return [tuple(row) for row in rows]


@pytest.mark.parametrize(("country", "code"), [("Switzerland", "CH"), (" ch ", "CH"), ("", ""), (None, "DE")])
async def test_a_country_is_corrected_removed_or_left(cities: Addresses, country: str | None, code: str) -> None:
    await run_sql(cities.owner, "UPDATE cities SET country = 'DE'")
    before = await corrections.find(cities.owner, "Zürich")
    await corrections.store(cities.owner, before, corrections.corrected(before, "7", country))
    assert await corrections.find(cities.owner, "Zürich") == Stored(2, "Zürich", 7, code)


def test_a_country_is_corrected_alone_and_must_be_one() -> None:
    city = Stored(1, "Zürich", 4, "CH")
    assert corrections.corrected(city, "4", "") == replace(city, country="")
    with pytest.raises(OperatorError, match="has this population and this country already: run the command again"):
        corrections.corrected(city, "4", "Switzerland")
    with pytest.raises(OperatorError, match=r"We don't know that country. .* Run the command again"):
        corrections.corrected(city, "4", "Atlantis")


async def test_what_an_operator_changes_is_logged_with_the_reason(cities: Addresses) -> None:
    city = await corrections.find(cities.owner, "Zürich")
    for after, reason in (
        (replace(city, population=9, country="CH"), "census"),
        (Stored(2, "Geneva", 9, "CH"), None),
        (None, "not a city"),
    ):
        if after:
            await corrections.store(cities.owner, city, after, reason)
            city = after
        else:
            await corrections.remove(cities.owner, city, reason)
    assert await logged(cities) == [
        ("correct", 2, None, 4, "", None, 9, "CH", "census", True, None),
        ("correct", 2, "Zürich", None, None, "Geneva", None, None, None, True, None),
        ("remove", 2, "Geneva", 9, "CH", None, None, None, "not a city", True, None),
    ]


async def blocked(addresses: Addresses) -> list[str]:
    return [row["name_key"] for row in await run_sql(addresses.owner, "SELECT name_key FROM blocks")]


async def test_a_removed_name_is_blocked_until_an_operator_uses_it(cities: Addresses) -> None:
    await corrections.remove(cities.owner, await corrections.find(cities.owner, "Zürich"))
    assert await blocked(cities) == ["zürich"]
    city = await corrections.find(cities.owner, "São Paulo")
    await corrections.store(cities.owner, city, corrections.corrected(city, "6"))
    assert await blocked(cities) == ["zürich"]
    city = await corrections.find(cities.owner, "São Paulo")
    await corrections.store(cities.owner, city, corrections.renamed(city, "ZÜRICH"))
    assert await blocked(cities) == []


async def test_a_city_that_is_gone_cannot_be_changed(cities: Addresses) -> None:
    city = await corrections.find(cities.owner, "Zürich")
    await run_sql(cities.owner, "DELETE FROM cities")
    for change in (
        corrections.remove(cities.owner, city),
        corrections.store(cities.owner, city, replace(city, population=7)),
    ):
        with pytest.raises(OperatorError, match="somebody else"):
            await change


async def test_the_board_follows(site: Site, empty: Addresses) -> None:
    async def show(*names: str) -> None:
        await until(lambda: [row.name for row in site.board.snapshot.leaders.rows] == list(names))

    await transfers.load(empty.owner, lines(("A", 5), ("B", 4)))
    await show("A", "B")
    before = await corrections.find(empty.owner, "B")
    await corrections.store(empty.owner, before, corrections.corrected(before, "6"))
    await show("B", "A")
    await corrections.remove(empty.owner, await corrections.find(empty.owner, "A"))
    await show("B")
