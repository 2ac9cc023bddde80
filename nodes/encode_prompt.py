"""A prompt -> what the base is given of it, and where its word sits; kept in models/tadisr."""

from __future__ import annotations

import comfy.model_management as mm
import torch
from comfy_api.latest import io

from ..tadisr.config import PromptConfig
from ..tadisr.errors import CheckpointError
from ..tadisr.kolors.chatglm import encode_prompt, record_of
from ..tadisr.kolors.glm_weights import open_weights
from ..tadisr.prompt import read_prompt
from . import bridge, prompt_files

LAYER = 1 << 30  # bytes: one layer of ChatGLM3 and what it computes


class TADiSREncodePrompt(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TADiSREncodePrompt",
            display_name="TADiSR Encode Prompt",
            category=bridge.CATEGORY,
            description="Encodes a prompt with Kolors' ChatGLM3, once: the result is kept in models/tadisr and the text "
            "encoder is not needed again. It takes one layer's memory, not the whole encoder's.",
            **bridge.aliases("chatglm3", "kolors text encode", "tadisr prompt"),
            is_output_node=True,
            inputs=[
                io.Combo.Input(
                    "text_encoder",
                    options=list(prompt_files.encoders()) or [prompt_files.NO_ENCODER],
                    tooltip="ChatGLM3: one safetensors file (fp16, 8-bit, 4-bit) in models/LLM or models/text_encoders, "
                    "or the text_encoder folder of Kolors in models/diffusers.",
                ),
                io.String.Input(
                    "prompt",
                    multiline=True,
                    default=PromptConfig.text,
                    tooltip="What the model is to make of every picture. Adapters are trained with the default.",
                ),
                io.String.Input(
                    "word",
                    default=PromptConfig.word,
                    tooltip="The word of the prompt that stands for text: the model listens for it. It has to be in the "
                    "prompt; of several places the last one counts.",
                ),
                io.String.Input(
                    "name",
                    default="kolors_text",
                    tooltip="The file in models/tadisr that keeps the result, without folders.",
                ),
                bridge.folded(
                    io.Boolean.Input(
                        "overwrite",
                        default=False,
                        optional=True,
                        tooltip="Replace a prompt file of this name that holds another prompt. A model is never replaced.",
                    )
                ),
            ],
            outputs=[
                bridge.Prompt.Output(
                    "tadisr_prompt", display_name="prompt", tooltip="For TADiSR Denoise. Load it later with Load TADiSR Prompt."
                )
            ],
            hidden=[io.Hidden.unique_id],
        )  # fmt: skip

    @classmethod
    def fingerprint_inputs(
        cls, text_encoder: str, prompt: str, word: str, name: str, overwrite: bool = False
    ) -> tuple[str | float, ...]:
        """An encoder that was replaced is asked again."""
        return text_encoder, prompt, word, name, prompt_files.encoder_path(text_encoder).stat().st_mtime

    @classmethod
    def execute(
        cls, text_encoder: str, prompt: str, word: str, name: str, overwrite: bool = False
    ) -> io.NodeOutput:  # fmt: skip
        path = prompt_files.target(name)
        weights = open_weights(prompt_files.encoder_path(text_encoder))
        vocabulary = prompt_files.vocabulary_for(weights)
        try:
            kept = read_prompt(path)
        except CheckpointError:
            kept = None
        if kept is not None and kept.record == record_of(weights, vocabulary, prompt, word):
            return io.NodeOutput(kept)
        prompt_files.refuse_to_overwrite(path, allowed=overwrite)
        device = mm.get_torch_device()
        mm.free_memory(LAYER, device)
        half = mm.should_use_fp16(device)
        encoded = encode_prompt(
            weights.source, tokenizer=vocabulary, text=prompt, word=word, device=device,
            dtype=torch.float16 if half else torch.float32, progress=bridge.Progress(cls.hidden.unique_id),
        )  # fmt: skip
        mm.soft_empty_cache()
        encoded.save(path)
        return io.NodeOutput(encoded)
