"""What programs are told of the interface, and that it is so."""

import json
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from cityweb.city import NAME_MAX, POPULATION_MAX
from tests.conftest import Server, Site, unmeasured
from tests.pages import ORIGIN, add, one, parse, text


async def test_the_document_names_every_answer_for_programs(site: Site) -> None:
    document = (await site.client.get("/openapi.json")).json()
    assert document["openapi"].startswith("3.1")
    assert {path: {*operations} - {"parameters"} for path, operations in document["paths"].items()} == {
        "/cities/biggest": {"get"},
        "/cities/": {"get", "post"},
        "/cities/{id}.json": {"get"},
        "/cities/{id}": {"get", "post"},
        "/cities/{id}/remove": {"post"},
        "/changes/{id}/revert": {"post"},
        "/cities.csv": {"get"},
        "/cities-excel.csv": {"get"},
        "/cities.json": {"get"},
        "/feed.atom": {"get"},
    }


async def test_the_limits_are_those_of_the_model(site: Site) -> None:
    schema = (await site.client.get("/openapi.json")).json()["components"]["schemas"]["CitySubmission"]
    name, population = schema["properties"]["name"], schema["properties"]["population"]["anyOf"][0]
    assert (name["minLength"], name["maxLength"]) == (1, NAME_MAX)
    assert (population["minimum"], population["maximum"]) == (0, POPULATION_MAX)
    assert schema["required"] == ["name", "population"]


async def test_all_that_is_entered_for_a_city_is_told_of_it(site: Site) -> None:
    schemas = (await site.client.get("/openapi.json")).json()["components"]["schemas"]
    assert schemas["CitySubmission"]["properties"].keys() <= schemas["RankedCity"]["properties"].keys()


async def test_the_page_shows_what_the_document_says(site: Site) -> None:
    document = (await site.client.get("/openapi.json")).json()
    page = parse((await site.client.get("/api")).text)
    said = [
        (f"{method.upper()} {path}", operation["summary"], operation["description"])
        for path, item in document["paths"].items()
        for method, operation in item.items()
    ]
    sections = page.css("main section")
    shown = [(text(one(section, "p code")), text(one(section, "h2"))) for section in sections]
    assert shown == [operation[:2] for operation in said]
    for section, (_, _, description) in zip(sections, said, strict=True):
        assert text(one(section, "p.quiet")).endswith(f" · {description}")
    parameters = [text(one(section, "ul")) for section in sections if section.css("ul")]
    assert len(parameters) == 6
    assert "after · POPULATION-ID: the page after this city." in parameters[0]


async def test_the_page_begins_with_the_files(site: Site) -> None:
    page = parse((await site.client.get("/api")).text)
    tiles = {text(link): str(link.attrs["href"]) for link in page.css(".tiles a")}
    assert tiles == {
        "All cities as CSV": "/cities.csv",
        "CSV for Excel": "/cities-excel.csv",
        "All cities as JSON": "/cities.json",
        "Newest cities": "/feed.atom",
        "OpenAPI 3.1": "/openapi.json",
    }
    for address in tiles.values():
        assert (await site.client.get(address)).status_code == 200


async def test_without_a_script_every_get_is_a_link_and_a_form_that_opens_its_response(site: Site) -> None:
    await add(site.client, "json", "Paris", 5)
    page = parse((await site.client.get("/api")).text)
    getting = [section for section in page.css("main section") if text(one(section, "p code")).startswith("GET ")]
    assert len(getting) == 8
    for section in getting:
        form = one(section, "form[method=get]:not([hidden])")
        assert form.attrs["action"] == one(section, "p.quiet a").attrs["href"]
        assert (await site.client.get(str(form.attrs["action"]))).status_code == 200
    # A form cannot send JSON, so the form with a body waits for the script.
    posting = page.css("form[method=post]")
    assert ["hidden" in form.attrs for form in posting] == 4 * [True]


async def test_the_page_shows_lines_for_this_site(site: Site) -> None:
    page = parse((await site.client.get("/api")).text)
    lines = [text(line) for line in page.css(".line > code")]
    assert lines[0] == f"curl {ORIGIN}/cities/biggest"
    one(page, "main a[href='/openapi.json']")


async def test_every_line_works_as_it_is_printed(start_server: Callable[..., Server], tmp_path: Path) -> None:
    server = start_server()
    page = subprocess.run(["curl", "-s", f"{server.url}/api"], check=True, capture_output=True, text=True).stdout
    lines = [line.text() for line in parse(page).css(".line > code")]
    assert len(lines) == 12
    # In another order there is no first city, or no longer a city with these values.
    lines.sort(key=lambda line: " -d " not in line)
    said = [
        subprocess.run(shlex.split(line), check=True, capture_output=True, text=True, cwd=tmp_path).stdout
        for line in lines
    ]
    assert json.loads(said[0]) == {"id": 1, "name": "Greenhorn", "population": 3}
    assert json.loads(said[1]) == {"id": 1, "name": "Greenhorn", "population": 5, "country": ""}
    assert json.loads(said[2])["detail"].startswith("This city has been changed in the meantime.")
    assert json.loads(said[3])["detail"].startswith("Only corrections and removals that still stand")
    assert json.loads(said[4]) == [{"name": "Greenhorn", "population": 5}]
    assert "Greenhorn" in said[5]
    assert json.loads(said[6])["rank"] == 1
    assert "Greenhorn" in said[7]
    assert '1,1,"Greenhorn",5,' in (tmp_path / "cities.csv").read_text()
    assert (tmp_path / "cities-excel.csv").read_text().startswith("\ufeffrank,")
    assert "<title>Greenhorn, population 5</title>" in (tmp_path / "feed.atom").read_text()
    assert json.loads((tmp_path / "cities.json").read_text())[0]["name"] == "Greenhorn"


@pytest.mark.parametrize("address", ["/cities/biggest", "/cities.json", "/cities/1.json"])
async def test_an_answer_has_the_members_that_are_described(site: Site, address: str) -> None:
    await add(site.client, "json", "Paris", 5)
    document = (await site.client.get("/openapi.json")).json()
    schema = document["paths"][address.replace("1.json", "{id}.json")]["get"]["responses"]["200"]["content"]
    schema = schema["application/json"]["schema"]
    answer = (await site.client.get(address)).json()
    if schema.get("type") == "array":
        schema, answer = schema["items"], answer[0]
    if "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    assert set(answer) == set(schema["properties"])


@unmeasured
async def test_schemathesis_finds_no_answer_that_is_not_described(
    start_server: Callable[..., Server], tmp_path: Path
) -> None:
    server = start_server()
    httpx.post(f"{server.url}/cities/", json={"name": "Paris", "population": 5})
    # It cannot know that "---" is no name: what the schema allows may be rejected with 422.
    command = [str(Path(sys.executable).with_name("schemathesis")), "run", f"{server.url}/openapi.json"]
    command += ["--exclude-checks", "positive_data_acceptance", "--max-examples", "20", "--seed", "1", "--no-color"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
