"""The models and the migrations, which say the same."""

from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, NullPool
from sqlalchemy.ext.asyncio import create_async_engine

from cityweb.postgres import cities
from cityweb.postgres.tables import Base
from cityweb.submissions import FIELDS
from tests.conftest import Addresses, run_sql


def differences(connection: Connection) -> list[object]:
    context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
    return [found for found in compare_metadata(context, Base.metadata) if "alembic_version" not in str(found)]


async def test_the_migrations_make_what_the_models_say(postgres: Addresses) -> None:
    async with create_async_engine(postgres.owner, poolclass=NullPool).connect() as connection:
        assert await connection.run_sync(differences) == []
        checks = await run_sql(
            postgres.owner,
            "SELECT conname, pg_get_constraintdef(oid) AS rule FROM pg_constraint"
            " WHERE conrelid = 'cities'::regclass AND contype = 'c'",
        )
    assert {check["conname"] for check in checks} == {
        constraint.name
        for constraint in Base.metadata.tables["cities"].constraints
        if "cities_" in str(constraint.name)
    }


def test_every_column_that_postgresql_does_not_fill_is_written() -> None:
    columns = Base.metadata.tables["cities"].columns
    assert {column.name for column in columns if not column.server_default} | {*FIELDS} == {*cities.COLUMNS}


async def test_no_locale_decides_which_names_are_one(postgres: Addresses) -> None:
    rows = await run_sql(
        postgres.owner,
        "SELECT table_name || '.' || column_name FROM information_schema.columns"
        " WHERE table_schema = 'public' AND collation_name = 'C'",
    )
    countries = {f"{table}.country" for table in ("cities", "tally", "tally_changes")}
    assert {name for (name,) in rows} == {
        "blocks.name_key", "cities.name_key", "cities.name_bare", "cities.words", *countries,
    }  # fmt: skip


async def test_a_model_that_the_migrations_lack_would_be_found(postgres: Addresses) -> None:
    async with create_async_engine(postgres.owner, poolclass=NullPool).begin() as connection:
        await connection.exec_driver_sql("DROP INDEX cities_board")
        assert await connection.run_sync(differences) != []
        await connection.rollback()
