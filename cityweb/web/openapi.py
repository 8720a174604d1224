"""The API as an OpenAPI document, with schemas made from the dataclasses."""

import json
from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter

from cityweb import __version__
from cityweb.postgres.cities import RankedCity
from cityweb.postgres.exports import COLUMNS
from cityweb.submissions import FIELDS, REASONS, SHOWN, UNDO_REASON, CitySubmission

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
STORED_CITY: JSON = {
    "type": "object",
    "required": ["id", "name", "population"],
    "properties": {"id": INTEGER, "name": TEXT, "population": INTEGER},
}
CITY: JSON = {
    "type": "object",
    "required": ["id", *FIELDS],
    "properties": {**STORED_CITY["properties"], "country": TEXT},
}
# Without types, because a value that no city can have is a conflict, as any other value that is not stored.
SHOWN_VALUES: JSON = {name: {"description": "The value that you were shown."} for name in SHOWN}
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
        "stored": {"anyOf": [{"$ref": "#/components/schemas/City"}, STORED]},
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
            paths["show_city"]: {"get": _show_page(), "post": _correct_city()},
            paths["remove_city"]: {"post": _remove_city()},
            paths["revert_change"]: {"post": _revert_change()},
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
                "City": CITY,
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


def _show_page() -> JSON:
    return _of_one_city(_get("show_city", "One city as a page", "With its history.", _content(TEXT, "text/html")))


def _show_city() -> JSON:
    description = "With its rank; equal populations share one (1, 2, 2, 4)."
    return _of_one_city(_get("show_city_json", "One city", description, _content(RANKED_CITY)))


def _of_one_city(city: JSON) -> JSON:
    city["responses"] |= _problem(404, "There is no city with this id.")
    city["responses"] |= _problem(410, "The city was removed.")
    number = {"name": "id", "in": "path", "required": True, "schema": {**INTEGER, "minimum": 1}, "example": 1}
    return {**city, "parameters": [{**number, "description": "The number in the URL of its page."}]}


def _correct_city() -> JSON:
    submission = TypeAdapter(CitySubmission).json_schema()["properties"]
    body = {"type": "object", "properties": {**submission, **SHOWN_VALUES}}
    return _change(
        "correct_city",
        "Correct a city",
        "The fields that change, each with the value that you were shown as old_FIELD. 409 with the stored values if"
        " somebody changed one of them in the meantime.",
        "The number of the city.",
        {"schema": body, "example": {"population": 5, "old_population": 3}},
    )


def _remove_city() -> JSON:
    reason = {**TEXT, "enum": [*REASONS, UNDO_REASON]}
    body = {"type": "object", "required": ["reason", *SHOWN], "properties": {"reason": reason, **SHOWN_VALUES}}
    example = {"reason": REASONS[0], "old_name": "Greenhorn", "old_population": 3, "old_country": "US"}
    return _change(
        "remove_city",
        "Remove a city",
        "With all values that you were shown, and a reason. A city that is on the board, or was within a week,"
        " can be removed only by the network that added it, within 15 minutes.",
        "The number of the city.",
        {"schema": body, "example": example},
    )


def _revert_change() -> JSON:
    return _change(
        "revert_change",
        "Revert a change",
        "Undoes a correction, or restores a removed city, while nobody has changed the same values again.",
        "The number of the change.",
        {"schema": {}, "example": {}},
    )


def _change(name: str, summary: str, description: str, number: str, content: JSON) -> JSON:
    """An operation that changes a city; a request that sends JSON gets JSON."""
    identifier = {"name": "id", "in": "path", "required": True, "schema": {**INTEGER, "minimum": 1}, "example": 1}
    return {
        "operationId": name,
        "summary": summary,
        "description": description,
        "parameters": [{**identifier, "description": number}],
        "requestBody": {"required": True, "content": {"application/json": content}},
        "responses": {
            "200": {"description": "The change is stored.", "content": _content({"$ref": "#/components/schemas/City"})},
            **_problem(400, "The body is not JSON in UTF-8, or has a field twice."),
            **_problem(403, "The request was sent from another site, or the network or the name is blocked."),
            **_problem(404, "There is no city or change with this number."),
            **_problem(409, "Somebody changed the same values in the meantime."),
            **_problem(410, "The city was removed."),
            **_problem(413, "The body is too long."),
            **_problem(415, "The body is neither JSON nor a form, or is compressed."),
            **_problem(422, "A field is rejected, the name is taken, or the city is on the board."),
            **_problem(428, "The value that was shown is missing for a field that changes."),
            **_problem(429, "Too many changes were made from this network."),
            **_problem(503, "Corrections are switched off, or the database did not confirm in time."),
        },
    }


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
