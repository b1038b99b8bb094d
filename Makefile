# Both targets set themselves up: a virtual environment in the checkout, made once.
VENV ?= .venv
PYTHON ?= python3
READY := $(VENV)/.ready
TORCHVISION := $(abspath $(VENV))/torchvision

.PHONY: demo test check

demo: $(READY)
	$(VENV)/bin/mmalign demo

# Video processors need torchvision, models and pictures do not: tests of the former have it on their path, no other.
test: check $(TORCHVISION)
	PYTHONPATH=$(CURDIR)/tests/with_torchvision:$(TORCHVISION) $(VENV)/bin/python -m pytest tests/*/test_native_video.py
	$(VENV)/bin/python -m pytest

check: $(READY)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

# torch first: DeepSpeed's set-up asks it what to build, and the answer here is nothing (DS_BUILD_OPS=0).
$(READY): setup.cfg constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --constraint constraints.txt torch setuptools wheel
	DS_BUILD_OPS=0 $(VENV)/bin/pip install --quiet --constraint constraints.txt --editable '.[report,dev]'
	touch $@

$(TORCHVISION): $(READY)
	$(VENV)/bin/pip install --quiet --constraint constraints.txt --no-deps --upgrade --target $@ torchvision
	touch $@
