"""Batch systems: sites, scripts of jobs, their records and what became of them."""
