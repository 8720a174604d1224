"""The rate limit of changes per client network: one statement, exact across processes and machines."""

import hashlib
import hmac
import ipaddress
import time

from sqlalchemy import text

from cityweb.postgres.database import Session, unit_of_work

REMEMBERED_MAX = 10_000
"""Rejected client networks that a process remembers, so that a flood from them does not reach the pool."""
REMEMBERED_SECONDS = 60.0
"""The longest time that a process remembers a rejection."""
SWEEP_SECONDS = 60
"""The interval at which a process deletes expired rows."""

# The generic cell rate algorithm (ITU-T I.371, annex A) with two theoretical arrival times, `minute` and `hour`. A
# rejected change does not change its row, so that a retry does not extend the wait.
CHARGE = text("""
WITH charged AS (
  INSERT INTO adds AS a (address, minute, hour)
  VALUES (
    :address, clock_timestamp() + make_interval(secs => :gap), clock_timestamp() + make_interval(secs => :hour_gap)
  )
  ON CONFLICT (address) DO UPDATE SET
    minute = least(
      greatest(a.minute, clock_timestamp()) + make_interval(secs => :gap),
      clock_timestamp() + make_interval(secs => :span)
    ),
    hour = least(
      greatest(a.hour, clock_timestamp()) + make_interval(secs => :hour_gap),
      clock_timestamp() + make_interval(secs => 3600)
    )
  WHERE a.minute NOT BETWEEN clock_timestamp() + make_interval(secs => :span) - make_interval(secs => :gap)
                         AND clock_timestamp() + make_interval(secs => :span)
    AND a.hour NOT BETWEEN clock_timestamp() + make_interval(secs => 3600) - make_interval(secs => :hour_gap)
                       AND clock_timestamp() + make_interval(secs => 3600)
  RETURNING 1
)
SELECT CASE WHEN EXISTS (SELECT FROM charged) THEN 0 ELSE coalesce((
  SELECT greatest(1, ceil(extract(epoch FROM greatest(
    least(minute - make_interval(secs => :span), clock_timestamp()) + make_interval(secs => :gap),
    least(hour - make_interval(secs => 3600), clock_timestamp()) + make_interval(secs => :hour_gap)
  ) - clock_timestamp()))) FROM adds WHERE address = :address), 1) END::int
""")
SWEEP = text("DELETE FROM adds WHERE greatest(minute, hour) < clock_timestamp()")
SALT = text("SELECT salt FROM salts")


class RateLimited(Exception):
    """A client network has changed too much; it may change something again after `seconds`."""

    def __init__(self, seconds: int) -> None:
        super().__init__(seconds)
        self.seconds = seconds


class Limiter:
    """Limits the changes of a client network: `burst` at once, then `per_minute`, and at most `per_hour`."""

    def __init__(self, burst: int, per_minute: int, per_hour: int) -> None:
        self.remembered_max, self.remembered_seconds = REMEMBERED_MAX, REMEMBERED_SECONDS
        self._limits = {"gap": 60 / per_minute, "span": burst * 60 / per_minute, "hour_gap": 3600 / per_hour}
        self._salt = b""
        self._rejected: dict[bytes, tuple[float, float]] = {}
        """The end of the rejection of a client network, and the time until which it is remembered."""
        self._next_sweep = 0.0

    async def charge(self, session: Session, client_ip: str, *, is_revert: bool = False) -> None:
        """Counts a change of this client IP. Raises RateLimited if it may not change anything now.

        Reverts have a budget of the same size of their own: a vandal in a school does not use up that of other pupils.
        Raises DatabaseUnavailable.
        """
        network = network_of(client_ip) + (b"revert" if is_revert else b"")
        now = time.monotonic()
        until, remembered_until = self._rejected.get(network, (0.0, 0.0))
        if remembered_until > now:
            raise RateLimited(max(1, round(until - now)))
        self._salt = self._salt or await _read_salt(session)
        # Hashed with a salt, so that the table does not reveal client IPs.
        key = hmac.digest(self._salt, network, hashlib.sha256)
        is_sweep_due = now > self._next_sweep
        if is_sweep_due:
            self._next_sweep = now + SWEEP_SECONDS
        if seconds := await _charge(session, {**self._limits, "address": key}, sweep=is_sweep_due):
            if len(self._rejected) >= self.remembered_max:
                self._rejected.clear()
            self._rejected[network] = (now + seconds, now + min(seconds, self.remembered_seconds))
            raise RateLimited(seconds)


@unit_of_work
async def _read_salt(session: Session) -> bytes:
    return bytes(await session.scalar(SALT))


@unit_of_work
async def _charge(session: Session, parameters: dict[str, object], *, sweep: bool) -> int:
    """The number of seconds to wait. If the connection breaks, a second try may count the change twice."""
    seconds = int(await session.scalar(CHARGE, parameters))
    if sweep:
        await session.execute(SWEEP)
    return seconds


def network_of(client_ip: str) -> bytes:
    """The client network of a client IP: an IPv4 address, even if mapped to IPv6, or the /48 of an IPv6 address.

    A provider may give one customer a whole /48 (RFC 6177). The /48 of a 6to4 address is one IPv4 address (RFC 3056).
    The result is empty if `client_ip` is not an IP address.
    """
    try:
        parsed = ipaddress.ip_address(client_ip.partition("%")[0])
    except ValueError:
        return b""
    if isinstance(parsed, ipaddress.IPv6Address):
        parsed = parsed.ipv4_mapped or parsed
    return parsed.packed[:6] if isinstance(parsed, ipaddress.IPv6Address) else parsed.packed
