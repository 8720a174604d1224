"""What a check finds."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cityweb.commands import checkup
from cityweb.commands.checkup import Finding
from cityweb.postgres import embedded
from cityweb.web import assets
from tests.conftest import TWINS, Addresses, configure, run_sql


async def wrong(**environment: str) -> dict[str, str]:
    # A new thread: one of the loop may be from a test that is not measured, and then nothing in it is.
    with ThreadPoolExecutor(1) as thread:
        found = await asyncio.wrap_future(thread.submit(lambda: list(checkup.findings(environment))))
    return {finding.subject: finding.words for finding in found if not finding.well}


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
