"""From an image to the upscaled one: tiles, stages, colours, previews."""
