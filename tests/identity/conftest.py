"""The storage for routers that ask who calls."""

from tests.ports.stores import migrated_url, shared_database_url, store, store_url

__all__ = ["migrated_url", "shared_database_url", "store", "store_url"]
