"""What every implementation of queues does."""

from __future__ import annotations

from typing import Any, TypeVar

from twisted.internet.defer import CancelledError, Deferred
from zope.interface.verify import verifyObject

from flowgate.errors import NotFound
from flowgate.interfaces import IQueues
from flowgate.message import QueueMessage, Received
from flowgate.topics import Namespace

_T = TypeVar("_T")
HERE = Namespace("alice", "shop")
LONG = 3600.0
"""A visibility that no test outlives."""
WAIT = 10.0
"""A wait that ends as soon as there is a message."""


def message(body: bytes, identifier: str = "id", **attributes: object) -> QueueMessage:
    return QueueMessage(identifier, body, attributes)


def bodies(received: list[Received]) -> list[bytes]:
    return [one.message.body for one in received]


class QueuesContract:
    """Mixed into a test case whose ``setUp`` makes ``self.queues`` without any queue."""

    queues: IQueues
    assertEqual: Any
    assertTrue: Any
    assertFalse: Any
    assertFailure: Any
    assertGreater: Any
    assertGreaterEqual: Any

    def settle(self, deferred: Deferred[_T]) -> Deferred[_T]:
        """Let time pass until ``deferred`` fires."""
        raise NotImplementedError

    async def _made(self, *contents: bytes) -> None:
        await self.queues.create(HERE, "q", 3600)
        if contents:
            await self.queues.send(HERE, "q", [message(body, str(body)) for body in contents])

    async def _receive(self, limit: int = 10, wait: float = 0, visibility: float = LONG) -> list[Received]:
        return await self.settle(self.queues.receive(HERE, "q", limit, wait, visibility))

    def test_interface(self) -> None:
        """It provides the interface."""
        self.assertTrue(verifyObject(IQueues, self.queues))

    async def test_create(self) -> None:
        """Making a queue says whether it was made now."""
        self.assertTrue(await self.queues.create(HERE, "q", 3600))
        self.assertFalse(await self.queues.create(HERE, "q", 3600))

    async def test_create_with_other_retention(self) -> None:
        """Making it again with another retention keeps the messages."""
        await self._made(b"1")
        self.assertFalse(await self.queues.create(HERE, "q", 7200))
        self.assertEqual(bodies(await self._receive()), [b"1"])

    async def test_no_such_queue(self) -> None:
        """Every verb on a queue that does not exist is refused."""
        queues = self.queues
        await self.assertFailure(queues.send(HERE, "q", [message(b"")]), NotFound)
        await self.assertFailure(queues.receive(HERE, "q", 1, 0, LONG), NotFound)
        await self.assertFailure(queues.receive(HERE, "q", 1, WAIT, LONG), NotFound)
        await self.assertFailure(queues.stats(HERE, "q"), NotFound)
        await self.assertFailure(queues.delete(HERE, "q"), NotFound)

    async def test_send_and_receive(self) -> None:
        """A message arrives as it was sent, with its sequence, the time and a count of 1."""
        await self._made()
        sent = message(b"\0\xff body \r\n", "m-1", colour="blå", number=[1, None, {"a": True}])
        (sequence,) = await self.queues.send(HERE, "q", [sent])
        (received,) = await self._receive()
        self.assertEqual(received.message, sent)
        self.assertEqual((received.sequence, received.receive_count), (sequence, 1))
        self.assertGreaterEqual(received.sent_at, 0)

    async def test_empty_body(self) -> None:
        """A body may be empty."""
        await self._made(b"")
        self.assertEqual(bodies(await self._receive()), [b""])

    async def test_order(self) -> None:
        """Sequences grow, and messages come in their order."""
        await self._made()
        contents = [b"%d" % number for number in range(30)]
        sequences = await self.queues.send(HERE, "q", [message(body) for body in contents])
        self.assertEqual(sequences, sorted(set(sequences)))
        received = [*await self._receive(), *await self._receive(), *await self._receive()]
        self.assertEqual(bodies(received), contents)

    async def test_limit(self) -> None:
        """No more than ``limit`` messages are handed out, the others stay visible."""
        await self._made(b"1", b"2", b"3")
        self.assertEqual(bodies(await self._receive(2)), [b"1", b"2"])
        self.assertEqual(bodies(await self._receive(2)), [b"3"])

    async def test_empty(self) -> None:
        """An empty queue answers at once if there is no wait."""
        await self._made()
        self.assertEqual(await self._receive(), [])

    async def test_in_flight_is_hidden(self) -> None:
        """A message that is with one receiver is not given to another."""
        await self._made(b"1")
        await self._receive()
        self.assertEqual(await self._receive(), [])

    async def test_wait_expires(self) -> None:
        """A wait for nothing ends with nothing."""
        await self._made()
        self.assertEqual(await self._receive(wait=0.2), [])

    async def test_wait_is_answered(self) -> None:
        """A receive that waits gets a message that comes later, without waiting for more."""
        await self._made()
        waiting = self.queues.receive(HERE, "q", 10, WAIT, LONG)
        await self.queues.send(HERE, "q", [message(b"1")])
        self.assertEqual(bodies(await self.settle(waiting)), [b"1"])

    async def test_two_wait(self) -> None:
        """Two receivers that wait get one message each."""
        await self._made()
        one = self.queues.receive(HERE, "q", 1, WAIT, LONG)
        two = self.queues.receive(HERE, "q", 1, WAIT, LONG)
        await self.queues.send(HERE, "q", [message(b"1"), message(b"2")])
        self.assertEqual(sorted(bodies(await self.settle(one)) + bodies(await self.settle(two))), [b"1", b"2"])

    async def test_cancelled_wait_takes_nothing(self) -> None:
        """A receiver that has gone is given nothing, and the next one is the first."""
        await self._made()
        gone = self.queues.receive(HERE, "q", 10, WAIT, LONG)
        await self._receive(wait=0.05)
        failure = self.assertFailure(gone, CancelledError)
        gone.cancel()
        await failure
        await self.queues.send(HERE, "q", [message(b"1")])
        (received,) = await self._receive(wait=WAIT)
        self.assertEqual(received.message.body, b"1")

    async def test_comes_back(self) -> None:
        """After its visibility a message is handed out again, with the next count and the same sequence."""
        await self._made(b"1")
        (first,) = await self._receive(visibility=0.2)
        (second,) = await self._receive(wait=WAIT)
        self.assertEqual((first.receive_count, second.receive_count), (1, 2))
        self.assertEqual(first.sequence, second.sequence)
        self.assertEqual(first.sent_at, second.sent_at)

    async def test_visibility_zero(self) -> None:
        """With visibility 0 a message is visible again at once."""
        await self._made(b"1")
        await self._receive(visibility=0)
        (again,) = await self._receive(wait=WAIT)
        self.assertEqual(again.receive_count, 2)

    async def test_delete(self) -> None:
        """A removed message does not come back after its visibility."""
        await self._made(b"1")
        (received,) = await self._receive(visibility=0.2)
        await self.queues.delete_messages(HERE, "q", [received.handle])
        self.assertEqual(await self._receive(wait=0.6), [])

    async def test_delete_again(self) -> None:
        """Removing a message again is no error and removes nothing else."""
        await self._made(b"1", b"2")
        (received,) = await self._receive(1)
        await self.queues.delete_messages(HERE, "q", [received.handle])
        await self.queues.delete_messages(HERE, "q", [received.handle, received.handle])
        self.assertEqual(bodies(await self._receive()), [b"2"])

    async def test_delete_many(self) -> None:
        """Several messages are removed by one call, in any order."""
        await self._made(b"1", b"2", b"3")
        received = await self._receive(visibility=0.2)
        handles = [one.handle for one in received]
        await self.queues.delete_messages(HERE, "q", [handles[2], handles[0]])
        self.assertEqual(bodies(await self._receive(wait=WAIT)), [b"2"])

    async def test_delete_after_return(self) -> None:
        """The handle of an earlier receive removes a message that has become visible again."""
        await self._made(b"1")
        (received,) = await self._receive(visibility=0)
        await self.queues.delete_messages(HERE, "q", [received.handle])
        self.assertEqual(await self._receive(wait=0.2), [])

    async def test_change_visibility_to_zero(self) -> None:
        """A receiver can give a message back at once."""
        await self._made(b"1")
        (received,) = await self._receive()
        await self.queues.change_visibility(HERE, "q", received.handle, 0)
        self.assertEqual(bodies(await self._receive(wait=WAIT)), [b"1"])

    async def test_visibility_is_shortened(self) -> None:
        """A shorter time counts from the change on."""
        await self._made(b"1")
        (received,) = await self._receive()
        await self.queues.change_visibility(HERE, "q", received.handle, 0.2)
        self.assertEqual(await self._receive(), [])
        self.assertEqual(bodies(await self._receive(wait=WAIT)), [b"1"])

    async def test_visibility_is_lengthened(self) -> None:
        """A longer time counts from the change on."""
        await self._made(b"1")
        (received,) = await self._receive(visibility=0.3)
        await self.queues.change_visibility(HERE, "q", received.handle, LONG)
        self.assertEqual(await self._receive(wait=0.7), [])

    async def test_default_visibility(self) -> None:
        """A receive with a visibility of 30 s hides its message."""
        await self._made(b"1")
        await self._receive(visibility=30.0)
        self.assertEqual(await self._receive(wait=0.2), [])

    async def test_namespaces_are_apart(self) -> None:
        """The same name in another namespace is another queue, whatever the parts are called."""
        places = [
            (HERE, "q"),
            (Namespace("alice", "shop2"), "q"),
            (Namespace("a", "b"), "c_d"),
            (Namespace("a", "c"), "d"),
        ]
        for number, (namespace, name) in enumerate(places):
            await self.queues.create(namespace, name, 3600)
            await self.queues.send(namespace, name, [message(b"%d" % number)])
        for number, (namespace, name) in enumerate(places):
            received = await self.queues.receive(namespace, name, 10, 0, LONG)
            self.assertEqual(bodies(received), [b"%d" % number])

    async def test_names_are_apart(self) -> None:
        """Names that differ in any character are different queues."""
        names = ["a", "A", "a.fifo", "a-fifo", "a_fifo", "x" * 80]
        for name in names:
            self.assertTrue(await self.queues.create(HERE, name, 3600))
            await self.queues.send(HERE, name, [message(name.encode())])
        for name in names:
            self.assertEqual(bodies(await self.queues.receive(HERE, name, 10, 0, LONG)), [name.encode()])

    async def test_queue_made_anew(self) -> None:
        """A queue that was removed and made anew is empty, and old handles do nothing there."""
        await self._made(b"old")
        (old,) = await self._receive()
        await self.queues.delete(HERE, "q")
        await self._made(b"new")
        await self.queues.delete_messages(HERE, "q", [old.handle])
        await self.queues.change_visibility(HERE, "q", old.handle, 0)
        self.assertEqual(bodies(await self._receive(wait=WAIT)), [b"new"])

    async def test_stats(self) -> None:
        """Visible messages, those in flight and removed ones are counted apart."""
        await self._made(b"1", b"2", b"3")
        first, _ = await self._receive(2)
        await self.queues.delete_messages(HERE, "q", [first.handle])
        stats = await self.queues.stats(HERE, "q")
        self.assertEqual((stats.visible, stats.in_flight, stats.delayed), (1, 1, 0))
        self.assertGreater(stats.bytes, 0)
        self.assertGreaterEqual(stats.oldest_age_seconds, 0.0)

    async def test_stats_of_empty_queue(self) -> None:
        """An empty queue has nothing, and no age."""
        await self._made()
        stats = await self.queues.stats(HERE, "q")
        self.assertEqual((stats.visible, stats.in_flight, stats.bytes, stats.oldest_age_seconds), (0, 0, 0, 0.0))
