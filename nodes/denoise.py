"""z_L -> z_H in one step, and what the cross-attention heard of the word "text"."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..tadisr import stages
from ..tadisr.prompt import EncodedPrompt
from . import bridge
from .memory import Loaded


class TADiSRDenoise(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TADiSRDenoise",
            display_name="TADiSR Denoise",
            category=bridge.STAGES,
            description='Second stage: the one denoising step, listening to the cross-attention\'s answer to the word "text".',
            **bridge.aliases("tadisr sampler"),
            inputs=[
                io.Latent.Input(
                    "latent",
                    tooltip="From TADiSR Encode, or any latent of the model's VAE: VAE Encode, a KSampler, a latent node.",
                ),
                bridge.Model.Input("model", tooltip="The same model as in TADiSR Encode."),
                bridge.Prompt.Input(
                    "prompt",
                    optional=True,
                    tooltip="Another prompt than the one that the adapter carries: TADiSR Encode Prompt, Load TADiSR Prompt. "
                    "Not for the compact model, whose prompt is part of its weights.",
                ),
            ],
            outputs=[
                io.Latent.Output("denoised", display_name="latent", tooltip="z_H, for TADiSR Joint Decode."),
                bridge.Attention.Output(
                    "attention",
                    display_name="attention",
                    tooltip="What every layer answered to the word, for TADiSR Joint Decode and TADiSR Text Attention.",
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, latent: dict[str, Any], model: Loaded, prompt: EncodedPrompt | None = None) -> io.NodeOutput:
        with bridge.in_memory(model, "denoise", pixels=bridge.pixels_of(model, latent)) as network:
            samples, attention = stages.denoise(
                network,
                latent["samples"].cpu(),
                bridge.source_of(latent),
                prompt=prompt,
                progress=bridge.Progress(cls.hidden.unique_id),
            )
        return io.NodeOutput({**latent, "samples": bridge.to_host(samples)}, attention)
