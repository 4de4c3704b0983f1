from tests.ports.allocation_contract import AllocationContract


class TestAllocation(AllocationContract):
    """In memory and on PostgreSQL; see `store`."""
