"""Receipts cannot be made by anybody else, nor used elsewhere."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from flowgate.errors import ReceiptInvalid
from flowgate.queues.receipts import Receipt, Receipts
from flowgate.topics import Namespace

HERE = Namespace("alice", "shop")


class ReceiptsTests(SynchronousTestCase):
    """Issue and open."""

    def setUp(self) -> None:
        self.receipts = Receipts(b"secret")
        self.said = Receipt("m1", 7 << 10 | 3, 2)
        self.receipt = self.receipts.issue(HERE, "q", self.said)

    def test_opens(self) -> None:
        """A receipt gives back what it says, also at another node with the same secret."""
        self.assertEqual(Receipts(b"secret").open(HERE, "q", self.receipt), self.said)

    @given(
        st.text("0123456789abcdefghijklmnopqrstuvwxyz", min_size=1, max_size=8),
        st.integers(1, 2**63),
        st.integers(1, 2**31),
    )
    def test_any(self, incarnation: str, place: int, number: int) -> None:
        """Any place and number of any making of a queue can be said; the receipt is short, and can be in a URL."""
        said = Receipt(incarnation, place, number)
        receipt = self.receipts.issue(HERE, "q.fifo", said)
        self.assertEqual(self.receipts.open(HERE, "q.fifo", receipt), said)
        self.assertRegex(receipt, r"\A[A-Za-z0-9][A-Za-z0-9_-]{1,99}\Z")

    def test_differ(self) -> None:
        """Each receive of a message has a receipt of its own, and each making of the queue."""
        others = [Receipt("m1", self.said.place, 3), Receipt("m1", self.said.place + 1, 2), Receipt("m2", 7, 2)]
        self.assertEqual(len({self.receipt, *(self.receipts.issue(HERE, "q", one) for one in others)}), 4)

    def test_elsewhere(self) -> None:
        """It is refused for another queue, namespace or secret."""
        for receipts, namespace, name in (
            (self.receipts, HERE, "r"),
            (self.receipts, HERE, "q.fifo"),
            (self.receipts, Namespace("bob", "shop"), "q"),
            (self.receipts, Namespace("alice", "shop2"), "q"),
            (Receipts(b"other"), HERE, "q"),
        ):
            self.assertRaises(ReceiptInvalid, receipts.open, namespace, name, self.receipt)

    def test_every_character_counts(self) -> None:
        """A receipt with any character changed, missing or added is refused."""
        for place, character in enumerate(self.receipt[:-1]):
            other = "A" if character != "A" else "B"
            before, behind = self.receipt[:place], self.receipt[place + 1 :]
            for changed in (before + other + behind, before + behind, before + other + character + behind):
                self.assertRaises(ReceiptInvalid, self.receipts.open, HERE, "q", changed)

    @given(st.text(max_size=100))
    def test_anything_else(self, text: str) -> None:
        """Any other text is refused, and nothing else happens."""
        self.assertRaises(ReceiptInvalid, self.receipts.open, HERE, "q", text)

    def test_endless(self) -> None:
        """A text far longer than any receipt is refused."""
        self.assertRaises(ReceiptInvalid, self.receipts.open, HERE, "q", "A" * 1_000_000)
