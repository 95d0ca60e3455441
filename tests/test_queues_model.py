"""Names and configurations of queues."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from flowgate.errors import InvalidParameter
from flowgate.queues.model import QueueConfig, check_name


class NameTests(SynchronousTestCase):
    """What a queue may be called."""

    def test_allowed(self) -> None:
        """1–80 of the alphabet are a name."""
        for name in ("q", "Orders_2-x", "x" * 80):
            check_name(name)

    def test_refused(self) -> None:
        """Everything else is not."""
        for name in ("", "x" * 81, "a b", "a.b", "a/b", "ä", "q\n", "*", ">", ".fifo", "a.b.fifo"):
            self.assertRaises(InvalidParameter, check_name, name)

    def test_fifo(self) -> None:
        """A FIFO name is refused with the reason."""
        error = self.assertRaises(InvalidParameter, check_name, "orders.fifo")
        self.assertIn("FIFO", error.detail)


class ConfigTests(SynchronousTestCase):
    """What a queue's configuration may say."""

    def test_defaults(self) -> None:
        """Nothing said is the documented default."""
        self.assertEqual(QueueConfig.parse({}), QueueConfig(30, 0, 0, 1048576, 345600))

    def test_round_trip(self) -> None:
        """The members are read back to the same value."""
        config = QueueConfig(visibility=0, receive_wait=20, max_message_bytes=1024, retention=60)
        self.assertEqual(QueueConfig.parse(config.members()), config)

    def test_unknown_member(self) -> None:
        """A member that does not exist is refused by its name."""
        error = self.assertRaises(InvalidParameter, QueueConfig.parse, {"visiblity": 3})
        self.assertIn("visiblity", error.detail)

    def test_out_of_range(self) -> None:
        """A value outside its range, or of another type, is refused with the member's name."""
        for name, value in (
            ("visibility", 43_201),
            ("visibility", -1),
            ("visibility", "30"),
            ("visibility", 1.5),
            ("visibility", True),
            ("visibility", None),
            ("receive_wait", 21),
            ("max_message_bytes", 1_048_577),
            ("retention", 59),
            ("delay", 901),
        ):
            error = self.assertRaises(InvalidParameter, QueueConfig.parse, {name: value})
            self.assertIn(name, error.detail)

    def test_delay(self) -> None:
        """A delay other than 0 is refused with the reason."""
        error = self.assertRaises(InvalidParameter, QueueConfig.parse, {"delay": 5})
        self.assertIn("not offered yet", error.detail)

    def test_type(self) -> None:
        """The type standard may be said, others are refused."""
        self.assertEqual(QueueConfig.parse({"type": "standard"}), QueueConfig())
        for kind in ("fifo", "other", None):
            self.assertRaises(InvalidParameter, QueueConfig.parse, {"type": kind})
