"""Which adds were acknowledged: modelled on Jepsen's set-full, over pairs of name and population."""

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
    """Every pair that was attempted, and every pair that was acknowledged, with the time."""

    attempted: set[Pair] = field(default_factory=set)
    acknowledged: dict[Pair, float] = field(default_factory=dict)
    statuses: Counter[int] = field(default_factory=Counter)

    def note(self, pair: Pair, response: Response) -> bool:
        """Records a response. Returns whether it acknowledges exactly this pair as stored, now or before."""
        self.statuses[response.status] += 1
        is_stored = response.status in {201, 303} or (
            response.status == 422 and json.loads(response.body).get("stored", {}).get("population") == pair[1]
        )
        if is_stored:
            self.acknowledged.setdefault(pair, time.monotonic())
        return is_stored

    def longest_gap(self) -> float:
        """The longest time between two acknowledgements, in seconds."""
        times = sorted(self.acknowledged.values())
        return max((later - sooner for sooner, later in pairwise(times)), default=0.0)

    def compare(self, stored: list[Pair]) -> tuple[int, int, int]:
        """The number of pairs that are lost, of duplicates, and of stored pairs that were never attempted."""
        rows = set(stored)
        lost = self.acknowledged.keys() - rows
        duplicate = len(stored) - len({name.casefold() for name, _ in stored})
        return len(lost), duplicate, len(rows - self.attempted)


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
