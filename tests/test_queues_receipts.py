"""Receipts cannot be made by anybody else, nor used elsewhere."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from flowgate.errors import ReceiptInvalid
from flowgate.queues.receipts import Receipts
from flowgate.topics import Namespace

HERE = Namespace("alice", "shop")


class ReceiptsTests(SynchronousTestCase):
    """Issue and open."""

    def setUp(self) -> None:
        self.receipts = Receipts(b"secret")
        self.receipt = self.receipts.issue(HERE, "q", "$JS.ACK.handle")

    def test_opens(self) -> None:
        """A receipt gives back its handle, also at another node with the same secret."""
        self.assertEqual(Receipts(b"secret").open(HERE, "q", self.receipt), "$JS.ACK.handle")

    def test_url_safe(self) -> None:
        """A receipt can be part of a URL's path as it is."""
        self.assertRegex(self.receipt, r"\A[A-Za-z0-9_-]+\Z")

    def test_other_queue(self) -> None:
        """It is refused for another queue, namespace or secret."""
        for receipts, namespace, name in (
            (self.receipts, HERE, "r"),
            (self.receipts, Namespace("bob", "shop"), "q"),
            (self.receipts, Namespace("alice", "shop2"), "q"),
            (Receipts(b"other"), HERE, "q"),
        ):
            self.assertRaises(ReceiptInvalid, receipts.open, namespace, name, self.receipt)

    def test_every_character_counts(self) -> None:
        """A receipt with any character changed is refused."""
        for place, character in enumerate(self.receipt[:-1]):
            other = "A" if character != "A" else "B"
            changed = self.receipt[:place] + other + self.receipt[place + 1 :]
            self.assertRaises(ReceiptInvalid, self.receipts.open, HERE, "q", changed)

    @given(st.text(max_size=100))
    def test_anything_else(self, text: str) -> None:
        """Any other text is refused, and nothing else happens."""
        self.assertRaises(ReceiptInvalid, self.receipts.open, HERE, "q", text)

    def test_endless(self) -> None:
        """A text far longer than any receipt is refused."""
        self.assertRaises(ReceiptInvalid, self.receipts.open, HERE, "q", "A" * 1_000_000)
