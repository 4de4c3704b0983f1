"""The transport: gRPC servicers, and what stands around every call. No ledger rule is here."""
