"""Training scripts over one engine."""
