"""Retained messages, shared subscriptions and notices on MQTT connections."""

from __future__ import annotations

import json
from itertools import chain
from typing import Any

from twisted.internet.defer import Deferred, fail
from twisted.trial.unittest import SynchronousTestCase

from flowgate.errors import LimitReached
from flowgate.limits import Limits
from flowgate.message import RetainedPage, Run
from flowgate.mqtt import packets
from flowgate.mqtt.packets import Ack, Connack, Publish, Suback, Type, Will
from tests.mqtt.node import LIFE, Cluster, Node, Peer

LIMITS = Limits(inflight_messages=4, queued_messages=20, connections=10)


class SubscriptionTests(SynchronousTestCase):
    """Common steps."""

    def setUp(self) -> None:
        self.cluster = Cluster()
        self.node = Node(self.cluster, LIMITS)
        self.publisher = self.peer("publisher")

    def settle(self) -> None:
        self.cluster.settle()

    def peer(self, client_id: str, **options: Any) -> Peer:
        peer = self.node.peer(client_id, **options)
        self.assertEqual(peer.packets()[0].code, 0)
        return peer

    def publish(self, topic: str, *payloads: bytes, qos: int = 1, retain: bool = False) -> None:
        ids = range(1, len(payloads) + 1)
        self.publisher.send(packets.publishes(topic, payloads, qos, ids if qos else (), retain=retain))
        self.settle()
        if qos == 2:
            self.publisher.send(packets.acks(Type.PUBREL, ids))
            self.settle()
        self.publisher.packets()

    def subscribe(self, peer: Peer, *filters: tuple[str, int]) -> list[tuple[str, bytes, int, bool]]:
        """Subscribe; return topic, payload, QoS and RETAIN of what came with SUBACK."""
        peer.send(packets.subscribe(1, filters))
        self.settle()
        found = peer.packets()
        suback = [one for one in found if isinstance(one, Suback)]
        self.assertEqual(len(suback), 1)
        self.assertNotIn(packets.FAILURE, suback[0].codes)
        return self.messages(found)

    @staticmethod
    def messages(found: list[Any]) -> list[tuple[str, bytes, int, bool]]:
        return [
            (one.topic.decode(), payload, one.qos, one.retain)
            for one in found
            if isinstance(one, Publish)
            for payload in one.payloads()
        ]


class RetainedTests(SubscriptionTests):
    """Section 3.3.1.3."""

    def test_kept(self) -> None:
        """[MQTT-3.3.1-5], [MQTT-3.3.1-6], [MQTT-3.3.1-8]: the last retained message of each topic, with its flag."""
        self.publish("open/a", b"old", retain=True)
        self.publish("open/a", b"new", retain=True)
        self.publish("open/b", b"b", qos=0, retain=True)
        self.publish("open/c", b"c", qos=2, retain=True)
        self.publish("open/d", b"not kept")
        got = self.subscribe(self.peer("s"), ("open/+", 2))
        self.assertEqual(
            sorted(got), [("open/a", b"new", 1, True), ("open/b", b"b", 0, True), ("open/c", b"c", 2, True)]
        )

    def test_live(self) -> None:
        """[MQTT-3.3.1-9]: to those who are subscribed already it goes without the flag, at every QoS."""
        peer = self.peer("s")
        self.subscribe(peer, ("open/a", 2))
        for qos in (0, 1, 2):
            self.publish("open/a", b"x", qos=qos, retain=True)
            self.assertEqual(self.messages(peer.packets()), [("open/a", b"x", qos, False)])

    def test_qos_of_subscription(self) -> None:
        """[MQTT-3.8.4-6]: a retained message has the lower of its own and the granted QoS."""
        self.publish("open/a", b"x", qos=2, retain=True)
        for granted in (0, 1, 2):
            got = self.subscribe(self.peer("s"), ("open/a", granted))
            self.assertEqual(got, [("open/a", b"x", granted, True)])

    def test_every_subscribe(self) -> None:
        """[MQTT-3.8.4-3]: a repeated SUBSCRIBE gets the retained messages again."""
        self.publish("open/a", b"x", retain=True)
        peer = self.peer("s")
        for _ in range(2):
            self.assertEqual(self.subscribe(peer, ("open/a", 0)), [("open/a", b"x", 0, True)])

    def test_removed(self) -> None:
        """[MQTT-3.3.1-10], [MQTT-3.3.1-11]: an empty one removes it, is delivered to subscribers, and is not kept."""
        self.publish("open/a", b"x", retain=True)
        peer = self.peer("s")
        self.subscribe(peer, ("open/a", 1))
        self.publish("open/a", b"", retain=True)
        self.assertEqual(self.messages(peer.packets()), [("open/a", b"", 1, False)])
        self.assertEqual(self.subscribe(self.peer("t"), ("open/a", 1)), [])

    def test_survives_publisher(self) -> None:
        """[MQTT-3.1.2-7]: it is no part of the publisher's session."""
        self.publish("open/a", b"x", retain=True)
        self.publisher.send(packets.DISCONNECT)
        self.publisher.lose()
        self.assertEqual(self.subscribe(self.peer("s"), ("open/a", 0)), [("open/a", b"x", 0, True)])

    def test_wildcards(self) -> None:
        """[MQTT-4.7.1-2], [MQTT-4.7.2-1]: filters match retained messages as they match live ones."""
        for topic in ("open", "open/", "open/a", "open/a/b", "$SYSTEM"):
            self.node.gateway.publish_trusted(
                packets_topic(topic), topic.encode(), qos=1, retain=True, message_id=topic, again=False
            )
        self.settle()
        for filter_, expected in (
            ("open/#", {"open", "open/", "open/a", "open/a/b"}),
            ("open/+", {"open/", "open/a"}),
            ("#", {"open", "open/", "open/a", "open/a/b"}),
            ("+/a/+", {"open/a/b"}),
            ("$SYSTEM", {"$SYSTEM"}),
        ):
            with self.subTest(filter=filter_):
                got = self.subscribe(self.peer("s"), (filter_, 0))
                self.assertEqual({topic for topic, *_ in got}, expected)
                self.assertEqual(len(got), len(expected))

    def test_form(self) -> None:
        """A retained message is shown in the form of the name that was subscribed to."""
        self.publish("open/a", b"x", retain=True)
        got = self.subscribe(self.peer("s"), ("alice_shop_open/a", 0))
        self.assertEqual(got, [("alice_shop_open/a", b"x", 0, True)])

    def test_will(self) -> None:
        """[MQTT-3.1.2-17]: a will with the flag is retained."""
        self.peer("m", will=Will("open/will", b"gone", 1, True)).lose()
        self.settle()
        self.assertEqual(self.subscribe(self.peer("s"), ("open/will", 0)), [("open/will", b"gone", 0, True)])

    def test_not_behind_newer(self) -> None:
        """A retained message that was replaced while it was being read does not come behind the new one."""
        self.publish("open/a", b"old", retain=True)
        self.publish("open/b", b"other", retain=True)
        peer = self.peer("s")
        held: list[Deferred[RetainedPage]] = []
        read = self.cluster.retained.page

        def late(*arguments: Any) -> Deferred[RetainedPage]:
            held.append(Deferred())
            read(*arguments).chainDeferred(held[-1])
            held[-1].pause()
            return held[-1]

        self.patch(self.cluster.retained, "page", late)
        self.assertEqual(self.subscribe(peer, ("open/#", 0)), [])
        self.publish("open/a", b"new", retain=True)
        for one in held:
            one.unpause()
        self.settle()
        self.assertEqual(self.messages(peer.packets()), [("open/a", b"new", 0, False), ("open/b", b"other", 0, True)])

    def test_in_flight_over_reconnection(self) -> None:
        """A retained message in flight to a durable session is sent again, with its flag, or given up if replaced."""
        self.publish("open/a", b"a", qos=2, retain=True)
        self.publish("open/b", b"b", qos=2, retain=True)
        peer = self.peer("s", clean_session=False)
        self.assertEqual(len(self.subscribe(peer, ("open/#", 2))), 2)
        peer.lose()
        self.settle()
        self.publish("open/b", b"newer", qos=0, retain=True)
        again = self.node.peer("s", clean_session=False).packets()
        self.assertEqual(self.messages(again), [("open/a", b"a", 2, True)])
        self.assertEqual([one.type for one in again if isinstance(one, Ack)], [Type.PUBREL])

    def test_one_filter_after_the_other(self) -> None:
        """However many filters a SUBSCRIBE has, one page of retained messages is asked for at a time."""
        self.publish("open/a", b"x", retain=True)
        asked: list[int] = []
        read = self.cluster.retained.page

        def page(*arguments: Any) -> Deferred[RetainedPage]:
            asked.append(1)
            return read(*arguments).addBoth(lambda result: asked.pop() and result)

        self.patch(self.cluster.retained, "page", page)
        peer = self.peer("s")
        peer.send(packets.subscribe(1, [(f"open/{'+' if number % 2 else 'a'}", 0) for number in range(6)]))
        most = 0
        for _ in range(60):
            most = max(most, len(asked))
            self.settle()
        self.assertEqual(most, 1)
        self.assertEqual(len(self.messages(peer.packets())), 2)
        self.cluster.clock.pump([1, 1])
        self.settle()
        self.assertEqual(peer.protocol._subscriptions._retained, {})  # type: ignore[union-attr]

    def test_malformed_among_others(self) -> None:
        """Of a SUBSCRIBE with a malformed filter nothing is done."""
        peer = self.peer("s")
        peer.send(packets.subscribe(1, [("open/a", 1), ("open/a#", 1)]))
        self.assertTrue(peer.closed)
        self.assertEqual(self.node.gateway._router._spaces, {})

    def test_bus_comes_back(self) -> None:
        """While the store of retained messages is away they are waited for, as long as the client is subscribed."""
        self.publish("open/a", b"x", retain=True)
        self.cluster.retained.go_away()
        peer = self.peer("s")
        self.assertEqual(self.subscribe(peer, ("open/a", 0)), [])
        self.cluster.retained.come_back()
        self.cluster.clock.pump([1, 1])
        self.settle()
        self.assertEqual(self.messages(peer.packets()), [("open/a", b"x", 0, True)])


def packets_topic(name: str) -> Any:
    """A topic of alice's application."""
    from flowgate.topics import Topic
    from tests.mqtt.node import HOME

    return Topic(HOME, name)


class SharedTests(SubscriptionTests):
    """``$share/GROUP/FILTER``."""

    def got(self, *peers: Peer) -> list[list[bytes]]:
        return [[payload for _, payload, *_ in self.messages(peer.packets())] for peer in peers]

    def members(self, count: int, qos: int = 1, **options: Any) -> list[Peer]:
        peers = [self.peer(f"m{number}", **options) for number in range(count)]
        for peer in peers:
            self.subscribe(peer, ("$share/g/open/+", qos))
        return peers

    def test_each_to_one(self) -> None:
        """Every message goes to one member of the group, at every QoS, and all members get some."""
        for qos in (0, 1):
            with self.subTest(qos=qos):
                peers = self.members(3, qos)
                self.publish("open/a", *(b"%d" % n for n in range(12)), qos=qos)
                got = self.got(*peers)
                self.assertEqual(sorted(chain(*got)), sorted(b"%d" % n for n in range(12)))
                self.assertTrue(all(got))

    def test_groups_apart(self) -> None:
        """Two groups, and a subscriber of its own, each get every message."""
        one, other, plain = self.peer("a"), self.peer("b"), self.peer("c")
        self.subscribe(one, ("$share/g/open/a", 1))
        self.subscribe(other, ("$share/h/open/a", 1))
        self.subscribe(plain, ("open/a", 1))
        self.publish("open/a", b"x")
        self.assertEqual(self.got(one, other, plain), [[b"x"]] * 3)

    def test_qos(self) -> None:
        """A shared subscription is granted QoS 1 at most."""
        peer = self.peer("a")
        peer.send(packets.subscribe(1, [("$share/g/open/a", 2)]))
        self.settle()
        self.assertEqual(peer.got(), [Suback(1, (1,))])
        self.publish("open/a", b"x", qos=2)
        self.assertEqual(self.messages(peer.packets()), [("open/a", b"x", 1, False)])

    def test_does_not_acknowledge(self) -> None:
        """A member that is given more than may wait, and acknowledges nothing, is cut off; others get its messages."""
        small = Node(self.cluster, Limits(inflight_messages=2, queued_messages=3, connections=10))
        slow = small.peer("slow")
        slow.packets()
        self.subscribe(slow, ("$share/g/open/+", 1))
        (good,) = self.members(1)
        self.publish("open/a", *(b"%d" % n for n in range(20)))
        self.assertTrue(slow.closed or slow.transport.disconnected)
        got: set[bytes] = set()
        for _ in range(20):
            found = [one for one in good.packets() if isinstance(one, Publish)]
            got |= {payload for one in found for payload in one.payloads()}
            good.send(packets.acks(Type.PUBACK, [packet_id for one in found for packet_id in one.packet_ids]))
            self.settle()
        self.assertEqual(got, {b"%d" % n for n in range(20)})

    def test_unacknowledged_go_on(self) -> None:
        """What a member has not acknowledged when it leaves is given to another one."""
        first, second = self.members(2)
        self.publish("open/a", *(b"%d" % n for n in range(4)))
        mine, others = self.got(first, second)
        first.lose()
        self.settle()
        self.assertEqual(self.got(second), [mine])
        self.assertEqual(len(mine) + len(others), 4)

    def test_acknowledged_stays(self) -> None:
        """What a member has acknowledged is given to nobody else when it leaves."""
        first, second = self.members(2)
        self.publish("open/a", b"1", b"2")
        found = [one for one in first.packets() if isinstance(one, Publish)]
        first.send(packets.acks(Type.PUBACK, [packet_id for one in found for packet_id in one.packet_ids]))
        second.packets()
        first.lose()
        self.settle()
        self.assertEqual(self.got(second), [[]])

    def test_unsubscribed(self) -> None:
        """A member that unsubscribes gets nothing more; the others get it all."""
        first, second = self.members(2)
        first.send(packets.unsubscribe(2, ["$share/g/open/+"]))
        self.settle()
        self.assertEqual(first.got(), [Ack(Type.UNSUBACK, (2,))])
        self.publish("open/a", b"1", b"2")
        self.assertEqual(self.got(first, second), [[], [b"1", b"2"]])

    def test_no_retained(self) -> None:
        """A shared subscription gets no retained messages: they would go to every member."""
        self.publish("open/a", b"x", retain=True)
        self.assertEqual(self.subscribe(self.peer("a"), ("$share/g/open/a", 1)), [])

    def test_without_history(self) -> None:
        """Unacknowledged messages of a topic without history are shared too."""
        peers = self.members(2, 0)
        self.publish("open/live", b"1", b"2", b"3", b"4", qos=0)
        self.assertEqual(sorted(chain(*self.got(*peers))), [b"1", b"2", b"3", b"4"])

    def test_malformed(self) -> None:
        """A name without group or filter is refused."""
        peer = self.peer("a")
        for name in ("$share/g", "$share//open/a", "$share/g+/open/a", "$share/g#/x"):
            peer.send(packets.subscribe(1, [(name, 0)]))
            self.settle()
            self.assertEqual(peer.got(), [Suback(1, (0x80,))])

    def test_of_a_durable_session(self) -> None:
        """A durable session has its place in the group again when its client is back."""
        peer = self.peer("d", clean_session=False)
        self.subscribe(peer, ("$share/g/open/a", 1))
        peer.lose()
        self.settle()
        self.publish("open/a", b"x")
        self.assertEqual(
            self.messages(self.node.peer("d", clean_session=False).packets()), [("open/a", b"x", 1, False)]
        )


class NoticeTests(SubscriptionTests):
    """``$SYS/notices``."""

    def notices(self, peer: Peer) -> list[Any]:
        return [json.loads(payload) for topic, payload, *_ in self.messages(peer.packets()) if topic == "$SYS/notices"]

    def test_token_expires(self) -> None:
        """A client that listens is told 30 s before its token expires, once; others are not."""
        peer, other = self.peer("a"), self.peer("b")
        self.subscribe(peer, ("$SYS/#", 0))
        self.cluster.clock.pump([1] * (LIFE - 31))
        self.assertEqual(self.notices(peer), [])
        self.cluster.clock.pump([1] * 3)
        (notice,) = self.notices(peer)
        self.assertEqual(notice["code"], "token_expiring")
        self.assertTrue(27 <= notice["seconds"] <= 30)
        self.cluster.clock.pump([1] * 10)
        self.assertEqual(self.notices(peer), [])
        self.assertEqual(other.packets(), [])

    def test_billing_guard(self) -> None:
        """A PUBLISH that the Billing Guard refuses gets a notice and no acknowledgement; the connection goes on."""
        peer = self.peer("a")
        self.subscribe(peer, ("$SYS/notices", 0))
        publish = self.cluster.bus.publish

        def guarded(run: Run) -> Deferred[None]:
            if b"over" in run.payloads:
                return fail(LimitReached("the plan's messages are used up", limit=5, used=5))
            return publish(run)

        self.patch(self.cluster.bus, "publish", guarded)
        peer.send(packets.publishes("open/a", [b"1"], 1, [1]))
        for qos in (1, 2):
            peer.send(packets.publishes("open/a", [b"over"], qos, [1 + qos]))
        peer.send(packets.publishes("open/a", [b"2"], 1, [4]))
        self.settle()
        found = peer.packets()
        self.assertEqual([one.packet_ids for one in found if isinstance(one, Ack)], [(1, 4)])
        notices = [json.loads(payload) for _, payload, *_ in self.messages(found)]
        self.assertEqual([(one["code"], one["limit"]) for one in notices], [("limit_reached", 5)] * 2)
        self.assertFalse(peer.closed)
        self.patch(self.cluster.bus, "publish", publish)
        peer.send(packets.publishes("open/a", [b"over"], 2, [3], dup=True))
        self.settle()
        self.assertEqual(peer.packets(), [Ack(Type.PUBREC, (3,))])
        self.assertTrue(any(entry.payload == b"over" for entry in self.cluster.bus._entries))

    def test_connack(self) -> None:
        """The session flag of a client that only listens is as for any other."""
        self.assertEqual(self.node.peer("z").packets(), [Connack(False, 0)])
