"""The nodes, thin: what they do is in `tadisr`."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from . import bridge
from .adapter_loader import TADiSRAdapterLoader
from .compare_text import TADiSRCompareText
from .composite import TADiSRTextComposite
from .decode import TADiSRJointDecode
from .denoise import TADiSRDenoise
from .encode import TADiSREncode
from .encode_prompt import TADiSREncodePrompt
from .kolors_loader import TADiSRKolorsLoader
from .load_prompt import TADiSRLoadPrompt
from .loader import TADiSRLoader
from .read_text import TADiSRReadText
from .text_attention import TADiSRTextAttention
from .tiling import TADiSRTiling
from .upscale import TADiSRUpscale

bridge.register_model_folder()


class TADiSRExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [
            TADiSRLoader, TADiSRKolorsLoader, TADiSRAdapterLoader, TADiSRTiling, TADiSRUpscale,
            TADiSREncodePrompt, TADiSRLoadPrompt,
            TADiSREncode, TADiSRDenoise, TADiSRTextAttention, TADiSRJointDecode,
            TADiSRTextComposite, TADiSRReadText, TADiSRCompareText,
        ]  # fmt: skip
