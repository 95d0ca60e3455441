"""Sessions of the pages: who signed in, on whichever node."""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import secrets
from base64 import urlsafe_b64encode
from collections.abc import Callable
from typing import Any

import attrs
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from flowgate.auth.keys import Keyring
from flowgate.dashboard.logins import Login, Logins
from flowgate.errors import AccountSuspended, Conflict, MissingToken, RateLimited
from flowgate.interfaces import IStore

_log = Logger()

SESSIONS = "FG_SIGNED_IN"

IDLE_SECONDS = 2 * 3600
"""A session that is not used for so long ends."""
LIFE_SECONDS = 12 * 3600
"""So long a session lasts, however much it is used."""
MOST_OF_USER, MOST = 20, 10_000
"""Sessions of one user (beyond, the oldest ends) and of all."""

_NOTED_SECONDS = 60
"""The use of a session is written down once in so many seconds."""
_ID_BYTES = 32
_ID = re.compile(r"[A-Za-z0-9_-]{43}\Z")
_TIDIED = 20
"""Sessions that are over and are removed when a new one begins: more than it adds."""


@attrs.frozen(slots=True)
class Session:
    """What is stored of a session; times are seconds since 1970 UTC.

    :ivar name: the hash of its id, under which it is stored: whoever reads the store cannot take it over.
    :ivar generation: of the login, when it began.
    """

    name: str
    user: str
    generation: int
    created_at: int
    seen_at: int

    @property
    def ends_at(self) -> int:
        return min(self.seen_at + IDLE_SECONDS, self.created_at + LIFE_SECONDS)

    def to_json(self) -> bytes:
        return json.dumps([self.user, self.generation, self.created_at, self.seen_at]).encode()

    @classmethod
    def from_json(cls, name: str, data: bytes) -> Session:
        """Read what :meth:`to_json` wrote.

        :raises ValueError, TypeError: if it is something else.
        """
        values: list[Any] = json.loads(data)
        if [type(value) for value in values] != [str, int, int, int]:
            raise TypeError("no session of ours")
        return cls(name, *values)


def name_of(session_id: str) -> str:
    """The name that a session with this id is stored under."""
    return hashlib.sha256(session_id.encode()).hexdigest()


def csrf_token(session_id: str) -> str:
    """What the pages of a session say with each change, to show that it is they who ask: no other site can read it."""
    digest = hmac.digest(session_id.encode(), b"flowgate csrf 1", "sha256")
    return urlsafe_b64encode(digest).rstrip(b"=").decode()


class Sessions:
    """All sessions, as this node knows them.

    :param now: seconds since 1970 UTC.
    """

    def __init__(self, store: IStore, logins: Logins, keyring: Keyring, now: Callable[[], float]) -> None:
        self._store = store
        self._logins = logins
        self._keyring = keyring
        self._now = now
        self._sessions: dict[str, Session] = {}
        self._watch: Callable[[], None] | None = None
        self._listeners: list[Callable[[str], None]] = []
        keyring.on_disabled(self._suspended)

    def start(self) -> Deferred[None]:
        """Read all sessions, and follow their changes."""
        return Deferred.fromCoroutine(self._start())

    async def _start(self) -> None:
        self._watch = await self._store.watch(SESSIONS, self._changed)

    def stop(self) -> None:
        """Follow changes no longer."""
        if self._watch is not None:
            self._watch()
            self._watch = None

    def on_ended(self, listener: Callable[[str], None]) -> None:
        """Have ``listener`` called with the name of a session that was ended, on whichever node."""
        self._listeners.append(listener)

    def _changed(self, name: str, value: bytes | None) -> None:
        if value is not None:
            try:
                self._sessions[name] = Session.from_json(name, value)
                return
            except (ValueError, TypeError, RecursionError):
                _log.error("a stored session cannot be read, so it is not accepted")
        self._sessions.pop(name, None)
        for listener in self._listeners:
            listener(name)

    def __len__(self) -> int:
        return len(self._sessions)

    async def begin(self, login: Login) -> str:
        """Begin a session; its id is a new one, whatever the browser had before.

        :returns: the id, for the browser alone.
        :raises AccountSuspended: if the user is suspended.
        :raises RateLimited: if there are too many sessions.
        """
        if self.is_suspended(login.user):
            raise AccountSuspended("the account is suspended")
        await self._tidy()
        own = sorted((one for one in self._sessions.values() if one.user == login.user), key=lambda one: one.created_at)
        for one in own[: max(0, len(own) + 1 - MOST_OF_USER)]:
            await self.end(one.name)
        if len(self._sessions) >= MOST:
            raise RateLimited("too many are signed in")
        session_id = secrets.token_urlsafe(_ID_BYTES)
        now = int(self._now())
        session = Session(name_of(session_id), login.user, login.generation, now, now)
        value = session.to_json()
        await self._store.put(SESSIONS, session.name, value, 0)
        self._changed(session.name, value)
        return session_id

    async def find(self, session_id: str) -> tuple[Session, Login]:
        """Find the session that a browser names, and note that it is used.

        :raises MissingToken: if there is none, or it is over.
        """
        if not _ID.match(session_id):
            raise MissingToken("sign in first")
        name = name_of(session_id)
        session = self._sessions.get(name)
        if session is None:
            # Begun on another node just now, perhaps, and not heard of here yet.
            entry = await self._store.get(SESSIONS, name)
            if entry is None:
                raise MissingToken("sign in first")
            self._changed(name, entry.value)
            session = self._sessions.get(name)
            if session is None:
                raise MissingToken("sign in first")
        login = self._logins.find(session.user)
        if login is None or login.generation < session.generation:
            # The session was heard of before the login that it belongs to.
            login = await self._logins.refresh(session.user)
        now = int(self._now())
        account = self._keyring.user(session.user)
        if login is None or self._is_over(session, now) or (account is not None and account.suspended):
            await self.end(name)
            raise MissingToken("the session is over: sign in again")
        if account is None:
            raise MissingToken("the account is not known")  # not yet, perhaps: the session stays
        if now - session.seen_at >= _NOTED_SECONDS:
            session = await self._note_use(session, now)
        return session, login

    async def _note_use(self, session: Session, now: int) -> Session:
        entry = await self._store.get(SESSIONS, session.name)
        if entry is None:
            self._changed(session.name, None)
            raise MissingToken("the session is over: sign in again")
        session = attrs.evolve(session, seen_at=now)
        value = session.to_json()
        try:
            # Not if it was ended in this moment: that would bring it back.
            await self._store.put(SESSIONS, session.name, value, entry.revision)
        except Conflict:
            return session  # another request was faster, or the next one is told that it is over
        self._changed(session.name, value)
        return session

    def _is_over(self, session: Session, now: float) -> bool:
        """Whether a session's time is over, or its user has another password since."""
        login = self._logins.find(session.user)
        return now >= session.ends_at or (login is not None and login.generation > session.generation)

    def is_suspended(self, user: str) -> bool:
        """Whether a user's account is suspended, or was removed."""
        found = self._keyring.user(user)
        return found is None or found.suspended

    async def end(self, name: str) -> None:
        """End a session; again is no error."""
        await self._store.delete(SESSIONS, name)
        if name in self._sessions:
            self._changed(name, None)

    def _suspended(self, user: str) -> None:
        # Also those that nobody asks for meanwhile: they must not be good again when the suspension ends.
        if any(one.user == user for one in self._sessions.values()):
            Deferred.fromCoroutine(self.end_all(user)).addErrback(
                lambda failure: _log.failure("the sessions of {user} could not be ended", failure, user=user)
            )

    async def end_all(self, user: str) -> None:
        """End all sessions of a user that this node knows; those of an old password end by themselves."""
        for name in [one.name for one in self._sessions.values() if one.user == user]:
            await self.end(name)

    async def _tidy(self) -> None:
        now = self._now()
        for session in [one for one in self._sessions.values() if self._is_over(one, now)][:_TIDIED]:
            await self.end(session.name)
