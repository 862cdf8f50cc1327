"""Scintillation light from the cascade's deposits to the sensors."""
