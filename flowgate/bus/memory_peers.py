"""The verified fake of the way between nodes."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from zope.interface import implementer

from flowgate.errors import BusUnavailable, NotFound
from flowgate.interfaces import IPeers


class MemoryPeersHub:
    """What joins the nodes of a test.

    :ivar nodes: the connected ones, by name.
    """

    def __init__(self, clock: IReactorTime) -> None:
        self.clock = clock
        self.nodes: dict[str, MemoryPeers] = {}
        self._made = 0

    def name(self) -> str:
        """A name that no node had before."""
        self._made += 1
        return f"node{self._made}"


@implementer(IPeers)
class MemoryPeers:
    """One node.  Everything happens in a later turn of the clock: ``clock.advance(0)`` makes it happen.

    :ivar alone: for tests to set.
    """

    def __init__(self, hub: MemoryPeersHub) -> None:
        self.node = hub.name()
        self.alone = False
        self._hub = hub
        self._answerers: dict[str, Callable[[bytes], Deferred[bytes]]] = {}
        self._hearers: dict[str, list[Callable[[bytes], None]]] = {}
        self._asked: dict[Deferred[bytes], IDelayedCall] = {}
        hub.nodes[self.node] = self

    # -- controls for tests

    def go_away(self) -> None:
        """Lose the connection: nobody hears this node, and it hears nobody, until :meth:`come_back`."""
        self._hub.nodes.pop(self.node, None)
        while self._asked:
            asked, timer = self._asked.popitem()
            timer.cancel()
            asked.errback(BusUnavailable())

    def come_back(self) -> None:
        """Be connected again."""
        self._hub.nodes[self.node] = self

    @property
    def connected(self) -> bool:
        return self.node in self._hub.nodes

    # -- IPeers

    def answer(self, verb: str, handler: Callable[[bytes], Deferred[bytes]]) -> None:
        self._answerers[verb] = handler

    def ask(self, node: str, verb: str, payload: bytes = b"", timeout: float = 5.0) -> Deferred[bytes]:
        if not self.connected:
            return fail(BusUnavailable())
        asked: Deferred[bytes] = Deferred(self._forget)
        self._asked[asked] = self._hub.clock.callLater(timeout, self._timed_out, asked)
        self._hub.clock.callLater(0, self._reach, asked, node, verb, payload)
        return asked

    def _reach(self, asked: Deferred[bytes], node: str, verb: str, payload: bytes) -> None:
        peer = self._hub.nodes.get(node)
        handler = peer._answerers.get(verb) if peer is not None and peer is not self else None
        if handler is None:
            self._finish(asked, NotFound("no such node is connected"))
        else:
            # One that fails leaves the question without an answer.
            handler(payload).addCallbacks(lambda answer: self._finish(asked, answer), lambda _: None)

    def _finish(self, asked: Deferred[bytes], result: bytes | NotFound) -> None:
        timer = self._asked.pop(asked, None)
        if timer is None:
            return
        timer.cancel()
        if isinstance(result, bytes):
            asked.callback(result)
        else:
            asked.errback(result)

    def _forget(self, asked: Deferred[bytes]) -> None:
        timer = self._asked.pop(asked, None)
        if timer is not None:
            timer.cancel()

    def _timed_out(self, asked: Deferred[bytes]) -> None:
        del self._asked[asked]
        asked.errback(BusUnavailable("the message bus does not answer in time"))

    def tell(self, verb: str, payload: bytes) -> None:
        if self.connected:
            for peer in self._hub.nodes.values():
                if peer is not self:
                    self._hub.clock.callLater(0, peer._told, verb, payload)

    def _told(self, verb: str, payload: bytes) -> None:
        if self.connected:
            for handler in self._hearers.get(verb, ()):
                handler(payload)

    def hear(self, verb: str, handler: Callable[[bytes], None]) -> None:
        self._hearers.setdefault(verb, []).append(handler)
