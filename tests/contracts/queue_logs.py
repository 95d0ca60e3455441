"""What every implementation of the queues' logs does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.defer import Deferred
from zope.interface import implementer
from zope.interface.verify import verifyObject

from flowgate.errors import BusUnavailable, Conflict, MessageTooLarge, NotFound
from flowgate.interfaces import IQueueFollower, IQueueLog, IQueueLogs
from flowgate.message import LogEntry
from flowgate.topics import Namespace
from tests.contracts.topics import Watched

HERE = Namespace("alice", "shop")


@implementer(IQueueFollower)
class Follower(Watched):
    """Keeps what it was given, and sees to it that it is given in order, each entry once.

    :ivar restarts: checkpoint and place of every restart.
    :ivar taken: all entries since the last restart.
    :ivar told: calls of ``gone``.
    """

    def __init__(self) -> None:
        super().__init__()
        self.restarts: list[tuple[bytes | None, int]] = []
        self.taken: list[LogEntry] = []
        self.told = 0
        self.calls = 0

    def restart(self, checkpoint: bytes | None, upto: int) -> None:
        assert not self.told, "a restart of what is gone"
        self.restarts.append((checkpoint, upto))
        self.taken = []
        self.changed()

    def entries(self, entries: Sequence[LogEntry]) -> None:
        assert self.restarts, "entries before a restart"
        assert not self.told, "entries of what is gone"
        assert entries, "no entries"
        self.calls += 1
        for entry in entries:
            last = self.taken[-1].sequence if self.taken else 0
            assert entry.sequence > last, f"{entry.sequence} came behind {last}"
            assert entry.sequence > self.restarts[-1][1] or entry.head.startswith(b"m"), "an entry that nobody needs"
            self.taken.append(entry)
        self.changed()

    def gone(self) -> None:
        self.told += 1
        self.changed()

    @property
    def heads(self) -> list[bytes]:
        return [entry.head for entry in self.taken]

    @property
    def places(self) -> list[tuple[int, int, bytes]]:
        return [(entry.sequence, entry.time, entry.head) for entry in self.taken]


class QueueLogsContract:
    """Mixed into a test case whose ``setUp`` makes ``self.one`` and ``self.two``, nodes on one bus without logs.

    Heads begin with ``m`` if the entry has a payload.
    """

    one: IQueueLogs
    two: IQueueLogs
    assertEqual: Any
    assertTrue: Any
    assertFalse: Any
    assertFailure: Any
    assertGreater: Any
    assertGreaterEqual: Any
    assertLessEqual: Any
    assertNotEqual: Any
    assertIn: Any
    assertIsNone: Any

    async def eventually(self, condition: Callable[[], bool]) -> None:
        """Let time pass until ``condition`` holds."""
        raise NotImplementedError

    async def go_away(self) -> None:
        """Take the bus away from all nodes."""
        raise NotImplementedError

    async def come_back(self) -> None:
        """Bring it back."""
        raise NotImplementedError

    async def cut_off(self) -> None:
        """Take the bus away from ``self.two``, until :meth:`joined`."""
        raise NotImplementedError

    async def joined(self) -> None:
        """Bring it back to ``self.two``."""
        raise NotImplementedError

    async def made(self, name: str = "q") -> tuple[IQueueLog, Follower]:
        await self.one.create(HERE, name)
        return await self.opened(self.one, name)

    async def opened(self, node: IQueueLogs, name: str = "q") -> tuple[IQueueLog, Follower]:
        follower = Follower()
        log = await node.open(HERE, name, follower)
        return log, follower

    async def has(self, follower: Follower, heads: Sequence[bytes]) -> None:
        await self.eventually(lambda: len(follower.heads) >= len(heads))
        self.assertEqual(follower.heads, list(heads))

    async def filled(self, log: IQueueLog, start: int, stop: int) -> tuple[list[int], list[int]]:
        """Append messages and other entries in turn; return the sequences of both."""
        calls: list[Deferred[int]] = []
        for number in range(start, stop):
            calls.append(log.append(b"m%d" % number, b"body %d" % number))
            calls.append(log.append(b"e%d" % number))
        sequences = [await call for call in calls]
        return sequences[::2], sequences[1::2]

    # -- logs as such

    def test_interface(self) -> None:
        """It provides the interface."""
        self.assertTrue(verifyObject(IQueueLogs, self.one))

    async def test_log_interface(self) -> None:
        """So does a log."""
        log, _ = await self.made()
        self.assertTrue(verifyObject(IQueueLog, log))

    async def test_create(self) -> None:
        """Making a log says whether it was made now, on whichever node."""
        self.assertTrue(await self.one.create(HERE, "q"))
        self.assertFalse(await self.one.create(HERE, "q"))
        self.assertFalse(await self.two.create(HERE, "q"))

    async def test_create_at_once(self) -> None:
        """Of those who make the same log at the same time, one has made it."""
        calls = [node.create(HERE, "q") for node in (self.one, self.two, self.one, self.two)]
        self.assertEqual(sorted([await call for call in calls]), [False, False, False, True])

    async def test_no_such_queue(self) -> None:
        """What does not exist is neither opened nor removed."""
        await self.assertFailure(self.one.open(HERE, "q", Follower()), NotFound)
        await self.assertFailure(self.one.delete(HERE, "q"), NotFound)

    async def test_names_are_apart(self) -> None:
        """Names and namespaces that differ in anything are different logs."""
        spaces = (HERE, Namespace("alice", "shop2"), Namespace("a", "b"))
        names = ("a", "A", "a.fifo", "a-fifo", "a_fifo", "x" * 80)
        logs = []
        for namespace in spaces:
            for name in names:
                self.assertTrue(await self.one.create(namespace, name))
                follower = Follower()
                log = await self.one.open(namespace, name, follower)
                logs.append(follower)
                await log.append(f"{namespace.app} {name}".encode())
        for follower in logs:
            await self.eventually(lambda follower=follower: bool(follower.heads))  # type: ignore[misc]
        self.assertEqual(
            [follower.heads for follower in logs],
            [[f"{namespace.app} {name}".encode()] for namespace in spaces for name in names],
        )

    async def test_restart_refused(self) -> None:
        """A follower that cannot use a checkpoint says why, and so does the opening."""

        class Refusing(Follower):
            def restart(self, checkpoint: bytes | None, upto: int) -> None:
                raise Conflict("of another version")

        await self.one.create(HERE, "q")
        error = await self.assertFailure(self.one.open(HERE, "q", Refusing()), Conflict)
        self.assertEqual(error.detail, "of another version")

    # -- entries

    async def test_empty(self) -> None:
        """A new log has no checkpoint and nothing in it."""
        _, follower = await self.made()
        self.assertEqual((follower.restarts, follower.taken), ([(None, 0)], []))

    async def test_append(self) -> None:
        """An entry comes as it was appended, with the sequence that the append fires."""
        log, follower = await self.made()
        head = b'm{"a": "\xc3\xa5 \\r\\n", "b": [1, 2]}'
        sequence = await log.append(head, b"\0\xff body\r\n")
        await self.eventually(lambda: bool(follower.taken))
        (entry,) = follower.taken
        self.assertEqual((entry.sequence, entry.head, entry.payload), (sequence, head, b"\0\xff body\r\n"))

    async def test_without_payload(self) -> None:
        """An entry needs no payload."""
        log, follower = await self.made()
        await log.append(b"e")
        await self.has(follower, [b"e"])
        self.assertIsNone(follower.taken[0].payload)

    async def test_order(self) -> None:
        """Entries are stored and given in the order in which they were appended, with growing times."""
        log, follower = await self.made()
        messages, others = await self.filled(log, 0, 200)
        self.assertEqual(
            sorted([*messages, *others]), [at for pair in zip(messages, others, strict=True) for at in pair]
        )
        await self.has(follower, [b"%b%d" % (kind, number) for number in range(200) for kind in (b"m", b"e")])
        times = [entry.time for entry in follower.taken]
        self.assertEqual(times, sorted(times))

    async def test_two_nodes(self) -> None:
        """Two nodes that append at the same time are given the same entries, in one order, with the same times."""
        one, first = await self.made()
        two, second = await self.opened(self.two)
        self.assertEqual(one.incarnation, two.incarnation)
        calls = [log.append(b"e%d" % number) for number in range(200) for log in (one, two)]
        for call in calls:
            await call
        await self.eventually(lambda: len(first.taken) == len(second.taken) == 400)
        self.assertEqual(first.places, second.places)

    async def test_two_followers_on_one_node(self) -> None:
        """A node may follow a log twice; one may leave."""
        log, first = await self.made()
        other, second = await self.opened(self.one)
        await log.append(b"e1")
        await self.has(first, [b"e1"])
        await self.has(second, [b"e1"])
        other.close()
        await log.append(b"e2")
        await self.has(first, [b"e1", b"e2"])
        self.assertEqual(second.heads, [b"e1"])

    async def test_open_later(self) -> None:
        """Who opens a log has everything in it once it is open, with the times that others were told."""
        log, first = await self.made()
        await self.filled(log, 0, 600)
        await self.has(first, [b"%b%d" % (kind, number) for number in range(600) for kind in (b"m", b"e")])
        _, second = await self.opened(self.two)
        self.assertEqual(second.places, first.places)

    async def test_open_while_others_append(self) -> None:
        """Who opens a log that grows lacks nothing, and is given nothing twice."""
        log, first = await self.made()
        await self.filled(log, 0, 500)
        opening = self.opened(self.two)
        calls = [log.append(b"e%d" % number) for number in range(500)]
        _, second = await opening
        calls += [log.append(b"f%d" % number) for number in range(500)]
        for call in calls:
            await call
        await self.eventually(lambda: len(first.taken) == len(second.taken) == 2000)
        self.assertEqual(first.places, second.places)

    async def test_close(self) -> None:
        """After it was closed a log gives nothing, and takes nothing."""
        log, follower = await self.made()
        other, second = await self.opened(self.two)
        log.close()
        log.close()
        await other.append(b"e1")
        await self.has(second, [b"e1"])
        self.assertEqual(follower.taken, [])
        await self.assertFailure(log.append(b"e2"), BusUnavailable)

    async def test_appends_while_it_is_given(self) -> None:
        """A follower may append when it is given something."""
        outer = self

        class Answering(Follower):
            def entries(self, entries: Sequence[LogEntry]) -> None:
                super().entries(entries)
                for entry in entries:
                    if entry.head == b"question":
                        calls.append(log.append(b"answer"))

        calls: list[Deferred[int]] = []
        await self.one.create(HERE, "q")
        first, second = Answering(), Follower()
        log = await self.one.open(HERE, "q", first)
        await outer.two.open(HERE, "q", second)
        await log.append(b"question")
        await self.has(first, [b"question", b"answer"])
        await self.has(second, [b"question", b"answer"])
        await calls[0]

    async def test_closes_while_it_is_given(self) -> None:
        """A follower may close the log when it is given something."""

        class Leaving(Follower):
            def entries(self, entries: Sequence[LogEntry]) -> None:
                super().entries(entries)
                log.close()

        await self.one.create(HERE, "q")
        first = Leaving()
        log = await self.one.open(HERE, "q", first)
        other, second = await self.opened(self.two)
        await other.append(b"e1")
        await self.has(first, [b"e1"])
        await other.append(b"e2")
        await self.has(second, [b"e1", b"e2"])
        self.assertEqual(first.heads, [b"e1"])

    async def test_largest(self) -> None:
        """An entry may have as many bytes as the log says, and not one more."""
        log, follower = await self.made()
        head = b"m" * 48 * 1024
        await log.append(head, bytes(log.largest - len(head)))
        await self.has(follower, [head])
        await self.assertFailure(log.append(head, bytes(log.largest - len(head) + 1)), MessageTooLarge)
        _, second = await self.opened(self.two)
        self.assertEqual(second.heads, [head])

    # -- bodies

    async def test_read(self) -> None:
        """Bodies are read by their sequences, in any order and however often; what is not there is missing."""
        log, _ = await self.made()
        messages, _ = await self.filled(log, 0, 100)
        other, _ = await self.opened(self.two)
        for asked in (messages, messages[::-7], messages[3:4] * 2, [messages[99] + 50, messages[5]], []):
            expected = {at: b"body %d" % messages.index(at) for at in asked if at in messages}
            self.assertEqual(await other.read(asked), expected)

    async def test_read_one_by_one(self) -> None:
        """Whoever goes through a log one by one is given every body."""
        log, _ = await self.made()
        messages, _ = await self.filled(log, 0, 300)
        other, _ = await self.opened(self.two)
        for number, at in enumerate(messages):
            self.assertEqual(await other.read([at]), {at: b"body %d" % number})

    async def test_read_at_once(self) -> None:
        """Several may read at the same time, and one that leaves does not matter to the others."""
        log, _ = await self.made()
        messages, _ = await self.filled(log, 0, 50)
        other, _ = await self.opened(self.two)
        calls = [other.read(messages[start : start + 5]) for start in range(0, 50, 3)]
        leaving = other.read(messages)
        leaving.addErrback(lambda _: None)
        leaving.cancel()
        for start, call in zip(range(0, 50, 3), calls, strict=True):
            self.assertEqual(list(await call), messages[start : start + 5])

    # -- checkpoints

    async def test_checkpoint(self) -> None:
        """Who opens a log with a checkpoint is given that, then messages of before it, and all that came after it."""
        log, follower = await self.made()
        _, others = await self.filled(log, 0, 10)
        await self.eventually(lambda: len(follower.taken) == 20)
        self.assertTrue(await log.save(b"state", others[-1]))
        await self.filled(log, 10, 12)
        _, second = await self.opened(self.two)
        self.assertEqual(second.restarts, [(b"state", others[-1])])
        heads = [b"m%d" % number for number in range(10)] + [b"m10", b"e10", b"m11", b"e11"]
        self.assertEqual(second.heads, heads)
        self.assertEqual(len(follower.restarts), 1)

    async def test_large_checkpoint(self) -> None:
        """A checkpoint may be larger than any entry, or empty."""
        log, _ = await self.made()
        state = bytes(range(256)) * 4 * 1024 * 3 + b"end"
        sequence = await log.append(b"e1")
        self.assertTrue(await log.save(state, sequence))
        _, second = await self.opened(self.two)
        self.assertTrue(second.restarts == [(state, sequence)])
        sequence = await log.append(b"e2")
        self.assertTrue(await log.save(b"", sequence))
        _, third = await self.opened(self.two)
        self.assertEqual(third.restarts, [(b"", sequence)])

    async def test_save_again(self) -> None:
        """The same node keeps one checkpoint after the other; the last one counts, and none that is older."""
        log, _ = await self.made()
        first, second = await log.append(b"e1"), await log.append(b"e2")
        self.assertTrue(await log.save(b"1", first))
        self.assertTrue(await log.save(b"2", second))
        self.assertFalse(await log.save(b"1", first))
        _, follower = await self.opened(self.two)
        self.assertEqual(follower.restarts, [(b"2", second)])

    async def test_save_by_two(self) -> None:
        """A node does not keep a checkpoint if another kept one meanwhile; the next time it does."""
        one, _ = await self.made()
        two, _ = await self.opened(self.two)
        first, second = await one.append(b"e1"), await one.append(b"e2")
        self.assertTrue(await one.save(b"one", first))
        self.assertFalse(await two.save(b"two", second))
        _, follower = await self.opened(self.two)
        self.assertEqual(follower.restarts, [(b"one", first)])
        self.assertTrue(await two.save(b"two", second))
        self.assertFalse(await one.save(b"late", first))
        _, follower = await self.opened(self.two)
        self.assertEqual(follower.restarts, [(b"two", second)])

    async def test_save_at_once(self) -> None:
        """Of two nodes that save at the same time, one does."""
        one, _ = await self.made()
        two, _ = await self.opened(self.two)
        for number in range(10):
            upto = await one.append(b"e")
            first, second = bytes([number]) * 1_500_000, bytes([100 + number]) * 1_500_000
            saved = [one.save(first, upto), two.save(second, upto)]
            kept = [await call for call in saved]
            self.assertLessEqual(sum(kept), 1)
            if any(kept):
                _, follower = await self.opened(self.two)
                self.assertTrue(follower.restarts == [((first, second)[kept.index(True)], upto)])

    async def test_entries_after_checkpoints(self) -> None:
        """Followers miss nothing when checkpoints are kept, and their own do not bother them."""
        one, first = await self.made()
        _, second = await self.opened(self.two)
        for number in range(20):
            await one.save(b"state", await one.append(b"e%d" % number))
        await self.has(first, [b"e%d" % number for number in range(20)])
        await self.has(second, [b"e%d" % number for number in range(20)])

    # -- trimming

    async def test_trim(self) -> None:
        """What nobody needs goes; who opens the log then has all the rest, and its bodies."""
        log, _ = await self.made()
        messages, others = await self.filled(log, 0, 20)
        upto = others[-1]
        self.assertTrue(await log.save(b"state", upto))
        more, _ = await self.filled(log, 20, 22)
        await log.trim(upto, messages[5], [messages[7], messages[9]])
        left = [messages[5], messages[6], messages[8], *messages[10:]]
        _, second = await self.opened(self.two)
        self.assertEqual(second.restarts, [(b"state", upto)])
        self.assertEqual([entry.sequence for entry in second.taken if entry.sequence <= upto], left)
        self.assertEqual(second.heads[len(left) :], [b"m20", b"e20", b"m21", b"e21"])
        other, _ = await self.opened(self.two)
        for node in (log, other):
            read = await node.read([*messages, *more])
            self.assertEqual(list(read), [*left, *more])

    async def test_trim_everything(self) -> None:
        """A queue that is empty needs nothing but its checkpoint."""
        log, follower = await self.made()
        messages, others = await self.filled(log, 0, 20)
        self.assertTrue(await log.save(b"state", others[-1]))
        await log.trim(others[-1], others[-1] + 1, [])
        _, second = await self.opened(self.two)
        self.assertEqual((second.restarts, second.taken), ([(b"state", others[-1])], []))
        self.assertEqual(await log.read(messages), {})
        sequence = await log.append(b"e99")
        self.assertGreater(sequence, others[-1])
        await self.has(second, [b"e99"])
        await self.eventually(lambda: follower.heads[-1:] == [b"e99"])
        self.assertEqual(len(follower.restarts), 1)

    async def test_trim_again(self) -> None:
        """Trimming what is gone already is no error, nor is trimming after every checkpoint."""
        log, _ = await self.made()
        for number in range(5):
            (message,), (other,) = await self.filled(log, number, number + 1)
            self.assertTrue(await log.save(b"%d" % number, other))
            await log.trim(other, message, [])
            await log.trim(other, message, [message])
            await log.trim(other, message, [message])
        _, second = await self.opened(self.two)
        self.assertEqual((second.restarts, second.taken), ([(b"4", other)], []))

    async def test_trim_leaves_what_is_needed(self) -> None:
        """What comes after the newest checkpoint is not trimmed, whatever is asked for."""
        log, _ = await self.made()
        messages, _ = await self.filled(log, 0, 5)
        await log.trim(messages[4], messages[4], messages)
        _, second = await self.opened(self.two)
        self.assertEqual(len(second.taken), 10)
        self.assertTrue(await log.save(b"state", messages[2]))
        await log.trim(messages[4], messages[4], messages)
        _, third = await self.opened(self.two)
        self.assertEqual(third.heads, [b"e2", b"m3", b"e3", b"m4", b"e4"])

    async def test_trim_after_another(self) -> None:
        """A node that did not keep the checkpoint may trim too."""
        one, _ = await self.made()
        two, second = await self.opened(self.two)
        _, others = await self.filled(one, 0, 5)
        self.assertTrue(await one.save(b"state", others[-1]))
        self.assertFalse(await two.save(b"state", others[-1]))
        await self.eventually(lambda: len(second.taken) == 10)
        await two.trim(others[-1], others[-1] + 1, [])
        _, third = await self.opened(self.one)
        self.assertEqual((third.restarts, third.taken), ([(b"state", others[-1])], []))

    # -- removal

    async def test_delete(self) -> None:
        """All nodes learn that a queue was removed, and it is there no more."""
        one, first = await self.made()
        two, second = await self.opened(self.two)
        (message,), _ = await self.filled(one, 0, 1)
        await self.one.delete(HERE, "q")
        await self.eventually(lambda: bool(first.told and second.told))
        self.assertEqual((first.told, second.told), (1, 1))
        for log in (one, two):
            await self.assertFailure(log.append(b"e1"), NotFound)
            self.assertEqual(await log.read([message]), {})
            self.assertFalse(await log.save(b"state", 1))
            await log.trim(1, 1, [1])
            log.close()
        await self.assertFailure(self.two.open(HERE, "q", Follower()), NotFound)

    async def test_made_anew(self) -> None:
        """A queue that is made anew is another one: nothing meant for the old one reaches it."""
        one, _ = await self.made()
        two, second = await self.opened(self.two)
        await self.filled(one, 0, 5)
        await one.save(b"state", 3)
        await self.one.delete(HERE, "q")
        late = two.append(b"late")
        self.assertTrue(await self.one.create(HERE, "q"))
        await self.assertFailure(late, NotFound)
        await self.assertFailure(two.append(b"later"), NotFound)
        await self.eventually(lambda: bool(second.told))
        log, follower = await self.opened(self.two)
        self.assertEqual((follower.restarts, follower.taken), ([(None, 0)], []))
        self.assertNotEqual(log.incarnation, two.incarnation)
        await log.append(b"e1")
        await self.has(follower, [b"e1"])

    # -- a bus that goes away

    async def test_while_away(self) -> None:
        """While the bus is away everything fails at once."""
        log, _ = await self.made()
        (message,), _ = await self.filled(log, 0, 1)
        self.assertTrue(log.available)
        await self.go_away()
        self.assertFalse(log.available)
        for call in (
            log.append(b"e1"),
            log.read([message]),
            log.save(b"state", 1),
            self.one.create(HERE, "r"),
            self.one.delete(HERE, "q"),
            self.one.open(HERE, "q", Follower()),
        ):
            await self.assertFailure(call, BusUnavailable)
        await self.come_back()
        self.assertTrue(log.available)

    async def test_comes_back(self) -> None:
        """A follower goes on where it was once the bus is back."""
        one, first = await self.made()
        _, second = await self.opened(self.two)
        await self.filled(one, 0, 5)
        await self.eventually(lambda: len(first.taken) == len(second.taken) == 10)
        await self.go_away()
        await self.come_back()
        await one.append(b"e99")
        await self.eventually(lambda: first.heads[-1:] == second.heads[-1:] == [b"e99"])
        self.assertEqual((len(first.taken), len(first.restarts), len(second.restarts)), (11, 1, 1))
        self.assertEqual(first.places, second.places)

    async def test_missed(self) -> None:
        """What was stored while a node was cut off comes when it is back, once and in order."""
        one, first = await self.made()
        _, second = await self.opened(self.two)
        await self.filled(one, 0, 5)
        await self.eventually(lambda: len(second.taken) == 10)
        await self.cut_off()
        await self.filled(one, 5, 700)
        self.assertEqual(len(second.taken), 10)
        await self.joined()
        await self.filled(one, 700, 710)
        await self.eventually(lambda: len(first.taken) == len(second.taken) == 1420)
        self.assertEqual(first.places, second.places)
        self.assertEqual(len(second.restarts), 1)

    async def test_missed_what_was_trimmed(self) -> None:
        """A follower that missed what was trimmed meanwhile begins anew."""
        one, first = await self.made()
        _, second = await self.opened(self.two)
        await self.filled(one, 0, 5)
        await self.eventually(lambda: len(second.taken) == 10)
        await self.cut_off()
        messages, others = await self.filled(one, 5, 10)
        self.assertTrue(await one.save(b"state", others[-1]))
        await one.trim(others[-1], messages[3], [])
        await one.append(b"e99")
        await self.joined()
        await self.eventually(lambda: second.heads[-1:] == [b"e99"])
        self.assertEqual(second.restarts, [(None, 0), (b"state", others[-1])])
        self.assertEqual(second.heads, [b"m8", b"m9", b"e99"])
        self.assertEqual(len(first.restarts), 1)

    async def test_missed_a_checkpoint(self) -> None:
        """A follower that was cut off while a checkpoint was kept of what it has need not begin anew."""
        one, _ = await self.made()
        two, second = await self.opened(self.two)
        _, others = await self.filled(one, 0, 5)
        await self.eventually(lambda: len(second.taken) == 10)
        await self.cut_off()
        self.assertTrue(await one.save(b"state", others[-1]))
        await self.joined()
        last = await one.append(b"e99")
        await self.eventually(lambda: second.heads[-1:] == [b"e99"])
        self.assertEqual(len(second.restarts), 1)
        self.assertFalse(await two.save(b"two", last))
        self.assertTrue(await two.save(b"two", last))

    async def test_removed_while_cut_off(self) -> None:
        """A node that was cut off when the queue was removed, and perhaps made anew, learns it when it is back."""
        await self.made("q")
        await self.made("r")
        _, second = await self.opened(self.two, "q")
        _, third = await self.opened(self.two, "r")
        await self.cut_off()
        await self.one.delete(HERE, "q")
        await self.one.delete(HERE, "r")
        await self.one.create(HERE, "r")
        await self.joined()
        await self.eventually(lambda: bool(second.told and third.told))
        self.assertEqual((second.told, third.told), (1, 1))
