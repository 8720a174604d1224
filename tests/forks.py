"""Starts commands in a tenth of a second: one process imports cityweb and forks for each command.

A fork has its own arguments, environment, folder and standard files. It inherits resource limits, and settings that
Python reads only at its start (PYTHONUTF8).
"""

import gc
import json
import os
import select
import socket
import struct
import subprocess
import sys
import threading
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, AnyStr

from coverage import Coverage

from cityweb.commands import cli
from cityweb.web import app  # noqa: F401 (a server loads it)

TOP = Path(__file__).parent.parent
NUMBER = struct.Struct("i")
LOCK = threading.Lock()
MEASURED = "COVERAGE_PROCESS_CONFIG"
"""The environment variable that makes coverage measure a process; a fork without it stops that."""
ENVIRONMENT = dict(os.environ)
"""The environment before any test changed it."""


class Forked(subprocess.Popen[AnyStr]):
    """Runs `python manage.py` with these arguments, in a fork."""

    _watcher: socket.socket

    def _execute_child(self, args: tuple[str, ...], *more: Any) -> None:
        """Replaces the step of Popen that starts a process; the pipes exist already (as in CPython 3.11)."""
        folder, environment, files = more[4], more[5], more[9:15]
        standard: map[int] = map(max, range(3), (files[0], files[3], files[5]))  # -1 means the standard file
        self._watcher, theirs = socket.socketpair()
        with theirs, LOCK:
            socket.send_fds(first()[0], [b"1"], [*standard, theirs.fileno()])
        self._watcher.sendall(json.dumps([args, str(folder), dict(environment)]).encode() + b"\n")
        self._close_pipe_fds(*files)  # type: ignore[attr-defined]
        self.pid = self._number()
        self._child_created = True

    def _number(self) -> int:
        return int(NUMBER.unpack(self._watcher.recv(NUMBER.size, socket.MSG_WAITALL))[0])

    def poll(self) -> int | None:
        with suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            if not select.select([self._watcher], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(self.args, timeout or 0)
            with self._watcher:
                self.returncode = os.waitstatus_to_exitcode(self._number())
        return self.returncode


@cache
def first() -> tuple[socket.socket, "subprocess.Popen[bytes]"]:
    """A socket to the process that forks, and that process."""
    ours, theirs = socket.socketpair()
    code = f"import sys; sys.path[0] = {str(TOP)!r}; from tests import forks; forks.fork({theirs.fileno()})"
    with theirs:
        command = [sys.executable, "-c", code]
        return ours, subprocess.Popen(command, pass_fds=[theirs.fileno()], start_new_session=True, env=ENVIRONMENT)


def end() -> None:
    if first.cache_info().currsize:
        way, process = first()
        way.close()
        process.wait(20)


def fork(way: int) -> None:
    """Runs each requested command in a fork of a fork; the one between reports the id and the status of the command."""
    gc.freeze()  # Otherwise each fork would search all imported objects for garbage at its end.
    with socket.socket(fileno=way) as requests:
        while True:
            request, files, *_ = socket.recv_fds(requests, 1, 4)
            if not request:
                return
            if os.fork() == 0:
                break
            for file in files:
                os.close(file)
    *standard, watcher = files
    with socket.socket(fileno=watcher) as watched, watched.makefile() as lines:
        arguments, folder, environment = json.loads(lines.readline())
        if pid := os.fork():
            for file in standard:
                os.close(file)
            watched.sendall(NUMBER.pack(pid))
            watched.sendall(NUMBER.pack(os.waitpid(pid, 0)[1]))
            os._exit(0)
    for number, file in enumerate(standard):
        os.dup2(file, number)
        os.close(file)
    # The objects of the first process have the encodings and buffers of its own files.
    sys.stdin, sys.stdout = os.fdopen(0), os.fdopen(1, "w")
    sys.stderr = os.fdopen(2, "w", 1, errors="backslashreplace")
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    if MEASURED not in environment and (measuring := Coverage.current()):
        measuring.stop()
    sys.argv = ["manage.py", *arguments]
    cli.main()
