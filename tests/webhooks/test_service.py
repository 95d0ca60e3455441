"""The verbs of webhooks, on one node and on several."""

from __future__ import annotations

from unittest.mock import patch

from twisted.internet.defer import Deferred

from flowgate.errors import BusUnavailable, InsufficientScope, InvalidParameter, NotFound, RateLimited
from flowgate.webhooks import service
from flowgate.webhooks.model import State, Webhook
from flowgate.webhooks.service import Wanted
from tests.queues.nodes import ELSEWHERE
from tests.webhooks.node import BUCKET, HOME, URL, WebhooksTestCase


def nobody(webhook: Webhook) -> None:
    raise InsufficientScope()


class ConfigureTests(WebhooksTestCase):
    """Making and changing."""

    def test_made(self) -> None:
        """A new webhook has a secret, and a queue that has subscribed."""
        made = self.hook()
        self.assertIsNotNone(made.secret)
        queue = self.done(self.queues.describe(made.webhook.place, made.webhook.queue))
        self.assertEqual(queue.subscriptions, ("alice_shop_sales/#",))

    def test_again(self) -> None:
        """The same again changes nothing, and shows no secret."""
        made = self.hook()
        self.clock.advance(10)
        again = self.hook()
        self.assertEqual((again.webhook, again.secret), (made.webhook, None))

    def test_changed(self) -> None:
        """Another URL is used from the next attempt on; the secret stays."""
        made = self.hook()
        self.publish("x")
        self.receiver.answer(500)
        self.clock.advance(0.5)
        changed = self.hook(url="https://other.example/").webhook
        self.assertEqual((changed.id, changed.secret), (made.webhook.id, 1))
        self.assertGreater(changed.modified_at, changed.created_at - 1)
        self.wait_seconds(1)
        self.assertEqual(self.receiver.take().url, "https://other.example/")

    def test_another_filter(self) -> None:
        """With another filter the topics of the one before are left, and what waits of them is not sent."""
        self.hook()
        self.publish("1", "2")
        request = self.receiver.take()
        webhook = self.hook(filter_="news").webhook
        self.assertEqual(
            self.done(self.queues.describe(webhook.place, webhook.queue)).subscriptions, ("alice_shop_news",)
        )
        request.answer.callback(200)
        self.settle()
        self.assertEqual((self.receiver.requests, self.waiting()), ([], 0))

    def test_hidden(self) -> None:
        """No call of queues at home finds the queue: not by listing, by name, nor as a source of dead letters."""
        self.make("dead")
        webhook = self.hook(dead_letter="dead").webhook
        self.assertEqual([one.name for one in self.queues.listing(HOME)], ["dead"])
        self.assertEqual(self.queues.sources(HOME, "dead"), [])
        for attempt in (
            self.queues.describe(HOME, webhook.queue),
            self.queues.receive(HOME, webhook.queue),
            self.queues.remove(HOME, webhook.queue),
            self.queues.purge(HOME, webhook.queue),
        ):
            self.failureResultOf(attempt, NotFound)
        self.assertIn(webhook.queue, [one.name for one in self.queues.listing(webhook.place)])

    def test_refused(self) -> None:
        """What cannot be used is refused before anything is made."""
        for name, wanted, kind in (
            ("a.b", Wanted("alice_shop_x", False, URL), InvalidParameter),
            ("w", Wanted("alice_shop_x", False, "https://127.0.0.1/"), InvalidParameter),
            ("w", Wanted("alice_shop_x", False, "http://a.example/"), InvalidParameter),
            ("w", Wanted("alice_shop_x", False, URL, None, 0), InvalidParameter),
            ("w", Wanted("alice_shop_x", False, URL, None, 101), InvalidParameter),
            ("w", Wanted("alice_shop_x", False, URL, "nowhere"), NotFound),
        ):
            self.failureResultOf(self.webhooks.configure(HOME, name, wanted, lambda _: None), kind)
        self.assertEqual(self.webhooks.listing(HOME), [])

    def test_bounds(self) -> None:
        """An application, and the gateway, have a bounded number of webhooks; changes are possible still."""
        with patch.object(service, "MAX_WEBHOOKS", 2), patch.object(service, "MAX_ALL_WEBHOOKS", 3):
            self.hook("a")
            self.hook("b")
            wanted = Wanted("alice_shop_x", False, URL)
            self.failureResultOf(self.webhooks.configure(HOME, "c", wanted, lambda _: None), InvalidParameter)
            self.done(self.webhooks.configure(ELSEWHERE, "a", wanted, lambda _: None))
            self.failureResultOf(self.webhooks.configure(ELSEWHERE, "b", wanted, lambda _: None), RateLimited)
            self.hook("b", url="https://other.example/")

    def test_not_admitted(self) -> None:
        """Who has no leave to deal with a webhook that is there can neither see, change nor remove it."""
        before = self.hook().webhook
        for attempt in (
            self.webhooks.configure(HOME, "w", Wanted("alice_shop_x", False, URL), nobody),
            self.webhooks.describe(HOME, "w", nobody),
            self.webhooks.renew_secret(HOME, "w", nobody),
            self.webhooks.remove(HOME, "w", nobody),
        ):
            self.failureResultOf(attempt, InsufficientScope)
        self.assertEqual(self.webhooks.listing(HOME), [before])

    def test_of_others(self) -> None:
        """Another application sees nothing of it."""
        self.hook()
        self.failureResultOf(self.webhooks.describe(ELSEWHERE, "w", lambda _: None), NotFound)
        self.failureResultOf(self.webhooks.remove(ELSEWHERE, "w", lambda _: None), NotFound)
        self.assertEqual(self.webhooks.listing(ELSEWHERE), [])

    def test_renewed_secret(self) -> None:
        """A new secret is shown once, and signs at once, beside the one before it."""
        made = self.hook()
        self.publish("1", "2")
        self.receiver.answer()
        self.settle()
        renewed = self.done(self.webhooks.renew_secret(HOME, "w", lambda _: None))
        self.assertNotEqual(renewed.secret, made.secret)
        self.receiver.answer()
        self.publish("3")
        self.assertEqual(len(self.receiver.take().headers["Flow-Signature"].split(",")), 2)

    def test_listing(self) -> None:
        """Webhooks are listed by name, in pages."""
        for name in ("b", "a1", "a2"):
            self.hook(name)
        names = [one.name for one in self.webhooks.listing(HOME, limit=2)]
        self.assertEqual(names, ["a1", "a2"])
        self.assertEqual([one.name for one in self.webhooks.listing(HOME, after="a2")], ["b"])
        self.assertEqual([one.name for one in self.webhooks.listing(HOME, prefix="a")], ["a1", "a2"])

    def test_standing(self) -> None:
        """How it does: what waits, how old that is, and why the last attempt failed."""
        webhook = self.hook().webhook
        self.publish("1", "2")
        self.receiver.answer(500)
        self.settle()
        standing = self.done(self.webhooks.standing(webhook))
        self.assertEqual(standing.waiting, 2)
        assert standing.last is not None
        self.assertEqual(standing.last.reason, "the answer was 500")
        self.wait_seconds(1)
        self.receiver.answer()
        self.settle()
        standing = self.done(self.webhooks.standing(webhook))
        self.assertEqual((standing.waiting, standing.last), (1, None))
        self.assertGreater(standing.oldest_age_seconds, 0.9)


class RemoveTests(WebhooksTestCase):
    """Removing."""

    def test_removed(self) -> None:
        """With the webhook its queue and its messages go, and nothing more is sent."""
        webhook = self.hook().webhook
        self.publish("1", "2")
        request = self.receiver.take()
        self.done(self.webhooks.remove(HOME, "w", lambda _: None))
        request.answer.callback(500)
        self.wait_seconds(20)
        self.assertEqual(self.receiver.requests, [])
        self.failureResultOf(self.queues.describe(webhook.place, webhook.queue), NotFound)
        self.failureResultOf(self.webhooks.describe(HOME, "w", lambda _: None), NotFound)
        self.failureResultOf(self.webhooks.remove(HOME, "w", lambda _: None), NotFound)

    def test_made_again(self) -> None:
        """A webhook of the same name that is made later has another secret and another queue."""
        first = self.hook()
        self.done(self.webhooks.remove(HOME, "w", lambda _: None))
        second = self.hook()
        self.assertNotEqual((first.secret, first.webhook.id), (second.secret, second.webhook.id))

    def test_half_removed(self) -> None:
        """A removal that went half the way is finished at the next start; until then there is no such webhook."""
        webhook = self.half_removed()
        self.failureResultOf(self.webhooks.describe(HOME, "w", lambda _: None), NotFound)
        self.assertEqual(self.webhooks.listing(HOME), [])
        self.start(self.node())
        self.failureResultOf(self.queues.describe(webhook.place, webhook.queue), NotFound)
        self.assertIsNone(self.done(self.store.get(BUCKET, "alice.shop.w")))

    def test_half_removed_and_made_again(self) -> None:
        """Who makes it again finishes the removal first."""
        webhook = self.half_removed()
        self.assertNotEqual(self.hook().webhook.id, webhook.id)
        self.failureResultOf(self.queues.describe(webhook.place, webhook.queue), NotFound)

    def half_removed(self) -> Webhook:
        webhook = self.hook().webhook
        with patch.object(self.queues, "remove", side_effect=BusUnavailable()):
            self.failureResultOf(self.webhooks.remove(HOME, "w", lambda _: None), BusUnavailable)
        return webhook


class NodesTests(WebhooksTestCase):
    """What one node does, another one knows."""

    def setUp(self) -> None:
        super().setUp()
        self.other = self.start(self.node())

    def test_half_made(self) -> None:
        """A webhook that was written down but has no queue gets one, and then delivers."""
        with patch.object(self.queues, "create", side_effect=BusUnavailable()):
            attempt = self.webhooks.configure(HOME, "w", Wanted("alice_shop_sales/#", False, URL), lambda _: None)
            self.failureResultOf(attempt, BusUnavailable)
        self.wait_seconds(5)
        self.publish("x")
        self.assertEqual(self.receiver.take().data, "x")

    def test_disabled_everywhere(self) -> None:
        """An answer of 410 to one node keeps the others from sending too."""
        self.hook()
        self.publish("1", "2")
        self.receiver.answer(410)
        self.wait_seconds(100)
        self.assertEqual(self.receiver.requests, [])
        self.assertEqual([one.state for one in self.other.listing(HOME)], [State.DISABLED])

    def test_changed_at_the_same_time(self) -> None:
        """Of two nodes that make a webhook at the same time one is refused, and one queue is left."""
        self.hook()
        wanted = Wanted("alice_shop_news", False, URL)
        self.done(self.other.configure(HOME, "w", wanted, lambda _: None))
        (webhook,) = self.webhooks.listing(HOME)
        self.assertEqual(webhook.filter, "alice_shop_news")
        self.assertEqual(len(self.queues.listing(webhook.place)), 1)

    def test_removed_while_it_is_made(self) -> None:
        """A webhook that is removed while another node makes its queue leaves no queue behind."""
        create = self.queues.create
        removed: list[Deferred[None]] = []

        def slow(*arguments: object) -> object:
            if not removed:
                removed.append(self.other.remove(HOME, "w", lambda _: None))
            return create(*arguments)  # type: ignore[arg-type]

        with patch.object(self.queues, "create", side_effect=slow):
            made = self.hook().webhook
        self.done(removed[0])
        self.assertEqual(self.queues.listing(made.place), [])

    def test_unreadable(self) -> None:
        """What a newer version stored is passed over, and said in the log."""
        self.done(self.store.put(BUCKET, "alice.shop.v", b"{}"))
        self.assertEqual(self.webhooks.listing(HOME), [])
        self.hook()
        self.publish("x")
        self.assertEqual(self.receiver.take().data, "x")
