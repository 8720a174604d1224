"""The API as an OpenAPI document, with schemas made from the dataclasses."""

import json
from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter

from cityweb import __version__
from cityweb.postgres.cities import RankedCity
from cityweb.postgres.ranking import COLUMNS
from cityweb.submissions import CitySubmission

JSON = dict[str, Any]

TEXT = {"type": "string"}
INTEGER = {"type": "integer"}
CURSOR = {**TEXT, "pattern": "^[0-9]{1,9}-[0-9]{1,10}$"}
RANKED_CITY = {"$ref": "#/components/schemas/RankedCity"}
STORED = {"$ref": "#/components/schemas/Stored"}
EXAMPLE = {"name": "Greenhorn", "population": 3}
FILES = "files"
"""The tag of the operations whose responses are files of all or of the newest cities."""
RANKING = {"type": "array", "items": {"$ref": "#/components/schemas/ListedCity"}}
BIGGEST = {
    "type": "array",
    "items": {
        "type": "object",
        "required": ["name", "population"],
        "properties": {"name": TEXT, "population": INTEGER},
    },
}
STORED_CITY = {
    "type": "object",
    "required": ["id", "name", "population"],
    "properties": {"id": INTEGER, "name": TEXT, "population": INTEGER},
}
PLACE = {**TEXT, "description": "Where the city is, like Texas. It is appended to the name: NAME, PLACE."}
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
    ranked = TypeAdapter(RankedCity).json_schema()
    csv, atom = _content(TEXT, "text/csv"), _content(TEXT, "application/atom+xml")
    files = (
        _get("export_csv", "All cities as CSV", "RFC 4180 in UTF-8 with a header, in the order of the ranking.", csv),
        _get(
            "export_excel",
            "CSV for Excel",
            "With a byte order mark, so that Excel shows names like São Paulo.",
            csv,
        ),
        _get("export_json", "All cities as JSON", "One array, in the order of the ranking.", _content(RANKING)),
        _get("show_feed", "Newest cities", "The 50 newest, as an Atom feed.", atom),
    )
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "cityweb",
            "version": __version__,
            "description": "The public leaderboard of the world's biggest cities.",
        },
        "paths": {
            paths["list_biggest"]: {
                "get": _get("list_biggest", "The 20 biggest", "An array, biggest first.", _content(BIGGEST))
            },
            paths["add_city"]: {"get": _list_cities(), "post": _add_city()},
            paths["show_city_json"]: {"get": _show_city()},
            **{paths[file["operationId"]]: {"get": {**file, "tags": [FILES]}} for file in files},
        },
        "components": {
            "schemas": {
                "CitySubmission": TypeAdapter(CitySubmission).json_schema(),
                "RankedCity": ranked,
                # The rank in the country is left out: it would cost a download a second window.
                "ListedCity": {
                    **ranked,
                    "required": list(COLUMNS),
                    "properties": {name: ranked["properties"][name] for name in COLUMNS},
                },
                "Stored": STORED_CITY,
                "Problem": PROBLEM,
            }
        },
    }


def operations(document: JSON) -> list[JSON]:
    """The operations of a document with method and path, and with the URL and the body (or "") of an example."""
    found = []
    for path, item in document["paths"].items():
        for method, operation in item.items():
            examples = {part["name"]: part["example"] for part in operation.get("parameters", ()) if "example" in part}
            content = operation.get("requestBody", {}).get("content")
            body = json.dumps(content["application/json"]["example"]) if content else ""
            example = {"method": method, "path": path, "url": path.format(**examples), "body": body}
            found.append({"tags": [], "parameters": [], **operation, **example})
    return found


def _list_cities() -> JSON:
    pages = _content(TEXT, "text/html")
    listing = _get("list_cities", "All cities as pages", "For people, 50 cities a page, biggest first.", pages)
    listing["responses"] |= _problem(400, "There is no such page, or the search is longer than a name.")
    listing["responses"] |= _problem(404, "There is no such country.")
    listing["parameters"] = [
        {"name": "q", "in": "query", "description": "The beginnings of words of a name, in any order.", "schema": TEXT},
        {"name": "country", "in": "query", "description": "The cities of a country: its code or name.", "schema": TEXT},
        {"name": "after", "in": "query", "description": "POPULATION-ID: the page after this city.", "schema": CURSOR},
        {"name": "before", "in": "query", "description": "POPULATION-ID: the page before this city.", "schema": CURSOR},
    ]
    return listing


def _add_city() -> JSON:
    fields = {"$ref": "#/components/schemas/CitySubmission"}
    submission = {"schema": {"allOf": [fields, {"properties": {"place": PLACE}}]}, "example": EXAMPLE}
    return {
        "operationId": "add_city",
        "summary": "Add a city",
        "description": "201 with its URL in Location, or 422 with a sentence for each field that is wrong."
        " A name is stored once, whatever its case, spacing or Unicode form; a place makes it NAME, PLACE.",
        "requestBody": {"required": True, "content": {"application/json": submission}},
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


def _show_city() -> JSON:
    city = _get(
        "show_city_json", "One city", "With its rank; equal populations share one (1, 2, 2, 4).", _content(RANKED_CITY)
    )
    city["responses"] |= _problem(404, "There is no city with this id.")
    number = {"name": "id", "in": "path", "required": True, "schema": {**INTEGER, "minimum": 1}, "example": 1}
    return {**city, "parameters": [{**number, "description": "The number in the URL of its page."}]}


def _get(name: str, summary: str, description: str, content: JSON) -> JSON:
    responses = {
        "200": {"description": description, "content": content},
        **_problem(503, "The database is unavailable, or too many downloads are running."),
    }
    return {"operationId": name, "summary": summary, "description": description, "responses": responses}


def _problem(status: int, description: str) -> JSON:
    # A client that neither sends JSON nor prefers it in Accept gets the error page.
    problem = {"$ref": "#/components/schemas/Problem"}
    content = _content(problem, "application/problem+json") | _content(TEXT, "text/html")
    wait = {"Retry-After": {"description": "In how many seconds to try again.", "schema": INTEGER}}
    headers = {"headers": wait} if status in {429, 503} else {}
    return {str(status): {"description": description, "content": content, **headers}}


def _content(schema: JSON, kind: str = "application/json") -> JSON:
    return {kind: {"schema": schema}}
