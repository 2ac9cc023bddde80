"""From HR to LR images."""
