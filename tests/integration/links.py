"""Links to a real nats-server, for the rooms of the bus that need nothing else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase

from flowgate.bus.link import Link


class LinkOwner:
    """Tells a test when its link comes and goes.

    :ivar came: called when the link is up.
    :ivar went: called when it is down.
    """

    def __init__(self) -> None:
        self.came: list[Callable[[], None]] = []
        self.went: list[Callable[[], None]] = []
        self._up: Deferred[None] = Deferred()
        self._down: Deferred[None] = Deferred()

    def up(self) -> Deferred[None]:
        """:returns: a Deferred that fires when the link comes up the next time."""
        return self._up

    def down(self) -> Deferred[None]:
        """:returns: a Deferred that fires when the link goes down the next time."""
        return self._down

    def link_up(self) -> None:
        for call in self.came:
            call()
        up, self._up = self._up, Deferred()
        up.callback(None)

    def link_down(self) -> None:
        for call in self.went:
            call()
        down, self._down = self._down, Deferred()
        down.callback(None)

    def link_drained(self) -> None:
        pass

    def link_settled(self) -> None:
        pass


async def make_link(test: TestCase, url: str, **options: Any) -> tuple[Link, LinkOwner]:
    """A link that is up, and ends with ``test``."""
    from twisted.internet import reactor

    owner = LinkOwner()
    link = Link(reactor, [url], owner, retry_seconds=(0.02, 0.1), **options)
    up = owner.up()
    link.start()
    test.addCleanup(link.stop)
    await up
    return link, owner
