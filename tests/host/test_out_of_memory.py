"""Memory that runs out in a real ComfyUI: the process itself is limited, and its allocations fail."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from comfy_host import Comfy, node

resource = pytest.importorskip("resource")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits another process by prlimit")

SIDE = 640
ROOM = 100 * 2**20  # bytes that may be allocated beyond what the process has


@contextmanager
def limited(process: int) -> Iterator[None]:
    """Let a process allocate no more than ROOM for the time of the block."""
    pages = int(Path(f"/proc/{process}/statm").read_text(encoding="ascii").split()[0])
    before = resource.prlimit(process, resource.RLIMIT_AS)
    resource.prlimit(process, resource.RLIMIT_AS, (pages * resource.getpagesize() + ROOM, before[1]))
    try:
        yield
    finally:
        resource.prlimit(process, resource.RLIMIT_AS, before)


def chain(color: int) -> dict[str, Any]:
    """All three stages on a large image; what ran in the prompt before is not run again."""
    return {
        "image": node("EmptyImage", width=SIDE, height=SIDE, batch_size=1, color=color),
        "model": node("TADiSRLoader", model="compact (built in)", dtype="fp32"),
        "encode": node("TADiSREncode", image=["image", 0], model=["model", 0], scale=1.0),
        "denoise": node("TADiSRDenoise", latent=["encode", 0], model=["model", 0]),
        "decode": node(
            "TADiSRJointDecode", latent=["denoise", 0], attention=["denoise", 1], model=["model", 0], guide_strength=1.0
        ),
    }


# What of the chain runs before the memory is limited, and what ends the prompt.
STAGES = {
    "encode": (["image", "model"], node("SaveLatent", samples=["encode", 0], filename_prefix="a")),
    "denoise": (["image", "model", "encode"], node("SaveLatent", samples=["denoise", 0], filename_prefix="a")),
    "decode": (["image", "model", "encode", "denoise"], node("PreviewImage", images=["decode", 0])),
}


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_that_runs_out_says_what_to_do(stage: str, comfy: Comfy) -> None:
    names, end = STAGES[stage]
    every = chain(color=len(stage))
    before = {name: every[name] for name in names}
    before["end"] = (
        node("PreviewImage", images=["image", 0])
        if stage == "encode"
        else node("SaveLatent", samples=[names[-1], 0], filename_prefix="a")
    )
    assert comfy.run(before).last == "execution_success"
    wanted = {name: every[name] for name in [*names, stage]} | {"end": end}
    with limited(comfy.process.pid):
        result = comfy.run(wanted, timeout=120)
    assert result.last == "execution_error" and result.events[-1][1]["node_id"] == stage
    assert "The image as a whole is too large for the memory: use Upscale with TADiSR" in result.error
    again = comfy.run(wanted, timeout=300)
    assert again.last == "execution_success", again.error
