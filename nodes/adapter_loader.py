"""A frozen base and an adapter's file -> a model."""

from __future__ import annotations

import functools
from pathlib import Path

import folder_paths
from comfy_api.latest import io

from ..tadisr import CheckpointError
from ..tadisr.adapter import read_header
from ..tadisr.prompt import EncodedPrompt
from . import bridge
from .memory import Base

NONE = "no adapter in models/tadisr"


class TADiSRAdapterLoader(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TADiSRAdapterLoader",
            display_name="Load TADiSR Adapter",
            category=bridge.CATEGORY,
            description="Puts an adapter on its frozen base: the LoRA, the text decoder and the prompt that training made. "
            "Several adapters may share one base; it is held once.",
            **bridge.aliases("tadisr lora", "text upscaler", "super resolution"),
            inputs=[
                bridge.FrozenBase.Input("base", tooltip="From Load Kolors for TADiSR."),
                io.Combo.Input(
                    "adapter",
                    options=adapter_names(),
                    tooltip="A file in models/tadisr that was trained on this base, or imported from the authors' release.",
                ),
                bridge.folded(
                    io.Float.Input(
                        "strength", default=1.0, min=-2.0, max=2.0, step=0.05,
                        tooltip="Of the adapter's LoRA on the base. 1: as it was trained; 0: the base's own weights.",
                    )
                ),
                bridge.Prompt.Input(
                    "prompt",
                    optional=True,
                    tooltip="Another prompt than the one that the adapter carries, from TADiSR Encode Prompt or Load TADiSR "
                    "Prompt. A release imported without a prompt needs one.",
                ),
            ],
            outputs=[
                bridge.Model.Output(
                    "tadisr_model",
                    display_name="model",
                    tooltip="Goes into Upscale with TADiSR, TADiSR Tiling and every stage.",
                )
            ],
        )  # fmt: skip

    @classmethod
    def fingerprint_inputs(cls, adapter: str, strength: float, **_: object) -> tuple[str, float, int]:
        """A file that was replaced is loaded again."""
        return adapter, strength, bridge.changed(bridge.model_path(adapter))

    @classmethod
    def execute(cls, base: Base, adapter: str, strength: float, prompt: EncodedPrompt | None = None) -> io.NodeOutput:
        return io.NodeOutput(base.with_adapter(bridge.model_path(adapter), strength=strength, prompt=prompt))


def adapter_names() -> list[str]:
    found = []
    for name in folder_paths.get_filename_list(bridge.FOLDER):
        path = folder_paths.get_full_path(bridge.FOLDER, name)
        if path is not None and is_adapter(path, bridge.changed(path)):
            found.append(name)
    return found or [NONE]


@functools.lru_cache(maxsize=4096)
def is_adapter(path: str, _when: int) -> bool:
    """Whether a file is TADiSR's and needs a base; False for a broken one."""
    try:
        return read_header(Path(path)).config.lora is not None
    except CheckpointError:
        return False
