"""The ledger's rules: frozen values, pure functions. No I/O, clock, chance; no float is booked."""
