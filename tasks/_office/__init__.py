"""Object recognition in several domains: one objective a domain, each with images of its own."""
