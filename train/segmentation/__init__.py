"""Segment text strokes: by SAM-TS as in the paper, or this project's own text decoder.

segmenter = open_segmenter("sam_tss_l_textseg.pth", sam="sam_vit_l_0b3195.pth", device="cuda")
(mask,) = segmenter([image])     # (h, w, 3) uint8 -> (h, w) float32, the probability of text stroke
"""

from __future__ import annotations

from pathlib import Path

from tadisr.errors import CheckpointError

from .segmenter import Mask, Picture, Segmenter, quantize_mask

__all__ = ["Mask", "Picture", "Segmenter", "open_segmenter", "quantize_mask"]


def open_segmenter(
    spec: str | Path, *, device: str = "cpu", sam: str | Path | None = None, precision: str = "fp32", batch: int = 1
) -> Segmenter:
    """Open a text segmenter. spec: `compact`, the model that ships with the pack; a `.pth` of Hi-SAM's (sam: SAM's own
    file, for the image encoder); a `.safetensors` of `segmenter fit`, or any model of this project with a text decoder.

    precision: fp32, fp16 or bf16, for SAM-TS on a GPU. batch: images or windows that SAM-TS takes at once. Raises
    CheckpointError, ConfigError.

    precision: fp32, fp16 or bf16, for SAM-TS on a GPU. batch: images or windows that SAM-TS takes at once. Raises
    CheckpointError, ConfigError.
    """
    from .run import OwnSegmenter, SamTSSegmenter
    from .sam_ts.checkpoint import is_own

    path = Path(spec)
    if spec == "compact":
        return OwnSegmenter(None, device=device)
    if path.suffix == ".safetensors" and not is_own(path):
        return OwnSegmenter(path, device=device)
    if path.suffix in (".safetensors", ".pth", ".pt"):
        return SamTSSegmenter(path, sam=sam, device=device, precision=precision, batch=batch)
    raise CheckpointError(f"{spec} is no segmenter: expected compact, a .pth of Hi-SAM's or a .safetensors.")
