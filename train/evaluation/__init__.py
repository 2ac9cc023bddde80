"""What `python -m train.evaluate` is made of: metrics, methods, what is kept, intervals, tables and the page."""
