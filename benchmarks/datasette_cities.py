"""A peer: Datasette on the SQLite file of BENCH_SQLITE, immutable, so that rows are counted only once."""

import os

from datasette.app import Datasette

# The default limit is one second, which a short search in a million rows can exceed on a slow machine.
settings = {"suggest_facets": False, "sql_time_limit_ms": 10_000}
app = Datasette(immutables=[os.environ["BENCH_SQLITE"]], settings=settings).app()
