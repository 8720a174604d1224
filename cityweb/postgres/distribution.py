"""How the cities are distributed over the scale of populations."""

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from sqlalchemy import text

from cityweb.postgres.cities import TOTAL
from cityweb.postgres.database import Session, unit_of_work

COLUMNS = 24
SIZES = (10_000, 100_000, 500_000, 1_000_000, 2_000_000, 5_000_000, 10_000_000)
"""The bounds between the sizes of cities, in people."""

EXTREMES = text("SELECT min(population), max(population) FROM cities")
COUNTS = text(f"""
SELECT ({TOTAL}) AS total, array_agg(above ORDER BY number)
FROM unnest(CAST(:bounds AS int[])) WITH ORDINALITY AS bounds (people, number), cities_above(people - 1)
""")  # noqa: S608 (no value is put in)


@dataclass(frozen=True)
class Distribution:
    """The number of cities in 24 columns of a logarithmic scale from `smallest` to `biggest`, and of each size.

    `columns` is empty if the biggest city has less than twice the population of the smallest.
    """

    smallest: int = 1
    biggest: int = 1
    columns: tuple[int, ...] = ()
    sizes: tuple[int, ...] = ()

    @property
    def bounds(self) -> list[int]:
        """The smallest populations of the columns after the first one."""
        ratio = self.biggest / self.smallest
        return [math.ceil(self.smallest * ratio ** (column / COLUMNS)) for column in range(1, COLUMNS)]

    def column_of(self, population: int) -> int:
        return bisect_right(self.bounds, population)

    def position_of(self, population: int) -> float:
        """The position of a population on the scale, from 0 to 1."""
        return math.log(population / self.smallest) / math.log(self.biggest / self.smallest)

    @property
    def ticks(self) -> list[int]:
        """Round populations on the scale: powers of ten; on a short scale also twice and five times a power of ten."""
        steps = (1, 2, 5) if self.biggest < 100 * self.smallest else (1,)
        round_numbers = (step * 10**power for power in range(9) for step in steps)
        return [people for people in round_numbers if self.smallest <= people <= self.biggest]


@unit_of_work
async def distribution(session: Session) -> Distribution:
    """The present distribution."""
    smallest, biggest = (max(extreme or 1, 1) for extreme in (await session.execute(EXTREMES)).one())
    sizes = await _count_between(session, SIZES)
    if biggest < 2 * smallest:
        return Distribution(sizes=sizes)
    empty = Distribution(smallest, biggest)
    return Distribution(smallest, biggest, await _count_between(session, empty.bounds), sizes)


async def _count_between(session: Session, bounds: Sequence[int]) -> tuple[int, ...]:
    """The number of cities below the first bound, between each bound and the next one, and from the last bound on."""
    total, at_least = (await session.execute(COUNTS, {"bounds": list(bounds)})).one()
    return tuple(more - fewer for more, fewer in pairwise((int(total), *at_least, 0)))
