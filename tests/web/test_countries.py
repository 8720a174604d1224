"""Countries: given with a city, shown with it, and listed with both ranks."""

import json

import httpx
import pytest

from cityweb import countries
from tests.conftest import Addresses, Site, insert, quoted, run_sql
from tests.pages import WAYS, add, one, parse, table, text

ways = pytest.mark.parametrize("way", WAYS)


@ways
@pytest.mark.parametrize("country", ["FR", "fr", "France"])
async def test_a_country_is_stored_with_its_city(site: Site, way: str, country: str) -> None:
    assert (await add(site.client, way, "Paris", 2_138_551, country=country)).status == 201
    city = (await site.client.get("/cities/1.json")).json()
    assert [*city] == ["id", "name", "population", "created_at", "rank", "country", "rank_in_country"]
    assert (city["country"], city["rank_in_country"]) == ("FR", 1)


@ways
async def test_an_unknown_country_is_rejected_and_what_was_entered_stays(site: Site, way: str) -> None:
    outcome = await add(site.client, way, "Paris", 5, country="Atlantis")
    assert (outcome.status, outcome.errors) == (422, {"country": countries.UNKNOWN})
    assert way == "json" or outcome.kept == {"name": "Paris", "population": "5", "country": "Atlantis"}
    page = parse((await site.client.post("/cities/", data={"name": "Paris", "population": 5, "country": "X1"})).text)
    assert "open" in one(page, "details").attrs


@pytest.mark.parametrize("country", [None, ""])
async def test_no_country_is_one_of_the_answers_in_json(site: Site, country: str | None) -> None:
    assert (await add(site.client, "json", "Paris", 5, country=country)).status == 201
    assert (await site.client.get("/cities/1.json")).json()["country"] == ""
    assert (await site.client.get("/cities/1.json")).json()["rank_in_country"] is None


async def test_a_program_that_knows_two_members_sees_no_difference(site: Site) -> None:
    first = await site.client.post("/cities/", json={"name": "Paris", "population": 5, "country": "FR"})
    assert first.json() == {"id": 1, "name": "Paris", "population": 5}
    second = await site.client.post("/cities/", json={"name": "Paris", "population": 5})
    assert second.json()["stored"] == {"id": 1, "name": "Paris", "population": 5}
    assert (await site.client.get("/cities/biggest")).json() == [{"name": "Paris", "population": 5}]


async def test_a_number_as_pandas_writes_it_is_read_from_json(site: Site) -> None:
    headers = {"content-type": "application/json"}
    for number, status in (("37400068.0", 201), ("5.00", 201), ("5.000", 422), ("5.5", 422), ("5e0", 422)):
        body = f'{{"name": "A{number}", "population": {number}}}'
        assert (await site.client.post("/cities/", content=body, headers=headers)).status_code == status, number
    assert [row["population"] for row in (await site.client.get("/cities/biggest")).json()] == [37_400_068, 5]


async def fill(empty: Addresses) -> None:
    """Six cities in three countries, one of them with a code that has no name."""
    rows = [("A", 9, "CN"), ("B", 8, "FR"), ("C", 8, "FR"), ("D", 7, ""), ("E", 6, "FR"), ("F", 5, "QQ")]
    await run_sql(empty.owner, *(insert(name, people, country=quoted(code)) for name, people, code in rows))


async def test_the_list_of_a_country_has_both_ranks(site: Site, empty: Addresses) -> None:
    await fill(empty)
    for query in ("FR", "fr", "France"):
        page = parse((await site.client.get("/cities", params={"country": query})).text)
        assert table(page) == [("1", "B", "8"), ("1", "C", "8"), ("3", "E", "6")]
        ranks = [text(rank) for rank in page.css("th[scope=row] > .quiet")]
        assert ranks == ["2 in the world", "2 in the world", "5 in the world"]
        assert text(one(page, "h1")) == "France"
        assert text(one(page, "#found")) == "3 cities in France"
        assert str(one(page, "link[rel=canonical]").attrs["href"]).endswith("/cities?country=FR")


@pytest.mark.parametrize("population", ["n", "n / 7", "0", "(n % 3) * 1000000"])
async def test_each_city_of_a_country_stands_on_one_page_at_its_ranks(
    site: Site, empty: Addresses, population: str
) -> None:
    await run_sql(
        empty.owner,
        "INSERT INTO cities (name, name_key, name_bare, population, country)"
        f" SELECT 'C' || n, 'c' || n, 'c' || n, {population}, (ARRAY['', 'FR', 'DE'])[n % 3 + 1]"
        " FROM generate_series(1, 400) AS n",
    )
    found = await run_sql(
        empty.app,
        "SELECT * FROM (SELECT name, population, id, country, rank() OVER (ORDER BY population DESC) AS rank,"
        " rank() OVER (PARTITION BY country ORDER BY population DESC) AS rank_in_country FROM cities) AS ranked"
        " WHERE country = 'FR' ORDER BY population DESC, id",
    )
    rows = [(str(row["rank_in_country"]), row["name"], f"{row['population']:,}") for row in found]
    expected = list(zip(rows, [f"{row['rank']} in the world" for row in found], strict=True))

    async def walk(address: str, rel: str) -> list[list[tuple[tuple[str, str, str], str]]]:
        pages = []
        while address:
            page = parse((await site.client.get(address)).text)
            ranks = [text(rank) for rank in page.css("th[scope=row] > .quiet")]
            pages.append(list(zip(table(page), ranks, strict=True)))
            address = "".join(str(link.attrs["href"]) for link in page.css(f"a[rel={rel}]"))
        return pages

    forth, back = await walk("/cities?country=FR", "next"), await walk("/cities?country=FR&after=0-999", "prev")
    assert [row for page in forth for row in page] == expected
    # On the way back, the last page is full.
    assert (back[0], back[-1]) == ([], forth[0])
    assert [row for page in reversed(back[1:-1]) for row in page] == expected[-100:]


async def test_a_country_without_cities_is_an_empty_list_and_an_unknown_one_a_404(site: Site) -> None:
    assert "No cities here." in (await site.client.get("/cities?country=DE")).text
    answer = await site.client.get("/cities?country=Atlantis")
    assert answer.status_code == 404
    assert "There is no such country." in answer.text


async def test_a_search_is_one_of_all_countries(site: Site, empty: Addresses) -> None:
    await fill(empty)
    page = parse((await site.client.get("/cities?q=a&country=FR")).text)
    assert table(page) == [("1", "A", "9")]
    assert str(one(page, "link[rel=canonical]").attrs["href"]).endswith("/cities?q=a")


async def test_the_search_on_the_page_of_a_country_opens_that_of_all_cities(site: Site, empty: Addresses) -> None:
    await fill(empty)
    for path, is_live in (("/cities", True), ("/cities?country=FR", False)):
        form = one(parse((await site.client.get(path)).text), "form.find")
        assert ("hx-get" in form.attrs) is is_live, path


@pytest.mark.parametrize(("country", "status"), [("", 200), ("FR", 200), ("US", 422)])
async def test_a_city_in_another_country_is_no_repetition(site: Site, country: str, status: int) -> None:
    await add(site.client, "json", "Birmingham", 5, country="FR")
    assert (await add(site.client, "plain", "Birmingham", 5, country=country)).status == status


async def test_the_countries_have_codes_names_and_numbers(site: Site, empty: Addresses) -> None:
    assert "No city has a country yet." in (await site.client.get("/countries")).text
    await fill(empty)
    site.countries.read_at = 0
    page = parse((await site.client.get("/countries")).text)
    rows = [[text(cell) for cell in row.css("th, td")] for row in page.css("tbody tr")]
    assert rows == [["FR", "France", "3"], ["CN", "China", "1"], ["QQ", "QQ", "1"]]
    assert "Counted at most a minute ago." in text(one(page, ".facts"))
    beside = parse((await site.client.get("/cities")).text)
    links = [text(link) for link in beside.css("nav h2 ~ ul a[href*=countr]")]
    assert links == ["France", "China", "QQ", "All countries"]


async def test_a_city_has_its_country_wherever_it_is_shown(site: Site, empty: Addresses) -> None:
    await fill(empty)
    await site.board.refresh()
    for path in ("/", "/cities"):
        page = parse((await site.client.get(path)).text)
        quiet = [text(name) for name in page.css("tbody th > .quiet")]
        assert quiet == ["China", "France", "France", "France", "QQ"], path
    page = parse((await site.client.get("/cities/3")).text)
    assert text(one(page, ".crumb")) == "All cities › France ›"
    assert "Number 2 of 6 cities in the world, number 1 of 3 in France" in text(one(page, ".hero"))
    assert text(one(page, "title")) == "C, France: 8 people, number 2 - cityweb"
    assert "in the world" not in (await site.client.get("/cities/4")).text


async def test_files_end_with_the_country(site: Site, empty: Addresses) -> None:
    await fill(empty)
    lines = (await site.client.get("/cities.csv")).text.splitlines()
    assert lines[0] == "rank,id,name,population,created_at,country"
    assert lines[1].endswith(',"CN"')
    assert lines[4].endswith(',""')
    rows = json.loads((await site.client.get("/cities.json")).text)
    assert [(row["name"], row["country"]) for row in rows][:2] == [("A", "CN"), ("B", "FR")]


async def test_suggestions_are_the_names_of_all_countries(site: Site) -> None:
    answer: httpx.Response = await site.client.get("/countries/names")
    options = [text(option) for option in parse(f"<datalist>{answer.text}").css("option")]
    assert options == [*countries.NAMES.values()]
    form = parse((await site.client.get("/")).text)
    assert one(form, "#country").attrs["list"] == one(form, "datalist").attrs["id"]
    assert one(form, "datalist").attrs["hx-get"] == "/countries/names"


async def test_what_stands_in_a_taken_name_says_the_country(site: Site) -> None:
    await add(site.client, "json", "Paris", 5, country="FR")
    assert (await add(site.client, "plain", "Paris", 6)).errors == {
        "name": "Paris is already on the list, with 5 people, in France."
    }
