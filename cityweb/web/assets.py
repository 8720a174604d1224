"""Static files: read and compressed once, each under a URL that changes with its bytes."""

import hashlib
from pathlib import Path

from cityweb import settings
from cityweb.web.prepared import PreparedResponse

STATIC = settings.TOP / "static"
KINDS = {
    ".css": "text/css; charset=utf-8",
    ".ico": "image/x-icon",
    ".js": "text/javascript; charset=utf-8",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
}
"""Not `mimetypes`, which depends on the machine: with `nosniff`, a wrong type blocks a script."""
VENDORED = {"htmx-4.0.1.min.js": "a0abb04f2f45a1f89d1d4844023245537e5e6014c87b144553e0607b4cc32130"}
"""The SHA-256 of each third-party file, as reviewed."""
IMMUTABLE = "public, max-age=31536000, immutable"


class Assets:
    """The files of `static/` as prepared responses, all in memory: a few dozen kilobytes."""

    def __init__(self, folder: Path = STATIC) -> None:
        self.fingerprints: dict[str, str] = {}
        self._responses: dict[tuple[str, str], PreparedResponse] = {}
        for file in folder.iterdir():
            body = file.read_bytes()
            fingerprint = self.fingerprints[file.name] = hashlib.sha256(body).hexdigest()[:12]
            kind = KINDS.get(file.suffix, "application/octet-stream")
            self._responses[file.name, fingerprint] = PreparedResponse(body, kind, {"cache-control": IMMUTABLE})
            self._responses[file.name, ""] = PreparedResponse(body, kind, {"cache-control": "no-cache"})

    def find(self, name: str, fingerprint: str) -> PreparedResponse | None:
        """The file, or None. With its current fingerprint it is immutable; otherwise caches must revalidate it."""
        return self._responses.get((name, fingerprint)) or self._responses.get((name, ""))
