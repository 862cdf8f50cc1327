"""The electromagnetic cascade of a photon in liquid xenon, and in what lies before it."""
