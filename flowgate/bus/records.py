"""The store on the link, for values that are written often: one message there, one back, nothing in between.

Buckets are laid out as those of NATS KV, so :class:`~flowgate.bus.kv.JetStreamStore` and ``nats kv`` read them too.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from typing import Any, Final

from twisted.internet.defer import Deferred, fail
from twisted.python.failure import Failure
from zope.interface import implementer

from flowgate.bus import wire
from flowgate.bus.bridge import api_error
from flowgate.bus.keys import MARKER_SECONDS, check_key
from flowgate.bus.link import Link, NoResponders, decode_json
from flowgate.bus.wire import Message
from flowgate.errors import BusUnavailable, Conflict, MessageTooLarge, ProtocolViolation, Refused
from flowgate.interfaces import IStore
from flowgate.message import Entry

MAX_WAITING = 16_384
"""Requests without an answer yet, from which on no more are made: the bus is as good as away then."""
MAX_WAITING_BYTES = 64 * 1024 * 1024

_ANSWER_SECONDS: Final = 5.0
_HEADER_ROOM: Final = 256  # what our headers take of the server's max_payload
_ATTEMPTS: Final = 3
_NO_MESSAGE: Final = 10037
_NO_STREAM: Final = 10059
_NAME_IN_USE: Final = 10058
_STORED = re.compile(rb'\{"stream":"[\w-]+", ?"seq":(\d+)[,}]')


@implementer(IStore)
class LinkStore:
    """Buckets of small values, made when they are first used and again when they are missing.

    What fails with :class:`BusUnavailable` may or may not have been written.
    """

    def __init__(self, link: Link, watches: IStore, replicas: int = 1) -> None:
        """Prepare a store.

        :param link: the way to the bus.
        :param watches: another store over the same bus, which does the watching.
        :param replicas: how many servers keep each new bucket.
        """
        self._link = link
        self._watches = watches
        self._replicas = replicas
        self._making: dict[str, list[Deferred[None]]] = {}
        self._waiting = 0
        self._waiting_bytes = 0

    def get(self, bucket: str, key: str) -> Deferred[Entry | None]:
        return Deferred.fromCoroutine(self._get(bucket, key))

    async def _get(self, bucket: str, key: str) -> Entry | None:
        check_key(bucket, key)
        found = await self._last(bucket, key)
        return None if found is None or _is_marker(found[1]) else Entry(found[2], found[0])

    def put(self, bucket: str, key: str, value: bytes, revision: int | None = None) -> Deferred[int]:
        try:
            check_key(bucket, key)
        except Refused as refusal:
            return fail(refusal)
        head = b"" if revision is None else wire.headers([_expect(revision)])
        written = self._write(bucket, key, value, head)
        written.addErrback(self._not_written, bucket, key, value, revision)
        return written

    def delete(self, bucket: str, key: str, revision: int | None = None) -> Deferred[None]:
        return Deferred.fromCoroutine(self._delete(bucket, key, revision))

    async def _delete(self, bucket: str, key: str, revision: int | None) -> None:
        check_key(bucket, key)
        if revision is None and await self._get(bucket, key) is None:
            return  # no marker for what was not there
        lines = [("KV-Operation", "PURGE"), ("Nats-Rollup", "sub"), ("Nats-TTL", str(MARKER_SECONDS))]
        if revision is not None:
            lines.append(_expect(revision))
        head = wire.headers(lines)
        try:
            try:
                await self._write(bucket, key, b"", head)
            except NoResponders:
                await self._make(bucket)
                await self._write(bucket, key, b"", head)
        except Conflict:
            if await self._get(bucket, key) is not None:
                raise

    def watch(self, bucket: str, changed: Callable[[str, bytes | None], None]) -> Deferred[Callable[[], None]]:
        return self._watches.watch(bucket, changed)

    # -- writing

    def _write(self, bucket: str, key: str, value: bytes, head: bytes) -> Deferred[int]:
        """Store a message; the answer is its sequence.

        :raises Conflict: through the Deferred, if the entry has not the revision that ``head`` names.
        :raises NoResponders: through the Deferred, if there is no bucket.
        """
        most = self._link.info.get("max_payload", 0) - _HEADER_ROOM
        if len(value) > most > 0:
            return fail(MessageTooLarge(f"the message bus takes at most {most} bytes"))
        return self._ask(f"$KV.{bucket}.{key}", value, head).addCallback(_stored)

    def _not_written(
        self, failure: Failure, bucket: str, key: str, value: bytes, revision: int | None
    ) -> Failure | Deferred[int]:
        error = failure.value
        if isinstance(error, NoResponders) or (isinstance(error, Conflict) and revision == 0):
            return Deferred.fromCoroutine(self._write_again(error, bucket, key, value, revision))
        return failure

    async def _write_again(self, error: Refused, bucket: str, key: str, value: bytes, revision: int | None) -> int:
        """Try again where there was no bucket, or where what is in the way may be the marker of a removed entry."""
        expected = revision
        for _ in range(_ATTEMPTS):
            if isinstance(error, NoResponders):
                await self._make(bucket)
            elif revision == 0:
                found = await self._last(bucket, key)
                if found is not None and not _is_marker(found[1]):
                    raise error
                expected = found[0] if found is not None else 0  # the marker may have reached its end just now
            else:
                raise error
            try:
                head = b"" if expected is None else wire.headers([_expect(expected)])
                return await self._write(bucket, key, value, head)
            except (NoResponders, Conflict) as refusal:
                error = refusal
        raise error

    # -- reading

    async def _last(self, bucket: str, key: str) -> tuple[int, bytes, bytes] | None:
        """Sequence, headers and payload of the last message on a key, a marker too."""
        if self._replicas > 1:
            return await self._last_of_leader(bucket, key)
        subject = f"$JS.API.DIRECT.GET.KV_{bucket}.$KV.{bucket}.{key}"
        try:
            message = await self._ask(subject)
        except NoResponders:
            await self._make(bucket)
            message = await self._ask(subject)
        head = message[3]
        status = wire.status(head)
        if status == 404:
            return None
        if status:
            raise BusUnavailable(f"an entry cannot be read: status {status}")
        return wire.stored_at(head)[0], head, message[4]

    async def _last_of_leader(self, bucket: str, key: str) -> tuple[int, bytes, bytes] | None:
        """The same, from where it was written: a direct get is answered by any replica, also by one that lags."""
        body = json.dumps({"last_by_subj": f"$KV.{bucket}.{key}"}).encode()
        answer = decode_json(await self._ask(f"$JS.API.STREAM.MSG.GET.KV_{bucket}", body))
        error = answer.get("error")
        if error is not None:
            if error.get("err_code") in (_NO_MESSAGE, _NO_STREAM):
                return None
            raise api_error(error)
        found = answer["message"]
        return int(found["seq"]), base64.b64decode(found.get("hdrs", "")), base64.b64decode(found.get("data", ""))

    # -- buckets

    def _make(self, bucket: str) -> Deferred[None]:
        """Make a bucket, or have one that nats-py made take direct gets; many callers, one request."""
        made: Deferred[None] = Deferred()
        waiting = self._making.setdefault(bucket, [])
        waiting.append(made)
        if len(waiting) == 1:
            Deferred.fromCoroutine(self._create(bucket)).addBoth(self._made, bucket)
        return made

    def _made(self, result: Failure | None, bucket: str) -> None:
        for made in self._making.pop(bucket):
            if result is None:
                made.callback(None)
            else:
                made.errback(result.value)

    async def _create(self, bucket: str) -> None:
        config = {
            "name": f"KV_{bucket}",
            "subjects": [f"$KV.{bucket}.>"],
            "storage": "file",
            "discard": "new",
            "max_msgs": -1,
            "max_msgs_per_subject": 1,
            "max_consumers": -1,
            "num_replicas": self._replicas,
            "duplicate_window": 120_000_000_000,
            "deny_delete": True,
            "allow_rollup_hdrs": True,
            "allow_msg_ttl": True,
            "allow_direct": True,
        }
        answer = await self._api("CREATE", bucket, config)
        error = answer.get("error")
        if error is not None and error.get("err_code") == _NAME_IN_USE:
            answer = await self._api("INFO", bucket, {})
            if "error" not in answer and not answer["config"].get("allow_direct"):
                answer = await self._api("UPDATE", bucket, {**answer["config"], "allow_direct": True})
            error = answer.get("error")
        if error is not None:
            raise api_error(error)

    async def _api(self, verb: str, bucket: str, body: dict[str, Any]) -> dict[str, Any]:
        return decode_json(await self._ask(f"$JS.API.STREAM.{verb}.KV_{bucket}", json.dumps(body).encode()))

    # -- asking

    def _ask(self, subject: str, payload: bytes = b"", head: bytes = b"") -> Deferred[Message]:
        size = len(payload)
        if self._waiting >= MAX_WAITING or self._waiting_bytes + size > MAX_WAITING_BYTES:
            return fail(BusUnavailable("too many requests wait for the message bus"))
        self._waiting += 1
        self._waiting_bytes += size
        return self._link.request(subject, payload, head=head, timeout=_ANSWER_SECONDS).addBoth(self._answered, size)

    def _answered(self, result: Any, size: int) -> Any:
        self._waiting -= 1
        self._waiting_bytes -= size
        return result


def _expect(revision: int) -> tuple[str, str]:
    return "Nats-Expected-Last-Subject-Sequence", str(revision)


def _is_marker(head: bytes) -> bool:
    return wire.header(head, b"KV-Operation") in (b"DEL", b"PURGE")


def _stored(message: Message) -> int:
    """The sequence that a write was acknowledged with."""
    found = _STORED.match(message[4])
    if found is not None:
        return int(found[1])
    answer = decode_json(message)
    if "error" in answer:
        raise api_error(answer["error"])
    try:
        return int(answer["seq"])
    except (KeyError, ValueError):
        raise ProtocolViolation("JetStream acknowledged a write without its place") from None
