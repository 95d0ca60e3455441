"""Nodes with webhooks over one bus in memory, and a receiver that answers when it is told to."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import attrs
from twisted.internet.defer import Deferred

from flowgate.metering import Meter
from flowgate.queues.published import Former
from flowgate.topics import Namespace, Topic
from flowgate.webhooks.addresses import AddressPolicy
from flowgate.webhooks.posting import Undelivered
from flowgate.webhooks.service import BUCKET, Made, Wanted, Webhooks
from tests.queues.nodes import BEGIN, HOME, SECRET, Node, QueuesTestCase

URL = "https://receiver.example/hook"


@attrs.define(eq=False)
class Request:
    """A request that has come."""

    url: str
    headers: Mapping[str, str]
    body: bytes
    answer: Deferred[int]
    cancelled: bool = False

    @property
    def data(self) -> Any:
        return json.loads(self.body)["data"]


class Receiver:
    """Stands for all URLs.

    :ivar requests: those that are not answered yet, in order.
    :ivar statuses: answers for those that come, until there are none left; then they wait.
    """

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.statuses: list[int] = []

    def post(self, url: str, headers: Mapping[str, str], body: bytes) -> Deferred[int]:
        def cancel(answer: Deferred[int]) -> None:
            request.cancelled = True
            answer.errback(Undelivered("broken off"))

        request = Request(url, headers, body, Deferred(cancel))
        if self.statuses:
            request.answer.callback(self.statuses.pop(0))
        else:
            self.requests.append(request)
        return request.answer

    def take(self) -> Request:
        """The one request that waits for an answer."""
        (request,) = self.requests
        self.requests.clear()
        return request

    def answer(self, status: int = 200) -> Request:
        """Answer the one request that waits."""
        request = self.take()
        request.answer.callback(status)
        return request


class WebhooksTestCase(QueuesTestCase):
    """One node with webhooks; more as they are needed."""

    def setUp(self) -> None:
        super().setUp()
        self.meter = Meter()
        self.sequence = 0
        self.receiver = Receiver()
        self.webhooks = self.start(self.one)

    def start(self, node: Node) -> Webhooks:
        """Have a node deliver."""
        webhooks = Webhooks(
            node.queues,
            self.store,
            SECRET,
            self.receiver.post,
            AddressPolicy(),
            self.clock,
            lambda: self.clock.seconds(),
            meter=self.meter,
            uniform=lambda: 0.5,
        )
        self.done(webhooks.start())
        self.addCleanup(self.end, webhooks)
        return webhooks

    def end(self, webhooks: Webhooks) -> None:
        stopping = webhooks.stop()
        self.clock.pump([0.5] * 12)
        self.done(stopping)

    def hook(self, name: str = "w", filter_: str = "sales/#", full: bool = False, url: str = URL, **more: Any) -> Made:
        """Have a webhook."""
        wanted = Wanted(HOME.prefix + filter_, full, url, **more)
        return self.done(self.webhooks.configure(HOME, name, wanted, lambda _: None))

    def publish(self, *payloads: str | bytes, topic: str = "sales/a", name: str = "w", home: Namespace = HOME) -> None:
        """Have messages deposited as the subscription of a webhook does it."""
        webhook = self.done(self.webhooks.describe(HOME, name, lambda _: None))
        former = Former(Topic(home, topic), webhook.place, "ep", True)
        for payload in payloads:
            self.sequence += 1
            message, origin, _ = former(payload.encode() if isinstance(payload, str) else payload, self.sequence)
            self.done(self.queues.deposit(webhook.place, webhook.queue, [message], [origin]))
        self.settle()

    def settle(self) -> None:
        """Let everything happen that happens at once."""
        self.clock.pump([0.002] * 10)

    def wait_seconds(self, seconds: float) -> None:
        self.clock.pump([0.25] * int(seconds * 4))
        self.settle()

    def waiting(self, name: str = "w") -> int:
        """Messages that are not delivered."""
        webhook = self.done(self.webhooks.describe(HOME, name, lambda _: None))
        return self.done(self.webhooks.standing(webhook)).waiting


__all__ = ["BEGIN", "BUCKET", "HOME", "URL", "Receiver", "Request", "WebhooksTestCase"]
