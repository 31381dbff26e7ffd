# Every target needs python3, gcc and make; the first run puts what else is needed into $(VENV).
PYTHON ?= python3
VENV ?= $(or $(VIRTUAL_ENV),.venv)
PY = $(VENV)/bin/python
READY = $(VENV)/.pykprobes-
SOURCES = setup.py $(wildcard csrc/*.c csrc/*.h csrc/*.def csrc/*.py)
ASAN = LD_PRELOAD="$$(gcc -print-file-name=libasan.so) $$(gcc -print-file-name=libstdc++.so.6)" PYTHONPATH=build/asan:. \
	PYTHONMALLOC=malloc ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1

.PHONY: demo test vectors bench bench-peers instructions asan fuzz libfuzzer coverage lint clean

demo: $(READY)test
	@$(PY) -m pykprobes demo

test: $(READY)test
	$(PY) -m pytest -q $(or $(ARGS),tests)

# What the host's CPU answers to the oracle's tests, for hosts on which they cannot ask it.
vectors: $(READY)test
	$(PY) -m tests.oracle.record $(ARGS)

bench: $(READY)bench
	$(PY) -m pytest -q $(or $(ARGS),bench)

# Unicorn, qemu-i386 and the real CPU on the same guests.
bench-peers: $(READY)bench
	$(PY) -m pytest -q bench/bench_peers.py $(ARGS)

# Host instructions of fixed inputs by callgrind, against those stored; ARGS=--update stores them.
instructions: $(READY)bench
	$(PY) bench/instructions.py $(ARGS)

asan: $(READY)dev
	PYK_SANITIZE=1 $(PY) setup.py -q build --build-base build/asan-base --build-lib build/asan
	$(ASAN) $(VENV)/bin/pytest -q -p no:cacheprovider --import-mode=importlib $(or $(ARGS),tests)

fuzz: $(READY)test
	$(PY) -m tests.fuzz $(ARGS)

# What the tests reach of the C code, line by line in build/coverage/index.html; fails where that is too little. Plain
# gcc: a compiler cache does not keep gcov's notes.
coverage: $(READY)dev
	PYK_COVERAGE=1 CC=gcc $(PY) setup.py -q build --build-base build/coverage-base --build-lib build/coverage
	find build/coverage-base -name '*.gcda' -delete
	PYTHONPATH=build/coverage:. $(VENV)/bin/pytest -q -p no:cacheprovider --import-mode=importlib $(or $(ARGS),tests)
	$(PY) -m gcovr --filter csrc/ --exclude-throw-branches --gcov-suspicious-hits-threshold 0 --html-details build/coverage/index.html \
		--json build/coverage/coverage.json build/coverage-base
	@$(PY) -m tests.coverage_report build/coverage/coverage.json

libfuzzer: $(READY)test
	$(PY) -m tests.fuzz.libfuzzer $(ARGS)

lint: $(READY)dev
	$(PY) -m ruff check . && $(PY) -m ruff format --check pykprobes setup.py csrc && $(PY) -m mypy

clean:
	rm -rf build dist *.egg-info .venv pykprobes/_core*.so

# The package in development mode with the extra that the name says, built again when a source is newer.
$(READY)%: pyproject.toml $(SOURCES) | $(PY)
	$(PY) -m pip install -q --disable-pip-version-check -e '.[$*]'
	@touch $@

$(PY):
	$(PYTHON) -m venv $(VENV) || $(PYTHON) -m virtualenv $(VENV)
