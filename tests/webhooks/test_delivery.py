"""Deliveries: order, retries, dead letters, several nodes."""

from __future__ import annotations

import json

from flowgate.message import Cursor
from flowgate.topics import Namespace, Topic
from flowgate.webhooks.delivery import PARALLEL, VISIBILITY
from flowgate.webhooks.forming import Published
from flowgate.webhooks.service import GRACE_SECONDS, MAX_REQUESTS, Wanted
from flowgate.webhooks.signing import sign
from tests.webhooks.node import HOME, URL, WebhooksTestCase


class RequestTests(WebhooksTestCase):
    """What is sent."""

    def test_request(self) -> None:
        """A message is sent to the URL as JSON, with its id and topic, and signed with the secret that was shown."""
        made = self.hook()
        self.publish('{"x":1}')
        request = self.receiver.take()
        self.assertEqual(request.url, URL)
        self.assertEqual(json.loads(request.body), {"id": "ep-1", "topic": "sales/a", "data": {"x": 1}})
        now = int(self.clock.seconds())
        assert made.secret is not None
        self.assertEqual(
            request.headers,
            {
                "Content-Type": "application/json",
                "Flow-Id": "ep-1",
                "Flow-Topic": "sales/a",
                "Flow-Webhook": "w",
                "Flow-Attempt": "1",
                "Flow-Timestamp": str(now),
                "Flow-Signature": sign(made.secret, now, request.body),
            },
        )

    def test_payloads(self) -> None:
        """Every payload is shown as other JSON subscribers are shown it; each byte survives."""
        self.hook()
        for payload, shown in (
            *((b"text", {"data": "text"}), (b"", {"data": ""}), (b"[1, 2]", {"data": [1, 2]})),
            *((b"\xff\0", {"data": "/wA=", "encoding": "base64"}), ("\x01é".encode(), {"data": "\x01é"})),
            (b"/wA=", {"data": "/wA="}),
        ):
            self.publish(payload)
            body = json.loads(self.receiver.answer().body)
            self.settle()
            self.assertEqual({name: body[name] for name in body if name in ("data", "encoding")}, shown)

    def test_topics(self) -> None:
        """A topic's name is whole in the body; in the head, what is not visible ASCII is percent-encoded."""
        self.hook(filter_="#")
        for topic, header in (
            *(("a b/é\r\nX: y", "a%20b/%C3%A9%0D%0AX:%20y"), ("100%", "100%25"), ("_/x_y", "_/x_y")),
            ("t" * 500, "t" * 500),
        ):
            self.publish("x", topic=topic)
            request = self.receiver.answer()
            self.settle()
            self.assertEqual(json.loads(request.body)["topic"], topic)
            self.assertEqual(request.headers["Flow-Topic"], header)

    def test_full_names(self) -> None:
        """Who subscribed with a full name is shown full names."""
        self.hook(full=True)
        self.publish("x")
        request = self.receiver.take()
        self.assertEqual(json.loads(request.body)["topic"], "alice_shop_sales/a")
        self.assertEqual(request.headers["Flow-Topic"], "alice_shop_sales/a")

    def test_elsewhere(self) -> None:
        """A topic of another namespace, whose full name is subscribed to, is delivered under that name."""
        wanted = Wanted("bob_cafe_news/#", True, URL)
        self.done(self.webhooks.configure(HOME, "w", wanted, lambda _: None))
        self.publish("x", topic="news/a", home=Namespace("bob", "cafe"))
        self.assertEqual(json.loads(self.receiver.take().body)["topic"], "bob_cafe_news/a")


class OrderTests(WebhooksTestCase):
    """In order for each topic."""

    def test_one_at_a_time(self) -> None:
        """The next message of a topic is sent when the one before it was accepted."""
        self.hook()
        self.publish("1", "2", "3")
        for number in (1, 2, 3):
            self.assertEqual(self.receiver.answer().data, str(number))
            self.settle()
        self.assertEqual((self.receiver.requests, self.waiting()), ([], 0))
        self.assertEqual(self.meter.count("webhook_messages", "delivered"), 3)

    def test_other_topics_go_on(self) -> None:
        """A topic that waits for an answer does not keep back another one; a node has so many requests at once."""
        self.hook()
        for number in range(PARALLEL + 2):
            self.publish(str(number), topic=f"sales/{number}")
        self.assertEqual([one.data for one in self.receiver.requests], [str(number) for number in range(PARALLEL)])
        self.receiver.requests.pop(3).answer.callback(200)
        self.settle()
        self.assertEqual(self.receiver.requests[-1].data, str(PARALLEL))
        self.assertEqual(len(self.receiver.requests), PARALLEL)

    def test_failed(self) -> None:
        """After a failure the same message is sent again before any other of its topic."""
        self.hook()
        self.publish("1", "2")
        self.receiver.answer(500)
        self.settle()
        self.assertEqual(self.receiver.requests, [])
        self.wait_seconds(1)
        request = self.receiver.answer(204)
        self.assertEqual((request.data, request.headers["Flow-Attempt"]), ("1", "2"))
        self.settle()
        self.assertEqual(self.receiver.take().data, "2")

    def test_two_nodes(self) -> None:
        """Several nodes keep the order too, and send each message once."""
        self.start(self.node())
        self.hook()
        self.publish("1", "2", topic="sales/a")
        self.publish("3", topic="sales/b")
        requests = list(self.receiver.requests)
        self.receiver.requests.clear()
        self.assertEqual([one.data for one in requests], ["1", "3"])
        for one in requests:
            one.answer.callback(200)
        self.settle()
        self.assertEqual(self.receiver.answer().data, "2")
        self.settle()
        self.assertEqual((self.receiver.requests, self.waiting()), ([], 0))

    def test_dead_node(self) -> None:
        """What a node had under way when it died is sent by another one, after a while."""
        self.hook()
        self.publish("1", "2")
        self.receiver.take()
        self.start(self.node())
        self.wait_seconds(VISIBILITY - 2)
        self.assertEqual(self.receiver.requests, [])
        self.wait_seconds(3)
        request = self.receiver.answer()
        self.assertEqual((request.data, request.headers["Flow-Attempt"]), ("1", "2"))
        self.settle()
        self.assertEqual(self.receiver.take().data, "2")

    def test_late_answer(self) -> None:
        """An answer that comes when the message is with another node already changes nothing."""
        self.hook()
        self.publish("1", "2")
        late = self.receiver.take()
        self.start(self.node())
        self.wait_seconds(VISIBILITY + 1)
        again = self.receiver.take()
        late.answer.callback(500)
        self.settle()
        again.answer.callback(200)
        self.settle()
        self.assertEqual(self.receiver.take().data, "2")
        self.assertEqual(self.waiting(), 1)


class FailureTests(WebhooksTestCase):
    """What is not accepted."""

    def test_statuses(self) -> None:
        """Every status that is not 2xx is a failure, redirects too."""
        self.hook(max_receives=100)
        self.publish("x")
        for status in (301, 307, 400, 404, 429, 500, 503, 199, 300):
            self.receiver.answer(status)
            for _ in range(700):
                if not self.receiver.requests:
                    self.wait_seconds(1)
        self.assertEqual(self.meter.count("webhook_messages", "failed"), 9)
        self.receiver.answer(299)
        self.settle()
        self.assertEqual(self.waiting(), 0)

    def test_pauses(self) -> None:
        """Attempts are 1, 5, 30, 120, then 600 seconds apart."""
        self.hook()
        self.publish("x")
        for seconds in (1, 5, 30, 120, 600, 600):
            self.receiver.answer(500)
            self.wait_seconds(seconds - 0.5)
            self.assertEqual(self.receiver.requests, [], seconds)
            self.wait_seconds(1)

    def test_given_up(self) -> None:
        """After so many attempts a message is given up, and the next of its topic is sent."""
        self.hook(max_receives=2)
        self.publish("1", "2")
        self.receiver.answer(500)
        self.wait_seconds(1)
        self.receiver.answer(500)
        self.settle()
        self.assertEqual(self.receiver.take().data, "2")
        self.assertEqual(self.meter.count("webhook_messages", "dropped"), 1)

    def test_dead_letter(self) -> None:
        """With a queue for dead letters it goes there: as if that had subscribed, with the reason."""
        self.make("dead")
        self.hook(max_receives=1, dead_letter="dead")
        self.publish(b"\xff")
        self.receiver.answer(500)
        self.settle()
        (message,) = self.receive(name="dead")
        self.assertEqual(message.body, "/w==")
        self.assertEqual(
            {name: one.value for name, one in message.attributes.items()},
            {
                "topic": "sales/a",
                "id": "ep-1",
                "ContentEncoding": "base64",
                "webhook": "w",
                "reason": "the answer was 500",
            },
        )
        self.assertEqual((self.waiting(), self.meter.count("webhook_messages", "dead_lettered")), (0, 1))

    def test_dead_letter_in_order(self) -> None:
        """In a FIFO queue for dead letters the topic is the group."""
        self.make("dead.fifo")
        self.hook(max_receives=1, dead_letter="dead.fifo")
        self.receiver.statuses = [500, 500]
        self.publish("1", "2")
        first, second = self.receive(10, name="dead.fifo")
        self.assertEqual((first.body, first.group, second.body), ("1", "sales/a", "2"))

    def test_dead_letter_once(self) -> None:
        """A dead letter whose sender died before it was done with it is in the queue once."""
        self.make("dead")
        self.hook(max_receives=1, dead_letter="dead")
        self.publish("x")
        webhook = self.webhooks.listing(HOME)[0]
        published = Published(Topic(HOME, "sales/a"), Cursor("ep", 1), b"x")
        letter = published.dead_letter(webhook, "dead", "the answer was 500")
        self.done(self.queues.deposit(HOME, "dead", [letter], [f"webhook.{webhook.id}.ep-1"]))
        self.receiver.answer(500)
        self.settle()
        self.assertEqual((len(self.receive(10, name="dead")), self.waiting()), (1, 0))

    def test_no_place_for_dead_letters(self) -> None:
        """If the queue for dead letters is gone, the message stays, and is tried again."""
        self.make("dead")
        self.hook(max_receives=1, dead_letter="dead")
        self.done(self.queues.remove(HOME, "dead"))
        self.publish("x")
        self.receiver.answer(500)
        self.wait_seconds(1)
        self.assertEqual(self.receiver.take().headers["Flow-Attempt"], "2")

    def test_gone(self) -> None:
        """An answer of 410 disables the webhook: nothing more is sent, and its topics are left; nothing is lost."""
        self.hook()
        self.publish("1", "2")
        self.receiver.answer(410)
        self.wait_seconds(700)
        self.assertEqual(self.receiver.requests, [])
        (webhook,) = self.webhooks.listing(HOME)
        self.assertEqual((webhook.state.value, self.waiting()), ("disabled", 2))
        self.assertEqual(self.done(self.queues.describe(webhook.place, webhook.queue)).subscriptions, ())
        self.hook()
        self.settle()
        self.assertEqual(self.receiver.answer().data, "1")
        self.settle()
        self.assertEqual(self.receiver.take().data, "2")

    def test_gone_of_another_url(self) -> None:
        """An answer of 410 from a URL that the webhook no longer has does not disable it."""
        self.hook()
        self.publish("1")
        request = self.receiver.take()
        self.hook(url="https://other.example/")
        request.answer.callback(410)
        self.settle()
        (webhook,) = self.webhooks.listing(HOME)
        self.assertEqual(webhook.state.value, "enabled")
        self.assertEqual(self.receiver.take().url, "https://other.example/")

    def test_bus_away(self) -> None:
        """While the bus is away nothing is sent; afterwards it goes on."""
        self.hook()
        self.one.bus.available = False
        self.wait_seconds(60)
        self.one.bus.available = True
        self.publish("x")
        self.wait_seconds(11)
        self.assertEqual(self.receiver.take().data, "x")


class StopTests(WebhooksTestCase):
    """The node goes away."""

    def test_finishes(self) -> None:
        """What is under way may end, and counts; nothing new is begun."""
        self.hook()
        self.publish("1", "2")
        request = self.receiver.take()
        stopping = self.webhooks.stop()
        self.clock.advance(1)
        self.assertNoResult(stopping)
        request.answer.callback(200)
        self.settle()
        self.wait_seconds(1)
        self.done(stopping)
        self.assertEqual(self.receiver.requests, [])
        self.start(self.node())
        self.settle()
        self.assertEqual(self.receiver.take().data, "2")

    def test_broken_off(self) -> None:
        """What takes too long is broken off, which is no failure, and sent again by another node soon."""
        self.hook(max_receives=1)
        self.publish("1")
        request = self.receiver.take()
        stopping = self.webhooks.stop()
        self.clock.pump([0.25] * int(4 * GRACE_SECONDS + 4))
        self.done(stopping)
        self.assertTrue(request.cancelled)
        self.start(self.node())
        self.wait_seconds(2)
        self.assertEqual(self.receiver.take().data, "1")

    def test_bound(self) -> None:
        """When a node has its most requests under way, no webhook waits for another message until one is over."""
        hooks = 2 * MAX_REQUESTS // PARALLEL
        for number in range(hooks):
            self.hook(f"w{number}", filter_=f"t{number}/#")
        for number in range(hooks):
            for topic in range(PARALLEL):
                self.publish("x", topic=f"t{number}/{topic}", name=f"w{number}")
        under_way = len(self.receiver.requests)
        self.assertTrue(MAX_REQUESTS <= under_way <= MAX_REQUESTS + hooks, under_way)
        sent = 0
        while self.receiver.requests:
            self.receiver.requests.pop(0).answer.callback(200)
            sent += 1
            if sent % 50 == 0:
                self.settle()
        self.settle()
        while self.receiver.requests:
            self.receiver.requests.pop(0).answer.callback(200)
            sent += 1
            self.settle()
        self.assertEqual(sent, hooks * PARALLEL)
