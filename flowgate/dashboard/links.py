"""One-time links: how somebody without a password comes to one.

A link is ``<gateway>/dashboard/#link=<secret>``: what stands behind ``#`` stays in the browser, so no log and no proxy
sees it, and what only looks at addresses (a mail scanner, a preview) does not use it up.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from collections.abc import Callable
from typing import Any

import attrs
from twisted.logger import Logger

from flowgate.errors import Conflict, InvalidToken, RateLimited
from flowgate.interfaces import IStore

_log = Logger()

LINKS = "FG_LINKS"
FIRST_SECONDS = 3600
"""The life of the link that the first start shows."""
LIFE_SECONDS = 24 * 3600
"""The life of a link that an administrator makes."""
MOST = 1000
"""Links that wait to be used."""

_SECRET = re.compile(r"[A-Za-z0-9_-]{43}\Z")


@attrs.frozen(slots=True)
class Link:
    """What is stored of a link.

    :ivar name: the hash of its secret.
    :ivar user: whose password it sets; empty for the first start, where the name can be chosen.
    :ivar admin: whether that user becomes an administrator; ``None``: as before.
    :ivar expires_at: seconds since 1970 UTC.
    """

    name: str
    user: str
    admin: bool | None
    expires_at: int

    def to_json(self) -> bytes:
        return json.dumps([self.user, self.admin, self.expires_at]).encode()

    @classmethod
    def from_json(cls, name: str, data: bytes) -> Link:
        """Read what :meth:`to_json` wrote.

        :raises ValueError, TypeError: if it is something else.
        """
        user, admin, expires_at = json.loads(data)
        if type(user) is not str or type(expires_at) is not int or not (admin is None or type(admin) is bool):
            raise TypeError("no link of ours")
        return cls(name, user, admin, expires_at)


class Links:
    """The links that were made and not used yet.

    :param now: seconds since 1970 UTC.
    """

    def __init__(self, store: IStore, now: Callable[[], float]) -> None:
        self._store = store
        self._now = now
        self._links: dict[str, Link] = {}
        self._watch: Callable[[], None] | None = None

    async def start(self) -> None:
        """Read all links, and follow their changes."""
        self._watch = await self._store.watch(LINKS, self._changed)

    def stop(self) -> None:
        """Follow changes no longer."""
        if self._watch is not None:
            self._watch()
            self._watch = None

    def _changed(self, name: str, value: bytes | None) -> None:
        self._links.pop(name, None)
        if value:
            try:
                self._links[name] = Link.from_json(name, value)
            except (ValueError, TypeError, RecursionError):
                _log.error("a stored sign-in link cannot be read, so it is not accepted")

    async def make(self, user: str, *, admin: bool | None = None, seconds: int = LIFE_SECONDS) -> tuple[str, Link]:
        """Make a link; those that the user had before are worth nothing from then on.

        :param user: empty for the first start.
        :returns: its secret, and what is stored of it.
        :raises RateLimited: if there are too many.
        """
        now = self._now()
        for old in [one for one in self._links.values() if one.user == user or one.expires_at <= now]:
            await self._remove(old.name)
        if len(self._links) >= MOST:
            raise RateLimited("too many sign-in links wait to be used")
        secret = secrets.token_urlsafe(32)
        link = Link(_name(secret), user, admin, int(now) + seconds)
        value = link.to_json()
        await self._store.put(LINKS, link.name, value, 0)
        self._changed(link.name, value)
        return secret, link

    async def look(self, secret: str) -> Link:
        """Find a link, without using it.

        :raises InvalidToken: if it was never made, was used, or is too old.
        """
        link, _ = await self._read(secret)
        return link

    async def use(self, secret: str) -> Link:
        """Use a link up: of several that try, one succeeds.

        :raises InvalidToken: if it was never made, was used, or is too old.
        """
        link, revision = await self._read(secret)
        try:
            await self._store.put(LINKS, link.name, b"", revision)
        except Conflict:
            raise _no_longer() from None
        await self._remove(link.name)
        return link

    async def _read(self, secret: str) -> tuple[Link, int]:
        if not _SECRET.match(secret):
            raise _no_longer()
        name = _name(secret)
        entry: Any = await self._store.get(LINKS, name)
        if entry is None or not entry.value:
            raise _no_longer()
        try:
            link = Link.from_json(name, entry.value)
        except (ValueError, TypeError, RecursionError):
            raise _no_longer() from None
        if link.expires_at <= self._now():
            raise _no_longer()
        return link, entry.revision

    async def _remove(self, name: str) -> None:
        await self._store.delete(LINKS, name)
        self._links.pop(name, None)


def _name(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _no_longer() -> InvalidToken:
    return InvalidToken("this link was used already, is too old, or was never made")
