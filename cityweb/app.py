"""The application, put together: routes, middleware, error pages, lifespan."""

import asyncio
import gc
import logging
import multiprocessing
import os
import random
import resource
import signal
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from operator import attrgetter
from types import FrameType

from sqlalchemy.ext.asyncio import async_sessionmaker
from starlette.applications import Starlette
from starlette.convertors import IntegerConvertor, register_url_convertor
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Scope

from cityweb import database, errors, html, settings, views
from cityweb.answers import Answer
from cityweb.assets import Assets
from cityweb.board import Board, NoBoard
from cityweb.errors import Refusal
from cityweb.exports import Exports
from cityweb.limits import Limiter
from cityweb.log import Requests
from cityweb.middleware import Drawn, KnownHost, SameOrigin, SecurityHeaders, SessionMiddleware
from cityweb.models import BOARD_SIZE
from cityweb.settings import Settings
from cityweb.streams import Full, Streams, TooManyFromAddress

log = logging.getLogger("cityweb")

View = Callable[[Request[views.State]], Awaitable[ASGIApp]]


def by_method(*, get: View, post: View) -> View:
    """One view of an address that is read and added to."""

    async def view(request: Request[views.State]) -> ASGIApp:
        return await (post if request.method == "POST" else get)(request)

    return view


ID_DIGITS = 10


class CityId(IntegerConvertor):
    """The id of a city in a path; more than ten digits, of which `int` may refuse to read thousands, are no city's."""

    def convert(self, value: str) -> int:
        """The id, or one that is too big."""
        return int(value) if len(value) <= ID_DIGITS else 10**ID_DIGITS


register_url_convertor("city_id", CityId())

CITIES = by_method(get=views.list_cities, post=views.add_city)
BOTH = ("GET", "POST")
# fmt: off
ROUTES = [
    Route("/cities/{id:city_id}", views.show_city),
    Route("/",                    views.show_board),
    Route("/cities",              CITIES,             methods=BOTH, name="list_cities"),
    Route("/cities/",             CITIES,             methods=BOTH, name="add_city"),
    Route("/cities/biggest",      views.list_biggest),
    Route("/cities/{id:city_id}.json", views.show_city_json),
    Route("/cities.csv",          views.export_csv),
    Route("/cities.json",         views.export_json),
    Route("/feed.atom",           views.show_feed),
    Route("/api",                 views.explain_api),
    Route("/openapi.json",        views.describe_api),
    Route("/events",              views.stream_board),
    Route("/livez",               views.say_alive),
    Route("/readyz",              views.say_ready),
    Route("/static/{name}",       views.show_asset),
]
# fmt: on
DRAWN = {"/": attrgetter("page"), "/cities/biggest": attrgetter("biggest")}
"""The addresses whose answer is a drawn one, while there is one of now."""
FILES_TO_SPARE = 256
"""Descriptors that the streams leave to everything else."""
ANSWERED = (Refusal, HTTPException, NoBoard, Full, TooManyFromAddress, ClientDisconnect)


def from_environment() -> Starlette:
    """The application as its environment describes it: what a server calls."""
    app = create(settings.read(os.environ))
    # What is there now stays: a full collection that walked all of it would stop every answer for some 40 ms.
    gc.collect()
    gc.freeze()
    return app


def create(settings: Settings) -> Starlette:
    """The application. Its `database_url` must be set: only `server.py` knows the embedded server."""
    assert settings.database_url and settings.listen_url  # noqa: PT018, S101 (said above)
    engine = database.make_engine(settings.database_url)
    add_engine = database.make_engine(settings.database_url, database.ADD_CONNECTIONS)
    sessions = async_sessionmaker(add_engine, expire_on_commit=False)
    assets = Assets()
    open_files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    streams = Streams(settings.streams_per_address, min(settings.streams_per_process, open_files - FILES_TO_SPARE))
    board = Board(engine, streams)
    exports = Exports(partial(database.connect_exporter, settings.listen_url))
    limit = settings.rate_limit
    limiter = limit and Limiter(add_engine, limit.burst, limit.per_minute, limit.per_hour)
    requests = Requests()
    closing: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[dict[str, object]]:  # noqa: ARG001 (Starlette's signature)
        ready = asyncio.create_task(stay_ready(settings, board))
        following = asyncio.create_task(follow_parent())
        with ending_at_signals(streams):
            yield {
                "assets": assets,
                "board": board,
                "drawn": outermost,
                "engine": engine,
                "exports": exports,
                "limiter": limiter,
                "streams": streams,
            }
        streams.close()
        pending = {ready, following}
        while pending:  # a cancellation may get lost on its way, in asyncio.wait_for before Python 3.12
            for task in pending:
                task.cancel()
            _, pending = await asyncio.wait(pending, timeout=1)
        await asyncio.gather(*closing, board.close(), return_exceptions=True)
        await engine.dispose()
        await add_engine.dispose()
        requests.close()

    def drawn(path: str) -> Answer | None:
        return DRAWN[path](board.drawn) if path in DRAWN and board.drawn else None

    app = Starlette(
        routes=ROUTES,
        middleware=[
            Middleware(SecurityHeaders, refuse=refuse, requests=requests),
            Middleware(KnownHost, hosts=settings.hosts, refuse=refuse),
            Middleware(SameOrigin, refuse=refuse),
            Middleware(SessionMiddleware, sessions=sessions, closing=closing),
        ],
        exception_handlers=dict.fromkeys(ANSWERED, answer_exception),
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False
    # Outside of Starlette's own error middleware, which a drawn answer has no need of.
    app.middleware_stack = outermost = Drawn(app.build_middleware_stack(), drawn, settings.hosts, requests)
    # Starlette's own looks through the routes: a page of the list has dozens of addresses.
    addresses = {route.name: route.path_format for route in ROUTES}

    def url_for(name: str, /, **parts: object) -> str:
        return addresses[name].format(**parts)

    html.set_globals(
        url_for=url_for,
        asset=lambda name: f"{url_for('show_asset', name=name)}?v={assets.fingerprints[name]}",
        board_size=BOARD_SIZE,
        origin=settings.origin,
    )
    return app


# --- while it runs ---


async def stay_ready(settings: Settings, board: Board) -> None:
    """Waits for the database, brings its schema up to date where that is ours to do, and listens, for good.

    A database that is away at the start is no reason to die: until it comes, /readyz says 503.
    """
    assert settings.database_url and settings.listen_url  # noqa: PT018, S101 (create() has said so)
    while True:
        try:
            await database.prepare(settings.database_url)
            break
        except (database.Unsafe, database.OldSchema) as error:
            log.error(str(error))  # noqa: TRY400 (the sentence says all)
        except Exception as error:
            log.warning("no database yet", exc_info=None if database.unavailable(error) else error)
        await asyncio.sleep(random.uniform(0.5, 1))  # noqa: S311 (no secret)
    await board.listen(partial(database.connect_listener, settings.listen_url))


async def follow_parent() -> None:
    """Stops this process when the supervisor that started it is gone; a single process follows nobody."""
    parent = multiprocessing.parent_process()
    while parent:
        if os.getppid() != parent.pid:
            os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.sleep(0.5)


@contextmanager
def ending_at_signals(streams: Streams) -> Iterator[None]:
    """Ends the streams at the first stop signal: before the lifespan ends, the server waits for them without limit."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def stop(number: int, frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(streams.close)
        handler = before[signal.Signals(number)]
        if callable(handler):
            handler(number, frame)

    for number in before:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# --- what is refused ---


async def answer_exception(request: Request, exception: Exception) -> Response:
    """The answer to an exception that is no bug."""
    match exception:
        case Refusal():
            refusal = exception
        case HTTPException(status_code=status, headers=headers):
            refusal = Refusal(status, headers=headers or {})
        case NoBoard():
            refusal = errors.no_board()
        case Full():
            refusal = Refusal(503, errors.STREAMS_FULL)
        case TooManyFromAddress():
            refusal = Refusal(429, errors.TOO_MANY_STREAMS)
        case _:
            refusal = Refusal(400)
    return errors.answer(request.scope, refusal)


def refuse(scope: Scope, status: int) -> ASGIApp:
    """The answer of a middleware that refuses a request."""
    sentence = errors.WRONG_HOST if status == 400 else ""  # noqa: PLR2004 (the one 400 that middleware gives)
    return errors.answer(scope, Refusal(status, sentence))
