"""The ledger's rules: frozen values and pure functions. No I/O, no clock, no chance, no float."""
