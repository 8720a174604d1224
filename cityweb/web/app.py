"""Assembles the application: routes, middleware, error pages, lifespan."""

import asyncio
import gc
import logging
import multiprocessing
import os
import random
import re
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial

from sqlalchemy import URL
from starlette.applications import Starlette
from starlette.convertors import IntegerConvertor, StringConvertor, register_url_convertor
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Scope

from cityweb import __version__, settings
from cityweb.log import Requests
from cityweb.postgres import database, networks, ranking, schema
from cityweb.postgres.database import DatabaseUnavailable, Pool
from cityweb.postgres.distribution import distribution
from cityweb.postgres.rate_limit import Limiter
from cityweb.postgres.recent import Recent
from cityweb.postgres.spelling import biggest
from cityweb.settings import Settings
from cityweb.web import changes, city, errors, lists, views, well_known
from cityweb.web.assets import Assets
from cityweb.web.board import CACHE_CONTROL, Board
from cityweb.web.downloads import Downloads
from cityweb.web.errors import Rejection
from cityweb.web.middleware import KnownHost, Prepared, SameOrigin, SecurityHeaders, SessionMiddleware
from cityweb.web.prepared import Head
from cityweb.web.state import State
from cityweb.web.templates import Templates

log = logging.getLogger("cityweb")

View = Callable[[Request[State]], Awaitable[ASGIApp]]


def by_method(*, get: View, post: View) -> View:
    """A view that calls `post` for a POST and `get` for every other method."""

    async def view(request: Request[State]) -> ASGIApp:
        return await (post if request.method == "POST" else get)(request)

    return view


ID_DIGITS = 10


class Number(IntegerConvertor):
    """A number in a path, with any number of digits; `int` raises ValueError above 4,300."""

    def convert(self, value: str) -> int:
        """The number, or 10^10, which no id reaches, if it has more than ten digits."""
        return int(value) if len(value) <= ID_DIGITS else 10**ID_DIGITS


class IconName(StringConvertor):
    """The icons that browsers ask for at the root, whatever a page names."""

    regex = r"favicon\.ico|apple-touch-icon\.png"


register_url_convertor("number", Number())
register_url_convertor("icon", IconName())

CITIES = by_method(get=lists.list_cities, post=views.add_city)
CITY = by_method(get=city.show_city, post=city.correct_city)
BOTH, POST = ("GET", "POST"), ("POST",)
ASKS = (Middleware(SessionMiddleware),)
"""The middleware of the routes that ask the database."""
# fmt: off
ROUTES = [
    Route("/cities/{id:number}",  CITY,               middleware=ASKS, methods=BOTH, name="show_city"),
    Route("/",                    views.show_board,   middleware=ASKS),
    Route("/cities",              CITIES,             middleware=ASKS, methods=BOTH, name="list_cities"),
    Route("/cities/",             CITIES,             middleware=ASKS, methods=BOTH, name="add_city"),
    Route("/cities/biggest",      views.list_biggest),
    Route("/cities/{id:number}.json", city.show_city_json, middleware=ASKS),
    Route("/cities/{id:number}/remove", city.remove_city, middleware=ASKS, methods=POST),
    Route("/changes",             changes.list_changes, middleware=ASKS),
    Route("/changes.atom",        changes.show_changes_feed, middleware=ASKS),
    Route("/changes/{id:number}/revert", changes.revert_change, middleware=ASKS, methods=POST),
    Route("/privacy",             changes.show_privacy),
    Route("/cities.csv",          lists.export_csv),
    Route("/cities-excel.csv",    lists.export_excel),
    Route("/cities.json",         lists.export_json),
    Route("/countries",           lists.list_countries, middleware=ASKS),
    Route("/countries/names",     views.list_country_names),
    Route("/feed.atom",           lists.show_feed,    middleware=ASKS),
    Route("/api",                 views.explain_api),
    Route("/openapi.json",        views.describe_api),
    Route("/board",               views.show_fragment),
    Route("/robots.txt",          well_known.show_robots),
    Route("/sitemap.xml",         well_known.show_sitemap, middleware=ASKS),
    Route("/manifest.webmanifest", well_known.show_manifest),
    Route("/.well-known/security.txt", well_known.show_security),
    Route("/{name:icon}",         views.show_asset,   name="show_icon"),
    Route("/livez",               views.check_health),
    Route("/readyz",              views.check_readiness),
    Route("/static/{name}",       views.show_asset),
]
# fmt: on
PATHS = {route.name: route.path_format for route in ROUTES}
UNCHANGED = Head(204, [(b"cache-control", CACHE_CONTROL.encode())])
"""The response to a poll from a page that already shows the current snapshot."""
FORGET_SECONDS = 3600
"""The interval at which a process deletes the keys of networks that are 30 days old."""
CLOSE_SECONDS = 1
"""The time limit for closing the connections of a pool at shutdown."""
SEEN = re.compile(b"seen=[0-9a-f]*")


def url_for(name: str, /, **parts: object) -> str:
    """The path of a route. Starlette's `url_for` searches all routes on every call; a page of the list has 50 links."""
    return PATHS[name].format(**parts)


def from_environment() -> ASGIApp:
    """The application, configured by environment variables; uvicorn calls it. Raises OperatorError."""
    for name in settings.GONE:
        if name in os.environ:
            log.warning(f"{name} has no effect any more: remove it")
    log.info("starting", extra={"version": __version__})
    app = create(settings.read(os.environ))
    # These objects live as long as the process. A full collection that walks them would block responses for 40 ms.
    gc.collect()
    gc.freeze()
    return app


def create(settings: Settings) -> Prepared:
    """The application. `database_url` must be set: only `server` knows the URL of the embedded database."""
    url = settings.database_url
    assert url  # noqa: S101 (see the docstring)
    read_pool, add_pool = Pool(url, database.READ_CONNECTIONS), Pool(url, database.ADD_CONNECTIONS)
    assets = Assets()
    templates = Templates(
        url_for=url_for,
        asset=lambda name: f"{url_for('show_asset', name=name)}?v={assets.fingerprints[name]}",
        origin=settings.origin,
        # RFC 4151: the ids of the feed belong to a name, so that they are the same under every name of the site.
        authority=settings.public_name or "localhost",
        corrections=settings.corrections,
    )
    board = Board(partial(database.connect, url), templates)
    downloads = Downloads(url)
    limit = settings.rate_limit
    limiter = limit and Limiter(limit.burst, limit.per_minute, limit.per_hour)
    network_keys = Recent(networks.keys)
    requests = Requests()

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[dict[str, object]]:  # noqa: ARG001 (Starlette's signature)
        running = {
            asyncio.create_task(work)
            for work in (
                board.keep(),
                get_ready(url),
                forget_networks(network_keys, read_pool),
                follow_parent(),
            )
        }
        # If the database is available, the first response already has a board.
        await board.refresh()
        yield {
            "assets": assets,
            "board": board,
            "templates": templates,
            "read_pool": read_pool,
            "add_pool": add_pool,
            "downloads": downloads,
            "limiter": limiter,
            "biggest": Recent(biggest),
            "distribution": Recent(distribution),
            "countries": Recent(ranking.countries),
            "network_keys": network_keys,
            "corrections": settings.corrections,
            "contact": settings.contact,
        }
        while running:  # before Python 3.12, asyncio.wait_for may lose a cancellation
            for task in running:
                task.cancel()
            _, running = await asyncio.wait(running, timeout=1)
        for pool in (read_pool, add_pool):
            # Each connection is closed with a message, which a silent server never answers.
            with suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_SECONDS):
                    await pool.engine.dispose()
        requests.close()

    app = Starlette(
        routes=ROUTES,
        middleware=[
            Middleware(SecurityHeaders, reject=reject, requests=requests),
            Middleware(KnownHost, hosts=settings.hosts, reject=reject),
            Middleware(SameOrigin, reject=reject),
        ],
        exception_handlers=dict.fromkeys(errors.EXPECTED, respond_to_exception),
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False
    return Prepared(app, partial(find_prepared, board), settings.hosts, requests)


def find_prepared(board: Board, scope: Scope) -> tuple[Head, bytes] | None:
    """The prepared response to a request, with the body that its view would send, or None. Raises NoBoard."""
    path, query = scope["path"], scope["query_string"]
    if path not in {"/", "/board", "/cities/biggest"} or (query and path != "/board"):
        return None
    snapshot = board.snapshot
    if path != "/board":
        return (snapshot.page if path == "/" else snapshot.biggest).choose(scope)
    if query == b"seen=" + snapshot.id.encode():
        return UNCHANGED, b""
    return snapshot.fragment.choose(scope) if SEEN.fullmatch(query) else None


# --- background tasks ---


async def get_ready(url: URL) -> None:
    """Returns when the database is reachable and its schema is current; migrates the schema if this role may.

    An unavailable database does not end the process; /readyz returns 503 until it is available.
    """
    while True:
        try:
            await schema.prepare(url)
        except schema.UnfitDatabase as error:
            log.error(str(error))  # noqa: TRY400 (a traceback adds nothing)
        except Exception as error:
            log.warning("no database yet", exc_info=None if database.is_unavailable(error) else error)
        else:
            return
        await asyncio.sleep(random.uniform(0.5, 1))  # noqa: S311 (not a secret)


async def forget_networks(keys: Recent[tuple[bytes, ...]], pool: Pool) -> None:
    """Reads the keys of the networks every hour, which deletes the old ones even if nobody changes anything."""
    while True:
        with suppress(DatabaseUnavailable):
            async with pool.open() as session:
                await keys.get(session)
        await asyncio.sleep(FORGET_SECONDS)


async def follow_parent() -> None:
    """Terminates this process when its supervisor is gone; returns at once if the process has no supervisor."""
    parent = multiprocessing.parent_process()
    while parent:
        if os.getppid() != parent.pid:
            os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.sleep(0.5)


# --- error responses ---


async def respond_to_exception(request: Request, exception: Exception) -> Response:
    return errors.respond(request.scope, errors.rejection_of(exception))


def reject(scope: Scope, status: int) -> ASGIApp:
    """The error response to a request that a middleware rejects."""
    sentence = errors.WRONG_HOST if status == 400 else ""  # noqa: PLR2004 (the only 400 of the middleware)
    return errors.respond(scope, Rejection(status, sentence))
