"""ComfyUI's door to TADiSR. Nothing of ComfyUI is imported until ComfyUI asks for the nodes."""

WEB_DIRECTORY = "./web"  # help pages: web/docs/NODE.md


async def comfy_entrypoint():
    from .nodes import TADiSRExtension

    return TADiSRExtension()
