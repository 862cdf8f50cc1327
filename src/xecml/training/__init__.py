"""From recipes and files to checkpoints."""
