"""Commands keep freed buffers; nothing else changes the allocator of a process."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FAULTS = """
import resource, sys, torch
from tadisr.allocator import keep_buffers
if sys.argv[1] == "keep":
    assert keep_buffers()
torch.zeros(20_000_000).add_(1)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    torch.zeros(20_000_000).add_(1)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> int:
    variables = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_") and k != "LD_PRELOAD"}
    command = [sys.executable, "-c", FAULTS, how]
    return int(subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT, env=variables).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator")
def test_freed_buffers_cost_no_page_faults_again() -> None:
    assert faults("keep") < faults("leave") / 5


def test_an_allocator_that_the_user_set_up_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    from tadisr.allocator import keep_buffers

    monkeypatch.setenv("MALLOC_ARENA_MAX", "2")
    assert not keep_buffers()
    monkeypatch.delenv("MALLOC_ARENA_MAX")
    monkeypatch.setenv("LD_PRELOAD", "libjemalloc.so.2")
    assert not keep_buffers()
