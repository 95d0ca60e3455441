"""The store's fake passes the contract."""

from __future__ import annotations

from twisted.trial.unittest import TestCase

from flowgate.bus.memory_store import MemoryStore
from tests.contracts.store import StoreContract


class MemoryStoreTests(StoreContract, TestCase):
    """The contract, over the fake."""

    def setUp(self) -> None:
        self.store = MemoryStore()
