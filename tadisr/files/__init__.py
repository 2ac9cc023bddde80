"""Upscale image files into files: `plan` decides which become what, `upscale` does it, for the command line and the node."""
