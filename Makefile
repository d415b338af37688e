# The two main commands are `make demo` and `make test`. Both create the environment if it is missing.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.PHONY: demo test check docs transcripts clean env libtpu cuda
.DEFAULT_GOAL := demo

# Use uv if it is installed (faster), otherwise venv and pip. The stamp is touched last, so that an
# interrupted installation is repeated.
$(STAMP): setup.cfg pyproject.toml
	@if command -v uv >/dev/null 2>&1; then \
	  { test -x $(BIN)/python || uv venv --quiet --python $(PYTHON) $(VENV); } && \
	  uv pip install --quiet --python $(BIN)/python -e '.[test]'; \
	else \
	  { test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV); } && \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test]'; \
	fi
	@touch $@

env: $(STAMP)

demo: $(STAMP)
	$(BIN)/python -m experiments.demo --workdir runs/demo

# One worker for each processor; an idle worker takes tests from the others.
PYTEST := $(BIN)/python -m pytest -n logical --maxprocesses 8 --dist worksteal

# The compiler for TPUs, in a folder of its own, for tests/test_tpu.py and benchmarks/scale.py.
libtpu: $(STAMP)
	@$(BIN)/python -m tests.helpers.compilers $@

cuda: $(STAMP)
	@$(BIN)/python -m tests.helpers.compilers $@

test: $(STAMP) libtpu
	$(PYTEST)

check: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(PYTEST) -m "not slow"

docs: $(STAMP)
	$(BIN)/python -m docs.site

# Every command that the README and the guides show, in a process of its own, with short trainings. Without
# --steps the commands run as they stand, for most of a day.
transcripts: $(STAMP)
	$(BIN)/python -m docs.transcripts --full --steps 50

clean:
	rm -rf $(VENV) .cache build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
