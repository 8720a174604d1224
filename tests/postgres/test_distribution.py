"""The distribution of populations: exact counts on an even scale."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cityweb.city import POPULATION_MAX
from cityweb.postgres.database import Pool
from cityweb.postgres.distribution import COLUMNS, SIZES, Distribution, distribution
from tests.conftest import FILL, Addresses, insert, run_sql

POPULATIONS = [0, 1, 9_999, 10_000, 99_999, 500_000, 1_999_999, 2_000_000, 10_000_000, POPULATION_MAX]


async def count(empty: Addresses) -> Distribution:
    pool = Pool(empty.app, 1)
    try:
        async with pool.open() as session:
            return await distribution(session)
    finally:
        await pool.engine.dispose()


async def test_each_city_is_counted_in_its_size_and_its_column(empty: Addresses) -> None:
    await run_sql(empty.owner, *(insert(f"C{n}", population) for n, population in enumerate(POPULATIONS)))
    counted = await count(empty)
    assert counted.sizes == (3, 2, 0, 1, 1, 1, 0, 2)
    assert (counted.smallest, counted.biggest) == (1, POPULATION_MAX)
    places = [counted.column_of(population) for population in POPULATIONS]
    assert counted.columns == tuple(places.count(column) for column in range(COLUMNS))
    assert (places[0], places[-1]) == (0, COLUMNS - 1)


@pytest.mark.parametrize("population", [None, 0, 5, POPULATION_MAX])
async def test_cities_of_one_population_have_no_columns(empty: Addresses, population: int | None) -> None:
    if population is not None:
        await run_sql(empty.owner, FILL.format(population=population, first=1, last=30))
    counted = await count(empty)
    assert counted.columns == ()
    assert sum(counted.sizes) == (0 if population is None else 30)


@given(st.integers(1, POPULATION_MAX), st.integers(2, POPULATION_MAX))
def test_the_scale_is_even_and_its_ticks_are_on_it(smallest: int, factor: int) -> None:
    scale = Distribution(smallest, min(smallest * factor, 2 * POPULATION_MAX))
    assert scale.bounds == sorted(scale.bounds)
    assert len(scale.bounds) == COLUMNS - 1
    assert scale.column_of(scale.smallest) <= scale.column_of(scale.biggest) <= COLUMNS - 1
    assert all(0 <= scale.position_of(tick) <= 1 for tick in scale.ticks)
    assert len(scale.ticks) <= 9


def test_a_short_scale_has_more_ticks() -> None:
    assert Distribution(900_000, 25_000_000).ticks == [1_000_000, 2_000_000, 5_000_000, 10_000_000, 20_000_000]
    assert Distribution(500, 25_000_000).ticks == [1_000, 10_000, 100_000, 1_000_000, 10_000_000]


def test_the_sizes_are_in_order() -> None:
    assert sorted(SIZES) == list(SIZES)
