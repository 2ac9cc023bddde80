"""Real-CE's alignment and preparation (Sec. 4.1)."""
