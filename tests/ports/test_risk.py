from tests.ports.risk_contract import RiskContract


class TestRisk(RiskContract):
    """In memory and on PostgreSQL; see `store`."""
