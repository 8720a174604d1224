"""P11: the time and the memory of a load, beside an earlier build. T: the same for dumps."""

import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

TOP = Path(__file__).parent.parent
HERE = Path(__file__).parent
ROUNDS = 2
RATIO_MAX = 0.5
TABLES = ("an empty table", "one with as many")
LOAD_SECONDS_MAX = 60
DUMP_SECONDS_MAX = 20
MEMORY_MAX = 200
"""MB of the command, without the database."""
SAMPLED_SECONDS = 0.1

Figures = tuple[str, str, str, str, bool, str, str]
"""The target's name, the work, the result, the target, whether it is met, other results beside it, and the ratio."""
Spent = tuple[float, float]
"""Seconds and MB."""


def measure(cities: int, kinds: Sequence[str], builds: Mapping[str, Path]) -> Iterator[Figures]:
    """Loads two files of each set of rows with each build in turn, dumps one in both formats, and reloads a dump."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for kind in kinds:
            files = halves(write(kind, 2 * cities, folder / f"{kind}.csv"))
            loads: dict[str, list[list[Spent]]] = {build: [] for build in builds}
            for number in range(ROUNDS):
                for build, top in builds.items():
                    var = folder / f"{kind}-{build}-{number}"
                    run(["manage.py", "initdb"], var, top)
                    loads[build].append([load(file, var, top) for file in files])
            for index, table in enumerate(TABLES):
                runs = {build: [spent[index] for spent in of_build] for build, of_build in loads.items()}
                yield compared(f"`load`, {cities:,} cities, {kind}, into {table}", cities, runs)
        var = folder / "dumped"
        run(["manage.py", "initdb"], var)
        load(files[0], var, TOP)
        for ending in ("csv", "jsonl"):
            dump = run(["manage.py", "dump", f"{folder}/dump.{ending}"], var)
            yield figures(f"`dump`, {cities:,} cities, {ending}", dump, DUMP_SECONDS_MAX)
        again = run(["manage.py", "load", f"{folder}/dump.jsonl"], var)
        yield figures("`load` of that, all stored already", again, LOAD_SECONDS_MAX)


def compared(work: str, cities: int, runs: dict[str, list[Spent]]) -> Figures:
    """One line of the table: our loads, beside those of the earlier build if there is one."""
    ours = runs.pop("cityweb")
    rate = cities / statistics.median(seconds for seconds, _ in ours)
    holds, target, beside, ratio = most(ours) <= MEMORY_MAX, f"at most {MEMORY_MAX} MB", "", ""
    for build, theirs in runs.items():
        share = statistics.median(a[0] / b[0] for a, b in zip(ours, theirs, strict=True))
        beside, ratio = f"{build} {spent(theirs)}", f"{share:.2f}"
        holds, target = holds and share <= RATIO_MAX, f"at most {RATIO_MAX}, {MEMORY_MAX} MB"
    return "P11", work, f"{spent(ours)}, {rate:,.0f} lines/s", target, holds, beside, ratio


def write(kind: str, cities: int, path: Path) -> Path:
    """Writes the file of a set of rows in a process of its own, whose memory is free again afterwards."""
    subprocess.run([sys.executable, str(HERE / "rows.py"), kind, str(cities), str(path)], check=True)
    return path


def halves(written: Path) -> list[Path]:
    """Two files, each with the header and half of the lines of a file."""
    header, *lines = written.read_text(encoding="utf-8").splitlines(keepends=True)
    middle = len(lines) // 2
    files = [written.with_suffix(f".{number}.csv") for number in (1, 2)]
    for file, half in zip(files, (lines[:middle], lines[middle:]), strict=True):
        file.write_text("".join([header, *half]), encoding="utf-8")
    return files


def load(written: Path, var: Path, top: Path) -> Spent:
    """The seconds and MB that a build takes to load a file into its data folder."""
    return run(["manage.py", "load", str(written), "--skip-bad", "--yes"], var, top)


def run(arguments: list[str], var: Path, top: Path = TOP) -> Spent:
    """The seconds and the peak MB of a command with its child processes. Raises SystemExit if it fails."""
    environment = {**os.environ, "DATABASE_URL": "", "CITYWEB_DATA": str(var)}
    begun, held = time.perf_counter(), 0
    process = subprocess.Popen([sys.executable, *arguments], cwd=top, env=environment, stdout=subprocess.DEVNULL)
    while process.poll() is None:
        held = max(held, memory(process.pid))
        time.sleep(SAMPLED_SECONDS)
    seconds = time.perf_counter() - begun
    if process.returncode:
        sys.exit(f"{' '.join(arguments)} failed")
    return seconds, held / 1e6


def memory(pid: int) -> int:
    """The memory of a process and its children in bytes; memory that they share is counted once."""
    try:
        own = re.search(r"^Pss: +(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
        begun = [
            int(child) for file in Path(f"/proc/{pid}/task").glob("*/children") for child in file.read_text().split()
        ]
    except OSError:
        return 0
    return (1024 * int(own[1]) if own else 0) + sum(map(memory, begun))


def most(runs: list[Spent]) -> float:
    """The peak memory of all runs, in MB."""
    return max(held for _, held in runs)


def spent(runs: list[Spent]) -> str:
    """The median, the minimum and the maximum of the seconds, and the peak memory."""
    seconds = [each for each, _ in runs]
    return f"{statistics.median(seconds):.1f} s ({min(seconds):.1f}-{max(seconds):.1f}), {most(runs):.0f} MB"


def figures(work: str, run: Spent, most_seconds: int) -> Figures:
    """One line of the table, for work that is not compared."""
    seconds, held = run
    holds = seconds <= most_seconds and held <= MEMORY_MAX
    return "T", work, f"{seconds:.1f} s, {held:.0f} MB", f"at most {most_seconds} s, {MEMORY_MAX} MB", holds, "", ""
