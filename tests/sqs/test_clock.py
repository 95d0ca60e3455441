"""What happens over hours, by an injected clock: moto's own suite cannot ask that of a foreign server."""

from __future__ import annotations

import json

from tests.sqs.client import SqsCase


class ClockTests(SqsCase):
    """Twelve hours, dead letters, FIFO groups, the window of deduplication."""

    def test_twelve_hours(self) -> None:
        """A message is with one receiver for 12 hours in all, however often that is extended."""
        url = self.queue()
        self.send(url, "x")
        handle = self.receive(url)[0]["ReceiptHandle"]
        self.sqs.change_message_visibility(QueueUrl=url, ReceiptHandle=handle, VisibilityTimeout=360)
        self.advance(300)
        self.refused(
            "InvalidParameterValue",
            "change_message_visibility",
            "Value 43200 for parameter VisibilityTimeout is invalid. Reason: Total VisibilityTimeout for the message "
            "is beyond the limit [43200 seconds]",
            QueueUrl=url,
            ReceiptHandle=handle,
            VisibilityTimeout=43200,
        )
        self.sqs.change_message_visibility(QueueUrl=url, ReceiptHandle=handle, VisibilityTimeout=42900)
        self.advance(42890)
        self.assertEqual(self.receive(url), [])
        self.advance(20)
        self.assertEqual(len(self.receive(url)), 1)

    def test_batch_over_hours(self) -> None:
        """Visibility that was changed in a batch ends when it was said to, that of others when it would have."""
        url = self.queue(VisibilityTimeout=180)
        self.send(url, "one", "two", "three")
        messages = self.receive(url)
        entries = [
            {"Id": str(number), "ReceiptHandle": message["ReceiptHandle"], "VisibilityTimeout": 43000}
            for number, message in enumerate(messages[:2])
        ]
        answer = self.sqs.change_message_visibility_batch(QueueUrl=url, Entries=entries)
        self.assertEqual(len(answer["Successful"]), 2)
        for _ in range(2):
            self.advance(2 * 3600)
            self.assertEqual(self.bodies(url), ["three"])
        self.advance(12 * 3600)
        self.assertEqual(sorted(self.bodies(url)), ["one", "three", "two"])

    def test_dead_letters(self) -> None:
        """The receive that would be one too many moves the message, and goes on with the next one."""
        dead = self.queue("dead.fifo", ContentBasedDeduplication="true")
        url = self.queue(
            "q.fifo",
            ContentBasedDeduplication="true",
            RedrivePolicy=json.dumps({"deadLetterTargetArn": self.arn(dead), "maxReceiveCount": 2}),
        )
        self.send(url, "msg1", "msg2", MessageGroupId="group")
        for _ in range(2):
            self.assertEqual(self.bodies(url, 1), ["msg1"])
            self.advance(3600)
            self.assertEqual(self.receive(dead), [])
        self.assertEqual(self.bodies(url, 1), ["msg2"])
        [message] = self.receive(dead, MessageSystemAttributeNames=["All"])
        self.assertEqual(message["Body"], "msg1")
        self.assertEqual(message["Attributes"]["DeadLetterQueueSourceArn"], self.arn(url))
        self.assertEqual(message["Attributes"]["ApproximateReceiveCount"], "3")
        self.assertEqual(self.sqs.list_dead_letter_source_queues(QueueUrl=dead)["queueUrls"], [url])

    def test_fifo_group_opens(self) -> None:
        """A group is closed while one of its messages is in flight, and open again when its visibility ends."""
        url = self.queue("q.fifo", ContentBasedDeduplication="true", VisibilityTimeout=3600)
        self.send(url, "message-1", "message-2", MessageGroupId="group")
        [message] = self.receive(url, 1)
        self.assertEqual(self.receive(url), [])
        self.sqs.change_message_visibility(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"], VisibilityTimeout=10)
        self.advance(5)
        self.assertEqual(self.receive(url), [])
        self.advance(10)
        [again] = self.receive(url, 1)
        self.assertEqual(again["MessageId"], message["MessageId"])

    def test_deduplication_window(self) -> None:
        """Five minutes after the first one, and not before, the same message is a new one; deleting is no matter."""
        url = self.queue("q.fifo", ContentBasedDeduplication="true")
        first = self.sqs.send_message(QueueUrl=url, MessageBody="first", MessageGroupId="1")
        self.sqs.delete_message(QueueUrl=url, ReceiptHandle=self.receive(url)[0]["ReceiptHandle"])
        self.advance(299)
        again = self.sqs.send_message(QueueUrl=url, MessageBody="first", MessageGroupId="2")
        self.assertEqual(again["MessageId"], first["MessageId"])
        self.assertEqual(self.receive(url), [])
        self.advance(2)
        new = self.sqs.send_message(QueueUrl=url, MessageBody="first", MessageGroupId="2")
        self.assertNotEqual(new["MessageId"], first["MessageId"])
        self.assertEqual(self.bodies(url), ["first"])

    def test_retention(self) -> None:
        """A message is kept for as long as the queue says, counted from when it was sent."""
        url = self.queue(MessageRetentionPeriod=60)
        self.send(url, "x")
        self.advance(59)
        self.assertEqual(self.bodies(url, VisibilityTimeout=0), ["x"])
        self.advance(2)
        self.assertEqual(self.receive(url), [])
        self.assertEqual(self.attributes(url)["ApproximateNumberOfMessages"], "0")
