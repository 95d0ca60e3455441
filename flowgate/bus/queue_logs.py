"""The logs of queues: one JetStream stream each, followed by every node that uses the queue.

Entries lie under ``fg.q.<user>.<app>.<queue>.<token>``: ``.m`` with the bodies of messages, ``.e`` without a payload;
beside them ``.c``, the parts of checkpoints, and ``.p``, which says where the newest one is.  The token is new for
every making of a queue, so that nothing meant for a queue that was removed can reach its successor.  The stream
republishes all it stores under ``fg.qo.…``, with sequences that have no gaps: who misses something sees it by the next
message, and reads it.
"""

from __future__ import annotations

import json
import random
import re
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IDelayedCall
from twisted.python.failure import Failure
from zope.interface import implementer

from flowgate.bus import wire
from flowgate.bus.bridge import ApiError, NatsConnection, api_error, to_deferred
from flowgate.bus.link import Link, NoResponders, decode_json
from flowgate.bus.queue_bodies import Bodies, BodyCache
from flowgate.bus.queue_following import Following
from flowgate.bus.queue_reading import (
    CHUNK,
    ENTRY,
    GONE,
    MESSAGE,
    POINTER,
    LogReader,
    LogState,
    Pointer,
    log_root,
    log_state,
    out_subject,
)
from flowgate.bus.reading import all_of
from flowgate.bus.wire import Message
from flowgate.errors import BusUnavailable, Conflict, MessageTooLarge, NotFound
from flowgate.gate import Gate
from flowgate.interfaces import IQueueFollower, IQueueLog, IQueueLogs
from flowgate.topics import Namespace

MAX_PENDING_BYTES: Final = 64 * 1024 * 1024
"""What this node's appends may hold until they are stored; more are refused."""
CACHE_BYTES: Final = 32 * 1024 * 1024
"""Bodies that are kept because they were read ahead, all queues together."""
CHUNK_BYTES: Final = 512 * 1024
"""A checkpoint is stored in parts of this size."""

_SYNCS_AT_ONCE: Final = 8
_TICK_SECONDS: Final = 1.0
_LOOKS_PER_TICK: Final = 32
_LOOK_EVERY: Final = 10  # ticks, unless there are too many logs
_DELETES_AT_ONCE: Final = 16
_STREAM_EXISTS: Final = 10058
_NOT_DELETED: Final = (10043, 10057)  # it was gone already
_TOKEN: Final = "0123456789abcdefghijklmnopqrstuvwxyz"
_UNSAFE: Final = re.compile(r"[^A-Za-z0-9_-]")
_NO_QUEUE: Final = "there is no such queue"


def stream_name(namespace: Namespace, name: str) -> str:
    """The stream of a queue; reversible, since user and app hold no ``_``."""
    return f"FG_Q_{namespace.user}_{namespace.app}_{_escape(name)}"


def queue_subject(namespace: Namespace, name: str, root: str = "q") -> str:
    """What the subjects of a queue's entries begin with, before the token of its making."""
    return f"fg.{root}.{namespace.user}.{namespace.app}.{_escape(name)}"


def _escape(name: str) -> str:
    return _UNSAFE.sub(lambda found: "".join(f"={byte:02X}" for byte in found[0].encode()), name)


@implementer(IQueueLogs)
class JetStreamQueueLogs:
    """:class:`IQueueLogs` in JetStream."""

    def __init__(
        self,
        reactor: Any,
        link: Link,
        connection: NatsConnection,
        replicas: int = 1,
        *,
        rng: random.Random | None = None,
    ) -> None:
        """Take part.

        :param reactor: IReactorTime.
        :param link: the way of entries.
        :param connection: the way to make and to remove streams.
        :param replicas: how many servers keep each new queue.
        """
        self.reactor = reactor
        self.link = link
        self.connection = connection
        self.syncs = Gate(_SYNCS_AT_ONCE)
        self.cache = BodyCache(CACHE_BYTES)
        self.pending = 0  # bytes of appends that are under way
        self._replicas = replicas
        self._rng = rng or random.SystemRandom()
        self._logs: dict[JetStreamQueueLog, None] = {}
        self._turns: deque[JetStreamQueueLog] = deque()
        self._ticking: IDelayedCall | None = None
        link.add_listener(self)

    # -- IQueueLogs

    def create(self, namespace: Namespace, name: str) -> Deferred[bool]:
        return to_deferred(self.connection.guard(self._create(namespace, name)))

    async def _create(self, namespace: Namespace, name: str) -> bool:
        stream = stream_name(namespace, name)
        root = f"{queue_subject(namespace, name)}.{''.join(self._rng.choices(_TOKEN, k=10))}"
        config = {
            "name": stream,
            "subjects": [f"{root}.>"],
            "retention": "limits",
            "storage": "file",
            "discard": "old",
            "num_replicas": self._replicas,
            "duplicate_window": 1_000_000_000,  # nothing here has an id
            "allow_direct": True,
            "allow_rollup_hdrs": True,
            "republish": {"src": f"{root}.>", "dest": f"{out_subject(root)}.>"},
        }
        try:
            await self.connection.api(f"STREAM.CREATE.{stream}", config)
        except ApiError as error:
            if error.err_code == _STREAM_EXISTS:  # with another token
                return False
            raise
        return True

    def delete(self, namespace: Namespace, name: str) -> Deferred[None]:
        return to_deferred(self.connection.guard(self._delete(namespace, name))).addCallback(self._deleted)

    async def _delete(self, namespace: Namespace, name: str) -> str:
        stream = stream_name(namespace, name)
        try:
            info = await self.connection.api(f"STREAM.INFO.{stream}")
            await self.connection.api(f"STREAM.DELETE.{stream}")
        except NotFound:
            raise NotFound(_NO_QUEUE) from None
        return log_root(info["config"])

    def _deleted(self, root: str) -> None:
        if self.link.up:
            # Who does not hear of it finds out when it looks.
            self.link.write(wire.publish(f"{out_subject(root)}.".encode() + GONE, b""))
        for log in list(self._logs):
            if log.root == root:
                log.following.remove()

    def open(self, namespace: Namespace, name: str, follower: IQueueFollower) -> Deferred[IQueueLog]:
        return Deferred.fromCoroutine(self._open(stream_name(namespace, name), follower))

    async def _open(self, stream: str, follower: IQueueFollower) -> IQueueLog:
        try:
            state = await log_state(self.link, stream)
        except NotFound:
            raise NotFound(_NO_QUEUE) from None
        log = JetStreamQueueLog(self, stream, state, follower)
        self._logs[log] = None
        self._turns.append(log)
        if self._ticking is None:
            self._ticking = self.reactor.callLater(_TICK_SECONDS, self._tick)
        try:
            await log.following.begin()
        except BaseException:
            log.close()
            raise
        return log

    def stop(self) -> None:
        """Follow no log any more."""
        for log in list(self._logs):
            log.close()
        if self._ticking is not None:
            self._ticking.cancel()
            self._ticking = None

    def forget(self, log: JetStreamQueueLog) -> None:
        """Have nothing to do with a log any more."""
        if log in self._logs:
            del self._logs[log]
            self._turns.remove(log)
            if not any(other.root == log.root for other in self._logs):
                self.cache.forget(log.root)

    # -- what the link tells

    def link_up(self) -> None:
        for log in list(self._logs):
            log.following.resume()

    def link_down(self) -> None:
        for log in list(self._logs):
            log.following.pause()

    # -- time

    def _tick(self) -> None:
        self._ticking = None
        if self.link.up:
            for log in list(self._logs):
                log.following.tick()
            for _ in range(min(_LOOKS_PER_TICK, -(-len(self._turns) // _LOOK_EVERY))):
                self._turns.rotate(-1)
                self._turns[-1].following.look_soon()
        if self._logs:
            self._ticking = self.reactor.callLater(_TICK_SECONDS, self._tick)


@implementer(IQueueLog)
class JetStreamQueueLog:
    """One log that this node follows.

    :ivar root: the subject that its entries lie under.
    """

    def __init__(self, logs: JetStreamQueueLogs, stream: str, state: LogState, follower: IQueueFollower) -> None:
        self.root = state.root
        self.incarnation = state.root.rpartition(".")[2]
        self._logs = logs
        self._link = logs.link
        self._reader = LogReader(logs.link, stream, state.root)
        self._bodies = Bodies(logs.reactor, logs.link, stream, state, logs.cache)
        self.following = Following(
            logs.reactor, logs.link, self._reader, self._bodies.history, logs.syncs, follower, self._removed
        )
        self._subjects = {kind: f"{state.root}.{kind.decode()}" for kind in (MESSAGE, ENTRY, CHUNK, POINTER)}
        self._begin_of_head = b"NATS/1.0\r\nFG-Q: "
        self._end_of_head = b"\r\nNats-Expected-Stream: %b\r\n\r\n" % stream.encode()
        self._most = int(logs.link.info.get("max_payload", 0))
        self._closed = self._gone = False
        self._saves = Gate()

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self.following.end()
            self._logs.forget(self)

    def _removed(self) -> None:
        self._gone = True
        self.close()

    @property
    def available(self) -> bool:
        return self._link.up

    @property
    def largest(self) -> int:
        return self._most - len(self._begin_of_head) - len(self._end_of_head)

    def append(self, head: bytes, payload: bytes = b"") -> Deferred[int]:
        kind = MESSAGE if payload else ENTRY
        return self._publish(kind, payload, b"%b%b%b" % (self._begin_of_head, head, self._end_of_head))

    def _publish(self, kind: bytes, payload: bytes, head: bytes) -> Deferred[int]:
        size = len(head) + len(payload)
        if self._closed:
            return fail(NotFound(_NO_QUEUE) if self._gone else BusUnavailable("the queue is closed"))
        if size > self._most:
            return fail(MessageTooLarge(f"the message bus takes at most {self._most} bytes"))
        if self._logs.pending + size > MAX_PENDING_BYTES:
            return fail(BusUnavailable("too much waits for the message bus"))
        self._logs.pending += size
        answered = self._link.request(self._subjects[kind], payload, head=head)
        return answered.addCallbacks(self._stored, self._not_stored, (size,), errbackArgs=(size,))

    def _stored(self, message: Message, size: int) -> int:
        self._logs.pending -= size
        answer = json.loads(message[4])
        if "error" in answer:
            raise api_error(answer["error"])
        sequence = int(answer["seq"])
        self.following.promise(sequence)
        return sequence

    def _not_stored(self, failure: Failure, size: int) -> Failure | Deferred[int]:
        self._logs.pending -= size
        if isinstance(failure.value, NoResponders) and self._link.up:
            return Deferred.fromCoroutine(self._absent())
        return failure

    async def _absent(self) -> int:
        """Nobody takes what we publish: find out why."""
        if not self._gone:
            try:
                await self._reader.state()
            except NotFound:
                self.following.remove()
        raise NotFound(_NO_QUEUE) if self._gone else BusUnavailable("the queue's log has no leader now")

    def read(self, sequences: Sequence[int]) -> Deferred[dict[int, bytes]]:
        return succeed({}) if self._gone else self._bodies.read(sequences)

    def save(self, checkpoint: bytes, upto: int) -> Deferred[bool]:
        return self._saves.run(lambda: Deferred.fromCoroutine(self._save(checkpoint, upto)))

    async def _save(self, checkpoint: bytes, upto: int) -> bool:
        following = self.following
        base, newest = following.known, following.newest
        if newest.place != base or (base and upto <= newest.upto):
            following.known = newest.place
            return False
        size = max(1, min(CHUNK_BYTES, self.largest))
        chunks: list[int] = []
        try:
            for start in range(0, len(checkpoint), size):
                chunks.append(await self._publish(CHUNK, checkpoint[start : start + size], b""))
            pointer = Pointer(0, upto, chunks)
            head = wire.headers((("Nats-Rollup", "sub"), ("Nats-Expected-Last-Subject-Sequence", str(base))))
            place = await self._publish(POINTER, pointer.dump(), head)
        except Conflict:
            following.learn(await self._reader.pointer())
            following.known = following.newest.place
            with suppress(BusUnavailable):  # else somebody's trim removes them
                await self._remove(chunks)
            return False
        except NotFound:
            return False
        following.known = place
        following.learn(Pointer(place, upto, chunks))
        return True

    def trim(self, upto: int, first: int, dead: Sequence[int]) -> Deferred[None]:
        return Deferred.fromCoroutine(self._trim(upto, first, dead))

    async def _trim(self, upto: int, first: int, dead: Sequence[int]) -> None:
        pointer = self.following.newest
        # Whoever reads the log needs all that comes after the newest checkpoint.
        upto = min(upto, pointer.upto)
        first = min(first, upto + 1)
        dead = [at for at in dead if first <= at <= upto]
        try:
            if first > 1:
                await self._purge({"seq": first})
            if upto >= first:
                await self._purge({"filter": self._subjects[ENTRY], "seq": upto + 1})
            if pointer.place:
                oldest = min(pointer.chunks, default=pointer.place)
                await self._purge({"filter": self._subjects[CHUNK], "seq": oldest})
            await self._remove(dead)
        except NotFound:
            self.following.remove()
        self._bodies.trimmed(first, dead)

    async def _purge(self, body: dict[str, object]) -> None:
        await to_deferred(self._logs.connection.api(f"STREAM.PURGE.{self._reader.stream}", body))

    async def _remove(self, sequences: Sequence[int]) -> None:
        for start in range(0, len(sequences), _DELETES_AT_ONCE):
            some = sequences[start : start + _DELETES_AT_ONCE]
            await all_of([Deferred.fromCoroutine(self._remove_one(at)) for at in some])

    async def _remove_one(self, sequence: int) -> None:
        body = json.dumps({"seq": sequence, "no_erase": True}).encode()
        answer = decode_json(await self._link.request(f"$JS.API.STREAM.MSG.DELETE.{self._reader.stream}", body))
        error = answer.get("error")
        if error and error.get("err_code") not in _NOT_DELETED:
            raise api_error(error)
