"""What a model costs: time, FLOPs, memory."""
