"""Commands of `python -m tadisr` that are no part of upscaling; `tadisr/cli.py` knows the rest."""
