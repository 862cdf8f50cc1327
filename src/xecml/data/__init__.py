"""Events on their way to networks."""
