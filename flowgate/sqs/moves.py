"""The operations that move the messages of a dead-letter queue back."""

from __future__ import annotations

import base64
import json
from typing import Final

from flowgate.auth.permissions import QueueVerb
from flowgate.errors import Conflict, NotFound
from flowgate.queues.model import MAX_REDRIVE_RATE, Redrive
from flowgate.queues.service import Queues
from flowgate.sqs.call import Call
from flowgate.sqs.wire import SqsError, invalid_value

_MOST_LISTED: Final = 10


def _not_found(what: str) -> SqsError:
    return SqsError("ResourceNotFoundException", what)


def _handle(task: Redrive, arn: str) -> str:
    return base64.b64encode(json.dumps({"taskId": task.id, "sourceArn": arn}).encode()).decode()


def _queue_of_arn(call: Call, member: str, *verbs: QueueVerb) -> str:
    """:raises SqsError: if the argument names no queue, or one with which none of ``verbs`` is granted."""
    arn = call.arguments[member]
    name = call.naming.of_arn(arn, call.region)
    if name is None:
        raise invalid_value(arn[:200], member, "It is not the ARN of a queue.")
    return call.permit(name, *verbs)


def _shown(call: Call, name: str, task: Redrive) -> dict[str, object]:
    arn = call.naming.arn(name, call.region)
    found: dict[str, object] = {
        "Status": task.status.upper(),
        "SourceArn": arn,
        "ApproximateNumberOfMessagesMoved": task.moved,
        "ApproximateNumberOfMessagesToMove": task.to_move,
        "StartedTimestamp": task.started_at,
    }
    if task.status == "running":
        found["TaskHandle"] = _handle(task, arn)
    if task.destination is not None:
        found["DestinationArn"] = call.naming.arn(task.destination, call.region)
    if task.max_per_second is not None:
        found["MaxNumberOfMessagesPerSecond"] = task.max_per_second
    if task.failure:
        found["FailureReason"] = task.failure
    return found


class Moves:
    """Translates between SQS and the queues."""

    def __init__(self, queues: Queues) -> None:
        self._queues = queues

    async def start_message_move_task(self, call: Call) -> dict[str, object]:
        name = _queue_of_arn(call, "SourceArn", "manage")
        rate = call.ranged("MaxNumberOfMessagesPerSecond", 1, MAX_REDRIVE_RATE, None)
        destination = (
            _queue_of_arn(call, "DestinationArn", "send", "manage") if "DestinationArn" in call.arguments else None
        )
        for queue in (name, *(() if destination is None else (destination,))):
            try:
                await self._queues.describe(call.home, queue)
            except NotFound:
                raise _not_found(
                    "The resource that you specified for the SourceArn or DestinationArn parameter doesn't exist."
                ) from None
        if not self._queues.sources(call.home, name):
            raise SqsError("InvalidParameterValue", "Source queue must be configured as a Dead Letter Queue.")
        try:
            task = await self._queues.start_redrive(call.home, name, destination, rate, call.principal.grants.queues)
        except Conflict:
            raise SqsError(
                "UnsupportedOperation",
                "There is already a task running. Only one active task is allowed for a source queue arn at a given "
                "time.",
            ) from None
        return {"TaskHandle": _handle(task, call.naming.arn(name, call.region))}

    async def list_message_move_tasks(self, call: Call) -> dict[str, object]:
        name = _queue_of_arn(call, "SourceArn", "manage")
        limit = call.ranged("MaxResults", 1, _MOST_LISTED, 1)
        try:
            tasks = await self._queues.redrives(call.home, name)
        except NotFound:
            raise _not_found("The resource that you specified for the SourceArn parameter doesn't exist.") from None
        return {"Results": [_shown(call, name, task) for task in tasks[:limit]]}

    async def cancel_message_move_task(self, call: Call) -> dict[str, object]:
        handle = call.arguments["TaskHandle"]
        try:
            fields = json.loads(base64.b64decode(handle, validate=True))
            task_id, arn = str(fields["taskId"]), str(fields["sourceArn"])
        except (ValueError, LookupError, TypeError, RecursionError):
            raise invalid_value(handle[:200], "TaskHandle", "It is not the handle of a task.") from None
        name = call.naming.of_arn(arn, call.region)
        if name is None:
            raise invalid_value(handle[:200], "TaskHandle", "It is not the handle of a task.")
        call.permit(name, "manage")
        try:
            task = await self._queues.cancel_redrive(call.home, name, task_id)
        except NotFound:
            raise _not_found("Task does not exist.") from None
        except Conflict:
            raise SqsError("UnsupportedOperation", "Only active tasks can be cancelled.") from None
        return {"ApproximateNumberOfMessagesMoved": task.moved}
