"""The JSON protocol, and the table of operations against Amazon's own model."""

# mypy: disable-error-code="import-untyped, no-any-unimported, no-untyped-call"
# (botocore has no annotations)
from __future__ import annotations

import json
from typing import Any

import botocore.session
from twisted.trial.unittest import SynchronousTestCase

from flowgate.sqs.wire import (
    FAULTS,
    OPERATIONS,
    Flag,
    List,
    Map,
    Number,
    Shape,
    SqsError,
    Structure,
    Text,
    error_headers,
    operation_of_target,
    read_json,
    write_json,
    write_json_error,
)

RESERVED = {"StringListValues", "BinaryListValues"}
"""Members that Amazon has in its model and does not offer."""


class ModelTests(SynchronousTestCase):
    """The table is the one that botocore has."""

    def setUp(self) -> None:
        self.model: Any = botocore.session.Session().get_service_model("sqs")

    def compare(self, ours: Shape | None, theirs: Any, path: str) -> None:
        if theirs is None:
            self.assertIsNone(ours, path)
        elif theirs.type_name == "structure":
            assert isinstance(ours, Structure), path
            members = {name: shape for name, shape in theirs.members.items() if name not in RESERVED}
            self.assertEqual(set(ours.members), set(members), path)
            for name, shape in members.items():
                self.compare(ours.members[name], shape, f"{path}.{name}")
        elif theirs.type_name == "list":
            assert isinstance(ours, List), path
            self.compare(ours.of, theirs.member, path)
        elif theirs.type_name == "map":
            assert isinstance(ours, Map), path
            self.compare(ours.of, theirs.value, path)
        else:
            kinds: dict[str, type] = {"string": Text, "blob": Text, "boolean": Flag, "integer": Number, "long": Number}
            self.assertIs(type(ours), kinds[theirs.type_name], path)

    def test_operations(self) -> None:
        """Every operation, with all members and their types."""
        self.assertEqual(set(OPERATIONS), set(self.model.operation_names))
        for name, operation in OPERATIONS.items():
            theirs = self.model.operation_model(name)
            self.compare(operation.takes, theirs.input_shape, name)
            output = theirs.output_shape
            self.compare(operation.gives, output if output is not None and output.members else None, name)

    def test_required(self) -> None:
        """What has to be there; a batch without entries has an error of its own."""
        for name, operation in OPERATIONS.items():
            expected = set(self.model.operation_model(name).input_shape.required_members) - {"Entries"}
            self.assertEqual(set(operation.takes.required), expected, name)

    def test_faults(self) -> None:
        """Every error that the model knows, but those that we have no use for."""
        unused = {"InvalidAddress", "InvalidSecurity", "InvalidIdFormat", "MessageNotInflight", "PurgeQueueInProgress"}
        unused |= {"QueueDeletedRecently"}
        for name in self.model.operation_names:
            for error in self.model.operation_model(name).error_shapes:
                if not error.name.startswith("Kms") and error.name not in unused:
                    self.assertIn(error.name, FAULTS)


class ReadTests(SynchronousTestCase):
    """Bodies of requests."""

    def refused(self, name: str, operation: str, value: object, message: str = "") -> None:
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        error = self.assertRaises(SqsError, read_json, operation, body)
        assert isinstance(error, SqsError)
        self.assertEqual(error.name, name)
        if message:
            self.assertEqual(error.message, message)

    def test_target(self) -> None:
        self.assertEqual(operation_of_target(b"AmazonSQS.SendMessage"), "SendMessage")
        for target in (b"AmazonSQS.", b"AmazonSQS.Nonsense", b"SendMessage", b"DynamoDB_20120810.ListTables", b"\xff"):
            error = self.assertRaises(SqsError, operation_of_target, target)
            assert isinstance(error, SqsError)
            self.assertEqual(error.name, "UnknownOperationException")

    def test_known_members(self) -> None:
        """What is not known is ignored, as Amazon does, and null is as good as absent."""
        body = {"QueueUrl": "q", "MessageBody": "x", "DelaySeconds": None, "Nonsense": [1]}
        self.assertEqual(read_json("SendMessage", json.dumps(body).encode()), {"QueueUrl": "q", "MessageBody": "x"})

    def test_nested(self) -> None:
        attributes = {"a": {"DataType": "String", "StringValue": "x"}, "b": None}
        body = {"QueueUrl": "q", "Entries": [{"Id": "1", "MessageBody": "x", "MessageAttributes": attributes}]}
        entries = read_json("SendMessageBatch", json.dumps(body).encode())["Entries"]
        self.assertEqual(entries, [{"Id": "1", "MessageBody": "x", "MessageAttributes": {"a": attributes["a"]}}])

    def test_no_body(self) -> None:
        self.assertEqual(read_json("ListQueues", b""), {})

    def test_not_json(self) -> None:
        for body in (b"{", b"[]", b'"x"', b"\xff", b"null", b"[" * 100_000, b'{"QueueUrl":"\\ud800"}'):
            self.refused("SerializationException", "DeleteQueue", body)

    def test_other_types(self) -> None:
        """A member of another type is named."""
        url = {"QueueUrl": "q"}
        for operation, more, where in (
            ("ReceiveMessage", {"WaitTimeSeconds": "5"}, "WaitTimeSeconds"),
            ("ReceiveMessage", {"WaitTimeSeconds": True}, "WaitTimeSeconds"),
            ("ReceiveMessage", {"WaitTimeSeconds": 1.5}, "WaitTimeSeconds"),
            ("ReceiveMessage", {"AttributeNames": "All"}, "AttributeNames"),
            ("ReceiveMessage", {"AttributeNames": [1]}, "AttributeNames.1"),
            ("SendMessage", {"MessageBody": {}}, "MessageBody"),
            ("SendMessage", {"MessageBody": "x", "MessageAttributes": []}, "MessageAttributes"),
            ("SendMessage", {"MessageBody": "x", "MessageAttributes": {"a": "b"}}, "MessageAttributes.a"),
            ("SetQueueAttributes", {"Attributes": {"DelaySeconds": 5}}, "Attributes.DelaySeconds"),
            ("SendMessageBatch", {"Entries": [{"Id": 1, "MessageBody": "x"}]}, "Entries.1.Id"),
        ):
            error = self.assertRaises(SqsError, read_json, operation, json.dumps({**url, **more}).encode())
            assert isinstance(error, SqsError)
            self.assertEqual(error.name, "SerializationException")
            self.assertEqual(error.message.partition(" ")[0], where)

    def test_missing(self) -> None:
        text = "The request must contain the parameter {}."
        self.refused("MissingParameter", "SendMessage", {"QueueUrl": "q"}, text.format("MessageBody"))
        self.refused("MissingParameter", "DeleteQueue", {}, text.format("QueueUrl"))
        self.refused(
            "MissingParameter",
            "DeleteMessageBatch",
            {"QueueUrl": "q", "Entries": [{"Id": "1", "ReceiptHandle": "r"}, {"Id": "2"}]},
            text.format("Entries.2.ReceiptHandle"),
        )


class WriteTests(SynchronousTestCase):
    """Bodies of answers."""

    def test_result(self) -> None:
        self.assertEqual(write_json({"QueueUrl": "ä"}), '{"QueueUrl":"ä"}'.encode())

    def test_no_result(self) -> None:
        """An operation without result has an empty body; an empty result is an object."""
        self.assertEqual(write_json(None), b"")
        self.assertEqual(write_json({}), b"{}")

    def test_error(self) -> None:
        error = SqsError("QueueDoesNotExist", "Not there.")
        self.assertEqual(
            json.loads(write_json_error(error)),
            {"__type": "com.amazonaws.sqs#QueueDoesNotExist", "message": "Not there."},
        )
        header = (b"x-amzn-query-error", b"AWS.SimpleQueueService.NonExistentQueue;Sender")
        self.assertEqual(error_headers(error), (header,))

    def test_common_error(self) -> None:
        error = SqsError("MissingParameter", "x")
        self.assertEqual(json.loads(write_json_error(error))["__type"], "com.amazon.coral.service#MissingParameter")

    def test_our_fault(self) -> None:
        """Of our own faults nobody accuses the sender."""
        error = SqsError("InternalFailure", "x")
        self.assertEqual(error_headers(error), ((b"x-amzn-query-error", b"InternalFailure;Receiver"),))
