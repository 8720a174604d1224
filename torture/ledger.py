"""Who was told what: after Jepsen's set-full, over pairs of name and population."""

import asyncio
import json
import time
from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise

from torture.visitor import Response, Visitor

Pair = tuple[str, int]


@dataclass
class Ledger:
    """Every pair that was attempted, and every one that was acknowledged, with the time."""

    attempted: set[Pair] = field(default_factory=set)
    acknowledged: dict[Pair, float] = field(default_factory=dict)
    statuses: Counter[int] = field(default_factory=Counter)

    def note(self, pair: Pair, answer: Response) -> bool:
        """Whether an answer acknowledges this pair: that it was stored now, or that just it is stored already."""
        self.statuses[answer.status] += 1
        told = answer.status in {201, 303} or (
            answer.status == 422 and json.loads(answer.body).get("stored", {}).get("population") == pair[1]
        )
        if told:
            self.acknowledged.setdefault(pair, time.monotonic())
        return told

    def longest_gap(self) -> float:
        """The longest time in which nobody was told anything."""
        times = sorted(self.acknowledged.values())
        return max((later - sooner for sooner, later in pairwise(times)), default=0.0)

    def compare(self, stored: list[Pair]) -> tuple[int, int, int]:
        """How many pairs were lost, are there more than once, and were never attempted."""
        rows = set(stored)
        lost = self.acknowledged.keys() - rows
        duplicate = len(stored) - len({name.casefold() for name, _ in stored})
        return len(lost), duplicate, len(rows - self.attempted)


async def write(ledger: Ledger, port: int, prefix: str, over: asyncio.Event) -> None:
    """One writer of unique names, each tried until it is acknowledged."""
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
