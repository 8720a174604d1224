"""The settings, read from the environment and checked when a process starts (docs/settings.md)."""

import ipaddress
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from platformdirs import user_data_path
from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

PACKAGE = Path(__file__).parent
IS_CHECKOUT = not (PACKAGE / "templates").exists()
TOP = PACKAGE.parent if IS_CHECKOUT else PACKAGE
"""The folder of `templates`, `static` and `demo`; an installed package contains them (pyproject.toml)."""
COMMAND = "python manage.py" if IS_CHECKOUT else "cityweb"
"""The program name in messages that tell the operator to run a command."""


class OperatorError(Exception):
    """What the operator asked for is not possible; the message is one sentence, which says why and what to do."""


@dataclass(frozen=True)
class RateLimit:
    """The number of adds per client network: `burst` at once, then `per_minute`, and at most `per_hour`."""

    burst: int
    per_minute: int
    per_hour: int


@dataclass(frozen=True)
class Settings:
    """The settings of one process, described in docs/settings.md."""

    database_url: URL | None
    folder: Path
    hosts: tuple[str, ...]
    trusted_proxies: tuple[str, ...]
    rate_limit: RateLimit | None
    corrections: bool
    contact: str
    echo: bool
    listening: str

    @property
    def public_name(self) -> str:
        """The first public name in `hosts`; empty if there is none."""
        return next((host for host in self.hosts if PUBLIC_NAME.fullmatch(host)), "")

    @property
    def origin(self) -> str:
        """The scheme and host of absolute URLs: of the public name, or where the server listens."""
        return f"https://{self.public_name}" if self.public_name else self.listening


LISTENING = "_CITYWEB_LISTENING"
"""Not a setting: `runserver` tells its processes where it listens."""
GONE = ("CITYWEB_LISTEN_URL", "CITYWEB_STREAMS")
"""Settings of earlier versions, which no longer have any effect."""
PUBLIC_NAME = re.compile(r"[a-z0-9-]+(\.[a-z0-9-]+)*\.[a-z][a-z0-9-]+")


def read(environment: Mapping[str, str]) -> Settings:
    """The settings in an environment. Raises OperatorError if one is invalid."""
    return Settings(
        database_url=_read_database_url(environment, "DATABASE_URL"),
        folder=_read_folder(environment),
        hosts=_read_hosts(environment),
        trusted_proxies=_read_proxies(environment),
        rate_limit=_read_rate_limit(environment),
        corrections=_read_corrections(environment),
        contact=_read_contact(environment),
        echo=environment.get("CITYWEB_ECHO", "").strip() not in {"", "0"},
        listening=environment.get(LISTENING, "http://localhost:8000"),
    )


def _read_database_url(environment: Mapping[str, str], name: str) -> URL | None:
    text = environment.get(name, "").strip()
    if not text:
        return None
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        url = None
    if url is None or url.drivername not in {"postgresql", "postgres", "postgresql+asyncpg"}:
        raise OperatorError(f"{name} is not the address of a PostgreSQL server: write postgresql://user@host/database.")
    for parameter, value in url.query.items():
        pattern = PARAMETERS.get(parameter)
        if pattern is None:
            raise OperatorError(f"{name} has the unknown parameter {parameter}: write {', '.join(PARAMETERS)}.")
        if not isinstance(value, str) or not re.fullmatch(pattern, value):
            raise OperatorError(f"{name} has a wrong value of {parameter}: docs/settings.md says what to write.")
        if parameter in FILES and not _is_readable(value):
            raise OperatorError(f"{name} has {parameter}={value}, which is not a readable file: write its whole path.")
    return url.set(drivername="postgresql+asyncpg")


def _is_readable(path: str) -> bool:
    try:
        return Path(path).is_file() and os.access(path, os.R_OK)
    except OSError:  # a path that is too long, or a folder that this account may not enter
        return False


FILES = ("sslrootcert", "sslcert", "sslkey", "sslcrl", "passfile")
PARAMETERS = {
    "host": r"[^,:\[]+",
    "port": "[1-9][0-9]{0,4}",
    "sslmode": "disable|allow|prefer|require|verify-ca|verify-full",
    **dict.fromkeys(FILES, ".+"),
    "ssl_min_protocol_version": r"TLSv1\.[23]",
    "application_name": ".+",
    "options": ".+",
}
"""The allowed parameters of a database URL: the libpq names that asyncpg reads, with patterns for their values.

asyncpg sends any other parameter to the server as a setting, and the server rejects the connection.
"""


def _read_folder(environment: Mapping[str, str]) -> Path:
    folder = environment.get("CITYWEB_DATA", "").strip()
    try:
        return Path(folder or DEFAULT_FOLDER).expanduser().absolute()
    except RuntimeError:
        raise OperatorError(f"CITYWEB_DATA is {folder}, but no account has that name: write a whole path.") from None


DEFAULT_FOLDER = TOP / "var" if IS_CHECKOUT else user_data_path("cityweb")


def _read_hosts(environment: Mapping[str, str]) -> tuple[str, ...]:
    hosts = _read_list(environment, "CITYWEB_HOSTS")
    for host in hosts:
        if not HOST.fullmatch(host):
            raise OperatorError(
                f"CITYWEB_HOSTS has {host}, which is not the name of a host:"
                " write names without scheme and port, like example.com,*.example.com,[::1]."
            )
    return hosts or LOCAL_HOSTS


LOCAL_HOSTS = ("localhost", "127.0.0.1", "[::1]")
HOST = re.compile(r"\*|(\*\.)?[a-z0-9._-]+|\[[0-9a-f:.]+\]")


def _read_list(environment: Mapping[str, str], name: str) -> tuple[str, ...]:
    return tuple(part.strip().lower() for part in environment.get(name, "").split(",") if part.strip())


def _read_proxies(environment: Mapping[str, str]) -> tuple[str, ...]:
    proxies = _read_list(environment, "CITYWEB_TRUSTED_PROXIES")
    for proxy in proxies:
        try:
            matches_all = ipaddress.ip_network(proxy).prefixlen == 0
        except ValueError:
            raise OperatorError(
                f"CITYWEB_TRUSTED_PROXIES has {proxy}, which is not an address or a network:"
                " write the addresses of your own proxies, like 10.0.0.2,10.1.0.0/16."
            ) from None
        if matches_all:
            raise OperatorError(
                f"CITYWEB_TRUSTED_PROXIES has {proxy}, and then every visitor could claim any address:"
                " write the addresses of your own proxies, like 10.0.0.2,10.1.0.0/16."
            )
    return proxies


def _read_rate_limit(environment: Mapping[str, str]) -> RateLimit | None:
    text = environment.get("CITYWEB_RATE_LIMIT", "").strip() or "10,10,60"
    if text.lower() == "off":
        return None
    if not (counts := COUNTS.fullmatch(text)):
        raise OperatorError(
            f"CITYWEB_RATE_LIMIT is {text}: write BURST,PER_MINUTE,PER_HOUR as whole numbers above zero, like 10,10,60."
        )
    return RateLimit(*map(int, counts.groups()))


COUNTS = re.compile(r"\s*,\s*".join(3 * ["([1-9][0-9]{0,8})"]))


def _read_corrections(environment: Mapping[str, str]) -> bool:
    """Whether visitors may correct, remove and revert."""
    text = environment.get("CITYWEB_CORRECTIONS", "").strip().lower()
    if text not in {"", "on", "off"}:
        raise OperatorError(f"CITYWEB_CORRECTIONS is {text}: write on or off.")
    return text != "off"


def _read_contact(environment: Mapping[str, str]) -> str:
    """The contact as a URL; empty if none is set."""
    text = environment.get("CITYWEB_CONTACT", "").strip()
    if text and not CONTACT.fullmatch(text):
        raise OperatorError(
            f"CITYWEB_CONTACT is {text}, which is neither an e-mail address nor an https URL:"
            " write security@example.com or https://example.com/contact."
        )
    return f"mailto:{text}" if "@" in text and ":" not in text else text


# Without the characters that HTML escapes, so that it stays the same in every format.
CONTACT = re.compile(
    r"(mailto:)?[\w.+-]+@[\w-]+(\.[\w-]+)+|https://[\w.-]+(:[0-9]+)?(/[\w./?#=+%~@!$:;,-]*)?", re.ASCII
)
