"""The static files: read and compressed once, each at an address that changes with its bytes."""

import hashlib
from pathlib import Path

from cityweb import settings
from cityweb.web.prepared import PreparedResponse

STATIC = settings.TOP / "static"
KINDS = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
}
"""Our own list: what mimetypes says depends on the machine, and with nosniff a wrong type stops a script."""
VENDORED = {"htmx-4.0.1.min.js": "a0abb04f2f45a1f89d1d4844023245537e5e6014c87b144553e0607b4cc32130"}
"""The SHA-256 of what others wrote, as it was reviewed."""
IMMUTABLE = "public, max-age=31536000, immutable"


class Assets:
    """The files of `static/` as ready answers; the whole folder is a few dozen kilobytes."""

    def __init__(self, folder: Path = STATIC) -> None:
        self.fingerprints: dict[str, str] = {}
        self._answers: dict[tuple[str, str], PreparedResponse] = {}
        for file in folder.iterdir():
            body = file.read_bytes()
            fingerprint = self.fingerprints[file.name] = hashlib.sha256(body).hexdigest()[:12]
            kind = KINDS.get(file.suffix, "application/octet-stream")
            self._answers[file.name, fingerprint] = PreparedResponse(body, kind, {"cache-control": IMMUTABLE})
            self._answers[file.name, ""] = PreparedResponse(body, kind, {"cache-control": "no-cache"})

    def find(self, name: str, fingerprint: str) -> PreparedResponse | None:
        """The file; only an address with the right fingerprint may be kept for ever."""
        return self._answers.get((name, fingerprint)) or self._answers.get((name, ""))
