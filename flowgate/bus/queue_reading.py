"""Reading the log of a queue: its state, its heads in one pass, its checkpoints."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

import attrs
from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IDelayedCall
from twisted.python.failure import Failure

from flowgate.bus import wire
from flowgate.bus.bridge import api_error
from flowgate.bus.link import Link, decode_json
from flowgate.bus.reading import History
from flowgate.bus.wire import Message
from flowgate.errors import BusUnavailable, NotFound

MESSAGE: Final = b"m"
"""The last token of the subject of entries that carry the bodies of messages."""
ENTRY: Final = b"e"
"""The same, of entries without a payload."""
CHUNK: Final = b"c"
"""The same, of a part of a checkpoint."""
POINTER: Final = b"p"
"""The same, of what says where the newest checkpoint is; there is one at most."""
GONE: Final = b"gone"
"""The last token of what nodes tell each other when the log was removed; beside what the stream republishes."""

_BATCH: Final = 256  # without a bound of bytes: a request that meets it exactly ends without a word
_ANSWER_SECONDS: Final = 5.0
_IDLE_SECONDS: Final = 30
_TRY_SECONDS: Final = 0.05
_TRIES: Final = 20
_NO_MESSAGE: Final = 10037
_CHUNKS_AT_ONCE: Final = 4
_SECOND: Final = 1_000_000_000
_HEAD: Final = b"\r\nFG-Q: "


def entry_head(raw: bytes) -> bytes:
    """What the state machine reads of an entry, out of its block of headers."""
    start = raw.find(_HEAD)
    if start < 0:
        return b""
    start += len(_HEAD)
    return raw[start : raw.find(b"\r\n", start)]


def out_subject(root: str) -> str:
    """Where the stream republishes what lies under ``root``."""
    return root.replace("fg.q.", "fg.qo.", 1)


def log_root(config: Mapping[str, Any]) -> str:
    """The subject that all entries lie under, by the configuration of their stream.

    :raises BusUnavailable: if the stream is not one of ours.
    """
    subjects = config.get("subjects") or [""]
    root = str(subjects[0]).removesuffix(".>")
    if not root.startswith("fg.q.") or root.count(".") != 5:
        raise BusUnavailable("a stream that is not a queue's log has its name")
    return root


@attrs.frozen(slots=True)
class LogState:
    """What the leader of a log's stream knows.

    :ivar root: the subject that all entries lie under; it holds a token that no other log ever had.
    :ivar last: the newest sequence that was given.
    """

    root: str
    last: int
    replicas: int


@attrs.frozen(slots=True)
class Pointer:
    """Where a checkpoint is.

    :ivar place: the pointer's own sequence; 0 for none at all.
    :ivar upto: the entry whose state it describes.
    :ivar chunks: the sequences of its parts.
    """

    place: int = 0
    upto: int = 0
    chunks: Sequence[int] = ()

    @classmethod
    def parse(cls, place: int, data: bytes) -> Pointer:
        members = json.loads(data)
        return cls(place, int(members["upto"]), tuple(map(int, members["chunks"])))

    def dump(self) -> bytes:
        return json.dumps({"upto": self.upto, "chunks": list(self.chunks)}, separators=(",", ":")).encode()


async def log_state(link: Link, stream: str) -> LogState:
    """Ask the leader of a log's stream.

    :raises NotFound: if there is no such stream.
    :raises BusUnavailable: if JetStream does not answer.
    """
    answer = decode_json(await link.request(f"$JS.API.STREAM.INFO.{stream}", b""))
    if "error" in answer:
        raise api_error(answer["error"])
    config = answer["config"]
    return LogState(log_root(config), int(answer["state"]["last_seq"]), int(config["num_replicas"]))


class LogReader:
    """Asks the leader of a log's stream.

    Every method raises NotFound if there is no such log, and BusUnavailable if JetStream does not answer.

    :ivar stream: its name.
    :ivar root: the subject that all entries lie under.
    """

    def __init__(self, link: Link, stream: str, root: str) -> None:
        self._link = link
        self.stream = stream
        self.root = root

    async def state(self) -> LogState:
        """What the stream holds."""
        state = await log_state(self._link, self.stream)
        if state.root != self.root:
            raise NotFound("the queue was removed, and made anew")
        return state

    async def _last(self, subject: str) -> dict[str, Any] | None:
        body = json.dumps({"last_by_subj": subject}).encode()
        answer = decode_json(await self._link.request(f"$JS.API.STREAM.MSG.GET.{self.stream}", body))
        if "error" in answer:
            if answer["error"].get("err_code") == _NO_MESSAGE:
                return None
            raise api_error(answer["error"])
        message: dict[str, Any] = answer["message"]
        return message

    async def pointer(self) -> Pointer:
        """The newest checkpoint."""
        message = await self._last(f"{self.root}.{POINTER.decode()}")
        if message is None:
            return Pointer()
        return Pointer.parse(int(message["seq"]), base64.b64decode(message.get("data", "")))

    async def newest(self) -> int:
        """The newest sequence that is still there; 0 if nothing is."""
        message = await self._last(f"{self.root}.>")
        return 0 if message is None else int(message["seq"])


async def read_chunks(history: History, pointer: Pointer) -> bytes | None:
    """The checkpoint that ``pointer`` names; ``None`` if it is gone, because there is a newer one.

    :raises BusUnavailable: if JetStream does not answer.
    """
    parts: list[bytes] = []
    for start in range(0, len(pointer.chunks), _CHUNKS_AT_ONCE):
        some = pointer.chunks[start : start + _CHUNKS_AT_ONCE]
        found = await history.at_sequences(some)
        if len(found) < len(some):
            return None
        parts += [found[sequence][4] for sequence in some]
    return b"".join(parts)


def _expect_away(failure: Failure) -> None:
    if not isinstance(failure.value, BusUnavailable):
        failure.raiseException()


class Heads:
    """One pass over all that a log holds, without bodies: a consumer that lasts only for this."""

    def __init__(self, reactor: Any, link: Link, stream: str) -> None:
        self._reactor = reactor
        self._link = link
        self._stream = stream
        self._token = link.token()
        self._number = 0
        self._tries = 0  # requests that nobody took
        self._messages: list[Message] = []
        self._asked: Deferred[tuple[list[Message], bool]] | None = None
        self._latest: Deferred[tuple[list[Message], bool]] | None = None
        self._timer: IDelayedCall | None = None
        self._closed = False
        # Beside the inbox: messages come under the subject on which they were published.
        self._subscription = link.subscribe(f"{link.inbox}-.{self._token}.*", self._delivered)

    async def begin(self, start: int) -> None:
        """Make the consumer.

        :param start: the first sequence that it gives.
        :raises NotFound: if there is no such stream.
        :raises BusUnavailable: if JetStream does not answer.
        """
        config = {
            "name": self._token,
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": start,
            "ack_policy": "none",
            "replay_policy": "instant",
            "headers_only": True,
            "mem_storage": True,
            "num_replicas": 1,
            "inactive_threshold": _IDLE_SECONDS * _SECOND,
        }
        body = json.dumps({"stream_name": self._stream, "config": config, "action": "create"}).encode()
        subject = f"$JS.API.CONSUMER.CREATE.{self._stream}.{self._token}"
        answer = decode_json(await self._link.request(subject, body))
        if "error" in answer:
            raise api_error(answer["error"])

    def more(self) -> Deferred[tuple[list[Message], bool]]:
        """Ask for the next messages, while nothing else is asked for.

        :returns: a Deferred of the messages, and of whether the replica that answers has no more now.
        :raises BusUnavailable: through the Deferred, also after :meth:`close`.
        """
        if self._closed:
            return fail(BusUnavailable())
        asked = self._asked = self._latest = Deferred(lambda _: self._settle())
        self._messages = []
        self._ask()
        return asked

    def _ask(self) -> None:
        self._number += 1
        body = b'{"batch":%d,"no_wait":true}' % _BATCH
        reply = f"{self._link.inbox}-.{self._token}.{self._number}".encode()
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{self._stream}.{self._token}".encode()
        try:
            self._link.write(wire.publish(subject, body, reply))
        except BusUnavailable as error:
            self._fail(str(error))
        else:
            self._timer = self._reactor.callLater(_ANSWER_SECONDS, self._timed_out)

    def _settle(self) -> None:
        self._asked = None
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None

    def _timed_out(self) -> None:
        self._fail("the message bus does not answer in time")

    def _nobody(self) -> None:
        """In a cluster, it may take a moment until our server knows where a new consumer is."""
        self._tries += 1
        if self._timer is not None and self._tries < _TRIES:
            self._timer.cancel()
            self._timer = self._reactor.callLater(_TRY_SECONDS, self._ask)
        else:
            self._fail("a queue's log cannot be read now")

    def _fail(self, reason: str) -> None:
        asked = self._asked
        self._settle()
        if asked is not None:
            asked.errback(BusUnavailable(reason))

    def _delivered(self, messages: list[Message]) -> None:
        if self._asked is None or self._timer is None:
            return
        self._timer.reset(_ANSWER_SECONDS)
        number = b".%d" % self._number
        for message in messages:
            code = wire.status(message[3])
            if not code:
                self._messages.append(message)
            elif message[1].endswith(number):
                if code in (404, 408):
                    self._answer(True)
                elif code == 503:
                    self._nobody()
                else:
                    self._fail(f"reading a queue's log was refused with status {code}")
                return
        if len(self._messages) >= _BATCH:
            self._answer(False)

    def _answer(self, end: bool) -> None:
        asked, messages = self._asked, self._messages
        self._settle()
        self._messages = []
        if asked is not None:
            asked.callback((messages, end))

    def close(self) -> None:
        """Let go of the consumer."""
        self._closed = True
        if self._latest is not None:
            self._latest.addErrback(lambda _: None)  # nobody waits for it any more
            self._latest.cancel()
        self._link.unsubscribe(self._subscription)
        if self._link.up:
            gone = self._link.request(f"$JS.API.CONSUMER.DELETE.{self._stream}.{self._token}", b"")
            gone.addErrback(_expect_away)  # it goes by itself, only later
