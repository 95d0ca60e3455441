"""Changing what accounts have paid in advance."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Final

import attrs
from twisted.internet.defer import Deferred

from flowgate.billing.account import Account
from flowgate.billing.books import BALANCES, Books
from flowgate.billing.plans import MOST_UNITS
from flowgate.errors import Conflict, InvalidParameter
from flowgate.interfaces import IJournal

_ID = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")
_PAGE: Final = 1000
_NOTE: Final = 200


@attrs.frozen(slots=True)
class Balance:
    """A balance after a change.

    :ivar changed: whether it was changed now: not if the change's id was used before.
    """

    balance: int
    changed: bool


class Balances:
    """Adds units to balances, and takes them away, each change once."""

    def __init__(
        self, books: Books, journal: IJournal, now: Callable[[], float], refilled: Callable[[str], None]
    ) -> None:
        """Be ready.

        :param refilled: told of the user whose balance was changed.
        """
        self._books = books
        self._journal = journal
        self._now = now
        self._refilled = refilled

    def add(self, user: str, units: int, change_id: str, note: str = "") -> Deferred[Balance]:
        """Change a balance.

        :param units: more, or fewer if it is negative.
        :param change_id: names the change: a second one of the same id changes nothing, for ever.
        :param note: what it was for.
        :returns: a Deferred of :class:`Balance`.
        :raises InvalidParameter: through the Deferred, if a value is not allowed.
        :raises Conflict: through the Deferred, if the id was used for another number of units.
        :raises BusUnavailable: through the Deferred; try again with the same id.
        """
        return Deferred.fromCoroutine(self._add(user, units, change_id, note))

    async def _add(self, user: str, units: int, change_id: str, note: str) -> Balance:
        if not units or not -MOST_UNITS <= units <= MOST_UNITS:
            raise InvalidParameter(f"units must be a whole number other than 0, at most {MOST_UNITS}")
        if not _ID.match(change_id):
            raise InvalidParameter("the id of a change is 1 to 64 of A-Z, a-z, 0-9, '_' and '-'")
        if len(note) > _NOTE or not note.isprintable():
            raise InvalidParameter(f"note has at most {_NOTE} characters, all printable")
        entry_id = f"balance:{change_id}"
        changed = False

        async def edit(account: Account) -> None:
            nonlocal changed
            changed = False
            known = account.outbox.get(entry_id, {}).get("balance")
            if known is None:
                known = await self._written(user, entry_id)
            if known is None:
                account.add(entry_id, units, "topup" if units > 0 else "adjust", self._now(), note)
                changed = True
            elif known != units:
                raise Conflict(f"the id was used for a change by {known} units")

        account = await self._books.change(user, edit)
        if changed:
            self._refilled(user)
        return Balance(account.balance, changed)

    async def _written(self, user: str, entry_id: str) -> int | None:
        """By how much an entry has changed the balance, if it is written."""
        before: int | None = None
        while True:
            page = await self._journal.page(BALANCES, user, before, _PAGE)
            for entry in page:
                if entry.entry_id == entry_id:
                    return int(json.loads(entry.value)["balance"])
            if len(page) < _PAGE:
                return None
            before = page[-1].sequence
