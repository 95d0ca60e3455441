"""What the clients of an API key may still publish on this node, and what it costs them.

The gateway asks an :class:`Allowance` before it publishes, and tells the :class:`Bill` what became of it: a message is
paid for once the bus has it, and one that was refused, failed or was a repetition costs nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol
from weakref import WeakValueDictionary

from flowgate.auth.permissions import Principal
from flowgate.errors import Refused

UNIT_BYTES = 4096
"""A message costs one unit for each started 4 KiB of its payload, and one at least."""


def units_of(payloads: Sequence[bytes]) -> int:
    """What messages cost, in units."""
    return sum((len(payload) + UNIT_BYTES - 1) // UNIT_BYTES or 1 for payload in payloads)


class Bill:
    """What messages that are about to be published cost; either :meth:`pay` or :meth:`drop` ends it.

    :ivar count: how many messages may be published: the first ones of those that were asked for.
    :ivar units: what they cost together.
    :ivar refusal: why the others may not be; ``None`` if all may.
    """

    __slots__ = ("allowance", "count", "refusal", "units")

    def __init__(self, allowance: Allowance, count: int, units: int, refusal: Refused | None = None) -> None:
        self.allowance = allowance
        self.count = count
        self.units = units
        self.refusal = refusal

    def pay(self) -> None:
        """The messages are stored."""
        self.allowance.charge(self)

    def drop(self) -> None:
        """Nothing was stored, or nothing new."""
        self.allowance.release(self)


class Allowance:
    """The allowance of one API key on one node; this one has no bounds and counts what is used.

    :ivar limited: whether :meth:`take` can refuse anything, or have anybody wait.
    :ivar used: units paid since the start.
    """

    __slots__ = ("__weakref__", "used")

    limited = False

    def __init__(self) -> None:
        self.used = 0

    def take(self, payloads: Sequence[bytes], *, patient: bool = False) -> Bill:
        """Ask for leave to publish messages, in their order.

        :param patient: whether the publisher reads no further for as long as :meth:`wait` says, so that a rate which
            is exceeded is no reason to refuse (MQTT has no word for that).
        :returns: for how many of the messages there is leave; none at all is no error here.
        """
        return Bill(self, len(payloads), units_of(payloads))

    def take_small(self, count: int) -> Bill:
        """The same for messages of one unit each, if the allowance is not :attr:`limited`."""
        return Bill(self, count, count)

    def take_one(self, payload: bytes) -> Bill:
        """Ask for leave to publish one message.

        :raises RateLimited, LimitReached, InsufficientBalance: if there is none.
        """
        bill = self.take((payload,))
        if bill.refusal is not None:
            raise bill.refusal
        return bill

    def wait(self) -> float:
        """Seconds for which a patient publisher is to read no further."""
        return 0.0

    def charge(self, bill: Bill) -> None:
        """See :meth:`Bill.pay`."""
        self.used += bill.units

    def release(self, bill: Bill) -> None:
        """See :meth:`Bill.drop`."""


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
