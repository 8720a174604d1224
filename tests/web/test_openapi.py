"""What programs are told of the interface, and that it is so."""

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from cityweb.city import NAME_MAX, POPULATION_MAX
from tests.conftest import Server, Site
from tests.pages import add, one, parse, text


async def test_the_document_names_every_answer_for_programs(site: Site) -> None:
    document = (await site.client.get("/openapi.json")).json()
    assert document["openapi"].startswith("3.1")
    assert {path: {*operations} - {"parameters"} for path, operations in document["paths"].items()} == {
        "/cities/biggest": {"get"},
        "/cities/": {"get", "post"},
        "/cities/{id}.json": {"get"},
        "/cities.json": {"get"},
        "/cities.csv": {"get"},
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


async def test_the_page_shows_lines_for_this_site(site: Site) -> None:
    page = parse((await site.client.get("/api")).text)
    lines = [text(line) for line in page.select("pre")]
    assert lines[0] == "curl http://testserver/cities/biggest"
    assert one(page, "main a[href='/openapi.json']")


async def test_every_line_works_as_it_is_printed(start_server: Callable[..., Server], tmp_path: Path) -> None:
    server = start_server()
    page = subprocess.run(["curl", "-s", f"{server.url}/api"], check=True, capture_output=True, text=True).stdout
    lines = [line.get_text() for line in parse(page).select("pre")]
    assert len(lines) == 5
    # In another order there is no first city.
    lines.sort(key=lambda line: "POST" not in line and " -d " not in line)
    said = [
        subprocess.run(shlex.split(line), check=True, capture_output=True, text=True, cwd=tmp_path).stdout
        for line in lines
    ]
    assert json.loads(said[0]) == {"id": 1, "name": "Greenhorn", "population": 3}
    assert json.loads(said[1]) == [{"name": "Greenhorn", "population": 3}]
    assert json.loads(said[2])["rank"] == 1
    assert '1,1,"Greenhorn",3,' in (tmp_path / "cities.csv").read_text()
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


async def test_schemathesis_finds_no_answer_that_is_not_described(
    start_server: Callable[..., Server], tmp_path: Path
) -> None:
    server = start_server()
    httpx.post(f"{server.url}/cities/", json={"name": "Paris", "population": 5})
    # It cannot know that "---" is no name: what the schema allows may be rejected with 422.
    command = [str(Path(sys.executable).with_name("schemathesis")), "run", f"{server.url}/openapi.json"]
    command += ["--exclude-checks", "positive_data_acceptance", "--max-examples", "20", "--seed", "1", "--no-color"]
    # Without the variable that lets coverage measure it.
    environment = {name: value for name, value in os.environ.items() if name != "COVERAGE_PROCESS_CONFIG"}
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
