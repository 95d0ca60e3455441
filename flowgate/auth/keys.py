"""API keys and the users they belong to.

An API key is ``<key id>.<secret>``.  The secret is derived from the master secret and the id, so nothing secret is
stored per key, and it can be found again to verify signatures made with it (AWS Signature Version 4).
"""

from __future__ import annotations

import hmac
import json
import re
import secrets
from base64 import b32encode
from collections.abc import Callable, Sequence
from typing import Any

import attrs
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from flowgate.auth.permissions import Grants
from flowgate.errors import AccountSuspended, Conflict, InvalidParameter, InvalidToken, KeyDisabled, NotFound, Refused
from flowgate.interfaces import IStore
from flowgate.topics import Namespace

_log = Logger()

KEYS = "FG_KEYS"
USERS = "FG_USERS"

_KEY = re.compile(r"(FGAK[A-Z2-7]{16})\.([A-Za-z0-9]{40})\Z")
_DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_SECRET_DIGITS = 40
_NAME_CHARACTERS = 100
_SECONDS_A_DAY = 86400


def _is(kind: type) -> Callable[[object, attrs.Attribute[Any], object], None]:
    """A stored record is read by other versions of this code too: a field of another type is refused, not guessed."""

    def check(_record: object, field: attrs.Attribute[Any], value: object) -> None:
        if type(value) is not kind:
            raise TypeError(f"{field.name} must be {kind.__name__}")

    return check


@attrs.frozen(slots=True)
class ApiKey:
    """An API key without its secret.

    :ivar id: public; tokens carry it as ``client_id``.
    :ivar created_at: seconds since 1970 UTC.
    :ivar expires_at: seconds since 1970 UTC, or ``None``.
    """

    id: str = attrs.field(validator=_is(str))
    user: str = attrs.field(validator=_is(str))
    app: str = attrs.field(validator=_is(str))
    name: str = attrs.field(validator=_is(str))
    grants: Grants
    created_at: int = attrs.field(validator=_is(int))
    expires_at: int | None = attrs.field(default=None, validator=attrs.validators.optional(_is(int)))
    disabled: bool = attrs.field(default=False, validator=_is(bool))

    @property
    def home(self) -> Namespace:
        return Namespace(self.user, self.app)

    def to_json(self) -> bytes:
        record = attrs.asdict(self, recurse=False)
        record["grants"] = self.grants.to_claim()
        return json.dumps(record).encode()

    @classmethod
    def from_json(cls, data: bytes) -> ApiKey:
        """Read what :meth:`to_json` wrote.

        :raises ValueError, TypeError, KeyError, InvalidToken: if it is something else.
        """
        record: dict[str, Any] = json.loads(data)
        record["grants"] = Grants.from_claim(record["grants"])
        return cls(**record)


@attrs.frozen(slots=True)
class User:
    """A user; ``created_at`` in seconds since 1970 UTC."""

    name: str = attrs.field(validator=_is(str))
    created_at: int = attrs.field(validator=_is(int))
    suspended: bool = attrs.field(default=False, validator=_is(bool))

    def to_json(self) -> bytes:
        return json.dumps(attrs.asdict(self)).encode()

    @classmethod
    def from_json(cls, data: bytes) -> User:
        """Read what :meth:`to_json` wrote.

        :raises ValueError, TypeError: if it is something else.
        """
        return cls(**json.loads(data))


class Keyring:
    """All API keys and users, as this node knows them: cached, and kept up to date by the store.

    :param now: seconds since 1970 UTC.
    """

    def __init__(self, store: IStore, master: bytes, now: Callable[[], float]) -> None:
        self._store = store
        self._master = master
        self._now = now
        self._keys: dict[str, ApiKey] = {}
        self._users: dict[str, User] = {}
        self._watches: list[Callable[[], None]] = []
        self._listeners: list[Callable[[str], None]] = []

    def start(self) -> Deferred[None]:
        """Read all keys and users, and follow their changes."""
        return Deferred.fromCoroutine(self._start())

    async def _start(self) -> None:
        self._watches.append(await self._store.watch(USERS, self._user_changed))
        self._watches.append(await self._store.watch(KEYS, self._key_changed))

    def stop(self) -> None:
        """Follow changes no longer."""
        watches, self._watches = self._watches, []
        for end in watches:
            end()

    def on_disabled(self, listener: Callable[[str], None]) -> None:
        """Have ``listener`` called with the id of a key that was disabled, or the name of a user who was suspended."""
        self._listeners.append(listener)

    def _tell(self, who: str) -> None:
        for listener in self._listeners:
            listener(who)

    def _key_changed(self, key_id: str, value: bytes | None) -> None:
        if value is None:
            self._keys.pop(key_id, None)
            self._tell(key_id)
            return
        known = self._keys.get(key_id)
        if known is not None and known.disabled:
            return  # for good: this is older than the revocation, which was noted when it was stored
        try:
            key = ApiKey.from_json(value)
            Namespace.checked(key.user, key.app)
            if key.id != key_id:
                raise ValueError("a record of another key")
        except (ValueError, TypeError, KeyError, RecursionError, Refused):
            _log.error("the stored API key {key_id} cannot be read, so it is not accepted", key_id=key_id)
            self._keys.pop(key_id, None)
            self._tell(key_id)
            return
        self._keys[key_id] = key
        if key.disabled:
            self._tell(key_id)

    def _user_changed(self, name: str, value: bytes | None) -> None:
        if value is None:
            self._users.pop(name, None)
            self._tell(name)
            return
        try:
            user = User.from_json(value)
            if user.name != name:
                raise ValueError("a record of another user")
        except (ValueError, TypeError, RecursionError):
            _log.error("the stored user {name} cannot be read, so its keys are not accepted", name=name)
            self._users.pop(name, None)
            self._tell(name)
            return
        self._users[name] = user
        if user.suspended:
            self._tell(name)

    # -- checking

    def secret_of(self, key_id: str) -> str:
        """The secret that belongs to a key id, whether or not there is such a key."""
        digest = hmac.digest(self._master, b"flowgate api key 1:" + key_id.encode(), "sha512")
        number = int.from_bytes(digest, "big")
        digits = []
        for _ in range(_SECRET_DIGITS):
            number, digit = divmod(number, 62)
            digits.append(_DIGITS[digit])
        return "".join(digits)

    def authenticate(self, text: str) -> ApiKey:
        """Find the API key that ``text`` is.

        An unknown id and a wrong secret look the same, and take the same time.

        :raises InvalidToken: if it is none, or it has expired.
        :raises KeyDisabled: if it was revoked.
        :raises AccountSuspended: if its user is suspended.
        """
        found = _KEY.match(text)
        key_id, secret = (found[1], found[2]) if found else ("FGAK", "")
        right = hmac.compare_digest(self.secret_of(key_id).encode(), secret.encode())
        key = self._keys.get(key_id)
        if not right or key is None:
            raise InvalidToken("the API key is not known")
        self.check(key)
        return key

    def check(self, key: ApiKey) -> None:
        """Check that a key may be used now.

        :raises InvalidToken: if it has expired.
        :raises KeyDisabled: if it was revoked.
        :raises AccountSuspended: if its user is suspended or was removed.
        """
        if key.disabled:
            raise KeyDisabled("the API key was revoked")
        if key.expires_at is not None and key.expires_at <= self._now():
            raise InvalidToken("the API key has expired")
        user = self._users.get(key.user)
        if user is None or user.suspended:
            raise AccountSuspended("the account is suspended")

    def find(self, key_id: str) -> ApiKey | None:
        """The key with this id, usable or not."""
        return self._keys.get(key_id)

    # -- keys

    def keys(self) -> list[ApiKey]:
        """All keys, the oldest first."""
        return sorted(self._keys.values(), key=lambda key: (key.created_at, key.id))

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
    ) -> Deferred[tuple[ApiKey, str]]:
        """Make an API key, and its user if there is none yet.

        Without any grants the key may do everything inside the application; with some it may do nothing else.

        :param publish: filters, short or full.
        :param expires_days: days after which it is no longer accepted.
        :returns: a Deferred of the key and of its text, which is to be shown once.
        :raises InvalidParameter: through the Deferred, if a value is not allowed.
        :raises InvalidTopic: through the Deferred, if a filter is malformed.
        :raises Conflict: through the Deferred, if the user's stored record cannot be read.
        """
        return Deferred.fromCoroutine(self._create(user, app, name, publish, subscribe, queues, expires_days))

    async def _create(
        self,
        user: str,
        app: str,
        name: str,
        publish: Sequence[str] | None,
        subscribe: Sequence[str] | None,
        queues: Sequence[str] | None,
        expires_days: int | None,
    ) -> tuple[ApiKey, str]:
        home = Namespace.checked(user, app)
        if len(name) > _NAME_CHARACTERS or not name.isprintable():
            raise InvalidParameter(f"name has at most {_NAME_CHARACTERS} characters, all printable")
        if expires_days is not None and not 1 <= expires_days <= 36500:
            raise InvalidParameter("expires_days must be 1 to 36500")
        grants = Grants.everything(home)
        if publish is not None or subscribe is not None or queues is not None:
            grants = grants.narrowed(home, publish or (), subscribe or (), queues or ())
        await self._ensure_user(user)
        now = int(self._now())
        expires_at = None if expires_days is None else now + expires_days * _SECONDS_A_DAY
        while True:
            key_id = "FGAK" + b32encode(secrets.token_bytes(10)).decode()
            key = ApiKey(key_id, user, app, name, grants, now, expires_at)
            try:
                await self._store.put(KEYS, key_id, key.to_json(), 0)
            except Conflict:
                continue
            self._keys[key_id] = key
            return key, f"{key_id}.{self.secret_of(key_id)}"

    def revoke(self, key_id: str) -> Deferred[None]:
        """Disable a key for good.

        :raises NotFound: through the Deferred, if there is none.
        """
        return Deferred.fromCoroutine(self._revoke(key_id))

    async def _revoke(self, key_id: str) -> None:
        key = self._keys.get(key_id)
        if key is None:
            raise NotFound(f"there is no API key {key_id[:40]}")
        value = attrs.evolve(key, disabled=True).to_json()
        await self._store.put(KEYS, key_id, value)
        self._key_changed(key_id, value)

    # -- users

    def users(self) -> list[User]:
        """All users by name."""
        return sorted(self._users.values(), key=lambda user: user.name)

    def create_user(self, name: str) -> Deferred[User]:
        """Make a user, or find the one of this name.

        :raises Conflict: through the Deferred, if the stored record of that name cannot be read.
        """
        return Deferred.fromCoroutine(self._ensure_user(name))

    async def _ensure_user(self, name: str) -> User:
        Namespace.checked(name, "app")
        user = self._users.get(name)
        if user is None:
            user = User(name, int(self._now()))
            try:
                await self._store.put(USERS, name, user.to_json(), 0)
            except Conflict:
                # Made by another node just now, and on its way to us; or it cannot be read.
                entry = await self._store.get(USERS, name)
                self._user_changed(name, None if entry is None else entry.value)
                user = self._users.get(name)
                if user is None:
                    raise Conflict(f"the user {name} was changed by somebody else, or its record is damaged") from None
            self._users[name] = user
        return user

    def suspend(self, name: str, suspended: bool) -> Deferred[User]:
        """Suspend a user, or end the suspension.

        :raises NotFound: through the Deferred, if there is none.
        """
        return Deferred.fromCoroutine(self._suspend(name, suspended))

    async def _suspend(self, name: str, suspended: bool) -> User:
        user = self._users.get(name)
        if user is None:
            raise NotFound(f"there is no user {name[:40]}")
        user = attrs.evolve(user, suspended=suspended)
        value = user.to_json()
        await self._store.put(USERS, name, value)
        self._user_changed(name, value)
        return user
