"""Who may sign in: a password for each user, and whether the user is an administrator."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import attrs
from twisted.internet.defer import Deferred, DeferredSemaphore
from twisted.logger import Logger

from flowgate.dashboard.passwords import Cost, PasswordHash, check_password
from flowgate.errors import Conflict, InvalidToken, RateLimited
from flowgate.interfaces import IStore

_log = Logger()

LOGINS = "FG_LOGINS"

AT_ONCE = 2
"""Passwords that are hashed at the same time: each takes 32 MiB and a core for a fraction of a second."""
WAITING = 30
"""Passwords that wait for that: beyond, who comes is asked to come again."""
MOST_DEVICES = 10
"""Browsers of one user that are known; beyond, the one that came first is forgotten."""

_ATTEMPTS = 5
_T = TypeVar("_T")


class Threads(Protocol):
    """Runs something slow elsewhere, as :func:`twisted.internet.threads.deferToThread` does."""

    def __call__(self, work: Callable[..., _T], *arguments: Any) -> Deferred[_T]: ...


@attrs.frozen(slots=True)
class Login:
    """A user who may sign in.

    :ivar app: the application that the pages show first.
    :ivar admin: whether this user may see and change what belongs to others.
    :ivar generation: grows when the password changes: sessions of an older one have ended.
    :ivar keys: the API keys that the pages' own connections are made with, by application.
    :ivar devices: the hashes of the ids of browsers that have signed in since the password was set.
    """

    user: str
    app: str
    admin: bool
    generation: int
    password: PasswordHash
    keys: dict[str, str] = attrs.field(factory=dict)
    devices: list[str] = attrs.field(factory=list)

    def to_json(self) -> bytes:
        record = {
            "user": self.user,
            "app": self.app,
            "admin": self.admin,
            "generation": self.generation,
            "password": self.password.members(),
            "keys": self.keys,
            "devices": self.devices,
        }
        return json.dumps(record).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Login:
        """Read what :meth:`to_json` wrote.

        :raises ValueError, TypeError, KeyError: if it is something else.
        """
        record: dict[str, Any] = json.loads(data)
        kinds = {"user": str, "app": str, "admin": bool, "generation": int, "keys": dict, "devices": list}
        for name, kind in kinds.items():
            if type(record[name]) is not kind:
                raise TypeError(f"{name} must be {kind.__name__}")
        record["password"] = PasswordHash.from_members(record["password"])
        return cls(**record)


class Logins:
    """All logins, as this node knows them: cached, and kept up to date by the store."""

    def __init__(self, store: IStore, threads: Threads, cost: Cost | None = None) -> None:
        """Prepare; nothing happens before :meth:`start`.

        :param threads: where passwords are hashed.
        :param cost: of new hashes.
        """
        self._store = store
        self._threads = threads
        self._cost = cost or Cost()
        self._logins: dict[str, Login] = {}
        self._watch: Callable[[], None] | None = None
        self._turns = DeferredSemaphore(AT_ONCE)
        self._waiting = 0
        self._nobodys = PasswordHash.nobodys(self._cost)

    def start(self) -> Deferred[None]:
        """Read all logins, and follow their changes."""
        return Deferred.fromCoroutine(self._start())

    async def _start(self) -> None:
        self._watch = await self._store.watch(LOGINS, self._changed)

    def stop(self) -> None:
        """Follow changes no longer."""
        if self._watch is not None:
            self._watch()
            self._watch = None

    def _changed(self, user: str, value: bytes | None) -> None:
        if value is None:
            self._logins.pop(user, None)
            return
        try:
            login = Login.from_json(value)
            if login.user != user:
                raise ValueError("a record of another user")
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            _log.error("the stored login of {user} cannot be read, so it is not accepted", user=user)
            self._logins.pop(user, None)
            return
        self._logins[user] = login

    def __len__(self) -> int:
        return len(self._logins)

    def find(self, user: str) -> Login | None:
        """The login of a user, if there is one."""
        return self._logins.get(user)

    async def refresh(self, user: str) -> Login | None:
        """The login of a user as the store has it now: another node may have made it a moment ago.

        :raises BusUnavailable: if that cannot be asked.
        """
        entry = await self._store.get(LOGINS, user)
        self._changed(user, None if entry is None else entry.value)
        return self._logins.get(user)

    async def _slow(self, work: Callable[..., _T], *arguments: Any) -> _T:
        """Do what costs memory and time elsewhere, a few at once.

        :raises RateLimited: if too many wait for it.
        """
        if self._waiting >= WAITING:
            raise RateLimited("too many sign in at this moment")
        self._waiting += 1
        try:
            await self._turns.acquire()
            try:
                return await self._threads(work, *arguments)
            finally:
                self._turns.release()
        finally:
            self._waiting -= 1

    async def check(self, user: str, password: str) -> Login:
        """Find the login that a name and a password are.

        An unknown user and a wrong password look the same, and take the same time.

        :raises InvalidToken: if there is none.
        :raises RateLimited: if too many ask at once.
        """
        login = self._logins.get(user)
        stored = self._nobodys if login is None else login.password
        fits = await self._slow(stored.fits, password)
        now = self._logins.get(user)
        if not fits or login is None or now is None or now.generation != login.generation:
            raise InvalidToken("user name or password are wrong")
        if stored.cost != self._cost:
            fresh = await self._slow(PasswordHash.of, password, self._cost)
            return await self._edit(
                user, lambda one: attrs.evolve(one, password=fresh) if one.password == stored else one
            )
        return login

    async def hashed(self, user: str, password: str) -> PasswordHash:
        """Hash a new password, for :meth:`set_hash`.

        :raises InvalidParameter: if the password is not allowed.
        :raises RateLimited: if too many ask at once.
        """
        check_password(password, user)
        return await self._slow(PasswordHash.of, password, self._cost)

    async def set_password(self, user: str, password: str, *, app: str = "", admin: bool | None = None) -> Login:
        """Give a user a password; see :meth:`hashed` and :meth:`set_hash`."""
        return await self.set_hash(user, await self.hashed(user, password), app=app, admin=admin)

    async def set_hash(self, user: str, fresh: PasswordHash, *, app: str = "", admin: bool | None = None) -> Login:
        """Give a user a password; older sessions end, and no browser is known any more.

        :param app: that the pages show first; empty: as it was.
        :param admin: whether the user becomes an administrator; ``None``: as it was.
        """

        def change(one: Login | None) -> Login:
            if one is None:
                return Login(user, app, bool(admin), 1, fresh)
            return attrs.evolve(
                one,
                password=fresh,
                generation=one.generation + 1,
                devices=[],
                app=app or one.app,
                admin=one.admin if admin is None else admin,
            )

        return await self._write(user, change)

    async def note_key(self, user: str, app: str, key_id: str) -> Login:
        """Note the API key that the pages' connections are made with in an application."""
        return await self._edit(user, lambda one: attrs.evolve(one, keys={**one.keys, app: key_id}))

    async def note_device(self, user: str, device: str) -> Login:
        """Note a browser that has signed in.

        :param device: the hash of its id.
        """
        return await self._edit(user, lambda one: attrs.evolve(one, devices=[*one.devices, device][-MOST_DEVICES:]))

    async def _edit(self, user: str, change: Callable[[Login], Login]) -> Login:
        def changed(one: Login | None) -> Login:
            if one is None:
                raise InvalidToken("there is no such login any more")
            return change(one)

        return await self._write(user, changed)

    async def _write(self, user: str, change: Callable[[Login | None], Login]) -> Login:
        """Change a login by a function of it, which is called again if somebody else was faster."""
        for attempt in range(_ATTEMPTS):
            entry = await self._store.get(LOGINS, user)
            try:
                before = None if entry is None else Login.from_json(entry.value)
            except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
                before = None  # one that cannot be read is made anew
            login = change(before)
            value = login.to_json()
            try:
                await self._store.put(LOGINS, user, value, 0 if entry is None else entry.revision)
            except Conflict:
                if attempt == _ATTEMPTS - 1:
                    raise
                continue
            self._changed(user, value)
            return login
        raise AssertionError("not reached")
