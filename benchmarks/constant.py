"""The ceiling: Starlette answering with the same bytes for ever, as many as BENCH_BYTES says."""

import os

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

ANSWER = Response(b"x" * int(os.environ["BENCH_BYTES"]), media_type="text/html")


async def answer(request: Request) -> Response:  # noqa: ARG001 (a view)
    """Gives the answer that was made once."""
    return ANSWER


app = Starlette(routes=[Route("/", answer)])
