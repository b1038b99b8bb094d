# Both targets set themselves up: a virtual environment in the checkout, made once.
VENV ?= .venv
PYTHON ?= python3
READY := $(VENV)/.ready

.PHONY: demo test check

demo: $(READY)
	$(VENV)/bin/mmalign demo

test: check
	$(VENV)/bin/python -m pytest

check: $(READY)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

# torch first: DeepSpeed's set-up asks it what to build, and the answer here is nothing (DS_BUILD_OPS=0).
$(READY): setup.cfg constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --constraint constraints.txt torch setuptools wheel
	DS_BUILD_OPS=0 $(VENV)/bin/pip install --quiet --constraint constraints.txt --editable '.[report,video,dev]'
	touch $@
