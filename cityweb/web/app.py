"""The application, put together: routes, middleware, error pages, lifespan."""

import asyncio
import gc
import logging
import multiprocessing
import os
import random
import re
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial

from sqlalchemy import URL
from sqlalchemy.ext.asyncio import async_sessionmaker
from starlette.applications import Starlette
from starlette.convertors import IntegerConvertor, register_url_convertor
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Scope

from cityweb import __version__, settings
from cityweb.city import BOARD_SIZE
from cityweb.log import Requests
from cityweb.postgres import database
from cityweb.postgres.ranking import Spelling
from cityweb.postgres.rate_limit import Limiter
from cityweb.settings import Settings
from cityweb.web import errors, lists, templates, views
from cityweb.web.assets import Assets
from cityweb.web.board import CACHE_CONTROL, Board, NoBoard
from cityweb.web.downloads import Downloads
from cityweb.web.errors import Rejection
from cityweb.web.middleware import KnownHost, Prepared, SameOrigin, SecurityHeaders, SessionMiddleware
from cityweb.web.prepared import Head
from cityweb.web.state import State

log = logging.getLogger("cityweb")

View = Callable[[Request[State]], Awaitable[ASGIApp]]


def by_method(*, get: View, post: View) -> View:
    """One view of an address that is read and added to."""

    async def view(request: Request[State]) -> ASGIApp:
        return await (post if request.method == "POST" else get)(request)

    return view


ID_DIGITS = 10


class CityId(IntegerConvertor):
    """The id of a city in a path; more than ten digits, of which `int` may refuse to read thousands, are no city's."""

    def convert(self, value: str) -> int:
        """The id, or one that is too big."""
        return int(value) if len(value) <= ID_DIGITS else 10**ID_DIGITS


register_url_convertor("city_id", CityId())

CITIES = by_method(get=lists.list_cities, post=views.add_city)
BOTH = ("GET", "POST")
# fmt: off
ROUTES = [
    Route("/cities/{id:city_id}", lists.show_city),
    Route("/",                    views.show_board),
    Route("/cities",              CITIES,             methods=BOTH, name="list_cities"),
    Route("/cities/",             CITIES,             methods=BOTH, name="add_city"),
    Route("/cities/biggest",      views.list_biggest),
    Route("/cities/{id:city_id}.json", lists.show_city_json),
    Route("/cities.csv",          lists.export_csv),
    Route("/cities.json",         lists.export_json),
    Route("/feed.atom",           lists.show_feed),
    Route("/api",                 views.explain_api),
    Route("/openapi.json",        views.describe_api),
    Route("/board",               views.show_fragment),
    Route("/livez",               views.say_alive),
    Route("/readyz",              views.say_ready),
    Route("/static/{name}",       views.show_asset),
]
# fmt: on
EXPECTED = (Rejection, HTTPException, NoBoard, ClientDisconnect)
"""Exceptions that are no bugs."""
UNCHANGED = Head(204, [(b"cache-control", CACHE_CONTROL.encode())])
"""The response to an open page that shows the current board."""
SEEN = re.compile(b"seen=[0-9a-f]*")


def from_environment() -> ASGIApp:
    """The application as its environment describes it: what a server calls."""
    for name in settings.GONE:
        if name in os.environ:
            log.warning(f"{name} has no effect any more: remove it")
    log.info("starting", extra={"version": __version__})
    app = create(settings.read(os.environ))
    # What is there now stays: a full collection that walked all of it would stop every answer for some 40 ms.
    gc.collect()
    gc.freeze()
    return app


def create(settings: Settings) -> Prepared:
    """The application. Its `database_url` must be set: only `server` knows the embedded one."""
    url = settings.database_url
    assert url  # noqa: S101 (said above)
    engine = database.make_engine(url)
    add_engine = database.make_engine(url, database.ADD_CONNECTIONS)
    sessions = async_sessionmaker(add_engine, expire_on_commit=False)
    assets = Assets()
    board = Board(partial(database.connect, url))
    downloads = Downloads(partial(database.connect, url))
    limit = settings.rate_limit
    limiter = limit and Limiter(add_engine, limit.burst, limit.per_minute, limit.per_hour)
    requests = Requests()
    closing: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[dict[str, object]]:  # noqa: ARG001 (Starlette's signature)
        running = {asyncio.create_task(work) for work in (board.keep(), get_ready(url), follow_parent())}
        # The first visitor sees a board, if there is a database.
        await board.refresh()
        yield {
            "assets": assets,
            "board": board,
            "engine": engine,
            "downloads": downloads,
            "limiter": limiter,
            "spelling": Spelling(),
        }
        while running:  # a cancellation may get lost on its way, in asyncio.wait_for before Python 3.12
            for task in running:
                task.cancel()
            _, running = await asyncio.wait(running, timeout=1)
        await asyncio.gather(*closing, return_exceptions=True)
        await engine.dispose()
        await add_engine.dispose()
        requests.close()

    def find_prepared(scope: Scope) -> tuple[Head, bytes] | None:
        """The prepared response to a request, if there is one: what its view would send. Raises NoBoard."""
        path, query = scope["path"], scope["query_string"]
        if path not in {"/", "/board", "/cities/biggest"} or (query and path != "/board"):
            return None
        snapshot = board.snapshot
        if path != "/board":
            return (snapshot.page if path == "/" else snapshot.biggest).choose(scope)
        if query == b"seen=" + snapshot.id.encode():
            return UNCHANGED, b""
        return snapshot.fragment.choose(scope) if SEEN.fullmatch(query) else None

    app = Starlette(
        routes=ROUTES,
        middleware=[
            Middleware(SecurityHeaders, refuse=refuse, requests=requests),
            Middleware(KnownHost, hosts=settings.hosts, refuse=refuse),
            Middleware(SameOrigin, refuse=refuse),
            Middleware(SessionMiddleware, sessions=sessions, closing=closing),
        ],
        exception_handlers=dict.fromkeys(EXPECTED, answer_exception),
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False
    # Starlette's own looks through the routes: a page of the list has dozens of addresses.
    addresses = {route.name: route.path_format for route in ROUTES}

    def url_for(name: str, /, **parts: object) -> str:
        return addresses[name].format(**parts)

    templates.set_globals(
        url_for=url_for,
        asset=lambda name: f"{url_for('show_asset', name=name)}?v={assets.fingerprints[name]}",
        board_size=BOARD_SIZE,
        origin=settings.origin,
    )
    return Prepared(app, find_prepared, settings.hosts, requests)


# --- while it runs ---


async def get_ready(url: URL) -> None:
    """Waits for the database, and brings its schema up to date where this role may.

    A database that is away at the start is no reason to die: until it comes, /readyz says 503.
    """
    while True:
        try:
            await database.prepare(url)
        except (database.Unsafe, database.OldSchema) as error:
            log.error(str(error))  # noqa: TRY400 (the sentence says all)
        except Exception as error:
            log.warning("no database yet", exc_info=None if database.unavailable(error) else error)
        else:
            return
        await asyncio.sleep(random.uniform(0.5, 1))  # noqa: S311 (no secret)


async def follow_parent() -> None:
    """Stops this process when the supervisor that started it is gone; a single process follows nobody."""
    parent = multiprocessing.parent_process()
    while parent:
        if os.getppid() != parent.pid:
            os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.sleep(0.5)


# --- what is refused ---


async def answer_exception(request: Request, exception: Exception) -> Response:
    """The answer to an exception that is no bug."""
    match exception:
        case Rejection():
            rejection = exception
        case HTTPException(status_code=status, headers=headers):
            rejection = Rejection(status, headers=headers or {})
        case NoBoard():
            rejection = errors.no_board()
        case _:
            rejection = Rejection(400)
    return errors.respond(request.scope, rejection)


def refuse(scope: Scope, status: int) -> ASGIApp:
    """The answer of a middleware that refuses a request."""
    sentence = errors.WRONG_HOST if status == 400 else ""  # noqa: PLR2004 (the one 400 that middleware gives)
    return errors.respond(scope, Rejection(status, sentence))
