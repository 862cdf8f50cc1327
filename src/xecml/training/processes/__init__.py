"""Several processes that train together, and the devices they use."""
