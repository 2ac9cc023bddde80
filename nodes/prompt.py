"""Encoding a prompt once, and loading what was kept of it."""

from __future__ import annotations

import comfy.model_management as mm
import torch
from comfy_api.latest import io

from ..tadisr.config import PromptConfig
from ..tadisr.errors import CheckpointError
from ..tadisr.prompt import read_prompt
from ..tadisr.text_encoders import encoder_of
from .host import folders, prompt_files, schema
from .host.checked_node import Node
from .host.progress import Progress

LAYER = 1 << 30  # bytes: one layer of ChatGLM3 or GLM-4 and what it computes


class TADiSREncodePrompt(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TADiSREncodePrompt",
            display_name="TADiSR Encode Prompt",
            category=schema.CATEGORY,
            description="Encodes a prompt with the base's text encoder, Kolors' ChatGLM3 or CogView4's GLM-4, once: the result "
            "is kept in models/tadisr and the text encoder is not needed again. It takes one layer's memory, not the whole "
            "encoder's.",
            **schema.search_aliases("chatglm3", "kolors text encode", "cogview4 text encode", "tadisr prompt"),
            is_output_node=True,
            inputs=[
                io.Combo.Input(
                    "text_encoder",
                    options=list(prompt_files.list_encoders()) or [prompt_files.NO_ENCODER],
                    tooltip="ChatGLM3: one safetensors file (fp16, 8-bit, 4-bit) in models/LLM or models/text_encoders, "
                    "or the text_encoder folder of Kolors in models/diffusers. GLM-4: that of CogView4, likewise.",
                ),
                io.String.Input(
                    "prompt",
                    multiline=True,
                    default="",
                    placeholder="empty: the prompt with which adapters on this encoder's base are trained",
                    tooltip="The prompt to encode. Empty: the prompt with which adapters on this "
                    "encoder's base are trained, for Kolors 'best quality,highres,extremely detailed,text', for CogView4 a "
                    "longer one.",
                ),
                io.String.Input(
                    "word",
                    default=PromptConfig.word,
                    tooltip="The word of the prompt whose attention marks text. It must be in the prompt; its last "
                    "occurrence counts.",
                ),
                io.String.Input(
                    "name",
                    default="kolors_text",
                    tooltip="The file in models/tadisr that keeps the result, without folders.",
                ),
                schema.fold_away(
                    io.Boolean.Input(
                        "overwrite",
                        default=False,
                        optional=True,
                        tooltip="Replace a prompt file of this name that holds another prompt. A model is never replaced.",
                    )
                ),
            ],
            outputs=[
                schema.Prompt.Output(
                    "tadisr_prompt",
                    display_name="prompt",
                    tooltip="For Load TADiSR Adapter or TADiSR Denoise. Load it later with Load TADiSR Prompt.",
                )
            ],
            hidden=[io.Hidden.unique_id],
        )  # fmt: skip

    @classmethod
    def fingerprint_inputs(
        cls, text_encoder: str, prompt: str, word: str, name: str, overwrite: bool = False
    ) -> tuple[str | float, ...]:
        """An encoder that was replaced is asked again."""
        return text_encoder, prompt, word, name, folders.changed(prompt_files.encoder_path(text_encoder))

    @classmethod
    def execute(
        cls, text_encoder: str, prompt: str, word: str, name: str, overwrite: bool = False
    ) -> io.NodeOutput:  # fmt: skip
        path = prompt_files.target_path(name)
        source = prompt_files.encoder_path(text_encoder)
        encoder, vocabulary = encoder_of(source), prompt_files.vocabulary_for(source)
        text = prompt if prompt.strip() else encoder.TEXT
        try:
            kept = read_prompt(path)
        except CheckpointError:
            kept = None
        if kept is not None and kept.record == encoder.record_of(source, vocabulary, text, word):
            return io.NodeOutput(kept)
        prompt_files.refuse_to_overwrite(path, allowed=overwrite)
        device = mm.get_torch_device()
        mm.free_memory(LAYER, device)
        half = mm.should_use_fp16 if encoder.HALF is torch.float16 else mm.should_use_bf16
        encoded = encoder.encode_prompt(
            source, tokenizer=vocabulary, text=text, word=word, device=device,
            dtype=encoder.HALF if half(device) else torch.float32, progress=Progress(cls.hidden.unique_id),
        )  # fmt: skip
        mm.soft_empty_cache()
        encoded.save(path)
        return io.NodeOutput(encoded)


class TADiSRLoadPrompt(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TADiSRLoadPrompt",
            display_name="Load TADiSR Prompt",
            category=schema.CATEGORY,
            description="Loads a prompt that was encoded before; no text encoder is needed.",
            **schema.search_aliases("tadisr prompt", "kolors prompt"),
            inputs=[
                io.Combo.Input(
                    "prompt_file",
                    options=prompt_files.prompt_names() or [prompt_files.NO_PROMPT],
                    tooltip="A prompt file in models/tadisr, made by TADiSR Encode Prompt or python -m tadisr prompt.",
                )
            ],
            outputs=[
                schema.Prompt.Output(
                    "tadisr_prompt", display_name="prompt", tooltip="For Load TADiSR Adapter or TADiSR Denoise."
                )
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, prompt_file: str) -> tuple[str | float, ...]:
        """A file that was replaced is loaded again."""
        return prompt_file, folders.changed(prompt_files.prompt_path(prompt_file))

    @classmethod
    def execute(cls, prompt_file: str) -> io.NodeOutput:
        return io.NodeOutput(read_prompt(prompt_files.prompt_path(prompt_file)))
