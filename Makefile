# make test      sets up .venv and runs the tests (with the references diffusers and transformers installed)
# make check     format, lint and types
# make proof-*   proofs too heavy for every commit; their logs stand in docs/proofs

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed

.PHONY: test check format proof-round-trip proof-parity proof-picture clean

$(INSTALLED): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[test,parity,dev]'
	touch $@

test: $(INSTALLED)
	$(BIN)/python -m pytest

check: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(INSTALLED)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

proof-%: $(INSTALLED)
	mkdir -p docs/proofs
	bash -o pipefail -c '$(BIN)/python scripts/proof_$(subst -,_,$*).py 2>&1 | tee docs/proofs/$*.log'

clean:
	rm -rf $(VENV) dist
