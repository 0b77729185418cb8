"""Embedded data; see ATTRIBUTION.md."""
