"""Files that are written completely or not at all, and the file of rejected lines."""

import csv
import io
import itertools
import json
import os
import secrets
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from cityweb.files import STANDARD, Format, Line
from cityweb.settings import OperatorError
from cityweb.submissions import FIELDS


class NobodyReads(Exception):
    """The reader of the output, such as `head`, has closed the pipe."""


@contextmanager
def rejected_lines(
    path: Path, format_: Format, *, overwrite: bool, places: Sequence[str] = ()
) -> Iterator[Callable[[Line, str], None]]:
    """A function that writes rejected lines to a file, which is created only if there are any. Raises OperatorError.

    `places` are the columns that the lines have beside the fields.
    """
    with written(path, overwrite=overwrite, even_empty=False) as target:
        yield lambda line, problem: target.write(
            _format_rejected(line, problem, format_, places, first=target.is_empty)
        )


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


def _format_rejected(line: Line, problem: str, format_: Format, places: Sequence[str], *, first: bool) -> bytes:
    # A load ignores the other columns. `text` is set only for lines that could not be parsed.
    members = {
        **{field: line.values.get(field) for field in FIELDS},
        **dict(itertools.zip_longest(places, line.places, fillvalue="")),
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
