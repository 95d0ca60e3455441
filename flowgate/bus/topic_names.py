"""The topics of a namespace, as the stream knows them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from heapq import nsmallest
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from flowgate.bus.link import Link, decode_json
from flowgate.bus.names import filter_subject, namespace_subject, subject_topic
from flowgate.bus.stream import StreamSettings
from flowgate.errors import BusUnavailable
from flowgate.gate import Gate
from flowgate.topics import Namespace

_AT_A_TIME = 2000
"""Names that are looked at before others have their turn: about 5 ms."""


class TopicNames:
    """Lists the topics that hold messages.

    The server looks at all subjects of the namespace each time, and answers with up to 100,000: so nobody is answered
    beside another, and where the beginning of the names says which levels are meant, only those are looked at.
    """

    def __init__(self, reactor: Any, link: Link, settings: StreamSettings) -> None:
        self._reactor = reactor
        self._link = link
        self._settings = settings
        self._gate = Gate()

    def page(
        self, namespace: Namespace, prefix: str, after: str, limit: int, admits: Callable[[str], bool]
    ) -> Deferred[list[tuple[str, int]]]:
        """See :meth:`IBus.topics`."""
        return self._gate.run(lambda: Deferred.fromCoroutine(self._page(namespace, prefix, after, limit, admits)))

    async def _page(
        self, namespace: Namespace, prefix: str, after: str, limit: int, admits: Callable[[str], bool]
    ) -> list[tuple[str, int]]:
        levels, slash, _ = prefix.rpartition("/")
        # "a/#" takes in "a" too, which does not begin with "a/"; it is passed over like all that do not.
        subject = filter_subject("*", namespace, levels + "/#") if slash else namespace_subject("*", namespace)
        found: dict[str, int] = {}
        offset = 0
        while True:
            subjects, total = await self._subjects(subject, offset)
            for some in _pieces(subjects):
                for one, count in some:
                    name = subject_topic(one.encode())[1].name
                    if name in found:  # the acknowledged and the unacknowledged messages of a topic have a subject each
                        found[name] += count
                    elif name > after and name.startswith(prefix) and admits(name):
                        found[name] = count
                await deferLater(self._reactor, 0)
            page = nsmallest(limit, found.items())
            offset += len(subjects)
            if not subjects or offset >= total:
                return page
            found = dict(page)  # what lies behind is on no page that is asked for now

    async def _subjects(self, subject: str, offset: int) -> tuple[dict[str, int], int]:
        body = json.dumps({"subjects_filter": subject, "offset": offset}).encode()
        answer = decode_json(await self._link.request(f"$JS.API.STREAM.INFO.{self._settings.name}", body))
        if "error" in answer:
            raise BusUnavailable(f"the stream {self._settings.name} cannot be read")
        return answer["state"].get("subjects") or {}, int(answer.get("total", 0))


def _pieces(subjects: dict[str, int]) -> Iterator[list[tuple[str, int]]]:
    items = list(subjects.items())
    for start in range(0, len(items), _AT_A_TIME):
        yield items[start : start + _AT_A_TIME]
