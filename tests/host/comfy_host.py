"""A real ComfyUI: start it on a folder of its own, post workflows, follow their events, stop it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

ROOT = Path(__file__).resolve().parents[2]
TEXT = 3  # kind of a binary message that carries a text for a node
FINAL = ("execution_success", "execution_error", "execution_interrupted")


def location() -> tuple[Path, str]:
    """ComfyUI's folder and the Python that runs it: $COMFYUI_DIR if set, else what `make host` put into .host/."""
    given = os.environ.get("COMFYUI_DIR")
    if not given:
        return ROOT / ".host" / "ComfyUI", sys.executable
    folder = Path(given).expanduser().resolve()
    if not (folder / "main.py").is_file():
        sys.exit(f"COMFYUI_DIR is {folder}, but there is no main.py in it.")
    own = [folder / name / "bin" / "python" for name in (".venv", "venv")]
    python = os.environ.get("COMFYUI_PYTHON") or next((str(p) for p in own if p.exists()), sys.executable)
    return folder, python


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    """One node of a workflow in API form."""
    return {"class_type": kind, "inputs": inputs}


def binary_event(data: bytes) -> tuple[str, Any]:
    """A binary message: ("text", what a node shows) or ("preview", its kind)."""
    kind = int.from_bytes(data[:4], "big")
    if kind != TEXT:
        return "preview", kind
    begin = 8 + int.from_bytes(data[4:8], "big")  # the node's id
    return "text", data[begin:].decode()


@dataclass
class Result:
    """What became of one prompt. `events` are the websocket's, binary ones as `binary_event` gives them."""

    status: int
    body: Any
    events: list[tuple[str, Any]] = field(default_factory=list)
    history: dict[str, Any] = field(default_factory=dict)

    @property
    def last(self) -> str:
        return self.events[-1][0] if self.events else "refused"

    @property
    def error(self) -> str:
        return self.events[-1][1].get("exception_message", "") if self.last == "execution_error" else ""

    def images(self, node: str) -> list[dict[str, str]]:
        return self.history["outputs"].get(node, {}).get("images", [])


class Comfy:
    """`with Comfy(base) as comfy:` a server whose inputs, outputs and custom nodes lie under `base`."""

    def __init__(self, base: Path, *, pack: Path | None = ROOT, arguments: Sequence[str] = ()) -> None:
        self.base, self.pack, self.arguments = base.resolve(), pack, arguments
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = self.base / "server.log"

    def __enter__(self) -> Comfy:
        for name in ("custom_nodes", "models", "input", "output", "temp", "user/default"):
            (self.base / name).mkdir(parents=True, exist_ok=True)
        if self.pack is not None:
            link = self.base / "custom_nodes" / "tadisr"
            link.unlink(missing_ok=True)
            link.symlink_to(self.pack)
        folder, python = location()
        if not folder.is_dir():
            sys.exit(f"There is no ComfyUI in {folder}: run `make host`.")
        b = self.base
        command = [
            python, "main.py", "--listen", "127.0.0.1", "--port", str(self.port), "--base-directory", str(b),
            "--output-directory", str(b / "output"), "--input-directory", str(b / "input"), "--temp-directory", str(b),
            "--user-directory", str(b / "user"), "--database-url", "sqlite:///:memory:", "--disable-api-nodes",
            "--disable-auto-launch", "--log-stdout", *self.device(python), *self.arguments,
        ]  # fmt: skip
        self.file = self.log.open("w")
        self.process = subprocess.Popen(
            command, cwd=folder, stdout=self.file, stderr=subprocess.STDOUT, env={**os.environ, "PYTHONUNBUFFERED": "1"}
        )
        self.wait_until_up()
        return self

    @staticmethod
    def device(python: str) -> list[str]:
        """--cpu where there is no GPU that ComfyUI would find by itself."""
        probe = "import torch; print(torch.cuda.is_available() or torch.backends.mps.is_available())"
        found = subprocess.run([python, "-c", probe], capture_output=True, text=True).stdout.strip()
        return [] if found == "True" else ["--cpu"]

    def wait_until_up(self, seconds: float = 180) -> None:
        begun = time.monotonic()
        while time.monotonic() - begun < seconds:
            if self.process.poll() is not None:
                raise RuntimeError(f"ComfyUI ended at once:\n{self.tail()}")
            try:
                self.get("/system_stats")
                return
            except OSError:
                time.sleep(0.2)
        raise TimeoutError(f"ComfyUI did not answer within {seconds} s:\n{self.tail()}")

    def __exit__(self, *_: object) -> None:
        self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.file.close()

    def tail(self, characters: int = 3000) -> str:
        return self.log.read_text()[-characters:]

    # ---- HTTP -------------------------------------------------------------------------------------------------------

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(self.url + path, timeout=60) as answer:
            return json.loads(answer.read())

    def post(self, path: str, data: Any) -> tuple[int, Any]:
        request = urllib.request.Request(
            self.url + path, json.dumps(data).encode(), {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                body = answer.read()
                return answer.status, json.loads(body) if body else None
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read())

    def output(self, image: dict[str, str]) -> Path:
        """Where an image of the history lies on disk."""
        return self.base / image["type"] / image["subfolder"] / image["filename"]

    def run(self, prompt: dict[str, Any], *, timeout: float = 600, on_event: Any = None) -> Result:
        """Post a workflow in API form and wait until it has ended."""
        return asyncio.run(self._run(prompt, timeout, on_event))

    async def _run(self, prompt: dict[str, Any], timeout: float, on_event: Any) -> Result:
        client = uuid.uuid4().hex
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(f"{self.url}/ws?clientId={client}", max_msg_size=0) as socket_,
        ):
            status, body = await asyncio.to_thread(self.post, "/prompt", {"prompt": prompt, "client_id": client})
            result = Result(status, body)
            if status != 200:
                return result
            await asyncio.wait_for(self._follow(socket_, body["prompt_id"], result, on_event), timeout)
        result.history = await self._history(body["prompt_id"])
        return result

    async def _follow(self, socket_: Any, prompt_id: str, result: Result, on_event: Any) -> None:
        async for message in socket_:
            if message.type == aiohttp.WSMsgType.BINARY:
                result.events.append(binary_event(message.data))
            elif message.type == aiohttp.WSMsgType.TEXT:
                event = json.loads(message.data)
                result.events.append((event["type"], event.get("data")))
            else:
                continue
            kind, data = result.events[-1]
            if on_event is not None:
                await asyncio.to_thread(on_event, kind, data)
            if kind in FINAL and data["prompt_id"] == prompt_id:
                return

    async def _history(self, prompt_id: str) -> dict[str, Any]:
        """It is written just after the last event."""
        for _ in range(200):
            history = self.get(f"/history/{prompt_id}")
            if prompt_id in history:
                return history[prompt_id]
            await asyncio.sleep(0.05)
        raise TimeoutError("The prompt ended, but it is not in the history.")
