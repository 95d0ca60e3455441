"""``/dashboard/api/apps/<app>/queues…``: the queues of the visitor's applications."""

from __future__ import annotations

import attrs

from flowgate.dashboard.admission import Admission
from flowgate.errors import InvalidParameter, NotFound, Refused
from flowgate.http.answers import NO_CONTENT, Answer, Route, json_answer
from flowgate.http.bodies import Members, check_known, read_object, read_query
from flowgate.http.queue_access import one_value
from flowgate.http.queue_values import shown_message, shown_queue, shown_redrive, whole
from flowgate.http.request import Request
from flowgate.queues.service import Queues
from flowgate.topics import Namespace

_QUEUES = "/dashboard/api/apps/<app>/queues"
_QUEUE = f"{_QUEUES}/<name>"

PAGE = 50
"""Queues on one page: each is opened on this node to be counted."""
PEEKED = 20
"""Messages that one look shows."""


class QueuePages:
    """What the pages show of queues, and the verbs behind their buttons."""

    def __init__(self, admission: Admission, queues: Queues) -> None:
        self._admission = admission
        self._queues = queues

    def routes(self) -> list[Route]:
        return [
            Route("GET", _QUEUES, self.listing),
            Route("POST", _QUEUES, self.create),
            Route("GET", _QUEUE, self.describe),
            Route("DELETE", _QUEUE, self.remove),
            Route("GET", f"{_QUEUE}/messages", self.peek),
            Route("POST", f"{_QUEUE}/purge", self.purge),
            Route("POST", f"{_QUEUE}/redrive", self.redrive),
            Route("DELETE", f"{_QUEUE}/redrive/<task>", self.cancel_redrive),
        ]

    async def _home(self, request: Request, app: str) -> Namespace:
        visitor = await self._admission.visitor(request)
        return Namespace.checked(visitor.user, app)

    async def _counted(self, home: Namespace, name: str) -> dict[str, object] | None:
        """The figures of a queue; ``None`` if they cannot be had at this moment."""
        try:
            return attrs.asdict(await self._queues.stats(home, name))
        except Refused:
            return None  # removed by now, or the bus is away: the others are shown all the same

    async def listing(self, request: Request, app: str) -> Answer:
        home = await self._home(request, app)
        query = read_query(request)
        check_known(query, ("prefix", "cursor"), "parameter")
        found = self._queues.listing(home, one_value(query, "prefix"), one_value(query, "cursor"), PAGE + 1)
        shown = [{**shown_queue(one), "stats": await self._counted(home, one.name)} for one in found[:PAGE]]
        return json_answer({"queues": shown, "next": found[PAGE - 1].name if len(found) > PAGE else None})

    async def create(self, request: Request, app: str) -> Answer:
        home = await self._home(request, app)
        body = Members(read_object(request))
        body.only("name", "dead_letter", "max_receives", "visibility")
        name, dead_letter = body.text("name"), body.optional_text("dead_letter")
        config: dict[str, object] = {}
        if dead_letter:
            config["dead_letter"] = {"queue": dead_letter, "max_receives": whole(body, "max_receives")}
        elif "max_receives" in body:
            raise InvalidParameter("max_receives is for a queue with a dead-letter queue")
        if "visibility" in body:
            config["visibility"] = whole(body, "visibility")
        await self._queues.configure(home, name, config)
        return json_answer(shown_queue(await self._queues.describe(home, name)), 201)

    async def describe(self, request: Request, app: str, name: str) -> Answer:
        home = await self._home(request, app)
        described = await self._queues.describe(home, name)
        shown = {
            **shown_queue(described),
            "stats": await self._counted(home, name),
            "subscriptions": list(described.subscriptions),
            "dead_letters_of": self._queues.sources(home, name)[:PAGE],
            "redrives": [shown_redrive(one) for one in await self._queues.redrives(home, name)],
        }
        return json_answer(shown)

    async def remove(self, request: Request, app: str, name: str) -> Answer:
        await self._queues.remove(await self._home(request, app), name)
        return NO_CONTENT

    async def peek(self, request: Request, app: str, name: str) -> Answer:
        found = await self._queues.peek(await self._home(request, app), name, PEEKED)
        return json_answer({"messages": [shown_message(one) for one in found]})

    async def purge(self, request: Request, app: str, name: str) -> Answer:
        await self._queues.purge(await self._home(request, app), name)
        return NO_CONTENT

    async def redrive(self, request: Request, app: str, name: str) -> Answer:
        home = await self._home(request, app)
        body = Members(read_object(request))
        body.only("destination", "max_per_second")
        destination = body.optional_text("destination") or None
        if destination is None and not self._queues.sources(home, name):
            raise NotFound("no queue has its dead letters here: name a destination")
        started = await self._queues.start_redrive(home, name, destination, whole(body, "max_per_second"))
        return json_answer(shown_redrive(started), 202)

    async def cancel_redrive(self, request: Request, app: str, name: str, task: str) -> Answer:
        home = await self._home(request, app)
        return json_answer(shown_redrive(await self._queues.cancel_redrive(home, name, task)))
