"""Brokers: who executes orders."""
