# make table: install, fetch Fashion-MNIST, train, unlearn, evaluate, draw.   make test: the tests.
PYTHON ?= python3
VENV ?= .venv

table: $(VENV)/installed
	$(VENV)/bin/python reproduce.py prunelora --preset quick --seeds 3

test: $(VENV)/installed
	$(VENV)/bin/python -m pytest

lint: $(VENV)/installed
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

$(VENV)/installed: requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --disable-pip-version-check --quiet -r requirements.txt
	touch $@

.PHONY: table test lint
