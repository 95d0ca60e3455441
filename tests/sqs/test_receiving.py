"""ReceiveMessage, and what is done with receipt handles."""

from __future__ import annotations

from typing import Any

from tests.sqs.client import SqsCase

STRING = {"DataType": "String", "StringValue": "v"}


class ReceiveTests(SqsCase):
    """ReceiveMessage."""

    def setUp(self) -> None:
        super().setUp()
        self.url = self.queue()

    def invalid(self, message: str | None = None, code: str = "InvalidParameterValue", **arguments: Any) -> None:
        self.refused(code, "receive_message", message, **{"QueueUrl": self.url, **arguments})

    def test_nothing(self) -> None:
        """An empty answer has no list of messages."""
        self.assertEqual(self.sqs.receive_message(QueueUrl=self.url).keys(), {"ResponseMetadata"})

    def test_one_by_default(self) -> None:
        self.send(self.url, "1", "2")
        self.assertEqual(len(self.sqs.receive_message(QueueUrl=self.url)["Messages"]), 1)

    def test_only_what_is_needed(self) -> None:
        """Attributes come only if they are asked for."""
        self.send(self.url, "x", MessageAttributes={"a": STRING})
        [message] = self.receive(self.url)
        self.assertEqual(set(message), {"MessageId", "ReceiptHandle", "MD5OfBody", "Body"})

    def test_system_attributes(self) -> None:
        """All system attributes of a message on a standard queue."""
        self.send(self.url, "x")
        self.receive(self.url, VisibilityTimeout=0)
        self.advance(2)
        [message] = self.receive(self.url, MessageSystemAttributeNames=["All"])
        shown = message["Attributes"]
        self.assertEqual(
            set(shown),
            {"SenderId", "SentTimestamp", "ApproximateReceiveCount", "ApproximateFirstReceiveTimestamp"},
        )
        self.assertEqual((shown["SenderId"], shown["ApproximateReceiveCount"]), (self.key[0], "2"))
        self.assertLessEqual(int(shown["SentTimestamp"]), int(shown["ApproximateFirstReceiveTimestamp"]))

    def test_older_name(self) -> None:
        """AttributeNames means the same; attributes of queues in it are passed over, others are refused."""
        self.send(self.url, "x")
        [message] = self.receive(self.url, AttributeNames=["ApproximateReceiveCount", "Policy"])
        self.assertEqual(message["Attributes"], {"ApproximateReceiveCount": "1"})
        self.invalid("Unknown Attribute Nonsense.", "InvalidAttributeName", AttributeNames=["Nonsense"])

    def test_message_attributes(self) -> None:
        """By name, by the beginning of a name, or all; the digest is of what is shown."""
        attributes = {"Custom1": STRING, "Custom2": {"DataType": "Binary", "BinaryValue": b"\0\1"}, "Other": STRING}
        for asked, expected in (
            (["Custom1"], {"Custom1"}),
            (["Custom"], set()),
            (["Custom.*"], {"Custom1", "Custom2"}),
            (["C.*", "Other"], set(attributes)),
            (["All"], set(attributes)),
            ([".*"], set(attributes)),
        ):
            self.send(self.url, "x", MessageAttributes=attributes)
            [message] = self.receive(self.url, MessageAttributeNames=asked)
            shown = message.get("MessageAttributes", {})
            self.assertEqual(set(shown), expected)
            for name in expected:
                self.assertEqual(shown[name], attributes[name])
            self.assertEqual("MD5OfMessageAttributes" in message, bool(expected))
        single = self.sqs.send_message(QueueUrl=self.url, MessageBody="x", MessageAttributes={"Custom1": STRING})
        self.receive(self.url)
        self.send(self.url, "x", MessageAttributes=attributes)
        [message] = self.receive(self.url, MessageAttributeNames=["Custom1"])
        self.assertEqual(message["MD5OfMessageAttributes"], single["MD5OfMessageAttributes"])

    def test_ranges(self) -> None:
        """What is out of range is refused."""
        for number in (0, 11, -1):
            self.invalid(
                f"Value {number} for parameter MaxNumberOfMessages is invalid. Reason: Must be between 1 and 10, if "
                "provided.",
                MaxNumberOfMessages=number,
            )
        for number in (-1, 21):
            self.invalid(
                f"Value {number} for parameter WaitTimeSeconds is invalid. Reason: Must be >= 0 and <= 20, if "
                "provided.",
                WaitTimeSeconds=number,
            )
        for number in (-1, 43201):
            self.invalid(VisibilityTimeout=number)

    def test_visibility(self) -> None:
        """The queue's visibility, or that of this receive; 0 leaves the message where it is."""
        self.send(self.url, "x")
        first = self.receive(self.url, VisibilityTimeout=0)
        second = self.receive(self.url, VisibilityTimeout=5)
        self.assertNotEqual(first[0]["ReceiptHandle"], second[0]["ReceiptHandle"])
        self.assertEqual(self.receive(self.url), [])
        self.advance(6)
        self.assertEqual(len(self.receive(self.url)), 1)
        self.advance(29)
        self.assertEqual(self.receive(self.url), [])
        self.advance(2)
        self.assertEqual(len(self.receive(self.url)), 1)

    def test_long_poll_ends(self) -> None:
        """A receive waits as long as it says, or as the queue does."""
        self.wait = 30
        before = self.gateway.clock.seconds()
        self.assertEqual(self.receive(self.url, WaitTimeSeconds=5), [])
        self.between(5, 6.1, before)
        waiting = self.queue("waiting", ReceiveMessageWaitTimeSeconds=3)
        before = self.gateway.clock.seconds()
        self.assertEqual(self.receive(waiting), [])
        self.between(3, 4.1, before)
        before = self.gateway.clock.seconds()
        self.assertEqual(self.receive(waiting, WaitTimeSeconds=0), [])
        self.assertEqual(self.gateway.clock.seconds(), before)

    def test_long_poll_finds(self) -> None:
        """A message that becomes visible ends the wait."""
        self.wait = 30
        self.send(self.url, "x", DelaySeconds=4)
        before = self.gateway.clock.seconds()
        self.assertEqual(self.bodies(self.url, WaitTimeSeconds=20), ["x"])
        self.between(4, 5.1, before)

    def test_attempt_id(self) -> None:
        """A repeated attempt gets the same messages from a FIFO queue; a standard queue knows no attempts."""
        url = self.queue("q.fifo")
        self.send(url, "x", MessageGroupId="g", MessageDeduplicationId="1")
        first = self.receive(url, ReceiveRequestAttemptId="a")
        self.assertEqual(self.receive(url), [])
        self.assertEqual(self.receive(url, ReceiveRequestAttemptId="a"), first)
        self.invalid(ReceiveRequestAttemptId="a")

    def test_no_queue(self) -> None:
        self.invalid(code="AWS.SimpleQueueService.NonExistentQueue", QueueUrl="none")


class DeleteTests(SqsCase):
    """DeleteMessage and DeleteMessageBatch."""

    def setUp(self) -> None:
        super().setUp()
        self.url = self.queue()
        self.send(self.url, "x")

    def handle(self, **more: Any) -> str:
        handle: str = self.receive(self.url, **more)[0]["ReceiptHandle"]
        return handle

    def delete(self, handle: str) -> None:
        self.sqs.delete_message(QueueUrl=self.url, ReceiptHandle=handle)

    def left(self) -> int:
        shown = self.attributes(self.url)
        return int(shown["ApproximateNumberOfMessages"]) + int(shown["ApproximateNumberOfMessagesNotVisible"])

    def test_twice(self) -> None:
        """Deleting again is no error; there is no body in the answer."""
        handle = self.handle()
        for _ in range(2):
            self.delete(handle)
            self.assertEqual((self.last.status, self.last.body), (200, b""))
        self.assertEqual(self.left(), 0)

    def test_old_handle(self) -> None:
        """Every handle of a message deletes it, then and afterwards."""
        first = self.handle(VisibilityTimeout=0)
        second = self.handle(VisibilityTimeout=0)
        self.delete(first)
        self.assertEqual(self.left(), 0)
        self.delete(second)

    def test_after_visibility(self) -> None:
        """A message that is visible again can still be deleted, on a standard queue."""
        handle = self.handle(VisibilityTimeout=1)
        self.advance(2)
        self.delete(handle)
        self.assertEqual(self.left(), 0)

    def test_expired_on_fifo(self) -> None:
        """On a FIFO queue a handle is good until the message is visible again."""
        url = self.queue("q.fifo")
        self.send(url, "x", MessageGroupId="g", MessageDeduplicationId="1")
        handle = self.receive(url, VisibilityTimeout=1)[0]["ReceiptHandle"]
        self.advance(2)
        self.refused(
            "InvalidParameterValue",
            "delete_message",
            f"Value {handle} for parameter ReceiptHandle is invalid. Reason: The receipt handle has expired.",
            QueueUrl=url,
            ReceiptHandle=handle,
        )

    def test_never_issued(self) -> None:
        """A handle that was never issued for the queue is refused."""
        other = self.queue("other")
        for url, handle in ((self.url, "nonsense"), (self.url, ""), (other, self.handle())):
            self.refused(
                "ReceiptHandleIsInvalid",
                "delete_message",
                "The input receipt handle is invalid.",
                QueueUrl=url,
                ReceiptHandle=handle,
            )

    def test_batch(self) -> None:
        """Handles that are wrong are told by entry, and do not keep the others."""
        answer = self.sqs.delete_message_batch(
            QueueUrl=self.url,
            Entries=[{"Id": "bad", "ReceiptHandle": "bad-1"}, {"Id": "good", "ReceiptHandle": self.handle()}],
        )
        self.assertEqual(answer["Successful"], [{"Id": "good"}])
        text = 'The input receipt handle "bad-1" is not a valid receipt handle.'
        self.assertEqual(
            answer["Failed"],
            [{"Id": "bad", "SenderFault": True, "Code": "ReceiptHandleIsInvalid", "Message": text}],
        )
        self.assertEqual(self.left(), 0)

    def test_batch_as_a_whole(self) -> None:
        """What is wrong with a batch as a whole deletes nothing."""
        handle = self.handle()
        self.refused(
            "AWS.SimpleQueueService.EmptyBatchRequest",
            "delete_message_batch",
            "There should be at least one DeleteMessageBatchRequestEntry in the request.",
            QueueUrl=self.url,
            Entries=[],
        )
        self.refused(
            "AWS.SimpleQueueService.BatchEntryIdsNotDistinct",
            "delete_message_batch",
            "Id a repeated.",
            QueueUrl=self.url,
            Entries=[{"Id": "a", "ReceiptHandle": handle}] * 2,
        )
        self.assertEqual(self.left(), 1)
        self.refused(
            "AWS.SimpleQueueService.NonExistentQueue",
            "delete_message_batch",
            "The specified queue does not exist.",
            QueueUrl="none",
            Entries=[],
        )


class VisibilityTests(SqsCase):
    """ChangeMessageVisibility and ChangeMessageVisibilityBatch."""

    def setUp(self) -> None:
        super().setUp()
        self.url = self.queue()
        self.send(self.url, "x")

    def handle(self, **more: Any) -> str:
        handle: str = self.receive(self.url, **more)[0]["ReceiptHandle"]
        return handle

    def change(self, handle: str, seconds: int) -> None:
        self.sqs.change_message_visibility(QueueUrl=self.url, ReceiptHandle=handle, VisibilityTimeout=seconds)

    def invalid(self, reason: str, handle: str, seconds: int, parameter: str = "VisibilityTimeout") -> None:
        value = seconds if parameter == "VisibilityTimeout" else handle
        self.refused(
            "InvalidParameterValue",
            "change_message_visibility",
            f"Value {value} for parameter {parameter} is invalid. Reason: {reason}",
            QueueUrl=self.url,
            ReceiptHandle=handle,
            VisibilityTimeout=seconds,
        )

    def test_longer_and_back(self) -> None:
        """A message is kept longer, or given back at once."""
        handle = self.handle(VisibilityTimeout=5)
        self.change(handle, 60)
        self.advance(30)
        self.assertEqual(self.receive(self.url), [])
        self.change(handle, 0)
        self.assertEqual(len(self.receive(self.url)), 1)

    def test_old_handle(self) -> None:
        """A handle of an earlier receive works too, as Amazon has it."""
        old = self.handle(VisibilityTimeout=1)
        self.advance(2)
        self.handle(VisibilityTimeout=1)
        self.change(old, 100)
        self.advance(5)
        self.assertEqual(self.receive(self.url), [])

    def test_range(self) -> None:
        for seconds in (-1, 43201):
            self.invalid("VisibilityTimeout must be >= 0 and <= 43200.", self.handle(VisibilityTimeout=0), seconds)

    def test_message_gone(self) -> None:
        handle = self.handle()
        self.sqs.delete_message(QueueUrl=self.url, ReceiptHandle=handle)
        reason = "Message does not exist or is not available for visibility timeout change."
        self.invalid(reason, handle, 10, "ReceiptHandle")

    def test_never_issued(self) -> None:
        self.refused(
            "ReceiptHandleIsInvalid",
            "change_message_visibility",
            "The input receipt handle is invalid.",
            QueueUrl=self.url,
            ReceiptHandle="unknown-stuff",
            VisibilityTimeout=432,
        )

    def test_batch(self) -> None:
        """Each entry for itself."""
        handle = self.handle()
        answer = self.sqs.change_message_visibility_batch(
            QueueUrl=self.url,
            Entries=[
                {"Id": "long", "ReceiptHandle": handle, "VisibilityTimeout": 43201},
                {"Id": "back", "ReceiptHandle": handle, "VisibilityTimeout": 0},
                {"Id": "wrong", "ReceiptHandle": "wrong", "VisibilityTimeout": 1},
                {"Id": "none", "ReceiptHandle": handle},
            ],
        )
        self.assertEqual(answer["Successful"], [{"Id": "back"}])
        self.assertEqual(
            {one["Id"]: one["Code"] for one in answer["Failed"]},
            {"long": "InvalidParameterValue", "wrong": "ReceiptHandleIsInvalid", "none": "MissingParameter"},
        )
        self.assertEqual(len(self.receive(self.url)), 1)

    def test_batch_as_a_whole(self) -> None:
        self.refused(
            "AWS.SimpleQueueService.EmptyBatchRequest",
            "change_message_visibility_batch",
            "There should be at least one ChangeMessageVisibilityBatchRequestEntry in the request.",
            QueueUrl=self.url,
            Entries=[],
        )
