"""The ceiling of P9: one SELECT by primary key and the template of the page, with Starlette and plain asyncpg."""

import os
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import asyncpg
from sqlalchemy import make_url
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from cityweb.postgres import database
from cityweb.postgres.cities import RankedCity
from cityweb.postgres.distribution import COLUMNS, SIZES, Distribution
from cityweb.postgres.history import Change
from cityweb.postgres.ranking import CountryCount
from cityweb.web import app as site
from cityweb.web.board import Form
from cityweb.web.templates import Templates

URL = make_url(os.environ["DATABASE_URL"]).set(drivername="postgresql")
CITY = "SELECT id, name, population, country, created_at FROM cities WHERE id = $1"
CHANGE = "SELECT id, at, city_id, old_population, new_population FROM changes WHERE id = $1"
OTHERS = tuple(RankedCity(n, f"City {n}", 5_000_000 - n, "FR", datetime.now(UTC), n, n) for n in range(1, 51))
FORM = Form(
    {"name": "City 1", "population": "5,000,000", "country": "France", "place": ""},
    shown={"name": "City 1", "population": 5_000_000, "country": "FR"},
)
DISTRIBUTION = Distribution(1, 40_000_000, (41_666,) * COLUMNS)
BY_SIZE = [(low, low and 2 * low, 125_000, "after=5-5") for low in (0, *SIZES)]
COUNTRIES = [CountryCount(code, 10_000) for code in ("US", "CN", "IN", "FR", "MX")]
TEMPLATES = Templates(site.url_for, lambda name: f"/static/{name}?v=0123456789ab")


@asynccontextmanager
async def lifespan(_: Starlette) -> AsyncIterator[dict[str, object]]:
    """A pool of the size of ours, and the highest ids."""
    size = database.READ_CONNECTIONS
    async with asyncpg.create_pool(URL.render_as_string(hide_password=False), min_size=size, max_size=size) as pool:
        last, last_change = await pool.fetchrow("SELECT (SELECT max(id) FROM cities), (SELECT max(id) FROM changes)")
        yield {"pool": pool, "last": last, "last_change": last_change}


async def select(request: Request) -> RankedCity:
    """A city by its primary key."""
    row = await request.state.pool.fetchrow(CITY, random.randint(1, request.state.last))
    return RankedCity(*row, rank=5, rank_in_country=5) if row else OTHERS[0]


async def show_list(request: Request) -> Response:
    """A page of the list with `rows` cities; `?q=` makes it a search."""
    city, rows = await select(request), OTHERS[: request.path_params["rows"]]
    document = TEMPLATES.render(
        "cities.html",
        q=request.query_params.get("q", ""),
        title="All cities by population",
        here="",
        total=1_000_000,
        similar=(),
        country="",
        countries=COUNTRIES,
        sizes=BY_SIZE,
        rows=(city, *rows[1:]) if rows else (),
        previous="",
        next="after=5-5" if len(rows) == len(OTHERS) else "",
    )
    return HTMLResponse(document)


def corrections(lines: int) -> list[Change]:
    """Lines of the log of changes."""
    changed = {"population": 5_000_000}, {"population": 5_000_001}
    author = False, b"0123456789abcdef", True
    return [
        Change(n, datetime.now(UTC), "correct", n, f"City {n}", None, None, None, *author, *changed)
        for n in range(lines, 0, -1)
    ]


async def show_city(request: Request) -> Response:
    """A city between six others, with `lines` changes."""
    lines = request.path_params["lines"]
    return HTMLResponse(
        TEMPLATES.render(
            "city.html",
            above=OTHERS[:3],
            city=await select(request),
            below=OTHERS[3:6],
            rows=OTHERS[:7],
            smaller=999_990,
            total=1_000_000,
            total_in_country=10_000,
            from_here="after=5-5",
            distribution=DISTRIBUTION,
            lines=corrections(lines),
            has_more=lines > 0,
            form=FORM,
            outcome=None,
        )
    )


async def show_changes(request: Request) -> Response:
    """A page of the log of changes."""
    row = await request.state.pool.fetchrow(CHANGE, random.randint(1, request.state.last_change or 1))
    lines = corrections(50)
    if row:
        old, new = ({"population": row[name] or 0} for name in ("old_population", "new_population"))
        lines[0] = lines[0]._replace(id=row["id"], at=row["at"], city_id=row["city_id"], old=old, new=new)
    return HTMLResponse(TEMPLATES.render("changes.html", lines=lines, city=request.path_params["city"], next=5))


async def show_feed(request: Request) -> Response:
    """The feed."""
    cities = (_as_entry(await select(request)), *ENTRIES[1:])
    document = TEMPLATES.render("feed.atom", updated="2026-11-28T00:00:00Z", cities=cities)
    return Response(document, media_type="application/atom+xml")


def _as_entry(city: RankedCity) -> dict[str, object]:
    return {**vars(city), "updated_at": city.created_at}


ENTRIES = [_as_entry(city) for city in OTHERS]

app = Starlette(
    routes=[
        Route("/list/{rows:int}", show_list),
        Route("/city/{lines:int}", show_city),
        Route("/changes/{city:int}", show_changes),
        Route("/feed", show_feed),
    ],
    lifespan=lifespan,
)
