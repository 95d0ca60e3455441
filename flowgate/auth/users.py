"""The users, as this node knows them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import attrs
from twisted.logger import Logger

from flowgate.auth.changing import change
from flowgate.auth.records import UNREADABLE, User, check_plan
from flowgate.errors import Conflict, NotFound
from flowgate.interfaces import IStore
from flowgate.topics import Namespace

_log = Logger()

USERS = "FG_USERS"


class Users:
    """All users: cached, and kept up to date by the store.

    :param now: seconds since 1970 UTC.
    :param tell: called with the name of a user who was suspended or removed, or whose record cannot be read.
    """

    def __init__(self, store: IStore, now: Callable[[], float], tell: Callable[[str], None]) -> None:
        self._store = store
        self._now = now
        self._tell = tell
        self._users: dict[str, User] = {}

    async def start(self) -> Callable[[], None]:
        """Read all users, and follow their changes.

        :returns: what ends that.
        """
        return await self._store.watch(USERS, self._changed)

    def _changed(self, name: str, value: bytes | None) -> None:
        if value is None:
            self._users.pop(name, None)
            self._tell(name)
            return
        try:
            user = User.from_json(value)
            if user.name != name:
                raise ValueError("a record of another user")
        except UNREADABLE:
            _log.error("the stored user {name} cannot be read, so its keys are not accepted", name=name)
            self._users.pop(name, None)
            self._tell(name)
            return
        self._users[name] = user
        if user.suspended or user.deleted:
            self._tell(name)

    def find(self, name: str) -> User | None:
        """The user of this name; ``None`` if there is none, or none any more."""
        user = self._users.get(name)
        return None if user is None or user.deleted else user

    def __iter__(self) -> Iterator[User]:
        return (user for user in self._users.values() if not user.deleted)

    async def ensure(self, name: str, plan: str = "") -> User:
        """The user of this name, made if there is none.

        :param plan: of a new user.
        :raises InvalidParameter: if a name is not allowed.
        :raises Conflict: if the stored record cannot be read, or is that of a user who was removed.
        """
        Namespace.checked(name, "app")
        check_plan(plan)
        user = self._users.get(name)
        if user is None:
            user = User(name, int(self._now()), plan=plan)
            try:
                await self._store.put(USERS, name, user.to_json(), 0)
            except Conflict:
                # Made by another node just now, and on its way to us; or it cannot be read.
                entry = await self._store.get(USERS, name)
                self._changed(name, None if entry is None else entry.value)
                user = self._users.get(name)
                if user is None:
                    raise Conflict(f"the user {name} was changed by somebody else, or its record is damaged") from None
            self._users[name] = user
        if user.deleted:
            raise Conflict(f"there was a user {name}, who was removed: the name is not given again")
        return user

    async def change(self, name: str, **members: object) -> User:
        """Give a user other members.

        :raises NotFound: if there is no such user.
        """
        missing = f"there is no user {name[:40]}"
        if name not in self._users:
            raise NotFound(missing)

        def make(user: User) -> User:
            if user.deleted and not members.get("deleted"):
                raise NotFound(missing)
            return attrs.evolve(user, **members)  # type: ignore[arg-type]

        user, value = await change(self._store, USERS, name, User.from_json, make, missing)
        self._changed(name, value)
        return user
