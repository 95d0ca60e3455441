"""Grants of queues at SQS's operations: which verbs each of them takes."""

# mypy: disable-error-code="import-untyped"
# (botocore has no annotations)
from __future__ import annotations

import base64
import json
from itertools import combinations
from typing import Any

from botocore.exceptions import ClientError

from flowgate.auth.permissions import VERBS
from flowgate.sqs.operations import snake_case
from flowgate.sqs.wire import OPERATIONS
from tests.sqs.client import SqsCase

ARN = "arn:aws:sqs:us-east-1:123456789012:q"
_ENTRY = {"Id": "1", "ReceiptHandle": "x", "VisibilityTimeout": 1}
_HANDLE = base64.b64encode(json.dumps({"taskId": "x", "sourceArn": ARN}).encode()).decode()

TABLE: dict[str, tuple[dict[str, Any], str]] = {
    "SendMessage": ({"MessageBody": "x"}, "send"),
    "SendMessageBatch": ({"Entries": [{"Id": "1", "MessageBody": "x"}]}, "send"),
    "ReceiveMessage": ({}, "receive"),
    "DeleteMessage": ({"ReceiptHandle": "x"}, "receive"),
    "DeleteMessageBatch": ({"Entries": [{"Id": "1", "ReceiptHandle": "x"}]}, "receive"),
    "ChangeMessageVisibility": ({"ReceiptHandle": "x", "VisibilityTimeout": 1}, "receive"),
    "ChangeMessageVisibilityBatch": ({"Entries": [_ENTRY]}, "receive"),
    "GetQueueUrl": ({"QueueName": "q"}, "send receive manage"),
    "ListQueues": ({"QueueNamePrefix": ""}, "send receive manage"),
    "GetQueueAttributes": ({"AttributeNames": ["All"]}, "receive manage"),
    "ListQueueTags": ({}, "receive manage"),
    "ListDeadLetterSourceQueues": ({}, "receive manage"),
    "CreateQueue": ({"QueueName": "q"}, "manage"),
    "SetQueueAttributes": ({"Attributes": {"DelaySeconds": "0"}}, "manage"),
    "PurgeQueue": ({}, "manage"),
    "TagQueue": ({"Tags": {"a": "b"}}, "manage"),
    "UntagQueue": ({"TagKeys": ["a"]}, "manage"),
    "AddPermission": ({"Label": "a", "AWSAccountIds": ["1" * 12], "Actions": ["*"]}, "manage"),
    "RemovePermission": ({"Label": "a"}, "manage"),
    "StartMessageMoveTask": ({"SourceArn": ARN}, "manage"),
    "ListMessageMoveTasks": ({"SourceArn": ARN}, "manage"),
    "CancelMessageMoveTask": ({"TaskHandle": _HANDLE}, "manage"),
    "DeleteQueue": ({}, "manage"),
}
"""The arguments of each operation, without the queue's URL, and the verbs of which one is needed."""


class GrantTests(SqsCase):
    """What a key with a verb may do."""

    def test_every_operation(self) -> None:
        """Each operation is permitted with one of its verbs, and with all others together access is denied."""
        self.assertEqual(TABLE.keys(), OPERATIONS.keys())
        keys = {
            verbs: self.client(self.gateway.key(queues=[f"{verb}:q" for verb in verbs]))
            for count in range(len(VERBS) + 1)
            for verbs in combinations(VERBS, count)
        }
        url = self.queue()
        for operation, (arguments, needed) in TABLE.items():
            if not arguments.keys() & {"QueueName", "QueueNamePrefix", "SourceArn", "TaskHandle"}:
                arguments = {**arguments, "QueueUrl": url}
            for verbs, client in keys.items():
                self.queue()  # which the last turn may have removed
                code = ""
                try:
                    answer = getattr(client, snake_case(operation))(**arguments)
                except ClientError as error:
                    code = error.response["Error"]["Code"]
                    answer = {}
                denied = "QueueUrls" not in answer if operation == "ListQueues" else code == "AccessDenied"
                self.assertIs(denied, not set(verbs) & set(needed.split()), (operation, verbs, code))

    def test_dead_letters(self) -> None:
        """Naming a dead-letter queue, and moving its messages, takes a verb for each of both queues."""
        dead = self.queue("dead")
        policy = {"RedrivePolicy": json.dumps({"deadLetterTargetArn": self.arn(dead), "maxReceiveCount": 1})}
        q = self.queue("q", **policy)
        for queues, naming, moving in (
            (["manage:q", "send:dead"], True, False),
            (["manage:*"], True, True),
            (["manage:dead", "send:q"], False, True),
            (["manage:q", "dead"], False, True),
            (["manage:dead", "q"], True, False),
        ):
            self.sqs = self.client(self.gateway.key(queues=queues))
            for operation, arguments, permitted in (
                ("set_queue_attributes", {"QueueUrl": q, "Attributes": policy}, naming),
                ("create_queue", {"QueueName": "q", "Attributes": policy}, naming),
                ("start_message_move_task", {"SourceArn": ARN.replace(":q", ":dead")}, moving),
                ("start_message_move_task", {"SourceArn": ARN.replace(":q", ":dead"), "DestinationArn": ARN}, moving),
            ):
                if permitted:
                    getattr(self.sqs, operation)(**arguments)
                    self.advance(5)
                else:
                    self.refused("AccessDenied", operation, None, **arguments)
