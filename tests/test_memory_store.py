"""The store's fake passes the contract."""

from __future__ import annotations

from flowgate.bus.memory_store import MemoryStore
from tests.contracts.at_once import AtOnceTestCase
from tests.contracts.store import StoreContract


class MemoryStoreTests(StoreContract, AtOnceTestCase):
    """The contract, over the fake."""

    def setUp(self) -> None:
        self.store = MemoryStore()
