"""The operator's commands as an operator runs them: processes of their own, killed in earnest."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cityweb import __version__
from cityweb.postgres import database
from cityweb.web import assets
from tests.conftest import ENVIRONMENT, FILL, MANAGE, TOP, TWINS, Addresses, csv, finished, insert, run_sql, unmeasured
from tests.forks import MEASURED

Run = Callable[..., "subprocess.CompletedProcess[str]"]


def environment(empty: Addresses) -> dict[str, str]:
    return {**os.environ, **ENVIRONMENT, "DATABASE_URL": empty.owner.render_as_string(hide_password=False)}


@pytest.fixture
def run(empty: Addresses, tmp_path: Path) -> Run:
    """Runs a command on the empty database, in a folder of its own."""

    def run(*arguments: str, entered: str = "", **more: str) -> "subprocess.CompletedProcess[str]":
        return finished(arguments, tmp_path, {**environment(empty), **more}, entered)

    return run


def assert_rejected(done: "subprocess.CompletedProcess[str]", *words: str, status: int = 1) -> None:
    assert (done.returncode, done.stdout) == (status, ""), done.stderr
    assert "Traceback" not in done.stderr
    assert [word for word in words if word not in done.stderr] == []


async def stored(empty: Addresses) -> list[str]:
    return [row["name"] for row in await run_sql(empty.app, "SELECT name FROM cities ORDER BY population DESC, id")]


# --- load ---


async def test_a_load_ends_with_its_numbers(run: Run, empty: Addresses) -> None:
    for added, known in ((2, 0), (0, 2)):
        done = run("load", "-", entered='name,population\nTokyo,"37,400,068"\nDelhi,5\n')
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == f"2 read, {added} added, {known} already stored, 0 rejected\n"
    assert await stored(empty) == ["Tokyo", "Delhi"]


async def test_a_rejected_line_stores_nothing(run: Run, empty: Addresses) -> None:
    assert_rejected(run("load", "-", entered="name,population\nTokyo,5\n=A,5\n"), "Line 3: City names", "--skip-bad")
    assert await stored(empty) == []


async def test_rejected_lines_are_written_down_corrected_and_loaded(run: Run, empty: Addresses, tmp_path: Path) -> None:
    (tmp_path / "some.csv").write_text("name,population\nTokyo,5\nDelhi,x\n")
    done = run("load", "some.csv", "--skip-bad")
    assert done.stdout.splitlines() == [
        "Rejected lines and their problems are in some.rejected.csv: correct them there, and load it.",
        "2 read, 1 added, 0 already stored, 1 rejected",
    ]
    rejected = tmp_path / "some.rejected.csv"
    assert_rejected(run("load", "some.csv", "--skip-bad"), "some.rejected.csv exists already", "--yes")
    assert run("load", "some.csv", "--skip-bad", "--yes").returncode == 0
    rejected.write_text(rejected.read_text().replace("Delhi,x", "Delhi,4"))
    assert run("load", rejected.name).stdout == "1 read, 1 added, 0 already stored, 0 rejected\n"
    assert await stored(empty) == ["Tokyo", "Delhi"]


async def test_columns_and_places_are_chosen(run: Run, empty: Addresses, tmp_path: Path) -> None:
    rows = ("City;Pop;State;Land", "Springfield;5;Illinois;US", "Springfield;4;Oregon;us", "Bonn;3;;Germany")
    (tmp_path / "towns.txt").write_text("\n".join(rows))
    assert_rejected(run("load", "towns.txt"), "It names City, Pop, State, Land", "--name COLUMN --population COLUMN")
    chosen = ("--name", "city", "--population", "pop", "--country", "land", "--place", "state")
    for added in (3, 0):
        assert f"3 read, {added} added" in run("load", "towns.txt", *chosen).stdout
    assert await stored(empty) == ["Springfield, Illinois", "Springfield, Oregon", "Bonn"]
    assert run("dump").stdout.splitlines()[1:] == [
        '"Springfield, Illinois",5,"US"',
        '"Springfield, Oregon",4,"US"',
        '"Bonn",3,"DE"',
    ]


async def test_a_json_array_is_loaded_twice_and_adds_nothing_the_second_time(run: Run, tmp_path: Path) -> None:
    (tmp_path / "cities.json").write_text(
        '[{"name": "Tokyo", "population": 5.0, "country": "JP"},{"name":"A","population":1}]'
    )
    assert run("load", "cities.json").stdout == "2 read, 2 added, 0 already stored, 0 rejected\n"
    assert run("load", "cities.json").stdout == "2 read, 0 added, 2 already stored, 0 rejected\n"


async def test_an_update_is_asked_for(run: Run) -> None:
    for options, words in (
        ((), "1 added, 0 already stored"),
        ((), "0 added, 1 already stored"),
        (("--update",), "0 added, 1 updated, 0 already stored"),
    ):
        population = 5 + len(options)
        assert words in run("load", "-", *options, entered=f"name,population\nTokyo,{population}\n").stdout


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (("load", "nowhere.csv"), 1, ("nowhere.csv cannot be read (No such file or directory)",)),
        (("load", ".", "--format", "csv"), 1, ("Is a directory",)),
        (("load", "-"), 1, ("The first line must name each of these columns once: name, population.",)),
        (("load", "a.xlsx"), 2, ("--format csv",)),
        (("load",), 2, ("Missing argument",)),
        (("dump", "a.xlsx"), 2, ("--format csv",)),
        (("dump", "no/a.csv"), 1, ("a.csv cannot be written (No such file or directory)",)),
        (("correct", "Tokyo", "5"), 1, ("No city is called Tokyo: python manage.py dump",)),
        (("rename", "Tokyo"), 2, ("Write either NAME or --id ID.",)),
        (("remove", "Tokyo"), 1, ("No city is called Tokyo",)),
        (("remove",), 2, ("Write either NAME or --id ID.",)),
        (("correct", "Tokyo", "5", "--id", "1"), 2, ("Write either NAME or --id ID.",)),
        (("remove", "--id", "2147483648"), 2, ("--id",)),
        (("remove", "--id", "7"), 1, ("No city has the id 7",)),
    ],
)
async def test_a_mistake_is_a_sentence(
    run: Run, arguments: tuple[str, ...], status: int, words: tuple[str, ...]
) -> None:
    assert_rejected(run(*arguments), *words, status=status)


async def test_a_role_that_may_not_is_a_sentence(run: Run, empty: Addresses) -> None:
    if empty.app == empty.owner:
        pytest.skip("one role is both here")
    url = empty.app.render_as_string(hide_password=False)
    done = run("load", "-", entered="name,population\nTokyo,5\n", DATABASE_URL=url)
    assert_rejected(done, "permission denied", "Run the command as the role that owns the tables.")


def test_the_package_says_its_version() -> None:
    command = [sys.executable, "-m", "cityweb", "--version"]
    done = subprocess.run(command, cwd=TOP, capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout == f"cityweb {__version__}\n"


# --- interrupted ---


@contextmanager
def loading(empty: Addresses) -> Iterator["subprocess.Popen[bytes]"]:
    """A load that is half-way: it has sent rows to the database, and waits for more on standard input."""
    # Not measured: a signal that arrives while coverage holds its lock stops the process.
    given = {name: value for name, value in environment(empty).items() if name != MEASURED}
    process = subprocess.Popen(
        [sys.executable, str(TOP / "manage.py"), "load", "-"],
        cwd=TOP,
        env=given,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    with process:
        assert process.stdin
        process.stdin.write(b"name,population\n" + b"".join(b"City %d,%d\n" % (n, n) for n in range(20_000)))
        process.stdin.flush()
        try:
            yield process
        finally:
            process.kill()


HALF_WAY = "state = 'idle in transaction' AND query ~ 'COPY .*arrivals'"
STORING = "wait_event_type = 'Lock' AND query ~ '^(ALTER TABLE cities DROP|DROP INDEX cities)'"


async def seen(empty: Addresses, state: str = HALF_WAY) -> None:
    """Waits until a load has sent rows and holds them in a transaction, or is in another state."""
    deadline = time.monotonic() + 20
    while not await run_sql(empty.server, f"SELECT FROM pg_stat_activity WHERE {state}"):
        assert time.monotonic() < deadline
        time.sleep(0.05)


async def over(empty: Addresses) -> None:
    """Waits until no load is left in the database."""
    question = "SELECT FROM pg_stat_activity WHERE query ~ '^(ALTER|DROP)|arrivals' AND pid <> pg_backend_pid()"
    deadline = time.monotonic() + 20
    while await run_sql(empty.server, question):
        assert time.monotonic() < deadline
        time.sleep(0.05)


async def test_a_load_that_is_not_interrupted_stores_what_was_sent(empty: Addresses) -> None:
    with loading(empty) as process:
        await seen(empty)
        out, _ = process.communicate(timeout=30)
    assert out == b"20,000 read, 20,000 added, 0 already stored, 0 rejected\n"
    assert len(await stored(empty)) == 20_000


async def test_a_load_that_is_killed_half_way_leaves_nothing(empty: Addresses) -> None:
    with loading(empty) as process:
        await seen(empty)
        process.kill()
    await over(empty)
    assert await stored(empty) == []


async def test_a_load_that_is_killed_while_it_stores_leaves_nothing(empty: Addresses) -> None:
    somebody = await database.connect(empty.owner)
    adding = somebody.transaction()
    await adding.start()
    await somebody.execute(insert("City 9", 9))
    try:
        with loading(empty) as process:
            assert process.stdin
            process.stdin.close()
            await seen(empty, STORING)
            process.kill()
    finally:
        await adding.rollback()
        await somebody.close()
    # The statement goes on to its end; the COMMIT never comes.
    await over(empty)
    assert await stored(empty) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_load_that_is_interrupted_leaves_nothing_and_says_so(empty: Addresses, number: int) -> None:
    with loading(empty) as process:
        await seen(empty)
        process.send_signal(number)
        # Its standard input stays open: it does not wait for the end of that.
        assert process.wait(20) == 1
        assert process.stderr
        said = process.stderr.read().decode()
    assert said == "Interrupted. A command does all of its work or none: running it again is safe.\n"
    assert await stored(empty) == []


async def test_a_terminal_has_a_progress_bar(empty: Addresses, tmp_path: Path) -> None:
    rows = "".join(f"City {n},{n}\n" for n in range(12_000))
    (tmp_path / "some.csv").write_text(f"name,population\n{rows}")
    ours, theirs = pty.openpty()
    command = [sys.executable, str(TOP / "manage.py"), "load", str(tmp_path / "some.csv")]
    with subprocess.Popen(command, env=environment(empty), stdout=subprocess.PIPE, stderr=theirs) as process:
        assert process.wait(30) == 0
    os.close(theirs)
    shown = os.read(ours, 10_000).decode()
    os.close(ours)
    assert "Reading" in shown
    assert "100%" in shown
    assert "Storing" in shown


async def test_a_load_that_fails_leaves_no_file_of_rejected_lines(run: Run, empty: Addresses, tmp_path: Path) -> None:
    await run_sql(empty.owner, "ALTER TABLE cities ADD CONSTRAINT small CHECK (population < 9)")
    try:
        done = run("load", "-", "--skip-bad", entered="name,population\nTokyo,9\n=A,1\n")
    finally:
        await run_sql(empty.owner, "ALTER TABLE cities DROP CONSTRAINT small")
    assert done.returncode == 1
    assert list(tmp_path.iterdir()) == []


# --- dump ---


async def test_a_dump_is_a_file_that_is_not_overwritten_unasked(run: Run, tmp_path: Path) -> None:
    run("load", "-", entered="name,population\nTokyo,5\n")
    for _ in range(2):
        assert run("dump", "all.jsonl", "--yes").returncode == 0
    assert json.loads((tmp_path / "all.jsonl").read_text()).items() >= {("name", "Tokyo"), ("population", 5)}
    assert_rejected(run("dump", "all.jsonl"), "all.jsonl exists already", "--yes")
    assert [path.name for path in tmp_path.iterdir()] == ["all.jsonl"]


async def test_who_has_read_enough_of_a_dump_may_go(empty: Addresses) -> None:
    # More than fits into a pipe.
    await run_sql(empty.owner, FILL.format(population="n", first=1, last=20_000))
    command = f"{sys.executable} {TOP}/manage.py dump - | head -1"
    done = subprocess.run(command, shell=True, env=environment(empty), capture_output=True, text=True, timeout=30)  # noqa: PLW1510, S602
    assert (done.stdout, done.stderr) == (csv(), "")


async def test_a_full_disk_is_a_sentence(run: Run) -> None:
    run("demo")
    assert_rejected(run("dump", "/dev/full", "--format", "csv", "--yes"), "No space left on device")


# --- demo ---


async def test_the_demo_fills_the_board_and_credits_its_source(run: Run, empty: Addresses) -> None:
    for numbers in ("500 added, 0 updated, 0", "0 added, 0 updated, 500"):
        assert run("demo").stdout.splitlines() == [
            f"500 read, {numbers} already stored, 0 rejected",
            "Next: python manage.py runserver",
        ]
    assert len(await stored(empty)) == 500
    # A folder of before countries gets them, and keeps its cities.
    await run_sql(empty.owner, "UPDATE cities SET country = '', population = population + 1")
    assert run("demo").stdout.startswith("500 read, 0 added, 500 updated, 0 already stored")
    rows = await run_sql(empty.app, "SELECT name, population, country FROM cities ORDER BY population DESC LIMIT 1")
    assert [tuple(row) for row in rows] == [("Shanghai", 24_874_501, "CN")]
    assert "GeoNames (https://www.geonames.org), licence CC BY 4.0" in (TOP / "demo" / "cities.csv").read_text()


@unmeasured
def test_the_demo_is_what_its_script_collects(tmp_path: Path) -> None:
    (tmp_path / "collect.py").write_text((TOP / "demo" / "collect.py").read_text())
    subprocess.run([sys.executable, tmp_path / "collect.py"], env={**os.environ, "PYTHONPATH": str(TOP)}, check=True)
    assert (tmp_path / "cities.csv").read_bytes() == (TOP / "demo" / "cities.csv").read_bytes()


# --- corrections ---


async def test_a_correction_shows_both_asks_and_is_made(run: Run, empty: Addresses) -> None:
    run("load", "-", entered="name,population\nTokyo,5\n")
    shown = "before: Tokyo, 5 people\nafter:  Tokyo, 37,400,068 people\n"
    for answer in ("n\n", ""):
        done = run("correct", "tokyo", "37,400,068", entered=answer)
        assert (done.returncode, done.stdout.startswith(shown)) == (1, True)
        assert run("dump").stdout == csv(("Tokyo", 5))
    assert run("correct", "tokyo", "37,400,068", entered="y\n").returncode == 0
    assert run("dump").stdout == csv(("Tokyo", 37_400_068))
    assert run("rename", "tokyo", "Tōkyō", "--yes").stdout.splitlines()[1] == "after:  Tōkyō, 37,400,068 people"
    assert await stored(empty) == ["Tōkyō"]
    assert run("remove", "tōkyō", "--yes").stdout.splitlines()[1] == "after:  removed"
    assert await stored(empty) == []


async def test_a_country_is_shown_corrected_and_removed(run: Run) -> None:
    run("load", "-", entered="name,population,country\nTokyo,5,JP\n")
    done = run("correct", "tokyo", "6", "--country", "france", "--reason", "It moved", "--yes")
    assert done.stdout == "before: Tokyo, 5 people, Japan\nafter:  Tokyo, 6 people, France\n"
    done = run("correct", "tokyo", "6", "--country", "", "--yes")
    assert done.stdout == "before: Tokyo, 6 people, France\nafter:  Tokyo, 6 people\n"
    assert_rejected(run("correct", "tokyo", "6", "--country", "Atlantis"), "We don't know that country")


async def test_what_an_operator_does_is_logged_with_its_reason(run: Run, empty: Addresses) -> None:
    run("load", "-", entered="name,population\nTokio,5\n")
    for arguments in (("correct", "Tokio", "6"), ("rename", "Tokio", "Tokyo"), ("remove", "Tokyo")):
        assert run(*arguments, "--reason", f"I {arguments[0]}", "--yes").returncode == 0
    rows = await run_sql(empty.app, "SELECT kind, reason FROM changes WHERE operator AND kind <> 'load' ORDER BY id")
    assert [tuple(row) for row in rows] == [("correct", "I correct"), ("correct", "I rename"), ("remove", "I remove")]


async def test_a_name_may_be_several_words(run: Run, empty: Addresses) -> None:
    run("load", "-", entered="name,population\nNew York City,5\n")
    assert run("rename", "new", "york", "CITY", "York", "--yes").returncode == 0
    assert await stored(empty) == ["York"]


async def test_two_cities_of_one_name_are_listed_dumped_and_told_apart_by_id(run: Run, empty: Addresses) -> None:
    await run_sql(empty.owner, TWINS)
    check = run("check")
    assert (check.returncode, check.stderr) == (1, "")
    assert "WRONG  names: Xi’an (id 2) was stored beside an earlier city of the same name" in check.stdout
    both = csv(("Xi'an", 5), ("Xi’an", 4))
    assert run("dump").stdout == both
    assert run("correct", "--id", "2", "3", "--yes").stdout.splitlines()[1] == "after:  Xi’an, 3 people"
    assert run("rename", "Xi’an, Anhui", "--id=2", "--yes").returncode == 0
    assert run("check").returncode == 0
    assert run("remove", "--yes", "--id", "1").returncode == 0
    assert await stored(empty) == ["Xi’an, Anhui"]

    await run_sql(empty.owner, "TRUNCATE cities")
    done = run("load", "-", entered=both)
    assert done.stdout.startswith("2 read, 1 added, 1 already stored, 0 rejected. 1 name is in the file more than once")
    assert await stored(empty) == ["Xi'an"]


@unmeasured
async def test_a_terminal_that_lacks_a_letter_shows_its_number(empty: Addresses) -> None:
    await run_sql(empty.owner, insert("東京", 5))
    given = {**environment(empty), "PYTHONIOENCODING": "latin-1"}
    out = subprocess.check_output([*MANAGE, "remove", "東京", "--yes"], env=given, text=True, timeout=60)
    assert out.splitlines()[0] == r"before: \u6771\u4eac, 5 people"


# --- vandals ---

VANDALISM = """
WITH city AS (UPDATE cities SET population = 900 + id RETURNING id)
INSERT INTO changes (kind, city_id, old_population, new_population, network, at)
SELECT 'correct', id, id, 900 + id, 'vvvvvvvvvvvvvvvv', now() - make_interval(mins => 10 * (4 - id))
FROM city ORDER BY id
"""


@pytest.fixture
async def vandalised(empty: Addresses) -> Addresses:
    """C1, C2 and C3, whose populations were 1, 2 and 3, and are 901, 902 and 903 by the changes 1, 2 and 3."""
    await run_sql(empty.owner, FILL.format(population="n", first=1, last=3), VANDALISM)
    return empty


async def populations(vandalised: Addresses) -> list[int]:
    return [row[0] for row in await run_sql(vandalised.app, "SELECT population FROM cities ORDER BY id")]


async def test_the_changes_of_a_network_are_listed_and_reverted_once_that_is_confirmed(
    run: Run, vandalised: Addresses
) -> None:
    lines = [
        rf"{n}  \d{{4}}-\d\d-\d\d \d\d:\d\d UTC  contributor oz3hm  C{n}: population {n} → 90{n}" for n in (3, 2, 1)
    ]
    done = run("revert", "--like", "2", entered="n\n")
    assert done.returncode == 1
    assert re.match("\n".join(lines) + r"\nRevert 3 changes\? \[y/N\]", done.stdout), done.stdout
    assert await populations(vandalised) == [901, 902, 903]
    run("correct", "C2", "7", "--yes")
    done = run("revert", "--like", "2", "--reason", "vandalism", entered="y\n")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.partition("[y/N]: ")[2].splitlines() == [
        "Change 2 was not reverted: the city was changed or removed later.",
        "2 of 3 changes reverted.",
    ]
    assert await populations(vandalised) == [1, 7, 3]


async def test_one_change_is_reverted(run: Run, vandalised: Addresses) -> None:
    assert "Revert 1 change? [y/N]" in run("revert", "2").stdout
    assert run("revert", "2", "--yes").stdout.splitlines()[1:] == ["1 of 1 change reverted."]
    assert await populations(vandalised) == [901, 2, 903]


async def test_the_changes_of_a_time_are_reverted(run: Run, vandalised: Addresses) -> None:
    row = (await run_sql(vandalised.app, "SELECT min(at), max(at) FROM changes"))[0]
    first, last = (time.isoformat() for time in row)
    assert (
        run("revert", "--since", first, "--until", last, "--yes").stdout.splitlines()[-1] == "2 of 2 changes reverted."
    )
    assert await populations(vandalised) == [1, 2, 903]
    assert run("revert", "--since", last, "--yes").stdout.splitlines()[-1] == "1 of 1 change reverted."
    done = run("revert", "--since", "2999-01-01")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "No visitor changed anything in that time: there is nothing to revert.\n"


async def test_blocks_are_made_listed_and_ended(run: Run, vandalised: Addresses) -> None:
    assert run("block").stdout == "Nothing is blocked.\n"
    run("remove", "C1", "--yes")
    await run_sql(vandalised.owner, "UPDATE changes SET at = now()")
    time = r"\d{4}-\d\d-\d\d \d\d:\d\d UTC"
    said = rf"The network of change 2 is blocked until {time}\. Next: python manage\.py revert --like 2\n"
    assert re.fullmatch(said, run("block", "--like", "2", "--for", "3h").stdout)
    listed = (
        rf"1  the name c1, until it is unblocked\n2  a network, until {time}\nTo end one: python manage\.py unblock N"
    )
    assert re.match(listed, run("block").stdout)
    assert run("unblock", "1").stdout == "Block 1 has ended.\n"
    assert "the name" not in run("block").stdout


@pytest.mark.usefixtures("vandalised")
async def test_a_name_is_redacted_once_that_is_confirmed(run: Run) -> None:
    run("rename", "C1", "Insult", "--yes")
    assert_rejected(run("redact", "4", "--yes"), "The city with the id 1 is still called Insult: rename")
    run("rename", "Insult", "C1", "--yes")
    done = run("redact", "4", entered="n\n")
    assert (done.returncode, done.stdout.splitlines()[0]) == (1, "Insult")
    assert run("redact", "4", entered="y\n").stdout.endswith(" [y/N]: 2 changes redacted.\n")
    assert_rejected(run("redact", "4"), "it is redacted already")


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (("revert",), 2, "Write CHANGE, --like CHANGE or --since TIME"),
        (("revert", "1", "--like", "1"), 2, "Write CHANGE"),
        (("revert", "--like", "1", "--since", "2026-12-03"), 2, "Write CHANGE"),
        (("revert", "1", "--until", "2026-12-03"), 2, "--until TIME only with --since"),
        (("revert", "0"), 2, "greater than or equal to 1"),
        (("revert", "--since", "noon"), 1, "noon is not a time: write one like"),
        (("revert", "5"), 1, "There is no change 5"),
        (("revert", "4"), 1, "Change 4 is a load, which cannot be reverted"),
        (("revert", "--like", "4"), 1, "Change 4 is a load, which cannot be reverted"),
        (("block", "--like", "5"), 1, "There is no change 5"),
        (("block", "--like", "1", "--for", "25h"), 1, "write one from 1h to 24h"),
        (("unblock", "7"), 1, "There is no block 7: python manage.py block lists them"),
        (("redact", "1"), 1, "Change 1 has no name"),
        (("redact", "5"), 1, "There is no change 5"),
    ],
)
async def test_a_mistake_about_changes_is_a_sentence(
    run: Run, vandalised: Addresses, arguments: tuple[str, ...], status: int, words: str
) -> None:
    await run_sql(vandalised.owner, "INSERT INTO changes (kind, cities, operator) VALUES ('load', 3, true)")
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (status, ""), done.stderr
    assert words in done.stderr
    assert await populations(vandalised) == [901, 902, 903]


async def test_only_the_owner_may_redact(run: Run, vandalised: Addresses) -> None:
    if vandalised.app == vandalised.owner:
        pytest.skip("one role is both here")
    run("rename", "C1", "Insult", "--yes")
    run("rename", "Insult", "C1", "--yes")
    url = vandalised.app.render_as_string(hide_password=False)
    done = run("redact", "4", "--yes", DATABASE_URL=url)
    assert done.returncode == 1
    assert "Run the command as the role that owns the tables." in done.stderr


# --- check ---


async def test_a_site_that_is_well_is_checked_in_eight_lines(run: Run) -> None:
    done = run("check")
    assert (done.returncode, done.stderr) == (0, "")
    subjects = [re.match(r"ok     ([^:]+): ", line) for line in done.stdout.splitlines()]
    assert [subject and subject[1] for subject in subjects] == [
        "settings",
        "database",
        "schema",
        "names",
        "history",
        "log",
        "durability",
        *assets.VENDORED,
    ]


async def test_a_site_that_is_not_well_is_status_1(run: Run) -> None:
    done = run("check", DATABASE_URL="mysql://x")
    assert (done.returncode, done.stderr) == (1, "")
    assert "WRONG  settings: DATABASE_URL is not the address of a PostgreSQL server" in done.stdout
