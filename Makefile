# Everything runs in .venv, which `make setup` makes. The gpu- targets use the machine's own python3 and install nothing.
PYTHON ?= python3
VENV := .venv
PIP := $(VENV)/bin/python -m pip --disable-pip-version-check
INSTALL := $(PIP) install --quiet -c constraints.txt

# Test processes. Their threads outnumber the cores, so a thread that waits gives its core away instead of spinning.
JOBS ?= 2
PYTEST := OMP_WAIT_POLICY=PASSIVE $(VENV)/bin/python -m pytest -q -n $(JOBS) --dist loadfile

NATIVE_SOURCES := CMakeLists.txt $(shell find cmake csrc python_bindings -type f)
BUILD_INPUTS := setup.py pyproject.toml constraints.txt MANIFEST.in $(NATIVE_SOURCES)
TOOLS_READY := $(VENV)/.tools-ready
GENERATE_READY := $(VENV)/.generate-ready
TEST_READY := $(VENV)/.test-ready

.PHONY: setup generate test test-all bench lint gpu-check gpu-bench clean

setup: $(TEST_READY)

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# torch by its pinned version: an unpinned one would bring several GB of CUDA libraries.
$(TOOLS_READY): constraints.txt | $(VENV)/bin/python
	$(INSTALL) torch numpy setuptools wheel pybind11 cmake ninja
	@touch $@

$(GENERATE_READY): $(TOOLS_READY) $(BUILD_INPUTS)
	$(INSTALL) --no-build-isolation -e ".[generate]"
	@touch $@

$(TEST_READY): $(TOOLS_READY) $(BUILD_INPUTS)
	$(INSTALL) --no-build-isolation -e ".[generate,test]"
	@touch $(GENERATE_READY) $@

generate: $(GENERATE_READY)
	$(VENV)/bin/fourreal generate --out out

# The Triton kernels run under Triton's interpreter, which is chosen when a process starts.
test: setup
	$(PYTEST)
	TRITON_INTERPRET=1 $(PYTEST) tests/triton

test-all: setup
	$(INSTALL) --no-build-isolation -e ".[generate,test,diffusers]"
	$(PYTEST) -m ""
	TRITON_INTERPRET=1 $(PYTEST) -m "" tests/triton

bench: setup
	$(VENV)/bin/fourreal bench --json benchmarks/results

lint: setup
	$(VENV)/bin/ruff check .

gpu-check:
	PYTHONPATH=. $(PYTHON) -m benchmarks.gpu check

gpu-bench:
	PYTHONPATH=. $(PYTHON) -m benchmarks.gpu bench

clean:
	rm -rf build dist out *.egg-info .pytest_cache .ruff_cache fourreal_kernels/*.so
	rm -f $(GENERATE_READY) $(TEST_READY)
