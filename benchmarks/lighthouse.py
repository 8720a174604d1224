"""Prints the Lighthouse scores of four pages on mobile and on desktop, and the findings of html-validate."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import httpx

HERE = Path(__file__).parent
PAGES = ("?live=off", "cities", "cities/1", "api")
"""The board without live updates, since a page that polls never becomes idle, the list, a city and the Data page."""
CATEGORIES = ("performance", "accessibility", "best-practices", "seo")
RULES = {
    "extends": ["html-validate:recommended"],
    "elements": ["html5", {"hx-partial": {"flow": True, "permittedContent": ["@flow"]}}],
    "rules": {
        "no-trailing-whitespace": "off",
        "doctype-style": "off",
        "prefer-native-element": "off",
        "valid-autocomplete": "off",  # browsers restore hidden fields too
    },
}


def main() -> int:
    """Starts a server with 20 cities and measures it. Returns 0 if all scores are 100 and the HTML is valid."""
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if not chromium:
        print("No Chromium is installed: install one and try again.")
        return 1
    with tempfile.TemporaryDirectory() as folder:
        server = subprocess.Popen(
            [sys.executable, "manage.py", "runserver", "--port", "0"],
            cwd=HERE.parent,
            env={**os.environ, "CITYWEB_DATA": f"{folder}/var", "CITYWEB_RATE_LIMIT": "off"},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        try:
            assert server.stdout  # noqa: S101 (it is a pipe)
            printed = re.search(r"http://\S+", server.stdout.readline())
            assert printed  # noqa: S101 (the server prints it)
            fill(printed[0])
            scores = [
                measure(printed[0] + path, preset, chromium, Path(folder))
                for path in PAGES
                for preset in ("mobile", "desktop")
            ]
            valid = is_valid(printed[0], folder)
            return 0 if valid and all(score == 100 for row in scores for score in row) else 1
        finally:
            server.terminate()
            server.wait()


def fill(url: str) -> None:
    """Adds 20 cities."""
    for number in range(20):
        httpx.post(
            f"{url}cities/", json={"name": f"City {number}", "population": 1_000_000 * number}
        ).raise_for_status()


def measure(url: str, preset: str, chromium: str, folder: Path) -> list[int]:
    """Prints and returns the four scores."""
    report = folder / f"{preset}.json"
    flags = ["--quiet", "--output=json", f"--output-path={report}", "--chrome-flags=--headless=new --no-sandbox"]
    flags += ["--preset=desktop"] if preset == "desktop" else []
    subprocess.run(
        ["npx", "--no-install", "lighthouse", url, *flags],
        cwd=HERE,
        env={**os.environ, "CHROME_PATH": chromium},
        check=True,
    )
    document = json.loads(report.read_text())
    scores = [round(100 * document["categories"][category]["score"]) for category in CATEGORIES]
    print(url, preset, *(f"{category} {score}" for category, score in zip(CATEGORIES, scores, strict=True)), sep="  ")
    for audit in document["audits"].values():
        if audit["score"] is not None and audit["score"] < 1 and audit["scoreDisplayMode"] == "binary":
            print(f"          {audit['title']}")
    return scores


def is_valid(url: str, folder: str) -> bool:
    """Whether html-validate accepts the pages; prints its findings."""
    (Path(folder) / ".htmlvalidate.json").write_text(json.dumps(RULES))
    for name, path, form in [
        ("page", "?live=off", None),
        ("live", "", None),
        ("rejected", "cities/", {"name": "!", "population": "x"}),
        ("missing", "nothing", None),
        ("list", "cities", None),
        ("found", "cities?q=city", None),
        ("city", "cities/1", None),
        ("data", "api", None),
    ]:
        response = httpx.post(url + path, data=form) if form else httpx.get(url + path)
        (Path(folder) / f"{name}.html").write_text(response.text)
    config = f"{folder}/.htmlvalidate.json"
    done = subprocess.run(
        ["npx", "--no-install", "html-validate", "--config", config, *map(str, sorted(Path(folder).glob("*.html")))],
        cwd=HERE,
        check=False,
    )
    print("html-validate:", "nothing found" if done.returncode == 0 else "see above")
    return done.returncode == 0


if __name__ == "__main__":
    sys.exit(main())
