"""The fake of the journal passes the contract."""

from __future__ import annotations

from flowgate.bus.memory_journal import MemoryJournal
from tests.contracts.at_once import AtOnceTestCase
from tests.contracts.journal import JournalContract


class MemoryJournalTests(JournalContract, AtOnceTestCase):
    """The contract, over the fake."""

    def setUp(self) -> None:
        self.journal: MemoryJournal = MemoryJournal(lambda: 1795690800.0)

    async def go_away(self) -> None:
        self.journal.go_away()

    async def come_back(self) -> None:
        self.journal.come_back()
