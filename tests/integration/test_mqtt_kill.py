"""Clients while processes are killed: QoS 1 loses nothing, QoS 2 comes exactly once, in order; wills are published."""

# mypy: disallow-untyped-calls=False
# (trial has no annotations)
from __future__ import annotations

import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from threading import Condition, Thread

from twisted.trial.unittest import SynchronousTestCase

from flowgate.mqtt.packets import Will
from tests.integration.gateway import MqttClient, RunningGateway, read_to_end, until
from tests.integration.mqtt_session import PersistentClient, Unavailable
from tests.integration.two_nodes import two_nodes

WINDOW = 100
"""Messages in flight, in both directions."""

CONFIG = f"""
[history]
messages = 100000

[limits]
inflight_messages = {WINDOW}
queued_messages = 100000
"""

SECONDS = 55.0
"""How long all of a test may take."""

TOPICS = {1: "kill/at least once", 2: "kill/exactly once"}
END = b"end"
_AGAIN = 0.02
"""Seconds between two attempts to connect."""


def seeded() -> random.Random:
    """Chance that can be had again: the seed is printed."""
    seed = random.randrange(1 << 32)
    print(f" seed {seed}", end=" ", flush=True)
    return random.Random(seed)


class Progress:
    """What the threads of a test tell each other.

    :ivar done: messages that have reached their subscriber, each counted once.
    :ivar allowed: messages that may be published.
    :ivar failure: what ended a thread that should not have ended.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._changed = Condition()
        self._deadline = clock() + SECONDS
        self.done = self.allowed = 0
        self.failure: BaseException | None = None

    @property
    def left(self) -> float:
        """Seconds until everything has to be over."""
        return max(0.0, self._deadline - self._clock())

    def advance(self, done: int) -> None:
        with self._changed:
            self.done = done
            self._changed.notify_all()

    def fail(self, failure: BaseException) -> None:
        with self._changed:
            self.failure = self.failure or failure
            self._changed.notify_all()

    def pause(self, seconds: float) -> None:
        """Wait, but no longer than until something has failed."""
        with self._changed:
            self._changed.wait_for(lambda: self.failure is not None, min(seconds, self.left))

    def wait(self, done: int) -> None:
        """Wait until so many messages have arrived.

        :raises AssertionError: if they do not in time, or if a client has failed.
        """
        with self._changed:
            self._changed.wait_for(lambda: self.failure is not None or self.done >= done, self.left)
        if self.failure is not None:
            raise self.failure
        if self.done < done:
            raise AssertionError(f"{self.done} of {done} messages in {SECONDS:.0f} s")


class Running(Thread):
    """A client in a thread of its own that comes back whenever its connection ends."""

    def __init__(self, client: PersistentClient, port: Callable[[], int], progress: Progress) -> None:
        super().__init__(daemon=True)
        self.client = client
        self.port = port
        self.progress = progress

    @property
    def finished(self) -> bool:
        raise NotImplementedError

    def step(self) -> None:
        """Do a bit, on a connection that stands."""
        raise NotImplementedError

    def run(self) -> None:
        progress = self.progress
        try:
            while not self.finished:
                if progress.failure is not None:
                    return
                if not progress.left:
                    raise AssertionError(f"{self.client.client_id} has not finished: {self}")
                port = self.port()
                try:
                    if not port:
                        raise ConnectionRefusedError
                    self.client.connect(port)
                    while not self.finished and progress.left and progress.failure is None:
                        self.step()
                except (OSError, Unavailable):
                    progress.pause(_AGAIN)
        except BaseException as failure:
            progress.fail(failure)


class Publishing(Running):
    """Publishes the numbers below ``count``, in order, at QoS 1 on one topic and at QoS 2 on another."""

    def __init__(
        self, client: PersistentClient, port: Callable[[], int], progress: Progress, count: int, chance: random.Random
    ) -> None:
        super().__init__(client, port, progress)
        self._chance = chance
        self._published = 0
        self._left = {qos: [*(b"%d" % number for number in range(count)), END] for qos in TOPICS}
        for left in self._left.values():
            left.reverse()

    def __str__(self) -> str:
        left = {qos: len(payloads) for qos, payloads in self._left.items()}
        return f"{self.client.in_flight} in flight, to be published yet: {left}"

    @property
    def finished(self) -> bool:
        return not any(self._left.values()) and not self.client.in_flight

    def step(self) -> None:
        while any(self._left.values()) and (room := min(self.client.room, self.progress.allowed - self._published)) > 0:
            qos = self._chance.choice([qos for qos, left in self._left.items() if left])
            left = self._left[qos]
            count = min(room, len(left), self._chance.randint(1, 20))
            self._published += count
            self.client.publish(TOPICS[qos], [left.pop() for _ in range(count)], qos)
        self.client.read(1.0 if self.client.in_flight else _AGAIN)


class Subscribing(Running):
    """Subscribes once, and then takes what comes until the end of both topics."""

    def __init__(self, client: PersistentClient, port: Callable[[], int], progress: Progress) -> None:
        super().__init__(client, port, progress)
        self._subscribed = False
        self._seen = 0
        self._distinct: set[tuple[str, bytes]] = set()

    def __str__(self) -> str:
        seen = Counter(topic for topic, _ in self._distinct)
        return f"received so far: {dict(seen)}; {self.client.unreleased} QoS 2 messages wait for PUBREL"

    @property
    def subscribed(self) -> bool:
        return self._subscribed

    @property
    def finished(self) -> bool:
        ended = all((topic, END) in self._distinct for topic in TOPICS.values())
        return ended and not self.client.owes

    def step(self) -> None:
        if not self._subscribed:
            self.client.subscribe("kill/+", qos=2)
            self._subscribed = True
        self.client.read(1.0)
        received = self.client.received
        self._distinct.update((message.topic, message.payload) for message in received[self._seen :])
        self._seen = len(received)
        self.progress.advance(len(self._distinct))


class KillCase(SynchronousTestCase):
    """One persistent publisher and one persistent subscriber, and what they must have seen in the end."""

    def clients(self, token: str, ports: Callable[[], int], count: int, chance: random.Random) -> None:
        self.progress = Progress()
        self.subscriber = PersistentClient("subscriber", token, WINDOW)
        self.publisher = PersistentClient("publisher", token, WINDOW)
        self.subscribing = Subscribing(self.subscriber, ports, self.progress)
        self.publishing = Publishing(self.publisher, ports, self.progress, count, chance)
        for thread in (self.subscribing, self.publishing):
            self.addCleanup(self.end, thread)

    def start(self) -> None:
        self.subscribing.start()
        until(lambda: self.subscribing.subscribed or self.progress.failure, "the subscription")
        self.publishing.start()

    def end(self, thread: Running) -> None:
        """End a thread that may not have ended by itself, because the test has failed."""
        if thread.is_alive():
            self.progress.fail(AssertionError("the test is over"))
            thread.join()
        thread.client.cut()
        for connection in thread.client.abandoned:
            connection.close()

    def happen(self, count: int, kinds: list[str], chance: random.Random, act: Callable[[str], None]) -> None:
        """Have things happen in random order, each at a random place of ``count`` messages, while messages are sent."""
        chance.shuffle(kinds)
        for place, kind in zip(sorted(chance.sample(range(count), len(kinds))), kinds, strict=True):
            self.progress.allowed = place + 2 * WINDOW  # so that not all have come while the first thing happens
            self.progress.wait(place)
            self.progress.pause(chance.uniform(0, 0.02))
            act(kind)
        self.progress.allowed = count + len(TOPICS)

    def finish(self) -> None:
        """Wait for both clients to have finished."""
        for thread in (self.publishing, self.subscribing):
            thread.join(self.progress.left + 5)
            if self.progress.failure is not None:
                raise self.progress.failure
            self.assertFalse(thread.is_alive(), str(thread))

    def check(self, count: int) -> None:
        """Everything is there: in order, once at QoS 2, and again at QoS 1 only where that is allowed."""
        expected = [*(b"%d" % number for number in range(count)), END]
        seen = {
            qos: [one.payload for one in self.subscriber.received if one.topic == topic]
            for qos, topic in TOPICS.items()
        }
        self.assertEqual({one.qos for one in self.subscriber.received if one.topic == TOPICS[1]}, {1})
        self.assertEqual({one.qos for one in self.subscriber.received if one.topic == TOPICS[2]}, {2})
        self.same(list(dict.fromkeys(seen[1])), expected, "QoS 1")
        self.same(seen[2], expected, "QoS 2")
        # Without DUP, a message may come as often as it was published, which the publisher's own repetition is too.
        new = Counter((one.topic, one.payload) for one in self.subscriber.received if one.qos == 1 and not one.dup)
        often = {key for key, times in new.items() if times > 1 + self.publisher.resent[key]}
        again = [str(one) for one in self.subscriber.received if (one.topic, one.payload) in often]
        self.assertEqual(again, [], "sent again without DUP")
        self.assertEqual((self.publisher.deviations, self.subscriber.deviations), ([], []))
        for connection in self.publisher.abandoned + self.subscriber.abandoned:
            read_to_end(connection)  # [MQTT-3.1.4-2]

    def quiet(self, *gateways: RunningGateway) -> None:
        """Nothing that was killed has led to an error that nobody expected."""
        for gateway in gateways:
            self.assertNotIn("Traceback", gateway.log())

    def same(self, seen: list[bytes], expected: list[bytes], what: str) -> None:
        """Like ``assertEqual``, but says briefly what is different."""
        if seen == expected:
            return
        often = [payload for payload, times in Counter(seen).items() if times > 1]
        lost = [payload for payload in expected if payload not in set(seen)]
        first = next(i for i, (one, other) in enumerate(zip([*seen, b""], expected, strict=False)) if one != other)
        self.fail(
            f"{what}: {len(lost)} lost, the first {lost[:5]}; {len(often)} more than once, the first {often[:5]}; "
            f"different from place {first}: {seen[first : first + 5]} for {expected[first : first + 5]}"
        )

    def nothing_left(self, port: int) -> None:
        """A session holds nothing that its client has acknowledged to the end before it disconnected in order."""
        for client in (self.subscriber, self.publisher):
            client.break_off("")
            client.connect(port)
        self.exchange(b"before")  # behind what was under way when the last connection broke
        for client in (self.subscriber, self.publisher):
            client.disconnect()
            self.assertTrue(client.connect(port))
        seen = len(self.subscriber.received)
        self.exchange(b"after")
        self.assertEqual([str(one) for one in self.subscriber.received[seen:] if one.payload != b"after"], [])

    def exchange(self, payload: bytes) -> None:
        """Publish one message at each QoS, and wait for both."""
        for qos, topic in TOPICS.items():
            self.publisher.publish(topic, [payload], qos)
        self.publisher.settle()
        received = self.subscriber.received
        while sum(one.payload == payload for one in received[-WINDOW:]) < len(TOPICS):
            self.assertTrue(self.subscriber.read(), payload)
        self.subscriber.settle()


class KillTests(KillCase):
    """One gateway with a nats-server of its own."""

    def setUp(self) -> None:
        directory = tempfile.TemporaryDirectory(prefix="flowgate-test-")
        self.addCleanup(directory.cleanup)
        self.gateway = RunningGateway(Path(directory.name) / "data", CONFIG)
        self.addCleanup(self.gateway.clean_up)
        self.gateway.start()
        self.token = self.gateway.token("ann")

    def test_kill_at_random(self) -> None:
        """10,000 messages at QoS 1 and 10,000 at QoS 2 arrive while gateway and nats-server are killed ten times."""
        count = 10_000
        chance = seeded()
        self.clients(self.token, lambda: self.gateway.mqtt, count, chance)
        self.start()
        kinds = ["gateway and bus"] * 4 + ["gateway"] * 3 + ["bus"] * 3
        self.happen(2 * count, kinds, chance, self.gateway.kill_and_return)
        self.finish()
        self.check(count)
        self.nothing_left(self.gateway.mqtt)
        self.quiet(self.gateway)

    def test_cut_at_random(self) -> None:
        """Clients that lose or leave their connections at any moment lose nothing and get nothing twice."""
        count = 2_000
        chance = seeded()
        self.clients(self.token, lambda: self.gateway.mqtt, count, chance)
        self.start()

        def act(kind: str) -> None:
            chance.choice([self.publisher, self.subscriber]).break_off(kind)

        self.happen(2 * count, ["cut", "left"] * 15, chance, act)
        self.finish()
        self.check(count)
        self.nothing_left(self.gateway.mqtt)
        self.quiet(self.gateway)


class NodesTests(KillCase):
    """Two gateways on one nats-server."""

    def setUp(self) -> None:
        self.server, self.nodes, self.token = two_nodes(self, CONFIG)

    def test_move_at_random(self) -> None:
        """Sessions that move between two nodes, of which one is killed now and then, and whose nats-server is too."""
        count = 3_000
        chance = seeded()
        self.clients(self.token, lambda: chance.choice(self.nodes).mqtt, count, chance)
        self.start()

        def act(kind: str) -> None:
            if kind == "node":
                node = chance.choice(self.nodes)
                node.mqtt = 0
                node.kill_gateway()
                node.start()
            elif kind == "bus":
                self.server.kill()
                self.server.start()
            else:
                chance.choice([self.publisher, self.subscriber]).break_off(kind)

        self.happen(2 * count, ["node"] * 3 + ["bus"] * 2 + ["cut", "left"] * 5, chance, act)
        self.finish()
        self.check(count)
        for node in self.nodes:
            until(lambda node=node: node.request("GET", "/readyz")[0] == 200, "the node is back")  # type: ignore[misc]
        self.nothing_left(self.nodes[0].mqtt)
        self.quiet(*self.nodes)

    def test_takeover(self) -> None:
        """A client that connects to another node has its session there, and its old connection ends within a second."""
        one, other = self.nodes
        client = PersistentClient("moving", self.token)
        self.addCleanup(client.cut)
        client.connect(one.mqtt)
        client.subscribe("t", qos=2)
        for node in (other, one):
            client.break_off("left")
            self.assertRaises(ConnectionError, client.read)
            began = time.monotonic()
            self.assertTrue(client.connect(node.mqtt), "the session is present")
            left = client.abandoned.pop()
            self.addCleanup(left.close)
            read_to_end(left)  # [MQTT-3.1.4-2]
            self.assertLess(time.monotonic() - began, 1.0)
            client.publish("t", [b"here"], 2)
            while not client.received:
                self.assertTrue(client.read())
            client.settle()
            self.assertEqual([one.payload for one in client.received], [b"here"])
            client.received.clear()

    def test_will_of_a_killed_node(self) -> None:
        """When a node is killed, another one publishes the wills of its clients, once."""
        one, other = self.nodes
        will = Will("will", b"gone", 1, True)
        with other.mqtt_client(self.token, "watcher") as watcher, one.mqtt_client(self.token, "mortal", will=will):
            watcher.subscribe("will")
            one.kill_gateway()
            self.assertEqual(watcher.receive(1), [("will", b"gone", 1)])
            one.start()
            watcher.publish("will", b"last", 1)
            self.assertEqual(watcher.receive(1), [("will", b"last", 1)])

    def test_shared(self) -> None:
        """Each message reaches one member of a group, on whatever nodes publisher and members are; all get some."""
        count = 200
        members: list[MqttClient] = []
        with ExitStack() as stack:
            for node in self.nodes:
                for number in range(2):
                    members.append(stack.enter_context(node.mqtt_client(self.token, f"{node.mqtt} {number}")))
                    self.assertEqual(members[-1].subscribe("$share/group/jobs"), (1,))
            for index, node in enumerate(self.nodes):
                with node.mqtt_client(self.token) as publisher:
                    for number in range(count):
                        publisher.publish("jobs", b"%d %d" % (index, number), 1)
            seen: list[list[bytes]] = [[] for _ in members]

            def done() -> bool:
                for member, taken in zip(members, seen, strict=True):
                    member.flush()
                    taken += [payload for _, payload, _ in member.messages]
                    member.messages.clear()
                return sum(map(len, seen)) >= 2 * count

            until(done, "all jobs are taken")
        expected = sorted(b"%d %d" % (index, number) for index in range(2) for number in range(count))
        self.assertEqual(sorted(job for taken in seen for job in taken), expected)
        for taken in seen:
            self.assertGreater(len(taken), count // 10)
