"""The audit log: who did what, on what, when and from where; a book of the journal, so nothing in it ever changes.

**Written first.**  An entry is written before the action, and an action whose entry cannot be written is not carried
out: whoever asked for it is told that the bus is away.  So there is no action without an entry, whatever crashes.  An
action that is refused after all has a second entry that says so (``outcome``), as far as the bus can be reached; one
whose outcome is not known, since a node died or the bus went away, has the first entry alone.

**No secrets.**  Entries hold names, ids and grants.  What looks like an API key or a token is taken out all the same.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, Literal, TypeVar

import attrs
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from flowgate.errors import Refused
from flowgate.interfaces import IJournal

_log = Logger()

AUDIT: Final = "audit"
"""The book."""

_NOBODY: Final = "_"
"""The owner, in the journal, of entries that are about no account."""
_MAX_BYTES: Final = 7000
_MAX_ITEMS: Final = 20
_MAX_TEXT: Final = 300
_HIDDEN: Final = "[hidden]"
_SECRET = re.compile(r"FGAK[A-Z2-7]{16}\.[A-Za-z0-9]{40}|ey[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
_LABEL = re.compile(r"[a-z0-9-]{1,32}\Z")
_T = TypeVar("_T")

Detail = str | int | bool | None | list[str]


@attrs.frozen(slots=True)
class Actor:
    """Who acts.

    :ivar kind: ``admin`` for who holds the admin token, ``user`` for who has signed in, ``key`` for an API key's
        token, ``gateway`` for the gateway itself.
    :ivar name: the user's name or the key's id; empty for the others.
    :ivar address: where the request came from, if that is known.
    :ivar request_id: the request's, if there is one.
    """

    kind: Literal["admin", "user", "key", "gateway"]
    name: str = ""
    address: str = ""
    request_id: str = ""


@attrs.frozen(slots=True)
class AuditEntry:
    """What was done.

    :ivar sequence: its place; it grows from entry to entry.
    :ivar at: seconds since 1970 UTC.
    :ivar action: what was done, for example ``key.create``.
    :ivar subject: on what: the id of a key or of a share, the name of a user …
    :ivar user: the account that it is about; empty if it is about none.
    :ivar outcome: empty for an action that is about to be carried out, else the code of what it was refused with.
    :ivar detail: what else there is to say.
    :ivar left_out: the names of what was too much for an entry.
    """

    sequence: int
    at: float
    id: str
    actor: Actor
    action: str
    subject: str
    user: str
    outcome: str
    detail: Mapping[str, object]
    left_out: tuple[str, ...] = ()


def _clean(text: str) -> str:
    text = _SECRET.sub(_HIDDEN, text)
    return text if len(text) <= _MAX_TEXT else text[:_MAX_TEXT] + "…"


def _shown(value: Detail) -> Detail:
    if isinstance(value, str):
        return _clean(value)
    if isinstance(value, list):
        more = len(value) - _MAX_ITEMS
        return [_clean(one) for one in value[:_MAX_ITEMS]] + ([f"and {more} more"] if more > 0 else [])
    return value


class Audit:
    """Writes and reads the audit log.

    :param now: seconds since 1970 UTC.
    """

    def __init__(self, journal: IJournal, now: Callable[[], float]) -> None:
        self._journal = journal
        self._now = now

    def note(
        self, actor: Actor, action: str, subject: str, *, user: str = "", outcome: str = "", **detail: Detail
    ) -> Deferred[None]:
        """Write an entry; to be called, and waited for, before the action.  See also :meth:`around`.

        :param user: the account that it is about.
        :param outcome: for a second entry: the code of what the action was refused with.
        :param detail: what else there is to say; too much of it is left out.
        :raises BusUnavailable: through the Deferred; the action must not be carried out then.
        """
        return Deferred.fromCoroutine(self._note(actor, action, subject, user, outcome, detail))

    async def _note(
        self, actor: Actor, action: str, subject: str, user: str, outcome: str, detail: Mapping[str, Detail]
    ) -> None:
        entry: dict[str, object] = {
            "actor": {name: _clean(value) for name, value in attrs.asdict(actor).items() if value},
            "action": action,
            "subject": _clean(subject),
            "outcome": outcome,
        }
        if not _LABEL.match(user):
            user = _NOBODY
        shown = {name: _shown(value) for name, value in detail.items() if value not in (None, "", [])}
        left_out: list[str] = []
        while True:
            value = json.dumps({**entry, "detail": shown, "left_out": left_out}).encode()
            if len(value) <= _MAX_BYTES or not shown:
                break
            left_out.append(max(shown, key=lambda name: len(json.dumps(shown[name]))))
            del shown[left_out[-1]]
        # The id grows with time, for people; it is this entry's alone.
        entry_id = f"{int(self._now() * 1000):x}-{secrets.token_hex(8)}"
        await self._journal.append(AUDIT, user, entry_id, value)

    def around(
        self,
        actor: Actor,
        action: str,
        subject: str,
        act: Callable[[], Awaitable[_T]],
        *,
        user: str = "",
        **detail: Detail,
    ) -> Deferred[_T]:
        """Write an entry, carry out the action, and note if it was refused.

        :param act: carries it out.
        :returns: a Deferred of what ``act`` gives.
        :raises BusUnavailable: through the Deferred, if the entry cannot be written: nothing was done; or from ``act``.
        """
        return Deferred.fromCoroutine(self._around(actor, action, subject, act, user, detail))

    async def _around(
        self,
        actor: Actor,
        action: str,
        subject: str,
        act: Callable[[], Awaitable[_T]],
        user: str,
        detail: Mapping[str, Detail],
    ) -> _T:
        await self._note(actor, action, subject, user, "", detail)
        try:
            return await act()
        except Refused as refusal:
            try:
                await self._note(actor, action, subject, user, refusal.code, {})
            except Refused as away:
                # The first entry is there, and the peer is told of the refusal: what is lacking is that it was one.
                _log.warn("that {action} was refused is not in the audit log: {code}", action=action, code=away.code)
            raise

    def page(self, user: str = "", before: int | None = None, limit: int = 100) -> Deferred[list[AuditEntry]]:
        """Read entries, the newest first.

        :param user: only those about this account; empty for all.
        :param before: only entries with a lower sequence.
        :param limit: at most so many, 1 to 1,000.
        :returns: a Deferred of a list of :class:`AuditEntry`; fewer than ``limit`` mean that there are no older ones.
        :raises BusUnavailable: through the Deferred.
        """
        return Deferred.fromCoroutine(self._page(user, before, limit))

    async def _page(self, user: str, before: int | None, limit: int) -> list[AuditEntry]:
        found = []
        for entry in await self._journal.page(AUDIT, user, before, limit):
            written = json.loads(entry.value)
            owner = "" if entry.owner == _NOBODY else entry.owner
            actor = Actor(
                **{name: written["actor"].get(name, "") for name in ("kind", "name", "address", "request_id")}
            )
            found.append(
                AuditEntry(
                    entry.sequence,
                    entry.at,
                    entry.entry_id,
                    actor,
                    written["action"],
                    written["subject"],
                    owner,
                    written["outcome"],
                    written["detail"],
                    tuple(written["left_out"]),
                )
            )
        return found
