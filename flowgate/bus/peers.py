"""Small messages between the nodes of a gateway, by core NATS: nothing is stored, nothing is sent twice.

A question goes to ``fg.node.<node>.<verb>``, what all are told to ``fg.nodes.<verb>``.  A node listens only to verbs
that it has a handler for, and NATS says at once when nobody listens.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from twisted.internet.defer import Deferred, fail
from twisted.logger import Logger
from zope.interface import implementer

from flowgate.bus import wire
from flowgate.bus.link import Link, NoResponders
from flowgate.bus.wire import Message
from flowgate.errors import BusUnavailable, MessageTooLarge, NotFound
from flowgate.interfaces import IPeers

MAX_QUESTIONS = 10_000
"""Questions of others that may wait for their answer here; more are left without one."""

_NODE = re.compile(r"[0-9A-Za-z]{1,64}\Z")
_HEADER_ROOM: Final = 256


@implementer(IPeers)
class LinkPeers:
    """:class:`IPeers` on the link; what was told or asked while the link is down is lost."""

    _log = Logger()

    def __init__(self, link: Link, *, shared: bool = True) -> None:
        """Take part.

        :param link: the way to the others; it hears nothing that it says itself.
        :param shared: whether there may be other nodes on the same NATS servers.
        """
        self.node = link.nonce
        self._link = link
        self.alone = not shared
        self._shared = shared
        self._questions = 0

    def answer(self, verb: str, handler: Callable[[bytes], Deferred[bytes]]) -> None:
        def asked(messages: list[Message]) -> None:
            for message in messages:
                self._asked(verb, handler, message)

        if self._shared:
            self._link.subscribe(f"fg.node.{self.node}.{verb}", asked)

    def _asked(self, verb: str, handler: Callable[[bytes], Deferred[bytes]], message: Message) -> None:
        if self._questions >= MAX_QUESTIONS:
            self._log.warn("too many questions of other nodes wait for an answer: {verb} gets none", verb=verb)
            return
        self._questions += 1
        Deferred.fromCoroutine(self._answer(verb, handler, message[4], message[2]))

    async def _answer(
        self, verb: str, handler: Callable[[bytes], Deferred[bytes]], question: bytes, reply: bytes
    ) -> None:
        try:
            answer = await handler(question)
            self._check_size(answer)
            if reply:
                self._link.write(wire.publish(reply, answer))
        except BusUnavailable:
            self._log.debug("a question of another node has no answer while the bus is away: {verb}", verb=verb)
        except Exception:
            self._log.failure("a question of another node has no answer: {verb}", verb=verb)
        finally:
            self._questions -= 1

    def ask(self, node: str, verb: str, payload: bytes = b"", timeout: float = 5.0) -> Deferred[bytes]:
        if not self._shared or not _NODE.match(node):
            return fail(NotFound("no such node is connected"))
        return Deferred.fromCoroutine(self._ask(f"fg.node.{node}.{verb}", payload, timeout))

    async def _ask(self, subject: str, payload: bytes, timeout: float) -> bytes:
        self._check_size(payload)
        try:
            return (await self._link.request(subject, payload, timeout=timeout))[4]
        except NoResponders:
            raise NotFound("no such node is connected") from None

    def tell(self, verb: str, payload: bytes) -> None:
        self._check_size(payload)
        if self._shared and self._link.up:
            self._link.write(wire.publish(f"fg.nodes.{verb}".encode(), payload))

    def hear(self, verb: str, handler: Callable[[bytes], None]) -> None:
        def told(messages: list[Message]) -> None:
            for message in messages:
                self._told(verb, handler, message[4])

        if self._shared:
            self._link.subscribe(f"fg.nodes.{verb}", told)

    def _told(self, verb: str, handler: Callable[[bytes], None], payload: bytes) -> None:
        try:
            handler(payload)
        except Exception:
            # What one message does must not keep the others of the same read from being heard.
            self._log.failure("a handler of what other nodes tell failed: {verb}", verb=verb)

    def _check_size(self, payload: bytes) -> None:
        most = self._link.info.get("max_payload", 0) - _HEADER_ROOM
        if len(payload) > most > 0:
            raise MessageTooLarge(f"the message bus takes at most {most} bytes")
