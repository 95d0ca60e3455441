"""API keys and the users they belong to.

The secret of a key is derived from the master secret and the key's id, so nothing secret is stored per key, and it can
be found again to verify signatures made with it (AWS Signature Version 4).
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Iterable, Sequence
from heapq import nsmallest
from typing import Final

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from flowgate.auth.changing import change
from flowgate.auth.expiry import Expiries
from flowgate.auth.key_text import new_key_id, parts_of, secret_of
from flowgate.auth.last_use import LastUse
from flowgate.auth.permissions import Grants, Principal
from flowgate.auth.records import UNREADABLE, ApiKey, User, check_name, check_plan
from flowgate.auth.shares import Shares
from flowgate.auth.users import USERS, Users
from flowgate.errors import AccountSuspended, Conflict, InvalidParameter, InvalidToken, KeyDisabled, NotFound
from flowgate.interfaces import IStore
from flowgate.topics import Namespace

__all__ = ["KEYS", "LONGEST_OVERLAP", "USERS", "ApiKey", "Keyring", "User", "new_key_id"]

_log = Logger()

KEYS = "FG_KEYS"

LONGEST_OVERLAP: Final = 30 * 86400
"""Seconds for which a rotated key may go on being accepted."""

_SECONDS_A_DAY = 86400


def _age(key: ApiKey) -> tuple[int, str]:
    return key.created_at, key.id


class Keyring:
    """All API keys, users and shares, as this node knows them: cached, and kept up to date by the store.

    :ivar shares: what accounts let each other do.
    :ivar last_use: when each key was last used.
    """

    def __init__(
        self, store: IStore, master: bytes, now: Callable[[], float], clock: IReactorTime | None = None
    ) -> None:
        """Nothing is known before :meth:`start`.

        :param now: seconds since 1970 UTC.
        :param clock: the reactor, to tell of keys at the moment when they expire; without it nobody is told of that.
        """
        self._store = store
        self._master = master
        self._now = now
        self._keys: dict[str, ApiKey] = {}
        self._users = Users(store, now, self._tell)
        self.shares = Shares(store, now)
        self.last_use = LastUse(store, now)
        self._expiries = None if clock is None else Expiries(clock, now, self._tell)
        self._watches: list[Callable[[], None]] = []
        self._listeners: list[Callable[[str], None]] = []

    def start(self) -> Deferred[None]:
        """Read all keys, users and shares, and follow their changes."""
        return Deferred.fromCoroutine(self._start())

    async def _start(self) -> None:
        # Keys come last: none is known before what says whether it may be used.
        self._watches.append(await self._users.start())
        self._watches.append(await self.shares.start())
        self._watches.append(await self.last_use.start())
        self._watches.append(await self._store.watch(KEYS, self._key_changed))

    def stop(self) -> None:
        """Follow changes no longer."""
        watches, self._watches = self._watches, []
        for end in watches:
            end()
        if self._expiries is not None:
            self._expiries.stop()

    def on_disabled(self, listener: Callable[[str], None]) -> None:
        """Have ``listener`` called with the id of a key that was disabled, was removed or has expired, or the name of
        a user who was suspended or removed."""
        self._listeners.append(listener)

    def _tell(self, who: str) -> None:
        for listener in self._listeners:
            listener(who)

    def _key_changed(self, key_id: str, value: bytes | None) -> None:
        if value is None:
            self._forget(key_id)
            return
        known = self._keys.get(key_id)
        if known is not None and known.disabled:
            return  # for good: this is older than the revocation, which was noted when it was stored
        try:
            key = ApiKey.from_json(value)
            if key.id != key_id:
                raise ValueError("a record of another key")
        except UNREADABLE:
            _log.error("the stored API key {key_id} cannot be read, so it is not accepted", key_id=key_id)
            self._forget(key_id)
            return
        self._keys[key_id] = key
        if self._expiries is not None:
            self._expiries.set(key_id, None if key.disabled else key.expires_at)
        if key.disabled or self.has_expired(key):
            self._tell(key_id)

    def _forget(self, key_id: str) -> None:
        self._keys.pop(key_id, None)
        if self._expiries is not None:
            self._expiries.set(key_id, None)
        self._tell(key_id)

    # -- checking

    def secret_of(self, key_id: str) -> str:
        """The secret that belongs to a key id, whether or not there is such a key."""
        return secret_of(self._master, key_id)

    def authenticate(self, text: str) -> ApiKey:
        """Find the API key that ``text`` is.

        An unknown id and a wrong secret look the same, and take the same time.

        :raises InvalidToken: if it is none, or it has expired.
        :raises KeyDisabled: if it was revoked.
        :raises AccountSuspended: if its user is suspended.
        """
        key_id, secret = parts_of(text)
        right = hmac.compare_digest(self.secret_of(key_id).encode(), secret.encode())
        key = self._keys.get(key_id)
        if not right or key is None:
            raise InvalidToken("the API key is not known")
        self.check(key)
        return key

    def check(self, key: ApiKey) -> None:
        """Check that a key may be used now, and note that it is.

        :raises InvalidToken: if it has expired.
        :raises KeyDisabled: if it was revoked.
        :raises AccountSuspended: if its user is suspended or was removed.
        """
        if key.disabled:
            raise KeyDisabled("the API key was revoked")
        if self.has_expired(key):
            raise InvalidToken("the API key has expired")
        user = self._users.find(key.user)
        if user is None or user.suspended:
            raise AccountSuspended("the account is suspended")
        self.last_use.note(key.id)

    def limited(self, principal: Principal) -> Principal:
        """The principal with no more than shares cover now, outside its own namespace.

        :returns: the same one if it has no more.
        """
        grants = self.shares.limit(principal.home, principal.grants)
        return principal if grants is principal.grants else attrs.evolve(principal, grants=grants)

    def has_expired(self, key: ApiKey) -> bool:
        """Whether the key's time is over."""
        return key.expires_at is not None and key.expires_at <= self._now()

    def find(self, key_id: str) -> ApiKey | None:
        """The key with this id, usable or not."""
        return self._keys.get(key_id)

    # -- keys

    def keys(self, user: str | None = None, app: str | None = None) -> list[ApiKey]:
        """The keys of a user, or of an application, or all; the oldest first."""
        return sorted(self._some(user, app), key=_age)

    def _some(self, user: str | None, app: str | None) -> Iterable[ApiKey]:
        return (
            key for key in self._keys.values() if (user is None or key.user == user) and (app is None or key.app == app)
        )

    def page(self, user: str | None, app: str | None, after: tuple[int, str], limit: int) -> list[ApiKey]:
        """The oldest keys that were made behind ``after``: the time and the id of a key."""
        return nsmallest(limit, (key for key in self._some(user, app) if _age(key) > after), key=_age)

    def proposed(
        self,
        user: str,
        app: str,
        key_id: str,
        name: str = "",
        publish: Sequence[str] | None = None,
        subscribe: Sequence[str] | None = None,
        queues: Sequence[str] | None = None,
        expires_days: int | None = None,
    ) -> ApiKey:
        """The key that :meth:`create` would make, which is not made.

        :raises InvalidParameter, InvalidTopic, InsufficientScope: as :meth:`create` does.
        """
        home = Namespace.checked(user, app)
        check_name(name)
        if expires_days is not None and not 1 <= expires_days <= 36500:
            raise InvalidParameter("expires_days must be 1 to 36500")
        grants = Grants.everything(home)
        if publish is not None or subscribe is not None or queues is not None:
            grants = self.shares.grantable(home).narrowed(home, publish or (), subscribe or (), queues or ())
        now = int(self._now())
        expires_at = None if expires_days is None else now + expires_days * _SECONDS_A_DAY
        return ApiKey(key_id, user, app, name, grants, now, expires_at)

    def create(
        self,
        user: str,
        app: str,
        *,
        name: str = "",
        publish: Sequence[str] | None = None,
        subscribe: Sequence[str] | None = None,
        queues: Sequence[str] | None = None,
        expires_days: int | None = None,
        key_id: str | None = None,
    ) -> Deferred[tuple[ApiKey, str]]:
        """Make an API key, and its user if there is none yet.

        Without any grants the key may do everything inside the application; with some it may do nothing else.

        :param publish: filters, short or full; those of other namespaces as far as they are shared.
        :param expires_days: days after which it is no longer accepted.
        :param key_id: one that :func:`new_key_id` made.
        :returns: a Deferred of the key and of its text, which is to be shown once.
        :raises InvalidParameter: through the Deferred, if a value is not allowed.
        :raises InvalidTopic: through the Deferred, if a filter is malformed.
        :raises InsufficientScope: through the Deferred, if a filter reaches where nothing is shared.
        :raises Conflict: through the Deferred, if the user's stored record cannot be read, or the user was removed.
        """
        return Deferred.fromCoroutine(self._create(user, app, key_id, name, publish, subscribe, queues, expires_days))

    async def _create(
        self,
        user: str,
        app: str,
        key_id: str | None,
        name: str,
        publish: Sequence[str] | None,
        subscribe: Sequence[str] | None,
        queues: Sequence[str] | None,
        expires_days: int | None,
    ) -> tuple[ApiKey, str]:
        key = self.proposed(user, app, key_id or new_key_id(), name, publish, subscribe, queues, expires_days)
        await self._users.ensure(user)
        return await self._store_new(key, key_id is not None)

    async def _store_new(self, key: ApiKey, given: bool) -> tuple[ApiKey, str]:
        """Store a new key.

        :param given: whether its id was given by somebody; else another one is taken if there is a key of this one.
        """
        while True:
            try:
                await self._store.put(KEYS, key.id, key.to_json(), 0)
            except Conflict:
                if given:
                    raise
                key = attrs.evolve(key, id=new_key_id())
                continue
            self._key_changed(key.id, key.to_json())
            return key, f"{key.id}.{self.secret_of(key.id)}"

    def rotate(self, key_id: str, overlap_seconds: int, *, new_id: str | None = None) -> Deferred[tuple[ApiKey, str]]:
        """Make a key that takes the place of another: the same name, grants and life.

        The old one is accepted for a while, then its connections end.  A key that expires lives as long, from now on,
        as it was made to live.

        :param overlap_seconds: for so long, 0 to 30 days, unless it expires before.
        :param new_id: one that :func:`new_key_id` made.
        :returns: a Deferred of the new key and of its text, which is to be shown once.
        :raises NotFound: through the Deferred, if there is no such key.
        :raises InvalidParameter: through the Deferred, if ``overlap_seconds`` is out of range.
        :raises KeyDisabled: through the Deferred, if it was revoked.
        :raises Conflict: through the Deferred, if it was rotated already, or has expired.
        """
        return Deferred.fromCoroutine(self._rotate(key_id, overlap_seconds, new_id))

    def check_rotation(self, key_id: str, overlap_seconds: int) -> ApiKey:
        """Check that a key can be rotated; give it.

        :raises NotFound, InvalidParameter, KeyDisabled, Conflict: as :meth:`rotate` does.
        """
        if not 0 <= overlap_seconds <= LONGEST_OVERLAP:
            raise InvalidParameter(f"overlap_seconds must be 0 to {LONGEST_OVERLAP}")
        key = self._known(key_id)
        self._check_rotation(key)
        return key

    def _check_rotation(self, key: ApiKey) -> None:
        if key.disabled:
            raise KeyDisabled("the API key was revoked")
        if key.successor:
            raise Conflict(f"the API key was rotated already: to {key.successor}")
        if self.has_expired(key):
            raise Conflict("the API key has expired: make another one")

    async def _rotate(self, key_id: str, overlap: int, new_id: str | None) -> tuple[ApiKey, str]:
        old = self.check_rotation(key_id, overlap)
        now = int(self._now())
        expires_at = None if old.expires_at is None else now + old.expires_at - old.created_at
        fresh = attrs.evolve(old, id=new_id or new_key_id(), created_at=now, expires_at=expires_at, more={})
        end = now + overlap

        def make(key: ApiKey) -> ApiKey:
            self._check_rotation(key)
            ends = end if key.expires_at is None else min(end, key.expires_at)
            return attrs.evolve(key, expires_at=ends, successor=fresh.id)

        # The new one first: should this node die in between, there is one key too many, not one too few.
        made = await self._store_new(fresh, True)
        try:
            _, value = await change(self._store, KEYS, key_id, ApiKey.from_json, make, "the API key was removed")
        except (Conflict, KeyDisabled, NotFound):
            await self._revoke(fresh.id)  # somebody else has rotated, revoked or removed the old one meanwhile
            raise
        self._key_changed(key_id, value)
        return made

    def revoke(self, key_id: str) -> Deferred[None]:
        """Disable a key for good.

        :raises NotFound: through the Deferred, if there is none.
        """
        return Deferred.fromCoroutine(self._revoke(key_id))

    def _known(self, key_id: str) -> ApiKey:
        key = self._keys.get(key_id)
        if key is None:
            raise NotFound(f"there is no API key {key_id[:40]}")
        return key

    async def _revoke(self, key_id: str) -> None:
        self._known(key_id)
        missing = f"there is no API key {key_id[:40]}"
        _, value = await change(
            self._store, KEYS, key_id, ApiKey.from_json, lambda key: attrs.evolve(key, disabled=True), missing
        )
        self._key_changed(key_id, value)

    # -- users

    def users(self) -> list[User]:
        """All users by name."""
        return sorted(self._users, key=lambda user: user.name)

    def users_page(self, prefix: str, after: str, limit: int) -> list[User]:
        """The first users by name behind ``after`` whose name begins with ``prefix``."""
        found = (user for user in self._users if user.name > after and user.name.startswith(prefix))
        return nsmallest(limit, found, key=lambda user: user.name)

    def user(self, name: str) -> User | None:
        """The user of this name, suspended or not; ``None`` if there is none."""
        return self._users.find(name)

    def create_user(self, name: str, plan: str = "") -> Deferred[User]:
        """Make a user; one that is there already stays as it is.

        :param plan: of a new user; empty for the default one.
        :raises InvalidParameter: through the Deferred, if the name or the plan is not allowed.
        :raises Conflict: through the Deferred, if the user's stored record cannot be read, or the user was removed.
        """
        return Deferred.fromCoroutine(self._users.ensure(name, plan))

    def suspend(self, name: str, suspended: bool) -> Deferred[User]:
        """Suspend a user, or end the suspension.

        :raises NotFound: through the Deferred, if there is none.
        """
        return Deferred.fromCoroutine(self._users.change(name, suspended=suspended))

    def set_plan(self, name: str, plan: str) -> Deferred[User]:
        """Give a user another plan.

        :param plan: its name; empty for the default one.
        :raises NotFound: through the Deferred, if there is no such user.
        :raises InvalidParameter: through the Deferred, if it is no name of a plan.
        """
        return Deferred.fromCoroutine(self._set_plan(name, plan))

    async def _set_plan(self, name: str, plan: str) -> User:
        check_plan(plan)
        return await self._users.change(name, plan=plan)

    def delete_user(self, name: str) -> Deferred[None]:
        """Remove a user with all keys, and the shares of and for that user.  The name is not given again.

        Topics and queues are not touched: what topics hold goes by age.  If it fails, call it again.

        :raises NotFound: through the Deferred, if there never was one.
        """
        return Deferred.fromCoroutine(self._delete_user(name))

    async def _delete_user(self, name: str) -> None:
        await self._users.change(name, suspended=True, deleted=True)  # from now on no key is accepted, on any node
        for share in {*self.shares.all(owner=name), *self.shares.all(grantee=name)}:
            await self.shares.revoke(share.id)
        for key in self.keys(name):
            await self._store.delete(KEYS, key.id)
            await self.last_use.forget(key.id)
            self._forget(key.id)
