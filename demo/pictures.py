"""Takes the pictures of the README and of shared links from a site with the demo, and makes the icons from the SVG."""

import struct

from playwright.sync_api import Browser, sync_playwright

from demo.site import TOP, find_chromium, serving

STATIC = TOP / "static"
PICTURES = {
    "docs/board.png": {"viewport": {"width": 1280, "height": 800}},
    "docs/board-dark.png": {"viewport": {"width": 1280, "height": 800}, "color_scheme": "dark"},
    "docs/board-phone.png": {"viewport": {"width": 390, "height": 844}},
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
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=["--no-sandbox"])
        make_icons(browser)
        with serving() as url:
            take_pictures(browser, url)


def take_pictures(browser: Browser, url: str) -> None:
    """Writes the pictures of the board at a URL."""
    for name, options in PICTURES.items():
        page = browser.new_page(**options)
        page.goto(url, wait_until="networkidle")
        if name == "static/share.png":
            page.evaluate(SHARE)
        (TOP / name).write_bytes(page.screenshot())


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
    (STATIC / "apple-touch-icon.png").write_bytes(page.screenshot())


if __name__ == "__main__":
    main()
