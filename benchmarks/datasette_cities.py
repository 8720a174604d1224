"""A peer: Datasette on the SQLite file of BENCH_SQLITE, in its fast form: immutable, so that rows are counted once."""

import os

from datasette.app import Datasette

# By itself it gives up after a second, which short searches in a million rows take on a slow machine.
settings = {"suggest_facets": False, "sql_time_limit_ms": 10_000}
app = Datasette(immutables=[os.environ["BENCH_SQLITE"]], settings=settings).app()
