"""``/api/v1/queues…``: queues as such; their messages are in ``queue_messages``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from urllib.parse import quote

import attrs

from flowgate.allowances import FREE, Allowance
from flowgate.auth.permissions import Principal
from flowgate.errors import Conflict, InsufficientScope, InvalidTopic, NotFound
from flowgate.http.answers import NO_CONTENT, Answer, Headers, Route, json_answer
from flowgate.http.bodies import Members, check_known, query_integer, read_object, read_query
from flowgate.http.credentials import Credentials
from flowgate.http.queue_access import QueueAccess, check_grant, no_members, one_value, optional_members
from flowgate.http.queue_messages import QueueMessages
from flowgate.http.queue_values import merged_tags, shown_queue, shown_redrive, whole
from flowgate.http.request import Request
from flowgate.queues.model import Configured, QueueConfig, QueueDescription, is_fifo
from flowgate.queues.service import Queues
from flowgate.topics import RESERVED, Namespace, Resolved, check_filter, is_reserved, resolve

_QUEUES = "/api/v1/queues"
_QUEUE = f"{_QUEUES}/<name>"

PAGE_QUEUES = 100
MOST_QUEUES = 1000


class Immutable(Conflict):
    code, title = "immutable", "This cannot be changed"


class QueueCalls:
    """Translates between HTTP and the queues, which check all values themselves."""

    def __init__(
        self, queues: Queues, credentials: Credentials, allowance: Callable[[Principal], Allowance] = lambda _: FREE
    ) -> None:
        self._queues = queues
        self._access = QueueAccess(credentials)
        self._messages = QueueMessages(queues, credentials, allowance)

    def routes(self) -> list[Route]:
        return [
            Route("GET", _QUEUES, self.page),
            Route("POST", _QUEUES, self.create),
            Route("PUT", _QUEUE, self.configure),
            Route("GET", _QUEUE, self.describe),
            Route("PATCH", _QUEUE, self.change),
            Route("DELETE", _QUEUE, self.remove),
            Route("POST", f"{_QUEUE}/purge", self.purge),
            Route("GET", f"{_QUEUE}/dead-letter-sources", self.sources),
            Route("POST", f"{_QUEUE}/redrive", self.start_redrive),
            Route("GET", f"{_QUEUE}/redrive", self.redrives),
            Route("DELETE", f"{_QUEUE}/redrive/<task>", self.cancel_redrive),
            Route("PUT", f"{_QUEUE}/subscriptions", self.subscribe),
            Route("GET", f"{_QUEUE}/subscriptions", self.subscriptions),
            Route("DELETE", f"{_QUEUE}/subscriptions", self.unsubscribe),
            *self._messages.routes(),
        ]

    # -- queues

    async def page(self, request: Request) -> Answer:
        principal, query = self._access.admit_query(request, None, ("prefix", "limit", "cursor"))
        prefix, after = one_value(query, "prefix"), one_value(query, "cursor")
        limit = query_integer(query, "limit", 1, MOST_QUEUES) or PAGE_QUEUES
        found: list[QueueDescription] = []
        while len(found) <= limit:  # one more than asked for tells whether there is a next page
            some = self._queues.listing(principal.home, prefix, after, MOST_QUEUES)
            found += [one for one in some if principal.grants.may_use_queue(one.name)]
            if len(some) < MOST_QUEUES:
                break
            after = some[-1].name
        shown = [shown_queue(one) for one in found[:limit]]
        return json_answer({"queues": shown, "next": shown[-1]["name"] if len(found) > limit else None})

    async def create(self, request: Request) -> Answer:
        principal = self._access.admit(request)
        members = read_object(request)
        name = Members(members).text("name")
        check_grant(principal, name, "manage")
        config = {member: value for member, value in members.items() if member != "name"}
        return await self._configure(principal, name, config, ((b"Location", f"{_QUEUES}/{quote(name)}".encode()),))

    async def configure(self, request: Request, name: str) -> Answer:
        principal = self._access.admit(request, name, "manage")
        return await self._configure(principal, name, read_object(request) if request.body() else {})

    async def _configure(
        self, principal: Principal, name: str, config: Mapping[str, object], headers: Headers = ()
    ) -> Answer:
        _check_dead_letter(principal, name, config)
        outcome = await self._queues.configure(principal.home, name, config)
        described = await self._queues.describe(principal.home, name)
        created = outcome is Configured.CREATED
        return json_answer(shown_queue(described), 201 if created else 200, headers if created else ())

    async def describe(self, request: Request, name: str) -> Answer:
        home = self._access.admit(request, name, "receive", "manage").home
        described = await self._queues.describe(home, name)
        stats = await self._queues.stats(home, name)
        return json_answer({**shown_queue(described), "stats": attrs.asdict(stats)})

    async def change(self, request: Request, name: str) -> Answer:
        principal = self._access.admit(request, name, "manage")
        changes = read_object(request)
        _check_dead_letter(principal, name, changes)
        other = "standard" if is_fifo(name) else "fifo"
        if changes.get("type") == other:
            raise Immutable("a queue cannot become one of the other type")
        patch = Members(changes).mapping("tags")
        if patch is None:
            return json_answer(shown_queue(await self._queues.change(principal.home, name, changes)))
        return json_answer(shown_queue(await self._change_tags(principal.home, name, changes, patch)))

    async def _change_tags(
        self, home: Namespace, name: str, changes: Mapping[str, object], patch: Mapping[str, object]
    ) -> QueueDescription:
        """Merge ``patch`` into the tags as they are at the moment of the change, and make the other changes."""

        def merge(one: QueueDescription) -> QueueDescription:
            tags = merged_tags(one.config.tags, patch)
            return attrs.evolve(one, config=QueueConfig.parse(name, {**changes, "tags": tags}, one.config))

        merge(await self._queues.describe(home, name))  # all of it is checked before anything is changed
        # Dead letters are checked against other queues, which the second step does not look at.
        await self._queues.change(home, name, {member: value for member, value in changes.items() if member != "tags"})
        return await self._queues.edit(home, name, merge)

    async def remove(self, request: Request, name: str) -> Answer:
        home = self._access.admit(request, name, "manage").home
        await self._queues.remove(home, name)
        return NO_CONTENT

    async def purge(self, request: Request, name: str) -> Answer:
        home = self._access.admit(request, name, "manage").home
        no_members(request)
        await self._queues.purge(home, name)
        return NO_CONTENT

    # -- dead letters

    async def sources(self, request: Request, name: str) -> Answer:
        principal = self._access.admit(request, name, "receive", "manage")
        await self._queues.describe(principal.home, name)  # if there is none, it is no dead-letter queue
        names = self._queues.sources(principal.home, name)
        return json_answer({"queues": [one for one in names if principal.grants.may_use_queue(one)]})

    async def start_redrive(self, request: Request, name: str) -> Answer:
        principal = self._access.admit(request, name, "manage")
        body = optional_members(request, "destination", "max_per_second")
        destination = body.optional_text("destination")
        redrive = await self._queues.start_redrive(
            principal.home, name, destination, whole(body, "max_per_second"), principal.grants.queues
        )
        return json_answer(shown_redrive(redrive), 202)

    async def redrives(self, request: Request, name: str) -> Answer:
        home = self._access.admit(request, name, "manage").home
        return json_answer({"tasks": [shown_redrive(one) for one in await self._queues.redrives(home, name)]})

    async def cancel_redrive(self, request: Request, name: str, task: str) -> Answer:
        home = self._access.admit(request, name, "manage").home
        return json_answer(shown_redrive(await self._queues.cancel_redrive(home, name, task)))

    # -- subscriptions to topics

    async def subscribe(self, request: Request, name: str) -> Answer:
        principal = self._access.admit(request, name, "manage")
        body = Members(read_object(request))
        body.only("topic")
        topic = body.text("topic")
        resolved = _resolve(principal, topic)
        if not principal.grants.may_subscribe(resolved.namespace, resolved.rest):
            raise InsufficientScope("the token does not permit subscribing to this filter")
        check_filter(resolved.rest)
        if is_reserved(resolved.rest):
            raise InvalidTopic(f"{RESERVED} holds figures that are not stored: no queue can have them")
        new = await self._queues.subscribe(principal.home, name, resolved.namespace.prefix + resolved.rest)
        return json_answer({"topic": topic}, 201 if new else 200)

    async def subscriptions(self, request: Request, name: str) -> Answer:
        principal = self._access.admit(request, name, "manage")
        described = await self._queues.describe(principal.home, name)
        return json_answer({"subscriptions": [{"topic": _shown(principal, one)} for one in described.subscriptions]})

    async def unsubscribe(self, request: Request, name: str) -> Answer:
        # Not every client can send a body with DELETE.
        principal = self._access.admit_any(request, name, "manage")
        query = read_query(request, "topic")
        check_known(query, ("topic",), "parameter")
        if "topic" in query:
            no_members(request)
            topic = one_value(query, "topic")
        else:
            body = Members(read_object(request))
            body.only("topic")
            topic = body.text("topic")
        resolved = _resolve(principal, topic)
        check_filter(resolved.rest)
        # A full name of another application is not known as one if the grant has ended, with a share: try it as it is.
        for filter_ in (resolved.namespace.prefix + resolved.rest, topic):
            if await self._queues.unsubscribe(principal.home, name, filter_):
                return NO_CONTENT
        raise NotFound("the queue is not subscribed to this filter")


def _check_dead_letter(principal: Principal, name: str, config: Mapping[str, object]) -> None:
    """Whoever names a dead-letter queue has messages moved to it: that needs grants as well."""
    dead = config.get("dead_letter")
    queue = dead.get("queue") if isinstance(dead, dict) else None
    if isinstance(queue, str) and not principal.grants.may_move(name, queue):
        raise InsufficientScope("the token does not permit moving messages from this queue to its dead-letter queue")


def _resolve(principal: Principal, topic: str) -> Resolved:
    return resolve(topic, principal.home, principal.grants.namespaces)


def _shown(principal: Principal, filter_: str) -> str:
    """A full filter as this principal writes it: short at home, unless that would stand for another one."""
    home, namespaces = principal.home, principal.grants.namespaces
    user, app, rest = filter_.split("_", 2)
    short = Namespace(user, app) == home and not resolve(rest, home, namespaces).full
    return rest if short else filter_
