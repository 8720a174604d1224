"""The ceiling: Starlette with a constant response of BENCH_BYTES bytes."""

import os

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

ANSWER = Response(b"x" * int(os.environ["BENCH_BYTES"]), media_type="text/html")


async def answer(request: Request) -> Response:  # noqa: ARG001 (a view)
    """The constant response."""
    return ANSWER


app = Starlette(routes=[Route("/", answer)])
