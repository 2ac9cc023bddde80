"""Parts of `python -m train.evaluate`: metrics, methods, the cache, intervals, tables and the page."""
