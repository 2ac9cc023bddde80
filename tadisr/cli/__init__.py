"""The command line, `python -m tadisr`: one file for each command that is no part of upscaling; `main` knows them all."""

from ..devices import placement
from .main import main, parser

__all__ = ["main", "parser", "placement"]
