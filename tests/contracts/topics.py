"""What every topic bus promises."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from flowgate.errors import BusUnavailable, MessageTooLarge, Refused
from flowgate.interfaces import IBus, IBusListener, IFeed, IFilteredFeed, IReader
from flowgate.message import Backlog, Cursor, Run, Stored
from flowgate.topics import Namespace, Topic

if TYPE_CHECKING:
    _Mixin = TestCase
else:
    _Mixin = object  # or the mixin would be collected as a test case wherever it is imported

SHOP = Namespace("alice", "shop")
OTHER = Namespace("alice", "other")
_T = TypeVar("_T")


class Watched:
    """Something whose changes a test can wait for."""

    def __init__(self) -> None:
        self._waiting: list[tuple[Callable[[], bool], Deferred[None]]] = []

    def changed(self) -> None:
        for item in list(self._waiting):
            if item[0]():
                self._waiting.remove(item)
                item[1].callback(None)

    def until(self, condition: Callable[[], bool]) -> Deferred[None]:
        reached: Deferred[None] = Deferred()
        if condition():
            reached.callback(None)
        else:
            self._waiting.append((condition, reached))
        return reached


@implementer(IBusListener)
class Listener(Watched):
    """Remembers what the bus told."""

    def __init__(self) -> None:
        super().__init__()
        self.runs: list[Run] = []
        self.states: list[bool] = []
        self.drains = 0

    def arrived(self, runs: list[Run]) -> None:
        self.runs += runs
        self.changed()

    def settled(self) -> None:
        """What was handed out could be sent now; nothing is kept here."""

    def drained(self) -> None:
        self.drains += 1
        self.changed()

    def availability(self, available: bool) -> None:
        self.states.append(available)
        self.changed()

    @property
    def payloads(self) -> list[bytes]:
        return [payload for run in self.runs for payload in run.payloads]

    @property
    def sequences(self) -> list[int]:
        return [sequence for run in self.runs for sequence in run.sequences]


@implementer(IReader)
class Reader(Watched):
    """Remembers what a feed gave; takes ``appetite`` runs before it wants a pause."""

    def __init__(self, appetite: int = 10**9) -> None:
        super().__init__()
        self.appetite = appetite
        self.seen: list[Any] = []  # payloads, gaps and reasons in the order in which they came
        self.runs: list[Run] = []

    def read(self, run: Run) -> bool:
        assert self.appetite > 0, "a reader that wanted a pause was given more"
        self.appetite -= 1
        self.runs.append(run)
        self.seen += run.payloads
        self.changed()
        return self.appetite > 0

    def gap(self, oldest: Cursor) -> None:
        self.seen.append(oldest)
        self.changed()

    def ended(self, reason: Refused) -> None:
        self.seen.append(reason)
        self.changed()

    @property
    def payloads(self) -> list[bytes]:
        return [one for one in self.seen if isinstance(one, bytes)]

    @property
    def gaps(self) -> list[Cursor]:
        return [one for one in self.seen if isinstance(one, Cursor)]

    @property
    def sequences(self) -> list[int]:
        return [sequence for run in self.runs for sequence in run.sequences]


def numbered(start: int, stop: int) -> list[bytes]:
    return [b"%d" % number for number in range(start, stop)]


class TopicsContract(_Mixin):
    """Mix into a test case that says how to make a bus, and how to let time pass."""

    per_topic = 50
    places = True  # whether what arrives tells its place in the stream
    bus: Any
    listener: Listener

    # -- to be provided

    async def make_bus(self, listener: Listener) -> Any:
        """A started bus that keeps ``per_topic`` messages per topic, and ends with the test."""
        raise NotImplementedError

    async def go_away(self) -> None:
        """Take the bus out of reach; return when it knows."""
        raise NotImplementedError

    async def come_back(self) -> None:
        """Bring the bus within reach again; return when it is available."""
        raise NotImplementedError

    def done(self, deferred: Awaitable[_T]) -> Awaitable[_T]:
        """Something to await that lets the bus do its work meanwhile."""
        return deferred

    # -- helpers

    async def set_up(self) -> None:
        self.listener = Listener()
        self.bus = await self.make_bus(self.listener)

    def setUp(self) -> Deferred[None]:  # type: ignore[override]  # trial waits for it
        return Deferred.fromCoroutine(self.set_up())

    def topic(self, name: str, namespace: Namespace = SHOP) -> Topic:
        return Topic(namespace, name)

    async def publish(self, name: str, *payloads: bytes, qos: int = 1, namespace: Namespace = SHOP) -> None:
        await self.done(self.bus.publish(Run(Topic(namespace, name), payloads, qos=qos)))

    async def follow(self, filter_: str, reader: Reader, after: Cursor | None = None) -> IFeed:
        feed: IFeed = await self.done(self.bus.follow(SHOP, filter_, reader, after))
        self.addCleanup(feed.stop)
        return feed

    async def follow_filters(
        self, filters: Sequence[str], reader: Reader, after: Cursor | None = None
    ) -> IFilteredFeed:
        feed: IFilteredFeed = await self.done(self.bus.follow_filters(SHOP, filters, reader, after))
        self.addCleanup(feed.stop)
        return feed

    async def publish_known(self, name: str, *payloads: bytes) -> list[int]:
        """Publish one by one, and tell the places."""
        return [(await self.done(self.bus.publish_one(self.topic(name), payload))).sequence for payload in payloads]

    async def backlog(self, filters: Sequence[str], after: Cursor, messages: int = 10**6, size: int = 10**9) -> Backlog:
        waiting: Backlog = await self.done(self.bus.backlog(SHOP, filters, after, messages, size))
        return waiting

    def cursor(self, sequence: int) -> Cursor:
        return Cursor(self.bus.epoch, sequence)

    async def until(self, watched: Watched, condition: Callable[[], bool]) -> None:
        await self.done(watched.until(condition))

    async def shown(self, filter_: str = "#", after: int = 0, limit: int = 1000) -> list[tuple[str, bytes]]:
        runs = await self.done(self.bus.history(SHOP, filter_, self.cursor(after), limit))
        return [(run.topic.name, payload) for run in runs for payload in run.payloads]

    async def fence(self) -> None:
        """Everything published before has arrived when this returns."""
        marker = b"fence %d" % len(self.listener.runs)
        await self.publish("fence", marker)
        await self.until(self.listener, lambda: marker in self.listener.payloads)

    def before_fences(self) -> list[bytes]:
        return [one for one in self.listener.payloads if not one.startswith(b"fence")]

    # -- shape

    def test_interface(self) -> None:
        """The bus offers what the interface asks for."""
        verifyObject(IBus, self.bus)

    def test_available_after_start(self) -> None:
        """A started bus is available, says so, and knows its epoch."""
        self.assertTrue(self.bus.available)
        self.assertEqual(self.listener.states, [True])
        self.assertEqual(Cursor.parse(str(self.cursor(7))), self.cursor(7))

    # -- publishing

    async def test_publish_one_tells_its_place(self) -> None:
        """Each message gets a later place in the stream."""
        first = await self.done(self.bus.publish_one(self.topic("a"), b"1"))
        second = await self.done(self.bus.publish_one(self.topic("a"), b"2"))
        self.assertFalse(first.duplicate)
        self.assertEqual(second.sequence, first.sequence + 1)

    async def test_duplicate_is_stored_and_delivered_once(self) -> None:
        """The same message id names the first place, and nothing is delivered again."""
        await self.done(self.bus.attach(SHOP))
        first = await self.done(self.bus.publish_one(self.topic("a"), b"once", message_id="k\n€"))
        again = await self.done(self.bus.publish_one(self.topic("a"), b"once", message_id="k\n€"))
        await self.fence()
        self.assertEqual((again.sequence, again.duplicate), (first.sequence, True))
        self.assertEqual(self.before_fences(), [b"once"])

    async def test_message_ids_of_namespaces_are_apart(self) -> None:
        """The same message id in another namespace is another message."""
        await self.done(self.bus.publish_one(self.topic("a"), b"1", message_id="k"))
        other = await self.done(self.bus.publish_one(self.topic("a", OTHER), b"2", message_id="k"))
        self.assertFalse(other.duplicate)

    async def many(self, *runs: Run) -> list[Stored | Refused]:
        answers: list[Stored | Refused] = await self.done(self.bus.publish_many(runs))
        return answers

    async def test_places_of_many(self) -> None:
        """Of many messages each is told its place, in their order, and that is where history has it."""
        await self.done(self.bus.attach(SHOP))
        first = await self.done(self.bus.publish_one(self.topic("a"), b"0"))
        runs = [
            Run(self.topic("a"), [b"1", b"2"], qos=1),
            Run(self.topic("b/$ä"), [b"3"], qos=2, ttl=60),
            Run(self.topic("a"), numbered(4, 30), qos=1, message_ids=[f"k {n}" for n in range(4, 30)]),
        ]
        answers = await self.many(*runs)
        self.assertEqual(answers, [Stored(first.sequence + n) for n in range(1, 30)])
        found = await self.done(self.bus.fetch([first.sequence + n for n in range(1, 30)]))
        self.assertEqual([run.payloads[0] for run in found.values()], numbered(1, 30))
        self.assertEqual((found[first.sequence + 3].topic, found[first.sequence + 3].qos), (self.topic("b/$ä"), 2))
        await self.until(self.listener, lambda: len(self.listener.payloads) == 30)
        self.assertEqual(self.listener.payloads, numbered(0, 30))
        self.assertEqual(await self.many(), [])

    async def test_many_and_other_ways_of_publishing(self) -> None:
        """Many messages keep the order with those that are published singly before and after them."""
        results: list[Deferred[Any]] = []
        for number in range(0, 40, 4):
            results.append(self.bus.publish_one(self.topic("a"), b"%d" % number))
            results.append(self.bus.publish_many([Run(self.topic("a"), numbered(number + 1, number + 4), qos=1)]))
        for result in results:
            await self.done(result)
        self.assertEqual([payload for _, payload in await self.shown("a")], numbered(0, 40))

    async def test_duplicates_among_many(self) -> None:
        """What was stored before is told its first place, and not delivered again; the others are new."""
        await self.done(self.bus.attach(SHOP))
        first = await self.done(self.bus.publish_one(self.topic("a"), b"1", message_id="k1"))
        ids = ["k0", "k1", "k2", "k0"]
        answers = await self.many(Run(self.topic("a"), [b"0", b"1", b"2", b"0"], qos=1, message_ids=ids))
        at = first.sequence
        self.assertEqual(answers, [Stored(at + 1), Stored(at, True), Stored(at + 2), Stored(at + 1, True)])
        again = await self.done(self.bus.publish_one(self.topic("a"), b"2", message_id="k2"))
        self.assertEqual(again, Stored(at + 2, True))
        await self.fence()
        self.assertEqual(self.before_fences(), [b"1", b"0", b"2"])

    async def test_too_large_among_many(self) -> None:
        """A message that the bus cannot carry is told so, and harms none of the others."""
        huge = bytes(2 * 1024 * 1024)
        first, second, third = await self.many(Run(self.topic("a"), [b"1", huge], qos=1), Run(self.topic("b"), [b"2"]))
        self.assertIsInstance(second, MessageTooLarge)
        self.assertTrue(isinstance(first, Stored) and isinstance(third, Stored))
        (alone,) = await self.many(Run(self.topic("a"), [huge], qos=1))
        self.assertIsInstance(alone, MessageTooLarge)
        self.assertEqual(await self.shown(), [("a", b"1"), ("b", b"2")])

    async def test_more_than_go_at_once(self) -> None:
        """However many are handed in at once, all of them are stored."""
        runs = [Run(self.topic(f"t/{n % 7}"), numbered(n * 500, n * 500 + 500), qos=1) for n in range(24)]
        answers = [
            one for under_way in [self.bus.publish_many([run]) for run in runs] for one in await self.done(under_way)
        ]
        self.assertEqual([one.sequence for one in answers], list(range(1, 12_001)))

    async def test_published_run_arrives(self) -> None:
        """What was stored arrives on the publisher's own node; with its place and time, where the bus knows them."""
        await self.done(self.bus.attach(SHOP))
        await self.publish("a/b", b"1", b"2", b"3")
        await self.until(self.listener, lambda: len(self.listener.payloads) == 3)
        run = self.listener.runs[0]
        self.assertEqual(self.listener.payloads, [b"1", b"2", b"3"])
        self.assertEqual((run.topic, run.qos, run.recorded), (self.topic("a/b"), 1, True))
        self.assertEqual((len(run.sequences), len(run.times)), (run.count, run.count) if self.places else (0, 0))

    async def test_quality_of_service_2_is_kept(self) -> None:
        """A message published at QoS 2 arrives as such, and is read as such."""
        await self.done(self.bus.attach(SHOP))
        await self.publish("a", b"1", qos=2)
        await self.done(self.bus.publish_one(self.topic("a"), b"2", qos=2))
        await self.until(self.listener, lambda: len(self.listener.payloads) == 2)
        read = await self.done(self.bus.history(SHOP, "a", self.cursor(0), 9))
        self.assertEqual({run.qos for run in [*self.listener.runs, *read]}, {2})

    async def test_order_between_ways_of_publishing(self) -> None:
        """Runs and single messages keep the order in which they were handed in, each kind for itself at least."""
        await self.done(self.bus.attach(SHOP))
        results: list[Deferred[Any]] = []
        for number in range(0, 90, 3):
            results.append(self.bus.publish(Run(self.topic("a"), numbered(number, number + 2), qos=1)))
            results.append(self.bus.publish_one(self.topic("a"), b"%d" % (number + 2)))
        for result in results:
            await self.done(result)
        await self.until(self.listener, lambda: len(self.listener.payloads) == 90)
        arrived = self.listener.payloads
        if self.places:
            self.assertEqual(arrived, numbered(0, 90))
        singles = numbered(2, 90)[::3]
        self.assertEqual([payload for payload in arrived if payload in singles], singles)
        rest = [payload for payload in numbered(0, 90) if payload not in singles]
        self.assertEqual([payload for payload in arrived if payload not in singles], rest)
        stored = await self.done(self.bus.history(SHOP, "a", self.cursor(0), 90))
        self.assertEqual([payload for run in stored for payload in run.payloads], numbered(90 - self.per_topic, 90))

    async def test_long_runs(self) -> None:
        """A run of any length is stored whole and in order."""
        await self.done(self.bus.attach(SHOP))
        await self.publish("a", *numbered(0, 3456))
        await self.until(self.listener, lambda: len(self.listener.payloads) == 3456)
        self.assertEqual(self.listener.payloads, numbered(0, 3456))
        self.assertEqual(self.listener.sequences, sorted(set(self.listener.sequences)))

    async def test_large_payloads(self) -> None:
        """Payloads that fill several writes are kept as they are."""
        await self.done(self.bus.attach(SHOP))
        payloads = [bytes([number]) * 300_000 for number in range(9)]
        await self.publish("a", *payloads, b"")
        await self.until(self.listener, lambda: len(self.listener.payloads) == 10)
        self.assertEqual(self.listener.payloads, [*payloads, b""])

    async def test_message_too_large(self) -> None:
        """A message that the bus cannot carry is refused, alone or in a run, and harms nothing else."""
        huge = bytes(2 * 1024 * 1024)
        with self.assertRaises(MessageTooLarge):
            await self.done(self.bus.publish_one(self.topic("a"), huge))
        with self.assertRaises(MessageTooLarge):
            await self.publish("a", b"1", huge)
        self.assertFalse(self.bus.send(Run(self.topic("a"), [huge]), True))
        await self.publish("a", b"2")
        self.assertEqual(await self.shown(), [("a", b"2")])

    async def test_retain_is_kept(self) -> None:
        """The wish for retention arrives and is read as it was published, and parts the runs."""
        await self.done(self.bus.attach(SHOP))
        for payload, retain, qos in ((b"1", False, 1), (b"2", True, 1), (b"3", True, 2), (b"4", False, 2)):
            await self.done(self.bus.publish(Run(self.topic("a"), [payload], qos=qos, retain=retain)))
        await self.done(self.bus.publish_one(self.topic("a"), b"5", qos=2, retain=True))
        self.bus.send(Run(self.topic("a"), [b"6"], retain=True), True)
        await self.publish("a", b"7")
        await self.until(self.listener, lambda: b"7" in self.listener.payloads)
        read = await self.done(self.bus.history(SHOP, "a", self.cursor(0), 9))
        expected = [(b"1", False), (b"2", True), (b"3", True), (b"4", False), (b"5", True), (b"6", True), (b"7", False)]
        self.assertEqual([(one, run.retain) for run in read for one in run.payloads], expected)
        del expected[5]  # sent unacknowledged: it does not come back
        self.assertEqual([(one, run.retain) for run in self.listener.runs for one in run.payloads], expected)

    async def test_ids_of_a_run(self) -> None:
        """What was stored in a run with message ids is a duplicate when it comes again by itself."""
        await self.done(self.bus.attach(SHOP))
        ids = ["s 1", "€2", "3" * 300]
        await self.done(self.bus.publish(Run(self.topic("a"), [b"1", b"2", b"3"], qos=2, message_ids=ids)))
        for number, message_id in enumerate(ids, 1):
            again = await self.done(self.bus.publish_one(self.topic("a"), b"%d" % number, qos=2, message_id=message_id))
            self.assertEqual((again.sequence, again.duplicate), (number, True))
        other = await self.done(self.bus.publish_one(self.topic("a", OTHER), b"4", message_id=ids[0]))
        self.assertFalse(other.duplicate)
        await self.fence()
        self.assertEqual(self.before_fences(), [b"1", b"2", b"3"])

    async def test_known_ids_in_a_run(self) -> None:
        """A message whose id is known is passed over, wherever in the run it is; the others are stored."""
        for known in ("a", "c", "e"):
            await self.done(self.bus.publish_one(self.topic("t"), known.encode(), message_id=known))
        run = Run(self.topic("t"), [b"a", b"b", b"c", b"d", b"e"], qos=1, message_ids=["a", "b", "c", "d", "e"])
        await self.done(self.bus.publish(run))
        await self.done(self.bus.publish(Run(self.topic("t"), [b"a"], qos=1, message_ids=["a"])))
        self.assertEqual([one for _, one in await self.shown("t")], [b"a", b"c", b"e", b"b", b"d"])

    async def test_long_run_with_ids(self) -> None:
        """A run of any length keeps its ids together with its messages."""
        count = 2345
        payloads = numbered(0, count)
        run = Run(self.topic("a"), payloads, qos=1, message_ids=[f"id{number}" for number in range(count)])
        await self.done(self.bus.publish(run))
        for number in (0, 999, 1000, 1001, count - 1):
            again = await self.done(self.bus.publish_one(self.topic("a"), b"", message_id=f"id{number}"))
            self.assertEqual((again.sequence, again.duplicate), (number + 1, True))

    # -- unacknowledged

    async def test_recorded_send_is_in_history(self) -> None:
        """A run sent with ``record`` is kept, at QoS 0, and does not come back to its own node."""
        await self.done(self.bus.attach(SHOP))
        self.assertTrue(self.bus.send(Run(self.topic("a"), [b"1", b"2"]), True))
        await self.fence()
        self.assertEqual(self.before_fences(), [])
        runs = await self.done(self.bus.history(SHOP, "a", self.cursor(0), 9))
        self.assertEqual([(list(run.payloads), run.qos) for run in runs], [([b"1", b"2"], 0)])

    async def test_send_without_record(self) -> None:
        """A run sent without ``record`` leaves no trace."""
        self.assertFalse(self.bus.send(Run(self.topic("a"), [b"1"]), False))
        await self.publish("b", b"2")
        self.assertEqual(await self.shown(), [("b", b"2")])

    async def test_order_of_sent_and_published(self) -> None:
        """History holds sent and published messages in the order in which they were handed in."""
        stored = []
        for number in range(0, 40, 2):
            self.bus.send(Run(self.topic("a"), [b"%d" % number]), True)
            stored.append(self.bus.publish(Run(self.topic("a"), [b"%d" % (number + 1)], qos=1)))
        for result in stored:
            await self.done(result)
        self.assertEqual([payload for _, payload in await self.shown("a")], numbered(0, 40))

    # -- arriving

    async def test_only_attached_namespaces_arrive(self) -> None:
        """Messages of a namespace that nobody attached do not arrive."""
        await self.done(self.bus.attach(SHOP))
        await self.publish("a", b"foreign", namespace=OTHER)
        await self.fence()
        self.assertEqual(self.before_fences(), [])

    async def test_attachments_count(self) -> None:
        """The last detach ends the arriving, not an earlier one."""
        for _ in range(2):
            await self.done(self.bus.attach(OTHER))
        await self.done(self.bus.attach(SHOP))
        self.bus.detach(OTHER)
        await self.publish("a", b"seen", namespace=OTHER)
        await self.fence()
        self.bus.detach(OTHER)
        await self.publish("a", b"unseen", namespace=OTHER)
        await self.fence()
        self.assertEqual(self.before_fences(), [b"seen"])

    async def test_any_name(self) -> None:
        """Whatever a topic may be called, it comes back as it was."""
        names = [
            "/",
            "a//b/",
            ".",
            "a.b",
            "*",
            ">",
            " x ",
            "%41",
            "%",
            "$SYS/x",
            "$",
            "ä/€/🚀",
            "\t\n\r\x7f",
            "a/" * 255,
            "." * 512,
        ]
        await self.done(self.bus.attach(SHOP))
        for name in names:
            await self.publish(name, b"x")
        await self.until(self.listener, lambda: len(self.listener.payloads) == len(names))
        self.assertEqual([run.topic.name for run in self.listener.runs], names)

    # -- history

    async def test_history_by_pages(self) -> None:
        """Pages follow each other by cursor, and hold no more than was asked for."""
        await self.publish("a", *numbered(0, 20))
        runs = await self.done(self.bus.history(SHOP, "#", self.cursor(0), 15))
        sequences = [sequence for run in runs for sequence in run.sequences]
        self.assertEqual(len(sequences), 15)
        self.assertEqual(await self.shown("#", sequences[-1], 15), [("a", payload) for payload in numbered(15, 20)])

    async def test_history_of_filters(self) -> None:
        """A filter shows what it matches: ``#`` takes in its parent and no names with ``$``; namespaces are apart."""
        for name in ("a", "a/b", "a/b/c", "ab", "$x/y", "/a"):
            await self.publish(name, name.encode())
        await self.publish("a", b"foreign", namespace=OTHER)
        for filter_, names in (
            ("#", ["a", "a/b", "a/b/c", "ab", "/a"]),
            ("a/#", ["a", "a/b", "a/b/c"]),
            ("+", ["a", "ab"]),
            ("+/+", ["a/b", "/a"]),
            ("a/+/c", ["a/b/c"]),
            ("$x/#", ["$x/y"]),
            ("+/y", []),
            ("nothing", []),
        ):
            self.assertEqual([name for name, _ in await self.shown(filter_)], names, filter_)

    async def test_history_is_limited_per_topic(self) -> None:
        """Each topic keeps its newest messages, whatever happens on others."""
        await self.publish("quiet", b"1")
        await self.publish("busy", *numbered(0, self.per_topic + 10))
        shown = await self.shown()
        self.assertEqual(shown[0], ("quiet", b"1"))
        self.assertEqual([payload for _, payload in shown[1:]], numbered(10, self.per_topic + 10))

    # -- following

    async def test_follow_the_future(self) -> None:
        """Without a cursor, a reader sees what is published from now on, acknowledged or not, and nothing else."""
        await self.publish("a", b"past")
        reader = Reader()
        feed = await self.follow("#", reader)
        await self.publish("a", b"1")
        self.bus.send(Run(self.topic("b"), [b"2"]), True)
        await self.publish("$c", b"hidden")
        await self.publish("a", b"3")
        await self.until(reader, lambda: len(reader.seen) == 3)
        self.assertEqual(reader.seen, [b"1", b"2", b"3"])
        self.assertEqual([run.qos for run in reader.runs], [1, 0, 1])
        self.assertEqual(feed.cursor, self.cursor(reader.sequences[-1]))

    async def test_follow_from_a_cursor(self) -> None:
        """With a cursor, a reader sees the rest and then the future, without a gap or a repeat."""
        await self.publish("a", *numbered(0, 30))
        known = (await self.done(self.bus.history(SHOP, "a", self.cursor(0), 10)))[0].sequences[-1]
        reader = Reader()
        await self.follow("a", reader, self.cursor(known))
        await self.publish("a", *numbered(30, 40))
        await self.until(reader, lambda: len(reader.seen) >= 30)
        self.assertEqual(reader.seen, numbered(10, 40))

    async def test_follow_while_publishing(self) -> None:
        """A reader that begins amid a stream of publishes misses nothing and sees nothing twice."""
        results = [self.bus.publish(Run(self.topic(f"t/{n % 10}"), [b"%d" % n], qos=1)) for n in range(100)]
        reader = Reader()
        following = self.bus.follow(SHOP, "#", reader, self.cursor(0))
        results += [self.bus.publish(Run(self.topic(f"t/{n % 10}"), [b"%d" % n], qos=1)) for n in range(100, 300)]
        feed = await self.done(following)
        self.addCleanup(feed.stop)
        for result in results:
            await self.done(result)
        await self.until(reader, lambda: len(reader.seen) >= 300)
        self.assertEqual(reader.seen, numbered(0, 300))

    async def test_follow_from_the_beginning(self) -> None:
        """Sequence 0 is everything that is there; that older messages are gone is no news."""
        await self.publish("a", *numbered(0, self.per_topic + 5))
        reader = Reader()
        await self.follow("#", reader, self.cursor(0))
        await self.publish("b", b"new")
        await self.until(reader, lambda: b"new" in reader.seen)
        self.assertEqual(reader.seen, [*numbered(5, self.per_topic + 5), b"new"])

    async def test_follow_from_another_epoch(self) -> None:
        """A cursor of another making of the stream is told a gap, then everything."""
        await self.publish("a", b"1", b"2")
        reader = Reader()
        await self.follow("a", reader, Cursor("elsewhere", 1))
        await self.until(reader, lambda: len(reader.seen) >= 3)
        self.assertEqual(reader.seen, [self.cursor(0), b"1", b"2"])

    async def test_follow_from_an_impossible_place(self) -> None:
        """A cursor beyond the end is told a gap, then everything."""
        await self.publish("a", b"1", b"2")
        reader = Reader()
        await self.follow("a", reader, self.cursor(10**9))
        await self.until(reader, lambda: len(reader.seen) >= 3)
        self.assertEqual([type(one) for one in reader.seen], [Cursor, bytes, bytes])

    async def test_trimmed_history_is_told(self) -> None:
        """A reader whose next messages were trimmed learns it before the first message."""
        known = await self.done(self.bus.publish_one(self.topic("a"), b"known"))
        await self.publish("a", *numbered(0, self.per_topic + 5))
        reader = Reader()
        await self.follow("#", reader, self.cursor(known.sequence))
        await self.until(reader, lambda: len(reader.seen) > self.per_topic)
        self.assertEqual(reader.seen, [self.cursor(known.sequence + 5), *numbered(5, self.per_topic + 5)])

    async def test_whole_history_is_not_doubted(self) -> None:
        """A reader that lost nothing is told nothing, though older messages of its topic, or others, were trimmed."""
        await self.publish("a", *numbered(0, self.per_topic + 5))
        known = await self.done(self.bus.publish_one(self.topic("a"), b"known"))
        await self.publish("busy", *numbered(0, self.per_topic + 5))
        await self.publish("a", b"1")
        reader = Reader()
        await self.follow("a", reader, self.cursor(known.sequence))
        await self.until(reader, lambda: bool(reader.seen))
        self.assertEqual(reader.seen, [b"1"])

    async def test_losses_of_others_are_no_losses(self) -> None:
        """A cursor that points to a message gone since is good, as long as the reader's own topics lost nothing."""
        known = await self.done(self.bus.publish_one(self.topic("busy"), b"known"))
        await self.publish("busy", *numbered(0, self.per_topic + 5))
        await self.publish("quiet", b"1")
        reader = Reader()
        await self.follow("quiet", reader, self.cursor(known.sequence))
        await self.until(reader, lambda: bool(reader.seen))
        self.assertEqual(reader.seen, [b"1"])

    async def test_slow_reader_of_history(self) -> None:
        """A reader that wants pauses is given nothing during them, and everything after them."""
        for number in range(20):
            await self.publish(f"t/{number}", b"%d" % number)
        reader = Reader(appetite=1)
        feed = await self.follow("#", reader, self.cursor(0))
        while len(reader.payloads) < 20:
            seen = len(reader.runs)
            await self.until(reader, lambda: reader.appetite == 0)
            reader.appetite = 1
            feed.resume()
            if len(reader.payloads) < 20:
                await self.until(reader, lambda seen=seen: len(reader.runs) > seen)  # type: ignore[misc]
        self.assertEqual(reader.seen, numbered(0, 20))

    async def test_slow_live_reader(self) -> None:
        """What is published during a pause comes after it, however much it is."""
        await self.done(self.bus.attach(SHOP))
        reader = Reader(appetite=1)
        feed = await self.follow("#", reader)
        for number in range(100):
            await self.publish(f"t/{number}", *numbered(number * 40, number * 40 + 40))
        await self.fence()
        self.assertEqual(len(reader.runs), 1)
        reader.appetite = 10**9
        feed.resume()
        await self.until(reader, lambda: len(reader.seen) >= 4001)
        self.assertEqual(reader.seen[:4000], numbered(0, 4000))

    async def test_reader_too_slow_for_history(self) -> None:
        """A reader that pauses for longer than history reaches back learns of the loss."""
        await self.done(self.bus.attach(SHOP))
        reader = Reader(appetite=1)
        feed = await self.follow("a", reader)
        await self.publish("a", b"first")
        await self.until(reader, lambda: bool(reader.seen))
        count = 3000  # more than any buffer for a reader
        await self.publish("a", *numbered(0, count))
        await self.fence()
        reader.appetite = 10**9
        feed.resume()
        await self.until(reader, lambda: reader.seen[-1] == b"%d" % (count - 1))
        self.assertTrue(reader.gaps)
        self.assertEqual(reader.payloads[-self.per_topic :], numbered(count - self.per_topic, count))
        self.assertEqual(reader.sequences, sorted(set(reader.sequences)))

    async def test_stopped_feed(self) -> None:
        """After ``stop`` nothing is given, also not to a reader that stops from inside ``read``."""
        reader, witness = Reader(), Reader()
        feed = await self.follow("#", reader)
        await self.follow("#", witness)
        reader.until(lambda: len(reader.seen) == 2).addCallback(lambda _: feed.stop())
        await self.publish("a", b"1")
        await self.publish("b", b"2")
        await self.publish("c", b"3")
        await self.until(witness, lambda: len(witness.seen) == 3)
        feed.stop()
        self.assertEqual(reader.seen, [b"1", b"2"])

    async def test_readers_are_apart(self) -> None:
        """One reader's pause does not hold up another on the same filter."""
        slow, quick = Reader(appetite=1), Reader()
        await self.follow("#", slow)
        await self.follow("#", quick)
        for number in range(50):
            await self.publish("a", b"%d" % number)
        await self.until(quick, lambda: len(quick.seen) == 50)
        self.assertEqual(len(slow.runs), 1)

    async def test_stopped_bus_ends_its_feeds(self) -> None:
        """Readers learn that the bus stops."""
        reader = Reader()
        await self.follow("#", reader)
        await self.done(self.bus.stop())
        self.assertEqual([type(one) for one in reader.seen], [BusUnavailable])

    # -- following several filters

    async def test_filtered_feed(self) -> None:
        """A feed of filters offers what its interface asks for."""
        verifyObject(IFilteredFeed, await self.follow_filters(["a"], Reader()))

    async def test_filters_of_the_future(self) -> None:
        """Without a cursor, what is acknowledged from now on is given, once however many filters match it, in order."""
        await self.publish("a/b", b"past")
        reader = Reader()
        await self.follow_filters(["a/b", "a/+", "+/b", "a/#", "c"], reader)
        self.bus.send(Run(self.topic("a/b"), [b"unacknowledged"]), True)
        for name in ("a/b", "c", "other", "a", "a/c", "x/b", "c/d", "$a/b"):
            await self.publish(name, name.encode())
        await self.publish("c", b"end", qos=2)
        await self.until(reader, lambda: b"end" in reader.seen)
        self.assertEqual(reader.seen, [b"a/b", b"c", b"a", b"a/c", b"x/b", b"end"])
        self.assertEqual([run.qos for run in reader.runs], [1, 1, 1, 1, 1, 2])

    async def test_filters_from_a_cursor(self) -> None:
        """With a cursor, the rest of history is given across all filters in stream order, then the future."""
        names = ["a/1", "b", "a/2", "other", "c/x/y", "$s/x"]
        for number in range(60):
            await self.publish(names[number % 6], b"%d" % number)
            self.bus.send(Run(self.topic(names[number % 6]), [b"unacknowledged"]), True)
        (known,) = await self.publish_known("b", b"known")
        for number in range(60, 120):
            await self.publish(names[number % 6], b"%d" % number)
        for cursor, first in ((self.cursor(known), 60), (self.cursor(0), 0)):
            reader = Reader()
            await self.follow_filters(["a/+", "b", "a/1", "c/#", "+/x/y", "$s/+"], reader, cursor)
            await self.publish("b", b"end")
            await self.until(reader, lambda reader=reader: b"end" in reader.seen)  # type: ignore[misc]
            expected = [b"%d" % number for number in range(first, 120) if number % 6 != 3]
            self.assertEqual([one for one in reader.seen if one not in (b"known", b"end")], expected)
            self.assertEqual(reader.sequences, sorted(set(reader.sequences)))

    async def test_filters_while_publishing(self) -> None:
        """A reader that begins amid a stream of publishes misses nothing and sees nothing twice."""
        results = [self.bus.publish(Run(self.topic(f"t/{n % 10}"), [b"%d" % n], qos=1)) for n in range(100)]
        reader = Reader()
        following = self.bus.follow_filters(SHOP, ["t/#", "t/1", "+/2"], reader, self.cursor(0))
        results += [self.bus.publish(Run(self.topic(f"t/{n % 10}"), [b"%d" % n], qos=1)) for n in range(100, 300)]
        feed = await self.done(following)
        self.addCleanup(feed.stop)
        for result in results:
            await self.done(result)
        await self.until(reader, lambda: len(reader.seen) >= 300)
        self.assertEqual(reader.seen, numbered(0, 300))

    async def test_leading_wildcards(self) -> None:
        """A leading wildcard passes by ``$``-topics ([MQTT-4.7.2-1]); a filter that names them does not."""
        everything, hidden = Reader(), Reader()
        await self.follow_filters(["#", "+/x"], everything, self.cursor(0))
        await self.follow_filters(["$s/#", "+/x"], hidden, self.cursor(0))
        for name in ("$s/x", "$t/x", "a/x", "b"):
            await self.publish(name, name.encode())
        await self.until(everything, lambda: b"b" in everything.seen)
        await self.until(hidden, lambda: b"a/x" in hidden.seen)
        self.assertEqual((everything.seen, hidden.seen), ([b"a/x", b"b"], [b"$s/x", b"a/x"]))

    async def test_cursor_moves_on(self) -> None:
        """The cursor of a live reader is never behind what it was given, and reading from it repeats nothing."""
        reader = Reader()
        feed = await self.follow_filters(["a", "b/#"], reader, self.cursor(0))
        await self.publish("a", b"1")
        await self.publish("b", b"2")
        await self.until(reader, lambda: len(reader.seen) == 2)
        self.assertGreaterEqual(feed.cursor.sequence, reader.sequences[-1])
        cursor = feed.cursor
        feed.stop()
        self.assertGreaterEqual(feed.cursor.sequence, cursor.sequence)
        await self.publish("b/c", b"3")
        again = Reader()
        await self.follow_filters(["a", "b/#"], again, feed.cursor)
        await self.publish("a", b"4")
        await self.until(again, lambda: b"4" in again.seen)
        self.assertEqual(again.seen, [b"3", b"4"])

    async def test_cursor_of_an_idle_reader(self) -> None:
        """What others are given on the same topics' first level moves the cursor of a reader that wants none of it."""
        idle, busy = Reader(), Reader()
        feed = await self.follow_filters(["t/1"], idle, self.cursor(0))
        await self.follow_filters(["t/2"], busy)
        (place,) = await self.publish_known("t/2", b"x")
        await self.until(busy, lambda: bool(busy.seen))
        await self.publish("t/1", b"mine")
        await self.until(idle, lambda: bool(idle.seen))
        (place,) = await self.publish_known("t/2", b"y")
        await self.until(busy, lambda: len(busy.seen) == 2)
        await self.publish("t/3", b"z")  # so that this is not inside of a read
        self.assertGreaterEqual(feed.cursor.sequence, place)
        self.assertEqual(idle.seen, [b"mine"])

    async def test_cursor_inside_read(self) -> None:
        """While anybody is being given something, a cursor claims nothing that is still to be given to its reader."""
        claims: list[tuple[int, int]] = []  # a cursor, and how many messages its reader had been given then

        class Curious(Reader):
            def read(self, run: Run) -> bool:
                goes_on = super().read(run)
                if feeds:
                    claims.append((feeds[0].cursor.sequence, len(reader.sequences)))
                return goes_on

        feeds: list[IFilteredFeed] = []
        reader, other = Curious(), Curious()
        feeds.append(await self.follow_filters(["t/#"], reader))
        await self.follow_filters(["t/#"], other)
        for number in range(40):
            self.bus.publish(Run(self.topic(f"t/{number % 3}"), [b"%d" % number], qos=1))
        await self.publish("t/9", b"end")
        await self.until(reader, lambda: b"end" in reader.seen)
        await self.until(other, lambda: b"end" in other.seen)
        for cursor, given in claims:
            self.assertTrue(all(sequence > cursor for sequence in reader.sequences[given:]))

    async def test_add_a_filter(self) -> None:
        """A filter added to a live reader gives what is stored from then on; the place says what was there before."""
        reader = Reader()
        feed = await self.follow_filters([], reader, self.cursor(0))
        (before,) = await self.publish_known("a", b"before")
        place = await self.done(feed.add("a"))
        self.assertGreaterEqual(place, before)
        await self.publish("a", b"1")
        await self.until(reader, lambda: bool(reader.seen))
        await self.publish("b/c", b"before")
        place = await self.done(feed.add("b/+"))
        await self.publish("b/c", b"2")
        await self.publish("a", b"3")
        await self.until(reader, lambda: b"3" in reader.seen)
        given = [one for run in reader.runs for one in zip(run.payloads, run.sequences, strict=True)]
        self.assertEqual([one for one, at in given if one != b"before" or at > place], [b"1", b"2", b"3"])

    async def test_add_a_filter_again(self) -> None:
        """A filter that is read already stays as it is, and so does one that another takes in."""
        reader = Reader()
        feed = await self.follow_filters(["a"], reader, self.cursor(0))
        for filter_ in ("a", "a", "+", "+"):
            await self.done(feed.add(filter_))
        await self.publish("a", b"1")
        await self.until(reader, lambda: bool(reader.seen))
        feed.discard("a")
        await self.publish("a", b"2")
        await self.until(reader, lambda: b"2" in reader.seen)
        feed.discard("+")
        feed.discard("never there")
        await self.publish("a", b"3")
        await self.done(feed.add("b"))
        await self.publish("b", b"4")
        await self.until(reader, lambda: b"4" in reader.seen)
        self.assertEqual(reader.seen, [b"1", b"2", b"4"])

    async def test_add_a_filter_while_catching_up(self) -> None:
        """A filter added to a reader that is still behind does not bring that filter's past."""
        for number in range(20):
            await self.publish(f"t/{number}", b"%d" % number)
            await self.publish("late", b"old")
        reader = Reader(appetite=1)
        feed = await self.follow_filters(["t/#", "x"], reader, self.cursor(0))
        await self.until(reader, lambda: reader.appetite == 0)
        place = await self.done(feed.add("late"))
        await self.publish("late", b"new")
        await self.publish("t/20", b"20")
        reader.appetite = 10**9
        feed.resume()
        await self.until(reader, lambda: b"20" in reader.seen)
        self.assertEqual([one for one in reader.seen if one not in (b"old", b"new")], numbered(0, 21))
        given = [one for run in reader.runs for one in zip(run.payloads, run.sequences, strict=True)]
        self.assertEqual([one for one, at in given if one in (b"old", b"new") and at > place], [b"new"])
        self.assertEqual(reader.sequences, sorted(set(reader.sequences)))

    async def test_filters_added_while_publishing(self) -> None:
        """Whatever is stored behind the place that ``add`` tells is given, also on topics that nobody read before."""
        reader = Reader()
        feed = await self.follow_filters(["t/0"], reader)
        places: dict[str, int] = {}
        results: list[Deferred[Any]] = []
        stored: dict[int, str] = {}

        def remember(answer: Any, name: str) -> None:
            stored[answer.sequence] = name

        for number in range(200):
            if number % 10 == 0:
                name = f"r{number // 10}/x"
                adding: Deferred[Any] = feed.add(name)
                results.append(adding.addCallback(lambda place, name: places.update({name: place}), name))
            name = f"r{number % 20}/x"
            results.append(self.bus.publish_one(self.topic(name), b"x").addCallback(remember, name))
            if number % 7 == 0:
                await self.done(results[-1])
        for result in results:
            await self.done(result)
        await self.publish("t/0", b"end")
        await self.until(reader, lambda: b"end" in reader.seen)
        expected = {sequence for sequence, name in stored.items() if name in places and sequence > places[name]}
        self.assertEqual(expected - set(reader.sequences), set())
        self.assertEqual(reader.sequences, sorted(set(reader.sequences)))

    async def test_discard_while_paused(self) -> None:
        """What waits for a paused reader, from history or live, is not given if its filter was discarded meanwhile."""
        for name, cursor in (("live", None), ("history", self.cursor(0))):
            reader, witness = Reader(appetite=1), Reader()
            keep, drop = f"{name}/keep", f"{name}/drop"
            if cursor is not None:
                await self.publish(keep, b"1")
                await self.publish(drop, b"2")
            feed = await self.follow_filters([keep, drop], reader, cursor)
            await self.follow_filters([keep, drop], witness)
            if cursor is None:
                await self.publish(keep, b"1")
            await self.until(reader, lambda reader=reader: reader.appetite == 0)  # type: ignore[misc]
            await self.publish(drop, b"2")
            await self.publish(keep, b"3")
            await self.until(witness, lambda witness=witness: b"3" in witness.seen)  # type: ignore[misc]
            feed.discard(drop)
            reader.appetite = 10**9
            feed.resume()
            await self.publish(keep, b"4")
            await self.until(reader, lambda reader=reader: b"4" in reader.seen)  # type: ignore[misc]
            self.assertEqual(reader.seen, [b"1", b"3", b"4"])

    async def test_slow_reader_of_filters(self) -> None:
        """A reader that wants pauses is given nothing during them, and everything after them, live and from history."""
        for number in range(20):
            await self.publish(f"t/{number % 4}", b"%d" % number)
        reader, witness = Reader(appetite=1), Reader()
        feed = await self.follow_filters(["t/0", "t/1", "t/+"], reader, self.cursor(0))
        await self.follow_filters(["t/#"], witness)
        for number in range(20, 4020, 40):
            await self.done(self.bus.publish(Run(self.topic("t/5"), numbered(number, number + 20), qos=1)))
            await self.done(self.bus.publish(Run(self.topic("t/6"), numbered(number + 20, number + 40), qos=1)))
        await self.until(witness, lambda: b"4019" in witness.seen)
        self.assertEqual(len(reader.runs), 1)
        place = feed.cursor
        while reader.seen[-1] != b"4019":
            self.assertEqual(reader.appetite, 0)
            reader.appetite = 3
            seen = len(reader.runs)
            feed.resume()
            enough = min(seen + 3, 10**9)
            await self.until(
                reader,
                lambda enough=enough: len(reader.runs) >= enough or reader.seen[-1] == b"4019",  # type: ignore[misc]
            )
        self.assertEqual(reader.payloads[:20], numbered(0, 20))
        self.assertEqual(reader.sequences, sorted(set(reader.sequences)))
        self.assertEqual(place.sequence, reader.sequences[0])
        self.assertEqual(reader.payloads[-20:], numbered(4000, 4020))
        self.assertTrue(reader.gaps)  # each topic holds less than was published on it

    async def test_losses_of_filters_are_told(self) -> None:
        """Trimmed history is told once, before the first message behind it."""
        (known,) = await self.publish_known("a", b"known")
        await self.publish("b", b"quiet")
        await self.publish("a", *numbered(0, self.per_topic + 5))
        reader = Reader()
        await self.follow_filters(["b", "a", "c/#"], reader, self.cursor(known))
        await self.publish("c", b"end")
        await self.until(reader, lambda: b"end" in reader.seen)
        self.assertEqual(len(reader.gaps), 1)
        self.assertEqual(reader.gaps[0], self.cursor(known + 6))
        self.assertIsInstance(reader.seen[0], Cursor)
        self.assertEqual(reader.payloads, [b"quiet", *numbered(5, self.per_topic + 5), b"end"])

    async def test_losses_of_other_filters_are_no_losses(self) -> None:
        """A reader whose own topics lost nothing is told nothing, whatever others under the same levels lost."""
        (known,) = await self.publish_known("t/busy", b"known")
        await self.publish("t/busy", *numbered(0, self.per_topic + 5))
        await self.publish("t/full", *numbered(0, self.per_topic + 5))
        (known,) = await self.publish_known("t/full", b"seen")
        await self.publish("t/busy", *numbered(0, self.per_topic + 5))
        await self.publish("t/quiet", b"1")
        reader = Reader()
        await self.follow_filters(["t/quiet", "t/full"], reader, self.cursor(known))
        await self.until(reader, lambda: bool(reader.seen))
        self.assertEqual(reader.seen, [b"1"])

    async def test_losses_before_a_filter_was_added(self) -> None:
        """What a filter's topics lost before it was added is no loss of the reader."""
        for number in range(3):
            await self.publish(f"t/{number}", b"%d" % number)
        reader = Reader(appetite=1)
        feed = await self.follow_filters(["t/+", "x"], reader, self.cursor(0))
        await self.until(reader, lambda: reader.appetite == 0)
        await self.publish("late", *numbered(0, self.per_topic + 5))
        await self.done(feed.add("late"))
        reader.appetite = 10**9
        feed.resume()
        await self.publish("late", b"new")
        await self.until(reader, lambda: b"new" in reader.seen)
        self.assertEqual((reader.gaps, reader.payloads[:3]), ([], numbered(0, 3)))

    async def test_filters_from_places_that_are_none(self) -> None:
        """A cursor of another epoch, or beyond the end, is told a gap, then everything."""
        await self.publish("a", b"1", b"2")
        for cursor in (Cursor("elsewhere", 1), self.cursor(10**9)):
            reader = Reader()
            await self.follow_filters(["a", "b"], reader, cursor)
            await self.until(reader, lambda reader=reader: len(reader.payloads) >= 2)  # type: ignore[misc]
            self.assertEqual(reader.seen, [self.cursor(0), b"1", b"2"])

    async def test_stopped_filtered_feed(self) -> None:
        """After ``stop`` nothing is given, also not to a reader that stops from inside ``read``; others go on."""
        reader, witness = Reader(), Reader()
        feed = await self.follow_filters(["#"], reader)
        await self.follow_filters(["+", "a"], witness)
        reader.until(lambda: len(reader.seen) == 2).addCallback(lambda _: feed.stop())
        for name in ("a", "b", "c"):
            await self.publish(name, name.encode())
        await self.until(witness, lambda: len(witness.seen) == 3)
        feed.stop()
        feed.resume()
        feed.discard("#")
        self.assertEqual(reader.seen, [b"a", b"b"])
        self.failureResultOf(feed.add("b"), BusUnavailable)

    async def test_stopped_bus_ends_filtered_feeds(self) -> None:
        """Readers of filters learn that the bus stops."""
        reader = Reader()
        await self.follow_filters(["a"], reader)
        await self.done(self.bus.stop())
        self.assertEqual([type(one) for one in reader.seen], [BusUnavailable])

    async def test_many_filters(self) -> None:
        """Any number of filters, with first levels of their own, is read by one reader, and by many."""
        names = [f"level{number}/x" for number in range(60)]
        one = Reader()
        await self.follow_filters(names, one, self.cursor(0))
        each = [Reader() for _ in names]
        for name, reader in zip(names, each, strict=True):
            await self.follow_filters([name], reader, self.cursor(0))
        for name in names:
            await self.publish(name, name.encode())
        await self.until(one, lambda: len(one.seen) == 60)
        for name, reader in zip(names, each, strict=True):
            await self.until(reader, lambda reader=reader: bool(reader.seen))  # type: ignore[misc]
            self.assertEqual(reader.seen, [name.encode()])
        again = Reader()
        await self.follow_filters(names, again, self.cursor(0))
        await self.until(again, lambda: len(again.seen) == 60)
        self.assertEqual(again.seen, one.seen)

    # -- what waits, and single messages

    async def test_backlog_within_bounds(self) -> None:
        """What waits within both bounds leaves the cursor as it is."""
        (known,) = await self.publish_known("a", b"seen")
        await self.publish("a", *numbered(0, 5))
        await self.publish("b/c", b"12345")
        await self.publish("other", *numbered(0, 20))
        filters = ["a", "b/#", "+/c", "b/+"]
        for messages, size in ((6, 10), (6, 10**9), (10**6, 10)):
            self.assertEqual(
                await self.backlog(filters, self.cursor(known), messages, size), Backlog(self.cursor(known), 0)
            )
        self.assertEqual(await self.backlog([], self.cursor(known), 0, 0), Backlog(self.cursor(known), 0))
        nothing = await self.backlog(["nothing"], self.cursor(known), 0, 0)
        self.assertEqual(nothing, Backlog(self.cursor(known), 0))

    async def test_backlog_of_too_many_messages(self) -> None:
        """The oldest are dropped until no more than so many wait; unacknowledged ones do not count."""
        await self.publish("a", b"seen")
        for number in range(20):
            await self.publish("a" if number % 2 else "b", b"%d" % number)
            self.bus.send(Run(self.topic("a"), [b"unacknowledged"]), True)
            await self.publish("c", b"other")
        waiting = await self.backlog(["a", "b"], self.cursor(1), 5)
        self.assertEqual(waiting.dropped, 15)
        reader = Reader()
        await self.follow_filters(["a", "b"], reader, waiting.after)
        await self.until(reader, lambda: len(reader.seen) >= 5)
        self.assertEqual(reader.seen, numbered(15, 20))

    async def test_backlog_of_too_many_bytes(self) -> None:
        """The oldest are dropped until what waits is no larger than that."""
        for size in (100, 10, 30, 70, 1):
            await self.publish("a", bytes(size))
        for size, dropped in ((211, 0), (210, 1), (111, 1), (110, 2), (71, 3), (70, 4), (1, 4), (0, 5)):
            waiting = await self.backlog(["a", "b"], self.cursor(0), size=size)
            self.assertEqual((waiting.dropped, waiting.after), (dropped, self.cursor(dropped)))

    async def test_backlog_from_another_epoch(self) -> None:
        """For a cursor of another epoch everything waits."""
        await self.publish("a", *numbered(0, 9))
        elsewhere = Cursor("elsewhere", 10**6)
        self.assertEqual(await self.backlog(["a"], elsewhere, 9), Backlog(elsewhere, 0))
        self.assertEqual(await self.backlog(["a"], elsewhere, 2), Backlog(self.cursor(7), 7))

    async def test_fetch(self) -> None:
        """Messages are read by their places, with what belongs to them; those that are gone are missing."""
        await self.publish("a", *numbered(0, self.per_topic + 5))
        last = self.per_topic + 5
        stored = await self.done(self.bus.publish_one(self.topic("$b/ä"), b"x", qos=2, retain=True))
        self.assertEqual(stored.sequence, last + 1)
        self.bus.send(Run(self.topic("c"), [b"unacknowledged"]), True)
        await self.publish("c", b"")
        wanted = [last + 3, 3, last + 1, *range(1, last + 1), last + 2, 10**9]
        found = await self.done(self.bus.fetch(wanted))
        self.assertEqual(set(found), set(range(6, last + 4)))
        self.assertEqual([found[at].payloads[0] for at in range(6, last + 1)], numbered(5, last))
        run = found[last + 1]
        self.assertEqual(
            (run.topic, run.qos, run.retain, list(run.sequences)), (self.topic("$b/ä"), 2, True, [last + 1])
        )
        self.assertEqual((run.count, len(run.times)), (1, 1))
        self.assertEqual((found[last + 2].qos, found[last + 3].qos, found[last + 3].payloads[0]), (0, 1, b""))
        self.assertEqual(await self.done(self.bus.fetch([])), {})

    # -- topics

    async def topics(
        self, prefix: str = "", after: str = "", limit: int = 1000, without: str = "", namespace: Namespace = SHOP
    ) -> list[tuple[str, int]]:
        listed = self.bus.topics(namespace, prefix, after, limit, lambda name: name != without)
        found: list[tuple[str, int]] = await self.done(listed)
        return found

    async def test_topics(self) -> None:
        """The topics that hold messages are listed by name, each with their number, whoever published how."""
        for name in ("b", "a/b", "a.b", "a", "ä", "a/b/", "$a/b", "a b"):
            await self.publish(name, b"1", b"2")
        self.bus.send(Run(self.topic("b"), [b"3"]), True)
        self.bus.send(Run(self.topic("live"), [b"1"]), True)
        self.bus.send(Run(self.topic("cast"), [b"1"]), False)
        await self.publish("z", b"1", namespace=OTHER)
        everything = [
            ("$a/b", 2), ("a", 2), ("a b", 2), ("a.b", 2), ("a/b", 2), ("a/b/", 2), ("b", 3), ("live", 1), ("ä", 2),
        ]  # fmt: skip
        self.assertEqual(await self.topics(), everything)
        self.assertEqual(await self.topics(namespace=OTHER), [("z", 1)])
        self.assertEqual(await self.topics(namespace=Namespace("bob", "none")), [])

    async def test_pages_of_topics(self) -> None:
        """A page has so many names at most, and the next one begins behind the last of them."""
        for name in "dbac":
            await self.publish(name, b"1")
        self.assertEqual(await self.topics(limit=2), [("a", 1), ("b", 1)])
        self.assertEqual(await self.topics(after="b", limit=2), [("c", 1), ("d", 1)])
        self.assertEqual(await self.topics(after="d"), [])
        self.assertEqual(await self.topics(without="b", limit=2), [("a", 1), ("c", 1)])

    async def test_beginnings_of_topics(self) -> None:
        """Only names with a certain beginning are listed, in whichever place that ends."""
        for name in ("a", "a/", "a/b", "a/bc", "a/b/c", "ab", "$a/b", "/a", "a.c/d"):
            await self.publish(name, b"1")
        for prefix, names in {
            "a": ["a", "a.c/d", "a/", "a/b", "a/b/c", "a/bc", "ab"],
            "a/": ["a/", "a/b", "a/b/c", "a/bc"],
            "a/b": ["a/b", "a/b/c", "a/bc"],
            "a/b/": ["a/b/c"],
            "$a/": ["$a/b"],
            "$": ["$a/b"],
            "/": ["/a"],
            "a.c/": ["a.c/d"],
            "+/": [],
            "x": [],
        }.items():
            self.assertEqual([name for name, _ in await self.topics(prefix)], names, prefix)

    # -- away

    async def test_away(self) -> None:
        """Out of reach, everything that needs the bus is refused at once, and sending is not recorded."""
        await self.go_away()
        self.assertFalse(self.bus.available)
        self.assertEqual(self.listener.states, [True, False])
        run = Run(self.topic("a"), [b"1"], qos=1)
        for refused in (
            self.bus.publish(run),
            self.bus.publish_one(self.topic("a"), b"1"),
            self.bus.follow(SHOP, "a", Reader()),
            self.bus.history(SHOP, "a", self.cursor(0), 1),
            self.bus.follow_filters(SHOP, ["a"], Reader()),
            self.bus.backlog(SHOP, ["a"], self.cursor(0), 1, 1),
            self.bus.fetch([1]),
            self.bus.publish_many([run]),
            self.bus.topics(SHOP, "", "", 1, bool),
        ):
            self.failureResultOf(refused, BusUnavailable)
        self.assertFalse(self.bus.send(run, True))
        self.successResultOf(self.bus.attach(SHOP))

    async def test_back(self) -> None:
        """Back within reach, what was acknowledged is there, and publishing and arriving go on."""
        await self.publish("a", b"1")
        epoch = self.bus.epoch
        await self.go_away()
        await self.done(self.bus.attach(SHOP))
        await self.come_back()
        self.assertEqual(self.listener.states, [True, False, True])
        self.assertEqual(self.bus.epoch, epoch)
        await self.publish("a", b"2")
        await self.until(self.listener, lambda: self.listener.payloads == [b"2"])
        self.assertEqual(await self.shown(), [("a", b"1"), ("a", b"2")])

    async def test_feeds_go_on_after_coming_back(self) -> None:
        """Readers, live, slow or catching up, go on where they were."""
        await self.publish("a", b"1")
        live, slow = Reader(), Reader(appetite=1)
        await self.follow("#", live)
        feed = await self.follow("#", slow, self.cursor(0))
        await self.until(slow, lambda: slow.appetite == 0)
        await self.publish("a", b"2")
        await self.until(live, lambda: live.seen == [b"2"])
        await self.go_away()
        await self.come_back()
        await self.publish("b", b"3")
        await self.until(live, lambda: live.seen == [b"2", b"3"])
        slow.appetite = 10**9
        feed.resume()
        await self.until(slow, lambda: slow.seen == [b"1", b"2", b"3"])

    async def test_filtered_feeds_go_on_after_coming_back(self) -> None:
        """Readers of filters, live, slow or catching up, go on where they were, without a gap or a repeat."""
        await self.publish("a", b"1")
        live, slow = Reader(), Reader(appetite=1)
        live_feed = await self.follow_filters(["a", "b/+"], live)
        feed = await self.follow_filters(["+", "b/#"], slow, self.cursor(0))
        await self.until(slow, lambda: slow.appetite == 0)
        await self.publish("a", b"2")
        await self.until(live, lambda: live.seen == [b"2"])
        await self.go_away()
        self.failureResultOf(live_feed.add("new"), BusUnavailable)
        live_feed.discard("a")
        await self.come_back()
        await self.publish("a", b"3")
        await self.publish("b/c", b"4")
        await self.publish("new", b"5")
        await self.until(live, lambda: b"4" in live.seen)
        slow.appetite = 10**9
        feed.resume()
        await self.until(slow, lambda: b"5" in slow.seen)
        self.assertEqual((live.seen, slow.seen), ([b"2", b"4"], numbered(1, 6)))
        await self.done(live_feed.add("new"))
        await self.publish("new", b"6")
        await self.until(live, lambda: b"6" in live.seen)
        self.assertEqual(live.seen, [b"2", b"4", b"6"])
