"""What every change by a visitor needs: an author, the rate limit, the database, and a board that shows it."""

from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import TypeVar

from starlette.requests import Request

from cityweb.postgres.changes import OnBoard
from cityweb.postgres.database import DatabaseUnavailable, unit_of_work
from cityweb.postgres.networks import Blocked
from cityweb.postgres.rate_limit import RateLimited
from cityweb.web import errors
from cityweb.web.errors import Rejection
from cityweb.web.state import State, client_ip, read_author

OFF_RETRY_SECONDS = 3600
"""The `Retry-After` while corrections are switched off, a guess."""
T = TypeVar("T")


def reject_if_off(request: Request[State]) -> None:
    """Raises Rejection (503) while corrections are switched off."""
    if not request.state["corrections"]:
        raise Rejection(503, errors.CORRECTIONS_OFF, OFF_RETRY_SECONDS)


async def perform(
    request: Request[State],
    change: Callable[..., Coroutine[object, object, T]],
    *arguments: object,
    reason: str | None = None,
    is_revert: bool = False,
) -> T:
    """Makes a change on behalf of the visitor, and waits until the board shows it. Returns what `change` returns.

    Raises Rejection, and of what `change` raises NameTaken, Conflict, NoSuchCity and NotRevertible.
    """
    session, limiter = request.state["session"], request.state["limiter"]
    try:
        author = replace(await read_author(request), reason=reason)
        if limiter:
            await limiter.charge(session, client_ip(request), is_revert=is_revert)
        changed: T = await unit_of_work(change)(session, *arguments, author)
    except RateLimited as limited:
        raise Rejection(429, errors.TOO_MANY_CHANGES, limited.seconds) from limited
    except Blocked as blocked:
        raise Rejection(403, errors.describe_block(blocked)) from blocked
    except OnBoard:
        raise Rejection(422, errors.ON_BOARD) from None
    except DatabaseUnavailable as error:
        raise Rejection(503, errors.CHANGE_UNCONFIRMED) from error
    await request.state["board"].refresh()
    return changed
