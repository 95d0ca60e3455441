"""The session against a model of a strict client, while messages, connections, nodes and writes come and go."""

from __future__ import annotations

import json
from collections.abc import Iterable
from time import monotonic

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from twisted.trial.unittest import SynchronousTestCase

from flowgate.mqtt import session
from flowgate.mqtt.packets import Type
from flowgate.mqtt.session import Session
from tests import FUZZ_SECONDS
from tests.mqtt.session_model import (
    RETAINED,
    SHARED,
    STRANGE_ID,
    STREAM,
    TOPICS,
    Client,
    Message,
    Node,
    World,
)

_WINDOWS = st.integers(2, 5)
_A_FEW = st.integers(1, 4)
_QOS = st.integers(1, 2)
_SIZES = st.lists(st.integers(0, 20), min_size=1, max_size=6)
_TOPICS = st.sampled_from(TOPICS)
_MIXED = st.lists(st.tuples(_TOPICS, _QOS), min_size=1, max_size=6)
_STAGES = (
    "begin write",
    "end write",
    "store",
    "to node",
    "resend",
    "read",
    "pump",
    "to client",
    "PUBACK",
    "PUBREC",
    "PUBCOMP",
)
"""What goes on by itself, in an order in which much gets done."""
_AS_FAR_AS_THE_BUS = ("to node", "begin write", "end write", "begin write", "end write")
_LAST_ID = 8
"""Instead of 65535, so that identifiers are used again and again."""
_ROUNDS = 500
"""More than any session here needs to come to rest."""


class Connections(RuleBasedStateMachine):
    """A session whose connections and nodes come and go."""

    node: Node

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.client = Client()
        self.refused = False  # on this connection
        self.reordered = False  # because some were refused

    # -- connections

    @initialize(
        next_id=st.integers(1, _LAST_ID),
        window=_WINDOWS,
        size=st.sampled_from([30, 10_000]),
    )
    def begin(self, next_id: int, window: int, size: int) -> None:
        state = {**Session(1, 0, 0).state(), "next_id": next_id}
        self.world.saved = json.dumps({"cursor": 0, "session": state}).encode()
        self.size = size
        self.connect(window)

    def connect(self, window: int) -> None:
        self.node = Node(self.world, window, self.size)
        self.client.connect()
        self.refused = False

    @rule(window=_WINDOWS)
    def lose_connection(self, window: int) -> None:
        """What is on its way is lost; the node keeps the session as it is; the client comes back."""
        self.node.close()
        self.connect(window)

    @rule(written=st.booleans(), lost=st.integers(0, 3), window=_WINDOWS)
    def crash(self, written: bool, lost: int, window: int) -> None:
        """The node dies: of what it had not yet heard about some has arrived, some later, some never."""
        self.node.crash(written)
        for _ in range(min(lost, len(self.world.bus))):
            self.world.bus.pop()
        self.connect(window)

    @rule(kind=st.sampled_from([Type.PUBACK, Type.PUBREC, Type.PUBREL, Type.PUBCOMP]))
    def answer_nothing(self, kind: Type) -> None:
        self.client.send_strange(kind, STRANGE_ID)

    @precondition(lambda self: self.client.early())
    @rule(data=st.data())
    def answer_early(self, data: st.DataObject) -> None:
        self.client.send_strange(*data.draw(st.sampled_from(self.client.early())))

    # -- what goes on

    @rule(stages=st.lists(st.sampled_from(_STAGES), min_size=1, max_size=20), count=_A_FEW)
    def go_on(self, stages: list[str], count: int) -> None:
        self.run_stages(stages, count)

    @rule(
        times=_A_FEW,
        without=st.sets(st.sampled_from(_STAGES), max_size=3),
        count=_A_FEW,
    )
    def go_on_without(self, times: int, without: set[str], count: int) -> None:
        """All goes on but some, which is late."""
        self.run_stages([stage for stage in _STAGES if stage not in without] * times, count)

    def run_stages(self, stages: Iterable[str], count: int) -> None:
        node, client = self.node, self.client
        for stage in stages:
            if stage == "begin write":
                node.begin_write()
            elif stage == "end write":
                node.end_write()
            elif stage == "store":
                for _ in range(min(count, len(self.world.bus))):
                    self.world.take_write(True, True)
            elif stage == "to node":
                node.receive(b"".join(client.wire.popleft() for _ in range(min(count, len(client.wire)))))
                self.check_finished()
            elif stage == "resend":
                node.resend(count)
            elif stage == "read":
                node.read(3 * count)
            elif stage == "pump":
                node.pump()
            elif stage == "to client":
                client.receive(b"".join(node.wire.popleft() for _ in range(min(count, len(node.wire)))))
            else:
                client.answer(Type[stage], count)

    def check_finished(self) -> None:
        """A token of a shared subscription is given back once, when the client has the message."""
        node = self.node
        for token in node.finished:
            assert token in self.client.acknowledged
            node.shared.remove(token)
            del self.world.shared[token]
        node.finished.clear()

    @invariant()
    def within_bounds(self) -> None:
        node = self.node
        assert node.session.in_flight <= node.most, "more than the window"
        assert len(self.client.open) <= node.most, "more than the window"
        flying = sum(delivery.size for delivery in node.session._flying.values())
        waiting = sum(len(waiting.payload) for waiting in node.session._queue)
        assert node.session._size == flying + waiting, "miscounted"

    # -- what holds in the end

    @rule()
    def come_to_rest(self) -> None:
        """Nobody waits any more; then all is delivered, and nothing is left behind."""
        for _ in range(_ROUNDS):
            if not self.restless():
                break
            self.node.size = 1000
            again = [message for number, message in self.world.shared.items() if number not in self.node.shared]
            if again and not self.node.session.busy:
                self.node.deliver_shared(again[:3])
            self.run_stages(_STAGES, 100)
        assert not self.restless(), "it does not come to rest"
        for message in self.world.stream:
            if message.number not in self.world.gone:
                assert message.number in self.client.got.get((STREAM, message.topic, message.qos), ()), (
                    "never delivered"
                )
        self.check_nothing_left()

    def restless(self) -> bool:
        world, client, node = self.world, self.client, self.node
        return bool(node.restless or world.bus or client.wire or client.owed or set(world.shared) - node.shared)

    def check_nothing_left(self) -> None:
        left = self.node.session
        assert (left.in_flight, left.waiting, left._size) == (0, 0, 0), "deliveries are left"
        assert not self.client.open, "deliveries are left"
        assert not self.client.received, "an identifier is never released"
        state = left.state()
        assert state["flying"] == state["waiting"] == [], "the state does not become empty"
        assert len(state["inbound"]) <= len(self.client.sending), "a publish is never forgotten"
        assert self.refused or not self.client.sending, "a publish is never finished"

    def teardown(self) -> None:
        """On one more connection, or two, the client's messages are all stored, once each, in order."""
        for _ in range(2):
            self.lose_connection(3)
            self.come_to_rest()
        assert not self.client.sending
        assert not self.node.session.state()["inbound"]
        stored, published = self.world.stored, self.client.published
        assert sorted(stored) == sorted(published), "not stored once each"
        for topic in () if self.reordered else TOPICS:
            ones = [one for one in published if one[0] == topic]
            assert [one for one in stored if one[0] == topic] == ones, "stored out of order"


class Deliveries(Connections):
    """Messages for the client."""

    @rule(topic=_TOPICS, qos=_QOS, sizes=_SIZES)
    def store(self, topic: str, qos: int, sizes: list[int]) -> None:
        self.world.store(topic, qos, sizes)

    @rule(messages=_MIXED)
    def store_mixed(self, messages: list[tuple[str, int]]) -> None:
        for topic, qos in messages:
            self.world.store(topic, qos, [0])

    @precondition(lambda self: len(self.world.gone) < len(self.world.stream))
    @rule()
    def trim(self) -> None:
        """History lets its oldest message go."""
        self.world.gone.add(len(self.world.gone) + 1)

    @rule(messages=_MIXED)
    def deliver_retained(self, messages: list[tuple[str, int]]) -> None:
        retained = self.world.retained
        first = len(retained)
        retained += [Message(RETAINED, first + 1 + index, *message) for index, message in enumerate(messages)]
        self.node.deliver_retained(retained[first:])

    @rule(messages=_MIXED)
    def deliver_shared(self, messages: list[tuple[str, int]]) -> None:
        shared = [Message(SHARED, self.world.number(), topic, 1) for topic, _ in messages]
        self.world.shared.update((message.number, message) for message in shared)
        self.node.deliver_shared(shared)

    @rule(size=st.sampled_from([1, 5, 1000]))
    def resize(self, size: int) -> None:
        """The connection takes so much at once."""
        self.node.size = size


class Publishes(Connections):
    """QoS 2 messages of the client."""

    @rule(topic=_TOPICS, count=_A_FEW, far=st.booleans())
    def publish(self, topic: str, count: int, far: bool) -> None:
        for size in range(count):
            self.client.publish(topic, size)
        if far:
            self.run_stages(_AS_FAR_AS_THE_BUS, 8)

    @precondition(lambda self: self.client.sending)
    @rule(data=st.data())
    def repeat(self, data: st.DataObject) -> None:
        self.client.repeat(data.draw(st.sampled_from(sorted(self.client.sending))))

    @precondition(lambda self: self.world.bus)
    @rule(stored=st.integers(0, 3), window=_WINDOWS)
    def lose_bus(self, stored: int, window: int) -> None:
        """Nobody knows what the bus has stored, and the connection is closed."""
        for index in range(len(self.world.bus)):
            self.world.take_write(None, index < stored)
        self.lose_connection(window)

    @precondition(lambda self: self.world.bus and not self.client.repeated)
    @rule()
    def refuse_write(self) -> None:
        """A publish is refused and the connection goes on: there is no PUBREC."""
        self.refused = self.reordered = True
        self.world.take_write(False, False)


class Everything(Deliveries, Publishes):
    """Messages both ways."""


class ModelTests(SynchronousTestCase):
    """The session, the rules about what is kept before what is sent, and the model."""

    def check(self, machine: type[Connections], examples: int) -> None:
        self.patch(session, "_LAST_ID", _LAST_ID)
        until = monotonic() + FUZZ_SECONDS
        steps, examples = (100, 500) if FUZZ_SECONDS else (40, 150)
        profile = settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            database=None,
        )
        run_state_machine_as_test(machine, settings=profile)
        while monotonic() < until:
            run_state_machine_as_test(machine, settings=profile)

    def test_deliveries(self) -> None:
        """Whatever is lost, and whenever: QoS 1 comes at least once, QoS 2 exactly once, in order; never more than the
        window is in flight, no identifier is used twice, and in the end nothing is left."""
        self.check(Deliveries, 250)

    def test_publishes(self) -> None:
        """Whatever is lost, and whenever: a QoS 2 publish is stored exactly once, in order, and in the end nothing is
        left."""
        self.check(Publishes, 250)

    def test_everything(self) -> None:
        """The two directions do not touch each other."""
        self.check(Everything, 100)
