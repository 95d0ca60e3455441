"""``/api/v1/queues/<name>/messages…``: sending, receiving, deleting."""

from __future__ import annotations

import re
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

from flowgate.allowances import FREE, Allowance
from flowgate.auth.permissions import Principal
from flowgate.errors import InvalidParameter, MissingField, NotFound, Refused
from flowgate.http.answers import NO_CONTENT, Answer, Headers, Route, json_answer, wrong_method
from flowgate.http.bodies import Members, query_integer, read_object
from flowgate.http.credentials import Credentials
from flowgate.http.problems import rate_headers
from flowgate.http.publish import idempotency_key
from flowgate.http.queue_access import QueueAccess, one_value, optional_members
from flowgate.http.queue_values import MESSAGE, read_message, required, shown_message, shown_sent, whole
from flowgate.http.request import Request
from flowgate.queues.model import MAX_BATCH, MAX_RECEIVE, MAX_VISIBILITY, MAX_WAIT, Outgoing, Sent, is_fifo
from flowgate.queues.paying import send_paid
from flowgate.queues.service import Queues

_MESSAGES = "/api/v1/queues/<name>/messages"
_ENTRY_ID = re.compile(r"[A-Za-z0-9_-]{1,80}\Z")
_T = TypeVar("_T")

MOST_SEEN = 100
"""Messages that one look shows."""


class BatchEmpty(InvalidParameter):
    code, title = "batch_empty", "The batch has no entries"


class BatchTooMany(InvalidParameter):
    code, title = "batch_too_many", "The batch has too many entries"


class BatchIdInvalid(InvalidParameter):
    code, title = "batch_id_invalid", "The id of a batch's entry is not as it should be"


class BatchIdRepeated(InvalidParameter):
    code, title = "batch_id_repeated", "Two entries of the batch have the same id"


class QueueMessages:
    """Translates between HTTP and the queues' messages; the service checks all values."""

    def __init__(
        self, queues: Queues, credentials: Credentials, allowance: Callable[[Principal], Allowance] = lambda _: FREE
    ) -> None:
        self._queues = queues
        self._allowance = allowance
        self._access = QueueAccess(credentials)

    def routes(self) -> list[Route]:
        return [
            Route("POST", _MESSAGES, self.send),
            Route("POST", f"{_MESSAGES}/batch", self.send_batch),
            Route("POST", f"{_MESSAGES}/receive", self.receive),
            Route("GET", f"{_MESSAGES}/receive", self.receive_by_query),
            Route("GET", _MESSAGES, self.receive_by_query),
            Route("GET", f"{_MESSAGES}/peek", self.peek),
            Route("POST", f"{_MESSAGES}/delete", self.delete_batch),
            Route("POST", f"{_MESSAGES}/visibility", self.change_visibility_batch),
            Route("DELETE", f"{_MESSAGES}/<receipt>", self.delete),
            Route("PATCH", f"{_MESSAGES}/<receipt>", self.change_visibility),
        ]

    # -- send

    async def send(self, request: Request, name: str) -> Answer:
        principal = self._access.admit(request, name, "send")
        body = Members(read_object(request))
        body.only(*MESSAGE)
        key = idempotency_key(request)
        if key is not None and not is_fifo(name):
            raise InvalidParameter(
                "Idempotency-Key is the deduplication id of a FIFO queue's message; a standard queue has none"
            )
        message = read_message(body, principal.key_id, key)
        # Whoever may manage a queue may make it: the first message does.
        may_create = principal.grants.may_use_queue(name, "manage")
        (sent,) = await self._send(principal, name, [message], may_create)
        if isinstance(sent, Refused):
            raise sent
        return json_answer(shown_sent(sent), 200 if sent.duplicate else 201, self._rates(principal))

    async def send_batch(self, request: Request, name: str) -> Answer:
        principal = self._access.admit(request, name, "send")
        body = Members(read_object(request))
        body.only("messages")
        if idempotency_key(request) is not None:
            raise InvalidParameter("in a batch each message has its own 'dedup_id', instead of an Idempotency-Key")

        def message(entry: Members) -> Outgoing:
            entry.only("id", *MESSAGE)
            return read_message(entry, principal.key_id)

        ids, messages = _entries(body, "messages", message)
        may_create = principal.grants.may_use_queue(name, "manage")
        results = await self._send(principal, name, messages, may_create)
        successful: list[object] = []
        failed: list[object] = []
        for id_, result in zip(ids, results, strict=True):
            if isinstance(result, Refused):
                failed.append(_failed(id_, result))
            else:
                successful.append({"id": id_, **shown_sent(result, "message_id")})
        return json_answer({"successful": successful, "failed": failed}, headers=self._rates(principal))

    def _rates(self, principal: Principal) -> Headers:
        """Where the sender stands with its rates, if it has any."""
        return rate_headers(self._allowance(principal).standings())

    def _send(
        self, principal: Principal, name: str, messages: Sequence[Outgoing], may_create: bool
    ) -> Coroutine[Any, Any, list[Sent | Refused]]:
        return send_paid(
            self._allowance(principal),
            messages,
            lambda some: self._queues.send(principal.home, name, some, may_create=may_create),
        )

    # -- receive

    async def receive(self, request: Request, name: str) -> Answer:
        principal = self._access.admit(request, name, "receive")
        body = optional_members(request, "max", "wait", "visibility", "attempt_id")
        return await self._receive(
            principal,
            name,
            body.integer("max", 1, MAX_RECEIVE),
            body.integer("wait", 0, MAX_WAIT),
            body.integer("visibility", 0, MAX_VISIBILITY),
            body.optional_text("attempt_id"),
        )

    async def receive_by_query(self, request: Request, name: str) -> Answer:
        if request.method == b"HEAD":  # it would take messages and not show them
            return wrong_method(request, "GET, POST")
        principal, query = self._access.admit_query(
            request, name, ("max", "wait", "visibility", "attempt_id"), "receive"
        )
        return await self._receive(
            principal,
            name,
            query_integer(query, "max", 1, MAX_RECEIVE),
            query_integer(query, "wait", 0, MAX_WAIT),
            query_integer(query, "visibility", 0, MAX_VISIBILITY),
            one_value(query, "attempt_id") or None,
        )

    async def _receive(
        self,
        principal: Principal,
        name: str,
        most: int | None,
        wait: int | None,
        visibility: int | None,
        attempt: str | None,
    ) -> Answer:
        received = await self._queues.receive(
            principal.home, name, 1 if most is None else most, wait, visibility, attempt, principal
        )
        return json_answer({"messages": [shown_message(one) for one in received]})

    async def peek(self, request: Request, name: str) -> Answer:
        principal, query = self._access.admit_query(request, name, ("limit",), "receive")
        limit = query_integer(query, "limit", 1, MOST_SEEN) or MAX_RECEIVE
        messages = await self._queues.peek(principal.home, name, limit)
        return json_answer({"messages": [shown_message(one) for one in messages]})

    # -- delete, change visibility

    async def delete(self, request: Request, name: str, receipt: str) -> Answer:
        home = self._access.admit(request, name, "receive").home
        (refusal,) = await self._queues.delete(home, name, [receipt])
        if refusal is not None:
            raise refusal
        return NO_CONTENT

    async def delete_batch(self, request: Request, name: str) -> Answer:
        home = self._access.admit(request, name, "receive").home
        body = Members(read_object(request))
        body.only("entries", "receipts")
        if ("entries" in body) == ("receipts" in body):
            raise MissingField("either the member 'entries' or the member 'receipts' is needed")
        if "receipts" in body:
            receipts: Sequence[str] = body.texts("receipts") or ()
            _check_count(len(receipts))
            ids = [str(index) for index in range(len(receipts))]
        else:

            def receipt(entry: Members) -> str:
                entry.only("id", "receipt")
                return entry.text("receipt")

            ids, receipts = _entries(body, "entries", receipt)
        return _outcome(ids, await self._queues.delete(home, name, receipts))

    async def change_visibility(self, request: Request, name: str, receipt: str) -> Answer:
        home = self._access.admit(request, name, "receive").home
        body = Members(read_object(request))
        body.only("visibility")
        seconds = required(whole(body, "visibility"), "visibility")
        (refusal,) = await self._queues.change_visibility(home, name, [(receipt, seconds)])
        if refusal is not None and not isinstance(refusal, NotFound):
            raise refusal
        return NO_CONTENT

    async def change_visibility_batch(self, request: Request, name: str) -> Answer:
        home = self._access.admit(request, name, "receive").home
        body = Members(read_object(request))
        body.only("entries")

        def change(entry: Members) -> tuple[str, int]:
            entry.only("id", "receipt", "visibility")
            return entry.text("receipt"), required(whole(entry, "visibility"), "visibility")

        ids, changes = _entries(body, "entries", change)
        results = await self._queues.change_visibility(home, name, changes)
        # A message that is gone wants no other time: as with one alone.
        return _outcome(ids, [None if isinstance(one, NotFound) else one for one in results])


def _check_count(count: int) -> None:
    if not count:
        raise BatchEmpty()
    if count > MAX_BATCH:
        raise BatchTooMany(f"a batch has at most {MAX_BATCH} entries; this one has {count}")


def _entries(body: Members, member: str, read: Callable[[Members], _T]) -> tuple[list[str], list[_T]]:
    """The ids and the rest of a batch's entries.  What is malformed refuses the whole batch, with its place.

    :raises Refused: with the reason.
    """
    entries = body.value(member)
    if not isinstance(entries, list):
        raise InvalidParameter(f"the member {member!r} must be a list")
    _check_count(len(entries))
    ids: dict[str, None] = {}
    found: list[_T] = []
    for index, entry in enumerate(entries):
        try:
            if not isinstance(entry, dict):
                raise InvalidParameter("an entry must be an object")
            members = Members(entry)
            id_ = members.text("id")
            if not _ENTRY_ID.match(id_):
                raise BatchIdInvalid("the id of an entry is 1 to 80 of A-Z, a-z, 0-9, '_' and '-'")
            if id_ in ids:
                raise BatchIdRepeated(f"the id {id_!r} is repeated")
            ids[id_] = None
            found.append(read(members))
        except Refused as refusal:
            raise type(refusal)(f"{member}[{index}]: {refusal.detail}") from None
    return list(ids), found


def _failed(id_: str, refusal: Refused) -> dict[str, object]:
    detail = refusal.title if refusal.status >= 500 else refusal.detail
    return {"id": id_, "code": refusal.code, "detail": detail, "sender_fault": refusal.status < 500}


def _outcome(ids: Sequence[str], results: Sequence[Refused | None]) -> Answer:
    pairs = list(zip(ids, results, strict=True))
    return json_answer(
        {
            "successful": [{"id": id_} for id_, refusal in pairs if refusal is None],
            "failed": [_failed(id_, refusal) for id_, refusal in pairs if refusal is not None],
        }
    )
