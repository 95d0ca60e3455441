"""Telling those concerned that a threshold of a plan was crossed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from flowgate.connections import Connections
from flowgate.message import Run
from flowgate.router import Router
from flowgate.subscriber import Turn
from flowgate.topics import RESERVED, Topic
from flowgate.webhooks.posting import Post, Undelivered

_log = Logger()

TOPIC: Final = f"{RESERVED}/usage"
CODE: Final = "usage_threshold"

MAX_POSTS: Final = 1000
"""Notices that wait for the operator's endpoint; those beyond are only logged."""
PAUSES: Final = (1.0, 5.0, 30.0, 120.0, 600.0)
"""Seconds between the attempts to bring one there."""


class Notices:
    """Tells the clients on this node, and the operator's endpoint."""

    def __init__(
        self,
        connections: Connections,
        router: Router,
        turn: Turn,
        clock: IReactorTime,
        post: Post | None = None,
        url: str = "",
    ) -> None:
        """Know whom to tell.

        :param clock: the reactor.
        :param post: posts to ``url``.
        :param url: of the operator's endpoint; empty if there is none.
        """
        self._connections = connections
        self._router = router
        self._turn = turn
        self._clock = clock
        self._post = post
        self._url = url
        self._posting: set[Deferred[None]] = set()

    def show(self, user: str, members: Mapping[str, object]) -> None:
        """Tell the user's clients on this node."""
        self._connections.notice(user, {"code": CODE, **members})
        payload = json.dumps(dict(members), separators=(",", ":")).encode()
        for namespace in self._router.reserved():
            if namespace.user == user:
                self._router.deliver(Run(Topic(namespace, TOPIC), [payload]))
        self._turn.flush()

    def post(self, user: str, members: Mapping[str, object]) -> None:
        """Tell the operator's endpoint, some time; it may be told twice."""
        if self._post is None or not self._url:
            return
        if len(self._posting) >= MAX_POSTS:
            _log.error("too many notices wait for the operator's endpoint: one about {user} is not sent", user=user)
            return
        body = json.dumps({"type": CODE, "user": user, **members}, separators=(",", ":")).encode()
        posting = Deferred.fromCoroutine(self._deliver(self._post, user, body))
        self._posting.add(posting)
        posting.addErrback(self._not_sent)
        posting.addBoth(lambda _: self._posting.discard(posting))

    async def _deliver(self, post: Post, user: str, body: bytes) -> None:
        reason = ""
        for pause in (*PAUSES, 0.0):
            try:
                status = await post(self._url, {"Content-Type": "application/json"}, body)
            except Undelivered as error:
                reason = str(error)
            else:
                if 200 <= status < 300:
                    return
                reason = f"status {status}"
            if pause:
                await deferLater(self._clock, pause)
        _log.error("the operator's endpoint was not told of {user}: {reason}", user=user, reason=reason)

    def stop(self) -> None:
        """Try no longer."""
        for posting in list(self._posting):
            posting.cancel()

    @staticmethod
    def _not_sent(failure: Failure) -> None:
        if not isinstance(failure.value, CancelledError):
            _log.failure("a notice could not be sent", failure)
