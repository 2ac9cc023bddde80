# `make demo` and `make test` do all set-up themselves: .venv/ holds the project, .host/ a ComfyUI.
PYTHON ?= python3
# What is tried here. For PyTorch's own CPU builds: make TORCH="torch torchvision torchaudio --index-url
# https://download.pytorch.org/whl/cpu" TORCHVISION=
TORCH ?= torch==2.13.0
TORCHVISION ?= torchvision==0.28.0 torchaudio==2.11.0
PY := .venv/bin/python
PIP := $(PY) -m pip --disable-pip-version-check install -q

.PHONY: demo test test-quick lint validate host clean

demo: .host/.ready
	$(PY) sample/demo.py demo

test: .host/.ready
	$(PY) -m pytest

test-quick: .host/.ready
	$(PY) -m pytest -m "not slow"

lint: .venv/.ready
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/pyright

# What the ComfyUI registry asks of a pack, by its own tool.
validate: .cli/.ready
	.cli/bin/comfy --skip-prompt --no-enable-telemetry node validate

host: .host/.ready

.venv/.ready: pyproject.toml Makefile
	$(PYTHON) -m venv .venv
	$(PIP) $(TORCH)
	$(if $(TORCHVISION),$(PIP) --no-deps $(TORCHVISION))
	$(PIP) -e ".[train,ocr,dev]"
	touch $@

.host/.ready: .venv/.ready tests/host/install.py tests/host/requirements.txt
	$(PY) tests/host/install.py .host
	touch $@

.cli/.ready:
	$(PYTHON) -m venv .cli
	.cli/bin/pip --disable-pip-version-check install -q comfy-cli
	touch $@

clean:
	rm -rf .venv .host .cli demo build *.egg-info
