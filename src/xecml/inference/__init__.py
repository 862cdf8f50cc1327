"""Trained models at work: load, predict, fill dead sensors, export. Needs no training code to run."""
