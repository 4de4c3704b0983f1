"""Measures the router beside what else one would build or run; see README.md."""
