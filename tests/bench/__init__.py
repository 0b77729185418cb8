"""``mtlbench bench`` on networks so small that only the bookkeeping takes time."""
