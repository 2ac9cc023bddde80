"""The command line, `python -m tadisr`: one file for each command that is no part of upscaling; `main` knows them all."""

from ..devices import choose_placement
from .main import build_parser, main

__all__ = ["build_parser", "choose_placement", "main"]
