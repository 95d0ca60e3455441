"""Reading the stream, against a server that a test plays."""

from __future__ import annotations

import json
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from flowgate.bus.grouping import Grouper
from flowgate.bus.reading import History
from flowgate.bus.stream import StreamSettings
from flowgate.errors import BusUnavailable


class FakeLink:
    """A link whose other end is the test."""

    inbox = "_INBOX.me"

    def __init__(self, subjects: list[str]) -> None:
        self._subjects = dict.fromkeys(subjects, 1000)
        self.lost: dict[str, Any] = {}
        self.up = True
        self._tokens = 0

    def token(self) -> str:
        self._tokens += 1
        return f"t{self._tokens}"

    def open_inbox(self, token: str, handler: Any, lost: Any) -> None:
        self.lost[token] = lost

    def close_inbox(self, token: str) -> None:
        self.lost.pop(token, None)

    def write(self, data: bytes) -> None:
        if not self.up:
            raise BusUnavailable

    def request(self, subject: str, payload: bytes) -> Deferred[Any]:
        state = {"subjects": self._subjects, "first_seq": 1, "last_seq": 5000}
        answered: Deferred[Any] = Deferred()
        answered.callback((b"1", b"", b"", b"", json.dumps({"state": state, "total": len(self._subjects)}).encode()))
        return answered

    def lose(self) -> None:
        self.up = False
        for lost in list(self.lost.values()):
            lost()


class FirstsTests(SynchronousTestCase):
    """Looking for the oldest message of many subjects at once."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.link = FakeLink([f"fg.log.alice.shop.-.{n}.%" for n in range(100)])
        link: Any = self.link
        self.history = History(self.clock, link, StreamSettings(), Grouper())
        self.firsts = Deferred.fromCoroutine(self.history.full_firsts("fg.*.alice.shop.-.>"))
        self.assertEqual(len(self.link.lost), 64)

    def test_lost(self) -> None:
        """When the connection is lost, all of what was asked has failed, and none of it is left for the log."""
        self.link.lose()
        self.failureResultOf(self.firsts, BusUnavailable)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_cancelled(self) -> None:
        """A reader that leaves takes back all that was asked."""
        self.firsts.cancel()
        self.failureResultOf(self.firsts, CancelledError)
        self.assertEqual((self.link.lost, self.clock.getDelayedCalls()), ({}, []))
