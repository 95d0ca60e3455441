"""The query protocol."""

from __future__ import annotations

from urllib.parse import urlencode
from xml.etree import ElementTree

from twisted.trial.unittest import SynchronousTestCase

from flowgate.sqs.query import operation_of_action, read_parameters, read_query, write_xml, write_xml_error
from flowgate.sqs.wire import SqsError

SPACE = "{http://queue.amazonaws.com/doc/2012-11-05/}"


class ReadTests(SynchronousTestCase):
    """Forms and query strings."""

    def refused(self, name: str, operation: str, **parameters: str) -> str:
        error = self.assertRaises(SqsError, read_query, operation, parameters)
        assert isinstance(error, SqsError)
        self.assertEqual(error.name, name)
        return error.message

    def test_parameters(self) -> None:
        """In a body "+" is a space, in a URL a plus."""
        self.assertEqual(
            read_parameters(b"a=1+2&b=%C3%A4%2B&c&&d=e=f", True), {"a": "1 2", "b": "ä+", "c": "", "d": "e=f"}
        )
        self.assertEqual(read_parameters(b"a=1+2", False), {"a": "1+2"})
        self.assertEqual(read_parameters(b"", True), {})

    def test_bad_parameters(self) -> None:
        self.assertRaises(SqsError, read_parameters, b"a=%ff", True)
        self.assertRaises(SqsError, read_parameters, b"a&" * 2001, True)

    def test_action(self) -> None:
        self.assertEqual(operation_of_action("SendMessage"), "SendMessage")
        for action, name in ((None, "MissingAction"), ("", "MissingAction"), ("Nonsense", "UnknownOperationException")):
            error = self.assertRaises(SqsError, operation_of_action, action)
            assert isinstance(error, SqsError)
            self.assertEqual(error.name, name)

    def test_plain(self) -> None:
        parameters = {"Action": "x", "Version": "y", "QueueUrl": "q", "WaitTimeSeconds": "5", "AttributeName.1": "All"}
        self.assertEqual(
            read_query("ReceiveMessage", parameters),
            {"QueueUrl": "q", "WaitTimeSeconds": 5, "AttributeNames": ["All"]},
        )

    def test_lists(self) -> None:
        """Items come in the order of their numbers, which may have gaps; one may come without a number."""
        parameters = {"QueueUrl": "q", "AttributeName.10": "c", "AttributeName.2": "b", "AttributeName.1": "a"}
        self.assertEqual(read_query("GetQueueAttributes", parameters)["AttributeNames"], ["a", "b", "c"])
        self.assertEqual(
            read_query("GetQueueAttributes", {"QueueUrl": "q", "AttributeName": "All"})["AttributeNames"], ["All"]
        )

    def test_names_of_json(self) -> None:
        """The names of the JSON protocol are understood too."""
        parameters = {"QueueUrl": "q", "MessageSystemAttributeNames.1": "All"}
        self.assertEqual(read_query("ReceiveMessage", parameters)["MessageSystemAttributeNames"], ["All"])

    def test_maps(self) -> None:
        parameters = {
            "QueueName": "q",
            "Attribute.1.Name": "DelaySeconds",
            "Attribute.1.Value": "5",
            "Attribute.2.Name": "Policy",
            "Attribute.2.Value": "",
            "Tag.1.Key": "k",
            "Tag.1.Value": "v",
            "Tag.2.Key": "empty",
        }
        self.assertEqual(
            read_query("CreateQueue", parameters),
            {"QueueName": "q", "Attributes": {"DelaySeconds": "5", "Policy": ""}, "tags": {"k": "v", "empty": ""}},
        )
        parameters = {"QueueUrl": "q", "Attribute.Name": "DelaySeconds", "Attribute.Value": "5"}
        self.assertEqual(read_query("SetQueueAttributes", parameters)["Attributes"], {"DelaySeconds": "5"})

    def test_batch(self) -> None:
        entry = "SendMessageBatchRequestEntry.1."
        parameters = {
            "QueueUrl": "q",
            f"{entry}Id": "1",
            f"{entry}MessageBody": "x",
            f"{entry}DelaySeconds": "3",
            f"{entry}MessageAttribute.1.Name": "a.b",
            f"{entry}MessageAttribute.1.Value.DataType": "Binary",
            f"{entry}MessageAttribute.1.Value.BinaryValue": "AAE=",
        }
        self.assertEqual(
            read_query("SendMessageBatch", parameters)["Entries"],
            [
                {
                    "Id": "1",
                    "MessageBody": "x",
                    "DelaySeconds": 3,
                    "MessageAttributes": {"a.b": {"DataType": "Binary", "BinaryValue": "AAE="}},
                }
            ],
        )

    def test_same_as_json(self) -> None:
        """All parameters of a message come to the same as in the JSON protocol."""
        form = urlencode(
            {
                "QueueUrl": "q",
                "MessageBody": "a\r\nä",
                "MessageGroupId": "g",
                "MessageDeduplicationId": "d",
                "MessageSystemAttribute.1.Name": "AWSTraceHeader",
                "MessageSystemAttribute.1.Value.DataType": "String",
                "MessageSystemAttribute.1.Value.StringValue": "t",
            }
        )
        self.assertEqual(
            read_query("SendMessage", read_parameters(form.encode(), True)),
            {
                "QueueUrl": "q",
                "MessageBody": "a\r\nä",
                "MessageGroupId": "g",
                "MessageDeduplicationId": "d",
                "MessageSystemAttributes": {"AWSTraceHeader": {"DataType": "String", "StringValue": "t"}},
            },
        )

    def test_missing(self) -> None:
        self.assertEqual(
            self.refused("MissingParameter", "SendMessage", QueueUrl="q"),
            "The request must contain the parameter MessageBody.",
        )

    def test_not_a_number(self) -> None:
        for text in ("x", "", "1.5", "9" * 30, "²", "0x1"):
            self.refused("InvalidParameterValue", "ReceiveMessage", QueueUrl="q", WaitTimeSeconds=text)

    def test_crossed_names(self) -> None:
        """Names that contradict each other end in nothing but our own errors."""
        for parameters in (
            {"QueueUrl.1": "q"},
            {"QueueUrl": "q", "MessageBody.a.b": "x"},
            {"QueueUrl": "q", "MessageBody": "x", "MessageAttribute.1": "x"},
            {"QueueUrl": "q", "MessageBody": "x", "MessageAttribute.1.Name.x": "x"},
            {"QueueUrl": "q", "MessageBody": "x", "MessageAttribute.1.Name": "a", "MessageAttribute.1.Value": "x"},
            {"QueueUrl": "q", "MessageBody": "x", "DelaySeconds.1": "x"},
            {"QueueUrl": "q", "MessageBody": "x", "MessageAttribute": "x"},
            {".": "", "..": "", "QueueUrl..": "", ".QueueUrl": ""},
            {"QueueUrl": "q", "QueueUrl.x": "y", "MessageBody.": "x"},
            {"." * 1000: "x"},
        ):
            try:
                read_query("SendMessage", parameters)
            except SqsError:
                continue


class WriteTests(SynchronousTestCase):
    """Answers in XML."""

    def test_result(self) -> None:
        body = write_xml("CreateQueue", {"QueueUrl": "http://h/1/q?a&b"}, "id-1")
        root = ElementTree.fromstring(body)
        self.assertEqual(root.tag, f"{SPACE}CreateQueueResponse")
        self.assertEqual(root.findtext(f"{SPACE}CreateQueueResult/{SPACE}QueueUrl"), "http://h/1/q?a&b")
        self.assertEqual(root.findtext(f"{SPACE}ResponseMetadata/{SPACE}RequestId"), "id-1")

    def test_no_result(self) -> None:
        """An operation without result has no element for it; an empty result has one."""
        self.assertNotIn(b"Result>", write_xml("DeleteQueue", None, "1"))
        self.assertIn(b"<ListQueuesResult></ListQueuesResult>", write_xml("ListQueues", {}, "1"))

    def test_lists_and_maps(self) -> None:
        """Lists and maps are flat; a map's entries are named as its shape says."""
        tags = write_xml("ListQueueTags", {"Tags": {"a": "1", "b": "2"}}, "1")
        self.assertIn(b"<Tag><Key>a</Key><Value>1</Value></Tag><Tag><Key>b</Key><Value>2</Value></Tag>", tags)
        message = {
            "Body": "x",
            "Attributes": {"SenderId": "me"},
            "MessageAttributes": {"n": {"DataType": "String", "StringValue": "v"}},
        }
        body = write_xml("ReceiveMessage", {"Messages": [message, {"Body": "y"}]}, "1")
        self.assertIn(b"<Attribute><Name>SenderId</Name><Value>me</Value></Attribute>", body)
        value = b"<Value><DataType>String</DataType><StringValue>v</StringValue></Value>"
        self.assertIn(b"<MessageAttribute><Name>n</Name>" + value + b"</MessageAttribute></Message>", body)
        self.assertIn(b"<Message><Body>y</Body></Message></ReceiveMessageResult>", body)

    def test_flags_and_numbers(self) -> None:
        failed = {"Id": "1", "SenderFault": True, "Code": "c", "Message": "m"}
        body = write_xml("DeleteMessageBatch", {"Successful": [{"Id": "2"}], "Failed": [failed]}, "1")
        self.assertIn(b"<DeleteMessageBatchResultEntry><Id>2</Id></DeleteMessageBatchResultEntry>", body)
        self.assertIn(b"<BatchResultErrorEntry><Id>1</Id><SenderFault>true</SenderFault>", body)
        moved = write_xml("CancelMessageMoveTask", {"ApproximateNumberOfMessagesMoved": 5}, "1")
        self.assertIn(b"<ApproximateNumberOfMessagesMoved>5<", moved)

    def test_characters(self) -> None:
        """A CR comes through as such, markup too; what XML cannot carry is replaced."""
        text = "a\r\n<&>\"'\t😀"
        body = write_xml("ReceiveMessage", {"Messages": [{"Body": text}]}, "1")
        self.assertIn(b"&#13;\n", body)
        self.assertEqual(ElementTree.fromstring(body).findtext(f".//{SPACE}Body"), text)
        odd = write_xml("ListQueueTags", {"Tags": {"\0": "\ufffe"}}, "1")
        self.assertEqual(ElementTree.fromstring(odd).findtext(f".//{SPACE}Key"), "\ufffd")

    def test_error(self) -> None:
        body = write_xml_error(SqsError("QueueDoesNotExist", "<no>"), "id-1")
        root = ElementTree.fromstring(body)
        self.assertEqual(root.tag, f"{SPACE}ErrorResponse")
        error = f"{SPACE}Error/{SPACE}"
        self.assertEqual(root.findtext(f"{error}Type"), "Sender")
        self.assertEqual(root.findtext(f"{error}Code"), "AWS.SimpleQueueService.NonExistentQueue")
        self.assertEqual(root.findtext(f"{error}Message"), "<no>")
        self.assertEqual(root.findtext(f"{SPACE}RequestId"), "id-1")
