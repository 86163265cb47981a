# make app         set up and serve the dashboard at http://127.0.0.1:8501
# make test        set up; check format, lint, import contracts and types; run all tests except the long ones
# make test-long   run the long tests: fuzzing, large data sets, simulations
# make demo        train three runs on the embedded model without a browser
# make format      format the code and apply automatic lint fixes
# make reference   regenerate docs/reference.md from the code
# make screenshots take the pictures in README.md and docs
# make assets      rebuild the embedded base model and data set from scratch
# make clean       remove the virtual environment and caches; runs are kept
PYTHON ?= python3.11
RUNS_DIR ?= runs
PORT ?= 8501
ADDRESS ?= 127.0.0.1
BIN := .venv/bin
# Waiting OpenMP threads spin briefly and then sleep, because the trainer, dashboard and browser share a few cores.
export GOMP_SPINCOUNT ?= 1000

.PHONY: app test test-long demo assets format reference screenshots clean

app: .venv/app.done
	RUNS_DIR="$(RUNS_DIR)" $(BIN)/python -m pages.ui.serve --server.address $(ADDRESS) --server.port $(PORT)

demo: .venv/app.done
	$(BIN)/python -m core demo --runs-dir "$(RUNS_DIR)"

assets: .venv/dev.done
	$(BIN)/python -m recipe --runs-dir "$(RUNS_DIR)"

test: .venv/dev.done chromium
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/mypy
	$(BIN)/python -m pytest -q --numprocesses 2 --dist loadfile --no-loadscope-reorder

test-long: .venv/dev.done chromium
	$(BIN)/python -m pytest -q -m long --timeout 7200
	$(BIN)/python -m pytest -q --hypothesis-profile long --timeout 7200 tests/test_fuzz.py tests/test_fuzz_logs.py \
	  tests/test_fuzz_models.py tests/tracking/test_sync.py

format: .venv/dev.done
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

reference: .venv/app.done
	$(BIN)/python -m core.cli.reference

screenshots: .venv/dev.done chromium
	$(BIN)/python -m docs.screenshots

.venv/app.done: requirements.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv || python3 -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

.venv/dev.done: requirements-dev.txt .venv/app.done
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@

# The browser tests use Debian's Chromium. Set CHROMIUM to use a different executable.
.PHONY: chromium
chromium:
	command -v chromium >/dev/null || test -x "$$CHROMIUM" || \
	  { apt-get update -qq && apt-get install -y -qq chromium fonts-liberation >/dev/null; }

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis
