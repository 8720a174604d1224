"""The ceiling: Starlette answering with the same bytes for ever, as many as BENCH_BYTES says."""

import os

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

BODY = b"x" * int(os.environ.get("BENCH_BYTES", "9884"))


async def answer(request: Request) -> Response:  # noqa: ARG001 (a view)
    """Gives the constant body."""
    return Response(BODY, media_type="text/html")


app = Starlette(routes=[Route("/", answer)])
