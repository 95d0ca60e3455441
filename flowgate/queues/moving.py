"""Dead letters: how a message gets from one queue into another, once."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import attrs
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from flowgate.errors import NotFound, Refused
from flowgate.queues.directory import Directory
from flowgate.queues.envelope import Envelope
from flowgate.queues.held import Grant
from flowgate.queues.replica import Replica
from flowgate.queues.together import outcomes
from flowgate.topics import Namespace

Open = Callable[[Namespace, str], Awaitable[Replica]]


def origin_of(replica: Replica, place: int) -> str:
    """Names a message of a queue for ever: another queue takes it once."""
    assert replica.log is not None
    return f"{replica.log.incarnation}-{place}"


class DeadLetters:
    """Moves messages that were received too often.

    The dead-letter queue remembers where each came from, so a move that was begun and not finished, by this node or
    another, is simply done again.
    """

    _log = Logger()

    def __init__(self, directory: Directory, open_: Open) -> None:
        self._directory = directory
        self._open = open_

    def move(self, replica: Replica, grants: Sequence[Grant]) -> Deferred[None]:
        """Move messages to the queue's dead-letter queue; if it has none any more, they are handed out again.

        :returns: a Deferred of ``None``.
        :raises BusUnavailable: through the Deferred; they are on their way still.
        """
        return Deferred.fromCoroutine(self._move(replica, grants))

    async def _move(self, replica: Replica, grants: Sequence[Grant]) -> None:
        try:
            description = await self._directory.find(replica.namespace, replica.name)
            dead_letter = description.config.dead_letter
            if dead_letter is None:
                raise NotFound("the queue has no dead-letter queue")
            target = await self._open(replica.namespace, dead_letter.queue)
        except NotFound:
            for grant in grants:
                await replica.command("b", grant.place)
            return
        bodies = await replica.fetch(grants)
        under_way: list[tuple[Grant, Deferred[Any]]] = []
        for grant, blob in zip(grants, bodies, strict=True):
            message = replica.machine.find(grant.place)
            if blob is None or message is None:
                continue
            envelope = attrs.evolve(Envelope.decode(blob), source=replica.name)
            fifo = replica.machine.fifo
            if fifo:
                envelope = attrs.evolve(envelope, dedup_id=envelope.id)
            command = (
                "s",
                message.size,
                0,
                envelope.group,
                None,
                envelope.id,
                origin_of(replica, grant.place),
                None if fifo else grant.sent,
                grant.number,
                grant.first,
            )
            under_way.append((grant, target.command(*command, blob=envelope.encode())))
        there = await _done(under_way)
        await _done([(grant, replica.command("m", grant.place)) for grant in there])


async def _done(under_way: Sequence[tuple[Grant, Deferred[Any]]]) -> list[Grant]:
    """Wait for commands that were given together.

    :returns: those whose command was carried out.
    :raises Refused: if none was; the others are not lost sight of.
    """
    results = await outcomes(command for _, command in under_way)
    done = [grant for (grant, _), result in zip(under_way, results, strict=True) if not isinstance(result, Refused)]
    if results and not done:
        raise results[-1]
    return done
