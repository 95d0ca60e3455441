"""Reading retained messages, against a server that a test plays."""

from __future__ import annotations

import base64
import json
from typing import Any, cast

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from flowgate.bus.link import Link
from flowgate.bus.reading import TooMuchAtOnce
from flowgate.bus.retained import JetStreamRetained
from flowgate.bus.wire import Message
from flowgate.errors import BusUnavailable
from flowgate.message import Cursor, RetainedPage, Run
from flowgate.topics import Namespace

SHOP = Namespace("alice", "shop")
TIME = "2026-01-02T03:04:05Z"


def message(name: str, sequence: int, payload: bytes = b"x", following: int = 0) -> Message:
    head = (
        f"NATS/1.0\r\nFlowgate-QoS: 2\r\nFlowgate-Place: e-7\r\nNats-Stream: FG_RETAINED\r\n"
        f"Nats-Subject: fg.ret.alice.shop.-.{name}.%\r\nNats-Sequence: {sequence}\r\nNats-Time-Stamp: {TIME}\r\n"
        f"Nats-Num-Pending: {following}\r\n\r\n"
    )
    return b"1", b"_INBOX.me.t", b"", head.encode(), payload


class RetainedTests(SynchronousTestCase):
    """What is asked of the server, and what its answers mean."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.asked: list[dict[str, Any]] = []
        self.answers: list[Any] = []
        self.requests: list[tuple[str, Any]] = []
        self.replies: list[Any] = []
        self.make(1)

    def make(self, replicas: int) -> None:
        self.retained = JetStreamRetained(self.clock, cast(Link, self), replicas=replicas)
        self.retained._presence.there = True
        self.patch(self.retained, "_fetch", self.fetch)

    def fetch(self, body: dict[str, Any]) -> Deferred[Any]:
        """What stands for a batched direct get."""
        self.asked.append(body)
        answer = self.answers.pop(0)
        return fail(answer) if isinstance(answer, Exception) else succeed(answer)

    def request(self, subject: str, payload: bytes) -> Deferred[Any]:
        """What stands for the link."""
        self.requests.append((subject.removeprefix("$JS.API."), json.loads(payload)))
        reply = self.replies.pop(0)
        return succeed(reply if isinstance(reply, tuple) else (b"1", b"", b"", b"", json.dumps(reply).encode()))

    def page(self, filter_: str, after: int = 0, limit: int = 1000) -> Deferred[RetainedPage]:
        return self.retained.page(SHOP, filter_, after, limit)

    def names(self, page: Deferred[RetainedPage]) -> list[str]:
        return [run.topic.name for run in self.successResultOf(page).runs]

    # -- pages

    def test_wildcards(self) -> None:
        """The first page of a filter with wildcards is found by the index of subjects."""
        self.answers = [([message("a", 3, following=1), message("b", 5)], False)]
        page = self.page("+")
        self.assertEqual(self.asked, [{"batch": 1000, "max_bytes": 262144, "multi_last": ["fg.ret.alice.shop.-.*.%"]}])
        found = self.successResultOf(page)
        self.assertEqual((found.after, list(found.places)), (None, [Cursor("e", 7)] * 2))
        self.assertEqual(
            [(run.qos, list(run.sequences), run.retain) for run in found.runs], [(2, [3], True), (2, [5], True)]
        )

    def test_further_pages(self) -> None:
        """A further page, and an exact name, is read by sequence."""
        self.answers = [([message("a", 5)], True), ([message("a", 3)], False)]
        self.assertEqual(self.successResultOf(self.page("#", 4, 1)).after, 5)
        self.page("a")
        self.assertEqual(
            self.asked,
            [
                {"batch": 1, "max_bytes": 262144, "seq": 5, "next_by_subj": "fg.ret.alice.shop.-.>"},
                {"batch": 1000, "max_bytes": 262144, "seq": 1, "next_by_subj": "fg.ret.alice.shop.-.a.%"},
            ],
        )

    def test_too_many_subjects(self) -> None:
        """Where more subjects match than are given at once, they are read by sequence too."""
        self.answers = [TooMuchAtOnce(), ([message("a", 3)], True)]
        self.assertEqual(self.names(self.page("#")), ["a"])
        self.assertEqual(self.asked[1]["next_by_subj"], "fg.ret.alice.shop.-.>")

    def test_answer_that_lacks_some(self) -> None:
        """So they are if what was replaced meanwhile is missing from the answer."""
        self.answers = [([message("a", 3, following=2), message("c", 5)], False), ([message("a", 3)], False)]
        self.assertEqual(self.names(self.page("#")), ["a"])

    def test_removals(self) -> None:
        """Removals are passed over; where a page has nothing else, the next one is read."""
        self.answers = [([message("a", 3, b"")], True), ([message("b", 4, b""), message("c", 5)], False)]
        self.assertEqual(self.names(self.page("a")), ["c"])
        self.assertEqual(self.asked[1]["seq"], 4)

    def test_replica_that_lags(self) -> None:
        """With replicas the leader is asked whether that was all; if not it is read on, or again a moment later."""
        self.make(3)
        self.replies = [{"message": {"seq": 9}}, {"message": {"seq": 9}}, {"error": {"code": 404}}]
        self.answers = [([], False), ([], False), ([message("a", 9)], False)]
        page = self.page("a")
        self.assertNoResult(page)
        self.clock.advance(0.05)
        self.assertNoResult(page)
        self.clock.advance(0.05)
        found = self.successResultOf(page)
        self.assertEqual(([run.topic.name for run in found.runs], found.after), (["a"], None))
        self.assertEqual(
            self.requests[-1],
            ("STREAM.MSG.GET.FG_RETAINED", {"seq": 10, "next_by_subj": "fg.ret.alice.shop.-.a.%"}),
        )
        self.replies = [{"message": {"seq": 9}}]
        self.answers = [([message("a", 3)], False)]
        self.assertEqual(self.successResultOf(self.page("a")).after, 3)

    def test_replica_that_is_far_behind(self) -> None:
        """After a while of that reading fails."""
        self.make(3)
        self.replies = [{"message": {"seq": 9}}] * 50
        self.answers = [([], False)] * 50
        page = self.page("a")
        self.clock.pump([0.05] * 41)
        self.failureResultOf(page, BusUnavailable)

    # -- single messages

    def test_fetch(self) -> None:
        """Each message is asked for once; what is not there, and a removal, is missing."""
        gone = (b"1", b"", b"", b"NATS/1.0 404 Message Not Found\r\n\r\n", b"")
        self.replies = [message("a", 3), gone, message("b", 5, b"")]
        found = self.successResultOf(self.retained.fetch([3, 4, 3, 0, 5]))
        self.assertEqual({sequence: run.topic.name for sequence, run in found.items()}, {3: "a"})
        self.assertEqual(self.requests, [("DIRECT.GET.FG_RETAINED", {"seq": one}) for one in (3, 4, 5)])

    def test_fetch_from_the_leader(self) -> None:
        """With replicas the leader is asked for what is missing."""
        self.make(3)
        gone = (b"1", b"", b"", b"NATS/1.0 404 Message Not Found\r\n\r\n", b"")
        stored = {"subject": "fg.ret.alice.shop.-.a.%", "data": base64.b64encode(b"x").decode(), "time": TIME}
        self.replies = [gone, {"message": stored}, gone, {"message": {**stored, "data": ""}}, gone, {"error": {}}]
        found: dict[int, Run] = {}
        for sequence in (3, 4, 5):
            one: dict[int, Run] = self.successResultOf(self.retained.fetch([sequence]))
            found.update(one)
        self.assertEqual(
            {at: (run.topic.name, run.payloads, run.qos) for at, run in found.items()}, {3: ("a", [b"x"], 0)}
        )

    def test_fetch_refused(self) -> None:
        """Another answer is a failure."""
        self.replies = [(b"1", b"", b"", b"NATS/1.0 408 Bad Request\r\n\r\n", b"")]
        self.failureResultOf(self.retained.fetch([3]), BusUnavailable)
