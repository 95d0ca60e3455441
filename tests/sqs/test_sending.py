"""SendMessage and SendMessageBatch."""

from __future__ import annotations

import hashlib
from typing import Any

from tests.sqs.client import SqsCase


class SendTests(SqsCase):
    """SendMessage."""

    def setUp(self) -> None:
        super().setUp()
        self.url = self.queue()

    def invalid(self, message: str | None = None, code: str = "InvalidParameterValue", **arguments: Any) -> None:
        arguments = {"QueueUrl": self.url, "MessageBody": "x", **arguments}
        self.refused(code, "send_message", message, **arguments)

    def test_send(self) -> None:
        """A message is stored; the answer has its id and the digest of its body, and nothing else."""
        sent = self.sqs.send_message(QueueUrl=self.url, MessageBody="Héllo!😀")
        del sent["ResponseMetadata"]
        self.assertEqual(set(sent), {"MD5OfMessageBody", "MessageId"})
        self.assertEqual(sent["MD5OfMessageBody"], hashlib.md5("Héllo!😀".encode()).hexdigest())
        self.assertEqual(self.bodies(self.url), ["Héllo!😀"])

    def test_digest_of_attributes(self) -> None:
        """The digest of attributes is the one that Amazon's SDKs calculate."""
        attributes = {
            "id": {"StringValue": "453ae55e-f03b-21a6-a4b1-70c2e2e8fe71", "DataType": "String"},
            "mybin": {"BinaryValue": b"kekchebukek", "DataType": "Binary"},
            "timestamp": {"StringValue": "1603134247654", "DataType": "Number.java.lang.Long"},
            "contentType": {"StringValue": "application/json", "DataType": "String"},
        }
        sent = self.sqs.send_message(QueueUrl=self.url, MessageBody="derp", MessageAttributes=attributes)
        self.assertEqual(sent["MD5OfMessageAttributes"], "049075255ebc53fb95f7f9f3cedf3c50")

    def test_trace_header(self) -> None:
        """AWSTraceHeader is taken and shown; its digest is told."""
        trace = {"AWSTraceHeader": {"DataType": "String", "StringValue": "Root=1-2-3"}}
        sent = self.sqs.send_message(QueueUrl=self.url, MessageBody="x", MessageSystemAttributes=trace)
        self.assertIn("MD5OfMessageSystemAttributes", sent)
        [message] = self.receive(self.url, MessageSystemAttributeNames=["AWSTraceHeader"])
        self.assertEqual(message["Attributes"], {"AWSTraceHeader": "Root=1-2-3"})

    def test_other_system_attribute(self) -> None:
        """There is no other system attribute to be sent, and this one is text."""
        self.invalid(MessageSystemAttributes={"SenderId": {"DataType": "String", "StringValue": "me"}})
        self.invalid(MessageSystemAttributes={"AWSTraceHeader": {"DataType": "Number", "StringValue": "1"}})

    def test_delay(self) -> None:
        """A delayed message comes later, one with delay 0 at once also where others are delayed."""
        self.send(self.url, "later", DelaySeconds=5)
        self.send(self.url, "now")
        self.assertEqual(self.bodies(self.url, VisibilityTimeout=0), ["now"])
        self.assertEqual(self.attributes(self.url)["ApproximateNumberOfMessagesDelayed"], "1")
        self.advance(6)
        self.assertEqual(sorted(self.bodies(self.url)), ["later", "now"])
        slow = self.queue("slow", DelaySeconds=10)
        self.send(slow, "default")
        self.send(slow, "at once", DelaySeconds=0)
        self.assertEqual(self.bodies(slow), ["at once"])

    def test_delay_out_of_range(self) -> None:
        self.invalid(
            "Value 901 for parameter DelaySeconds is invalid. Reason: DelaySeconds must be >= 0 and <= 900.",
            DelaySeconds=901,
        )
        self.invalid(DelaySeconds=-1)

    def test_no_queue(self) -> None:
        """A queue that is not there is an error that boto3 knows by its class."""
        client = self.sqs
        self.assertRaises(
            client.exceptions.QueueDoesNotExist, client.send_message, QueueUrl=f"{self.url}x", MessageBody="x"
        )
        self.refused(
            "AWS.SimpleQueueService.NonExistentQueue",
            "send_message",
            "The specified queue does not exist.",
            QueueUrl="http://elsewhere/1/none",
            MessageBody="x",
        )
        self.assertEqual(self.last.headers["x-amzn-query-error"], "AWS.SimpleQueueService.NonExistentQueue;Sender")
        self.assertEqual(self.last.json()["__type"], "com.amazonaws.sqs#QueueDoesNotExist")

    def test_empty_body(self) -> None:
        self.invalid("The request must contain the parameter MessageBody.", "MissingParameter", MessageBody="")

    def test_characters(self) -> None:
        """What XML cannot carry is refused in a body."""
        self.invalid(code="InvalidMessageContents", MessageBody="\0")
        self.invalid(code="InvalidMessageContents", MessageBody="\ufffe")
        self.send(self.url, "\t\r\n")

    def test_too_long(self) -> None:
        """The limit counts bytes of body and attributes together, and is the queue's own."""
        reason = "One or more parameters are invalid. Reason: Message must be shorter than {} bytes."
        self.invalid(reason.format(1048576), MessageBody="ä" * 524289)
        small = self.queue("small", MaximumMessageSize=1024)
        self.invalid(reason.format(1024), QueueUrl=small, MessageBody="x" * 1025)
        attribute = {"a": {"DataType": "String", "StringValue": "v"}}
        self.invalid(reason.format(1024), QueueUrl=small, MessageBody="x" * 1017, MessageAttributes=attribute)
        self.send(small, "x" * 1016, MessageAttributes=attribute)

    def test_attribute_names_and_types(self) -> None:
        """Amazon's words for what is wrong with an attribute."""
        self.invalid(
            "The message attribute name 'öther' is invalid. Attribute name can contain A-Z, a-z, 0-9, underscore (_), "
            "hyphen (-), and period (.) characters.",
            MessageAttributes={"öther": {"DataType": "String", "StringValue": "x"}},
        )
        self.invalid(
            "The message attribute 'n' has an invalid message attribute type, the set of supported type prefixes is "
            "Binary, Number, and String.",
            MessageAttributes={"n": {"DataType": "InvalidNumber", "StringValue": "x"}},
        )
        for name in ("AWS.x", "amazon.x", ".x", "x.", "x..y", "x" * 257):
            self.invalid(MessageAttributes={name: {"DataType": "String", "StringValue": "x"}})
        for value in (
            {"DataType": "", "StringValue": "x"},
            {"DataType": "String", "StringValue": ""},
            {"DataType": "String", "BinaryValue": b"x"},
            {"DataType": "Binary", "StringValue": "x"},
            {"DataType": "Number", "StringValue": "one"},
            {"DataType": "String", "StringValue": "\0"},
        ):
            self.invalid(MessageAttributes={"n": value})
        self.assertEqual(self.receive(self.url), [])

    def test_too_many_attributes(self) -> None:
        value = {"DataType": "String", "StringValue": "x"}
        self.send(self.url, "x", MessageAttributes={str(number): value for number in range(10)})
        self.invalid(
            "Number of message attributes [11] exceeds the allowed maximum [10].",
            MessageAttributes={str(number): value for number in range(11)},
        )

    def test_group_on_standard_queue(self) -> None:
        """A standard queue takes a group, for fairness, and no deduplication id."""
        self.send(self.url, "x", MessageGroupId="tenant")
        [message] = self.receive(self.url, AttributeNames=["All"])
        self.assertEqual(message["Attributes"]["MessageGroupId"], "tenant")
        self.invalid(
            "Value d for parameter MessageDeduplicationId is invalid. Reason: The request include parameter that is "
            "not valid for this queue type.",
            MessageDeduplicationId="d",
        )

    def test_malformed_ids(self) -> None:
        self.invalid(MessageGroupId="with blank")
        self.invalid(MessageGroupId="x" * 129)

    def test_no_grant(self) -> None:
        """A key that does not grant the queue is denied."""
        self.sqs = self.client(self.gateway.key(queues=["other"]))
        self.invalid(code="AccessDenied")
        self.assertEqual(self.last.status, 403)


class FifoSendTests(SqsCase):
    """SendMessage on FIFO queues."""

    def setUp(self) -> None:
        super().setUp()
        self.url = self.queue("q.fifo")

    def sequence(self, url: str = "", **more: Any) -> str:
        sent = self.sqs.send_message(QueueUrl=url or self.url, **{"MessageBody": "x", "MessageGroupId": "g", **more})
        number: str = sent["SequenceNumber"]
        return number

    def invalid(self, code: str, message: str, **arguments: Any) -> None:
        self.refused(code, "send_message", message, QueueUrl=self.url, MessageBody="x", **arguments)

    def test_sequence_numbers(self) -> None:
        """Sequence numbers have 20 digits and grow; they are shown to the receiver."""
        first = self.sequence(MessageDeduplicationId="1")
        second = self.sequence(MessageDeduplicationId="2", MessageGroupId="h")
        self.assertEqual((len(first), len(second)), (20, 20))
        self.assertLess(first, second)
        shown = [message["Attributes"] for message in self.receive(self.url, AttributeNames=["SequenceNumber"])]
        self.assertEqual(shown, [{"SequenceNumber": first}, {"SequenceNumber": second}])

    def test_group_needed(self) -> None:
        self.invalid("MissingParameter", "The request must contain the parameter MessageGroupId.")

    def test_deduplication_id_needed(self) -> None:
        """Without an id there has to be deduplication by content."""
        text = (
            "The queue should either have ContentBasedDeduplication enabled or MessageDeduplicationId provided "
            "explicitly"
        )
        self.invalid("InvalidParameterValue", text, MessageGroupId="g")
        self.sequence(self.queue("content.fifo", ContentBasedDeduplication="true"))

    def test_delay_of_message(self) -> None:
        """A single message is not delayed, a whole queue may be."""
        self.invalid(
            "InvalidParameterValue",
            "Value 5 for parameter DelaySeconds is invalid. Reason: The request include parameter that is not valid "
            "for this queue type.",
            DelaySeconds=5,
            MessageGroupId="g",
            MessageDeduplicationId="1",
        )
        self.sequence(DelaySeconds=0, MessageDeduplicationId="1")

    def test_duplicate(self) -> None:
        """A message that was sent before is not stored again, and has the answer of the first."""
        first = self.sqs.send_message(
            QueueUrl=self.url, MessageBody="a", MessageGroupId="g", MessageDeduplicationId="1"
        )
        again = self.sqs.send_message(
            QueueUrl=self.url, MessageBody="b", MessageGroupId="h", MessageDeduplicationId="1"
        )
        self.assertEqual(first["MessageId"], again["MessageId"])
        self.assertEqual(first["SequenceNumber"], again["SequenceNumber"])
        self.assertEqual(self.bodies(self.url), ["a"])

    def test_id_against_content(self) -> None:
        """Ids and digests of bodies are of one kind."""
        url = self.queue("content.fifo", ContentBasedDeduplication="true")
        self.sequence(url)
        self.sequence(url, MessageBody="y", MessageDeduplicationId=hashlib.sha256(b"x").hexdigest())
        self.assertEqual(self.bodies(url), ["x"])

    def test_scope_of_groups(self) -> None:
        """With the scope messageGroup the same id in another group is another message."""
        url = self.queue("scoped.fifo", DeduplicationScope="messageGroup", FifoThroughputLimit="perMessageGroupId")
        for group in ("g", "h", "g"):
            self.sequence(url, MessageDeduplicationId="1", MessageGroupId=group)
        self.assertEqual(len(self.receive(url)), 2)


class BatchTests(SqsCase):
    """SendMessageBatch."""

    def setUp(self) -> None:
        super().setUp()
        self.url = self.queue()

    def invalid(self, code: str, message: str, *entries: dict[str, Any], url: str = "") -> None:
        self.refused(
            f"AWS.SimpleQueueService.{code}",
            "send_message_batch",
            message,
            QueueUrl=url or self.url,
            Entries=list(entries),
        )
        self.assertEqual(self.receive(self.url), [])

    def test_batch(self) -> None:
        """Messages are sent in order; each entry is answered by its id."""
        entries = [{"Id": f"id-{number}", "MessageBody": str(number)} for number in range(10)]
        answer = self.sqs.send_message_batch(QueueUrl=self.url, Entries=entries)
        self.assertEqual([one["Id"] for one in answer["Successful"]], [one["Id"] for one in entries])
        self.assertEqual(answer.get("Failed", []), [])
        self.assertEqual(self.bodies(self.url), [str(number) for number in range(10)])

    def test_empty(self) -> None:
        self.invalid("EmptyBatchRequest", "There should be at least one SendMessageBatchRequestEntry in the request.")

    def test_malformed_id(self) -> None:
        text = (
            "A batch entry id can only contain alphanumeric characters, hyphens and underscores. "
            "It can be at most 80 letters long."
        )
        for id_ in ("", "a.b", "i" * 81, "ä", "a\n"):
            self.invalid("InvalidBatchEntryId", text, {"Id": id_, "MessageBody": "x"})

    def test_too_long_together(self) -> None:
        """Bytes of bodies and attributes count."""
        text = "Batch requests cannot be longer than 1048576 bytes. You have sent {} bytes."
        long = "x" * 524288
        self.invalid(
            "BatchRequestTooLong",
            text.format(1048577),
            {"Id": "1", "MessageBody": long},
            {"Id": "2", "MessageBody": long + "x"},
        )
        attribute = {"a": {"DataType": "Binary", "BinaryValue": b"123"}}
        self.invalid(
            "BatchRequestTooLong",
            text.format(1048586),
            {"Id": "1", "MessageBody": long, "MessageAttributes": attribute},
            {"Id": "2", "MessageBody": long},
        )

    def test_repeated_id(self) -> None:
        """The first id that comes again is named."""
        entries = [{"Id": id_, "MessageBody": "x"} for id_ in ("a", "b", "b", "a")]
        self.invalid("BatchEntryIdsNotDistinct", "Id b repeated.", *entries)

    def test_too_many(self) -> None:
        entries = [{"Id": str(number), "MessageBody": "x"} for number in range(11)]
        self.invalid(
            "TooManyEntriesInBatchRequest",
            "Maximum number of entries per request are 10. You have sent 11.",
            *entries,
        )

    def test_no_queue(self) -> None:
        """That there is no such queue goes before all that is wrong with the batch."""
        for entries in ([], [{"Id": "1", "MessageBody": "x"}], [{"Id": "1", "MessageBody": "x", "DelaySeconds": 1000}]):
            self.invalid("NonExistentQueue", "The specified queue does not exist.", *entries, url="none")

    def test_partial_failure(self) -> None:
        """An entry that is refused does not keep the others from being sent."""
        small = self.queue("small", MaximumMessageSize=1024)
        answer = self.sqs.send_message_batch(
            QueueUrl=small,
            Entries=[
                {"Id": "late", "MessageBody": "x", "DelaySeconds": 901},
                {"Id": "good", "MessageBody": "x"},
                {"Id": "long", "MessageBody": "x" * 1025},
                {"Id": "odd", "MessageBody": "\0"},
            ],
        )
        self.assertEqual([one["Id"] for one in answer["Successful"]], ["good"])
        failed = {one["Id"]: one for one in answer["Failed"]}
        self.assertEqual(
            {id_: one["Code"] for id_, one in failed.items()},
            {"late": "InvalidParameterValue", "long": "InvalidParameterValue", "odd": "InvalidMessageContents"},
        )
        self.assertEqual([one["SenderFault"] for one in failed.values()], [True] * 3)
        self.assertIn("shorter than 1024 bytes", failed["long"]["Message"])

    def test_fifo(self) -> None:
        """The order of a batch is kept; a missing group or id refuses the whole of it."""
        url = self.queue("q.fifo")
        entries: list[dict[str, str]] = [
            {"Id": id_, "MessageBody": id_, "MessageGroupId": "g", "MessageDeduplicationId": id_} for id_ in "abc"
        ]
        answer = self.sqs.send_message_batch(QueueUrl=url, Entries=entries)
        numbers = [one["SequenceNumber"] for one in answer["Successful"]]
        self.assertEqual(numbers, sorted(set(numbers)))
        self.assertEqual(self.bodies(url), ["a", "b", "c"])
        for lost, code in (("MessageGroupId", "MissingParameter"), ("MessageDeduplicationId", "InvalidParameterValue")):
            other = {key: value for key, value in entries[0].items() if key != lost}
            self.refused(code, "send_message_batch", None, QueueUrl=url, Entries=[{**other, "Id": "x"}, entries[1]])
