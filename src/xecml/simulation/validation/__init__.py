"""The simulation held against published numbers and against light traced photon by photon."""
