"""Files of cities: CSV and JSON Lines, read line by line, written completely or not at all."""

import csv
import enum
import io
import json
import os
import secrets
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import BinaryIO, NamedTuple

from cityweb import submissions
from cityweb.settings import OperatorError
from cityweb.submissions import FIELDS, REQUIRED

STANDARD = Path("-")
"""Standard input or output."""
LINE_BYTES_MAX = 1_000_000
"""The limit of a line and of a CSV row. Without it, a file of another kind could exhaust memory."""

_NOT_CSV = "This line is not CSV: close its quotes, and double a quote inside them."
_TOO_MANY_CELLS = "This line has more cells than the header: put quotes around what contains a comma."
_NOT_JSON = "This line is not a JSON object, or has a member twice."


class Format(enum.StrEnum):
    CSV = "csv"
    JSONL = "jsonl"


ENDINGS = {".csv": Format.CSV, ".jsonl": Format.JSONL, ".ndjson": Format.JSONL}


class UnknownFormat(OperatorError):
    """A file name has no known extension."""


class NobodyReads(Exception):
    """The reader of the output, such as `head`, has closed the pipe."""


class Line(NamedTuple):
    """A line or CSV row of a file of cities; `problem` says why it cannot be parsed, and is empty if it can."""

    number: int
    text: str
    values: Mapping[str, object]
    problem: str = ""


def format_of(path: Path) -> Format:
    """The format for the file extension; CSV for standard input and output. Raises UnknownFormat."""
    if path == STANDARD:
        return Format.CSV
    try:
        return ENDINGS[path.suffix.lower()]
    except KeyError:
        raise UnknownFormat(
            f"{path} does not end in {', '.join(ENDINGS)}: say --format csv or --format jsonl."
        ) from None


def beside(path: Path, format_: Format) -> Path:
    """The default file for the rejected lines of a file: `cities.rejected.csv` for `cities.csv`."""
    return Path(f"rejected.{format_}") if path == STANDARD else path.parent / f"{path.stem}.rejected{path.suffix}"


# --- reading ---


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """Opens a file or standard input. Raises OperatorError if that fails."""
    try:
        source = nullcontext(sys.stdin.buffer) if path == STANDARD else path.open("rb")
    except OSError as error:
        raise OperatorError(f"{path} cannot be read ({error.strerror}): name a file that you may read.") from error
    with source as stream:
        yield stream


def lines(stream: BinaryIO, format_: Format) -> Iterator[Line]:
    """The non-blank lines. Raises OperatorError if one is unreadable, too long or not UTF-8, or CSV has no header."""
    return _parse_csv(_read_texts(stream)) if format_ is Format.CSV else _parse_json_lines(_read_texts(stream))


def _read_texts(stream: BinaryIO) -> Iterator[str]:
    number = 0
    while line := _read_line(stream):
        number += 1
        if len(line) > LINE_BYTES_MAX:
            raise OperatorError(
                f"Line {number:,} is longer than {LINE_BYTES_MAX:,} bytes: name a CSV or JSON lines file."
            )
        try:
            # Spreadsheets start UTF-8 files with a byte order mark.
            yield line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise OperatorError(f"Line {number:,} is not UTF-8: save the file as UTF-8, and load it again.") from error


def _read_line(stream: BinaryIO) -> bytes:
    try:
        return stream.readline(LINE_BYTES_MAX + 1)
    except OSError as error:
        raise OperatorError(f"The file cannot be read ({error.strerror}): name a file that you may read.") from error


def _parse_csv(texts: Iterator[str]) -> Iterator[Line]:
    row_text = io.StringIO()

    def record_texts() -> Iterator[str]:
        for text in texts:
            row_text.write(text)
            # Lines and cells are limited, but a row may span any number of lines and could exhaust memory.
            if row_text.tell() > LINE_BYTES_MAX:
                raise OperatorError(
                    f"The row that ends after line {rows.line_num:,} is too long: name a CSV file of cities."
                )
            yield text

    # Without `strict`, a line with wrong quotes would become a wrong name.
    rows = csv.reader(record_texts(), strict=True)
    try:
        header = [cell.strip().lower() for cell in next(rows, [])]
    except csv.Error:
        header = []
    if any(header.count(field) != 1 for field in FIELDS if field in header or field in REQUIRED):
        raise OperatorError(
            f"The first line does not name the columns: write {','.join(REQUIRED)} above the cities, and load it again."
        )
    columns = {field: header.index(field) for field in FIELDS if field in header}
    while True:
        row_text.seek(0)
        row_text.truncate()
        number = rows.line_num + 1
        try:
            row = next(rows, None)
        except csv.Error:
            yield Line(number, row_text.getvalue(), {}, _NOT_CSV)
            continue
        if row is None:
            return
        # Spreadsheets write empty rows as lines of commas.
        if any(row):
            # Otherwise `Tokyo,37,400,068` would become a city of 37 people.
            problem = _TOO_MANY_CELLS if len(row) > len(header) else ""
            cells = row + [""] * (len(header) - len(row))
            values = {field: cells[column] for field, column in columns.items()}
            yield Line(number, row_text.getvalue(), values, problem)


def _parse_json_lines(texts: Iterator[str]) -> Iterator[Line]:
    for number, text in enumerate(texts, 1):
        if text.isspace():
            continue
        try:
            members = submissions.from_json(text.encode())
        except submissions.UnreadableBody:
            yield Line(number, text, {}, _NOT_JSON)
        else:
            yield Line(number, text, {field: members.get(field) for field in FIELDS})


# --- writing ---


@contextmanager
def rejected_lines(path: Path, format_: Format, *, overwrite: bool) -> Iterator[Callable[[Line, str], None]]:
    """A function that writes rejected lines to a file, which is created only if there are any. Raises OperatorError."""
    with written(path, overwrite=overwrite, even_empty=False) as target:
        yield lambda line, problem: target.write(_format_rejected(line, problem, format_, first=target.is_empty))


class Target:
    """An output file or standard output."""

    def __init__(self, path: Path, stream: BinaryIO) -> None:
        self.path, self._stream = path, stream
        self.is_empty = True

    def write(self, data: bytes) -> None:
        """Appends bytes. Raises OperatorError, or NobodyReads if the reader has closed the pipe."""
        self.is_empty = False
        with _explain_errors(self.path):
            self._stream.write(data)


@contextmanager
def written(path: Path, *, overwrite: bool, even_empty: bool = True) -> Iterator[Target]:
    """A new file of mode 0600, under a temporary name until it is complete; or standard output.

    Without `even_empty`, an empty file is not kept. Raises OperatorError if the file exists, unless `overwrite` is set.
    """
    if path == STANDARD:
        yield Target(path, sys.stdout.buffer)
        with _explain_errors(path):
            sys.stdout.flush()
        return
    path = path.resolve()
    if path.exists() and not overwrite:
        raise OperatorError(f"{path} exists already: name another file, or overwrite it with --yes.")
    # A pipe or a device is written directly, because replacing it would remove it.
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}") if path.is_file() or not path.exists() else None
    with _explain_errors(path):
        # In a shared folder, another account could otherwise read the file or plant a link under its name.
        flags = os.O_CREAT | os.O_EXCL if partial else 0
        stream = os.fdopen(os.open(partial or path, os.O_WRONLY | flags, 0o600), "wb")
    try:
        with stream:
            target = Target(path, stream)
            yield target
            with _explain_errors(path):
                stream.flush()
                if partial:
                    os.fsync(stream.fileno())
        if partial and (even_empty or not target.is_empty):
            with _explain_errors(path):
                partial.replace(path)
    finally:
        if partial:
            partial.unlink(missing_ok=True)


def _format_rejected(line: Line, problem: str, format_: Format, *, first: bool) -> bytes:
    # A load ignores the other columns. `text` is set only for lines that could not be parsed.
    members = {
        **{field: line.values.get(field) for field in FIELDS},
        "line": line.number,
        "problem": problem,
        "text": line.text if line.problem else "",
    }
    if format_ is Format.JSONL:
        return json.dumps(members).encode() + b"\n"
    row = io.StringIO()
    writer = csv.DictWriter(row, members, lineterminator="\n")
    if first:
        writer.writeheader()
    writer.writerow(members)
    return row.getvalue().encode()


@contextmanager
def _explain_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except BrokenPipeError as error:
        raise NobodyReads from error
    except OSError as error:
        raise OperatorError(
            f"{path} cannot be written ({error.strerror}): name a file in a folder with room that you may write to."
        ) from error
