"""Takes the pictures of the README and of shared links from a site with the demo, and makes the icons from the SVG."""

import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import zlib
from collections import Counter
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

TOP = Path(__file__).parent.parent
STATIC = TOP / "static"
PICTURES = {
    "docs/board.png": {"viewport": {"width": 1280, "height": 800}},
    "docs/board-dark.png": {"viewport": {"width": 1280, "height": 800}, "color_scheme": "dark"},
    "docs/board-phone.png": {"viewport": {"width": 390, "height": 844}, "device_scale_factor": 2},
    "static/share.png": {"viewport": {"width": 800, "height": 420}, "device_scale_factor": 1.5},
}
"""Each picture of the board, with the options of its browser page."""
# The picture of a shared link has only the heading and the top of the board, as it is.
SHARE = """() => {
  const board = document.querySelector('#board'), main = document.querySelector('main');
  board.replaceChildren(board.querySelector('table'));
  main.replaceChildren(main.querySelector('h1'), board);
  document.querySelectorAll('header nav, thead, footer').forEach(element => element.remove());
}"""
# A phone rounds the corners of an icon itself, so its background is that of the icon.
FILL = "() => { document.body.style.background = document.querySelector('rect').getAttribute('fill') }"


def main() -> None:
    """Writes all pictures and icons."""
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if not chromium:
        sys.exit("No Chromium is installed: install one and try again.")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        make_icons(browser)
        environment = {**os.environ, "DATABASE_URL": "", "CITYWEB_DATA": folder}
        subprocess.run([sys.executable, "manage.py", "demo"], cwd=TOP, env=environment, check=True)
        serve = [sys.executable, "manage.py", "runserver", "--port", "0"]
        with subprocess.Popen(
            serve, cwd=TOP, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        ) as server:
            try:
                take_pictures(browser, re.findall(r"http://\S+", server.stdout.readline())[0])
            finally:
                server.terminate()


def take_pictures(browser: Browser, url: str) -> None:
    """Writes the pictures of the board at a URL."""
    for name, options in PICTURES.items():
        page = browser.new_page(**options)
        page.goto(url, wait_until="networkidle")
        if name == "static/share.png":
            page.evaluate(SHARE)
        (TOP / name).write_bytes(reduce_colours(page.screenshot()))


def make_icons(browser: Browser) -> None:
    """Writes the icons that browsers ask for by name."""
    svg = (STATIC / "favicon.svg").read_text()
    page = browser.new_page(viewport={"width": 32, "height": 32})
    page.set_content(f"<style>body {{ margin: 0 }} svg {{ display: block }}</style>{svg}")
    png = page.screenshot(omit_background=True)
    # An icon directory with one entry, of 32 x 32 pixels with 32 bits each, whose image begins at byte 22.
    head = struct.pack("<3H4B2H2I", 0, 1, 1, 32, 32, 0, 0, 1, 32, len(png), 22)
    (STATIC / "favicon.ico").write_bytes(head + png)
    page.set_viewport_size({"width": 180, "height": 180})
    page.evaluate(FILL)
    (STATIC / "apple-touch-icon.png").write_bytes(reduce_colours(page.screenshot()))


def reduce_colours(png: bytes) -> bytes:
    """The screenshot with at most 256 colours: the most frequent ones, with a third of the bytes."""
    width, height, rows = read_rows(png)
    pixels = [[row[x : x + 3] for x in range(0, 3 * width, 3)] for row in rows]
    counted = Counter(pixel for row in pixels for pixel in row)
    palette = [colour for colour, _ in counted.most_common(256)]
    nearest = {
        colour: min(
            range(len(palette)), key=lambda n: sum((a - b) ** 2 for a, b in zip(palette[n], colour, strict=True))
        )
        for colour in counted
    }
    image = b"".join(b"\0" + bytes(nearest[pixel] for pixel in row) for row in pixels)
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)),
        (b"PLTE", b"".join(palette)),
        (b"IDAT", zlib.compress(image, 9)),
        (b"IEND", b""),
    ]
    return png[:8] + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks
    )


def read_rows(png: bytes) -> tuple[int, int, list[bytes]]:
    """Width, height and the rows of a PNG as Chromium writes it: three bytes for each pixel, filtered (RFC 2083, 6)."""
    width, height = struct.unpack(">II", png[16:24])
    chunks, at = {b"IDAT": b""}, 8
    while at < len(png):
        size, name = struct.unpack(">I4s", png[at : at + 8])
        chunks[name] = chunks.get(name, b"") + png[at + 8 : at + 8 + size]
        at += 12 + size
    image, size = zlib.decompress(chunks[b"IDAT"]), 3 * width
    rows, above = [], bytes(size + 3)
    for start in range(0, len(image), size + 1):
        row = bytearray(3) + image[start + 1 : start + 1 + size]
        for x in range(3, size + 3):
            left, up, corner = row[x - 3], above[x], above[x - 3]
            by_distance = min((left, up, corner), key=lambda n: abs(left + up - corner - n))
            row[x] = (row[x] + (0, left, up, (left + up) // 2, by_distance)[image[start]]) % 256
        above = bytes(row)
        rows.append(above[3:])
    return width, height, rows


if __name__ == "__main__":
    main()
