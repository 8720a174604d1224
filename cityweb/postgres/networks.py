"""The authors of changes: the codes of client networks in the log of changes, and the blocks of networks and names.

A code is a keyed hash. The key is deleted after 30 days, and then the code cannot be matched to a network any more.
"""

import base64
import hashlib
import hmac
import secrets
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from cityweb.postgres.database import Session, unit_of_work

CODE_BYTES = 16
KEY_DAYS = 30
"""The age in days at which a key is deleted."""
KEYS_COMPARED = 3
"""From how many days a request has codes. A block of 24 hours after a change of yesterday needs three."""
# The day is that of the database, because all processes share its clock.
TODAY = "CAST(now() AT TIME ZONE 'UTC' AS date)"
KEYS = text(f"""
SELECT key, day = {TODAY} AS is_of_today FROM network_keys
WHERE day > {TODAY} - {KEYS_COMPARED} ORDER BY day DESC
""")  # noqa: S608 (no value is put in)
NEW_KEY = text(f"INSERT INTO network_keys (day, key) VALUES ({TODAY}, :key) ON CONFLICT DO NOTHING")  # noqa: S608
FORGET = text(f"DELETE FROM network_keys WHERE day <= {TODAY} - {KEY_DAYS}")  # noqa: S608 (no value is put in)


@unit_of_work
async def keys(session: Session) -> tuple[bytes, ...]:
    """The keys of today and of the two days before, if there are any.

    Creates today's key if it is missing, and then deletes the keys that are at least 30 days old.
    """
    rows = (await session.execute(KEYS)).all()
    if not (rows and rows[0].is_of_today):
        # In this order: if the connection breaks in between, the second try does both.
        await session.execute(FORGET)
        await session.execute(NEW_KEY, {"key": secrets.token_bytes(32)})
        rows = (await session.execute(KEYS)).all()
    return tuple(row.key for row in rows)


def codes(keys: tuple[bytes, ...], network: bytes) -> tuple[bytes, ...]:
    """The codes of a client network, today's first; none for an unknown network, which is empty."""
    return tuple(hmac.digest(key, network, hashlib.sha256)[:CODE_BYTES] for key in keys if network)


def contributor(code: bytes) -> str:
    """What the log shows of a code: five characters, the same for all changes of a network on a day."""
    return base64.b32encode(code).decode()[:5].lower()


@dataclass(frozen=True)
class Author:
    """The author of a change: a visitor, known by the `codes` of the client network, or an operator."""

    codes: tuple[bytes, ...] = ()
    is_operator: bool = False
    reason: str | None = None

    @property
    def parameters(self) -> dict[str, object]:
        """The parameters of the statements that change a city."""
        return {"codes": list(self.codes), "operator": self.is_operator, "reason": self.reason}


ANYBODY = Author()
"""A visitor of an unknown network."""

# --- blocks ---

CODES = "CAST(:codes AS bytea[])"
BLOCK = f"""
SELECT until FROM blocks
WHERE (until IS NULL OR until > clock_timestamp())
  AND NOT CAST(:operator AS boolean) AND (network = ANY({CODES}) OR name_key = CAST(:new_name_key AS text))
"""  # noqa: S608 (no value is put in)
"""The blocks that apply to a change: of the network, and of the name unless it is null. None applies to an operator."""


class Blocked(Exception):
    """The network may not change anything until a time, or the name may not be stored; then the time is None."""

    def __init__(self, until: datetime | None) -> None:
        super().__init__(until)
        self.until = until


async def reject_blocked(connection: AsyncConnection | AsyncSession, author: Author, name_key: object = None) -> None:
    """Raises Blocked if the author is blocked, or may not store this name."""
    found = (await connection.execute(text(BLOCK), {**author.parameters, "new_name_key": name_key})).first()
    if found:
        raise Blocked(found.until)
