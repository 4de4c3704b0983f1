"""End to end: the real Envoy, the real router and the real PostgreSQL."""
