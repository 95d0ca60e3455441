"""Cursors, and runs of messages."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from flowgate.errors import InvalidParameter
from flowgate.message import Cursor, Run
from flowgate.topics import Namespace, Topic

TOPIC = Topic(Namespace("alice", "shop"), "orders")


class CursorTests(SynchronousTestCase):
    """Places in history, as clients write them."""

    def test_round_trip(self) -> None:
        """A cursor is read back as it was shown."""
        for text in ("a1b2-0", "0-1", "z" * 16 + "-9999999999999999999"):
            self.assertEqual(str(Cursor.parse(text)), text)

    def test_parts(self) -> None:
        """The epoch stands before the hyphen, the sequence behind it."""
        self.assertEqual(Cursor.parse("k3x-42"), Cursor("k3x", 42))

    def test_other_text(self) -> None:
        """Everything else is refused: other digits, signs, white space, leading zeros, numbers beyond a stream's."""
        for text in (
            "",
            "-",
            "a-",
            "-1",
            "a1",
            "a--1",
            "a-+1",
            "a-01",
            "a-1 ",
            "a-1\n",
            " a-1",
            "A-1",
            "a-1-2",
            "a-١",
            "a-1e3",
            "z" * 17 + "-1",
            "a-" + "9" * 20,
            "earliest",
        ):
            with self.assertRaises(InvalidParameter, msg=repr(text)):
                Cursor.parse(text)


class RunTests(SynchronousTestCase):
    """What every room works on."""

    def stored(self) -> Run:
        return Run(TOPIC, [b"a", b"b", b"c"], qos=2, recorded=True, sequences=(3, 5, 9), times=(30, 50, 90))

    def test_split_when_asked(self) -> None:
        """Payloads are taken apart when somebody asks, and then only once."""
        calls = []

        def split() -> list[bytes]:
            calls.append(1)
            return [b"a", b"b"]

        run = Run(TOPIC, count=2, split=split)
        self.assertEqual((run.count, calls), (2, []))
        self.assertEqual((run.payloads, run.payloads), ([b"a", b"b"], [b"a", b"b"]))
        self.assertEqual(len(calls), 1)

    def test_encoded_once_per_form(self) -> None:
        """A wire form is made once and shared; another form is made of its own."""
        run = Run(TOPIC, [b"a"])
        calls: list[Run] = []

        def encode(run: Run) -> bytes:
            calls.append(run)
            return b"%d" % len(calls)

        wires = [run.wire(form, encode) for form in ("x", "x", "y", "x")]
        self.assertEqual((wires, calls), ([b"1", b"1", b"2", b"1"], [run, run]))

    def test_preset(self) -> None:
        """A form that is at hand already is not made again, even if it is empty."""
        run = Run(TOPIC, [b"a"])
        run.preset("x", b"")
        self.assertEqual(run.wire("x", lambda _: b"made"), b"")

    def test_after_nothing(self) -> None:
        """A run that lies wholly behind the place is given as it is."""
        run = self.stored()
        self.assertIs(run.after(2), run)

    def test_after_all(self) -> None:
        """Of a run that was seen to its end nothing is left."""
        self.assertIsNone(self.stored().after(9))
        self.assertIsNone(self.stored().after(10))

    def test_after_part(self) -> None:
        """A run that was seen in part is cut, with all that belongs to its messages."""
        for place in (3, 4):
            rest = self.stored().after(place)
            assert rest is not None
            self.assertEqual((rest.payloads, rest.sequences, rest.times), ([b"b", b"c"], (5, 9), (50, 90)))
            self.assertEqual((rest.count, rest.qos, rest.recorded, rest.topic), (2, 2, True, TOPIC))

    def test_after_keeps_no_wire(self) -> None:
        """A part does not pass the bytes of the whole on."""
        run = self.stored()
        run.wire("x", lambda _: b"whole")
        rest = run.after(3)
        assert rest is not None
        self.assertEqual(rest.wire("x", lambda _: b"part"), b"part")

    def test_after_unstored(self) -> None:
        """A run without sequences did not come from the stream: no place cuts it."""
        run = Run(TOPIC, [b"a"])
        self.assertIs(run.after(100), run)

    def test_repr_without_payload(self) -> None:
        """A run in a log shows its topic and size, never what it carries."""
        self.assertEqual(repr(Run(TOPIC, [b"secret"])), "<Run 1 on alice_shop_orders qos=0>")
