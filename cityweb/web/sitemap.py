"""The sitemap of the board, the list and the 1,000 biggest cities, as a prepared response."""

import math
import time

from cityweb.postgres import spelling
from cityweb.postgres.database import Session
from cityweb.web.prepared import PreparedResponse
from cityweb.web.templates import Templates

CITIES_MAX = 1_000
SITEMAP_SECONDS = 60


class Sitemap:
    """The sitemap of one process; its cities are read at most once a minute."""

    def __init__(self, templates: Templates) -> None:
        self.seconds = SITEMAP_SECONDS
        self._templates = templates
        self._response: PreparedResponse | None = None
        self._read_at = -math.inf

    async def prepare(self, session: Session) -> PreparedResponse:
        """The response, which is at most a minute old. Raises DatabaseUnavailable."""
        if self._response is None or time.monotonic() - self._read_at > self.seconds:
            cities = (await spelling.biggest(session))[:CITIES_MAX]
            document = self._templates.render("sitemap.xml", cities=cities)
            self._response = PreparedResponse(
                document.encode(), "application/xml", {"cache-control": "public, max-age=60"}
            )
            self._read_at = time.monotonic()
        return self._response
