"""What programs may ask for, as an OpenAPI document made from the models that check it, and as lines for a shell."""

import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter

from cityweb import __version__
from cityweb.postgres.cities import Place, Stored
from cityweb.submissions import CitySubmission

JSON = dict[str, Any]

PROBLEM = {
    "type": "object",
    "description": "A problem document (RFC 9457).",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "What happened, and what to do next."},
        "errors": {
            "type": "object",
            "description": "One sentence for each field that is wrong.",
            "additionalProperties": {"type": "string"},
        },
        "stored": {"$ref": "#/components/schemas/Stored"},
    },
}
BIGGEST = {
    "type": "array",
    "items": {
        "type": "object",
        "required": ["name", "population"],
        "properties": {"name": {"type": "string"}, "population": {"type": "integer"}},
    },
}
RETRY_AFTER = {"Retry-After": {"description": "In how many seconds to try again.", "schema": {"type": "integer"}}}


@dataclass(frozen=True)
class Example:
    """A line for a shell and what it does."""

    title: str
    words: str
    command: str


def document(paths: Mapping[str, str]) -> JSON:
    """The description (OpenAPI 3.1); `paths` are the addresses of the routes by name."""
    biggest = _get("list_biggest", "The 20 biggest cities, biggest first.", {"application/json": {"schema": BIGGEST}})
    place = {"application/json": {"schema": {"$ref": "#/components/schemas/Place"}}}
    places = {"application/json": {"schema": {"type": "array", "items": {"$ref": "#/components/schemas/Place"}}}}
    number = {"name": "id", "in": "path", "required": True, "schema": {"type": "integer", "minimum": 1}}
    city = _get("show_city_json", "One city and its rank; equal populations share one (1, 2, 2, 4).", place)
    city["responses"]["404"] = _problem("There is no city of this number.")
    listing = _get("list_cities", "The whole ranking for people, 50 cities a page.", {"text/html": {"schema": TEXT}})
    listing["parameters"] = [
        {"name": "q", "in": "query", "description": "The beginning of any word of a name.", "schema": TEXT},
        *(
            {"name": side, "in": "query", "description": f"POPULATION-ID: the page {side} it.", "schema": PLACE}
            for side in SIDES
        ),
    ]
    listing["responses"]["400"] = _problem("There is no such page, or the search is longer than a name.")
    add = {
        "operationId": "add_city",
        "summary": "Adds a city. A name is stored once, whatever its case, spacing or Unicode form.",
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": {"$ref": "#/components/schemas/CitySubmission"}}},
        },
        "responses": {
            "201": {
                "description": "The city is stored.",
                "headers": {"Location": {"description": "The new city.", "schema": {"type": "string"}}},
                "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Stored"}}},
            },
            "400": _problem("The body is no JSON in UTF-8, or gives a field twice."),
            "403": _problem("The page of another site sent it."),
            "413": _problem("The body is longer than a city needs."),
            "415": _problem("The body is neither JSON nor a form, or is compressed."),
            "422": _problem("A field is wrong, or the city is already stored."),
            "429": {**_problem("Too many cities came from this network."), "headers": RETRY_AFTER},
            "503": {**_problem("The database is away, or did not confirm in time."), "headers": RETRY_AFTER},
        },
    }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "cityweb",
            "version": __version__,
            "description": "The public leaderboard of the world's biggest cities.",
        },
        "paths": {
            paths["list_biggest"]: {"get": biggest},
            paths["add_city"]: {"get": listing, "post": add},
            paths["show_city_json"]: {"get": city, "parameters": [number]},
            paths["export_json"]: {"get": _get("export_json", "All cities in the order of the ranking.", places)},
            paths["export_csv"]: {
                "get": _get("export_csv", "All cities, as RFC 4180 with a header.", {"text/csv": {"schema": TEXT}})
            },
        },
        "components": {
            "schemas": {
                "CitySubmission": TypeAdapter(CitySubmission).json_schema(),
                "Place": TypeAdapter(Place).json_schema(),
                "Stored": TypeAdapter(Stored).json_schema(),
                "Problem": PROBLEM,
            }
        },
    }


TEXT = {"type": "string"}
SIDES = ("after", "before")
PLACE = {"type": "string", "pattern": "^[0-9]{1,9}-[0-9]{1,10}$"}


def _get(name: str, summary: str, content: JSON) -> JSON:
    return {
        "operationId": name,
        "summary": summary,
        "responses": {
            "200": {"description": summary, "content": content},
            "503": {**_problem("The database is away, or too many ask at once."), "headers": RETRY_AFTER},
        },
    }


def _problem(description: str) -> JSON:
    # Whoever does not ask for JSON, by Accept or by sending some, gets the page for people.
    content = {
        "application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}},
        "text/html": {"schema": TEXT},
    }
    return {"description": description, "content": content}


def examples(site: str, url_for: Callable[..., str]) -> list[Example]:
    """Lines that work as they are printed, on this site."""
    body = """{"name": "Greenhorn", "population": 3}"""
    header = "Content-Type: application/json"
    return [
        Example(
            "The 20 biggest",
            "The board, as an array.",
            _curl(site + url_for("list_biggest")),
        ),
        Example(
            "Add a city",
            "Stored: 201, and Location is its address. A name that is already stored: 422.",
            _curl(site + url_for("add_city"), "-H", header, "-d", body),
        ),
        Example("One city", "With its rank.", _curl(site + url_for("show_city_json", id=1))),
        Example(
            "All cities",
            "In the order of the ranking, sent while they are read.",
            _curl("-O", site + url_for("export_csv")),
        ),
        Example("The same as JSON", "One city on each line.", _curl("-O", site + url_for("export_json"))),
    ]


def _curl(*arguments: str) -> str:
    return shlex.join(["curl", *arguments])
