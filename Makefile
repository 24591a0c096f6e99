# Everything runs in .venv, which `make setup` makes. The gpu- targets use the machine's own python3 and install nothing.
PYTHON ?= python3
VENV := .venv
PIP := $(VENV)/bin/python -m pip --disable-pip-version-check
INSTALL := $(PIP) install --quiet -c constraints.txt

# Test processes. Their threads outnumber the cores, so a thread that waits gives its core away instead of spinning.
# Files in their order: the last ones start processes of their own, which also take the core of a worker that is done.
JOBS ?= 2
PYTEST := OMP_WAIT_POLICY=PASSIVE $(VENV)/bin/python -m pytest -q -n $(JOBS) --dist loadfile --no-loadscope-reorder

PACKAGE_INPUTS := setup.py pyproject.toml constraints.txt
NATIVE_INPUTS := setup.py CMakeLists.txt $(shell find cmake csrc python_bindings -type f)
TOOLS_READY := $(VENV)/.tools-ready
NATIVE_READY := $(VENV)/.native-ready
GENERATE_READY := $(VENV)/.generate-ready
TEST_READY := $(VENV)/.test-ready
# The native libraries need no packages but their tools: they are compiled while pip brings the others.
MAKE_BOTH := +$(MAKE) --no-print-directory --jobs=2 $(NATIVE_READY)

.PHONY: setup setup-generate generate test test-all bench lint gpu-check gpu-bench clean

setup:
	$(MAKE_BOTH) $(TEST_READY)

setup-generate:
	$(MAKE_BOTH) $(GENERATE_READY)

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(TOOLS_READY): constraints.txt | $(VENV)/bin/python
	$(INSTALL) setuptools wheel pybind11 cmake ninja
	@touch $@

$(NATIVE_READY): $(TOOLS_READY) $(NATIVE_INPUTS)
	$(VENV)/bin/python setup.py build_ext --inplace
	@touch $@

# torch by its pinned version: an unpinned one would bring several GB of CUDA libraries.
$(GENERATE_READY): $(TOOLS_READY) $(PACKAGE_INPUTS)
	$(INSTALL) torch numpy
	FOURREAL_BUILD=0 $(INSTALL) --no-build-isolation -e ".[generate]"
	@touch $@

$(TEST_READY): $(GENERATE_READY)
	FOURREAL_BUILD=0 $(INSTALL) --no-build-isolation -e ".[generate,test,diffusers]"
	@touch $@

generate: setup-generate
	$(VENV)/bin/fourreal generate --out out

# The Triton kernels run under Triton's interpreter, which is chosen when a process starts.
test: setup
	$(PYTEST)
	TRITON_INTERPRET=1 $(PYTEST) --dist worksteal tests/triton

test-all: setup
	$(PYTEST) -m ""
	TRITON_INTERPRET=1 $(PYTEST) --dist worksteal -m "" tests/triton

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
	rm -f $(NATIVE_READY) $(GENERATE_READY) $(TEST_READY)
