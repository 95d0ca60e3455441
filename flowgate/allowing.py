"""What a client may publish: as fast as its rates permit, and as much as its account's purse has."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, cast
from weakref import WeakValueDictionary

from twisted.internet.defer import Deferred

from flowgate.allowances import UNIT_BYTES, Allowance, Bill, Identity, units_of
from flowgate.auth.permissions import Principal
from flowgate.billing.charges import Charge
from flowgate.billing.purse import Purse
from flowgate.errors import Refused
from flowgate.limits import Standing


class IPace(Protocol):
    """How fast a client may publish."""

    @property
    def bounded(self) -> bool:
        """Whether there is any bound."""

    def take_all(self, count: int, size: int, now: float) -> bool:
        """Take messages if there is plenty of room for all of them; else nothing happens.

        :param size: bytes of all of them.
        :param now: the clock's seconds.
        """

    def take(self, count: int, sizes: Callable[[], Sequence[int]], patient: bool = False) -> int:
        """Take messages, as many of the first ones as there is room for.

        :param sizes: finds their sizes in bytes, if these matter.
        """

    def wait(self) -> float:
        """Seconds until the client may publish one message more."""

    def refusal(self) -> Refused:
        """Why a client may not publish now."""

    def standings(self) -> tuple[Standing, ...]:
        """Where the client stands."""


class AccountAllowance(Allowance):
    """The allowance of one client: its rates are asked first, then the purse of its account.

    What the purse refuses has been within the rate, and counts there.
    """

    __slots__ = ("_key", "pace", "purse")

    def __init__(self, purse: Purse, key: str, pace: IPace | None = None) -> None:
        """Put the two together.

        :param key: the id of the API key, for the account's own statement.
        """
        super().__init__()
        self._key = key
        self.purse = purse
        self.pace = pace

    @property
    def limited(self) -> bool:
        return self.purse.limited or (self.pace is not None and self.pace.bounded)

    def ready(self, payloads: Sequence[bytes]) -> Deferred[None] | None:
        return self.purse.ready(units_of(payloads) * self.purse.price)

    def ready_for(self, count: int, largest: int, payloads: Callable[[], Sequence[bytes]]) -> Deferred[None] | None:
        units = count if largest <= UNIT_BYTES else units_of(payloads())
        return self.purse.ready(units * self.purse.price)

    def take_all(self, count: int, largest: int, size: int, *, traced: bool = True) -> Bill | None:
        if largest > UNIT_BYTES:
            return None
        purse, pace = self.purse, self.pace
        units = count * purse.price
        now = purse.now()
        tag = purse.give(units, now, traced)
        if tag is None:
            return None
        bill = Charge(self, self._key, count, units, tag)
        if pace is not None and not pace.take_all(count, size, now):
            purse.drop(bill)
            return None
        return bill

    def take_one(self, payload: bytes) -> Bill:
        size = len(payload)
        return self.take_all(1, size, size) or super().take_one(payload)

    def take(self, payloads: Sequence[bytes], *, patient: bool = False) -> Bill:
        return self._take(payloads, patient, True)

    def take_untraced(self, payload: bytes) -> Bill:
        bill = self._take((payload,), False, False)
        if bill.refusal is not None:
            raise bill.refusal
        return bill

    def _take(self, payloads: Sequence[bytes], patient: bool, traced: bool) -> Bill:
        paced, refusal = self._paced(len(payloads), lambda: payloads, patient)
        payloads = payloads[:paced]
        purse = self.purse
        price = purse.price
        count, units = purse.fitting([units_of((payload,)) * price for payload in payloads])
        if count < len(payloads):
            refusal = purse.refusal()
        return Charge(self, self._key, count, units, purse.hand_out(units, traced), refusal)

    def take_run(
        self, count: int, largest: int, payloads: Callable[[], Sequence[bytes]], *, patient: bool = False
    ) -> Bill:
        if largest > UNIT_BYTES:
            return self.take(payloads(), patient=patient)
        count, refusal = self._paced(count, payloads, patient)
        purse = self.purse
        price = purse.price
        if purse.limited and count * price > purse.left:
            count = max(0, purse.left) // price
            refusal = purse.refusal()
        return Charge(self, self._key, count, count * price, purse.hand_out(count * price), refusal)

    def _paced(self, count: int, payloads: Callable[[], Sequence[bytes]], patient: bool) -> tuple[int, Refused | None]:
        """How many of the first messages the rates permit, and why not the others."""
        pace = self.pace
        if pace is None or not pace.bounded:
            return count, None
        paced = pace.take(count, lambda: [len(payload) for payload in payloads()], patient)
        return paced, None if paced == count else pace.refusal()

    def wait(self) -> float:
        return 0.0 if self.pace is None else self.pace.wait()

    def standings(self) -> tuple[Standing, ...]:
        return () if self.pace is None else self.pace.standings()

    def charge(self, bill: Bill) -> None:
        self.used += bill.units
        self.purse.pay(bill)  # type: ignore[arg-type]  # it is one of our own; a cast would cost as much as the rest

    def release(self, bill: Bill) -> None:
        self.purse.drop(cast(Charge, bill))

    def doubt(self, bill: Bill, payloads: Sequence[bytes], identities: Sequence[Identity]) -> None:
        self.purse.doubt(cast(Charge, bill), payloads, identities)

    def settle(self, identity: Identity, duplicate: bool) -> None:
        if self.purse.doubts:
            self.purse.settle(identity, duplicate)


class AccountAllowances:
    """The allowances of all clients of this node."""

    def __init__(
        self,
        purse: Callable[[str], Purse],
        pace: Callable[[Principal], IPace | None] = lambda _principal: None,
    ) -> None:
        """Know where to find what they are made of.

        :param purse: finds the purse of a user: one object for as long as somebody keeps it.
        :param pace: finds the pace of a client.
        """
        self._purse = purse
        self._pace = pace
        self._known: WeakValueDictionary[tuple[str, str], AccountAllowance] = WeakValueDictionary()

    def of(self, principal: Principal) -> Allowance:
        """See :meth:`IAllowances.of`; one for each token."""
        who = principal.key_id, principal.token_id
        found = self._known.get(who)
        if found is None:
            allowance = AccountAllowance(self._purse(principal.user), principal.key_id, self._pace(principal))
            found = self._known[who] = allowance
        return found
