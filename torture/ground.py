"""The ground of a row: a PostgreSQL of its own, servers as they are shipped, and the state of their processes."""

import asyncio
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg
from sqlalchemy import URL, make_url

from cityweb.postgres import embedded, schema
from tests.conftest import run_sql
from torture.visitor import Visitor

TOP = Path(__file__).parent.parent
GENEROUS = {"CITYWEB_RATE_LIMIT": "100000000,100000000,100000000"}
"""The rate limiter is on, but its limits are never reached."""
PAGE = os.sysconf("SC_PAGE_SIZE")
COUNTS_TASKS = """
import asyncio, os, pathlib, signal
counts = pathlib.Path(__file__).with_name(f"tasks-{os.getpid()}")
signal.signal(signal.SIGUSR2, lambda *_: counts.write_text(str(len(asyncio.all_tasks()))))
"""
"""Runs when Python starts, in the workers too: a process writes down its number of tasks on SIGUSR2."""


@dataclass
class Ground:
    """A folder with a PostgreSQL cluster, and the servers that were started on it."""

    folder: Path
    servers: list["Running"] = field(default_factory=list)
    poolers: list["subprocess.Popen[bytes]"] = field(default_factory=list)

    def url(self, role: str = "cityweb_owner", name: str = "cityweb") -> URL:
        return make_url(f"postgresql+asyncpg://{role}@/{name}?host={self.folder / 'postgres'}&port=5432")

    async def sql(self, *statements: str, role: str = "cityweb_owner") -> list[asyncpg.Record]:
        """Runs statements like psql. Returns the rows of the last one."""
        return await run_sql(self.url(role), *statements)

    async def pairs(self) -> list[tuple[str, int]]:
        return [(row["name"], row["population"]) for row in await self.sql("SELECT name, population FROM cities")]

    async def start(self, *arguments: str, before: str = "", ready: bool = True, **environment: str) -> "Running":
        """Starts `runserver` as the application's role with generous rate limits; the code in `before` runs first."""
        (self.folder / "sitecustomize.py").write_text(COUNTS_TASKS)
        given = {**GENEROUS, "DATABASE_URL": self.url("cityweb_app").render_as_string(), **environment}
        given["PYTHONPATH"] = str(self.folder)
        words = ["runserver", "--port", "0", *arguments]
        code = ["-c", f"{before}\nimport sys, manage\nsys.argv[1:] = {words}\nmanage.main()"]
        log = self.folder / f"log-{len(self.servers)}"
        with log.open("w") as errors:
            process = subprocess.Popen(
                [sys.executable, *(code if before else ["manage.py", *words])],
                cwd=TOP,
                env={**os.environ, **given},
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        assert process.stdout
        line = await asyncio.to_thread(process.stdout.readline)
        printed = re.search(r"http://[^/]+:(\d+)", line)
        if not printed:
            raise RuntimeError(f"the server did not start: {log.read_text()[-500:]}")
        running = Running(process, int(printed[1]), log)
        self.servers.append(running)
        if ready:
            await running.wait_for("/readyz", 200, 30)
        return running

    def start_pooler(self) -> URL | None:
        """The database through PgBouncer in transaction mode; None if PgBouncer 1.21 or newer is not on the PATH."""
        pgbouncer = shutil.which("pgbouncer")
        version = subprocess.check_output([pgbouncer, "--version"], text=True) if pgbouncer else ""
        if not pgbouncer or [int(part) for part in re.findall(r"\d+", version)[:2]] < [1, 21]:
            return None
        sockets, settings = self.folder / "postgres", self.folder / "pgbouncer.ini"
        settings.write_text(
            f"[databases]\n* = host={sockets} user=cityweb_app\n"
            f"[pgbouncer]\nauth_type = any\npool_mode = transaction\nserver_login_retry = 1\n"
            f"pidfile = {sockets / 'pgbouncer.pid'}\nunix_socket_dir = {sockets}\nlisten_addr =\nlisten_port = 6432\n"
        )
        as_account = ["-u", sockets.owner()] if os.geteuid() == 0 else []
        process = subprocess.Popen([pgbouncer, "-q", *as_account, settings], stderr=subprocess.DEVNULL)
        self.poolers.append(process)
        return self.url("cityweb_app").update_query_dict({"port": "6432"})

    def postmaster(self) -> int:
        """The pid of PostgreSQL. Raises ConnectionError if it is gone: another process may have its pid by now."""
        pid = int((self.folder / "postgres" / "postmaster.pid").read_text().split("\n")[0])
        if not works_in(pid, self.folder):
            raise ConnectionError("PostgreSQL is gone")
        return pid

    def end(self) -> None:
        for server in self.servers:
            server.end()
        while self.poolers:
            self.poolers[-1].terminate()
            self.poolers.pop().wait(20)


@dataclass(frozen=True)
class Running:
    """A server that a row started."""

    process: "subprocess.Popen[str]"
    port: int
    log: Path

    async def wait_for(self, path: str, status: int, seconds: float) -> float:
        """Waits until a path has this status. Returns the seconds that it took. Raises TimeoutError."""
        clock = asyncio.get_running_loop().time
        begun = clock()
        async with asyncio.timeout(seconds):
            while True:
                try:
                    async with Visitor(self.port) as visitor:
                        if (await visitor.get(path)).status == status:
                            return clock() - begun
                except (OSError, EOFError):
                    pass
                await asyncio.sleep(0.02)

    def workers(self) -> list[int]:
        """The pids of the workers, or of the only process."""
        spawned = [pid for pid in children(self.process.pid) if b"spawn_main" in command(pid)]
        return spawned or [self.process.pid]

    async def tasks(self, pid: int) -> int:
        """The current number of tasks in a process."""
        counted = self.log.parent / f"tasks-{pid}"
        counted.unlink(missing_ok=True)
        kill(pid, signal.SIGUSR2)
        async with asyncio.timeout(10):
            while not (counted.exists() and counted.read_text()):
                await asyncio.sleep(0.01)
        return int(counted.read_text())

    async def stop(self, seconds: float = 30) -> int:
        self.process.send_signal(signal.SIGTERM)
        return await asyncio.to_thread(self.process.wait, seconds)

    def end(self) -> None:
        """Ends the server in any state, with all processes that it started except PostgreSQL."""
        workers = self.workers()
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
                for pid in workers:
                    kill(pid)
        if self.process.stdout:
            self.process.stdout.close()


@asynccontextmanager
async def ground(kept_by_us: bool = True) -> AsyncIterator[Ground]:
    """A new cluster with the current schema, run by us, or an empty folder in which the server creates its own."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        here = Ground(Path(name))
        try:
            if kept_by_us:
                with embedded.serving(here.folder):
                    await schema.migrate(here.url())
                    try:
                        yield here
                    finally:
                        await asyncio.to_thread(here.end)
            else:
                yield here
        finally:
            await asyncio.to_thread(here.end)
            if not kept_by_us and (here.folder / "postgres" / "PG_VERSION").exists():
                with embedded.serving(here.folder):  # the last process to leave stops it
                    pass


# --- processes, as Linux shows them ---


def kill(pid: int, number: int = signal.SIGKILL) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def kill_all(postmaster: int) -> None:
    """Kills the postmaster and all its children at once."""
    for pid in (postmaster, *children(postmaster)):
        kill(pid)


@contextmanager
def frozen(postmaster: int) -> Iterator[None]:
    """Suspends PostgreSQL until the block ends: it neither accepts connections nor responds."""
    pids = (postmaster, *children(postmaster))
    for pid in pids:
        kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            kill(pid, signal.SIGCONT)


def _read(pid: int, name: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""


def command(pid: int) -> bytes:
    return _read(pid, "cmdline")


def processes() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def children(parent: int) -> list[int]:
    return [
        pid
        for pid in processes()
        if (stat := _read(pid, "stat")) and int(stat.rpartition(b")")[2].split()[1]) == parent
    ]


def lives(pid: int) -> bool:
    stat = _read(pid, "stat")
    return bool(stat) and stat.rpartition(b")")[2].split()[0] != b"Z"


def memory(pid: int) -> int:
    """The resident memory of a process in bytes."""
    return int((_read(pid, "statm") or b"0 0").split()[1]) * PAGE


def descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def inside(folder: Path) -> list[int]:
    """The processes that work in a folder, like PostgreSQL in that of its cluster."""
    return [pid for pid in processes() if works_in(pid, folder)]


def works_in(pid: int, folder: Path) -> bool:
    try:
        return Path(f"/proc/{pid}/cwd").readlink().is_relative_to(folder) and lives(pid)
    except OSError:
        return False
