# Two commands do all the set-up: `make run` and `make test`. Both start from an empty folder.
PYTHON ?= python3
VENV ?= .venv
PEERS ?= .venv-peers
BIN := $(VENV)/bin
# The CPU build of torch; on a machine with an NVIDIA GPU the registry's own build is taken.
TORCH_CPU ?= 2.13.0+cpu

.PHONY: run test check web page peers clean

run: $(VENV)/.installed
	$(BIN)/duologue serve

test: $(VENV)/.developed
	$(BIN)/python -m pytest -n 2 -q --ignore=tests/peers

check: $(VENV)/.developed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# The page: format, types, unit tests, and whether the committed files are what its sources build.
web: web/node_modules/.installed
	cd web && npm run --silent check && npm run --silent verify

# Build the page into the package.
page: web/node_modules/.installed
	cd web && npm run --silent build

web/node_modules/.installed: web/package-lock.json
	cd web && npm ci --no-audit --no-fund
	touch $@

peers: $(PEERS)/.installed
	$(PEERS)/bin/python -m pytest tests/peers --require-peers -n 2 --dist loadfile -q

$(PEERS)/.installed: tests/peers/install.sh pyproject.toml $(VENV)/.developed
	sh tests/peers/install.sh $(BIN)/python $(PEERS)
	touch $@

$(VENV)/.torch: tools/install_torch.sh
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	TORCH_CPU=$(TORCH_CPU) sh tools/install_torch.sh $(BIN)/python
	touch $@

$(VENV)/.installed: pyproject.toml $(VENV)/.torch
	$(BIN)/python -m pip install --quiet --editable '.[plots]'
	$(BIN)/python -m duologue.runtime
	touch $@

$(VENV)/.developed: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --group dev
	touch $@

clean:
	rm -rf $(VENV) $(PEERS) web/node_modules .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist
