"""The static files: read and compressed once, each at an address that changes with its bytes."""

import hashlib
import mimetypes
from pathlib import Path

from cityweb.answers import Answer

STATIC = Path(__file__).parent.parent / "static"
IMMUTABLE = "public, max-age=31536000, immutable"


class Assets:
    """The files of `static/` as ready answers; the whole folder is a few dozen kilobytes."""

    def __init__(self, folder: Path = STATIC) -> None:
        self.fingerprints: dict[str, str] = {}
        self._answers: dict[tuple[str, str], Answer] = {}
        for file in folder.iterdir():
            body = file.read_bytes()
            fingerprint = self.fingerprints[file.name] = hashlib.sha256(body).hexdigest()[:12]
            kind = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
            if kind.startswith("text/"):
                kind += "; charset=utf-8"
            self._answers[file.name, fingerprint] = Answer(body, kind, {"cache-control": IMMUTABLE})
            self._answers[file.name, ""] = Answer(body, kind, {"cache-control": "no-cache"})

    def find(self, name: str, fingerprint: str) -> Answer | None:
        """The file; only an address with the right fingerprint may be kept for ever."""
        return self._answers.get((name, fingerprint)) or self._answers.get((name, ""))
