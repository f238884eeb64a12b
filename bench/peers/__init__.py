"""The peers of `make bench-decide`: each answers the same questions from the same facts through its own best API."""
