"""Listing the topics of a namespace."""

from __future__ import annotations

import json
from typing import Any, cast

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from flowgate.bus.link import Link
from flowgate.bus.names import topic_subject
from flowgate.bus.stream import StreamSettings
from flowgate.bus.topic_names import TopicNames
from flowgate.bus.wire import Message
from flowgate.errors import BusUnavailable
from flowgate.topics import Namespace, Topic

SHOP = Namespace("alice", "shop")


class FakeLink:
    """A server that shows three subjects at a time, as real ones do 100,000."""

    def __init__(self) -> None:
        self.subjects: dict[str, int] = {}
        self.asked: list[dict[str, Any]] = []
        self.waiting: list[Deferred[Message]] = []

    def request(self, subject: str, payload: bytes) -> Deferred[Message]:
        assert subject == "$JS.API.STREAM.INFO.FG_TOPICS"
        self.asked.append(json.loads(payload))
        self.waiting.append(Deferred())
        return self.waiting[-1]

    def answer(self) -> None:
        offset = self.asked[-1]["offset"]
        some = dict(sorted(self.subjects.items())[offset : offset + 3])
        self.tell(state={"subjects": some or None}, total=len(self.subjects))

    def tell(self, **members: object) -> None:
        self.waiting.pop(0).callback((b"", b"", b"", b"", json.dumps(members).encode()))


class TopicNamesTests(SynchronousTestCase):
    """A list over a link whose other end is the test."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.link = FakeLink()
        self.names = TopicNames(self.clock, cast(Link, self.link), StreamSettings())

    def page(self, prefix: str = "", after: str = "", limit: int = 100) -> Deferred[list[tuple[str, int]]]:
        return self.names.page(SHOP, prefix, after, limit, lambda _: True)

    def settle(self) -> None:
        while self.link.waiting:
            self.link.answer()
            self.clock.pump([0] * 5)

    def hold(self, root: str, *names: str) -> None:
        for name in names:
            self.link.subjects[topic_subject(root, Topic(SHOP, name)).decode()] = 1

    def test_pages_of_the_server(self) -> None:
        """All pages of the server are read; a topic's two subjects are added up, on whichever pages they are."""
        self.hold("log", *"cadbe")
        self.hold("live", *"cadfx")
        listed = self.page()
        self.settle()
        self.assertEqual([one["offset"] for one in self.link.asked], [0, 3, 6, 9])
        self.assertEqual(
            self.successResultOf(listed), [("a", 2), ("b", 1), ("c", 2), ("d", 2), ("e", 1), ("f", 1), ("x", 1)]
        )

    def test_only_the_first_are_kept(self) -> None:
        """What lies behind the page is let go of at once, and the counts of the others are whole all the same."""
        self.hold("live", *"gfedcba")
        self.hold("log", *"abcdefg")
        listed = self.page(after="a", limit=2)
        self.settle()
        self.assertEqual(self.successResultOf(listed), [("b", 2), ("c", 2)])

    def test_subject(self) -> None:
        """Where the beginning of the names tells whole levels, only those are asked for."""
        for prefix, subject in {
            "": "fg.*.alice.shop.>",
            "ab": "fg.*.alice.shop.>",
            "a/b": "fg.*.alice.shop.-.a.>",
            "a/b c/": "fg.*.alice.shop.-.a.b%20c.>",
            "$a/": "fg.*.alice.shop.$.$a.>",
            "/": "fg.*.alice.shop.-.%0.>",
        }.items():
            self.page(prefix)
            self.settle()
            self.assertEqual(self.link.asked[-1]["subjects_filter"], subject, prefix)

    def test_one_at_a_time(self) -> None:
        """The server makes one list at a time; who asks meanwhile waits, or gives up."""
        first, second, third = self.page(), self.page(), self.page()
        self.assertEqual(len(self.link.asked), 1)
        second.addErrback(lambda _: None)
        second.cancel()
        self.settle()
        self.assertEqual((self.successResultOf(first), self.successResultOf(third)), ([], []))
        self.assertEqual(len(self.link.asked), 2)

    def test_others_have_their_turn(self) -> None:
        """A long list does not keep the reactor: between its parts others are served."""
        self.link.subjects = {topic_subject("log", Topic(SHOP, f"{n:05}")).decode(): 1 for n in range(5000)}
        looked_at: list[str] = []
        others: list[int] = []

        def admits(name: str) -> bool:
            looked_at.append(name)
            return True

        listed = self.names.page(SHOP, "", "", 100, admits)
        self.link.tell(state={"subjects": self.link.subjects}, total=5000)
        self.clock.callLater(0, lambda: others.append(len(looked_at)))
        self.clock.advance(0)
        self.assertEqual(len(self.successResultOf(listed)), 100)
        self.assertTrue(0 < others[0] < 5000, others)

    def test_refused(self) -> None:
        """An error of the server means that there is no list now."""
        listed = self.page()
        self.link.tell(error={"code": 503, "description": "no"})
        self.failureResultOf(listed, BusUnavailable)
        again = self.page()
        self.settle()
        self.assertEqual(self.successResultOf(again), [])
