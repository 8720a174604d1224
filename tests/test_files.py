"""Files as people have them, and files that are whole or not there."""

import bz2
import codecs
import errno
import gzip
import io
import lzma
import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cityweb import encodings, files, outputs
from cityweb.files import Format
from cityweb.settings import OperatorError
from cityweb.submissions import FIELDS

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

TOKYO = {"name": "Tokyo", "population": "5"}


def read(written: bytes, format_: Format = Format.CSV, columns: files.Columns = files.OWN_COLUMNS) -> list[files.Line]:
    return list(files.lines(io.BufferedReader(io.BytesIO(written)), format_, columns))


@pytest.mark.parametrize(
    ("path", "format_"),
    [("a.csv", Format.CSV), ("a.JSONL", Format.JSONL), ("a.ndjson", Format.JSONL), ("-", Format.CSV)],
)
def test_the_name_tells_the_format(path: str, format_: Format) -> None:
    assert files.format_of(Path(path)) is format_


@pytest.mark.parametrize("path", ["a.json", "a.TSV", "a.txt", "a.csv"])
def test_more_formats_are_read_than_written(path: str) -> None:
    expected = Format.JSONL if path == "a.json" else Format.CSV
    assert files.format_of(Path(path), files.READ_ENDINGS) is expected


@pytest.mark.parametrize("path", ["a.xlsx", "a.json", "a"])
def test_another_name_is_asked_about(path: str) -> None:
    with pytest.raises(files.UnknownFormat, match="--format"):
        files.format_of(Path(path))


@pytest.mark.parametrize(("path", "beside"), [("a/b.csv", "a/b.rejected.csv"), ("-", "rejected.csv")])
def test_rejected_lines_go_beside_their_file(path: str, beside: str) -> None:
    assert files.beside(Path(path), Format.CSV) == Path(beside)


# --- reading ---


@pytest.mark.parametrize(
    "written",
    [
        b"name,population\nTokyo,5\n",
        b"name,population\nTokyo,5",
        b"name,population\r\nTokyo,5\r\n",
        b"\xef\xbb\xbfname,population\nTokyo,5\n",
        b"Population, NAME \n5,Tokyo\n",
        b'id,name,"note",population\n1,Tokyo,"a, b\nc",5\n',
        b'name,population\n"Tokyo","5"\n',
        b"name,population\n\nTokyo,5\n,,\n \n"[:-2],
        b"name;population\r\nTokyo;5\r\n",
        b'"name";"population"\nTokyo;5\n',
        b"id\tname\tpopulation\n1\tTokyo\t5\n",
        b'name,"people; 2020",population\nTokyo,,5\n',
        "name\tpopulation\r\nTokyo\t5\r\n".encode("utf-16"),
        codecs.BOM_UTF16_BE + "name,population\nTokyo,5".encode("utf-16-be"),
    ],
)
def test_csv_as_people_have_it_is_read(written: bytes) -> None:
    assert [line.values for line in read(written)] == [TOKYO]


def test_a_line_has_the_number_where_it_begins() -> None:
    lines = read(b'name,population\n"a\nb",1\n\nc,2\n')
    assert [(line.number, line.text) for line in lines] == [(2, '"a\nb",1\n'), (5, "c,2\n")]


def test_a_short_line_has_empty_cells() -> None:
    assert read(b"name,population\nTokyo\n")[0].values == {"name": "Tokyo", "population": ""}


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        (b"Tokyo,37,400,068", "quotes around each cell that contains the separator"),
        (b'"Tokyo"x,5', "close its quotes"),
        (b'"Tokyo,5', "close its quotes"),
    ],
)
def test_a_line_that_would_be_misread_is_a_problem(row: bytes, problem: str) -> None:
    line = read(b"name,population\n" + row)[0]
    assert (line.number, line.text) == (2, row.decode())
    assert problem in line.problem


def test_the_lines_after_a_problem_are_read() -> None:
    lines = read(b'name,population\n"a"b,1\nTokyo,5\n')
    assert [(line.number, bool(line.problem)) for line in lines] == [(2, True), (3, False)]


@pytest.mark.parametrize(
    "header",
    [b"", b"Tokyo,5\n", b"name,name,population\n", b"name,country,population,Country\n", b'"name\n', b"name\n"],
)
def test_columns_without_names_are_one_sentence(header: bytes) -> None:
    with pytest.raises(OperatorError, match="must name each of these columns once: "):
        read(header)


def test_a_header_with_a_cell_that_is_too_long_is_one_sentence() -> None:
    with pytest.raises(OperatorError, match="must name each of these columns once: name"):
        read(b"x" * 200_000 + b"\n")


def test_other_columns_are_listed_and_can_be_chosen() -> None:
    written = b"City;Pop;Region;country\nTokyo;5; Kanto ;JP\n"
    with pytest.raises(
        OperatorError, match=r"It names City, Pop, Region, country. .*--name COLUMN --population COLUMN"
    ):
        read(written)
    columns = files.Columns({"name": "CITY", "population": "pop", "country": "country"}, ("region",))
    line = read(written, columns=columns)[0]
    assert (line.values, line.places) == (TOKYO | {"country": "JP"}, ("Kanto",))
    members = b'{"CITY": "Tokyo", "pop": "5", "region": " Kanto ", "country": "JP"}'
    assert read(members, Format.JSONL, columns)[0][2:] == line[2:]


@pytest.mark.parametrize("chosen", [{"name": "Town"}, {"country": "Land"}])
def test_a_chosen_column_that_is_missing_is_one_sentence(chosen: dict[str, str]) -> None:
    columns = files.Columns({"name": "name", "population": "population", "country": "country"} | chosen)
    with pytest.raises(OperatorError, match="It names name, population"):
        read(b"name,population\nTokyo,5\n", columns=columns)
    with pytest.raises(OperatorError, match="It names name, population"):
        read(b"name,population\nTokyo,5\n", columns=files.Columns(files.OWN_COLUMNS.of_fields, ("region",)))


@pytest.mark.parametrize(
    ("written", "advice"),
    [
        (b"PK\x03\x04\x14\0", "save the sheet as CSV"),
        (b"\xd0\xcf\x11\xe0\xa1", "Excel workbook: save the sheet as CSV"),
        (gzip.compress(b"name,population\n", mtime=0), "compressed: unpack it"),
        (bz2.compress(b"name,population\n"), "compressed: unpack it"),
        (lzma.compress(b"name,population\n"), "compressed: unpack it"),
        (b"\x28\xb5\x2f\xfd\x24", "compressed: unpack it"),
        (b"name,population\rTokyo,5\r", "CR alone"),
        (
            b"2960316\tFentange\tFentange\t\t49.5\t6.1\tP\tPPL\tLU\t\t03\t0305\t0305\t\t1200\t\t260\tE\t2022-01-01\n",
            "GeoNames",
        ),
        ("name,population\n".encode("utf-16") + b"\0\xd8a\0", "is not UTF-8"),
    ],
)
def test_a_file_of_another_kind_is_a_sentence_with_advice(written: bytes, advice: str) -> None:
    with pytest.raises(OperatorError, match=advice):
        read(written)


@pytest.mark.parametrize("format_", Format)
def test_another_encoding_is_told_with_its_line(format_: Format) -> None:
    with pytest.raises(OperatorError, match="Line 2 is not UTF-8"):
        read("name,population\nZürich,5\n".encode("latin-1") if format_ is Format.CSV else b"{}\n\xff", format_)


def test_a_file_without_lines_is_not_read_into_memory() -> None:
    with pytest.raises(OperatorError, match="Line 1 is longer"):
        read(b"x" * (encodings.LINE_BYTES_MAX + 1))


def test_a_row_that_goes_on_over_many_lines_is_not_read_into_memory() -> None:
    # No line and no cell is too long.
    row = b'"' + b'","'.join([b"x\n" * 1_000] * (encodings.LINE_BYTES_MAX // 2_000)) + b'"\n'
    with pytest.raises(OperatorError, match="too long"):
        read(b"name,population\nTokyo,5\n" + row)
    long = b"Tokyo,5" + 1_000 * b" " + b"\n"
    assert [line.problem for line in read(b"name,population\n" + 1_500 * long)] == 1_500 * [""]


def test_json_lines_are_read() -> None:
    lines = read(
        b'\xef\xbb\xbf{"name": "Tokyo", "population": 5, "topic": "x"}\r\n\n[1]\n{"name":"a","name":"b"}\nx',
        Format.JSONL,
    )
    assert [line.number for line in lines] == [1, 3, 4, 5]
    assert lines[0].values == dict.fromkeys(FIELDS) | {"name": "Tokyo", "population": 5}
    assert lines[1].values == dict.fromkeys(FIELDS)
    assert [bool(line.problem) for line in lines] == [False, False, True, True]


class Pieces(io.RawIOBase):
    """A stream that gives a few bytes at a time after the first ones, as a pipe does."""

    def __init__(self, content: bytes, size: int) -> None:
        self.content, self.size = io.BytesIO(content), size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int:
        view = memoryview(buffer)
        piece = self.content.read(min(self.size if self.content.tell() else 8, len(view)))
        view[: len(piece)] = piece
        return len(piece)


ARRAY = b"""\xef\xbb\xbf
[
  {"name": "Tokyo", "population": 5},
  {"name": "a", "name": "b"}, 7,
  {
    "name": "\xc3\x9cber",
    "population": 37400068.0
  }, {"name": "c", "population": NaN}
] """


@pytest.mark.parametrize("chunk", [1, 3, 65_536])
def test_a_json_array_is_read_piece_by_piece(chunk: int) -> None:
    lines = list(files.lines(io.BufferedReader(Pieces(ARRAY, chunk)), Format.JSONL))
    assert [(line.number, bool(line.problem)) for line in lines] == [
        (3, False),
        (4, True),
        (4, True),
        (5, False),
        (8, True),
    ]
    assert lines[0].values == dict.fromkeys(FIELDS) | {"name": "Tokyo", "population": 5}
    assert lines[3].values == dict.fromkeys(FIELDS) | {"name": "Über", "population": 37_400_068}
    assert lines[3].text.startswith('{\n    "name"')


@pytest.mark.parametrize(
    "written",
    [b"[", b'[{"name": "a"},', b'[{"name": "a"', b"[{1: 2}]", b"[" * 100_000, b"[NaN", b"[" + b'{"a":' * 100_000],
)
def test_an_array_that_is_broken_is_one_sentence(written: bytes) -> None:
    with pytest.raises(OperatorError, match="The JSON array is invalid from line 1 on"):
        read(written, Format.JSONL)


class Broken(Pieces):
    """A stream that fails at its end."""

    def readinto(self, buffer: "WriteableBuffer") -> int:
        size = super().readinto(buffer)
        if not size:
            raise OSError(errno.EIO, "Input/output error")
        return size


@pytest.mark.parametrize("begin", [b"name,population\nA,1\n", b'[{"name": "A"},'])
def test_a_file_that_breaks_off_is_one_sentence(begin: bytes) -> None:
    with pytest.raises(OperatorError, match=r"cannot be read \(Input/output error\)"):
        list(files.lines(io.BufferedReader(Broken(begin, 8)), Format.CSV))


@pytest.mark.parametrize(
    "written",
    [
        ("name,population\n" + 50_000 * "A,1\n").encode("utf-16") + b"\0\xd8a\0",
        b'[{"name": "A"},\xff',
    ],
    ids=["utf-16", "array"],
)
def test_another_encoding_later_in_a_file_is_one_sentence(written: bytes) -> None:
    with pytest.raises(OperatorError, match="is not UTF-8"):
        read(written)


def test_an_element_without_an_end_is_not_read_into_memory() -> None:
    with pytest.raises(OperatorError, match="invalid from line 1"):
        read(b'[\n{"name": "' + b"x" * (encodings.LINE_BYTES_MAX + 70_000) + b'"}]', Format.JSONL)


def test_an_array_with_long_gaps_is_read_at_once() -> None:
    gap = b" " * 500_000
    assert len(read(b'[{"name": "a"}' + gap + b"," + gap + b'{"name": "b"}' + gap + b"]" + gap, Format.JSONL)) == 2


@pytest.mark.parametrize("more", [b"x", b"\n[]", b" " * 60_000 + b'{"name": "b"}'])
def test_a_file_that_goes_on_after_its_array_is_one_sentence(more: bytes) -> None:
    with pytest.raises(OperatorError, match="goes on after the end of its JSON array"):
        read(b'[{"name": "a"}]' + more, Format.JSONL)


@pytest.mark.parametrize("written", [b' [{"name": "Tokyo", "population": 5}]', b'{"name": "Tokyo", "population": 5}\n'])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("format_", Format)
def test_json_is_recognised(written: bytes, encoding: str, format_: Format) -> None:
    (line,) = read(written.decode().encode(encoding), format_)
    assert line.values == dict.fromkeys(FIELDS) | {"name": "Tokyo", "population": 5}


def test_lines_of_utf_16_end_where_those_of_utf_8_do() -> None:
    text = "name\tnote\tpopulation\nTokyo\tfoo\u2028bar\t5\nA\tx\x0by\t6\n" + 20_000 * "Ä\t\t7\n"
    assert read(text.encode("utf-16")) == read(text.encode())


def test_only_texts_are_places() -> None:
    columns = files.Columns(files.OWN_COLUMNS.of_fields, ("r", "s"))
    (line,) = read(b'{"name": "a", "r": ["b"], "s": 5}', Format.JSONL, columns)
    assert line.places == ("", "")


def test_empty_arrays_have_no_lines() -> None:
    assert read(b"[]", Format.JSONL) == read(b" [ \n ] ", Format.JSONL) == []


def test_a_file_that_cannot_be_opened_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match="No such file"), files.opened(tmp_path / "nowhere.csv"):
        pass


def test_a_file_that_cannot_be_read_is_a_sentence() -> None:
    # At the address 0 of a process nothing can be read.
    with files.opened(Path("/proc/self/mem")) as stream, pytest.raises(OperatorError, match="cannot be read"):
        next(files.lines(stream, Format.CSV))


# --- writing ---


def test_a_file_has_its_name_only_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    with outputs.written(path, overwrite=False) as target:
        target.write(b"whole")
        assert not path.exists()
    assert path.read_bytes() == b"whole"
    assert list(tmp_path.iterdir()) == [path]


def write_half(target: outputs.Target) -> None:
    target.write(b"half")
    raise KeyboardInterrupt


def test_a_file_that_is_not_finished_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"before")
    with pytest.raises(KeyboardInterrupt), outputs.written(path, overwrite=True) as target:
        write_half(target)
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


def test_nothing_is_overwritten_unasked(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"before")
    with pytest.raises(OperatorError, match="--yes"), outputs.written(path, overwrite=False):
        pass
    with outputs.written(path, overwrite=True) as target:
        target.write(b"after")
    assert path.read_bytes() == b"after"


def test_who_reads_meanwhile_reads_the_old_file_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"before")
    with path.open("rb") as reading:
        with outputs.written(path, overwrite=True) as target:
            target.write(b"after")
        assert reading.read() == b"before"


def test_a_written_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    dumped, rejected = tmp_path / "a.csv", tmp_path / "b.csv"
    before = os.umask(0)
    try:
        dumped.write_bytes(b"before")
        with outputs.written(dumped, overwrite=True) as target:
            target.write(b"after")
        with outputs.rejected_lines(rejected, Format.CSV, overwrite=False) as reject:
            reject(files.Line(7, "", {}), "Wrong")
    finally:
        os.umask(before)
    assert [path.stat().st_mode & 0o777 for path in (dumped, rejected)] == [0o600, 0o600]


def test_a_link_that_waits_under_the_temporary_name_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(secrets, "token_hex", lambda _: "0123abcd")
    victim = tmp_path / "victim"
    victim.write_bytes(b"before")
    (tmp_path / ".a.csv.0123abcd").symlink_to(victim)
    with pytest.raises(OperatorError, match="exists"), outputs.written(tmp_path / "a.csv", overwrite=False) as target:
        target.write(b"after")
    assert victim.read_bytes() == b"before"


def test_a_link_stays_one(tmp_path: Path) -> None:
    (tmp_path / "link.csv").symlink_to(tmp_path / "a.csv")
    with outputs.written(tmp_path / "link.csv", overwrite=False) as target:
        target.write(b"whole")
    assert (tmp_path / "link.csv").is_symlink()
    assert (tmp_path / "a.csv").read_bytes() == b"whole"


def test_a_device_is_written_to_and_stays() -> None:
    with outputs.written(Path("/dev/null"), overwrite=True) as target:
        target.write(b"gone")
    assert Path("/dev/null").is_char_device()


def test_a_full_disk_is_a_sentence() -> None:
    with (
        pytest.raises(OperatorError, match="No space left"),
        outputs.written(Path("/dev/full"), overwrite=True) as target,
    ):
        target.write(b"x" * 100_000)


def test_a_folder_that_does_not_exist_is_a_sentence(tmp_path: Path) -> None:
    with (
        pytest.raises(OperatorError, match="No such file"),
        outputs.written(tmp_path / "no" / "a.csv", overwrite=False),
    ):
        pass


def test_who_has_read_enough_is_no_failure() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with pytest.raises(outputs.NobodyReads), os.fdopen(writing, "wb", buffering=0) as stream:
        outputs.Target(files.STANDARD, stream).write(b"x")


@pytest.mark.parametrize("format_", Format)
def test_rejected_lines_can_be_corrected_and_read_again(tmp_path: Path, format_: Format) -> None:
    path = tmp_path / "rejected"
    with outputs.rejected_lines(path, format_, overwrite=False) as reject:
        reject(files.Line(7, "", {"name": "=A, b", "population": "x"}), "Wrong")
        reject(files.Line(9, "as it was", {}, "Not a line"), "Not a line")
    with path.open("rb") as stream:
        lines = list(files.lines(stream, format_))
    assert lines[0].values.items() >= {("name", "=A, b"), ("population", "x")}
    assert not any(lines[1].values.values())
    text = path.read_text()
    assert [word for word in ("7", "Wrong", "9", "as it was", "Not a line") if word not in text] == []


@pytest.mark.parametrize("format_", Format)
def test_rejected_lines_keep_the_columns_that_tell_names_apart(tmp_path: Path, format_: Format) -> None:
    path = tmp_path / "rejected"
    with outputs.rejected_lines(path, format_, overwrite=False, places=("State", "Land")) as reject:
        reject(files.Line(7, "", {"name": "A", "population": "x"}, "", ("Ohio", "US")), "Wrong")
        reject(files.Line(9, "as it was", {}, "Not a line"), "Not a line")
    columns = files.Columns(
        files.OWN_COLUMNS.of_fields, ("state", "land") if format_ is Format.CSV else ("State", "Land")
    )
    lines = read(path.read_bytes(), format_, columns)
    assert [line.places for line in lines] == [("Ohio", "US"), ("", "")]


def test_without_a_rejected_line_there_is_no_file(tmp_path: Path) -> None:
    with outputs.rejected_lines(tmp_path / "rejected.csv", Format.CSV, overwrite=False):
        pass
    assert list(tmp_path.iterdir()) == []
