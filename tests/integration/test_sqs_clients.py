"""Unmodified SQS clients: boto3, the AWS command line, Celery, and the AWS SDK for JavaScript."""

# mypy: disable-error-code="import-untyped, no-any-unimported, no-untyped-call"
# (boto3 has no annotations)
from __future__ import annotations

import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError
from twisted.trial.unittest import SkipTest, SynchronousTestCase

from tests.integration.gateway import ROOT, RunningGateway, until
from tests.integration.programs import Program, find, run

PROGRAMS = Path(__file__).with_name("sqs_programs")
ACCOUNT = "123456789012"


class SqsClientCase(SynchronousTestCase):
    """A gateway, an API key, and boto3."""

    config = ""

    def setUp(self) -> None:
        self.gateway = RunningGateway(config=self.config)
        self.addCleanup(self.gateway.clean_up)
        self.gateway.start()
        self.key, _, self.secret = self.gateway.key("ann").partition(".")
        self.sqs = self.client()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.gateway.http}"

    def client(self, **more: Any) -> Any:
        arguments = {
            "region_name": "eu-west-1",
            "endpoint_url": self.endpoint,
            "aws_access_key_id": self.key,
            "aws_secret_access_key": self.secret,
            "config": Config(retries={"max_attempts": 0}),
        }
        client = boto3.Session().client("sqs", **{**arguments, **more})
        self.addCleanup(client.close)
        return client

    def bodies(self, url: str, most: int = 10, **more: Any) -> list[str]:
        answer = self.sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=most, **more)
        return [message["Body"] for message in answer.get("Messages", [])]


class Boto3Tests(SqsClientCase):
    """boto3 and a whole gateway."""

    def test_life_of_a_message(self) -> None:
        """Sent, received with its attributes, given back, received again, deleted."""
        url = self.sqs.create_queue(QueueName="q")["QueueUrl"]
        self.assertEqual(url, f"{self.endpoint}/{ACCOUNT}/q")
        attributes = {
            "text": {"DataType": "String", "StringValue": "ä€😀"},
            "bytes": {"DataType": "Binary", "BinaryValue": b"\0\1\xff"},
        }
        self.sqs.send_message(QueueUrl=url, MessageBody="héllo\r\n😀", MessageAttributes=attributes)
        names = {"MessageAttributeNames": ["All"], "MessageSystemAttributeNames": ["All"]}
        [message] = self.sqs.receive_message(QueueUrl=url, **names)["Messages"]
        self.assertEqual((message["Body"], message["MessageAttributes"]), ("héllo\r\n😀", attributes))
        self.assertEqual(message["Attributes"]["SenderId"], self.key)
        handle = message["ReceiptHandle"]
        self.sqs.change_message_visibility(QueueUrl=url, ReceiptHandle=handle, VisibilityTimeout=0)
        [again] = self.sqs.receive_message(QueueUrl=url, **names)["Messages"]
        self.assertEqual(again["Attributes"]["ApproximateReceiveCount"], "2")
        self.sqs.delete_message(QueueUrl=url, ReceiptHandle=handle)
        self.sqs.delete_message(QueueUrl=url, ReceiptHandle=handle)
        shown = self.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
        counts = [shown[f"ApproximateNumberOfMessages{kind}"] for kind in ("", "NotVisible", "Delayed")]
        self.assertEqual(counts, ["0", "0", "0"])

    def test_largest(self) -> None:
        """A message of 1 MiB, and ten that are as much together."""
        url = self.sqs.create_queue(QueueName="q")["QueueUrl"]
        body = "x" * 1_048_576
        self.sqs.send_message(QueueUrl=url, MessageBody=body)
        self.assertEqual(self.bodies(url), [body])
        entries = [{"Id": str(number), "MessageBody": "y" * 104_857} for number in range(10)]
        self.assertEqual(len(self.sqs.send_message_batch(QueueUrl=url, Entries=entries)["Successful"]), 10)
        self.assertEqual(len(self.bodies(url)), 10)

    def test_long_poll(self) -> None:
        """A waiting receive has the message as soon as it is sent."""
        url = self.sqs.create_queue(QueueName="q")["QueueUrl"]
        found: list[str] = []
        waiting = Thread(target=lambda: found.extend(self.bodies(url, WaitTimeSeconds=20)))
        waiting.start()
        self.client().send_message(QueueUrl=url, MessageBody="x")
        waiting.join(10)
        self.assertEqual(found, ["x"])

    def test_same_queues_as_rest(self) -> None:
        """REST and SQS serve the same queues."""
        token = self.gateway.token("ann")
        url = self.sqs.create_queue(QueueName="q")["QueueUrl"]
        attributes = {"n": {"DataType": "Number", "StringValue": "7"}}
        self.sqs.send_message(QueueUrl=url, MessageBody="from SQS", MessageAttributes=attributes)
        path = "/api/v1/queues/q/messages"
        status, answer = self.gateway.request("POST", f"{path}/receive", {}, token=token)
        [message] = answer["messages"]
        self.assertEqual((status, message["body"], message["attributes"]), (200, "from SQS", {"n": 7}))
        self.sqs.delete_message(QueueUrl=url, ReceiptHandle=message["receipt"])
        self.assertEqual(self.gateway.request("POST", path, {"body": "from REST"}, token=token)[0], 201)
        self.assertEqual(self.bodies(url), ["from REST"])

    def test_survives_a_kill(self) -> None:
        """What was sent and received before kill -9 is as it was: hidden, and to be deleted with the same handle."""
        url = self.sqs.create_queue(QueueName="q", Attributes={"VisibilityTimeout": "600"})["QueueUrl"]
        entries = [{"Id": str(number), "MessageBody": str(number)} for number in range(10)]
        self.sqs.send_message_batch(QueueUrl=url, Entries=entries)
        held = self.sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=3)["Messages"]
        self.gateway.kill()
        self.gateway.start()
        self.sqs = self.client()
        self.assertEqual(sorted(self.bodies(url)), [str(number) for number in range(3, 10)])
        for message in held:
            self.sqs.delete_message(QueueUrl="q", ReceiptHandle=message["ReceiptHandle"])
        shown = self.sqs.get_queue_attributes(QueueUrl="q", AttributeNames=["All"])["Attributes"]
        self.assertEqual(shown["ApproximateNumberOfMessagesNotVisible"], "7")

    def test_wrong_secret(self) -> None:
        wrong = self.client(aws_secret_access_key="x" * 40)
        error: Any = self.assertRaises(ClientError, wrong.list_queues)
        self.assertEqual(error.response["Error"]["Code"], "SignatureDoesNotMatch")

    def test_below_a_path(self) -> None:
        """The endpoint may be /sqs."""
        self.sqs = self.client(endpoint_url=f"{self.endpoint}/sqs")
        url = self.sqs.create_queue(QueueName="q")["QueueUrl"]
        self.assertEqual(url, f"{self.endpoint}/sqs/{ACCOUNT}/q")
        self.sqs.send_message(QueueUrl=url, MessageBody="x")
        self.assertEqual(self.bodies(url), ["x"])


class AccountTests(SqsClientCase):
    """What the configuration file says of SQS."""

    config = 'sqs_account_id = "000000000001"\nsqs_regions = "separate"\n'

    def test_account_and_regions(self) -> None:
        """The account stands in URLs and ARNs; regions are apart."""
        url = self.sqs.create_queue(QueueName="q")["QueueUrl"]
        self.assertEqual(url, f"{self.endpoint}/000000000001/q")
        self.assertNotIn("QueueUrls", self.client(region_name="us-east-1").list_queues())


class CommandLineTests(SqsClientCase):
    """The AWS command line."""

    def aws(self, *arguments: str, good: bool = True) -> Any:
        environment = {
            "AWS_ACCESS_KEY_ID": self.key,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_DEFAULT_REGION": "eu-west-1",
            "AWS_CONFIG_FILE": "/dev/null",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_PAGER": "",
        }
        command = ["aws", "--endpoint-url", self.endpoint, "--output", "json", "sqs", *arguments]
        ended, output, errors = run(command, environment=environment)
        self.assertEqual(ended == 0, good, errors)
        return json.loads(output) if output.strip() else errors or None

    def test_commands(self) -> None:
        """A FIFO queue with dead letters, from its making to its end.

        Older versions of aws speak the query protocol, newer ones JSON.
        """
        find("aws")
        dead = self.aws("create-queue", "--queue-name", "dead.fifo", "--attributes", "FifoQueue=true")["QueueUrl"]
        shown = self.aws("get-queue-attributes", "--queue-url", dead, "--attribute-names", "All")["Attributes"]
        policy = json.dumps({"deadLetterTargetArn": shown["QueueArn"], "maxReceiveCount": 1})
        attributes = {"FifoQueue": "true", "VisibilityTimeout": "0", "RedrivePolicy": policy}
        url = self.aws("create-queue", "--queue-name", "q.fifo", "--attributes", json.dumps(attributes))["QueueUrl"]
        self.assertEqual(self.aws("list-queues")["QueueUrls"], [dead, url])
        ids = ("--message-group-id", "g", "--message-deduplication-id", "1")
        sent = self.aws("send-message", "--queue-url", url, "--message-body", "héllo", *ids)
        self.assertEqual(len(sent["SequenceNumber"]), 20)
        [message] = self.aws("receive-message", "--queue-url", url, "--attribute-names", "All")["Messages"]
        self.assertEqual((message["Body"], message["Attributes"]["MessageGroupId"]), ("héllo", "g"))
        self.assertIsNone(self.aws("receive-message", "--queue-url", url))
        names = ("--attribute-names", "All", "--visibility-timeout", "60")
        [message] = self.aws("receive-message", "--queue-url", dead, *names)["Messages"]
        self.assertEqual(message["Attributes"]["DeadLetterQueueSourceArn"].rpartition(":")[2], "q.fifo")
        self.aws("delete-message", "--queue-url", dead, "--receipt-handle", message["ReceiptHandle"])
        self.aws("delete-queue", "--queue-url", url)
        self.assertIn("NonExistentQueue", self.aws("purge-queue", "--queue-url", url, good=False))


class JavaScriptTests(SqsClientCase):
    """@aws-sdk/client-sqs."""

    def test_calls(self) -> None:
        """The SDK finds its digests, its errors by their classes, and its pages."""
        find("node")
        if not (PROGRAMS / "node_modules" / "@aws-sdk").is_dir():
            raise SkipTest("@aws-sdk/client-sqs is not installed; tests/run does that where there is npm")
        self.sqs.create_queue(QueueName="another")
        request = json.dumps({"endpoint": self.endpoint, "key": self.key, "secret": self.secret})
        status, output, errors = run(["node", str(PROGRAMS / "with_javascript.cjs"), request])
        self.assertEqual(status, 0, errors)
        self.assertEqual(
            json.loads(output),
            {
                "url": f"{self.endpoint}/{ACCOUNT}/from-js",
                "batch": [["good"], ["late"]],
                "bodies": ["héllo\r\n😀", "two"],
                "count": "1",
                "bytes": [0, 1, 255],
                "again": ["héllo\r\n😀", ["text"]],
                "left": "0",
                "error": ["QueueDoesNotExist", True, 400, "AWS.SimpleQueueService.NonExistentQueue"],
                "receipt": ["ReceiptHandleIsInvalid", "The input receipt handle is invalid."],
                "listed": 2,
            },
        )


class CeleryTests(SqsClientCase):
    """Celery over kombu's SQS transport."""

    def setUp(self) -> None:
        super().setUp()
        directory = TemporaryDirectory(prefix="flowgate-celery-")
        self.addCleanup(directory.cleanup)
        self.directory = Path(directory.name)
        self.environment = {
            "SQS_HOST": f"127.0.0.1:{self.gateway.http}",
            "SQS_KEY": self.key,
            "SQS_SECRET": self.secret,
            "SQS_SEEN": str(self.directory / "seen"),
            "PYTHONPATH": str(ROOT),
        }

    def worker(self) -> Program:
        application = "tests.integration.sqs_programs.celery_tasks"
        command = [sys.executable, "-m", "celery", "-A", application, "worker", "--pool=solo", "--loglevel=INFO"]
        program = Program(command, self.directory, self.environment, with_errors=True)
        self.addCleanup(program.end)
        program.until(b"ready.")
        return program

    def call(self, statement: str) -> None:
        module = "from tests.integration.sqs_programs import celery_tasks as tasks"
        status, _, errors = run([sys.executable, "-c", f"{module}; {statement}"], self.directory, self.environment)
        self.assertEqual(status, 0, errors)

    def seen(self) -> list[str]:
        path = self.directory / "seen"
        return path.read_text().splitlines() if path.exists() else []

    def left(self) -> list[str]:
        shown = self.sqs.get_queue_attributes(QueueUrl="celery-tasks", AttributeNames=["All"])["Attributes"]
        return [shown[f"ApproximateNumberOfMessages{kind}"] for kind in ("", "NotVisible", "Delayed")]

    def test_tasks_and_retries(self) -> None:
        """A worker runs tasks, and again what wants to be tried again; nothing is left over."""
        self.worker()
        self.call("[tasks.add.delay(number, 1) for number in range(10)]; tasks.stubborn.delay()")
        expected = [f"add {number + 1}" for number in range(10)] + [f"stubborn {number}" for number in range(3)]
        until(lambda: len(self.seen()) >= len(expected), "all tasks have run")
        self.assertEqual(sorted(self.seen()), sorted(expected))
        until(lambda: self.left() == ["0", "0", "0"], "nothing is left in the queue")

    def test_worker_dies(self) -> None:
        """What a worker was at when it died comes back to another one when its visibility ends."""
        first = self.worker()
        self.call(f"tasks.deadly.delay({str(self.directory / 'died')!r})")
        until(lambda: first.process.poll() is not None, "the worker is dead")
        self.assertEqual((self.seen(), self.left()), (["deadly"], ["0", "1", "0"]))
        self.worker()
        until(lambda: self.seen() == ["deadly", "deadly"], "the task came back")
        until(lambda: self.left() == ["0", "0", "0"], "nothing is left in the queue")
