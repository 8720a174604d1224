"""Bad inputs: the property tests of `make test` with many more examples, repeatable by a seed."""

import asyncio
import os
import sys
import tempfile

from torture.ground import TOP
from torture.report import Report

EXAMPLES = 10_000


async def fuzz(report: Report, seed: int) -> None:
    """Any bytes to any path cause no 5xx and store nothing; names and numbers are read as specified."""
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
            output, _ = await process.communicate()
        finally:
            if process.returncode is None:
                process.terminate()
                await process.wait()
    if process.returncode:
        print(output.decode(), file=sys.__stderr__)
    last = output.decode().strip().rpartition("\n")[2].strip("= ")
    report.row(f"{EXAMPLES:,} examples of each property", "none fails", last, process.returncode == 0)
