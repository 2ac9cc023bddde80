"""The paper's stages, one node each: encode, denoise, look at the text attention, decode."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..tadisr import SCALE
from ..tadisr.inference import staged
from ..tadisr.inference.staged import Attention
from ..tadisr.prompt import EncodedPrompt
from ..tadisr.visualization import attention_heatmap
from .host import schema, tensors
from .host.checked_node import Node
from .host.model_management import Loaded, in_memory, pixels_of
from .host.progress import Progress, message_sender


class TADiSREncode(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TADiSREncode",
            display_name="TADiSR Encode",
            category=schema.STAGES,
            description="First stage: resizes an image to 4x and encodes it. The latent is an ordinary one that "
            "also carries what the decoders need of the image.",
            **schema.search_aliases("tadisr vae encode"),
            inputs=[
                io.Image.Input("image", tooltip="One image or a batch, any size, with or without alpha. Not tiled."),
                schema.Model.Input("model", tooltip="From Load TADiSR Model; the same one in all stages."),
                io.Float.Input(
                    "scale", default=4.0, min=1.0, max=4.0, step=0.25,
                    tooltip="Magnification of the result. The network always works at 4x; less is an exact resize at the end.",
                ),
            ],
            outputs=[io.Latent.Output("latent", display_name="latent", tooltip="z_L, for TADiSR Denoise.")],
            hidden=[io.Hidden.unique_id],
        )  # fmt: skip

    @classmethod
    def execute(cls, image: Tensor, model: Loaded, scale: float) -> io.NodeOutput:
        pixels = image.shape[1] * image.shape[2] * SCALE**2
        with in_memory(model, "encode", pixels=pixels) as network:
            samples, source = staged.encode(
                network, tensors.from_comfy(image), scale=scale, progress=Progress(cls.hidden.unique_id)
            )
        return io.NodeOutput({"samples": tensors.to_host(samples), tensors.OURS: source})


class TADiSRDenoise(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TADiSRDenoise",
            display_name="TADiSR Denoise",
            category=schema.STAGES,
            description='Second stage: the one denoising step, recording the cross-attention\'s response to the word "text".',
            **schema.search_aliases("tadisr sampler"),
            inputs=[
                io.Latent.Input(
                    "latent",
                    tooltip="From TADiSR Encode, or any latent of the model's VAE: VAE Encode, a KSampler, a latent node.",
                ),
                schema.Model.Input("model", tooltip="The same model as in TADiSR Encode."),
                schema.Prompt.Input(
                    "prompt",
                    optional=True,
                    tooltip="Another prompt than the one that the adapter carries: TADiSR Encode Prompt, Load TADiSR Prompt. "
                    "Not for the compact model, whose prompt is part of its weights.",
                ),
            ],
            outputs=[
                io.Latent.Output("denoised", display_name="latent", tooltip="z_H, for TADiSR Joint Decode."),
                schema.Attention.Output(
                    "attention",
                    display_name="attention",
                    tooltip="Each layer's response to the word, for TADiSR Joint Decode and TADiSR Text Attention.",
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, latent: dict[str, Any], model: Loaded, prompt: EncodedPrompt | None = None) -> io.NodeOutput:
        with in_memory(model, "denoise", pixels=pixels_of(model, latent)) as network:
            samples, attention = staged.denoise(
                network,
                latent["samples"].cpu(),
                tensors.source_of(latent),
                prompt=prompt,
                progress=Progress(cls.hidden.unique_id),
            )
        return io.NodeOutput({**latent, "samples": tensors.to_host(samples)}, attention)


class TADiSRTextAttention(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TADiSRTextAttention",
            display_name="TADiSR Text Attention",
            category=schema.STAGES,
            description='Shows where the network\'s cross-attention responds to the word "text", as a mask and as a heat map.',
            **schema.search_aliases("cross attention", "heat map", "daam"),
            inputs=[
                schema.Attention.Input("attention", tooltip="From TADiSR Denoise."),
                io.Combo.Input(
                    "layers", options=list(attention_heatmap.LAYERS), default="all",
                    tooltip="All cross-attention layers of the U-Net, or those of its down, mid or up blocks.",
                ),
                io.String.Input(
                    "heads", default="all", tooltip='"all", or numbers such as "0, 2, 5-7".'
                ),
                io.Combo.Input(
                    "normalize", options=list(attention_heatmap.NORMALIZE), default="picture",
                    tooltip="Stretch to 0..1 by each image's own range, by the batch's, or leave the responses as they are.",
                ),
                io.Combo.Input(
                    "color_map", options=list(attention_heatmap.COLOR_MAPS), default="turbo",
                    tooltip="Colours of the heat map.",
                ),
                io.Image.Input(
                    "image", optional=True, tooltip="The heat map is drawn over this image; without one, it is shown alone.",
                ),
            ],
            outputs=[
                io.Mask.Output("map", display_name="mask", tooltip="The mean response, always at 4x."),
                io.Image.Output("heat_map", display_name="heat map", tooltip="The response in colours."),
            ],
        )  # fmt: skip

    @classmethod
    def execute(
        cls,
        attention: Attention,
        layers: str,
        heads: str,
        normalize: str,
        color_map: str,
        image: Tensor | None = None,
    ) -> io.NodeOutput:
        heat = attention_heatmap.heat_map(attention, layers=layers, heads=heads, normalize=normalize)
        if image is None:
            colors = attention_heatmap.colorize_heat(heat, color_map)
        else:
            colors = attention_heatmap.overlay_heat(heat, tensors.from_comfy(image).cpu(), color_map)
        return io.NodeOutput(tensors.to_mask(heat), tensors.to_comfy(colors))


class TADiSRJointDecode(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TADiSRJointDecode",
            display_name="TADiSR Joint Decode",
            category=schema.STAGES,
            description="Last stage: the image decoder and the text segmentation decoder, side by side. A text mask that "
            "you have edited steers them.",
            **schema.search_aliases("tadisr vae decode", "text mask"),
            inputs=[
                io.Latent.Input("latent", tooltip="From TADiSR Denoise."),
                schema.Attention.Input("attention", tooltip="From TADiSR Denoise."),
                schema.Model.Input("model", tooltip="The same model as in the other stages."),
                schema.guide_input(),
                io.Float.Input(
                    "guide_strength", default=1.0, min=0.0, max=1.0, step=0.05, optional=True,
                    tooltip="How far the edited mask steers the decoders; 0: not at all.",
                ),
                schema.detail_input(),
            ],
            outputs=schema.result_outputs(),
            hidden=[io.Hidden.unique_id],
        )  # fmt: skip

    @classmethod
    def execute(
        cls,
        latent: dict[str, Any],
        attention: Attention,
        model: Loaded,
        mask: Tensor | None = None,
        guide_strength: float = 1.0,
        detail: float = schema.DETAIL,
    ) -> io.NodeOutput:
        guide = tensors.guide_of(mask, message_sender(cls.hidden.unique_id))
        with in_memory(model, "decode", pixels=pixels_of(model, latent), guided=guide is not None) as network:
            result = staged.decode(
                network,
                latent["samples"].cpu(),
                attention,
                guide=guide,
                strength=guide_strength,
                detail=detail,
                progress=Progress(cls.hidden.unique_id),
            )
        return tensors.to_outputs(result)
