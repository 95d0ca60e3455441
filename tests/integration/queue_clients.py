"""Senders and workers of a queue that carry on whatever is killed, and what they have seen of it.

They use REST, as any client would.  All times are seconds since 1970 by this machine's clock, which is nats-server's.
"""

from __future__ import annotations

import http.client
import json
import random
import time
from collections.abc import Callable, Sequence
from itertools import count, pairwise
from threading import Thread
from typing import Any, Protocol

import attrs

from tests.integration.gateway import PATIENCE

BATCH = 10
_AGAIN = 0.02
"""Seconds between two attempts."""


class Unavailable(Exception):
    """No answer, half an answer, or one that says to come again: whatever was asked may have been done."""


class Progress(Protocol):
    """What the threads of a test tell each other."""

    allowed: int
    failure: BaseException | None

    @property
    def left(self) -> float: ...

    def fail(self, failure: BaseException) -> None: ...

    def pause(self, seconds: float) -> None: ...


class QueueClient:
    """A connection to one queue, made anew whenever it is lost.

    :param port: says where a gateway listens now; 0 if none does.
    """

    def __init__(self, port: Callable[[], int], token: str, queue: str) -> None:
        self._port = port
        self.queue = queue
        self._headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        self._path = f"/api/v1/queues/{queue}"
        self._connection: http.client.HTTPConnection | None = None

    def call(self, method: str, path: str = "", body: object = None) -> Any:
        """Make a call; return its decoded answer.

        :raises Unavailable: if it may be made again.
        :raises AssertionError: if it is refused.
        """
        data = None if body is None else json.dumps(body).encode()
        try:
            if self._connection is None:
                port = self._port()
                if not port:
                    raise Unavailable
                self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
            self._connection.request(method, self._path + path, data, self._headers)
            with self._connection.getresponse() as answer:
                status, text = answer.status, answer.read()
        except (OSError, http.client.HTTPException) as error:
            if isinstance(error, TimeoutError):
                raise AssertionError(f"{method} {path} is not answered within {PATIENCE:.0f} s") from None
            self.close()
            raise Unavailable from None
        if status == 503:
            raise Unavailable
        if status >= 300:
            raise AssertionError(f"{method} {path}: {status} {text[:300]!r}")
        return json.loads(text) if text else None

    @property
    def port(self) -> int:
        return self._port()

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def move(self) -> None:
        """Go to another node, perhaps."""
        self.close()

    def counts(self) -> tuple[int, int, int]:
        """Messages that are visible, in flight, delayed."""
        stats = self.call("GET")["stats"]
        return stats["visible"], stats["in_flight"], stats["delayed"]


class Waiting:
    """A receive that waits for a message."""

    def __init__(self, port: int, token: str, queue: str, **members: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE + 5)
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        path = f"/api/v1/queues/{queue}/messages/receive"
        self._connection.request("POST", path, json.dumps({"wait": 20, **members}), headers)

    def answer(self) -> tuple[int, Any]:
        """Wait for the answer; return its status, and the messages if there are some."""
        with self._connection.getresponse() as answer:
            members = json.loads(answer.read())
        return answer.status, members.get("messages")

    def close(self) -> None:
        """Go away, whether or not there was an answer."""
        self._connection.close()


@attrs.define(slots=True, eq=False)
class Delivery:
    """A message as a worker received it.

    :ivar call: which of all receives it came with.
    :ivar asked: when that receive was asked for: the gateway cannot have taken the message before.
    :ivar answered: when the worker had it.
    :ivar count: how often it was received before and now, as the gateway says.
    :ivar first: when it was first received, as the gateway says, in milliseconds.
    :ivar hidden: until when nobody else may have it, at least.
    :ivar ended: when the worker first asked to delete it or to give it back, if it did.
    :ivar deletes: when the worker asked to delete it, each time.
    :ivar deleted: when the worker knew that it is deleted, if it was told so.
    :ivar late: whether the worker may have changed the visibility of what was with somebody else by then.
    """

    call: int
    asked: float
    answered: float
    id: str
    receipt: str
    body: str
    group: str
    count: int
    first: int
    sequence: str
    hidden: float
    ended: float = float("inf")
    deletes: list[float] = attrs.field(factory=list)
    deleted: float = float("inf")
    late: bool = False

    def __str__(self) -> str:
        return (
            f"{self.body} (receive {self.call}, count {self.count}) asked {self.asked:.3f}, "
            f"answered {self.answered:.3f}, first received {self.first / 1000:.3f}, hidden until {self.hidden:.3f}, "
            f"asked to delete {self.deletes}, deleted {self.deleted:.3f}"
        )


class Ledger:
    """What became of the messages of one queue, as its clients know it.

    Lists and dictionaries are only added to, each by a single operation: threads need no lock.

    :ivar sent: the body of every message that was acknowledged, by id.
    :ivar repeats: how often a send was made again.
    :ivar processed: bodies that were deleted, as the gateway has said.
    """

    def __init__(self, visibility: float) -> None:
        self.visibility = visibility
        self.calls = count()
        self.sent: dict[str, str] = {}
        self.repeats = 0
        self.deliveries: list[Delivery] = []
        self.processed: dict[str, None] = {}

    # -- what must hold in the end; each gives what is wrong, in words

    def lost(self) -> list[str]:
        """Acknowledged messages that nobody received."""
        received = {one.id for one in self.deliveries}
        return [f"{body} was acknowledged and never came" for id_, body in self.sent.items() if id_ not in received]

    def too_early(self) -> list[str]:
        """Messages that came again while they were hidden, or after they were deleted, or with a wrong count."""
        wrong = []
        for messages in self._by(lambda one: one.id).values():
            for before, after in pairwise(messages):
                if before.late:
                    break
                if after.answered < before.hidden:
                    early = before.hidden - after.answered
                    wrong.append(f"{after} came {early:.3f} s too early, after {before}")
                if after.count <= before.count:
                    wrong.append(f"{after} does not count on from {before}")
            # Behind an acknowledged deletion nothing is given; an answer that was on its way then is no fault.
            deleted = min(messages, key=lambda one: one.deleted)
            last = messages[-1]
            if last.asked > deleted.deleted or (last.answered > deleted.deleted and deleted.deleted < deleted.hidden):
                wrong.append(f"{last} came after it was deleted: {deleted}")
        return wrong

    def strange_times(self) -> list[str]:
        """First receives whose time, as the gateway has it, does not lie between question and answer."""
        return [
            f"{one} was not received then"
            for one in self.deliveries
            if one.count == 1 and not one.asked * 1000 - 1 <= one.first <= one.answered * 1000 + 1
        ]

    def repeated(self) -> list[str]:
        """FIFO: bodies that are stored more than once, or not as the sender was told."""
        wrong = []
        for body, deliveries in self._by(lambda one: one.body).items():
            if len({(one.id, one.sequence) for one in deliveries}) > 1:
                wrong.append(f"{body} is there more than once")
            elif deliveries[0].id not in self.sent:
                wrong.append(f"{body} is there with another id than its sender was told")
        return wrong

    def out_of_order(self) -> list[str]:
        """FIFO: messages that came before one of their group that was sent before had been deleted, or was in flight.

        Bodies end in their number in the group.
        """
        wrong = []
        for group, deliveries in self._by(lambda one: one.group).items():
            numbers = list(dict.fromkeys(_number(one) for one in deliveries))
            if numbers != list(range(len(numbers))):
                at = next(i for i, number in enumerate(numbers) if number != i)
                wrong.append(f"the group {group} came in the order {numbers[max(0, at - 3) : at + 5]}, from place {at}")
            # A message is over with the first deletion that was asked for after it came for the last time.
            over: dict[int, float] = {}
            for one in deliveries:
                over[_number(one)] = min((at for at in one.deletes), default=float("inf"))
            open_: dict[int, None] = dict.fromkeys(sorted(over))
            for one in deliveries:
                number = _number(one)
                for other in list(open_):
                    if over[other] < one.answered:
                        del open_[other]
                    elif other < number and not any(
                        same.call == one.call and _number(same) == other for same in deliveries
                    ):
                        wrong.append(f"{one} came while {group}:{other} was still to be processed")
                        break
                    elif other >= number:
                        break
            wrong += self._not_blocked(deliveries)
        return wrong

    def _not_blocked(self, deliveries: Sequence[Delivery]) -> list[str]:
        wrong = []
        flying: list[Delivery] = []
        for one in deliveries:
            flying = [other for other in flying if min(other.hidden, other.ended) > one.answered]
            wrong += [f"{one} came while {other} was in flight" for other in flying if other.call != one.call]
            flying.append(one)
        return wrong

    def _by(self, key: Callable[[Delivery], str]) -> dict[str, list[Delivery]]:
        """Deliveries in the order in which they came."""
        found: dict[str, list[Delivery]] = {}
        # Those of one receive are added together, in their order: sorting keeps it.
        for one in sorted(self.deliveries, key=lambda one: one.answered):
            found.setdefault(key(one), []).append(one)
        return found


def _number(delivery: Delivery) -> int:
    return int(delivery.body.rpartition(":")[2])


class Running(Thread):
    """A client in a thread of its own."""

    def __init__(self, client: QueueClient, ledger: Ledger, progress: Progress, chance: random.Random) -> None:
        super().__init__(daemon=True)
        self.client = client
        self.ledger = ledger
        self.progress = progress
        self.chance = chance

    def work(self) -> None:
        raise NotImplementedError

    def run(self) -> None:
        try:
            self.work()
        except BaseException as failure:
            self.progress.fail(failure)
        finally:
            self.client.close()

    def insist(self, method: str, path: str, body: object, asked: Callable[[float], object] | None = None) -> Any:
        """Make a call until it is answered; ``asked`` is told the time of every attempt.

        :raises TimeoutError: if the test is over before.
        """
        while self.progress.left and self.progress.failure is None:
            if asked is not None:
                asked(time.time())
            try:
                return self.client.call(method, path, body)
            except Unavailable:
                self.progress.pause(_AGAIN)
        raise TimeoutError(f"{method} {path} was still to be done")


class Sending(Running):
    """Sends messages in batches, in order; what is not acknowledged is sent again.

    :param messages: body and group of each, the group "" on a standard queue.  On a FIFO queue the body is the
        deduplication id.
    """

    def __init__(
        self,
        client: QueueClient,
        ledger: Ledger,
        progress: Progress,
        chance: random.Random,
        messages: Sequence[tuple[str, str]],
    ) -> None:
        super().__init__(client, ledger, progress, chance)
        self._messages = messages

    def work(self) -> None:
        done = 0
        while done < len(self._messages):
            while done >= self.progress.allowed:
                if not self.progress.left or self.progress.failure is not None:
                    return
                self.progress.pause(_AGAIN)
            some = self._messages[done : done + self.chance.choice((1, BATCH, BATCH, BATCH))]
            self._send(some)
            done += len(some)
            if self.chance.random() < 0.02:
                self.client.move()

    def _send(self, messages: Sequence[tuple[str, str]]) -> None:
        left = list(messages)
        while left:
            entries = [
                {"id": str(at), "body": body} | ({"group": group, "dedup_id": body} if group else {})
                for at, (body, group) in enumerate(left)
            ]
            tries: list[float] = []
            answer = self.insist("POST", "/messages/batch", {"messages": entries}, tries.append)
            self.ledger.repeats += len(tries) - 1
            for one in answer["successful"]:
                self.ledger.sent[one["message_id"]] = left[int(one["id"])][0]
            failed = sorted(int(one["id"]) for one in answer["failed"])
            for one in answer["failed"]:
                if one["sender_fault"]:
                    raise AssertionError(one)
            if left[0][1] and failed and failed != list(range(failed[0], len(left))):
                raise AssertionError(f"of a batch of a FIFO queue only {failed} failed")
            left = [left[at] for at in failed]


class Working(Running):
    """Receives messages and deletes most of them; a few are given back, kept for longer, or forgotten.

    :ivar finished: set from outside.
    :ivar received: how many messages it had.
    """

    finished = False
    received = 0

    def work(self) -> None:
        while not self.finished and self.progress.failure is None:
            if not self.progress.left:
                return
            wait = self.chance.choice((0, 1, 1))
            asked = time.time()
            try:
                answer = self.client.call("POST", "/messages/receive", {"max": BATCH, "wait": wait})
            except Unavailable:
                self.progress.pause(_AGAIN)
                continue
            deliveries = self._note(asked, time.time(), answer["messages"])
            if deliveries:
                self.process(deliveries)
            elif not wait:
                self.progress.pause(_AGAIN)
            if self.chance.random() < 0.02:
                self.client.move()

    def _note(self, asked: float, answered: float, messages: Sequence[Any]) -> list[Delivery]:
        call = next(self.ledger.calls)
        deliveries = [
            Delivery(
                call,
                asked,
                answered,
                one["id"],
                one["receipt"],
                one["body"],
                one.get("group", ""),
                one["receive_count"],
                one["first_received_at"],
                one["sequence"],
                # When exactly it was taken is known of the first time only.
                (one["first_received_at"] / 1000 if one["receive_count"] == 1 else asked) + self.ledger.visibility,
            )
            for one in messages
        ]
        self.received += len(deliveries)
        self.ledger.deliveries += deliveries
        return deliveries

    def process(self, deliveries: Sequence[Delivery]) -> None:
        delete: list[Delivery] = []
        change: list[tuple[Delivery, int]] = []
        for one in deliveries:
            kind = self.chance.choices(("delete", "give back", "extend", "forget"), (985, 7, 4, 4))[0]
            if kind == "delete":
                delete.append(one)
            elif kind != "forget":
                change.append((one, 0 if kind == "give back" else int(self.ledger.visibility) + 1))
        if change:
            self.change(change)
        if delete:
            self.delete(delete)

    def change(self, changes: Sequence[tuple[Delivery, int]]) -> None:
        now = time.time()
        before = [one.hidden for one, _ in changes]
        for one, seconds in changes:
            one.hidden = min(one.hidden, now + seconds)
            if not seconds:
                one.ended = now
        entries = [
            {"id": str(at), "receipt": one.receipt, "visibility": seconds} for at, (one, seconds) in enumerate(changes)
        ]
        try:
            answer = self.client.call("POST", "/messages/visibility", {"entries": entries})
        except Unavailable:
            answer = {"successful": []}  # it may have been done
        answered = time.time()
        for (one, _), until in zip(changes, before, strict=True):
            one.late = answered >= until
        for done in answer["successful"]:
            one, seconds = changes[int(done["id"])]
            if not one.late:
                one.hidden = now + seconds

    def delete(self, deliveries: Sequence[Delivery]) -> None:
        left = list(deliveries)
        while left:

            def asked(at: float, left: Sequence[Delivery] = left) -> None:
                for one in left:
                    one.ended = min(one.ended, at)
                    one.deletes.append(at)

            answer = self.insist("POST", "/messages/delete", {"receipts": [one.receipt for one in left]}, asked)
            now = time.time()
            for done in answer["successful"]:
                one = left[int(done["id"])]
                one.deleted = now
                self.ledger.processed[one.body] = None
            for failed in answer["failed"]:
                if failed["sender_fault"] and failed["code"] != "receipt_expired":
                    raise AssertionError(failed)
            # An expired receipt of a FIFO queue: the message comes again.
            left = [left[int(failed["id"])] for failed in answer["failed"] if not failed["sender_fault"]]
