"""From records to tables and pictures that can be compared."""
