"""Encoders and their parts: from counts and times of all sensors to what an event is."""
