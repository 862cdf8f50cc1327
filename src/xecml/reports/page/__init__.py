"""One self-contained page of a model: numbers, curves, resolutions, selections, what it looks at, events."""
