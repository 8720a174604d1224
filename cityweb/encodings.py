"""The lines of text in a file's bytes, which are UTF-8 or UTF-16."""

import codecs
import io
from collections.abc import Iterator
from typing import TYPE_CHECKING, BinaryIO

from cityweb.settings import OperatorError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

LINE_BYTES_MAX = 1_000_000
"""The limit of a line and of a CSV row. Without it, a file of another kind could exhaust memory."""
CHUNK_BYTES = 65_536


class Recoded(io.RawIOBase):
    """A UTF-16 stream in UTF-8. `codecs.EncodedFile` would also split lines at U+2028 and vertical tabs."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self._decoder, self._left = stream, codecs.getincrementaldecoder("utf-16")(), b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int:
        chunk = b" "
        while chunk and not self._left:
            chunk = self._stream.read(CHUNK_BYTES)
            self._left = self._decoder.decode(chunk, final=not chunk).encode()
        view = memoryview(buffer)
        size = min(len(view), len(self._left))
        view[:size], self._left = self._left[:size], self._left[size:]
        return size


def read_texts(stream: BinaryIO) -> Iterator[str]:
    """The lines of a stream in UTF-8. Raises OperatorError if one is too long or in another encoding."""
    number = 0
    while line := _read_line(stream, number + 1):
        number += 1
        if number == 1 and b"\r" in line.rstrip() and not line.endswith(b"\n"):
            raise OperatorError(
                "The lines end with CR alone, as on old Macs: save the file in UTF-8 with other line ends."
            )
        if len(line) > LINE_BYTES_MAX:
            raise OperatorError(
                f"Line {number:,} is longer than {LINE_BYTES_MAX:,} bytes: name a CSV or JSON file of cities."
            )
        try:
            # Spreadsheets start UTF-8 files with a byte order mark.
            yield line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise other_encoding(number) from error


def _read_line(stream: BinaryIO, number: int) -> bytes:
    try:
        return stream.readline(LINE_BYTES_MAX + 1)
    except OSError as error:
        raise unreadable(error) from error
    except UnicodeDecodeError as error:
        raise other_encoding(number) from error


def unreadable(error: OSError) -> OperatorError:
    return OperatorError(f"The file cannot be read ({error.strerror}): name a file that you may read.")


def other_encoding(number: int) -> OperatorError:
    return OperatorError(f"Line {number:,} is not UTF-8: save the file as UTF-8, and load it again.")
