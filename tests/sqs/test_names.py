"""URLs and ARNs of queues."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from flowgate.sqs.names import Naming
from flowgate.sqs.wire import SqsError

ACCOUNT = "123456789012"


class SharedTests(SynchronousTestCase):
    """One set of queues for all regions."""

    def setUp(self) -> None:
        self.naming = Naming(ACCOUNT)

    def test_urls(self) -> None:
        """A queue is found by a URL of any scheme, host and account, and by its name."""
        for url in (
            "q.fifo",
            "http://h/123456789012/q.fifo",
            "https://sqs.eu-west-1.amazonaws.com/999999999999/q.fifo",
            "http://h:8080/sqs/1/q.fifo/",
            "/1/q.fifo",
            "http://h/queue/q.fifo",
        ):
            self.assertEqual(self.naming.of_url(url, "r"), "q.fifo")

    def test_no_urls(self) -> None:
        """Where there cannot be a queue, there is none."""
        for url in ("", "/", "http://h/1/a b", "http://h/1/q?x=y", "http://h/1/" + "x" * 81, "ä"):
            error = self.assertRaises(SqsError, self.naming.of_url, url, "r")
            assert isinstance(error, SqsError)
            self.assertEqual(error.name, "QueueDoesNotExist")

    def test_arns(self) -> None:
        """ARNs of any partition, region and account; a URL or a name does it too."""
        for arn in (
            f"arn:aws:sqs:us-east-1:{ACCOUNT}:q",
            "arn:aws-cn:sqs:cn-north-1:000000000000:q",
            "arn:aws:sqs:::q",
            "q",
            "http://h/1/q",
        ):
            self.assertEqual(self.naming.of_arn(arn, "r"), "q")
        for arn in ("arn:aws:sns:us-east-1:1:q", "arn:aws:sqs:us-east-1:1", "arn:aws:sqs:r:1:a b", "arn:", ""):
            self.assertIsNone(self.naming.of_arn(arn, "r"))

    def test_shown(self) -> None:
        self.assertEqual(self.naming.url("http://h/sqs", "q", "r"), f"http://h/sqs/{ACCOUNT}/q")
        self.assertEqual(self.naming.arn("q", "eu-west-1"), f"arn:aws:sqs:eu-west-1:{ACCOUNT}:q")
        self.assertEqual(self.naming.outside("eu-west-1__q", "us-east-1"), "eu-west-1__q")


class SeparateTests(SynchronousTestCase):
    """Queues of their own for each region."""

    def setUp(self) -> None:
        self.naming = Naming(ACCOUNT, True)

    def test_home_region(self) -> None:
        """Queues of the home region have their plain names."""
        self.assertEqual(self.naming.inside("q", "us-east-1"), "q")
        self.assertEqual(self.naming.outside("q", "us-east-1"), "q")
        self.assertIsNone(self.naming.outside("q", "eu-west-1"))

    def test_other_region(self) -> None:
        """Those of others have the region in front, which clients do not see."""
        inside = self.naming.inside("q", "eu-west-1")
        self.assertEqual(inside, "eu-west-1__q")
        self.assertEqual(self.naming.outside(inside, "eu-west-1"), "q")
        self.assertIsNone(self.naming.outside(inside, "us-east-1"))
        self.assertIsNone(self.naming.outside(inside, "eu-west-2"))
        self.assertEqual(self.naming.url("http://h", inside, "eu-west-1"), f"http://h/{ACCOUNT}/q")
        self.assertEqual(self.naming.arn(inside, "eu-west-1"), f"arn:aws:sqs:eu-west-1:{ACCOUNT}:q")
        self.assertEqual(self.naming.of_arn(f"arn:aws:sqs:eu-west-1:{ACCOUNT}:q", "eu-west-1"), inside)
        self.assertIsNone(self.naming.of_arn(f"arn:aws:sqs:eu-west-2:{ACCOUNT}:q", "eu-west-1"))

    def test_no_way_round(self) -> None:
        """A client of one region does not reach the queues of another by their inner names."""
        for region in ("us-east-1", "eu-west-2", "eu-west-1"):
            self.assertRaises(SqsError, self.naming.inside, "eu-west-1__q", region)

    def test_length(self) -> None:
        """The region takes its part of the 80 characters."""
        self.naming.inside("x" * 69, "eu-west-1")
        self.assertRaises(SqsError, self.naming.inside, "x" * 70, "eu-west-1")
