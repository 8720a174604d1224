"""Rules that no linter checks: imports, locked versions, templates, vendored files, vague names, what is measured."""

import ast
import hashlib
import re
import sys
import tomllib
from graphlib import TopologicalSorter
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from cityweb.web import assets
from tests.conftest import unmeasured

pytestmark = unmeasured

TOP = Path(__file__).parent.parent
PROJECT = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]

# --- imports ---

LAYERS = ("cityweb", "postgres", "web", "server", "commands")
"""Each layer imports from itself and from the layers before it."""
LIBRARIES = {
    "alembic": "postgres",
    "asyncpg": "postgres",
    "sqlalchemy": "postgres",
    "starlette": "web",
    "uvicorn": "server",
    "typer": "commands",
}
"""The one layer that imports each library."""
OTHERS = {
    "checkup": {"sqlalchemy"},
    "readiness": {"sqlalchemy"},
    "launch": {"sqlalchemy"},
    "settings": {"sqlalchemy"},
    "app": {"sqlalchemy"},
    "downloads": {"sqlalchemy"},
}
"""Modules of other layers that import a library, for a type or for its errors. This list may only get shorter."""

# Alembic runs the migrations, and `__main__` only calls the commands.
MODULES = sorted(
    {*(TOP / "cityweb").rglob("*.py")} - {TOP / "cityweb/__main__.py"} - {*TOP.glob("**/migrations/**/*.py")}
)


def imports(path: Path) -> set[str]:
    """The modules that a file imports, also in functions: ours by their full names, libraries by their top packages."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("cityweb"):
            for alias in node.names:
                whole = TOP / f"{node.module}.{alias.name}".replace(".", "/")
                found.add(f"{node.module}.{alias.name}" if whole.with_suffix(".py").exists() else str(node.module))
        elif isinstance(node, ast.ImportFrom):
            found.add(str(node.module).partition(".")[0])
        elif isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_a_layer_imports_from_itself_and_from_those_before_it(path: Path) -> None:
    layers = {module.split(".")[-2] for module in imports(path) if module.startswith("cityweb.")}
    assert layers <= set(LAYERS[: LAYERS.index(path.parent.name) + 1])


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_a_library_is_imported_in_one_layer(path: Path) -> None:
    elsewhere = {library for library in imports(path) if LIBRARIES.get(library, path.parent.name) != path.parent.name}
    assert elsewhere == OTHERS.get(path.stem, set())


def test_no_modules_import_each_other() -> None:
    names = {".".join(path.relative_to(TOP).with_suffix("").parts): path for path in MODULES}
    TopologicalSorter({name: imports(path) & set(names) for name, path in names.items()}).prepare()


@pytest.mark.parametrize("path", sorted((TOP / "tests").rglob("test_*.py")), ids=lambda path: path.stem)
def test_no_test_file_imports_from_another(path: Path) -> None:
    assert not re.search(r"^from tests\S*\.test_", path.read_text(), re.MULTILINE)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_no_import_hides_in_a_function(path: Path) -> None:
    functions = [
        node
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    inside = [node for function in functions for node in ast.walk(function)]
    assert not [node for node in inside if isinstance(node, ast.Import | ast.ImportFrom)]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_one_module_makes_engines_and_one_knows_addresses(path: Path) -> None:
    text = path.read_text()
    assert path.stem == "database" or "create_async_engine" not in text
    assert path.stem == "app" or not re.search(r'"/(cities|static|livez|readyz)', text)


# --- locked versions ---

LOCKS = {
    "requirements/base.txt": (),
    "requirements/embedded.txt": ("embedded",),
    "requirements/dev.txt": ("embedded", "dev"),
}


PIN = re.compile(r"^([A-Za-z0-9_.-]+)(?:\[([^]]+)\])?==([^ ;]+)(?: ; [^\\]+?)? \\$", re.MULTILINE)


def locked(name: str) -> dict[str, str]:
    return {canonicalize_name(package): version for package, _, version in PIN.findall((TOP / name).read_text())}


def locked_extras(name: str) -> dict[str, set[str]]:
    pins = PIN.findall((TOP / name).read_text())
    return {canonicalize_name(package): set(filter(None, extras.split(", "))) for package, extras, _ in pins}


def wanted(extras: tuple[str, ...]) -> list[Requirement]:
    texts = [*PROJECT["dependencies"], *(text for extra in extras for text in PROJECT["optional-dependencies"][extra])]
    return [Requirement(text) for text in texts]


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_file_has_what_the_project_asks_for_and_all_that_needs(name: str) -> None:
    pins, extras, seen, todo = locked(name), locked_extras(name), set(), wanted(LOCKS[name])
    while todo:
        requirement = todo.pop()
        key = canonicalize_name(requirement.name)
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        assert key in pins, f"run `make lock`: {name} lacks {requirement}"
        assert requirement.specifier.contains(pins[key], prereleases=True), f"run `make lock`: {requirement}"
        # An older pip treats `coverage[toml]` and a pinned `coverage` as different packages, and fetches the newest.
        assert requirement.extras <= extras[key], f"run `make lock`: {name} lacks the extras of {requirement}"
        if (key, *sorted(requirement.extras)) not in seen:
            seen.add((key, *sorted(requirement.extras)))
            needs = [Requirement(text) for text in distribution(requirement.name).requires or []]
            todo += [need for need in needs if applies(need, requirement.extras)]
    assert {key for key, *_ in seen} >= {canonicalize_name(requirement.name) for requirement in wanted(LOCKS[name])}


def applies(need: Requirement, extras: set[str]) -> bool:
    return not need.marker or any(need.marker.evaluate({"extra": extra}) for extra in {"", *extras})


def test_what_is_installed_is_what_is_locked() -> None:
    pins = locked("requirements/dev.txt")
    installed = {name: distribution(name).version for name in ("starlette", "uvicorn", "sqlalchemy", "asyncpg")}
    assert installed == {name: pins[name] for name in installed}


@pytest.mark.parametrize("name", LOCKS)
def test_every_locked_version_has_hashes_and_no_host_is_named(name: str) -> None:
    text = (TOP / name).read_text()
    blocks = re.split(r"\n(?=\S)", text.strip())
    assert all("--hash=sha256:" in block for block in blocks)
    assert "://" not in text
    assert "index-url" not in text


# --- templates and static files ---

TEMPLATES = sorted((TOP / "templates").iterdir())
FORBIDDEN = {
    "what htmx runs as code": r"hx-on|\bjs:|javascript:|hx-vals|hx-trigger\s*=\s*(\"[^\"]*\[|'[^']*\[)",
    "an inline style": r"<style|\sstyle\s*=",
    "an inline script": r"<script(?![^>]*\ssrc=)|\son[a-z]+\s*=",
    "boosted links": r"hx-boost",
    "unescaped text": r"\|\s*safe\b|autoescape|Markup",
    "a comment that every visitor downloads": r"<!--",
    "a literal address": r"(?:href|src|action|hx-get|hx-post|hx-sse:connect)\s*=\s*[\"'](?!\{\{|#)",
    "the visitor": r"\brequest\b(?!_id)",
}


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: path.name)
@pytest.mark.parametrize("what", FORBIDDEN)
def test_no_template_holds(template: Path, what: str) -> None:
    assert re.findall(FORBIDDEN[what], template.read_text(encoding="utf-8"), re.IGNORECASE) == []


@pytest.mark.parametrize(
    ("what", "sample"),
    [
        ("what htmx runs as code", '<a hx-on:click="x">'),
        ("what htmx runs as code", '<a hx-trigger="click[ctrlKey]">'),
        ("an inline style", '<p style="color:red">'),
        ("an inline script", "<script>x</script>"),
        ("an inline script", '<a onclick="x">'),
        ("boosted links", '<body hx-boost="true">'),
        ("unescaped text", "{{ name | safe }}"),
        ("a comment that every visitor downloads", "<!-- x -->"),
        ("a literal address", '<a href="/cities/">'),
        ("the visitor", "{{ request.url }}"),
    ],
)
def test_the_search_would_find(what: str, sample: str) -> None:
    assert re.search(FORBIDDEN[what], sample, re.IGNORECASE)


def test_there_are_templates_to_search() -> None:
    assert len(TEMPLATES) >= 7


def test_the_vendored_script_is_the_one_that_was_reviewed() -> None:
    for name, reviewed in assets.VENDORED.items():
        assert hashlib.sha256((TOP / "static" / name).read_bytes()).hexdigest() == reviewed


# --- words ---

VAGUE = re.compile(r"utils?|helpers?|manager|data|info|common|misc|core|base", re.IGNORECASE)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_no_name_says_nothing(path: Path) -> None:
    tree = ast.parse(path.read_text())
    named = [
        node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
    ]
    assert not [name for name in [path.stem, *named] if VAGUE.fullmatch(name) and name != "Base"]


# --- coverage ---


def test_an_unmeasured_test_is_not_traced() -> None:
    assert sys.gettrace() is None
