"""The crash test of the LIVE path: its parts are killed at random while orders flow.

`python -m tests.live.chaos --seed 1 --kills 300` runs real processes (PostgreSQL, the simulated
gateway, two routers), and compares in the end what the ledger says with what the broker knows.
"""
