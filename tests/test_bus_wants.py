"""What groups want, as nodes tell each other."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from flowgate.bus.memory_peers import MemoryPeers, MemoryPeersHub
from flowgate.bus.wants import KEEP_SECONDS, TELL_SECONDS, FilterCounts, Wants
from flowgate.topics import Namespace, Topic

SHOP = Namespace("alice", "shop")
TOPIC = Topic(SHOP, "a/b")


class FilterCountsTests(SynchronousTestCase):
    """Counted filters of namespaces."""

    def test_counts(self) -> None:
        """A filter is there for as long as it was added more often than discarded, in its namespace alone."""
        filters = FilterCounts()
        for want in ((SHOP, "a/#"), (SHOP, "a/#"), (SHOP, "+/b")):
            filters.add(want)
        self.assertTrue(filters.match(TOPIC))
        self.assertFalse(filters.match(Topic(SHOP, "b/c")))
        self.assertFalse(filters.match(Topic(Namespace("bob", "shop"), "a/b")))
        filters.discard((SHOP, "a/#"))
        filters.discard((SHOP, "+/b"))
        self.assertTrue(filters.match(TOPIC))
        filters.discard((SHOP, "a/#"))
        self.assertFalse(filters.match(TOPIC))


class WantsTests(SynchronousTestCase):
    """Two nodes, and what one knows of the other."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.hub = MemoryPeersHub(self.clock)
        self.peers, self.wants = self.node()
        self.other_peers, self.other = self.node()

    def node(self) -> tuple[MemoryPeers, Wants]:
        peers = MemoryPeers(self.hub)
        return peers, Wants(self.clock, peers)

    def test_told(self) -> None:
        """A want is told when it begins and when its last one ends."""
        for _ in range(2):
            self.wants.add((SHOP, "a/#"))
        self.clock.advance(0)
        self.assertTrue(self.other.match(TOPIC))
        self.wants.discard((SHOP, "a/#"))
        self.clock.advance(0)
        self.assertTrue(self.other.match(TOPIC))
        self.wants.discard((SHOP, "a/#"))
        self.clock.advance(0)
        self.assertFalse(self.other.match(TOPIC))

    def test_hello(self) -> None:
        """A node that comes later learns of all wants, more than one message holds, and tells its own."""
        for number in range(1100):
            self.wants.add((SHOP, f"{number}"))
        peers, late = self.node()
        late.add((SHOP, "late"))
        self.peers.go_away()
        peers.go_away()
        self.clock.advance(0)
        self.peers.come_back()
        peers.come_back()
        late.hello()
        self.clock.pump([0, 0])
        self.assertTrue(all(late.match(Topic(SHOP, f"{number}")) for number in range(1100)))
        self.assertTrue(self.wants.match(Topic(SHOP, "late")))

    def test_told_again(self) -> None:
        """A want whose telling was lost is known with the next one, and stays known while it is told."""
        self.other_peers.go_away()
        self.wants.add((SHOP, "a/#"))
        self.clock.advance(0)
        self.other_peers.come_back()
        self.assertFalse(self.other.match(TOPIC))
        self.clock.pump([TELL_SECONDS, 0])
        self.assertTrue(self.other.match(TOPIC))
        self.clock.pump([TELL_SECONDS, 0] * 10)
        self.assertTrue(self.other.match(TOPIC))

    def test_dead_node(self) -> None:
        """What a node wanted that died is forgotten, and nothing is left in the clock then."""
        self.wants.add((SHOP, "a/#"))
        self.clock.advance(0)
        self.peers.go_away()
        self.wants.stop()
        self.clock.pump([TELL_SECONDS] * 3)
        self.assertTrue(self.other.match(TOPIC))
        self.clock.pump([TELL_SECONDS] * int(KEEP_SECONDS / TELL_SECONDS))
        self.assertFalse(self.other.match(TOPIC))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_same_want_of_several_nodes(self) -> None:
        """What two nodes want is wanted until both have ended it."""
        _, third = self.node()
        self.wants.add((SHOP, "a/#"))
        self.other.add((SHOP, "a/#"))
        self.clock.advance(0)
        self.wants.discard((SHOP, "a/#"))
        self.clock.advance(0)
        self.assertTrue(third.match(TOPIC) and self.wants.match(TOPIC))
        self.other.discard((SHOP, "a/#"))
        self.clock.advance(0)
        self.assertFalse(third.match(TOPIC) or self.wants.match(TOPIC) or self.other.match(TOPIC))

    def test_stop(self) -> None:
        """A stopped node leaves nothing in the clock."""
        self.wants.add((SHOP, "a/#"))
        self.other.add((SHOP, "b"))
        self.clock.advance(0)
        self.wants.stop()
        self.other.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])
