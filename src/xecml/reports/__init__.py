"""Folders of numbers and pictures: of an evaluated model, of repairs, of a finished training."""
