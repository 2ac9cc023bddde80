"""Checkpoints on disk: adapters, frozen bases, the authors' releases, and their download."""
