"""Files as people have them, and files that are whole or not there."""

import io
import os
import secrets
from pathlib import Path

import pytest

from cityweb import files
from cityweb.files import Format
from cityweb.settings import OperatorError
from cityweb.submissions import FIELDS

TOKYO = {"name": "Tokyo", "population": "5"}


def read(written: bytes, format_: Format = Format.CSV) -> list[files.Line]:
    return list(files.lines(io.BytesIO(written), format_))


@pytest.mark.parametrize(
    ("path", "format_"),
    [("a.csv", Format.CSV), ("a.JSONL", Format.JSONL), ("a.ndjson", Format.JSONL), ("-", Format.CSV)],
)
def test_the_name_tells_the_format(path: str, format_: Format) -> None:
    assert files.format_of(Path(path)) is format_


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
        (b"Tokyo,37,400,068", "quotes around what contains a comma"),
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
    "header", [b"", b"Tokyo,5\n", b"name;population\nTokyo;5\n", b"name,name,population\n", b'"name\n', b"name\n"]
)
def test_columns_without_names_are_one_sentence(header: bytes) -> None:
    with pytest.raises(OperatorError, match="write name,population above"):
        read(header)


@pytest.mark.parametrize("format_", Format)
def test_another_encoding_is_told_with_its_line(format_: Format) -> None:
    with pytest.raises(OperatorError, match="Line 2 is not UTF-8"):
        read("name,population\nZürich,5\n".encode("latin-1") if format_ is Format.CSV else b"{}\n\xff", format_)


def test_a_file_without_lines_is_not_read_into_memory() -> None:
    with pytest.raises(OperatorError, match="Line 1 is longer"):
        read(b"x" * (files.LINE_BYTES_MAX + 1))


def test_a_row_that_goes_on_over_many_lines_is_not_read_into_memory() -> None:
    # No line and no cell is too long.
    row = b'"' + b'","'.join([b"x\n" * 1_000] * (files.LINE_BYTES_MAX // 2_000)) + b'"\n'
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
    with files.written(path, overwrite=False) as target:
        target.write(b"whole")
        assert not path.exists()
    assert path.read_bytes() == b"whole"
    assert list(tmp_path.iterdir()) == [path]


def write_half(target: files.Target) -> None:
    target.write(b"half")
    raise KeyboardInterrupt


def test_a_file_that_is_not_finished_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"before")
    with pytest.raises(KeyboardInterrupt), files.written(path, overwrite=True) as target:
        write_half(target)
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


def test_nothing_is_overwritten_unasked(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"before")
    with pytest.raises(OperatorError, match="--yes"), files.written(path, overwrite=False):
        pass
    with files.written(path, overwrite=True) as target:
        target.write(b"after")
    assert path.read_bytes() == b"after"


def test_who_reads_meanwhile_reads_the_old_file_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"before")
    with path.open("rb") as reading:
        with files.written(path, overwrite=True) as target:
            target.write(b"after")
        assert reading.read() == b"before"


def test_a_written_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    dumped, rejected = tmp_path / "a.csv", tmp_path / "b.csv"
    before = os.umask(0)
    try:
        dumped.write_bytes(b"before")
        with files.written(dumped, overwrite=True) as target:
            target.write(b"after")
        with files.rejected_lines(rejected, Format.CSV, overwrite=False) as reject:
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
    with pytest.raises(OperatorError, match="exists"), files.written(tmp_path / "a.csv", overwrite=False) as target:
        target.write(b"after")
    assert victim.read_bytes() == b"before"


def test_a_link_stays_one(tmp_path: Path) -> None:
    (tmp_path / "link.csv").symlink_to(tmp_path / "a.csv")
    with files.written(tmp_path / "link.csv", overwrite=False) as target:
        target.write(b"whole")
    assert (tmp_path / "link.csv").is_symlink()
    assert (tmp_path / "a.csv").read_bytes() == b"whole"


def test_a_device_is_written_to_and_stays() -> None:
    with files.written(Path("/dev/null"), overwrite=True) as target:
        target.write(b"gone")
    assert Path("/dev/null").is_char_device()


def test_a_full_disk_is_a_sentence() -> None:
    with (
        pytest.raises(OperatorError, match="No space left"),
        files.written(Path("/dev/full"), overwrite=True) as target,
    ):
        target.write(b"x" * 100_000)


def test_a_folder_that_does_not_exist_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match="No such file"), files.written(tmp_path / "no" / "a.csv", overwrite=False):
        pass


def test_who_has_read_enough_is_no_failure() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with pytest.raises(files.NobodyReads), os.fdopen(writing, "wb", buffering=0) as stream:
        files.Target(files.STANDARD, stream).write(b"x")


@pytest.mark.parametrize("format_", Format)
def test_rejected_lines_can_be_corrected_and_read_again(tmp_path: Path, format_: Format) -> None:
    path = tmp_path / "rejected"
    with files.rejected_lines(path, format_, overwrite=False) as reject:
        reject(files.Line(7, "", {"name": "=A, b", "population": "x"}), "Wrong")
        reject(files.Line(9, "as it was", {}, "Not a line"), "Not a line")
    with path.open("rb") as stream:
        lines = list(files.lines(stream, format_))
    assert lines[0].values.items() >= {("name", "=A, b"), ("population", "x")}
    assert not any(lines[1].values.values())
    text = path.read_text()
    assert [word for word in ("7", "Wrong", "9", "as it was", "Not a line") if word not in text] == []


def test_without_a_rejected_line_there_is_no_file(tmp_path: Path) -> None:
    with files.rejected_lines(tmp_path / "rejected.csv", Format.CSV, overwrite=False):
        pass
    assert list(tmp_path.iterdir()) == []
