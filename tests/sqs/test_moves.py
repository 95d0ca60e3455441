"""Move tasks."""

from __future__ import annotations

import base64
import json
from typing import Any

from tests.sqs.client import SqsCase

RUNNING = "There is already a task running. Only one active task is allowed for a source queue arn at a given time."


class MoveTests(SqsCase):
    """StartMessageMoveTask, ListMessageMoveTasks, CancelMessageMoveTask."""

    def setUp(self) -> None:
        super().setUp()
        self.dead = self.queue("dead")
        self.arn_of_dead = self.arn(self.dead)
        policy = json.dumps({"deadLetterTargetArn": self.arn_of_dead, "maxReceiveCount": 1})
        self.url = self.queue("q", RedrivePolicy=policy, VisibilityTimeout=0)

    def kill(self, *bodies: str) -> None:
        """Have messages become dead letters."""
        self.send(self.url, *bodies)
        for _ in range(2):
            self.receive(self.url)
        self.assertEqual(int(self.attributes(self.dead)["ApproximateNumberOfMessages"]), len(bodies))

    def start(self, **more: Any) -> str:
        handle: str = self.sqs.start_message_move_task(SourceArn=self.arn_of_dead, **more)["TaskHandle"]
        self.gateway.settle()
        return handle

    def tasks(self, most: int = 10) -> list[dict[str, Any]]:
        answer = self.sqs.list_message_move_tasks(SourceArn=self.arn_of_dead, MaxResults=most)
        tasks: list[dict[str, Any]] = answer["Results"]
        return tasks

    def test_back(self) -> None:
        """Messages go back to where they came from."""
        self.kill("1", "2")
        self.start()
        self.advance(5)
        self.assertEqual(sorted(self.bodies(self.url)), ["1", "2"])
        [task] = self.tasks()
        self.assertEqual((task["Status"], task["SourceArn"]), ("COMPLETED", self.arn_of_dead))
        self.assertEqual(task["ApproximateNumberOfMessagesMoved"], 2)
        self.assertEqual(task["ApproximateNumberOfMessagesToMove"], 2)
        self.assertNotIn("TaskHandle", task)
        self.assertNotIn("DestinationArn", task)

    def test_elsewhere(self) -> None:
        """Messages go to the queue that is named."""
        self.kill("1")
        other = self.queue("other")
        self.start(DestinationArn=self.arn(other))
        self.advance(5)
        self.assertEqual(self.bodies(other), ["1"])
        self.assertEqual(self.tasks()[0]["DestinationArn"], self.arn(other))

    def test_running_and_cancelled(self) -> None:
        """A slow task is shown as running, with its handle; there is one at a time; it can be ended."""
        self.kill(*map(str, range(10)))
        handle = self.start(MaxNumberOfMessagesPerSecond=1)
        [task] = self.tasks()
        self.assertEqual((task["Status"], task["TaskHandle"]), ("RUNNING", handle))
        self.assertEqual(task["MaxNumberOfMessagesPerSecond"], 1)
        unsupported = "AWS.SimpleQueueService.UnsupportedOperation"
        self.refused(unsupported, "start_message_move_task", RUNNING, SourceArn=self.arn_of_dead)
        moved = self.sqs.cancel_message_move_task(TaskHandle=handle)["ApproximateNumberOfMessagesMoved"]
        self.assertLess(moved, 10)
        self.advance(10)
        self.assertEqual(self.tasks()[0]["Status"], "CANCELLED")
        self.refused("ResourceNotFoundException", "cancel_message_move_task", None, TaskHandle=handle)
        self.start()

    def test_newest_first(self) -> None:
        for _ in range(3):
            self.start()
            self.advance(5)
        self.assertEqual(len(self.tasks(2)), 2)
        answer = self.sqs.list_message_move_tasks(SourceArn=self.arn_of_dead)
        self.assertEqual(len(answer["Results"]), 1)
        times = [task["StartedTimestamp"] for task in self.tasks()]
        self.assertEqual(times, sorted(times, reverse=True))

    def test_wrong(self) -> None:
        """Queues that are not there, not a dead-letter queue, or no queues at all."""
        start = "start_message_move_task"
        self.refused("ResourceNotFoundException", start, None, SourceArn=f"{self.arn_of_dead}x")
        self.refused("ResourceNotFoundException", "list_message_move_tasks", None, SourceArn=f"{self.arn_of_dead}x")
        text = "Source queue must be configured as a Dead Letter Queue."
        self.refused("InvalidParameterValue", start, text, SourceArn=self.arn(self.url))
        self.refused("InvalidParameterValue", start, None, SourceArn="arn:x")
        arn = self.arn_of_dead
        self.refused("InvalidParameterValue", start, None, SourceArn=arn, MaxNumberOfMessagesPerSecond=501)
        self.refused("InvalidParameterValue", start, None, SourceArn=arn, DestinationArn=arn)
        self.refused("ResourceNotFoundException", start, None, SourceArn=arn, DestinationArn=f"{arn}x")
        self.refused("InvalidParameterValue", "list_message_move_tasks", None, SourceArn=arn, MaxResults=11)

    def test_wrong_handles(self) -> None:
        for text in ("", "ä", "{}", "[]", '{"taskId":1}', '{"taskId":"x","sourceArn":"arn:x"}'):
            handle = base64.b64encode(text.encode()).decode()
            self.refused("InvalidParameterValue", "cancel_message_move_task", None, TaskHandle=handle)
        self.refused("InvalidParameterValue", "cancel_message_move_task", None, TaskHandle="not base64")
        handle = base64.b64encode(json.dumps({"taskId": "x", "sourceArn": self.arn_of_dead}).encode()).decode()
        self.refused("ResourceNotFoundException", "cancel_message_move_task", None, TaskHandle=handle)

    def test_grants(self) -> None:
        """Both queues have to be granted."""
        other = self.arn(self.queue("other"))
        self.sqs = self.client(self.gateway.key(queues=["dead"]))
        arn = self.arn_of_dead
        self.refused("AccessDenied", "start_message_move_task", None, SourceArn=arn, DestinationArn=other)
        self.refused("AccessDenied", "list_message_move_tasks", None, SourceArn=other)
        handle = base64.b64encode(json.dumps({"taskId": "x", "sourceArn": other}).encode()).decode()
        self.refused("AccessDenied", "cancel_message_move_task", None, TaskHandle=handle)
