"""Queues that the configuration file declares: there when the gateway starts, and as the file says."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import attrs
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from flowgate.errors import Conflict, InvalidParameter, Refused, StartError
from flowgate.queues.model import Configured, QueueConfig
from flowgate.topics import RESERVED, Namespace, check_filter, is_reserved, resolve

if TYPE_CHECKING:
    from flowgate.queues.service import Queues

_log = Logger()

PLACE = ("user", "app", "name")
"""The members of a declaration that say which queue is meant."""

MEMBERS = (
    *PLACE,
    "type",
    *(field.name for field in attrs.fields(QueueConfig) if field.name != "fifo"),
    "subscriptions",
)
"""All members of a declaration."""

_LEFT_ALONE = ("tags", "aws")
"""What others may have noted at a queue stays, unless the file says something of it."""


@attrs.frozen(slots=True)
class DeclaredQueue:
    """A queue that has to be there.

    :ivar members: its configuration, as :meth:`QueueConfig.parse` reads it; what is absent has its default.
    :ivar subscriptions: full topic filters, just these; ``None``: whatever it is subscribed to.
    """

    home: Namespace
    name: str
    members: Mapping[str, object] = attrs.field(factory=dict)
    subscriptions: tuple[str, ...] | None = None

    @classmethod
    def parse(cls, table: Mapping[str, object]) -> DeclaredQueue:
        """Read a declaration whose members are all known.

        :raises InvalidParameter, InvalidTopic: if something in it is not as it should be.
        """
        user, app, name = (_text(table, member) for member in PLACE)
        home = Namespace.checked(user, app)
        members = {member: value for member, value in table.items() if member not in (*PLACE, "subscriptions")}
        QueueConfig.parse(name, members)
        return cls(home, name, members, _filters(home, table.get("subscriptions")))

    def wanted(self) -> dict[str, object]:
        """All members of the configuration that the queue has to have."""
        wanted = QueueConfig.parse(self.name, self.members).members()
        return {name: value for name, value in wanted.items() if name not in _LEFT_ALONE or name in self.members}

    @property
    def dead_letter_queue(self) -> str | None:
        """The name of the queue that takes its dead letters."""
        dead = QueueConfig.parse(self.name, self.members).dead_letter
        return None if dead is None else dead.queue

    def __str__(self) -> str:
        return f"{self.name} of {self.home.user}/{self.home.app}"


def _text(table: Mapping[str, object], member: str) -> str:
    value = table.get(member)
    if not isinstance(value, str):
        raise InvalidParameter(f"{member} is missing, or no text")
    return value


def _filters(home: Namespace, value: object) -> tuple[str, ...] | None:
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise InvalidParameter("subscriptions must be a list of topic filters")
    found: dict[str, None] = {}
    for one in value:
        rest = resolve(one, home, (home,)).rest
        check_filter(rest)
        if is_reserved(rest):
            raise InvalidParameter(f"no queue can be subscribed to {RESERVED} and what is below it: it is not stored")
        found[home.prefix + rest] = None
    return tuple(found)


def _in_order(declared: Iterable[DeclaredQueue]) -> list[DeclaredQueue]:
    """Each dead-letter queue before those whose dead letters it takes."""
    left = {(one.home, one.name): one for one in declared}
    found: list[DeclaredQueue] = []

    def take(home: Namespace, name: str) -> None:
        one = left.pop((home, name), None)
        if one is None:
            return
        if one.dead_letter_queue is not None:
            take(home, one.dead_letter_queue)
        found.append(one)

    while left:
        take(*next(iter(left)))
    return found


def declare(queues: Queues, declared: Iterable[DeclaredQueue]) -> Deferred[None]:
    """Make the queues that are not there, and change those that are not as declared.

    :returns: a Deferred of ``None``.
    :raises StartError: through the Deferred, with the queue and the reason.
    """
    return Deferred.fromCoroutine(_declare(queues, declared))


async def _declare(queues: Queues, declared: Iterable[DeclaredQueue]) -> None:
    for one in _in_order(declared):
        try:
            await _configure(queues, one)
            await _subscribe(queues, one)
        except Refused as refusal:
            raise StartError(f"the declared queue {one} cannot be had: {refusal.detail}") from None


async def _configure(queues: Queues, one: DeclaredQueue) -> None:
    wanted = one.wanted()
    try:
        outcome = await queues.create(one.home, one.name, wanted)
    except Conflict as conflict:
        differing = conflict.members.get("differing")
        await queues.change(one.home, one.name, wanted)
        _log.info("the queue {queue} was changed to what is declared: {differing}", queue=one, differing=differing)
    else:
        if outcome is Configured.CREATED:
            _log.info("the declared queue {queue} was made", queue=one)


async def _subscribe(queues: Queues, one: DeclaredQueue) -> None:
    if one.subscriptions is None:
        return
    there = (await queues.describe(one.home, one.name)).subscriptions
    for filter_ in one.subscriptions:
        if filter_ not in there and await queues.subscribe(one.home, one.name, filter_):
            _log.info("the queue {queue} was subscribed to {filter}", queue=one, filter=filter_)
    for filter_ in there:
        if filter_ not in one.subscriptions and await queues.unsubscribe(one.home, one.name, filter_):
            _log.info("the queue {queue} is subscribed to {filter} no more", queue=one, filter=filter_)
