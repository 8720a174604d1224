"""Files of cities: CSV and JSON, read piece by piece."""

import codecs
import csv
import enum
import io
import itertools
import json
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from cityweb import encodings, strict_json
from cityweb.settings import OperatorError
from cityweb.submissions import FIELDS, REQUIRED, UnreadableBody

STANDARD = Path("-")
"""Standard input or output."""

_NOT_CSV = "This line is not CSV: close its quotes, and double a quote inside them."
_TOO_MANY_CELLS = "This line has more cells than the header: put quotes around each cell that contains the separator."
_NOT_JSON = "This line is not a JSON object, or has a member twice."


class Format(enum.StrEnum):
    CSV = "csv"
    JSONL = "jsonl"


ENDINGS = {".csv": Format.CSV, ".jsonl": Format.JSONL, ".ndjson": Format.JSONL}
READ_ENDINGS = {**ENDINGS, ".json": Format.JSONL, ".tsv": Format.CSV, ".txt": Format.CSV}

_SEPARATORS = ",;\t"
_GEONAMES_COLUMNS = 19
_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_UNPACK = "The file is compressed: unpack it, and load what is in it."
# What may stand before an element of an array, and the first character of the element or the end of the array.
_ELEMENT = re.compile(r"\s*+(?:[\[,]\s*+)?(?P<begin>[^\s,])")
# The first bytes of files that are neither CSV nor JSON.
_OTHER_FILES = {
    b"PK\x03\x04": "The file is a spreadsheet or a ZIP archive: save the sheet as CSV in UTF-8, or unpack the archive.",
    b"\xd0\xcf\x11\xe0": "The file is an Excel workbook: save the sheet as CSV in UTF-8, and load that.",
    b"\x1f\x8b": _UNPACK,
    b"BZh": _UNPACK,
    b"\xfd7zXZ": _UNPACK,
    b"(\xb5/\xfd": _UNPACK,
}


class UnknownFormat(OperatorError):
    """A file name has no known extension."""


class Line(NamedTuple):
    """A line, CSV row or JSON object of a file of cities; `problem` says why it cannot be parsed, or is empty.

    `places` has the values of the columns that tell equal names apart.
    """

    number: int
    text: str
    values: Mapping[str, object]
    problem: str = ""
    places: tuple[str, ...] = ()


@dataclass(frozen=True)
class Columns:
    """The columns to read: one for each field, if the file has it, and those that tell equal names apart."""

    of_fields: Mapping[str, str]
    places: tuple[str, ...] = ()


OWN_COLUMNS = Columns({field: field for field in FIELDS})


def format_of(path: Path, endings: Mapping[str, Format] = ENDINGS) -> Format:
    """The format for the file extension; CSV for standard input and output. Raises UnknownFormat."""
    if path == STANDARD:
        return Format.CSV
    try:
        return endings[path.suffix.lower()]
    except KeyError:
        raise UnknownFormat(
            f"{path} does not end in {', '.join(endings)}: say --format csv or --format jsonl."
        ) from None


def beside(path: Path, format_: Format) -> Path:
    """The default file for the rejected lines of a file: `cities.rejected.csv` for `cities.csv`."""
    return Path(f"rejected.{format_}") if path == STANDARD else path.parent / f"{path.stem}.rejected{path.suffix}"


@contextmanager
def opened(path: Path) -> Iterator[io.BufferedReader]:
    """Opens a file or standard input. Raises OperatorError if that fails."""
    try:
        source = open(sys.stdin.fileno(), "rb", closefd=False) if path == STANDARD else path.open("rb")  # noqa: SIM115
    except OSError as error:
        raise OperatorError(f"{path} cannot be read ({error.strerror}): name a file that you may read.") from error
    with source as stream:
        yield stream


def lines(stream: io.BufferedReader, format_: Format, columns: Columns = OWN_COLUMNS) -> Iterator[Line]:
    """The non-blank lines, with the values of some columns.

    CSV is separated by commas, semicolons or tabs; JSON is an array, or an object in each line. Raises OperatorError if
    the file is of another kind, a line is too long or in another encoding, or a column is missing.
    """
    try:
        head = stream.peek(1)
    except OSError as error:
        raise encodings.unreadable(error) from error
    for first_bytes, advice in _OTHER_FILES.items():
        if head.startswith(first_bytes):
            raise OperatorError(advice)
    if head.startswith(_UTF_16):
        stream = io.BufferedReader(encodings.Recoded(stream))
        try:
            head = stream.peek(1)
        except UnicodeDecodeError as error:
            raise encodings.other_encoding(1) from error
    begin = head.removeprefix(codecs.BOM_UTF8).lstrip()[:1]
    if begin == b"[":
        yield from _parse_json_array(stream, columns)
    elif format_ is Format.JSONL or begin == b"{":
        yield from _parse_json_lines(encodings.read_texts(stream), columns)
    else:
        yield from _parse_csv(encodings.read_texts(stream), columns)


def _parse_csv(texts: Iterator[str], columns: Columns) -> Iterator[Line]:
    first = next(texts, "")
    wanted = {header.lower() for field, header in columns.of_fields.items() if field in REQUIRED}
    separator = next((each for each in _SEPARATORS if wanted <= {*_parse_header(first, each)}), None)
    separator = separator or max(_SEPARATORS, key=first.count)
    row_text = io.StringIO()

    def record_texts() -> Iterator[str]:
        for text in itertools.chain([first], texts):
            row_text.write(text)
            # Lines and cells are limited, but a row may span any number of lines and could exhaust memory.
            if row_text.tell() > encodings.LINE_BYTES_MAX:
                raise OperatorError(
                    f"The row that ends after line {rows.line_num:,} is too long: name a CSV file of cities."
                )
            yield text

    # Without `strict`, a line with wrong quotes would become a wrong name.
    rows = csv.reader(record_texts(), strict=True, delimiter=separator)
    try:
        names = [cell.strip() for cell in next(rows, [])]
    except csv.Error:
        names = []
    header = [name.lower() for name in names]
    positions = _find_columns(names, columns, first)
    place_positions = [header.index(place.lower()) for place in columns.places]
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
            values = {field: cells[position] for field, position in positions.items()}
            places = tuple([cells[position].strip() for position in place_positions])
            yield Line(number, row_text.getvalue(), values, problem, places)


def _parse_header(text: str, separator: str) -> list[str]:
    try:
        return [cell.strip().lower() for cell in next(csv.reader([text], delimiter=separator), [])]
    except csv.Error:
        return []


def _find_columns(names: list[str], columns: Columns, first: str) -> dict[str, int]:
    """The position of each field that the header has. Raises OperatorError if a column is missing or there twice."""
    header = [name.lower() for name in names]
    wanted = {
        field: name.lower()
        for field, name in columns.of_fields.items()
        if field in REQUIRED or name.lower() in header or name != field
    }
    unclear = [name for name in (*wanted.values(), *map(str.lower, columns.places)) if header.count(name) != 1]
    if not unclear:
        return {field: header.index(name) for field, name in wanted.items()}
    cells = first.split("\t")
    if len(cells) == _GEONAMES_COLUMNS and cells[0].isdigit():
        raise OperatorError("This is a GeoNames file, which has no header: convert it to CSV with demo/geonames.py.")
    listed = ", ".join(filter(None, names))
    raise OperatorError(
        f"The first line must name each of these columns once: {', '.join(unclear)}."
        + (f" It names {listed}. To read other columns, write --name COLUMN --population COLUMN." if listed else "")
    )


def _parse_json_lines(texts: Iterator[str], columns: Columns) -> Iterator[Line]:
    for number, text in enumerate(texts, 1):
        if text.isspace():
            continue
        try:
            members = strict_json.parse(text.encode())
        except UnreadableBody:
            yield Line(number, text, {}, _NOT_JSON)
        else:
            yield _choose_members(number, text, members, columns)


def _parse_json_array(stream: io.BufferedReader, columns: Columns) -> Iterator[Line]:
    """The elements of an array, read in chunks, because it may be one long line."""
    decoder, text, number, position = codecs.getincrementaldecoder("utf-8-sig")(), "", 1, 0
    while True:
        try:
            chunk = stream.read1(encodings.CHUNK_BYTES)
            text = text[position:] + decoder.decode(chunk, final=not chunk)
        except OSError as error:
            raise encodings.unreadable(error) from error
        except UnicodeDecodeError as error:
            raise encodings.other_encoding(number) from error
        position = 0
        while match := _ELEMENT.match(text, position):
            begin = match.start("begin")
            if match["begin"] == "]":
                if text[begin + 1 :].strip() or stream.read(encodings.CHUNK_BYTES).strip():
                    raise OperatorError(
                        "The file goes on after the end of its JSON array: write all cities in one array."
                    )
                return
            try:
                members, end = strict_json.object_at(text, begin)
            except json.JSONDecodeError:
                break  # The next chunk may have the rest.
            number += text.count("\n", position, begin)
            source = text[begin:end]
            if members is None:
                yield Line(number, source, {}, _NOT_JSON)
            else:
                yield _choose_members(number, source, members, columns)
            number += source.count("\n")
            position = end
        if not chunk or len(text) - position > encodings.LINE_BYTES_MAX:
            raise OperatorError(
                f"The JSON array is invalid from line {number:,} on, or does not end: correct it, and load it again."
            )


def _choose_members(number: int, text: str, members: Mapping[str, object], columns: Columns) -> Line:
    values = {field: members.get(name) for field, name in columns.of_fields.items()}
    places = [members.get(place) for place in columns.places]
    return Line(number, text, values, places=tuple(place.strip() if isinstance(place, str) else "" for place in places))
