# Each target does its own set-up in .venv and skips what is there already.
#
#   make demo    export EfficientNet-Lite0, classify two photos without torch, train it to read handwritten digits, and
#                see where VGG-16 keeps its parameters
#   make check   lint, types and the tests nearest to what has changed: before each commit
#   make test    lint, types and the test suite with coverage
#   make docs    the documentation in English and Japanese, in build/docs/; open build/docs/index.html
#   make slow    the tests that the suite leaves out, which take long
#   make lint    lint, spelling and types alone
#   make hooks   have git run the linters before each commit
#   make bench   the benchmarks; their figures go to bench/results/ (bench/mutation.py is run by hand: it takes hours)
#   make web     build the pages of `vertebra serve` and `explore` from web/, which needs Node.js 20.19 or newer
#   make figures draw the networks of docs/book/figures/, which needs Node.js too
#
# PYTHON names the interpreter that .venv is made with, WORKERS the number of test processes: more than cores, as a third of
# their time they wait for browsers, servers and processes of their own.

PYTHON ?= python3
WORKERS ?= 3
VENV := .venv
BIN := $(VENV)/bin
PROGRAMS := nginx-light openssl
PIP := $(BIN)/python -m pip --disable-pip-version-check
INSTALL := $(PIP) install -qq --no-compile
# Python keeps the bytecode of what it imports, whatever the environment says: pip's own takes as long as all the rest of
# the installation, most of it of what nobody imports, and without any each process would compile torch.
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.PHONY: help demo docs docs-en docs-ja strings check test suite documentation slow lint hooks programs bench web figures clean
# A step that fails or is interrupted leaves no half-made target that the next call would take for done.
.DELETE_ON_ERROR:

help:
	@sed -n '3,16s/^# *//p' Makefile

$(BIN)/python:
	@$(PYTHON) -c 'import sys; v = "%d.%d" % sys.version_info[:2]; sys.version_info >= (3, 11) or sys.exit("Vertebra needs Python 3.11 or newer and $(PYTHON) is " + v + ". Name another one: make $(MAKECMDGOALS) PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	@# The pip that comes with Python 3.11 takes a quarter longer; without a newer one it does.
	@$(INSTALL) --upgrade pip || true

$(VENV)/.stamp-demo: pyproject.toml | $(BIN)/python
	@echo "Installing Vertebra and torch into $(VENV) (once; a few minutes where torch is not cached yet) ..."
	$(INSTALL) --editable '.[torch]' scikit-learn
	@touch $@

$(VENV)/.stamp-test: pyproject.toml | $(BIN)/python
	@echo "Installing Vertebra with its test tools into $(VENV) (once; a few minutes where torch is not cached yet) ..."
	$(INSTALL) --editable '.[test]'
	@touch $(VENV)/.stamp-demo $(VENV)/.stamp-docs $@

$(VENV)/.stamp-slow: pyproject.toml $(VENV)/.stamp-test
	$(INSTALL) --editable '.[slow]'
	@touch $@

$(VENV)/.stamp-docs: pyproject.toml | $(BIN)/python
	@echo "Installing Vertebra with Sphinx into $(VENV) (once; a few minutes where torch is not cached yet) ..."
	$(INSTALL) --editable '.[docs]'
	@touch $@

# The kernels are compiled by the system's C compiler, with `make -j 2` while pip installs what the tests need.
$(VENV)/.stamp-wheel: $(wildcard kernels/*.t* kernels/src/* kernels/vertebra_kernels/*.py) | $(BIN)/python
	@rm -rf $(VENV)/wheel && mkdir $(VENV)/wheel
	@$(PIP) wheel -qq --no-deps --wheel-dir $(VENV)/wheel ./kernels || \
		echo "The kernels were not built, which takes a C compiler (gcc): their tests are left out."
	@touch $@

$(VENV)/.stamp-kernels: $(VENV)/.stamp-wheel $(VENV)/.stamp-test
	@for wheel in $(VENV)/wheel/*.whl; do [ ! -f $$wheel ] || $(INSTALL) --force-reinstall --no-deps $$wheel; done
	@touch $@

# Imports what the tests import, which leaves its bytecode to their processes; with `make -j 2` beside mypy.
$(VENV)/.stamp-bytecode: $(VENV)/.stamp-test $(VENV)/.stamp-kernels
	@$(BIN)/pytest --collect-only -q >/dev/null 2>&1 || true
	@touch $@

demo: $(VENV)/.stamp-demo
	@rm -rf build/demo && mkdir -p build/demo
	$(BIN)/vertebra export efficientnet_lite0 --out build/demo/lite0.onnx
	@photos=$$($(BIN)/python -c 'import importlib.util, os; print(os.path.relpath(os.path.dirname(importlib.util.find_spec("sklearn").origin) + "/datasets/images"))') && \
	now() { $(BIN)/python -c 'import time; print(int(time.time() * 1000))'; } && start=$$(now) && \
	$(BIN)/vertebra predict "$$photos/china.jpg" "$$photos/flower.jpg" --model build/demo/lite0.onnx && \
	echo "Two photos predicted in $$(( $$(now) - start )) ms, the start of the process included; the export took the seconds above."
	$(BIN)/vertebra train digits --out build/demo/digits
	$(BIN)/vertebra evaluate build/demo/digits digits
	@digit=$$(sed -n 2p build/demo/digits/data.csv | cut -d, -f1) && \
	$(BIN)/vertebra predict "$$digit" --model build/demo/digits/model.onnx
	$(BIN)/vertebra lab run vgg-parameters --out build/demo/lab
	@echo "Open build/demo/digits/report.html to see how far to trust it. To serve it: vertebra serve build/demo/digits/model.onnx"

lint: $(VENV)/.stamp-test
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/codespell
	$(BIN)/mypy

# A browser and a proxy, which some tests drive. Elsewhere those tests are skipped, and the last line says so. Chromium's
# shell without windows does with 40 % of its CPU time; Debian has it as a package, Ubuntu has not.
programs:
	@have() { command -v "$$1" >/dev/null; }; \
	browser() { have chromium-headless-shell || have chromium || have chromium-browser || have google-chrome; }; \
	if browser && have nginx && have openssl; then :; \
	elif [ "$$(id -u)" = 0 ] && have apt-get; then \
		echo "Installing $(PROGRAMS) and Chromium with apt-get, for the tests of pages and of the proxy ..."; \
		apt-get update -qq; \
		apt-cache show chromium-headless-shell >/dev/null 2>&1 && browser=chromium-headless-shell || browser=chromium; \
		DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends $(PROGRAMS) $$browser >/dev/null; \
	fi

check: lint
	$(BIN)/python tests/affected.py

# With `make -j 2` the suite begins while mypy and Sphinx still run: a fifth of its time it waits for browsers and servers.
test: lint suite documentation

suite: programs $(VENV)/.stamp-bytecode
	$(BIN)/pytest -n $(WORKERS) --dist worksteal --cov

documentation: lint  # when all is installed: two of pip would be in each other's way
	@$(MAKE) --no-print-directory docs

slow: $(VENV)/.stamp-slow $(VENV)/.stamp-kernels programs
	$(BIN)/pytest -n $(WORKERS) --dist worksteal -m slow

# Warnings are errors; `make -j 2` builds both editions at once.
SPHINX := $(BIN)/sphinx-build --quiet --fail-on-warning --keep-going docs

docs: docs-en docs-ja
	@cp docs/_templates/redirect.html build/docs/index.html
	$(BIN)/python docs/check_links.py build/docs
	@echo "Open build/docs/index.html"

# Sphinx does not read an unchanged page again: without its memory the next build has the warnings of this one.
docs-en docs-ja: docs-%: $(VENV)/.stamp-docs
	$(SPHINX) -D language=$* build/docs/$* || { rm -f build/docs/$*/.doctrees/environment.pickle; exit 1; }

# Takes changed texts over into the Japanese catalogues, where they are then translated.
strings: $(VENV)/.stamp-docs
	@rm -rf build/strings
	$(BIN)/sphinx-build --quiet -b gettext docs build/strings
	@cd build/strings && rm -rf .doctrees reference project && find . -maxdepth 1 -name '*.pot' ! -name index.pot -delete
	$(BIN)/sphinx-intl update -p build/strings -d docs/locale -l ja -w 0

hooks: $(VENV)/.stamp-test
	$(INSTALL) pre-commit
	$(BIN)/pre-commit install

bench: $(VENV)/.stamp-test
	@for script in $(filter-out bench/mutation.py,$(wildcard bench/[a-z]*.py)); do echo "== $$script"; $(BIN)/python "$$script" || exit 1; done

web:
	cd web && npm ci && npm run build

figures: $(VENV)/.stamp-test
	@[ -d web/node_modules ] || (cd web && npm ci)
	$(BIN)/python docs/make_figures.py
	$(BIN)/python docs/make_rooflines.py

clean:
	rm -rf $(VENV) web/node_modules build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage htmlcov
