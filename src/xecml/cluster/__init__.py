"""Batch systems and searches."""
