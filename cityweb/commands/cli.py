"""The command line of cityweb."""

import asyncio
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Annotated, BinaryIO

import typer

from cityweb import __version__, countries, files, outputs, settings
from cityweb.city import ID_MAX
from cityweb.commands import checkup, moderating
from cityweb.commands.moderating import Reason, Yes
from cityweb.commands.readiness import ready
from cityweb.postgres import corrections, schema, transfers
from cityweb.postgres.cities import Stored
from cityweb.server import launch
from cityweb.settings import COMMAND, OperatorError

app = typer.Typer(
    help="The public leaderboard of the world's biggest cities. Run runserver first; it prepares what is missing.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.callback(invoke_without_command=True)
def list_commands(
    context: typer.Context, version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False
) -> None:
    """The public leaderboard of the world's biggest cities."""
    if version:
        typer.echo(f"cityweb {__version__}")
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command()
def initdb(
    reset: Annotated[bool, typer.Option("--reset", help="Drop every city and start empty; asks first.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Bring the database to the present schema. Safe to repeat: no city is lost."""
    with launch.database_urls(settings.read(os.environ)) as (url, _), launch.translate_errors(url):
        if reset:
            if not yes:
                typer.confirm(f"Drop every city in {url.render_as_string()}?", abort=True)
            asyncio.run(schema.reset(url))
            typer.echo(f"The database is empty and ready. Next: {COMMAND} runserver")
        else:
            asyncio.run(schema.migrate(url))
            typer.echo(f"The database is ready. Next: {COMMAND} runserver")


@app.command()
def runserver(
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port to listen on.")] = 8000,
    workers: Annotated[int, typer.Option(min=1, help="How many processes serve.")] = 1,
    reload: Annotated[bool, typer.Option("--reload", help="Start again when a file changes; for development.")] = False,
) -> None:
    """Prepare the database where needed, and serve."""
    launch.run(settings.read(os.environ), host=host, port=port, workers=workers, reload=reload)


Format = Annotated[files.Format | None, typer.Option("--format", help="Where the name of the file does not say it.")]


@app.command()
def load(
    file: Annotated[Path, typer.Argument(help="CSV or JSON with name and population; - is standard input.")],
    format: Format = None,  # noqa: A002 (the name of the option)
    name: Annotated[str, typer.Option(metavar="COLUMN", help="The column with the names.")] = "name",
    population: Annotated[str, typer.Option(metavar="COLUMN", help="The column with the populations.")] = "population",
    country: Annotated[str, typer.Option(metavar="COLUMN", help="The column with the countries.")] = "country",
    place: Annotated[
        list[str] | None,
        typer.Option(
            metavar="COLUMN",
            help="A column whose value is added to names that occur more than once in the file; may be repeated.",
        ),
    ] = None,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Skip rejected lines.")] = False,
    rejected: Annotated[
        Path | None, typer.Option(help="The file for rejected lines.", show_default="FILE.rejected")
    ] = None,
    update: Annotated[bool, typer.Option("--update", help="Change stored cities to what the file says.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Overwrite the file of rejected lines.")] = False,
) -> None:
    """Add the cities of a file: all, or none if a line is rejected."""
    columns = files.Columns({"name": name, "population": population, "country": country}, tuple(place or ()))
    kind = format or _format_of(file, files.READ_ENDINGS)
    rejected = rejected or files.beside(file, kind)
    skipping = outputs.rejected_lines(rejected, kind, overwrite=yes, places=columns.places) if skip_bad else None
    outcome = _load(file, kind, columns, skipping, transfers.UPDATE if update else "")
    if outcome.rejected:
        typer.echo(f"Rejected lines and their problems are in {rejected}: correct them there, and load it.")
    typer.echo(outcome)


def _load(
    file: Path,
    kind: files.Format,
    columns: files.Columns = files.OWN_COLUMNS,
    skipping: AbstractContextManager[transfers.Report] | None = None,
    update: str = "",
) -> transfers.Outcome:
    with files.opened(file) as stream, ready() as url, _progress(stream) as read:
        lines, places = files.lines(stream, kind, columns), len(columns.places)
        return asyncio.run(
            transfers.load(url, lines, skipping=skipping, update=update, place_columns=places, read=read)
        )


@app.command()
def dump(
    file: Annotated[Path, typer.Argument(help="The file to write; - is standard output.")] = files.STANDARD,
    format: Format = None,  # noqa: A002 (the name of the option)
    yes: Annotated[bool, typer.Option("--yes", help="Overwrite the file.")] = False,
) -> None:
    """Write all cities to a file, in the order of the board."""
    kind = format or _format_of(file)
    with outputs.written(file, overwrite=yes) as target, ready() as url:
        asyncio.run(transfers.dump(url, target.write, kind))


@app.command()
def demo() -> None:
    """Fill the board with the world's largest cities (GeoNames)."""
    file = settings.TOP / "demo" / "cities.csv"
    typer.echo(_load(file, files.Format.CSV, update=transfers.FILL_IN_COUNTRIES))
    typer.echo(f"Next: {COMMAND} runserver")


Name = Annotated[list[str] | None, typer.Argument(metavar="NAME", help="The name of the city.")]
Id = Annotated[
    int | None, typer.Option("--id", min=1, max=ID_MAX, metavar="ID", help="The city's id, instead of NAME.")
]


@app.command()
def correct(
    name: Name = None,
    *,
    population: Annotated[str, typer.Argument(metavar="POPULATION")],
    country: Annotated[
        str | None, typer.Option(metavar="COUNTRY", help='Its country, a name or a code; "" removes it.')
    ] = None,
    city_id: Id = None,
    reason: Reason = None,
    yes: Yes = False,
) -> None:
    """Change the population of a city; asks first."""
    _change(_city(name, city_id), lambda city: corrections.corrected(city, population, country), reason, yes=yes)


@app.command()
def rename(
    name: Name = None,
    *,
    new: Annotated[str, typer.Argument(metavar="NEW")],
    city_id: Id = None,
    reason: Reason = None,
    yes: Yes = False,
) -> None:
    """Change the name of a city; asks first."""
    _change(_city(name, city_id), lambda city: corrections.renamed(city, new), reason, yes=yes)


@app.command()
def remove(name: Name = None, city_id: Id = None, reason: Reason = None, yes: Yes = False) -> None:
    """Remove a city and block its name; asks first."""
    _change(_city(name, city_id), lambda _: None, reason, yes=yes)


for command in (moderating.revert, moderating.block, moderating.unblock, moderating.redact):
    app.command()(command)


@app.command()
def check() -> None:
    """Look at the settings, the database and the vendored files."""
    found = []
    for finding in checkup.findings(os.environ):
        typer.echo(finding)
        found.append(finding)
    sys.exit(not all(finding.well for finding in found))


def _format_of(file: Path, endings: Mapping[str, files.Format] = files.ENDINGS) -> files.Format:
    try:
        return files.format_of(file, endings)
    except files.UnknownFormat as error:
        raise typer.BadParameter(str(error)) from error


def _city(name: list[str] | None, city_id: int | None) -> str | int:
    """The name, joined if the shell split it, or the id. Raises BadParameter unless exactly one is given."""
    if name and city_id is None:
        return " ".join(name)
    if city_id is not None and not name:
        return city_id
    raise typer.BadParameter("Write either NAME or --id ID.")


def _change(city: str | int, change: Callable[[Stored], Stored | None], reason: str | None, *, yes: bool) -> None:
    """Shows a city before and after a change, asks for confirmation, and stores the change."""
    with ready() as url:
        before = asyncio.run(corrections.find(url, city))
        after = change(before)
        typer.echo(f"before: {_describe(before)}")
        typer.echo(f"after:  {_describe(after) if after else 'removed'}")
        if not yes:
            typer.confirm("Store this?", abort=True)
        asyncio.run(corrections.store(url, before, after, reason) if after else corrections.remove(url, before, reason))


def _describe(city: Stored) -> str:
    country = f", {countries.name_of(city.country)}" if city.country else ""
    return f"{city.name}, {city.population:,} people{country}"


@contextmanager
def _progress(stream: BinaryIO) -> Iterator[Callable[[], None]]:
    """A function to call after each read of the file; on a terminal it updates a progress bar."""
    if not sys.stderr.isatty() or not stream.seekable():
        yield lambda: None
        return
    size = os.fstat(stream.fileno()).st_size
    with typer.progressbar(length=size, label="Reading", file=sys.stderr) as bar:

        def read() -> None:
            bar.update(stream.tell() - bar.pos)
            if bar.pos == size:
                bar.label = "Storing"
                bar.render_progress()

        yield read


def main() -> None:
    """Runs a command; an expected error is one sentence on standard error and status 1."""
    # A character that the encoding of the terminal lacks is printed as an escape.
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # It is a text file.
    try:
        app()
    except outputs.NobodyReads:
        # Python flushes standard output at exit and would report the closed pipe.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OperatorError as error:
        typer.echo(error, err=True)
        sys.exit(1)
