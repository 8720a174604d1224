"""Files of cities: CSV and JSON lines, read line by line, written whole or not at all."""

import csv
import enum
import io
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import BinaryIO, NamedTuple

from cityweb import submissions

STANDARD = Path("-")
"""Standard input or output."""
LINE_BYTES_MAX = 1_000_000
"""What is longer is no line of cities; without a bound a file of another kind would fill the memory."""

_NOT_CSV = "This line is not CSV: close its quotes, and double a quote inside them"
_TOO_MANY_CELLS = "This line has more cells than the header: put quotes around what contains a comma"
_NOT_JSON = "This line is not a JSON object that gives each member once"


class Format(enum.StrEnum):
    """How cities stand in a file."""

    CSV = "csv"
    JSONL = "jsonl"


ENDINGS = {".csv": Format.CSV, ".jsonl": Format.JSONL, ".ndjson": Format.JSONL}


class CannotUse(Exception):
    """A file cannot be read or written; the text says why and what to do."""


class UnknownFormat(CannotUse):
    """The name of a file does not say what is in it."""


class NobodyReads(Exception):
    """Who read what is written, such as `head`, has enough."""


class Line(NamedTuple):
    """What one line says of a city, or the problem that keeps it from saying anything."""

    number: int
    text: str
    values: Mapping[str, object]
    problem: str = ""


def format_of(path: Path) -> Format:
    """The format that the ending of a name tells; CSV for standard input and output. Raises UnknownFormat."""
    if path == STANDARD:
        return Format.CSV
    try:
        return ENDINGS[path.suffix.lower()]
    except KeyError:
        raise UnknownFormat(
            f"{path} does not end in {', '.join(ENDINGS)}: say --format csv or --format jsonl."
        ) from None


def beside(path: Path, format_: Format) -> Path:
    """Where the refused lines of a file go: `cities.refused.csv` for `cities.csv`."""
    return Path(f"refused.{format_}") if path == STANDARD else path.parent / f"{path.stem}.refused{path.suffix}"


# --- reading ---


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """The bytes of a file or of standard input. Raises CannotUse."""
    try:
        source = nullcontext(sys.stdin.buffer) if path == STANDARD else path.open("rb")
    except OSError as error:
        raise CannotUse(f"{path} cannot be read ({error.strerror}): name a file that you may read.") from error
    with source as stream:
        yield stream


def lines(stream: BinaryIO, format_: Format) -> Iterator[Line]:
    """The lines of a file that are not empty. Raises CannotUse where it is no such file."""
    return _csv_lines(_texts(stream)) if format_ is Format.CSV else _json_lines(_texts(stream))


def _texts(stream: BinaryIO) -> Iterator[str]:
    number = 0
    while line := _next_line(stream):
        number += 1
        if len(line) > LINE_BYTES_MAX:
            raise CannotUse(f"Line {number:,} is longer than {LINE_BYTES_MAX:,} bytes: name a CSV or JSON lines file.")
        try:
            # Spreadsheets begin UTF-8 with a byte order mark.
            yield line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise CannotUse(f"Line {number:,} is not UTF-8: save the file as UTF-8, and load it again.") from error


def _next_line(stream: BinaryIO) -> bytes:
    try:
        return stream.readline(LINE_BYTES_MAX + 1)
    except OSError as error:
        raise CannotUse(f"The file cannot be read ({error.strerror}): name a file that you may read.") from error


def _csv_lines(texts: Iterator[str]) -> Iterator[Line]:
    taken = io.StringIO()

    def taking() -> Iterator[str]:
        for text in texts:
            taken.write(text)
            # Each line of a row is short, and each cell that goes over lines: together they would fill the memory.
            if taken.tell() > LINE_BYTES_MAX:
                raise CannotUse(
                    f"The row that ends after line {rows.line_num:,} is too long: name a CSV file of cities."
                )
            yield text

    # Strict: the alternative to a refused line is a wrong name.
    rows = csv.reader(taking(), strict=True)
    try:
        header = [cell.strip().lower() for cell in next(rows, [])]
    except csv.Error:
        header = []
    if header.count("name") != 1 or header.count("population") != 1:
        raise CannotUse(
            "The first line does not name the columns: write name,population above the cities, and load it again."
        )
    name, population = header.index("name"), header.index("population")
    while True:
        taken.seek(0)
        taken.truncate()
        number = rows.line_num + 1
        try:
            row = next(rows, None)
        except csv.Error:
            yield Line(number, taken.getvalue(), {}, _NOT_CSV)
            continue
        if row is None:
            return
        # A spreadsheet leaves lines of commas behind.
        if any(row):
            # `Tokyo,37,400,068` would be a town of 37.
            problem = _TOO_MANY_CELLS if len(row) > len(header) else ""
            cells = row + [""] * (len(header) - len(row))
            yield Line(number, taken.getvalue(), {"name": cells[name], "population": cells[population]}, problem)


def _json_lines(texts: Iterator[str]) -> Iterator[Line]:
    for number, text in enumerate(texts, 1):
        if text.isspace():
            continue
        try:
            members = submissions.from_json(text.encode())
        except submissions.Unreadable:
            yield Line(number, text, {}, _NOT_JSON)
        else:
            yield Line(number, text, {"name": members.get("name"), "population": members.get("population")})


# --- writing ---


@contextmanager
def refusals(path: Path, format_: Format, *, overwrite: bool) -> Iterator[Callable[[Line, str], None]]:
    """What writes refused lines down, to be mended and loaded again; without any, no file is made. Raises CannotUse."""
    with written(path, overwrite=overwrite, even_empty=False) as target:
        yield lambda line, problem: target.write(_refusal(line, problem, format_, first=target.is_empty))


class Target:
    """Where bytes go; what keeps them from it is a sentence."""

    def __init__(self, path: Path, stream: BinaryIO) -> None:
        self.path, self._stream = path, stream
        self.is_empty = True

    def write(self, written: bytes) -> None:
        """Writes on. Raises CannotUse."""
        self.is_empty = False
        with _explained(self.path):
            self._stream.write(written)


@contextmanager
def written(path: Path, *, overwrite: bool, even_empty: bool = True) -> Iterator[Target]:
    """A new file of mode 600, under a temporary name until it is whole; or standard output. Raises CannotUse.

    Nothing is overwritten unasked, and without `even_empty` a file is made only where something was written.
    """
    if path == STANDARD:
        yield Target(path, sys.stdout.buffer)
        with _explained(path):
            sys.stdout.flush()
        return
    path = path.resolve()
    if path.exists() and not overwrite:
        raise CannotUse(f"{path} exists already: name another file, or overwrite it with --yes.")
    # A pipe or a device has nothing to be replaced by.
    partial = path.with_name(f".{path.name}.{os.getpid()}") if path.is_file() or not path.exists() else None
    with _explained(path):
        # In a shared folder, another account must neither read the file nor link its name to one of ours.
        creating = os.O_CREAT | os.O_EXCL if partial else 0
        stream = os.fdopen(os.open(partial or path, os.O_WRONLY | creating, 0o600), "wb")
    try:
        with stream:
            target = Target(path, stream)
            yield target
            with _explained(path):
                stream.flush()
                if partial:
                    os.fsync(stream.fileno())
        if partial and (even_empty or not target.is_empty):
            with _explained(path):
                partial.replace(path)
    finally:
        if partial:
            partial.unlink(missing_ok=True)


def _refusal(line: Line, problem: str, format_: Format, *, first: bool) -> bytes:
    # A load ignores the other columns. What could not be read as a city keeps its text.
    refused = {
        "name": line.values.get("name"),
        "population": line.values.get("population"),
        "line": line.number,
        "problem": problem,
        "text": line.text if line.problem else "",
    }
    if format_ is Format.JSONL:
        return json.dumps(refused).encode() + b"\n"
    row = io.StringIO()
    writer = csv.DictWriter(row, refused, lineterminator="\n")
    if first:
        writer.writeheader()
    writer.writerow(refused)
    return row.getvalue().encode()


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except BrokenPipeError as error:
        raise NobodyReads from error
    except OSError as error:
        raise CannotUse(
            f"{path} cannot be written ({error.strerror}): name a file in a folder with room that you may write to."
        ) from error
