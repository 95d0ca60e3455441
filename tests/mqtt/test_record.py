"""What the store keeps of MQTT clients."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from flowgate.bus.keys import check_key
from flowgate.message import Cursor
from flowgate.mqtt.record import RECORDS, STATES, KeptWill, Record, SavedState, Subscription, client_key
from flowgate.mqtt.session import Session
from flowgate.topics import Namespace, Topic

HOME = Namespace("alice", "shop")


class KeyTests(SynchronousTestCase):
    @given(st.text(min_size=1, max_size=200).filter(lambda text: "\0" not in text))
    def test_valid(self, client_id: str) -> None:
        """Every client identifier has a key that the store takes."""
        check_key(RECORDS, client_key(HOME, client_id))
        check_key(STATES, client_key(HOME, client_id))

    def test_apart(self) -> None:
        """Different identifiers and accounts have different keys."""
        ids = ["a", "A", "a.b", "a b", "i-a", "h-a", "a" * 64, "a" * 65, "ä", "/", "a/"]
        keys = {client_key(home, one) for home in (HOME, Namespace("bob", "shop")) for one in ids}
        self.assertEqual(len(keys), 2 * len(ids))


class RecordTests(SynchronousTestCase):
    def test_round_trip(self) -> None:
        """A record comes back as it was."""
        record = Record(
            "cliënt /1",
            "u",
            False,
            "node",
            12.5,
            "e",
            KeptWill("w", Topic(HOME, "a/b"), b"\0\xff", 2, True),
            (
                Subscription("alice_shop_a/#", HOME, "a/#", True, 1, 5),
                Subscription("$share/g/a", HOME, "a", False, 1, 0, "g"),
            ),
        )
        self.assertEqual(Record.decode(record.encode()), record)
        bare = Record("c", "u", True, "", 0.0, "")
        self.assertEqual(Record.decode(bare.encode()), bare)

    def test_state(self) -> None:
        """A state comes back as it was."""
        session = Session(2, 10, 1000)
        session.put("t", [b"1", b"2", b"3"], 2, [("alice_shop_", number, False) for number in (1, 2, 3)])
        session.pump(1000)
        session.begin([7])
        state = SavedState("u", "node", 7, {HOME: Cursor("e", 3)}, session.state())
        restored = SavedState.decode(state.encode())
        self.assertEqual(dict(restored.cursors), dict(state.cursors))
        again = Session(2, 10, 1000)
        again.restore(restored.session)
        self.assertEqual(again.state(), session.state())

    def test_nonsense(self) -> None:
        """What is no record is told by ValueError, whatever it is."""
        for data in (b"", b"{}", b"[]", b"null", b'{"client":1}', b"\xff", b'{"will":{}}'):
            with self.subTest(data=data):
                self.assertRaises(ValueError, Record.decode, data)
                self.assertRaises(ValueError, SavedState.decode, data)
