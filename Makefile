# Each target creates `.venv` if it is missing and installs what it needs. PYTHON chooses the interpreter.
PYTHON ?= python3
BIN := .venv/bin

# Which environments `make compatibility` runs the suite in: oldest, newest, or a release of transformers such as 5.12.
# With minors, it runs tests/first_steps.py with every minor release.
ENVIRONMENTS ?= oldest newest

# The browser of `make browser`. Without one, it only runs Node.
CHROMIUM ?= $(shell command -v chromium chromium-browser google-chrome | head -n 1)

# Otherwise each process that a test starts would compile the package again.
unexport PYTHONDONTWRITEBYTECODE

# Setuptools warns of folders with the package's name in front of an editable installation; the checkout has none.
INSTALL := PYTHONWARNINGS='ignore:Editable installation' $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: install quickstart test conformance exports browser jax ray compatibility bench docs style build

install: .venv/installed

# The pip of older Pythons cannot build seqeval.
.venv/installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(INSTALL) --upgrade 'pip>=23.1'
	$(INSTALL) --editable '.[train,dev]'
	touch $@

# Not in install, since the quickstart's corpus is what is installed.
.venv/installed-bench: pyproject.toml
	$(INSTALL) --editable '.[train,dev,bench]'
	touch $@

.venv/installed-docs: pyproject.toml
	$(INSTALL) --editable '.[train,dev,docs]'
	touch $@

.venv/installed-jax: pyproject.toml
	$(INSTALL) --editable '.[train,dev,jax]'
	touch $@

.venv/installed-ray: pyproject.toml
	$(INSTALL) --editable '.[train,dev,ray]'
	touch $@

quickstart: install
	$(BIN)/sequence-encoder quickstart --overwrite

# All tests run in a process for each core; those that ARGS chooses, such as `-k name` or a file, in one.
test: install
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 8 --dist worksteal $(ARGS)

# Transformers' own tests are in its source distribution alone, which is fetched once for each version.
conformance: install
	$(BIN)/python conformance/transformers_tests.py
	$(BIN)/python -m pytest --config-file conformance/pytest.ini conformance $(ARGS)

# The test suite exports only a few models, and tries a few of the cells of docs/what-works.md.
exports: install
	$(BIN)/python tests/exports.py
	$(BIN)/python tests/what_works.py

# transformers.js and what drives Chromium come from npm, and nothing of them is part of the package.
.venv/javascript/installed: tests/javascript/package-lock.json
	mkdir -p $(@D)
	cp tests/javascript/package.json tests/javascript/package-lock.json tests/javascript/.npmrc $(@D)
	cd $(@D) && npm ci
	touch $@

# The test suite runs no JavaScript but that of our own pages.
browser: install .venv/javascript/installed
	$(BIN)/python -m pytest tests/search/test_static_site.py
	$(BIN)/python tests/browser.py .venv/javascript/node_modules $(CHROMIUM)

# The test suite skips its tests of JAX unless this has installed it.
jax: install .venv/installed-jax
	$(BIN)/python tests/jax_functions.py
	$(BIN)/python -m pytest tests/inference/test_jax.py

# The test suite skips its tests of Ray unless this has installed it.
ray: install .venv/installed-ray
	$(BIN)/python -m pytest tests/inference/test_ray_engine.py

compatibility: install
	$(BIN)/python tests/compatibility.py $(ENVIRONMENTS)

bench: install .venv/installed-bench
	$(BIN)/python benchmarks/embedding.py
	$(BIN)/python benchmarks/bulk_embedding.py
	$(BIN)/python benchmarks/carried_over.py
	$(BIN)/python benchmarks/import_time.py

# Warnings are errors, and a link that leads nowhere is a warning.
docs: install .venv/installed-docs
	$(BIN)/sphinx-build -W --keep-going -q -b html docs docs/_build
	@echo "Read it with: python3 -m http.server --directory docs/_build"

# mypy finds the package, whose root is this folder, under its name through the link.
style: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	mkdir -p .venv/types && ln -sfn ../.. .venv/types/sequence_encoder
	MYPYPATH=.venv/types $(BIN)/mypy -p sequence_encoder
	$(BIN)/lint-imports --no-logo

# The wheel is built from the source distribution, which therefore holds all that a build needs.
build: install
	rm -rf dist
	$(BIN)/python -m build --quiet --outdir dist .
	$(BIN)/twine check --strict dist/*
	$(BIN)/python tests/installed_package.py dist/*
