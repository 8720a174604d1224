"""A database that is reached over TLS, as far as its URL demands it."""

import asyncio
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest
from sqlalchemy import URL

from cityweb.postgres import schema
from cityweb.postgres.database import Pool
from cityweb.server import launch
from cityweb.settings import OperatorError
from tests.conftest import Addresses, assert_one_sentence, csv, open_site, run
from tests.proxy import Proxy

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="only openssl makes certificates here")


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a certificate for localhost, one of another authority, and a file that is no certificate."""
    folder = tmp_path_factory.mktemp("certificates")
    for name in ("localhost", "other"):
        command = (
            "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
        )
        files = ("-addext", "subjectAltName=DNS:localhost", "-keyout", f"{name}.key", "-out", f"{name}.crt")
        subprocess.run([*command.split(), *files], cwd=folder, check=True, capture_output=True)
    (folder / "none.crt").write_text("none")
    return folder


@pytest.fixture
async def secured(empty: Addresses, certificates: Path) -> AsyncIterator[URL]:
    """The database behind TLS: who does not begin it gets no response."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificates / "localhost.crt", certificates / "localhost.key")
    async with Proxy(empty.owner, context) as proxy:
        yield proxy.url.set(password="secret")  # noqa: S106


def demanding(url: URL, certificates: Path, demand: Mapping[str, str], host: str = "127.0.0.1") -> URL:
    """The URL with these parameters."""
    files = {name: str(certificates / file) for name, file in demand.items() if name == "sslrootcert"}
    return url.set(host=host, query={**url.query, **demand, **files})


ROOT = {"sslrootcert": "localhost.crt"}
MET = [
    ("127.0.0.1", {"sslmode": "prefer"}),
    ("127.0.0.1", {"sslmode": "require"}),
    ("127.0.0.1", {"sslmode": "verify-ca", **ROOT}),
    ("localhost", {"sslmode": "verify-full", "ssl_min_protocol_version": "TLSv1.3", **ROOT}),
]


@pytest.mark.parametrize(("host", "demand"), MET, ids=str)
async def test_a_demand_that_is_met_serves_pages_downloads_and_commands(
    secured: URL, certificates: Path, host: str, demand: dict[str, str]
) -> None:
    url = demanding(secured, certificates, demand, host)
    async with open_site(url) as site:
        await schema.prepare(url)
        assert (await site.client.post("/cities/", json={"name": "Tokyo", "population": 5})).status_code == 201
        assert (await site.client.get("/cities.json")).json()[0]["name"] == "Tokyo"
    done = await asyncio.to_thread(run, "dump", DATABASE_URL=url.render_as_string(hide_password=False))
    assert done.stdout == csv(("Tokyo", 5))


NOT_MET = [
    ({"sslmode": "verify-ca", "sslrootcert": "other.crt"}, "certificate"),
    ({"sslmode": "verify-full", **ROOT}, "not valid for '127.0.0.1'"),
    ({"sslmode": "verify-full", "sslrootcert": "none.crt"}, "NO_CERTIFICATE_OR_CRL_FOUND"),
    ({"sslmode": "verify-ca"}, "root.crt"),
]


@pytest.mark.parametrize(("demand", "reason"), NOT_MET, ids=str)
async def test_a_demand_that_is_not_met_is_one_sentence_without_the_password(
    secured: URL, certificates: Path, demand: dict[str, str], reason: str
) -> None:
    url = demanding(secured, certificates, demand).render_as_string(hide_password=False)
    environment = {"DATABASE_URL": url, "HOME": str(certificates)}
    done = await asyncio.to_thread(run, "runserver", "--port", "0", **environment)
    assert_one_sentence(done, "as DATABASE_URL demands", reason)
    assert "secret" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("host", "port", "reason"),
    [("127.0.0.1", None, "does not offer TLS"), ("a..b", 1, "idna"), ("::1", 99_999, "65535")],
)
async def test_a_server_that_cannot_be_what_the_url_says_is_one_sentence(
    empty: Addresses, host: str, port: int | None, reason: str
) -> None:
    async with Proxy(empty.owner) as proxy:
        url = proxy.url.set(host=host, port=port or proxy.url.port).update_query_dict({"sslmode": "require"})
        with pytest.raises(OperatorError, match=reason) as raised, launch.translate_errors(url):
            await schema.prepare(url)
    assert not isinstance(raised.value, launch.Unreachable)


@pytest.mark.parametrize(("given", "name"), [({}, "cityweb"), ({"application_name": "cities"}, "cities")])
async def test_the_server_shows_the_name_that_the_url_gives(empty: Addresses, given: dict[str, str], name: str) -> None:
    url = empty.app.update_query_dict({**given, "options": "-c search_path=public"})
    engine = Pool(url, 1).engine
    async with engine.connect() as connection:
        shown = (await connection.exec_driver_sql("SELECT current_setting('application_name')")).scalar_one()
        path = (await connection.exec_driver_sql("SHOW search_path")).scalar_one()
    await engine.dispose()
    assert (shown, path) == (name, "public")
