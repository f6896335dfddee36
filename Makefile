# `make help` lists the targets. Those that need Python make .venv first.
.DEFAULT_GOAL := help
SHELL := /bin/sh
PYTHON ?= python3
BIN := .venv/bin

BOTH_SIDES := tests/unit/test_channels.py tests/unit/test_read_frames.py tests/unit/test_write_frames.py \
	tests/integration/test_forwarder.py tests/acceptance/test_main_job.py tests/acceptance/test_bad_input.py \
	tests/acceptance/test_deadly_messages.py tests/faults/test_publisher_faults.py tests/faults/test_worker_faults.py
FAST_PATHS := tests/unit/test_channels.py tests/unit/test_fast_paths.py tests/unit/test_private_names.py \
	tests/unit/test_read_frames.py tests/unit/test_write_frames.py

# For the Python of the Dockerfile.
COMPILE := pip compile --quiet --generate-hashes --no-annotate --python-version 3.13 --constraint constraints.txt \
	--custom-compile-command 'make hashes'

.PHONY: help demo test test-plain-pika test-pika-versions lint types imports check bench bench-growth bench-hosts bench-peers fuzz format clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-20s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: .venv/ready ## Mirror three git repositories and watch the branch table (25 s)
	$(BIN)/python -m demo

.PHONY: play
play: .venv/ready ## Go on mirroring, and print the address of a page that shows it, until Ctrl-C
	$(BIN)/python -m demo --keep

test: .venv/ready $(if $(TESTS),,.venv/browser) ## Run all tests, on a real RabbitMQ and a real PostgreSQL (11 min)
	$(BIN)/python -m sandbox $(if $(TESTS),,--browser)
	$(BIN)/pytest --numprocesses auto --dist loadfile $(TESTS)

.PHONY: bare
bare: .venv/ready ## Try `make demo`, a part of `make test` and docs/install.md on bare Debians, as root (11 min)
	$(BIN)/python -m tests.bare

.PHONY: matrix
matrix: .venv/ready ## Run `make demo` and tests on what each Debian has, as root: CELLS="bookworm sid", WHOLE=1 (2 h)
	$(BIN)/python -m tests.matrix $(if $(WHOLE),--whole) $(CELLS)

test-plain-pika: .venv/ready ## Test both sides as with a pika that they do not know (3 min)
	MIRRORFEED_PIKA=plain $(BIN)/pytest --numprocesses auto --dist loadfile $(BOTH_SIDES)

test-pika-versions: .venv/ready ## Compare the fast paths with each version of pika that they claim (1 min)
	for version in $$($(BIN)/python -c 'from mirrorfeed.amqp.fast_paths import *; print(*COMPARED_VERSIONS)'); do \
		$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --upgrade \
			--target .venv/pika/$$version pika==$$version && \
		PYTHONPATH=.venv/pika/$$version $(BIN)/python -c "import pika; assert pika.__version__ == '$$version'" && \
		PYTHONPATH=.venv/pika/$$version $(BIN)/pytest --quiet $(FAST_PATHS) || exit; \
	done

.PHONY: faults
faults: .venv/ready ## Run random faults against all of it, and check the result (3 min)
	$(BIN)/python -m tests.faults.campaign

.PHONY: soak
soak: .venv/ready ## Run everything for an hour, faults and upkeep included, and see what grows
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt matplotlib
	$(BIN)/python -m tests.faults.soak --cluster

.PHONY: test-lowest
test-lowest: .venv-lowest/ready ## Run unit and integration tests with the oldest dependencies (4 min)
	.venv-lowest/bin/pytest --numprocesses auto --dist loadfile \
		tests/unit tests/integration \
		tests/acceptance/test_authserver.py tests/acceptance/test_main_job.py tests/acceptance/test_upgrade.py

check: lint types imports ## Check everything that needs no server

lint: .venv/ready ## Check style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/ready ## Check the types
	$(BIN)/mypy

imports: .venv/ready ## Check that imports point one way
	$(BIN)/lint-imports

bench: .venv/ready ## Measure speed and memory, side by side with their limits (12 min)
	$(BIN)/python -m benchmarks

bench-growth: .venv/ready ## Measure speed with years of data in the tables (15 min)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt matplotlib
	$(BIN)/python -m benchmarks growth

bench-hosts: .venv/ready ## Measure a thousand hosts on one broker, and what idle services cost (3 min)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt matplotlib
	$(BIN)/python -m benchmarks hosts

bench-peers: .venv/ready ## Compare with consumers written by hand, Celery, Dramatiq and FastStream (17 min)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt \
		asyncpg celery dramatiq 'faststream[rabbit]' greenlet matplotlib psutil uvloop
	$(BIN)/python -m benchmarks.peers

fuzz: .venv/ready ## Look for input that breaks something, guided by code coverage (3 min)
	@$(BIN)/python -c 'import sys; sys.exit(sys.version_info >= (3, 14))' || { \
		echo "atheris 3.0, which guides the search, has no build for $$($(BIN)/python --version):" \
		"use an older one (make clean fuzz PYTHON=python3.13)" >&2; exit 1; }
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt atheris
	$(BIN)/python -m tests.fuzz decoding
	$(BIN)/python -m tests.fuzz answering
	$(BIN)/python -m sandbox -- $(BIN)/python -m tests.fuzz applying

.PHONY: release
release: .venv/ready ## Build and check what would be published, and say how to publish it
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt twine
	$(BIN)/python -m release

format: .venv/ready ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: site
site: .venv/ready ## Make a site of the documents, in build/site, with every link checked
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt mkdocs-material
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

.PHONY: hashes
hashes: .venv/ready ## Write down what the image installs, with the hash of each file
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt uv
	$(BIN)/uv $(COMPILE) --extra authserver --extra consumer --extra web --output-file packaging/requirements.txt pyproject.toml
	echo hatchling | $(BIN)/uv $(COMPILE) --output-file packaging/requirements-build.txt -

clean: ## Remove .venv and what the tools leave behind
	rm -rf .venv .venv-lowest .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist
	find . -name __pycache__ -prune -exec rm -rf {} +
	[ ! -w /var/tmp/mirrorfeed-bare ] || rm -rf /var/tmp/mirrorfeed-bare

.venv/ready: pyproject.toml constraints.txt
	PYTHON=$(PYTHON) sh sandbox/make-venv.sh
	touch $@

# For the stories of the page in a real browser.
.venv/browser: .venv/ready
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt axe-playwright-python playwright
	touch $@

# For the files in packaging/kubernetes: 108 MB, and only one test wants it.
.venv/schemas: .venv/ready
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt kubernetes-validate
	touch $@

# Made with Python 3.11: some of these versions have no wheel for a later one.
.venv-lowest/ready: .venv/ready constraints-lowest.txt
	$(BIN)/python -m venv --clear .venv-lowest
	.venv-lowest/bin/pip install --quiet --disable-pip-version-check \
		-c constraints.txt -e '.[authserver,consumer,web,dev]'
	.venv-lowest/bin/pip uninstall --quiet --yes import-linter # needs a newer rich, and is not run here
	.venv-lowest/bin/pip install --quiet --disable-pip-version-check -r constraints-lowest.txt
	.venv-lowest/bin/pip check
	touch $@
