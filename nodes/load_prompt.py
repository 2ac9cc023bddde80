"""A prompt file -> TADISR_PROMPT."""

from __future__ import annotations

from comfy_api.latest import io

from ..tadisr.prompt import read_prompt
from . import bridge, prompt_files


class TADiSRLoadPrompt(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TADiSRLoadPrompt",
            display_name="Load TADiSR Prompt",
            category=bridge.CATEGORY,
            description="Loads a prompt that was encoded before; no text encoder is needed.",
            **bridge.aliases("tadisr prompt", "kolors prompt"),
            inputs=[
                io.Combo.Input(
                    "prompt_file",
                    options=prompt_files.prompt_names() or [prompt_files.NO_PROMPT],
                    tooltip="A prompt file in models/tadisr, made by TADiSR Encode Prompt or python -m tadisr prompt.",
                )
            ],
            outputs=[
                bridge.Prompt.Output(
                    "tadisr_prompt", display_name="prompt", tooltip="For Load TADiSR Adapter or TADiSR Denoise."
                )
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, prompt_file: str) -> tuple[str | float, ...]:
        """A file that was replaced is loaded again."""
        return prompt_file, prompt_files.prompt_path(prompt_file).stat().st_mtime

    @classmethod
    def execute(cls, prompt_file: str) -> io.NodeOutput:
        return io.NodeOutput(read_prompt(prompt_files.prompt_path(prompt_file)))
