"""One training step: movable parameters, gradients on demand, the update."""
