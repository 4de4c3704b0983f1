"""Allocation: who gets how much of the capital, worked out in a process of its own."""
