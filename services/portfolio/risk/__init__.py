"""Risk: limits that halt, the kill switch, silence, and the guardian that watches for them."""
