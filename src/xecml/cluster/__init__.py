"""Batch systems: sites, scripts of jobs, their records and status."""
