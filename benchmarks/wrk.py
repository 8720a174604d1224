"""Runs wrk, on a core of its own if there are two."""

import os
import subprocess


def run(clients: int, seconds: int, *arguments: str, **environment: str) -> str:
    """The output of wrk. Raises CalledProcessError if it fails."""
    pin = ["taskset", "-c", "1"] if (os.cpu_count() or 1) > 1 else []
    return subprocess.run(
        [*pin, "wrk", "-t1", f"-c{clients}", f"-d{seconds}", *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
