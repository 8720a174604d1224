"""`make audit`: what it says where a vulnerability is known, where none is, and where nobody can be asked."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from tests.audit import ALL_SECONDS
from tests.conftest import TOP

ADVISORY = {
    "id": "PYSEC-2099-1",
    "details": "It is only known to this test.",
    "affected": [
        {
            "package": {"name": "starlette", "ecosystem": "PyPI"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "99.0"}]}],
        }
    ],
}


@contextmanager
def advising(vulnerable: str) -> Iterator[str]:
    """The address of a database of vulnerabilities (OSV) that knows one, of this package."""

    class Database(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
            known = {"vulns": [ADVISORY]} if asked["package"]["name"] == vulnerable else {}
            body = json.dumps(known).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Database) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


def audit(lock: str, database: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "tests.audit", lock, database]
    return subprocess.run(command, cwd=TOP, capture_output=True, text=True, timeout=2 * ALL_SECONDS, check=False)


def test_a_known_vulnerability_fails_and_names_the_remedy() -> None:
    with advising("starlette") as database:
        done = audit("requirements.txt", database)
    assert done.returncode == 1
    assert "starlette" in done.stdout
    assert "has PYSEC-2099-1: take 99.0." in done.stdout


def test_where_nothing_is_known_that_is_said() -> None:
    with advising("nothing") as database:
        done = audit("requirements.txt", database)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "Audited: nothing is known against the packages of requirements.txt.\n"


@pytest.mark.parametrize("database", ["http://127.0.0.1:9/", "http://nowhere.invalid/"])
def test_where_nobody_can_be_asked_that_is_said_in_one_line(database: str) -> None:
    done = audit("requirements.txt", database)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "Not audited: nobody who knows vulnerabilities could be asked about requirements.txt.\n"


def test_a_lock_file_without_packages_is_not_audited(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").touch()
    with advising("starlette") as database:
        assert audit(str(tmp_path / "empty.txt"), database).stdout.startswith("Not audited:")


def test_a_vendored_file_that_nobody_reviewed_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cityweb").symlink_to(TOP / "cityweb")
    for name in ("tests/audit.py", "static/htmx-4.0.1.min.js", "requirements.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes((TOP / name).read_bytes())
    with (tmp_path / "static/htmx-4.0.1.min.js").open("a") as script:
        script.write(";")
    monkeypatch.setattr("tests.test_audit.TOP", tmp_path)
    done = audit("requirements.txt", "http://127.0.0.1:9/")
    assert done.returncode == 1
    assert "static/htmx-4.0.1.min.js is not the file that was reviewed." in done.stdout
