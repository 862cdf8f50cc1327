"""Numbers about predictions and repairs."""
