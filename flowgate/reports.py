"""Numbered reports that nodes give each other: what was heard of another node, and whether that is all there is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import TypeVar

from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from flowgate.interfaces import IPeers

_log = Logger()

_T = TypeVar("_T")


class Telling:
    """Tells the other nodes something at regular times, and hears what they tell.

    :ivar running: whether it has been started and not stopped.
    """

    def __init__(
        self,
        peers: IPeers,
        clock: IReactorTime,
        verb: str,
        seconds: float,
        tell: Callable[[], None],
        heard: Callable[[bytes], None],
    ) -> None:
        """Prepare; nothing happens before :meth:`start`.

        :param verb: under which that goes.
        :param seconds: how often ``tell`` is called; the first time at the start.
        :param heard: is called with what another node tells.
        """
        self._peers = peers
        self._verb = verb
        self._seconds = seconds
        self._tell = tell
        self._heard = heard
        self._loop = LoopingCall(self._tick)
        self._loop.clock = clock

    @property
    def running(self) -> bool:
        return bool(self._loop.running)

    def start(self) -> None:
        """Tell and hear from now on."""
        self._peers.hear(self._verb, self._heard)
        self._loop.start(self._seconds)

    def stop(self, last: Callable[[], bytes]) -> None:
        """Tell no more but ``last``: the other nodes need not wait for this one's silence."""
        if self._loop.running:
            self._loop.stop()
            if not self._peers.alone:
                self._peers.tell(self._verb, last())

    def _tick(self) -> None:
        try:
            self._tell()
        except Exception:
            # The next time is tried again: a looping call would end with this one.
            _log.failure("the other nodes could not be told: {verb}", verb=self._verb)


class Heard:
    """How much of another node's reports was heard.

    Reports are numbered one by one; each says with which of them the node began to tell everything (its base).

    :ivar since: the first report of those that were heard without a gap.
    :ivar last: the last one.
    :ivar heard: when that was, in the clock's seconds.
    """

    __slots__ = ("base", "heard", "last", "since")

    def __init__(self) -> None:
        self.base = 0
        self.since = 0
        self.last = -1
        self.heard = 0.0

    @property
    def complete(self) -> bool:
        """Whether everything is known that the node has to tell."""
        return self.since <= self.base

    def note(self, number: int, base: int, now: float) -> bool:
        """Hear a report; say whether the node begins with it to tell everything anew."""
        if number != self.last + 1:
            self.since = number
        self.base, self.last, self.heard = base, number, now
        return number == base


def in_parts(items: Iterable[_T], most: int) -> Iterator[list[_T]]:
    """Split what there is to tell, at most so much in one report; one part at least, because silence means death."""
    left = iter(items)
    part = list(islice(left, most))
    while True:
        yield part
        part = list(islice(left, most))
        if not part:
            return
