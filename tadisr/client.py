"""A headless client of a running ComfyUI that has this pack: upload, queue, follow, fetch. See docs/user/api.md.

python -m tadisr.client photo.jpg -o out [--server http://127.0.0.1:8188] [--scale 2]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import uuid
from pathlib import Path
from typing import Any

WORKFLOW = Path(__file__).parents[1] / "workflows" / "api" / "upscale.json"
FINAL = ("execution_success", "execution_error", "execution_interrupted")
QUIET = 2.0  # seconds without an event after which the queue is looked at


async def run_workflow(server: str, picture: Path, out: Path, **settings: Any) -> list[Path]:
    """Run workflows/api/upscale.json on an image and download the files it wrote into `out`.

    settings: inputs of TADiSRUpscale. Raises RuntimeError with ComfyUI's own sentence when it refuses or fails,
    and when the prompt was removed from its queue; FileNotFoundError, OSError.
    """
    import aiohttp  # ComfyUI has it; elsewhere: pip install aiohttp

    client = uuid.uuid4().hex
    async with aiohttp.ClientSession(server, raise_for_status=False) as http:
        form = aiohttp.FormData()
        form.add_field("image", picture.read_bytes(), filename=picture.name)
        async with http.post("/upload/image", data=form) as answer:
            name = (await answer.json())["name"]  # ComfyUI numbers a second image of one name

        prompt = json.loads(WORKFLOW.read_text(encoding="utf-8"))
        for node in prompt.values():
            if node["class_type"] == "LoadImage":
                node["inputs"]["image"] = name
            if node["class_type"] == "TADiSRUpscale":
                node["inputs"] |= settings
        async with http.ws_connect(f"/ws?clientId={client}", max_msg_size=0) as events:
            async with http.post("/prompt", json={"prompt": prompt, "client_id": client}) as answer:
                queued = await answer.json()
            if "prompt_id" not in queued:
                raise RuntimeError(json.dumps(queued.get("node_errors") or queued.get("error")))
            job = queued["prompt_id"]
            event: dict[str, Any] = {"type": "", "data": {"exception_message": "The connection was lost."}}
            while True:
                try:
                    message = await events.receive(timeout=QUIET)
                except asyncio.TimeoutError:
                    if not await is_known(http, job):
                        raise RuntimeError("The prompt was removed from ComfyUI's queue.") from None
                    continue
                if message.type in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.ERROR):
                    break
                if message.type != aiohttp.WSMsgType.TEXT:  # previews come as binary
                    continue
                event = json.loads(message.data)
                if event["type"] == "progress":
                    print(f"\rtile {event['data']['value']} of {event['data']['max']}", end="", file=sys.stderr)
                if event["type"] in FINAL and event["data"]["prompt_id"] == job:
                    break
            if event["type"] != FINAL[0]:
                raise RuntimeError(event["data"].get("exception_message", "interrupted").strip())
        print(file=sys.stderr)

        history: dict[str, Any] = {}
        while job not in history:  # it is written just after the last event
            async with http.get(f"/history/{job}") as answer:
                history = await answer.json()
        out.mkdir(parents=True, exist_ok=True)
        written = []
        for image in (image for node in history[job]["outputs"].values() for image in node.get("images", [])):
            async with http.get("/view", params=image) as answer:
                written.append(out / image["filename"])
                written[-1].write_bytes(await answer.read())
        return written


async def is_known(http: Any, job: str) -> bool:
    """Tell whether ComfyUI runs the prompt, has it in its queue or its history."""
    async with http.get("/queue") as answer:
        queue = await answer.json()
    if any(job == entry[1] for entries in queue.values() for entry in entries):
        return True
    async with http.get(f"/history/{job}") as answer:
        return job in await answer.json()


def main() -> int:
    """Run the command. Exit code 0, or 1 after one sentence."""
    parser = argparse.ArgumentParser(prog="python -m tadisr.client", description="Upscale through a running ComfyUI.")
    parser.add_argument("picture", type=Path)
    parser.add_argument("-o", "--out", type=Path, default=Path("out"), help="a folder (default out)")
    parser.add_argument("--server", default="http://127.0.0.1:8188")
    parser.add_argument("--scale", type=float, default=4.0)
    a = parser.parse_args()
    try:
        print(*asyncio.run(run_workflow(a.server, a.picture, a.out, scale=a.scale)), sep="\n")
    except FileNotFoundError as error:
        print(f"error: There is no {error.filename}.", file=sys.stderr)
    except OSError as error:  # aiohttp's errors of a connection are OSErrors too
        print(f"error: No ComfyUI answers at {a.server} ({error}): start it, or give --server.", file=sys.stderr)
    except RuntimeError as error:
        print(f"error: {error}", file=sys.stderr)
    else:
        return 0
    return 1


if __name__ == "__main__":
    sys.exit(main())
