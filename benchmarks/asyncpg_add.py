"""A peer: the same INSERT with Starlette and plain asyncpg, and nothing else."""

import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
from sqlalchemy import make_url
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

URL = make_url(os.environ["DATABASE_URL"]).set(drivername="postgresql")
INSERT = """
INSERT INTO cities (name, name_key, name_bare, population) VALUES ($1, $2, $2, $3)
ON CONFLICT DO NOTHING RETURNING id, name, population
"""


@asynccontextmanager
async def lifespan(_: Starlette) -> AsyncIterator[dict[str, object]]:
    """A pool of the size of ours for adds."""
    async with asyncpg.create_pool(URL.render_as_string(hide_password=False), min_size=5, max_size=5) as pool:
        yield {"pool": pool}


async def add(request: Request) -> JSONResponse:
    """Stores a city."""
    city = json.loads(await request.body())
    row = await request.state.pool.fetchrow(INSERT, city["name"], city["name"].casefold(), city["population"])
    return JSONResponse(dict(row), 201)


app = Starlette(routes=[Route("/cities/", add, methods=["POST"])], lifespan=lifespan)
