"""Which changes were acknowledged: modelled on Jepsen's set-full.

An add is a pair of name and population, and is looked for in the table. Any change is also an action, as its row in the
log of changes describes it, and is looked for there: the log is the order in which the changes happened. That the log
leads to the table is checked apart, by replaying it.
"""

import asyncio
import json
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise

import asyncpg

from cityweb.postgres.changes import NEW, OLD
from torture.visitor import Response, Visitor

Pair = tuple[str, int]
Action = tuple[object, ...]
"""What is attempted: a pair, or the result of `action` or `revert`."""


def action(kind: str, city_id: int | None, **values: object) -> Action:
    """An add, correction or removal, with its old and new values; the id of an added city is not known before."""
    return kind, city_id if kind != "add" else None, *(values.get(name) for name in OLD + NEW)


def revert(change_id: int) -> Action:
    return "revert", change_id


def logged(row: asyncpg.Record) -> Action:
    """The action that a row of the log describes."""
    if row["reverts"]:
        return revert(row["reverts"])
    return action(row["kind"], row["city_id"], **{name: row[name] for name in OLD + NEW})


@dataclass
class Ledger:
    """Every action that was attempted, and every action that was acknowledged, with the time.

    An action that was attempted and not acknowledged may have happened.
    """

    attempted: set[Action] = field(default_factory=set)
    acknowledged: dict[Action, float] = field(default_factory=dict)
    statuses: Counter[int] = field(default_factory=Counter)

    def note(self, pair: Pair, response: Response) -> bool:
        """Records a response. Returns whether it acknowledges exactly this pair as stored, now or before."""
        self.statuses[response.status] += 1
        is_stored = response.status in {201, 303} or (
            response.status == 422 and json.loads(response.body).get("stored", {}).get("population") == pair[1]
        )
        if is_stored:
            self.acknowledge(pair)
        return is_stored

    def acknowledge(self, done: Action) -> None:
        self.acknowledged.setdefault(done, time.monotonic())

    def longest_gap(self) -> float:
        """The longest time between two acknowledgements, in seconds."""
        times = sorted(self.acknowledged.values())
        return max((later - sooner for sooner, later in pairwise(times)), default=0.0)

    def compare(self, stored: list[Pair]) -> tuple[int, int, int]:
        """The number of pairs that are lost, of duplicates, and of stored pairs that were never attempted."""
        duplicate = len(stored) - len({name.casefold() for name, _ in stored})
        return len(self.acknowledged.keys() - set(stored)), duplicate, len(set(stored) - self.attempted)

    def compare_log(self, log: Iterable[asyncpg.Record]) -> tuple[int, int]:
        """The number of actions that are lost, and of actions in the log that were never attempted."""
        found = {logged(row) for row in log}
        return len(self.acknowledged.keys() - found), len(found - self.attempted)


async def write(ledger: Ledger, port: int, prefix: str, over: asyncio.Event) -> None:
    """Adds cities with unique names, each until it is acknowledged or `over` is set."""
    visitor = Visitor(port)
    number = 0
    while not over.is_set():
        number += 1
        pair = (f"{prefix} {number}", number)
        ledger.attempted.add(pair)
        while not over.is_set():
            try:
                if ledger.note(pair, await visitor.add(*pair)):
                    break
            except (OSError, EOFError, TimeoutError):
                ledger.statuses[0] += 1
            await asyncio.sleep(0.05)
    visitor.close()
