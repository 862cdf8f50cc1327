"""Comparison of the simulation with published numbers and with light that is traced photon by photon."""
