# make table: install, train, unlearn, evaluate, draw a first table.   make test: the tests.   make test-all: the slow
# ones too.   make lint: ruff and mypy.   make storm: kills and damaged files, half an hour.   make check-rows: two
# committed rows are made again and compared.
PYTHON ?= python3
VENV ?= .venv

table: $(VENV)/installed
	$(VENV)/bin/python reproduce.py prunelora --preset first --results my-results
	@echo "for more commands: . $(VENV)/bin/activate"

test: $(VENV)/installed-dev
	$(VENV)/bin/python -m pytest

test-all: $(VENV)/installed-dev
	$(VENV)/bin/python -m pytest -m ""

storm: $(VENV)/installed-dev
	$(VENV)/bin/python -m tests.storm --json results/benchmarks/storm.json

check-rows: $(VENV)/installed
	$(VENV)/bin/python -m benchmarks.check_rows

lint: $(VENV)/installed-dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

$(VENV)/installed: requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --disable-pip-version-check --quiet -r requirements.txt
	touch $@

$(VENV)/installed-dev: $(VENV)/installed requirements-dev.txt
	$(VENV)/bin/python -m pip install --disable-pip-version-check --quiet -r requirements-dev.txt
	touch $@

.PHONY: table test test-all check-rows storm lint
