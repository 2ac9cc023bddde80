"""A tiny ChatGLM3 in the layouts of Kolors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny_glm import tiny_glm, write_diffusers, write_vocabulary


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_vocabulary(tmp_path_factory.mktemp("words") / "tokenizer.model")


@pytest.fixture(scope="module")
def glm(vocabulary: Path) -> Any:
    return tiny_glm(vocabulary)


@pytest.fixture(scope="module")
def kolors(tmp_path_factory: pytest.TempPathFactory, glm: Any, vocabulary: Path) -> Path:
    return write_diffusers(tmp_path_factory.mktemp("Kolors"), glm, vocabulary)
