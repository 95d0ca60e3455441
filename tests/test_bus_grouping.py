"""NATS messages of one read, made into runs."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from flowgate.bus.grouping import Grouper, consumed_at, delivered_subject, flag_headers
from flowgate.bus.names import CAST, LIVE, LOG, OUT, topic_subject
from flowgate.bus.wire import Message
from flowgate.topics import Namespace, Topic

TOPIC = Topic(Namespace("alice", "shop"), "a/b")
OTHER = Topic(Namespace("alice", "shop"), "c")


def arrived(root: str, payload: bytes, headers: str = "", topic: Topic = TOPIC) -> Message:
    head = f"NATS/1.0\r\n{headers}\r\n".encode() if headers else b""
    return b"2", topic_subject(root, topic), b"", head, payload


def place(sequence: int) -> str:
    return f"Nats-Sequence: {sequence}\r\nNats-Time-Stamp: 2026-01-02T03:04:05.5Z\r\n"


class ArrivedTests(SynchronousTestCase):
    """What comes by subscription."""

    def test_stored(self) -> None:
        """Republished messages keep their quality of service and place."""
        one, two = Grouper().arrived(
            [
                arrived(OUT, b"1", place(7)),
                arrived(OUT, b"2", place(8)),
                arrived(OUT, b"3", "Flowgate-QoS: 2\r\n" + place(9)),
            ]
        )
        self.assertEqual((one.topic, one.qos, one.recorded), (TOPIC, 1, True))
        self.assertEqual((list(one.payloads), list(one.sequences), one.count), ([b"1", b"2"], [7, 8], 2))
        self.assertEqual((list(two.payloads), list(two.sequences), two.qos), ([b"3"], [9], 2))
        self.assertEqual(two.times[0] % 1_000_000_000, 500_000_000)

    def test_live(self) -> None:
        """What another node sent unacknowledged is of QoS 0; the root says whether history has it."""
        for root, recorded in ((LIVE, True), (CAST, False)):
            (run,) = Grouper().arrived([arrived(root, b"1"), arrived(root, b"2")])
            self.assertEqual((list(run.payloads), run.qos, run.recorded), ([b"1", b"2"], 0, recorded))
            self.assertEqual(len(run.sequences), 0)

    def test_live_with_headers(self) -> None:
        """An unacknowledged message that bears its age stays one of QoS 0, without a place."""
        messages = [arrived(LIVE, b"1", "Nats-TTL: 60\r\n"), arrived(LIVE, b"2", "Nats-TTL: 60\r\n")]
        (run,) = Grouper().arrived(messages)
        self.assertEqual((list(run.payloads), run.qos, run.recorded), ([b"1", b"2"], 0, True))
        self.assertEqual(len(run.sequences), 0)

    def test_changes(self) -> None:
        """Every change of topic or way begins a run; the order stays."""
        runs = Grouper().arrived(
            [
                arrived(OUT, b"1", place(7)),
                arrived(LIVE, b"2"),
                arrived(CAST, b"3"),
                arrived(CAST, b"4", topic=OTHER),
                arrived(OUT, b"5", place(8)),
            ]
        )
        self.assertEqual([(run.topic.name, run.qos, *run.payloads) for run in runs], [
            ("a/b", 1, b"1"), ("a/b", 0, b"2"), ("a/b", 0, b"3"), ("c", 0, b"4"), ("a/b", 1, b"5"),
        ])  # fmt: skip

    def test_retain(self) -> None:
        """The wish for retention parts the runs, of stored and of unacknowledged messages."""
        retained = "Flowgate-Retain: 1\r\n"
        runs = Grouper().arrived(
            [
                arrived(OUT, b"1", retained + place(8)),
                arrived(OUT, b"3", "Flowgate-QoS: 2\r\n" + retained + place(9)),
                arrived(CAST, b"4", retained),
                arrived(CAST, b"5", retained),
                arrived(CAST, b"6"),
                arrived(LIVE, b"7", retained + "Nats-TTL: 60\r\n"),
            ]
        )
        self.assertEqual([(run.qos, run.retain, *run.payloads) for run in runs], [
            (1, True, b"1"), (2, True, b"3"), (0, True, b"4", b"5"), (0, False, b"6"), (0, True, b"7"),
        ])  # fmt: skip

    def test_headers(self) -> None:
        """What a message needs no word about costs it no header; the rest is understood when it comes back."""
        self.assertEqual(flag_headers(1, None, False), b"")
        head = flag_headers(2, 60, True)
        self.assertEqual(head, b"NATS/1.0\r\nFlowgate-QoS: 2\r\nFlowgate-Retain: 1\r\nNats-TTL: 60\r\n\r\n")
        message = (b"2", topic_subject(LOG, TOPIC), b"$JS.ACK.S.c.1.7.1.1767323045000000000.0", head, b"x")
        (run,) = Grouper().stored([message], consumed_at, delivered_subject)
        self.assertEqual((run.qos, run.retain, list(run.sequences)), (2, True, [7]))

    def test_full_memory(self) -> None:
        """What is remembered of subjects is bounded, and forgetting harms nothing."""
        grouper = Grouper(remembered=2)
        topics = [Topic(TOPIC.namespace, name) for name in "abcab"]
        runs = grouper.arrived([arrived(LIVE, b"", topic=topic) for topic in topics])
        self.assertEqual([run.topic for run in runs], topics)
        self.assertTrue(len(grouper._known) <= 2)
