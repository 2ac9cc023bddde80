"""What the nodes share in ComfyUI: folders, files, tensors, memory, progress."""
