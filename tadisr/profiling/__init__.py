"""Measure and estimate a model's time, FLOPs and memory."""
