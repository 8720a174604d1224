"""Corrections, removals and reverts by visitors, as a page, as fragments for htmx and as JSON."""

import asyncio
import json
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from selectolax.lexbor import LexborNode

from cityweb import countries
from cityweb.city import ID_MAX
from cityweb.postgres import ranking
from cityweb.postgres.database import DatabaseUnavailable
from tests.conftest import FILL, Addresses, Site, insert, open_site, quoted, run_sql, stored, unmeasured
from tests.pages import HTMX, add, one, parse, text
from tests.proxy import Proxy

BERLIN = {"old_name": "Berlin", "old_population": "3677000", "old_country": "DE"}
TYPO = {**BERLIN, "name": "Berlin", "population": "3677001", "country": "Germany"}
JSON = {"accept": "application/json"}


@pytest.fixture
async def berlin(site: Site) -> Site:
    """The site with one city, whose id is 1."""
    await site.client.post("/cities/", json={"name": "Berlin", "population": 3_677_000, "country": "DE"})
    return site


@pytest.fixture
async def below(site: Site, empty: Addresses) -> Site:
    """The site with a full board and a city of another network below it, whose id is 30."""
    await run_sql(
        empty.owner,
        FILL.format(population="1000000 + n", first=1, last=20),
        insert("Brno", 400_000, id=30, created_at="now() - interval '2 days'"),
    )
    await site.board.refresh()
    return site


async def post(site: Site, path: str, way: str, fields: dict[str, str], **headers: str) -> httpx.Response:
    """Sends fields in one of the three ways."""
    if way == "json":
        return await site.client.post(path, json=fields, headers=headers)
    return await site.client.post(path, data=fields, headers={**(HTMX if way == "htmx" else {}), **headers})


def log(page: LexborNode) -> list[str]:
    """The lines of a log without times, contributors and buttons."""
    return [text(line).partition(" UTC")[0].rpartition(" ")[0] for line in page.css(".log > li > div")]


def xml(feed: str) -> LexborNode:
    """A feed, read as HTML, which finds the same elements."""
    return parse(feed.partition("?>")[2])


def old_values(page: LexborNode) -> dict[str, str]:
    return {str(field.attrs["name"]): str(field.attrs["value"]) for field in page.css("#correct-form [name^='old_']")}


async def history_of(site: Site, city: int = 1) -> list[str]:
    return log(parse((await site.client.get(f"/cities/{city}")).text))


# --- correct ---


@pytest.mark.parametrize("way", ["plain", "htmx", "json"])
async def test_a_city_is_corrected(berlin: Site, empty: Addresses, way: str) -> None:
    answer = await post(berlin, "/cities/1", way, TYPO)
    if way == "plain":
        assert (answer.status_code, answer.headers["location"]) == (303, "/cities/1#history")
    elif way == "json":
        assert answer.status_code == 200
        assert answer.json() == {"id": 1, "name": "Berlin", "population": 3_677_001, "country": "DE"}
    else:
        assert answer.status_code == 200
        page = parse(answer.text)
        assert old_values(page) == {**BERLIN, "old_population": "3677001"}
        assert text(one(page, "hx-partial[hx-target='#city'] .big")) == "3,677,001 people"
        assert text(one(page, "#correct [role=status][tabindex='-1'][autofocus]")).startswith("Your change was saved.")
        assert not page.css("#correct details[open]")
    assert answer.headers["cache-control"] == "no-store"
    assert await stored(empty) == [("Berlin", 3_677_001)]
    # The board shows it at once.
    assert berlin.board.snapshot.leaders.rows[0].population == 3_677_001
    assert await history_of(berlin) == ["population 3,677,000 → 3,677,001", "added, population 3,677,000"]


async def test_all_three_values_can_be_corrected_at_once(berlin: Site) -> None:
    changed = {"name": " Bärlin ", "population": "3.7 million", "country": "fr"}
    answer = await berlin.client.post("/cities/1", json={**BERLIN, **changed})
    assert answer.json() == {"id": 1, "name": "Bärlin", "population": 3_700_000, "country": "FR"}
    assert (await history_of(berlin))[0] == (
        "name Berlin → Bärlin, population 3,677,000 → 3,700,000, country Germany → France"
    )
    assert (await berlin.client.post("/cities/", json={"name": "bärlin", "population": 1})).status_code == 422
    assert "Bärlin" in (await berlin.client.get("/cities?q=barlin")).text
    answer = await berlin.client.post("/cities/1", json={"country": None, "old_country": "FR"})
    assert answer.json()["country"] == ""


@pytest.mark.parametrize("way", ["plain", "json"])
async def test_what_does_not_change_is_neither_checked_nor_logged(empty: Addresses, way: str) -> None:
    # This name breaks a rule that is newer than it is.
    await run_sql(empty.owner, insert("A;b", 5, country="'ZZ'"))
    async with open_site(empty.app) as site:
        same = {"name": " A;b ", "population": "5.0", "country": "ZZ", "old_name": "A;b", "old_population": "5"}
        answer = await post(site, "/cities/1", way, {**same, "old_country": "ZZ"})
        assert answer.status_code == (303 if way == "plain" else 200)
        assert await history_of(site) == []
        answer = await post(site, "/cities/1", way, {**same, "old_country": "ZZ", "population": "6"})
        assert await stored(empty) == [("A;b", 6)]
        page = parse((await site.client.get("/cities/1")).text)
    assert text(one(page, "#history .quiet")).startswith("Added ")


async def test_a_correction_of_nothing_says_so(berlin: Site) -> None:
    answer = await post(berlin, "/cities/1", "htmx", {**TYPO, "population": "3.677 million"})
    assert text(one(parse(answer.text), "#correct [autofocus]")) == (
        "Nothing was changed: the city has these values already."
    )


async def test_a_city_from_before_the_log_says_when_it_was_added(empty: Addresses) -> None:
    await run_sql(empty.owner, insert("Ur", 5, created_at="'2026-12-03 01:00+00'"))
    async with open_site(empty.app) as site:
        page = parse((await site.client.get("/cities/1")).text)
    assert text(one(page, "#history")) == "History Added 3 December 2026"


async def test_beyond_ten_changes_the_page_links_to_all(berlin: Site) -> None:
    for people in range(1, 11):
        change = {"population": people, "old_population": people - 1 or 3_677_000}
        assert (await berlin.client.post("/cities/1", json=change)).status_code == 200
    page = parse((await berlin.client.get("/cities/1")).text)
    lines = log(page)
    assert (len(lines), lines[-1]) == (10, "population 3,677,000 → 1")
    assert "Added" not in text(one(page, "#history"))
    everything = parse((await berlin.client.get(str(one(page, "#history .links a").attrs["href"]))).text)
    assert log(everything)[-1] == "Berlin: added, population 3,677,000"
    assert text(one(everything, "h1")) == "Changes of Berlin"


@pytest.mark.parametrize("way", ["plain", "htmx", "json"])
async def test_of_two_visitors_the_second_sees_both_values(berlin: Site, empty: Addresses, way: str) -> None:
    await post(berlin, "/cities/1", "json", TYPO)
    answer = await post(berlin, "/cities/1", way, {**TYPO, "population": "3677002", "country": "Austria"})
    sentence = (
        "Somebody changed Berlin in the meantime, to 3,677,001. You entered 3,677,002. Send it again to replace theirs."
    )
    assert answer.status_code == 409
    if way == "json":
        assert answer.json()["errors"] == {"population": sentence}
        assert answer.json()["stored"] == {"id": 1, "name": "Berlin", "population": 3_677_001, "country": "DE"}
        return
    page = parse(answer.text)
    assert text(one(page, "#population-error")) == f"Error: {sentence}"
    one(page, "#correct details[open] #error-summary[autofocus]")
    assert old_values(page) == {**BERLIN, "old_population": "3677001"}
    form = {str(field.attrs["name"]): str(field.attrs["value"]) for field in page.css("#correct-form [name][value]")}
    assert (form["population"], form["country"], form["name"]) == ("3677002", "Austria", "Berlin")
    # Sent again, it replaces theirs.
    await post(berlin, "/cities/1", way, form)
    row = (await run_sql(empty.owner, "SELECT population, country FROM cities"))[0]
    assert tuple(row) == (3_677_002, "AT")


async def test_a_conflict_does_not_change_back_what_somebody_else_changed(berlin: Site, empty: Addresses) -> None:
    await berlin.client.post("/cities/1", json={"country": "FR", "old_country": "DE"})
    await berlin.client.post("/cities/1", json={"population": 5, "old_population": 3_677_000})
    page = parse((await post(berlin, "/cities/1", "plain", TYPO)).text)
    form = {str(field.attrs["name"]): str(field.attrs["value"]) for field in page.css("#correct-form [name][value]")}
    assert (form["country"], form["old_country"]) == ("France", "FR")
    await post(berlin, "/cities/1", "plain", {**form, "confirm": form["population"]})
    row = (await run_sql(empty.owner, "SELECT population, country FROM cities"))[0]
    assert tuple(row) == (3_677_001, "FR")


async def test_two_values_by_two_visitors_are_both_stored(berlin: Site, empty: Addresses) -> None:
    for change in ({"population": "3677001"}, {"country": "France"}):
        unchanged = {"name": "Berlin", "population": "3,677,000", "country": "Germany"}
        assert (await post(berlin, "/cities/1", "plain", {**BERLIN, **unchanged, **change})).status_code == 303
    row = (await run_sql(empty.owner, "SELECT population, country FROM cities"))[0]
    assert tuple(row) == (3_677_001, "FR")


@unmeasured
async def test_50_corrections_from_one_page(berlin: Site, empty: Addresses) -> None:
    sent = [{**TYPO, "population": str(3_677_001 + n)} for n in range(50)]
    answers = await asyncio.gather(*(post(berlin, "/cities/1", "plain", fields) for fields in sent))
    assert sorted(answer.status_code for answer in answers) == [303] + 49 * [409]
    for fields, answer in zip(sent, answers, strict=True):
        if answer.status_code == 409:
            assert one(parse(answer.text), "#population").attrs["value"] == fields["population"]
    assert len(await run_sql(empty.owner, "SELECT FROM changes WHERE kind = 'correct'")) == 1


@pytest.mark.parametrize(
    ("change", "field", "sentence"),
    [
        ({"name": ""}, "name", "Enter a city name."),
        ({"name": "A;b"}, "name", "The characters ; = | @ < > { } \\ can't be part of a city name."),
        ({"population": "1.5"}, "population", "Write the number in full, like 13,960,000, or as 13.96 million."),
        ({"country": "Atlantis"}, "country", countries.UNKNOWN),
        ({"topic": "x"}, "topic", "Leave this field empty."),
    ],
)
@pytest.mark.parametrize("way", ["plain", "htmx", "json"])
async def test_an_invalid_value_is_rejected(
    berlin: Site, empty: Addresses, way: str, change: dict[str, str], field: str, sentence: str
) -> None:
    answer = await post(berlin, "/cities/1", way, {**TYPO, **change})
    assert answer.status_code == 422
    if way == "json":
        assert list(answer.json()["errors"]) == [field]
    else:
        page = parse(answer.text)
        assert text(one(page, "title")).startswith("Error: Berlin")
        assert text(one(page, f"#{field}-error")).startswith("Error: ")
        one(page, "#correct details[open] #error-summary")
        assert old_values(page) == BERLIN
    assert sentence in (answer.json()["detail"] if way == "json" else text(parse(answer.text)))
    assert await stored(empty) == [("Berlin", 3_677_000)]


@pytest.mark.parametrize("way", ["plain", "htmx", "json"])
async def test_a_taken_name_is_rejected(berlin: Site, way: str) -> None:
    await add(berlin.client, "json", "Zürich", 402_762)
    answer = await post(berlin, "/cities/1", way, {**TYPO, "name": "ZÜRICH"})
    assert answer.status_code == 422
    sentence = "Zürich is already on the list, with 402,762 people."
    if way == "json":
        assert (answer.json()["detail"], answer.json()["errors"]) == ("The city is already stored", {"name": sentence})
        assert answer.json()["stored"]["id"] == 2
    else:
        page = parse(answer.text)
        assert text(one(page, "#name-error")) == f"Error: {sentence}"
        one(page, "#error-summary a[href='/cities/2']")


@pytest.mark.parametrize(
    ("people", "is_asked"),
    [
        ("11,031,000", True),  # three times as many
        ("11,030,999", False),
        ("1,225,666", True),  # a third
        ("1,225,667", False),
        ("83,360,000", True),
    ],
)
async def test_an_unlikely_correction_is_asked_about_once(berlin: Site, people: str, is_asked: bool) -> None:
    answer = await post(berlin, "/cities/1", "plain", {**TYPO, "population": people})
    assert answer.status_code == (422 if is_asked else 303)
    if is_asked:
        page = parse(answer.text)
        assert text(one(page, "#population-error")) == f"Error: Is {people} right? If it is, send it again."
        confirm = str(one(page, "#correct-form [name=confirm]").attrs["value"])
        assert confirm == people.replace(",", "")
        # Another number needs another confirmation.
        other = await post(berlin, "/cities/1", "plain", {**TYPO, "population": "99,000,000", "confirm": confirm})
        assert other.status_code == 422
        answer = await post(berlin, "/cities/1", "plain", {**TYPO, "population": people, "confirm": confirm})
        assert answer.status_code == 303


async def test_a_small_difference_is_not_asked_about(site: Site) -> None:
    await add(site.client, "json", "Greenhorn", 3)
    change = {"name": "Greenhorn", "old_name": "Greenhorn", "old_population": "3", "old_country": "", "country": ""}
    assert (await post(site, "/cities/1", "plain", {**change, "population": "100,003"})).status_code == 422
    assert (await post(site, "/cities/1", "plain", {**change, "population": "100,002"})).status_code == 303


@pytest.mark.parametrize("way", ["plain", "htmx"])
async def test_on_a_full_board_half_as_many_again_as_number_1_is_asked_about(below: Site, way: str) -> None:
    at_most = {"name": "Huge", "population": "1,500,030"}
    answer = await post(below, "/cities/", way, {"name": "Huge", "population": "1,500,031"})
    assert answer.status_code == 422
    page = parse(answer.text)
    assert text(one(page, "#population-error")) == "Error: Is 1,500,031 right? If it is, send it again."
    confirm = str(one(page, "#city-form [name=confirm]").attrs["value"])
    assert (await post(below, "/cities/", way, {**at_most, "name": "Big"})).status_code == (
        303 if way == "plain" else 200
    )
    answer = await post(below, "/cities/", way, {"name": "Huge", "population": "1,500,031", "confirm": confirm})
    assert answer.status_code == (303 if way == "plain" else 200)


async def test_a_program_is_taken_at_its_word(below: Site) -> None:
    assert (await below.client.post("/cities/", json={"name": "Huge", "population": 99_999_999})).status_code == 201
    change = {"population": 99_999_999, "old_population": 400_000}
    assert (await below.client.post("/cities/30", json=change)).status_code == 200


async def test_without_a_board_nothing_is_asked_about(empty: Addresses) -> None:
    async with Proxy(empty.app) as proxy:
        proxy.down()
        async with open_site(proxy.url) as site:
            answer = await post(site, "/cities/", "plain", {"name": "Huge", "population": "99,999,999"})
    assert answer.status_code == 503


@pytest.mark.parametrize(
    ("path", "fields", "missing"),
    [
        ("/cities/1", {"population": 5}, "old_population"),
        ("/cities/1", {"name": "X", "old_population": 3_677_000}, "old_name"),
        ("/cities/1/remove", {"reason": "duplicate", "old_name": "Berlin", "old_country": "DE"}, "old_population"),
    ],
)
async def test_without_the_values_that_were_shown_nothing_is_changed(
    berlin: Site, empty: Addresses, path: str, fields: dict[str, object], missing: str
) -> None:
    for answer in (await berlin.client.post(path, json=fields), await berlin.client.post(path, data=fields)):
        assert answer.status_code == 428
        assert f"Send {missing} too: the value that you were shown." in answer.text
    assert await stored(empty) == [("Berlin", 3_677_000)]


@pytest.mark.parametrize("body", [{}, {"foo": 1}, [1], {"old_name": "Berlin"}])
async def test_a_body_without_a_field_changes_nothing(berlin: Site, body: object) -> None:
    answer = await berlin.client.post("/cities/1", json=body)
    assert (answer.status_code, answer.json()["detail"]) == (
        422,
        "Send what changes: a name, a population or a country.",
    )


@pytest.mark.parametrize("shown", ["\0", "\ud800", {}, [], 10**30, -1, 1.5, True, "x" * 2_000])
@pytest.mark.parametrize("field", ["name", "population", "country"])
async def test_a_shown_value_that_no_city_has_is_a_conflict(berlin: Site, field: str, shown: object) -> None:
    body = json.dumps({"name": "Bonn", "population": 4, "country": "FR", **BERLIN, f"old_{field}": shown})
    answer = await berlin.client.post("/cities/1", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 409


@pytest.mark.parametrize(
    "path", ["/cities/7", "/cities/7/remove", f"/cities/{ID_MAX + 1}", "/cities/99999999999/remove"]
)
async def test_a_city_that_never_was_is_a_404(berlin: Site, path: str) -> None:
    for fields in ({**TYPO, "reason": "duplicate"}, {**TYPO, "population": "3677000", "reason": "duplicate"}):
        answer = await berlin.client.post(path, json=fields)
        assert (answer.status_code, answer.json()["detail"]) == (
            404,
            "There is no city here. It may have been removed.",
        )


async def test_a_city_that_was_removed_meanwhile_is_a_410_with_what_was_entered(below: Site) -> None:
    await remove(below)
    for way in ("plain", "htmx", "json"):
        fields = {"name": "Brno", "population": "400001", "old_name": "Brno", "old_population": "400000"}
        answer = await post(below, "/cities/30", way, fields)
        assert answer.status_code == 410
        assert "This city has been removed. Nothing was changed." in answer.text
    answer = await post(below, "/cities/30", "plain", fields)
    page = parse(answer.text)
    one(page, "main a[href='/cities/30#history']")
    one(page, "main a[href='/?name=Brno&population=400001#name']")
    # Also where the form is shown again, or nothing changes.
    for change in ({"population": "x"}, {"population": "400000"}):
        assert (await below.client.post("/cities/30", data={**fields, **change})).status_code == 410
    gone = await below.client.get("/cities/30.json")
    assert (gone.status_code, gone.json()["detail"]) == (
        410,
        "This city has been removed. Its page says when and why.",
    )


# --- remove and undo ---

BRNO = {"old_name": "Brno", "old_population": "400000", "old_country": ""}


async def remove(site: Site, way: str = "json", reason: str = "duplicate", **others: str) -> httpx.Response:
    return await post(site, "/cities/30/remove", way, {**BRNO, "reason": reason, **others})


@pytest.mark.parametrize("way", ["plain", "htmx", "json"])
async def test_a_city_is_removed_and_restored(below: Site, empty: Addresses, way: str) -> None:
    before = await run_sql(empty.owner, "SELECT * FROM cities ORDER BY id")
    answer = await remove(below, way)
    assert await run_sql(empty.owner, "SELECT FROM cities WHERE id = 30") == []
    if way == "plain":
        assert (answer.status_code, answer.headers["location"]) == (303, "/cities/30#history")
    elif way == "htmx":
        assert answer.status_code == 200
        assert text(one(parse(answer.text), "#city h1")) == "Brno was removed"
    else:
        assert answer.json() == {"id": 30, "name": "Brno", "population": 400_000, "country": ""}
    gone = await below.client.get("/cities/30")
    assert gone.status_code == 410
    page = parse(gone.text)
    assert text(one(page, "h1")) == "Brno was removed"
    assert log(page) == ["removed: duplicate"]
    assert "Brno" not in (await below.client.get("/feed.atom")).text
    # Repeating it is safe.
    assert (await remove(below, way)).status_code == answer.status_code
    action = str(one(page, "#history form").attrs["action"])
    assert text(one(page, "#history form button")) == "Restore change 1"
    answer = await post(below, action, way, {})
    assert answer.status_code == (303 if way == "plain" else 200)
    assert await run_sql(empty.owner, "SELECT * FROM cities ORDER BY id") == before
    assert await history_of(below, 30) == ["restored", "removed: duplicate"]


@pytest.mark.parametrize("reason", ["", "spam!", "undo"])
async def test_a_removal_needs_a_reason_from_the_list(below: Site, empty: Addresses, reason: str) -> None:
    for way in ("plain", "json"):
        answer = await remove(below, way, reason=reason)
        assert answer.status_code == 422
        assert "Choose a reason." in answer.text
    assert len(await stored(empty)) == 21


async def test_a_city_that_has_changed_is_not_removed(below: Site, empty: Addresses) -> None:
    answer = await remove(below, "plain", old_population="400001")
    assert answer.status_code == 409
    one(parse(answer.text), "main a[href='/cities/30#history']")
    assert len(await stored(empty)) == 21


async def test_a_city_on_the_board_is_not_removed_in_two_steps(below: Site, empty: Addresses) -> None:
    await run_sql(empty.owner, "UPDATE cities SET created_at = now() - interval '2 days'")
    shown = {"old_name": "C20", "old_population": 1_000_020, "old_country": ""}
    removal = {**shown, "reason": "not a city"}
    answer = await below.client.post("/cities/20/remove", json=removal)
    assert answer.status_code == 422
    assert answer.json()["detail"].startswith("Cities that are on the board, or were within a week,")
    assert (await below.client.post("/cities/20", json={**shown, "population": 0})).status_code == 200
    answer = await below.client.post("/cities/20/remove", json={**removal, "old_population": 0})
    assert answer.status_code == 422
    # Eight days later it may go.
    await run_sql(empty.owner, "UPDATE changes SET at = at - interval '8 days'")
    assert (await below.client.post("/cities/20/remove", json={**removal, "old_population": 0})).status_code == 200


@pytest.mark.parametrize("way", ["added", "raised"])
async def test_twenty_others_do_not_push_a_city_off_the_board(below: Site, empty: Addresses, way: str) -> None:
    await run_sql(empty.owner, "UPDATE cities SET created_at = now() - interval '2 days'")
    if way == "raised":
        await run_sql(empty.owner, *(insert(f"Small {n}", n, id=100 + n) for n in range(20)))
    for number in range(20):
        city = {"name": f"Fake {number}", "population": 9_000_000}
        if way == "added":
            answer = await below.client.post("/cities/", json=city)
        else:
            city = {"population": 9_000_000, "old_population": number}
            answer = await below.client.post(f"/cities/{100 + number}", json=city)
        assert answer.is_success
    shown = {"old_name": "C20", "old_population": 1_000_020, "old_country": ""}
    answer = await below.client.post("/cities/20/remove", json={**shown, "reason": "not a city"})
    assert answer.status_code == 422
    # What was below the board before stays removable.
    assert (await remove(below)).status_code == 200


async def test_the_network_that_added_a_city_may_undo_that(below: Site, empty: Addresses) -> None:
    answer = await post(below, "/cities/", "htmx", {"name": "Mistake", "population": "1,400,000"})
    form = one(parse(answer.text), "hx-partial[hx-target='#status'] form")
    fields = {str(field.attrs["name"]): str(field.attrs["value"]) for field in form.css("input")}
    assert text(one(form, "button")) == "Undo"
    transport = httpx.ASGITransport(below.asgi, client=("192.0.2.7", 1))
    async with httpx.AsyncClient(transport=transport, base_url="http://testserver") as stranger:
        assert (await stranger.post(str(form.attrs["action"]), data=fields)).status_code == 422
    answer = await below.client.post(str(form.attrs["action"]), data=fields)
    assert answer.status_code == 303
    assert ("Mistake", 1_400_000) not in await stored(empty)
    assert log(parse((await below.client.get(answer.headers["location"])).text)) == [
        "removed: added by mistake",
        "added, population 1,400,000",
    ]


async def test_behind_a_proxy_that_is_not_trusted_nothing_can_be_undone(below: Site, empty: Addresses) -> None:
    forwarded = {"x-forwarded-for": "203.0.113.9"}
    answer = await post(below, "/cities/", "htmx", {"name": "Mistake", "population": "1,400,000"}, **forwarded)
    assert not parse(answer.text).css("hx-partial[hx-target='#status'] form")
    shown = {"old_name": "Mistake", "old_population": "1400000", "old_country": "", "reason": "added by mistake"}
    city = (await run_sql(empty.owner, "SELECT id FROM cities WHERE name = 'Mistake'"))[0]["id"]
    assert (await post(below, f"/cities/{city}/remove", "plain", shown, **forwarded)).status_code == 422
    assert await run_sql(empty.owner, "SELECT FROM changes WHERE network IS NOT NULL") == []


async def test_a_visitor_who_only_pretends_to_come_through_a_proxy_has_a_network(site: Site, empty: Addresses) -> None:
    transport = httpx.ASGITransport(site.asgi, client=("8.8.8.8", 1))
    async with httpx.AsyncClient(transport=transport, base_url="http://testserver") as client:
        headers = {"x-forwarded-for": "203.0.113.9"}
        await client.post("/cities/", json={"name": "A", "population": 1}, headers=headers)
        await client.post("/cities/", json={"name": "B", "population": 1})
    (first,), (second,) = await run_sql(empty.owner, "SELECT network FROM changes ORDER BY id")
    assert first == second
    assert len(first) == 16


# --- revert ---


@pytest.mark.parametrize("way", ["plain", "htmx", "json"])
async def test_a_correction_is_reverted_once(berlin: Site, empty: Addresses, way: str) -> None:
    await post(berlin, "/cities/1", "json", TYPO)
    page = parse((await berlin.client.get("/changes")).text)
    assert text(one(page, "#change-2 form button")) == "Revert change 2"
    for _ in range(2):
        answer = await post(berlin, str(one(page, "#change-2 form").attrs["action"]), way, {})
        assert answer.status_code == (303 if way == "plain" else 200)
        assert await stored(empty) == [("Berlin", 3_677_000)]
    page = parse((await berlin.client.get("/changes")).text)
    assert log(page) == [
        "Berlin: reverted, population 3,677,001 → 3,677,000",
        "Berlin: population 3,677,000 → 3,677,001",
        "Berlin: added, population 3,677,000",
    ]
    # A revert can be reverted.
    assert [str(form.attrs["action"]) for form in page.css(".log form")] == ["/changes/3/revert"]


async def test_a_change_with_a_later_one_is_not_reverted(berlin: Site, empty: Addresses) -> None:
    await post(berlin, "/cities/1", "json", TYPO)
    await berlin.client.post("/cities/1", json={"population": 5, "old_population": 3_677_001})
    answer = await post(berlin, "/changes/2/revert", "plain", {})
    assert answer.status_code == 409
    page = parse(answer.text)
    assert text(one(page, "#problem-text")).startswith("Only corrections and removals that still stand")
    one(page, "main a[href='/cities/1#history']")
    page = parse((await post(berlin, "/changes/1/revert", "plain", {})).text)
    one(page, "main a[href='/cities/1#history']")
    answer = await berlin.client.post("/changes/1/revert", headers=JSON)
    assert (answer.status_code, answer.headers["content-type"]) == (409, "application/problem+json")
    assert await stored(empty) == [("Berlin", 5)]


async def test_a_load_is_not_reverted(site: Site, empty: Addresses) -> None:
    await run_sql(empty.owner, "INSERT INTO changes (kind, cities, operator) VALUES ('load', 5, true)")
    answer = await post(site, "/changes/1/revert", "plain", {})
    assert answer.status_code == 409
    assert not parse(answer.text).css("main a[href$='#history']")


async def test_a_correction_of_a_removed_city_is_a_410(below: Site) -> None:
    await below.client.post("/cities/30", json={"country": "CZ", "old_country": ""})
    await remove(below, old_country="CZ")
    answer = await below.client.post("/changes/1/revert", headers=JSON)
    assert (answer.status_code, answer.json()["detail"]) == (
        410,
        "This city has been removed. Nothing was changed. Its history says when and why.",
    )


async def test_a_change_that_never_was_is_a_404(berlin: Site) -> None:
    for number in ("2", "99999999999999999999"):
        answer = await berlin.client.post(f"/changes/{number}/revert", headers=JSON)
        assert (answer.status_code, answer.json()["detail"]) == (
            404,
            "There is no such change. Look for it in the list of changes.",
        )


async def test_a_removed_city_whose_name_is_taken_leads_to_the_city_that_has_it(below: Site) -> None:
    await remove(below)
    await add(below.client, "json", "BRNO", 7)
    page = parse((await below.client.get("/cities/30")).text)
    assert text(one(page, ".hero p:last-child")) == "Another city has this name now: BRNO, with 7 people."
    assert not page.css("#history form")
    answer = await below.client.post("/changes/1/revert", headers=JSON)
    assert answer.status_code == 422
    assert answer.json()["detail"].startswith("Another city has the name now.")


async def test_a_city_that_is_removed_before_the_response_is_a_410(below: Site, empty: Addresses) -> None:
    await below.client.post("/cities/30", json={**BRNO, "population": 400_001})
    await run_sql(
        empty.owner,
        "CREATE FUNCTION vanish() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " DELETE FROM cities WHERE id = 30; RETURN NULL; END $$",
        "CREATE TRIGGER vanish AFTER UPDATE ON cities FOR EACH STATEMENT EXECUTE FUNCTION vanish()",
    )
    try:
        answer = await post(below, "/changes/1/revert", "htmx", {})
    finally:
        await run_sql(empty.owner, "DROP FUNCTION vanish CASCADE")
    assert answer.status_code == 410


# --- limits, blocks and the brake ---


async def test_adds_corrections_and_removals_share_a_budget_and_reverts_have_their_own(empty: Addresses) -> None:
    async with open_site(empty.app, CITYWEB_RATE_LIMIT="3,1,60") as site:
        await add(site.client, "json", "A", 5)
        for people in (6, 7):
            change = {"population": people, "old_population": people - 1}
            assert (await site.client.post("/cities/1", json=change)).status_code == 200
        change = {"population": 8, "old_population": 7}
        answer = await site.client.post("/cities/1", json=change)
        assert answer.status_code == 429
        assert answer.json()["detail"].startswith("Too many changes came from your network. This one was not saved;")
        assert int(answer.headers["retry-after"]) > 0
        removal = {"old_name": "A", "old_population": 7, "old_country": "", "reason": "duplicate"}
        assert (await site.client.post("/cities/1/remove", json=removal)).status_code == 429
        assert (await site.client.post("/cities/", json={"name": "B", "population": 1})).status_code == 429
        for number in (3, 2, 5):
            assert (await site.client.post(f"/changes/{number}/revert")).status_code == 303
        assert (await site.client.post("/changes/4/revert")).status_code == 429


async def test_a_blocked_network_changes_nothing_until_the_block_ends(berlin: Site, empty: Addresses) -> None:
    until = datetime.now(UTC) + timedelta(hours=1)
    await run_sql(
        empty.owner,
        f"INSERT INTO blocks (network, until) SELECT network, {quoted(until.isoformat())} FROM changes LIMIT 1",
    )
    for path, fields in {"/cities/1": TYPO, "/cities/": {"name": "A", "population": "1"}}.items():
        for way in ("plain", "htmx", "json"):
            answer = await post(berlin, path, way, dict(fields))
            assert answer.status_code == 403
            assert f"Changes from your network are blocked until {until:%H:%M} UTC" in answer.text
    await run_sql(empty.owner, "UPDATE blocks SET until = now()")
    assert (await post(berlin, "/cities/1", "plain", TYPO)).status_code == 303


async def test_a_blocked_name_is_not_stored(berlin: Site, empty: Addresses) -> None:
    await run_sql(empty.owner, "INSERT INTO blocks (name_key) VALUES ('atlantis')")
    for path, fields in {
        "/cities/1": {**TYPO, "name": "Atlantis"},
        "/cities/": {"name": "ATLANTIS", "population": "1"},
    }.items():
        answer = await post(berlin, path, "json", dict(fields))
        assert answer.status_code == 403
        assert answer.json()["detail"].startswith("A city with this name was removed by an operator")
    assert await stored(empty) == [("Berlin", 3_677_000)]


async def test_with_the_brake_the_site_reads_and_adds_and_corrects_nothing(empty: Addresses) -> None:
    async with open_site(empty.app, CITYWEB_CORRECTIONS="off") as site:
        await add(site.client, "json", "Berlin", 3_677_000, country="DE")
        page = parse((await site.client.get("/cities/1")).text)
        assert text(one(page, "#correct")) == "Is something wrong? Corrections are switched off at the moment."
        assert not page.css("main form")
        removal = {**BERLIN, "reason": "duplicate"}
        invalid = {**TYPO, "population": "x"}
        sent = [("/cities/1", TYPO), ("/cities/1", invalid), ("/cities/1/remove", removal), ("/changes/1/revert", {})]
        for path, fields in sent:
            answer = await post(site, path, "json", dict(fields))
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "3600")
            assert answer.json()["detail"].startswith("Corrections are switched off at the moment.")
        landed = await post(site, "/cities/", "htmx", {"name": "Bonn", "population": "5"})
        assert not parse(landed.text).css("hx-partial[hx-target='#status'] form")
    assert await stored(empty) == [("Berlin", 3_677_000), ("Bonn", 5)]


async def test_a_change_that_nobody_confirms_says_so(empty: Addresses) -> None:
    async with Proxy(empty.app) as proxy, open_site(proxy.url) as site:
        await add(site.client, "json", "Berlin", 3_677_000, country="DE")
        proxy.down()
        removal = {**BERLIN, "reason": "duplicate"}
        for path, fields in {"/cities/1": TYPO, "/cities/1/remove": removal, "/changes/1/revert": {}}.items():
            answer = await post(site, path, "json", dict(fields))
            assert answer.status_code == 503
            assert answer.json()["detail"] == (
                "We could not confirm that the change was saved. Sending it again is safe."
            )


async def test_a_change_is_told_of_though_the_database_goes_away_right_after(
    berlin: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: object) -> None:
        raise DatabaseUnavailable

    monkeypatch.setattr(ranking, "surroundings", away)
    answer = await post(berlin, "/cities/1", "htmx", TYPO)
    assert answer.status_code == 503
    assert text(one(parse(answer.text), "#problem-text")).startswith("Your change was saved, but")


async def test_a_rejected_correction_leads_back_to_the_city(empty: Addresses) -> None:
    async with open_site(empty.app, CITYWEB_RATE_LIMIT="1,1,60") as site:
        await add(site.client, "json", "Berlin", 3_677_000, country="DE")
        page = parse((await post(site, "/cities/1", "plain", TYPO)).text)
    assert text(one(page, "main a[href='/cities/1#correct']")) == "Back to the city"
    assert not page.css("main a[href^='/?']")


# --- the log ---


@pytest.fixture
async def long_log(site: Site, empty: Addresses) -> Site:
    """The site with 101 changes of city 1 and one of city 2."""
    await run_sql(
        empty.owner,
        insert("Berlin", 101),
        insert("Bonn", 5),
        "INSERT INTO changes (kind, city_id, old_population, new_population)"
        " SELECT 'correct', 1, n - 1, n FROM generate_series(1, 101) n",
        "INSERT INTO changes (kind, city_id, new_name, new_population, new_country) VALUES ('add', 2, 'Bonn', 5, '')",
    )
    return site


@pytest.mark.parametrize(("query", "expected"), [("", 102), ("?city=1", 101), ("?city=2", 1), ("?city=3", 0)])
async def test_the_log_has_pages_of_50_without_a_gap(long_log: Site, query: str, expected: int) -> None:
    path, lines = f"/changes{query}", list[str]()
    while path:
        page = parse((await long_log.client.get(path)).text)
        assert len(page.css(".log > li")) <= 50
        lines += log(page)
        following = page.css("a[rel=next]")
        path = f"{following[0].attrs['href']}" if following else ""
    assert len(lines) == expected
    assert len({*lines}) == expected
    assert page.css("meta[name=robots][content=noindex]")


async def test_only_what_still_stands_can_be_reverted(long_log: Site) -> None:
    page = parse((await long_log.client.get("/changes")).text)
    assert [str(form.attrs["action"]) for form in page.css(".log form")] == ["/changes/101/revert"]


@pytest.mark.parametrize("query", ["?before=x", "?before=", "?city=-1", f"?city={ID_MAX + 1}", f"?before={10**18}"])
async def test_a_page_of_the_log_that_is_none_is_a_400(site: Site, query: str) -> None:
    assert (await site.client.get(f"/changes{query}")).status_code == 400
    if "city" in query:
        assert (await site.client.get(f"/changes.atom{query}")).status_code == 400


async def test_the_feed_of_changes_has_the_newest_50(long_log: Site) -> None:
    answer = await long_log.client.get("/changes.atom")
    assert answer.headers["content-type"] == "application/atom+xml; charset=utf-8"
    feed = xml(answer.text)
    titles = [text(title) for title in feed.css("entry title")]
    assert (len(titles), titles[:2]) == (50, ["Bonn: added, population 5", "Berlin: population 100 → 101"])
    ids = [text(identifier) for identifier in feed.css("entry > id")]
    assert (len({*ids}), ids[0]) == (50, "tag:localhost,2026:change-102")
    of_a_city = (await long_log.client.get("/changes.atom?city=2")).text
    assert of_a_city.count("<entry>") == 1
    assert (await long_log.client.get("/changes.atom?city=9")).text.count("<entry>") == 0


async def test_a_corrected_city_is_updated_in_the_feed(berlin: Site) -> None:
    def times(feed: str) -> list[str]:
        return [text(time) for time in xml(feed).css("updated")]

    before = times((await berlin.client.get("/feed.atom")).text)
    await post(berlin, "/cities/1", "json", TYPO)
    after = times((await berlin.client.get("/feed.atom")).text)
    assert before[0] == before[1]
    assert after[0] == after[1] > before[0]


async def test_each_kind_of_change_is_in_words(site: Site, empty: Addresses) -> None:
    await run_sql(
        empty.owner,
        insert("Zürich", 5, country="'CH'"),
        "INSERT INTO changes (kind, city_id, cities, operator, old_name, new_name, old_country, new_country, reason)"
        " VALUES ('load', NULL, 1, true, NULL, NULL, NULL, NULL, NULL),"
        " ('load', NULL, 2000, true, NULL, NULL, NULL, NULL, 'GeoNames'),"
        " ('correct', 1, NULL, true, 'Turicum', 'Zürich', '', 'CH', 'typo'),"
        " ('correct', 1, NULL, false, '', 'Turicum', NULL, NULL, NULL),"
        " ('remove', 9, NULL, true, '', NULL, '', NULL, 'offensive')",
    )
    page = parse((await site.client.get("/changes")).text)
    assert log(page) == [
        "City 9: removed: offensive",
        "Zürich: name (redacted) → Turicum",
        "Zürich: name Turicum → Zürich, country no country → Switzerland: typo",
        "2,000 cities loaded: GeoNames",
        "1 city loaded",
    ]
    authors = [text(line).split(", ")[1] for line in page.css(".log small")]
    assert authors == ["an operator", "contributor unknown", "an operator", "an operator", "an operator"]
    gone = parse((await site.client.get("/cities/9")).text)
    assert text(one(gone, "h1")) == "A city was removed"
    assert [str(form.attrs["action"]) for form in page.css(".log form")] == ["/changes/3/revert"]
    async with open_site(empty.app) as other:
        feed = xml((await other.client.get("/changes.atom")).text)
    assert [text(title) for title in feed.css("entry title")] == log(page)


async def test_all_changes_of_one_network_on_one_day_have_one_contributor(berlin: Site) -> None:
    await post(berlin, "/cities/1", "json", TYPO)
    page = parse((await berlin.client.get("/changes")).text)
    (shown,) = {text(line).split(", ")[1].removeprefix("contributor ") for line in page.css(".log small")}
    assert len(shown) == 5


async def test_the_privacy_page_says_what_is_kept(empty: Addresses) -> None:
    async with open_site(empty.app, CITYWEB_CONTACT="privacy@example.com") as site:
        page = parse((await site.client.get("/privacy")).text)
        assert "The key of a day is deleted after 30 days." in text(one(page, "main"))
        one(page, "main a[href='mailto:privacy@example.com']")
        form = parse((await site.client.get("/")).text)
    assert text(one(form, "#city-form a[href='/privacy']")) == "We keep a code of your network for 30 days."
