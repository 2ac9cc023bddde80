"""`python -m train.synthesis.segmenter`: see `train/segmentation/__main__.py`."""

import sys

from ..segmentation.__main__ import main

if __name__ == "__main__":
    sys.exit(main())
