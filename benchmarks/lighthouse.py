"""Prints the Lighthouse scores of four pages on mobile and on desktop, and the findings of html-validate."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import httpx

from demo.site import find_chromium, serving

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
    """Returns 0 if all scores are 100 and the HTML is valid."""
    chromium = find_chromium()
    with tempfile.TemporaryDirectory() as folder, serving() as url:
        scores = [
            measure(url + path, preset, chromium, Path(folder)) for path in PAGES for preset in ("mobile", "desktop")
        ]
        valid = is_valid(url, folder)
        return 0 if valid and all(score == 100 for row in scores for score in row) else 1


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
