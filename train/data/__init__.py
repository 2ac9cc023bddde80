"""Readers and generators of (LR, HR, mask) triplets."""
