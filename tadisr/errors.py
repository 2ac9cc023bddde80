"""Errors a user can act on: each says what was found, what was expected and what to do."""

from __future__ import annotations


class TADiSRError(Exception):
    """Base of every error this package raises on purpose."""


class ConfigError(TADiSRError):
    """A setting is outside what the model or the command can do."""


class CheckpointError(TADiSRError):
    """A model, adapter or base file is missing, broken, foreign, or does not fit."""


class ResultError(TADiSRError):
    """The network gave NaN or infinite values: there is no image to hand out."""


class OutOfMemoryError(TADiSRError):
    """Memory does not suffice, also not for the smallest tile."""


class ImageError(TADiSRError):
    """An image cannot be read, or has a shape or values the model cannot take."""
