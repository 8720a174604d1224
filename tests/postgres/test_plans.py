"""The plan of every question that a page asks: no statistics make it read a table, or sort what no LIMIT bounds."""

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from sqlalchemy import ClauseElement, text
from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg
from sqlalchemy.sql.compiler import SQLCompiler

from cityweb.city import CHANGE_ID_MAX
from cityweb.postgres import changes, cities, database, distribution, history, networks, ranking, spelling
from cityweb.submissions import CitySubmission
from tests.conftest import Addresses, run_sql

Node = dict[str, Any]
Values = dict[str, object]

BESIDE: Values = {"population": 40_000, "id": 30_000}
CITY = cities.columns(**vars(CitySubmission("c5", 5)))
ADDED: Values = {**{f"new_{column}": value for column, value in CITY.items()}, "codes": "{}", "operator": False}
VISITOR: Values = {"codes": "{ab,cd}", "operator": False, "reason": None}
SHOWN: Values = {"old_name": "c0 30000", "old_population": 40_000, "old_country": "FR"}
# Of city 30,000 the log has 5,001 changes.
CORRECTION: Values = {**dict.fromkeys(changes.TYPES), **SHOWN, **ADDED, **VISITOR, "id": 30_000, "reverts": None}
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
    "named": (cities.NAMED, {"key": "a1 77"}),
    "correct": (changes.CORRECT, CORRECTION),
    "revert": (changes.CORRECT, {**CORRECTION, "reverts": 60_001}),
    "remove": (changes.REMOVE, {**CORRECTION, "new_name_key": None}),
    "restore": (changes.RESTORE, {**CORRECTION, "reverts": 60_001}),
    "change": (changes.CHANGE, {"id": 60_001}),
    "latest change": (changes.LATEST, {"id": 30_000}),
    "one city": (changes.CITY, {"id": 30_000}),
    "block": (text(networks.BLOCK), {**VISITOR, "new_name_key": "c5"}),
    "log": (history.ALL, {"before": CHANGE_ID_MAX}),
    "log before": (history.ALL, {"before": 64_000}),
    "log of a city": (history.OF_A_CITY, {"before": 64_000, "city": 30_000}),
    "latest of a city": (history.LATEST_OF_A_CITY, {"before": CHANGE_ID_MAX, "city": 30_000}),
}
# 40,000 cities have one population, in which the cursor is; the others have one each.
FILL = """
INSERT INTO cities (name, name_key, name_bare, population, country) SELECT name, name, name, population, country FROM (
  SELECT (ARRAY['a', 'b', 'c'])[1 + n % 3] || n % 50 || ' ' || n AS name, greatest(40000, n) AS population,
    (ARRAY['FR', 'DE', '', ''])[1 + n % 4] AS country
  FROM generate_series(1, 60000) n ORDER BY n * 7919 % 60000
) AS made
"""
EMPTY = "TRUNCATE cities, changes RESTART IDENTITY"
LOG = """
INSERT INTO changes (kind, city_id, new_name, new_population, new_country, network)
SELECT 'add', n, 'c', 40000, '', 'ab' FROM generate_series(1, 60000) n
"""
# Each second one reverts the one before.
CORRECTIONS = """
INSERT INTO changes (kind, city_id, old_population, new_population, reverts, network)
SELECT 'correct', 30000, 40000 + n % 2, 40001 - n % 2, CASE n % 2 WHEN 0 THEN 59999 + n END, 'ab'
FROM generate_series(1, 5000) n
"""
PATIENT = "SET statement_timeout = 0"
TABLES = ("cities", "tally", "tally_changes", "changes")
ANALYZE = f"ANALYZE {', '.join(TABLES)}"
# Statistics of what is there, of nothing, and of a table of one city, of which none, or all, have these populations.
STATISTICS = {
    "fresh": [EMPTY, FILL, LOG, CORRECTIONS, f"VACUUM {ANALYZE}"],
    "missing": [f"DELETE FROM pg_statistic WHERE starelid::regclass::text = ANY('{{{', '.join(TABLES)}}}')"],
    "of an empty table": [EMPTY, f"VACUUM {ANALYZE}", FILL, LOG, CORRECTIONS],
    "of one population": [
        EMPTY,
        FILL.replace("greatest(40000, n)", "500").replace("60000)", "100)"),
        LOG.replace("60000)", "100)").replace("'add', n", "'add', 5"),
        ANALYZE,
        FILL.replace("series(1", "series(101"),
        LOG.replace("series(1", "series(101"),
        CORRECTIONS,
    ],
}


@pytest.fixture(scope="module", params=STATISTICS)
async def planned(postgres: Addresses, request: pytest.FixtureRequest) -> AsyncIterator[Addresses]:
    """60,000 cities and 65,000 changes of them, and statistics that fit them or do not."""
    superuser = postgres.server.set(database=postgres.owner.database)
    off = "ALTER TABLE {} SET (autovacuum_enabled = {})"
    await run_sql(superuser, *(off.format(table, "off") for table in TABLES))
    if request.param == "missing":
        await run_sql(superuser, PATIENT, *STATISTICS["fresh"])
    await run_sql(superuser, PATIENT, *STATISTICS[request.param])
    yield postgres
    await run_sql(superuser, *(off.format(table, "on") for table in TABLES))
    await run_sql(superuser, EMPTY, ANALYZE)


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
    few = [statement.replace("60000)", "20)").replace("5000)", "20)") for statement in (FILL, LOG, CORRECTIONS)]
    await run_sql(superuser, EMPTY, *few, f"VACUUM {ANALYZE}")
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
    if node.get("Relation Name") in {"cities", "tally", "changes"} and kind != "ModifyTable":
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
