"""The API as an OpenAPI document, with schemas made from the dataclasses."""

from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter

from cityweb import __version__
from cityweb.postgres.cities import RankedCity, Stored
from cityweb.submissions import CitySubmission

JSON = dict[str, Any]

TEXT = {"type": "string"}
INTEGER = {"type": "integer"}
CURSOR = {**TEXT, "pattern": "^[0-9]{1,9}-[0-9]{1,10}$"}
RANKED_CITY = {"$ref": "#/components/schemas/RankedCity"}
STORED = {"$ref": "#/components/schemas/Stored"}
BIGGEST = {
    "type": "array",
    "items": {
        "type": "object",
        "required": ["name", "population"],
        "properties": {"name": TEXT, "population": INTEGER},
    },
}
PROBLEM = {
    "type": "object",
    "description": "A problem document (RFC 9457).",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": TEXT,
        "title": TEXT,
        "status": INTEGER,
        "detail": {**TEXT, "description": "What happened, and what to do next."},
        "errors": {
            "type": "object",
            "description": "A message for each rejected field.",
            "additionalProperties": TEXT,
        },
        "stored": STORED,
    },
}


def document(paths: Mapping[str, str]) -> JSON:
    """The OpenAPI 3.1 document; `paths` maps the name of each route to its path."""
    biggest = _get("list_biggest", "The 20 biggest cities, biggest first.", BIGGEST)
    listing = _get("list_cities", "The whole ranking as web pages of 50 cities.", TEXT, "text/html")
    listing["responses"] |= _problem(400, "There is no such page, or the search is longer than a name.")
    listing["parameters"] = [
        {"name": "q", "in": "query", "description": "The beginnings of words of a name, in any order.", "schema": TEXT},
        {"name": "after", "in": "query", "description": "POPULATION-ID: the page after this city.", "schema": CURSOR},
        {"name": "before", "in": "query", "description": "POPULATION-ID: the page before this city.", "schema": CURSOR},
    ]
    add = {
        "operationId": "add_city",
        "summary": "Adds a city. A name is stored once, whatever its case, spacing or Unicode form.",
        "requestBody": {"required": True, "content": _content({"$ref": "#/components/schemas/CitySubmission"})},
        "responses": {
            "201": {
                "description": "The city is stored.",
                "headers": {"Location": {"description": "The new city.", "schema": TEXT}},
                "content": _content(STORED),
            },
            **_problem(400, "The body is not JSON in UTF-8, or has a field twice."),
            **_problem(403, "The request was sent from another site."),
            **_problem(413, "The body is too long."),
            **_problem(415, "The body is neither JSON nor a form, or is compressed."),
            **_problem(422, "A field is rejected, or the city is already stored."),
            **_problem(429, "Too many cities were added from this network."),
            **_problem(503, "The database is unavailable, or did not confirm in time."),
        },
    }
    city = _get("show_city_json", "One city and its rank; equal populations share one (1, 2, 2, 4).", RANKED_CITY)
    city["responses"] |= _problem(404, "There is no city with this id.")
    number = {"name": "id", "in": "path", "required": True, "schema": {**INTEGER, "minimum": 1}}
    json = _get("export_json", "All cities in the order of the ranking.", {"type": "array", "items": RANKED_CITY})
    csv = _get("export_csv", "All cities, as RFC 4180 with a header.", TEXT, "text/csv")
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
            paths["export_json"]: {"get": json},
            paths["export_csv"]: {"get": csv},
        },
        "components": {
            "schemas": {
                **{model.__name__: TypeAdapter(model).json_schema() for model in (CitySubmission, RankedCity, Stored)},
                "Problem": PROBLEM,
            }
        },
    }


def _get(name: str, summary: str, schema: JSON, kind: str = "application/json") -> JSON:
    responses = {
        "200": {"description": summary, "content": _content(schema, kind)},
        **_problem(503, "The database is unavailable, or too many downloads are running."),
    }
    return {"operationId": name, "summary": summary, "responses": responses}


def _problem(status: int, description: str) -> JSON:
    # A client that neither sends JSON nor prefers it in Accept gets the error page.
    problem = {"$ref": "#/components/schemas/Problem"}
    content = _content(problem, "application/problem+json") | _content(TEXT, "text/html")
    wait = {"Retry-After": {"description": "In how many seconds to try again.", "schema": INTEGER}}
    headers = {"headers": wait} if status in {429, 503} else {}
    return {str(status): {"description": description, "content": content, **headers}}


def _content(schema: JSON, kind: str = "application/json") -> JSON:
    return {kind: {"schema": schema}}
