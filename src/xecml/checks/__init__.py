"""Event files before use: branches, units, ranges, sensors, and which sensors are dead."""
