"""The nodes, thin: what they do is in `tadisr`."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from .folder import TADiSRUpscaleFolder
from .host import folders, startup
from .load import TADiSRAdapterLoader, TADiSRKolorsLoader, TADiSRLoader
from .prompt import TADiSREncodePrompt, TADiSRLoadPrompt
from .stages import TADiSRDenoise, TADiSREncode, TADiSRJointDecode, TADiSRTextAttention
from .text import TADiSRCompareText, TADiSREditMask, TADiSRReadText, TADiSRTextComposite
from .upscale import TADiSRTiling, TADiSRUpscale

folders.register_model_folder()
startup.log_missing()


class TADiSRExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [
            TADiSRLoader, TADiSRKolorsLoader, TADiSRAdapterLoader, TADiSRTiling, TADiSRUpscale,
            TADiSRUpscaleFolder,
            TADiSREncodePrompt, TADiSRLoadPrompt,
            TADiSREncode, TADiSRDenoise, TADiSRTextAttention, TADiSRJointDecode,
            TADiSREditMask, TADiSRTextComposite, TADiSRReadText, TADiSRCompareText,
        ]  # fmt: skip
