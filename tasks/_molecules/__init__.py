"""Molecules of QM9: the layouts they come in, and their features."""
