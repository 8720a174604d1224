"""The plan of every question that a page asks: no statistics make it read a table, or sort what no LIMIT bounds."""

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from sqlalchemy import ClauseElement, text
from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg
from sqlalchemy.sql.compiler import SQLCompiler

from cityweb.postgres import cities, database, distribution, ranking, spelling
from cityweb.submissions import CitySubmission
from tests.conftest import Addresses, run_sql

Node = dict[str, Any]
Values = dict[str, object]

BESIDE: Values = {"population": 40_000, "id": 30_000}
CITY = cities.columns(**vars(CitySubmission("c5", 5)))
ADDED: Values = {**{f"new_{column}": value for column, value in CITY.items()}, "codes": "{}", "operator": False}
SEARCH: Values = {**BESIDE, "bare": "a1 77"}
# As short to this table as ours is to 180,000 cities: where a walk is a third of them, reading all is the better plan.
SEARCHED = ranking.matches(near=1_000, far=4_000)
QUESTIONS: dict[str, tuple[ClauseElement, Values]] = {
    "board": (text(cities.LEADERS), {}),
    "stored": (cities.STORED, ADDED),
    "landing": (cities.LANDING, {"id": 5}),
    "list": (ranking.CITIES.after, {"population": 100_000_001, "id": 0}),
    "list after": (ranking.CITIES.after, BESIDE),
    "list before": (ranking.CITIES.before, BESIDE),
    "country after": (ranking.CITIES_OF_A_COUNTRY.after, {**BESIDE, "country": "FR"}),
    "country before": (ranking.CITIES_OF_A_COUNTRY.before, {**BESIDE, "country": "FR"}),
    "countries": (ranking.COUNTRIES, {}),
    "namesakes": (cities.NAMESAKES, {"key": "a1 77"}),
    "search after": (SEARCHED.after, SEARCH),
    "search before": (SEARCHED.before, SEARCH),
    "city": (ranking.SURROUNDINGS, {"id": 5}),
    "feed": (ranking.NEWEST, {}),
    "similar names": (spelling.BIGGEST, {}),
    "extremes": (distribution.EXTREMES, {}),
    "sizes": (distribution.COUNTS, {"bounds": "{10000, 5000000}"}),
    "add": (cities.INSERT, ADDED),
}
# 40,000 cities have one population, in which the cursor is; the others have one each.
FILL = """
INSERT INTO cities (name, name_key, name_bare, population, country) SELECT name, name, name, population, country FROM (
  SELECT (ARRAY['a', 'b', 'c'])[1 + n % 3] || n % 50 || ' ' || n AS name, greatest(40000, n) AS population,
    (ARRAY['FR', 'DE', '', ''])[1 + n % 4] AS country
  FROM generate_series(1, 60000) n ORDER BY n * 7919 % 60000
) AS made
"""
# Statistics of what is there, of nothing, and of a table of one city, of which none, or all, have these populations.
STATISTICS = {
    "fresh": ["TRUNCATE cities RESTART IDENTITY", FILL, "VACUUM ANALYZE cities, tally, tally_changes"],
    "missing": ["DELETE FROM pg_statistic WHERE starelid IN ('cities'::regclass, 'tally'::regclass)"],
    "of an empty table": [
        "TRUNCATE cities RESTART IDENTITY",
        "VACUUM ANALYZE cities, tally, tally_changes",
        FILL,
    ],
    "of one population": [
        "TRUNCATE cities RESTART IDENTITY",
        FILL.replace("greatest(40000, n)", "500").replace("60000)", "100)"),
        "ANALYZE cities, tally, tally_changes",
        FILL.replace("series(1", "series(101"),
    ],
}


@pytest.fixture(scope="module", params=STATISTICS)
async def planned(postgres: Addresses, request: pytest.FixtureRequest) -> AsyncIterator[Addresses]:
    """60,000 cities, and statistics that fit them or do not."""
    superuser = postgres.server.set(database=postgres.owner.database)
    off = "ALTER TABLE {} SET (autovacuum_enabled = {})"
    await run_sql(superuser, *(off.format(table, "off") for table in ("cities", "tally", "tally_changes")))
    if request.param == "missing":
        await run_sql(superuser, *STATISTICS["fresh"])
    await run_sql(superuser, *STATISTICS[request.param])
    yield postgres
    await run_sql(superuser, *(off.format(table, "on") for table in ("cities", "tally", "tally_changes")))
    await run_sql(superuser, "TRUNCATE cities RESTART IDENTITY", "ANALYZE cities, tally, tally_changes")


@pytest.mark.parametrize("kind", ["custom", "generic"])
@pytest.mark.parametrize("question", QUESTIONS)
async def test_no_statistics_mislead_a_question(planned: Addresses, question: str, kind: str) -> None:
    settings = f"SET plan_cache_mode = force_{kind}_plan; SET enable_seqscan = on"
    assert list(faults(await plan(planned, *QUESTIONS[question], settings))) == []


# Of a few cities a search may read them all: the longer way, by the words, is never the cheaper one.
@pytest.mark.parametrize("question", [question for question in QUESTIONS if not question.startswith("search")])
async def test_no_plan_for_a_few_cities_reads_the_table(postgres: Addresses, question: str) -> None:
    # PostgreSQL keeps a plan until the next ANALYZE, however many cities are added meanwhile.
    superuser = postgres.server.set(database=postgres.owner.database)
    await run_sql(superuser, "TRUNCATE cities RESTART IDENTITY", FILL.replace("60000)", "20)"))
    await run_sql(superuser, "VACUUM ANALYZE cities, tally, tally_changes")
    assert list(faults(await plan(postgres, *QUESTIONS[question], "SET plan_cache_mode = force_generic_plan"))) == []


async def plan(postgres: Addresses, statement: ClauseElement, given: Values, settings: str) -> Node:
    """How PostgreSQL answers a statement with these settings."""
    compiled = statement.compile(dialect=PGDialect_asyncpg())  # type: ignore[no-untyped-call]
    assert isinstance(compiled, SQLCompiler)
    arguments = ", ".join("NULL" if given[name] is None else repr(given[name]) for name in compiled.positiontup or ())
    connection = await database.connect(postgres.app)
    try:
        await connection.execute(settings)
        await connection.execute(f"PREPARE question AS {compiled}")
        given_values = f"({arguments})" if arguments else ""
        found = await connection.fetchval(f"EXPLAIN (FORMAT JSON) EXECUTE question{given_values}")
    finally:
        await connection.close()
    return dict(json.loads(found)[0]["Plan"])


def faults(node: Node, *, is_sorted: bool = False, is_limited: bool = False) -> Iterator[str]:
    """What in a plan grows with the table: a scan that is not of one range of an index, a sort of what it finds."""
    kind = node["Node Type"]
    if node.get("Relation Name") in {"cities", "tally"} and kind != "ModifyTable":
        is_range = "Index Cond" in node or "Recheck Cond" in node
        if kind == "Seq Scan" or not (is_range or (is_limited and "Filter" not in node)):
            yield f"{kind} of {node['Relation Name']}: {node.get('Filter', '')}"
        elif is_sorted:
            yield f"sorted: {kind} of {node['Relation Name']}"
    for child in node.get("Plans", []):
        if child["Parent Relationship"] in {"InitPlan", "SubPlan"}:
            yield from faults(child)
        else:
            limits = is_limited or kind == "Limit"
            yield from faults(
                child,
                is_sorted=(is_sorted and kind != "Limit") or kind in {"Sort", "Incremental Sort"},
                is_limited=limits and kind not in {"Sort", "Incremental Sort", "Aggregate"},
            )
