"""The lane into the stream, against a server that a test plays."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from flowgate.bus.publisher import PARCEL_MESSAGES, Publisher
from flowgate.errors import BusUnavailable, MessageTooLarge, Refused
from flowgate.message import Run, Stored
from flowgate.topics import Namespace, Topic

TOPIC = Topic(Namespace("alice", "shop"), "a")


@attrs.frozen
class Sent:
    """One message as the server sees it."""

    subject: str
    reply: str
    headers: bytes
    payload: bytes

    @property
    def token(self) -> str:
        return self.reply.split(".")[2]

    @property
    def place(self) -> tuple[int, int]:
        """Place in its batch, and operation."""
        number, operation, end = self.reply.split(".")[-3:]
        assert end == "$FI"
        return int(number), int(operation)


class FakeLink:
    """A link whose other end is the test."""

    inbox = "_INBOX.me"
    info = {"max_payload": 1024 * 1024}

    def __init__(self) -> None:
        self.sent: list[Sent] = []
        self.writes = 0
        self.inboxes: dict[str, Callable[[list[Any]], None]] = {}
        self._tokens = 0

    def token(self) -> str:
        self._tokens += 1
        return f"t{self._tokens}"

    def open_inbox(self, token: str, handler: Callable[[list[Any]], None]) -> None:
        self.inboxes[token] = handler

    def close_inbox(self, token: str) -> None:
        self.inboxes.pop(token, None)

    def write(self, data: bytes) -> None:
        self.writes += 1
        while data:
            line, _, data = data.partition(b"\r\n")
            verb, subject, *rest = line.decode().split()
            size = int(rest[-1])
            head = int(rest[-2]) if verb == "HPUB" else 0
            reply = rest[0] if len(rest) > (2 if verb == "HPUB" else 1) else ""
            self.sent.append(Sent(subject, reply, data[:head], data[head:size]))
            assert data[size : size + 2] == b"\r\n"
            data = data[size + 2 :]

    def answer(self, sent: Sent, **members: Any) -> None:
        """Answer a message as JetStream does."""
        handler = self.inboxes.get(sent.token)
        if handler is not None:
            handler([(b"1", sent.reply.encode(), b"", b"", json.dumps(members, separators=(",", ":")).encode())])

    def commits(self) -> list[Sent]:
        return [sent for sent in self.sent if sent.reply.endswith(".2.$FI")]

    def confirm(self) -> None:
        """Confirm every batch in full, and every single message."""
        sent, self.sent = self.sent, []
        for one in sent:
            if one.reply.endswith(".2.$FI"):
                self.answer(one, stream="S", seq=1, batch=one.token, count=one.place[0])
            elif one.reply and not one.reply.endswith("$FI"):
                self.answer(one, stream="S", seq=7)


def run(*payloads: bytes, qos: int = 1, topic: Topic = TOPIC) -> Run:
    return Run(topic, payloads, qos=qos)


class PublisherTests(SynchronousTestCase):
    """What is written, and what its answers mean."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.link = FakeLink()
        self.drained = self.settled = 0
        self.lane = self.make()

    def make(self, **options: Any) -> Publisher:
        lane = Publisher(self.clock, self.link, self.count_drain, self.count_settled, **options)  # type: ignore[arg-type]
        lane.open()
        return lane

    def count_settled(self) -> None:
        self.settled += 1

    def count_drain(self) -> None:
        self.drained += 1

    def test_idle_lane_writes_at_once(self) -> None:
        """Without anything under way a run leaves in the same call, as one batch."""
        self.lane.publish(run(b"1", b"2", b"3"))
        self.assertEqual([sent.place for sent in self.link.sent], [(1, 0), (2, 1), (3, 2)])
        self.assertEqual([sent.payload for sent in self.link.sent], [b"1", b"2", b"3"])

    def test_batch_of_one(self) -> None:
        """A single message travels without a batch, and is acknowledged as such; QoS 2 keeps its header."""
        for qos, headers in ((1, b""), (2, b"NATS/1.0\r\nFlowgate-QoS: 2\r\n\r\n")):
            stored = self.lane.publish(run(b"1", qos=qos))
            self.clock.advance(0)
            sent = self.link.sent.pop()
            self.assertEqual((sent.reply, sent.headers, sent.payload), (f"_INBOX.me.{sent.token}", headers, b"1"))
            self.link.answer(sent, stream="S", seq=7)
            self.successResultOf(stored)

    def test_a_turn_is_a_batch(self) -> None:
        """What a turn brings while something is under way leaves together."""
        for number in range(5):
            self.lane.publish(run(b"%d" % number))
        self.clock.advance(0)
        self.assertEqual(self.link.writes, 2)
        self.assertEqual([sent.place for sent in self.link.sent[1:]], [(1, 0), (2, 1), (3, 1), (4, 2)])

    def test_retained_message_behind_a_run(self) -> None:
        """A retained message, which travels alone, does not overtake the runs before it: their batch ends before it."""
        self.lane.publish(run(b"first"))
        self.lane.publish(run(b"1", b"2"))
        self.lane.publish_one(TOPIC, b"retained", 1, retain=True)
        self.lane.publish_one(TOPIC, b"another", 1, retain=True)
        self.lane.publish(run(b"3", b"4"))
        self.clock.advance(0)
        payloads = [sent.payload for sent in self.link.sent]
        self.assertEqual(payloads, [b"first", b"1", b"2", b"retained", b"another", b"3", b"4"])
        self.assertEqual([sent.payload for sent in self.link.commits()], [b"2", b"4"])

    def test_payloads_and_topics_that_look_like_batches(self) -> None:
        """Nothing in a topic or payload is taken for the lane's own marks."""
        name = "1/1/$FI"
        payload = b"_INBOX.me.t1.65535.fail.1.1.$FI\r\n1.1.$FI"
        self.lane.publish(run(payload, payload, topic=Topic(TOPIC.namespace, name)))
        self.assertEqual([sent.payload for sent in self.link.sent], [payload, payload])
        self.assertEqual([sent.place for sent in self.link.sent], [(1, 0), (2, 2)])
        self.assertEqual(self.link.sent[0].subject, "fg.log.alice.shop.-.1.1.$FI.%")

    def test_quality_of_service_2(self) -> None:
        """QoS 2 travels in a header; QoS 1 needs none."""
        self.lane.publish(run(b"1", b"2", qos=2))
        self.assertEqual({sent.headers for sent in self.link.sent}, {b"NATS/1.0\r\nFlowgate-QoS: 2\r\n\r\n"})
        self.assertEqual([sent.place for sent in self.link.sent], [(1, 0), (2, 2)])

    def test_message_ids(self) -> None:
        """Each message of a run with ids bears its own, private to the namespace, beside the headers of the run."""
        ids = [f"id {number}" for number in range(PARCEL_MESSAGES + 2)]
        self.lane.publish(Run(TOPIC, [b"x"] * len(ids), qos=2, message_ids=ids))
        heads = [
            b"NATS/1.0\r\nFlowgate-QoS: 2\r\nNats-Msg-Id: alice.shop%%3Aid%%20%d\r\n\r\n" % n for n in range(len(ids))
        ]
        self.assertEqual([sent.headers for sent in self.link.sent], heads)
        self.assertEqual([commit.place for commit in self.link.commits()], [(PARCEL_MESSAGES, 2), (2, 2)])
        self.link.confirm()
        self.lane.publish(Run(TOPIC, [b"x"], qos=1, message_ids=["k"]))
        (alone,) = self.link.sent
        self.assertEqual((alone.headers, alone.reply.count(".")), (b"NATS/1.0\r\nNats-Msg-Id: alice.shop:k\r\n\r\n", 2))

    def test_retain(self) -> None:
        """The wish for retention travels in a header, acknowledged or not."""
        self.lane.publish(Run(TOPIC, [b"1", b"2"], qos=1, retain=True))
        self.lane.record(Run(TOPIC, [b"3"], retain=True))
        self.clock.advance(0)
        self.assertEqual({sent.headers for sent in self.link.sent}, {b"NATS/1.0\r\nFlowgate-Retain: 1\r\n\r\n"})

    def test_round_trips(self) -> None:
        """What passes from a write until its acknowledgement is measured, of all that is written; time-outs are not."""
        measured: list[float] = []
        lane = self.make(measured=measured.append)
        for publish in (
            lambda: lane.publish(run(b"1", b"2")),
            lambda: lane.publish_one(TOPIC, b"1", 1),
            lambda: lane.publish_many([run(b"1", b"2")]),
        ):
            publish().addErrback(lambda _: None)
            self.clock.advance(0.25)
            self.link.confirm()
            self.assertEqual(measured, [0.25])
            measured.clear()
            publish().addErrback(lambda _: None)
            self.clock.pump([1.0] * 8)
            self.link.sent.clear()
            self.assertEqual(measured, [])

    def test_held(self) -> None:
        """What is queued or under way is known, in messages and bytes."""
        self.lane.publish(run(b"12", b"345"))
        self.lane.publish(run(b"6"))
        self.assertEqual(self.lane.held, (3, 6))
        self.clock.advance(0)
        self.link.confirm()
        self.assertEqual(self.lane.held, (0, 0))

    def test_stored_runs_are_told_first(self) -> None:
        """Whoever wants to know what was stored learns it in order, before the publisher; duplicates are left out."""
        told: list[object] = []
        lane = Publisher(self.clock, self.link, lambda: None, lambda: None, lambda runs: told.extend(runs))  # type: ignore[arg-type]
        lane.open()
        first, second = run(b"1", b"2"), run(b"3", b"4")
        for one in (first, second):
            lane.publish(one).addCallback(told.append)
        self.clock.advance(0)
        for commit in self.link.commits():
            self.link.answer(commit, stream="S", seq=2, count=2)
        self.assertEqual(told, [first, None, second, None])
        self.assertTrue(first.recorded)
        lane.publish_one(TOPIC, b"5", 1)
        self.clock.advance(0)
        self.link.answer(self.link.sent[-1], stream="S", seq=5, duplicate=True)
        self.assertEqual(len(told), 4)
        lane.publish_one(TOPIC, b"5", 1)
        self.clock.advance(0)
        self.link.answer(self.link.sent[-1], stream="S", seq=6)
        self.assertEqual(len(told), 5)

    def test_retry_of_an_uncertain_run(self) -> None:
        """The messages of a run that failed are delivered by their retries, though those are duplicates."""
        told: list[Run] = []
        lane = Publisher(self.clock, self.link, lambda: None, lambda: None, told.extend)  # type: ignore[arg-type]
        lane.open()
        lost = lane.publish(Run(TOPIC, [b"1", b"2"], qos=2, message_ids=["a", "b"]))
        self.clock.pump([1] * 7)
        self.failureResultOf(lost, BusUnavailable)
        for payload, message_id in ((b"1", "a"), (b"2", "b"), (b"2", "b")):
            lane.publish_one(TOPIC, payload, 2, message_id)
            self.clock.advance(0)
            self.link.answer(self.link.sent[-1], stream="S", seq=5, duplicate=True)
        self.assertEqual([list(run.payloads) for run in told], [[b"1"], [b"2"]])

    def test_retry_of_an_uncertain_message(self) -> None:
        """A message whose acknowledgement never came is delivered by its retry, though that is a duplicate."""
        told: list[object] = []
        lane = Publisher(self.clock, self.link, lambda: None, lambda: None, lambda runs: told.extend(runs))  # type: ignore[arg-type]
        lane.open()
        lost = lane.publish_one(TOPIC, b"5", 1, "id")
        self.clock.pump([1] * 7)
        self.failureResultOf(lost, BusUnavailable)
        for delivered in (1, 1):
            again = lane.publish_one(TOPIC, b"5", 1, "id")
            self.clock.advance(0)
            self.link.answer(self.link.sent[-1], stream="S", seq=5, duplicate=True)
            self.assertTrue(self.successResultOf(again).duplicate)
            self.assertEqual(len(told), delivered)

    def test_age(self) -> None:
        """A run that is to be forgotten early says so in a header of each message, acknowledged or not."""
        self.lane.publish(Run(TOPIC, [b"1", b"2"], qos=1, ttl=60))
        self.lane.record(Run(TOPIC, [b"3", b"4"], ttl=60))
        self.clock.advance(0)
        self.assertEqual({sent.headers for sent in self.link.sent}, {b"NATS/1.0\r\nNats-TTL: 60\r\n\r\n"})
        self.assertEqual([sent.payload for sent in self.link.sent], [b"1", b"2", b"3", b"4"])

    def test_failed_runs_are_not_told(self) -> None:
        """What the stream did not take is not delivered."""
        told: list[object] = []
        lane = Publisher(self.clock, self.link, lambda: None, lambda: None, lambda runs: told.extend(runs))  # type: ignore[arg-type]
        lane.open()
        failed = lane.publish(run(b"1", b"2"))
        self.link.answer(self.link.sent[-1], error={"code": 500, "description": "no"})
        self.failureResultOf(failed, BusUnavailable)
        self.assertEqual(told, [])

    def test_acknowledged_when_all_is_stored(self) -> None:
        """The Deferred fires by the commit's acknowledgement, not by flow control."""
        stored = self.lane.publish(run(b"1", b"2"))
        commit = self.link.sent[-1]
        self.link.answer(commit, type="ack", seq=0, msgs=500)
        self.assertNoResult(stored)
        self.link.answer(commit, stream="S", seq=2, batch="t1", count=2)
        self.successResultOf(stored)
        self.assertEqual(self.link.inboxes, {})

    def test_short_count_fails_the_rest(self) -> None:
        """Runs whose last message the server did not count fail, those before it do not."""
        self.lane.publish(run(b"x"))
        first, second, third = (self.lane.publish(run(b"1", b"2")) for _ in range(3))
        self.clock.advance(0)
        commit = self.link.commits()[0]
        self.link.answer(commit, type="gap", last_seq=4, seq=6)
        self.link.answer(commit, stream="S", seq=9, batch="t2", count=3)
        self.successResultOf(first)
        self.failureResultOf(second, BusUnavailable)
        self.failureResultOf(third, BusUnavailable)

    def test_error_fails_all(self) -> None:
        """An error instead of the acknowledgement fails every run of the batch."""
        stored = self.lane.publish(run(b"1", b"2"))
        self.link.answer(self.link.sent[-1], error={"code": 400, "err_code": 10205, "description": "disabled"})
        self.failureResultOf(stored, BusUnavailable)

    def test_no_answer_fails(self) -> None:
        """Without an acknowledgement within 5 seconds the runs fail and the lane goes on."""
        stored = self.lane.publish(run(b"1"))
        single = self.lane.publish_one(TOPIC, b"2", 1)
        self.clock.pump([1] * 7)
        self.failureResultOf(stored, BusUnavailable)
        self.failureResultOf(single, BusUnavailable)
        self.assertTrue(self.settled)
        self.assertEqual((self.link.inboxes, self.clock.getDelayedCalls()), ({}, []))

    def test_long_run_spans_parcels(self) -> None:
        """A run that needs several parcels is acknowledged when the last of them is."""
        stored = self.lane.publish(run(*[b"x"] * (2 * PARCEL_MESSAGES + 2)))
        first, second, third = self.link.commits()
        self.assertEqual([one.place[0] for one in (first, second, third)], [PARCEL_MESSAGES, PARCEL_MESSAGES, 2])
        for commit in (third, first):
            self.link.answer(commit, stream="S", seq=1, count=commit.place[0])
        self.assertNoResult(stored)
        self.link.answer(second, stream="S", seq=1, count=second.place[0])
        self.successResultOf(stored)

    def test_rest_of_a_failed_run_is_not_written(self) -> None:
        """When a part is lost, what is still queued of the run is dropped."""
        lane = self.make(parcels=1)
        stored = lane.publish(run(*[b"x"] * (3 * PARCEL_MESSAGES)))
        self.link.answer(self.link.commits()[0], error={"code": 500, "description": "no"})
        self.failureResultOf(stored, BusUnavailable)
        self.link.confirm()
        self.clock.advance(0)
        self.assertEqual(self.link.sent, [])

    def test_limited_parcels(self) -> None:
        """So many parcels are under way, then everything waits for an acknowledgement."""
        lane = self.make(parcels=2)
        for _ in range(4):
            lane.publish(run(b"x"))
            self.clock.advance(0)
        self.assertEqual(self.link.writes, 2)
        self.link.confirm()
        self.assertEqual([sent.place for sent in self.link.sent], [(1, 0), (2, 2)])

    def test_unacknowledged_need_no_batch(self) -> None:
        """Recorded runs travel bare; the last of a parcel asks for a sign that the stream keeps up."""
        self.assertTrue(self.lane.record(run(b"1", b"2", qos=0)))
        self.assertEqual([sent.reply for sent in self.link.sent], ["", "_INBOX.me.t1"])
        self.assertEqual({sent.subject for sent in self.link.sent}, {"fg.live.alice.shop.-.a.%"})
        self.link.confirm()
        self.assertEqual(self.link.inboxes, {})

    def test_order_of_everything(self) -> None:
        """Runs, single messages and recorded ones leave in the order in which they came."""
        self.lane.publish(run(b"0"))
        self.lane.publish_one(TOPIC, b"1", 1)
        self.lane.record(run(b"2"))
        self.lane.publish(run(b"3", b"4"))
        self.lane.publish_one(TOPIC, b"5", 1)
        self.lane.record(run(b"6"))
        self.clock.advance(0)
        self.assertEqual([sent.payload for sent in self.link.sent], [b"%d" % number for number in range(7)])

    def test_single(self) -> None:
        """A single message carries its headers and learns its place."""
        stored = self.lane.publish_one(TOPIC, b"1", 2, "k")
        self.assertEqual(self.link.sent[0].headers, b"NATS/1.0\r\nFlowgate-QoS: 2\r\nNats-Msg-Id: alice.shop:k\r\n\r\n")
        self.link.answer(self.link.sent[0], stream="S", seq=5, duplicate=True)
        result = self.successResultOf(stored)
        self.assertEqual((result.sequence, result.duplicate), (5, True))

    def test_single_refused(self) -> None:
        """The server's refusal of a single message is told in our words."""
        for code, kind in ((10054, MessageTooLarge), (10077, BusUnavailable)):
            stored = self.lane.publish_one(TOPIC, b"1", 1)
            self.link.answer(self.link.sent[-1], error={"code": 400, "err_code": code, "description": "no"})
            self.failureResultOf(stored, kind)
            self.clock.advance(0)

    def read(self, *answers: tuple[Sent, dict[str, Any]]) -> None:
        """Have one read bring several answers to single messages."""
        messages = [(b"1", sent.reply.encode(), b"", b"", json.dumps(members).encode()) for sent, members in answers]
        self.link.inboxes[answers[0][0].token](messages)

    def test_singles_share_an_inbox(self) -> None:
        """Single messages share an inbox as long as one is under way; answers in any order belong to their messages."""
        stored = [self.lane.publish_one(TOPIC, b"%d" % n, 1) for n in range(3)]
        self.clock.advance(0)
        self.assertEqual([sent.reply for sent in self.link.sent], [f"_INBOX.me.t2.{n}" for n in (1, 2, 3)])
        first, second, third = self.link.sent
        refused = {"error": {"code": 400, "err_code": 10054, "description": "too large"}}
        self.read((third, {"stream": "S", "seq": 3}), (first, {"stream": "S", "seq": 1}), (first, refused))
        self.assertEqual([self.successResultOf(stored[n]) for n in (0, 2)], [Stored(1), Stored(3)])
        self.assertNoResult(stored[1])
        self.read((second, refused))
        self.failureResultOf(stored[1], MessageTooLarge)
        self.assertEqual(self.link.inboxes, {})

    def test_singles_are_delivered_together(self) -> None:
        """What one read tells of is delivered as few runs, in order, before anybody is told; only what is alike."""
        told: list[object] = []
        lane = Publisher(self.clock, self.link, lambda: None, lambda: None, lambda runs: told.append(runs))  # type: ignore[arg-type]
        lane.open()
        other = Topic(TOPIC.namespace, "b")
        same = Topic(TOPIC.namespace, TOPIC.name)
        singles: list[tuple[Topic, bytes, dict[str, Any]]] = [
            (TOPIC, b"1", {}),
            (same, b"2", {}),
            (TOPIC, b"again", {}),
            (TOPIC, b"3", {}),
            (other, b"4", {}),
            (TOPIC, b"5", {"ttl": 9}),
            (TOPIC, b"6", {"ttl": 9}),
            (TOPIC, b"7", {"retain": True}),
            (TOPIC, b"8", {"retain": True}),
            (TOPIC, b"9", {}),
        ]
        for topic, payload, options in singles:
            lane.publish_one(topic, payload, 1, **options).addCallback(told.append)
        lane.publish_one(TOPIC, b"10", 2).addCallback(told.append)
        self.clock.advance(0)
        self.read(
            *(
                (sent, {"stream": "S", "seq": n, "duplicate": sent.payload == b"again"})
                for n, sent in enumerate(self.link.sent)
            )
        )
        runs, *results = told
        assert isinstance(runs, list)
        self.assertEqual(
            [(list(one.payloads), one.count, one.topic.name, one.qos, one.ttl, one.retain) for one in runs],
            [
                ([b"1", b"2", b"3"], 3, "a", 1, None, False),
                ([b"4"], 1, "b", 1, None, False),
                ([b"5", b"6"], 2, "a", 1, 9, False),
                ([b"7"], 1, "a", 1, None, True),
                ([b"8"], 1, "a", 1, None, True),
                ([b"9"], 1, "a", 1, None, False),
                ([b"10"], 1, "a", 2, None, False),
            ],
        )
        self.assertTrue(all(one.recorded for one in runs))
        self.assertEqual(results, [Stored(n, n == 2) for n in range(11)])

    def test_fault_of_a_subscriber(self) -> None:
        """Whoever published is told, and room is made, also if what was stored could not be delivered."""

        def fault(_runs: object) -> None:
            raise RuntimeError("a subscriber's fault")

        lane = Publisher(self.clock, self.link, lambda: None, lambda: None, fault, queue_messages=1)  # type: ignore[arg-type]
        lane.open()
        stored = [lane.publish_one(TOPIC, b"%d" % n, 1) for n in range(2)]
        self.clock.advance(0)
        answers = [(sent, {"stream": "S", "seq": n}) for n, sent in enumerate(self.link.sent)]
        self.assertRaises(RuntimeError, self.read, *answers)
        self.assertEqual([self.successResultOf(one) for one in stored], [Stored(0), Stored(1)])
        self.assertFalse(lane.congested)

    def many(self, *runs: Run) -> Deferred[list[Stored | Refused]]:
        return self.lane.publish_many(runs)

    def test_many(self) -> None:
        """Many messages leave in one write, each by itself, and share an inbox."""
        other = Topic(TOPIC.namespace, "b")
        stored = self.many(run(b"1", b"2"), run(b"3", qos=2), run(b"4", topic=other))
        self.assertEqual(self.link.writes, 1)
        self.assertEqual([sent.reply for sent in self.link.sent], [f"_INBOX.me.t1.{n}" for n in range(4)])
        self.assertEqual([sent.payload for sent in self.link.sent], [b"1", b"2", b"3", b"4"])
        self.assertEqual([bool(sent.headers) for sent in self.link.sent], [False, False, True, False])
        self.assertEqual(self.link.sent[3].subject, "fg.log.alice.shop.-.b.%")
        for n, sent in enumerate(self.link.sent):
            self.assertNoResult(stored)
            self.link.answer(sent, stream="S", seq=10 + n)
        self.assertEqual(self.successResultOf(stored), [Stored(10 + n) for n in range(4)])
        self.assertEqual(self.link.inboxes, {})

    def test_ids_of_many(self) -> None:
        """Each of many messages carries its own id, beside what else it has."""
        self.many(Run(TOPIC, [b"1", b"2"], qos=1, ttl=9, message_ids=["k", "l\n"]))
        self.assertEqual(
            [sent.headers for sent in self.link.sent],
            [
                b"NATS/1.0\r\nNats-TTL: 9\r\nNats-Msg-Id: %b\r\n\r\n" % one
                for one in (b"alice.shop:k", b"alice.shop%3Al%0A")
            ],
        )

    def test_answers_to_many(self) -> None:
        """Answers in any order, of any kind, and in one read or several, belong to their messages."""
        stored = self.many(run(*[b"x"] * 6))
        first, second, third, fourth, fifth, sixth = self.link.sent
        self.link.answer(sixth, stream="S", seq=6, duplicate=True)
        self.link.answer(second, error={"code": 400, "err_code": 10054, "description": "too large"})
        self.link.answer(third, error={"code": 503, "err_code": 10077, "description": "no"})
        self.link.inboxes[fifth.token]([(b"1", fifth.reply.encode(), b"", b"NATS/1.0 503\r\n\r\n", b"")])
        self.link.answer(first, stream="S", seq=7, domain="hub")
        self.link.answer(first, stream="S", seq=8)  # nobody asked twice
        self.link.inboxes[fourth.token]([(b"1", fourth.reply.encode(), b"", b"", b'{"stream":"S", "seq":123}')])
        one, two, three, four, five, six = self.successResultOf(stored)
        self.assertEqual((one, four, six), (Stored(7), Stored(123), Stored(6, True)))
        self.assertEqual(
            [type(answer) for answer in (two, three, five)], [MessageTooLarge, BusUnavailable, BusUnavailable]
        )

    def test_too_large_among_many(self) -> None:
        """A message that the server would not take is not sent; alone it is answered at once."""
        stored = self.many(run(b"1", bytes(1024 * 1024), b"3"))
        self.assertEqual([sent.payload for sent in self.link.sent], [b"1", b"3"])
        for sent in self.link.sent:
            self.link.answer(sent, stream="S", seq=int(sent.payload))
        one, two, three = self.successResultOf(stored)
        self.assertEqual((one, three), (Stored(1), Stored(3)))
        self.assertIsInstance(two, MessageTooLarge)
        (alone,) = self.successResultOf(self.many(run(bytes(1024 * 1024))))
        self.assertIsInstance(alone, MessageTooLarge)
        self.assertEqual(self.successResultOf(self.many()), [])

    def test_no_answer_to_some_of_many(self) -> None:
        """After some seconds those without an answer are given up, and those with one are told; others are told so."""
        stored = self.many(run(b"1", b"2"))
        self.link.answer(self.link.sent[0], stream="S", seq=1)
        self.clock.pump([1] * 7)
        one, two = self.successResultOf(stored)
        self.assertEqual(one, Stored(1))
        self.assertIsInstance(two, BusUnavailable)
        self.assertEqual((self.settled, self.link.inboxes, self.clock.getDelayedCalls()), (1, {}, []))

    def test_bounded_singly(self) -> None:
        """Only so many messages are under way outside of batches; the others follow as answers come, in order."""
        for n in range(6):
            self.many(run(*[b"%d" % n] * 1000))
        self.lane.publish_one(TOPIC, b"6", 1)
        self.lane.publish(run(b"7", b"8"))
        self.clock.advance(0)
        self.assertEqual({sent.payload for sent in self.link.sent}, {b"0", b"1", b"2", b"3"})
        written: list[bytes] = []
        while self.link.sent:
            sent, self.link.sent = self.link.sent, []
            written += [one.payload for one in sent]
            for one in sent:
                if not one.reply.endswith("$FI"):
                    self.link.answer(one, stream="S", seq=1)
            self.clock.advance(0)
        self.assertEqual(written, [b"%d" % n for n in range(6) for _ in range(1000)] + [b"6", b"7", b"8"])

    def test_bounded_singles(self) -> None:
        """Single messages count as well; what waits for them goes together, once in a turn."""
        for n in range(4100):
            self.lane.publish_one(TOPIC, b"%d" % n, 1)
        self.clock.advance(0)
        self.assertEqual(len(self.link.sent), 4000)
        writes = self.link.writes
        for one in self.link.sent[:50]:
            self.link.answer(one, stream="S", seq=1)
        self.clock.advance(0)
        self.assertEqual((len(self.link.sent), self.link.writes), (4050, writes + 1))

    def test_many_when_the_link_is_lost(self) -> None:
        """What has an answer is told, the rest fails, and what was not written fails as a whole."""
        under_way = self.many(run(b"1", b"2"))
        waiting = [self.many(run(*[b"x"] * 1000)) for _ in range(6)]
        self.clock.advance(0)
        self.link.answer(self.link.sent[0], stream="S", seq=1)
        self.lane.close()
        first, second = self.successResultOf(under_way)
        self.assertEqual(first, Stored(1))
        self.assertIsInstance(second, BusUnavailable)
        self.assertEqual({type(answer) for answer in self.successResultOf(waiting[0])}, {BusUnavailable})
        for one in (*waiting[4:], self.many(run(b"3"))):
            self.failureResultOf(one, BusUnavailable)
        self.assertEqual((self.link.inboxes, self.clock.getDelayedCalls()), ({}, []))
        self.lane.open()
        self.lane.publish_one(TOPIC, b"again", 1)
        self.assertEqual(self.link.sent[-1].payload, b"again")

    def test_delivery_of_many(self) -> None:
        """What is stored and new is delivered, before its publisher is told."""
        told: list[object] = []
        self.lane = self.make(stored=lambda runs: told.extend((run.topic.name, list(run.payloads)) for run in runs))
        whole, part, nothing = run(b"1", b"2"), run(b"3", b"4", b"5", topic=Topic(TOPIC.namespace, "b")), run(b"6")
        self.many(whole, part, nothing).addCallback(lambda _: told.append("told"))
        for sent in self.link.sent:
            self.link.answer(sent, stream="S", seq=int(sent.payload), duplicate=sent.payload in (b"4", b"6"))
        self.assertEqual(told, [("a", [b"1", b"2"]), ("b", [b"3", b"5"]), "told"])

    def test_delivery_after_doubt(self) -> None:
        """What was stored without our knowing it is delivered when it comes again under its id."""
        told: list[bytes] = []
        self.lane = self.make(stored=lambda runs: told.extend(payload for run in runs for payload in run.payloads))
        message = Run(TOPIC, [b"1", b"2"], qos=1, message_ids=["k", "l"])
        self.many(message)
        self.link.answer(self.link.sent[1], stream="S", seq=2)
        self.clock.pump([1] * 7)
        self.assertEqual(told, [b"2"])
        self.many(message)
        for sent in self.link.sent[2:]:
            self.link.answer(sent, stream="S", seq=1, duplicate=True)
        self.assertEqual(told, [b"2", b"1"])

    def test_congestion_by_many(self) -> None:
        """Many messages count as others do, until they are answered."""
        self.lane = self.make(queue_messages=10)
        self.many(run(*[b"x"] * 11))
        self.assertTrue(self.lane.congested)
        for sent in self.link.sent:
            self.link.answer(sent, stream="S", seq=1)
        self.assertEqual((self.lane.congested, self.drained), (False, 1))

    def test_congestion(self) -> None:
        """Above the bound the lane is congested; below half of it, it says so once; far above it refuses."""
        lane = self.make(parcels=1, queue_messages=10)
        lane.publish(run(*[b"x"] * 8))
        self.assertFalse(lane.congested)
        lane.publish(run(*[b"x"] * 32))
        self.assertTrue(lane.congested)
        self.failureResultOf(lane.publish(run(b"x")), BusUnavailable)
        self.assertFalse(lane.record(run(b"x")))
        self.link.confirm()
        self.assertTrue(lane.congested)
        self.link.confirm()
        self.assertEqual((lane.congested, self.drained), (False, 1))

    def test_congestion_by_bytes(self) -> None:
        """Bytes count as messages do."""
        lane = self.make(queue_bytes=1000)
        lane.record(run(bytes(1001)))
        self.assertTrue(lane.congested)
        self.link.confirm()
        self.assertFalse(lane.congested)

    def test_close(self) -> None:
        """What has no acknowledgement when the link is lost fails, written or not; nothing is left behind."""
        lane = self.make(parcels=1)
        results: list[Any] = [lane.publish(run(b"1")), lane.publish(run(b"2")), lane.publish_one(TOPIC, b"3", 1)]
        lane.record(run(b"4"))
        lane.close()
        for result in results:
            self.failureResultOf(result, BusUnavailable)
        self.failureResultOf(lane.publish(run(b"5")), BusUnavailable)
        self.assertFalse(lane.record(run(b"6")))
        self.assertEqual((self.link.inboxes, self.clock.getDelayedCalls()), ({}, []))

    def test_late_answer(self) -> None:
        """An acknowledgement that comes after all hope was given up changes nothing."""
        stored = self.lane.publish(run(b"1"))
        commit = self.link.sent[0]
        handler = self.link.inboxes[commit.token]
        self.clock.pump([1] * 7)
        self.failureResultOf(stored, BusUnavailable)
        handler([(b"1", commit.reply.encode(), b"", b"", b'{"stream":"S","seq":1,"count":1}')])

    def test_empty_run(self) -> None:
        """Nothing is stored at once."""
        self.successResultOf(self.lane.publish(run()))
        self.assertEqual(self.link.sent, [])
