# make generate PROMPT="a red circle on a blue background"   sets up .venv and draws it with the miniature
# make serve     serves the miniature at http://127.0.0.1:7860
# make test      sets up .venv and runs the quick tests, also against diffusers and transformers: minutes
# make test-all  all tests: also those that repeat in more cases, or in processes of their own, what quick ones prove
# make check     format, lint, types and words
# make docs      writes docs/api from the docstrings
# make references  independent implementations beside diffusers: k-diffusion, spandrel, torchsde, peft, lycoris, opencv, clients of services
# make browser   playwright, axe and a Chromium, for the tests of the page
# make proof-*   proofs too heavy for every commit, scripts/proofs/*.py; their logs stand in docs/proofs
# make miniature trains the miniature again (minutes on a GPU, 40 to 110 on two cores); make smoke: a short run, judged

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready
TESTED := $(VENV)/ready-for-tests
PROMPT ?= a red circle on a blue background
OUTPUT ?= picture.png
# what tests and scripts meet in diffusers' classes, in attributes of torch's modules, and in **arguments of a dict
UNTYPED := arg-type attr-defined call-overload func-returns-value index no-untyped-call operator union-attr unused-ignore
export PROMPT OUTPUT

.PHONY: references browser generate serve test test-all check format docs miniature smoke pictures clean

# bytecode is written when a module is first imported: for all modules it would take as long as the rest
INSTALL := $(BIN)/pip install --quiet --no-compile --constraint constraints.txt --editable
unexport PYTHONDONTWRITEBYTECODE

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(READY): pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) .
	touch $@

$(TESTED): pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) '.[test,parity,dev]'
	touch $(READY) $@

references: $(TESTED)
	$(BIN)/pip install --quiet --no-compile --constraint constraints.txt --editable '.[references]'
	$(BIN)/pip install --quiet --no-compile --no-deps k-diffusion==0.1.1.post1 spandrel==0.4.2

browser: $(TESTED)
	$(INSTALL) '.[browser]'
	$(BIN)/python scripts/get_browser.py

generate: $(READY)
	$(BIN)/python -m sdxl generate --model miniature --prompt "$$PROMPT" --output "$$OUTPUT"

serve: $(READY)
	$(INSTALL) '.[serve]'
	$(BIN)/python -m sdxl serve --model miniature

test: $(TESTED)
	SDXL_EXAMPLES=30 $(BIN)/python scripts/run_tests.py -m "not slow"

test-all: $(TESTED)
	$(BIN)/python scripts/run_tests.py

check: $(TESTED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/mypy scripts tests $(addprefix --disable-error-code=,$(UNTYPED))
	$(BIN)/python scripts/check_words.py

format: $(TESTED)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(READY)
	$(BIN)/python scripts/write_api.py
	$(BIN)/python scripts/write_conventions.py

miniature: $(TESTED)
	$(BIN)/python scripts/train_miniature.py

# what commands print, also kept as a log: $(call logged,COMMANDS,NAME)
logged = mkdir -p docs/proofs && bash -o pipefail -c '{ $(1); } 2>&1 | tee docs/proofs/$(2).log'
# the references keep quiet
QUIET := TRANSFORMERS_VERBOSITY=error DIFFUSERS_VERBOSITY=error HF_HUB_DISABLE_PROGRESS_BARS=1 PYTHONWARNINGS=ignore::FutureWarning
PROVE := $(QUIET) $(BIN)/python scripts/proofs

smoke: $(TESTED)
	rm -rf weights/smoke
	$(call logged,$(BIN)/python scripts/train_miniature.py --recipe smoke --work weights/smoke/work --out weights/smoke \
		&& $(PROVE)/smoke.py weights/smoke,smoke)

pictures: $(READY)
	$(BIN)/python scripts/draw_ideas.py
	$(BIN)/python scripts/draw_prompts.py

# ARGS are the script's own: make proof-seeds ARGS="FIRST SECOND"
proof-%: $(TESTED)
	$(call logged,$(PROVE)/$(subst -,_,$*).py $(ARGS),$*)

proof-arguments: $(TESTED)
	$(call logged,$(QUIET) SDXL_EXAMPLES=5000 $(BIN)/python -m pytest -s \
		--hypothesis-show-statistics tests/test_arguments.py::test_a_picture_or_an_error,arguments)

proof-fuzz: $(TESTED)
	$(call logged,$(PROVE)/fuzz_checkpoint.py --count 20000 && $(PROVE)/fuzz_adapter.py && $(PROVE)/fuzz_control.py \
		&& $(PROVE)/fuzz_reference.py,fuzz)

proof-page: browser
	$(call logged,$(BIN)/python scripts/get_browser.py && $(BIN)/python -m pytest --no-header -vv -rs --durations=5 \
		tests/serve/test_page_files.py tests/serve/test_page.py,page)
	$(BIN)/python scripts/draw_page.py

clean:
	rm -rf $(VENV) dist
