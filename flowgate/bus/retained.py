"""The retained messages: a stream that holds the last one of each topic.

They are found by the server's index of subjects, however many there are: the last messages of up to 1,024 subjects
that match a filter by one request, more of them page by page.  A removal is an empty message that goes by itself after
some minutes and is passed over in reading: until then it says that what comes before it in history is not to be kept.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar, overload

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from zope.interface import implementer

from flowgate.bus import wire
from flowgate.bus.grouping import Grouper, fetched_at, fetched_subject
from flowgate.bus.keeper import QOS, Keeper, Presence, place_of
from flowgate.bus.link import Link, NoResponders
from flowgate.bus.names import RETAINED, filter_subject, topic_subject
from flowgate.bus.reading import PAGE_BYTES, PAGE_MESSAGES, History, TooMuchAtOnce, fetch
from flowgate.bus.stream import StreamSettings
from flowgate.bus.wire import Message
from flowgate.errors import BusUnavailable
from flowgate.gate import Gate
from flowgate.interfaces import IRetained
from flowgate.message import Cursor, RetainedPage, Run
from flowgate.topics import Namespace, Topic

_PAGES_AT_ONCE = 32
_LATE_SECONDS = 0.05
_LATE_LOOKS = 40  # after so many the replica that answers is too far behind
_T = TypeVar("_T")


@attrs.frozen(slots=True)
class RetainedSettings(StreamSettings):
    """What the stream keeps: one message per topic, for ever."""

    name: str = "FG_RETAINED"
    per_topic: int = 1
    max_age: int = 0

    def config(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "subjects": [f"fg.{RETAINED}.>"],
            "retention": "limits",
            "storage": "file",
            "discard": "old",
            "max_msgs_per_subject": self.per_topic,
            "num_replicas": self.replicas,
            "allow_direct": True,
            "allow_msg_ttl": True,
        }


class _Places(Sequence[Cursor | None]):
    """The places in history of a page's messages; read from the headers when somebody asks, since most do not."""

    __slots__ = ("_heads",)

    def __init__(self, heads: list[bytes]) -> None:
        self._heads = heads

    def __len__(self) -> int:
        return len(self._heads)

    @overload
    def __getitem__(self, index: int) -> Cursor | None: ...
    @overload
    def __getitem__(self, index: slice) -> list[Cursor | None]: ...
    def __getitem__(self, index: int | slice) -> Cursor | list[Cursor | None] | None:
        if isinstance(index, slice):
            return [place_of(head) for head in self._heads[index]]
        return place_of(self._heads[index])


@implementer(IRetained)
class JetStreamRetained:
    """:class:`IRetained` over a stream of its own, on the connection of the topics."""

    def __init__(self, reactor: Any, link: Link, *, replicas: int = 1) -> None:
        """Describe the store; the stream is made when it is needed first.

        :param reactor: IReactorTime.
        :param replicas: servers that hold each message.
        """
        self._reactor = reactor
        self._link = link
        self._settings = RetainedSettings(replicas=replicas)
        self._presence = Presence(link, self._settings)
        self._grouper = Grouper()
        self._history = History(reactor, link, self._settings, self._grouper)
        self._keeper = Keeper(reactor, link, self._settings.name, self._presence)
        # However many readers begin at once: the others wait for their turn, not in the server's queues.
        self._pages = Gate(_PAGES_AT_ONCE)

    def put(
        self, topic: Topic, payload: bytes, qos: int, ttl: int | None = None, place: Cursor | None = None
    ) -> Deferred[None]:
        return self._keeper.put(topic_subject(RETAINED, topic), payload, qos, ttl, place)

    async def _there(self, read: Callable[[], Awaitable[_T]]) -> _T:
        """What ``read`` gives, once the stream is there."""
        await self._presence.ensure()
        try:
            return await read()
        except NoResponders:
            self._presence.there = False
            await self._presence.ensure()
            return await read()

    def _fetched(self, message: Message) -> Run:
        sequence, time = fetched_at(message)
        _, topic = self._grouper.known_as(fetched_subject(message))
        qos = wire.header(message[3], QOS)
        return Run(
            topic,
            [message[4]],
            qos=int(qos) if qos in (b"1", b"2") else 0,
            sequences=[sequence],
            times=[time],
            retain=True,
        )

    # -- pages

    def page(
        self, namespace: Namespace, filter_: str, after: int = 0, limit: int = PAGE_MESSAGES
    ) -> Deferred[RetainedPage]:
        return Deferred.fromCoroutine(self._page(filter_subject(RETAINED, namespace, filter_), after, limit))

    async def _page(self, subject: str, after: int, limit: int) -> RetainedPage:
        late = 0

        async def read() -> tuple[list[Message], bool]:
            asked = min(limit, PAGE_MESSAGES)
            return await self._pages.run(lambda: Deferred.fromCoroutine(self._read(subject, after, asked)))

        while True:
            messages, more = await self._there(read)
            runs: list[Run] = []
            heads: list[bytes] = []
            for message in messages:
                if message[4]:
                    runs.append(self._fetched(message))
                    heads.append(message[3])
            if messages:
                after, _ = fetched_at(messages[-1])
            if not more and self._settings.replicas > 1:
                more = await self._history.following(subject, after) > 0
                if more and not messages:  # a replica that lags behind has answered
                    late += 1
                    if late > _LATE_LOOKS:
                        raise BusUnavailable("a replica of the retained messages is far behind")
                    await deferLater(self._reactor, _LATE_SECONDS)
            if runs or not more:
                return RetainedPage(runs, after if more else None, _Places(heads))

    async def _read(self, subject: str, after: int, limit: int) -> tuple[list[Message], bool]:
        body: dict[str, object] = {"batch": limit, "max_bytes": PAGE_BYTES}
        if not after and ("*" in subject or ">" in subject):
            # By the index of subjects, at a cost that depends on what matches: looking for the next match of a
            # wildcard goes through all that others keep.
            try:
                messages, more = await self._fetch({**body, "multi_last": [subject]})
            except TooMuchAtOnce:
                pass
            else:
                if _whole(messages, more):
                    return messages, more
        return await self._fetch({**body, "seq": after + 1, "next_by_subj": subject})

    def _fetch(self, body: dict[str, object]) -> Deferred[tuple[list[Message], bool]]:
        return fetch(self._reactor, self._link, self._settings.name, body)

    # -- single messages

    def fetch(self, sequences: Sequence[int]) -> Deferred[dict[int, Run]]:
        return Deferred.fromCoroutine(self._fetch_all(sequences))

    async def _fetch_all(self, sequences: Sequence[int]) -> dict[int, Run]:
        found = await self._there(lambda: self._history.at_sequences(sequences))
        # An empty one is a removal.
        return {sequence: self._fetched(message) for sequence, message in found.items() if message[4]}


def _whole(messages: list[Message], more: bool) -> bool:
    """Whether an answer of last messages lacks none: each says how many follow it."""
    if more or not messages:
        return True
    return int(wire.header(messages[0][3], b"Nats-Num-Pending") or b"-1") == len(messages) - 1
