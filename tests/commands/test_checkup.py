"""What a check finds."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import URL

from cityweb.commands import checkup
from cityweb.commands.checkup import Finding
from cityweb.postgres import embedded
from cityweb.web import assets
from tests.conftest import FILL, TWINS, Addresses, configure, run_sql

LOG = """
INSERT INTO changes (kind, city_id, new_name, new_population, new_country)
SELECT 'add', id, name, population, country FROM cities
"""


async def checked(**environment: str) -> list[Finding]:
    # A new thread: one of the loop may be from a test that is not measured, and then nothing in it is.
    with ThreadPoolExecutor(1) as thread:
        return await asyncio.wrap_future(thread.submit(lambda: list(checkup.findings(environment))))


async def wrong(**environment: str) -> dict[str, str]:
    return {finding.subject: finding.words for finding in await checked(**environment) if not finding.well}


def test_a_finding_is_one_line() -> None:
    assert str(Finding("schema", "old: run it", well=False)) == "WRONG  schema: old: run it"
    assert str(Finding("schema", "new")) == "ok     schema: new"


async def test_a_site_that_is_well_has_nothing_wrong(empty: Addresses) -> None:
    assert await wrong(DATABASE_URL=empty.app.render_as_string(hide_password=False)) == {}


async def test_two_cities_of_one_name_are_found(empty: Addresses) -> None:
    await run_sql(empty.owner, TWINS)
    environment = {"DATABASE_URL": empty.app.render_as_string(hide_password=False)}
    assert await wrong(**environment) == {
        "names": "Xi’an (id 2) was stored beside an earlier city of the same name:"
        " run python manage.py remove --id 2, or rename --id 2 NAME"
    }


@pytest.mark.parametrize(
    ("statements", "named"),
    [
        (["UPDATE cities SET population = 9 WHERE id = 2"], "C2 (id 2)"),
        (["DELETE FROM cities WHERE id = 2"], "a removed city (id 2)"),
        (["UPDATE cities SET population = 9"], "C1 (id 1), C2 (id 2), C3 (id 3) and 2 more"),
    ],
)
async def test_cities_that_were_changed_without_the_log_are_found(
    empty: Addresses, statements: list[str], named: str
) -> None:
    environment = {"DATABASE_URL": empty.app.render_as_string(hide_password=False)}
    await run_sql(empty.owner, FILL.format(population="n", first=1, last=5), LOG)
    assert await wrong(**environment) == {}
    await run_sql(empty.owner, *statements)
    assert await wrong(**environment) == {
        "history": f"{named} changed without the log of changes, probably in psql."
        " Use python manage.py correct, rename or remove instead; to begin the history of a city anew,"
        " delete its rows from the table changes in psql"
    }
    await run_sql(empty.owner, "DELETE FROM changes")
    assert await wrong(**environment) == {}


async def log_finding(url: URL) -> tuple[str, bool]:
    found = await checked(DATABASE_URL=url.render_as_string(hide_password=False))
    ((words, well),) = [(finding.words, finding.well) for finding in found if finding.subject == "log"]
    return words, well


async def test_a_role_that_owns_the_log_is_told_so(empty: Addresses) -> None:
    words, well = await log_finding(empty.owner)
    assert words == "this role owns the tables, so it can also change the log: to prevent that, serve as cityweb_app"
    assert well


async def test_a_role_that_serves_and_may_change_the_log_is_found(empty: Addresses) -> None:
    if empty.app == empty.owner:
        pytest.skip("one role is both here")
    assert await log_finding(empty.app) == ("the role that serves can only append to it", True)
    for right in ("UPDATE", "UPDATE (reason)", "DELETE", "TRUNCATE"):
        await run_sql(empty.owner, f"GRANT {right} ON changes TO cityweb_app")
        try:
            words, well = await log_finding(empty.app)
        finally:
            await run_sql(empty.owner, f"REVOKE {right} ON changes FROM cityweb_app")
        assert "run REVOKE UPDATE, DELETE, TRUNCATE ON changes FROM the role that serves, as the owner" in words
        assert not well
    assert (await log_finding(empty.app))[1]


async def test_a_database_that_does_not_answer_is_found() -> None:
    assert "start it" in (await wrong(DATABASE_URL="postgresql://nobody@127.0.0.1:1/x"))["database"]


async def test_a_wrong_setting_is_found() -> None:
    assert list(await wrong(CITYWEB_RATE_LIMIT="x")) == ["settings"]


async def test_an_old_schema_and_a_server_that_may_forget_are_found(tmp_path: Path) -> None:
    with embedded.serving(tmp_path) as served:
        await configure(served.owner_url, "fsync", "off")
        found = await wrong(DATABASE_URL=served.owner_url)
    assert "run python manage.py initdb" in found["schema"]
    assert "set fsync = on" in found["durability"]


@pytest.mark.parametrize("content", [b"other", None])
async def test_a_vendored_file_that_was_changed_is_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: bytes | None
) -> None:
    (name,) = assets.VENDORED
    if content:
        (tmp_path / name).write_bytes(content)
    monkeypatch.setattr(assets, "STATIC", tmp_path)
    assert f"git checkout static/{name}" in (await wrong(CITYWEB_RATE_LIMIT="x"))[name]
