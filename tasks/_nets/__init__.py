"""Networks of the benchmark tasks."""
