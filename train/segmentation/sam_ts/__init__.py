"""SAM-TS, the text-stroke segmenter of Hi-SAM (Ye et al.)."""
