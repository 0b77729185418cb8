"""Published numbers, as data of the package."""
