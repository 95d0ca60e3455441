"""Who is subscribed, on one node and on several."""

# mypy: disallow-untyped-calls=False
# (trial has no annotations)
from __future__ import annotations

import json
from itertools import count
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from flowgate import presence as module
from flowgate.auth.permissions import Grants, Principal
from flowgate.bus.memory_peers import MemoryPeers, MemoryPeersHub
from flowgate.gateway import Interest
from flowgate.presence import Change, Client, Move, Presence, Report
from flowgate.topics import Namespace

ALICE = Namespace("alice", "shop")
BOB = Namespace("bob", "shop")
ROOM = Interest(ALICE, "room", False)


def principal(token: str, home: Namespace = ALICE) -> Principal:
    return Principal(home.user, home.app, home, "FGAK", Grants.everything(home), 900, token, 0)


class Watcher:
    """A connection that keeps what it is told: event, client and number."""

    def __init__(self, node: Node, token: str, home: Namespace = ALICE) -> None:
        self.node = node
        self.principal = principal(token, home)
        self.client: Client | None = None
        self.told: list[tuple[str | None, str | None, int]] = []
        self.names: dict[str, Interest] = {}

    def present(self, name: str, change: Change) -> None:
        assert name in self.names
        id_ = None if change.client is None else change.client.id
        self.told.append((change.event, id_, change.count))

    def take(self) -> list[tuple[str | None, str | None, int]]:
        told, self.told = self.told, []
        return told

    def join(self, name: str = "room", interest: Interest = ROOM) -> int:
        if self.client is None:
            self.client = self.node.presence.client(self.principal)
        self.names[name] = interest
        return self.node.presence.join(self, self.client, name, interest)

    @property
    def id(self) -> str:
        assert self.client is not None
        return self.client.id

    def leave(self, name: str = "room") -> None:
        assert self.client is not None
        self.node.presence.leave(self, self.client, name, self.names.pop(name))

    def end(self) -> None:
        assert self.client is not None
        for name, interest in self.names.items():
            self.node.presence.leave(self, self.client, name, interest, self.principal)


class Node:
    """One node, as far as presence needs one."""

    def __init__(self, case: _Case, alone: bool = False) -> None:
        self.peers = MemoryPeers(case.hub)
        self.peers.alone = alone
        ids = case.ids
        self.presence = Presence(
            self.peers, case.clock, lambda: 1_700_000_000 + case.clock.seconds(), lambda: f"c{next(ids)}"
        )
        self.presence.start()

    def connect(self, token: str, home: Namespace = ALICE) -> Watcher:
        return Watcher(self, token, home)

    def who(self, interest: Interest = ROOM) -> list[str]:
        number, clients = self.presence.who(interest)
        assert number == len(clients)
        return [client.id for client in clients]

    def kill(self) -> None:
        """Be gone without a word."""
        self.peers.go_away()
        self.presence.stop()


class _Case(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.hub = MemoryPeersHub(self.clock)
        self.ids = count(1)

    def node(self, alone: bool = False) -> Node:
        node = Node(self, alone)
        self.addCleanup(node.presence.stop)
        self.wait(1.5)
        return node

    def wait(self, seconds: float) -> None:
        for _ in range(round(seconds / 0.1)):
            self.clock.advance(0.1)
            self.clock.advance(0)


class OneNodeTests(_Case):
    """Presence on one node."""

    def setUp(self) -> None:
        super().setUp()
        self.one = self.node(alone=True)

    def test_join_and_leave(self) -> None:
        """Those who are there are told who comes and goes, and how many there are; nobody is told of themselves."""
        first, second = self.one.connect("1"), self.one.connect("2")
        self.assertEqual([first.join(), second.join()], [1, 2])
        self.assertEqual((first.take(), second.take()), ([("join", "c2", 2)], []))
        first.leave()
        self.assertEqual(second.take(), [])
        self.wait(1.1)
        self.assertEqual((first.take(), second.take()), ([], [("leave", "c1", 1)]))

    def test_who(self) -> None:
        """It is told who is there, in the order of their coming, with user, app and time."""
        for token in "12":
            self.one.connect(token).join()
            self.wait(1)
        number, clients = self.one.presence.who(ROOM)
        self.assertEqual(number, 2)
        self.assertEqual(
            [client.shown() for client in clients],
            [
                {"client": "c1", "user": "alice", "app": "shop", "since": "2023-11-14T22:13:21.500Z"},
                {"client": "c2", "user": "alice", "app": "shop", "since": "2023-11-14T22:13:22.500Z"},
            ],
        )

    def test_many(self) -> None:
        """However many there are, no more than so many are named; the number is right."""
        for number in range(module.MAX_SHOWN + 50):
            self.one.connect(str(number)).join()
        found, clients = self.one.presence.who(ROOM)
        self.assertEqual((found, len(clients)), (module.MAX_SHOWN + 50, module.MAX_SHOWN))

    def test_rooms(self) -> None:
        """A filter is a room, in its namespace: nobody is seen from another one."""
        others = [
            Interest(ALICE, "#", False),
            Interest(ALICE, "room/1", False),
            Interest(BOB, "room", False),
        ]
        watchers = [self.one.connect(f"w{number}") for number in range(len(others))]
        for watcher, interest in zip(watchers, others, strict=True):
            watcher.join("x", interest)
        self.one.connect("1").join()
        self.assertEqual([watcher.take() for watcher in watchers], [[], [], []])
        self.assertEqual([self.one.who(interest) for interest in others], [["c1"], ["c2"], ["c3"]])

    def test_two_names(self) -> None:
        """A client that is there by the short and the full name is there once, and goes with the second."""
        watcher, other = self.one.connect("1"), self.one.connect("2")
        other.join()
        watcher.join("room", ROOM)
        watcher.join("alice_shop_room", ROOM)
        self.assertEqual(self.one.who(), ["c1", "c2"])
        watcher.leave("room")
        self.wait(2)
        self.assertEqual(self.one.who(), ["c1", "c2"])
        watcher.leave("alice_shop_room")
        self.wait(2)
        self.assertEqual(other.take(), [("join", "c2", 2), ("leave", "c2", 1)])

    def test_back_soon(self) -> None:
        """A connection with the same token that comes within a second takes the place of the one that has gone."""
        first, other = self.one.connect("1"), self.one.connect("2")
        first.join()
        other.join()
        first.end()
        self.wait(0.8)
        again = self.one.connect("1")
        again.join()
        self.wait(5)
        self.assertEqual(again.client, first.client)
        self.assertEqual((other.take(), self.one.who()), ([], ["c1", "c2"]))

    def test_back_late(self) -> None:
        """One that comes later is another client."""
        first, other = self.one.connect("1"), self.one.connect("2")
        other.join()
        first.join()
        first.end()
        self.wait(1.2)
        self.one.connect("1").join()
        self.assertEqual(other.take(), [("join", "c2", 2), ("leave", "c2", 1), ("join", "c3", 2)])

    def test_another_token(self) -> None:
        """A place is given to nobody else; nor twice; nor that of somebody who has only unsubscribed."""
        first, second = self.one.connect("1"), self.one.connect("2")
        first.join()
        second.join()
        first.end()
        second.leave()
        for token, id_ in (("3", "c3"), ("2", "c4"), ("1", "c1"), ("1", "c5")):
            watcher = self.one.connect(token)
            watcher.join()
            self.assertEqual(watcher.id, id_)

    def test_unsubscribed_and_back(self) -> None:
        """Who unsubscribes and subscribes within a second has not been away."""
        first, other = self.one.connect("1"), self.one.connect("2")
        other.join()
        first.join()
        other.take()
        for _ in range(3):
            first.leave()
            self.wait(0.7)
            first.join()
        self.wait(3)
        self.assertEqual(other.take(), [])

    def test_nothing_is_left(self) -> None:
        """When all have gone nothing is remembered, and no call is to come but the next telling."""
        watchers = [self.one.connect(str(number)) for number in range(20)]
        for watcher in watchers:
            watcher.join()
            watcher.join("other", Interest(ALICE, "other", False))
        for watcher in watchers:
            watcher.end()
        self.wait(2.2)
        found = self.one.presence
        self.assertEqual(
            (found._rooms, found._own, list(found._lingering), found._held, found._moves, found._timers),
            ({}, {}, [], {}, {}, {}),
        )
        self.one.presence.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_leaving_is_bounded(self) -> None:
        """Beyond a bound the oldest of those that have gone are not waited for."""
        self.patch(module, "MAX_LINGERING", 2)
        watchers = [self.one.connect(str(number)) for number in range(4)]
        for watcher in watchers:
            watcher.join()
        for watcher in watchers[:3]:
            watcher.leave()
        self.assertEqual(self.one.who(), ["c2", "c3", "c4"])
        self.wait(1.1)
        self.assertEqual(self.one.who(), ["c4"])

    def test_too_many_changes(self) -> None:
        """Beyond so many changes in a second only the number is told, once, at its end; then all is as before."""
        self.patch(module, "MAX_CHANGES", 3)
        watcher = self.one.connect("w")
        watcher.join()
        watchers = [self.one.connect(str(number)) for number in range(10)]
        for other in watchers:
            other.join()
        self.assertEqual(watcher.take(), [("join", f"c{n}", n) for n in (2, 3, 4)])
        self.wait(1.1)
        self.assertEqual(watcher.take(), [(None, None, 11)])
        self.one.connect("x").join()
        self.assertEqual(watcher.take(), [("join", "c12", 12)])

    def test_too_many_frames(self) -> None:
        """The more watchers there are, the sooner."""
        self.patch(module, "MAX_FRAMES", 10)
        watchers = [self.one.connect(str(number)) for number in range(4)]
        for watcher in watchers:
            watcher.join()
        self.wait(1.1)
        for watcher in watchers:
            watcher.take()
        for token in "abcd":
            self.one.connect(token).join()
        self.assertEqual(watchers[0].take(), [("join", "c5", 5), ("join", "c6", 6)])
        self.wait(1.1)
        self.assertEqual(watchers[0].take(), [(None, None, 8)])

    def test_leaves_when_told(self) -> None:
        """A watcher may leave, and others may, while all are told."""
        watchers = [self.one.connect(str(number)) for number in range(3)]
        for watcher in watchers:
            watcher.join()

        def leave(*_: object) -> None:
            for one in watchers:
                one.end()
                one.names.clear()

        self.patch(watchers[0], "present", leave)
        self.one.connect("x").join()
        self.wait(1.1)
        self.assertEqual(self.one.who(), ["c4"])

    def test_random(self) -> None:
        """The name of a client says nothing of its token, and is another one each time."""
        presence = Presence(self.one.peers, self.clock, self.clock.seconds)
        ids = {presence.client(principal("token-of-mine")).id for _ in range(100)}
        self.assertEqual(len(ids), 100)


class SeveralNodesTests(_Case):
    """Presence of all nodes together."""

    def setUp(self) -> None:
        super().setUp()
        self.one, self.two = self.node(), self.node()

    def test_together(self) -> None:
        """Clients of one node see those of the other come and go."""
        first, second = self.one.connect("1"), self.two.connect("2")
        first.join()
        self.wait(0.3)
        self.assertEqual(second.join(), 2)
        self.wait(0.3)
        self.assertEqual(first.take(), [("join", "c2", 2)])
        self.assertEqual([node.who() for node in (self.one, self.two)], [["c1", "c2"]] * 2)
        self.assertEqual(*(node.presence.who(ROOM) for node in (self.one, self.two)))
        second.end()
        self.wait(1.4)
        self.assertEqual((first.take(), self.one.who()), ([("leave", "c2", 1)], ["c1"]))

    def test_came_later(self) -> None:
        """A node that comes later knows soon who is there."""
        for number in range(3):
            self.one.connect(str(number)).join()
        self.wait(20)
        self.assertEqual(self.node().who(), ["c1", "c2", "c3"])

    def test_moves_between_nodes(self) -> None:
        """A client that comes back to another node within a second is not seen to go."""
        first, others = self.one.connect("1"), [self.one.connect("a"), self.two.connect("b")]
        for watcher in (first, *others):
            watcher.join()
        self.wait(2)
        for watcher in others:
            watcher.take()
        first.end()
        self.wait(0.5)
        again = self.two.connect("1")
        again.join()
        self.wait(5)
        self.assertEqual(again.client, first.client)
        self.assertEqual([watcher.take() for watcher in others], [[], []])
        self.assertEqual([sorted(node.who()) for node in (self.one, self.two)], [["c1", "c2", "c3"]] * 2)

    def test_moves_while_everything_is_told(self) -> None:
        """So it is while the first node tells everything anew, because another one has just come."""
        first = self.one.connect("1")
        first.join()
        self.wait(2)
        Node(self)
        self.clock.advance(0)
        first.end()
        self.wait(0.3)
        again = self.two.connect("1")
        again.join()
        self.assertEqual(again.client, first.client)

    def test_killed(self) -> None:
        """When a node dies its clients leave, within 46 seconds; not before 35."""
        watcher, other = self.one.connect("1"), self.two.connect("2")
        watcher.join()
        other.join()
        self.wait(1)
        watcher.take()
        self.two.kill()
        self.wait(25)
        self.assertEqual(watcher.take(), [])
        self.wait(21)
        self.assertEqual((watcher.take(), self.one.who()), ([("leave", "c2", 1)], ["c1"]))

    def test_stops(self) -> None:
        """When a node stops its clients leave at once; one that came back elsewhere meanwhile does not."""
        watcher = self.one.connect("1")
        watcher.join()
        others = [self.two.connect("2"), self.two.connect("3")]
        for other in others:
            other.join()
        self.wait(1)
        watcher.take()
        for other in others:
            other.end()
        self.two.presence.stop()
        self.wait(0.2)
        self.one.connect("3").join()
        self.wait(1.2)
        self.assertEqual(watcher.take(), [("leave", "c2", 2)])

    def test_back_after_a_cut(self) -> None:
        """A node that was cut off and is back has its clients again, and knows those of the others."""
        watcher, other = self.one.connect("1"), self.two.connect("2")
        watcher.join()
        other.join()
        self.wait(1)
        self.two.peers.go_away()
        self.wait(50)
        self.assertEqual([node.who() for node in (self.one, self.two)], [["c1"], ["c2"]])
        self.two.peers.come_back()
        self.wait(12)
        self.assertEqual([sorted(node.who()) for node in (self.one, self.two)], [["c1", "c2"]] * 2)

    def test_lost_report(self) -> None:
        """What a lost report said is told again, and nobody seems to leave by that."""
        watcher, staying, leaving = self.one.connect("1"), self.two.connect("2"), self.two.connect("3")
        for one in (watcher, staying, leaving):
            one.join()
        self.wait(1)
        watcher.take()
        self.one.peers.go_away()
        leaving.end()
        self.two.connect("4").join()
        self.wait(1.5)
        self.one.peers.come_back()
        self.wait(15)
        self.assertEqual(sorted(watcher.take()), [("join", "c4", 4), ("leave", "c3", 3)])
        self.assertEqual(sorted(self.one.who()), sorted(self.two.who()))

    def test_gathered(self) -> None:
        """What happens within a moment is told in one report, of bounded size; a client that came and went not."""
        heard: list[bytes] = []
        self.two.peers.hear("presence", heard.append)
        long = Interest(Namespace("u" * 32, "a" * 32), "\x01" * 512, False)
        for number in range(250):
            self.one.connect(str(number)).join("x", long)
        passing = self.one.connect("p")
        passing.join()
        passing.leave()
        self.wait(0.3)
        reports = [Report.decode(one) for one in heard]
        self.assertEqual([len(report.moves) for report in reports], [100, 100, 51])
        self.assertLess(max(map(len, heard)), 400 * 1024)
        self.assertEqual(self.two.who(), [])

    def test_only_what_changed(self) -> None:
        """While nothing happens a node says every ten seconds that it lives, and nothing more."""
        self.one.connect("1").join()
        self.wait(1)
        heard: list[bytes] = []
        self.two.peers.hear("presence", heard.append)
        self.wait(30)
        self.assertEqual([len(Report.decode(one).moves) for one in heard], [0, 0, 0])

    def test_bounded(self) -> None:
        """Of one other node no more than so many places are remembered."""
        self.patch(module, "MAX_CLIENTS", 3)
        for number in range(5):
            self.one.connect(str(number)).join()
        self.wait(1)
        self.assertEqual(len(self.two.who()), 3)

    def test_everything_at_most_once_a_second(self) -> None:
        """However often others ask for it, a node tells everything no more than once a second."""
        self.one.connect("1").join()
        self.wait(2)
        heard: list[Report] = []
        self.two.peers.hear("presence", lambda payload: heard.append(Report.decode(payload)))
        for number in range(1, 51):
            ask = Report(self.two.peers.node, number * 7, 1, [self.one.peers.node], [])
            self.two.peers.tell("presence", ask.encode())
            self.wait(0.1)
        self.assertLessEqual(len([one for one in heard if one.moves]), 6)

    def test_alone(self) -> None:
        """A node that can have no others tells nobody, and keeps nothing to be told."""
        node = self.node(alone=True)
        heard: list[bytes] = []
        self.one.peers.hear("presence", lambda payload: heard.append(payload))
        name = node.peers.node.encode()
        node.connect("1").join()
        self.wait(12)
        node.presence.stop()
        self.wait(1)
        self.assertEqual([one for one in heard if name in one], [])
        self.assertEqual(node.presence._moves, {})

    def test_nonsense(self) -> None:
        """A report that cannot be read is logged and changes nothing."""
        self.two.connect("1").join()
        self.wait(1)
        good = Report("x", 1, 1, [], [Move(ALICE, "room", Client("c9", "a", "b", 1.0), True)]).encode()
        for payload in (b"", b"{}", b"[]", b"1", b"\xff", good[:-3], good.replace(b"true", b"1"), b'["x",1,1,[],[[]]]'):
            with capturedLogs() as logs:
                self.two.peers.tell("presence", payload)
                self.clock.advance(0)
            self.assertEqual([str(event["log_level"]) for event in logs], ["<LogLevel=error>"], payload)
        self.assertEqual(self.one.who(), ["c1"])

    def test_a_fault(self) -> None:
        """If telling fails once that is logged, and the next time is as usual."""

        def fail(*_: object) -> None:
            raise RuntimeError("a fault of ours")

        self.patch(self.one.peers, "tell", fail)
        self.wait(10)
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
        del self.one.peers.tell
        self.one.connect("1").join()
        self.wait(11)
        self.assertEqual(self.two.who(), ["c1"])


_TEXT = st.text(max_size=20)


class ReportTests(SynchronousTestCase):
    """What nodes tell each other, as bytes."""

    @settings(deadline=None, database=None)
    @given(
        _TEXT,
        st.integers(0, 2**62),
        st.integers(0, 2**62),
        st.lists(_TEXT, max_size=3),
        st.lists(
            st.builds(
                Move,
                st.builds(Namespace, _TEXT, _TEXT),
                _TEXT,
                st.builds(Client, _TEXT, _TEXT, _TEXT, st.floats(0, 2**32)),
                st.booleans(),
                _TEXT,
            ),
            max_size=4,
        ),
    )
    def test_round_trip(self, node: str, number: int, base: int, again: list[str], moves: list[Move]) -> None:
        """What was told is what is heard."""
        report = Report(node, number, base, again, moves)
        self.assertEqual(Report.decode(report.encode()), report)

    @settings(deadline=None, database=None)
    @given(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text() | st.floats(),
            lambda below: st.lists(below) | st.dictionaries(st.text(), below),
        )
    )
    def test_anything_else(self, value: Any) -> None:
        """Whatever else comes raises one kind of error."""
        for found in (value, ["n", 1, 1, [], value], ["n", 1, 1, [], [[value] * 9]], [value] * 5):
            try:
                Report.decode(json.dumps(found).encode())
            except ValueError:
                continue
