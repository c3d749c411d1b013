# Two commands do everything: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Tests run side by side in this many processes. Those that measure time run after them, one by one, whether the others passed or not.
TEST_WORKERS ?= 2
SIDE_BY_SIDE := -n $(TEST_WORKERS) --dist worksteal
# Hundreds of tests start a command of their own: what Python has compiled is kept, whatever the caller's environment says.
export PYTHONDONTWRITEBYTECODE =

.PHONY: demo test test-slow sanitize lint bench clean

# Built again when a source of the kernels changes: a pull would leave the old ones in place.
$(VENV)/.runtime: pyproject.toml setup.py $(wildcard csrc/*)
	@$(PYTHON) -c 'import sys; sys.exit("Brigade needs Python 3.11 or newer; this is " + sys.version.split()[0] + ". Try: make PYTHON=python3.12" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	@touch $@

$(VENV)/.test: $(VENV)/.runtime
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test]'
	@touch $@

$(VENV)/.neighbours: $(VENV)/.test
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test,neighbours]'
	@touch $@

demo: $(VENV)/.runtime
	$(BIN)/brigade generate --stream --temperature 0.6 --top-p 0.9 --seed 1 --max-tokens 120 'def fibonacci(n):'

test: $(VENV)/.test
	$(BIN)/ruff check .
	@failed=0; \
	$(BIN)/python -m pytest -m 'not slow and not alone' $(SIDE_BY_SIDE) || failed=1; \
	$(BIN)/python -m pytest -m 'alone and not slow' || failed=1; exit $$failed

test-slow: $(VENV)/.neighbours
	@failed=0; \
	$(BIN)/python -m pytest -m 'slow and not alone' $(SIDE_BY_SIDE) || failed=1; \
	$(BIN)/python -m pytest -m 'slow and alone' || failed=1; exit $$failed

# The kernels' tests on a build that watches for addresses out of bounds and undefined behaviour. Left out is what counts threads, time
# or locks: the sanitizers' own library is loaded first, and is slow.
sanitize: $(VENV)/.test
	BRIGADE_SANITIZE=address,undefined $(BIN)/python setup.py -q build_ext --force --build-lib build/sanitized --build-temp build/sanitized
	LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libstdc++.so)" ASAN_OPTIONS=detect_leaks=0 \
	UBSAN_OPTIONS=print_stacktrace=1 BRIGADE_KERNELS="$$(echo build/sanitized/brigade/backends/cpu/_kernels*.so)" \
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) -p no:cacheprovider --deselect tests/backends/cpu/test_threads.py --deselect tests/backends/cpu/test_peaks.py \
	--deselect tests/backends/cpu/test_ahead.py::test_saying_what_comes_next_takes_no_lock_of_its_own \
	tests/backends/cpu tests/engine/sampling/test_native.py tests/engine/test_exact_shapes.py tests/parallel/test_exchange.py \
	tests/parallel/test_links.py

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

bench: $(VENV)/.runtime
	$(BIN)/brigade bench throughput --engine both --model gpt-345m --random-weights 0

clean:
	rm -rf $(VENV) build dist *.egg-info
