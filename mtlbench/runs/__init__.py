"""Runs: from a request to a record, one or many."""
