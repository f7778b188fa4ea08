# Two commands for a newcomer: `make demo` and `make test`. Both need only Python >= 3.11 and git.
#   make demo ARGS="--port 8000"       further words for app.py
#   make test ARGS="-k imaging -x"     further words for pytest
#   make demo PYTHON=/path/to/python   another interpreter
#   make demo TORCH=--index-url=...    further words for pip when it fetches torch, say an index of builds for the CPU
SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

# The first interpreter that is new enough and can make a virtual environment; 3.11 is what the suite is tested on.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3.14 python3 python; do \
	$$p -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo $$p && break; \
	done)

.PHONY: demo test check format clean

demo: $(VENV)/demo.stamp  ## open the page on 127.0.0.1:7860 with the demo weights
	$(BIN)/python app.py --host 127.0.0.1 --port 7860 $(ARGS)

test: $(VENV)/test.stamp  ## the whole suite
	$(BIN)/python -m pytest $(ARGS)

check: $(VENV)/test.stamp  ## linters
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/test.stamp
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV)

# torch alone first: with it in place, no other package can pull another build of it.
$(VENV)/demo.stamp: requirements.txt
	@test -n "$(PYTHON)" || { echo "No Python 3.11 or newer that can make a virtual environment was found." \
		"Install one (on Debian and Ubuntu: python3 and python3-venv) and run make again."; exit 1; }
	@echo "Installing into $(VENV) with $(PYTHON): a few minutes, once."
	$(PYTHON) -m venv $(VENV)
	$(PIP) "$$(grep '^torch==' requirements.txt)" $(TORCH)
	$(PIP) -r requirements.txt
	@touch $@

$(VENV)/test.stamp: requirements-dev.txt $(VENV)/demo.stamp
	$(PIP) -r requirements-dev.txt
	@touch $@
