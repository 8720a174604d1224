"""Bad inputs: the property tests of `make test` with many times their examples, by the seed."""

import asyncio
import os
import sys
import tempfile

from torture.ground import TOP
from torture.report import Report

EXAMPLES = 10_000


async def fuzz(report: Report, seed: int) -> None:
    """Whatever bytes come, at every address: no 5xx, nothing stored; and what a name and a number are."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        given = {"HYPOTHESIS_PROFILE": "torture", "HYPOTHESIS_STORAGE_DIRECTORY": folder, "TMPDIR": folder}
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "pytest", "-q", "-m", "hypothesis", "--tb=short", "-p", "no:cacheprovider"),
            *("-o", "faulthandler_timeout=0"),
            f"--hypothesis-seed={seed}",
            cwd=TOP,
            env={**os.environ, **given},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            said, _ = await process.communicate()
        finally:
            if process.returncode is None:
                process.terminate()
                await process.wait()
    if process.returncode:
        print(said.decode(), file=sys.__stderr__)
    last = said.decode().strip().rpartition("\n")[2].strip("= ")
    report.row(f"{EXAMPLES:,} examples of each property", "none fails", last, process.returncode == 0)
