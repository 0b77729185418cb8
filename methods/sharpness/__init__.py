"""Sharpness-aware wrappers, one file each."""

DEFAULT = "none"
"""The wrapper that is used where none is named."""
