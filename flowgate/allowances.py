"""What the clients of an API key may still publish on this node, and what it costs them.

The gateway asks an :class:`Allowance` before it publishes, and tells the :class:`Bill` what became of it: a message is
paid for once the bus has it, and one that was refused, failed or was a repetition costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias
from weakref import WeakValueDictionary

from twisted.internet.defer import Deferred

from flowgate.auth.permissions import Principal
from flowgate.errors import Refused
from flowgate.limits import Standing
from flowgate.topics import Namespace

UNIT_BYTES = 4096
"""A message costs one unit for each started 4 KiB of its payload, and one at least."""


Identity: TypeAlias = tuple[Namespace, str]
"""Names a message that may be published again: by where its id is known, and the id."""


def units_of(payloads: Sequence[bytes]) -> int:
    """What messages cost, in units."""
    return sum((len(payload) + UNIT_BYTES - 1) // UNIT_BYTES or 1 for payload in payloads)


class Bill:
    """What messages that are about to be published cost; either :meth:`pay` or :meth:`drop` ends it.

    :ivar count: how many messages may be published: the first ones of those that were asked for.
    :ivar units: what they cost together.
    :ivar refusal: why the others may not be; ``None`` if all may.
    :ivar tag: what they are to carry into the stream, so that it can be found there who has to pay; may be empty.
    """

    __slots__ = ("allowance", "count", "refusal", "tag", "units")

    def __init__(
        self, allowance: Allowance, count: int, units: int, refusal: Refused | None = None, tag: str = ""
    ) -> None:
        self.allowance = allowance
        self.count = count
        self.units = units
        self.refusal = refusal
        self.tag = tag

    @property
    def weight(self) -> int:
        """The units of the messages, whatever they are priced at."""
        return self.units

    def pay(self) -> None:
        """The messages are stored."""
        self.allowance.charge(self)

    def drop(self) -> None:
        """Nothing was stored, or nothing new."""
        self.allowance.release(self)

    def each(self) -> list[Bill]:
        """Several bills in the place of this one, each for one message; only if all of them cost the same."""
        return [Bill(self.allowance, 1, self.units // self.count, None, self.tag) for _ in range(self.count)]

    def doubt(self, payloads: Sequence[bytes], identities: Sequence[Identity]) -> None:
        """Nobody knows whether the messages are stored.

        :param identities: what they will be published again under, if they will; empty if they have no ids.
        """
        self.allowance.doubt(self, payloads, identities)


class Allowance:
    """The allowance of one API key on one node; this one has no bounds and counts what is used.

    :ivar limited: whether :meth:`take` can refuse anything, or have anybody wait.
    :ivar used: units paid since the start.
    """

    __slots__ = ("__weakref__", "used")

    def __init__(self) -> None:
        self.used = 0

    @property
    def limited(self) -> bool:
        return False

    def ready(self, payloads: Sequence[bytes]) -> Deferred[None] | None:
        """Learn whether :meth:`take` can decide now.

        Who waits is served in the order of the calls, and asks :meth:`take` as soon as the Deferred fires.

        :returns: ``None`` if it can; or a Deferred of ``None``, fired once it can, which does not fail.
        """
        return None

    def ready_for(self, count: int, largest: int, payloads: Callable[[], Sequence[bytes]]) -> Deferred[None] | None:
        """The same for a run; see :meth:`take_run`."""
        return None

    def take(self, payloads: Sequence[bytes], *, patient: bool = False) -> Bill:
        """Ask for leave to publish messages, in their order.

        :param patient: whether the publisher reads no further for as long as :meth:`wait` says, so that a rate which
            is exceeded is no reason to refuse (MQTT has no word for that).
        :returns: for how many of the messages there is leave; none at all is no error here.
        """
        return Bill(self, len(payloads), units_of(payloads))

    def take_run(
        self, count: int, largest: int, payloads: Callable[[], Sequence[bytes]], *, patient: bool = False
    ) -> Bill:
        """The same for a run.

        :param largest: bytes of the largest payload.
        :param payloads: finds the payloads, if they have to be looked at.
        """
        if largest <= UNIT_BYTES and not self.limited:
            return Bill(self, count, count)
        return self.take(payloads(), patient=patient)

    def take_all(self, count: int, largest: int, size: int, *, traced: bool = True) -> Bill | None:
        """Ask for leave to publish several messages if that can be given at once, for all of them, at a low cost.

        :param largest: bytes of the largest payload.
        :param size: bytes of all payloads.
        :param traced: whether the messages go into the stream of the topics.
        :returns: a bill without a refusal, each message of which costs the same; ``None`` if :meth:`ready` and
            :meth:`take` have to be asked, which says nothing about the leave.
        """
        return Bill(self, count, count) if largest <= UNIT_BYTES and not self.limited else None

    def take_one(self, payload: bytes) -> Bill:
        """Ask for leave to publish one message.

        :raises RateLimited, LimitReached, InsufficientBalance: if there is none.
        """
        bill = self.take((payload,))
        if bill.refusal is not None:
            raise bill.refusal
        return bill

    def take_untraced(self, payload: bytes) -> Bill:
        """The same for a message that does not go into the stream of the topics.

        :raises RateLimited, LimitReached, InsufficientBalance: if there is no leave.
        """
        return self.take_one(payload)

    def wait(self) -> float:
        """Seconds for which a patient publisher is to read no further."""
        return 0.0

    def standings(self) -> tuple[Standing, ...]:
        """Where the client stands with its rates."""
        return ()

    def charge(self, bill: Bill) -> None:
        """See :meth:`Bill.pay`."""
        self.used += bill.units

    def release(self, bill: Bill) -> None:
        """See :meth:`Bill.drop`."""

    def doubt(self, bill: Bill, payloads: Sequence[bytes], identities: Sequence[Identity]) -> None:
        """See :meth:`Bill.doubt`."""
        self.release(bill)

    def settle(self, identity: Identity, duplicate: bool) -> None:
        """A message with an id is stored, now or before: if there was a doubt about it, that is over.

        :param duplicate: whether it was before: then what was in doubt is paid for.
        """


class IAllowances(Protocol):
    """Who knows the allowances."""

    def of(self, principal: Principal) -> Allowance:
        """The allowance of a principal's API key: one object, for as long as somebody keeps it."""


class Unlimited:
    """Allowances without bounds."""

    def __init__(self) -> None:
        self._known: WeakValueDictionary[str, Allowance] = WeakValueDictionary()

    def of(self, principal: Principal) -> Allowance:
        """See :meth:`IAllowances.of`."""
        found = self._known.get(principal.key_id)
        if found is None:
            found = self._known[principal.key_id] = Allowance()
        return found


FREE = Allowance()
"""For what the gateway publishes by itself, and for what was paid before."""
