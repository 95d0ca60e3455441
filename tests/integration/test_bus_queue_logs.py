"""The logs of queues over a real nats-server."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, DeferredList, gatherResults
from twisted.internet.task import LoopingCall
from twisted.trial.unittest import TestCase
from zope.interface import implementer

from flowgate.bus import queue_following, queue_logs, queue_reading, wire
from flowgate.bus.bridge import IConnectionListener, NatsConnection, to_deferred
from flowgate.bus.link import Link
from flowgate.bus.queue_logs import JetStreamQueueLog, JetStreamQueueLogs, stream_name
from flowgate.errors import BusUnavailable, NotFound
from flowgate.interfaces import IQueueLogs
from tests.contracts.queue_logs import HERE, Follower, QueueLogsContract
from tests.integration.links import LinkOwner, make_link
from tests.integration.nats import nats_server


@implementer(IConnectionListener)
class Node:
    """A node's ways to the bus."""

    def __init__(self, link: Link, owner: LinkOwner, connection: NatsConnection) -> None:
        self.link = link
        self.owner = owner
        self.connection = connection
        self._back: Deferred[None] = Deferred()
        connection.add_listener(self)

    def connected(self) -> None:
        back, self._back = self._back, Deferred()
        back.callback(None)

    def disconnected(self) -> None:
        pass

    async def away(self) -> None:
        """Wait until both ways are gone."""
        if self.link.up:
            await self.owner.down()

    async def back(self) -> None:
        """Wait until both ways are there."""
        if not self.link.up:
            await self.owner.up()
        if not self.connection.available:
            await self._back


class JetStreamQueueLogsTests(QueueLogsContract, TestCase):
    """The contract, over JetStream, and what only a real bus can do."""

    timeout = 60

    async def setUp(self) -> None:  # type: ignore[override]
        self.server = nats_server(self)
        self.nodes: dict[IQueueLogs, Node] = {}
        self.one, self.two = await self.make_node(), await self.make_node()

    async def make_node(self) -> JetStreamQueueLogs:
        link, owner = await make_link(self, self.server.url)
        connection = NatsConnection([self.server.url])
        self.addCleanup(connection.stop)
        await connection.start()
        logs = JetStreamQueueLogs(reactor, link, connection)
        self.addCleanup(logs.stop)
        self.nodes[logs] = Node(link, owner, connection)
        return logs

    async def eventually(self, condition: Callable[[], bool]) -> None:
        await self.fence()
        while not condition():
            await self.fence()

    async def fence(self) -> None:
        await gatherResults([node.link.fence() for node in self.nodes.values() if node.link.up])

    async def go_away(self) -> None:
        gone = [Deferred.fromCoroutine(node.away()) for node in self.nodes.values()]
        self.server.kill()
        await gatherResults(gone)
        while any(node.connection.available for node in self.nodes.values()):
            turn: Deferred[None] = Deferred()
            reactor.callLater(0, turn.callback, None)
            await turn

    async def come_back(self) -> None:
        back = [Deferred.fromCoroutine(node.back()) for node in self.nodes.values()]
        self.server.start()
        await gatherResults(back)

    async def cut_off(self) -> None:
        node = self.nodes[self.two]
        down = node.owner.down()
        await node.link.stop()
        await down

    async def joined(self) -> None:
        node = self.nodes[self.two]
        up = node.owner.up()
        node.link.start()
        await up

    async def api(self, verb: str, body: object = None) -> dict[str, Any]:
        payload = json.dumps(body).encode() if body else b""
        message = await self.nodes[self.one].link.request(f"$JS.API.{verb}", payload)
        answer: dict[str, Any] = json.loads(message[4])
        return answer

    async def held(self) -> dict[str, int]:
        """How many messages the stream holds, by the last token of their subjects."""
        answer = await self.api(f"STREAM.INFO.{stream_name(HERE, 'q')}", {"subjects_filter": ">"})
        subjects = answer["state"].get("subjects") or {}
        return {subject.rpartition(".")[2]: count for subject, count in subjects.items()}

    async def test_survives_kill(self) -> None:
        """What was stored is there after kill -9 of nats-server, for followers of before and for others."""
        one, first = await self.made()
        await self.filled(one, 0, 300)
        await self.go_away()
        await self.come_back()
        await self.filled(one, 300, 310)
        await self.eventually(lambda: len(first.taken) == 620)
        _, second = await self.opened(self.two)
        self.assertEqual(first.places, second.places)

    async def test_kills_while_appending(self) -> None:
        """However often nats-server is killed, all nodes have the same entries, and all that were acknowledged."""
        one, first = await self.made()
        two, second = await self.opened(self.two)
        stored: dict[int, bytes] = {}
        for turn in range(4):
            calls: list[Deferred[Any]] = []
            for number in range(400):
                for name, log in ((b"one", one), (b"two", two)):
                    head = b"e %b %d %d" % (name, turn, number)
                    call = log.append(head)
                    call.addCallback(stored.__setitem__, head)
                    calls.append(call)
                if number == 200:
                    await self.fence()
                    await self.go_away()
            for success, result in await DeferredList(calls, consumeErrors=True):
                self.assertTrue(success or result.check(BusUnavailable), result)
            await self.come_back()
        last = await one.append(b"last")
        await self.eventually(lambda: first.heads[-1:] == second.heads[-1:] == [b"last"])
        self.assertEqual(first.places, second.places)
        found = {entry.sequence: entry.head for entry in first.taken}
        self.assertGreater(len(stored), 400)
        self.assertEqual({at: found.get(at) for at in stored}, stored)
        self.assertEqual(sorted(found), list(range(1, last + 1)))
        self.assertEqual((len(first.restarts), len(second.restarts)), (1, 1))

    async def test_gap(self) -> None:
        """What is lost on the way is read when the next entry shows it."""
        one, first = await self.made()
        two, second = await self.opened(self.two)
        assert isinstance(two, JetStreamQueueLog)
        await self.filled(one, 0, 5)
        await self.eventually(lambda: len(second.taken) == 10)
        arrived = two.following._arrived
        link = self.nodes[self.two].link
        key, (subject, _) = next((key, one) for key, one in link._subscriptions.items() if "fg.qo." in one[0])
        link._handlers[key] = lambda _: None
        await self.filled(one, 5, 10)
        await self.fence()
        link._handlers[key] = arrived
        self.assertEqual((len(second.taken), subject), (10, f"{two.root.replace('fg.q.', 'fg.qo.')}.>"))
        await one.append(b"e99")
        await self.eventually(lambda: len(second.taken) == 21)
        await self.eventually(lambda: len(first.taken) == 21)
        self.assertEqual(first.places, second.places)
        await self.eventually(lambda: two.following._live)
        await one.append(b"m100", b"body")
        await self.eventually(lambda: second.heads[-1:] == [b"m100"])
        self.assertEqual(second.taken[-1].payload, b"body")

    async def test_last_one_lost(self) -> None:
        """What is lost on the way is read after a while if nothing comes behind it: our own, or that of others."""
        one, _ = await self.made()
        two, second = await self.opened(self.two)
        assert isinstance(two, JetStreamQueueLog)
        link = self.nodes[self.two].link
        key = next(key for key, one in link._subscriptions.items() if "fg.qo." in one[0])
        link._handlers[key] = lambda _: None
        await two.append(b"e1")
        await self.eventually(lambda: second.heads == [b"e1"])
        await one.append(b"e2")
        await self.eventually(lambda: second.heads == [b"e1", b"e2"])
        self.assertEqual(len(second.restarts), 1)

    async def test_removal_is_told(self) -> None:
        """Nodes need not look to learn that a queue was removed."""
        self.patch(queue_logs, "_TICK_SECONDS", 3600)
        await self.made()
        _, second = await self.opened(self.two)
        await self.one.delete(HERE, "q")
        await self.eventually(lambda: bool(second.told))

    async def test_removed_unseen(self) -> None:
        """A stream that somebody else removed is noticed by who appends, and after a while by all."""
        one, first = await self.made()
        _, second = await self.opened(self.two)
        await self.api(f"STREAM.DELETE.{stream_name(HERE, 'q')}")
        await self.assertFailure(one.append(b"e1"), NotFound)
        self.assertEqual(first.told, 1)
        await self.eventually(lambda: bool(second.told))

    async def test_new_store(self) -> None:
        """A server that comes back with nothing has no queues either."""
        _, first = await self.made()
        await self.go_away()
        shutil.rmtree(self.server.store)
        await self.come_back()
        await self.eventually(lambda: bool(first.told))

    async def test_shorter_log(self) -> None:
        """Followers begin anew if the log has lost its end, as with the power of its server."""
        one, first = await self.made()
        await self.filled(one, 0, 5)
        await self.fence()
        await self.go_away()
        copy = self.server.store.with_name("copy")
        shutil.copytree(self.server.store, copy)
        await self.come_back()
        await self.filled(one, 5, 8)
        await self.eventually(lambda: len(first.taken) == 16)
        await self.go_away()
        shutil.rmtree(self.server.store)
        copy.rename(self.server.store)
        await self.come_back()
        await one.append(b"e99")
        await self.eventually(lambda: first.heads[-1:] == [b"e99"])
        self.assertEqual((len(first.taken), len(first.restarts)), (11, 2))

    async def test_another_stream(self) -> None:
        """A stream that has the name of a log but is none is left alone."""
        name = stream_name(HERE, "q")
        await self.api(f"STREAM.CREATE.{name}", {"name": name, "subjects": ["something.else"]})
        self.assertFalse(await self.one.create(HERE, "q"))
        await self.assertFailure(self.one.open(HERE, "q", Follower()), BusUnavailable)

    async def test_trim_leaves_little(self) -> None:
        """What is trimmed is gone from the stream, the parts of older checkpoints too."""
        log, _ = await self.made()
        for number in range(3):
            messages, others = await self.filled(log, 10 * number, 10 * number + 10)
            self.assertTrue(await log.save(bytes(1024 * 1024 + 1), others[-1]))
        await log.trim(others[-1], messages[0], messages[2:8])
        self.assertEqual(await self.held(), {"m": 4, "c": 3, "p": 1})

    async def test_save_that_failed(self) -> None:
        """What is left of a checkpoint that was not kept goes with the next one."""
        one, _ = await self.made()
        two, _ = await self.opened(self.two)
        upto = await one.append(b"e1")
        assert isinstance(two, JetStreamQueueLog)
        await two._publish(queue_reading.CHUNK, b"lost", b"")
        saving = [one.save(bytes(700_000), upto), two.save(bytes(700_000), upto)]
        kept = [await call for call in saving]
        self.assertEqual(sum(kept), 1)
        self.assertEqual((await self.held())["c"], 3)  # what the other one wrote is gone already
        upto = await one.append(b"e2")
        while not await one.save(b"state", upto):
            pass
        await one.trim(upto, upto + 1, [])
        self.assertEqual(await self.held(), {"c": 1, "p": 1})

    async def test_overtaken(self) -> None:
        """Who opens a log that is trimmed while it is read begins anew, and has what the others have."""
        self.patch(queue_reading, "_BATCH", 100)
        one, first = await self.made()
        messages, others = await self.filled(one, 0, 600)
        trims = [(others[400], messages[300]), (others[-1], messages[500])]

        class Slow(queue_reading.Heads):
            def more(self) -> Deferred[Any]:
                self._slow: Deferred[Any] = Deferred.fromCoroutine(self._more())
                return self._slow

            def close(self) -> None:
                super().close()
                self._slow.addErrback(lambda _: None)

            async def _more(self) -> Any:
                if trims and second.taken and len(second.restarts) + len(trims) == 3:
                    upto, begin = trims.pop(0)
                    assert await one.save(b"%d" % upto, upto), "another node saves"
                    await one.trim(upto, begin, messages[550:])
                return await super().more()

        self.patch(queue_following, "Heads", Slow)
        second = Follower()
        await self.two.open(HERE, "q", second)
        self.assertEqual(trims, [])
        upto = others[-1]
        self.assertEqual([place for _, place in second.restarts], [0, others[400], upto])
        self.assertEqual([entry.sequence for entry in second.taken], messages[500:550])
        await one.append(b"e99")
        await self.eventually(lambda: second.heads[-1:] == [b"e99"])
        await self.eventually(lambda: first.heads[-1:] == [b"e99"])
        self.assertEqual(second.places[-1], first.places[-1])

    async def test_checkpoints_while_opening(self) -> None:
        """Who opens a log while others keep checkpoints and trim has what they have."""
        self.patch(queue_reading, "_BATCH", 50)
        one, first = await self.made()
        await self.filled(one, 0, 300)
        for number in range(10):
            opening = self.opened(self.two)
            messages, others = await self.filled(one, 300 + 20 * number, 320 + 20 * number)
            self.assertTrue(await one.save(b"%d" % number, others[-1]))
            await one.trim(others[-1], messages[10], [])
            later, second = await opening
            await one.append(b"e%d last" % number)
            for follower in (first, second):
                last = [b"e%d last" % number]
                await self.eventually(lambda: follower.heads[-1:] == last)  # noqa: B023
            upto = second.restarts[-1][1]
            self.assertEqual(
                [one for one in second.places if one[0] > upto], [one for one in first.places if one[0] > upto]
            )
            later.close()

    async def test_grows_faster_than_it_may_wait(self) -> None:
        """What comes while a log is read is dropped if it is too much, and read in its turn."""
        self.patch(queue_following, "_HELD_BYTES", 5000)
        one, first = await self.made()
        await self.filled(one, 0, 1500)
        opening = self.opened(self.two)
        for number in range(15):
            await self.filled(one, 1500 + 20 * number, 1520 + 20 * number)
        _, second = await opening
        await self.eventually(lambda: len(first.taken) == len(second.taken) == 3600)
        self.assertEqual(first.places, second.places)

    async def test_cancelled(self) -> None:
        """Whoever gives up opening a log is given nothing more, and nothing of it stays."""
        one, _ = await self.made()
        await self.filled(one, 0, 2000)
        node = self.nodes[self.two]
        before = len(node.link._subscriptions)
        follower = Follower()
        opening = self.two.open(HERE, "q", follower)
        await self.eventually(lambda: bool(follower.taken))
        opening.addErrback(lambda _: None)
        opening.cancel()
        taken = len(follower.taken)
        await one.append(b"e99")
        await self.fence()
        self.assertEqual((len(follower.taken), len(node.link._subscriptions)), (taken, before))
        assert isinstance(self.two, JetStreamQueueLogs)
        self.assertEqual(len(self.two._logs), 0)

    async def test_lost_while_opening(self) -> None:
        """An opening fails when the bus goes away."""
        one, _ = await self.made()
        await self.filled(one, 0, 2000)
        follower = Follower()
        opening = self.two.open(HERE, "q", follower)
        await self.eventually(lambda: bool(follower.taken))
        failed = self.assertFailure(opening, BusUnavailable)
        await self.go_away()
        await failed
        await self.come_back()
        _, second = await self.opened(self.two)
        self.assertEqual(len(second.taken), 4000)

    async def test_closed_while_opening_again(self) -> None:
        """A follower may close the log while it is given what it missed."""

        class Leaving(Follower):
            def entries(self, entries: Any) -> None:
                super().entries(entries)
                log.close()

        one, _ = await self.made()
        follower = Leaving()
        log = await self.two.open(HERE, "q", follower)
        await self.cut_off()
        await self.filled(one, 0, 1000)
        await self.joined()
        await self.eventually(lambda: bool(follower.taken))
        taken = len(follower.taken)
        await one.append(b"e99")
        await self.fence()
        self.assertEqual(len(follower.taken), taken)

    async def test_fault_of_a_follower(self) -> None:
        """A follower that raises costs the others nothing."""

        class Faulty(Follower):
            def entries(self, entries: Any) -> None:
                super().entries(entries)
                raise RuntimeError("a fault")

        one, first = await self.made()
        faulty = Faulty()
        await self.one.open(HERE, "q", faulty)
        await one.append(b"e1")
        await self.has(first, [b"e1"])
        await self.has(faulty, [b"e1"])
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)

    async def test_strange_messages(self) -> None:
        """What others publish where the stream republishes is no entry."""
        one, first = await self.made()
        assert isinstance(one, JetStreamQueueLog)
        out = one.root.replace("fg.q.", "fg.qo.").encode()
        self.nodes[self.two].link.write(wire.publish(out + b".m", b"x") + wire.publish(out + b".p", b"x"))
        await self.fence()
        await one.append(b"e1")
        await self.has(first, [b"e1"])

    async def test_many_logs(self) -> None:
        """Many logs come back together, each with what it missed."""
        logs = []
        for number in range(60):
            _, _ = await self.made(f"q{number}")
            logs.append(await self.opened(self.two, f"q{number}"))
        await self.cut_off()
        for number in range(60):
            other, _ = await self.opened(self.one, f"q{number}")
            await other.append(b"e%d" % number)
        await self.joined()
        for number, (_, follower) in enumerate(logs):
            await self.has(follower, [b"e%d" % number])

    async def test_frozen(self) -> None:
        """A server that does not answer any more is not waited for longer than six seconds."""
        one, _ = await self.made()
        self.server.freeze()
        await self.assertFailure(one.append(b"e1"), BusUnavailable)

    async def test_too_much(self) -> None:
        """More than may wait for the bus is refused, and what is under way is not."""
        one, _ = await self.made()
        self.server.freeze()
        calls = [one.append(b"m", bytes(1024 * 1000)) for _ in range(70)]
        refused = [call for call in calls if call.called]
        self.assertTrue(refused)
        for call in refused:
            await self.assertFailure(call, BusUnavailable)
        down = self.nodes[self.one].owner.down()
        self.server.kill()
        await down
        for call in calls:
            if call not in refused:
                await self.assertFailure(call, BusUnavailable)

    async def test_deep_log(self) -> None:
        """A deep log is opened without keeping the reactor from other work, and its bodies are read in few requests."""
        one, _ = await self.made()
        for start in range(0, 10_000, 1000):
            await self.filled(one, start, start + 1000)
        node = self.nodes[self.two]
        asked: list[str] = []
        request, write = node.link.request, node.link.write

        def counted(subject: str, *args: Any, **kwargs: Any) -> Any:
            asked.append(subject)
            return request(subject, *args, **kwargs)

        def written(data: bytes) -> None:
            asked.append(data.split(b" ", 2)[1].decode())
            write(data)

        self.patch(node.link, "request", counted)
        self.patch(node.link, "write", written)
        gaps: list[float] = []
        last = reactor.seconds()

        def beat() -> None:
            nonlocal last
            now = reactor.seconds()
            gaps.append(now - last)
            last = now

        beating = LoopingCall(beat)
        beating.start(0)
        log, second = await self.opened(self.two)
        beating.stop()
        self.assertEqual(len(second.taken), 20_000)
        self.assertLessEqual(sorted(gaps)[-3], 0.1)
        asked.clear()
        messages = [entry.sequence for entry in second.taken if entry.head.startswith(b"m")]
        for at in messages[:1000]:
            self.assertEqual(len(await log.read([at])), 1)
        self.assertLessEqual(len(asked), 25)

    async def test_purged(self) -> None:
        """Entries that an operator removed are missing, and nothing waits for them."""
        one, first = await self.made()
        messages, _ = await self.filled(one, 0, 5)
        await self.eventually(lambda: len(first.taken) == 10)
        connection = self.nodes[self.one].connection
        await to_deferred(connection.api(f"STREAM.PURGE.{stream_name(HERE, 'q')}"))
        _, second = await self.opened(self.two)
        self.assertEqual(second.taken, [])
        self.assertEqual(await one.read(messages), {})
        await one.append(b"e99")
        await self.has(second, [b"e99"])
