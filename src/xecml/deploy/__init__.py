"""Trained models on their way into the experiment."""
