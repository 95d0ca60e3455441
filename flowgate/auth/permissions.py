"""Grants: what a token permits, and the principal that holds them."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Final, Literal, cast

import attrs

from flowgate.errors import InsufficientScope, InvalidParameter, InvalidToken, Refused
from flowgate.topics import Namespace, Topic, check_filter, covers, resolve

QueueVerb = Literal["send", "receive", "manage"]
"""What can be done with a queue: sending; receiving, with deleting, hiding and counting; and all that is no message:
making, configuring, purging, removing, redriving and subscribing it."""

VERBS: Final[tuple[QueueVerb, ...]] = ("send", "receive", "manage")

_QUEUES = re.compile(r"(?:(?:send|receive|manage):)?(?:[A-Za-z0-9_-]{1,80}(?:\.fifo)?|[A-Za-z0-9_.-]{0,80}\*)\Z")
_SHOWN = 80
"""How much of a client's own text is repeated in an error."""


@attrs.frozen(slots=True)
class Grant:
    """Leave to use every topic of ``namespace`` that ``filter`` takes in."""

    namespace: Namespace
    filter: str

    def __str__(self) -> str:
        return self.namespace.prefix + self.filter

    @classmethod
    def parse(cls, text: object) -> Grant:
        """Read a full filter, as tokens and stored keys have it.

        :raises InvalidToken: if it is none.
        """
        if not isinstance(text, str):
            raise InvalidToken
        parts = text.split("_", 2)
        if len(parts) != 3:
            raise InvalidToken
        try:
            namespace = Namespace.checked(parts[0], parts[1])
            check_filter(parts[2])
        except Refused:
            raise InvalidToken from None
        return cls(namespace, parts[2])

    def covers(self, namespace: Namespace, filter_: str) -> bool:
        return self.namespace == namespace and covers(self.filter, filter_)


def queue_covers(granted: str, verb: QueueVerb, name: str) -> bool:
    """Whether a grant of queues permits ``verb`` with the queue ``name``, or with all that such a pattern takes in.

    :param granted: a name, or the beginning of names and ``*``; after a verb and ``:``, if it is not for all of them.
    """
    only, _, pattern = granted.rpartition(":")
    if only and only != verb:
        return False
    return name.startswith(pattern[:-1]) if pattern.endswith("*") else pattern == name


def may_use(granted: Collection[str], name: str, verbs: Iterable[QueueVerb]) -> bool:
    """Whether grants of queues permit at least one of ``verbs`` with the queue ``name``."""
    return any(queue_covers(one, verb, name) for verb in verbs for one in granted)


def may_move(granted: Collection[str], source: str, goal: str) -> bool:
    """Whether grants of queues permit to have messages of the queue ``source`` moved to the queue ``goal``.

    That is a matter of managing the one, and of sending to the other or managing it.  It must not become a way to read
    what may not be received: so who may receive there has to be permitted to receive here.
    """
    return (
        may_use(granted, source, ("manage",))
        and may_use(granted, goal, ("send", "manage"))
        and (may_use(granted, source, ("receive",)) or not may_use(granted, goal, ("receive",)))
    )


@attrs.frozen(slots=True)
class Grants:
    """What may be done.

    :ivar publish: topics that may be published to.
    :ivar subscribe: topics that may be subscribed to.
    :ivar queues: queues of the home namespace that may be used: names, or beginnings of names that end in ``*``; with
        ``send:``, ``receive:`` or ``manage:`` before it for that alone.
    :ivar known: namespaces whose full names are not taken for short ones, though nothing may be granted there.
    """

    publish: tuple[Grant, ...]
    subscribe: tuple[Grant, ...]
    queues: tuple[str, ...]
    known: frozenset[Namespace] = frozenset()
    namespaces: frozenset[Namespace] = attrs.field(init=False, eq=False)
    """The namespaces in which any grant is held, and those ``known``: their full names are understood."""

    @namespaces.default
    def _find_namespaces(self) -> frozenset[Namespace]:
        return self.known.union(grant.namespace for grant in self.publish + self.subscribe)

    @classmethod
    def everything(cls, home: Namespace) -> Grants:
        """All that can be done inside one namespace."""
        whole = (Grant(home, "#"),)
        return cls(whole, whole, ("*",))

    def whole(self, home: Namespace) -> bool:
        """Whether everything that can be done inside one namespace is granted."""
        return (
            any(grant.covers(home, "#") for grant in self.publish)
            and any(grant.covers(home, "#") for grant in self.subscribe)
            and "*" in self.queues
        )

    def may_publish(self, topic: Topic) -> bool:
        return any(grant.covers(topic.namespace, topic.name) for grant in self.publish)

    def may_subscribe(self, namespace: Namespace, filter_: str) -> bool:
        """Whether every topic that ``filter_`` can name is granted by one grant."""
        return any(grant.covers(namespace, filter_) for grant in self.subscribe)

    def may_use_queue(self, name: str, *verbs: QueueVerb) -> bool:
        """Whether at least one of ``verbs`` is granted for the queue ``name``; without any: whether anything is."""
        return may_use(self.queues, name, verbs or VERBS)

    def may_move(self, source: str, goal: str) -> bool:
        """Whether messages of the queue ``source`` may be moved to the queue ``goal``; see :func:`may_move`."""
        return may_move(self.queues, source, goal)

    def to_claim(self) -> dict[str, list[str]]:
        """The grants as the ``fg`` claim of a token, with full names."""
        return {
            "pub": [str(grant) for grant in self.publish],
            "sub": [str(grant) for grant in self.subscribe],
            "queues": list(self.queues),
        }

    @classmethod
    def from_claim(cls, claim: object) -> Grants:
        """Read what :meth:`to_claim` wrote.

        :raises InvalidToken: if anything in it is not as expected.
        """
        if not isinstance(claim, Mapping) or set(claim) != {"pub", "sub", "queues"}:
            raise InvalidToken
        if not all(isinstance(value, list) for value in claim.values()):
            raise InvalidToken
        if not all(isinstance(name, str) and _QUEUES.match(name) for name in claim["queues"]):
            raise InvalidToken
        return cls(
            tuple(Grant.parse(text) for text in claim["pub"]),
            tuple(Grant.parse(text) for text in claim["sub"]),
            tuple(cast("list[str]", claim["queues"])),
        )

    def narrowed(
        self,
        home: Namespace,
        publish: Iterable[str] | None = None,
        subscribe: Iterable[str] | None = None,
        queues: Iterable[str] | None = None,
    ) -> Grants:
        """The same or less: each list that is given replaces the grants of its kind; short names belong to ``home``.

        :raises InvalidTopic: if a filter is malformed.
        :raises InvalidParameter: if a queue's name is malformed.
        :raises InsufficientScope: if something is asked for that is not granted here.
        """

        def within(granted: tuple[Grant, ...], wanted: Iterable[str] | None) -> tuple[Grant, ...]:
            if wanted is None:
                return granted
            found = []
            for name in wanted:
                resolved = resolve(name, home, self.namespaces)
                check_filter(resolved.rest)
                if not any(grant.covers(resolved.namespace, resolved.rest) for grant in granted):
                    raise InsufficientScope(f"the key does not grant {name[:_SHOWN]!r}")
                found.append(Grant(resolved.namespace, resolved.rest))
            return tuple(found)

        chosen = self.queues
        if queues is not None:
            chosen = tuple(queues)
            for wanted in chosen:
                if not _QUEUES.match(wanted):
                    raise InvalidParameter(
                        "a queue is 1 to 80 of A-Z, a-z, 0-9, '_' and '-', or the beginning of names and a '*'; "
                        "before it may stand send:, receive: or manage:"
                    )
                only, _, name = wanted.rpartition(":")
                # All verbs may also be granted one by one.
                for verb in (cast(QueueVerb, only),) if only else VERBS:
                    if not may_use(self.queues, name, (verb,)):
                        raise InsufficientScope(f"the key does not grant {verb}:{name}")
        return Grants(within(self.publish, publish), within(self.subscribe, subscribe), chosen, self.known)


@attrs.frozen(slots=True)
class Principal:
    """Who is at the other end of a connection, and what they may do.

    :ivar home: the namespace that short names belong to.
    :ivar key_id: the API key that the token was made with.
    :ivar token_id: the token's own id (``jti``).
    :ivar issued_at: seconds since 1970 UTC.
    :ivar expires_at: seconds since 1970 UTC.
    :ivar signing_key: the id of the key that has signed the token; empty if there is no token.
    """

    user: str
    app: str
    home: Namespace
    key_id: str
    grants: Grants
    expires_at: float
    token_id: str
    issued_at: float
    signing_key: str = ""
