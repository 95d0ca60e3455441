"""Which queues there are, and their configurations."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.logger import capturedLogs

from flowgate.errors import BusUnavailable, Conflict, InvalidParameter, NotFound
from flowgate.message import Entry
from flowgate.queues.directory import BUCKET, Directory
from flowgate.queues.model import Configured, DeadLetter, QueueConfig, QueueDescription
from flowgate.topics import Namespace
from tests.queues.nodes import BEGIN, ELSEWHERE, HOME, QueuesTestCase, dead_letter


class ConfigureTests(QueuesTestCase):
    """Making queues, and changing them."""

    def config(self, name: str = "q") -> QueueConfig:
        return self.done(self.queues.describe(HOME, name)).config

    def differing(self, deferred: Deferred[Configured]) -> object:
        """What differs, of a wish that is refused."""
        return self.failureResultOf(deferred, Conflict).value.members["differing"]

    def test_configure(self) -> None:
        """The first configuration makes the queue, the same again changes nothing, another one is refused."""
        self.assertIs(self.done(self.queues.configure(HOME, "q", {})), Configured.CREATED)
        self.assertIs(self.done(self.queues.configure(HOME, "q", {"visibility": 30, "tags": {}})), Configured.SAME)
        differing = self.differing(
            self.queues.configure(HOME, "q", {"visibility": 31, "delay": 1, "retention": 345_600})
        )
        self.assertEqual(differing, ["delay", "visibility"])
        self.assertEqual(self.config(), QueueConfig())

    def test_configure_compares_all(self) -> None:
        """What a configuration does not say has its default, and has to be the same."""
        self.make(visibility=5)
        self.assertEqual(self.differing(self.queues.configure(HOME, "q", {"delay": 0})), ["visibility"])

    def test_create_compares_what_is_said(self) -> None:
        """A creation, as Amazon has it, compares only what it says."""
        self.assertIs(self.done(self.queues.create(HOME, "q", {"visibility": 5, "delay": 1})), Configured.CREATED)
        self.assertIs(self.done(self.queues.create(HOME, "q", {})), Configured.SAME)
        self.assertIs(self.done(self.queues.create(HOME, "q", {"visibility": 5})), Configured.SAME)
        self.assertEqual(self.differing(self.queues.create(HOME, "q", {"visibility": 6, "delay": 1})), ["visibility"])

    def test_wrong(self) -> None:
        """A wrong configuration makes nothing."""
        self.failureResultOf(self.queues.configure(HOME, "q", {"delay": 901}), InvalidParameter)
        self.failureResultOf(self.queues.create(HOME, "q", {"colour": "red"}), InvalidParameter)
        self.failureResultOf(self.queues.describe(HOME, "q"), NotFound)

    def test_at_the_same_time(self) -> None:
        """If two nodes make a queue at the same time one does, and the other compares."""
        two = self.node()
        for node in (self.one, two):
            node.logs.held = True
        one = self.one.queues.configure(HOME, "q", {"visibility": 5})
        same = two.queues.configure(HOME, "q", {"visibility": 5})
        other = two.queues.configure(HOME, "q", {})
        self.one.logs.go_on()
        two.logs.go_on()
        self.assertIs(self.done(one), Configured.CREATED)
        self.assertIs(self.done(same), Configured.SAME)
        self.failureResultOf(other, Conflict)

    def test_describe(self) -> None:
        """A description has name, configuration and the times of making and changing."""
        self.make(visibility=3)
        self.clock.advance(10)
        self.configure(delay=3)
        described = self.done(self.queues.describe(HOME, "q"))
        expected = QueueDescription("q", QueueConfig(visibility=3, delay=3), int(BEGIN), int(BEGIN) + 10)
        self.assertEqual((described, self.queues.find(HOME, "q")), (expected, expected))

    def test_change(self) -> None:
        """A change concerns what it names; None stands for the default, and tags are replaced as a whole."""
        self.make(visibility=3, delay=5, tags={"a": "1"})
        self.configure(visibility=None, retention=60, tags={"b": "2"})
        self.assertEqual(self.config(), QueueConfig(delay=5, retention=60, tags={"b": "2"}))

    def test_change_nothing(self) -> None:
        """A change to what is there is none."""
        self.make(visibility=3)
        self.clock.advance(10)
        self.patch(self.store, "put", None)
        self.configure(visibility=3)
        self.assertEqual(self.done(self.queues.describe(HOME, "q")).modified_at, int(BEGIN))

    def test_change_wrongly(self) -> None:
        """A wrong change changes nothing; a type never changes."""
        self.make()
        for change in ({"visibility": -1}, {"type": "fifo"}, {"content_dedup": True}, {"colour": 1}):
            self.failureResultOf(self.queues.change(HOME, "q", change), InvalidParameter)
        self.assertEqual(self.config(), QueueConfig())

    def test_changes_meet(self) -> None:
        """Two changes of the same queue at the same time are both made."""
        self.make()
        two = self.node()
        put = self.store.put

        def slow(bucket: str, key: str, value: bytes, revision: int | None = None) -> Deferred[int]:
            self.patch(self.store, "put", put)
            self.done(two.queues.change(HOME, "q", {"delay": 7}))
            return put(bucket, key, value, revision)

        self.patch(self.store, "put", slow)
        self.configure(visibility=5)
        self.assertEqual(self.config(), QueueConfig(visibility=5, delay=7))

    def test_always_changed(self) -> None:
        """If others change it all the time, it is said in the end."""
        self.make()
        tries: list[int] = []

        def never(*_: object) -> Deferred[int]:
            tries.append(1)
            deferred: Deferred[int] = Deferred()
            deferred.errback(Conflict())
            return deferred

        self.patch(self.store, "put", never)
        self.failureResultOf(self.queues.change(HOME, "q", {"delay": 7}), Conflict)
        self.assertEqual(len(tries), 5)

    def test_another_node(self) -> None:
        """Another node knows a queue that was made here, its changes, and that it was removed."""
        two = self.node()
        self.make(visibility=3)
        self.assertEqual(two.queues.find(HOME, "q").config.visibility, 3)
        self.configure(visibility=4)
        self.assertEqual(two.queues.find(HOME, "q").config.visibility, 4)
        self.done(self.queues.remove(HOME, "q"))
        self.failureResultOf(two.queues.describe(HOME, "q"), NotFound)

    def test_effective(self) -> None:
        """A change of the configuration is effective for those who use the queue already, at every node."""
        two = self.node()
        self.make()
        self.send("a", "b", node=two)
        self.receive(node=two)
        self.configure(visibility=5)
        self.receive(node=two)
        self.clock.advance(5)
        self.assertEqual(self.bodies(node=two), ["b"])

    def test_later(self) -> None:
        """A node that starts later knows the queues of before."""
        self.make(visibility=3)
        self.assertEqual(self.node().queues.find(HOME, "q").config.visibility, 3)

    def test_remove(self) -> None:
        """A removed queue is gone, and one made anew is empty."""
        self.make()
        self.send("x")
        self.done(self.queues.remove(HOME, "q"))
        self.failureResultOf(self.queues.receive(HOME, "q"), NotFound)
        self.failureResultOf(self.queues.remove(HOME, "q"), NotFound)
        self.make()
        self.assertEqual(self.receive(), [])

    def test_remove_what_is_half_gone(self) -> None:
        """A removal that went half the way can be finished."""
        self.make()
        self.done(self.shared.delete(HOME, "q"))
        self.done(self.queues.remove(HOME, "q"))
        self.failureResultOf(self.queues.describe(HOME, "q"), NotFound)

    def test_namespaces(self) -> None:
        """Queues of the same name in different namespaces have nothing to do with each other."""
        self.make()
        self.done(self.queues.configure(ELSEWHERE, "q", {"visibility": 3}))
        self.send("x")
        self.assertEqual(self.done(self.queues.receive(ELSEWHERE, "q")), [])
        self.done(self.queues.remove(ELSEWHERE, "q"))
        self.assertEqual(self.bodies(), ["x"])

    def test_listing(self) -> None:
        """Queues are listed by name, those of a prefix, in pages."""
        for name in ("b", "a1", "a2", "B", "a10"):
            self.make(name)
        self.done(self.queues.configure(ELSEWHERE, "a3", {}))

        def names(*arguments: object) -> list[str]:
            return [one.name for one in self.queues.listing(HOME, *arguments)]  # type: ignore[arg-type]

        self.assertEqual(names(), ["B", "a1", "a10", "a2", "b"])
        self.assertEqual(names("a"), ["a1", "a10", "a2"])
        self.assertEqual(names("", "a1", 2), ["a10", "a2"])
        self.assertEqual(names("a", "a2"), [])
        self.assertEqual(self.queues.listing(Namespace("carol", "shop")), [])

    def test_bus_away(self) -> None:
        """A queue that cannot be made is not there."""
        self.one.bus.go_away()
        self.failureResultOf(self.queues.configure(HOME, "q", {}), BusUnavailable)
        self.failureResultOf(self.queues.describe(HOME, "q"), NotFound)


class DeadLetterConfigTests(QueuesTestCase):
    """Which queue may be the dead-letter queue of another."""

    def setUp(self) -> None:
        super().setUp()
        self.make()
        self.make("dead")

    def point(self, name: str, queue: str) -> Deferred[object]:
        return self.queues.change(HOME, name, {"dead_letter": dead_letter(queue, 3)})  # type: ignore[return-value]

    def test_allowed(self) -> None:
        """A queue of the same kind and namespace may be, at the making too."""
        self.done(self.point("q", "dead"))
        self.make("r", dead_letter={"queue": "dead"})
        self.assertEqual(self.queues.find(HOME, "q").config.dead_letter, DeadLetter("dead", 3))
        self.assertEqual(self.queues.find(HOME, "r").config.dead_letter, DeadLetter("dead", 10))

    def test_missing(self) -> None:
        """It has to exist, in this namespace."""
        self.done(self.queues.configure(ELSEWHERE, "other", {}))
        self.failureResultOf(self.point("q", "other"), NotFound)
        self.failureResultOf(self.queues.configure(HOME, "r", {"dead_letter": {"queue": "other"}}), NotFound)
        self.failureResultOf(self.queues.describe(HOME, "r"), NotFound)

    def test_itself(self) -> None:
        """A queue is not its own."""
        self.failureResultOf(self.point("q", "q"), InvalidParameter)
        self.failureResultOf(self.queues.configure(HOME, "r", {"dead_letter": {"queue": "r"}}), InvalidParameter)

    def test_other_kind(self) -> None:
        """A FIFO queue is not that of a standard queue, nor the other way round."""
        self.make("dead.fifo")
        self.failureResultOf(self.point("q", "dead.fifo"), InvalidParameter)
        self.make("q.fifo")
        self.failureResultOf(self.point("q.fifo", "dead"), InvalidParameter)
        self.done(self.point("q.fifo", "dead.fifo"))

    def test_not_allowed(self) -> None:
        """A queue says whose dead letters it takes."""
        self.configure("dead", dead_letter_allow="none")
        self.failureResultOf(self.point("q", "dead"), InvalidParameter)
        self.configure("dead", dead_letter_allow=["r"])
        self.failureResultOf(self.point("q", "dead"), InvalidParameter)
        self.make("r")
        self.done(self.point("r", "dead"))

    def test_another_change(self) -> None:
        """What is there is not checked again by a change of something else."""
        self.done(self.point("q", "dead"))
        self.configure("dead", dead_letter_allow="none")
        self.configure(visibility=3)
        self.done(self.queues.remove(HOME, "dead"))
        self.configure(visibility=4)
        self.configure(dead_letter=None)
        self.assertIsNone(self.queues.find(HOME, "q").config.dead_letter)

    def test_sources(self) -> None:
        """A queue knows whose dead letters it gets, by name."""
        for name in ("b", "a"):
            self.make(name, dead_letter={"queue": "dead"})
        self.done(self.queues.configure(ELSEWHERE, "dead", {}))
        self.done(self.queues.configure(ELSEWHERE, "c", {"dead_letter": {"queue": "dead"}}))
        self.assertEqual(self.queues.sources(HOME, "dead"), ["a", "b"])
        self.assertEqual(self.queues.sources(HOME, "a"), [])


class StoredTests(QueuesTestCase):
    """What is in the store."""

    def directory(self) -> Directory:
        directory = Directory(self.store, self.clock.seconds)
        self.addCleanup(directory.stop)
        return directory

    def stored(self, key: str) -> Entry:
        entry = self.done(self.store.get(BUCKET, key))
        assert entry is not None
        return entry

    def test_unreadable(self) -> None:
        """A queue whose configuration cannot be read is logged and refused; it can be removed, and harms no other."""
        self.make()
        for value in (
            b"?",
            b"5",
            b"{}",
            b'{"config": {"colour": 1}, "created_at": 1}',
            b'{"config": 5, "created_at": 1}',
        ):
            with capturedLogs() as logged:
                self.done(self.store.put(BUCKET, "alice.shop.bad", value))
            self.assertEqual([event["key"] for event in logged if "key" in event], ["alice.shop.bad"])
            self.failureResultOf(self.queues.describe(HOME, "bad"), Conflict)
            self.failureResultOf(self.queues.receive(HOME, "bad"), Conflict)
            self.failureResultOf(self.queues.configure(HOME, "bad", {}), Conflict)
            self.failureResultOf(self.queues.change(HOME, "bad", {}), Conflict)
        self.done(self.queues.describe(HOME, "q"))
        self.assertEqual([one.name for one in self.queues.listing(HOME)], ["q"])

    def test_unreadable_is_removed(self) -> None:
        """Such a queue can be removed, and made again."""
        self.done(self.store.put(BUCKET, "alice.shop.bad", b"?"))
        self.done(self.queues.remove(HOME, "bad"))
        self.make("bad")

    def test_not_told_yet(self) -> None:
        """A queue that another node has just made is found, though nobody has told of it yet."""
        late = self.directory()  # it was not started: it is told nothing
        self.make(visibility=3)
        self.assertIsNone(late.known(HOME, "q"))
        found = self.done(Deferred.fromCoroutine(late.find(HOME, "q")))
        self.assertEqual((found.config.visibility, late.known(HOME, "q")), (3, found))

    def test_fresh(self) -> None:
        """What is known is asked for anew only if that is wanted."""
        late = self.directory()
        self.make(visibility=3)
        self.done(Deferred.fromCoroutine(late.find(HOME, "q")))
        self.configure(visibility=4)
        self.assertEqual(self.done(Deferred.fromCoroutine(late.find(HOME, "q"))).config.visibility, 3)
        self.assertEqual(self.done(Deferred.fromCoroutine(late.find(HOME, "q", fresh=True))).config.visibility, 4)
        self.done(self.queues.remove(HOME, "q"))
        self.failureResultOf(Deferred.fromCoroutine(late.find(HOME, "q", fresh=True)), NotFound)
        self.assertIsNone(late.known(HOME, "q"))

    def test_listeners(self) -> None:
        """Listeners are told of all there is, and of each change once."""
        self.make("a")
        told: list[tuple[str, bool]] = []
        self.queues._directory.listen(lambda _, name, description: told.append((name, description is not None)))
        self.make("b")
        self.configure("b", visibility=30)
        self.configure("b", visibility=31)
        self.done(self.queues.remove(HOME, "b"))
        self.assertEqual(told, [("a", True), ("b", True), ("b", True), ("b", False)])

    def test_all(self) -> None:
        """All queues of all namespaces can be told, until it is stopped."""
        self.make("a")
        self.done(self.queues.configure(ELSEWHERE, "b", {}))
        directory = self.directory()
        self.done(directory.start())
        self.assertEqual([(home, one.name) for home, one in directory.all()], [(HOME, "a"), (ELSEWHERE, "b")])
        directory.stop()
        self.make("c")
        self.assertEqual(directory.all(), [])

    def test_older(self) -> None:
        """A description that was written before there were changes and subscriptions can be read."""
        self.done(self.store.put(BUCKET, "alice.shop.old", b'{"config": {"visibility": 5}, "created_at": 7}'))
        described = self.queues.find(HOME, "old")
        self.assertEqual(described, QueueDescription("old", QueueConfig(visibility=5), 7, 7))

    def test_key(self) -> None:
        """A FIFO queue's name has a dot, and is found."""
        self.make("q.fifo", content_dedup=True)
        self.assertIn(b'"content_dedup":true', self.stored("alice.shop.q.fifo").value)
        self.assertTrue(self.node().queues.find(HOME, "q.fifo").config.fifo)
