"""Pictures: resolutions, repairs, single events, saliency, checks."""
