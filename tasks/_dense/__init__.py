"""Dense prediction on folders in MTAN's layout."""
