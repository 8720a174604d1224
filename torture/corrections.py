"""No acknowledged change is lost, and the log of changes leads to the cities: L10 and L11."""

import asyncio
import json
import random
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count

import asyncpg

from cityweb.postgres import database, history
from cityweb.postgres.history import format_value
from tests import replay
from torture.ground import Ground, Running, ground
from torture.ledger import Action, Ledger, action, revert
from torture.nemesis import Nemesis
from torture.report import Report
from torture.visitor import Response, Visitor

WRITERS = 24
SECONDS, PAUSE, FAULTS = 64, 1.8, 28
SHARES = {"add": 50, "correct": 27, "revert": 14, "remove": 9}
"""Of a hundred writes. Some reverts and removals come too late."""
EDITED = 40
"""The cities that the writers correct and remove: few, so that they often meet."""
BOARD = 20
BIG = 90_000_000
"""The population of the first cities, which stay on the board, so that any other may be removed."""
TO_REVERT = "SELECT id FROM changes WHERE kind IN ('correct', 'remove') ORDER BY id DESC LIMIT 100"
CONTROL_SECONDS = 8
CARELESS = """
from sqlalchemy import text
from cityweb.postgres import changes
for name in changes.FIELDS:
    compared = f"{name} = coalesce((:old_{name})::{changes.COLUMNS[name]}, {name})"
    assert compared in changes.CORRECT.text
    changes.CORRECT = text(changes.CORRECT.text.replace(compared, "true"))
"""
"""Corrects a city whatever its visitor was shown."""
FORGET_ONE = ("DELETE FROM changes WHERE city_id = 1", "DELETE FROM cities WHERE id = 1")
"""Undoes the first add without a trace, as if its commit had been lost."""
DELETE_ONE = (
    "DELETE FROM changes WHERE id = (SELECT id FROM changes WHERE kind = 'correct' ORDER BY md5(id::text) LIMIT 1)"
)


@dataclass
class Writers:
    """What the writers have attempted, and what they know of the cities that they edit."""

    seed: int
    ledger: Ledger = field(default_factory=Ledger)
    shown: dict[int, dict[str, object]] = field(default_factory=dict)
    """The values that were last shown of each city that they edit."""
    revertible: list[int] = field(default_factory=list)
    """The ids of the last changes."""
    statuses: Counter[tuple[str, int]] = field(default_factory=Counter)
    _numbers: "count[int]" = field(default_factory=lambda: count(1))

    async def prepare(self, port: int) -> None:
        """Adds the cities that stay on the board."""
        async with Visitor(port) as visitor:
            for number in range(BOARD):
                pair = (f"Big {self.seed} {number}", BIG + number)
                self.ledger.attempted.add(added := _add(*pair))
                assert (await visitor.add(*pair)).status == 201
                self.ledger.acknowledge(added)

    async def write(self, port: int, number: int, over: asyncio.Event) -> None:
        """Adds, corrects, reverts and removes, each until the server has decided, or `over` is set."""
        chance = random.Random(f"{self.seed} {number}")
        async with Visitor(port) as visitor:
            while not over.is_set():
                kind = chance.choices([*SHARES], [*SHARES.values()])[0]
                chosen = self._choose(kind, chance)
                if chosen is None:
                    continue  # there is nothing to edit yet, so another kind is chosen
                attempt, path, values = chosen
                self.ledger.attempted.add(attempt)
                while not over.is_set():
                    try:
                        response = await visitor.post(path, values)
                    except (OSError, EOFError, TimeoutError):
                        self.statuses[kind, 0] += 1
                    else:
                        self.statuses[kind, response.status] += 1
                        if self._is_decided(kind, attempt, values, response):
                            break
                    await asyncio.sleep(0.05)

    async def follow(self, here: Ground, over: asyncio.Event) -> None:
        """Reads the ids of the last changes, which no JSON response has, five times a second."""
        while not over.is_set():
            with suppress(OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):  # it is down
                self.revertible = [row["id"] for row in await here.sql(TO_REVERT)]
            await asyncio.sleep(0.2)

    def _choose(self, kind: str, chance: random.Random) -> tuple[Action, str, dict[str, object]] | None:
        """An attempt at a change of this kind, with its path and values, or None if there is nothing to change.

        No two adds or corrections enter the same name or population.
        """
        number = next(self._numbers)
        if kind == "add":
            name = f"City {self.seed} {number}"
            return _add(name, number), "/cities/", {"name": name, "population": number}
        if kind == "revert":
            if not self.revertible:
                return None
            change_id = chance.choice(self.revertible)
            return revert(change_id), f"/changes/{change_id}/revert", {}
        if not self.shown:
            return None
        city_id = chance.choice([*self.shown])
        city = self.shown[city_id]
        if kind == "remove":
            old = {f"old_{name}": value for name, value in city.items()}
            values = {**old, "reason": chance.choice(("not a city", "duplicate", "offensive"))}
            return action("remove", city_id, **old), f"/cities/{city_id}/remove", values
        new = chance.choice((
            {"name": f"Renamed {self.seed} {number}"},
            {"population": number},
            {"population": number, "country": chance.choice([c for c in ("", "DE", "FR") if c != city["country"]])},
        ))  # fmt: skip
        old = {f"old_{name}": city[name] for name in new}
        attempt = action("correct", city_id, **old, **{f"new_{name}": value for name, value in new.items()})
        return attempt, f"/cities/{city_id}", {**new, **old}

    def _is_decided(self, kind: str, attempt: Action, values: dict[str, object], response: Response) -> bool:
        """Records a response. Returns whether it says if the change was made; otherwise it is sent again."""
        if response.status in {500, 503}:
            return False
        document = json.loads(response.body)
        stored = document if response.status in {200, 201} else document.get("stored")
        is_done = response.status in {200, 201}
        if kind == "add":
            is_done = stored is not None and stored["population"] == values["population"]
            stored = {"country": "", **stored} if stored and len(self.shown) < EDITED else None
        if is_done:
            self.ledger.acknowledge(attempt)
        if kind == "remove" or response.status in {404, 410}:
            city_id = attempt[1] if kind != "revert" else None
            self.shown.pop(city_id, None)  # type: ignore[call-overload]  # It is an int or None.
        elif stored:
            self.shown[stored["id"]] = {name: stored[name] for name in ("name", "population", "country")}
        return True

    def strange(self) -> dict[tuple[str, int], int]:
        """The statuses that no kind of change should have had."""
        expected = {0, 200, 201, 404, 409, 410, 422, 503}
        return {key: times for key, times in self.statuses.items() if key[1] not in expected}


def _add(name: str, population: int) -> Action:
    return action("add", None, new_name=name, new_population=population, new_country="")


@dataclass(frozen=True)
class Found:
    """What the ledger, the replay of the log, and `check` find after a run."""

    lost: int
    phantom: int
    differences: list[str]
    broken: int


async def _examine(here: Ground, writers: Writers) -> Found:
    connection = await database.connect(here.url())
    try:
        differences = await replay.differences(connection)
        log = await connection.fetch(replay.LOG)
    finally:
        await connection.close()
    async with database.outside_the_pool(here.url()).connect() as reading:
        broken = await history.broken(reading)
    return Found(*writers.ledger.compare_log(log), differences, len(broken))


async def _write(here: Ground, server: Running, seed: int, over: asyncio.Event) -> Writers:
    writers = Writers(seed)
    await writers.prepare(server.port)
    writing = [writers.write(server.port, number, over) for number in range(WRITERS)]
    await asyncio.gather(writers.follow(here, over), *writing)
    await server.wait_for("/readyz", 200, 30)
    return writers


async def edit_under_faults(report: Report, seed: int) -> None:
    """L10: writers add, correct, revert and remove while a seeded nemesis kills and freezes processes."""
    async with ground(kept_by_us=False) as here:
        server = await here.start("--workers", "2", DATABASE_URL="", CITYWEB_DATA=str(here.folder))
        nemesis, over = Nemesis(here, server, seed), asyncio.Event()
        raging = asyncio.create_task(nemesis.rage(SECONDS, PAUSE))
        raging.add_done_callback(lambda _: over.set())
        writers, _ = await asyncio.gather(_write(here, server, seed, over), raging)
        found = await _examine(here, writers)
        cities = await here.pairs()
        await here.sql(*FORGET_ONE)
        forgotten = await _examine(here, writers)
        await here.sql(DELETE_ONE)
        deleted = await _examine(here, writers)
    acknowledged = writers.ledger.acknowledged
    kinds = Counter(str(done[0]) for done in acknowledged)
    report.row(
        "acknowledged changes lost, phantom", "0, 0", (found.lost, found.phantom), not (found.lost or found.phantom)
    )
    values = {value for attempt in writers.ledger.attempted for value in attempt[2:]}
    report.exactly(
        "values of cities that were never attempted", sum(value not in values for pair in cities for value in pair), 0
    )
    report.exactly(
        f"the log, replayed over no cities, and the {len(cities):,} stored: differences", len(found.differences), 0
    )
    report.exactly("cities whose history is broken, as `check` finds it", found.broken, 0)
    report.at_least("faults: " + ", ".join(sorted(set(nemesis.done))), len(nemesis.done), FAULTS, "faults")
    report.at_least(
        "changes acknowledged: " + ", ".join(f"{kinds[kind]:,} {kind}" for kind in SHARES),
        len(acknowledged),
        5_000,
        "changes",
    )
    edits = 1 - kinds["add"] / len(acknowledged)
    report.row("… that are not adds", "≥ 40 %", f"{edits:.0%}", edits >= 0.4)
    report.row("… unexpected statuses", "none", writers.strange() or "none", not writers.strange())
    report.row("control: an add undone without a trace", "1 lost", f"{forgotten.lost} lost", forgotten.lost == 1)
    report.row(
        "control: one row of the log deleted",
        "is caught",
        f"replay {len(deleted.differences)}, check {deleted.broken}",
        bool(deleted.differences and deleted.broken),
    )
    await _overwrite_on_purpose(report, seed)


async def _overwrite_on_purpose(report: Report, seed: int) -> None:
    async with ground() as here:
        server, over = await here.start(before=CARELESS), asyncio.Event()
        asyncio.get_running_loop().call_later(CONTROL_SECONDS, over.set)
        found = await _examine(here, await _write(here, server, seed, over))
    report.row(
        "control: corrections that do not compare what was shown",
        "are caught",
        f"replay {len(found.differences)}, check {found.broken}, {found.phantom} phantom",
        bool(found.differences and found.broken),
    )


VISITORS, ROUNDS = 50, 100


async def correct_at_once(report: Report, seed: int) -> None:
    """L11: 50 visitors correct one field of one city from one page; then two visitors correct two fields of it."""
    statuses, both = Counter[int](), Counter[int]()
    wrong = overwritten = 0
    async with ground() as here:
        server = await here.start("--workers", "4", CITYWEB_RATE_LIMIT="off")
        visitors = [Visitor(server.port) for _ in range(VISITORS)]
        for number in range(ROUNDS):
            name, population = f"Paris {seed} {number}", 5
            path = f"/cities/{json.loads((await visitors[0].add(name, population)).body)['id']}"
            shown: dict[str, object] = {"name": name, "population": population}
            corrected = ("population", "name")[number % 2]
            entered = [(1000 + n, f"{name} {n}")[number % 2] for n in range(VISITORS)]
            asked = (
                visitor.post(path, {corrected: value, f"old_{corrected}": shown[corrected]})
                for visitor, value in zip(visitors, entered, strict=True)
            )
            responses = await asyncio.gather(*asked)
            statuses += Counter(response.status for response in responses)
            stored = json.loads((await visitors[0].get(f"{path}.json")).body)
            for value, response in zip(entered, responses, strict=True):
                document = json.loads(response.body)
                if response.status == 409:
                    sentence = f"You entered {format_value(corrected, value)}."
                    is_right = (
                        document["stored"][corrected] == stored[corrected] and sentence in document["errors"][corrected]
                    )
                else:
                    is_right = document.get(corrected) == stored[corrected] == value
                wrong += not is_right
            new = {"name": f"Lutetia {seed} {number}", "population": 7}
            pages = ({name: value, f"old_{name}": stored[name]} for name, value in new.items())
            two = await asyncio.gather(
                *(visitor.post(path, page) for visitor, page in zip(visitors, pages, strict=False))
            )
            both += Counter(response.status for response in two)
            stored = json.loads((await visitors[0].get(f"{path}.json")).body)
            overwritten += any(stored[name] != value for name, value in new.items())
        for visitor in visitors:
            visitor.close()
        logged = len(await here.sql("SELECT FROM changes WHERE kind = 'correct'"))
        connection = await database.connect(here.url())
        differences = await replay.differences(connection)
        await connection.close()
    report.exactly(
        f"{VISITORS} corrections of one field from one page, {ROUNDS} times: statuses",
        dict(statuses),
        {200: ROUNDS, 409: (VISITORS - 1) * ROUNDS},
    )
    report.exactly("… responses without the stored value and what their senders entered", wrong, 0)
    report.exactly("two fields from two pages: statuses", dict(both), {200: 2 * ROUNDS})
    report.exactly("… cities without both", overwritten, 0)
    report.exactly("corrections in the log", logged, 3 * ROUNDS)
    report.exactly("differences between the replayed log and the cities", len(differences), 0)
