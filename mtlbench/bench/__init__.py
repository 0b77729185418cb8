"""What the library's own work costs, as ratios measured in one process."""
