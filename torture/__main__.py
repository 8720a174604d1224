"""`make torture`: runs each check against its threshold, repeatable by a seed; exits with status 1 if one fails."""

import argparse
import asyncio
import io
import os
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Awaitable, Callable
from contextlib import redirect_stderr
from functools import partial
from pathlib import Path

import uvloop

from torture import corrections, faults, inputs, live, loads, losses, ranks, slow
from torture.ground import command, inside, kill, processes
from torture.report import Report

Row = Callable[[Report, int], Awaitable[None]]
ROWS: dict[str, Row] = {
    "L1": losses.kill_and_freeze,
    "L2": losses.lose_on_purpose,
    "L3": losses.lose_answers,
    "L5": losses.stop_under_load,
    "L6": losses.restart_rolling,
    "L7": losses.kill_supervisor,
    "L8": losses.kill_database,
    "L9": losses.add_namesakes,
    "L10": corrections.edit_under_faults,
    "L11": corrections.correct_at_once,
    "F1": faults.be_down,
    "F2": faults.be_swallowed,
    "F3": faults.be_terminated,
    "F4": faults.be_reset,
    "F5": faults.be_left,
    "F6": faults.be_exhausted,
    "F7": slow.drag_out,
    "F8": slow.never_read,
    "F9": faults.start_together,
    "F12": slow.flood_endlessly,
    "B1": live.read_what_was_added,
    "B2": live.be_away,
    "H1": loads.add_durably,
    "H2": loads.read_at_once,
    "H6": loads.flood,
    "R1": ranks.rank,
    "R2": ranks.migrate,
    "fuzz": inputs.fuzz,
}
LONGEST_SECONDS = 600
"""The time limit of a row, which none reaches unless it hangs; H5 has its minutes in addition."""
FUZZ_SECONDS = 3600


def main() -> int:
    """Runs the selected rows. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="make torture", description=__doc__)
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000), help="repeats what a run did")
    parser.add_argument("--only", default="", help="some of " + ",".join([*ROWS, "H5"]))
    parser.add_argument("--minutes", type=float, default=10, help="how long H5 lasts (default %(default)s)")
    options = parser.parse_args()
    rows: dict[str, Row] = {**ROWS, "H5": partial(loads.mix, minutes=options.minutes)}
    wanted = [name for name in options.only.split(",") if name] or list(rows)
    if unknown := set(wanted) - set(rows):
        parser.error(f"there is no {', '.join(sorted(unknown))}: choose from {', '.join(rows)}")
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    # A signal must unwind the stack, so that all started processes are ended too. SIGINT needs a handler because a
    # shell starts background jobs with SIGINT ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    longest = {"fuzz": FUZZ_SECONDS, "H5": LONGEST_SECONDS + 60 * options.minutes}
    report = Report()
    print(f"SEED={options.seed}\n", flush=True)
    report.begin()
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="cityweb-torture-") as folder:
        # Under root, PostgreSQL runs as another account, which must be able to enter this folder.
        Path(folder).chmod(0o755)
        tempfile.tempdir = folder
        os.environ["CITYWEB_TORTURE"] = folder
        for name in wanted:
            report.number = name
            run(rows[name], report, options.seed, longest.get(name, LONGEST_SECONDS))
        report.number = "end"
        left = leftovers(Path(folder))
        report.row("processes left", "none", [command(pid)[:60] for pid in left] or "none", not left)
        for pid in left:
            kill(pid)
        files = list(Path(folder).iterdir())
        report.row("files left", "none", [path.name for path in files] or "none", not files)
        tempfile.tempdir = None
    missed = ", ".join(dict.fromkeys(report.missed)) or "none"
    print(f"\n{(time.monotonic() - begun) / 60:.0f} min, SEED={options.seed}, missed: {missed}")
    return 1 if report.missed else 0


def run(row: Row, report: Report, seed: int, seconds: float) -> None:
    """Runs one row; an exception counts as a miss."""

    async def within() -> None:
        # The log of an application in this process would interrupt the table.
        with redirect_stderr(io.StringIO()):
            async with asyncio.timeout(seconds):
                await row(report, seed)

    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(within())
    except Exception as error:
        traceback.print_exc()
        report.row("the row itself", "runs to its end", repr(error)[:100].replace("|", "/"), False)


def leftovers(folder: Path) -> list[int]:
    """The processes that this run started: they have our mark in their environment, or work in our folder."""
    mark = f"CITYWEB_TORTURE={folder}".encode()
    marked = []
    for pid in processes():
        try:
            marked += [pid] if pid != os.getpid() and mark in Path(f"/proc/{pid}/environ").read_bytes() else []
        except OSError:
            continue
    return sorted({*marked, *inside(folder)})


if __name__ == "__main__":
    sys.exit(main())
