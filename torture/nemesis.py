"""Kills and freezes processes, repeatable by a seed: only processes that the row has started."""

import asyncio
import random
from collections.abc import Awaitable, Callable

import asyncpg

from torture.ground import Ground, Running, children, command, frozen, kill, kill_all

FREEZE_SECONDS = 1
TERMINATE = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'cityweb%'"
    " AND pid <> pg_backend_pid()"
)


class Nemesis:
    """Causes one fault after another in a server and its database."""

    def __init__(self, here: Ground, server: Running, seed: int) -> None:
        self.here, self.server, self.random = here, server, random.Random(seed)
        self.done: list[str] = []
        self.faults: dict[str, Callable[[], Awaitable[None]]] = {
            "kill a worker": self.kill_worker,
            "kill PostgreSQL": self.kill_postgres,
            "kill a backend": self.kill_backend,
            "terminate backends": self.terminate_backends,
            "freeze PostgreSQL": self.freeze,
        }

    async def rage(self, seconds: float, pause: float) -> None:
        """Causes every fault in turn, in another order each round."""
        async with asyncio.timeout(seconds + 30):
            loop = asyncio.get_running_loop()
            end = loop.time() + seconds
            while loop.time() < end:
                for name in self.random.sample(list(self.faults), len(self.faults)):
                    await asyncio.sleep(pause * self.random.uniform(0.7, 1.3))
                    try:
                        await self.faults[name]()
                    except (OSError, TimeoutError, asyncpg.PostgresError):
                        continue  # it is still down from the previous fault
                    self.done.append(name)

    async def kill_worker(self) -> None:
        workers = self.server.workers()
        if workers == [self.server.process.pid]:
            raise ConnectionError("no worker is there now")
        kill(self.random.choice(workers))

    async def kill_postgres(self) -> None:
        kill_all(self.here.postmaster())

    async def kill_backend(self) -> None:
        kill(self.random.choice(self.backends()))

    async def terminate_backends(self) -> None:
        await self.here.sql(TERMINATE, role="postgres")

    async def freeze(self) -> None:
        with frozen(self.here.postmaster()):
            await asyncio.sleep(FREEZE_SECONDS)

    def backends(self) -> list[int]:
        """The PostgreSQL processes that serve the application. Raises ConnectionError if there is none."""
        found = [pid for pid in children(self.here.postmaster()) if b"cityweb_app" in command(pid)]
        if not found:
            raise ConnectionError("nobody is served now")
        return found
