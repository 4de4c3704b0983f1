"""LIVE: one elected sender in all replicas speaks to the broker, and books what it says."""
