"""The demo on a server of its own, and the installed Chromium, for the scripts that look at pages."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TOP = Path(__file__).parent.parent


@contextmanager
def serving() -> Iterator[str]:
    """Serves the demo, without rate limits, from a database of its own. Yields the URL, with a slash at its end."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "DATABASE_URL": "", "CITYWEB_DATA": folder, "CITYWEB_RATE_LIMIT": "off"}
        manage = [sys.executable, "manage.py"]
        subprocess.run([*manage, "demo"], cwd=TOP, env=environment, check=True, stdout=subprocess.DEVNULL)
        serve = [*manage, "runserver", "--port", "0"]
        with subprocess.Popen(
            serve, cwd=TOP, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        ) as server:
            try:
                yield re.findall(r"http://\S+", server.stdout.readline())[0]
            finally:
                server.terminate()


def find_chromium() -> str:
    """The path of Chromium. Exits with a message if none is installed."""
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    return found or sys.exit("No Chromium is installed: install one and try again.")
