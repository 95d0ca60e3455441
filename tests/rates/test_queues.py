"""The rates of an account hold for what it sends to queues, over REST and SQS."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from flowgate.allowances import Allowance, Unlimited
from flowgate.allowing import AccountAllowance
from flowgate.billing.plans import Plan
from flowgate.billing.purse import Purse
from flowgate.rates.account import AccountRates, Pace
from flowgate.rates.plan import RateLimits
from tests.http_client import Answer, HttpClient
from tests.sqs.client import SqsCase

LIMITS = RateLimits(publish_rate=3, bytes_rate=1000)


def allowance(clock: Clock) -> Allowance:
    """What a client may publish within these rates."""
    purse = Purse("alice", "n", Plan("p"), clock.seconds, lambda _: None, lambda: 1)
    return AccountAllowance(purse, "k", Pace(AccountRates(LIMITS, clock.seconds), "k"))


class RestTests(SynchronousTestCase):
    """Over REST."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.allowance = allowance(self.clock)
        self.patch(Unlimited, "of", lambda *_: self.allowance)
        self.client = HttpClient()

    def send(self, path: str, body: object) -> Answer:
        return self.client.call("POST", f"/api/v1/queues/q/messages{path}", body)

    def policy(self, answer: Answer) -> tuple[str, str]:
        fields = answer.headers
        return fields["ratelimit-policy"], fields["ratelimit"]

    def test_one(self) -> None:
        """Every answer says where the sender stands; what is too much is refused, and goes a moment later."""
        policy = '"publish";q=3;w=1, "bytes";q=1000;qu="content-bytes";w=1'
        for left in (2, 1, 0):
            answer = self.send("", {"body": "x" * 100})
            self.assertEqual(answer.status, 201)
            stands = f'"publish";r={left};t={int(not left)}, "bytes";r={700 + 100 * left};t=0'
            self.assertEqual(self.policy(answer), (policy, stands))
        answer = self.send("", {"body": "x"})
        self.assertEqual((answer.status, answer.json()["code"]), (429, "rate_limited"))
        self.assertEqual((answer.headers["retry-after"], answer.json()["violated-policies"]), ("1", ["publish"]))
        self.assertEqual(self.policy(answer)[0], policy)
        self.clock.advance(0.4)
        self.assertEqual(self.send("", {"body": "x"}).status, 201)

    def test_batch(self) -> None:
        """Of a batch the first messages are sent, as many as there is room for."""
        answer = self.send("/batch", {"messages": [{"id": str(number), "body": "x"} for number in range(5)]})
        results = answer.json()
        self.assertEqual([one["id"] for one in results["successful"]], ["0", "1", "2"])
        self.assertEqual([(one["id"], one["code"]) for one in results["failed"]], [(n, "rate_limited") for n in "34"])
        self.assertIn('"publish";r=0;t=1', self.policy(answer)[1])

    def test_no_rates(self) -> None:
        """An account without rates is told of none."""
        self.allowance = Allowance()
        self.assertNotIn("ratelimit", self.send("", {"body": "x"}).headers)


class SqsTests(SqsCase):
    """Over SQS."""

    def setUp(self) -> None:
        self.rate_clock = Clock()
        rated = allowance(self.rate_clock)
        self.options = {"allowance": lambda _: rated}
        super().setUp()

    def test_sends(self) -> None:
        """Amazon's client is told to come again later."""
        url = self.sqs.create_queue(QueueName="q")["QueueUrl"]
        self.sqs.send_message(QueueUrl=url, MessageBody="x")
        entries = [{"Id": str(number), "MessageBody": "x"} for number in range(4)]
        answer = self.sqs.send_message_batch(QueueUrl=url, Entries=entries)
        self.assertEqual([one["Id"] for one in answer["Successful"]], ["0", "1"])
        failed = {(one["Id"], one["Code"]) for one in answer["Failed"]}
        self.assertEqual(failed, {("2", "RequestThrottled"), ("3", "RequestThrottled")})
        self.refused("RequestThrottled", "send_message", QueueUrl=url, MessageBody="x")
        self.rate_clock.advance(0.4)
        self.sqs.send_message(QueueUrl=url, MessageBody="x")
