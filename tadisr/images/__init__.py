"""Images: files in and out, resizing, padding, transparency. Tensors are (B, C, H, W) in [0, 1]."""

from .alpha import grow_colors, join_alpha, split_alpha
from .resample import output_size, pad_to_multiple, resize_image
from .tensors import check_aspect, from_pil, from_pixels, read_image, to_pil, to_pixels, write_png

__all__ = [
    "check_aspect",
    "from_pil",
    "from_pixels",
    "grow_colors",
    "join_alpha",
    "output_size",
    "pad_to_multiple",
    "read_image",
    "resize_image",
    "split_alpha",
    "to_pil",
    "to_pixels",
    "write_png",
]
