"""`python -m train.data.rendered`: see `train/data/text_rendering/scenes.py`."""

import sys

from .text_rendering.scenes import main

if __name__ == "__main__":
    sys.exit(main())
