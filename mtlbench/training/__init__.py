"""Training of one model, from a protocol to its results."""
