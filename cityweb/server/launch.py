"""Implements `runserver`: starts an embedded database if none is configured, then uvicorn in one or more processes."""

import asyncio
import ipaddress
import os
import resource
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress

import uvicorn
from sqlalchemy import URL, make_url
from sqlalchemy.exc import DBAPIError
from uvicorn.supervisors import ChangeReload, Multiprocess

from cityweb import log
from cityweb.postgres import database, embedded, schema
from cityweb.server.protocol import GuardedProtocol
from cityweb.settings import LISTENING, LOCAL_HOSTS, TOP, OperatorError, Settings

BACKLOG = 2048
"""Connections that the kernel queues, so that requests to the printed URL wait until uvicorn has started."""
STOP_SECONDS = 15
"""A backstop: a value below the duration of the slowest request would turn that request into a 500."""
ACCESS = ("28", "3D")
"""The SQLSTATE classes of a wrong password and of a missing database: waiting does not help in either case."""


class Unreachable(OperatorError):
    """The database is temporarily unavailable and may recover by itself."""


@contextmanager
def database_urls(settings: Settings) -> Iterator[tuple[URL, URL]]:
    """The database URLs for the owner and the application, those of an embedded server if none is set."""
    if settings.database_url:
        yield settings.database_url, settings.database_url
    else:
        with embedded.serving(settings.folder) as server:
            yield make_url(server.owner_url), make_url(server.url)


@contextmanager
def translate_errors(url: URL) -> Iterator[None]:
    """Turns expected errors of the database into OperatorError, or into Unreachable if waiting may help."""
    try:
        yield
    except Exception as error:
        if reason := database.wrong_url(error):
            raise OperatorError(
                f"{server_name(url)} cannot be reached as DATABASE_URL demands ({reason}):"
                " correct host, port, sslmode or sslrootcert there, or the server's certificate."
            ) from error
        if isinstance(error, DBAPIError) and (state := database.sqlstate(error)):
            failed = f"{server_name(url)} returned an error: {str(error.orig).rpartition('>: ')[2]}."
            if state.startswith(ACCESS):
                raise OperatorError(f"{failed} Correct DATABASE_URL.") from error
            if state == database.INSUFFICIENT_PRIVILEGE:
                raise OperatorError(f"{failed} Run the command as the role that owns the tables.") from error
            if database.is_unavailable(error):
                raise Unreachable(f"{failed} Fix the cause, and try again.") from error
        elif database.is_unavailable(error):
            raise Unreachable(f"{server_name(url)} does not answer: start it, or correct DATABASE_URL.") from error
        raise


def server_name(url: URL) -> str:
    """The host and port of a database server as the subject of a message, without its password."""
    return f"The PostgreSQL server at {url.host or url.query.get('host')}:{url.port or url.query.get('port', 5432)}"


def run(settings: Settings, *, host: str, port: int, workers: int, reload: bool) -> None:
    """Serves until SIGTERM or SIGINT. Raises OperatorError."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    # SIGTERM must unwind the stack, so that the embedded server is stopped too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with (
        suppress(KeyboardInterrupt),
        closing(bind(host, port)) as listening,
        database_urls(settings) as (owner_url, url),
    ):
        try:
            with translate_errors(url):
                asyncio.run(schema.prepare(owner_url))
        except Unreachable as error:
            print(f"{error} Until then the site is up, and says so.", file=sys.stderr)
        os.environ[LISTENING] = address(listening).rstrip("/")
        os.environ["DATABASE_URL"] = url.render_as_string(hide_password=False)
        config = configure(settings, workers=workers, reload=reload)
        server = uvicorn.Server(config)

        # Until uvicorn installs its handlers, a signal only sets a flag: an exception could be lost in a callback of
        # the garbage collector. SIGINT needs a handler because a shell starts background jobs with SIGINT ignored.
        def stop(*_: object) -> None:
            server.should_exit = True

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, stop)
        print(f"cityweb is at {address(listening)}  (Ctrl+C stops it)", flush=True)
        if settings.hosts == LOCAL_HOSTS and not is_local(listening):
            print(
                "Requests for other host names are rejected: set CITYWEB_HOSTS to your names, like example.com.",
                file=sys.stderr,
            )
        if reload:
            ChangeReload(config, target=server.run, sockets=[listening]).run()
        elif workers > 1:
            Multiprocess(config, sockets=[listening]).run()
        else:
            server.run(sockets=[listening])


def configure(settings: Settings, *, workers: int, reload: bool) -> uvicorn.Config:
    return uvicorn.Config(
        "cityweb.web.app:from_environment",
        factory=True,
        workers=workers,
        reload=reload,
        reload_dirs=[str(TOP)] if reload else None,
        reload_includes=["*.py", "*.html", "*.css", "*.js"] if reload else None,
        http=GuardedProtocol,
        ws="none",
        log_config=log.configuration(echo=settings.echo),
        log_level="warning",
        access_log=False,
        server_header=False,
        # By default, uvicorn trusts 127.0.0.1.
        proxy_headers=bool(settings.trusted_proxies),
        forwarded_allow_ips=list(settings.trusted_proxies),
        timeout_graceful_shutdown=STOP_SECONDS,
    )


def bind(host: str, port: int) -> socket.socket:
    """A listening socket. Raises OperatorError if the port is in use or the host is not one of this machine."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen(BACKLOG)
    except (OSError, OverflowError) as error:
        listening.close()
        raise OperatorError(
            f"Cannot listen on {host}, port {port} ({error}):"
            f" stop what uses it, or try another with --port {port % 65535 + 1}."
        ) from error
    listening.set_inheritable(True)
    return listening


def is_local(listening: socket.socket) -> bool:
    return ipaddress.ip_address(listening.getsockname()[0]).is_loopback


def address(listening: socket.socket) -> str:
    """The URL of the server for a browser on this machine."""
    host, port = listening.getsockname()[:2]
    if host in {"0.0.0.0", "::"}:  # noqa: S104 (compared, not bound)
        host = "localhost"
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"
