"""Shares: what one account lets another do with its topics.

A share is the owner's word; an API key of the other account is used under it.  So a grant in a namespace that is not
the key's own is worth what shares of that namespace cover **now**, whatever the key or a token says: every principal
passes :meth:`Shares.limit` when it comes in, and open connections whose principal would come out with less are ended.
"""

from __future__ import annotations

import json
import secrets
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from heapq import nsmallest
from typing import Final

import attrs
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from flowgate.auth.permissions import Grant, Grants
from flowgate.auth.records import UNREADABLE, check_name, dump, is_a, load
from flowgate.errors import InvalidParameter, NotFound, Refused
from flowgate.interfaces import IStore
from flowgate.topics import Namespace, Topic, check_filter, intersection

_log = Logger()

SHARES: Final = "FG_SHARES"

MAX_FILTERS: Final = 50
"""Filters of a share, of each kind."""

MAX_SHARES: Final = 200
"""Shares that one account may be given."""

_LIMITED: Final = 1000
"""Results that are remembered."""


def _filters(value: object) -> tuple[str, ...]:
    if not isinstance(value, list | tuple):
        raise TypeError("filters must be a list")
    for one in value:
        if not isinstance(one, str):
            raise TypeError("a filter must be a text")
        check_filter(one)
    return tuple(value)


@attrs.frozen(slots=True)
class Share:
    """Leave for the keys of one account to use topics of another.

    :ivar id: names it.
    :ivar owner: the user whose topics they are.
    :ivar app: the owner's application.
    :ivar grantee: the user whose keys may use them.
    :ivar grantee_app: the application whose keys may; empty for all of that user.
    :ivar publish: filters inside the owner's namespace.
    :ivar subscribe: likewise.
    :ivar created_at: seconds since 1970 UTC.
    :ivar name: what it is for.
    :ivar more: what a newer version has written.
    """

    id: str = attrs.field(validator=is_a(str))
    owner: str = attrs.field(validator=is_a(str))
    app: str = attrs.field(validator=is_a(str))
    grantee: str = attrs.field(validator=is_a(str))
    grantee_app: str = attrs.field(validator=is_a(str))
    publish: tuple[str, ...] = attrs.field(converter=_filters)
    subscribe: tuple[str, ...] = attrs.field(converter=_filters)
    created_at: int = attrs.field(validator=is_a(int))
    name: str = attrs.field(default="", validator=is_a(str))
    more: Mapping[str, object] = attrs.field(factory=dict, repr=False, hash=False)

    @property
    def namespace(self) -> Namespace:
        return Namespace(self.owner, self.app)

    def is_for(self, home: Namespace) -> bool:
        """Whether keys at home in ``home`` may use it."""
        return self.grantee == home.user and self.grantee_app in ("", home.app)

    def to_json(self) -> bytes:
        return dump(self, 8)

    @classmethod
    def from_json(cls, data: bytes) -> Share:
        """Read what :meth:`to_json` wrote.

        :raises ValueError, TypeError, Refused: if it is something else.
        """
        share = load(cls, json.loads(data))
        Namespace.checked(share.owner, share.app)
        Namespace.checked(share.grantee, share.grantee_app or "app")
        return share


def new_id() -> str:
    """An id for a share."""
    return f"FGSH{secrets.token_hex(8).upper()}"


class Shares:
    """All shares: cached, and kept up to date by the store.

    :param now: seconds since 1970 UTC.
    """

    def __init__(self, store: IStore, now: Callable[[], float]) -> None:
        self._store = store
        self._now = now
        self._shares: dict[str, Share] = {}
        self._of: dict[str, dict[str, Share]] = {}  # by the user they are for
        self._limited: OrderedDict[tuple[Namespace, Grants], Grants] = OrderedDict()
        self._listeners: list[Callable[[], None]] = []

    async def start(self) -> Callable[[], None]:
        """Read all shares, and follow their changes.

        :returns: what ends that.
        """
        return await self._store.watch(SHARES, self._changed)

    def on_changed(self, listener: Callable[[], None]) -> None:
        """Have ``listener`` called after every change, on every node."""
        self._listeners.append(listener)

    def _changed(self, share_id: str, value: bytes | None) -> None:
        share = None
        if value is not None:
            try:
                share = Share.from_json(value)
                if share.id != share_id:
                    raise ValueError("a record of another share")
            except UNREADABLE:
                _log.error("the stored share {share_id} cannot be read, so it grants nothing", share_id=share_id)
                share = None
        self._take(share_id, share)

    def _take(self, share_id: str, share: Share | None) -> None:
        old = self._shares.pop(share_id, None)
        if old is None and share is None:
            return
        if old is not None:
            given = self._of[old.grantee]
            del given[share_id]
            if not given:
                del self._of[old.grantee]
        if share is not None:
            self._shares[share_id] = share
            self._of.setdefault(share.grantee, {})[share_id] = share
        self._limited.clear()
        for listener in self._listeners:
            listener()

    # -- asking

    def find(self, share_id: str) -> Share | None:
        return self._shares.get(share_id)

    def all(self, owner: str = "", grantee: str = "") -> list[Share]:
        """The shares of an owner, or for a user, or all; the oldest first."""
        found = [
            share
            for share in self._shares.values()
            if (not owner or share.owner == owner) and (not grantee or share.grantee == grantee)
        ]
        return sorted(found, key=lambda share: (share.created_at, share.id))

    def page(self, owner: str, grantee: str, after: str, limit: int) -> list[Share]:
        """The first shares of an owner, or for a user, or of all, by their ids behind ``after``."""
        found = (share for share in self.all(owner, grantee) if share.id > after)
        return nsmallest(limit, found, key=lambda share: share.id)

    def given(self, home: Namespace) -> Grants:
        """What keys at home in ``home`` could be granted elsewhere."""
        publish: dict[Grant, None] = {}
        subscribe: dict[Grant, None] = {}
        for share in self._of.get(home.user, {}).values():
            if share.is_for(home) and share.namespace != home:
                publish.update((Grant(share.namespace, one), None) for one in share.publish)
                subscribe.update((Grant(share.namespace, one), None) for one in share.subscribe)
        return Grants(tuple(publish), tuple(subscribe), ())

    def grantable(self, home: Namespace) -> Grants:
        """All that a key at home in ``home`` could be granted."""
        own, given = Grants.everything(home), self.given(home)
        return Grants(own.publish + given.publish, own.subscribe + given.subscribe, own.queues)

    def limit(self, home: Namespace, grants: Grants) -> Grants:
        """What grants of a key at home in ``home`` are worth now: those elsewhere no more than shares cover.

        The namespaces of grants that are worth nothing stay known, so that their full names are refused, and not
        taken for names at home.

        :returns: the same object if they are worth all that they say.
        """
        if grants.namespaces <= {home}:
            return grants
        key = (home, grants)
        limited = self._limited.get(key)
        if limited is None:
            given = self.given(home)
            publish = _within(home, grants.publish, given.publish)
            subscribe = _within(home, grants.subscribe, given.subscribe)
            limited = grants
            if (publish, subscribe) != (grants.publish, grants.subscribe):
                limited = Grants(publish, subscribe, grants.queues, grants.namespaces)
            if len(self._limited) >= _LIMITED:
                self._limited.popitem(last=False)
            self._limited[key] = limited
        return grants if limited == grants else limited

    def admits_topic(self, home: Namespace, topic: Topic) -> bool:
        """Whether what belongs to ``home`` may be published to a topic, for example a will."""
        return topic.namespace == home or self.given(home).may_publish(topic)

    def admits(self, home: Namespace, filter_: str) -> bool:
        """Whether what belongs to ``home`` may be given the messages of a full filter.

        It answers for what no key stands for any more: subscriptions of queues, and webhooks.
        """
        user, app, rest = filter_.split("_", 2)
        namespace = Namespace(user, app)
        return namespace == home or self.given(home).may_subscribe(namespace, rest)

    # -- changing

    def create(
        self,
        owner: Namespace,
        grantee: str,
        grantee_app: str = "",
        *,
        publish: Sequence[str] = (),
        subscribe: Sequence[str] = (),
        name: str = "",
        share_id: str | None = None,
    ) -> Deferred[Share]:
        """Let the keys of another account use topics of ``owner``.

        :param grantee: the user.
        :param grantee_app: the application; empty for all.
        :param publish: filters inside ``owner``; one that begins with its prefix is taken as full.
        :param share_id: one that :func:`new_id` made.
        :raises InvalidParameter: through the Deferred, if a value is not allowed, or there are too many.
        :raises InvalidTopic: through the Deferred, if a filter is malformed.
        :raises Conflict: through the Deferred, if there is one of this id.
        """
        return Deferred.fromCoroutine(
            self._create(owner, grantee, grantee_app, publish, subscribe, name, share_id or new_id())
        )

    async def _create(
        self,
        owner: Namespace,
        grantee: str,
        grantee_app: str,
        publish: Sequence[str],
        subscribe: Sequence[str],
        name: str,
        share_id: str,
    ) -> Share:
        share = self.proposed(owner, grantee, grantee_app, publish, subscribe, name, share_id)
        await self._store.put(SHARES, share_id, share.to_json(), 0)
        self._take(share_id, share)
        return share

    def proposed(
        self,
        owner: Namespace,
        grantee: str,
        grantee_app: str,
        publish: Iterable[str],
        subscribe: Iterable[str],
        name: str,
        share_id: str,
    ) -> Share:
        """The share that :meth:`create` would make, which is not made.

        :raises InvalidParameter: if a value is not allowed, or there are too many.
        :raises InvalidTopic: if a filter is malformed.
        """
        Namespace.checked(owner.user, owner.app)
        Namespace.checked(grantee, grantee_app or "app")
        check_name(name)
        if grantee == owner.user and grantee_app in ("", owner.app):
            raise InvalidParameter("a share is for another user, or another application of the same")

        def inside(filters: Iterable[str]) -> tuple[str, ...]:
            found = tuple(dict.fromkeys(one.removeprefix(owner.prefix) for one in filters))
            if len(found) > MAX_FILTERS:
                raise InvalidParameter(f"a share has at most {MAX_FILTERS} filters of each kind")
            for one in found:
                check_filter(one)
            return found

        shared = inside(publish), inside(subscribe)
        if not any(shared):
            raise InvalidParameter("a share needs filters to publish to or to subscribe to")
        if len(self._of.get(grantee, ())) >= MAX_SHARES:
            raise InvalidParameter(f"a user is given at most {MAX_SHARES} shares")
        return Share(share_id, owner.user, owner.app, grantee, grantee_app, *shared, int(self._now()), name)

    def revoke(self, share_id: str) -> Deferred[Share]:
        """End a share, on every node; connections that reach where only it let them end.

        :returns: a Deferred of what it was.
        :raises NotFound: through the Deferred, if there is none.
        """
        return Deferred.fromCoroutine(self._revoke(share_id))

    async def _revoke(self, share_id: str) -> Share:
        share = self._shares.get(share_id)
        if share is None:
            raise NotFound(f"there is no share {share_id[:40]}")
        await self._store.delete(SHARES, share_id)
        self._take(share_id, None)
        return share


def _within(home: Namespace, granted: tuple[Grant, ...], given: tuple[Grant, ...]) -> tuple[Grant, ...]:
    """What is left of grants: those at home as they are, the others as far as ``given`` reaches."""
    found: dict[Grant, None] = {}
    for grant in granted:
        if grant.namespace == home or any(one.covers(grant.namespace, grant.filter) for one in given):
            found[grant] = None
            continue
        for one in given:
            if one.namespace == grant.namespace:
                shared = intersection(grant.filter, one.filter)
                if shared is not None and _is_filter(shared):
                    found[Grant(grant.namespace, shared)] = None
    return tuple(found)


def _is_filter(text: str) -> bool:
    try:
        check_filter(text)
    except Refused:
        return False  # longer than any filter may be: so no client can name what it grants
    return True
