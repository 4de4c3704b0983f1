from tests.ports.ledger_contract import LedgerContract


class TestLedger(LedgerContract):
    """In memory and on PostgreSQL; see `store`."""
