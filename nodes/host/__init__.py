"""Shared parts of the nodes: ComfyUI's folders, files, tensors, memory management, progress."""
