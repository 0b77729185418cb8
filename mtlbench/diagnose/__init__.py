"""Looking at what was learnt, and at how."""
