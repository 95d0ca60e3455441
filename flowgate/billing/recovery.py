"""Finding out what a node has spent that can no longer tell.

Messages carry into the stream by whom and between which two changes of the account's record they were paid for
(:attr:`flowgate.message.Run.tag`).  What the record does not know yet is counted there, as long as history holds it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from flowgate.allowances import UNIT_BYTES
from flowgate.billing.account import Lease
from flowgate.billing.plans import Plan
from flowgate.errors import BusUnavailable, NotFound
from flowgate.interfaces import IPeers, ITagged

_log = Logger()

VERB: Final = "billing"

_MARK_SECONDS: Final = 5.0
_ALIVE_SECONDS: Final = 5.0
_ANSWER_SECONDS: Final = 2.0
MISSED_SECONDS: Final = 2.0
"""How long a node has to be missed to be taken for dead."""
_REMEMBERED: Final = 1000


class Recovery:
    """Looks for nodes that are gone, and for what they have left."""

    def __init__(
        self,
        tagged: ITagged,
        peers: IPeers,
        clock: IReactorTime,
        reach: Callable[[str], set[tuple[str, str]]],
    ) -> None:
        """Be ready to look.

        :param reach: tells the user and the application of topics of others that a user's keys may publish to.
        """
        self._tagged = tagged
        self._peers = peers
        self._clock = clock
        self._reach = reach
        self._mark = (0, float("-inf"))
        self._alive: dict[str, float] = {}
        self._missed: dict[str, float] = {}

    async def mark(self) -> int:
        """A place in the stream that lies before everything that is published from now on.

        :raises BusUnavailable: if the stream cannot be looked at.
        """
        place, at = self._mark
        now = self._clock.seconds()
        if now - at < _MARK_SECONDS:
            return place  # lies before it, too
        place = await self._tagged.mark()
        self._mark = place, now
        return place

    async def dead(self, node: str) -> bool:
        """Whether another node is gone: nobody has answered to its name for a while."""
        if self._peers.alone:
            return True
        now = self._clock.seconds()
        if self._alive.get(node, float("-inf")) > now - _ALIVE_SECONDS:
            return False
        try:
            await self._peers.ask(node, VERB, timeout=_ANSWER_SECONDS)
        except NotFound:
            # Not at once: what it has sent may still be on its way into the stream.
            if len(self._missed) > _REMEMBERED:
                self._missed.clear()
            return self._clock.seconds() - self._missed.setdefault(node, now) >= MISSED_SECONDS
        except BusUnavailable:
            pass  # it may be busy, and is not asked again at once: whoever needs units would wait for it each time
        else:
            self._missed.pop(node, None)
        if len(self._alive) > _REMEMBERED:
            self._alive.clear()
        self._alive[node] = self._clock.seconds()
        return False

    async def spent(self, user: str, node: str, lease: Lease, plan: Plan) -> int:
        """Units that a node has spent besides what it has told.

        :raises BusUnavailable: if the stream cannot be read.
        """
        found = await self.count(user, node, lease.mark, lease.counts) if plan.traced else {}
        units = sum(found.values())
        units = max(0, units * plan.publish_price - lease.paid)
        if plan.limited:
            units = min(units, lease.granted - lease.closed)
        if units:
            _log.info("{units} units of {user} are charged that a node has not told of", units=units, user=user)
        return units

    async def count(self, user: str, node: str, mark: int, counts: Callable[[int], bool]) -> dict[int, int]:
        """Units of the messages that a user has published through a node, by their tags.

        :param mark: a place that lies before all of them.
        :param counts: tells the numbers of the tags that are meant.
        :raises BusUnavailable: if the stream cannot be read.
        """
        units: dict[int, int] = {}
        prefix = f"{node}."

        def take(tag: str, size: int) -> None:
            if not tag.startswith(prefix):
                return
            text, _, run = tag[len(prefix) :].partition("=")  # the last message of a run speaks for all
            if text.isdigit() and counts(number := int(text)):
                more = int(run) if run.isdigit() else (size + UNIT_BYTES - 1) // UNIT_BYTES or 1
                units[number] = units.get(number, 0) + more

        places = {(user, ""), *(place for place in self._reach(user) if place[0] != user)}
        for owner, app in sorted(places):
            await self._tagged.read(owner, app, mark, take)
        return units
