"""Numbers about predictions, and pictures of these numbers."""
