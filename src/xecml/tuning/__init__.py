"""Searches of hyper-parameters: search space, workers, results."""
