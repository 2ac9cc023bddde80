"""Loads the link stubs before torchvision and torchaudio ask for the real libraries."""

import ctypes
from pathlib import Path

for name in ("libcudart.so.13", "libc10_cuda.so", "libtorch_cuda.so"):
    ctypes.CDLL(str(Path(__file__).parent / name))
