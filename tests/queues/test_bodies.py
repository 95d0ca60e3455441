"""Bodies and envelopes: how messages are in the log, and what is kept at hand."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from flowgate.queues.bodies import Bodies, join, split
from flowgate.queues.envelope import Envelope
from flowgate.queues.model import Attribute

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


class PayloadTests(SynchronousTestCase):
    """The payload of an entry."""

    @given(st.lists(st.binary(max_size=20), max_size=10))
    def test_round_trip(self, blobs: list[bytes]) -> None:
        """What was joined is split again, empty ones too; there are no more."""
        payload = join(blobs)
        self.assertEqual([split(payload, index) for index in range(len(blobs))], blobs)
        self.assertIsNone(split(payload, len(blobs)))
        self.assertIsNone(split(payload, len(blobs) + 5))

    def test_cut(self) -> None:
        """What is cut off anywhere is missing, and what lies before it is there."""
        payload = join([b"abc", b"defg"])
        for length in range(len(payload)):
            cut = payload[:length]
            self.assertEqual(split(cut, 0), b"abc" if length >= 7 else None)
            self.assertIsNone(split(cut, 1))


class EnvelopeTests(SynchronousTestCase):
    """A message with what belongs to it."""

    @given(
        st.builds(
            Envelope,
            TEXT,
            st.binary(),
            st.dictionaries(TEXT, st.builds(Attribute, TEXT, TEXT), max_size=3),
            TEXT,
            *[st.none() | TEXT] * 4,
        )
    )
    def test_round_trip(self, envelope: Envelope) -> None:
        """What was encoded is decoded again, whatever the body is."""
        self.assertEqual(Envelope.decode(envelope.encode()), envelope)

    def test_body_as_it_is(self) -> None:
        """The body stands at the end as it is; what is absent takes no room."""
        self.assertEqual(Envelope("1", b"a\n\0b").encode(), b'["1",""]\na\n\0b')

    def test_order_of_attributes(self) -> None:
        """Attributes keep their order."""
        attributes = {name: Attribute("String", name) for name in "cab"}
        decoded = Envelope.decode(Envelope("1", b"", attributes).encode())
        self.assertEqual(list(decoded.attributes), ["c", "a", "b"])


class BodiesTests(SynchronousTestCase):
    """What is kept at hand, within bounds."""

    def setUp(self) -> None:
        self.bodies = Bodies(queue_bytes=10, bytes_=15)

    def test_kept(self) -> None:
        """What was kept is at hand for its queue only."""
        self.bodies.keep("q", 1, b"abc")
        self.assertEqual(
            [self.bodies.get("q", 1), self.bodies.get("q", 2), self.bodies.get("r", 1)], [b"abc", None, None]
        )

    def test_bound_of_a_queue(self) -> None:
        """The first of a queue stay, for it is read from its beginning; what there is no room for is not kept."""
        for sequence in range(4):
            self.bodies.keep("q", sequence, b"abcd")
        self.assertEqual([self.bodies.get("q", sequence) for sequence in range(4)], [b"abcd", b"abcd", None, None])
        self.bodies.keep("q", 4, b"ab")
        self.assertEqual((self.bodies.get("q", 4), self.bodies.total), (b"ab", 10))

    def test_bound_of_all(self) -> None:
        """All queues together have a bound too."""
        for queue in ("q", "r"):
            for sequence in range(2):
                self.bodies.keep(queue, sequence, b"abcde")
        self.assertEqual((self.bodies.get("r", 0), self.bodies.get("r", 1)), (b"abcde", None))
        self.assertEqual(self.bodies.total, 15)

    def test_dropped(self) -> None:
        """What is dropped makes room; what is not there cannot be dropped."""
        self.bodies.keep("q", 1, b"a" * 10)
        for queue, sequence in (("q", 1), ("q", 1), ("q", 2), ("r", 1)):
            self.bodies.drop(queue, sequence)
        self.assertEqual((self.bodies.total, self.bodies.get("q", 1)), (0, None))
        self.bodies.keep("q", 2, b"b" * 10)
        self.assertEqual(self.bodies.get("q", 2), b"b" * 10)

    def test_forgotten(self) -> None:
        """A queue that is forgotten makes room for others."""
        self.bodies.keep("q", 1, b"a" * 10)
        self.bodies.keep("r", 1, b"b" * 5)
        self.bodies.forget("q")
        self.bodies.forget("q")
        self.assertEqual((self.bodies.total, self.bodies.get("q", 1), self.bodies.get("r", 1)), (5, None, b"b" * 5))
        self.bodies.keep("q", 1, b"c" * 10)
        self.assertEqual(self.bodies.total, 15)

    def test_defaults(self) -> None:
        """A node keeps some megabytes of a queue, and some more of all."""
        bodies = Bodies()
        bodies.keep("q", 1, b"a" * 4 * 1024 * 1024)
        bodies.keep("q", 2, b"b")
        self.assertEqual(bodies.total, 4 * 1024 * 1024)
