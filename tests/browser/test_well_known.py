"""What a browser makes of the files that it asks for by name."""

import pytest
from playwright.async_api import Browser

from tests.browser.conftest import visiting
from tests.conftest import Server

pytestmark = pytest.mark.parametrize("browser", ["chromium"], indirect=True)


async def test_a_browser_may_read_the_manifest_and_finds_no_error_in_it(browser: Browser, server: Server) -> None:
    async with visiting(browser, server.url) as visitor:
        await visitor.open()
        session = await visitor.page.context.new_cdp_session(visitor.page)
        manifest = await session.send("Page.getAppManifest")
        assert manifest["url"] == f"{server.url}/manifest.webmanifest"
        assert manifest["errors"] == []
        assert '"start_url": "/"' in manifest["data"]
