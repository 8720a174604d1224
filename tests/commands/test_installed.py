"""cityweb as it is installed: a wheel in an environment of its own, away from the checkout."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from cityweb import __version__
from tests.conftest import ENVIRONMENT, TOP, serving

NEXT = "99.0.0"


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a wheel is built from, to be changed."""
    sources = tmp_path_factory.mktemp("sources")
    for name in ("cityweb", "templates", "static", "demo"):
        shutil.copytree(TOP / name, sources / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(TOP / name, sources)
    return sources


def build(sources: Path) -> Path:
    """The wheel of these sources."""
    shutil.rmtree(sources / "dist", ignore_errors=True)
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel"]
    subprocess.run(command, cwd=sources, check=True, capture_output=True)
    (wheel,) = (sources / "dist").iterdir()
    return wheel


def installed(environment: Path, *what: str | Path) -> None:
    uv = [sys.executable, "-m", "uv", "--quiet"]
    if not environment.exists():
        subprocess.run([*uv, "venv", environment], check=True)
    subprocess.run([*uv, "pip", "install", "--python", environment, *what], check=True)


async def test_a_wheel_serves_and_its_successor_keeps_the_cities(sources: Path, tmp_path: Path) -> None:
    environment, data = tmp_path / "environment", tmp_path / "data"
    installed(environment, "-r", TOP / "requirements" / "embedded.txt")
    program = environment / "bin" / "cityweb"
    # On Linux; elsewhere the operating system has a folder of its own for what programs keep.
    here = {"XDG_DATA_HOME": str(data), "PYTHONPATH": "", "PYTHONDONTWRITEBYTECODE": ""}  # compiled once, started often
    given = {**os.environ, **ENVIRONMENT, **here, "DATABASE_URL": ""}

    def command(*arguments: str | Path) -> str:
        done = subprocess.run(arguments, env=given, cwd=tmp_path, check=True, capture_output=True, text=True)
        return done.stdout

    def upgrade() -> str:
        installed(environment, "--no-deps", build(sources))
        return command(program, "--version")

    assert upgrade() == f"cityweb {__version__}\n"
    with serving(None, tmp_path / "log", [program]) as start:
        server = start(CITYWEB_DATA="", **here)
        async with httpx.AsyncClient(base_url=server.url) as client:
            added = await client.post("/cities/", json={"name": "Greenhorn", "population": 3})
            assert added.status_code == 201
            page = (await client.get("/")).text
            assets = re.findall(r'(?:href|src)="(/static/[^"]+)"', page)
            assert len(assets) >= 4
            assert {(await client.get(asset)).status_code for asset in assets} == {200}
        assert server.stop() == 0
        assert (data / "cityweb" / "postgres").is_dir()

        init = sources / "cityweb" / "__init__.py"
        init.write_text(init.read_text().replace(__version__, NEXT))
        assert upgrade() == f"cityweb {NEXT}\n"
        server = start(CITYWEB_DATA="", **here)
        async with httpx.AsyncClient(base_url=server.url) as client:
            assert added.json() in [
                {key: city[key] for key in added.json()} for city in (await client.get("/cities.json")).json()
            ]
            assert (await client.get("/openapi.json")).json()["info"]["version"] == NEXT
    assert "Next: cityweb runserver" in command(environment / "bin" / "python", "-m", "cityweb", "demo")
    assert not [line for line in command(program, "check").splitlines() if not line.startswith("ok")]
